//! Keys and certificates: the three stores that Java reads, imports and exports, expiry, and the change of certificates.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tests::pair::{certificate_name, private_key, station_certificate};
use tests::peer::Identity;
use tests::process::{run, tool};
use tests::{Gateway, Pair, order};

const PASSWORD: &str = "store-password";

/// The stores as `cert stores --reveal` names them: path and password by file name.
fn stores(gateway: &Gateway) -> Vec<(String, String, String)> {
    let revealed = gateway.json(&["cert", "stores", "--reveal"]);
    let list = revealed.as_array().expect("an array").clone();
    let text = |store: &Value, field: &str| store[field].as_str().unwrap_or_else(|| panic!("{field}: {store}")).to_owned();
    list.iter()
        .map(|store| (text(store, "file"), text(store, "password"), text(store, "format")))
        .collect()
}

fn keytool(store: &Path, password: &str) -> String {
    run(&mut tool(
        "keytool",
        &["-list", "-v", "-keystore", store.to_str().unwrap(), "-storepass", password],
    ))
    .ok()
}

fn keytool_opens_all_of(gateway: &Gateway) {
    let stores = stores(gateway);
    assert_eq!(stores.len(), 3, "{stores:?}");
    let mut seen = Vec::new();
    for (path, password, _) in &stores {
        let path = gateway.path(path);
        seen.push(path.file_name().unwrap().to_string_lossy().into_owned());
        let listing = keytool(&path, password);
        match seen.last().unwrap().as_str() {
            "identity.jks" => assert!(listing.contains("PrivateKeyEntry") && listing.contains("CN="), "{listing}"),
            "trust.jks" => assert!(listing.contains("trustedCertEntry"), "{listing}"),
            _ => {}
        }
        let wrong = run(&mut tool(
            "keytool",
            &["-list", "-keystore", path.to_str().unwrap(), "-storepass", "wrong-password"],
        ));
        assert_ne!(wrong.code, 0, "any password opens {}", path.display());
    }
    seen.sort();
    assert_eq!(seen, ["https.jks", "identity.jks", "trust.jks"]);
}

#[test]
fn keytool_opens_the_three_stores() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let bob = Identity::new("bob");
    tests::pair::add_partner(&gateway, "BOB", "http://127.0.0.1:9/as2", bob.path("cert.pem").to_str().unwrap());
    keytool_opens_all_of(&gateway);
    let hidden = gateway.json(&["cert", "stores"]).to_string();
    let password = &stores(&gateway)[0].1;
    assert!(!hidden.contains(password.as_str()), "shown without --reveal");
}

#[test]
fn keytool_opens_true_jks_stores() {
    let gateway = Gateway::stopped(&[("keystore.format", "\"jks\"")]);
    gateway.ok(&["station", "add", "ALICE"]);
    let bob = Identity::new("bob");
    tests::pair::add_partner(&gateway, "BOB", "http://127.0.0.1:9/as2", bob.path("cert.pem").to_str().unwrap());
    keytool_opens_all_of(&gateway);
    let (path, ..) = stores(&gateway)
        .into_iter()
        .find(|(path, ..)| path.ends_with("identity.jks"))
        .unwrap();
    assert_eq!(fs::read(gateway.path(&path)).unwrap()[..4], [0xfe, 0xed, 0xfe, 0xed]);
}

#[test]
fn stores_follow_each_change() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let trust = || {
        let (path, password, _) = stores(&gateway).into_iter().find(|(path, ..)| path.ends_with("trust.jks")).unwrap();
        let listing = run(&mut tool(
            "keytool",
            &["-list", "-keystore", gateway.path(&path).to_str().unwrap(), "-storepass", &password],
        ));
        listing.ok().matches("trustedCertEntry").count()
    };
    let before = trust();
    let bob = Identity::new("bob");
    tests::pair::add_partner(&gateway, "BOB", "http://127.0.0.1:9/as2", bob.path("cert.pem").to_str().unwrap());
    assert_eq!(trust(), before + 1);
    gateway.ok(&["partner", "rm", "BOB", "-y"]);
    let names: Vec<String> = gateway
        .json(&["cert", "list"])
        .as_array()
        .unwrap()
        .iter()
        .filter(|c| c["purpose"] == "partner")
        .map(|c| c["name"].as_str().unwrap().to_owned())
        .collect();
    for name in names {
        gateway.ok(&["cert", "rm", &name, "-y"]);
    }
    assert_eq!(trust(), before);
}

