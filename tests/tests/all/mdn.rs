//! Every receipt mode with every combination of signing, encryption and compression.

use serde_json::Value;
use tests::peer::Identity;
use tests::{Gateway, Pair, order};

/// All combinations of what is done to a message.
fn packagings() -> Vec<(&'static str, &'static str, &'static str)> {
    let mut all = Vec::new();
    for sign in ["sha256", "none"] {
        for encrypt in ["aes256-cbc", "none"] {
            for compress in ["none", "before-sign", "after-sign"] {
                all.push((sign, encrypt, compress));
            }
        }
    }
    all
}

/// Whether a message went out under these settings.
fn made_with(message: &Value, mode: &str, sign: &str, encrypt: &str, compress: &str) -> bool {
    let text = |field: &str| match message[field].as_str().unwrap_or_default() {
        "" => "none".to_owned(),
        text => text.to_owned(),
    };
    // `SHA-256`, `sha256`, `AES-256-CBC` and the like name the same thing.
    let plain = |text: &str| text.to_lowercase().replace('-', "");
    let same = |field: &str, wanted: &str| plain(&text(field)).starts_with(&plain(wanted));
    text("mdn_mode") == mode && same("signed", sign) && same("encrypted", encrypt) && same("compressed", compress)
}

fn goes_through_with(mode: &str) {
    let pair = Pair::one_gateway();
    pair.bob().change(&[
        "partner",
        "set",
        "ALICE",
        "--require-signed",
        "false",
        "--require-encrypted",
        "false",
    ]);
    for (number, (sign, encrypt, compress)) in (1..).zip(packagings()) {
        let what = format!("mdn {mode}, sign {sign}, encrypt {encrypt}, compress {compress}");
        pair.alice().change(&[
            "partner",
            "set",
            "BOB",
            "--mdn",
            mode,
            "--sign",
            sign,
            "--encrypt",
            encrypt,
            "--compress",
            compress,
        ]);
        let name = format!("order-{number}.edi");
        let parcel = pair.deliver(&name, &order(number));
        assert!(made_with(&parcel.sent, mode, sign, encrypt, compress), "{what}: {:#}", parcel.sent);
        assert!(pair.fetch(&parcel) == order(number), "{what}: {name} differs");
        let signature = match mode {
            "none" => "",
            "sync" | "async" => "unsigned",
            _ => "signed",
        };
        assert_eq!(parcel.sent["mdn_signature"].as_str().unwrap_or_default(), signature, "{what}");
        let answered = parcel.sent["mdn_disposition"].as_str().unwrap_or_default();
        assert_eq!(answered.ends_with("processed"), mode != "none", "{what}: {answered}");
        let mdns = pair.alice_user.run(&[&format!("ls AS2/raw-mdn/incoming/{}.mdn", parcel.sent_id())]);
        assert_eq!(mdns.code == 0, mode != "none", "{what}: {mdns}");
        if sign != "none" && mode != "none" {
            assert_eq!(parcel.sent["mic"], parcel.got["mic"], "{what}");
        }
    }
}

#[test]
fn no_mdn_with_every_packaging() {
    goes_through_with("none");
}

#[test]
fn sync_mdn_with_every_packaging() {
    goes_through_with("sync");
}

#[test]
fn signed_sync_mdn_with_every_packaging() {
    goes_through_with("sync-signed");
}

#[test]
fn async_mdn_with_every_packaging() {
    goes_through_with("async");
}

#[test]
fn signed_async_mdn_with_every_packaging() {
    goes_through_with("async-signed");
}

#[test]
fn an_async_mdn_finds_its_message_between_two_processes() {
    let pair = Pair::two_gateways();
    pair.alice().ok(&["partner", "set", "BOB", "--mdn", "async-signed"]);
    pair.bob().ok(&["partner", "set", "ALICE", "--private", "true"]);
    pair.alice().restart();
    let parcel = pair.deliver("async.edi", &order(1));
    assert_eq!(parcel.sent["mdn_mode"], "async-signed");
    assert_eq!(parcel.sent["mdn_signature"], "signed");
    assert_eq!(pair.fetch(&parcel), order(1));
}

#[test]
fn a_negative_async_mdn_finds_its_message_between_two_processes() {
    let pair = Pair::two_gateways();
    pair.alice().change(&["partner", "set", "BOB", "--mdn", "async-signed"]);
    // BOB holds a certificate that is not ALICE's any more: no signature proves to it who asks for the MDN.
    let stale = Identity::new("alice");
    let file = stale.path("cert.pem").display().to_string();
    pair.bob().ok(&["cert", "add", "stale", "--partner", "ALICE", "--file", &file]);
    pair.bob().change(&["partner", "set", "ALICE", "--sign-certificate", "stale"]);
    pair.put("stale.edi", &order(1));
    let failed = pair.alice().reaches("out", "stale.edi", "failed");
    assert_eq!(failed["code"], "authentication-failed", "{failed:#}");
    assert!(failed["hint"].to_string().contains("an old certificate of ours"), "{failed:#}");
    assert_eq!(failed["mdn_signature"], "signed", "{failed:#}");
}

#[test]
fn async_mdns_are_asked_for_where_messages_go_unless_they_have_a_path_of_their_own() {
    let announced = |settings: &[(&str, &str)]| {
        let gateway = Gateway::stopped(settings);
        gateway.ok(&["station", "add", "ALICE"]);
        let shown = gateway.json(&["station", "show", "ALICE"]);
        assert!(shown["url"].as_str().unwrap().ends_with("/as2"), "{shown:#}");
        let url = shown["mdn_url"].as_str().unwrap().to_owned();
        assert!(gateway.ok(&["station", "profile", "ALICE"]).contains(&url));
        url
    };
    assert!(announced(&[]).ends_with("/as2"));
    assert!(announced(&[("as2.mdn_path", "\"/mdn\"")]).ends_with("/mdn"));
}

#[test]
fn a_missing_async_mdn_keeps_the_message_waiting_and_a_late_one_ends_it() {
    // BOB does not let its receipts go to private addresses: ALICE's never comes.
    let pair = Pair::two_gateways();
    pair.alice().ok(&["partner", "set", "BOB", "--mdn", "async-signed"]);
    pair.bob().ok(&["partner", "set", "ALICE", "--private", "false"]);
    pair.alice().restart();
    pair.bob().restart();
    pair.put("waits.edi", &order(2));
    let waiting = pair.alice().reaches("out", "waits.edi", "waiting-mdn");
    pair.bob().reaches("in", "waits.edi", "filed");
    assert_eq!(waiting["mdn_disposition"].as_str().unwrap_or_default(), "");
    pair.bob().ok(&["partner", "set", "ALICE", "--private", "true"]);
    // The same bytes again make BOB post the same receipt again.
    pair.alice().ok(&["message", "retry", waiting["id"].as_str().unwrap()]);
    let parcel = pair.delivered("waits.edi");
    assert_eq!(parcel.sent["mdn_signature"], "signed");
    assert_eq!(pair.bob().messages_of("in", "waits.edi").len(), 1);
}
