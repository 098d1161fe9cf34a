//! Receipts: reading an MDN, what it may change (as2.md §5.4), async MDNs in, and our own async MDNs out.

use std::sync::Arc;

use as2_core::algorithm::Digest;
use as2_core::headers::Headers;
use as2_core::mdn::Mdn;
use as2_core::mic::Mic;
use as2_core::receive::{
    Incoming, Limits, MdnSignature, PartInfo, PayloadSink, Received, ReceivedMdn, Receiver, SecurityPolicy, SinkError,
};

use crate::clock::{Millis, millis};
use crate::gateway::Core;
use crate::helper::with_permit;
use crate::journal::{Blob, Job, NewEntry, Next, Settlement};
use crate::layout::{self, Area, MdnDirection};
use crate::message::{Attempt, Message, State};
use crate::outbox::{self, FlowError};
use crate::partnership::Partnership;
use crate::post::{Body, Stage};
use crate::storage::Staged;

/// Longest MDN that is read (security.md §7).
pub(crate) const MAX_MDN: u64 = 1 << 20;
/// An MDN of this size, far above what they have, is checked where it came in: another thread costs more than the check.
const IN_PLACE: usize = 32 * 1024;

/// An MDN as it came, with what it says.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// What it says and how its signature stands.
    pub mdn: ReceivedMdn,
    /// Header block as received.
    pub headers: Headers,
    /// Body as received.
    pub body: Vec<u8>,
}

/// How an MDN reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// In the answer to our own POST.
    InAnswer,
    /// By a POST of its own.
    Async,
}

/// What an MDN means for a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It proves delivery.
    Delivered { marks: Vec<String> },
    /// It ends the message. `refused`: verifiably, the partner holds nothing.
    Failed {
        code: String,
        reason: String,
        hint: String,
        refused: bool,
        marks: Vec<String>,
    },
    /// A human has to look.
    Held { code: String, reason: String },
    /// It may not change anything; kept and shown as unverified.
    Nothing { code: String, reason: String },
}

impl Evidence {
    /// Writes into the row what the MDN says.
    pub(crate) fn note(&self, message: &mut Message, now: Millis) {
        let detail = &mut message.detail;
        detail.mdn_disposition = self.mdn.mdn.disposition.to_string();
        detail.mdn_text = self
            .mdn
            .mdn
            .text
            .chars()
            .take(2000)
            .filter(|c| !c.is_control() || *c == '\n')
            .collect();
        detail.mdn_at = Some(now);
        detail.mdn_signature = match &self.mdn.signature {
            MdnSignature::None => "unsigned",
            MdnSignature::Verified { .. } => "signed",
            MdnSignature::Bad(_) => "unverified",
        }
        .to_owned();
    }

    /// Header block, blank line and body.
    fn to_bytes(&self) -> Vec<u8> {
        [&self.headers.to_bytes()[..], b"\r\n", &self.body].concat()
    }

    /// The file that shows it in `raw-mdn/incoming`.
    pub(crate) fn file(&self, message: &Message, now: Millis) -> (NewEntry, Blob) {
        let staged = Staged::small(self.to_bytes());
        let first = message.detail.mdn_at.is_none_or(|at| at == now);
        let name = if first {
            format!("{}.mdn", message.id)
        } else {
            layout::tagged(&format!("{}.mdn", message.id), &now.to_string())
        };
        let entry = NewEntry::file(
            Area::RawMdn,
            layout::mdn_dir(MdnDirection::Incoming).to_owned(),
            &name,
            &staged.key,
            staged.len,
        );
        (entry, (staged.key, staged.inline.unwrap_or_default()))
    }
}

/// An MDN has no payload; whatever comes is dropped.
struct NoPayload;

