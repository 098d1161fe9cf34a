//! What a running server does again and again: it follows changed objects, publishes, sweeps, and counts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::Core;
use super::tls_door::TlsDoor;
use crate::clock::{DAY, Millis};
use crate::journal::{JournalError, WaitReason};
use crate::lifecycle::SweepError;
use crate::message::State;
use crate::sftp_tree::Logins;
use crate::storage::StorageError;
use crate::{inbox, lifecycle, manage, outbox};

/// How often a running server looks for objects changed by the command line.
const OBJECTS_POLL: Duration = Duration::from_millis(300);
/// How long the publisher waits for more to publish, so that one sync serves many.
const PUBLISH_PAUSE: Duration = Duration::from_millis(100);
/// How often a moved clock is noticed by the daily sweep.
const SWEEP_POLL: Duration = Duration::from_secs(1);
/// How often the gauges are brought up to date.
const GAUGES: Duration = Duration::from_secs(5);
/// Wait between two looks at how much was rejected.
const REJECTED_PAUSE: Duration = Duration::from_secs(5);
/// How long a sweep that failed is left alone.
const SWEEP_AGAIN: Duration = Duration::from_secs(3600);
/// Wake-ups are hints; the publisher looks so often anyway.
const PUBLISH_SCAN: Duration = Duration::from_secs(1);
/// How often staged bytes without a row are looked for, and how old they have to be.
const ORPHAN_SWEEP: Duration = Duration::from_secs(3600);
const ORPHAN_AGE: Duration = Duration::from_secs(48 * 3600);
/// Days before the end of a certificate at which it is counted, the longest first.
const EXPIRY_DAYS: [i64; 2] = [manage::expiry::SOON_DAYS, 7];
/// How often it is looked what certificates did by themselves.
const CERTIFICATES: Duration = Duration::from_secs(5);
/// How often the log names planned switches that need somebody.
const SWITCH_WARNING: Duration = Duration::from_secs(24 * 3600);

/// Follows what commands change: settings count at once, and sessions that lost their right end.
pub(super) async fn follow_objects(
    core: Arc<Core>,
    logins: Arc<Logins>,
    front: Arc<sftp_front::Server>,
    mut tls: Option<TlsDoor>,
    mut stop: watch::Receiver<bool>,
) {
    let mut gauges_at = tokio::time::Instant::now();
    let mut followed = (core.objects().version, logins.revocations());
    // They may have changed while nobody served.
    look_again(&core).await;
    while pause(OBJECTS_POLL, None, &mut stop).await {
        if tokio::time::Instant::now() >= gauges_at {
            gauges_at += GAUGES;
            if let Err(error) = refresh_gauges(&core, &front) {
                tracing::error!(%error, "cannot count messages");
            }
            // Users also lose their right by the clock.
            logins.end_revoked(&front);
            // Files tell nobody that they changed.
            tls.iter_mut().for_each(|door| door.follow(&core));
        }
        if let Err(error) = core.refresh_objects() {
            tracing::error!(%error, "cannot look for changed objects");
        }
        // A login may have been the first to see the change: what counts is the version that was acted upon.
        let version = (core.objects().version, logins.revocations());
        if version != followed {
            followed = version;
            logins.end_revoked(&front);
            tls.iter_mut().for_each(|door| door.follow(&core));
            look_again(&core).await;
            tracing::info!(version = followed.0, "goes by the changed objects");
        }
    }
}

/// Sends what waited for settings that are there now.
async fn look_again(core: &Arc<Core>) {
    if let Err(error) = outbox::look_again(core).await {
        tracing::error!(%error, "what waits for settings waits for its next turn");
    }
    core.wake();
}

pub(super) fn refresh_gauges(core: &Core, front: &sftp_front::Server) -> Result<(), JournalError> {
    core.metrics
        .set_sftp_connections(u64::try_from(front.connection_count()).unwrap_or(u64::MAX));
    let now = core.clock.now();
    let (counts, oldest, waiting) = core
        .journal
        .read(|tx| Ok((tx.count_states(Millis::MAX)?, tx.oldest_queued()?, tx.waiting_uploads()?)))?;
    core.metrics.set_oldest_queued(oldest.map_or(0, |at| now - at));
    for state in State::IN_WORK {
        let depth = counts.iter().find(|(counted, _)| *counted == state).map_or(0, |(_, count)| *count);
        core.metrics.set_queue_depth(state.as_str(), depth);
    }
    for reason in WaitReason::ALL {
        let count = waiting.iter().find(|(counted, _)| counted == reason).map_or(0, |(_, count)| *count);
        core.metrics.set_uploads_waiting(reason.as_str(), count);
    }
    let held = lifecycle::held(core)?.len();
    core.metrics.set_sweep_holds(u64::try_from(held).unwrap_or(u64::MAX));
    let all = core.objects();
    let due = manage::expiry::due(&core.config, &all, now, Millis::MAX);
    core.metrics.set_certificates(due.iter().map(AsRef::as_ref));
    for days in EXPIRY_DAYS {
        let within = due.iter().filter(|certificate| certificate.ends() <= now + days * DAY).count();
        core.metrics
            .set_certificates_expiring(days, u64::try_from(within).unwrap_or(u64::MAX));
    }
    Ok(())
}

