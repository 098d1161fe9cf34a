//! The sessions of a running server, and the sources that it shuts out, as commands see them: the server keeps a board of them
//! in the journal, and carries out what commands have written there.

use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sftp_front::Server;

use super::Logins;
use crate::clock::{Millis, millis};
use crate::gateway::{Core, Listening, is_served};
use crate::journal::{JournalError, Tx};
use crate::manage::deed;

/// How often the server looks for orders, and for changes to show.
const POLL: Duration = Duration::from_millis(300);
/// How old the counts on the board may be.
const COUNTS: Duration = Duration::from_secs(5);
/// Sessions shown, and sources that are shut out, at most.
pub const MAX_SHOWN: usize = 1_000;
const BOARD: &str = "sftp.sessions";
const ORDERS: &str = "sftp.end";

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

/// A source that is shut out for failed logins.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct BanRow {
    /// An IPv4 address, or the first of the IPv6 network that it is.
    pub source: IpAddr,
    /// When it may come back.
    pub until: Millis,
    /// Connections that were turned away, at most 5 s ago.
    pub refused: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
struct Board {
    pid: u32,
    rows: Vec<SessionRow>,
    #[serde(default)]
    bans: Vec<BanRow>,
}

impl Board {
    /// Whether it shows the same sessions and sources, whatever their counts.
    fn names_same(&self, other: &Board) -> bool {
        let ids = |board: &Board| board.rows.iter().map(|row| row.id).collect::<Vec<_>>();
        let sources = |board: &Board| board.bans.iter().map(|ban| ban.source).collect::<Vec<_>>();
        ids(self) == ids(other) && sources(self) == sources(other)
    }
}

/// What commands want of the server with this process number.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Orders {
    pid: u32,
    /// Sessions to end.
    ids: Vec<u64>,
    /// Sources to let in again.
    #[serde(default)]
    lift: Vec<IpAddr>,
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
    Ok(board(core)?.rows)
}

/// The sources that this server shuts out, by address; none without a server.
///
/// # Errors
/// The journal's.
pub fn bans(core: &Core) -> Result<Vec<BanRow>, JournalError> {
    Ok(board(core)?.bans)
}

/// The board of the server that runs; an empty one without a server.
fn board(core: &Core) -> Result<Board, JournalError> {
    let board: Board = core.journal.read(|tx| fact(tx, BOARD))?;
    let server = Listening::read(&core.journal).filter(|_| is_served(&core.config));
    let is_its = server.is_some_and(|server| server.pid == board.pid);
    Ok(if is_its { board } else { Board::default() })
}

/// Asks the server to end a session; it does so within a second.
///
/// # Errors
/// The journal's.
pub async fn end(core: &Core, session: &SessionRow) -> Result<(), JournalError> {
    let id = session.id;
    let told = deed(core, &session.account, "session.ended", &session.user, json!({ "session": id }));
    order(core, told, move |orders| add(&mut orders.ids, id)).await
}

/// Asks the server to let a source in again; it does so within a second.
///
/// # Errors
/// The journal's.
pub async fn lift(core: &Core, source: IpAddr) -> Result<(), JournalError> {
    let told = deed(core, "", "ban.lifted", &source.to_string(), json!({}));
    order(core, told, move |orders| add(&mut orders.lift, source)).await
}

fn add<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if list.len() < MAX_SHOWN && !list.contains(&item) {
        list.push(item);
    }
}

async fn order(
    core: &Core,
    told: impl FnOnce(&Tx<'_>) -> Result<(), JournalError> + Send + 'static,
    add: impl FnOnce(&mut Orders) + Send + 'static,
) -> Result<(), JournalError> {
    core.journal
        .write(move |tx| {
            let board: Board = fact(tx, BOARD)?;
            let mut orders: Orders = fact(tx, ORDERS)?;
            if orders.pid != board.pid {
                orders = Orders {
                    pid: board.pid,
                    ..Orders::default()
                };
            }
            add(&mut orders);
            set_fact(tx, ORDERS, &orders)?;
            told(tx)
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
    logins.trail.write(&core.journal).await?;
    let orders: Orders = core.journal.read(|tx| fact(tx, ORDERS))?;
    if !orders.ids.is_empty() || !orders.lift.is_empty() {
        // Before it has shown anything, an order is for a former server that had the same number.
        if orders.pid == pid && shown.is_some() {
            carry_out(&orders, logins, front);
        }
        // Those that a command added in between stay.
        core.journal
            .write(move |tx| {
                let mut now: Orders = fact(tx, ORDERS)?;
                now.ids.retain(|id| now.pid == pid && !orders.ids.contains(id));
                now.lift.retain(|source| now.pid == pid && !orders.lift.contains(source));
                set_fact(tx, ORDERS, &now)
            })
            .await?;
    }
    let board = Board {
        pid,
        rows: rows(core, front),
        bans: shut_out(core, logins),
    };
    let is_due = shown
        .as_ref()
        .is_none_or(|(old, at)| !old.names_same(&board) || (at.elapsed() >= COUNTS && *old != board));
    if is_due {
        let written = board.clone();
        core.journal.write(move |tx| set_fact(tx, BOARD, &written)).await?;
        *shown = Some((board, Instant::now()));
    }
    Ok(())
}

fn carry_out(orders: &Orders, logins: &Logins, front: &Server) {
    if !orders.ids.is_empty() {
        let ended = front.end_sessions(&|session| orders.ids.contains(&session.id));
        tracing::info!(ended, "sessions ended by command");
    }
    for source in &orders.lift {
        if logins.penalties.lift(*source) {
            tracing::info!(%source, "let in again by command");
        }
    }
}

fn shut_out(core: &Core, logins: &Logins) -> Vec<BanRow> {
    let (now, shut) = (core.clock.now(), logins.penalties.shut(Instant::now()));
    let rows = shut.into_iter().take(MAX_SHOWN).map(|shut| BanRow {
        source: shut.source,
        // To the second: two looks at one ban are to say the same.
        until: (now + millis(shut.left) + 500) / 1000 * 1000,
        refused: shut.refused,
    });
    rows.collect()
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
