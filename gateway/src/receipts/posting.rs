//! Our own async MDNs out: the stored bytes, to an address that the partner's settings allow, until one try is taken.

use std::sync::Arc;
use std::time::Duration;

use as2_core::headers::Headers;

use crate::clock::{Millis, millis};
use crate::config::Retry;
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::hint::{command, quoted};
use crate::journal::{InboundRow, Job};
use crate::layout::Area;
use crate::message::{Message, State};
use crate::outbox;
use crate::partnership::Partnership;
use crate::post::{Body, Stage};
use crate::storage::StorageError;
use crate::url::Url;

/// How long the POST of an MDN may take in all (security.md §7).
const MDN_POST: Duration = Duration::from_secs(60);

/// Posts one of our own async MDNs: the stored bytes, on every try (RFC 4130 §7.2).
///
/// # Errors
/// Ours only; the partner's answers are outcomes.
pub async fn post_mdn(core: &Arc<Core>, job: Job) -> Result<(), FlowError> {
    let id = job.message.clone();
    let Some(message) = core.journal.read(|tx| tx.message(&id))? else {
        return end(core, job).await;
    };
    let Some((headers, body)) = stored_mdn(core, &message)? else {
        return end(core, job).await;
    };
    if let Some(why) = superseded(core, &message)? {
        return void(core, message, &why).await;
    }
    let pair = match core.partnership_of(&message) {
        Ok(pair) => pair,
        Err(lack) => return later(core, &job, message, &core.config.retry, &lack.to_string(), None).await,
    };
    let url = message.detail.mdn_url.clone();
    if let Some(why) = denied(&message, &pair, &url) {
        return give_up(core, message, "mdn-destination-denied", why, "mdn.held").await;
    }
    let headers = Headers::parse(headers.as_bytes()).map_err(|e| FlowError::Internal(e.to_string()))?;
    let mut target = outbox::target(core, &pair, &url);
    target.response_timeout = MDN_POST;
    target.total_timeout = Some(MDN_POST);
    if !has_our_login(&pair, &url) {
        target.credentials = None;
        target.client_identity = None;
    }
    let figures = outbox::figures(core, &pair);
    match core.poster.post(&target, &headers, Body::Bytes(body.into()), 64 * 1024).await {
        Ok(answer) if (200..300).contains(&answer.status) => posted(core, message).await,
        Ok(answer) => {
            let asked = outbox::wait_asked(&answer, core.clock.now());
            later(core, &job, message, &figures, &format!("HTTP {}", answer.status), asked).await
        }
        Err(error) if matches!(error.stage, Stage::Url | Stage::Denied) => {
            give_up(core, message, "mdn-destination-denied", error.to_string(), "mdn.held").await
        }
        Err(error) => later(core, &job, message, &figures, &error.to_string(), None).await,
    }
}

/// The MDN that was made for a message: beside the Message-ID that it binds or, if that belongs to another message, as
/// the evidence shows it. `None` where none was made, or it is kept no more.
///
/// # Errors
/// Ours only.
pub fn stored_mdn(core: &Core, message: &Message) -> Result<Option<(String, Vec<u8>)>, FlowError> {
    if let Some(bound) = core.journal.read(|tx| tx.stored_mdn(message))? {
        return Ok(Some(bound));
    }
    let name = format!("{}.mdn", message.id);
    let entries = core.journal.read(|tx| tx.entries_of(message.id.as_str()))?;
    let Some(entry) = entries.iter().find(|entry| entry.area == Area::RawMdn && entry.name == name) else {
        return Ok(None);
    };
    let content = match core.storage.open_kept(entry) {
        Err(StorageError::Missing(_)) => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    content.for_each(64 * 1024, |piece| -> Result<(), StorageError> {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let body = bytes.split_off(end + 4);
    bytes.truncate(end + 2);
    Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), body)))
}

/// Why the MDN of a rejected message is void: its partner posted it again, under the same Message-ID, and one of these two MDNs
/// would contradict the other.
pub(crate) fn superseded(core: &Core, message: &Message) -> Result<Option<String>, FlowError> {
    if message.state != State::Rejected {
        return Ok(None);
    }
    let bound = core
        .journal
        .read(|tx| tx.inbound(&message.station, &message.partner, &message.message_id))?;
    // What is told of as a repeat names the first copy as its previous one.
    let other = |row: &InboundRow| ![message.id.as_str(), &message.detail.previous].contains(&row.message.as_str());
    Ok(bound.filter(other).map(|row| format!("it was received again, as {}", row.message)))
}

async fn void(core: &Arc<Core>, message: Message, why: &str) -> Result<(), FlowError> {
    tracing::info!(id = %message.id, station = message.station, partner = message.partner, why, "MDN void");
    let mark = format!("MDN void: {why}");
    let ended = move |row: &mut Message| {
        row.detail.marks.push(mark);
        true
    };
    settle(core, message, "mdn.void", ended, core.clock.now()).await
}

async fn end(core: &Arc<Core>, job: Job) -> Result<(), FlowError> {
    core.journal.write(move |tx| tx.end_job(&job)).await?;
    Ok(())
}

async fn posted(core: &Arc<Core>, message: Message) -> Result<(), FlowError> {
    let now = core.clock.now();
    tracing::info!(id = %message.id, station = message.station, partner = message.partner, message_id = message.message_id, "MDN posted");
    let url = message.detail.mdn_url.clone();
    let ended = move |row: &mut Message| {
        row.detail.mdn_at = Some(now);
        row.forget_undelivered_mdn();
        // Unless a repeat has asked for another address since the message was read.
        row.detail.mdn_url == url
    };
    settle(core, message, "mdn.posted", ended, now).await
}

