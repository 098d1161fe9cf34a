//! SSH keys: host keys, keys made for users, public keys that users give us, and conversion between their file formats.

use std::net::IpAddr;

use zeroize::Zeroizing;

use crate::error::Result;

/// Kinds of keys that we make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyKind {
    /// Ed25519: the default.
    #[default]
    Ed25519,
    /// ECDSA on NIST P-256.
    Ecdsa,
    /// RSA, 3072 bits.
    Rsa,
}

/// File formats of private keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyFormat {
    /// `-----BEGIN OPENSSH PRIVATE KEY-----`: the default.
    #[default]
    Openssh,
    /// The traditional PEM of OpenSSL (PKCS#1, SEC 1); Ed25519, which has none, as PKCS#8.
    Pem,
    /// PuTTY ≥ 0.75.
    Ppk3,
    /// Older PuTTY and WinSCP.
    Ppk2,
}

/// A server's key. No `Debug`: it is secret.
pub struct HostKey {
    /// The private key, OpenSSH format without passphrase.
    pub private: Zeroizing<String>,
    /// `ssh-ed25519 AAAA…`.
    pub public_line: String,
    /// `SHA256:…`.
    pub fingerprint: String,
}

/// A private key's file for a user. No `Debug`: it is secret.
pub struct KeyFile {
    /// The private key's text in the format asked for.
    pub private: Zeroizing<String>,
    /// The public half, `ssh-ed25519 AAAA… comment`.
    pub public_line: String,
    /// `SHA256:…`.
    pub fingerprint: String,
    /// `id_ed25519`, `id_rsa.ppk`…
    pub file_name_hint: String,
}

/// A public key that a user may log in with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Algorithm and base64, normalised, without options and comment.
    pub line: String,
    /// `ssh-ed25519`, `ecdsa-sha2-nistp256`, `ssh-rsa`, `sk-ssh-ed25519@openssh.com`…
    pub algorithm: String,
    /// Bits of the key: 256, 384, 521, 2048…
    pub bits: u32,
    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fingerprint: String,
    /// The comment, often empty.
    pub comment: String,
    /// What `authorized_keys` options restrict.
    pub options: KeyOptions,
}

/// The `authorized_keys` options that we honour.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyOptions {
    /// `from=`: addresses, CIDR ranges, patterns; empty allows any.
    pub from: Vec<String>,
    /// `expiry-time=` in Unix seconds; a time without `Z` is read as UTC.
    pub expiry_time: Option<i64>,
}

impl KeyOptions {
    /// Whether `from=` lets this address in.
    pub fn allows(&self, address: IpAddr) -> bool {
        let _ = address;
        todo!()
    }
}

/// A new host key.
pub fn host_key(kind: KeyKind) -> Result<HostKey> {
    let _ = kind;
    todo!()
}

/// A new key for a user. The private half exists only in what this returns.
pub fn user_key(
    kind: KeyKind,
    format: KeyFormat,
    passphrase: Option<&str>,
    comment: &str,
) -> Result<KeyFile> {
    let _ = (kind, format, passphrase, comment);
    todo!()
}

/// Reads public keys: `.pub` files, `authorized_keys` text, RFC 4716.
pub fn parse_public(text: &str) -> Result<Vec<PublicKey>> {
    let _ = text;
    todo!()
}

/// Reads a private key in any of our formats and writes it in another.
pub fn convert(
    text: &str,
    passphrase: Option<&str>,
    to: KeyFormat,
    new_passphrase: Option<&str>,
) -> Result<KeyFile> {
    let _ = (text, passphrase, to, new_passphrase);
    todo!()
}

/// What a private or public key file is, without its secret part.
pub fn show(text: &str, passphrase: Option<&str>) -> Result<Vec<PublicKey>> {
    let _ = (text, passphrase);
    todo!()
}

/// A public key in the form of RFC 4716, as `PuTTYgen` saves it.
pub fn to_rfc4716(key: &PublicKey) -> String {
    let _ = key;
    todo!()
}
