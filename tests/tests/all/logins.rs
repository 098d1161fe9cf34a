//! The ways to log in besides a plain key, each with clients that others wrote: passwords, both in turn, codes, OpenSSH
//! certificates, security keys; what strangers learn; and the rotation of host keys.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tests::packets::{Packets, string};
use tests::peer::{python, script};
use tests::process::{Ran, run, run_with, stays, tool};
use tests::{Gateway, Sftp, wait_for};

const PASSWORD: &str = "correct horse battery staple";
const SK_DUMMY: &str = "/usr/lib/openssh/regress/misc/sk-dummy/sk-dummy.so";

fn is_installed(program: &str) -> bool {
    let found = run(&mut tool("sh", &["-c", &format!("command -v {program}")])).code == 0;
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

fn gateway() -> Gateway {
    let gateway = Gateway::with(&[]);
    gateway.file("password", PASSWORD.as_bytes());
    gateway
}

/// A user with a password, who logs in in these ways; the path of the user's key if they have one.
fn user(gateway: &Gateway, name: &str, login: &str) -> Option<PathBuf> {
    let file = format!("{name}.key");
    let mut args = vec!["user", "add", name, "--login", login];
    let keyed = login.contains("publickey");
    if keyed {
        args.extend(["--generate-key", "--out", &file]);
    }
    gateway.ok(&args);
    gateway.ok(&["user", "password", name, "--password", "file:password"]);
    keyed.then(|| gateway.path(&file))
}

/// Steps on one connection by paramiko; what came of each.
fn steps(gateway: &Gateway, user: &str, steps: &[&str]) -> Vec<String> {
    let mut command = tool(python().to_str().unwrap(), &[]);
    command
        .arg(script("logins.py"))
        .args([&gateway.sftp_port.to_string(), "steps", user])
        .args(steps);
    run(&mut command).ok().lines().map(str::to_owned).collect()
}

/// OpenSSH with these options; whether and how it logs in.
fn openssh(gateway: &Gateway, user: &str, options: &[&str], variables: &[(&str, &str)]) -> Ran {
    openssh_by(tool("sftp", &[]), gateway, user, options, variables)
}

fn openssh_by(mut command: std::process::Command, gateway: &Gateway, user: &str, options: &[&str], variables: &[(&str, &str)]) -> Ran {
    command.args(["-F", "/dev/null", "-P", &gateway.sftp_port.to_string()]);
    for option in [
        options,
        &[
            "BatchMode=no",
            "StrictHostKeyChecking=no",
            "IdentityAgent=none",
            "IdentitiesOnly=yes",
        ],
    ]
    .concat()
    {
        command.args(["-o", option]);
    }
    if !options.iter().any(|option| option.starts_with("UserKnownHostsFile")) {
        command.args(["-o", "UserKnownHostsFile=/dev/null"]);
    }
    command.args(["-b", "-"]).arg(format!("{user}@127.0.0.1"));
    command.envs(variables.iter().copied());
    run_with(&mut command, "pwd\n")
}

fn identity(key: &Path) -> String {
    format!("IdentityFile={}", key.display())
}

/// The newest event of this kind of a user.
fn last_event(gateway: &Gateway, user: &str, kind: &str) -> serde_json::Value {
    wait_for(&format!("{kind} of {user}"), || {
        let log = gateway.json(&["user", "log", user]);
        let mine = log.as_array().unwrap().iter().rev().find(|event| event["kind"] == kind).cloned();
        mine.map(|event| event["facts"].clone())
    })
}

#[test]
fn passwords_log_in_who_is_set_to_them_and_nobody_else() {
    let gateway = gateway();
    let key = user(&gateway, "keyed", "publickey").unwrap();
    user(&gateway, "old", "password");
    assert_eq!(steps(&gateway, "old", &[&format!("password:{PASSWORD}")]), ["in"]);
    assert_eq!(last_event(&gateway, "old", "user.login")["by"], "password");
    // A password that is set, but not a way of this user.
    assert_eq!(steps(&gateway, "keyed", &[&format!("password:{PASSWORD}")]), ["refused"]);
    assert_eq!(steps(&gateway, "keyed", &[&format!("key:{}", key.display())]), ["in"]);
    assert_eq!(
        steps(&gateway, "old", &["password:correct horse battery stable", "password:"]),
        ["refused", "refused"]
    );
    let tried = last_event(&gateway, "old", "user.login_failed")["tried"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(tried, "password: wrong; password: wrong");
    // Everybody is offered the same, also who is not there.
    for name in ["old", "keyed", "nobody"] {
        assert_eq!(steps(&gateway, name, &["none"]), ["refused publickey,password"], "{name}");
    }
    let stored = gateway.json(&["user", "show", "old"]);
    assert_eq!(stored["password"], "…");
    assert!(!gateway.ok(&["export"]).contains("argon2"));
    assert!(
        gateway
            .ok(&["export", "--with-secrets"])
            .contains("$argon2id$v=19$m=19456,t=2,p=1$")
    );
    assert!(!gateway.log().contains(PASSWORD));
    let short = gateway.cli_with(&["user", "password", "old", "--password", "-"], "too short\n");
    assert_eq!(short.code, 4, "{short}");
    gateway.ok(&["user", "password", "old", "--remove"]);
    assert_eq!(steps(&gateway, "old", &[&format!("password:{PASSWORD}")]), ["refused"]);
    assert_eq!(steps(&gateway, "nobody", &[&format!("password:{PASSWORD}")]), ["refused"]);
    for why in ["password: the user has no password", "password: no such user"] {
        gateway.wait(why, |gateway| gateway.log().contains(why).then_some(()));
    }
}

#[test]
fn openssh_sends_a_password_that_was_made_here() {
    if !is_installed("sshpass") {
        return;
    }
    let gateway = gateway();
    user(&gateway, "old", "password");
    let made = gateway.json(&["user", "password", "old", "--generate"]);
    let password = made["generated_password"].as_str().unwrap();
    assert_eq!(password.len(), 24);
    let only = ["PreferredAuthentications=password", "NumberOfPasswordPrompts=1"];
    let by = |password: &str| openssh_by(tool("sshpass", &["-p", password, "sftp"]), &gateway, "old", &only, &[]);
    let ran = by(password);
    assert_eq!(ran.code, 0, "{ran}");
    assert_ne!(by(PASSWORD).code, 0, "the old password still works");
}

#[test]
fn a_changed_password_ends_the_sessions_of_the_old_one() {
    if !is_installed("sshpass") {
        return;
    }
    let gateway = gateway();
    user(&gateway, "old", "password");
    let mut command = tool(
        "sshpass",
        &["-p", PASSWORD, "sftp", "-F", "/dev/null", "-P", &gateway.sftp_port.to_string()],
    );
    command.args([
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "old@127.0.0.1",
    ]);
    let mut client = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let sessions = || gateway.json(&["session", "list"]).as_array().unwrap().len();
    wait_for("the session", || (sessions() == 1).then_some(()));
    gateway.ok(&["user", "password", "old", "--generate"]);
    wait_for("the session to end", || (sessions() == 0).then_some(()));
    let _ = client.kill();
    let _ = client.wait();
}

#[test]
fn a_key_and_a_password_are_asked_for_in_turn() {
    let gateway = gateway();
    let key = user(&gateway, "both", "publickey,password").unwrap();
    let (key, password) = (format!("key:{}", key.display()), format!("password:{PASSWORD}"));
    assert_eq!(steps(&gateway, "both", &[&key, &password]), ["next password", "in"]);
    let by = last_event(&gateway, "both", "user.login")["by"].as_str().unwrap().to_owned();
    assert!(by.starts_with("publickey SHA256:") && by.ends_with(", then password"), "{by}");
    // The order is ours; a key twice is no password; a wrong second step leaves the first.
    assert_eq!(steps(&gateway, "both", &[&password, &key]), ["refused publickey", "next password"]);
    assert_eq!(
        steps(&gateway, "both", &[&key, &key, "password:wrong", &password]),
        ["next password", "refused password", "refused", "in"]
    );
    if is_installed("sshpass") {
        let ran = openssh_by(
            tool("sshpass", &["-p", PASSWORD, "sftp"]),
            &gateway,
            "both",
            &[&identity(&gateway.path("both.key"))],
            &[],
        );
        assert_eq!(ran.code, 0, "{ran}");
    }
}

/// russh before 0.61.0, CVE-2026-46705.
#[test]
fn what_one_user_has_proven_counts_for_no_other() {
    let gateway = gateway();
    let key = user(&gateway, "alice", "publickey,password").unwrap();
    let _ = user(&gateway, "carol", "publickey,password");
    // Somebody begins with a password, so that one is taken at all and judged.
    let _ = user(&gateway, "dave", "password");
    let (key, password) = (format!("key:{}", key.display()), format!("password:{PASSWORD}"));
    // Carol's password after Alice's key, and Alice's own after a look elsewhere.
    assert_eq!(
        steps(&gateway, "alice", &[&key, "user:carol", &password]),
        ["next password", "refused"]
    );
    assert_eq!(
        steps(
            &gateway,
            "alice",
            &[&key, "user:carol", "none", "user:alice", &password, &key, &password]
        ),
        ["next password", "refused publickey,password", "refused", "next password", "in"]
    );
}

#[test]
fn a_login_of_ones_own_hides_no_guesses_at_others() {
    let gateway = gateway();
    let key = user(&gateway, "mallory", "publickey").unwrap();
    user(&gateway, "victim", "password");
    let key = format!("key:{}", key.display());
    let guesses = ["password:first", "password:second", "user:mallory", &key];
    assert_eq!(steps(&gateway, "victim", &guesses), ["refused", "refused", "in"]);
    let tried = last_event(&gateway, "victim", "user.login_failed")["tried"].to_string();
    assert_eq!(tried.matches("password").count(), 2, "{tried}");
    let log = gateway.json(&["user", "log", "mallory"]).to_string();
    assert!(!log.contains("user.login_failed"), "{log}");
}

/// What oathtool makes of a secret, `ahead` seconds from now.
fn code(secret: &str, ahead: i64) -> String {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let at = format!("@{}", now + ahead);
    run(&mut tool("oathtool", &["--totp", "-b", secret, "-N", &at]))
        .ok()
        .trim()
        .to_owned()
}

#[test]
fn codes_of_an_authenticator_app_are_the_second_step() {
    if !is_installed("oathtool") {
        return;
    }
    let gateway = gateway();
    let key = user(&gateway, "ops", "publickey,totp password,totp").unwrap();
    let dry = gateway.ok(&["user", "totp", "ops", "-n"]);
    assert!(dry.contains("would have a new secret") && !dry.contains("otpauth"), "{dry}");
    let made = gateway.json(&["user", "totp", "ops"]);
    let secret = made["totp_secret"].as_str().unwrap().to_owned();
    assert_eq!(secret.len(), 32);
    assert!(made["totp_uri"].as_str().unwrap().starts_with("otpauth://totp/as2gate:ops?secret="));
    assert!(!gateway.ok(&["export", "--with-secrets"]).contains(&secret));
    let keyed = format!("key:{}", key.display());
    let first = format!("code:{}", code(&secret, 0));
    assert_eq!(steps(&gateway, "ops", &[&keyed, &first]), ["next keyboard-interactive", "in"]);
    assert!(
        last_event(&gateway, "ops", "user.login")["by"]
            .as_str()
            .unwrap()
            .ends_with(", then totp")
    );
    // Once used, never again, also after a restart.
    assert_eq!(gateway.term(), 0);
    gateway.start();
    assert_eq!(steps(&gateway, "ops", &[&keyed, &first])[1], "refused");
    let tried = last_event(&gateway, "ops", "user.login_failed")["tried"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(tried.contains("used already"), "{tried}");
    assert_eq!(
        steps(&gateway, "ops", &[&keyed, &format!("code:{}", code(&secret, 90))])[1],
        "refused"
    );
    // One step ahead is right, and newer than the one that was used; here after the password.
    let next = format!("code:{}", code(&secret, 30));
    assert_eq!(
        steps(&gateway, "ops", &[&format!("password:{PASSWORD}"), "code:000", &next]),
        ["next keyboard-interactive", "refused", "in"]
    );
    // A code is no first step, whoever asks.
    assert_eq!(steps(&gateway, "ops", &[&next]), ["refused publickey,password"]);
    // A password that is changed before the code comes was not proven.
    user(&gateway, "night", "password,totp");
    gateway.file("other", b"another password for the night\n");
    let change = format!(
        "run:{:?}",
        gateway.command(&["user", "password", "night", "--password", "file:other"])
    );
    let secret = gateway.json(&["user", "totp", "night"])["totp_secret"].as_str().unwrap().to_owned();
    let right = format!("code:{}", code(&secret, 0));
    let answers = steps(&gateway, "night", &[&format!("password:{PASSWORD}"), &change, &right]);
    assert_eq!(answers[0], "next keyboard-interactive");
    assert!(answers[1].starts_with("refused"), "{answers:?}");
    // A new secret ends what the old one opened.
    user(&gateway, "late", "password,totp");
    let secret = gateway.json(&["user", "totp", "late"])["totp_secret"].as_str().unwrap().to_owned();
    let (password, right) = (format!("password:{PASSWORD}"), format!("code:{}", code(&secret, 0)));
    let renew = format!("run:{:?}", gateway.command(&["user", "totp", "late"]));
    let answers = steps(&gateway, "late", &[&password, &right, &renew, "end"]);
    assert_eq!(answers, ["next keyboard-interactive", "in", "ended"]);
}

#[test]
fn codes_cannot_be_guessed_and_strangers_shut_nobody_out() {
    if !is_installed("oathtool") {
        return;
    }
    let gateway = gateway();
    let key = user(&gateway, "ops", "publickey,totp password,totp").unwrap();
    let secret = gateway.json(&["user", "totp", "ops"])["totp_secret"].as_str().unwrap().to_owned();
    let (keyed, password) = (format!("key:{}", key.display()), format!("password:{PASSWORD}"));
    let right = |ahead| format!("code:{}", code(&secret, ahead));
    // Codes without the first step are never looked at.
    for _ in 0..4 {
        assert_eq!(
            steps(&gateway, "ops", &["password:a wrong one", "code:000000"])[0],
            "refused",
            "a stranger"
        );
    }
    assert_eq!(steps(&gateway, "ops", &[&keyed, &right(0)])[1], "in");
    // Somebody who has the password: three codes, then not even the right one counts, on whatever connection.
    let wrong = ["code:000000", "code:000001", "code:000002"];
    let tried = steps(&gateway, "ops", &[&[password.as_str()], &wrong[..]].concat());
    assert_eq!(tried, ["next keyboard-interactive", "refused", "refused", "refused"]);
    assert_eq!(steps(&gateway, "ops", &[&password, &right(30)])[1], "refused");
    wait_for("the reason in the user's log", || {
        let log = gateway.ok(&["user", "log", "ops", "-o", "json"]);
        log.contains("too many wrong codes; not looked at for").then_some(())
    });
    gateway.set_clock(60);
    assert_eq!(steps(&gateway, "ops", &[&keyed, &right(60)])[1], "in", "after the wait");
}

#[test]
fn openssh_asks_its_user_for_the_code() {
    if !is_installed("oathtool") {
        return;
    }
    let gateway = gateway();
    let key = user(&gateway, "ops", "publickey,totp").unwrap();
    let secret = gateway.json(&["user", "totp", "ops"])["totp_secret"].as_str().unwrap().to_owned();
    let ask = gateway.file(
        "ask",
        format!("#!/bin/sh\necho \"$1\" >> asked\noathtool --totp -b {secret}\n").as_bytes(),
    );
    fs::set_permissions(&ask, fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = tool("sftp", &[]);
    command.current_dir(gateway.path("."));
    let variables = [
        ("SSH_ASKPASS", ask.to_str().unwrap()),
        ("SSH_ASKPASS_REQUIRE", "force"),
        ("DISPLAY", ":0"),
    ];
    let ran = openssh_by(command, &gateway, "ops", &[&identity(&key)], &variables);
    assert_eq!(ran.code, 0, "{ran}");
    let asked = fs::read_to_string(gateway.path("asked")).unwrap();
    assert!(asked.contains("Verification code: "), "{asked}");
}

/// A certificate by `ssh-keygen -s`, beside the key as OpenSSH looks for it.
fn certify(gateway: &Gateway, authority: &Path, key: &Path, args: &[&str]) {
    let public = format!("{}.pub", key.display());
    let mut command = tool("ssh-keygen", &["-q", "-s", authority.to_str().unwrap()]);
    command.args(args).arg(public).current_dir(gateway.path("."));
    let _ = run(&mut command).ok();
}

#[test]
fn a_session_outlasts_the_certificate_that_it_began_with() {
    // A certificate of some minutes is made for one login; what is changed meanwhile must not cut the transfer behind it.
    let gateway = gateway();
    let _ = user(&gateway, "alice", "publickey");
    let (authority, key) = (gateway.ssh_key("authority", "ed25519"), gateway.ssh_key("holder", "ed25519"));
    let public = fs::read_to_string(format!("{}.pub", authority.display())).unwrap();
    gateway.file("authority.line", format!("cert-authority {public}").as_bytes());
    gateway.ok(&["user", "key", "add", "alice", "--public-key", "authority.line"]);
    certify(&gateway, &authority, &key, &["-I", "holder", "-n", "alice", "-V", "-1m:+1h"]);
    let client = Sftp::new(gateway.sftp_port, "alice", &key);
    let mut session = Packets::of(&client);
    gateway.set_clock(3700);
    assert!(!client.logs_in(), "the certificate has ended");
    gateway.ok(&["user", "set", "alice", "--max-sessions", "7"]);
    stays(Duration::from_secs(7), "the session goes on", || {
        session.ask(17, &[&string(b"AS2")]).kind == 105
    });
    gateway.ok(&["user", "disable", "alice"]);
    wait_for("the session to end", || {
        let rows = gateway.json(&["session", "list"]);
        rows.as_array().unwrap().is_empty().then_some(())
    });
}

#[test]
fn certificates_of_a_trusted_authority_log_in_under_their_conditions() {
    let gateway = gateway();
    let _ = user(&gateway, "alice", "publickey");
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let (authority, key) = (gateway.ssh_key("authority", kind), gateway.ssh_key("holder", kind));
        let public = fs::read_to_string(format!("{}.pub", authority.display())).unwrap();
        gateway.file("authority.line", format!("cert-authority {public}").as_bytes());
        let goes = |args: &[&str]| {
            certify(&gateway, &authority, &key, args);
            openssh(&gateway, "alice", &[&identity(&key)], &[]).code == 0
        };
        let good = ["-I", "holder", "-n", "alice", "-z", "7", "-V", "-1m:+5m"];
        assert!(!goes(&good), "{kind}: an authority that nobody trusts");
        gateway.ok(&["user", "key", "add", "alice", "--public-key", "authority.line"]);
        assert!(goes(&good), "{kind}");
        let by = last_event(&gateway, "alice", "user.login")["by"].as_str().unwrap().to_owned();
        assert!(by.starts_with("certificate holder serial 7 of SHA256:"), "{by}");
        if kind != "ed25519" {
            continue; // the conditions are the same for all
        }
        // The authority's own key logs nobody in, and the plain key of the holder neither.
        assert_ne!(openssh(&gateway, "alice", &[&identity(&authority)], &[]).code, 0);
        for (what, args) in [
            ("another user's", &["-I", "x", "-n", "bob"][..]),
            ("nobody's", &["-I", "x"]),
            ("expired", &["-I", "x", "-n", "alice", "-V", "-2h:-1h"]),
            ("not yet valid", &["-I", "x", "-n", "alice", "-V", "+1h:+2h"]),
            ("a host's", &["-I", "x", "-h", "-n", "alice"]),
            ("from elsewhere", &["-I", "x", "-n", "alice", "-O", "source-address=192.0.2.0/24"]),
            ("for a command", &["-I", "x", "-n", "alice", "-O", "force-command=true"]),
            (
                "with an unknown condition",
                &["-I", "x", "-n", "alice", "-O", "critical:moon@example.com=full"],
            ),
        ] {
            assert!(!goes(args), "{what}");
        }
        assert!(goes(&[
            "-I",
            "x",
            "-n",
            "bob,alice",
            "-O",
            "source-address=127.0.0.0/8",
            "-O",
            "clear"
        ]));
    }
}

#[test]
fn authorities_of_the_server_count_for_all_and_the_list_of_the_revoked_too() {
    let gateway = gateway();
    let (authority, key) = (gateway.ssh_key("authority", "ed25519"), gateway.ssh_key("holder", "ed25519"));
    let authority_file = format!("[\"file:{}.pub\"]", authority.display());
    gateway.file("revoked", b"# nothing yet\n");
    assert_eq!(gateway.term(), 0);
    gateway.configure(&[("sftp.user_ca", &authority_file), ("sftp.revoked_keys", "\"revoked\"")]);
    gateway.start();
    for name in ["alice", "bob"] {
        let _ = user(&gateway, name, "publickey");
    }
    let goes = |name: &str| openssh(&gateway, name, &[&identity(&key)], &[]).code == 0;
    certify(&gateway, &authority, &key, &["-I", "holder", "-n", "alice,bob", "-z", "12"]);
    assert!(goes("alice") && goes("bob") && !goes("nobody"));
    let own = gateway.path("alice.key");
    for line in [
        "serial: 10-20\n",
        "id: holder\n",
        &fs::read_to_string(format!("{}.pub", authority.display())).unwrap(),
    ] {
        gateway.file("revoked", line.as_bytes());
        assert!(!goes("alice"), "{line}");
        assert_eq!(openssh(&gateway, "alice", &[&identity(&own)], &[]).code, 0, "{line}");
    }
    // The user's own key by its fingerprint; then nothing that can be read: nobody.
    let shown = gateway.json(&["user", "show", "alice"]);
    gateway.file("revoked", format!("{}\n", shown["fingerprints"][0].as_str().unwrap()).as_bytes());
    assert!(goes("alice"));
    assert_ne!(openssh(&gateway, "alice", &[&identity(&own)], &[]).code, 0);
    fs::remove_file(gateway.path("revoked")).unwrap();
    assert!(!goes("alice"));
    // principals= of the line instead of the user's name.
    let public = fs::read_to_string(format!("{}.pub", authority.display())).unwrap();
    gateway.file("line", format!("cert-authority,principals=\"ops\" {public}").as_bytes());
    gateway.file("revoked", b"# none\n");
    gateway.ok(&["user", "key", "add", "bob", "--public-key", "line"]);
    certify(&gateway, &authority, &key, &["-I", "holder", "-n", "ops"]);
    assert!(goes("bob") && !goes("alice"));
}

/// A list by `ssh-keygen -k` of these specifications or keys, put in the place of the old one.
fn revoke(gateway: &Gateway, more: &[&str], what: &str) {
    let spec = gateway.file("spec", what.as_bytes());
    let mut command = tool("ssh-keygen", &["-q", "-k", "-f", "revoked.new"]);
    command.args(more).arg(&spec).current_dir(gateway.path("."));
    let _ = run(&mut command).ok();
    fs::rename(gateway.path("revoked.new"), gateway.path("revoked")).unwrap();
}

#[test]
fn lists_by_ssh_keygen_revoke_what_it_says_itself() {
    let gateway = gateway();
    let [authority, other, key] = ["authority", "other", "holder"].map(|name| gateway.ssh_key(name, "ed25519"));
    let public = |key: &Path| fs::read_to_string(format!("{}.pub", key.display())).unwrap();
    gateway.file("authorities", format!("{}{}", public(&authority), public(&other)).as_bytes());
    gateway.file("revoked", b"# nothing yet\n");
    assert_eq!(gateway.term(), 0);
    gateway.configure(&[("sftp.user_ca", "[\"file:authorities\"]"), ("sftp.revoked_keys", "\"revoked\"")]);
    gateway.start();
    let own = user(&gateway, "alice", "publickey").unwrap();
    let certified = PathBuf::from(format!("{}-cert.pub", key.display()));
    let own_line = gateway.json(&["user", "show", "alice"])["keys"][0].as_str().unwrap().to_owned();
    let own_public = gateway.file("own.pub", format!("{own_line}\n").as_bytes());
    let fingerprint = |kind: &str, file: &Path| {
        let told = run(&mut tool("ssh-keygen", &["-l", "-E", kind, "-f", file.to_str().unwrap()])).ok();
        told.split(' ').nth(1).unwrap().to_owned()
    };
    let of_authority = ["-s", &format!("{}.pub", authority.display())];
    let of_other = ["-s", &format!("{}.pub", other.display())];
    let scattered: String = (1..200).step_by(2).map(|n| format!("serial: {n}\n")).collect();
    let cases: &[(&str, &[&str], String, [bool; 3])] = &[
        // Of the certificate with serial 12, of that with 13, of the plain key: revoked?
        ("nothing", &[], String::new(), [false, false, false]),
        ("a serial number", &of_authority, "serial: 12\n".into(), [true, false, false]),
        ("a range", &of_authority, "serial: 13-1000000\n".into(), [false, true, false]),
        ("a bitmap", &of_authority, scattered, [false, true, false]),
        (
            "another authority's",
            &of_other,
            "serial: 1-100\nid: holder\n".into(),
            [false, false, false],
        ),
        ("an id", &of_authority, "id: holder\n".into(), [true, true, false]),
        ("any authority's", &["-s", "none"], "serial: 12\n".into(), [true, false, false]),
        ("a key", &[], format!("key: {own_line}\n"), [false, false, true]),
        ("the holder's key", &[], public(&key), [true, true, false]),
        ("the authority's key", &[], public(&authority), [true, true, false]),
        (
            "a digest",
            &[],
            format!("hash: {}\n", fingerprint("sha256", &own_public)),
            [false, false, true],
        ),
        ("an old digest", &[], format!("sha1: {}\n", public(&key)), [true, true, false]),
        (
            "the digest of a key",
            &[],
            format!("sha256: {}\n", public(&authority)),
            [true, true, false],
        ),
    ];
    for (what, more, spec, revoked) in cases {
        revoke(&gateway, more, spec);
        let asked = |file: &Path| {
            let list = gateway.path("revoked");
            run(&mut tool(
                "ssh-keygen",
                &["-Q", "-f", list.to_str().unwrap(), file.to_str().unwrap()],
            ))
            .code
                != 0
        };
        for (serial, revoked) in ["12", "13"].iter().zip(revoked) {
            certify(&gateway, &authority, &key, &["-I", "holder", "-n", "alice", "-z", serial]);
            assert_eq!(asked(&certified), *revoked, "{what}, {serial}: ssh-keygen");
            let goes = openssh(&gateway, "alice", &[&identity(&key)], &[]).code == 0;
            assert_eq!(goes, !revoked, "{what}, {serial}");
        }
        assert_eq!(asked(&own_public), revoked[2], "{what}, plain key: ssh-keygen");
        assert_eq!(
            openssh(&gateway, "alice", &[&identity(&own)], &[]).code != 0,
            revoked[2],
            "{what}, plain key"
        );
    }

    // A list that is cut off: one clear line, nobody gets in, and a session that is open goes on.
    revoke(&gateway, &[], &public(&other));
    assert!(gateway.ok(&["check"]).contains("sftp.revoked_keys"));
    let sftp = tests::sftp::Sftp::new(gateway.sftp_port, "alice", &own);
    let mut open = tests::packets::Packets::of(&sftp);
    let whole = fs::read(gateway.path("revoked")).unwrap();
    gateway.file("revoked", &whole[..whole.len() - 1]);
    assert_ne!(openssh(&gateway, "alice", &[&identity(&own)], &[]).code, 0);
    let told = gateway.cli(&["check"]);
    assert!(told.code != 0 && format!("{told}").contains("cut off"), "{told}");
    assert_eq!(gateway.log().matches("cannot read sftp.revoked_keys").count(), 1);
    assert_eq!(open.ask(16, &[&tests::packets::string(b".")]).kind, 104, "the open session");
    gateway.file("revoked", &whole);
    assert_eq!(openssh(&gateway, "alice", &[&identity(&own)], &[]).code, 0);
    revoke(&gateway, &[], &own_line);
    wait_for("the session's end", || {
        gateway.json(&["session", "list"]).as_array().unwrap().is_empty().then_some(())
    });
}

#[test]
fn security_keys_have_to_be_touched() {
    if !Path::new(SK_DUMMY).exists() {
        eprintln!("skipped: openssh-tests is not installed");
        return;
    }
    let gateway = gateway();
    let provider = format!("SecurityKeyProvider={SK_DUMMY}");
    for kind in ["ed25519-sk", "ecdsa-sk"] {
        let name = format!("u-{kind}");
        let make = |file: &str, options: &[&str]| {
            let path = gateway.path(file);
            let mut command = tool(
                "ssh-keygen",
                &["-q", "-t", kind, "-w", SK_DUMMY, "-N", "", "-f", path.to_str().unwrap()],
            );
            for option in options {
                command.args(["-O", option]);
            }
            let _ = run(&mut command).ok();
            path
        };
        let goes = |key: &Path| openssh(&gateway, &name, &[&identity(key), &provider], &[]);
        let touched = make(&format!("{kind}-touched"), &[]);
        gateway.ok(&["user", "add", &name, "--public-key", &format!("{kind}-touched.pub")]);
        let ran = goes(&touched);
        assert_eq!(ran.code, 0, "{kind}: {ran}");
        // Signs without a touch: refused, unless its line says that this is meant.
        let untouched = make(&format!("{kind}-untouched"), &["no-touch-required"]);
        let public = format!("{kind}-untouched.pub");
        gateway.ok(&["user", "key", "add", &name, "--public-key", &public]);
        assert_ne!(goes(&untouched).code, 0, "{kind}");
        let tried = last_event(&gateway, &name, "user.login_failed")["tried"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(tried.contains("not touched"), "{tried}");
        let line = fs::read_to_string(gateway.path(&public)).unwrap();
        gateway.file("line", format!("no-touch-required {line}").as_bytes());
        gateway.ok(&["user", "key", "rotate", &name, "--public-key", "line"]);
        assert_eq!(goes(&untouched).code, 0, "{kind}");
        gateway.file("line", format!("verify-required {line}").as_bytes());
        gateway.ok(&["user", "key", "rotate", &name, "--public-key", "line"]);
        assert_ne!(goes(&untouched).code, 0, "{kind}");
        // A certificate of a security key, with and without the touch.
        let authority = gateway.ssh_key(&format!("authority-{kind}"), "ed25519");
        let public = fs::read_to_string(format!("{}.pub", authority.display())).unwrap();
        gateway.file("line", format!("cert-authority {public}").as_bytes());
        gateway.ok(&["user", "key", "rotate", &name, "--public-key", "line"]);
        for (key, fits) in [(&touched, true), (&untouched, false)] {
            certify(&gateway, &authority, key, &["-I", "sk", "-n", &name]);
            assert_eq!(goes(key).code == 0, fits, "{kind} {}", key.display());
        }
        // Without it only if both say so, the certificate and the user's line.
        let permissive = ["-I", "sk", "-n", &name, "-O", "no-touch-required"];
        certify(&gateway, &authority, &untouched, &permissive);
        assert_ne!(goes(&untouched).code, 0, "{kind}");
        gateway.file("line", format!("cert-authority,no-touch-required {public}").as_bytes());
        gateway.ok(&["user", "key", "rotate", &name, "--public-key", "line"]);
        assert_eq!(goes(&untouched).code, 0, "{kind}");
        certify(&gateway, &authority, &untouched, &["-I", "sk", "-n", &name]);
        assert_ne!(goes(&untouched).code, 0, "{kind}");
    }
}

/// A gateway that shuts sources out after three failures, for this long, with a user `victim`.
fn strict_gateway(length: &str) -> Gateway {
    let gateway = Gateway::with(&[
        ("sftp.ban.failures", "3"),
        ("sftp.ban.within", "\"10m\""),
        ("sftp.ban.for", &format!("{length:?}")),
        ("sftp.ban.except", "[\"127.0.0.4\"]"),
        ("sftp.listen", "[\"0.0.0.0:0\"]"),
        ("telemetry.listen", "\"127.0.0.1:0\""),
    ]);
    gateway.ok(&["user", "add", "victim", "--generate-key", "--out", "victim.key"]);
    gateway
}

/// Whether OpenSSH's client gets in as `victim` from an address of this machine.
fn comes_in(gateway: &Gateway, from: &str, key: &Path) -> bool {
    let listening = gateway.json(&["status"])["listening"]["sftp"][0].as_str().unwrap().to_owned();
    let (_, port) = listening.rsplit_once(':').unwrap();
    let mut command = tool("sftp", &["-F", "/dev/null", "-P", port, "-b", "-"]);
    let bind = format!("BindAddress={from}");
    for option in [
        &identity(key),
        &bind,
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
    ] {
        command.args(["-o", option]);
    }
    run_with(command.arg("victim@127.0.0.1"), "pwd\n").code == 0
}

#[test]
fn strangers_shut_out_themselves_and_never_a_user() {
    let gateway = strict_gateway("3s");
    let (right, wrong) = (gateway.path("victim.key"), gateway.ssh_key("wrong", "ed25519"));
    let by = |from: &str, key: &Path| comes_in(&gateway, from, key);
    // Fifty failures of one source: most meet a closed door.
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| (0..10).for_each(|_| assert!(!by("127.0.0.2", &wrong))));
        }
    });
    let log = gateway.log();
    assert!(log.contains("shut_seconds=3"), "never shut out");
    assert!(by("127.0.0.1", &right), "the user is shut out with the stranger");
    // The source itself may come back after its penalty, whoever it is.
    let began = Instant::now();
    wait_for("the penalty to end", || by("127.0.0.2", &right).then_some(()));
    assert!(began.elapsed() < Duration::from_secs(50));
}

