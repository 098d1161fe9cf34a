//! Uploads: what becomes a message and what does not.

mod names;

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::packets::{Answer, Packets, string};
use tests::process::{run, run_with, stays, tool};
use tests::sftp::{SLOW, quoted};
use tests::{Gateway, Pair, Sftp, noise, order, peer, wait_for};

/// The six hours.
const WINDOW: i64 = 6 * 3600;
const SEND: &str = "AS2/send/ALICE/BOB";

/// A release delay that ends when a test moves the clock: no machine is too slow to come before its end.
const HOUR: &[(&str, &str)] = &[("uploads.release_after", "\"1h\"")];

/// Seconds since 1970 of an RFC 3339 time, and its milliseconds.
fn millis(time: &Value) -> i64 {
    let text = time.as_str().expect("a time");
    let seconds = run(&mut tool("date", &["-u", "-d", text, "+%s"]))
        .ok()
        .trim()
        .parse::<i64>()
        .unwrap();
    let fraction = text.split_once('.').map_or("0", |(_, rest)| rest.trim_end_matches('Z'));
    seconds * 1000 + format!("{fraction:0<3}")[..3].parse::<i64>().unwrap()
}

/// Moves the clock to so many milliseconds after a moment, give or take the second that the clock file knows.
fn move_to(gateway: &Gateway, moment: i64) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_millis()).unwrap();
    // Rounded up: never earlier than asked for.
    gateway.set_clock((moment - now + 999).div_euclid(1000));
}

/// Everything that is known about a name at ALICE.
fn outcomes(gateway: &Gateway, name: &str) -> Vec<String> {
    gateway
        .messages_of("out", name)
        .iter()
        .map(|message| message["state"].as_str().unwrap().to_owned())
        .collect()
}

/// The answers of one paramiko operation: the server's own words.
fn paramiko(gateway: &Gateway, user: &str, args: &[&str]) -> String {
    let mut command = tool(
        peer::python().to_str().unwrap(),
        &[peer::script("paramiko_client.py").to_str().unwrap()],
    );
    command
        .args([&gateway.sftp_port.to_string(), user])
        .arg(gateway.path(&format!("{user}-ed25519.key")))
        .args(args);
    run(&mut command).stdout
}

/// The time of the newest message of a name, once there are so many.
fn newest(gateway: &Gateway, name: &str, count: usize) -> (i64, String) {
    gateway.wait("the next message", |gateway| {
        let all = gateway.messages_of("out", name);
        let times = all
            .iter()
            .map(|message| (millis(&message["created"]), message["id"].as_str().unwrap().to_owned()));
        (all.len() == count).then(|| times.max().unwrap())
    })
}

#[test]
fn a_name_is_a_duplicate_until_six_hours_have_passed() {
    let pair = Pair::one_gateway();
    let alice = pair.alice();
    // Shortly before the end. The clock runs on while the client logs in, so the rows decide who was in time; where this machine
    // took too long, another name gets more time.
    let mut before = 4;
    let (name, opened) = loop {
        assert!(before < 600, "a login takes minutes");
        let name = format!("order-{before}.edi");
        let opened = millis(&pair.deliver(&name, &order(1)).sent["created"]);
        move_to(alice, opened + (WINDOW - before) * 1000);
        pair.put(&name, &order(2));
        let (created, id) = newest(alice, &name, 2);
        assert!(created - opened >= (WINDOW - before) * 1000);
        if created - opened < WINDOW * 1000 {
            assert_eq!(alice.show(&id)["state"], "duplicate");
            break (name, opened);
        }
        before *= 3;
    };

    move_to(alice, opened + WINDOW * 1000);
    pair.put(&name, &order(3));
    let (created, id) = newest(alice, &name, 3);
    assert!(created - opened >= WINDOW * 1000);
    alice.wait("the second delivery", |alice| {
        (alice.show(&id)["state"] == "delivered").then_some(())
    });
    assert_eq!(pair.bob().messages_of("in", &name).len(), 2);
}

#[test]
fn a_duplicate_does_not_extend_the_window() {
    let pair = Pair::one_gateway();
    let opened = millis(&pair.deliver("again.edi", &order(1)).sent["created"]);
    move_to(pair.alice(), opened + (WINDOW - 600) * 1000);
    pair.put("again.edi", &order(1));
    pair.alice().reaches("out", "again.edi", "duplicate");
    move_to(pair.alice(), opened + WINDOW * 1000);
    pair.put("again.edi", &order(1));
    pair.alice().wait("the second delivery", |alice| {
        (outcomes(alice, "again.edi").iter().filter(|state| *state == "delivered").count() == 2).then_some(())
    });
}

#[test]
fn an_upload_that_is_not_sent_for_its_name_is_counted_and_told() {
    let pair = Pair::one_with(&[("telemetry.listen", "\"127.0.0.1:0\"")]);
    let alice = pair.alice();
    let row = |result: &str| {
        let row = format!("as2gate_as2_messages_total{{direction=\"out\",result=\"{result}\"}}");
        alice.metric(&row).unwrap_or_else(|| panic!("no {row}"))
    };
    assert_eq!([row("duplicate"), row("repeated"), row("failed")], ["0"; 3]);
    assert!(!alice.ok(&["status", "-o", "table"]).contains("duplicates"));
    pair.deliver("used.edi", &order(1));
    pair.put("used.edi", &order(1));
    assert_eq!([row("duplicate"), row("repeated")], ["0", "1"]);
    pair.put("used.edi", &order(2));
    assert_eq!([row("duplicate"), row("repeated")], ["1", "1"]);
    let told = alice.ok(&["status", "-o", "table"]);
    assert!(told.contains("duplicates 24h 2, not sent"), "{told}");
    let status = alice.json(&["status"]);
    assert_eq!(
        (&status["duplicates_24h"], &status["as2"], &status["as2_tls"]),
        (&2.into(), &"ok".into(), &"off".into())
    );
}

#[test]
fn duplicates_are_kept_under_names_of_their_own() {
    let pair = Pair::one_gateway();
    let first = pair.deliver("twice.edi", &order(1));
    pair.put("twice.edi", &order(1));
    pair.put("twice.edi", &order(2));
    pair.put("twice.edi", &order(3));
    let kept = pair.alice_user.ls("AS2/duplicate/ALICE/BOB");
    assert_eq!(kept.len(), 3, "{kept:?}");
    assert!(kept.contains(&"twice.edi".to_owned()));
    assert!(
        kept.iter().all(|name| name.starts_with("twice") && name.ends_with(".edi")),
        "{kept:?}"
    );
    let mut contents: Vec<Vec<u8>> = kept
        .iter()
        .map(|name| pair.alice_user.get(&format!("AS2/duplicate/ALICE/BOB/{name}")))
        .collect();
    contents.sort();
    let mut put = vec![order(1), order(2), order(3)];
    put.sort();
    assert!(contents == put, "nothing in duplicate/ is overwritten");
    assert_eq!(pair.alice_user.ls(SEND), [""; 0]);
    let rows: Vec<Value> = pair
        .alice()
        .messages_of("out", "twice.edi")
        .into_iter()
        .filter(|m| m["state"] == "duplicate")
        .collect();
    let shown: Vec<Value> = rows.iter().map(|row| pair.alice().show(row["id"].as_str().unwrap())).collect();
    assert!(
        shown.iter().all(|row| row.to_string().contains(first.sent_id())),
        "each names the winner"
    );
    let says = |words: &str| shown.iter().filter(|row| row.to_string().contains(words)).count();
    assert_eq!((says("same bytes"), says("other bytes")), (1, 2), "{shown:#?}");
    assert_eq!(pair.bob().messages_of("in", "twice.edi").len(), 1);
}

#[test]
fn the_same_content_under_another_name_is_sent() {
    let pair = Pair::one_gateway();
    pair.deliver("a.edi", &order(1));
    pair.deliver("a.edi.1", &order(1));
    pair.deliver("A.edi", &order(1));
    assert_eq!(pair.alice_user.ls("AS2/duplicate/ALICE/BOB"), [""; 0]);
}

