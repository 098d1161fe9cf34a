//! Checking and filing: decrypt, decompress, verify in one pass over the staged body; then one transaction makes it
//! visible together with its MDN.

use std::sync::Arc;
use std::time::Duration;

use as2_core::disposition::Disposition;
use as2_core::headers::Headers;
use as2_core::mic::Mic;
use as2_core::receipt::ReceiptRequest;
use as2_core::receive::{Failure, Incoming, Limits, Received, ReceivedMessage, Receiver};
use as2_core::{Error, ErrorKind, Lack};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::files::{Files, Part};
use super::receipt::{Mdn, Says, receipted};
use super::{Taken, names};
use crate::clock::{Millis, millis};
use crate::event::NewEvent;
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::helper::with_permit;
use crate::hint::{command, option};
use crate::journal::{self, Blob, Claim, Claimed, Filing, JournalError, NewEntry, Tx, head_key, mdn_key};
use crate::layout::{self, Area, MdnDirection, Tray};
use crate::message::{FileRecord, Message, State};
use crate::partnership::Partnership;
use crate::receipts;
use crate::storage::{Content, Staged, StorageError};

/// Bytes of the staged body handed to the receiver at once.
const PIECE: usize = 256 * 1024;
/// What the pass over a body found.
pub(super) enum Found {
    Good(Box<ReceivedMessage>, Vec<Part>),
    Bad(Failure),
}

/// A checked message, ready to be filed or rejected.
pub(super) struct Checked {
    pub(super) filing: Filing,
    /// When the check ended.
    pub(super) at: Millis,
    /// How much later its answer leaves.
    pub(super) delay: Duration,
}

/// Checks a claimed message, files or rejects it, and gives back its MDN as header block and body.
pub(super) async fn check(core: &Arc<Core>, taken: &Taken) -> Result<Option<Mdn>, FlowError> {
    let Checked { mut filing, at, delay } = examine(core, taken).await?;
    let (mdn, parts) = (filing.mdn.clone(), filing.staged_parts());
    let decided = core.journal.write_sure(move |tx| {
        tx.file_message(&mut filing, at)?;
        Ok(filing.message)
    });
    let message = decided.await.inspect_err(|error| core.let_go_undecided(error, &parts))?;
    filed(core, &message);
    if taken.is_sync() && taken.source.is_some() {
        hold_back(delay).await;
    }
    Ok(mdn)
}

/// What follows the decision, besides the answer.
pub(super) fn filed(core: &Core, message: &Message) {
    if message.detail.mdn_url.is_empty() {
        core.wake_publisher();
    } else {
        core.wake();
    }
    tell(core, message);
}

/// A message that was bound and filed or rejected in one step, or was not because its Message-ID is bound.
pub(super) struct Decided {
    pub(super) claimed: Claimed,
    pub(super) message: Message,
    pub(super) mdn: Option<Mdn>,
    /// Staged files that only this message would have named.
    pub(super) parts: Vec<String>,
    /// How much later its answer leaves.
    pub(super) delay: Duration,
}

/// What the journal said to it.
type Decision = Result<Box<Decided>, JournalError>;

/// What the thread that checks a small message comes to.
enum Step {
    Decided(Decision),
    /// The brake is asked first.
    Braked(Box<(Checked, Claim, ErrorKind)>),
}

/// Checks a small message, then binds it and files or rejects it. What needs no brake goes to the journal from the thread that
/// checked it, and the journal's answer wakes the sender's task: one hand-over less.
///
/// # Errors
/// Those of the check; nothing is decided then.
pub(super) async fn decide(core: &Arc<Core>, taken: &Taken, staged: &Staged) -> Result<Decision, FlowError> {
    let lost = |e: oneshot::error::RecvError| FlowError::Internal(e.to_string());
    let permit = core.crypto.permit(staged.len).await?;
    let (tell, told) = oneshot::channel();
    let (checking, given, body) = (Arc::clone(core), taken.clone(), staged.inline.clone());
    let claim = taken.claim(core, staged);
    tokio::task::spawn_blocking(move || {
        let looked = look(&checking, given, body);
        drop(permit);
        // The sender's task may be gone; a decision stands all the same.
        let _ = match looked {
            Ok((checked, None)) => {
                bind(&checking, checked, claim, move |decision| {
                    drop(tell.send(Ok(Step::Decided(decision))))
                });
                return;
            }
            Ok((checked, Some(trouble))) => tell.send(Ok(Step::Braked(Box::new((checked, claim, trouble))))),
            Err(error) => tell.send(Err(error)),
        };
    });
    let (mut checked, claim, trouble) = match told.await.map_err(lost)?? {
        Step::Decided(decision) => return Ok(decision),
        Step::Braked(held) => *held,
    };
    checked.delay = brake(core, taken, Some(trouble)).await;
    let (tell, told) = oneshot::channel();
    bind(core, checked, claim, move |decision| drop(tell.send(decision)));
    told.await.map_err(lost)
}

