//! Who may log in, with what, and for what.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tests::process::{free_port, run, run_with, tool};
use tests::{Gateway, Pair, Shared, files_below, wait_for};

static GATEWAY: Shared<Gateway> = Shared::new();

fn gateway() -> Arc<Gateway> {
    GATEWAY.get(Gateway::new)
}

#[test]
fn ed25519_ecdsa_and_rsa_keys_log_in() {
    let gateway = gateway();
    for (name, kind) in [("ed-user", "ed25519"), ("ec-user", "ecdsa"), ("rsa-user", "rsa")] {
        let key = gateway.ssh_key(name, kind);
        gateway.ok(&["user", "add", name, "--public-key", &format!("{}.pub", key.display())]);
        let user = gateway.login(name, &key);
        assert_eq!(user.ok(&["pwd"]).trim(), "Remote working directory: /mftg-acme", "{kind}");
    }
    for bits in ["384", "521"] {
        let (name, key) = (format!("ec-{bits}"), gateway.path(&format!("ec-{bits}.key")));
        let args = ["-q", "-t", "ecdsa", "-b", bits, "-N", "", "-f", key.to_str().unwrap()];
        let _ = run(&mut tool("ssh-keygen", &args)).ok();
        gateway.ok(&["user", "add", &name, "--public-key", &format!("{}.pub", key.display())]);
        assert!(gateway.login(&name, &key).logs_in(), "{bits}");
    }
}

#[test]
fn a_key_whose_time_is_over_is_said_to_be() {
    let gateway = gateway();
    let key = gateway.ssh_key("over", "ed25519");
    let line = std::fs::read_to_string(format!("{}.pub", key.display())).unwrap();
    let file = gateway.file("over.line", format!("expiry-time=\"20200101\" {line}").as_bytes());
    let told = gateway.ok(&["user", "add", "over", "--public-key", file.to_str().unwrap(), "-o", "table"]);
    assert!(
        told.contains("expiry-time= is over since 2020-01-01") && told.contains("UTC"),
        "{told}"
    );
    assert!(!gateway.login("over", &key).logs_in());
    let file = gateway.file("later.line", format!("expiry-time=\"20990101\" {line}").as_bytes());
    let told = gateway.ok(&["user", "add", "later", "--public-key", file.to_str().unwrap(), "-o", "table"]);
    assert!(!told.contains("expiry-time"), "{told}");
}

#[test]
fn generated_keys_log_in_as_they_were_written() {
    let gateway = gateway();
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let (name, file) = (format!("made-{kind}"), format!("made-{kind}.key"));
        let told = gateway.ok(&["user", "add", &name, "--generate-key", kind, "--out", &file, "-o", "table"]);
        let path = gateway.path(&file);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        assert!(gateway.login(&name, &path).logs_in(), "{kind}");
        let fingerprint = run(&mut tool("ssh-keygen", &["-lf", path.to_str().unwrap()])).ok();
        let fingerprint = fingerprint.split_whitespace().nth(1).unwrap();
        assert!(told.contains(fingerprint) && told.contains(&format!("{name}@")), "{told}");
    }
}

#[test]
fn a_private_key_that_cannot_be_written_changes_nothing() {
    let gateway = gateway();
    let user = gateway.user("keeps-key");
    let before = gateway.json(&["user", "key", "list", "keeps-key"]);
    for verb in ["rotate", "add"] {
        let args = ["user", "key", verb, "keeps-key", "--generate-key", "--out", "nowhere/x.key"];
        assert_eq!(gateway.cli(&args).code, 3, "{verb}");
        assert_eq!(gateway.json(&["user", "key", "list", "keeps-key"]), before, "{verb}");
    }
    assert!(user.logs_in());
    let added = gateway.cli(&["user", "add", "no-file", "--generate-key", "--out", "nowhere/x.key"]);
    assert_eq!(added.code, 3);
    assert_eq!(gateway.cli(&["user", "show", "no-file"]).code, 3);
    // Nor does a refused edit leave a file.
    let again = gateway.cli(&["user", "add", "KEEPS-KEY", "--generate-key", "--out", "left.key"]);
    assert_ne!(again.code, 0);
    gateway.ok(&["user", "key", "rotate", "keeps-key", "--out", "left.key", "-n"]);
    assert!(!gateway.path("left.key").exists());
}

