//! The main job: a file that was put is signed, encrypted, posted, received, verified, filed and receipted.

use std::fs;
use std::sync::Arc;

use tests::process::{run, tool};
use tests::{Pair, Shared, noise, order, peer, wire};

static PAIR: Shared<Pair> = Shared::new();

fn pair() -> Arc<Pair> {
    PAIR.get(Pair::two_gateways)
}

#[test]
fn every_file_put_is_delivered_and_the_inbox_holds_its_bytes() {
    let pair = pair();
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("order-1001.edi", order(1001)),
        ("one-byte.bin", vec![0x0a]),
        ("block-less.bin", noise(65_535, 1)),
        ("block.bin", noise(65_536, 2)),
        ("block-more.bin", noise(65_537, 3)),
        ("big.bin", noise(20 << 20, 4)),
        ("line ends.txt", b"a\nb\r\nc\r\n\r\n\n--boundary\r\n--\r\n".to_vec()),
        ("Bestellung f\u{fc}r M\u{fc}ller & S\u{f6}hne (2).edi", order(1002)),
        ("with  two blanks.xml", b"<order/>".to_vec()),
        ("no-extension", noise(10, 5)),
    ];
    for (name, bytes) in &files {
        pair.put(name, bytes);
    }
    for (name, bytes) in &files {
        let parcel = pair.delivered(name);
        assert!(pair.fetch(&parcel) == *bytes, "{name} differs in BOB's inbox");
        let kept = format!("AS2/files/ALICE/BOB/outbox/{}/{name}", parcel.sent_id());
        assert!(pair.alice_user.get(&kept) == *bytes, "{name} differs in ALICE's outbox");
        assert_eq!(parcel.got["size"], bytes.len());
    }
    // Other tests send between the same two at the same time.
    let left = pair.alice_user.ls("AS2/send/ALICE/BOB");
    assert!(
        files.iter().all(|(name, _)| !left.iter().any(|kept| kept == name)),
        "not all was handled: {left:?}"
    );
}

#[test]
fn the_receipt_carries_the_mic_that_the_sender_computed() {
    let pair = pair();
    let parcel = pair.deliver("mic.edi", &order(1));
    let mic = parcel.sent["mic"].as_str().unwrap();
    assert!(mic.ends_with(", sha-256") || mic.ends_with(", sha256"), "{mic}");
    assert_eq!(parcel.got["mic"], parcel.sent["mic"]);
    assert_eq!(parcel.sent["mdn_signature"], "signed");
    assert!(parcel.sent["mdn_disposition"].as_str().unwrap().ends_with("processed"));
    let mdn = pair.alice_user.get(&format!("AS2/raw-mdn/incoming/{}.mdn", parcel.sent_id()));
    let text = String::from_utf8_lossy(&mdn);
    let digest = mic.split(',').next().unwrap();
    assert!(
        text.lines()
            .any(|line| line.starts_with("Received-content-MIC:") && line.contains(digest)),
        "{text}"
    );
    let original = format!("Original-Message-ID: {}", parcel.sent["message_id"].as_str().unwrap());
    assert!(text.contains(&original), "{text}");
}

#[test]
fn openssl_verifies_the_signed_mdn() {
    let pair = pair();
    let parcel = pair.deliver("verify-mdn.edi", &order(2));
    let mdn = pair.alice().path("signed.mdn");
    fs::write(&mdn, pair.alice_user.get(&format!("AS2/raw-mdn/incoming/{}.mdn", parcel.sent_id()))).unwrap();
    let bob = pair.alice().path("BOB.pem");
    let args = [
        "cms",
        "-verify",
        "-in",
        mdn.to_str().unwrap(),
        "-certfile",
        bob.to_str().unwrap(),
        "-nointern",
        "-noverify",
    ];
    let report = run(&mut tool("openssl", &args)).ok();
    assert!(report.contains("disposition-notification"), "{report}");
}

