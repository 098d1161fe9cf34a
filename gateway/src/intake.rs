//! Intake: what happens to a file between its last byte and its first try (product.md §4.1–§4.3, sftp.md §4).
//!
//! Bytes are durable before anything is decided, and one journal transaction decides: a message, a duplicate, or a file
//! that waits in `send` without being a message.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use openssl::sha::Sha256;

use crate::clock::{Millis, millis};
use crate::gateway::Core;
use crate::journal::{Accepted, Blob, JournalError, NewUpload, UploadRow, UploadState};
use crate::message::{Detail, Direction, FileRecord, Id, Message, State};
use crate::partner::Partner;
use crate::storage::{Staged, StorageError};
use crate::{content_type, layout};

/// Bytes read at once from a local file.
const PIECE: usize = 256 * 1024;

/// What is known about the way an upload ended (sftp.md §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// The client said that it is finished: a rename, a declared size that was reached.
    Finished,
    /// A plain CLOSE: probably finished.
    Plain,
    /// It looks broken off; the reason in words.
    Interrupted(&'static str),
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

/// Decides about a file whose last byte came. For blocking threads.
///
/// # Errors
/// The journal's; then nothing was decided and the bytes are let go by the next sweep.
pub fn land(core: &Core, file: Arrived, sign: Sign) -> Result<Landed, JournalError> {
    let objects = core.objects();
    let partner = objects.partner(&file.account, &file.partner);
    let allow_empty = partner.is_some_and(|p| p.allow_empty);
    if file.staged.len == 0 && !allow_empty {
        return wait(core, file, UploadState::Ignored, "empty files are not sent");
    }
    if layout::matches_any(&file.name, &core.config.uploads.temp_names) {
        let reason = match sign {
            Sign::Interrupted(reason) => reason,
            Sign::Finished | Sign::Plain => "temporary name: rename it when it is complete",
        };
        return wait(core, file, UploadState::Parked, reason);
    }
    if let Sign::Interrupted(reason) = sign {
        return wait(core, file, UploadState::Parked, reason);
    }
    let now = core.clock.now();
    let due = if sign == Sign::Finished {
        now
    } else {
        now + millis(core.config.uploads.release_after)
    };
    accept(core, file, partner, due, now)
}

fn accept(core: &Core, file: Arrived, partner: Option<&Partner>, due: Millis, now: Millis) -> Result<Landed, JournalError> {
    let message = new_message(&file, partner, now);
    let id = message.id.clone();
    let replaced = file
        .replaces
        .as_ref()
        .map(|row| row.store.clone())
        .filter(|store| *store != file.staged.key);
    let upload = NewUpload {
        message,
        window: Some(core.config.uploads.duplicate_window),
        due,
        inline: file.staged.blob(),
        replaces: file.replaces,
    };
    let accepted = core.journal.write_blocking(move |tx| tx.accept_upload(upload, now))?;
    core.wake();
    if let Some(store) = replaced {
        core.let_go_blocking(vec![store]);
    }
    let fields = (&file.station, &file.partner, &file.name);
    match accepted {
        Accepted::Queued => {
            tracing::info!(%id, station = fields.0, partner = fields.1, file = fields.2, size = file.staged.len, user = file.owner, "upload accepted");
            Ok(Landed::Queued(id))
        }
        Accepted::Duplicate { winner, name } => {
            tracing::warn!(%id, station = fields.0, partner = fields.1, file = fields.2, winner, kept_as = name, "duplicate name within the window");
            Ok(Landed::Duplicate(id))
        }
    }
}

/// Keeps a file in `send` that is no message.
fn wait(core: &Core, file: Arrived, state: UploadState, reason: &str) -> Result<Landed, JournalError> {
    let now = core.clock.now();
    tracing::info!(station = file.station, partner = file.partner, file = file.name, user = file.owner, %state, reason, "upload waits in send");
    let blob = file.staged.blob();
    let row = UploadRow {
        account: file.account,
        station: file.station,
        partner: file.partner,
        name: file.name,
        owner: file.owner,
        state,
        reason: reason.to_owned(),
        store: file.staged.key,
        size: file.staged.len,
        sha256: file.sha256,
        created: file.replaces.as_ref().map_or(now, |old| old.created),
        updated: now,
    };
    put(core, row, blob)?;
    Ok(Landed::Waits(state))
}

fn put(core: &Core, row: UploadRow, blob: Option<Blob>) -> Result<(), JournalError> {
    let replaced = core.journal.write_blocking(move |tx| {
        if let Some((key, bytes)) = &blob {
            tx.put_blob(key, bytes)?;
        }
        tx.put_upload(&row)
    })?;
    core.let_go_blocking(replaced.into_iter().collect());
    Ok(())
}

/// Keeps what came of a broken-off upload, for its user to resume.
///
/// # Errors
/// The journal's.
pub fn keep_part(core: &Core, file: Arrived, reason: &str) -> Result<(), JournalError> {
    if file.staged.len == 0 {
        return Ok(());
    }
    wait(core, file, UploadState::Part, reason).map(|_| ())
}

/// A parked file got its final name, or was found complete after all: now it is a message. For blocking threads.
///
/// # Errors
/// The journal's.
pub fn complete(core: &Core, row: UploadRow, name: &str) -> Result<Landed, JournalError> {
    let file = Arrived {
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
    };
    land(core, file, Sign::Finished)
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
    reason: &str,
) -> Result<(), JournalError> {
    let moved = UploadRow {
        name: name.to_owned(),
        state,
        reason: reason.to_owned(),
        updated: core.clock.now(),
        ..to
    };
    let replaced = core.journal.write_blocking(move |tx| {
        if !tx.remove_upload(&row)? {
            return Err(JournalError::Conflict("the upload was moved by somebody else".to_owned()));
        }
        tx.put_upload(&moved)
    })?;
    core.let_go_blocking(replaced.into_iter().collect());
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
    let message = new_message(&file, objects.partner(&file.account, &file.partner), now);
    let (id, before) = (message.id.clone(), old.id.as_str().to_owned());
    let upload = NewUpload {
        message,
        window: Some(core.config.uploads.duplicate_window),
        due: now,
        inline: None,
        replaces: None,
    };
    let accepted = core.journal.write_blocking(move |tx| {
        match tx.withdraw(&before, true, "renamed", "renamed by its user before it was sent", now)? {
            Some(_) => tx.accept_upload(upload, now).map(Some),
            None => Ok(None),
        }
    })?;
    core.wake();
    Ok(accepted.map(|accepted| {
        tracing::info!(%id, before = %old.id, file = name, "a rename within the release delay");
        match accepted {
            Accepted::Queued => Landed::Queued(id),
            Accepted::Duplicate { .. } => Landed::Duplicate(id),
        }
    }))
}

/// Takes an accepted upload back while nobody has touched it; the row as it was, or `None` if it is too late.
///
/// # Errors
/// The journal's.
pub fn withdraw(
    core: &Core,
    id: &str,
    delay_only: bool,
    code: &'static str,
    reason: &'static str,
) -> Result<Option<Message>, JournalError> {
    let (id, now) = (id.to_owned(), core.clock.now());
    core.journal
        .write_blocking(move |tx| tx.withdraw(&id, delay_only, code, reason, now))
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

/// The row of a new message, state `queued`.
fn new_message(file: &Arrived, partner: Option<&Partner>, now: Millis) -> Message {
    let setting = partner.map_or("auto", |p| p.content_type.as_str());
    let content_type = match (file.content_type.as_str(), setting) {
        ("", "auto" | "") => content_type::for_name(&file.name).to_owned(),
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
        id: Id::draw(now),
        account: file.account.clone(),
        direction: Direction::Out,
        station: file.station.clone(),
        partner: file.partner.clone(),
        message_id: String::new(),
        state: State::Queued,
        code: String::new(),
        reason: String::new(),
        file: file.name.clone(),
        size: file.staged.len,
        sha256: file.sha256.clone(),
        content_type,
        subject: file.subject.clone(),
        created: now,
        updated: now,
        finished: None,
        attempts: 0,
        next_try: None,
        detail: Detail {
            user: file.owner.clone(),
            payload: file.staged.key.clone(),
            files: vec![record],
            ..Detail::default()
        },
    }
}

/// Why a file was not taken: code, what, why, and what to do.
#[derive(Clone, Debug)]
pub struct SubmitError {
    /// In kebab-case.
    pub code: &'static str,
    /// What could not be done.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do next.
    pub hint: String,
}

impl SubmitError {
    fn new(code: &'static str, what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        SubmitError {
            code,
            what: what.into(),
            why: why.into(),
            hint: hint.into(),
        }
    }
}

/// Takes a local file as if it had been uploaded: for `as2gate send` and `partner test`. Due at once.
///
/// # Errors
/// What is wrong with the pair, the name or the file.
pub async fn submit(
    core: &Arc<Core>,
    station: &str,
    partner: &str,
    file: &Path,
    name: Option<&str>,
    subject: Option<&str>,
    content_type: Option<&str>,
) -> Result<Message, SubmitError> {
    let account = check_pair(core, station, partner)?;
    crate::variables::check("subject", subject.unwrap_or_default()).map_err(|why| {
        let (why, hint) = why.split_once('\n').unwrap_or((&why, ""));
        SubmitError::new("bad-subject", format!("cannot send {}", file.display()), why, hint)
    })?;
    let own = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = name.unwrap_or(&own).to_owned();
    layout::check_upload_name(name.as_bytes())
        .map_err(|why| SubmitError::new("bad-name", format!("cannot send {}", file.display()), why, "give another name"))?;
    let (core2, path) = (Arc::clone(core), file.to_owned());
    let (subject, content_type) = (subject.unwrap_or_default().to_owned(), content_type.unwrap_or_default().to_owned());
    let (station, partner) = (station.to_owned(), partner.to_owned());
    let work = tokio::task::spawn_blocking(move || {
        let (staged, sha256) = stage(&core2, &path)?;
        let unsendable = staged.len == 0 && !core2.objects().partner(&account, &partner).is_some_and(|p| p.allow_empty);
        if unsendable {
            return Err(SubmitError::new(
                "empty-file",
                format!("{} is empty", path.display()),
                "empty files are not sent",
                "partner set … --allow-empty true",
            ));
        }
        let arrived = Arrived {
            account,
            station,
            partner,
            owner: "as2gate".to_owned(),
            name,
            staged,
            sha256,
            replaces: None,
            subject,
            content_type,
        };
        let now = core2.clock.now();
        let failed = |error: JournalError| SubmitError::new("journal", "cannot send the file", error.to_string(), "as2gate doctor");
        let objects = core2.objects();
        let landed = accept(
            &core2,
            arrived.clone(),
            objects.partner(&arrived.account, &arrived.partner),
            now,
            now,
        )
        .map_err(failed)?;
        let (Landed::Queued(id) | Landed::Duplicate(id)) = landed else {
            return Err(SubmitError::new(
                "not-sent",
                "the file was not sent",
                "it waits in send",
                "look at `as2gate message list`",
            ));
        };
        core2.journal.read(|tx| tx.expect_message(id.as_str())).map_err(failed)
    });
    work.await
        .map_err(|error| SubmitError::new("internal", "cannot send the file", error.to_string(), "look at the log"))?
}

/// The account of a pair that may trade.
fn check_pair(core: &Core, station: &str, partner: &str) -> Result<String, SubmitError> {
    let objects = core.objects();
    let cannot = format!("cannot send from {station} to {partner}");
    let Some(ours) = objects.stations.get(station) else {
        let known: Vec<&str> = objects.stations.keys().map(String::as_str).take(5).collect();
        return Err(SubmitError::new(
            "no-station",
            cannot,
            format!("no station {station}; known: {}", known.join(", ")),
            "as2gate station list",
        ));
    };
    match objects.partner(&ours.account, partner) {
        Some(found) if found.trades_with(station) => Ok(ours.account.clone()),
        Some(_) => Err(SubmitError::new(
            "not-a-pair",
            cannot,
            "the partner does not trade with this station",
            "as2gate partner set … --stations",
        )),
        None => {
            let known: Vec<&str> = objects
                .pairs(&ours.account)
                .filter(|(s, _)| s.as2_id == station)
                .map(|(_, p)| p.as2_id.as_str())
                .take(5)
                .collect();
            Err(SubmitError::new(
                "no-partner",
                cannot,
                format!("no partner {partner}; known: {}", known.join(", ")),
                "as2gate partner list",
            ))
        }
    }
}

fn stage(core: &Core, path: &Path) -> Result<(Staged, String), SubmitError> {
    let cannot = |why: String| {
        SubmitError::new(
            "unreadable-file",
            format!("cannot read {}", path.display()),
            why,
            "look at the path and its rights",
        )
    };
    let full = |error: StorageError| {
        SubmitError::new(
            "storage",
            "cannot keep the file",
            error.to_string(),
            "make room or look at the disk",
        )
    };
    core.storage.check_room().map_err(full)?;
    let mut file = std::fs::File::open(path).map_err(|e| cannot(e.to_string()))?;
    if file.metadata().map_err(|e| cannot(e.to_string()))?.is_dir() {
        return Err(cannot("it is a directory".to_owned()));
    }
    let mut draft = core.storage.draft();
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; PIECE];
    loop {
        let n = file.read(&mut buffer).map_err(|e| cannot(e.to_string()))?;
        let piece = buffer.get(..n).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        if draft.len().saturating_add(PIECE as u64) > core.config.uploads.max_file.saturating_add(PIECE as u64) {
            return Err(cannot(format!(
                "it is longer than uploads.max_file, {} bytes",
                core.config.uploads.max_file
            )));
        }
        hash.update(piece);
        draft.append(piece).map_err(full)?;
    }
    Ok((draft.stage().map_err(full)?, hex(&hash.finish())))
}

/// Bytes in lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
