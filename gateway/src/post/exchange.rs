//! One request and its answer on a connection. The answer is listened for while the body goes out, because a server may
//! refuse early and close (RFC 9112 §9.5).

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use as2_core::headers::Headers;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use super::answer::{AnswerBody, AnswerHead, NoHead, read_head};
use super::connect::Connection;
use super::token::Authorization;
use super::wire::{Framing, PIECE, Source};
use super::{Answer, Body, PostError, Stage, Target, tls};
use crate::url::Url;

/// Longest answer that a probe reads.
const MAX_LOOK: usize = 16 * 1024;
/// How long an answer is looked for after the body could not be written.
const SALVAGE: Duration = Duration::from_secs(5);
/// For the goodbye at the end, which nobody waits for longer.
const GOODBYE: Duration = Duration::from_secs(1);
/// What to know where the request left and no answer came.
pub(crate) const MAY_HOLD: &str = "the partner may hold the message all the same";
/// Fields that only this file writes. A head that is posted again holds them already.
const OURS: [&str; 9] = [
    "Host",
    "Content-Length",
    "Transfer-Encoding",
    "Connection",
    "Expect",
    "TE",
    "Upgrade",
    "Authorization",
    "Proxy-Authorization",
];

/// Whether lines of this name are written here alone, so that others of that name are dropped.
pub(crate) fn is_ours(name: &str) -> bool {
    OURS.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// A request's head, as it is sent and as it may be shown.
pub(super) struct Request {
    head: Zeroizing<Vec<u8>>,
    shown: Vec<u8>,
    /// The answer has no body, whatever its head says.
    bodiless_answer: bool,
    /// The connection may serve another request.
    keep: bool,
}

/// An answer, and the connection if it may be used again.
pub(super) type Exchanged = (Answer, Option<Connection>);

impl Request {
    pub(super) fn post(
        target: &Target,
        url: &Url,
        headers: &Headers,
        length: u64,
        shown: Option<&Authorization>,
    ) -> Result<Self, PostError> {
        Self::build("POST", target, url, headers, Some(length), shown)
    }

    fn build(
        method: &'static str,
        target: &Target,
        url: &Url,
        headers: &Headers,
        length: Option<u64>,
        shown: Option<&Authorization>,
    ) -> Result<Self, PostError> {
        let plain_proxy = target.proxy.as_ref().filter(|_| !url.is_https());
        let path = if plain_proxy.is_some() {
            format!("{}{}", url.origin(), url.path_and_query())
        } else {
            url.path_and_query().to_owned()
        };
        let start = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
        let mut request = Request {
            head: Zeroizing::new(start.clone()),
            shown: start,
            bodiless_answer: method == "HEAD",
            keep: false,
        };
        request.field("Host", &url.authority())?;
        let mut theirs = headers.clone();
        for (name, value) in &target.headers {
            theirs
                .push(name, value)
                .map_err(|error| PostError::new(Stage::Url, error.to_string(), "look at the partner's own headers"))?;
        }
        OURS.iter().for_each(|own| theirs.remove(own));
        for line in theirs.to_bytes().split_inclusive(|byte| *byte == b'\n') {
            request.line(line)?;
        }
        if let Some(shown) = shown {
            request.secret("Authorization", &shown.value);
        }
        if let Some(auth) = plain_proxy.and_then(|proxy| proxy.auth.as_ref()) {
            request.secret("Proxy-Authorization", &basic(auth));
        }
        match length {
            Some(_) if target.chunked => request.field("Transfer-Encoding", "chunked")?,
            Some(length) => request.field("Content-Length", &length.to_string())?,
            None => {}
        }
        // Nothing said means that the connection stays (RFC 9112 §9.3).
        request.keep = target.keep_alive && method == "POST";
        if !request.keep {
            request.field("Connection", "close")?;
        }
        request.head.extend_from_slice(b"\r\n");
        request.shown.extend_from_slice(b"\r\n");
        Ok(request)
    }

    fn field(&mut self, name: &str, value: &str) -> Result<(), PostError> {
        self.line(format!("{name}: {value}\r\n").as_bytes())
    }

    /// A field with its CRLF; nothing in it may end it earlier.
    fn line(&mut self, line: &[u8]) -> Result<(), PostError> {
        let field = line
            .strip_suffix(b"\r\n")
            .filter(|field| !field.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        if field.is_none_or(|field| matches!(field.first(), None | Some(b' ' | b'\t' | b':'))) {
            let text = format!("a header may not be sent: {}", line.escape_ascii());
            return Err(PostError::new(Stage::Url, text, "look at the partner's own headers"));
        }
        for out in [&mut *self.head, &mut self.shown] {
            out.extend_from_slice(line);
        }
        Ok(())
    }

    /// `value` is base64, or a token that was checked, after its scheme; evidence shows that it was there, and no more.
    fn secret(&mut self, name: &str, value: &str) {
        let scheme = value.split(' ').next().unwrap_or_default();
        self.head
            .extend_from_slice(Zeroizing::new(format!("{name}: {value}\r\n")).as_bytes());
        self.shown.extend_from_slice(format!("{name}: {scheme} ***\r\n").as_bytes());
    }
}

/// RFC 7617.
pub(super) fn basic(auth: &(String, Zeroizing<String>)) -> Zeroizing<String> {
    let pair = Zeroizing::new(format!("{}:{}", auth.0, auth.1.as_str()));
    Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
}

/// A request without a body: to see whether somebody answers, or what.
pub(super) async fn look(
    target: &Target,
    url: &Url,
    connection: Connection,
    method: &'static str,
    headers: &Headers,
    shown: Option<&Authorization>,
) -> Result<Answer, PostError> {
    let request = Request::build(method, target, url, headers, None, shown)?;
    let (answer, _) = transact(target, connection, &request, None, MAX_LOOK).await?;
    Ok(answer)
}

/// Sends the request and reads the answer.
pub(super) async fn run(
    target: &Target,
    connection: Connection,
    request: &Request,
    body: Body,
    max_answer: usize,
) -> Result<Exchanged, PostError> {
    transact(target, connection, request, Some(body), max_answer).await
}

async fn transact(
    target: &Target,
    connection: Connection,
    request: &Request,
    body: Option<Body>,
    max_answer: usize,
) -> Result<Exchanged, PostError> {
    let (reader, mut writer) = tokio::io::split(connection.stream);
    let mut source = Source::new(reader);
    let (head, body_sent) = speak(target, request, body, &mut writer, &mut source).await?;
    let framing = if request.bodiless_answer {
        Framing::Length(0)
    } else {
        head.framing()
    };
    let read = read_body(&mut source, AnswerBody::new(framing, max_answer), target).await;
    let again = request.keep && body_sent && read.complete && head.leaves_no_doubt();
    let kept = match source.into_clean() {
        Some(reader) if again => Some(Connection {
            stream: reader.unsplit(writer),
            tls: connection.tls.clone(),
            ..connection
        }),
        _ => {
            // A goodbye is polite and never waited for: partners deadlock on it (as2.md Q32).
            let _ = timeout(GOODBYE, writer.shutdown()).await;
            None
        }
    };
    let answer = Answer {
        status: head.status,
        headers: head.headers,
        raw_head: head.raw,
        body: read.bytes,
        complete: read.complete,
        until_close: framing == Framing::UntilClose,
        over_limit: read.over_limit,
        tls: connection.tls,
        sent_head: request.shown.clone(),
        body_sent,
        twice: false,
    };
    Ok((answer, kept))
}

/// Sends the request while it listens; gives the answer's head, and whether the whole request left.
async fn speak<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    target: &Target,
    request: &Request,
    body: Option<Body>,
    writer: &mut W,
    source: &mut Source<R>,
) -> Result<(AnswerHead, bool), PostError> {
    let mut sending = std::pin::pin!(send(writer, &request.head, body, target));
    let mut reading = std::pin::pin!(read_head(source));
    // The sender is asked first, so that a body that is out counts as sent.
    let first = tokio::select! {
        biased;
        outcome = &mut sending => Err(outcome),
        head = &mut reading => Ok(head),
    };
    let broke_off = |why: &dyn fmt::Display, unanswered| PostError {
        unanswered,
        ..PostError::new(Stage::Send, format!("sending broke off: {why}"), "")
    };
    let no_head = |none: &NoHead, why: &dyn fmt::Display| match tls::refused(target, &none.why) {
        Some((text, hint)) => PostError::new(Stage::Send, text, hint),
        None => broke_off(why, none.silent),
    };
    match first {
        Err(Ok(())) => Ok((await_head(target, reading).await?, true)),
        Err(Err(why)) => match timeout(SALVAGE, reading).await {
            Ok(Ok(head)) => Ok((head, false)),
            Ok(Err(none)) => Err(no_head(&none, &why)),
            Err(_) => Err(broke_off(&why, false)),
        },
        Ok(Err(none)) => Err(no_head(&none, &none.why)),
        // Refused early: the rest of the body is not wanted.
        Ok(Ok(head)) if head.status >= 300 => Ok((head, false)),
        Ok(Ok(head)) => Ok((head, sending.await.is_ok())),
    }
}

async fn await_head(target: &Target, reading: impl Future<Output = Result<AnswerHead, NoHead>>) -> Result<AnswerHead, PostError> {
    let failed = |why: String, unanswered| {
        let refused = tls::refused(target, &why);
        // Whoever refuses our certificate has not ended the handshake, and read no request.
        let body_sent = refused.is_none();
        let (text, hint) = refused.unwrap_or_else(|| (why, MAY_HOLD.to_owned()));
        PostError {
            body_sent,
            unanswered,
            ..PostError::new(Stage::Head, text, hint)
        }
    };
    match timeout(target.response_timeout, reading).await {
        Ok(Ok(head)) => Ok(head),
        Ok(Err(none)) => Err(failed(none.why, none.silent)),
        Err(_) => {
            let why = format!("no answer within {} s", target.response_timeout.as_secs());
            Err(failed(why, false))
        }
    }
}

/// Head, then body, in exactly the announced length.
async fn send<W: AsyncWrite + Unpin>(writer: &mut W, head: &[u8], body: Option<Body>, target: &Target) -> io::Result<()> {
    let mut out = Out {
        writer,
        patience: target.progress_timeout,
        chunked: target.chunked && body.is_some(),
    };
    match body {
        // One packet, or one TLS record, where there would be two: the other side wakes up once.
        Some(Body::Bytes(bytes)) if !out.chunked && bytes.len() <= PIECE => {
            out.write(&Zeroizing::new([head, bytes.as_ref()].concat())).await?;
        }
        None => out.write(head).await?,
        Some(Body::Bytes(bytes)) => {
            out.write(head).await?;
            for piece in bytes.chunks(PIECE) {
                out.piece(piece).await?;
            }
        }
        Some(Body::File { file, from, len }) => {
            out.write(head).await?;
            out.file(file, from, len).await?;
        }
    }
    out.end().await
}

struct Out<'a, W> {
    writer: &'a mut W,
    patience: Duration,
    chunked: bool,
}

