//! A file being uploaded: into the spool, hashed on the way, decided about at CLOSE.

mod quota;
mod start;

use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use as2_core::hex;
use openssl::sha::Sha256;
use serde_json::{Value, json};
use sftp_front::{Closed, Fault, OpenHow, SetStat, Stat, Upload, UploadFacts, Wait, Way};

use super::desk::{Desk, Live};
use super::listing::{file_stat, seconds};
use super::pace::Pace;
use super::sending::{SendPath, Sent};
use super::trail::Trail;
use super::tree::{As2Tree, elapsed};
use super::{failure, now, unchanged};
use crate::gateway::Core;
use crate::intake::{self, Arrived, Landed, Sign};
use crate::journal::{UploadRow, UploadState, WaitReason};
use crate::layout;
use crate::message::State;
use crate::storage::{Draft, Staged, StorageError};
use quota::check_quotas;
use start::{Start, TakenBack, exists};

/// Free space is looked at again after so many bytes.
const ROOM_EVERY: u64 = 8 << 20;

pub(super) struct Writing {
    core: Arc<Core>,
    desk: Arc<Desk>,
    trail: Arc<Trail>,
    pace: Arc<Pace>,
    begun: Instant,
    at: SendPath,
    account: String,
    user: String,
    session: u64,
    draft: Draft,
    hash: RunningHash,
    live: Live,
    /// The part or parked file that this goes on with or takes the place of.
    replaces: Option<UploadRow>,
    /// That one was an accepted file, and is one again if this breaks off.
    taken_back: Option<TakenBack>,
    /// A first WRITE at 0 starts anew instead of going on.
    may_restart: bool,
    room_checked: u64,
    /// Bytes of the user's other files in `send`, as of the last look.
    others: u64,
}

/// SHA-256 of everything written so far, as long as it comes in order.
struct RunningHash {
    state: Sha256,
    hashed: u64,
    in_order: bool,
}

impl RunningHash {
    fn new() -> Self {
        RunningHash {
            state: Sha256::new(),
            hashed: 0,
            in_order: true,
        }
    }

    fn update(&mut self, offset: u64, bytes: &[u8]) {
        if self.in_order && offset == self.hashed {
            self.state.update(bytes);
            self.hashed += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        } else if offset < self.hashed {
            self.in_order = false;
        }
    }

    fn cut(&mut self, size: u64) {
        self.in_order &= size >= self.hashed;
    }
}

impl Writing {
    pub(super) fn open(tree: &As2Tree, at: SendPath, how: &OpenHow) -> Result<Box<dyn Upload>, Fault> {
        layout::check_upload_name(at.name.as_bytes()).map_err(Fault::Failure)?;
        if let Some(declared) = how.declared_size {
            check_size(&tree.core, declared)?;
        }
        tree.core.storage.check_room().map_err(told)?;
        // Parallel uploads are looked at one after the other, or the last place in a quota would be given to all of them.
        let (live, others) = {
            let _turn = tree.desk.turn();
            let others = tree.desk.live_size(&tree.user, &at.path).is_some();
            check_quotas(tree, &at, how)?;
            let live = tree.desk.write(&tree.user, tree.session, &at.path, how.exclusive);
            (live.ok_or_else(|| exists(&at))?, others)
        };
        let start = Start::of(tree, &at, how)?;
        if how.append && others && start.draft.is_empty() {
            // The size that its client saw is that of the other one.
            return Err(Fault::Failure(format!(
                "{} is being written by another session; try again when that has ended, or upload it whole",
                at.name
            )));
        }
        let mut writing = Box::new(Self::begin(tree, at, how, start, live));
        writing.count_others()?;
        Ok(writing)
    }