impl PayloadSink for NoPayload {
    fn part(&mut self, _: PartInfo) -> Result<(), SinkError> {
        Ok(())
    }
    fn data(&mut self, _: &[u8]) -> Result<(), SinkError> {
        Ok(())
    }
    fn part_end(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Reads bytes as an MDN of this partner; `None` if they are something else.
pub(crate) async fn read_mdn(
    core: &Arc<Core>,
    pair: &Arc<Partnership>,
    headers: Headers,
    body: Vec<u8>,
) -> Result<Option<Evidence>, FlowError> {
    if body.len() <= IN_PLACE {
        let mdn = parse(pair, &headers, &body, &[]);
        return Ok(mdn.map(|mdn| Evidence { mdn, headers, body }));
    }
    let pair = Arc::clone(pair);
    with_permit(core, move |_| {
        let mdn = parse(&pair, &headers, &body, &[]);
        mdn.map(|mdn| Evidence { mdn, headers, body })
    })
    .await
}

/// Parses and verifies; policy on content does not apply to an MDN, the pinned certificates do.
pub(crate) fn parse(pair: &Partnership, headers: &Headers, body: &[u8], also_hash: &[Digest]) -> Option<ReceivedMdn> {
    let policy = SecurityPolicy {
        require_signed: false,
        require_encrypted: false,
        ..policy(pair)
    };
    let incoming = Incoming {
        headers,
        identities: &pair.identities,
        signers: &pair.signers,
        policy,
        limits: Limits { max_payload: MAX_MDN },
        also_hash,
    };
    parse_as(incoming, body)
}

fn parse_as(incoming: Incoming<'_>, body: &[u8]) -> Option<ReceivedMdn> {
    let mut receiver = Receiver::new(incoming).ok()?;
    receiver.push(body, &mut NoPayload).ok()?;
    match receiver.finish(&mut NoPayload) {
        Ok(Received::Mdn(mdn)) => Some(*mdn),
        Ok(Received::Message(_)) => None,
        Err(failure) => match failure.rehash() {
            Some(digest) if !incoming.also_hash.contains(&digest) => parse_as(
                Incoming {
                    also_hash: &[digest],
                    ..incoming
                },
                body,
            ),
            _ => None,
        },
    }
}

/// What the partner's settings allow on receipt.
pub(crate) fn policy(pair: &Partnership) -> SecurityPolicy {
    let partner = &pair.partner;
    SecurityPolicy {
        require_signed: partner.require_signed,
        require_encrypted: partner.require_encrypted,
        legacy_sha1: partner.legacy,
        accept_md5: partner.accept_md5,
        accept_3des: partner.accept_3des,
    }
}

/// Judges an MDN against the message that it answers (as2.md §5.4, reference README points 3 and 4).
pub(crate) async fn verdict(
    core: &Arc<Core>,
    message: &Message,
    pair: &Arc<Partnership>,
    evidence: &Evidence,
    timing: Timing,
) -> Result<Verdict, FlowError> {
    let mdn = &evidence.mdn.mdn;
    if let Some(verdict) = wrong_message(message, mdn, evidence, timing) {
        return Ok(verdict);
    }
    let positive = mdn.disposition.is_positive();
    if let Some(verdict) = signature_lacking(message, evidence, timing, positive) {
        return Ok(verdict);
    }
    let proven = matches!(evidence.mdn.signature, MdnSignature::Verified { .. }) || !message.detail.mdn_mode.ends_with("signed");
    if proven && (mdn.disposition.is_duplicate_notice() || (!positive && says_duplicate(&mdn.text))) {
        return Ok(duplicate_notice(message, mdn));
    }
    if !positive {
        return Ok(negative(mdn));
    }
    check_mic(core, message, pair, mdn).await
}

/// Rules 1 and 2: it has to name our message and the swapped pair.
fn wrong_message(message: &Message, mdn: &Mdn, evidence: &Evidence, timing: Timing) -> Option<Verdict> {
    if answered(mdn) != bare(&message.message_id) {
        let reason = format!(
            "the MDN answers {} instead of this message",
            mdn.original_message_id.escape_default()
        );
        return Some(not_ours(timing, "mdn-mismatch", reason));
    }
    let name = |field: &str| {
        evidence
            .headers
            .get(field)
            .map(|value| as2_core::id::As2Id::readings(value.as_bytes()))
    };
    let (from, to) = (name("AS2-From"), name("AS2-To"));
    let fits = |found: &Option<Result<Vec<as2_core::id::As2Id>, as2_core::Error>>, wanted: &str| match found {
        Some(Ok(readings)) => readings.iter().any(|id| id.as_str() == wanted),
        Some(Err(_)) => false,
        // COMPAT(mendelson): a sync MDN may come without the names (as2.md Q73).
        None => timing == Timing::InAnswer || matches!(evidence.mdn.signature, MdnSignature::Verified { .. }),
    };
    if !fits(&from, &message.partner) || !fits(&to, &message.station) {
        return Some(not_ours(
            timing,
            "mdn-mismatch",
            "the MDN's AS2-From and AS2-To are not the swapped pair".to_owned(),
        ));
    }
    None
}

fn not_ours(timing: Timing, code: &str, reason: String) -> Verdict {
    match timing {
        Timing::InAnswer => Verdict::Failed {
            code: code.to_owned(),
            reason,
            hint: "ask the partner whether the message arrived".to_owned(),
            refused: false,
            marks: Vec::new(),
        },
        Timing::Async => Verdict::Nothing {
            code: code.to_owned(),
            reason,
        },
    }
}

/// Rule 3: signed was asked, so only a signature by a pinned certificate lets it change anything; the one exception is a
/// negative answer to our own POST, which nobody else could have given.
fn signature_lacking(message: &Message, evidence: &Evidence, timing: Timing, positive: bool) -> Option<Verdict> {
    let asked = message.detail.mdn_mode.ends_with("signed");
    let trouble = match &evidence.mdn.signature {
        MdnSignature::Verified { .. } => return None,
        MdnSignature::None if !asked => return None,
        MdnSignature::None => "the MDN is not signed, though a signed one was asked for".to_owned(),
        MdnSignature::Bad(why) => format!("the MDN's signature does not hold: {why}"),
    };
    let unsigned = matches!(evidence.mdn.signature, MdnSignature::None);
    match timing {
        Timing::InAnswer if !positive && unsigned => None,
        Timing::InAnswer => Some(Verdict::Failed {
            code: if unsigned { "mdn-not-signed" } else { "mdn-signature-invalid" }.to_owned(),
            reason: trouble,
            hint: "the outcome is unknown: ask the partner; look at its signing certificate and the partner's setting mdn".to_owned(),
            refused: false,
            marks: Vec::new(),
        }),
        Timing::Async => Some(Verdict::Nothing {
            code: "mdn-unverified".to_owned(),
            reason: trouble,
        }),
    }
}

/// COMPAT(mendelson, pyas2): a repeat whose first MDN was lost is answered with an error of these words (as2.md Q76).
fn says_duplicate(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("already processed") || text.contains("already been processed") || text.contains("duplicate message")
}

fn duplicate_notice(message: &Message, mdn: &Mdn) -> Verdict {
    let mut tries = message.detail.tries.iter().rev();
    let posted_before = tries.next().is_some_and(|last| last.twice) || tries.any(Attempt::may_have_arrived);
    if posted_before {
        let equal = mdn.mic.as_ref().is_some_and(|mic| candidates(message).contains(mic));
        let marks = if equal { Vec::new() } else { vec!["receipt lost".to_owned()] };
        return Verdict::Delivered { marks };
    }
    Verdict::Held {
        code: "duplicate-at-partner".to_owned(),
        reason: format!("the partner calls the first attempt a duplicate: {}", mdn.disposition),
    }
}

fn negative(mdn: &Mdn) -> Verdict {
    let code = mdn.disposition.modifier_code().unwrap_or_else(|| "mdn-negative".to_owned());
    let first_line = mdn.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let hint = match code.as_str() {
        "unknown-trading-relationship" | "unknown-trading-partner" => "ask the partner to register our AS2 id, exact in case",
        "authentication-failed" | "integrity-check-failed" => "the partner may hold an old certificate of ours: send it `station profile`",
        "decryption-failed" => "we may hold an old certificate of the partner: ask for the current one",
        "insufficient-message-security" => "the partner wants more: partner set … --sign, --encrypt",
        _ => "the partner's words are in `message show`; mend the cause, then `message resend`",
    };
    Verdict::Failed {
        code,
        reason: format!("{} {}", mdn.disposition, first_line).trim().to_owned(),
        hint: hint.to_owned(),
        refused: true,
        marks: Vec::new(),
    }
}

fn candidates(message: &Message) -> Vec<Mic> {
    let all = std::iter::once(&message.detail.mic).chain(message.detail.mics.iter().map(|c| &c.mic));
    all.filter_map(|text| Mic::parse(text).ok()).collect()
}

/// Rule 4: a positive MDN needs a MIC that is ours.
async fn check_mic(core: &Arc<Core>, message: &Message, pair: &Arc<Partnership>, mdn: &Mdn) -> Result<Verdict, FlowError> {
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
            marks: vec!["no MIC".to_owned()],
        });
    };
    if candidates(message).contains(mic) {
        let weak = matches!(mic.digest, Digest::Sha1 | Digest::Md5);
        return Ok(Verdict::Delivered {
            marks: if weak { vec![mic.digest.name().to_uppercase()] } else { Vec::new() },
        });
    }
    // The MDN may name an algorithm that was not computed while packaging; then it is computed now.
    let known = candidates(message).iter().any(|c| c.digest == mic.digest);
    if !known {
        let computed = crate::outbox::mic_with(core, message, pair, mic.digest).await?;
        if computed.contains(mic) {
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
    Verdict::Failed {
        code: code.to_owned(),
        reason,
        hint: "the partner holds something else than was sent: ask it before anything is sent again".to_owned(),
        refused: false,
        marks: Vec::new(),
    }
}

/// Takes an MDN that a partner posted. Whatever it is, the partner gets a 2xx once this returns.
pub(crate) async fn take_async(core: &Arc<Core>, pair: &Arc<Partnership>, evidence: Evidence) -> Result<(), FlowError> {
    let id = answered(&evidence.mdn.mdn).to_owned();
    let found = core.journal.read(|tx| tx.sent_by_message_id(&id))?;
    let ours = |m: &&Message| m.station == pair.station.as2_id && m.partner == pair.partner.as2_id;
    let Some(message) = found.iter().find(ours).cloned() else {
        let kept = keep_unknown(core, &evidence);
        tracing::warn!(
            station = pair.station.as2_id,
            partner = pair.partner.as2_id,
            message_id = id,
            kept,
            "MDN for an unknown message ignored"
        );
        return Ok(());
    };
    let verdict = verdict(core, &message, pair, &evidence, Timing::Async).await?;
    apply(core, message, verdict, evidence).await
}

/// Takes an MDN without AS2 names: the one message that has the id tells whose it must be, and only its signature counts
/// (as2.md §5.4 rule 2). False if it is no MDN at all.
pub(crate) async fn take_nameless(
    core: &Arc<Core>,
    headers: Headers,
    body: Vec<u8>,
    allowed: impl Fn(&Partnership) -> bool,
) -> Result<bool, FlowError> {
    let anybodys = Incoming {
        headers: &headers,
        identities: &[],
        signers: &[],
        policy: SecurityPolicy::default(),
        limits: Limits { max_payload: MAX_MDN },
        also_hash: &[],
    };
    let Some(mdn) = parse_as(anybodys, &body) else { return Ok(false) };
    let id = answered(&mdn.mdn).to_owned();
    let found = core.journal.read(|tx| tx.sent_by_message_id(&id))?;
    let pair = match found.as_slice() {
        [only] => core.partnership(&only.station, &only.partner).ok().filter(|pair| allowed(pair)),
        _ => None,
    };
    if let Some(pair) = pair {
        let read = read_mdn(core, &pair, headers.clone(), body.clone()).await?;
        if let Some(evidence) = read.filter(|read| matches!(read.mdn.signature, MdnSignature::Verified { .. })) {
            take_async(core, &pair, evidence).await?;
            return Ok(true);
        }
    }
    let kept = keep_unknown(core, &Evidence { mdn, headers, body });
    tracing::warn!(message_id = id, kept, "MDN without AS2 names ignored");
    Ok(true)
}

/// The Message-ID that an MDN answers, without brackets.
fn answered(mdn: &Mdn) -> &str {
    bare(&mdn.original_message_id)
}

/// A Message-ID without brackets, also where only one is left: partners change them (as2.md Q21).
fn bare(message_id: &str) -> &str {
    message_id.trim().trim_start_matches('<').trim_end_matches('>')
}

/// Keeps an MDN that belongs to nothing, for diagnosis; where. Nobody may find out which Message-IDs exist (security.md §4).
fn keep_unknown(core: &Core, evidence: &Evidence) -> Option<String> {
    match core.storage.unknown_mdns().keep(&evidence.to_bytes(), core.clock.now()) {
        Ok(kept) => kept.map(|path| path.display().to_string()),
        Err(error) => {
            tracing::warn!(%error, "an MDN for an unknown message cannot be kept");
            None
        }
    }
}

async fn apply(core: &Arc<Core>, message: Message, verdict: Verdict, evidence: Evidence) -> Result<(), FlowError> {
    let now = core.clock.now();
    let late = message.state == State::Failed && matches!(message.code.as_str(), "no-mdn" | "not-delivered");
    let open = [State::Sending, State::WaitingMdn, State::Retrying, State::Held, State::Queued];
    let step = match verdict {
        Verdict::Delivered { mut marks } if late => {
            marks.push("late".to_owned());
            return deliver_late(core, message, marks, evidence, now).await;
        }
        _ if message.state.is_final() => evidence_only(message, evidence, now, "mdn.repeated"),
        Verdict::Delivered { marks } => {
            let mut message = message;
            message.detail.marks.extend(marks);
            message.updated = now;
            outbox::finish(message, State::Delivered, Some(evidence), &open, now)
        }
        Verdict::Failed {
            code,
            reason,
            hint,
            refused,
            marks,
        } => {
            let mut message = message;
            (message.code, message.reason, message.detail.hint) = (code, reason, hint);
            message.detail.marks.extend(marks);
            message.updated = now;
            let mut step = outbox::finish(message, State::Failed, Some(evidence), &open, now);
            step.frees_name = refused && core.config.uploads.duplicate_release != crate::config::DuplicateRelease::Never;
            step
        }
        Verdict::Held { code, reason } => {
            let mut message = message;
            (message.state, message.code, message.reason) = (State::Held, code, reason);
            message.updated = now;
            let mut step = Settlement::new(message, &open, "message.held");
            outbox::keep(&mut step, Some(evidence), now);
            step
        }
        Verdict::Nothing { code, reason } => {
            tracing::warn!(id = %message.id, code, reason, "MDN kept, but changes nothing");
            evidence_only(message, evidence, now, "mdn.unverified")
        }
    };
    outbox::settle(core, step, now).await
}

/// Kept and shown; the message stays as it is.
fn evidence_only(message: Message, evidence: Evidence, now: Millis, event: &'static str) -> Settlement {
    let state = message.state;
    let mut step = Settlement::new(message, &[state], event);
    let (entry, blob) = evidence.file(&step.message, now + 1);
    step.entries.push(entry);
    step.blobs.push(blob);
    step.next = Next::Keep;
    step
}

/// A valid positive MDN after the wait had ended: the file moves from `failed` to `outbox`.
async fn deliver_late(
    core: &Arc<Core>,
    mut message: Message,
    marks: Vec<String>,
    evidence: Evidence,
    now: Millis,
) -> Result<(), FlowError> {
    let shelf = |tray| layout::shelf(Area::Files, &message.station, &message.partner, tray);
    let (from, to) = (shelf(layout::Tray::Failed), shelf(layout::Tray::Outbox));
    let (from_dir, to_dir) = (format!("{from}/{}", message.id), format!("{to}/{}", message.id));
    // What is not at its place yet would be put to the old one behind our back.
    let publishing = Arc::clone(core);
    let published = tokio::task::spawn_blocking(move || {
        while publishing.storage.publish_batch()?.placed > 0 {}
        Ok::<_, crate::storage::StorageError>(())
    });
    published.await.map_err(|e| FlowError::Internal(e.to_string()))??;
    let entries: Vec<_> = core
        .journal
        .read(|tx| tx.entries_of(message.id.as_str()))?
        .into_iter()
        .filter(|e| e.parent == from_dir)
        .collect();
    for entry in &entries {
        core.storage.link_into(entry, &to_dir)?;
    }
    message.detail.marks.extend(marks);
    message.state = State::Delivered;
    message.code.clear();
    message.reason.clear();
    message.detail.hint.clear();
    message.updated = now;
    let id = message.id.as_str().to_owned();
    let mut step = Settlement::new(message, &[State::Failed], "message.delivered");
    outbox::keep(&mut step, Some(evidence), now);
    step.moved = Some((from_dir, to_dir));
    step.entries.push(NewEntry::dir(Area::Files, to, &id));
    outbox::settle(core, step, now).await?;
    for entry in &entries {
        core.storage.unpublish(entry);
    }
    Ok(())
}

/// How long the POST of an MDN may take in all (security.md §7).
const MDN_POST: std::time::Duration = std::time::Duration::from_secs(60);

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
    let pair = match core.partnership(&message.station, &message.partner) {
        Ok(pair) => pair,
        Err(lack) => return later(core, &job, message, &lack.to_string()).await,
    };
    let url = message.detail.mdn_url.clone();
    if !destination_allowed(&pair, &url) {
        return give_up(
            core,
            message,
            "mdn-destination-denied",
            format!("destination {url} is not among the partner's origins"),
            "mdn.held",
        )
        .await;
    }
    let headers = Headers::parse(headers.as_bytes()).map_err(|e| FlowError::Internal(e.to_string()))?;
    let mut target = outbox::target(core, &pair, &url);
    target.response_timeout = MDN_POST;
    target.total_timeout = Some(MDN_POST);
    let path = |url: &str| url.split(['?', '#']).next().unwrap_or_default().to_owned();
    if path(&pair.partner.url) != path(&url) {
        // The sender chose path and query; credentials belong to the address they were given for (as2.md SEC1).
        target.basic_auth = None;
        target.client_identity = None;
    }
    match core.poster.post(&target, &headers, Body::Bytes(body.into()), 64 * 1024).await {
        Ok(answer) if (200..300).contains(&answer.status) => posted(core, message).await,
        Ok(answer) => later(core, &job, message, &format!("HTTP {}", answer.status)).await,
        Err(error) if matches!(error.stage, Stage::Url | Stage::Denied) => {
            give_up(core, message, "mdn-destination-denied", error.to_string(), "mdn.held").await
        }
        Err(error) => later(core, &job, message, &error.to_string()).await,
    }
}

