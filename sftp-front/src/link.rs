//! The TCP stream as russh sees it: with a kill switch that ends a connection however wedged it may be, byte counters, and
//! an ear for the client's identification line, which russh tells too late for the login.

use crate::lock::locked;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Longest identification line, with its end (RFC 4253 §4.2).
const MAX_ID_LINE: usize = 255;
/// Bytes that a client may send before it has logged in: more than every key and the ends of a key exchange take, and an end
/// to floods of messages that are answered or ignored (CVE-2025-26466).
pub const MAX_BEFORE_LOGIN: u64 = 1 << 20;
/// A client that has answered within this time is near, see [`LinkState::is_near`].
const NEAR_MS: u64 = 5;

/// What both ends of a [`Link`] share.
pub(crate) struct LinkState {
    born: Instant,
    dead: AtomicBool,
    wakers: Mutex<[Option<Waker>; 2]>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// Milliseconds after `born` since which a write has been waiting, plus one; 0 = none waits.
    blocked_since: AtomicU64,
    /// Milliseconds after `born` of the last write that nothing has been read since, plus one; 0 = there is none.
    asked_at: AtomicU64,
    /// The shortest time in milliseconds between a write and the read after it, until the login.
    quickest: AtomicU64,
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
            asked_at: AtomicU64::new(0),
            quickest: AtomicU64::new(u64::MAX),
            client: OnceLock::new(),
            logged_in: AtomicBool::new(false),
        }
    }

    /// From now on reads and writes fail.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
        let wakers = std::mem::take(&mut *locked(&self.wakers));
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// From now on the client may send as much as it likes.
    pub(crate) fn logged_in(&self) {
        self.logged_in.store(true, Ordering::Relaxed);
    }

    /// Whether a round trip to the client takes less than [`NEAR_MS`], as far as the login could tell.
    pub(crate) fn is_near(&self) -> bool {
        self.quickest.load(Ordering::Relaxed) < NEAR_MS
    }

    fn wrote(&self) {
        if !self.logged_in.load(Ordering::Relaxed) {
            self.asked_at.store(self.now_ms().saturating_add(1), Ordering::Relaxed);
        }
    }

    fn heard(&self) {
        if !self.logged_in.load(Ordering::Relaxed) {
            let asked = self.asked_at.swap(0, Ordering::Relaxed);
            if asked > 0 {
                self.quickest.fetch_min(self.now_ms().saturating_sub(asked - 1), Ordering::Relaxed);
            }
        }
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
        if let Some(slot) = locked(&self.wakers).get_mut(side)
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
    /// The identification line so far; `None` once it is complete or too long.
    line: Option<Vec<u8>>,
}

impl Link {
    pub(crate) fn new(tcp: TcpStream, state: Arc<LinkState>) -> Self {
        Self {
            tcp,
            state,
            line: Some(Vec::new()),
        }
    }

    fn listen(&mut self, fresh: &[u8]) {
        let Some(line) = &mut self.line else { return };
        for b in fresh {
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
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.tcp).poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        this.state.bytes_in.fetch_add(fresh.len() as u64, Ordering::Relaxed);
        this.state.heard();
        if this.state.is_flood() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "too many bytes before the login")));
        }
        if this.line.is_some() {
            this.listen(fresh);
        }
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
                    self.state.wrote();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_login_tells_how_near_a_client_is() {
        let near = LinkState::new();
        assert!(!near.is_near(), "nothing is known yet");
        near.wrote();
        near.heard();
        assert!(near.is_near());
        let far = LinkState::new();
        for _ in 0..2 {
            far.wrote();
            std::thread::sleep(Duration::from_millis(NEAR_MS + 2));
            far.heard();
        }
        // What a client sends by itself is no answer.
        far.heard();
        far.logged_in();
        far.wrote();
        far.heard();
        assert!(!far.is_near());
    }
}
