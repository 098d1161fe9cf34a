//! Certificates and keys from the files that people have.
//!
//! The file's content decides what it is, never its name. Certificates leave here with the very bytes they came with: what a
//! partner's system compares is a hash over them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use zeroize::Zeroizing;

use crate::der::{self, Element};
use crate::error::{Error, Format, Result};
use crate::info::{CertInfo, is_ca, parse, same_name, unix};
use crate::pem::{self, Block};
use crate::{jks, pkcs12};

/// Largest file read.
pub const MAX_IMPORT_BYTES: usize = 4 * 1024 * 1024;
/// Most certificates and keys in one file.
pub const MAX_ENTRIES: usize = 1000;
/// Longest passphrase; openssl reads no more of one.
pub const MAX_PASSPHRASE_BYTES: usize = 1000;

/// 1.2.840.113549.1.7.2
const SIGNED_DATA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// 1.2.840.113549.1.12.1.6
const PBE_SHA1_RC2_40: [u8; 10] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01, 0x06];

/// What a file held. No `Debug`: the key is secret.
pub struct Imported {
    /// What the file was.
    pub format: Format,
    /// Certificates in DER, the leaf first, then its issuers as far as the file has them. Without a key any other
    /// certificates of the file follow.
    pub certificates: Vec<Vec<u8>>,
    /// The private key, PKCS#8 DER; it belongs to the first certificate, if there is one.
    pub key: Option<Zeroizing<Vec<u8>>>,
}

impl Imported {
    /// The first certificate; an error that says what to do if the file held only a private key.
    ///
    /// # Errors
    /// [`Error::KeyWithoutCertificate`].
    pub fn certificate(&self) -> Result<&[u8]> {
        let first = self.certificates.first().map(Vec::as_slice);
        first.ok_or(Error::KeyWithoutCertificate)
    }

    /// The first certificate and its key; an error that says what to do if either is missing.
    ///
    /// # Errors
    /// [`Error::CertificateWithoutKey`], [`Error::KeyWithoutCertificate`].
    pub fn key_pair(&self) -> Result<(&[u8], &[u8])> {
        let key = self.key.as_ref().ok_or(Error::CertificateWithoutKey)?;
        Ok((self.certificate()?, key.as_slice()))
    }
}

/// Reads PEM, DER, P7B, PKCS#12 or JKS, whichever it is. An expired certificate is no error here.
///
/// # Errors
/// [`Error::TooLarge`] above [`MAX_IMPORT_BYTES`] bytes or [`MAX_ENTRIES`] entries, [`Error::SeveralKeys`] and
/// [`Error::SeveralCertificates`] if it holds more than one, [`Error::PassphraseNeeded`] and [`Error::WrongPassphrase`], and what
/// says that it is none of these formats or broken.
pub fn import(bytes: &[u8], passphrase: Option<&str>) -> Result<Imported> {
    read(bytes, passphrase)?.choose(None)
}

/// Like [`import`], taking the entry `alias` of a store that holds several.
///
/// # Errors
/// Those of [`import`]; [`Error::NoSuchAlias`] in the place of those about several.
pub fn import_alias(bytes: &[u8], passphrase: Option<&str>, alias: &str) -> Result<Imported> {
    read(bytes, passphrase)?.choose(Some(alias))
}

fn read(bytes: &[u8], passphrase: Option<&str>) -> Result<Found> {
    if bytes.len() > MAX_IMPORT_BYTES {
        return Err(Error::TooLarge {
            what: "file",
            limit: MAX_IMPORT_BYTES,
        });
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::Empty);
    }
    check_passphrase(passphrase)?;
    if bytes.starts_with(&jks::MAGIC) {
        return jks::read(bytes, passphrase);
    }
    if bytes.starts_with(&jks::JCEKS_MAGIC) {
        return Err(Error::Unsupported(
            "JCEKS key stores are not read; convert it: keytool -importkeystore -srckeystore FILE -srcstoretype JCEKS \
             -destkeystore NEW.p12 -deststoretype PKCS12"
                .into(),
        ));
    }
    // The tag is the digit 0 too, with which the text before a PEM block may begin.
    let is_text = || kind(bytes).is_none() && bytes.windows(pem::BEGIN.len()).any(|part| part == pem::BEGIN.as_bytes());
    if bytes.first() == Some(&der::SEQUENCE) && !is_text() {
        return read_der(bytes, passphrase);
    }
    read_text(bytes, passphrase)
}

