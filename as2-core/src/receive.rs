//! Taking a message or an MDN apart: one push parser in constant memory (as2.md §3, cms-streaming.md §5).
//!
//! Layers are found by what they are, from the outside in: encrypted, compressed, signed, in any order up to four. Payload bytes
//! go to the sink while they are hashed, **before** anything is proven; the caller makes them visible only after
//! [`Receiver::finish`] is `Ok`.
//!
//! After a content key was unwrapped, every fault is `decryption-failed`, and the whole body is worked through first. Two faults
//! keep their own words: that of a signature over content that is complete in structure, and that of content which a good
//! signature covers (security: no oracle about padding).

mod entity;
mod layer;
mod parts;
mod signed;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use crate::algorithm::{Cipher, Digest};
use crate::cert::{Certificate, Identity};
use crate::crypto::Beside;
use crate::error::{Error, ErrorKind, Lack};
use crate::headers::Headers;
use crate::helper::Helper;
use crate::kernel::Kernel;
use crate::mdn::Mdn;
use crate::mic::{Hashes, Mic};
use crate::receipt::ReceiptRequest;

use entity::{Entity, Place};

/// Most CMS layers around each other (as2.md SEC3).
pub const MAX_LAYERS: u8 = 4;
/// Deepest nesting of MIME entities.
pub const MAX_DEPTH: u8 = 8;
/// Most payload parts.
pub const MAX_PARTS: usize = 1_000;
/// Most remarks kept about one message.
const MAX_NOTES: usize = 20;
/// Bytes worked through at once: few enough that plain text is still in the nearest cache when it is searched and digested.
const PIECE: usize = 16 * 1024;

/// What arrived, and what it is held against.
#[derive(Clone, Copy)]
pub struct Incoming<'a> {
    /// HTTP headers.
    pub headers: &'a Headers,
    /// Our keys, current and old.
    pub identities: &'a [Identity],
    /// The partner's pinned signing certificates, current and old.
    pub signers: &'a [Certificate],
    /// What the partner's settings allow and require.
    pub policy: SecurityPolicy,
    /// Ceilings.
    pub limits: Limits,
    /// Digests to take beside the usual ones; see [`Failure::rehash`].
    pub also_hash: &'a [Digest],
}

/// Ceilings beside the fixed ones.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most payload bytes, all parts together, after decompression.
    pub max_payload: u64,
}

/// What is required and what is allowed of a partner's messages. An MDN is not held against the requirements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SecurityPolicy {
    /// Unsigned messages are refused.
    pub require_signed: bool,
    /// Messages in clear are refused.
    pub require_encrypted: bool,
    /// SHA-1 and SHA-224 may be used.
    pub legacy_sha1: bool,
    /// MD5 may be used.
    pub accept_md5: bool,
    /// 3DES may be used.
    pub accept_3des: bool,
}

impl SecurityPolicy {
    /// Whether signatures and MICs may use this digest.
    #[must_use]
    pub fn allows(&self, digest: Digest) -> bool {
        match digest {
            Digest::Md5 => self.accept_md5,
            digest => self.legacy_sha1 || !digest.is_legacy(),
        }
    }

    /// The MIC's digest where neither a signature nor the receipt request names one.
    fn default_digest(&self) -> Digest {
        if self.legacy_sha1 { Digest::Sha1 } else { Digest::Sha256 }
    }
}

/// Takes payload bytes, not proven yet.
pub trait PayloadSink {
    /// A part begins.
    ///
    /// # Errors
    /// Ours, such as a full disk.
    fn part(&mut self, info: PartInfo) -> Result<(), SinkError>;

    /// Bytes of the part.
    ///
    /// # Errors
    /// Ours, such as a full disk.
    fn data(&mut self, bytes: &[u8]) -> Result<(), SinkError>;

    /// The part is complete.
    ///
    /// # Errors
    /// Ours, such as a full disk.
    fn part_end(&mut self) -> Result<(), SinkError>;
}

