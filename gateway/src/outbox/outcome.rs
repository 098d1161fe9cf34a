//! What an answer means (as2.md §6.2, §5.4): the one table from the wire to a message's state.

use std::sync::Arc;
use std::time::Duration;

use as2_core::mdn::is_closed;

use super::retry::{figures, is_over, next_wait};
use crate::clock::{Millis, millis};
use crate::code;
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::hint::{command, unknown_pair};
use crate::journal::{NewEntry, Next, Settlement};
use crate::layout::{self, Area, Tray};
use crate::message::{Message, State};
use crate::partnership::Partnership;
use crate::post::{Answer, MAY_HOLD, PostError, Stage};
use crate::receipts::{self, Evidence, Timing, Verdict};
use crate::url::Url;

/// Longest wait that a partner's `Retry-After` may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// What becomes of a message after a try.
#[derive(Debug)]
pub(super) enum After {
    /// Judged: by the receipt, or by all that will come.
    Ended(Verdict, Option<Box<Evidence>>),
    /// Again, with the same bytes.
    Again {
        code: &'static str,
        reason: String,
        /// What to do, for somebody who looks on.
        hint: String,
        not_before: Option<Duration>,
    },
    /// The async receipt is due.
    WaitMdn,
}

/// Judges what a try came to.
pub(super) async fn judge(
    core: &Arc<Core>,
    message: &mut Message,
    pair: &Arc<Partnership>,
    posted: Result<&Answer, &PostError>,
) -> Result<After, FlowError> {
    let answer = match posted {
        Ok(answer) => answer,
        Err(error) => return Ok(judge_error(message, error)),
    };
    if let Some(evidence) = mdn_in(core, pair, answer).await? {
        core.metrics.mdn_came("sync", &evidence.mdn);
        let verdict = receipts::verdict(core, message, pair, &evidence, Timing::InAnswer).await?;
        return Ok(After::Ended(verdict, Some(Box::new(evidence))));
    }
    Ok(judge_status(message, pair, answer, core.clock.now()))
}

/// The MDN that an answer is, if it is one. Of an answer that was cut off one counts whose signature proves that it is whole.
pub(super) async fn mdn_in(core: &Arc<Core>, pair: &Arc<Partnership>, answer: &Answer) -> Result<Option<Evidence>, FlowError> {
    if answer.body.is_empty() || answer.over_limit {
        return Ok(None);
    }
    let read = receipts::read_mdn(core, pair, answer.headers.clone(), answer.body.clone()).await?;
    Ok(read.filter(|evidence| evidence.is_signed() || !is_cut_off(answer)))
}

/// Whether some of an answer is lacking. Where only the end of the connection ends it, that may have come anywhere, and a
/// multipart tells by its last boundary (RFC 9112 §8).
fn is_cut_off(answer: &Answer) -> bool {
    let is_closed = || is_closed(&answer.headers, &answer.body);
    let closed = answer.until_close.then(is_closed).flatten();
    !closed.unwrap_or(answer.complete)
}

fn judge_error(message: &Message, error: &PostError) -> After {
    let again = |code, hint: String| After::Again {
        code,
        reason: error.to_string(),
        hint,
        not_before: None,
    };
    match error.stage {
        Stage::Url => failed(code::BAD_URL, error.to_string(), &error.hint),
        Stage::Denied if error.retry => again(code::DESTINATION_DENIED, error.hint.clone()),
        Stage::Denied => failed(code::DESTINATION_DENIED, error.to_string(), &error.hint),
        Stage::Token if !error.retry => failed(code::TOKEN_REFUSED, error.to_string(), &error.hint),
        Stage::TlsTrust => again(code::TLS_UNTRUSTED, error.hint.clone()),
        _ if error.hint.is_empty() || error.hint == MAY_HOLD => again(code::NOT_DELIVERED, ask_for_log(message)),
        _ => again(code::NOT_DELIVERED, error.hint.clone()),
    }
}

fn judge_status(message: &Message, pair: &Partnership, answer: &Answer, now: Millis) -> After {
    use crate::partner::MdnMode;
    let status = answer.status;
    // What was asked for is frozen with the message; the setting may have changed since.
    let mode = message.detail.mdn_mode.unwrap_or(pair.partner.mdn);
    match (status, mode) {
        (200..300, _) if !answer.body_sent => After::Again {
            code: "answer-too-early",
            reason: format!("HTTP {status} before the whole message was sent"),
            hint: ask_for_log(message),
            not_before: None,
        },
        (200..300, MdnMode::None) => After::Ended(Verdict::Delivered { marks: Vec::new() }, None),
        (200..300, mode) if mode.is_async() => After::WaitMdn,
        // RFC 4130 §5.5: the reply could not be read, so the same content goes again under the same Message-ID.
        (200..300, _) if is_cut_off(answer) && !answer.over_limit => After::Again {
            code: "answer-cut-off",
            reason: "the connection was lost inside the partner's answer".to_owned(),
            hint: ask_for_log(message),
            not_before: None,
        },
        (200..300, _) => failed(
            code::NO_MDN,
            format!("HTTP {status} without the MDN that was asked for"),
            &format!(
                "ask the partner whether the message arrived; `as2gate message retry {}` posts the same bytes again",
                message.id.short()
            ),
        ),
        (300..400, _) => failed(
            code::REDIRECT,
            format!("HTTP {status}: redirects are not followed"),
            &format!(
                "give it the address that it redirects to: {}",
                command("partner set", &message.partner, "--url URL")
            ),
        ),
        // Only a proxy says 407 (RFC 9110 §15.5.8): the partner has not seen the message.
        (407, _) => After::Again {
            code: "http-status",
            reason: "the proxy wants other credentials: HTTP 407".to_owned(),
            hint: status_hint(status, message, pair),
            not_before: None,
        },
        (408 | 425 | 429, _) | (500.., _) => After::Again {
            code: "http-status",
            reason: format!("HTTP {status}"),
            hint: status_hint(status, message, pair),
            not_before: wait_asked(answer, now),
        },
        _ => failed(
            &code::http(status),
            format!("HTTP {status}{}", body_excerpt(answer)),
            &status_hint(status, message, pair),
        ),
    }
}

