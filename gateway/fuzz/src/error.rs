//! In place of as2-core's errors, which would bring OpenSSL along.

#[derive(Debug)]
pub struct Error;

#[derive(Debug)]
pub enum ErrorKind {
    UnexpectedProcessingError,
}

impl Error {
    pub fn new(_: ErrorKind, _: impl Into<String>) -> Self {
        Error
    }

    pub fn invalid(_: impl Into<String>) -> Self {
        Error
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("invalid")
    }
}
