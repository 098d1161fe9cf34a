//! The recipients of a message that came: whom they name, and how the content key is wrapped for each.

use super::MAX_RECIPIENTS;
use crate::algorithm::{Digest, KeyTransport};
use crate::cert::{Certificate, Identity};
use crate::cms::agreement::{self, Agreed};
use crate::cms::ber::{self, Fault, Reader};
use crate::cms::oid;
use crate::crypto::{self, Unwrapped, Wrapping};
use crate::hex;

/// Bytes of an encrypted content key: the largest RSA modulus.
const MAX_WRAPPED: usize = crate::cert::MAX_RSA_BITS as usize / 8;

/// One way to the content key: a KeyTransRecipientInfo, or one of the keys of a KeyAgreeRecipientInfo.
pub(in crate::cms) struct Recipient<'a> {
    /// Issuer and serial, or `[0]` with the SKI.
    pub(in crate::cms) id: ber::Element<'a>,
    pub(in crate::cms) method: Method<'a>,
    pub(in crate::cms) wrapped: Vec<u8>,
}

/// How the content key is encrypted.
pub(in crate::cms) enum Method<'a> {
    Transport { algorithm: &'a [u8], parameters: &'a [u8] },
    Agreement(Agreed<'a>),
}

impl Recipient<'_> {
    /// Whether the certificate has the kind of key that this needs.
    pub(super) fn suits(&self, certificate: &Certificate) -> bool {
        match self.method {
            Method::Transport { .. } => certificate.is_rsa(),
            Method::Agreement(_) => certificate.is_ec(),
        }
    }

    /// Whom it names, in words.
    pub(super) fn name(&self) -> String {
        let read = || -> Result<String, Fault> {
            let mut fields = self.id.reader();
            match self.method {
                Method::Agreement(_) if self.id.id == ber::context(0) => Ok(format!("key id {}", hex(&fields.octets(MAX_SKI)?))),
                _ if self.id.id != ber::SEQUENCE => Ok(format!("key id {}", hex(&self.id.octets(MAX_SKI)?))),
                _ => {
                    let issuer = crate::cert::name_in_words(fields.next()?.whole);
                    let serial = fields.expect(ber::INTEGER)?.body;
                    // The sign is no digit of it.
                    let digits = serial.strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(serial);
                    Ok(format!("serial {} of {issuer}", hex(digits)))
                }
            }
        };
        read().unwrap_or_else(|_| "somebody whose name cannot be read".to_owned())
    }

    pub(super) fn names(&self, certificate: &Certificate) -> bool {
        match self.method {
            Method::Agreement(_) if self.id.id == ber::context(0) => agreement::names_key(&self.id, certificate),
            _ => names_certificate(&self.id, certificate),
        }
    }

    /// The content key of `len` bytes as this identity finds it. Fails only for what everyone can read.
    pub(super) fn unwrap(&self, identity: &Identity, len: usize) -> Result<(Unwrapped, KeyTransport), Fault> {
        match &self.method {
            Method::Transport { algorithm, parameters } => {
                let (wrapping, transport) = wrapping(algorithm, parameters)?;
                Ok((crypto::unwrap_key(identity.key(), wrapping, &self.wrapped, len), transport))
            }
            Method::Agreement(agreed) => {
                let (agreement, transport) = agreed.agreement()?;
                let unwrapped = crypto::unwrap_by_agreement(identity.key(), &agreement, agreed.point(), &self.wrapped, len);
                Ok((unwrapped, transport))
            }
        }
    }
}

/// Whether a RecipientIdentifier or SignerIdentifier names this certificate, by bytes (RFC 5652 §5.3, §6.2.1).
pub(in crate::cms) fn names_certificate(id: &ber::Element<'_>, certificate: &Certificate) -> bool {
    if id.id == ber::SEQUENCE {
        let mut fields = id.reader();
        let issuer = fields.next().is_ok_and(|issuer| issuer.whole == certificate.issuer_der());
        return issuer && fields.expect(ber::INTEGER).is_ok_and(|serial| serial.body == certificate.serial());
    }
    // [0] IMPLICIT OCTET STRING
    id.id & !0x20 == 0x80
        && certificate
            .ski()
            .is_some_and(|ski| id.octets(MAX_SKI).is_ok_and(|named| named == ski))
}

/// Bytes of a subject key identifier.
pub(in crate::cms) const MAX_SKI: usize = 256;

