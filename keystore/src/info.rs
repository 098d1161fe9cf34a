//! What a certificate says about itself, for tables and warnings.

use crate::error::Result;

/// A certificate's fields as shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertInfo {
    /// `CN=…, O=…` in the order of the certificate.
    pub subject: String,
    /// The issuer, likewise.
    pub issuer: String,
    /// The subject's common name, if it has one.
    pub common_name: Option<String>,
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
    /// Reads a certificate in DER; tolerant of the odd ones that partners use.
    pub fn from_der(der: &[u8]) -> Result<Self> {
        let _ = der;
        todo!()
    }
}
