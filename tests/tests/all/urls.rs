//! URLs: what is refused, and what counts as the same whoever reads it.

use std::fs;
use std::net::TcpListener;

use tests::process::{run, tool};
use tests::{Gateway, Pair, order};

/// Whether these are the three lines of an error that says why, and what to write instead.
#[track_caller]
fn says_why(words: &str, why: &str) {
    let lines: Vec<&str> = words.lines().collect();
    let starts = ["error: ", "why:   ", "hint:  "];
    assert!(
        lines.len() == 3 && lines.iter().zip(starts).all(|(line, start)| line.starts_with(start)),
        "{words}"
    );
    assert!(lines[1].contains(why) && lines[2].contains("https://as2.example.com"), "{words}");
}

#[test]
fn a_url_that_cannot_be_used_is_refused_with_the_reason() {
    let gateway = Gateway::stopped(&[]);
    for (url, why) in [
        ("https://as2.example.com?tenant=1", "has a query or a fragment"),
        ("https://as2.example.com/#here", "has a query or a fragment"),
        ("https://2001:db8::1", "without its brackets"),
        ("https://as2.example.com:0", "has a port outside 1 to 65535"),
        ("as2.example.com", "does not begin with http:// or https://"),
    ] {
        gateway.configure(&[("public_url", &format!("\"{url}\""))]);
        for command in ["check", "serve"] {
            says_why(&gateway.cli(&[command]).fails(4), why);
        }
        let other = gateway.path("other");
        let init = ["--data-dir", other.to_str().unwrap(), "init", "--public-url", url];
        says_why(&gateway.cli(&init).fails(4), why);
        assert!(!other.join("as2gate.toml").exists(), "{url}");
    }
    gateway.configure(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let long = format!("http://a.example/{}", "x".repeat(2_009));
    for (url, why) in [
        ("http://127.0.0.1:0/as2", "has a port outside 1 to 65535"),
        ("http://a,b/as2", "has no usable host"),
        (&long, "is longer than 2,000 characters"),
    ] {
        says_why(&gateway.cli(&["partner", "add", "BOB", "--url", url]).fails(4), why);
        says_why(&gateway.cli(&["station", "set", "ALICE", "--url", url]).fails(4), why);
    }
    // What the client can read, the rule takes.
    gateway.ok(&["partner", "add", "BOB", "--url", "HTTPS://a.example/as2"]);
    gateway.ok(&["check"]);
}

#[test]
fn a_gateway_at_an_ipv6_address_sends_and_receives() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this machine has no IPv6");
        return;
    }
    let gateway = Gateway::stopped(&[]);
    let (as2, sftp) = (gateway.as2_port, gateway.sftp_port);
    gateway.configure(&[
        ("public_url", &format!("\"http://[::1]:{as2}\"")),
        ("as2.listen", &format!("[\"[::1]:{as2}\"]")),
        ("sftp.listen", &format!("[\"[::1]:{sftp}\"]")),
    ]);
    gateway.ok(&["check"]);
    for station in ["ALICE", "BOB"] {
        gateway.ok(&["station", "add", station]);
    }
    for station in ["ALICE", "BOB"] {
        gateway.ok(&["partner", "add", "--from-station", station]);
    }
    let added = gateway.ok(&["user", "add", "erp", "--generate-key", "ed25519", "--out", "erp.key"]);
    gateway.start();
    for (n, mdn) in (1..).zip(["sync-signed", "async-signed"]) {
        gateway.change(&["partner", "set", "BOB", "--mdn", mdn, "--subject", mdn]);
        let name = format!("{mdn}.edi");
        let file = gateway.file(&name, &order(n));
        gateway.ok(&["send", file.to_str().unwrap(), "--from", "ALICE", "--to", "BOB"]);
        let sent = gateway.reaches("out", &name, "delivered");
        gateway.reaches("in", &name, "filed");
        let id = sent["message_id"].as_str().unwrap();
        assert!(id.trim_end_matches('>').ends_with("@--1"), "{id}");
    }
    // The command that `user add` prints, as a shell and OpenSSH read it.
    let connect = added.lines().find_map(|line| line.split_once("sftp -P ")).unwrap().1;
    fs::write(gateway.path("batch"), "pwd\n").unwrap();
    let script = format!("sftp -b batch -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -P {connect}");
    assert!(connect.ends_with(" 'erp@[::1]'"), "{connect}");
    let said = run(tool("sh", &["-c", &script]).current_dir(gateway.path("."))).ok();
    assert!(said.contains("working directory"), "{said}");
}

#[test]
fn credentials_go_with_an_async_mdn_however_its_address_is_written() {
    let pair = Pair::two_gateways();
    let (alice, bob) = (pair.alice(), pair.bob());
    for gateway in [alice, bob] {
        gateway.file("password.txt", b"secret of MDNs");
    }
    let here = format!("http://localhost:{}/as2", alice.as2_port);
    alice.ok(&["station", "set", "ALICE", "--url", &here]);
    let password = "file:password.txt";
    alice.ok(&[
        "partner",
        "set",
        "BOB",
        "--mdn",
        "async-signed",
        "--inbound-user",
        "mdns",
        "--inbound-password",
        password,
    ]);
    let (loud, user) = (
        here.replace("localhost", "LOCALHOST"),
        ["--http-user", "mdns", "--http-password", password],
    );
    bob.ok(&[&["partner", "set", "ALICE", "--url", &loud, "--private", "true"][..], &user].concat());
    alice.restart();
    bob.restart();
    let parcel = pair.deliver("asked.edi", &order(1));
    assert_eq!(parcel.sent["mdn_signature"], "signed");
}
