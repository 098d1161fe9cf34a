//! The HTTP client of AS2: one request after the other on a connection, to a checked address (RFC 4130 §5.1, §5.2.1;
//! security.md §5).
//!
//! [`Poster::post`] reads the URL → takes a connection that waits, or resolves the name once, refuses inner networks, connects
//! (by a proxy if there is one) and shakes hands → writes the head and the body while it listens for an early answer → reads
//! the answer within its limits. It is written by hand because evidence needs the head's bytes as they went out and as they
//! came in.

mod address;
mod answer;
mod connect;
mod exchange;
mod pool;
mod tls;
mod token;
pub(crate) mod wire;

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::time::{Duration, Instant};

use as2_core::headers::Headers;
use bytes::Bytes;
use zeroize::Zeroizing;

use crate::hint::{command, option};
use crate::partner::TlsMode;
use crate::url::Url;
pub(crate) use exchange::{MAY_HOLD, is_ours};
use pool::{Place, Pool};
use tls::Roots;
pub use token::Grant;
use token::{Authorization, Tokens};

/// Longest body that goes over a connection that was used before: should it have ended, the body is sent twice, and beside a
/// longer one a new connection costs nothing.
const MAX_REPEATED: u64 = 4 << 20;
/// How long a probe waits for an answer: a message may take its partner longer than a question.
const LOOK: Duration = Duration::from_secs(10);
/// How soon after a POST began its connection has to end for the end to be older than the POST. Later, the server may have been at work
/// on the message (and still be, behind a balancer that drops silent connections), and at once is too early to send it again.
const ENDED_BEFORE: Duration = Duration::from_secs(3);

/// Posts messages and MDNs. Cheap to share; keeps the system's roots until they change, and connections and tokens for a while.
#[derive(Default)]
pub struct Poster {
    roots: Roots,
    roots_13: Roots,
    roots_legacy: Roots,
    pool: Pool,
    tokens: Tokens,
}

/// Where and how to post.
pub struct Target {
    /// The partner that it is for, whose settings the hints name.
    pub partner: String,
    /// `http` or `https`, at most 2,000 characters, without credentials in it.
    pub url: String,
    /// Which TLS is good enough.
    pub tls: TlsMode,
    /// Certificates in DER. Not empty: the server has to show exactly one of them, and nothing else counts.
    pub pinned: Vec<Vec<u8>>,
    /// Shown if the server asks for one.
    pub client_identity: Option<ClientIdentity>,
    /// Shown unasked (as2.md Q33).
    pub credentials: Option<Credentials>,
    /// Sent after the message's own headers.
    pub headers: Vec<(String, String)>,
    /// Whether loopback and private networks are allowed.
    pub allow_private: bool,
    /// Goes through this proxy.
    pub proxy: Option<Proxy>,
    /// For resolving, connecting and TLS, each.
    pub connect_timeout: Duration,
    /// Longest pause while the body goes out.
    pub progress_timeout: Duration,
    /// From the end of the body to the answer's head; again for the answer's body.
    pub response_timeout: Duration,
    /// For all of it, from name to answer; `None`: as long as bytes move.
    pub total_timeout: Option<Duration>,
    /// Sends chunks instead of a Content-Length.
    pub chunked: bool,
    /// Uses connections again. A POST on one that turns out to have ended before is sent once more at once, so the server has to
    /// recognise what it has seen before.
    pub keep_alive: bool,
}

impl Target {
    fn read_url(&self) -> Result<Url, PostError> {
        if self.url.is_empty() {
            return Err(PostError::new(Stage::Url, "there is no URL to send to", self.setting("--url URL")));
        }
        Url::parse(&self.url)
            .map_err(|why| PostError::new(Stage::Url, format!("the URL {why}"), "set a URL like https://partner.example/as2"))
    }

    /// The command that changes its partner so.
    fn setting(&self, options: &str) -> String {
        command("partner set", &self.partner, options)
    }

    /// The command that names what we show it as our own TLS certificate.
    fn showing(&self) -> String {
        self.setting("--client-certificate NAME")
    }

    /// The command that adds a TLS certificate of its.
    fn trusting(&self) -> String {
        format!("as2gate cert add NAME {} --use https --file FILE", option("partner", &self.partner))
    }
}

/// What we show a server.
#[derive(Clone)]
pub enum Credentials {
    /// User and password.
    Basic((String, Zeroizing<String>)),
    /// A token that is fetched by this.
    Token(Grant),
}

/// A TLS client certificate.
#[derive(Clone)]
pub struct ClientIdentity {
    /// DER, the leaf first.
    pub cert_chain: Vec<Vec<u8>>,
    /// Its key, PKCS#8 DER.
    pub pkcs8: Zeroizing<Vec<u8>>,
}

