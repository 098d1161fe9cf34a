//! SSH keys: host keys, keys made for users, public keys that users give us, and conversion between their file formats.
//!
//! One `Private` stands between the formats, each of which has a file here: OpenSSH's own, PEM and
//! PuTTY's. Public keys come as text in whatever form people have and leave as one normalised line.

mod krl;
mod openssh;
mod options;
mod ppk;
mod private;
mod public;
mod revocation;
mod rfc4716;
mod traditional;
mod wire;

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

pub use options::KeyOptions;
pub use public::{MAX_PUBLIC_KEY, MAX_PUBLIC_KEYS, MAX_PUBLIC_TEXT, RSA_BITS, parse_public};
pub use revocation::Revocations;

use crate::error::{Error, Result};
use crate::import::check_passphrase;
use ppk::PpkVersion;
use private::Private;

/// Largest private key file read.
pub const MAX_PRIVATE_TEXT: usize = 64 * 1024;
/// Longest comment written into a key file.
pub const MAX_COMMENT_BYTES: usize = 255;
const OPENSSH_LABEL: &str = "OPENSSH PRIVATE KEY";

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

impl KeyKind {
    /// The name in commands and configuration.
    pub fn name(self) -> &'static str {
        match self {
            KeyKind::Ed25519 => "ed25519",
            KeyKind::Ecdsa => "ecdsa",
            KeyKind::Rsa => "rsa",
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeyKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let kinds = [KeyKind::Ed25519, KeyKind::Ecdsa, KeyKind::Rsa];
        let found = kinds.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| Error::Unsupported(format!("no SSH key type {text:?}; give ed25519, ecdsa or rsa")))
    }
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

impl KeyFormat {
    /// The name in commands.
    pub fn name(self) -> &'static str {
        match self {
            KeyFormat::Openssh => "openssh",
            KeyFormat::Pem => "pem",
            KeyFormat::Ppk3 => "ppk",
            KeyFormat::Ppk2 => "ppk2",
        }
    }
}

impl fmt::Display for KeyFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeyFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "openssh" => Ok(KeyFormat::Openssh),
            "pem" => Ok(KeyFormat::Pem),
            "ppk" | "ppk3" => Ok(KeyFormat::Ppk3),
            "ppk2" => Ok(KeyFormat::Ppk2),
            _ => Err(Error::Unsupported(format!(
                "no key format {text:?}; give openssh, pem, ppk or ppk2"
            ))),
        }
    }
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

/// A new host key.
///
/// # Errors
/// [`Error::Crypto`]: the library failed.
pub fn host_key(kind: KeyKind) -> Result<HostKey> {
    let key = Private::generate(kind, "")?;
    let blob = key.public_blob();
    Ok(HostKey {
        private: openssh::write(&key, None)?,
        public_line: format!("{} {}", key.algorithm(), STANDARD.encode(&blob)),
        fingerprint: public::fingerprint(&blob),
    })
}

/// A new key for a user. The private half exists only in what this returns.
///
/// # Errors
/// [`Error::Unsupported`]: a comment of more than one line, or a format that cannot hold such a key; [`Error::BadPassphrase`];
/// [`Error::Crypto`].
pub fn user_key(kind: KeyKind, format: KeyFormat, passphrase: Option<&str>, comment: &str) -> Result<KeyFile> {
    if comment.len() > MAX_COMMENT_BYTES || comment.chars().any(char::is_control) {
        return Err(Error::Unsupported(format!(
            "the comment of a key is one line of at most {MAX_COMMENT_BYTES} bytes; shorten it"
        )));
    }
    // Before the key is made: RSA takes its time.
    check_new_passphrase(passphrase)?;
    write(&Private::generate(kind, comment)?, format, passphrase)
}

/// Reads a private key in any of our formats and writes it in another.
///
/// # Errors
/// Those of reading it ([`Error::PassphraseNeeded`], [`Error::WrongPassphrase`], [`Error::PublicKeyGiven`], [`Error::Broken`],
/// [`Error::TooLarge`] above [`MAX_PRIVATE_TEXT`] bytes), and those of [`user_key`].
pub fn convert(text: &str, passphrase: Option<&str>, to: KeyFormat, new_passphrase: Option<&str>) -> Result<KeyFile> {
    check_new_passphrase(new_passphrase)?;
    write(&read(text, passphrase)?, to, new_passphrase)
}

