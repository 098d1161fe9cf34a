//! Publishing: bytes go to their place in the tree, leave it when their time has come, and come back.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Context as _, Hold, Result, Storage, StorageError, list, make_dir, old, remove, sync_dir};
use crate::journal::{Entry, file_name};
use crate::layout::{self, Area};
use crate::lock::locked;

/// Entries that one round publishes and syncs together.
const MAX_BATCH: usize = 512;
/// Bytes of small contents after which a round takes no further entry: it holds them in memory.
const MAX_BATCH_BYTES: usize = 8 << 20;

/// How long one that cannot be published is passed over: it must not stand in the way of all others.
const FAILED_PAUSE: Duration = Duration::from_secs(60);

/// How often a directory is made anew that others remove while a file is moved into it.
const MAX_AGAIN: usize = 100;

/// What a round of publishing came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Round {
    /// Entries whose bytes are at their place now; 0 when there was nothing left.
    pub placed: usize,
    /// It took as much as a round may, so that there is probably more.
    pub full: bool,
}

impl Storage {
    /// Publishes what the journal lists but the tree does not hold yet, as much as a round may take.
    ///
    /// Order: place every file, sync once, tell the journal, then let the staged copies go. A kill anywhere repeats it.
    ///
    /// # Errors
    /// The disk's or the journal's.
    pub fn publish_batch(&self) -> Result<Round> {
        let mut failed = locked(&self.publishing);
        failed.retain(|_, at| at.elapsed() < FAILED_PAUSE);
        let entries = self
            .journal
            .read(|tx| tx.unpublished(MAX_BATCH, MAX_BATCH_BYTES, &|key| failed.contains_key(key)))?;
        if entries.is_empty() {
            return Ok(Round::default());
        }
        let small: usize = entries.iter().filter_map(|(_, bytes)| bytes.as_ref()).map(Bytes::len).sum();
        let full = entries.len() >= MAX_BATCH || small >= MAX_BATCH_BYTES;
        let mut placed = Vec::with_capacity(entries.len());
        let mut made = HashSet::new();
        let (mut trouble, mut left) = (None, 0);
        for (entry, bytes) in entries {
            match self.place(&entry, bytes, &mut made) {
                Ok(()) => placed.push(entry),
                Err(error) => {
                    trouble.get_or_insert(error);
                    left += 1;
                    failed.insert(entry.store, Instant::now());
                }
            }
        }
        // On a full disk it is all of them, every minute.
        if let Some(error) = trouble {
            tracing::error!(left, %error, "cannot publish; tried again in a minute. This is the first one's trouble");
        }
        self.sync_names()?;
        let round = Round {
            placed: placed.len(),
            full,
        };
        let keys: Vec<String> = placed.iter().map(|entry| entry.store.clone()).collect();
        self.journal.write_sure_blocking(move |tx| tx.published(&placed))?;
        for key in keys {
            // Small ones went with their rows.
            if file_name(&key).is_some() && !self.journal.read(|tx| tx.names_store_key(&key))? {
                self.discard(&key);
            }
        }
        Ok(round)
    }

