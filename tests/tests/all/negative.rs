//! The negative list and the faults of partners: what must not get through, in the exact words of the answer, and what a
//! sent message becomes after every kind of answer, with the same bytes under the same Message-ID on each try.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::pair::station_certificate;
use tests::peer::Identity;
use tests::process::{free_port, run, run_with, tool};
use tests::wire::{Answer, Request, exchange, header_lines, raw};
use tests::{Gateway, Sftp, Shared, noise, order, wait_for};

const STATION: &str = "GATE";
/// The partner whose messages this module makes by hand.
const CRAFT: &str = "CRAFT";
const PROCESSED: &str = "automatic-action/MDN-sent-automatically; processed";
/// Longer than the pause before another try: a try that is still to come would have come.
const QUIET: Duration = Duration::from_millis(2500);
/// Tells the tests' retry waits, in seconds at most, from a `Retry-After` that is longer.
const RETRY_AFTER: u64 = 4;

static STAGE: Shared<Stage> = Shared::new();
static NUMBER: AtomicU32 = AtomicU32::new(1);

fn next() -> u32 {
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// A gateway, and the keys of everybody who talks to it.
struct Stage {
    gate: Gateway,
    user: Sftp,
    ours: PathBuf,
    partner: Identity,
    stranger: Identity,
}

impl Stage {
    fn new(settings: &[(&str, &str)]) -> Self {
        let gate = Gateway::stopped(settings);
        gate.ok(&["station", "add", STATION]);
        let ours = gate.file("ours.pem", station_certificate(&gate, STATION).as_bytes());
        let stage = Stage {
            user: gate.user("watch"),
            gate,
            ours,
            partner: Identity::new("partner"),
            stranger: Identity::new("stranger"),
        };
        stage.add(CRAFT, 9, &["--require-signed", "false", "--require-encrypted", "false"]);
        stage.gate.start();
        stage
    }

    fn add(&self, id: &str, port: u16, options: &[&str]) {
        let certificate = self.partner.path("cert.pem");
        let own = format!("http://127.0.0.1:{port}/as2");
        let named = options.iter().position(|option| *option == "--url");
        let (url, options) = named.map_or((own.as_str(), options), |at| (options[at + 1], &options[..at]));
        let basic = [
            "partner",
            "add",
            id,
            "--url",
            url,
            "--private",
            "true",
            "--encrypt",
            "none",
            "--certificate",
        ];
        // One change at a time: what happens to two at once is no subject of this module.
        static CHANGE: Mutex<()> = Mutex::new(());
        let _one = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
        self.gate.ok(&[&basic[..], &[certificate.to_str().unwrap()], options].concat());
    }

    fn inbox(&self) -> Vec<String> {
        self.user.ls(&format!("AS2/files/{STATION}/{CRAFT}/inbox"))
    }

    /// All that the gateway lists of a Message-ID.
    fn listed(&self, message_id: &str) -> Vec<Value> {
        let mut found = self.gate.messages("in");
        found.retain(|message| message["message_id"] == message_id);
        found
    }
}

fn stage() -> Arc<Stage> {
    STAGE.get(|| Stage::new(&[("retry.mdn_tries", "1")]))
}

// Messages and MDNs made by hand; every CMS object by the command line of OpenSSL.

/// A MIME entity: header lines and a body.
struct Entity {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Entity {
    fn new(kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Entity {
            headers: vec![("Content-Type".to_owned(), kind.to_owned())],
            body: body.into(),
        }
    }

    fn and(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let head: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }

    /// As text; everything that is signed here is ASCII.
    fn text(&self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }

    /// `multipart/signed` around it, with a SHA-256 signature.
    fn signed(&self, by: &Identity) -> Self {
        let (content, path) = (self.text(), |file: &str| by.path(file).display().to_string());
        let (cert, key) = (path("cert.pem"), path("key.pem"));
        let args = [
            "cms", "-sign", "-binary", "-outform", "PEM", "-md", "sha256", "-signer", &cert, "-inkey", &key,
        ];
        let made = run_with(&mut tool("openssl", &args), &content).ok();
        let signature: String = made
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .map(|line| line.to_owned() + "\r\n")
            .collect();
        let boundary = format!("signed-{}", next());
        let body = format!(
            "--{boundary}\r\n{content}\r\n--{boundary}\r\nContent-Type: application/pkcs7-signature; name=smime.p7s\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n{signature}--{boundary}--\r\n"
        );
        let kind = format!("multipart/signed; protocol=\"application/pkcs7-signature\"; micalg=sha-256; boundary=\"{boundary}\"");
        Entity::new(&kind, body)
    }

    /// Enveloped to a certificate.
    fn encrypted(&self, to: &std::path::Path) -> Self {
        let out = tempfile();
        let args = [
            "cms",
            "-encrypt",
            "-binary",
            "-aes-256-cbc",
            "-outform",
            "DER",
            "-out",
            out.1.to_str().unwrap(),
            to.to_str().unwrap(),
        ];
        let _ = run_with(&mut tool("openssl", &args), &self.text()).ok();
        let kind = "application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m";
        Entity::new(kind, std::fs::read(&out.1).unwrap()).and("Content-Transfer-Encoding", "binary")
    }

    /// As a message from the partner, asking for a signed MDN in the answer.
    fn message(&self, id: &str) -> Request {
        let own = [
            ("AS2-Version", "1.2"),
            ("AS2-From", CRAFT),
            ("AS2-To", STATION),
            ("Message-ID", id),
            ("Subject", "by hand"),
            ("Disposition-Notification-To", "craft@test"),
            (
                "Disposition-Notification-Options",
                "signed-receipt-protocol=required, pkcs7-signature; signed-receipt-micalg=optional, sha-256",
            ),
        ];
        let mut headers: Vec<_> = own.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        headers.extend(self.headers.clone());
        Request {
            headers,
            body: self.body.clone(),
        }
    }
}

fn tempfile() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    (dir, path)
}

fn payload() -> Entity {
    Entity::new("application/edi-x12", order(next())).and("Content-Disposition", "attachment; filename=\"order.edi\"")
}

fn sha256(text: &str) -> String {
    let digest = "openssl dgst -sha256 -binary | openssl base64 -A";
    run_with(&mut tool("sh", &["-c", digest]), text).ok().trim().to_owned()
}

/// A DER value with a long length.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let len = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x84], &len[..], &content].concat()
}

/// CompressedData (RFC 3274 §1.1) around a zlib stream.
fn compressed(zlib: &[u8]) -> Entity {
    const COMPRESSED: &[u8] = b"\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x09";
    const ZLIB: &[u8] = b"\x30\x0d\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x03\x08";
    const DATA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01";
    let content = der(0x30, &[DATA, &der(0xa0, &[&der(0x04, &[zlib])])]);
    let made = der(0x30, &[COMPRESSED, &der(0xa0, &[&der(0x30, &[b"\x02\x01\x00", ZLIB, &content])])]);
    let kind = "application/pkcs7-mime; smime-type=compressed-data; name=smime.p7z";
    Entity::new(kind, made).and("Content-Transfer-Encoding", "binary")
}

/// What Python's zlib makes of a head and so many MiB of zeros.
fn zlib(head: &[u8], zeros: u32) -> Vec<u8> {
    let out = tempfile();
    std::fs::write(&out.1, head).unwrap();
    let script = "import sys, zlib\nz = zlib.compressobj(9)\nmade = z.compress(open(sys.argv[1], 'rb').read())\n\
                  for _ in range(int(sys.argv[2])): made += z.compress(bytes(1 << 20))\n\
                  open(sys.argv[1], 'wb').write(made + z.flush())";
    let _ = run(&mut tool("python3", &["-c", script, out.1.to_str().unwrap(), &zeros.to_string()])).ok();
    std::fs::read(&out.1).unwrap()
}

/// An MDN in the making.
#[derive(Clone)]
struct Receipt {
    disposition: String,
    mic: String,
    original: String,
    from: String,
    text: String,
}

