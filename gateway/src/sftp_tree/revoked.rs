//! Keys and certificates that count no more (`sftp.revoked_keys`): a text, or OpenSSH's binary list. Read again when the file
//! changes. While it cannot be read, nobody logs in with a key; sessions that are open go on as the last good list lets them,
//! so that a file which is just being written ends nobody's upload.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use keystore::ssh::Revocations;
use sftp_front::PublicKey;

use crate::lock::locked;

/// Largest list, in bytes; in memory it takes a few times as much.
const MAX_BYTES: u64 = 4 << 20;

/// The file and what stood in it.
pub(super) struct Revoked {
    file: Option<PathBuf>,
    read: Mutex<LastRead>,
}

/// What was read last.
#[derive(Default)]
struct LastRead {
    seen: Option<Version>,
    /// The last good list.
    list: Revocations,
    /// Which of them it is.
    number: u64,
    /// Why the file as it is cannot be used.
    fault: Option<String>,
}

/// By what a changed file is known, whichever way it was put there.
#[derive(PartialEq, Eq)]
struct Version {
    changed: Option<SystemTime>,
    size: u64,
    inode: u64,
}

impl Version {
    fn of(facts: &Metadata) -> Self {
        Version {
            changed: facts.modified().ok(),
            size: facts.len(),
            inode: facts.ino(),
        }
    }
}

impl Revoked {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Revoked {
            file,
            read: Mutex::default(),
        }
    }

    /// Why this key or certificate logs nobody in, if it does not.
    pub(super) fn reason(&self, key: &PublicKey) -> Option<String> {
        let file = self.file.as_deref()?;
        let read = self.refreshed(file);
        if read.fault.is_some() {
            return Some("the list of revoked keys cannot be read".to_owned());
        }
        reason(&read.list, key)
    }

    /// Why a session that this key or certificate has opened must end, if it must.
    pub(super) fn reason_to_end(&self, key: &PublicKey) -> Option<String> {
        let file = self.file.as_deref()?;
        reason(&self.refreshed(file).list, key)
    }

    /// The number of the list that counts: another one, and sessions have to be judged again.
    pub(super) fn number(&self) -> u64 {
        self.file.as_deref().map_or(0, |file| self.refreshed(file).number)
    }

    fn refreshed(&self, file: &Path) -> MutexGuard<'_, LastRead> {
        let mut read = locked(&self.read);
        let before = read.fault.take();
        read.fault = refresh(file, &mut read, before.as_deref()).err();
        if let Some(error) = read.fault.as_deref().filter(|error| Some(*error) != before.as_deref()) {
            tracing::error!(error, file = %file.display(), "cannot read sftp.revoked_keys; nobody logs in with a key");
        } else if read.fault.is_none() && before.is_some() {
            tracing::info!(file = %file.display(), "sftp.revoked_keys can be read again");
        }
        read
    }
}

/// Takes the file if it has changed. `before` is what was wrong with it as it was.
fn refresh(file: &Path, read: &mut LastRead, before: Option<&str>) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    let version = Version::of(&std::fs::metadata(file).map_err(told)?);
    if read.seen.as_ref() == Some(&version) {
        return before.map_or(Ok(()), |fault| Err(fault.to_owned()));
    }
    read.seen = None;
    let opened = File::open(file).map_err(told)?;
    let version = Version::of(&opened.metadata().map_err(told)?);
    let mut bytes = Vec::new();
    opened.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(told)?;
    read.seen = Some(version);
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    read.list = Revocations::parse(&bytes)?;
    read.number += 1;
    Ok(())
}

/// Reads a list, for `check`.
///
/// # Errors
/// What cannot be read or understood, in one line: it may be what somebody relies on.
pub fn check(file: &Path) -> Result<(), String> {
    refresh(file, &mut LastRead::default(), None)
}

fn reason(list: &Revocations, key: &PublicKey) -> Option<String> {
    if list.has_key(&key.blob) {
        return Some("the key is revoked".to_owned());
    }
    let certificate = key.certificate.as_ref()?;
    if list.has_key(&certificate.authority_blob) {
        return Some("the authority's key is revoked".to_owned());
    }
    let revoked = list.has_certificate(&certificate.authority_blob, certificate.serial, &certificate.key_id);
    revoked.then(|| "the certificate is revoked".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_list_that_cannot_be_read_refuses_everything_and_a_changed_one_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("revoked");
        let key = PublicKey {
            algorithm: String::new(),
            blob: b"abc".to_vec(),
            openssh: String::new(),
            fingerprint: String::new(),
            certificate: None,
            presence: None,
        };
        let revoked = Revoked::new(Some(file.clone()));
        assert!(revoked.reason(&key).unwrap().contains("cannot be read"));
        assert_eq!(revoked.reason_to_end(&key), None);
        std::fs::write(&file, "serial: 1\n").unwrap();
        assert_eq!(revoked.reason(&key), None);
        // SHA-256 of "abc".
        std::fs::write(&file, "serial: 1\nSHA256:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0\n").unwrap();
        assert!(revoked.reason(&key).unwrap().contains("revoked"));
        // What is being written ends no session but those that the last good list ends, and lets nobody in.
        for torn in ["", "serial: 1\nSHA"] {
            std::fs::write(&file, torn).unwrap();
            for _ in 0..2 {
                assert!(revoked.reason(&key).unwrap().contains("cannot be read"), "{torn:?}");
                assert!(revoked.reason_to_end(&key).unwrap().contains("revoked"), "{torn:?}");
            }
        }
        std::fs::write(&file, "# none\n").unwrap();
        assert_eq!((revoked.reason(&key), revoked.reason_to_end(&key)), (None, None));
        assert_eq!((revoked.number(), revoked.number()), (3, 3), "good lists, not tries");
        std::fs::File::create(&file).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert!(check(&file).unwrap_err().contains("larger"));
        assert_eq!(Revoked::new(None).reason(&key), None);
    }
}
