//! What a user may do where, how much of it, and what is known about it afterwards.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use tests::packets::{Packets, packet, string};
use tests::process::{PATIENCE, run, tool};
use tests::{Gateway, Pair, wait_for};

/// ALICE and BOB in one gateway; messages wait for their release, so that they stay in `send`.
fn waiting() -> Pair {
    Pair::one_with(&[("uploads.release_after", "\"1h\"")])
}

#[test]
fn rights_go_by_the_longest_prefix_and_count_at_once() {
    let pair = waiting();
    let gateway = pair.alice();
    let user = gateway.user("narrow");
    let local = gateway.file("local/a.txt", b"some text");
    let to = |name: &str| format!("put {} AS2/send/ALICE/BOB/{name}", local.display());
    user.ok(&[&to("first.txt")]);
    gateway.ok(&["user", "set", "narrow", "--rights", "AS2/send/ALICE=rw,AS2/files=r"]);
    wait_for("the rights to count", || {
        (!user.ls("AS2").contains(&"headers".to_owned())).then_some(())
    });
    assert_eq!(user.ls("AS2"), ["files", "send"]);
    assert_eq!(user.ls("AS2/send"), ["ALICE"]);
    user.ok(&[&to("second.txt")]);
    assert!(user.refused("rm AS2/send/ALICE/BOB/second.txt").contains("Permission denied"));
    assert!(!user.refused("ls AS2/headers").is_empty(), "hidden like a missing name");
    gateway.ok(&["user", "set", "narrow", "--rights", "AS2/send=r"]);
    assert!(user.refused(&to("third.txt")).contains("Permission denied"));
    gateway.ok(&["user", "set", "narrow", "--rights", "AS2/send=w"]);
    user.ok(&[&to("drop.txt")]);
    assert!(user.refused("get AS2/send/ALICE/BOB/drop.txt").contains("Permission denied"));
    gateway.ok(&["user", "set", "narrow", "--rights", ""]);
    user.ok(&["rm AS2/send/ALICE/BOB/second.txt"]);
    let misspelt = gateway.cli(&["user", "set", "narrow", "--rights", "AS2/snd=rw"]);
    assert!(misspelt.stderr.contains("AS2/snd, and nothing can be there"), "{misspelt}");
    gateway.ok(&["user", "set", "narrow", "--rights", ""]);
    let wrong = gateway.cli(&["user", "set", "narrow", "--rights", "AS2/send=x"]);
    assert!(wrong.code != 0 && wrong.stderr.contains("AS2/send=rw"), "{wrong}");
}

#[test]
fn a_user_of_some_pairs_sees_no_others() {
    let pair = waiting();
    let gateway = pair.alice();
    let user = gateway.user("some-pairs");
    gateway.ok(&["user", "set", "some-pairs", "--stations", "ALICE", "--partners", "BOB"]);
    wait_for("the restriction to count", || (user.ls("AS2/send") == ["ALICE"]).then_some(()));
    assert_eq!(user.ls("AS2/send/ALICE"), ["BOB"]);
    assert!(
        !user.ls("AS2").contains(&"raw-mdn".to_owned()),
        "receipts of all pairs lie together"
    );
    let local = gateway.file("local/a.txt", b"some text");
    let refused = user.refused(&format!("put {} AS2/send/BOB/ALICE/a.txt", local.display()));
    assert!(!refused.is_empty() && !user.refused("ls AS2/files/BOB").is_empty());
    user.put(&local, "AS2/send/ALICE/BOB/a.txt");
}

#[test]
fn quotas_bound_what_lies_in_send() {
    let pair = waiting();
    let gateway = pair.alice();
    let user = gateway.user("bounded");
    gateway.ok(&["user", "set", "bounded", "--quota-files", "2", "--quota-bytes", "100KiB"]);
    let small = gateway.file("local/small", &[7; 1000]);
    let large = gateway.file("local/large", &[7; 100_000]);
    let put = |local: &std::path::Path, name: &str| format!("put {} AS2/send/ALICE/BOB/{name}", local.display());
    user.ok(&[&put(&small, "one")]);
    user.ok(&[&put(&large, "two")]);
    assert!(user.refused(&put(&small, "three")).contains("Failure"), "the third file");
    user.ok(&["rm AS2/send/ALICE/BOB/one"]);
    assert!(user.refused(&put(&large, "four")).contains("Failure"), "200,000 bytes");
    assert!(gateway.messages_of("out", "four").is_empty());
    user.ok(&["-rm AS2/send/ALICE/BOB/four", "rm AS2/send/ALICE/BOB/two"]);
    user.ok(&[&put(&large, "five")]);
}

