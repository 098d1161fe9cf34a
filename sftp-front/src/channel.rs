//! One SFTP channel: a reader that always drains the transport, a worker that exists only while there is work, helpers that
//! open and close uploads beside it, and a writer that sends answers.
//!
//! The one law: **the reader never waits for the client's window.** russh runs a connection in one task; if that task waits
//! to deliver data to us while we wait to send through it, both wait for ever, and stock clients that pipeline READs bring
//! that about. So the reader waits for two things only, room in the queue of the worker and the byte budget, and the worker
//! gives both back by running requests against the disk, never by the peer's leave. A full queue stops the reader, then
//! russh, then the client's TCP: that is the back-pressure of a slow disk.

use crate::answers::{Outbox, ToSend};
use crate::budget::{Budget, REQUEST_BUDGET};
use crate::engine::{Aside, Engine, Expected, Work};
use crate::lock::locked;
use crate::packet::{Broken, PIECE_COST};
use crate::session::Activity;
use crate::threads;
use crate::tree::Wait;
use bytes::{Bytes, BytesMut};
use russh::ChannelMsg;
use russh::server::Msg;
use std::collections::VecDeque;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// Bytes that wait for the worker while it runs others. More would take memory and the processor's cache, and gain nothing.
const READ_AHEAD: usize = 512 << 10;
/// Bytes read from a pipe at once.
const PIPE_BUFFER: usize = 64 << 10;
/// How long a channel that is given up tries to say CLOSE.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

pub(crate) struct Channel {
    inbox: Mutex<Inbox>,
    /// The worker has taken the queue.
    taken: Notify,
    outbox: Outbox,
    budget: Arc<Budget>,
    activity: Arc<Activity>,
    /// Where its tasks run.
    runtime: Handle,
}

struct Inbox {
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Budget held, for the queue and for what the engine has not run yet.
    charged: usize,
    worker: Worker,
    /// What goes on beside the worker, and a pause.
    aside: usize,
    /// The engine's request waits for its time: what arrives meanwhile waits in the queue.
    is_paused: bool,
    /// Something aside has ended since the worker last looked.
    is_due: bool,
    end: Option<End>,
}

enum Worker {
    Idle(Box<Engine>),
    Running,
    Gone,
}

/// How the requests end; more than one may arrive, the first counts, but [`Cut`](End::Cut) overrides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// EOF from the client: in order.
    Eof,
    /// The connection or channel is gone. What arrived before is still run.
    Lost,
    /// The server ends the session: nothing more is run.
    Cut,
}

impl Channel {
    /// For a task of the runtime that will serve it.
    pub(crate) fn new(engine: Engine, budget: Arc<Budget>, activity: Arc<Activity>) -> Arc<Self> {
        let inbox = Inbox {
            queue: VecDeque::new(),
            queued: 0,
            charged: 0,
            worker: Worker::Idle(Box::new(engine)),
            aside: 0,
            is_paused: false,
            is_due: false,
            end: None,
        };
        Arc::new(Self {
            inbox: Mutex::new(inbox),
            taken: Notify::new(),
            outbox: Outbox::new(Arc::clone(&budget)),
            budget,
            activity,
            runtime: Handle::current(),
        })
    }

    /// Serves the channel to its end. On return all uploads are closed or abandoned.
    pub(crate) async fn serve(self: Arc<Self>, channel: russh::Channel<Msg>) {
        let (mut reader, writer) = channel.split();
        let writer = tokio::spawn(Arc::clone(&self).write(writer));
        let finished = self.outbox.finished();
        tokio::pin!(finished);
        loop {
            tokio::select! {
                biased;
                () = &mut finished => break,
                message = reader.wait() => match message {
                    Some(ChannelMsg::Data { data }) if !data.is_empty() => self.accept(data).await,
                    Some(ChannelMsg::Eof) => self.end(End::Eof),
                    Some(ChannelMsg::Close) | None => {
                        self.end(End::Lost);
                        self.outbox.abort();
                        break;
                    }
                    _ => {}
                },
            }
        }
        // Keep draining while the last answers leave; the client's window adjustments come the same way.
        let drain = async { while !matches!(reader.wait().await, Some(ChannelMsg::Close) | None) {} };
        let rest = async {
            self.outbox.finished().await;
            let _ = writer.await;
        };
        tokio::pin!(rest);
        tokio::select! {
            () = &mut rest => return,
            () = drain => self.outbox.abort(),
        }
        rest.await;
    }

    /// Ends the channel from our side: requests not yet run are dropped, open uploads abandoned.
    pub(crate) fn cut(self: &Arc<Self>) {
        self.end(End::Cut);
        self.outbox.abort();
    }

