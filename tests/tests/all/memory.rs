//! Big files with flat memory.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tests::packets::{Packets, packet, string};
use tests::process::{hundreds_of_sockets, run, tool, wait_within};
use tests::{Pair, noise, order, wait_for};

/// Above the idle value, whatever the size of the file.
const ALLOWED: u64 = 64 << 20;
/// Size of the file in MiB, unless `AS2GATE_BIG_MIB` names another.
const MIB: u64 = 512;
/// A slow disk moves so many MiB per second through all copies.
const SLOWEST: u64 = 2;

/// A file of pieces that all differ.
fn write_big(path: &Path, mib: u64) {
    let mut piece = noise(1 << 20, 99);
    let mut file = BufWriter::new(File::create(path).unwrap());
    for number in 0..mib {
        piece[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&piece).unwrap();
    }
    // Not a multiple of anything.
    file.write_all(b"the end").unwrap();
    file.into_inner().unwrap().sync_all().unwrap();
}

#[test]
fn a_big_file_goes_through_two_gateways_with_flat_memory() {
    let mib = std::env::var("AS2GATE_BIG_MIB").map_or(MIB, |text| text.parse().unwrap());
    let pair = Pair::two_gateways();
    pair.deliver("warm-up.bin", &noise(100_000, 1));
    let idle = (pair.alice().peak_memory(), pair.bob().peak_memory());
    let local = pair.alice().path("big.bin");
    write_big(&local, mib);
    pair.alice_user.put(&local, "AS2/send/ALICE/BOB/big.bin");
    let patience = Duration::from_secs(120 + mib / SLOWEST);
    wait_within(patience, "the big file to be delivered", || {
        let states = pair.alice().messages_of("out", "big.bin");
        assert!(states.iter().all(|message| message["state"] != "failed"), "{states:#?}");
        states.iter().any(|message| message["state"] == "delivered").then_some(())
    });
    let parcel = pair.delivered("big.bin");
    let filed = pair.bob().tree(&format!("files/BOB/ALICE/inbox/{}/big.bin", parcel.got_id()));
    pair.bob().wait("the file on disk", |_| filed.exists().then_some(()));
    let _ = run(&mut tool("cmp", &[local.to_str().unwrap(), filed.to_str().unwrap()])).ok();
    let peak = (pair.alice().peak_memory(), pair.bob().peak_memory());
    let grown = (peak.0 - idle.0, peak.1 - idle.1);
    println!(
        "{mib} MiB: ALICE {} + {} KiB, BOB {} + {} KiB",
        idle.0 >> 10,
        grown.0 >> 10,
        idle.1 >> 10,
        grown.1 >> 10
    );
    assert!(
        grown.0 < ALLOWED && grown.1 < ALLOWED,
        "memory grew by {} and {} MiB",
        grown.0 >> 20,
        grown.1 >> 20
    );
    // And back out by SFTP.
    let got = pair.bob().path("got.bin");
    pair.bob_user.ok(&[&format!(
        "get AS2/files/BOB/ALICE/inbox/{}/big.bin {}",
        parcel.got_id(),
        got.display()
    )]);
    let _ = run(&mut tool("cmp", &[local.to_str().unwrap(), got.to_str().unwrap()])).ok();
    let grown = pair.bob().peak_memory() - idle.1;
    assert!(grown < ALLOWED, "memory grew by {} MiB while it was fetched", grown >> 20);
}

/// Answers that one client leaves unread, in bytes: less than a channel may hold.
const UNREAD: usize = 15 << 20;
const DEAF: usize = 20;

