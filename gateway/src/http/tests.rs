//! The door, tried from outside over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;

/// Counts and hashes what comes, answers with the count.
#[derive(Default)]
struct Flow {
    requests: AtomicUsize,
    heads: Mutex<Vec<RawHead>>,
    answers: Mutex<Vec<(&'static str, u16)>>,
    largest_piece: AtomicU64,
}

struct Counter {
    flow: Arc<Flow>,
    bytes: u64,
    sum: u64,
    matters: bool,
}

impl Sink for Counter {
    async fn write(&mut self, piece: Bytes) -> Result<(), Reply> {
        self.flow.largest_piece.fetch_max(piece.len() as u64, Ordering::SeqCst);
        self.bytes += piece.len() as u64;
        self.sum = piece
            .iter()
            .fold(self.sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        if piece.starts_with(b"FULL") {
            Err(Reply::text(507, "no space\n"))
        } else {
            Ok(())
        }
    }

    fn matters(&self) -> bool {
        self.matters
    }
}

struct Door(Arc<Flow>);

impl Receive for Door {
    type Sink = Counter;

    async fn admit(&self, arrival: &Arrival) -> Result<Counter, Reply> {
        match arrival.head.target.as_str() {
            "/big" => Err(Reply::text(413, "too big\n")),
            "/none" => Err(Reply::text(404, "no\n")),
            _ => Ok(Counter {
                flow: Arc::clone(&self.0),
                bytes: 0,
                sum: 0,
                matters: arrival.head.target != "/stranger",
            }),
        }
    }

