//! One connection: head, body, reply, and again.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::head::{self, Parsed};
use super::{Arrival, Limits, RawHead, Receive, Reply, Sink};
use crate::post::wire::{Decoder, Framing, Source, Step};

/// With the version on answers to POSTs only: strangers who look around learn the product, not the version.
const SERVER: &str = "as2gate";
const SERVER_VERSION: &str = concat!("as2gate/", env!("CARGO_PKG_VERSION"));

/// Bytes of an answer's head that there is room for at first.
const TYPICAL_HEAD: usize = 1024;

pub(super) struct Connection<S, R> {
    source: Source<S>,
    peer: SocketAddr,
    /// Over TLS; inside, the client's certificate.
    tls: Option<Option<Vec<u8>>>,
    receiver: Arc<R>,
    limits: Limits,
    stop: watch::Receiver<bool>,
    served: u64,
}

/// How a request left the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// Ready for the next one.
    Keep,
    /// All was read; close.
    Close,
    /// Something may still come; let the client read its answer before the close.
    Linger,
    /// Nobody is there.
    Gone,
}

/// Why a body did not come whole.
enum Cut {
    Gone,
    Reply(Reply),
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send, R: Receive> Connection<S, R> {
    pub(super) fn new(
        stream: S,
        peer: SocketAddr,
        tls: Option<Option<Vec<u8>>>,
        receiver: Arc<R>,
        limits: Limits,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Connection {
            source: Source::new(stream),
            peer,
            tls,
            receiver,
            limits,
            stop,
            served: 0,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let after = match self.next_head().await {
                Ok(Some(parsed)) => self.request(parsed).await,
                Ok(None) => After::Close,
                Err((status, why)) => {
                    tracing::info!(peer = %self.peer, status, why, "request refused");
                    self.reply("other", Reply::text(status, &format!("{why}\n")), After::Linger).await
                }
            };
            match after {
                After::Keep => self.served += 1,
                After::Close => return self.close(false).await,
                After::Linger => return self.close(true).await,
                After::Gone => return,
            }
        }
    }

    /// Waits for a request; `None` if none comes any more.
    async fn next_head(&mut self) -> Result<Option<Parsed>, head::Refused> {
        let patience = if self.served == 0 {
            self.limits.head_time
        } else {
            self.limits.idle_time
        };
        let mut deadline = Instant::now() + patience;
        let (mut scanned, mut begun) = (0, false);
        let gate = Arc::clone(&self.limits.gate);
        // One wait for the whole head: a byte now and then does not make it young again.
        let mut displaced = pin!(gate.displaced());
        loop {
            if !self.source.buffer.is_empty() {
                if !begun {
                    begun = true;
                    // The first head's time runs from the connection, later ones' from their first byte.
                    deadline = if self.served == 0 {
                        deadline
                    } else {
                        Instant::now() + self.limits.head_time
                    };
                }
                if let Some(parsed) = head::take(&mut self.source.buffer, &mut scanned)? {
                    return Ok(Some(parsed));
                }
            }
            let filled = tokio::select! {
                // What has to end reads no further request, not even one that is there already.
                biased;
                _ = self.stop.wait_for(|stop| *stop) => return Ok(None),
                filled = timeout_at(deadline, self.source.fill()) => filled,
                () = &mut displaced => return Ok(None),
            };
            match filled {
                Ok(Ok(1..)) => {}
                Ok(_) => return Ok(None),
                Err(_) if begun => return Err((408, "the head took too long")),
                Err(_) => return Ok(None),
            }
        }
    }

    async fn request(&mut self, parsed: Parsed) -> After {
        let empty = matches!(parsed.framing, None | Some(Framing::Length(0)));
        let after = if !empty {
            After::Linger
        } else if parsed.keep {
            After::Keep
        } else {
            After::Close
        };
        match parsed.head.method.as_str() {
            "POST" => self.post(parsed).await,
            "GET" => {
                let reply = self.receiver.look(&parsed.head.target);
                self.reply("GET", reply, after).await
            }
            "HEAD" => {
                let target = parsed.head.target.clone();
                let receiver = Arc::clone(&self.receiver);
                let kept = receiver.kept_bytes(&self.arrival(parsed.head, None)).await;
                let reply = kept.unwrap_or_else(|| Reply::empty(receiver.look(&target).status));
                let bodiless = Reply { body: Vec::new(), ..reply };
                self.reply("HEAD", bodiless, after).await
            }
            _ => {
                let mut reply = Reply::text(405, "only GET, HEAD and POST\n");
                // A constant without line ends is never refused.
                let _ = reply.headers.push("Allow", "GET, HEAD, POST");
                self.reply("other", reply, After::Linger).await
            }
        }
    }

    /// Head to `admit`, body to the sink, both to `receive`.
    async fn post(&mut self, parsed: Parsed) -> After {
        let Parsed {
            head,
            framing,
            keep,
            wants_continue,
        } = parsed;
        let Some(framing) = framing else {
            return self
                .reply("POST", Reply::text(411, "Content-Length is missing\n"), After::Linger)
                .await;
        };
        let length = if let Framing::Length(length) = framing {
            Some(length)
        } else {
            None
        };
        let arrival = self.arrival(head, length);
        let receiver = Arc::clone(&self.receiver);
        let mut sink = match receiver.admit(&arrival).await {
            Ok(sink) => sink,
            Err(reply) => return self.reply("POST", reply, After::Linger).await,
        };
        let waits = wants_continue && self.source.buffer.is_empty();
        let is_read = match self.body(framing, waits, &mut sink).await {
            Ok(is_read) => is_read,
            Err(cut) => {
                sink.broke_off().await;
                return match cut {
                    Cut::Gone => {
                        tracing::info!(peer = %self.peer, "the client went away inside a body");
                        After::Gone
                    }
                    Cut::Reply(reply) => self.reply("POST", reply, After::Linger).await,
                };
            }
        };
        let reply = receiver.receive(arrival, sink).await;
        let after = match is_read {
            false => After::Linger,
            // What follows chunks is where parsers disagree most; it is never read as a request.
            true if keep && framing != Framing::Chunked => After::Keep,
            true => After::Close,
        };
        self.reply("POST", reply, after).await
    }

    fn arrival(&self, head: RawHead, length: Option<u64>) -> Arrival {
        Arrival {
            head,
            peer: self.peer,
            tls: self.tls.is_some(),
            length,
            client_cert: self.tls.clone().flatten(),
        }
    }

    /// The body, into its sink; false if only some of it was read, since it does not matter to its answer. `waits`: its client does,
    /// for `100 Continue`.
    async fn body(&mut self, framing: Framing, waits: bool, sink: &mut R::Sink) -> Result<bool, Cut> {
        let matters = sink.matters();
        // A final answer may come in place of `100 Continue` (RFC 9110 §10.1.1).
        if !matters && (waits || matches!(framing, Framing::Length(length) if length > self.limits.glance)) {
            return Ok(false);
        }
        if waits && self.send(b"HTTP/1.1 100 Continue\r\n\r\n").await == After::Gone {
            return Err(Cut::Gone);
        }
        let mut decoder = Decoder::new(framing);
        let (began, mut ours, mut received) = (Instant::now(), Duration::ZERO, 0u64);
        loop {
            let step = decoder.step(&mut self.source.buffer).map_err(|why| {
                tracing::info!(peer = %self.peer, status = 400, why, "request refused");
                Cut::Reply(Reply::text(400, &format!("{why}\n")))
            })?;
            match step {
                Step::End => return Ok(true),
                Step::Piece(piece) => {
                    received += piece.len() as u64;
                    if !matters && received > self.limits.glance {
                        return Ok(false);
                    }
                    let handed = Instant::now();
                    sink.write(piece).await.map_err(Cut::Reply)?;
                    // Time that our own storage took is not the client's slowness.
                    ours += handed.elapsed();
                }
                Step::Starved => {
                    let earned = Duration::from_secs(received / self.limits.body_rate.max(1));
                    let by_rate = (began + ours + self.limits.body_grace + earned).min(Instant::now() + self.limits.body_stall);
                    let deadline = if matters {
                        by_rate
                    } else {
                        by_rate.min(began + self.limits.glance_time)
                    };
                    match timeout_at(deadline, self.source.fill()).await {
                        Ok(Ok(1..)) => {}
                        Ok(_) => return Err(Cut::Gone),
                        Err(_) if !matters => return Ok(false),
                        Err(_) => {
                            tracing::info!(peer = %self.peer, received, "the body came too slowly");
                            return Err(Cut::Reply(Reply::text(408, "the body comes too slowly\n")));
                        }
                    }
                }
            }
        }
    }

    /// Writes an answer; what follows is `wish`, but nothing is kept after an error or during a stop.
    async fn reply(&mut self, method: &'static str, reply: Reply, wish: After) -> After {
        let after = match wish {
            After::Keep if reply.status >= 400 || *self.stop.borrow() => After::Close,
            other => other,
        };
        let server = if method == "POST" { SERVER_VERSION } else { SERVER };
        self.receiver.answered(self.tls.is_some(), method, reply.status);
        let bytes = render(reply, server, after == After::Keep);
        match self.send(&bytes).await {
            After::Gone => After::Gone,
            _ => after,
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> After {
        let write = async {
            self.source.stream().write_all(bytes).await?;
            self.source.stream().flush().await
        };
        match timeout(self.limits.answer_time, write).await {
            Ok(Ok(())) => After::Keep,
            _ => After::Gone,
        }
    }

    /// A close with unread input would reset the connection and destroy the answer on its way: such input is dropped for
    /// some seconds (RFC 9112 §9.6).
    async fn close(mut self, linger: bool) {
        let deadline = Instant::now() + self.limits.linger_time;
        if !matches!(timeout_at(deadline, self.source.stream().shutdown()).await, Ok(Ok(()))) || !linger {
            return;
        }
        loop {
            self.source.buffer.clear();
            if !matches!(timeout_at(deadline, self.source.fill()).await, Ok(Ok(1..))) {
                return;
            }
        }
    }
}

/// An answer's bytes. Framing fields are ours alone, whatever the flow put into the headers.
fn render(mut reply: Reply, server: &str, keep: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(reply.body.len() + TYPICAL_HEAD);
    out.extend_from_slice(format!("HTTP/1.1 {} {}\r\n", reply.status, reason(reply.status)).as_bytes());
    if reply.headers.get("Date").is_none() {
        field(
            &mut out,
            "Date",
            &jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string(),
        );
    }
    if reply.headers.get("Server").is_none() {
        field(&mut out, "Server", server);
    }
    ["Content-Length", "Transfer-Encoding", "Connection"]
        .iter()
        .for_each(|own| reply.headers.remove(own));
    out.extend_from_slice(&reply.headers.to_bytes());
    // RFC 9110 §8.6: a 204 has no length.
    if reply.status != 204 {
        let length = reply
            .length
            .map_or_else(|| reply.body.len().to_string(), |length| length.to_string());
        field(&mut out, "Content-Length", &length);
    }
    if !keep {
        field(&mut out, "Connection", "close");
    }
    out.extend_from_slice(b"\r\n");
    if reply.status != 204 {
        out.extend_from_slice(&reply.body);
    }
    out
}

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    [name, ": ", value, "\r\n"]
        .iter()
        .for_each(|part| out.extend_from_slice(part.as_bytes()));
}

fn reason(status: u16) -> &'static str {
    match status {
        202 => "Accepted",
        204 => "No Content",
        200 | 201 | 203 | 205..300 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Error",
    }
}
