//! SFTP clients that others wrote, with their defaults: each puts, looks, renames, fetches and removes. A client that is
//! not installed is said to be skipped.

use std::path::Path;

use tests::process::{Ran, run, run_with, tool};
use tests::{Gateway, Pair, wait_for};

/// Several blocks of every client, and no exact multiple of any.
fn content() -> Vec<u8> {
    (0..600_001u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect()
}

fn is_installed(program: &str) -> bool {
    let found = run(&mut tool("sh", &["-c", &format!("command -v {program}")])).code == 0;
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

fn is_sent(gateway: &Gateway, name: &str, bytes: &[u8]) {
    let message = gateway.reaches("out", name, "delivered");
    assert_eq!(message["size"].as_u64(), Some(bytes.len() as u64), "{name}");
}

fn psftp(gateway: &Gateway, key: &Path, lines: &[&str]) -> Ran {
    let port = gateway.sftp_port.to_string();
    let host = gateway.json(&["user", "show", "putty"])["host_keys"].clone();
    let mut command = tool("psftp", &["-batch", "-P", &port, "-i", key.to_str().unwrap()]);
    for fingerprint in host.as_array().unwrap() {
        command.args(["-hostkey", fingerprint.as_str().unwrap()]);
    }
    command.arg("putty@127.0.0.1");
    run_with(&mut command, &format!("{}\nquit\n", lines.join("\n")))
}

#[test]
fn psftp_puts_renames_fetches_and_removes() {
    if !is_installed("psftp") {
        return;
    }
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    gateway.ok(&["user", "add", "putty", "--generate-key", "--format", "ppk", "--out", "putty.ppk"]);
    let (key, bytes) = (gateway.path("putty.ppk"), content());
    let local = gateway.file("local/p.edi", &bytes);
    let put = format!("put {} AS2/send/ALICE/BOB/p.edi", local.display());
    let told = psftp(gateway, &key, &[&put]).ok();
    assert!(told.contains("p.edi"), "{told}");
    is_sent(gateway, "p.edi", &bytes);
    let part = format!("put {} AS2/send/ALICE/BOB/q.edi.part", local.display());
    let _ = psftp(
        gateway,
        &key,
        &[
            &part,
            "ls AS2/send/ALICE/BOB",
            "mv AS2/send/ALICE/BOB/q.edi.part AS2/send/ALICE/BOB/q.edi",
        ],
    )
    .ok();
    is_sent(gateway, "q.edi", &bytes);
    gateway.reaches("in", "q.edi", "filed");
    let dir = pair.bob_user.ls("AS2/files/BOB/ALICE/inbox").into_iter().next().unwrap();
    let got = gateway.path("local/got.edi");
    let name = pair
        .bob_user
        .ls(&format!("AS2/files/BOB/ALICE/inbox/{dir}"))
        .into_iter()
        .find(|name| name.ends_with(".edi"))
        .unwrap();
    let _ = psftp(
        gateway,
        &key,
        &[&format!("get AS2/files/BOB/ALICE/inbox/{dir}/{name} {}", got.display())],
    )
    .ok();
    assert!(std::fs::read(&got).unwrap() == bytes, "what psftp fetched differs");
}

#[test]
fn curl_puts_resumes_lists_and_renames() {
    if !is_installed("curl") {
        return;
    }
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    let _user = gateway.user("curler");
    let (key, bytes) = (gateway.path("curler-ed25519.key"), content());
    let base = format!("sftp://127.0.0.1:{}/mftg-acme/AS2/send/ALICE/BOB/", gateway.sftp_port);
    let curl = |args: &[&str]| {
        let public = format!("{}.pub", key.display());
        let mut command = tool(
            "curl",
            &["-sS", "-k", "-u", "curler:", "--key", key.to_str().unwrap(), "--pubkey", &public],
        );
        run(command.args(args))
    };
    let local = gateway.file("local/c.edi", &bytes);
    let _ = curl(&["-T", local.to_str().unwrap(), &format!("{base}c.edi")]).ok();
    is_sent(gateway, "c.edi", &bytes);
    // A temporary name, resumed by appending, renamed to the final one.
    let half = gateway.file("local/half", &bytes[..300_000]);
    let _ = curl(&["-T", half.to_str().unwrap(), &format!("{base}d.edi.tmp")]).ok();
    let listed = curl(&[&base]).ok();
    assert!(listed.contains("d.edi.tmp"), "{listed}");
    let dir = "/mftg-acme/AS2/send/ALICE/BOB";
    let rename = format!("rename {dir}/d.edi.tmp {dir}/d.edi");
    let _ = curl(&[
        "-C",
        "300000",
        "-T",
        local.to_str().unwrap(),
        "-Q",
        &format!("-{rename}"),
        &format!("{base}d.edi.tmp"),
    ])
    .ok();
    is_sent(gateway, "d.edi", &bytes);
    wait_for("an empty send directory", || {
        curl(&["-l", &base]).ok().lines().all(|name| name.starts_with('.')).then_some(())
    });
}
