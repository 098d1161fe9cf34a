//! PEM as `ssh-keygen -m PEM` writes it: PKCS#1 for RSA, SEC 1 for ECDSA. Ed25519 has no such form and gets PKCS#8 (RFC 8410).
//!
//! Encryption is the traditional one, AES-128-CBC under an MD5-derived key: weak, but what the clients that still want this
//! format can read. Whoever can should take OpenSSH's format or PPK.

use openssl::pkey::Id;
use openssl::symm::Cipher;
use zeroize::Zeroizing;

use super::private::Private;
use crate::error::{Error, Format, Result};
use crate::import::read_key;

pub(crate) fn read(text: &str, passphrase: Option<&str>) -> Result<Private> {
    let blocks = crate::pem::blocks(text)?;
    if blocks.iter().any(|b| b.label == "DSA PRIVATE KEY") {
        return Err(Error::RefusedKey(super::private::DSA_REFUSED.into()));
    }
    let block = blocks.iter().find(|b| b.label.ends_with("PRIVATE KEY"));
    let block = block.ok_or_else(|| Error::broken(Format::Pem, "it has no private key"))?;
    let key = read_key(block, passphrase)?;
    Private::from_pkey(&key, "")
}

pub(crate) fn write(key: &Private, passphrase: Option<&str>) -> Result<Zeroizing<String>> {
    let key = key.to_pkey()?;
    let cipher = Cipher::aes_128_cbc();
    let pem = match (key.id(), passphrase.map(str::as_bytes)) {
        (Id::RSA, None) => key.rsa().and_then(|k| k.private_key_to_pem()),
        (Id::RSA, Some(p)) => key.rsa().and_then(|k| k.private_key_to_pem_passphrase(cipher, p)),
        (Id::EC, None) => key.ec_key().and_then(|k| k.private_key_to_pem()),
        (Id::EC, Some(p)) => key.ec_key().and_then(|k| k.private_key_to_pem_passphrase(cipher, p)),
        (_, None) => key.private_key_to_pem_pkcs8(),
        (_, Some(p)) => key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), p),
    };
    let pem = Zeroizing::new(pem.map_err(Error::crypto("write a PEM key"))?);
    let text = std::str::from_utf8(&pem).map_err(Error::crypto("write a PEM key"))?;
    Ok(Zeroizing::new(text.to_owned()))
}