    /// A new file of a user without quotas, the case of every day: it takes two looks into the journal's index and no more.
    pub(super) fn open_at_once(tree: &As2Tree, at: SendPath, how: &OpenHow) -> Option<Box<dyn Upload>> {
        let is_new = how.create && !how.exclusive && !how.append && how.declared_size.is_none();
        let is_free = tree
            .core
            .objects()
            .user_of(&tree.account, &tree.user)
            .is_some_and(|user| user.quota_files == 0 && user.quota_bytes == 0);
        if !is_new || !is_free || layout::check_upload_name(at.name.as_bytes()).is_err() || tree.core.storage.check_room().is_err() {
            return None;
        }
        // Before the look: what ends without being seen there was beside this one.
        let live = tree.desk.write(&tree.user, tree.session, &at.path, false)?;
        let Ok(Sent::Nothing) = tree.sent(&at) else { return None };
        let start = Start {
            draft: tree.core.storage.draft(),
            replaces: None,
            taken_back: None,
        };
        Some(Box::new(Self::begin(tree, at, how, start, live)))
    }

    fn begin(tree: &As2Tree, at: SendPath, how: &OpenHow, start: Start, live: Live) -> Self {
        tree.desk.forget(&tree.user, &at.path);
        live.set(start.draft.len());
        let may_restart = !start.draft.is_empty() && !how.append && !how.truncate;
        Writing {
            core: Arc::clone(&tree.core),
            desk: Arc::clone(&tree.desk),
            trail: Arc::clone(&tree.trail),
            pace: Arc::clone(&tree.pace),
            begun: Instant::now(),
            others: 0,
            account: tree.account.clone(),
            user: tree.user.clone(),
            session: tree.session,
            at,
            draft: start.draft,
            hash: RunningHash::new(),
            live,
            replaces: start.replaces,
            taken_back: start.taken_back,
            may_restart,
            room_checked: 0,
        }
    }

    fn did(&self, kind: &'static str, bytes: u64, more: (&str, &str)) {
        let mut facts = json!({ "path": self.at.path, "bytes": bytes, "millis": elapsed(self.begun), "session": self.session });
        facts[more.0] = Value::from(more.1);
        self.trail.add(kind, &self.account, &self.user, facts, now(&self.core));
    }

