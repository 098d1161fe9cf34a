//! What is wrong below AS2: full disks, sizes and framing (as2.md §8, X15, X18–X20).

use super::*;

#[test]
fn a_full_disk_asks_for_another_try_and_keeps_nothing() {
    let stage = Stage::new(&[("storage.min_free", "\"100TiB\"")]);
    let request = payload().signed(&stage.partner).message("<full@test>");
    let answer = request.post(stage.gate.as2_port);
    assert!(
        answer.status == 503 && answer.header("Retry-After").is_some(),
        "{}: {}",
        answer.status,
        answer.text()
    );
    assert_eq!(stage.listed("<full@test>").len(), 0);
    stage.gate.configure(&[]);
    stage.gate.restart();
    assert_eq!(request.post(stage.gate.as2_port).disposition(), PROCESSED);
}

#[test]
fn too_large_heads_and_bodies_are_refused_at_once() {
    let stage = Stage::new(&[("as2.max_message", "\"1MiB\"")]);
    let port = stage.gate.as2_port;
    let small = payload().signed(&stage.partner).message("<large@test>");
    let head = small.clone().with("X-Filler", &"x".repeat(256 * 1024)).post(port);
    assert_eq!(head.status, 431, "{}", head.text());
    // Only announced: the answer comes before the body.
    let lines: String = small.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let announced = format!("POST /as2 HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n{lines}\r\n");
    assert_eq!(raw(port, announced.as_bytes(), b"").status, 413);
    let chunked = format!("POST /as2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{lines}\r\n");
    let body = [format!("{:x}\r\n", 2 << 20).as_bytes(), &noise(2 << 20, 1), b"\r\n0\r\n\r\n"].concat();
    assert_eq!(raw(port, chunked.as_bytes(), &body).status, 413);
    assert_eq!(stage.listed("<large@test>").len(), 0);
    assert_eq!(small.post(port).disposition(), PROCESSED);
}

#[test]
fn bad_chunks_and_doubtful_framing_are_refused_and_the_connection_ends() {
    let stage = stage();
    let small = payload().signed(&stage.partner).message("<chunks@test>");
    let lines: String = small.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let next = "GET /as2 HTTP/1.1\r\nHost: x\r\n\r\n";
    let cases = [
        ("Transfer-Encoding: chunked", "zz\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "-3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "ffffffffffffffffff\r\nabc"),
        ("Transfer-Encoding: chunked", "3\r\nabcde\r\n0\r\n\r\n"),
        ("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"),
        ("Transfer-Encoding: xchunked", "0\r\n\r\n"),
        ("Content-Length: 3\r\nContent-Length: 4", "abcd"),
        ("Content-Length: +3", "abc"),
        ("Content-Length: 0x3", "abc"),
    ];
    for (framing, body) in cases {
        let head = format!("POST /as2 HTTP/1.1\r\nHost: x\r\n{framing}\r\n{lines}\r\n");
        let answer = raw(stage.gate.as2_port, head.as_bytes(), format!("{body}{next}").as_bytes());
        assert!([400, 501].contains(&answer.status), "{framing} {body:?}: {}", answer.status);
        assert!(
            !answer.text().contains("HTTP/1.1"),
            "{framing} {body:?}: what follows was answered: {}",
            answer.text()
        );
    }
    assert_eq!(stage.listed("<chunks@test>").len(), 0);
}
