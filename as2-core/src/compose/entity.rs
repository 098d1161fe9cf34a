//! The innermost entity: the payload with its MIME headers, as one part or as `multipart/related` (RFC 6362), or the
//! compressed content of the second pass.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{PartMeta, TransferEncoding, boundary};
use crate::cms::compressed::{BER_END, CHUNK, ber_prefix, compressed_prefix};
use crate::cms::{Form, ber};
use crate::error::Error;
use crate::headers::Headers;
use crate::hex;
use crate::mime::transfer::{Encoder, encoded_len};

/// Bytes of text in one encoded word: 75 characters less the frame, in base64 (RFC 2047 §2).
const WORD: usize = 45;
/// Payload bytes that are encoded at once.
const STEP: usize = 57 * 1024;

/// Where an entity's body comes from.
pub(crate) enum Source {
    Parts(Box<Framer>),
    Compressed(Zlib),
}

impl Source {
    /// MIME headers of the entity.
    pub(crate) fn headers(&self) -> Result<Headers, Error> {
        match self {
            Source::Parts(framer) => Ok(framer.headers.clone()),
            Source::Compressed(_) => {
                let mut headers = Headers::new();
                headers.push("Content-Type", "application/pkcs7-mime; smime-type=compressed-data; name=smime.p7z")?;
                headers.push("Content-Disposition", "attachment; filename=smime.p7z")?;
                Ok(headers)
            }
        }
    }

    /// Bytes of the body.
    pub(crate) fn body_len(&self) -> u64 {
        match self {
            Source::Parts(framer) => framer.body_len(),
            Source::Compressed(zlib) => zlib.body_len,
        }
    }

    /// Whether the body has to be decoded to be the payload.
    pub(crate) fn is_encoded_single(&self) -> bool {
        matches!(self, Source::Parts(framer) if framer.base64 && framer.boundary.is_none())
    }

    pub(crate) fn is_compressed(&self) -> bool {
        matches!(self, Source::Compressed(_))
    }

    /// Turns the caller's bytes into bytes of the body.
    pub(crate) fn push(&mut self, bytes: &[u8], put: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        match self {
            Source::Parts(framer) => framer.push(bytes, put),
            Source::Compressed(zlib) => zlib.push(bytes, put),
        }
    }

    pub(crate) fn finish(&mut self, put: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        match self {
            Source::Parts(framer) => framer.finish(put),
            Source::Compressed(zlib) => zlib.finish(put),
        }
    }
}

/// Zlib bytes from the first pass, which become the content of a CompressedData.
pub(crate) struct Zlib {
    prefix: Vec<u8>,
    form: Form,
    body_len: u64,
    left: u64,
    /// Bytes still to come of the open piece (BER).
    piece_left: u64,
    begun: bool,
}

impl Zlib {
    pub(crate) fn new(len: u64, form: Form) -> Self {
        let (prefix, rest) = match form {
            Form::Der => (compressed_prefix(len), len),
            Form::Ber => (ber_prefix(), ber::pieces_len(len, CHUNK as u64) + BER_END.len() as u64),
        };
        Zlib {
            body_len: prefix.len() as u64 + rest,
            prefix,
            form,
            left: len,
            piece_left: 0,
            begun: false,
        }
    }

    fn push(&mut self, bytes: &[u8], put: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        if !std::mem::replace(&mut self.begun, true) {
            put(&self.prefix)?;
        }
        if bytes.len() as u64 > self.left {
            return Err(Error::invalid("more compressed bytes than the first pass made"));
        }
        match self.form {
            Form::Der => {
                self.left -= bytes.len() as u64;
                put(bytes)
            }
            Form::Ber => self.pieces(bytes, put),
        }
    }

    fn pieces(&mut self, mut bytes: &[u8], put: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        while !bytes.is_empty() {
            if self.piece_left == 0 {
                self.piece_left = self.left.min(CHUNK as u64);
                let mut header = Vec::new();
                ber::put_header(&mut header, ber::OCTET_STRING, self.piece_left);
                put(&header)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.piece_left as usize));
            put(now)?;
            self.piece_left -= now.len() as u64;
            self.left -= now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    fn finish(&mut self, put: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        self.push(&[], put)?;
        if self.left > 0 {
            return Err(Error::invalid("fewer compressed bytes than the first pass made"));
        }
        match self.form {
            Form::Der => Ok(()),
            Form::Ber => put(&BER_END),
        }
    }
}

/// Lays payload bytes out as MIME.
pub(crate) struct Framer {
    headers: Headers,
    /// Of `multipart/related`; one part has none.
    boundary: Option<String>,
    base64: bool,
    /// What stands before each part's bytes, and their number.
    parts: Vec<(Vec<u8>, u64)>,
    next: usize,
    /// Bytes still to come of the part in work.
    left: u64,
    open: bool,
    encoder: Encoder,
    scratch: Vec<u8>,
}

impl Framer {
    /// `plain`: the entity is the HTTP message itself.
    pub(crate) fn new(parts: &[PartMeta], encoding: TransferEncoding, nonce: &[u8; 16], plain: bool) -> Result<Self, Error> {
        let single = parts.len() == 1;
        let base64 = encoding == TransferEncoding::Base64 && !(plain && single);
        let mut framer = Framer {
            headers: Headers::new(),
            boundary: (!single).then(|| boundary(nonce, "related")),
            base64,
            parts: Vec::with_capacity(parts.len()),
            next: 0,
            left: 0,
            open: false,
            encoder: Encoder::default(),
            scratch: Vec::new(),
        };
        let word = match (base64, plain && single) {
            (_, true) => None,
            (true, false) => Some("base64"),
            (false, false) => Some("binary"),
        };
        for (index, part) in parts.iter().enumerate() {
            let mut headers = part_headers(part, word)?;
            let Some(boundary) = &framer.boundary else {
                framer.headers = headers;
                framer.parts.push((Vec::new(), part.length));
                continue;
            };
            let id = format!("<part{}.{}@as2>", index + 1, hex(nonce));
            headers.push("Content-ID", &id)?;
            if index == 0 {
                let kind = part.content_type.split(';').next().unwrap_or_default().trim().replace('"', "");
                let value = format!("multipart/related; type=\"{kind}\"; start=\"{id}\"; boundary=\"{boundary}\"");
                framer.headers.push("Content-Type", &value)?;
            }
            let mut head = format!("--{boundary}\r\n").into_bytes();
            head.extend_from_slice(&headers.to_bytes());
            head.extend_from_slice(b"\r\n");
            framer.parts.push((head, part.length));
        }
        Ok(framer)
    }

