//! Going on with a POST that broke off (draft-harding-as2-restart-07), for partners whose setting says so.
//!
//! The transfer id is frozen with the message, as the `ETag` of its header block. Before a retry, `HEAD` asks the partner how
//! much it holds; the POST then brings the rest. The bytes are the same at every try, so a partner that knows nothing of
//! this gets the whole message.

use std::time::Duration;

use as2_core::headers::Headers;

use super::attempt::MAX_ANSWER;
use super::outcome::{self, After};
use super::retry::{figures, is_over, next_wait};
use crate::clock::{Millis, millis};
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::journal::Settlement;
use crate::message::{Attempt, Message, RECEIPT_LOST};
use crate::partner::Partner;
use crate::partnership::Partnership;
use crate::post::{Answer, PostError, Stage, Target};
use crate::receipts::{Evidence, Verdict};

/// Shorter messages always go whole: asking costs as much as sending.
pub(super) const WORTH_FROM: u64 = 64 * 1024;
/// Begins the outcome of a try that found the partner still busy with the one before.
const BUSY: &str = "the partner is busy with the try before";
/// Begins the outcome of a try whose question something on the way to the partner answered, or the partner in its haste.
const UNTOLD: &str = "the partner does not tell now how much it holds";
/// Begins the outcome of a try whose question got no answer at all.
const UNANSWERED: &str = "the partner does not answer how much it holds";
/// In the outcome of a try that brought only a rest, before its first byte.
pub(super) const GONE_ON: &str = "gone on at byte";
/// How long the answer to the question may take: the partner only looks something up.
const LOOK_UP: Duration = Duration::from_secs(60);
/// So many milliseconds after a POST its partner may be busy with it: this gateway lets a connection go that has been silent for
/// two minutes, and says so until then.
const BUSY_FOR: Millis = 120_000;
/// What a HEAD says of us besides the transfer.
const NAMES: [&str; 5] = ["AS2-Version", "AS2-From", "AS2-To", "ETag", "User-Agent"];

/// Gives a message of this length its transfer id, if its partner can make use of one.
///
/// # Errors
/// No randomness.
pub(super) fn tag(headers: &mut Headers, len: u64, partner: &Partner) -> Result<(), as2_core::Error> {
    if !partner.restart || len < WORTH_FROM || headers.get("ETag").is_some() {
        return Ok(());
    }
    let mut random = [0u8; 16];
    openssl::rand::rand_bytes(&mut random)?;
    headers.push("ETag", &format!("\"{}\"", as2_core::hex(&random)))
}

/// What one try came to.
pub(super) struct Posted {
    pub(super) outcome: Result<Answer, PostError>,
    /// The first byte that went out; those before it were with the partner.
    pub(super) from: u64,
}

/// Posts a message, or what the partner lacks of it.
///
/// # Errors
/// Ours only.
pub(super) async fn post(core: &Core, message: &Message, pair: &Partnership, target: &Target) -> Result<Posted, FlowError> {
    let partner = &pair.partner;
    let mut headers = Headers::parse(&message.detail.head()).map_err(|e| FlowError::Internal(e.to_string()))?;
    // Of the last try, or made while the partner was set otherwise.
    headers.remove("Content-Range");
    let resumable = partner.restart && message.detail.raw_size >= WORTH_FROM && headers.get("ETag").is_some();
    if !resumable {
        if !partner.headers.keys().any(|name| name.eq_ignore_ascii_case("ETag")) {
            headers.remove("ETag");
        }
        let body = super::attempt::body(core, message)?;
        let outcome = core.poster.post(target, &headers, body, MAX_ANSWER).await;
        return Ok(Posted { outcome, from: 0 });
    }
    let mut from = match kept_bytes(core, message, pair, target, &headers).await {
        Ok(kept) => go_on_at(kept, message.detail.raw_size),
        Err(error) => {
            return Ok(Posted {
                outcome: Err(error),
                from: 0,
            });
        }
    };
    let outcome = piece(core, message, target, &headers, from).await?;
    let Some(other) = corrected(&outcome, message.detail.raw_size).filter(|other| *other != from) else {
        return Ok(Posted { outcome, from });
    };
    from = other;
    let outcome = piece(core, message, target, &headers, from).await?;
    Ok(Posted { outcome, from })
}