#[test]
fn openssl_decrypts_and_verifies_what_was_sent() {
    let pair = Pair::two_gateways();
    let parcel = pair.deliver("for-openssl.edi", &order(77));
    let bob = pair.bob();
    let (store, password, format) = stores(bob).into_iter().find(|(path, ..)| path.ends_with("identity.jks")).unwrap();
    assert_eq!(format.to_lowercase().replace(['#', '-'], ""), "pkcs12");
    let at = |name: &str| bob.path(name).display().to_string();
    let key = at("bob-key.pem");
    let _ = run(&mut tool(
        "openssl",
        &[
            "pkcs12",
            "-in",
            &at(&store),
            "-passin",
            &format!("pass:{password}"),
            "-nodes",
            "-out",
            &key,
        ],
    ))
    .ok();
    fs::write(
        bob.path("wire.p7m"),
        pair.bob_user
            .get(&format!("AS2/raw-message/BOB/ALICE/inbox/{}/message.as2", parcel.got_id())),
    )
    .unwrap();
    let (wire, clear, content) = (at("wire.p7m"), at("clear.mime"), at("content"));
    let _ = run(&mut tool(
        "openssl",
        &[
            "cms", "-decrypt", "-inform", "DER", "-binary", "-in", &wire, "-inkey", &key, "-recip", &key, "-out", &clear,
        ],
    ))
    .ok();
    let alice = at("ALICE.pem");
    let verify = [
        "cms",
        "-verify",
        "-in",
        &clear,
        "-certfile",
        &alice,
        "-nointern",
        "-noverify",
        "-out",
        &content,
    ];
    let _ = run(&mut tool("openssl", &verify)).ok();
    let entity = fs::read(bob.path("content")).unwrap();
    let body = entity.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(String::from_utf8_lossy(&entity[body..]), String::from_utf8_lossy(&order(77)));
}

#[test]
fn certificates_are_imported_in_every_usual_form() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let peer = Identity::new("peer");
    let path = |name: &str| peer.path(name).display().to_string();
    tests::pair::add_partner(&gateway, "PEER", "http://127.0.0.1:9/as2", &path("cert.pem"));
    let pass = format!("pass:{PASSWORD}");
    let _ = run(&mut tool(
        "openssl",
        &["x509", "-in", &path("cert.pem"), "-outform", "DER", "-out", &path("cert.der")],
    ))
    .ok();
    let _ = run(&mut tool(
        "openssl",
        &[
            "crl2pkcs7",
            "-nocrl",
            "-certfile",
            &path("cert.pem"),
            "-outform",
            "DER",
            "-out",
            &path("cert.p7b"),
        ],
    ))
    .ok();
    let bundle = [
        "pkcs12",
        "-export",
        "-inkey",
        &path("key.pem"),
        "-in",
        &path("cert.pem"),
        "-name",
        "peer",
        "-passout",
        &pass,
        "-out",
        &path("both.p12"),
    ];
    let _ = run(&mut tool("openssl", &bundle)).ok();
    let convert = [
        "-importkeystore",
        "-noprompt",
        "-srckeystore",
        &path("both.p12"),
        "-srcstoretype",
        "PKCS12",
        "-srcstorepass",
        PASSWORD,
    ];
    let into = [
        "-destkeystore",
        &path("both.jks"),
        "-deststoretype",
        "JKS",
        "-deststorepass",
        PASSWORD,
    ];
    let _ = run(&mut tool("keytool", &[&convert[..], &into[..]].concat())).ok();
    let import = [
        "-importcert",
        "-noprompt",
        "-alias",
        "peer",
        "-file",
        &path("cert.pem"),
        "-keystore",
        &path("trust.jks"),
        "-storetype",
        "JKS",
        "-storepass",
        PASSWORD,
    ];
    let _ = run(&mut tool("keytool", &import)).ok();
    let secret = gateway.file("password.txt", PASSWORD.as_bytes());
    let secret = format!("file:{}", secret.display());

    let fingerprint = run(&mut tool(
        "openssl",
        &["x509", "-in", &path("cert.pem"), "-noout", "-fingerprint", "-sha256"],
    ))
    .ok();
    let fingerprint = fingerprint.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
    let same = |name: &str| {
        let shown = gateway.json(&["cert", "show", name]);
        let found = shown["sha256"].as_str().unwrap().replace(':', "").to_lowercase();
        assert_eq!(found, fingerprint, "{name}");
        shown
    };
    for (name, file) in [("pem", "cert.pem"), ("der", "cert.der"), ("p7b", "cert.p7b")] {
        gateway.ok(&["cert", "add", name, "--partner", "PEER", "--file", &path(file)]);
        let _ = same(name);
    }
    gateway.ok(&[
        "cert",
        "add",
        "trust-jks",
        "--partner",
        "PEER",
        "--file",
        &path("trust.jks"),
        "--passphrase",
        &secret,
    ]);
    let _ = same("trust-jks");
    for (name, file) in [("p12", "both.p12"), ("jks", "both.jks")] {
        gateway.ok(&[
            "cert",
            "add",
            name,
            "--station",
            "ALICE",
            "--file",
            &path(file),
            "--passphrase",
            &secret,
        ]);
        let shown = same(name);
        assert_eq!(shown["private_key"], true, "{shown}");
    }
    let wrong = gateway.file("wrong.txt", b"wrong");
    let words = gateway
        .cli(&[
            "cert",
            "add",
            "w",
            "--station",
            "ALICE",
            "--file",
            &path("both.p12"),
            "--passphrase",
            &format!("file:{}", wrong.display()),
        ])
        .fails(4);
    assert!(words.to_lowercase().contains("pass"), "{words}");
    let broken = gateway.file("broken.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let _ = gateway
        .cli(&["cert", "add", "b", "--partner", "PEER", "--file", broken.to_str().unwrap()])
        .fails(4);
}