#[test]
fn temporary_names_wait_and_a_rename_completes_them() {
    let pair = Pair::one_gateway();
    let names = [
        "a.edi.filepart",
        "b.part",
        "c.partial",
        "d.tmp",
        "e.crdownload",
        "f.inprogress",
        "f.writing",
        "i.UPLOADING",
        "i.TMP",
        ".g.edi",
        "h.edi~",
    ];
    for name in names {
        pair.put(name, &order(7));
    }
    let mut listed = names.map(str::to_owned).to_vec();
    listed.sort();
    assert_eq!(pair.alice_user.ls(SEND), listed, "parked files stay in sight");
    stays(Duration::from_secs(2), "temporary names are no messages", || {
        pair.alice().messages("out").is_empty()
    });

    pair.alice_user.ok(&[&format!("rename {SEND}/a.edi.filepart {SEND}/a.edi")]);
    let parcel = pair.delivered("a.edi");
    assert_eq!(pair.fetch(&parcel), order(7));
    listed.retain(|name| name != "a.edi.filepart");
    assert_eq!(pair.alice_user.ls(SEND), listed);

    // To another temporary name: still waiting. Removed: gone.
    pair.alice_user
        .ok(&[&format!("rename {SEND}/b.part {SEND}/b2.part"), &format!("rm {SEND}/c.partial")]);
    listed.retain(|name| name != "b.part" && name != "c.partial");
    listed.push("b2.part".to_owned());
    listed.sort();
    assert_eq!(pair.alice_user.ls(SEND), listed);
    assert_eq!(pair.alice().messages("out").len(), 1);
}

#[test]
fn the_six_hour_rule_counts_the_name_after_the_rename() {
    let pair = Pair::one_gateway();
    pair.deliver("taken.edi", &order(1));
    pair.put("taken.edi.part", &order(2));
    pair.alice_user.ok(&[&format!("rename {SEND}/taken.edi.part {SEND}/taken.edi")]);
    pair.alice().reaches("out", "taken.edi", "duplicate");
    assert_eq!(pair.alice_user.get("AS2/duplicate/ALICE/BOB/taken.edi"), order(2));
}

#[test]
fn the_rename_may_be_switched_off() {
    let pair = Pair::one_with(&[("uploads.rename_completes", "false")]);
    pair.put("x.part", &order(1));
    pair.alice_user.ok(&[&format!("rename {SEND}/x.part {SEND}/x.edi")]);
    assert_eq!(pair.alice_user.ls(SEND), ["x.edi"]);
    stays(Duration::from_secs(2), "ignored files are no messages", || {
        pair.alice().messages("out").is_empty()
    });
}

#[test]
fn an_empty_file_is_shown_and_not_sent_and_takes_no_name() {
    let pair = Pair::one_gateway();
    pair.put("touch.edi", b"");
    assert_eq!(pair.alice_user.ls(SEND), ["touch.edi"]);
    stays(Duration::from_secs(2), "an empty file is no message", || {
        pair.alice().messages("out").is_empty()
    });
    let parcel = pair.deliver("touch.edi", &order(1));
    assert_eq!(pair.fetch(&parcel), order(1));
    assert_eq!(pair.alice_user.ls(SEND), [""; 0]);
    pair.alice().ok(&["partner", "set", "BOB", "--allow-empty", "true"]);
    pair.alice().restart();
    let parcel = pair.deliver("empty.txt", b"");
    assert_eq!(pair.fetch(&parcel), b"");
}

#[test]
fn a_file_taken_back_within_the_release_delay_is_never_sent() {
    let pair = Pair::one_with(HOUR);
    let local = pair.alice().file("mistake.edi", &order(1));
    let put = format!("put {} {SEND}/mistake.edi", quoted(local.to_str().unwrap()));
    pair.alice_user.ok(&[&put, &format!("rm {SEND}/mistake.edi")]);
    assert_eq!(pair.alice_user.ls(SEND), [""; 0]);
    // One that came after it goes out when the time is over.
    pair.put("other.edi", &order(3));
    pair.alice().set_clock(3700);
    pair.delivered("other.edi");
    stays(Duration::from_secs(2), "a file taken back is not sent", || {
        pair.bob().messages("in").len() == 1 && !outcomes(pair.alice(), "mistake.edi").contains(&"delivered".to_owned())
    });
    // Its name is free again.
    pair.put("mistake.edi", &order(2));
    pair.alice().set_clock(2 * 3700);
    assert_eq!(pair.fetch(&pair.delivered("mistake.edi")), order(2));
}

#[test]
fn a_rename_within_the_release_delay_is_no_failure() {
    let pair = Pair::one_with(HOUR);
    pair.put("early.edi", &order(1));
    let id = pair.alice().messages("out")[0]["id"].as_str().unwrap().to_owned();
    pair.alice_user.ok(&[&format!("rename {SEND}/early.edi {SEND}/final.edi")]);
    let all = pair.alice().messages("out");
    let after = all.iter().find(|message| message["file"] == "final.edi").unwrap()["id"]
        .as_str()
        .unwrap();
    for verb in ["resend", "retry"] {
        let told = pair.alice().cli(&["message", verb, &id]);
        assert!(told.code != 0 && told.stderr.contains(after), "{told}");
    }
    assert_eq!(pair.alice().json(&["status"])["failed_24h"], 0);
}

#[test]
fn a_file_put_again_within_the_release_delay_goes_out_once_with_the_later_bytes() {
    let pair = Pair::one_with(HOUR);
    pair.put("twice.edi", &order(1));
    pair.put("twice.edi", &order(2));
    pair.alice().set_clock(3700);
    let parcel = pair.delivered("twice.edi");
    assert_eq!(pair.fetch(&parcel), order(2));
    assert_eq!(pair.bob().messages_of("in", "twice.edi").len(), 1);
}

#[test]
fn an_accepted_file_cannot_be_removed_or_renamed_any_more() {
    let pair = Pair::two_gateways();
    pair.bob().kill9();
    pair.put("accepted.edi", &order(1));
    let row = pair.alice().reaches("out", "accepted.edi", "retrying");
    let told = paramiko(pair.alice(), "alice-erp", &["remove", &format!("{SEND}/accepted.edi")]);
    assert!(told.contains("refused") && told.contains(row["id"].as_str().unwrap()), "{told}");
    let told = paramiko(
        pair.alice(),
        "alice-erp",
        &["rename", &format!("{SEND}/accepted.edi"), &format!("{SEND}/other.edi")],
    );
    assert!(told.contains("refused"), "{told}");
    assert_eq!(pair.alice_user.ls(SEND), ["accepted.edi"]);
}

/// Presses Ctrl-C in a slow upload and comes back when the client has left.
fn interrupt(user: &Sftp, transfer: &str, after: &[&str]) -> String {
    let script = peer::script("interrupt.py");
    let mut command = Command::new("python3");
    command
        .arg(script)
        .arg(user.interactive("-l 8000"))
        .arg(transfer)
        .args(after)
        .env("TERM", "dumb");
    run(&mut command).ok()
}

/// What tells an operator of files that look interrupted: their number in the metrics, once they are there.
fn interrupted(gateway: &Gateway) -> Option<u64> {
    let page = gateway.metrics();
    let rows = page.lines().filter(|line| line.starts_with("as2gate_sftp_uploads_waiting{"));
    let counts = rows.filter_map(|row| row.rsplit_once(' ')?.1.parse::<u64>().ok());
    counts.reduce(|sum, count| sum + count)
}

#[test]
fn an_upload_broken_off_with_ctrl_c_is_never_sent_and_told() {
    let pair = Pair::one_with(&[("uploads.release_after", "\"1s\""), ("telemetry.listen", "\"127.0.0.1:0\"")]);
    let alice = pair.alice();
    alice.wait("the metric", |_| (interrupted(alice) == Some(0)).then_some(()));
    assert_eq!(alice.json(&["status"])["interrupted"], 0);
    let bytes = noise(24 << 20, 11);
    let local = pair.alice().file("big.bin", &bytes);
    interrupt(&pair.alice_user, &format!("put {} {SEND}/big.bin", local.display()), &[]);
    assert_eq!(pair.alice_user.ls(SEND), ["big.bin"], "what came stays in sight");
    stays(Duration::from_secs(4), "a broken-off upload is no message", || {
        pair.alice().messages("out").is_empty() && pair.bob().messages("in").is_empty()
    });
    alice.wait("the metric", |_| (interrupted(alice) == Some(1)).then_some(()));
    assert_eq!(alice.json(&["status"])["interrupted"], 1);
    let told = alice.cli(&["doctor"]).stdout;
    assert!(told.contains("1 file in send looks interrupted"), "{told}");
    // Resumed, it is complete and goes out whole.
    pair.alice_user
        .ok(&[&format!("reput {} {SEND}/big.bin", quoted(local.to_str().unwrap()))]);
    let parcel = pair.delivered("big.bin");
    assert!(pair.fetch(&parcel) == bytes);
}

