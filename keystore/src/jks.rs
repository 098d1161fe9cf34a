//! Java's own key store, `JKS`, in and out.
//!
//! Big-endian: magic, version, count, entries (tag, alias, time, key and chain or certificate), then a SHA-1 over password,
//! a fixed text and all of it. Keys are XORed with a chain of SHA-1 hashes, which is weak: we write this form only by
//! setting. The layout is that of OpenJDK's `JavaKeyStore` and `KeyProtector`; `keytool` is the judge in the tests.

use openssl::memcmp;
use openssl::sha::Sha1;
use zeroize::Zeroizing;

use crate::der;
use crate::error::{Error, Format, Result};
use crate::import::{Found, MAX_ENTRIES};
use crate::info::CertInfo;
use crate::secret::random;

pub(crate) const MAGIC: [u8; 4] = [0xfe, 0xed, 0xfe, 0xed];
/// Of the variant for secret keys, which we do not read.
pub(crate) const JCEKS_MAGIC: [u8; 4] = [0xce, 0xce, 0xce, 0xce];
const VERSION: u32 = 2;
const OLD_VERSION: u32 = 1;
const TAG_KEY: u32 = 1;
const TAG_CERTIFICATE: u32 = 2;
const DIGEST_BYTES: usize = 20;
const WHITENER: &[u8] = b"Mighty Aphrodite";
/// 1.3.6.1.4.1.42.2.17.1.1, Sun's key protector.
const KEY_PROTECTOR: [u8; 10] = [0x2b, 0x06, 0x01, 0x04, 0x01, 0x2a, 0x02, 0x11, 0x01, 0x01];
const FORMAT: Format = Format::Jks;

/// Everything in the file, in its order. Without a passphrase the certificates can be read, the keys cannot.
pub(crate) fn read(bytes: &[u8], passphrase: Option<&str>) -> Result<Found> {
    let body = check_digest(bytes, passphrase)?;
    let mut input = Input(body);
    if input.bytes(4)? != MAGIC {
        return Err(Error::broken(FORMAT, "it does not start as a key store"));
    }
    let version = input.number()?;
    if version != VERSION && version != OLD_VERSION {
        return Err(Error::broken(FORMAT, format!("its version is {version}")));
    }
    let count = input.number()?;
    if usize::try_from(count).unwrap_or(usize::MAX) > MAX_ENTRIES {
        return Err(Error::broken(FORMAT, format!("it has more than {MAX_ENTRIES} entries")));
    }
    let mut found = Found::new(FORMAT);
    for _ in 0..count {
        read_entry(&mut input, version, passphrase, &mut found)?;
    }
    Ok(found)
}

fn read_entry(input: &mut Input<'_>, version: u32, passphrase: Option<&str>, found: &mut Found) -> Result<()> {
    let tag = input.number()?;
    let alias = input.text()?;
    input.bytes(8)?; // when it was made
    match tag {
        TAG_KEY => {
            let protected = input.block()?;
            let passphrase = passphrase.ok_or(Error::PassphraseNeeded(FORMAT))?;
            found.add_key(alias.clone(), unprotect(protected, passphrase, &alias));
            let chain = input.number()?;
            for _ in 0..chain {
                let certificate = input.certificate(version)?;
                found.add_certificate(alias.clone(), certificate.to_vec());
                if found.len() > MAX_ENTRIES {
                    return Err(Error::broken(FORMAT, format!("it has more than {MAX_ENTRIES} certificates")));
                }
            }
            Ok(())
        }
        TAG_CERTIFICATE => {
            found.add_certificate(alias, input.certificate(version)?.to_vec());
            Ok(())
        }
        _ => Err(Error::broken(FORMAT, format!("an entry is of the unknown kind {tag}"))),
    }
}

fn check_digest<'a>(bytes: &'a [u8], passphrase: Option<&str>) -> Result<&'a [u8]> {
    let body = bytes.len().checked_sub(DIGEST_BYTES).and_then(|n| bytes.split_at_checked(n));
    let (body, digest) = body.ok_or_else(|| Error::broken(FORMAT, "it is cut off"))?;
    match passphrase {
        Some(passphrase) if !memcmp::eq(&store_digest(passphrase, body), digest) => Err(Error::WrongPassphrase(FORMAT)),
        _ => Ok(body),
    }
}

fn store_digest(passphrase: &str, body: &[u8]) -> [u8; DIGEST_BYTES] {
    sha1(&[&wide(passphrase), WHITENER, body])
}

/// Java's characters: UTF-16, big-endian.
fn wide(passphrase: &str) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(passphrase.len() * 2));
    for unit in passphrase.encode_utf16() {
        out.extend_from_slice(&unit.to_be_bytes());
    }
    out
}

fn sha1(parts: &[&[u8]]) -> [u8; DIGEST_BYTES] {
    let mut hash = Sha1::new();
    for part in parts {
        hash.update(part);
    }
    hash.finish()
}

/// The key stream: each hash is over the passphrase and the hash before it, starting from the salt.
fn xor(data: &[u8], passphrase: &[u8], salt: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(data.len()));
    let mut pad = sha1(&[passphrase, salt]);
    for chunk in data.chunks(DIGEST_BYTES) {
        out.extend(chunk.iter().zip(pad).map(|(a, b)| a ^ b));
        pad = sha1(&[passphrase, &pad]);
    }
    out
}

