//! Connections that are used again, and those that must not be: against servers that tell how often somebody came.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::tests::{acceptor, message, server, target};
use super::*;
use crate::config::ClientAuth;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// A server that gives the n-th request on a connection the n-th of its answers; one that is empty, or lacking, closes the
/// connection. It counts connections and whole requests.
struct Server {
    port: u16,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    async fn start(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server {
            port: listener.local_addr().unwrap().port(),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let (connections, requests) = (Arc::clone(&server.connections), Arc::clone(&server.requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, answers, Arc::clone(&requests)));
            }
        });
        server
    }

    fn target(&self) -> Target {
        Target {
            keep_alive: true,
            response_timeout: Duration::from_secs(1),
            ..target(format!("http://127.0.0.1:{}/as2", self.port))
        }
    }

    /// Connections, requests.
    fn seen(&self) -> (usize, usize) {
        (self.connections.load(Ordering::SeqCst), self.requests.load(Ordering::SeqCst))
    }
}

async fn serve(mut stream: TcpStream, answers: &'static [&'static str], requests: Arc<AtomicUsize>) {
    for answer in answers {
        if !read_one(&mut stream, &requests).await {
            return;
        }
        if stream.write_all(answer.as_bytes()).await.is_err() || answer.is_empty() {
            return;
        }
    }
}

/// Reads a request and counts it; false at the end of the connection.
async fn read_one(stream: &mut TcpStream, requests: &AtomicUsize) -> bool {
    let mut read = Vec::new();
    while !read.ends_with(b"hello") {
        match stream.read_u8().await {
            Ok(byte) => read.push(byte),
            Err(_) => return false,
        }
    }
    requests.fetch_add(1, Ordering::SeqCst);
    true
}

async fn post(poster: &Poster, target: &Target) -> Result<Answer, PostError> {
    poster
        .post(target, &message(), Body::Bytes(Bytes::from_static(b"hello")), 100)
        .await
}

#[tokio::test]
async fn one_connection_serves_many_posts() {
    let server = Server::start(&[OK; 10]).await;
    let poster = Poster::new();
    for _ in 0..10 {
        let answer = post(&poster, &server.target()).await.unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"hi"[..]));
        assert!(!String::from_utf8(answer.sent_head).unwrap().contains("Connection"));
    }
    assert_eq!(server.seen(), (1, 10));
    let without = Target {
        keep_alive: false,
        ..server.target()
    };
    assert!(
        String::from_utf8(post(&poster, &without).await.unwrap().sent_head)
            .unwrap()
            .contains("\r\nConnection: close\r\n")
    );
    assert_eq!(server.seen(), (2, 11));
}

#[tokio::test]
async fn our_own_server_and_tls_keep_connections() {
    let (acceptor, der) = acceptor("localhost", ClientAuth::None, Vec::new());
    let server = server(Some(acceptor)).await;
    let mut target = target(format!("https://127.0.0.1:{}/", server.port));
    (target.keep_alive, target.pinned) = (true, vec![der]);
    let poster = Poster::new();
    for _ in 0..5 {
        let answer = post(&poster, &target).await.unwrap();
        assert!(answer.tls.unwrap().starts_with("TLSv1.3"));
    }
    let peers: std::collections::HashSet<_> = server.flow.seen.lock().unwrap().iter().map(|arrival| arrival.peer).collect();
    assert_eq!((peers.len(), server.flow.seen.lock().unwrap().len()), (1, 5));
}

#[tokio::test]
async fn what_ended_while_it_waited_is_not_seen_from_outside() {
    // It closes at once after its answer.
    let server = Server::start(&[OK]).await;
    let poster = Poster::new();
    for _ in 0..5 {
        assert_eq!(post(&poster, &server.target()).await.unwrap().status, 200);
    }
    assert_eq!(server.seen(), (5, 5));
    // It takes the second request and closes without a word: sent once more, over a new connection.
    let server = Server::start(&[OK, ""]).await;
    for n in 1..=4 {
        let answer = post(&poster, &server.target()).await.unwrap();
        assert_eq!((answer.status, answer.body_sent), (200, true), "post {n}");
    }
    assert_eq!(server.seen(), (4, 7));
}

