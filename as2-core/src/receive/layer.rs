//! A CMS layer: encrypted, compressed, or signed with the content inside. Its OID tells which (as2.md Q45).

use super::entity::{Entity, Kind, Place};
use super::parts::{Leaf, LeafHead};
use super::{Failure, Job, MAX_LAYERS, MdnSignature, SignedBy, Walk};
use crate::cms::{CONTENT_TYPE_PREFIX, ContentKind, Inflater, OpaqueVerifier, OpenPolicy, Opened, Opener, Verified, content_type_of};
use crate::crypto;
use crate::error::{Error, ErrorKind, Lack};
use crate::kernel::Kernel;
use crate::mic::{Digests, Hashes};
use crate::mime::transfer::Base64;
use crate::mime::{MediaType, broken};

/// Most bytes that are held until it is known what a body is: its beginning, and white space in front and inside of it.
const MAX_HELD: usize = 256 * 1024;

/// A layer in progress.
pub(super) struct Layer {
    place: Place,
    /// What a body is called that is no CMS.
    unreadable: ErrorKind,
    /// Binary or base64: told by the first byte.
    form: Option<Form>,
    head: Vec<u8>,
    /// For a body behind a signature that may be a payload: what its headers say, and its bytes as they came.
    file: Option<(LeafHead, Vec<u8>)>,
    open: Option<Open>,
    leaf: Option<Leaf>,
}

enum Form {
    Binary,
    Base64(Base64),
}

/// A layer whose kind is known.
struct Open {
    cms: Cms,
    inner: Entity,
    plain: Vec<u8>,
    /// What is wrong inside; told when the layer itself is known to be good.
    fault: Option<Failure>,
    /// Its line in the list of layers.
    line: usize,
}

enum Cms {
    Encrypted(Box<Opener>),
    Compressed(Box<Inflater>),
    /// With digests of the content for the MIC.
    Signed(Box<OpaqueVerifier>, Option<Hashes>),
}

impl Layer {
    pub(super) fn new(place: Place, media: &MediaType, file: Option<LeafHead>) -> Result<Self, Failure> {
        let unreadable = match media.param("smime-type").map(str::to_ascii_lowercase).as_deref() {
            Some("compressed-data") => ErrorKind::DecompressionFailed,
            Some("signed-data") => ErrorKind::AuthenticationFailed,
            _ => ErrorKind::DecryptionFailed,
        };
        if place.layers >= MAX_LAYERS {
            return Err(broken("too many CMS layers").into());
        }
        Ok(Layer {
            place,
            unreadable,
            form: None,
            head: Vec::new(),
            file: file.map(|head| (head, Vec::new())),
            open: None,
            leaf: None,
        })
    }

    pub(super) fn push(&mut self, bytes: &[u8], walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        if let Some(leaf) = &mut self.leaf {
            return leaf.push(bytes, walk);
        }
        if let Some((_, held)) = &mut self.file {
            held.extend_from_slice(bytes);
            if held.len() > MAX_HELD {
                self.file = None;
            }
        }
        let mut bytes = bytes;
        if self.form.is_none() {
            let start = bytes.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(bytes.len());
            bytes = bytes.get(start..).unwrap_or_default();
            match bytes.first() {
                None => return Ok(()),
                Some(0x30) => self.form = Some(Form::Binary),
                Some(first) if first.is_ascii_alphanumeric() || *first == b'-' => {
                    // COMPAT: base64 whether the headers say so or not (as2.md Q36).
                    let decoder = if self.place.decrypted {
                        Base64::strict()
                    } else {
                        Base64::default()
                    };
                    self.form = Some(Form::Base64(decoder));
                }
                Some(_) => return Err(self.no_cms().into()),
            }
        }
        match &mut self.form {
            Some(Form::Base64(decoder)) => {
                let mut decoded = Vec::new();
                decoder.push(bytes, &mut decoded);
                self.cms(&decoded, walk)
            }
            _ => self.cms(bytes, walk),
        }
    }

