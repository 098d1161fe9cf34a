//! Intake: what happens to a file between its last byte and its first try (product.md §4.1–§4.3, sftp.md §4).
//!
//! Bytes are durable before anything is decided, and one journal transaction decides: a message, a duplicate, or a file
//! that waits in `send` without being a message.

mod submit;

use std::sync::Arc;

use crate::clock::{Millis, millis};
use crate::gateway::Core;
use crate::journal::{Accepted, Blob, JournalError, NewUpload, Tx, UploadRow, UploadState, WaitReason};
use crate::message::{Detail, Direction, FileRecord, Id, Message, State};
use crate::partner::Partner;
use crate::storage::{Content, Staged};
use crate::{content_type, layout};

pub use submit::{Submission, check, check_pair, submit};

/// What is known about the way an upload ended (sftp.md §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// The client said that it is finished: a rename, a declared size that was reached.
    Finished,
    /// A plain CLOSE: probably finished.
    Plain,
    /// It looks broken off.
    Interrupted(WaitReason),
}

/// A file whose bytes are durable, or small and about to be.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Whose.
    pub account: String,
    /// Our AS2 id.
    pub station: String,
    /// The partner's AS2 id.
    pub partner: String,
    /// The user that brought it.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub staged: Staged,
    /// SHA-256 in hex.
    pub sha256: String,
    /// The part or parked file that it was until now.
    pub replaces: Option<UploadRow>,
    /// Subject instead of the partner's.
    pub subject: String,
    /// Content type instead of the one by extension.
    pub content_type: String,
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Landed {
    /// A message; it goes out when the release delay has passed.
    Queued(Id),
    /// The name is taken: this row says by whom.
    Duplicate(Id),
    /// It stays in `send` and is no message.
    Waits(UploadState),
}

/// Why a file would stay in `send` without being a message, if it would.
#[must_use]
pub fn waits(core: &Core, account: &str, partner: &str, name: &str, len: u64, sign: Sign) -> Option<(UploadState, WaitReason)> {
    let allow_empty = || core.objects().partner(account, partner).is_some_and(|p| p.allow_empty);
    if len == 0 && !allow_empty() {
        return Some((UploadState::Ignored, WaitReason::Empty));
    }
    match sign {
        Sign::Interrupted(reason) => Some((UploadState::Parked, reason)),
        Sign::Finished | Sign::Plain if layout::matches_any(name, &core.config.uploads.temp_names) => {
            Some((UploadState::Parked, WaitReason::TemporaryName))
        }
        Sign::Finished | Sign::Plain => None,
    }
}

/// Decides about a file whose last byte came. For blocking threads.
///
/// # Errors
/// The journal's; then nothing was decided, and a part that was gone on with is the part that it was.
pub fn land(core: &Core, file: Arrived, sign: Sign) -> Result<Landed, JournalError> {
    let key = file.staged.key.clone();
    let part = file.replaces.clone().filter(|row| row.state == UploadState::Part);
    decided(core, file, sign).inspect_err(|error| {
        if let Some(part) = part
            && core.is_undecided(error, &key)
            && let Err(error) = core.storage.put_back(&key, &part.store, part.size)
        {
            tracing::warn!(%error, file = part.name, "a part that was gone on with is lost");
        }
        core.let_go_undecided(error, &[key]);
    })
}

fn decided(core: &Core, file: Arrived, sign: Sign) -> Result<Landed, JournalError> {
    if let Some((state, reason)) = waits(core, &file.account, &file.partner, &file.name, file.staged.len, sign) {
        return wait(core, file, state, reason);
    }
    let (now, message) = drawn(core, &file);
    queue(core, file, message, due(core, sign, now), now)
}

