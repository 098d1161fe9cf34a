//! One pass: an entity's bytes through digests, signature, and cipher or compression.

use std::sync::Arc;

use super::entity::Source;
use super::{Candidate, Encryption, Shape, Signing, signature_head, signed_type};
use crate::algorithm::{Compression, Digest};
use crate::cms::{Compressor, EnvelopePlan, Sealer, SignParams, p7s, p7s_len};
use crate::error::Error;
use crate::headers::Headers;
use crate::helper::Helper;
use crate::kernel::Kernel;
use crate::mic::{Digests, Hashes, Mic};
use crate::mime::transfer::{encode, encoded_len};

/// Names of what a candidate MIC covers.
pub(crate) const SIGNED: &str = "signed content";
pub(crate) const WITH_HEADERS: &str = "content with headers";
pub(crate) const WITHOUT_HEADERS: &str = "content without headers";
const DECODED: &str = "decoded payload";
const COMPRESSED: &str = "compressed content with headers";
const COMPRESSED_BARE: &str = "compressed content without headers";
/// The signed content of an encrypted message starts at a multiple of this, in bytes: the block of AES, so that digest and
/// cipher may go hand in hand (cms-streaming.md §9).
const ALIGNMENT: usize = as2_fused::BLOCK;

/// Where the outermost layer's bytes go.
enum End {
    Out,
    Seal(Box<Sealer>),
    Deflate(Box<Compressor>),
}

/// One pass in progress.
pub(crate) struct Pass<'a> {
    source: Source,
    layers: Layers<'a>,
    /// MIME headers of the outermost entity.
    mime: Headers,
    /// Bytes that the pass must write; unknown while compressing.
    foreseen: Option<u64>,
    written: u64,
    begun: bool,
}

/// What a pass came to.
pub(crate) struct Ended {
    pub(crate) written: u64,
    pub(crate) mime: Headers,
    pub(crate) mics: Vec<Candidate>,
}

struct Layers<'a> {
    /// The entity's own headers with the blank line; empty if they are HTTP headers.
    head: Vec<u8>,
    sign: Option<Sign<'a>>,
    end: End,
    /// Digests of an unsigned message: name of the covered bytes, and the digests.
    with_headers: Option<(&'static str, Hashes)>,
    without_headers: Option<(&'static str, Hashes)>,
    decoded: Option<(&'static str, Hashes)>,
}

struct Sign<'a> {
    signing: Signing<'a>,
    boundary: String,
    /// Headers of the `multipart/signed` entity with the blank line; empty if they are HTTP headers.
    head: Vec<u8>,
    hashes: Hashes,
    kernel: Kernel,
}

impl Signing<'_> {
    pub(crate) fn params(&self) -> SignParams<'_> {
        SignParams {
            identity: self.identity,
            digest: self.digest,
            scheme: self.scheme,
            include_certificate: self.include_certificate,
            protect_algorithms: self.protect_algorithms,
        }
    }
}

/// The outermost entity as far as it is planned.
struct Frame {
    /// Its MIME headers.
    mime: Headers,
    /// Bytes of its body.
    body_len: u64,
    /// Bytes with the header block.
    len: u64,
}