pub(crate) fn check_passphrase(passphrase: Option<&str>) -> Result<()> {
    match passphrase {
        Some(p) if p.contains('\0') => Err(Error::BadPassphrase("it has a NUL character in it")),
        Some(p) if p.len() > MAX_PASSPHRASE_BYTES => Err(Error::BadPassphrase("it is longer than 1000 bytes")),
        _ => Ok(()),
    }
}

fn read_text(bytes: &[u8], passphrase: Option<&str>) -> Result<Found> {
    let text = pem::decode_text(bytes).ok_or(Error::UnknownFormat)?;
    if text.contains("PuTTY-User-Key-File-") {
        return Err(ssh_key_given());
    }
    let blocks = pem::blocks(&text)?;
    if blocks.is_empty() {
        return read_bare_base64(&text, passphrase);
    }
    let mut found = Found::new(Format::Pem);
    for block in blocks {
        read_block(&block, passphrase, &mut found)?;
        if found.len() > MAX_ENTRIES {
            return Err(Error::broken(Format::Pem, format!("it has more than {MAX_ENTRIES} entries")));
        }
    }
    Ok(found)
}

/// Partners paste certificates without the lines around them into forms and mails.
fn read_bare_base64(text: &str, passphrase: Option<&str>) -> Result<Found> {
    let joined: Zeroizing<String> = Zeroizing::new(text.split_whitespace().collect());
    match STANDARD.decode(joined.as_bytes()).map(Zeroizing::new) {
        Ok(der) if der.first() == Some(&der::SEQUENCE) => read_der(&der, passphrase),
        _ => Err(Error::UnknownFormat),
    }
}

fn read_block(block: &Block<'_>, passphrase: Option<&str>, found: &mut Found) -> Result<()> {
    match block.label {
        // TRUSTED CERTIFICATE has openssl's notes behind the certificate.
        "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => {
            let bytes = block.der()?;
            // `certutil -encode` of Windows calls whatever it is given a certificate.
            if let Some(Kind::SignedData | Kind::Pkcs12) = kind(&bytes) {
                found.take(read_der(&bytes, passphrase)?);
                return Ok(());
            }
            let certificate = der::first(&bytes).ok_or_else(|| Error::broken(Format::Pem, "a certificate in it is cut off"))?;
            found.add_certificate(String::new(), certificate.raw.to_vec());
        }
        "PKCS7" | "PKCS #7 SIGNED DATA" | "CMS" => found.take(read_der(&block.der()?, None)?),
        "PKCS12" => found.take(read_der(&block.der()?, passphrase)?),
        "PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => {
            let key = read_key(block, passphrase)?;
            found.add_key(String::new(), Ok(to_pkcs8(&key)?));
        }
        "OPENSSH PRIVATE KEY" | "SSH2 ENCRYPTED PRIVATE KEY" => return Err(ssh_key_given()),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => {
            return Err(Error::Unsupported(
                "this is a request for a certificate (CSR); give the certificate that was issued for it".into(),
            ));
        }
        "PUBLIC KEY" | "RSA PUBLIC KEY" => {
            return Err(Error::Unsupported(
                "this is a bare public key; give the certificate (.cer, .crt, .pem)".into(),
            ));
        }
        // EC PARAMETERS, X509 CRL and the like stand beside what we want.
        _ => {}
    }
    Ok(())
}

fn ssh_key_given() -> Error {
    Error::Unsupported("this is an SSH private key; AS2 and HTTPS need a certificate with its key (.p12, .pfx, .pem)".into())
}

/// A private key of a PEM block, encrypted or not.
pub(crate) fn read_key(block: &Block<'_>, passphrase: Option<&str>) -> Result<PKey<Private>> {
    const FORMAT: Format = Format::Pem;
    if block.is_encrypted() {
        let passphrase = passphrase.ok_or(Error::PassphraseNeeded(FORMAT))?;
        // RFC 1421 headers: only openssl's own reader knows them.
        let text = block.to_text();
        return PKey::private_key_from_pem_passphrase(text.as_bytes(), passphrase.as_bytes()).map_err(|_| Error::WrongPassphrase(FORMAT));
    }
    read_der_key(&block.der()?, FORMAT, passphrase)
}

