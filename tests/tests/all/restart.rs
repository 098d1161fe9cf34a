//! AS2 Restart: a body that broke off goes on where it stopped, here as receiver and as sender.

mod access;
mod rejected;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;
use tests::process::wait_for;
use tests::relay::Relay;
use tests::wire::{Answer, Request, exchange, header_lines};
use tests::{Gateway, Pair, Shared, noise};

static PAIR: Shared<Pair> = Shared::new();

/// Bytes of payload that make a body of some hundred KiB.
const SIZE: usize = 400_000;
/// More than the head of any request here.
const HEAD: usize = 4_000;

fn pair() -> Arc<Pair> {
    PAIR.get(Pair::two_gateways)
}

/// A captured message whose payload is `size` bytes of noise, with a transfer id.
fn restartable(pair: &Pair, name: &str, size: usize) -> Request {
    let request = pair.captured(name, &noise(size, name.len() as u64));
    request.with("ETag", &format!("\"{name}\""))
}

fn ranged(request: &Request, first: usize) -> Request {
    let total = request.body.len();
    let mut rest = request
        .clone()
        .with("Content-Range", &format!("bytes {first}-{}/{total}", total - 1));
    rest.body.drain(..first);
    rest
}

/// Begins a POST and sends only the first bytes of its body.
fn begin(port: u16, request: &Request, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut head = format!(
        "POST /as2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n",
        request.body.len()
    );
    request
        .headers
        .iter()
        .for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    stream.write_all(&request.body[..bytes]).unwrap();
    stream
}

fn ask(port: u16, request: &Request) -> Answer {
    let names = ["AS2-From", "AS2-To", "AS2-Version", "ETag"];
    let question: Vec<_> = names
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), request.header(name)?.to_owned())))
        .collect();
    exchange(port, "HEAD", "/as2", &question, b"")
}

/// Bytes held of a transfer, once nobody writes it any more.
#[track_caller]
fn held(port: u16, request: &Request) -> usize {
    wait_for("the server to see the end of the connection", || {
        let answer = ask(port, request);
        assert!(answer.body.is_empty() && matches!(answer.status, 200 | 500), "{answer:?}");
        (answer.status == 200).then(|| answer.header("Content-Length").unwrap().parse().unwrap())
    })
}

/// Breaks a POST off after some bytes of its body. The server closes once it has done with what came.
#[track_caller]
fn broken(port: u16, request: &Request, bytes: usize) {
    let mut stream = begin(port, request, bytes);
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(
        answer.is_empty(),
        "an answer to a body that broke off: {}",
        String::from_utf8_lossy(&answer)
    );
}

#[track_caller]
fn refused_range(answer: &Answer, held: usize) {
    assert_eq!(answer.status, 416, "{}", answer.text());
    assert_eq!(answer.header("Content-Range"), Some(format!("bytes */{held}").as_str()));
}

#[track_caller]
fn taken(answer: &Answer) {
    assert!(
        answer.status == 200 && answer.is_signed() && answer.disposition().ends_with("processed"),
        "{}: {}",
        answer.status,
        answer.text()
    );
}

/// The one message at BOB under the Message-ID of a request.
#[track_caller]
fn filed(pair: &Pair, request: &Request) -> Value {
    let all = pair.bob().messages("in");
    let mut found = all
        .into_iter()
        .filter(|message| message["message_id"] == request.header("Message-ID").unwrap());
    let message = found.next().expect("a message");
    assert_eq!((message["state"].as_str(), found.next()), (Some("filed"), None));
    message
}

/// The payload in BOB's inbox is that of this request; the id of its message.
#[track_caller]
fn payload_filed(pair: &Pair, request: &Request, payload: &[u8]) -> String {
    let got = filed(pair, request);
    let (id, file) = (got["id"].as_str().unwrap(), got["file"].as_str().unwrap());
    let there = pair.bob_user.get(&format!("AS2/files/BOB/ALICE/inbox/{id}/{file}"));
    assert!(there == payload, "the payload differs");
    id.to_owned()
}

/// Payload, raw message and header block at BOB are those of this request.
#[track_caller]
fn same_as_sent(pair: &Pair, request: &Request, payload: &[u8], range: &str) {
    let id = payload_filed(pair, request, payload);
    let get = |path: String| pair.bob_user.get(&path);
    let raw = get(format!("AS2/raw-message/BOB/ALICE/inbox/{id}/message.as2"));
    assert!(raw == request.body, "the raw message differs");
    let block = String::from_utf8(get(format!("AS2/headers/BOB/ALICE/inbox/{id}/headers.txt"))).unwrap();
    assert!(block.contains(&format!("Content-Range: {range}\r\n")), "{block}");
}

