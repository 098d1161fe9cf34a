//! Errors: three lines, an exit code, and commands to paste.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use serde_json::Value;
use tests::process::{as2gate, run};
use tests::{Pair, order};

use super::{Place, three_lines};

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
        (2, &["serve", "-n"]),
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
        (4, &["partner", "set", "BOB", "--content-type", "multipart/mixed; boundary=x"]),
        (4, &["send", "data", "--from", "ALICE", "--to", "BOB"]),
        (4, &["send", "as2gate.toml", "--from", "ALICE", "--to", "BOB", "--type", "foo"]),
        (
            4,
            &[
                "send",
                "as2gate.toml",
                "--from",
                "ALICE",
                "--to",
                "BOB",
                "--type",
                "text/plain\r\nX-Evil: 1",
            ],
        ),
        (
            4,
            &[
                "send",
                "as2gate.toml",
                "-n",
                "--from",
                "ALICE",
                "--to",
                "BOB",
                "--type",
                "application/pkcs7-mime",
            ],
        ),
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
    let file = alice.file("second.edi", b"UNB+UNOA:2'").display().to_string();
    let send = ["send", &file, "--from", "ALICE", "--to", "BOB"];
    for more in [&["-n"][..], &[]] {
        let ran = alice.cli(&[&send[..], more].concat());
        let note = "note: sending to BOB is blocked: nothing goes out until as2gate partner unblock BOB\n";
        assert!(ran.code == 0 && ran.stderr == note, "{ran}");
    }
    let words = alice.cli(&[&send[..], &["--wait", "--name", "third.edi"]].concat()).fails(5);
    assert!(words.contains("as2gate partner unblock BOB"), "{words}");
    assert_eq!(alice.messages("out").len(), 2);
    let again = alice.file("first.edi", b"UNB+UNOA:1'");
    let words = alice
        .cli(&["send", again.to_str().unwrap(), "/nowhere/at.all", "--from", "ALICE", "--to", "BOB"])
        .fails(3);
    assert!(words.contains("2 of 2 files were not accepted"), "{words}");
}

#[test]
fn what_came_of_several_files_is_said_to_whoever_wants_few_words() {
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    for (name, number) in [("a.edi", 1), ("b.edi", 2)] {
        gateway.file(name, &order(number));
    }
    let send = ["send", "a.edi", "b.edi", "--from", "ALICE", "--to", "BOB"];
    let dry = gateway.json(&[&send[..], &["-n"]].concat());
    assert_eq!(
        (dry[0]["file"].as_str(), dry[1]["file"].as_str()),
        (Some("a.edi"), Some("b.edi")),
        "{dry}"
    );
    gateway.ok(&["send", "a.edi", "--from", "ALICE", "--to", "BOB"]);
    gateway.file("a.edi", &order(3));
    let words = gateway.cli(&[&["-q"][..], &send].concat()).fails(7);
    three_lines(&words);
    assert!(
        words.contains("1 of 2 files were not accepted") && words.contains("a.edi is duplicate"),
        "{words}"
    );
}

#[test]
fn what_waits_for_settings_names_the_command_that_mends_them() {
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    gateway.change(&["partner", "block", "BOB"]);
    gateway.file("waits.edi", &order(1));
    gateway.ok(&["send", "waits.edi", "--from", "ALICE", "--to", "BOB"]);
    gateway.change(&["partner", "set", "BOB", "--stations", "BOB"]);
    gateway.change(&["partner", "unblock", "BOB"]);
    let wanted = "as2gate partner set BOB --stations BOB,ALICE; ";
    gateway.wait("the command", |gateway| {
        let row = &gateway.messages("out")[0];
        let shown = gateway.show(row["id"].as_str().unwrap());
        shown["hint"].as_str().is_some_and(|hint| hint.starts_with(wanted)).then_some(())
    });
}

#[test]
fn a_configuration_that_may_not_be_read_is_not_taken_for_none() {
    const NOBODY: u32 = 65_534;
    let place = Place::new();
    let binary = as2gate().canonicalize().unwrap();
    // Root reads everything.
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let stranger = |args: &[&str]| {
        let mut command = place.command(binary.to_str().unwrap());
        command.args(args);
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    let mode = |path: PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(place.path(""), 0o755);
    if !stranger(&["--version"]).status().is_ok_and(|status| status.success()) {
        println!("skipped: another user cannot run {}", binary.display());
        return;
    }
    fs::create_dir(place.path("etc")).unwrap();
    fs::write(place.path("etc/as2gate.toml"), "").unwrap();
    let file = place.path("etc/as2gate.toml").display().to_string();
    let dir = place.path("etc").display().to_string();
    for (path, closed, open) in [("etc", 0o000, 0o755), ("etc/as2gate.toml", 0o000, 0o644)] {
        mode(place.path(path), closed);
        for named in [["-c", file.as_str()], ["--data-dir", dir.as_str()]] {
            let words = run(&mut stranger(&[&named[..], &["status"]].concat())).fails(5);
            three_lines(&words);
            assert!(words.contains(&file) && words.contains("sudo -u NAME"), "{words}");
        }
        mode(place.path(path), open);
    }
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
    paste(&hint.replace('…', "--name pasted"));
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
    let here = |command: &str| command.replacen("as2gate ", r#"as2gate -c "my gate's.toml" "#, 1);
    paste(&here(&command.replace("NAME", "big").replace("FILE", "big.cer")));
    let added: Value = serde_json::from_str(&with(&["cert", "show", "big", "-o", "json"]).ok()).unwrap();
    assert_eq!(added["owner"], id);
}
