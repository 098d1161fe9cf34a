//! Certificates and what changes with them: owners, switches, chains, key stores.

use keystore::KeyPair;
use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::x509::{X509Builder, X509NameBuilder};

use super::*;
use crate::certificate::Purpose;
use crate::clock::rfc3339;

const DAY: i64 = 86_400_000;

/// A certificate as somebody else makes it.
struct Made<'a> {
    subject: &'a str,
    issuer: &'a str,
    serial: u32,
    days: u32,
}

fn made(subject: &str, days: u32) -> Made<'_> {
    Made {
        subject,
        issuer: subject,
        serial: 7,
        days,
    }
}

impl Made<'_> {
    fn with(&self, key: &PKey<Private>) -> KeyPair {
        self.signed_by(key, key)
    }

    fn signed_by(&self, issuer: &PKey<Private>, key: &PKey<Private>) -> KeyPair {
        let name = |cn: &str| {
            let mut name = X509NameBuilder::new().unwrap();
            name.append_entry_by_text("CN", cn).unwrap();
            name.build()
        };
        let mut x509 = X509Builder::new().unwrap();
        x509.set_version(2).unwrap();
        let serial = Asn1Integer::from_bn(&BigNum::from_u32(self.serial).unwrap()).unwrap();
        x509.set_serial_number(&serial).unwrap();
        x509.set_subject_name(&name(self.subject)).unwrap();
        x509.set_issuer_name(&name(self.issuer)).unwrap();
        x509.set_not_before(&Asn1Time::from_unix(START / 1000).unwrap()).unwrap();
        let end = START / 1000 + i64::from(self.days) * DAY / 1000;
        x509.set_not_after(&Asn1Time::from_unix(end).unwrap()).unwrap();
        x509.set_pubkey(key).unwrap();
        let digest = if issuer.id() == openssl::pkey::Id::ED25519 {
            MessageDigest::null()
        } else {
            MessageDigest::sha256()
        };
        x509.sign(issuer, digest).unwrap();
        KeyPair {
            pkcs8: key.private_key_to_pkcs8().unwrap().into(),
            certificate: x509.build().to_der().unwrap(),
        }
    }

    /// Without its key.
    fn file(&self) -> NewCertificate {
        file(&[&self.with(&ec_key()).certificate])
    }
}

fn ec_key() -> PKey<Private> {
    let group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap()
}

fn file(certificates: &[&Vec<u8>]) -> NewCertificate {
    let pem: Vec<_> = certificates
        .iter()
        .map(|der| keystore::to_pem("CERTIFICATE", der).to_string())
        .collect();
    named_file(None, pem.concat())
}

fn with_its_key(pair: &KeyPair) -> NewCertificate {
    let pem = keystore::to_pem("PRIVATE KEY", &pair.pkcs8).to_string() + &keystore::to_pem("CERTIFICATE", &pair.certificate);
    named_file(None, pem)
}

fn named_file(name: Option<&str>, pem: String) -> NewCertificate {
    NewCertificate {
        name: name.map(str::to_owned),
        bytes: pem.into_bytes().into(),
        passphrase: None,
        alias: None,
    }
}

async fn partner(core: &Core, id: &str, certificate: NewCertificate) -> Result<Partner> {
    let new = partners::NewPartner {
        account: None,
        as2_id: id.to_owned(),
        settings: pairs(&[("url", "https://partner.example/as2")]),
        certificate: Some(certificate),
    };
    partners::add(core, &new, false).await
}

fn switch<'a>(old: &'a str, name: &'a str, in_days: i64) -> Switch<'a> {
    Switch {
        account: None,
        old,
        at: When::At(jiff::Timestamp::from_millisecond(START + in_days * DAY).unwrap()),
        name: Some(name),
    }
}

fn to_day(clock: &ManualClock, day: u64) {
    let now = u64::try_from((clock.now() - START) / DAY).unwrap();
    clock.advance(std::time::Duration::from_secs((day - now) * 86_400));
}

fn expiring_names(core: &Core, within: i64) -> Vec<String> {
    let all = objects(core).unwrap();
    let due = expiry::expiring(&all, core.clock.now(), within * DAY);
    due.iter().map(|c| c.name.clone()).collect()
}

#[tokio::test]
async fn a_partner_takes_along_only_its_own_certificates() {
    let Place { core, dir: _dir, .. } = place().await;
    station(&core, "ALICE").await;
    partners::add_from_station(&core, None, "ALICE", &[], false).await.unwrap();
    let owners = || {
        let all = objects(&core).unwrap();
        ["alice-2026", "alice-2026-public"].map(|name| all.certificate("acme", name).unwrap().owner.clone())
    };
    assert_eq!(owners(), ["ALICE", "ALICE"]);
    partners::set(&core, None, "ALICE", &pairs(&[("as2_id", "ALICE2")]), false)
        .await
        .unwrap();
    assert_eq!(owners(), ["ALICE", "ALICE2"]);
    partners::set(&core, None, "ALICE2", &pairs(&[("as2_id", "ALICE")]), false)
        .await
        .unwrap();
    stations::set(&core, None, "ALICE", &pairs(&[("as2_id", "ALICE3")]), false)
        .await
        .unwrap();
    assert_eq!(owners(), ["ALICE3", "ALICE"]);
    stations::set(&core, None, "ALICE3", &pairs(&[("as2_id", "ALICE")]), false)
        .await
        .unwrap();
    partners::remove(&core, None, "ALICE", false).await.unwrap();
    assert_eq!(owners(), ["ALICE", ""], "the station decrypts still");
    stations::remove(&core, None, "ALICE", false).await.unwrap();
    assert_eq!(owners(), ["", ""]);
}

