//! `lifecycle`: in view, out of view, deleted.

use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::error::DONE;
use super::output::{Cell, Format, List};
use super::{Ctx, Outcome};
use crate::config::{Stages, show_duration};
use crate::gateway::Core;
use crate::layout;
use crate::lifecycle::{self, Plan};
use crate::manage::{Refusal, Result, accounts, blocking, messages, objects, sweeping};

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  as2gate lifecycle status
  as2gate lifecycle run --dry-run
  as2gate lifecycle restore 730915526")]
pub(crate) enum Verb {
    /// Show how much there is, how long it stays, and what the next sweep takes.
    #[command(after_help = "Examples:
  as2gate lifecycle status
  as2gate lifecycle status -o json")]
    Status,
    /// Sweep now; by hand also what an automatic sweep stopped at.
    #[command(after_help = "Examples:
  as2gate lifecycle run --dry-run
  as2gate lifecycle run")]
    Run,
    /// Bring back what is out of view and not deleted yet: all files of a message, a file, or all below a directory.
    #[command(after_help = "Examples:
  as2gate lifecycle restore 730915526
  as2gate lifecycle restore AS2/files/ACME_PROD/BIGMART/inbox/20261122T150344391Z-730915526
  as2gate lifecycle restore AS2/raw-mdn/incoming")]
    Restore {
        /// A message: its id, the id's nine digits, or the Message-ID; or a path below the account's home, e.g. AS2/files/…
        what: String,
    },
}

pub(crate) async fn run(ctx: &Ctx, verb: Verb) -> Outcome {
    let core = ctx.core()?;
    match verb {
        Verb::Status => status(ctx, &core)?,
        Verb::Run if ctx.dry_run() => report(ctx, &lifecycle::plan(&core)?, true),
        Verb::Run => {
            sweeping::expect_all_accounts(&core, ctx.account())?;
            sweeping::expect_figures_of_server(&core)?;
            let worker = Arc::clone(&core);
            let plan = blocking("the sweep stopped", move || lifecycle::run(&worker, true)).await?;
            report(ctx, &plan, false);
        }
        Verb::Restore { what } if is_path(&what) => restore(ctx, &core, &what).await?,
        Verb::Restore { what } => restore_message(ctx, &core, &what).await?,
    }
    Ok(DONE)
}

fn status(ctx: &Ctx, core: &Core) -> Result<()> {
    let plan = lifecycle::plan(core)?;
    let stages = core.config.lifecycle.clone();
    let all = objects(core)?;
    let columns = [
        ("account", "ACCOUNT"),
        ("area", "AREA"),
        ("files", "FILES"),
        ("current", "IN VIEW"),
        ("noncurrent", "RESTORABLE"),
        ("next_noncurrent", "LEAVE NEXT"),
        ("next_deleted", "DELETED NEXT"),
    ];
    let mut list = List::new(&columns, "no accounts");
    for row in plan.rows.iter().filter(|row| ctx.lists(&row.account)) {
        let own = all.accounts.get(&row.account).and_then(|account| account.lifecycle.as_ref());
        let figures = stages.with(own).unwrap_or_else(|_| stages.clone());
        let stage = match row.area.as_str() {
            "duplicate" => figures.duplicate,
            "tmp" => figures.tmp,
            // Messages are known so long, and none comes back.
            lifecycle::HISTORY => Stages {
                current: figures.history,
                noncurrent: Duration::ZERO,
            },
            _ => figures.messages,
        };
        list.push(vec![
            Cell::text(&row.account),
            Cell::text(&row.area),
            Cell::number(row.all),
            Cell::text(show_duration(stage.current)),
            Cell::text(show_duration(stage.noncurrent)),
            Cell::number(row.noncurrent),
            Cell::number(row.delete),
        ]);
    }
    ctx.printer.list(&list);
    Ok(())
}

/// Ids have no slashes but for some Message-IDs, which have an @.
fn is_path(what: &str) -> bool {
    let below = what.trim_start_matches('/');
    below == "AS2" || below.starts_with("AS2/") || layout::account_of(below).is_some() || what.contains('/') && !what.contains('@')
}

