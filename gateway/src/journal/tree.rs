//! What the tree shows of messages: entries of the records, and files that still stand in `send`.

use bytes::Bytes;
use rusqlite::{OptionalExtension as _, Row, params};

use super::contents::file_name;
use super::{Result, Tx, read_word};
use crate::clock::Millis;
use crate::layout::{self, Area, Tray};
use crate::message::{Detail, Message, State};
use crate::storage::Staged;

/// A file as it stands in `send`.
#[derive(Clone, Debug, PartialEq)]
pub struct SendEntry {
    /// Its name.
    pub name: String,
    /// The message that it is.
    pub message: String,
    /// Bytes.
    pub size: u64,
    /// When it was accepted.
    pub created: Millis,
}

/// A directory or file in the records; one that was deleted for good has none.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Whose.
    pub account: String,
    /// Path of the directory it stands in.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// Counts up when the name is used again.
    pub version: i64,
    /// The branch of the tree.
    pub area: Area,
    /// The message it belongs to.
    pub message: String,
    /// A directory.
    pub is_dir: bool,
    /// Where the bytes are; empty means in the tree, under this path.
    pub store: String,
    /// Bytes.
    pub size: u64,
    /// When it was made.
    pub created: Millis,
    /// When it left the view.
    pub noncurrent: Option<Millis>,
}

/// An entry to be made.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Path of the directory.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// The branch.
    pub area: Area,
    /// Where the bytes are; empty for a directory.
    pub store: String,
    /// Bytes; `None` makes a directory.
    pub size: Option<u64>,
}

impl NewEntry {
    /// A file in a directory.
    #[must_use]
    pub fn file(area: Area, parent: String, name: &str, store: &str, size: u64) -> Self {
        NewEntry {
            parent,
            name: name.to_owned(),
            area,
            store: store.to_owned(),
            size: Some(size),
        }
    }

    /// A message's directory.
    #[must_use]
    pub fn dir(area: Area, parent: String, name: &str) -> Self {
        NewEntry {
            parent,
            name: name.to_owned(),
            area,
            store: String::new(),
            size: None,
        }
    }

    /// What shows a message as it was on the wire: its header block, which this holds, and its raw bytes, each in a directory.
    #[must_use]
    pub fn evidence(message: &Message, tray: Tray, block: &Staged) -> [Self; 4] {
        let id = message.id.as_str();
        let shelf = |area| layout::shelf(area, &message.station, &message.partner, tray);
        let (headers, raw) = (shelf(Area::Headers), shelf(Area::RawMessage));
        let (in_headers, in_raw) = (format!("{headers}/{id}"), format!("{raw}/{id}"));
        let Detail { raw: key, raw_size, .. } = &message.detail;
        [
            NewEntry::dir(Area::Headers, headers, id),
            NewEntry::file(Area::Headers, in_headers, layout::HEADERS_FILE, &block.key, block.len),
            NewEntry::dir(Area::RawMessage, raw, id),
            NewEntry::file(Area::RawMessage, in_raw, layout::RAW_FILE, key, *raw_size),
        ]
    }
}

/// Adds an entry, if this version of its name is none yet. A condition that reads the same table would have SQLite set up a table of
/// its own for each row.
pub(super) const ADD_ENTRY: &str = "INSERT INTO entry (account, parent, name, version, area, message, is_dir, store, size, created)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING";

/// The columns that [`read_entry`] reads.
pub(super) const ENTRY: &str = "account, parent, name, version, area, message, is_dir, store, size, created, noncurrent";

