//! PEM as people send it (RFC 7468, RFC 1421 headers): any line end, text around the blocks, a byte-order mark, UTF-16 from a
//! Windows shell.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::error::{Error, Format, Result};

pub(crate) const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
const ANY_PADDING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One block between its two lines.
pub(crate) struct Block<'a> {
    pub(crate) label: &'a str,
    headers: Vec<&'a str>,
    body: Vec<&'a str>,
}

impl Block<'_> {
    /// The decoded body; wiped when dropped, for it may be a key.
    pub(crate) fn der(&self) -> Result<Zeroizing<Vec<u8>>> {
        let joined = Zeroizing::new(self.body.concat());
        let decoded = ANY_PADDING.decode(joined.as_bytes()).map(Zeroizing::new);
        decoded.map_err(|_| Error::broken(Format::Pem, format!("the block {:?} in it is not base64", self.label)))
    }

    /// Encrypted in the traditional way, by headers.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.headers.iter().any(|h| h.starts_with("Proc-Type:") && h.contains("ENCRYPTED"))
    }

    /// The block again, with plain line ends.
    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(format!("{BEGIN}{}{DASHES}\n", self.label));
        for header in &self.headers {
            text.push_str(header);
            text.push('\n');
        }
        if !self.headers.is_empty() {
            text.push('\n');
        }
        for line in &self.body {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str(&format!("{END}{}{DASHES}\n", self.label));
        text
    }
}

/// The text of a file in UTF-8 or UTF-16, without its byte-order mark. A stray byte in the text around a block does no harm.
pub fn decode_text(bytes: &[u8]) -> Option<Zeroizing<String>> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|pair| unit(pair.try_into().unwrap_or_default()));
        char::decode_utf16(units).collect::<Result<String, _>>().ok()
    };
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    };
    (!text.contains('\0')).then(|| Zeroizing::new(text))
}

/// All blocks of a text, in its order.
pub(crate) fn blocks(text: &str) -> Result<Vec<Block<'_>>> {
    let mut blocks = Vec::new();
    let mut open: Option<Block<'_>> = None;
    for line in text.split(['\r', '\n']).map(str::trim).flat_map(pieces) {
        if let Some(label) = line.strip_prefix(BEGIN).and_then(|l| l.strip_suffix(DASHES)) {
            if open.is_some() {
                return Err(cut_off());
            }
            open = Some(Block {
                label,
                headers: Vec::new(),
                body: Vec::new(),
            });
        } else if line.starts_with(END) {
            blocks.extend(open.take());
        } else if let Some(block) = &mut open {
            add_line(block, line);
        }
    }
    if open.is_some() { Err(cut_off()) } else { Ok(blocks) }
}

/// The lines of blocks that a form or a configuration has put into one, with blanks or `\n` where they ended.
fn pieces(line: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = line;
    while let Some((begin, end)) = rest.find(BEGIN).and_then(|begin| Some((begin, rest.find(END)?))) {
        let Some((head, body)) = rest.get(begin..end).and_then(|block| {
            let dashes = block.get(BEGIN.len()..)?.find(DASHES)?;
            block.split_at_checked(BEGIN.len() + dashes + DASHES.len())
        }) else {
            break;
        };
        let after = rest.get(end..).unwrap_or_default();
        let close = after.get(END.len()..).and_then(|label| label.find(DASHES));
        let (tail, more) = after.split_at(close.map_or(after.len(), |at| END.len() + at + DASHES.len()));
        pieces.push(head);
        pieces.extend(body.split("\\n").flat_map(str::split_whitespace));
        pieces.push(tail);
        rest = more;
    }
    pieces.push(rest.trim());
    pieces
}

fn add_line<'a>(block: &mut Block<'a>, line: &'a str) {
    match line {
        "" => {}
        header if block.body.is_empty() && header.contains(':') => block.headers.push(header),
        body => block.body.push(body),
    }
}

fn cut_off() -> Error {
    Error::broken(Format::Pem, "a block in it has no end line")
}