impl<'a> Pass<'a> {
    /// `compressing`: this is the first pass of two.
    pub(crate) fn new(shape: &Shape<'a>, source: Source, compressing: bool) -> Result<Self, Error> {
        // Of two passes, the signature belongs to the one on its side of the compression.
        let second = source.is_compressed();
        let sign = shape.sign.filter(|_| match shape.compress {
            Compression::None => true,
            Compression::BeforeSign => second,
            Compression::AfterSign => !second,
        });
        let encrypt = shape.encrypt.as_ref().filter(|_| !compressing);
        let wrapped = compressing || encrypt.is_some();

        let mut own = source.headers()?;
        if second && (sign.is_some() || encrypt.is_some()) {
            // COMPAT(pyas2, BouncyCastle): without it they take the part for 7bit (as2.md Q2).
            own.push("Content-Transfer-Encoding", "binary")?;
        }
        let entity_head = block(&own);
        let mut frame = Frame {
            mime: own,
            body_len: source.body_len(),
            len: entity_head.len() as u64 + source.body_len(),
        };
        let sign = match sign {
            Some(signing) => Some(Sign::around(&mut frame, signing, shape, wrapped, encrypt.is_some())?),
            None => None,
        };
        let end = match encrypt {
            _ if compressing => End::Deflate(Box::default()),
            None => End::Out,
            Some(encryption) => End::seal(&mut frame, encryption, shape)?,
        };
        let mut layers = Layers::new(sign, end);
        if shape.sign.is_none() {
            layers.tap(shape, &entity_head, second, source.is_encoded_single())?;
        }
        if layers.sign.is_some() || wrapped {
            layers.head = entity_head;
        }
        Ok(Pass {
            source,
            layers,
            mime: frame.mime,
            foreseen: (!compressing).then_some(frame.body_len),
            written: 0,
            begun: false,
        })
    }

    /// Lends a helper to every run of digests.
    pub(crate) fn lend(&mut self, helper: &Arc<dyn Helper>) {
        let Layers {
            sign,
            with_headers,
            without_headers,
            decoded,
            ..
        } = &mut self.layers;
        let unsigned = [with_headers, without_headers, decoded]
            .into_iter()
            .flatten()
            .map(|(_, hashes)| hashes);
        let signed = sign.iter_mut().map(|sign| &mut sign.hashes);
        signed.chain(unsigned).for_each(|hashes| hashes.lend(helper));
    }

    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let before = out.len();
        let Pass { source, layers, begun, .. } = self;
        if !std::mem::replace(begun, true) {
            layers.begin(out)?;
        }
        if let Some((_, hashes)) = &mut layers.decoded {
            hashes.update(bytes)?;
        }
        source.push(bytes, &mut |body| layers.body(body, out))?;
        self.written += (out.len() - before) as u64;
        Ok(())
    }

    pub(crate) fn finish(mut self, shape: &Shape<'_>, out: &mut Vec<u8>) -> Result<Ended, Error> {
        self.push(&[], out)?;
        let before = out.len();
        let Pass {
            mut source,
            mut layers,
            mime,
            foreseen,
            mut written,
            ..
        } = self;
        source.finish(&mut |body| layers.body(body, out))?;
        let mics = layers.finish(shape.now, out)?;
        written += (out.len() - before) as u64;
        match foreseen {
            Some(foreseen) if foreseen != written => Err(Error::invalid(format!("wrote {written} bytes where {foreseen} were foreseen"))),
            _ => Ok(Ended { written, mime, mics }),
        }
    }
}

impl<'a> Sign<'a> {
    /// Plans a `multipart/signed` around the frame. `wrapped`: a further layer encloses it, so that its headers are bytes.
    fn around(frame: &mut Frame, signing: Signing<'a>, shape: &Shape<'_>, wrapped: bool, aligned: bool) -> Result<Self, Error> {
        let (headers, boundary) = signed_headers(signing.digest.spelt(shape.digest_names), &shape.boundary, aligned)?;
        let p7s = encoded_len(p7s_len(&signing.params())? as u64);
        let lines = opening(&boundary).len() + signature_head(&boundary).len() + closing(&boundary).len();
        let head = block(&headers);
        frame.body_len = frame.len + lines as u64 + p7s;
        frame.len = frame.body_len + head.len() as u64;
        frame.mime = headers;
        Ok(Sign {
            signing,
            boundary,
            head: if wrapped { head } else { Vec::new() },
            hashes: Hashes::new(&shape.digests)?,
            kernel: shape.kernel,
        })
    }
}

impl<'a> Layers<'a> {
    fn new(sign: Option<Sign<'a>>, end: End) -> Self {
        Layers {
            head: Vec::new(),
            sign,
            end,
            with_headers: None,
            without_headers: None,
            decoded: None,
        }
    }