/// Ends the job, unless `ended` says that it goes on.
async fn settle(
    core: &Arc<Core>,
    message: Message,
    event: &'static str,
    ended: impl FnOnce(&mut Message) -> bool + Send + 'static,
    now: Millis,
) -> Result<(), FlowError> {
    let change = move |row: &mut Message| {
        row.updated = now;
        ended(row)
    };
    let id = message.id.as_str().to_owned();
    core.journal.write(move |tx| tx.mdn_posted(&id, event, change, now)).await?;
    core.wake();
    Ok(())
}

/// Tries again by the figures, like a message, and no sooner than the partner asked for.
async fn later(
    core: &Arc<Core>,
    job: &Job,
    message: Message,
    figures: &Retry,
    why: &str,
    asked: Option<Duration>,
) -> Result<(), FlowError> {
    let now = core.clock.now();
    let began = message.detail.mdn_asked_again.unwrap_or(message.created);
    if job.tries + 1 >= figures.max_tries || core.jumps.passed(began, now) >= millis(figures.max_time) {
        return give_up(core, message, "mdn-not-delivered", why.to_owned(), "mdn.failed").await;
    }
    let wait = outbox::next_wait(figures, job.tries + 1, asked);
    let (lease, due) = (job.lease, now + millis(wait));
    tracing::warn!(id = %message.id, station = message.station, partner = message.partner, why, "MDN not delivered yet");
    core.journal.write(move |tx| tx.put_back_job(lease, due)).await?;
    Ok(())
}

/// An operator gives up the MDN that is owed for a message. A try that is under way may deliver it all the same.
///
/// # Errors
/// Ours only.
pub(crate) async fn give_up_mdn(core: &Arc<Core>, message: Message, why: &str) -> Result<(), FlowError> {
    give_up(core, message, "mdn-cancelled", why.to_owned(), "mdn.cancelled").await
}

async fn give_up(core: &Arc<Core>, message: Message, code: &str, why: String, event: &'static str) -> Result<(), FlowError> {
    tracing::warn!(id = %message.id, station = message.station, partner = message.partner, code, why, "MDN not delivered");
    let (url, asked) = (message.detail.mdn_url.clone(), message.detail.mdn_asked_again);
    let ended = move |row: &mut Message| {
        // Unless somebody has asked for it again since the message was read.
        let is_over = row.detail.mdn_url == url && row.detail.mdn_asked_again == asked;
        if is_over {
            row.mdn_not_delivered(&why);
        }
        is_over
    };
    settle(core, message, event, ended, core.clock.now()).await
}

/// Whether our certificate and credentials for the partner go along to this address: they belong to the origin of its url, and to
/// the addresses that its settings name besides, as they are (as2.md SEC1).
fn has_our_login(pair: &Partnership, url: &str) -> bool {
    let Ok(to) = Url::parse(url) else { return false };
    let is = |named: &String, same: fn(&Url, &Url) -> bool| Url::parse(named).is_ok_and(|named| same(&named, &to));
    is(&pair.partner.url, Url::same_origin) || pair.partner.mdn_urls.iter().any(|named| is(named, Url::same_address))
}

/// Why an async MDN may not go to this address; `None` where it may. They go only to origins that the partner's settings name;
/// and where no signature proves who asked, only to the very addresses (as2.md SEC1, security.md §5): anybody could have chosen
/// another path or query there.
fn denied(message: &Message, pair: &Partnership, url: &str) -> Option<String> {
    let is_named = |same: fn(&Url, &Url) -> bool| {
        let mut named = std::iter::once(&pair.partner.url).chain(&pair.partner.mdn_urls);
        Url::parse(url).is_ok_and(|to| named.any(|named| Url::parse(named).is_ok_and(|named| same(&named, &to))))
    };
    if !is_named(Url::same_origin) {
        return Some(format!(
            "destination {url} is not among the partner's origins{}",
            allowing(pair, url)
        ));
    }
    let proven = !message.detail.signed.is_empty();
    if !proven && !is_named(Url::same_address) {
        return Some(format!(
            "no signature proves that the partner asked for {url}, and neither its url nor its mdn_urls is this very address{}",
            allowing(pair, url)
        ));
    }
    None
}

/// The command that lets MDNs go to this address, if it is one.
fn allowing(pair: &Partnership, url: &str) -> String {
    if Url::parse(url).is_err() {
        return String::new();
    }
    let urls: Vec<&str> = pair.partner.mdn_urls.iter().map(String::as_str).chain([url]).collect();
    let set = command(
        "partner set",
        &pair.partner.as2_id,
        &format!("--mdn-urls {}", quoted(&urls.join(","))),
    );
    format!("; if it is the partner's: {set}")
}

/// Where the MDN of a message goes after a repeat that asks for it at `asked`. No signature covers the header that says so: an
/// address that it may not go to does not take the place of one that it may.
pub(crate) fn address_of_repeat<'a>(pair: &Partnership, first: Option<&'a Message>, asked: &'a str) -> &'a str {
    match first {
        Some(first) if denied(first, pair, asked).is_some() && denied(first, pair, &first.detail.mdn_url).is_none() => {
            &first.detail.mdn_url
        }
        _ => asked,
    }
}
