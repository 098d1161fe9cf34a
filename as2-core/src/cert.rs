//! Certificates and own keys, parsed once and identified by slices of their own bytes.
//!
//! Real certificates hold unsorted names, odd serials and old string types: whatever identifies one is never re-encoded.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use openssl::asn1::Asn1Time;
use openssl::pkey::{HasPublic, Id, PKey, PKeyRef, Private, Public};
use openssl::x509::{X509, X509Name, X509NameRef};

use crate::cms::ber::{self, Fault, Reader};
use crate::error::Error;

/// Largest certificate, in bytes.
pub const MAX_CERTIFICATE: usize = 64 * 1024;
/// Smallest RSA modulus that is read, in bits; policy asks for more.
pub const MIN_RSA_BITS: u32 = 1024;
/// Largest RSA modulus, in bits: a public operation costs time before anything is proven.
pub const MAX_RSA_BITS: u32 = 8192;
/// Largest RSA public exponent, in bits.
pub const MAX_RSA_EXPONENT_BITS: i32 = 33;
/// Smallest order of a curve, in bits: P-256 (RFC 5753 §8).
pub const MIN_EC_BITS: u32 = 256;
/// Largest order of a curve, in bits: P-521.
pub const MAX_EC_BITS: u32 = 521;

/// An X.509 certificate (RFC 5280). Clones share one copy.
#[derive(Clone)]
pub struct Certificate {
    inner: Arc<Parsed>,
}

struct Parsed {
    der: Vec<u8>,
    issuer: Range<usize>,
    serial: Range<usize>,
    ski: Option<Vec<u8>>,
    key: PKey<Public>,
    subject: String,
}

impl Certificate {
    /// Reads one certificate in DER.
    ///
    /// # Errors
    /// `Invalid` if it is no certificate, is larger than [`MAX_CERTIFICATE`], is followed by other bytes, says no dates,
    /// or holds a key that is not usable or out of bounds.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        if der.len() > MAX_CERTIFICATE {
            return Err(Error::invalid("certificate too large"));
        }
        let (issuer, serial) = issuer_and_serial(der).map_err(|fault| match fault {
            Fault::NeedMore => Error::invalid("truncated certificate"),
            Fault::Bad(what) => Error::invalid(format!("not a certificate: {what}")),
        })?;
        let invalid = |error: openssl::error::ErrorStack| Error::invalid(format!("not a usable certificate: {error}"));
        let x509 = X509::from_der(der).map_err(invalid)?;
        let key = x509.public_key().map_err(invalid)?;
        check_key(&key)?;
        // Only a date has a distance to another one.
        for date in [x509.not_before(), x509.not_after()] {
            Asn1Time::from_unix(0).and_then(|epoch| epoch.diff(date)).map_err(invalid)?;
        }
        let parsed = Parsed {
            issuer,
            serial,
            ski: x509.subject_key_id().map(|id| id.as_slice().to_vec()),
            subject: in_words(x509.subject_name()),
            key,
            der: der.to_vec(),
        };
        Ok(Certificate { inner: Arc::new(parsed) })
    }

    /// The bytes it came in.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.inner.der
    }

    /// The issuer's Name, tag and length included.
    #[must_use]
    pub fn issuer_der(&self) -> &[u8] {
        &self.inner.der[self.inner.issuer.clone()]
    }

    /// The contents bytes of the serial number.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.inner.der[self.inner.serial.clone()]
    }

    /// The subject key identifier, if it has one (RFC 5280 §4.2.1.2).
    #[must_use]
    pub fn ski(&self) -> Option<&[u8]> {
        self.inner.ski.as_deref()
    }

    /// The key that it certifies.
    #[must_use]
    pub fn public_key(&self) -> &PKey<Public> {
        &self.inner.key
    }

    /// The subject for people: `CN=…, O=…` in the certificate's order. May hold any character; not for comparison.
    #[must_use]
    pub fn subject(&self) -> String {
        self.inner.subject.clone()
    }

    /// Whether the key is RSA and unrestricted, so that it can receive content keys as well as sign.
    #[must_use]
    pub fn is_rsa(&self) -> bool {
        self.inner.key.id() == Id::RSA
    }

    /// Whether the key is on a curve for ECDSA and ECDH, so that it can sign and receive content keys (RFC 5753).
    #[must_use]
    pub fn is_ec(&self) -> bool {
        self.inner.key.id() == Id::EC
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.inner.der == other.inner.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("subject", &self.inner.subject)
            .field("serial", &self.serial())
            .finish_non_exhaustive()
    }
}

/// A certificate of ours with its private key. Clones share one copy.
#[derive(Clone)]
pub struct Identity {
    certificate: Certificate,
    key: PKey<Private>,
}