#[test]
fn certificates_are_exported_as_pem_and_der() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let pem = station_certificate(&gateway, "ALICE");
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----") && !pem.contains("PRIVATE"));
    let name = certificate_name(&gateway, "ALICE");
    gateway.ok(&["cert", "export", &name, "--form", "der", "--out", "alice.der"]);
    let text = |form: &str, file: &str| {
        run(&mut tool(
            "openssl",
            &[
                "x509",
                "-inform",
                form,
                "-in",
                gateway.path(file).to_str().unwrap(),
                "-noout",
                "-text",
                "-fingerprint",
            ],
        ))
        .ok()
    };
    let _ = gateway.file("alice.pem", pem.as_bytes());
    assert_eq!(text("DER", "alice.der"), text("PEM", "alice.pem"));
    assert!(text("DER", "alice.der").contains("(3072 bit)"));
    let profile = gateway.ok(&["station", "profile", "ALICE"]);
    assert!(
        profile.contains("ALICE") && profile.contains(pem.trim()) && profile.contains("/as2"),
        "{profile}"
    );
}

#[test]
fn expiry_is_shown_and_needs_renewal_tells_cron() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let peer = Identity::new("peer");
    assert_eq!(gateway.cli(&["cert", "needs-renewal", "--within", "30d"]).code, 0);
    tests::pair::add_partner(&gateway, "PEER", "http://127.0.0.1:9/as2", peer.path("cert.pem").to_str().unwrap());
    let due = gateway.cli(&["cert", "needs-renewal", "--within", "30d"]);
    assert_eq!(due.code, 1, "{due}");
    assert_eq!(gateway.cli(&["cert", "needs-renewal", "--within", "5d"]).code, 0);
    let list = gateway.json(&["cert", "list"]);
    let end = run(&mut tool(
        "openssl",
        &[
            "x509",
            "-in",
            peer.path("cert.pem").to_str().unwrap(),
            "-noout",
            "-enddate",
            "-dateopt",
            "iso_8601",
        ],
    ))
    .ok();
    let day = end.trim().split('=').next_back().unwrap()[..10].to_owned();
    assert!(
        list.as_array()
            .unwrap()
            .iter()
            .any(|cert| cert["owner"] == "PEER" && cert.to_string().contains(&day)),
        "{list:#} {day}"
    );
    let status = gateway.ok(&["status", "-o", "table"]);
    assert!(status.contains("expires") || status.contains("expire"), "{status}");
    // The server says so by itself.
    gateway.start();
    gateway.wait("the warning in the log", |gate| {
        gate.log().contains("a certificate in use expires").then_some(())
    });
}