    /// Makes durable what was placed, moved and removed, many names at once.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync_names(&self) -> Result<()> {
        let root = fs::File::open(&self.tree).context(|| format!("cannot open {}", self.tree.display()))?;
        rustix::fs::syncfs(&root)
            .map_err(io::Error::from)
            .context(|| "cannot sync the file system".to_owned())
    }

    /// Makes durable that one entry was [retired](Storage::retire), without waiting for what others are writing.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync_retired(&self, entry: &Entry) -> Result<()> {
        let (from, to) = (self.tree_path(entry), self.noncurrent_path(entry));
        // The directories may be new, all up to the root; and where nothing was moved, some of them are not there.
        let out_of_view = to.ancestors().skip(1).take_while(|dir| dir.starts_with(&self.noncurrent));
        let dirs = from.parent().into_iter().chain(out_of_view);
        dirs.filter(|dir| dir.is_dir()).try_for_each(sync_dir)
    }

    /// Does something while nothing is published.
    pub fn between_rounds<T>(&self, work: impl FnOnce() -> T) -> T {
        let _nobody_publishes = locked(&self.publishing);
        work()
    }

    /// Publishes all that is listed now. What comes meanwhile is left to whoever publishes next: under load that would not end.
    ///
    /// # Errors
    /// The disk's or the journal's.
    pub fn publish_listed(&self) -> Result<()> {
        loop {
            let round = self.publish_batch()?;
            if !round.full || round.placed == 0 {
                return Ok(());
            }
        }
    }

    /// Puts one entry's bytes at its place; what is there already is replaced. `made` are the directories of this round.
    fn place(&self, entry: &Entry, bytes: Option<Bytes>, made: &mut HashSet<PathBuf>) -> Result<()> {
        // A user may have deleted it before.
        let target = self.published_path(entry);
        if let Some(parent) = target.parent()
            && !made.contains(parent)
        {
            make_dir(parent)?;
            made.insert(parent.to_owned());
        }
        let placed = match bytes {
            Some(bytes) => replace_below(&target, |path| {
                let mut options = fs::OpenOptions::new();
                let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
                // Nobody should find half of it, least of all once the disk has room again.
                file.write_all(&bytes).inspect_err(|_| drop(fs::remove_file(path)))
            }),
            None => {
                let source = self.file_of(&entry.store)?;
                replace_below(&target, |path| fs::hard_link(&source, path))
            }
        };
        placed.context(|| format!("cannot publish {}", target.display()))
    }

    /// Puts an entry's bytes, in the tree or out of view, also where its row will say once it stands in another directory: a failed
    /// message that became delivered after all. The old name stays until [`Storage::unpublish`]. Bytes that are lost hold up
    /// nothing.
    ///
    /// # Errors
    /// The disk's; `Missing` while somebody is just taking the entry out of view.
    pub fn link_into(&self, entry: &Entry, parent: &str) -> Result<()> {
        if !entry.store.is_empty() || entry.is_dir {
            return Ok(());
        }
        let moved = Entry {
            parent: parent.to_owned(),
            ..entry.clone()
        };
        let (source, target) = (self.published_path(entry), self.published_path(&moved));
        if let Some(dir) = target.parent() {
            make_dir(dir)?;
        }
        match replace_below(&target, |path| fs::hard_link(&source, path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if entry.noncurrent.is_none() && self.noncurrent_path(entry).exists() {
                    return Err(StorageError::Missing(source.display().to_string()));
                }
                tracing::error!(path = %source.display(), "recorded bytes are missing");
                return Ok(());
            }
            other => other.context(|| format!("cannot publish {}", target.display()))?,
        }
        target.parent().map_or(Ok(()), sync_dir)
    }

    /// Removes a name whose bytes live on under a name that a backup which is being taken does not know; it stays meanwhile, and
    /// this is false.
    pub fn unpublish_unless_held(&self, entry: &Entry) -> bool {
        let is_gone = self.hold.unless_held(|| self.unpublish(entry)).is_some();
        if !is_gone {
            tracing::info!(path = %self.published_path(entry).display(), "left behind for the backup that is being taken");
        }
        is_gone
    }

    /// Deletes published bytes for good, in view or out of it.
    ///
    /// # Errors
    /// `Held` while a backup is taken; nothing is deleted then.
    pub fn delete(&self, entries: &[Entry]) -> Result<()> {
        let deleted = self.hold.unless_held(|| entries.iter().for_each(|entry| self.unpublish(entry)));
        deleted.ok_or(StorageError::Held)
    }

    /// Removes a name, whose bytes live on elsewhere or are to go.
    pub fn unpublish(&self, entry: &Entry) {
        let path = self.published_path(entry);
        let _ = if entry.is_dir {
            fs::remove_dir(&path)
        } else {
            fs::remove_file(&path)
        };
        if entry.noncurrent.is_some() {
            return prune(&path, &self.noncurrent);
        }
        if let Some(parent) = path.parent() {
            // Only an empty directory goes; a full one is somebody's.
            let _ = fs::remove_dir(parent);
        }
    }

    /// Where the bytes of an entry are that are not in the store any more: in the tree, or out of view.
    fn published_path(&self, entry: &Entry) -> PathBuf {
        if entry.noncurrent.is_some() {
            self.noncurrent_path(entry)
        } else {
            self.tree_path(entry)
        }
    }

    /// Takes an entry's bytes out of the tree; restorable. Redo-safe. Durable with [`Storage::sync_names`], for which its row has
    /// to wait.
    ///
    /// # Errors
    /// The disk's.
    pub fn retire(&self, entry: &Entry) -> Result<()> {
        let from = self.tree_path(entry);
        if entry.is_dir {
            let _ = fs::remove_dir(&from);
            return Ok(());
        }
        let to = self.noncurrent_path(entry);
        if !move_to(&from, &to)? {
            if !to.exists() {
                // One lost file must not hold up the life of all the others.
                tracing::error!(path = %from.display(), "recorded bytes are missing");
            }
            return Ok(());
        }
        let _ = fs::set_permissions(&to, fs::Permissions::from_mode(0o600));
        Ok(())
    }

    /// Removes the directories of messages in the tree that the last of these files has left. One that somebody has just made for
    /// another file may go as well: whoever puts a file there makes it anew.
    pub fn drop_emptied(&self, retired: &[Entry]) {
        let left = retired.iter().filter(|entry| !entry.is_dir && is_in_its_own_directory(entry));
        let mut dirs: Vec<PathBuf> = left
            .filter_map(|entry| self.tree_path(entry).parent().map(Path::to_owned))
            .collect();
        dirs.dedup();
        if !dirs.is_empty() {
            self.between_rounds(|| dirs.iter().for_each(|dir| drop(fs::remove_dir(dir))));
        }
    }

    /// Removes the empty directories of messages that no row shows: sweeps of before left them. Walks through all messages of the
    /// tree, so it is for once.
    ///
    /// # Errors
    /// The disk's or the journal's.
    pub fn drop_unlisted_directories(&self, age_secs: u64) -> Result<u64> {
        let mut gone = 0;
        for home in list(&self.tree)? {
            let name = home.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(account) = layout::account_of(&name) else { continue };
            for shelf in Area::ALL.iter().flat_map(|area| shelves(&home, *area)) {
                let parent = shelf.strip_prefix(&home).unwrap_or(&shelf).to_string_lossy().into_owned();
                // A shelf may hold millions.
                for dir in fs::read_dir(&shelf).into_iter().flatten().flatten().map(|entry| entry.path()) {
                    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let is_empty = || fs::read_dir(&dir).is_ok_and(|mut held| held.next().is_none());
                    if old(&dir, age_secs) && is_empty() && self.journal.read(|tx| tx.entry(account, &parent, &name))?.is_none() {
                        gone += u64::from(self.between_rounds(|| fs::remove_dir(&dir)).is_ok());
                    }
                }
            }
        }
        Ok(gone)
    }

    /// Brings an entry's bytes back into the tree; false if they are lost. Redo-safe, and durable as what was retired.
    ///
    /// # Errors
    /// The disk's.
    pub fn restore(&self, entry: &Entry) -> Result<bool> {
        let to = self.tree_path(entry);
        if entry.is_dir {
            return make_dir(&to).map(|()| true);
        }
        let from = self.noncurrent_path(entry);
        let is_back = move_to(&from, &to)? || to.exists();
        if !is_back {
            // One lost file must not keep all the others away.
            tracing::error!(path = %from.display(), "recorded bytes are missing");
        }
        Ok(is_back)
    }

    /// Deletes a non-current entry's bytes for good, also those that a power cut left in the tree. Redo-safe, and durable as what
    /// was retired.
    ///
    /// # Errors
    /// The disk's; `Held` while a backup is taken.
    pub fn purge(&self, entry: &Entry) -> Result<()> {
        if entry.is_dir {
            // Sweeps of before left it behind, empty.
            let path = self.tree_path(entry);
            if path.exists() {
                let _ = self.between_rounds(|| fs::remove_dir(&path));
            }
            return Ok(());
        }
        let path = self.noncurrent_path(entry);
        let removed = self.hold.unless_held(|| remove(&path));
        removed.ok_or(StorageError::Held)??;
        prune(&path, &self.noncurrent);
        self.remove_leftover(entry)
    }

    /// The name in the tree of an entry that is out of view is nobody's, unless another version of it is kept. Whoever brings
    /// something back has moved it there before the row says so: then it stays.
    fn remove_leftover(&self, entry: &Entry) -> Result<()> {
        let path = self.tree_path(entry);
        if !path.exists() {
            return Ok(());
        }
        let removed = self.restoring.unless_held(|| {
            self.between_rounds(|| -> Result<()> {
                if self.journal.read(|tx| tx.has_other_version(entry))? {
                    return Ok(());
                }
                tracing::warn!(path = %path.display(), "removing what was left behind in the tree");
                self.hold.unless_held(|| remove(&path)).ok_or(StorageError::Held)??;
                if let Some(parent) = path.parent() {
                    // Only an empty directory goes.
                    let _ = fs::remove_dir(parent);
                }
                Ok(())
            })
        });
        removed.unwrap_or(Ok(()))
    }

    /// Nobody takes what is moved into the tree for something left behind until this is dropped.
    ///
    /// # Errors
    /// The disk's.
    pub fn restoring(&self) -> Result<Hold> {
        self.restoring.hold()
    }
}

