//! KeyAgreeRecipientInfo (RFC 5652 §6.2.2) as EC certificates use it: ephemeral-static ECDH (RFC 5753 §3.1).

use crate::algorithm::{Digest, KeyTransport};
use crate::cert::Certificate;
use crate::cms::ber::{self, Element, Fault, Reader};
use crate::cms::enveloped::{MAX_RECIPIENTS, MAX_SKI, Method, Recipient};
use crate::cms::oid;
use crate::crypto::{self, Agreement};
use crate::error::Error;

/// The identifier of a KeyAgreeRecipientInfo among RecipientInfos.
pub(super) const RECIPIENT_INFO: u8 = ber::context(1);
/// Bytes of a wrapped content key: AES-256's and what the wrap adds.
const MAX_WRAPPED: usize = 32 + crypto::WRAP_OVERHEAD;
/// Bytes of user keying material.
const MAX_UKM: usize = 1024;
/// Bytes of a public point: that of P-521, uncompressed.
const MAX_POINT: usize = 133;
/// A BIT STRING (X.690 §8.6).
const BIT_STRING: u8 = 0x03;

/// What a message says about one agreement.
#[derive(Clone)]
pub(super) struct Agreed<'a> {
    /// The originator's public point.
    point: &'a [u8],
    ukm: Option<Vec<u8>>,
    /// OID of the scheme.
    scheme: &'a [u8],
    /// AlgorithmIdentifier of the key wrap.
    wrap: Element<'a>,
}

impl<'a> Agreed<'a> {
    pub(super) fn point(&self) -> &'a [u8] {
        self.point
    }

    /// The scheme in our words, or why it is none that we know.
    pub(super) fn agreement(&self) -> Result<(Agreement, KeyTransport), Fault> {
        let known = KeyTransport::ALL.iter().find_map(|transport| {
            let digest = transport.ecdh_digest()?;
            let [standard, cofactor] = oid::ecdh(digest)?;
            (self.scheme == standard || self.scheme == cofactor).then_some((*transport, digest, self.scheme == cofactor))
        });
        let (transport, digest, cofactor) = known.ok_or(Fault::Bad("unknown key agreement"))?;
        let wrap = self.wrap.reader().expect(ber::OID)?.body;
        let kek_len = [16, 24, 32].into_iter().find(|len| oid::aes_wrap(*len) == Some(wrap));
        let kek_len = kek_len.ok_or(Fault::Bad("unknown key wrap"))?;
        let shared_info = shared_info(&self.wrap.to_der()?, self.ukm.as_deref(), kek_len);
        let agreement = Agreement {
            digest,
            cofactor,
            kek_len,
            shared_info,
        };
        Ok((agreement, transport))
    }
}

/// ECC-CMS-SharedInfo (RFC 5753 §7.2): the key wrap, the keying material if any, and the bits of the wrapping key.
fn shared_info(wrap: &[u8], ukm: Option<&[u8]>, kek_len: usize) -> Vec<u8> {
    let entity = ukm.map_or_else(Vec::new, |ukm| ber::tlv(ber::context(0), &[ber::tlv(ber::OCTET_STRING, &[ukm])]));
    let bits = (kek_len as u32 * 8).to_be_bytes();
    let supplied = ber::tlv(ber::context(2), &[ber::tlv(ber::OCTET_STRING, &[bits])]);
    ber::tlv(ber::SEQUENCE, &[wrap, &entity, &supplied])
}