/// An HTTP proxy: `CONNECT` for https, absolute form for http.
#[derive(Clone)]
pub struct Proxy {
    /// `http://host:port`.
    pub url: String,
    /// User and password.
    pub auth: Option<(String, Zeroizing<String>)>,
}

/// What is posted.
#[derive(Debug)]
pub enum Body {
    /// `len` bytes of a file, read in pieces.
    File { file: File, from: u64, len: u64 },
    /// Small enough for memory.
    Bytes(Bytes),
}

impl Body {
    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Body::File { len, .. } => *len,
            Body::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// What is behind the first `bytes` bytes.
    #[must_use]
    pub fn skip(self, bytes: u64) -> Self {
        let bytes = bytes.min(self.len());
        match self {
            Body::File { file, from, len } => Body::File {
                file,
                from: from + bytes,
                len: len - bytes,
            },
            Body::Bytes(all) => Body::Bytes(all.slice(usize::try_from(bytes).unwrap_or(all.len())..)),
        }
    }

    /// The same once more, as long as it is not too long for that.
    fn copy(&self) -> Option<Body> {
        if self.len() <= MAX_REPEATED { self.again() } else { None }
    }

    /// The same once more.
    fn again(&self) -> Option<Body> {
        match self {
            Body::File { file, from, len } => Some(Body::File {
                file: file.try_clone().ok()?,
                from: *from,
                len: *len,
            }),
            Body::Bytes(bytes) => Some(Body::Bytes(bytes.clone())),
        }
    }

    /// Whether nothing is posted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What the server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 200–999; interim answers are skipped.
    pub status: u16,
    /// Parsed from `raw_head`.
    pub headers: Headers,
    /// Status line, header lines and blank line as received; at most 64 KiB.
    pub raw_head: Vec<u8>,
    /// As far as it came, at most `max_answer` bytes.
    pub body: Vec<u8>,
    /// The body came to its end.
    pub complete: bool,
    /// Only the end of the connection ends it: neither a length nor chunks were announced.
    pub until_close: bool,
    /// The body was longer than `max_answer`; the rest was not read.
    pub over_limit: bool,
    /// Protocol and cipher, e.g. `TLSv1.3 TLS_AES_256_GCM_SHA384`.
    pub tls: Option<String>,
    /// Our head as it went out, request line and blank line included; credentials alone are replaced by `***`.
    pub sent_head: Vec<u8>,
    /// The whole request had left us; false for an answer that came early, like 413.
    pub body_sent: bool,
    /// It had left us once before, on a connection that ended without an answer: the server may have taken it then.
    pub twice: bool,
}

/// How far a POST came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The URL, or a header that may not be sent.
    Url,
    /// The address is of an inner network.
    Denied,
    /// The token endpoint gave none.
    Token,
    /// Name to address.
    Resolve,
    /// TCP, or the proxy.
    Connect,
    /// The TLS handshake.
    Tls,
    /// The server's certificate is not trusted.
    TlsTrust,
    /// Writing the request.
    Send,
    /// Waiting for, or reading, the answer's head.
    Head,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct PostError {
    /// How far it came.
    pub stage: Stage,
    /// The whole request left us, so the server may hold it.
    pub body_sent: bool,
    /// The connection ended before a byte of an answer came.
    pub unanswered: bool,
    /// The same POST may go well later.
    pub retry: bool,
    /// What happened, for people.
    pub text: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl PostError {
    pub(crate) fn new(stage: Stage, text: impl Into<String>, hint: impl Into<String>) -> Self {
        PostError {
            stage,
            body_sent: false,
            unanswered: false,
            retry: !matches!(stage, Stage::Url | Stage::Denied),
            text: text.into(),
            hint: hint.into(),
        }
    }
}

impl fmt::Debug for Poster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poster").finish_non_exhaustive()
    }
}

/// Holds work against the target's limit for the whole POST.
async fn in_time<T>(
    target: &Target,
    began: Instant,
    may_have_arrived: bool,
    work: impl Future<Output = Result<T, PostError>>,
) -> Result<T, PostError> {
    let Some(total) = target.total_timeout else { return work.await };
    let left = total.saturating_sub(began.elapsed());
    tokio::time::timeout(left, work).await.unwrap_or_else(|_| {
        let stage = if may_have_arrived { Stage::Head } else { Stage::Connect };
        Err(PostError {
            body_sent: may_have_arrived,
            ..PostError::new(
                stage,
                format!("not done within {} s", total.as_secs()),
                format!(
                    "if the partner or the way to it is that slow: {}",
                    target.setting("--total-timeout SECONDS")
                ),
            )
        })
    })
}

