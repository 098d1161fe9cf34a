//! Keys and certificates at rest.
//!
//! In reading order: [`MasterKey`] seals everything secret; [`generate`] makes identities and requests for
//! certificates; [`mod@import`] and [`mod@export`] carry certificates and keys across the border in the formats people have;
//! [`info`] shows them; [`dir`] writes the three Java-readable stores of an account; [`ssh`] makes and reads SSH host keys and
//! users' keys; [`otp`] has the codes of authenticator apps.
//!
//! The crate knows no AS2, HTTP or SFTP packets and reads no clock. Files are touched only by [`MasterKey::load`],
//! [`MasterKey::create`] and [`dir`]. Certificates and keys cross its border as DER bytes, SSH keys as OpenSSH text.

mod der;
mod error;
mod jks;
mod pem;
mod pkcs12;

pub mod dir;
pub mod export;
pub mod generate;
pub mod import;
pub mod info;
pub mod otp;
pub mod secret;
pub mod ssh;

pub use dir::{Locked, StoreEntry, StoreFormat, StorePasswords, Stores, TrustEntry};
pub use error::{Error, Format, Result};
pub use export::{pkcs12, to_pem};
pub use generate::{KeyPair, KeySpec, Subject, identity, request};
pub use import::{Imported, import, import_alias};
pub use info::{CertInfo, of_one_key, uses_without_encryption};
pub use pem::decode_text;
pub use secret::{MasterKey, is_password_hash, new_password, password_hash, password_verify, password_verify_nobody};
