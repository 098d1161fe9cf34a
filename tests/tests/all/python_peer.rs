//! pyas2lib, an AS2 implementation that others wrote, as the partner in both directions.

use tests::pair::{add_partner, station_certificate};
use tests::peer::Peer;
use tests::process::free_port;
use tests::{Gateway, Sftp, noise, order};

/// ALICE with pyas2lib as partner PY.
struct World {
    gateway: Gateway,
    peer: Peer,
    user: Sftp,
}

impl World {
    fn new() -> Self {
        Self::named("ALICE", "PY")
    }

    fn named(station: &str, partner: &str) -> Self {
        let gateway = Gateway::stopped(&[]);
        gateway.ok(&["station", "add", station, "--email", "edi@alice.example"]);
        let mut peer = Peer::new(partner, station, &station_certificate(&gateway, station));
        let url = peer.listen();
        add_partner(&gateway, partner, &url, peer.identity.path("cert.pem").to_str().unwrap());
        let args = [
            "partner",
            "set",
            partner,
            "--require-signed",
            "false",
            "--require-encrypted",
            "false",
        ];
        gateway.ok(&args);
        let user = gateway.user("erp");
        gateway.start();
        World { gateway, peer, user }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/as2", self.gateway.as2_port)
    }
}

/// Sends one file with each setting in turn; the peer has to see what was meant.
fn we_send(mdn: &str, settings: &[(&str, &str, &str)]) {
    let world = World::new();
    for (n, (sign, encrypt, compress)) in settings.iter().enumerate() {
        let what = format!("mdn {mdn}, sign {sign}, encrypt {encrypt}, compress {compress}");
        let args = [
            "partner",
            "set",
            "PY",
            "--mdn",
            mdn,
            "--sign",
            sign,
            "--encrypt",
            encrypt,
            "--compress",
            compress,
        ];
        world.gateway.ok(&args);
        world.gateway.restart();
        let name = format!("order-{n}.edi");
        let (edi, binary) = (order(1), noise(100_000, 5));
        let (name, bytes) = if n % 2 == 0 {
            (name, edi)
        } else {
            (format!("blob-{n}.bin"), binary)
        };
        let local = world.gateway.file(&name, &bytes);
        world.user.put(&local, &format!("AS2/send/ALICE/PY/{name}"));
        let sent = world.gateway.reaches("out", &name, "delivered");
        let (facts, payload) = world.peer.received(n + 1);
        assert_eq!(facts["status"], "processed", "{what}: {facts:#}");
        assert!(payload == bytes, "{what}: the peer got other bytes");
        assert_eq!(facts["file"], name.as_str(), "{what}");
        assert_eq!(facts["signed"], *sign != "none", "{what}");
        assert_eq!(facts["encrypted"], *encrypt != "none", "{what}");
        assert_eq!(facts["compressed"], *compress != "none", "{what}");
        if *sign != "none" {
            assert_eq!(facts["digest"], *sign, "{what}");
            let mic = facts["mic"].as_str().unwrap();
            assert!(
                sent["mic"].as_str().unwrap().starts_with(mic),
                "{what}: {mic} against {}",
                sent["mic"]
            );
            if mdn != "none" {
                assert!(sent["mdn_disposition"].as_str().unwrap().ends_with("processed"), "{what}");
            }
        }
        let signature = match mdn {
            "none" => "",
            "sync" | "async" => "unsigned",
            _ => "signed",
        };
        assert_eq!(sent["mdn_signature"].as_str().unwrap_or_default(), signature, "{what}");
    }
}

const PLAIN: &[(&str, &str, &str)] = &[("sha256", "aes256-cbc", "none"), ("none", "none", "none")];

const ALL: &[(&str, &str, &str)] = &[
    ("sha256", "aes256-cbc", "none"),
    ("sha256", "aes128-cbc", "before-sign"),
    ("sha256", "aes256-cbc", "after-sign"),
    ("sha512", "none", "none"),
    ("sha384", "none", "before-sign"),
    ("none", "aes192-cbc", "none"),
    ("none", "none", "none"),
];

#[test]
fn we_send_with_a_signed_sync_mdn() {
    we_send("sync-signed", ALL);
}

#[test]
fn we_send_with_an_unsigned_sync_mdn() {
    we_send("sync", PLAIN);
}

#[test]
fn we_send_with_a_signed_async_mdn() {
    we_send("async-signed", &ALL[..4]);
}

