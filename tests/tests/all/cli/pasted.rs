//! What the program prints for people to paste does what it says, and what it writes over is its own.

use std::fs;

use tests::process::run;
use tests::{Gateway, Pair, order};

use super::{Place, says, three_lines};

/// A set-up directory with an account.
fn place() -> Place {
    let place = Place::new();
    place.ok(&["init", "--account", "acme"]);
    place
}

/// Runs a line as a shell takes it.
#[track_caller]
fn paste(place: &Place, line: &str) -> String {
    run(place.command("sh").args(["-c", line])).ok()
}

#[test]
fn the_next_steps_can_be_pasted_with_the_words_behind_them() {
    let place = Place::new();
    let dir = "a/directory/with/a/name/that/is/long";
    let told = place.ok(&["--data-dir", dir, "init", "--account", "acme"]);
    let next = told.lines().find(|line| line.contains("station add ALICE")).unwrap();
    assert!(next.contains("your first AS2 identity"), "{next}");
    says(&paste(&place, next), &["Station ALICE"]);
}

#[test]
fn a_new_user_is_told_of_the_client_that_reads_its_key() {
    let place = place();
    for (name, format, client) in [("win", "ppk", "psftp"), ("unix", "openssh", "sftp")] {
        let told = place.ok(&["user", "add", name, "--generate-key", "--format", format]);
        says(&told, &[&format!("Connect: {client} -i {name}. {name}@localhost")]);
    }
}

#[test]
fn codes_are_put_behind_the_steps_that_the_user_has() {
    let place = place();
    for (name, login, key, with_codes) in [
        (
            "either",
            "publickey password",
            &["--generate-key"][..],
            "publickey,totp password,totp",
        ),
        ("word", "password", &[], "password,totp"),
    ] {
        place.ok(&[&["user", "add", name, "--login", login][..], key].concat());
        let told = place.ok(&["user", "totp", name]);
        let line = told.lines().find_map(|line| line.split_once("asked for yet:")).unwrap().1;
        paste(&place, line);
        says(&place.ok(&["user", "list", "-o", "tsv"]), &[&format!("{name} {with_codes}")]);
    }
}

#[test]
fn only_certificates_and_requests_are_replaced_by_new_ones() {
    let place = place();
    place.ok(&["station", "add", "ALICE"]);
    let list: serde_json::Value = serde_json::from_str(&place.ok(&["cert", "list", "-o", "json"])).unwrap();
    let name = list[0]["name"].as_str().unwrap();
    let export = |file: &str, form: &str| place.cli(&["cert", "export", name, "--form", form, "--out", file]);
    let request = |file: &str| place.cli(&["cert", "request", name, "--out", file]);
    fs::write(place.path("empty"), "").unwrap();
    // A new one over an old one, in either form; an empty file holds nothing.
    for (file, form) in [("a", "pem"), ("a", "pem"), ("a", "der"), ("a", "pem"), ("empty", "pem")] {
        let _ = export(file, form).ok();
    }
    for _ in 0..2 {
        let _ = request("a.csr").ok();
    }
    let pem = fs::read_to_string(place.path("a")).unwrap();
    fs::write(place.path("notes"), "-----BEGIN NOTES-----\n").unwrap();
    fs::write(place.path("both"), format!("{pem}-----BEGIN PRIVATE KEY-----\n")).unwrap();
    for (file, refused) in [
        ("notes", export("notes", "pem")),
        ("notes", export("notes", "der")),
        ("notes", request("notes")),
        ("notes", place.cli(&["-n", "cert", "export", name, "--out", "notes"])),
        ("both", export("both", "pem")),
        ("a.csr", export("a.csr", "pem")),
        ("a", request("a")),
    ] {
        assert_eq!(refused.code, 1, "{file}: {refused}");
        three_lines(&refused.stderr);
        assert!(refused.stderr.contains("something else than a certificate"), "{refused}");
    }
    assert_eq!(fs::read_to_string(place.path("notes")).unwrap(), "-----BEGIN NOTES-----\n");
    assert_eq!(fs::read_to_string(place.path("a")).unwrap(), pem);
    let printed = export("-", "pem").ok();
    assert!(printed == pem && !place.path("-").exists(), "{printed}");
}

#[test]
fn the_folder_of_an_odd_id_is_told() {
    const ID: &str = "AS2 TEST:01&Co";
    let pair = Pair::one_gateway();
    let gateway: &Gateway = pair.alice();
    gateway.change(&[
        "partner",
        "add",
        ID,
        "--url",
        "http://127.0.0.1:9/as2",
        "--private",
        "--encrypt",
        "none",
    ]);
    let partner = gateway.json(&["partner", "show", ID]);
    let folders: Vec<&str> = partner["folders"].as_array().unwrap().iter().filter_map(|f| f.as_str()).collect();
    let folder = "AS2/send/ALICE/AS2%20TEST%3A01%26Co";
    assert!(folders.contains(&folder), "{folders:?}");
    says(
        &gateway.ok(&["partner", "show", ID, "-o", "table"]),
        &[&format!("Folders {folder}")],
    );
    let local = gateway.file("odd.edi", &order(1));
    let put = |dir: &str| format!("put {} \"{dir}/odd.edi\"", local.display());
    let _ = pair.alice_user.refused(&put(&format!("AS2/send/ALICE/{ID}")));
    let log = gateway.wait("the refusal", |gateway| {
        let log = gateway.json(&["user", "log"]).to_string();
        log.contains("user.refused").then_some(log)
    });
    assert!(log.contains(&format!("files to be sent are put into {folder}/")), "{log}");
    pair.alice_user.ok(&[&put(folder)]);
    assert_eq!(gateway.messages_of("out", "odd.edi")[0]["partner"], ID);
}
