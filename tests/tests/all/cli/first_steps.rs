//! From an empty directory to the first message: the walk-through of the manual, `init`, `serve`, the demo.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::process::{free_port, run, run_with, tool};
use tests::{names_in, order, wait_for};

use super::{Place, says, three_lines};

/// A second try comes after half a minute, give or take a fifth.
const A_TRY: Duration = Duration::from_secs(24);

#[test]
fn the_walk_through_of_the_manual_works_as_printed() {
    let mut place = Place::new();
    let (sftp, as2) = (free_port(), free_port());
    let (sftp_at, as2_at) = (format!("127.0.0.1:{sftp}"), format!("127.0.0.1:{as2}"));

    // (a) start
    let told = place.ok(&["init", "--account", "acme", "--sftp", &sftp_at, "--as2", &as2_at]);
    says(
        &told,
        &[
            "Created ./as2gate.toml",
            "Created ./data/master.key mode 0600",
            "Created host keys ed25519 SHA256:",
            "ecdsa SHA256:",
        ],
    );
    says(
        &told,
        &["Created account acme", "Next:", "as2gate serve", "as2gate station add ALICE"],
    );
    let ready = place.serve(&[]);
    assert!(
        ready.contains(&format!(" ready sftp={sftp_at} as2={as2_at} telemetry=127.0.0.1:")),
        "{ready}"
    );

    // (b) two local stations
    let url = format!("http://localhost:{as2}/as2");
    let alice = place.ok(&["station", "add", "ALICE", "--name", "Alice Ltd", "--email", "edi@alice.example"]);
    says(
        &alice,
        &[&format!(
            "Station ALICE url {url} certificate alice-2 (RSA 3072, self-signed, expires"
        )],
    );
    place.ok(&["station", "add", "BOB"]);
    let bob = place.ok(&["partner", "add", "--from-station", "BOB"]);
    says(
        &bob,
        &["Partner BOB sign sha256 encrypt aes256-cbc mdn sync-signed from station BOB"],
    );
    place.ok(&["partner", "add", "--from-station", "ALICE"]);
    // A running server knows what was added a moment ago: no wait, no second try.
    let began = Instant::now();
    let tested = place.ok(&["partner", "test", "BOB", "--from", "ALICE"]);
    assert!(began.elapsed() < A_TRY, "it took {:?}", began.elapsed());
    says(
        &tested,
        &[
            &format!("ok url answers {url}"),
            "ok test message delivered <",
            "ok signed MDN processed, MIC sha-256 agrees",
        ],
    );

    // (c) an SFTP user and the first message
    let user = place.ok(&["user", "add", "acme-erp", "--generate-key", "ed25519", "--out", "acme-erp.key"]);
    says(
        &user,
        &[
            "User acme-erp key only home /mftg-acme",
            "Wrote acme-erp.key (OpenSSH, mode 0400) fingerprint SHA256:",
        ],
    );
    says(&user, &[&format!("Connect: sftp -P {sftp} -i acme-erp.key acme-erp@localhost")]);
    fs::write(place.path("order-1001.edi"), order(1001)).unwrap();
    let lines = "pwd\nls AS2\nput order-1001.edi AS2/send/ALICE/BOB/order-1001.edi\n\
        !as2gate -q message follow --until-idle\nls -1 AS2/send/ALICE/BOB\n-cd AS2/keystore\n\
        put order-1001.edi AS2/send/ALICE/BOB/order-1001.edi\nls -1 AS2/duplicate/ALICE/BOB\n";
    let sftp_run = |lines: &str| {
        let mut command = place.command("sftp");
        command.args([
            "-q",
            "-b",
            "-",
            "-F",
            "/dev/null",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ]);
        command.args([
            "-o",
            "IdentityAgent=none",
            "-P",
            &sftp.to_string(),
            "-i",
            "acme-erp.key",
            "acme-erp@127.0.0.1",
        ]);
        run_with(&mut command, lines)
    };
    let ran = sftp_run(lines);
    assert!(ran.stderr.contains("realpath /mftg-acme/AS2/keystore: Permission denied"), "{ran}");
    let shown = ran.ok();
    says(
        &shown,
        &[
            "sftp> pwd",
            "Remote working directory: /mftg-acme",
            "sftp> ls AS2",
            "AS2/duplicate",
            "sftp> ls -1 AS2/send/ALICE/BOB",
        ],
    );
    says(
        &shown,
        &[
            "sftp> -cd AS2/keystore",
            "sftp> ls -1 AS2/duplicate/ALICE/BOB",
            "AS2/duplicate/ALICE/BOB/order-1001.edi",
        ],
    );
    for name in ["duplicate", "files", "headers", "keystore", "raw-mdn", "raw-message", "send", "tmp"] {
        assert!(shown.contains(&format!("AS2/{name}")), "{shown}");
    }
    let send = shown.split("ls -1 AS2/send/ALICE/BOB\n").nth(1).unwrap();
    assert!(
        send.starts_with("sftp> "),
        "the send directory is empty once all is handled: {shown}"
    );

    let list = place.ok(&["message", "list", "-o", "table"]);
    says(&list, &["ID TIME DIR STATION PARTNER FILE SIZE STATE MDN"]);
    let rows: Vec<&str> = list.lines().filter(|line| line.contains("order-1001.edi")).collect();
    assert_eq!(rows.len(), 3, "{list}");
    let row = |words: &[&str]| {
        let found = rows
            .iter()
            .find(|row| words.iter().all(|word| row.split_whitespace().any(|found| found == *word)));
        found
            .unwrap_or_else(|| panic!("no row with {words:?}:\n{list}"))
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned()
    };
    let sent = row(&["out", "ALICE", "BOB", "delivered", "processed"]);
    let got = row(&["in", "BOB", "ALICE", "filed", "processed"]);
    let _ = row(&["out", "ALICE", "BOB", "duplicate"]);
    assert!(sent.len() == 9 && sent.bytes().all(|b| b.is_ascii_digit()), "{sent}");

    let message = place.ok(&["message", "show", &sent, "-o", "table"]);
    says(
        &message,
        &[
            "Message 20 out delivered",
            "AS2 ALICE → BOB <",
            "File order-1001.edi application/EDI",
            "Security signed sha256 encrypted aes256-cbc not compressed",
            "MIC sha-256 (the MDN agrees)",
            "MDN sync, signed, processed",
            "Attempts 1 HTTP 200",
            "Where AS2/files/ALICE/BOB/outbox/",
        ],
    );
    let id = {
        let shown: Value = serde_json::from_str(&place.ok(&["message", "show", &got, "-o", "json"])).unwrap();
        shown["id"].as_str().unwrap().to_owned()
    };
    let fetched = sftp_run(&format!(
        "ls -1 AS2/files/BOB/ALICE/inbox\nget AS2/files/BOB/ALICE/inbox/{id}/order-1001.edi copy.edi\n"
    ))
    .ok();
    assert!(fetched.contains(&format!("AS2/files/BOB/ALICE/inbox/{id}")), "{fetched}");
    assert_eq!(fs::read(place.path("copy.edi")).unwrap(), order(1001));

    // (g) looking after it
    let status = place.ok(&["status", "-o", "table"]);
    says(&status, &["sftp ok as2 ok database ok storage ok", "queue 0 failed"]);
    let rotated = place.ok(&["user", "key", "rotate", "acme-erp", "--out", "acme-erp-2.key"]);
    says(
        &rotated,
        &["Wrote acme-erp-2.key (OpenSSH, mode 0400) fingerprint SHA256: the old key no longer works"],
    );
    place.ok(&["lifecycle", "run", "--dry-run"]);
    let doctor = place.ok(&["doctor"]);
    assert!(
        doctor.contains("master.key is 0600") && doctor.contains("database intact"),
        "{doctor}"
    );
}

