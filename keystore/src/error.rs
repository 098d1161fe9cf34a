//! What can go wrong with keys and certificates, in words that say what to do next.
//!
//! No message repeats bytes of its input: a file handed to this crate may be a private key.

use std::fmt;
use std::path::PathBuf;

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A file format, named in errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text with `-----BEGIN …-----` blocks.
    Pem,
    /// A certificate in DER.
    Der,
    /// Certificates in a PKCS#7 container.
    P7b,
    /// PKCS#12, also called PFX.
    Pkcs12,
    /// Java's own key store.
    Jks,
    /// A private key in OpenSSH's format.
    OpenSsh,
    /// A private key in PuTTY's format.
    Ppk,
    /// An SSH public key in any of its forms.
    SshPublic,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Pem => "PEM file",
            Format::Der => "DER file",
            Format::P7b => "P7B file",
            Format::Pkcs12 => "PKCS#12 file",
            Format::Jks => "JKS file",
            Format::OpenSsh => "OpenSSH private key",
            Format::Ppk => "PuTTY private key",
            Format::SshPublic => "SSH public key",
        })
    }
}

/// Why a key, a certificate or a store was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing was given.
    #[error("the file is empty; export the certificate or key again")]
    Empty,
    /// The input passes its named limit.
    #[error("the {what} is larger than {limit} bytes; is it the right file?")]
    TooLarge {
        /// What was given.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// No format was recognised.
    #[error("neither certificate nor key in a known format; give PEM, DER, P7B, PKCS#12 (.p12, .pfx) or JKS")]
    UnknownFormat,
    /// It is encrypted and no passphrase was given.
    #[error("the {0} is protected by a passphrase; give the passphrase too")]
    PassphraseNeeded(Format),
    /// The passphrase does not open it.
    #[error("wrong passphrase for the {0}, or the file is damaged; check the passphrase or export the file again")]
    WrongPassphrase(Format),
    /// The passphrase cannot be used for what is to be written.
    #[error("unusable passphrase: {0}")]
    BadPassphrase(&'static str),
    /// Recognised, but it does not parse.
    #[error("broken {format}: {why}; export the file again")]
    Broken {
        /// The format it was recognised as.
        format: Format,
        /// Where it breaks.
        why: String,
    },
    /// It parses and holds nothing of use.
    #[error("the {0} holds neither a certificate nor a private key; export it with the certificate")]
    NothingInside(Format),
    /// A store of several keys, where one is wanted.
    #[error("the {format} holds several private keys ({aliases}); say which one with --alias NAME")]
    SeveralKeys {
        /// The store's format.
        format: Format,
        /// Their aliases, separated by commas.
        aliases: String,
    },
    /// Certificates of several owners or uses, where one is wanted and no key tells which.
    #[error("the {format} holds several certificates, and none issued another: {subjects}; give a file with only one of them{how}")]
    SeveralCertificates {
        /// The file's format.
        format: Format,
        /// Their subjects, separated by semicolons.
        subjects: String,
        /// What else can be done where they have aliases.
        how: String,
    },
    /// No entry under this alias.
    #[error("the {format} has no entry {wanted:?}; it has: {aliases}")]
    NoSuchAlias {
        /// The store's format.
        format: Format,
        /// The alias asked for.
        wanted: String,
        /// The aliases there are.
        aliases: String,
    },
    /// A private key came where a certificate is wanted.
    #[error("this is a private key without its certificate; give the certificate (.cer, .crt, .pem), or a file with both")]
    KeyWithoutCertificate,
    /// A certificate came where a key pair is wanted.
    #[error(
        "this is a certificate without its private key; give the file with both (.p12, .pfx, .jks, or key and certificate in one .pem)"
    )]
    CertificateWithoutKey,
    /// The private key is of no certificate in the file.
    #[error("the private key in the {0} belongs to none of its certificates; give the key and certificate that were made together")]
    KeyMismatch(Format),
    /// An SSH private key came where a public key is wanted.
    #[error("this is a private key; give the public half (the .pub file)")]
    PrivateKeyGiven,
    /// An SSH public key came where a private key is wanted.
    #[error("this is a public key; give the private key file")]
    PublicKeyGiven,
    /// A key that we do not accept.
    #[error("{0}")]
    RefusedKey(String),
    /// One line of several is refused.
    #[error("line {line}: {reason}")]
    RefusedLine {
        /// The line's number, from 1.
        line: usize,
        /// Why, and what to do.
        reason: String,
    },
    /// A key type or option that a format cannot hold.
    #[error("{0}")]
    Unsupported(String),
    /// A value for a new certificate is out of range.
    #[error("cannot make a certificate: {0}")]
    BadSubject(String),
    /// The master key's file can be read by others.
    #[error("the master key {} can be read by other users of this machine; run: chmod 600 {}", path.display(), path.display())]
    MasterKeyExposed {
        /// Its path.
        path: PathBuf,
    },
    /// The master key's file is not one.
    #[error("the master key {} is not 64 hexadecimal digits; restore it from the backup", path.display())]
    MasterKeyBroken {
        /// Its path.
        path: PathBuf,
    },
    /// There is a master key already.
    #[error("the master key {} exists already and is never overwritten", path.display())]
    MasterKeyExists {
        /// Its path.
        path: PathBuf,
    },
    /// A sealed record does not open.
    #[error(
        "cannot open the sealed record {context:?}: the master key is another one, or the record is damaged; restore the master key that belongs to this data"
    )]
    Unsealable {
        /// What the record was sealed as.
        context: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The crypto library failed at something that should work.
    #[error("cannot {action}: {why}")]
    Crypto {
        /// What was tried.
        action: &'static str,
        /// The library's words.
        why: String,
    },
}

impl Error {
    pub(crate) fn broken(format: Format, why: impl fmt::Display) -> Self {
        Error::Broken {
            format,
            why: why.to_string(),
        }
    }

    /// For `map_err`: wraps a library's error.
    pub(crate) fn crypto<E: fmt::Display>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |why| Error::Crypto {
            action,
            why: why.to_string(),
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { action, path, source }
    }
}