#[test]
fn a_body_that_broke_off_goes_on_where_it_stopped() {
    let pair = pair();
    let port = pair.bob().as2_port;
    for (n, size) in [SIZE, 3_000].into_iter().enumerate() {
        for percent in [10, 50, 99] {
            let name = format!("broken-{n}-{percent}.edi");
            let request = restartable(&pair, &name, size);
            assert_eq!(held(port, &request), 0);
            let (total, cut) = (request.body.len(), request.body.len() * percent / 100);
            let first = if percent == 10 {
                // The range of a first POST may be left out.
                request.clone()
            } else {
                ranged(&request, 0)
            };
            broken(port, &first, cut);
            assert_eq!(held(port, &request), cut);
            taken(&ranged(&request, cut).post(port));
            let range = format!("bytes {cut}-{}/{total}", total - 1);
            same_as_sent(&pair, &request, &noise(size, name.len() as u64), &range);
        }
    }
}

#[test]
fn a_body_may_break_off_several_times() {
    let pair = pair();
    let port = pair.bob().as2_port;
    let request = restartable(&pair, "often.edi", SIZE);
    let total = request.body.len();
    let mut at = 0;
    for stop in [1, 100, 70_000, 70_001, total - 2, total - 1] {
        broken(port, &ranged(&request, at), stop - at);
        assert_eq!(held(port, &request), stop);
        at = stop;
    }
    taken(&ranged(&request, total - 1).post(port));
    let range = format!("bytes {}-{}/{total}", total - 1, total - 1);
    same_as_sent(&pair, &request, &noise(SIZE, "often.edi".len() as u64), &range);
}

#[test]
fn what_came_survives_a_kill_of_the_server() {
    let pair = Pair::two_gateways();
    let request = restartable(&pair, "killed.edi", 2_000_000);
    let (port, half) = (pair.bob().as2_port, request.body.len() / 2);
    let open = begin(port, &request, half);
    let store = pair.bob().path("data/partial");
    pair.bob().wait("all of the half on disk", |_| {
        let files = tests::files_below(&store);
        let sizes = files
            .iter()
            .map(|file| std::fs::metadata(store.join(file)).map_or(0, |meta| meta.len()));
        // The last read of a socket may be small enough to wait for more.
        sizes.max().filter(|size| *size + 300_000 > half as u64)
    });
    pair.bob().kill9();
    drop(open);
    pair.bob().start();
    let held = held(port, &request);
    assert!(held + 300_000 > half && held <= half, "{held} of {half} bytes are held");
    taken(&ranged(&request, held).post(port));
    let range = format!("bytes {held}-{}/{}", request.body.len() - 1, request.body.len());
    same_as_sent(&pair, &request, &noise(2_000_000, "killed.edi".len() as u64), &range);
    assert_eq!(
        tests::files_below(&store).iter().filter(|file| !file.ends_with("whole")).count(),
        1,
        "only `boot` is left"
    );
}

#[test]
fn a_sender_that_lost_the_receipt_sends_the_last_byte_and_gets_it() {
    let pair = pair();
    let port = pair.bob().as2_port;
    let request = restartable(&pair, "receipt-lost.edi", SIZE);
    let total = request.body.len();
    let first = ranged(&request, 0).post(port);
    taken(&first);
    assert_eq!(held(port, &request), total);
    let again = ranged(&request, total - 1).post(port);
    assert!(again.body == first.body && again.status == 200, "another receipt: {}", again.text());
    let _ = filed(&pair, &request);
    // What is remembered belongs to one message.
    let other = ranged(&request, total - 1).with("Message-ID", "<another@test>");
    refused_range(&other.post(port), 0);
    assert_eq!(held(port, &request), 0);
    taken(&request.post(port));
}

#[test]
fn a_range_that_does_not_fit_is_refused_with_what_is_held() {
    let pair = pair();
    let port = pair.bob().as2_port;
    let request = restartable(&pair, "ranges.edi", SIZE);
    let total = request.body.len();
    refused_range(&ranged(&request, 10).post(port), 0);
    broken(port, &request, 50_000);
    for first in [1, 49_999, 50_001, total - 1] {
        refused_range(&ranged(&request, first).post(port), 50_000);
    }
    let odd = |range: String| ranged(&request, 50_000).with("Content-Range", &range).post(port);
    refused_range(&odd(format!("bytes 50000-{}/{total}", total - 2)), 50_000);
    refused_range(&odd(format!("bytes 50000-{total}/{}", total + 1)), 50_000);
    refused_range(&ranged(&request, 50_000).without("ETag").post(port), 0);
    assert_eq!(held(port, &request), 50_000, "a refusal costs nothing");
    taken(&ranged(&request, 50_000).post(port));
}

