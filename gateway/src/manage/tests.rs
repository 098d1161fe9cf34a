#![allow(clippy::unwrap_used, clippy::expect_used)]

mod certs;
mod removal;
mod sealed;

use std::path::Path;
use std::sync::Arc;

use keystore::KeySpec;
use keystore::ssh::{KeyFormat, KeyKind};

use super::certificates::{For, NewCertificate, Use};
use super::stations::NewStation;
use super::switch::{Switch, When};
use super::users::{KeySource, KeyWish};
use super::*;
use crate::clock::{Clock as _, DAY, ManualClock, Millis};
use crate::config::Config;
use crate::journal::NewUpload;
use crate::layout::Area;
use crate::message::{Detail, Direction, Message, State};
use crate::partnership::Partnership;

/// 2026-11-22T15:00:00Z.
const START: i64 = 1_795_359_600_000;

pub(crate) struct Place {
    pub(crate) core: Arc<Core>,
    pub(crate) clock: ManualClock,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) async fn place() -> Place {
    place_with(|_| ()).await
}

/// The same, with a configuration that is changed before anything is opened.
pub(crate) async fn place_with(change: impl FnOnce(&mut Config)) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::load_with(None, Some(dir.path()), std::iter::empty()).unwrap();
    change(&mut config);
    setup::set_up(&config).map(|_| ()).unwrap();
    assert_eq!(setup::set_up(&config).map(|_| ()).unwrap_err().code, "exists");
    let clock = ManualClock::at(START);
    let core = Core::open_with_clock(config, Arc::new(clock.clone())).unwrap();
    accounts::add(&core, "acme", &[], false, false).await.unwrap();
    Place { core, clock, dir }
}

pub(crate) async fn station(core: &Core, id: &str) -> Station {
    let new = NewStation {
        account: None,
        as2_id: id.to_owned(),
        settings: Vec::new(),
        certificate: None,
        key: KeySpec::Rsa2048,
    };
    stations::add(core, &new, false).await.unwrap().0
}