#[test]
fn a_user_may_have_several_keys_and_lose_one() {
    let gateway = gateway();
    let first = gateway.user("several");
    let other = gateway.ssh_key("several", "ecdsa");
    assert!(!first.with_key(&other).logs_in());
    gateway.ok(&["user", "key", "add", "several", "--public-key", &format!("{}.pub", other.display())]);
    wait_for("the second key to work", || first.with_key(&other).logs_in().then_some(()));
    assert!(first.logs_in());
    let keys = gateway.json(&["user", "key", "list", "several"]);
    assert_eq!(keys.as_array().unwrap().len(), 2);
    let fingerprint = run(&mut tool("ssh-keygen", &["-lf", other.to_str().unwrap()])).ok();
    gateway.ok(&["user", "key", "rm", "several", fingerprint.split_whitespace().nth(1).unwrap(), "-y"]);
    wait_for("the second key to stop working", || {
        (!first.with_key(&other).logs_in()).then_some(())
    });
    assert!(first.logs_in());
}

#[test]
fn a_disabled_user_cannot_log_in_and_loses_its_open_session() {
    let gateway = gateway();
    let user = gateway.user("disabled");
    let mut session = user.start(&[], &["pwd"]);
    // The client sits at its prompt with the connection open.
    gateway.wait("the session", |gateway| {
        gateway.log().contains("sftp login user=\"disabled\"").then_some(())
    });
    assert!(user.logs_in());
    assert!(session.try_wait().unwrap().is_none());
    gateway.ok(&["user", "disable", "disabled"]);
    wait_for("the open session to end", || {
        // The client notices when it is asked for something.
        let _ = session.stdin.as_mut().unwrap().write_all(b"-pwd\n-ls\n");
        session.try_wait().unwrap()
    });
    assert!(!user.logs_in());
    gateway.ok(&["user", "enable", "disabled"]);
    wait_for("the login to work again", || user.logs_in().then_some(()));
}

#[test]
fn a_user_that_expires_loses_its_open_session() {
    // One of its own, whose clock goes on.
    let gateway = Gateway::new();
    let user = gateway.user("leaving");
    let end = run(&mut tool("date", &["-u", "-d", "+1 hour", "+%FT%TZ"])).ok();
    gateway.ok(&["user", "set", "leaving", "--expires", end.trim()]);
    let mut session = user.start(&[], &["pwd"]);
    gateway.wait("the session", |gateway| {
        gateway.log().contains("sftp login user=\"leaving\"").then_some(())
    });
    gateway.set_clock(3700);
    wait_for("the session of an expired user to end", || {
        let _ = session.stdin.as_mut().unwrap().write_all(b"-ls\n");
        session.try_wait().unwrap()
    });
    assert!(!user.logs_in());
}

#[test]
fn a_rotated_key_takes_over_at_once() {
    let gateway = gateway();
    let user = gateway.user("rotated");
    let mut session = user.start(&[], &["pwd"]);
    gateway.wait("the session", |gateway| {
        gateway.log().contains("sftp login user=\"rotated\"").then_some(())
    });
    assert!(user.logs_in());
    gateway.ok(&["user", "key", "rotate", "rotated", "--out", "rotated-2.key"]);
    let new = user.with_key(&gateway.path("rotated-2.key"));
    wait_for("the new key to work", || new.logs_in().then_some(()));
    assert!(!user.logs_in(), "the old key still works");
    wait_for("the old key's session to end", || {
        let _ = session.stdin.as_mut().unwrap().write_all(b"-ls\n");
        session.try_wait().unwrap()
    });
}