impl Receipt {
    /// The one that a message deserves.
    fn of(hit: &Hit) -> Self {
        Receipt {
            disposition: "processed".to_owned(),
            mic: hit.mic(),
            original: hit.message.header("Message-ID").unwrap().to_owned(),
            from: hit.message.header("AS2-To").unwrap().to_owned(),
            text: "Received.".to_owned(),
        }
    }

    fn says(mut self, disposition: &str) -> Self {
        disposition.clone_into(&mut self.disposition);
        self
    }

    fn entity(&self) -> Entity {
        let boundary = format!("report-{}", next());
        let (from, original, disposition, text) = (&self.from, &self.original, &self.disposition, &self.text);
        let mic = if self.mic.is_empty() {
            String::new()
        } else {
            format!("Received-Content-MIC: {}, sha-256\r\n", self.mic)
        };
        let body = format!(
            "--{boundary}\r\nContent-Type: text/plain\r\n\r\n{text}\r\n--{boundary}\r\nContent-Type: message/disposition-notification\r\n\r\n\
             Reporting-UA: by hand\r\nFinal-Recipient: rfc822; {from}\r\nOriginal-Message-ID: {original}\r\n\
             Disposition: automatic-action/MDN-sent-automatically; {disposition}\r\n{mic}\r\n--{boundary}--\r\n"
        );
        let kind = format!("multipart/report; report-type=disposition-notification; boundary=\"{boundary}\"");
        Entity::new(&kind, body)
    }

    fn wrapped(&self, entity: Entity) -> Request {
        let id = format!("<mdn-{}-{}@test>", std::process::id(), next());
        let own = [
            ("AS2-Version", "1.2"),
            ("AS2-From", &self.from),
            ("AS2-To", STATION),
            ("Message-ID", &id),
        ];
        let mut headers: Vec<_> = own.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        headers.extend(entity.headers);
        Request {
            headers,
            body: entity.body,
        }
    }

    fn unsigned(&self) -> Request {
        self.wrapped(self.entity())
    }

    fn signed(&self, by: &Identity) -> Request {
        self.wrapped(self.entity().signed(by))
    }
}

// The partner that plays what it is told.

/// A request as it came.
#[derive(Clone)]
struct Hit {
    at: Instant,
    head: String,
    message: Request,
}

impl Hit {
    /// SHA-256 of what is signed in it.
    fn mic(&self) -> String {
        let text = String::from_utf8_lossy(&self.message.body).into_owned();
        let mark = text.lines().next().unwrap_or_default().to_owned();
        let Some(content) = text.split(&format!("{mark}\r\n")).nth(1) else {
            return String::new();
        };
        sha256(content.strip_suffix("\r\n").unwrap_or(content))
    }
}

/// What the partner does once it has the whole request: bytes to write before it closes.
type Script = dyn Fn(&Hit, usize) -> Vec<u8> + Send + Sync;

/// One message to one partner that plays a script.
struct Scene {
    stage: Arc<Stage>,
    partner: String,
    hits: Arc<Mutex<Vec<Hit>>>,
}

/// An answer in full.
fn http(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 {status} Status\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{head}\r\n{body}").into_bytes()
}

/// An MDN in an answer.
fn answer(status: u16, mdn: &Request) -> Vec<u8> {
    let headers: Vec<_> = mdn.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    http(status, &headers, std::str::from_utf8(&mdn.body).unwrap())
}

