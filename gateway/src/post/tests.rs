//! The client, against our own server and against servers that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Seek, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{Ssl, SslAcceptor, SslMethod};
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509NameBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_openssl::SslStream;

use super::*;
use crate::config::ClientAuth;
use crate::http::{self, Arrival, Limits, Receive, Reply, ServerTls, Sink, TlsAcceptor};

pub(super) fn target(url: String) -> Target {
    Target {
        partner: "BIGMART".to_owned(),
        total_timeout: None,
        url,
        tls: TlsMode::Default,
        pinned: Vec::new(),
        client_identity: None,
        credentials: None,
        headers: Vec::new(),
        allow_private: true,
        proxy: None,
        connect_timeout: Duration::from_secs(5),
        progress_timeout: Duration::from_secs(5),
        response_timeout: Duration::from_secs(5),
        chunked: false,
        keep_alive: false,
    }
}

pub(super) fn message() -> Headers {
    Headers::parse(b"AS2-Version: 1.2\r\naS2-fRoM: \"a  b\"\r\nContent-Length: 99\r\nHost: old\r\nAuthorization: Basic ***\r\nContent-Type: text/plain\r\n").unwrap()
}

/// A server that says `answer` once it has read `until`, then closes. Returns its URL and what it read.
async fn scripted(until: &'static str, answer: &'static str) -> (String, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/as2?q=1", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        let mut piece = [0u8; 4096];
        while !read.windows(until.len()).any(|window| window == until.as_bytes()) {
            match stream.read(&mut piece).await.unwrap() {
                0 => break,
                n => read.extend_from_slice(&piece[..n]),
            }
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        // What the client has still under way is read, so that the answer is not lost in a reset.
        let _ = tokio::time::timeout(Duration::from_secs(2), tokio::io::copy(&mut stream, &mut tokio::io::sink())).await;
        read
    });
    (url, task)
}

async fn ask(until: &'static str, answer: &'static str) -> Result<Answer, PostError> {
    let (url, _task) = scripted(until, answer).await;
    Poster::new()
        .post(&target(url), &message(), Body::Bytes(Bytes::from_static(b"hello")), 100)
        .await
}

#[tokio::test]
async fn a_question_ends_with_the_time_for_all_of_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = Target {
        total_timeout: Some(Duration::from_millis(300)),
        ..target(format!("http://{}/as2", listener.local_addr().unwrap()))
    };
    let began = std::time::Instant::now();
    let error = Poster::new().ask(&silent, &message()).await.unwrap_err();
    assert!(error.text.starts_with("not done within"), "{error}");
    assert_eq!(error.stage, Stage::Head, "somebody was there");
    assert!(began.elapsed() < Duration::from_secs(3));
}

/// Adds up a body and tells what it saw.
#[derive(Default)]
pub(super) struct Flow {
    pub(super) seen: Mutex<Vec<Arrival>>,
}

pub(super) struct Summing(u64, openssl::sha::Sha256);

impl Sink for Summing {
    async fn write(&mut self, piece: Bytes) -> Result<(), Reply> {
        self.0 += piece.len() as u64;
        self.1.update(&piece);
        Ok(())
    }
}

impl Receive for Flow {
    type Sink = Summing;
    async fn admit(&self, arrival: &Arrival) -> Result<Summing, Reply> {
        if arrival.head.target == "/big" {
            Err(Reply::text(413, "too big\n"))
        } else {
            Ok(Summing(0, openssl::sha::Sha256::new()))
        }
    }
    async fn receive(&self, arrival: Arrival, sink: Summing) -> Reply {
        self.seen.lock().unwrap().push(arrival);
        Reply::text(200, &format!("{} {}", sink.0, hex(&sink.1.finish())))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) struct Server {
    pub(super) port: u16,
    pub(super) flow: Arc<Flow>,
    _stop: watch::Sender<bool>,
}

pub(super) async fn server(tls: Option<TlsAcceptor>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let flow = Arc::new(Flow::default());
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(http::serve(listener, tls, Arc::clone(&flow), Limits::new(0), stopped));
    Server { port, flow, _stop: stop }
}

fn self_signed(name: &str) -> (X509, PKey<Private>) {
    let key = PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap()).unwrap()).unwrap();
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(&subject).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    let names = SubjectAlternativeName::new()
        .dns(name)
        .build(&builder.x509v3_context(None, None))
        .unwrap();
    builder.append_extension(names).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    (builder.build(), key)
}

