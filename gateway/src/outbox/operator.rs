//! What an operator may do with a sent message: the same bytes again, a new message from the old payload, an end.

use std::sync::Arc;

use super::{FlowError, outcome};
use crate::gateway::Core;
use crate::journal::{JournalError, NewUpload};
use crate::layout::{Area, Tray, shelf};
use crate::message::{Detail, Id, Message, State};
use crate::storage::Staged;

/// Posts the stored bytes again at once, under the same Message-ID.
///
/// # Errors
/// `Conflict` if the message is final and not of unknown outcome.
pub async fn retry(core: &Arc<Core>, id: &str) -> Result<Message, FlowError> {
    let (id, now) = (id.to_owned(), core.clock.now());
    let message = core.journal.write(move |tx| tx.retry_now(&id, now)).await?;
    core.wake();
    Ok(message)
}

/// Makes a new message from the payload of an old one; the name window does not count.
///
/// # Errors
/// `Conflict` if the payload's life has ended or the message was received.
pub async fn resend(core: &Arc<Core>, id: &str) -> Result<Message, FlowError> {
    let old = core.journal.read(|tx| tx.find_message(id))?;
    let trays = [
        shelf(Area::Files, &old.station, &old.partner, Tray::Outbox),
        shelf(Area::Files, &old.station, &old.partner, Tray::Failed),
        crate::layout::duplicate_dir(&old.station, &old.partner),
    ];
    let of_payload = |entry: &&crate::journal::Entry| !entry.is_dir && entry.noncurrent.is_none() && trays.iter().any(|tray| entry.parent.starts_with(tray.as_str()));
    let entries = core.journal.read(|tx| tx.entries_of(old.id.as_str()))?;
    let core2 = Arc::clone(core);
    let staged: Staged = match entries.iter().find(of_payload).cloned() {
        Some(entry) => {
            let work = tokio::task::spawn_blocking(move || core2.storage.restage(&entry));
            work.await.map_err(|e| FlowError::Internal(e.to_string()))??
        }
        None => return Err(JournalError::Conflict(format!("the payload of message {} is not kept any more", old.id)).into()),
    };
    let now = core.clock.now();
    let message = Message {
        id: Id::draw(now),
        message_id: String::new(),
        state: State::Queued,
        code: String::new(),
        reason: String::new(),
        created: now,
        updated: now,
        finished: None,
        attempts: 0,
        next_try: None,
        detail: Detail {
            user: old.detail.user.clone(),
            files: old.detail.files.clone(),
            payload: staged.key.clone(),
            previous: old.id.as_str().to_owned(),
            ..Detail::default()
        },
        ..old
    };
    let upload = NewUpload { message: message.clone(), window: None, due: now, inline: staged.blob(), replaces: None };
    core.journal.write(move |tx| tx.accept_upload(upload, now)).await?;
    core.wake();
    Ok(message)
}

/// Gives a message up. If nothing was posted yet, the partner never sees it; else the outcome stays unknown.
///
/// # Errors
/// `Conflict` if it is final already.
pub async fn cancel(core: &Arc<Core>, id: &str) -> Result<Message, FlowError> {
    let mut message = core.journal.read(|tx| tx.find_message(id))?;
    if !message.state.is_in_work() {
        return Err(JournalError::Conflict(format!("message {} is {}; only a message in work can be cancelled", message.id, message.state)).into());
    }
    let before = message.state;
    let posted = message.detail.tries.iter().any(|t| t.body_sent) || before == State::Sending;
    let now = core.clock.now();
    message.code = "cancelled".to_owned();
    message.reason = if posted { "cancelled; the partner may hold it" } else { "cancelled before it was posted" }.to_owned();
    message.updated = now;
    let keys = vec![message.detail.payload.clone(), message.detail.raw.clone()];
    let mut step = outcome::finish(message, State::Failed, None, &[before], now);
    step.frees_name = !posted;
    let message = step.message.clone();
    super::settle(core, step, now).await?;
    core.let_go(keys).await;
    Ok(message)
}