/// KeyAgreeRecipientInfo, version 3, for one certificate: issuer and serial, a fresh key of ours as the originator's, and a key
/// wrap as strong as the content key.
pub(super) fn recipient_info(certificate: &Certificate, transport: KeyTransport, cek: &[u8]) -> Result<Vec<u8>, Error> {
    let digest = transport.for_ec().ecdh_digest().unwrap_or(Digest::Sha256);
    let unsendable = || Error::invalid(format!("{transport} is for receipt only"));
    let scheme = match digest {
        Digest::Sha256 | Digest::Sha384 | Digest::Sha512 => oid::ecdh(digest).ok_or_else(unsendable)?[0],
        _ => return Err(unsendable()),
    };
    let wrap = oid::aes_wrap(cek.len()).ok_or_else(|| Error::invalid("no key wrap for this cipher"))?;
    let wrap = ber::algorithm(wrap, &[]);
    let agreement = Agreement {
        digest,
        cofactor: false,
        kek_len: cek.len(),
        shared_info: shared_info(&wrap, None, cek.len()),
    };
    let (point, wrapped) = crypto::wrap_by_agreement(certificate.public_key(), &agreement, cek)?;

    let public = ber::tlv(BIT_STRING, &[&[0][..], &point]);
    let originator_key = ber::tlv(ber::context(1), &[ber::algorithm(oid::EC_PUBLIC_KEY, &[]), public]);
    let serial = ber::tlv(ber::INTEGER, &[certificate.serial()]);
    let name = ber::tlv(ber::SEQUENCE, &[certificate.issuer_der(), &serial]);
    let encrypted = ber::tlv(ber::SEQUENCE, &[name, ber::tlv(ber::OCTET_STRING, &[wrapped])]);
    Ok(ber::tlv(
        RECIPIENT_INFO,
        &[
            ber::integer(3),
            ber::tlv(ber::context(0), &[originator_key]),
            ber::algorithm(scheme, &wrap),
            ber::tlv(ber::SEQUENCE, &[encrypted]),
        ],
    ))
}

/// The keys of one KeyAgreeRecipientInfo. The originator must give its key: one that is named would have to be known here.
pub(super) fn read_recipients<'a>(info: &Element<'a>) -> Result<Vec<Recipient<'a>>, Fault> {
    let mut fields = info.reader();
    fields.expect(ber::INTEGER)?;
    let mut originator = fields.expect(ber::context(0))?.reader();
    let mut public = originator.expect(ber::context(1))?.reader();
    originator.finish()?;
    let mut algorithm = public.expect(ber::SEQUENCE)?.reader();
    if algorithm.expect(ber::OID)?.body != oid::EC_PUBLIC_KEY {
        return Err(Fault::Bad("the originator's key is no EC key"));
    }
    // The curve, where it is named, is the certificate's in any case: a point of another one is not on it.
    let point = match public.expect(BIT_STRING)?.body.split_first() {
        Some((0, point)) if point.len() <= MAX_POINT => point,
        _ => return Err(Fault::Bad("public key")),
    };
    public.finish()?;
    let ukm = fields.optional(ber::context(1))?;
    let ukm = ukm.map(|ukm| ukm.reader().octets(MAX_UKM)).transpose()?;
    let mut algorithm = fields.expect(ber::SEQUENCE)?.reader();
    let agreed = Agreed {
        point,
        ukm,
        scheme: algorithm.expect(ber::OID)?.body,
        wrap: algorithm.expect(ber::SEQUENCE)?,
    };
    algorithm.finish()?;
    let mut keys = fields.expect(ber::SEQUENCE)?.reader();
    fields.finish()?;

    let mut recipients = Vec::new();
    while !keys.is_empty() {
        if recipients.len() == MAX_RECIPIENTS {
            return Err(Fault::Bad("too many recipients"));
        }
        let mut key = keys.expect(ber::SEQUENCE)?.reader();
        recipients.push(Recipient {
            id: key.next()?,
            method: Method::Agreement(agreed.clone()),
            wrapped: key.octets(MAX_WRAPPED)?,
        });
        key.finish()?;
    }
    Ok(recipients)
}

/// Whether `[0]` RecipientKeyIdentifier names this certificate; a date in it is not looked at (RFC 5652 §6.2.2).
pub(super) fn names_key(id: &Element<'_>, certificate: &Certificate) -> bool {
    let named = Reader::octets(&mut id.reader(), MAX_SKI);
    certificate.ski().is_some_and(|ski| named.is_ok_and(|named| named == ski))
}
