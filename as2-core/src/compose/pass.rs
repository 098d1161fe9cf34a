//! One pass: an entity's bytes through digests, signature, and cipher or compression.

use super::entity::Source;
use super::{Candidate, Shape, Signing, signature_head, signed_type};
use crate::algorithm::Compression;
use crate::cms::{Compressor, EnvelopePlan, Sealer, SignParams, p7s, p7s_len};
use crate::error::Error;
use crate::headers::Headers;
use crate::mic::{Digests, Hashes, Mic};
use crate::mime::transfer::{encode, encoded_len};

/// Names of what a candidate MIC covers.
pub(crate) const SIGNED: &str = "signed content";
pub(crate) const WITH_HEADERS: &str = "content with headers";
pub(crate) const WITHOUT_HEADERS: &str = "content without headers";
const DECODED: &str = "decoded payload";
const COMPRESSED: &str = "compressed content with headers";
const COMPRESSED_BARE: &str = "compressed content without headers";

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
}

impl Signing<'_> {
    fn params(&self) -> SignParams<'_> {
        SignParams {
            identity: self.identity,
            digest: self.digest,
            scheme: self.scheme,
            include_certificate: self.include_certificate,
        }
    }
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

        let own = source.headers()?;
        let entity_head = block(&own);
        let body_len = source.body_len();
        let mut len = entity_head.len() as u64 + body_len;
        let mut mime = own;
        let mut foreseen = body_len;
        let sign = match sign {
            None => None,
            Some(signing) => {
                let mut headers = Headers::new();
                headers.push("Content-Type", &signed_type(signing.digest, &shape.boundary))?;
                let p7s = encoded_len(p7s_len(&signing.params())? as u64);
                let frame = 2 * shape.boundary.len() + 4 + 8 + signature_head(&shape.boundary).len();
                foreseen = len + frame as u64 + p7s;
                let head = block(&headers);
                len = foreseen + head.len() as u64;
                mime = headers;
                let head = if wrapped { head } else { Vec::new() };
                Some(Sign {
                    signing,
                    boundary: shape.boundary.clone(),
                    head,
                    hashes: Hashes::new(&shape.digests)?,
                })
            }
        };
        let end = match encrypt {
            _ if compressing => End::Deflate(Box::default()),
            None => End::Out,
            Some(encryption) => {
                let plan = EnvelopePlan {
                    recipients: encryption.recipients.clone(),
                    cipher: encryption.cipher,
                    key_transport: encryption.key_transport,
                    plain_len: len,
                    form: shape.form,
                };
                let sealer = Sealer::new(&plan)?;
                foreseen = sealer.content_length();
                mime = sealed_headers(encryption.cipher)?;
                End::Seal(Box::new(sealer))
            }
        };

        let unsigned = shape.sign.is_none();
        let tap = |name, wanted: bool| -> Result<Option<(&'static str, Hashes)>, Error> {
            if wanted {
                Ok(Some((name, Hashes::new(&shape.digests)?)))
            } else {
                Ok(None)
            }
        };
        let (named, bare) = if second {
            (COMPRESSED, COMPRESSED_BARE)
        } else {
            (WITH_HEADERS, WITHOUT_HEADERS)
        };
        let mut with_headers = tap(named, unsigned)?;
        if let Some((_, hashes)) = &mut with_headers {
            hashes.update(&entity_head)?;
        }
        let layers = Layers {
            head: if sign.is_some() || wrapped { entity_head } else { Vec::new() },
            sign,
            end,
            with_headers,
            without_headers: tap(bare, unsigned)?,
            decoded: tap(DECODED, unsigned && source.is_encoded_single())?,
        };
        Ok(Pass {
            source,
            layers,
            mime,
            foreseen: (!compressing).then_some(foreseen),
            written: 0,
            begun: false,
        })
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

impl Layers<'_> {
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        if let Some(sign) = &self.sign {
            let opening = [sign.head.as_slice(), b"--", sign.boundary.as_bytes(), b"\r\n"].concat();
            self.end.put(&opening, out)?;
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
            let digests = sign.hashes.finish()?;
            let own = digests
                .iter()
                .find(|(digest, _)| *digest == sign.signing.digest)
                .map(|(_, value)| value.as_slice());
            let own = own.ok_or_else(|| Error::invalid("the signature's digest was not taken"))?;
            let signature = encode(&p7s(&sign.signing.params(), own, now)?);
            end.put(&signature_head(&sign.boundary), out)?;
            end.put(&signature, out)?;
            end.put(format!("\r\n--{}--\r\n", sign.boundary).as_bytes(), out)?;
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
