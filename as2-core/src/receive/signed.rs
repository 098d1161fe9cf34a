//! `multipart/signed`: the first part is hashed exactly as it came, the second is the signature (RFC 1847 §2.1, as2.md §3).

use super::entity::{Entity, Kind, Place};
use super::layer::is_text;
use super::{Failure, MdnSignature, SignedBy, Walk};
use crate::algorithm::Digest;
use crate::cms::signed::MAX_P7S;
use crate::cms::{Verified, peek, verify_detached};
use crate::error::{Error, ErrorKind};
use crate::headers::{Headers, MAX_BLOCK};
use crate::mic::{Digests, Hashes};
use crate::mime::scanner::{Piece, Scanner};
use crate::mime::transfer::{decode_lenient, decode_strict};
use crate::mime::{MediaType, broken};

/// Most bytes of the signature part: its headers, and base64 in any line length.
const MAX_SIGNATURE_PART: usize = MAX_BLOCK + 2 * MAX_P7S;

/// A `multipart/signed` in progress.
pub(super) struct Signed {
    scanner: Scanner,
    parts: Parts,
    line: usize,
}

struct Parts {
    place: Place,
    /// The part in work; 0 before the first.
    number: usize,
    ended: bool,
    hashes: Hashes,
    mended: Mended,
    inner: Entity,
    /// What is wrong in the signed part; told once the signature is known to be good.
    fault: Option<Failure>,
    signature: Vec<u8>,
}

impl Signed {
    pub(super) fn new(place: Place, media: &MediaType, walk: &mut Walk<'_, '_>) -> Result<Self, Failure> {
        if place.signed {
            return Err(broken("signed twice").into());
        }
        let scanner = Scanner::new(media.param("boundary"))?;
        let mut inside = place.inside(Kind::SignedPart)?;
        inside.signed = true;
        // `micalg` is a hint; the signature decides (as2.md §4), and another pass takes what was missing. Each digest more
        // costs as much as the first one, so that those of habit are taken only where there is no usable hint.
        let policy = walk.job.policy;
        let named = media.param("micalg").unwrap_or_default();
        let mut digests: Vec<Digest> = named.split(',').filter_map(Digest::parse).collect();
        digests.retain(|digest| policy.allows(*digest));
        if digests.is_empty() {
            digests.extend([Digest::Sha256, Digest::Sha1]);
        }
        digests.extend_from_slice(walk.job.also_hash);
        digests.push(walk.job.mic_digest(None));
        digests.retain(|digest| policy.allows(*digest));
        let line = walk.found.layers.len();
        walk.found.layers.push("multipart/signed".to_owned());
        let parts = Parts {
            place,
            number: 0,
            ended: false,
            hashes: walk.job.hashes_at(place, &digests)?,
            mended: Mended::new(&digests),
            inner: Entity::new(inside),
            fault: None,
            signature: Vec::new(),
        };
        Ok(Signed { scanner, parts, line })
    }

    pub(super) fn push(&mut self, bytes: &[u8], walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        let Signed { scanner, parts, .. } = self;
        scanner.push(bytes, &mut |piece| parts.take(piece, walk))
    }

    pub(super) fn finish(&mut self, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        let Signed { scanner, parts, .. } = self;
        scanner.finish(&mut |piece| parts.take(piece, walk))?;
        match self.judge(walk) {
            // What an unproven MDN says is kept and shown.
            Err(failure) if walk.found.mdn.is_some() && !failure.is_ours() && !self.parts.place.decrypted => {
                walk.found.mdn_signature = Some(MdnSignature::Bad(failure.error));
                Ok(())
            }
            other => other,
        }
    }

