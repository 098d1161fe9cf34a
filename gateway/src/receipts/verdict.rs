//! What an MDN means for a message (as2.md §5.4): whose it is, whether it is signed as asked, what it says, and the MIC.

use std::sync::Arc;

use as2_core::id::As2Id;
use as2_core::mdn::Mdn;
use as2_core::message_id::bare;
use as2_core::mic::Mic;
use as2_core::receive::MdnSignature;
use as2_core::{Error, ErrorKind, Lack};

use super::{Evidence, accepting, answered};
use crate::code;
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::hint::{command, option, unknown_pair};
use crate::message::{Message, NO_MIC, RECEIPT_LOST};
use crate::outbox;
use crate::partner::MdnMode;
use crate::partnership::Partnership;
use crate::storage::StorageError;

/// How an MDN reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// In the answer to our own POST.
    InAnswer,
    /// By a POST of its own. `logged_in`: it showed the credentials that its partner has to show, if any.
    Async { logged_in: bool },
}

/// What an MDN means for a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It proves delivery.
    Delivered { marks: Vec<String> },
    /// It ends the message. `refused`: verifiably, the partner holds nothing after the last try.
    Failed {
        code: String,
        reason: String,
        hint: String,
        refused: bool,
    },
    /// A human has to look.
    Held { code: String, reason: String },
    /// It may not change anything; kept and shown as unverified.
    Nothing { code: String, reason: String },
}

impl Verdict {
    /// It ends the message, and whether the partner holds it is not known.
    pub(crate) fn failed(code: impl Into<String>, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Verdict::Failed {
            code: code.into(),
            reason: reason.into(),
            hint: hint.into(),
            refused: false,
        }
    }
}

/// Judges an MDN against the message that it answers (as2.md §5.4, reference README points 3 and 4).
pub(crate) async fn verdict(
    core: &Arc<Core>,
    message: &mut Message,
    pair: &Arc<Partnership>,
    evidence: &Evidence,
    timing: Timing,
) -> Result<Verdict, FlowError> {
    let mdn = &evidence.mdn.mdn;
    if let Some(verdict) = wrong_message(message, mdn, evidence, timing) {
        return Ok(verdict);
    }
    let positive = mdn.disposition.is_positive();
    if let Some(verdict) = signature_lacking(message, pair, evidence, timing, positive) {
        return Ok(verdict);
    }
    let proven = evidence.is_signed() || !wants_signed(message);
    if proven && says_duplicate(message, mdn) {
        return duplicate_notice(core, message, pair, mdn).await;
    }
    if !positive {
        return Ok(negative(message, mdn));
    }
    check_mic(core, message, pair, mdn).await
}

/// Rules 1 and 2: it has to name our message and the swapped pair.
fn wrong_message(message: &Message, mdn: &Mdn, evidence: &Evidence, timing: Timing) -> Option<Verdict> {
    if answered(mdn) != bare(&message.message_id) && !answers_unnamed(mdn, evidence, timing) {
        let reason = format!(
            "the MDN answers {} instead of this message",
            mdn.original_message_id.escape_default()
        );
        return Some(not_ours(timing, code::MDN_MISMATCH, reason));
    }
    let name = |field: &str| evidence.headers.get(field).map(|value| As2Id::readings(value.as_bytes()));
    let (from, to) = (name("AS2-From"), name("AS2-To"));
    let fits = |found: &Option<Result<Vec<As2Id>, Error>>, wanted: &str| match found {
        Some(Ok(readings)) => readings.iter().any(|id| id.as_str() == wanted),
        Some(Err(_)) => false,
        // COMPAT(mendelson): a sync MDN may come without the names (as2.md Q73).
        None => timing == Timing::InAnswer || evidence.is_signed(),
    };
    if !fits(&from, &message.partner) || !fits(&to, &message.station) {
        return Some(not_ours(
            timing,
            code::MDN_MISMATCH,
            "the MDN's AS2-From and AS2-To are not the swapped pair".to_owned(),
        ));
    }
    None
}

/// COMPAT: an MDN without `Original-Message-ID` is known by the connection that it came on, if a pinned certificate signed it; a
/// positive one has to carry a MIC as well, which is compared later.
fn answers_unnamed(mdn: &Mdn, evidence: &Evidence, timing: Timing) -> bool {
    answered(mdn).is_empty() && timing == Timing::InAnswer && evidence.is_signed() && (mdn.mic.is_some() || !mdn.disposition.is_positive())
}

fn not_ours(timing: Timing, code: &str, reason: String) -> Verdict {
    match timing {
        Timing::InAnswer => Verdict::failed(code, reason, "ask the partner whether the message arrived"),
        Timing::Async { .. } => Verdict::Nothing {
            code: code.to_owned(),
            reason,
        },
    }
}

fn wants_signed(message: &Message) -> bool {
    message.detail.mdn_mode.is_some_and(MdnMode::is_signed)
}

