//! Header blocks, of HTTP messages and of MIME entities alike: order, case and spelling are kept (as2.md §2).

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use crate::error::{Error, ErrorKind};

/// Largest header block that is read, in bytes (as2.md SEC3).
pub const MAX_BLOCK: usize = 64 * 1024;
/// Most fields of one block.
pub const MAX_FIELDS: usize = 200;
/// Fields that there is room for before a block is read.
const TYPICAL_FIELDS: usize = 20;

/// Where a field lies in the text of its block.
#[derive(Clone)]
struct Field {
    name: Range<usize>,
    /// The value's text, folds joined, outer blanks gone; bytes that are not UTF-8 are read as Latin-1.
    text: Range<usize>,
    /// The bytes as they came, where they were not UTF-8.
    odd: Option<Box<[u8]>>,
}

/// The fields of one header block.
#[derive(Clone, Default)]
pub struct Headers {
    /// Names and values of all fields, of removed ones too: one piece of memory for a block.
    text: String,
    fields: Vec<Field>,
}

impl Headers {
    /// No fields.
    #[must_use]
    pub fn new() -> Self {
        Headers::default()
    }

    /// Reads a block, with or without its final blank line. Lines may end in LF alone; a folded line is joined by one blank
    /// (RFC 9112 §5.2).
    ///
    /// # Errors
    /// Over 64 KiB or 200 fields; a line without a name; NUL or a stray CR inside.
    pub fn parse(block: &[u8]) -> Result<Self, Error> {
        Headers::parse_as(block, token)
    }

    /// The same for MIME entities, where blanks may stand before a colon (RFC 5322 §4.5). In HTTP they may not: two readers could
    /// take such a line for two different fields (RFC 9112 §5.1).
    ///
    /// # Errors
    /// As [`Headers::parse`].
    pub(crate) fn parse_mime(block: &[u8]) -> Result<Self, Error> {
        Headers::parse_as(block, mime_token)
    }

    fn parse_as(block: &[u8], token: fn(&[u8]) -> Result<&str, Error>) -> Result<Self, Error> {
        if block.len() > MAX_BLOCK {
            return Err(bad(format!("a header block of more than {MAX_BLOCK} bytes")));
        }
        let mut headers = Headers {
            text: String::with_capacity(block.len()),
            fields: Vec::with_capacity(TYPICAL_FIELDS),
        };
        let mut last: Option<(&str, Cow<'_, [u8]>)> = None;
        for line in lines(block) {
            if memchr::memchr2(0, b'\r', line).is_some() {
                return Err(bad("NUL or a stray CR in a header".to_owned()));
            }
            if line.is_empty() {
                // Only the end of the block may be empty; there is also one such piece after the last line end.
                if last.is_none() {
                    continue;
                }
                break;
            }
            if line.starts_with(b" ") || line.starts_with(b"\t") {
                let Some((_, value)) = &mut last else {
                    return Err(bad("the first header line is a continuation".to_owned()));
                };
                let value = value.to_mut();
                value.push(b' ');
                value.extend_from_slice(line.trim_ascii());
                continue;
            }
            let colon = memchr::memchr(b':', line).ok_or_else(|| bad("a header line without a colon".to_owned()))?;
            let (name, value) = line.split_at(colon);
            let name = token(name)?;
            if let Some((name, value)) = last.replace((name, value.get(1..).unwrap_or_default().trim_ascii().into())) {
                headers.add(name, &value);
            }
            if headers.fields.len() == MAX_FIELDS {
                return Err(bad(format!("more than {MAX_FIELDS} header fields")));
            }
        }
        if let Some((name, value)) = last {
            headers.add(name, &value);
        }
        Ok(headers)
    }

    /// A field that was looked at.
    fn add(&mut self, name: &str, value: &[u8]) {
        // A value that begins or ends with a fold got a blank there.
        let value = value.trim_ascii();
        let start = self.text.len();
        self.text.push_str(name);
        let middle = self.text.len();
        let odd = match str::from_utf8(value) {
            Ok(text) => {
                self.text.push_str(text);
                None
            }
            Err(_) => {
                self.text.extend(value.iter().map(|&b| char::from(b)));
                Some(value.into())
            }
        };
        self.fields.push(Field {
            name: start..middle,
            text: middle..self.text.len(),
            odd,
        });
    }

    fn name(&self, field: &Field) -> &str {
        self.text.get(field.name.clone()).unwrap_or_default()
    }

    fn text(&self, field: &Field) -> &str {
        self.text.get(field.text.clone()).unwrap_or_default()
    }

    fn raw<'s>(&'s self, field: &'s Field) -> &'s [u8] {
        field.odd.as_deref().unwrap_or(self.text(field).as_bytes())
    }

    /// The first value under this name, in any case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every value under this name, in order.
    pub fn all<'s>(&'s self, name: &str) -> impl Iterator<Item = &'s str> {
        self.fields
            .iter()
            .filter(move |f| self.name(f).eq_ignore_ascii_case(name))
            .map(|f| self.text(f))
    }

    /// Adds a field at the end.
    ///
    /// # Errors
    /// CR, LF, NUL or another control in the value, or a name that is no token: refused, never repaired (as2.md SEC9).
    pub fn push(&mut self, name: &str, value: &str) -> Result<(), Error> {
        self.push_raw(name, value.as_bytes())
    }

    /// Adds a field whose value is given as bytes.
    ///
    /// # Errors
    /// As [`Headers::push`].
    pub fn push_raw(&mut self, name: &str, value: &[u8]) -> Result<(), Error> {
        let name = token(name.as_bytes()).map_err(|_| Error::invalid(format!("`{}` is no header name", name.escape_default())))?;
        if value.iter().any(|&b| b == 127 || (b < 32 && b != b'\t')) {
            return Err(Error::invalid(format!("the value of {name} holds control characters")));
        }
        if self.fields.len() == MAX_FIELDS {
            return Err(Error::invalid(format!("more than {MAX_FIELDS} header fields")));
        }
        self.add(name, value);
        Ok(())
    }

    /// Drops every field of this name.
    pub fn remove(&mut self, name: &str) {
        let text = &self.text;
        self.fields
            .retain(|f| !text.get(f.name.clone()).unwrap_or_default().eq_ignore_ascii_case(name));
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|f| (self.name(f), self.text(f)))
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The lines, each ended by CRLF, without the blank line after them.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.fields.iter().map(|f| f.name.len() + self.raw(f).len() + 4).sum());
        for field in &self.fields {
            out.extend_from_slice(self.name(field).as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(self.raw(field));
            out.extend_from_slice(b"\r\n");
        }
        out
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        let same =
            |(one, two): (&Field, &Field)| self.name(one) == other.name(two) && self.text(one) == other.text(two) && one.odd == two.odd;
        self.len() == other.len() && self.fields.iter().zip(&other.fields).all(same)
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The lines of a block, without their ends.
fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(block);
    std::iter::from_fn(move || {
        let all = rest?;
        let line = match memchr::memchr(b'\n', all) {
            Some(end) => {
                rest = all.get(end + 1..);
                all.get(..end).unwrap_or_default()
            }
            None => {
                rest = None;
                all
            }
        };
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    })
}

