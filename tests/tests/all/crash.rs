//! Kill -9 at any moment under load: what was promised arrives, once, with its bytes; everything comes to an end.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tests::process::{accepted, as2gate, wait_within};
use tests::wire::{exchange, http, read_request};
use tests::{Gateway, Pair, Random, noise};

/// Clients that put files at the same time.
const CLIENTS: u64 = 3;
/// Longest time between a start and the next kill.
const LONGEST_LIFE_MS: u64 = 1_200;
/// Longest time between a kill and the next start.
const LONGEST_DEATH_MS: u64 = 200;
/// One file in so many is large enough to be killed in the middle.
const LARGE_EVERY: u64 = 12;
/// How long everything may take to come to an end after the last kill.
const SETTLES_WITHIN: Duration = Duration::from_secs(180);

/// Kills after which a gateway that promises first has lost something: each has about an even chance.
const CONTROL_KILLS: u64 = 40;

/// Who is killed.
#[derive(Clone, Copy, PartialEq)]
enum Victims {
    Both,
    Sender,
}

/// Everything that went in, by name.
struct Book {
    /// Puts that the client called done: here the product made its promise.
    promised: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Puts that failed at the client: may or may not have arrived, but at most once.
    doubtful: Mutex<BTreeMap<String, Vec<u8>>>,
}

/// Tries without end and short waits: being down is what this test does to partners.
const SETTINGS: &[(&str, &str)] = &[
    ("retry.initial", "\"200ms\""),
    ("retry.max_wait", "\"1s\""),
    ("retry.max_tries", "100000"),
    ("retry.max_time", "\"3650d\""),
    ("sftp.max_connections_per_ip", "200"),
    ("as2.max_connections_per_ip", "200"),
];

