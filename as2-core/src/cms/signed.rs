//! SignedData (RFC 5652 §5): the detached signature of `multipart/signed`, and the opaque form on receipt.
//!
//! Nothing that a message brings is trusted: certificates in it are listed, never used. Whoever signed is found among the
//! certificates that the caller pinned.

use openssl::pkey::{PKey, Public};

use crate::algorithm::{Digest, SignatureScheme};
use crate::cert::{Certificate, Identity};
use crate::cms::ber::{self, Element, Fault, Reader};
use crate::cms::enveloped::{explicit_digest, mgf1_digest, names_certificate};
use crate::cms::octets::{Layer, Start, Stream, end_of_message};
use crate::cms::oid;
use crate::crypto::{self, Hasher, Signature};
use crate::error::{Error, ErrorKind};

/// Bytes of one detached signature.
pub const MAX_P7S: usize = 256 * 1024;
/// Certificates that a signature may bring.
pub const MAX_CERTIFICATES: usize = 64;
/// SignerInfos of one signature; AS2 has one, and two during a change of algorithms.
pub const MAX_SIGNERS: usize = 4;
/// Signed attributes of one SignerInfo.
pub const MAX_ATTRIBUTES: usize = 64;
/// Pinned certificates that are tried.
pub const MAX_PINNED: usize = 64;
/// Digest algorithms that opaque data may announce.
const MAX_DIGESTS: usize = 8;
/// Signatures made until one has the predicted length (ECDSA); two are needed on average.
const MAX_ATTEMPTS: usize = 64;
/// Bytes of a signature value: the largest RSA modulus.
const MAX_SIGNATURE: usize = crate::cert::MAX_RSA_BITS as usize / 8;
/// UTCTime has no longer a meaning from 2050-01-01 (RFC 5280 §4.1.2.5.1); Unix seconds.
const UTC_TIME_END: i64 = 2_524_608_000;

/// How to sign.
#[derive(Clone, Copy, Debug)]
pub struct SignParams<'a> {
    /// Who signs.
    pub identity: &'a Identity,
    /// SHA-1 or SHA-2; the others are for receipt only.
    pub digest: Digest,
    /// For RSA keys; EC keys sign by ECDSA.
    pub scheme: SignatureScheme,
    /// Whether the signer's certificate goes along.
    pub include_certificate: bool,
    /// Whether the attribute CMSAlgorithmProtection goes along (RFC 6211), which several products cannot read (as2.md Q57).
    pub protect_algorithms: bool,
}

/// Bytes of the signature that [`p7s`] will make with the same parameters.
///
/// # Errors
/// As [`p7s`].
pub fn p7s_len(params: &SignParams<'_>) -> Result<usize, Error> {
    let digest = vec![0; crypto::digest_len(params.digest)];
    let attributes = signed_attributes(params, &digest, 0)?;
    let length = match params.identity.key().ec_key() {
        Ok(key) => ecdsa_len(key.group().order_bits()),
        Err(_) => params.identity.key().size(),
    };
    Ok(signed_data(params, &attributes, &vec![0; length])?.len())
}

/// Signs a content digest: detached SignedData in DER with the attributes contentType, messageDigest and signingTime.
/// Always [`p7s_len`] bytes.
///
/// # Errors
/// `Invalid` if key, scheme and digest do not go together, or the time (Unix seconds) is not in 1970 to 2049.
pub fn p7s(params: &SignParams<'_>, content_digest: &[u8], now_unix: i64) -> Result<Vec<u8>, Error> {
    if content_digest.len() != crypto::digest_len(params.digest) {
        return Err(Error::invalid("the content digest has the wrong length"));
    }
    let wanted = p7s_len(params)?;
    let attributes = signed_attributes(params, content_digest, now_unix)?;
    let value = crypto::hash(params.digest, &attributes)?;
    // ECDSA values vary by a few bytes, and the length may be promised already: sign again until it is the common one.
    for _ in 0..MAX_ATTEMPTS {
        let signature = crypto::sign_digest(params.identity.key(), params.scheme, params.digest, &value)?;
        let whole = signed_data(params, &attributes, &signature)?;
        if whole.len() == wanted {
            return Ok(whole);
        }
    }
    Err(Error::new(
        ErrorKind::UnexpectedProcessingError,
        "no signature of the predicted length",
    ))
}

/// The commonest length of an ECDSA-Sig-Value for an order of so many bits. Of two random numbers below an order of whole
/// bytes, one mostly has its top bit set and needs a zero before it.
fn ecdsa_len(order_bits: u32) -> usize {
    let bytes = order_bits.div_ceil(8) as usize;
    let numbers = 2 * bytes + usize::from(order_bits.is_multiple_of(8)) + 4;
    numbers + ber::header_len(numbers as u64) as usize
}

/// The signed attributes as the SET that is hashed (RFC 5652 §5.4, §11).
fn signed_attributes(params: &SignParams<'_>, digest: &[u8], now_unix: i64) -> Result<Vec<u8>, Error> {
    let attribute = |kind: &[u8], value: Vec<u8>| ber::tlv(ber::SEQUENCE, &[ber::oid(kind), ber::tlv(ber::SET, &[value])]);
    let mut attributes = vec![
        attribute(oid::CONTENT_TYPE, ber::oid(oid::DATA)),
        attribute(oid::SIGNING_TIME, ber::tlv(ber::UTC_TIME, &[utc_time(now_unix)?])),
        attribute(oid::MESSAGE_DIGEST, ber::tlv(ber::OCTET_STRING, &[digest])),
    ];
    if params.protect_algorithms {
        // The signature's AlgorithmIdentifier under the implicit tag [1] (RFC 6211 §2).
        let mut signature = signature_algorithm(params)?;
        signature[0] = ber::context(1);
        let digest = ber::algorithm(oid::digest(params.digest), &[]);
        attributes.push(attribute(oid::ALGORITHM_PROTECTION, ber::tlv(ber::SEQUENCE, &[digest, signature])));
    }
    Ok(ber::set_of(ber::SET, attributes))
}

