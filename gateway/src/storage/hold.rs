//! While a backup is taken, nothing is let go: what its copy of the journal names has to be there until it is copied. A lock on
//! the directory of staged bytes says so to the servers and commands of all processes, and ends with the process that holds it. A
//! file of its own would belong to whoever came first, as to root's cron.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{FlockOperation, flock};

use super::{Context as _, Result};
use crate::lock::locked;

/// What lets bytes go takes the lock shared and at once, a backup for itself and for all its time.
pub(super) struct HoldLock {
    dir: PathBuf,
    /// Locks belong to an open file: its users in this process take turns.
    file: Mutex<Option<File>>,
}

/// Nothing is let go until this is dropped.
pub struct Hold {
    _locked: File,
}

impl HoldLock {
    pub(super) fn new(store: &Path) -> Self {
        HoldLock {
            dir: store.to_owned(),
            file: Mutex::new(None),
        }
    }

    /// Waits for what is being let go at this moment.
    pub(super) fn hold(&self) -> Result<Hold> {
        let file = open(&self.dir)?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(io::Error::from)
            .context(|| format!("cannot lock {}", self.dir.display()))?;
        Ok(Hold { _locked: file })
    }

    /// Does what lets bytes go, unless a backup is being taken, or it cannot be seen whether one is.
    pub(super) fn unless_held<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let mut opened = locked(&self.file);
        let kept = opened.take().map_or_else(|| open(&self.dir), Ok);
        let file = kept.inspect_err(|error| tracing::error!(%error, "nothing is let go")).ok()?;
        let done = match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Some(work()),
            Err(rustix::io::Errno::WOULDBLOCK) => None,
            Err(error) => {
                tracing::error!(dir = %self.dir.display(), %error, "cannot lock, and nothing is let go");
                None
            }
        };
        let _ = flock(&file, FlockOperation::Unlock);
        *opened = Some(file);
        done
    }
}

fn open(dir: &Path) -> Result<File> {
    File::open(dir).context(|| format!("cannot open {}", dir.display()))
}