fn read_der_key(bytes: &[u8], format: Format, passphrase: Option<&str>) -> Result<PKey<Private>> {
    if kind(bytes) != Some(Kind::EncryptedKey) {
        return PKey::private_key_from_der(bytes).map_err(|_| Error::broken(format, "the private key in it cannot be read"));
    }
    if der::asks_too_much(bytes) {
        return Err(too_many_rounds(format));
    }
    let passphrase = passphrase.ok_or(Error::PassphraseNeeded(format))?;
    PKey::private_key_from_pkcs8_passphrase(bytes, passphrase.as_bytes()).map_err(|_| match encryption(bytes) {
        Some(name) => Error::Unsupported(format!(
            "the private key is encrypted with {name}, which is not read; encrypt it again: openssl pkcs8 -provider legacy \
             -provider default -in FILE | openssl pkcs8 -topk8 -v2 aes256 -out NEW.pem"
        )),
        None => Error::WrongPassphrase(format),
    })
}

/// The encryption of a PKCS#8 key, if it is one that is not read. The sealed key itself says nothing.
fn encryption(bytes: &[u8]) -> Option<&'static str> {
    let algorithm = der::first(bytes)?.child(0)?;
    // In PKCS#12 files it is read.
    if algorithm.child(0)?.content == PBE_SHA1_RC2_40 {
        return Some("PBE-SHA1-RC2-40");
    }
    der::unsupported_scheme(algorithm.raw)
}

fn to_pkcs8(key: &PKey<Private>) -> Result<Zeroizing<Vec<u8>>> {
    key.private_key_to_pkcs8()
        .map(Zeroizing::new)
        .map_err(Error::crypto("read the private key"))
}

fn too_many_rounds(format: Format) -> Error {
    Error::broken(
        format,
        format!("its passphrase protection asks for more than {} rounds", der::MAX_KDF_ITERATIONS),
    )
}

