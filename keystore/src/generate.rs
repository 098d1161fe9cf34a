//! New key pairs with a self-signed certificate, as AS2 partners expect them.

use zeroize::Zeroizing;

use crate::error::Result;

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

/// Makes a key and a self-signed certificate, valid from an hour before `now` (Unix seconds) for `days`.
pub fn identity(spec: KeySpec, subject: &Subject, now: i64, days: u32) -> Result<KeyPair> {
    let _ = (spec, subject, now, days);
    todo!()
}
