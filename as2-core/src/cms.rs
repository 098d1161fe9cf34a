//! The Cryptographic Message Syntax as AS2 uses it (RFC 5652, 5083, 3274), in constant memory.

use crate::cms::ber::Reader;

mod agreement;
pub(crate) mod ber;
pub mod compressed;
pub mod enveloped;
mod octets;
pub(crate) mod oid;
pub mod signed;
#[cfg(test)]
pub(crate) mod testkit;

pub use compressed::{Compressor, Deflater, Inflater, compressed_prefix};
pub use enveloped::{EnvelopePlan, Form, OpenPolicy, Opened, Opener, Sealer};
pub use signed::{OpaqueVerifier, SignParams, Verified, p7s, p7s_len, peek, verify_detached};

/// Bytes of a message that are enough for [`content_type_of`].
pub const CONTENT_TYPE_PREFIX: usize = 64;

/// The kinds of CMS content that AS2 knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentKind {
    /// SignedData (RFC 5652 §5).
    Signed,
    /// EnvelopedData (RFC 5652 §6).
    Enveloped,
    /// AuthEnvelopedData (RFC 5083).
    AuthEnveloped,
    /// CompressedData (RFC 3274).
    Compressed,
}

/// Tells a ContentInfo by its outer OID. None if there are not enough bytes or it is no CMS; [`CONTENT_TYPE_PREFIX`] bytes,
/// or the whole message where it is shorter, are always enough.
#[must_use]
pub fn content_type_of(prefix: &[u8]) -> Option<ContentKind> {
    let mut reader = Reader::new(prefix);
    reader.open(ber::SEQUENCE).ok()?;
    let kind = reader.expect(ber::OID).ok()?.body;
    match kind {
        oid::SIGNED_DATA => Some(ContentKind::Signed),
        oid::ENVELOPED_DATA => Some(ContentKind::Enveloped),
        oid::AUTH_ENVELOPED_DATA => Some(ContentKind::AuthEnveloped),
        oid::COMPRESSED_DATA => Some(ContentKind::Compressed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_a_prefix() {
        let message = compressed_prefix(5_000_000);
        assert_eq!(
            content_type_of(&message[..CONTENT_TYPE_PREFIX.min(message.len())]),
            Some(ContentKind::Compressed)
        );
        assert_eq!(content_type_of(&message[..10]), None);
        assert_eq!(content_type_of(b"Content-Type: text/plain\r\n"), None);
        let indefinite = [&[0x30, 0x80][..], &ber::oid(oid::ENVELOPED_DATA)].concat();
        assert_eq!(content_type_of(&indefinite), Some(ContentKind::Enveloped));
    }
}
