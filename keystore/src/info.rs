//! What a certificate says about itself, for tables and warnings.
//!
//! Read by openssl, which takes the odd certificates that partners use (negative serials, BMPString names, unknown
//! extensions). What cannot be read of one is shown as unknown rather than refused.

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::hash::{MessageDigest, hash};
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Public};
use openssl::x509::{X509, X509KeyUsage, X509NameRef, X509Ref};

use crate::der::{self, Element};
use crate::error::{Error, Format, Result};
use crate::secret::hex;

/// 2.5.29.19
const BASIC_CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 0x13];
/// 1.2.840.10045.2.1
const EC_PUBLIC_KEY: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const SECONDS_PER_DAY: i64 = 86_400;

/// A certificate's fields as shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertInfo {
    /// `CN=…, O=…` in the order of the certificate.
    pub subject: String,
    /// The issuer, likewise.
    pub issuer: String,
    /// Serial number, lower-case hexadecimal.
    pub serial_hex: String,
    /// Start of validity, Unix seconds.
    pub not_before: i64,
    /// End of validity, Unix seconds.
    pub not_after: i64,
    /// SHA-256 of the DER, lower-case hexadecimal without colons.
    pub sha256: String,
    /// SHA-1 of the DER, likewise; some partners' portals still show it.
    pub sha1: String,
    /// `RSA 3072`, `EC P-256`, `Ed25519`.
    pub key: String,
    /// Subject and issuer are equal.
    pub self_signed: bool,
    /// `digitalSignature`, `keyEncipherment`…; empty if the certificate does not restrict its key.
    pub key_usage: Vec<String>,
}

impl CertInfo {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// [`Error::Broken`]: no certificate in DER.
    pub fn from_der(der: &[u8]) -> Result<Self> {
        let x509 = parse(der)?;
        let digest = |algorithm| hash(algorithm, der).map(|d| hex(&d)).map_err(Error::crypto("hash a certificate"));
        Ok(Self {
            subject: name(x509.subject_name()),
            issuer: name(x509.issuer_name()),
            serial_hex: serial(&x509),
            not_before: unix(x509.not_before())?,
            not_after: unix(x509.not_after())?,
            sha256: digest(MessageDigest::sha256())?,
            sha1: digest(MessageDigest::sha1())?,
            key: x509.public_key().map_or_else(|_| "unknown".into(), |key| describe(&key)),
            self_signed: same_name(x509.subject_name(), x509.issuer_name()),
            key_usage: key_usage(&x509),
        })
    }
}

/// What a certificate is for by its keyUsage, if that leaves out the encryption of keys (RFC 5280 §4.2.1.3).
#[must_use]
pub fn uses_without_encryption(der: &[u8]) -> Option<Vec<String>> {
    let uses = key_usage(&*parse(der).ok()?);
    let encrypts = uses.iter().any(|one| matches!(one.as_str(), "keyEncipherment" | "keyAgreement"));
    (!encrypts && !uses.is_empty()).then_some(uses)
}

/// Whether two certificates are of one key; one that cannot be read is of none.
pub fn of_one_key(one: &[u8], other: &[u8]) -> bool {
    let key = |der| parse(der).ok()?.public_key().ok();
    matches!((key(one), key(other)), (Some(one), Some(other)) if one.public_eq(&other))
}

/// A certificate that fills `der` to its end, as openssl sees it.
pub(crate) fn parse(der: &[u8]) -> Result<X509> {
    let whole = der::first(der).is_some_and(|element| element.raw.len() == der.len());
    if !whole {
        return Err(Error::broken(Format::Der, "it is cut off, or something follows the certificate"));
    }
    X509::from_der(der).map_err(|_| Error::broken(Format::Der, "this is no X.509 certificate"))
}

/// Whether its basicConstraints say that it is a CA's (RFC 5280 §4.2.1.9).
pub(crate) fn is_ca(der: &[u8]) -> bool {
    let flag = || {
        let fields = der::first(der)?.child(0)?.children()?;
        let extensions = fields.iter().find(|field| field.tag == der::CONTEXT_3)?.child(0)?.children()?;
        let is_wanted = |extension: &&Element<'_>| extension.child(0).is_some_and(|oid| oid.content == BASIC_CONSTRAINTS);
        let value = extensions.iter().find(is_wanted)?.children()?.pop()?;
        der::first(value.content)?.child(0)
    };
    flag().is_some_and(|flag| flag.tag == der::BOOLEAN && flag.content != [0])
}

