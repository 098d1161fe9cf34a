//! Objects as rows of JSON, loaded whole.

use rusqlite::types::{FromSql, ToSql};
use rusqlite::{OptionalExtension as _, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{JournalError, Result, Tx};
use crate::account::Account;
use crate::certificate::Certificate;
use crate::clock::Millis;
use crate::objects::{ObjectKind, Objects};
use crate::partner::Partner;
use crate::station::Station;
use crate::user::User;

/// An object's fields; the error names the one that is not known, without the list of all that are.
fn read<T: serde::de::DeserializeOwned>(object: &str, json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| {
        let text = error.to_string();
        let why = text.split_once(", expected").map_or(text.as_str(), |(unknown, _)| unknown);
        if error.is_data() {
            JournalError::Unknown {
                object: object.to_owned(),
                why: why.to_owned(),
            }
        } else {
            JournalError::Corrupt(format!("{object}: {why}"))
        }
    })
}

impl Tx<'_> {
    /// Loads every object.
    ///
    /// # Errors
    /// The database's, or an unreadable row.
    pub fn objects(&self) -> Result<Objects> {
        let mut objects = Objects {
            version: self.objects_version()?,
            ..Objects::default()
        };
        let mut rows = self.db.prepare_cached("SELECT kind, name, json, der, sealed FROM object")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let (kind, name, json): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let object = format!("{kind} {name}");
            let kind = kind.parse::<ObjectKind>();
            match kind.map_err(|why| JournalError::Unknown {
                object: object.clone(),
                why,
            })? {
                ObjectKind::Account => {
                    let account: Account = read(&object, &json)?;
                    objects.accounts.insert(account.id.clone(), account);
                }
                ObjectKind::Station => {
                    let station: Station = read(&object, &json)?;
                    objects.stations.insert(station.as2_id.clone(), station);
                }
                ObjectKind::Partner => {
                    let partner: Partner = read(&object, &json)?;
                    objects.partners.insert((partner.account.clone(), partner.as2_id.clone()), partner);
                }
                ObjectKind::Certificate => {
                    let mut certificate: Certificate = read(&object, &json)?;
                    certificate.der = row.get(3)?;
                    certificate.sealed_key = row.get(4)?;
                    objects
                        .certificates
                        .insert((certificate.account.clone(), certificate.name.clone()), certificate);
                }
                ObjectKind::User => {
                    let user: User = read(&object, &json)?;
                    objects.users.insert(user.name.to_ascii_lowercase(), user);
                }
            }
        }
        Ok(objects)
    }

    /// When an object was changed last; 0 if there is none.
    ///
    /// # Errors
    /// The database's.
    pub fn objects_changed_at(&self) -> Result<Millis> {
        Ok(self
            .db
            .query_row("SELECT coalesce(max(changed), 0) FROM object", [], |row| row.get(0))?)
    }

    /// The counter that every change of an object raises.
    pub(super) fn objects_version(&self) -> Result<i64> {
        Ok(self.fact("objects.version")?.and_then(|value| value.parse().ok()).unwrap_or(0))
    }

    /// Whether messages or files of an account are kept, which need not be there any more.
    ///
    /// # Errors
    /// The database's.
    pub fn has_records(&self, account: &str) -> Result<bool> {
        Ok(self.db.query_row(
            "SELECT EXISTS (SELECT 1 FROM entry WHERE account = ?1) OR EXISTS (SELECT 1 FROM message WHERE account = ?1)
                 OR EXISTS (SELECT 1 FROM upload WHERE account = ?1)",
            [account],
            |row| row.get(0),
        )?)
    }

    /// Writes an account.
    ///
    /// # Errors
    /// The database's.
    pub fn put_account(&self, account: &Account, now: Millis) -> Result<()> {
        self.put(ObjectKind::Account, &account.id, &account.id, account, (None, None), now)
    }

    /// Writes a station; its AS2 id is unique on the server. A new one takes nothing over from one of another account that had
    /// the id: the Message-IDs which that received say nothing here, and their MDNs are not for its partners.
    ///
    /// # Errors
    /// A conflict if another account has that id.
    pub fn put_station(&self, station: &Station, now: Millis) -> Result<()> {
        self.db.execute(
            "DELETE FROM inbound WHERE station = ?1 AND NOT EXISTS (SELECT 1 FROM object WHERE kind = 'station' AND name = ?1)
             AND message IN (SELECT id FROM message WHERE station = ?1 AND account <> ?2)",
            [&station.as2_id, &station.account],
        )?;
        self.put(ObjectKind::Station, &station.account, &station.as2_id, station, (None, None), now)
    }

    /// Writes a partner.
    ///
    /// # Errors
    /// The database's.
    pub fn put_partner(&self, partner: &Partner, now: Millis) -> Result<()> {
        self.put(ObjectKind::Partner, &partner.account, &partner.as2_id, partner, (None, None), now)
    }

    /// Writes a certificate with its bytes and sealed key.
    ///
    /// # Errors
    /// The database's.
    pub fn put_certificate(&self, certificate: &Certificate, now: Millis) -> Result<()> {
        let blobs = (Some(certificate.der.as_slice()), certificate.sealed_key.as_deref());
        self.put(
            ObjectKind::Certificate,
            &certificate.account,
            &certificate.name,
            certificate,
            blobs,
            now,
        )
    }

    /// Writes a user; the name is unique on the server, whatever its case.
    ///
    /// # Errors
    /// A conflict if the name is taken.
    pub fn put_user(&self, user: &User, now: Millis) -> Result<()> {
        self.put(ObjectKind::User, &user.account, &user.name, user, (None, None), now)
    }

    fn put<T: Serialize + DeserializeOwned>(
        &self,
        kind: ObjectKind,
        account: &str,
        name: &str,
        object: &T,
        (der, sealed): (Option<&[u8]>, Option<&[u8]>),
        now: Millis,
    ) -> Result<()> {
        let json = serde_json::to_string(object)?;
        let done = self.db.execute(
            "INSERT INTO object (kind, account, name, json, der, sealed, changed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (kind, account, name) DO UPDATE SET json = ?4, der = ?5, sealed = ?6, changed = ?7",
            params![kind.as_str(), account, name, json, der, sealed, now],
        );
        match done {
            Ok(_) => self.raise_version(),
            Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == rusqlite::ErrorCode::ConstraintViolation => {
                Err(JournalError::Conflict(format!("{kind} {name} exists already on this server")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an object; false if there was none.
    ///
    /// # Errors
    /// The database's.
    pub fn remove_object(&self, kind: ObjectKind, account: &str, name: &str) -> Result<bool> {
        let gone = self.db.execute(
            "DELETE FROM object WHERE kind = ?1 AND account = ?2 AND name = ?3",
            params![kind.as_str(), account, name],
        )?;
        self.raise_version()?;
        Ok(gone > 0)
    }

    fn raise_version(&self) -> Result<()> {
        let next = self.objects_version()?.wrapping_add(1);
        self.set_fact("objects.version", &next.to_string())
    }

    /// A single remembered value.
    ///
    /// # Errors
    /// The database's.
    pub fn fact(&self, key: &str) -> Result<Option<String>> {
        self.fact_of(key)
    }

    /// The same, of any type.
    pub(super) fn fact_of<T: FromSql>(&self, key: &str) -> Result<Option<T>> {
        let mut query = self.db.prepare_cached("SELECT value FROM fact WHERE key = ?1")?;
        Ok(query.query_row([key], |row| row.get(0)).optional()?)
    }

    /// Remembers a single value.
    ///
    /// # Errors
    /// The database's.
    pub fn set_fact(&self, key: &str, value: &str) -> Result<()> {
        self.set_fact_of(key, &value)
    }

    /// The same, of any type.
    pub(super) fn set_fact_of(&self, key: &str, value: &dyn ToSql) -> Result<()> {
        let mut change = self
            .db
            .prepare_cached("INSERT INTO fact (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2")?;
        change.execute(params![key, value])?;
        Ok(())
    }
}