#[test]
fn a_resumed_upload_that_is_broken_off_again_is_never_sent() {
    let pair = Pair::one_with(&[("uploads.release_after", "\"1s\"")]);
    let local = pair.alice().file("big.bin", &noise(24 << 20, 12));
    let (put, reput) = (
        format!("put {} {SEND}/big.bin", local.display()),
        format!("reput {} {SEND}/big.bin", local.display()),
    );
    interrupt(&pair.alice_user, &put, &[]);
    interrupt(&pair.alice_user, &reput, &["pwd"]);
    stays(Duration::from_secs(4), "a broken-off upload is no message", || {
        pair.alice().messages("out").is_empty() && pair.bob().messages("in").is_empty()
    });
}

#[test]
fn an_upload_whose_client_was_killed_is_never_sent_and_can_be_resumed() {
    let pair = Pair::one_with(&[("uploads.release_after", "\"1s\"")]);
    let bytes = noise(12 << 20, 13);
    let local = pair.alice().file("killed.bin", &bytes);
    let line = format!("put {} {SEND}/killed.bin", quoted(local.to_str().unwrap()));
    let mut client = pair.alice_user.start(&["-l", SLOW], &[&line]);
    wait_for("a megabyte of the upload", || {
        pair.alice_user.size(SEND).filter(|size| *size > 1 << 20)
    });
    client.kill().unwrap();
    client.wait().unwrap();
    stays(Duration::from_secs(4), "a lost connection completes nothing", || {
        pair.alice().messages("out").is_empty() && pair.alice_user.ls(SEND) == ["killed.bin"]
    });
    pair.alice_user
        .ok(&[&format!("reput {} {SEND}/killed.bin", quoted(local.to_str().unwrap()))]);
    let parcel = pair.delivered("killed.bin");
    assert!(pair.fetch(&parcel) == bytes);
    assert_eq!(pair.bob().messages("in").len(), 1);
}

#[test]
fn a_part_is_shown_to_its_own_user_only() {
    let pair = Pair::one_gateway();
    let local = pair.alice().file("mine.bin", &noise(12 << 20, 14));
    let line = format!("put {} {SEND}/mine.bin", quoted(local.to_str().unwrap()));
    let mut client = pair.alice_user.start(&["-l", SLOW], &[&line]);
    wait_for("the upload to be listed", || {
        (pair.alice_user.ls(SEND) == ["mine.bin"]).then_some(())
    });
    client.kill().unwrap();
    client.wait().unwrap();
    assert_eq!(pair.bob_user.ls(SEND), [""; 0]);
}

/// Cleo CVE-2024-50623, CVE-2024-55956.
#[test]
fn keystore_and_tmp_are_listed_and_closed() {
    let pair = Pair::one_gateway();
    let user = &pair.alice_user;
    let top = ["duplicate", "files", "headers", "keystore", "raw-mdn", "raw-message", "send", "tmp"];
    assert_eq!(user.ls("AS2"), top);
    let local = pair.alice().file("x", b"x");
    for place in ["AS2/keystore", "AS2/tmp"] {
        let words = user.refused(&format!("cd {place}"));
        assert!(words.contains("Permission denied"), "{words}");
        let _ = user.refused(&format!("ls {place}"));
        for line in [
            "get {}/identity.jks",
            "rm {}/identity.jks",
            "mkdir {}/d",
            "rmdir {}",
            "rename {} AS2/other",
            "chmod 777 {}",
        ] {
            let _ = user.refused(&line.replace("{}", place));
        }
        let _ = user.refused(&format!("put {} {place}/x", local.display()));
        let there = paramiko(pair.alice(), "alice-erp", &["stat", &format!("{place}/identity.jks")]);
        let missing = paramiko(pair.alice(), "alice-erp", &["stat", &format!("{place}/no-such-file")]);
        assert!(
            there.contains("refused") && there == missing,
            "existing and missing names are told apart: {there} {missing}"
        );
    }
}

#[test]
fn a_part_that_was_resumed_behind_its_end_is_gone() {
    let gateway = &Pair::one_gateway();
    let mut client = Packets::of(&gateway.alice_user);
    let path = string(format!("{SEND}/part.bin").as_bytes());
    let open = |client: &mut Packets, flags: u32| {
        let opened = client.ask(3, &[&path, &flags.to_be_bytes(), &[0; 4]]);
        assert_eq!(opened.kind, 102, "{opened:?}");
        string(&opened.text())
    };
    let handle = open(&mut client, 0x1a);
    assert_eq!(client.ask(6, &[&handle, &[0; 8], &string(&[7; 1000])]).code(), Some(0));
    drop(client);
    wait_for("the part", || {
        gateway.alice_user.ls(SEND).contains(&"part.bin".to_owned()).then_some(())
    });
    let mut client = Packets::of(&gateway.alice_user);
    let handle = wait_for("the upload to end", || {
        let opened = client.ask(3, &[&path, &2_u32.to_be_bytes(), &[0; 4]]);
        (opened.kind == 102).then(|| string(&opened.text()))
    });
    assert_eq!(client.ask(6, &[&handle, &5000_u64.to_be_bytes(), &string(b"tail")]).code(), Some(0));
    let refused = client.ask(4, &[&handle]);
    assert!(
        refused.code() == Some(4) && String::from_utf8_lossy(&refused.text()).contains("upload it whole"),
        "{refused:?}"
    );
    // Its bytes are gone, and its name promises none.
    assert_eq!(client.ask(17, &[&path]).code(), Some(2));
    let handle = open(&mut client, 0xa);
    assert_eq!(client.ask(6, &[&handle, &[0; 8], &string(b"whole")]).code(), Some(0));
    assert_eq!(client.ask(4, &[&handle]).code(), Some(0));
    gateway.alice().reaches("out", "part.bin", "delivered");
}

/// Opens a file of `send`; its handle.
#[track_caller]
fn opened(client: &mut Packets, name: &str, flags: u32) -> Vec<u8> {
    let path = string(format!("{SEND}/{name}").as_bytes());
    let opened = client.ask(3, &[&path, &flags.to_be_bytes(), &[0; 4]]);
    assert_eq!(opened.kind, 102, "{opened:?}");
    string(&opened.text())
}

#[track_caller]
fn writes(client: &mut Packets, handle: &[u8], offset: u64, bytes: &[u8]) {
    let answer = client.ask(6, &[handle, &offset.to_be_bytes(), &string(bytes)]);
    assert_eq!(answer.code(), Some(0), "{answer:?}");
}

/// WRITE, CREAT, TRUNC.
const PUT: u32 = 0x1a;

#[test]
fn what_was_accepted_survives_a_crash_of_what_goes_on_with_it() {
    let pair = Pair::one_with(&[("uploads.release_after", "\"1h\"")]);
    for (name, len) in [("small.edi", 1_000), ("large.edi", 300_000)] {
        let mut client = Packets::of(&pair.alice_user);
        let handle = opened(&mut client, name, PUT);
        for (at, piece) in noise(len, 1).chunks(30_000).enumerate() {
            writes(&mut client, &handle, at as u64 * 30_000, piece);
        }
        assert_eq!(client.ask(4, &[&handle]).code(), Some(0), "the promise");
        // Without truncation, and with it.
        for flags in [0x02, PUT] {
            let handle = opened(&mut client, name, flags);
            writes(&mut client, &handle, 0, b"other");
            pair.alice().kill9();
            pair.alice().start();
            assert_eq!(pair.alice_user.get(&format!("{SEND}/{name}")), noise(len, 1), "{name}, {flags:x}");
            client = Packets::of(&pair.alice_user);
        }
        assert!(pair.alice().json(&["upload", "list"]).as_array().unwrap().is_empty(), "{name}");
        assert_eq!(outcomes(pair.alice(), name), ["queued", "failed", "failed"], "{name}");
        // Whoever opens it once more goes on with it.
        let handle = opened(&mut client, name, 0x02);
        writes(&mut client, &handle, len as u64, b"more");
        assert_eq!(client.ask(4, &[&handle]).code(), Some(0));
        let expected = [noise(len, 1), b"more".to_vec()].concat();
        assert_eq!(pair.alice_user.get(&format!("{SEND}/{name}")), expected, "{name}");
        assert_eq!(outcomes(pair.alice(), name), ["queued", "failed", "failed", "failed"], "{name}");
        assert!(pair.alice().json(&["upload", "list"]).as_array().unwrap().is_empty(), "{name}");
    }
}

