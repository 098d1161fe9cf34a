//! The SFTP server of one channel as a plain state machine: bytes in, calls of the [`Tree`], answers out. It runs on
//! one thread at a time, the connection's own or a blocking one, and never waits for the client. Every open
//! [`Upload`](crate::tree::Upload) ends in exactly one `close` or `abandon`: dropping the engine abandons what is still open.
//!
//! Requests run in order, but a CLOSE of an upload waits for the disk and the journal, `fsync@openssh.com` for the disk, and
//! the OPEN of a file that is there already may have to copy it. So they run [aside](Aside): the requests behind them go on,
//! and their answers leave when they are known (draft-02 §6.1 allows any order of answers). Only requests about the name that
//! is opened or closed, or the handle that is synced, wait for it, and with them what stands behind them: what they see is as if all
//! had run in order. An upload with a fault is answered at once, by that fault.

use crate::answers::{Answers, Outbox, full_read};
use crate::packet::{self, Broken, Extension, Frame, Input, MAX_DATA, MAX_PACKET, Malformed, Request, pflags};
use crate::path::{MAX_COMPONENT, MAX_PATH, VPath};
use crate::reply::{PAGE, Reply, answer, malformed, whole};
use crate::tree::{CloseSign, Download, Fault, Kind, Listing, Op, OpenHow, SetStat, Stat, Tree, Tried, Wait, Way};
use crate::writing::{Counted, Lent, Opening, Writing};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Most open handles of one channel; advertised by `limits@openssh.com`.
pub const MAX_HANDLES: usize = 256;
/// Uploads closed by a channel whose names are watched for a [`CloseSign`].
pub const MAX_CLOSED_NAMES: usize = 64;
/// Uploads of a channel that are being opened, closed or synced at a time; the next such request waits for one.
pub const MAX_ASIDE: usize = 16;
/// Longest READ of a handle that is also written: such answers are read at once and wait in memory.
const MAX_MIXED_READ: usize = 32 << 10;
/// Block size told by `statvfs@openssh.com`.
const VFS_BLOCK: u64 = 4096;

/// What all channels of a connection share.
#[derive(Default)]
pub(crate) struct Shared {
    /// Uploads open in any channel.
    pub(crate) uploads: Arc<AtomicUsize>,
    /// The server is stopping: no new uploads.
    pub(crate) stopping: AtomicBool,
}

/// Work that goes on beside the requests; its result is the encoded answer.
pub(crate) type Work = Box<dyn FnOnce() -> Bytes + Send>;

/// Takes the encoded answer of work that others do. If it is dropped instead, the channel ends.
pub(crate) type Expected = Box<dyn FnOnce(Bytes) + Send>;

/// Where the work goes that must not hold up later requests.
pub(crate) trait Aside {
    /// Runs `work`, sends its answer, then runs the engine again. It may do all of that before it returns, but for the last.
    fn run(&self, work: Work);

    /// The same for work that others do: what is returned takes its answer, on any thread.
    fn expect(&self) -> Expected;

    /// Runs the engine again after a time, and sets what is returned before it does.
    fn pause(&self, length: Duration) -> Arc<AtomicBool>;
}

pub(crate) struct Engine {
    tree: Arc<dyn Tree>,
    home: VPath,
    client: String,
    shared: Arc<Shared>,
    input: Input,
    /// A request that waits for what runs aside; those behind it wait too.
    stalled: Option<Frame>,
    /// What is set when that one has waited for its time.
    pause: Option<Arc<AtomicBool>>,
    may_wait: Wait,
    needs_thread: bool,
    greeted: bool,
    handles: HashMap<[u8; 8], Handle>,
    /// What goes on aside.
    tasks: Vec<Task>,
    closed: VecDeque<VPath>,
}

/// An upload that is being opened, synced or closed aside.
struct Task {
    /// The name that is opened or closed.
    path: Option<VPath>,
    /// The handle that is opened or synced.
    handle: Option<[u8; 8]>,
    /// Set before the answer leaves.
    end: Arc<OnceLock<TaskEnd>>,
}

/// What came of a task.
#[derive(Clone, Copy)]
enum TaskEnd {
    Opened,
    Closed,
    /// It was synced, or refused.
    Other,
}

impl Task {
    /// Whether a request about `path` has to wait. Two names that are not ASCII may be one name in two forms, which is the
    /// tree's to know.
    fn concerns(&self, path: &VPath, below: bool) -> bool {
        let alike = |a: &VPath, b: &VPath| a == b || (!a.is_ascii() && !b.is_ascii());
        self.path
            .as_ref()
            .is_some_and(|name| alike(name, path) || (below && name.is_within(path)))
    }
}

