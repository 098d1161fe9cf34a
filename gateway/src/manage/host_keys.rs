//! The server's SSH keys: one file per kind below `DATA/host-keys`, made once and then kept, for clients remember them.
//!
//! A new key is made ahead, beside the one in use, and announced; clients that know OpenSSH's `hostkeys-00` learn it at their
//! next login. When it takes over, the old one is put aside and no longer announced. A running server follows the files.

use std::path::{Path, PathBuf};

use keystore::ssh::{KeyFormat, KeyKind, convert, host_key};
use zeroize::Zeroizing;

use super::{Refusal, Result, make_dir, write_new};
use crate::config::Config;

/// Largest host key file read, in bytes.
const MAX_KEY_FILE: u64 = 64 << 10;

/// What a key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKeyState {
    /// The server shows who it is with it.
    Current,
    /// It is announced, to take over later.
    Next,
}

impl HostKeyState {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            HostKeyState::Current => "current",
            HostKeyState::Next => "next",
        }
    }
}

/// A host key. No `Debug`: it is secret.
pub struct HostKey {
    /// In use or to come.
    pub state: HostKeyState,
    /// `ed25519`, `ecdsa`, `rsa`.
    pub kind: String,
    /// `SHA256:…`, what a client shows at the first connection.
    pub fingerprint: String,
    /// Its file.
    pub path: PathBuf,
    /// The private key in OpenSSH's format.
    pub private: Zeroizing<String>,
}

/// Makes the configured host keys that are not there yet, mode 0600; their kinds.
///
/// # Errors
/// The disk's.
pub fn create_missing(config: &Config) -> Result<Vec<String>> {
    let dir = config.paths().host_keys;
    make_dir(&dir)?;
    let is_missing = |kind: &&String| !file_of(&dir, kind, HostKeyState::Current).exists();
    let missing: Vec<String> = config.sftp.host_keys.iter().filter(is_missing).cloned().collect();
    missing.iter().try_for_each(|kind| create(&dir, kind, HostKeyState::Current))?;
    Ok(missing)
}

/// The host keys that are there, without making any: those in use first.
///
/// # Errors
/// A file that cannot be read or is no private key.
pub fn load(config: &Config) -> Result<Vec<HostKey>> {
    placed_keys(config).map(|(file, kind, state)| read(&file, kind, state)).collect()
}

/// Their files, which need not be ones that can be read.
pub fn files(config: &Config) -> impl Iterator<Item = PathBuf> {
    placed_keys(config).map(|(file, ..)| file)
}

fn placed_keys(config: &Config) -> impl Iterator<Item = (PathBuf, &str, HostKeyState)> {
    let dir = config.paths().host_keys;
    let states = [HostKeyState::Current, HostKeyState::Next].into_iter();
    let all = states.flat_map(move |state| {
        let dir = dir.clone();
        let kinds = config.sftp.host_keys.iter();
        kinds.map(move |kind| (file_of(&dir, kind, state), kind.as_str(), state))
    });
    all.filter(|(file, ..)| file.exists())
}

/// Makes the next key of a kind, to be announced.
///
/// # Errors
/// A kind that is not configured, or whose next key is there already.
pub fn add(config: &Config, kind: &str, dry_run: bool) -> Result<Option<HostKey>> {
    let file = placed(config, kind, HostKeyState::Next)?;
    if file.exists() {
        return Err(Refusal::exists(
            format!("cannot make another {kind} host key"),
            format!("{} waits to take over already", file.display()),
            format!("as2gate key host rotate {kind}, or as2gate key host rm {kind}"),
        ));
    }
    if dry_run {
        return Ok(None);
    }
    create(&config.paths().host_keys, kind, HostKeyState::Next)?;
    read(&file, kind, HostKeyState::Next).map(Some)
}