/// Whether the parameters of its key's curve stand there in the place of a name (RFC 5480 §2.1.1 wants the name).
pub(crate) fn spells_curve_out(der: &[u8]) -> bool {
    let algorithm = || {
        let fields = der::first(der)?.child(0)?.children()?;
        // Of the fields only the key is a sequence with a bit string second.
        let is_key = |field: &&Element<'_>| field.tag == der::SEQUENCE && field.child(1).is_some_and(|bits| bits.tag == der::BIT_STRING);
        fields.iter().find(is_key)?.child(0)?.children()
    };
    let algorithm = algorithm().unwrap_or_default();
    matches!(algorithm.as_slice(), [oid, parameters] if oid.content == EC_PUBLIC_KEY && parameters.tag == der::SEQUENCE)
}

pub(crate) fn same_name(a: &X509NameRef, b: &X509NameRef) -> bool {
    a.try_cmp(b).is_ok_and(|order| order.is_eq())
}

fn name(name: &X509NameRef) -> String {
    let parts = name.entries().map(|entry| {
        let object = entry.object();
        let label = match object.nid() {
            Nid::UNDEF => object.to_string(),
            nid => nid.short_name().map_or_else(|_| object.to_string(), str::to_owned),
        };
        format!("{label}={}", printable(entry))
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// As text for a terminal: a name in a partner's certificate must not move the cursor.
fn printable(entry: &openssl::x509::X509NameEntryRef) -> String {
    let text = match entry.data().to_string() {
        Ok(text) => text,
        Err(_) => String::from_utf8_lossy(entry.data().as_slice()).into_owned(),
    };
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn serial(x509: &X509Ref) -> String {
    let digits = x509.serial_number().to_bn().and_then(|n| n.to_hex_str());
    digits.map_or_else(|_| "unknown".into(), |digits| digits.to_ascii_lowercase())
}

pub(crate) fn unix(time: &Asn1TimeRef) -> Result<i64> {
    let since_epoch = Asn1Time::from_unix(0).and_then(|epoch| epoch.diff(time));
    since_epoch
        .map(|diff| i64::from(diff.days) * SECONDS_PER_DAY + i64::from(diff.secs))
        .map_err(|_| Error::broken(Format::Der, "the certificate's validity is no date"))
}

pub(crate) fn describe(key: &PKey<Public>) -> String {
    match key.id() {
        Id::RSA => format!("RSA {}", key.bits()),
        Id::RSA_PSS => format!("RSA-PSS {}", key.bits()),
        Id::DSA => format!("DSA {}", key.bits()),
        Id::ED25519 => "Ed25519".into(),
        Id::ED448 => "Ed448".into(),
        Id::EC => match key.ec_key().ok().and_then(|k| k.group().curve_name()) {
            Some(Nid::X9_62_PRIME256V1) => "EC P-256".into(),
            Some(Nid::SECP384R1) => "EC P-384".into(),
            Some(Nid::SECP521R1) => "EC P-521".into(),
            Some(other) => format!("EC {}", other.short_name().unwrap_or("unknown")),
            None => format!("EC {}", key.bits()),
        },
        _ => "unknown".into(),
    }
}

fn key_usage(x509: &X509Ref) -> Vec<String> {
    const NAMES: [(X509KeyUsage, &str); 9] = [
        (X509KeyUsage::DIGITAL_SIGNATURE, "digitalSignature"),
        (X509KeyUsage::NON_REPUDIATION, "nonRepudiation"),
        (X509KeyUsage::KEY_ENCIPHERMENT, "keyEncipherment"),
        (X509KeyUsage::DATA_ENCIPHERMENT, "dataEncipherment"),
        (X509KeyUsage::KEY_AGREEMENT, "keyAgreement"),
        (X509KeyUsage::KEY_CERT_SIGN, "keyCertSign"),
        (X509KeyUsage::CRL_SIGN, "cRLSign"),
        (X509KeyUsage::ENCIPHER_ONLY, "encipherOnly"),
        (X509KeyUsage::DECIPHER_ONLY, "decipherOnly"),
    ];
    let allowed = x509.key_usage().unwrap_or(X509KeyUsage::empty());
    NAMES
        .iter()
        .filter(|(bit, _)| allowed.contains(*bit))
        .map(|(_, name)| (*name).to_owned())
        .collect()
}