fn read_der(bytes: &[u8], passphrase: Option<&str>) -> Result<Found> {
    match kind(bytes) {
        Some(Kind::Certificate) => {
            let mut found = Found::new(Format::Der);
            let raw = der::first(bytes).map(|e| e.raw.to_vec());
            found.add_certificate(String::new(), raw.unwrap_or_default());
            Ok(found)
        }
        Some(Kind::SignedData) => read_p7b(bytes),
        Some(Kind::Pkcs12) if der::asks_too_much(bytes) => Err(too_many_rounds(Format::Pkcs12)),
        Some(Kind::Pkcs12) => pkcs12::read(bytes, passphrase),
        Some(Kind::Key | Kind::EncryptedKey) => {
            let mut found = Found::new(Format::Der);
            let key = read_der_key(bytes, Format::Der, passphrase)?;
            found.add_key(String::new(), Ok(to_pkcs8(&key)?));
            Ok(found)
        }
        None if der::first(bytes).is_none() => Err(Error::broken(Format::Der, "it is cut off or damaged")),
        None => Err(Error::UnknownFormat),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Certificate,
    SignedData,
    Pkcs12,
    Key,
    EncryptedKey,
}

/// What a DER file is, by the tags of its first values.
fn kind(bytes: &[u8]) -> Option<Kind> {
    let children = der::first(bytes)?.children()?;
    let tags: Vec<u8> = children.iter().map(|c| c.tag).take(3).collect();
    let first = children.first()?;
    match tags.as_slice() {
        [der::OID, ..] if first.content == SIGNED_DATA => Some(Kind::SignedData),
        [der::SEQUENCE, der::SEQUENCE, der::BIT_STRING] => Some(Kind::Certificate),
        [der::SEQUENCE, der::OCTET_STRING] => Some(Kind::EncryptedKey),
        [der::INTEGER, der::SEQUENCE, der::OCTET_STRING] => Some(Kind::Key), // PKCS#8
        [der::INTEGER, der::INTEGER, der::INTEGER] => Some(Kind::Key),       // PKCS#1
        [der::INTEGER, der::OCTET_STRING, ..] => Some(Kind::Key),            // SEC 1
        [der::INTEGER, der::SEQUENCE, ..] if first.content == [3] => Some(Kind::Pkcs12),
        _ => None,
    }
}

/// The certificates of a PKCS#7 container (RFC 5652 §5.1), each as it stands there.
fn read_p7b(bytes: &[u8]) -> Result<Found> {
    let broken = || Error::broken(Format::P7b, "it is not laid out as signed data");
    let outer = der::first(bytes).ok_or_else(broken)?;
    let signed_data = outer.child(1).and_then(|content| content.child(0)).ok_or_else(broken)?;
    let fields = signed_data.children().ok_or_else(broken)?;
    let mut found = Found::new(Format::P7b);
    if let Some(set) = fields.iter().find(|field| field.tag == der::CONTEXT_0) {
        let certificates: Vec<Element<'_>> = set.children().ok_or_else(broken)?;
        if certificates.len() > MAX_ENTRIES {
            return Err(Error::broken(Format::P7b, format!("it has more than {MAX_ENTRIES} certificates")));
        }
        for certificate in certificates.iter().filter(|c| c.tag == der::SEQUENCE) {
            found.add_certificate(String::new(), certificate.raw.to_vec());
        }
    }
    Ok(found)
}

/// Keys and certificates of a file with their aliases (empty where the format has none), before one is chosen.
pub(crate) struct Found {
    format: Format,
    /// One that cannot be read matters only if it is the one chosen.
    keys: Vec<(String, Result<Zeroizing<Vec<u8>>>)>,
    certificates: Vec<(String, Vec<u8>)>,
}

impl Found {
    pub(crate) fn new(format: Format) -> Self {
        Self {
            format,
            keys: Vec::new(),
            certificates: Vec::new(),
        }
    }

    /// The same key under another alias is another entry: a certificate renewed with its old key.
    pub(crate) fn add_key(&mut self, alias: String, pkcs8: Result<Zeroizing<Vec<u8>>>) {
        let same = |(name, known): &(String, Result<_>)| *name == alias && same_key(known, &pkcs8);
        if !self.keys.iter().any(same) {
            self.keys.push((alias, pkcs8));
        }
    }

    pub(crate) fn add_certificate(&mut self, alias: String, der: Vec<u8>) {
        self.certificates.push((alias, der));
    }

    /// What a block inside the file held.
    fn take(&mut self, inner: Self) {
        self.keys.extend(inner.keys);
        self.certificates.extend(inner.certificates);
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len() + self.certificates.len()
    }

    fn has_several_keys(&self) -> bool {
        let mut pairs = self.keys.iter().zip(self.keys.iter().skip(1));
        pairs.any(|((_, one), (_, other))| !same_key(one, other))
    }

    /// Where the key of a certificate with a fitting alias is.
    fn key_of_certificate(&self, named: impl Fn(&String) -> bool) -> Option<usize> {
        let certificates = self.certificates.iter().filter(|(name, _)| named(name));
        let public: Vec<_> = certificates.filter_map(|(_, der)| parse(der).ok()?.public_key().ok()).collect();
        self.keys.iter().position(|(_, key)| {
            let private = key.as_ref().ok().and_then(|key| PKey::private_key_from_pkcs8(key).ok());
            private.is_some_and(|private| public.iter().any(|public| public.public_eq(&private)))
        })
    }

    fn choose(mut self, alias: Option<&str>) -> Result<Imported> {
        let format = self.format;
        if self.len() == 0 {
            return Err(Error::NothingInside(format));
        }
        let named = |name: &String| alias.is_some_and(|alias| name.to_lowercase() == alias.to_lowercase());
        let single = self.keys.len() == 1;
        let key = match alias {
            None if self.has_several_keys() => {
                return Err(Error::SeveralKeys {
                    format,
                    aliases: names(self.keys.iter().map(|k| &k.0)),
                });
            }
            None => self.keys.pop(),
            Some(_) => {
                let at = self.keys.iter().position(|(name, _)| named(name));
                // Windows names the key by a number of its own and the certificate as people know it.
                let at = at.or_else(|| self.key_of_certificate(named));
                at.map(|at| self.keys.swap_remove(at))
            }
        };
        if let Some((name, key)) = key {
            let name = if single { name.as_str() } else { "" };
            return with_key(format, alias.unwrap_or(name), key?, self.certificates);
        }
        if let Some(wanted) = alias {
            let Some((_, der)) = self
                .certificates
                .iter()
                .find(|(name, _)| name.to_lowercase() == wanted.to_lowercase())
            else {
                let all = self.keys.iter().map(|k| &k.0).chain(self.certificates.iter().map(|c| &c.0));
                return Err(Error::NoSuchAlias {
                    format,
                    wanted: wanted.into(),
                    aliases: names(all),
                });
            };
            parse(der)?;
            return Ok(Imported {
                format,
                certificates: vec![der.clone()],
                key: None,
            });
        }
        self.without_key()
    }

    /// Neither a key nor an alias tells which certificate is meant.
    fn without_key(self) -> Result<Imported> {
        let format = self.format;
        let aliases = self.certificates.iter().map(|c| c.0.clone()).filter(|alias| !alias.is_empty());
        let aliases: Vec<String> = aliases.collect();
        let several = |subjects| Error::SeveralCertificates {
            format,
            subjects,
            how: match aliases.is_empty() {
                true => String::new(),
                false => format!(", or say which one with --alias NAME ({})", names(aliases.iter())),
            },
        };
        Ok(Imported {
            format,
            certificates: Chain::parse(self.certificates)?.leaf_first().map_err(several)?,
            key: None,
        })
    }
}

fn same_key(one: &Result<Zeroizing<Vec<u8>>>, other: &Result<Zeroizing<Vec<u8>>>) -> bool {
    matches!((one, other), (Ok(one), Ok(other)) if one == other)
}

fn names<'a>(aliases: impl Iterator<Item = &'a String>) -> String {
    let mut names: Vec<&str> = aliases.map(String::as_str).filter(|a| !a.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        "none has a name".into()
    } else {
        names.join(", ")
    }
}