    /// Takes the digests of an unsigned message, whose receiver may hash one thing or another (as2.md §3).
    fn tap(&mut self, shape: &Shape<'_>, entity_head: &[u8], second: bool, encoded: bool) -> Result<(), Error> {
        let (named, bare) = if second {
            (COMPRESSED, COMPRESSED_BARE)
        } else {
            (WITH_HEADERS, WITHOUT_HEADERS)
        };
        let mut with_headers = Hashes::new(&shape.digests)?;
        with_headers.update(entity_head)?;
        self.with_headers = Some((named, with_headers));
        self.without_headers = Some((bare, Hashes::new(&shape.digests)?));
        if encoded {
            self.decoded = Some((DECODED, Hashes::new(&shape.digests)?));
        }
        Ok(())
    }
}

impl Layers<'_> {
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        if let Some(sign) = &mut self.sign {
            self.end.put(&sign.head, out)?;
            self.end.put(opening(&sign.boundary).as_bytes(), out)?;
            // From here to the signature's border, the same bytes are digested and encrypted.
            if let End::Seal(sealer) = &mut self.end
                && sign.kernel == Kernel::Fused
                && sign.hashes.has(Digest::Sha256)
                && sealer.begin_sha256()
            {
                sign.hashes.leave_out(Digest::Sha256);
            }
        }
        let head = std::mem::take(&mut self.head);
        self.entity(&head, out)
    }

    /// Bytes of the entity's body.
    fn body(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        for (_, hashes) in [&mut self.with_headers, &mut self.without_headers].into_iter().flatten() {
            hashes.update(bytes)?;
        }
        self.entity(bytes, out)
    }

    fn entity(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        if let Some(sign) = &mut self.sign {
            sign.hashes.update(bytes)?;
        }
        self.end.put(bytes, out)
    }

    fn finish(self, now: i64, out: &mut Vec<u8>) -> Result<Vec<Candidate>, Error> {
        let Layers {
            sign,
            mut end,
            with_headers,
            without_headers,
            decoded,
            ..
        } = self;
        let mut mics = Vec::new();
        if let Some(sign) = sign {
            let mut digests = sign.hashes.finish()?;
            if let End::Seal(sealer) = &mut end
                && let Some(value) = sealer.end_sha256(out)?
            {
                digests.push((Digest::Sha256, value));
                digests.sort_unstable();
            }
            let own = digests
                .iter()
                .find(|(digest, _)| *digest == sign.signing.digest)
                .map(|(_, value)| value.as_slice());
            let own = own.ok_or_else(|| Error::invalid("the signature's digest was not taken"))?;
            let signature = encode(&p7s(&sign.signing.params(), own, now)?);
            end.put(&signature_head(&sign.boundary), out)?;
            end.put(&signature, out)?;
            end.put(closing(&sign.boundary).as_bytes(), out)?;
            mics.extend(candidates(SIGNED, digests));
        }
        for (name, hashes) in [with_headers, without_headers, decoded].into_iter().flatten() {
            mics.extend(candidates(name, hashes.finish()?));
        }
        match end {
            End::Out => {}
            End::Seal(sealer) => sealer.finish(out)?,
            End::Deflate(compressor) => compressor.finish(out)?,
        }
        Ok(mics)
    }
}

impl End {
    /// Plans an encrypted layer around the frame.
    fn seal(frame: &mut Frame, encryption: &Encryption<'_>, shape: &Shape<'_>) -> Result<Self, Error> {
        let plan = EnvelopePlan {
            recipients: encryption.recipients.clone(),
            cipher: encryption.cipher,
            key_transport: encryption.key_transport,
            plain_len: frame.len,
            form: shape.form,
        };
        let sealer = Sealer::new(&plan)?;
        frame.body_len = sealer.content_length();
        frame.mime = sealed_headers(encryption.cipher)?;
        Ok(End::Seal(Box::new(sealer)))
    }

    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        match self {
            End::Out => {
                out.extend_from_slice(bytes);
                Ok(())
            }
            End::Seal(sealer) => sealer.push(bytes, out),
            End::Deflate(compressor) => compressor.push(bytes, out),
        }
    }
}

