//! Contents for a backup: found wherever they are at this moment, and put where the backup's journal expects them.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{COPY_PIECE, Content, Context as _, Result, Storage, StorageError, make_dir};
use crate::journal::Entry;

impl Storage {
    /// The place of an entry's bytes below the data directory, as its row tells it; `None` if the journal itself holds them.
    #[must_use]
    pub fn place_of(&self, entry: &Entry) -> Option<PathBuf> {
        match (entry.noncurrent, entry.store.as_str()) {
            (Some(_), _) => Some(self.noncurrent_path(entry)),
            (None, "") => Some(self.tree_path(entry)),
            (None, key) => self.file_of(key).ok(),
        }
    }

    /// The place of staged bytes in a file.
    ///
    /// # Errors
    /// `Missing` for a key that is none of a file.
    pub fn place_of_key(&self, key: &str) -> Result<PathBuf> {
        self.file_of(key)
    }

    /// Opens an entry's bytes, also where the publisher or the life cycle has moved them since its row was read.
    ///
    /// # Errors
    /// `Missing` if they are nowhere.
    pub fn find_entry(&self, entry: &Entry) -> Result<Content> {
        // First where only this version can be: its name in the tree may be another's by now. Then in the order in which they move.
        let staged = self.file_of(&entry.store).ok();
        let places = [
            Some(self.noncurrent_path(entry)),
            staged,
            Some(self.tree_path(entry)),
            Some(self.noncurrent_path(entry)),
            Some(self.tree_path(entry)),
        ];
        for place in places.into_iter().flatten() {
            match Content::from_file(&place) {
                Err(StorageError::Missing(_)) => {}
                other => return other,
            }
        }
        Err(StorageError::Missing(format!("{}/{}", entry.parent, entry.name)))
    }
}

impl Content {
    /// Opens any file.
    ///
    /// # Errors
    /// `Missing` if it is not there.
    pub fn open(path: &Path) -> Result<Self> {
        Content::from_file(path)
    }

    /// Writes all bytes to a new file, readable by nobody else, with the directories above it.
    ///
    /// # Errors
    /// The disk's.
    pub fn copy_to(&self, path: &Path) -> Result<()> {
        if let Some(dir) = path.parent() {
            make_dir(dir)?;
        }
        let cannot = || format!("cannot write {}", path.display());
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path).context(cannot)?;
        self.for_each(COPY_PIECE, |piece| io::Write::write_all(&mut file, piece).context(cannot))
    }
}
