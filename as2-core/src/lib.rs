//! AS2 (RFC 4130) itself: what goes on the wire, what may come from it, and what it proves.
//!
//! No I/O, no clock, no async: bytes in, bytes out, in constant memory. Time, random bytes and limits are arguments.

pub mod algorithm;
pub mod cert;
pub mod cms;
pub mod compose;
mod crypto;
mod date;
pub mod disposition;
mod error;
pub mod headers;
pub mod helper;
mod hex;
pub mod id;
pub mod kernel;
pub mod mdn;
pub mod message_id;
pub mod mic;
mod mime;
pub mod receipt;
pub mod receive;

pub use error::{Error, ErrorKind, Lack};
pub use hex::hex;
pub use mime::{for_people, is_packing};
