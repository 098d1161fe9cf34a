//! The head of a request: read within its limits, then checked line by line (RFC 9112 §2–§6).
//!
//! Whatever two parsers could read differently is refused, so that nothing can be smuggled past a proxy in front of us:
//! bare LF, blanks before a colon, two lengths, a length beside chunks, folded framing fields (security.md §8). A folded
//! field elsewhere is accepted, because AS2 peers send them (as2.md Q15).

use as2_core::headers::Headers;
use bytes::BytesMut;

use crate::post::wire::Framing;

/// Longest head, request line included.
pub const MAX_HEAD: usize = 64 * 1024;
/// Most fields in a head.
pub const MAX_FIELDS: usize = 100;

/// A request's head.
#[derive(Clone, Debug, Default)]
pub struct RawHead {
    /// The header lines exactly as received, without the request line and the blank line.
    pub bytes: Vec<u8>,
    /// `POST`.
    pub method: String,
    /// Origin form: `/as2?x=y`.
    pub target: String,
    /// The same lines, parsed; folds joined by one blank.
    pub headers: Headers,
}

/// What the head says about the message that follows it.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) head: RawHead,
    /// `None`: neither Content-Length nor chunks.
    pub(super) framing: Option<Framing>,
    /// HTTP/1.1 and no `Connection: close`.
    pub(super) keep: bool,
    /// The client waits for `100 Continue`.
    pub(super) wants_continue: bool,
}

/// Why a head is refused: the status and a word for the log.
pub(super) type Refused = (u16, &'static str);

/// Looks for a whole head at the start of the buffer and takes it out.
///
/// # Errors
/// As soon as something is wrong, be the head whole or not.
pub(super) fn take(buffer: &mut BytesMut, scanned: &mut usize) -> Result<Option<Parsed>, Refused> {
    // RFC 9112 §2.2: one empty line before the request line is forgiven.
    // It stays in the buffer until the head is whole, so that no second one is forgiven however the bytes arrive.
    let empty = if buffer.starts_with(b"\r\n") { 2 } else { 0 };
    if empty > 0 && *scanned <= 1 {
        *scanned = 0;
    }
    let Some(length) = find_end(buffer.get(empty..).unwrap_or_default(), scanned)? else {
        return if buffer.len() > MAX_HEAD {
            Err((431, "the head is too long"))
        } else {
            Ok(None)
        };
    };
    if length > MAX_HEAD {
        return Err((431, "the head is too long"));
    }
    *scanned = 0;
    let _ = buffer.split_to(empty);
    let head = buffer.split_to(length);
    parse(&head).map(Some)
}

/// The length of the head with its blank line. Goes on where it stopped, and refuses stray line ends on the way.
fn find_end(buffer: &[u8], scanned: &mut usize) -> Result<Option<usize>, Refused> {
    while let Some(byte) = buffer.get(*scanned) {
        match byte {
            b'\n' => {
                let line_end = *scanned > 0 && buffer.get(*scanned - 1) == Some(&b'\r');
                if !line_end {
                    return Err((400, "a bare LF in the head"));
                }
                if *scanned == 1 {
                    return Err((400, "an empty request line"));
                }
                if buffer.get(scanned.saturating_sub(3)..*scanned) == Some(b"\r\n\r") {
                    return Ok(Some(*scanned + 1));
                }
            }
            _ if *scanned > 0 && buffer.get(*scanned - 1) == Some(&b'\r') => return Err((400, "a bare CR in the head")),
            0 => return Err((400, "a NUL in the head")),
            _ => {}
        }
        if *scanned >= MAX_HEAD {
            return Err((431, "the head is too long"));
        }
        *scanned += 1;
    }
    Ok(None)
}

/// A whole head; its line ends are CRLF, which `find_end` has seen to.
fn parse(head: &[u8]) -> Result<Parsed, Refused> {
    let end = head.windows(2).position(|pair| pair == b"\r\n").ok_or((400, "no request line"))?;
    let (request_line, lines) = (
        head.get(..end).unwrap_or_default(),
        head.get(end + 2..head.len().saturating_sub(2)).unwrap_or_default(),
    );
    let (method, target, minor) = request_line_parts(request_line)?;
    let facts = fields(lines)?;
    if facts.hosts > 1 || (minor == 1 && facts.hosts == 0) {
        return Err((400, "Host is missing or repeated"));
    }
    let framing = match (facts.length, facts.chunked) {
        (Some(_), true) => return Err((400, "Content-Length beside Transfer-Encoding")),
        (None, true) if minor == 0 => return Err((400, "Transfer-Encoding in HTTP/1.0")),
        (None, true) => Some(Framing::Chunked),
        (Some(length), false) => Some(Framing::Length(length)),
        (None, false) => None,
    };
    if facts.other_expectation {
        return Err((417, "an unknown Expect"));
    }
    let headers = Headers::parse(lines).map_err(|_| (400, "the header block cannot be read"))?;
    Ok(Parsed {
        head: RawHead {
            bytes: lines.to_vec(),
            method,
            target,
            headers,
        },
        framing,
        keep: minor == 1 && !facts.close,
        wants_continue: minor == 1 && facts.wants_continue,
    })
}

fn request_line_parts(line: &[u8]) -> Result<(String, String, u8), Refused> {
    const BAD: Refused = (400, "the request line cannot be read");
    let line = str::from_utf8(line).map_err(|_| BAD)?;
    let mut parts = line.split(' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(BAD);
    };
    if method.is_empty()
        || method.len() > 32
        || !method.bytes().all(is_token)
        || target.is_empty()
        || !target.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err(BAD);
    }
    let minor = match version {
        "HTTP/1.1" => 1,
        "HTTP/1.0" => 0,
        _ if version.starts_with("HTTP/") => return Err((505, "not HTTP/1.1")),
        _ => return Err(BAD),
    };
    Ok((method.to_owned(), origin_form(target).ok_or(BAD)?, minor))
}