/// The subjects of certificates with what each is for, as far as a line of text goes.
fn subjects<'a>(certificates: impl Iterator<Item = &'a (X509, Vec<u8>)>) -> String {
    const MOST: usize = 5;
    let shown = certificates
        .filter_map(|(_, der)| CertInfo::from_der(der).ok())
        .map(|info| match info.key_usage.is_empty() {
            true => info.subject,
            false => format!("{} ({})", info.subject, info.key_usage.join(", ")),
        });
    let mut shown: Vec<String> = shown.collect();
    if shown.len() > MOST {
        let more = shown.split_off(MOST).len();
        shown.push(format!("{more} more"));
    }
    shown.join("; ")
}

fn with_key(format: Format, alias: &str, key: Zeroizing<Vec<u8>>, certificates: Vec<(String, Vec<u8>)>) -> Result<Imported> {
    let private = PKey::private_key_from_pkcs8(&key).map_err(|_| Error::broken(format, "the private key in it cannot be read"))?;
    if certificates.is_empty() {
        return Ok(Imported {
            format,
            certificates: Vec::new(),
            key: Some(key),
        });
    }
    // A store may hold certificates of others that do not parse: they do not matter here.
    let readable = certificates.into_iter().filter(|(_, der)| parse(der).is_ok());
    // A key may have been certified again: what stands under its alias goes before what does not.
    let (ours, others): (Vec<_>, Vec<_>) = readable.partition(|(name, _)| name.to_lowercase() == alias.to_lowercase());
    let own = ours.clone();
    let chain = Chain::parse(ours.into_iter().chain(others).collect())?;
    let is_ours = |der: &Vec<u8>| own.iter().any(|(_, own)| own == der);
    let fits = |x509: &X509| x509.public_key().is_ok_and(|public| public.public_eq(&private));
    let leaf = chain
        .newest(|(x509, der)| is_ours(der) && fits(x509))
        .or_else(|| chain.newest(|(x509, _)| fits(x509)))
        .ok_or(Error::KeyMismatch(format))?;
    Ok(Imported {
        format,
        certificates: chain.chain_of(leaf).0,
        key: Some(key),
    })
}

