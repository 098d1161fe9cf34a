//! EnvelopedData (RFC 5652 §6) and AuthEnvelopedData (RFC 5083, 5084): sealing with a known length, opening in one pass.

mod open;
mod recipient;
mod seal;

pub use open::{MAX_CCM_HELD, MAX_TRIALS, OpenPolicy, Opened, Opener};
pub(super) use recipient::{MAX_SKI, Method, Recipient, explicit_digest, mgf1_digest, names_certificate};
pub use seal::{CHUNK, EnvelopePlan, Form, Sealer};

/// RecipientInfos in one message, written or read.
pub const MAX_RECIPIENTS: usize = 64;

#[cfg(test)]
mod tests;
