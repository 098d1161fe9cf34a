//! Header blocks, of HTTP messages and of MIME entities alike: order, case and spelling are kept (as2.md §2).

use std::fmt;

use crate::error::{Error, ErrorKind};

/// Largest header block that is read, in bytes (as2.md SEC3).
pub const MAX_BLOCK: usize = 64 * 1024;
/// Most fields of one block.
pub const MAX_FIELDS: usize = 200;
/// Fields that there is room for before a block is read.
const TYPICAL_FIELDS: usize = 24;

#[derive(Clone, PartialEq, Eq)]
struct Field {
    name: String,
    /// The value's text, folds joined, outer blanks gone; bytes that are not UTF-8 are read as Latin-1.
    text: String,
    /// The bytes as they came, where they were not UTF-8.
    odd: Option<Vec<u8>>,
}

impl Field {
    fn new(name: String, value: Vec<u8>) -> Self {
        match String::from_utf8(value) {
            Ok(text) => Field { name, text, odd: None },
            Err(error) => {
                let bytes = error.into_bytes();
                Field {
                    name,
                    text: text_of(&bytes),
                    odd: Some(bytes),
                }
            }
        }
    }

    fn raw(&self) -> &[u8] {
        self.odd.as_deref().unwrap_or(self.text.as_bytes())
    }
}

/// The fields of one header block.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
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
        if block.len() > MAX_BLOCK {
            return Err(bad(format!("a header block of more than {MAX_BLOCK} bytes")));
        }
        let mut fields: Vec<(String, Vec<u8>)> = Vec::with_capacity(TYPICAL_FIELDS);
        for line in block.split(|&b| b == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.iter().any(|&b| b == 0 || b == b'\r') {
                return Err(bad("NUL or a stray CR in a header".to_owned()));
            }
            if line.is_empty() {
                // Only the end of the block may be empty; `split` also yields one such piece after the last line end.
                if fields.is_empty() {
                    continue;
                }
                break;
            }
            if line.starts_with(b" ") || line.starts_with(b"\t") {
                let Some((_, value)) = fields.last_mut() else {
                    return Err(bad("the first header line is a continuation".to_owned()));
                };
                value.push(b' ');
                value.extend_from_slice(line.trim_ascii());
                continue;
            }
            let colon = line
                .iter()
                .position(|&b| b == b':')
                .ok_or_else(|| bad("a header line without a colon".to_owned()))?;
            let (name, value) = line.split_at(colon);
            let name = token(name)?;
            if fields.len() == MAX_FIELDS {
                return Err(bad(format!("more than {MAX_FIELDS} header fields")));
            }
            fields.push((name, value.get(1..).unwrap_or_default().trim_ascii().to_vec()));
        }
        let fields = fields.into_iter().map(|(name, mut value)| {
            // A value that begins or ends with a fold got a blank there.
            if value.trim_ascii().len() < value.len() {
                value = value.trim_ascii().to_vec();
            }
            Field::new(name, value)
        });
        Ok(Headers { fields: fields.collect() })
    }

    /// The first value under this name, in any case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The bytes of the first value under this name.
    #[must_use]
    pub fn get_raw(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|f| f.name.eq_ignore_ascii_case(name)).map(Field::raw)
    }

    /// Every value under this name, in order.
    pub fn all<'s>(&'s self, name: &str) -> impl Iterator<Item = &'s str> {
        self.fields
            .iter()
            .filter(move |f| f.name.eq_ignore_ascii_case(name))
            .map(|f| f.text.as_str())
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
        self.fields.push(Field::new(name, value.trim_ascii().to_vec()));
        Ok(())
    }

    /// Drops every field of this name.
    pub fn remove(&mut self, name: &str) {
        self.fields.retain(|f| !f.name.eq_ignore_ascii_case(name));
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|f| (f.name.as_str(), f.text.as_str()))
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
        let mut out = Vec::with_capacity(self.fields.iter().map(|f| f.name.len() + f.raw().len() + 4).sum());
        for field in &self.fields {
            out.extend_from_slice(field.name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(field.raw());
            out.extend_from_slice(b"\r\n");
        }
        out
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A field name: printable ASCII without blanks and colons.
fn token(name: &[u8]) -> Result<String, Error> {
    let legal = !name.is_empty() && name.iter().all(|&b| (33..127).contains(&b) && b != b':');
    if legal {
        Ok(text_of(name))
    } else {
        Err(bad("a header line without a proper name".to_owned()))
    }
}

fn text_of(raw: &[u8]) -> String {
    match std::str::from_utf8(raw) {
        Ok(text) => text.to_owned(),
        Err(_) => raw.iter().map(|&b| char::from(b)).collect(),
    }
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
    fn bytes_outside_utf8_are_kept() {
        let headers = Headers::parse(b"Subject: M\xfcller\r\n").unwrap();
        assert_eq!(headers.get("Subject"), Some("Müller"));
        assert_eq!(headers.to_bytes(), b"Subject: M\xfcller\r\n");
    }
}
