//! Directories, page by page.

use std::collections::HashSet;
use std::sync::Arc;

use sftp_front::{Entry, Fault, Kind, Listing, Stat};

use super::failure;
use crate::gateway::Core;
use crate::journal;

/// Largest page asked of the journal at once.
const MAX_PAGE: usize = 1_000;

/// A directory's attributes.
pub(super) fn dir_stat(mtime: u64) -> Stat {
    Stat {
        kind: Kind::Dir,
        size: 4096,
        mtime,
        mode: 0o755,
    }
}

/// A file's attributes; `mode` says whether it may be written.
pub(super) fn file_stat(size: u64, mtime: u64, mode: u32) -> Stat {
    Stat {
        kind: Kind::File,
        size,
        mtime,
        mode,
    }
}

/// Milliseconds as the seconds that SFTP v3 knows.
pub(super) fn seconds(at: i64) -> u64 {
    u64::try_from(at / 1000).unwrap_or(0)
}

/// A few names that were known at once.
pub(super) struct Names(std::vec::IntoIter<Entry>);

impl Names {
    pub(super) fn of(entries: Vec<Entry>) -> Box<dyn Listing> {
        Box::new(Names(entries.into_iter()))
    }

    pub(super) fn dirs(names: impl IntoIterator<Item = String>, mtime: u64) -> Box<dyn Listing> {
        Names::of(
            names
                .into_iter()
                .map(|name| Entry {
                    name,
                    stat: dir_stat(mtime),
                })
                .collect(),
        )
    }
}

impl Listing for Names {
    fn next(&mut self, max: usize) -> Result<Vec<Entry>, Fault> {
        Ok(self.0.by_ref().take(max).collect())
    }
}

/// A directory of records.
pub(super) struct Records {
    core: Arc<Core>,
    account: String,
    parent: String,
    after: String,
}

impl Records {
    pub(super) fn of(core: Arc<Core>, account: &str, parent: String) -> Box<dyn Listing> {
        Box::new(Records {
            core,
            account: account.to_owned(),
            parent,
            after: String::new(),
        })
    }
}

impl Listing for Records {
    fn next(&mut self, max: usize) -> Result<Vec<Entry>, Fault> {
        let limit = u32::try_from(max.min(MAX_PAGE)).unwrap_or(u32::MAX);
        let page = self
            .core
            .journal
            .read(|tx| tx.entries(&self.account, &self.parent, &self.after, limit))
            .map_err(failure)?;
        if let Some(last) = page.last() {
            self.after.clone_from(&last.name);
        }
        Ok(page
            .into_iter()
            .map(|entry| Entry {
                stat: entry_stat(&entry),
                name: entry.name,
            })
            .collect())
    }
}

/// A record's attributes.
pub(super) fn entry_stat(entry: &journal::Entry) -> Stat {
    if entry.is_dir {
        dir_stat(seconds(entry.created))
    } else {
        file_stat(entry.size, seconds(entry.created), 0o440)
    }
}

/// A send directory: first what is no message, then the messages in work.
pub(super) struct Sends {
    core: Arc<Core>,
    account: String,
    station: String,
    partner: String,
    first: std::vec::IntoIter<Entry>,
    shown: HashSet<String>,
    after: String,
}

impl Sends {
    /// `shown` are the names of the `first`.
    pub(super) fn of(
        core: Arc<Core>,
        account: &str,
        station: String,
        partner: String,
        first: Vec<Entry>,
        shown: HashSet<String>,
    ) -> Box<dyn Listing> {
        Box::new(Sends {
            core,
            account: account.to_owned(),
            station,
            partner,
            first: first.into_iter(),
            shown,
            after: String::new(),
        })
    }
}

impl Listing for Sends {
    fn next(&mut self, max: usize) -> Result<Vec<Entry>, Fault> {
        let first: Vec<Entry> = self.first.by_ref().take(max).collect();
        if !first.is_empty() {
            return Ok(first);
        }
        loop {
            let limit = u32::try_from(max.min(MAX_PAGE)).unwrap_or(u32::MAX);
            let read = self
                .core
                .journal
                .read(|tx| tx.send_listing(&self.account, &self.station, &self.partner, &self.after, limit));
            let page = read.map_err(failure)?;
            let Some(last) = page.last() else { return Ok(Vec::new()) };
            self.after.clone_from(&last.name);
            let entries: Vec<Entry> = page
                .into_iter()
                .filter(|sent| !self.shown.contains(&sent.name))
                .map(|sent| Entry {
                    name: sent.name,
                    stat: file_stat(sent.size, seconds(sent.created), 0o640),
                })
                .collect();
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
    }
}
