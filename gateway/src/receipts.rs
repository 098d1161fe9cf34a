//! Receipts: reading an MDN, judging it (`verdict.rs`), what it then changes (as2.md §5.4), async MDNs in, and our own async
//! MDNs out (`posting.rs`).

mod posting;
mod verdict;

use std::sync::Arc;

use as2_core::algorithm::Digest;
use as2_core::headers::Headers;
use as2_core::mdn::Mdn;
use as2_core::message_id::bare;
use as2_core::receive::{
    Incoming, Limits, MdnSignature, PartInfo, PayloadSink, Received, ReceivedMdn, Receiver, SecurityPolicy, SinkError,
};

use crate::clock::Millis;
use crate::code;
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::helper::with_permit;
use crate::journal::{JournalError, Moved, NewEntry, Next, Settlement};
use crate::layout::{self, Area, MdnDirection};
use crate::message::{Message, State};
use crate::outbox;
use crate::partnership::Partnership;
use crate::random::random;
use crate::storage::Staged;

pub(crate) use posting::{address_of_repeat, give_up_mdn, superseded};
pub use posting::{post_mdn, stored_mdn};
use verdict::says_duplicate;
pub(crate) use verdict::verdict;
pub use verdict::{Timing, Verdict};

/// Longest MDN that is read (security.md §7).
pub(crate) const MAX_MDN: u64 = 1 << 20;
/// MDNs kept of a message that changed nothing, as files and events; of those that its partner signed, twice as many. Partners
/// repeat themselves, and whoever saw a Message-ID can make up others.
const MAX_BESIDE: usize = 20;
/// How often an MDN is judged whose message is moved meanwhile. Once is enough for those that come at the same time: the first
/// one ends it. An operator may have it retried in between.
const LOOKS: u32 = 3;
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

impl Evidence {
    /// A pinned certificate of the partner signed it.
    pub(crate) fn is_signed(&self) -> bool {
        matches!(self.mdn.signature, MdnSignature::Verified { .. })
    }

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

