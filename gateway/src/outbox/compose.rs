//! Packaging: payload in, frozen message bytes out, in one streaming pass (two with compression, which needs a length).

use std::sync::Arc;

use as2_core::algorithm::Digest;
use as2_core::cert::Identity;
use as2_core::compose::{Candidate, Composed, Composer, Encryption, Finished, Outgoing, PartMeta, Signing, TransferEncoding};
use as2_core::hex;
use as2_core::id::As2Id;
use as2_core::message_id::MessageId;
use as2_core::mic::Mic;
use as2_core::receipt::ReceiptRequest;
use openssl::sha::{Sha256, sha256};

use super::unzip::{self, UnzipError};
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::helper::with_permit;
use crate::journal::Blob;
use crate::message::{Lacking, Message, MicRecord};
use crate::partner::{self, Zip};
use crate::partnership::Partnership;
use crate::storage::{Content, Draft, Storage, StorageError};
use crate::{content_type, layout, variables};

/// Bytes read from the payload at once; also what the cipher gets in one go.
const PIECE: usize = 256 * 1024;
/// Up to this size the digests are taken at once that MDNs name without having been asked for them (as2.md Q7, Q8). They cost
/// little; what else an MDN may name is computed when it does.
const USUAL_DIGESTS_BELOW: u64 = 4 << 20;

/// Why a message cannot be packaged, with the words for it.
pub(super) enum Trouble {
    /// Not now: it waits for our settings.
    Lacking(Lacking, String),
    /// Never: its zip cannot be unpacked.
    BadZip(String),
}

enum ComposeError {
    Trouble(Trouble),
    Storage(StorageError),
}

impl From<StorageError> for ComposeError {
    fn from(error: StorageError) -> Self {
        ComposeError::Storage(error)
    }
}

impl From<as2_core::Error> for ComposeError {
    fn from(error: as2_core::Error) -> Self {
        lacking(Lacking::CannotCompose, error.to_string())
    }
}

impl From<UnzipError> for ComposeError {
    fn from(error: UnzipError) -> Self {
        match error {
            UnzipError::Storage(error) => ComposeError::Storage(error),
            UnzipError::Bad(_) => ComposeError::Trouble(Trouble::BadZip(error.to_string())),
        }
    }
}

/// Packages a message; the row comes back with Message-ID, MIC and headers, with the bytes if they are small. The first try
/// commits both.
pub(super) async fn compose(
    core: &Arc<Core>,
    message: Message,
    partnership: &Arc<Partnership>,
) -> Result<Result<Packed, Trouble>, FlowError> {
    let pair = Arc::clone(partnership);
    match with_permit(core, message.size, move |core| package(core, message, &pair)).await? {
        Ok(packed) => Ok(Ok(packed)),
        Err(ComposeError::Trouble(trouble)) => Ok(Err(trouble)),
        Err(ComposeError::Storage(error)) => Err(error.into()),
    }
}

/// A composed message, and its bytes under their key if they are small.
pub(super) type Packed = (Message, Option<Blob>);

fn package(core: &Core, mut message: Message, pair: &Partnership) -> Result<Packed, ComposeError> {
    let payload = core.storage.open_staged(&message.detail.payload)?;
    let mut passing = Passing::of(&message, &payload)?;
    let source = Source::of(&message, pair, &payload)?;
    core.storage.check_room_for(source.length(&payload))?;
    let composer = Composer::new(outgoing(core, &message, pair, &source)?)?.with_helper(Arc::clone(&core.spare) as _);
    let mut draft = core.storage.draft();
    let mut composed = run(&core.storage, composer, &source, &payload, &mut passing, &mut draft)?;
    passing.check(&message)?;
    let staged = draft.stage()?;
    if staged.len != composed.content_length {
        let why = format!("packaged {} bytes where {} were foreseen", staged.len, composed.content_length);
        return Err(lacking(Lacking::CannotCompose, why));
    }
    super::restart::tag(&mut composed.headers, staged.len, &pair.partner)?;
    note(&mut message, &composed, pair);
    message.updated = core.clock.now();
    message.detail.raw.clone_from(&staged.key);
    message.detail.raw_size = staged.len;
    let blob = staged.blob();
    Ok((message, blob))
}

/// Writes into the row what became of the composition.
fn note(message: &mut Message, composed: &Composed, pair: &Partnership) {
    let partner = &pair.partner;
    let detail = &mut message.detail;
    detail.set_head(&composed.headers.to_bytes());
    message.message_id = composed.headers.get("Message-ID").unwrap_or_default().to_owned();
    detail.mic = composed.mic.as_ref().map(ToString::to_string).unwrap_or_default();
    detail.mics = composed.mics.iter().cloned().map(record).collect();
    detail.url.clone_from(&partner.url);
    detail.signed = partner.sign.map(|digest| digest.to_string()).unwrap_or_default();
    detail.encrypted = partner.encrypt.map(|cipher| cipher.to_string()).unwrap_or_default();
    detail.compressed = partner.compress.to_string();
    detail.mdn_mode = Some(partner.mdn);
}