    pub(super) fn finish(&mut self, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        if let Some(Form::Base64(decoder)) = &mut self.form {
            let mut decoded = Vec::new();
            decoder.finish(&mut decoded);
            let strange = decoder.strange;
            if self.leaf.is_none() {
                self.cms(&decoded, walk)?;
            }
            if self.leaf.is_none() && self.place.decrypted && strange {
                return Err(broken("a CMS layer in base64 that is not").into());
            }
        }
        if self.open.is_none() && self.leaf.is_none() {
            self.start(walk)?;
        }
        if let Some(leaf) = &mut self.leaf {
            return leaf.finish(walk);
        }
        match &mut self.open {
            Some(open) => open.finish(self.place, walk),
            None => Err(self.no_cms().into()),
        }
    }

    fn no_cms(&self) -> Error {
        Error::new(self.unreadable, "no CMS content")
    }

    fn cms(&mut self, bytes: &[u8], walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        if let Some(open) = &mut self.open {
            return open.push(bytes, walk);
        }
        self.head.extend_from_slice(bytes);
        if self.head.len() < CONTENT_TYPE_PREFIX {
            Ok(())
        } else {
            self.start(walk)
        }
    }

    /// Finds out what the layer is.
    fn start(&mut self, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        let head = std::mem::take(&mut self.head);
        let kind = content_type_of(&head).ok_or_else(|| self.no_cms())?;
        let second = match kind {
            ContentKind::Signed => self.place.signed,
            ContentKind::Enveloped | ContentKind::AuthEnveloped => self.place.signed && self.place.decrypted,
            ContentKind::Compressed => false,
        };
        let file = self.file.take();
        if second && let Some((head, held)) = file {
            // A signed invoice, say: AS2 signs and encrypts once, so this is what the partner signed to send. It counts for nothing
            // but payload, whoever signed it: the layers around it are those that policy is held against, and the signature among
            // them says in the end whether there is anything at all. Without one the second layer is refused below.
            let mut leaf = Leaf::new(head, walk)?;
            leaf.push(&held, walk)?;
            self.leaf = Some(leaf);
            return Ok(());
        }
        if let Some(Form::Base64(_)) = self.form {
            walk.found.note("a CMS layer was in base64");
        }
        let mut place = self.place.inside(Kind::Content)?;
        place.layers += 1;
        let (cms, words) = Cms::of(kind, &mut place, walk.job)?;
        let line = walk.found.layers.len();
        walk.found.layers.push(words.to_owned());
        let mut open = Open {
            cms,
            inner: Entity::new(place),
            plain: Vec::new(),
            fault: None,
            line,
        };
        open.push(&head, walk)?;
        self.open = Some(open);
        Ok(())
    }
}

impl Cms {
    /// For content of this kind, of which there may be one layer; with its words for the list of layers. `place` becomes that of
    /// what lies inside.
    fn of(kind: ContentKind, place: &mut Place, job: &Job<'_>) -> Result<(Self, &'static str), Failure> {
        Ok(match kind {
            ContentKind::Enveloped | ContentKind::AuthEnveloped if place.decrypted => return Err(broken("encrypted twice").into()),
            ContentKind::Enveloped | ContentKind::AuthEnveloped => {
                place.decrypted = true;
                let policy = OpenPolicy {
                    accept_3des: job.policy.accept_3des,
                };
                let mut opener = Opener::new(job.identities, policy);
                if job.kernel == Kernel::Fused {
                    opener = opener.beside(&job.beside);
                }
                (Cms::Encrypted(Box::new(opener)), "enveloped-data")
            }
            ContentKind::Compressed if place.compressed => {
                return Err(Error::new(ErrorKind::DecompressionFailed, "compressed twice").into());
            }
            ContentKind::Compressed => {
                place.compressed = true;
                let inflater = Inflater::new(job.limits.max_payload.saturating_add(1 << 20)).part_of(job.length);
                (Cms::Compressed(Box::new(inflater)), "compressed-data zlib")
            }
            ContentKind::Signed if place.signed => return Err(broken("signed twice").into()),
            ContentKind::Signed => {
                place.signed = true;
                let own = job.hashes(&[job.mic_digest(None)])?;
                (Cms::Signed(Box::default(), Some(own)), "signed-data")
            }
        })
    }
}

