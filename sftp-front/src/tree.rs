//! What the server serves, as traits: a [`Tree`] is one login's view of a file system, an [`Upload`] a file being
//! written, a [`Download`] a file being read, a [`Listing`] a directory being read. The crate knows nothing of what lies
//! behind them. All methods are synchronous. They run on blocking threads, but for what the traits themselves call quick
//! ([`Wait`], [`Tree::open_write_at_once`], [`Upload::close_soon`]). Several channels of one connection may call one `Tree` at
//! the same time, but an `Upload` or `Listing` is called by one thread at a time, in the client's order.

use crate::facts::UploadFacts;
use crate::path::VPath;
use std::io;
use std::time::Duration;

/// A refused or failed request: the status code (draft-02 §7) and one line of text for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// `SSH_FX_NO_SUCH_FILE`: missing, or hidden from this user.
    #[error("{0}")]
    NoSuchFile(String),
    /// `SSH_FX_PERMISSION_DENIED`: not allowed here.
    #[error("{0}")]
    PermissionDenied(String),
    /// `SSH_FX_FAILURE`: everything else that went wrong.
    #[error("{0}")]
    Failure(String),
    /// `SSH_FX_BAD_MESSAGE`: the request makes no sense.
    #[error("{0}")]
    BadMessage(String),
    /// `SSH_FX_OP_UNSUPPORTED`: this server never does that.
    #[error("{0}")]
    OpUnsupported(String),
}

impl Fault {
    /// The usual answer for a name that is not there.
    #[must_use]
    pub fn no_such_file() -> Self {
        Self::NoSuchFile("No such file".into())
    }

    /// The answer for everything that this tree never does.
    #[must_use]
    pub fn unsupported() -> Self {
        Self::OpUnsupported("operation not supported".into())
    }
}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            // A path through a file leads nowhere, as for OpenSSH.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::NoSuchFile("No such file".into()),
            io::ErrorKind::InvalidInput => Self::BadMessage("the request cannot be carried out as it stands".into()),
            io::ErrorKind::PermissionDenied => Self::PermissionDenied("Permission denied".into()),
            io::ErrorKind::AlreadyExists => Self::Failure("the name exists already".into()),
            io::ErrorKind::StorageFull => Self::Failure("the disk is full".into()),
            _ => Self::Failure(e.to_string()),
        }
    }
}

/// File or directory; whatever else a [`Tree`] holds, such as links, is shown as a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A regular file.
    File,
}

/// What STAT, LSTAT, FSTAT and READDIR answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// File or directory.
    pub kind: Kind,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change, in seconds since 1970.
    pub mtime: u64,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
}

/// What a client asks to set; `None` = not mentioned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetStat {
    /// Size in bytes: cut or extended to it.
    pub size: Option<u64>,
    /// Numeric user and group.
    pub owner: Option<(u32, u32)>,
    /// Permission bits, `0o7777` at most.
    pub mode: Option<u32>,
    /// Access and modification time, in seconds since 1970.
    pub times: Option<(u64, u64)>,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name, one path component of at most 255 bytes.
    pub name: String,
    /// What it is.
    pub stat: Stat,
}

/// The flags and attributes of an OPEN that writes (draft-02 §6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenHow {
    /// READ was asked for as well.
    pub read: bool,
    /// APPEND: the engine turns offsets into the end of the file, and refuses those behind it.
    pub append: bool,
    /// CREAT.
    pub create: bool,
    /// TRUNC: an empty start.
    pub truncate: bool,
    /// EXCL: fails if the name exists.
    pub exclusive: bool,
    /// The size declared in the attributes (WinSCP does so), in bytes.
    pub declared_size: Option<u64>,
    /// The permission bits in the attributes.
    pub mode: Option<u32>,
}

/// Free and total space for `statvfs@openssh.com`, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All space, in bytes.
    pub total: u64,
    /// What is left, in bytes.
    pub free: u64,
}

/// What a channel does with a name after it closed an upload of that name without an error. WinSCP, sshj and rclone send
/// a SETSTAT only after a finished transfer; the other signs tell less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseSign {
    /// STAT or LSTAT of the path.
    Stat,
    /// SETSTAT of the path.
    SetStat,
    /// OPEN for writing of the path.
    Reopened,
    /// RENAME of the path to another.
    Renamed,
    /// REMOVE of the path.
    Removed,
    /// The client ended the channel in order, with no other file open.
    ChannelEnded,
}

/// What a request that was refused would have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried<'a> {
    /// To create or write a file: its OPEN, a WRITE or another step of the open file, or its CLOSE.
    Write,
    /// REMOVE.
    Remove,
    /// MKDIR.
    MkDir,
    /// RMDIR.
    RmDir,
    /// RENAME to this path.
    Rename(&'a str),
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// OPEN.
    Open,
    /// CLOSE.
    Close,
    /// READ.
    Read,
    /// WRITE.
    Write,
    /// `fsync@openssh.com`.
    Sync,
    /// STAT, LSTAT, FSTAT.
    Stat,
    /// SETSTAT, FSETSTAT, `lsetstat@openssh.com`.
    SetStat,
    /// OPENDIR, READDIR.
    List,
    /// REMOVE.
    Remove,
    /// RENAME, `posix-rename@openssh.com`.
    Rename,
    /// MKDIR.
    MkDir,
    /// RMDIR.
    RmDir,
    /// REALPATH, `expand-path@openssh.com`, `home-directory`.
    RealPath,
    /// SYMLINK, READLINK, `hardlink@openssh.com`.
    Link,
    /// Any other.
    Other,
}

