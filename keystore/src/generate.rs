//! New key pairs with a self-signed certificate, as AS2 partners expect them.
//!
//! Partners' products reject more than RFC 5280 does, so what we make is plain: positive serial, UTF8String, two-letter
//! country, no critical extension. Like `keytool`'s, they carry neither key usage nor basic constraints: OpenSSL 1.1.1, which
//! many partners still run, does not accept a self-signed certificate as its own anchor if its key usage lacks keyCertSign.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::ec::{Asn1Flag, EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;
use openssl::stack::Stack;
use openssl::x509::extension::{SubjectAlternativeName, SubjectKeyIdentifier};
use openssl::x509::{X509, X509Builder, X509Name, X509ReqBuilder};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::info::parse;
use crate::secret::random;

/// Longest common name and organization (RFC 5280 appendix A, ub-common-name).
pub const MAX_NAME_CHARS: usize = 64;
/// Longest mail address (RFC 5280 appendix A, ub-emailaddress-length).
pub const MAX_EMAIL_CHARS: usize = 255;
/// Longest validity.
pub const MAX_DAYS: u32 = 36_500;
const SECONDS_PER_DAY: i64 = 86_400;
/// A partner's clock may be behind ours.
const BACKDATED_SECONDS: i64 = 3_600;
const SERIAL_BYTES: usize = 16;

/// The key to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeySpec {
    /// RSA, 2048 bits.
    Rsa2048,
    /// RSA, 3072 bits: the default.
    #[default]
    Rsa3072,
    /// RSA, 4096 bits.
    Rsa4096,
    /// NIST P-256.
    EcP256,
    /// NIST P-384.
    EcP384,
    /// NIST P-521.
    EcP521,
}

impl KeySpec {
    /// All of them, as offered.
    pub const ALL: [KeySpec; 6] = [
        KeySpec::Rsa2048,
        KeySpec::Rsa3072,
        KeySpec::Rsa4096,
        KeySpec::EcP256,
        KeySpec::EcP384,
        KeySpec::EcP521,
    ];

    /// The name in commands and configuration.
    pub fn name(self) -> &'static str {
        match self {
            KeySpec::Rsa2048 => "rsa-2048",
            KeySpec::Rsa3072 => "rsa-3072",
            KeySpec::Rsa4096 => "rsa-4096",
            KeySpec::EcP256 => "ec-p256",
            KeySpec::EcP384 => "ec-p384",
            KeySpec::EcP521 => "ec-p521",
        }
    }

    fn generate(self) -> Result<PKey<Private>, ErrorStack> {
        match self {
            KeySpec::Rsa2048 => PKey::from_rsa(Rsa::generate(2048)?),
            KeySpec::Rsa3072 => PKey::from_rsa(Rsa::generate(3072)?),
            KeySpec::Rsa4096 => PKey::from_rsa(Rsa::generate(4096)?),
            KeySpec::EcP256 => ec_key(Nid::X9_62_PRIME256V1),
            KeySpec::EcP384 => ec_key(Nid::SECP384R1),
            KeySpec::EcP521 => ec_key(Nid::SECP521R1),
        }
    }
}

impl fmt::Display for KeySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeySpec {
    type Err = Error;

    /// Takes `rsa-3072`, `rsa3072`, `RSA 3072`, `ec-p256`, `p-256`.
    fn from_str(text: &str) -> Result<Self> {
        let plain = |text: &str| {
            let letters = text.chars().filter(char::is_ascii_alphanumeric);
            let text = letters.collect::<String>().to_ascii_lowercase();
            text.strip_prefix("ec").map(str::to_owned).unwrap_or(text)
        };
        let wanted = plain(text);
        let found = Self::ALL.into_iter().find(|spec| plain(spec.name()) == wanted);
        found.ok_or_else(|| {
            Error::Unsupported(format!(
                "no key type {text:?}; give rsa-2048, rsa-3072, rsa-4096, ec-p256, ec-p384 or ec-p521"
            ))
        })
    }
}

