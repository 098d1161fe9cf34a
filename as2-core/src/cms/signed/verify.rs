//! Reading a signature, and judging it by the certificates that are pinned.

use openssl::pkey::{PKey, Public};

use super::attributes::Attributes;
use super::{MAX_CERTIFICATES, MAX_P7S, MAX_PINNED, MAX_SIGNATURE};
use crate::algorithm::Digest;
use crate::cert::Certificate;
use crate::cms::ber::{self, Element, Fault, Reader};
use crate::cms::enveloped::{explicit_digest, mgf1_digest, names_certificate};
use crate::cms::octets::end_of_message;
use crate::cms::oid;
use crate::crypto::{self, Signature};
use crate::error::{Error, ErrorKind, Lack};

/// What a signature proves.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The digest that was signed.
    pub digest: Digest,
    /// The content's digest under it.
    pub content_digest: Vec<u8>,
    /// The pinned certificate under which it holds.
    pub signer: Certificate,
    /// Whether the signature covers attributes, and through them the content. If not, the caller must see to it that the content
    /// does not begin like DER attributes, with 0x31: one could be passed off as the other.
    pub has_attributes: bool,
}

/// Reads the structure of a detached signature, to decide which digest the content needs: the SignerInfo's, if it is known.
///
/// # Errors
/// `AuthenticationFailed` if it is no detached SignedData within the limits.
pub fn peek(p7s: &[u8]) -> Result<Option<Digest>, Error> {
    Ok(oid::digest_of(read_detached(p7s)?.digest))
}

/// Verifies a detached signature, BER or DER, under the pinned certificates. `content_digests` holds the content's digests, at
/// least the one that [`peek`] names; `allowed` decides about digests before any key is used.
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
    read_detached(p7s)?.verify(content_digests, pinned, allowed)
}

pub(super) fn unauthentic(detail: &str) -> Error {
    Error::new(ErrorKind::AuthenticationFailed, detail)
}

/// One SignerInfo (RFC 5652 §5.3).
pub(super) struct Signer<'a> {
    id: Element<'a>,
    /// OID of the digest.
    pub(super) digest: &'a [u8],
    digest_parameters: &'a [u8],
    /// Contents of the signed attributes.
    attributes: Option<Element<'a>>,
    algorithm: &'a [u8],
    parameters: &'a [u8],
    signature: Vec<u8>,
}

fn read_detached(p7s: &[u8]) -> Result<Signer<'_>, Error> {
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
        let signer = read_signer(&mut data)?;
        data.finish()?;
        Ok(signer)
    };
    read().map_err(|fault| fault.into_error(ErrorKind::AuthenticationFailed))
}

/// What follows the content in SignedData: certificates and CRLs, which nothing is read of, and exactly one SignerInfo
/// (security.md §6): of several nobody could say whose the message is.
pub(super) fn read_signer<'a>(data: &mut Reader<'a>) -> Result<Signer<'a>, Fault> {
    if let Some(bag) = data.optional(ber::context(0))? {
        let (mut bag, mut count) = (bag.reader(), 0);
        while !bag.is_empty() {
            count += 1;
            if count > MAX_CERTIFICATES {
                return Err(Fault::Bad("too many certificates"));
            }
            bag.next()?;
        }
    }
    data.optional(ber::context(1))?;
    let mut infos = data.expect(ber::SET)?.reader();
    let signer = Signer::read(&infos.expect(ber::SEQUENCE)?)?;
    if !infos.is_empty() {
        return Err(Fault::Bad("more than one signer"));
    }
    Ok(signer)
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

    pub(super) fn verify(
        &self,
        digests: &[(Digest, Vec<u8>)],
        pinned: &[Certificate],
        allowed: &dyn Fn(Digest) -> bool,
    ) -> Result<Verified, Error> {
        let digest = self.allowed_digest(allowed)?;
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
        let signer = match self.attributes {
            None => {
                let signer = self.find_signer(scheme, digest, &content, pinned);
                signer.ok_or_else(|| unauthentic("no pinned certificate fits"))?
            }
            Some(element) => {
                let signer = self.find_attribute_signer(element, scheme, digest, pinned)?;
                self.check_attributes(element, digest, &content)?;
                signer
            }
        };
        Ok(Verified {
            digest,
            content_digest: content,
            signer,
            has_attributes: self.attributes.is_some(),
        })
    }

    fn allowed_digest(&self, allowed: &dyn Fn(Digest) -> bool) -> Result<Digest, Error> {
        match oid::digest_of(self.digest) {
            Some(digest) if !allowed(digest) => Err(Lack::Digest(digest).into()),
            Some(digest) => Ok(digest),
            None if oid::is_refused_digest(self.digest) => Err(Lack::BrokenDigest.into()),
            None => Err(unauthentic("unknown digest")),
        }
    }

    /// Refuses attributes whose signature holds unless they are this content's and this SignerInfo's.
    fn check_attributes(&self, element: Element<'_>, digest: Digest, content: &[u8]) -> Result<(), Error> {
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
        Ok(())
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
        let found = self.find_pinned(pinned, |key| crypto::verify_digest(key, scheme, digest, value, &self.signature));
        if found.is_some() || scheme != Signature::RsaPkcs1 {
            return found;
        }
        // COMPAT(Drummond 3Q10-1): DigestInfo whose algorithm has no parameters, where the library wants NULL (as2.md Q55).
        let info = ber::tlv(
            ber::SEQUENCE,
            &[ber::algorithm(oid::digest(digest), &[]), ber::tlv(ber::OCTET_STRING, &[value])],
        );
        self.find_pinned(pinned, |key| crypto::verify_digest_info(key, &info, &self.signature))
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
        if usize::from(salt) > MAX_SIGNATURE {
            return Err(Fault::Bad("PSS salt"));
        }
        if small_number(&mut fields, 3, 1)? != 1 {
            return Err(Fault::Bad("PSS trailer"));
        }
        fields.finish()?;
        Ok(Signature::RsaPss { mgf, salt })
    }
}

/// `[n]` INTEGER of 0 to 32767.
fn small_number(fields: &mut Reader<'_>, n: u8, default: u16) -> Result<u16, Fault> {
    let Some(element) = fields.optional(ber::context(n))? else {
        return Ok(default);
    };
    match element.reader().expect(ber::INTEGER)?.body {
        [value] if *value < 0x80 => Ok(u16::from(*value)),
        [high, low] if *high < 0x80 => Ok(u16::from_be_bytes([*high, *low])),
        _ => Err(Fault::Bad("number out of bounds")),
    }
}

/// The parameters of an AlgorithmIdentifier; NULL says as much as nothing.
fn plain_parameters(parameters: &[u8]) -> &[u8] {
    if parameters == [ber::NULL, 0] { &[] } else { parameters }
}