#[test]
fn the_current_and_the_next_certificate_of_a_station_decrypt_side_by_side() {
    let pair = Pair::two_gateways();
    let old = station_certificate(pair.bob(), "BOB");
    let name = certificate_name(pair.bob(), "BOB");
    pair.bob().ok(&["cert", "renew", &name, "--at", &in_days(2)]);
    let certs = pair.bob().json(&["cert", "list"]);
    let own: Vec<&Value> = certs.as_array().unwrap().iter().filter(|cert| cert["owner"] == "BOB").collect();
    assert_eq!(own.len(), 2, "{certs:#}");
    pair.bob().restart();
    // ALICE still encrypts to the old one …
    let parcel = pair.deliver("old-cert.edi", &order(1));
    assert_eq!(pair.fetch(&parcel), order(1));
    // … and then to the new one.
    let next = own.iter().find(|cert| cert["name"] != name.as_str()).unwrap()["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let file = pair.alice().path("bob-next.pem");
    pair.bob().ok(&["cert", "export", &next, "--out", file.to_str().unwrap()]);
    assert_ne!(fs::read_to_string(&file).unwrap(), old);
    pair.alice()
        .ok(&["cert", "add", "bob-next", "--partner", "BOB", "--file", file.to_str().unwrap()]);
    let known = pair.alice().json(&["partner", "show", "BOB"])["sign_certificate"][0]
        .as_str()
        .unwrap()
        .to_owned();
    pair.alice().ok(&[
        "partner",
        "set",
        "BOB",
        "--encrypt-certificate",
        "bob-next",
        "--sign-certificate",
        &format!("{known},bob-next"),
    ]);
    pair.alice().restart();
    let parcel = pair.deliver("new-cert.edi", &order(2));
    assert_eq!(pair.fetch(&parcel), order(2));
}

#[test]
fn a_scheduled_certificate_takes_over_at_its_time() {
    let pair = Pair::two_gateways();
    let next = Identity::new("alice-next");
    let text = |name: &str| next.path(name).display().to_string();
    // Both sides know the day: ALICE has the new key, BOB its certificate.
    let at = in_days(2);
    let own = certificate_name(pair.alice(), "ALICE");
    let known = pair.bob().json(&["partner", "show", "ALICE"])["sign_certificate"][0]
        .as_str()
        .unwrap()
        .to_owned();
    pair.alice()
        .ok(&["cert", "schedule", &own, "--replace-with", &text("both.pem"), "--at", &at]);
    pair.bob()
        .ok(&["cert", "schedule", &known, "--replace-with", &text("cert.pem"), "--at", &at]);
    let planned = pair.bob().json(&["cert", "list"]);
    let planned = planned
        .as_array()
        .unwrap()
        .iter()
        .find(|cert| cert["replaces"] == known.as_str())
        .expect("a planned one")
        .clone();
    assert!(planned["active_from"].as_str().unwrap().starts_with(&at[..16]), "{planned:#}");
    pair.alice().restart();
    pair.bob().restart();
    let bob = pair.bob();
    let file = |name: &str, bytes: &[u8]| bob.file(name, bytes).display().to_string();
    let key = private_key(bob, "bob.key").display().to_string();
    let cert = file("bob.crt", station_certificate(bob, "BOB").as_bytes());
    let signers = [bob.path("ALICE.pem").display().to_string(), text("cert.pem")];
    let signed_by_next = |name: &str, day: i64| {
        pair.alice().set_clock(day * 86_400);
        bob.set_clock(day * 86_400);
        let parcel = pair.deliver(name, &order(1));
        assert_eq!(pair.fetch(&parcel), order(1), "{name}");
        let kept = |area: &str, name: &str| {
            let path = format!("AS2/{area}/BOB/ALICE/inbox/{}/{name}", parcel.got_id());
            file(name, &pair.bob_user.get(&path))
        };
        let (raw, headers) = (kept("raw-message", "message.as2"), kept("headers", "headers.txt"));
        let args = ["inspect", &raw, "--headers", &headers, "--key", &key, "--cert", &cert];
        let told = bob.json(&[&args[..], &["--partner-cert", &signers[0], "--partner-cert", &signers[1]]].concat());
        told["signer"].as_str().unwrap().contains("alice-next")
    };
    assert!(!signed_by_next("before.edi", 0));
    assert!(!signed_by_next("still-before.edi", 1));
    assert!(signed_by_next("after.edi", 3));
    // Both servers say that it has happened, and that nobody did it.
    for (gateway, old) in [(pair.alice(), &own), (bob, &known)] {
        let event = gateway.wait("the event", |gateway| {
            let events = gateway.json(&["audit", "list", "--kind", "certificate.switched"]);
            events.as_array()?.first().cloned()
        });
        let facts = &event["facts"];
        assert_eq!(
            (&facts["by"], &facts["replaces"]),
            (&"schedule".into(), &old.as_str().into()),
            "{event}"
        );
        assert!(
            facts["operator"].is_null() && gateway.log().contains("has taken over by its schedule"),
            "{event}"
        );
    }
    // The old key no longer signs: BOB forgets it, and messages still come through.
    let new = planned["name"].as_str().unwrap();
    pair.bob()
        .ok(&["partner", "set", "ALICE", "--sign-certificate", new, "--encrypt-certificate", new]);
    pair.bob().restart();
    assert!(signed_by_next("only-the-new.edi", 3));
}

/// A moment so many days from now, as the command line takes it.
fn in_days(days: u32) -> String {
    run(&mut tool("date", &["-u", "-d", &format!("{days} days"), "+%Y-%m-%dT%H:%M:00Z"]))
        .ok()
        .trim()
        .to_owned()
}

#[test]
fn a_certificate_in_use_is_not_removed_and_says_by_whom() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let name = certificate_name(&gateway, "ALICE");
    let ran = gateway.cli(&["cert", "rm", &name, "-y"]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("ALICE"), "{ran}");

    // What frees it depends on the switch that there is already.
    let renewed = gateway.json(&["cert", "renew", &name, "--at", &in_days(2)]);
    let next = renewed["name"].as_str().unwrap();
    let words = gateway.cli(&["cert", "rm", &name, "-y"]).fails(1);
    assert!(words.contains(&format!("as2gate cert switch {next}")), "{words}");
    gateway.ok(&["partner", "add", "--from-station", "ALICE"]);
    let old = gateway.json(&["partner", "show", "ALICE"])["encrypt_certificate"]
        .as_str()
        .unwrap()
        .to_owned();
    let other = Identity::new("other");
    let other = other.path("cert.pem").display().to_string();
    let new = gateway.json(&["cert", "schedule", &old, "--replace-with", &other]);
    let new = new["name"].as_str().unwrap();
    let words = gateway.cli(&["cert", "rm", &old, "-y"]).fails(1);
    assert!(
        words.contains("partner ALICE") && words.contains(&format!("as2gate partner set ALICE --sign-certificate {new}")),
        "{words}"
    );
    gateway.ok(&["partner", "set", "ALICE", "--sign-certificate", new]);
    gateway.ok(&["cert", "rm", &old, "-y"]);
}