/// Rule 3: signed was asked, so only a signature by a pinned certificate lets it change anything; the one exception is a
/// negative answer to our own POST, which nobody else could have given. What came by itself and is not signed counts only where
/// we asked for just that, from whom has logged in.
fn signature_lacking(message: &Message, pair: &Partnership, evidence: &Evidence, timing: Timing, positive: bool) -> Option<Verdict> {
    let asked = wants_signed(message);
    let trouble = match &evidence.mdn.signature {
        MdnSignature::Verified { .. } => return None,
        MdnSignature::None if !asked => match timing {
            Timing::Async { .. } if message.detail.mdn_mode != Some(MdnMode::Async) => {
                "the MDN came by itself and is not signed, and no such one was asked for".to_owned()
            }
            Timing::Async { logged_in: false } => "the MDN is neither signed nor sent with the partner's credentials".to_owned(),
            Timing::InAnswer | Timing::Async { .. } => return None,
        },
        MdnSignature::None => "the MDN is not signed, though a signed one was asked for".to_owned(),
        MdnSignature::Bad(why) => format!("the MDN's signature does not hold: {why}"),
    };
    let unsigned = matches!(evidence.mdn.signature, MdnSignature::None);
    match timing {
        Timing::InAnswer if !positive && unsigned => None,
        Timing::InAnswer => Some(Verdict::failed(
            if unsigned {
                code::MDN_NOT_SIGNED
            } else {
                code::MDN_SIGNATURE_INVALID
            },
            trouble,
            signature_hint(message, pair, evidence),
        )),
        Timing::Async { .. } => Some(Verdict::Nothing {
            code: "mdn-unverified".to_owned(),
            reason: trouble,
        }),
    }
}

/// What to do about an MDN whose signature does not hold, or is not there.
fn signature_hint(message: &Message, pair: &Partnership, evidence: &Evidence) -> String {
    let partner = &message.partner;
    let look = match &evidence.mdn.signature {
        MdnSignature::Bad(Error { kind, .. }) => match kind {
            ErrorKind::InsufficientMessageSecurity(Lack::Digest(digest)) => {
                format!("if it can do no better: {}", command("partner set", partner, accepting(*digest)))
            }
            ErrorKind::AuthenticationFailed => {
                let add = format!("as2gate cert add NAME {} --use sign --file FILE", option("partner", partner));
                let take = format!("if it signs with another certificate: {add}");
                // It knows the message again, and its MDN counts then.
                return match pair.partner.detects_duplicates && !message.is_test() {
                    true => format!("{take}, then as2gate message retry {}", message.id.short()),
                    false => unless_test(message, take),
                };
            }
            _ => "have it look at what it signs: the MDN may have been altered on its way".to_owned(),
        },
        _ => format!("if it signs none: {}", command("partner set", partner, "--mdn sync")),
    };
    unless_test(message, look)
}

/// Nobody needs to know what became of a test.
fn unless_test(message: &Message, look: String) -> String {
    match message.is_test() {
        true => look,
        false => format!("the outcome is unknown: ask the partner; {look}"),
    }
}

/// The partner knows the message already.
///
/// COMPAT(mendelson, pyas2): a repeat whose first MDN was lost is answered with an error of these words (as2.md Q76). Of a first
/// try only their own words are taken for that: others may mean the contents by a "duplicate". No words count beside a modifier that
/// names a fault: "altered, not a duplicate".
pub(super) fn says_duplicate(message: &Message, mdn: &Mdn) -> bool {
    let fault = mdn.disposition.modifier_code();
    let names_no_fault = fault.is_none_or(|code| code.starts_with("unexpected-processing-error"));
    let text = mdn.text.to_ascii_lowercase();
    let any_words = || {
        let names = [&message.file, &message.subject].map(|name| name.to_ascii_lowercase());
        let without = names
            .iter()
            .filter(|name| !name.is_empty())
            .fold(text.clone(), |text, name| text.replace(name, ""));
        without.contains("duplicate")
    };
    let says = || {
        text.contains("already processed")
            || text.contains("already been processed")
            || text.contains("duplicate message")
            || (message.may_have_arrived_before() && any_words())
    };
    mdn.disposition.is_duplicate_notice() || (!mdn.disposition.is_positive() && names_no_fault && says())
}

/// A repeat that the partner knows has arrived, unless it holds other bytes under this Message-ID.
async fn duplicate_notice(core: &Arc<Core>, message: &mut Message, pair: &Arc<Partnership>, mdn: &Mdn) -> Result<Verdict, FlowError> {
    if !message.may_have_arrived_before() {
        return Ok(Verdict::Held {
            code: "duplicate-at-partner".to_owned(),
            reason: format!("the partner calls the first attempt a duplicate: {}", mdn.disposition),
        });
    }
    let told = match mdn.mic {
        Some(_) => check_mic(core, message, pair, mdn).await?,
        None => Verdict::Nothing {
            code: String::new(),
            reason: String::new(),
        },
    };
    Ok(match told {
        Verdict::Nothing { .. } => Verdict::Delivered {
            marks: vec![RECEIPT_LOST.to_owned()],
        },
        told => told,
    })
}

