//! Certificates and keys to files for people.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::error::{Error, Result};

const PEM_LINE: usize = 64;
/// Rounds of the key derivation of a file under a person's password (OWASP's figure for PBKDF2-HMAC-SHA-256).
const PERSONAL_ITERATIONS: u32 = 600_000;

/// DER as PEM; `label` is `CERTIFICATE`, `PRIVATE KEY` and the like.
pub fn to_pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let lines = body.len().div_ceil(PEM_LINE);
    // Of full size from the start: growing would leave copies of a key behind.
    let mut text = String::with_capacity(body.len() + lines + 2 * (label.len() + 20));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    wrap(&mut text, &body, PEM_LINE);
    text.push_str(&format!("-----END {label}-----\n"));
    Zeroizing::new(text)
}

/// Appends ASCII `body` in lines of `width`.
pub(crate) fn wrap(text: &mut String, body: &str, width: usize) {
    let mut rest = body;
    while let Some((line, tail)) = rest.split_at_checked(width.min(rest.len())) {
        if line.is_empty() {
            break;
        }
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
}

/// A PKCS#12 file of one key and its chain (leaf first) under a person's password.
///
/// # Errors
/// [`Error::BadPassphrase`] if the password is empty; [`Error::Crypto`].
pub fn pkcs12(alias: &str, pkcs8: &[u8], chain: &[Vec<u8>], password: &str) -> Result<Zeroizing<Vec<u8>>> {
    if password.is_empty() {
        return Err(Error::BadPassphrase("it is empty; choose one for the exported key"));
    }
    let mut store = crate::pkcs12::Writer::new();
    store.add_key(alias, pkcs8, chain)?;
    store.write(password, PERSONAL_ITERATIONS).map(Zeroizing::new)
}
