//! Objects as rows of JSON, loaded whole.

use rusqlite::types::{FromSql, ToSql};
use rusqlite::{OptionalExtension as _, params};

use super::{JournalError, Result, Tx};
use crate::certificate::Certificate;
use crate::clock::Millis;
use crate::message::Message;
use crate::objects::{Object, ObjectKind, Objects};

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
            let what = format!("{kind} {name}");
            let kind = kind
                .parse::<ObjectKind>()
                .map_err(|why| JournalError::Unknown { object: what.clone(), why })?;
            objects.put(match kind {
                ObjectKind::Account => Object::Account(read(&what, &json)?),
                ObjectKind::Station => Object::Station(read(&what, &json)?),
                ObjectKind::Partner => Object::Partner(read(&what, &json)?),
                ObjectKind::Certificate => Object::Certificate(Box::new(Certificate {
                    der: row.get(3)?,
                    sealed_key: row.get(4)?,
                    ..read(&what, &json)?
                })),
                ObjectKind::User => Object::User(read(&what, &json)?),
            });
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
    pub(crate) fn objects_version(&self) -> Result<i64> {
        Ok(self.number_fact("objects.version")?.unwrap_or(0))
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

    /// Whoever accepts a message looked at the objects before. Once its station or partner is removed it would wait, and go to
    /// whoever gets the name next.
    ///
    /// # Errors
    /// `Conflict` if one of them is not there any more.
    pub(super) fn expect_pair(&self, message: &Message) -> Result<()> {
        let mut query = self.db.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM object WHERE kind = 'station' AND account = ?1 AND name = ?2)
                AND EXISTS (SELECT 1 FROM object WHERE kind = 'partner' AND account = ?1 AND name = ?3)",
        )?;
        if query.query_row([&message.account, &message.station, &message.partner], |row| row.get(0))? {
            return Ok(());
        }
        let (station, partner) = (&message.station, &message.partner);
        Err(JournalError::Conflict(format!(
            "station {station} or partner {partner} was removed"
        )))
    }

    /// Writes an object, a certificate with its bytes and sealed key. A new station takes nothing over from one of another account
    /// that had its id: the Message-IDs which that received say nothing here, and their MDNs are not for its partners.
    ///
    /// # Errors
    /// A conflict if the name is taken: that of a station or user is unique on the server, a user's whatever its case.
    pub fn put_object(&self, object: &Object, now: Millis) -> Result<()> {
        let (kind, account, name) = (object.kind(), object.account(), object.name());
        let (der, sealed) = match object {
            Object::Certificate(certificate) => (Some(certificate.der.as_slice()), certificate.sealed_key.as_deref()),
            _ => (None, None),
        };
        if kind == ObjectKind::Station {
            self.db.execute(
                "DELETE FROM inbound WHERE station = ?1 AND NOT EXISTS (SELECT 1 FROM object WHERE kind = 'station' AND name = ?1)
                 AND message IN (SELECT id FROM message WHERE station = ?1 AND account <> ?2)",
                [name, account],
            )?;
        }
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

    /// The same, of a number; none if it is no number.
    pub(crate) fn number_fact(&self, key: &str) -> Result<Option<i64>> {
        Ok(self.fact(key)?.and_then(|text| text.parse().ok()))
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