#[test]
fn the_tree_shows_message_headers_mdn_and_files_on_both_sides() {
    let pair = pair();
    let parcel = pair.deliver("tree.edi", &order(3));
    let (out, inn) = (parcel.sent_id(), parcel.got_id());
    for id in [out, inn] {
        let (time, number) = id.split_once('-').unwrap();
        assert!(time.len() == 19 && time.ends_with('Z') && time.as_bytes()[8] == b'T', "{id}");
        assert!(number.len() == 9 && number.bytes().all(|b| b.is_ascii_digit()), "{id}");
    }
    let sent = |path: &str| pair.alice_user.get(&format!("AS2/{path}"));
    let got = |path: &str| pair.bob_user.get(&format!("AS2/{path}"));
    let raw = sent(&format!("raw-message/ALICE/BOB/outbox/{out}/message.as2"));
    assert!(
        raw == got(&format!("raw-message/BOB/ALICE/inbox/{inn}/message.as2")),
        "the body changed on the wire"
    );
    assert!(raw.windows(3).all(|window| window != b"BEG"), "an encrypted body shows no payload");
    let mdn = got(&format!("raw-mdn/outgoing/{inn}.mdn"));
    let read = sent(&format!("raw-mdn/incoming/{out}.mdn"));
    let body = |mdn: &[u8]| {
        mdn.windows(4)
            .position(|w| w == b"\r\n\r\n")
            .map(|at| mdn[at + 4..].to_vec())
            .unwrap()
    };
    assert!(body(&mdn) == body(&read), "the MDN changed on the wire");
    assert_eq!(pair.bob_user.ls(&format!("AS2/files/BOB/ALICE/inbox/{inn}")), ["tree.edi"]);
    assert_eq!(pair.alice_user.ls(&format!("AS2/headers/ALICE/BOB/outbox/{out}")), ["headers.txt"]);
}

#[test]
fn headers_are_kept_in_the_order_and_spelling_of_the_wire() {
    let pair = pair();
    let parcel = pair.deliver("headers.edi", &order(4));
    let sent = pair
        .alice_user
        .get(&format!("AS2/headers/ALICE/BOB/outbox/{}/headers.txt", parcel.sent_id()));
    let got = pair
        .bob_user
        .get(&format!("AS2/headers/BOB/ALICE/inbox/{}/headers.txt", parcel.got_id()));
    let (sent, got) = (String::from_utf8(sent).unwrap(), String::from_utf8(got).unwrap());
    assert_eq!(sent, got, "sender and receiver saw the same block");
    assert!(sent.contains("\r\n"), "lines end as on the wire");
    let names: Vec<String> = wire::header_lines(&sent).into_iter().map(|(name, _)| name).collect();
    for name in [
        "AS2-From",
        "AS2-To",
        "AS2-Version",
        "Message-ID",
        "Content-Type",
        "Content-Length",
        "Disposition-Notification-To",
    ] {
        assert!(
            names.iter().any(|found| found == name),
            "{name} is missing, or spelt otherwise: {names:?}"
        );
    }
}

#[test]
fn headers_of_others_keep_their_own_order_and_spelling() {
    let pair = pair();
    let parcel = pair.deliver("spelling.edi", &order(5));
    let block = pair
        .alice_user
        .get(&format!("AS2/headers/ALICE/BOB/outbox/{}/headers.txt", parcel.sent_id()));
    let body = pair
        .alice_user
        .get(&format!("AS2/raw-message/ALICE/BOB/outbox/{}/message.as2", parcel.sent_id()));
    let mut request = wire::Request::captured(&String::from_utf8(block).unwrap(), body);
    request = request.with("Message-ID", "<spelling@test>");
    request.headers.reverse();
    for (name, _) in &mut request.headers {
        *name = name.to_ascii_uppercase();
    }
    request.headers.insert(0, ("x-CuStOm".to_owned(), "Kept  as it is".to_owned()));
    assert_eq!(request.post(pair.bob().as2_port).status, 200);
    let received = pair
        .bob()
        .messages("in")
        .into_iter()
        .find(|message| message["message_id"] == "<spelling@test>")
        .unwrap();
    let block = pair.bob_user.get(&format!(
        "AS2/headers/BOB/ALICE/inbox/{}/headers.txt",
        received["id"].as_str().unwrap()
    ));
    let kept = String::from_utf8(block).unwrap();
    let ours = |name: &str| !matches!(name.to_ascii_lowercase().as_str(), "host" | "connection" | "content-length");
    let names: Vec<String> = wire::header_lines(&kept)
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| ours(name))
        .collect();
    let posted: Vec<String> = request.headers.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, posted);
    assert!(kept.contains("x-CuStOm: Kept  as it is\r\n"), "{kept}");
}