enum Handle {
    Dir(Box<dyn Listing>),
    Read(Arc<dyn Download>),
    Write(Box<Writing>),
    /// One for writing that is being opened or synced.
    Lent(Arc<Lent>),
}

impl Engine {
    pub(crate) fn new(tree: Arc<dyn Tree>, client: String, shared: Arc<Shared>) -> Self {
        let home = tree.home();
        Self {
            tree,
            home,
            client,
            shared,
            input: Input::default(),
            stalled: None,
            pause: None,
            may_wait: Wait::Long,
            needs_thread: false,
            greeted: false,
            handles: HashMap::new(),
            tasks: Vec::new(),
            closed: VecDeque::new(),
        }
    }

    pub(crate) fn push(&mut self, piece: Bytes) {
        self.input.push(piece);
    }

    /// What the bytes held cost, see [`Input::cost`].
    pub(crate) fn cost(&self) -> usize {
        self.input.cost() + self.stalled.as_ref().map_or(0, Frame::cost)
    }

    /// Runs every whole request that has arrived, up to one that has to wait for what runs aside, or for more than this thread
    /// may, see [`needs_thread`](Self::needs_thread).
    ///
    /// # Errors
    /// [`Broken`]: the channel must end.
    pub(crate) fn run(&mut self, outbox: &Outbox, aside: &dyn Aside, may_wait: Wait) -> Result<(), Broken> {
        (self.may_wait, self.needs_thread) = (may_wait, false);
        let mut out = Answers::new(outbox);
        let result = self.frames(&mut out, aside);
        out.flush()?;
        result
    }

    /// A request waits for what runs aside.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// The last run came to a request that may take longer.
    pub(crate) fn needs_thread(&self) -> bool {
        self.needs_thread
    }

    /// The client ended the channel in order.
    pub(crate) fn ended_by_client(&mut self) {
        self.settle();
        if self.handles.is_empty() && self.input.len() == 0 {
            for path in std::mem::take(&mut self.closed) {
                self.tree.after_close(&path, CloseSign::ChannelEnded);
            }
        }
    }

    fn frames(&mut self, out: &mut Answers<'_>, aside: &dyn Aside) -> Result<(), Broken> {
        loop {
            let frame = match self.stalled.take() {
                Some(frame) => frame,
                None => match self.input.next()? {
                    Some(frame) => frame,
                    None => return Ok(()),
                },
            };
            self.stalled = self.frame(frame, out, aside)?;
            if self.is_stalled() {
                return Ok(());
            }
        }
    }

    /// Answers a request, or gives it back if it has to wait.
    fn frame(&mut self, frame: Frame, out: &mut Answers<'_>, aside: &dyn Aside) -> Result<Option<Frame>, Broken> {
        match frame {
            _ if !self.greeted => self.greet(&frame, out)?,
            Frame::Write { ref handle, .. } | Frame::BadWrite { ref handle, .. } if self.is_lent(handle) => return Ok(Some(frame)),
            Frame::Write {
                ref handle,
                offset,
                ref data,
                ..
            } if self.write_waits(handle, offset, data) > self.may_wait => {
                self.needs_thread = true;
                return Ok(Some(frame));
            }
            Frame::Write { ref handle, ref data, .. } if self.pauses(handle, Way::In, data.iter().map(Bytes::len).sum(), aside) => {
                return Ok(Some(frame));
            }
            Frame::BadWrite { id, handle } => {
                // What it was to write is missing in the file.
                if let Ok(Handle::Write(w)) = self.handle(&handle) {
                    let _ = w.attempt(|_| Err(malformed()));
                }
                self.tree.answered(Op::Write, Some(&malformed()));
                out.put(|b| packet::fault(b, id, &malformed()))?;
            }
            Frame::Write { id, handle, offset, data } => {
                let result = self.write(&handle, offset, &data).map(|()| Reply::Ok);
                drop(data);
                self.answer(out, id, Op::Write, result)?;
            }
            Frame::Other { kind, body } => {
                let (id, request) = packet::parse(kind, &body)?;
                let done = match request {
                    Ok(request) if self.must_wait(&request) => false,
                    Ok(request) => self.carry_out(id, request, out, aside)?,
                    Err(Malformed) => self.answer(out, id, Op::Other, Err(malformed())).map(|()| true)?,
                };
                return Ok((!done).then_some(Frame::Other { kind, body }));
            }
        }
        Ok(None)
    }