#[test]
fn a_file_removed_before_its_close_is_never_sent() {
    // What Go programs do with a deferred Close when the copying has failed.
    let pair = Pair::one_with(&[("uploads.release_after", "\"1s\"")]);
    let mut client = Packets::of(&pair.alice_user);
    for (name, len) in [("small.edi", 1_000), ("large.edi", 100_000)] {
        let path = string(format!("{SEND}/{name}").as_bytes());
        let handle = opened(&mut client, name, PUT);
        for (at, piece) in noise(len, 1).chunks(30_000).enumerate() {
            writes(&mut client, &handle, at as u64 * 30_000, piece);
        }
        assert_eq!(client.ask(13, &[&path]).code(), Some(0), "the remove");
        assert_eq!(client.ask(17, &[&path]).code(), Some(2), "the name is free");
        let refused = client.ask(6, &[&handle, &[0; 8], &string(b"more")]);
        assert!(String::from_utf8_lossy(&refused.text()).contains("removed"), "{refused:?}");
        assert_eq!(client.ask(4, &[&handle]).code(), Some(4), "nothing is promised");
    }
    let handle = opened(&mut client, "whole.edi", PUT);
    writes(&mut client, &handle, 0, b"half");
    assert_eq!(client.ask(13, &[&string(format!("{SEND}/whole.edi").as_bytes())]).code(), Some(0));
    let refused = client.ask(4, &[&handle]);
    assert_eq!(refused.code(), Some(4), "{refused:?}");
    // The name is good for another upload, also while the old handle is open.
    let old = opened(&mut client, "again.edi", PUT);
    writes(&mut client, &old, 0, b"half");
    assert_eq!(client.ask(13, &[&string(format!("{SEND}/again.edi").as_bytes())]).code(), Some(0));
    let new = opened(&mut client, "again.edi", PUT | 0x20);
    writes(&mut client, &new, 0, &order(7));
    assert_eq!(client.ask(4, &[&new]).code(), Some(0));
    assert_eq!(client.ask(4, &[&old]).code(), Some(4));
    let parcel = pair.delivered("again.edi");
    assert_eq!(pair.fetch(&parcel), order(7));
    for name in ["small.edi", "large.edi", "whole.edi"] {
        assert!(outcomes(pair.alice(), name).is_empty(), "{name}");
    }
    assert!(pair.alice_user.ls(SEND).is_empty());
}

#[test]
fn times_set_on_the_name_of_an_open_file_are_taken() {
    // What sshfs makes of `cp -p` and `tar x`; paramiko's `utime` and `chmod` before the close.
    let pair = Pair::one_gateway();
    let mut client = Packets::of(&pair.alice_user);
    let path = string(format!("{SEND}/times.edi").as_bytes());
    let handle = opened(&mut client, "times.edi", PUT);
    writes(&mut client, &handle, 0, &order(1));
    let times: [&[u8]; 3] = [&8u32.to_be_bytes(), &1_000_000u32.to_be_bytes(), &1_234_567u32.to_be_bytes()];
    assert_eq!(client.ask(9, &[&path, &times.concat()]).code(), Some(0), "times");
    let mode: [&[u8]; 2] = [&4u32.to_be_bytes(), &0o600u32.to_be_bytes()];
    assert_eq!(client.ask(9, &[&path, &mode.concat()]).code(), Some(0), "mode");
    let size: [&[u8]; 2] = [&1u32.to_be_bytes(), &1u64.to_be_bytes()];
    assert_eq!(client.ask(9, &[&path, &size.concat()]).code(), Some(3), "another size");
    let shown = |client: &mut Packets| {
        let attrs = client.ask(17, &[&path]);
        assert_eq!(attrs.kind, 105, "{attrs:?}");
        u32::from_be_bytes(attrs.body[attrs.body.len() - 4..].try_into().unwrap())
    };
    assert_eq!(shown(&mut client), 1_234_567);
    assert_eq!(client.ask(4, &[&handle]).code(), Some(0));
    assert_eq!(shown(&mut client), 1_234_567, "behind the CLOSE");
    let parcel = pair.delivered("times.edi");
    assert_eq!(pair.fetch(&parcel), order(1));
    // Delivered, and not listed any more: STAT tells of it still, a REMOVE finds nothing, as one before a RENAME needs it.
    assert_eq!(shown(&mut client), 1_234_567);
    assert_eq!(client.ask(13, &[&path]).code(), Some(2), "REMOVE");
    assert_eq!(client.ask(17, &[&path]).code(), Some(2), "STAT behind it");
}

#[test]
fn a_file_renamed_before_its_close_goes_out_under_its_last_name_with_its_last_bytes() {
    let pair = Pair::one_gateway();
    let mut client = Packets::of(&pair.alice_user);
    let path = |name: &str| string(format!("{SEND}/{name}").as_bytes());
    // A run of before has left the temporary name: its bytes must not go out in place of the new ones.
    let handle = opened(&mut client, "order.tmp", PUT);
    writes(&mut client, &handle, 0, &order(1));
    assert_eq!(client.ask(4, &[&handle]).code(), Some(0));
    let handle = opened(&mut client, "order.tmp", PUT);
    writes(&mut client, &handle, 0, &order(2));
    let renamed = client.ask(18, &[&path("order.tmp"), &path("order.edi")]);
    assert_eq!(renamed.code(), Some(0), "{renamed:?}");
    assert_eq!(client.ask(17, &[&path("order.edi")]).kind, 105);
    assert!(outcomes(pair.alice(), "order.edi").is_empty(), "nothing is sent before the CLOSE");
    // Not over what is there, and not to another partner.
    let other = opened(&mut client, "other.tmp", PUT);
    assert_eq!(client.ask(18, &[&path("other.tmp"), &path("order.edi")]).code(), Some(4));
    let elsewhere = string(b"AS2/send/BOB/ALICE/order.edi");
    assert_eq!(client.ask(18, &[&path("other.tmp"), &elsewhere]).code(), Some(4));
    assert_eq!(client.ask(4, &[&other]).code(), Some(0));
    assert_eq!(client.ask(4, &[&handle]).code(), Some(0));
    let parcel = pair.delivered("order.edi");
    assert_eq!(pair.fetch(&parcel), order(2));
    assert_eq!(pair.alice_user.ls(SEND), ["other.tmp"], "the former content is gone");
    // What another session is writing is not what this one has stored.
    let stored = opened(&mut client, "mine.tmp", PUT);
    writes(&mut client, &stored, 0, &order(4));
    let mut second = Packets::of(&pair.alice_user);
    let theirs = opened(&mut second, "mine.tmp", PUT);
    assert_eq!(client.ask(4, &[&stored]).code(), Some(0));
    assert_eq!(client.ask(18, &[&path("mine.tmp"), &path("mine.edi")]).code(), Some(0));
    assert_eq!(pair.fetch(&pair.delivered("mine.edi")), order(4));
    assert_eq!(second.ask(4, &[&theirs]).code(), Some(0));
    assert_eq!(second.ask(13, &[&path("mine.tmp")]).code(), Some(0));
    // From one temporary name to the next it stays parked, once.
    let handle = opened(&mut client, "other.tmp", PUT);
    writes(&mut client, &handle, 0, &order(3));
    assert_eq!(client.ask(18, &[&path("other.tmp"), &path("last.tmp")]).code(), Some(0));
    assert_eq!(client.ask(4, &[&handle]).code(), Some(0));
    assert_eq!(pair.alice_user.ls(SEND), ["last.tmp"]);
}

