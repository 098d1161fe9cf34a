//! The three stores of an account, judged by keytool.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use keystore::{
    Error, KeySpec, MasterKey, StoreEntry, StoreFormat, StorePasswords, Stores, Subject, TrustEntry, identity, import, import_alias,
};

use crate::{Bench, NOW, error, has};

fn entry(alias: &str) -> StoreEntry {
    let subject = Subject {
        cn: alias.into(),
        ..Subject::default()
    };
    let pair = identity(KeySpec::EcP256, &subject, NOW, 30).unwrap();
    StoreEntry {
        alias: alias.into(),
        pkcs8: pair.pkcs8,
        chain: vec![pair.certificate],
    }
}

fn trusted(alias: &str) -> TrustEntry {
    TrustEntry {
        alias: alias.into(),
        certificate: entry(alias).chain.remove(0),
    }
}

fn passwords() -> StorePasswords {
    StorePasswords::derive(&MasterKey::from_hex(&"03".repeat(32)).unwrap(), "acme").unwrap()
}

/// As the program writes them.
fn write(
    stores: &Stores,
    identity: &[StoreEntry],
    trust: &[TrustEntry],
    https: &[StoreEntry],
    format: StoreFormat,
) -> Result<Vec<String>, Error> {
    stores.lock()?.write(identity, trust, https, &passwords(), format)
}