/// Feeds the payload through the composer; with compression the first pass goes to a scratch draft.
fn run(
    storage: &Storage,
    composer: Composer<'_>,
    source: &Source,
    payload: &Content,
    passing: &mut Passing,
    draft: &mut Draft,
) -> Result<Composed, ComposeError> {
    let mut composer = composer;
    // A small message does not pay for the room of a large one.
    let piece = usize::try_from(payload.len()).map_or(PIECE, |len| len.min(PIECE));
    let mut out = Vec::with_capacity(piece + 4096);
    let mut scratch = storage.draft();
    let two_passes = composer.needs_scratch();
    {
        let target = if two_passes { &mut scratch } else { &mut *draft };
        source.for_each(payload, passing, |piece| {
            composer.push(piece, &mut out)?;
            drain(storage, &mut out, target)
        })?;
    }
    let mut composer = match composer.finish(&mut out)? {
        Finished::Done(composed) => {
            drain(storage, &mut out, draft)?;
            return Ok(*composed);
        }
        Finished::Again(next) => *next,
    };
    drain(storage, &mut out, &mut scratch)?;
    scratch.for_each(PIECE, |piece| {
        composer.push(piece, &mut out)?;
        drain(storage, &mut out, draft)
    })?;
    match composer.finish(&mut out)? {
        Finished::Done(composed) => {
            drain(storage, &mut out, draft)?;
            Ok(*composed)
        }
        Finished::Again(_) => Err(lacking(Lacking::CannotCompose, "a third pass was asked for".to_owned())),
    }
}

fn drain(storage: &Storage, out: &mut Vec<u8>, target: &mut Draft) -> Result<(), ComposeError> {
    storage.check_room()?;
    target.append(out)?;
    out.clear();
    Ok(())
}

fn outgoing<'a>(core: &Core, message: &Message, pair: &'a Partnership, source: &Source) -> Result<Outgoing<'a>, ComposeError> {
    let partner = &pair.partner;
    let sign = signing(pair)?;
    let encrypt = encryption(pair)?;
    let also_digest = if message.size <= USUAL_DIGESTS_BELOW {
        vec![Digest::Sha1, Digest::Sha256]
    } else {
        Vec::new()
    };
    Ok(Outgoing {
        from: As2Id::parse(&pair.station.as2_id)?,
        to: As2Id::parse(&partner.as2_id)?,
        message_id: message_id(core, message)?,
        now: core.clock.now() / 1000,
        subject: subject(message, partner),
        as2_version: partner.as2_version.clone(),
        recipient_url: partner.url.clone(),
        parts: source.parts(message, partner),
        sign,
        encrypt,
        compress: partner.compress,
        transfer_encoding: match partner.transfer_encoding {
            partner::TransferEncoding::Binary => TransferEncoding::Binary,
            partner::TransferEncoding::Base64 => TransferEncoding::Base64,
        },
        digest_names: partner.digest_names,
        receipt: receipt_request(core, pair),
        der_max: partner.der_max,
        extra_headers: extra_headers(message, partner),
        product: concat!("as2gate/", env!("CARGO_PKG_VERSION")).to_owned(),
        nonce: nonce(message),
        also_digest,
    })
}

/// The same one whenever it is composed, after a restore under another `public_url` as well: the partner tells a repeat by it.
fn message_id(core: &Core, message: &Message) -> Result<MessageId, as2_core::Error> {
    match message.detail.id_host.as_str() {
        "" => MessageId::new(message.id.as_str(), &core.host()),
        host => MessageId::new(message.id.as_str(), host),
    }
}

/// Makes the boundaries and Content-IDs of a message, the same ones whenever it is composed: they count for the MIC of several
/// parts, which may have to be computed again. The id was drawn after the payload had come, which cannot hold them on purpose.
fn nonce(message: &Message) -> [u8; 16] {
    let digest = sha256(format!("boundary\n{}", message.id).as_bytes());
    std::array::from_fn(|i| digest[i])
}

fn lacking(what: Lacking, why: String) -> ComposeError {
    ComposeError::Trouble(Trouble::Lacking(what, why))
}

fn signing(pair: &Partnership) -> Result<Option<Signing<'_>>, ComposeError> {
    let Some(digest) = pair.partner.sign else { return Ok(None) };
    let identity = pair.signer().ok_or_else(|| {
        lacking(
            Lacking::NoIdentity,
            format!("station {} has no key to sign with", pair.station.as2_id),
        )
    })?;
    Ok(Some(Signing {
        identity,
        digest,
        scheme: pair.partner.signature_scheme,
        include_certificate: pair.partner.include_certificate,
        protect_algorithms: pair.partner.protect_algorithms,
    }))
}