async fn restore_message(ctx: &Ctx, core: &Arc<Core>, id: &str) -> Result<()> {
    let message = messages::choose(core, ctx.account(), id)?;
    let hidden = core.journal.read(|tx| tx.entries_of(message.id.as_str()))?;
    let hidden = hidden.iter().filter(|entry| !entry.is_dir && entry.noncurrent.is_some()).count();
    if ctx.dry_run() {
        ctx.printer.done(
            &json!({ "id": message.id, "restored": 0, "would_restore": hidden }),
            &format!("{hidden} files would come back"),
        );
        return Ok(());
    }
    let (worker, id) = (Arc::clone(core), message.id.clone());
    let files = blocking("the restore stopped", move || lifecycle::restore_message(&worker, id.as_str())).await?;
    if files == 0 {
        return Err(Refusal::not_found(
            format!("nothing to restore of message {}", message.id),
            "no file of it is out of view and still kept",
            format!("as2gate message show {} says where its files are", message.id.short()),
        ));
    }
    ctx.printer.done(
        &json!({ "id": message.id, "restored": files }),
        &format!("{files} files are back in view; their time begins anew"),
    );
    Ok(())
}

async fn restore(ctx: &Ctx, core: &Arc<Core>, path: &str) -> Result<()> {
    /// Rows that a dry run looks at.
    const MAX_SHOWN: u32 = 100_000;
    let all = objects(core)?;
    // A path with the home in front names its account.
    let named = layout::account_of(path.trim_start_matches('/'));
    let account = accounts::choose(&all, ctx.account().or(named))?.id.clone();
    let below = layout::below_home(&account, path.trim_matches('/')).to_owned();
    if ctx.dry_run() {
        let hidden = core.journal.read(|tx| tx.noncurrent_below(&account, &below, None, MAX_SHOWN))?;
        let files = hidden.iter().filter(|entry| !entry.is_dir).count();
        ctx.printer.done(
            &json!({ "account": account, "path": below, "restored": 0, "would_restore": files }),
            &format!("{files} files would come back"),
        );
        return Ok(());
    }
    let (worker, owner, target) = (Arc::clone(core), account.clone(), below.clone());
    let files = blocking("the restore stopped", move || lifecycle::restore(&worker, &owner, &target)).await?;
    if files == 0 {
        let why = "no file below that path is out of view and still kept";
        return Err(Refusal::not_found(
            format!("nothing to restore at {below}"),
            why,
            "the path is the one that SFTP showed, e.g. AS2/files/…",
        ));
    }
    ctx.printer.done(
        &json!({ "account": account, "path": below, "restored": files }),
        &format!("{files} files are back in view; their time begins anew"),
    );
    Ok(())
}

fn report(ctx: &Ctx, plan: &Plan, dry: bool) {
    let rows: Vec<_> = plan.rows.iter().filter(|row| ctx.lists(&row.account)).collect();
    if ctx.printer.format == Format::Json {
        ctx.printer.list_of(rows.iter().map(|row| json!(row)).collect());
        return;
    }
    let several = rows.iter().map(|row| &row.account).collect::<std::collections::BTreeSet<_>>().len() > 1;
    let (left, deleted, forgotten) = if dry {
        ("would become non-current", "would be deleted", "would be forgotten")
    } else {
        ("became non-current", "were deleted", "were forgotten")
    };
    let mut text = String::new();
    for row in rows.iter().filter(|row| row.noncurrent + row.delete > 0) {
        let account = if several { format!("{:<12} ", row.account) } else { String::new() };
        if row.area == lifecycle::HISTORY {
            text.push_str(&format!("{account}{:<16} {} messages {forgotten}\n", row.area, row.delete));
            continue;
        }
        let mut parts = Vec::new();
        if row.noncurrent > 0 {
            parts.push(format!("{} files {left}", row.noncurrent));
        }
        if row.delete > 0 {
            parts.push(if row.noncurrent > 0 {
                format!("{} {deleted}", row.delete)
            } else {
                format!("{} files {deleted}", row.delete)
            });
        }
        text.push_str(&format!("{account}{:<16} {}\n", format!("AS2/{}", row.area), parts.join(", ")));
    }
    let nothing = if dry { "nothing is due" } else { "nothing was due" };
    ctx.printer.done(&json!(null), if text.is_empty() { nothing } else { &text });
}
