//! What comes in and is no good message: every word of the answer, the list and the inbox (as2.md §8, X1–X14, X16).

use super::*;

#[test]
fn a_hand_made_message_gets_through() {
    // The control of the tests below.
    let stage = stage();
    let sealed = payload().signed(&stage.partner).encrypted(&stage.ours);
    for (id, entity) in [("<clear@test>", payload().signed(&stage.partner)), ("<sealed@test>", sealed)] {
        let answer = entity.message(id).post(stage.gate.as2_port);
        assert_eq!(
            (answer.disposition().as_str(), answer.is_signed()),
            (PROCESSED, true),
            "{}",
            answer.text()
        );
        let rows = stage.listed(id);
        assert!(rows.len() == 1 && stage.inbox().contains(&rows[0]["id"].as_str().unwrap().to_owned()));
    }
    let zipped = compressed(&zlib(&payload().bytes(), 0))
        .message("<zipped@test>")
        .post(stage.gate.as2_port);
    assert_eq!(zipped.disposition(), PROCESSED, "{}", zipped.text());
}

#[test]
fn content_altered_after_signing_is_told_with_the_mic_of_what_came() {
    let stage = stage();
    let content = payload();
    let mut altered = content.signed(&stage.partner);
    let text = String::from_utf8(altered.body).unwrap().replace("PART-0001", "PART-0002");
    altered.body = text.into_bytes();
    let mic = sha256(&content.text().replace("PART-0001", "PART-0002"));
    let said = "processed/error: integrity-check-failed";
    refused(
        &stage,
        &altered.message("<altered@test>"),
        said,
        "integrity-check-failed",
        true,
        Some(&mic),
    );
}

#[test]
fn a_signature_by_a_stranger_is_told_with_the_mic_of_what_came() {
    let stage = stage();
    let content = payload();
    let mic = sha256(&content.text());
    let request = content.signed(&stage.stranger).message("<strange@test>");
    refused(
        &stage,
        &request,
        "processed/error: authentication-failed",
        "authentication-failed",
        true,
        Some(&mic),
    );
}

