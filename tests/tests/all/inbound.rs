//! What comes in and must not get through: real messages, captured and changed by hand.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tests::peer::Identity;
use tests::wire::{Request, exchange};
use tests::{Pair, Shared, noise, order};

static PAIR: Shared<Pair> = Shared::new();

fn pair() -> Arc<Pair> {
    PAIR.get(Pair::two_gateways)
}

/// A good exchange from ALICE to BOB, as it went over the wire, under a Message-ID of its own.
fn captured(pair: &Pair, name: &str) -> Request {
    pair.captured(name, &order(42))
}

/// What BOB's list says about a Message-ID.
fn listed(pair: &Pair, message_id: &str) -> Vec<Value> {
    let list = pair.bob().json(&["message", "list", "--state", "rejected"]);
    let rejected = list.as_array().unwrap().clone();
    let all = pair.bob().messages("in");
    let mut found: Vec<Value> = all
        .into_iter()
        .chain(rejected)
        .filter(|message| message["message_id"] == message_id)
        .collect();
    found.sort_by_key(|message| message["id"].to_string());
    found.dedup_by_key(|message| message["id"].to_string());
    found
}

/// What is said beside the one line about it, which lists have no column for.
fn hint(pair: &Pair, message_id: &str) -> String {
    let rows = listed(pair, message_id);
    let shown = pair.bob().json(&["message", "show", rows[0]["id"].as_str().unwrap()]);
    shown["hint"].as_str().unwrap_or_default().to_owned()
}

fn inbox(pair: &Pair) -> Vec<String> {
    pair.bob_user.ls("AS2/files/BOB/ALICE/inbox")
}

/// Posts a message that has to be refused, and sees that nothing of it is in the inbox.
#[track_caller]
fn refused(pair: &Pair, request: &Request, modifier: &str) {
    let answer = request.post(pair.bob().as2_port);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let disposition = answer.disposition();
    assert!(
        disposition.contains("/error:") && disposition.ends_with(modifier),
        "expected {modifier}, got {disposition}"
    );
    let rows = listed(pair, request.header("Message-ID").unwrap());
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(rows[0]["state"], "rejected");
    assert_eq!(rows[0]["code"], modifier);
    let id = rows[0]["id"].as_str().unwrap();
    assert!(!inbox(pair).contains(&id.to_owned()), "a refused message is in the inbox");
}

#[test]
fn a_message_under_a_fresh_id_gets_through() {
    // The control of everything below: captured messages are good until they are changed.
    let pair = pair();
    let request = captured(&pair, "control.edi");
    let answer = request.post(pair.bob().as2_port);
    assert_eq!(answer.status, 200);
    assert!(
        answer.is_signed() && answer.disposition().ends_with("processed"),
        "{}",
        answer.text()
    );
    assert_eq!(listed(&pair, "<control.edi@test>")[0]["state"], "filed");
}

#[test]
fn a_stranger_is_told_so_by_an_unsigned_mdn() {
    let pair = pair();
    let request = captured(&pair, "stranger.edi").with("AS2-From", "MALLORY");
    let answer = request.post(pair.bob().as2_port);
    assert_eq!(answer.status, 200);
    assert!(!answer.is_signed(), "nobody signs for strangers");
    assert!(
        answer.disposition().ends_with("/error: unknown-trading-relationship"),
        "{}",
        answer.text()
    );
    let rows = listed(&pair, "<stranger.edi@test>");
    assert_eq!((rows.len(), &rows[0]["partner"]), (1, &Value::from("MALLORY")));
    let told = hint(&pair, "<stranger.edi@test>");
    assert!(told.contains("as2gate partner add MALLORY "), "{told}");
    let shown = pair.bob().ok(&["message", "show", rows[0]["id"].as_str().unwrap(), "-o", "table"]);
    assert!(
        shown.contains("sync, unsigned, processed/error: unknown-trading-relationship"),
        "{shown}"
    );
    let other = captured(&pair, "no-such-station.edi")
        .with("AS2-To", "NOBODY")
        .post(pair.bob().as2_port);
    assert!(
        other.disposition().ends_with("/error: unknown-trading-relationship"),
        "{}",
        other.text()
    );
    let told = hint(&pair, "<no-such-station.edi@test>");
    assert!(told.contains("correct its AS2-To"), "{told}");
}

#[test]
fn a_stranger_that_asks_for_no_mdn_gets_422() {
    let pair = pair();
    let request = captured(&pair, "quiet.edi").with("AS2-From", "MALLORY");
    let request = request
        .without("Disposition-Notification-To")
        .without("Disposition-Notification-Options");
    let answer = request.post(pair.bob().as2_port);
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains("MALLORY"), "{}", answer.text());
}

