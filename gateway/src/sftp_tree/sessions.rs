//! The sessions of a running server as commands see them: the server keeps a board of them in the journal, and ends those
//! that a command has put on a list there.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sftp_front::Server;

use super::Logins;
use crate::clock::Millis;
use crate::gateway::{Core, Listening, is_served};
use crate::journal::{JournalError, Tx};

/// How often the server looks for sessions to end, and for changes to show.
const POLL: Duration = Duration::from_millis(300);
/// How old the byte counts on the board may be.
const COUNTS: Duration = Duration::from_secs(5);
/// Sessions shown, at most.
pub const MAX_SHOWN: usize = 1_000;
const BOARD: &str = "sftp.sessions";
const ENDINGS: &str = "sftp.end";

/// A session that has logged in.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct SessionRow {
    /// Number, unique in the life of the server.
    pub id: u64,
    /// The user.
    pub user: String,
    /// The user's account.
    pub account: String,
    /// Address and port of the client.
    pub peer: String,
    /// The client's identification line.
    pub client: String,
    /// When the connection was accepted.
    pub since: Millis,
    /// Bytes received on the wire, at most 5 s old.
    pub bytes_in: u64,
    /// Bytes sent on the wire, at most 5 s old.
    pub bytes_out: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
struct Board {
    pid: u32,
    rows: Vec<SessionRow>,
}

/// Sessions that a command wants to end, of the server with this process number.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Endings {
    pid: u32,
    ids: Vec<u64>,
}

fn fact<T: Default + for<'a> Deserialize<'a>>(tx: &Tx<'_>, key: &str) -> Result<T, JournalError> {
    match tx.fact(key)? {
        Some(text) => Ok(serde_json::from_str(&text)?),
        None => Ok(T::default()),
    }
}

fn set_fact<T: Serialize>(tx: &Tx<'_>, key: &str, value: &T) -> Result<(), JournalError> {
    tx.set_fact(key, &serde_json::to_string(value)?)
}

/// The sessions of the server that works on this data directory, by number; none without a server.
///
/// # Errors
/// The journal's.
pub fn list(core: &Core) -> Result<Vec<SessionRow>, JournalError> {
    let board: Board = core.journal.read(|tx| fact(tx, BOARD))?;
    let server = Listening::read(&core.journal).filter(|_| is_served(&core.config));
    Ok(if server.is_some_and(|server| server.pid == board.pid) {
        board.rows
    } else {
        Vec::new()
    })
}

/// Asks the server to end a session; it does so within a second.
///
/// # Errors
/// The journal's.
pub async fn end(core: &Core, id: u64) -> Result<(), JournalError> {
    core.journal
        .write(move |tx| {
            let board: Board = fact(tx, BOARD)?;
            let mut endings: Endings = fact(tx, ENDINGS)?;
            if endings.pid != board.pid {
                endings = Endings {
                    pid: board.pid,
                    ids: Vec::new(),
                };
            }
            if endings.ids.len() < MAX_SHOWN && !endings.ids.contains(&id) {
                endings.ids.push(id);
            }
            set_fact(tx, ENDINGS, &endings)
        })
        .await
}

/// Keeps the board for as long as the server lives.
pub(super) async fn keep(core: Weak<Core>, logins: Weak<Logins>, front: Weak<Server>) {
    let pid = std::process::id();
    let mut shown: Option<(Board, Instant)> = None;
    loop {
        {
            let (Some(core), Some(logins), Some(front)) = (core.upgrade(), logins.upgrade(), front.upgrade()) else {
                return;
            };
            if let Err(error) = turn(&core, &logins, &front, pid, &mut shown).await {
                tracing::error!(%error, "cannot keep the list of sessions");
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn turn(
    core: &Arc<Core>,
    logins: &Logins,
    front: &Server,
    pid: u32,
    shown: &mut Option<(Board, Instant)>,
) -> Result<(), JournalError> {
    if let Some(batch) = logins.trail.take() {
        core.journal.write(move |tx| batch.record(tx)).await?;
    }
    let endings: Endings = core.journal.read(|tx| fact(tx, ENDINGS))?;
    if !endings.ids.is_empty() {
        if endings.pid == pid {
            let ended = front.end_sessions(&|session| endings.ids.contains(&session.id));
            tracing::info!(ended, "sessions ended by command");
        }
        // Those that a command added in between stay.
        core.journal
            .write(move |tx| {
                let mut now: Endings = fact(tx, ENDINGS)?;
                now.ids.retain(|id| now.pid == pid && !endings.ids.contains(id));
                set_fact(tx, ENDINGS, &now)
            })
            .await?;
    }
    let board = Board {
        pid,
        rows: rows(core, front),
    };
    let same_sessions = |old: &Board| old.rows.iter().map(|row| row.id).eq(board.rows.iter().map(|row| row.id));
    let is_due = shown
        .as_ref()
        .is_none_or(|(old, at)| !same_sessions(old) || (at.elapsed() >= COUNTS && *old != board));
    if is_due {
        let written = board.clone();
        core.journal.write(move |tx| set_fact(tx, BOARD, &written)).await?;
        *shown = Some((board, Instant::now()));
    }
    Ok(())
}

fn rows(core: &Core, front: &Server) -> Vec<SessionRow> {
    let objects = core.objects();
    let millis = |at: SystemTime| {
        at.duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|span| Millis::try_from(span.as_millis()).ok())
    };
    let rows = front.sessions().into_iter().take(MAX_SHOWN).map(|session| SessionRow {
        id: session.id,
        account: objects.user(&session.user).map(|user| user.account.clone()).unwrap_or_default(),
        user: session.user,
        peer: session.peer.addr.to_string(),
        client: session.peer.client,
        since: millis(session.since).unwrap_or_default(),
        bytes_in: session.bytes_in,
        bytes_out: session.bytes_out,
    });
    rows.collect()
}
