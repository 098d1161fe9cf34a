//! Opening in one pass: the head, one content key among those that it may be, the ciphertext, and what follows it.

use super::recipient::{Recipient, read_recipients};
use crate::algorithm::{Cipher, KeyTransport};
use crate::cert::{Certificate, Identity};
use crate::cms::ber::{self, Fault, Reader};
use crate::cms::octets::{Layer, Start, Stream, end_of_message};
use crate::cms::oid;
use crate::crypto::{self, Beside, CipherStream, KeyChoice, TAG_LEN, decryption_failed};
use crate::error::{Error, ErrorKind, Lack};

/// Pairs of RecipientInfo and own key that are tried where no recipient identifier names us.
pub const MAX_TRIALS: usize = 16;
/// Recipients that are named in words where none of them is ours.
const MAX_NAMED: usize = 8;
/// Bytes of CCM ciphertext that are held back where the message does not say its length before the content: CCM authenticates
/// the length first. With a definite length nothing is held.
pub const MAX_CCM_HELD: usize = 16 * 1024 * 1024;
/// Smallest and largest GCM tag in bytes (RFC 5084 §3.2).
const TAG_RANGE: std::ops::RangeInclusive<usize> = 12..=TAG_LEN;
/// Smallest and largest CCM tag and nonce in bytes (RFC 5084 §3.1).
const CCM_TAG_RANGE: std::ops::RangeInclusive<usize> = 4..=TAG_LEN;
const CCM_NONCE_RANGE: std::ops::RangeInclusive<usize> = 7..=13;
/// The tag's length where none is stated, in bytes (RFC 5084 §3).
const DEFAULT_TAG_LEN: usize = 12;
/// Small pieces of ciphertext are gathered up to this size before the cipher sees them.
const GATHER: usize = 64 * 1024;
/// Pieces from this size on are decrypted from where they are.
const DIRECT: usize = 4 * 1024;
/// Most bytes of the plain text's beginning that are kept.
const OPENING: usize = 1024;

/// What is accepted on receipt beyond AES.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenPolicy {
    /// 3DES, by opt-in per partner.
    pub accept_3des: bool,
}

/// How a message was encrypted.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Content encryption.
    pub cipher: Cipher,
    /// Key encryption; of OAEP, its own digest counts, not that of MGF1.
    pub key_transport: KeyTransport,
    /// Our certificate whose key opened it.
    pub recipient: Certificate,
}

/// Decrypts one message that arrives in pieces.
///
/// **Plain bytes come out before anything is checked**: the caller stages them until the end is known to be good. Whatever goes
/// wrong after the content key was unwrapped is `DecryptionFailed`, and a key that does not fit is replaced by a random one, so
/// that neither answer nor effort tells about it (RFC 3218).
pub struct Opener {
    stream: Stream,
    state: State,
    failed: Option<Error>,
}

struct State {
    identities: Vec<Identity>,
    policy: OpenPolicy,
    /// Where a digest of the content may join in.
    beside: Option<Beside>,
    body: Option<Body>,
    gather: Vec<u8>,
    strangers: Vec<String>,
    authenticated: bool,
    opening: Vec<u8>,
}

/// What the head said.
struct Body {
    cipher: Cipher,
    engine: Engine,
    /// Bytes of ciphertext so far.
    sealed: u64,
    tag_len: usize,
    /// Ends of ContentInfo, its `[0]`, the enveloped data, the EncryptedContentInfo.
    frames: [Option<u64>; 4],
    choice: KeyChoice,
    offered: Vec<Offer>,
}

/// Of a pair that was offered: the identity, and the transport.
type Offer = (Certificate, KeyTransport);

/// The content cipher, or the ciphertext of one that must know the length first.
enum Engine {
    Stream(CipherStream),
    Held { nonce: Vec<u8>, sealed: Vec<u8> },
}