/// RFC 9112 §3.2.2: a server takes the absolute form too.
fn origin_form(target: &str) -> Option<String> {
    if target.starts_with('/') || target == "*" {
        return Some(target.to_owned());
    }
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        target
            .get(..scheme.len())?
            .eq_ignore_ascii_case(scheme)
            .then(|| &target[scheme.len()..])
    })?;
    match rest.find(['/', '?']) {
        Some(at) if rest[at..].starts_with('/') => Some(rest[at..].to_owned()),
        Some(at) => Some(format!("/{}", &rest[at..])),
        None => Some("/".to_owned()),
    }
}

#[derive(Default)]
struct Facts {
    length: Option<u64>,
    chunked: bool,
    hosts: usize,
    close: bool,
    wants_continue: bool,
    other_expectation: bool,
}

/// Fields that decide where a request ends or whom it is for; they may not be folded.
fn frames(name: &[u8]) -> bool {
    [&b"host"[..], b"content-length", b"transfer-encoding"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
}

fn fields(lines: &[u8]) -> Result<Facts, Refused> {
    let mut facts = Facts::default();
    let mut count = 0;
    let mut before: Option<&[u8]> = None;
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err((400, "a control character in the head"));
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            if before.is_none_or(frames) {
                return Err((400, "a folded framing field"));
            }
            continue;
        }
        count += 1;
        if count > MAX_FIELDS {
            return Err((431, "too many fields"));
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or((400, "a field without a colon"))?;
        let (name, value) = (
            line.get(..colon).unwrap_or_default(),
            line.get(colon + 1..).unwrap_or_default().trim_ascii(),
        );
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err((400, "a field name with a blank or a strange character"));
        }
        facts.take(name, value)?;
        before = Some(name);
    }
    Ok(facts)
}

impl Facts {
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refused> {
        match name.to_ascii_lowercase().as_slice() {
            b"content-length" => {
                if self.length.is_some() {
                    return Err((400, "Content-Length is repeated"));
                }
                self.length = Some(length(value).ok_or((400, "Content-Length is no number"))?);
            }
            b"transfer-encoding" => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err((400, "a Transfer-Encoding other than chunked"));
                }
                self.chunked = true;
            }
            b"host" => {
                if !value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]%".contains(byte)) {
                    return Err((400, "a Host that is no host"));
                }
                self.hosts += 1;
            }
            b"connection" => {
                self.close |= value
                    .split(|byte| *byte == b',')
                    .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
            }
            b"expect" if value.eq_ignore_ascii_case(b"100-continue") => self.wants_continue = true,
            b"expect" => self.other_expectation = true,
            _ => {}
        }
        Ok(())
    }
}