#[test]
fn who_is_shut_out_is_seen_and_let_in_again() {
    let gateway = strict_gateway("1h");
    let (right, wrong) = (gateway.path("victim.key"), gateway.ssh_key("wrong", "ed25519"));
    let source = "127.0.0.3";
    assert!(gateway.json(&["ban", "list"]).as_array().unwrap().is_empty());
    for _ in 0..3 {
        assert!(!comes_in(&gateway, source, &wrong) && !comes_in(&gateway, "127.0.0.4", &wrong));
    }
    assert!(comes_in(&gateway, "127.0.0.4", &right), "it is excepted");
    assert!(!comes_in(&gateway, source, &right));
    let ban = wait_for("the ban to be seen", || {
        let bans = gateway.json(&["ban", "list"]);
        bans.as_array().unwrap().first().filter(|ban| ban["refused"] != 0).cloned()
    });
    assert_eq!(ban["source"], source, "{ban}");
    let metric = |row: &str| gateway.metric(&format!("as2gate_sftp_{row}"));
    let logins = |result: &str| metric(&format!("logins_total{{method=\"publickey\",result=\"{result}\"}}"));
    gateway.wait("the metrics", |_| {
        let counts = [metric("bans_total")?, logins("failed")?, logins("ok")?];
        (counts == ["1", "6", "1"]).then_some(())
    });
    assert!(gateway.log().contains("turned away"));
    let text = gateway.ok(&["ban", "lift", source]);
    assert!(text.contains("127.0.0.3 may log in again"), "{text}");
    assert!(gateway.json(&["ban", "list"]).as_array().unwrap().is_empty());
    assert!(comes_in(&gateway, source, &right));
    let again = gateway.cli(&["ban", "lift", source]);
    assert!(again.code != 0 && again.stderr.contains("as2gate ban list"), "{}", again.stderr);
}