/// [`land`] without waiting for others, for a new file that does not [wait](waits) and beside which no other of its name was
/// written: `then` is told on the journal's own thread, which it must not hold up. With `here`, this thread does the commit itself
/// if it can, and waits for the disk.
pub fn land_soon(
    core: &Arc<Core>,
    file: Arrived,
    sign: Sign,
    here: bool,
    then: impl FnOnce(Result<Landed, JournalError>) + Send + 'static,
) {
    debug_assert!(file.replaces.is_none(), "what it replaces would not be let go");
    let (now, message) = drawn(core, &file);
    let (upload, taken) = taken(core, file, message, due(core, sign, now), now);
    let told = Arc::clone(core);
    let change = move |tx: &Tx<'_>| tx.accept_upload(upload, now);
    let then = move |accepted: Result<Accepted, JournalError>| then(accepted.map(|accepted| taken.landed(&told, accepted)));
    if here {
        core.journal.write_here(change, then);
    } else {
        core.journal.write_then(change, then);
    }
}

/// The message that a file becomes now.
fn drawn(core: &Core, file: &Arrived) -> (Millis, Message) {
    let now = core.clock.now();
    let objects = core.objects();
    (now, new_message(core, file, objects.partner(&file.account, &file.partner), now))
}

fn due(core: &Core, sign: Sign, now: Millis) -> Millis {
    if sign == Sign::Finished {
        now
    } else {
        now + millis(core.config.uploads.release_after)
    }
}

fn queue(core: &Core, file: Arrived, message: Message, due: Millis, now: Millis) -> Result<Landed, JournalError> {
    let replaced = file
        .replaces
        .as_ref()
        .map(|row| row.store.clone())
        .filter(|store| *store != file.staged.key);
    let (account, station, partner) = (file.account.clone(), file.station.clone(), file.partner.clone());
    let (name, owner) = (file.name.clone(), file.owner.clone());
    let (upload, taken) = taken(core, file, message, due, now);
    let (accepted, beside, parts) = core.journal.write_sure_blocking(move |tx| {
        let beside = match &upload.replaces {
            Some(row) => tx.own_uploads(&row.account, &row.station, &row.partner, &row.name, &row.owner)?,
            None => Vec::new(),
        };
        let accepted = tx.accept_upload(upload, now)?;
        // An upload of its name that began earlier may have broken off meanwhile.
        let parts = tx.remove_parts(&account, &station, &partner, &name, &owner)?;
        Ok((accepted, beside, parts))
    })?;
    // Those that are named still stay.
    let beside = beside.into_iter().map(|row| row.store);
    core.let_go_blocking(beside.chain(replaced).chain(parts).collect());
    Ok(taken.landed(core, accepted))
}

/// What is said about a file when the journal has decided.
struct Taken {
    id: Id,
    station: String,
    partner: String,
    file: String,
    user: String,
    size: u64,
    /// It is due already.
    is_due: bool,
}

/// A file as the journal takes it.
fn taken(core: &Core, file: Arrived, message: Message, due: Millis, now: Millis) -> (NewUpload, Taken) {
    let taken = Taken {
        id: message.id.clone(),
        size: file.staged.len,
        station: file.station,
        partner: file.partner,
        file: file.name,
        user: file.owner,
        is_due: due <= now,
    };
    let upload = NewUpload {
        message,
        window: Some(core.config.uploads.duplicate_window),
        due,
        inline: file.staged.into_blob(),
        replaces: file.replaces,
    };
    (upload, taken)
}

impl Taken {
    fn landed(self, core: &Core, accepted: Accepted) -> Landed {
        let Taken {
            id,
            station,
            partner,
            file,
            user,
            size,
            is_due,
        } = self;
        match accepted {
            Accepted::Queued => {
                // What is due later is found by the workers' own scan: a look for each file would find nothing.
                if is_due {
                    core.wake();
                }
                tracing::info!(%id, station, partner, file, size, user, "upload accepted");
                Landed::Queued(id)
            }
            Accepted::Duplicate { winner, name, same } => {
                core.wake_publisher();
                count_duplicate(core, same);
                tracing::warn!(%id, station, partner, file, winner, kept_as = name, "duplicate name within the window");
                Landed::Duplicate(id)
            }
        }
    }
}

/// The same bytes again harm nobody; others are ones that somebody wanted to send.
fn count_duplicate(core: &Core, same: bool) {
    core.metrics.message("out", if same { "repeated" } else { "duplicate" });
}

