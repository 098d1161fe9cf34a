//! Bodies that broke off and are kept for their sender to go on with (durability.md §1.2; AS2 Restart).
//!
//! ```text
//! DATA/partial/boot                         the boot of the machine under which the files here were written
//! DATA/partial/<pair>/<transfer>.<synced>   what is held; its first <synced> bytes outlive a power cut
//! DATA/partial/<pair>/<transfer>.whole      it came whole: its length
//! ```
//! The names are digests and the files describe themselves: no row of the journal knows them. Losing one costs a sender
//! the way it had come, nothing else, so nothing is promised and nothing needs to be repaired.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use super::draft::{Draft, DraftPlace};
use super::{Context as _, Result, Storage, list, make_dir, sync_dir};
use crate::clock::{Millis, boot_id, millis};
use crate::lock::locked;

/// Bytes after which a body in progress is synced, so that a power cut costs no more than these.
pub(super) const SYNC_EVERY: u64 = 64 << 20;
/// Extension of the mark of a transfer that came whole.
const WHOLE: &str = "whole";

/// Its name below the data directory.
pub(crate) const DIR: &str = "partial";

/// The directory of parts.
pub struct Partials {
    dir: PathBuf,
    busy: Busy,
}

/// The transfers that somebody works on now.
type Busy = Arc<Mutex<HashSet<PathBuf>>>;

/// What is held of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    Nothing,
    /// So many bytes from its beginning.
    Part(u64),
    /// All of its bytes, which became a message.
    Whole(u64),
}

/// What a pair uses of the directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Parts.
    pub parts: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Marks of transfers that came whole.
    pub whole: usize,
}

/// The place of one transfer; nobody else gets it until this is dropped.
#[derive(Debug)]
pub struct Place {
    /// The path without the extension.
    stem: PathBuf,
    busy: Busy,
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.busy).remove(&self.stem);
    }
}

/// What makes a [`Draft`] a part: it lies at a place of its own and stays there when it is dropped.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) stem: PathBuf,
    pub(super) synced: u64,
}

