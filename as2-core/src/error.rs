//! What can be wrong with a message, in the words that go into a disposition (RFC 4130 §7.5, as2.md §5.2).

use std::fmt;

use crate::algorithm::Digest;

/// The kinds of trouble; each has exactly one form on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The signature does not hold under any pinned certificate.
    AuthenticationFailed,
    /// The content's digest is not the signed one.
    IntegrityCheckFailed,
    /// Any trouble after the key unwrap; never told apart (SEC4).
    DecryptionFailed,
    /// Broken, oversized or doubled compression.
    DecompressionFailed,
    /// Less security than agreed, or a forbidden algorithm.
    InsufficientMessageSecurity(Lack),
    /// A Message-ID that cannot be used.
    InvalidMessageId,
    /// AS2-From or AS2-To is unknown.
    UnknownTradingRelationship,
    /// A file name that came before, where the receiver is told to refuse such.
    DuplicateFilename,
    /// A file name that cannot be stored, where the receiver is told to refuse such.
    IllegalFilename,
    /// Anything else, ours included.
    UnexpectedProcessingError,
    /// `failed/Failure: unsupported format`: the receipt protocol that was required is not ours.
    UnsupportedFormat,
    /// `failed/Failure: unsupported MIC-algorithms`.
    UnsupportedMicAlgorithms,
    /// Not the partner's fault: an argument of the caller cannot be used.
    Invalid,
}

impl ErrorKind {
    /// The words after `processed/error: ` or `failed/Failure: `.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::AuthenticationFailed => "authentication-failed",
            ErrorKind::IntegrityCheckFailed => "integrity-check-failed",
            ErrorKind::DecryptionFailed => "decryption-failed",
            ErrorKind::DecompressionFailed => "decompression-failed",
            ErrorKind::InsufficientMessageSecurity(_) => "insufficient-message-security",
            ErrorKind::InvalidMessageId => "invalid-message-id",
            ErrorKind::UnknownTradingRelationship => "unknown-trading-relationship",
            ErrorKind::DuplicateFilename => "duplicate-filename",
            ErrorKind::IllegalFilename => "illegal-filename",
            ErrorKind::UnexpectedProcessingError | ErrorKind::Invalid => "unexpected-processing-error",
            ErrorKind::UnsupportedFormat => "unsupported format",
            ErrorKind::UnsupportedMicAlgorithms => "unsupported MIC-algorithms",
        }
    }
}

/// In what a message is less secure than agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lack {
    /// It is neither signed nor encrypted.
    Both,
    /// It is not signed.
    Signature,
    /// It is not encrypted.
    Encryption,
    /// It is signed by a digest that this partner may not use, as old ones by default.
    Digest(Digest),
    /// It is encrypted by 3DES, which this partner may not use.
    TripleDes,
    /// It uses a digest that nobody may use.
    BrokenDigest,
    /// It uses a cipher that nobody may use.
    BrokenCipher,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lack::Both => "neither signed nor encrypted",
            Lack::Signature => "not signed",
            Lack::Encryption => "not encrypted",
            Lack::Digest(digest) => return write!(f, "{digest} is not allowed"),
            Lack::TripleDes => "3DES is not allowed",
            Lack::BrokenDigest => "a digest that is never allowed",
            Lack::BrokenCipher => "a cipher that is never allowed",
        })
    }
}

impl From<Lack> for Error {
    fn from(lack: Lack) -> Self {
        Error::new(ErrorKind::InsufficientMessageSecurity(lack), lack.to_string())
    }
}

/// One trouble: its kind for the partner, its detail for our own log only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What the partner is told.
    pub kind: ErrorKind,
    /// What we log; it may hold what a partner must not learn.
    pub detail: String,
}

impl Error {
    /// A trouble of this kind.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Error {
            kind,
            detail: detail.into(),
        }
    }

    /// An argument of the caller cannot be used.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Error::new(ErrorKind::Invalid, detail)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == ErrorKind::Invalid {
            f.write_str(&self.detail)
        } else {
            write!(f, "{}: {}", self.kind.as_str(), self.detail)
        }
    }
}

impl std::error::Error for Error {}

impl From<openssl::error::ErrorStack> for Error {
    fn from(error: openssl::error::ErrorStack) -> Self {
        Error::new(ErrorKind::UnexpectedProcessingError, error.to_string())
    }
}