/// What a private or public key file is, without its secret part. Encrypted PEM files need their passphrase; the others have
/// their public half in the clear.
///
/// # Errors
/// Those of reading a private key, as for [`convert`], or of [`parse_public`].
pub fn show(text: &str, passphrase: Option<&str>) -> Result<Vec<PublicKey>> {
    let (blob, comment) = match kind_of(text) {
        None => return parse_public(text),
        Some(_) if text.len() > MAX_PRIVATE_TEXT => return Err(too_large()),
        Some(FileKind::Ppk) => ppk::read_public(text)?,
        Some(FileKind::Openssh) if passphrase.is_none() => (openssh::read_public_blob(text)?, String::new()),
        Some(_) => {
            let key = read(text, passphrase)?;
            (key.public_blob(), key.comment)
        }
    };
    let key = public::describe(&blob, &comment, KeyOptions::default());
    key.map(|key| vec![key]).map_err(Error::RefusedKey)
}

/// A public key in the form of RFC 4716, as `PuTTYgen` saves it.
pub fn to_rfc4716(key: &PublicKey) -> String {
    let body = key.line.split_once(' ').map_or("", |(_, body)| body);
    let blob = STANDARD.decode(body).unwrap_or_default();
    rfc4716::write(&blob, &key.comment)
}

fn write(key: &Private, format: KeyFormat, passphrase: Option<&str>) -> Result<KeyFile> {
    let private = match format {
        KeyFormat::Openssh => openssh::write(key, passphrase)?,
        KeyFormat::Pem => traditional::write(key, passphrase)?,
        KeyFormat::Ppk3 => ppk::write(key, passphrase, PpkVersion::V3)?,
        KeyFormat::Ppk2 => ppk::write(key, passphrase, PpkVersion::V2)?,
    };
    let blob = key.public_blob();
    let line = format!("{} {} {}", key.algorithm(), STANDARD.encode(&blob), key.comment);
    Ok(KeyFile {
        private,
        public_line: line.trim_end().to_owned(),
        fingerprint: public::fingerprint(&blob),
    })
}

/// Formats of a private key's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Openssh,
    Pem,
    Ppk,
    /// Of ssh.com, or of SSH 1.
    Foreign,
}

fn kind_of(text: &str) -> Option<FileKind> {
    text.lines().map(str::trim).find_map(|line| {
        if line.starts_with(ppk::MARK) || line.starts_with("Private-Lines:") {
            return Some(FileKind::Ppk);
        }
        if line.starts_with("SSH PRIVATE KEY FILE FORMAT") {
            return Some(FileKind::Foreign);
        }
        match line.trim_start_matches('-').trim_start().strip_prefix("BEGIN ") {
            Some(label) if !line.starts_with("----") || !label.contains("PRIVATE KEY") => None,
            Some(label) if label.contains("OPENSSH") => Some(FileKind::Openssh),
            Some(label) if label.contains("SSH2") => Some(FileKind::Foreign),
            Some(_) => Some(FileKind::Pem),
            None => None,
        }
    })
}

/// Whether a text is, or has in it, a private key in any form that we know, complete or not.
fn is_private(text: &str) -> bool {
    // The base64 of "openssh-key-v1": the body pasted without its first line.
    const OPENSSH_BODY: &str = "b3BlbnNzaC1rZXktdjE";
    let body = |line: &str| line.trim_start().starts_with(OPENSSH_BODY);
    kind_of(text).is_some() || text.contains("PRIVATE KEY-----") || text.lines().any(body)
}

fn read(text: &str, passphrase: Option<&str>) -> Result<Private> {
    if text.len() > MAX_PRIVATE_TEXT {
        return Err(too_large());
    }
    check_passphrase(passphrase)?;
    let text = text.trim_start_matches('\u{feff}');
    let read = match kind_of(text) {
        Some(FileKind::Openssh) => openssh::read(text, passphrase),
        Some(FileKind::Pem) => traditional::read(text, passphrase),
        Some(FileKind::Ppk) => ppk::read(text, passphrase),
        Some(FileKind::Foreign) => Err(Error::Unsupported(
            "this private key is in the format of ssh.com or of SSH 1; save it with PuTTYgen as .ppk or OpenSSH".into(),
        )),
        None if text.trim().is_empty() => Err(Error::Empty),
        None if parse_public(text).is_ok() => Err(Error::PublicKeyGiven),
        None => Err(Error::Unsupported(
            "this is no private key; give one in OpenSSH, PEM or PuTTY format".into(),
        )),
    };
    read.map(|mut key| {
        // What is written is made of lines: a comment of several would be a second key, or a header of a PuTTY file.
        key.comment.retain(|c| !c.is_control());
        key
    })
}

fn too_large() -> Error {
    Error::TooLarge {
        what: "private key",
        limit: MAX_PRIVATE_TEXT,
    }
}

fn check_new_passphrase(passphrase: Option<&str>) -> Result<()> {
    match passphrase {
        Some("") => Err(Error::BadPassphrase("it is empty; give one, or ask for a key without passphrase")),
        other => check_passphrase(other),
    }
}
