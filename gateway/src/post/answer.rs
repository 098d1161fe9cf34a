//! What a server answers, as bytes: interim heads, the head that counts, and as much of the body as is wanted. No time-outs
//! here, so that it can be fuzzed (`gateway/fuzz`).

use std::borrow::Cow;
use std::io::ErrorKind;

use as2_core::headers::Headers;
use bytes::BytesMut;
use tokio::io::AsyncRead;

use super::wire::{Decoder, Framing, Source, Step};

/// Longest head of an answer, status line included.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// Most bytes of interim answers (1xx) before the real one. How long they may go on is a matter of the response time-out.
pub(super) const MAX_INTERIM: usize = 256 * 1024;

/// The head of the answer that counts.
pub(super) struct AnswerHead {
    pub(super) status: u16,
    pub(super) headers: Headers,
    /// As it came, with the status line and the blank line.
    pub(super) raw: Vec<u8>,
    /// Others came before it.
    pub(super) interim: bool,
    /// Some of its lines are no fields, and are mended or left out in `headers`.
    pub(super) mended: bool,
}

/// Why there is no head.
pub(super) struct NoHead {
    pub(super) why: String,
    /// The connection ended before a byte of it.
    pub(super) silent: bool,
}

impl From<String> for NoHead {
    fn from(why: String) -> Self {
        NoHead { why, silent: false }
    }
}

impl AnswerHead {
    /// Whether the connection may serve another request (RFC 9112 §9.3): it stays, and nobody can read the end of this answer
    /// otherwise than we do. A head that is merely tolerated is no ground to go on from.
    pub(super) fn leaves_no_doubt(&self) -> bool {
        let all = |name| self.headers.all(name).collect::<Vec<_>>();
        let closes = ["Connection", "Proxy-Connection"]
            .iter()
            .flat_map(|name| self.headers.all(name))
            .flat_map(|value| value.split(','))
            .any(|word| word.trim().eq_ignore_ascii_case("close"));
        let bare_line_end = self.raw.windows(2).any(|pair| matches!(pair, [before, b'\n'] if *before != b'\r'));
        let counted = match (all("Transfer-Encoding").as_slice(), all("Content-Length").as_slice()) {
            ([], []) => matches!(self.status, 204 | 304),
            ([], ["0"]) => true,
            ([], [length]) => !matches!(self.status, 204 | 304) && length.bytes().all(|byte| byte.is_ascii_digit()),
            ([coding], []) => !matches!(self.status, 204 | 304) && coding.eq_ignore_ascii_case("chunked"),
            _ => false,
        };
        // An empty length is all digits too, and so is one that no number holds.
        let ends = self.framing() != Framing::UntilClose;
        self.raw.starts_with(b"HTTP/1.1 ") && !self.interim && !self.mended && !closes && !bare_line_end && counted && ends
    }

    /// RFC 9112 §6.3. A length that cannot be read leaves the end of the connection as the only end.
    pub(super) fn framing(&self) -> Framing {
        if matches!(self.status, 204 | 304) {
            return Framing::Length(0);
        }
        if let Some(last) = self.codings().last() {
            return if last.eq_ignore_ascii_case("chunked") {
                Framing::Chunked
            } else {
                Framing::UntilClose
            };
        }
        let mut lengths = self.lengths();
        match lengths.next().flatten() {
            Some(length) if lengths.all(|other| other == Some(length)) => Framing::Length(length),
            _ => Framing::UntilClose,
        }
    }

    /// Transfer codings in order, without the one that changes nothing (RFC 2616 §3.6).
    fn codings(&self) -> impl Iterator<Item = &str> {
        let all = self.headers.all("Transfer-Encoding").flat_map(|value| value.split(','));
        all.map(str::trim)
            .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
    }

    /// Every length that is announced, in one field or in several; `None` is one that cannot be read.
    fn lengths(&self) -> impl Iterator<Item = Option<u64>> {
        let all = self.headers.all("Content-Length").flat_map(|value| value.split(','));
        all.map(|length| length.trim().parse().ok())
    }

    /// The same length may be announced twice, but not another one (RFC 9112 §6.3).
    fn lengths_differ(&self) -> bool {
        let mut lengths = self.lengths().flatten();
        let differ = lengths.next().is_some_and(|first| lengths.any(|other| other != first));
        differ && !matches!(self.status, 204 | 304) && self.codings().next().is_none()
    }
}