    async fn receive(&self, arrival: Arrival, sink: Counter) -> Reply {
        self.0.requests.fetch_add(1, Ordering::SeqCst);
        if arrival.head.target == "/slow" {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        self.0.heads.lock().unwrap().push(arrival.head);
        let mut reply = Reply::text(200, &format!("{} {:x}", sink.bytes, sink.sum));
        reply.headers.push("Content-Length", "1").unwrap();
        reply
    }

    fn answered(&self, _: bool, method: &'static str, status: u16) {
        self.0.answers.lock().unwrap().push((method, status));
    }
}

struct Server {
    addr: SocketAddr,
    flow: Arc<Flow>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn server(change: impl FnOnce(&mut Limits)) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let flow = Arc::new(Flow::default());
    let mut limits = Limits::new(0);
    change(&mut limits);
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(serve(listener, None, Arc::new(Door(Arc::clone(&flow))), limits, stopped));
    Server { addr, flow, stop, task }
}

/// Sends text and reads until the server closes.
async fn talk(addr: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    rest(&mut stream).await
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer))
        .await
        .expect("the server closes")
        .unwrap();
    String::from_utf8(answer).unwrap()
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("none")
}

#[tokio::test]
async fn methods() {
    let server = server(|_| {}).await;
    let get = talk(server.addr, "GET /x HTTP/1.0\r\n\r\n").await;
    assert!(
        get.starts_with("HTTP/1.1 200 OK\r\n") && get.contains("\r\n\r\nas2gate") && get.contains("\r\nServer: as2gate\r\n"),
        "{get}"
    );
    let head = talk(server.addr, "HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(
        head.contains("Content-Length: 0\r\n") && head.ends_with("\r\n\r\n") && head.contains("\r\nDate: "),
        "{head}"
    );
    assert_eq!(status(&talk(server.addr, "PUT / HTTP/1.1\r\nHost: x\r\n\r\n").await), "405");
    assert_eq!(status(&talk(server.addr, "POST / HTTP/1.1\r\nHost: x\r\n\r\n").await), "411");
    assert_eq!(
        status(&talk(server.addr, "POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").await),
        "404"
    );
    assert_eq!(
        *server.flow.answers.lock().unwrap(),
        [("GET", 200), ("HEAD", 200), ("other", 405), ("POST", 411), ("POST", 404)]
    );
}

#[tokio::test]
async fn posts_on_one_connection_keep_their_heads() {
    let server = server(|_| {}).await;
    let head = "Host: x\r\nAS2-From:  \"a  b\"\r\nSubject: one\r\n\ttwo\r\nContent-Length: 005\r\n";
    let two = format!("POST /as2 HTTP/1.1\r\n{head}\r\nhelloPOST /as2 HTTP/1.1\r\n{head}Connection: close\r\n\r\nworld");
    let answer = talk(server.addr, &two).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert_eq!(answer.matches("Connection: close").count(), 1);
    assert_eq!(
        answer.matches("Content-Length: ").count(),
        2,
        "the flow's own length is left out: {answer}"
    );
    assert!(answer.contains(concat!("Server: as2gate/", env!("CARGO_PKG_VERSION"))));
    let heads = server.flow.heads.lock().unwrap();
    assert_eq!(heads[0].bytes, head.as_bytes());
    assert_eq!(heads[0].headers.get("Subject"), Some("one two"));
}

#[tokio::test]
async fn chunks_are_decoded_and_end_the_connection() {
    let server = server(|_| {}).await;
    let smuggle = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = talk(server.addr, smuggle).await;
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    assert!(answer.contains("\r\n\r\n11 "), "{answer}");
    let broken = talk(
        server.addr,
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(status(&broken), "400");
}

#[tokio::test]
async fn smuggling_gets_one_400_and_reaches_no_flow() {
    let server = server(|_| {}).await;
    for fields in [
        "Host: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "Host: x\r\nContent-Length: 6\r\nContent-Length: 6\r\n",
        "Host: x\r\nContent-Length: 6\r\nContent-Length: 7\r\n",
        "Host: x\r\nTransfer-Encoding: gzip\r\n",
        "Host: x\r\nTransfer-Encoding: chunked, identity\r\n",
        "Host: x\r\nTransfer-Encoding : chunked\r\n",
        "Host: x\r\nTransfer-Encoding:\r\n chunked\r\n",
        "Content-Length: 6\r\n",
        "Host: x\r\nHost: y\r\nContent-Length: 6\r\n",
        "Host: x\nContent-Length: 6\r\n",
        "Host: x\r\nX: a\0b\r\nContent-Length: 6\r\n",
        "Host: x\r\nX: a\rContent-Length: 6\r\n",
    ] {
        let answer = talk(
            server.addr,
            &format!("POST / HTTP/1.1\r\n{fields}\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        )
        .await;
        assert_eq!(
            (status(&answer), answer.matches("HTTP/1.1").count()),
            ("400", 1),
            "{fields:?}: {answer}"
        );
        assert!(answer.contains("Connection: close"));
    }
    assert_eq!(server.flow.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn continue_comes_after_admission_only() {
    let server = server(|_| {}).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nConnection: close\r\nContent-Length: 5\r\n\r\n")
        .await
        .unwrap();
    let mut interim = [0u8; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(status(&rest(&mut stream).await), "200");
    let refused = talk(
        server.addr,
        "POST /big HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    // The refusal comes at once; only the close waits for the client's own.
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream
        .write_all(b"POST /big HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0u8; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 413");
    assert_eq!(status(&refused.await), "413");
    assert_eq!(
        status(
            &talk(
                server.addr,
                "POST / HTTP/1.1\r\nHost: x\r\nExpect: magic\r\nContent-Length: 5\r\n\r\n"
            )
            .await
        ),
        "417"
    );
}

#[tokio::test]
async fn of_a_body_that_does_not_matter_little_is_read() {
    let server = server(|limits| {
        limits.glance = 1_000;
        limits.glance_time = Duration::from_millis(300);
        limits.idle_time = Duration::from_millis(300);
        limits.linger_time = Duration::from_millis(100);
    })
    .await;
    let post = |fields: &str, body: &str| {
        let text = format!("POST /stranger HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n{body}");
        let addr = server.addr;
        async move { talk(addr, &text).await }
    };
    // All of a short one, and the connection goes on.
    let answer = post("Content-Length: 1000", &"x".repeat(1_000)).await;
    assert!(
        answer.contains("\r\n\r\n1000 ") && !answer.contains("Connection: close"),
        "{answer}"
    );
    let began = Instant::now();
    for (fields, body) in [
        ("Content-Length: 99000000000", ""),
        ("Content-Length: 5\r\nExpect: 100-continue", ""),
    ] {
        let answer = post(fields, body).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("\r\n\r\n0 "),
            "{fields}: {answer}"
        );
        assert!(answer.contains("Connection: close"), "{fields}: {answer}");
    }
    assert!(began.elapsed() < Duration::from_secs(2), "at once");
    // Chunks announce nothing.
    let chunk = format!("258\r\n{}\r\n", "x".repeat(600));
    let answer = post("Transfer-Encoding: chunked", &[&*chunk, &*chunk].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\r\n\r\n600 "), "{answer}");
    let slow = post("Content-Length: 9", "abc").await;
    assert!(slow.starts_with("HTTP/1.1 200") && slow.contains("\r\n\r\n3 "), "{slow}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn slow_heads_bodies_and_idlers_are_ended() {
    let server = server(|limits| {
        limits.head_time = Duration::from_millis(200);
        limits.idle_time = Duration::from_millis(300);
        limits.body_grace = Duration::from_millis(300);
        limits.linger_time = Duration::from_millis(100);
    })
    .await;
    let began = Instant::now();
    assert_eq!(talk(server.addr, "").await, "", "nothing was asked, nothing is said");
    assert_eq!(status(&talk(server.addr, "POST / HTTP/1.1\r\nHo").await), "408");
    assert_eq!(
        status(&talk(server.addr, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc").await),
        "408"
    );
    let idle = talk(server.addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(idle.matches("HTTP/1.1").count(), 1);
    assert!(began.elapsed() < Duration::from_secs(5));
    // Dripping does not help: the deadline is the head's, not the last byte's.
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    for byte in b"POST / HTTP/1.1\r\n" {
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"));
    assert_eq!(server.flow.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_full_sink_answers_while_the_body_still_comes() {
    let server = server(|_| {}).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nFULL")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    stream.write_all(&[b'x'; 900_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(status(&rest(&mut stream).await), "507");
}

#[tokio::test]
async fn big_bodies_pass_in_pieces() {
    const SIZE: usize = 64 << 20;
    let server = server(|_| {}).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream
        .write_all(format!("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let block = vec![7u8; 1 << 20];
    for _ in 0..SIZE / block.len() {
        stream.write_all(&block).await.unwrap();
    }
    let answer = rest(&mut stream).await;
    assert!(answer.contains(&format!("\r\n\r\n{SIZE} ")), "{answer}");
    assert!(server.flow.largest_piece.load(Ordering::SeqCst) <= 256 * 1024);
}

#[tokio::test]
async fn places_per_address_are_limited() {
    let server = server(|limits| limits.gate = Gate::new(10, 2)).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut first = [0u8; 12];
        stream.read_exact(&mut first).await.unwrap();
        held.push(stream);
    }
    let mut third = TcpStream::connect(server.addr).await.unwrap();
    assert_eq!(third.read(&mut [0u8; 1]).await.unwrap_or(0), 0, "closed at once");
}

#[tokio::test]
async fn who_rests_longest_gives_way_and_who_works_does_not() {
    let server = server(|limits| limits.gate = Gate::new(3, 0)).await;
    let busy = tokio::spawn(talk(
        server.addr,
        "POST /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
    ));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut rested = Vec::new();
    for _ in 0..2 {
        rested.push(TcpStream::connect(server.addr).await.unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A byte of a head now and then is no work.
    rested[0].write_all(b"G").await.unwrap();
    let answer = talk(server.addr, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&answer), "200");
    assert_eq!(rested[0].read(&mut [0u8; 1]).await.unwrap_or(0), 0, "it gave way");
    rested[1]
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(status(&rest(&mut rested[1]).await), "200");
    assert_eq!(status(&busy.await.unwrap()), "200");
}

#[tokio::test]
async fn a_stop_ends_idlers_and_waits_for_requests() {
    let server = server(|_| {}).await;
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let busy = tokio::spawn(talk(server.addr, "POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"));
    tokio::time::sleep(Duration::from_millis(150)).await;
    server.stop.send(true).unwrap();
    assert_eq!(status(&busy.await.unwrap()), "200");
    assert_eq!(status(&rest(&mut idle).await), "200");
    tokio::time::timeout(Duration::from_secs(5), server.task)
        .await
        .expect("the server ends")
        .unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err());
}