#[test]
fn what_was_broken_off_is_not_sent_by_a_close_that_adds_nothing() {
    let pair = Pair::one_with(&[("uploads.release_after", "\"1s\"")]);
    let mut client = Packets::of(&pair.alice_user);
    let handle = opened(&mut client, "part.edi", PUT);
    writes(&mut client, &handle, 0, &order(1)[..order(1).len() / 2]);
    drop(client);
    wait_for("the part", || (pair.alice_user.ls(SEND) == ["part.edi"]).then_some(()));
    let mut client = Packets::of(&pair.alice_user);
    // WRITE; WRITE and APPEND: once for what was lost, once for what is parked since.
    for flags in [0x2, 0x6] {
        let handle = wait_for("the upload to end", || {
            let path = string(format!("{SEND}/part.edi").as_bytes());
            let opened = client.ask(3, &[&path, &u32::to_be_bytes(flags), &[0; 4]]);
            (opened.kind == 102).then(|| string(&opened.text()))
        });
        assert_eq!(client.ask(4, &[&handle]).code(), Some(0));
        let row = waiting(pair.alice(), "part.edi");
        assert_eq!(row["state"], "parked", "{row}");
    }
    stays(Duration::from_secs(3), "half a file is not sent", || {
        outcomes(pair.alice(), "part.edi").is_empty()
    });
    let handle = opened(&mut client, "part.edi", 0x6);
    writes(&mut client, &handle, 0, &order(1)[order(1).len() / 2..]);
    assert_eq!(client.ask(4, &[&handle]).code(), Some(0));
    let parcel = pair.delivered("part.edi");
    assert_eq!(pair.fetch(&parcel), order(1));
}

#[test]
fn a_resumed_upload_that_was_not_decided_about_is_the_part_that_it_was() {
    let pair = Pair::one_gateway();
    let alice = pair.alice();
    let bytes = noise(400_000, 29);
    let local = alice.file("whole.bin", &bytes);
    let mut client = Packets::of(&pair.alice_user);
    let handle = opened(&mut client, "part.bin", PUT);
    writes(&mut client, &handle, 0, &bytes[..150_000]);
    drop(client);
    wait_for("the part", || (pair.alice_user.ls(SEND) == ["part.bin"]).then_some(()));
    let reput = format!("reput {} {SEND}/part.bin", local.display());
    let held = alice.hold_journal();
    let refused = pair.alice_user.run(&[&reput]);
    assert_ne!(refused.code, 0, "{refused}");
    drop(held);
    assert_eq!(pair.alice_user.size(SEND), Some(150_000));
    assert_eq!(tests::files_below(&alice.path("data/store")).len(), 1);
    pair.alice_user.ok(&[&reput]);
    assert!(pair.fetch(&pair.delivered("part.bin")) == bytes);
}

#[test]
fn a_write_that_cannot_be_read_fails_its_upload() {
    let pair = Pair::one_with(&[("uploads.release_after", "\"1s\"")]);
    let mut client = Packets::of(&pair.alice_user);
    let handle = opened(&mut client, "torn.edi", PUT);
    writes(&mut client, &handle, 0, &order(1));
    // It announces more than it has.
    let torn: [&[u8]; 4] = [&handle, &[0; 8], &1000u32.to_be_bytes(), b"short"];
    assert_eq!(client.ask(6, &torn).code(), Some(5));
    assert_eq!(client.ask(4, &[&handle]).code(), Some(5), "the CLOSE has the fault");
    stays(Duration::from_secs(3), "what has a hole is not sent", || {
        outcomes(pair.alice(), "torn.edi").is_empty()
    });
}

#[test]
fn an_upload_is_gone_on_with_only_where_its_beginning_is() {
    const REPUT: u32 = 0xe;
    let pair = Pair::one_gateway();
    let (half, tail) = (noise(30_000, 5), order(2));
    let mut client = Packets::of(&pair.alice_user);
    // A session that hangs: its bytes are not those of another one's handle, although STAT tells their number.
    let mut hanging = Packets::of(&pair.alice_user);
    let theirs = opened(&mut hanging, "hanging.bin", PUT);
    writes(&mut hanging, &theirs, 0, &half);
    let ask = |client: &mut Packets, name: &str| {
        let path = string(format!("{SEND}/{name}").as_bytes());
        client.ask(3, &[&path, &REPUT.to_be_bytes(), &[0; 4]])
    };
    let refused = ask(&mut client, "hanging.bin");
    assert!(
        refused.code() == Some(4) && String::from_utf8_lossy(&refused.text()).contains("another session"),
        "{refused:?}"
    );
    drop(hanging);
    let handle = wait_for("the part", || {
        let opened = ask(&mut client, "hanging.bin");
        (opened.kind == 102).then(|| string(&opened.text()))
    });
    let beyond = client.ask(6, &[&handle, &30_001_u64.to_be_bytes(), &string(&tail)]);
    assert!(String::from_utf8_lossy(&beyond.text()).contains("upload it whole"), "{beyond:?}");
    assert_ne!(client.ask(4, &[&handle]).code(), Some(0), "nothing is promised");
    let handle = opened(&mut client, "hanging.bin", REPUT);
    writes(&mut client, &handle, 30_000, &tail);
    assert_eq!(client.ask(4, &[&handle]).code(), Some(0));
    assert_eq!(pair.fetch(&pair.delivered("hanging.bin")), [half, tail.clone()].concat());
    // What another user has parked is listed to all and gone on with by nobody else.
    let handle = opened(&mut client, "shared.tmp", PUT);
    writes(&mut client, &handle, 0, b"alice's");
    assert_eq!(client.ask(4, &[&handle]).code(), Some(0));
    let mut other = Packets::of(&pair.alice().user("second"));
    let refused = ask(&mut other, "shared.tmp");
    assert!(
        refused.code() == Some(3) && String::from_utf8_lossy(&refused.text()).contains("another user"),
        "{refused:?}"
    );
}

#[test]
fn an_upload_that_dies_takes_nothing_from_one_that_was_finished_after_it() {
    let pair = Pair::one_with(HOUR);
    for name in ["file.tmp", "file.edi"] {
        let mut old = Packets::of(&pair.alice_user);
        let handle = opened(&mut old, name, PUT);
        writes(&mut old, &handle, 0, b"half of the first");
        let mut new = Packets::of(&pair.alice_user);
        let handle = opened(&mut new, name, PUT);
        writes(&mut new, &handle, 0, &order(9));
        assert_eq!(new.ask(4, &[&handle]).code(), Some(0), "the promise");
        drop(old);
        pair.alice().wait("the first to end", |gateway| {
            let events = gateway.json(&["user", "log", "alice-erp"]);
            let ends = events
                .as_array()
                .unwrap()
                .iter()
                .filter(|event| event["kind"] == "user.upload_broken");
            (ends.count() == if name == "file.tmp" { 1 } else { 2 }).then_some(())
        });
        assert_eq!(pair.alice_user.get(&format!("{SEND}/{name}")), order(9), "{name}");
        if name == "file.tmp" {
            let path = |name: &str| string(format!("{SEND}/{name}").as_bytes());
            assert_eq!(new.ask(18, &[&path(name), &path("renamed.edi")]).code(), Some(0));
            assert_eq!(pair.fetch(&pair.delivered("renamed.edi")), order(9));
        } else {
            assert_eq!(pair.alice_user.ls(SEND), [name], "nothing stands before the message");
            pair.alice().set_clock(3700);
            assert_eq!(pair.fetch(&pair.delivered(name)), order(9));
        }
        assert!(pair.alice().json(&["upload", "list"]).as_array().unwrap().is_empty(), "{name}");
    }
}

/// Waits until so many of ALICE's uploads have broken off.
fn broken_off(gateway: &Gateway, count: usize) {
    gateway.wait("the upload to break off", |gateway| {
        let events = gateway.json(&["user", "log", "alice-erp"]);
        let ends = events
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["kind"] == "user.upload_broken");
        (ends.count() == count).then_some(())
    });
}

