//! `session`: the SFTP sessions of the running server.

use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::error::DONE;
use super::output::{Cell, List};
use super::{Ctx, Outcome};
use crate::gateway::Core;
use crate::manage::{Refusal, Result};
use crate::sftp_tree::sessions::{self, SessionRow};

/// How long a command waits for the server to do it, and how often it looks.
const WAIT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  as2gate session list
  as2gate session end 17")]
pub(crate) enum Verb {
    /// List the sessions that have logged in.
    #[command(after_help = "Examples:
  as2gate session list
  as2gate session list -o json")]
    List,
    /// End a session; its open uploads are broken off. The user may log in again: `user disable` prevents that.
    #[command(after_help = "Examples:
  as2gate session end 17")]
    End {
        /// Its number in the list.
        id: u64,
    },
}

pub(crate) async fn run(ctx: &Ctx, verb: Verb) -> Outcome {
    let core = ctx.core()?;
    match verb {
        Verb::List => list(ctx, &core)?,
        Verb::End { id } => {
            let session = find(ctx, &core, id)?.ok_or_else(|| {
                Refusal::not_found(
                    format!("no session {id}"),
                    "it has ended, or there was none",
                    "as2gate session list",
                )
            })?;
            if !ctx.dry_run() {
                end(ctx, &core, &session).await?;
            }
            let text = format!("Session {id} of {} {}", session.user, ctx.tense("ended", "would be ended"));
            ctx.printer.done(
                &json!({ "id": id, "user": session.user, "ended": !ctx.dry_run() }),
                &ctx.would(text),
            );
        }
    }
    Ok(DONE)
}

fn find(ctx: &Ctx, core: &Core, id: u64) -> Result<Option<SessionRow>> {
    Ok(sessions::list(core)?
        .into_iter()
        .find(|row| row.id == id && ctx.lists(&row.account)))
}

async fn end(ctx: &Ctx, core: &Core, session: &SessionRow) -> Result<()> {
    sessions::end(core, session).await?;
    let id = session.id;
    let late = ("session-lives", format!("session {id} has not ended yet"), "as2gate session list");
    until(|| Ok(find(ctx, core, id)?.is_none()), late).await
}

/// Waits until the server has done what it was asked for; `late` is the code, the words and the hint where it does not in time.
pub(super) async fn until(is_done: impl Fn() -> Result<bool>, late: (&'static str, String, &str)) -> Result<()> {
    let begun = std::time::Instant::now();
    while !is_done()? {
        if begun.elapsed() > WAIT {
            let (code, what, hint) = late;
            return Err(Refusal::failed(code, what, "the server was asked and did not do it in time", hint));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn list(ctx: &Ctx, core: &Core) -> Result<()> {
    let columns = [
        ("id", "ID"),
        ("user", "USER"),
        ("account", "ACCOUNT"),
        ("peer", "FROM"),
        ("client", "CLIENT"),
        ("since", "SINCE"),
        ("bytes_in", "IN"),
        ("bytes_out", "OUT"),
    ];
    let mut list = List::new(&columns, "no sessions");
    for row in sessions::list(core)?.into_iter().filter(|row| ctx.lists(&row.account)) {
        list.push(vec![
            Cell::number(row.id),
            Cell::text(row.user),
            Cell::text(row.account),
            Cell::text(row.peer),
            Cell::text(row.client),
            Cell::time(Some(row.since), core.clock.now()),
            Cell::size(row.bytes_in),
            Cell::size(row.bytes_out),
        ]);
    }
    ctx.printer.list(&list);
    Ok(())
}
