//! Sending: the name window, acceptance, and every step that moves a sent message.

use std::time::Duration;

use rusqlite::{OptionalExtension as _, params};
use serde_json::json;

use super::contents::Blob;
use super::jobs::{JobKind, Lease};
use super::tree::{Entry, NewEntry};
use super::uploads::{UploadRow, UploadState, WaitReason};
use super::{JournalError, Result, Tx};
use crate::clock::{Millis, compact, millis};
use crate::config::show_duration;
use crate::event::NewEvent;
use crate::layout::{self, Area};
use crate::message::{Lacking, Message, MicRecord, Retried, State};
use crate::random::random;
use crate::storage::Staged;

/// A finished upload, to be accepted.
#[derive(Clone, Debug)]
pub struct NewUpload {
    /// The message row, state `queued`.
    pub message: Message,
    /// How long the name stays taken; `None` asks for no window (a resend).
    pub window: Option<Duration>,
    /// When it may be sent.
    pub due: Millis,
    /// Contents that are small enough to live in the journal.
    pub inline: Option<Blob>,
    /// The part or parked file that it was until now.
    pub replaces: Option<UploadRow>,
}

/// What the six-hour rule decided.
#[derive(Clone, Debug, PartialEq)]
pub enum Accepted {
    /// First of its name: a message.
    Queued,
    /// The name is taken by this message; the file goes to `duplicate` under this name.
    Duplicate {
        /// The winner.
        winner: String,
        /// Where it lies now.
        name: String,
        /// It has the winner's bytes.
        same: bool,
    },
}

/// A step of a sent message: new row, evidence, what becomes of its job.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The row as it shall be.
    pub message: Message,
    /// States in which the step may happen.
    pub expected: Vec<State>,
    /// Last change of the row that the decision was made on; `None` where the state is enough.
    pub seen: Option<Millis>,
    /// The holder's claim of the job; `None` for evidence that counts whoever holds it.
    pub lease: Option<Lease>,
    /// Small contents to keep.
    pub blobs: Vec<Blob>,
    /// What becomes visible.
    pub entries: Vec<NewEntry>,
    /// What moves in the tree.
    pub moved: Option<Moved>,
    /// The name is free again.
    pub frees_name: bool,
    /// What becomes of its job.
    pub next: Next,
    /// Event kind.
    pub event: &'static str,
}

/// Files that move with their message, once [`crate::storage::Storage::link_into`] has put their bytes there.
#[derive(Clone, Debug)]
pub struct Moved {
    /// As they were read.
    pub entries: Vec<Entry>,
    /// The directory that goes.
    pub from: String,
    /// The directory that they go to.
    pub to: String,
}

/// What a failed message needs to be posted again.
#[derive(Clone, Debug)]
pub struct Revived {
    /// A copy of its payload.
    pub payload: Staged,
    /// A copy of its packaged bytes.
    pub raw: Staged,
    /// What leaves `failed`.
    pub gone: Vec<Entry>,
}

/// What becomes of the job of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing is left to do.
    End,
    /// Due again.
    At(Millis),
    /// Not by itself: a person decides. The job keeps its place among those of its lane, for which the order may count.
    Held,
    /// It goes on as it is: only evidence came in.
    Keep,
}

impl Settlement {
    /// A step that only changes the row.
    #[must_use]
    pub fn new(message: Message, expected: &[State], event: &'static str) -> Self {
        Settlement {
            message,
            expected: expected.to_vec(),
            seen: None,
            lease: None,
            blobs: Vec::new(),
            entries: Vec::new(),
            moved: None,
            frees_name: false,
            next: Next::End,
            event,
        }
    }
}

/// Opens a window unless it is open.
pub(super) const OPEN_WINDOW: &str =
    "INSERT INTO name_window (account, scope, name_key, opened_at, expires_at, message) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
     ON CONFLICT (account, scope, name_key) DO UPDATE
        SET opened_at = excluded.opened_at, expires_at = excluded.expires_at, message = excluded.message
        WHERE name_window.expires_at <= excluded.opened_at";

