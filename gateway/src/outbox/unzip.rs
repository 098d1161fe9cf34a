//! The entries of an uploaded zip, for `zip = "unpack"` (RFC 6362): listed within limits, then read one after the other.
//!
//! Every entry with contents is sent, or the message fails with one error: nothing is left out silently. The directory is read
//! entry by entry and never held; contents are streamed and never written under a name of the archive's.

use std::collections::HashSet;
use std::io::{self, Read as _, Seek, SeekFrom};

use as2_core::cms::compressed::{MAX_RATIO, MAX_RATIO_START};
use zip::CompressionMethod;
use zip::read::{Config, ZipFileEntry, ZipReadOptions};
use zip::result::ZipError;
use zip::unstable::read::ZipIterable;

use crate::layout;
use crate::storage::{Content, StorageError};

/// Most entries of an archive, directories included (security.md §7).
const MAX_ENTRIES: usize = 1_000;
/// Bytes that are read at most to find and list them, and what the end of the directory may be away from its beginning. Names,
/// extra fields and comments of a thousand entries are seldom more than 200 KiB; they are read twice.
const MAX_DIRECTORY: u64 = 4 << 20;
/// The end record, the longest comment behind it and the locator of a zip64's end record before it (APPNOTE 4.3.15, 4.3.16).
const TAIL: u64 = 20 + 22 + 65_535;
const ZIP64_LOCATOR: &[u8] = b"PK\x06\x07";
/// How an entry of the directory begins, and the bytes of its fixed part.
const DIRECTORY_ENTRY: (&[u8; 4], usize) = (b"PK\x01\x02", 46);

/// Why an archive cannot be sent as its entries.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnzipError {
    /// The archive's fault; final.
    #[error("the zip archive cannot be unpacked: {0}; upload another, or send archives as they are: partner set ID --zip as-is")]
    Bad(String),
    /// Our own storage's.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A file of the archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its place in the directory.
    index: usize,
    /// Safe, and no other entry's.
    pub(super) name: String,
    /// Bytes when it is inflated, as the directory says.
    pub(super) length: u64,
}

/// The files of an archive in the order of its directory.
pub(super) fn list(archive: &Content) -> Result<Vec<Entry>, UnzipError> {
    let (mut entries, mut names) = (Vec::new(), HashSet::new());
    let (mut total, mut stored, mut last) = (0u64, 0u64, None);
    for (index, entry) in directory(archive)?.files().map_err(fault)?.enumerate() {
        let entry = entry.map_err(fault)?;
        let name = entry.name().map_err(fault)?.into_owned();
        last = Some(entry.central_header_start());
        if !has_contents(&entry, &name)? {
            continue;
        }
        total = total.saturating_add(entry.size());
        stored = stored.saturating_add(entry.compressed_size());
        let name = distinct(layout::attachment_name(Some(&name), index, "bin"), &mut names);
        let length = entry.size();
        entries.push(Entry { index, name, length });
    }
    if entries.is_empty() {
        return bad("it holds no files");
    }
    if let Some(last) = last
        && goes_on(archive, last)?
    {
        return bad("its directory holds more entries than its end says");
    }
    // Many entries that share their bytes inflate, and cost time, far beyond the ratio that each of them has.
    if stored > archive.len() {
        return bad("its entries lie on top of each other");
    }
    if total > archive.len().saturating_mul(MAX_RATIO).saturating_add(MAX_RATIO_START) {
        return bad(format!("its files have {total} bytes, which is over {MAX_RATIO} times its size"));
    }
    Ok(entries)
}

/// Hands on the contents of the listed files one after the other, in pieces of at most `piece` bytes.
pub(super) fn for_each<E: From<UnzipError>>(
    archive: &Content,
    entries: &[Entry],
    piece: usize,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut wanted = entries.iter().peekable();
    let mut contents = Cursor::new(archive, u64::MAX);
    let mut buffer = vec![0u8; piece];
    for (index, found) in directory(archive)?.files().map_err(fault)?.enumerate() {
        let found = found.map_err(fault)?;
        let Some(entry) = wanted.next_if(|entry| entry.index == index) else {
            continue;
        };
        let named = |error| within(&entry.name, error);
        let mut file = found.with_reader(&mut contents, ZipReadOptions::new()).map_err(named)?;
        // The declared length is a promise to the composer; a bomb that breaks it ends here.
        let mut left = entry.length;
        loop {
            let n = file.read(&mut buffer).map_err(|error| named(error.into()))?;
            if n == 0 {
                break;
            }
            left = left
                .checked_sub(u64::try_from(n).unwrap_or(u64::MAX))
                .ok_or_else(|| UnzipError::Bad(format!("{} is longer than its directory says", entry.name)))?;
            take(buffer.get(..n).unwrap_or_default())?;
        }
        if left > 0 {
            return Err(UnzipError::Bad(format!("{} is shorter than its directory says", entry.name)).into());
        }
    }
    Ok(())
}

