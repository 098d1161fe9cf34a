//! The last MDNs for messages that were never sent: kept for whoever has to find out what a partner's system means by them
//! (security.md §4). They prove nothing and are no records, so no row names them and nothing waits for the disk.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::{Context as _, Result, make_dir};
use crate::clock::Millis;
use crate::lock::locked;

/// How many are kept.
const KEPT: usize = 16;
/// Shortest time between two that are kept, in milliseconds: a flood costs its lines in the log and no writes.
const PAUSE: Millis = 1_000;

/// `DATA/unknown-mdn`.
pub struct UnknownMdns {
    dir: PathBuf,
    /// When the last one was kept.
    last: Mutex<Millis>,
}

impl UnknownMdns {
    pub(super) fn new(data: &Path) -> Self {
        UnknownMdns {
            dir: data.join("unknown-mdn"),
            last: Mutex::new(Millis::MIN / 2),
        }
    }

    /// Keeps one, as header block, blank line and body, and lets the oldest ones beyond the last sixteen go. Its file, or
    /// nothing if one was kept less than a second ago.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(&self, bytes: &[u8], now: Millis) -> Result<Option<PathBuf>> {
        let mut last = locked(&self.last);
        if (*last..last.saturating_add(PAUSE)).contains(&now) {
            return Ok(None);
        }
        *last = now;
        make_dir(&self.dir)?;
        // Names of one length sort by time.
        let path = self.dir.join(format!("{now:015}.mdn"));
        let written = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path);
        written
            .and_then(|mut file| file.write_all(bytes))
            .context(|| format!("cannot write {}", path.display()))?;
        let listed = fs::read_dir(&self.dir).context(|| format!("cannot list {}", self.dir.display()))?;
        let mut names: Vec<PathBuf> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
        names.sort();
        for old in names.iter().take(names.len().saturating_sub(KEPT)) {
            fs::remove_file(old).context(|| format!("cannot remove {}", old.display()))?;
        }
        Ok(Some(path))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_last_sixteen_are_kept_and_a_flood_is_not() {
        let data = tempfile::tempdir().unwrap();
        let kept = UnknownMdns::new(data.path());
        let began = 1_790_000_000_000;
        for n in 0..40 {
            let now = began + n * PAUSE;
            let path = kept.keep(n.to_string().as_bytes(), now).unwrap().unwrap();
            assert_eq!(fs::read(path).unwrap(), n.to_string().as_bytes());
            assert_eq!(kept.keep(b"flood", now + PAUSE - 1).unwrap(), None);
        }
        let mut texts: Vec<u32> = fs::read_dir(data.path().join("unknown-mdn"))
            .unwrap()
            .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap().parse().unwrap())
            .collect();
        texts.sort_unstable();
        assert_eq!(texts, (24..40).collect::<Vec<_>>());
        // A clock that was set back stops nothing.
        assert!(kept.keep(b"41", began - 1).unwrap().is_some());
    }
}
