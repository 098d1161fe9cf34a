//! Settings of a partner as they show on the wire: variables, logins, limits of time.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tests::process::{free_port, run, tool};
use tests::wire::{Hit, exchange, header_lines, http, serve};
use tests::{Gateway, Pair, order, wait_for};

/// The header block that came with a received message.
fn headers_of(pair: &Pair, got: &Value) -> String {
    let id = got["id"].as_str().unwrap();
    let bytes = pair.bob_user.get(&format!("AS2/headers/BOB/ALICE/inbox/{id}/headers.txt"));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn variables_fill_subject_file_name_and_headers() {
    let pair = Pair::two_gateways();
    pair.alice().change(&[
        "partner",
        "set",
        "BOB",
        "--subject",
        "$stem of $station for $partner, $$5",
        "--file-name",
        "../x/${stem}_$date.$ext",
        "--set",
        "headers.X-Source=$file;$id",
    ]);
    pair.put("order-1.edi", &order(1));
    let sent = pair.alice().reaches("out", "order-1.edi", "delivered");
    let created = sent["created"].as_str().unwrap();
    let wanted = format!("order-1_{}.edi", created[..10].replace('-', ""));
    let got = pair.bob().reaches("in", &wanted, "filed");
    assert_eq!(got["subject"], "order-1 of ALICE for BOB, $5", "{got:#}");
    let headers = headers_of(&pair, &got);
    let line = format!("X-Source: order-1.edi;{}", sent["id"].as_str().unwrap());
    assert!(headers.lines().any(|found| found == line), "{headers}");
}

#[test]
fn messages_and_receipts_announce_the_version_and_what_it_has() {
    let pair = Pair::two_gateways();
    let url = format!("http://127.0.0.1:{}/as2", pair.bob().as2_port);
    let announced = |file: &str, version: &str, features: Option<&str>, product: Option<&str>| {
        let parcel = pair.deliver(file, &order(9));
        let mdn = pair.alice_user.get(&format!("AS2/raw-mdn/incoming/{}.mdn", parcel.sent_id()));
        let mdn = String::from_utf8_lossy(&mdn).into_owned();
        let (head, _) = mdn.split_once("\r\n\r\n").unwrap();
        let message = headers_of(&pair, &parcel.got);
        for block in [message.as_str(), head] {
            let lines = header_lines(block);
            let field = |name: &str| lines.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
            assert_eq!(field("AS2-Version"), Some(version), "{block}");
            assert_eq!(field("EDIINT-Features"), features, "{block}");
            assert_eq!(field("AS2-Product"), product, "{block}");
        }
        let address = header_lines(&message).into_iter().find(|(name, _)| name == "Recipient-Address");
        assert_eq!(address.map(|(_, value)| value), Some(url.clone()), "{message}");
    };
    let multiple = Some("multiple-attachments");
    announced("unset.edi", "1.2", multiple, None);
    // What a query holds is between the two ends: the line tells the way to the door and no more.
    pair.alice()
        .change(&["partner", "set", "BOB", "--url", &format!("{url}?key=secret")]);
    let version = pair.alice().ok(&["--version"]);
    let product = version.trim().replace(' ', ":");
    for (version, features, product) in [("1.1", None, None), ("1.2", multiple, None), ("1.3", multiple, Some(&*product))] {
        pair.alice().change(&["partner", "set", "BOB", "--as2-version", version]);
        pair.bob().change(&["partner", "set", "ALICE", "--as2-version", version]);
        announced(&format!("order-{version}.edi"), version, features, product);
    }
}

#[test]
fn receipts_copies_and_signatures_are_as_the_partner_is_set() {
    let pair = Pair::two_gateways();
    let alice = pair.alice();
    let switches = [
        "--mdn-required",
        "true",
        "--protect-algorithms",
        "true",
        "--originator-copy",
        "true",
    ];
    alice.change(&[&["partner", "set", "BOB", "--micalgs", "sha512,sha384"][..], &switches].concat());
    let parcel = pair.deliver("order.edi", &order(4));
    let headers = headers_of(&pair, &parcel.got);
    let wanted = "signed-receipt-protocol=required, pkcs7-signature; signed-receipt-micalg=required, sha-512, sha-384";
    assert!(headers.contains(wanted), "{headers}");
    let mic = parcel.sent["mic"].as_str().unwrap();
    assert!(mic.ends_with(", sha-512") && parcel.got["mic"] == mic, "{mic}");

    // What was sent opens with ALICE's own key, by a program that is not ours.
    let raw = pair
        .alice_user
        .get(&format!("AS2/raw-message/ALICE/BOB/outbox/{}/message.as2", parcel.sent_id()));
    let raw = alice.file("message.as2", &raw);
    let certificate = alice.file("alice.crt", tests::pair::station_certificate(alice, "ALICE").as_bytes());
    let (key, plain) = (tests::pair::private_key(alice, "alice.pem"), alice.path("plain"));
    let at = |path: &std::path::Path| path.display().to_string();
    let recipient = ["-recip", &at(&certificate), "-inkey", &at(&key)];
    let files = [
        "cms",
        "-decrypt",
        "-binary",
        "-inform",
        "DER",
        "-in",
        &at(&raw),
        "-out",
        &at(&plain),
    ];
    let _ = run(&mut tool("openssl", &[&files[..], &recipient].concat())).ok();
    let opened = std::fs::read(&plain).unwrap();
    assert!(opened.windows(order(4).len()).any(|window| window == order(4)));

    // Its signature covers the algorithms; OpenSSL, which reads it, says so.
    let printed = run(&mut tool(
        "openssl",
        &["cms", "-cmsout", "-print", "-noout", "-inform", "SMIME", "-in", &at(&plain)],
    ))
    .ok();
    assert!(printed.contains("1.2.840.113549.1.9.52"), "{printed}");

    // Without its certificate the signature is found by issuer and number, in the message and in the receipt.
    let signers = |gateway: &Gateway, raw: &[u8]| {
        let file = gateway.file("signed", raw);
        let args = ["cms", "-cmsout", "-print", "-noout", "-inform", "SMIME", "-in", &at(&file)];
        run(&mut tool("openssl", &args)).ok().matches("d.certificate:").count()
    };
    alice.change(&["partner", "set", "BOB", "--include-certificate", "false", "--encrypt", "none"]);
    pair.bob().change(&[
        "partner",
        "set",
        "ALICE",
        "--include-certificate",
        "false",
        "--require-encrypted",
        "false",
    ]);
    let parcel = pair.deliver("bare.edi", &order(5));
    let file = |what: &str, name: &str| {
        pair.alice_user
            .get(&format!("AS2/{what}/ALICE/BOB/outbox/{}/{name}", parcel.sent_id()))
    };
    let sent = [file("headers", "headers.txt"), b"\r\n".to_vec(), file("raw-message", "message.as2")].concat();
    let receipt = pair.bob_user.get(&format!("AS2/raw-mdn/outgoing/{}.mdn", parcel.got_id()));
    assert_eq!(
        [
            signers(alice, &std::fs::read(&plain).unwrap()),
            signers(alice, &sent),
            signers(alice, &receipt)
        ],
        [1, 0, 0]
    );

    for (setting, value) in [("--micalgs", "sha1"), ("--micalgs", "sha256,sha256"), ("--micalgs", "md5")] {
        assert_eq!(alice.cli(&["partner", "set", "BOB", setting, value]).code, 4, "{value}");
    }
}

#[test]
fn digests_are_spelt_as_each_side_is_set_and_read_either_way() {
    let pair = Pair::two_gateways();
    // In clear the signature's headers are those of HTTP.
    let (ours, theirs) = (["--encrypt", "none"], ["--require-encrypted", "false"]);
    for (alices, bobs, in_message, in_mdn) in [
        ("rfc3851", "rfc5751", "sha256", "sha-256"),
        ("rfc5751", "rfc3851", "sha-256", "sha256"),
    ] {
        let set = |gateway: &Gateway, id: &str, names: &str, more: &[&str]| {
            gateway.change(&[&["partner", "set", id, "--digest-names", names], more].concat())
        };
        set(pair.alice(), "BOB", alices, &ours);
        set(pair.bob(), "ALICE", bobs, &theirs);
        let parcel = pair.deliver(&format!("{alices}.edi"), &order(3));
        let message = headers_of(&pair, &parcel.got);
        let mdn = pair.alice_user.get(&format!("AS2/raw-mdn/incoming/{}.mdn", parcel.sent_id()));
        let mdn = String::from_utf8_lossy(&mdn).into_owned();
        let ends = |block: &str, field: &str, name: &str| {
            let value = block.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "));
            value.is_some_and(|value| value.ends_with(&format!(", {name}")))
        };
        assert!(ends(&message, "Disposition-Notification-Options", in_message), "{message}");
        assert!(message.contains(&format!("; micalg={in_message}; ")), "{message}");
        assert!(ends(&mdn, "Received-content-MIC", in_mdn), "{mdn}");
        assert!(mdn.contains(&format!("; micalg={in_mdn}; ")), "{mdn}");
    }
}

#[test]
fn an_envelope_has_definite_lengths_up_to_the_size_that_is_set_and_chunks_above() {
    const MOST: usize = 200_000;
    let pair = Pair::two_gateways();
    let (alice, bob) = (pair.alice(), pair.bob());
    alice.change(&["partner", "set", "BOB", "--der-max", &MOST.to_string()]);
    let at = |path: &std::path::Path| path.display().to_string();
    let sender = bob.file("alice.crt", tests::pair::station_certificate(alice, "ALICE").as_bytes());
    let certificate = bob.file("bob.crt", tests::pair::station_certificate(bob, "BOB").as_bytes());
    let key = tests::pair::private_key(bob, "bob.pem");
    for size in [MOST, MOST + 1] {
        let bytes: Vec<u8> = order(8).into_iter().cycle().take(size).collect();
        let parcel = pair.deliver(&format!("{size}.edi"), &bytes);
        let raw = format!("AS2/raw-message/BOB/ALICE/inbox/{}/message.as2", parcel.got_id());
        let raw = pair.bob_user.get(&raw);
        let length = format!("Content-Length: {}\r\n", raw.len());
        let headers = headers_of(&pair, &parcel.got);
        assert!(headers.contains(&length), "{size}: no {length} in {headers}");

        let file = bob.file("message.as2", &raw);
        let parsed = run(&mut tool("openssl", &["asn1parse", "-inform", "DER", "-in", &at(&file)])).ok();
        // The pieces of the content stand last, behind the tag [0] that they are under.
        let (before, content) = parsed.rsplit_once("cont [ 0 ]").unwrap();
        let length = |line: &str| line.split(" l=").nth(1)?.split_whitespace().next()?.parse::<usize>().ok();
        let pieces: Vec<usize> = content
            .lines()
            .filter(|line| line.contains("OCTET STRING"))
            .filter_map(length)
            .collect();
        if size <= MOST {
            assert!(!parsed.contains("l=inf") && pieces.is_empty(), "{pieces:?}");
            assert!(before.lines().last().and_then(length).is_some_and(|all| all > size), "{before}");
        } else {
            let (last, full) = pieces.split_last().unwrap();
            assert!(full == [64 << 10; 3] && *last < 64 << 10, "{pieces:?}");
            assert!(before.lines().last().unwrap().contains("l=inf"), "{before}");
        }

        let (opened, content) = (at(&bob.path("opened")), at(&bob.path("content")));
        let from = ["-decrypt", "-binary", "-inform", "DER", "-in", &at(&file), "-out", &opened];
        let with = ["-recip", &at(&certificate), "-inkey", &at(&key)];
        let _ = run(&mut tool("openssl", &[&["cms"][..], &from, &with].concat())).ok();
        let from = ["-verify", "-inform", "SMIME", "-in", &opened, "-out", &content];
        let with = ["-certfile", &at(&sender), "-nointern", "-noverify"];
        let _ = run(&mut tool("openssl", &[&["cms"][..], &from, &with].concat())).ok();
        assert!(std::fs::read(&content).unwrap().ends_with(&bytes), "{size}: other bytes");
    }
}

#[test]
fn legacy_digests_are_for_legacy_partners_both_ways() {
    let pair = Pair::two_gateways();
    let (alice, bob) = (pair.alice(), pair.bob());
    for (setting, value) in [("--sign", "sha1"), ("--sign", "sha224"), ("--micalgs", "sha256,sha224")] {
        let words = alice.cli(&["partner", "set", "BOB", setting, value]).fails(4);
        assert!(words.contains("old partners only") && words.contains("legacy = true"), "{words}");
    }
    bob.change(&["partner", "set", "ALICE", "--legacy"]);
    alice.change(&["partner", "set", "BOB", "--sign", "sha224", "--legacy"]);
    let parcel = pair.deliver("old.edi", &order(6));
    let mic = parcel.sent["mic"].as_str().unwrap();
    assert!(mic.ends_with(", sha-224"), "{mic}");
    assert_eq!(parcel.sent["marks"], serde_json::json!(["SHA-224"]), "{:#}", parcel.sent);
    // What leans on the switch keeps it on.
    let words = alice.cli(&["partner", "set", "BOB", "--legacy", "false"]).fails(4);
    assert!(words.contains("sign names sha224"), "{words}");

    // Settings of before that rule are told of, stop no server and no other change, and go by the command that is named.
    alice.sql(
        "UPDATE object SET json = json_set(json, '$.legacy', json('false'), '$.micalgs', json('[\"sha224\", \"sha384\"]')) \
         WHERE kind = 'partner' AND name = 'BOB'",
    );
    alice.restart();
    let told = alice.ok(&["check"]);
    let wanted = "warn  partner BOB has sign sha224 and micalgs sha224, ";
    let mend = "as2gate partner set BOB --sign sha256 --micalgs sha384";
    assert!(told.contains(wanted) && told.contains(&format!("({mend}, or ")), "{told}");
    alice.change(&["partner", "set", "BOB", "--name", "Bob and sons"]);
    let mend: Vec<&str> = mend.split(' ').skip(1).collect();
    alice.change(&mend);
    let told = alice.ok(&["check"]);
    assert!(!told.contains("warn"), "{told}");
    let parcel = pair.deliver("new.edi", &order(7));
    assert!(parcel.sent["mic"].as_str().unwrap().ends_with(", sha-384"), "{:#}", parcel.sent);
}

#[test]
fn a_variable_in_what_a_user_names_stays_text() {
    let pair = Pair::two_gateways();
    pair.alice().change(&["partner", "set", "BOB", "--subject", "[$file]"]);
    let parcel = pair.deliver("$station ${id}.edi", &order(2));
    assert_eq!(parcel.got["subject"], "[$station ${id}.edi]", "{:#}", parcel.got);
}

#[test]
fn a_slash_in_an_id_makes_no_path_of_a_file_name() {
    let gateway = Gateway::new();
    gateway.ok(&["station", "add", "ALICE"]);
    let nobody = format!("http://127.0.0.1:{}/as2", free_port());
    let plain = ["--private", "true", "--sign", "none", "--encrypt", "none"];
    let named = ["--url", &nobody, "--file-name", "$partner-$stem.$ext"];
    gateway.ok(&[&["partner", "add", "X/Y"][..], &named, &plain].concat());
    gateway.file("o1.edi", &order(1));
    gateway.ok(&["send", "o1.edi", "--from", "ALICE", "--to", "X/Y"]);
    let shown = gateway.reaches("out", "o1.edi", "retrying");
    assert!(shown["headers"].as_str().unwrap().contains("filename=\"X_Y-o1.edi\""), "{shown:#}");
}

#[test]
fn unknown_variables_are_refused_where_they_are_written() {
    let pair = Pair::one_gateway();
    for setting in [
        ["--subject", "$filename"],
        ["--file-name", "x-${nobody}"],
        ["--set", "headers.X-A=$"],
    ] {
        let ran = pair.alice().cli(&[&["partner", "set", "BOB"][..], &setting].concat());
        assert!(
            ran.code != 0 && ran.stderr.contains("$station") && ran.stderr.contains("$$"),
            "{ran}"
        );
    }
    let file = pair.alice().file("a.edi", &order(3));
    let ran = pair.alice().cli(&[
        "send",
        file.to_str().unwrap(),
        "--from",
        "ALICE",
        "--to",
        "BOB",
        "--subject",
        "costs $5",
    ]);
    assert!(ran.code != 0 && ran.stderr.contains("is no variable"), "{ran}");
}

#[test]
fn both_ends_show_the_subject_as_people_read_it() {
    let pair = Pair::one_gateway();
    let file = pair.alice().file("subject.edi", &order(1));
    let subject = "Bestellung für März $file \u{20ac}$$5";
    pair.alice().ok(&[
        "send",
        file.to_str().unwrap(),
        "--from",
        "ALICE",
        "--to",
        "BOB",
        "--subject",
        subject,
    ]);
    let parcel = pair.delivered("subject.edi");
    let expanded = "Bestellung für März subject.edi \u{20ac}$5";
    assert_eq!(
        (&parcel.sent["subject"], &parcel.got["subject"]),
        (&expanded.into(), &expanded.into())
    );
    // A repeat is made of what this one was made of.
    pair.alice().ok(&["message", "resend", parcel.sent_id()]);
    let again = wait_for("the repeat", || {
        let all = pair.alice().messages_of("in", "subject.edi");
        (all.len() == 2).then_some(all)
    });
    assert!(again.iter().all(|message| message["subject"] == expanded), "{again:#?}");
}

#[test]
fn a_partner_may_have_to_log_in() {
    let pair = Pair::two_gateways();
    let password = "correct horse: battery";
    for gateway in [pair.alice(), pair.bob()] {
        gateway.file("password.txt", password.as_bytes());
        gateway.file("wrong.txt", b"correct horse: bat");
    }
    pair.bob().change(&[
        "partner",
        "set",
        "ALICE",
        "--inbound-user",
        "alice",
        "--inbound-password",
        "file:password.txt",
    ]);
    let refused = |name: &str| {
        pair.put(name, &order(4));
        let failed = pair.alice().reaches("out", name, "failed");
        assert_eq!(failed["code"], "http-401", "{failed:#}");
        assert!(failed["hint"].to_string().contains("--http-user"), "{failed:#}");
        assert!(pair.bob().messages_of("in", name).is_empty());
    };
    refused("without.edi");
    let give = |file: &str| {
        let password = format!("file:{file}");
        pair.alice()
            .change(&["partner", "set", "BOB", "--http-user", "alice", "--http-password", &password]);
    };
    give("wrong.txt");
    refused("wrong.edi");
    give("password.txt");
    let parcel = pair.deliver("right.edi", &order(5));
    // What users may fetch never holds the password.
    let headers = headers_of(&pair, &parcel.got);
    assert!(
        headers.contains("Authorization: ***\n") || headers.contains("Authorization: ***\r\n"),
        "{headers}"
    );
    let shown = pair.bob().ok(&["partner", "show", "ALICE", "-o", "json"]);
    assert!(!shown.contains(password) && !headers.contains("Basic "), "{shown}");

    // The other way an async MDN comes by a POST of ALICE, whose signature is its proof. Nothing else passes there.
    pair.bob().change(&["partner", "set", "ALICE", "--mdn", "async-signed"]);
    let back = pair.bob().file("back.edi", &order(6));
    pair.bob().ok(&["send", back.to_str().unwrap(), "--from", "BOB", "--to", "ALICE"]);
    pair.bob().reaches("out", "back.edi", "delivered");
    let names = [("AS2-From", "ALICE"), ("AS2-To", "BOB"), ("Message-ID", "<x@test>")];
    let names = names.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(exchange(pair.bob().as2_port, "POST", "/mdn", &names, b"no MDN").status, 401);
}

#[test]
fn a_partner_comes_from_the_addresses_that_are_set_for_it() {
    let pair = Pair::two_gateways();
    let allow = |blocks: &str| {
        pair.bob().change(&["partner", "set", "ALICE", "--allowed-ips", blocks]);
    };
    allow("192.0.2.0/24,::1");
    pair.put("elsewhere.edi", &order(1));
    let failed = pair.alice().reaches("out", "elsewhere.edi", "failed");
    assert_eq!(failed["code"], "http-403", "{failed:#}");
    assert!(pair.bob().messages_of("in", "elsewhere.edi").is_empty());
    let log = pair.bob().log();
    assert!(
        log.contains("does not come from this address") && log.contains("127.0.0.1:"),
        "{log}"
    );
    allow("192.0.2.0/24,127.0.0.0/8");
    pair.deliver("here.edi", &order(2));
    let refused = pair
        .bob()
        .cli(&["partner", "set", "ALICE", "--allowed-ips", "192.0.2.0/33"])
        .fails(4);
    assert!(refused.contains("192.0.2.0/33"), "{refused}");
}

#[test]
fn the_first_bytes_may_tell_the_content_type() {
    let pair = Pair::two_gateways();
    pair.alice().change(&["partner", "set", "BOB", "--content-type", "detect"]);
    let large = [b"UNB+UNOA:1+ALICE+BOB'".as_slice(), &vec![b'X'; 1 << 20]].concat();
    for (name, bytes, wanted) in [
        (
            "orders.dat",
            b"ISA*00*          *00*          *ZZ*".as_slice(),
            "application/EDI-X12",
        ),
        ("invoices", &large, "application/EDIFACT"),
        ("note.txt", b"ISA is a name", "text/plain"),
    ] {
        let parcel = pair.deliver(name, bytes);
        assert_eq!(parcel.sent["content_type"], wanted, "{name}");
        assert_eq!(parcel.got["content_type"], wanted, "{name}");
    }
}

#[test]
fn a_post_without_the_credentials_is_challenged_before_its_body() {
    let pair = Pair::two_gateways();
    pair.bob().file("password.txt", b"secret");
    pair.bob().change(&[
        "partner",
        "set",
        "ALICE",
        "--inbound-user",
        "alice",
        "--inbound-password",
        "file:password.txt",
    ]);
    let lines = |auth: Option<&str>| {
        let mut lines: Vec<(String, String)> = [("AS2-From", "ALICE"), ("AS2-To", "BOB"), ("Message-ID", "<x@test>")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
        lines.extend(auth.map(|auth| ("Authorization".to_owned(), auth.to_owned())));
        lines
    };
    // YWxpY2U6c2VjcmV0 = alice:secret
    for (auth, status) in [
        (None, 401),
        (Some("Basic"), 401),
        (Some("Basic ***"), 401),
        (Some("Bearer YWxpY2U6c2VjcmV0"), 401),
        (Some("Basic YWxpY2U6c2VjcmV1"), 401),
        (Some("Basic YWxpY2U6"), 401),
        (Some("basic YWxpY2U6c2VjcmV0"), 204),
    ] {
        let answer = exchange(pair.bob().as2_port, "POST", "/as2", &lines(auth), b"hello");
        assert_eq!(answer.status, status, "{auth:?}: {}", answer.text());
        let challenge = answer.header("WWW-Authenticate").unwrap_or_default();
        assert_eq!(challenge.starts_with("Basic realm="), status == 401, "{auth:?}");
    }
}

/// A partner that wants a token: `/token` gives them to who knows the client's secret, `/as2` takes the newest only. Its port, and
/// what came. `revokes`: each token that it gives is a new one.
fn bearer_partner(next: Arc<AtomicUsize>, revokes: bool) -> (u16, Arc<Mutex<Vec<Hit>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let hits = serve(listener, move |hit, _| {
        let (path, shown) = shown_to(hit);
        let wants_token = path == "/token";
        if revokes && wants_token {
            // Who comes side by side has time to ask for one too.
            std::thread::sleep(Duration::from_millis(500));
            next.fetch_add(1, Ordering::SeqCst);
        }
        let newest = format!("t{}", next.load(Ordering::SeqCst));
        if !wants_token {
            http(if shown == format!("Bearer {newest}") { 204 } else { 401 }, &[], "")
        } else if shown == "Basic Y2xpZW50OnMlM0Fl" && hit.message.body == b"grant_type=client_credentials&scope=as2.send" {
            let json = format!(r#"{{"access_token":"{newest}","token_type":"Bearer","expires_in":3600}}"#);
            http(200, &[], &json)
        } else {
            http(401, &[], r#"{"error":"invalid_client"}"#)
        }
    });
    (port, hits)
}

/// Path and credentials of a request.
fn shown_to(hit: &Hit) -> (&str, &str) {
    let path = hit.head.split(' ').nth(1).unwrap_or_default();
    (path, hit.message.header("Authorization").unwrap_or_default())
}

#[test]
fn a_token_is_fetched_kept_and_fetched_again_when_it_is_withdrawn() {
    let pair = Pair::two_gateways();
    let newest = Arc::new(AtomicUsize::new(1));
    let (port, hits) = bearer_partner(Arc::clone(&newest), false);
    pair.alice().file("right.txt", b"s:e");
    pair.alice().file("wrong.txt", b"s:f");
    let set = |more: &[&str]| {
        pair.alice().change(&[&["partner", "set", "BOB"], more].concat());
    };
    let (url, token_url) = (format!("http://127.0.0.1:{port}/as2"), format!("http://127.0.0.1:{port}/token"));
    let client = ["--http-user", "client", "--http-password", "file:right.txt"];
    set(&[
        ["--url", &url, "--mdn", "none"],
        ["--token-url", &token_url, "--token-scope", "as2.send"],
        client,
    ]
    .concat());
    let sends = |name: &str, state: &str| {
        pair.put(name, &order(1));
        pair.alice().reaches("out", name, state)
    };
    sends("first.edi", "delivered");
    sends("second.edi", "delivered");
    newest.store(2, Ordering::SeqCst);
    let third = sends("third.edi", "delivered");
    let headers = pair.alice_user.get(&format!(
        "AS2/headers/ALICE/BOB/outbox/{}/headers.txt",
        third["id"].as_str().unwrap()
    ));
    assert!(
        String::from_utf8_lossy(&headers).contains("Authorization: Bearer ***"),
        "a token in the evidence"
    );
    let (fetch, post, again) = (("/token", "Basic Y2xpZW50OnMlM0Fl"), ("/as2", "Bearer t1"), ("/as2", "Bearer t2"));
    let seen = hits.lock().unwrap().clone();
    let seen: Vec<_> = seen.iter().map(shown_to).collect();
    assert_eq!(seen, [fetch, post, post, post, fetch, again]);

    set(&["--http-password", "file:wrong.txt"]);
    let failed = sends("refused.edi", "failed");
    assert_eq!(failed["code"], "token-refused", "{failed:#}");
    assert!(failed["reason"].to_string().contains("HTTP 401 invalid_client"), "{failed:#}");
    let plain = pair.alice().cli(&["partner", "set", "BOB", "--private", "false"]).fails(4);
    assert!(plain.contains("needs https"), "{plain}");
}

#[test]
fn messages_side_by_side_share_one_token() {
    let pair = Pair::two_gateways();
    let (port, hits) = bearer_partner(Arc::new(AtomicUsize::new(0)), true);
    pair.alice().file("right.txt", b"s:e");
    let (url, token_url) = (format!("http://127.0.0.1:{port}/as2"), format!("http://127.0.0.1:{port}/token"));
    pair.alice().change(
        &[
            &["partner", "set", "BOB", "--url", &url, "--mdn", "none"][..],
            &["--token-url", &token_url, "--token-scope", "as2.send"],
            &["--http-user", "client", "--http-password", "file:right.txt"],
        ]
        .concat(),
    );
    let names: Vec<String> = (0..6).map(|n| format!("side{n}.edi")).collect();
    let files: Vec<_> = names.iter().map(|name| pair.alice().file(name, &order(1))).collect();
    let lines: Vec<String> = files
        .iter()
        .map(|file| format!("put {} AS2/send/ALICE/BOB/", file.display()))
        .collect();
    let _ = pair.alice_user.ok(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    for name in &names {
        pair.alice().reaches("out", name, "delivered");
    }
    let seen = hits.lock().unwrap().clone();
    let seen: Vec<_> = seen.iter().map(shown_to).collect();
    assert_eq!(seen.iter().filter(|(path, _)| *path == "/token").count(), 1, "{seen:?}");
}

#[test]
fn a_post_that_drips_on_ends_with_the_time_in_all() {
    let pair = Pair::two_gateways();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/as2", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut piece = [0; 65536];
            let _ = stream.read(&mut piece);
            // Interim answers and a head that never ends keep every other clock of the client alive.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            while stream.write_all(b"X: y\r\n").is_ok() {
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    });
    pair.alice().change(&[
        "partner",
        "set",
        "BOB",
        "--url",
        &url,
        "--total-timeout",
        "2s",
        "--retry-max-tries",
        "1",
    ]);
    pair.put("slow.edi", &order(7));
    let failed = pair.alice().reaches("out", "slow.edi", "failed");
    assert!(failed["reason"].to_string().contains("not done within 2 s"), "{failed:#}");
}

#[test]
fn an_unpacked_zip_arrives_as_several_files() {
    let pair = Pair::two_gateways();
    pair.alice().change(&["partner", "set", "BOB", "--zip", "unpack"]);
    let path = pair.alice().path("bundle.zip");
    let script = "import sys, zipfile\n\
                  z = zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED)\n\
                  z.writestr('order.xml', '<order/>')\n\
                  z.writestr('../up/scan.tif', b'II*\\0' + b'x' * 5000)\n\
                  z.writestr('other/order.xml', '<second/>')\n\
                  z.close()";
    let _ = run(&mut tool("python3", &["-c", script, path.to_str().unwrap()])).ok();
    pair.alice_user.put(&path, "AS2/send/ALICE/BOB/bundle.zip");
    let sent = pair.alice().reaches("out", "bundle.zip", "delivered");
    assert_eq!(
        sent["mdn_disposition"].as_str().unwrap().split("; ").last(),
        Some("processed"),
        "{sent:#}"
    );
    let got = pair.bob().reaches("in", "order.xml", "filed");
    let inbox = format!("AS2/files/BOB/ALICE/inbox/{}", got["id"].as_str().unwrap());
    let mut names = pair.bob_user.ls(&inbox);
    names.sort();
    assert_eq!(names, ["order.xml", "order~2.xml", "scan.tif"]);
    assert_eq!(pair.bob_user.get(&format!("{inbox}/order.xml")), b"<order/>");
    assert_eq!(pair.bob_user.get(&format!("{inbox}/order~2.xml")), b"<second/>");
    assert_eq!(pair.bob_user.get(&format!("{inbox}/scan.tif")).len(), 5004);

    let bomb = pair.alice().path("bomb.zip");
    let script = "import sys, zipfile\n\
                  z = zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED)\n\
                  z.writestr('zeros.bin', bytes(30_000_000))\n\
                  z.close()";
    let _ = run(&mut tool("python3", &["-c", script, bomb.to_str().unwrap()])).ok();
    pair.alice_user.put(&bomb, "AS2/send/ALICE/BOB/bomb.zip");
    let failed = pair.alice().reaches("out", "bomb.zip", "failed");
    assert_eq!(failed["code"], "bad-zip", "{failed:#}");
    assert!(failed["reason"].to_string().contains("over 200 times its size"), "{failed:#}");
}

/// Posts as they come, and how many were open at once at most.
struct Counter {
    url: String,
    hits: Arc<Mutex<Vec<Hit>>>,
    peak: Arc<AtomicUsize>,
}

impl Counter {
    /// Answers each post with 204, or the first `busy` ones with 503, after a pause that begins when `together` were open at once.
    fn new(busy: usize, together: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/as2", listener.local_addr().unwrap());
        let (peak, open) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let most = Arc::clone(&peak);
        let hits = serve(listener, move |_, count| {
            most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            wait_for("others beside it", || (most.load(Ordering::SeqCst) >= together).then_some(()));
            std::thread::sleep(Duration::from_millis(300));
            open.fetch_sub(1, Ordering::SeqCst);
            http(if count <= busy { 503 } else { 204 }, &[], "")
        });
        Counter { url, hits, peak }
    }

    /// The file names, which the posts have as their subject, in order.
    fn names(&self) -> Vec<String> {
        let hits = self.hits.lock().unwrap();
        hits.iter().map(|hit| hit.message.header("Subject").unwrap().to_owned()).collect()
    }
}

fn send_six(pair: &Pair, counter: &Counter, options: &[&str]) {
    let set = [
        "partner",
        "set",
        "BOB",
        "--url",
        &counter.url,
        "--mdn",
        "none",
        "--subject",
        "$file",
    ];
    pair.alice().change(&[&set[..], options].concat());
    for n in 1..=6 {
        pair.put(&format!("f{n}.edi"), &order(n));
    }
    for n in 1..=6 {
        pair.alice().reaches("out", &format!("f{n}.edi"), "delivered");
    }
}

#[test]
fn no_more_posts_at_once_than_the_partner_takes() {
    let pair = Pair::two_gateways();
    let counter = Counter::new(0, 2);
    send_six(&pair, &counter, &["--max-parallel", "2"]);
    assert_eq!((counter.names().len(), counter.peak.load(Ordering::SeqCst)), (6, 2));
}

#[test]
fn an_ordered_partner_gets_one_after_the_other_even_past_a_retry() {
    let pair = Pair::two_gateways();
    let counter = Counter::new(1, 1);
    send_six(&pair, &counter, &["--in-order", "true"]);
    assert_eq!(
        counter.names(),
        ["f1.edi", "f1.edi", "f2.edi", "f3.edi", "f4.edi", "f5.edi", "f6.edi"]
    );
    assert_eq!(counter.peak.load(Ordering::SeqCst), 1);
}

#[test]
fn a_preset_says_what_it_sets_and_what_else_to_know() {
    let gateway = Gateway::stopped(&[]);
    let presets = gateway.json(&["partner", "presets"]);
    let names = presets.as_array().unwrap().iter().map(|preset| preset["name"].as_str().unwrap());
    for (n, name) in names.enumerate() {
        let (id, preset) = (format!("P{n}"), gateway.json(&["partner", "presets", name]));
        let url = "https://partner.example/as2";
        let ran = gateway.cli(&["partner", "add", &id, "--url", url, "--preset", name]);
        assert!(
            ran.code == 0 && ran.stderr.contains(&format!("preset {name}: ")) && ran.stderr.contains(preset["advice"].as_str().unwrap()),
            "{ran}"
        );
        let shown = gateway.json(&["partner", "show", &id]);
        for setting in preset["settings"].as_array().unwrap() {
            let (field, value) = (setting["field"].as_str().unwrap(), setting["value"].as_str().unwrap());
            assert!(ran.stderr.contains(&format!("{field} = {value}")), "{ran}");
            assert_eq!(shown[field].to_string().trim_matches('"'), value, "{shown:#}");
        }
    }
}
