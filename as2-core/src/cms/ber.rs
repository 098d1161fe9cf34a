//! A bounded BER reader and the few DER writers that CMS needs (X.690 §8, §10).
//!
//! The reader works on slices and never copies. "More bytes are needed" and "this can never become right" are different
//! answers, so that a structure may be read again when more of it has arrived.

use crate::error::{Error, ErrorKind};

/// Deepest nesting of elements that is followed.
pub(crate) const MAX_DEPTH: u32 = 32;
/// Largest length of one element, in bytes (64 TiB).
pub(crate) const MAX_LENGTH: u64 = 1 << 46;

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const CONSTRUCTED_OCTETS: u8 = 0x24;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// The identifier of a constructed, context-specific element `[n]`.
pub(crate) const fn context(n: u8) -> u8 {
    0xa0 | n
}

/// Why nothing was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Right so far, but the element is not complete.
    NeedMore,
    /// Wrong whatever follows.
    Bad(&'static str),
}

impl Fault {
    /// The fault as seen where no more bytes will come.
    pub(crate) fn into_error(self, kind: ErrorKind) -> Error {
        match self {
            Fault::NeedMore => Error::new(kind, "truncated ASN.1 structure"),
            Fault::Bad(what) => Error::new(kind, what),
        }
    }
}

/// The first bytes of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Class, form and tag in one byte; tags above 30 are refused.
    pub(crate) id: u8,
    /// Bytes of identifier and length.
    pub(crate) size: usize,
    /// Bytes of contents; none for the indefinite form.
    pub(crate) length: Option<u64>,
}

/// Reads the header of the element at the start of `bytes`.
pub(crate) fn header(bytes: &[u8]) -> Result<Header, Fault> {
    let id = *bytes.first().ok_or(Fault::NeedMore)?;
    if id & 0x1f == 0x1f {
        return Err(Fault::Bad("high tag number"));
    }
    let first = *bytes.get(1).ok_or(Fault::NeedMore)?;
    if first < 0x80 {
        return Ok(Header {
            id,
            size: 2,
            length: Some(u64::from(first)),
        });
    }
    if first == 0x80 {
        if id & 0x20 == 0 {
            return Err(Fault::Bad("indefinite length of a primitive element"));
        }
        return Ok(Header { id, size: 2, length: None });
    }
    let count = usize::from(first & 0x7f);
    if count > 8 {
        return Err(Fault::Bad("length of more than 8 bytes"));
    }
    let digits = bytes.get(2..2 + count).ok_or(Fault::NeedMore)?;
    let length = digits.iter().fold(0u64, |sum, digit| sum << 8 | u64::from(*digit));
    if length > MAX_LENGTH {
        return Err(Fault::Bad("length out of bounds"));
    }
    Ok(Header {
        id,
        size: 2 + count,
        length: Some(length),
    })
}

/// Whether `bytes` start with end-of-contents.
fn at_end_of_contents(bytes: &[u8]) -> Result<bool, Fault> {
    match bytes {
        [] | [0] => Err(Fault::NeedMore),
        [0, 0, ..] => Ok(true),
        [0, ..] => Err(Fault::Bad("end-of-contents with a length")),
        _ => Ok(false),
    }
}

/// The size of the whole element at the start of `bytes`.
fn measure(bytes: &[u8], depth: u32) -> Result<usize, Fault> {
    if depth > MAX_DEPTH {
        return Err(Fault::Bad("nested too deeply"));
    }
    let header = header(bytes)?;
    if header.id == 0 {
        return Err(Fault::Bad("end-of-contents without a beginning"));
    }
    if let Some(length) = header.length {
        let length = usize::try_from(length).map_err(|_| Fault::Bad("length out of bounds"))?;
        let end = header.size.checked_add(length).ok_or(Fault::Bad("length out of bounds"))?;
        return if bytes.len() < end { Err(Fault::NeedMore) } else { Ok(end) };
    }
    let mut at = header.size;
    while !at_end_of_contents(&bytes[at..])? {
        at += measure(&bytes[at..], depth + 1)?;
    }
    Ok(at + 2)
}

/// One complete element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'a> {
    pub(crate) id: u8,
    /// The contents, without end-of-contents.
    pub(crate) body: &'a [u8],
    /// Everything from the identifier on.
    pub(crate) whole: &'a [u8],
}

