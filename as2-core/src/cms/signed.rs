//! SignedData (RFC 5652 §5): the detached signature of `multipart/signed`, and the opaque form on receipt.
//!
//! Nothing that a message brings is trusted: certificates in it are stepped over. Whoever signed is found among the
//! certificates that the caller pinned.

mod attributes;
mod make;
mod opaque;
mod verify;

pub use make::{SignParams, p7s, p7s_len};
pub use opaque::OpaqueVerifier;
pub use verify::{Verified, peek, verify_detached};

/// Bytes of one detached signature.
pub const MAX_P7S: usize = 1 << 20;
/// Certificates that a signature may bring.
pub const MAX_CERTIFICATES: usize = 64;
/// Signed attributes of one SignerInfo.
pub const MAX_ATTRIBUTES: usize = 64;
/// Pinned certificates that are tried.
pub const MAX_PINNED: usize = 64;
/// Bytes of a signature value: the largest RSA modulus.
const MAX_SIGNATURE: usize = crate::cert::MAX_RSA_BITS as usize / 8;

#[cfg(test)]
mod tests;