#[test]
fn bandwidth_is_kept_each_way() {
    let pair = waiting();
    let gateway = pair.alice();
    let user = gateway.user("slow");
    gateway.ok(&["user", "set", "slow", "--bandwidth", "256KiB"]);
    let local = gateway.file("local/half", &vec![1; 512 << 10]);
    let begun = Instant::now();
    user.put(&local, "AS2/send/ALICE/BOB/half");
    let up = begun.elapsed();
    let begun = Instant::now();
    assert_eq!(user.get("AS2/send/ALICE/BOB/half").len(), 512 << 10);
    let down = begun.elapsed();
    let fits = |took: Duration| (Duration::from_millis(1500)..PATIENCE).contains(&took);
    assert!(fits(up) && fits(down), "two seconds each: {up:?} {down:?}");
}

#[test]
fn sessions_that_wait_for_their_bandwidth_hold_no_threads() {
    const EACH_WAY: usize = 20;
    let pair = Pair::one_with(&[("sftp.max_connections_per_ip", "200")]);
    let gateway = pair.alice();
    let local = gateway.file("local/large", &vec![1; 1 << 20]);
    pair.alice_user.put(&local, "AS2/send/ALICE/BOB/large.part");
    let user = gateway.user("slow");
    gateway.ok(&["user", "set", "slow", "--bandwidth", "64KiB"]);
    let threads = || fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap().count();
    let mut clients: Vec<Packets> = (0..2 * EACH_WAY).map(|_| Packets::of(&user)).collect();
    let before = threads();
    for (n, client) in clients.iter_mut().enumerate() {
        let (name, flags) = if n % 2 == 0 {
            (format!("up-{n}.part"), 0x1a_u32)
        } else {
            ("large.part".to_owned(), 1)
        };
        let path = string(format!("AS2/send/ALICE/BOB/{name}").as_bytes());
        let opened = client.ask(3, &[&path, &flags.to_be_bytes(), &[0; 4]]);
        let handle = string(&opened.text());
        for at in 0..8_u64 {
            let offset = (at * (32 << 10)).to_be_bytes();
            let (kind, rest) = if n % 2 == 0 {
                (6, string(&[7; 32 << 10]))
            } else {
                (5, (32_u32 << 10).to_be_bytes().to_vec())
            };
            client.send(&packet(kind, 1_000 + u32::try_from(at).unwrap(), &[&handle, &offset, &rest]));
        }
    }
    std::thread::sleep(Duration::from_secs(2));
    let more = threads().saturating_sub(before);
    assert!(more < EACH_WAY / 2, "{} sessions that wait hold {more} threads", 2 * EACH_WAY);
    // They end at once.
    gateway.ok(&["user", "disable", "slow"]);
    wait_for("the sessions to end", || {
        gateway.json(&["session", "list"]).as_array().unwrap().is_empty().then_some(())
    });
}

#[test]
fn sessions_are_counted_listed_and_ended() {
    let gateway = Gateway::new();
    let user = gateway.user("counted");
    gateway.ok(&["user", "set", "counted", "--max-sessions", "1"]);
    let mut session = user.start(&[], &["pwd"]);
    let row = wait_for("the session in the list", || {
        gateway.json(&["session", "list"]).as_array().unwrap().first().cloned()
    });
    assert_eq!((row["user"].as_str(), row["account"].as_str()), (Some("counted"), Some("acme")));
    assert!(
        row["client"].as_str().unwrap().contains("OpenSSH") && row["bytes_in"].as_u64().unwrap() > 0,
        "{row}"
    );
    assert!(!user.logs_in(), "one session is allowed");
    assert_ne!(gateway.cli(&["session", "end", "999999"]).code, 0);
    gateway.ok(&["session", "end", &row["id"].to_string()]);
    assert!(gateway.json(&["session", "list"]).as_array().unwrap().is_empty());
    wait_for("the client to notice", || {
        let _ = session.stdin.as_mut().unwrap().write_all(b"-ls\n");
        session.try_wait().unwrap()
    });
    assert!(user.logs_in());
    // What operators do without changing an object is in the record as well, with who it was.
    gateway.ok(&["key", "host", "add", "ed25519"]);
    gateway.ok(&["backup", "copy"]);
    for (kind, subject) in [
        ("session.ended", "counted"),
        ("host_key.added", "ed25519"),
        ("journal.backed_up", "journal"),
    ] {
        let told = gateway.json(&["audit", "list", "--kind", kind]);
        assert_eq!(told[0]["subject"], subject, "{kind}: {told}");
        assert!(told[0]["facts"]["operator"].is_string(), "{kind}: {told}");
    }
    assert_eq!(gateway.term(), 0);
    assert!(gateway.json(&["session", "list"]).as_array().unwrap().is_empty());
}