/// The whole structure around a signature value.
fn signed_data(params: &SignParams<'_>, attributes: &[u8], signature: &[u8]) -> Result<Vec<u8>, Error> {
    let certificate = params.identity.certificate();
    // SHA-2 without parameters (RFC 5754 §2), SHA-1 likewise (RFC 3370 §2.1).
    let digest = ber::algorithm(oid::digest(params.digest), &[]);
    let mut attributes = attributes.to_vec();
    attributes[0] = ber::context(0);
    let serial = ber::tlv(ber::INTEGER, &[certificate.serial()]);
    let signer = ber::tlv(
        ber::SEQUENCE,
        &[
            ber::integer(1),
            ber::tlv(ber::SEQUENCE, &[certificate.issuer_der(), &serial]),
            digest.clone(),
            attributes,
            signature_algorithm(params)?,
            ber::tlv(ber::OCTET_STRING, &[signature]),
        ],
    );
    let certificates = if params.include_certificate {
        ber::tlv(ber::context(0), &[certificate.der()])
    } else {
        Vec::new()
    };
    let data = ber::tlv(
        ber::SEQUENCE,
        &[
            ber::integer(1),
            ber::tlv(ber::SET, &[digest]),
            ber::tlv(ber::SEQUENCE, &[ber::oid(oid::DATA)]),
            certificates,
            ber::tlv(ber::SET, &[signer]),
        ],
    );
    Ok(ber::tlv(
        ber::SEQUENCE,
        &[ber::oid(oid::SIGNED_DATA), ber::tlv(ber::context(0), &[data])],
    ))
}

/// The AlgorithmIdentifier of a signature of ours (RFC 3370 §3.2, RFC 4056 §3, RFC 5754 §3.3).
fn signature_algorithm(params: &SignParams<'_>) -> Result<Vec<u8>, Error> {
    let digest = params.digest;
    if !matches!(
        digest,
        Digest::Sha1 | Digest::Sha224 | Digest::Sha256 | Digest::Sha384 | Digest::Sha512
    ) {
        return Err(Error::invalid(format!("{digest} is not for signing")));
    }
    if params.identity.key().id() == openssl::pkey::Id::EC {
        let ecdsa = oid::ecdsa_with(digest).ok_or_else(|| Error::invalid("no ECDSA with this digest"))?;
        return Ok(ber::algorithm(ecdsa, &[]));
    }
    Ok(match params.scheme {
        SignatureScheme::RsaPkcs1 => ber::algorithm(oid::RSA_ENCRYPTION, &[ber::NULL, 0]),
        SignatureScheme::RsaPss => ber::algorithm(oid::RSASSA_PSS, &pss_parameters(digest)),
    })
}

/// RSASSA-PSS-params (RFC 4055 §3.1): the digest everywhere, a salt of its length; DER leaves out the defaults of SHA-1.
fn pss_parameters(digest: Digest) -> Vec<u8> {
    if digest == Digest::Sha1 {
        return ber::tlv(ber::SEQUENCE, &[[0u8; 0]]);
    }
    let hash = ber::algorithm(oid::digest(digest), &[ber::NULL, 0]);
    let mgf = ber::algorithm(oid::MGF1, &hash);
    let salt = ber::integer(crypto::digest_len(digest) as u8);
    ber::tlv(
        ber::SEQUENCE,
        &[
            ber::tlv(ber::context(0), &[hash]),
            ber::tlv(ber::context(1), &[mgf]),
            ber::tlv(ber::context(2), &[salt]),
        ],
    )
}

/// What a signature proves.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The digest that was signed.
    pub digest: Digest,
    /// The content's digest under it.
    pub content_digest: Vec<u8>,
    /// The pinned certificate under which it holds.
    pub signer: Certificate,
    /// What the signer claims, in Unix seconds; signed, yet not proven.
    pub signing_time: Option<i64>,
    /// Whether the signature covers attributes, and through them the content. If not, the caller must see to it that the content
    /// does not begin like DER attributes, with 0x31: one could be passed off as the other.
    pub has_attributes: bool,
}

/// What a signature says about itself; nothing of it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureFacts {
    /// Known digests of all SignerInfos: those that must be taken of the content.
    pub digests: Vec<Digest>,
    /// Issuer (DER) and serial (contents) of the first SignerInfo.
    pub signer_issuer_serial: Option<(Vec<u8>, Vec<u8>)>,
    /// Subject key identifier of the first SignerInfo.
    pub signer_ski: Option<Vec<u8>>,
    /// The claimed time of the first SignerInfo, in Unix seconds.
    pub signing_time: Option<i64>,
    /// The certificates that came along, as they are.
    pub certificates: Vec<Vec<u8>>,
}

/// Reads the structure of a detached signature, to decide which digests the content needs.
///
/// # Errors
/// `AuthenticationFailed` if it is no detached SignedData within the limits.
pub fn peek(p7s: &[u8]) -> Result<SignatureFacts, Error> {
    let parts = read_detached(p7s)?;
    let mut digests = Vec::new();
    for digest in parts.signers.iter().filter_map(|signer| oid::digest_of(signer.digest)) {
        if !digests.contains(&digest) {
            digests.push(digest);
        }
    }
    let first = parts.signers.first();
    let id = first.map(|signer| signer.id);
    let attributes = first
        .and_then(|signer| signer.attributes)
        .and_then(|attributes| Attributes::read(attributes).ok());
    Ok(SignatureFacts {
        digests,
        signer_issuer_serial: id.filter(|id| id.id == ber::SEQUENCE).and_then(|id| {
            let mut fields = id.reader();
            Some((fields.next().ok()?.whole.to_vec(), fields.expect(ber::INTEGER).ok()?.body.to_vec()))
        }),
        signer_ski: id.filter(|id| id.id & !0x20 == 0x80).and_then(|id| id.octets(MAX_SIGNATURE).ok()),
        signing_time: attributes.and_then(|attributes| attributes.signing_time),
        certificates: parts.certificates.iter().map(|der| der.to_vec()).collect(),
    })
}

/// Verifies a detached signature, BER or DER, under the pinned certificates. `content_digests` holds the content's digests, at
/// least those that [`peek`] names; `allowed` decides about digests before any key is used.
///
/// # Errors
/// `AuthenticationFailed` if it holds under no pinned certificate, `IntegrityCheckFailed` if it does and the content is not the
/// signed one, `InsufficientMessageSecurity` for a digest that is known and not allowed, `UnexpectedProcessingError` if a digest
/// of the content is missing.
pub fn verify_detached(
    p7s: &[u8],
    content_digests: &[(Digest, Vec<u8>)],
    pinned: &[Certificate],
    allowed: &dyn Fn(Digest) -> bool,
) -> Result<Verified, Error> {
    judge(&read_detached(p7s)?.signers, content_digests, pinned, allowed)
}