#[test]
fn all_trouble_with_decryption_is_told_in_the_same_words() {
    let stage = stage();
    let good = payload().signed(&stage.partner).encrypted(&stage.ours);
    let len = good.body.len();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut entity = Entity {
            headers: good.headers.clone(),
            body: good.body.clone(),
        };
        change(&mut entity.body);
        entity
    };
    let find = |what: &[u8]| good.body.windows(what.len()).position(|window| window == what).unwrap();
    // rsaEncryption, NULL, then the wrapped key after four bytes of tag and length.
    let wrapped = find(b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00") + 13 + 4;
    let cipher = find(b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x2a");
    let cases = [
        (
            "other-key",
            payload().signed(&stage.partner).encrypted(&stage.stranger.path("cert.pem")),
        ),
        ("truncated", with(&|body| body.truncate(len - 32))),
        ("padding", with(&|body| body[len - 17] ^= 0x55)),
        ("wrapped-key", with(&|body| body[wrapped + 100] ^= 0x01)),
        // The key of AES-256 for AES-128: its length is wrong, its padding good.
        ("key-length", with(&|body| body[cipher + 10] = 0x02)),
        ("cut-in-half", with(&|body| body.truncate(len / 2))),
        ("no-cms", with(&|body| body.fill(0x55))),
        ("empty", with(&|body| body.clear())),
    ];
    let mut words = Vec::new();
    for (name, entity) in cases {
        let id = format!("<{name}@test>");
        let said = "processed/error: decryption-failed";
        let answer = refused(&stage, &entity.message(&id), said, "decryption-failed", true, None);
        let text = answer.text().replace(&id, "ID");
        // Whose key it takes is for us to know.
        let named = stage.listed(&id)[0]["reason"]
            .as_str()
            .unwrap()
            .starts_with("encrypted for serial ");
        assert_eq!(named, name == "other-key", "{name}");
        assert!(!text.contains("encrypted for") && !text.contains("serial"), "{text}");
        let kept: Vec<_> = text.lines().filter(|line| line.contains("decrypt")).map(str::to_owned).collect();
        words.push((name, kept));
    }
    for (name, kept) in &words {
        assert_eq!(kept, &words[0].1, "{name} is told in other words");
    }
}

#[test]
fn broken_compression_is_refused() {
    let stage = stage();
    let good = zlib(&payload().bytes(), 0);
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 0x10;
    let mut sum = good.clone();
    *sum.last_mut().unwrap() ^= 0x01;
    let twice = compressed(&zlib(&compressed(&good).bytes(), 0));
    let cases = [
        ("zlib-flipped", compressed(&flipped)),
        ("zlib-sum", compressed(&sum)),
        ("zlib-cut", compressed(&good[..good.len() / 2])),
        ("zlib-none", compressed(b"this is no zlib stream")),
        ("zlib-twice", twice),
    ];
    for (name, entity) in cases {
        let request = entity.message(&format!("<{name}@test>"));
        let said = "processed/error: decompression-failed";
        let answer = request.clone().post(stage.gate.as2_port);
        assert!(answer.disposition().ends_with(said), "{name}: {}", answer.text());
        let rows = stage.listed(&format!("<{name}@test>"));
        assert_eq!(
            (rows.len(), &rows[0]["state"], &rows[0]["code"]),
            (1, &"rejected".into(), &"decompression-failed".into()),
            "{name}"
        );
        assert!(
            answer.is_signed() && !stage.inbox().contains(&rows[0]["id"].as_str().unwrap().to_owned()),
            "{name}"
        );
    }
}

#[test]
fn a_bomb_is_refused_within_the_bound_of_memory() {
    let stage = Stage::new(&[]);
    stage.gate.ok(&["partner", "set", CRAFT, "--max-message", "128MiB"]);
    stage.gate.restart();
    let before = stage.gate.peak_memory();
    let bomb = compressed(&zlib(b"Content-Type: application/octet-stream\r\n\r\n", 256)).message("<bomb@test>");
    assert!(bomb.body.len() < 1 << 20);
    let answer = bomb.post(stage.gate.as2_port);
    assert!(
        answer.disposition().ends_with("processed/error: decompression-failed"),
        "{}",
        answer.text()
    );
    assert_eq!(stage.inbox(), [""; 0]);
    let grown = stage.gate.peak_memory() - before;
    assert!(grown < 64 << 20, "the bomb took {grown} bytes");
}

#[test]
fn less_security_than_agreed_is_told_with_a_mic() {
    let stage = stage();
    // Of a plain message the MIC is over the payload alone, of a signed one over what was signed (RFC 4130 §7.3.1).
    let (plain, content) = (payload(), payload());
    let (bare, whole) = (sha256(&String::from_utf8(plain.body.clone()).unwrap()), sha256(&content.text()));
    for (id, option, entity, mic) in [
        ("STRICT1", "--require-signed", plain, bare),
        ("STRICT2", "--require-encrypted", content.signed(&stage.partner), whole),
    ] {
        let other = if option == "--require-signed" {
            "--require-encrypted"
        } else {
            "--require-signed"
        };
        stage.add(id, 9, &[option, "true", other, "false"]);
        let request = entity.message(&format!("<{id}@test>")).with("AS2-From", id);
        // The running server follows within two seconds.
        let answer = wait_for("the new partner", || {
            let answer = request.post(stage.gate.as2_port);
            (!answer.disposition().ends_with("unknown-trading-relationship")).then_some(answer)
        });
        let said = "processed/error: insufficient-message-security";
        assert!(answer.disposition().ends_with(said) && answer.is_signed(), "{}", answer.text());
        let line = format!("received-content-mic: {mic}, sha-256\r\n").to_ascii_lowercase();
        assert!(
            answer.text().to_ascii_lowercase().contains(&line),
            "{id}: not {mic}: {}",
            answer.text()
        );
        let rows = stage.listed(&format!("<{id}@test>"));
        let row = rows.iter().find(|row| row["code"] == "insufficient-message-security").unwrap();
        assert!(rows.iter().all(|row| row["state"] == "rejected"), "{rows:#?}");
        let cure = format!("as2gate partner set {id} {option} false");
        let hint = stage.gate.show(row["id"].as_str().unwrap())["hint"].to_string();
        assert!(hint.ends_with(&format!("{cure}\"")), "no more than that: {hint}");
    }
}

#[test]
fn algorithms_that_were_not_agreed_are_too_little_security() {
    let stage = stage();
    let content = payload();
    let mic = sha256(&content.text());
    let cases = [
        ("legacy", content.signed_with(&stage.partner, "sha1"), Some(mic.as_str())),
        ("accept-md5", content.signed_with(&stage.partner, "md5"), Some(mic.as_str())),
        // Decided before any use of a key, so nothing is known of the content.
        (
            "accept-3des",
            content.signed(&stage.partner).encrypted_with(&stage.ours, "-des3"),
            None,
        ),
    ];
    for (setting, entity, mic) in cases {
        let said = "processed/error: insufficient-message-security";
        let id = format!("<{setting}@test>");
        let request = entity.message(&id);
        refused(&stage, &request, said, "insufficient-message-security", true, mic);
        let row = stage.listed(&id).remove(0);
        let hint = stage.gate.show(row["id"].as_str().unwrap())["hint"].to_string();
        assert!(
            hint.ends_with(&format!(" --{setting} true\"")),
            "the one setting that allows it: {hint}"
        );
        assert_eq!(hint.matches("--").count(), 1, "{hint}");
    }
}

#[test]
fn strangers_and_unknown_stations_are_told_in_the_answer_unsigned() {
    let stage = stage();
    let said = "processed/error: unknown-trading-relationship";
    for (n, (name, value)) in [
        ("AS2-From", "MALLORY"),
        ("AS2-To", "NOBODY"),
        ("AS2-From", "craft"),
        ("AS2-To", "gate"),
        ("AS2-From", &"x".repeat(129)),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("<unknown-{n}@test>");
        let request = payload().signed(&stage.partner).message(&id).with(name, value);
        let answer = refused(&stage, &request, said, "unknown-trading-relationship", false, None);
        assert!(answer.text().contains(&format!("Original-Message-ID: {id}")), "{}", answer.text());
    }
    // Such a name fits into no header of ours, so no MDN can be addressed to it.
    let request = payload()
        .signed(&stage.partner)
        .message("<umlaut@test>")
        .with("AS2-From", "CR\u{c4}FT");
    let answer = request.post(stage.gate.as2_port);
    assert!(
        answer.status == 422 && answer.text().contains("no trading relationship"),
        "{}: {}",
        answer.status,
        answer.text()
    );
    assert_eq!(stage.listed("<umlaut@test>")[0]["state"], "rejected");
}

#[test]
fn receipts_that_cannot_be_made_fail_the_message_unsigned() {
    let stage = stage();
    let protocol = "signed-receipt-protocol=required, pgp-signature; signed-receipt-micalg=optional, sha-256";
    let no_mic = "signed-receipt-protocol=optional, pkcs7-signature; signed-receipt-micalg=required, whirlpool, crc32";
    let unknown = "signed-receipt-protocol=optional, pkcs7-signature; x-keep-for=required, 10y";
    let cases = [
        ("protocol", protocol, "failed/Failure: unsupported format", "unsupported-format"),
        ("unknown", unknown, "failed/Failure: unsupported format", "unsupported-format"),
        (
            "micalg",
            no_mic,
            "failed/Failure: unsupported MIC-algorithms",
            "unsupported-mic-algorithms",
        ),
    ];
    for (name, options, said, code) in cases {
        let request = payload().signed(&stage.partner).message(&format!("<{name}@test>"));
        let request = request.with("Disposition-Notification-Options", options);
        refused(&stage, &request, said, code, false, None);
    }
}

#[test]
fn a_rejected_body_under_mended_headers_is_checked_anew() {
    // One of its own: a change of objects by another test would have the same body checked anew.
    let stage = Stage::new(&[]);
    let good = payload().signed(&stage.partner).message("<mended-type@test>");
    let wrong = good
        .clone()
        .with("Content-Type", "application/pkcs7-mime; smime-type=enveloped-data");
    let options = "signed-receipt-protocol=optional, pkcs7-signature; signed-receipt-micalg=required, sha1";
    let wanting = payload().signed(&stage.partner).message("<mended-options@test>");
    let unsupported = wanting.clone().with("Disposition-Notification-Options", options);
    for (bad, good) in [(wrong, good), (unsupported, wanting)] {
        let port = stage.gate.as2_port;
        let (first, again) = (bad.post(port), bad.post(port));
        assert!(first.status == 200 && first.disposition() != PROCESSED, "{}", first.text());
        assert!(first.body == again.body, "not out of the store: {}", again.text());
        let mended = good.post(port);
        assert_eq!(mended.disposition(), PROCESSED, "{}", mended.text());
    }
    let other = payload()
        .signed(&stage.partner)
        .encrypted(&stage.ours)
        .message("<mended-options@test>");
    let answer = other.with("Disposition-Notification-Options", options).post(stage.gate.as2_port);
    assert_eq!(
        answer.disposition(),
        "automatic-action/MDN-sent-automatically; failed/Failure: unsupported MIC-algorithms"
    );
    let codes = |code: &str| {
        stage
            .listed("<mended-options@test>")
            .iter()
            .filter(|row| row["code"] == code)
            .count()
    };
    assert_eq!(
        codes("unsupported-mic-algorithms"),
        2,
        "{:?}",
        stage.listed("<mended-options@test>")
    );
}

#[test]
fn an_old_receipt_is_no_receipt_while_its_switch_is_off() {
    let stage = stage();
    for digest in ["sha1", "md5"] {
        let options = format!("signed-receipt-protocol=optional, pkcs7-signature; signed-receipt-micalg=required, {digest}");
        let request = payload().signed(&stage.partner).message(&format!("<{digest}@test>"));
        let request = request.with("Disposition-Notification-Options", &options);
        let said = "failed/Failure: unsupported MIC-algorithms";
        refused(&stage, &request, said, "unsupported-mic-algorithms", false, None);
    }
}

/// Each of the two switches is for its own digests; what is signed by us stays signed by what holds.
#[test]
fn md5_is_taken_and_receipted_where_the_partner_is_set_so_and_nowhere_else() {
    let stage = stage();
    let plain = ["--require-encrypted", "false"];
    stage.add("MD5", 9, &[&plain[..], &["--accept-md5", "true"]].concat());
    stage.add("LEGACY", 9, &[&plain[..], &["--legacy", "true"]].concat());
    stage.gate.followed();
    let weak = "processed/error: insufficient-message-security";
    for (from, digest, said) in [
        ("MD5", "md5", "processed"),
        ("MD5", "sha1", weak),
        ("LEGACY", "md5", weak),
        ("LEGACY", "sha1", "processed"),
    ] {
        let content = payload();
        let id = format!("<{digest}-of-{from}@test>");
        let options = format!("signed-receipt-protocol=required, pkcs7-signature; signed-receipt-micalg=optional, {digest}, sha-256");
        let request = content.signed_with(&stage.partner, digest).message(&id).with("AS2-From", from);
        let answer = request.with("Disposition-Notification-Options", &options).post(stage.gate.as2_port);
        assert_eq!(
            answer.disposition(),
            format!("automatic-action/MDN-sent-automatically; {said}"),
            "{digest} of {from}: {}",
            answer.text()
        );
        let used = if said == weak { "sha256" } else { digest };
        let mic = super::craft::digest(used, &content.text());
        let line = format!("received-content-mic: {mic}, {}\r\n", used.replace("sha256", "sha-256"));
        assert!(
            answer.text().to_ascii_lowercase().contains(&line.to_ascii_lowercase()),
            "not {line}: {}",
            answer.text()
        );
        let by = if said == weak || digest == "md5" { "sha-256" } else { digest };
        let kind = answer.header("Content-Type").unwrap();
        assert!(
            kind.starts_with("multipart/signed") && kind.contains(&format!("micalg={by};")),
            "{kind}"
        );
    }
}

#[test]
fn a_protocol_that_is_only_optional_gets_an_unsigned_mdn() {
    let stage = stage();
    let request = payload().signed(&stage.partner).message("<pgp@test>");
    let request = request.with(
        "Disposition-Notification-Options",
        "signed-receipt-protocol=optional, pgp-signature",
    );
    let answer = request.post(stage.gate.as2_port);
    assert_eq!(
        (answer.disposition().as_str(), answer.is_signed()),
        (PROCESSED, false),
        "{}",
        answer.text()
    );
}

#[test]
fn malformed_message_ids_are_refused_by_name() {
    let stage = stage();
    for id in ["<two words@test>", "<>", "<a@b> <c@d>", &format!("<{}@test>", "x".repeat(1100))] {
        let request = payload().signed(&stage.partner).message(id);
        let answer = request.post(stage.gate.as2_port);
        let said = answer.disposition();
        assert!(
            answer.status == 200 && said.ends_with("processed/error: invalid-message-id"),
            "{id}: {said}"
        );
        let filed = stage.gate.messages("in");
        assert!(
            !filed.iter().any(|m| m["state"] == "filed" && m["message_id"] == id),
            "{id} was filed"
        );
    }
}

#[test]
fn a_message_without_an_id_or_with_two_names_is_a_bad_request() {
    let stage = stage();
    let port = stage.gate.as2_port;
    let message = payload().signed(&stage.partner).message("<twofold@test>");
    let answer = message.clone().without("Message-ID").post(port);
    assert!(
        answer.status == 400 && answer.text().contains("Message-ID is missing"),
        "{answer:?}"
    );
    for (name, value) in [("AS2-From", CRAFT), ("AS2-To", "OTHER"), ("Message-ID", "<other@test>")] {
        let mut twofold = message.clone();
        twofold.headers.push((name.to_owned(), value.to_owned()));
        let answer = twofold.post(port);
        assert!(answer.status == 400 && answer.text().contains("repeated"), "{name}: {answer:?}");
    }
    assert_eq!(stage.listed("<twofold@test>").len(), 0);
    assert_eq!(message.post(port).disposition(), PROCESSED);
}

#[test]
fn the_mdn_for_a_malformed_message_id_is_signed_as_asked() {
    let stage = stage();
    let request = payload().signed(&stage.partner).message("<three words here@test>");
    let answer = request.post(stage.gate.as2_port);
    assert!(answer.disposition().ends_with("invalid-message-id"), "{}", answer.text());
    assert!(
        answer.is_signed(),
        "as2.md §5.1: only unknown relationships and the two `failed` ones go unsigned: {}",
        answer.text()
    );
}

#[test]
fn a_sender_that_names_itself_as_receiver_is_unknown() {
    let stage = stage();
    for id in [STATION, CRAFT] {
        let message_id = format!("<self-{id}@test>");
        let request = payload()
            .signed(&stage.partner)
            .message(&message_id)
            .with("AS2-From", id)
            .with("AS2-To", id);
        let said = "processed/error: unknown-trading-relationship";
        refused(&stage, &request, said, "unknown-trading-relationship", false, None);
    }
}

#[test]
fn strangers_get_422_where_the_setting_says_so() {
    let stage = Stage::new(&[("as2.unknown_partner", "\"http-422\"")]);
    let request = payload()
        .signed(&stage.partner)
        .message("<nobody@test>")
        .with("AS2-From", "MALLORY");
    let answer = request.post(stage.gate.as2_port);
    assert!(
        answer.status == 422 && answer.text().contains("MALLORY"),
        "{}: {}",
        answer.status,
        answer.text()
    );
    assert_eq!(stage.listed("<nobody@test>")[0]["state"], "rejected");
}

#[test]
fn file_names_cannot_leave_their_directory() {
    let stage = stage();
    let names = ["../../x", "/etc/passwd", "..\\..\\x", "..", "CON\u{7f}", "a/../../b"];
    for (n, name) in names.into_iter().enumerate() {
        let entity =
            Entity::new("application/edi-x12", order(next())).and("Content-Disposition", &format!("attachment; filename=\"{name}\""));
        let id = format!("<name-{n}@test>");
        let answer = entity.signed(&stage.partner).message(&id).post(stage.gate.as2_port);
        assert_eq!(answer.disposition(), PROCESSED, "{name}: {}", answer.text());
        let row = stage.listed(&id).remove(0);
        let dir = format!("AS2/files/{STATION}/{CRAFT}/inbox/{}", row["id"].as_str().unwrap());
        let kept = stage.user.ls(&dir);
        assert_eq!(kept.len(), 1, "{name}: {kept:?}");
        assert!(!kept[0].contains(['/', '\\']) && !kept[0].starts_with('.'), "{name}: {kept:?}");
        assert_eq!(row["file"].as_str().unwrap(), kept[0]);
    }
}

#[test]
fn a_message_encrypted_anew_under_its_id_gets_the_same_mdn() {
    let stage = stage();
    let signed = payload().signed(&stage.partner);
    let [first, again] = [(), ()].map(|()| signed.encrypted(&stage.ours).message("<anew@test>"));
    assert!(first.body != again.body);
    let (one, two) = (first.post(stage.gate.as2_port), again.post(stage.gate.as2_port));
    assert_eq!(one.disposition(), PROCESSED, "{}", one.text());
    assert!(
        one.body == two.body && one.header("Message-ID") == two.header("Message-ID"),
        "{}",
        two.text()
    );
    assert_eq!(stage.listed("<anew@test>").iter().filter(|row| row["state"] == "filed").count(), 1);
}

#[test]
fn a_repeat_that_asks_for_another_digest_gets_the_same_mdn() {
    let stage = stage();
    let signed = payload().signed(&stage.partner);
    let [first, again] = [(), ()].map(|()| signed.encrypted(&stage.ours).message("<other-digest@test>"));
    let again = again.with(
        "Disposition-Notification-Options",
        "signed-receipt-protocol=optional, pkcs7-signature; signed-receipt-micalg=optional, sha-512",
    );
    let (one, two) = (first.post(stage.gate.as2_port), again.post(stage.gate.as2_port));
    assert_eq!(one.disposition(), PROCESSED, "{}", one.text());
    assert!(one.body == two.body, "{}", two.text());
    assert_eq!(stage.listed("<other-digest@test>").len(), 1);
    let other = payload()
        .signed(&stage.partner)
        .encrypted(&stage.ours)
        .message("<other-digest@test>");
    let options = again.header("Disposition-Notification-Options").unwrap();
    let answer = other.with("Disposition-Notification-Options", options).post(stage.gate.as2_port);
    assert!(
        answer.disposition().ends_with("error: unexpected-processing-error"),
        "{}",
        answer.text()
    );
}

#[test]
fn a_partner_may_be_told_of_its_repeats() {
    let stage = stage();
    stage.add("REPEATS", 9, &["--require-encrypted", "false", "--duplicate-warning"]);
    let signed = payload().signed(&stage.partner);
    let message = |id: &str, entity: &Entity| entity.message(id).with("AS2-From", "REPEATS");
    let first = wait_for("the new partner", || {
        let answer = message("<told@test>", &signed).post(stage.gate.as2_port);
        (!answer.disposition().contains("unknown-trading-relationship")).then_some(answer)
    });
    assert_eq!(first.disposition(), PROCESSED, "{}", first.text());
    let mic = |answer: &Answer| {
        let line = answer.text();
        let mut lines = line.lines().filter(|line| line.starts_with("Received-content-MIC:"));
        lines.next().unwrap().to_owned()
    };
    for entity in [&signed, &signed.encrypted(&stage.ours)] {
        let answer = message("<told@test>", entity).post(stage.gate.as2_port);
        let said = "automatic-action/MDN-sent-automatically; processed/warning: duplicate-document";
        assert_eq!(
            (answer.disposition().as_str(), answer.is_signed()),
            (said, true),
            "{}",
            answer.text()
        );
        assert_eq!(mic(&answer), mic(&first));
    }
    let silent = message("<told@test>", &signed).without("Disposition-Notification-To");
    assert_eq!(silent.post(stage.gate.as2_port).status, 204);
    let rows = stage.listed("<told@test>");
    let count = |state: &str| rows.iter().filter(|row| row["state"] == state).count();
    assert_eq!((count("filed"), count("rejected"), rows.len()), (1, 2, 3), "{rows:#?}");
    assert!(
        rows.iter()
            .all(|row| row["state"] == "filed" || row["code"] == "duplicate-document")
    );
    let other = message("<told@test>", &payload().signed(&stage.partner)).post(stage.gate.as2_port);
    assert!(
        other.disposition().ends_with("error: unexpected-processing-error"),
        "{}",
        other.text()
    );
}

#[test]
fn an_mdn_has_the_names_in_the_form_in_which_they_came() {
    let stage = stage();
    for (id, to, from) in [
        ("<bare@test>", STATION.to_owned(), CRAFT.to_owned()),
        ("<quoted@test>", format!("\"{STATION}\""), format!("\"{CRAFT}\"")),
        ("<mixed@test>", format!("\"{STATION}\""), CRAFT.to_owned()),
    ] {
        let message = payload().signed(&stage.partner).message(id);
        let answer = message.with("AS2-To", &to).with("AS2-From", &from).post(stage.gate.as2_port);
        assert_eq!(answer.disposition(), PROCESSED, "{}", answer.text());
        assert_eq!(
            (answer.header("AS2-From"), answer.header("AS2-To")),
            (Some(to.as_str()), Some(from.as_str()))
        );
        assert!(
            answer.text().contains(&format!("Final-Recipient: rfc822; {to}\r\n")),
            "{}",
            answer.text()
        );
    }
    let stranger = payload().message("<quoted-stranger@test>").with("AS2-From", "\"STRANGER\"");
    assert_eq!(stranger.post(stage.gate.as2_port).header("AS2-To"), Some("\"STRANGER\""));
}

#[test]
fn other_content_under_a_bound_id_is_told_and_alerted() {
    let stage = stage();
    let message = |entity: Entity| entity.signed(&stage.partner).message("<bound@test>");
    assert_eq!(message(payload()).post(stage.gate.as2_port).disposition(), PROCESSED);
    let answer = message(payload()).post(stage.gate.as2_port);
    let said = "automatic-action/MDN-sent-automatically; processed/error: unexpected-processing-error";
    assert_eq!(
        (answer.disposition().as_str(), answer.is_signed()),
        (said, true),
        "{}",
        answer.text()
    );
    let mut states: Vec<_> = stage.listed("<bound@test>").iter().map(|row| row["state"].to_string()).collect();
    states.sort();
    assert_eq!(states, ["\"filed\"", "\"quarantined\""]);
    assert!(stage.gate.log().contains("its id is bound"));
}

#[test]
fn other_content_under_a_bound_id_is_told_by_an_async_mdn_too() {
    let stage = stage();
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    stage.add("REUSER", port, &["--require-encrypted", "false"]);
    let url = format!("http://127.0.0.1:{port}/mdn");
    let message = || payload().signed(&stage.partner).message("<reused@test>").with("AS2-From", "REUSER");
    let first = message();
    wait_for("the new partner", || {
        (first.post(stage.gate.as2_port).disposition() == PROCESSED).then_some(())
    });
    let answer = message().with("Receipt-Delivery-Option", &url).post(stage.gate.as2_port);
    assert!(answer.status == 204 && answer.body.is_empty(), "{}", answer.text());
    let mut stream = accepted(&listener);
    let hit = read_request(&mut stream).unwrap();
    stream.write_all(&http(200, &[], "")).unwrap();
    let text = String::from_utf8_lossy(&hit.message.body).into_owned();
    assert!(
        text.contains("Original-Message-ID: <reused@test>") && text.contains("processed/error: unexpected-processing-error"),
        "{text}"
    );
    let signed = hit.message.header("Content-Type").unwrap_or_default();
    assert!(signed.starts_with("multipart/signed"), "{signed}");
    let row = wait_for("the receipt to be on record", || {
        let rows = stage.listed("<reused@test>");
        let row = rows.iter().find(|row| row["state"] == "quarantined")?;
        let whole = stage.gate.show(row["id"].as_str().unwrap());
        whole["mdn_at"].is_string().then_some(whole)
    });
    assert_eq!(row["mdn_signature"], "signed", "{row:#}");
}

#[test]
fn errors_explain_themselves_to_1_3_partners_but_never_decryption() {
    let stage = stage();
    stage.add("NEWER", 9, &["--as2-version", "1.3"]);
    let field = |text: &str| text.lines().find(|line| line.starts_with("Explanation:")).map(str::to_owned);
    let strange = payload().signed(&stage.stranger).encrypted(&stage.ours);
    let broken = payload().signed(&stage.partner).encrypted(&stage.stranger.path("cert.pem"));
    let clear = payload().signed(&stage.partner);
    let said = |entity: &Entity, id: &str, from: &str| {
        let request = entity.message(id).with("AS2-From", from);
        wait_for("the new partner", || {
            let answer = request.post(stage.gate.as2_port);
            (!answer.disposition().contains("unknown-trading-relationship")).then_some(answer)
        })
    };
    let told = said(&clear, "<clear-to-newer@test>", "NEWER");
    assert!(told.disposition().ends_with("insufficient-message-security"), "{}", told.text());
    let words = field(&told.text()).unwrap_or_default();
    assert!(words.contains("signed and encrypted"), "{}", told.text());
    for (entity, id, from) in [
        (&broken, "<broken-to-newer@test>", "NEWER"),
        (&strange, "<strange-to-older@test>", CRAFT),
    ] {
        let answer = said(entity, id, from);
        assert!(answer.disposition().contains("error"), "{}", answer.text());
        assert_eq!(field(&answer.text()), None, "{id}");
    }
}

#[test]
fn file_names_are_refused_where_the_partner_wants_it_so() {
    let stage = stage();
    let strict = ["--require-encrypted", "false", "--refuse-duplicate-names", "--refuse-illegal-names"];
    stage.add("NAMES", 9, &strict);
    let file = |name: &str| {
        Entity::new("application/edi-x12", order(next())).and("Content-Disposition", &format!("attachment; filename=\"{name}\""))
    };
    let post = |id: &str, entity: Entity| {
        let request = entity.signed(&stage.partner).message(id).with("AS2-From", "NAMES");
        wait_for("the new partner", || {
            let answer = request.post(stage.gate.as2_port);
            (!answer.disposition().contains("unknown-trading-relationship")).then_some(answer)
        })
    };
    let send = |id: &str, name: &str| post(id, file(name));
    assert_eq!(send("<n1@test>", "order.edi").disposition(), PROCESSED);
    let several = format!(
        "--b\r\n{}\r\n--b\r\n{}\r\n--b--\r\n",
        file("one.edi").text(),
        file("two.edi").text()
    );
    let several = Entity::new("multipart/related; boundary=b; type=\"application/edi-x12\"", several);
    assert_eq!(post("<n0@test>", several).disposition(), PROCESSED);
    assert_eq!(send("<n2@test>", "Bestellung \u{fc}.edi").disposition(), PROCESSED);
    for (id, name, word) in [
        ("<n3@test>", "order.edi", "duplicate-filename"),
        ("<n8@test>", "one.edi", "duplicate-filename"),
        ("<n9@test>", "two.edi", "duplicate-filename"),
        ("<n4@test>", "../../x.edi", "illegal-filename"),
        ("<n5@test>", ".hidden", "illegal-filename"),
        ("<n6@test>", "CON", "illegal-filename"),
    ] {
        let answer = send(id, name);
        let text = answer.text();
        assert!(
            answer.disposition().ends_with(&format!("processed/error: {word}")),
            "{name}: {text}"
        );
        assert!(answer.is_signed() && text.contains("Received-content-MIC:"), "{name}: {text}");
        let rows = stage.listed(id);
        assert_eq!(
            (&rows[0]["state"], &rows[0]["code"]),
            (&"rejected".into(), &word.into()),
            "{rows:#?}"
        );
    }
    assert_eq!(send("<n7@test>", "other.edi").disposition(), PROCESSED);
}

#[test]
fn header_lines_that_are_no_utf8_are_kept_byte_for_byte() {
    let stage = stage();
    let content = payload().signed(&stage.partner).message("<latin1@test>");
    let mut head = b"POST /as2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Note: caf\xe9 \xa4\r\nX-Utf8: caf\xc3\xa9\r\n".to_vec();
    for (name, value) in &content.headers {
        head.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    head.extend_from_slice(format!("Content-Length: {}\r\n\r\n", content.body.len()).as_bytes());
    let answer = raw(stage.gate.as2_port, &head, &content.body);
    assert_eq!(answer.disposition(), PROCESSED, "{}", answer.text());
    let id = stage.listed("<latin1@test>")[0]["id"].as_str().unwrap().to_owned();
    let kept = stage.user.get(&format!("AS2/headers/{STATION}/{CRAFT}/inbox/{id}/headers.txt"));
    let sent = &head[head.windows(2).position(|two| two == b"\r\n").unwrap() + 2..head.len() - 2];
    assert_eq!(kept, sent);
}

#[test]
fn a_refused_id_may_be_used_for_a_good_message() {
    let stage = stage();
    let bad = payload().signed(&stage.stranger).message("<mended@test>");
    refused(
        &stage,
        &bad,
        "processed/error: authentication-failed",
        "authentication-failed",
        true,
        Some(""),
    );
    let good = payload().signed(&stage.partner).message("<mended@test>").post(stage.gate.as2_port);
    assert_eq!(good.disposition(), PROCESSED, "{}", good.text());
    assert!(stage.listed("<mended@test>").iter().any(|row| row["state"] == "filed"));
}

#[test]
fn a_bad_message_that_asks_for_no_mdn_is_refused_in_silence() {
    let stage = stage();
    let request = payload().signed(&stage.stranger).message("<silent@test>");
    let request = request
        .without("Disposition-Notification-To")
        .without("Disposition-Notification-Options");
    let answer = request.post(stage.gate.as2_port);
    assert!(
        (200..300).contains(&answer.status) && answer.body.is_empty(),
        "{}: {}",
        answer.status,
        answer.text()
    );
    let row = wait_for("the check", || {
        stage.listed("<silent@test>").into_iter().find(|row| row["state"] != "received")
    });
    assert_eq!((&row["state"], &row["code"]), (&"rejected".into(), &"authentication-failed".into()));
    assert!(!stage.inbox().contains(&row["id"].as_str().unwrap().to_owned()));
}

#[test]
fn a_stranger_that_asks_for_an_async_mdn_is_told_in_the_answer() {
    let stage = stage();
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let url = format!("http://{}/mdn", trap.local_addr().unwrap());
    let request = payload().signed(&stage.stranger).message("<async-stranger@test>");
    let request = request.with("AS2-From", "MALLORY").with("Receipt-Delivery-Option", &url);
    let said = "processed/error: unknown-trading-relationship";
    refused(&stage, &request, said, "unknown-trading-relationship", false, None);
    thread::sleep(QUIET);
    assert!(trap.accept().is_err(), "a stranger made the gateway call");
}

#[test]
fn a_negative_async_mdn_goes_out_with_the_same_bytes_on_each_try() {
    let stage = stage();
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let url = format!("http://127.0.0.1:{port}/mdn");
    stage.add("LATER", port, &["--require-encrypted", "false", "--mdn-urls", &url]);
    let request = payload().signed(&stage.stranger).message("<later@test>");
    let request = request.with("AS2-From", "LATER").with("Receipt-Delivery-Option", &url);
    wait_for("the new partner", || {
        let answer = request.post(stage.gate.as2_port);
        (answer.status == 204 && answer.body.is_empty()).then_some(())
    });
    let [first, second] = [503, 200].map(|status| {
        let mut stream = accepted(&listener);
        let hit = read_request(&mut stream).unwrap();
        stream.write_all(&http(status, &[], "")).unwrap();
        hit
    });
    assert!(
        first.head == second.head && first.message.body == second.message.body,
        "{}\n{}",
        first.head,
        second.head
    );
    let text = String::from_utf8_lossy(&first.message.body).into_owned();
    assert!(
        text.contains("processed/error: authentication-failed") && text.contains("Original-Message-ID: <later@test>"),
        "{text}"
    );
    assert!(first.message.header("Content-Type").unwrap().starts_with("multipart/signed"));
}

#[test]
fn a_repeat_during_the_post_of_an_async_mdn_gets_its_own() {
    let stage = stage();
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    listener.set_nonblocking(true).unwrap();
    stage.add("AGAIN", port, &["--require-encrypted", "false"]);
    let message = payload().signed(&stage.partner).message("<again@test>").with("AS2-From", "AGAIN");
    let asked_at = |path: &str| {
        let url = format!("http://127.0.0.1:{port}/{path}");
        message.clone().with("Receipt-Delivery-Option", &url).post(stage.gate.as2_port)
    };
    wait_for("the new partner", || (asked_at("first").status == 204).then_some(()));
    let called = |path: &str| {
        let mut stream = wait_for(path, || listener.accept().ok()).0;
        stream.set_nonblocking(false).unwrap();
        let hit = read_request(&mut stream).unwrap();
        assert!(hit.head.starts_with(&format!("POST /{path} ")), "{}", hit.head);
        (hit, stream)
    };
    let (first, mut waiting) = called("first");
    assert_eq!(asked_at("second").status, 204);
    waiting.write_all(&http(200, &[], "")).unwrap();
    let (second, mut stream) = called("second");
    stream.write_all(&http(200, &[], "")).unwrap();
    assert_eq!(first.message.body, second.message.body);
}

#[test]
fn a_request_to_change_certificates_is_filed_and_told() {
    let stage = stage();
    let body = "--cem\r\nContent-Type: application/EDIINT-cert-exchange+xml\r\n\r\n<EDIINTCertificateExchangeRequest/>\r\n\
                --cem\r\nContent-Type: application/pkcs7-mime; smime-type=certs-only; name=new.p7c\r\n\r\nMIIB\r\n--cem--\r\n";
    let kind = "multipart/related; type=\"application/ediint-cert-exchange+xml\"; boundary=cem";
    let id = format!("<cem-{}@test>", next());
    let answer = Entity::new(kind, body)
        .signed(&stage.partner)
        .message(&id)
        .post(stage.gate.as2_port);
    assert_eq!(answer.disposition(), PROCESSED, "{}", answer.text());
    let row = stage.listed(&id).pop().unwrap();
    assert!(
        row["reason"].as_str().unwrap().contains("certificates to be changed (CEM)"),
        "{row:#}"
    );
    let id = row["id"].as_str().unwrap();
    let shown = stage.gate.show(id);
    assert_eq!(shown["state"], "filed");
    assert!(shown["marks"].to_string().contains("certificate exchange"), "{shown:#}");
    let hint = shown["hint"].as_str().unwrap();
    assert!(
        hint.contains("as2gate cert schedule ") && hint.contains("--replace-with FILE"),
        "{hint}"
    );
    let events = stage.gate.ok(&["audit", "list", "--subject", id, "-o", "json"]);
    assert!(events.contains("message.certificate_exchange"), "{events}");
}