impl Op {
    /// Every one, in order.
    pub const ALL: [Self; 15] = [
        Self::Open,
        Self::Close,
        Self::Read,
        Self::Write,
        Self::Sync,
        Self::Stat,
        Self::SetStat,
        Self::List,
        Self::Remove,
        Self::Rename,
        Self::MkDir,
        Self::RmDir,
        Self::RealPath,
        Self::Link,
        Self::Other,
    ];

    /// Its word, in small letters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Stat => "stat",
            Self::SetStat => "setstat",
            Self::List => "list",
            Self::Remove => "remove",
            Self::Rename => "rename",
            Self::MkDir => "mkdir",
            Self::RmDir => "rmdir",
            Self::RealPath => "realpath",
            Self::Link => "link",
            Self::Other => "other",
        }
    }
}

/// One login's view of the files. Every method may answer any [`Fault`].
pub trait Tree: Send + Sync + 'static {
    /// Where relative paths start.
    fn home(&self) -> VPath;

    /// STAT (`follow`) and LSTAT.
    ///
    /// # Errors
    /// [`Fault::NoSuchFile`] for missing and hidden names alike.
    fn stat(&self, path: &VPath, follow: bool) -> Result<Stat, Fault>;

    /// REALPATH; the path is normalised already and need not exist.
    ///
    /// # Errors
    /// Any fault.
    fn realpath(&self, path: &VPath) -> Result<VPath, Fault> {
        Ok(path.clone())
    }

    /// OPENDIR.
    ///
    /// # Errors
    /// Any fault.
    fn list(&self, path: &VPath) -> Result<Box<dyn Listing>, Fault>;

    /// OPEN for reading only.
    ///
    /// # Errors
    /// Any fault.
    fn open_read(&self, path: &VPath) -> Result<Box<dyn Download>, Fault>;

    /// OPEN with the WRITE flag. Refuse here what will be refused anyway: some clients never notice a failed CLOSE.
    ///
    /// # Errors
    /// Any fault.
    fn open_write(&self, path: &VPath, how: &OpenHow) -> Result<Box<dyn Upload>, Fault>;

    /// REMOVE of a file.
    ///
    /// # Errors
    /// Any fault.
    fn remove(&self, _path: &VPath) -> Result<(), Fault> {
        Err(Fault::unsupported())
    }

    /// MKDIR.
    ///
    /// # Errors
    /// Any fault.
    fn mkdir(&self, _path: &VPath, _set: &SetStat) -> Result<(), Fault> {
        Err(Fault::unsupported())
    }

    /// RMDIR.
    ///
    /// # Errors
    /// Any fault.
    fn rmdir(&self, _path: &VPath) -> Result<(), Fault> {
        Err(Fault::unsupported())
    }

    /// RENAME (`replace` false: an existing target is refused) and `posix-rename@openssh.com` (`replace` true).
    ///
    /// # Errors
    /// Any fault.
    fn rename(&self, _from: &VPath, _to: &VPath, _replace: bool) -> Result<(), Fault> {
        Err(Fault::unsupported())
    }

    /// Whether the tree has links at all: then `hardlink@openssh.com` is offered.
    fn has_links(&self) -> bool {
        false
    }

    /// `hardlink@openssh.com`: `new` becomes another name of `old`.
    ///
    /// # Errors
    /// Any fault.
    fn link(&self, _old: &VPath, _new: &VPath) -> Result<(), Fault> {
        Err(Fault::OpUnsupported("this server has no links".into()))
    }

    /// SYMLINK: `new` leads to `target`, which is the client's text and no path of the tree.
    ///
    /// # Errors
    /// Any fault.
    fn symlink(&self, _target: &str, _new: &VPath) -> Result<(), Fault> {
        Err(Fault::OpUnsupported("this server has no links".into()))
    }

    /// READLINK.
    ///
    /// # Errors
    /// Any fault.
    fn read_link(&self, _path: &VPath) -> Result<String, Fault> {
        Err(Fault::OpUnsupported("this server has no links".into()))
    }

    /// SETSTAT and `lsetstat@openssh.com`.
    ///
    /// # Errors
    /// Any fault.
    fn set_stat(&self, _path: &VPath, _set: &SetStat) -> Result<(), Fault> {
        Err(Fault::unsupported())
    }

    /// `statvfs@openssh.com`; `None` = not supported.
    fn space(&self) -> Option<Space> {
        None
    }

    /// [`open_write`](Tree::open_write) if it takes no disk and no wait; `None` = call that, on a thread that may wait.
    fn open_write_at_once(&self, _path: &VPath, _how: &OpenHow) -> Option<Result<Box<dyn Upload>, Fault>> {
        None
    }

    /// Called before the request that carries the sign is run. Signs are kept for the last
    /// [`MAX_CLOSED_NAMES`](crate::MAX_CLOSED_NAMES) uploads of a channel.
    fn after_close(&self, _path: &VPath, _sign: CloseSign) {}

    /// A request is answered, by this fault if by one; a READ whose file is only read when its answer leaves, when it is taken up.
    /// Called for every one: quick.
    fn answered(&self, _op: Op, _fault: Option<&Fault>) {}

    /// Called when a request that would have changed something is answered with a fault; of an open file for its first one, which
    /// stays with the handle. The path is as the client meant it, and in its own words where it was none.
    fn refused(&self, _tried: Tried<'_>, _path: &str, _fault: &Fault) {}
}