#[tokio::test]
async fn an_alarm_is_about_the_certificate_in_force() {
    let Place { core, clock, dir: _dir } = place().await;
    partner(&core, "BIG", made("big", 12).file()).await.unwrap();
    assert_eq!(expiring_names(&core, 30), ["big-2026"]);
    switch::schedule(&core, &switch("big-2026", "big-next", 2), &made("next", 20).file(), false)
        .await
        .unwrap();
    assert!(expiring_names(&core, 15).is_empty(), "a switch is planned");
    to_day(&clock, 3);
    let written = |name: &str| objects(&core).unwrap().certificate("acme", name).unwrap().replaces.clone();
    assert_eq!(written("big-next"), "big-2026", "nothing has made it final");
    assert_eq!(expiring_names(&core, 30), ["big-next"]);
    to_day(&clock, 21);
    let warned = || rules::warnings(&core.config, &objects(&core).unwrap(), clock.now());
    let ended = |name: &str| {
        warned()
            .iter()
            .any(|(what, _)| *what == format!("certificate {name} has expired and is in use"))
    };
    assert!(ended("big-next"), "{:?}", warned());
    // The one before it is not to be replaced once more.
    let hint = warned()
        .into_iter()
        .find(|(what, _)| what.starts_with("certificate big-2026 has expired"));
    assert_eq!(
        hint.unwrap().1,
        "it counts beside big-next; to drop it: as2gate partner set BIG --sign-certificate big-next"
    );
    partners::set(&core, None, "BIG", &pairs(&[("sign_certificate", "big-next")]), true)
        .await
        .unwrap();
    // It is the same once the switch is final.
    partners::set(&core, None, "BIG", &pairs(&[("encrypt_certificate", "big-next")]), false)
        .await
        .unwrap();
    assert_eq!(expiring_names(&core, 30), ["big-next"]);
}

/// Subject and facts of the events of a kind.
fn told(core: &Core, kind: &str) -> Vec<(String, serde_json::Value)> {
    let events = core.journal.read(|tx| tx.events(0, None, Some(kind), 100)).unwrap();
    events.into_iter().map(|event| (event.subject, event.facts)).collect()
}

async fn look(core: &Core) {
    core.refresh_objects().unwrap();
    notices::tell(core).await.unwrap();
}

#[tokio::test]
async fn what_certificates_do_by_themselves_is_told_once() {
    let Place { core, clock, dir: _dir } = place().await;
    partner(&core, "BIG", made("big", 400).file()).await.unwrap();
    switch::schedule(&core, &switch("big-2026", "big-next", 2), &made("next", 38).file(), false)
        .await
        .unwrap();
    look(&core).await;
    assert_eq!(
        (told(&core, "certificate.switched"), told(&core, "certificate.expiring")),
        (vec![], vec![])
    );
    to_day(&clock, 3);
    look(&core).await;
    look(&core).await;
    let taken = json!({
        "by": "schedule", "at": rfc3339(START + 2 * DAY), "replaces": "big-2026", "owner": "BIG", "purpose": "partner",
    });
    let switched = vec![("big-next".to_owned(), taken)];
    assert_eq!(told(&core, "certificate.switched"), switched);
    // An operator who changes something writes it down, and did not do it.
    partners::set(&core, None, "BIG", &pairs(&[("encrypt_certificate", "big-next")]), false)
        .await
        .unwrap();
    look(&core).await;
    assert_eq!(told(&core, "certificate.switched"), switched);
    for kind in ["certificate.changed", "partner.changed"] {
        let (_, facts) = told(&core, kind).pop().unwrap();
        assert_eq!(facts["by"], "schedule", "{kind}: {facts}");
    }
    partners::set(&core, None, "BIG", &pairs(&[("email", "a@big.example")]), false)
        .await
        .unwrap();
    assert_eq!(told(&core, "partner.changed").pop().unwrap().1, json!({ "fields": ["email"] }));
    // Once a day of each that ends.
    for (day, times) in [(7, 0), (10, 1), (10, 1), (11, 2)] {
        to_day(&clock, day);
        look(&core).await;
        assert_eq!(told(&core, "certificate.expiring").len(), times, "day {day}");
    }
    clock.set_back(std::time::Duration::from_secs(86_400));
    look(&core).await;
    look(&core).await;
    let ends = json!({ "not_after": rfc3339(START + 38 * DAY), "owner": "BIG", "purpose": "partner" });
    let ending = told(&core, "certificate.expiring");
    assert_eq!((ending.len(), &ending[2]), (3, &("big-next".to_owned(), ends)));
}

#[tokio::test]
async fn a_switch_that_nobody_saw_is_told_with_the_change_that_makes_it_final() {
    let Place { core, clock, dir: _dir } = place().await;
    partner(&core, "BIG", made("big", 300).file()).await.unwrap();
    let next = |name: &'static str, old: &'static str, day| {
        let core = Arc::clone(&core);
        async move {
            let file = made(name, 400).file();
            switch::schedule(&core, &switch(old, name, day), &file, false).await.unwrap()
        }
    };
    next("second", "big-2026", 2).await;
    to_day(&clock, 5);
    next("third", "second", 7).await;
    look(&core).await;
    let names = || {
        told(&core, "certificate.switched")
            .into_iter()
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(), ["second"]);
    // One that is put off after all is told again when it comes.
    to_day(&clock, 8);
    look(&core).await;
    let later = jiff::Timestamp::from_millisecond(START + 9 * DAY).unwrap();
    rollover::switch(&core, None, "third", Some(later), false).await.unwrap();
    look(&core).await;
    assert_eq!(names(), ["second", "third"]);
    to_day(&clock, 10);
    look(&core).await;
    assert_eq!(names(), ["second", "third", "third"]);
}

