//! SFTP version 3 packets (draft-ietf-secsh-filexfer-02): cutting the byte stream of a channel into frames, reading the
//! requests in them, writing the answers. Nothing here panics or allocates by a length that the peer only claims.

use crate::attrs;
use crate::tree::{Fault, SetStat, Stat};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::VecDeque;

/// Longest packet after its length field, as OpenSSH; a longer one ends the channel.
pub const MAX_PACKET: usize = 262_144;
/// Longest answer to a READ, and the length of both READ and WRITE that `limits@openssh.com` advertises; a longer WRITE is taken as
/// far as [`MAX_PACKET`] lets it. OpenSSH uploads in blocks of this length, and since it is
/// no power of two or ten, a file that ends on a full block was most probably cut off (see [`UploadFacts`](crate::UploadFacts)).
pub const MAX_DATA: usize = 261_120;
/// Longest handle that is looked at (draft-02 §7).
const MAX_HANDLE_BYTES: usize = 256;
/// Longest text of a status answer.
const MAX_STATUS_TEXT: usize = 512;
/// From this many pieces on, an unfinished packet is joined: a client that sends single bytes pays for them, not we.
const JOIN_PIECES: usize = 64;
/// What one message of the transport costs us beside its bytes.
pub(crate) const PIECE_COST: usize = 256;

const INIT: u8 = 1;
const VERSION: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const LSTAT: u8 = 7;
const FSTAT: u8 = 8;
const SETSTAT: u8 = 9;
const FSETSTAT: u8 = 10;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const REMOVE: u8 = 13;
const MKDIR: u8 = 14;
const RMDIR: u8 = 15;
const REALPATH: u8 = 16;
const STAT: u8 = 17;
const RENAME: u8 = 18;
const READLINK: u8 = 19;
const SYMLINK: u8 = 20;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED: u8 = 200;
const EXTENDED_REPLY: u8 = 201;

/// OPEN flags (draft-02 §6.3).
pub(crate) mod pflags {
    pub(crate) const READ: u32 = 0x01;
    pub(crate) const WRITE: u32 = 0x02;
    pub(crate) const APPEND: u32 = 0x04;
    pub(crate) const CREAT: u32 = 0x08;
    pub(crate) const TRUNC: u32 = 0x10;
    pub(crate) const EXCL: u32 = 0x20;
}

/// Status codes (draft-02 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Ok = 0,
    Eof = 1,
    NoSuchFile = 2,
    PermissionDenied = 3,
    Failure = 4,
    BadMessage = 5,
    OpUnsupported = 8,
}

/// A body that ends too early or claims too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The stream is no SFTP any more; the channel must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("an SFTP packet of {0} bytes")]
    Length(u32),
    #[error("an SFTP packet too short for a request")]
    Short,
    #[error("the first packet is not INIT, or a later one is")]
    Init,
    #[error("SFTP version {0}")]
    Version(u32),
    #[error("the client does not read its answers")]
    NotReading,
}

// ------------------------------------------------------------------------------------------------ bytes to frames

/// The bytes of a channel that are not requests yet, in the pieces in which they came.
#[derive(Default)]
pub(crate) struct Input {
    pieces: VecDeque<Bytes>,
    have: usize,
    need: Option<usize>,
}

/// One packet.
#[derive(Debug)]
pub(crate) enum Frame {
    /// A WRITE: its data stay in the pieces in which they came.
    Write {
        id: u32,
        handle: Bytes,
        offset: u64,
        data: Vec<Bytes>,
    },
    /// A WRITE whose lengths do not fit.
    BadWrite { id: u32, handle: Bytes },
    /// Any other type, in one piece.
    Other { kind: u8, body: Bytes },
}

impl Frame {
    /// What a frame that waits costs, as [`Input::cost`].
    pub(crate) fn cost(&self) -> usize {
        match self {
            Frame::Write { data, .. } => data.iter().map(|piece| piece.len() + PIECE_COST).sum(),
            Frame::BadWrite { .. } => PIECE_COST,
            Frame::Other { body, .. } => body.len() + PIECE_COST,
        }
    }
}

impl Input {
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.have += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Bytes held that are not requests yet.
    pub(crate) fn len(&self) -> usize {
        self.have
    }

    /// What the held bytes cost, [`PIECE_COST`] per piece included.
    pub(crate) fn cost(&self) -> usize {
        self.have + self.pieces.len() * PIECE_COST
    }