/// Puts files while killing; gives what is wrong at the end, nothing if all is well.
fn survive(binary: PathBuf, variables: Vec<(String, String)>, kills: u64, victims: Victims, seed: u64) -> Vec<String> {
    println!("crash test: seed {seed}, {kills} kills (AS2GATE_SEED and AS2GATE_KILLS choose others)");
    let alice = Gateway::of(binary.clone(), variables.clone(), SETTINGS);
    let bob = Gateway::of(binary, variables, SETTINGS);
    let pair = Pair::two_of(alice, bob);
    let book = Book {
        promised: Mutex::new(BTreeMap::new()),
        doubtful: Mutex::new(BTreeMap::new()),
    };
    let (done, puts) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (pair, book, done, puts) = (&pair, &book, &done, &puts);
            scope.spawn(move || {
                let mut random = Random::new(seed ^ (client + 1));
                for number in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    put_one(pair, book, client, number, &mut random);
                    puts.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut random = Random::new(seed);
        for kill in 0..kills {
            thread::sleep(Duration::from_millis(random.below(LONGEST_LIFE_MS)));
            let victim = if victims == Victims::Sender || random.below(2) == 0 {
                pair.alice()
            } else {
                pair.bob()
            };
            victim.kill9();
            thread::sleep(Duration::from_millis(random.below(LONGEST_DEATH_MS)));
            victim.start();
            if (kill + 1) % 50 == 0 {
                println!("{} kills, {} puts", kill + 1, puts.load(Ordering::Relaxed));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    judge(&pair, &book)
}

fn put_one(pair: &Pair, book: &Book, client: u64, number: u64, random: &mut Random) {
    let name = format!("c{client}-{number:05}.bin");
    let size = if random.below(LARGE_EVERY) == 0 {
        1 + random.below(4 << 20)
    } else {
        1 + random.below(60_000)
    };
    // A full block at the end looks broken off: one size in 261,120 is not what this test is about.
    let size = if size % 261_120 == 0 { size + 1 } else { size };
    let bytes = noise(usize::try_from(size).unwrap(), random.next());
    let local = pair.alice().file(&format!("local/{name}"), &bytes);
    let done = pair
        .alice_user
        .run(&[&format!("put {} AS2/send/ALICE/BOB/{name}", local.display())])
        .code
        == 0;
    let page = if done { &book.promised } else { &book.doubtful };
    page.lock().unwrap().insert(name, bytes);
    fs::remove_file(local).unwrap();
    if !done {
        // Most likely nobody listens: a client that hammers on only costs time.
        thread::sleep(Duration::from_millis(50));
    }
}

const FINAL: &[&str] = &["delivered", "failed", "duplicate", "filed", "rejected", "quarantined"];

fn is_final(message: &Value) -> bool {
    FINAL.iter().any(|state| message["state"] == *state)
}

/// What everything came to.
fn judge(pair: &Pair, book: &Book) -> Vec<String> {
    let all = |gateway: &Gateway| gateway.json(&["message", "list", "--limit", "100000"]).as_array().unwrap().clone();
    let promised = book.promised.lock().unwrap();
    let doubtful = book.doubtful.lock().unwrap();
    println!("{} puts done, {} broken", promised.len(), doubtful.len());
    assert!(!promised.is_empty(), "nothing was promised that could be lost");
    let (sent, got) = wait_within(SETTLES_WITHIN, "every message to be final", || {
        let (sent, got) = (all(pair.alice()), all(pair.bob()));
        sent.iter().chain(&got).all(is_final).then_some((sent, got))
    });
    let mut wrong = Vec::new();
    let filed: Vec<&Value> = got
        .iter()
        .filter(|message| message["direction"] == "in" && message["state"] == "filed")
        .collect();
    let inbox = pair.bob().tree("files/BOB/ALICE/inbox");
    for (name, bytes) in promised.iter().chain(doubtful.iter()) {
        let copies: Vec<&&Value> = filed.iter().filter(|message| message["file"] == name.as_str()).collect();
        if promised.contains_key(name) && copies.is_empty() {
            wrong.push(format!("lost: {name}"));
        }
        if copies.len() > 1 {
            wrong.push(format!("doubled: {name} came {} times", copies.len()));
        }
        for copy in copies {
            let path = inbox.join(copy["id"].as_str().unwrap()).join(name);
            let there = wait_within(SETTLES_WITHIN, "the file to be published", || fs::read(&path).ok());
            if there != *bytes {
                wrong.push(format!("changed: {name}"));
            }
        }
    }
    for message in sent
        .iter()
        .filter(|message| message["direction"] == "out" && message["state"] != "delivered")
    {
        wrong.push(format!(
            "not delivered: {} is {} ({})",
            message["file"], message["state"], message["code"]
        ));
    }
    for message in got
        .iter()
        .filter(|message| message["direction"] == "in" && message["state"] != "filed")
    {
        wrong.push(format!(
            "not filed: {} is {} ({})",
            message["file"], message["state"], message["code"]
        ));
    }
    // The journal's word and the disk's: one directory per filed message, nothing half.
    let directories = tests::names_in(&inbox);
    if directories.len() != filed.len() {
        wrong.push(format!(
            "{} directories in the inbox for {} filed messages",
            directories.len(),
            filed.len()
        ));
    }
    wrong
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn fresh_seed() -> u64 {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    number("AS2GATE_SEED", u64::from(clock.subsec_nanos()) ^ clock.as_secs())
}

#[test]
fn ten_kills_lose_nothing_and_double_nothing() {
    let wrong = survive(as2gate(), Vec::new(), 10, Victims::Both, fresh_seed());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
#[ignore = "takes minutes; .ci/run starts it, AS2GATE_KILLS says how often to kill"]
fn many_kills_lose_nothing_and_double_nothing() {
    let wrong = survive(as2gate(), Vec::new(), number("AS2GATE_KILLS", 200), Victims::Both, fresh_seed());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
#[ignore = "needs AS2GATE_SABOTAGE_BIN, a binary built with --features sabotage"]
fn the_crash_test_finds_a_gateway_that_promises_first() {
    let binary = std::env::var_os("AS2GATE_SABOTAGE_BIN").expect("AS2GATE_SABOTAGE_BIN");
    let promise_first = vec![("AS2GATE_TEST_SABOTAGE".to_owned(), "promise-first".to_owned())];
    let wrong = survive(binary.into(), promise_first, CONTROL_KILLS, Victims::Sender, fresh_seed());
    assert!(
        wrong.iter().any(|line| line.starts_with("lost:")),
        "the control found nothing: {wrong:#?}"
    );
}

#[test]
fn what_was_not_decided_about_takes_no_room() {
    let pair = Pair::one_gateway();
    let alice = pair.alice();
    let large = alice.file("large.edi", &[b'x'; 100_000]);
    let sender = [
        ("AS2-From", "BOB"),
        ("AS2-To", "ALICE"),
        ("Message-ID", "<undecided@test>"),
        ("Content-Type", "application/edifact"),
    ];
    let sender = sender.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let held = alice.hold_journal();
    let refused = exchange(alice.as2_port, "POST", "/as2", &sender, &[b'x'; 100_000]);
    assert_eq!(refused.status, 503, "{}", refused.text());
    let refused = alice.cli(&["send", "--from", "ALICE", "--to", "BOB", large.to_str().unwrap()]);
    assert_ne!(refused.code, 0, "{refused}");
    assert_eq!(tests::files_below(&alice.path("data/store")), [""; 0]);
    drop(held);
    alice.ok(&["send", "--from", "ALICE", "--to", "BOB", large.to_str().unwrap()]);
}

#[test]
fn a_journal_that_cannot_be_written_for_a_while_leaves_no_message_behind() {
    let pair = Pair::two_gateways();
    let alice = pair.alice();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/as2", listener.local_addr().unwrap());
    alice.change(&["partner", "set", "BOB", "--url", &url, "--mdn", "none"]);
    pair.put("held.edi", b"UNB+UNOA:1'");
    let answer = |mut stream: TcpStream| {
        assert!(read_request(&mut stream).is_some());
        stream.write_all(&http(204, &[], "")).unwrap();
    };
    let first = accepted(&listener);
    let held = alice.hold_journal();
    answer(first);
    // An upload that could not be decided about takes no room: its client comes again.
    let local = alice.file("large.edi", &[b'x'; 100_000]);
    let refused = pair
        .alice_user
        .run(&[&format!("put {} AS2/send/ALICE/BOB/large.edi", local.display())]);
    assert_ne!(refused.code, 0, "{refused}");
    assert_eq!(tests::files_below(&alice.path("data/store")), [""; 0]);
    // What became of the post could not be written, and then not that its job is nobody's any more: 15 s each, or more behind others.
    wait_within(Duration::from_secs(120), "the job to be given back in vain", || {
        alice.log().contains("cannot give a failed job back yet").then_some(())
    });
    drop(held);
    // The same bytes under the same Message-ID, without a restart.
    answer(accepted(&listener));
    alice.reaches("out", "held.edi", "delivered");
}
