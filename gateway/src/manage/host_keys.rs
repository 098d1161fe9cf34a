//! The server's SSH keys: one file per kind below `DATA/host-keys`, made once and then kept, for clients remember them.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use keystore::ssh::{KeyKind, host_key, show};
use zeroize::Zeroizing;

use super::{Refusal, Result};
use crate::config::Config;

/// Largest host key file read, in bytes.
const MAX_KEY_FILE: u64 = 64 << 10;

/// A host key. No `Debug`: it is secret.
pub struct HostKey {
    /// `ed25519`, `ecdsa`, `rsa`.
    pub kind: String,
    /// `SHA256:…`, what a client shows at the first connection.
    pub fingerprint: String,
    /// Its file.
    pub path: PathBuf,
    /// The private key in OpenSSH's format.
    pub private: Zeroizing<String>,
}

/// The configured host keys; those that are not there yet are made, mode 0600.
///
/// # Errors
/// The disk's, or a file that is no private key.
pub fn load_or_create(config: &Config) -> Result<Vec<HostKey>> {
    let dir = config.paths().host_keys;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.map_err(|error| Refusal::from_io(format!("cannot make {}", dir.display()), &error))?;
    config.sftp.host_keys.iter().map(|kind| load_or_create_one(&dir, kind)).collect()
}

/// The host keys that are there, without making any.
///
/// # Errors
/// A file that cannot be read or is no private key.
pub fn load(config: &Config) -> Result<Vec<HostKey>> {
    let dir = config.paths().host_keys;
    let kinds = config.sftp.host_keys.iter().filter(|kind| file_of(&dir, kind).exists());
    kinds.map(|kind| read(&file_of(&dir, kind), kind)).collect()
}

fn file_of(dir: &Path, kind: &str) -> PathBuf {
    dir.join(format!("ssh_host_{kind}_key"))
}

fn load_or_create_one(dir: &Path, kind: &str) -> Result<HostKey> {
    let path = file_of(dir, kind);
    if path.exists() {
        return read(&path, kind);
    }
    let cannot = |error: &keystore::Error| Refusal::from_keystore(format!("cannot make an SSH host key of type {kind}"), error);
    let key = kind.parse::<KeyKind>().and_then(host_key).map_err(|error| cannot(&error))?;
    // Under another name first: a crash leaves no half of a key, and of two processes one wins.
    let fresh = dir.join(format!(".ssh_host_{kind}_key.{}", std::process::id()));
    let written = write_new(&fresh, &key.private, 0o600).and_then(|()| match std::fs::hard_link(&fresh, &path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    });
    let _ = std::fs::remove_file(&fresh);
    let synced = written.and_then(|()| std::fs::File::open(dir)?.sync_all());
    synced.map_err(|error| Refusal::from_io(format!("cannot write {}", path.display()), &error))?;
    read(&path, kind)
}

fn read(path: &Path, kind: &str) -> Result<HostKey> {
    let cannot = |error: &std::io::Error| Refusal::from_io(format!("cannot read the host key {}", path.display()), error);
    if std::fs::metadata(path).map_err(|error| cannot(&error))?.len() > MAX_KEY_FILE {
        return Err(Refusal::invalid(
            format!("cannot use the host key {}", path.display()),
            "the file is too large",
            "restore it from the backup",
        ));
    }
    let private = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| cannot(&error))?);
    let shown =
        show(&private, None).map_err(|error| Refusal::from_keystore(format!("cannot use the host key {}", path.display()), &error))?;
    let fingerprint = shown.into_iter().next().map(|key| key.fingerprint).unwrap_or_default();
    Ok(HostKey {
        kind: kind.to_owned(),
        fingerprint,
        path: path.to_owned(),
        private,
    })
}

/// Writes a new file with this mode, durably; never over another.
pub(crate) fn write_new(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