/// Reads one request; nothing if the peer goes away inside of it.
fn read_request(stream: &mut TcpStream) -> Option<Hit> {
    let mut bytes = Vec::new();
    let mut piece = [0u8; 64 * 1024];
    let mut more = |bytes: &mut Vec<u8>| match stream.read(&mut piece) {
        Ok(n) if n > 0 => bytes.extend_from_slice(&piece[..n]),
        _ => bytes.clear(),
    };
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        more(&mut bytes);
        if bytes.is_empty() {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let headers = header_lines(head.split_once("\r\n")?.1);
    let message = Request { headers, body: Vec::new() };
    let len: usize = message.header("Content-Length")?.parse().ok()?;
    while bytes.len() < end + 4 + len {
        more(&mut bytes);
        if bytes.is_empty() {
            return None;
        }
    }
    let message = Request {
        body: bytes.split_off(end + 4),
        ..message
    };
    Some(Hit {
        at: Instant::now(),
        head,
        message,
    })
}

impl Scene {
    /// Sends an order to a new partner that plays this script.
    fn play(mode: &str, options: &[&str], script: impl Fn(&Hit, usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::of(&stage(), mode, options, script)
    }

    fn of(stage: &Arc<Stage>, mode: &str, options: &[&str], script: impl Fn(&Hit, usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let hits = Arc::new(Mutex::new(Vec::new()));
        let (seen, script): (_, Arc<Script>) = (Arc::clone(&hits), Arc::new(script));
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                thread::spawn(move || {
                    let Some(hit) = read_request(&mut stream) else { return };
                    let count = {
                        let mut seen = seen.lock().unwrap();
                        seen.push(hit.clone());
                        seen.len()
                    };
                    let _ = stream.write_all(&script(&hit, count));
                });
            }
        });
        Self::towards(stage, port, mode, options, &order(next()), hits)
    }

    fn towards(stage: &Arc<Stage>, port: u16, mode: &str, options: &[&str], bytes: &[u8], hits: Arc<Mutex<Vec<Hit>>>) -> Self {
        let partner = format!("P{}", next());
        stage.add(&partner, port, &[&["--mdn", mode], options].concat());
        let file = stage.gate.file(&format!("local/{partner}.edi"), bytes);
        let file = file.to_str().unwrap();
        stage.gate.ok(&["send", "--from", STATION, "--to", &partner, file]);
        Scene {
            stage: Arc::clone(stage),
            partner,
            hits,
        }
    }

    fn message(&self) -> Value {
        let list = self
            .stage
            .gate
            .json(&["message", "list", "--direction", "out", "--partner", &self.partner]);
        assert_eq!(list.as_array().unwrap().len(), 1, "{list:#}");
        self.stage.gate.show(list[0]["id"].as_str().unwrap())
    }

    /// Waits for a state.
    #[track_caller]
    fn reaches(&self, state: &str) -> Value {
        let end = Instant::now() + Duration::from_secs(40);
        loop {
            let message = self.message();
            if message["state"] == state {
                return message;
            }
            let over = ["delivered", "failed", "held"].iter().any(|word| message["state"] == *word);
            assert!(!over && Instant::now() < end, "not {state}, but {message:#}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the end, and sees that it stays the end: this state and code, and so many posts of the same bytes.
    #[track_caller]
    fn ends(&self, state: &str, code: &str, posts: usize) -> Value {
        self.reaches(state);
        thread::sleep(QUIET);
        let message = self.message();
        assert_eq!((&message["state"], &message["code"]), (&state.into(), &code.into()), "{message:#}");
        self.posts(posts);
        let tray = match state {
            "delivered" => "outbox",
            "failed" => "failed",
            _ => return message,
        };
        let dir = format!("AS2/files/{STATION}/{}", self.partner);
        let id = message["id"].as_str().unwrap().to_owned();
        let other = if tray == "outbox" { "failed" } else { "outbox" };
        assert!(self.stage.user.ls(&format!("{dir}/{tray}")).contains(&id), "not in {tray}");
        let left = self.stage.user.run(&[&format!("ls -1 {dir}/{other}/{id}/")]);
        assert!(!left.stdout.contains(".edi"), "a file is left in {other}: {left}");
        message
    }

    /// So many posts have come, and all are one request.
    #[track_caller]
    fn posts(&self, count: usize) {
        let hits = self.hits.lock().unwrap().clone();
        assert_eq!(hits.len(), count, "posts to {}", self.partner);
        for hit in &hits {
            assert_eq!(hit.head, hits[0].head, "a retry has other headers");
            assert!(hit.message.body == hits[0].message.body, "a retry has other bytes");
        }
    }

    /// The first request, once it is there.
    #[track_caller]
    fn hit(&self) -> Hit {
        wait_for("a post", || self.hits.lock().unwrap().first().cloned())
    }

    /// Posts an MDN to the gateway, which has to take it.
    #[track_caller]
    fn post_mdn(&self, mdn: &Request) {
        post_mdn(self.stage.gate.as2_port, mdn);
    }
}

#[track_caller]
fn post_mdn(port: u16, mdn: &Request) {
    let answer = exchange(port, "POST", "/mdn", &mdn.headers, &mdn.body);
    assert!((200..300).contains(&answer.status), "{}: {}", answer.status, answer.text());
}

/// The script of a partner that behaves.
fn good(stage: &Arc<Stage>) -> impl Fn(&Hit) -> Vec<u8> + Send + Sync + use<> {
    let stage = Arc::downgrade(stage);
    move |hit| {
        stage
            .upgrade()
            .map_or_else(Vec::new, |stage| answer(200, &Receipt::of(hit).signed(&stage.partner)))
    }
}

/// A script that makes its answer with the stage at hand; the stage is not kept alive by it.
fn with_stage(play: impl Fn(&Stage, &Hit, usize) -> Vec<u8> + Send + Sync + 'static) -> impl Fn(&Hit, usize) -> Vec<u8> + Send + Sync {
    let stage = Arc::downgrade(&stage());
    move |hit, count| stage.upgrade().map_or_else(Vec::new, |stage| play(&stage, hit, count))
}

// What comes in.

/// Posts what has to be refused, and checks every word of the answer, the list and the inbox.
#[track_caller]
fn refused(stage: &Stage, request: &Request, said: &str, code: &str, signed: bool, mic: Option<&str>) -> Answer {
    let before = stage.inbox();
    let answer = request.post(stage.gate.as2_port);
    let text = answer.text();
    assert_eq!(answer.status, 200, "{text}");
    assert_eq!(
        answer.disposition(),
        format!("automatic-action/MDN-sent-automatically; {said}"),
        "{text}"
    );
    assert_eq!(answer.is_signed(), signed, "{said}: {text}");
    let found = text
        .lines()
        .find(|line| line.to_ascii_lowercase().starts_with("received-content-mic:"));
    match mic {
        None => assert_eq!(found, None, "{said}"),
        Some(mic) => assert!(found.is_some_and(|line| line.contains(mic)), "{said}: {found:?} is not {mic}"),
    }
    let rows = stage.listed(request.header("Message-ID").unwrap());
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(
        (&rows[0]["state"], &rows[0]["code"]),
        (&"rejected".into(), &code.into()),
        "{rows:#?}"
    );
    let id = rows[0]["id"].as_str().unwrap().to_owned();
    assert!(!stage.inbox().contains(&id), "it is in the inbox: {before:?}");
    answer
}

#[test]
fn a_hand_made_message_gets_through() {
    // The control of the tests below.
    let stage = stage();
    let sealed = payload().signed(&stage.partner).encrypted(&stage.ours);
    for (id, entity) in [("<clear@test>", payload().signed(&stage.partner)), ("<sealed@test>", sealed)] {
        let answer = entity.message(id).post(stage.gate.as2_port);
        assert_eq!(
            (answer.disposition().as_str(), answer.is_signed()),
            (PROCESSED, true),
            "{}",
            answer.text()
        );
        let rows = stage.listed(id);
        assert!(rows.len() == 1 && stage.inbox().contains(&rows[0]["id"].as_str().unwrap().to_owned()));
    }
    let zipped = compressed(&zlib(&payload().bytes(), 0))
        .message("<zipped@test>")
        .post(stage.gate.as2_port);
    assert_eq!(zipped.disposition(), PROCESSED, "{}", zipped.text());
}

#[test]
fn content_altered_after_signing_is_told_with_the_mic_of_what_came() {
    let stage = stage();
    let content = payload();
    let mut altered = content.signed(&stage.partner);
    let text = String::from_utf8(altered.body).unwrap().replace("PART-0001", "PART-0002");
    altered.body = text.into_bytes();
    let mic = sha256(&content.text().replace("PART-0001", "PART-0002"));
    let said = "processed/error: integrity-check-failed";
    refused(
        &stage,
        &altered.message("<altered@test>"),
        said,
        "integrity-check-failed",
        true,
        Some(&mic),
    );
}

#[test]
fn a_signature_by_a_stranger_is_told_with_the_mic_of_what_came() {
    let stage = stage();
    let content = payload();
    let mic = sha256(&content.text());
    let request = content.signed(&stage.stranger).message("<strange@test>");
    refused(
        &stage,
        &request,
        "processed/error: authentication-failed",
        "authentication-failed",
        true,
        Some(&mic),
    );
}

#[test]
fn all_trouble_with_decryption_is_told_in_the_same_words() {
    let stage = stage();
    let good = payload().signed(&stage.partner).encrypted(&stage.ours);
    let len = good.body.len();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut entity = Entity {
            headers: good.headers.clone(),
            body: good.body.clone(),
        };
        change(&mut entity.body);
        entity
    };
    let find = |what: &[u8]| good.body.windows(what.len()).position(|window| window == what).unwrap();
    // rsaEncryption, NULL, then the wrapped key after four bytes of tag and length.
    let wrapped = find(b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00") + 13 + 4;
    let cases = [
        (
            "other-key",
            payload().signed(&stage.partner).encrypted(&stage.stranger.path("cert.pem")),
        ),
        ("truncated", with(&|body| body.truncate(len - 32))),
        ("padding", with(&|body| body[len - 17] ^= 0x55)),
        ("wrapped-key", with(&|body| body[wrapped + 100] ^= 0x01)),
        ("cut-in-half", with(&|body| body.truncate(len / 2))),
        ("no-cms", with(&|body| body.fill(0x55))),
        ("empty", with(&|body| body.clear())),
    ];
    let mut words = Vec::new();
    for (name, entity) in cases {
        let id = format!("<{name}@test>");
        let said = "processed/error: decryption-failed";
        let answer = refused(&stage, &entity.message(&id), said, "decryption-failed", true, None);
        let text = answer.text().replace(&id, "ID");
        let kept: Vec<_> = text.lines().filter(|line| line.contains("decrypt")).map(str::to_owned).collect();
        words.push((name, kept));
    }
    for (name, kept) in &words {
        assert_eq!(kept, &words[0].1, "{name} is told in other words");
    }
}

#[test]
fn broken_compression_is_refused() {
    let stage = stage();
    let good = zlib(&payload().bytes(), 0);
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 0x10;
    let mut sum = good.clone();
    *sum.last_mut().unwrap() ^= 0x01;
    let twice = compressed(&zlib(&compressed(&good).bytes(), 0));
    let cases = [
        ("zlib-flipped", compressed(&flipped)),
        ("zlib-sum", compressed(&sum)),
        ("zlib-cut", compressed(&good[..good.len() / 2])),
        ("zlib-none", compressed(b"this is no zlib stream")),
        ("zlib-twice", twice),
    ];
    for (name, entity) in cases {
        let request = entity.message(&format!("<{name}@test>"));
        let said = "processed/error: decompression-failed";
        let answer = request.clone().post(stage.gate.as2_port);
        assert!(answer.disposition().ends_with(said), "{name}: {}", answer.text());
        let rows = stage.listed(&format!("<{name}@test>"));
        assert_eq!(
            (rows.len(), &rows[0]["state"], &rows[0]["code"]),
            (1, &"rejected".into(), &"decompression-failed".into()),
            "{name}"
        );
        assert!(
            answer.is_signed() && !stage.inbox().contains(&rows[0]["id"].as_str().unwrap().to_owned()),
            "{name}"
        );
    }
}

#[test]
fn a_bomb_is_refused_within_the_bound_of_memory() {
    let stage = Stage::new(&[]);
    stage.gate.ok(&["partner", "set", CRAFT, "--max-message", "16MiB"]);
    stage.gate.restart();
    let before = stage.gate.peak_memory();
    let bomb = compressed(&zlib(b"Content-Type: application/octet-stream\r\n\r\n", 256)).message("<bomb@test>");
    assert!(bomb.body.len() < 1 << 20);
    let answer = bomb.post(stage.gate.as2_port);
    assert!(
        answer.disposition().ends_with("processed/error: decompression-failed"),
        "{}",
        answer.text()
    );
    assert_eq!(stage.inbox(), [""; 0]);
    let grown = stage.gate.peak_memory() - before;
    assert!(grown < 64 << 20, "the bomb took {grown} bytes");
}

#[test]
fn less_security_than_agreed_is_told_with_a_mic() {
    let stage = stage();
    for (id, option, entity) in [
        ("STRICT1", "--require-signed", payload()),
        ("STRICT2", "--require-encrypted", payload().signed(&stage.partner)),
    ] {
        stage.add(id, 9, &[]);
        let other = if option == "--require-signed" {
            "--require-encrypted"
        } else {
            "--require-signed"
        };
        stage.gate.ok(&["partner", "set", id, option, "true", other, "false"]);
        let request = entity.message(&format!("<{id}@test>")).with("AS2-From", id);
        // The running server follows within two seconds.
        let answer = wait_for("the new partner", || {
            let answer = request.post(stage.gate.as2_port);
            (!answer.disposition().ends_with("unknown-trading-relationship")).then_some(answer)
        });
        let said = "processed/error: insufficient-message-security";
        assert!(answer.disposition().ends_with(said) && answer.is_signed(), "{}", answer.text());
        assert!(
            answer.text().to_ascii_lowercase().contains("received-content-mic:"),
            "{id}: {}",
            answer.text()
        );
    }
}

#[test]
fn receipts_that_cannot_be_made_fail_the_message_unsigned() {
    let stage = stage();
    let protocol = "signed-receipt-protocol=required, pgp-signature; signed-receipt-micalg=optional, sha-256";
    let no_mic = "signed-receipt-protocol=optional, pkcs7-signature; signed-receipt-micalg=required, whirlpool, crc32";
    let cases = [
        ("protocol", protocol, "failed/Failure: unsupported format", "unsupported-format"),
        (
            "micalg",
            no_mic,
            "failed/Failure: unsupported MIC-algorithms",
            "unsupported-mic-algorithms",
        ),
    ];
    for (name, options, said, code) in cases {
        let request = payload().signed(&stage.partner).message(&format!("<{name}@test>"));
        let request = request.with("Disposition-Notification-Options", options);
        refused(&stage, &request, said, code, false, None);
    }
}

#[test]
fn a_sha1_receipt_is_no_receipt_while_the_legacy_switch_is_off() {
    let stage = stage();
    let options = "signed-receipt-protocol=optional, pkcs7-signature; signed-receipt-micalg=required, sha1";
    let request = payload().signed(&stage.partner).message("<sha1@test>");
    let request = request.with("Disposition-Notification-Options", options);
    let said = "failed/Failure: unsupported MIC-algorithms";
    refused(&stage, &request, said, "unsupported-mic-algorithms", false, None);
}

#[test]
fn a_protocol_that_is_only_optional_gets_an_unsigned_mdn() {
    let stage = stage();
    let request = payload().signed(&stage.partner).message("<pgp@test>");
    let request = request.with(
        "Disposition-Notification-Options",
        "signed-receipt-protocol=optional, pgp-signature",
    );
    let answer = request.post(stage.gate.as2_port);
    assert_eq!(
        (answer.disposition().as_str(), answer.is_signed()),
        (PROCESSED, false),
        "{}",
        answer.text()
    );
}

#[test]
fn malformed_message_ids_are_refused_by_name() {
    let stage = stage();
    for id in ["<two words@test>", "<>", "<a@b> <c@d>", &format!("<{}@test>", "x".repeat(1100))] {
        let request = payload().signed(&stage.partner).message(id);
        let answer = request.post(stage.gate.as2_port);
        let said = answer.disposition();
        assert!(
            answer.status == 200 && said.ends_with("processed/error: invalid-message-id"),
            "{id}: {said}"
        );
        let filed = stage.gate.messages("in");
        assert!(
            !filed.iter().any(|m| m["state"] == "filed" && m["message_id"] == id),
            "{id} was filed"
        );
    }
}

#[test]
fn the_mdn_for_a_malformed_message_id_is_signed_as_asked() {
    let stage = stage();
    let request = payload().signed(&stage.partner).message("<three words here@test>");
    let answer = request.post(stage.gate.as2_port);
    assert!(answer.disposition().ends_with("invalid-message-id"), "{}", answer.text());
    assert!(
        answer.is_signed(),
        "as2.md §5.1: only unknown relationships and the two `failed` ones go unsigned: {}",
        answer.text()
    );
}

#[test]
fn a_sender_that_names_itself_as_receiver_is_unknown() {
    let stage = stage();
    for id in [STATION, CRAFT] {
        let message_id = format!("<self-{id}@test>");
        let request = payload()
            .signed(&stage.partner)
            .message(&message_id)
            .with("AS2-From", id)
            .with("AS2-To", id);
        let said = "processed/error: unknown-trading-relationship";
        refused(&stage, &request, said, "unknown-trading-relationship", false, None);
    }
}

#[test]
fn strangers_get_422_where_the_setting_says_so() {
    let stage = Stage::new(&[("as2.unknown_partner", "\"http-422\"")]);
    let request = payload()
        .signed(&stage.partner)
        .message("<nobody@test>")
        .with("AS2-From", "MALLORY");
    let answer = request.post(stage.gate.as2_port);
    assert!(
        answer.status == 422 && answer.text().contains("MALLORY"),
        "{}: {}",
        answer.status,
        answer.text()
    );
    assert_eq!(stage.listed("<nobody@test>")[0]["state"], "rejected");
}

#[test]
fn file_names_cannot_leave_their_directory() {
    let stage = stage();
    let names = ["../../x", "/etc/passwd", "..\\..\\x", "..", "CON\u{7f}", "a/../../b"];
    for (n, name) in names.into_iter().enumerate() {
        let entity =
            Entity::new("application/edi-x12", order(next())).and("Content-Disposition", &format!("attachment; filename=\"{name}\""));
        let id = format!("<name-{n}@test>");
        let answer = entity.signed(&stage.partner).message(&id).post(stage.gate.as2_port);
        assert_eq!(answer.disposition(), PROCESSED, "{name}: {}", answer.text());
        let row = stage.listed(&id).remove(0);
        let dir = format!("AS2/files/{STATION}/{CRAFT}/inbox/{}", row["id"].as_str().unwrap());
        let kept = stage.user.ls(&dir);
        assert_eq!(kept.len(), 1, "{name}: {kept:?}");
        assert!(!kept[0].contains(['/', '\\']) && !kept[0].starts_with('.'), "{name}: {kept:?}");
        assert_eq!(row["file"].as_str().unwrap(), kept[0]);
    }
}

#[test]
fn no_mdn_goes_where_the_partner_does_not_live() {
    let stage = stage();
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    foreign.set_nonblocking(true).unwrap();
    let loopback = format!("http://127.0.0.1:{}/mdn", foreign.local_addr().unwrap().port());
    let user_info = format!("http://127.0.0.1:9@127.0.0.1:{}/mdn", foreign.local_addr().unwrap().port());
    let urls = [
        &loopback,
        &user_info,
        "file:///etc/passwd",
        "gopher://127.0.0.1/x",
        "http://169.254.169.254/",
        "not a url",
    ];
    for (n, url) in urls.into_iter().enumerate() {
        let id = format!("<foreign-{n}@test>");
        let request = payload().signed(&stage.partner).message(&id).with("Receipt-Delivery-Option", url);
        let answer = request.post(stage.gate.as2_port);
        assert!((200..300).contains(&answer.status), "{url}: {}", answer.text());
        let row = wait_for("the message to be filed", || {
            stage.listed(&id).into_iter().find(|row| row["state"] == "filed")
        });
        let whole = stage.gate.wait("the alert", |gate| {
            let whole = gate.show(row["id"].as_str().unwrap());
            whole["marks"].as_array().is_some_and(|marks| !marks.is_empty()).then_some(whole)
        });
        assert!(whole["marks"].to_string().contains("MDN not delivered"), "{url}: {whole:#}");
    }
    thread::sleep(QUIET);
    assert!(foreign.accept().is_err(), "the gateway called a foreign address");
}

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

#[test]
fn a_message_encrypted_anew_under_its_id_gets_the_same_mdn() {
    let stage = stage();
    let signed = payload().signed(&stage.partner);
    let [first, again] = [(), ()].map(|()| signed.encrypted(&stage.ours).message("<anew@test>"));
    assert!(first.body != again.body);
    let (one, two) = (first.post(stage.gate.as2_port), again.post(stage.gate.as2_port));
    assert_eq!(one.disposition(), PROCESSED, "{}", one.text());
    assert!(
        one.body == two.body && one.header("Message-ID") == two.header("Message-ID"),
        "{}",
        two.text()
    );
    assert_eq!(stage.listed("<anew@test>").iter().filter(|row| row["state"] == "filed").count(), 1);
}

#[test]
fn other_content_under_a_bound_id_is_told_and_alerted() {
    let stage = stage();
    let message = |entity: Entity| entity.signed(&stage.partner).message("<bound@test>");
    assert_eq!(message(payload()).post(stage.gate.as2_port).disposition(), PROCESSED);
    let answer = message(payload()).post(stage.gate.as2_port);
    let said = "automatic-action/MDN-sent-automatically; processed/error: unexpected-processing-error";
    assert_eq!(
        (answer.disposition().as_str(), answer.is_signed()),
        (said, true),
        "{}",
        answer.text()
    );
    let mut states: Vec<_> = stage.listed("<bound@test>").iter().map(|row| row["state"].to_string()).collect();
    states.sort();
    assert_eq!(states, ["\"filed\"", "\"quarantined\""]);
    assert!(stage.gate.log().contains("its id is bound"));
}

#[test]
fn a_refused_id_may_be_used_for_a_good_message() {
    let stage = stage();
    let bad = payload().signed(&stage.stranger).message("<mended@test>");
    refused(
        &stage,
        &bad,
        "processed/error: authentication-failed",
        "authentication-failed",
        true,
        Some(""),
    );
    let good = payload().signed(&stage.partner).message("<mended@test>").post(stage.gate.as2_port);
    assert_eq!(good.disposition(), PROCESSED, "{}", good.text());
    assert!(stage.listed("<mended@test>").iter().any(|row| row["state"] == "filed"));
}

#[test]
fn a_bad_message_that_asks_for_no_mdn_is_refused_in_silence() {
    let stage = stage();
    let request = payload().signed(&stage.stranger).message("<silent@test>");
    let request = request
        .without("Disposition-Notification-To")
        .without("Disposition-Notification-Options");
    let answer = request.post(stage.gate.as2_port);
    assert!(
        (200..300).contains(&answer.status) && answer.body.is_empty(),
        "{}: {}",
        answer.status,
        answer.text()
    );
    let row = wait_for("the check", || {
        stage.listed("<silent@test>").into_iter().find(|row| row["state"] != "received")
    });
    assert_eq!((&row["state"], &row["code"]), (&"rejected".into(), &"authentication-failed".into()));
    assert!(!stage.inbox().contains(&row["id"].as_str().unwrap().to_owned()));
}

#[test]
fn a_stranger_that_asks_for_an_async_mdn_is_told_in_the_answer() {
    let stage = stage();
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let url = format!("http://{}/mdn", trap.local_addr().unwrap());
    let request = payload().signed(&stage.stranger).message("<async-stranger@test>");
    let request = request.with("AS2-From", "MALLORY").with("Receipt-Delivery-Option", &url);
    let said = "processed/error: unknown-trading-relationship";
    refused(&stage, &request, said, "unknown-trading-relationship", false, None);
    thread::sleep(QUIET);
    assert!(trap.accept().is_err(), "a stranger made the gateway call");
}

#[test]
fn a_negative_async_mdn_goes_out_with_the_same_bytes_on_each_try() {
    let stage = stage();
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    stage.add("LATER", port, &["--require-encrypted", "false"]);
    let url = format!("http://127.0.0.1:{port}/mdn");
    let request = payload().signed(&stage.stranger).message("<later@test>");
    let request = request.with("AS2-From", "LATER").with("Receipt-Delivery-Option", &url);
    wait_for("the new partner", || {
        let answer = request.post(stage.gate.as2_port);
        (answer.status == 204 && answer.body.is_empty()).then_some(())
    });
    let [first, second] = [503, 200].map(|status| {
        let mut stream = listener.accept().unwrap().0;
        let hit = read_request(&mut stream).unwrap();
        stream.write_all(&http(status, &[], "")).unwrap();
        hit
    });
    assert!(
        first.head == second.head && first.message.body == second.message.body,
        "{}\n{}",
        first.head,
        second.head
    );
    let text = String::from_utf8_lossy(&first.message.body).into_owned();
    assert!(
        text.contains("processed/error: authentication-failed") && text.contains("Original-Message-ID: <later@test>"),
        "{text}"
    );
    assert!(first.message.header("Content-Type").unwrap().starts_with("multipart/signed"));
}

// What partners answer.

#[test]
fn a_good_answer_delivers_in_every_mode() {
    let stage = stage();
    let scenes: Vec<_> = ["sync", "sync-signed", "async", "async-signed", "none"]
        .map(|mode| {
            let good = good(&stage);
            Scene::play(mode, &[], move |hit, _| good(hit))
        })
        .into();
    scenes.iter().for_each(|scene| {
        let message = scene.reaches("delivered");
        assert_eq!(message["mdn_signature"], "signed", "{message:#}");
    });
    scenes[0].ends("delivered", "", 1);
    scenes.iter().for_each(|scene| scene.posts(1));
}

#[test]
fn a_2xx_without_mdn_is_an_unknown_outcome() {
    let bodies = [
        http(200, &[], ""),
        http(200, &[("Content-Type", "text/html")], "<html>OK</html>"),
        http(204, &[], ""),
        http(
            200,
            &[("Content-Type", "multipart/report; report-type=disposition-notification; boundary=x")],
            "--x\r\ngarbage",
        ),
        http(200, &[("Content-Type", "multipart/signed; boundary=x")], "\0\0\0"),
    ];
    for bytes in bodies {
        let (one, two, three) = (bytes.clone(), bytes.clone(), bytes);
        let sync = Scene::play("sync-signed", &[], move |_, _| one.clone());
        let asynchronous = Scene::play("async-signed", &[], move |_, _| two.clone());
        let none = Scene::play("none", &[], move |_, _| three.clone());
        asynchronous.reaches("waiting-mdn");
        none.reaches("delivered");
        let message = sync.ends("failed", "no-mdn", 1);
        assert_eq!(message["mdn_disposition"].as_str().unwrap_or_default(), "");
        assert_eq!(asynchronous.message()["state"], "waiting-mdn");
        asynchronous.posts(1);
        none.posts(1);
    }
}

#[test]
fn an_answer_larger_than_any_mdn_is_an_unknown_outcome_at_once() {
    let scene = Scene::play("sync-signed", &[], |_, _| {
        http(200, &[("Content-Type", "text/html")], &"x".repeat(3 << 20))
    });
    scene.ends("failed", "no-mdn", 1);
}

#[test]
fn an_answer_cut_off_in_its_body_goes_again_with_the_same_bytes() {
    let play = |mode: &str| {
        Scene::play(
            mode,
            &[],
            with_stage(|stage, hit, count| {
                let mut bytes = answer(200, &Receipt::of(hit).signed(&stage.partner));
                if count < 3 {
                    bytes.truncate(bytes.len() - 300);
                }
                bytes
            }),
        )
    };
    let (sync, waiting, none) = (play("sync-signed"), play("async-signed"), play("none"));
    waiting.reaches("waiting-mdn");
    none.reaches("delivered");
    sync.ends("delivered", "", 3);
    assert_eq!(waiting.message()["state"], "waiting-mdn");
    waiting.posts(1);
    none.posts(1);
}

/// The same answer in three modes ends in the same way, after one post.
#[track_caller]
fn final_in_every_mode(status: u16, headers: &'static [(&'static str, &'static str)], code: &str) -> Value {
    let scenes = ["sync-signed", "async-signed", "none"].map(|mode| Scene::play(mode, &[], move |_, _| http(status, headers, "Sorry.")));
    for scene in &scenes {
        let message = scene.reaches("failed");
        assert_eq!(message["code"], code, "{message:#}");
    }
    let message = scenes[0].ends("failed", code, 1);
    scenes.iter().for_each(|scene| scene.posts(1));
    assert_ne!(message["hint"].as_str().unwrap_or_default(), "", "{message:#}");
    message
}

#[test]
fn redirects_are_errors_of_configuration() {
    for status in [301, 302, 307, 308] {
        final_in_every_mode(status, &[("Location", "http://127.0.0.1:9/elsewhere")], "redirect");
    }
}

#[test]
fn status_401_asks_for_credentials() {
    let message = final_in_every_mode(401, &[("WWW-Authenticate", "Basic realm=x")], "http-401");
    assert!(message["hint"].as_str().unwrap().contains("credentials"), "{message:#}");
}

#[test]
fn status_403_and_404_are_final() {
    final_in_every_mode(403, &[], "http-403");
    final_in_every_mode(404, &[], "http-404");
}

#[test]
fn status_411_hints_at_chunking() {
    let message = final_in_every_mode(411, &[], "http-411");
    assert!(message["hint"].as_str().unwrap().contains("chunked"), "{message:#}");
}

#[test]
fn status_413_and_422_are_final() {
    let message = final_in_every_mode(413, &[], "http-413");
    assert!(message["hint"].as_str().unwrap().contains("size"), "{message:#}");
    let message = final_in_every_mode(422, &[], "http-422");
    assert!(message["hint"].as_str().unwrap().contains("AS2 id"), "{message:#}");
}

#[test]
fn passing_trouble_is_tried_again_with_the_same_bytes() {
    let stage = stage();
    let scenes: Vec<_> = [408, 425, 429, 500, 502, 503, 504]
        .map(|status| {
            let good = good(&stage);
            Scene::play(
                "sync-signed",
                &[],
                move |hit, count| if count < 2 { http(status, &[], "Later.") } else { good(hit) },
            )
        })
        .into();
    scenes.iter().for_each(|scene| {
        scene.reaches("delivered");
    });
    scenes.iter().for_each(|scene| scene.posts(2));
    let message = scenes[0].ends("delivered", "", 2);
    assert_eq!(message["tries"][0]["status"], 408, "{message:#}");
}

#[test]
fn retry_after_is_honoured() {
    let stage = stage();
    let scenes = [429, 503].map(|status| {
        let good = good(&stage);
        Scene::play("sync-signed", &[], move |hit, count| {
            if count < 2 {
                http(status, &[("Retry-After", &RETRY_AFTER.to_string())], "Later.")
            } else {
                good(hit)
            }
        })
    });
    for scene in &scenes {
        scene.reaches("delivered");
        scene.posts(2);
        let hits = scene.hits.lock().unwrap();
        assert!(
            hits[1].at - hits[0].at >= Duration::from_secs(RETRY_AFTER),
            "{:?}",
            hits[1].at - hits[0].at
        );
    }
}

#[test]
fn retry_after_may_be_a_date() {
    let good = good(&stage());
    let scene = Scene::play("sync-signed", &[], move |hit, count| {
        if count < 2 {
            let date = run(&mut tool("date", &["-u", "-d", "+6 seconds", "+%a, %d %b %Y %H:%M:%S GMT"])).ok();
            http(503, &[("Retry-After", date.trim())], "Later.")
        } else {
            good(hit)
        }
    });
    scene.reaches("delivered");
    let hits = scene.hits.lock().unwrap();
    assert!(
        hits[1].at - hits[0].at >= Duration::from_secs(RETRY_AFTER),
        "{:?}",
        hits[1].at - hits[0].at
    );
}

#[test]
fn the_last_try_tells_whether_the_partner_may_hold_the_message() {
    let tries = ["--retry-max-tries", "2"];
    let refused = Scene::towards(&stage(), free_port(), "sync-signed", &tries, &order(1), Arc::default());
    let answered = Scene::play("sync-signed", &tries, |_, _| http(503, &[], "Later."));
    let silent = Scene::play("sync-signed", &tries, |_, _| Vec::new());
    for scene in [&answered, &silent] {
        let message = scene.reaches("failed");
        assert_eq!(
            (&message["code"], &message["attempts"]),
            (&"no-mdn".into(), &2.into()),
            "{message:#}"
        );
    }
    let message = refused.ends("failed", "not-delivered", 0);
    assert_eq!(message["attempts"], 2, "{message:#}");
    assert!(
        message["tries"].as_array().unwrap().iter().all(|one| one["body_sent"] == false),
        "{message:#}"
    );
    answered.ends("failed", "no-mdn", 2);
    silent.ends("failed", "no-mdn", 2);
}

#[test]
fn a_reset_after_the_body_goes_again_in_every_mode() {
    let stage = stage();
    let cases = [
        ("sync-signed", ""),
        ("async-signed", ""),
        ("none", ""),
        ("none", "HTTP/1.1 2"),
        ("none", "SSH-2.0-OpenSSH_9.2\r\n"),
    ];
    let scenes = cases.map(|(mode, first)| {
        let good = good(&stage);
        Scene::play(mode, &[], move |hit, count| if count < 2 { first.into() } else { good(hit) })
    });
    scenes.iter().for_each(|scene| {
        scene.reaches("delivered");
    });
    scenes[0].ends("delivered", "", 2);
    scenes.iter().for_each(|scene| scene.posts(2));
}

#[test]
fn names_and_certificates_that_do_not_hold_are_no_delivery() {
    let stage = stage();
    let port = free_port();
    let key = stage.stranger.path("both.pem");
    let listen = port.to_string();
    let args = [
        "s_server",
        "-quiet",
        "-accept",
        &listen,
        "-cert",
        key.to_str().unwrap(),
        "-key",
        key.to_str().unwrap(),
    ];
    let mut server = tool("openssl", &args);
    let mut server = server
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let ended = [format!("https://127.0.0.1:{port}/as2"), "http://nobody.invalid/as2".to_owned()].map(|url| {
        let options = ["--retry-max-tries", "2", "--url", &url];
        Scene::towards(&stage, 9, "none", &options, &order(1), Arc::default()).reaches("failed")
    });
    let _ = (server.kill(), server.wait());
    for message in ended {
        assert_eq!(
            (&message["code"], &message["attempts"]),
            (&"not-delivered".into(), &2.into()),
            "{message:#}"
        );
        assert!(
            message["tries"].as_array().unwrap().iter().all(|one| one["body_sent"] == false),
            "{message:#}"
        );
    }
}

#[test]
fn a_retry_by_hand_posts_the_same_bytes() {
    let good = good(&stage());
    let scene = Scene::play("sync-signed", &[], move |hit, count| match count {
        1 => http(404, &[], "Not here."),
        2 => http(200, &[], ""),
        _ => good(hit),
    });
    for code in ["http-404", "no-mdn"] {
        let message = scene.stage.gate.wait("the end of a try", |_| {
            Some(scene.message()).filter(|message| message["state"] == "failed" && message["code"] == code)
        });
        scene.stage.gate.ok(&["message", "retry", message["id"].as_str().unwrap()]);
    }
    let message = scene.stage.gate.wait("delivery", |_| {
        Some(scene.message()).filter(|message| message["state"] == "delivered")
    });
    scene.posts(3);
    assert_eq!(message["attempts"], 3, "{message:#}");
}

#[test]
fn no_answer_in_time_goes_again() {
    let good = good(&stage());
    let scene = Scene::play("sync-signed", &["--response-timeout", "1s"], move |hit, count| {
        if count < 2 {
            thread::sleep(Duration::from_secs(3));
        }
        good(hit)
    });
    scene.ends("delivered", "", 2);
}

#[test]
fn interim_answers_are_not_the_answer() {
    let good = good(&stage());
    let scene = Scene::play("sync-signed", &[], move |hit, _| {
        [
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nX-Some: thing\r\n\r\n".as_slice(),
            &good(hit),
        ]
        .concat()
    });
    scene.ends("delivered", "", 1);
}

/// A partner that answers after the head, reads nothing for a while, and drains or drops the rest.
fn early(mode: &str, status: u16, drains: bool) -> Scene {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut piece = [0u8; 4096];
            let _ = stream.read(&mut piece);
            if status > 0 {
                let _ = stream.write_all(&http(status, &[], "Enough."));
            }
            thread::sleep(Duration::from_millis(500));
            while drains && stream.read(&mut piece).is_ok_and(|n| n > 0) {}
        }
    });
    let tries = ["--retry-max-tries", "2"];
    Scene::towards(&stage(), port, mode, &tries, &noise(16 << 20, 7), Arc::default())
}