/// Keeps a file in `send` that is no message.
fn wait(core: &Core, file: Arrived, state: UploadState, reason: WaitReason) -> Result<Landed, JournalError> {
    let now = core.clock.now();
    let (station, partner, name, user) = (&file.station, &file.partner, &file.name, &file.owner);
    if reason.looks_interrupted() {
        tracing::warn!(station, partner, file = name, user, %state, reason = reason.text(), "upload waits in send for a person, or for its user");
    } else {
        tracing::info!(station, partner, file = name, user, %state, reason = reason.text(), "upload waits in send");
    }
    let blob = file.staged.blob();
    let row = UploadRow {
        account: file.account,
        station: file.station,
        partner: file.partner,
        name: file.name,
        owner: file.owner,
        state,
        reason,
        store: file.staged.key,
        size: file.staged.len,
        sha256: file.sha256,
        created: file.replaces.as_ref().map_or(now, |old| old.created),
        updated: now,
    };
    put(core, row, blob, file.replaces)?;
    Ok(Landed::Waits(state))
}

fn put(core: &Core, row: UploadRow, blob: Option<Blob>, replaces: Option<UploadRow>) -> Result<(), JournalError> {
    let let_go = core.journal.write_blocking(move |tx| {
        let mut let_go = Vec::new();
        let is_part = row.state == UploadState::Part;
        // What came under the name since it was opened was promised; a part never was, and of two the longer is kept.
        let present = tx.own_uploads(&row.account, &row.station, &row.partner, &row.name, &row.owner)?;
        let is_former = |present: &UploadRow| replaces.as_ref().is_some_and(|old| old.store == present.store);
        let stays = |present: &UploadRow| present.state != UploadState::Part || present.size >= row.size;
        if is_part && present.iter().any(stays) && !present.iter().any(is_former) {
            let_go.push(row.store);
        } else {
            if let Some((key, bytes)) = &blob {
                tx.put_blob(key, bytes)?;
            }
            let_go.extend(tx.put_upload(&row)?);
        }
        // What it goes on with still has another name if it got one while it was written. A part is the end of no other file.
        match replaces.filter(|former| former.name != row.name) {
            Some(former) if !is_part => let_go.extend(tx.outdo_upload(&former)?),
            Some(former) if former.state == UploadState::Part && tx.remove_upload(&former)? => let_go.push(former.store),
            _ => {}
        }
        Ok(let_go)
    })?;
    core.let_go_blocking(let_go);
    Ok(())
}

/// Keeps what came of a broken-off upload, for its user to resume.
///
/// # Errors
/// The journal's.
pub fn keep_part(core: &Core, file: Arrived, reason: WaitReason) -> Result<(), JournalError> {
    if file.staged.len == 0 {
        // The bytes of a part that was gone on with are gone: its row must not promise them.
        return match file.replaces.filter(|row| row.state == UploadState::Part) {
            Some(part) => {
                let store = part.store.clone();
                core.journal.write_blocking(move |tx| tx.remove_upload(&part))?;
                core.let_go_blocking(vec![store]);
                Ok(())
            }
            None => Ok(()),
        };
    }
    wait(core, file, UploadState::Part, reason).map(|_| ())
}

/// A parked file got its final name, or was found complete after all: now it is a message. For blocking threads.
///
/// # Errors
/// The journal's.
pub fn complete(core: &Core, row: UploadRow, name: &str, sign: Sign) -> Result<Landed, JournalError> {
    land(core, of_waiting(row, name), sign)
}

/// An operator sends a file that waits in `send` as it is, under its own name or another: whatever it waits for does not
/// count, and the six-hour rule does. For blocking threads.
///
/// # Errors
/// The journal's; a conflict if somebody else moved the file.
pub fn send_waiting(core: &Core, row: UploadRow, name: &str) -> Result<Landed, JournalError> {
    let now = core.clock.now();
    let objects = core.objects();
    let file = of_waiting(row, name);
    let mut message = new_message(core, &file, objects.partner(&file.account, &file.partner), now);
    message.detail.marks.push("released by an operator".to_owned());
    queue(core, file, message, now, now)
}