impl Body {
    fn decrypt(&mut self, bytes: &[u8], plain: &mut Vec<u8>) -> Result<(), Error> {
        self.sealed += bytes.len() as u64;
        match &mut self.engine {
            Engine::Stream(stream) => stream.update(bytes, plain).map_err(|_| decryption_failed("cipher")),
            Engine::Held { sealed, .. } if sealed.len() + bytes.len() > MAX_CCM_HELD => {
                Err(decryption_failed("too much CCM content without a definite length"))
            }
            Engine::Held { sealed, .. } => {
                sealed.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Checks padding or tag, and appends the last bytes.
    fn finish(&mut self, mut tag: Vec<u8>, attributes: Option<Vec<u8>>, plain: &mut Vec<u8>) -> Result<(), Error> {
        if let Engine::Held { nonce, sealed } = &mut self.engine {
            let mut stream = CipherStream::decrypt_ccm(self.choice.key(), nonce, self.tag_len, sealed.len() as u64)?;
            stream.update(&std::mem::take(sealed), plain)?;
            self.engine = Engine::Stream(stream);
        }
        if let Some(attributes) = attributes {
            let difference = crypto::tag_difference(self.choice.key(), &attributes, self.sealed)?;
            tag.iter_mut().zip(difference).for_each(|(byte, more)| *byte ^= more);
        }
        let Engine::Stream(stream) = &mut self.engine else {
            return Err(decryption_failed("no content"));
        };
        if self.cipher.is_authenticated() {
            stream.set_tag(&tag).map_err(|_| decryption_failed("authentication tag"))?;
        }
        stream.finish(plain).map_err(|_| decryption_failed("padding or authentication tag"))
    }
}

impl Opener {
    /// Opens with any of these identities, old ones included.
    #[must_use]
    pub fn new(identities: &[Identity], policy: OpenPolicy) -> Self {
        let state = State {
            identities: identities.to_vec(),
            policy,
            beside: None,
            body: None,
            gather: Vec::new(),
            strangers: Vec::new(),
            authenticated: false,
            opening: Vec::new(),
        };
        Opener {
            stream: Stream::new(ErrorKind::DecryptionFailed),
            state,
            failed: None,
        }
    }

    /// Whom the message is encrypted for, once that is known and if none of them is one of the identities.
    #[must_use]
    pub fn strangers(&self) -> &[String] {
        &self.state.strangers
    }

    /// The cipher is one that leaves no altered byte unseen.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.state.authenticated
    }

    /// How the plain text begins, without its last block: the same whether or not its padding is good.
    pub(crate) fn opening(&self) -> &[u8] {
        &self.state.opening
    }

    /// Lets a SHA-256 of the content go along with the decryption.
    pub(crate) fn beside(mut self, beside: &Beside) -> Self {
        self.state.beside = Some(beside.clone());
        self
    }

    /// Takes the next bytes of the message and appends what they decrypt to.
    ///
    /// # Errors
    /// `DecryptionFailed`, or `InsufficientMessageSecurity` for a cipher that is known and not allowed; then the same again.
    pub fn push(&mut self, cms: &[u8], plain: &mut Vec<u8>) -> Result<(), Error> {
        self.guard(|stream, state| {
            let mut layer = OpenLayer { state, plain };
            stream.push(cms, &mut layer)?;
            layer.flush()
        })
    }

    /// The message is complete: checks its end, padding and tag, and appends the last bytes.
    ///
    /// # Errors
    /// As [`Opener::push`].
    pub fn finish(&mut self, plain: &mut Vec<u8>) -> Result<Opened, Error> {
        self.guard(|stream, state| {
            let mut layer = OpenLayer { state, plain };
            let (tail, base) = stream.finish(&mut layer)?;
            layer.flush()?;
            let mut body = state.body.take().ok_or_else(|| decryption_failed("no content"))?;
            let (tag, attributes) = read_tail(&tail, base, &body).map_err(|fault| fault.into_error(ErrorKind::DecryptionFailed))?;
            body.finish(tag, attributes, plain)?;
            if !body.choice.is_good() {
                // One time in 256 the random key leaves a padding that looks right.
                return Err(decryption_failed("content key"));
            }
            let (recipient, key_transport) = body.offered.swap_remove(body.choice.index());
            Ok(Opened {
                cipher: body.cipher,
                key_transport,
                recipient,
            })
        })
    }

    /// After a failure nothing is read any more.
    fn guard<T>(&mut self, step: impl FnOnce(&mut Stream, &mut State) -> Result<T, Error>) -> Result<T, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        step(&mut self.stream, &mut self.state).inspect_err(|error| self.failed = Some(error.clone()))
    }
}

/// The state with the destination of one call.
struct OpenLayer<'a> {
    state: &'a mut State,
    plain: &'a mut Vec<u8>,
}

impl OpenLayer<'_> {
    fn decrypt(&mut self, sealed: &[u8]) -> Result<(), Error> {
        let body = self.state.body.as_mut().ok_or_else(|| decryption_failed("no content"))?;
        let from = self.plain.len();
        body.decrypt(sealed, self.plain)?;
        let opening = &mut self.state.opening;
        let to = self.plain.len().min(from + OPENING - opening.len());
        opening.extend_from_slice(self.plain.get(from..to).unwrap_or_default());
        Ok(())
    }

    /// Decrypts what was gathered.
    fn flush(&mut self) -> Result<(), Error> {
        let mut gathered = std::mem::take(&mut self.state.gather);
        if !gathered.is_empty() {
            self.decrypt(&gathered)?;
            gathered.clear();
        }
        self.state.gather = gathered;
        Ok(())
    }
}

