//! The HTTP door of AS2: connections in, whole requests to the flows, one reply each (RFC 9110, RFC 9112; HTTP/1.1 only).
//!
//! `serve` accepts → `connection` reads heads, streams bodies into the flow's [`Sink`], writes replies. The door decides
//! nothing about AS2; it keeps limits and refuses what could be read two ways (security.md §7, §8). It is written by hand
//! because evidence needs the head's bytes as received, and because AS2 peers send folded fields.

mod connection;
mod head;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use as2_core::headers::Headers;
use bytes::Bytes;
use sftp_front::Unnamed;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::block;
use crate::listen::{Gate, MAX_CONNECTIONS};
use connection::Connection;
use tls::Unshaken;

pub use head::{MAX_FIELDS, MAX_HEAD, RawHead};
pub use tls::{ServerTls, TlsAcceptor};

/// Most bytes of a body that does not matter to its answer, as a stranger's: a client that writes all of a longer one before it reads
/// may miss the answer, and nobody fills the door with gigabytes.
const GLANCE: u64 = 1 << 20;
/// How long running requests may take to end once the server stops.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// Pause after a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the log says nothing more about connections that were too many.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// The same about clients that are refused by their certificates: a partner's operator tries again soon, and a stranger may as well.
const TELL_REFUSED_AGAIN: Duration = Duration::from_secs(10);

/// The flow behind the door.
pub trait Receive: Send + Sync + 'static {
    /// Where a body goes.
    type Sink: Sink;

    /// Decides by the head of a POST alone, before `100 Continue` and before the body is read.
    ///
    /// An `Err` is sent as the answer, and the connection closes.
    fn admit(&self, arrival: &Arrival) -> impl Future<Output = Result<Self::Sink, Reply>> + Send;

    /// Works on the whole request. It runs to its end even if the client has gone.
    fn receive(&self, arrival: Arrival, sink: Self::Sink) -> impl Future<Output = Reply> + Send;

    /// Answers a HEAD that asks how much is held of a body that broke off; `None` where it asks for nothing of the kind.
    fn kept_bytes(&self, _arrival: &Arrival) -> impl Future<Output = Option<Reply>> + Send {
        async { None }
    }

    /// Answers a GET; HEAD gets the same status without a body. Names neither version nor station nor partner.
    fn look(&self, _target: &str) -> Reply {
        Reply::text(200, "as2gate: an AS2 endpoint; messages come by POST\n")
    }

    /// Told of every answer, for the metrics. `method` is `GET`, `HEAD`, `POST` or `other`.
    fn answered(&self, _tls: bool, _method: &'static str, _status: u16) {}
}

/// Takes a body in pieces of up to 256 KiB. Dropped unfinished if the server stops.
pub trait Sink: Send + Sized {
    /// Takes the next piece. An `Err` is sent as the answer, and the connection closes.
    fn write(&mut self, piece: Bytes) -> impl Future<Output = Result<(), Reply>> + Send;

    /// Whether the answer depends on the body. Where it does not, no more of it is read than a short one has, so that its client
    /// comes to read the answer, and nothing where the client waits for `100 Continue` or announces more.
    fn matters(&self) -> bool {
        true
    }

    /// The body ends here, before its end: the client went away, was too slow or broke a rule, or `write` refused.
    fn broke_off(self) -> impl Future<Output = ()> + Send {
        async { drop(self) }
    }
}

/// A request, as far as its head tells.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The head.
    pub head: RawHead,
    /// The client: the other end of the connection, or whom a balancer there names.
    pub peer: SocketAddr,
    /// Whether it came over TLS.
    pub tls: bool,
    /// Bytes of the body, unless it comes in chunks.
    pub length: Option<u64>,
    /// The client's TLS certificate in DER, if it showed one. It is one of [`ServerTls::client_cas`], or issued by one.
    pub client_cert: Option<Vec<u8>>,
}

/// An answer. `Date`, `Server`, `Content-Length` and `Connection` are added on the way out.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// 200–599.
    pub status: u16,
    /// In the order in which they are sent.
    pub headers: Headers,
    /// Small enough for memory.
    pub body: Vec<u8>,
    /// What the answer to a HEAD announces in place of the body's length.
    pub length: Option<u64>,
}

impl Reply {
    /// A line of text for people.
    #[must_use]
    pub fn text(status: u16, text: &str) -> Self {
        let mut headers = Headers::default();
        // A constant without line ends is never refused.
        let _ = headers.push("Content-Type", "text/plain; charset=utf-8");
        Reply {
            status,
            headers,
            body: text.as_bytes().to_vec(),
            length: None,
        }
    }

    /// A status and nothing else.
    #[must_use]
    pub fn empty(status: u16) -> Self {
        Reply {
            status,
            ..Reply::default()
        }
    }
}

/// What a connection may take. The defaults are those of security.md §7; the gate may be shared by several listeners.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Counts connections.
    pub gate: Arc<Gate>,
    /// Blocks of balancers, whose connections begin with a PROXY header (version 2) that names the client.
    pub balancers: Vec<String>,
    /// For a whole head, from its first byte; also for the TLS handshake.
    pub head_time: Duration,
    /// Between two requests.
    pub idle_time: Duration,
    /// How long a body may be slower than `body_rate`.
    pub body_grace: Duration,
    /// Bytes per second that a body keeps on average after that.
    pub body_rate: u64,
    /// Longest pause within a body.
    pub body_stall: Duration,
    /// Bytes that are read, at most, of a body that does not matter to its answer.
    pub glance: u64,
    /// For these bytes.
    pub glance_time: Duration,
    /// For the client to take an answer.
    pub answer_time: Duration,
    /// How long unread input is thrown away before a close, so that the client can read its answer.
    pub linger_time: Duration,
}