#[tokio::test]
async fn a_post_that_may_have_arrived_stays_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target {
        keep_alive: true,
        ..target(format!("http://{}/", listener.local_addr().unwrap()))
    };
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        drop(listener);
        serve(stream, &[OK, ""], Arc::default()).await;
    });
    let poster = Poster::new();
    post(&poster, &target).await.unwrap();
    let error = post(&poster, &target).await.unwrap_err();
    assert_eq!((error.stage, error.body_sent), (Stage::Connect, true), "{error}");
    task.await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_silent_or_breaks_off_is_not_asked_twice() {
    for (second, stage) in [("HTTP/1.1 2", Stage::Head), ("HTTP/1.1 100 Continue\r\n\r\n", Stage::Head)] {
        // The third is what a second try on this connection would get.
        let answers: &'static [&'static str] = Box::leak(vec![OK, second, OK].into_boxed_slice());
        let server = Server::start(answers).await;
        let poster = Poster::new();
        post(&poster, &server.target()).await.unwrap();
        let error = post(&poster, &server.target()).await.unwrap_err();
        assert_eq!((error.stage, error.body_sent), (stage, true), "{second:?}: {error}");
        assert_eq!(server.seen(), (1, 2), "{second:?}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_after_long_silence_ends_the_try() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target {
        keep_alive: true,
        response_timeout: 10 * ENDED_BEFORE,
        ..target(format!("http://{}/", listener.local_addr().unwrap()))
    };
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(read_one(&mut stream, &seen).await);
        stream.write_all(OK.as_bytes()).await.unwrap();
        assert!(read_one(&mut stream, &seen).await);
        // At work on it, until somebody in between loses patience.
        tokio::time::sleep(ENDED_BEFORE + Duration::from_millis(200)).await;
        drop(stream);
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, &[OK], seen).await;
    });
    let poster = Poster::new();
    post(&poster, &target).await.unwrap();
    let error = post(&poster, &target).await.expect_err("an answer to a copy");
    assert_eq!((error.stage, error.body_sent, error.retry), (Stage::Head, true, true), "{error}");
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn other_settings_are_another_place() {
    let server = Server::start(&[OK; 10]).await;
    let poster = Poster::new();
    let auth = |password: &str| Some(("user".to_owned(), Zeroizing::new(password.to_owned())));
    let basic = |password| auth(password).map(Credentials::Basic);
    let identity = |key: &[u8]| {
        Some(ClientIdentity {
            cert_chain: vec![b"leaf".to_vec()],
            pkcs8: Zeroizing::new(key.to_vec()),
        })
    };
    let proxy = |auth| {
        Some(Proxy {
            url: format!("http://127.0.0.1:{}", server.port),
            auth,
        })
    };
    let base = || server.target();
    let places = [
        base(),
        Target {
            credentials: basic("one"),
            ..base()
        },
        Target {
            credentials: basic("two"),
            ..base()
        },
        Target {
            tls: TlsMode::Only13,
            ..base()
        },
        Target {
            pinned: vec![vec![1, 2]],
            ..base()
        },
        Target {
            pinned: vec![vec![1], vec![2]],
            ..base()
        },
        Target {
            client_identity: identity(b"one"),
            ..base()
        },
        Target {
            client_identity: identity(b"two"),
            ..base()
        },
        Target {
            proxy: proxy(None),
            ..base()
        },
        Target {
            proxy: proxy(auth("one")),
            ..base()
        },
        Target {
            partner: "BIGMART".to_owned(),
            url: base().url.replace("127.0.0.1", "localhost"),
            ..base()
        },
    ];
    for target in &places {
        post(&poster, target).await.unwrap();
    }
    assert_eq!(server.seen(), (places.len(), places.len()));
    for target in &places {
        post(&poster, target).await.unwrap();
    }
    assert_eq!(server.seen(), (places.len(), 2 * places.len()), "each has one that waits");
    // The path is the request's own affair.
    let other_path = Target {
        url: base().url.replace("/as2", "/mdn?x=1"),
        ..base()
    };
    post(&poster, &other_path).await.unwrap();
    assert_eq!(server.seen().0, places.len());
    let outside = Target {
        allow_private: false,
        ..base()
    };
    assert_eq!(post(&poster, &outside).await.unwrap_err().stage, Stage::Denied);
}

#[tokio::test]
async fn answers_that_leave_a_doubt_end_their_connection() {
    const SECOND: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled";
    for answer in [
        // More than was announced, at once: the next answer, put there by somebody else.
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: Keep-Alive, Close\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nProxy-Connection: close\r\n\r\nhi",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nSome junk\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n01234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
    ] {
        let answers: &'static [&'static str] = Box::leak(vec![answer, SECOND].into_boxed_slice());
        let server = Server::start(answers).await;
        let poster = Poster::new();
        for n in 1..=3 {
            let got = post(&poster, &server.target()).await.unwrap();
            assert!(!got.body.ends_with(b"evil") && got.body != b"smuggled", "{answer:?}");
            assert_eq!(server.seen(), (n, n), "{answer:?}");
        }
    }
    let server = Server::start(&["HTTP/1.1 204 No Content\r\n\r\n", SECOND]).await;
    let poster = Poster::new();
    for _ in 0..2 {
        post(&poster, &server.target()).await.unwrap();
    }
    assert_eq!(server.seen(), (1, 2), "this one leaves none");
}

#[tokio::test]
async fn bytes_that_come_while_nobody_asks_end_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target {
        keep_alive: true,
        ..target(format!("http://{}/", listener.local_addr().unwrap()))
    };
    let (late, came) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        let requests = Arc::default();
        let mut read = [0u8; 4096];
        let _ = first.read(&mut read).await.unwrap();
        first.write_all(OK.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        first.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await.unwrap();
        late.send(()).unwrap();
        let (second, _) = listener.accept().await.unwrap();
        serve(second, &[OK], requests).await;
    });
    let poster = Poster::new();
    post(&poster, &target).await.unwrap();
    came.await.unwrap();
    assert_eq!(post(&poster, &target).await.unwrap().body, b"hi");
    task.await.unwrap();
}

#[tokio::test]
async fn those_that_wait_are_let_go() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target {
        keep_alive: true,
        ..target(format!("http://{}/", listener.local_addr().unwrap()))
    };
    let poster = Poster::new();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = [0u8; 4096];
        let _ = stream.read(&mut read).await.unwrap();
        stream.write_all(OK.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        // The other side closes too, though nobody posts any more.
        tokio::time::timeout(Duration::from_secs(10), stream.read(&mut read)).await
    });
    post(&poster, &target).await.unwrap();
    assert_eq!(served.await.unwrap().unwrap().unwrap(), 0);
}