/// A file that waits in `send`, as if it had just come under this name.
fn of_waiting(row: UploadRow, name: &str) -> Arrived {
    Arrived {
        account: row.account.clone(),
        station: row.station.clone(),
        partner: row.partner.clone(),
        owner: row.owner.clone(),
        name: name.to_owned(),
        staged: Staged {
            key: row.store.clone(),
            len: row.size,
            inline: None,
        },
        sha256: row.sha256.clone(),
        replaces: Some(row),
        subject: String::new(),
        content_type: String::new(),
    }
}

/// Gives a file in `send` another name or directory without making it a message. For blocking threads.
///
/// # Errors
/// The journal's.
pub fn rename_waiting(
    core: &Core,
    row: UploadRow,
    to: UploadRow,
    name: &str,
    state: UploadState,
    reason: WaitReason,
) -> Result<(), JournalError> {
    let moved = UploadRow {
        name: name.to_owned(),
        state,
        reason,
        updated: core.clock.now(),
        ..to
    };
    let replaced = core.journal.write_blocking(move |tx| {
        if !tx.remove_upload(&row)? {
            return Err(JournalError::Conflict("the upload was moved by somebody else".to_owned()));
        }
        tx.put_upload(&moved)
    })?;
    core.let_go_blocking(replaced);
    Ok(())
}

/// An accepted upload gets another name while its release delay runs: it was a temporary name that nobody listed. One
/// transaction takes the message back and makes the new one of the same bytes. `None` if it is too late. For blocking
/// threads.
///
/// # Errors
/// The journal's.
pub fn rename_pending(core: &Core, old: &Message, name: &str) -> Result<Option<Landed>, JournalError> {
    let file = Arrived {
        account: old.account.clone(),
        station: old.station.clone(),
        partner: old.partner.clone(),
        owner: old.detail.user.clone(),
        name: name.to_owned(),
        staged: Staged {
            key: old.detail.payload.clone(),
            len: old.size,
            inline: None,
        },
        sha256: old.sha256.clone(),
        replaces: None,
        subject: String::new(),
        content_type: String::new(),
    };
    let (now, objects) = (core.clock.now(), core.objects());
    let message = new_message(core, &file, objects.partner(&file.account, &file.partner), now);
    let (id, before) = (message.id.clone(), old.id.as_str().to_owned());
    let upload = NewUpload {
        message,
        window: Some(core.config.uploads.duplicate_window),
        due: now,
        inline: None,
        replaces: None,
    };
    let accepted = core.journal.write_blocking(move |tx| {
        let reason = format!("renamed by its user before it was sent: {} took over", upload.message.id);
        match tx.withdraw(&before, true, "renamed", &reason, now)? {
            Some(_) => tx.accept_upload(upload, now).map(Some),
            None => Ok(None),
        }
    })?;
    core.wake();
    Ok(accepted.map(|accepted| {
        tracing::info!(%id, before = %old.id, file = name, "a rename within the release delay");
        match accepted {
            Accepted::Queued => Landed::Queued(id),
            Accepted::Duplicate { same, .. } => {
                count_duplicate(core, same);
                Landed::Duplicate(id)
            }
        }
    }))
}

/// Takes an accepted upload back while nobody has touched it, with `delay_only` while its release delay is running; the row as it
/// was, or `None` if it is too late.
///
/// # Errors
/// The journal's.
pub fn withdraw(core: &Core, id: &str, delay_only: bool, reason: &'static str) -> Result<Option<Message>, JournalError> {
    let (id, now) = (id.to_owned(), core.clock.now());
    core.journal
        .write_blocking(move |tx| tx.withdraw(&id, delay_only, "cancelled", reason, now))
}

/// Takes back an accepted upload whose release delay is running still, into a file that waits in `send`: what was promised stays
/// until what is written in its place has been decided about, and is [brought back](bring_back) if that never comes. For blocking
/// threads.
///
/// # Errors
/// The journal's.
pub fn park_accepted(core: &Core, id: &str) -> Result<Option<UploadRow>, JournalError> {
    let (id, now) = (id.to_owned(), core.clock.now());
    core.journal.write_blocking(move |tx| tx.park_accepted(&id, now))
}

