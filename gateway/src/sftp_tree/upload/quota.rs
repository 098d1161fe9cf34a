//! What a user may have in `send`: looked at when a file is opened, and while it grows beside others of the same user.

use sftp_front::{Fault, OpenHow};

use super::Writing;
use crate::layout;
use crate::message::State;
use crate::sftp_tree::failure;
use crate::sftp_tree::sending::{SendPath, Sent};
use crate::sftp_tree::tree::As2Tree;

/// Whether the user may have this file in `send`; one that takes the place of its own former one is no new one. Looked at
/// before anything is moved: a refusal leaves a part as it was.
pub(super) fn check_quotas(tree: &As2Tree, at: &SendPath, how: &OpenHow) -> Result<(), Fault> {
    let objects = tree.core.objects();
    let Some(user) = objects.user_of(&tree.account, &tree.user) else {
        return Ok(());
    };
    if user.quota_files == 0 && user.quota_bytes == 0 {
        return Ok(());
    }
    let (files, bytes) = tree
        .core
        .journal
        .read(|tx| tx.send_usage(&tree.account, &tree.user))
        .map_err(failure)?;
    let (live_files, live_bytes) = tree.desk.live_total(&tree.user);
    let former = match tree.sent(at)? {
        Sent::Waits(row) if row.owner == tree.user => Some(row.size),
        Sent::Message(message) if message.detail.user == tree.user && message.state == State::Queued => Some(message.size),
        _ => None,
    };
    let quota = user.quota_files;
    if quota > 0 && former.is_none() && files.saturating_add(live_files) >= quota {
        return Err(Fault::Failure(format!("over the quota of {quota} files in send (quota_files)")));
    }
    let quota = user.quota_bytes;
    let taken = bytes.saturating_add(live_bytes).saturating_sub(former.unwrap_or(0));
    if quota > 0 && (taken >= quota || taken.saturating_add(how.declared_size.unwrap_or(0)) > quota) {
        return Err(over_quota(quota, taken));
    }
    Ok(())
}

impl Writing {
    /// Looks again at what else of its user lies in `send`.
    pub(super) fn count_others(&mut self) -> Result<(), Fault> {
        if self.quota() == 0 {
            return Ok(());
        }
        let former = self.replaces.as_ref();
        let name = former.map_or(&self.at.name, |row| &row.name);
        let (taken, now) = self
            .core
            .journal
            .read(|tx| {
                let now = tx.own_uploads(&self.account, &self.at.station, &self.at.partner, name, &self.user)?;
                Ok((tx.send_usage(&self.account, &self.user)?.1, now))
            })
            .map_err(failure)?;
        // Another upload of the name may have ended meanwhile: what waits there now goes only if this one comes to wait there
        // too, or goes on with it.
        let waits = *name == self.at.name && layout::matches_any(name, &self.core.config.uploads.temp_names);
        let goes = waits || former.is_some_and(|former| now.iter().any(|row| row.store == former.store));
        let freed: u64 = if goes { now.iter().map(|row| row.size).sum() } else { 0 };
        self.others = taken.saturating_sub(freed);
        Ok(())
    }

    pub(super) fn quota(&self) -> u64 {
        self.core
            .objects()
            .user_of(&self.account, &self.user)
            .map_or(0, |user| user.quota_bytes)
    }

    /// Whether this file may have `size` bytes beside the others of its user.
    pub(super) fn check_quota(&mut self, size: u64) -> Result<(), Fault> {
        let quota = self.quota();
        if quota == 0 || self.beside()?.saturating_add(size) <= quota {
            return Ok(());
        }
        // Something may have been sent or removed since the last look.
        self.count_others()?;
        let beside = self.beside()?;
        if beside.saturating_add(size) > quota {
            return Err(over_quota(quota, beside));
        }
        Ok(())
    }

    /// Bytes of the user's other files.
    fn beside(&mut self) -> Result<u64, Fault> {
        let (_, live) = self.desk.live_total(&self.user);
        // Looked at behind the above: one that has ended since then counts twice for a moment, and never not at all.
        if self.live.is_stale() {
            self.count_others()?;
        }
        Ok(self.others.saturating_add(live.saturating_sub(self.live.get())))
    }
}

fn over_quota(quota: u64, taken: u64) -> Fault {
    Fault::Failure(format!("over the quota of {quota} bytes in send (quota_bytes); {taken} are taken"))
}