/// The condition of messages that wait for our own settings.
fn waiting() -> String {
    let codes: Vec<String> = Lacking::ALL.iter().map(|code| format!("'{code}'")).collect();
    format!("code IN ({})", codes.join(", "))
}

/// The scope of a name window: station and partner, told apart by a byte that no AS2 id holds.
fn scope(message: &Message) -> String {
    lane(&message.station, &message.partner)
}

/// The lane of a pair's jobs.
#[must_use]
pub fn lane(station: &str, partner: &str) -> String {
    format!("{station}\n{partner}")
}

impl Tx<'_> {
    /// The acceptance point of an upload: name window, row, job, event, all or nothing.
    ///
    /// # Errors
    /// `Conflict` if its pair or its waiting file is gone.
    pub fn accept_upload(&self, upload: NewUpload, now: Millis) -> Result<Accepted> {
        let mut message = upload.message;
        self.expect_pair(&message)?;
        if let Some(row) = &upload.replaces
            && self.outdo_upload(row)?.is_empty()
            && row.store == message.detail.payload
        {
            return Err(JournalError::Conflict("the upload was moved by somebody else".to_owned()));
        }
        if let Some((key, bytes)) = &upload.inline {
            self.put_blob(key, bytes)?;
        }
        let winner = match upload.window {
            Some(window) => self.open_window(&message, window, now)?,
            None => None,
        };
        let Some(winner) = winner else {
            self.insert_message(&message)?;
            self.add_job(JobKind::Send, &message.account, message.id.as_str(), &scope(&message), upload.due)?;
            self.record_message("message.accepted", &message, now)?;
            return Ok(Accepted::Queued);
        };
        let same = self.message(&winner)?.is_some_and(|first| first.sha256 == message.sha256);
        let parent = layout::duplicate_dir(&message.station, &message.partner);
        let name = self.free_name(&message.account, &parent, &message.file, now)?;
        message.state = State::Duplicate;
        message.finished = Some(now);
        "duplicate-name".clone_into(&mut message.code);
        message.reason = format!(
            "the name was used by {winner} less than {} ago, {}",
            show_duration(upload.window.unwrap_or_default()),
            if same { "same bytes" } else { "other bytes" }
        );
        message.detail.hint = format!(
            "upload it under another name; `as2gate message resend {}` sends this very file",
            message.id.short()
        );
        message.detail.previous.clone_from(&winner);
        self.insert_message(&message)?;
        let entry = NewEntry::file(Area::Duplicate, parent, &name, &message.detail.payload, message.size);
        self.add_entries(&message.account, message.id.as_str(), &[entry], now)?;
        self.record_message("message.duplicate", &message, now)?;
        Ok(Accepted::Duplicate { winner, name, same })
    }

    /// The six-hour rule: `None` means that this message is the first (durability.md §6).
    fn open_window(&self, message: &Message, window: Duration, now: Millis) -> Result<Option<String>> {
        let key = layout::name_key(&message.file);
        let opened = self.db.prepare_cached(OPEN_WINDOW)?.execute(params![
            message.account,
            scope(message),
            key,
            now,
            now.saturating_add(millis(window)),
            message.id.as_str()
        ])?;
        if opened > 0 {
            return Ok(None);
        }
        let mut query = self
            .db
            .prepare_cached("SELECT message FROM name_window WHERE account = ?1 AND scope = ?2 AND name_key = ?3")?;
        Ok(Some(
            query.query_row(params![message.account, scope(message), key], |row| row.get(0))?,
        ))
    }

    /// Ends the window early, if it is still the one that this message opened.
    pub(super) fn free_window(&self, message: &Message, now: Millis) -> Result<()> {
        self.db
            .prepare_cached("UPDATE name_window SET expires_at = ?5 WHERE account = ?1 AND scope = ?2 AND name_key = ?3 AND message = ?4")?
            .execute(params![
                message.account,
                scope(message),
                layout::name_key(&message.file),
                message.id.as_str(),
                now
            ])?;
        Ok(())
    }

    /// Forgets windows that have ended; nothing depends on them any more.
    ///
    /// # Errors
    /// The database's.
    pub fn forget_windows(&self, now: Millis) -> Result<usize> {
        Ok(self
            .db
            .prepare_cached("DELETE FROM name_window WHERE expires_at <= ?1")?
            .execute([now])?)
    }

    /// A name that nothing visible in this directory bears yet.
    fn free_name(&self, account: &str, parent: &str, name: &str, now: Millis) -> Result<String> {
        if self.entry(account, parent, name)?.is_none() {
            return Ok(name.to_owned());
        }
        loop {
            let stamp = compact(now);
            let tag = format!("{}Z-{:04x}", stamp.get(..15).unwrap_or(&stamp), u16::from_be_bytes(random()));
            let candidate = layout::tagged(name, &tag);
            if self.entry(account, parent, &candidate)?.is_none() {
                return Ok(candidate);
            }
        }
    }

    /// Takes back an accepted upload that no worker has touched and nothing has been composed of.
    ///
    /// Gives the row as it was, or `None` if it is too late. `delay_only`: the release delay has to be running still.
    ///
    /// # Errors
    /// The database's.
    pub fn withdraw(&self, id: &str, delay_only: bool, code: &str, reason: &str, now: Millis) -> Result<Option<Message>> {
        let before = self.withdraw_and_keep_name(id, delay_only, code, reason, now)?;
        if let Some(before) = &before {
            self.free_window(before, now)?;
        }
        Ok(before)
    }

    fn withdraw_and_keep_name(&self, id: &str, delay_only: bool, code: &str, reason: &str, now: Millis) -> Result<Option<Message>> {
        let Some(before) = self.message(id)? else { return Ok(None) };
        let untouched = before.state == State::Queued && before.message_id.is_empty() && before.attempts == 0;
        if !untouched || self.job_is_held(JobKind::Send, id, now)? || (delay_only && !self.job_waits(JobKind::Send, id, now)?) {
            return Ok(None);
        }
        let mut after = before.clone();
        after.state = State::Failed;
        after.code = code.to_owned();
        after.reason = reason.to_owned();
        after.updated = now;
        after.finished = Some(now);
        self.update_message(&after, &[State::Queued])?;
        self.finish_job(JobKind::Send, id)?;
        self.record_message("message.cancelled", &after, now)?;
        Ok(Some(before))
    }

    /// [`Tx::withdraw`] within the release delay; its bytes wait in `send` again, until [`Tx::bring_back`] or a later upload of
    /// the name, which stays taken [as long as they do](Tx::free_taken_back). Gives their row, or `None` if it is too late.
    ///
    /// # Errors
    /// The database's.
    pub fn park_accepted(&self, id: &str, now: Millis) -> Result<Option<UploadRow>> {
        let reason = WaitReason::TakenBack.text();
        let Some(message) = self.withdraw_and_keep_name(id, true, "cancelled", reason, now)? else {
            return Ok(None);
        };
        let row = UploadRow {
            account: message.account,
            station: message.station,
            partner: message.partner,
            name: message.file,
            owner: message.detail.user,
            state: UploadState::Parked,
            reason: WaitReason::TakenBack,
            store: message.detail.payload,
            size: message.size,
            sha256: message.sha256,
            created: message.created,
            updated: now,
        };
        self.put_upload(&row)?;
        Ok(Some(row))
    }

    /// What was taken back is a message again: what was to take its place did not come. Nothing happens if it waits no more, or for
    /// another reason by now.
    ///
    /// # Errors
    /// The database's.
    pub fn bring_back(&self, upload: NewUpload, now: Millis) -> Result<Option<Accepted>> {
        let Some(row) = &upload.replaces else { return Ok(None) };
        let waiting = self.own_uploads(&row.account, &row.station, &row.partner, &row.name, &row.owner)?;
        if waiting.contains(row) {
            return self.accept_upload(upload, now).map(Some);
        }
        self.free_taken_back(row)?;
        Ok(None)
    }

    /// Frees the name of an accepted file that was taken back and waits still: it goes out no more.
    ///
    /// # Errors
    /// The database's.
    pub fn free_taken_back(&self, row: &UploadRow) -> Result<()> {
        // The window is that of the message that it was.
        self.db
            .prepare_cached(
                "DELETE FROM name_window WHERE account = ?1 AND scope = ?2 AND name_key = ?3
                 AND EXISTS (SELECT 1 FROM message WHERE id = name_window.message AND detail ->> '$.payload' = ?4)
                 AND EXISTS (SELECT 1 FROM upload WHERE store = ?4)",
            )?
            .execute(params![
                row.account,
                lane(&row.station, &row.partner),
                layout::name_key(&row.name),
                row.store
            ])?;
        Ok(())
    }

    /// Ends the release delay, or the wait for the next try.
    ///
    /// # Errors
    /// The database's.
    pub fn release(&self, id: &str, now: Millis) -> Result<bool> {
        self.hurry_job(JobKind::Send, id, now)
    }

    /// A message goes on waiting for our own settings: its row says so already, and is as old as that.
    ///
    /// # Errors
    /// `Conflict` if the job has another holder.
    pub fn wait_on(&self, message: &Message, lease: Lease, due: Millis) -> Result<()> {
        self.put_back_job(lease, due)?;
        self.db
            .prepare_cached("UPDATE message SET next_try = ?2 WHERE id = ?1")?
            .execute(params![message.id.as_str(), due])?;
        Ok(())
    }

    /// The message that is first in the lane of this one, if that is another.
    ///
    /// # Errors
    /// The database's.
    pub fn first_before(&self, message: &Message) -> Result<Option<Message>> {
        let sql = "SELECT message FROM job WHERE lane = ?1 AND kind = 'send' ORDER BY id LIMIT 1";
        let first: Option<String> = self
            .db
            .prepare_cached(sql)?
            .query_row([scope(message)], |row| row.get(0))
            .optional()?;
        match first.filter(|first| first != message.id.as_str()) {
            Some(first) => self.message(&first),
            None => Ok(None),
        }
    }

    /// Station and partner of messages that wait for our own settings.
    ///
    /// # Errors
    /// The database's.
    pub fn pairs_waiting(&self) -> Result<Vec<(String, String)>> {
        let sql = format!(
            "SELECT DISTINCT station, partner FROM message WHERE finished IS NULL AND direction = 'out' AND {}",
            waiting()
        );
        self.all(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// Makes these due that wait for our own settings.
    ///
    /// # Errors
    /// The database's.
    pub fn hurry_waiting(&self, pairs: &[(String, String)], now: Millis) -> Result<()> {
        let sql = format!(
            "UPDATE job SET due = ?2 WHERE lane = ?1 AND kind = 'send' AND due > ?2
             AND EXISTS (SELECT 1 FROM message WHERE id = job.message AND {})",
            waiting()
        );
        for (station, partner) in pairs {
            self.db.prepare_cached(&sql)?.execute(params![lane(station, partner), now])?;
        }
        Ok(())
    }

    /// Puts a held, waiting or retrying message back to work at once with its stored bytes; a failed one with the bytes
    /// that were brought back from the tree.
    ///
    /// # Errors
    /// `Conflict` if its outcome is known, it is being posted, or its pair is gone.
    pub fn retry_now(&self, id: &str, revived: Option<&Revived>, now: Millis) -> Result<Message> {
        let mut message = self.expect_message(id)?;
        self.expect_pair(&message)?;
        if !message.can_be_retried() || message.state.is_final() != revived.is_some() {
            let state = message.state;
            return Err(JournalError::Conflict(match state {
                State::Sending => format!("message {id} is being posted at this moment"),
                _ => format!("message {id} is {state}; use resend for a new message"),
            }));
        }
        let before = message.state;
        if let Some(revived) = revived {
            for staged in [&revived.payload, &revived.raw] {
                if let Some((key, bytes)) = staged.blob() {
                    self.put_blob(&key, &bytes)?;
                }
            }
            message.detail.payload.clone_from(&revived.payload.key);
            message.detail.raw.clone_from(&revived.raw.key);
            // Their bytes go next; a sweep finds what is left of them.
            revived.gone.iter().try_for_each(|entry| self.retire_entry(entry, now).map(drop))?;
        }
        message.state = if message.attempts > 0 { State::Retrying } else { State::Queued };
        message.detail.retried = Some(Retried {
            at: now,
            after: message.attempts,
        });
        (message.detail.mdn_tries, message.detail.refused) = (0, false);
        message.next_try = Some(now);
        message.finished = None;
        message.updated = now;
        self.update_message(&message, &[before])?;
        self.add_job(JobKind::Send, &message.account, id, &scope(&message), now)?;
        self.record_message("message.retry", &message, now)?;
        Ok(message)
    }

    /// One step of a sent message. Gives the keys of staged bytes that nobody names any more, once it is final.
    ///
    /// # Errors
    /// `Conflict` if the fence or the expected state is gone: somebody else moved it.
    pub fn settle(&self, step: &Settlement, now: Millis) -> Result<Vec<String>> {
        let message = &step.message;
        let id = message.id.as_str();
        if let Some(lease) = step.lease {
            self.check_fence(lease)?;
        }
        if let Some(seen) = step.seen
            && self.expect_message(id)?.updated != seen
        {
            return Err(JournalError::Conflict(format!(
                "message {id} was moved meanwhile; look at it again"
            )));
        }
        // The last that may refuse, before anything is written.
        self.update_message(message, &step.expected)?;
        for (key, bytes) in &step.blobs {
            self.put_blob(key, bytes)?;
        }
        if let Some(moved) = &step.moved {
            self.move_entries(id, moved)?;
        }
        self.add_entries(&message.account, id, &step.entries, now)?;
        for (key, _) in &step.blobs {
            // An entry that was there already kept its own bytes.
            self.drop_unnamed_blob(key)?;
        }
        if step.frees_name {
            self.free_window(message, now)?;
        }
        match (step.next, step.lease) {
            (Next::Keep, _) => {}
            (Next::End, _) => self.finish_job(JobKind::Send, id)?,
            (Next::Held, _) => self.hold_job(JobKind::Send, id)?,
            (Next::At(due), Some(lease)) => self.put_back_job(lease, due)?,
            (Next::At(due), None) => self.add_job(JobKind::Send, &message.account, id, &scope(message), due)?,
        }
        self.record_message(step.event, message, now)?;
        if !message.state.is_final() {
            return Ok(Vec::new());
        }
        self.forget_unnamed(vec![message.detail.payload.clone(), message.detail.raw.clone()])
    }

    /// Keeps digests of a sent message's content that were computed after it was packaged.
    ///
    /// # Errors
    /// `NotFound` if it is forgotten.
    pub fn add_mics(&self, id: &str, mics: Vec<MicRecord>) -> Result<()> {
        let mut message = self.expect_message(id)?;
        message.detail.mics.extend(mics);
        self.update_message(&message, &[message.state])
    }

    /// Writes what is known so far and keeps the job: composed bytes, an attempt that begins.
    ///
    /// # Errors
    /// `Conflict` if the fence or the state is gone.
    pub fn progress(&self, message: &Message, lease: Lease, blob: Option<&Blob>) -> Result<()> {
        self.check_fence(lease)?;
        self.update_message(message, &State::WORKED_ON)?;
        if let Some((key, bytes)) = blob {
            self.put_blob(key, bytes)?;
        }
        Ok(())
    }

    /// An event about a message.
    pub(super) fn record_message(&self, kind: &str, message: &Message, now: Millis) -> Result<()> {
        let mut facts = json!({
            "direction": message.direction,
            "station": message.station,
            "partner": message.partner,
            "message_id": message.message_id,
            "file": message.file,
            "size": message.size,
            "state": message.state,
            "code": message.code,
        });
        if let Some(why) = message.undelivered_mdn() {
            facts["mdn"] = json!(why);
        }
        if !message.detail.marks.is_empty() {
            facts["marks"] = json!(message.detail.marks);
        }
        if let Some(receipt) = message.failed_receipt() {
            facts["receipt"] = json!(receipt);
        }
        if kind == "message.accepted" && !message.detail.previous.is_empty() {
            facts["previous"] = json!(message.detail.previous);
        }
        let event = NewEvent {
            account: &message.account,
            kind,
            subject: message.id.as_str(),
            facts,
        };
        self.record(&event, now)
    }
}