#[test]
fn strangers_and_wrong_keys_are_refused_alike() {
    let gateway = gateway();
    let user = gateway.user("right");
    let wrong = gateway.ssh_key("wrong", "ed25519");
    let refused = user.with_key(&wrong).run(&["pwd"]);
    let stranger = gateway.login("nobody", &wrong).run(&["pwd"]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("Permission denied (publickey)"), "{refused}");
    assert_eq!(refused.stderr.replace("right@", ""), stranger.stderr.replace("nobody@", ""));
    assert!(!gateway.login("RIGHT-NOT", &wrong).logs_in());
}

#[test]
fn passwords_are_not_offered() {
    let gateway = gateway();
    let user = gateway.user("no-password");
    let ran = user.ssh(
        &[
            "-s",
            "-o",
            "PubkeyAuthentication=no",
            "-o",
            "PreferredAuthentications=password,keyboard-interactive",
        ],
        &["sftp"],
    );
    assert!(
        ran.stderr.contains("Permission denied (publickey)"),
        "only publickey is on offer: {ran}"
    );
}

/// SFTPGo CVE-2026-30915: no name is a path; Wing FTP CVE-2025-47812: nor has it control characters.
#[test]
fn user_names_follow_the_vendors_rule() {
    let gateway = gateway();
    let key = gateway.ssh_key("names", "ed25519");
    let public = format!("{}.pub", key.display());
    let long = "x".repeat(65);
    for name in [
        "a.b",
        "a b",
        "\u{e4}",
        "a/b",
        "..",
        "../a",
        "a\nb",
        "a\x1b",
        "",
        "a@b",
        long.as_str(),
        "-a",
    ] {
        let ran = gateway.cli(&["user", "add", "--public-key", &public, "--", name]);
        assert!(ran.code == 4 || ran.code == 2, "{name:?}: {ran}");
        assert!(ran.stderr.contains("must not begin with -"), "the message states the rule: {ran}");
    }
    gateway.ok(&["user", "add", "A-b_9", "--public-key", &public]);
    assert!(gateway.login("A-b_9", &key).logs_in());
    assert_ne!(
        gateway.cli(&["user", "add", "a-B_9", "--public-key", &public]).code,
        0,
        "unique ignoring case"
    );
}

#[test]
fn nobody_owns_what_the_command_line_sends() {
    let pair = Pair::one_gateway();
    let (alice, key) = (pair.alice(), pair.alice().ssh_key("sender", "ed25519"));
    let file = alice.file("order.edi", b"an order");
    let send = ["send", "--from", "ALICE", "--to", "BOB", file.to_str().unwrap()];
    alice.ok(&send);
    let id = alice.messages_of("out", "order.edi")[0]["id"].as_str().unwrap().to_owned();
    let sent = alice.show(&id);
    let owner = sent["user"].as_str().unwrap();
    // Neither the name of today nor that of earlier journals.
    for name in [owner, "as2gate", "AS2gate"] {
        let told = alice.cli(&["user", "add", name, "--public-key", &format!("{}.pub", key.display())]);
        assert_ne!(told.code, 0, "{name}: {told}");
    }
}

#[test]
fn a_user_needs_exactly_one_source_of_keys() {
    let gateway = gateway();
    let key = gateway.ssh_key("one-source", "ed25519");
    let public = format!("{}.pub", key.display());
    let _ = gateway.cli(&["user", "add", "one-source"]).fails(2);
    let _ = gateway
        .cli(&["user", "add", "one-source", "--public-key", &public, "--generate-key", "ed25519"])
        .fails(2);
}