#[test]
fn we_send_with_an_unsigned_async_mdn_and_with_none() {
    we_send("async", PLAIN);
    we_send("none", PLAIN);
}

#[test]
fn they_send_with_every_packaging_and_mdn() {
    let world = World::new();
    // Receipts go to the partner's own origin, or to one that was agreed.
    let port = free_port().to_string();
    let receipts_to = format!("http://127.0.0.1:{port}/mdn");
    world
        .gateway
        .ok(&["partner", "set", "PY", "--accept-3des", "true", "--mdn-urls", &receipts_to]);
    world.gateway.restart();
    let packagings: [&[&str]; 7] = [
        &["--sign", "sha256", "--encrypt", "aes_256_cbc"],
        &["--sign", "sha512", "--encrypt", "aes_128_cbc", "--compress"],
        &["--sign", "sha256", "--compress"],
        &["--sign", "sha256"],
        &["--encrypt", "tripledes_192_cbc"],
        &["--encrypt", "aes_256_cbc", "--compress"],
        &[],
    ];
    // pyas2lib expects the MIC in the digest of its signature, so it has to ask for that one.
    let receipts: [&[&str]; 4] = [
        &["--mdn", "sync", "--mdn-signed", "sha256"],
        &["--mdn", "sync"],
        &["--mdn", "async", "--mdn-signed", "sha256"],
        &["--mdn", "none"],
    ];
    for (n, packaging) in packagings.iter().enumerate() {
        // The first packaging with every receipt, the others with one each.
        let wanted = if n == 0 { &receipts[..] } else { &receipts[n % 3..n % 3 + 1] };
        for (m, receipt) in wanted.iter().enumerate() {
            let what = format!("{packaging:?} {receipt:?}");
            let (name, bytes) = (format!("they-{n}-{m}.bin"), noise(50_000 + n, 7));
            let file = world.gateway.file(&name, &bytes);
            let told = world
                .peer
                .send(&world.url(), &file, &[packaging, *receipt, &["--mdn-port", &port]].concat());
            assert!(told["http"].as_u64().unwrap() / 100 == 2, "{what}: {told:#}");
            let got = world.gateway.reaches("in", &name, "filed");
            let path = format!("AS2/files/ALICE/PY/inbox/{}/{name}", got["id"].as_str().unwrap());
            assert!(world.user.get(&path) == bytes, "{what}: other bytes");
            if receipt[1] == "none" {
                continue;
            }
            assert_eq!(told["disposition"], "processed", "{what}: {told:#}");
            assert_eq!(told["signed"], receipt.len() > 2, "{what}");
            if packaging.contains(&"--sign") {
                assert_eq!(told["mic_agrees"], true, "{what}: {told:#}");
            }
        }
    }
}

#[test]
fn who_asks_for_an_async_mdn_gets_the_status_that_is_set() {
    let world = World::new();
    let port = free_port().to_string();
    let receipts_to = format!("http://127.0.0.1:{port}/mdn");
    world.gateway.change(&["partner", "set", "PY", "--mdn-urls", &receipts_to]);
    let sends = |n: u32, mdn: &str| {
        let file = world.gateway.file("asked.edi", &order(n));
        let options = ["--sign", "sha256", "--mdn", mdn, "--mdn-port", &port];
        world.peer.send(&world.url(), &file, &options)
    };
    for (n, status) in [(1, 204), (2, 202), (3, 200)] {
        if status != 204 {
            let set = ["partner", "set", "PY", "--async-status", &status.to_string()];
            world.gateway.change(&set);
        }
        let told = sends(n, "async");
        assert_eq!(
            (&told["http"], &told["disposition"]),
            (&status.into(), &"processed".into()),
            "{told:#}"
        );
    }
    // Others are none of its business.
    assert_eq!([&sends(4, "none")["http"], &sends(5, "sync")["http"]], [204, 200]);
    let refused = world.gateway.cli(&["partner", "set", "PY", "--async-status", "201"]).fails(4);
    assert!(refused.contains("200, 202 or 204"), "{refused}");
}

