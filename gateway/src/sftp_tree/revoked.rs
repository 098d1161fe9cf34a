//! Keys and certificates that count no more (`sftp.revoked_keys`): a text in the manner of `ssh-keygen`'s KRL
//! specifications. Read again when the file changes; while it cannot be read, nobody logs in with a key.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use sftp_front::PublicKey;

/// Largest list, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// What is revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct List {
    /// Fingerprints, `SHA256:…`, of users' and authorities' keys.
    keys: Vec<String>,
    /// Serial numbers from one to another.
    serials: Vec<(u64, u64)>,
    /// Ids of certificates.
    ids: Vec<String>,
}

/// The file and what stood in it.
pub(super) struct Revoked {
    file: Option<PathBuf>,
    read: Mutex<Option<(SystemTime, u64, List)>>,
}

impl Revoked {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Revoked {
            file,
            read: Mutex::new(None),
        }
    }

    /// Why this key or certificate does not count, if it does not.
    pub(super) fn reason(&self, key: &PublicKey) -> Option<String> {
        let file = self.file.as_deref()?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match refresh(file, &mut read) {
            Ok(list) => list.reason(key),
            Err(error) => {
                tracing::error!(%error, file = %file.display(), "cannot read sftp.revoked_keys; nobody logs in with a key");
                Some("the list of revoked keys cannot be read".to_owned())
            }
        }
    }
}

fn refresh<'a>(file: &Path, read: &'a mut Option<(SystemTime, u64, List)>) -> Result<&'a List, String> {
    let facts = std::fs::metadata(file).map_err(|error| error.to_string())?;
    let (changed, size) = (facts.modified().map_err(|error| error.to_string())?, facts.len());
    if size > MAX_BYTES {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    if read.as_ref().is_none_or(|(at, bytes, _)| (*at, *bytes) != (changed, size)) {
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
        *read = Some((changed, size, parse(&text)?));
    }
    read.as_ref().map(|(_, _, list)| list).ok_or_else(String::new)
}

/// Reads a list; the error names the line.
///
/// # Errors
/// A line that says nothing that is known: it may be one that somebody relies on.
pub fn check(file: &Path) -> Result<(), String> {
    refresh(file, &mut None).map(drop)
}

fn parse(text: &str) -> Result<List, String> {
    let mut list = List::default();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || {
            format!(
                "line {}: neither a public key, SHA256:…, serial: N[-M], id: NAME, key: LINE nor sha256: …",
                at + 1
            )
        };
        let (word, rest) = line.split_once(':').map_or(("", line), |(word, rest)| (word, rest.trim()));
        match word.to_ascii_lowercase().as_str() {
            "serial" => {
                let (first, last) = rest.split_once('-').unwrap_or((rest, rest));
                let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
                list.serials.push((number(first)?, number(last)?));
            }
            "id" if !rest.is_empty() => list.ids.push(rest.to_owned()),
            "sha256" => list
                .keys
                .push(format!("SHA256:{}", rest.trim_start_matches("SHA256:").trim_end_matches('='))),
            "key" => list.keys.extend(fingerprints(rest).ok_or_else(wrong)?),
            _ => list.keys.extend(fingerprints(line).ok_or_else(wrong)?),
        }
    }
    Ok(list)
}

fn fingerprints(line: &str) -> Option<Vec<String>> {
    let keys = keystore::ssh::parse_public(line).ok()?;
    Some(keys.into_iter().map(|key| key.fingerprint).collect())
}

impl List {
    fn reason(&self, key: &PublicKey) -> Option<String> {
        if self.keys.contains(&key.fingerprint) {
            return Some("the key is revoked".to_owned());
        }
        let certificate = key.certificate.as_ref()?;
        if self.keys.contains(&certificate.authority_fingerprint) {
            return Some("the authority's key is revoked".to_owned());
        }
        let numbered = |(first, last): &(u64, u64)| (*first..=*last).contains(&certificate.serial);
        if self.serials.iter().any(numbered) || self.ids.contains(&certificate.key_id) {
            return Some("the certificate is revoked".to_owned());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lists_are_read_line_by_line() {
        let list = parse("# gone\n\nserial: 7\nserial: 10-12\nid: bob at acme\nSHA256:abc\nsha256: SHA256:def=\n").unwrap();
        assert_eq!(list.serials, [(7, 7), (10, 12)]);
        assert_eq!(list.ids, ["bob at acme"]);
        assert_eq!(list.keys, ["SHA256:abc", "SHA256:def"]);
        for wrong in ["serial: x", "nonsense", "key: nonsense", "id:"] {
            assert!(
                parse(&format!("serial: 1\n{wrong}\n")).unwrap_err().starts_with("line 2"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_list_that_cannot_be_read_refuses_everything_and_a_changed_one_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("revoked");
        let key = PublicKey {
            algorithm: String::new(),
            blob: Vec::new(),
            openssh: String::new(),
            fingerprint: "SHA256:abc".to_owned(),
            certificate: None,
            presence: None,
        };
        let revoked = Revoked::new(Some(file.clone()));
        assert!(revoked.reason(&key).unwrap().contains("cannot be read"));
        std::fs::write(&file, "serial: 1\n").unwrap();
        assert_eq!(revoked.reason(&key), None);
        std::fs::write(&file, "serial: 1\nSHA256:abc\n").unwrap();
        assert!(revoked.reason(&key).unwrap().contains("revoked"));
        assert_eq!(Revoked::new(None).reason(&key), None);
    }
}
