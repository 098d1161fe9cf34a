//! curl with libssh2, which closes a partial file as it does a whole one: only a name tells them apart.

use tests::process::{run, tool};
use tests::{Pair, wait_for};

use super::{Scene, content, is_sent};

#[test]
fn curl_and_its_habits() {
    let scene = Scene::of("curl");
    scene.sends(&["put", "rename", "unlisted", "again", "touch"]);
    scene.breaks_off_and_resumes();
}

#[test]
fn a_time_limit_of_curl_leaves_a_temporary_name_where_it_is() {
    let scene = Scene::of("curl");
    let _ = scene.drives("limit", "limit.bin", &scene.large()).ok();
    scene.is_kept_back("limit.bin.tmp");
}

#[test]
fn curl_puts_resumes_lists_and_renames() {
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
