//! One octet string of any size, taken out of the structure around it while both arrive in pieces.

use crate::cms::ber::{self, Fault, Header, Reader};
use crate::error::{Error, ErrorKind};

/// Nested constructed octet strings.
pub(crate) const MAX_NESTING: usize = 8;
/// Empty pieces in one string: each costs two bytes to send and more to handle.
pub(crate) const MAX_EMPTY_PIECES: u32 = 1000;
/// Bytes before the content: algorithms and recipients.
pub(crate) const MAX_HEAD: usize = 256 * 1024;
/// Bytes after the content: attributes, tags, certificates, signatures.
pub(crate) const MAX_TAIL: usize = 256 * 1024;
/// A head is read again when it has doubled or grown by this many bytes, so that feeding single bytes stays cheap.
const HEAD_STEP: usize = 1024;

/// What a head says about the string that follows it.
pub(crate) struct Start {
    /// Offset of the string's contents in the message.
    pub(crate) at: usize,
    /// The string's own header.
    pub(crate) header: Header,
}

/// A message around one octet string: a head that is read at once, the string in pieces, a tail that is read at once.
pub(crate) struct Stream {
    kind: ErrorKind,
    stage: Stage,
    /// The head or the tail, as far as it has come.
    buffer: Vec<u8>,
    /// Size of the buffer at which the head is worth another reading.
    next_try: usize,
}

enum Stage {
    Head,
    Content(Octets),
    /// The tail, which begins at this offset of the message.
    Tail(u64),
}

/// One CMS structure: understands the head, uses the content.
pub(crate) trait Layer {
    /// Reads the head from its start; `Ok(Err(..))` is a decision against a well-formed head.
    fn head(&mut self, bytes: &[u8]) -> Result<Result<Start, Error>, Fault>;
    /// Takes octets of the string.
    fn content(&mut self, octets: &[u8]) -> Result<(), Error>;
}

impl Stream {
    /// Structural faults become errors of this kind.
    pub(crate) fn new(kind: ErrorKind) -> Self {
        Stream {
            kind,
            stage: Stage::Head,
            buffer: Vec::new(),
            next_try: 16,
        }
    }

    pub(crate) fn push(&mut self, mut bytes: &[u8], layer: &mut impl Layer) -> Result<(), Error> {
        while !bytes.is_empty() {
            match &mut self.stage {
                Stage::Head => {
                    let wanted = self.next_try.saturating_sub(self.buffer.len()).min(bytes.len());
                    self.buffer.extend_from_slice(&bytes[..wanted]);
                    bytes = &bytes[wanted..];
                    if self.buffer.len() >= self.next_try {
                        self.try_head(layer)?;
                    }
                }
                Stage::Content(octets) => {
                    let used = octets.push(bytes, self.kind, &mut |piece| layer.content(piece))?;
                    bytes = &bytes[used..];
                    if octets.is_done() {
                        self.stage = Stage::Tail(octets.at);
                    }
                }
                Stage::Tail(_) => {
                    if self.buffer.len() + bytes.len() > MAX_TAIL {
                        return Err(Error::new(self.kind, "too many bytes after the content"));
                    }
                    self.buffer.extend_from_slice(bytes);
                    bytes = &[];
                }
            }
        }
        Ok(())
    }

    fn try_head(&mut self, layer: &mut impl Layer) -> Result<(), Error> {
        match layer.head(&self.buffer) {
            Ok(start) => {
                let start = start?;
                let octets = Octets::new(start.header, start.at as u64);
                let rest = self.buffer.split_off(start.at);
                self.buffer.clear();
                self.stage = if octets.is_done() {
                    Stage::Tail(octets.at)
                } else {
                    Stage::Content(octets)
                };
                self.push(&rest, layer)
            }
            Err(Fault::NeedMore) if self.buffer.len() >= MAX_HEAD => Err(Error::new(self.kind, "too many bytes before the content")),
            Err(Fault::NeedMore) => {
                let size = self.buffer.len();
                self.next_try = (size * 2).min(size + HEAD_STEP).max(size + 1).min(MAX_HEAD);
                Ok(())
            }
            Err(fault) => Err(fault.into_error(self.kind)),
        }
    }