    /// Nothing to run and nothing to send.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_working() && self.outbox.is_idle()
    }

    /// Requests are being run or wait to be.
    pub(crate) fn is_working(&self) -> bool {
        let inbox = self.inbox();
        matches!(inbox.worker, Worker::Running) || !inbox.queue.is_empty() || inbox.aside > 0
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        locked(&self.inbox)
    }

    /// Serves a client at the other end of two pipes, to the end of its requests.
    pub(crate) async fn serve_pipe(
        self: Arc<Self>,
        mut input: impl AsyncRead + Unpin,
        mut output: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let read = async {
            let mut buffer = BytesMut::with_capacity(PIPE_BUFFER);
            while input.read_buf(&mut buffer).await? > 0 {
                self.accept(buffer.split().freeze()).await;
                buffer.reserve(PIPE_BUFFER);
            }
            self.end(End::Eof);
            std::future::pending::<io::Result<()>>().await
        };
        let write = async {
            while let Some(ToSend { bytes, .. }) = self.outbox.next().await {
                for bytes in bytes {
                    output.write_all(&bytes).await?;
                }
                output.flush().await?;
                self.outbox.sent();
            }
            Ok(())
        };
        tokio::select! {
            result = write => result,
            result = read => result,
        }
    }

    async fn accept(self: &Arc<Self>, data: Bytes) {
        self.activity.touch();
        while self.inbox().queued > READ_AHEAD {
            self.taken.notified().await;
        }
        let cost = (data.len() + PIECE_COST).min(REQUEST_BUDGET);
        self.budget.take(cost).await;
        let mut inbox = self.inbox();
        // A channel that is gone drains without a charge.
        if matches!(inbox.worker, Worker::Gone) || inbox.end == Some(End::Cut) {
            drop(inbox);
            self.budget.give(cost);
            return;
        }
        inbox.charged += cost;
        inbox.queued += data.len();
        inbox.queue.push_back(data);
        self.start(inbox, false);
    }

    fn end(self: &Arc<Self>, end: End) {
        let mut inbox = self.inbox();
        if inbox.end.is_none() || end == End::Cut {
            inbox.end = Some(end);
        }
        self.start(inbox, false);
    }

    /// Starts a worker unless one is running; it takes everything that is queued before it goes. What is quick is run here: to
    /// wake another thread takes longer, twice with every small file. A connection that has this thread for itself holds up
    /// nobody, and writes its files here too. Its reads go on elsewhere, or the socket would run empty meanwhile.
    fn start(self: &Arc<Self>, mut inbox: MutexGuard<'_, Inbox>, may_wait: bool) {
        if inbox.is_paused {
            return;
        }
        match std::mem::replace(&mut inbox.worker, Worker::Running) {
            Worker::Idle(engine) => {
                let has_ended = inbox.end.is_some();
                drop(inbox);
                let here = if threads::is_alone() { Wait::Disk } else { Wait::Nothing };
                if may_wait {
                    self.work(engine, Wait::Long);
                } else if has_ended {
                    self.work_aside(engine);
                } else if std::panic::catch_unwind(AssertUnwindSafe(|| self.work(engine, here))).is_err() {
                    tracing::error!("a request panicked");
                }
            }
            other => inbox.worker = other,
        }
    }

    fn work_aside(self: &Arc<Self>, engine: Box<Engine>) {
        let channel = Arc::clone(self);
        self.runtime.spawn_blocking(move || channel.work(engine, Wait::Long));
    }

    /// Something that ran aside has ended: what waited for it goes on, on a thread that may wait.
    fn resume(self: &Arc<Self>, mut inbox: MutexGuard<'_, Inbox>) {
        if inbox.is_paused {
            return;
        }
        match std::mem::replace(&mut inbox.worker, Worker::Running) {
            Worker::Idle(engine) if engine.is_stalled() || !inbox.queue.is_empty() || inbox.end.is_some() => {
                drop(inbox);
                self.work_aside(engine);
            }
            Worker::Idle(engine) => {
                inbox.is_due = false;
                inbox.worker = Worker::Idle(engine);
            }
            other => inbox.worker = other,
        }
    }

    /// Runs until the queue is empty on a blocking thread, or once on one that must not wait for long.
    fn work(self: &Arc<Self>, engine: Box<Engine>, may_wait: Wait) {
        // Declared before the engine, so that it acts after the engine is dropped and the uploads are abandoned, even if a
        // method of the tree panics.
        let mut last = LastAct {
            channel: self,
            armed: true,
        };
        let mut engine = engine;
        loop {
            let mut inbox = self.inbox();
            if inbox.end == Some(End::Cut) {
                return;
            }
            if inbox.is_paused || (inbox.queue.is_empty() && !std::mem::take(&mut inbox.is_due)) {
                // What runs aside starts a worker again when it has ended.
                let Some(end) = inbox.end.filter(|_| inbox.aside == 0) else {
                    last.armed = false;
                    inbox.worker = Worker::Idle(engine);
                    return;
                };
                drop(inbox);
                if end == End::Eof {
                    engine.ended_by_client();
                }
                return;
            }
            let queue = std::mem::take(&mut inbox.queue);
            inbox.queued = 0;
            drop(inbox);
            self.taken.notify_one();
            queue.into_iter().for_each(|piece| engine.push(piece));
            let result = engine.run(&self.outbox, &Beside(self), may_wait);
            self.activity.touch();
            self.release(engine.cost());
            if let Err(broken) = result {
                tracing::warn!("the channel ends: {broken}");
                if broken == Broken::NotReading {
                    self.outbox.abort();
                }
                return;
            }
            if may_wait < Wait::Long {
                last.armed = false;
                let mut inbox = self.inbox();
                let is_due = engine.needs_thread() || (inbox.is_due && engine.is_stalled());
                inbox.is_due = is_due;
                if is_due || !inbox.queue.is_empty() || inbox.end.is_some() {
                    inbox.is_due = true;
                    drop(inbox);
                    self.work_aside(engine);
                } else {
                    inbox.worker = Worker::Idle(engine);
                }
                return;
            }
        }
    }

    /// Lets the writer end once the last answer is there.
    fn finish(&self, inbox: MutexGuard<'_, Inbox>) {
        if inbox.aside == 0 {
            self.outbox.finish();
        }
    }

    /// Gives back the budget except for the queue and `kept`.
    fn release(&self, kept: usize) {
        let mut inbox = self.inbox();
        let held = kept + inbox.queue.iter().map(|p| p.len() + PIECE_COST).sum::<usize>();
        let free = inbox.charged.saturating_sub(held);
        inbox.charged -= free;
        drop(inbox);
        self.budget.give(free);
    }

    async fn write(self: Arc<Self>, half: russh::ChannelWriteHalf<Msg>) {
        let send_all = async {
            let mut batch = self.outbox.next().await;
            while let Some(ToSend { bytes, has_room }) = batch {
                let send = async {
                    for bytes in bytes {
                        half.data_bytes(bytes).await?;
                        self.activity.touch();
                        self.budget.is_read();
                    }
                    self.outbox.sent();
                    Ok::<(), russh::Error>(())
                };
                // The next is read meanwhile, if there is memory for two.
                let (sent, next) = if has_room {
                    tokio::join!(send, self.outbox.next())
                } else {
                    (send.await, self.outbox.next().await)
                };
                if sent.is_err() {
                    return;
                }
                batch = next;
            }
            // The channel is used up: say so, as sftp-server does.
            let _ = half.exit_status(0).await;
            let _ = half.eof().await;
            let _ = half.close().await;
        };
        tokio::select! {
            () = send_all => {}
            () = self.outbox.aborted() => {
                // A channel that the client has closed already ignores this. The queue behind it may be stuck.
                let _ = tokio::time::timeout(CLOSE_WAIT, half.close()).await;
            }
        }
    }
}

