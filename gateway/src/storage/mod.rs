//! Customers' bytes on the local disk.
//!
//! ```text
//! DATA/spool/<name>              a write in progress, worth nothing yet
//! DATA/partial/<pair>/…           bodies that broke off and may be gone on with (`partial.rs`)
//! DATA/unknown-mdn/…              the last MDNs for messages that were never sent (`unknown.rs`)
//! DATA/store/ab/<name>           staged: durable, unnamed, immutable; rows name it as `f:<name>`
//! (journal, table blob)          staged and small: `j:<name>`, durable with the transaction that decides about it
//! (journal, other tables)        `h:<id>`, the header block of a message; `m:<id>`, the MDN of a filed one
//! DATA/tree/mftg-<account>/AS2/… published: what an administrator reads with `cat`
//! DATA/noncurrent/mftg-<account>/AS2/…/<name>/<version>   out of view, restorable
//! ```
//! What SFTP shows is a fact of the journal; the published files follow it. The publisher (`publish.rs`) puts bytes at
//! their place, syncs whole batches at once, and only then lets the staged copy go, so that it may be killed anywhere.

mod backup;
mod content;
mod draft;
mod hold;
mod partial;
mod publish;
mod unknown;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

pub use content::Content;
pub use draft::{Draft, Staged};
pub use hold::Hold;
pub(crate) use partial::DIR as PARTIAL;
pub use partial::{Kept, Partials, Place, Usage};
pub use unknown::UnknownMdns;

use hold::HoldLock;

use crate::config::Paths;
use crate::journal::{Entry, Journal, JournalError, file_key, file_name};
use crate::layout;

/// Contents up to this size live in the journal until they are published: one sync for all of them.
pub const INLINE_MAX: usize = 64 * 1024;
/// Bytes copied at a time.
const COPY_PIECE: usize = 256 * 1024;
/// How long the answer to "is there room" stays good.
const ROOM_CHECK_MS: i64 = 500;
/// Files and directories (inodes) that have to be free: what was promised is published after it.
const MIN_FILES: u64 = 5_000;
/// Up to so many bytes that answer is good enough.
const ROOM_SMALL: u64 = 1 << 20;

/// Why bytes could not be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The disk's word.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What came of it.
        source: io::Error,
    },
    /// Less free space than the watermark.
    #[error("the disk is nearly full: less than {} MiB are free; make room or lower storage.min_free", min_free >> 20)]
    Full {
        /// The watermark.
        min_free: u64,
    },
    /// Room for fewer files and directories than a round of publishing makes.
    #[error("the file system has room for fewer than {MIN_FILES} more files (inodes): remove files from it")]
    NoFiles,
    /// A backup is being taken.
    #[error("a backup is being taken, and nothing is deleted until it is through; try again then")]
    Held,
    /// A row names bytes that are not there.
    #[error("stored bytes {0} are missing")]
    Missing(String),
    /// Bytes are there, but not those that a row tells of: the disk has changed them, or somebody.
    #[error("stored bytes {0} are not those that were accepted")]
    Damaged(String),
    /// The journal's word.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl StorageError {
    /// No room: an answer that says "later" fits.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            StorageError::Full { .. } | StorageError::NoFiles => true,
            StorageError::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            StorageError::Held | StorageError::Missing(_) | StorageError::Damaged(_) | StorageError::Journal(_) => false,
        }
    }
}

/// Result of a storage verb.
pub type Result<T> = std::result::Result<T, StorageError>;

/// Adds what was tried to an I/O error.
trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| StorageError::Io { what: what(), source })
    }
}

/// The local disk below the data directory.
pub struct Storage {
    spool: PathBuf,
    store: PathBuf,
    tree: PathBuf,
    noncurrent: PathBuf,
    partials: Partials,
    unknown_mdns: UnknownMdns,
    hold: HoldLock,
    /// Held by whoever brings entries back into the tree.
    restoring: HoldLock,
    journal: Arc<Journal>,
    min_free: u64,
    started: Instant,
    room_checked: AtomicI64,
    room: AtomicBool,
    /// Held by the one who publishes: store keys of entries that could not be placed, and since when.
    publishing: Mutex<HashMap<String, Instant>>,
}