    /// Runs a request, or lets it go on aside; false if it needs a thread that may wait.
    fn carry_out(&mut self, id: u32, request: Request<'_>, out: &mut Answers<'_>, aside: &dyn Aside) -> Result<bool, Broken> {
        if self.waits(&request) > self.may_wait {
            return Ok(self.wants_thread());
        }
        match request {
            Request::Read { handle, len, .. } if self.pauses(handle, Way::Out, mixed_len(len), aside) => return Ok(false),
            Request::Close { handle } => self.close(id, handle, out, aside)?,
            Request::Extended(Extension::Fsync { handle }) => self.sync(id, handle, out, aside)?,
            Request::Open { path, flags, set } if is_for_writing(flags) => match self.may_write(path) {
                Ok(path) => return self.open_write(id, path, how(flags, &set), out, aside),
                // To tell of it may take long.
                Err(_) if self.may_wait < Wait::Long => return Ok(self.wants_thread()),
                Err(fault) => {
                    self.tell_refused(request, &fault);
                    self.answer(out, id, Op::Open, Err(fault))?;
                }
            },
            Request::Open { .. } if self.may_wait < Wait::Long => return Ok(self.wants_thread()),
            request => {
                // What takes long must not hold back the answers before it.
                if matches!(request, Request::Extended(_)) {
                    out.flush()?;
                }
                let result = self.request(request);
                self.answer(out, id, op(&request), result)?;
            }
        }
        Ok(true)
    }

    /// The request has to be run again by a thread that may wait.
    fn wants_thread(&mut self) -> bool {
        self.needs_thread = true;
        false
    }

    /// Whether a request has to wait for its time. Downloads wait when they are sent.
    fn pauses(&mut self, handle: &[u8], way: Way, bytes: usize, aside: &dyn Aside) -> bool {
        match self.pause.take() {
            Some(over) if over.load(Ordering::SeqCst) => return false,
            Some(over) => {
                self.pause = Some(over);
                return true;
            }
            None => {}
        }
        let length = match self.peek(handle) {
            Some(Handle::Write(w)) if w.fault.is_none() => w.upload.pause(way, bytes),
            _ => Duration::ZERO,
        };
        if !length.is_zero() {
            self.pause = Some(aside.pause(length));
        }
        self.pause.is_some()
    }

    /// What a WRITE may have to wait for.
    fn write_waits(&self, handle: &[u8], offset: u64, data: &[Bytes]) -> Wait {
        match self.peek(handle) {
            Some(Handle::Write(w)) if w.fault.is_none() => {
                let len: usize = data.iter().map(Bytes::len).sum();
                w.upload.wait(w.ledger.place(offset).saturating_add(len as u64))
            }
            _ => Wait::Long,
        }
    }

    /// What another request may have to wait for: a CLOSE goes on aside, as may an OPEN, a READ takes place when it is answered.
    fn waits(&self, request: &Request<'_>) -> Wait {
        match request {
            Request::Close { handle } => match self.peek(handle) {
                Some(Handle::Write(w)) if w.fault.is_none() => Wait::Nothing,
                _ => Wait::Long,
            },
            Request::Read { handle, .. } if matches!(self.peek(handle), Some(Handle::Read(_))) => Wait::Nothing,
            Request::Open { .. } => Wait::Nothing,
            _ => Wait::Long,
        }
    }

    /// Whether a request has to wait for an upload of the same name that is being opened or closed, or for the sync of its handle.
    fn must_wait(&mut self, request: &Request<'_>) -> bool {
        self.settle();
        if self.tasks.is_empty() {
            return false;
        }
        let is_full = self.is_full();
        match request {
            Request::Close { handle } => {
                let writing = match self.handle(handle) {
                    Ok(Handle::Write(w)) => w.path.clone(),
                    Ok(Handle::Lent(_)) => return true,
                    _ => return false,
                };
                is_full || self.is_busy(&writing, false)
            }
            Request::Stat { path } | Request::Lstat { path } | Request::SetStat { path, .. } => self.waits_for(path, false),
            Request::Open { path, .. } | Request::Remove { path } | Request::MkDir { path, .. } => self.waits_for(path, false),
            Request::OpenDir { path } | Request::RmDir { path } => self.waits_for(path, true),
            Request::Rename { from, to } => self.waits_for(from, true) || self.waits_for(to, true),
            Request::Extended(extension) => match extension {
                Extension::PosixRename { from, to } => self.waits_for(from, true) || self.waits_for(to, true),
                Extension::HardLink { old, new } => self.waits_for(old, true) || self.waits_for(new, true),
                Extension::LsetStat { path, .. } => self.waits_for(path, false),
                Extension::Fsync { handle } => self.is_lent(handle) || (is_full && matches!(self.handle(handle), Ok(Handle::Write(_)))),
                Extension::StatVfs { .. }
                | Extension::FstatVfs { .. }
                | Extension::Limits
                | Extension::ExpandPath { .. }
                | Extension::Home
                | Extension::Names { .. } => false,
            },
            Request::Read { handle, .. } | Request::Fstat { handle } | Request::FsetStat { handle, .. } => self.is_lent(handle),
            Request::ReadLink { path } | Request::SymLink { path, .. } => self.waits_for(path, false),
            Request::ReadDir { .. } | Request::RealPath { .. } | Request::Unknown => false,
        }
    }

