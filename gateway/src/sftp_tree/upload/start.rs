//! What an upload begins with: nothing, a part that its user goes on with, or an accepted file that is taken back.

use std::sync::Arc;

use sftp_front::{Fault, OpenHow};

use super::{ROOM_EVERY, told};
use crate::gateway::Core;
use crate::intake;
use crate::journal::{UploadRow, UploadState, WaitReason};
use crate::message::{Message, State};
use crate::sftp_tree::desk::Desk;
use crate::sftp_tree::failure;
use crate::sftp_tree::sending::{SendPath, Sent, accepted};
use crate::sftp_tree::tree::As2Tree;
use crate::storage::{Draft, StorageError};

/// Bytes copied at once of a file that is gone on with.
const PIECE: usize = 256 * 1024;

/// What an upload begins with.
pub(super) struct Start {
    pub(super) draft: Draft,
    pub(super) replaces: Option<UploadRow>,
    pub(super) taken_back: Option<TakenBack>,
}

impl Start {
    pub(super) fn of(tree: &As2Tree, at: &SendPath, how: &OpenHow) -> Result<Self, Fault> {
        let fresh = |replaces: Option<UploadRow>| Start {
            draft: tree.core.storage.draft(),
            taken_back: replaces.as_ref().and_then(|row| TakenBack::of(tree, row)),
            replaces,
        };
        match tree.sent(at)? {
            Sent::Nothing if !how.create => Err(Fault::no_such_file()),
            Sent::Nothing => Ok(fresh(None)),
            Sent::Waits(_) | Sent::Message(_) if how.exclusive => Err(exists(at)),
            Sent::Waits(row) if row.owner != tree.user && how.append => Err(Fault::PermissionDenied(format!(
                "the {} that is there is another user's; upload yours whole",
                at.name
            ))),
            Sent::Waits(row) if row.owner != tree.user => Ok(fresh(None)),
            Sent::Waits(row) if how.truncate && row.state == UploadState::Part => {
                // It may stand before an accepted file, which is what a new upload takes the place of.
                let parked = match tree.own_message(at)? {
                    Some(message) => park(tree, &message)?,
                    None => None,
                };
                if parked.is_some() {
                    tree.core.let_go_blocking(vec![row.store.clone()]);
                }
                Ok(fresh(Some(parked.unwrap_or(*row))))
            }
            Sent::Waits(row) if how.truncate => Ok(fresh(Some(*row))),
            Sent::Waits(row) => Self::go_on(tree, *row),
            Sent::Message(message) => match park(tree, &message)? {
                Some(row) if how.truncate => Ok(fresh(Some(row))),
                Some(row) => Self::go_on(tree, row),
                // It would go on with bytes that are not its own any more.
                None if how.append || (how.read && !how.truncate) => Err(accepted(&message)),
                None => Ok(fresh(None)),
            },
        }
    }

    fn go_on(tree: &As2Tree, row: UploadRow) -> Result<Self, Fault> {
        let mut taken_back = TakenBack::of(tree, &row);
        let draft = if row.state == UploadState::Part {
            // Nobody was promised these bytes: they move, and a crash loses them.
            tree.core.storage.resume(&row.store).or_else(|error| match error {
                StorageError::Missing(_) | StorageError::Io { .. } => Ok(tree.core.storage.draft()),
                other => Err(told(other)),
            })?
        } else {
            copy(&tree.core, &row.store)?
        };
        if let Some(taken_back) = &mut taken_back {
            taken_back.is_copied = true;
        }
        Ok(Start {
            draft,
            replaces: Some(row),
            taken_back,
        })
    }
}

/// Takes back an accepted file of the user's own, with all that waits under its name, if its release delay is running.
fn park(tree: &As2Tree, message: &Message) -> Result<Option<UploadRow>, Fault> {
    if message.detail.user != tree.user || message.state != State::Queued {
        return Ok(None);
    }
    intake::park_accepted(&tree.core, message.id.as_str()).map_err(failure)
}

/// What an OPEN with EXCL gets for a name that its user sees (sftp.md §4.8).
pub(super) fn exists(at: &SendPath) -> Fault {
    Fault::Failure(format!("{} exists already", at.name))
}

/// A copy of durable bytes to go on with; the original stays until the copy is decided about.
fn copy(core: &Core, key: &str) -> Result<Draft, Fault> {
    let content = core.storage.open_staged(key).map_err(failure)?;
    let mut draft = core.storage.draft();
    let mut checked = 0;
    let copied = content.for_each(PIECE, |piece| {
        if draft.len() >= checked {
            core.storage.check_room()?;
            checked = draft.len() + ROOM_EVERY;
        }
        draft.append(piece)
    });
    copied.map_err(told)?;
    Ok(draft)
}

/// An accepted file that was taken back within its release delay, for as long as something is open that is to take its place. If
/// nothing does, it is a message again.
pub(super) struct TakenBack {
    core: Arc<Core>,
    desk: Arc<Desk>,
    row: UploadRow,
    /// The upload has begun with a copy of it.
    is_copied: bool,
    /// Bytes were added to that: it was a beginning, and does not go out.
    is_gone_on_with: bool,
}

impl TakenBack {
    fn of(tree: &As2Tree, row: &UploadRow) -> Option<Self> {
        (row.reason == WaitReason::TakenBack).then(|| {
            tree.desk.hold_back(&row.store);
            TakenBack {
                core: Arc::clone(&tree.core),
                desk: Arc::clone(&tree.desk),
                row: row.clone(),
                is_copied: false,
                is_gone_on_with: false,
            }
        })
    }

    /// Bytes are written, in the place of all that was copied or behind it.
    pub(super) fn written(&mut self, anew: bool) {
        self.is_copied &= !anew;
        if self.is_copied && !std::mem::replace(&mut self.is_gone_on_with, true) {
            let row = self.row.clone();
            self.core.journal.write_then(
                move |tx| tx.set_upload_reason(&row, WaitReason::GoneOnWith),
                |told| {
                    if let Err(error) = told {
                        tracing::warn!(%error, "an upload that is gone on with may go out as it was");
                    }
                },
            );
        }
    }
}

impl Drop for TakenBack {
    fn drop(&mut self) {
        if !self.desk.end_hold(&self.row.store) {
            return;
        }
        if self.is_gone_on_with {
            intake::let_name_go(&self.core, self.row.clone());
        } else {
            intake::bring_back(&self.core, self.row.clone());
        }
    }
}