#[tokio::test]
async fn a_station_that_signs_with_what_nobody_confirmed_is_told_of() {
    let Place { core, dir: _dir, .. } = place().await;
    plain_pair(&core).await;
    let told = || {
        let told = rules::warnings(&core.config, &objects(&core).unwrap(), START);
        told.into_iter()
            .filter(|(what, _)| what.contains("is not confirmed by BOB"))
            .collect::<Vec<_>>()
    };
    assert_eq!(told(), [], "its first one needs no word");
    let later = switch("alice-2026", "second", 2);
    switch::renew(&core, &later, Some(KeySpec::EcP256), false).await.unwrap();
    assert!(told()[0].0.starts_with("certificate second takes over at "), "{:?}", told());
    rollover::switch(&core, None, "second", None, false).await.unwrap();
    let words = "certificate second signs now and is not confirmed by BOB".to_owned();
    assert_eq!(told(), [(words, "as2gate cert rollover ALICE".to_owned())]);
    rollover::confirm(&core, None, "second", &["BOB".to_owned()], true, false)
        .await
        .unwrap();
    assert_eq!(told(), []);
    rollover::confirm(&core, None, "second", &["BOB".to_owned()], false, false)
        .await
        .unwrap();
    certificates::remove(&core, None, "alice-2026", false).await.unwrap();
    assert_eq!(told(), [], "the rollover is over");
}

#[tokio::test]
async fn a_switch_that_comes_too_late_silences_no_alarm() {
    let Place { core, dir: _dir, .. } = place().await;
    partner(&core, "BIG", made("big", 4).file()).await.unwrap();
    switch::schedule(&core, &switch("big-2026", "late", 6), &made("late", 400).file(), false)
        .await
        .unwrap();
    assert_eq!(expiring_names(&core, 10), ["big-2026"]);
    // One that is over when it would begin.
    let short = made("short", 5).file();
    let refused = switch::schedule(&core, &switch("big-2026", "short", 6), &short, false)
        .await
        .unwrap_err();
    assert!(refused.why.contains("2026-11-27"), "{refused}");
    let mut all = objects(&core).unwrap();
    let late = all.certificates.get_mut(&("acme".to_owned(), "late".to_owned())).unwrap();
    (late.active_from, late.not_after) = ("2026-11-25T00:00:00Z".to_owned(), START / 1000 + 86_400);
    let due = expiry::expiring(&all, START, 3 * DAY);
    assert!(due.is_empty(), "not within this time");
    let due = expiry::expiring(&all, START, 10 * DAY);
    assert_eq!(due.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["big-2026"]);
}

#[tokio::test]
async fn a_further_certificate_leaves_encryption_to_the_one_in_force() {
    let Place { core, clock, dir: _dir } = place().await;
    partner(&core, "BIG", made("big", 4).file()).await.unwrap();
    switch::schedule(&core, &switch("big-2026", "big-next", 2), &made("next", 400).file(), false)
        .await
        .unwrap();
    to_day(&clock, 5);
    let whom = For::Partner("BIG".to_owned(), Use::Auto);
    certificates::add(&core, None, "third", &made("third", 400).file(), &whom, false)
        .await
        .unwrap();
    let all = objects(&core).unwrap();
    let big = all.partner("acme", "BIG").unwrap();
    assert_eq!(big.encrypt_certificate, "big-next", "it is usable");
    assert_eq!(big.sign_certificate, ["big-2026", "big-next", "third"]);
}

#[tokio::test]
async fn a_setting_after_a_switch_counts_as_it_is_written() {
    let Place { core, clock, dir: _dir } = place().await;
    partner(&core, "BIG", made("big", 300).file()).await.unwrap();
    switch::schedule(&core, &switch("big-2026", "big-next", 2), &made("next", 400).file(), false)
        .await
        .unwrap();
    to_day(&clock, 5);
    // Back to the one before.
    partners::set(&core, None, "BIG", &pairs(&[("encrypt_certificate", "big-2026")]), false)
        .await
        .unwrap();
    let all = objects(&core).unwrap();
    let big = all.partner("acme", "BIG").unwrap();
    assert_eq!(big.encrypt_certificate, "big-2026");
    assert!(crate::certificate::taken_over(&all, "acme", "big-2026", clock.now()).is_empty());
}

#[tokio::test]
async fn a_renewed_certificate_has_a_key_like_the_old_one() {
    let Place { core, clock, dir: _dir } = place().await;
    station(&core, "ALICE").await;
    let renew = async |old: &str, key| switch::renew(&core, &switch(old, &format!("{old}-next"), 5), key, true).await;
    assert_eq!(renew("alice-2026", None).await.unwrap().key, "RSA 2048");
    switch::renew(&core, &switch("alice-2026", "second", 2), Some(KeySpec::EcP384), false)
        .await
        .unwrap();
    to_day(&clock, 3);
    assert_eq!(renew("second", None).await.unwrap().key, "EC P-384");
    assert_eq!(renew("second", Some(KeySpec::EcP256)).await.unwrap().key, "EC P-256");
    // One that was brought along: too short, or of a kind that is not made here.
    let like = |key: &str| {
        let second = objects(&core).unwrap().certificate("acme", "second").unwrap().clone();
        switch::like(&Certificate {
            key: key.to_owned(),
            ..second
        })
    };
    assert_eq!(like("RSA 1024").unwrap(), KeySpec::default());
    let refused = like("EC brainpoolP256r1").unwrap_err();
    assert!(refused.hint.starts_with("as2gate cert renew second --key TYPE"), "{refused:?}");
}

#[tokio::test]
async fn what_is_offered_for_a_certificate_that_ends_goes_by_who_made_it() {
    let Place { core, dir: _dir, .. } = place().await;
    station(&core, "ALICE").await;
    partner(&core, "BIG", made("big", 300).file()).await.unwrap();
    let offered = |name: &str| expiry::renewal(&core.config, objects(&core).unwrap().certificate("acme", name).unwrap());
    assert_eq!(offered("alice-2026"), "as2gate cert renew alice-2026");
    assert_eq!(offered("big-2026"), "as2gate cert schedule big-2026 --replace-with FILE --at TIME");
}