pub(super) fn acceptor(name: &str, client_auth: ClientAuth, client_cas: Vec<Vec<u8>>) -> (TlsAcceptor, Vec<u8>) {
    let (certificate, key) = self_signed(name);
    let settings = ServerTls {
        cert_pem: certificate.to_pem().unwrap(),
        key_pem: Zeroizing::new(key.private_key_to_pem_pkcs8().unwrap()),
        client_auth,
        client_cas,
    };
    (TlsAcceptor::new(&settings).unwrap(), certificate.to_der().unwrap())
}

#[tokio::test]
async fn the_head_goes_out_as_given() {
    let (url, task) = scripted(
        "hello",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-y: Z\r\nContent-Length: 2\r\n\r\nhi",
    )
    .await;
    let host = url.split('/').nth(2).unwrap().to_owned();
    let mut target = target(url);
    target.credentials = Some(Credentials::Basic(("us\u{e9}r".to_owned(), Zeroizing::new("pass:word".to_owned()))));
    target.headers = vec![("X-Hub".to_owned(), "7".to_owned())];
    let answer = Poster::new()
        .post(&target, &message(), Body::Bytes(Bytes::from_static(b"hello")), 100)
        .await
        .unwrap();
    let head = format!(
        "POST /as2?q=1 HTTP/1.1\r\nHost: {host}\r\nAS2-Version: 1.2\r\naS2-fRoM: \"a  b\"\r\nContent-Type: text/plain\r\nX-Hub: 7\r\nAuthorization: Basic dXPDqXI6cGFzczp3b3Jk\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(String::from_utf8(task.await.unwrap()).unwrap(), format!("{head}hello"));
    assert_eq!(
        String::from_utf8(answer.sent_head).unwrap(),
        head.replace("dXPDqXI6cGFzczp3b3Jk", "***")
    );
    assert_eq!(
        (answer.status, answer.body.as_slice(), answer.complete, answer.body_sent),
        (200, &b"hi"[..], true, true)
    );
    assert_eq!(answer.raw_head, b"HTTP/1.1 200 OK\r\nX-y: Z\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(answer.headers.get("x-Y"), Some("Z"));
}

#[tokio::test]
async fn answers_of_every_framing() {
    let whole = |answer: Answer| (answer.body, answer.complete, answer.over_limit);
    let chunked = ask("hello", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(whole(chunked), (b"hi".to_vec(), true, false));
    let bare = ask("hello", "HTTP/1.0 200\nX: folded\n over\n\nuntil close").await.unwrap();
    assert_eq!(bare.headers.get("X"), Some("folded over"));
    assert_eq!(whole(bare), (b"until close".to_vec(), true, false));
    assert_eq!(
        whole(ask("hello", "HTTP/1.1 204 No Content\r\n\r\n").await.unwrap()),
        (Vec::new(), true, false)
    );
    assert_eq!(
        whole(ask("hello", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut").await.unwrap()),
        (b"cut".to_vec(), false, false)
    );
    assert_eq!(
        whole(
            ask("hello", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ncut")
                .await
                .unwrap()
        ),
        (b"cut".to_vec(), false, false)
    );
    let long =
        "HTTP/1.1 200 OK\r\n\r\n0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789XYZ";
    let long = ask("hello", long).await.unwrap();
    assert!(long.over_limit && !long.complete && long.body.len() == 100);
}

#[tokio::test]
async fn answers_with_flaws_in_their_heads() {
    for flaw in [
        "Content-Length: 2, 2\r\n",
        "Content-Length: 2\r\ncontent-length: 02\r\n",
        "Transfer-Encoding: identity\r\nContent-Length: 2\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: Chunked\r\n",
        "X-Powered-By : old\r\n  folded : so\r\nContent-Length: 2\r\n",
        "Content-Length \t: 2\r\n",
        "Some junk\r\n folded: so\r\nContent-Length: 2\r\n",
        ": nameless\r\nX: stray\rCR\r\nContent-Length: 2\r\n",
    ] {
        let body = if flaw.contains("Chunked") {
            "2\r\nhi\r\n0\r\n\r\n"
        } else {
            "hithere"
        };
        let text: &'static str = format!("HTTP/1.1 200 OK\r\n{flaw}Content-Type: text/plain\r\n\r\n{body}").leak();
        let answer = ask("hello", text).await.unwrap();
        assert_eq!((answer.body.as_slice(), answer.complete), (&b"hi"[..], true), "{flaw:?}");
        assert_eq!(answer.headers.get("Content-Type"), Some("text/plain"), "{flaw:?}");
        assert!(!answer.headers.iter().any(|(_, value)| value.contains("folded: so")), "{flaw:?}");
    }
    let many: &'static str = format!("Some junk\r\n{}", "X: y\r\n".repeat(201)).leak();
    for flaw in ["Content-Length: 2, 3\r\n", "Content-Length: 2\r\nContent-Length: 3\r\n", many] {
        let error = ask("hello", format!("HTTP/1.1 200 OK\r\n{flaw}\r\nhi").leak()).await.unwrap_err();
        assert_eq!((error.stage, error.body_sent), (Stage::Head, true), "{flaw:?}: {error}");
    }
}

#[tokio::test]
async fn interim_answers_count_by_their_bytes() {
    let interim = "HTTP/1.1 102 Processing\r\n\r\n";
    let answers = |bytes: usize| -> &'static str {
        let many = interim.repeat(bytes / interim.len());
        format!("{many}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").leak()
    };
    assert_eq!(ask("hello", answers(answer::MAX_INTERIM)).await.unwrap().body, b"hi");
    let error = ask("hello", answers(answer::MAX_INTERIM + 2 * interim.len())).await.unwrap_err();
    assert!(error.text.contains("nothing but interim answers") && error.body_sent, "{error}");
}

/// Posts to a TLS server that says `answer` and closes, with close_notify or without.
async fn ask_over_tls(answer: &'static str, goodbye: bool) -> Result<Answer, PostError> {
    let (certificate, key) = self_signed("localhost");
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    builder.set_certificate(&certificate).unwrap();
    builder.set_private_key(&key).unwrap();
    let acceptor = builder.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut target = target(format!("https://{}/", listener.local_addr().unwrap()));
    target.pinned = vec![certificate.to_der().unwrap()];
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = SslStream::new(Ssl::new(acceptor.context()).unwrap(), stream).unwrap();
        Pin::new(&mut stream).accept().await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"hello") {
            read.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        if goodbye {
            stream.shutdown().await.unwrap();
        }
    });
    Poster::new()
        .post(&target, &message(), Body::Bytes(Bytes::from_static(b"hello")), 100)
        .await
}

#[tokio::test]
async fn without_close_notify_only_an_announced_end_is_one() {
    for (head, until_close) in [("", true), ("Content-Length: 3\r\n", false)] {
        let text: &'static str = format!("HTTP/1.1 200 OK\r\n{head}\r\nall").leak();
        for goodbye in [true, false] {
            let answer = ask_over_tls(text, goodbye).await.unwrap();
            assert_eq!(answer.body, b"all");
            assert_eq!(
                (answer.complete, answer.until_close),
                (goodbye || !until_close, until_close),
                "{head:?}, {goodbye}"
            );
        }
    }
    for (text, end) in [("", "without an answer"), ("HTTP/1.1 2", "inside the head of its answer")] {
        let error = ask_over_tls(text, false).await.unwrap_err();
        assert!(error.text.ends_with(end), "{error}");
        assert_eq!((error.stage, error.unanswered), (Stage::Head, text.is_empty()));
    }
}

#[tokio::test]
async fn servers_without_a_good_answer() {
    for answer in [
        "",
        "HTTP/1.1 2",
        "SMTP ready\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 099 X\r\n\r\n",
    ] {
        let error = ask("hello", answer).await.unwrap_err();
        assert_eq!(
            (error.stage, error.body_sent, error.retry),
            (Stage::Head, true, true),
            "{answer:?}: {error}"
        );
    }
    let (url, _task) = scripted("never", "").await;
    let mut target = target(url);
    target.response_timeout = Duration::from_millis(200);
    let error = Poster::new()
        .post(&target, &message(), Body::Bytes(Bytes::from_static(b"hello")), 100)
        .await
        .unwrap_err();
    assert_eq!((error.stage, error.body_sent), (Stage::Head, true), "{error}");
}

#[tokio::test]
async fn a_refusal_before_the_end_of_the_body_is_heard() {
    let server = server(None).await;
    let mut file = tempfile::tempfile().unwrap();
    file.set_len(64 << 20).unwrap();
    file.flush().unwrap();
    let answer = Poster::new()
        .post(
            &target(format!("http://127.0.0.1:{}/big", server.port)),
            &message(),
            Body::File {
                file,
                from: 0,
                len: 64 << 20,
            },
            100,
        )
        .await
        .unwrap();
    assert_eq!(
        (answer.status, answer.body.as_slice(), answer.body_sent),
        (413, &b"too big\n"[..], false)
    );
}

#[tokio::test]
async fn a_server_that_hangs_up_got_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { drop(listener.accept().await) });
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 << 20).unwrap();
    let error = Poster::new()
        .post(
            &target(url),
            &message(),
            Body::File {
                file,
                from: 0,
                len: 64 << 20,
            },
            100,
        )
        .await
        .unwrap_err();
    assert_eq!((error.stage, error.body_sent), (Stage::Send, false), "{error}");
}