impl Partials {
    pub(super) fn new(data: &Path) -> Self {
        Partials {
            dir: data.join(DIR),
            busy: Busy::default(),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The place of a transfer of a pair, both named by digests in hex; `None` while somebody else has it.
    #[must_use]
    pub fn place(&self, pair: &str, transfer: &str) -> Option<Place> {
        let stem = self.dir.join(pair).join(transfer);
        let free = locked(&self.busy).insert(stem.clone());
        free.then(|| Place {
            stem,
            busy: Arc::clone(&self.busy),
        })
    }

    /// What is held of a transfer, as [`Place::kept_bytes`], without keeping others from its place; `None` while somebody has it.
    pub fn look(&self, pair: &str, transfer: &str, oldest: Millis) -> Option<Result<Kept>> {
        let stem = self.dir.join(pair).join(transfer);
        let busy = locked(&self.busy);
        (!busy.contains(&stem)).then(|| kept_bytes(&stem, oldest))
    }

    /// What a pair uses, without the transfer at `place`.
    ///
    /// # Errors
    /// The disk's.
    pub fn usage(&self, pair: &str, place: &Place) -> Result<Usage> {
        let mut usage = Usage::default();
        for file in files(&self.dir.join(pair))? {
            if file.with_extension("") == place.stem {
                continue;
            }
            if synced(&file).is_some() {
                usage.parts += 1;
                usage.bytes += len(&file);
            } else {
                usage.whole += 1;
            }
        }
        Ok(usage)
    }

    /// Removes what was last written before `oldest`, except what is being worked on; how many files.
    ///
    /// # Errors
    /// The disk's.
    pub fn sweep(&self, oldest: Millis) -> Result<u64> {
        let mut gone = 0;
        for pair in list(&self.dir)?.into_iter().filter(|path| path.is_dir()) {
            for file in files(&pair)? {
                let busy = locked(&self.busy);
                if !busy.contains(&file.with_extension("")) && written(&file) < oldest {
                    gone += u64::from(fs::remove_file(&file).is_ok());
                }
            }
        }
        Ok(gone)
    }

    /// Takes over what the last server left, before anything new is written. Under the boot of then, what it wrote is all
    /// there, even if it was killed; under another one the power may have gone, and only what was synced counts.
    ///
    /// # Errors
    /// The disk's.
    pub fn adopt(&self) -> Result<()> {
        let (note, boot) = (self.dir.join("boot"), boot_id());
        if !boot.is_empty() && fs::read_to_string(&note).is_ok_and(|noted| noted == boot) {
            return Ok(());
        }
        for pair in list(&self.dir)?.into_iter().filter(|path| path.is_dir()) {
            for file in files(&pair)? {
                match synced(&file) {
                    Some(0) => fs::remove_file(&file).context(|| format!("cannot remove {}", file.display()))?,
                    Some(synced) if synced < len(&file) => cut(&file, synced)?,
                    _ => {}
                }
            }
        }
        fs::write(&note, boot).context(|| format!("cannot write {}", note.display()))?;
        let written = fs::File::open(&note).and_then(|file| file.sync_all());
        written.context(|| format!("cannot sync {}", note.display()))?;
        sync_dir(&self.dir)
    }
}

impl Place {
    /// What is held, unless it was last written before `oldest`.
    ///
    /// # Errors
    /// The disk's.
    pub fn kept_bytes(&self, oldest: Millis) -> Result<Kept> {
        kept_bytes(&self.stem, oldest)
    }

    /// Forgets what is held.
    ///
    /// # Errors
    /// The disk's.
    pub fn clear(&self) -> Result<()> {
        match file_of(&self.stem)? {
            Some(file) => fs::remove_file(&file).context(|| format!("cannot remove {}", file.display())),
            None => Ok(()),
        }
    }

    /// Begins to write here, in memory while it is small.
    ///
    /// # Errors
    /// The disk's.
    pub fn begin(&self, storage: &Storage) -> Result<Draft> {
        self.clear()?;
        let mut draft = storage.draft();
        draft.part = Some(Part {
            stem: self.stem.clone(),
            synced: 0,
        });
        Ok(draft)
    }

    /// Goes on writing behind the first `at` bytes of what is held.
    ///
    /// # Errors
    /// When nothing is held, or the disk's.
    pub fn go_on(&self, storage: &Storage, at: u64) -> Result<Draft> {
        let found = file_of(&self.stem)?.and_then(|path| synced(&path).map(|synced| (path, synced)));
        let (path, synced) = found.ok_or_else(|| super::StorageError::Missing(self.stem.display().to_string()))?;
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let file = opened.context(|| format!("cannot open {}", path.display()))?;
        file.set_len(at).context(|| format!("cannot cut {}", path.display()))?;
        let mut draft = storage.draft();
        draft.len = at;
        draft.part = Some(Part {
            stem: self.stem.clone(),
            synced: synced.min(at),
        });
        draft.place = DraftPlace::File { file, path };
        Ok(draft)
    }

    /// Notes that a transfer of this length became a message; a mark that is lost costs its sender one more copy.
    ///
    /// # Errors
    /// The disk's.
    pub fn came_whole(&self, len: u64) -> Result<()> {
        self.clear()?;
        make_dir(self.stem.parent().unwrap_or(&self.stem))?;
        let path = self.stem.with_extension(WHOLE);
        fs::write(&path, len.to_string()).context(|| format!("cannot write {}", path.display()))
    }
}

impl Draft {
    /// Makes what came of a part durable and leaves it at its place; other drafts are forgotten.
    ///
    /// # Errors
    /// The disk's; then nothing is kept (R8).
    pub fn keep(mut self) -> Result<()> {
        if self.is_empty() || self.part.is_none() {
            self.discard();
            return Ok(());
        }
        if let Err(error) = self.spill().and_then(|()| self.sync_part()) {
            self.discard();
            return Err(error);
        }
        let Some(part) = &self.part else { return Ok(()) };
        let pair = part.stem.parent().unwrap_or(&part.stem);
        sync_dir(pair)?;
        sync_dir(pair.parent().unwrap_or(pair))
    }

    /// Removes what was written, be it a part.
    pub fn discard(self) {
        drop(self.whole());
    }

    /// The bytes are all there: from here on they go the way of every draft, and dropping them forgets them.
    #[must_use]
    pub fn whole(mut self) -> Self {
        self.part = None;
        self
    }

    /// Syncs what was written of a part, and says so in its name.
    pub(super) fn sync_part(&mut self) -> Result<()> {
        if let (Some(part), DraftPlace::File { file, path }) = (&mut self.part, &mut self.place) {
            file.sync_data().context(|| format!("cannot sync {}", path.display()))?;
            let synced = part.stem.with_extension(self.len.to_string());
            fs::rename(&*path, &synced).context(|| format!("cannot rename {}", path.display()))?;
            (part.synced, *path) = (self.len, synced);
        }
        Ok(())
    }
}

fn kept_bytes(stem: &Path, oldest: Millis) -> Result<Kept> {
    let Some(file) = file_of(stem)?.filter(|file| written(file) >= oldest) else {
        return Ok(Kept::Nothing);
    };
    if synced(&file).is_some() {
        return Ok(Kept::Part(len(&file)));
    }
    let length = fs::read_to_string(&file).ok().and_then(|text| text.parse().ok());
    Ok(length.map_or(Kept::Nothing, Kept::Whole))
}

/// The file of a transfer, whatever its extension.
fn file_of(stem: &Path) -> Result<Option<PathBuf>> {
    let all = files(stem.parent().unwrap_or(stem))?;
    Ok(all.into_iter().find(|file| file.with_extension("") == stem))
}

/// How much of a part would outlive a power cut; `None` if the file is no part.
fn synced(file: &Path) -> Option<u64> {
    file.extension()?.to_str()?.parse().ok()
}

fn len(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |meta| meta.len())
}

/// When a file was last written; what cannot be told is old.
fn written(file: &Path) -> Millis {
    let time = fs::metadata(file).and_then(|meta| meta.modified()).ok();
    time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, millis)
}

/// The files of a pair, none if it has no directory.
fn files(pair: &Path) -> Result<Vec<PathBuf>> {
    if pair.is_dir() { list(pair) } else { Ok(Vec::new()) }
}

fn cut(file: &Path, len: u64) -> Result<()> {
    let cut = OpenOptions::new().write(true).open(file).and_then(|file| file.set_len(len));
    cut.context(|| format!("cannot cut {}", file.display()))
}
