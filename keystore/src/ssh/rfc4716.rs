//! Public keys as `PuTTYgen` and commercial SSH save them (RFC 4716).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "---- BEGIN SSH2 PUBLIC KEY ----";
const END: &str = "---- END SSH2 PUBLIC KEY ----";
/// RFC 4716 §3: lines of at most 72 bytes.
const MAX_LINE: usize = 72;
const BODY_LINE: usize = 70;

/// One key of a text, not yet decoded.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) comment: String,
    pub(super) body: String,
}

pub(super) fn is_begin(line: &str) -> bool {
    line.trim() == BEGIN
}

/// Reads the block after its first line from `lines`; `None` if its end is missing.
pub(super) fn read<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>) -> Option<Block> {
    let mut block = Block::default();
    while let Some((_, line)) = lines.next() {
        let line = line.trim();
        if line == END {
            return Some(block);
        }
        match line.split_once(':') {
            Some((name, value)) => {
                let value = continued(value.trim(), lines);
                if name.eq_ignore_ascii_case("comment") {
                    block.comment = unquote(&value);
                }
            }
            None => block.body.push_str(line),
        }
    }
    None
}

/// RFC 4716 §3.3: a header line that ends in a backslash goes on in the next one.
fn continued<'a>(value: &str, lines: &mut impl Iterator<Item = (usize, &'a str)>) -> String {
    let mut whole = value.to_owned();
    while whole.ends_with('\\') {
        whole.pop();
        let Some((_, next)) = lines.next() else { break };
        whole.push_str(next.trim_end());
    }
    whole
}

fn unquote(value: &str) -> String {
    let inside = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    inside.unwrap_or(value).to_owned()
}

pub(super) fn write(blob: &[u8], comment: &str) -> String {
    let mut text = format!("{BEGIN}\n");
    if !comment.is_empty() {
        push_header(&mut text, &format!("Comment: \"{}\"", comment.replace('"', "'")));
    }
    crate::export::wrap(&mut text, &STANDARD.encode(blob), BODY_LINE);
    text.push_str(END);
    text.push('\n');
    text
}

fn push_header(text: &mut String, header: &str) {
    let mut bytes = 0;
    for c in header.chars() {
        if bytes + c.len_utf8() >= MAX_LINE {
            text.push_str("\\\n");
            bytes = 0;
        }
        text.push(c);
        bytes += c.len_utf8();
    }
    text.push('\n');
}