#[tokio::test]
async fn a_server_that_stops_reading_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut target = target(format!("http://{}/", listener.local_addr().unwrap()));
    target.progress_timeout = Duration::from_millis(300);
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 << 20).unwrap();
    let held = tokio::spawn(async move {
        let held = listener.accept().await;
        tokio::time::sleep(Duration::from_secs(7)).await;
        drop(held);
    });
    let error = Poster::new()
        .post(
            &target,
            &message(),
            Body::File {
                file,
                from: 0,
                len: 64 << 20,
            },
            100,
        )
        .await
        .unwrap_err();
    assert_eq!((error.stage, error.body_sent), (Stage::Send, false), "{error}");
    held.abort();
}

#[tokio::test]
async fn big_files_arrive_whole_in_both_framings() {
    const SIZE: u64 = (64 << 20) + 12_345;
    let (acceptor, der) = acceptor("as2.example", ClientAuth::None, Vec::new());
    let (plain, secure) = (server(None).await, server(Some(acceptor)).await);
    let mut file = tempfile::tempfile().unwrap();
    let mut sum = openssl::sha::Sha256::new();
    let mut block = vec![0u8; 1 << 20];
    for at in (0..SIZE).step_by(block.len()) {
        openssl::rand::rand_bytes(&mut block).unwrap();
        let length = (SIZE - at).min(block.len() as u64) as usize;
        file.write_all(&block[..length]).unwrap();
        sum.update(&block[..length]);
    }
    file.rewind().unwrap();
    let expected = format!("{SIZE} {}", hex(&sum.finish()));
    for (url, chunked) in [
        (format!("http://127.0.0.1:{}/", plain.port), false),
        (format!("http://127.0.0.1:{}/", plain.port), true),
        (format!("https://127.0.0.1:{}/", secure.port), false),
    ] {
        let mut target = target(url);
        (target.chunked, target.pinned) = (chunked, vec![der.clone()]);
        let answer = Poster::new()
            .post(
                &target,
                &message(),
                Body::File {
                    from: 0,
                    file: file.try_clone().unwrap(),
                    len: SIZE,
                },
                100,
            )
            .await
            .unwrap();
        assert_eq!(String::from_utf8(answer.body).unwrap(), expected);
        assert_eq!(answer.tls.is_some(), target.url.starts_with("https"));
    }
    assert_eq!(
        plain
            .flow
            .seen
            .lock()
            .unwrap()
            .iter()
            .map(|arrival| arrival.length)
            .collect::<Vec<_>>(),
        [Some(SIZE), None]
    );
    assert!(secure.flow.seen.lock().unwrap()[0].tls);
}