#[tokio::test]
async fn what_partners_get_of_a_station_is_the_certificate_in_force() {
    let Place { core, clock, dir: _dir } = place().await;
    station(&core, "ALICE").await;
    switch::renew(&core, &switch("alice-2026", "second", 2), Some(KeySpec::EcP256), false)
        .await
        .unwrap();
    let profile = || {
        let all = objects(&core).unwrap();
        stations::profile(&core, &all, &all.stations["ALICE"]).unwrap()
    };
    let sha256 = |name: &str| certificates::colons(&objects(&core).unwrap().certificate("acme", name).unwrap().fingerprint);
    let first = format!("{:<21}{}\n", "SHA-256 fingerprint", sha256("alice-2026"));
    assert!(
        profile().contains(&first) && profile().contains("Next certificate"),
        "{}",
        profile()
    );
    let says = |one: &str, other: &str| profile().contains(one) && profile().contains(other);
    assert!(says("SHA-256 with RSA", "; RSA key transport"), "{}", profile());
    to_day(&clock, 3);
    let second = format!("{:<21}{}\n", "SHA-256 fingerprint", sha256("second"));
    assert!(
        profile().contains(&second) && !profile().contains("Next certificate"),
        "{}",
        profile()
    );
    assert!(
        says("SHA-256 with ECDSA", "; ECDH key agreement") && !profile().contains("RSA"),
        "{}",
        profile()
    );
    let alice = partners::add_from_station(&core, None, "ALICE", &[], false).await.unwrap();
    let all = objects(&core).unwrap();
    let copied = all.certificate("acme", &alice.encrypt_certificate).unwrap();
    assert_eq!(copied.fingerprint, all.certificate("acme", "second").unwrap().fingerprint);
}

/// A self-signed certificate with an RSA-PSS key.
const PSS: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIDZzCCAhqgAwIBAgIUfgHDH03UyHYVoIeOX+F1PQxkCOswQgYJKoZIhvcNAQEK\n\
MDWgDzANBglghkgBZQMEAgEFAKEcMBoGCSqGSIb3DQEBCDANBglghkgBZQMEAgEF\n\
AKIEAgIA3jAOMQwwCgYDVQQDDANwc3MwIBcNMjYxMTI5MTUyOTI0WhgPMjEyNjEx\n\
MDUxNTI5MjRaMA4xDDAKBgNVBAMMA3BzczCCASAwCwYJKoZIhvcNAQEKA4IBDwAw\n\
ggEKAoIBAQCQ8qGBsxOA6jsthhYTqpFN68BnLgc75O7NRiYTVPmnqOfqwZww1xiZ\n\
HXzJ56jhSxTirsIx2Tes2m4JDuERzYPQ40P/9CR3o7kcFF8ygnPhlXN6WNflKKvQ\n\
G1LHkB15WkgaCRZyYhiDAQAnCXKomEEOcP+7ul5SspYRvfdWxBaHRJg8+Jrxqzmi\n\
pZQ6vV2IqM/DD+SdyFGNc1Kpq9O9s1sKPCbExCDPYw09uUiDTaNcGuSmJNwAiYLF\n\
cqAyWl3oxpQfUDHSpuuj3UudaEBFILnrG88lWw44NZe5JGOl0M9fohv4rntDz6fi\n\
DgRyfBCqi3y8zAKqRCnNlc9I7P6z+b2/AgMBAAGjUzBRMB0GA1UdDgQWBBRoID/v\n\
4qDJ6wr1kBhW8PXjdwAJmzAfBgNVHSMEGDAWgBRoID/v4qDJ6wr1kBhW8PXjdwAJ\n\
mzAPBgNVHRMBAf8EBTADAQH/MEIGCSqGSIb3DQEBCjA1oA8wDQYJYIZIAWUDBAIB\n\
BQChHDAaBgkqhkiG9w0BAQgwDQYJYIZIAWUDBAIBBQCiBAICAN4DggEBAB3FSBqx\n\
3hkqxikrcKtI5MswSvzGFf2wnMP37L/RsnhaAKlCW/ufvfGEOK/SLg9+C++p+RoA\n\
tP/UqvVMx0pQ17XALT93iOguxE8RFFESZCF3C+CabRxBX8c7ctS76dnApbhmp9qS\n\
m5jrUWYxd4dvhLfdvumxMac/ZW2KaizJQKdqTRXxdQjMEQom3P0oPO5kUXpcMVEJ\n\
XmzrMvLoU9KXEIhBLvhLOXT9JWT4mbHMyIEtKtIvOdcGobzMqqDwO154eK8e83Rs\n\
H5JwQmtxherLSJhImihejjek++hJGXudODL2fFwx7MVAS4u+Iy88+DSWFsGVfzUD\n\
dK5zY4v9+tkvaoQ=\n\
-----END CERTIFICATE-----\n\
";

#[tokio::test]
async fn a_successor_that_cannot_encrypt_is_refused() {
    let Place { core, dir: _dir, .. } = place().await;
    partner(&core, "BIG", made("big", 300).file()).await.unwrap();
    let ed = PKey::generate_ed25519().unwrap();
    let ed = made("ed", 400).with(&ed);
    for (new, word) in [(file(&[&ed.certificate]), "Ed25519"), (named_file(None, PSS.to_owned()), "RSA-PSS")] {
        for days in [0, 2] {
            let refused = switch::schedule(&core, &switch("big-2026", "next", days), &new, false)
                .await
                .unwrap_err();
            assert!(refused.why.contains(word) && refused.why.contains("signs only"), "{refused}");
        }
        // It is good for signatures.
        let new = NewCertificate { name: None, ..new };
        certificates::add(
            &core,
            None,
            &format!("sign-{}", word.to_lowercase()),
            &new,
            &For::Partner("BIG".to_owned(), Use::Sign),
            false,
        )
        .await
        .unwrap();
    }
    let good = made("next", 400).file();
    switch::schedule(&core, &switch("big-2026", "next", 2), &good, false).await.unwrap();
}