    /// Has a step show it as a file in `raw-mdn/incoming`. The first that decided something has the message's name; others, of
    /// which several may come at a time, have one of their own.
    pub(crate) fn show_in(&self, step: &mut Settlement, now: Millis, decides: bool) {
        let staged = Staged::small(self.to_bytes());
        let name = format!("{}.mdn", step.message.id);
        let name = if decides {
            name
        } else {
            layout::tagged(&name, &format!("{now}-{:08x}", u32::from_be_bytes(random())))
        };
        step.entries.push(NewEntry::file(
            Area::RawMdn,
            layout::mdn_dir(MdnDirection::Incoming).to_owned(),
            &name,
            &staged.key,
            staged.len,
        ));
        step.blobs.push((staged.key, staged.inline.unwrap_or_default()));
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
    if body.len() <= IN_PLACE && is_in_clear(&headers) {
        let mdn = parse(pair, &headers, &body, &[]);
        return Ok(mdn.map(|mdn| Evidence { mdn, headers, body }));
    }
    let (pair, bytes) = (Arc::clone(pair), u64::try_from(body.len()).unwrap_or(u64::MAX));
    with_permit(core, bytes, move |_| {
        let mdn = parse(&pair, &headers, &body, &[]);
        mdn.map(|mdn| Evidence { mdn, headers, body })
    })
    .await
}

/// What it costs to read lies in its length: nothing is decrypted or inflated.
fn is_in_clear(headers: &Headers) -> bool {
    let media = headers.get("Content-Type").unwrap_or_default().trim_start().to_ascii_lowercase();
    media.starts_with("multipart/")
}

/// By what a message asks for a receipt.
const RECEIPT_REQUEST: [&str; 3] = [
    "Disposition-Notification-To",
    "Disposition-Notification-Options",
    "Receipt-Delivery-Option",
];

/// Parses and verifies; policy on content does not apply to an MDN, the pinned certificates do. One that is encrypted by CBC and not
/// signed is none: whether it can be read would tell its padding.
pub(crate) fn parse(pair: &Partnership, headers: &Headers, body: &[u8], also_hash: &[Digest]) -> Option<ReceivedMdn> {
    let policy = SecurityPolicy {
        require_signed: true,
        require_encrypted: false,
        ..policy(pair)
    };
    // COMPAT: some ask for a receipt of their receipt, which nobody may be given (RFC 8098 §2.1).
    let mut headers = headers.clone();
    RECEIPT_REQUEST.iter().for_each(|name| headers.remove(name));
    let incoming = Incoming {
        headers: &headers,
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

/// The option of a partner by which [its policy](policy) accepts an old digest.
pub(crate) fn accepting(digest: Digest) -> &'static str {
    match digest {
        Digest::Md5 => "--accept-md5 true",
        _ => "--legacy true",
    }
}

/// Takes an MDN that a partner posted, `logged_in` if it had to. Whatever it is, the partner gets a 2xx once this returns.
pub(crate) async fn take_async(core: &Arc<Core>, pair: &Arc<Partnership>, evidence: Evidence, logged_in: bool) -> Result<(), FlowError> {
    core.metrics.mdn_came("async", &evidence.mdn);
    for _ in 1..LOOKS {
        match take_once(core, pair, evidence.clone(), logged_in).await {
            // Another MDN or somebody else was faster: it means what it means for the message as that is now.
            Err(FlowError::Journal(JournalError::Conflict(why))) => tracing::debug!(why, "an MDN is looked at again"),
            other => return other,
        }
    }
    take_once(core, pair, evidence, logged_in).await
}

async fn take_once(core: &Arc<Core>, pair: &Arc<Partnership>, evidence: Evidence, logged_in: bool) -> Result<(), FlowError> {
    let id = answered(&evidence.mdn.mdn).to_owned();
    let found = core.journal.read_few(|tx| tx.sent_by_message_id(&id))?;
    let (station, partner) = (&pair.station, &pair.partner);
    let ours = |m: &&Message| m.account == station.account && m.station == station.as2_id && m.partner == partner.as2_id;
    let Some(mut message) = found.iter().find(ours).cloned() else {
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
    if message.state.is_final() && !may_be_late(&message) {
        // Whatever it says; its MIC may be one that would have to be computed.
        return keep_repeated(core, message, &evidence, core.clock.now()).await;
    }
    let verdict = verdict(core, &mut message, pair, &evidence, Timing::Async { logged_in }).await?;
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
    let found = core.journal.read_few(|tx| tx.sent_by_message_id(&id))?;
    let pair = match found.as_slice() {
        [only] => core.partnership_of(only).ok().filter(|pair| allowed(pair)),
        _ => None,
    };
    if let Some(pair) = pair {
        let read = read_mdn(core, &pair, headers.clone(), body.clone()).await?;
        if let Some(evidence) = read.filter(Evidence::is_signed) {
            // Its signature alone counts.
            take_async(core, &pair, evidence, false).await?;
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

/// Given up without a word of its partner, which may still come: no MDN was in time, or a later try met something else while an
/// earlier one may have arrived.
fn may_be_late(message: &Message) -> bool {
    message.state == State::Failed && code::may_be_late(&message.code, message.may_have_arrived())
}

async fn apply(core: &Arc<Core>, message: Message, verdict: Verdict, evidence: Evidence) -> Result<(), FlowError> {
    let now = core.clock.now();
    let late = may_be_late(&message);
    let verdict = match verdict {
        Verdict::Delivered { mut marks } if late => {
            marks.push("late".to_owned());
            return deliver_late(core, message, marks, evidence, now).await;
        }
        _ if message.state.is_final() => return keep_repeated(core, message, &evidence, now).await,
        Verdict::Held { .. } if message.state == State::Held => return keep_repeated(core, message, &evidence, now).await,
        Verdict::Nothing { code, reason } => {
            tracing::warn!(id = %message.id, code, reason, "MDN changes nothing");
            return keep_beside(core, message, &evidence, now, "mdn.unverified").await;
        }
        verdict => verdict,
    };
    let step = outbox::ended(core, message, verdict, Some(evidence), &State::IN_WORK, now);
    outbox::settle(core, step, now).await
}

/// Keeps an MDN that came too late to move its message.
pub(crate) async fn keep_late(core: &Arc<Core>, id: &str, evidence: &Evidence) -> Result<(), FlowError> {
    match core.journal.read_few(|tx| tx.message(id))? {
        Some(message) => keep_repeated(core, message, evidence, core.clock.now()).await,
        None => Ok(()),
    }
}

/// Keeps one of a message that is decided. Where its partner says with its signature the contrary of what was decided, a person has
/// to look; who else says so may be anybody.
async fn keep_repeated(core: &Arc<Core>, message: Message, evidence: &Evidence, now: Millis) -> Result<(), FlowError> {
    let mdn = &evidence.mdn.mdn;
    let repeats = mdn.disposition.to_string() == message.detail.mdn_disposition || says_duplicate(&message, mdn);
    let contradicts = !repeats && mdn.disposition.is_positive() != (message.state == State::Delivered);
    if !(contradicts && evidence.is_signed() && message.state.is_final()) {
        return keep_beside(core, message, evidence, now, "mdn.repeated").await;
    }
    tracing::warn!(
        id = %message.id, station = message.station, partner = message.partner, message_id = message.message_id, state = %message.state,
        says = %mdn.disposition, "an MDN contradicts what was decided; it changes nothing: ask the partner"
    );
    keep_beside(core, message, evidence, now, "mdn.contradicting").await
}

/// Kept and shown, unless there are [enough](MAX_BESIDE) already; the message stays as it is.
async fn keep_beside(core: &Arc<Core>, message: Message, evidence: &Evidence, now: Millis, event: &'static str) -> Result<(), FlowError> {
    let entries = core.journal.read_few(|tx| tx.entries_of(message.id.as_str()))?;
    let incoming = layout::mdn_dir(MdnDirection::Incoming);
    let most = if evidence.is_signed() { 2 * MAX_BESIDE } else { MAX_BESIDE };
    if entries.iter().filter(|entry| entry.parent == incoming).count() >= most {
        tracing::warn!(id = %message.id, most, "MDN not kept: there are so many for this message already");
        return Ok(());
    }
    let (state, updated) = (message.state, message.updated);
    let mut step = Settlement::new(message, &[state], event);
    // The row is written as it was read: a try that began or ended since would be lost.
    step.seen = Some(updated);
    evidence.show_in(&mut step, now, false);
    step.next = Next::Keep;
    outbox::settle(core, step, now).await
}

/// A valid positive MDN after the wait had ended: the file moves from `failed` to `outbox`, in view or out of it. What is
/// decided is the message; whatever its file has become by now does not keep the partner waiting.
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
    let published = tokio::task::spawn_blocking(move || publishing.storage.publish_listed());
    published.await??;
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
    if entries.iter().any(|entry| entry.noncurrent.is_none()) {
        step.entries.push(NewEntry::dir(Area::Files, to, &id));
    }
    step.moved = Some(Moved {
        entries: entries.clone(),
        from: from_dir,
        to: to_dir,
    });
    outbox::settle(core, step, now).await?;
    for entry in &entries {
        core.storage.unpublish(entry);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
