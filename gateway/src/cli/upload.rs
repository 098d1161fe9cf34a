//! `upload`: files that wait in `send` and are no messages.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{Cell, List};
use super::{Ctx, Outcome, message, send};
use crate::clock::Millis;
use crate::gateway::Core;
use crate::hint::option;
use crate::journal::{UploadRow, UploadState};
use crate::layout;
use crate::manage::uploads::{self, Filter};
use crate::manage::{Refusal, Result, objects};
use crate::message::{Message, State};
use crate::objects::ObjectKind;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  as2gate upload list
  as2gate upload release order-1001.edi
  as2gate upload release order-1002.edi.part --name order-1002.edi
  as2gate upload rm test.edi --station ACME_PROD --partner BIGMART")]
pub(crate) enum Verb {
    /// List what waits, with the reason, longest first.
    #[command(after_help = "Examples:
  as2gate upload list
  as2gate upload list --state parked --partner BIGMART
  as2gate upload list -o json")]
    List {
        #[command(flatten)]
        which: Which,
        /// Only parked, ignored or part (broken off).
        #[arg(long, value_name = "STATE")]
        state: Option<UploadState>,
    },
    /// Send files as they are; the 6-hour rule counts.
    #[command(after_help = "Examples:
  as2gate upload release order-1001.edi
  as2gate upload release AS2/send/ACME_PROD/BIGMART/order-1001.edi
  as2gate upload release order-1002.edi.part --name order-1002.edi")]
    Release {
        /// Their names, or paths as SFTP shows them.
        #[arg(required = true)]
        names: Vec<String>,
        /// The name to send it under; for one file.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Delete files that wait.
    #[command(after_help = "Examples:
  as2gate upload rm order-1001.edi
  as2gate upload rm empty.txt --user acme-erp")]
    Rm {
        /// Their names, or paths as SFTP shows them.
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        which: Which,
    },
}

/// Where to look.
#[derive(Clone, Debug, Args)]
pub(crate) struct Which {
    /// Only below this station.
    #[arg(long, value_name = "ID")]
    station: Option<String>,
    /// Only for this partner.
    #[arg(long, value_name = "ID")]
    partner: Option<String>,
    /// Only of this user.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

impl Which {
    fn filter(self, ctx: &Ctx, state: Option<UploadState>) -> Filter {
        Filter {
            account: ctx.account().map(str::to_owned),
            station: self.station,
            partner: self.partner,
            user: self.user,
            state,
        }
    }
}

pub(crate) async fn run(ctx: &Ctx, verb: Verb) -> Outcome {
    let core = ctx.core()?;
    match verb {
        Verb::List { which, state } => {
            let rows = uploads::list(&core, &which.filter(ctx, state))?;
            ctx.printer.list(&table(&rows, core.clock.now()));
            Ok(super::error::DONE)
        }
        Verb::Release { names, name, which } => {
            if name.is_some() && names.len() > 1 {
                return Err(Refusal::usage(
                    "--name is for one file",
                    "several files cannot share a name",
                    "release them one by one",
                ));
            }
            let chosen = chosen(&core, &which.filter(ctx, None), &names)?;
            let mut results = Vec::new();
            for row in &chosen {
                let released = uploads::release(&core, row, name.as_deref(), ctx.dry_run()).await;
                results.push(released.and_then(|message| released_as(ctx, row, message)));
            }
            if results.iter().any(Result::is_ok) {
                let pairs: BTreeSet<_> = chosen.iter().map(|row| (&row.station, &row.partner)).collect();
                pairs
                    .into_iter()
                    .for_each(|(station, partner)| send::note_block(ctx, &core, station, partner));
            }
            ctx.each_done("uploads", names.len() == 1, results)
        }
        Verb::Rm { names, which } => {
            let chosen = chosen(&core, &which.filter(ctx, None), &names)?;
            if chosen.len() > 1 {
                ctx.confirm(&format!("{} files will be deleted; go on?", chosen.len()))?;
            }
            let mut results = Vec::new();
            for row in &chosen {
                let removed = uploads::remove(&core, row, ctx.dry_run()).await;
                let text = ctx.would(format!("{}   {}", place(row), ctx.tense("deleted", "would be deleted")));
                results.push(removed.map(|()| (object(row), text)));
            }
            ctx.each_done("uploads", names.len() == 1, results)
        }
    }
}

/// Says what still waits for a station or a partner that is removed, or has another AS2 id now.
pub(super) fn note_left(ctx: &Ctx, core: &Core, account: Option<&str>, left: (ObjectKind, &str)) -> Result<()> {
    let (kind, id) = left;
    let is = |wanted| (kind == wanted).then(|| id.to_owned());
    let filter = Filter {
        account: account.map(str::to_owned),
        station: is(ObjectKind::Station),
        partner: is(ObjectKind::Partner),
        ..Filter::default()
    };
    let files = match uploads::list(core, &filter)?.len() {
        0 => return Ok(()),
        1 => "1 file still waits".to_owned(),
        n => format!("{n} files still wait"),
    };
    ctx.printer.note(&format!(
        "note: {files} in send, and would be there for the next of that id: as2gate upload list {}",
        option(kind.as_str(), id)
    ));
    Ok(())
}

/// Says what stays under the former AS2 id of a station or a partner: what waits, and the rights of users, which are at folders.
pub(super) fn note_former(ctx: &Ctx, core: &Core, account: &str, former: (ObjectKind, &str)) -> Result<()> {
    let (kind, id) = former;
    // `AS2/<area>/<station>/<partner>`
    let level = if kind == ObjectKind::Station { 2 } else { 3 };
    let folder = layout::encode(id);
    for user in objects(core)?.users.values().filter(|user| user.account == account) {
        if user.rights.iter().any(|right| right.prefix.get(level) == Some(&folder)) {
            ctx.printer.note(&format!(
                "note: rights of user {0} are still at folders of {id}: as2gate user set {0} --rights RIGHTS",
                user.name
            ));
        }
    }
    note_left(ctx, core, Some(account), former)
}

fn chosen(core: &Core, filter: &Filter, names: &[String]) -> Result<Vec<UploadRow>> {
    let mut rows: Vec<UploadRow> = Vec::new();
    for name in names {
        let row = uploads::choose(core, filter, name)?;
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    Ok(rows)
}

/// A duplicate is told as a refusal, as `send` does.
fn released_as(ctx: &Ctx, row: &UploadRow, message: Option<Message>) -> Result<(Value, String)> {
    match message {
        None => Ok((object(row), ctx.would(format!("{}   would be sent", place(row))))),
        Some(message) if message.state == State::Duplicate => Err(Refusal::failed(
            "duplicate",
            format!("{} is a duplicate and was not sent", message.file),
            message.reason,
            format!("as2gate message resend {} sends it all the same", message.id.short()),
        )),
        Some(message) => Ok((
            message::object(&message),
            format!("{}   sent as message {}", place(row), message.id),
        )),
    }
}

fn place(row: &UploadRow) -> String {
    format!("{} → {}   {}", row.station, row.partner, row.name)
}

/// A waiting file as programs see it.
fn object(row: &UploadRow) -> Value {
    json!({
        "station": row.station, "partner": row.partner, "name": row.name, "user": row.owner, "size": row.size,
        "state": row.state.as_str(), "code": row.reason.as_str(), "reason": row.reason.text(), "account": row.account, "sha256": row.sha256,
    })
}

fn table(rows: &[UploadRow], now: Millis) -> List {
    let columns = [
        ("station", "STATION"),
        ("partner", "PARTNER"),
        ("name", "FILE"),
        ("user", "USER"),
        ("size", "SIZE"),
        ("state", "STATE"),
        ("age", "AGE"),
        ("reason", "REASON"),
        ("code", ""),
        ("updated", ""),
        ("created", ""),
        ("account", ""),
        ("sha256", ""),
    ];
    let mut list = List::new(&columns, "no uploads wait");
    for row in rows {
        list.push(vec![
            Cell::text(&row.station),
            Cell::text(&row.partner),
            Cell::text(&row.name),
            Cell::text(&row.owner),
            Cell::size(row.size),
            Cell::text(row.state.to_string()),
            Cell::age(row.updated, now),
            Cell::text(row.reason.text()),
            Cell::text(row.reason.as_str()),
            Cell::time(Some(row.updated), now),
            Cell::time(Some(row.created), now),
            Cell::text(&row.account),
            Cell::text(&row.sha256),
        ]);
    }
    list
}