impl Storage {
    /// Opens (and makes) the directories.
    ///
    /// # Errors
    /// When a directory cannot be made, or they do not lie on one file system (R13).
    pub fn open(paths: &Paths, journal: Arc<Journal>, min_free: u64) -> Result<Self> {
        let storage = Storage {
            spool: paths.spool.clone(),
            store: paths.store.clone(),
            tree: paths.tree.clone(),
            noncurrent: paths.noncurrent.clone(),
            partials: Partials::new(&paths.data),
            unknown_mdns: UnknownMdns::new(&paths.data),
            hold: HoldLock::new(&paths.store),
            restoring: HoldLock::new(&paths.noncurrent),
            journal,
            min_free,
            started: Instant::now(),
            room_checked: AtomicI64::new(i64::MIN / 2),
            room: AtomicBool::new(true),
            publishing: Mutex::default(),
        };
        let mut device = None;
        let partial = storage.partials.dir();
        for dir in [&storage.spool, partial, &storage.store, &storage.tree, &storage.noncurrent] {
            make_dir(dir)?;
            let dev = fs::metadata(dir).context(|| format!("cannot look at {}", dir.display()))?.dev();
            if device.replace(dev).is_some_and(|other| other != dev) {
                let source = io::Error::other("spool, partial, store, tree and noncurrent must lie on one file system");
                return Err(StorageError::Io {
                    what: dir.display().to_string(),
                    source,
                });
            }
        }
        Ok(storage)
    }

    /// Whether new data may be taken: refuse early, never keep a half.
    ///
    /// # Errors
    /// `Full` below the watermark.
    pub fn check_room(&self) -> Result<()> {
        let now = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        if now - self.room_checked.load(Ordering::Relaxed) >= ROOM_CHECK_MS {
            self.room.store(self.look_for_room(0).is_ok(), Ordering::Relaxed);
            self.room_checked.store(now, Ordering::Relaxed);
        }
        if self.room.load(Ordering::Relaxed) {
            Ok(())
        } else {
            self.look_for_room(0)
        }
    }

    /// The same before so many bytes are written in one go: what cannot fit is not begun, or it would take the room of all others
    /// until it fails, and again with every try.
    ///
    /// # Errors
    /// `Full` if the watermark would be passed.
    pub fn check_room_for(&self, bytes: u64) -> Result<()> {
        self.check_room()?;
        if bytes <= ROOM_SMALL { Ok(()) } else { self.look_for_room(bytes) }
    }

    /// Asks the file system itself, whether the watermark stays clear with so many bytes more (`storage.min_free`).
    ///
    /// # Errors
    /// `Full` or `NoFiles`; the system's.
    pub fn look_for_room(&self, bytes: u64) -> Result<()> {
        let stat = space(&self.spool)?;
        // Some file systems make them as they need them, and count none.
        if stat.f_files > 0 && stat.f_favail < MIN_FILES {
            return Err(StorageError::NoFiles);
        }
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free.saturating_sub(bytes) < self.min_free {
            return Err(StorageError::Full { min_free: self.min_free });
        }
        Ok(())
    }

    /// Free bytes for us on the file system.
    ///
    /// # Errors
    /// The system's.
    pub fn free_bytes(&self) -> Result<u64> {
        free_bytes(&self.spool)
    }

    /// Total bytes of the file system.
    ///
    /// # Errors
    /// The system's.
    pub fn total_bytes(&self) -> Result<u64> {
        let stat = space(&self.spool)?;
        Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
    }

    /// Free bytes for us on the file system, and how many of a hundred they are.
    ///
    /// # Errors
    /// The system's.
    pub fn free_share(&self) -> Result<(u64, u64)> {
        let (free, total) = (self.free_bytes()?, self.total_bytes()?);
        Ok((free, free.saturating_mul(100) / total.max(1)))
    }

