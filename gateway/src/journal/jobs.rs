//! Jobs: one table for all kinds of work with a due time, a lease and a fence (durability.md §5).

use rusqlite::{OptionalExtension as _, params};

use super::outbound::lane;
use super::{JournalError, Result, Tx};
use crate::clock::Millis;
use crate::words;

/// How long a claimed job belongs to its worker before somebody else may take it.
pub const LEASE: Millis = 300_000;

words! {
    /// What a job does. The worker does not know; the flows do.
    pub enum JobKind {
        /// Compose, post and settle a message.
        Send = "send",
        /// Check and file a received message.
        Receive = "receive",
        /// Post an async MDN.
        Mdn = "mdn",
    }
}

/// How the jobs of one lane may run.
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    /// So many at once.
    pub width: u32,
    /// One after the other, as they were made; one that waits for its next try holds the others up.
    pub in_order: bool,
}

/// A claimed job. Every later change names the fence, so that a late holder is unmasked.
#[derive(Clone, Debug)]
pub struct Job {
    /// Row.
    pub id: i64,
    /// What to do.
    pub kind: JobKind,
    /// Whose.
    pub account: String,
    /// The message that it is about.
    pub message: String,
    /// Station and partner.
    pub lane: String,
    /// Number of this claim.
    pub fence: i64,
    /// Tries so far.
    pub tries: u32,
}