#[tokio::test]
async fn a_file_that_shrank_is_not_padded() {
    let server = server(None).await;
    let file = tempfile::tempfile().unwrap();
    file.set_len(1000).unwrap();
    let mut target = target(format!("http://127.0.0.1:{}/", server.port));
    target.response_timeout = Duration::from_millis(300);
    let error = Poster::new()
        .post(&target, &message(), Body::File { file, from: 0, len: 2000 }, 100)
        .await
        .unwrap_err();
    assert_eq!((error.stage, error.body_sent), (Stage::Send, false), "{error}");
    assert!(server.flow.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn only_pinned_or_known_certificates_are_trusted() {
    let (acceptor, der) = acceptor("localhost", ClientAuth::None, Vec::new());
    let server = server(Some(acceptor)).await;
    let post = async |pinned: Vec<Vec<u8>>, tls: TlsMode| {
        let mut target = target(format!("https://127.0.0.1:{}/", server.port));
        (target.pinned, target.tls) = (pinned, tls);
        Poster::new()
            .post(&target, &message(), Body::Bytes(Bytes::from_static(b"hello")), 100)
            .await
    };
    let other = self_signed("localhost").0.to_der().unwrap();
    let good = post(vec![other.clone(), der.clone()], TlsMode::Default).await.unwrap();
    assert!(good.tls.unwrap().starts_with("TLSv1.3 TLS_"));
    assert_eq!(post(vec![der], TlsMode::Legacy).await.unwrap().status, 200);
    for (pinned, words) in [(vec![other], "not the one pinned"), (Vec::new(), "not trusted")] {
        let error = post(pinned, TlsMode::Default).await.unwrap_err();
        assert_eq!((error.stage, error.body_sent), (Stage::TlsTrust, false), "{error}");
        assert!(
            error.text.contains(words) && error.text.contains("SHA-256") && !error.hint.is_empty(),
            "{error}"
        );
    }
    assert_eq!(server.flow.seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn client_certificates() {
    let (ours, key) = self_signed("client");
    let identity = ClientIdentity {
        cert_chain: vec![ours.to_der().unwrap()],
        pkcs8: Zeroizing::new(key.private_key_to_pkcs8().unwrap()),
    };
    let (strict, strict_der) = acceptor("localhost", ClientAuth::Required, vec![ours.to_der().unwrap()]);
    let (open, open_der) = acceptor("localhost", ClientAuth::Optional, vec![ours.to_der().unwrap()]);
    let (strict, open) = (server(Some(strict)).await, server(Some(open)).await);
    let post = async |port: u16, pinned: &Vec<u8>, identity: Option<ClientIdentity>| {
        let mut target = target(format!("https://127.0.0.1:{port}/"));
        (target.pinned, target.client_identity) = (vec![pinned.clone()], identity);
        Poster::new()
            .post(&target, &message(), Body::Bytes(Bytes::from_static(b"hello")), 100)
            .await
    };
    assert_eq!(post(strict.port, &strict_der, Some(identity.clone())).await.unwrap().status, 200);
    assert_eq!(strict.flow.seen.lock().unwrap()[0].client_cert, Some(ours.to_der().unwrap()));
    let refused = post(strict.port, &strict_der, None).await.unwrap_err();
    assert_eq!(refused.text, "the server wants a client certificate of ours");
    assert!(!refused.body_sent);
    assert!(refused.hint.contains("--client-certificate NAME"), "{}", refused.hint);
    let (other, other_key) = self_signed("client");
    let other = ClientIdentity {
        cert_chain: vec![other.to_der().unwrap()],
        pkcs8: Zeroizing::new(other_key.private_key_to_pkcs8().unwrap()),
    };
    let refused = post(strict.port, &strict_der, Some(other)).await.unwrap_err();
    assert!(
        refused.text.starts_with("the server does not take our client certificate: "),
        "{refused}"
    );
    assert!(!refused.body_sent);
    assert_eq!(strict.flow.seen.lock().unwrap().len(), 1);
    assert_eq!(post(open.port, &open_der, None).await.unwrap().status, 200);
    assert_eq!(post(open.port, &open_der, Some(identity)).await.unwrap().status, 200);
}

/// A TLS 1.2 server that is older than RFC 5746 says hello, and tells what it then got.
async fn hello_from_an_old_server() -> (String, tokio::task::JoinHandle<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut record = [0; 5];
        stream.read_exact(&mut record).await.unwrap();
        let mut hello = vec![0; usize::from(u16::from_be_bytes([record[3], record[4]]))];
        stream.read_exact(&mut hello).await.unwrap();
        // ServerHello without extensions: no session, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, no compression.
        let random = [7; 32];
        let body = [&[3, 3], &random[..], &[0, 0xc0, 0x2f, 0]].concat();
        let hello = [&[22, 3, 3, 0, 42, 2, 0, 0, 38], &body[..]].concat();
        stream.write_all(&hello).await.unwrap();
        stream.shutdown().await.unwrap();
        // The type of the record: 21 is an alert; who waited for the certificate says nothing.
        stream.read_u8().await.unwrap_or(0)
    });
    (url, task)
}

#[tokio::test]
async fn servers_without_secure_renegotiation_are_for_the_legacy_mode() {
    for (tls, record) in [(TlsMode::Default, 21), (TlsMode::Legacy, 0)] {
        let (url, task) = hello_from_an_old_server().await;
        let mut target = target(url);
        target.tls = tls;
        let error = Poster::new()
            .post(&target, &message(), Body::Bytes(Bytes::new()), 100)
            .await
            .unwrap_err();
        assert_eq!(task.await.unwrap(), record, "{error}");
        assert_eq!((error.stage, error.body_sent), (Stage::Tls, false));
        let legacy = error.hint.contains("RFC 5746") && error.hint.ends_with("partner set BIGMART --tls legacy");
        assert_eq!(legacy, record == 21, "{error}: {}", error.hint);
    }
}

#[tokio::test]
async fn tls_to_a_plain_port_and_ports_without_anybody() {
    let (url, _task) = scripted("x", "HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let error = Poster::new()
        .post(&target(url.replace("http:", "https:")), &message(), Body::Bytes(Bytes::new()), 100)
        .await
        .unwrap_err();
    assert_eq!(error.stage, Stage::Tls, "{error}");
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = Poster::new()
        .post(&target(format!("http://{free}/")), &message(), Body::Bytes(Bytes::new()), 100)
        .await
        .unwrap_err();
    assert_eq!((error.stage, error.retry), (Stage::Connect, true), "{error}");
    let error = Poster::new()
        .post(
            &target("http://no-such-host.invalid/".to_owned()),
            &message(),
            Body::Bytes(Bytes::new()),
            100,
        )
        .await
        .unwrap_err();
    assert_eq!(error.stage, Stage::Resolve, "{error}");
}

#[tokio::test]
async fn inner_addresses_are_denied_in_every_spelling() {
    for host in [
        "127.0.0.1",
        "localhost",
        "localhost.",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "10.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
    ] {
        let mut target = target(format!("http://{host}:9/"));
        target.allow_private = false;
        // A proxy would read these as we do; it is not even connected to.
        let proxy = Proxy {
            url: "http://127.0.0.1:9".to_owned(),
            auth: None,
        };
        for proxy in [None, Some(proxy)] {
            target.proxy = proxy;
            let error = Poster::new()
                .post(&target, &message(), Body::Bytes(Bytes::new()), 100)
                .await
                .unwrap_err();
            assert_eq!((error.stage, error.retry), (Stage::Denied, false), "{host}: {error}");
        }
    }
}

#[tokio::test]
async fn headers_cannot_be_injected() {
    let mut target = target("http://127.0.0.1:9/".to_owned());
    target.headers = vec![("X".to_owned(), "a\r\nY: b".to_owned())];
    let error = Poster::new()
        .post(&target, &message(), Body::Bytes(Bytes::new()), 100)
        .await
        .unwrap_err();
    assert_eq!(error.stage, Stage::Url, "{error}");
}

/// A proxy that knows one password and passes bytes to where it was told.
async fn proxy() -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let mut heads = Vec::new();
        for _ in 0..3 {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let (line, authority) = (
                head.lines().next().unwrap().to_owned(),
                head.split(' ').nth(1).unwrap().replace("http://", ""),
            );
            heads.push(line);
            if !head.contains("Proxy-Authorization: Basic dTpw\r\n") {
                client.write_all(b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                continue;
            }
            let mut server = TcpStream::connect(authority.split('/').next().unwrap()).await.unwrap();
            if head.starts_with("CONNECT") {
                client.write_all(b"HTTP/1.1 200 Go\r\n\r\n").await.unwrap();
            } else {
                server.write_all(head.as_bytes()).await.unwrap();
            }
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
        heads
    });
    (url, task)
}

#[tokio::test]
async fn proxies_for_both_schemes() {
    let (acceptor, der) = acceptor("localhost", ClientAuth::None, Vec::new());
    let (plain, secure) = (server(None).await, server(Some(acceptor)).await);
    let (proxy_url, task) = proxy().await;
    let post = async |url: String, password: &str| {
        let mut target = target(url);
        target.pinned = vec![der.clone()];
        target.proxy = Some(Proxy {
            url: proxy_url.clone(),
            auth: Some(("u".to_owned(), Zeroizing::new(password.to_owned()))),
        });
        Poster::new()
            .post(&target, &message(), Body::Bytes(Bytes::from_static(b"hello")), 100)
            .await
    };
    let (http, https) = (
        format!("http://127.0.0.1:{}/a", plain.port),
        format!("https://127.0.0.1:{}/b", secure.port),
    );
    assert_eq!(post(http.clone(), "p").await.unwrap().status, 200);
    assert_eq!(post(https.clone(), "p").await.unwrap().status, 200);
    let error = post(https, "wrong").await.unwrap_err();
    assert_eq!(error.stage, Stage::Connect, "{error}");
    assert!(error.text.contains("407"));
    let heads = task.await.unwrap();
    let connect = format!("CONNECT 127.0.0.1:{} HTTP/1.1", secure.port);
    assert_eq!(heads, [format!("POST {http} HTTP/1.1"), connect.clone(), connect]);
}

#[tokio::test]
async fn a_probe_tells_how_far_it_came() {
    let (acceptor, der) = acceptor("localhost", ClientAuth::None, Vec::new());
    let server = server(Some(acceptor)).await;
    let mut target = target(format!("https://localhost:{}/as2", server.port));
    let names = |steps: &[ProbeStep]| steps.iter().map(|step| (step.step, step.ok)).collect::<Vec<_>>();
    let steps = Poster::new().probe(&target).await;
    assert_eq!(
        names(&steps),
        [
            (Probe::Url, true),
            (Probe::Resolve, true),
            (Probe::Connect, true),
            (Probe::Tls, false)
        ],
        "{steps:?}"
    );
    target.pinned = vec![der];
    let steps = Poster::new().probe(&target).await;
    assert_eq!(
        names(&steps),
        [
            (Probe::Url, true),
            (Probe::Resolve, true),
            (Probe::Connect, true),
            (Probe::Tls, true),
            (Probe::Answer, true)
        ],
        "{steps:?}"
    );
    assert_eq!(steps[4].detail, "HTTP 200");
    assert!(steps[3].detail.contains("TLSv1.3") && steps[3].detail.contains("localhost (until "));
    assert!(server.flow.seen.lock().unwrap().is_empty());
}