#[test]
fn nobody_else_sees_a_transfer_or_goes_on_with_it() {
    let pair = pair();
    let port = pair.bob().as2_port;
    let request = restartable(&pair, "whose.edi", SIZE);
    broken(port, &request, 50_000);
    let certificate = pair.bob().path("ALICE.pem");
    tests::pair::add_partner(pair.bob(), "CAROL", "http://127.0.0.1:9/", certificate.to_str().unwrap());
    let carol = request.clone().with("AS2-From", "CAROL");
    let known = || exchange(port, "POST", "/as2", &carol.clone().without("Message-ID").headers, b"").disposition();
    wait_for("CAROL to be known", || (!known().contains("unknown-trading")).then_some(()));
    assert_eq!(held(port, &carol), 0);
    refused_range(&ranged(&carol, 50_000).post(port), 0);
    broken(port, &carol, 20_000);
    assert_eq!((held(port, &carol), held(port, &request)), (20_000, 50_000));
    // Strangers are answered like those of whom nothing is held.
    assert_eq!(held(port, &request.clone().with("AS2-From", "MALLORY")), 0);
    taken(&ranged(&request, 50_000).post(port));
}

#[test]
fn one_transfer_has_one_writer() {
    let pair = pair();
    let port = pair.bob().as2_port;
    let request = restartable(&pair, "writers.edi", SIZE);
    broken(port, &request, 50_000);
    let rest = ranged(&request, 50_000);
    let mut open = begin(port, &rest, 30_000);
    wait_for("the first writer", || (ask(port, &request).status == 500).then_some(()));
    assert_eq!(rest.post(port).status, 500);
    // A whole body needs nothing of what is held: a dead connection must not stand in its way.
    let whole = request.post(port);
    taken(&whole);
    open.write_all(&rest.body[30_000..]).unwrap();
    let mut answer = Vec::new();
    open.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(&whole.body), "the repeat got another receipt");
    let _ = filed(&pair, &request);
}

