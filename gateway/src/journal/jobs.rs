//! Jobs: one table for all kinds of work with a due time, a lease and a fence (durability.md §5).

use std::collections::{HashMap, HashSet};

use rusqlite::{OptionalExtension as _, params};
use serde_json::json;

use super::messages::state_list;
use super::outbound::lane;
use super::{JournalError, Result, Tx, read_word};
use crate::clock::{Millis, Step};
use crate::event::NewEvent;
use crate::message::State;
use crate::weight::Weight;
use crate::words;

/// How long a claimed job counts as held unless its worker renews that; what is held is not taken back. Nobody claims a job by it.
pub const LEASE: Millis = 300_000;
/// When a job is due that waits for a person.
const NEVER: Millis = Millis::MAX;
/// If more jobs are due than the first figure and there are no more lanes than the second, the lanes are walked through, each a few
/// steps in the index, so that a long queue of one pair costs no more than a short one. Else all due jobs are read for their lanes,
/// of which eight cost about as much as a lane.
const WORTH_WALKING: [(u32, usize); 5] = [(256, 64), (2_048, 256), (8_192, 1_024), (32_768, 4_096), (131_072, usize::MAX)];

words! {
    /// What a job does. The worker does not know; the flows do.
    pub enum JobKind {
        /// Compose, post and settle a message.
        Send = "send",
        /// Check and file a received message that is small.
        Receive = "receive",
        /// The same with one that may be much work, which small ones do not wait for.
        ReceiveMedium = "receive-medium",
        /// The same with a large one, which no others wait for.
        ReceiveLarge = "receive-large",
        /// Post an async MDN.
        Mdn = "mdn",
    }
}

impl JobKind {
    /// Checks a message of so many bytes.
    #[must_use]
    pub fn check(bytes: u64) -> Self {
        match Weight::of(bytes) {
            Weight::Small => JobKind::Receive,
            Weight::Medium => JobKind::ReceiveMedium,
            Weight::Large => JobKind::ReceiveLarge,
        }
    }
}

/// The kinds that check a received message, as the list of an `IN`.
macro_rules! receiving {
    () => {
        "('receive', 'receive-medium', 'receive-large')"
    };
}

/// How many jobs of a kind may begin.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Which.
    pub kind: JobKind,
    /// So many.
    pub jobs: usize,
    /// So many of them only for partners that have none under way.
    pub kept: usize,
}

#[cfg(test)]
impl Room {
    /// For whichever partners.
    pub(crate) fn for_all(kind: JobKind, jobs: usize) -> Self {
        Room { kind, jobs, kept: 0 }
    }
}

/// How the jobs of one lane may run.
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    /// So many at once to its partner, from whichever station.
    pub width: u32,
    /// One after the other, as they were made; one that waits for its next try, or for a person, holds the others up.
    pub in_order: bool,
}

/// Which claim of a job it is. Every later change names it, so that a late holder is unmasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The job's row.
    pub job: i64,
    /// Number of this claim.
    pub fence: i64,
}

/// A claimed job.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its holder's claim.
    pub lease: Lease,
    /// What to do.
    pub kind: JobKind,
    /// Whose.
    pub account: String,
    /// The message that it is about.
    pub message: String,
    /// Station and partner.
    pub lane: String,
    /// Tries so far.
    pub tries: u32,
}

/// A lane with a due job that is nobody's.
struct DueLane {
    crowd: Crowd,
    lane: String,
    /// The earliest of them.
    due: Millis,
    /// Jobs of it that are under way here.
    held: u32,
}

/// A partner of an account, for one kind of jobs: the lanes of all stations to it count together.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Crowd {
    account: String,
    partner: String,
    kind: JobKind,
}

impl Crowd {
    /// Whose a lane is: what is not made of a station and a partner is somebody by itself.
    fn of(account: String, lane: &str, kind: JobKind) -> Self {
        let partner = lane.split_once('\n').map_or(lane, |(_, partner)| partner).to_owned();
        Crowd { account, partner, kind }
    }
}

/// How many jobs are under way here.
#[derive(Default)]
struct UnderWay {
    lanes: HashMap<(String, JobKind), u32>,
    crowds: HashMap<Crowd, u32>,
}

/// The lanes of all due jobs. In the order of lanes, from which the signs keep SQLite, it would read those that wait as well.
pub(super) const DUE_LANES: &str = "SELECT kind, account, lane, min(due) FROM job INDEXED BY job_due
     WHERE due <= ?1 AND (lease_owner IS NULL OR lease_owner <> ?2) GROUP BY +kind, +lane";