    /// Begins a write.
    #[must_use]
    pub fn draft(&self) -> Draft {
        Draft::new(self.spool.clone(), self.store.clone())
    }

    /// Goes on with a write that was kept as a part.
    ///
    /// # Errors
    /// When the part is gone.
    pub fn resume(&self, key: &str) -> Result<Draft> {
        let part = self.file_of(key)?;
        let moved = self
            .hold
            .unless_held(|| Draft::resume(self.spool.clone(), self.store.clone(), &part));
        moved.unwrap_or_else(|| {
            let mut draft = self.draft();
            Content::from_file(&part)?.for_each(COPY_PIECE, |piece| draft.append(piece))?;
            Ok(draft)
        })
    }

    /// For a backup: no bytes are let go by anybody until it is dropped. Waits for what is being let go at this moment.
    ///
    /// # Errors
    /// The disk's.
    pub fn hold(&self) -> Result<Hold> {
        self.hold.hold()
    }

    /// Bodies that broke off.
    #[must_use]
    pub fn partials(&self) -> &Partials {
        &self.partials
    }

    /// MDNs for messages that were never sent.
    #[must_use]
    pub fn unknown_mdns(&self) -> &UnknownMdns {
        &self.unknown_mdns
    }

    /// Opens staged bytes.
    ///
    /// # Errors
    /// `Missing` if nothing is there.
    pub fn open_staged(&self, key: &str) -> Result<Content> {
        if file_name(key).is_some() {
            return Content::from_file(&self.file_of(key)?);
        }
        let bytes = self.journal.read_few(|tx| tx.blob(key))?;
        bytes.map(Content::from_bytes).ok_or_else(|| StorageError::Missing(key.to_owned()))
    }

    /// Opens the bytes of an entry in view, wherever they are at this moment.
    ///
    /// # Errors
    /// `Missing` if nothing is there.
    pub fn open_entry(&self, entry: &Entry) -> Result<Content> {
        if entry.noncurrent.is_some() {
            // Its place in view may be another file's by now.
            return Err(StorageError::Missing(self.tree_path(entry).display().to_string()));
        }
        if entry.store.is_empty() {
            return Content::from_file(&self.tree_path(entry));
        }
        match self.open_staged(&entry.store) {
            // The publisher may have moved it between the look at the row and now.
            Err(StorageError::Missing(_)) => Content::from_file(&self.tree_path(entry)),
            other => other,
        }
    }

    /// Opens an entry's bytes, also where they have left the view.
    ///
    /// # Errors
    /// `Missing` if they are nowhere; the disk's.
    pub fn open_kept(&self, entry: &Entry) -> Result<Content> {
        match self.open_entry(entry) {
            Err(StorageError::Missing(_)) => self.find_entry(entry),
            other => other,
        }
    }

    /// A staged copy of an entry's bytes that lives on its own: for a resend.
    ///
    /// # Errors
    /// The disk's; `Full` if the watermark would be passed.
    pub fn restage(&self, entry: &Entry) -> Result<Staged> {
        let content = self.open_entry(entry)?;
        self.check_room_for(content.len())?;
        let mut draft = self.draft();
        content.for_each(COPY_PIECE, |piece| draft.append(piece))?;
        draft.stage()
    }