fn negative(message: &Message, mdn: &Mdn) -> Verdict {
    let (station, partner) = (&message.station, &message.partner);
    let code = mdn.disposition.modifier_code().unwrap_or_else(|| "mdn-negative".to_owned());
    let first_line = mdn.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let hint = match code.as_str() {
        "unknown-trading-relationship" | "unknown-trading-partner" => unknown_pair(message),
        "authentication-failed" | "integrity-check-failed" => format!(
            "the partner may hold an old certificate of ours: send it what `{}` prints",
            command("station profile", station, "")
        ),
        "decryption-failed" => format!(
            "we may hold an old certificate of the partner: ask for the current one, then as2gate cert add NAME {} --file FILE --use both",
            option("partner", partner)
        ),
        "insufficient-message-security" => format!(
            "the partner wants more: {}",
            command("partner set", partner, "--sign DIGEST --encrypt CIPHER")
        ),
        "unsupported-mic-algorithms" => {
            let set = command("partner set", partner, "--micalgs DIGESTS");
            send_again(message, format!("ask the partner which digests it takes: {set}"))
        }
        _ if message.is_test() => format!(
            "the partner's words stand above; ask it what its log says about {}",
            message.message_id
        ),
        _ => send_again(message, "the partner's words stand above; mend the cause".to_owned()),
    };
    Verdict::Failed {
        code,
        reason: format!("{} {}", mdn.disposition, first_line).trim().to_owned(),
        hint: if message.may_have_arrived_before() {
            format!("an earlier try may have arrived: ask the partner first; {hint}")
        } else {
            hint
        },
        refused: true,
    }
}

/// A test is made anew, and not sent again.
fn send_again(message: &Message, hint: String) -> String {
    match message.is_test() {
        true => hint,
        false => format!("{hint}, then as2gate message resend {}", message.id.short()),
    }
}

fn candidates(message: &Message) -> Vec<Mic> {
    let all = std::iter::once(&message.detail.mic).chain(message.detail.mics.iter().map(|c| &c.mic));
    all.filter_map(|text| Mic::parse(text).ok()).collect()
}

/// Rule 4: a positive MDN needs a MIC that is ours.
async fn check_mic(core: &Arc<Core>, message: &mut Message, pair: &Arc<Partnership>, mdn: &Mdn) -> Result<Verdict, FlowError> {
    let Some(mic) = &mdn.mic else {
        if let Some(text) = &mdn.unreadable_mic {
            return Ok(unreadable_mic(message, text));
        }
        if pair.partner.strict_mic {
            return Ok(mic_failure(
                "mic-missing",
                "the MDN carries no MIC, and the partner is set to strict".to_owned(),
            ));
        }
        // COMPAT(pyas2, OpenAS2): no MIC for unsigned messages or without micalg (as2.md Q9).
        return Ok(Verdict::Delivered {
            marks: vec![NO_MIC.to_owned()],
        });
    };
    if candidates(message).contains(mic) {
        return Ok(Verdict::Delivered {
            marks: if mic.digest.is_legacy() {
                vec![mic.digest.name().to_uppercase()]
            } else {
                Vec::new()
            },
        });
    }
    // The MDN may name an algorithm that was not computed while packaging; then it is computed now.
    let known = candidates(message).iter().any(|c| c.digest == mic.digest);
    if !known {
        let lost = match outbox::add_mics(core, message, pair, mic.digest).await {
            Ok(true) => None,
            Ok(false) => Some("the settings have changed since it was sent"),
            Err(FlowError::Storage(StorageError::Missing(_))) => Some("the payload is kept no more"),
            Err(error) => return Err(error),
        };
        if let Some(why) = lost {
            return Ok(Verdict::Nothing {
                code: "mic-unknown".to_owned(),
                reason: format!("{why}, so that its MIC by {} cannot be computed", mic.digest.name()),
            });
        }
        if candidates(message).contains(mic) {
            return Ok(Verdict::Delivered {
                marks: vec![format!("MIC by {}", mic.digest.name())],
            });
        }
    }
    Ok(mic_failure(
        "mic-mismatch",
        format!("the partner's MIC {mic} is not ours, {}", message.detail.mic),
    ))
}

/// A MIC without the name of its algorithm may still be ours; any other text that cannot be read is not.
fn unreadable_mic(message: &Message, text: &str) -> Verdict {
    let bare = text.trim();
    let is_ours = |mic: &Mic| mic.to_string().split(',').next() == Some(bare);
    if candidates(message).iter().any(is_ours) {
        return Verdict::Delivered {
            marks: vec!["MIC without algorithm".to_owned()],
        };
    }
    let shown = bare.escape_default();
    mic_failure("mic-mismatch", format!("the partner's MIC `{shown}` cannot be read"))
}

fn mic_failure(code: &str, reason: String) -> Verdict {
    Verdict::failed(
        code,
        reason,
        "the partner holds something else than was sent: ask it before anything is sent again",
    )
}