/// Few jobs are held at once, and their index has nothing else.
pub(super) const LEASES: &str = "SELECT account, lane, kind, count(*) FROM job INDEXED BY job_leased WHERE lease_owner IS NOT NULL AND lease_owner = ?1 GROUP BY lane, kind";
/// The oldest job of a lane, if it is due and nobody's.
pub(super) const FIRST_IN_ORDER: &str = "SELECT id, kind, account, message, lane, fence, tries, due FROM
        (SELECT * FROM job WHERE lane = ?1 AND kind = ?2 ORDER BY id LIMIT 1)
     WHERE due <= ?3 AND (lease_owner IS NULL OR lease_owner <> ?4) LIMIT ?5";

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
    pub(super) fn add_held_job(&self, kind: JobKind, (account, message, lane): (&str, &str, &str), owner: &str, now: Millis) -> Result<()> {
        let mut insert = self.db.prepare_cached(
            "INSERT INTO job (kind, account, message, lane, due, lease_owner, lease_until, fence)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1)",
        )?;
        insert.execute(params![kind.as_str(), account, message, lane, now, owner, now + LEASE])?;
        Ok(())
    }

    /// Due jobs that are nobody's at this moment, at most so many of each kind, and per partner no more than `allowed` says. Of two
    /// partners the one that has fewer under way comes first, and so does a station's lane to one partner, so that a pair with a
    /// long queue, or a partner that does not answer, does not hold up the others.
    ///
    /// A lease of another process is void: one server owns the data directory (R15). Our own never runs out, whatever the
    /// clock does: the worker gives back what it failed at.
    ///
    /// # Errors
    /// The database's.
    pub fn due_jobs(&self, rooms: &[Room], owner: &str, now: Millis, allowed: &dyn Fn(&str, &str, JobKind) -> Lane) -> Result<Vec<Job>> {
        let mut due_jobs = Vec::new();
        // Thousands of pairs may have jobs that wait for an hour: none of them is looked at.
        let mut lanes = self.due_lanes(rooms, owner, now)?;
        if lanes.is_empty() {
            return Ok(due_jobs);
        }
        let UnderWay { lanes: held, mut crowds } = self.leases(owner)?;
        for lane in &mut lanes {
            lane.held = held.get(&(lane.lane.clone(), lane.crowd.kind)).copied().unwrap_or(0);
        }
        lanes.sort_by_cached_key(|lane| (crowds.get(&lane.crowd).copied().unwrap_or(0), lane.held, lane.due));
        for room in rooms {
            let of_kind = lanes.iter().filter(|lane| lane.crowd.kind == room.kind);
            due_jobs.extend(self.share_out(of_kind, &mut crowds, *room, (owner, now), allowed)?);
        }
        Ok(due_jobs)
    }

    /// Jobs of these lanes, as many as there is room for; those for partners with few under way come first.
    fn share_out<'a>(
        &self,
        lanes: impl Iterator<Item = &'a DueLane>,
        crowds: &mut HashMap<Crowd, u32>,
        Room { jobs: limit, kept, .. }: Room,
        (owner, now): (&str, Millis),
        allowed: &dyn Fn(&str, &str, JobKind) -> Lane,
    ) -> Result<Vec<Job>> {
        let mut free: Vec<(u32, Millis, Job)> = Vec::new();
        let mut giving = HashSet::new();
        for lane in lanes {
            // The first job for a partner comes before all those for the partners behind it.
            if giving.len() == limit {
                break;
            }
            let crowd = &lane.crowd;
            let rule = allowed(&crowd.account, &lane.lane, crowd.kind);
            let before = crowds.get(crowd).copied().unwrap_or(0);
            let room = match rule.width.saturating_sub(before) {
                _ if rule.in_order && lane.held > 0 => 0,
                room => usize::try_from(room).unwrap_or(usize::MAX),
            };
            if room == 0 {
                continue;
            }
            let jobs = self.free_jobs(&lane.lane, crowd.kind, owner, now, room.min(limit), rule.in_order)?;
            if !jobs.is_empty() {
                crowds.insert(crowd.clone(), before + u32::try_from(jobs.len()).unwrap_or(u32::MAX));
                giving.insert(crowd);
            }
            free.extend((before..).zip(jobs).map(|(before, (due, job))| (before, due, job)));
        }
        free.sort_by_key(|(before, due, job)| (*before, *due, job.lease.job));
        let fit = (0..limit)
            .zip(free)
            .take_while(|(at, (before, ..))| *before == 0 || limit - at > kept);
        Ok(fit.map(|(_, (_, _, job))| job).collect())
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
            if update.execute(params![job.lease.job, owner, now + LEASE, job.lease.fence, job.message])? > 0 {
                job.lease.fence += 1;
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
        let open = [&State::WORKED_ON[..], &[State::Received]].concat();
        let sql = format!(
            "SELECT id, account, station, partner, wanted, coalesce(next_try, ?1) FROM
                (SELECT *, iif(direction = 'in', 'receive', 'send') AS wanted FROM message
                 WHERE finished IS NULL AND state IN ({})) AS open
             WHERE NOT EXISTS (SELECT 1 FROM job WHERE job.message = open.id
                 AND job.kind IN (open.wanted, open.wanted || '-medium', open.wanted || '-large'))",
            state_list(&open)
        );
        let mut query = self.db.prepare_cached(&sql)?;
        let mut rows = query.query([now])?;
        let mut adopted = Vec::new();
        while let Some(row) = rows.next()? {
            let (id, account): (String, String) = (row.get(0)?, row.get(1)?);
            let lane = lane(&row.get::<_, String>(2)?, &row.get::<_, String>(3)?);
            let kind: JobKind = read_word(row, 4)?;
            adopted.push((kind, account, id, lane, row.get(5)?));
        }
        for (kind, account, id, lane, due) in &adopted {
            self.add_job(*kind, account, id, lane, *due)?;
        }
        Ok(adopted.into_iter().map(|(_, _, id, ..)| id).collect())
    }

    /// The lanes of these kinds that have a due job which is nobody's.
    fn due_lanes(&self, rooms: &[Room], owner: &str, now: Millis) -> Result<Vec<DueLane>> {
        for (due, few) in WORTH_WALKING {
            if !self.are_due(due, now)? {
                break;
            }
            let all = self.lanes(few.saturating_add(1))?;
            if all.len() <= few {
                return self.due_among(all, rooms, owner, now);
            }
        }
        let mut query = self.db.prepare_cached(DUE_LANES)?;
        let rows = query.query_and_then(params![now, owner], |row| {
            Ok::<_, JournalError>((read_word(row, 0)?, row.get(1)?, row.get::<_, String>(2)?, row.get(3)?))
        })?;
        let mut lanes = Vec::new();
        for row in rows {
            let (kind, account, lane, due): (JobKind, _, _, _) = row?;
            if rooms.iter().any(|room| room.kind == kind) {
                lanes.push(DueLane {
                    crowd: Crowd::of(account, &lane, kind),
                    lane,
                    due,
                    held: 0,
                });
            }
        }
        Ok(lanes)
    }

    /// Those of these lanes.
    fn due_among(&self, all: Vec<(String, String)>, rooms: &[Room], owner: &str, now: Millis) -> Result<Vec<DueLane>> {
        let mut query = self.db.prepare_cached(
            "SELECT due FROM job WHERE lane = ?1 AND kind = ?2 AND due <= ?3 AND (lease_owner IS NULL OR lease_owner <> ?4)
             ORDER BY due LIMIT 1",
        )?;
        let mut lanes = Vec::new();
        for (account, lane) in all {
            for Room { kind, .. } in rooms {
                let due: Option<Millis> = query
                    .query_row(params![lane, kind.as_str(), now, owner], |row| row.get(0))
                    .optional()?;
                if let Some(due) = due {
                    lanes.push(DueLane {
                        crowd: Crowd::of(account.clone(), &lane, *kind),
                        lane: lane.clone(),
                        due,
                        held: 0,
                    });
                }
            }
        }
        Ok(lanes)
    }

    /// Whether more jobs than so many are due, somebody's or nobody's.
    fn are_due(&self, more_than: u32, now: Millis) -> Result<bool> {
        let mut query = self
            .db
            .prepare_cached("SELECT 1 FROM job INDEXED BY job_due WHERE due <= ?1 LIMIT 1 OFFSET ?2")?;
        Ok(query.exists(params![now, more_than])?)
    }

    /// At most so many lanes that have jobs, each found by one step in the index.
    fn lanes(&self, limit: usize) -> Result<Vec<(String, String)>> {
        let sql = "WITH RECURSIVE lanes (lane) AS (
                SELECT min(lane) FROM job
                UNION ALL SELECT (SELECT min(lane) FROM job WHERE lane > lanes.lane) FROM lanes WHERE lanes.lane IS NOT NULL)
             SELECT (SELECT account FROM job WHERE job.lane = lanes.lane LIMIT 1), lane FROM lanes WHERE lane IS NOT NULL LIMIT ?1";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.all(sql, [limit], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// The jobs that this process holds.
    fn leases(&self, owner: &str) -> Result<UnderWay> {
        let mut query = self.db.prepare_cached(LEASES)?;
        let rows = query.query_and_then([owner], |row| {
            Ok::<_, JournalError>((row.get(0)?, row.get::<_, String>(1)?, read_word(row, 2)?, row.get(3)?))
        })?;
        let mut under_way = UnderWay::default();
        for row in rows {
            let (account, lane, kind, held): (_, _, _, u32) = row?;
            *under_way.crowds.entry(Crowd::of(account, &lane, kind)).or_default() += held;
            under_way.lanes.insert((lane, kind), held);
        }
        Ok(under_way)
    }

    /// The first free jobs of a lane. In an ordered lane only its oldest counts, even if that waits for its next try.
    fn free_jobs(&self, lane: &str, kind: JobKind, owner: &str, now: Millis, most: usize, in_order: bool) -> Result<Vec<(Millis, Job)>> {
        let sql = if in_order {
            FIRST_IN_ORDER
        } else {
            "SELECT id, kind, account, message, lane, fence, tries, due FROM job
             WHERE lane = ?1 AND kind = ?2 AND due <= ?3 AND (lease_owner IS NULL OR lease_owner <> ?4)
             ORDER BY due, id LIMIT ?5"
        };
        self.all(sql, params![lane, kind.as_str(), now, owner, most], |row| {
            Ok((row.get(7)?, read_job(row)?))
        })
    }

    /// Keeps a lease alive during long work.
    ///
    /// # Errors
    /// `Conflict` if the job has another holder.
    pub fn renew_job(&self, lease: Lease, now: Millis) -> Result<()> {
        let changed = self
            .db
            .prepare_cached("UPDATE job SET lease_until = ?3 WHERE id = ?1 AND fence = ?2")?
            .execute(params![lease.job, lease.fence, now + LEASE])?;
        held(changed)
    }

    /// Gives a job back, due later.
    ///
    /// # Errors
    /// `Conflict` if the job has another holder.
    pub fn put_back_job(&self, lease: Lease, due: Millis) -> Result<()> {
        self.free_job(lease, due, 1)
    }

    /// The same, without counting a try.
    ///
    /// # Errors
    /// `Conflict` if the job has another holder.
    pub fn postpone_job(&self, lease: Lease, due: Millis) -> Result<()> {
        self.free_job(lease, due, 0)
    }

    fn free_job(&self, lease: Lease, due: Millis, tries: u32) -> Result<()> {
        let changed = self
            .db
            .prepare_cached(
                "UPDATE job SET due = ?3, lease_owner = NULL, lease_until = NULL, tries = tries + ?4
                 WHERE id = ?1 AND fence = ?2",
            )?
            .execute(params![lease.job, lease.fence, due, tries])?;
        held(changed)
    }

    /// The clock was set: what waits is due so much later, or earlier, and so are the windows of names, as is recorded. What a command
    /// wrote since, by the new clock, stays as it is, and so does what waits for longer than the step.
    ///
    /// # Errors
    /// The database's.
    pub fn follow_clock(&self, step: Step) -> Result<()> {
        let Step { by, from } = step;
        let (after, before) = if by > 0 { (from, from + by) } else { (from + by, Millis::MAX) };
        for sql in [
            "UPDATE job SET due = due + ?1 WHERE due > ?2 AND due < ?3",
            "UPDATE message SET next_try = next_try + ?1 WHERE finished IS NULL AND next_try > ?2 AND next_try < ?3",
        ] {
            self.db.execute(sql, [by, after, before])?;
        }
        self.db
            .execute("UPDATE job SET lease_until = lease_until + ?1 WHERE lease_until IS NOT NULL", [by])?;
        // After a step back, those of before the clock went wrong are right.
        let windows = "UPDATE name_window SET opened_at = opened_at + ?1, expires_at = expires_at + ?1
             WHERE iif(?1 > 0, expires_at > ?2 AND opened_at <= ?2, opened_at > ?2)";
        self.db.execute(windows, [by, after])?;
        let event = NewEvent {
            account: "",
            kind: "clock.set",
            subject: "",
            facts: json!({ "seconds": by / 1000 }),
        };
        self.record(&event, from + by)
    }

    /// Gives the check of a received message back to the workers, due later.
    ///
    /// # Errors
    /// The database's.
    pub fn give_back_receive(&self, message: &str, due: Millis) -> Result<()> {
        self.db
            .prepare_cached(concat!(
                "UPDATE job SET due = ?2, lease_owner = NULL, lease_until = NULL, tries = tries + 1
                 WHERE kind IN ",
                receiving!(),
                " AND message = ?1"
            ))?
            .execute(params![message, due])?;
        Ok(())
    }

    pub(super) fn finish_receive(&self, message: &str) -> Result<()> {
        self.db
            .prepare_cached(concat!("DELETE FROM job WHERE kind IN ", receiving!(), " AND message = ?1"))?
            .execute([message])?;
        Ok(())
    }

    /// Ends a job whose work is done or void.
    ///
    /// # Errors
    /// The database's.
    pub fn end_job(&self, job: &Job) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM job WHERE id = ?1 AND fence = ?2")?
            .execute([job.lease.job, job.lease.fence])?;
        Ok(())
    }

    /// The fence must still be ours.
    pub(super) fn check_fence(&self, lease: Lease) -> Result<()> {
        let mut query = self.db.prepare_cached("SELECT count(*) FROM job WHERE id = ?1 AND fence = ?2")?;
        held(query.query_row([lease.job, lease.fence], |row| row.get(0))?)
    }

    pub(super) fn finish_job(&self, kind: JobKind, message: &str) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM job WHERE kind = ?1 AND message = ?2")?
            .execute(params![kind.as_str(), message])?;
        Ok(())
    }

    /// Leaves the job of a message where it is, due when somebody says so.
    pub(super) fn hold_job(&self, kind: JobKind, message: &str) -> Result<()> {
        self.db
            .prepare_cached("UPDATE job SET due = ?3, lease_owner = NULL, lease_until = NULL WHERE kind = ?1 AND message = ?2")?
            .execute(params![kind.as_str(), message, NEVER])?;
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

    /// Whether a message has such a job.
    ///
    /// # Errors
    /// The database's.
    pub fn has_job(&self, kind: JobKind, message: &str) -> Result<bool> {
        let mut query = self.db.prepare_cached("SELECT 1 FROM job WHERE kind = ?1 AND message = ?2")?;
        Ok(query.exists(params![kind.as_str(), message])?)
    }

    /// Whether a worker holds the job of a message at this moment.
    ///
    /// # Errors
    /// The database's.
    pub fn job_is_held(&self, kind: JobKind, message: &str, now: Millis) -> Result<bool> {
        let mut query = self
            .db
            .prepare_cached("SELECT 1 FROM job WHERE kind = ?1 AND message = ?2 AND lease_until >= ?3")?;
        Ok(query.exists(params![kind.as_str(), message, now])?)
    }

    /// Whether the job of a message was never claimed and is not due yet.
    pub(super) fn job_waits(&self, kind: JobKind, message: &str, now: Millis) -> Result<bool> {
        let mut query = self
            .db
            .prepare_cached("SELECT 1 FROM job WHERE kind = ?1 AND message = ?2 AND fence = 0 AND due > ?3")?;
        Ok(query.exists(params![kind.as_str(), message, now])?)
    }

    /// Jobs that run by themselves and the oldest due time, for `status` and metrics.
    ///
    /// # Errors
    /// The database's.
    pub fn queue(&self) -> Result<(u64, Option<Millis>)> {
        Ok(self
            .db
            .query_row("SELECT count(*), min(due) FROM job WHERE due < ?1", [NEVER], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?)
    }
}

fn held(changed: usize) -> Result<()> {
    if changed == 0 {
        return Err(JournalError::Conflict("the job has another holder".to_owned()));
    }
    Ok(())
}

fn read_job(row: &rusqlite::Row<'_>) -> Result<Job> {
    Ok(Job {
        lease: Lease {
            job: row.get(0)?,
            fence: row.get(5)?,
        },
        kind: read_word(row, 1)?,
        account: row.get(2)?,
        message: row.get(3)?,
        lane: row.get(4)?,
        tries: row.get(6)?,
    })
}