#[test]
fn eight_that_go_on_at_once_make_one_message() {
    let pair = pair();
    let port = pair.bob().as2_port;
    let request = restartable(&pair, "at-once.edi", SIZE);
    broken(port, &request, 50_000);
    let rest = ranged(&request, 50_000);
    let answers: Vec<_> = thread::scope(|scope| {
        let posts: Vec<_> = (0..8).map(|_| scope.spawn(|| rest.post(port))).collect();
        posts.into_iter().map(|post| post.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    for answer in answers {
        assert!(matches!(answer.status, 200 | 416 | 500), "{}: {}", answer.status, answer.text());
    }
    same_as_sent(
        &pair,
        &request,
        &noise(SIZE, "at-once.edi".len() as u64),
        &format!("bytes 50000-{}/{}", request.body.len() - 1, request.body.len()),
    );
}

#[test]
fn tags_of_any_form_never_fail_a_message() {
    let pair = pair();
    let port = pair.bob().as2_port;
    let good = restartable(&pair, "tags.edi", 3_000);
    let long = format!("\"{}\"", "x".repeat(5_000));
    for (n, tag) in ["W/\"weak\"", "\"\"", "\"open", "{0E1B-4711}", "a, b", "\u{fc}", &long]
        .into_iter()
        .enumerate()
    {
        let request = good.clone().with("ETag", tag).with("Message-ID", &format!("<tag-{n}@test>"));
        taken(&request.post(port));
        let named = request
            .with("Content-Range", "pages 1-2/3")
            .with("Message-ID", &format!("<range-{n}@test>"));
        taken(&named.post(port));
    }
}

#[test]
fn a_range_that_counts_its_end_wrongly_says_nothing_where_all_of_the_body_comes() {
    let pair = pair();
    let port = pair.bob().as2_port;
    let request = restartable(&pair, "miscounted.edi", SIZE);
    let total = request.body.len();
    let wrong = |first: usize, last: usize, total: usize| {
        let mut wrong = request.clone().with("Content-Range", &format!("bytes {first}-{last}/{total}"));
        wrong.body.drain(..first);
        wrong
    };
    // Only of a body that is all there: with another length, or from the middle on, it is refused as before.
    refused_range(&wrong(0, total - 1, total + 1).post(port), 0);
    broken(port, &request, 50_000);
    refused_range(&wrong(50_000, total, total).post(port), 50_000);
    // A body that broke off under such a range is kept as any other.
    broken(port, &wrong(0, total, total), 60_000);
    assert_eq!(held(port, &request), 60_000);
    taken(&wrong(0, total, total).post(port));
    let _ = filed(&pair, &request);
}

#[test]
fn a_full_quota_keeps_nothing_more_and_refuses_no_message() {
    let pair = Pair::two_with(&[("as2.partial_quota", "\"150KiB\"")]);
    let port = pair.bob().as2_port;
    let request = restartable(&pair, "quota.edi", SIZE);
    let tagged = |n: u32| {
        request
            .clone()
            .with("ETag", &format!("\"{n}\""))
            .with("Message-ID", &format!("<quota-{n}@test>"))
    };
    broken(port, &tagged(1), 100_000);
    broken(port, &tagged(2), 100_000);
    assert_eq!((held(port, &tagged(1)), held(port, &tagged(2))), (100_000, 0));
    broken(port, &tagged(3), 50_000);
    broken(port, &tagged(4), 50_000);
    assert_eq!((held(port, &tagged(3)), held(port, &tagged(4))), (50_000, 0));
    taken(&ranged(&tagged(4), 0).post(port));
    taken(&ranged(&tagged(1), 100_000).post(port));
    // The number is bounded too: 20 for a pair, one of which is taken.
    for n in 10..30 {
        broken(port, &tagged(n), 1_000);
    }
    assert_eq!((held(port, &tagged(28)), held(port, &tagged(29))), (1_000, 0));
    taken(&tagged(29).post(port));
}

#[test]
fn a_part_is_kept_for_a_day() {
    let pair = Pair::two_gateways();
    let port = pair.bob().as2_port;
    let request = restartable(&pair, "old.edi", SIZE);
    broken(port, &request, 50_000);
    pair.bob().set_clock(23 * 3600);
    assert_eq!(held(port, &request), 50_000);
    pair.bob().set_clock(25 * 3600);
    assert_eq!(held(port, &request), 0);
    refused_range(&ranged(&request, 50_000).post(port), 0);
    // The hourly sweep comes with the start, too.
    pair.bob().restart();
    let store = pair.bob().path("data/partial");
    pair.bob()
        .wait("the sweep", |_| (tests::files_below(&store) == ["boot"]).then_some(()));
    taken(&request.post(port));
}

// As sender.

/// ALICE sends to BOB through a relay that cuts.
fn over(relay: &Relay, pair: &Pair) {
    let url = format!("http://127.0.0.1:{}/as2", relay.port);
    pair.alice().change(&["partner", "set", "BOB", "--url", &url, "--restart", "true"]);
}

#[test]
fn two_gateways_over_a_bad_line_send_every_byte_once() {
    let pair = Pair::two_gateways();
    let cuts = [300_000, 700_000, 100_000];
    let relay = Relay::cutting(pair.bob().as2_port, &cuts);
    over(&relay, &pair);
    let payload = noise(2_000_000, 7);
    let parcel = pair.deliver("bad-line.edi", &payload);
    assert!(pair.fetch(&parcel) == payload, "the payload differs");
    assert_eq!(pair.bob().messages_of("in", "bad-line.edi").len(), 1);
    let raw = format!("AS2/raw-message/BOB/ALICE/inbox/{}/message.as2", parcel.got_id());
    let raw = pair.bob_user.get(&raw).len();
    let passed = relay.passed();
    let mut methods: Vec<&str> = passed
        .iter()
        .map(|passed| passed.method.as_str())
        .filter(|m| !m.is_empty())
        .collect();
    // Who asks before the receiver has done with what came asks again.
    methods.dedup_by(|next, before| (*next, *before) == ("HEAD", "HEAD"));
    assert_eq!(methods, ["POST", "HEAD", "POST", "HEAD", "POST", "HEAD", "POST"], "{passed:#?}");
    let posts: Vec<_> = passed.iter().filter(|passed| passed.method == "POST").collect();
    for (post, cut) in posts.iter().zip(cuts) {
        assert!(post.cut && post.up == cut, "{passed:#?}");
    }
    // What reached the receiver before a cut went over the line no second time.
    let all: usize = posts.iter().map(|post| post.up).sum();
    assert!(
        all >= raw && all < raw + 4 * HEAD,
        "{all} bytes for a message of {raw}: {passed:#?}"
    );
    // The evidence is the last head, and every try is told.
    let block = pair
        .alice_user
        .get(&format!("AS2/headers/ALICE/BOB/outbox/{}/headers.txt", parcel.sent_id()));
    let lines = header_lines(&String::from_utf8(block).unwrap());
    let range = lines.iter().find(|(name, _)| name == "Content-Range").expect("a range").1.clone();
    assert!(
        !range.starts_with("bytes 0-") && range.ends_with(&format!("-{}/{raw}", raw - 1)),
        "{range}"
    );
    assert_eq!(lines.iter().filter(|(name, _)| name == "ETag").count(), 1);
}

#[test]
fn a_big_message_goes_on_with_flat_memory() {
    let pair = Pair::two_gateways();
    pair.deliver("warm-up.bin", &noise(100_000, 1));
    let relay = Relay::cutting(pair.bob().as2_port, &[70 << 20]);
    over(&relay, &pair);
    let idle = (pair.alice().peak_memory(), pair.bob().peak_memory());
    let payload = noise(96 << 20, 11);
    let parcel = pair.deliver("big-restart.bin", &payload);
    let peak = (pair.alice().peak_memory(), pair.bob().peak_memory());
    let filed = pair
        .bob()
        .tree(&format!("files/BOB/ALICE/inbox/{}/big-restart.bin", parcel.got_id()));
    pair.bob().wait("the file on disk", |_| filed.exists().then_some(()));
    assert!(std::fs::read(filed).unwrap() == payload, "the payload differs");
    let up: usize = relay.passed().iter().map(|passed| passed.up).sum();
    assert!(up < (97 << 20), "{up} bytes went over the line");
    assert!(
        peak.0 - idle.0 < 48 << 20 && peak.1 - idle.1 < 48 << 20,
        "memory grew by {} and {} MiB",
        (peak.0 - idle.0) >> 20,
        (peak.1 - idle.1) >> 20
    );
}

/// One request as a scripted partner sees it.
#[derive(Clone, Debug)]
struct Hit {
    method: String,
    headers: Vec<(String, String)>,
    body: usize,
}

impl Hit {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// What a scripted partner does with a request: reads so many bytes of its body, then answers, or closes.
struct Act(usize, Option<&'static str>);

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const WHOLE: Act = Act(usize::MAX, Some(OK));
const CUT: Act = Act(100_000, None);

/// A partner that takes any message as delivered, by a script: the nth request, counted from 1.
fn scripted(script: impl Fn(&Hit, usize) -> Act + Send + 'static) -> (u16, Arc<Mutex<Vec<Hit>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let hits = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&hits);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let (line, block) = head.split_once("\r\n").unwrap_or_default();
            let mut hit = Hit {
                method: line.split(' ').next().unwrap_or_default().to_owned(),
                headers: header_lines(block),
                body: 0,
            };
            let Act(most, answer) = script(&hit, seen.lock().unwrap().len() + 1);
            let length: usize = hit.header("Content-Length").map_or(0, |length| length.parse().unwrap());
            let mut buffer = vec![0; 16 * 1024];
            while hit.body < length.min(most) {
                let n = stream.read(&mut buffer).unwrap_or(0);
                if n == 0 {
                    break;
                }
                hit.body += n;
            }
            seen.lock().unwrap().push(hit);
            let _ = answer.map(|answer| stream.write_all(answer.as_bytes()));
        }
    });
    (port, hits)
}

static SENDER: Shared<Gateway> = Shared::new();

/// Sends a message to a scripted partner and gives what it saw once the message is delivered.
#[track_caller]
fn sent_to(name: &str, options: &[&str], size: usize, script: impl Fn(&Hit, usize) -> Act + Send + 'static) -> (Vec<Hit>, Value) {
    sent_until("delivered", name, options, size, script)
}

/// The same once it is in this state.
#[track_caller]
fn sent_until(
    state: &str,
    name: &str,
    options: &[&str],
    size: usize,
    script: impl Fn(&Hit, usize) -> Act + Send + 'static,
) -> (Vec<Hit>, Value) {
    let sender = SENDER.get(|| {
        let gateway = Gateway::new();
        gateway.ok(&["station", "add", "ALICE"]);
        gateway
    });
    let (port, hits) = scripted(script);
    let url = format!("http://127.0.0.1:{port}/as2");
    let plain = ["--sign", "none", "--encrypt", "none", "--private", "true"];
    let mdn = if options.contains(&"--mdn") { &[][..] } else { &["--mdn", "none"] };
    sender.ok(&[&["partner", "add", name, "--url", &url][..], &plain, mdn, options].concat());
    let file = sender.file(&format!("local/{name}.bin"), &noise(size, 5));
    sender.ok(&["send", "--from", "ALICE", "--to", name, file.to_str().unwrap()]);
    let message = sender.reaches("out", &format!("{name}.bin"), state);
    let hits = hits.lock().unwrap().clone();
    (hits, message)
}

fn methods(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.method.as_str()).collect()
}

fn length_of(hit: &Hit) -> usize {
    hit.header("Content-Length").unwrap().parse().unwrap()
}

#[test]
fn the_transfer_id_is_the_same_at_every_try() {
    let (hits, _) = sent_to("SAME", &["--restart", "true"], SIZE, |hit, n| match n {
        1 | 3 => CUT,
        _ if hit.method == "HEAD" => Act(0, Some("HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n")),
        _ => WHOLE,
    });
    assert_eq!(methods(&hits), ["POST", "HEAD", "POST", "HEAD", "POST"]);
    let tag = hits[0].header("ETag").unwrap();
    assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 20, "{tag}");
    assert!(hits.iter().all(|hit| hit.header("ETag") == Some(tag)), "{hits:#?}");
    let total = length_of(&hits[0]);
    assert_eq!(
        hits[0].header("Content-Range"),
        Some(format!("bytes 0-{}/{total}", total - 1).as_str())
    );
    let rest = format!("bytes 90000-{}/{total}", total - 1);
    assert_eq!(hits[4].header("Content-Range"), Some(rest.as_str()));
    assert_eq!((length_of(&hits[4]), hits[4].body), (total - 90_000, total - 90_000));
    for name in ["AS2-From", "AS2-To", "AS2-Version"] {
        assert_eq!(hits[1].header(name), hits[0].header(name));
    }
    assert!(hits[1].header("Content-Range").is_none() && hits[1].header("Message-ID").is_none());
}

