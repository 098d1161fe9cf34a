//! HTTP/1.1 framing, shared by the client and the server (RFC 9112 §6, §7): a buffered source and a body decoder.
//!
//! The decoder does no I/O, so that a read may be given up (a deadline, a stop) without losing its place.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Most bytes in one piece of a body.
pub(crate) const PIECE: usize = 256 * 1024;
/// Memory asked for one read; a connection that sends slowly holds no more than this.
const READ: usize = 16 * 1024;
/// Longest line that announces a chunk, with its extensions.
const MAX_CHUNK_LINE: usize = 4 * 1024;
/// Most bytes of trailers after the last chunk.
const MAX_TRAILERS: usize = 16 * 1024;

/// Bytes that came and were not used yet, and where more come from.
pub(crate) struct Source<R> {
    stream: R,
    pub(crate) buffer: BytesMut,
    // An error met while looking for more, kept until the bytes before it are used.
    trouble: Option<io::Error>,
}

impl<R: AsyncRead + Unpin> Source<R> {
    pub(crate) fn new(stream: R) -> Self {
        Source {
            stream,
            buffer: BytesMut::new(),
            trouble: None,
        }
    }

    /// Waits for more bytes and takes what is there at once, up to a whole piece; 0 is the end. Safe to cancel.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        if let Some(trouble) = self.trouble.take() {
            return Err(trouble);
        }
        let before = self.buffer.len();
        self.buffer.reserve(READ);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Ok(0);
        }
        // A TLS record is 16 KiB at most: several that are there already make one piece.
        while self.buffer.len() < PIECE - READ {
            self.buffer.reserve(READ);
            let mut read = pin!(self.stream.read_buf(&mut self.buffer));
            match poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Err(error)) => {
                    self.trouble = Some(error);
                    break;
                }
                Poll::Ready(Ok(0)) | Poll::Pending => break,
            }
        }
        Ok(self.buffer.len() - before)
    }

    /// The stream, if everything that came was used and nothing went wrong.
    pub(crate) fn into_clean(self) -> Option<R> {
        (self.buffer.is_empty() && self.trouble.is_none()).then_some(self.stream)
    }

    pub(crate) fn stream(&mut self) -> &mut R {
        &mut self.stream
    }
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Content-Length.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// The end of the connection; answers only.
    UntilClose,
}

/// What the decoder has to say about the bytes at hand.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Some of the body.
    Piece(Bytes),
    /// More bytes are needed.
    Starved,
    /// The body is whole.
    End,
}

/// Takes a body out of a buffer, piece by piece.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Counted(u64),
    Endless,
    ChunkLine,
    Chunk(u64),
    ChunkEnd,
    Trailers(usize),
    Done,
}

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(length) => State::Counted(length),
            Framing::Chunked => State::ChunkLine,
            Framing::UntilClose => State::Endless,
        };
        Decoder { state }
    }

    /// Whether the end of the connection is the end of this body.
    pub(crate) fn may_end_here(&self) -> bool {
        matches!(self.state, State::Endless | State::Done | State::Counted(0))
    }

    /// One step.
    ///
    /// # Errors
    /// What is wrong with the chunks.
    pub(crate) fn step(&mut self, buffer: &mut BytesMut) -> Result<Step, &'static str> {
        loop {
            match self.state {
                State::Done | State::Counted(0) => {
                    self.state = State::Done;
                    return Ok(Step::End);
                }
                State::Counted(left) => {
                    let Some(piece) = take(buffer, left) else {
                        return Ok(Step::Starved);
                    };
                    self.state = State::Counted(left - piece.len() as u64);
                    return Ok(Step::Piece(piece));
                }
                State::Endless => return Ok(take(buffer, u64::MAX).map_or(Step::Starved, Step::Piece)),
                State::Chunk(0) => self.state = State::ChunkEnd,
                State::Chunk(left) => {
                    let Some(piece) = take(buffer, left) else {
                        return Ok(Step::Starved);
                    };
                    self.state = State::Chunk(left - piece.len() as u64);
                    return Ok(Step::Piece(piece));
                }
                State::ChunkEnd => match line(buffer, 0)? {
                    Some(_) => self.state = State::ChunkLine,
                    None => return Ok(Step::Starved),
                },
                State::ChunkLine => match line(buffer, MAX_CHUNK_LINE)? {
                    Some(line) => {
                        let size = chunk_size(&line)?;
                        self.state = if size == 0 { State::Trailers(0) } else { State::Chunk(size) };
                    }
                    None => return Ok(Step::Starved),
                },
                State::Trailers(seen) => match line(buffer, MAX_TRAILERS - seen)? {
                    Some(line) if line.is_empty() => self.state = State::Done,
                    // Trailers are dropped: nothing of AS2 may stand there.
                    Some(line) => self.state = State::Trailers((seen + line.len() + 2).min(MAX_TRAILERS)),
                    None => return Ok(Step::Starved),
                },
            }
        }
    }
}

