//! `identity.jks`, `trust.jks` and `https.jks` of an account, written so that `keytool` opens them.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::Result;
use crate::secret::MasterKey;

/// How the stores are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreFormat {
    /// PKCS#12 content: Java reads it under any name.
    #[default]
    Pkcs12,
    /// Java's own format; its protection of keys is weak.
    Jks,
}

/// A private key with its certificates. No `Debug`: the key is secret.
#[derive(Clone)]
pub struct StoreEntry {
    /// The name `keytool` shows; unique in its file without regard to case.
    pub alias: String,
    /// The private key, PKCS#8 DER.
    pub pkcs8: Zeroizing<Vec<u8>>,
    /// Certificates, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
}

/// A trusted certificate.
#[derive(Debug, Clone)]
pub struct TrustEntry {
    /// The name `keytool` shows.
    pub alias: String,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
}

/// One password per file.
pub struct StorePasswords {
    /// Of `identity.jks`.
    pub identity: Zeroizing<String>,
    /// Of `trust.jks`.
    pub trust: Zeroizing<String>,
    /// Of `https.jks`.
    pub https: Zeroizing<String>,
}

impl StorePasswords {
    /// The passwords of an account's stores.
    pub fn derive(master: &MasterKey, account: &str) -> Result<Self> {
        let of = |file: &str| master.derive_password(&format!("{account}/{file}"));
        Ok(Self {
            identity: of(IDENTITY_FILE)?,
            trust: of(TRUST_FILE)?,
            https: of(HTTPS_FILE)?,
        })
    }
}

/// Our stations' keys and certificates.
pub const IDENTITY_FILE: &str = "identity.jks";
/// Our partners' certificates.
pub const TRUST_FILE: &str = "trust.jks";
/// The HTTPS listener's keys and certificates.
pub const HTTPS_FILE: &str = "https.jks";

/// The directory of one account's stores.
#[derive(Debug, Clone)]
pub struct Stores {
    dir: PathBuf,
}

impl Stores {
    /// The stores in `dir`, which [`write`](Self::write) makes when it is missing.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where they lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes all three files, each atomically and durably, mode 0600 in a directory of mode 0700.
    pub fn write(
        &self,
        identity: &[StoreEntry],
        trust: &[TrustEntry],
        https: &[StoreEntry],
        passwords: &StorePasswords,
        format: StoreFormat,
    ) -> Result<()> {
        let _ = (identity, trust, https, passwords, format);
        todo!()
    }
}

pub(crate) fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => std::fs::File::open(dir)?.sync_all(),
        _ => std::fs::File::open(".")?.sync_all(),
    }
}