/// One good SignerInfo is enough; else the most telling failure counts.
fn judge(
    signers: &[Signer<'_>],
    digests: &[(Digest, Vec<u8>)],
    pinned: &[Certificate],
    allowed: &dyn Fn(Digest) -> bool,
) -> Result<Verified, Error> {
    let rank = |error: &Error| match error.kind {
        ErrorKind::AuthenticationFailed => 0,
        ErrorKind::InsufficientMessageSecurity => 1,
        ErrorKind::IntegrityCheckFailed => 2,
        _ => 3,
    };
    let mut failure = unauthentic("no signer");
    for signer in signers {
        match signer.verify(digests, pinned, allowed) {
            Ok(verified) => return Ok(verified),
            Err(error) if rank(&error) >= rank(&failure) => failure = error,
            Err(_) => {}
        }
    }
    Err(failure)
}

fn unauthentic(detail: &str) -> Error {
    Error::new(ErrorKind::AuthenticationFailed, detail)
}

/// What follows the content in SignedData.
struct Parts<'a> {
    certificates: Vec<&'a [u8]>,
    signers: Vec<Signer<'a>>,
}

/// One SignerInfo (RFC 5652 §5.3).
struct Signer<'a> {
    id: Element<'a>,
    /// OID of the digest.
    digest: &'a [u8],
    digest_parameters: &'a [u8],
    /// Contents of the signed attributes.
    attributes: Option<Element<'a>>,
    algorithm: &'a [u8],
    parameters: &'a [u8],
    signature: Vec<u8>,
}

fn read_detached(p7s: &[u8]) -> Result<Parts<'_>, Error> {
    if p7s.len() > MAX_P7S {
        return Err(unauthentic("signature too large"));
    }
    let read = || {
        let mut message = Reader::new(p7s);
        let mut info = message.expect(ber::SEQUENCE)?.reader();
        end_of_message(&message)?;
        if info.expect(ber::OID)?.body != oid::SIGNED_DATA {
            return Err(Fault::Bad("not SignedData"));
        }
        let mut explicit = info.expect(ber::context(0))?.reader();
        info.finish()?;
        let mut data = explicit.expect(ber::SEQUENCE)?.reader();
        explicit.finish()?;
        data.expect(ber::INTEGER)?;
        data.expect(ber::SET)?;
        let mut content = data.expect(ber::SEQUENCE)?.reader();
        if content.expect(ber::OID)?.body != oid::DATA {
            return Err(Fault::Bad("the signed content is not id-data"));
        }
        if !content.is_empty() {
            return Err(Fault::Bad("a detached signature with content"));
        }
        let parts = read_parts(&mut data)?;
        data.finish()?;
        Ok(parts)
    };
    read().map_err(|fault| fault.into_error(ErrorKind::AuthenticationFailed))
}

/// Certificates, CRLs (ignored) and SignerInfos.
fn read_parts<'a>(data: &mut Reader<'a>) -> Result<Parts<'a>, Fault> {
    let mut certificates = Vec::new();
    if let Some(bag) = data.optional(ber::context(0))? {
        let mut bag = bag.reader();
        while !bag.is_empty() {
            if certificates.len() == MAX_CERTIFICATES {
                return Err(Fault::Bad("too many certificates"));
            }
            certificates.push(bag.next()?.whole);
        }
    }
    data.optional(ber::context(1))?;
    let mut infos = data.expect(ber::SET)?.reader();
    let mut signers = Vec::new();
    while !infos.is_empty() {
        if signers.len() == MAX_SIGNERS {
            return Err(Fault::Bad("too many signers"));
        }
        signers.push(Signer::read(&infos.expect(ber::SEQUENCE)?)?);
    }
    if signers.is_empty() {
        Err(Fault::Bad("no signer"))
    } else {
        Ok(Parts { certificates, signers })
    }
}

impl<'a> Signer<'a> {
    fn read(info: &Element<'a>) -> Result<Self, Fault> {
        let mut fields = info.reader();
        fields.expect(ber::INTEGER)?;
        let id = fields.next()?;
        let mut digest = fields.expect(ber::SEQUENCE)?.reader();
        let attributes = fields.optional(ber::context(0))?;
        let mut algorithm = fields.expect(ber::SEQUENCE)?.reader();
        let signature = fields.octets(MAX_SIGNATURE)?;
        // Unsigned attributes (time stamps) prove nothing here.
        fields.optional(ber::context(1))?;
        fields.finish()?;
        Ok(Signer {
            id,
            digest: digest.expect(ber::OID)?.body,
            digest_parameters: digest.rest(),
            attributes,
            algorithm: algorithm.expect(ber::OID)?.body,
            parameters: algorithm.rest(),
            signature,
        })
    }

    fn verify(&self, digests: &[(Digest, Vec<u8>)], pinned: &[Certificate], allowed: &dyn Fn(Digest) -> bool) -> Result<Verified, Error> {
        let insufficient = |detail: String| Error::new(ErrorKind::InsufficientMessageSecurity, detail);
        let digest = match oid::digest_of(self.digest) {
            Some(digest) if !allowed(digest) => return Err(insufficient(format!("{digest} is not allowed"))),
            Some(digest) => digest,
            None if oid::is_refused_digest(self.digest) => return Err(insufficient("a digest that is never allowed".into())),
            None => return Err(unauthentic("unknown digest")),
        };
        let scheme = self
            .scheme(digest)
            .map_err(|fault| fault.into_error(ErrorKind::AuthenticationFailed))?;
        let content = digests.iter().find(|(name, _)| *name == digest).map(|(_, value)| value.clone());
        let content = content.ok_or_else(|| {
            Error::new(
                ErrorKind::UnexpectedProcessingError,
                format!("the content's {digest} digest was not taken"),
            )
        })?;

        let mut signing_time = None;
        let signer = match self.attributes {
            None => self
                .find_signer(scheme, digest, &content, pinned)
                .ok_or_else(|| unauthentic("no pinned certificate fits"))?,
            Some(element) => {
                let signer = self.find_attribute_signer(element, scheme, digest, pinned)?;
                let attributes = Attributes::read(element).map_err(|fault| fault.into_error(ErrorKind::AuthenticationFailed))?;
                if !self.has_algorithms_of(&attributes) {
                    return Err(unauthentic("the signed algorithms are others"));
                }
                if attributes.content_type != oid::DATA {
                    return Err(unauthentic("the signed content type is another"));
                }
                if attributes.message_digest != content {
                    return Err(Error::new(
                        ErrorKind::IntegrityCheckFailed,
                        format!("the content's {digest} digest is not the signed one"),
                    ));
                }
                signing_time = attributes.signing_time;
                signer
            }
        };
        Ok(Verified {
            digest,
            content_digest: content,
            signer,
            signing_time,
            has_attributes: self.attributes.is_some(),
        })
    }

