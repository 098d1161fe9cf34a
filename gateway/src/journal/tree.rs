//! What the tree shows: entries of the records, uploads that are no messages, and small contents.

use bytes::Bytes;
use rusqlite::{OptionalExtension as _, Row, params};

use super::{JournalError, Result, Tx};
use crate::clock::Millis;
use crate::layout::{self, Area, Tray};
use crate::message::{Detail, Message, State};
use crate::storage::Staged;
use crate::words;

words! {
    /// Why a file lies in `send` without being a message.
    pub enum UploadState {
        /// Broken off; may be resumed by its user for a day.
        Part = "part",
        /// Under a temporary name, or looking interrupted.
        Parked = "parked",
        /// Empty, or moved in: never sent.
        Ignored = "ignored",
    }
}

words! {
    /// Why it lies there. The words are kept in the journal; people are told [`WaitReason::text`].
    pub enum WaitReason {
        /// The connection was lost, or ended by somebody.
        BrokenOff = "broken-off",
        /// Bytes in the middle never came.
        BytesMissing = "bytes-missing",
        /// The client itself cut it: nothing but a new upload mends that.
        AppendCut = "append-cut",
        /// Its last block is a full one, as of an upload that was cancelled.
        FullBlock = "full-block",
        /// The size that was announced was not reached.
        Short = "short",
        /// Opened to be gone on with, and closed without that.
        NothingAdded = "nothing-added",
        /// Its name is a temporary one.
        TemporaryName = "temporary-name",
        /// It has no bytes, and the partner gets no such files.
        Empty = "empty",
        /// A rename brought it from elsewhere.
        MovedHere = "moved-here",
        /// A message that something is open to take the place of. What waits so at the start of a server goes out.
        TakenBack = "taken-back",
        /// The same, and more bytes were written behind it.
        GoneOnWith = "gone-on-with",
    }
}

impl WaitReason {
    /// In words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            WaitReason::BrokenOff => "broken off",
            WaitReason::BytesMissing => "bytes are missing",
            WaitReason::AppendCut => "looks interrupted: the client cut it while appending",
            WaitReason::FullBlock => "looks interrupted: it ends on a full block",
            WaitReason::Short => "looks interrupted: shorter than announced",
            WaitReason::NothingAdded => "looks interrupted: nothing was added to what had been broken off",
            WaitReason::TemporaryName => "temporary name: rename it when it is complete",
            WaitReason::Empty => "empty files are not sent",
            WaitReason::MovedHere => "moved here; upload it instead",
            WaitReason::TakenBack => "accepted, and opened for writing again before it was sent",
            WaitReason::GoneOnWith => "accepted, and then gone on with before it was sent",
        }
    }

    /// A whole file by its CLOSE, but not by what it looks like.
    #[must_use]
    pub fn looks_interrupted(self) -> bool {
        use WaitReason::{AppendCut, FullBlock, NothingAdded, Short};
        matches!(self, AppendCut | FullBlock | Short | NothingAdded)
    }
}

/// The query for upload rows that [`read_upload`] reads, of those that fit.
macro_rules! uploads {
    ($which:literal) => {
        concat!(
            "SELECT account, station, partner, name, owner, state, reason, store, size, sha256, created, updated FROM upload WHERE ",
            $which
        )
    };
}

/// A file in `send` that is no message.
#[derive(Clone, Debug, PartialEq)]
pub struct UploadRow {
    /// Whose.
    pub account: String,
    /// Which pair.
    pub station: String,
    /// Which pair.
    pub partner: String,
    /// As uploaded.
    pub name: String,
    /// The user that uploaded it.
    pub owner: String,
    /// What kind of waiting it is.
    pub state: UploadState,
    /// Why it waits.
    pub reason: WaitReason,
    /// Where the bytes are.
    pub store: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hex, if complete.
    pub sha256: String,
    /// When it began.
    pub created: Millis,
    /// Last change.
    pub updated: Millis,
}

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

/// Small contents under their key.
pub type Blob = (String, Bytes);

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

/// Small contents of their own in the table `blob`, and those that other rows hold.
const BLOB: &str = "j:";
const HEAD: &str = "h:";
const MDN: &str = "m:";
/// In a file of the store, and not in the journal.
const FILE: &str = "f:";