fn unprotect(protected: &[u8], passphrase: &str, alias: &str) -> Result<Zeroizing<Vec<u8>>> {
    let broken = || Error::broken(FORMAT, "a private key in it is not protected as JKS does");
    let outer = der::first(protected).and_then(|e| e.children()).ok_or_else(broken)?;
    let [algorithm, sealed] = outer.as_slice() else {
        return Err(broken());
    };
    let oid = algorithm.child(0).ok_or_else(broken)?;
    if oid.content != KEY_PROTECTOR || sealed.tag != der::OCTET_STRING {
        return Err(broken());
    }
    let (salt, rest) = sealed.content.split_at_checked(DIGEST_BYTES).ok_or_else(broken)?;
    let body = rest.len().checked_sub(DIGEST_BYTES).ok_or_else(broken)?;
    let (body, check) = rest.split_at_checked(body).ok_or_else(broken)?;
    let passphrase = wide(passphrase);
    let key = xor(body, &passphrase, salt);
    if memcmp::eq(&sha1(&[&passphrase, &key]), check) {
        Ok(key)
    } else {
        // The store's digest was right: the key has a passphrase of its own.
        Err(Error::Unsupported(format!(
            "the key {alias:?} of the JKS file has a passphrase of its own; give it that of the store: keytool -keypasswd \
             -alias {alias:?} -keystore FILE"
        )))
    }
}

fn protect(pkcs8: &[u8], passphrase: &str) -> Result<Vec<u8>> {
    let mut salt = [0; DIGEST_BYTES];
    random(&mut salt)?;
    let passphrase = wide(passphrase);
    let check = sha1(&[&passphrase, pkcs8]);
    let sealed = der::encode(der::OCTET_STRING, &[&salt, &xor(pkcs8, &passphrase, &salt), &check]);
    let oid = der::encode(der::OID, &[&KEY_PROTECTOR]);
    let algorithm = der::encode(der::SEQUENCE, &[&oid, &[5, 0]]);
    Ok(der::encode(der::SEQUENCE, &[&algorithm, &sealed]))
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let cut = self.0.split_at_checked(count);
        let (taken, rest) = cut.ok_or_else(|| Error::broken(FORMAT, "it is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32> {
        let bytes = self.bytes(4)?;
        Ok(bytes.iter().fold(0, |sum, b| sum << 8 | u32::from(*b)))
    }

    fn block(&mut self) -> Result<&'a [u8]> {
        let count = self.number()?;
        self.bytes(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// Java's "modified UTF-8", which is UTF-8 for all that an alias should hold.
    fn text(&mut self) -> Result<String> {
        let count = self.bytes(2)?.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
        Ok(String::from_utf8_lossy(self.bytes(count)?).into_owned())
    }

    fn certificate(&mut self, version: u32) -> Result<&'a [u8]> {
        if version == VERSION && self.text()? != "X.509" {
            return Err(Error::broken(FORMAT, "a certificate in it is not X.509"));
        }
        self.block()
    }
}

/// Collects entries and writes them as one file.
#[derive(Default)]
pub(crate) struct Writer {
    entries: Vec<u8>,
    count: u32,
}

impl Writer {
    /// The passphrase of the key must be that of the store, or Java's tools ask for two.
    pub(crate) fn add_key(&mut self, alias: &str, pkcs8: &[u8], chain: &[Vec<u8>], passphrase: &str) -> Result<()> {
        self.begin(TAG_KEY, alias, chain.first())?;
        self.block(&protect(pkcs8, passphrase)?)?;
        self.number(chain.len())?;
        chain.iter().try_for_each(|der| self.certificate(der))
    }

    pub(crate) fn add_certificate(&mut self, alias: &str, der: &[u8]) -> Result<()> {
        self.begin(TAG_CERTIFICATE, alias, Some(der))?;
        self.certificate(der)
    }

    pub(crate) fn write(self, passphrase: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len() + 32);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
        out.extend_from_slice(&self.entries);
        let digest = store_digest(passphrase, &out);
        out.extend_from_slice(&digest);
        out
    }

    fn begin(&mut self, tag: u32, alias: &str, certificate: Option<impl AsRef<[u8]>>) -> Result<()> {
        self.count = self.count.saturating_add(1);
        self.entries.extend_from_slice(&tag.to_be_bytes());
        // Java compares aliases in lower case and keeps them so.
        self.text(&alias.to_lowercase())?;
        // `keytool` shows this as the day of creation; the certificate's start is the best we know without a clock.
        let info = certificate.and_then(|der| CertInfo::from_der(der.as_ref()).ok());
        let created = info.map_or(0, |info| info.not_before).saturating_mul(1000);
        self.entries.extend_from_slice(&created.to_be_bytes());
        Ok(())
    }

    fn certificate(&mut self, der: &[u8]) -> Result<()> {
        self.text("X.509")?;
        self.block(der)
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let length = u16::try_from(text.len()).map_err(|_| too_long())?;
        self.entries.extend_from_slice(&length.to_be_bytes());
        self.entries.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn block(&mut self, bytes: &[u8]) -> Result<()> {
        self.number(bytes.len())?;
        self.entries.extend_from_slice(bytes);
        Ok(())
    }

    fn number(&mut self, number: usize) -> Result<()> {
        let number = u32::try_from(number).map_err(|_| too_long())?;
        self.entries.extend_from_slice(&number.to_be_bytes());
        Ok(())
    }
}

fn too_long() -> Error {
    Error::Unsupported("an alias or entry is too long for a JKS file".into())
}
