//! What stands in the way of a start, and what is put right before the doors open.

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::Core;
use crate::config::{Config, Paths};
use crate::journal::{JournalError, UploadState};
use crate::listen::Obstacle;
use crate::manage::{Refusal, sealed};
use crate::storage::{self, StorageError};

/// Why the gateway cannot start: what, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another server has the data directory.
    #[error("another as2gate server uses {0}")]
    Locked(PathBuf),
    /// The server that runs is of an older version, whose journal this one would bring up to date.
    #[error("the server that is running is of an older version")]
    OldServer,
    /// The data directory was never set up.
    #[error("{0} is not a data directory")]
    NotSetUp(PathBuf),
    /// This user may not look into the data directory.
    #[error("cannot look into {0}: {1}")]
    Unreadable(PathBuf, String),
    /// Root works on the data directory of another user.
    #[error("{0} belongs to user {1}, whose server could not read what root writes there")]
    Foreign(PathBuf, u32),
    /// The journal's file has nothing in it: what the data directory holds would pass for worth nothing.
    #[error("the database {0} is empty")]
    Emptied(PathBuf),
    /// The journal's file is missing beside what only a journal explains.
    #[error("the database {0} is missing, and {1} is not empty")]
    Lost(PathBuf, PathBuf),
    /// No room is left to open the journal: SQLite calls that an I/O error.
    #[error("no room is left on the disk of {0}")]
    Full(PathBuf),
    /// The journal's word.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The storage's word.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The keystore's word.
    #[error("{0}")]
    Key(String),
    /// The master key is not the one that sealed what the journal holds.
    #[error("{0}")]
    OtherKey(String),
    /// Certificate or key of the TLS listener.
    #[error("{0}")]
    Tls(String),
    /// A host key that cannot be used.
    #[error("{0}")]
    HostKey(String),
    /// An address that a door cannot have.
    #[error(transparent)]
    Address(#[from] Obstacle),
    /// Something else of the system.
    #[error("{0}")]
    Io(String),
}

impl StartError {
    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            StartError::Address(obstacle) => return Cow::Owned(obstacle.hint()),
            StartError::Locked(_) => "stop the other server, or give this one its own --data-dir",
            StartError::OldServer => "restart the server with this version first",
            StartError::NotSetUp(_) => "`as2gate init` sets one up here; another is named with -c FILE or --data-dir DIR",
            StartError::Unreadable(..) => "run it as the user to whom the data directory belongs",
            StartError::Foreign(..) => "run it as that user: sudo -u NAME as2gate …",
            StartError::Full(_) => "make room; nothing that was accepted is lost",
            StartError::Journal(JournalError::Newer { .. } | JournalError::Unknown { .. }) => {
                "install the as2gate version that wrote it, or restore a backup"
            }
            StartError::Emptied(_) => "restore a backup; to begin anew, remove the data directory and run `as2gate init`",
            StartError::Lost(..) => {
                "if it lies on a disk of its own, mount that; else move all but the master key away and restore a backup: as2gate restore --help"
            }
            StartError::Journal(error) if is_damage(error) => {
                "stop the server, keep a copy of the data directory, and restore a backup: as2gate restore --help"
            }
            StartError::Journal(error) if is_closed(error) => {
                "give the database's directory and files to the user that runs the server (chown), or run it as theirs"
            }
            StartError::Journal(_) => "look at the disk, at the log of the system (dmesg), and at the rights of the data directory",
            StartError::Storage(_) => "look at the disk and the rights of the data directory",
            StartError::HostKey(_) => {
                "put it back from a backup; where its file is missing a new key is made, which every client has to be told of"
            }
            StartError::OtherKey(_) => sealed::WAY_BACK,
            StartError::Key(_) => "look at master_key in the configuration and at the file's rights",
            StartError::Tls(_) => "give as2.tls.cert and as2.tls.key files in PEM that belong together",
            StartError::Io(_) => "look at what the system says; `as2gate doctor` tells of more",
        })
    }
}

/// The file of the journal is not what SQLite wrote.
fn is_damage(error: &JournalError) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    let JournalError::Sqlite(error) = error else { return false };
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// This user may not read or write the journal's file, or one beside it.
fn is_closed(error: &JournalError) -> bool {
    use rusqlite::ErrorCode::{CannotOpen, PermissionDenied, ReadOnly};
    match error {
        JournalError::Open(_) => true,
        JournalError::Sqlite(error) => matches!(error.sqlite_error_code(), Some(CannotOpen | PermissionDenied | ReadOnly)),
        _ => false,
    }
}