#[test]
fn an_answer_before_the_end_of_the_body_counts() {
    let (refused, dropped, later) = (
        early("sync-signed", 413, true),
        early("async-signed", 413, false),
        early("none", 503, true),
    );
    for scene in [&refused, &dropped] {
        let message = scene.reaches("failed");
        assert_eq!(
            (&message["code"], &message["attempts"]),
            (&"http-413".into(), &1.into()),
            "{message:#}"
        );
    }
    let message = later.reaches("failed");
    assert_eq!(message["attempts"], 2, "{message:#}");
}

#[test]
fn a_200_before_the_end_of_the_body_is_no_delivery() {
    // The partner never took the body: its 200 cannot mean that it holds the message.
    let message = early("none", 200, false).reaches("failed");
    assert_eq!(message["attempts"], 2, "{message:#}");
}

#[test]
fn a_connection_lost_inside_the_body_is_no_delivery() {
    let message = early("none", 0, false).reaches("failed");
    assert_eq!(
        (&message["code"], &message["attempts"]),
        (&"not-delivered".into(), &2.into()),
        "{message:#}"
    );
}

// What MDNs say.

#[test]
fn the_mdn_for_another_message_is_no_receipt() {
    let scene = Scene::play(
        "sync-signed",
        &[],
        with_stage(|stage, hit, _| {
            let mut receipt = Receipt::of(hit);
            receipt.original = "<another@test>".to_owned();
            answer(200, &receipt.signed(&stage.partner))
        }),
    );
    scene.ends("failed", "mdn-mismatch", 1);
}