/// How long a partner's answer asks us to wait, as far as we honour it.
pub(crate) fn wait_asked(answer: &Answer, now: Millis) -> Option<Duration> {
    let wait = answer.headers.get("Retry-After").and_then(|text| retry_after(text.trim(), now));
    wait.map(|wait| wait.min(MAX_RETRY_AFTER))
}

/// Seconds or a date (RFC 9110 §10.2.3).
fn retry_after(text: &str, now: Millis) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()?
        .as_millisecond();
    Some(Duration::from_millis(u64::try_from(at - now).unwrap_or(0)))
}

fn failed(code: &str, reason: String, hint: &str) -> After {
    After::Ended(Verdict::failed(code, reason, hint), None)
}

/// The partner's text, short and without anything that a terminal would obey.
fn body_excerpt(answer: &Answer) -> String {
    let text: String = String::from_utf8_lossy(&answer.body)
        .chars()
        .take(120)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

fn status_hint(status: u16, message: &Message, pair: &Partnership) -> String {
    let set = |options: &str| command("partner set", &message.partner, options);
    let station = &message.station;
    let in_clear = || Url::parse(&pair.partner.url).is_ok_and(|url| !url.is_https());
    match status {
        // COMPAT(tinyproxy): it says 401 to a wrong password, where others say 407.
        401 if !pair.partner.proxy.is_empty() && in_clear() => format!(
            "the partner or the proxy wants credentials: {}, or {}",
            set("--http-user USER --http-password file:PATH"),
            set("--proxy-user USER --proxy-password file:PATH")
        ),
        401 => format!(
            "the partner wants credentials: {}",
            set("--http-user USER --http-password file:PATH")
        ),
        403 => format!("the partner refuses us: ask whether our address and our AS2 id {station} are registered"),
        407 => format!(
            "look at the proxy and how we log in there: {}",
            set("--proxy-user USER --proxy-password file:PATH")
        ),
        404 => format!("the partner's url is wrong: {}", set("--url URL")),
        411 => format!("the partner wants a Content-Length: {}", set("--chunked false")),
        413 => "the partner's size limit is smaller than the message".to_owned(),
        415 => format!(
            "the partner refuses the content type; ask what it wants: {}",
            set("--sign DIGEST --encrypt CIPHER --content-type TYPE")
        ),
        416 => format!("the partner does not know AS2 Restart: {}", set("--restart false")),
        422 => format!("the partner does not know this pair: {}", unknown_pair(message)),
        408 | 425 | 429 | 503 => format!("its server is busy or down: try it later; {}", ask_for_log(message)),
        _ => ask_for_log(message),
    }
}

fn ask_for_log(message: &Message) -> String {
    format!("ask the partner what its log says about {}", message.message_id)
}

/// What an operator can do about a message of unknown outcome.
pub(super) fn retry_or_cancel(message: &Message) -> String {
    let id = message.id.short();
    format!("`as2gate message retry {id}` posts the same bytes again, `as2gate message cancel {id}` gives up")
}

/// Turns what became of a try into a step of the message.
pub(super) fn step(core: &Core, mut message: Message, pair: &Partnership, after: After) -> Settlement {
    let now = core.clock.now();
    message.updated = now;
    match after {
        After::Ended(verdict, evidence) => ended(core, message, verdict, evidence.map(|boxed| *boxed), &State::WORKED_ON, now),
        After::WaitMdn => {
            let wait = millis(figures(core, pair).mdn_wait);
            message.state = State::WaitingMdn;
            message.reason = "posted; waiting for the MDN".to_owned();
            message.code = String::new();
            message.detail.mdn_due = Some(now + wait);
            let mut step = Settlement::new(message, &State::WORKED_ON, "message.posted");
            step.next = Next::At(now + wait);
            step
        }
        After::Again {
            code,
            reason,
            hint,
            not_before,
        } => again(core, message, pair, code, (reason, hint), not_before),
    }
}

/// What a message becomes that is judged: by an answer, an MDN that was posted to us, a deadline or an operator.
pub(crate) fn ended(
    core: &Core,
    mut message: Message,
    verdict: Verdict,
    evidence: Option<Evidence>,
    expected: &[State],
    now: Millis,
) -> Settlement {
    message.updated = now;
    match verdict {
        Verdict::Delivered { marks } => {
            message.detail.marks.extend(marks);
            finish(message, State::Delivered, evidence, expected, now)
        }
        Verdict::Failed {
            code,
            reason,
            hint,
            refused,
        } => {
            (message.code, message.reason, message.detail.hint) = (code, reason, hint);
            message.detail.refused = refused;
            let mut step = finish(message, State::Failed, evidence, expected, now);
            step.frees_name = step.message.frees_name(core.config.uploads.duplicate_release);
            step
        }
        Verdict::Held { code, reason } => {
            (message.state, message.code, message.reason) = (State::Held, code, reason);
            message.detail.hint = retry_or_cancel(&message);
            let mut step = Settlement::new(message, expected, "message.held");
            step.next = Next::Held;
            keep(&mut step, evidence, now);
            step
        }
        // No other answer comes to a POST.
        Verdict::Nothing { code, reason } => {
            let verdict = Verdict::failed(code, reason, "ask the partner whether the message arrived before you resend it");
            ended(core, message, verdict, evidence, expected, now)
        }
    }
}

/// The end of a sent message: its file goes to `outbox` or `failed`.
fn finish(mut message: Message, state: State, evidence: Option<Evidence>, expected: &[State], now: Millis) -> Settlement {
    message.state = state;
    message.finished = Some(now);
    message.next_try = None;
    if state == State::Delivered {
        message.code.clear();
        message.reason.clear();
        message.detail.hint.clear();
    }
    let tray = if state == State::Delivered { Tray::Outbox } else { Tray::Failed };
    let shelf = layout::shelf(Area::Files, &message.station, &message.partner, tray);
    let (id, file) = (message.id.as_str().to_owned(), message.file.clone());
    let (payload, size) = (message.detail.payload.clone(), message.size);
    let event = if state == State::Delivered {
        "message.delivered"
    } else {
        "message.failed"
    };
    let mut step = Settlement::new(message, expected, event);
    step.entries.push(NewEntry::dir(Area::Files, shelf.clone(), &id));
    step.entries
        .push(NewEntry::file(Area::Files, format!("{shelf}/{id}"), &file, &payload, size));
    if !step.message.detail.raw.is_empty() {
        super::attempt::keep_evidence(&mut step, false);
    }
    keep(&mut step, evidence, now);
    step
}

/// Keeps an MDN as evidence: in the row, and as a file in the tree.
pub(crate) fn keep(step: &mut Settlement, evidence: Option<Evidence>, now: Millis) {
    let Some(evidence) = evidence else { return };
    let decides = step.message.detail.mdn_at.is_none();
    evidence.note(&mut step.message, now);
    evidence.show_in(step, now, decides);
}

fn again(
    core: &Core,
    message: Message,
    pair: &Partnership,
    code: &str,
    (reason, hint): (String, String),
    not_before: Option<Duration>,
) -> Settlement {
    let now = core.clock.now();
    let figures = figures(core, pair);
    let body_left = message.may_have_arrived();
    if message.is_test() {
        // Whoever tests looks on, and hears of the first trouble at once; nobody is there for the tries after that.
        let code = if body_left { code::NO_MDN } else { code::NOT_DELIVERED };
        return ended(core, message, Verdict::failed(code, reason, hint), None, &State::WORKED_ON, now);
    }
    // Nobody needs to see all tries fail to know what helps.
    let reason = match code {
        code::DESTINATION_DENIED | code::TLS_UNTRUSTED => format!("{reason}; {hint}"),
        _ => reason,
    };
    if body_left && !pair.partner.detects_duplicates {
        let verdict = Verdict::Held {
            code: "outcome-unknown".to_owned(),
            reason: format!("{reason}; the partner may hold the message and does not detect duplicates"),
        };
        return ended(core, message, verdict, None, &State::WORKED_ON, now);
    }
    let tries = message.tries_that_count();
    if is_over(core, &message, &figures) {
        let code = if body_left { code::NO_MDN } else { code::NOT_DELIVERED };
        let reason = format!("given up after {tries} tries: {reason}");
        let hint = format!("`as2gate message retry {}` once the cause is mended", message.id.short());
        return ended(core, message, Verdict::failed(code, reason, hint), None, &State::WORKED_ON, now);
    }
    let due = now + millis(next_wait(&figures, tries.max(1), not_before));
    retrying(message, code, reason, due)
}

/// A message that is posted once more, at this time.
pub(super) fn retrying(mut message: Message, code: &str, reason: String, due: Millis) -> Settlement {
    message.state = State::Retrying;
    message.code = code.to_owned();
    message.reason = reason;
    message.next_try = Some(due);
    let mut settlement = Settlement::new(message, &State::WORKED_ON, "message.retrying");
    settlement.next = Next::At(due);
    settlement
}

#[cfg(test)]
mod tests;