impl<'a> Element<'a> {
    /// A reader over the contents.
    pub(crate) fn reader(&self) -> Reader<'a> {
        Reader {
            bytes: self.body,
            at: 0,
            complete: true,
        }
    }

    /// The octets of a string that may be in pieces (X.690 §8.7.3). `limit` is in bytes.
    pub(crate) fn octets(&self, limit: usize) -> Result<Vec<u8>, Fault> {
        let mut octets = Vec::new();
        self.gather(limit, 0, &mut octets)?;
        Ok(octets)
    }

    fn gather(&self, limit: usize, depth: u32, octets: &mut Vec<u8>) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::Bad("nested too deeply"));
        }
        if self.id & 0x20 == 0 {
            if octets.len() + self.body.len() > limit {
                return Err(Fault::Bad("octet string too long"));
            }
            octets.extend_from_slice(self.body);
            return Ok(());
        }
        let mut pieces = self.reader();
        while !pieces.is_empty() {
            let piece = pieces.next()?;
            if piece.id & !0x20 != OCTET_STRING {
                return Err(Fault::Bad("an octet string holds something else"));
            }
            piece.gather(limit, depth + 1, octets)?;
        }
        Ok(())
    }

    /// The same value in DER: definite and shortest lengths, strings in one piece, sets in order (X.690 §10, §11.6).
    pub(crate) fn to_der(self) -> Result<Vec<u8>, Fault> {
        self.encode(0)
    }

    fn encode(&self, depth: u32) -> Result<Vec<u8>, Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::Bad("nested too deeply"));
        }
        if self.id & 0x20 == 0 {
            return Ok(tlv(self.id, &[self.body]));
        }
        if self.id == CONSTRUCTED_OCTETS {
            return Ok(tlv(OCTET_STRING, &[&self.octets(usize::MAX)?]));
        }
        let mut children = Vec::new();
        let mut reader = self.reader();
        while !reader.is_empty() {
            children.push(reader.next()?.encode(depth + 1)?);
        }
        if self.id == SET {
            children.sort();
        }
        Ok(tlv(self.id, &children))
    }
}

/// Walks the elements of a slice, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Nothing will be added to `bytes`: what ends too early is wrong, and waiting would not help.
    complete: bool,
}

impl<'a> Reader<'a> {
    /// Over the start of something of which more may come.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader {
            bytes,
            at: 0,
            complete: false,
        }
    }

    fn short(&self, fault: Fault) -> Fault {
        if self.complete && fault == Fault::NeedMore {
            Fault::Bad("an element ends too early")
        } else {
            fault
        }
    }

    /// Bytes read so far.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// The next element whatever it is.
    pub(crate) fn next(&mut self) -> Result<Element<'a>, Fault> {
        let rest = self.rest();
        let header = header(rest).map_err(|fault| self.short(fault))?;
        let size = measure(rest, 0).map_err(|fault| self.short(fault))?;
        let end = if header.length.is_none() { size - 2 } else { size };
        self.at += size;
        Ok(Element {
            id: header.id,
            body: &rest[header.size..end],
            whole: &rest[..size],
        })
    }

    /// The next element, which must have this identifier.
    pub(crate) fn expect(&mut self, id: u8) -> Result<Element<'a>, Fault> {
        match self.rest().first() {
            None => Err(self.short(Fault::NeedMore)),
            Some(found) if *found != id => Err(Fault::Bad("unexpected element")),
            Some(_) => self.next(),
        }
    }

    /// The next element if it has this identifier. At the end of the slice there is none.
    pub(crate) fn optional(&mut self, id: u8) -> Result<Option<Element<'a>>, Fault> {
        if self.rest().first() == Some(&id) {
            self.next().map(Some)
        } else {
            Ok(None)
        }
    }

    /// An octet string in either form, of at most `limit` bytes.
    pub(crate) fn octets(&mut self, limit: usize) -> Result<Vec<u8>, Fault> {
        let element = self.next()?;
        if element.id & !0x20 != OCTET_STRING {
            Err(Fault::Bad("not an octet string"))
        } else {
            element.octets(limit)
        }
    }

    /// Steps into the element that must have this identifier and need not be complete.
    /// Returns the offset of its end, or none for the indefinite form.
    pub(crate) fn open(&mut self, id: u8) -> Result<Option<u64>, Fault> {
        let header = header(self.rest())?;
        if header.id != id {
            return Err(Fault::Bad("unexpected element"));
        }
        self.at += header.size;
        Ok(header.length.map(|length| self.at as u64 + length))
    }

    /// Steps over the header of whatever comes next.
    pub(crate) fn open_any(&mut self) -> Result<Header, Fault> {
        let header = header(self.rest())?;
        self.at += header.size;
        Ok(header)
    }

    /// Steps out of an element that was opened, `base` bytes before this slice: its end must be here.
    pub(crate) fn close(&mut self, base: u64, end: Option<u64>) -> Result<(), Fault> {
        match end {
            Some(end) if base + self.at as u64 == end => Ok(()),
            Some(_) => Err(Fault::Bad("an element does not end where it says")),
            None if at_end_of_contents(self.rest())? => {
                self.at += 2;
                Ok(())
            }
            None => Err(Fault::Bad("unexpected element")),
        }
    }

    /// Nothing may follow.
    pub(crate) fn finish(&self) -> Result<(), Fault> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(Fault::Bad("unexpected element at the end"))
        }
    }
}