#[tokio::test]
async fn an_rsa_pss_key_signs_only() {
    let Place { core, dir: _dir, .. } = place().await;
    let refused = partner(&core, "BIG", named_file(None, PSS.to_owned())).await.unwrap_err();
    assert!(refused.why.contains("RSA-PSS") && refused.why.contains("signs only"), "{refused}");
    let pair = KeyPair {
        pkcs8: Vec::new().into(),
        certificate: keystore::import(PSS.as_bytes(), None).unwrap().certificate().unwrap().to_vec(),
    };
    let refused = certificates::with_key(&core, ("acme", "pss"), Purpose::Station, "", &pair).unwrap_err();
    assert!(refused.why.contains("RSA-PSS"), "{refused}");
}

#[tokio::test]
async fn no_certificate_is_written_over_another() {
    let Place { core, dir: _dir, .. } = place().await;
    let issued = |leaf: &str, root: &str| {
        let leaf = Made {
            issuer: root,
            ..made(leaf, 300)
        };
        file(&[&leaf.with(&ec_key()).certificate, &made(root, 400).with(&ec_key()).certificate])
    };
    partner(&core, "BIG", issued("big", "one")).await.unwrap();
    let before = objects(&core).unwrap().certificate("acme", "big-2026-ca1").unwrap().clone();
    partners::remove(&core, None, "BIG", false).await.unwrap();
    certificates::remove(&core, None, "big-2026", false).await.unwrap();
    // The same name for the leaf, another issuer.
    partner(&core, "BIG", issued("big", "two")).await.unwrap();
    let all = objects(&core).unwrap();
    assert_eq!(all.certificate("acme", "big-2026-ca1").unwrap().fingerprint, before.fingerprint);
    assert_eq!(all.certificate("acme", "big-2026-ca1-2").unwrap().subject, "CN=two");

    // Nor by a name that is given.
    station(&core, "ALICE").await;
    let taken = |name: &str| NewCertificate {
        name: Some(name.to_owned()),
        ..made("other", 300).file()
    };
    assert_eq!(partner(&core, "OTHER", taken("alice-2026")).await.unwrap_err().code, "exists");
    let new = NewStation {
        account: None,
        as2_id: "BOB".to_owned(),
        settings: Vec::new(),
        certificate: Some(NewCertificate {
            name: Some("big-2026".to_owned()),
            ..with_its_key(&made("bob", 300).with(&ec_key()))
        }),
        key: KeySpec::Rsa2048,
    };
    assert_eq!(stations::add(&core, &new, false).await.map(|_| ()).unwrap_err().code, "exists");
    // Nor by a plan that overlooks it.
    let stray = certificates::trusted(
        ("acme", "alice-2026"),
        Purpose::Partner,
        "",
        &all.certificate("acme", "big-2026").unwrap().der,
    )
    .unwrap();
    let over = edit(&core, false, |_| Ok((vec![stray.clone().into()], ()))).await;
    assert_eq!(over.unwrap_err().code, "exists");
}

#[tokio::test]
async fn a_next_certificate_is_not_removed_before_its_switch_is_called_off() {
    let Place { core, clock, dir: _dir } = place().await;
    station(&core, "ALICE").await;
    partner(&core, "BIG", made("big", 300).file()).await.unwrap();
    switch::renew(&core, &switch("alice-2026", "second", 2), Some(KeySpec::EcP256), false)
        .await
        .unwrap();
    let confirm = |name: &'static str, taken: bool| {
        let core = &core;
        async move {
            rollover::confirm(core, None, name, &["BIG".to_owned()], taken, false)
                .await
                .unwrap()
        }
    };
    confirm("second", true).await;
    let remove = |name: &'static str| {
        let core = &core;
        async move {
            certificates::remove(core, None, name, false)
                .await
                .map_err(|refusal| (refusal.code, refusal.why, refusal.hint))
        }
    };
    let (code, why, hint) = remove("second").await.unwrap_err();
    assert_eq!(code, "in-use");
    assert!(
        why.contains("alice-2026") && hint.contains("as2gate cert switch second --cancel"),
        "{why} {hint}"
    );
    rollover::cancel(&core, None, "second", false).await.unwrap();
    let (code, why, hint) = remove("second").await.unwrap_err();
    assert_eq!(code, "in-use");
    assert!(
        why.contains("BIG") && hint.contains("as2gate cert confirm second --partner BIG --undo"),
        "{why} {hint}"
    );
    confirm("second", false).await;
    remove("second").await.unwrap();

    // The one before may go, once those who had taken it have taken the one after.
    switch::renew(&core, &switch("alice-2026", "third", 3), Some(KeySpec::EcP256), false)
        .await
        .unwrap();
    confirm("third", true).await;
    to_day(&clock, 4);
    remove("alice-2026").await.unwrap();
    switch::renew(&core, &switch("third", "fourth", 5), Some(KeySpec::EcP256), false)
        .await
        .unwrap();
    to_day(&clock, 6);
    assert_eq!(remove("third").await.unwrap_err().0, "in-use");
    confirm("fourth", true).await;
    remove("third").await.unwrap();

    // A partner's, too.
    switch::schedule(&core, &switch("big-2026", "next", 9), &made("next", 400).file(), false)
        .await
        .unwrap();
    let (code, _, hint) = remove("next").await.unwrap_err();
    assert!(code == "in-use" && hint.contains("cert switch next --cancel"), "{hint}");
    rollover::cancel(&core, None, "next", false).await.unwrap();
    remove("next").await.unwrap();
    // A switch that has taken place is not called off.
    assert_eq!(rollover::cancel(&core, None, "fourth", false).await.unwrap_err().code, "no-switch");
}