#[test]
fn of_files_with_one_name_a_user_lists_its_own() {
    let pair = waiting();
    let gateway = pair.alice();
    let place = "AS2/send/ALICE/BOB";
    let mut users: Vec<_> = ["early", "late"].map(|name| gateway.user(name)).into();
    for (user, size) in users.iter().zip([1_234, 56_789]) {
        let local = gateway.file("local/same", &vec![1; size]);
        user.put(&local, &format!("{place}/same.part"));
    }
    users.push(gateway.user("other"));
    for (user, sizes) in users.iter().zip([vec!["1234"], vec!["56789"], vec!["1234", "56789"]]) {
        let long = user.ok(&[&format!("ls -l {place}")]);
        let lines: Vec<&str> = long.lines().filter(|line| line.ends_with("same.part")).collect();
        let shown = |size: &&str| lines[0].split_whitespace().any(|word| word == *size);
        assert!(lines.len() == 1 && sizes.iter().any(shown), "{sizes:?}: {long}");
    }
}

#[test]
fn the_log_of_nobody_is_told_from_that_of_a_user_who_is_gone() {
    let gateway = Gateway::new();
    assert!(gateway.user("left").logs_in());
    let refused = gateway.cli(&["user", "log", "lfet"]).fails(3);
    assert!(refused.contains("no user lfet") && refused.contains("left"), "{refused}");
    let logins = |gateway: &Gateway| gateway.json(&["user", "log", "left"]).as_array().unwrap().len();
    gateway.wait("the login", |gateway| (logins(gateway) > 1).then_some(()));
    gateway.ok(&["user", "rm", "left", "--yes"]);
    assert!(logins(&gateway) > 1, "a removed user keeps its log");
    gateway.ok(&["user", "add", "new", "--generate-key", "--out", "new.key"]);
    let _ = gateway.ok(&["user", "log", "new"]);
}