#[test]
fn a_partner_without_restart_gets_the_whole_message_again() {
    for (name, answer) in [
        ("NOTHING", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("SILENT", "HTTP/1.1 200 OK\r\n\r\n"),
        ("NOHEAD", "HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n"),
        ("MISSING", "HTTP/1.1 404 No\r\nContent-Length: 7000\r\n\r\n"),
        ("NONSENSE", "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"),
    ] {
        let (hits, _) = sent_to(name, &["--restart", "true"], SIZE, move |hit, n| match n {
            1 => CUT,
            _ if hit.method == "HEAD" => Act(0, Some(answer)),
            _ => WHOLE,
        });
        assert_eq!(methods(&hits), ["POST", "HEAD", "POST"], "{name}");
        assert!(hits[2].header("Content-Range").unwrap().starts_with("bytes 0-"), "{name}");
        assert_eq!(hits[2].body, length_of(&hits[0]), "{name}");
    }
}

#[test]
fn a_question_that_gets_no_answer_is_asked_again() {
    let (hits, message) = sent_to("DEAF", &["--restart", "true"], SIZE, |hit, n| match n {
        1 => CUT,
        // Closed without an answer, then busy.
        2 => Act(0, None),
        3 => Act(0, Some("HTTP/1.1 500 Busy\r\nContent-Length: 0\r\n\r\n")),
        _ if hit.method == "HEAD" => Act(0, Some("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")),
        _ => WHOLE,
    });
    assert_eq!(methods(&hits), ["POST", "HEAD", "HEAD", "HEAD", "POST"], "{message:#}");
    assert_eq!(hits[4].body, length_of(&hits[0]) - 100_000);
    // For ever busy means that it does not know the question: the last try asks in vain.
    let (hits, _) = sent_to("BUSY", &["--restart", "true", "--retry-max-tries", "4"], SIZE, |hit, n| match n {
        1 => CUT,
        _ if hit.method == "HEAD" => Act(0, Some("HTTP/1.1 500 Busy\r\nContent-Length: 0\r\n\r\n")),
        _ => WHOLE,
    });
    assert_eq!(methods(&hits), ["POST", "HEAD", "HEAD", "HEAD", "POST"]);
    assert_eq!(hits[4].body, length_of(&hits[0]));
}

#[test]
fn a_partner_that_never_answers_the_question_gets_all_of_the_message() {
    for (name, most, expected) in [
        ("MUTE", "9", &["POST", "HEAD", "HEAD", "POST", "HEAD", "POST"][..]),
        // The last try asks, and posts.
        ("MUTE-AT-LAST", "2", &["POST", "HEAD", "POST"]),
    ] {
        let cut_again = most == "9";
        let (hits, message) = sent_to(
            name,
            &["--restart", "true", "--retry-max-tries", most],
            SIZE,
            move |hit, n| match n {
                1 => CUT,
                4 if cut_again => CUT,
                // As a firewall that knows no HEAD does.
                _ if hit.method == "HEAD" => Act(0, None),
                _ => WHOLE,
            },
        );
        assert_eq!(methods(&hits), expected, "{message:#}");
        assert_eq!(hits.last().unwrap().body, length_of(&hits[0]), "{name}");
        let outcome = message["tries"][1]["outcome"].as_str().unwrap_or_default();
        assert!(
            most == "2" || outcome.starts_with("the partner does not answer how much it holds: "),
            "{message:#}"
        );
    }
}

#[test]
fn what_a_balancer_says_in_the_partners_place_throws_nothing_away() {
    const ANSWERS: [&str; 3] = [
        "HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n",
    ];
    let (hits, message) = sent_to("BALANCED", &["--restart", "true"], SIZE, |hit, n| match n {
        1 => CUT,
        2..=4 => Act(0, Some(ANSWERS[n - 2])),
        _ if hit.method == "HEAD" => Act(0, Some("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")),
        _ => WHOLE,
    });
    let heads = ["HEAD"; 4];
    assert_eq!(methods(&hits), [&["POST"][..], &heads, &["POST"]].concat(), "{message:#}");
    assert_eq!(hits[5].body, length_of(&hits[0]) - 100_000);
    // Who says so for ever gets all of it with the last try, be it the last by number or by time.
    for (name, option, most) in [("NUMBERED", "--retry-max-tries", "4"), ("TIMED", "--retry-max-time", "4s")] {
        let (hits, message) = sent_to(name, &["--restart", "true", option, most], SIZE, |hit, n| match n {
            1 => CUT,
            _ if hit.method == "HEAD" => Act(0, Some(ANSWERS[0])),
            _ => WHOLE,
        });
        let (last, before) = hits.split_last().unwrap();
        assert_eq!(
            (last.method.as_str(), last.body),
            ("POST", length_of(&hits[0])),
            "{name}: {message:#}"
        );
        assert!(
            before.len() >= 2 && methods(&before[1..]).iter().all(|method| *method == "HEAD"),
            "{name}: {hits:#?}"
        );
    }
}

#[test]
fn a_partner_that_holds_everything_gets_the_last_byte() {
    let (hits, message) = sent_to("ALL", &["--restart", "true"], SIZE, |hit, n| match n {
        // It took the body and went away without an answer.
        1 => Act(usize::MAX, None),
        // A message in clear is as long as its payload.
        _ if hit.method == "HEAD" => Act(0, Some("HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n")),
        _ => WHOLE,
    });
    assert_eq!(methods(&hits), ["POST", "HEAD", "POST"], "{message:#}");
    assert_eq!(length_of(&hits[0]), 400_000);
    assert_eq!(hits[2].header("Content-Range"), Some("bytes 399999-399999/400000"));
    assert_eq!(hits[2].body, 1);
}

#[test]
fn a_refused_range_is_put_right_at_once() {
    let (hits, _) = sent_to("PUTRIGHT", &["--restart", "true"], SIZE, |hit, n| match n {
        1 => CUT,
        2 => Act(0, Some("HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n")),
        3 => Act(
            usize::MAX,
            Some("HTTP/1.1 416 No\r\nContent-Range: bytes */80000\r\nContent-Length: 0\r\n\r\n"),
        ),
        _ if hit.method == "HEAD" => Act(0, None),
        _ => WHOLE,
    });
    assert_eq!(methods(&hits), ["POST", "HEAD", "POST", "POST"]);
    assert_eq!(hits[3].body, length_of(&hits[0]) - 80_000);
    // Without a number it begins anew.
    let (hits, _) = sent_to("ANEW", &["--restart", "true"], SIZE, |_, n| match n {
        1 => CUT,
        2 => Act(0, Some("HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n")),
        3 => Act(usize::MAX, Some("HTTP/1.1 416 No\r\nContent-Length: 0\r\n\r\n")),
        _ => WHOLE,
    });
    assert_eq!(hits[3].body, length_of(&hits[0]));
}

#[test]
fn a_refused_rest_is_followed_by_all_of_the_message() {
    // It has one more try for that, even if this one was the last.
    let (hits, message) = sent_to(
        "RANGELESS",
        &["--restart", "true", "--retry-max-tries", "2"],
        SIZE,
        |_, n| match n {
            1 => CUT,
            2 => Act(0, Some(PAGE)),
            3 => Act(usize::MAX, Some("HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n")),
            _ => WHOLE,
        },
    );
    assert_eq!(methods(&hits), ["POST", "HEAD", "POST", "POST"], "{message:#}");
    assert_eq!([hits[2].body, hits[3].body], [length_of(&hits[0]) - 5000, length_of(&hits[0])]);
    assert!(hits[3].header("Content-Range").unwrap().starts_with("bytes 0-"), "{hits:#?}");
}

/// The length of some page, to a HEAD.
const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5000\r\n\r\n";

/// An unsigned MDN for what came with this head, which was `processed` so.
fn mdn(hit: &Hit, processed: &str) -> &'static str {
    let of = |name: &str| hit.header(name).unwrap();
    let body = format!(
        "--b\r\nContent-Type: text/plain\r\n\r\nno\r\n--b\r\nContent-Type: message/disposition-notification\r\n\r\n\
         Final-Recipient: rfc822; {}\r\nOriginal-Message-ID: {}\r\n\
         Disposition: automatic-action/MDN-sent-automatically; processed/{processed}\r\n\r\n--b--\r\n",
        of("AS2-To"),
        of("Message-ID")
    );
    let head = format!(
        "AS2-From: {}\r\nAS2-To: {}\r\nContent-Type: multipart/report; report-type=disposition-notification; boundary=b",
        of("AS2-To"),
        of("AS2-From")
    );
    format!("HTTP/1.1 200 OK\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).leak()
}

#[test]
fn a_rest_refused_by_an_mdn_is_followed_by_all_once_and_over_a_restart() {
    let sender = Gateway::with(&[("retry.initial", "\"1h\""), ("retry.max_wait", "\"1h\"")]);
    sender.ok(&["station", "add", "ALICE"]);
    let (port, hits) = scripted(|hit, n| match n {
        1 => CUT,
        _ if hit.method == "HEAD" => Act(0, Some(PAGE)),
        _ => Act(usize::MAX, Some(mdn(hit, "error: decryption-failed"))),
    });
    let url = format!("http://127.0.0.1:{port}/as2");
    let plain = [
        "--sign",
        "none",
        "--encrypt",
        "none",
        "--mdn",
        "sync",
        "--private",
        "true",
        "--restart",
        "true",
    ];
    sender.ok(&[&["partner", "add", "BOB", "--url", &url][..], &plain].concat());
    let file = sender.file("local/refused.bin", &noise(SIZE, 5));
    sender.ok(&["send", "--from", "ALICE", "--to", "BOB", file.to_str().unwrap()]);
    let seen = |n: usize| wait_for("the partner to be asked", || (hits.lock().unwrap().len() == n).then_some(()));
    seen(1);
    sender.reaches("out", "refused.bin", "retrying");
    sender.set_clock(3700);
    seen(3);
    sender.wait("the refusal", |sender| {
        let message = sender.messages_of("out", "refused.bin").remove(0);
        (message["code"] == "rest-refused").then_some(())
    });
    let waiting = sender.reaches("out", "refused.bin", "retrying");
    let refused = &waiting["tries"][1];
    // Where the partner calls the next one a duplicate, this one is no ground to believe it.
    assert!(refused["status"] == 200 && refused["body_sent"] == false, "{waiting:#}");
    sender.restart();
    sender.set_clock(2 * 3700);
    let message = sender.reaches("out", "refused.bin", "failed");
    assert_eq!(message["code"], "decryption-failed", "{message:#}");
    let hits = hits.lock().unwrap().clone();
    assert_eq!(methods(&hits), ["POST", "HEAD", "POST", "POST"], "{message:#}");
    assert_eq!([hits[2].body, hits[3].body], [SIZE - 5000, SIZE]);
    // Both refusals are there to be read.
    let incoming = sender.tree("raw-mdn/incoming");
    wait_for("two MDNs in the tree", || (tests::files_below(&incoming).len() == 2).then_some(()));
}

#[test]
fn a_duplicate_of_what_was_refused_in_part_is_not_taken_for_delivered() {
    let (hits, message) = sent_until("held", "SEEN", &["--restart", "true", "--mdn", "sync"], SIZE, |hit, n| match n {
        // It may have arrived, but for the answer.
        1 => Act(usize::MAX, None),
        2 => Act(0, Some(PAGE)),
        3 => Act(usize::MAX, Some(mdn(hit, "error: decryption-failed"))),
        _ => Act(usize::MAX, Some(mdn(hit, "warning: duplicate-document"))),
    });
    assert_eq!(methods(&hits), ["POST", "HEAD", "POST", "POST"], "{message:#}");
    assert_eq!(message["code"], "duplicate-at-partner", "{message:#}");
}

#[test]
fn nothing_of_it_is_sent_unless_the_partner_is_set_so_and_the_message_is_worth_it() {
    for (name, options, size) in [("OFF", &[][..], SIZE), ("SMALL", &["--restart", "true"], 60_000)] {
        let (hits, _) = sent_to(name, options, size, |_, n| if n == 1 { Act(10_000, None) } else { WHOLE });
        assert_eq!(methods(&hits), ["POST", "POST"], "{name}");
        assert!(
            hits.iter()
                .all(|hit| hit.header("ETag").is_none() && hit.header("Content-Range").is_none()),
            "{name}: {hits:#?}"
        );
    }
}

#[test]
fn switching_it_off_counts_for_messages_under_way() {
    // Time to change the setting before the next try, which comes when the clock is moved.
    let pair = Pair::two_with(&[("retry.initial", "\"1h\""), ("retry.max_wait", "\"1h\"")]);
    let relay = Relay::cutting(pair.bob().as2_port, &[200_000]);
    over(&relay, &pair);
    pair.put("switched.edi", &noise(SIZE, 3));
    wait_for("the cut", || relay.passed().iter().any(|passed| passed.cut).then_some(()));
    pair.alice().reaches("out", "switched.edi", "retrying");
    pair.alice().change(&["partner", "set", "BOB", "--restart", "false"]);
    pair.alice().set_clock(3700);
    let parcel = pair.delivered("switched.edi");
    let methods: Vec<String> = relay.passed().into_iter().map(|passed| passed.method).collect();
    assert_eq!(methods, ["POST", "POST"]);
    let block = pair
        .bob_user
        .get(&format!("AS2/headers/BOB/ALICE/inbox/{}/headers.txt", parcel.got_id()));
    let block = String::from_utf8(block).unwrap().to_ascii_lowercase();
    assert!(!block.contains("etag:") && !block.contains("content-range:"), "{block}");
}