    fn body_len(&self) -> u64 {
        let coded = |len: u64| if self.base64 { encoded_len(len) } else { len };
        let parts: u64 = self.parts.iter().map(|(head, len)| head.len() as u64 + coded(*len)).sum();
        match &self.boundary {
            None => parts,
            Some(boundary) => parts + 2 * self.parts.len() as u64 + boundary.len() as u64 + 6,
        }
    }

    fn push(&mut self, bytes: &[u8], put: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let mut bytes = bytes;
        while !bytes.is_empty() {
            if !self.open && !self.start(put)? {
                return Err(Error::invalid("more bytes than the parts were said to have"));
            }
            let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            let (piece, rest) = bytes.split_at(take);
            self.left -= take as u64;
            self.data(piece, put)?;
            if self.left == 0 {
                self.end(put)?;
            }
            bytes = rest;
        }
        Ok(())
    }

    fn finish(&mut self, put: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        // Parts without bytes may be left.
        while !self.open && self.start(put)? {
            if self.left > 0 {
                break;
            }
            self.end(put)?;
        }
        if self.open {
            return Err(Error::invalid("fewer bytes than the parts were said to have"));
        }
        match &self.boundary {
            Some(boundary) => put(format!("--{boundary}--\r\n").as_bytes()),
            None => Ok(()),
        }
    }

    /// Begins the next part that has bytes, passing over empty ones; `false` if there is none.
    fn start(&mut self, put: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<bool, Error> {
        while let Some((head, len)) = self.parts.get(self.next) {
            put(head)?;
            (self.left, self.open) = (*len, true);
            self.next += 1;
            if self.left > 0 {
                return Ok(true);
            }
            self.end(put)?;
        }
        Ok(false)
    }

    fn data(&mut self, piece: &[u8], put: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        if !self.base64 {
            return put(piece);
        }
        for step in piece.chunks(STEP) {
            self.scratch.clear();
            self.encoder.push(step, &mut self.scratch);
            put(&self.scratch)?;
        }
        Ok(())
    }

    fn end(&mut self, put: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        self.open = false;
        if self.base64 {
            self.scratch.clear();
            std::mem::take(&mut self.encoder).finish(&mut self.scratch);
            put(&self.scratch)?;
        }
        if self.boundary.is_some() { put(b"\r\n") } else { Ok(()) }
    }
}

fn part_headers(part: &PartMeta, encoding: Option<&str>) -> Result<Headers, Error> {
    let mut headers = Headers::new();
    let kind = if part.content_type.trim().is_empty() {
        "application/octet-stream"
    } else {
        part.content_type.as_str()
    };
    headers.push("Content-Type", kind)?;
    if let Some(name) = &part.file_name {
        headers.push("Content-Disposition", &disposition_of(name))?;
    }
    if let Some(word) = encoding {
        headers.push("Content-Transfer-Encoding", word)?;
    }
    Ok(headers)
}

/// `attachment` with the file's name, and its exact form beside it if it is not ASCII (RFC 6266 §4.3, RFC 8187).
fn disposition_of(name: &str) -> String {
    let plain: String = name.chars().map(|c| if matches!(c, ' '..='~') { c } else { '_' }).collect();
    let quoted = plain.replace('\\', "\\\\").replace('"', "\\\"");
    if plain == name {
        return format!("attachment; filename=\"{quoted}\"");
    }
    let exact: String = name
        .bytes()
        .filter(|b| *b >= 32 && *b != 127)
        .fold(String::new(), |mut text, byte| {
            if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
            text
        });
    format!("attachment; filename=\"{quoted}\"; filename*=UTF-8''{exact}")
}

/// ASCII as it is, anything else as encoded words (RFC 2047).
pub(crate) fn ascii_words(text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    let mut words = Vec::new();
    let mut piece = String::new();
    for c in text.chars() {
        if piece.len() + c.len_utf8() > WORD {
            words.push(std::mem::take(&mut piece));
        }
        piece.push(c);
    }
    words.push(piece);
    words
        .iter()
        .map(|word| format!("=?UTF-8?B?{}?=", STANDARD.encode(word)))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::mime::{file_name, param::decode_words};

    #[test]
    fn names_come_back() {
        for name in ["order.edi", "a b.edi", "quo\"te\\.edi", "grüße €.edi", "100%.edi", "ü%41.edi"] {
            let part = PartMeta {
                file_name: Some(name.to_owned()),
                content_type: "text/plain".to_owned(),
                length: 0,
            };
            let headers = part_headers(&part, Some("binary")).unwrap();
            assert!(headers.to_bytes().is_ascii());
            assert_eq!(file_name(&headers).as_deref(), Some(name));
        }
        let subject = "Grüße ".repeat(40);
        assert_eq!(decode_words(&ascii_words(&subject)).0, subject);
    }
}