/// Bytes that identifier and definite length take for contents of `length` bytes.
pub(crate) fn header_len(length: u64) -> u64 {
    if length < 0x80 {
        2
    } else {
        2 + u64::from(8 - length.leading_zeros() / 8)
    }
}

/// Bytes of so many octets in primitive strings of `piece` each, the last one shorter.
pub(crate) fn pieces_len(octets: u64, piece: u64) -> u64 {
    let last = octets % piece;
    octets / piece * (header_len(piece) + piece) + if last > 0 { header_len(last) + last } else { 0 }
}

/// Writes identifier and definite length.
pub(crate) fn put_header(out: &mut Vec<u8>, id: u8, length: u64) {
    out.push(id);
    let digits = length.to_be_bytes();
    if length < 0x80 {
        out.push(digits[7]);
    } else {
        let skip = (length.leading_zeros() / 8) as usize;
        out.push(0x80 | digits[skip..].len() as u8);
        out.extend_from_slice(&digits[skip..]);
    }
}

/// One element of these parts.
pub(crate) fn tlv(id: u8, parts: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.as_ref().len()).sum();
    let mut out = Vec::with_capacity(length + 10);
    put_header(&mut out, id, length as u64);
    for part in parts {
        out.extend_from_slice(part.as_ref());
    }
    out
}

/// A SET OF in DER order (X.690 §11.6).
pub(crate) fn set_of(id: u8, mut members: Vec<Vec<u8>>) -> Vec<u8> {
    members.sort();
    tlv(id, &members)
}

/// A small non-negative INTEGER.
pub(crate) fn integer(value: u8) -> Vec<u8> {
    if value < 0x80 {
        vec![INTEGER, 1, value]
    } else {
        vec![INTEGER, 2, 0, value]
    }
}

/// An OBJECT IDENTIFIER of these contents.
pub(crate) fn oid(body: &[u8]) -> Vec<u8> {
    tlv(OID, &[body])
}

/// An AlgorithmIdentifier: the parameters are given encoded, and empty when absent.
pub(crate) fn algorithm(body: &[u8], parameters: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, &[oid(body).as_slice(), parameters])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn lengths_agree_with_what_is_written() {
        for length in [0, 1, 127, 128, 255, 256, 65535, 65536, 1 << 24, 1 << 32, MAX_LENGTH] {
            let mut out = Vec::new();
            put_header(&mut out, SEQUENCE, length);
            assert_eq!(out.len() as u64, header_len(length));
            assert_eq!(
                header(&out).unwrap(),
                Header {
                    id: SEQUENCE,
                    size: out.len(),
                    length: Some(length)
                }
            );
        }
    }

    #[test]
    fn hostile_headers_are_refused_and_short_ones_wait() {
        assert_eq!(header(&[0x1f, 1]), Err(Fault::Bad("high tag number")));
        assert_eq!(header(&[0x04, 0x80]), Err(Fault::Bad("indefinite length of a primitive element")));
        assert_eq!(
            header(&[0x30, 0x89, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            Err(Fault::Bad("length of more than 8 bytes"))
        );
        assert_eq!(header(&[0x30, 0x87, 1, 0, 0, 0, 0, 0, 0]), Err(Fault::Bad("length out of bounds")));
        assert_eq!(header(&[0x30, 0x82, 1]), Err(Fault::NeedMore));
        let deep = [0x30, 0x80].repeat(40);
        assert_eq!(Reader::new(&deep).next().err(), Some(Fault::Bad("nested too deeply")));
        assert_eq!(Reader::new(&[0x30, 0x80, 0x04, 1, 7, 0]).next().err(), Some(Fault::NeedMore));
    }

    #[test]
    fn ber_becomes_der() {
        // SET { constructed OCTET STRING "ab", INTEGER 5 with a long-form length }, all indefinite.
        let ber = [0x31, 0x80, 0x24, 0x80, 4, 1, b'a', 4, 1, b'b', 0, 0, 2, 0x81, 1, 5, 0, 0];
        let element = Reader::new(&ber).next().unwrap();
        assert_eq!(element.to_der().unwrap(), [0x31, 7, 2, 1, 5, 4, 2, b'a', b'b']);
    }
}
