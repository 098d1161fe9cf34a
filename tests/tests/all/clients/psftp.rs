//! PuTTY's psftp, with keys made here in its own format.

use std::path::Path;

use tests::process::{Ran, run_with, tool};
use tests::{Gateway, Pair};

use super::{Scene, content, is_sent};

#[test]
fn psftp_and_its_habits() {
    let scene = Scene::of("psftp");
    scene.sends(&["put", "rename", "again", "touch"]);
    scene.breaks_off_and_resumes();
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
