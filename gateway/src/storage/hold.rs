//! While a backup is taken, nothing is let go: what its copy of the journal names has to be there until it is copied. A lock on
//! a file says so to the servers and commands of all processes, and ends with the process that holds it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};

use super::{Context as _, Result};

/// The file below the data directory.
const NAME: &str = "backup.lock";

/// What lets bytes go takes the lock shared and at once, a backup for itself and for all its time.
pub(super) struct HoldLock {
    path: PathBuf,
    /// Locks belong to an open file: its users in this process take turns.
    file: Mutex<Option<File>>,
}

/// Nothing is let go until this is dropped.
pub struct Hold {
    _locked: File,
}

impl HoldLock {
    pub(super) fn new(data: &Path) -> Self {
        HoldLock {
            path: data.join(NAME),
            file: Mutex::new(None),
        }
    }

    /// Waits for what is being let go at this moment.
    pub(super) fn hold(&self) -> Result<Hold> {
        let file = open(&self.path)?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(io::Error::from)
            .context(|| format!("cannot lock {}", self.path.display()))?;
        Ok(Hold { _locked: file })
    }

    /// Does what lets bytes go, unless a backup is being taken, or it cannot be seen whether one is.
    pub(super) fn unless_held<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let mut opened = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let locked =
            opened
                .take()
                .map_or_else(|| open(&self.path), Ok)
                .and_then(|file| match flock(&file, FlockOperation::NonBlockingLockShared) {
                    Err(rustix::io::Errno::WOULDBLOCK) => Ok((file, false)),
                    other => other
                        .map(|()| (file, true))
                        .map_err(io::Error::from)
                        .context(|| format!("cannot lock {}", self.path.display())),
                });
        let (file, is_free) = locked.inspect_err(|error| tracing::error!(%error, "nothing is let go")).ok()?;
        let done = is_free.then(work);
        let _ = flock(&file, FlockOperation::Unlock);
        *opened = Some(file);
        done
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    opened.context(|| format!("cannot open {}", path.display()))
}