fn list(bench: &Bench, file: &str, password: &str) -> String {
    bench.run(&format!("keytool -list -keystore {file} -storepass {password}"))
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn keytool_lists_all_three_in_both_formats() {
    for format in [StoreFormat::Pkcs12, StoreFormat::Jks] {
        let bench = Bench::new();
        let stores = Stores::new(bench.path("keystore"));
        let p = passwords();
        let identity = [entry("ALICE-current"), entry("ALICE-next"), entry("Bob's Büro")];
        let trust = [trusted("bigmart"), trusted("partner-2")];
        let left_out = write(&stores, &identity, &trust, &[entry("https")], format).unwrap();
        assert!(left_out.is_empty());
        for file in ["identity.jks", "trust.jks", "https.jks"] {
            assert_eq!(mode(&stores.dir().join(file)), 0o600, "{file}");
        }
        assert_eq!(mode(stores.dir()), 0o700);
        assert_eq!(std::fs::read_dir(stores.dir()).unwrap().count(), 3, "no temporary file stays");

        let bytes = bench.read("keystore/identity.jks");
        let again = import_alias(&bytes, Some(&p.identity), "alice-next").unwrap();
        assert_eq!(
            again.key_pair().unwrap(),
            (identity[1].chain[0].as_slice(), identity[1].pkcs8.as_slice())
        );
        if !has("keytool") {
            continue;
        }
        let out = list(&bench, "keystore/identity.jks", &p.identity);
        assert!(out.contains("contains 3 entries"), "{out}");
        assert_eq!(out.matches("PrivateKeyEntry").count(), 3, "{out}");
        assert!(out.contains("alice-current") && out.contains("alice-next"), "{out}");
        let out = list(&bench, "keystore/trust.jks", &p.trust);
        assert!(out.contains("contains 2 entries"), "{out}");
        assert_eq!(out.matches("trustedCertEntry").count(), 2, "{out}");
        let out = list(&bench, "keystore/https.jks", &p.https);
        assert!(out.contains("contains 1 entry"), "{out}");
        // Java must be able to use the key, not only to list it.
        bench.run(&format!(
            "keytool -certreq -keystore keystore/identity.jks -storepass {} -alias ALICE-current -file request.csr",
            &*p.identity
        ));
        bench.run("openssl req -in request.csr -verify -noout");
        let kind = list(&bench, "keystore/https.jks", &p.https);
        let wanted = if format == StoreFormat::Jks {
            "Keystore type: JKS"
        } else {
            "Keystore type: PKCS12"
        };
        assert!(kind.contains(wanted), "{kind}");
    }
}

#[test]
fn keytool_opens_empty_stores() {
    for format in [StoreFormat::Pkcs12, StoreFormat::Jks] {
        let bench = Bench::new();
        let p = passwords();
        write(&Stores::new(bench.path("k")), &[], &[], &[], format).unwrap();
        if !has("keytool") {
            return;
        }
        for (file, password) in [("identity", &p.identity), ("trust", &p.trust), ("https", &p.https)] {
            let out = list(&bench, &format!("k/{file}.jks"), password);
            assert!(out.contains("contains 0 entries"), "{out}");
        }
    }
}

#[test]
fn each_file_has_its_own_password() {
    let bench = Bench::new();
    let p = passwords();
    write(
        &Stores::new(bench.path("k")),
        &[entry("a")],
        &[trusted("b")],
        &[entry("c")],
        StoreFormat::Jks,
    )
    .unwrap();
    let trust = bench.read("k/trust.jks");
    assert!(import_alias(&trust, Some(&p.trust), "b").is_ok());
    for other in [&p.identity, &p.https] {
        assert!(error(import_alias(&trust, Some(other), "b")).contains("wrong passphrase"));
    }
    let acme2 = StorePasswords::derive(&MasterKey::from_hex(&"03".repeat(32)).unwrap(), "acme2").unwrap();
    assert_ne!(*acme2.trust, *p.trust);
}

#[test]
fn writing_again_replaces_and_cleans_up_after_a_crash() {
    let bench = Bench::new();
    let stores = Stores::new(bench.path("k"));
    let p = passwords();
    write(&stores, &[], &[trusted("old")], &[], StoreFormat::Pkcs12).unwrap();
    std::fs::write(bench.path("k/.trust.jks.tmp"), "left by a crash").unwrap();
    std::fs::set_permissions(bench.path("k"), std::fs::Permissions::from_mode(0o755)).unwrap();
    write(&stores, &[], &[trusted("new")], &[], StoreFormat::Pkcs12).unwrap();
    let bytes = bench.read("k/trust.jks");
    assert!(import_alias(&bytes, Some(&p.trust), "new").is_ok());
    assert!(import_alias(&bytes, Some(&p.trust), "old").is_err());
    assert_eq!(std::fs::read_dir(bench.path("k")).unwrap().count(), 3);
    assert_eq!(mode(&bench.path("k")), 0o700);
}

#[test]
fn an_error_leaves_the_old_stores() {
    let bench = Bench::new();
    let stores = Stores::new(bench.path("k"));
    write(&stores, &[entry("a")], &[], &[], StoreFormat::Pkcs12).unwrap();
    let before = bench.read("k/identity.jks");
    let twice = [trusted("Same"), trusted("same")];
    let words = error(write(&stores, &[entry("b")], &twice, &[], StoreFormat::Pkcs12));
    assert!(words.contains("\"same\""), "{words}");
    assert_eq!(before, bench.read("k/identity.jks"));
    let blocked = Stores::new(bench.write("file", "x").join("k"));
    assert!(error(write(&blocked, &[], &[], &[], StoreFormat::Jks)).contains("make the directory"));
}

#[test]
fn an_odd_certificate_does_not_stop_the_store() {
    let bench = Bench::new();
    bench
        .run("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k -outform DER -out odd -subj / -set_serial -5");
    let mut odd = trusted("odd");
    odd.certificate = bench.read("odd");
    bench.run("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k -outform DER -out below -subj /CN=below -set_serial -5");
    let mut below = trusted("below");
    below.certificate = bench.read("below");
    let mut garbage = trusted("garbage");
    garbage.certificate = vec![0x30, 0];
    let p = passwords();
    let trust = [trusted("good"), odd, below, garbage];
    let left_out = write(&Stores::new(bench.path("s")), &[], &trust, &[], StoreFormat::Pkcs12).unwrap();
    assert_eq!(left_out, ["odd", "garbage"]);
    if has("keytool") {
        let out = list(&bench, "s/trust.jks", &p.trust);
        assert!(out.contains("contains 2 entries"), "{out}");
    }
}

#[test]
fn a_curve_that_is_not_named_does_not_stop_the_store() {
    let bench = Bench::new();
    bench.run("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit -nodes -keyout k.pem -out c.pem -subj /CN=explicit");
    let both = bench.text("k.pem") + &bench.text("c.pem");
    let imported = import(both.as_bytes(), None).unwrap();
    let (certificate, key) = imported.key_pair().unwrap();
    let pair = StoreEntry {
        alias: "pair".into(),
        pkcs8: key.to_vec().into(),
        chain: vec![certificate.to_vec()],
    };
    let partner = TrustEntry {
        alias: "partner".into(),
        certificate: certificate.to_vec(),
    };
    for format in [StoreFormat::Jks, StoreFormat::Pkcs12] {
        let (identity, trust) = ([entry("good"), pair.clone()], [trusted("good"), partner.clone()]);
        let left_out = write(&Stores::new(bench.path("s")), &identity, &trust, &identity, format).unwrap();
        assert_eq!(left_out, ["pair", "partner", "pair"]);
        if has("keytool") {
            let p = passwords();
            for (file, password) in [("identity", &p.identity), ("trust", &p.trust), ("https", &p.https)] {
                let out = list(&bench, &format!("s/{file}.jks"), password);
                assert!(out.contains("contains 1 entry"), "{out}");
            }
        }
    }
}
