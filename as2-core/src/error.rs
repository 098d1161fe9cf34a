//! What can be wrong with a message, in the words that go into a disposition (RFC 4130 §7.5, as2.md §5.2).

use std::fmt;

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
    InsufficientMessageSecurity,
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
            ErrorKind::InsufficientMessageSecurity => "insufficient-message-security",
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