/// A payload part. Names are the partner's words: unsafe until they are cleaned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartInfo {
    /// From 0.
    pub index: usize,
    /// The name it came with.
    pub file_name: Option<String>,
    /// The media type, without parameters.
    pub content_type: String,
}

/// The sink could not take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkError(pub String);

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SinkError {}

impl From<std::io::Error> for SinkError {
    fn from(error: std::io::Error) -> Self {
        SinkError(error.to_string())
    }
}

/// Why something was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the partner is told, and what we log.
    pub error: Error,
    /// The MIC of what came, where one could be computed and may be told.
    pub mic: Option<Mic>,
    /// Our sink failed; the message itself may be good.
    pub sink: bool,
    /// Whom it is encrypted for, if that is none of our keys: issuer and serial number, or key id. For us, as the detail is.
    pub strangers: Vec<String>,
    rehash: Option<Digest>,
    /// The error keeps its own words even though it arose after decryption.
    named: bool,
}

impl Failure {
    /// Set if the signature's digest was not taken in this pass, because `micalg` did not name it: run again with it in
    /// [`Incoming::also_hash`].
    #[must_use]
    pub fn rehash(&self) -> Option<Digest> {
        self.rehash
    }

    fn named(error: Error, mic: Option<Mic>) -> Self {
        Failure {
            named: true,
            mic,
            ..Failure::from(error)
        }
    }

    fn wants_rehash(digest: Digest) -> Self {
        let error = Error::new(
            ErrorKind::UnexpectedProcessingError,
            format!("the signature uses {digest}, which was not taken"),
        );
        Failure {
            rehash: Some(digest),
            ..Failure::named(error, None)
        }
    }

    /// It passes through layers as it is.
    fn is_ours(&self) -> bool {
        self.sink || self.rehash.is_some()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure {
            error,
            mic: None,
            sink: false,
            strangers: Vec::new(),
            rehash: None,
            named: false,
        }
    }
}

impl From<SinkError> for Failure {
    fn from(error: SinkError) -> Self {
        let error = Error::new(ErrorKind::UnexpectedProcessingError, error.0);
        Failure {
            sink: true,
            ..Failure::named(error, None)
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Failure {}

/// What arrived.
#[derive(Clone, Debug)]
pub enum Received {
    /// A message; its payload went to the sink.
    Message(ReceivedMessage),
    /// An MDN.
    Mdn(Box<ReceivedMdn>),
}

/// A message that passed everything.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    /// By whom it is signed.
    pub signed: Option<SignedBy>,
    /// How it was encrypted.
    pub encrypted: Option<Cipher>,
    /// Whether it was compressed.
    pub compressed: bool,
    /// The MIC for its receipt, by the digest that the receipt request allows (as2.md §3).
    pub mic: Option<Mic>,
    /// How many payload parts there were.
    pub parts: usize,
    /// Tolerances that were needed.
    pub notes: Vec<String>,
    /// The layers in words, from the outside in.
    pub layers: Vec<String>,
}

/// A signature that holds.
#[derive(Clone, Debug)]
pub struct SignedBy {
    /// Its digest.
    pub digest: Digest,
    /// The pinned certificate under which it holds.
    pub signer: Certificate,
}

/// An MDN, and how its signature stands.
#[derive(Clone, Debug)]
pub struct ReceivedMdn {
    /// What it says.
    pub mdn: Mdn,
    /// Whether that is proven.
    pub signature: MdnSignature,
}

/// The signature of an MDN.
#[derive(Clone, Debug)]
pub enum MdnSignature {
    /// There is none.
    None,
    /// It holds under a pinned certificate.
    Verified {
        /// Its digest.
        digest: Digest,
        /// The pinned certificate.
        signer: Certificate,
    },
    /// There is one, and it proves nothing.
    Bad(Error),
}

/// What is the same for the whole message.
struct Job<'a> {
    headers: &'a Headers,
    identities: &'a [Identity],
    signers: &'a [Certificate],
    policy: SecurityPolicy,
    limits: Limits,
    /// Bytes of the body, 0 if that is not known.
    length: u64,
    also_hash: &'a [Digest],
    helper: Option<Arc<dyn Helper>>,
    kernel: Kernel,
    /// Where the one decryption and a digest of what it gives meet.
    beside: Beside,
    /// Digests of the receipt request that we may use, in its order.
    listed: Vec<Digest>,
}

impl Job<'_> {
    /// Digests of large content.
    fn hashes(&self, digests: &[Digest]) -> Result<Hashes, Error> {
        let mut hashes = Hashes::new(digests)?;
        self.helper.iter().for_each(|helper| hashes.lend(helper));
        Ok(hashes)
    }

