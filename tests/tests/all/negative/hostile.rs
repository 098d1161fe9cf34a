//! Input that is small and wants much: bombs and slow or endless peers, bounded in memory and time (security.md §7, §8).

use std::net::TcpStream;
use std::time::Instant;

use super::*;

/// What one hostile input may add to the peak of the server's memory, in bytes.
const ALLOWED: u64 = 32 << 20;
/// Processor time that one of them may cost.
const SOON: Duration = Duration::from_secs(20);

/// A gateway of its own, because the peak of memory belongs to a process, warmed up by one good message.
struct Trial {
    stage: Arc<Stage>,
    before: u64,
}

impl Trial {
    fn new() -> Self {
        let stage = Arc::new(Stage::new(&[]));
        let good = payload().signed(&stage.partner).encrypted(&stage.ours).message("<warm@test>");
        assert_eq!(good.post(stage.gate.as2_port).disposition(), PROCESSED);
        let before = stage.gate.peak_memory();
        Trial { stage, before }
    }

    /// Posts it; the answer ends with these words, soon, nothing is filed, and a good message still gets through.
    #[track_caller]
    fn refuses(&self, name: &str, entity: &Entity, said: &str) {
        let (id, filed, began) = (format!("<{name}@test>"), self.stage.inbox().len(), self.stage.gate.processor_time());
        let answer = entity.message(&id).post(self.stage.gate.as2_port);
        self.bounded(name, entity.body.len(), began);
        assert!(answer.disposition().ends_with(said), "{name}: {} {}", answer.status, answer.text());
        assert_eq!(self.stage.inbox().len(), filed, "{name} is in the inbox");
        let good = payload().message(&format!("<after-{name}@test>")).post(self.stage.gate.as2_port);
        assert_eq!(good.disposition(), PROCESSED, "after {name}");
    }

    #[track_caller]
    fn bounded(&self, name: &str, bytes: usize, began: Duration) {
        let gate = &self.stage.gate;
        let (took, grown) = (gate.processor_time() - began, gate.peak_memory() - self.before);
        println!("{name}: {bytes} bytes, {took:.1?}, + {} KiB", grown >> 10);
        assert!(took < SOON, "{name} took {took:?}");
        assert!(grown < ALLOWED, "{name} took {} KiB", grown >> 10);
    }
}

/// A zlib stream of a head and 10 GiB of zeros, whole and with its true checksum, in 10 MB: one block again and again.
fn ten_gibibytes() -> Vec<u8> {
    let script = "import sys, zlib\nhead, zeros, n = b'Content-Type: application/octet-stream\\r\\n\\r\\n', bytes(1 << 20), 10 << 10\n\
                  z = zlib.compressobj(9)\nfirst = z.compress(head) + z.flush(zlib.Z_FULL_FLUSH)\n\
                  block = z.compress(zeros) + z.flush(zlib.Z_FULL_FLUSH)\nsum = zlib.adler32(head)\n\
                  for _ in range(n): sum = zlib.adler32(zeros, sum)\n\
                  open(sys.argv[1], 'wb').write(first + block * n + b'\\x03\\x00' + sum.to_bytes(4, 'big'))";
    let out = craft::tempfile();
    let _ = run(&mut tool("python3", &["-c", script, out.1.to_str().unwrap()])).ok();
    std::fs::read(&out.1).unwrap()
}

#[test]
fn ten_gibibytes_of_zeros_in_ten_megabytes_are_refused() {
    let trial = Trial::new();
    let bomb = ten_gibibytes();
    assert!(bomb.len() < 12 << 20, "{}", bomb.len());
    trial.refuses("zeros", &compressed(&bomb), "processed/error: decompression-failed");
}

#[test]
fn nesting_bombs_are_refused() {
    let trial = Trial::new();
    let mut layers = payload();
    for _ in 0..10 {
        layers = layers.signed(&trial.stage.partner);
    }
    trial.refuses("cms-layers", &layers, "processed/error: unexpected-processing-error");
    let (mut head, mut tail) = (String::new(), String::new());
    for n in 1..1000 {
        head += &format!("--b{n}\r\nContent-Type: multipart/mixed; boundary=b{}\r\n\r\n", n + 1);
        tail = format!("\r\n--b{n}--\r\n") + &tail;
    }
    let nested = Entity::new("multipart/mixed; boundary=b1", format!("{head}--b1000\r\n\r\nx\r\n--b1000--{tail}"));
    trial.refuses("multiparts", &nested, "processed/error: unexpected-processing-error");
    let sealed = |body: Vec<u8>| Entity::new("application/pkcs7-mime; smime-type=enveloped-data", body);
    let depth = sealed(b"\x30\x80".repeat(1_000_000));
    trial.refuses("ber-depth", &depth, "processed/error: decryption-failed");
}

