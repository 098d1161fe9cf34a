//! Events: what each decision leaves behind, chained by hashes so that a rewritten table can be told.

use openssl::sha::Sha256;
use rusqlite::{OptionalExtension as _, params};

use super::{Result, Tx};
use crate::clock::Millis;
use crate::event::{Event, NewEvent};

/// An unbroken chain of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// How many.
    pub events: u64,
    /// When the first of them was; earlier ones were forgotten, or there were none.
    pub since: Option<Millis>,
    /// SHA-256 of the last one, which stands for all before it; empty without any.
    pub head: Vec<u8>,
}

impl Tx<'_> {
    /// Adds an event to the chain.
    ///
    /// # Errors
    /// The database's.
    pub fn record(&self, event: &NewEvent<'_>, at: Millis) -> Result<()> {
        let facts = event.all_facts();
        let hash = link(&self.last_hash()?, at, event.account, event.kind, event.subject, &facts);
        let mut insert = self
            .db
            .prepare_cached("INSERT INTO event (at, account, kind, subject, facts, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        insert.execute(params![at, event.account, event.kind, event.subject, facts, hash.as_slice()])?;
        Ok(())
    }

    /// The hash of the last event, which stands for all before it; empty without any.
    ///
    /// # Errors
    /// The database's.
    pub fn last_hash(&self) -> Result<Vec<u8>> {
        let mut query = self.db.prepare_cached("SELECT hash FROM event ORDER BY seq DESC LIMIT 1")?;
        Ok(query.query_row([], |row| row.get(0)).optional()?.unwrap_or_default())
    }

    /// Events after a number, oldest first, of one subject or kind prefix if given.
    ///
    /// # Errors
    /// The database's.
    pub fn events(&self, after: i64, subject: Option<&str>, kind: Option<&str>, limit: u32) -> Result<Vec<Event>> {
        let sql = "SELECT seq, at, account, kind, subject, facts FROM event
             WHERE seq > ?1 AND (?2 IS NULL OR subject = ?2) AND (?3 IS NULL OR kind LIKE ?3 || '%')
             ORDER BY seq LIMIT ?4";
        self.all(sql, params![after, subject, kind, limit], |row| {
            let facts: String = row.get(5)?;
            Ok(Event {
                seq: row.get(0)?,
                at: row.get(1)?,
                account: row.get(2)?,
                kind: row.get(3)?,
                subject: row.get(4)?,
                facts: serde_json::from_str(&facts).unwrap_or_default(),
            })
        })
    }

    /// The number of the last event before a moment, found by halving: they are in the order of time.
    ///
    /// # Errors
    /// The database's.
    pub fn events_before(&self, at: Millis) -> Result<i64> {
        let mut next = self
            .db
            .prepare_cached("SELECT seq, at FROM event WHERE seq > ?1 ORDER BY seq LIMIT 1")?;
        let last = self
            .db
            .query_row("SELECT max(seq) FROM event", [], |row| row.get::<_, Option<i64>>(0))?;
        // All up to `low` are before it, and what follows `high` is not.
        let (mut low, mut high) = (0, last.unwrap_or(0));
        while low < high {
            let middle = low + (high - low) / 2;
            let found: (i64, Millis) = next.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?)))?;
            if found.1 < at {
                low = found.0;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Walks the chain and shows each hash on the way, that of the last forgotten event first; what it came to, or the first
    /// event whose hash does not fit.
    ///
    /// # Errors
    /// The database's.
    pub fn verify_events(&self, mut each: impl FnMut(&[u8])) -> Result<std::result::Result<Chain, i64>> {
        let mut query = self
            .db
            .prepare("SELECT seq, at, account, kind, subject, facts, hash FROM event ORDER BY seq")?;
        let mut rows = query.query([])?;
        let mut last = self.chain_start()?;
        if !last.is_empty() {
            each(&last);
        }
        let mut since = None;
        let mut events = 0u64;
        while let Some(row) = rows.next()? {
            let (account, kind): (String, String) = (row.get(2)?, row.get(3)?);
            let (subject, facts): (String, String) = (row.get(4)?, row.get(5)?);
            let hash: Vec<u8> = row.get(6)?;
            if link(&last, row.get(1)?, &account, &kind, &subject, &facts).as_slice() != hash {
                return Ok(Err(row.get(0)?));
            }
            each(&hash);
            last = hash;
            since = since.or(Some(row.get(1)?));
            events += 1;
        }
        Ok(Ok(Chain { events, since, head: last }))
    }
}

fn link(last: &[u8], at: Millis, account: &str, kind: &str, subject: &str, facts: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(last);
    hash.update(&at.to_be_bytes());
    for field in [account, kind, subject, facts] {
        hash.update(&u64::try_from(field.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(field.as_bytes());
    }
    hash.finish()
}