impl<W: AsyncWrite + Unpin> Out<'_, W> {
    /// Every byte that leaves starts the patience anew.
    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = timeout(self.patience, self.writer.write(bytes))
                .await
                .map_err(|_| self.stalled())??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    fn stalled(&self) -> io::Error {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the server took nothing for {} s", self.patience.as_secs()),
        )
    }

    async fn piece(&mut self, piece: &[u8]) -> io::Result<()> {
        if !self.chunked {
            return self.write(piece).await;
        }
        self.write(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
        self.write(piece).await?;
        self.write(b"\r\n").await
    }

    /// The next piece is read from the disk while the last one goes out.
    async fn file(&mut self, file: File, from: u64, len: u64) -> io::Result<()> {
        let (file, end) = (std::sync::Arc::new(file), from + len);
        let read = |at: u64| {
            let file = std::sync::Arc::clone(&file);
            let length = usize::try_from(end - at).map_or(PIECE, |left| left.min(PIECE));
            tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; length];
                file.read_exact_at(&mut piece, at)?;
                Ok::<_, io::Error>(Bytes::from(piece))
            })
        };
        if len == 0 {
            return Ok(());
        }
        let (mut at, mut next) = (from, read(from));
        loop {
            let piece = next
                .await
                .map_err(io::Error::other)?
                .map_err(|error| io::Error::new(error.kind(), format!("our own file: {error}")))?;
            at += piece.len() as u64;
            if at >= end {
                return self.piece(&piece).await;
            }
            next = read(at);
            self.piece(&piece).await?;
        }
    }

    async fn end(&mut self) -> io::Result<()> {
        if self.chunked {
            self.write(b"0\r\n\r\n").await?;
        }
        timeout(self.patience, self.writer.flush()).await.map_err(|_| self.stalled())?
    }
}

async fn read_body<R: AsyncRead + Unpin>(source: &mut Source<R>, mut body: AnswerBody, target: &Target) -> AnswerBody {
    let deadline = Instant::now() + target.response_timeout;
    while !body.take(&mut source.buffer) {
        match timeout_at(deadline.min(Instant::now() + target.progress_timeout), source.fill()).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(_)) => {
                body.end();
                break;
            }
            Ok(Err(_)) | Err(_) => break,
        }
    }
    body
}

/// The status of a proxy's answer to CONNECT.
pub(super) async fn tunnel_status<R: AsyncRead + Unpin>(stream: &mut R) -> Result<u16, String> {
    let mut source = Source::new(stream);
    let head = read_head(&mut source).await.map_err(|none| none.why)?;
    // The server speaks second in TLS: nothing may have come yet.
    if (200..300).contains(&head.status) && !source.buffer.is_empty() {
        return Err("it sends more than an answer".to_owned());
    }
    Ok(head.status)
}
