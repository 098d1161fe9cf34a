//! Captured messages and MDNs are taken apart offline.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tests::pair::private_key;
use tests::peer::Identity;
use tests::process::tool;
use tests::{Pair, names_in, order};

use super::Place;

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

    // Whom it is for, and what was not given.
    let shown = bob.json(&["cert", "show", &tests::pair::certificate_name(bob, "BOB")]);
    let recipient = format!(
        "serial {} of {}",
        shown["serial"].as_str().unwrap(),
        shown["issuer"].as_str().unwrap()
    );
    let wrong = mallory.path("both.pem").display().to_string();
    for (key, hint) in [(&[][..], "add --key"), (&["--key", &wrong], "not that of its recipient")] {
        let args = ["inspect", &raw, "--headers", &headers, "-o", "table"];
        let told = place.cli(&[&args[..], key].concat()).stdout;
        assert!(told.contains(&recipient) && told.contains(hint), "{recipient}: {told}");
    }
    let told = place.cli(&[&args[..8], &["-o", "table"]].concat()).stdout;
    assert!(
        told.contains("no pinned certificate was given: add --partner-cert FILE") && !told.contains("Encrypted for"),
        "{told}"
    );
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
    let told = pair.alice().cli(&["inspect", &body, "--headers", &headers, "-o", "table"]);
    assert!(told.code == 1 && told.stdout.contains("add --partner-cert FILE"), "{told}");
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