/// Whether the disk has room for what opening a journal writes.
pub(super) fn has_room(data: &Path) -> bool {
    const NEEDED: u64 = 1 << 20;
    storage::free_bytes(data).is_ok_and(|free| free >= NEEDED)
}

/// Parts that were being resumed when the last server died went with its spool; nobody was promised them.
pub(super) fn forget_lost_parts(core: &Core) -> Result<(), StartError> {
    let rows = core.journal.read(|tx| tx.all_uploads())?;
    for row in rows
        .into_iter()
        .filter(|row| row.state == UploadState::Part && core.storage.open_staged(&row.store).is_err())
    {
        core.journal.write_blocking(move |tx| tx.remove_upload(&row))?;
    }
    Ok(())
}

/// A message in work that nobody would work on is a fault of ours, and not one to keep.
pub(super) async fn adopt_jobless(core: &Core) -> Result<(), StartError> {
    let now = core.clock.now();
    for id in core.journal.write(move |tx| tx.adopt_jobless(now)).await? {
        tracing::warn!(id, "a message in work had no job; it has one now");
    }
    Ok(())
}

/// Whether somebody has set up the data directory, and this user gets at it.
pub(crate) fn check_set_up(paths: &Paths) -> Result<(), StartError> {
    match paths.db.try_exists() {
        Ok(true) if is_empty(&paths.db) && is_empty(&paths.db.with_extension("db-wal")) => Err(StartError::Emptied(paths.db.clone())),
        Ok(true) => Ok(()),
        Ok(false) => Err(match left_behind(paths) {
            Some(place) => StartError::Lost(paths.db.clone(), place.clone()),
            None => StartError::NotSetUp(paths.data.clone()),
        }),
        Err(error) => Err(StartError::Unreadable(paths.data.clone(), error.to_string())),
    }
}

/// What belongs to a journal, and would be worth nothing or be overwritten beside a new one. Host keys and a master key do not:
/// they may be brought along to a new gateway.
fn left_behind(paths: &Paths) -> Option<&PathBuf> {
    let holds = |dir: &&PathBuf| std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    [&paths.keystore, &paths.tree, &paths.store, &paths.noncurrent]
        .into_iter()
        .find(holds)
}

/// What root makes, also the database's log, is closed to the user that the server runs as: the owner of the database, or of the
/// data directory that is to get one. The server itself may be root.
pub(crate) fn expect_own(paths: &Paths) -> Result<(), StartError> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::metadata(&paths.db).or_else(|_| std::fs::metadata(&paths.data));
    let owner = found.map_or(0, |found| found.uid());
    if owner != 0 && rustix::process::geteuid().is_root() {
        return Err(StartError::Foreign(paths.data.clone(), owner));
    }
    Ok(())
}

fn is_empty(file: &Path) -> bool {
    std::fs::metadata(file).map_or(true, |metadata| metadata.len() == 0)
}

/// Whether the master key is the one under which the private keys were sealed: with another one, every message would fail.
pub(super) async fn check_master_key(core: &Core) -> Result<(), StartError> {
    let known = sealed::expect_key(core, &core.objects());
    let cannot = |refusal: Refusal| match refusal.code {
        sealed::OTHER_KEY => StartError::OtherKey(refusal.why),
        _ => StartError::Io(refusal.why),
    };
    if let Some(proof) = known.map_err(cannot)? {
        core.journal.write(move |tx| proof.note(tx)).await?;
    }
    Ok(())
}

/// Takes the data directory for this process.
pub(super) fn lock(config: &Config) -> Result<File, StartError> {
    let paths = config.paths();
    check_set_up(&paths)?;
    let io = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            StartError::Unreadable(paths.data.clone(), error.to_string())
        }
        _ => StartError::Io(format!("cannot open {}: {error}", paths.lock.display())),
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&paths.lock)
        .map_err(io)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::Locked(paths.data)),
        Err(error) => Err(io(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `doctor` itself says them.
    #[test]
    fn what_helps_against_a_database_that_cannot_be_opened_is_not_to_ask_doctor() {
        let closed = JournalError::Open("open as2gate.db: Permission denied".to_owned());
        let broken = JournalError::Sqlite(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(10), None));
        let [closed, broken] = [closed, broken].map(|error| StartError::Journal(error).hint().into_owned());
        assert!(closed.contains("chown") && broken.contains("dmesg"), "{closed}; {broken}");
        assert!(!closed.contains("doctor") && !broken.contains("doctor"), "{closed}; {broken}");
    }
}
