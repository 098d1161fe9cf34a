//! Certificates and keys to files for people.

use zeroize::Zeroizing;

use crate::error::Result;

/// DER as PEM; `label` is `CERTIFICATE`, `PRIVATE KEY` and the like.
pub fn to_pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let _ = (label, der);
    todo!()
}

/// A PKCS#12 file of one key and its chain (leaf first) under a person's password.
pub fn pkcs12(
    alias: &str,
    pkcs8: &[u8],
    chain: &[Vec<u8>],
    password: &str,
) -> Result<Zeroizing<Vec<u8>>> {
    let _ = (alias, pkcs8, chain, password);
    todo!()
}