/// Publishes what the journal lists; whole batches share one sync.
pub(super) async fn publish(core: Arc<Core>, mut stop: watch::Receiver<bool>) {
    loop {
        let going_on = pause(PUBLISH_SCAN, Some(&core.wake_publisher), &mut stop).await;
        if going_on {
            tokio::time::sleep(PUBLISH_PAUSE).await;
        }
        loop {
            let storage = Arc::clone(&core.storage);
            match tokio::task::spawn_blocking(move || storage.publish_batch()).await {
                Ok(Ok(round)) if round.placed == 0 => break,
                // What came meanwhile waits for more to come, as the first did; at the end nothing waits.
                Ok(Ok(round)) if going_on && !round.full => break,
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "cannot publish");
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "the publisher failed");
                    break;
                }
            }
        }
        if !going_on {
            return;
        }
    }
}

/// Keeps what was rejected within its bound, soon after it grew.
pub(super) async fn bound_rejected(core: Arc<Core>, mut stop: watch::Receiver<bool>) {
    while pause(SWEEP_AGAIN, Some(core.rejections.noted()), &mut stop).await {
        let bounding = Arc::clone(&core);
        match tokio::task::spawn_blocking(move || lifecycle::bound_rejected(&bounding)).await {
            Ok(Err(SweepError::Storage(StorageError::Held))) => tracing::info!("rejected messages stay until the backup has ended"),
            Ok(Err(error)) => tracing::error!(%error, "cannot let rejected messages go"),
            _ => {}
        }
        if !pause(REJECTED_PAUSE, None, &mut stop).await {
            return;
        }
    }
}

/// The daily sweep, and what crashes left behind.
pub(super) async fn sweep(core: Arc<Core>, mut stop: watch::Receiver<bool>) {
    let mut quiet_until = tokio::time::Instant::now();
    let mut orphans_at = tokio::time::Instant::now();
    let (mut certificates_at, mut switches_at) = (orphans_at, orphans_at);
    loop {
        if tokio::time::Instant::now() >= certificates_at {
            certificates_at = tokio::time::Instant::now() + CERTIFICATES;
            if let Err(error) = manage::notices::tell(&core).await {
                tracing::error!(%error, "cannot tell what certificates did");
            }
        }
        if tokio::time::Instant::now() >= switches_at {
            switches_at += SWITCH_WARNING;
            for (what, hint) in manage::rollover::warnings(&core.objects()) {
                tracing::warn!(what, hint, "a switch of certificates is planned");
            }
        }
        if tokio::time::Instant::now() >= orphans_at {
            orphans_at += ORPHAN_SWEEP;
            let (storage, oldest) = (Arc::clone(&core.storage), inbox::oldest_part(&core));
            let swept = tokio::task::spawn_blocking(move || {
                storage.partials().sweep(oldest)?;
                storage.sweep_orphans(ORPHAN_AGE.as_secs())
            });
            if let Ok(Err(error)) = swept.await {
                tracing::error!(%error, "cannot look for parts that are too old and staged bytes without a row");
            }
        }
        let due = lifecycle::is_due(&core).unwrap_or(false);
        if due && tokio::time::Instant::now() >= quiet_until {
            let sweeping = Arc::clone(&core);
            let swept = tokio::task::spawn_blocking(move || lifecycle::run(&sweeping, false)).await;
            if let Ok(Err(error)) = swept {
                match error {
                    SweepError::Storage(StorageError::Held) => tracing::info!("the life cycle goes on after the backup"),
                    error => tracing::error!(%error, "the life cycle stopped"),
                }
                quiet_until = tokio::time::Instant::now() + SWEEP_AGAIN;
            }
        }
        if !pause(SWEEP_POLL, None, &mut stop).await {
            return;
        }
    }
}

/// Waits for a moment, a wake-up or the end; false at the end.
async fn pause(span: Duration, wake: Option<&Notify>, stop: &mut watch::Receiver<bool>) -> bool {
    let woken = async {
        match wake {
            Some(wake) => wake.notified().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = woken => {}
        () = tokio::time::sleep(span) => {}
        _ = stop.changed() => {}
    }
    !*stop.borrow()
}