/// Has the journal bind and file a message; `then` is told what came of it.
fn bind(core: &Arc<Core>, checked: Checked, claim: Claim, then: impl FnOnce(Decision) + Send + 'static) {
    let Checked { mut filing, at, delay } = checked;
    let (mdn, parts) = (filing.mdn.clone(), filing.staged_parts());
    let change = move |tx: &Tx<'_>| {
        let claimed = tx.receive_and_file(&claim, &mut filing, at)?;
        Ok((claimed, filing.message))
    };
    let told = Arc::clone(core);
    core.journal.write_then(change, move |decided| {
        let decided = decided.inspect_err(|error| told.let_go_undecided(error, &parts));
        then(decided.map(|(claimed, message)| {
            Box::new(Decided {
                claimed,
                message,
                mdn,
                parts,
                delay,
            })
        }));
    });
}

/// Opens the body (the one given, or else the staged one) and makes the MDN, on a blocking thread and within the bound for
/// cryptographic work.
async fn examine(core: &Arc<Core>, taken: &Taken) -> Result<Checked, FlowError> {
    let given = taken.clone();
    let bytes = taken.message.detail.raw_size;
    let (mut checked, trouble) = with_permit(core, bytes, move |core| look(core, given, None)).await??;
    checked.delay = brake(core, taken, trouble).await;
    if let Some(at) = &mut checked.filing.post_mdn_at {
        *at += millis(checked.delay);
    }
    Ok(checked)
}

/// Opens a body and makes the MDN: the message, ready to be filed or rejected, and what kind of trouble it has, if any.
fn look(core: &Core, taken: Taken, body: Option<Bytes>) -> Result<(Checked, Option<ErrorKind>), FlowError> {
    let content = match body {
        Some(bytes) => Content::Bytes(bytes),
        None => core.storage.open_staged(&taken.message.detail.raw)?,
    };
    let found = pass(core, &taken.pair, &content, &taken.message.detail.head())?;
    if matches!((&found, &content), (Found::Bad(_), Content::File(..))) {
        // What our own disk has spoilt is no fault of the partner's.
        let detail = &taken.message.detail;
        content.expect_sha256(&detail.raw, &detail.raw_sha256)?;
    }
    let trouble = trouble(&found);
    conclude(core, taken, found).map(|checked| (checked, trouble))
}

fn conclude(core: &Core, mut taken: Taken, found: Found) -> Result<Checked, FlowError> {
    let now = core.clock.now();
    let (pair, message) = (Arc::clone(&taken.pair), &mut taken.message);
    let (mut entries, mut blobs) = evidence_entries(message);
    let bad_name = match &found {
        Found::Good(_, parts) => names::fault(core, &pair.partner, message, parts, now)?,
        Found::Bad(_) => None,
    };
    let says = match (found, bad_name) {
        (Found::Good(facts, parts), Some(error)) => {
            parts.iter().for_each(|part| core.storage.discard(&part.staged.key));
            note_security(message, &facts);
            reject(message, &error);
            Says::error(&error, facts.mic)
        }
        (Found::Good(facts, parts), None) => {
            note(message, &facts, &parts);
            note_certificate_exchange(message, &pair, &parts);
            message.state = State::Filed;
            show_in_inbox(message, parts, &mut entries, &mut blobs);
            good_words(message, facts.mic)
        }
        (Found::Bad(failure), _) => {
            reject(message, &failure.error);
            if let Some(why) = not_for_us(&failure) {
                message.reason = why;
            }
            Says::error(&failure.error, failure.mic)
        }
    };
    let receipt = taken.receipt.as_ref().map(|receipt| (&pair, receipt));
    Ok(Checked {
        filing: as_filed(core, taken.message, receipt, says, (entries, blobs), now)?,
        at: now,
        delay: Duration::ZERO,
    })
}