#[test]
fn elliptic_identities_and_large_keys_work_end_to_end() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "SMALL", "--key", "rsa-2048"]);
    gateway.ok(&["station", "add", "LARGE", "--key", "rsa-4096"]);
    gateway.ok(&["station", "add", "CURVE", "--key", "ec-p256"]);
    for station in ["SMALL", "LARGE", "CURVE"] {
        gateway.ok(&["partner", "add", "--from-station", station]);
    }
    // An EC key signs; whether it also takes content keys is the sender's setting, so nothing is encrypted to it here.
    gateway.ok(&["partner", "set", "CURVE", "--encrypt", "none", "--require-encrypted", "false"]);
    for partner in ["SMALL", "LARGE"] {
        gateway.ok(&["partner", "set", partner, "--require-encrypted", "false"]);
    }
    let user = gateway.user("erp");
    gateway.start();
    for (from, to) in [("SMALL", "LARGE"), ("LARGE", "SMALL"), ("CURVE", "LARGE"), ("SMALL", "CURVE")] {
        let name = format!("{from}-{to}.edi");
        let local = gateway.file(&name, &order(5));
        user.put(&local, &format!("AS2/send/{from}/{to}/{name}"));
        gateway.reaches("out", &name, "delivered");
        gateway.reaches("in", &name, "filed");
    }
}

#[test]
fn no_private_key_lies_in_clear_in_the_data_directory() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let data = gateway.path("data");
    for file in tests::files_below(&data) {
        if file.starts_with("host-keys") {
            continue;
        }
        let bytes = fs::read(data.join(&file)).unwrap();
        let marks: [&[u8]; 2] = [b"PRIVATE KEY-----", b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\x04\x82"];
        for mark in marks {
            assert!(
                bytes.windows(mark.len()).all(|window| window != mark),
                "{file} holds a key in clear"
            );
        }
    }
}

/// The steps of a rollover: progress by step.
fn progress(gateway: &Gateway, id: &str) -> (Value, Vec<String>) {
    let guide = gateway.json(&["cert", "rollover", id]);
    let steps = guide["steps"].as_array().unwrap();
    let steps = steps.iter().map(|step| step["progress"].as_str().unwrap().to_owned()).collect();
    (guide, steps)
}