impl Tx<'_> {
    /// Adds entries of a message; one that is there already stays as it is.
    pub(crate) fn add_entries(&self, account: &str, message: &str, entries: &[NewEntry], now: Millis) -> Result<()> {
        let mut insert = self.db.prepare_cached(ADD_ENTRY)?;
        for entry in entries {
            let mut add = |version: i64| {
                insert.execute(params![
                    account,
                    entry.parent,
                    entry.name,
                    version,
                    entry.area.as_str(),
                    message,
                    entry.size.is_none(),
                    entry.store,
                    entry.size.unwrap_or(0),
                    now,
                ])
            };
            // Nearly every name is new, and a look before each insertion would cost as much as the insertion. But where a name may
            // come again, its first version may be gone already while a later one is kept.
            let comes_again = matches!(entry.area, Area::Duplicate | Area::RawMdn);
            if (comes_again || add(0)? == 0)
                && let Some(version) = self.next_version(account, entry)?
            {
                add(version)?;
            }
        }
        Ok(())
    }

    /// The version under which a name may be used, again or for the first time; none while it is visible.
    fn next_version(&self, account: &str, entry: &NewEntry) -> Result<Option<i64>> {
        let mut query = self.db.prepare_cached(
            "SELECT ifnull(max(version) + 1, 0), ifnull(max(noncurrent IS NULL), 0) FROM entry
             WHERE account = ?1 AND parent = ?2 AND name = ?3",
        )?;
        let (next, visible): (i64, bool) = query.query_row([account, &entry.parent, &entry.name], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok((!visible).then_some(next))
    }

    /// One visible entry.
    ///
    /// # Errors
    /// The database's.
    pub fn entry(&self, account: &str, parent: &str, name: &str) -> Result<Option<Entry>> {
        let sql = format!(
            "SELECT {ENTRY} FROM entry WHERE account = ?1 AND parent = ?2 AND name = ?3
             AND noncurrent IS NULL"
        );
        let mut query = self.db.prepare_cached(&sql)?;
        query
            .query_row([account, parent, name], |row| Ok(read_entry(row)))
            .optional()?
            .transpose()
    }

    /// Whether a name in the tree is kept for anything but this entry as it was read: another version of it, or itself by now.
    ///
    /// # Errors
    /// The database's.
    pub fn has_other_version(&self, entry: &Entry) -> Result<bool> {
        let mut query = self.db.prepare_cached(
            "SELECT 1 FROM entry WHERE account = ?1 AND parent = ?2 AND name = ?3
             AND NOT (version = ?4 AND noncurrent IS ?5)",
        )?;
        Ok(query.exists(params![entry.account, entry.parent, entry.name, entry.version, entry.noncurrent])?)
    }

    /// A page of a directory's visible entries, by name.
    ///
    /// # Errors
    /// The database's.
    pub fn entries(&self, account: &str, parent: &str, after: &str, limit: u32) -> Result<Vec<Entry>> {
        let sql = format!(
            "SELECT {ENTRY} FROM entry WHERE account = ?1 AND parent = ?2 AND name > ?3
             AND noncurrent IS NULL ORDER BY name LIMIT ?4"
        );
        self.all(&sql, params![account, parent, after, limit], read_entry)
    }

    /// The first directory with records at or after a path, of those that begin with a prefix: how a listing finds the
    /// stations and partners of the past without reading all their rows.
    ///
    /// # Errors
    /// The database's.
    pub fn next_parent(&self, account: &str, prefix: &str, from: &str) -> Result<Option<String>> {
        let mut query = self.db.prepare_cached(
            "SELECT parent FROM entry WHERE account = ?1 AND parent >= ?2 AND noncurrent IS NULL
             ORDER BY parent LIMIT 1",
        )?;
        let found: Option<String> = query.query_row([account, from], |row| row.get(0)).optional()?;
        Ok(found.filter(|parent| parent.starts_with(prefix)))
    }

    /// Everything that a message has in the tree.
    ///
    /// # Errors
    /// The database's.
    pub fn entries_of(&self, message: &str) -> Result<Vec<Entry>> {
        let sql = format!("SELECT {ENTRY} FROM entry WHERE message = ?1 ORDER BY parent, name");
        self.all(&sql, [message], read_entry)
    }

    /// Entries whose bytes are not yet at their place in the tree, with the bytes of those that live in the journal: at
    /// most `limit` entries, and no more once there are `enough` bytes. Those with a store key to pass over are not among them.
    ///
    /// # Errors
    /// The database's.
    pub fn unpublished(&self, limit: usize, enough: usize, pass_over: &dyn Fn(&str) -> bool) -> Result<Vec<(Entry, Option<Bytes>)>> {
        let sql = format!("SELECT {ENTRY} FROM entry WHERE store <> ''");
        let mut query = self.db.prepare_cached(&sql)?;
        let mut rows = query.query([])?;
        let (mut found, mut bytes) = (Vec::new(), 0usize);
        while found.len() < limit
            && bytes < enough
            && let Some(row) = rows.next()?
        {
            let entry = read_entry(row)?;
            if pass_over(&entry.store) {
                continue;
            }
            let small = match file_name(&entry.store) {
                Some(_) => None,
                None => self.blob(&entry.store)?,
            };
            bytes = bytes.saturating_add(small.as_ref().map_or(0, Bytes::len));
            found.push((entry, small));
        }
        Ok(found)
    }

    /// The bytes of these entries are durable at their place in the tree: the staged copies are let go.
    ///
    /// # Errors
    /// The database's.
    pub fn published(&self, entries: &[Entry]) -> Result<()> {
        let mut update = self
            .db
            .prepare_cached("UPDATE entry SET store = '' WHERE account = ?1 AND parent = ?2 AND name = ?3 AND version = ?4")?;
        for entry in entries {
            update.execute(params![entry.account, entry.parent, entry.name, entry.version])?;
            self.drop_unnamed_blob(&entry.store)?;
        }
        Ok(())
    }

    /// The sent messages whose file still stands in `send`, by name; of equal names the newest.
    ///
    /// # Errors
    /// The database's.
    pub fn send_listing(&self, account: &str, station: &str, partner: &str, after: &str, limit: u32) -> Result<Vec<SendEntry>> {
        let sql = "SELECT file, max(id), size, created FROM message
             WHERE account = ?1 AND station = ?2 AND partner = ?3 AND direction = 'out' AND finished IS NULL AND file > ?4
             GROUP BY file ORDER BY file LIMIT ?5";
        self.all(sql, params![account, station, partner, after, limit], |row| {
            Ok(SendEntry {
                name: row.get(0)?,
                message: row.get(1)?,
                size: row.get(2)?,
                created: row.get(3)?,
            })
        })
    }

    /// The newest message in work whose file has this name.
    ///
    /// # Errors
    /// The database's.
    pub fn message_in_send(&self, account: &str, station: &str, partner: &str, name: &str) -> Result<Option<Message>> {
        let mut query = self.db.prepare_cached(
            "SELECT max(id) FROM message WHERE account = ?1 AND station = ?2 AND partner = ?3 AND file = ?4
             AND direction = 'out' AND finished IS NULL",
        )?;
        let id: Option<String> = query.query_row([account, station, partner, name], |row| row.get(0))?;
        match id {
            Some(id) => Ok(self.message(&id)?.filter(|message| message.state != State::Duplicate)),
            None => Ok(None),
        }
    }
}

pub(super) fn read_entry(row: &Row<'_>) -> Result<Entry> {
    Ok(Entry {
        account: row.get(0)?,
        parent: row.get(1)?,
        name: row.get(2)?,
        version: row.get(3)?,
        area: read_word(row, 4)?,
        message: row.get(5)?,
        is_dir: row.get(6)?,
        store: row.get(7)?,
        size: row.get(8)?,
        created: row.get(9)?,
        noncurrent: row.get(10)?,
    })
}