/// What was taken back is a message again, after another release delay. Waits for nobody.
pub fn bring_back(core: &Arc<Core>, row: UploadRow) {
    let file = of_waiting(row.clone(), &row.name);
    let (now, message) = drawn(core, &file);
    let (upload, taken) = taken(core, file, message, due(core, Sign::Plain, now), now);
    let told = Arc::clone(core);
    core.journal.write_then(
        move |tx| tx.bring_back(upload, now),
        move |brought: Result<Option<Accepted>, JournalError>| match brought {
            Ok(Some(accepted)) => {
                tracing::warn!(
                    file = row.name,
                    user = row.owner,
                    "goes out after all: what was to take its place broke off"
                );
                taken.landed(&told, accepted);
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, file = row.name, "an accepted upload waits until the next start"),
        },
    );
}

/// What was taken back and gone on with broke off: a beginning, which goes out no more and keeps no name. Waits for nobody.
pub fn let_name_go(core: &Core, row: UploadRow) {
    core.journal.write_then(
        move |tx| tx.free_taken_back(&row),
        |freed| {
            if let Err(error) = freed {
                tracing::warn!(%error, "the name of a beginning stays taken for a while");
            }
        },
    );
}

/// Brings back what a server that is gone had taken back. For blocking threads.
///
/// # Errors
/// The journal's.
pub fn bring_all_back(core: &Arc<Core>) -> Result<(), JournalError> {
    for row in core.journal.read(|tx| tx.all_uploads())? {
        match row.reason {
            WaitReason::TakenBack => bring_back(core, row),
            WaitReason::GoneOnWith => let_name_go(core, row),
            _ => {}
        }
    }
    Ok(())
}

/// The client looked back in a way that only a finished transfer has: no need to wait.
///
/// # Errors
/// The journal's.
pub fn release(core: &Core, id: &str) -> Result<(), JournalError> {
    let (id, now) = (id.to_owned(), core.clock.now());
    core.journal.write_blocking(move |tx| tx.release(&id, now))?;
    core.wake();
    Ok(())
}

/// The content type that a file's first bytes tell, or else its name.
fn detected(core: &Core, file: &Arrived) -> &'static str {
    let mut head = [0; content_type::HEAD];
    let content = match &file.staged.inline {
        Some(bytes) => Ok(Content::Bytes(bytes.clone())),
        None => core.storage.open_staged(&file.staged.key),
    };
    let read = content.and_then(|content| content.read_at(0, &mut head));
    // What cannot be read now is no reason to refuse it; sending it will tell.
    let found = read.ok().and_then(|len| content_type::for_bytes(&head[..len]));
    found.unwrap_or_else(|| content_type::for_name(&file.name))
}

/// The row of a new message, state `queued`.
fn new_message(core: &Core, file: &Arrived, partner: Option<&Partner>, now: Millis) -> Message {
    let setting = partner.map_or("auto", |p| p.content_type.as_str());
    let content_type = match (file.content_type.as_str(), setting) {
        ("", "auto" | "") => content_type::for_name(&file.name).to_owned(),
        ("", content_type::DETECT) => detected(core, file).to_owned(),
        ("", setting) => setting.to_owned(),
        (given, _) => given.to_owned(),
    };
    let record = FileRecord {
        name: file.name.clone(),
        size: file.staged.len,
        sha256: file.sha256.clone(),
        content_type: content_type.clone(),
    };
    Message {
        file: file.name.clone(),
        size: file.staged.len,
        sha256: file.sha256.clone(),
        content_type,
        subject: file.subject.clone(),
        detail: Detail {
            user: file.owner.clone(),
            payload: file.staged.key.clone(),
            files: vec![record],
            id_host: core.host(),
            ..Detail::default()
        },
        ..Message::new(Direction::Out, State::Queued, (&file.account, &file.station, &file.partner), now)
    }
}