/// Lets the next key of a kind take over; the old one is put aside, where nothing uses it.
///
/// # Errors
/// When there is no next key, or the disk refuses.
pub fn rotate(config: &Config, kind: &str, dry_run: bool) -> Result<HostKey> {
    let (next, current) = (
        placed(config, kind, HostKeyState::Next)?,
        placed(config, kind, HostKeyState::Current)?,
    );
    let key = existing(&next, kind)?;
    if !dry_run {
        let cannot = |error: &std::io::Error| Refusal::from_io(format!("cannot put {} in its place", next.display()), error);
        let aside = current.with_extension("old");
        // A link first: at no moment there is no key in use.
        let _ = std::fs::remove_file(&aside);
        match std::fs::hard_link(&current, &aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(cannot(&error)),
            _ => {}
        }
        std::fs::rename(&next, &current)
            .and_then(|()| sync(&current))
            .map_err(|error| cannot(&error))?;
    }
    Ok(key)
}

/// Drops the next key of a kind.
///
/// # Errors
/// When there is none.
pub fn remove(config: &Config, kind: &str, dry_run: bool) -> Result<HostKey> {
    let next = placed(config, kind, HostKeyState::Next)?;
    let key = existing(&next, kind)?;
    if !dry_run {
        let removed = std::fs::remove_file(&next).and_then(|()| sync(&next));
        removed.map_err(|error| Refusal::from_io(format!("cannot remove {}", next.display()), &error))?;
    }
    Ok(key)
}

fn existing(next: &Path, kind: &str) -> Result<HostKey> {
    if !next.exists() {
        return Err(Refusal::not_found(
            format!("there is no next {kind} host key"),
            "one has to be made and announced first",
            format!("as2gate key host add {kind}"),
        ));
    }
    read(next, kind, HostKeyState::Next)
}

/// The file of a configured kind.
fn placed(config: &Config, kind: &str, state: HostKeyState) -> Result<PathBuf> {
    if !config.sftp.host_keys.iter().any(|known| known == kind) {
        return Err(Refusal::usage(
            format!("no host key of type {}", kind.escape_default()),
            format!("sftp.host_keys has {}", config.sftp.host_keys.join(", ")),
            "give one of these, or add it there",
        ));
    }
    Ok(file_of(&config.paths().host_keys, kind, state))
}

fn file_of(dir: &Path, kind: &str, state: HostKeyState) -> PathBuf {
    let file = dir.join(format!("ssh_host_{kind}_key"));
    match state {
        HostKeyState::Current => file,
        HostKeyState::Next => file.with_extension("next"),
    }
}

fn sync(file: &Path) -> std::io::Result<()> {
    std::fs::File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
}

fn create(dir: &Path, kind: &str, state: HostKeyState) -> Result<()> {
    let path = file_of(dir, kind, state);
    let cannot = |error: &keystore::Error| Refusal::from_keystore(format!("cannot make an SSH host key of type {kind}"), error);
    let key = kind.parse::<KeyKind>().and_then(host_key).map_err(|error| cannot(&error))?;
    // Under another name first: a crash leaves no half of a key, and of two processes one wins.
    let fresh = dir.join(format!(".ssh_host_{kind}_key.{}", std::process::id()));
    let written = write_new(&fresh, key.private.as_bytes(), 0o600).and_then(|()| match std::fs::hard_link(&fresh, &path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    });
    let _ = std::fs::remove_file(&fresh);
    let synced = written.and_then(|()| sync(&path));
    synced.map_err(|error| Refusal::from_io(format!("cannot write {}", path.display()), &error))
}

fn read(path: &Path, kind: &str, state: HostKeyState) -> Result<HostKey> {
    let cannot = |error: &std::io::Error| Refusal::from_io(format!("cannot read the host key {}", path.display()), error);
    if std::fs::metadata(path).map_err(|error| cannot(&error))?.len() > MAX_KEY_FILE {
        return Err(Refusal::invalid(
            format!("cannot use the host key {}", path.display()),
            "the file is too large",
            "restore it from the backup",
        ));
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| cannot(&error))?);
    // Whoever brings the keys of another server has them in any form.
    let key = convert(&text, None, KeyFormat::Openssh, None);
    let key = key.map_err(|error| Refusal::from_keystore(format!("cannot use the host key {}", path.display()), &error))?;
    Ok(HostKey {
        state,
        kind: kind.to_owned(),
        fingerprint: key.fingerprint,
        path: path.to_owned(),
        private: key.private,
    })
}