#[test]
fn the_mdn_of_another_partner_is_no_receipt() {
    let scene = Scene::play(
        "sync-signed",
        &[],
        with_stage(|stage, hit, _| {
            let mut receipt = Receipt::of(hit);
            receipt.from = CRAFT.to_owned();
            answer(200, &receipt.signed(&stage.partner))
        }),
    );
    scene.ends("failed", "mdn-mismatch", 1);
}

#[test]
fn an_unsigned_mdn_where_a_signed_one_was_asked_for_proves_nothing() {
    let positive = Scene::play("sync-signed", &[], |hit, _| answer(200, &Receipt::of(hit).unsigned()));
    let negative = Scene::play("sync-signed", &[], |hit, _| {
        answer(200, &Receipt::of(hit).says("processed/error: decryption-failed").unsigned())
    });
    assert_eq!(negative.reaches("failed")["code"], "decryption-failed");
    let message = positive.ends("failed", "mdn-not-signed", 1);
    assert_eq!(message["mdn_signature"], "unsigned", "{message:#}");
    negative.posts(1);
}

#[test]
fn a_signature_of_a_stranger_on_an_mdn_proves_nothing() {
    let stranger = Scene::play(
        "sync-signed",
        &[],
        with_stage(|stage, hit, _| answer(200, &Receipt::of(hit).signed(&stage.stranger))),
    );
    let unasked = Scene::play(
        "sync",
        &[],
        with_stage(|stage, hit, _| answer(200, &Receipt::of(hit).signed(&stage.stranger))),
    );
    let altered = Scene::play(
        "sync-signed",
        &[],
        with_stage(|stage, hit, _| {
            let mut mdn = Receipt::of(hit).says("processed/error: decryption-failed").signed(&stage.partner);
            let text = String::from_utf8(mdn.body).unwrap();
            mdn.body = text.replace("processed/error: decryption-failed", "processed").into_bytes();
            answer(200, &mdn)
        }),
    );
    for scene in [&unasked, &altered] {
        let message = scene.reaches("failed");
        assert_eq!(message["code"], "mdn-signature-invalid", "{message:#}");
    }
    stranger.ends("failed", "mdn-signature-invalid", 1);
}

