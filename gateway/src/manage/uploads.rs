//! Files that wait in `send` without being messages: an operator looks at them, sends them as they are, or takes them away.

use std::sync::Arc;

use serde_json::json;

use super::{Refusal, Result, blocking};
use crate::event::NewEvent;
use crate::gateway::Core;
use crate::hint::{command, listed};
use crate::intake::{self, Landed};
use crate::journal::{JournalError, UploadRow, UploadState};
use crate::layout;
use crate::message::Message;

/// Which files; what is not given counts for all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this account.
    pub account: Option<String>,
    /// Only below this station.
    pub station: Option<String>,
    /// Only for this partner.
    pub partner: Option<String>,
    /// Only of this user.
    pub user: Option<String>,
    /// Only in this state.
    pub state: Option<UploadState>,
}

impl Filter {
    fn takes(&self, row: &UploadRow) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        is(&self.account, &row.account)
            && is(&self.station, &row.station)
            && is(&self.partner, &row.partner)
            && is(&self.user, &row.owner)
            && self.state.is_none_or(|state| state == row.state)
    }
}

/// The files that wait, longest first.
///
/// # Errors
/// The journal's.
pub fn list(core: &Core, filter: &Filter) -> Result<Vec<UploadRow>> {
    let mut rows = core.journal.read(|tx| tx.all_uploads())?;
    rows.retain(|row| filter.takes(row));
    rows.sort_by(|a, b| (a.updated, &a.name).cmp(&(b.updated, &b.name)));
    Ok(rows)
}

/// The file that a person names: by its name, or by its path as SFTP shows it, `AS2/send/<S>/<P>/<name>`.
///
/// # Errors
/// When nothing, or more than one file, fits.
pub fn choose(core: &Core, filter: &Filter, text: &str) -> Result<UploadRow> {
    let place: Vec<&str> = text.trim_start_matches('/').split('/').skip_while(|part| *part != "AS2").collect();
    let fits = |row: &UploadRow| match layout::Place::read(&place) {
        layout::Place::SendFile(station, partner, name) => (&row.station, &row.partner, &row.name) == (&station, &partner, &name),
        _ => row.name == text,
    };
    let mut found: Vec<UploadRow> = list(core, filter)?.into_iter().filter(fits).collect();
    // Of a part and the file that it is to take the place of, the file is meant.
    let pair = |row: &UploadRow| [&row.account, &row.station, &row.partner, &row.name, &row.owner].map(String::clone);
    let whole: Vec<_> = found.iter().filter(|row| row.state != UploadState::Part).map(pair).collect();
    found.retain(|row| row.state != UploadState::Part || !whole.contains(&pair(row)));
    match found.len() {
        0 => Err(Refusal::not_found(
            format!("no upload {text} waits in send"),
            "no file of that name is parked, ignored or broken off; what was accepted is a message",
            "as2gate upload list, as2gate message list",
        )),
        1 => Ok(found.remove(0)),
        n => {
            let first = found.remove(0);
            let places = std::iter::once(&first).chain(&found);
            let places: Vec<String> = places
                .map(|row| format!("{}/{} by {}", row.station, row.partner, row.owner))
                .collect();
            Err(Refusal::usage(
                format!("which {text}?"),
                format!("{n} files wait under that name: {}", listed(places.iter().map(String::as_str), "")),
                "say --station, --partner or --user",
            ))
        }
    }
}

/// Sends a file as it is, under its own name or another. The message that it is now; `None` in a dry run.
///
/// # Errors
/// When it is a part of a file, empty, of a pair that does not trade any more, or not there any more.
pub async fn release(core: &Arc<Core>, row: &UploadRow, name: Option<&str>, dry_run: bool) -> Result<Option<Message>> {
    let cannot = || format!("cannot release {}", row.name);
    if row.state == UploadState::Part {
        let why = format!("it was broken off: {} bytes came, and nobody said that this is all", row.size);
        let hint = format!("{} can resume it, or `as2gate send` a whole copy", row.owner);
        return Err(Refusal::failed("part", cannot(), why, hint));
    }
    intake::check_pair(core, &row.station, &row.partner)?;
    let allow_empty = core.objects().partner(&row.account, &row.partner).is_some_and(|p| p.allow_empty);
    if row.size == 0 && !allow_empty {
        let hint = format!("{}, then release it", command("partner set", &row.partner, "--allow-empty true"));
        return Err(Refusal::invalid(cannot(), "empty files are not sent to this partner", hint));
    }
    let name = name.unwrap_or(&row.name).to_owned();
    layout::check_upload_name(name.as_bytes()).map_err(|why| Refusal::invalid(cannot(), why, "give another --name"))?;
    if dry_run {
        return Ok(None);
    }
    let (worker, waiting, what) = (Arc::clone(core), row.clone(), cannot());
    let send = move || intake::send_waiting(&worker, waiting, &name).map_err(|error| moved(what, error));
    match blocking(cannot(), send).await? {
        Landed::Queued(id) | Landed::Duplicate(id) => Ok(Some(core.journal.read(|tx| tx.expect_message(id.as_str()))?)),
        Landed::Waits(state) => Err(Refusal::failed(
            "not-sent",
            cannot(),
            format!("it is {state}"),
            "as2gate upload list",
        )),
    }
}

/// Takes a file out of `send` and lets its bytes go.
///
/// # Errors
/// When it is not there any more.
pub async fn remove(core: &Core, row: &UploadRow, dry_run: bool) -> Result<()> {
    if dry_run {
        return Ok(());
    }
    let (gone, now) = (row.clone(), core.clock.now());
    let removed = core.journal.write(move |tx| {
        if !tx.remove_upload(&gone)? {
            return Err(JournalError::Conflict("the upload was moved by somebody else".to_owned()));
        }
        let event = NewEvent {
            account: &gone.account,
            kind: "upload.removed",
            subject: &gone.owner,
            facts: json!({
                "path": format!("{}/{}", layout::send_dir(&gone.station, &gone.partner), gone.name),
                "bytes": gone.size, "sha256": gone.sha256, "state": gone.state.as_str(), "reason": gone.reason.text(),
            }),
        };
        tx.record(&event, now)
    });
    removed.await.map_err(|error| moved(format!("cannot remove {}", row.name), error))?;
    core.let_go(vec![row.store.clone()]).await;
    Ok(())
}

/// The journal's word, where the file may have moved while somebody looked at it.
fn moved(what: String, error: JournalError) -> Refusal {
    match error {
        JournalError::Conflict(why) => Refusal::failed("conflict", what, why, "as2gate upload list shows what waits now"),
        other => other.into(),
    }
}