#[test]
fn records_are_real_files_that_an_administrator_can_read() {
    let pair = pair();
    let parcel = pair.deliver("on-disk.edi", &order(6));
    let inbox = pair.bob().tree(&format!("files/BOB/ALICE/inbox/{}/on-disk.edi", parcel.got_id()));
    pair.bob().wait("the payload on disk", |_| inbox.exists().then_some(()));
    assert_eq!(fs::read(&inbox).unwrap(), order(6));
    for (gateway, user, path) in [
        (
            pair.bob(),
            &pair.bob_user,
            format!("raw-message/BOB/ALICE/inbox/{}/message.as2", parcel.got_id()),
        ),
        (
            pair.bob(),
            &pair.bob_user,
            format!("headers/BOB/ALICE/inbox/{}/headers.txt", parcel.got_id()),
        ),
        (pair.bob(), &pair.bob_user, format!("raw-mdn/outgoing/{}.mdn", parcel.got_id())),
        (pair.alice(), &pair.alice_user, format!("raw-mdn/incoming/{}.mdn", parcel.sent_id())),
        (
            pair.alice(),
            &pair.alice_user,
            format!("files/ALICE/BOB/outbox/{}/on-disk.edi", parcel.sent_id()),
        ),
    ] {
        let on_disk = gateway.tree(&path);
        gateway.wait(&path, |_| on_disk.exists().then_some(()));
        assert!(
            fs::read(&on_disk).unwrap() == user.get(&format!("AS2/{path}")),
            "{path} differs between disk and SFTP"
        );
    }
}

#[test]
fn paramiko_finds_its_file_after_the_put_although_it_has_moved_on() {
    let pair = Pair::one_gateway();
    let local = pair.alice().file("paramiko.edi", &order(7));
    let mut command = tool(
        peer::python().to_str().unwrap(),
        &[peer::script("paramiko_client.py").to_str().unwrap()],
    );
    command
        .args([&pair.alice().sftp_port.to_string(), "alice-erp"])
        .arg(pair.alice().path("alice-erp-ed25519.key"));
    command.args(["put", local.to_str().unwrap(), "AS2/send/ALICE/BOB/paramiko.edi"]);
    let told = run(&mut command).ok();
    assert!(told.contains(&format!("size {}", order(7).len())), "{told}");
    let parcel = pair.delivered("paramiko.edi");
    assert_eq!(pair.fetch(&parcel), order(7));
}

#[test]
fn what_a_block_kept_back_goes_out_when_it_is_lifted() {
    // Its own turn would come long after everybody's patience.
    let pair = Pair::one_with(&[("retry.initial", "\"1h\""), ("retry.max_wait", "\"1h\"")]);
    pair.alice().ok(&["partner", "block", "BOB", "out"]);
    pair.alice().restart();
    pair.put("kept.edi", &order(8));
    pair.alice().wait("the message to be kept back", |alice| {
        let all = alice.messages_of("out", "kept.edi");
        all.into_iter().find(|message| message["code"] == "partner-blocked")
    });
    pair.alice().ok(&["partner", "unblock", "BOB"]);
    pair.delivered("kept.edi");
    // And while nobody serves.
    pair.alice().change(&["partner", "block", "BOB", "out"]);
    pair.put("kept-too.edi", &order(9));
    pair.alice().wait("the second message to be kept back", |alice| {
        let all = alice.messages_of("out", "kept-too.edi");
        all.into_iter().find(|message| message["code"] == "partner-blocked")
    });
    pair.alice().kill9();
    pair.alice().ok(&["partner", "unblock", "BOB"]);
    pair.alice().start();
    pair.delivered("kept-too.edi");
}

/// durability.md R2: the row holds length and SHA-256.
#[test]
fn what_the_disk_has_changed_is_not_sent() {
    let pair = Pair::one_gateway();
    let alice = pair.alice();
    alice.ok(&["partner", "block", "BOB", "out"]);
    alice.restart();
    let names = ["flipped.bin", "cut.bin"];
    for name in names {
        let before = alice.stored();
        pair.put(name, &noise(200_000, 8));
        let stored: Vec<_> = alice.stored().into_iter().filter(|file| !before.contains(file)).collect();
        assert_eq!(stored.len(), 1, "{stored:?}");
        let mut bytes = fs::read(&stored[0]).unwrap();
        match name {
            "cut.bin" => bytes.truncate(65_536),
            _ => bytes[100_000] ^= 1,
        }
        fs::write(&stored[0], &bytes).unwrap();
    }
    alice.ok(&["partner", "unblock", "BOB"]);
    for name in names {
        let failed = alice.reaches("out", name, "failed");
        assert_eq!(failed["code"], "bytes-damaged", "{failed:#}");
    }
    assert_eq!(pair.bob_user.ls("AS2/files/BOB/ALICE/inbox"), [""; 0]);
    assert!(alice.log().contains("look at the disk"), "{}", alice.log());
}