/// The archive's directory, of which only the end record was read.
fn directory(archive: &Content) -> Result<ZipIterable<Cursor<'_>>, UnzipError> {
    check_zip64(archive)?;
    let directory = ZipIterable::try_new(Cursor::new(archive, MAX_DIRECTORY), Config::default()).map_err(fault)?;
    match directory.len() {
        1..=MAX_ENTRIES => Ok(directory),
        n => bad(format!("it holds {n} entries, 1 to {MAX_ENTRIES} can be sent")),
    }
}

/// The library holds what stands between a zip64's end record and the locator that names its place, however much it is.
fn check_zip64(archive: &Content) -> Result<(), UnzipError> {
    let begin = archive.len().saturating_sub(TAIL);
    let mut tail = Vec::new();
    Cursor {
        at: begin,
        ..Cursor::new(archive, TAIL)
    }
    .read_to_end(&mut tail)
    .map_err(|error| fault(error.into()))?;
    for (at, locator) in (begin..)
        .zip(tail.windows(16))
        .filter(|(_, window)| window.starts_with(ZIP64_LOCATOR))
    {
        let place = locator
            .get(8..)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u64::from_le_bytes);
        if at.saturating_sub(place) > MAX_DIRECTORY {
            return bad("its zip64 end record is too far from its end");
        }
    }
    Ok(())
}

/// Whether a further entry stands behind this one: writers that know no zip64 count 65,537 as 1 (APPNOTE 4.3.12).
fn goes_on(archive: &Content, entry: u64) -> Result<bool, UnzipError> {
    let (mut head, mut next) = ([0u8; DIRECTORY_ENTRY.1], [0u8; 4]);
    let mut cursor = Cursor::new(archive, TAIL);
    cursor.at = entry;
    cursor.read_exact(&mut head).map_err(|error| fault(error.into()))?;
    // The lengths of its name, its extra fields and its comment.
    let behind = [28, 30, 32].map(|at| {
        head.get(at..at + 2)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u16::from_le_bytes)
    });
    cursor.at += behind.into_iter().map(u64::from).sum::<u64>();
    cursor.read_exact(&mut next).map_err(|error| fault(error.into()))?;
    Ok(next == *DIRECTORY_ENTRY.0)
}

/// Whether an entry is a file that can be sent; a directory is none and says nothing that the names of its files do not.
fn has_contents(entry: &ZipFileEntry<'_>, name: &str) -> Result<bool, UnzipError> {
    let shown = name.escape_debug();
    if entry.is_symlink() {
        return bad(format!("{shown} is a symbolic link; zip the file itself"));
    }
    if entry.encrypted() {
        return bad(format!("{shown} is encrypted; zip it without a password"));
    }
    match entry.compression() {
        CompressionMethod::Stored | CompressionMethod::Deflated => {}
        other => {
            return bad(format!(
                "{shown} is compressed by {other}; zip it by deflate, or without compression"
            ));
        }
    }
    if entry.is_dir() && entry.size() > 0 {
        return bad(format!("{shown} is a directory with contents"));
    }
    Ok(!entry.is_dir())
}

/// Directories do not travel, so files of two of them may have one name: the second becomes `name~2`.
fn distinct(name: String, names: &mut HashSet<String>) -> String {
    let numbered = (2..).map(|n| layout::numbered(&name, n));
    let mut candidates = std::iter::once(name.clone()).chain(numbered);
    let free = candidates.find(|candidate| names.insert(candidate.clone()));
    free.unwrap_or(name)
}

fn bad<T>(why: impl Into<String>) -> Result<T, UnzipError> {
    Err(UnzipError::Bad(why.into()))
}

fn within(name: &str, error: ZipError) -> UnzipError {
    match fault(error) {
        UnzipError::Bad(why) => UnzipError::Bad(format!("{name}: {why}")),
        storage @ UnzipError::Storage(_) => storage,
    }
}

/// Whose fault an error of the library is: what our storage said goes through it.
fn fault(error: ZipError) -> UnzipError {
    match error {
        ZipError::Io(error) => match error.downcast::<StorageError>() {
            Ok(storage) => UnzipError::Storage(storage),
            Err(other) => UnzipError::Bad(other.to_string()),
        },
        other => UnzipError::Bad(other.to_string()),
    }
}

/// Stored bytes as the zip library wants them, and as many of them as it may read.
struct Cursor<'a> {
    content: &'a Content,
    at: u64,
    allowed: u64,
}

impl<'a> Cursor<'a> {
    fn new(content: &'a Content, allowed: u64) -> Self {
        Cursor { content, at: 0, allowed }
    }
}

impl io::Read for Cursor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.allowed).map_or(buffer.len(), |allowed| buffer.len().min(allowed));
        if most == 0 && !buffer.is_empty() && self.at < self.content.len() {
            return Err(io::Error::other("its directory is too large, or not where its end says"));
        }
        let n = self
            .content
            .read_at(self.at, buffer.get_mut(..most).unwrap_or_default())
            .map_err(io::Error::other)?;
        let read = u64::try_from(n).unwrap_or(u64::MAX);
        self.at = self.at.saturating_add(read);
        self.allowed = self.allowed.saturating_sub(read);
        Ok(n)
    }
}

impl Seek for Cursor<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.content.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::other("seek before the start"))?;
        Ok(self.at)
    }
}
