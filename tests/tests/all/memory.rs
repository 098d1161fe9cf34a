//! Big files with flat memory.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tests::packets::{Packets, packet, string};
use tests::process::{run, tool, wait_within};
use tests::{Pair, noise};

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
