//! AS2 (RFC 4130) itself: what goes on the wire, what may come from it, and what it proves.
//!
//! No I/O, no clock, no async: bytes in, bytes out, in constant memory. Time, random bytes and limits are arguments.

pub mod algorithm;
pub mod cert;
pub mod cms;
mod crypto;
mod error;

pub use error::{Error, ErrorKind};