    /// The next whole packet, `None` if more bytes are needed.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, Broken> {
        let need = match self.need {
            Some(n) => n,
            None if self.have < 4 => return Ok(None),
            None => {
                let length = self.take(4).get_u32();
                let n = usize::try_from(length).unwrap_or(usize::MAX);
                if n == 0 || n > MAX_PACKET {
                    return Err(Broken::Length(length));
                }
                self.need = Some(n);
                n
            }
        };
        if self.have < need {
            if self.pieces.len() > JOIN_PIECES {
                let all = self.take(self.have);
                self.push(all);
            }
            return Ok(None);
        }
        self.need = None;
        let kind = self.take(1).get_u8();
        if kind == WRITE {
            self.write(need - 1).map(Some)
        } else {
            Ok(Some(Frame::Other {
                kind,
                body: self.take(need - 1),
            }))
        }
    }

    fn write(&mut self, length: usize) -> Result<Frame, Broken> {
        if length < 8 {
            return Err(Broken::Short);
        }
        let mut head = self.take(8);
        let (id, handle_len) = (head.get_u32(), usize::try_from(head.get_u32()).unwrap_or(usize::MAX));
        let mut rest = length - 8;
        if handle_len > MAX_HANDLE_BYTES || rest < handle_len + 12 {
            self.take(rest);
            return Ok(Frame::BadWrite { id, handle: Bytes::new() });
        }
        let handle = self.take(handle_len);
        let mut head = self.take(12);
        let (offset, data_len) = (head.get_u64(), usize::try_from(head.get_u32()).unwrap_or(usize::MAX));
        rest -= handle_len + 12;
        if data_len > rest {
            self.take(rest);
            return Ok(Frame::BadWrite { id, handle });
        }
        let mut data = Vec::new();
        self.take_pieces(data_len, &mut data);
        self.take(rest - data_len);
        Ok(Frame::Write { id, handle, offset, data })
    }

    /// Takes `n` bytes in one piece; at most what is there.
    fn take(&mut self, n: usize) -> Bytes {
        let n = n.min(self.have);
        if let Some(front) = self.pieces.front_mut()
            && front.len() > n
        {
            self.have -= n;
            return front.split_to(n);
        }
        let mut parts = Vec::new();
        self.take_pieces(n, &mut parts);
        if parts.len() == 1 {
            return parts.pop().unwrap_or_default();
        }
        let mut joined = BytesMut::with_capacity(n);
        parts.iter().for_each(|p| joined.put_slice(p));
        joined.freeze()
    }

    fn take_pieces(&mut self, mut n: usize, out: &mut Vec<Bytes>) {
        while n > 0 {
            let Some(mut front) = self.pieces.pop_front() else { return };
            let part = if front.len() > n {
                let part = front.split_to(n);
                self.pieces.push_front(front);
                part
            } else {
                front
            };
            n -= part.len();
            self.have -= part.len();
            out.push(part);
        }
    }
}

// ---------------------------------------------------------------------------------------------- frames to requests

/// Reads the fields of a body.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        let (head, rest) = self.0.split_first_chunk::<4>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*head))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        let (head, rest) = self.0.split_first_chunk::<8>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u64::from_be_bytes(*head))
    }

    pub(crate) fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        let (head, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }
}

/// A request other than WRITE. Paths and handles are still the client's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    Open {
        path: &'a [u8],
        flags: u32,
        set: SetStat,
    },
    Close {
        handle: &'a [u8],
    },
    Read {
        handle: &'a [u8],
        offset: u64,
        len: u32,
    },
    Lstat {
        path: &'a [u8],
    },
    Fstat {
        handle: &'a [u8],
    },
    SetStat {
        path: &'a [u8],
        set: SetStat,
    },
    FsetStat {
        handle: &'a [u8],
        set: SetStat,
    },
    OpenDir {
        path: &'a [u8],
    },
    ReadDir {
        handle: &'a [u8],
    },
    Remove {
        path: &'a [u8],
    },
    MkDir {
        path: &'a [u8],
        set: SetStat,
    },
    RmDir {
        path: &'a [u8],
    },
    RealPath {
        path: &'a [u8],
    },
    Stat {
        path: &'a [u8],
    },
    Rename {
        from: &'a [u8],
        to: &'a [u8],
    },
    ReadLink {
        path: &'a [u8],
    },
    /// In OpenSSH's order of the fields, which all clients have taken over.
    SymLink {
        target: &'a [u8],
        path: &'a [u8],
    },
    Extended(Extension<'a>),
    /// A type that version 3 does not have, or an extension that we do not.
    Unknown,
}

