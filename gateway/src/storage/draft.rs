//! A write in progress: in memory while it is small, in a spool file beyond.

use std::fs::{self, File, OpenOptions};
use std::io::IoSlice;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use as2_core::hex;
use bytes::Bytes;

use super::partial::{Part, SYNC_EVERY};
use super::{Context as _, INLINE_MAX, Result, StorageError, make_dir, sync_dir};
use crate::journal::{Blob, blob_key, file_key};
use crate::random::random;

/// Bytes that are being written and are worth nothing yet. Dropping it forgets them, unless it is a part (`partial.rs`).
#[derive(Debug)]
pub struct Draft {
    spool: PathBuf,
    store: PathBuf,
    pub(super) place: DraftPlace,
    pub(super) len: u64,
    /// Written at a place where it may be gone on with.
    pub(super) part: Option<Part>,
}

#[derive(Debug)]
pub(super) enum DraftPlace {
    Memory(Vec<u8>),
    File {
        file: File,
        path: PathBuf,
    },
    /// Staged or let go; nothing is left to clean up.
    Gone,
}

/// Durable bytes without a name, or small ones that become durable with the decision about them.
#[derive(Debug, Clone, PartialEq)]
pub struct Staged {
    /// `f:<name>` or `j:<name>`; see the head of `storage`.
    pub key: String,
    /// Bytes in all.
    pub len: u64,
    /// The bytes of any other key than `f:`, which the deciding transaction has to keep.
    pub inline: Option<Bytes>,
}

impl Staged {
    /// Small contents that the deciding transaction keeps.
    #[must_use]
    pub fn small(bytes: Vec<u8>) -> Self {
        Self::in_memory(blob_key(&small_name()), bytes)
    }

    /// Small contents that the journal holds under this key once the deciding transaction is through.
    #[must_use]
    pub fn in_memory(key: String, bytes: Vec<u8>) -> Self {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Staged {
            key,
            len,
            inline: Some(bytes.into()),
        }
    }

    /// The pair that journal verbs take.
    #[must_use]
    pub fn blob(&self) -> Option<Blob> {
        self.inline.clone().map(|bytes| (self.key.clone(), bytes))
    }

    /// The same, of what is not needed any more.
    #[must_use]
    pub fn into_blob(self) -> Option<Blob> {
        self.inline.map(|bytes| (self.key, bytes))
    }
}

impl Draft {
    pub(super) fn new(spool: PathBuf, store: PathBuf) -> Self {
        Draft {
            spool,
            store,
            place: DraftPlace::Memory(Vec::new()),
            len: 0,
            part: None,
        }
    }

    pub(super) fn resume(spool: PathBuf, store: PathBuf, part: &Path) -> Result<Self> {
        let path = spool.join(name());
        // The part leaves the store while it is written to: staged bytes are immutable.
        fs::rename(part, &path).context(|| format!("cannot go on with {}", part.display()))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .context(|| format!("cannot open {}", path.display()))?;
        let len = file.metadata().context(|| format!("cannot look at {}", path.display()))?.len();
        Ok(Draft {
            spool,
            store,
            place: DraftPlace::File { file, path },
            len,
            part: None,
        })
    }

    /// Bytes up to the highest one written.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// It fits into the journal, so that staging it touches no disk.
    #[must_use]
    pub fn is_small(&self) -> bool {
        matches!(self.place, DraftPlace::Memory(_))
    }

    /// It still is with bytes up to `end`.
    #[must_use]
    pub fn stays_small(&self, end: u64) -> bool {
        self.is_small() && end <= u64::try_from(INLINE_MAX).unwrap_or(u64::MAX)
    }

