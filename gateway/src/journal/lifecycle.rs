//! The life of the records: current, non-current, deleted (durability.md §9).

use rusqlite::{ToSql, params};
use serde::{Deserialize, Serialize};

use super::outbound::Moved;
use super::tree::{ENTRY, Entry, read_entry};
use super::{Result, Tx};
use crate::clock::Millis;
use crate::layout::{self, Area};

/// What a sweep would take, for dry runs and the brake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepCount {
    /// Would become non-current.
    pub retire: u64,
    /// Would be deleted for good.
    pub purge: u64,
    /// All that there is.
    pub all: u64,
}

/// What sweeps did to an area of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// Files that left the view.
    pub noncurrent: u64,
    /// Files that were deleted for good; messages, where whole ones go.
    pub deleted: u64,
    /// Bytes of these.
    pub bytes: u64,
}

/// Where it is kept that nobody was told of it yet, by account and area.
const TALLY: &str = "lifecycle.swept/";

/// How far a walk through what is to be deleted has come.
#[derive(Clone, Copy, Debug)]
pub struct PurgeMark {
    noncurrent: Millis,
    row: i64,
}

/// A message of a partner under legal hold (durability.md §9). That the partner's own row says so is the whole hold: laying and
/// lifting it costs the same for one message as for millions.
macro_rules! held {
    () => {
        "(account, partner) IN (SELECT account, name FROM object WHERE kind = 'partner' AND json ->> '$.hold')"
    };
}
pub(super) use held;

/// An entry of a message that is not final, or of a held one, stays.
const FREE: &str = concat!(
    "NOT EXISTS (SELECT 1 FROM message WHERE message.id = entry.message AND (finished IS NULL OR ",
    held!(),
    "))"
);

/// At most ?7 current entries of the account ?1 behind the path ?2/?3, version ?4, and before ?5, made up to ?6.
pub(super) fn to_retire_sql() -> String {
    format!(
        "SELECT {ENTRY} FROM entry WHERE account = ?1 AND (parent, name, version) > (?2, ?3, ?4) AND parent < ?5
         AND created <= ?6 AND noncurrent IS NULL AND store = '' AND {FREE}
         ORDER BY parent, name, version LIMIT ?7"
    )
}

/// At most ?4 entries of the account ?1 and the area ?2 that left the view up to ?3, found by that time and not by their account:
/// those that left it after ?5.
pub(super) fn to_purge_sql() -> String {
    format!(
        "SELECT {ENTRY}, rowid FROM entry WHERE +account = ?1 AND area = ?2 AND noncurrent > ?5 AND noncurrent <= ?3 AND {FREE}
         ORDER BY noncurrent, rowid LIMIT ?4"
    )
}

/// The same, of those that left the view just at ?5 and have a row behind ?6: a sweep takes all of a day out of view at one moment.
pub(super) fn to_purge_of_one_moment_sql() -> String {
    format!(
        "SELECT {ENTRY}, rowid FROM entry WHERE +account = ?1 AND area = ?2 AND noncurrent = ?5 AND rowid > ?6 AND ?5 <= ?3 AND {FREE}
         ORDER BY rowid LIMIT ?4"
    )
}