/// Digits only; leading zeros are fine (as2.md Q30), a sign or a list is not.
fn length(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    if !digits {
        return None;
    }
    str::from_utf8(value).ok()?.parse().ok()
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn read(text: &str) -> Result<Option<Parsed>, Refused> {
        take(&mut BytesMut::from(text), &mut 0)
    }

    #[test]
    fn good_heads() {
        let folded = "POST http://x.example/as2?a=1 HTTP/1.1\r\nHost: x\r\nDisposition-Notification-Options: a=b;\r\n\tc=d\r\nContent-Length: 0007\r\n\r\nBODY";
        let parsed = read(folded).unwrap().unwrap();
        assert_eq!((parsed.head.method.as_str(), parsed.head.target.as_str()), ("POST", "/as2?a=1"));
        assert_eq!(parsed.framing, Some(Framing::Length(7)));
        assert_eq!(parsed.head.headers.get("disposition-notification-options"), Some("a=b; c=d"));
        assert!(parsed.head.bytes.starts_with(b"Host: x\r\n") && parsed.head.bytes.ends_with(b"0007\r\n"));
        assert!(parsed.keep);
        assert!(!read("GET / HTTP/1.0\r\n\r\n").unwrap().unwrap().keep);
        assert!(
            !read("GET / HTTP/1.1\r\nHost: x\r\nConnection: TE, Close\r\n\r\n")
                .unwrap()
                .unwrap()
                .keep
        );
        assert!(read("GET / HTTP/1.1\r\nHost: x\r\n").unwrap().is_none());
    }

    #[test]
    fn a_head_may_come_byte_by_byte() {
        let text = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n";
        let (mut buffer, mut scanned) = (BytesMut::new(), 0);
        for (at, byte) in text.bytes().enumerate() {
            buffer.extend_from_slice(&[byte]);
            let parsed = take(&mut buffer, &mut scanned).unwrap();
            assert_eq!(parsed.is_some(), at + 1 == text.len());
        }
    }

    #[test]
    fn heads_that_could_be_read_two_ways_are_refused() {
        let line = |fields: &str| format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
        let with_host = [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Content-Length: 0x5",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: \x0bchunked",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding\t: chunked",
            "Transfer-Encoding:\r\n chunked",
            "Content-Length: 5\r\n 0",
            "Host: y",
            "X: y\nContent-Length: 5",
            "X: y\rZ: a",
            "X: \0",
            "X y",
            ": y",
            "X\0: y",
        ];
        let mut heads: Vec<String> = with_host.iter().map(|fields| line(fields)).collect();
        heads.extend(
            [
                "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
                "POST / HTTP/1.1\r\n X: folded\r\nHost: x\r\n\r\n",
                "POST / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n",
                "POST / HTTP/1.1\r\nHost: a@b\r\n\r\n",
                "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
                "POST /  HTTP/1.1\r\nHost: x\r\n\r\n",
                "POST / a HTTP/1.1\r\nHost: x\r\n\r\n",
                "POST\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
                "POST ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
                "P(ST / HTTP/1.1\r\nHost: x\r\n\r\n",
                "GET / HTTP/1.1\nHost: x\n\n",
                "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
            ]
            .map(str::to_owned),
        );
        for head in heads {
            assert_eq!(read(&head).err().map(|refused| refused.0), Some(400), "{head:?}");
        }
        assert_eq!(read("PRI * HTTP/2.0\r\n\r\n").err().map(|r| r.0), Some(505));
    }

    #[test]
    fn limits() {
        let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(MAX_FIELDS));
        assert_eq!(read(&many).err().map(|r| r.0), Some(431));
        let just = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(MAX_FIELDS - 1));
        assert!(read(&just).unwrap().is_some());
        let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(MAX_HEAD));
        assert_eq!(read(&long).err().map(|r| r.0), Some(431));
    }
}