    fn put(&mut self, offset: u64, end: u64, pieces: &[IoSlice<'_>]) -> Result<(), StorageError> {
        if end.saturating_sub(self.room_checked) >= ROOM_EVERY {
            self.core.storage.check_room()?;
            self.room_checked = end;
        }
        self.draft.write_pieces(offset, pieces)
    }

    /// Every byte came in order and went into the digest.
    fn is_digested(&self) -> bool {
        self.hash.in_order && self.hash.hashed == self.draft.len()
    }

    /// SHA-256 of the whole file in hex; what did not come in order is read back.
    fn digest(&mut self) -> Result<String, StorageError> {
        if self.is_digested() {
            return Ok(hex(&std::mem::replace(&mut self.hash.state, Sha256::new()).finish()));
        }
        self.draft.sha256()
    }

    fn arrived(&self, staged: Staged, sha256: String) -> Arrived {
        Arrived {
            account: self.account.clone(),
            station: self.at.station.clone(),
            partner: self.at.partner.clone(),
            owner: self.user.clone(),
            name: self.at.name.clone(),
            staged,
            sha256,
            replaces: self.replaces.clone(),
            subject: String::new(),
            content_type: String::new(),
        }
    }

    /// Makes the bytes durable, unless they are small; what is decided about, and what follows.
    fn staged(self, sha256: String, facts: &UploadFacts) -> Result<(Arrived, End), Fault> {
        let mut arrived = self.arrived(
            Staged {
                key: String::new(),
                len: 0,
                inline: None,
            },
            sha256.clone(),
        );
        let has_quota = self.quota() > 0;
        let end = End {
            size: self.draft.len(),
            mtime: self.live.mtime().unwrap_or_else(|| seconds(now(&self.core))),
            core: self.core,
            desk: self.desk,
            trail: self.trail,
            account: self.account,
            user: self.user,
            session: self.session,
            path: self.at.path,
            sha256,
            begun: self.begun,
            live: self.live,
            _taken_back: self.taken_back,
            looks_back: facts.client_looks_back() && facts.writes > 0,
            has_quota,
        };
        arrived.staged = self.draft.stage().map_err(told)?;
        Ok((arrived, end))
    }

    /// Its bytes are all there: under which name, if it was renamed meanwhile.
    fn end(&mut self) -> Result<(), Fault> {
        let path = self.live.end().ok_or_else(removed)?;
        if path != self.at.path {
            self.at.name = path.rsplit('/').next().unwrap_or_default().to_owned();
            self.at.path = path;
        }
        Ok(())
    }

    /// What the end of the upload says about it (sftp.md §4.2–§4.4).
    fn sign(&self, facts: &UploadFacts) -> Sign {
        let was_cut = |row: &UploadRow| row.state == UploadState::Part || row.reason.looks_interrupted();
        if facts.declared_size_reached() || facts.size_confirmed() {
            Sign::Finished
        } else if facts.append_was_cut() {
            Sign::Interrupted(WaitReason::AppendCut)
        } else if facts.declared_size_missed() {
            Sign::Interrupted(WaitReason::Short)
        } else if facts.writes == 0 && self.replaces.as_ref().is_some_and(was_cut) {
            Sign::Interrupted(WaitReason::NothingAdded)
        } else if facts.ends_on_full_block()
            && (facts.writes > 1 || usize::try_from(facts.block_len) == Ok(sftp_front::MAX_DATA) || facts.client_looks_back())
        {
            // One block of the old length is just a small file, unless its client will say so. Under a temporary name the rename
            // will tell.
            let is_temp = layout::matches_any(&self.at.name, &self.core.config.uploads.temp_names);
            let will_tell = is_temp && facts.client_renames_only_what_is_whole();
            if will_tell {
                Sign::Plain
            } else {
                Sign::Interrupted(WaitReason::FullBlock)
            }
        } else {
            Sign::Plain
        }
    }

    fn keep_part(self, reason: WaitReason) {
        let (this, has_quota) = (&self, self.quota() > 0);
        let core = Arc::clone(&this.core);
        let mut arrived = this.arrived(
            Staged {
                key: String::new(),
                len: 0,
                inline: None,
            },
            String::new(),
        );
        let this = self;
        let kept = this.draft.keep_as_part().map_err(|error| error.to_string()).and_then(|staged| {
            arrived.staged = staged;
            intake::keep_part(&core, arrived, reason).map_err(|error| error.to_string())
        });
        if let Err(error) = kept {
            tracing::warn!(error, file = this.at.path, "a broken-off upload was not kept");
        }
        if has_quota {
            this.desk.recount(&this.user);
        }
    }
}

/// What becomes of an open upload whose name its user has removed: programs remove what they could not finish, and close it
/// behind that (Go's deferred `Close`).
fn removed() -> Fault {
    Fault::Failure("the file was removed while it was being written".to_owned())
}

fn check_size(core: &Core, size: u64) -> Result<(), Fault> {
    let max = core.config.uploads.max_file;
    if size > max {
        Err(Fault::Failure(format!("the file is longer than {max} bytes (uploads.max_file)")))
    } else {
        Ok(())
    }
}

/// A storage fault in words for the client.
fn told(error: StorageError) -> Fault {
    if error.is_full() {
        tracing::error!(%error, "no room for an upload");
        return Fault::Failure("no room on the server; try again later".to_owned());
    }
    failure(error)
}

impl Upload for Writing {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Fault> {
        self.write_pieces(offset, &[IoSlice::new(data)])
    }