/// One of OpenSSH's extensions (PROTOCOL §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extension<'a> {
    PosixRename { from: &'a [u8], to: &'a [u8] },
    StatVfs { path: &'a [u8] },
    FstatVfs { handle: &'a [u8] },
    Fsync { handle: &'a [u8] },
    LsetStat { path: &'a [u8], set: SetStat },
    Limits,
    ExpandPath { path: &'a [u8] },
    Home,
    Names { users: &'a [u8], groups: &'a [u8] },
    HardLink { old: &'a [u8], new: &'a [u8] },
}

type ReadExtension = for<'a> fn(&mut Reader<'a>) -> Result<Extension<'a>, Malformed>;

const HARDLINK: &str = "hardlink@openssh.com";

/// The extensions as INIT is answered: name, version, and how the body is read.
const EXTENSIONS: [(&str, &str, ReadExtension); 10] = [
    ("posix-rename@openssh.com", "1", |r| {
        Ok(Extension::PosixRename {
            from: r.string()?,
            to: r.string()?,
        })
    }),
    ("statvfs@openssh.com", "2", |r| Ok(Extension::StatVfs { path: r.string()? })),
    ("fstatvfs@openssh.com", "2", |r| Ok(Extension::FstatVfs { handle: r.string()? })),
    ("fsync@openssh.com", "1", |r| Ok(Extension::Fsync { handle: r.string()? })),
    ("lsetstat@openssh.com", "1", |r| {
        Ok(Extension::LsetStat {
            path: r.string()?,
            set: attrs::decode(r)?,
        })
    }),
    ("limits@openssh.com", "1", |_| Ok(Extension::Limits)),
    ("expand-path@openssh.com", "1", |r| Ok(Extension::ExpandPath { path: r.string()? })),
    ("home-directory", "1", |_| Ok(Extension::Home)),
    ("users-groups-by-id@openssh.com", "1", |r| {
        Ok(Extension::Names {
            users: r.string()?,
            groups: r.string()?,
        })
    }),
    (HARDLINK, "1", |r| {
        Ok(Extension::HardLink {
            old: r.string()?,
            new: r.string()?,
        })
    }),
];

/// The version that an INIT asks for; `None` if the frame is no INIT.
pub(crate) fn init_version(kind: u8, body: &[u8]) -> Option<u32> {
    if kind == INIT { Reader(body).u32().ok() } else { None }
}

/// Reads a request that is not WRITE: its id, and the request or why it cannot be read.
///
/// # Errors
/// [`Broken`] if there is not even an id to answer to, or for an INIT in the wrong place.
pub(crate) fn parse(kind: u8, body: &[u8]) -> Result<(u32, Result<Request<'_>, Malformed>), Broken> {
    if kind == INIT {
        return Err(Broken::Init);
    }
    let mut r = Reader(body);
    let id = r.u32().map_err(|_| Broken::Short)?;
    Ok((id, fields(kind, &mut r)))
}

fn fields<'a>(kind: u8, r: &mut Reader<'a>) -> Result<Request<'a>, Malformed> {
    Ok(match kind {
        OPEN => Request::Open {
            path: r.string()?,
            flags: r.u32()?,
            set: attrs::decode(r)?,
        },
        CLOSE => Request::Close { handle: r.string()? },
        READ => Request::Read {
            handle: r.string()?,
            offset: r.u64()?,
            len: r.u32()?,
        },
        LSTAT => Request::Lstat { path: r.string()? },
        FSTAT => Request::Fstat { handle: r.string()? },
        SETSTAT => Request::SetStat {
            path: r.string()?,
            set: attrs::decode(r)?,
        },
        FSETSTAT => Request::FsetStat {
            handle: r.string()?,
            set: attrs::decode(r)?,
        },
        OPENDIR => Request::OpenDir { path: r.string()? },
        READDIR => Request::ReadDir { handle: r.string()? },
        REMOVE => Request::Remove { path: r.string()? },
        MKDIR => Request::MkDir {
            path: r.string()?,
            set: attrs::decode(r)?,
        },
        RMDIR => Request::RmDir { path: r.string()? },
        REALPATH => Request::RealPath { path: r.string()? },
        STAT => Request::Stat { path: r.string()? },
        RENAME => Request::Rename {
            from: r.string()?,
            to: r.string()?,
        },
        READLINK => Request::ReadLink { path: r.string()? },
        SYMLINK => Request::SymLink {
            target: r.string()?,
            path: r.string()?,
        },
        EXTENDED => {
            let name = r.string()?;
            match EXTENSIONS.iter().find(|(known, ..)| known.as_bytes() == name) {
                Some((_, _, read)) => Request::Extended(read(r)?),
                None => Request::Unknown,
            }
        }
        _ => Request::Unknown,
    })
}

// ------------------------------------------------------------------------------------------------- answers to bytes

pub(crate) fn put_u32(out: &mut BytesMut, v: u32) {
    out.put_u32(v);
}

pub(crate) fn put_u64(out: &mut BytesMut, v: u64) {
    out.put_u64(v);
}

pub(crate) fn put_string(out: &mut BytesMut, s: &[u8]) {
    out.put_u32(u32::try_from(s.len()).unwrap_or(u32::MAX));
    out.put_slice(s);
}

/// Writes one packet: its length is filled in after `body` has written what follows the type.
fn packet(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    out.put_u8(kind);
    body(out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// VERSION 3 with the extensions offered; that for links only if there are any.
pub(crate) fn version(out: &mut BytesMut, has_links: bool) {
    packet(out, VERSION, |b| {
        b.put_u32(3);
        for (name, data, _) in EXTENSIONS.iter().filter(|(name, ..)| has_links || *name != HARDLINK) {
            put_string(b, name.as_bytes());
            put_string(b, data.as_bytes());
        }
    });
}

/// A status with one line of text.
pub(crate) fn status(out: &mut BytesMut, id: u32, code: Code, text: &str) {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() > MAX_STATUS_TEXT {
        line.truncate(line.floor_char_boundary(MAX_STATUS_TEXT));
    }
    packet(out, STATUS, |b| {
        b.put_u32(id);
        b.put_u32(code as u32);
        put_string(b, line.as_bytes());
        put_string(b, b"");
    });
}

pub(crate) fn fault(out: &mut BytesMut, id: u32, fault: &Fault) {
    let code = match fault {
        Fault::NoSuchFile(_) => Code::NoSuchFile,
        Fault::PermissionDenied(_) => Code::PermissionDenied,
        Fault::Failure(_) => Code::Failure,
        Fault::BadMessage(_) => Code::BadMessage,
        Fault::OpUnsupported(_) => Code::OpUnsupported,
    };
    status(out, id, code, &fault.to_string());
}

pub(crate) fn handle(out: &mut BytesMut, id: u32, handle: &[u8]) {
    packet(out, HANDLE, |b| {
        b.put_u32(id);
        put_string(b, handle);
    });
}

pub(crate) fn attrs_answer(out: &mut BytesMut, id: u32, stat: &Stat) {
    packet(out, ATTRS, |b| {
        b.put_u32(id);
        attrs::encode(b, stat);
    });
}

/// One name of a NAME answer.
pub(crate) struct Name<'a> {
    pub(crate) name: &'a str,
    pub(crate) longname: &'a str,
    pub(crate) stat: Option<&'a Stat>,
}

pub(crate) fn names(out: &mut BytesMut, id: u32, names: &[Name<'_>]) {
    packet(out, NAME, |b| {
        b.put_u32(id);
        b.put_u32(u32::try_from(names.len()).unwrap_or(u32::MAX));
        for n in names {
            put_string(b, n.name.as_bytes());
            put_string(b, n.longname.as_bytes());
            match n.stat {
                Some(stat) => attrs::encode(b, stat),
                None => b.put_u32(0),
            }
        }
    });
}

pub(crate) fn extended_reply(out: &mut BytesMut, id: u32, body: impl FnOnce(&mut BytesMut)) {
    packet(out, EXTENDED_REPLY, |b| {
        b.put_u32(id);
        body(b);
    });
}

/// Bytes of a DATA answer before its data.
pub(crate) const DATA_HEAD: usize = 13;

/// The head of a DATA answer that carries `len` bytes.
pub(crate) fn data_head(id: u32, len: usize) -> [u8; DATA_HEAD] {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    let mut head = [0; DATA_HEAD];
    let mut b = head.as_mut_slice();
    b.put_u32(len.saturating_add(9));
    b.put_u8(DATA);
    b.put_u32(id);
    b.put_u32(len);
    head
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    fn write_packet(id: u32, handle: &[u8], offset: u64, data: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        packet(&mut out, WRITE, |b| {
            b.put_u32(id);
            put_string(b, handle);
            b.put_u64(offset);
            put_string(b, data);
        });
        out
    }

    #[test]
    fn lengths() {
        for (bytes, expected) in [
            (vec![0, 0, 0, 0], Broken::Length(0)),
            (vec![0, 4, 0, 1, 6], Broken::Length(262_145)),
            (vec![255, 255, 255, 255], Broken::Length(u32::MAX)),
            (vec![0, 0, 0, 3, WRITE, 0, 0], Broken::Short),
        ] {
            let mut input = Input::default();
            input.push(bytes.into());
            assert_eq!(input.next().unwrap_err(), expected);
        }
        assert_eq!(parse(STAT, &[0, 0, 1]).unwrap_err(), Broken::Short);
        assert_eq!(parse(STAT, &[0, 0, 0, 7, 0, 0, 0, 9, b'x']).unwrap(), (7, Err(Malformed)));
        assert_eq!(parse(99, &[0, 0, 0, 7]).unwrap(), (7, Ok(Request::Unknown)));
    }

    #[test]
    fn a_bad_write_keeps_the_stream_in_step() {
        let mut bytes = write_packet(1, b"h", 0, b"data");
        let at = bytes.len() - 8;
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        bytes.unsplit(write_packet(2, b"h", 9, b"next"));
        let mut input = Input::default();
        input.push(bytes.freeze());
        assert!(matches!(input.next(), Ok(Some(Frame::BadWrite { id: 1, .. }))));
        assert!(matches!(input.next(), Ok(Some(Frame::Write { id: 2, offset: 9, .. }))));
        assert_eq!(input.len(), 0);
    }

    #[test]
    fn single_bytes_are_joined() {
        let bytes = write_packet(3, b"handle", 5, &[7; 5000]).freeze();
        let mut input = Input::default();
        for i in 0..bytes.len() - 1 {
            input.push(bytes.slice(i..=i));
            assert!(input.next().unwrap().is_none());
            assert!(input.cost() <= input.len() + (JOIN_PIECES + 1) * PIECE_COST);
        }
        input.push(bytes.slice(bytes.len() - 1..));
        let Ok(Some(Frame::Write { data, .. })) = input.next() else {
            panic!("no WRITE")
        };
        assert_eq!(data.concat(), vec![7; 5000]);
    }

    #[test]
    fn answers() {
        let mut out = BytesMut::new();
        status(&mut out, 5, Code::Failure, "two\nlines");
        assert_eq!(&out[..], b"\0\0\0\x1a\x65\0\0\0\x05\0\0\0\x04\0\0\0\x09two lines\0\0\0\0");
        let mut out = BytesMut::new();
        status(&mut out, 5, Code::Failure, &"ä".repeat(1000));
        assert_eq!(out.len(), 4 + 1 + 4 + 4 + 4 + MAX_STATUS_TEXT + 4);
        assert_eq!(data_head(1, 2), *b"\0\0\0\x0b\x67\0\0\0\x01\0\0\0\x02");
        let stat = Stat {
            kind: crate::Kind::Dir,
            size: 1,
            mtime: u64::MAX,
            mode: 0o755,
        };
        let mut out = BytesMut::new();
        attrs::encode(&mut out, &stat);
        // Our own attributes read back by the decoder.
        let set = attrs::decode(&mut Reader(&out)).unwrap();
        assert_eq!(
            (set.size, set.mode, set.times),
            (Some(1), Some(0o755), Some((u64::from(u32::MAX), u64::from(u32::MAX))))
        );
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_writes(
            writes in proptest::collection::vec((any::<u32>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..300)), 1..6),
            cuts in proptest::collection::vec(1usize..97, 1..40),
        ) {
            let mut bytes = BytesMut::new();
            for (id, offset, data) in &writes {
                bytes.unsplit(write_packet(*id, b"12345678", *offset, data));
            }
            let (mut bytes, mut input, mut seen) = (bytes.freeze(), Input::default(), Vec::new());
            let mut cuts = cuts.into_iter().cycle();
            while !bytes.is_empty() {
                let n = cuts.next().unwrap().min(bytes.len());
                input.push(bytes.split_to(n));
                while let Some(frame) = input.next().unwrap() {
                    let Frame::Write { id, offset, data, .. } = frame else { panic!("no WRITE") };
                    seen.push((id, offset, data.concat()));
                }
            }
            prop_assert_eq!(seen, writes);
            prop_assert_eq!(input.cost(), 0);
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..600), kind in 0u8..=255) {
            let _ = parse(kind, &noise).map(|(_, r)| r.is_ok());
            let mut input = Input::default();
            let mut framed = BytesMut::new();
            packet(&mut framed, kind, |b| b.put_slice(&noise));
            input.push(framed.freeze());
            while let Ok(Some(frame)) = input.next() {
                if let Frame::Other { kind, body } = frame {
                    let _ = parse(kind, &body).map(|(_, r)| r.is_ok());
                }
            }
        }
    }
}