#[test]
fn a_rollover_is_guided_from_the_new_key_to_the_end_of_the_old_one() {
    let pair = Pair::two_gateways();
    let alice = pair.alice();
    assert_eq!(progress(alice, "ALICE").1, ["next", "later", "later", "later", "later"]);
    let old = certificate_name(alice, "ALICE");
    let known = pair.bob().json(&["partner", "show", "ALICE"])["sign_certificate"][0]
        .as_str()
        .unwrap()
        .to_owned();

    // A new key pair made ahead; nobody has confirmed, and `check` says so.
    alice.ok(&["cert", "renew", &old, "--at", &in_days(2)]);
    let (guide, steps) = progress(alice, "ALICE");
    assert_eq!(steps, ["done", "next", "later", "later", "later"]);
    let next = guide["next"].as_str().unwrap().to_owned();
    assert_eq!(
        (&guide["current"], &guide["missing"]),
        (&old.as_str().into(), &serde_json::json!(["BOB"]))
    );
    let profile = alice.ok(&["station", "profile", "ALICE"]);
    assert!(
        profile.contains("Next certificate") && profile.matches("BEGIN CERTIFICATE").count() == 2,
        "{profile}"
    );
    let checked = alice.cli(&["check"]);
    assert!((checked.stdout + &checked.stderr).contains("is not confirmed by BOB"));

    // Each command of the guide is one that exists and works as written there.
    let file = pair.bob().path(&format!("{next}.pem"));
    alice.ok(&["cert", "export", &next, "--out", file.to_str().unwrap()]);
    assert_eq!(progress(pair.bob(), "ALICE").1, ["next", "later", "later", "later"]);
    pair.bob().ok(&[
        "cert",
        "schedule",
        &known,
        "--replace-with",
        file.to_str().unwrap(),
        "--at",
        &in_days(2),
    ]);
    assert_eq!(progress(pair.bob(), "ALICE").1, ["done", "next", "later", "later"]);
    let ran = alice.cli(&["cert", "confirm", &next, "--partner", "NOBODY"]);
    assert!(ran.code != 0 && ran.stderr.contains("does not trade with ALICE"), "{ran}");
    alice.ok(&["cert", "confirm", &next, "--partner", "BOB"]);
    let (guide, steps) = progress(alice, "ALICE");
    assert_eq!(steps, ["done", "done", "done", "next", "later"], "{guide:#}");
    assert!(!alice.ok(&["check"]).contains("is not confirmed"));
    // It survives the way through a file.
    let exported = alice.file("all.toml", alice.ok(&["export"]).as_bytes());
    assert!(
        alice
            .ok(&["apply", "-f", exported.to_str().unwrap(), "--dry-run"])
            .contains("nothing")
    );

    // Before the switch both decrypt and the old one signs; after it the new one signs, and the old one may go.
    alice.restart();
    pair.bob().restart();
    assert_eq!(pair.fetch(&pair.deliver("before.edi", &order(1))), order(1));
    assert_eq!(alice.json(&["cert", "rollover", "ALICE"])["current"], old.as_str());
    for gateway in [alice, pair.bob()] {
        gateway.set_clock(3 * 86_400);
    }
    assert_eq!(pair.fetch(&pair.deliver("after.edi", &order(2))), order(2));
    let (guide, steps) = progress(alice, "ALICE");
    assert_eq!(
        (steps, &guide["current"]),
        (
            ["done", "done", "done", "done", "next"].map(str::to_owned).to_vec(),
            &next.as_str().into()
        )
    );
    let shown = alice.ok(&["station", "show", "ALICE", "-o", "table"]);
    let line = |label: &str| shown.lines().find(|line| line.starts_with(label)).unwrap().to_owned();
    assert!(line("Certificate").contains(&format!("{next} (")), "{shown}");
    assert!(line("Also decrypts").contains(&old) && !shown.contains("signs from"), "{shown}");
    let listed = alice.ok(&["cert", "list", "-o", "table"]);
    assert!(listed.contains(&format!("took over from {old}")), "{listed}");
    alice.ok(&["cert", "rm", &old, "--yes"]);
    assert_eq!(
        progress(alice, "ALICE").1.first().map(String::as_str),
        Some("next"),
        "the next rollover"
    );
    assert_eq!(pair.fetch(&pair.deliver("without-the-old.edi", &order(3))), order(3));
}