fn candidates(what: &'static str, digests: Digests) -> impl Iterator<Item = Candidate> {
    digests.into_iter().map(move |(digest, value)| Candidate {
        what,
        mic: Mic { digest, value },
    })
}

/// Headers of the `multipart/signed` entity, and the boundary. `aligned`: what is signed starts at a multiple of [`ALIGNMENT`].
fn signed_headers(micalg: &str, boundary: &str, aligned: bool) -> Result<(Headers, String), Error> {
    let mut boundary = boundary.to_owned();
    let headers = |boundary: &str, version: bool| -> Result<Headers, Error> {
        let mut headers = Headers::new();
        if version {
            headers.push("MIME-Version", "1.0")?;
        }
        headers.push("Content-Type", &signed_type(micalg, boundary))?;
        Ok(headers)
    };
    let length = |headers: &Headers, boundary: &str| block(headers).len() + opening(boundary).len();
    // Neither header nor boundary is signed. The boundary stands in both places and moves the length by even numbers; the
    // version's line is odd.
    let odd = !length(&headers(&boundary, false)?, &boundary).is_multiple_of(2);
    let version = aligned && odd;
    if aligned {
        let missing = length(&headers(&boundary, version)?, &boundary).wrapping_neg() % ALIGNMENT;
        boundary.push_str(&"0".repeat(missing / 2));
    }
    Ok((headers(&boundary, version)?, boundary))
}

/// The line before the signed part (RFC 2046 §5.1.1).
fn opening(boundary: &str) -> String {
    format!("--{boundary}\r\n")
}

/// The line after the signature.
fn closing(boundary: &str) -> String {
    format!("\r\n--{boundary}--\r\n")
}