    /// Digests of large content at this place: of what comes straight out of decryption, SHA-256 goes along with that.
    fn hashes_at(&self, place: Place, digests: &[Digest]) -> Result<Hashes, Error> {
        let mut hashes = self.hashes(digests)?;
        if place.decrypted && !place.compressed {
            hashes.join(&self.beside);
        }
        Ok(hashes)
    }

    /// The digest of the MIC (as2.md §3 "As receiver").
    fn mic_digest(&self, signature: Option<Digest>) -> Digest {
        let signature = signature.filter(|digest| self.listed.is_empty() || self.listed.contains(digest));
        signature.or(self.listed.first().copied()).unwrap_or(self.policy.default_digest())
    }

    /// Picks the MIC out of digests that were taken.
    fn mic_of(&self, signature: Option<Digest>, taken: &[(Digest, Vec<u8>)]) -> Option<Mic> {
        let wanted = self.mic_digest(signature);
        let found = taken.iter().find(|(digest, _)| *digest == wanted);
        // A signature without a request list may name a digest that we may not use; then any that was taken tells.
        let found = found.or_else(|| taken.first().filter(|_| self.listed.is_empty()));
        found.map(|(digest, value)| Mic {
            digest: *digest,
            value: value.clone(),
        })
    }
}

/// What was found so far.
#[derive(Default)]
struct Found {
    signed: Option<SignedBy>,
    encrypted: Option<Cipher>,
    /// What was decrypted may have been altered by anybody: its cipher does not authenticate.
    malleable: bool,
    compressed: bool,
    mic: Option<Mic>,
    parts: usize,
    payload: u64,
    notes: Vec<String>,
    layers: Vec<String>,
    strangers: Vec<String>,
    mdn: Option<Mdn>,
    mdn_signature: Option<MdnSignature>,
}

impl Found {
    fn note(&mut self, text: &str) {
        if self.notes.len() < MAX_NOTES && !self.notes.iter().any(|known| known == text) {
            self.notes.push(text.to_owned());
        }
    }

    fn into_mdn(self, mdn: Mdn) -> ReceivedMdn {
        let signature = match (self.mdn_signature, self.signed) {
            (Some(bad), _) => bad,
            (None, Some(by)) => MdnSignature::Verified {
                digest: by.digest,
                signer: by.signer,
            },
            (None, None) => MdnSignature::None,
        };
        ReceivedMdn { mdn, signature }
    }

    fn into_message(self) -> ReceivedMessage {
        ReceivedMessage {
            signed: self.signed,
            encrypted: self.encrypted,
            compressed: self.compressed,
            mic: self.mic,
            parts: self.parts,
            notes: self.notes,
            layers: self.layers,
        }
    }
}

/// What every stage works with.
struct Walk<'w, 'a> {
    job: &'w Job<'a>,
    found: &'w mut Found,
    sink: &'w mut dyn PayloadSink,
}

/// A message on its way in.
pub struct Receiver<'a> {
    job: Job<'a>,
    found: Found,
    root: Entity,
    failed: Option<Failure>,
}