    /// Whether a handle is being opened or synced still.
    fn is_lent(&mut self, handle: &[u8]) -> bool {
        if self.tasks.is_empty() {
            return false;
        }
        self.settle();
        matches!(self.peek(handle), Some(Handle::Lent(_)))
    }

    fn waits_for(&self, path: &[u8], below: bool) -> bool {
        self.path(path).is_ok_and(|path| self.is_busy(&path, below))
    }

    fn is_busy(&self, path: &VPath, below: bool) -> bool {
        self.tasks.iter().any(|task| task.concerns(path, below))
    }

    fn is_full(&self) -> bool {
        self.tasks.len() >= MAX_ASIDE
    }

    /// Takes back what has been opened or synced meanwhile, and files away the names of what has been closed.
    fn settle(&mut self) {
        let (handles, closed) = (&mut self.handles, &mut self.closed);
        self.tasks.retain(|task| {
            let Some(end) = task.end.get() else { return true };
            // One that could not be opened has no file.
            if let Some(key) = task.handle
                && let Some(Handle::Lent(lent)) = handles.remove(&key)
                && let Some(writing) = lent.take()
            {
                handles.insert(key, Handle::Write(writing));
            }
            match (end, &task.path) {
                (TaskEnd::Opened, Some(path)) => closed.retain(|p| p != path),
                (TaskEnd::Closed, Some(path)) => {
                    if closed.len() == MAX_CLOSED_NAMES {
                        closed.pop_front();
                    }
                    closed.push_back(path.clone());
                }
                _ => {}
            }
            false
        });
    }

    /// Begins a task; what is returned is to be set at its end.
    fn begin(&mut self, path: Option<VPath>, handle: Option<[u8; 8]>) -> Arc<OnceLock<TaskEnd>> {
        let end = Arc::new(OnceLock::new());
        self.tasks.push(Task {
            path,
            handle,
            end: Arc::clone(&end),
        });
        end
    }

    /// The first packet must be INIT; whatever version above 3 it asks for, 3 is the answer (draft-02 §4).
    fn greet(&mut self, frame: &Frame, out: &mut Answers<'_>) -> Result<(), Broken> {
        let Frame::Other { kind, body } = frame else {
            return Err(Broken::Init);
        };
        let asked = packet::init_version(*kind, body).ok_or(Broken::Init)?;
        if asked < 3 {
            return Err(Broken::Version(asked));
        }
        self.greeted = true;
        out.put(|b| packet::version(b, self.tree.has_links()))
    }

    // ---------------------------------------------------------------------------------------------- requests

    fn request(&mut self, request: Request<'_>) -> Result<Reply, Fault> {
        self.run_request(request).inspect_err(|fault| self.tell_refused(request, fault))
    }

    fn run_request(&mut self, request: Request<'_>) -> Result<Reply, Fault> {
        match request {
            // Those for writing do not come here, nor does a CLOSE: see `carry_out`.
            Request::Open { path, flags, .. } => self.open_read(path, flags),
            Request::Close { .. } => Err(no_handle()),
            Request::Read { handle, offset, len } => self.read(handle, offset, len),
            Request::Stat { path } => self.stat(path, true),
            Request::Lstat { path } => self.stat(path, false),
            Request::Fstat { handle } => match self.handle(handle)? {
                Handle::Dir(_) => Ok(Reply::Attrs(Stat {
                    kind: Kind::Dir,
                    size: 0,
                    mtime: 0,
                    mode: 0o755,
                })),
                Handle::Read(file) => file.stat().map(Reply::Attrs),
                Handle::Write(w) => w.upload.stat().map(Reply::Attrs),
                Handle::Lent(_) => Err(no_handle()),
            },
            Request::SetStat { path, set } => self.set_stat(path, set),
            Request::FsetStat { handle, set } => self.fset_stat(handle, set),
            Request::OpenDir { path } => {
                self.room()?;
                let listing = self.tree.list(&self.path(path)?)?;
                self.keep(Handle::Dir(listing)).map(Reply::Handle)
            }
            Request::ReadDir { handle } => match self.handle(handle)? {
                Handle::Dir(listing) => {
                    let page = listing.next(PAGE)?;
                    Ok(if page.is_empty() { Reply::Eof } else { Reply::Page(page) })
                }
                _ => Err(Fault::Failure("the handle is not a directory".into())),
            },
            Request::Remove { path } => {
                let path = self.path(path)?;
                self.sign(&path, CloseSign::Removed);
                self.tree.remove(&path)?;
                self.closed.retain(|p| *p != path);
                Ok(Reply::Ok)
            }
            Request::MkDir { path, set } => self.tree.mkdir(&self.path(path)?, &set).map(|()| Reply::Ok),
            Request::RmDir { path } => self.tree.rmdir(&self.path(path)?).map(|()| Reply::Ok),
            Request::RealPath { path } => self.real_path(path),
            Request::Rename { from, to } => self.rename(from, to, false),
            Request::ReadLink { path } => self.tree.read_link(&self.path(path)?).map(Reply::Path),
            Request::SymLink { target, path } => {
                let target = std::str::from_utf8(target).map_err(|_| malformed())?;
                self.tree.symlink(target, &self.path(path)?).map(|()| Reply::Ok)
            }
            Request::Extended(extension) => self.extended(extension),
            Request::Unknown => Err(Fault::unsupported()),
        }
    }

