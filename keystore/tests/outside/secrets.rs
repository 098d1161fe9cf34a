//! The master key: its file, sealing, derived passwords, password hashes.

use std::os::unix::fs::PermissionsExt;

use keystore::{Error, MasterKey, password_hash, password_verify, password_verify_nobody};

use crate::{Bench, error};

#[test]
fn a_sealed_record_opens_only_with_its_key_and_context() {
    let key = MasterKey::generate().unwrap();
    let sealed = key.seal("station/ALICE", b"secret").unwrap();
    assert_eq!(key.open("station/ALICE", &sealed).unwrap().as_slice(), b"secret");
    assert!(key.open("station/BOB", &sealed).is_err());
    assert!(MasterKey::generate().unwrap().open("station/ALICE", &sealed).is_err());
    assert_ne!(sealed, key.seal("station/ALICE", b"secret").unwrap(), "the nonce is fresh");
    for at in 0..sealed.len() {
        let mut damaged = sealed.clone();
        damaged[at] ^= 1;
        assert!(key.open("station/ALICE", &damaged).is_err(), "byte {at}");
        assert!(key.open("station/ALICE", &sealed[..at]).is_err(), "cut at {at}");
    }
    let nothing = key.seal("empty", b"").unwrap();
    assert!(key.open("empty", &nothing).unwrap().is_empty());
}

#[test]
fn the_master_keys_file_is_private_and_never_overwritten() {
    let bench = Bench::new();
    let path = bench.path("master.key");
    let made = MasterKey::create(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let sealed = made.seal("a", b"x").unwrap();
    assert_eq!(MasterKey::load(&path).unwrap().open("a", &sealed).unwrap().as_slice(), b"x");
    assert!(matches!(MasterKey::create(&path), Err(Error::MasterKeyExists { .. })));
    assert!(MasterKey::load(&path).is_ok(), "the second create changed nothing");

    for mode in [0o640, 0o604, 0o620] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let words = error(MasterKey::load(&path));
        assert!(words.contains("chmod 600"), "{words}");
    }
    let missing = error(MasterKey::load(&bench.path("none")));
    assert!(missing.contains("none"), "{missing}");
    for broken in [&b""[..], b"abc", &[0xff; 64], &[b'g'; 64], &[b'0'; 300]] {
        let path = bench.write("broken.key", broken);
        assert!(matches!(MasterKey::load(&path), Err(Error::MasterKeyBroken { .. })));
    }
}

#[test]
fn derived_passwords_are_stable_and_differ_by_label() {
    let key = MasterKey::from_hex(&"07".repeat(32)).unwrap();
    let password = key.derive_password("acme/trust.jks").unwrap();
    assert_eq!(*password, *key.derive_password("acme/trust.jks").unwrap());
    assert_ne!(*password, *key.derive_password("acme/https.jks").unwrap());
    assert_eq!(password.len(), 40);
    // A change here would lock every installation's stores: printf 'as2gate store password v1\0acme/trust.jks' |
    // openssl dgst -sha256 -mac HMAC -macopt hexkey:0707…
    let derived = openssl_derivation("acme/trust.jks");
    assert_eq!(*password, derived[..40]);
}

fn openssl_derivation(label: &str) -> String {
    let bench = Bench::new();
    bench.write("label", format!("as2gate store password v1\0{label}"));
    let key = "07".repeat(32);
    let out = bench.run(&format!("openssl dgst -sha256 -mac HMAC -macopt hexkey:{key} label"));
    out.trim().rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn password_hashes_are_argon2id_of_the_agreed_cost() {
    let hash = password_hash("correct horse battery staple").unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    assert!(password_verify("correct horse battery staple", &hash));
    assert!(!password_verify("correct horse battery stapl", &hash));
    assert!(!password_verify("", &hash));
    assert!(!password_verify("x", "no hash"));
    assert!(!password_verify_nobody("correct horse battery staple"));
    assert!(!password_verify_nobody(&"ä".repeat(1000)));
    assert!(password_hash("").is_err());
    assert!(password_hash(&"x".repeat(1025)).is_err());
}

#[test]
fn a_hash_of_the_reference_implementation_verifies() {
    // python3: argon2-cffi's documentation, https://argon2-cffi.readthedocs.io (low-level vector of the RFC 9106 code):
    // echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1 -e
    let hash = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    assert!(password_verify("password", hash));
    assert!(!password_verify("differentpassword", hash));
}
