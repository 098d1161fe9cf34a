//! What is known of a message after its files are gone, and how long (durability.md §9.3, "rows").

use as2_core::message_id::bare;
use rusqlite::{OptionalExtension as _, params};

use super::lifecycle::held;
use super::{JournalError, Result, Tx};
use crate::clock::Millis;

/// The hash of the last event that was forgotten; the chain begins behind it.
const FACT_CHAIN_START: &str = "events.start";

/// A message that ended up to ?2, of the account ?1 (with `''` of none that is there), that keeps no file, owes no MDN and is
/// not under legal hold.
const FORGETTABLE: &str = concat!(
    "finished <= ?2
     AND (account = ?1 OR (?1 = '' AND account NOT IN (SELECT name FROM object WHERE kind = 'account')))
     AND NOT EXISTS (SELECT 1 FROM entry WHERE entry.message = message.id)
     AND NOT EXISTS (SELECT 1 FROM job WHERE kind = 'mdn' AND job.message = message.id)
     AND NOT ",
    held!()
);

/// At most ?3 of them, the oldest first.
pub(super) fn forgettable_sql() -> String {
    format!("SELECT id, station, partner, bare_id FROM message WHERE {FORGETTABLE} ORDER BY finished LIMIT ?3")
}

/// The rejected messages of the pair ?1, ?2 behind its newest ?3, or behind those that have ?4 bytes, the oldest first and at most
/// ?5; the newest of all is none of them, nor one under legal hold or whose MDN is just being posted. What the partner's own
/// signature proves counts apart: nobody else's takes its place.
pub(super) const REJECTED_OVER: &str = concat!(
    "SELECT id FROM (
             SELECT id, row_number() OVER newest AS place, sum(detail ->> '$.raw_size') OVER newest AS bytes
             FROM message WHERE station = ?1 AND partner = ?2 AND direction = 'in' AND state IN ('rejected', 'quarantined')
             WINDOW newest AS (PARTITION BY coalesce(detail ->> '$.signed', '') <> '' ORDER BY id DESC)) AS kept
         WHERE place > 1 AND (place > ?3 OR bytes > ?4)
           AND NOT EXISTS (SELECT 1 FROM message WHERE message.id = kept.id AND ",
    held!(),
    ")
           AND NOT EXISTS (SELECT 1 FROM job WHERE job.kind = 'mdn' AND job.message = kept.id AND lease_owner IS NOT NULL)
         ORDER BY id LIMIT ?5"
);

/// What was taken from the front of the chain of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trimmed {
    /// How many.
    pub events: u64,
    /// The number of the last of them.
    pub through: i64,
    /// Its hash, which the first one that stays goes on from.
    pub head: Vec<u8>,
}

impl Tx<'_> {
    /// How many messages of an account a sweep would forget, and how many there are.
    ///
    /// # Errors
    /// The database's.
    pub fn count_history(&self, account: &str, ended_before: Millis) -> Result<(u64, u64)> {
        let due = self
            .db
            .prepare_cached(&format!("SELECT count(*) FROM message WHERE {FORGETTABLE}"))?
            .query_row(params![account, ended_before], |row| row.get(0))?;
        let all = self
            .db
            .prepare_cached("SELECT count(*) FROM message WHERE account = ?1")?
            .query_row([account], |row| row.get(0))?;
        Ok((due, all))
    }

    /// Forgets messages that ended up to a time, with the Message-IDs that they bind; how many. A repeat of such a Message-ID
    /// is a new message.
    ///
    /// # Errors
    /// The database's.
    pub fn forget_messages(&self, account: &str, ended_before: Millis, limit: u32) -> Result<usize> {
        let messages = self.all(&forgettable_sql(), params![account, ended_before, limit], |row| {
            Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, String>(3)?])
        })?;
        for message in &messages {
            self.forget_message(message)?;
        }
        Ok(messages.len())
    }

    fn forget_message(&self, [id, station, partner, bare_id]: &[String; 4]) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM inbound WHERE station = ?2 AND partner = ?3 AND bare_id = ?4 AND message = ?1")?
            .execute([id, station, partner, bare_id])?;
        self.db.prepare_cached("DELETE FROM message WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    /// The rejected messages of a pair that are too many, the oldest first: what is behind the newest ones up to this number and
    /// these bytes. The newest is never too many.
    ///
    /// # Errors
    /// The database's.
    pub fn rejected_over(&self, station: &str, partner: &str, messages: u32, bytes: u64, limit: u32) -> Result<Vec<String>> {
        self.all(REJECTED_OVER, params![station, partner, messages, bytes, limit], |row| {
            Ok(row.get(0)?)
        })
    }

    /// Forgets a rejected message whose published bytes are gone already, with all that names it; the store keys of the others.
    /// An MDN of it that could not be posted yet is given up.
    ///
    /// # Errors
    /// `Conflict` while its MDN is being posted.
    pub fn forget_rejected(&self, id: &str) -> Result<Vec<String>> {
        let message = self.expect_message(id)?;
        let ended = self
            .db
            .prepare_cached("DELETE FROM job WHERE kind = 'mdn' AND message = ?1 RETURNING lease_owner IS NOT NULL")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        if ended == Some(true) {
            return Err(JournalError::Conflict("its MDN is being posted".to_owned()));
        }
        let keys = self.entries_of(id)?.into_iter().map(|entry| entry.store).collect();
        self.db.prepare_cached("DELETE FROM entry WHERE message = ?1")?.execute([id])?;
        let bare_id = bare(&message.message_id).to_owned();
        self.forget_message(&[message.id.as_str().to_owned(), message.station, message.partner, bare_id])?;
        Ok(keys)
    }

    /// When the oldest message that is known was made; its events stay with it.
    ///
    /// # Errors
    /// The database's.
    pub fn oldest_message(&self) -> Result<Option<Millis>> {
        // Ids begin with their time.
        let mut query = self.db.prepare_cached("SELECT created FROM message ORDER BY id LIMIT 1")?;
        Ok(query.query_row([], |row| row.get(0)).optional()?)
    }

    /// Takes at most `limit` events up to a number off the front of the chain, and remembers what the rest goes on from.
    /// The last event always stays.
    ///
    /// # Errors
    /// The database's.
    pub fn trim_events(&self, through: i64, limit: u32) -> Result<Option<Trimmed>> {
        let mut query = self.db.prepare_cached(
            "SELECT count(*), max(seq) FROM (SELECT seq FROM event WHERE seq <= ?1 AND seq < (SELECT max(seq) FROM event)
             ORDER BY seq LIMIT ?2)",
        )?;
        let (events, last): (u64, Option<i64>) = query.query_row(params![through, limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let Some(through) = last else { return Ok(None) };
        let head: Vec<u8> = self
            .db
            .query_row("SELECT hash FROM event WHERE seq = ?1", [through], |row| row.get(0))?;
        self.set_fact_of(FACT_CHAIN_START, &head)?;
        self.db.execute("DELETE FROM event WHERE seq <= ?1", [through])?;
        Ok(Some(Trimmed { events, through, head }))
    }

    /// What the first event goes on from: the hash of the last one that was forgotten, or nothing.
    ///
    /// # Errors
    /// The database's.
    pub fn chain_start(&self) -> Result<Vec<u8>> {
        Ok(self.fact_of(FACT_CHAIN_START)?.unwrap_or_default())
    }
}
