//! Uploads that are no messages: parts of what broke off, and what waits in `send` or is ignored there.

use rusqlite::{Row, params};

use super::{Result, Tx, read_word};
use crate::clock::Millis;
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

    /// It was accepted, until something was opened to take its place.
    #[must_use]
    pub fn is_taken_back(self) -> bool {
        matches!(self, WaitReason::TakenBack | WaitReason::GoneOnWith)
    }
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

/// The query for upload rows that [`read_upload`] reads, of those that fit.
macro_rules! uploads {
    ($which:literal) => {
        concat!(
            "SELECT account, station, partner, name, owner, state, reason, store, size, sha256, created, updated FROM upload WHERE ",
            $which
        )
    };
}

impl Tx<'_> {
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
        let sql = uploads!("account = ?1 AND station = ?2 AND partner = ?3 AND name = ?4 AND owner = ?5 ORDER BY state <> 'part'");
        self.all(sql, [account, station, partner, name, owner], read_upload)
    }

    /// Uploads of a pair that this user sees, by name: all parked and ignored ones, and the user's own parts. Of several with one
    /// name the user's own comes first.
    ///
    /// # Errors
    /// The database's.
    pub fn uploads(&self, account: &str, station: &str, partner: &str, owner: &str) -> Result<Vec<UploadRow>> {
        let sql = uploads!(
            "account = ?1 AND station = ?2 AND partner = ?3 AND (owner = ?4 OR state <> 'part') ORDER BY name, owner <> ?4, state <> 'part'"
        );
        self.all(sql, [account, station, partner, owner], read_upload)
    }

    /// The rows of one name in `send`, of all owners.
    ///
    /// # Errors
    /// The database's, or an unreadable value.
    pub fn uploads_named(&self, account: &str, station: &str, partner: &str, name: &str) -> Result<Vec<UploadRow>> {
        let sql = uploads!("account = ?1 AND station = ?2 AND partner = ?3 AND name = ?4");
        self.all(sql, [account, station, partner, name], read_upload)
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

    /// What waits in `send` of an account, or below a station or for a partner of it.
    ///
    /// # Errors
    /// The database's.
    pub fn uploads_below(&self, account: &str, station: Option<&str>, partner: Option<&str>) -> Result<Vec<UploadRow>> {
        let sql = uploads!("account = ?1 AND (?2 IS NULL OR station = ?2) AND (?3 IS NULL OR partner = ?3) ORDER BY name");
        self.all(sql, params![account, station, partner], read_upload)
    }

    /// Every upload row.
    ///
    /// # Errors
    /// The database's.
    pub fn all_uploads(&self) -> Result<Vec<UploadRow>> {
        self.all(uploads!("TRUE"), [], read_upload)
    }

    /// How many files lie in `send` without being a message, by the reason.
    ///
    /// # Errors
    /// The database's.
    pub fn waiting_uploads(&self) -> Result<Vec<(WaitReason, u64)>> {
        self.all("SELECT reason, count(*) FROM upload GROUP BY reason", [], |row| {
            Ok((read_word(row, 0)?, row.get(1)?))
        })
    }

    /// Removes an upload row. An accepted file that was taken back keeps its name no longer.
    ///
    /// # Errors
    /// The database's.
    pub fn remove_upload(&self, row: &UploadRow) -> Result<bool> {
        if row.reason.is_taken_back() {
            self.free_taken_back(row)?;
        }
        let gone = self
            .db
            .prepare_cached(
                "DELETE FROM upload WHERE account = ?1 AND station = ?2 AND partner = ?3 AND name = ?4 AND owner = ?5 AND store = ?6",
            )?
            .execute([&row.account, &row.station, &row.partner, &row.name, &row.owner, &row.store])?;
        Ok(gone > 0)
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

    /// Removes the parts of this name by this user, which a whole file has outdone. Gives their store keys.
    ///
    /// # Errors
    /// The database's.
    pub fn remove_parts(&self, account: &str, station: &str, partner: &str, name: &str, owner: &str) -> Result<Vec<String>> {
        let sql = "DELETE FROM upload WHERE account = ?1 AND station = ?2 AND partner = ?3 AND name = ?4 AND owner = ?5 AND state = 'part'
                   RETURNING store";
        self.all(sql, [account, station, partner, name, owner], |row| Ok(row.get(0)?))
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
}

fn read_upload(row: &Row<'_>) -> Result<UploadRow> {
    Ok(UploadRow {
        account: row.get(0)?,
        station: row.get(1)?,
        partner: row.get(2)?,
        name: row.get(3)?,
        owner: row.get(4)?,
        state: read_word(row, 5)?,
        reason: read_word(row, 6)?,
        store: row.get(7)?,
        size: row.get(8)?,
        sha256: row.get(9)?,
        created: row.get(10)?,
        updated: row.get(11)?,
    })
}