#[test]
fn port_zero_is_chosen_and_told() {
    let mut place = Place::new();
    place.ok(&["init", "--account", "acme"]);
    let ready = place.serve(&["--sftp", "127.0.0.1:0", "--as2", "127.0.0.1:0"]);
    let port = |name: &str| -> u16 {
        let word = ready
            .split_whitespace()
            .find_map(|word| word.strip_prefix(name))
            .unwrap_or_else(|| panic!("{name}: {ready}"));
        word.rsplit(':').next().unwrap().parse().unwrap()
    };
    let (sftp, as2) = (port("sftp="), port("as2="));
    assert!(sftp != 0 && as2 != 0);
    assert_eq!(tests::wire::exchange(as2, "GET", "/", &[], b"").status, 200);
    let status: Value = serde_json::from_str(&place.ok(&["status", "-o", "json"])).unwrap();
    let told = status.to_string();
    assert!(
        told.contains(&format!("127.0.0.1:{sftp}")) && told.contains(&format!("127.0.0.1:{as2}")),
        "{told}"
    );
}

#[test]
fn a_demo_trades_with_itself_and_leaves_nothing() {
    let mut place = Place::new();
    let _ = place.serve(&["--demo"]);
    let guide = wait_for("the guide", || {
        let log = fs::read_to_string(place.path("serve.log")).unwrap();
        log.contains("as2gate --data-dir").then_some(log)
    });
    let connect = guide.lines().find(|line| line.trim_start().starts_with("sftp -P ")).unwrap();
    let words: Vec<&str> = connect.split_whitespace().collect();
    let ["sftp", "-P", port, "-i", key, "demo@localhost"] = words[..] else {
        panic!("{connect}")
    };
    let user = tests::sftp::Sftp::new(port.parse().unwrap(), "demo", Path::new(key));
    let local = place.path("order.edi");
    fs::write(&local, b"ISA*00*").unwrap();
    user.put(&local, "AS2/send/ALICE/BOB/");
    wait_for("the file in BOB's inbox", || {
        let listed = user.run(&["ls -1 AS2/files/BOB/ALICE/inbox/*"]).stdout;
        listed.contains("order.edi").then_some(())
    });
    let dir = Path::new(key).parent().unwrap();
    let told = place.ok(&["--data-dir", dir.to_str().unwrap(), "message", "list"]);
    assert!(told.contains("\tdelivered\t") && told.contains("\tfiled\t"), "{told}");

    let server = place.server.as_mut().unwrap();
    let _ = run(tool("kill", &["-INT"]).arg(server.id().to_string())).ok();
    assert!(server.wait().unwrap().success());
    assert!(!dir.exists(), "{} is left", dir.display());
    let files: Vec<_> = fs::read_dir(place.dir.path())
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    assert_eq!(files.len(), 2, "the log and the order: {files:?}");
    let both = place.cli(&["--data-dir", "x", "serve", "--demo"]);
    assert_eq!(both.code, 2, "{both}");
    three_lines(&both.stderr);
}

