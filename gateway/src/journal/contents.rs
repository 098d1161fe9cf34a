//! Small contents that live in the journal, and store keys: what a row calls the place of its bytes.

use bytes::Bytes;
use rusqlite::{OptionalExtension as _, params};

use super::{Result, Tx};

/// Small contents under their key.
pub type Blob = (String, Bytes);

/// Small contents of their own in the table `blob`, and those that other rows hold.
const BLOB: &str = "j:";
const HEAD: &str = "h:";
const MDN: &str = "m:";
/// In a file of the store, and not in the journal.
const FILE: &str = "f:";

/// The store key of small contents of this name, in a row of their own.
#[must_use]
pub fn blob_key(name: &str) -> String {
    format!("{BLOB}{name}")
}

/// The store key of a file of the store.
#[must_use]
pub fn file_key(name: &str) -> String {
    format!("{FILE}{name}")
}

/// The file of the store that a key names, if it names one.
#[must_use]
pub fn file_name(key: &str) -> Option<&str> {
    key.strip_prefix(FILE)
}

/// The store key of a header block that the message's own row holds.
#[must_use]
pub fn head_key(message: &str) -> String {
    format!("{HEAD}{message}")
}

/// The store key of the MDN that is bound to the Message-ID of a filed message.
#[must_use]
pub fn mdn_key(message: &str) -> String {
    format!("{MDN}{message}")
}

/// An MDN as its file shows it: header block, blank line, body.
#[must_use]
pub fn mdn_file(headers: &str, body: &[u8]) -> Vec<u8> {
    [headers.as_bytes(), b"\r\n", body].concat()
}

/// Whether a row names the store key ?1.
pub(super) const NAMED: &str =
    "EXISTS (SELECT 1 FROM entry WHERE store = ?1 AND store <> '') OR EXISTS (SELECT 1 FROM upload WHERE store = ?1)
    OR EXISTS (SELECT 1 FROM message WHERE finished IS NULL AND detail ->> '$.payload' = ?1)
    OR EXISTS (SELECT 1 FROM message WHERE finished IS NULL AND detail ->> '$.raw' = ?1)";

impl Tx<'_> {
    /// Keeps small contents in the journal itself, durable with this transaction. What another row of it holds is kept once.
    ///
    /// # Errors
    /// The database's.
    pub fn put_blob(&self, key: &str, bytes: &Bytes) -> Result<()> {
        if key.starts_with(BLOB) {
            self.db
                .prepare_cached("INSERT INTO blob (key, bytes) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
                .execute(params![key, bytes.as_ref()])?;
        }
        self.recent.put(key, bytes);
        Ok(())
    }

    /// Small contents by key.
    ///
    /// # Errors
    /// The database's.
    pub fn blob(&self, key: &str) -> Result<Option<Bytes>> {
        if let Some(bytes) = self.recent.get(key) {
            return Ok(Some(bytes));
        }
        if let Some(id) = key.strip_prefix(HEAD) {
            return Ok(self.message(id)?.map(|message| message.detail.head().into()));
        }
        if let Some(id) = key.strip_prefix(MDN) {
            let stored = self.message(id)?.map(|message| self.stored_mdn(&message)).transpose()?.flatten();
            return Ok(stored.map(|(headers, body)| mdn_file(&headers, &body).into()));
        }
        let mut query = self.db.prepare_cached("SELECT bytes FROM blob WHERE key = ?1")?;
        let stored: Option<Vec<u8>> = query.query_row([key], |row| row.get(0)).optional()?;
        Ok(stored.map(Bytes::from))
    }

    /// Forgets small contents.
    ///
    /// # Errors
    /// The database's.
    pub fn drop_blob(&self, key: &str) -> Result<()> {
        self.db.prepare_cached("DELETE FROM blob WHERE key = ?1")?.execute([key])?;
        self.recent.forget(key);
        Ok(())
    }

    /// Forgets small contents that no row names any more.
    ///
    /// # Errors
    /// The database's.
    pub fn drop_unnamed_blob(&self, key: &str) -> Result<()> {
        if key.starts_with(HEAD) || key.starts_with(MDN) {
            self.recent.forget(key);
        }
        if key.starts_with(BLOB) {
            let sql = format!("DELETE FROM blob WHERE key = ?1 AND NOT ({NAMED})");
            if self.db.prepare_cached(&sql)?.execute([key])? > 0 {
                self.recent.forget(key);
            }
        }
        Ok(())
    }

    /// Small contents that no row names: left behind by a kill between two transactions.
    ///
    /// # Errors
    /// The database's.
    pub fn unnamed_blobs(&self) -> Result<Vec<String>> {
        let mut query = self.db.prepare("SELECT key FROM blob")?;
        let keys = query.query_map([], |row| row.get::<_, String>(0))?;
        let mut unnamed = Vec::new();
        for key in keys {
            let key = key?;
            if !self.names_store_key(&key)? {
                unnamed.push(key);
            }
        }
        Ok(unnamed)
    }

    /// Of these store keys, those that no row names; small contents among them are gone with this.
    ///
    /// # Errors
    /// The database's.
    pub fn forget_unnamed(&self, keys: Vec<String>) -> Result<Vec<String>> {
        let mut unnamed = Vec::new();
        for key in keys {
            if !key.is_empty() && !self.names_store_key(&key)? {
                self.drop_blob(&key)?;
                unnamed.push(key);
            }
        }
        Ok(unnamed)
    }

    /// Whether a row names this store key: what a sweep must not touch.
    ///
    /// # Errors
    /// The database's.
    pub fn names_store_key(&self, key: &str) -> Result<bool> {
        let mut query = self.db.prepare_cached(&format!("SELECT {NAMED}"))?;
        Ok(query.query_row([key], |row| row.get(0))?)
    }
}