/// The end of a message with what it shows and, if one was asked for, its MDN.
fn as_filed(
    core: &Core,
    mut message: Message,
    receipt: Option<(&Arc<Partnership>, &ReceiptRequest)>,
    says: Says,
    (mut entries, mut blobs): (Vec<NewEntry>, Vec<Blob>),
    now: Millis,
) -> Result<Filing, FlowError> {
    message.updated = now;
    message.finished = Some(now);
    let mdn = match receipt {
        Some((pair, receipt)) => Some(
            receipted(core, pair, &mut message, receipt, says)
                .map_err(|error| FlowError::Internal(format!("cannot make an MDN: {error}")))?,
        ),
        None => None,
    };
    if let Some(mdn) = &mdn {
        let (entry, blob) = mdn_file(&message, mdn);
        entries.push(entry);
        blobs.push(blob);
    }
    let post_mdn_at = (!message.detail.mdn_url.is_empty()).then_some(now);
    Ok(Filing {
        message,
        entries,
        blobs,
        mdn,
        post_mdn_at,
    })
}

/// Message directory and payload files.
fn show_in_inbox(message: &Message, parts: Vec<Part>, entries: &mut Vec<NewEntry>, blobs: &mut Vec<Blob>) {
    entries.push(NewEntry::dir(Area::Files, inbox_shelf(message), message.id.as_str()));
    let parent = format!("{}/{}", inbox_shelf(message), message.id);
    for part in parts {
        entries.push(NewEntry::file(
            Area::Files,
            parent.clone(),
            &part.name,
            &part.staged.key,
            part.staged.len,
        ));
        blobs.extend(part.staged.into_blob());
    }
}

fn good_words(message: &Message, mic: Option<Mic>) -> Says {
    Says {
        disposition: Disposition::processed(),
        mic,
        text: format!(
            "It was decrypted and verified as its security asked for, and holds {} file(s).",
            message.detail.files.len()
        ),
        explanation: None,
    }
}

/// What kind of trouble the pass found, if any.
pub(super) fn trouble(found: &Found) -> Option<ErrorKind> {
    match found {
        Found::Good(..) => None,
        Found::Bad(failure) => Some(failure.error.kind),
    }
}

/// How much later the answer to a message leaves that did not decrypt; nothing for all others. The answer about missing
/// security counts too, since bad padding may hide behind it (`told_by_opening` in `as2-core`).
pub(super) async fn brake(core: &Core, taken: &Taken, trouble: Option<ErrorKind>) -> Duration {
    if !matches!(
        trouble,
        Some(ErrorKind::DecryptionFailed | ErrorKind::InsufficientMessageSecurity(_))
    ) {
        return Duration::ZERO;
    }
    let (message, now) = (&taken.message, core.clock.now());
    let braked = core.brake.failed(taken.source, &message.station, &message.partner, now);
    if !braked.delay.is_zero() {
        core.metrics.answer_delayed();
    }
    if braked.alert {
        let source = taken.source.map(|source| source.to_string()).unwrap_or_default();
        tracing::error!(
            station = message.station,
            partner = message.partner,
            source,
            "many messages do not decrypt: answers are delayed"
        );
        let row = message.clone();
        let recorded = core.journal.write(move |tx| {
            let event = NewEvent {
                account: &row.account,
                kind: "partner.decryption_failures",
                subject: &row.partner,
                facts: serde_json::json!({ "station": row.station, "source": source, "message": row.id.as_str() }),
            };
            tx.record(&event, now)
        });
        // The brake works without its event.
        if let Err(error) = recorded.await {
            tracing::warn!(%error, "cannot record an event");
        }
    }
    braked.delay
}