    /// Structure first; from there on, a fault may be told in its own words.
    fn judge(&mut self, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        self.complete(walk)?;
        let Signed { parts, line, .. } = self;
        let strict = parts.place.decrypted;
        let p7s = read_signature(&parts.signature, strict)?;
        let digest = peek(&p7s)?;

        let policy = walk.job.policy;
        let taken = std::mem::replace(&mut parts.hashes, Hashes::new(&[])?).finish()?;
        let digest = digest.filter(|digest| policy.allows(*digest));
        if let Some(missing) = digest.filter(|digest| !taken.iter().any(|(known, _)| known == digest)) {
            return Err(Failure::wants_rehash(missing));
        }
        let (verified, content) = parts.verify(&p7s, taken, walk)?;
        let mic = walk.job.mic_of(digest, &content);
        // The digest of altered plaintext would let a stranger check guesses about it.
        let verified = verified.map_err(|error| Failure::named(error, mic.clone().filter(|_| !strict)))?;
        if let Some(fault) = parts.fault.take() {
            return Err(Failure::named(fault.error, mic));
        }
        if let Some(layer) = walk.found.layers.get_mut(*line) {
            *layer = format!("multipart/signed {} signer {}", verified.digest.name(), verified.signer.subject());
        }
        walk.found.mic = mic;
        walk.found.signed = Some(SignedBy {
            digest: verified.digest,
            signer: verified.signer,
        });
        Ok(())
    }

    /// Two parts and their end. In decrypted content nothing may be left to tolerance (security.md §6).
    fn complete(&self, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        let strict = self.parts.place.decrypted;
        if self.parts.number < 2 {
            return Err(broken("a signed message without its signature").into());
        }
        if !self.scanner.is_closed() {
            if strict {
                return Err(broken("signed content without its closing boundary").into());
            }
            walk.found.note("the closing boundary was missing");
        } else if self.scanner.has_epilogue() {
            if strict {
                return Err(broken("bytes after the closing boundary").into());
            }
            walk.found.note("bytes after the closing boundary");
        }
        Ok(())
    }
}

impl Parts {
    fn take(&mut self, piece: Piece<'_>, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        match (piece, self.number) {
            (Piece::Start, 0 | 1) => self.number += 1,
            (Piece::Start, _) => return Err(broken("more than two parts in a signed message").into()),
            (Piece::Data(bytes), 1) => {
                self.hashes.update(bytes)?;
                if self.fault.is_none() {
                    let result = self.inner.push(bytes, walk);
                    self.keep(result)?;
                }
                self.mended.update(bytes, &self.inner)?;
            }
            (Piece::Data(bytes), _) => {
                if self.signature.len() + bytes.len() > MAX_SIGNATURE_PART {
                    return Err(broken("a signature that is too large").into());
                }
                self.signature.extend_from_slice(bytes);
            }
            (Piece::End, 1) if !self.ended => {
                self.ended = true;
                if self.fault.is_none() {
                    let result = self.inner.finish(walk);
                    self.keep(result)?;
                }
            }
            (Piece::End, _) => {}
        }
        Ok(())
    }

    /// Whether the signature holds over the part as it came or, failing that, with its line ends mended; and the digests
    /// of whichever was judged.
    fn verify(&mut self, p7s: &[u8], taken: Digests, walk: &mut Walk<'_, '_>) -> Result<(Result<Verified, Error>, Digests), Error> {
        let policy = walk.job.policy;
        let verify = |content: &[(Digest, Vec<u8>)]| -> Result<Verified, Error> {
            let verified = verify_detached(p7s, content, walk.job.signers, &|digest| policy.allows(digest))?;
            // Without attributes, content that looks like attributes could be passed off as signed (as2.md Q54).
            if !verified.has_attributes && !self.inner.is_no_set() {
                return Err(Error::new(
                    ErrorKind::AuthenticationFailed,
                    "a signature without attributes over what could be attributes itself",
                ));
            }
            Ok(verified)
        };
        let result = verify(&taken);
        if result.is_err() {
            for (mended, note) in self.mended.finish()? {
                if let Ok(verified) = verify(&mended) {
                    walk.found.note(note);
                    return Ok((Ok(verified), mended));
                }
            }
        }
        Ok((result, taken))
    }

    /// Ours goes up at once; a fault of the content waits for the signature.
    fn keep(&mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        match result {
            Err(failure) if !failure.is_ours() => {
                self.fault = Some(failure);
                Ok(())
            }
            other => other,
        }
    }
}

/// The SignedData in the second part: DER or base64, whatever the headers say (as2.md Q46).
fn read_signature(part: &[u8], strict: bool) -> Result<Vec<u8>, Error> {
    let end = part.windows(2).position(|two| two == b"\n\n").map(|at| at + 2);
    let end = match (end, part.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)) {
        (Some(one), Some(other)) => one.min(other),
        (one, other) => one.or(other).ok_or_else(|| broken("a signature part without headers"))?,
    };
    let (head, body) = part.split_at(end);
    if strict && !is_text(head) {
        return Err(broken("headers of a signature that are not ASCII"));
    }
    let headers = Headers::parse_mime(head)?;
    let media = crate::mime::content_type(&headers)?;
    if !media.as_ref().is_some_and(|media| media.is_signature() || media.is_cms()) {
        return Err(broken("the second part is no signature"));
    }
    // A SEQUENCE of more than 127 bytes begins so, and no base64 does.
    if matches!(body, [0x30, length, ..] if *length >= 0x80) {
        return Ok(body.to_vec());
    }
    if strict { decode_strict(body) } else { Ok(decode_lenient(body)) }
}