    fn write_pieces(&mut self, offset: u64, pieces: &[IoSlice<'_>]) -> Result<(), Fault> {
        let anew = std::mem::take(&mut self.may_restart) && offset == 0;
        if anew {
            self.draft.set_len(0).map_err(told)?;
        }
        if let Some(taken_back) = &mut self.taken_back {
            taken_back.written(anew);
        }
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let end = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        if self.live.is_removed() {
            return Err(removed());
        }
        check_size(&self.core, end)?;
        if end.saturating_sub(self.room_checked) >= ROOM_EVERY {
            self.count_others()?;
        }
        self.check_quota(end.max(self.draft.len()))?;
        self.put(offset, end, pieces).map_err(told)?;
        let mut at = offset;
        for piece in pieces {
            self.hash.update(at, piece);
            at += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        }
        self.live.set(self.draft.len());
        Ok(())
    }

    /// Programs that open with more than they need (Go's `Create`, SSH.NET's) seldom read; those that do see what they wrote.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize, Fault> {
        self.draft.read_at(offset, buf).map_err(told)
    }

    fn pause(&self, way: Way, bytes: usize) -> Duration {
        let objects = self.core.objects();
        let rate = objects.user_of(&self.account, &self.user).map_or(0, |user| user.bandwidth);
        self.pace.pause(way, bytes, rate)
    }

    fn wait(&self, end: u64) -> Wait {
        let objects = self.core.objects();
        let is_free = objects
            .user_of(&self.account, &self.user)
            .is_none_or(|user| user.bandwidth == 0 && user.quota_bytes == 0);
        if !is_free || self.may_restart {
            Wait::Long
        } else if self.draft.stays_small(end) {
            Wait::Nothing
        } else {
            Wait::Disk
        }
    }

    fn stat(&self) -> Result<Stat, Fault> {
        let mtime = self.live.mtime().unwrap_or_else(|| seconds(now(&self.core)));
        Ok(file_stat(self.draft.len(), mtime, 0o640))
    }

