//! Transfer encodings as streams: base64 both ways, quoted-printable in (RFC 2045 §6).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Encoding, broken};
use crate::error::Error;

/// Payload bytes of one base64 line of 76 characters.
const LINE: usize = 57;

/// Writes base64 in lines of 76 characters, CRLF between them and none at the end.
#[derive(Default)]
pub(crate) struct Encoder {
    carry: Vec<u8>,
    begun: bool,
}

impl Encoder {
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut bytes = bytes;
        if !self.carry.is_empty() {
            let take = (LINE - self.carry.len()).min(bytes.len());
            let (head, rest) = bytes.split_at(take);
            self.carry.extend_from_slice(head);
            bytes = rest;
            if self.carry.len() < LINE {
                return;
            }
            let line = std::mem::take(&mut self.carry);
            self.line(&line, out);
        }
        let mut lines = bytes.chunks_exact(LINE);
        for line in &mut lines {
            self.line(line, out);
        }
        self.carry.extend_from_slice(lines.remainder());
    }

    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.carry);
        if !line.is_empty() {
            self.line(&line, out);
        }
    }

    fn line(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.begun, true) {
            out.extend_from_slice(b"\r\n");
        }
        let start = out.len();
        out.resize(start + bytes.len().div_ceil(3) * 4, 0);
        // The destination has exactly the length that the encoding needs.
        let written = out
            .get_mut(start..)
            .map_or(Ok(0), |to| STANDARD.encode_slice(bytes, to))
            .unwrap_or(0);
        out.truncate(start + written);
    }
}

/// Bytes that [`Encoder`] makes of `len` bytes.
pub(crate) fn encoded_len(len: u64) -> u64 {
    let lines = len.div_ceil(LINE as u64);
    len.div_ceil(3) * 4 + lines.saturating_sub(1) * 2
}

/// All of a small thing at once.
pub(crate) fn encode(bytes: &[u8]) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    encoder.push(bytes, &mut out);
    encoder.finish(&mut out);
    out
}

/// Undoes a transfer encoding.
pub(crate) enum Decoder {
    Identity,
    Base64(Base64),
    QuotedPrintable(QuotedPrintable),
}

impl Decoder {
    pub(crate) fn new(encoding: &Encoding) -> Self {
        match encoding {
            Encoding::Base64 => Decoder::Base64(Base64::default()),
            Encoding::QuotedPrintable => Decoder::QuotedPrintable(QuotedPrintable::default()),
            Encoding::Identity | Encoding::Unknown(_) => Decoder::Identity,
        }
    }

    /// Decodes `bytes`; what needs no decoding is handed back as it is.
    pub(crate) fn push<'b>(&mut self, bytes: &'b [u8], scratch: &'b mut Vec<u8>) -> &'b [u8] {
        match self {
            Decoder::Identity => bytes,
            Decoder::Base64(decoder) => {
                scratch.clear();
                decoder.push(bytes, scratch);
                scratch
            }
            Decoder::QuotedPrintable(decoder) => {
                scratch.clear();
                decoder.push(bytes, scratch);
                scratch
            }
        }
    }

    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        match self {
            Decoder::Identity => {}
            Decoder::Base64(decoder) => decoder.finish(out),
            Decoder::QuotedPrintable(decoder) => decoder.finish(out),
        }
    }
}

/// Base64, any line length and line end; other characters are passed over, as RFC 2045 §6.8 wants. PEM armour is passed over too.
#[derive(Default)]
pub(crate) struct Base64 {
    bits: u32,
    count: u8,
    /// Inside a line that began with dashes.
    armour: bool,
    at_line: bool,
    begun: bool,
    /// Characters outside of the alphabet were met.
    pub(crate) strange: bool,
    /// Nothing but the alphabet, white space and one padding at the end; anything else is strange, armour too.
    strict: bool,
    padded: bool,
}

/// Values of the alphabet's characters; 64 stands for any other.
const VALUES: [u8; 256] = {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut table = [64u8; 256];
    let mut i = 0;
    while i < 64 {
        table[alphabet[i] as usize] = i as u8;
        i += 1;
    }
    table
};

