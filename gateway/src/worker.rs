//! The worker: claims due jobs, works on them side by side, waits, stops. It does not know what a job does.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use crate::clock::Millis;
use crate::gateway::Core;
use crate::journal::{Job, JobKind, Lane};
use crate::{inbox, outbox, receipts};

/// Wake-ups are hints; this scan finds everything (R1).
const SCAN: Duration = Duration::from_millis(500);
/// Milliseconds until a job that ended with an error of ours is tried again.
const AGAIN: Millis = 30_000;
/// First wait after a claim that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until told to stop; then lets what is under way end, as long as `stop`'s owner waits.
pub async fn run(core: Arc<Core>, wake: Arc<Notify>, mut stop: watch::Receiver<bool>) {
    let slots = usize::try_from(core.config.as2.send_workers).unwrap_or(8).max(1);
    let room = Arc::new(Semaphore::new(slots));
    let mut running = JoinSet::new();
    loop {
        if *stop.borrow() {
            break;
        }
        let free = room.available_permits();
        let jobs = if free == 0 { Ok(Vec::new()) } else { claim(&core, free).await };
        let found = match jobs {
            Ok(jobs) => {
                let found = jobs.len();
                for job in jobs {
                    let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                        break;
                    };
                    let core = Arc::clone(&core);
                    let wake = Arc::clone(&wake);
                    running.spawn(async move {
                        let (id, fence) = (job.id, job.fence);
                        let working = Arc::clone(&core);
                        // A task of its own: a panic there must not leave the job claimed.
                        let done = tokio::spawn(async move { work(&working, job).await }).await;
                        if !done.unwrap_or(false) {
                            give_back(&core, id, fence).await;
                        }
                        drop(permit);
                        wake.notify_one();
                    });
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
        if found > 0 && room.available_permits() > 0 {
            continue;
        }
        tokio::select! {
            () = wake.notified() => {}
            () = tokio::time::sleep(SCAN) => {}
            _ = stop.changed() => {}
        }
    }
    while running.join_next().await.is_some() {}
}

async fn claim(core: &Arc<Core>, limit: usize) -> crate::journal::Result<Vec<Job>> {
    let now = core.clock.now();
    // Most scans find nothing: looking needs no transaction.
    let owner = core.owner.clone();
    if core.journal.read_few(|tx| tx.next_due(&owner))?.is_none_or(|due: Millis| due > now) {
        return Ok(Vec::new());
    }
    let objects = core.objects();
    let kinds = [JobKind::Send, JobKind::Receive, JobKind::Mdn];
    let jobs = core.journal.write_sure(move |tx| {
        tx.claim_jobs(&kinds, &owner, now, limit, &|account, lane, kind| match kind {
            JobKind::Send => lane_of(&objects, account, lane),
            JobKind::Receive | JobKind::Mdn => Lane {
                width: u32::MAX,
                in_order: false,
            },
        })
    });
    jobs.await
}

/// How many messages a pair may have under way at once, and whether their order counts.
fn lane_of(objects: &crate::journal::Objects, account: &str, lane: &str) -> Lane {
    let partner = lane.split_once('\n').and_then(|(_, partner)| objects.partner(account, partner));
    match partner {
        Some(partner) if partner.in_order => Lane { width: 1, in_order: true },
        Some(partner) => Lane {
            width: partner.max_parallel.max(1),
            in_order: false,
        },
        None => Lane { width: 1, in_order: false },
    }
}

/// The job is due again after a pause, unless its flow has ended it or given it back already.
async fn give_back(core: &Core, id: i64, fence: i64) {
    let due = core.clock.now() + AGAIN;
    if let Err(error) = core.journal.write(move |tx| tx.put_back_job(id, fence, due)).await {
        tracing::debug!(%error, "a failed job is not ours any more");
    }
}

/// True if the flow ended as it should.
async fn work(core: &Arc<Core>, job: Job) -> bool {
    let (kind, message) = (job.kind, job.message.clone());
    let outcome = match kind {
        JobKind::Send => outbox::work(core, job).await,
        JobKind::Receive => inbox::recover(core, job).await,
        JobKind::Mdn => receipts::post_mdn(core, job).await,
    };
    if let Err(error) = &outcome {
        tracing::error!(%kind, message, %error, "job ended with an error of ours");
    }
    outcome.is_ok()
}
