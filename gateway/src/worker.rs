//! The worker: claims due jobs, works on them side by side, waits, stops. It does not know what a job does, only that each
//! kind has slots of its own, and each pair a share of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::clock::{Clock, Millis, Uptime};
use crate::gateway::Core;
use crate::journal::{self, Job, JobKind, JournalError, Lane, Lease, Tx};
use crate::objects::Objects;
use crate::partner::Partner;
use crate::{inbox, outbox, receipts};

/// Wake-ups are hints; this scan finds everything (R1).
const SCAN: Duration = Duration::from_millis(500);
/// Milliseconds until a job that ended with an error of ours is tried again.
const AGAIN: Millis = 30_000;
/// Wait after a write that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Checks of one kind that were left over, for want of room, by a fault of ours or a crash, at once; what they compute has its own
/// bound (`helper.rs`).
const CHECK_SLOTS: usize = 8;
/// Async MDNs of ours that are posted at once, to all partners. They are small, and an address that does not answer holds its
/// slot for a minute.
const MDN_SLOTS: usize = 64;
/// The part of these that one pair may have; less where its `max_parallel` is.
const MDN_SHARE: u32 = 8;

/// A clock that is set back by less is no matter.
const BACK: Millis = 5_000;
/// Nor is one that is set ahead by less (durability.md §6).
const AHEAD: Millis = 300_000;
/// The latest time that was seen, as milliseconds: a clock may also be set right while nobody serves.
const FACT_CLOCK: &str = "clock.last";
/// How far the clock goes on until that is written down again.
const NOTE_EVERY: Millis = 60_000;

/// Sees that the clock was set: what was due in a minute would be due in a minute and as much as that, or at once.
struct Steps {
    at: Millis,
    uptime: Uptime,
}

impl Steps {
    fn new(clock: &dyn Clock) -> Self {
        let (at, uptime) = clock.both();
        Steps { at, uptime }
    }

    /// How far it was set ahead since this was asked last, less than 0 if back, and where it would stand.
    fn look(&mut self, clock: &dyn Clock) -> Option<(Millis, Millis)> {
        let now = Steps::new(clock);
        let would_be = self.at + now.uptime.since(&self.uptime, now.at - self.at);
        let step = now.at - would_be;
        *self = now;
        (!(-BACK..=AHEAD).contains(&step)).then_some((step, would_be))
    }
}

/// Slots for each kind of job: one whose partners do not answer leaves the other kinds theirs.
struct Slots([(JobKind, Arc<Semaphore>); 5]);

impl Slots {
    fn new(core: &Core) -> Self {
        let send = usize::try_from(core.config.as2.send_workers).unwrap_or(64).max(1);
        let of = |kind, slots| (kind, Arc::new(Semaphore::new(slots)));
        Slots([
            of(JobKind::Send, send),
            of(JobKind::Receive, CHECK_SLOTS),
            of(JobKind::ReceiveMedium, CHECK_SLOTS),
            of(JobKind::ReceiveLarge, CHECK_SLOTS),
            of(JobKind::Mdn, MDN_SLOTS),
        ])
    }

    /// The kinds that have room, and for how many jobs.
    fn free(&self) -> Vec<(JobKind, usize)> {
        let all = self.0.iter().map(|(kind, slots)| (*kind, slots.available_permits()));
        all.filter(|(_, free)| *free > 0).collect()
    }

    /// A slot for a job that was claimed because there is one.
    async fn take(&self, kind: JobKind) -> Option<OwnedSemaphorePermit> {
        let (_, slots) = self.0.iter().find(|(of, _)| *of == kind)?;
        Arc::clone(slots).acquire_owned().await.ok()
    }
}

/// Runs until told to stop; then lets what is under way end, as long as `stop`'s owner waits.
pub async fn run(core: Arc<Core>, wake: Arc<Notify>, mut stop: watch::Receiver<bool>) {
    let slots = Slots::new(&core);
    let mut running = JoinSet::new();
    let mut steps = Steps::new(&*core.clock);
    let mut noted = Millis::MIN;
    loop {
        if *stop.borrow() {
            break;
        }
        let now = core.clock.now();
        if let Some((step, would_be)) = steps.look(&*core.clock) {
            follow_clock(&core, step, would_be).await;
            noted = now;
        }
        if now >= noted.saturating_add(NOTE_EVERY) {
            noted = now;
            note_clock(&core, now).await;
        }
        let found = match claim(&core, slots.free()).await {
            Ok(jobs) => {
                let found = jobs.len();
                for job in jobs {
                    let slot = slots.take(job.kind).await;
                    running.spawn(hold(Arc::clone(&core), job, slot, Arc::clone(&wake)));
                }
                found
            }
            Err(error) => {
                tracing::error!(%error, "cannot claim jobs");
                tokio::time::sleep(PAUSE).await;
                0
            }
        };
        while running.try_join_next().is_some() {}
        if found > 0 {
            continue;
        }
        tokio::select! {
            () = wake.notified() => {}
            () = tokio::time::sleep(SCAN) => {}
            _ = stop.changed() => {}
        }
    }
    note_clock(&core, core.clock.now()).await;
    while running.join_next().await.is_some() {}
}