impl Base64 {
    /// For decrypted content: tolerance there would tell good padding from bad (SEC4). The caller refuses what is `strange`.
    pub(crate) fn strict() -> Self {
        Base64 {
            strict: true,
            ..Base64::default()
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        out.reserve(bytes.len() / 4 * 3 + 3);
        for &byte in bytes {
            if self.armour {
                self.armour = byte != b'\n';
                self.at_line = !self.armour;
                continue;
            }
            let value = VALUES.get(usize::from(byte)).copied().unwrap_or(64);
            if value < 64 {
                self.strange |= self.padded;
                self.at_line = false;
                self.begun = true;
                self.bits = self.bits << 6 | u32::from(value);
                self.count += 1;
                if self.count == 4 {
                    let [_, a, b, c] = self.bits.to_be_bytes();
                    out.extend_from_slice(&[a, b, c]);
                    (self.bits, self.count) = (0, 0);
                }
                continue;
            }
            match byte {
                b'=' => {
                    self.padded = self.strict;
                    self.finish(out);
                }
                b'\n' => self.at_line = true,
                b'-' if !self.strict && (self.at_line || !self.begun) => {
                    self.begun = true;
                    self.armour = true;
                }
                _ => self.strange |= !byte.is_ascii_whitespace(),
            }
        }
    }

    /// Gives out a group that is not full: at padding, and at the end.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        match self.count {
            2 => out.push((self.bits >> 4) as u8),
            3 => out.extend_from_slice(&[(self.bits >> 10) as u8, (self.bits >> 2) as u8]),
            _ => self.strange |= self.count == 1,
        }
        (self.bits, self.count) = (0, 0);
    }
}

/// Base64 that must be just that: the alphabet, white space, proper padding (cms-streaming.md §10).
pub(crate) fn decode_strict(text: &[u8]) -> Result<Vec<u8>, Error> {
    let text: Vec<u8> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    STANDARD.decode(text).map_err(|_| broken("base64 that is not"))
}

/// Base64 in any state that products leave it in.
pub(crate) fn decode_lenient(text: &[u8]) -> Vec<u8> {
    let (mut decoder, mut out) = (Base64::default(), Vec::new());
    decoder.push(text, &mut out);
    decoder.finish(&mut out);
    out
}

/// Quoted-printable; what is no escape stays as it is.
#[derive(Default)]
pub(crate) struct QuotedPrintable {
    held: Vec<u8>,
}

impl QuotedPrintable {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for &byte in bytes {
            if self.held.is_empty() && byte != b'=' {
                out.push(byte);
                continue;
            }
            self.held.push(byte);
            match *self.held.as_slice() {
                [b'='] | [b'=', b'\r'] => continue,
                [b'=', b'\n'] | [b'=', b'\r', b'\n'] => {}
                [b'=', a] if a.is_ascii_hexdigit() => continue,
                [b'=', a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => out.push(hex(a) << 4 | hex(b)),
                _ => out.extend_from_slice(&self.held),
            }
            self.held.clear();
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if self.held != b"=" {
            out.append(&mut self.held);
        }
        self.held.clear();
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn base64_goes_both_ways_in_any_cut() {
        for len in [0usize, 1, 2, 3, 56, 57, 58, 114, 115, 1000] {
            let plain: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
            for step in [1, 5, 57, 1000] {
                let (mut encoder, mut text) = (Encoder::default(), Vec::new());
                plain.chunks(step).for_each(|chunk| encoder.push(chunk, &mut text));
                encoder.finish(&mut text);
                assert_eq!(text.len() as u64, encoded_len(len as u64), "{len}");
                assert!(text.split(|&b| b == b'\n').all(|line| line.len() <= 77));
                let (mut decoder, mut back) = (Base64::default(), Vec::new());
                text.chunks(step).for_each(|chunk| decoder.push(chunk, &mut back));
                decoder.finish(&mut back);
                assert_eq!(back, plain);
                assert_eq!(decode_strict(&text).unwrap(), plain);
            }
        }
        assert_eq!(decode_lenient(b"-----BEGIN CMS-----\nQUJD\r\nRA==\n-----END CMS-----\n"), b"ABCD");
        assert!(decode_strict(b"QUJ!").is_err() && decode_strict(b"QUI").is_err());
    }

    #[test]
    fn quoted_printable_in_any_cut() {
        let text = b"a=3Db=\r\nc=\nd=C3=bc=XY=";
        for step in 1..text.len() {
            let (mut decoder, mut out) = (QuotedPrintable::default(), Vec::new());
            text.chunks(step).for_each(|chunk| decoder.push(chunk, &mut out));
            decoder.finish(&mut out);
            assert_eq!(out, "a=bcd\u{fc}=XY".as_bytes(), "{step}");
        }
    }
}
