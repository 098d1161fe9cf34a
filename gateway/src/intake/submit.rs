//! A file that comes from the command line instead of SFTP: `as2gate send` and `partner test`.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use as2_core::hex;
use openssl::sha::Sha256;

use super::{Arrived, Landed, drawn, queue};
use crate::gateway::Core;
use crate::hint::{command, instead, with_hint};
use crate::journal::JournalError;
use crate::manage::{Refusal, RefusalKind, Result, blocking};
use crate::message::Message;
use crate::storage::{Staged, StorageError};
use crate::{content_type, layout, variables};

/// Who owns what comes from the command line: no SFTP user may be named so.
const SENDER: &str = "(as2gate)";
/// Bytes read at once from a local file.
const PIECE: usize = 256 * 1024;

/// A local file that is to go out.
#[derive(Clone, Debug, Default)]
pub struct Submission {
    /// Where it is.
    pub file: PathBuf,
    /// The name to send it under; empty: the file's own.
    pub name: String,
    /// Subject instead of the partner's; empty: the partner's.
    pub subject: String,
    /// Content type; empty: by the partner's setting.
    pub content_type: String,
    /// It only tries whether messages arrive.
    pub is_test: bool,
}

impl Submission {
    fn name_for_partner(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        self.file.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Takes a local file as if it had been uploaded: for `as2gate send` and `partner test`. Due at once.
///
/// # Errors
/// What is wrong with the pair, with what is said of the file, or with the file.
pub async fn submit(core: &Arc<Core>, station: &str, partner: &str, mut what: Submission) -> Result<Message> {
    let account = check(core, station, partner, &what)?;
    what.name = what.name_for_partner();
    let (core, station, partner) = (Arc::clone(core), station.to_owned(), partner.to_owned());
    blocking("cannot send the file", move || queue_file(&core, account, station, partner, what)).await
}

/// The account in which a file may go out that nobody has looked into yet.
///
/// # Errors
/// What is wrong with the pair, or with what is said of the file.
pub fn check(core: &Core, station: &str, partner: &str, what: &Submission) -> Result<String> {
    let account = check_pair(core, station, partner)?;
    let refused = |code, why: &str| {
        let (why, hint) = with_hint(why);
        Refusal::new(
            RefusalKind::Invalid,
            code,
            format!("cannot send {}", what.file.display()),
            why,
            hint,
        )
    };
    variables::check("subject", &what.subject).map_err(|why| refused("bad-subject", &why))?;
    if !what.content_type.is_empty() {
        content_type::check("type", &what.content_type).map_err(|why| refused("bad-type", &why))?;
    }
    layout::check_upload_name(what.name_for_partner().as_bytes())
        .map_err(|why| refused("bad-name", &format!("{why}\ngive another name")))?;
    Ok(account)
}

/// Stages the file and makes it a message.
fn queue_file(core: &Core, account: String, station: String, partner: String, what: Submission) -> Result<Message> {
    let (staged, sha256) = stage(core, &what.file)?;
    let objects = core.objects();
    let setting = objects.partner(&account, &partner);
    if staged.len == 0 && !setting.is_some_and(|partner| partner.allow_empty) {
        return Err(Refusal::new(
            RefusalKind::Invalid,
            "empty-file",
            format!("{} is empty", what.file.display()),
            "empty files are not sent",
            command("partner set", &partner, "--allow-empty true"),
        ));
    }
    let arrived = Arrived {
        account,
        station,
        partner: partner.clone(),
        owner: SENDER.to_owned(),
        name: what.name,
        staged,
        sha256,
        replaces: None,
        subject: what.subject,
        content_type: what.content_type,
    };
    let (now, mut message) = drawn(core, &arrived);
    if what.is_test {
        message.mark_as_test();
    }
    let failed = |error: JournalError| Refusal::failed("journal", "cannot send the file", error.to_string(), "as2gate doctor");
    let key = arrived.staged.key.clone();
    let queued = queue(core, arrived, message, now, now).inspect_err(|error| core.let_go_undecided(error, &[key]));
    match queued.map_err(failed)? {
        Landed::Queued(id) | Landed::Duplicate(id) => core.journal.read(|tx| tx.expect_message(id.as_str())).map_err(failed),
        Landed::Waits(_) => Err(Refusal::failed(
            "not-sent",
            "the file was not sent",
            "it waits in send",
            "look at `as2gate upload list`",
        )),
    }
}

/// The account of a pair that may trade.
///
/// # Errors
/// What is wrong with the pair, and what there is instead.
pub fn check_pair(core: &Core, station: &str, partner: &str) -> Result<String> {
    let objects = core.objects();
    let cannot = format!("cannot send from {station} to {partner}");
    let Some(ours) = objects.stations.get(station) else {
        let known = objects.stations.keys().map(String::as_str);
        let (known, hint) = instead("stations", known, "as2gate station add ID");
        return Err(Refusal::new(
            RefusalKind::NotFound,
            "no-station",
            cannot,
            format!("no station {station}; {known}"),
            hint,
        ));
    };
    match objects.partner(&ours.account, partner) {
        Some(found) if found.trades_with(station) => Ok(ours.account.clone()),
        Some(found) => Err(Refusal::new(
            RefusalKind::NotFound,
            "not-a-pair",
            cannot,
            "the partner does not trade with this station",
            found.trading_with(station),
        )),
        None => {
            let trading = objects.pairs(&ours.account).filter(|(s, _)| s.as2_id == station);
            let known = trading.map(|(_, p)| p.as2_id.as_str());
            let (known, hint) = instead("partners", known, "as2gate partner add ID --url URL --certificate FILE");
            Err(Refusal::new(
                RefusalKind::NotFound,
                "no-partner",
                cannot,
                format!("no partner {partner}; {known}"),
                hint,
            ))
        }
    }
}

fn stage(core: &Core, path: &Path) -> Result<(Staged, String)> {
    let refused = |kind, code, why: String| {
        Refusal::new(
            kind,
            code,
            format!("cannot read {}", path.display()),
            why,
            "look at the path and its rights",
        )
    };
    let cannot = |error: std::io::Error| {
        let (kind, code) = match error.kind() {
            std::io::ErrorKind::NotFound => (RefusalKind::NotFound, "no-file"),
            std::io::ErrorKind::PermissionDenied => (RefusalKind::Denied, "unreadable-file"),
            _ => (RefusalKind::Failed, "file"),
        };
        refused(kind, code, error.to_string())
    };
    let full = |error: StorageError| {
        Refusal::failed(
            "storage",
            "cannot keep the file",
            error.to_string(),
            "make room or look at the disk",
        )
    };
    let mut file = std::fs::File::open(path).map_err(cannot)?;
    let found = file.metadata().map_err(cannot)?;
    if found.is_dir() {
        return Err(refused(RefusalKind::Invalid, "bad-file", "it is a directory".to_owned()));
    }
    core.storage.check_room_for(found.len()).map_err(full)?;
    let mut draft = core.storage.draft();
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; PIECE];
    loop {
        let n = file.read(&mut buffer).map_err(cannot)?;
        let piece = buffer.get(..n).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        let max = core.config.uploads.max_file;
        if draft.len().saturating_add(u64::try_from(n).unwrap_or(u64::MAX)) > max {
            return Err(refused(
                RefusalKind::Invalid,
                "bad-file",
                format!("it is longer than uploads.max_file, {max} bytes"),
            ));
        }
        hash.update(piece);
        // The length of a pipe is told by nobody before.
        core.storage.check_room().and_then(|()| draft.append(piece)).map_err(full)?;
    }
    Ok((draft.stage().map_err(full)?, hex(&hash.finish())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::manage::tests::{place_with, plain_pair};

    #[tokio::test(flavor = "multi_thread")]
    async fn what_would_pass_the_watermark_is_not_read() {
        // Others use the disk as well, so the steps are wide.
        const STEP: u64 = 4 << 30;
        let place = place_with(|config| {
            let free = crate::storage::free_bytes(&std::env::temp_dir()).unwrap();
            config.storage.min_free = free.saturating_sub(STEP);
            config.uploads.max_file = 1 << 20;
        })
        .await;
        plain_pair(&place.core).await;
        let file = place.dir.path().join("large.edi");
        std::fs::File::create(&file).unwrap().set_len(2 * STEP).unwrap();
        let what = Submission {
            file,
            ..Submission::default()
        };
        let refused = submit(&place.core, "ALICE", "BOB", what).await.unwrap_err();
        assert_eq!(refused.code, "storage", "{refused:?}");
    }
    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_may_be_as_long_as_the_limit_and_no_byte_longer() {
        const MAX: u64 = 1000;
        let place = place_with(|config| config.uploads.max_file = MAX).await;
        plain_pair(&place.core).await;
        let of_length = |len: u64| {
            let file = place.dir.path().join(format!("{len}.edi"));
            std::fs::File::create(&file).unwrap().set_len(len).unwrap();
            Submission {
                file,
                ..Submission::default()
            }
        };
        submit(&place.core, "ALICE", "BOB", of_length(MAX)).await.unwrap();
        let refused = submit(&place.core, "ALICE", "BOB", of_length(MAX + 1)).await.unwrap_err();
        assert_eq!(refused.code, "bad-file", "{refused:?}");
    }
}
