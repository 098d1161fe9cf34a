//! `identity.jks`, `trust.jks` and `https.jks` of an account, written so that `keytool` opens them.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::info::{CertInfo, spells_curve_out};
use crate::secret::MasterKey;
use crate::{jks, pkcs12};

/// Rounds of the stores' key derivation: Java's own figure. The password has 160 random bits, so more would only cost time.
const ITERATIONS: u32 = 10_000;

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
    ///
    /// # Errors
    /// [`Error::Crypto`]: the library failed.
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

/// The directory while nobody else writes it: commands run side by side, and one after the other they write whole stores.
#[derive(Debug)]
pub struct Locked<'a> {
    stores: &'a Stores,
    _dir: fs::File,
}

impl Stores {
    /// The stores in `dir`, which [`lock`](Self::lock) makes when it is missing.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where they lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps others from writing until it is dropped. Whoever writes what changes beside it reads that under the lock.
    ///
    /// # Errors
    /// [`Error::Io`]: the directory cannot be made or locked.
    pub fn lock(&self) -> Result<Locked<'_>> {
        self.make_dir()?;
        let locked = fs::File::open(&self.dir).and_then(|dir| dir.lock().map(|()| dir));
        Ok(Locked {
            stores: self,
            _dir: locked.map_err(Error::io("lock", &self.dir))?,
        })
    }

    fn make_dir(&self) -> Result<()> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.and_then(|()| fs::set_permissions(&self.dir, Permissions::from_mode(0o700)))
            .map_err(Error::io("make the directory", &self.dir))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        let tmp = self.dir.join(format!(".{name}.tmp"));
        let failed = Error::io("write", &path);
        // One left by a crash is of no use to anyone.
        match fs::remove_file(&tmp) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&tmp)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()?;
                fs::rename(&tmp, &path)
            });
        written.map_err(|e| {
            let _ = fs::remove_file(&tmp);
            failed(e)
        })
    }
}

impl Locked<'_> {
    /// Writes all three files, each atomically and durably, mode 0600 in a directory of mode 0700.
    ///
    /// Returns the aliases of certificates and key pairs too odd for a store that Java is to read; they are left out of it,
    /// and the rest is written.
    ///
    /// # Errors
    /// An entry that no store can hold, [`Error::Io`] or [`Error::Crypto`]. Before the first file is in its place the old three are
    /// untouched.
    pub fn write(
        &self,
        identity: &[StoreEntry],
        trust: &[TrustEntry],
        https: &[StoreEntry],
        passwords: &StorePasswords,
        format: StoreFormat,
    ) -> Result<Vec<String>> {
        let mut left_out = Vec::new();
        // All in memory before the first is on disk: an error leaves the old three untouched.
        let files = [
            (IDENTITY_FILE, format.store(identity, &[], &passwords.identity, &mut left_out)?),
            (TRUST_FILE, format.store(&[], trust, &passwords.trust, &mut left_out)?),
            (HTTPS_FILE, format.store(https, &[], &passwords.https, &mut left_out)?),
        ];
        for (name, bytes) in &files {
            self.stores.replace(name, bytes)?;
        }
        let dir = &self.stores.dir;
        sync_dir(dir).map_err(Error::io("sync", dir))?;
        Ok(left_out)
    }
}

impl StoreFormat {
    fn store(self, keys: &[StoreEntry], trusted: &[TrustEntry], password: &str, left_out: &mut Vec<String>) -> Result<Zeroizing<Vec<u8>>> {
        check_aliases(keys.iter().map(|k| &k.alias).chain(trusted.iter().map(|t| &t.alias)))?;
        let is_read = |entry: &&StoreEntry| entry.chain.iter().all(|certificate| java_reads(certificate));
        let (keys, odd): (Vec<_>, Vec<_>) = keys.iter().partition(is_read);
        left_out.extend(odd.into_iter().map(|entry| entry.alias.clone()));
        let (trusted, odd): (Vec<_>, Vec<_>) = trusted.iter().partition(|entry| java_reads(&entry.certificate));
        left_out.extend(odd.into_iter().map(|entry| entry.alias.clone()));
        match self {
            StoreFormat::Pkcs12 => pkcs12_store(&keys, &trusted, password),
            StoreFormat::Jks => jks_store(&keys, &trusted, password),
        }
        .map(Zeroizing::new)
    }
}

/// Java gives the whole store up for one certificate that it cannot read, that names no issuer, or whose curve has no name.
fn java_reads(certificate: &[u8]) -> bool {
    CertInfo::from_der(certificate).is_ok_and(|info| !info.issuer.is_empty()) && !spells_curve_out(certificate)
}

fn pkcs12_store(keys: &[&StoreEntry], trusted: &[&TrustEntry], password: &str) -> Result<Vec<u8>> {
    let mut store = pkcs12::Writer::new();
    for entry in keys {
        store.add_key(&entry.alias, &entry.pkcs8, &entry.chain)?;
    }
    for entry in trusted {
        store.add_certificate(&entry.alias, &entry.certificate)?;
    }
    store.write(password, ITERATIONS)
}

fn jks_store(keys: &[&StoreEntry], trusted: &[&TrustEntry], password: &str) -> Result<Vec<u8>> {
    let mut store = jks::Writer::default();
    for entry in keys {
        store.add_key(&entry.alias, &entry.pkcs8, &entry.chain, password)?;
    }
    for entry in trusted {
        store.add_certificate(&entry.alias, &entry.certificate)?;
    }
    Ok(store.write(password))
}

/// Java compares aliases in lower case and silently keeps the last of two equal ones.
fn check_aliases<'a>(aliases: impl Iterator<Item = &'a String>) -> Result<()> {
    let mut known = HashSet::new();
    for alias in aliases {
        if alias.is_empty() || !known.insert(alias.to_lowercase()) {
            return Err(Error::Unsupported(format!(
                "two entries of a key store are called {alias:?}, or one has no name; rename one"
            )));
        }
    }
    Ok(())
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// Makes a new name in the directory of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => sync_dir(dir),
        _ => sync_dir(Path::new(".")),
    }
}