    fn open_read(&mut self, path: &[u8], flags: u32) -> Result<Reply, Fault> {
        self.room()?;
        let path = self.path(path)?;
        if flags & pflags::READ == 0 {
            return Err(Fault::BadMessage("OPEN asks for neither reading nor writing".into()));
        }
        let file = self.tree.open_read(&path)?;
        self.keep(Handle::Read(file.into())).map(Reply::Handle)
    }

    fn may_write(&self, path: &[u8]) -> Result<VPath, Fault> {
        self.room()?;
        let path = self.path(path)?;
        if self.shared.stopping.load(Ordering::SeqCst) {
            return Err(Fault::Failure("the server is stopping, try again later".into()));
        }
        Ok(path)
    }

    /// OPEN for writing, which goes on aside unless it takes no wait; false if there is no room for that.
    fn open_write(&mut self, id: u32, path: VPath, how: OpenHow, out: &mut Answers<'_>, aside: &dyn Aside) -> Result<bool, Broken> {
        let is_again = self.closed.contains(&path);
        let opening = Opening {
            tree: Arc::clone(&self.tree),
            path,
            how,
            client: self.client.clone(),
            open: Counted::new(&self.shared.uploads),
        };
        if !is_again && let Some(upload) = self.tree.open_write_at_once(&opening.path, &opening.how) {
            let kept = upload.and_then(|upload| self.keep(Handle::Write(Box::new(opening.writing(upload)))));
            self.answer(out, id, Op::Open, kept.map(Reply::Handle))?;
            return Ok(true);
        }
        if self.is_full() {
            return Ok(false);
        }
        // Nobody can name the handle before the answer has told it.
        let lent = Lent::new(None);
        let key = match self.keep(Handle::Lent(Arc::clone(&lent))) {
            Ok(key) => key,
            Err(fault) => return self.answer(out, id, Op::Open, Err(fault)).map(|()| true),
        };
        let end = self.begin(Some(opening.path.clone()), Some(key));
        let tree = Arc::clone(&self.tree);
        aside.run(Box::new(move || {
            if is_again {
                opening.tree.after_close(&opening.path, CloseSign::Reopened);
            }
            let result = lent.open(opening);
            tree.answered(Op::Open, result.as_ref().err());
            let _ = end.set(if result.is_ok() { TaskEnd::Opened } else { TaskEnd::Other });
            whole(id, result.map(|()| Reply::Handle(key)))
        }));
        Ok(true)
    }

    fn write(&mut self, handle: &[u8], offset: u64, data: &[Bytes]) -> Result<(), Fault> {
        let Handle::Write(w) = self.handle(handle)? else {
            return Err(Fault::Failure("the handle is not open for writing".into()));
        };
        let len: usize = data.iter().map(Bytes::len).sum();
        w.attempt(|w| {
            if len == 0 {
                return Ok(());
            }
            w.ledger.check_append(offset)?;
            let offset = w.ledger.place(offset);
            w.ledger.check(offset, len as u64)?;
            let pieces: Vec<IoSlice<'_>> = data.iter().map(|p| IoSlice::new(p)).collect();
            w.upload.write_pieces(offset, &pieces)?;
            w.ledger.wrote(offset, u32::try_from(len).unwrap_or(u32::MAX));
            Ok(())
        })
    }