#[test]
fn a_right_key_that_is_refused_is_no_guess() {
    const TRIES: usize = 4;
    let gateway = strict_gateway("1h");
    let (right, wrong) = (gateway.path("victim.key"), gateway.ssh_key("wrong", "ed25519"));
    let source = "127.0.0.3";
    let refused = || (0..TRIES).for_each(|_| assert!(!comes_in(&gateway, source, &right)));
    let listening = gateway.json(&["status"])["listening"]["sftp"][0].as_str().unwrap().to_owned();
    let port = listening.rsplit_once(':').unwrap().1.parse().unwrap();
    gateway.ok(&["user", "set", "victim", "--max-sessions", "1"]);
    let held = Packets::of(&Sftp::new(port, "victim", &right));
    refused();
    let facts = last_event(&gateway, "victim", "user.login_failed");
    assert!(
        facts["tried"].as_str().unwrap().contains("max_sessions") && facts["shut"] == false,
        "{facts}"
    );
    drop(held);
    wait_for("the place to be free", || comes_in(&gateway, source, &right).then_some(()));
    gateway.ok(&["user", "disable", "victim"]);
    refused();
    gateway.ok(&["user", "enable", "victim"]);
    assert!(comes_in(&gateway, source, &right), "the source is shut out");
    (0..3).for_each(|_| assert!(!comes_in(&gateway, source, &wrong)));
    assert!(!comes_in(&gateway, source, &right), "wrong keys count");
}