impl Limits {
    /// The defaults, with so many connections per address (0: no limit per address).
    #[must_use]
    pub fn new(max_connections_per_ip: usize) -> Self {
        Limits {
            gate: Gate::new(MAX_CONNECTIONS, max_connections_per_ip),
            balancers: Vec::new(),
            head_time: Duration::from_secs(30),
            idle_time: Duration::from_secs(75),
            body_grace: Duration::from_secs(30),
            body_rate: 1_000,
            body_stall: Duration::from_secs(120),
            glance: GLANCE,
            glance_time: Duration::from_secs(60),
            answer_time: Duration::from_secs(60),
            linger_time: Duration::from_secs(5),
        }
    }

    fn is_balancer(&self, peer: SocketAddr) -> bool {
        self.balancers.iter().any(|balancer| block::holds(balancer, peer.ip()))
    }
}

/// Serves a listener until `stop` says true or is gone: idle connections end at once, requests within 30 s.
pub async fn serve<R: Receive>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    receiver: Arc<R>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let mut unnamed = Unnamed::default();
    let mut told = None;
    loop {
        let (accepted, is_named) = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            client = unnamed.named() => (Ok(client), true),
            accepted = listener.accept() => (accepted, false),
        };
        let (stream, peer) = match accepted {
            Ok((stream, peer)) if !is_named && limits.is_balancer(peer) => {
                if !unnamed.take(stream, peer) && is_due(&mut told, TELL_AGAIN) {
                    tracing::warn!(%peer, "too many connections whose PROXY header does not come");
                }
                continue;
            }
            Ok(client) => client,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(pass) = limits.gate.enter_or_displace(peer.ip()).await else {
            if is_due(&mut told, TELL_AGAIN) {
                tracing::warn!(%peer, "too many connections, of all or of one address (as2.max_connections_per_ip; a balancer belongs into as2.proxy_protocol_from)");
            }
            continue;
        };
        let (tls, receiver, limits, stop) = (tls.clone(), Arc::clone(&receiver), limits.clone(), stop.clone());
        connections.spawn(async move {
            one(stream, peer, tls, receiver, limits, stop).await;
            drop(pass);
        });
    }
    drop((listener, unnamed));
    tls.iter().for_each(TlsAcceptor::end);
    let all_end = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(STOP_GRACE, all_end).await.is_err() {
        tracing::warn!(left = connections.len(), "requests are cut off at the stop");
    }
    connections.shutdown().await;
}

/// Whether the log is to say it again; then it was said now.
fn is_due(told: &mut Option<Instant>, again: Duration) -> bool {
    let is_due = told.is_none_or(|at| at.elapsed() >= again);
    if is_due {
        *told = Some(Instant::now());
    }
    is_due
}

async fn one<R: Receive>(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    receiver: Arc<R>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    // Small answers must not wait for an acknowledgement; without the option they only come later.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = tls else {
        return Connection::new(stream, peer, None, receiver, limits, stop).run().await;
    };
    let shaken = tokio::select! {
        _ = stop.wait_for(|stop| *stop) => return,
        () = limits.gate.displaced() => return,
        shaken = tokio::time::timeout(limits.head_time, acceptor.accept(stream)) => shaken,
    };
    match shaken {
        Ok(Ok((stream, over))) => {
            let client = stream.ssl().peer_certificate().and_then(|certificate| certificate.to_der().ok());
            Connection::new(stream, peer, Some(client), receiver, limits, over).run().await;
        }
        Ok(Err(Unshaken::Certificate(reason))) if acceptor.tells_refusal() => {
            tracing::warn!(%peer, reason, "the client's TLS certificate is not taken; what counts are the partners' https_certificate and their issuers");
        }
        Ok(Err(Unshaken::Certificate(error) | Unshaken::Broken(error))) => tracing::debug!(%peer, error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked");
    }
}

/// What [`serve_text`] asks: path in, status and text out; `None` is 404.
pub type Answerer = Arc<dyn Fn(&str) -> Option<(u16, String)> + Send + Sync>;

/// Serves short texts to GET, for health and metrics; nothing else is admitted.
pub async fn serve_text(listener: TcpListener, answer: Answerer, stop: watch::Receiver<bool>) {
    // Loopback is one address with several scrapers, so only the total counts.
    serve(listener, None, Arc::new(Texts { answer }), Limits::new(0), stop).await;
}

struct Texts {
    answer: Answerer,
}

/// A sink that is never made: texts take no bodies.
enum NoSink {}

impl Sink for NoSink {
    async fn write(&mut self, _: Bytes) -> Result<(), Reply> {
        match *self {}
    }
}

impl Receive for Texts {
    type Sink = NoSink;

    async fn admit(&self, _: &Arrival) -> Result<NoSink, Reply> {
        Err(Reply::text(405, "only GET\n"))
    }

    async fn receive(&self, _: Arrival, sink: NoSink) -> Reply {
        match sink {}
    }

    fn look(&self, target: &str) -> Reply {
        let path = target.split('?').next().unwrap_or_default();
        match (self.answer)(path) {
            Some((status, text)) => Reply::text(status, &text),
            None => Reply::text(404, "not found\n"),
        }
    }
}

#[cfg(test)]
mod tests;
