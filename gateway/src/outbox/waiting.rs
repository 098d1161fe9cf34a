//! What becomes of a message without an answer: it waits for its MDN or for our settings, is given up, or is held.

use std::sync::Arc;
use std::time::Duration;

use super::outcome::{ended, retry_or_cancel};
use super::retry::figures;
use super::settle;
use crate::clock::{Millis, millis};
use crate::code;
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::hint::{command, option};
use crate::journal::{Job, Next, Settlement};
use crate::message::{Lacking, Message, State};
use crate::objects::Objects;
use crate::partnership::Partnership;
use crate::receipts::Verdict;

/// The first wait of a message that our own set-up is not ready for.
const LEAST_WAIT: Duration = Duration::from_secs(60);
/// The longest: what changes objects makes it due at once (`look_again`), so that only what time alone mends needs its turns, as a
/// certificate that is valid from a later moment.
const MOST_WAIT: Duration = Duration::from_secs(3600);
/// The same while the partner is blocked, which time does not mend: a long block of a long queue has to cost next to nothing.
const MOST_WAIT_BLOCKED: Duration = Duration::from_secs(24 * 3600);

/// What to do about settings that no single command mends.
const MEND: &str = "mend what `as2gate check` finds";

/// The deadline of an async receipt: the same bytes again, some times, then failed with the outcome unknown. A test is posted once.
pub(super) async fn mdn_is_missing(core: &Arc<Core>, job: &Job, mut message: Message, pair: &Arc<Partnership>) -> Result<(), FlowError> {
    let now = core.clock.now();
    let due = message.detail.mdn_due.unwrap_or(now);
    if now < due {
        let lease = job.lease;
        core.journal.write(move |tx| tx.put_back_job(lease, due)).await?;
        return Ok(());
    }
    let sees_repeats = pair.partner.detects_duplicates;
    if message.detail.mdn_tries < figures(core, pair).mdn_tries && sees_repeats && !message.is_test() {
        message.detail.mdn_tries += 1;
        return super::attempt::attempt(core, job, message, None, pair).await;
    }
    let verdict = if sees_repeats || message.is_test() {
        Verdict::failed(
            code::NO_MDN,
            "the MDN did not come in time; the outcome is unknown",
            "ask the partner whether the message arrived; a late MDN still settles it",
        )
    } else {
        Verdict::Held {
            code: code::NO_MDN.to_owned(),
            reason: "the MDN did not come in time, and the partner does not detect duplicates".to_owned(),
        }
    };
    let mut step = ended(core, message, verdict, None, &State::WORKED_ON, now);
    step.lease = Some(job.lease);
    settle(core, step, now).await
}

/// Our own set-up is not ready for this message: it waits, and goes out by itself once that is mended (`look_again`). Said once; a
/// long queue to a partner that is blocked would fill the log and the events otherwise. A test ends with it. `seen`: the version of
/// the objects that this was judged by.
pub(super) async fn not_now(
    core: &Arc<Core>,
    job: &Job,
    mut message: Message,
    seen: i64,
    what: Lacking,
    why: &str,
) -> Result<(), FlowError> {
    let now = core.clock.now();
    let mend = match what {
        Lacking::PartnerBlocked => command("partner unblock", &message.partner, ""),
        Lacking::NoCertificate => format!("as2gate cert add NAME {} --file FILE", option("partner", &message.partner)),
        Lacking::NotConfigured => pairing(&core.objects(), &message),
        Lacking::NoIdentity => MEND.to_owned(),
        Lacking::CannotCompose => format!("mend the settings that it has: {}", command("partner show", &message.partner, "")),
    };
    if message.is_test() {
        // Whoever tests looks on, or has gone away: nothing of it goes out later.
        let verdict = Verdict::failed(what.as_str(), why, &mend);
        let mut step = ended(core, message, verdict, None, &State::WORKED_ON, now);
        step.lease = Some(job.lease);
        return settle(core, step, now).await;
    }
    let state = match message.state {
        // What is unknown stays unknown.
        unknown @ (State::Sending | State::WaitingMdn) => unknown,
        _ if message.attempts == 0 && message.message_id.is_empty() => State::Queued,
        _ => State::Retrying,
    };
    let (id, lease) = (message.id.as_str().to_owned(), job.lease);
    let least = millis(core.config.retry.initial.min(LEAST_WAIT));
    if message.state == state && message.code == what.as_str() && message.reason == why {
        let most = if what == Lacking::PartnerBlocked {
            MOST_WAIT_BLOCKED
        } else {
            MOST_WAIT
        };
        // As long again as it waited already: the row is as old as the trouble.
        let due = now + (now - message.updated).clamp(least, millis(most));
        core.journal.write_sure(move |tx| tx.wait_on(&message, lease, due)).await?;
        tracing::debug!(id, code = what.as_str(), "still waits for settings");
    } else {
        message.state = state;
        message.code = what.to_string();
        message.reason = why.to_owned();
        message.detail.hint = format!("{mend}; the message goes out by itself within a minute");
        message.updated = now;
        message.next_try = Some(now + least);
        let mut step = Settlement::new(message, &State::WORKED_ON, "message.waiting");
        step.lease = Some(lease);
        step.next = Next::At(now + least);
        settle(core, step, now).await?;
    }
    if core.objects().version != seen {
        // Who hurried what waits for settings may have come before this one waited.
        core.journal.write_sure(move |tx| tx.release(&id, now)).await?;
        core.wake();
    }
    Ok(())
}

/// What makes a pair of two that are none, or cannot be used as one.
fn pairing(objects: &Objects, message: &Message) -> String {
    let partner = objects.partner(&message.account, &message.partner);
    match partner.filter(|partner| partner.as2_id != message.station && !partner.trades_with(&message.station)) {
        Some(partner) => partner.trading_with(&message.station),
        None => MEND.to_owned(),
    }
}

/// What no retry mends: the payload cannot be packaged, or its bytes are gone.
pub(super) async fn give_up(core: &Arc<Core>, job: &Job, message: Message, code: &str, why: &str) -> Result<(), FlowError> {
    let now = core.clock.now();
    let hint = "upload it again, mended; `message list --state failed` shows all of these";
    let mut step = ended(core, message, Verdict::failed(code, why, hint), None, &State::WORKED_ON, now);
    // Bytes that are gone cannot be shown.
    step.entries.retain(|entry| {
        entry.store.is_empty() || step.blobs.iter().any(|(key, _)| *key == entry.store) || core.storage.open_staged(&entry.store).is_ok()
    });
    step.lease = Some(job.lease);
    settle(core, step, now).await
}

/// Leaves the message to an operator.
pub(super) async fn hold(core: &Arc<Core>, job: &Job, message: Message, why: &str) -> Result<(), FlowError> {
    let now = core.clock.now();
    let mut step = held(message, why, now);
    step.lease = Some(job.lease);
    settle(core, step, now).await
}

/// The step of a message whose outcome is unknown to an operator's hands.
pub(crate) fn held(mut message: Message, why: &str, now: Millis) -> Settlement {
    let before = std::mem::replace(&mut message.state, State::Held);
    message.code = "outcome-unknown".to_owned();
    message.reason = why.to_owned();
    message.detail.hint = format!("ask the partner; {}", retry_or_cancel(&message));
    message.next_try = None;
    message.updated = now;
    Settlement {
        next: Next::Held,
        ..Settlement::new(message, &[before], "message.held")
    }
}