#[test]
fn ids_with_quotes_and_backslashes_are_understood_on_both_sides() {
    // RFC 4130 §6.2: quoted-strings, in which `"` and `\` stand escaped.
    let (station, partner) = (r#"AL "I\CE""#, r#""P\Y""#);
    let world = World::named(station, partner);
    let dir = "AS2/send/AL%20%22I%5CCE%22/%22P%5CY%22";
    for (n, mdn) in ["sync-signed", "async-signed"].into_iter().enumerate() {
        world.gateway.ok(&["partner", "set", partner, "--mdn", mdn]);
        world.gateway.restart();
        let name = format!("{mdn}.edi");
        world.user.put(&world.gateway.file(&name, &order(1)), &format!("{dir}/{name}"));
        let sent = world.gateway.reaches("out", &name, "delivered");
        let (facts, payload) = world.peer.received(n + 1);
        assert_eq!((&facts["status"], payload), (&"processed".into(), order(1)), "{mdn}: {facts:#}");
        let id = sent["id"].as_str().unwrap();
        let head = world
            .user
            .get(&format!("AS2/headers/AL%20%22I%5CCE%22/%22P%5CY%22/outbox/{id}/headers.txt"));
        let head = String::from_utf8(head).unwrap();
        assert!(head.contains(r#"AS2-From: "AL \"I\\CE\"""#), "{head}");
        assert!(head.contains(r#"AS2-To: "\"P\\Y\"""#), "{head}");
    }
    let file = world.gateway.file("theirs.edi", &order(2));
    let options = [
        "--sign",
        "sha256",
        "--encrypt",
        "aes_256_cbc",
        "--mdn",
        "sync",
        "--mdn-signed",
        "sha256",
    ];
    let told = world.peer.send(&world.url(), &file, &options);
    assert_eq!(
        (&told["disposition"], &told["mic_agrees"]),
        (&"processed".into(), &true.into()),
        "{told:#}"
    );
    let got = world.gateway.reaches("in", "theirs.edi", "filed");
    assert_eq!((&got["station"], &got["partner"]), (&station.into(), &partner.into()));
}

#[test]
fn a_receipt_does_not_go_to_an_address_that_was_not_agreed() {
    let world = World::new();
    let file = world.gateway.file("elsewhere.edi", &order(1));
    let mut message = world.peer.command("send");
    message
        .args(["--url", &world.url(), "--mdn", "async", "--sign", "sha256"])
        .arg("--file")
        .arg(&file);
    let mut child = message.stderr(std::process::Stdio::null()).spawn().unwrap();
    world.gateway.reaches("in", "elsewhere.edi", "filed");
    world.gateway.wait("the refusal in the log", |gateway| {
        gateway.log().contains("mdn-destination-denied").then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn they_learn_that_their_certificate_is_not_the_one_we_know() {
    let world = World::new();
    let mut other = Peer::new("PY", "ALICE", &station_certificate(&world.gateway, "ALICE"));
    let file = world.gateway.file("forged.edi", &order(1));
    let told = other.send(
        &world.url(),
        &file,
        &["--sign", "sha256", "--encrypt", "aes_256_cbc", "--mdn-signed", "sha256"],
    );
    assert!(told["mdn"].as_str().unwrap().contains("authentication-failed"), "{told:#}");
    assert_eq!(world.user.ls("AS2/files/ALICE/PY/inbox"), [""; 0]);
    assert!(other.listen().starts_with("http://"));
}

#[test]
fn a_negative_mdn_of_theirs_fails_the_message() {
    // PY knows another key of ALICE: it cannot verify what she signs.
    let gateway = Gateway::stopped(&[]);
    gateway.ok(&["station", "add", "ALICE"]);
    let stranger = tests::peer::Identity::new("not-alice");
    let mut peer = Peer::new("PY", "ALICE", &std::fs::read_to_string(stranger.path("cert.pem")).unwrap());
    let url = peer.listen();
    add_partner(&gateway, "PY", &url, peer.identity.path("cert.pem").to_str().unwrap());
    let user = gateway.user("erp");
    gateway.start();
    let local = gateway.file("refused.edi", &order(1));
    user.put(&local, "AS2/send/ALICE/PY/refused.edi");
    let failed = gateway.reaches("out", "refused.edi", "failed");
    assert!(
        failed["mdn_disposition"].as_str().unwrap().to_lowercase().contains("error"),
        "{failed:#}"
    );
    assert_ne!(failed["code"], "");
    let kept = format!("AS2/files/ALICE/PY/failed/{}/refused.edi", failed["id"].as_str().unwrap());
    assert_eq!(user.get(&kept), order(1));
}
