//! Message rows: reading them, and the two writes that every flow uses.

use std::collections::HashMap;

use as2_core::message_id::bare;
use rusqlite::{OptionalExtension as _, Params, Row, params};

use super::{JournalError, Result, Tx, read_word};
use crate::clock::{Millis, compact};
use crate::layout;
use crate::message::{Direction, Id, Message, State};

/// Which messages to list; newest first.
#[derive(Clone, Debug, Default)]
pub struct MessageFilter {
    /// Only of this account.
    pub account: Option<String>,
    /// Only this way.
    pub direction: Option<Direction>,
    /// Only in this state.
    pub state: Option<State>,
    /// Only of this station.
    pub station: Option<String>,
    /// Only of this partner.
    pub partner: Option<String>,
    /// Only with this file name, in either spelling of its accents; a `*` in it stands for anything.
    pub file: Option<String>,
    /// Only with this Message-ID, with its angle brackets or without.
    pub message_id: Option<String>,
    /// Only created at or after.
    pub since: Option<Millis>,
    /// Only ids before this one: the cursor of a page.
    pub before: Option<String>,
    /// At most so many; 0 means 100.
    pub limit: u32,
}

/// What is not at its end of something that is to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InWork {
    /// How many messages.
    pub count: u64,
    /// The oldest of them.
    pub first: Vec<Id>,
}

/// Messages that [`InWork`] names.
const NAMED: u32 = 5;

const COLUMNS: &str = "id, account, direction, station, partner, message_id, state, code, reason, file, size, sha256, \
                       content_type, subject, created, updated, finished, attempts, next_try, detail";