#[test]
fn bombs_of_many_pieces_are_refused() {
    let trial = Trial::new();
    // An attribute is `commonName: a`.
    let attributes = craft::der(0xa0, &[&b"\x30\x0a\x06\x03\x55\x04\x03\x31\x03\x0c\x01\x61".repeat(1_000_000)]);
    let sid = b"\x02\x01\x01\x30\x05\x30\x00\x02\x01\x01";
    let sha256 = b"\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01";
    let rsa = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    let signer = craft::der(0x30, &[sid, sha256, &attributes, rsa, b"\x04\x01\x00"]);
    let content = b"\x30\x10\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01\xa0\x03\x04\x01x";
    let (digests, signers) = (craft::der(0x31, &[sha256]), craft::der(0x31, &[&signer]));
    let inner = craft::der(0x30, &[b"\x02\x01\x01", &digests, content, &signers]);
    let oid = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02";
    let p7s = craft::der(0x30, &[oid, &craft::der(0xa0, &[&inner])]);
    let opaque = Entity::new("application/pkcs7-mime; smime-type=signed-data", p7s.clone());
    trial.refuses("opaque", &opaque, "processed/error: authentication-failed");
    let head = "--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b\r\nContent-Type: application/pkcs7-signature\r\n\
                Content-Transfer-Encoding: binary\r\n\r\n";
    let kind = "multipart/signed; protocol=\"application/pkcs7-signature\"; micalg=sha-256; boundary=b";
    let signed = Entity::new(kind, [head.as_bytes(), &p7s, b"\r\n--b--\r\n"].concat());
    trial.refuses("attributes", &signed, "processed/error: unexpected-processing-error");
    let parts = "--b\r\nContent-Type: text/plain\r\n\r\nx\r\n".repeat(100_000) + "--b--\r\n";
    let parts = Entity::new("multipart/related; boundary=b", parts);
    trial.refuses("parts", &parts, "processed/error: unexpected-processing-error");
}

#[test]
fn header_bombs_are_refused() {
    let trial = Trial::new();
    let start = b"POST /as2 HTTP/1.1\r\n";
    for (name, bomb) in [
        ("lines", "X-Filler: x\r\n".repeat(100_000)),
        ("line", format!("X-Filler: {}\r\n", "x".repeat(1 << 20))),
        ("fields", "A:\r\n".repeat(1_000)),
    ] {
        let began = trial.stage.gate.processor_time();
        let answer = raw(trial.stage.gate.as2_port, start, format!("{bomb}\r\n").as_bytes());
        trial.bounded(name, bomb.len(), began);
        assert_eq!(answer.status, 431, "{name}: {}", answer.text());
    }
}

/// Drips these bytes after a start until the server closes: what it said, and after how long.
fn drip(port: u16, start: &[u8], drops: &[u8]) -> (String, Duration) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let began = Instant::now();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    stream.write_all(start).unwrap();
    let (mut said, mut piece) = (Vec::new(), [0; 4096]);
    while began.elapsed() < Duration::from_secs(120) {
        match stream.read(&mut piece) {
            Ok(n) if n > 0 => said.extend_from_slice(&piece[..n]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                let _ = stream.write_all(drops);
            }
            _ => break,
        }
    }
    (String::from_utf8_lossy(&said).into_owned(), began.elapsed())
}

#[test]
fn slow_and_silent_clients_are_ended() {
    let stage = stage();
    let port = stage.gate.as2_port;
    let message = payload().message("<slow@test>");
    let lines: String = message.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let body = format!("POST /as2 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n{lines}\r\n");
    let clients = [
        ("head", b"POST /as2 HTTP/1.1\r\nX-Slow: ".to_vec(), &b"x"[..], 30),
        ("body", body.into_bytes(), &[b'x'; 100], 34),
        ("silent", Vec::new(), b"", 30),
    ];
    let threads = clients.map(|(name, start, drops, limit)| (name, limit, thread::spawn(move || drip(port, &start, drops))));
    for (name, limit, client) in threads {
        let (said, took) = client.join().unwrap();
        println!("{name}: {took:.1?} {:?}", said.lines().next());
        assert!(took < Duration::from_secs(limit + 40), "{name}: {took:?}");
        assert!(
            name == "silent" || said.starts_with("HTTP/1.1 408 ") && took > Duration::from_secs(25),
            "{name}: {said}"
        );
    }
    assert_eq!(stage.listed("<slow@test>").len(), 0);
}

#[test]
fn an_endless_answer_is_left_after_the_bound_of_an_mdn() {
    let trial = Trial::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let partner = thread::spawn(move || {
        let mut stream = accepted(&listener);
        assert!(read_request(&mut stream).is_some());
        let head = "HTTP/1.1 200 OK\r\nContent-Type: multipart/signed; boundary=x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunk = [b"10000\r\n", &vec![b'x'; 65_536][..], b"\r\n"].concat();
        let mut written = 0usize;
        let _ = stream.write_all(head.as_bytes());
        while written < 1 << 30 && stream.write_all(&chunk).is_ok() {
            written += chunk.len();
        }
        written
    });
    let began = trial.stage.gate.processor_time();
    let scene = Scene::towards(&trial.stage, port, "sync-signed", &[], &order(next()), Arc::default());
    let message = scene.reaches("failed");
    assert_eq!(message["code"], "no-mdn", "{message:#}");
    let written = partner.join().unwrap();
    trial.bounded("endless answer", written, began);
    assert!(written < 32 << 20, "{written} bytes were taken or buffered");
}