    /// No more bytes will come. Gives the tail and its offset in the message.
    pub(crate) fn finish(&mut self, layer: &mut impl Layer) -> Result<(Vec<u8>, u64), Error> {
        if matches!(self.stage, Stage::Head) {
            self.try_head(layer)?;
        }
        match self.stage {
            Stage::Tail(base) => Ok((std::mem::take(&mut self.buffer), base)),
            Stage::Head | Stage::Content(_) => Err(Error::new(self.kind, "truncated message")),
        }
    }
}

/// Only whitespace may follow the outermost element: some senders end the body with a line.
pub(crate) fn end_of_message(reader: &Reader<'_>) -> Result<(), Fault> {
    if reader.rest().iter().all(u8::is_ascii_whitespace) {
        Ok(())
    } else {
        Err(Fault::Bad("bytes after the message"))
    }
}

/// The octets of one string, primitive or constructed, definite or indefinite (X.690 §8.7). Zeros inside the data end nothing:
/// only lengths count.
struct Octets {
    /// Offset in the message of the next byte.
    at: u64,
    /// Ends of the constructed strings that are open, outermost first; none is indefinite.
    open: Vec<Option<u64>>,
    /// Bytes to come of the piece at hand.
    left: u64,
    /// A header that is not complete.
    carry: Vec<u8>,
    empty: u32,
}

impl Octets {
    fn new(header: Header, at: u64) -> Self {
        let mut octets = Octets {
            at,
            open: Vec::new(),
            left: 0,
            carry: Vec::with_capacity(10),
            empty: 0,
        };
        match header.length {
            Some(length) if header.id & 0x20 == 0 => octets.left = length,
            length => octets.open.push(length.map(|length| at + length)),
        }
        // An empty definite string is complete at once; its offsets cannot be wrong.
        if octets.open.last() == Some(&Some(at)) {
            octets.open.pop();
        }
        octets
    }

    fn is_done(&self) -> bool {
        self.left == 0 && self.open.is_empty()
    }

    /// Takes what belongs to the string from the start of `bytes` and says how many bytes that were.
    fn push(&mut self, bytes: &[u8], kind: ErrorKind, out: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<usize, Error> {
        let mut used = 0;
        while used < bytes.len() && !self.is_done() {
            if self.left > 0 {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - used);
                out(&bytes[used..used + here])?;
                used += here;
                self.left -= here as u64;
                self.at += here as u64;
            } else {
                self.carry.push(bytes[used]);
                used += 1;
                self.at += 1;
                match self.piece() {
                    Ok(()) => self.carry.clear(),
                    Err(Fault::NeedMore) => continue,
                    Err(fault) => return Err(fault.into_error(kind)),
                }
            }
            if self.left == 0 {
                self.close().map_err(|fault| fault.into_error(kind))?;
            }
        }
        Ok(used)
    }

    /// Reads the header in the carry: a piece, a nested string, or the end of one.
    fn piece(&mut self) -> Result<(), Fault> {
        let header = ber::header(&self.carry)?;
        let limit = self.open.iter().rev().find_map(|end| *end);
        let end = header.length.map(|length| self.at + length);
        if limit.is_some_and(|limit| end.unwrap_or(self.at) > limit) {
            return Err(Fault::Bad("an octet string is longer than the one around it"));
        }
        match (header.id, header.length) {
            (0, Some(0)) if self.carry.len() == 2 && self.open.last() == Some(&None) => {
                self.open.pop();
            }
            (ber::OCTET_STRING, Some(length)) => {
                self.left = length;
                self.count_empty(length == 0)?;
            }
            (ber::CONSTRUCTED_OCTETS, length) => {
                if self.open.len() >= MAX_NESTING {
                    return Err(Fault::Bad("octet strings nested too deeply"));
                }
                self.open.push(end);
                self.count_empty(length.is_none_or(|length| length == 0))?;
            }
            _ => return Err(Fault::Bad("the content holds something that is no octet string")),
        }
        Ok(())
    }

    /// Counts pieces that bring nothing; a nested string of indefinite length may be one.
    fn count_empty(&mut self, empty: bool) -> Result<(), Fault> {
        self.empty += u32::from(empty);
        if self.empty > MAX_EMPTY_PIECES {
            Err(Fault::Bad("too many empty pieces"))
        } else {
            Ok(())
        }
    }

    /// Leaves the definite strings that end here.
    fn close(&mut self) -> Result<(), Fault> {
        while let Some(Some(end)) = self.open.last() {
            if self.at < *end {
                break;
            }
            if self.at > *end {
                return Err(Fault::Bad("an octet string does not end where it says"));
            }
            self.open.pop();
        }
        Ok(())
    }
}
