//! CompressedData (RFC 3274, RFC 5402): zlib streams (RFC 1950) in CMS, both ways and with ceilings.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::cms::ber::{self, Fault, Reader};
use crate::cms::octets::{Layer, Start, Stream, end_of_message};
use crate::cms::oid;
use crate::error::{Error, ErrorKind};

/// zlib's level. EDI text shrinks to about a sixth at any level, and higher ones take five times as long.
pub const LEVEL: u32 = 2;
/// Bytes of compressed content in one piece of the BER form.
pub const CHUNK: usize = 64 * 1024;
/// Ends of the string, `[0]`, EncapsulatedContentInfo, CompressedData, `[0]`, ContentInfo.
pub(crate) const BER_END: [u8; 12] = [0; 12];
/// Inflated bytes per compressed byte that are let through, plus [`MAX_RATIO_START`].
pub const MAX_RATIO: u64 = 200;
/// Inflated bytes that are let through whatever the ratio.
pub const MAX_RATIO_START: u64 = 1024 * 1024;
/// Inflated bytes beyond the ratio of what has come so far, where the rest of a message of known length could make up for them.
pub const MAX_AHEAD: u64 = 256 * 1024 * 1024;
/// Bytes that the compressor or the inflater gives at once.
const STEP: usize = 64 * 1024;

/// Everything before the zlib stream in CompressedData with definite lengths, for a stream of `zlib_len` bytes. Nothing follows it.
#[must_use]
pub fn compressed_prefix(zlib_len: u64) -> Vec<u8> {
    let with_header = |length: u64| ber::header_len(length) + length;
    let fixed = fixed_fields();
    let (kind, data) = (ber::oid(oid::DATA), ber::oid(oid::COMPRESSED_DATA));
    let octets = with_header(zlib_len);
    let info = kind.len() as u64 + with_header(octets);
    let body = fixed.len() as u64 + with_header(info);
    let outer = data.len() as u64 + with_header(with_header(body));
    let mut prefix = Vec::new();
    ber::put_header(&mut prefix, ber::SEQUENCE, outer);
    prefix.extend(data);
    ber::put_header(&mut prefix, ber::context(0), with_header(body));
    ber::put_header(&mut prefix, ber::SEQUENCE, body);
    prefix.extend(fixed);
    ber::put_header(&mut prefix, ber::SEQUENCE, info);
    prefix.extend(kind);
    ber::put_header(&mut prefix, ber::context(0), octets);
    ber::put_header(&mut prefix, ber::OCTET_STRING, zlib_len);
    prefix
}

/// The same with indefinite lengths: pieces of [`CHUNK`] bytes follow, and [`BER_END`].
pub(crate) fn ber_prefix() -> Vec<u8> {
    let (data, kind, fixed) = (ber::oid(oid::COMPRESSED_DATA), ber::oid(oid::DATA), fixed_fields());
    [
        &[0x30, 0x80],
        &data[..],
        &[0xa0, 0x80, 0x30, 0x80],
        &fixed,
        &[0x30, 0x80],
        &kind,
        &[0xa0, 0x80, 0x24, 0x80],
    ]
    .concat()
}

/// CMSVersion 0 and the algorithm, without parameters (RFC 3274 §1.1, §2).
fn fixed_fields() -> Vec<u8> {
    [ber::integer(0), ber::algorithm(oid::ZLIB, &[])].concat()
}

/// Makes a bare zlib stream, for a composer that learns its length before it writes [`compressed_prefix`].
pub struct Compressor {
    state: Compress,
}

impl Default for Compressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Compressor {
    /// At [`LEVEL`].
    #[must_use]
    pub fn new() -> Self {
        Compressor {
            state: Compress::new(Compression::new(LEVEL), true),
        }
    }

    /// Appends what is ready of the stream to `out`.
    ///
    /// # Errors
    /// `UnexpectedProcessingError` if the library fails.
    pub fn push(&mut self, mut plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        while !plain.is_empty() {
            let before = self.state.total_in();
            self.step(plain, FlushCompress::None, out)?;
            plain = &plain[(self.state.total_in() - before) as usize..];
        }
        Ok(())
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// As [`Compressor::push`].
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.end(out)
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        while self.step(&[], FlushCompress::Finish, out)? != Status::StreamEnd {}
        Ok(())
    }

