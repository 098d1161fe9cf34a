//! Making a detached signature, of a length that is known beforehand.

use crate::algorithm::{Digest, SignatureScheme};
use crate::cert::Identity;
use crate::cms::ber;
use crate::cms::oid;
use crate::crypto;
use crate::date::utc_time;
use crate::error::{Error, ErrorKind};

/// Signatures made until one has the predicted length (ECDSA); two are needed on average.
const MAX_ATTEMPTS: usize = 64;

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
    // The values of RSA all have one length.
    let wanted = params.identity.certificate().is_ec().then(|| p7s_len(params)).transpose()?;
    let attributes = signed_attributes(params, content_digest, now_unix)?;
    let value = crypto::hash(params.digest, &attributes)?;
    // ECDSA values vary by a few bytes, and the length may be promised already: sign again until it is the common one.
    for _ in 0..MAX_ATTEMPTS {
        let signature = crypto::sign_digest(params.identity.key(), params.scheme, params.digest, &value)?;
        let whole = signed_data(params, &attributes, &signature)?;
        if wanted.is_none_or(|wanted| whole.len() == wanted) {
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
pub(super) fn signed_attributes(params: &SignParams<'_>, digest: &[u8], now_unix: i64) -> Result<Vec<u8>, Error> {
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
pub(super) fn signed_data(params: &SignParams<'_>, attributes: &[u8], signature: &[u8]) -> Result<Vec<u8>, Error> {
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
    if !digest.is_sent() {
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