impl<'a> Receiver<'a> {
    /// Begins with the headers.
    ///
    /// # Errors
    /// A receipt is demanded that cannot be made.
    pub fn new(incoming: Incoming<'a>) -> Result<Self, Failure> {
        let Incoming {
            headers,
            identities,
            signers,
            policy,
            limits,
            also_hash,
        } = incoming;
        let request = ReceiptRequest::from_headers(headers).map_err(|error| Failure::named(error, None))?;
        let signed = request.as_ref().is_some_and(|request| request.signed);
        let asked = request.map(|request| request.micalgs).unwrap_or_default();
        let listed: Vec<Digest> = asked.iter().copied().filter(|digest| policy.allows(*digest)).collect();
        // An unsigned receipt is made without any of them.
        if signed && listed.is_empty() && !asked.is_empty() {
            let names: Vec<_> = asked.iter().map(|digest| digest.name()).collect();
            let error = Error::new(
                ErrorKind::UnsupportedMicAlgorithms,
                format!("{} not allowed for this partner", names.join(", ")),
            );
            return Err(Failure::named(error, None));
        }
        let job = Job {
            headers,
            identities,
            signers,
            policy,
            limits,
            length: 0,
            also_hash,
            helper: None,
            kernel: Kernel::default(),
            beside: Beside::default(),
            listed,
        };
        Ok(Receiver {
            job,
            found: Found::default(),
            root: Entity::top(),
            failed: None,
        })
    }

    /// Digests of large content are taken by the helper, if it has time, while this side decrypts.
    #[must_use]
    pub fn with_helper(mut self, helper: Arc<dyn Helper>) -> Self {
        self.job.helper = Some(helper);
        self
    }

    /// The body is in hand, and has so many bytes: what it inflates to is held against all of it, and not against what has come so
    /// far.
    #[must_use]
    pub fn with_length(mut self, length: u64) -> Self {
        self.job.length = length;
        self
    }

    /// The same with a choice that [`Receiver::new`] leaves to the machine; for measurements and comparisons.
    #[must_use]
    pub fn with_kernel(mut self, kernel: Kernel) -> Self {
        self.job.kernel = kernel;
        self
    }

    /// Takes the next bytes of the body.
    ///
    /// # Errors
    /// The message cannot be taken, or the sink failed; then the same again.
    pub fn push(&mut self, bytes: &[u8], sink: &mut dyn PayloadSink) -> Result<(), Failure> {
        if let Some(failure) = &self.failed {
            return Err(failure.clone());
        }
        let mut walk = Walk {
            job: &self.job,
            found: &mut self.found,
            sink,
        };
        for piece in bytes.chunks(PIECE) {
            if let Err(mut failure) = self.root.push(piece, &mut walk) {
                failure.strangers = std::mem::take(&mut walk.found.strangers);
                self.failed = Some(failure.clone());
                return Err(failure);
            }
        }
        Ok(())
    }

    /// The body is complete: checks everything that can only be checked now.
    ///
    /// # Errors
    /// The message cannot be taken, or the sink failed.
    pub fn finish(mut self, sink: &mut dyn PayloadSink) -> Result<Received, Failure> {
        if let Some(failure) = self.failed {
            return Err(failure);
        }
        let ended = self.root.finish(&mut Walk {
            job: &self.job,
            found: &mut self.found,
            sink,
        });
        if let Err(mut failure) = ended {
            failure.strangers = self.found.strangers;
            return Err(failure);
        }
        if let Some(mdn) = self.found.mdn.take() {
            return Ok(Received::Mdn(Box::new(self.found.into_mdn(mdn))));
        }
        let policy = &self.job.policy;
        let lacks_signature = policy.require_signed && self.found.signed.is_none();
        let lack = match (lacks_signature, policy.require_encrypted && self.found.encrypted.is_none()) {
            (true, true) => Lack::Both,
            (true, false) => Lack::Signature,
            (false, true) => Lack::Encryption,
            (false, false) => return Ok(Received::Message(self.found.into_message())),
        };
        Err(Failure::named(lack.into(), self.found.mic))
    }
}