impl Tx<'_> {
    /// One that is there already is due at this time instead, with all its tries.
    pub(super) fn add_job(&self, kind: JobKind, account: &str, message: &str, lane: &str, due: Millis) -> Result<()> {
        let mut insert = self.db.prepare_cached(
            "INSERT INTO job (kind, account, message, lane, due) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (kind, message) DO UPDATE SET due = ?5, tries = 0",
        )?;
        insert.execute(params![kind.as_str(), account, message, lane, due])?;
        Ok(())
    }

    /// A job that its maker holds from the start.
    pub(super) fn add_held_job(
        &self,
        kind: JobKind,
        (account, message, lane): (&str, &str, &str),
        owner: &str,
        now: Millis,
    ) -> Result<i64> {
        let mut insert = self.db.prepare_cached(
            "INSERT INTO job (kind, account, message, lane, due, lease_owner, lease_until, fence)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1)",
        )?;
        insert.execute(params![kind.as_str(), account, message, lane, now, owner, now + LEASE])?;
        Ok(1)
    }

    /// Due jobs that are nobody's at this moment, at most so many of each kind, and per lane no more than `allowed` says. Of two
    /// lanes the one that has fewer under way comes first, so that a pair with a long queue, or one that does not answer, does
    /// not hold up the others.
    ///
    /// A lease of another process is void: one server owns the data directory (R15). Our own never runs out, whatever the
    /// clock does: the worker gives back what it failed at.
    ///
    /// # Errors
    /// The database's.
    pub fn due_jobs(
        &self,
        kinds: &[(JobKind, usize)],
        owner: &str,
        now: Millis,
        allowed: &dyn Fn(&str, &str, JobKind) -> Lane,
    ) -> Result<Vec<Job>> {
        let mut due_jobs = Vec::new();
        // Thousands of pairs may have jobs that wait for an hour: none of them is looked at while nothing is due.
        if self.next_due(owner)?.is_none_or(|due| due > now) {
            return Ok(due_jobs);
        }
        let lanes = self.lanes()?;
        for (kind, limit) in kinds {
            let mut free: Vec<(u32, Millis, Job)> = Vec::new();
            for (account, lane) in &lanes {
                let rule = allowed(account, lane, *kind);
                let held = self.leases_in_lane(lane, *kind, owner)?;
                let room = usize::try_from(rule.width.saturating_sub(held)).unwrap_or(usize::MAX);
                if room > 0 {
                    let jobs = self.free_jobs(lane, *kind, owner, now, room.min(*limit), rule.in_order)?;
                    free.extend((held..).zip(jobs).map(|(before, (due, job))| (before, due, job)));
                }
            }
            free.sort_by_key(|(before, due, job)| (*before, *due, job.id));
            due_jobs.extend(free.into_iter().take(*limit).map(|(_, _, job)| job));
        }
        Ok(due_jobs)
    }

    /// Claims jobs as [`Tx::due_jobs`] found them; those that are gone meanwhile, or somebody's, are left out.
    ///
    /// # Errors
    /// The database's.
    pub fn claim_jobs(&self, found: Vec<Job>, owner: &str, now: Millis) -> Result<Vec<Job>> {
        let mut claimed = Vec::with_capacity(found.len());
        for mut job in found {
            let mut update = self.db.prepare_cached(
                "UPDATE job SET lease_owner = ?2, lease_until = ?3, fence = fence + 1 WHERE id = ?1 AND fence = ?4 AND message = ?5",
            )?;
            if update.execute(params![job.id, owner, now + LEASE, job.fence, job.message])? > 0 {
                job.fence += 1;
                claimed.push(job);
            }
        }
        Ok(claimed)
    }

    /// Gives a job to every message in work that has none. Nothing leaves one behind; if anything ever does, its message would
    /// wait for ever, and its partner or its user was promised something. Gives their ids.
    ///
    /// # Errors
    /// The database's.
    pub fn adopt_jobless(&self, now: Millis) -> Result<Vec<String>> {
        let sql = "SELECT id, account, station, partner, wanted, coalesce(next_try, ?1) FROM
                (SELECT *, iif(direction = 'in', 'receive', 'send') AS wanted FROM message
                 WHERE finished IS NULL AND state IN ('queued', 'sending', 'waiting-mdn', 'retrying', 'received')) AS open
             WHERE NOT EXISTS (SELECT 1 FROM job WHERE job.kind = open.wanted AND job.message = open.id)";
        let mut query = self.db.prepare_cached(sql)?;
        let mut rows = query.query([now])?;
        let mut adopted = Vec::new();
        while let Some(row) = rows.next()? {
            let (id, account): (String, String) = (row.get(0)?, row.get(1)?);
            let lane = lane(&row.get::<_, String>(2)?, &row.get::<_, String>(3)?);
            let kind: JobKind = row.get::<_, String>(4)?.parse().map_err(JournalError::Corrupt)?;
            adopted.push((kind, account, id, lane, row.get(5)?));
        }
        for (kind, account, id, lane, due) in &adopted {
            self.add_job(*kind, account, id, lane, *due)?;
        }
        Ok(adopted.into_iter().map(|(_, _, id, ..)| id).collect())
    }

    /// The lanes that have jobs, each found by one step in the index.
    fn lanes(&self) -> Result<Vec<(String, String)>> {
        let mut query = self.db.prepare_cached(
            "WITH RECURSIVE lanes (lane) AS (
                SELECT min(lane) FROM job
                UNION ALL SELECT (SELECT min(lane) FROM job WHERE lane > lanes.lane) FROM lanes WHERE lanes.lane IS NOT NULL)
             SELECT (SELECT account FROM job WHERE job.lane = lanes.lane LIMIT 1), lane FROM lanes WHERE lane IS NOT NULL",
        )?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn leases_in_lane(&self, lane: &str, kind: JobKind, owner: &str) -> Result<u32> {
        let mut query = self
            .db
            .prepare_cached("SELECT count(*) FROM job WHERE lane = ?1 AND kind = ?2 AND lease_owner IS NOT NULL AND lease_owner = ?3")?;
        Ok(query.query_row(params![lane, kind.as_str(), owner], |row| row.get(0))?)
    }

    /// The first free jobs of a lane. In an ordered lane only its oldest counts, even if that waits for its next try.
    fn free_jobs(&self, lane: &str, kind: JobKind, owner: &str, now: Millis, most: usize, in_order: bool) -> Result<Vec<(Millis, Job)>> {
        let sql = if in_order {
            "SELECT id, kind, account, message, lane, fence, tries, due FROM
                (SELECT * FROM job WHERE lane = ?1 AND kind = ?2 ORDER BY id LIMIT 1)
             WHERE due <= ?3 AND (lease_owner IS NULL OR lease_owner <> ?4) LIMIT ?5"
        } else {
            "SELECT id, kind, account, message, lane, fence, tries, due FROM job
             WHERE lane = ?1 AND kind = ?2 AND due <= ?3 AND (lease_owner IS NULL OR lease_owner <> ?4)
             ORDER BY due, id LIMIT ?5"
        };
        let mut query = self.db.prepare_cached(sql)?;
        let rows = query.query_map(params![lane, kind.as_str(), now, owner, most], |row| {
            Ok((row.get(7)?, read_job(row)?))
        })?;
        rows.map(|row| row.map_err(JournalError::from).and_then(|(due, job)| Ok((due, job?))))
            .collect()
    }

    /// Keeps a lease alive during long work.
    ///
    /// # Errors
    /// `Conflict` if the job has another holder.
    pub fn renew_job(&self, id: i64, fence: i64, now: Millis) -> Result<()> {
        let changed = self
            .db
            .prepare_cached("UPDATE job SET lease_until = ?3 WHERE id = ?1 AND fence = ?2")?
            .execute(params![id, fence, now + LEASE])?;
        held(changed)
    }

    /// Gives a job back, due later.
    ///
    /// # Errors
    /// `Conflict` if the job has another holder.
    pub fn put_back_job(&self, id: i64, fence: i64, due: Millis) -> Result<()> {
        self.free_job(id, fence, due, 1)
    }

    /// The same, without counting a try.
    ///
    /// # Errors
    /// `Conflict` if the job has another holder.
    pub fn postpone_job(&self, id: i64, fence: i64, due: Millis) -> Result<()> {
        self.free_job(id, fence, due, 0)
    }

    fn free_job(&self, id: i64, fence: i64, due: Millis, tries: u32) -> Result<()> {
        let changed = self
            .db
            .prepare_cached(
                "UPDATE job SET due = ?3, lease_owner = NULL, lease_until = NULL, tries = tries + ?4
                 WHERE id = ?1 AND fence = ?2",
            )?
            .execute(params![id, fence, due, tries])?;
        held(changed)
    }

    /// Has everything that waits be due so much earlier: the clock was set back.
    ///
    /// # Errors
    /// The database's.
    pub fn pull_jobs(&self, step: Millis, now: Millis) -> Result<()> {
        self.db
            .prepare_cached("UPDATE job SET due = due - ?1 WHERE due > ?2")?
            .execute([step, now])?;
        Ok(())
    }

    /// Gives the check of a received message back to the workers, due later.
    ///
    /// # Errors
    /// The database's.
    pub fn give_back_receive(&self, message: &str, due: Millis) -> Result<()> {
        self.db
            .prepare_cached(
                "UPDATE job SET due = ?3, lease_owner = NULL, lease_until = NULL, tries = tries + 1 WHERE kind = ?1 AND message = ?2",
            )?
            .execute(params![JobKind::Receive.as_str(), message, due])?;
        Ok(())
    }

    /// Ends a job whose work is done or void.
    ///
    /// # Errors
    /// The database's.
    pub fn end_job(&self, job: &Job) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM job WHERE id = ?1 AND fence = ?2")?
            .execute(params![job.id, job.fence])?;
        Ok(())
    }

    /// The fence must still be ours.
    pub(super) fn check_fence(&self, id: i64, fence: i64) -> Result<()> {
        let mut query = self.db.prepare_cached("SELECT count(*) FROM job WHERE id = ?1 AND fence = ?2")?;
        held(query.query_row(params![id, fence], |row| row.get(0))?)
    }

    pub(super) fn finish_job(&self, kind: JobKind, message: &str) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM job WHERE kind = ?1 AND message = ?2")?
            .execute(params![kind.as_str(), message])?;
        Ok(())
    }

    /// Makes the job of a message due now.
    pub(super) fn hurry_job(&self, kind: JobKind, message: &str, due: Millis) -> Result<bool> {
        let changed = self
            .db
            .prepare_cached("UPDATE job SET due = ?3 WHERE kind = ?1 AND message = ?2")?
            .execute(params![kind.as_str(), message, due])?;
        Ok(changed > 0)
    }

    /// Whether a worker holds the job of a message at this moment.
    pub(super) fn job_is_held(&self, kind: JobKind, message: &str, now: Millis) -> Result<bool> {
        let mut query = self
            .db
            .prepare_cached("SELECT lease_until FROM job WHERE kind = ?1 AND message = ?2 AND lease_until >= ?3")?;
        let until: Option<Option<i64>> = query.query_row(params![kind.as_str(), message, now], |row| row.get(0)).optional()?;
        Ok(until.is_some())
    }

    /// Whether the job of a message was never claimed and is not due yet.
    pub(super) fn job_waits(&self, kind: JobKind, message: &str, now: Millis) -> Result<bool> {
        let mut query = self
            .db
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM job WHERE kind = ?1 AND message = ?2 AND fence = 0 AND due > ?3)")?;
        Ok(query.query_row(params![kind.as_str(), message, now], |row| row.get(0))?)
    }

    /// When the next job is due that is nobody's at this moment.
    fn next_due(&self, owner: &str) -> Result<Option<Millis>> {
        let mut query = self
            .db
            .prepare_cached("SELECT min(due) FROM job WHERE lease_owner IS NULL OR lease_owner <> ?1")?;
        Ok(query.query_row(params![owner], |row| row.get(0))?)
    }

    /// Jobs in all and the oldest due time, for `status` and metrics.
    ///
    /// # Errors
    /// The database's.
    pub fn queue(&self) -> Result<(u64, Option<Millis>)> {
        Ok(self
            .db
            .query_row("SELECT count(*), min(due) FROM job", [], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }
}

fn held(changed: usize) -> Result<()> {
    if changed == 0 {
        return Err(JournalError::Conflict("the job has another holder".to_owned()));
    }
    Ok(())
}

fn read_job(row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<Job>> {
    let kind: String = row.get(1)?;
    let job = |kind| -> rusqlite::Result<Job> {
        Ok(Job {
            id: row.get(0)?,
            kind,
            account: row.get(2)?,
            message: row.get(3)?,
            lane: row.get(4)?,
            fence: row.get(5)?,
            tries: row.get(6)?,
        })
    };
    match kind.parse() {
        Ok(kind) => Ok(Ok(job(kind)?)),
        Err(text) => Ok(Err(JournalError::Corrupt(text))),
    }
}