/// Moves a file, with the directories that it needs; false if it is not there.
fn move_to(from: &Path, to: &Path) -> Result<bool> {
    let mut again = 0;
    loop {
        let made = to.parent().map_or(Ok(()), make_dir);
        let moved = made.and_then(|()| fs::rename(from, to).context(|| format!("cannot move {} to {}", from.display(), to.display())));
        let Err(error) = moved else { return Ok(true) };
        // Whoever deletes beside us removes directories that became empty, also one that was just made for this file.
        let lost_its_way = matches!(&error, StorageError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists));
        if !lost_its_way {
            return Err(error);
        }
        if !from.exists() {
            return Ok(false);
        }
        if again == MAX_AGAIN {
            return Err(error);
        }
        again += 1;
    }
}

/// Removes the directories above a deleted file as long as they are empty.
fn prune(path: &Path, root: &Path) {
    let mut dir = path.parent();
    while let Some(current) = dir {
        if current == root || fs::remove_dir(current).is_err() {
            return;
        }
        dir = current.parent();
    }
}

/// The directories of an area that hold directories of messages: below station, partner and box.
fn shelves(home: &Path, area: Area) -> Vec<PathBuf> {
    let mut dirs = match area {
        Area::Files | Area::Headers | Area::RawMessage => vec![home.join("AS2").join(area.as_str())],
        Area::RawMdn | Area::Duplicate => Vec::new(),
    };
    for _ in 0..3 {
        dirs = dirs.iter().flat_map(|dir| list(dir).unwrap_or_default()).collect();
    }
    dirs
}

/// Whether a file lies in the directory of its message, and not beside those of others.
fn is_in_its_own_directory(entry: &Entry) -> bool {
    entry.parent.rsplit('/').next() == Some(entry.message.as_str())
}

/// [`replace`], also where somebody who sweeps removes the directory while it is still empty.
pub(super) fn replace_below(target: &Path, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut again = 0;
    loop {
        match replace(target, &make) {
            // It is also what a lost source says, then as often.
            Err(error) if error.kind() == io::ErrorKind::NotFound && again < MAX_AGAIN => {
                let _ = target.parent().map(make_dir);
                again += 1;
            }
            other => return other,
        }
    }
}

/// Makes a file at `target`, over whatever is there; the name always leads to one of the two.
fn replace(target: &Path, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    match make(target) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let beside = target.with_file_name(format!(".{}.new", super::draft::name()));
            make(&beside)?;
            fs::rename(&beside, target).inspect_err(|_| drop(fs::remove_file(&beside)))?;
            // Two names of one file: then the rename did nothing.
            match fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        }
        other => other,
    }
}
