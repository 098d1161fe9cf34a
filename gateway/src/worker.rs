//! The worker: claims due jobs, works on them side by side, waits, stops. It does not know what a job does, only that each
//! kind has slots of its own, and each pair a share of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::clock::{Millis, Step};
use crate::gateway::Core;
use crate::journal::{self, Job, JobKind, JournalError, Lane, Lease, Room, Tx};
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

/// A clock that is behind the latest time by less is no matter.
const BEHIND: Millis = 5_000;
/// The latest time that was seen, as milliseconds: a clock may also be set right while nobody serves.
const FACT_CLOCK: &str = "clock.last";
/// How far the clock goes on until that is written down again.
const NOTE_EVERY: Millis = 60_000;

/// Slots for each kind of job: one whose partners do not answer leaves the other kinds theirs. Those for posts have a quarter more that
/// is only for partners with none under way: a dozen that do not answer leave all others theirs.
struct Slots([(JobKind, Arc<Semaphore>, usize); 5]);

impl Slots {
    fn new(core: &Core) -> Self {
        let send = usize::try_from(core.config.as2.send_workers).unwrap_or(64).max(1);
        let of = |kind, slots| (kind, Arc::new(Semaphore::new(slots)), 0);
        let to_partners = |kind, slots: usize| {
            let kept = slots.div_ceil(4);
            (kind, Arc::new(Semaphore::new(slots + kept)), kept)
        };
        Slots([
            to_partners(JobKind::Send, send),
            of(JobKind::Receive, CHECK_SLOTS),
            of(JobKind::ReceiveMedium, CHECK_SLOTS),
            of(JobKind::ReceiveLarge, CHECK_SLOTS),
            to_partners(JobKind::Mdn, MDN_SLOTS),
        ])
    }

    /// The kinds that have room, and for how many jobs.
    fn free(&self) -> Vec<Room> {
        let all = self.0.iter().map(|(kind, slots, kept)| Room {
            kind: *kind,
            jobs: slots.available_permits(),
            kept: *kept,
        });
        all.filter(|room| room.jobs > 0).collect()
    }

    /// A slot for a job that was claimed because there is one.
    async fn take(&self, kind: JobKind) -> Option<OwnedSemaphorePermit> {
        let (_, slots, _) = self.0.iter().find(|(of, ..)| *of == kind)?;
        Arc::clone(slots).acquire_owned().await.ok()
    }
}

/// Runs until told to stop; then lets what is under way end, as long as `stop`'s owner waits.
pub async fn run(core: Arc<Core>, wake: Arc<Notify>, mut stop: watch::Receiver<bool>) {
    let slots = Slots::new(&core);
    let mut running = JoinSet::new();
    let mut noted = Millis::MIN;
    loop {
        if *stop.borrow() {
            break;
        }
        if let Some(step) = core.clock.step()
            && follow_clock(&core, step).await
        {
            noted = core.clock.now();
        }
        let now = core.clock.now();
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
    if let Some(last) = noted.filter(|last| last.saturating_sub(now) > BEHIND) {
        let step = Step {
            by: now - last,
            from: last,
        };
        follow_clock(core, step).await;
    }
}

async fn note_clock(core: &Core, now: Millis) {
    let noted = core.journal.write_sure(move |tx| tx.set_fact(FACT_CLOCK, &now.to_string())).await;
    if let Err(error) = noted {
        tracing::error!(%error, "cannot note the time");
    }
}

/// All waits, and the windows of names, are as long as they were before the clock was set; then the clock of this process goes by it.
/// Whether it does.
async fn follow_clock(core: &Core, step: Step) -> bool {
    let (seconds, at) = (step.by / 1000, step.from + step.by);
    if step.by < 0 {
        tracing::error!(
            seconds,
            "the clock was set back; what waits, waits no longer for it, but times that were recorded before are ahead"
        );
    } else {
        tracing::error!(
            seconds,
            "the clock jumped ahead; what waits, waits as long as before. If it is wrong now, set it right: certificates, logins and \
             times in messages go by it"
        );
    }
    let moved = core.journal.write_sure(move |tx| {
        tx.follow_clock(step)?;
        tx.set_fact(FACT_CLOCK, &at.to_string())
    });
    if let Err(error) = moved.await {
        tracing::error!(%error, "jobs and names cannot follow the clock yet");
        return false;
    }
    core.jumps.note(step);
    core.clock.follow();
    true
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

async fn claim(core: &Arc<Core>, free: Vec<Room>) -> crate::journal::Result<Vec<Job>> {
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

/// How many messages a partner may have under way at once, and whether the order of a pair's counts.
fn lane_of(objects: &Objects, account: &str, lane: &str) -> Lane {
    match partner_of(objects, account, lane) {
        Some(partner) => Lane {
            width: partner.max_parallel.max(1),
            in_order: partner.in_order,
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
