//! `ban`: the sources that the running server shuts out.

use std::net::IpAddr;

use clap::Subcommand;
use serde_json::json;

use super::error::DONE;
use super::output::{Cell, List};
use super::session::until;
use super::{Ctx, Outcome};
use crate::gateway::Core;
use crate::listen::network;
use crate::manage::{Refusal, Result};
use crate::sftp_tree::sessions::{self, BanRow};

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  as2gate ban list
  as2gate ban lift 203.0.113.7")]
pub(crate) enum Verb {
    /// List the sources that are shut out, and until when. A restart of the server lets all of them in.
    #[command(after_help = "Examples:
  as2gate ban list
  as2gate ban list -o json")]
    List,
    /// Let a source in again, as if it had never failed. `sftp.ban.except` names those that are never shut out.
    #[command(after_help = "Examples:
  as2gate ban lift 203.0.113.7
  as2gate ban lift 2001:db8::1")]
    Lift {
        /// Its address; of an IPv6 network, any.
        address: IpAddr,
    },
}

pub(crate) async fn run(ctx: &Ctx, verb: Verb) -> Outcome {
    let core = ctx.core()?;
    match verb {
        Verb::List => list(ctx, &core)?,
        Verb::Lift { address } => {
            let ban = find(&core, address)?.ok_or_else(|| {
                Refusal::not_found(
                    format!("{address} is not shut out"),
                    "its time is over, or it never was",
                    "as2gate ban list",
                )
            })?;
            if !ctx.dry_run() {
                sessions::lift(&core, address).await?;
                if !until(|| Ok(find(&core, address)?.is_none())).await? {
                    return Err(Refusal::failed(
                        "still-banned",
                        format!("{} is still shut out", shown(&ban)),
                        "the server was asked and did not do it in time",
                        "as2gate ban list",
                    ));
                }
            }
            let text = format!("{} {}", shown(&ban), ctx.tense("may log in again", "would be let in"));
            ctx.printer
                .done(&json!({ "source": ban.source, "lifted": !ctx.dry_run() }), &ctx.would(text));
        }
    }
    Ok(DONE)
}

fn find(core: &Core, address: IpAddr) -> Result<Option<BanRow>> {
    Ok(sessions::bans(core)?.into_iter().find(|ban| ban.source == network(address)))
}

/// An IPv6 host may choose among its whole /64, so that is what is shut out.
fn shown(ban: &BanRow) -> String {
    match ban.source {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("{address}/64"),
    }
}

fn list(ctx: &Ctx, core: &Core) -> Result<()> {
    let columns = [("source", "SOURCE"), ("until", "UNTIL"), ("refused", "TURNED AWAY")];
    let mut list = List::new(&columns, "nobody is shut out");
    for ban in sessions::bans(core)? {
        list.push(vec![
            Cell::text(shown(&ban)),
            Cell::time(Some(ban.until), core.clock.now()),
            Cell::number(ban.refused),
        ]);
    }
    ctx.printer.list(&list);
    Ok(())
}