#[test]
fn answers_that_nobody_reads_stay_within_the_memory_for_all() {
    let pair = Pair::one_with(&[
        ("sftp.memory", "\"16MiB\""),
        ("sftp.max_connections_per_ip", "100"),
        ("uploads.release_after", "\"1h\""),
    ]);
    let gateway = pair.alice();
    let (deaf, good) = (gateway.user("deaf"), gateway.user("good"));
    let local = gateway.file("local/x.edi", &noise(2 << 20, 3));
    good.put(&local, "AS2/send/ALICE/BOB/x.edi");
    let idle = gateway.peak_memory();
    // A long path costs more to answer than to ask: it comes back twice.
    let path = string(format!("{}/", "x".repeat(250)).repeat(15).as_bytes());
    let first = Packets::of(&deaf).ask(16, &[&path]);
    assert_eq!(first.kind, 104);
    let flood = [packet(1, 3, &[]), packet(16, 7, &[&path]).repeat(UNREAD / first.body.len())].concat();
    let flood = gateway.file("flood", &flood);
    // Their ends take nothing but what fits into a pipe.
    let mut clients: Vec<_> = (0..DEAF)
        .map(|_| {
            let mut client = deaf.subsystem("sftp");
            client
                .stdin(File::open(&flood).unwrap())
                .stdout(Stdio::piped())
                .stderr(Stdio::null());
            client.spawn().unwrap()
        })
        .collect();
    let short = || gateway.log().contains("the client does not read its answers");
    for round in 0.. {
        assert!(round < 200, "nobody was told to go");
        assert!(good.ls("AS2").contains(&"send".to_owned()));
        good.ok(&["ls -la AS2", &format!("put {} AS2/send/ALICE/BOB/y.edi", local.display())]);
        if round >= 5 && short() {
            break;
        }
    }
    for client in &mut clients {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    let grown = gateway.peak_memory() - idle;
    println!("{DEAF} x {} MiB of answers unread: {} MiB of memory", UNREAD >> 20, grown >> 20);
    // The memory for all, half as much again until those who must go are gone, and for each connection its own shares, its batch
    // on the way and what russh has read ahead.
    let allowed = (16 + 8 + DEAF as u64 * 3) << 20;
    assert!(grown < allowed, "{} MiB", grown >> 20);
}

/// Posts that do not go on, all open at once, and what they may cost (security.md §7).
const SLOW: usize = 500;
const ALLOWED_SLOW: u64 = 100 << 20;
/// What each has sent: nearly the longest head, or as much of a body as is kept in memory.
const BEGUN: usize = 60_000;

/// Connections of this port whose bytes the server has all read.
fn read_out(port: u16) -> usize {
    // The own end, the state ESTABLISHED and an empty queue (proc_pid_net_tcp(5)).
    let own = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|line| line[1].ends_with(&own) && line[3] == "01" && line[4].ends_with(":00000000"))
        .count()
}

#[test]
fn slow_posts_cost_little_and_keep_no_partner_out() {
    let _turn = hundreds_of_sockets();
    let pair = Pair::one_with(&[("as2.max_connections_per_ip", "2000")]);
    let (gateway, port) = (pair.bob(), pair.bob().as2_port);
    let good = pair.captured("good.edi", &order(1));
    let timed = |name: &str| {
        let request = good.clone().with("Message-ID", &format!("<{name}@test>"));
        let began = Instant::now();
        let answer = request.post(port);
        assert!(answer.disposition().ends_with("processed"), "{}", answer.text());
        began.elapsed()
    };
    let alone = timed("alone");
    let before = gateway.peak_memory();
    let half_head = format!("POST /as2 HTTP/1.1\r\nHost: bob\r\nX-Long: {}", "x".repeat(BEGUN));
    let half_body = format!(
        "POST /as2 HTTP/1.1\r\nHost: bob\r\nAS2-From: ALICE\r\nAS2-To: BOB\r\nMessage-ID: <slow@test>\r\n\
         Content-Type: text/plain\r\nContent-Length: 1000000\r\n\r\n{}",
        "x".repeat(BEGUN)
    );
    let begin = |number| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let begun = if number % 2 == 0 { &half_head } else { &half_body };
        stream.write_all(begun.as_bytes()).unwrap();
        stream
    };
    let open: Vec<TcpStream> = (0..SLOW).map(begin).collect();
    wait_for("the server to take in what came", || (read_out(port) >= SLOW).then_some(()));
    let grown = gateway.peak_memory() - before;
    println!("{SLOW} slow posts: {} MiB", grown >> 20);
    assert!(grown < ALLOWED_SLOW, "{SLOW} slow posts cost {grown} bytes");
    let among_them = timed("among-them");
    assert!(
        among_them < Duration::from_secs(5) + 5 * alone,
        "a good post took {among_them:?}, and alone {alone:?}"
    );
    drop(open);
}