/// Posts everything from a byte on.
async fn piece(
    core: &Core,
    message: &Message,
    target: &Target,
    headers: &Headers,
    from: u64,
) -> Result<Result<Answer, PostError>, FlowError> {
    let len = message.detail.raw_size;
    let mut headers = headers.clone();
    headers
        .push("Content-Range", &format!("bytes {from}-{}/{len}", len - 1))
        .map_err(|e| FlowError::Internal(e.to_string()))?;
    let body = super::attempt::body(core, message)?.skip(from);
    Ok(core.poster.post(target, &headers, body, MAX_ANSWER).await)
}

/// Asks the partner how much it holds, if an earlier try may have left anything there. "Not now" counts for nothing where it would
/// be the last word on the message, and neither does silence, which a second time in a row means that the question does not get
/// through: something on the way may let no `HEAD` pass.
///
/// # Errors
/// No answer, or one that says "not now": beginning anew would waste what is there.
async fn kept_bytes(core: &Core, message: &Message, pair: &Partnership, target: &Target, headers: &Headers) -> Result<u64, PostError> {
    let earlier = message.detail.tries.split_last().map_or(&[][..], |(_, earlier)| earlier);
    if message.detail.whole || !earlier.iter().any(may_have_left) {
        return Ok(0);
    }
    let is_last = || is_over(core, message, &figures(core, pair));
    let answer = match ask(core, pair, target, headers).await {
        Ok(answer) => answer,
        Err(error) if !is_silence(&error) => return Err(error),
        Err(_) if is_last() || was_asked_in_vain(earlier) => return Ok(0),
        Err(error) => {
            return Err(PostError {
                text: format!("{UNANSWERED}: {error}"),
                ..error
            });
        }
    };
    if let Some(why) = not_now(answer.status, || may_be_busy(earlier, core.clock.now()))
        && !is_last()
    {
        return Err(PostError::new(Stage::Head, format!("{why}: HTTP {}", answer.status), ""));
    }
    let length = answer.headers.get("Content-Length").filter(|_| (200..300).contains(&answer.status));
    Ok(length.and_then(|length| length.trim().parse().ok()).unwrap_or(0))
}

/// The question.
async fn ask(core: &Core, pair: &Partnership, target: &Target, headers: &Headers) -> Result<Answer, PostError> {
    let mut question = Headers::new();
    for name in NAMES {
        if let Some(value) = headers.get(name) {
            // It came out of a header block, so it fits into one.
            let _ = question.push(name, value);
        }
    }
    let target = Target {
        response_timeout: target.response_timeout.min(LOOK_UP),
        ..super::attempt::target(core, pair, &target.url)
    };
    core.poster.ask(&target, &question).await.map_err(|error| PostError {
        // Nothing of the message was on its way.
        body_sent: false,
        ..error
    })
}

/// Whether the partner was there and did not answer; where nobody was, a POST fares no better.
fn is_silence(error: &PostError) -> bool {
    matches!(error.stage, Stage::Send | Stage::Head)
}

/// Whether a question stayed without an answer since the partner last answered one.
fn was_asked_in_vain(earlier: &[Attempt]) -> bool {
    let answered = |attempt: &&Attempt| attempt.outcome.contains(GONE_ON) || attempt.outcome.starts_with(BUSY);
    let mut since = earlier.iter().rev().take_while(|attempt| !answered(attempt));
    since.any(|attempt| attempt.outcome.starts_with(UNANSWERED))
}

/// Why what is held may be told later, going by the status of the answer.
fn not_now(status: u16, may_be_busy: impl FnOnce() -> bool) -> Option<&'static str> {
    match status {
        // A partner that says so for ever does not know the question (as2.md §9).
        500 => may_be_busy().then_some(BUSY),
        // Of a balancer without its partner, or of whoever has too much to do: they know nothing of what is held.
        408 | 429 | 502..=504 => Some(UNTOLD),
        _ => None,
    }
}