/// Which way the bytes of a file go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client.
    In,
    /// To the client.
    Out,
}

/// What a request may have to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// It takes no longer than a copy in memory.
    Nothing,
    /// It writes to a file, whose pages are in memory as a rule.
    Disk,
    /// It may sync, or wait for others.
    Long,
}

/// A directory being read, page by page, so that its size does not matter.
pub trait Listing: Send {
    /// At most `max` further entries; none = the end.
    ///
    /// # Errors
    /// Any fault; the client sees it in place of the page.
    fn next(&mut self, max: usize) -> Result<Vec<Entry>, Fault>;
}

/// A file being read. Reads arrive in any order, from one thread at a time.
pub trait Download: Send + Sync + 'static {
    /// Fills `buf` from `offset`; fewer bytes are allowed, 0 = end of file.
    ///
    /// # Errors
    /// Any fault.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Fault>;

    /// How long so many bytes that were just read have to wait before they are sent, as where bandwidth is limited.
    fn pause(&self, _bytes: usize) -> Duration {
        Duration::ZERO
    }

    /// FSTAT.
    ///
    /// # Errors
    /// Any fault.
    fn stat(&self) -> Result<Stat, Fault>;
}

/// Takes the answer to a CLOSE. If it is dropped instead, the channel ends.
pub type Closed = Box<dyn FnOnce(Result<(), Fault>) + Send>;

/// A file being written. Ends in exactly one call of [`close`](Upload::close),
/// [`close_soon`](Upload::close_soon) or [`abandon`](Upload::abandon).
pub trait Upload: Send {
    /// Writes all of `data` at `offset`. After a fault the engine calls nothing but `stat`, `read_at` and `abandon`.
    ///
    /// # Errors
    /// Any fault; it stays with the handle and is answered to its later requests too.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Fault>;

    /// Writes the pieces of one WRITE, which lie one behind the other from `offset` on.
    ///
    /// # Errors
    /// As [`write_at`](Upload::write_at).
    fn write_pieces(&mut self, mut offset: u64, pieces: &[io::IoSlice<'_>]) -> Result<(), Fault> {
        for piece in pieces {
            self.write_at(offset, piece)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// How long a WRITE, or a READ, of so many bytes has to wait before it is run, as where bandwidth is limited. Asked once for
    /// each; no thread is held meanwhile.
    fn pause(&self, _way: Way, _bytes: usize) -> Duration {
        Duration::ZERO
    }

    /// What a WRITE of bytes before `end` may have to wait for. What is no [`Long`](Wait::Long) wait may take place without a
    /// thread of its own.
    fn wait(&self, _end: u64) -> Wait {
        Wait::Long
    }

    /// READ on a handle opened for reading and writing.
    ///
    /// # Errors
    /// Any fault.
    fn read_at(&mut self, _offset: u64, _buf: &mut [u8]) -> Result<usize, Fault> {
        Err(Fault::PermissionDenied("the file is open for writing only".into()))
    }

    /// FSTAT: the size so far.
    ///
    /// # Errors
    /// Any fault.
    fn stat(&self) -> Result<Stat, Fault>;

    /// FSETSTAT. A size takes effect at once; the engine takes the size from here into its facts.
    ///
    /// # Errors
    /// Any fault.
    fn set_stat(&mut self, set: &SetStat) -> Result<(), Fault>;

    /// `fsync@openssh.com`.
    ///
    /// # Errors
    /// Any fault; it stays with the handle.
    fn sync(&mut self) -> Result<(), Fault>;

    /// CLOSE after writes that all succeeded; the result is the answer to the client.
    ///
    /// # Errors
    /// Any fault.
    fn close(self: Box<Self>, facts: &UploadFacts) -> Result<(), Fault>;

    /// Whether the CLOSE waits for others only, such as a journal, or for the disk no longer than one commit. Then
    /// [`close_soon`](Upload::close_soon) is called in the place of [`close`](Upload::close), without a thread of its own.
    fn closes_soon(&self, _facts: &UploadFacts) -> bool {
        false
    }

    /// [`close`](Upload::close) that does not wait: `closed` is called with the answer when that is known, on any thread.
    fn close_soon(self: Box<Self>, facts: &UploadFacts, closed: Closed) {
        closed(self.close(facts));
    }

    /// The end without a good CLOSE: connection lost, session ended, server stop, or a write that failed before.
    fn abandon(self: Box<Self>, facts: &UploadFacts);
}
