//! What happens under another master key, and what of it is told.

use super::*;
use crate::manage::sealed::{OTHER_KEY, expect_key, unopened};

/// The same data directory under a master key of its own.
fn under_another_key(place: &Place) -> Arc<Core> {
    let file = place.dir.path().join("other.key");
    keystore::MasterKey::create(&file).unwrap();
    let mut config = Config::load_with(None, Some(place.dir.path()), std::iter::empty()).unwrap();
    config.master_key = crate::config::Secret::File(file);
    Core::open_with_clock(config, Arc::new(place.clock.clone())).unwrap()
}

/// A partner whose password is sealed, and a user with codes.
async fn secrets_of_others(core: &Core) {
    plain_bob(core).await;
    set_bob(core, &[("http_auth.user", "us"), ("http_auth.password", "planted-password")]).await;
    let login = pairs(&[("login", "password")]);
    users::add(core, None, "ops", None, &login, false).await.unwrap();
    users::set_totp(core, None, "ops", false, false).await.unwrap();
}

#[tokio::test]
async fn nothing_is_sealed_under_another_master_key() {
    let place = place().await;
    let core = &place.core;
    station(core, "ALICE").await;
    secrets_of_others(core).await;
    let before = objects(core).unwrap();
    let other = under_another_key(&place);
    let new = NewStation {
        account: None,
        as2_id: "Z".to_owned(),
        settings: Vec::new(),
        certificate: None,
        key: KeySpec::EcP256,
    };
    let password = pairs(&[("http_auth.password", "another-password")]);
    let outside = tempfile::tempdir().unwrap();
    for code in [
        stations::add(&other, &new, false).await.map(drop).unwrap_err().code,
        stations::add(&other, &new, true).await.map(drop).unwrap_err().code,
        users::set_totp(&other, None, "ops", false, false).await.map(drop).unwrap_err().code,
        partners::set(&other, None, "BOB", &password, false).await.unwrap_err().code,
        backup::take(&other, &outside.path().join("safe")).map(drop).unwrap_err().code,
        stores::write(&other, "acme").unwrap_err().code,
    ] {
        assert_eq!(code, OTHER_KEY);
    }
    assert_eq!(objects(core).unwrap().version, before.version);
    assert!(expect_key(core, &before).unwrap().is_none(), "the right one goes on");

    // One that opens among others speaks for nothing; what is gone does.
    users::set_totp(&other, None, "ops", true, false).await.unwrap();
    set_bob(core, &[("http_auth.user", ""), ("http_auth.password", "")]).await;
    assert_eq!(stations::add(&other, &new, false).await.map(drop).unwrap_err().code, OTHER_KEY);
    stations::remove(core, None, "ALICE", false).await.unwrap();
    certificates::remove(core, None, "alice-2026", false).await.unwrap();
    stations::add(&other, &new, false).await.unwrap();
    let now = objects(core).unwrap();
    assert!(expect_key(&other, &now).unwrap().is_none());
    assert_eq!(expect_key(core, &now).map(drop).unwrap_err().code, OTHER_KEY);
}

/// As in a journal of before: no proof says which key is the right one.
#[tokio::test]
async fn without_a_proof_what_opens_decides() {
    let (place, elsewhere) = (place().await, super::place().await);
    station(&place.core, "ALICE").await;
    let all = objects(&place.core).unwrap();
    let other = under_another_key(&elsewhere);
    assert_eq!(expect_key(&other, &all).map(drop).unwrap_err().code, OTHER_KEY, "nothing opens");
    assert!(expect_key(&other, &Objects::default()).unwrap().is_some());
    let mut mixed = all.clone();
    let subject = keystore::Subject {
        cn: "OWN".to_owned(),
        ..keystore::Subject::default()
    };
    let pair = keystore::identity(KeySpec::EcP256, &subject, START / 1000, 400).unwrap();
    let own = certificates::with_key(&other, ("acme", "own"), crate::certificate::Purpose::Station, "", &pair).unwrap();
    mixed.put(Object::Certificate(Box::new(own)));
    assert!(expect_key(&other, &mixed).unwrap().is_none(), "one of two is no proof");
    mixed.certificates.remove(&("acme".to_owned(), "alice-2026".to_owned()));
    assert!(expect_key(&other, &mixed).unwrap().is_some());
}

#[tokio::test]
async fn what_does_not_open_is_told_with_what_mends_it() {
    let place = place().await;
    let core = &place.core;
    station(core, "ALICE").await;
    secrets_of_others(core).await;
    let all = objects(core).unwrap();
    assert_eq!(unopened(core, &all).count(), 0);
    let other = under_another_key(&place);
    let told: Vec<_> = unopened(&other, &all).map(|lost| (lost.name, lost.hint)).collect();
    let expected = [
        (
            "certificate alice-2026",
            "as2gate cert renew alice-2026 --now, then as2gate cert rm alice-2026",
        ),
        ("partner BOB", "as2gate partner set BOB --http-password SOURCE"),
        ("user ops", "as2gate user totp ops"),
    ];
    assert_eq!(told, expected.map(|(name, hint)| (name.to_owned(), hint.to_owned())));
}
