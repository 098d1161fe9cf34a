//! File attributes on the wire (draft-ietf-secsh-filexfer-02 §5): what a client wishes to set, what we answer.

use crate::packet::{Malformed, Reader, put_u32, put_u64};
use crate::tree::{Kind, SetStat, Stat};
use bytes::BytesMut;

const SIZE: u32 = 0x0000_0001;
const UIDGID: u32 = 0x0000_0002;
const PERMISSIONS: u32 = 0x0000_0004;
const ACMODTIME: u32 = 0x0000_0008;
const EXTENDED: u32 = 0x8000_0000;
/// Most extended pairs in one request; they are skipped, since no client sends any.
const MAX_EXTENDED: u32 = 64;

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;

/// Reads the attributes at the end of OPEN, MKDIR, SETSTAT and FSETSTAT.
pub(crate) fn decode(r: &mut Reader<'_>) -> Result<SetStat, Malformed> {
    let flags = r.u32()?;
    let mut set = SetStat::default();
    if flags & SIZE != 0 {
        set.size = Some(r.u64()?);
    }
    if flags & UIDGID != 0 {
        set.owner = Some((r.u32()?, r.u32()?));
    }
    if flags & PERMISSIONS != 0 {
        set.mode = Some(r.u32()? & 0o7777);
    }
    if flags & ACMODTIME != 0 {
        set.times = Some((u64::from(r.u32()?), u64::from(r.u32()?)));
    }
    if flags & EXTENDED != 0 {
        let pairs = r.u32()?;
        if pairs > MAX_EXTENDED {
            return Err(Malformed);
        }
        for _ in 0..pairs {
            r.string()?;
            r.string()?;
        }
    }
    Ok(set)
}

/// Writes size, mode with the kind's type bits, and times. Owner and group are left out: they would be invented.
pub(crate) fn encode(out: &mut BytesMut, stat: &Stat) {
    let kind = match stat.kind {
        Kind::Dir => S_IFDIR,
        Kind::File => S_IFREG,
    };
    // Version 3 counts seconds in 32 bits: later times show as the last one it can name.
    let seconds = u32::try_from(stat.mtime).unwrap_or(u32::MAX);
    put_u32(out, SIZE | PERMISSIONS | ACMODTIME);
    put_u64(out, stat.size);
    put_u32(out, kind | stat.mode & 0o7777);
    put_u32(out, seconds);
    put_u32(out, seconds);
}