#[test]
fn strangers_are_answered_without_their_gigabytes() {
    let pair = Pair::two_gateways();
    let request = captured(&pair, "large.edi");
    // Who it is, fields beside those of the message, and what comes of the body.
    let told = |from: &str, fields: &str, body: &[u8]| {
        let mut head = format!("POST /as2 HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        for (name, value) in &request.clone().with("AS2-From", from).headers {
            if !name.eq_ignore_ascii_case("Content-Length") && !name.eq_ignore_ascii_case("Host") {
                head += &format!("{name}: {value}\r\n");
            }
        }
        let mut stream = TcpStream::connect(("127.0.0.1", pair.bob().as2_port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let large = "Content-Length: 99000000000";
    let chunks = b"100000\r\n"
        .iter()
        .copied()
        .chain(std::iter::repeat_n(b'x', 1 << 20))
        .chain(*b"\r\n10\r\nx");
    let chunks: Vec<u8> = chunks.collect();
    pair.bob().change(&["partner", "block", "ALICE", "in"]);
    for from in ["MALLORY", "ALICE"] {
        for (fields, body) in [
            (large, &b""[..]),
            (&format!("{large}\r\nExpect: 100-continue"), b""),
            ("Content-Length: 100\r\nExpect: 100-continue", b""),
            ("Transfer-Encoding: chunked", &chunks),
        ] {
            let answer = told(from, fields, body);
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{from}, {fields}: {answer}");
            assert!(answer.contains("unknown-trading-relationship"), "{from}, {fields}: {answer}");
            assert!(answer.contains("Connection: close"), "{from}, {fields}: {answer}");
        }
    }
    // Who is known is let go on.
    pair.bob().change(&["partner", "unblock", "ALICE"]);
    let length = request.body.len();
    let answer = told(
        "ALICE",
        &format!("Content-Length: {length}\r\nExpect: 100-continue\r\nConnection: close"),
        &request.body,
    );
    assert!(
        answer.contains("automatic-action/MDN-sent-automatically; processed\r\n"),
        "{answer}"
    );
}

#[test]
fn as2_ids_are_compared_exactly() {
    let pair = pair();
    let answer = captured(&pair, "case.edi").with("AS2-From", "Alice").post(pair.bob().as2_port);
    assert!(answer.disposition().ends_with("unknown-trading-relationship"), "{}", answer.text());
    let told = hint(&pair, "<case.edi@test>");
    assert!(told.contains("ask the partner to send as ALICE"), "{told}");
    assert!(told.ends_with("as2gate partner set ALICE --as2-id Alice"), "{told}");
}

#[test]
fn a_tampered_body_is_refused_wherever_it_was_changed() {
    let pair = pair();
    let good = captured(&pair, "tampered.edi");
    let len = good.body.len();
    for (n, at) in [len / 2, len / 4 * 3, len - 40].into_iter().enumerate() {
        let mut request = good.clone().with("Message-ID", &format!("<tampered-{n}@test>"));
        request.body[at] ^= 0x01;
        let answer = request.post(pair.bob().as2_port);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let said = answer.disposition();
        // Which of the two depends on where the changed block lands: in the structure or in the signed content.
        assert!(
            ["decryption-failed", "integrity-check-failed"]
                .iter()
                .any(|code| said.ends_with(code)),
            "byte {at} of {len}: {said}"
        );
        let rows = listed(&pair, &format!("<tampered-{n}@test>"));
        assert_eq!(rows[0]["state"], "rejected");
        assert!(!inbox(&pair).contains(&rows[0]["id"].as_str().unwrap().to_owned()));
    }
    let mut cut = good.with("Message-ID", "<cut@test>");
    cut.body.truncate(len / 2);
    refused(&pair, &cut, "decryption-failed");
}

#[test]
fn a_signature_by_another_key_is_refused() {
    let pair = Pair::two_gateways();
    let request = captured(&pair, "signature.edi");
    let mallory = Identity::new("mallory");
    pair.bob().ok(&[
        "cert",
        "add",
        "mallory",
        "--partner",
        "ALICE",
        "--file",
        mallory.path("cert.pem").to_str().unwrap(),
    ]);
    pair.bob().ok(&["partner", "set", "ALICE", "--sign-certificate", "mallory"]);
    pair.bob().restart();
    refused(&pair, &request, "authentication-failed");

    // What is known about it, and where it lies.
    let row = pair.bob().json(&["message", "list", "--state", "rejected"])[0].clone();
    let id = row["id"].as_str().unwrap();
    let shown = pair.bob().ok(&["message", "show", id, "-o", "table"]);
    for words in [
        "not opened",
        "Security   unknown",
        &format!("raw-message/BOB/ALICE/inbox/{id}/message.as2"),
        &format!("headers/BOB/ALICE/inbox/{id}/headers.txt"),
        "cert add NAME --partner ALICE --use sign --file FILE",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(!shown.contains("not signed") && !shown.contains(" 0 bytes"), "{shown}");
}

#[test]
fn a_message_in_clear_or_unsigned_is_refused_unless_agreed() {
    let pair = pair();
    let good = captured(&pair, "policy.edi");
    let mut plain = good.with("Message-ID", "<plain@test>").with("Content-Type", "application/edi-x12");
    plain = plain.without("Content-Transfer-Encoding").without("Content-Disposition");
    plain.body = order(1);
    refused(&pair, &plain, "insufficient-message-security");
}

#[test]
fn the_sender_learns_that_its_security_did_not_suffice() {
    for (setting, name) in [("--sign", "unsigned.edi"), ("--encrypt", "clear.edi")] {
        let pair = Pair::one_gateway();
        pair.alice().ok(&["partner", "set", "BOB", setting, "none"]);
        pair.alice().restart();
        pair.put(name, &order(1));
        let failed = pair.alice().reaches("out", name, "failed");
        assert_eq!(failed["code"], "insufficient-message-security", "{failed:#}");
        assert_eq!(inbox(&pair), [""; 0]);
        let kept = format!("AS2/files/ALICE/BOB/failed/{}/{name}", failed["id"].as_str().unwrap());
        assert_eq!(pair.alice_user.get(&kept), order(1));
        let hint = failed["hint"].as_str().unwrap();
        assert!(hint.contains("as2gate partner set BOB --sign DIGEST --encrypt CIPHER"), "{hint}");
    }
}

#[test]
fn a_repeat_gets_the_same_mdn_and_is_not_filed_twice() {
    let pair = pair();
    let request = captured(&pair, "repeat.edi");
    let first = request.post(pair.bob().as2_port);
    for _ in 0..3 {
        let again = request.post(pair.bob().as2_port);
        assert_eq!(again.status, first.status);
        assert!(again.body == first.body, "a repeat got another MDN");
        assert_eq!(again.header("Message-ID"), first.header("Message-ID"));
        assert_eq!(again.header("Content-Type"), first.header("Content-Type"));
    }
    assert_eq!(listed(&pair, "<repeat.edi@test>").len(), 1);
}

#[test]
fn a_repeat_after_a_kill_gets_the_same_mdn() {
    let pair = Pair::two_gateways();
    let request = captured(&pair, "repeat-kill.edi");
    let first = request.post(pair.bob().as2_port);
    pair.bob().kill9();
    pair.bob().start();
    let again = request.post(pair.bob().as2_port);
    assert!(again.body == first.body && again.status == 200, "{}", again.text());
    assert_eq!(listed(&pair, "<repeat-kill.edi@test>").len(), 1);
}

/// Its sender would take the word that it was altered for final.
#[test]
fn what_our_own_disk_has_spoilt_is_not_called_altered() {
    let pair = Pair::two_gateways();
    pair.alice().change(&["partner", "set", "BOB", "--mdn", "async-signed"]);
    let request = pair.captured("spoilt.bin", &noise(60 << 20, 9));
    let before = pair.bob().stored();
    let answer = request.post(pair.bob().as2_port);
    // Before the check is through.
    pair.bob().kill9();
    assert_eq!(answer.status / 100, 2, "{}", answer.text());
    let stored: Vec<_> = pair.bob().stored().into_iter().filter(|file| !before.contains(file)).collect();
    let body = stored.iter().max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap();
    let mut bytes = fs::read(body).unwrap();
    assert_eq!(bytes.len(), request.body.len());
    bytes[30 << 20] ^= 1;
    fs::write(body, &bytes).unwrap();
    pair.bob().start();
    let ended = |row: &Value| row["state"] != "received";
    let rejected = pair
        .bob()
        .wait("the end of the check", |_| listed(&pair, "<spoilt.bin@test>").pop().filter(ended));
    assert_eq!(rejected["code"], "unexpected-processing-error", "{rejected:#}");
}

#[test]
fn eight_copies_at_once_make_one_file() {
    let pair = pair();
    let request = captured(&pair, "eight.edi");
    let port = pair.bob().as2_port;
    let answers: Vec<_> = thread::scope(|scope| {
        let posts: Vec<_> = (0..8).map(|_| scope.spawn(|| request.post(port))).collect();
        posts.into_iter().map(|post| post.join().unwrap()).collect()
    });
    for answer in &answers {
        assert!(
            answer.status == 200 && answer.body == answers[0].body,
            "{}: {}",
            answer.status,
            answer.text()
        );
        assert!(answer.disposition().ends_with("processed"));
    }
    let rows = listed(&pair, "<eight.edi@test>");
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert!(inbox(&pair).contains(&rows[0]["id"].as_str().unwrap().to_owned()));
}

#[test]
fn a_bound_id_with_other_content_is_quarantined() {
    let pair = pair();
    let first = captured(&pair, "bound-1.edi");
    assert!(first.post(pair.bob().as2_port).disposition().ends_with("processed"));
    let other = pair.captured("bound-2.edi", &order(43)).with("Message-ID", "<bound-1.edi@test>");
    let answer = other.post(pair.bob().as2_port);
    assert!(answer.disposition().contains("/error"), "{}", answer.text());
    let rows = listed(&pair, "<bound-1.edi@test>");
    let kept = rows
        .iter()
        .find(|row| row["state"] == "quarantined")
        .unwrap_or_else(|| panic!("{rows:#?}"));
    assert!(!inbox(&pair).contains(&kept["id"].as_str().unwrap().to_owned()));
}

#[test]
fn get_and_head_are_answered_and_other_requests_are_told_what_this_is() {
    let pair = pair();
    let port = pair.bob().as2_port;
    let get = exchange(port, "GET", "/as2", &[], b"");
    assert!(
        get.status == 200 && !get.body.is_empty() && get.body.len() < 1000,
        "{}: {}",
        get.status,
        get.text()
    );
    let head = exchange(port, "HEAD", "/as2", &[], b"");
    assert!(head.status == 200 && head.body.is_empty());
    let bare = exchange(
        port,
        "POST",
        "/as2",
        &[("Content-Type".to_owned(), "text/plain".to_owned())],
        b"hello",
    );
    assert_eq!(bare.status, 400);
    assert!(bare.text().contains("AS2-From"), "{}", bare.text());
    let no_id = captured(&pair, "no-id.edi").without("Message-ID").post(port);
    assert!(
        no_id.status == 400 || no_id.disposition().contains("/error"),
        "{}: {}",
        no_id.status,
        no_id.text()
    );
}

#[test]
fn smuggled_and_malformed_requests_are_refused() {
    let pair = pair();
    let port = pair.bob().as2_port;
    let both = format!("POST /as2 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    let two = "POST /as2 HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n".to_owned();
    let bad = format!("POST /as2 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: -1\r\n\r\n");
    for head in [both, two, bad] {
        let answer = tests::wire::raw(port, head.as_bytes(), b"");
        assert_eq!(answer.status, 400, "{head}");
    }
    assert!(captured(&pair, "after-abuse.edi").post(port).disposition().ends_with("processed"));
}

#[test]
fn a_blocked_partner_is_answered_like_a_stranger() {
    let pair = Pair::two_gateways();
    let request = captured(&pair, "blocked.edi");
    pair.bob().ok(&["partner", "block", "ALICE", "in"]);
    pair.bob().restart();
    let answer = request.post(pair.bob().as2_port);
    assert!(answer.disposition().ends_with("unknown-trading-relationship"), "{}", answer.text());
    let told = hint(&pair, request.header("Message-ID").unwrap());
    assert!(told.ends_with("as2gate partner unblock ALICE"), "{told}");
    // Also where its name comes in a form that only the second reading knows.
    let quoted = request
        .clone()
        .with("AS2-From", r#""\"ALICE\"""#)
        .with("Message-ID", "<quoted@test>");
    let answer = quoted.post(pair.bob().as2_port);
    assert!(answer.disposition().ends_with("unknown-trading-relationship"), "{}", answer.text());
    let told = hint(&pair, "<quoted@test>");
    assert!(told.ends_with("as2gate partner unblock ALICE"), "{told}");
    pair.bob().ok(&["partner", "unblock", "ALICE"]);
    pair.bob().restart();
    assert!(request.post(pair.bob().as2_port).disposition().ends_with("processed"));
}

#[test]
fn other_bytes_of_a_message_id_in_work_are_not_promised() {
    let pair = Pair::two_gateways();
    let plain = |name: &str, n| pair.captured(name, &order(n)).without("Disposition-Notification-To");
    let (first, other) = (plain("first.edi", 1), plain("other.edi", 2));
    let other = other.with("Message-ID", first.header("Message-ID").unwrap());
    let port = pair.bob().as2_port;
    assert_eq!(first.clone().post(port).status, 204);
    pair.bob().wait("both copies to be filed", |bob| {
        let all = bob.messages_of("in", "first.edi");
        (all.len() == 2 && all.iter().all(|message| message["state"] == "filed")).then_some(())
    });
    // As if its check took its time.
    pair.bob().sql("UPDATE inbound SET state = 'received'");
    assert_eq!(first.post(port).status, 204, "the same bytes are there");
    let answer = other.post(port);
    assert!(
        answer.status == 503 && answer.header("Retry-After").is_some(),
        "{}: {}",
        answer.status,
        answer.text()
    );
}