    fn read(&mut self, handle: &[u8], offset: u64, len: u32) -> Result<Reply, Fault> {
        match self.handle(handle)? {
            // Nothing was asked for, which is no end of the file.
            Handle::Read(_) if len == 0 => Ok(Reply::Data(Vec::new())),
            Handle::Write(w) if len == 0 && w.ledger.facts.how.read => Ok(Reply::Data(Vec::new())),
            Handle::Read(file) => Ok(Reply::Later(Arc::clone(file), offset, len)),
            Handle::Write(w) if w.ledger.facts.how.read => {
                let mut buf = vec![0; mixed_len(len)];
                let n = full_read(&mut buf, offset, |at, buf| w.upload.read_at(at, buf))?;
                buf.truncate(n);
                Ok(if n == 0 { Reply::Eof } else { Reply::Data(buf) })
            }
            Handle::Write(_) => Err(Fault::PermissionDenied("the file is open for writing only".into())),
            Handle::Dir(_) => Err(Fault::Failure("the handle is a directory".into())),
            Handle::Lent(_) => Err(no_handle()),
        }
    }

    /// `fsync@openssh.com`, which goes on aside.
    fn sync(&mut self, id: u32, handle: &[u8], out: &mut Answers<'_>, aside: &dyn Aside) -> Result<(), Broken> {
        let Ok(key) = <[u8; 8]>::try_from(handle) else {
            return self.answer(out, id, Op::Sync, Err(no_handle()));
        };
        let w = match self.handles.remove(&key) {
            Some(Handle::Write(w)) => w,
            Some(other) => {
                self.handles.insert(key, other);
                return self.answer(out, id, Op::Sync, Err(Fault::Failure("the handle is not open for writing".into())));
            }
            None => return self.answer(out, id, Op::Sync, Err(no_handle())),
        };
        // Its answer must not overtake those of its own WRITEs.
        out.flush()?;
        let lent = Lent::new(Some(w));
        self.handles.insert(key, Handle::Lent(Arc::clone(&lent)));
        let end = self.begin(None, Some(key));
        let tree = Arc::clone(&self.tree);
        aside.run(Box::new(move || {
            let result = lent.sync();
            tree.answered(Op::Sync, result.as_ref().err());
            let _ = end.set(TaskEnd::Other);
            whole(id, result.map(|()| Reply::Ok))
        }));
        Ok(())
    }

    /// CLOSE; that of an upload goes on aside.
    fn close(&mut self, id: u32, handle: &[u8], out: &mut Answers<'_>, aside: &dyn Aside) -> Result<(), Broken> {
        let found = <[u8; 8]>::try_from(handle).ok().and_then(|key| self.handles.remove(&key));
        let w = match found {
            None => return self.answer(out, id, Op::Close, Err(no_handle())),
            Some(Handle::Dir(_) | Handle::Read(_)) => return self.answer(out, id, Op::Close, Ok(Reply::Ok)),
            Some(Handle::Write(w)) => *w,
            // It does not come here before it is back: see `must_wait`.
            Some(Handle::Lent(_)) => return self.answer(out, id, Op::Close, Err(no_handle())),
        };
        let Writing {
            tree,
            path,
            upload,
            ledger,
            fault,
            open,
        } = w;
        if let Some(fault) = fault {
            upload.abandon(&ledger.facts);
            return self.answer(out, id, Op::Close, Err(fault));
        }
        // Its answer must not overtake those of its own WRITEs.
        out.flush()?;
        let end = self.begin(Some(path.clone()), None);
        let ended = move |result: Result<(), Fault>| {
            drop(open);
            tree.answered(Op::Close, result.as_ref().err());
            if let Err(fault) = &result {
                tree.refused(Tried::Write, &path.to_string(), fault);
            }
            let _ = end.set(if result.is_ok() { TaskEnd::Closed } else { TaskEnd::Other });
            whole(id, result.map(|()| Reply::Ok))
        };
        if upload.closes_soon(&ledger.facts) {
            let answer = aside.expect();
            upload.close_soon(&ledger.facts, Box::new(move |result| answer(ended(result))));
        } else {
            aside.run(Box::new(move || ended(upload.close(&ledger.facts))));
        }
        Ok(())
    }

    fn stat(&mut self, path: &[u8], follow: bool) -> Result<Reply, Fault> {
        let path = self.path(path)?;
        self.sign(&path, CloseSign::Stat);
        self.tree.stat(&path, follow).map(Reply::Attrs)
    }

    fn set_stat(&mut self, path: &[u8], set: SetStat) -> Result<Reply, Fault> {
        let path = self.path(path)?;
        self.sign(&path, CloseSign::SetStat);
        self.tree.set_stat(&path, &set).map(|()| Reply::Ok)
    }