#[tokio::test]
async fn our_tls_certificate_is_shown_with_its_issuers() {
    let Place { core, dir: _dir, .. } = place().await;
    plain_pair(&core).await;
    let keys = [ec_key(), ec_key(), ec_key()];
    let of = |subject, issuer| Made {
        issuer,
        ..made(subject, 400)
    };
    let root = made("root", 400).with(&keys[0]).certificate;
    let middle = of("middle", "root").signed_by(&keys[0], &keys[1]).certificate;
    // A stranger of the same name: its key did not sign.
    let stranger = made("middle", 400).with(&keys[2]).certificate;
    let client = of("client", "middle").signed_by(&keys[1], &keys[2]);
    let mut new = with_its_key(&client);
    new.bytes.extend(file(&[&root, &stranger, &middle]).bytes.iter());
    certificates::add(&core, None, "client", &new, &For::Https, false).await.unwrap();
    set_bob(&core, &[("client_certificate", "client")]).await;

    let shown = || core.partnership("ALICE", "BOB").unwrap().tls_identity.clone().unwrap().0;
    assert_eq!(shown(), [client.certificate.clone(), middle.clone()]);
    // Nobody gets in at our own TLS port for having one of the same issuers.
    let all = objects(&core).unwrap();
    let proves = |der: &Vec<u8>| all.certificates.values().any(|c| c.der == *der && c.purpose == Purpose::HttpsChain);
    assert!(![&root, &middle, &stranger].into_iter().any(proves));

    // The next one, by another issuer.
    let other = of("other", "root").signed_by(&keys[0], &keys[2]).certificate;
    let next = of("client", "other").signed_by(&keys[2], &keys[1]);
    let mut new = with_its_key(&next);
    new.bytes.extend(file(&[&other]).bytes.iter());
    let at_once = Switch {
        at: When::Now,
        ..switch("client", "client-next", 0)
    };
    switch::schedule(&core, &at_once, &new, false).await.unwrap();
    core.refresh_objects().unwrap();
    assert_eq!(shown(), [next.certificate, other]);
}

#[tokio::test]
async fn certificates_that_partners_may_refuse_are_told() {
    let Place { core, dir: _dir, .. } = place().await;
    let weak = PKey::from_rsa(openssl::rsa::Rsa::generate(1024).unwrap()).unwrap();
    let weak = file(&[&made("weak", 400).with(&weak).certificate]);
    for (id, certificate) in [("GOOD", made("good", 400).file()), ("WEAK", weak)] {
        partner(&core, id, certificate).await.unwrap();
    }
    let told = |now| {
        let all = rules::warnings(&core.config, &objects(&core).unwrap(), now);
        let mut told: Vec<String> = all.into_iter().map(|(what, _)| what).collect();
        told.sort();
        told
    };
    let short = "certificate weak-2026 has a key of 1024 bits, which is too short today, and is in use";
    assert_eq!(told(START), [short]);
    let early = told(START - 2 * DAY);
    assert_eq!(early.len(), 2, "{early:?}");
    assert!(early[0].starts_with("certificate good-2026 is not valid before 2026-"), "{early:?}");
    assert!(told(START + 401 * DAY)[0].ends_with("good-2026 has expired and is in use"));
}

#[tokio::test]
async fn a_time_in_the_past_replaces_no_certificate() {
    let Place { core, dir: _dir, .. } = place().await;
    partner(&core, "BIG", made("big", 400).file()).await.unwrap();
    let refused = switch::schedule(&core, &switch("big-2026", "next", -1), &made("next", 400).file(), false)
        .await
        .unwrap_err();
    assert!(
        refused.why.ends_with("is in the past") && refused.hint.starts_with("leaving out --at makes"),
        "{refused}"
    );
    let alice = station(&core, "ALICE").await;
    let refused = switch::renew(&core, &switch(&alice.certificate, "next", -1), None, false)
        .await
        .unwrap_err();
    assert!(
        refused.why.ends_with("is in the past") && refused.hint.starts_with("--now makes"),
        "{refused}"
    );
}

#[tokio::test]
async fn names_of_certificates_differ_in_more_than_case() {
    let Place { core, dir: _dir, .. } = place().await;
    let whom = For::Purpose(Purpose::PartnerChain);
    let root = made("root", 300).file();
    let add = |name: &'static str| certificates::add(&core, None, name, &root, &whom, false);
    add("Root").await.unwrap();
    let refused = add("ROOT").await.unwrap_err();
    assert!(refused.why.contains("Root"), "{refused}");
    add("ROOT-2026").await.unwrap();
    let made = partner(&core, "ROOT", made("root", 300).file()).await.unwrap();
    assert_eq!(made.encrypt_certificate, "root-2026-2");
    stores::write(&core, "acme").unwrap();
}