#[test]
fn a_data_directory_alone_is_enough() {
    let place = Place::new();
    let dir = place.path("elsewhere");
    let with = |args: &[&str]| place.cli(&[&["--data-dir", dir.to_str().unwrap()], args].concat());
    let _ = with(&["init", "--account", "acme"]).ok();
    let _ = with(&["station", "add", "ALICE"]).ok();
    assert!(with(&["station", "list"]).ok().contains("ALICE"));
    let _ = with(&["check"]).ok();
    assert_eq!(names_in(place.dir.path()), ["elsewhere"], "nothing outside of the data directory");
}

#[test]
fn a_configuration_made_for_a_data_directory_knows_it() {
    let place = Place::new();
    let config = ["-c", "etc/as2gate.toml"];
    place.ok(&[&config[..], &["--data-dir", "srv", "init", "--account", "acme"]].concat());
    place.ok(&[&config[..], &["station", "add", "ALICE"]].concat());
    let stations = place.ok(&["--data-dir", "srv", "station", "list"]);
    assert!(stations.contains("ALICE"), "{stations}");
    assert_eq!(names_in(&place.path("etc")), ["as2gate.toml"], "no data beside it");
}

#[test]
fn init_with_an_account_that_cannot_be_makes_nothing() {
    let place = Place::new();
    let words = place.cli(&["init", "--account", "bad name"]).fails(4);
    assert!(words.contains("choose an id like acme"), "{words}");
    assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 0);
    place.ok(&["init", "--account", "acme"]);
}

#[test]
fn init_never_overwrites() {
    let place = Place::new();
    place.ok(&["init", "--account", "acme"]);
    let files = || {
        tests::files_below(place.dir.path())
            .into_iter()
            .filter(|file| !file.contains("/db/"))
            .map(|file| (fs::read(place.path(&file)).unwrap(), file))
            .collect::<Vec<_>>()
    };
    let before = files();
    three_lines(&place.cli(&["init", "--account", "acme"]).fails(1));
    assert!(files() == before);
}