    fn step(&mut self, plain: &[u8], flush: FlushCompress, out: &mut Vec<u8>) -> Result<Status, Error> {
        let start = out.len();
        out.resize(start + STEP, 0);
        let before = self.state.total_out();
        let status = self.state.compress(plain, &mut out[start..], flush);
        out.truncate(start + (self.state.total_out() - before) as usize);
        status.map_err(|error| Error::new(ErrorKind::UnexpectedProcessingError, error.to_string()))
    }
}

/// Writes CompressedData with indefinite lengths, in pieces of [`CHUNK`] bytes: the length is not known beforehand.
pub struct Deflater {
    compressor: Compressor,
    /// Written before the first piece, then empty.
    prefix: Vec<u8>,
    /// Compressed bytes that do not fill a piece yet.
    pending: Vec<u8>,
}

impl Default for Deflater {
    fn default() -> Self {
        Self::new()
    }
}

impl Deflater {
    /// For one message.
    #[must_use]
    pub fn new() -> Self {
        Deflater {
            compressor: Compressor::new(),
            prefix: ber_prefix(),
            pending: Vec::new(),
        }
    }

    /// Compresses the next bytes; what is ready of the message is appended to `out`.
    ///
    /// # Errors
    /// `UnexpectedProcessingError` if the library fails.
    pub fn push(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        out.append(&mut self.prefix);
        for piece in plain.chunks(STEP) {
            self.compressor.push(piece, &mut self.pending)?;
            while self.pending.len() >= CHUNK {
                put_piece(&self.pending[..CHUNK], out);
                self.pending.drain(..CHUNK);
            }
        }
        Ok(())
    }

    /// Ends the message.
    ///
    /// # Errors
    /// As [`Deflater::push`].
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        out.append(&mut self.prefix);
        self.compressor.end(&mut self.pending)?;
        self.pending.chunks(CHUNK).for_each(|piece| put_piece(piece, out));
        out.extend_from_slice(&BER_END);
        Ok(())
    }
}

fn put_piece(piece: &[u8], out: &mut Vec<u8>) {
    ber::put_header(out, ber::OCTET_STRING, piece.len() as u64);
    out.extend_from_slice(piece);
}

/// Reads CompressedData, BER or DER, that arrives in pieces.
pub struct Inflater {
    stream: Stream,
    state: State,
    failed: Option<Error>,
}

struct State {
    inflate: Decompress,
    max_out: u64,
    /// Compressed bytes that the ratio is held against, or more, once more have come.
    whole: u64,
    ended: bool,
    /// Ends of ContentInfo, its `[0]`, CompressedData, EncapsulatedContentInfo, its `[0]`.
    frames: [Option<u64>; 5],
    buffer: Vec<u8>,
}

impl Inflater {
    /// Gives at most `max_out` bytes, and at most [`MAX_RATIO`] per compressed byte plus [`MAX_RATIO_START`]; see
    /// [`Inflater::part_of`].
    #[must_use]
    pub fn new(max_out: u64) -> Self {
        let state = State {
            inflate: Decompress::new(true),
            max_out,
            whole: 0,
            ended: false,
            frames: [None; 5],
            buffer: vec![0; STEP],
        };
        Inflater {
            stream: Stream::new(ErrorKind::DecompressionFailed),
            state,
            failed: None,
        }
    }

    /// So long is the message of which this is a part, which the caller has in hand. Then the ratio is that of the whole (as2.md
    /// SEC2), and no more than [`MAX_AHEAD`] beyond it comes before its time; else it is that of what has come so far, of which a
    /// long row of blanks is too much. What the message itself says about its length counts for nothing: it costs nothing to say.
    #[must_use]
    pub fn part_of(mut self, length: u64) -> Self {
        self.state.whole = length;
        self
    }

    /// Takes the next bytes of the message and hands on what they inflate to, at most 64 KiB at once.
    ///
    /// # Errors
    /// `DecompressionFailed` if it is no CompressedData with zlib, or too much comes out; then the same again. Errors of `sink`
    /// as they are.
    pub fn push(&mut self, cms: &[u8], sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        self.guard(|stream, state| stream.push(cms, &mut InflateLayer { state, sink }))
    }