    fn fset_stat(&mut self, handle: &[u8], set: SetStat) -> Result<Reply, Fault> {
        match self.handle(handle)? {
            Handle::Write(w) => {
                let step = |w: &mut Writing| {
                    w.upload.set_stat(&set)?;
                    w.ledger.set(set.size);
                    Ok(())
                };
                match &w.fault {
                    // Times and modes are no content: refusing them spoils nothing.
                    None if set.size.is_none() => step(w)?,
                    _ => w.attempt(step)?,
                }
            }
            _ => return Err(Fault::PermissionDenied("the handle is not open for writing".into())),
        }
        Ok(Reply::Ok)
    }

    fn real_path(&self, path: &[u8]) -> Result<Reply, Fault> {
        Ok(Reply::Path(self.tree.realpath(&self.path(path)?)?.to_string()))
    }

    fn rename(&mut self, from: &[u8], to: &[u8], replace: bool) -> Result<Reply, Fault> {
        let (from, to) = (self.path(from)?, self.path(to)?);
        self.sign(&from, CloseSign::Renamed);
        self.tree.rename(&from, &to, replace)?;
        // What follows under the new name tells as much as it did under the old one.
        self.closed.retain(|p| *p != to);
        self.closed.iter_mut().filter(|p| **p == from).for_each(|p| p.clone_from(&to));
        Ok(Reply::Ok)
    }

    /// OpenSSH's extensions (PROTOCOL §4). `copy-data` is neither offered nor run: it would be a second way to create content;
    /// `hardlink@` is the tree's to allow.
    fn extended(&mut self, extension: Extension<'_>) -> Result<Reply, Fault> {
        match extension {
            Extension::PosixRename { from, to } => self.rename(from, to, true),
            Extension::StatVfs { path } => {
                self.path(path)?;
                self.vfs()
            }
            Extension::FstatVfs { handle } => {
                self.handle(handle)?;
                self.vfs()
            }
            // It does not come here: see `carry_out`.
            Extension::Fsync { .. } => Err(no_handle()),
            Extension::HardLink { old, new } => {
                let (old, new) = (self.path(old)?, self.path(new)?);
                self.tree.link(&old, &new).map(|()| Reply::Ok)
            }
            Extension::LsetStat { path, set } => self.set_stat(path, set),
            Extension::Limits => {
                let mut b = BytesMut::new();
                for limit in [MAX_PACKET, MAX_DATA, MAX_DATA, MAX_HANDLES] {
                    b.put_u64(limit as u64);
                }
                Ok(Reply::Extended(b))
            }
            Extension::ExpandPath { path } => match path {
                b"~" => self.real_path(b""),
                [b'~', b'/', rest @ ..] => {
                    let start = rest.iter().position(|b| *b != b'/').unwrap_or(rest.len());
                    self.real_path(rest.get(start..).unwrap_or_default())
                }
                [b'~', ..] => Err(Fault::NoSuchFile("no such user".into())),
                path => self.real_path(path),
            },
            Extension::Home => self.real_path(b""),
            Extension::Names { users, groups } => {
                // There are no numeric users behind this server: every name is empty.
                let mut b = BytesMut::new();
                for ids in [users, groups] {
                    packet::put_string(&mut b, &vec![0; ids.len() / 4 * 4]);
                }
                Ok(Reply::Extended(b))
            }
        }
    }

    fn vfs(&self) -> Result<Reply, Fault> {
        const READ_WRITE: u64 = 0;
        let space = self.tree.space().ok_or_else(Fault::unsupported)?;
        let (total, free) = (space.total / VFS_BLOCK, space.free / VFS_BLOCK);
        let mut b = BytesMut::new();
        // Block and fragment size, blocks (all, free, free for users), files (the same), id, flags, longest name.
        for field in [
            VFS_BLOCK,
            VFS_BLOCK,
            total,
            free,
            free,
            total,
            free,
            free,
            0,
            READ_WRITE,
            MAX_COMPONENT as u64,
        ] {
            b.put_u64(field);
        }
        Ok(Reply::Extended(b))
    }

    // ----------------------------------------------------------------------------------------------- helpers

    /// Answers at once.
    fn answer(&self, out: &mut Answers<'_>, id: u32, op: Op, result: Result<Reply, Fault>) -> Result<(), Broken> {
        self.tree.answered(op, result.as_ref().err());
        answer(out, id, result)
    }

    fn path(&self, bytes: &[u8]) -> Result<VPath, Fault> {
        VPath::parse(bytes, &self.home).map_err(|e| Fault::Failure(e.to_string()))
    }