impl Tx<'_> {
    /// One message.
    ///
    /// # Errors
    /// The database's.
    pub fn message(&self, id: &str) -> Result<Option<Message>> {
        let sql = format!("SELECT {COLUMNS} FROM message WHERE id = ?1");
        let mut query = self.db.prepare_cached(&sql)?;
        let raw = query.query_row([id], |row| Ok(read_message(row))).optional()?;
        raw.transpose()
    }

    /// One message that has to be there.
    ///
    /// # Errors
    /// `NotFound` if it is not.
    pub fn expect_message(&self, id: &str) -> Result<Message> {
        self.message(id)?.ok_or_else(|| JournalError::NotFound(format!("no message {id}")))
    }

    /// The messages that a person may mean, of one account or of all: by `<id>`, its nine digits, or the Message-ID; the newest of
    /// them, newest first.
    ///
    /// # Errors
    /// The database's.
    pub fn messages_named(&self, account: Option<&str>, text: &str) -> Result<Vec<Message>> {
        /// More than anybody would read through.
        const MOST: u32 = 6;
        if let Some(message) = self.message(text)? {
            let is_meant = account.is_none_or(|account| message.account == account);
            return Ok(is_meant.then_some(message).into_iter().collect());
        }
        let digits = text.len() == 9 && text.bytes().all(|b| b.is_ascii_digit());
        // The last digits have no index: only who gives them waits until all ids are read.
        let or_digits = if digits { "OR id LIKE '%-' || ?1" } else { "" };
        let sql = format!(
            "SELECT {COLUMNS} FROM message WHERE ((bare_id = ?1 AND bare_id <> '') {or_digits}) AND (?2 IS NULL OR account = ?2)
             ORDER BY id DESC LIMIT {MOST}"
        );
        self.all(&sql, params![bare(text), account], read_message)
    }

    /// Which messages were sent anew, of those from `oldest` on, and as which: the last one, if it was several times.
    ///
    /// # Errors
    /// The database's.
    pub fn sent_anew_since(&self, oldest: &str) -> Result<HashMap<String, String>> {
        // What was sent anew was written after its former one, whatever the clock said, which ids follow. The sign has the index of
        // ids searched, not the table from its first row.
        let sql = "SELECT detail ->> '$.previous', id FROM message
             WHERE rowid > (SELECT min(+rowid) FROM message WHERE id >= ?1)
               AND direction = 'out' AND state <> 'duplicate' AND detail ->> '$.previous' <> '' ORDER BY rowid";
        let pairs = self.all(sql, [oldest], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(pairs.into_iter().collect())
    }

    /// Messages, newest first.
    ///
    /// # Errors
    /// The database's.
    pub fn messages(&self, filter: &MessageFilter) -> Result<Vec<Message>> {
        // Only a query that wants none without a Message-ID goes by its index.
        let named = match filter.message_id {
            Some(_) => "bare_id = ?6 AND bare_id <> ''",
            None => "?6 IS NULL",
        };
        // An id begins with its time, so that the index of ids ends where the span does.
        let first = filter.since.map(compact).unwrap_or_default();
        let before = filter.before.as_deref().unwrap_or("~");
        let sql = format!(
            "SELECT {COLUMNS} FROM message WHERE (?1 IS NULL OR account = ?1) AND (?2 IS NULL OR direction = ?2)
             AND (?3 IS NULL OR state = ?3) AND (?4 IS NULL OR station = ?4) AND (?5 IS NULL OR partner = ?5)
             AND {named} AND id >= ?7 AND id < ?8
             ORDER BY id DESC"
        );
        let mut query = self.db.prepare_cached(&sql)?;
        let mut rows = query.query(params![
            filter.account,
            filter.direction.map(Direction::as_str),
            filter.state.map(State::as_str),
            filter.station,
            filter.partner,
            filter.message_id.as_deref().map(bare),
            first,
            before,
        ])?;
        let limit = if filter.limit == 0 { 100 } else { filter.limit as usize };
        // SQLite does not know how names are compared.
        let file = filter.file.as_deref().map(layout::name_key);
        let mut found = Vec::new();
        while found.len() < limit
            && let Some(row) = rows.next()?
        {
            let is_meant = match &file {
                Some(wanted) => is_named(&row.get::<_, String>("file")?, wanted),
                None => true,
            };
            if is_meant {
                found.push(read_message(row)?);
            }
        }
        Ok(found)
    }

    /// How many messages stand in each state, for `status`.
    ///
    /// # Errors
    /// The database's.
    pub fn count_states(&self, since: Millis) -> Result<Vec<(State, u64)>> {
        let sql = "SELECT state, count(*) FROM message WHERE finished IS NULL GROUP BY state
             UNION ALL SELECT state, count(*) FROM message WHERE finished >= ?1 AND code NOT IN ('renamed', 'cancelled')
             GROUP BY state";
        self.all(sql, [since], |row| Ok((read_word(row, 0)?, row.get(1)?)))
    }

    /// When the oldest message that is queued was accepted.
    ///
    /// # Errors
    /// The database's.
    pub fn oldest_queued(&self) -> Result<Option<Millis>> {
        // By name: walking the table from its front would pass all that ever ended.
        let sql = "SELECT created FROM message INDEXED BY message_open WHERE finished IS NULL AND state = 'queued' ORDER BY rowid LIMIT 1";
        Ok(self.db.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?)
    }

    /// What of an account, or of a station or partner in it, is not at its end: what is sent or not checked yet, and what was
    /// received and is owed its async MDN.
    ///
    /// # Errors
    /// The database's.
    pub fn in_work(&self, account: &str, station: Option<&str>, partner: Option<&str>) -> Result<InWork> {
        const WHOSE: &str = "account = ?1 AND (?2 IS NULL OR station = ?2) AND (?3 IS NULL OR partner = ?3)";
        let which = format!(
            "SELECT id FROM message WHERE finished IS NULL AND {WHOSE}
             UNION SELECT id FROM message WHERE id IN (SELECT message FROM job WHERE kind = 'mdn') AND {WHOSE}"
        );
        self.first_of(&which, params![account, station, partner])
    }

    /// What a station received that is not checked yet.
    ///
    /// # Errors
    /// The database's.
    pub fn unchecked(&self, account: &str, station: &str) -> Result<InWork> {
        let which = "SELECT id FROM message WHERE finished IS NULL AND state = 'received' AND account = ?1 AND station = ?2";
        self.first_of(which, [account, station])
    }

    fn first_of(&self, which: &str, params: impl Params) -> Result<InWork> {
        let sql = format!("SELECT id, count(*) OVER () FROM ({which}) ORDER BY id LIMIT {NAMED}");
        let rows = self.all(&sql, params, |row| Ok((Id::stored(row.get(0)?), row.get(1)?)))?;
        Ok(InWork {
            count: rows.first().map_or(0, |(_, count)| *count),
            first: rows.into_iter().map(|(id, _)| id).collect(),
        })
    }

    /// What is sent to a partner by itself, now or later.
    ///
    /// # Errors
    /// The database's.
    pub fn on_its_way(&self, account: &str, partner: &str) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT id FROM message WHERE finished IS NULL AND account = ?1 AND partner = ?2 AND state IN ({}) ORDER BY id",
            state_list(&State::WORKED_ON)
        );
        self.all(&sql, [account, partner], |row| Ok(row.get(0)?))
    }

    /// The sent message that an async MDN names.
    ///
    /// # Errors
    /// The database's.
    pub fn sent_by_message_id(&self, bare_id: &str) -> Result<Vec<Message>> {
        // The index holds no empty ones, and SQLite uses it only where the query says that it wants none.
        let sql = format!("SELECT {COLUMNS} FROM message WHERE bare_id = ?1 AND bare_id <> '' AND direction = 'out' ORDER BY id LIMIT 3");
        self.all(&sql, [bare_id], read_message)
    }

    /// Adds a row.
    pub(super) fn insert_message(&self, m: &Message) -> Result<()> {
        let mut insert = self.db.prepare_cached(
            "INSERT INTO message (id, account, direction, station, partner, message_id, bare_id, state, code, reason, file,
                size, sha256, content_type, subject, created, updated, finished, attempts, next_try, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",
        )?;
        insert.execute(params![
            m.id.as_str(),
            m.account,
            m.direction.as_str(),
            m.station,
            m.partner,
            m.message_id,
            bare(&m.message_id),
            m.state.as_str(),
            m.code,
            m.reason,
            m.file,
            m.size,
            m.sha256,
            m.content_type,
            m.subject,
            m.created,
            m.updated,
            m.finished,
            m.attempts,
            m.next_try,
            serde_json::to_string(&m.detail)?,
        ])?;
        Ok(())
    }

    /// Writes a row back, if it still stands in one of the expected states (R3).
    pub(super) fn update_message(&self, m: &Message, expected: &[State]) -> Result<()> {
        let changed = self.db.prepare_cached(&update_sql(expected))?.execute(params![
            m.id.as_str(),
            m.message_id,
            bare(&m.message_id),
            m.state.as_str(),
            m.code,
            m.reason,
            m.file,
            m.size,
            m.sha256,
            m.content_type,
            m.subject,
            m.updated,
            m.finished,
            m.attempts,
            m.next_try,
            serde_json::to_string(&m.detail)?,
        ])?;
        if changed == 0 {
            return Err(JournalError::Conflict(format!("message {} was moved by somebody else", m.id)));
        }
        Ok(())
    }
}