/// Whether the partner may still be busy with what was posted before.
fn may_be_busy(earlier: &[Attempt], now: Millis) -> bool {
    let only_asked = |attempt: &&Attempt| [BUSY, UNTOLD, UNANSWERED].iter().any(|why| attempt.outcome.starts_with(why));
    let posted = earlier.iter().rfind(|attempt| !only_asked(attempt));
    posted.is_none_or(|posted| now - (posted.at + posted.took) <= BUSY_FOR)
}

/// Whether bytes of the message may lie with the partner after this try.
fn may_have_left(attempt: &Attempt) -> bool {
    attempt.status.is_none_or(|status| status == 408 || !(300..500).contains(&status))
}

/// Where to go on: where everything is there, the last byte moves the partner to work on it; nonsense means the beginning.
fn go_on_at(held: u64, len: u64) -> u64 {
    match held {
        _ if held > len => 0,
        _ if held == len => len - 1,
        _ => held,
    }
}

/// Where a refused range should have begun: what `Content-Range: bytes */held` of a 416 says, or the beginning.
fn corrected(outcome: &Result<Answer, PostError>, len: u64) -> Option<u64> {
    let answer = outcome.as_ref().ok().filter(|answer| answer.status == 416)?;
    let held = answer.headers.get("Content-Range").and_then(|range| range.trim().rsplit_once("*/"));
    let held = held.and_then(|(_, held)| held.trim().parse().ok()).unwrap_or(0);
    Some(go_on_at(held, len))
}

/// Turns what became of a try that began at this byte into a step of the message. A partner that knows no ranges took the rest for
/// all of the message, so that its refusal says nothing of the message: it gets all of it, once.
pub(super) fn step(core: &Core, message: Message, pair: &Partnership, from: u64, after: After) -> Settlement {
    match after {
        After::Ended(Verdict::Failed { reason, refused, .. }, evidence)
            if from > 0 && may_get_all(&message, pair.partner.detects_duplicates, refused, evidence.is_some()) =>
        {
            whole_next(core, message, pair, &reason, evidence.as_deref())
        }
        // What is not new to it may be the rest that it refused.
        After::Ended(Verdict::Delivered { marks }, evidence) if message.detail.whole && marks.iter().any(|mark| mark == RECEIPT_LOST) => {
            let held = Verdict::Held {
                code: "duplicate-at-partner".to_owned(),
                reason: "the partner calls all of the message a duplicate, of which it refused a part: ask it what it holds".to_owned(),
            };
            outcome::step(core, message, pair, After::Ended(held, evidence))
        }
        after => outcome::step(core, message, pair, after),
    }
}

/// Whether the last try, which brought a rest, ended in a refusal that all of the message may follow.
fn may_get_all(message: &Message, detects_duplicates: bool, refused: bool, by_mdn: bool) -> bool {
    let status = message.detail.tries.last().and_then(|last| last.status).unwrap_or_default();
    let negative = refused || !by_mdn && (400..500).contains(&status);
    negative && !message.detail.whole && (detects_duplicates || !message.may_have_arrived_before())
}