#[tokio::test]
async fn two_key_pairs_of_a_station_are_told_apart() {
    let Place { core, dir: _dir, .. } = place().await;
    let new = NewStation {
        account: None,
        as2_id: "ALICE".to_owned(),
        settings: Vec::new(),
        certificate: Some(with_its_key(&made("alice", 300).with(&ec_key()))),
        key: KeySpec::Rsa2048,
    };
    stations::add(&core, &new, false).await.unwrap();
    // Another key under the issuer and serial number of the first: messages name both by the same words.
    let same = with_its_key(&made("alice", 400).with(&ec_key()));
    let refused = switch::schedule(&core, &switch("alice-2026", "next", 2), &same, false)
        .await
        .unwrap_err();
    assert!(
        refused.why.contains("alice-2026") && refused.why.contains("serial number"),
        "{refused}"
    );
    let whom = For::Station("ALICE".to_owned(), false);
    assert!(certificates::add(&core, None, "next", &same, &whom, false).await.is_err());
    let other = Made {
        serial: 8,
        ..made("alice", 400)
    };
    let other = with_its_key(&other.with(&ec_key()));
    switch::schedule(&core, &switch("alice-2026", "next", 2), &other, false)
        .await
        .unwrap();
    // The same key in a certificate made anew under the old number is no matter: it opens what is for either.
    let key = ec_key();
    let whom = For::Station("BOB".to_owned(), false);
    station(&core, "BOB").await;
    for (name, days) in [("bob-a", 300), ("bob-b", 400)] {
        let pair = with_its_key(&made("bob", days).with(&key));
        certificates::add(&core, None, name, &pair, &whom, false).await.unwrap();
    }
}

/// Two commands side by side: the stores that are written last hold what both did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_stores_are_written_from_what_counts_then() {
    let Place { core, dir: _dir, .. } = place().await;
    station(&core, "ALICE").await;
    let dir = stores::of_account(&core, "acme").dir().to_owned();
    let held = std::fs::File::open(&dir).unwrap();
    held.lock().unwrap();
    let slow = tokio::spawn({
        let core = Arc::clone(&core);
        async move { station(&core, "BOB").await }
    });
    while !objects(&core).unwrap().stations.contains_key("BOB") {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // Time to come as far as the lock.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let quick = made("quick", 300).with(&ec_key()).certificate;
    let quick = certificates::trusted(("acme", "quick"), Purpose::PartnerChain, "", &quick).unwrap();
    let quick = Object::Certificate(Box::new(quick));
    core.journal.write(move |tx| tx.put_object(&quick, START)).await.unwrap();
    drop(held);
    slow.await.unwrap();
    let bytes = std::fs::read(dir.join("trust.jks")).unwrap();
    let password = stores::passwords(&core, "acme").unwrap().trust;
    assert!(keystore::import_alias(&bytes, Some(&password), "quick").is_ok());
}

/// The steps of a rollover: how far each is, and its command.
fn guided(core: &Core, id: &str) -> Vec<String> {
    let guide = rollover::guide(&objects(core).unwrap(), None, id, core.clock.now()).unwrap();
    let in_words = |step: &rollover::Step| format!("{}: {}", step.progress, step.command.replacen("as2gate ", "", 1));
    guide.steps.iter().map(in_words).collect()
}

#[tokio::test]
async fn each_certificate_of_a_partner_changes_by_itself() {
    let Place { core, clock, dir: _dir } = place().await;
    station(&core, "ALICE").await;
    partner(&core, "BIG", made("sign", 300).file()).await.unwrap();
    let whom = For::Partner("BIG".to_owned(), Use::Encrypt);
    certificates::add(&core, None, "big-enc", &made("enc", 300).file(), &whom, false)
        .await
        .unwrap();
    let plan = |old: &'static str, name: &'static str, day| {
        let core = Arc::clone(&core);
        async move {
            let file = made(name, 400).file();
            switch::schedule(&core, &switch(old, name, day), &file, false).await.unwrap();
        }
    };
    plan("big-enc", "enc-next", 2).await;
    let encryption = [
        "cert schedule big-enc --replace-with FILE --at TIME",
        "cert show enc-next",
        "cert switch enc-next --at TIME",
    ];
    let add = "cert add NAME --partner BIG --use sign --file FILE";
    let mut expected = vec![
        format!("done: {}", encryption[0]),
        format!("next: {}", encryption[1]),
        format!("later: {}", encryption[2]),
        format!("next: {add}"),
        "later: cert show NEXT".to_owned(),
        "later: partner set BIG --sign-certificate NEXT".to_owned(),
    ];
    assert_eq!(guided(&core, "BIG"), expected);
    plan("big-2026", "sign-next", 3).await;
    expected[3] = format!("done: {add}");
    expected[4] = "next: cert show sign-next".to_owned();
    expected[5] = "later: partner set BIG --sign-certificate sign-next".to_owned();
    assert_eq!(guided(&core, "BIG"), expected);
    // One more that verifies stays, whatever takes over from the other.
    let whom = For::Partner("BIG".to_owned(), Use::Sign);
    certificates::add(&core, None, "branch", &made("branch", 300).file(), &whom, false)
        .await
        .unwrap();
    expected[5] = "later: partner set BIG --sign-certificate branch,sign-next".to_owned();
    assert_eq!(guided(&core, "BIG"), expected);
    // After the switch only the partner knows when the old one may go.
    to_day(&clock, 5);
    let after = guided(&core, "BIG");
    assert!(after[..3].iter().all(|step| step.starts_with("done: ")), "{after:?}");
    assert_eq!(after[5], expected[5]);
    partners::set(&core, None, "BIG", &pairs(&[("sign_certificate", "branch,sign-next")]), false)
        .await
        .unwrap();
    let all = objects(&core).unwrap();
    let big = all.partner("acme", "BIG").unwrap();
    assert_eq!(
        (big.encrypt_certificate.as_str(), big.sign_certificate.join(",").as_str()),
        ("enc-next", "branch,sign-next")
    );
    assert!(guided(&core, "BIG")[0].starts_with("next: cert schedule enc-next "));
}