/// A field name: printable ASCII without blanks and colons.
fn token(name: &[u8]) -> Result<&str, Error> {
    let legal = !name.is_empty() && name.iter().all(|&b| (33..127).contains(&b) && b != b':');
    let text = str::from_utf8(name).ok().filter(|_| legal);
    text.ok_or_else(|| bad("a header line without a proper name".to_owned()))
}

/// The same with blanks behind it.
fn mime_token(name: &[u8]) -> Result<&str, Error> {
    token(name.trim_ascii_end())
}

/// Whether a line of a MIME entity begins with a field's name.
pub(crate) fn is_field(line: &[u8]) -> bool {
    memchr::memchr(b':', line).is_some_and(|colon| mime_token(line.get(..colon).unwrap_or_default()).is_ok())
}

fn bad(detail: String) -> Error {
    Error::new(ErrorKind::UnexpectedProcessingError, detail)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn order_case_and_spelling_survive() {
        let block = b"As2-From: A\r\nX-a:  b \r\nCONTENT-type: multipart/signed;\r\n\tboundary=x\r\n";
        let headers = Headers::parse(block).unwrap();
        assert_eq!(headers.get("as2-FROM"), Some("A"));
        assert_eq!(headers.get("content-type"), Some("multipart/signed; boundary=x"));
        assert_eq!(
            headers.to_bytes(),
            b"As2-From: A\r\nX-a: b\r\nCONTENT-type: multipart/signed; boundary=x\r\n"
        );
        assert_eq!(Headers::parse(&headers.to_bytes()).unwrap(), headers);
        assert_eq!(Headers::parse(b"A: 1\nB: 2\n\n").unwrap().len(), 2);
        assert!(Headers::parse(b"").unwrap().is_empty());
    }

    #[test]
    fn what_could_split_a_header_is_refused() {
        let mut headers = Headers::new();
        for value in ["a\r\nB: c", "a\n", "a\0", "\u{7f}"] {
            assert!(headers.push("X", value).is_err(), "{value:?}");
        }
        assert!(headers.push("X y", "1").is_err());
        for block in [&b" a: b\r\n"[..], b"a b: c\r\n", b"nothing\r\n", b"a: b\rc\r\n", b": x\r\n"] {
            assert!(Headers::parse(block).is_err(), "{block:?}");
        }
        assert!(Headers::parse(&b"a: b\n".repeat(MAX_FIELDS + 1)).is_err());
        assert!(Headers::parse(&vec![b'a'; MAX_BLOCK + 1]).is_err());
    }

    #[test]
    fn blanks_before_a_colon_are_for_mail_only() {
        let block = b"Content-Type \t: text/plain\r\nX: y\r\n";
        assert!(Headers::parse(block).is_err());
        let headers = Headers::parse_mime(block).unwrap();
        assert_eq!((headers.get("Content-Type"), headers.len()), (Some("text/plain"), 2));
        for block in [&b"a b: c\r\n"[..], b" : c\r\n", b": c\r\n", b"a\r: c\r\n"] {
            assert!(Headers::parse_mime(block).is_err(), "{block:?}");
        }
    }

    #[test]
    fn bytes_outside_utf8_are_kept() {
        let headers = Headers::parse(b"Subject: M\xfcller\r\n").unwrap();
        assert_eq!(headers.get("Subject"), Some("Müller"));
        assert_eq!(headers.to_bytes(), b"Subject: M\xfcller\r\n");
    }
}