/// Whose certificate it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// Common name; must not be empty.
    pub cn: String,
    /// Organization.
    pub org: Option<String>,
    /// Mail address.
    pub email: Option<String>,
    /// Two letters of ISO 3166.
    pub country: Option<String>,
}

/// A private key and its certificate. No `Debug`: the key is secret.
pub struct KeyPair {
    /// The private key, PKCS#8 DER.
    pub pkcs8: Zeroizing<Vec<u8>>,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
}

/// Makes a key and a self-signed certificate, valid from an hour before `now` (Unix seconds) until `days` after it.
///
/// # Errors
/// [`Error::BadSubject`]: a name or a validity out of range; [`Error::Crypto`].
pub fn identity(spec: KeySpec, subject: &Subject, now: i64, days: u32) -> Result<KeyPair> {
    check(subject)?;
    if days == 0 || days > MAX_DAYS {
        return Err(Error::BadSubject(format!("a validity of {days} days; give 1 to {MAX_DAYS}")));
    }
    let key = spec.generate().map_err(Error::crypto("make a key"))?;
    let serial = serial_number()?;
    let certificate = certificate(subject, &key, &serial, now, days)
        .and_then(|certificate| certificate.to_der())
        .map_err(Error::crypto("make a certificate"))?;
    let pkcs8 = key.private_key_to_pkcs8().map_err(Error::crypto("write a key"))?;
    Ok(KeyPair {
        pkcs8: Zeroizing::new(pkcs8),
        certificate,
    })
}

/// A certificate signing request (PKCS#10 in DER, RFC 2986) for a key that has a certificate already: under its name, and with the
/// host names that stand in it.
///
/// # Errors
/// [`Error::Broken`]: no certificate in DER; [`Error::Crypto`].
pub fn request(certificate: &[u8], pkcs8: &[u8]) -> Result<Vec<u8>> {
    let certificate = parse(certificate)?;
    let signed = |key: PKey<Private>| {
        let mut builder = X509ReqBuilder::new()?;
        builder.set_version(0)?;
        builder.set_subject_name(certificate.subject_name())?;
        builder.set_pubkey(&key)?;
        if let Some(names) = same_alt_names(&certificate) {
            let mut extensions = Stack::new()?;
            extensions.push(names.build(&builder.x509v3_context(None))?)?;
            builder.add_extensions(&extensions)?;
        }
        builder.sign(&key, digest_for(&key))?;
        builder.build().to_der()
    };
    PKey::private_key_from_pkcs8(pkcs8)
        .and_then(signed)
        .map_err(Error::crypto("make a certificate signing request"))
}

/// The digest of about the key's strength.
fn digest_for(key: &PKey<Private>) -> MessageDigest {
    match (key.id(), key.bits()) {
        (Id::EC, 385..) => MessageDigest::sha512(),
        (Id::EC, 257..) => MessageDigest::sha384(),
        _ => MessageDigest::sha256(),
    }
}

/// The hosts and mail addresses of a certificate.
fn same_alt_names(certificate: &X509) -> Option<SubjectAlternativeName> {
    let mut names = SubjectAlternativeName::new();
    let found = certificate.subject_alt_names()?;
    let mut any = false;
    for name in &found {
        if let Some(host) = name.dnsname() {
            names.dns(host);
        } else if let Some(address) = name.ipaddress().and_then(ip) {
            names.ip(&address.to_string());
        } else if let Some(address) = name.email() {
            names.email(address);
        } else {
            continue;
        }
        any = true;
    }
    any.then_some(names)
}

