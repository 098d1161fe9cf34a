//! PKCS#12 in and out (RFC 7292).
//!
//! `p12-keystore` does the work: it reads what openssl 3 needs its legacy provider for (RC2-40), and it writes the
//! attribute without which `keytool` does not count a bare certificate. What it cannot read (BER, PBMAC1) openssl tries. RC2-128
//! and RC4 neither of them reads.

use openssl::pkcs12::Pkcs12;
use p12_keystore::error::Error as P12Error;
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, Pkcs12Archive, PrivateKey, PrivateKeyChain};
use zeroize::Zeroizing;

use crate::error::{Error, Format, Result};
use crate::import::Found;

const FORMAT: Format = Format::Pkcs12;

/// Everything in the file, in its order.
pub(crate) fn read(bytes: &[u8], passphrase: Option<&str>) -> Result<Found> {
    let password = passphrase.unwrap_or_default();
    let first = match Pkcs12Archive::from_pkcs12(bytes, password) {
        Ok(archive) => return Ok(found(archive)),
        Err(e) => e,
    };
    if let Some(found) = read_by_openssl(bytes, password) {
        return Ok(found);
    }
    Err(match first {
        _ if passphrase.is_none() => Error::PassphraseNeeded(FORMAT),
        P12Error::MacError(_) | P12Error::UnpadError | P12Error::Pkcs5Error(_) => Error::WrongPassphrase(FORMAT),
        // The passphrase was right, or there is nothing that says whether it was.
        _ if let Some(name) = crate::der::unsupported_scheme(bytes) => Error::Unsupported(format!(
            "the PKCS#12 file is encrypted with {name}, which is not read; write it again: openssl pkcs12 -legacy -in FILE \
             -nodes -out ALL.pem, then openssl pkcs12 -export -in ALL.pem -out NEW.p12"
        )),
        P12Error::UnsupportedEncryptionScheme | P12Error::UnsupportedMacAlgorithm => Error::Broken {
            format: FORMAT,
            why: "its encryption is not supported, or the passphrase is wrong".into(),
        },
        e => Error::broken(FORMAT, e),
    })
}

fn found(archive: Pkcs12Archive) -> Found {
    let mut found = Found::new(FORMAT);
    for bag in archive.keys {
        let alias = bag.friendly_name.unwrap_or_default();
        found.add_key(alias, Ok(Zeroizing::new(bag.key.as_der().to_vec())));
    }
    for bag in archive.certs {
        found.add_certificate(bag.friendly_name.unwrap_or_default(), bag.cert.as_der().to_vec());
    }
    found
}

fn read_by_openssl(bytes: &[u8], password: &str) -> Option<Found> {
    let parsed = Pkcs12::from_der(bytes).ok()?.parse2(password).ok()?;
    let mut found = Found::new(FORMAT);
    if let Some(key) = parsed.pkey {
        found.add_key(String::new(), Ok(Zeroizing::new(key.private_key_to_pkcs8().ok()?)));
    }
    let chain = parsed.ca.into_iter().flatten();
    for certificate in parsed.cert.into_iter().chain(chain) {
        found.add_certificate(String::new(), certificate.to_der().ok()?);
    }
    Some(found)
}

/// Collects entries and writes them as one file.
pub(crate) struct Writer(KeyStore);

impl Writer {
    pub(crate) fn new() -> Self {
        Self(KeyStore::new())
    }

    pub(crate) fn add_key(&mut self, alias: &str, pkcs8: &[u8], chain: &[Vec<u8>]) -> Result<()> {
        let key = PrivateKey::from_der(pkcs8).map_err(|e| Error::broken(FORMAT, e))?;
        let chain = chain.iter().map(|der| certificate(der)).collect::<Result<Vec<_>>>()?;
        // Links key and certificate in the file; the alias is unique there.
        let entry = PrivateKeyChain::new(alias, key, chain);
        self.0.add_entry(alias, KeyStoreEntry::PrivateKeyChain(entry));
        Ok(())
    }

    pub(crate) fn add_certificate(&mut self, alias: &str, der: &[u8]) -> Result<()> {
        let entry = KeyStoreEntry::Certificate(certificate(der)?);
        self.0.add_entry(alias, entry);
        Ok(())
    }

    pub(crate) fn write(&self, password: &str, iterations: u32) -> Result<Vec<u8>> {
        let writer = self.0.writer(password).encryption_iterations(iterations).mac_iterations(iterations);
        writer.write().map_err(Error::crypto("write a PKCS#12 file"))
    }
}

fn certificate(der: &[u8]) -> Result<Certificate> {
    Certificate::from_der(der).map_err(|e| Error::broken(Format::Der, e))
}