    fn set_stat(&mut self, set: &SetStat) -> Result<(), Fault> {
        if let Some(size) = set.size {
            check_size(&self.core, size)?;
            self.check_quota(size)?;
            self.draft.set_len(size).map_err(told)?;
            self.hash.cut(size);
            self.live.set(size);
        }
        if let Some((_, mtime)) = set.times {
            self.live.touch(mtime);
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Fault> {
        self.draft.sync().map_err(told)
    }

    fn close(mut self: Box<Self>, facts: &UploadFacts) -> Result<(), Fault> {
        if let Err(fault) = self.end() {
            self.did("user.upload_broken", facts.size, ("reason", "removed while it was written"));
            return Err(fault);
        }
        if facts.gap {
            let text = format!("bytes are missing in {}; upload it whole", self.at.name);
            // What lies behind a hole cannot be resumed, and zeros must never pass for bytes.
            if self.draft.set_len(0).is_ok() {
                self.keep_part(WaitReason::BytesMissing);
            }
            return Err(Fault::Failure(text));
        }
        let sha256 = self.digest().map_err(told)?;
        self.count_others()?;
        self.check_quota(self.draft.len())?;
        let (core, sign) = (Arc::clone(&self.core), self.sign(facts));
        let (arrived, end) = self.staged(sha256, facts)?;
        end.of(&land(&core, arrived, sign)?);
        Ok(())
    }

    fn closes_soon(&self, facts: &UploadFacts) -> bool {
        let is_small_and_new = self.draft.is_small() && self.replaces.is_none() && !facts.gap && self.quota() == 0;
        #[cfg(feature = "sabotage")]
        if is_sabotaged() {
            return false;
        }
        let waits = || {
            intake::waits(
                &self.core,
                &self.account,
                &self.at.partner,
                &self.at.name,
                self.draft.len(),
                self.sign(facts),
            )
        };
        let has_its_name = self.live.path().is_some_and(|path| path == self.at.path);
        let was_alone = !self.live.was_beside_another();
        has_its_name && was_alone && self.is_digested() && is_small_and_new && waits().is_none()
    }

    fn close_soon(mut self: Box<Self>, facts: &UploadFacts, closed: Closed) {
        if self.live.end().is_none_or(|path| path != self.at.path) {
            // Another session of the user has just renamed or removed it.
            return closed(self.close(facts));
        }
        let (core, sign) = (Arc::clone(&self.core), self.sign(facts));
        // A session that is alone on the server holds up nobody, and nobody shares its commits.
        let here = self.desk.has_one_session();
        match self.digest().map_err(told).and_then(|sha256| self.staged(sha256, facts)) {
            Ok((arrived, end)) => intake::land_soon(&core, arrived, sign, here, move |landed| {
                closed(landed.map(|landed| end.of(&landed)).map_err(unchanged));
            }),
            Err(fault) => closed(Err(fault)),
        }
    }

    fn abandon(self: Box<Self>, facts: &UploadFacts) {
        let mut this = *self;
        let is_removed = this.end().is_err();
        this.did("user.upload_broken", facts.size, ("reason", "connection lost, ended or refused"));
        if is_removed {
            return;
        }
        // What lies behind a hole cannot be resumed, and what a later upload has outdone must not take its place.
        let is_void = facts.gap || this.live.is_outdone();
        let whole = if is_void { 0 } else { facts.size.min(this.draft.len()) };
        if this.draft.set_len(whole).is_ok() && (whole > 0 || facts.size_at_open > 0) {
            let (user, file) = (this.user.clone(), this.at.path.clone());
            this.keep_part(WaitReason::BrokenOff);
            tracing::info!(user, file, size = whole, "upload broken off; kept for its user to resume");
        }
    }
}

#[cfg(feature = "sabotage")]
fn is_sabotaged() -> bool {
    std::env::var_os("AS2GATE_TEST_SABOTAGE").is_some_and(|what| what == "promise-first")
}

/// What follows the decision about a file.
struct End {
    core: Arc<Core>,
    desk: Arc<Desk>,
    trail: Arc<Trail>,
    account: String,
    user: String,
    session: u64,
    path: String,
    size: u64,
    mtime: u64,
    sha256: String,
    begun: Instant,
    live: Live,
    has_quota: bool,
    /// Nothing is brought back that the decision has taken the place of.
    _taken_back: Option<TakenBack>,
    looks_back: bool,
}

impl End {
    fn of(self, landed: &Landed) {
        let now = now(&self.core);
        self.live.outdo();
        if self.has_quota {
            self.desk.recount(&self.user);
        }
        drop(self.live);
        if self.looks_back && matches!(landed, Landed::Waits(UploadState::Parked)) {
            self.desk.awaits_look(self.session, &self.path);
        }
        if !matches!(landed, Landed::Waits(_)) {
            self.desk.remember(&self.user, &self.path, self.size, self.mtime, now);
        }
        let became = match landed {
            Landed::Queued(_) => State::Queued.as_str(),
            Landed::Duplicate(_) => State::Duplicate.as_str(),
            Landed::Waits(state) => state.as_str(),
        };
        let facts = json!({
            "path": self.path, "bytes": self.size, "sha256": self.sha256, "millis": elapsed(self.begun), "session": self.session,
            "became": became,
        });
        self.trail.add("user.upload", &self.account, &self.user, facts, now);
    }
}

/// Decides about a finished upload; the answer to CLOSE waits for it.
fn land(core: &Arc<Core>, arrived: Arrived, sign: Sign) -> Result<Landed, Fault> {
    #[cfg(feature = "sabotage")]
    if is_sabotaged() {
        // The control of the crash test: promise before the decision, and see the test find the loss.
        let core = Arc::clone(core);
        std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let _ = intake::land(&core, arrived, sign);
        });
        return Ok(Landed::Waits(UploadState::Parked));
    }
    intake::land(core, arrived, sign).map_err(unchanged)
}
