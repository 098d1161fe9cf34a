//! The TCP stream as russh sees it: with a kill switch that ends a connection however wedged it may be, byte counters, and
//! an ear for the client's identification line, which russh tells too late for the login. It also reads ahead: russh asks
//! the socket twice for every packet.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Longest identification line, with its end (RFC 4253 §4.2).
const MAX_ID_LINE: usize = 255;
/// Bytes that a client may send before it has logged in: more than every key and the ends of a key exchange take, and an end
/// to floods of messages that are answered or ignored (CVE-2025-26466).
pub const MAX_BEFORE_LOGIN: u64 = 1 << 20;
/// Read-ahead of a connection that has not transferred anything; many of these may be half open.
const SMALL_BUFFER: usize = 4 << 10;
/// Read-ahead of a connection that has received [`BUSY_AFTER`] bytes.
const LARGE_BUFFER: usize = 256 << 10;
const BUSY_AFTER: u64 = 128 << 10;

/// What both ends of a [`Link`] share.
pub(crate) struct LinkState {
    born: Instant,
    dead: AtomicBool,
    wakers: Mutex<[Option<Waker>; 2]>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// Milliseconds after `born` since which a write has been waiting, plus one; 0 = none waits.
    blocked_since: AtomicU64,
    client: OnceLock<String>,
    logged_in: AtomicBool,
}

impl LinkState {
    pub(crate) fn new() -> Self {
        Self {
            born: Instant::now(),
            dead: AtomicBool::new(false),
            wakers: Mutex::default(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
            client: OnceLock::new(),
            logged_in: AtomicBool::new(false),
        }
    }

    /// From now on reads and writes fail.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
        let wakers = std::mem::take(&mut *self.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// From now on the client may send as much as it likes.
    pub(crate) fn logged_in(&self) {
        self.logged_in.store(true, Ordering::Relaxed);
    }

    fn is_flood(&self) -> bool {
        self.bytes_in.load(Ordering::Relaxed) > MAX_BEFORE_LOGIN && !self.logged_in.load(Ordering::Relaxed)
    }

    /// Bytes received and sent on the wire.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.bytes_in.load(Ordering::Relaxed), self.bytes_out.load(Ordering::Relaxed))
    }

    /// The client's identification line, printable characters only; empty until it has arrived.
    pub(crate) fn client(&self) -> &str {
        self.client.get().map_or("", String::as_str)
    }

    /// Milliseconds for which the peer has taken no byte of a write.
    pub(crate) fn write_blocked_ms(&self) -> u64 {
        match self.blocked_since.load(Ordering::Relaxed) {
            0 => 0,
            since => self.now_ms().saturating_sub(since - 1),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Registers for [`kill`](Self::kill), then tells whether it has happened.
    fn dead(&self, side: usize, cx: &Context<'_>) -> bool {
        if let Some(slot) = self.wakers.lock().unwrap_or_else(PoisonError::into_inner).get_mut(side)
            && !slot.as_ref().is_some_and(|w| w.will_wake(cx.waker()))
        {
            *slot = Some(cx.waker().clone());
        }
        self.dead.load(Ordering::SeqCst)
    }
}

const READ_SIDE: usize = 0;
const WRITE_SIDE: usize = 1;

pub(crate) struct Link {
    tcp: TcpStream,
    state: Arc<LinkState>,
    /// Bytes read ahead: `buffer[at..end]`.
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
    /// The identification line so far; `None` once it is complete or too long.
    line: Option<Vec<u8>>,
}

impl Link {
    pub(crate) fn new(tcp: TcpStream, state: Arc<LinkState>) -> Self {
        Self {
            tcp,
            state,
            buffer: vec![0; SMALL_BUFFER].into(),
            at: 0,
            end: 0,
            line: Some(Vec::new()),
        }
    }

    fn listen(&mut self) {
        let Some(line) = &mut self.line else { return };
        for b in self.buffer.get(..self.end).unwrap_or_default() {
            match b {
                b'\n' => {
                    let text = line.iter().filter(|b| (b' '..=b'~').contains(b)).map(|b| char::from(*b)).collect();
                    let _ = self.state.client.set(text);
                    self.line = None;
                    return;
                }
                _ if line.len() == MAX_ID_LINE => {
                    self.line = None;
                    return;
                }
                b => line.push(*b),
            }
        }
    }
}

fn killed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "ended by the server")
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.state.dead(READ_SIDE, cx) {
            return Poll::Ready(Err(killed()));
        }
        let this = &mut *self;
        if this.at == this.end {
            if this.buffer.len() == SMALL_BUFFER && this.state.bytes_in.load(Ordering::Relaxed) > BUSY_AFTER {
                this.buffer = vec![0; LARGE_BUFFER].into();
            }
            let mut ahead = ReadBuf::new(&mut this.buffer);
            ready!(Pin::new(&mut this.tcp).poll_read(cx, &mut ahead))?;
            (this.at, this.end) = (0, ahead.filled().len());
            this.state.bytes_in.fetch_add(this.end as u64, Ordering::Relaxed);
            if this.state.is_flood() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "too many bytes before the login")));
            }
            if this.line.is_some() {
                this.listen();
            }
        }
        let fresh = this.buffer.get(this.at..this.end).unwrap_or_default();
        let n = fresh.len().min(buf.remaining());
        buf.put_slice(fresh.get(..n).unwrap_or_default());
        this.at += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.state.dead(WRITE_SIDE, cx) {
            return Poll::Ready(Err(killed()));
        }
        let result = Pin::new(&mut self.tcp).poll_write(cx, buf);
        match &result {
            Poll::Ready(r) => {
                self.state.blocked_since.store(0, Ordering::Relaxed);
                if let Ok(n) = r {
                    self.state.bytes_out.fetch_add(*n as u64, Ordering::Relaxed);
                }
            }
            Poll::Pending => {
                let now = self.state.now_ms().saturating_add(1);
                let _ = self
                    .state
                    .blocked_since
                    .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