/// The steps of a test of a partner's address, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The URL is one.
    Url,
    /// The name resolves.
    Resolve,
    /// A connection is made.
    Connect,
    /// TLS is agreed on; only with https.
    Tls,
    /// The token endpoint gives a token; only where one is wanted.
    Token,
    /// HTTP is answered.
    Answer,
    /// Nothing answers to a question, as some servers do that know `POST` only: a message tells.
    Silence,
}

/// One step that was gone.
#[derive(Clone, Debug)]
pub struct ProbeStep {
    /// Which.
    pub step: Probe,
    /// Whether it went well; a step that did not is the last.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// How long it took.
    pub took: Duration,
}

impl Poster {
    /// A client. The system's roots are read at the first https connection without pinned certificates.
    #[must_use]
    pub fn new() -> Self {
        Poster::default()
    }

    /// Posts `body` under `headers`, names and order as given. `Host`, the length and the credentials are added; the same
    /// fields among `headers` are left out. At most `max_answer` bytes of the answer's body are kept.
    ///
    /// # Errors
    /// No answer came; see [`Stage`].
    pub async fn post(&self, target: &Target, headers: &Headers, body: Body, max_answer: usize) -> Result<Answer, PostError> {
        let shown = self.authorization(target).await?;
        let by_token = matches!(target.credentials, Some(Credentials::Token(_)));
        let again = if by_token { body.again() } else { None };
        let answer = self.post_as(target, headers, body, max_answer, shown.as_ref()).await?;
        match (again, shown) {
            // A kept token may have been withdrawn before its time.
            (Some(body), Some(shown)) if answer.status == 401 && self.refused_token(target, &shown) => {
                let shown = self.authorization(target).await?;
                self.post_as(target, headers, body, max_answer, shown.as_ref()).await
            }
            _ => Ok(answer),
        }
    }

    async fn post_as(
        &self,
        target: &Target,
        headers: &Headers,
        body: Body,
        max_answer: usize,
        shown: Option<&Authorization>,
    ) -> Result<Answer, PostError> {
        let url = target.read_url()?;
        let request = exchange::Request::post(target, &url, headers, body.len(), shown)?;
        let began = Instant::now();
        let place = target.keep_alive.then(|| Place::of(target, &url));
        // Whether the server may hold the message already, however the rest ends.
        let mut arrived = false;
        if let Some(place) = place
            && let Some(copy) = body.copy()
            && let Some(connection) = self.pool.take(place)
        {
            let exchange = exchange::run(target, connection, &request, copy, max_answer);
            match in_time(target, began, true, exchange).await {
                // It had ended while it waited. The same bytes once more are what AS2 expects (RFC 4130 §5.5).
                Err(error) if error.unanswered && (!error.body_sent || began.elapsed() < ENDED_BEFORE) => arrived = error.body_sent,
                other => return other.map(|exchanged| self.keep(Some(place), exchanged)),
            }
        }
        let fresh = async {
            let connection = in_time(target, began, arrived, self.connect(target, &url)).await?;
            let exchange = exchange::run(target, connection, &request, body, max_answer);
            in_time(target, began, true, exchange).await
        };
        let exchanged = fresh.await.map_err(|error| PostError {
            body_sent: error.body_sent || arrived,
            ..error
        })?;
        Ok(Answer {
            twice: arrived,
            ..self.keep(place, exchanged)
        })
    }

    /// A connection that may serve another request waits for it.
    fn keep(&self, place: Option<Place>, (answer, connection): exchange::Exchanged) -> Answer {
        if let (Some(place), Some(connection)) = (place, connection) {
            self.pool.put(place, connection);
        }
        answer
    }

    /// Sends a `HEAD` with these headers.
    ///
    /// # Errors
    /// As [`Poster::post`].
    pub async fn ask(&self, target: &Target, headers: &Headers) -> Result<Answer, PostError> {
        let url = target.read_url()?;
        let shown = self.authorization(target).await?;
        let began = Instant::now();
        let connection = in_time(target, began, false, self.connect(target, &url)).await?;
        let look = exchange::look(target, &url, connection, "HEAD", headers, shown.as_ref());
        in_time(target, began, true, look).await
    }

    async fn connect(&self, target: &Target, url: &Url) -> Result<connect::Connection, PostError> {
        let route = connect::Route::find(target, url).await?;
        let stream = route.connect(target, url).await?;
        self.secure(target, url, stream).await
    }

    async fn secure(&self, target: &Target, url: &Url, stream: tokio::net::TcpStream) -> Result<connect::Connection, PostError> {
        if !url.is_https() {
            return Ok(connect::Connection {
                stream: Box::new(stream),
                tls: None,
                certificate: None,
                made: Instant::now(),
            });
        }
        let roots = match target.tls {
            TlsMode::Default => &self.roots,
            TlsMode::Only13 => &self.roots_13,
            TlsMode::Legacy => &self.roots_legacy,
        };
        tls::connect(roots, target, url, stream).await
    }