#[tokio::test]
async fn a_pair_whose_switch_was_called_off_is_no_old_one() {
    let Place { core, clock, dir: _dir } = place().await;
    station(&core, "ALICE").await;
    let last = || guided(&core, "ALICE").split_off(3);
    to_day(&clock, 1);
    switch::renew(&core, &switch("alice-2026", "second", 5), Some(KeySpec::EcP256), false)
        .await
        .unwrap();
    assert_eq!(last(), ["next: cert switch second --at TIME", "later: cert rm alice-2026"]);
    rollover::cancel(&core, None, "second", false).await.unwrap();
    let commands = ["next: station set ALICE --set certificate=second", "later: cert rm alice-2026"];
    assert_eq!(last(), commands);
    stations::set(&core, None, "ALICE", &pairs(&[("certificate", "second")]), false)
        .await
        .unwrap();
    assert_eq!(last(), ["done: cert switch second --at TIME", "next: cert rm alice-2026"]);
    // Of several the oldest goes first.
    to_day(&clock, 2);
    switch::renew(&core, &switch("second", "a-third", 4), Some(KeySpec::EcP256), false)
        .await
        .unwrap();
    assert_eq!(last(), ["next: cert switch a-third --at TIME", "later: cert rm alice-2026"]);
    certificates::remove(&core, None, "alice-2026", false).await.unwrap();
    to_day(&clock, 5);
    assert_eq!(last(), ["done: cert switch a-third --at TIME", "next: cert rm second"]);
    certificates::remove(&core, None, "second", false).await.unwrap();
    assert!(guided(&core, "ALICE")[0].starts_with("next: "), "the next rollover");
}

#[tokio::test]
async fn a_partner_whose_id_has_a_comma_confirms_too() {
    let Place { core, dir: _dir, .. } = place().await;
    station(&core, "ALICE").await;
    for id in ["it's, Ltd", "BIG", "SMALL"] {
        partner(&core, id, made("one", 300).file()).await.unwrap();
    }
    let confirm = |texts: &[&str]| {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let core = Arc::clone(&core);
        async move { rollover::confirm(&core, None, "alice-2026", &texts, true, false).await }
    };
    assert_eq!(confirm(&["it's, Ltd"]).await.unwrap().confirmed_by, ["it's, Ltd"]);
    let all = confirm(&["BIG,SMALL"]).await.unwrap().confirmed_by;
    assert_eq!(all, ["BIG", "SMALL", "it's, Ltd"]);
    assert!(confirm(&["BIG,NOBODY"]).await.unwrap_err().why.contains("NOBODY does not trade"));
}

#[tokio::test]
async fn apply_puts_nothing_in_the_place_of_another_ones_certificate() {
    let Place { core, dir: _dir, .. } = place().await;
    partner(&core, "P1", made("p1", 300).file()).await.unwrap();
    let fingerprint = || objects(&core).unwrap().certificate("acme", "p1-2026").unwrap().fingerprint.clone();
    let before = fingerprint();
    let pem = |subject: &str| {
        let certificate = made(subject, 300).with(&ec_key()).certificate;
        keystore::to_pem("CERTIFICATE", &certificate).to_string()
    };
    let entry = |name: &str, owner: &str, pem: &str| {
        format!("[[certificate]]\nname = \"{name}\"\npurpose = \"partner\"\n{owner}\npem = \"\"\"\n{pem}\"\"\"\n")
    };
    let p2 = |name: &str| format!("[[partner]]\nas2_id = \"P2\"\nurl = \"https://p2.example/as2\"\nsign_certificate = [\"{name}\"]\n");
    // The file of P1 as it was copied for P2, with the name of the certificate forgotten.
    for owner in ["owner = \"P2\"", ""] {
        let text = entry("p1-2026", owner, &pem("p2")) + &p2("p1-2026");
        let refused = apply_text(&core, &text).await.unwrap_err();
        assert_eq!(refused.code, "exists");
        assert!(
            refused.why.contains("partner P1") && refused.hint.contains("a name of its own"),
            "{refused:?}"
        );
        assert_eq!(fingerprint(), before);
    }
    apply_text(&core, &(entry("p2-2026", "", &pem("p2")) + &p2("p2-2026")))
        .await
        .unwrap();
    // P1's own new certificate is no other one's.
    apply_text(&core, &entry("p1-2026", "owner = \"P1\"", &pem("p1"))).await.unwrap();
    assert_ne!(fingerprint(), before);
}

#[tokio::test]
async fn a_certificate_that_is_not_for_encryption_is_told_of() {
    let Place { core, dir: _dir, .. } = place().await;
    let usage = |kind: &str| {
        let key = ec_key();
        let mut x509 = X509Builder::new().unwrap();
        x509.set_version(2).unwrap();
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_text("CN", "big").unwrap();
        let name = name.build();
        x509.set_subject_name(&name).unwrap();
        x509.set_issuer_name(&name).unwrap();
        x509.set_not_before(&Asn1Time::from_unix(START / 1000).unwrap()).unwrap();
        x509.set_not_after(&Asn1Time::from_unix(START / 1000 + 300 * DAY / 1000).unwrap())
            .unwrap();
        x509.set_pubkey(&key).unwrap();
        let mut uses = openssl::x509::extension::KeyUsage::new();
        match kind {
            "sign" => uses.digital_signature(),
            _ => uses.digital_signature().key_agreement(),
        };
        x509.append_extension(uses.build().unwrap()).unwrap();
        x509.sign(&key, MessageDigest::sha256()).unwrap();
        file(&[&x509.build().to_der().unwrap()])
    };
    partner(&core, "BOTH", usage("both")).await.unwrap();
    partner(&core, "BIG", usage("sign")).await.unwrap();
    let warned = rules::warnings(&core.config, &objects(&core).unwrap(), START);
    let about: Vec<_> = warned.iter().filter(|(what, _)| what.contains("keyUsage")).collect();
    assert!(
        matches!(about[..], [(what, hint)] if what.starts_with("partner BIG has big-2026 for encryption") && hint.contains("--use encrypt")),
        "{warned:?}"
    );
}
