//! Sending: claim → compose once → post the stored bytes → settle (RFC 4130 §5.4, §5.5, §7).
//!
//! The packaged bytes are frozen: every try posts the same bytes under the same Message-ID. An attempt is recorded before
//! the connection is made, so that a crash leaves it as "outcome unknown", which is a retry with the same bytes, or
//! `held` for a partner that does not detect duplicates.

mod attempt;
mod compose;
mod outcome;
mod restart;
mod retry;
mod unzip;
mod waiting;

use std::convert::Infallible;
use std::sync::Arc;

use crate::clock::Millis;
use crate::code;
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::journal::{Job, JournalError, Next, Settlement};
use crate::message::{Lacking, Message, State};
use crate::storage::StorageError;

use compose::Trouble;

pub(crate) use attempt::target;
pub(crate) use compose::add_mics;
pub use compose::receipt_request;
pub(crate) use outcome::{ended, keep, wait_asked};
pub(crate) use retry::{figures, next_wait};
pub(crate) use waiting::held;

/// Works on one claimed message until it rests.
///
/// # Errors
/// Ours only; whatever the partner does is an outcome.
pub async fn work(core: &Arc<Core>, job: Job) -> Result<(), FlowError> {
    let id = job.message.clone();
    let Some(message) = core.journal.read_few(|tx| tx.message(&id))? else {
        return Ok(());
    };
    if message.state.is_final() || message.state == State::Held {
        core.journal.write(move |tx| tx.end_job(&job)).await?;
        return Ok(());
    }
    let outcome = tokio::select! {
        biased;
        outcome = step(core, &job, message) => outcome,
        never = keep_lease(core, &job) => match never {},
    };
    match outcome {
        Err(FlowError::Storage(lost @ (StorageError::Missing(_) | StorageError::Damaged(_)))) => {
            let Some(message) = core.journal.read_few(|tx| tx.message(&id))? else {
                return Ok(());
            };
            let code = match lost {
                StorageError::Missing(_) => "bytes-missing",
                _ => "bytes-damaged",
            };
            tracing::error!(message = id, code, %lost, "a message cannot be sent: look at the disk");
            waiting::give_up(core, &job, message, code, &lost.to_string()).await
        }
        // Somebody else moved it: an async MDN that was faster, an operator. What they decided stands.
        Err(FlowError::Journal(JournalError::Conflict(why))) => {
            tracing::debug!(message = id, why, "left to whoever moved it");
            Ok(())
        }
        other => other,
    }
}

async fn step(core: &Arc<Core>, job: &Job, message: Message) -> Result<(), FlowError> {
    let seen = core.objects().version;
    let partnership = match core.partnership_of(&message) {
        Ok(partnership) => partnership,
        Err(lack) => return waiting::not_now(core, job, message, seen, Lacking::NotConfigured, &lack.to_string()).await,
    };
    if partnership.partner.blocked.out() {
        let why = "sending to this partner is blocked";
        return waiting::not_now(core, job, message, seen, Lacking::PartnerBlocked, why).await;
    }
    if message.state == State::WaitingMdn {
        return waiting::mdn_is_missing(core, job, message, &partnership).await;
    }
    if !partnership.partner.detects_duplicates
        && let Some(why) = unasked_repeat(&message)
    {
        return waiting::hold(core, job, message, why).await;
    }
    let (message, blob) = if message.message_id.is_empty() {
        match compose::compose(core, message.clone(), &partnership).await? {
            Ok(packed) => packed,
            Err(Trouble::BadZip(why)) => return waiting::give_up(core, job, message, "bad-zip", &why).await,
            Err(Trouble::Lacking(what, why)) => return waiting::not_now(core, job, message, seen, what, &why).await,
        }
    } else {
        (message, None)
    };
    attempt::attempt(core, job, message, blob, &partnership).await
}

/// Why another try of a message could reach its partner twice, and nobody asked for it.
fn unasked_repeat(message: &Message) -> Option<&'static str> {
    match message.state {
        State::Sending => Some("the server stopped while it was posting, and the partner does not detect duplicates"),
        // It may have been set so since the last try.
        State::Retrying if message.may_have_arrived() && !message.is_retried() => {
            Some("the partner may hold the message and does not detect duplicates")
        }
        _ => None,
    }
}

/// Makes due what waits for settings, of every pair that may be sent to by now: for when objects changed.
///
/// # Errors
/// The journal's.
pub async fn look_again(core: &Arc<Core>) -> Result<(), JournalError> {
    let (looking, now) = (Arc::clone(core), core.clock.now());
    let ready = move || {
        let mut pairs = looking.journal.read(|tx| tx.pairs_waiting())?;
        pairs.retain(|(station, partner)| {
            let pair = looking.partnership(station, partner);
            pair.is_ok_and(|pair| !pair.partner.blocked.out())
        });
        Ok::<_, JournalError>(pairs)
    };
    let ready = tokio::task::spawn_blocking(ready).await.map_err(|_| JournalError::Closed)??;
    if ready.is_empty() {
        return Ok(());
    }
    core.journal.write_sure(move |tx| tx.hurry_waiting(&ready, now)).await
}

/// Renews the job's lease while the work beside it lasts.
async fn keep_lease(core: &Arc<Core>, job: &Job) -> Infallible {
    let lease = job.lease;
    let pause = std::time::Duration::from_millis(crate::journal::LEASE.unsigned_abs() / 3);
    loop {
        tokio::time::sleep(pause).await;
        let now = core.clock.now();
        if let Err(JournalError::Conflict(_)) = core.journal.write(move |tx| tx.renew_job(lease, now)).await {
            return std::future::pending().await;
        }
    }
}

/// Settles and tells the log: one line per decision.
pub(crate) async fn settle(core: &Arc<Core>, step: impl Into<Arc<Settlement>>, now: Millis) -> Result<(), FlowError> {
    let step: Arc<Settlement> = step.into();
    let message = &step.message;
    let written = Arc::clone(&step);
    let unnamed = core.journal.write_sure(move |tx| tx.settle(&written, now)).await?;
    unnamed.iter().for_each(|key| core.storage.discard(key));
    core.wake();
    if step.next == Next::Keep {
        tracing::debug!(id = %message.id, event = step.event, "kept beside the message");
        return Ok(());
    }
    if message.state.is_final() {
        core.metrics.settled(message);
    }
    let fields = (&message.station, &message.partner, &message.message_id);
    let what = if message.state.is_final() { "settled" } else { "moved" };
    let wants_a_look = matches!(message.state, State::Failed | State::Held) || message.code == code::TLS_UNTRUSTED || message.is_doubtful();
    if wants_a_look {
        let marks = message.detail.marks.join(", ");
        tracing::warn!(id = %message.id, station = fields.0, partner = fields.1, message_id = fields.2, state = %message.state, code = message.code, reason = message.reason, marks, "message {what}");
    } else {
        tracing::info!(id = %message.id, station = fields.0, partner = fields.1, message_id = fields.2, state = %message.state, reason = message.reason, "message {what}");
    }
    Ok(())
}