#[test]
fn a_private_key_is_recognised_refused_and_kept_nowhere() {
    let gateway = Gateway::new();
    for (kind, format) in [("ed25519", "RFC4716"), ("rsa", "PEM")] {
        let path = gateway.path(&format!("private-{kind}"));
        let args = ["-q", "-t", kind, "-m", format, "-N", "", "-f", path.to_str().unwrap()];
        let _ = run(&mut tool("ssh-keygen", &args)).ok();
        let words = gateway
            .cli(&["user", "add", "leaky", "--public-key", path.to_str().unwrap()])
            .fails(4);
        assert!(words.contains("private key") && words.contains("public half"), "{words}");
        let secret = std::fs::read_to_string(&path).unwrap();
        let line = secret.lines().nth(3).unwrap();
        assert!(!words.contains(line));
        let data = gateway.path("data");
        for file in files_below(&data) {
            let bytes = std::fs::read(data.join(&file)).unwrap();
            assert!(
                bytes.windows(line.len()).all(|window| window != line.as_bytes()),
                "{file} holds the private key"
            );
        }
        assert!(!gateway.log().contains(line));
    }
    let _ = gateway.cli(&["user", "show", "leaky"]).fails(3);
}

#[test]
fn weak_keys_are_refused_with_the_reason() {
    let gateway = gateway();
    let path = gateway.path("weak");
    let _ = run(&mut tool(
        "ssh-keygen",
        &["-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", path.to_str().unwrap()],
    ))
    .ok();
    let words = gateway
        .cli(&["user", "add", "weak", "--public-key", &format!("{}.pub", path.display())])
        .fails(4);
    assert!(words.contains("1024 bits is too short"), "{words}");
}

/// SFTPGo's git and rsync commands.
#[test]
fn there_is_no_shell_and_no_command() {
    let gateway = gateway();
    let user = gateway.user("no-shell");
    for (before, after) in [
        (vec![], vec!["id"]),
        (vec!["-tt"], vec![]),
        (vec!["-T"], vec!["cat", "/etc/passwd"]),
        (vec![], vec!["git-upload-pack", "x.git"]),
        (vec![], vec!["rsync", "--server", ".", "AS2/send"]),
        (vec!["-s"], vec!["shell"]),
    ] {
        let ran = user.ssh(&before, &after);
        assert_ne!(ran.code, 0, "{ran}");
        assert!(!ran.stdout.contains("uid=") && !ran.stdout.contains("root:"), "{ran}");
    }
    let ran = user.ssh(&[], &["id"]);
    assert!(
        (ran.stdout.clone() + &ran.stderr).contains("This service allows sftp connections only."),
        "{ran}"
    );
}