#[test]
fn a_wrong_mic_fails_and_a_missing_one_is_marked() {
    let play = |options: &[&str], mic: &'static str| {
        Scene::play(
            "sync-signed",
            options,
            with_stage(move |stage, hit, _| {
                let mut receipt = Receipt::of(hit);
                mic.clone_into(&mut receipt.mic);
                answer(200, &receipt.signed(&stage.partner))
            }),
        )
    };
    let wrong = play(&[], "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    let missing = play(&[], "");
    let strict = play(&["--strict-mic", "true"], "");
    let message = missing.reaches("delivered");
    assert!(message["marks"].to_string().contains("no MIC"), "{message:#}");
    assert_eq!(strict.reaches("failed")["code"], "mic-missing");
    let message = wrong.ends("failed", "mic-mismatch", 1);
    let mdn = format!("ls AS2/raw-mdn/incoming/{}.mdn", message["id"].as_str().unwrap());
    assert_eq!(wrong.stage.user.run(&[&mdn]).code, 0, "the MDN is not kept");
}

#[test]
fn negative_mdns_are_final_and_named_after_what_they_say() {
    let said = [
        ("processed/error: authentication-failed", "authentication-failed"),
        ("processed/Error: Decompression-Failed", "decompression-failed"),
        ("failed/failure: sender-equals-receiver", "sender-equals-receiver"),
        ("processed/error: unexpected-processing-error", "unexpected-processing-error"),
        ("failed/Failure: unsupported format", "unsupported-format"),
    ];
    let scenes = said.map(|(words, _)| {
        Scene::play(
            "sync-signed",
            &[],
            with_stage(move |stage, hit, _| answer(200, &Receipt::of(hit).says(words).signed(&stage.partner))),
        )
    });
    for (scene, (words, code)) in scenes.iter().zip(said) {
        let message = scene.reaches("failed");
        assert_eq!(message["code"], code, "{words}: {message:#}");
    }
    scenes[0].ends("failed", said[0].1, 1);
    scenes.iter().for_each(|scene| scene.posts(1));
}