#[test]
fn a_right_key_excuses_no_wrong_password() {
    let gateway = strict_gateway("1h");
    gateway.file("password", PASSWORD.as_bytes());
    let key = user(&gateway, "turned", "publickey").unwrap();
    gateway.ok(&["user", "set", "turned", "--login", "password"]);
    let key = format!("key:{}", key.display());
    let listening = gateway.json(&["status"])["listening"]["sftp"][0].as_str().unwrap().to_owned();
    let port = listening.rsplit_once(':').unwrap().1.to_owned();
    for _ in 0..4 {
        let mut command = tool(python().to_str().unwrap(), &[]);
        command
            .arg(script("logins.py"))
            .args([&port, "steps", "turned", "password:wrong", &key]);
        let _ = run(&mut command);
    }
    let bans = gateway.json(&["ban", "list"]);
    assert_eq!(bans.as_array().unwrap().len(), 1, "{bans}");
}

#[test]
fn unknown_users_take_as_long_as_known_ones() {
    const SAMPLES: &str = "200";
    let gateway = Gateway::with(&[("sftp.max_connections_per_ip", "100"), ("sftp.max_unauthenticated", "500")]);
    gateway.file("password", PASSWORD.as_bytes());
    let _ = user(&gateway, "known", "publickey password");
    let wrong = gateway.ssh_key("wrong", "ed25519");
    let measure = || {
        let mut command = tool(python().to_str().unwrap(), &[]);
        command
            .arg(script("logins.py"))
            .args([&gateway.sftp_port.to_string(), "timing", "known", "unknown"]);
        run(command.arg(&wrong).arg(SAMPLES)).ok()
    };
    let alike = |text: &str| {
        let p: Vec<f64> = text.lines().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect();
        p.len() == 2 && p.iter().all(|p| *p > 0.01)
    };
    // One in fifty differs by chance.
    let text = measure();
    eprintln!("{text}");
    if !alike(&text) {
        let again = measure();
        assert!(alike(&again), "{text}{again}");
    }
}

