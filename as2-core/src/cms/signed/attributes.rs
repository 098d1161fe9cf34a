//! The signed attributes (RFC 5652 §11, RFC 6211).

use super::{MAX_ATTRIBUTES, MAX_SIGNATURE};
use crate::cms::ber::{self, Element, Fault};
use crate::cms::oid;

/// The signed attributes that count.
pub(super) struct Attributes<'a> {
    pub(super) content_type: &'a [u8],
    pub(super) message_digest: Vec<u8>,
    pub(super) algorithms: Option<Algorithms<'a>>,
}

/// CMSAlgorithmProtection of a signature (RFC 6211 §2): OID and parameters of each algorithm.
pub(super) struct Algorithms<'a> {
    pub(super) digest: (&'a [u8], &'a [u8]),
    pub(super) signature: (&'a [u8], &'a [u8]),
}

impl<'a> Algorithms<'a> {
    fn read(value: &Element<'a>) -> Result<Self, Fault> {
        let algorithm = |element: Element<'a>| -> Result<_, Fault> {
            let mut fields = element.reader();
            Ok((fields.expect(ber::OID)?.body, fields.rest()))
        };
        let mut fields = value.reader();
        let (digest, signature) = (fields.expect(ber::SEQUENCE)?, fields.expect(ber::context(1))?);
        fields.finish()?;
        Ok(Algorithms {
            digest: algorithm(digest)?,
            signature: algorithm(signature)?,
        })
    }
}

impl<'a> Attributes<'a> {
    /// Each at most once and with one value; the first two must be there (RFC 5652 §11).
    pub(super) fn read(element: Element<'a>) -> Result<Self, Fault> {
        let (mut content_type, mut message_digest, mut time, mut algorithms) = (None, None, None, None);
        let mut attributes = element.reader();
        let mut count = 0;
        while !attributes.is_empty() {
            count += 1;
            if count > MAX_ATTRIBUTES {
                return Err(Fault::Bad("too many signed attributes"));
            }
            let mut attribute = attributes.expect(ber::SEQUENCE)?.reader();
            let kind = attribute.expect(ber::OID)?.body;
            let mut values = attribute.expect(ber::SET)?.reader();
            attribute.finish()?;
            let again = match kind {
                oid::CONTENT_TYPE => content_type.replace(values.expect(ber::OID)?.body).is_some(),
                oid::MESSAGE_DIGEST => message_digest.replace(values.octets(MAX_SIGNATURE)?).is_some(),
                oid::SIGNING_TIME => time.replace(values.next()?).is_some(),
                oid::ALGORITHM_PROTECTION => algorithms.replace(Algorithms::read(&values.expect(ber::SEQUENCE)?)?).is_some(),
                _ => continue,
            };
            if again || !values.is_empty() {
                return Err(Fault::Bad("a signed attribute occurs twice"));
            }
        }
        match (content_type, message_digest) {
            (Some(content_type), Some(message_digest)) => Ok(Attributes {
                content_type,
                message_digest,
                algorithms,
            }),
            _ => Err(Fault::Bad("a signed attribute is missing")),
        }
    }
}