impl Identity {
    /// Reads a certificate in DER and its key in PKCS#8 DER, not encrypted.
    ///
    /// # Errors
    /// `Invalid` if either cannot be read, the key is not the certificate's, or is Ed25519, which verifies only.
    pub fn new(cert_der: &[u8], pkcs8: &[u8]) -> Result<Self, Error> {
        let certificate = Certificate::from_der(cert_der)?;
        if certificate.public_key().id() == Id::ED25519 {
            return Err(Error::invalid("Ed25519 is for the signatures of partners only"));
        }
        let key = PKey::private_key_from_pkcs8(pkcs8).map_err(|error| Error::invalid(format!("not a PKCS#8 key: {error}")))?;
        if !certificate.public_key().public_eq(&key) {
            return Err(Error::invalid("the private key does not belong to the certificate"));
        }
        Ok(Identity { certificate, key })
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The private key.
    #[must_use]
    pub fn key(&self) -> &PKey<Private> {
        &self.key
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// A Name for people: `CN=…, O=…` in its own order.
fn in_words(name: &X509NameRef) -> String {
    let names = name.entries().map(|entry| {
        let name = entry
            .object()
            .nid()
            .short_name()
            .map_or_else(|_| entry.object().to_string(), str::to_owned);
        let value = entry.data().to_string().unwrap_or_else(|_| "?".to_owned());
        format!("{name}={value}")
    });
    names.collect::<Vec<_>>().join(", ")
}

/// The same of a Name in DER.
pub(crate) fn name_in_words(der: &[u8]) -> String {
    X509Name::from_der(der).map_or_else(|_| "an issuer that cannot be read".to_owned(), |name| in_words(&name))
}

/// Where the issuer's Name and the serial's contents lie (RFC 5280 §4.1).
fn issuer_and_serial(der: &[u8]) -> Result<(Range<usize>, Range<usize>), Fault> {
    let mut outer = Reader::new(der);
    let certificate = outer.expect(ber::SEQUENCE)?;
    outer.finish()?;
    let mut fields = certificate.reader().expect(ber::SEQUENCE)?.reader();
    fields.optional(ber::context(0))?;
    let serial = fields.expect(ber::INTEGER)?;
    fields.expect(ber::SEQUENCE)?;
    let issuer = fields.expect(ber::SEQUENCE)?;
    Ok((range_in(der, issuer.whole), range_in(der, serial.body)))
}

fn range_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

fn check_key<T: HasPublic>(key: &PKeyRef<T>) -> Result<(), Error> {
    match key.id() {
        Id::RSA | Id::RSA_PSS => {
            if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&key.bits()) {
                return Err(Error::invalid(format!("RSA key of {} bits", key.bits())));
            }
            // The library gives the numbers of an unrestricted key only; a restricted one has the size limit.
            if key.rsa().is_ok_and(|rsa| rsa.e().num_bits() > MAX_RSA_EXPONENT_BITS) {
                return Err(Error::invalid("RSA public exponent too large"));
            }
            Ok(())
        }
        Id::EC => {
            let key = key.ec_key()?;
            let bits = key.group().order_bits();
            if !(MIN_EC_BITS..=MAX_EC_BITS).contains(&bits) {
                return Err(Error::invalid(format!("EC key of {bits} bits")));
            }
            // A curve by its numbers may be any curve, however weak or slow (RFC 5480 §2.1.1).
            if key.group().curve_name().is_none() {
                return Err(Error::invalid("EC key on a curve without a name"));
            }
            Ok(())
        }
        Id::ED25519 => Ok(()),
        other => Err(Error::invalid(format!("keys of type {other:?} are not supported"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::cms::testkit;

    #[test]
    fn a_certificate_is_known_by_its_own_bytes() {
        let certificate = testkit::rsa().certificate();
        let x509 = X509::from_der(certificate.der()).unwrap();
        assert_eq!(certificate.serial(), [0, 0x80, 0xc0, 0xff, 0xee]);
        assert_eq!(certificate.issuer_der(), x509.issuer_name().to_der().unwrap());
        assert_eq!(certificate.ski().unwrap().len(), 20);
        assert_eq!(certificate.subject(), "O=Tests, CN=rsa");
        assert!(certificate.is_rsa());
    }

    #[test]
    fn what_is_no_certificate_or_not_its_key_is_refused() {
        let der = testkit::rsa().certificate().der();
        for length in 0..der.len() {
            assert!(Certificate::from_der(&der[..length]).is_err());
        }
        assert!(Certificate::from_der(&[der, &[0]].concat()).is_err());
        for date in [&b"231114221320Z"[..], b"20961002070640Z"] {
            let mut undated = der.to_vec();
            let at = memchr::memmem::find(der, date).unwrap();
            undated[at] = b'x';
            assert!(Certificate::from_der(&undated).is_err());
        }
        let pkcs8 = testkit::rsa().key().private_key_to_pkcs8().unwrap();
        assert!(Identity::new(der, &pkcs8).is_ok());
        assert!(Identity::new(testkit::other().certificate().der(), &pkcs8).is_err());
        assert!(Identity::new(der, b"no key").is_err());
        let short = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::SECP224R1).unwrap();
        let short = PKey::from_ec_key(openssl::ec::EcKey::generate(&short).unwrap()).unwrap();
        assert!(
            testkit::try_certificate(&short, "short", 1)
                .unwrap_err()
                .detail
                .contains("224 bits")
        );
        let small = PKey::from_rsa(openssl::rsa::Rsa::generate(768).unwrap()).unwrap();
        let mut builder = X509::builder().unwrap();
        builder.set_pubkey(&small).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::from_unix(1).unwrap()).unwrap();
        builder.sign(&small, openssl::hash::MessageDigest::sha256()).unwrap();
        let error = Certificate::from_der(&builder.build().to_der().unwrap()).unwrap_err();
        assert!(error.detail.contains("768 bits"), "{error}");
    }
}