/// The MDN that was made for a message: beside the Message-ID that it binds or, if that belongs to another message, as
/// the evidence shows it.
fn stored_mdn(core: &Core, message: &Message) -> Result<Option<(String, Vec<u8>)>, FlowError> {
    if let Some(bound) = core.journal.read(|tx| tx.stored_mdn(message))? {
        return Ok(Some(bound));
    }
    let name = format!("{}.mdn", message.id);
    let entries = core.journal.read(|tx| tx.entries_of(message.id.as_str()))?;
    let Some(entry) = entries.iter().find(|entry| entry.area == Area::RawMdn && entry.name == name) else {
        return Ok(None);
    };
    let content = core.storage.open_entry(entry)?;
    let mut bytes = Vec::new();
    content.for_each(64 * 1024, |piece| -> Result<(), crate::storage::StorageError> {
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

async fn end(core: &Arc<Core>, job: Job) -> Result<(), FlowError> {
    core.journal.write(move |tx| tx.end_job(&job)).await?;
    Ok(())
}

async fn posted(core: &Arc<Core>, mut message: Message) -> Result<(), FlowError> {
    let now = core.clock.now();
    message.detail.mdn_at = Some(now);
    message.detail.marks.retain(|mark| !mark.starts_with("MDN not"));
    message.updated = now;
    tracing::info!(id = %message.id, station = message.station, partner = message.partner, message_id = message.message_id, "MDN posted");
    core.journal.write(move |tx| tx.mdn_posted(&message, "mdn.posted", now)).await?;
    Ok(())
}

async fn later(core: &Arc<Core>, job: &Job, message: Message, why: &str) -> Result<(), FlowError> {
    let retry = &core.config.retry;
    let now = core.clock.now();
    if job.tries + 1 >= retry.max_tries || now - message.created >= millis(retry.max_time) {
        return give_up(core, message, "mdn-not-delivered", why.to_owned(), "mdn.failed").await;
    }
    let wait = outbox::retry_wait(retry.initial, retry.factor, retry.max_wait, job.tries + 1, retry.jitter, 0.0);
    let (id, fence, due) = (job.id, job.fence, now + millis(wait));
    tracing::warn!(id = %message.id, station = message.station, partner = message.partner, why, "MDN not delivered yet");
    core.journal.write(move |tx| tx.put_back_job(id, fence, due)).await?;
    Ok(())
}

async fn give_up(core: &Arc<Core>, mut message: Message, code: &str, why: String, event: &'static str) -> Result<(), FlowError> {
    let now = core.clock.now();
    tracing::warn!(id = %message.id, station = message.station, partner = message.partner, code, why, "MDN not delivered");
    message.detail.marks.push(format!("MDN not delivered: {why}"));
    message.updated = now;
    core.journal.write(move |tx| tx.mdn_posted(&message, event, now)).await?;
    Ok(())
}

/// Async MDNs go only to origins that the partner entry names (as2.md SEC1).
pub(crate) fn destination_allowed(pair: &Partnership, url: &str) -> bool {
    same_origin(&pair.partner.url, url) || pair.partner.mdn_urls.iter().any(|allowed| same_origin(allowed, url))
}

/// Scheme, host and port agree.
fn same_origin(one: &str, other: &str) -> bool {
    match (origin(one), origin(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: hyper::Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    if uri.authority()?.as_str().contains('@') {
        return None;
    }
    let default = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    Some((scheme, uri.host()?.to_ascii_lowercase(), uri.port_u16().unwrap_or(default)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_whole() {
        assert!(same_origin("https://a.example/as2", "HTTPS://A.example:443/mdn?x=1"));
        for other in [
            "http://a.example/",
            "https://b.example/",
            "https://a.example:444/",
            "https://x@a.example/",
            "file:///etc",
            "gopher://a.example/",
        ] {
            assert!(!same_origin("https://a.example/as2", other), "{other}");
        }
    }
}