#[test]
fn a_negative_mdn_counts_where_none_was_asked_for() {
    let none = Scene::play("none", &[], |hit, _| {
        answer(200, &Receipt::of(hit).says("processed/error: decryption-failed").unsigned())
    });
    none.ends("failed", "decryption-failed", 1);
}

#[test]
fn an_mdn_decides_whatever_the_status_says() {
    let play = |status: u16, mode: &str, words: &'static str| {
        Scene::play(
            mode,
            &[],
            with_stage(move |stage, hit, _| answer(status, &Receipt::of(hit).says(words).signed(&stage.partner))),
        )
    };
    let delivered: Vec<_> = [
        (500, "sync-signed"),
        (404, "sync-signed"),
        (500, "async-signed"),
        (500, "none"),
        (302, "sync-signed"),
    ]
    .map(|(status, mode)| play(status, mode, "processed"))
    .into();
    let failed = play(503, "sync-signed", "processed/error: decryption-failed");
    delivered.iter().for_each(|scene| {
        scene.reaches("delivered");
    });
    failed.ends("failed", "decryption-failed", 1);
    delivered.iter().for_each(|scene| scene.posts(1));
}

#[test]
fn a_warning_is_positive() {
    let scene = Scene::play(
        "sync-signed",
        &[],
        with_stage(|stage, hit, _| {
            let words = "processed/warning: authentication-failed, processing continued";
            answer(200, &Receipt::of(hit).says(words).signed(&stage.partner))
        }),
    );
    scene.ends("delivered", "", 1);
}