    /// CMSAlgorithmProtection, where there is one, names the algorithms of the SignerInfo (RFC 6211 §3). Absent parameters and
    /// NULL are one.
    fn has_algorithms_of(&self, attributes: &Attributes<'_>) -> bool {
        attributes.algorithms.as_ref().is_none_or(|signed| {
            let digest = (signed.digest.0, plain_parameters(signed.digest.1));
            let signature = (signed.signature.0, plain_parameters(signed.signature.1));
            digest == (self.digest, plain_parameters(self.digest_parameters))
                && signature == (self.algorithm, plain_parameters(self.parameters))
        })
    }

    /// The attributes are hashed as received, as a SET with a definite length. RFC 5652 §5.4 wants their DER, which differs where
    /// the sender wrote BER; the members are the same, so trying both weakens nothing.
    fn find_attribute_signer(
        &self,
        element: Element<'_>,
        scheme: Signature,
        digest: Digest,
        pinned: &[Certificate],
    ) -> Result<Certificate, Error> {
        let signer_of = |attributes: &[u8]| -> Result<Option<Certificate>, Error> {
            if scheme == Signature::Ed25519 {
                return Ok(self.find_pinned(pinned, |key| crypto::verify_message(key, attributes, &self.signature)));
            }
            Ok(self.find_signer(scheme, digest, &crypto::hash(digest, attributes)?, pinned))
        };
        let received = ber::tlv(ber::SET, &[element.body]);
        if let Some(signer) = signer_of(&received)? {
            return Ok(signer);
        }
        let der = Element { id: ber::SET, ..element }
            .to_der()
            .map_err(|fault| fault.into_error(ErrorKind::AuthenticationFailed))?;
        let signer = if der == received { None } else { signer_of(&der)? };
        signer.ok_or_else(|| unauthentic("no pinned certificate fits"))
    }

    fn find_signer(&self, scheme: Signature, digest: Digest, value: &[u8], pinned: &[Certificate]) -> Option<Certificate> {
        self.find_pinned(pinned, |key| crypto::verify_digest(key, scheme, digest, value, &self.signature))
    }

    /// The pinned certificate under which the signature holds: those that the identifier names first, then all others, because
    /// products write names differently from the certificate.
    fn find_pinned(&self, pinned: &[Certificate], holds: impl Fn(&PKey<Public>) -> bool) -> Option<Certificate> {
        let (named, others): (Vec<_>, Vec<_>) = pinned
            .iter()
            .take(MAX_PINNED)
            .partition(|certificate| names_certificate(&self.id, certificate));
        let mut candidates = named.into_iter().chain(others);
        candidates.find(|candidate| holds(candidate.public_key())).cloned()
    }

    /// How the value was made; the algorithm must agree with the digest.
    fn scheme(&self, digest: Digest) -> Result<Signature, Fault> {
        if self.algorithm == oid::RSASSA_PSS {
            return self.pss(digest);
        }
        if self.algorithm == oid::RSA_ENCRYPTION || oid::is_with_rsa(digest, self.algorithm) {
            return Ok(Signature::RsaPkcs1);
        }
        if self.algorithm == oid::EC_PUBLIC_KEY || oid::ecdsa_with(digest) == Some(self.algorithm) {
            return Ok(Signature::Ecdsa);
        }
        if self.algorithm == oid::ED25519 {
            // It signs the bytes, not their digest, and content without attributes is gone by now (RFC 8419 §3.2).
            return match self.attributes {
                Some(_) => Ok(Signature::Ed25519),
                None => Err(Fault::Bad("Ed25519 without signed attributes is not supported")),
            };
        }
        Err(Fault::Bad("unknown signature algorithm, or one of another digest"))
    }

    /// RSASSA-PSS-params; absent, all defaults hold (RFC 4055 §3.1).
    fn pss(&self, digest: Digest) -> Result<Signature, Fault> {
        let mut parameters = Reader::new(self.parameters);
        let sequence = parameters.optional(ber::SEQUENCE)?;
        parameters.finish()?;
        let Some(sequence) = sequence else {
            return if digest == Digest::Sha1 {
                Ok(Signature::RsaPss { mgf: digest, salt: 20 })
            } else {
                Err(Fault::Bad("PSS digest"))
            };
        };
        let mut fields = sequence.reader();
        if explicit_digest(&mut fields, 0)? != digest {
            return Err(Fault::Bad("PSS digest"));
        }
        let mgf = mgf1_digest(&mut fields, 1)?;
        let salt = small_number(&mut fields, 2, 20)?;
        if small_number(&mut fields, 3, 1)? != 1 {
            return Err(Fault::Bad("PSS trailer"));
        }
        fields.finish()?;
        Ok(Signature::RsaPss { mgf, salt })
    }
}

/// `[n]` INTEGER of 0 to 255.
fn small_number(fields: &mut Reader<'_>, n: u8, default: u8) -> Result<u8, Fault> {
    let Some(element) = fields.optional(ber::context(n))? else {
        return Ok(default);
    };
    match element.reader().expect(ber::INTEGER)?.body {
        [value] if *value < 0x80 => Ok(*value),
        [0, value] => Ok(*value),
        _ => Err(Fault::Bad("number out of bounds")),
    }
}

/// The parameters of an AlgorithmIdentifier; NULL says as much as nothing.
fn plain_parameters(parameters: &[u8]) -> &[u8] {
    if parameters == [ber::NULL, 0] { &[] } else { parameters }
}

/// The signed attributes that count.
struct Attributes<'a> {
    content_type: &'a [u8],
    message_digest: Vec<u8>,
    signing_time: Option<i64>,
    algorithms: Option<Algorithms<'a>>,
}

/// CMSAlgorithmProtection of a signature (RFC 6211 §2): OID and parameters of each algorithm.
struct Algorithms<'a> {
    digest: (&'a [u8], &'a [u8]),
    signature: (&'a [u8], &'a [u8]),
}

impl<'a> Algorithms<'a> {
    fn read(value: &Element<'a>) -> Result<Self, Fault> {
        let algorithm = |element: Element<'a>| -> Result<_, Fault> {
            let mut fields = element.reader();
            Ok((fields.expect(ber::OID)?.body, fields.rest()))
        };
        let mut fields = value.reader();
        let (digest, signature) = (fields.expect(ber::SEQUENCE)?, fields.expect(ber::context(1))?);
        fields.finish()?;
        Ok(Algorithms {
            digest: algorithm(digest)?,
            signature: algorithm(signature)?,
        })
    }
}