impl Open {
    fn push(&mut self, bytes: &[u8], walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        let Open {
            cms, inner, plain, fault, ..
        } = self;
        plain.clear();
        match cms {
            Cms::Encrypted(opener) => {
                let pushed = opener.push(bytes, plain);
                if pushed.is_err() {
                    walk.found.strangers = opener.strangers().to_vec();
                }
                pushed?;
                walk.found.malleable = !opener.is_authenticated();
            }
            Cms::Signed(verifier, own) => {
                verifier.push(bytes, plain)?;
                own.as_mut().map_or(Ok(()), |own| own.update(plain))?;
            }
            Cms::Compressed(inflater) => return through(inner, walk, |sink| inflater.push(bytes, sink)),
        }
        hold(fault, inner.push_if(plain, fault.is_none(), walk))
    }

    fn finish(&mut self, place: Place, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        self.plain.clear();
        match &mut self.cms {
            Cms::Compressed(inflater) => {
                through(&mut self.inner, walk, |sink| inflater.finish(sink))?;
                walk.found.compressed = true;
                self.inner.finish(walk)
            }
            Cms::Encrypted(opener) => {
                let opened = opener.finish(&mut self.plain);
                walk.found.malleable = !opener.is_authenticated();
                if opened.is_err() {
                    walk.found.strangers = opener.strangers().to_vec();
                }
                self.decrypted(place, opened, walk)
            }
            Cms::Signed(verifier, own) => {
                let policy = walk.job.policy;
                let verified = verifier.finish(&mut self.plain, walk.job.signers, &|digest| policy.allows(digest));
                let mut taken = Vec::new();
                if let Some(mut own) = own.take() {
                    own.update(&self.plain)?;
                    taken = own.finish()?;
                }
                self.last(walk)?;
                self.verified(place, verified, taken, walk)
            }
        }
    }

    /// Hands the last bytes to the entity inside and ends it.
    fn last(&mut self, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        let Open { inner, plain, fault, .. } = self;
        hold(fault, inner.push_if(plain, fault.is_none(), walk))?;
        if fault.is_none() {
            hold(fault, inner.finish(walk))?;
        }
        Ok(())
    }

    /// Every fault after the key has one word, unless the content inside is complete (security.md §6): signed, that is, for who
    /// must sign, or under an authenticating cipher.
    fn decrypted(&mut self, place: Place, opened: Result<Opened, Error>, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        let told_by_opening = self.told_by_opening(place, walk);
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => return Err(told_by_opening.unwrap_or_else(|| Failure::named(error, None))),
        };
        self.last(walk)?;
        if let Some(fault) = self.fault.take() {
            return Err(match told_by_opening {
                _ if fault.named => fault,
                Some(unsigned) => unsigned,
                None => crypto::decryption_failed(&fault.error.to_string()).into(),
            });
        }
        if let Some(unsigned) = told_by_opening.filter(|_| walk.found.signed.is_none()) {
            return Err(unsigned);
        }
        walk.found.encrypted = Some(opened.cipher);
        describe(&mut walk.found.layers, self.line, &words_of(&opened));
        Ok(())
    }

    /// What is said of content without a signature where one is required, behind a cipher that does not authenticate.
    ///
    /// An attacker chooses how altered content begins, and then asks about one block after the other: whether its padding is good,
    /// whether a header block ends in it. So a header block of printable lines at the beginning alone decides about the answer, which no
    /// block holds by chance, and nothing is told of what follows: no digest of it either, by which guesses could be checked.
    fn told_by_opening(&self, place: Place, walk: &Walk<'_, '_>) -> Option<Failure> {
        let Cms::Encrypted(opener) = &self.cms else { return None };
        if opener.is_authenticated() || place.signed || !walk.job.policy.require_signed {
            return None;
        }
        let why = "not signed, where a signature is required, or not decrypted to its end";
        Some(if begins_unsigned(opener.opening()) {
            Failure::named(Error::new(ErrorKind::InsufficientMessageSecurity(Lack::Signature), why), None)
        } else {
            Failure::named(crypto::decryption_failed(why), None)
        })
    }

    fn verified(
        &mut self,
        place: Place,
        verified: Result<Verified, Error>,
        taken: Digests,
        walk: &mut Walk<'_, '_>,
    ) -> Result<(), Failure> {
        let verified = match verified {
            Ok(verified) if !verified.has_attributes && !self.inner.is_no_set() => Err(Error::new(
                ErrorKind::AuthenticationFailed,
                "a signature without attributes over what could be attributes itself",
            )),
            other => other,
        };
        match verified {
            Ok(verified) => {
                let signature = vec![(verified.digest, verified.content_digest)];
                let mic = walk.job.mic_of(Some(verified.digest), &[signature, taken].concat());
                if let Some(fault) = self.fault.take() {
                    return Err(Failure::named(fault.error, mic));
                }
                let words = format!("signed-data {} signer {}", verified.digest.name(), verified.signer.subject());
                describe(&mut walk.found.layers, self.line, &words);
                walk.found.mic = mic;
                walk.found.signed = Some(SignedBy {
                    digest: verified.digest,
                    signer: verified.signer,
                });
                Ok(())
            }
            Err(error) if walk.found.mdn.is_some() && !place.decrypted => {
                walk.found.mdn_signature = Some(MdnSignature::Bad(error));
                Ok(())
            }
            Err(error) => {
                let mic = walk.job.mic_of(None, &taken);
                // Its structure and its signature are judged as one: after decryption that is no reason for own words.
                Err(Failure {
                    named: !place.decrypted,
                    mic: mic.filter(|_| !place.decrypted),
                    ..Failure::from(error)
                })
            }
        }
    }
}