/// Runs the work of a channel's engine on further blocking threads.
struct Beside<'a>(&'a Arc<Channel>);

impl Aside for Beside<'_> {
    fn run(&self, work: Work) {
        let pending = Pending::begin(self.0, true);
        self.0.runtime.spawn_blocking(move || {
            if let Ok(answer) = std::panic::catch_unwind(AssertUnwindSafe(work)) {
                pending.answer(answer);
            }
        });
    }

    fn expect(&self) -> Expected {
        let pending = Pending::begin(self.0, false);
        Box::new(move |answer| pending.answer(answer))
    }

    fn pause(&self, length: Duration) -> Arc<AtomicBool> {
        let mut pending = Pending::begin(self.0, false);
        pending.is_answered = true;
        pending.channel.inbox().is_paused = true;
        let over = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&over);
        self.0.runtime.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(length) => {}
                () = pending.channel.outbox.aborted() => {}
            }
            set.store(true, Ordering::SeqCst);
            pending.channel.inbox().is_paused = false;
            drop(pending);
        });
        over
    }
}

/// Work that goes on aside. If it ends without an answer, so does the channel.
struct Pending {
    channel: Arc<Channel>,
    is_answered: bool,
    /// It ends on a blocking thread, which runs what waits for it.
    may_wait: bool,
}

impl Pending {
    fn begin(channel: &Arc<Channel>, may_wait: bool) -> Self {
        channel.inbox().aside += 1;
        Self {
            channel: Arc::clone(channel),
            is_answered: false,
            may_wait,
        }
    }

    fn answer(mut self, answer: Bytes) {
        self.is_answered = true;
        // A client that does not read is found by the engine's next answer.
        let _ = self.channel.outbox.ready(answer, 1);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let channel = &self.channel;
        if !self.is_answered {
            tracing::error!("opening, syncing or closing an upload panicked");
            channel.cut();
        }
        channel.activity.touch();
        let mut inbox = channel.inbox();
        inbox.aside -= 1;
        inbox.is_due = true;
        match inbox.worker {
            Worker::Gone => channel.finish(inbox),
            _ if self.may_wait => channel.start(inbox, true),
            _ => channel.resume(inbox),
        }
    }
}

/// What happens when a channel's engine is gone, for whatever reason.
struct LastAct<'a> {
    channel: &'a Channel,
    armed: bool,
}

impl Drop for LastAct<'_> {
    fn drop(&mut self) {
        if self.armed {
            let mut inbox = self.channel.inbox();
            inbox.worker = Worker::Gone;
            inbox.queue.clear();
            inbox.queued = 0;
            let charged = std::mem::take(&mut inbox.charged);
            drop(inbox);
            self.channel.taken.notify_one();
            self.channel.budget.give(charged);
            self.channel.finish(self.channel.inbox());
        }
    }
}