/// The recipients by key transport and key agreement; other kinds are stepped over (RFC 5652 §6.2).
pub(super) fn read_recipients(mut set: Reader<'_>) -> Result<Vec<Recipient<'_>>, Fault> {
    let mut recipients = Vec::new();
    let mut count = 0;
    while !set.is_empty() {
        count += 1;
        if count > MAX_RECIPIENTS {
            return Err(Fault::Bad("too many recipients"));
        }
        let info = set.next()?;
        if info.id == agreement::RECIPIENT_INFO {
            // One of another key type or form cannot be for us, and must not keep us from one that is.
            let keys = agreement::read_recipients(&info).unwrap_or_default();
            if recipients.len() + keys.len() > MAX_RECIPIENTS {
                return Err(Fault::Bad("too many recipients"));
            }
            recipients.extend(keys);
        }
        if info.id != ber::SEQUENCE {
            continue;
        }
        let mut fields = info.reader();
        fields.expect(ber::INTEGER)?;
        let id = fields.next()?;
        let mut algorithm = fields.expect(ber::SEQUENCE)?.reader();
        let wrapped = fields.octets(MAX_WRAPPED)?;
        fields.finish()?;
        recipients.push(Recipient {
            id,
            method: Method::Transport {
                algorithm: algorithm.expect(ber::OID)?.body,
                parameters: algorithm.rest(),
            },
            wrapped,
        });
    }
    Ok(recipients)
}

/// Reads a key encryption algorithm. OAEP parameters that are missing or malformed are refused, never read as PKCS#1 v1.5.
pub(super) fn wrapping(algorithm: &[u8], parameters: &[u8]) -> Result<(Wrapping, KeyTransport), Fault> {
    if algorithm == oid::RSA_ENCRYPTION {
        return Ok((Wrapping::Pkcs1, KeyTransport::RsaPkcs1));
    }
    if algorithm != oid::RSAES_OAEP {
        return Err(Fault::Bad("unknown key encryption"));
    }
    let mut reader = Reader::new(parameters);
    let mut fields = reader.expect(ber::SEQUENCE)?.reader();
    reader.finish()?;
    let digest = explicit_digest(&mut fields, 0)?;
    let mgf = mgf1_digest(&mut fields, 1)?;
    if let Some(source) = fields.optional(ber::context(2))? {
        let mut source = source.reader().expect(ber::SEQUENCE)?.reader();
        // A label would be part of an agreement that AS2 has no place for.
        if source.expect(ber::OID)?.body != oid::P_SPECIFIED || !source.octets(0)?.is_empty() {
            return Err(Fault::Bad("OAEP label"));
        }
    }
    fields.finish()?;
    let transport = match digest {
        Digest::Sha1 => KeyTransport::OaepSha1,
        Digest::Sha256 => KeyTransport::OaepSha256,
        Digest::Sha384 => KeyTransport::OaepSha384,
        Digest::Sha512 => KeyTransport::OaepSha512,
        _ => return Err(Fault::Bad("OAEP digest")),
    };
    Ok((Wrapping::Oaep { digest, mgf }, transport))
}

/// `[n]` AlgorithmIdentifier of a digest, SHA-1 by default (RFC 4055 §3.1, §4.1).
pub(in crate::cms) fn explicit_digest(fields: &mut Reader<'_>, n: u8) -> Result<Digest, Fault> {
    match fields.optional(ber::context(n))? {
        None => Ok(Digest::Sha1),
        Some(element) => digest_algorithm(&element.reader().expect(ber::SEQUENCE)?),
    }
}

/// `[n]` AlgorithmIdentifier of MGF1 with its digest, SHA-1 by default.
pub(in crate::cms) fn mgf1_digest(fields: &mut Reader<'_>, n: u8) -> Result<Digest, Fault> {
    let Some(element) = fields.optional(ber::context(n))? else {
        return Ok(Digest::Sha1);
    };
    let mut algorithm = element.reader().expect(ber::SEQUENCE)?.reader();
    if algorithm.expect(ber::OID)?.body != oid::MGF1 {
        return Err(Fault::Bad("mask generation function"));
    }
    digest_algorithm(&algorithm.expect(ber::SEQUENCE)?)
}

/// A digest AlgorithmIdentifier with NULL or no parameters (RFC 5754 §2).
fn digest_algorithm(algorithm: &ber::Element<'_>) -> Result<Digest, Fault> {
    let mut fields = algorithm.reader();
    let digest = oid::digest_of(fields.expect(ber::OID)?.body).ok_or(Fault::Bad("unknown digest"))?;
    fields.optional(ber::NULL)?;
    fields.finish()?;
    Ok(digest)
}