    /// Nothing written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes behind the last byte.
    ///
    /// # Errors
    /// The disk's.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_at(self.len, bytes)
    }

    /// Writes at an offset; bytes before it that were never written are zero.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_pieces(offset, &[IoSlice::new(bytes)])
    }

    /// The same with bytes in several pieces, in one system call if the disk takes them so.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_pieces(&mut self, offset: u64, pieces: &[IoSlice<'_>]) -> Result<()> {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let end = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        if end > u64::try_from(INLINE_MAX).unwrap_or(u64::MAX) {
            self.spill()?;
        }
        match &mut self.place {
            DraftPlace::Memory(memory) => {
                let mut at = usize::try_from(offset).unwrap_or(usize::MAX);
                if memory.len() < at + len {
                    memory.resize(at + len, 0);
                }
                for piece in pieces {
                    memory[at..at + piece.len()].copy_from_slice(piece);
                    at += piece.len();
                }
            }
            DraftPlace::File { file, path } => {
                write_all_pieces(file, offset, pieces).context(|| format!("cannot write {}", path.display()))?;
            }
            DraftPlace::Gone => {}
        }
        self.len = self.len.max(end);
        match &self.part {
            Some(part) if self.len - part.synced >= SYNC_EVERY => self.sync_part(),
            _ => Ok(()),
        }
    }

    /// Reads all of it back in order, in pieces of at most `piece` bytes.
    ///
    /// # Errors
    /// The disk's, or the taker's.
    pub fn for_each<E: From<StorageError>>(
        &self,
        piece: usize,
        take: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        super::content::pieces(piece, |at, buffer| self.read_at(at, buffer), take)
    }

    /// SHA-256 of all of it in hex, read back.
    ///
    /// # Errors
    /// The disk's.
    pub fn sha256(&self) -> Result<String> {
        super::content::sha256_of(|at, buffer| self.read_at(at, buffer))
    }

    /// Fills `buffer` from an offset; fewer bytes are read at the end of what is written, 0 behind it.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        match &self.place {
            DraftPlace::Memory(memory) => {
                let rest = usize::try_from(offset).ok().and_then(|from| memory.get(from..)).unwrap_or_default();
                let n = rest.len().min(buffer.len());
                buffer[..n].copy_from_slice(&rest[..n]);
                Ok(n)
            }
            DraftPlace::File { file, path } => file.read_at(buffer, offset).context(|| format!("cannot read {}", path.display())),
            DraftPlace::Gone => Ok(0),
        }
    }

    /// Cuts or extends.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_len(&mut self, len: u64) -> Result<()> {
        if len > u64::try_from(INLINE_MAX).unwrap_or(u64::MAX) {
            self.spill()?;
        }
        match &mut self.place {
            DraftPlace::Memory(memory) => memory.resize(usize::try_from(len).unwrap_or(usize::MAX), 0),
            DraftPlace::File { file, path } => file.set_len(len).context(|| format!("cannot cut {}", path.display()))?,
            DraftPlace::Gone => {}
        }
        self.len = len;
        Ok(())
    }

    /// Forces what is written to the disk; small drafts have nothing to force yet.
    ///
    /// # Errors
    /// The disk's. A failed sync is never repeated on the same file, since the kernel takes for written what it could not write:
    /// the bytes are gone (R8).
    pub fn sync(&mut self) -> Result<()> {
        let DraftPlace::File { file, path } = &self.place else {
            return Ok(());
        };
        let synced = file.sync_data().context(|| format!("cannot sync {}", path.display()));
        if synced.is_err() {
            let _ = fs::remove_file(path);
            self.place = DraftPlace::Gone;
            self.len = 0;
        }
        synced
    }

    /// Makes the bytes durable under a name of our own.
    ///
    /// # Errors
    /// The disk's; then the bytes are gone.
    pub fn stage(mut self) -> Result<Staged> {
        match std::mem::replace(&mut self.place, DraftPlace::Gone) {
            DraftPlace::Memory(memory) => Ok(Staged::small(memory)),
            DraftPlace::File { file, path } => self.to_store(&file, &path),
            DraftPlace::Gone => Ok(Staged::small(Vec::new())),
        }
    }

    /// Keeps the bytes as a part that may be resumed. Promised to nobody, and durable all the same: who goes on with it trusts its
    /// length, and nobody looks at its bytes again.
    ///
    /// # Errors
    /// The disk's; then the bytes are gone.
    pub fn keep_as_part(mut self) -> Result<Staged> {
        self.spill()?;
        match std::mem::replace(&mut self.place, DraftPlace::Gone) {
            DraftPlace::File { file, path } => self.to_store(&file, &path),
            _ => Ok(Staged::small(Vec::new())),
        }
    }

    fn to_store(&self, file: &File, path: &Path) -> Result<Staged> {
        let synced = file.sync_all().context(|| format!("cannot sync {}", path.display()));
        synced.inspect_err(|_| drop(fs::remove_file(path)))?;
        let (key, dir) = self.move_to_store(path)?;
        sync_dir(&dir)?;
        Ok(Staged {
            key,
            len: self.len,
            inline: None,
        })
    }

    fn move_to_store(&self, path: &Path) -> Result<(String, PathBuf)> {
        let name = name();
        let dir = self.store.join(name.get(..2).unwrap_or("00"));
        if !dir.is_dir() {
            make_dir(&dir)?;
            sync_dir(&self.store)?;
        }
        fs::rename(path, dir.join(&name)).context(|| format!("cannot move {} into the store", path.display()))?;
        Ok((file_key(&name), dir))
    }

    /// From now on its bytes are in a file, few as they may be.
    ///
    /// # Errors
    /// The disk's.
    pub fn spill(&mut self) -> Result<()> {
        let DraftPlace::Memory(memory) = &self.place else { return Ok(()) };
        let path = match &self.part {
            Some(part) => {
                make_dir(part.stem.parent().unwrap_or(&self.spool))?;
                part.stem.with_extension("0")
            }
            None => self.spool.join(name()),
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path).context(|| format!("cannot make {}", path.display()))?;
        if let Err(error) = file.write_all_at(memory, 0) {
            // What was taken stays where it is: a file that is cut off must not pass for it.
            let _ = fs::remove_file(&path);
            return Err(error).context(|| format!("cannot write {}", path.display()));
        }
        self.place = DraftPlace::File { file, path };
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let (DraftPlace::File { path, .. }, None) = (&self.place, &self.part) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes all pieces, the first part of them in one call.
fn write_all_pieces(file: &File, mut offset: u64, pieces: &[IoSlice<'_>]) -> std::io::Result<()> {
    let mut done = match pieces {
        [_] => 0,
        _ => rustix::io::retry_on_intr(|| rustix::io::pwritev(file, pieces, offset))?,
    };
    // A short write is rare (a full disk, a signal): piece by piece then.
    for piece in pieces {
        let skip = done.min(piece.len());
        let rest = piece.get(skip..).unwrap_or_default();
        file.write_all_at(rest, offset + skip as u64)?;
        done -= skip;
        offset += piece.len() as u64;
    }
    Ok(())
}

/// A name for small contents that nobody else has: 64 random bits of this process, and a count. The journal keeps them by
/// name, and names that follow each other share its pages.
fn small_name() -> String {
    static PROCESS: LazyLock<String> = LazyLock::new(|| name().chars().take(16).collect());
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{}{:016x}", *PROCESS, COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A name that nobody else has: 128 random bits.
pub(super) fn name() -> String {
    // A failing random source would give equal names, and `create_new` refuses those.
    hex(&random::<16>())
}