#[test]
fn a_duplicate_notice_holds_a_first_try_and_ends_a_second() {
    let play = |first: &'static str| {
        Scene::play(
            "sync-signed",
            &[],
            with_stage(move |stage, hit, count| match (first, count) {
                ("lost", 1) => Vec::new(),
                _ => {
                    let mut receipt = Receipt::of(hit).says("processed/warning: duplicate-document");
                    receipt.mic.clear();
                    answer(200, &receipt.signed(&stage.partner))
                }
            }),
        )
    };
    let (first, second) = (play("known"), play("lost"));
    assert_eq!(first.reaches("held")["code"], "duplicate-at-partner");
    let message = second.ends("delivered", "", 2);
    assert!(message["marks"].to_string().contains("receipt lost"), "{message:#}");
    first.posts(1);
}

// MDNs that come by themselves.

#[test]
fn an_async_mdn_may_come_before_the_answer() {
    let scenes = [204, 200, 503].map(|status| {
        Scene::play(
            "async-signed",
            &[],
            with_stage(move |stage, hit, _| {
                post_mdn(stage.gate.as2_port, &Receipt::of(hit).signed(&stage.partner));
                http(status, &[], "")
            }),
        )
    });
    let dropped = Scene::play(
        "async-signed",
        &[],
        with_stage(|stage, hit, _| {
            post_mdn(stage.gate.as2_port, &Receipt::of(hit).signed(&stage.partner));
            Vec::new()
        }),
    );
    scenes[0].ends("delivered", "", 1);
    for scene in scenes.iter().chain([&dropped]) {
        scene.ends("delivered", "", 1);
    }
}

#[test]
fn an_async_mdn_ends_the_wait_for_another_try() {
    let scene = Scene::play("async-signed", &[], |_, _| {
        http(503, &[("Retry-After", &RETRY_AFTER.to_string())], "Later.")
    });
    scene.reaches("retrying");
    scene.post_mdn(&Receipt::of(&scene.hit()).signed(&scene.stage.partner));
    scene.reaches("delivered");
    thread::sleep(Duration::from_secs(RETRY_AFTER));
    scene.ends("delivered", "", 1);
}

#[test]
fn a_late_mdn_settles_an_unknown_outcome() {
    let scene = Scene::play("async-signed", &["--mdn-wait", "1s"], |_, _| http(204, &[], ""));
    // The same bytes again once, then the end.
    let message = scene.ends("failed", "no-mdn", 2);
    let receipt = Receipt::of(&scene.hit());
    let settled = |scene: &Scene| scene.message()["state"] == "delivered";
    scene.post_mdn(&receipt.unsigned());
    scene.post_mdn(&receipt.signed(&scene.stage.stranger));
    scene.post_mdn(
        &receipt
            .clone()
            .says("processed/error: decryption-failed")
            .signed(&scene.stage.partner),
    );
    thread::sleep(Duration::from_millis(300));
    assert!(
        !settled(&scene),
        "a forged or negative MDN changed a final message: {:#}",
        scene.message()
    );
    assert_eq!(scene.message()["code"], "no-mdn");
    scene.post_mdn(&receipt.signed(&scene.stage.partner));
    let late = scene.ends("delivered", "", 2);
    assert!(late["marks"].to_string().contains("late"), "{late:#}");
    assert_eq!(late["id"], message["id"]);
}

#[test]
fn a_late_mdn_settles_a_sync_message_without_one() {
    let scene = Scene::play("sync-signed", &[], |_, _| http(200, &[], ""));
    scene.reaches("failed");
    scene.post_mdn(&Receipt::of(&scene.hit()).signed(&scene.stage.partner));
    let late = scene.ends("delivered", "", 1);
    assert!(late["marks"].to_string().contains("late"), "{late:#}");
}

#[test]
fn a_late_mdn_leaves_nothing_in_failed() {
    let scene = Scene::play("sync-signed", &[], |_, _| http(200, &[], ""));
    let id = scene.reaches("failed")["id"].as_str().unwrap().to_owned();
    scene.post_mdn(&Receipt::of(&scene.hit()).signed(&scene.stage.partner));
    scene
        .stage
        .gate
        .wait("delivery", |_| (scene.message()["state"] == "delivered").then_some(()));
    let listed = |tray: &str| {
        scene
            .stage
            .user
            .ls(&format!("AS2/files/{STATION}/{}/{tray}", scene.partner))
            .contains(&id)
    };
    assert!(listed("outbox") && !listed("failed"));
}

#[test]
fn a_late_mdn_does_not_settle_what_failed_for_another_reason() {
    let mismatch = Scene::play(
        "sync-signed",
        &[],
        with_stage(|stage, hit, _| {
            let mut receipt = Receipt::of(hit);
            receipt.mic = sha256("something else");
            answer(200, &receipt.signed(&stage.partner))
        }),
    );
    mismatch.reaches("failed");
    mismatch.post_mdn(&Receipt::of(&mismatch.hit()).signed(&mismatch.stage.partner));
    mismatch.ends("failed", "mic-mismatch", 1);
}

#[test]
fn forged_async_mdns_change_nothing() {
    let scene = Scene::play("async-signed", &[], |_, _| http(204, &[], ""));
    scene.reaches("waiting-mdn");
    let receipt = Receipt::of(&scene.hit());
    let negative = receipt.clone().says("processed/error: decryption-failed");
    let mut elsewhere = receipt.clone();
    elsewhere.from = CRAFT.to_owned();
    let mut unknown = receipt.clone();
    unknown.original = "<never-sent@test>".to_owned();
    for forged in [
        receipt.unsigned(),
        negative.unsigned(),
        receipt.signed(&scene.stage.stranger),
        negative.signed(&scene.stage.stranger),
        elsewhere.signed(&scene.stage.partner),
        unknown.signed(&scene.stage.partner),
    ] {
        scene.post_mdn(&forged);
        assert_eq!(scene.message()["state"], "waiting-mdn", "{:#}", scene.message());
    }
    scene.post_mdn(&receipt.signed(&scene.stage.partner));
    scene.ends("delivered", "", 1);
}

#[test]
fn a_negative_async_mdn_is_final() {
    let scene = Scene::play("async-signed", &[], |_, _| http(204, &[], ""));
    scene.reaches("waiting-mdn");
    let receipt = Receipt::of(&scene.hit());
    scene.post_mdn(
        &receipt
            .clone()
            .says("processed/error: authentication-failed")
            .signed(&scene.stage.partner),
    );
    scene.reaches("failed");
    // Contradicted afterwards: kept as evidence, without effect.
    scene.post_mdn(&receipt.signed(&scene.stage.partner));
    scene.ends("failed", "authentication-failed", 1);
}

#[test]
fn a_second_and_a_contradicting_mdn_change_nothing() {
    let scene = Scene::play("async-signed", &[], |_, _| http(204, &[], ""));
    scene.reaches("waiting-mdn");
    let receipt = Receipt::of(&scene.hit());
    let first = receipt.signed(&scene.stage.partner);
    scene.post_mdn(&first);
    scene.reaches("delivered");
    scene.post_mdn(&first);
    scene.post_mdn(&receipt.signed(&scene.stage.partner));
    scene.post_mdn(
        &receipt
            .clone()
            .says("processed/error: decryption-failed")
            .signed(&scene.stage.partner),
    );
    let message = scene.ends("delivered", "", 1);
    let id = message["id"].as_str().unwrap();
    assert!(
        message["mdn_disposition"].as_str().unwrap().ends_with("processed"),
        "the contradiction overwrote the receipt: {message:#}"
    );
    let kept = scene.stage.user.ls("AS2/raw-mdn/incoming");
    assert!(
        kept.iter().filter(|name| name.contains(id)).count() > 1,
        "the contradiction is not kept: {kept:?}"
    );
}

#[test]
fn a_wrong_mic_in_an_async_mdn_fails_the_message() {
    let scene = Scene::play("async-signed", &[], |_, _| http(204, &[], ""));
    scene.reaches("waiting-mdn");
    let mut receipt = Receipt::of(&scene.hit());
    receipt.mic = sha256("something else");
    scene.post_mdn(&receipt.signed(&scene.stage.partner));
    scene.ends("failed", "mic-mismatch", 1);
}
