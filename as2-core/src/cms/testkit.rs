//! Keys and helpers that the tests of this module share.
#![allow(clippy::unwrap_used, clippy::expect_used)]
// The tests compare with the `openssl` program, and only they.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::SubjectKeyIdentifier;
use openssl::x509::{X509, X509NameBuilder};

use crate::cert::{Certificate, Identity};
use crate::error::Error;
use crate::helper::Helper;

/// A helper with so many threads to lend, one for each job.
pub(crate) struct Threads {
    most: usize,
    lent: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        let lent = Mutex::default();
        Arc::new(Threads { most, lent })
    }

    /// Jobs taken on so far.
    pub(crate) fn taken(&self) -> usize {
        self.lent.lock().unwrap().len()
    }

    /// Waits for all jobs to end.
    pub(crate) fn join(&self) {
        self.lent.lock().unwrap().drain(..).for_each(|thread| thread.join().unwrap());
    }
}

impl Helper for Threads {
    fn run(&self, job: Box<dyn FnOnce() + Send>) -> bool {
        let mut lent = self.lent.lock().unwrap();
        if lent.len() == self.most {
            return false;
        }
        lent.push(std::thread::spawn(job));
        true
    }
}

/// An RSA-2048 identity, made once.
pub(crate) fn rsa() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| identity(&PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(), "rsa", 0x80c0_ffee))
}

/// Another RSA-2048 identity.
pub(crate) fn other() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| identity(&PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(), "other", 7))
}

/// An EC identity on this curve.
pub(crate) fn ec(curve: Nid) -> Identity {
    let group = EcGroup::from_curve_name(curve).unwrap();
    identity(&PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap(), "ec", 9)
}

/// A self-signed certificate over this key, with the key.
pub(crate) fn identity(key: &PKey<Private>, name: &str, serial: u32) -> Identity {
    let pkcs8 = key.private_key_to_pkcs8().unwrap();
    Identity::new(certificate(key, name, serial).der(), &pkcs8).unwrap()
}

/// A self-signed certificate over this key.
pub(crate) fn certificate(key: &PKey<Private>, name: &str, serial: u32) -> Certificate {
    try_certificate(key, name, serial).unwrap()
}

/// The same over a key that may be refused.
pub(crate) fn try_certificate(key: &PKey<Private>, name: &str, serial: u32) -> Result<Certificate, Error> {
    let mut names = X509NameBuilder::new().unwrap();
    names.append_entry_by_text("O", "Tests").unwrap();
    names.append_entry_by_text("CN", name).unwrap();
    let names = names.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder
        .set_serial_number(&BigNum::from_u32(serial).unwrap().to_asn1_integer().unwrap())
        .unwrap();
    builder.set_subject_name(&names).unwrap();
    builder.set_issuer_name(&names).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(1_700_000_000).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(4_000_000_000).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    let ski = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(ski).unwrap();
    // Ed25519 has its digest inside.
    let digest = if key.id() == Id::ED25519 {
        MessageDigest::null()
    } else {
        MessageDigest::sha256()
    };
    builder.sign(key, digest).unwrap();
    Certificate::from_der(&builder.build().to_der().unwrap())
}

/// A directory with files for the `openssl` program.
pub(crate) struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    /// With `cert.pem` and `key.pem` of this identity.
    pub(crate) fn new(identity: &Identity) -> Self {
        Bench::of(identity.certificate(), identity.key())
    }

    /// With `cert.pem` and `key.pem` of these.
    pub(crate) fn of(certificate: &Certificate, key: &PKey<Private>) -> Self {
        let bench = Bench {
            directory: tempfile::tempdir().unwrap(),
        };
        bench.put("cert.pem", &pem(certificate));
        bench.put("key.pem", &key.private_key_to_pem_pkcs8().unwrap());
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn get(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Runs `openssl` with these words, in the directory; it must succeed.
    pub(crate) fn openssl(&self, words: &str) {
        let output = Command::new("openssl")
            .args(words.split_whitespace())
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "openssl {words}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

pub(crate) fn pem(certificate: &Certificate) -> Vec<u8> {
    X509::from_der(certificate.der()).unwrap().to_pem().unwrap()
}

/// Feeds `bytes` in pieces of sizes that follow from `seed`.
pub(crate) fn in_pieces<E>(bytes: &[u8], seed: u64, mut push: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut rest = bytes;
    let mut state = seed | 1;
    while !rest.is_empty() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let largest = [1, 3, 40, 1000, 9000][(state >> 60) as usize % 5];
        let (now, later) = rest.split_at((1 + (state >> 33) as usize % largest).min(rest.len()));
        push(now)?;
        rest = later;
    }
    Ok(())
}

/// Text that does not repeat too soon.
pub(crate) fn content(size: usize) -> Vec<u8> {
    (0..size)
        .map(|at| b" ABCDEFGHIJKLMNOPQRSTUVWXYZ'+:\r\n"[(at * at / 7 + at / 3) % 32])
        .collect()
}