#[test]
fn a_ca_signs_the_key_of_a_station_which_never_leaves_it() {
    let pair = Pair::two_gateways();
    let (alice, bob) = (pair.alice(), pair.bob());
    let old = certificate_name(alice, "ALICE");
    let known = bob.json(&["partner", "show", "ALICE"])["sign_certificate"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let ca = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        run(tool("openssl", &words).current_dir(alice.path(""))).ok()
    };
    ca("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=CA -days 3650");
    let sign = |csr: &str, out: &str| {
        ca(&format!(
            "x509 -req -in {csr} -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 -out {out}"
        ));
        alice.path(out).to_str().unwrap().to_owned()
    };
    alice.ok(&["cert", "request", &old, "--out", alice.path("alice.csr").to_str().unwrap()]);
    let issued = sign("alice.csr", "issued.pem");

    // One of a key that is not here has to bring it.
    ca("req -newkey rsa:2048 -nodes -keyout other.key -out other.csr -subj /CN=ALICE");
    let other = sign("other.csr", "other.pem");
    let ran = alice.cli(&["cert", "schedule", &old, "--replace-with", &other]);
    assert!(ran.code != 0 && ran.stderr.contains("neither in the file nor here"), "{ran}");

    alice.ok(&["cert", "schedule", &old, "--replace-with", &issued, "--name", "alice-ca"]);
    bob.ok(&["cert", "schedule", &known, "--replace-with", &issued]);
    alice.ok(&["cert", "rm", &old, "--yes"]);
    let shown = alice.json(&["cert", "show", "alice-ca"]);
    assert_eq!(
        (&shown["issuer"], &shown["private_key"]),
        (&"CN=CA".into(), &true.into()),
        "{shown:#}"
    );
    alice.followed();
    bob.followed();
    assert_eq!(pair.fetch(&pair.deliver("signed-by-the-ca.edi", &order(1))), order(1));
    // And back, encrypted to it.
    bob.ok(&[
        "send",
        "--from",
        "BOB",
        "--to",
        "ALICE",
        bob.file("back.edi", &order(2)).to_str().unwrap(),
    ]);
    alice.wait("the answer", |alice| {
        let filed = alice.messages("in").into_iter().find(|message| message["file"] == "back.edi")?;
        (filed["state"] == "filed").then_some(())
    });

    // The next key is the CA's business, too.
    let (guide, steps) = progress(alice, "ALICE");
    assert_eq!(steps, ["next", "later", "later", "later", "later", "later"]);
    let next_request = &guide["steps"][1];
    assert!(
        next_request["command"].as_str().unwrap().starts_with("as2gate cert request "),
        "{guide:#}"
    );
    // No time makes it sign by itself with what the CA has not signed.
    alice.ok(&["cert", "renew", "alice-ca", "--name", "alice-next"]);
    let (guide, steps) = progress(alice, "ALICE");
    assert_eq!((steps[..3].join(" ").as_str(), &guide["next"]), ("done next later", &Value::Null));
    assert!(alice.ok(&["cert", "list", "-o", "table"]).contains("follows alice-ca"));
    let command = guide["steps"][1]["command"].as_str().unwrap();
    assert!(command.starts_with("as2gate cert request alice-next "), "{guide:#}");
    let ran = alice.cli(&["cert", "request", "alice-next", "--out", alice.path("next.csr").to_str().unwrap()]);
    assert!(ran.stderr.contains("as2gate cert schedule alice-ca "), "{ran}");
    let issued = sign("next.csr", "next.pem");
    alice.ok(&[
        "cert",
        "schedule",
        "alice-ca",
        "--replace-with",
        &issued,
        "--at",
        &in_days(9),
        "--name",
        "alice-next-ca",
    ]);
    let (guide, steps) = progress(alice, "ALICE");
    assert_eq!(
        (steps[..3].join(" ").as_str(), &guide["next"]),
        ("done done next", &"alice-next-ca".into())
    );
    alice.ok(&["cert", "rm", "alice-next", "--yes"]);
    // Whoever wants it all the same is told.
    alice.ok(&["cert", "renew", "alice-ca", "--at", &in_days(9)]);
    let checked = alice.cli(&["check"]);
    assert!((checked.stdout + &checked.stderr).contains("which is self-signed, takes over"));
}