    /// The message is complete: checks its end and the stream's checksum.
    ///
    /// # Errors
    /// As [`Inflater::push`].
    pub fn finish(&mut self, sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        self.guard(|stream, state| {
            let (tail, base) = stream.finish(&mut InflateLayer { state, sink })?;
            if !state.ended {
                return Err(broken("the zlib stream is not complete"));
            }
            let [outer, explicit, data, info, inner] = state.frames;
            let read = || {
                let mut reader = Reader::new(&tail);
                for end in [inner, info, data, explicit, outer] {
                    reader.close(base, end)?;
                }
                end_of_message(&reader)
            };
            read().map_err(|fault| fault.into_error(ErrorKind::DecompressionFailed))
        })
    }

    fn guard<T>(&mut self, step: impl FnOnce(&mut Stream, &mut State) -> Result<T, Error>) -> Result<T, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        step(&mut self.stream, &mut self.state).inspect_err(|error| self.failed = Some(error.clone()))
    }
}

/// What may have come out of so much, of a message of this length, 0 if that is not known.
fn allowed(input: u64, whole: u64) -> u64 {
    let so_far = MAX_RATIO.saturating_mul(input);
    if whole == 0 {
        return so_far.saturating_add(MAX_RATIO_START);
    }
    let in_all = MAX_RATIO.saturating_mul(whole.max(input)).saturating_add(MAX_RATIO_START);
    in_all.min(so_far.saturating_add(MAX_AHEAD))
}

fn broken(detail: &str) -> Error {
    Error::new(ErrorKind::DecompressionFailed, detail)
}

struct InflateLayer<'a> {
    state: &'a mut State,
    sink: &'a mut dyn FnMut(&[u8]) -> Result<(), Error>,
}