#[test]
fn an_accepted_file_outlives_what_was_to_take_its_place_and_breaks_off() {
    let pair = Pair::one_with(HOUR);
    let mut seconds = 0;
    let mut later = || {
        seconds += 3700;
        pair.alice().set_clock(seconds);
    };
    let accepted = |name: &str, bytes: &[u8]| {
        let mut client = Packets::of(&pair.alice_user);
        let handle = opened(&mut client, name, PUT);
        writes(&mut client, &handle, 0, bytes);
        assert_eq!(client.ask(4, &[&handle]).code(), Some(0), "the promise");
    };
    // In another session: before its first byte, with some, without truncation, and with two of them.
    for (at, (name, flags, bytes)) in [("none.edi", PUT, 0), ("some.edi", PUT, 20_000), ("over.edi", 0x0a, 20_000)]
        .into_iter()
        .enumerate()
    {
        accepted(name, &order(1));
        let mut second = Packets::of(&pair.alice_user);
        let handle = opened(&mut second, name, flags);
        if bytes > 0 {
            writes(&mut second, &handle, 0, &noise(bytes, 3));
        }
        later();
        stays(Duration::from_secs(4), "the later one is waited for", || {
            pair.bob().messages_of("in", name).is_empty()
        });
        drop(second);
        broken_off(pair.alice(), at + 1);
        // The first one is accepted anew, with its delay.
        later();
        assert_eq!(pair.fetch(&pair.delivered(name)), order(1), "{name}");
        let left = pair.alice_user.ls(SEND).contains(&name.to_owned());
        assert_eq!(left, bytes > 0, "the part of {name} can be resumed");
    }
    accepted("both.edi", &order(2));
    let [mut second, mut third] = [Packets::of(&pair.alice_user), Packets::of(&pair.alice_user)];
    let [_, handle] = [&mut second, &mut third].map(|client| opened(client, "both.edi", PUT));
    drop(second);
    broken_off(pair.alice(), 4);
    writes(&mut third, &handle, 0, &order(3));
    assert_eq!(third.ask(4, &[&handle]).code(), Some(0));
    later();
    assert_eq!(pair.fetch(&pair.delivered("both.edi")), order(3), "the later one");
    // What was gone on with was a beginning: it is kept and not sent.
    accepted("begun.edi", &order(4));
    let mut second = Packets::of(&pair.alice_user);
    let handle = opened(&mut second, "begun.edi", 0x02);
    writes(&mut second, &handle, order(4).len() as u64, b"more");
    drop(second);
    broken_off(pair.alice(), 5);
    later();
    stays(Duration::from_secs(5), "a beginning is not sent", || {
        pair.bob().messages_of("in", "begun.edi").is_empty()
    });
    let rows = pair.alice().json(&["upload", "list"]);
    let begun = |row: &&Value| row["name"] == "begun.edi";
    let mut states: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .filter(begun)
        .map(|row| row["state"].as_str())
        .collect();
    states.sort_unstable();
    assert_eq!(states, [Some("parked"), Some("part")], "{rows}");
    // The next session goes on with the part, and both are gone when it is through.
    let mut third = Packets::of(&pair.alice_user);
    let handle = opened(&mut third, "begun.edi", 0x06);
    let longer = order(4).len() as u64 + 4;
    writes(&mut third, &handle, longer, b" and more");
    assert_eq!(third.ask(4, &[&handle]).code(), Some(0));
    later();
    let whole = [order(4), b"more and more".to_vec()].concat();
    assert_eq!(pair.fetch(&pair.delivered("begun.edi")), whole);
    assert!(!pair.alice_user.ls(SEND).contains(&"begun.edi".to_owned()));
}

#[test]
fn a_parked_file_outlives_what_was_to_take_its_place_and_breaks_off() {
    let pair = Pair::one_gateway();
    let path = |name: &str| string(format!("{SEND}/{name}").as_bytes());
    let mut client = Packets::of(&pair.alice_user);
    for (at, name) in ["first.tmp", "second.tmp", "third.tmp"].into_iter().enumerate() {
        let handle = opened(&mut client, name, PUT);
        writes(&mut client, &handle, 0, &order(1));
        assert_eq!(client.ask(4, &[&handle]).code(), Some(0), "the promise");
        let mut second = Packets::of(&pair.alice_user);
        let handle = opened(&mut second, name, PUT);
        writes(&mut second, &handle, 0, b"half");
        drop(second);
        broken_off(pair.alice(), at + 1);
        assert_eq!(pair.alice_user.ls(SEND), [name], "one name is shown once");
        assert_eq!(pair.alice_user.get(&format!("{SEND}/{name}")), b"half", "what can be resumed");
        match name {
            // An operator sends the whole one.
            "first.tmp" => {
                pair.alice().ok(&["upload", "release", name, "--name", "first.edi"]);
                assert_eq!(pair.fetch(&pair.delivered("first.edi")), order(1));
                assert_eq!(client.ask(13, &[&path(name)]).code(), Some(0));
            }
            // A later upload takes the place of both.
            "second.tmp" => {
                let handle = opened(&mut client, name, PUT);
                writes(&mut client, &handle, 0, &order(2));
                assert_eq!(client.ask(4, &[&handle]).code(), Some(0));
                assert_eq!(client.ask(18, &[&path(name), &path("second.edi")]).code(), Some(0));
                assert_eq!(pair.fetch(&pair.delivered("second.edi")), order(2));
            }
            // Its user removes what has the name.
            _ => assert_eq!(client.ask(13, &[&path(name)]).code(), Some(0)),
        }
        assert_eq!(pair.alice_user.ls(SEND), [""; 0], "{name}");
        assert!(pair.alice().json(&["upload", "list"]).as_array().unwrap().is_empty(), "{name}");
    }
}

#[test]
fn a_file_may_be_opened_for_reading_and_writing() {
    // Go's `Create` and SSH.NET's do.
    let pair = Pair::one_gateway();
    let mut client = Packets::of(&pair.alice_user);
    let handle = opened(&mut client, "both.edi", PUT | 1);
    let bytes = noise(100_000, 3);
    for (at, piece) in bytes.chunks(30_000).enumerate() {
        writes(&mut client, &handle, at as u64 * 30_000, piece);
    }
    let read = client.ask(5, &[&handle, &50_000_u64.to_be_bytes(), &1000_u32.to_be_bytes()]);
    assert_eq!((read.kind, &read.text()[..]), (103, &bytes[50_000..51_000]));
    assert_eq!(
        client.ask(5, &[&handle, &100_000_u64.to_be_bytes(), &9_u32.to_be_bytes()]).code(),
        Some(1)
    );
    assert_eq!(client.ask(4, &[&handle]).code(), Some(0));
    let parcel = pair.delivered("both.edi");
    assert_eq!(pair.fetch(&parcel), bytes);
    // What is on its way cannot be gone on with.
    let pair = Pair::two_gateways();
    pair.bob().kill9();
    pair.put("accepted.edi", &order(1));
    let _ = pair.alice().reaches("out", "accepted.edi", "retrying");
    let mut client = Packets::of(&pair.alice_user);
    let path = string(format!("{SEND}/accepted.edi").as_bytes());
    assert_eq!(client.ask(3, &[&path, &3_u32.to_be_bytes(), &[0; 4]]).code(), Some(3));
}

#[test]
fn a_name_that_is_being_written_exists_for_its_user() {
    const EXCL: u32 = 0x3a;
    const PLAIN: u32 = 0x1a;
    let open = |client: &mut Packets, path: &str, flags: u32| client.ask(3, &[&string(path.as_bytes()), &flags.to_be_bytes(), &[0; 4]]);
    // Two of each kind, in one connection and in another of its user: what OpenSSH's server answers, and what ours does.
    let asked = |first: u32, one: &mut Packets, two: &mut Packets, path: &str| -> Vec<Option<u32>> {
        let opened = open(one, path, first);
        assert_eq!(opened.kind, 102, "{opened:?}");
        let answers = [
            open(one, path, EXCL).code(),
            open(two, path, EXCL).code(),
            open(two, path, PLAIN).code(),
            open(one, path, EXCL).code(),
        ];
        answers.to_vec()
    };
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    let dir = tempfile::tempdir().unwrap();
    for (first, name) in [(EXCL, "first.edi"), (PLAIN, "second.edi")] {
        let (mut one, mut two) = (Packets::local(), Packets::local());
        let theirs = asked(first, &mut one, &mut two, dir.path().join(name).to_str().unwrap());
        let (mut one, mut two) = (Packets::of(&pair.alice_user), Packets::of(&pair.alice_user));
        let ours = asked(first, &mut one, &mut two, &format!("{SEND}/{name}"));
        assert_eq!(ours, theirs, "{name}");
        assert_eq!(ours, [Some(4), Some(4), None, Some(4)], "{name}");
        // Another user of the account does not see what is not there yet, and is not told of it.
        let other = format!("other-{}", name.trim_end_matches(".edi"));
        let mut other = Packets::of(&gateway.user(&other));
        let opened = open(&mut other, &format!("{SEND}/{name}"), EXCL);
        assert_eq!(opened.kind, 102, "{opened:?}");
    }
    // Its writer gone before a byte came, the name is free again.
    let path = format!("{SEND}/first.edi");
    let mut client = Packets::of(&pair.alice_user);
    gateway.wait("the name to be free", |_| {
        (open(&mut client, &path, EXCL).kind == 102).then_some(())
    });
}