/// A header block with its blank line.
fn block(headers: &Headers) -> Vec<u8> {
    let mut bytes = headers.to_bytes();
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn sealed_headers(cipher: crate::algorithm::Cipher) -> Result<Headers, Error> {
    // RFC 8551 §3.2.2: the name of AuthEnvelopedData is spelled in mixed case.
    let kind = if cipher.is_gcm() { "authEnveloped-data" } else { "enveloped-data" };
    let mut headers = Headers::new();
    headers.push(
        "Content-Type",
        &format!("application/pkcs7-mime; smime-type={kind}; name=smime.p7m"),
    )?;
    headers.push("Content-Disposition", "attachment; filename=smime.p7m")?;
    Ok(headers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::algorithm::{Cipher, DigestNames, KeyTransport, SignatureScheme};
    use crate::cms::enveloped::{OpenPolicy, Opener};
    use crate::cms::testkit;
    use crate::compose::{Composed, Composer, Encryption, Finished, Outgoing, PartMeta, TransferEncoding, boundary};
    use crate::id::As2Id;
    use crate::message_id::MessageId;

    fn outgoing(cipher: Cipher, digest: Digest, compress: Compression, length: u64, der_max: u64) -> Outgoing<'static> {
        Outgoing {
            from: As2Id::parse("A").unwrap(),
            to: As2Id::parse("B").unwrap(),
            message_id: MessageId::new("1", "host").unwrap(),
            now: 1_753_968_890,
            subject: String::new(),
            as2_version: "1.2".to_owned(),
            recipient_url: String::new(),
            parts: vec![PartMeta {
                file_name: Some("a.edi".to_owned()),
                content_type: "application/EDI-X12".to_owned(),
                length,
            }],
            sign: Some(Signing {
                identity: testkit::rsa(),
                digest,
                scheme: SignatureScheme::RsaPkcs1,
                include_certificate: true,
                protect_algorithms: false,
            }),
            encrypt: Some(Encryption {
                recipients: vec![testkit::other().certificate()],
                cipher,
                key_transport: KeyTransport::RsaPkcs1,
            }),
            compress,
            transfer_encoding: TransferEncoding::Binary,
            digest_names: DigestNames::Rfc5751,
            receipt: None,
            der_max,
            extra_headers: Vec::new(),
            product: "as2gate/1".to_owned(),
            nonce: [9; 16],
            also_digest: vec![Digest::Sha1],
        }
    }

    /// The finished message and its decrypted inner entity.
    fn compose(outgoing: Outgoing<'_>, payload: &[u8], kernel: Kernel) -> (Composed, Vec<u8>) {
        let mut composer = Composer::with_kernel(outgoing, kernel).unwrap();
        let mut bytes = payload.to_vec();
        let (composed, body) = loop {
            let mut out = Vec::new();
            testkit::in_pieces(&bytes, 11, |piece| composer.push(piece, &mut out)).unwrap();
            match composer.finish(&mut out).unwrap() {
                Finished::Done(composed) => break (composed, out),
                Finished::Again(next) => (composer, bytes) = (*next, out),
            }
        };
        assert_eq!(composed.content_length, body.len() as u64);
        let mut opener = Opener::new(&[testkit::other().clone()], OpenPolicy::default());
        let mut plain = Vec::new();
        opener.push(&body, &mut plain).unwrap();
        opener.finish(&mut plain).unwrap();
        (*composed, plain)
    }

    #[test]
    fn both_kernels_make_the_same_message() {
        for cipher in [Cipher::Aes128Cbc, Cipher::Aes192Cbc, Cipher::Aes256Cbc, Cipher::Aes128Gcm] {
            for digest in [Digest::Sha256, Digest::Sha512] {
                for compress in [Compression::None, Compression::BeforeSign, Compression::AfterSign] {
                    for (length, der_max) in [(0, 0), (47, 1 << 20), (200_001, 0), (200_001, 1 << 20)] {
                        let payload = testkit::content(length);
                        let make = |kernel| compose(outgoing(cipher, digest, compress, length as u64, der_max), &payload, kernel);
                        let ((fused, inner), (separate, expected)) = (make(Kernel::Fused), make(Kernel::Separate));
                        assert!(inner == expected, "{cipher} {digest} {compress} {length}");
                        assert_eq!(fused.content_length, separate.content_length);
                        assert_eq!(fused.mic, separate.mic);
                        let mics = |composed: &Composed| -> Vec<_> { composed.mics.iter().map(|c| (c.what, c.mic.to_string())).collect() };
                        assert_eq!(mics(&fused), mics(&separate));
                    }
                }
            }
        }
    }

    /// What the digest and the cipher share starts at a block, whatever the digest's name and the boundary's length.
    #[test]
    fn what_is_signed_starts_at_a_block() {
        let spellings = |digest: &Digest| DigestNames::ALL.iter().map(|names| digest.spelt(*names)).collect::<Vec<_>>();
        for micalg in Digest::ALL.iter().flat_map(spellings) {
            for extra in 0..20 {
                let base = boundary(&[9; 16], "signed") + &"x".repeat(extra);
                let (headers, boundary) = signed_headers(micalg, &base, true).unwrap();
                assert!((block(&headers).len() + opening(&boundary).len()).is_multiple_of(ALIGNMENT));
                assert!(boundary.starts_with(&base) && boundary.len() <= 70, "RFC 2046 §5.1.1");
                assert_eq!(
                    signed_headers(micalg, &base, false).unwrap().1,
                    base,
                    "without encryption nothing is shifted"
                );
            }
        }
        let payload = testkit::content(100);
        let (_, inner) = compose(
            outgoing(Cipher::Aes256Cbc, Digest::Sha256, Compression::None, 100, 0),
            &payload,
            Kernel::Fused,
        );
        let signed = memchr::memmem::find(&inner, b"Content-Type: application/EDI-X12").unwrap();
        assert!(signed.is_multiple_of(ALIGNMENT), "{signed}");
    }
}
