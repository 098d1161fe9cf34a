//! The signed attributes (RFC 5652 §11, RFC 6211), and how a time is written in them.

use super::{MAX_ATTRIBUTES, MAX_SIGNATURE};
use crate::cms::ber::{self, Element, Fault};
use crate::cms::oid;
use crate::error::Error;

/// UTCTime has no longer a meaning from 2050-01-01 (RFC 5280 §4.1.2.5.1); Unix seconds.
pub(super) const UTC_TIME_END: i64 = 2_524_608_000;

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

/// `YYMMDDhhmmssZ` for 1970 to 2049.
pub(super) fn utc_time(unix: i64) -> Result<String, Error> {
    if !(0..UTC_TIME_END).contains(&unix) {
        return Err(Error::invalid("the signing time is not in 1970 to 2049"));
    }
    let (mut year, mut days) = (1970, unix / 86_400);
    while days >= year_days(year) {
        days -= year_days(year);
        year += 1;
    }
    let mut month = 1;
    while days >= month_days(year, month) {
        days -= month_days(year, month);
        month += 1;
    }
    let (hour, minute, second) = (unix / 3600 % 24, unix / 60 % 60, unix % 60);
    Ok(format!(
        "{:02}{month:02}{:02}{hour:02}{minute:02}{second:02}Z",
        year % 100,
        days + 1
    ))
}

fn year_days(year: i64) -> i64 {
    if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) {
        366
    } else {
        365
    }
}

fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 => year_days(year) - 337,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}