/// Sees, before anything is claimed or accepted, that the clock was set back since somebody served here.
pub async fn check_clock(core: &Core) {
    let noted = core.journal.read(|tx| tx.number_fact(FACT_CLOCK));
    let noted = noted.unwrap_or_else(|error| {
        tracing::error!(%error, "cannot tell whether the clock was set back");
        None
    });
    let now = core.clock.now();
    if let Some(last) = noted.filter(|last| last.saturating_sub(now) > BACK) {
        follow_clock(core, now - last, last).await;
    }
}

async fn note_clock(core: &Core, now: Millis) {
    let noted = core.journal.write_sure(move |tx| tx.set_fact(FACT_CLOCK, &now.to_string())).await;
    if let Err(error) = noted {
        tracing::error!(%error, "cannot note the time");
    }
}

/// All waits, and the windows of names, are as long as they were before the clock was set, from where it would stand now.
async fn follow_clock(core: &Core, step: Millis, would_be: Millis) {
    let (seconds, now) = (step / 1000, core.clock.now());
    if step < 0 {
        tracing::error!(
            seconds,
            "the clock was set back; what waits, waits no longer for it, but times that were recorded before are ahead"
        );
    } else {
        core.jumps.note(would_be, step);
        tracing::error!(
            seconds,
            "the clock jumped ahead; what waits, waits as long as before. If it is wrong now, set it right: certificates, logins and \
             times in messages go by it"
        );
    }
    let moved = core.journal.write_sure(move |tx| {
        // After a step back what is ahead of the clock was set by the old one.
        let from = would_be.min(now);
        tx.shift_jobs(step, from)?;
        tx.shift_windows(step, from)?;
        tx.set_fact(FACT_CLOCK, &now.to_string())?;
        tx.record_clock(seconds, now)
    });
    if let Err(error) = moved.await {
        tracing::error!(%error, "jobs and names wait longer, or shorter, by what the clock was set");
    }
}

/// Works on a job, and gives its slot back.
async fn hold(core: Arc<Core>, job: Job, slot: Option<OwnedSemaphorePermit>, wake: Arc<Notify>) {
    let lease = job.lease;
    let working = Arc::clone(&core);
    // A task of its own: a panic there must not leave the job claimed.
    let done = tokio::spawn(async move { work(&working, job).await }).await;
    if !done.unwrap_or(false) {
        give_back(&core, lease).await;
    }
    drop(slot);
    wake.notify_one();
}

async fn claim(core: &Arc<Core>, free: Vec<(JobKind, usize)>) -> crate::journal::Result<Vec<Job>> {
    let (now, owner, objects) = (core.clock.now(), core.owner.clone(), core.objects());
    // Most scans find nothing: looking needs no transaction.
    let found = core.journal.read_few(|tx| {
        tx.due_jobs(&free, &owner, now, &|account, lane, kind| match kind {
            JobKind::Send => lane_of(&objects, account, lane),
            JobKind::Receive | JobKind::ReceiveMedium | JobKind::ReceiveLarge => Lane {
                width: u32::MAX,
                in_order: false,
            },
            JobKind::Mdn => Lane {
                width: partner_of(&objects, account, lane).map_or(1, |partner| partner.max_parallel.clamp(1, MDN_SHARE)),
                in_order: false,
            },
        })
    })?;
    if found.is_empty() {
        return Ok(found);
    }
    core.journal.write_sure(move |tx| tx.claim_jobs(found, &owner, now)).await
}

/// How many messages a pair may have under way at once, and whether their order counts.
fn lane_of(objects: &Objects, account: &str, lane: &str) -> Lane {
    match partner_of(objects, account, lane) {
        Some(partner) if partner.in_order => Lane { width: 1, in_order: true },
        Some(partner) => Lane {
            width: partner.max_parallel.max(1),
            in_order: false,
        },
        None => Lane { width: 1, in_order: false },
    }
}

fn partner_of<'a>(objects: &'a Objects, account: &str, lane: &str) -> Option<&'a Partner> {
    let (_, partner) = lane.split_once('\n')?;
    objects.partner(account, partner)
}

/// The job is due again after a pause, unless its flow has ended it or given it back already.
async fn give_back(core: &Core, lease: Lease) {
    let due = core.clock.now() + AGAIN;
    insist(core, move |tx| tx.put_back_job(lease, due)).await;
}

/// Gives a claim back, as often as it takes: one that stays ours while nobody works on it is not looked at again before the
/// next start. A full disk and a locked journal pass.
pub async fn insist(core: &Core, change: impl Fn(&Tx<'_>) -> journal::Result<()> + Clone + Send + 'static) {
    loop {
        match core.journal.write(change.clone()).await {
            Ok(()) => return,
            Err(error @ (JournalError::Conflict(_) | JournalError::NotFound(_))) => {
                tracing::debug!(%error, "a failed job is not ours any more");
                return;
            }
            Err(error) => tracing::error!(%error, "cannot give a failed job back yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// True if the flow ended as it should.
async fn work(core: &Arc<Core>, job: Job) -> bool {
    let (kind, message) = (job.kind, job.message.clone());
    let outcome = match kind {
        JobKind::Send => outbox::work(core, job).await,
        JobKind::Receive | JobKind::ReceiveMedium | JobKind::ReceiveLarge => inbox::recover(core, job).await,
        JobKind::Mdn => receipts::post_mdn(core, job).await,
    };
    if let Err(error) = &outcome {
        tracing::error!(%kind, message, %error, "job ended with an error of ours");
    }
    outcome.is_ok()
}

#[cfg(test)]
mod tests;