#[test]
fn nothing_is_forwarded() {
    let gateway = gateway();
    let user = gateway.user("no-forward");
    let remote = user.ssh(&["-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:9"], &[]);
    assert_ne!(remote.code, 0, "{remote}");

    // `-W` asks for the same channel as `-L`: to the AS2 port, which would answer a GET.
    let target = format!("127.0.0.1:{}", gateway.as2_port);
    let ran = user.ssh(&["-W", &target], &[]);
    assert_ne!(ran.code, 0, "{ran}");
    let port = free_port();
    let forward = format!("{port}:{target}");
    let mut command = tool(
        "ssh",
        &["-N", "-p", &gateway.sftp_port.to_string(), "-F", "/dev/null", "-L", &forward],
    );
    command.args([
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-i",
    ]);
    command.arg(gateway.path("no-forward-ed25519.key")).arg("no-forward@127.0.0.1");
    let mut client = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut through = wait_for("the client to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
    through.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = through.write_all(b"GET /as2 HTTP/1.0\r\nHost: x\r\n\r\n");
    let mut answer = String::new();
    let _ = through.read_to_string(&mut answer);
    client.kill().unwrap();
    client.wait().unwrap();
    assert_eq!(answer, "", "the connection was forwarded");
}

#[test]
fn scp_in_sftp_mode_works() {
    let gateway = gateway();
    gateway.ok(&["station", "add", "SCP-A"]);
    gateway.ok(&["station", "add", "SCP-B"]);
    gateway.ok(&["partner", "add", "--from-station", "SCP-B"]);
    let user = gateway.user("scp-user");
    wait_for("the pair's directory", || {
        user.logs_in()
            .then(|| user.ls("AS2/send"))
            .filter(|names| names.contains(&"SCP-A".to_owned()))
    });
    let scp = |more: &[&str], local: &str, remote: &str| {
        let mut command = tool("scp", &["-s", "-q", "-F", "/dev/null", "-o", "StrictHostKeyChecking=no"]);
        command.args(["-o", "UserKnownHostsFile=/dev/null", "-P", &gateway.sftp_port.to_string(), "-i"]);
        command.arg(gateway.path("scp-user-ed25519.key")).args(more);
        run(command.arg(local).arg(format!("scp-user@127.0.0.1:AS2/send/SCP-A/SCP-B/{remote}")))
    };
    let local = gateway.file("by-scp.edi", b"ISA*");
    let _ = scp(&[], local.to_str().unwrap(), "by-scp.edi").ok();
    // A directory's files; its mode is set at the end, and that is no cause to complain.
    let inside = gateway.file("folder/by-scp-2.edi", b"ISA*");
    let folder = format!("{}/.", inside.parent().unwrap().display());
    let ran = scp(&["-r"], &folder, "");
    assert!(ran.code == 0 && !ran.stderr.contains("denied"), "{ran}");
    for name in ["by-scp.edi", "by-scp-2.edi"] {
        gateway.wait("the message", |gateway| gateway.messages_of("out", name).first().map(|_| ()));
    }
}

#[test]
fn a_passphrase_protects_a_generated_key() {
    let gateway = gateway();
    let secret = gateway.file("passphrase.txt", b"correct horse\n");
    let option = format!("file:{}", secret.display());
    gateway.ok(&[
        "user",
        "add",
        "protected",
        "--generate-key",
        "ed25519",
        "--out",
        "protected.key",
        "--passphrase",
        &option,
    ]);
    let path = gateway.path("protected.key");
    let wrong = run(&mut tool("ssh-keygen", &["-y", "-P", "wrong", "-f", path.to_str().unwrap()]));
    assert_ne!(wrong.code, 0);
    let right = run(&mut tool(
        "ssh-keygen",
        &["-y", "-P", "correct horse", "-f", path.to_str().unwrap()],
    ))
    .ok();
    assert!(right.starts_with("ssh-ed25519 "), "{right}");
}

#[test]
fn logins_may_be_bound_to_addresses() {
    let gateway = gateway();
    let user = gateway.user("bound");
    assert!(user.logs_in());
    gateway.ok(&["user", "set", "bound", "--allowed-ips", "192.0.2.0/24"]);
    wait_for("the address rule to work", || (!user.logs_in()).then_some(()));
    gateway.ok(&["user", "set", "bound", "--allowed-ips", "192.0.2.0/24,127.0.0.0/8"]);
    wait_for("the address rule to let it in", || user.logs_in().then_some(()));
}

#[test]
fn public_keys_are_taken_in_the_forms_that_people_have() {
    let gateway = gateway();
    let key = gateway.ssh_key("forms", "ed25519");
    let block = run(&mut tool(
        "ssh-keygen",
        &["-e", "-m", "RFC4716", "-f", &format!("{}.pub", key.display())],
    ))
    .ok();
    let file = gateway.file("forms.rfc4716", block.as_bytes());
    gateway.ok(&["user", "add", "forms-rfc", "--public-key", file.to_str().unwrap()]);
    assert!(gateway.login("forms-rfc", &key).logs_in());
    let piped = std::fs::read_to_string(format!("{}.pub", key.display())).unwrap();
    let ran = run_with(&mut gateway.command(&["user", "add", "forms-piped", "--public-key", "-"]), &piped);
    assert_eq!(ran.code, 0, "{ran}");
    assert!(gateway.login("forms-piped", &key).logs_in());
}
