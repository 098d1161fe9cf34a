//! `ban`: the sources that the running server shuts out.

use std::net::IpAddr;

use clap::Subcommand;
use serde_json::json;

use super::error::DONE;
use super::output::{Cell, List};
use super::session::until;
use super::{Ctx, Outcome};
use crate::block::network;
use crate::gateway::Core;
use crate::manage::{Refusal, Result};
use crate::sftp_tree::sessions::{self, BanRow, MAX_SHOWN};

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
        /// Its address; of an IPv6 network, any of it, or the network as it is listed.
        #[arg(value_parser = source)]
        source: IpAddr,
    },
}

pub(crate) async fn run(ctx: &Ctx, verb: Verb) -> Outcome {
    let core = ctx.core()?;
    match verb {
        Verb::List => list(ctx, &core)?,
        Verb::Lift { source } => {
            let source = network(source);
            let bans = sessions::bans(&core)?;
            // A board that is full does not show all.
            if !is_among(&bans, source) && bans.len() < MAX_SHOWN {
                return Err(Refusal::not_found(
                    format!("{} is not shut out", shown(source)),
                    "its time is over, or it never was",
                    "as2gate ban list",
                ));
            }
            if !ctx.dry_run() {
                sessions::lift(&core, source).await?;
                let late = ("still-banned", format!("{} is still shut out", shown(source)), "as2gate ban list");
                until(|| Ok(!is_among(&sessions::bans(&core)?, source)), late).await?;
            }
            let text = format!("{} {}", shown(source), ctx.tense("may log in again", "would be let in"));
            ctx.printer
                .done(&json!({ "source": shown(source), "lifted": !ctx.dry_run() }), &ctx.would(text));
        }
    }
    Ok(DONE)
}

fn is_among(bans: &[BanRow], source: IpAddr) -> bool {
    bans.iter().any(|ban| ban.source == source)
}

/// An IPv6 host may choose among its whole /64, so that is what is shut out.
fn shown(source: IpAddr) -> String {
    match source {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("{address}/64"),
    }
}

/// An address, or a network as the list shows it.
fn source(text: &str) -> std::result::Result<IpAddr, String> {
    let address = text.strip_suffix("/64").unwrap_or(text).parse();
    address.map_err(|_| "it is no address; as2gate ban list shows who is shut out".to_owned())
}

fn list(ctx: &Ctx, core: &Core) -> Result<()> {
    let columns = [("source", "SOURCE"), ("until", "UNTIL"), ("refused", "TURNED AWAY")];
    let mut list = List::new(&columns, "nobody is shut out");
    let bans = sessions::bans(core)?;
    for ban in &bans {
        list.push(vec![
            Cell::text(shown(ban.source)),
            Cell::time(Some(ban.until), core.clock.now()),
            Cell::number(ban.refused),
        ]);
    }
    ctx.printer.list(&list);
    if bans.len() == MAX_SHOWN {
        ctx.printer.note("there are more than are shown");
    }
    Ok(())
}