fn encryption(pair: &Partnership) -> Result<Option<Encryption<'_>>, ComposeError> {
    let partner = &pair.partner;
    let Some(cipher) = partner.encrypt else { return Ok(None) };
    let recipient = pair.recipient.as_ref().ok_or_else(|| {
        lacking(
            Lacking::NoCertificate,
            format!("partner {} has no encryption certificate", partner.as2_id),
        )
    })?;
    let own = pair.signer().filter(|_| partner.originator_copy).map(Identity::certificate);
    Ok(Some(Encryption {
        recipients: std::iter::once(recipient).chain(own).collect(),
        cipher,
        key_transport: partner.key_transport,
    }))
}

fn subject(message: &Message, partner: &partner::Partner) -> String {
    let template = if message.subject.is_empty() {
        &partner.subject
    } else {
        &message.subject
    };
    let text = variables::expand(template, message);
    // A parser of another product joined the next header to a subject that ended with `;` (as2.md §2).
    text.trim_end_matches([';', ' ']).to_owned()
}

/// The partner's own lines. ASCII only, as headers are (as2.md §2): a file name may hold more.
fn extra_headers(message: &Message, partner: &partner::Partner) -> Vec<(String, String)> {
    let ascii = |text: String| text.chars().map(|c| if c.is_ascii() { c } else { '_' }).collect::<String>();
    let lines = partner.headers.iter();
    lines
        .map(|(name, value)| (name.clone(), ascii(variables::expand(value, message))))
        .collect()
}

/// The name that the partner sees. It passes the rules for names from outside, so that no template makes a path of it.
fn file_name(message: &Message, partner: &partner::Partner) -> String {
    if partner.file_name.is_empty() {
        return message.file.clone();
    }
    let extension = message.file.rsplit_once('.').map_or("bin", |(_, extension)| extension);
    layout::attachment_name(Some(&variables::expand_name(&partner.file_name, message)), 0, extension)
}

/// The receipt that the partner's settings ask for.
#[must_use]
pub fn receipt_request(core: &Core, pair: &Partnership) -> Option<ReceiptRequest> {
    let mode = pair.partner.mdn;
    if mode == partner::MdnMode::None {
        return None;
    }
    let station = &pair.station;
    let notify_to = if station.email.is_empty() {
        station.as2_id.clone()
    } else {
        station.email.clone()
    };
    let mut request = ReceiptRequest::sync(notify_to);
    if mode.is_signed() {
        let micalgs = match pair.partner.micalgs.as_slice() {
            [] => vec![pair.partner.sign.unwrap_or(Digest::Sha256)],
            wanted => wanted.to_vec(),
        };
        request = request.signed(micalgs).required(pair.partner.mdn_required);
    }
    if mode.is_async() {
        request = request.deliver_to(core.mdn_url(station));
    }
    Some(request)
}

/// Adds the digests of a message's content under an algorithm that was not computed while packaging: an MDN named it. The row
/// keeps them, so that the next MDN that does costs nothing. False where they cannot be told any more: the settings changed
/// since, and with them what would be sent.
pub(crate) async fn add_mics(core: &Arc<Core>, message: &mut Message, pair: &Arc<Partnership>, digest: Digest) -> Result<bool, FlowError> {
    let id = message.id.as_str().to_owned();
    let _turn = core.mic_turns.take(&id).await;
    let known = core
        .journal
        .read_few(|tx| tx.message(&id))?
        .map(|row| row.detail.mics)
        .unwrap_or_default();
    let is_ours = |record: &MicRecord| Mic::parse(&record.mic).is_ok_and(|mic| mic.digest == digest);
    if known.iter().any(is_ours) {
        message.detail.mics = known;
        return Ok(true);
    }
    let (pair, packaged) = (Arc::clone(pair), message.clone());
    let mics = match with_permit(core, message.size, move |core| digests(core, &packaged, &pair, digest)).await? {
        Ok(Some(mics)) => mics,
        Err(ComposeError::Storage(error)) => return Err(error.into()),
        Ok(None) | Err(ComposeError::Trouble(_)) => return Ok(false),
    };
    message.detail.mics.extend(mics.iter().cloned());
    core.journal.write_sure(move |tx| tx.add_mics(&id, mics)).await?;
    Ok(true)
}