    /// Staged bytes that went on with a part are that part again, cut to what it had; for bytes that nobody decided about.
    ///
    /// # Errors
    /// The disk's; `Missing` if the bytes are in the journal and not in a file.
    pub fn put_back(&self, key: &str, part: &str, len: u64) -> Result<()> {
        let (staged, part) = (self.file_of(key)?, self.file_of(part)?);
        let cut = |file: fs::File| match file.metadata()?.len() >= len {
            true => file.set_len(len),
            // Its client has cut it itself.
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        let cut = fs::File::options().write(true).open(&staged).and_then(cut);
        cut.and_then(|()| fs::rename(&staged, &part))
            .context(|| format!("cannot put {} back", part.display()))
    }

    /// Lets staged bytes go; what is not there is gone already. Small ones live in the journal and go with their rows. While a
    /// backup is taken they stay, until the orphan sweep.
    pub fn discard(&self, key: &str) {
        if let Ok(path) = self.file_of(key)
            && let Some(Err(error)) = self.hold.unless_held(|| fs::remove_file(&path))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(key, %error, "cannot remove staged bytes");
        }
    }

    /// Removes what no row names: writes that a crash cut off, and staged bytes older than `orphan_age_secs`.
    ///
    /// # Errors
    /// The disk's or the journal's.
    pub fn sweep_orphans(&self, orphan_age_secs: u64) -> Result<u64> {
        let mut gone = 0;
        for file in list(&self.spool)? {
            if old(&file, orphan_age_secs) {
                gone += u64::from(fs::remove_file(&file).is_ok());
            }
        }
        for shard in list(&self.store)? {
            for file in list(&shard)? {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let named = self.journal.read(|tx| tx.names_store_key(&file_key(&name)))?;
                if !named && old(&file, orphan_age_secs) {
                    tracing::warn!(file = %file.display(), "removing staged bytes that no row names");
                    gone += u64::from(matches!(self.hold.unless_held(|| fs::remove_file(&file)), Some(Ok(()))));
                }
            }
        }
        Ok(gone)
    }

    /// Removes writes in progress of a process that is gone. Parts are not among them: they lie in the store.
    ///
    /// # Errors
    /// The disk's.
    pub fn clear_spool(&self) -> Result<()> {
        for file in list(&self.spool)? {
            // A command beside us may just have finished with it.
            remove(&file)?;
        }
        Ok(())
    }

    fn file_of(&self, key: &str) -> Result<PathBuf> {
        let name = file_name(key).ok_or_else(|| StorageError::Missing(key.to_owned()))?;
        let shard = name.get(..2).ok_or_else(|| StorageError::Missing(key.to_owned()))?;
        Ok(self.store.join(shard).join(name))
    }

    /// Where an entry lies in the published tree.
    #[must_use]
    pub fn tree_path(&self, entry: &Entry) -> PathBuf {
        self.tree.join(layout::home(&entry.account)).join(&entry.parent).join(&entry.name)
    }

    fn noncurrent_path(&self, entry: &Entry) -> PathBuf {
        let below = self.noncurrent.join(layout::home(&entry.account)).join(&entry.parent);
        below.join(&entry.name).join(entry.version.to_string())
    }
}

/// Removes a file; one that is not there is removed already.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.context(|| format!("cannot remove {}", path.display())),
    }
}

/// Free bytes for us on the file system of a directory.
pub(crate) fn free_bytes(dir: &Path) -> Result<u64> {
    let stat = space(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn space(dir: &Path) -> Result<rustix::fs::StatVfs> {
    rustix::fs::statvfs(dir)
        .map_err(io::Error::from)
        .context(|| "cannot ask for free space".to_owned())
}

fn old(file: &Path, age_secs: u64) -> bool {
    let age = fs::metadata(file)
        .and_then(|meta| meta.modified())
        .ok()
        .and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age.as_secs() >= age_secs)
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).context(|| format!("cannot list {}", dir.display()))?;
    entries
        .map(|entry| entry.map(|e| e.path()).context(|| format!("cannot list {}", dir.display())))
        .collect()
}

/// Makes a directory and those above it, readable by nobody else.
fn make_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .context(|| format!("cannot make {}", dir.display()))
}

fn sync_dir(dir: &Path) -> Result<()> {
    let handle = fs::File::open(dir).context(|| format!("cannot open {}", dir.display()))?;
    handle.sync_all().context(|| format!("cannot sync {}", dir.display()))
}

#[cfg(test)]
mod tests;