fn pairs(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn foreign(cn: &str) -> NewCertificate {
    let subject = keystore::Subject {
        cn: cn.to_owned(),
        ..keystore::Subject::default()
    };
    let pair = keystore::identity(KeySpec::EcP256, &subject, START / 1000, 400).unwrap();
    NewCertificate {
        name: None,
        bytes: pair.certificate.into(),
        passphrase: None,
        alias: None,
    }
}

/// A pair that trades in plain.
pub(crate) async fn plain_pair(core: &Core) {
    station(core, "ALICE").await;
    plain_bob(core).await;
}

/// The partner of such a pair.
async fn plain_bob(core: &Core) {
    let bob = partners::NewPartner {
        account: None,
        as2_id: "BOB".to_owned(),
        settings: pairs(&[
            ("url", "http://192.0.2.1/as2"),
            ("sign", "none"),
            ("encrypt", "none"),
            ("mdn", "sync"),
            ("require_signed", "false"),
            ("require_encrypted", "false"),
        ]),
        certificate: None,
    };
    partners::add(core, &bob, false).await.unwrap();
    core.refresh_objects().unwrap();
}

/// Sets fields of BOB, known to everybody at once.
pub(crate) async fn set_bob(core: &Core, settings: &[(&str, &str)]) {
    partners::set(core, None, "BOB", &pairs(settings), false).await.unwrap();
    core.refresh_objects().unwrap();
}

/// A message between the two in this state, with its bytes under this key.
pub(crate) fn message(direction: Direction, state: State, key: &str, now: Millis) -> Message {
    Message {
        file: "order.edi".to_owned(),
        size: 3,
        content_type: "text/plain".to_owned(),
        detail: Detail {
            payload: key.to_owned(),
            raw: key.to_owned(),
            raw_size: 3,
            mdn_mode: Some(crate::partner::MdnMode::Sync),
            ..Detail::default()
        },
        ..Message::new(direction, state, ("acme", "ALICE", "BOB"), now)
    }
}

/// Has the journal accept a message of ours that consists of these bytes.
pub(crate) async fn accept(core: &Core, message: &Message, bytes: &[u8]) {
    let now = core.clock.now();
    let upload = NewUpload {
        message: message.clone(),
        window: None,
        due: now,
        inline: Some((message.detail.payload.clone(), bytes.to_vec().into())),
        replaces: None,
    };
    core.journal.write(move |tx| tx.accept_upload(upload, now)).await.unwrap();
}

#[tokio::test]
async fn a_message_is_sent_by_no_other_account() {
    let Place { core, dir: _dir, .. } = place().await;
    plain_pair(&core).await;
    let queued = message(Direction::Out, State::Queued, "j:1", START);
    accept(&core, &queued, b"abc").await;
    // The station goes while both are in work, by a program of before, and another account takes its name.
    let received = Message {
        message_id: "<order-1@bob>".to_owned(),
        ..message(Direction::In, State::Received, "j:2", START)
    };
    let claim = crate::journal::Claim {
        message: received.clone(),
        inline: None,
        owner: "me".to_owned(),
    };
    core.journal.write(move |tx| tx.receive(claim, START)).await.unwrap();
    let gone = core
        .journal
        .write(|tx| tx.remove_object(ObjectKind::Station, "acme", "ALICE"))
        .await;
    assert!(gone.unwrap());
    accounts::add(&core, "beta", &[], false, false).await.unwrap();
    let new = NewStation {
        account: Some("beta".to_owned()),
        as2_id: "ALICE".to_owned(),
        settings: Vec::new(),
        certificate: None,
        key: KeySpec::Rsa2048,
    };
    stations::add(&core, &new, false).await.unwrap();
    let bob = partners::NewPartner {
        account: Some("beta".to_owned()),
        as2_id: "BOB".to_owned(),
        settings: pairs(&[("url", "http://192.0.2.1/as2"), ("sign", "none"), ("encrypt", "none")]),
        certificate: None,
    };
    partners::add(&core, &bob, false).await.unwrap();
    core.refresh_objects().unwrap();
    assert!(core.partnership("ALICE", "BOB").is_ok());
    for message in [&queued, &received] {
        assert!(matches!(core.partnership_of(message), Err(crate::partnership::Lack::Station(_))));
    }
    let bound = core.journal.read(|tx| tx.inbound("ALICE", "BOB", "<order-1@bob>")).unwrap();
    assert!(bound.is_none(), "what another account received says nothing here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_covers_what_is_there_and_keeps_its_partner() {
    let Place { core, dir: _dir, .. } = place().await;
    plain_pair(&core).await;
    let message = message(Direction::Out, State::Failed, "j:1", START);
    accept(&core, &message, b"abc").await;
    let verdict = crate::receipts::Verdict::failed(crate::code::NO_MDN, "", "");
    let step = crate::outbox::ended(&core, message.clone(), verdict, None, &[State::Failed], START);
    core.journal.write(move |tx| tx.settle(&step, START)).await.unwrap();
    tokio::task::block_in_place(|| core.storage.publish_batch()).unwrap();
    let held = || {
        let long_after = START + 900 * crate::clock::DAY;
        let count = core
            .journal
            .read(|tx| tx.count_sweep("acme", Area::Files, long_after, long_after))
            .unwrap();
        assert!(count.all > 0);
        count.retire == 0
    };
    assert!(!held());
    set_bob(&core, &[("hold", "true")]).await;
    assert!(held(), "what was there before");
    let removed = partners::remove(&core, None, "BOB", false).await.unwrap_err();
    let renamed = partners::set(&core, None, "BOB", &pairs(&[("as2_id", "ROB")]), false).await;
    assert_eq!((removed.code, renamed.unwrap_err().code), ("held", "held"));
    set_bob(&core, &[("hold", "false")]).await;
    assert!(!held());
    partners::remove(&core, None, "BOB", false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_retry_has_to_leave_in_the_tree_goes_later() {
    let Place { core, clock, dir: _dir } = place_with(|config| config.storage.min_free = 0).await;
    plain_pair(&core).await;
    let in_failed = |id: &crate::message::Id| {
        let mut entries = core.journal.read(|tx| tx.entries_of(id.as_str())).unwrap();
        entries.retain(|entry| !entry.is_dir && entry.parent.contains("/failed/"));
        entries
    };
    // Posts once and fails, and is retried.
    let retried = |key: &'static str| {
        let core = Arc::clone(&core);
        async move {
            let now = core.clock.now();
            let mut message = message(Direction::Out, State::Retrying, key, now);
            message.attempts = 1;
            message.message_id = format!("<{key}@alice>");
            accept(&core, &message, b"abc").await;
            let verdict = crate::receipts::Verdict::failed("not-delivered", "", "");
            let step = crate::outbox::ended(&core, message, verdict, None, &[State::Retrying], now);
            let failed = step.message.clone();
            core.journal.write(move |tx| tx.settle(&step, now)).await.unwrap();
            tokio::task::block_in_place(|| core.storage.publish_listed()).unwrap();
            messages::retry(&core, &failed, false).await.unwrap()
        }
    };
    let at_once = retried("j:1").await;
    assert_eq!(in_failed(&at_once.id), [], "the row goes with the bytes");
    let backup = core.storage.hold().unwrap();
    let held = retried("j:2").await;
    drop(backup);
    let [left] = &in_failed(&held.id)[..] else { panic!("no row") };
    let path = core.storage.tree_path(left);
    assert!(left.noncurrent.is_some() && path.exists());
    let now = core.clock.now();
    let verdict = crate::receipts::Verdict::Delivered { marks: Vec::new() };
    let step = crate::outbox::ended(&core, held.clone(), verdict, None, &[State::Retrying], now);
    core.journal.write(move |tx| tx.settle(&step, now)).await.unwrap();
    clock.advance(std::time::Duration::from_secs(40 * 86_400));
    tokio::task::block_in_place(|| {
        core.storage.publish_listed().unwrap();
        crate::lifecycle::run(&core, true).unwrap();
    });
    assert!(!path.exists() && !path.parent().unwrap().exists());
    assert_eq!(in_failed(&held.id), []);
}

#[tokio::test]
async fn two_local_stations_become_each_others_partners() {
    let Place { core, .. } = place().await;
    let alice = station(&core, "ALICE").await;
    assert_eq!(alice.certificate, "alice-2026");
    station(&core, "BOB").await;
    let bob = partners::add_from_station(&core, None, "BOB", &[], false).await.unwrap();
    assert_eq!((bob.url.as_str(), bob.private), ("http://localhost:8080/as2", true));
    assert_eq!(
        (bob.encrypt_certificate.as_str(), bob.sign_certificate.len()),
        ("bob-2026-public", 1)
    );
    let again = partners::add_from_station(&core, None, "BOB", &[], false).await.unwrap_err();
    assert_eq!(again.code, "exists");
    let all = objects(&core).unwrap();
    let trusted = all.certificate("acme", "bob-2026-public").unwrap();
    assert!(trusted.sealed_key.is_none() && trusted.der == all.certificate("acme", "bob-2026").unwrap().der);
    for file in ["identity.jks", "trust.jks", "https.jks"] {
        assert!(stores::of_account(&core, "acme").dir().join(file).is_file(), "{file}");
    }
    // The stores hold what the objects say.
    let bytes = std::fs::read(stores::of_account(&core, "acme").dir().join("identity.jks")).unwrap();
    let password = stores::passwords(&core, "acme").unwrap().identity;
    let opened = keystore::import_alias(&bytes, Some(&password), "alice-2026").unwrap();
    assert_eq!(opened.certificate().unwrap(), all.certificate("acme", "alice-2026").unwrap().der);
    let kinds: Vec<String> = core
        .journal
        .read(|tx| tx.events(0, None, None, 100))
        .unwrap()
        .into_iter()
        .map(|e| e.kind)
        .collect();
    assert!(kinds.contains(&"station.added".to_owned()) && kinds.contains(&"partner.added".to_owned()));
}

#[tokio::test]
async fn what_is_in_use_cannot_be_removed_and_dry_runs_write_nothing() {
    let Place { core, .. } = place().await;
    station(&core, "ALICE").await;
    let refused = certificates::remove(&core, None, "alice-2026", false).await.unwrap_err();
    assert!(refused.why.contains("station ALICE"), "{refused}");
    assert_eq!(accounts::remove(&core, "acme", false).await.unwrap_err().code, "in-use");
    let version = core.journal.version().unwrap();
    stations::remove(&core, None, "ALICE", true).await.unwrap();
    stations::set(&core, None, "ALICE", &pairs(&[("name", "Alice")]), true)
        .await
        .unwrap();
    assert_eq!(core.journal.version().unwrap(), version);
    stations::remove(&core, None, "ALICE", false).await.unwrap();
    certificates::remove(&core, None, "alice-2026", false).await.unwrap();
    accounts::remove(&core, "acme", false).await.unwrap();
}

#[tokio::test]
async fn a_switch_takes_over_when_its_time_comes() {
    let Place { core, clock, .. } = place().await;
    station(&core, "ALICE").await;
    let big = partners::NewPartner {
        account: None,
        as2_id: "BIG".to_owned(),
        settings: pairs(&[("url", "https://big.example/as2")]),
        certificate: Some(foreign("big")),
    };
    partners::add(&core, &big, false).await.unwrap();
    let at = jiff::Timestamp::from_millisecond(START + DAY).unwrap();
    let switch = Switch {
        account: None,
        old: "big-2026",
        at: When::At(at),
        name: Some("big-next"),
    };
    let planned = switch::schedule(&core, &switch, &foreign("big next"), false).await.unwrap();
    assert_eq!((planned.replaces.as_str(), planned.owner.as_str()), ("big-2026", "BIG"));
    assert_eq!(
        objects(&core).unwrap().partner("acme", "BIG").unwrap().encrypt_certificate,
        "big-2026",
        "not before its time"
    );
    assert!(
        certificates::remove(&core, None, "big-2026", false)
            .await
            .unwrap_err()
            .why
            .contains("partner BIG")
    );
    clock.advance(std::time::Duration::from_secs(2 * 86_400));
    // The next switch makes the past one final.
    let switch = Switch {
        account: None,
        old: "big-next",
        at: When::Now,
        name: None,
    };
    let third = switch::schedule(&core, &switch, &foreign("big third"), false).await.unwrap();
    let now = objects(&core).unwrap();
    let partner = now.partner("acme", "BIG").unwrap();
    assert_eq!(partner.encrypt_certificate, third.name);
    assert_eq!(
        partner.sign_certificate,
        ["big-2026".to_owned(), "big-next".to_owned(), third.name.clone()]
    );
    // A station's own certificate is made anew and signs at once; the old one still decrypts.
    let switch = Switch {
        account: None,
        old: "alice-2026",
        at: When::Now,
        name: None,
    };
    let renewed = switch::renew(&core, &switch, Some(KeySpec::EcP256), false).await.unwrap();
    let now = objects(&core).unwrap();
    assert_eq!(now.stations["ALICE"].certificate, renewed.name);
    assert_eq!(now.certificate("acme", "alice-2026").unwrap().owner, "ALICE");
    assert!(expiry::expiring(&now, clock.now(), 400 * DAY).iter().any(|c| c.name == third.name));
}

#[tokio::test]
async fn a_partners_private_key_is_refused_and_an_expired_certificate_makes_room() {
    let Place { core, clock, .. } = place().await;
    let subject = keystore::Subject {
        cn: "big".to_owned(),
        ..keystore::Subject::default()
    };
    let pair = keystore::identity(KeySpec::EcP256, &subject, START / 1000, 10).unwrap();
    let both = [
        keystore::to_pem("PRIVATE KEY", &pair.pkcs8).as_bytes(),
        keystore::to_pem("CERTIFICATE", &pair.certificate).as_bytes(),
    ]
    .concat();
    let with_key = NewCertificate {
        name: None,
        bytes: both.into(),
        passphrase: None,
        alias: None,
    };
    let new = partners::NewPartner {
        account: None,
        as2_id: "BIG".to_owned(),
        settings: Vec::new(),
        certificate: Some(with_key),
    };
    assert!(partners::add(&core, &new, false).await.unwrap_err().why.contains("private key"));
    let plain = NewCertificate {
        name: None,
        bytes: pair.certificate.into(),
        passphrase: None,
        alias: None,
    };
    let new = partners::NewPartner {
        certificate: Some(plain),
        ..new
    };
    partners::add(&core, &new, false).await.unwrap();
    clock.advance(std::time::Duration::from_secs(11 * 86_400));
    certificates::add(
        &core,
        None,
        "big-2",
        &foreign("big"),
        &For::Partner("BIG".to_owned(), Use::Auto),
        false,
    )
    .await
    .unwrap();
    assert_eq!(objects(&core).unwrap().partner("acme", "BIG").unwrap().encrypt_certificate, "big-2");
}

#[tokio::test]
async fn users_have_keys_and_names_by_the_rule() {
    let Place { core, .. } = place().await;
    let wish = |kind| {
        KeySource::Generate(KeyWish {
            kind,
            format: KeyFormat::Openssh,
            passphrase: None,
        })
    };
    for bad in ["-x", "a.b", "a b", ""] {
        assert_eq!(
            users::add(&core, None, bad, Some(&wish(KeyKind::Ed25519)), &[], false)
                .await
                .map(|_| ())
                .unwrap_err()
                .kind,
            RefusalKind::Invalid
        );
    }
    let (user, file) = users::add(&core, None, "acme-erp", Some(&wish(KeyKind::Ed25519)), &[], false)
        .await
        .unwrap();
    let file = file.unwrap();
    assert!(user.keys[0].starts_with("ssh-ed25519 ") && user.keys[0].ends_with(" acme-erp"));
    assert_eq!(
        users::add(&core, None, "ACME-erp", Some(&wish(KeyKind::Ed25519)), &[], false)
            .await
            .map(|_| ())
            .unwrap_err()
            .code,
        "exists"
    );
    let private = KeySource::Public(file.private.to_string());
    assert!(
        users::add_key(&core, None, "acme-erp", &private, false)
            .await
            .map(|_| ())
            .unwrap_err()
            .why
            .contains("private key")
    );
    let restricted = format!(
        "from=\"192.0.2.0/24\",expiry-time=\"20300101\" {}",
        file.public_line.replace("acme-erp", "other")
    );
    let same = users::add_key(&core, None, "acme-erp", &KeySource::Public(restricted.clone()), false)
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(same.code, "exists");
    let (rotated, _) = users::rotate_key(&core, None, "acme-erp", &KeySource::Public(restricted), false)
        .await
        .unwrap();
    assert!(
        rotated.keys[0].starts_with("from=\"192.0.2.0/24\",expiry-time=\"20300101000000Z\" ssh-ed25519 "),
        "{}",
        rotated.keys[0]
    );
    let (more, _) = users::add_key(&core, None, "acme-erp", &wish(KeyKind::Ecdsa), false).await.unwrap();
    assert_eq!(users::keys(&more).len(), 2);
    let left = users::remove_key(&core, None, "acme-erp", "other", false).await.unwrap();
    assert!(left.keys.len() == 1 && left.keys[0].starts_with("ecdsa"));
    assert!(!users::enable(&core, None, "acme-erp", false, false).await.unwrap().enabled);
    let events = core
        .journal
        .read(|tx| tx.events(0, Some("acme-erp"), Some("user.key_changed"), 10))
        .unwrap();
    assert_eq!(events.len(), 3);
}

#[tokio::test]
async fn passwords_are_sealed_and_follow_a_rename() {
    let Place { core, .. } = place().await;
    let new = partners::NewPartner {
        account: None,
        as2_id: "BIG".to_owned(),
        settings: pairs(&[("http_auth.user", "joe"), ("http_auth.password", "s3cret")]),
        certificate: None,
    };
    partners::add(&core, &new, false).await.unwrap();
    let open = |id: &str| {
        let all = objects(&core).unwrap();
        let sealed = all.partner("acme", id).unwrap().http_auth.password.clone();
        assert!(sealed.starts_with("sealed:") && !sealed.contains("s3cret"));
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD.decode(&sealed[7..]).unwrap();
        core.master
            .open(&crate::partnership::password_context("http-auth", "acme", id), &bytes)
            .unwrap()
            .to_vec()
    };
    assert_eq!(open("BIG"), b"s3cret");
    partners::set(&core, None, "BIG", &pairs(&[("as2_id", "BIGGER")]), false)
        .await
        .unwrap();
    assert_eq!(open("BIGGER"), b"s3cret");
    assert!(objects(&core).unwrap().partner("acme", "BIG").is_none());
}

#[tokio::test]
async fn users_follow_the_new_id_of_what_they_see() {
    let Place { core, dir: _dir, .. } = place().await;
    plain_pair(&core).await;
    let narrowed = pairs(&[("stations", "ALICE, CAROL"), ("partners", "BOB")]);
    let login = pairs(&[("login", "password")]);
    users::add(&core, None, "erp", None, &[narrowed, login.clone()].concat(), false)
        .await
        .unwrap();
    users::add(&core, None, "all", None, &login, false).await.unwrap();
    partners::set(&core, None, "BOB", &pairs(&[("as2_id", "ROB")]), false)
        .await
        .unwrap();
    stations::set(&core, None, "ALICE", &pairs(&[("as2_id", "ALISON")]), false)
        .await
        .unwrap();
    let all = objects(&core).unwrap();
    let sees = |name: &str| (all.users[name].stations.clone(), all.users[name].partners.clone());
    assert_eq!(sees("erp"), (vec!["ALISON".to_owned(), "CAROL".to_owned()], vec!["ROB".to_owned()]));
    assert_eq!(sees("all"), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn an_export_applied_again_changes_nothing_and_elsewhere_makes_the_same() {
    let Place { core, .. } = place().await;
    station(&core, "ALICE").await;
    let settings = pairs(&[
        ("url", "https://big.example/as2"),
        ("http_auth.user", "joe"),
        ("http_auth.password", "s3cret"),
        ("headers.X-Env", "a \"b\""),
        ("retry.max_tries", "3"),
    ]);
    let big = partners::NewPartner {
        account: None,
        as2_id: "BIG one".to_owned(),
        settings,
        certificate: Some(foreign("big")),
    };
    partners::add(&core, &big, false).await.unwrap();
    let wish = KeySource::Generate(KeyWish {
        kind: KeyKind::Ed25519,
        format: KeyFormat::Openssh,
        passphrase: None,
    });
    users::add(
        &core,
        None,
        "acme-erp",
        Some(&wish),
        &pairs(&[("allowed_ips", "192.0.2.0/24")]),
        false,
    )
    .await
    .unwrap();
    let before = objects(&core).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        vec![file]
    };
    let plain = apply::export(&before, None, false);
    assert!(
        !plain.contains("sealed:") && !plain.contains("s3cret"),
        "secrets stay out of an export"
    );
    assert_eq!(
        apply::apply(&core, None, &write("plain.toml", &plain), true, false).await.unwrap(),
        [],
        "{plain}"
    );
    // The same master key opens sealed keys elsewhere.
    let text = apply::export(&before, None, true);
    for (name, _) in before.certificates.keys().chain([]) {
        assert!(text.contains(name.as_str()));
    }
    users::remove(&core, None, "acme-erp", false).await.unwrap();
    partners::remove(&core, None, "BIG one", false).await.unwrap();
    stations::remove(&core, None, "ALICE", false).await.unwrap();
    for name in before.certificates.keys().map(|(_, name)| name) {
        certificates::remove(&core, None, name, false).await.unwrap();
    }
    let files = write("sealed.toml", &text);
    let dry = apply::apply(&core, None, &files, false, true).await.unwrap();
    assert_eq!(dry.len(), 5);
    assert!(dry.iter().all(|line| line.action == "add"));
    assert!(objects(&core).unwrap().stations.is_empty(), "a dry run writes nothing");
    apply::apply(&core, None, &files, false, false).await.unwrap();
    let mut after = objects(&core).unwrap();
    after.version = before.version;
    assert_eq!(format!("{:?}", after.partners), format!("{:?}", before.partners));
    assert_eq!(format!("{:?}", after.certificates), format!("{:?}", before.certificates));
    assert_eq!((after.stations, after.users), (before.stations, before.users));
}

async fn apply_text(core: &Core, text: &str) -> Result<Vec<apply::Difference>> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("objects.toml");
    std::fs::write(&file, text).unwrap();
    apply::apply(core, None, &[file], false, false).await
}

#[tokio::test]
async fn apply_refuses_what_another_master_key_sealed() {
    let (there, here) = (place().await.core, place().await.core);
    let partner = "[[partner]]\nas2_id = \"BIG\"\nurl = \"http://x/\"\nhttp_auth = { user = \"u\", password = \"s3cret\" }\n";
    let user = "[[user]]\nname = \"zoe\"\nlogin = \"password,totp\"\npassword = \"correct horse battery\"\n";
    for (text, name) in [(partner, "BIG"), (user, "zoe")] {
        apply_text(&there, text).await.unwrap();
        if name == "zoe" {
            partners::remove(&there, None, "BIG", false).await.unwrap();
            users::set_totp(&there, None, "zoe", false, false).await.unwrap();
        }
        let sealed = apply::export(&objects(&there).unwrap(), None, true);
        assert_eq!(apply_text(&there, &sealed).await.unwrap(), [], "{sealed}");
        let refused = apply_text(&here, &sealed).await.unwrap_err();
        assert!(refused.what.contains(name), "{refused:?}");
    }
}

#[tokio::test]
async fn apply_takes_neither_a_login_twice_nor_a_partners_key() {
    let core = place().await.core;
    let user = |name: &str| format!("[[user]]\nname = \"{name}\"\nlogin = \"password\"\npassword = \"correct horse battery\"\n");
    let twice = apply_text(&core, &(user("zoe") + &user("ZOE"))).await.unwrap_err();
    assert!(twice.why.contains("twice"), "{twice:?}");

    let subject = keystore::Subject {
        cn: "big".to_owned(),
        ..keystore::Subject::default()
    };
    let pair = keystore::identity(KeySpec::EcP256, &subject, START / 1000, 400).unwrap();
    let pem = keystore::to_pem("CERTIFICATE", &pair.certificate).to_string();
    let key = keystore::to_pem("PRIVATE KEY", &pair.pkcs8).to_string();
    let entry = |pem: &str| format!("[[certificate]]\nname = \"big\"\npurpose = \"partner\"\npem = \"\"\"\n{pem}\"\"\"\n");
    let refused = apply_text(&core, &entry(&(key + &pem))).await.unwrap_err();
    assert!(refused.why.contains("private key"), "{refused:?}");

    // One without owner that a partner names later stays without: an export changes nothing.
    apply_text(&core, &entry(&pem)).await.unwrap();
    let partner = "[[partner]]\nas2_id = \"BIG\"\nurl = \"http://x/\"\nencrypt_certificate = \"big\"\n";
    apply_text(&core, partner).await.unwrap();
    let text = apply::export(&objects(&core).unwrap(), None, false);
    assert_eq!(apply_text(&core, &text).await.unwrap(), [], "{text}");
}

#[tokio::test]
async fn apply_lifts_a_hold_or_a_block_only_where_the_file_says_so() {
    let Place { core, .. } = place().await;
    plain_pair(&core).await;
    let text = apply::export(&objects(&core).unwrap(), None, false);
    for (key, set, lifted) in [("hold", "true", "false"), ("blocked", "out", "\"none\"")] {
        set_bob(&core, &[(key, set)]).await;
        assert_eq!(apply_text(&core, &text).await.unwrap(), [], "{key}");
        let present = || apply::export(&objects(&core).unwrap(), None, false);
        assert!(present().contains(&format!("\n{key} = ")), "{}", present());
        assert_eq!(apply_text(&core, &present()).await.unwrap(), [], "{key}");
        let lifts = text.replace("[[partner]]\n", &format!("[[partner]]\n{key} = {lifted}\n"));
        let told = apply_text(&core, &lifts).await.unwrap();
        assert_eq!((told.len(), &told[0].fields[..]), (1, &[key.to_owned()][..]));
        assert_eq!(present(), text);
    }
}

#[tokio::test]
async fn apply_is_all_or_nothing_and_prunes_only_when_told() {
    let Place { core, .. } = place().await;
    station(&core, "ALICE").await;
    let dir = tempfile::tempdir().unwrap();
    let write = |text: &str| {
        std::fs::write(dir.path().join("objects.toml"), text).unwrap();
        apply::files_of(dir.path()).unwrap()
    };
    let broken = "[[partner]]\nas2_id = \"GOOD\"\nurl = \"http://x/\"\n[[partner]]\nas2_id = \"BAD\"\nurl = \"x\"\n";
    assert!(
        apply::apply(&core, None, &write(broken), false, false)
            .await
            .unwrap_err()
            .what
            .contains("BAD")
    );
    assert!(objects(&core).unwrap().partners.is_empty());
    let unknown = apply::apply(&core, None, &write("[[partner]]\nas2_id = \"B\"\ncolour = \"red\"\n"), false, false)
        .await
        .unwrap_err();
    assert!(unknown.what.contains("line 3") && unknown.why.contains("colour"), "{unknown:?}");
    let one = apply::apply(
        &core,
        None,
        &write("[[partner]]\nas2_id = \"GOOD\"\nurl = \"http://x/\"\n"),
        false,
        false,
    )
    .await
    .unwrap();
    assert_eq!((one.len(), one[0].action), (1, "add"));
    assert!(objects(&core).unwrap().stations.contains_key("ALICE"));
    let pruned = apply::apply(
        &core,
        None,
        &write("[[partner]]\nas2_id = \"GOOD\"\nurl = \"http://y/\"\n"),
        true,
        false,
    )
    .await
    .unwrap();
    assert_eq!(pruned.iter().map(|d| d.action).collect::<Vec<_>>(), ["change", "remove", "remove"]);
    assert_eq!(pruned[0].fields, ["url"]);
    assert!(objects(&core).unwrap().stations.is_empty());
}

#[test]
fn the_configuration_that_init_writes_is_valid() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("as2gate.toml");
    for text in [
        setup::config_text(Some("data"), None, None, None),
        setup::config_text(None, Some("https://a.example"), Some("127.0.0.1:0"), Some("127.0.0.1:0")),
    ] {
        std::fs::write(&file, text).unwrap();
        Config::load_with(Some(Path::new(&file)), None, std::iter::empty()).unwrap();
    }
}

#[tokio::test]
async fn a_message_that_moved_since_it_was_seen_is_not_cancelled() {
    let Place { core, clock, dir: _dir } = place().await;
    station(&core, "ALICE").await;
    let new = super::partners::NewPartner {
        account: None,
        as2_id: "BIG".to_owned(),
        settings: pairs(&[("url", "http://192.0.2.1/"), ("encrypt", "none")]),
        certificate: Some(foreign("big")),
    };
    super::partners::add(&core, &new, false).await.unwrap();
    core.refresh_objects().unwrap();
    let file = _dir.path().join("a.edi");
    std::fs::write(&file, b"ISA").unwrap();
    let seen = crate::intake::submit(
        &core,
        "ALICE",
        "BIG",
        crate::intake::Submission {
            is_test: false,
            file,
            ..Default::default()
        },
    )
    .await
    .unwrap();
    // A try has begun and ended since, and the state is the same as before.
    clock.advance(std::time::Duration::from_secs(1));
    let now = core.clock.now();
    let moved = crate::message::Message {
        updated: now,
        attempts: 1,
        ..seen.clone()
    };
    let step = crate::journal::Settlement::new(moved.clone(), &[seen.state], "message.retrying");
    let step = crate::journal::Settlement {
        next: crate::journal::Next::At(now),
        ..step
    };
    core.journal.write(move |tx| tx.settle(&step, now)).await.unwrap();
    let refused = messages::cancel(&core, &seen, false).await.unwrap_err();
    assert!(refused.why.contains("moved meanwhile"), "{refused:?}");
    let row = core.journal.read(|tx| tx.expect_message(seen.id.as_str())).unwrap();
    assert_eq!((row.state, row.attempts), (moved.state, 1), "no stale row was written");
    let cancelled = messages::cancel(&core, &row, false).await.unwrap();
    assert_eq!((cancelled.state.as_str(), cancelled.code.as_str()), ("failed", "cancelled"));
}

/// A chain of two switches, one written as a time of another zone: by moment, not by text, and none before the one it follows.
#[tokio::test]
async fn switches_happen_in_the_order_of_their_moments() {
    let Place { core, clock, .. } = place().await;
    let alice = station(&core, "ALICE").await;
    let settings = pairs(&[("url", "https://big.example/as2")]);
    let big = partners::NewPartner {
        account: None,
        as2_id: "BIG".to_owned(),
        settings,
        certificate: Some(foreign("big")),
    };
    partners::add(&core, &big, false).await.unwrap();
    let mut objects = objects(&core).unwrap();
    let mut plan = |first: &str, names: [&str; 2], times: [&str; 2]| {
        let first = objects.certificate("acme", first).unwrap().clone();
        for (name, replaces, active_from) in [(names[0], first.name.as_str(), times[0]), (names[1], names[0], times[1])] {
            let mut next = first.clone();
            if first.sealed_key.is_none() {
                next = certificates::trusted(("acme", name), first.purpose, "BIG", &foreign(name).bytes).unwrap();
            }
            name.clone_into(&mut next.name);
            replaces.clone_into(&mut next.replaces);
            active_from.clone_into(&mut next.active_from);
            let context = Certificate::seal_context("acme", &first.name);
            let key = first.sealed_key.as_ref().map(|sealed| core.master.open(&context, sealed).unwrap());
            next.sealed_key = key.map(|key| core.master.seal(&Certificate::seal_context("acme", name), &key).unwrap());
            objects.certificates.insert(("acme".to_owned(), name.to_owned()), next);
        }
    };
    let times = ["2026-12-05T06:00:00+02:00", "2026-12-05T05:00:00Z"];
    plan(&alice.certificate, ["second", "third"], times);
    // Written in the wrong order: the last of them waits for the one before.
    plan("big-2026", ["big-b", "big-a"], [times[1], times[0]]);
    let mut seen = Vec::new();
    for moment in ["2026-12-05T04:30:00Z", "2026-12-05T05:30:00Z"] {
        let now = moment.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        clock.advance(std::time::Duration::from_millis((now - clock.now()).unsigned_abs()));
        // What counts before anybody changes anything is what is settled then.
        let pair = Partnership::resolve(&objects, &core.master, "ALICE", "BIG", now).unwrap();
        let after = with_changes(&objects, &switch::finalize(&objects, "acme", now));
        let later = Partnership::resolve(&after, &core.master, "ALICE", "BIG", now).unwrap();
        assert_eq!((pair.identities.len(), later.identities.len()), (3, 3));
        let recipient = |pair: &Partnership| pair.recipient.as_ref().unwrap().der().to_vec();
        assert!(recipient(&pair) == recipient(&later));
        assert_eq!(pair.signers.len(), 3, "those to come verify ahead of their time");
        let guide = |id: &str| rollover::guide(&objects, None, id, now).unwrap();
        let (ours, theirs) = (after.stations["ALICE"].certificate.clone(), guide("BIG").current);
        assert_eq!(guide("ALICE").current, ours);
        assert_eq!(theirs, after.partner("acme", "BIG").unwrap().encrypt_certificate);
        seen.push([ours, guide("ALICE").next.unwrap_or_default(), theirs]);
    }
    let expected = [["second", "third", "big-2026"], ["third", "", "big-a"]];
    assert_eq!(seen, expected.map(|row| row.map(str::to_owned)));
}

/// What nobody is to follow never stands in for a partner without a certificate.
#[tokio::test]
async fn a_switch_from_nothing_is_refused_and_counts_for_nobody() {
    let Place { core, clock, .. } = place().await;
    let alice = station(&core, "ALICE").await;
    let all = objects(&core).unwrap();
    let stray = crate::certificate::Certificate {
        name: "stray".to_owned(),
        active_from: "2026-01-01T00:00:00Z".to_owned(),
        ..all.certificate("acme", &alice.certificate).unwrap().clone()
    };
    assert_eq!(stray.takes_over_at(), None);
    let object = Object::Certificate(Box::new(stray.clone()));
    let why = rules::check_object(&core.config, &all, &object).unwrap_err();
    assert!(why.contains("replaces"), "{why}");
    // Two for one are refused as well.
    let mut all = all;
    let planned = |name: &str| crate::certificate::Certificate {
        name: name.to_owned(),
        replaces: alice.certificate.clone(),
        ..stray.clone()
    };
    all.certificates.insert(("acme".to_owned(), "one".to_owned()), planned("one"));
    let why = rules::check_object(&core.config, &all, &Object::Certificate(Box::new(planned("two")))).unwrap_err();
    assert!(why.contains("one is to replace"), "{why}");
    assert!(rules::check_object(&core.config, &all, &Object::Certificate(Box::new(planned("one")))).is_ok());
    let guide = |id: &str| rollover::guide(&all, None, id, clock.now());
    assert!(guide("ALICE").is_ok() && guide("NOBODY").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_station_without_a_certificate_signs_with_no_other_key_that_it_has() {
    let place = place().await;
    plain_pair(&place.core).await;
    let mut objects = objects(&place.core).unwrap();
    let resolve = |objects: &_| Partnership::resolve(objects, &place.core.master, "ALICE", "BOB", place.core.clock.now()).unwrap();
    assert!(resolve(&objects).signer().is_some());
    objects.stations.get_mut("ALICE").unwrap().certificate.clear();
    let pair = resolve(&objects);
    assert_eq!((pair.identities.len(), pair.signer().is_some()), (1, false));
}

/// A key pair of the name `ours` as PEM: its certificate, and its key.
fn pem_pair() -> [String; 2] {
    let subject = keystore::Subject {
        cn: "ours".to_owned(),
        ..keystore::Subject::default()
    };
    let pair = keystore::identity(KeySpec::EcP256, &subject, START / 1000, 400).unwrap();
    [
        keystore::to_pem("CERTIFICATE", &pair.certificate).to_string(),
        keystore::to_pem("PRIVATE KEY", &pair.pkcs8).to_string(),
    ]
}

#[tokio::test]
async fn apply_takes_the_key_of_a_file_and_lets_none_go() {
    let core = place().await.core;
    let entry = |name: &str, pem: &str| format!("[[certificate]]\nname = \"{name}\"\npurpose = \"https\"\npem = \"\"\"\n{pem}\"\"\"\n");
    let key_of = |name: &str| {
        let all = objects(&core).unwrap();
        let found = all.certificate("acme", name).unwrap();
        found.sealed_key.as_ref().map(|_| stores::private_key(&core, found).unwrap())
    };
    let [first, second] = [pem_pair(), pem_pair()];
    apply_text(&core, &entry("tls", &first.concat())).await.unwrap();
    let before = key_of("tls").unwrap();
    assert_eq!(
        apply_text(&core, &entry("tls", &first.concat())).await.unwrap(),
        [],
        "the same again"
    );
    assert_eq!(
        apply_text(&core, &entry("tls", &first[0])).await.unwrap(),
        [],
        "and without its key"
    );

    let refused = apply_text(&core, &entry("tls", &second[0])).await.unwrap_err();
    assert!(refused.why.contains("neither in the file nor here"), "{refused:?}");
    assert!(key_of("tls").unwrap() == before);
    apply_text(&core, &entry("tls", &second.concat())).await.unwrap();
    assert!(key_of("tls").unwrap() != before);
    // A certificate of a key that is here.
    apply_text(&core, &entry("again", &second[0])).await.unwrap();
    assert!(key_of("again").unwrap() == key_of("tls").unwrap());
}

/// The pair `next`, which is to take over from that of ALICE after the usual notice.
async fn renewed(core: &Core) -> Certificate {
    let old = objects(core).unwrap().stations["ALICE"].certificate.clone();
    let switch = switch::Switch {
        account: None,
        old: &old,
        at: switch::When::AfterNotice,
        name: Some("next"),
    };
    switch::renew(core, &switch, None, false).await.unwrap()
}

#[tokio::test]
async fn apply_prunes_no_key_pair_that_is_to_take_over() {
    let core = place().await.core;
    plain_pair(&core).await;
    let yesterday = apply::export(&objects(&core).unwrap(), None, false);
    renewed(&core).await;
    let dir = tempfile::tempdir().unwrap();
    let prune = async |text: &str| {
        let file = dir.path().join("objects.toml");
        std::fs::write(&file, text).unwrap();
        apply::apply(&core, None, &[file], true, false).await
    };
    let refused = prune(&yesterday).await.unwrap_err();
    assert!(refused.what.contains("next") && refused.why.contains("takes over"), "{refused:?}");
    assert!(objects(&core).unwrap().certificate("acme", "next").is_some());
    // It goes with its station.
    prune("[[account]]\nid = \"acme\"\n[[partner]]\nas2_id = \"X\"\nurl = \"http://x/\"\n")
        .await
        .unwrap();
    assert!(objects(&core).unwrap().certificates.is_empty());
}

#[tokio::test]
async fn a_pair_that_is_not_the_stations_own_rolls_over_like_one_that_is() {
    let Place { core, clock, .. } = place().await;
    plain_pair(&core).await;
    station(&core, "CAROL").await;
    let old = objects(&core).unwrap().stations["ALICE"].certificate.clone();
    stations::set(&core, None, "CAROL", &pairs(&[("certificate", &old)]), false)
        .await
        .unwrap();
    set_bob(&core, &[("stations", "*")]).await;
    renewed(&core).await;
    let decrypts = || {
        let now = core.clock.now();
        let all = objects(&core).unwrap();
        let finals = switch::finalized(&all, now).into_owned();
        [all, finals].map(|objects| {
            let pair = Partnership::resolve(&objects, &core.master, "CAROL", "BOB", now).unwrap();
            let has = |name: &str| {
                let der = &objects.certificate("acme", name).unwrap().der;
                pair.identities.iter().any(|identity| identity.certificate().der() == der)
            };
            has(&old) && has("next")
        })
    };
    assert_eq!(decrypts(), [true, true], "before the switch");
    clock.advance(std::time::Duration::from_secs(15 * 86_400));
    assert_eq!(decrypts(), [true, true], "after it");
}

#[tokio::test]
async fn a_switch_is_not_moved_to_a_time_when_it_cannot_be() {
    let core = place().await.core;
    plain_pair(&core).await;
    let next = renewed(&core).await;
    let at = |millis: i64| Some(jiff::Timestamp::from_millisecond(millis).unwrap());
    for (time, why) in [
        (core.clock.now() - 31 * 86_400_000, "in the past"),
        (next.not_after * 1000 + 1, "expires"),
    ] {
        let refused = rollover::switch(&core, None, "next", at(time), false).await.unwrap_err();
        assert!(refused.why.contains(why), "{refused:?}");
    }
    rollover::switch(&core, None, "next", at(core.clock.now() + 86_400_000), false)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_a_partner_has_taken_it_has_taken_under_its_new_id() {
    let core = place().await.core;
    plain_pair(&core).await;
    let own = objects(&core).unwrap().stations["ALICE"].certificate.clone();
    rollover::confirm(&core, None, &own, &["BOB".to_owned()], true, false)
        .await
        .unwrap();
    set_bob(&core, &[("as2_id", "ROBERT")]).await;
    let all = objects(&core).unwrap();
    assert_eq!(all.certificate("acme", &own).unwrap().confirmed_by, ["ROBERT"]);
    assert_eq!(rollover::relying(&all, all.certificate("acme", &own).unwrap()), ["ROBERT"]);
}