impl Tx<'_> {
    /// Entries of an area made at or before a time that are still current, by path, behind the one given: a sweep walks once
    /// through the area. An index by age would save it that walk, once a day, and cost every message seven insertions.
    ///
    /// # Errors
    /// The database's.
    pub fn to_retire(&self, account: &str, area: Area, made_before: Millis, after: Option<&Entry>, limit: u32) -> Result<Vec<Entry>> {
        let (from, to) = layout::below(area);
        let (parent, name, version) = after.map_or((from.as_str(), "", -1), |e| (e.parent.as_str(), e.name.as_str(), e.version));
        self.all(
            &to_retire_sql(),
            params![account, parent, name, version, to, made_before, limit],
            read_entry,
        )
    }

    /// Files of an area that became non-current at or before a time, the oldest first, behind where a former look ended, and
    /// where this one ends: nobody wades anew through those under hold.
    ///
    /// # Errors
    /// The database's.
    pub fn to_purge(
        &self,
        account: &str,
        area: Area,
        retired_before: Millis,
        after: Option<PurgeMark>,
        limit: u32,
    ) -> Result<(Vec<Entry>, Option<PurgeMark>)> {
        let (mut entries, mut end) = (Vec::new(), after);
        let mut take = |query: &str, values: &[&dyn ToSql]| -> Result<u32> {
            let mut query = self.db.prepare_cached(query)?;
            let mut rows = query.query(values)?;
            let mut count = 0;
            while let Some(row) = rows.next()? {
                let (noncurrent, row_id) = (row.get("noncurrent")?, row.get("rowid")?);
                end = Some(PurgeMark { noncurrent, row: row_id });
                entries.push(read_entry(row)?);
                count += 1;
            }
            Ok(count)
        };
        let area = area.as_str();
        let taken = match after {
            Some(PurgeMark { noncurrent, row }) => take(
                &to_purge_of_one_moment_sql(),
                params![account, area, retired_before, limit, noncurrent, row],
            )?,
            None => 0,
        };
        if taken < limit {
            let since = after.map_or(Millis::MIN, |mark| mark.noncurrent);
            take(&to_purge_sql(), params![account, area, retired_before, limit - taken, since])?;
        }
        Ok((entries, end))
    }

    /// Adds what a step of a sweep did to what no event has told yet: a sweep that is cut off loses nothing of it.
    ///
    /// # Errors
    /// The database's.
    pub fn tally(&self, account: &str, area: &str, step: Swept) -> Result<()> {
        if step == Swept::default() {
            return Ok(());
        }
        let key = format!("{TALLY}{account}/{area}");
        let before = self.fact(&key)?.map(|text| serde_json::from_str::<Swept>(&text)).transpose()?;
        let before = before.unwrap_or_default();
        let sum = Swept {
            noncurrent: before.noncurrent + step.noncurrent,
            deleted: before.deleted + step.deleted,
            bytes: before.bytes + step.bytes,
        };
        self.set_fact(&key, &serde_json::to_string(&sum)?)
    }

    /// Takes what no event has told yet, by account and area.
    ///
    /// # Errors
    /// The database's.
    pub fn take_tallies(&self) -> Result<Vec<(String, String, Swept)>> {
        let sql = "DELETE FROM fact WHERE substr(key, 1, length(?1)) = ?1 RETURNING substr(key, length(?1) + 1), value";
        let mut tallies = self.all(sql, [TALLY], |row| {
            let (key, value): (String, String) = (row.get(0)?, row.get(1)?);
            let (account, area) = key.rsplit_once('/').unwrap_or_default();
            Ok((account.to_owned(), area.to_owned(), serde_json::from_str(&value)?))
        })?;
        tallies.sort_by(|(a, x, _), (b, y, _)| (a, x).cmp(&(b, y)));
        Ok(tallies)
    }

    /// How many files of an area a sweep would take; directories do not count.
    ///
    /// # Errors
    /// The database's.
    pub fn count_sweep(&self, account: &str, area: Area, made_before: Millis, retired_before: Millis) -> Result<SweepCount> {
        let sql = format!(
            "SELECT count(*) FILTER (WHERE created <= ?3 AND noncurrent IS NULL AND store = '' AND {FREE}),
                    count(*) FILTER (WHERE noncurrent <= ?4 AND {FREE}), count(*)
             FROM entry WHERE account = ?1 AND parent >= ?2 AND parent < ?5 AND is_dir = 0"
        );
        let (from, to) = layout::below(area);
        let mut query = self.db.prepare_cached(&sql)?;
        Ok(query.query_row(params![account, from, made_before, retired_before, to], |row| {
            Ok(SweepCount {
                retire: row.get(0)?,
                purge: row.get(1)?,
                all: row.get(2)?,
            })
        })?)
    }

    /// Takes an entry out of the view; false if it was out of it already.
    ///
    /// # Errors
    /// The database's.
    pub fn retire_entry(&self, entry: &Entry, now: Millis) -> Result<bool> {
        // Somebody else may have moved it since it was read.
        let changed = self
            .db
            .prepare_cached(
                "UPDATE entry SET noncurrent = ?5 WHERE account = ?1 AND parent = ?2 AND name = ?3 AND version = ?4 AND noncurrent IS NULL",
            )?
            .execute(params![entry.account, entry.parent, entry.name, entry.version, now])?;
        Ok(changed > 0)
    }

    /// Whether an entry may still be deleted: it was not brought back, and no hold was laid, since it was read.
    ///
    /// # Errors
    /// The database's.
    pub fn may_purge(&self, entry: &Entry) -> Result<bool> {
        let sql =
            format!("SELECT 1 FROM entry WHERE account = ?1 AND parent = ?2 AND name = ?3 AND version = ?4 AND noncurrent = ?5 AND {FREE}");
        let mut query = self.db.prepare_cached(&sql)?;
        Ok(query.exists(params![entry.account, entry.parent, entry.name, entry.version, entry.noncurrent])?)
    }

    /// Forgets an entry whose bytes were deleted for good; false if it was brought back meanwhile.
    ///
    /// # Errors
    /// The database's.
    pub fn purge_entry(&self, entry: &Entry) -> Result<bool> {
        let gone = self
            .db
            .prepare_cached("DELETE FROM entry WHERE account = ?1 AND parent = ?2 AND name = ?3 AND version = ?4 AND noncurrent IS ?5")?
            .execute(params![entry.account, entry.parent, entry.name, entry.version, entry.noncurrent])?;
        Ok(gone > 0)
    }

    /// Moves files of a message to another directory, in view or out of it. One that left the view since it was read stays where
    /// it is.
    pub(super) fn move_entries(&self, message: &str, moved: &Moved) -> Result<()> {
        for entry in &moved.entries {
            self.db
                .prepare_cached(
                    "UPDATE entry SET parent = ?6 WHERE account = ?1 AND parent = ?2 AND name = ?3 AND version = ?4 AND noncurrent IS ?5",
                )?
                .execute(params![
                    entry.account,
                    entry.parent,
                    entry.name,
                    entry.version,
                    entry.noncurrent,
                    moved.to
                ])?;
        }
        self.db
            .prepare_cached("DELETE FROM entry WHERE message = ?1 AND is_dir AND parent || '/' || name = ?2")?
            .execute(params![message, moved.from])?;
        Ok(())
    }

    /// Non-current entries below a path, for `lifecycle restore`: by path, of one name the newest version first, behind the one
    /// given.
    ///
    /// # Errors
    /// The database's.
    pub fn noncurrent_below(&self, account: &str, path: &str, after: Option<&Entry>, limit: u32) -> Result<Vec<Entry>> {
        let (parent, name, version) = after.map_or(("", "", i64::MAX), |e| (e.parent.as_str(), e.name.as_str(), e.version));
        let sql = format!(
            "SELECT {ENTRY} FROM entry WHERE account = ?1 AND noncurrent IS NOT NULL
             AND (parent = ?2 OR parent || '/' || name = ?2 OR substr(parent, 1, length(?2) + 1) = ?2 || '/')
             AND (parent, name, -version) > (?4, ?5, -?6)
             ORDER BY parent, name, version DESC LIMIT ?3"
        );
        self.all(&sql, params![account, path, limit, parent, name, version], read_entry)
    }

    /// Brings an entry back whose bytes are back already, even if a sweep forgot it meanwhile; false if its name is
    /// taken by a newer one.
    ///
    /// # Errors
    /// The database's.
    pub fn restore_entry(&self, entry: &Entry, now: Millis) -> Result<bool> {
        if self.entry(&entry.account, &entry.parent, &entry.name)?.is_some() {
            return Ok(false);
        }
        self.db
            .prepare_cached(
                "INSERT INTO entry (account, parent, name, version, area, message, is_dir, store, size, created)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                 ON CONFLICT DO UPDATE SET noncurrent = NULL, created = excluded.created",
            )?
            .execute(params![
                entry.account,
                entry.parent,
                entry.name,
                entry.version,
                entry.area.as_str(),
                entry.message,
                entry.is_dir,
                entry.store,
                entry.size,
                now,
            ])?;
        self.renew_directory(entry, now)?;
        Ok(true)
    }

    /// The directory in which an entry stands stays in view as long as that; it may be older.
    fn renew_directory(&self, entry: &Entry, now: Millis) -> Result<()> {
        let Some((parent, name)) = entry.parent.rsplit_once('/') else {
            return Ok(());
        };
        self.db
            .prepare_cached(
                "UPDATE entry SET created = max(created, ?4)
                 WHERE account = ?1 AND parent = ?2 AND name = ?3 AND is_dir AND noncurrent IS NULL",
            )?
            .execute(params![entry.account, parent, name, now])?;
        Ok(())
    }
}