/// Certificates without repetitions, to be put in order.
struct Chain(Vec<(X509, Vec<u8>)>);

impl Chain {
    fn parse(certificates: Vec<(String, Vec<u8>)>) -> Result<Self> {
        let mut known: Vec<(X509, Vec<u8>)> = Vec::new();
        for (_, der) in certificates {
            if known.iter().all(|(_, other)| *other != der) {
                known.push((parse(&der)?, der));
            }
        }
        Ok(Self(known))
    }

    /// Of several that fit, the one that began last: it was made to replace the others.
    fn newest(&self, fits: impl Fn(&(X509, Vec<u8>)) -> bool) -> Option<usize> {
        let fitting = self.0.iter().enumerate().filter(|(_, one)| fits(one));
        let start = |(_, (x509, _)): &(usize, &(X509, Vec<u8>))| unix(x509.not_before()).unwrap_or(i64::MIN);
        // The first of equals, as the file has them.
        fitting.rev().max_by_key(start).map(|(at, _)| at)
    }

    /// The leaf, its issuers, the rest. The leaf issued none of the others, and is no CA's where there is one that is not: self-signed
    /// ones of partners often say that they are.
    ///
    /// # Errors
    /// The subjects of the leaves, if there are several; a certificate and its renewal are one.
    fn leaf_first(self) -> Result<Vec<Vec<u8>>, String> {
        // One of the same name is its renewal, not its work.
        let issued = |x509: &X509, other: &X509| {
            same_name(other.issuer_name(), x509.subject_name()) && !same_name(other.subject_name(), x509.subject_name())
        };
        let is_last = |x509: &X509| !self.0.iter().any(|(other, _)| issued(x509, other));
        let is_leaf = |(x509, der): &(X509, Vec<u8>)| !is_ca(der) && is_last(x509);
        let renews = |x509: &X509, other: &X509| same_name(x509.subject_name(), other.subject_name());
        let leaf = match self.0.iter().find(|one| is_leaf(one)) {
            Some((first, _)) => {
                let renews = |x509: &X509| renews(x509, first) && x509.key_usage() == first.key_usage();
                if self.0.iter().any(|one| is_leaf(one) && !renews(&one.0)) {
                    return Err(subjects(self.0.iter().filter(|one| is_leaf(one))));
                }
                self.newest(|one| is_leaf(one) && renews(&one.0))
            }
            // A CA's certificate was asked for, or a partner's own that calls itself one.
            None => match self.0.iter().find(|(x509, _)| is_last(x509)) {
                Some((first, _)) => {
                    let is_root = |x509: &X509| is_last(x509) && same_name(x509.issuer_name(), x509.subject_name());
                    let renews = |x509: &X509| renews(x509, first) && x509.key_usage() == first.key_usage();
                    if is_root(first) && self.0.iter().any(|(x509, _)| is_root(x509) && !renews(x509)) {
                        return Err(subjects(self.0.iter().filter(|(x509, _)| is_root(x509))));
                    }
                    self.newest(|(x509, _)| is_last(x509) && renews(x509))
                }
                None => None,
            },
        };
        let (mut chain, rest) = self.chain_of(leaf.unwrap_or_default());
        chain.extend(rest);
        Ok(chain)
    }

    /// The leaf with its issuers, and what is left. Of several of one name it is the one whose key has signed.
    fn chain_of(mut self, leaf: usize) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let mut chain = Vec::new();
        let mut next = (leaf < self.0.len()).then_some(leaf);
        while let Some(at) = next {
            let (x509, der) = self.0.remove(at);
            chain.push(der);
            let root = same_name(x509.issuer_name(), x509.subject_name());
            let is_named = |(other, _): &(X509, Vec<u8>)| same_name(other.subject_name(), x509.issuer_name());
            let has_signed = |(other, _): &(X509, Vec<u8>)| other.public_key().is_ok_and(|key| x509.verify(&key).unwrap_or(false));
            let issuer = self.0.iter().position(|other| is_named(other) && has_signed(other));
            next = if root {
                None
            } else {
                issuer.or_else(|| self.0.iter().position(is_named))
            };
        }
        (chain, self.0.into_iter().map(|(_, der)| der).collect())
    }
}