#[test]
fn a_partner_that_is_away_is_tried_again_with_the_same_bytes() {
    let pair = Pair::two_gateways();
    pair.bob().kill9();
    pair.put("later.edi", &order(8));
    let waiting = pair.alice().reaches("out", "later.edi", "retrying");
    assert!(waiting["next_try"].is_string() || waiting["next_try"].is_number(), "{waiting:#}");
    assert_eq!(
        pair.alice_user.ls("AS2/send/ALICE/BOB"),
        ["later.edi"],
        "listed until its message is final"
    );
    pair.bob().start();
    let parcel = pair.delivered("later.edi");
    assert!(parcel.sent["attempts"].as_u64().unwrap() > 1);
    assert_eq!(parcel.sent["message_id"], waiting["message_id"]);
    assert_eq!(pair.fetch(&parcel), order(8));
    // The log calls settled what is final, and nothing else.
    let log = pair.alice().log();
    let states = |what: &str| {
        let lines = log.lines().filter(|line| line.contains(what));
        let of = |line: &str| {
            line.split_once("state=")
                .map(|(_, state)| state.split(' ').next().map(str::to_owned))
        };
        lines.filter_map(of).flatten().collect::<Vec<_>>()
    };
    assert_eq!(states("message settled"), ["delivered"], "{log}");
    assert!(states("message moved").contains(&"retrying".to_owned()), "{log}");
}

#[test]
fn what_was_accepted_before_a_stop_goes_out_after_the_start() {
    let pair = Pair::two_with(&[("uploads.release_after", "\"1h\"")]);
    pair.put("pending.edi", &order(9));
    assert_eq!(pair.alice().term(), 0);
    assert_eq!(pair.alice().messages_of("out", "pending.edi")[0]["state"], "queued");
    pair.alice().set_clock(3700);
    pair.alice().start();
    assert_eq!(pair.fetch(&pair.delivered("pending.edi")), order(9));
}

#[test]
fn an_exchange_is_told_by_the_metrics() {
    let pair = Pair::one_with(&[("telemetry.listen", "\"127.0.0.1:0\"")]);
    let gateway = pair.alice();
    let value = |row: &str| -> f64 {
        let value = gateway.metric(row).unwrap_or_else(|| panic!("no {row}"));
        value.parse().unwrap()
    };
    pair.deliver("told.edi", &order(1));
    let of = |metric: &str, direction: &str| format!("as2gate_as2_{metric}{{direction=\"{direction}\"}}");
    // It is counted once it is decided.
    gateway.wait("the metric", |_| {
        (value(&of("message_duration_seconds_count", "out")) == 1.0).then_some(())
    });
    for direction in ["in", "out"] {
        assert_eq!(value(&of("message_bytes_total", direction)), order(1).len() as f64, "{direction}");
        assert_eq!(value(&of("message_duration_seconds_count", direction)), 1.0, "{direction}");
        let mdns = format!("as2gate_as2_mdn_total{{direction=\"{direction}\",mode=\"sync\",disposition=\"processed\"}}");
        assert_eq!(value(&mdns), 1.0, "{direction}");
    }
    assert!(value(&of("message_duration_seconds_sum", "out")) > 0.0);
    assert_eq!(value("as2gate_as2_oldest_queued_seconds"), 0.0);
    let requests = |op: &str, result: &str| value(&format!("as2gate_sftp_requests_total{{op=\"{op}\",result=\"{result}\"}}"));
    for op in ["open", "write", "close", "realpath"] {
        assert!(requests(op, "ok") > 0.0, "{op}");
    }
    let denied = requests("mkdir", "denied");
    let _ = pair.alice_user.refused("mkdir AS2/files/ALICE/new");
    assert_eq!(requests("mkdir", "denied"), denied + 1.0);
    assert!(value("as2gate_sftp_logins_total{method=\"publickey\",result=\"ok\"}") > 0.0);
    gateway.wait("the certificates", |gateway| {
        let page = gateway.metrics();
        let row = |owner: &str| format!("purpose=\"station\",owner=\"{owner}\"}} ");
        (page.contains(&row("ALICE")) && page.contains(&row("BOB"))).then_some(())
    });
}