    /// Tries a partner's address without posting anything: resolve, connect, TLS, then `HEAD` (or `GET`, where `HEAD` is
    /// not known or gets no answer). Any HTTP answer counts as one.
    pub async fn probe(&self, target: &Target) -> Vec<ProbeStep> {
        let mut steps = Steps::default();
        // The step that fails has written itself down.
        let _ = self.probe_into(target, &mut steps).await;
        steps.done
    }

    async fn probe_into(&self, target: &Target, steps: &mut Steps) -> Result<(), PostError> {
        let url = steps.note(Probe::Url, target.read_url(), |url| url.origin())?;
        let route = steps.note(Probe::Resolve, connect::Route::find(target, &url).await, connect::Route::describe)?;
        let stream = steps.note(Probe::Connect, route.connect(target, &url).await, |stream| {
            stream
                .peer_addr()
                .map_or_else(|_| "connected".to_owned(), |peer| format!("connected to {peer}"))
        })?;
        let connection = self.secure(target, &url, stream).await;
        let connection = match url.is_https() {
            true => steps.note(Probe::Tls, connection, connect::Connection::describe)?,
            false => connection?,
        };
        let shown = self.authorization(target).await;
        let shown = match target.credentials {
            Some(Credentials::Token(_)) => steps.note(Probe::Token, shown, |_| "the token endpoint gives one".to_owned())?,
            _ => shown?,
        };
        let headers = Headers::default();
        let mut method = "HEAD";
        let look = exchange::look(target, &url, connection, method, &headers, shown.as_ref());
        let mut answer = patiently(target, look).await;
        let unknown = |answer: &Answer| matches!(answer.status, 405 | 501);
        if answer.as_ref().map_or_else(is_silent, unknown) {
            method = "GET";
            let look = async {
                let connection = self.connect(target, &url).await?;
                exchange::look(target, &url, connection, method, &headers, shown.as_ref()).await
            };
            answer = patiently(target, look).await;
        }
        if answer.as_ref().is_err_and(is_silent) {
            steps.note(Probe::Silence, Ok(()), |()| "no answer to HEAD and GET".to_owned())?;
            return Ok(());
        }
        // Only a proxy says 407 (RFC 9110 §15.5.8): the partner was not asked.
        if answer.as_ref().is_ok_and(|answer| answer.status == 407) {
            answer = Err(connect::locked_out(target, 407));
        }
        // There is no message that the partner might hold.
        if let Err(error) = &mut answer
            && error.hint == MAY_HOLD
        {
            error.hint.clear();
        }
        steps.note(Probe::Answer, answer, |answer| match answer.status {
            400.. => format!("HTTP {} to {method}; a message may get another answer", answer.status),
            status => format!("HTTP {status}"),
        })?;
        Ok(())
    }
}

/// Holds a question against the patience for one.
async fn patiently(target: &Target, look: impl Future<Output = Result<Answer, PostError>>) -> Result<Answer, PostError> {
    let (began, most) = (Instant::now(), target.response_timeout.min(LOOK));
    match tokio::time::timeout(most, look).await {
        Ok(done) if done.is_ok() || began.elapsed() < most => done,
        _ => Err(PostError {
            unanswered: true,
            ..PostError::new(Stage::Head, format!("no answer within {} s", most.as_secs()), "")
        }),
    }
}

/// Whether an error is that no byte of an answer came, and no more is known.
fn is_silent(error: &PostError) -> bool {
    error.unanswered && (error.hint.is_empty() || error.hint == MAY_HOLD)
}

/// Writes steps down as they are done.
struct Steps {
    since: Instant,
    done: Vec<ProbeStep>,
}

impl Default for Steps {
    fn default() -> Self {
        Steps {
            since: Instant::now(),
            done: Vec::new(),
        }
    }
}

impl Steps {
    fn note<T>(&mut self, step: Probe, outcome: Result<T, PostError>, describe: impl FnOnce(&T) -> String) -> Result<T, PostError> {
        let took = self.since.elapsed();
        self.since = Instant::now();
        self.done.push(match &outcome {
            Ok(found) => ProbeStep {
                step,
                ok: true,
                detail: describe(found),
                hint: String::new(),
                took,
            },
            Err(error) => ProbeStep {
                step,
                ok: false,
                detail: error.text.clone(),
                hint: error.hint.clone(),
                took,
            },
        });
        outcome
    }
}

#[cfg(test)]
mod reuse_tests;
#[cfg(test)]
mod tests;