impl Layer for InflateLayer<'_> {
    fn head(&mut self, bytes: &[u8]) -> Result<Result<Start, Error>, Fault> {
        let mut reader = Reader::new(bytes);
        let outer = reader.open(ber::SEQUENCE)?;
        if reader.expect(ber::OID)?.body != oid::COMPRESSED_DATA {
            return Err(Fault::Bad("not CompressedData"));
        }
        let explicit = reader.open(ber::context(0))?;
        let data = reader.open(ber::SEQUENCE)?;
        reader.expect(ber::INTEGER)?;
        let mut algorithm = reader.expect(ber::SEQUENCE)?.reader();
        // NULL parameters, as some send, say nothing.
        if algorithm.expect(ber::OID)?.body != oid::ZLIB {
            return Err(Fault::Bad("unknown compression"));
        }
        let info = reader.open(ber::SEQUENCE)?;
        reader.expect(ber::OID)?;
        let inner = reader.open(ber::context(0))?;
        let header = reader.open_any()?;
        if header.id & !0x20 != ber::OCTET_STRING {
            return Err(Fault::Bad("the content is no octet string"));
        }
        self.state.frames = [outer, explicit, data, info, inner];
        Ok(Ok(Start { at: reader.at(), header }))
    }

    fn content(&mut self, mut octets: &[u8]) -> Result<(), Error> {
        let state = &mut *self.state;
        // A full buffer may hide that more is ready, also after the last byte was taken.
        let mut more = true;
        while !octets.is_empty() || more {
            if state.ended {
                return if octets.is_empty() {
                    Ok(())
                } else {
                    Err(broken("bytes after the zlib stream"))
                };
            }
            let (before_in, before_out) = (state.inflate.total_in(), state.inflate.total_out());
            let status = state.inflate.decompress(octets, &mut state.buffer, FlushDecompress::None);
            state.ended = status.map_err(|error| broken(&error.to_string()))? == Status::StreamEnd;
            let used = (state.inflate.total_in() - before_in) as usize;
            let made = (state.inflate.total_out() - before_out) as usize;
            octets = &octets[used..];
            more = made == state.buffer.len();
            if used == 0 && made == 0 && !octets.is_empty() {
                return Err(broken("the zlib stream makes no progress"));
            }
            let allowed = allowed(state.inflate.total_in(), state.whole);
            if state.inflate.total_out() > state.max_out.min(allowed) {
                return Err(broken("the content inflates too much"));
            }
            if made > 0 {
                (self.sink)(&state.buffer[..made])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::cms::testkit::{content, in_pieces};
    use proptest::prelude::*;

    fn deflate(plain: &[u8], seed: u64) -> Vec<u8> {
        let mut deflater = Deflater::new();
        let mut out = Vec::new();
        in_pieces(plain, seed, |piece| deflater.push(piece, &mut out)).unwrap();
        deflater.finish(&mut out).unwrap();
        out
    }

    fn definite(plain: &[u8]) -> Vec<u8> {
        let mut compressor = Compressor::new();
        let mut zlib = Vec::new();
        compressor.push(plain, &mut zlib).unwrap();
        compressor.finish(&mut zlib).unwrap();
        [compressed_prefix(zlib.len() as u64), zlib].concat()
    }

    fn inflate(cms: &[u8], max_out: u64, seed: u64) -> Result<Vec<u8>, Error> {
        let mut inflater = Inflater::new(max_out);
        let mut plain = Vec::new();
        let mut sink = |piece: &[u8]| {
            plain.extend_from_slice(piece);
            Ok(())
        };
        in_pieces(cms, seed, |piece| inflater.push(piece, &mut sink))?;
        inflater.finish(&mut sink)?;
        Ok(plain)
    }

    /// Bytes that zlib cannot shrink.
    fn noise(size: usize, mut state: u64) -> Vec<u8> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..size).map(|_| next()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn both_forms_come_back(size in prop_oneof![0usize..100, 60_000usize..200_000], noisy in any::<bool>(), seed in any::<u64>()) {
            let plain = if noisy { noise(size, seed) } else { content(size) };
            prop_assert!(inflate(&deflate(&plain, seed), 1 << 20, !seed).unwrap() == plain);
            prop_assert!(inflate(&definite(&plain), 1 << 20, !seed).unwrap() == plain);
        }
    }

    #[test]
    fn every_truncation_and_every_extension_is_an_error() {
        for message in [definite(&content(300)), deflate(&content(300), 1)] {
            for length in 0..message.len() {
                assert_eq!(
                    inflate(&message[..length], 1 << 20, 3).unwrap_err().kind,
                    ErrorKind::DecompressionFailed,
                    "{length}"
                );
            }
            assert!(inflate(&[&message[..], b"x"].concat(), 1 << 20, 3).is_err());
        }
    }

    #[test]
    fn bombs_stop_at_the_ceiling() {
        let bomb = deflate(&vec![0; 30_000_000], 1);
        assert!(bomb.len() < 200_000);
        let mut largest = 0;
        let mut out = 0u64;
        let mut inflater = Inflater::new(u64::MAX);
        let failed = inflater.push(&bomb, &mut |piece| {
            largest = largest.max(piece.len());
            out += piece.len() as u64;
            Ok(())
        });
        assert_eq!(failed.unwrap_err().kind, ErrorKind::DecompressionFailed);
        assert!(out <= MAX_RATIO * bomb.len() as u64 + MAX_RATIO_START && largest <= STEP);
        assert_eq!(
            inflate(&definite(&content(1000)), 999, 1).unwrap_err().kind,
            ErrorKind::DecompressionFailed
        );
        assert!(inflate(&definite(&content(1000)), 1000, 1).is_ok());
    }

    #[test]
    fn a_known_length_moves_the_ceiling_and_opens_none() {
        const MIB: u64 = 1 << 20;
        assert_eq!(allowed(1000, 0), 200_000 + MIB);
        assert_eq!(allowed(1000, 10_000), 2_000_000 + MIB);
        assert_eq!(allowed(1000, 10_000_000), 200_000 + 256 * MIB);
        assert_eq!(allowed(10_000_000, 10_000_000), 2_000_000_000 + MIB);
        assert_eq!(allowed(1000, 1), 200_000 + MIB);
        assert_eq!(allowed(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn a_wrong_checksum_and_what_follows_the_stream_are_errors() {
        let mut message = definite(&content(500));
        let last = message.len() - 1;
        message[last] ^= 1;
        assert_eq!(inflate(&message, 1 << 20, 1).unwrap_err().kind, ErrorKind::DecompressionFailed);
        let mut zlib = Vec::new();
        Compressor::new().finish(&mut zlib).unwrap();
        zlib.extend(b"more");
        let message = [compressed_prefix(zlib.len() as u64), zlib].concat();
        assert_eq!(inflate(&message, 1 << 20, 1).unwrap_err().kind, ErrorKind::DecompressionFailed);
    }
}