#[test]
fn another_account_cannot_be_told_from_one_that_does_not_exist() {
    let gateway = Gateway::new();
    gateway.ok(&["account", "add", "other"]);
    let key = gateway.ssh_key("other-erp", "ed25519");
    gateway.ok(&[
        "user",
        "add",
        "other-erp",
        "-a",
        "other",
        "--public-key",
        &format!("{}.pub", key.display()),
    ]);
    let user = gateway.login("other-erp", &key);
    assert_eq!(user.ls("/"), ["mftg-other"]);
    assert_eq!(user.ok(&["pwd"]).trim(), "Remote working directory: /mftg-other");
    for what in ["stat", "listdir", "remove", "mkdir"] {
        let there = paramiko(&gateway, "other-erp", &[what, "/mftg-acme/AS2"]);
        let missing = paramiko(&gateway, "other-erp", &[what, "/mftg-nobody/AS2"]);
        assert!(there.contains("refused") || there.contains("Errno"), "{what}: {there}");
        assert_eq!(there, missing, "{what}");
    }
    let _ = user.refused("cd /mftg-acme");
    let _ = user.refused("ls ../mftg-acme");
    let _ = user.refused("ls /mftg-other/../mftg-acme/AS2");
}

#[test]
fn records_can_be_read_and_not_changed() {
    let pair = Pair::one_gateway();
    let parcel = pair.deliver("kept.edi", &order(1));
    pair.put("kept.edi", &order(2));
    let user = &pair.alice_user;
    let local = pair.alice().file("x", b"x");
    let (sent, got) = (parcel.sent_id(), parcel.got_id());
    let files = [
        format!("AS2/files/ALICE/BOB/outbox/{sent}/kept.edi"),
        format!("AS2/files/BOB/ALICE/inbox/{got}/kept.edi"),
        format!("AS2/headers/ALICE/BOB/outbox/{sent}/headers.txt"),
        format!("AS2/raw-message/BOB/ALICE/inbox/{got}/message.as2"),
        format!("AS2/raw-mdn/incoming/{sent}.mdn"),
        format!("AS2/raw-mdn/outgoing/{got}.mdn"),
        "AS2/duplicate/ALICE/BOB/kept.edi".to_owned(),
    ];
    for file in &files {
        let before = user.get(file);
        let dir = file.rsplit_once('/').unwrap().0;
        for line in [
            format!("rm {file}"),
            format!("put {} {file}", local.display()),
            format!("put {} {dir}/new", local.display()),
            format!("rename {file} {file}.old"),
            format!("rename {file} {SEND}/moved.edi"),
            format!("mkdir {dir}/new"),
            format!("rmdir {dir}"),
        ] {
            let words = user.refused(&line);
            assert!(words.contains("ermission denied") || words.contains("Failure"), "{line}: {words}");
        }
        assert!(user.get(file) == before, "{file} changed");
    }
    for place in ["/", "/mftg-acme", "AS2", "AS2/send", "AS2/send/ALICE", SEND] {
        assert_ne!(user.run(&[&format!("mkdir {place}/new")]).code, 0, "mkdir in {place}");
        assert_ne!(user.run(&[&format!("rmdir {place}")]).code, 0, "rmdir {place}");
    }
    for place in ["/", "AS2", "AS2/send", "AS2/send/ALICE"] {
        assert_ne!(
            user.run(&[&format!("put {} {place}/x", local.display())]).code,
            0,
            "put into {place}"
        );
    }
}

#[test]
fn a_user_with_the_right_may_delete_what_was_received() {
    let pair = Pair::one_gateway();
    let parcel = pair.deliver("fetched.edi", &order(1));
    let path = format!("AS2/files/BOB/ALICE/inbox/{}/fetched.edi", parcel.got_id());
    assert!(pair.bob_user.refused(&format!("rm {path}")).contains("ermission denied"));
    pair.bob().ok(&["user", "set", "bob-erp", "--delete-received", "true"]);
    wait_for("the right to work", || {
        (pair.bob_user.run(&[&format!("rm {path}")]).code == 0).then_some(())
    });
    assert_eq!(pair.bob_user.ls("AS2/files/BOB/ALICE/inbox"), [""; 0]);
    pair.bob().ok(&["lifecycle", "restore", &path]);
    assert_eq!(pair.bob_user.get(&path), order(1), "restorable by an operator");
}

#[test]
fn a_put_to_an_unknown_pair_names_the_known_ones() {
    let pair = Pair::one_gateway();
    let local = pair.alice().file("x.edi", &order(1));
    for (place, known) in [
        ("AS2/send/ALICE/BIGMRAT", "BOB"),
        ("AS2/send/ALICIA/BOB", "ALICE"),
        ("AS2/send/ALICE/bob", "BOB"),
    ] {
        let told = paramiko(pair.alice(), "alice-erp", &["open", &format!("{place}/x.edi")]);
        assert!(
            told.contains("refused") && told.contains("known") && told.contains(known),
            "{place}: {told}"
        );
        let _ = pair.alice_user.refused(&format!("put {} {place}/x.edi", local.display()));
    }
    assert!(pair.alice().messages("out").is_empty());
}

#[test]
fn a_put_to_where_nothing_can_lie_is_told_where_files_go() {
    let pair = Pair::one_gateway();
    let mut client = Packets::of(&pair.alice_user);
    for path in ["order.edi", "AS2/order.edi", "/mftg-acme/new/order.edi"] {
        let refused = client.ask(3, &[&string(path.as_bytes()), &PUT.to_be_bytes(), &[0; 4]]);
        assert_eq!(refused.code(), Some(3), "{path}: {refused:?}");
        assert!(
            String::from_utf8_lossy(&refused.text()).contains("AS2/send/<station>/<partner>/"),
            "{path}"
        );
    }
    let foreign = client.ask(3, &[&string(b"/mftg-other/order.edi"), &PUT.to_be_bytes(), &[0; 4]]);
    assert_eq!(foreign.code(), Some(2), "{foreign:?}");
}

#[test]
fn illegal_file_names_are_refused_with_the_reason() {
    let pair = Pair::one_gateway();
    for (name, reason) in [("tab\there", "control"), (&"x".repeat(230), "229"), ("line\nend", "control")] {
        let told = paramiko(pair.alice(), "alice-erp", &["open", &format!("{SEND}/{name}")]);
        assert!(told.contains("refused") && told.contains(reason), "{name:?}: {told}");
    }
    let longest = "x".repeat(229);
    pair.put(&longest, &order(1));
    pair.alice().reaches("out", &longest, "delivered");
    // On the other side it is an attachment, whose name may be shorter.
    let got = pair.bob().messages("in")[0]["file"].as_str().unwrap().to_owned();
    assert!(longest.starts_with(&got) && got.len() >= 200, "{got}");
}

/// SFTPGo CVE-2026-30915.
#[test]
fn ids_with_blanks_and_slashes_have_directories_of_their_own() {
    let gateway = Gateway::stopped(&[]);
    for station in ["AS 2/x", "..", "BOB", r#"Q"\"#] {
        gateway.ok(&["station", "add", station]);
    }
    gateway.ok(&["partner", "add", "--from-station", "BOB"]);
    gateway.ok(&["partner", "add", "--from-station", "AS 2/x"]);
    gateway.start();
    let user = gateway.user("erp");
    assert_eq!(user.ls("AS2/send"), ["%2E.", "AS%202%2Fx", "BOB", "Q%22%5C"]);
    let local = gateway.file("x.edi", &order(1));
    user.put(&local, "AS2/send/AS%202%2Fx/BOB/x.edi");
    let sent = gateway.reaches("out", "x.edi", "delivered");
    assert_eq!(sent["station"], "AS 2/x");
    gateway.reaches("in", "x.edi", "filed");
    assert_eq!(user.ls("AS2/files/BOB/AS%202%2Fx/inbox").len(), 1);
}

#[test]
fn a_second_upload_of_a_name_never_takes_the_first_away() {
    // Accepted and not yet posted, as the partner is away: the release delay is over.
    let pair = Pair::two_gateways();
    assert_eq!(pair.bob().term(), 0);
    pair.put("order.edi", &order(1));
    pair.alice().reaches("out", "order.edi", "retrying");
    pair.put("order.edi", &order(2));
    pair.alice().reaches("out", "order.edi", "duplicate");
    pair.bob().start();
    let parcel = pair.delivered("order.edi");
    assert_eq!(pair.fetch(&parcel), order(1));
    assert_eq!(pair.bob().messages_of("in", "order.edi").len(), 1);
}

/// What `upload list` says about a name.
fn waiting(gateway: &Gateway, name: &str) -> Value {
    let list = gateway.json(&["upload", "list"]);
    let row = list.as_array().unwrap().iter().find(|row| row["name"] == name).cloned();
    row.unwrap_or_else(|| panic!("{name} is not in {list:#}"))
}

