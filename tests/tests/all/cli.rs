//! The command line: the walk-through of the manual, errors and exit codes, objects as TOML, messages taken apart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tests::pair::private_key;
use tests::peer::Identity;
use tests::process::{Ran, as2gate, free_port, run, run_with, tool, wait_within};
use tests::{Gateway, Pair, names_in, order, wait_for};

/// An empty directory in which a person types commands.
struct Place {
    dir: TempDir,
    server: Option<Child>,
}

impl Place {
    fn new() -> Self {
        Place {
            dir: tempfile::tempdir().unwrap(),
            server: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Any program, with `as2gate` on its path.
    fn command(&self, program: &str) -> Command {
        let mut command = tool(program, &[]);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AS2GATE_")) {
            command.env_remove(name);
        }
        let binaries = as2gate().canonicalize().unwrap().parent().unwrap().display().to_string();
        let path = format!("{binaries}:{}", std::env::var("PATH").unwrap());
        command
            .current_dir(self.dir.path())
            .env("PATH", path)
            .env("AS2GATE_TELEMETRY__LISTEN", "127.0.0.1:0");
        command
    }

    #[track_caller]
    fn cli(&self, args: &[&str]) -> Ran {
        run(self.command(as2gate().to_str().unwrap()).args(args))
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        self.cli(args).ok()
    }

    /// `as2gate serve &`; the ready line.
    #[track_caller]
    fn serve(&mut self, args: &[&str]) -> String {
        let log = fs::File::create(self.path("serve.log")).unwrap();
        let mut command = self.command(as2gate().to_str().unwrap());
        command
            .arg("serve")
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.server = Some(command.spawn().unwrap());
        wait_for("the ready line", || {
            let log = fs::read_to_string(self.path("serve.log")).unwrap();
            log.lines().find(|line| line.contains(" ready ")).map(str::to_owned)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Asserts that a text has these lines in this order, others between them; each is given by its words.
#[track_caller]
fn says(text: &str, lines: &[&str]) {
    let mut left = text.lines();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let fits = |shown: &str| {
            let shown: Vec<&str> = shown.split_whitespace().collect();
            let mut at = 0;
            words
                .iter()
                .all(|word| match shown[at..].iter().position(|found| found.starts_with(word)) {
                    Some(next) => {
                        at += next + 1;
                        true
                    }
                    None => false,
                })
        };
        assert!(left.any(fits), "missing, or in another order: {line}\nin:\n{text}");
    }
}

/// Three lines: what, why, hint.
#[track_caller]
fn three_lines(stderr: &str) {
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    let starts = ["error: ", "why:   ", "hint:  "];
    assert!(
        lines.len() == 3
            && lines
                .iter()
                .zip(starts)
                .all(|(line, start)| line.starts_with(start) && line.len() > start.len()),
        "{stderr}"
    );
}

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
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
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
            "Where files/ALICE/BOB/outbox/",
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
fn a_support_bundle_helps_and_gives_nothing_away() {
    let place = Place::new();
    let at = format!("127.0.0.1:{}", free_port());
    let _ = place.ok(&["init", "--account", "acme", "--as2", &at, "--sftp", "127.0.0.1:0"]);
    let _ = place.ok(&["station", "add", "ALICE", "--key", "rsa-2048"]);
    let url = format!("http://127.0.0.1:{}/as2?key=planted-query", free_port());
    let _ = place.ok(&["station", "add", "BOB", "--key", "rsa-2048"]);
    let _ = place.ok(&["partner", "add", "--from-station", "BOB", "--set", "headers.X-Token=planted-header"]);
    fs::write(place.path("password"), "planted-password\n").unwrap();
    let _ = place.ok(&[
        "partner",
        "set",
        "BOB",
        "--url",
        &url,
        "--http-user",
        "bob",
        "--http-password",
        "file:password",
    ]);
    let _ = place.ok(&["user", "add", "acme-erp", "--login", "password"]);
    let _ = place.ok(&["user", "password", "acme-erp", "--password", "file:password"]);
    fs::write(place.path("planted-file.edi"), b"planted-payload").unwrap();
    let _ = place.ok(&["send", "planted-file.edi", "--from", "ALICE", "--to", "BOB"]);

    let told = place.ok(&["support-bundle"]);
    let file = told.split_whitespace().nth(1).unwrap().trim_end_matches(';').to_owned();
    let text = fs::read_to_string(place.path(&file)).unwrap();
    for section in [
        "system",
        "configuration",
        "doctor",
        "status",
        "objects",
        "messages that wait or failed",
        "events",
    ] {
        assert!(text.contains(&format!("\n===== {section} =====\n")), "{section}:\n{text}");
    }
    assert!(text.contains("planted-file.edi") && text.contains("message.accepted"), "{text}");
    let master = fs::read_to_string(place.path("data/master.key")).unwrap();
    for secret in [
        "planted-query",
        "planted-header",
        "planted-password",
        "$argon2",
        "planted-payload",
        "PRIVATE KEY",
        master.trim(),
    ] {
        assert!(!text.contains(secret), "{secret}:\n{text}");
    }

    // Where something is broken it is needed most.
    fs::write(place.path("data/db/as2gate.db"), b"no database").unwrap();
    // It may hold all that was in the database.
    let _ = fs::remove_file(place.path("data/db/as2gate.db-wal"));
    let text = place.ok(&["support-bundle", "--out", "-"]);
    assert!(
        text.contains("===== doctor =====") && text.contains("no    data directory: journal"),
        "{text}"
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

/// Commands that hints suggest, taken to a shell as they are: blanks, quotes and dollar signs stay what they are.
#[test]
fn suggested_commands_can_be_pasted() {
    let place = Place::new();
    let paste = |command: &str| run(place.command("sh").args(["-c", command])).ok();
    let config = place.path("my gate's.toml");
    let with = |args: &[&str]| place.cli(&[&["-c", config.to_str().unwrap()], args].concat());
    let told = with(&["init", "--account", "acme"]).ok();
    let next = told.lines().find(|line| line.contains("station add ALICE")).unwrap();
    paste(next.split(" your first").next().unwrap());
    let ours: Value = serde_json::from_str(&with(&["station", "show", "ALICE", "-o", "json"]).ok()).unwrap();
    let id = r#"Big "Co" $HOME's"#;
    let _ = with(&["partner", "add", id, "--url", "http://127.0.0.1:1/as2"]).ok();
    let again = with(&["partner", "add", id, "--url", "http://127.0.0.1:1/as2"]).fails(1);
    let hint = again.lines().find_map(|line| line.strip_prefix("hint:  ")).unwrap();
    let here = |command: &str| command.replacen("as2gate ", r#"as2gate -c "my gate's.toml" "#, 1);
    paste(&here(&hint.replace('…', "--name pasted")));
    let shown: Value = serde_json::from_str(&with(&["partner", "show", id, "-o", "json"]).ok()).unwrap();
    assert_eq!(shown["name"], "pasted");
    let steps: Value = serde_json::from_str(&with(&["cert", "rollover", id, "-o", "json"]).ok()).unwrap();
    let command = steps["steps"][0]["command"].as_str().unwrap();
    let _ = with(&[
        "cert",
        "export",
        ours["certificate"].as_str().unwrap(),
        "--out",
        place.path("big.cer").to_str().unwrap(),
    ])
    .ok();
    paste(&here(&command.replace("NAME", "big").replace("FILE", "big.cer")));
    let added: Value = serde_json::from_str(&with(&["cert", "show", "big", "-o", "json"]).ok()).unwrap();
    assert_eq!(added["owner"], id);
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

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_known_one() {
    let gateway = Gateway::stopped(&[]);
    for (text, line, nearest) in [
        ("data_dir = \"data\"\n\n[sftp]\nlisen = []\n", "4", "listen"),
        ("data_dir = \"data\"\n[uplaods]\nrelease_after = \"0s\"\n", "2", "uploads"),
        ("data_dir = \"data\"\nretry.max-tries = 3\n", "2", "max_tries"),
    ] {
        fs::write(gateway.path("as2gate.toml"), text).unwrap();
        let words = gateway.cli(&["check"]).fails(4);
        three_lines(&words);
        assert!(words.contains(&format!("line {line}")) && words.contains(nearest), "{words}");
    }
    for (text, wrong) in [
        ("data_dir = ", "TOML"),
        ("data_dir = \"data\"\n[uploads]\nrelease_after = \"soon\"\n", "release_after"),
    ] {
        fs::write(gateway.path("as2gate.toml"), text).unwrap();
        let words = gateway.cli(&["check"]).fails(4);
        three_lines(&words);
        assert!(words.contains(wrong), "{words}");
    }
}

#[test]
fn the_environment_overrides_and_check_tells_where_values_come_from() {
    let gateway = Gateway::stopped(&[("uploads.release_after", "\"7s\"")]);
    let told = gateway.ok(&["check", "--effective"]);
    let line = |told: &str, key: &str| {
        told.lines()
            .find(|line| line.contains(key))
            .unwrap_or_else(|| panic!("{key}: {told}"))
            .to_owned()
    };
    assert!(
        line(&told, "uploads.release_after").contains("7s") && line(&told, "uploads.release_after").contains("line "),
        "{told}"
    );
    assert!(line(&told, "retry.factor").contains("default"), "{told}");
    let ran = run(gateway
        .command(&["check", "--effective"])
        .env("AS2GATE_UPLOADS__RELEASE_AFTER", "9s"));
    let told = ran.ok();
    assert!(
        line(&told, "uploads.release_after").contains("9s")
            && line(&told, "uploads.release_after").contains("AS2GATE_UPLOADS__RELEASE_AFTER")
    );
    let ran = run(gateway.command(&["check"]).env("AS2GATE_UPLOADS__RELAESE_AFTER", "9s"));
    assert!(ran.fails(4).contains("release_after"));
}

#[test]
fn errors_have_three_lines_and_their_exit_code() {
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    let bad = gateway.file("bad.pem", b"not a certificate");
    let cases: &[(u8, &[&str])] = &[
        (1, &["station", "add", "ALICE"]),
        (2, &["message", "list", "--state", "nonsense"]),
        (2, &["message", "resend", "--partner", "BOB"]),
        (2, &["no-such-noun"]),
        (2, &["partner", "set", "BOB", "--encript", "none"]),
        (2, &["partner", "set", "BOB"]),
        (3, &["partner", "show", "NOBODY"]),
        (3, &["station", "show", "NOBODY"]),
        (3, &["user", "show", "nobody"]),
        (3, &["cert", "show", "nothing"]),
        (3, &["message", "show", "000000000"]),
        (3, &["message", "list", "--partner", "NOBODY"]),
        (3, &["message", "list", "--station", "NOBODY"]),
        (3, &["message", "resend", "--state", "failed", "--partner", "NOBODY"]),
        (3, &["send", "no-such-file.edi", "--from", "ALICE", "--to", "BOB"]),
        (3, &["send", "as2gate.toml", "--from", "ALICE", "--to", "NOBODY"]),
        (
            4,
            &[
                "partner",
                "add",
                "X",
                "--url",
                "http://192.0.2.1/",
                "--certificate",
                bad.to_str().unwrap(),
            ],
        ),
        (4, &["partner", "set", "BOB", "--url", "not a url"]),
        (4, &["send", "data", "--from", "ALICE", "--to", "BOB"]),
        (4, &["user", "add", "a.b", "--generate-key"]),
    ];
    for (code, args) in cases {
        let words = gateway.cli(args).fails(i32::from(*code));
        three_lines(&words);
        let ran = gateway.cli(&[args, &["-o", "json"][..]].concat());
        assert_eq!(ran.code, i32::from(*code));
        let object: Value = serde_json::from_str(&ran.stderr).unwrap_or_else(|error| panic!("{error}: {ran}"));
        for field in ["code", "what", "why", "hint"] {
            assert!(
                object["error"][field].as_str().is_some_and(|text| !text.is_empty()),
                "{field}: {ran}"
            );
        }
        assert!(["", "[]\n"].contains(&ran.stdout.as_str()), "{ran}");
    }
    let near = gateway.cli(&["partner", "show", "BOBB"]).fails(3);
    assert!(near.contains("BOB"), "{near}");
}

#[test]
fn an_unreachable_partner_is_an_error_of_the_remote_side() {
    let pair = Pair::two_gateways();
    pair.alice().ok(&["partner", "test", "BOB", "--from", "ALICE"]);
    pair.bob().kill9();
    let ran = pair.alice().cli(&["partner", "test", "BOB", "--from", "ALICE"]);
    assert!(ran.stdout.lines().any(|line| line.starts_with("no ")), "{ran}");
    let words = ran.fails(6);
    assert!(words.contains("hint:") && words.contains("refused"), "{words}");
}

#[test]
fn a_second_server_on_the_same_data_directory_is_refused() {
    let gateway = Gateway::new();
    let words = gateway.cli(&["serve", "--sftp", "127.0.0.1:0", "--as2", "127.0.0.1:0"]).fails(1);
    three_lines(&words);
    assert!(words.contains("another as2gate server"), "{words}");
    assert_eq!(
        tests::wire::exchange(gateway.as2_port, "HEAD", "/as2", &[], b"").status,
        200,
        "the first one goes on"
    );
}

#[test]
fn wrong_words_are_told_what_would_be_right_and_where_it_stands() {
    let place = Place::new();
    let cases: &[(&[&str], [&str; 2])] = &[
        (
            &["partner", "set", "BOB", "--sign", "md4"],
            ["one of: none, sha1", "as2gate partner set --help"],
        ),
        (
            &["-a", "acme", "cert", "list", "-o", "xml"],
            ["one of: table, tsv, json", "as2gate cert list --help"],
        ),
        (&["station", "add"], ["missing: <ID>", "as2gate station add <ID>"]),
        (
            &["cert", "rollover", "start", "ALICE"],
            ["nothing of this kind", "as2gate cert rollover"],
        ),
        (
            &["user", "key", "add", "acme-erp", "second.pub"],
            ["stands behind its option: --public-key FILE", "as2gate user key add"],
        ),
        (
            &["user", "password", "acme-erp", "secret"],
            ["its option: --password SOURCE", "as2gate user password"],
        ),
        (&["cert", "add", "bob-tls", "bob.pem"], ["--file FILE", "as2gate cert add"]),
        (
            &["partner", "add", "BOB", "https://bob.example/as2"],
            ["--url URL", "as2gate partner add"],
        ),
        (&["apply", "objects.toml"], ["its option: --file FILE|DIR", "as2gate apply"]),
        (&["export", "here"], ["its option: --out FILE", "as2gate export"]),
        (&["completions", "tcsh"], ["one of: bash, elvish", "completions --help"]),
        (&["frobnicate"], ["no such command", "--help"]),
        (
            &["message", "list", "--limit", "x"],
            ["a value of another form", "message list --help"],
        ),
        (&["partner", "set", "BOB", "sha512"], ["--help lists them", "as2gate partner set"]),
        (&["partner", "set", "BOB", "--encript", "none"], ["--encrypt", "--help"]),
    ];
    for (args, wanted) in cases {
        let words = place.cli(args).fails(2);
        three_lines(&words);
        assert!(wanted.iter().all(|wanted| words.contains(wanted)), "{words}");
    }
    let words = place
        .cli(&["--data-dir", place.path("nothing").to_str().unwrap(), "status"])
        .fails(3);
    assert!(words.contains("nothing is set up here") && words.contains("--data-dir"), "{words}");
}

#[test]
fn a_busy_port_is_named() {
    let gateway = Gateway::new();
    let other = Gateway::stopped(&[]);
    let busy = format!("127.0.0.1:{}", gateway.as2_port);
    let words = other.cli(&["serve", "--as2", &busy]).fails(1);
    assert!(words.contains(&busy) && words.contains("hint:"), "{words}");
}

#[test]
fn a_directory_that_was_never_set_up_is_told_what_to_do() {
    let place = Place::new();
    let ran = place.cli(&["--data-dir", place.path("nothing").to_str().unwrap(), "station", "list"]);
    three_lines(&ran.stderr);
    assert!(ran.code != 0 && ran.stderr.contains("as2gate init"), "{ran}");
    assert!(!place.path("nothing").exists());
}

#[test]
fn all_commands_tell_a_strange_data_directory_alike() {
    use std::os::unix::fs::PermissionsExt as _;
    let gateway = Gateway::stopped(&[]);
    let data = gateway.path("data").display().to_string();
    let told = |place: &str, words: &str| {
        for command in ["serve", "doctor", "check", "status"] {
            let ran = gateway.cli(&["--data-dir", place, command]);
            let all = ran.stdout.clone() + &ran.stderr;
            assert!(all.contains(words) && !all.contains("master key"), "{command}: {ran}");
            assert!(ran.code != 0 && ran.stderr.contains("hint:"), "{command}: {ran}");
        }
    };
    let nothing = gateway.path("nothing").display().to_string();
    told(&nothing, &format!("{nothing} is not a data directory"));
    // As another user would see it: root may look everywhere, but not below a file.
    let file = gateway.file("file", b"").display().to_string();
    told(&file, &format!("cannot look into {file}"));
    if !std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0) {
        fs::set_permissions(&data, fs::Permissions::from_mode(0o000)).unwrap();
        told(&data, &format!("cannot look into {data}"));
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

#[test]
fn objects_of_a_newer_version_are_named() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    gateway.sql("UPDATE object SET json = json_set(json, '$.teleport', 'yes') WHERE kind = 'station'");
    for args in [&["station", "list"][..], &["serve"], &["doctor"]] {
        let ran = gateway.cli(args);
        let words = ran.stdout.clone() + &ran.stderr;
        assert!(ran.code != 0, "{ran}");
        for wanted in [
            "station ALICE",
            "unknown field `teleport`",
            "written by a newer as2gate?",
            "install the",
        ] {
            assert!(words.contains(wanted), "{wanted}: {ran}");
        }
    }
}

#[test]
fn commands_work_beside_a_server_and_without_one() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    gateway.ok(&["station", "add", "BOB"]);
    gateway.ok(&["partner", "add", "--from-station", "BOB"]);
    let user = gateway.user("erp");
    assert!(gateway.ok(&["status", "-o", "table"]).contains("not"), "nothing listens");
    gateway.start();
    assert_eq!(user.ls("AS2/send/ALICE"), ["BOB"]);
    // Beside the server: it follows within two seconds.
    gateway.ok(&["station", "add", "CAROL", "--key", "ec-p256"]);
    gateway.ok(&["partner", "add", "--from-station", "CAROL"]);
    wait_within(Duration::from_secs(2), "the new pair", || {
        (user.ls("AS2/send/ALICE") == ["BOB", "CAROL"]).then_some(())
    });
    gateway.ok(&["partner", "rm", "CAROL", "-y"]);
    wait_within(Duration::from_secs(2), "the pair to go", || {
        (user.ls("AS2/send/ALICE") == ["BOB"]).then_some(())
    });
}

#[test]
fn lists_are_arrays_shows_are_objects_and_tsv_has_the_same_names() {
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    pair.deliver("named.edi", &order(1));
    for noun in ["account", "station", "partner", "cert", "user", "message"] {
        let list = gateway.json(&[noun, "list"]);
        let first = list
            .as_array()
            .unwrap()
            .first()
            .unwrap_or_else(|| panic!("{noun}: empty"))
            .as_object()
            .unwrap()
            .clone();
        let tsv = gateway.ok(&[noun, "list"]);
        let names: Vec<&str> = tsv.lines().next().unwrap().split('\t').collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        let mut fields: Vec<&str> = first.keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(sorted, fields, "{noun}");
        assert_eq!(tsv.lines().count(), list.as_array().unwrap().len() + 1, "{noun}: one line each");
        let key = ["id", "as2_id", "name"].into_iter().find(|key| first.contains_key(*key)).unwrap();
        let shown = gateway.json(&[noun, "show", first[key].as_str().unwrap()]);
        assert_eq!(shown[key], first[key], "{noun}");
    }
}

#[test]
fn objects_as_toml_make_the_round_trip() {
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    gateway.ok(&[
        "partner",
        "set",
        "BOB",
        "--subject",
        "Orders",
        "--set",
        "headers.X-Env=prod",
        "--retry-max-tries",
        "7",
    ]);
    let text = gateway.ok(&["export"]);
    let read: Value = serde_json::from_str(&gateway.ok(&["export", "-o", "json"])).unwrap();
    let subject = |partner: &Value| partner["subject"] == "Orders";
    assert!(
        read["partner"].as_array().unwrap().iter().any(subject) && read["certificate"][0]["pem"].is_string(),
        "{read:#}"
    );
    for table in ["[[account]]", "[[station]]", "[[partner]]", "[[user]]"] {
        assert!(text.contains(table), "{table}: {text}");
    }
    assert!(
        !text.contains("PRIVATE") && !text.contains("sealed:"),
        "secrets stay out of an export"
    );
    let file = gateway.file("objects.toml", text.as_bytes());
    let file = file.to_str().unwrap();
    gateway.ok(&["apply", "-f", file]);
    assert_eq!(gateway.ok(&["export"]), text, "applying what is there changes nothing");

    let changed = gateway.file("changed.toml", text.replace("\"Orders\"", "\"Invoices\"").as_bytes());
    let changed = changed.to_str().unwrap();
    let dry = gateway.ok(&["apply", "-f", changed, "--dry-run", "-o", "table"]);
    assert!(dry.contains("BOB") && dry.contains("subject"), "{dry}");
    assert_eq!(gateway.ok(&["export"]), text, "a dry run changes nothing");
    gateway.ok(&["apply", "-f", changed]);
    assert_eq!(gateway.json(&["partner", "show", "BOB"])["subject"], "Invoices");

    // All or nothing.
    let broken = gateway.file(
        "broken.toml",
        (text.clone() + "\n[[partner]]\nas2_id = \"X\"\nsign = \"crc32\"\n").as_bytes(),
    );
    three_lines(&gateway.cli(&["apply", "-f", broken.to_str().unwrap()]).fails(4));
    assert_eq!(
        gateway.json(&["partner", "show", "BOB"])["subject"],
        "Invoices",
        "nothing of it was applied"
    );

    // Nothing is deleted without --prune.
    let less: String = text
        .split("[[partner]]")
        .enumerate()
        .filter(|(n, part)| *n == 0 || !part.contains("\"BOB\""))
        .map(|(n, part)| if n == 0 { part.to_owned() } else { format!("[[partner]]{part}") })
        .collect();
    let less = gateway.file("less.toml", less.as_bytes());
    gateway.ok(&["apply", "-f", less.to_str().unwrap()]);
    let _ = gateway.json(&["partner", "show", "BOB"]);
    gateway.ok(&["apply", "-f", less.to_str().unwrap(), "--prune", "-y"]);
    let _ = gateway.cli(&["partner", "show", "BOB"]).fails(3);
}

#[test]
fn files_are_sent_from_the_command_line() {
    let pair = Pair::two_gateways();
    pair.alice().file("a.edi", &order(1));
    pair.alice().file("b.edi", &order(2));
    pair.alice().ok(&[
        "send",
        "a.edi",
        "b.edi",
        "--from",
        "ALICE",
        "--to",
        "BOB",
        "--subject",
        "Both",
        "--wait",
    ]);
    for (name, bytes) in [("a.edi", order(1)), ("b.edi", order(2))] {
        let parcel = pair.delivered(name);
        assert_eq!(parcel.got["subject"], "Both");
        assert_eq!(pair.fetch(&parcel), bytes);
    }
    let again = pair.alice().cli(&["send", "a.edi", "--from", "ALICE", "--to", "BOB", "--wait"]);
    assert_ne!(again.code, 0, "a duplicate is not sent: {again}");
    assert!(!again.stderr.contains("WARN"), "the result tells it: {again}");
    pair.bob().kill9();
    pair.alice().file("c.edi", &order(3));
    let queued = pair.alice().cli(&["send", "c.edi", "--from", "ALICE", "--to", "BOB"]);
    assert_eq!(queued.code, 0, "{queued}");
}

#[test]
fn messages_are_cancelled_resent_and_exported() {
    let pair = Pair::two_with(&[("retry.max_tries", "1000")]);
    pair.bob().kill9();
    pair.put("stuck.edi", &order(1));
    let stuck = pair.alice().reaches("out", "stuck.edi", "retrying");
    for (verb, words) in [("retry", "would go out again now"), ("cancel", "would be cancelled")] {
        let told = pair.alice().ok(&["message", verb, stuck["id"].as_str().unwrap(), "-n"]);
        assert!(told.contains(words), "{told}");
    }
    let told = pair.alice().ok(&["partner", "rm", "BOB", "-n"]);
    assert!(told.contains("Partner BOB would be removed"), "{told}");
    let cancelled = pair.alice().cli(&["message", "cancel", stuck["id"].as_str().unwrap()]);
    assert!(cancelled.code == 0 && cancelled.stderr.is_empty(), "{cancelled}");
    let failed = pair.alice().reaches("out", "stuck.edi", "failed");
    assert_eq!(failed["code"], "cancelled");
    pair.bob().start();
    let resent = pair.alice().json(&["message", "resend", "--state", "failed", "--partner", "BOB"]);
    assert_eq!(resent.as_array().unwrap().len(), 1, "{resent:#}");
    let parcel = pair.delivered("stuck.edi");
    assert_ne!(parcel.sent["id"], failed["id"], "a resend is a new message");
    assert_eq!(parcel.sent["previous"], failed["id"]);
    assert_eq!(pair.fetch(&parcel), order(1));

    let digits = parcel.sent_id().split('-').next_back().unwrap();
    pair.alice().ok(&["message", "export", digits, "--out", "evidence"]);
    let dir = pair.alice().path("evidence").join(parcel.sent_id());
    let files = tests::files_below(&dir);
    for name in ["stuck.edi", "message.as2", "headers.txt"] {
        assert!(files.iter().any(|file| file.ends_with(name)), "{name}: {files:?}");
    }
    assert!(files.iter().any(|file| file.ends_with(".mdn")), "{files:?}");
    let _ = pair.alice().cli(&["message", "cancel", parcel.sent_id()]).fails(1);
}

#[test]
fn inspect_takes_a_captured_message_apart() {
    let pair = Pair::two_gateways();
    pair.alice().ok(&["partner", "set", "BOB", "--compress", "before-sign"]);
    pair.alice().restart();
    let parcel = pair.deliver("inspected.edi", &order(9));
    let bob = pair.bob();
    let save = |name: &str, path: String| bob.file(name, &pair.bob_user.get(&path)).display().to_string();
    let raw = save(
        "message.as2",
        format!("AS2/raw-message/BOB/ALICE/inbox/{}/message.as2", parcel.got_id()),
    );
    let headers = save(
        "headers.txt",
        format!("AS2/headers/BOB/ALICE/inbox/{}/headers.txt", parcel.got_id()),
    );
    let key = private_key(bob, "bob.key").display().to_string();
    let cert = bob
        .file("bob.crt", tests::pair::station_certificate(bob, "BOB").as_bytes())
        .display()
        .to_string();
    let partner = bob.path("ALICE.pem").display().to_string();
    let args = [
        "inspect",
        &raw,
        "--headers",
        &headers,
        "--key",
        &key,
        "--cert",
        &cert,
        "--partner-cert",
        &partner,
    ];
    // Offline: it needs no data directory.
    let place = Place::new();
    let json: Value = serde_json::from_str(&place.ok(&[&args[..], &["-o", "json", "--extract", "out"]].concat())).unwrap();
    let text = json.to_string();
    let mic = parcel.sent["mic"].as_str().unwrap().split(',').next().unwrap();
    assert!(text.contains(mic), "the MIC is missing: {json:#}");
    for word in ["aes256-cbc", "sha256", "compress", "inspected.edi"] {
        assert!(text.to_lowercase().contains(word), "{word}: {json:#}");
    }
    let extracted = tests::files_below(&place.path("out"));
    assert_eq!(extracted, ["inspected.edi"]);
    assert_eq!(fs::read(place.path("out/inspected.edi")).unwrap(), order(9));
    let told = place.ok(&[&args[..], &["-o", "table"]].concat());
    assert!(told.contains(mic), "{told}");

    // Without the key there is nothing to see, and a wrong partner certificate shows.
    let blind = place.cli(&["inspect", &raw, "--headers", &headers]);
    assert!(!(blind.stdout.clone() + &blind.stderr).contains("inspected.edi"), "{blind}");
    let mallory = Identity::new("mallory");
    let forged = mallory.path("cert.pem").display().to_string();
    let ran = place.cli(&[
        "inspect",
        &raw,
        "--headers",
        &headers,
        "--key",
        &key,
        "--cert",
        &cert,
        "--partner-cert",
        &forged,
        "--extract",
        "forged",
    ]);
    assert_ne!(ran.code, 0, "{ran}");
    assert!(names_in(&place.path("forged")).is_empty(), "nothing unverified is written");
}

#[test]
fn inspect_reads_an_mdn() {
    let pair = Pair::two_gateways();
    let parcel = pair.deliver("mdn.edi", &order(9));
    let mdn = pair.alice_user.get(&format!("AS2/raw-mdn/incoming/{}.mdn", parcel.sent_id()));
    let cut = mdn.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let headers = pair.alice().file("mdn.headers", &mdn[..cut + 2]).display().to_string();
    let body = pair.alice().file("mdn.body", &mdn[cut + 4..]).display().to_string();
    let bob = pair.alice().path("BOB.pem").display().to_string();
    let json = pair
        .alice()
        .json(&["inspect", &body, "--headers", &headers, "--partner-cert", &bob]);
    let text = json.to_string();
    let mic = parcel.sent["mic"].as_str().unwrap().split(',').next().unwrap();
    assert!(
        text.contains("processed") && text.contains(mic) && text.contains(parcel.sent["message_id"].as_str().unwrap()),
        "{json:#}"
    );
}

/// What OpenAS2 really sent, with the MIC that it logged.
const FOREIGN: &[(&str, &str)] = &[
    ("base64_newline", "BPd3v8Q+vdx13PEe/K0egVMiJfi6DBSgmyo4mKgM5bU="),
    ("base64_crlf", "CFv2BSzsV6zLv44PD2UBeASAjg5bL1L3DHZnJrsRUAI="),
    ("binary_initial_double_newline", "O0pF3FMeakUSGbKNmD0rushtjWNfLO29eDvdOiwKoqs="),
    ("binary_newlines", "RX+gWZEQOkou02/9eOPCbtUNYxTJXZbGXtslssIezaY="),
    ("binary_trailing_double_newline", "lGv3z+A33GjNFox7Yzkn+PTNNPbZ19JRhMOvXgp2zSk="),
    ("binary_initial_double_crlf", "dICWO5M3qSfVmyvDHXnVyKGLxkuTlIb4DInirNKBRT0="),
    ("binary_crlf_lines", "P2Ox0s8iJBd3TcNyYfv4IHO1LfkS32U8sdoT/axPjio="),
    ("binary_trailing_double_crlf", "4FuEDJ+N581GkvjZV4BT7iFsC4JRqGC2pLP2IIuOd1c="),
];

/// Base64 in lines, decoded by coreutils.
fn decoded(text: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text");
    fs::write(&path, text).unwrap();
    tool("base64", &["-d", "-i", path.to_str().unwrap()]).output().unwrap().stdout
}

#[test]
fn inspect_opens_what_openas2_sent() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures");
    if !fixtures.exists() {
        println!("skipped: {} is not there", fixtures.display());
        return;
    }
    let place = Place::new();
    let at = |name: String| fixtures.join(name).display().to_string();
    let headers = place.path("headers.txt");
    let block = "AS2-From: client\r\nAS2-To: server\r\nAS2-Version: 1.1\r\nMessage-ID: <foreign@test>\r\n\
        Content-Type: application/pkcs7-mime; name=\"smime.p7m\"; smime-type=enveloped-data\r\nContent-Transfer-Encoding: binary\r\n";
    fs::write(&headers, block).unwrap();
    for (name, mic) in FOREIGN {
        let out = place.path(name);
        let ran = place.cli(&[
            "inspect",
            &at(format!("openas2/{name}.pkcs7")),
            "--headers",
            headers.to_str().unwrap(),
            "--key",
            &at("keys/server.key".to_owned()),
            "--cert",
            &at("keys/server.crt".to_owned()),
            "--partner-cert",
            &at("keys/client.crt".to_owned()),
            "--extract",
            out.to_str().unwrap(),
            "-o",
            "json",
        ]);
        let told = ran.ok();
        assert!(told.contains(mic), "{name}: {told}");
        let files = names_in(&out);
        assert_eq!(files.len(), 1, "{name}: {files:?}");
        // The fixture is the signed part: a line end, its headers, a blank line, its body.
        let part = fs::read(at(format!("openas2/{name}.txt"))).unwrap();
        let cut = part.windows(4).skip(2).position(|window| window == b"\r\n\r\n").unwrap() + 6;
        let sent = if name.starts_with("base64") {
            decoded(&part[cut..])
        } else {
            part[cut..].to_vec()
        };
        assert!(fs::read(out.join(&files[0])).unwrap() == sent, "{name}: other bytes");
    }
}

/// Every command, found through the help itself.
fn walk(place: &Place, path: &[String], seen: &mut Vec<String>) {
    let args: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
    let help = place.ok(&args);
    assert!(
        help.contains("Examples:") && help.contains("  as2gate "),
        "{path:?} teaches no example:\n{help}"
    );
    seen.push(path.join(" "));
    let commands = help.split("Commands:\n").nth(1).unwrap_or_default();
    for line in commands.lines().take_while(|line| line.starts_with("  ")) {
        let name = line.split_whitespace().next().unwrap_or_default();
        let is_name = line.starts_with("  ") && !line.starts_with("   ") && name != "help" && !name.is_empty();
        if is_name {
            walk(place, &[path, &[name.to_owned()]].concat(), seen);
        }
    }
}

#[test]
fn every_command_teaches_by_example() {
    let mut seen = Vec::new();
    walk(&Place::new(), &[], &mut seen);
    for command in [
        "init",
        "serve",
        "partner test",
        "cert schedule",
        "user key rotate",
        "message follow",
        "lifecycle restore",
        "inspect",
        "apply",
    ] {
        assert!(seen.iter().any(|found| found == command), "{command} is missing: {seen:?}");
    }
    assert!(seen.len() > 50, "{seen:?}");
}

#[test]
fn check_and_doctor_find_what_is_wrong() {
    use std::os::unix::fs::PermissionsExt as _;
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["check"]);
    let open = |mode| fs::set_permissions(gateway.path("data"), fs::Permissions::from_mode(mode)).unwrap();
    open(0o755);
    assert!(
        gateway.ok(&["doctor"]).contains("chmod 700"),
        "others may look into the data directory"
    );
    open(0o700);
    assert!(!gateway.ok(&["doctor"]).contains("chmod 700"));
    // A note beside an error would hide it.
    gateway.ok(&["station", "add", "LONELY"]);
    three_lines(&gateway.cli(&["send", "nothing.edi", "--from", "LONELY", "--to", "NOBODY"]).fails(3));
    let key = gateway.path("data/master.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let ran = gateway.cli(&["doctor"]);
    assert!(
        ran.code == 4 && ran.stdout.contains("no    master key: ") && ran.stdout.contains("chmod 600 data/master.key"),
        "{ran}"
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(&key).unwrap();
    let ran = gateway.cli(&["serve"]);
    three_lines(&ran.stderr);
    assert!(ran.code != 0 && ran.stderr.contains("master.key"), "{ran}");
}

#[test]
fn a_server_does_not_start_on_what_belongs_to_others_or_is_gone() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let key = gateway.path("data/master.key");
    let own = fs::read(&key).unwrap();
    // Another master key: every message would fail, one by one.
    fs::write(&key, "7b".repeat(32)).unwrap();
    for command in ["serve", "doctor"] {
        let ran = gateway.cli(&[command]);
        assert!(ran.code != 0, "{ran}");
        three_lines(&ran.stderr);
    }
    assert!(gateway.cli(&["serve"]).stderr.contains("not the one that sealed"));
    fs::write(&key, own).unwrap();
    let host_key = gateway.path("data/host-keys/ssh_host_ed25519_key");
    let good = fs::read(&host_key).unwrap();
    fs::write(&host_key, "nonsense").unwrap();
    let ran = gateway.cli(&["serve"]);
    assert!(
        ran.code == 4 && ran.stderr.contains("ssh_host_ed25519_key") && !ran.stderr.contains("hint:  look at master_key"),
        "{ran}"
    );
    fs::write(&host_key, good).unwrap();
    // A database without anything in it would let the sweep take what it does not know.
    for file in ["as2gate.db", "as2gate.db-wal"] {
        fs::write(gateway.path("data/db").join(file), "").unwrap();
    }
    for command in ["serve", "status"] {
        let ran = gateway.cli(&[command]);
        assert!(
            ran.code == 1 && ran.stderr.contains("is empty") && ran.stderr.contains("restore a backup"),
            "{ran}"
        );
    }
    fs::write(gateway.path("data/db/as2gate.db"), "no database at all, by far").unwrap();
    let ran = gateway.cli(&["serve"]);
    assert!(ran.code == 1 && ran.stderr.contains("as2gate restore"), "{ran}");
}

#[test]
fn status_says_that_new_data_is_refused() {
    let gateway = Gateway::stopped(&[("storage.min_free", "\"100TiB\"")]);
    let text = gateway.ok(&["status", "-o", "table"]);
    assert!(
        text.contains("storage full, new data is refused") && !text.contains("storage ok"),
        "{text}"
    );
}

#[test]
fn a_lost_host_key_is_made_anew_and_not_in_silence() {
    let gateway = Gateway::stopped(&[]);
    fs::remove_file(gateway.path("data/host-keys/ssh_host_ecdsa_key")).unwrap();
    gateway.start();
    let log = gateway.log();
    assert!(log.contains("made a host key") && log.contains("ecdsa"), "{log}");
}

#[test]
fn settings_of_a_user_that_keep_it_out_are_told() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["user", "add", "erp", "--generate-key", "ed25519", "--out", "erp.key"]);
    for (setting, value, note) in [
        ("--stations", "ALCIE", "user erp is to see station ALCIE, and there is none"),
        ("--login", "password", "user erp has no password"),
        ("--expires", "2020-01-01T00:00:00Z", "user erp expired at 2020-01-01T00:00:00Z"),
    ] {
        let ran = gateway.cli(&["user", "set", "erp", setting, value]);
        assert!(ran.code == 0 && ran.stderr.contains(note), "{ran}");
        assert!(gateway.ok(&["doctor"]).contains(note), "{note}");
    }
    assert!(
        !gateway.ok(&["user", "show", "erp", "-o", "table"]).contains("KEYFILE"),
        "it logs in without a key"
    );
}

#[test]
fn dry_runs_change_nothing() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let bob = Identity::new("bob");
    let before = gateway.ok(&["export"]);
    gateway.ok(&["station", "add", "CAROL", "-n"]);
    gateway.ok(&[
        "partner",
        "add",
        "BOB",
        "--url",
        "http://192.0.2.1/as2",
        "--certificate",
        bob.path("cert.pem").to_str().unwrap(),
        "-n",
    ]);
    gateway.ok(&["user", "add", "erp", "--generate-key", "-n"]);
    gateway.ok(&["station", "rm", "ALICE", "-n"]);
    assert_eq!(gateway.ok(&["export"]), before);
    assert!(!gateway.path("erp.key").exists());
}

#[test]
fn completions_are_scripts() {
    let place = Place::new();
    let script = place.ok(&["completions", "bash"]);
    let file = place.path("completions.bash");
    fs::write(&file, script).unwrap();
    let _ = run(&mut tool("bash", &["-n", file.to_str().unwrap()])).ok();
}

#[test]
fn manual_pages_tell_what_help_tells() {
    let place = Place::new();
    let page = place.ok(&["man"]);
    assert!(page.contains(".TH as2gate 1") && page.contains("as2gate\\-partner(1)"), "{page}");
    fs::create_dir(place.path("man1")).unwrap();
    place.ok(&["man", "--out", "man1", "-n"]);
    assert_eq!(fs::read_dir(place.path("man1")).unwrap().count(), 0, "a dry run writes nothing");
    assert!(place.ok(&["man", "--out", "man1"]).contains("begin with as2gate.1"));
    let page = fs::read_to_string(place.path("man1/as2gate-partner-add.1")).unwrap();
    let help = place.ok(&["partner", "add", "--help"]);
    assert!(page.contains("from\\-station") && help.contains("--from-station"), "{page}");
    let words = place.cli(&["man", "--out", "none"]).fails(3);
    assert!(words.contains("it is no directory"), "{words}");
}

#[test]
fn what_is_not_there_or_cannot_go_is_said_at_once() {
    let pair = Pair::two_gateways();
    let alice = pair.alice();
    for args in [
        &["-a", "nope", "station", "list"][..],
        &["-a", "nope", "message", "list"],
        &["station", "set", "NOPE", "--as2-id", "NOPE"],
        &["partner", "set", "NOPE", "--as2-id", "NOPE"],
    ] {
        let words = alice.cli(args).fails(3);
        assert!(words.contains("nope") || words.contains("NOPE"), "{args:?}: {words}");
    }
    let first = pair.deliver("first.edi", b"UNB+UNOA:1'");
    let id = first.sent_id();
    alice.ok(&["partner", "block", "BOB", "out"]);
    for args in [&["message", "resend", id][..], &["partner", "test", "BOB"]] {
        let words = alice.cli(args).fails(5);
        assert!(words.contains("as2gate partner unblock BOB"), "{args:?}: {words}");
    }
    assert_eq!(alice.messages("out").len(), 1);
    let again = alice.file("first.edi", b"UNB+UNOA:1'");
    let words = alice
        .cli(&["send", again.to_str().unwrap(), "/nowhere/at.all", "--from", "ALICE", "--to", "BOB"])
        .fails(3);
    assert!(words.contains("2 of 2 files were not accepted"), "{words}");
}