#[test]
fn the_log_of_a_user_tells_deeds_with_bytes_and_time() {
    let pair = waiting();
    let gateway = pair.alice();
    let user = gateway.user("logged");
    let local = gateway.file("local/a.txt", b"twelve bytes");
    user.put(&local, "AS2/send/ALICE/BOB/a.part");
    let _ = user.ok(&["rename AS2/send/ALICE/BOB/a.part AS2/send/ALICE/BOB/a.txt"]);
    // The rename has sent the first; this one waits for its release.
    user.put(&local, "AS2/send/ALICE/BOB/b.txt");
    assert_eq!(user.get("AS2/send/ALICE/BOB/b.txt"), b"twelve bytes");
    user.ok(&["rm AS2/send/ALICE/BOB/b.txt"]);
    gateway.ok(&["user", "set", "logged", "--quota-bytes", "8"]);
    let [over, misspelt] = ["BOB", "BOBB"].map(|partner| format!("-put {} AS2/send/ALICE/{partner}/c.txt", local.display()));
    let looks = [
        "-ls AS2/send/ALICE/BOBB",
        "-get AS2/send/ALICE/BOB/no.txt",
        "-mkdir AS2/send/ALICE/BOB",
    ];
    let deeds = [
        over.as_str(),
        &misspelt,
        "-mkdir AS2/new",
        "-rename AS2/send/ALICE/BOB/no.txt AS2/files/no.txt",
    ];
    let many = vec!["-rm AS2/files/no.txt"; 20];
    let _ = user.run(&[&looks[..], &deeds[..], &many[..]].concat());
    assert!(!user.with_key(&gateway.ssh_key("stranger", "ed25519")).logs_in());
    let log = wait_for("the failed login in the log", || {
        let log = gateway.json(&["user", "log", "logged"]);
        let kinds: Vec<&str> = log
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["kind"].as_str().unwrap())
            .collect();
        kinds.contains(&"user.login_failed").then(|| log.clone())
    });
    let find = |kind: &str| {
        log.as_array()
            .unwrap()
            .iter()
            .find(|event| event["kind"] == kind)
            .unwrap_or_else(|| panic!("{kind}: {log:#}"))
    };
    let upload = &find("user.upload")["facts"];
    assert_eq!(
        (upload["path"].as_str(), upload["bytes"].as_u64()),
        (Some("AS2/send/ALICE/BOB/a.part"), Some(12))
    );
    let became: Vec<&str> = log
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["facts"]["became"].as_str())
        .collect();
    assert_eq!(became, ["parked", "queued"], "{log:#}");
    assert!(upload["millis"].is_u64() && upload["sha256"].as_str().unwrap().len() == 64);
    assert_eq!(find("user.download")["facts"]["bytes"], 12);
    assert!(find("user.rename")["facts"]["to"].as_str().unwrap().ends_with("a.txt"));
    assert!(find("user.delete")["facts"]["path"].as_str().unwrap().ends_with("b.txt"));
    let events = log.as_array().unwrap().iter().filter(|event| event["kind"] == "user.refused");
    let told: Vec<_> = events.map(|event| event["facts"].clone()).collect();
    let has = |at: usize, tried: &str, path: &str, reason: &str| {
        let text = |name: &str| told[at][name].as_str().unwrap();
        let fits = text("tried") == tried && text("path").ends_with(path) && text("reason").contains(reason);
        assert!(fits, "{tried} {path} {reason}: {told:#?}");
    };
    has(0, "write", "BOB/c.txt", "quota_bytes");
    has(1, "write", "BOBB/c.txt", "no partner BOBB for station ALICE; known: BOB");
    has(2, "mkdir", "AS2/new", "Permission denied");
    has(3, "rename", "BOB/no.txt", "Permission denied");
    assert!(told[3]["to"].as_str().unwrap().ends_with("AS2/files/no.txt"), "{told:#?}");
    has(19, "delete", "AS2/files/no.txt", "");
    assert_eq!(told.len(), 21, "20 and the one that says so");
    assert!(told[20]["reason"].as_str().unwrap().contains("in the log only"), "{told:#?}");
    assert!(find("user.login")["facts"]["client"].is_string() && find("user.logout")["facts"]["bytes_in"].is_u64());
    let all = gateway.json(&["user", "log", "--limit", "3"]);
    assert_eq!(all.as_array().unwrap().len(), 3);
}

/// The log of a refused login names what is in the way, not the key, which is right.
#[test]
fn the_log_says_why_a_right_key_was_refused() {
    let gateway = Gateway::new();
    let user = gateway.user("barred");
    for (setting, value, free, why) in [
        (
            "--expires",
            "2020-01-01T00:00:00Z",
            "",
            "right, but the user expired at 2020-01-01T00:00:00Z",
        ),
        (
            "--allowed-ips",
            "192.0.2.0/24",
            "",
            "right, but the user may not log in from 127.0.0.1 (allowed_ips)",
        ),
    ] {
        gateway.ok(&["user", "set", "barred", setting, value]);
        assert!(!user.logs_in());
        gateway.wait(why, |gateway| {
            let log = gateway.json(&["user", "log", "barred"]);
            let mut tried = log.as_array().unwrap().iter().filter_map(|event| event["facts"]["tried"].as_str());
            tried
                .any(|tried| tried.starts_with("publickey SHA256:") && tried.ends_with(why))
                .then_some(())
        });
        gateway.ok(&["user", "set", "barred", setting, free]);
    }
    assert!(user.logs_in());
    assert!(!gateway.login("nobody", &gateway.path("barred-ed25519.key")).logs_in());
    gateway.wait("the unknown user", |gateway| gateway.log().contains(": no such user").then_some(()));
}