impl<'a> Attributes<'a> {
    /// Each at most once and with one value; the first two must be there (RFC 5652 §11).
    fn read(element: Element<'a>) -> Result<Self, Fault> {
        let (mut content_type, mut message_digest, mut signing_time, mut algorithms) = (None, None, None, None);
        let mut attributes = element.reader();
        let mut count = 0;
        while !attributes.is_empty() {
            count += 1;
            if count > MAX_ATTRIBUTES {
                return Err(Fault::Bad("too many signed attributes"));
            }
            let mut attribute = attributes.expect(ber::SEQUENCE)?.reader();
            let kind = attribute.expect(ber::OID)?.body;
            let mut values = attribute.expect(ber::SET)?.reader();
            attribute.finish()?;
            let again = match kind {
                oid::CONTENT_TYPE => content_type.replace(values.expect(ber::OID)?.body).is_some(),
                oid::MESSAGE_DIGEST => message_digest.replace(values.octets(MAX_SIGNATURE)?).is_some(),
                oid::SIGNING_TIME => signing_time.replace(values.next()?).is_some(),
                oid::ALGORITHM_PROTECTION => algorithms.replace(Algorithms::read(&values.expect(ber::SEQUENCE)?)?).is_some(),
                _ => continue,
            };
            if again || !values.is_empty() {
                return Err(Fault::Bad("a signed attribute occurs twice"));
            }
        }
        match (content_type, message_digest) {
            (Some(content_type), Some(message_digest)) => Ok(Attributes {
                content_type,
                message_digest,
                signing_time: signing_time.and_then(|time| unix_time(&time)),
                algorithms,
            }),
            _ => Err(Fault::Bad("a signed attribute is missing")),
        }
    }
}

/// `YYMMDDhhmmssZ` for 1970 to 2049.
fn utc_time(unix: i64) -> Result<String, Error> {
    if !(0..UTC_TIME_END).contains(&unix) {
        return Err(Error::invalid("the signing time is not in 1970 to 2049"));
    }
    let (mut year, mut days) = (1970, unix / 86_400);
    while days >= year_days(year) {
        days -= year_days(year);
        year += 1;
    }
    let mut month = 1;
    while days >= month_days(year, month) {
        days -= month_days(year, month);
        month += 1;
    }
    let (hour, minute, second) = (unix / 3600 % 24, unix / 60 % 60, unix % 60);
    Ok(format!(
        "{:02}{month:02}{:02}{hour:02}{minute:02}{second:02}Z",
        year % 100,
        days + 1
    ))
}

/// Reads UTCTime or GeneralizedTime in whole seconds and UTC; none for other forms (RFC 5652 §11.3).
fn unix_time(element: &Element<'_>) -> Option<i64> {
    let digits = element.body.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let pairs: Vec<i64> = digits
        .chunks_exact(2)
        .map(|pair| i64::from(pair[0] - b'0') * 10 + i64::from(pair[1] - b'0'))
        .collect();
    let (year, rest) = match (element.id, digits.len()) {
        (ber::UTC_TIME, 12) => (if pairs[0] < 50 { 2000 + pairs[0] } else { 1900 + pairs[0] }, &pairs[1..]),
        (ber::GENERALIZED_TIME, 14) => (pairs[0] * 100 + pairs[1], &pairs[2..]),
        _ => return None,
    };
    let &[month, day, hour, minute, second] = rest else { return None };
    if !(1..=12).contains(&month) || !(1..=month_days(year, month)).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Leap years before the first of January; exact for every year of four digits.
    let leaps = |year: i64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let days = (year - 1970) * 365 + leaps(year) - leaps(1970) + (1..month).map(|month| month_days(year, month)).sum::<i64>() + day - 1;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

fn year_days(year: i64) -> i64 {
    if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) {
        366
    } else {
        365
    }
}

fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 => year_days(year) - 337,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Reads SignedData that holds its content (`smime-type=signed-data`): gives the content while it takes its digests.
pub struct OpaqueVerifier {
    stream: Stream,
    state: OpaqueState,
    failed: Option<Error>,
}

#[derive(Default)]
struct OpaqueState {
    hashers: Vec<Hasher>,
    /// Ends of ContentInfo, its `[0]`, SignedData, EncapsulatedContentInfo, its `[0]`.
    frames: [Option<u64>; 5],
}

impl Default for OpaqueVerifier {
    fn default() -> Self {
        Self::new()
    }
}

impl OpaqueVerifier {
    /// For one message.
    #[must_use]
    pub fn new() -> Self {
        OpaqueVerifier {
            stream: Stream::new(ErrorKind::AuthenticationFailed),
            state: OpaqueState::default(),
            failed: None,
        }
    }

    /// Takes the next bytes of the message and appends its content, not proven yet, to `content`.
    ///
    /// # Errors
    /// `AuthenticationFailed` if it is no SignedData with content; then the same again.
    pub fn push(&mut self, cms: &[u8], content: &mut Vec<u8>) -> Result<(), Error> {
        self.guard(|stream, state| stream.push(cms, &mut OpaqueLayer { state, content }))
    }

    /// The message is complete: verifies it as [`verify_detached`] does, with the digests that the message announces.
    ///
    /// # Errors
    /// As [`verify_detached`].
    pub fn finish(&mut self, content: &mut Vec<u8>, pinned: &[Certificate], allowed: &dyn Fn(Digest) -> bool) -> Result<Verified, Error> {
        self.guard(|stream, state| {
            let (tail, base) = stream.finish(&mut OpaqueLayer { state, content })?;
            let [outer, explicit, data, info, inner] = state.frames;
            let read = || {
                let mut reader = Reader::new(&tail);
                reader.close(base, inner)?;
                reader.close(base, info)?;
                let parts = read_parts(&mut reader)?;
                reader.close(base, data)?;
                reader.close(base, explicit)?;
                reader.close(base, outer)?;
                end_of_message(&reader)?;
                Ok(parts)
            };
            let parts = read().map_err(|fault: Fault| fault.into_error(ErrorKind::AuthenticationFailed))?;
            let digests = state.hashers.drain(..).map(|hasher| Ok((hasher.digest(), hasher.finish()?)));
            let digests = digests.collect::<Result<Vec<_>, Error>>()?;
            // A signer's digest must be announced (RFC 5652 §5.1); one that is not cannot be verified in one pass.
            let announced = |signer: &&Signer<'_>| oid::digest_of(signer.digest).is_none_or(|name| digests.iter().any(|(d, _)| *d == name));
            if parts.signers.iter().any(|signer| !announced(&signer)) {
                return Err(unauthentic("a signer's digest was not announced"));
            }
            judge(&parts.signers, &digests, pinned, allowed)
        })
    }

    fn guard<T>(&mut self, step: impl FnOnce(&mut Stream, &mut OpaqueState) -> Result<T, Error>) -> Result<T, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        step(&mut self.stream, &mut self.state).inspect_err(|error| self.failed = Some(error.clone()))
    }
}