/// The columns that [`read_entry`] reads.
pub(super) const ENTRY: &str = "account, parent, name, version, area, message, is_dir, store, size, created, noncurrent";
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
                .prepare_cached("INSERT OR REPLACE INTO blob (key, bytes) VALUES (?1, ?2)")?
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

    /// Adds entries of a message; one that is there already stays as it is.
    pub(crate) fn add_entries(&self, account: &str, message: &str, entries: &[NewEntry], now: Millis) -> Result<()> {
        let mut insert = self.db.prepare_cached(
            "INSERT INTO entry (account, parent, name, version, area, message, is_dir, store, size, created)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10
             WHERE ?4 > 0 OR ?5 NOT IN ('duplicate', 'raw-mdn')
                OR NOT EXISTS (SELECT 1 FROM entry WHERE account = ?1 AND parent = ?2 AND name = ?3)
             ON CONFLICT DO NOTHING",
        )?;
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
            if add(0)? == 0
                && let Some(version) = self.next_version(account, entry)?
            {
                add(version)?;
            }
        }
        Ok(())
    }

    /// The version under which a name that was used before may be used again; none while it is visible.
    fn next_version(&self, account: &str, entry: &NewEntry) -> Result<Option<i64>> {
        let mut query = self.db.prepare_cached(
            "SELECT max(version) + 1, max(noncurrent IS NULL) FROM entry
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
        let mut query = self.db.prepare_cached(&sql)?;
        let rows = query.query_map(params![account, parent, after, limit], |row| Ok(read_entry(row)))?;
        rows.collect::<rusqlite::Result<Result<Vec<_>>>>()?
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
        let mut query = self.db.prepare_cached(&sql)?;
        let rows = query.query_map([message], |row| Ok(read_entry(row)))?;
        rows.collect::<rusqlite::Result<Result<Vec<_>>>>()?
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
        let mut query = self.db.prepare_cached(
            "SELECT file, max(id), size, created FROM message
             WHERE account = ?1 AND station = ?2 AND partner = ?3 AND direction = 'out' AND finished IS NULL AND file > ?4
             GROUP BY file ORDER BY file LIMIT ?5",
        )?;
        let rows = query.query_map(params![account, station, partner, after, limit], |row| {
            Ok(SendEntry {
                name: row.get(0)?,
                message: row.get(1)?,
                size: row.get(2)?,
                created: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
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

    /// Writes an upload row in the place of the one of the same name and user; gives back the store keys that were replaced. A
    /// part takes the place of a part only: who brought the other file was told that it is safe.
    ///
    /// # Errors
    /// The database's.
    pub fn put_upload(&self, row: &UploadRow) -> Result<Vec<String>> {
        let mut replaced = Vec::new();
        for old in self.own_uploads(&row.account, &row.station, &row.partner, &row.name, &row.owner)? {
            if row.state != UploadState::Part || old.state == UploadState::Part {
                self.remove_upload(&old)?;
                replaced.push(old.store);
            }
        }
        replaced.retain(|store| *store != row.store);
        let mut insert = self.db.prepare_cached(
            "INSERT INTO upload (account, station, partner, name, owner, state, reason, store, size, sha256, created, updated)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?;
        insert.execute(params![
            row.account,
            row.station,
            row.partner,
            row.name,
            row.owner,
            row.state.as_str(),
            row.reason.as_str(),
            row.store,
            row.size,
            row.sha256,
            row.created,
            row.updated,
        ])?;
        Ok(replaced)
    }

    /// The uploads of this name by this user: a part, and then the file that it was to take the place of.
    ///
    /// # Errors
    /// The database's.
    pub fn own_uploads(&self, account: &str, station: &str, partner: &str, name: &str, owner: &str) -> Result<Vec<UploadRow>> {
        let mut query = self.db.prepare_cached(uploads!(
            "account = ?1 AND station = ?2 AND partner = ?3 AND name = ?4 AND owner = ?5 ORDER BY state <> 'part'"
        ))?;
        let rows = query.query_map([account, station, partner, name, owner], |row| Ok(read_upload(row)))?;
        rows.collect::<rusqlite::Result<Result<Vec<_>>>>()?
    }

    /// Uploads of a pair that this user sees, by name: all parked and ignored ones, and the user's own parts. Of several with one
    /// name the user's own comes first.
    ///
    /// # Errors
    /// The database's.
    pub fn uploads(&self, account: &str, station: &str, partner: &str, owner: &str) -> Result<Vec<UploadRow>> {
        let mut query = self.db.prepare_cached(uploads!(
            "account = ?1 AND station = ?2 AND partner = ?3 AND (owner = ?4 OR state <> 'part') ORDER BY name, owner <> ?4, state <> 'part'"
        ))?;
        let rows = query.query_map([account, station, partner, owner], |row| Ok(read_upload(row)))?;
        rows.collect::<rusqlite::Result<Result<Vec<_>>>>()?
    }

    /// The rows of one name in `send`, of all owners.
    ///
    /// # Errors
    /// The database's, or an unreadable value.
    pub fn uploads_named(&self, account: &str, station: &str, partner: &str, name: &str) -> Result<Vec<UploadRow>> {
        let mut query = self
            .db
            .prepare_cached(uploads!("account = ?1 AND station = ?2 AND partner = ?3 AND name = ?4"))?;
        let rows = query.query_map([account, station, partner, name], |row| Ok(read_upload(row)))?;
        rows.collect::<rusqlite::Result<Result<Vec<_>>>>()?
    }

    /// Number and bytes of what a user has in `send`: waiting files, parts and messages in work.
    ///
    /// # Errors
    /// The database's.
    pub fn send_usage(&self, account: &str, user: &str) -> Result<(u64, u64)> {
        let mut query = self.db.prepare_cached(
            "SELECT count(*), coalesce(sum(size), 0) FROM (
               SELECT size FROM upload WHERE account = ?1 AND owner = ?2
               UNION ALL
               SELECT size FROM message WHERE account = ?1 AND direction = 'out' AND finished IS NULL
                 AND state <> 'duplicate' AND detail ->> '$.user' = ?2)",
        )?;
        Ok(query.query_row([account, user], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }

    /// Every upload row.
    ///
    /// # Errors
    /// The database's.
    pub fn all_uploads(&self) -> Result<Vec<UploadRow>> {
        let mut query = self.db.prepare_cached(uploads!("TRUE"))?;
        let rows = query.query_map([], |row| Ok(read_upload(row)))?;
        rows.collect::<rusqlite::Result<Result<Vec<_>>>>()?
    }

    /// Removes an upload row.
    ///
    /// # Errors
    /// The database's.
    pub fn remove_upload(&self, row: &UploadRow) -> Result<bool> {
        let gone = self
            .db
            .prepare_cached(
                "DELETE FROM upload WHERE account = ?1 AND station = ?2 AND partner = ?3 AND name = ?4 AND owner = ?5 AND store = ?6",
            )?
            .execute([&row.account, &row.station, &row.partner, &row.name, &row.owner, &row.store])?;
        Ok(gone > 0)
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

    /// Removes an upload row that something else has taken the place of, and with a part the file that this was to replace. Gives
    /// their store keys, or nothing if the row was gone.
    ///
    /// # Errors
    /// The database's.
    pub fn outdo_upload(&self, row: &UploadRow) -> Result<Vec<String>> {
        if !self.remove_upload(row)? {
            return Ok(Vec::new());
        }
        let mut gone = vec![row.store.clone()];
        if row.state == UploadState::Part {
            // It is older than the part, which nobody may put beside what came later.
            for replaced in self.own_uploads(&row.account, &row.station, &row.partner, &row.name, &row.owner)? {
                self.remove_upload(&replaced)?;
                gone.push(replaced.store);
            }
        }
        Ok(gone)
    }

    /// Says of a file that waits why it does, if it still waits for the reason that is known here.
    ///
    /// # Errors
    /// The database's.
    pub fn set_upload_reason(&self, row: &UploadRow, reason: WaitReason) -> Result<()> {
        self.db
            .prepare_cached(
                "UPDATE upload SET reason = ?8 WHERE account = ?1 AND station = ?2 AND partner = ?3 AND name = ?4 AND owner = ?5
                 AND store = ?6 AND reason = ?7",
            )?
            .execute(params![
                row.account,
                row.station,
                row.partner,
                row.name,
                row.owner,
                row.store,
                row.reason.as_str(),
                reason.as_str(),
            ])?;
        Ok(())
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

pub(super) fn read_entry(row: &Row<'_>) -> Result<Entry> {
    Ok(Entry {
        account: row.get(0)?,
        parent: row.get(1)?,
        name: row.get(2)?,
        version: row.get(3)?,
        area: row.get::<_, String>(4)?.parse().map_err(JournalError::Corrupt)?,
        message: row.get(5)?,
        is_dir: row.get(6)?,
        store: row.get(7)?,
        size: row.get(8)?,
        created: row.get(9)?,
        noncurrent: row.get(10)?,
    })
}

fn read_upload(row: &Row<'_>) -> Result<UploadRow> {
    Ok(UploadRow {
        account: row.get(0)?,
        station: row.get(1)?,
        partner: row.get(2)?,
        name: row.get(3)?,
        owner: row.get(4)?,
        state: row.get::<_, String>(5)?.parse().map_err(JournalError::Corrupt)?,
        reason: row.get::<_, String>(6)?.parse().map_err(JournalError::Corrupt)?,
        store: row.get(7)?,
        size: row.get(8)?,
        sha256: row.get(9)?,
        created: row.get(10)?,
        updated: row.get(11)?,
    })
}