/// Waits before an answer leaves. Its sender waits on the connection, which is what bounds the number of such waits.
pub(super) async fn hold_back(delay: Duration) {
    // A sleep of no time would go through the timer all the same, and end with its next tick.
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

/// A message that is not checked any more: rejected with all its evidence and, if it asked for one, an MDN that says so, so that
/// its partner may send it again. There is none without the pair that it would be of.
pub(super) async fn give_up(
    core: &Arc<Core>,
    mut message: Message,
    pair: Option<&Arc<Partnership>>,
    receipt: Option<ReceiptRequest>,
    why: &str,
) -> Result<(), FlowError> {
    let now = core.clock.now();
    let error = Error::new(ErrorKind::UnexpectedProcessingError, why);
    reject(&mut message, &error);
    let mut evidence = evidence_entries(&message);
    // Bytes that are gone cannot be shown.
    let raw = &message.detail.raw;
    if core.storage.open_staged(raw).is_err() {
        evidence.0.retain(|entry| entry.store != *raw);
    }
    let receipt = pair.zip(receipt.as_ref());
    let mut filing = as_filed(core, message, receipt, Says::error(&error, None), evidence, now)?;
    let decided = core.journal.write(move |tx| {
        tx.file_message(&mut filing, now)?;
        Ok(filing.message)
    });
    tell(core, &decided.await?);
    core.wake();
    Ok(())
}

fn tell(core: &Core, message: &Message) {
    core.metrics.settled(message);
    let fields = (&message.station, &message.partner, &message.message_id);
    if message.state == State::Filed && message.is_doubtful() {
        let marks = message.detail.marks.join(", ");
        tracing::warn!(id = %message.id, station = fields.0, partner = fields.1, message_id = fields.2, file = message.file, size = message.size, marks, "message filed");
    } else if message.state == State::Filed {
        tracing::info!(id = %message.id, station = fields.0, partner = fields.1, message_id = fields.2, file = message.file, size = message.size, "message filed");
    } else {
        tracing::warn!(id = %message.id, station = fields.0, partner = fields.1, message_id = fields.2, code = message.code, reason = message.reason, "message rejected");
        core.rejections.note(message);
    }
}

/// How a message that was opened is protected. The signature also tells who asked for its MDN.
pub(super) fn note_security(message: &mut Message, facts: &ReceivedMessage) {
    let detail = &mut message.detail;
    detail.signed = facts.signed.as_ref().map(|s| s.digest.to_string()).unwrap_or_default();
    detail.encrypted = facts.encrypted.map(|cipher| cipher.to_string()).unwrap_or_default();
    detail.compressed = if facts.compressed { "yes" } else { "none" }.to_owned();
}

fn note(message: &mut Message, facts: &ReceivedMessage, parts: &[Part]) {
    note_security(message, facts);
    let detail = &mut message.detail;
    detail.mic = facts.mic.as_ref().map(ToString::to_string).unwrap_or_default();
    detail.marks.extend(facts.notes.iter().cloned());
    detail.files = parts
        .iter()
        .map(|part| FileRecord {
            name: part.name.clone(),
            size: part.staged.len,
            sha256: String::new(),
            content_type: part.content_type.clone(),
        })
        .collect();
    message.file = parts.first().map(|part| part.name.clone()).unwrap_or_default();
    message.content_type = parts.first().map(|part| part.content_type.clone()).unwrap_or_default();
    message.size = parts.iter().map(|part| part.staged.len).sum();
}

/// COMPAT(mendelson): certificates that are exchanged by messages (draft-meadors-certificate-exchange) are filed like others, and
/// people do what they ask for.
fn note_certificate_exchange(message: &mut Message, pair: &Partnership, parts: &[Part]) {
    const MEDIA: &str = "application/ediint-cert-exchange+xml";
    if !parts.iter().any(|part| part.content_type.eq_ignore_ascii_case(MEDIA)) {
        return;
    }
    message.mark_as_certificate_exchange();
    "the partner asks for its certificates to be changed (CEM), which is done by hand".clone_into(&mut message.reason);
    let name = pair.partner.sign_certificate.first().map_or("NAME", String::as_str);
    message.detail.hint = format!(
        "ask the partner for the fingerprint of the certificate among its files, then as2gate cert schedule {name} --replace-with FILE"
    );
}

/// The words of an MDN as the code of a message: one word in small letters.
pub(super) fn code_of(kind: ErrorKind) -> String {
    kind.as_str().replace(' ', "-").to_ascii_lowercase()
}

fn reject(message: &mut Message, error: &Error) {
    message.state = State::Rejected;
    message.code = code_of(error.kind);
    message.reason.clone_from(&error.detail);
    message.detail.hint = match error.kind {
        ErrorKind::AuthenticationFailed => format!(
            "ask the partner for its current signing certificate, then as2gate cert add NAME {} --use sign --file FILE",
            option("partner", &message.partner)
        ),
        ErrorKind::DecryptionFailed => format!(
            "the partner may use an old certificate of ours: send it what `{}` prints",
            command("station profile", &message.station, "")
        ),
        ErrorKind::InsufficientMessageSecurity(lack) => insufficient(&message.partner, lack),
        _ => "the raw message is kept in raw-message; `as2gate inspect` opens it".to_owned(),
    };
}

/// Whose key it takes, if none of ours is named: for our eyes, as the sender is told the same about all that does not decrypt.
fn not_for_us(failure: &Failure) -> Option<String> {
    let is_foreign = failure.error.kind == ErrorKind::DecryptionFailed && !failure.strangers.is_empty();
    is_foreign.then(|| format!("encrypted for {}, which is not here", failure.strangers.join(" and ")))
}

/// What to do about too little security: no more is given up than the message lacks.
fn insufficient(partner: &str, lack: Lack) -> String {
    let (wish, options) = match lack {
        Lack::Both => ("sign and encrypt", "--require-signed false --require-encrypted false"),
        Lack::Signature => ("sign", "--require-signed false"),
        Lack::Encryption => ("encrypt", "--require-encrypted false"),
        Lack::TripleDes => ("encrypt by AES", "--accept-3des true"),
        Lack::Digest(digest) => ("sign by SHA-256", receipts::accepting(digest)),
        Lack::BrokenDigest | Lack::BrokenCipher => return "ask the partner to sign by SHA-256 and to encrypt by AES".to_owned(),
    };
    format!(
        "ask the partner to {wish}, or allow what it does: {}",
        command("partner set", partner, options)
    )
}

fn inbox_shelf(message: &Message) -> String {
    layout::shelf(Area::Files, &message.station, &message.partner, Tray::Inbox)
}

/// Raw message and header block, as the tree shows them.
pub(super) fn evidence_entries(message: &Message) -> (Vec<NewEntry>, Vec<Blob>) {
    let block = Staged::in_memory(head_key(message.id.as_str()), message.detail.head());
    let entries = NewEntry::evidence(message, Tray::Inbox, &block);
    (entries.into(), block.blob().into_iter().collect())
}

/// The file that shows an MDN in `raw-mdn/outgoing`: header block, blank line, body.
pub(super) fn mdn_file(message: &Message, (block, body): &Mdn) -> (NewEntry, Blob) {
    let bytes = journal::mdn_file(block, body);
    // That of a filed message is bound to its Message-ID for good; another one's binding may be taken over.
    let staged = match message.state {
        State::Filed => Staged::in_memory(mdn_key(message.id.as_str()), bytes),
        _ => Staged::small(bytes),
    };
    let name = format!("{}.mdn", message.id);
    let entry = NewEntry::file(
        Area::RawMdn,
        layout::mdn_dir(MdnDirection::Outgoing).to_owned(),
        &name,
        &staged.key,
        staged.len,
    );
    (entry, (staged.key, staged.inline.unwrap_or_default()))
}

/// Runs the staged body through the receiver, on a blocking thread and within the bound for cryptographic work.
pub(super) async fn open(core: &Arc<Core>, pair: &Arc<Partnership>, message: &Message) -> Result<Found, FlowError> {
    let pair = Arc::clone(pair);
    let (raw, block) = (message.detail.raw.clone(), message.detail.head());
    let work = move |core: &Arc<Core>| pass(core, &pair, &core.storage.open_staged(&raw)?, &block);
    with_permit(core, message.detail.raw_size, work).await?
}

fn pass(core: &Core, pair: &Partnership, content: &Content, block: &[u8]) -> Result<Found, FlowError> {
    let headers = Headers::parse(block).map_err(|e| FlowError::Internal(e.to_string()))?;
    let mut also_hash = Vec::new();
    loop {
        let limit = pair.partner.max_message;
        let incoming = Incoming {
            headers: &headers,
            identities: &pair.identities,
            signers: &pair.signers,
            policy: receipts::policy(pair),
            limits: Limits {
                max_payload: if limit == 0 { core.config.as2.max_message } else { limit },
            },
            also_hash: &also_hash,
        };
        let mut files = Files::new(&core.storage);
        let outcome = run(core, incoming, content, &mut files)?;
        if let Some(trouble) = files.trouble.take() {
            return Err(trouble.into());
        }
        match outcome {
            Ok(Received::Message(facts)) => return Ok(Found::Good(facts.into(), std::mem::take(&mut files.parts))),
            Ok(Received::Mdn(_)) => {
                return Ok(Found::Bad(Failure::from(Error::new(
                    as2_core::ErrorKind::UnexpectedProcessingError,
                    "an MDN that asks for an MDN",
                ))));
            }
            Err(failure) => match failure.rehash() {
                Some(digest) if !also_hash.contains(&digest) => also_hash.push(digest),
                _ => return Ok(Found::Bad(failure)),
            },
        }
    }
}

fn run(core: &Core, incoming: Incoming<'_>, content: &Content, files: &mut Files<'_>) -> Result<Result<Received, Failure>, StorageError> {
    let mut receiver = match Receiver::new(incoming) {
        Ok(receiver) => receiver.with_helper(Arc::clone(&core.spare) as _).with_length(content.len()),
        Err(failure) => return Ok(Err(failure)),
    };
    let mut failed = None;
    content.for_each(PIECE, |piece| -> Result<(), StorageError> {
        if failed.is_none() {
            failed = receiver.push(piece, files).err();
        }
        Ok(())
    })?;
    Ok(match failed {
        Some(failure) => Err(failure),
        None => receiver.finish(files),
    })
}