impl Layer for OpenLayer<'_> {
    fn head(&mut self, bytes: &[u8]) -> Result<Result<Start, Error>, Fault> {
        let (head, start) = Head::read(bytes)?;
        // The length of a string in pieces is not known before its end.
        let length = start.header.length.filter(|_| start.header.id & 0x20 == 0);
        if !head.names_one_of(&self.state.identities) {
            self.state.strangers = head.recipients.iter().take(MAX_NAMED).map(Recipient::name).collect();
        }
        Ok(head.unlock(self.state, length).map(|body| {
            self.state.authenticated = body.cipher.is_authenticated();
            self.state.body = Some(body);
            start
        }))
    }

    fn content(&mut self, octets: &[u8]) -> Result<(), Error> {
        if self.state.gather.len() + octets.len() > GATHER {
            self.flush()?;
        }
        if octets.len() >= DIRECT {
            self.flush()?;
            return self.decrypt(octets);
        }
        self.state.gather.extend_from_slice(octets);
        Ok(())
    }
}

/// Everything before the ciphertext.
struct Head<'a> {
    authenticated: bool,
    cipher: &'a [u8],
    parameters: &'a [u8],
    recipients: Vec<Recipient<'a>>,
    frames: [Option<u64>; 4],
}

impl<'a> Head<'a> {
    fn read(bytes: &'a [u8]) -> Result<(Self, Start), Fault> {
        let mut reader = Reader::new(bytes);
        let outer = reader.open(ber::SEQUENCE)?;
        let authenticated = match reader.expect(ber::OID)?.body {
            oid::ENVELOPED_DATA => false,
            oid::AUTH_ENVELOPED_DATA => true,
            _ => return Err(Fault::Bad("not enveloped data")),
        };
        let explicit = reader.open(ber::context(0))?;
        let data = reader.open(ber::SEQUENCE)?;
        reader.expect(ber::INTEGER)?;
        // Whether originatorInfo is there shows only in the next byte.
        if reader.rest().is_empty() {
            return Err(Fault::NeedMore);
        }
        reader.optional(ber::context(0))?;
        let set = reader.expect(ber::SET)?;
        let inner = reader.open(ber::SEQUENCE)?;
        // The type of the content is not looked at: in AS2 it is always MIME (RFC 4130 §3), whatever a product calls it.
        reader.expect(ber::OID)?;
        let mut algorithm = reader.expect(ber::SEQUENCE)?.reader();
        let cipher = algorithm.expect(ber::OID)?.body;
        let parameters = algorithm.rest();
        let header = reader.open_any()?;
        if header.id & !0x20 != 0x80 {
            return Err(Fault::Bad("no encrypted content"));
        }
        let head = Head {
            authenticated,
            cipher,
            parameters,
            recipients: read_recipients(set.reader())?,
            frames: [outer, explicit, data, inner],
        };
        Ok((head, Start { at: reader.at(), header }))
    }

    /// Decides about the cipher, and only then uses a key.
    fn unlock(&self, state: &State, length: Option<u64>) -> Result<Body, Error> {
        let cipher = self.allowed_cipher(state.policy)?;
        let (iv, tag_len) = cipher_parameters(cipher, self.parameters).map_err(|fault| fault.into_error(ErrorKind::DecryptionFailed))?;
        let (choice, offered) = self.offer_keys(&state.identities, cipher.key_len())?;
        let engine = match length {
            _ if !cipher.is_ccm() => Engine::Stream(match &state.beside {
                Some(beside) => CipherStream::decrypt_beside(beside, cipher, choice.key(), &iv)?,
                None => CipherStream::decrypt(cipher, choice.key(), &iv)?,
            }),
            Some(length) => Engine::Stream(CipherStream::decrypt_ccm(choice.key(), &iv, tag_len, length)?),
            None => Engine::Held {
                nonce: iv,
                sealed: Vec::new(),
            },
        };
        Ok(Body {
            cipher,
            engine,
            sealed: 0,
            tag_len,
            frames: self.frames,
            choice,
            offered,
        })
    }

    fn allowed_cipher(&self, policy: OpenPolicy) -> Result<Cipher, Error> {
        match oid::cipher_of(self.cipher) {
            Some(Cipher::TripleDesCbc) if !policy.accept_3des => Err(Lack::TripleDes.into()),
            Some(cipher) if cipher.is_authenticated() != self.authenticated => {
                Err(decryption_failed("the cipher does not belong to this kind of enveloped data"))
            }
            Some(cipher) => Ok(cipher),
            None if oid::is_refused_cipher(self.cipher) => Err(Lack::BrokenCipher.into()),
            None => Err(decryption_failed("unknown cipher")),
        }
    }