/// The address of four or sixteen bytes.
fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn check(subject: &Subject) -> Result<()> {
    let bad = |why: String| Err(Error::BadSubject(why));
    if subject.cn.trim().is_empty() {
        return bad("it needs a common name; give the station's name".into());
    }
    let fields = [
        ("common name", Some(&subject.cn), MAX_NAME_CHARS),
        ("organization", subject.org.as_ref(), MAX_NAME_CHARS),
        ("mail address", subject.email.as_ref(), MAX_EMAIL_CHARS),
    ];
    for (name, value, limit) in fields {
        let Some(value) = value else { continue };
        if value.chars().count() > limit {
            return bad(format!("the {name} is longer than {limit} characters; shorten it"));
        }
        if value.is_empty() || value.chars().any(char::is_control) {
            return bad(format!("the {name} is empty or has control characters in it"));
        }
    }
    if subject.email.as_ref().is_some_and(|e| !e.is_ascii() || !e.contains('@')) {
        return bad("the mail address is not one in plain ASCII, like as2@example.com".into());
    }
    match &subject.country {
        Some(c) if c.len() != 2 || !c.bytes().all(|b| b.is_ascii_alphabetic()) => {
            bad(format!("the country {c:?} is not two letters, like DE"))
        }
        _ => Ok(()),
    }
}

/// Random, positive, and never shorter than its sixteen bytes.
fn serial_number() -> Result<[u8; SERIAL_BYTES]> {
    let mut serial = [0; SERIAL_BYTES];
    random(&mut serial)?;
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x3f | 0x40;
    }
    Ok(serial)
}

fn certificate(subject: &Subject, key: &PKey<Private>, serial: &[u8], now: i64, days: u32) -> Result<X509, ErrorStack> {
    let name = name(subject)?;
    let from = now.saturating_sub(BACKDATED_SECONDS);
    let until = now.saturating_add(i64::from(days) * SECONDS_PER_DAY);
    let mut builder = X509Builder::new()?;
    builder.set_version(2)?;
    let serial = Asn1Integer::from_bn(BigNum::from_slice(serial)?.as_ref())?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_not_before(Asn1Time::from_unix(from)?.as_ref())?;
    builder.set_not_after(Asn1Time::from_unix(until)?.as_ref())?;
    builder.set_pubkey(key)?;
    let key_id = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
    builder.append_extension(key_id)?;
    if let Some(alt_name) = alt_name(&subject.cn) {
        let alt_name = alt_name.build(&builder.x509v3_context(None, None))?;
        builder.append_extension(alt_name)?;
    }
    builder.sign(key, digest_for(key))?;
    Ok(builder.build())
}

fn name(subject: &Subject) -> Result<X509Name, ErrorStack> {
    let country = subject.country.as_ref().map(|c| c.to_ascii_uppercase());
    let mut name = X509Name::builder()?;
    let fields = [
        (Nid::COUNTRYNAME, country.as_ref()),
        (Nid::ORGANIZATIONNAME, subject.org.as_ref()),
        (Nid::COMMONNAME, Some(&subject.cn)),
        (Nid::PKCS9_EMAILADDRESS, subject.email.as_ref()),
    ];
    for (nid, value) in fields {
        if let Some(value) = value {
            name.append_entry_by_nid(nid, value)?;
        }
    }
    Ok(name.build())
}

/// TLS clients look for a host's name here and nowhere else (RFC 9110 §4.3.4).
fn alt_name(cn: &str) -> Option<SubjectAlternativeName> {
    let mut name = SubjectAlternativeName::new();
    if cn.parse::<IpAddr>().is_ok() {
        name.ip(cn);
        return Some(name);
    }
    let label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let host = cn == "localhost" || cn.contains('.') && cn.split('.').all(label);
    host.then(|| {
        name.dns(cn);
        name
    })
}

/// A key on a named curve: with explicit parameters, an openssl default of old, no peer reads it.
fn ec_key(curve: Nid) -> Result<PKey<Private>, ErrorStack> {
    let mut group = EcGroup::from_curve_name(curve)?;
    group.set_asn1_flag(Asn1Flag::NAMED_CURVE);
    PKey::from_ec_key(EcKey::generate(&group)?)
}
