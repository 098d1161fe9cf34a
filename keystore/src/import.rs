//! Certificates and keys from the files that people have.

use zeroize::Zeroizing;

use crate::error::{Error, Format, Result};

/// What a file held. No `Debug`: the key is secret.
pub struct Imported {
    /// What the file was.
    pub format: Format,
    /// Certificates in DER, the leaf first, then its issuers as far as the file has them, then any others.
    pub certificates: Vec<Vec<u8>>,
    /// The private key, PKCS#8 DER; it belongs to the first certificate, if there is one.
    pub key: Option<Zeroizing<Vec<u8>>>,
}

impl Imported {
    /// The first certificate; an error that says what to do if the file held only a private key.
    pub fn certificate(&self) -> Result<&[u8]> {
        self.certificates
            .first()
            .map(Vec::as_slice)
            .ok_or(Error::KeyWithoutCertificate)
    }

    /// The first certificate and its key; an error that says what to do if either is missing.
    pub fn key_pair(&self) -> Result<(&[u8], &[u8])> {
        let key = self.key.as_ref().ok_or(Error::CertificateWithoutKey)?;
        Ok((self.certificate()?, key.as_slice()))
    }
}

/// Reads PEM, DER, P7B, PKCS#12 or JKS, whichever it is. An expired certificate is no error here.
pub fn import(bytes: &[u8], passphrase: Option<&str>) -> Result<Imported> {
    let _ = (bytes, passphrase);
    todo!()
}

/// Like [`import`], taking the entry `alias` of a store that holds several.
pub fn import_alias(bytes: &[u8], passphrase: Option<&str>, alias: &str) -> Result<Imported> {
    let _ = (bytes, passphrase, alias);
    todo!()
}