    /// The content key of `len` bytes, good or random, and who and what may have given it.
    fn offer_keys(&self, identities: &[Identity], len: usize) -> Result<(KeyChoice, Vec<Offer>), Error> {
        let mut choice = KeyChoice::new(len)?;
        let mut offered = Vec::new();
        let mut refusal = Fault::Bad("no recipient that we could be");
        for (recipient, identity) in self.pairs(identities) {
            // Readable for everyone, so a refusal tells nothing.
            match recipient.unwrap(identity, len) {
                Ok((unwrapped, transport)) => {
                    choice.offer(offered.len() as u8, &unwrapped);
                    offered.push((identity.certificate().clone(), transport));
                }
                Err(fault) => refusal = fault,
            }
        }
        if offered.is_empty() {
            return Err(refusal.into_error(ErrorKind::DecryptionFailed));
        }
        #[cfg(test)]
        super::tests::tell_if_told_to(&choice)?;
        Ok((choice, offered))
    }

    fn names_one_of(&self, identities: &[Identity]) -> bool {
        let mut certificates = identities.iter().map(Identity::certificate);
        certificates.any(|certificate| self.recipients.iter().any(|recipient| recipient.names(certificate)))
    }

    /// The one pair that is named, or else a bounded number of trials. A name that is ours and then fails never falls through
    /// to trials: they would tell.
    fn pairs<'b>(&'b self, identities: &'b [Identity]) -> Vec<(&'b Recipient<'a>, &'b Identity)> {
        let all = self.recipients.iter().flat_map(|recipient| {
            identities
                .iter()
                .filter(|identity| recipient.suits(identity.certificate()))
                .map(move |identity| (recipient, identity))
        });
        match all.clone().find(|(recipient, identity)| recipient.names(identity.certificate())) {
            Some(named) => vec![named],
            None => all.take(MAX_TRIALS).collect(),
        }
    }
}

/// The vector or nonce, and the bytes of the tag (RFC 3565 §4.1, RFC 5084 §3).
pub(super) fn cipher_parameters(cipher: Cipher, parameters: &[u8]) -> Result<(Vec<u8>, usize), Fault> {
    let mut reader = Reader::new(parameters);
    let mut tag_len = 0;
    let iv = if cipher.is_authenticated() {
        let mut fields = reader.expect(ber::SEQUENCE)?.reader();
        let nonce = fields.octets(cipher.iv_len())?;
        tag_len = match fields.optional(ber::INTEGER)?.map(|integer| integer.body) {
            None => DEFAULT_TAG_LEN,
            Some([length]) => usize::from(*length),
            Some(_) => return Err(Fault::Bad("tag length")),
        };
        fields.finish()?;
        nonce
    } else {
        reader.octets(cipher.iv_len())?
    };
    reader.finish()?;
    let (tag_fits, iv_fits) = if cipher.is_ccm() {
        let tag_fits = CCM_TAG_RANGE.contains(&tag_len) && tag_len.is_multiple_of(2);
        (tag_fits, CCM_NONCE_RANGE.contains(&iv.len()))
    } else {
        (!cipher.is_gcm() || TAG_RANGE.contains(&tag_len), iv.len() == cipher.iv_len())
    };
    match (tag_fits, iv_fits) {
        (true, true) => Ok((iv, tag_len)),
        (false, _) => Err(Fault::Bad("tag length")),
        (_, false) => Err(Fault::Bad("initialization vector")),
    }
}

/// Everything after the ciphertext: the ends of the four elements, ignored attributes, the tag, and in DER what it covers besides.
fn read_tail(tail: &[u8], base: u64, body: &Body) -> Result<(Vec<u8>, Option<Vec<u8>>), Fault> {
    let [outer, explicit, data, inner] = body.frames;
    let mut reader = Reader::new(tail);
    reader.close(base, inner)?;
    let (mut tag, mut attributes) = (Vec::new(), None);
    if body.cipher.is_authenticated() {
        // Authenticated as a SET with a definite length (RFC 5083 §2.2).
        if let Some(element) = reader.optional(ber::context(1))? {
            attributes = Some(ber::Element { id: ber::SET, ..element }.to_der()?);
        }
        if attributes.is_some() && body.cipher.is_ccm() {
            // CCM takes them before the content, and they come after it.
            return Err(Fault::Bad("authenticated attributes with CCM are not supported"));
        }
        tag = reader.octets(TAG_LEN)?;
        if tag.len() != body.tag_len {
            return Err(Fault::Bad("tag length"));
        }
        reader.optional(ber::context(2))?;
    } else {
        reader.optional(ber::context(1))?;
    }
    reader.close(base, data)?;
    reader.close(base, explicit)?;
    reader.close(base, outer)?;
    end_of_message(&reader)?;
    Ok((tag, attributes))
}