#[test]
fn a_quota_counts_two_uploads_of_one_name() {
    let pair = waiting();
    let gateway = pair.alice();
    let user = gateway.user("twofold");
    gateway.ok(&["user", "set", "twofold", "--quota-bytes", "100KiB"]);
    let mut client = Packets::of(&user);
    let path = string(b"AS2/send/ALICE/BOB/same");
    let mut open = || {
        let opened = client.ask(3, &[&path, &0x1a_u32.to_be_bytes(), &[0; 4]]);
        assert_eq!(opened.kind, 102, "{opened:?}");
        string(&opened.text())
    };
    let (first, second) = (open(), open());
    let bytes = string(&[7; 60 << 10]);
    assert_eq!(client.ask(6, &[&first, &[0; 8], &bytes]).code(), Some(0));
    let refused = client.ask(6, &[&second, &[0; 8], &bytes]);
    assert_eq!(refused.code(), Some(4), "120 KiB together");
    assert!(String::from_utf8_lossy(&refused.text()).contains("quota_bytes"), "{refused:?}");
    assert_eq!(client.ask(4, &[&first]).code(), Some(0));
}

#[test]
fn a_part_that_another_session_leaves_counts_at_once() {
    let pair = waiting();
    let gateway = pair.alice();
    let user = gateway.user("parallel");
    gateway.ok(&["user", "set", "parallel", "--quota-bytes", "100KiB"]);
    let (mut one, mut other) = (Packets::of(&user), Packets::of(&user));
    let open = |client: &mut Packets, name: &str| {
        let path = string(format!("AS2/send/ALICE/BOB/{name}").as_bytes());
        let opened = client.ask(3, &[&path, &0x1a_u32.to_be_bytes(), &[0; 4]]);
        assert_eq!(opened.kind, 102, "{opened:?}");
        string(&opened.text())
    };
    // Blocks of the quota, of which each takes 1 KiB.
    let space = |client: &mut Packets| {
        let told = client.ask(200, &[&string(b"statvfs@openssh.com"), &string(b"/")]);
        let field = |at: usize| u64::from_be_bytes(told.body[at * 8..at * 8 + 8].try_into().unwrap());
        (field(1) * field(2), field(1) * field(3))
    };
    assert_eq!(space(&mut one), (100 << 10, 100 << 10));
    let (first, second) = (open(&mut one, "first.bin"), open(&mut other, "second.bin"));
    assert_eq!(one.ask(6, &[&first, &[0; 8], &string(&[7; 60 << 10])]).code(), Some(0));
    assert_eq!(other.ask(6, &[&second, &[0; 8], &string(&[7; 20 << 10])]).code(), Some(0));
    assert_eq!(space(&mut other), (100 << 10, 20 << 10));
    drop(one);
    gateway.wait("the part", |gateway| {
        let parts = gateway.json(&["upload", "list"]);
        parts.as_array().unwrap().iter().any(|row| row["name"] == "first.bin").then_some(())
    });
    let offset = (20u64 << 10).to_be_bytes();
    let refused = other.ask(6, &[&second, &offset, &string(&[7; 60 << 10])]);
    assert_eq!(refused.code(), Some(4), "140 KiB together: {refused:?}");
    assert_eq!(space(&mut other), (100 << 10, 20 << 10));
    // What is removed makes room at once.
    assert_eq!(other.ask(13, &[&string(b"AS2/send/ALICE/BOB/first.bin")]).code(), Some(0));
    let third = open(&mut other, "third.bin");
    assert_eq!(other.ask(6, &[&third, &[0; 8], &string(&[7; 60 << 10])]).code(), Some(0));
}