struct OpaqueLayer<'a> {
    state: &'a mut OpaqueState,
    content: &'a mut Vec<u8>,
}

impl Layer for OpaqueLayer<'_> {
    fn head(&mut self, bytes: &[u8]) -> Result<Result<Start, Error>, Fault> {
        let mut reader = Reader::new(bytes);
        let outer = reader.open(ber::SEQUENCE)?;
        if reader.expect(ber::OID)?.body != oid::SIGNED_DATA {
            return Err(Fault::Bad("not SignedData"));
        }
        let explicit = reader.open(ber::context(0))?;
        let data = reader.open(ber::SEQUENCE)?;
        reader.expect(ber::INTEGER)?;
        let mut announced = reader.expect(ber::SET)?.reader();
        let info = reader.open(ber::SEQUENCE)?;
        if reader.expect(ber::OID)?.body != oid::DATA {
            return Err(Fault::Bad("the signed content is not id-data"));
        }
        let inner = reader.open(ber::context(0))?;
        let header = reader.open_any()?;
        if header.id & !0x20 != ber::OCTET_STRING {
            return Err(Fault::Bad("the content is no octet string"));
        }
        let mut digests = Vec::new();
        while !announced.is_empty() {
            if digests.len() == MAX_DIGESTS {
                return Err(Fault::Bad("too many digest algorithms"));
            }
            digests.extend(oid::digest_of(announced.expect(ber::SEQUENCE)?.reader().expect(ber::OID)?.body));
        }
        self.state.frames = [outer, explicit, data, info, inner];
        Ok(digests.into_iter().map(Hasher::new).collect::<Result<_, _>>().map(|hashers| {
            self.state.hashers = hashers;
            Start { at: reader.at(), header }
        }))
    }

    fn content(&mut self, octets: &[u8]) -> Result<(), Error> {
        self.state.hashers.iter_mut().try_for_each(|hasher| hasher.update(octets))?;
        self.content.extend_from_slice(octets);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::cms::testkit::{self, Bench, content, in_pieces};
    use openssl::nid::Nid;
    use openssl::pkey::Private;

    const NOW: i64 = 1_790_000_000;

    fn digests(bytes: &[u8]) -> Vec<(Digest, Vec<u8>)> {
        Digest::ALL
            .iter()
            .map(|digest| (*digest, crypto::hash(*digest, bytes).unwrap()))
            .collect()
    }

    fn params(identity: &Identity, digest: Digest, scheme: SignatureScheme) -> SignParams<'_> {
        SignParams {
            identity,
            digest,
            scheme,
            include_certificate: true,
            protect_algorithms: false,
        }
    }

    fn sign(params: &SignParams<'_>, bytes: &[u8]) -> Vec<u8> {
        let p7s = p7s(params, &crypto::hash(params.digest, bytes).unwrap(), NOW).unwrap();
        assert_eq!(p7s.len(), p7s_len(params).unwrap());
        p7s
    }

    fn verify(p7s: &[u8], bytes: &[u8], pinned: &[Certificate]) -> Result<Verified, Error> {
        verify_detached(p7s, &digests(bytes), pinned, &|digest| digest != Digest::Md5)
    }

    #[test]
    fn every_key_scheme_and_digest() {
        let curves = [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1].map(testkit::ec);
        let text = content(300);
        for identity in [testkit::rsa(), &curves[0], &curves[1], &curves[2]] {
            for scheme in SignatureScheme::ALL {
                for digest in [Digest::Sha1, Digest::Sha224, Digest::Sha256, Digest::Sha384, Digest::Sha512] {
                    let signature = sign(&params(identity, digest, *scheme), &text);
                    let pinned = [testkit::other().certificate().clone(), identity.certificate().clone()];
                    let verified = verify(&signature, &text, &pinned).unwrap();
                    assert_eq!(
                        (verified.digest, verified.signing_time, verified.has_attributes),
                        (digest, Some(NOW), true)
                    );
                    assert_eq!(&verified.signer, identity.certificate());
                }
            }
        }
    }

    #[test]
    fn failures_have_their_kinds() {
        let text = content(300);
        let signature = sign(&params(testkit::rsa(), Digest::Sha256, SignatureScheme::RsaPkcs1), &text);
        let pinned = [testkit::rsa().certificate().clone()];
        let kind = |result: Result<Verified, Error>| result.unwrap_err().kind;
        assert_eq!(kind(verify(&signature, b"other text", &pinned)), ErrorKind::IntegrityCheckFailed);
        assert_eq!(
            kind(verify(&signature, &text, &[testkit::other().certificate().clone()])),
            ErrorKind::AuthenticationFailed
        );
        assert_eq!(kind(verify(&signature, &text, &[])), ErrorKind::AuthenticationFailed);
        let refused = verify_detached(&signature, &digests(&text), &[], &|digest| digest != Digest::Sha256);
        assert_eq!(kind(refused), ErrorKind::InsufficientMessageSecurity);
        assert_eq!(
            kind(verify_detached(&signature, &[], &pinned, &|_| true)),
            ErrorKind::UnexpectedProcessingError
        );
        for length in 0..signature.len() {
            assert_eq!(kind(verify(&signature[..length], &text, &pinned)), ErrorKind::AuthenticationFailed);
            assert!(peek(&signature[..length]).is_err());
        }
        for at in 0..signature.len() {
            let mut mutant = signature.clone();
            mutant[at] ^= 0x11;
            if let Ok(verified) = verify(&mutant, &text, &pinned) {
                // Versions, certificates and names prove nothing, so nothing depends on them.
                assert_eq!(&verified.signer, testkit::rsa().certificate(), "{at}");
            }
        }
        assert!(peek(&vec![0x30; MAX_P7S + 1]).unwrap_err().detail.contains("too large"));
    }

    #[test]
    fn what_a_signature_says() {
        let signature = sign(&params(testkit::rsa(), Digest::Sha384, SignatureScheme::RsaPss), b"text");
        let facts = peek(&signature).unwrap();
        let certificate = testkit::rsa().certificate();
        assert_eq!(facts.digests, [Digest::Sha384]);
        assert_eq!(
            facts.signer_issuer_serial,
            Some((certificate.issuer_der().to_vec(), certificate.serial().to_vec()))
        );
        assert_eq!(
            (facts.signing_time, facts.certificates),
            (Some(NOW), vec![certificate.der().to_vec()])
        );
        let bare = SignParams {
            include_certificate: false,
            ..params(testkit::rsa(), Digest::Sha256, SignatureScheme::RsaPkcs1)
        };
        assert!(peek(&sign(&bare, b"text")).unwrap().certificates.is_empty());
        assert!(p7s(&bare, &[0; 20], NOW).is_err() && p7s(&bare, &[0; 32], UTC_TIME_END).is_err());
    }

    #[test]
    fn openssl_accepts_ours() {
        let ec = testkit::ec(Nid::SECP384R1);
        let text = content(70_000);
        for (identity, digest, scheme) in [
            (testkit::rsa(), Digest::Sha256, SignatureScheme::RsaPkcs1),
            (testkit::rsa(), Digest::Sha1, SignatureScheme::RsaPkcs1),
            (testkit::rsa(), Digest::Sha512, SignatureScheme::RsaPss),
            (testkit::rsa(), Digest::Sha1, SignatureScheme::RsaPss),
            (&ec, Digest::Sha384, SignatureScheme::RsaPkcs1),
        ] {
            let bench = Bench::new(identity);
            bench.put("part", &text);
            bench.put("p7s", &sign(&params(identity, digest, scheme), &text));
            bench.openssl("cms -verify -binary -inform DER -in p7s -content part -CAfile cert.pem -purpose any -out out");
            assert!(bench.get("out") == text);
        }
    }

    /// A signature whose attributes say something about the algorithms that the SignerInfo does not.
    fn signed_with(identity: &Identity, text: &[u8], said: &SignParams<'_>, done: &SignParams<'_>) -> Vec<u8> {
        let set = signed_attributes(said, &crypto::hash(done.digest, text).unwrap(), NOW).unwrap();
        let value = crypto::hash(done.digest, &set).unwrap();
        let signature = crypto::sign_digest(identity.key(), done.scheme, done.digest, &value).unwrap();
        signed_data(done, &set, &signature).unwrap()
    }

    #[test]
    fn protected_algorithms_are_held_against_those_used() {
        let ec = testkit::ec(Nid::X9_62_PRIME256V1);
        let text = content(500);
        for (identity, scheme) in [
            (testkit::rsa(), SignatureScheme::RsaPkcs1),
            (testkit::rsa(), SignatureScheme::RsaPss),
            (&ec, SignatureScheme::RsaPkcs1),
        ] {
            let pinned = [identity.certificate().clone()];
            let protected = SignParams {
                protect_algorithms: true,
                ..params(identity, Digest::Sha256, scheme)
            };
            let p7s = sign(&protected, &text);
            assert!(verify(&p7s, &text, &pinned).is_ok());
            assert!(verify(&to_ber(&Reader::new(&p7s).next().unwrap()), &text, &pinned).is_ok());
            // Its own reader: the attribute stands there with its two algorithms.
            let bench = Bench::new(identity);
            bench.put("part", &text);
            bench.put("p7s", &p7s);
            bench.openssl("cms -verify -binary -inform DER -in p7s -content part -CAfile cert.pem -purpose any -out out");

            let of = |digest| SignParams { digest, ..protected };
            let other = signed_with(identity, &text, &of(Digest::Sha384), &of(Digest::Sha256));
            let error = verify(&other, &text, &pinned).unwrap_err();
            assert_eq!(error.kind, ErrorKind::AuthenticationFailed);
            assert!(error.detail.contains("algorithms"), "{}", error.detail);
        }
        // The same digest by another scheme.
        let scheme = |scheme| SignParams {
            protect_algorithms: true,
            ..params(testkit::rsa(), Digest::Sha256, scheme)
        };
        let (pkcs1, pss) = (scheme(SignatureScheme::RsaPkcs1), scheme(SignatureScheme::RsaPss));
        let other = signed_with(testkit::rsa(), &text, &pkcs1, &pss);
        let pinned = [testkit::rsa().certificate().clone()];
        assert_eq!(verify(&other, &text, &pinned).unwrap_err().kind, ErrorKind::AuthenticationFailed);
    }

    #[test]
    fn we_accept_openssls() {
        let ec = testkit::ec(Nid::X9_62_PRIME256V1);
        let text = content(1000);
        for (identity, options, digest, attributes) in [
            (testkit::rsa(), "", Digest::Sha256, true),
            (testkit::rsa(), "-noattr -md sha1", Digest::Sha1, false),
            (testkit::rsa(), "-keyid -md sha512 -nocerts", Digest::Sha512, true),
            (testkit::rsa(), "-md sha3-256", Digest::Sha3_256, true),
            (testkit::rsa(), "-keyopt rsa_padding_mode:pss", Digest::Sha256, true),
            (
                testkit::rsa(),
                "-keyopt rsa_padding_mode:pss -keyopt rsa_pss_saltlen:7 -keyopt rsa_mgf1_md:sha384",
                Digest::Sha256,
                true,
            ),
            (&ec, "-md sha384", Digest::Sha384, true),
            (&ec, "-noattr -keyid", Digest::Sha256, false),
        ] {
            let bench = Bench::new(identity);
            bench.put("part", &text);
            bench.openssl(&format!(
                "cms -sign -binary -outform DER -in part -out p7s -signer cert.pem -inkey key.pem {options}"
            ));
            let p7s = bench.get("p7s");
            let verified = verify(&p7s, &text, &[identity.certificate().clone()]).expect(options);
            assert_eq!((verified.digest, verified.has_attributes), (digest, attributes), "{options}");
            assert_eq!(peek(&p7s).unwrap().digests, [digest]);
            assert!(verify(&p7s, b"other", &[identity.certificate().clone()]).is_err());
        }
    }

    /// A detached signature as RFC 8419 §3 describes it; without attributes it is over the content.
    fn ed25519_p7s(key: &PKey<Private>, certificate: &Certificate, digest: Digest, text: &[u8], attributes: bool) -> Vec<u8> {
        let plain = params(testkit::rsa(), digest, SignatureScheme::RsaPkcs1);
        let set = signed_attributes(&plain, &crypto::hash(digest, text).unwrap(), NOW).unwrap();
        let mut signer = openssl::sign::Signer::new_without_digest(key).unwrap();
        let signature = signer.sign_oneshot_to_vec(if attributes { &set } else { text }).unwrap();
        let digest = ber::algorithm(oid::digest(digest), &[]);
        let info = [
            ber::integer(1),
            ber::tlv(
                ber::SEQUENCE,
                &[certificate.issuer_der(), &ber::tlv(ber::INTEGER, &[certificate.serial()])],
            ),
            digest.clone(),
            if attributes {
                [&[ber::context(0)], &set[1..]].concat()
            } else {
                Vec::new()
            },
            ber::algorithm(oid::ED25519, &[]),
            ber::tlv(ber::OCTET_STRING, &[signature]),
        ];
        let content = ber::tlv(ber::SEQUENCE, &[ber::oid(oid::DATA)]);
        let signers = ber::tlv(ber::SET, &[ber::tlv(ber::SEQUENCE, &info)]);
        let data = ber::tlv(ber::SEQUENCE, &[ber::integer(1), ber::tlv(ber::SET, &[digest]), content, signers]);
        ber::tlv(ber::SEQUENCE, &[ber::oid(oid::SIGNED_DATA), ber::tlv(ber::context(0), &[data])])
    }

    #[test]
    fn ed25519_signatures_hold() {
        let key = PKey::generate_ed25519().unwrap();
        let certificate = testkit::certificate(&key, "ed", 11);
        let text = content(1000);
        let pinned = [testkit::rsa().certificate().clone(), certificate.clone()];
        let kind = |result: Result<Verified, Error>| result.unwrap_err().kind;
        for digest in [Digest::Sha512, Digest::Sha256] {
            let p7s = ed25519_p7s(&key, &certificate, digest, &text, true);
            for p7s in [p7s.clone(), to_ber(&Reader::new(&p7s).next().unwrap())] {
                let verified = verify(&p7s, &text, &pinned).unwrap();
                assert_eq!((verified.digest, &verified.signer), (digest, &certificate));
                assert_eq!(kind(verify(&p7s, b"other", &pinned)), ErrorKind::IntegrityCheckFailed);
                assert_eq!(kind(verify(&p7s, &text, &pinned[..1])), ErrorKind::AuthenticationFailed);
            }
            for at in [p7s.len() - 1, p7s.len() - 64, p7s.len() - 80] {
                let mut mutant = p7s.clone();
                mutant[at] ^= 1;
                assert!(verify(&mutant, &text, &pinned).is_err());
            }
        }
        let bare = ed25519_p7s(&key, &certificate, Digest::Sha512, &text, false);
        assert!(verify(&bare, &text, &pinned).unwrap_err().detail.contains("Ed25519"));
        let refused = Identity::new(certificate.der(), &key.private_key_to_pkcs8().unwrap());
        assert!(refused.unwrap_err().detail.contains("Ed25519"));
    }

    /// Every definite length made indefinite, every string cut in two: what a BER writer may do to a signature.
    fn to_ber(element: &Element<'_>) -> Vec<u8> {
        if element.id == ber::OCTET_STRING {
            let (start, end) = element.body.split_at(element.body.len() / 2);
            let pieces = [ber::tlv(ber::OCTET_STRING, &[start]), ber::tlv(ber::OCTET_STRING, &[end])].concat();
            return [&[0x24, 0x80], &pieces[..], &[0, 0]].concat();
        }
        if element.id & 0x20 == 0 {
            return element.whole.to_vec();
        }
        let mut out = vec![element.id, 0x80];
        let mut children = element.reader();
        while !children.is_empty() {
            out.extend(to_ber(&children.next().unwrap()));
        }
        out.extend([0, 0]);
        out
    }

    #[test]
    fn ber_signatures_hold() {
        let text = content(99);
        let signature = sign(&params(testkit::rsa(), Digest::Sha256, SignatureScheme::RsaPkcs1), &text);
        let rewritten = to_ber(&Reader::new(&signature).next().unwrap());
        assert!(rewritten != signature);
        let pinned = [testkit::rsa().certificate().clone()];
        assert!(verify(&rewritten, &text, &pinned).is_ok());
        assert_eq!(verify(&rewritten, b"x", &pinned).unwrap_err().kind, ErrorKind::IntegrityCheckFailed);
    }

    #[test]
    fn a_renamed_signer_is_found_by_its_key() {
        let text = content(99);
        let renamed = testkit::identity(testkit::rsa().key(), "renamed", 99);
        let signature = sign(&params(&renamed, Digest::Sha256, SignatureScheme::RsaPkcs1), &text);
        let pinned = [testkit::other().certificate().clone(), testkit::rsa().certificate().clone()];
        assert_eq!(&verify(&signature, &text, &pinned).unwrap().signer, testkit::rsa().certificate());
    }

    #[test]
    fn opaque_signatures() {
        let bench = Bench::new(testkit::rsa());
        let text = content(150_000);
        bench.put("in", &text);
        let pinned = [testkit::rsa().certificate().clone()];
        let run = |bytes: &[u8], seed, pinned: &[Certificate]| {
            let mut verifier = OpaqueVerifier::new();
            let mut content = Vec::new();
            in_pieces(bytes, seed, |piece| verifier.push(piece, &mut content))?;
            verifier.finish(&mut content, pinned, &|_| true).map(|verified| (verified, content))
        };
        for options in ["", "-stream", "-noattr -md sha512"] {
            bench.openssl(&format!(
                "cms -sign -nodetach -binary -outform DER -in in -out out -signer cert.pem -inkey key.pem {options}"
            ));
            let mut message = bench.get("out");
            let (verified, found) = run(&message, 5, &pinned).expect(options);
            assert!(found == text);
            assert_eq!(verified.content_digest, crypto::hash(verified.digest, &text).unwrap());
            assert_eq!(run(&message, 6, &[]).unwrap_err().kind, ErrorKind::AuthenticationFailed);
            assert_eq!(
                run(&message[..message.len() - 1], 6, &pinned).unwrap_err().kind,
                ErrorKind::AuthenticationFailed
            );
            message[70_000] ^= 1;
            let expected = if options.contains("noattr") {
                ErrorKind::AuthenticationFailed
            } else {
                ErrorKind::IntegrityCheckFailed
            };
            assert_eq!(run(&message, 7, &pinned).unwrap_err().kind, expected);
        }
        let detached = sign(&params(testkit::rsa(), Digest::Sha256, SignatureScheme::RsaPkcs1), &text);
        assert_eq!(run(&detached, 1, &pinned).unwrap_err().kind, ErrorKind::AuthenticationFailed);
    }

    #[test]
    fn times_come_back() {
        for unix in [0, 951_782_399, 951_782_400, 1_709_251_199, NOW, UTC_TIME_END - 1] {
            let text = utc_time(unix).unwrap();
            let element = Element {
                id: ber::UTC_TIME,
                body: text.as_bytes(),
                whole: &[],
            };
            assert_eq!(unix_time(&element), Some(unix), "{text}");
        }
        assert_eq!(utc_time(1_709_251_199).unwrap(), "240229235959Z");
        let general = |body| {
            unix_time(&Element {
                id: ber::GENERALIZED_TIME,
                body,
                whole: &[],
            })
        };
        assert_eq!(general(b"20500101000000Z"), Some(UTC_TIME_END));
        assert_eq!((general(b"20500230000000Z"), general(b"2050"), general(b"")), (None, None, None));
    }
}