/// Reads heads until one is not interim.
pub(super) async fn read_head<R: AsyncRead + Unpin>(source: &mut Source<R>) -> Result<AnswerHead, NoHead> {
    let mut scanned = 0;
    let mut interim = 0;
    loop {
        if let Some(end) = head_end(&source.buffer, &mut scanned) {
            let raw = source.buffer.split_to(end).to_vec();
            scanned = 0;
            let head = parse_head(raw)?;
            if head.status >= 200 {
                if head.lengths_differ() {
                    return Err("the server's answer has two lengths".to_owned().into());
                }
                return Ok(AnswerHead {
                    interim: interim > 0,
                    ..head
                });
            }
            interim += end;
            if interim > MAX_INTERIM {
                return Err("the server sends nothing but interim answers".to_owned().into());
            }
            continue;
        }
        if source.buffer.len() > MAX_HEAD {
            return Err("the head of the server's answer is longer than 64 KiB".to_owned().into());
        }
        let nothing = source.buffer.is_empty();
        let read = match source.fill().await {
            // TLS ended without close_notify.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
            read => read,
        };
        let why = match read {
            Ok(1..) => continue,
            Ok(_) if nothing => "the server closed the connection without an answer".to_owned(),
            Ok(_) => "the server closed the connection inside the head of its answer".to_owned(),
            Err(error) => format!("the connection broke: {error}"),
        };
        let silent = nothing && interim == 0;
        return Err(NoHead { why, silent });
    }
}

/// Where the head ends; old servers end lines with a bare LF.
fn head_end(buffer: &[u8], scanned: &mut usize) -> Option<usize> {
    let from = scanned.saturating_sub(2);
    let at = buffer
        .get(from..)?
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .map(|(at, _)| from + at)
        .find(|at| {
            let rest = buffer.get(at + 1..).unwrap_or_default();
            rest.starts_with(b"\n") || rest.starts_with(b"\r\n")
        });
    *scanned = buffer.len();
    let at = at?;
    Some(if buffer.get(at + 1) == Some(&b'\n') { at + 2 } else { at + 3 })
}

fn parse_head(raw: Vec<u8>) -> Result<AnswerHead, String> {
    if raw.len() > MAX_HEAD {
        return Err("the head of the server's answer is longer than 64 KiB".to_owned());
    }
    let line_end = raw.iter().position(|byte| *byte == b'\n').map_or(raw.len(), |at| at + 1);
    let (line, fields) = raw.split_at(line_end);
    let status = line.strip_prefix(b"HTTP/1.").and_then(|rest| {
        let code = str::from_utf8(rest.get(2..5)?).ok()?;
        let after = rest.get(5).is_none_or(|byte| byte.is_ascii_whitespace());
        (rest.get(1) == Some(&b' ') && after && code.bytes().all(|byte| byte.is_ascii_digit()))
            .then_some(code)?
            .parse::<u16>()
            .ok()
    });
    let status = status
        .filter(|status| *status >= 100)
        .ok_or("the server's answer is not HTTP/1.1")?;
    let (headers, mended) = match Headers::parse(fields) {
        Ok(headers) => (headers, false),
        Err(_) => (parse_mended(fields)?, true),
    };
    Ok(AnswerHead {
        status,
        headers,
        raw,
        interim: false,
        mended,
    })
}

/// Fields among lines that are none: blanks before a colon go away, as a proxy takes them away (RFC 9112 §5.1), and what is still
/// no field is left out. An answer that nobody else reads from this connection cannot be played against another reader.
fn parse_mended(fields: &[u8]) -> Result<Headers, String> {
    let (mut good, mut kept) = (Vec::with_capacity(fields.len()), false);
    for line in fields.split_inclusive(|byte| *byte == b'\n') {
        let mut line = Cow::Borrowed(line);
        // The continuation of a line goes the way of that line.
        if !line.starts_with(b" ") && !line.starts_with(b"\t") {
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or(0);
            let (name, value) = line.split_at(colon);
            line = [name.trim_ascii_end(), value].concat().into();
            kept = Headers::parse(&line).is_ok();
        }
        if kept {
            good.extend_from_slice(&line);
        }
    }
    Headers::parse(&good).map_err(|error| format!("the head of the server's answer cannot be read: {error}"))
}

/// The body of an answer, as far as it came.
pub(super) struct AnswerBody {
    decoder: Decoder,
    max: usize,
    /// At most `max` bytes.
    pub(super) bytes: Vec<u8>,
    /// It came to its end.
    pub(super) complete: bool,
    /// It is longer than `max` bytes.
    pub(super) over_limit: bool,
}

impl AnswerBody {
    pub(super) fn new(framing: Framing, max: usize) -> Self {
        AnswerBody {
            decoder: Decoder::new(framing),
            max,
            bytes: Vec::new(),
            complete: false,
            over_limit: false,
        }
    }

    /// Takes what is at hand; true once no more is wanted: it is whole, over the limit or broken.
    pub(super) fn take(&mut self, buffer: &mut BytesMut) -> bool {
        loop {
            match self.decoder.step(buffer) {
                Ok(Step::Piece(piece)) => {
                    let room = self.max - self.bytes.len();
                    self.bytes.extend_from_slice(piece.get(..piece.len().min(room)).unwrap_or_default());
                    if piece.len() > room {
                        self.over_limit = true;
                        return true;
                    }
                }
                Ok(Step::End) => {
                    self.complete = true;
                    return true;
                }
                Ok(Step::Starved) => return false,
                Err(_) => return true,
            }
        }
    }

    /// The connection ended: some bodies end with it.
    pub(super) fn end(&mut self) {
        self.complete = self.decoder.may_end_here();
    }
}