#[test]
fn an_operator_sees_and_releases_what_waits_in_send() {
    let pair = Pair::one_gateway();
    let alice = pair.alice();
    pair.put("order.edi.part", &order(1));
    pair.put("other.edi.part", &order(2));
    pair.put("touch.edi", b"");
    let row = waiting(alice, "order.edi.part");
    assert_eq!(
        (&row["station"], &row["partner"], &row["user"], &row["state"], &row["size"]),
        (
            &"ALICE".into(),
            &"BOB".into(),
            &"alice-erp".into(),
            &"parked".into(),
            &order(1).len().into()
        )
    );
    assert_eq!(row["code"], "temporary-name");
    assert!(row["reason"].as_str().unwrap().contains("temporary name") && row["age"].as_i64().unwrap() < 600);
    assert_eq!(waiting(alice, "touch.edi")["state"], "ignored");
    pair.alice_user.ok(&[&format!("rename {SEND}/touch.edi {SEND}/touched.edi")]);
    assert_eq!(waiting(alice, "touched.edi")["code"], "empty", "a new name is no other reason");
    let parked = alice.json(&["upload", "list", "--state", "parked", "--user", "alice-erp"]);
    assert_eq!(parked.as_array().unwrap().len(), 2);
    assert_eq!(alice.json(&["upload", "list", "--partner", "ALICE"]), Value::Array(Vec::new()));

    // As it is, and under another name.
    let told = alice.json(&["upload", "release", "order.edi.part", "--dry-run"]);
    assert_eq!(told["name"], "order.edi.part");
    assert!(alice.messages("out").is_empty(), "a dry run sends nothing");
    alice.ok(&["partner", "block", "BOB", "out"]);
    let told = alice.cli(&["upload", "release", "order.edi.part", "--dry-run"]);
    assert!(told.stderr.contains("as2gate partner unblock BOB"), "{told}");
    alice.ok(&["partner", "unblock", "BOB"]);
    let sent = alice.json(&["upload", "release", &format!("{SEND}/order.edi.part")]);
    assert_eq!((&sent["file"], &sent["user"]), (&"order.edi.part".into(), &"alice-erp".into()));
    assert_eq!(pair.fetch(&pair.delivered("order.edi.part")), order(1));
    alice.ok(&["upload", "release", "other.edi.part", "--name", "other.edi"]);
    let parcel = pair.delivered("other.edi");
    assert_eq!(pair.fetch(&parcel), order(2));
    assert_eq!(parcel.sent["marks"], serde_json::json!(["released by an operator"]));
    assert_eq!(pair.alice_user.ls(SEND), ["touched.edi"]);

    // An empty file goes out where the partner may have one.
    let refused = alice.cli(&["upload", "release", "touched.edi"]);
    assert!(refused.code == 4 && refused.stderr.contains("--allow-empty"), "{refused}");
    alice.ok(&["partner", "set", "BOB", "--allow-empty", "true"]);
    alice.ok(&["upload", "release", "touched.edi"]);
    assert_eq!(pair.fetch(&pair.delivered("touched.edi")), b"");
    assert_eq!(alice.json(&["upload", "list"]), Value::Array(Vec::new()));
}

#[test]
fn an_operator_deletes_what_waits_and_is_told_what_cannot_be() {
    let pair = Pair::one_gateway();
    let alice = pair.alice();
    pair.deliver("taken.edi", &order(1));
    for name in ["a.part", "b.part", "taken.edi.part"] {
        pair.put(name, &order(2));
    }
    let local = alice.file("a.part", &order(3));
    pair.bob_user.put(&local, &format!("{SEND}/a.part"));

    // Two users, one name.
    let which = alice.cli(&["upload", "rm", "a.part"]);
    assert!(which.code == 2 && which.stderr.contains("bob-erp"), "{which}");
    alice.ok(&["upload", "rm", "a.part", "--user", "bob-erp"]);
    assert_eq!(pair.alice_user.get(&format!("{SEND}/a.part")), order(2));
    alice.ok(&["upload", "rm", "a.part", "b.part"]);
    assert_eq!(pair.alice_user.ls(SEND), ["taken.edi.part"]);
    assert_eq!(alice.cli(&["upload", "rm", "a.part"]).code, 3);

    // The six-hour rule counts for what is released.
    let twice = alice.cli(&["upload", "release", "taken.edi.part", "--name", "taken.edi"]);
    assert!(twice.code == 1 && twice.stderr.contains("message resend"), "{twice}");
    assert_eq!(pair.alice_user.get("AS2/duplicate/ALICE/BOB/taken.edi"), order(2));

    // What was broken off is not complete by anybody's word.
    let local = alice.file("cut.bin", &noise(12 << 20, 15));
    let line = format!("put {} {SEND}/cut.bin", quoted(local.to_str().unwrap()));
    let mut client = pair.alice_user.start(&["-l", SLOW], &[&line]);
    wait_for("some of the upload", || pair.alice_user.size(SEND).filter(|size| *size > 1 << 16));
    client.kill().unwrap();
    client.wait().unwrap();
    alice.wait("the part", |alice| {
        let parts = alice.json(&["upload", "list", "--state", "part"]);
        (parts.as_array().unwrap().len() == 1).then_some(())
    });
    let refused = alice.cli(&["upload", "release", "cut.bin"]);
    assert!(refused.code == 1 && refused.stderr.contains("alice-erp can resume it"), "{refused}");
    alice.ok(&["upload", "rm", "cut.bin"]);
    assert_eq!(pair.alice_user.ls(SEND), [""; 0]);
}

#[test]
fn a_file_above_the_largest_size_is_refused_and_harms_no_other() {
    const MAX: usize = 100 << 10;
    let pair = Pair::one_with(&[("uploads.max_file", "\"100KiB\""), HOUR[0]]);
    let gateway = pair.alice();
    let user = gateway.user("bounded");
    let (fits, over) = (
        gateway.file("local/fits.edi", &noise(MAX, 1)),
        gateway.file("local/over.edi", &noise(MAX + 1, 2)),
    );
    user.put(&fits, &format!("{SEND}/fits.edi"));
    // In one WRITE, and with a beginning that fits. Its client has a word of its own for each code, and shows no other.
    for (name, more) in [("over", &[][..]), ("goes-over", &["-B", "32768"])] {
        let line = format!("put {} {SEND}/{name}.edi\n", over.display());
        let told = run_with(&mut user.command(more), &line).fails(1);
        assert!(told.contains(&format!("{name}.edi\": Failure")), "{told}");
    }

    // The server's own words.
    let words = format!("the file is longer than {MAX} bytes (uploads.max_file)");
    let mut client = Packets::of(&user);
    let refused = |answer: Answer| {
        assert_eq!(answer.code(), Some(4), "{answer:?}");
        assert_eq!(String::from_utf8_lossy(&answer.text()), words);
    };
    let size = |bytes: usize| [&1u32.to_be_bytes()[..], &(bytes as u64).to_be_bytes()].concat();
    let open = |name: &str, attrs: &[u8]| {
        let path = string(format!("{SEND}/{name}.edi").as_bytes());
        [&path, &0x1au32.to_be_bytes()[..], attrs].concat()
    };
    refused(client.ask(3, &[&open("declared", &size(MAX + 1))]));
    let far = |offset: u64| (6, [&offset.to_be_bytes()[..], &string(&[7; 10])].concat());
    for (name, (kind, asked)) in [
        ("border", far(MAX as u64 - 9)),
        ("far", far(1 << 40)),
        ("stretched", (10, size(MAX + 1))),
    ] {
        let handle = string(&client.ask(3, &[&open(name, &[0; 4])]).text());
        assert_eq!(client.ask(6, &[&handle, &[0; 8], &string(b"begun")]).code(), Some(0), "{name}");
        refused(client.ask(kind, &[&handle, &asked]));
        // Some programs look at nothing but this.
        refused(client.ask(4, &[&handle]));
    }
    let sent = gateway.messages("out");
    assert!(sent.len() == 1 && sent[0]["file"] == "fits.edi", "{sent:#?}");
    // What was taken before is nobody's but its user's, to go on with.
    assert_eq!(pair.bob_user.ls(SEND), ["fits.edi"]);
    assert!(user.get(&format!("{SEND}/fits.edi")) == noise(MAX, 1));
}