impl Entity {
    fn push_if(&mut self, bytes: &[u8], wanted: bool, walk: &mut Walk<'_, '_>) -> Result<(), Failure> {
        if wanted { self.push(bytes, walk) } else { Ok(()) }
    }
}

/// Keeps a fault of the partner's content for later; ours goes up at once.
fn hold(fault: &mut Option<Failure>, result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(failure) if !failure.is_ours() => {
            *fault = Some(failure);
            Ok(())
        }
        other => other,
    }
}

/// Hands inflated bytes to the entity inside; the entity's own failure comes out as it went in.
fn through(
    inner: &mut Entity,
    walk: &mut Walk<'_, '_>,
    inflate: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error>,
) -> Result<(), Failure> {
    let mut inside = None;
    let result = inflate(&mut |plain| {
        inner.push(plain, walk).map_err(|failure| {
            let error = failure.error.clone();
            inside = Some(failure);
            error
        })
    });
    result.map_err(|error| inside.unwrap_or_else(|| error.into()))
}

/// Content that begins with a whole header block, and in it with its type, which is no type that could hold a signature.
fn begins_unsigned(opening: &[u8]) -> bool {
    const FIELD: &[u8] = b"content-type:";
    const MAY_BE_SIGNED: [&[u8]; 3] = [b"multipart/signed", b"application/pkcs7-mime", b"application/x-pkcs7-mime"];
    let Some(end) = opening.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let opening = opening.get(..end).unwrap_or_default().to_ascii_lowercase();
    let mut lines = opening.split(|byte| *byte == b'\n');
    let is_field = |line: &[u8]| line.contains(&b':') || line.starts_with(b" ") || line.starts_with(b"\t");
    if !is_text(&opening) || !lines.all(is_field) {
        return false;
    }
    let Some(value) = opening.strip_prefix(FIELD).map(<[u8]>::trim_ascii_start) else {
        return false;
    };
    // One that is cut off counts as what it may become.
    let may_be = |media: &&[u8]| value.starts_with(media) || media.starts_with(value);
    !MAY_BE_SIGNED.iter().any(may_be)
}

/// Printable ASCII in lines.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n'))
}

fn describe(layers: &mut [String], line: usize, words: &str) {
    if let Some(layer) = layers.get_mut(line) {
        words.clone_into(layer);
    }
}

fn words_of(opened: &Opened) -> String {
    let kind = if opened.cipher.is_authenticated() {
        "authEnveloped-data"
    } else {
        "enveloped-data"
    };
    format!(
        "{kind} {} {} recipient {}",
        opened.cipher,
        opened.key_transport,
        opened.recipient.subject()
    )
}
