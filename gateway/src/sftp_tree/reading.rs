//! A file of the tree that is being read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use sftp_front::{Download, Fault, Stat, VPath, Way};

use super::pace::Pace;
use super::trail::Trail;
use super::tree::{As2Tree, elapsed};
use super::{failure, now};
use crate::gateway::Core;
use crate::storage::Content;

/// An open file of the tree.
pub(super) struct Reading {
    core: Arc<Core>,
    trail: Arc<Trail>,
    pace: Arc<Pace>,
    account: String,
    user: String,
    session: u64,
    path: String,
    begun: Instant,
    bytes: AtomicU64,
    content: Content,
    stat: Stat,
}

impl Reading {
    pub(super) fn of(tree: &As2Tree, path: &VPath, content: Content, stat: Stat) -> Box<dyn Download> {
        Box::new(Reading {
            core: Arc::clone(&tree.core),
            trail: Arc::clone(&tree.trail),
            pace: Arc::clone(&tree.pace),
            account: tree.account.clone(),
            user: tree.user.clone(),
            session: tree.session,
            path: path.to_string(),
            begun: Instant::now(),
            bytes: AtomicU64::new(0),
            content,
            stat,
        })
    }
}

impl Download for Reading {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Fault> {
        let n = self.content.read_at(offset, buf).map_err(failure)?;
        self.bytes.fetch_add(u64::try_from(n).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(n)
    }

    fn pause(&self, bytes: usize) -> Duration {
        let objects = self.core.objects();
        let rate = objects.user_of(&self.account, &self.user).map_or(0, |user| user.bandwidth);
        self.pace.pause(Way::Out, bytes, rate)
    }

    fn stat(&self) -> Result<Stat, Fault> {
        Ok(Stat {
            size: self.content.len(),
            ..self.stat
        })
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let facts = json!({
            "path": self.path, "bytes": self.bytes.load(Ordering::Relaxed), "size": self.content.len(), "millis": elapsed(self.begun),
            "session": self.session,
        });
        self.trail.add("user.download", &self.account, &self.user, facts, now(&self.core));
    }
}