/// Changes the row of a message that is in one of these states. Of an `IN` with more than two of them SQLite would make a table, each
/// time.
pub(super) fn update_sql(expected: &[State]) -> String {
    let expected: String = expected.iter().map(|state| format!(" WHEN '{state}' THEN 1")).collect();
    format!(
        "UPDATE message SET message_id = ?2, bare_id = ?3, state = ?4, code = ?5, reason = ?6, file = ?7, size = ?8,
            sha256 = ?9, content_type = ?10, subject = ?11, updated = ?12, finished = ?13, attempts = ?14,
            next_try = ?15, detail = ?16
         WHERE id = ?1 AND CASE state{expected} END"
    )
}

/// States as the list of an `IN`.
pub(super) fn state_list(states: &[State]) -> String {
    let words: Vec<String> = states.iter().map(|state| format!("'{state}'")).collect();
    words.join(",")
}

/// Whether a file has the name that is looked for, in the form in which names are compared.
fn is_named(name: &str, wanted: &str) -> bool {
    let name = layout::name_key(name);
    name == wanted || (wanted.contains('*') && layout::matches_any(&name, &[wanted.to_owned()]))
}

fn read_message(row: &Row<'_>) -> Result<Message> {
    let word = |at: usize| row.get::<_, String>(at);
    Ok(Message {
        id: Id::stored(word(0)?),
        account: word(1)?,
        direction: read_word(row, 2)?,
        station: word(3)?,
        partner: word(4)?,
        message_id: word(5)?,
        state: read_word(row, 6)?,
        code: word(7)?,
        reason: word(8)?,
        file: word(9)?,
        size: row.get(10)?,
        sha256: word(11)?,
        content_type: word(12)?,
        subject: word(13)?,
        created: row.get(14)?,
        updated: row.get(15)?,
        finished: row.get(16)?,
        attempts: row.get(17)?,
        next_try: row.get(18)?,
        detail: serde_json::from_str(&word(19)?)?,
    })
}