#[test]
fn host_keys_are_announced_proven_and_rotated() {
    let gateway = Gateway::with(&[]);
    gateway.ok(&["user", "add", "alice", "--generate-key", "--out", "alice.key"]);
    let key = gateway.path("alice.key");
    let known = gateway.path("known_hosts");
    let login = |algorithm: &str, strict: &str| {
        let (known, algorithm) = (
            format!("UserKnownHostsFile={}", known.display()),
            format!("HostKeyAlgorithms={algorithm}"),
        );
        let options = [&identity(&key), &known, &algorithm, "UpdateHostKeys=yes", "LogLevel=VERBOSE"];
        openssh(
            &gateway,
            "alice",
            &[&[&*format!("StrictHostKeyChecking={strict}")], &options[..]].concat(),
            &[],
        )
    };
    let lines = |kind: &str| {
        let text = fs::read_to_string(&known).unwrap_or_default();
        text.lines().filter(|line| line.split(' ').nth(1) == Some(kind)).count()
    };
    // One key is learned at the first sight, the others by their proofs.
    let ran = login("ssh-ed25519", "accept-new");
    assert_eq!(ran.code, 0, "{ran}");
    let all = "ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512";
    let ran = login(all, "yes");
    assert_eq!(ran.code, 0, "{ran}");
    assert_eq!(
        [lines("ssh-ed25519"), lines("ecdsa-sha2-nistp256"), lines("ssh-rsa")],
        [1, 1, 1],
        "{ran}"
    );
    // The next key is learned while the old one is in use, without a restart.
    let next = gateway.json(&["key", "host", "add", "ed25519"])["fingerprint"]
        .as_str()
        .unwrap()
        .to_owned();
    let shown = gateway.json(&["status"])["host_keys"].clone();
    let coming = shown.as_array().unwrap().iter().find(|key| key["state"] == "next").unwrap();
    assert_eq!(
        (coming["kind"].as_str(), coming["fingerprint"].as_str()),
        (Some("ed25519"), Some(&*next))
    );
    wait_for("the next key to be learned", || {
        let _ = login(all, "yes");
        (lines("ssh-ed25519") == 2).then_some(())
    });
    let _ = gateway.cli(&["key", "host", "add", "ed25519"]).fails(1);
    // It takes over: the client goes on without a word, and forgets the old one.
    gateway.ok(&["key", "host", "rotate", "ed25519"]);
    wait_for("the old key to be forgotten", || {
        let ran = login(all, "yes");
        assert_eq!(ran.code, 0, "{ran}");
        (lines("ssh-ed25519") == 1).then_some(())
    });
    let found = run(&mut tool("ssh-keygen", &["-l", "-f", known.to_str().unwrap()])).ok();
    assert!(found.contains(&next), "{found}");
    let _ = gateway.cli(&["key", "host", "rotate", "ed25519"]).fails(3);
    // The RSA key signs with both digests (RFC 8332 §3). Last, because a client that is told one kind forgets the others.
    for algorithm in ["rsa-sha2-256", "rsa-sha2-512"] {
        let ran = login(algorithm, "yes");
        assert_eq!(ran.code, 0, "{algorithm}: {ran}");
    }
}