#[test]
fn two_uploads_over_one_waiting_file_are_counted_right_in_any_order() {
    let pair = waiting();
    let gateway = pair.alice();
    // What is sent stays in `send`.
    gateway.ok(&["partner", "set", "BOB", "--url", "http://127.0.0.1:9/as2"]);
    for (name, first_ends, fits) in [("renames", "rename", false), ("keeps", "close", true), ("breaks", "leave", true)] {
        let user = gateway.user(name);
        gateway.ok(&["user", "set", name, "--quota-bytes", "150KiB"]);
        let dir = "AS2/send/ALICE/BOB";
        let (waits, other) = (format!("{dir}/{first_ends}.part"), format!("{dir}/{first_ends}-other.part"));
        for (path, kib) in [(&waits, 100), (&other, 40)] {
            let local = gateway.file("local/waits", &vec![7; kib << 10]);
            user.ok(&[&format!("put {} {path}", local.display())]);
        }
        let path = string(waits.as_bytes());
        let open = |client: &mut Packets| {
            let opened = client.ask(3, &[&path, &0x1a_u32.to_be_bytes(), &[0; 4]]);
            assert_eq!(opened.kind, 102, "{opened:?}");
            string(&opened.text())
        };
        let write =
            |client: &mut Packets, handle: &[u8], kib: usize| client.ask(6, &[handle, &[0; 8], &string(&vec![8; kib << 10])]).code();
        let (mut one, mut two) = (Packets::of(&user), Packets::of(&user));
        let (first, second) = (open(&mut one), open(&mut two));
        assert_eq!(write(&mut one, &first, 10), Some(0));
        if first_ends == "leave" {
            drop(one);
            gateway.wait("the end of the first", |gateway| {
                let rows = gateway.json(&["upload", "list"]);
                rows.as_array().unwrap().iter().any(|row| row["state"] == "part").then_some(())
            });
        } else {
            assert_eq!(one.ask(4, &[&first]).code(), Some(0));
            if first_ends == "rename" {
                let to = string(format!("{dir}/renamed.bin").as_bytes());
                assert_eq!(one.ask(18, &[&path, &to]).code(), Some(0));
            }
        }
        // 40 KiB of the other file, 110 of this, and 10 that were sent under another name, or whose place this takes.
        let expected = Some(if fits { 0 } else { 4 });
        assert_eq!(write(&mut two, &second, 110), expected, "{first_ends}");
        assert_eq!(two.ask(4, &[&second]).code(), expected, "{first_ends}");
    }
}

#[test]
fn a_session_sees_nothing_more_when_its_user_is_made_anew_in_another_account() {
    let gateway = Gateway::new();
    let user = gateway.user("mover");
    gateway.ok(&["account", "add", "rival"]);
    let mut client = Packets::of(&user);
    let top = string(b"/mftg-acme/AS2");
    assert_eq!(client.ask(17, &[&top]).kind, 105);
    // Both changes come between two looks of the server.
    let signal = |name: &str| run(&mut tool("kill", &[name, &gateway.pid().to_string()])).ok();
    let _ = signal("-STOP");
    gateway.ok(&["user", "rm", "mover", "--yes"]);
    let key = gateway.path("mover-ed25519.key.pub");
    gateway.ok(&["-a", "rival", "user", "add", "mover", "--public-key", key.to_str().unwrap()]);
    let _ = signal("-CONT");
    wait_for("the new user", || user.logs_in().then_some(()));
    assert_eq!(user.ls("/"), ["mftg-rival"]);
    client.send(&packet(17, 900, &[&top]));
    let seen = client.answer();
    assert!(seen.as_ref().is_none_or(|answer| answer.kind == 101), "{seen:?}");
    gateway.wait("the end of the old session", |gateway| {
        gateway.json(&["session", "list"]).as_array().unwrap().is_empty().then_some(())
    });
}

#[test]
fn the_record_of_events_tells_what_happened_and_who_rewrote_it() {
    let pair = waiting();
    let gateway = pair.alice();
    let _ = gateway.ok(&["partner", "set", "BOB", "--name", "Bob and sons"]);
    let listed = gateway.json(&["audit", "list", "--kind", "partner.", "--since", "1h", "--limit", "1"]);
    let [last] = listed.as_array().unwrap().as_slice() else {
        panic!("{listed:#}")
    };
    assert_eq!(
        (last["account"].as_str(), last["subject"].as_str()),
        (Some("acme"), Some("BOB")),
        "{last:#}"
    );

    let noted = gateway.json(&["audit", "verify"])["head"].as_str().unwrap().to_owned();
    let _ = gateway.ok(&["partner", "set", "BOB", "--name", "Bob"]);
    let later = gateway.json(&["audit", "verify", "--head", &noted.to_uppercase()]);
    assert_ne!(later["head"], noted.as_str());
    let unknown = gateway.cli(&["audit", "verify", "--head", &"0".repeat(64)]);
    assert!(
        unknown.code == 1 && unknown.stderr.contains("no event carries the hash 0000"),
        "{unknown}"
    );

    gateway.sql("UPDATE event SET at = at + 1 WHERE seq = 2");
    let forged = gateway.cli(&["audit", "verify"]);
    assert!(
        forged.code == 1 && forged.stderr.contains("the chain of hashes breaks at event 2"),
        "{forged}"
    );
}