    /// Tells the tree about a request that was refused, if it would have changed something. What is written through a handle
    /// is told with the handle.
    fn tell_refused(&self, request: Request<'_>, fault: &Fault) {
        let text = |path: &[u8]| match self.path(path) {
            Ok(path) => path.to_string(),
            Err(_) => String::from_utf8_lossy(path.get(..MAX_PATH).unwrap_or(path)).into_owned(),
        };
        let tell = |tried, path| self.tree.refused(tried, &text(path), fault);
        match request {
            Request::Open { path, flags, .. } if is_for_writing(flags) => tell(Tried::Write, path),
            Request::Remove { path } => tell(Tried::Remove, path),
            Request::MkDir { path, .. } => tell(Tried::MkDir, path),
            Request::RmDir { path } => tell(Tried::RmDir, path),
            Request::Rename { from, to } | Request::Extended(Extension::PosixRename { from, to }) => tell(Tried::Rename(&text(to)), from),
            _ => {}
        }
    }

    /// Tells the tree what happens to a name that this channel has uploaded.
    fn sign(&self, path: &VPath, sign: CloseSign) {
        if self.closed.contains(path) {
            self.tree.after_close(path, sign);
        }
    }

    fn handle(&mut self, handle: &[u8]) -> Result<&mut Handle, Fault> {
        let key = <[u8; 8]>::try_from(handle).map_err(|_| no_handle())?;
        self.handles.get_mut(&key).ok_or_else(no_handle)
    }

    fn peek(&self, handle: &[u8]) -> Option<&Handle> {
        let key = <[u8; 8]>::try_from(handle).ok()?;
        self.handles.get(&key)
    }

    fn room(&self) -> Result<(), Fault> {
        if self.handles.len() < MAX_HANDLES {
            Ok(())
        } else {
            Err(Fault::Failure("too many open files".into()))
        }
    }

    /// Files a handle under a random name, so that handles cannot be guessed or taken for another's.
    fn keep(&mut self, handle: Handle) -> Result<[u8; 8], Fault> {
        let mut key = [0; 8];
        while key == [0; 8] || self.handles.contains_key(&key) {
            if openssl::rand::rand_bytes(&mut key).is_err() {
                if let Handle::Write(w) = handle {
                    w.abandon();
                }
                return Err(Fault::Failure("no random bytes".into()));
            }
        }
        self.handles.insert(key, handle);
        Ok(key)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for (_, handle) in self.handles.drain() {
            // A panic here must not keep the other uploads from their end. One that is lent ends with its task.
            let end = AssertUnwindSafe(|| {
                if let Handle::Write(w) = handle {
                    w.abandon()
                }
            });
            if std::panic::catch_unwind(end).is_err() {
                tracing::error!("abandoning an upload panicked");
            }
        }
    }
}

/// What a request is about.
fn op(request: &Request<'_>) -> Op {
    match request {
        Request::Open { .. } => Op::Open,
        Request::Close { .. } => Op::Close,
        Request::Read { .. } => Op::Read,
        Request::Stat { .. } | Request::Lstat { .. } | Request::Fstat { .. } => Op::Stat,
        Request::SetStat { .. } | Request::FsetStat { .. } => Op::SetStat,
        Request::OpenDir { .. } | Request::ReadDir { .. } => Op::List,
        Request::Remove { .. } => Op::Remove,
        Request::Rename { .. } => Op::Rename,
        Request::MkDir { .. } => Op::MkDir,
        Request::RmDir { .. } => Op::RmDir,
        Request::RealPath { .. } => Op::RealPath,
        Request::ReadLink { .. } | Request::SymLink { .. } => Op::Link,
        Request::Extended(extension) => match extension {
            Extension::PosixRename { .. } => Op::Rename,
            Extension::Fsync { .. } => Op::Sync,
            Extension::HardLink { .. } => Op::Link,
            Extension::LsetStat { .. } => Op::SetStat,
            Extension::ExpandPath { .. } | Extension::Home => Op::RealPath,
            Extension::StatVfs { .. } | Extension::FstatVfs { .. } | Extension::Limits | Extension::Names { .. } => Op::Other,
        },
        Request::Unknown => Op::Other,
    }
}

fn is_for_writing(flags: u32) -> bool {
    flags & (pflags::WRITE | pflags::APPEND) != 0
}

fn how(flags: u32, set: &SetStat) -> OpenHow {
    let has = |flag| flags & flag != 0;
    OpenHow {
        read: has(pflags::READ),
        append: has(pflags::APPEND),
        create: has(pflags::CREAT),
        truncate: has(pflags::TRUNC),
        exclusive: has(pflags::EXCL),
        declared_size: set.size,
        mode: set.mode,
    }
}

fn no_handle() -> Fault {
    Fault::Failure("no such handle".into())
}

/// Bytes that a READ of a handle that is also written gets at most.
fn mixed_len(asked: u32) -> usize {
    usize::try_from(asked).unwrap_or(MAX_DATA).min(MAX_MIXED_READ)
}