/// An ECDSA key whose number begins with a zero byte, as SEC 1 PEM without its public half: one key in 256 is like that.
const SHORT_ECDSA: &str = "MDECAQEEIABaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaoAoGCCqGSM49AwEH";

#[test]
fn a_host_key_of_another_server_is_taken_over_as_it_is() {
    let gateway = Gateway::stopped(&[]);
    let file = gateway.path("data/host-keys/ssh_host_ecdsa_key");
    let key = file.to_str().unwrap();
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let half = gateway.file(
        "half.pem",
        format!("-----BEGIN EC PRIVATE KEY-----\n{SHORT_ECDSA}\n-----END EC PRIVATE KEY-----\n").as_bytes(),
    );
    let _ = run(&mut tool("openssl", &["ec", "-in", half.to_str().unwrap(), "-out", key])).ok();
    for change in ["PEM of OpenSSL", "OpenSSH's own"] {
        if change == "OpenSSH's own" {
            let _ = run(&mut tool("ssh-keygen", &["-q", "-p", "-P", "", "-N", "", "-f", key])).ok();
            assert!(fs::read_to_string(&file).unwrap().starts_with("-----BEGIN OPENSSH"));
        }
        let fingerprint = run(&mut tool("ssh-keygen", &["-l", "-f", key])).ok();
        let fingerprint = fingerprint.split(' ').nth(1).unwrap();
        gateway.start();
        let port = gateway.sftp_port.to_string();
        let seen = run(&mut tool("ssh-keyscan", &["-t", "ecdsa", "-p", &port, "127.0.0.1"])).ok();
        let seen = run_with(&mut tool("ssh-keygen", &["-l", "-f", "-"]), &seen).ok();
        assert!(seen.contains(fingerprint), "{change}: {seen} {fingerprint}");
        assert!(gateway.ok(&["status"]).contains(fingerprint), "{change}");
        gateway.kill9();
    }
}