/// One more try, whatever their number.
fn whole_next(core: &Core, mut message: Message, pair: &Partnership, reason: &str, evidence: Option<&Evidence>) -> Settlement {
    let now = core.clock.now();
    let due = now + millis(next_wait(&figures(core, pair), message.tries_that_count().max(1), None));
    message.detail.whole = true;
    if let Some(last) = message.detail.tries.last_mut() {
        // Not all of the message was in it, and what was is refused.
        last.body_sent = false;
    }
    message.updated = now;
    let reason = format!("the partner refused what it lacked, so all of the message goes next: {reason}");
    let mut step = outcome::retrying(message, "rest-refused", reason, due);
    if let Some(evidence) = evidence {
        evidence.show_in(&mut step, now, false);
    }
    step
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::message::{Direction, State};

    #[test]
    fn the_place_to_go_on_lies_within_the_message() {
        assert_eq!([0, 1, 99, 100, 101, u64::MAX].map(|held| go_on_at(held, 100)), [0, 1, 99, 99, 0, 0]);
    }

    fn tried(at: Millis, status: Option<u16>, outcome: &str, body_sent: bool) -> Attempt {
        Attempt {
            n: 1,
            at,
            took: 5_000,
            status,
            outcome: outcome.to_owned(),
            body_sent,
            twice: false,
        }
    }

    #[test]
    fn a_refused_rest_is_followed_by_all_of_the_message_once() {
        let mut message = Message::new(Direction::Out, State::Sending, ("a", "b", "c"), 0);
        let mut of = |whole, status, before, detects, refused, by_mdn| {
            message.detail.whole = whole;
            message.detail.tries = vec![tried(0, None, "cut off", before), tried(9, Some(status), "answered", true)];
            may_get_all(&message, detects, refused, by_mdn)
        };
        assert!(
            of(false, 200, false, false, true, true) && of(false, 200, true, true, true, true),
            "a negative MDN"
        );
        assert!(of(false, 400, false, false, false, false), "a status that is final");
        assert!(
            !of(true, 200, false, true, true, true) && !of(true, 400, false, true, false, false),
            "only once"
        );
        assert!(
            !of(false, 200, true, false, true, true),
            "it may hold the message from before, and would not see that"
        );
        for status in [200, 302] {
            assert!(!of(false, status, false, true, false, false), "HTTP {status} without an MDN");
        }
        for status in [200, 400] {
            assert!(
                !of(false, status, false, true, false, true),
                "an MDN that refuses nothing, as of another MIC"
            );
        }
    }

    #[test]
    fn a_partner_is_busy_for_as_long_as_it_may_be_with_the_post_before() {
        let attempt = |at, outcome: &str| tried(at, None, outcome, false);
        let [busy, untold] = [format!("{BUSY}: HTTP 500"), format!("{UNTOLD}: HTTP 504")];
        let silent = format!("{UNANSWERED}: closed");
        let tries = [
            attempt(0, "closed"),
            attempt(30_000, &busy),
            attempt(90_000, &untold),
            attempt(95_000, &silent),
        ];
        for earlier in [&tries[..1], &tries[..2], &tries[..3], &tries[..]] {
            assert!(may_be_busy(earlier, 125_000) && !may_be_busy(earlier, 125_001));
        }
    }

    #[test]
    fn a_partner_that_went_on_with_a_message_is_asked_once_more() {
        let [silent, busy] = [format!("{UNANSWERED}: closed"), format!("{BUSY}: HTTP 500")];
        let gone_on = format!("closed, {GONE_ON} 9");
        let in_vain = |outcomes: &[&str]| {
            let tries: Vec<Attempt> = outcomes.iter().map(|outcome| tried(0, None, outcome, false)).collect();
            was_asked_in_vain(&tries)
        };
        assert!(in_vain(&["closed", &silent]) && in_vain(&["closed", &silent, "closed"]));
        assert!(in_vain(&[&gone_on, &silent]));
        for answered in [&gone_on, &busy] {
            assert!(!in_vain(&["closed", &silent, answered]), "{answered}");
        }
        assert!(!in_vain(&["closed"]) && !in_vain(&[]));
    }

    #[test]
    fn what_answers_in_the_partners_place_ends_no_transfer() {
        for status in [408, 429, 502, 503, 504] {
            assert_eq!(not_now(status, || false), Some(UNTOLD), "{status}");
        }
        assert_eq!([true, false].map(|busy| not_now(500, || busy)), [Some(BUSY), None]);
        for status in [200, 204, 301, 400, 401, 403, 404, 405, 407, 410, 501, 505] {
            assert_eq!(not_now(status, || true), None, "{status}");
        }
    }

    #[test]
    fn only_messages_worth_it_get_a_transfer_id_of_their_own() {
        let on = Partner {
            restart: true,
            ..Partner::default()
        };
        let tagged = |len, partner: &Partner| {
            let mut headers = Headers::new();
            tag(&mut headers, len, partner).unwrap();
            headers.get("ETag").map(str::to_owned)
        };
        let (one, other) = (tagged(WORTH_FROM, &on).unwrap(), tagged(WORTH_FROM, &on).unwrap());
        assert!(
            one != other && one.len() == 34 && one.starts_with('"') && one.ends_with('"'),
            "{one}"
        );
        assert_eq!(tagged(WORTH_FROM - 1, &on), None);
        assert_eq!(tagged(WORTH_FROM, &Partner::default()), None);
    }
}