fn take(buffer: &mut BytesMut, left: u64) -> Option<Bytes> {
    let length = buffer.len().min(PIECE).min(usize::try_from(left).unwrap_or(usize::MAX));
    (length > 0).then(|| buffer.split_to(length).freeze())
}

/// A line of at most `limit` bytes without its CRLF, if it is there. A bare LF is no line end here: two parsers that
/// differ on it can be played against each other.
fn line(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, &'static str> {
    let Some(at) = buffer.iter().take(limit + 2).position(|byte| *byte == b'\n') else {
        return if buffer.len() >= limit + 2 {
            Err("a chunk does not end where it should")
        } else {
            Ok(None)
        };
    };
    if at == 0 || buffer.get(at - 1) != Some(&b'\r') {
        return Err("a bare LF among the chunks");
    }
    let mut line = buffer.split_to(at + 1);
    line.truncate(at - 1);
    if line.iter().any(|byte| matches!(byte, 0 | b'\r')) {
        return Err("a control character among the chunks");
    }
    Ok(Some(line.freeze()))
}

/// `1a`, `1a ;name=value`: hexadecimal, at most 16 digits, blanks after it tolerated (as2.md Q30).
fn chunk_size(line: &[u8]) -> Result<u64, &'static str> {
    let size = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    if size.is_empty() || size.len() > 16 || !size.iter().all(u8::is_ascii_hexdigit) {
        return Err("a chunk size is no number");
    }
    let text = str::from_utf8(size).map_err(|_| "a chunk size is no number")?;
    u64::from_str_radix(text, 16).map_err(|_| "a chunk size is no number")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    /// Feeds `input` in pieces of `n` bytes and puts the body together.
    fn decode(framing: Framing, input: &[u8], n: usize) -> Result<(Vec<u8>, Vec<u8>, bool), &'static str> {
        let (mut decoder, mut buffer, mut body, mut chunks) = (Decoder::new(framing), BytesMut::new(), Vec::new(), input.chunks(n));
        loop {
            match decoder.step(&mut buffer)? {
                Step::Piece(piece) => body.extend_from_slice(&piece),
                Step::End => {
                    buffer.extend_from_slice(&chunks.flatten().copied().collect::<Vec<_>>());
                    return Ok((body, buffer.to_vec(), true));
                }
                Step::Starved => match chunks.next() {
                    Some(more) => buffer.extend_from_slice(more),
                    None => return Ok((body, buffer.to_vec(), decoder.may_end_here())),
                },
            }
        }
    }

    #[test]
    fn chunks_come_apart_at_every_cut() {
        let input = b"4\r\nWiki\r\n0005 ;a=b\r\npedia\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\nnext";
        for n in 1..input.len() {
            assert_eq!(
                decode(Framing::Chunked, input, n).unwrap(),
                (b"Wikipedia0123456789".to_vec(), b"next".to_vec(), true),
                "cut {n}"
            );
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        for input in [
            "4\nWiki\r\n0\r\n\r\n",
            "-1\r\n",
            "0x4\r\nWiki",
            "4\r\nWikiX\r\n",
            "\r\n",
            "11111111111111111\r\n",
            "4 4\r\n",
            "4\r\nWiki\n0\r\n\r\n",
        ] {
            assert!(decode(Framing::Chunked, input.as_bytes(), 3).is_err(), "{input:?}");
        }
        let long = format!("1;{}\r\n", "x".repeat(MAX_CHUNK_LINE));
        assert!(decode(Framing::Chunked, long.as_bytes(), 100).is_err());
        let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(MAX_TRAILERS / 6 + 2));
        assert!(decode(Framing::Chunked, trailers.as_bytes(), 100).is_err());
    }

    #[test]
    fn counted_and_endless_bodies() {
        assert_eq!(
            decode(Framing::Length(5), b"helloNEXT", 2).unwrap(),
            (b"hello".to_vec(), b"NEXT".to_vec(), true)
        );
        assert!(!decode(Framing::Length(9), b"hello", 2).unwrap().2);
        assert!(decode(Framing::UntilClose, b"hello", 2).unwrap().2);
    }
}