/// The digests of a part with its line ends mended, for another try with a signature that does not hold.
struct Mended {
    digests: Vec<Digest>,
    /// The part's header block, while it is not complete.
    waiting: Option<Vec<u8>>,
    crlf: Option<MadeCrlf>,
    shorter: Option<WithoutLastLineEnd>,
}

impl Mended {
    fn new(digests: &[Digest]) -> Self {
        Mended {
            digests: digests.first().copied().into_iter().collect(),
            waiting: Some(Vec::new()),
            crlf: None,
            shorter: None,
        }
    }

    fn update(&mut self, bytes: &[u8], part: &Entity) -> Result<(), Error> {
        let Some(held) = &mut self.waiting else { return self.take(bytes) };
        held.extend_from_slice(bytes);
        if part.is_open() {
            if part.is_seven_bit() {
                self.crlf = Some(MadeCrlf::new(&self.digests)?);
            }
            if part.is_report() {
                self.shorter = Some(WithoutLastLineEnd::new(&self.digests)?);
            }
            let held = self.waiting.take().unwrap_or_default();
            self.take(&held)?;
        } else if held.len() > 2 * MAX_BLOCK {
            self.waiting = None;
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some(crlf) = &mut self.crlf {
            crlf.take(bytes)?;
        }
        self.shorter.as_mut().map_or(Ok(()), |shorter| shorter.take(bytes))
    }

    /// The digests and what was done, if they differ from those of the part as it came.
    fn finish(&mut self) -> Result<Vec<(Digests, &'static str)>, Error> {
        let mut mended = Vec::new();
        if let Some(crlf) = self.crlf.take().filter(|crlf| crlf.changed) {
            mended.push((crlf.hashes.finish()?, "the signature holds with line ends made CRLF"));
        }
        if let Some(shorter) = self.shorter.take().filter(|shorter| shorter.held == b"\r\n") {
            mended.push((shorter.hashes.finish()?, "the signature holds without the report's last line end"));
        }
        Ok(mended)
    }
}

/// COMPAT: senders of old signed with CRLF and sent LF (as2.md Q3). For parts that a mail system may have touched, which are all but
/// those that are declared binary or base64.
struct MadeCrlf {
    hashes: Hashes,
    after_cr: bool,
    changed: bool,
}

impl MadeCrlf {
    fn new(digests: &[Digest]) -> Result<Self, Error> {
        Ok(MadeCrlf {
            hashes: Hashes::new(digests)?,
            after_cr: false,
            changed: false,
        })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut from = 0;
        for feed in memchr::memchr_iter(b'\n', bytes) {
            let before = if feed == 0 {
                self.after_cr
            } else {
                bytes.get(feed - 1) == Some(&b'\r')
            };
            if !before {
                self.hashes.update(bytes.get(from..feed).unwrap_or_default())?;
                self.hashes.update(b"\r")?;
                from = feed;
                self.changed = true;
            }
        }
        self.hashes.update(bytes.get(from..).unwrap_or_default())?;
        self.after_cr = bytes.last().map_or(self.after_cr, |last| *last == b'\r');
        Ok(())
    }
}

/// COMPAT(libas2): it signs a report without the line end behind the closing boundary, and sends it with one.
struct WithoutLastLineEnd {
    hashes: Hashes,
    /// The last two bytes so far.
    held: Vec<u8>,
}

impl WithoutLastLineEnd {
    fn new(digests: &[Digest]) -> Result<Self, Error> {
        Ok(WithoutLastLineEnd {
            hashes: Hashes::new(digests)?,
            held: Vec::new(),
        })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.held.extend_from_slice(bytes);
        let last = self.held.split_off(self.held.len().saturating_sub(2));
        self.hashes.update(&self.held)?;
        self.held = last;
        Ok(())
    }
}