/// What a message's content digests to; `None` if it is not what was packaged once, as the digests tell that are known.
fn digests(core: &Core, message: &Message, pair: &Partnership, digest: Digest) -> Result<Option<Vec<MicRecord>>, ComposeError> {
    let payload = payload_of(core, message)?;
    let source = Source::of(message, pair, &payload)?;
    let mut outgoing = outgoing(core, message, pair, &source)?;
    let known = &message.detail.mics;
    outgoing.also_digest = known
        .iter()
        .filter_map(|record| Some(Mic::parse(&record.mic).ok()?.digest))
        .collect();
    outgoing.also_digest.push(digest);
    if outgoing.sign.is_some() {
        // The digest is taken of what is signed, which lies inside.
        outgoing.encrypt = None;
    }
    let composed = run(
        &core.storage,
        Composer::new(outgoing)?,
        &source,
        &payload,
        &mut Passing(None),
        &mut core.storage.draft(),
    )?;
    let (ours, again): (Vec<_>, Vec<_>) = composed.mics.into_iter().partition(|found| found.mic.digest == digest);
    let again: Vec<MicRecord> = again.into_iter().map(record).collect();
    let is_same = known.iter().all(|record| again.contains(record));
    Ok(is_same.then(|| ours.into_iter().map(record).collect()))
}

fn record(found: Candidate) -> MicRecord {
    MicRecord {
        what: found.what.to_string(),
        mic: found.mic.to_string(),
    }
}

/// The payload of a message in work, or of one that was given up: then its file lies in the tree, or out of view.
fn payload_of(core: &Core, message: &Message) -> Result<Content, StorageError> {
    match core.storage.open_staged(&message.detail.payload) {
        Err(StorageError::Missing(what)) => {
            let entries = core.journal.read(|tx| tx.entries_of(message.id.as_str()))?;
            let file = entries.iter().find(|entry| entry.area == layout::Area::Files && !entry.is_dir);
            file.map_or(Err(StorageError::Missing(what)), |entry| core.storage.open_kept(entry))
        }
        other => other,
    }
}

/// The digest of stored bytes that pass, to be held against the one that was taken when they were accepted: a file may lie for days
/// before it is sent. Those that the journal holds are as good as its own rows.
struct Passing(Option<Sha256>);

impl Passing {
    fn of(message: &Message, payload: &Content) -> Result<Self, StorageError> {
        if payload.len() != message.size {
            return Err(damaged(message));
        }
        let is_file = matches!(payload, Content::File(..)) && !message.sha256.is_empty();
        Ok(Passing(is_file.then(Sha256::new)))
    }

    fn see(&mut self, piece: &[u8]) {
        if let Passing(Some(hash)) = self {
            hash.update(piece);
        }
    }

    fn check(self, message: &Message) -> Result<(), StorageError> {
        match self.0.map(|hash| hex(&hash.finish())) {
            Some(found) if found != message.sha256 => Err(damaged(message)),
            _ => Ok(()),
        }
    }
}

fn damaged(message: &Message) -> StorageError {
    StorageError::Damaged(message.detail.payload.clone())
}

/// Where the payload's parts come from.
enum Source {
    /// The stored file is the one part.
    Whole,
    /// Each file of the stored zip is one.
    Zip(Vec<unzip::Entry>),
}

impl Source {
    fn of(message: &Message, pair: &Partnership, payload: &Content) -> Result<Self, ComposeError> {
        let is_zip = message.file.to_ascii_lowercase().ends_with(".zip");
        if pair.partner.zip != Zip::Unpack || !is_zip {
            return Ok(Source::Whole);
        }
        Ok(Source::Zip(unzip::list(payload)?))
    }

    /// Bytes of all parts.
    fn length(&self, payload: &Content) -> u64 {
        match self {
            Source::Whole => payload.len(),
            Source::Zip(entries) => entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.length)),
        }
    }

    fn parts(&self, message: &Message, partner: &partner::Partner) -> Vec<PartMeta> {
        match self {
            Source::Whole => vec![PartMeta {
                file_name: Some(file_name(message, partner)),
                content_type: message.content_type.clone(),
                length: message.size,
            }],
            Source::Zip(entries) => entries
                .iter()
                .map(|entry| PartMeta {
                    file_name: Some(entry.name.clone()),
                    content_type: content_type::for_attachment(&entry.name).to_owned(),
                    length: entry.length,
                })
                .collect(),
        }
    }

    fn for_each(
        &self,
        payload: &Content,
        passing: &mut Passing,
        mut take: impl FnMut(&[u8]) -> Result<(), ComposeError>,
    ) -> Result<(), ComposeError> {
        match self {
            Source::Whole => payload.for_each(PIECE, |piece| {
                passing.see(piece);
                take(piece)
            }),
            Source::Zip(entries) => {
                payload.for_each(PIECE, |piece| {
                    passing.see(piece);
                    Ok::<_, StorageError>(())
                })?;
                unzip::for_each(payload, entries, PIECE, take)
            }
        }
    }
}