#[test]
fn a_certificate_that_was_added_waits_to_be_compared() {
    let pair = Pair::two_gateways();
    let (alice, bob) = (pair.alice(), pair.bob());
    let known = alice.json(&["partner", "show", "BOB"])["sign_certificate"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let own = certificate_name(bob, "BOB");
    bob.ok(&["cert", "renew", &own, "--now", "--name", "bob-new"]);
    let file = alice.path("bob-new.pem");
    bob.ok(&["cert", "export", "bob-new", "--out", file.to_str().unwrap()]);
    let ran = alice.cli(&["cert", "add", "bob-new", "--partner", "BOB", "--file", file.to_str().unwrap()]);
    let words = format!("belongs to BOB, for its signatures only; encryption stays with {known}");
    assert!(ran.code == 0 && ran.stdout.contains(&words), "{ran}");
    assert!(ran.stderr.contains("as2gate cert rollover BOB"), "{ran}");
    let (guide, steps) = progress(alice, "BOB");
    assert_eq!(
        (steps.join(" ").as_str(), &guide["current"]),
        ("done next later later", &known.as_str().into())
    );
    let commands: Vec<Vec<String>> = guide["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["command"].as_str().unwrap().split(' ').skip(1).map(str::to_owned).collect())
        .collect();
    let follow = |n: usize| alice.ok(&commands[n].iter().map(String::as_str).collect::<Vec<_>>());
    follow(1);
    follow(2);
    let (guide, steps) = progress(alice, "BOB");
    assert_eq!(
        (steps.join(" ").as_str(), &guide["current"]),
        ("done done done next", &"bob-new".into())
    );
    follow(3);
    let shown = alice.json(&["partner", "show", "BOB"]);
    assert_eq!(
        (&shown["sign_certificate"], &shown["encrypt_certificate"]),
        (&serde_json::json!(["bob-new"]), &"bob-new".into())
    );
    alice.followed();
    assert_eq!(pair.fetch(&pair.deliver("after.edi", &order(2))), order(2));
}

#[test]
fn a_switch_without_the_word_of_a_partner_is_asked_for_and_told() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    gateway.ok(&["partner", "add", "BOB", "--url", "https://as2.bob.example/as2"]);
    let old = certificate_name(&gateway, "ALICE");
    gateway.ok(&["cert", "renew", &old, "--at", &in_days(2), "--name", "alice-next"]);
    let signs_with = |name: &str| gateway.json(&["station", "show", "ALICE"])["certificate"] == name;
    // On a terminal, which the program has for its standard input.
    let on_terminal = |args: &[&str], answer: &str| {
        let program = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
        let mut command = tool("python3", &["-c", program]);
        let as2gate = tests::process::as2gate().canonicalize().unwrap();
        command.arg(as2gate).args(args).current_dir(gateway.path(""));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AS2GATE_")) {
            command.env_remove(name);
        }
        tests::process::run_with(&mut command, answer)
    };
    for args in [&["cert", "switch", "alice-next"][..], &["cert", "renew", &old, "--now"]] {
        let ran = on_terminal(args, "n\n");
        assert!(ran.code == 5 && ran.stdout.contains("not confirmed by BOB"), "{args:?}: {ran}");
        assert!(signs_with(&old), "{args:?}");
    }
    // A script has decided already, and is told.
    let ran = gateway.cli(&["cert", "switch", "alice-next"]);
    let words = "note: certificate alice-next signs now and is not confirmed by BOB; as2gate cert rollover ALICE";
    assert!(ran.code == 0 && ran.stderr.contains(words) && signs_with("alice-next"), "{ran}");
    gateway.ok(&["cert", "confirm", "alice-next", "--partner", "BOB"]);
    let ran = gateway.cli(&["cert", "renew", "alice-next", "--now", "--name", "third"]);
    assert!(
        ran.code == 0 && ran.stderr.contains("certificate third signs now and is not confirmed by BOB"),
        "{ran}"
    );
    assert!(gateway.ok(&["check"]).contains("certificate third signs now"));
}

#[test]
fn a_planned_switch_can_be_moved() {
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let old = certificate_name(&gateway, "ALICE");
    let ran = gateway.cli(&["cert", "switch", &old]);
    assert!(ran.code != 0 && ran.stderr.contains("none is planned"), "{ran}");
    gateway.ok(&["cert", "renew", &old, "--at", &in_days(2), "--name", "alice-next"]);
    let later = in_days(9);
    gateway.ok(&["cert", "switch", "alice-next", "--at", &later]);
    let shown = gateway.json(&["cert", "show", "alice-next"]);
    assert!(shown["active_from"].as_str().unwrap().starts_with(&later[..16]), "{shown:#}");
    assert_eq!(gateway.json(&["cert", "rollover", "ALICE"])["current"], old.as_str());
    gateway.ok(&["cert", "switch", "alice-next"]);
    assert_eq!(gateway.json(&["station", "show", "ALICE"])["certificate"], "alice-next");
}
