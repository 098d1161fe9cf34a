//! `account`: who owns everything else.

use clap::Subcommand;
use serde_json::json;

use super::error::DONE;
use super::output::{Cell, List, facts};
use super::settings::{OfAccount, Settings};
use super::{Ctx, Outcome};
use crate::gateway::Core;
use crate::layout;
use crate::manage::{Result, accounts, objects};

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  as2gate account add acme --name Acme
  as2gate account list")]
pub(crate) enum Verb {
    /// List accounts.
    #[command(after_help = "Examples:
  as2gate account list
  as2gate account list -o json")]
    List,
    /// Show an account.
    #[command(after_help = "Examples:
  as2gate account show acme")]
    Show {
        /// The account.
        id: String,
    },
    /// Add an account.
    #[command(after_help = "Examples:
  as2gate account add acme --name Acme --timezone America/New_York
  as2gate account add acme --with-records")]
    Add {
        /// Its id: a-z, 0-9 and -, at most 40.
        id: String,
        /// Take over what is kept of a removed account of this id, to be seen by the new one's users.
        #[arg(long)]
        with_records: bool,
        #[command(flatten)]
        settings: Settings<OfAccount>,
    },
    /// Change an account.
    #[command(after_help = "Examples:
  as2gate account set acme --keep-messages 90d")]
    Set {
        /// The account.
        id: String,
        #[command(flatten)]
        settings: Settings<OfAccount>,
    },
    /// Remove an account that owns nothing any more.
    #[command(after_help = "Examples:
  as2gate account rm acme")]
    Rm {
        /// The account.
        id: String,
    },
}

pub(crate) async fn run(ctx: &Ctx, verb: Verb) -> Outcome {
    let core = ctx.core()?;
    match verb {
        Verb::List => list(ctx, &core)?,
        Verb::Show { id } => show(ctx, &core, &id)?,
        Verb::Add {
            id,
            with_records,
            settings,
        } => {
            let account = accounts::add(&core, &id, &settings.pairs()?, with_records, ctx.dry_run()).await?;
            ctx.printer.done(
                &json!(account),
                &ctx.would(format!("Account {}   home /{}", account.id, layout::home(&account.id))),
            );
        }
        Verb::Set { id, settings } => {
            let account = accounts::set(&core, &id, &settings.some("account", &id)?, ctx.dry_run()).await?;
            let changed = ctx.tense("changed", "would be changed");
            ctx.printer
                .done(&json!(account), &ctx.would(format!("Account {} {changed}", account.id)));
        }
        Verb::Rm { id } => {
            ctx.confirm(&format!("remove account {id}?"))?;
            accounts::remove(&core, &id, ctx.dry_run()).await?;
            let removed = ctx.tense("removed", "would be removed");
            ctx.printer.done(
                &json!({ "id": id, "removed": !ctx.dry_run() }),
                &ctx.would(format!("Account {id} {removed}; its records stay on disk")),
            );
        }
    }
    Ok(DONE)
}

fn list(ctx: &Ctx, core: &Core) -> Result<()> {
    let all = objects(core)?;
    let columns = [
        ("id", "ID"),
        ("name", "NAME"),
        ("stations", "STATIONS"),
        ("partners", "PARTNERS"),
        ("users", "USERS"),
        ("timezone", "TIMEZONE"),
    ];
    let mut list = List::new(&columns, "no accounts; as2gate account add ID");
    for account in all.accounts.values().filter(|account| ctx.lists(&account.id)) {
        let stations = all.stations.values().filter(|s| s.account == account.id).count();
        let partners = all.partners.values().filter(|p| p.account == account.id).count();
        let users = all.users.values().filter(|u| u.account == account.id).count();
        let count = |n: usize| Cell::number(u64::try_from(n).unwrap_or(u64::MAX));
        list.push(vec![
            Cell::text(&account.id),
            Cell::text(&account.name),
            count(stations),
            count(partners),
            count(users),
            Cell::text(&account.timezone),
        ]);
    }
    ctx.printer.list(&list);
    Ok(())
}

fn show(ctx: &Ctx, core: &Core, id: &str) -> Result<()> {
    let all = objects(core)?;
    let account = accounts::choose(&all, Some(id))?;
    let life = core
        .config
        .lifecycle
        .with(account.lifecycle.as_ref())
        .unwrap_or_else(|_| core.config.lifecycle.clone());
    let stages = |stages: crate::config::Stages| {
        format!(
            "{} in view, then {} restorable",
            crate::config::show_duration(stages.current),
            crate::config::show_duration(stages.noncurrent)
        )
    };
    let home = layout::home(&account.id);
    let tree = core.config.paths().tree.join(&home);
    let text = facts(&[
        ("Account", account.id.clone()),
        ("Name", account.name.clone()),
        ("Timezone", account.timezone.clone()),
        ("Records", stages(life.messages)),
        ("History", crate::config::show_duration(life.history)),
        ("Home", format!("/{home}   on disk {}", tree.display())),
    ]);
    let object = json!({
        "id": account.id, "name": account.name, "timezone": account.timezone, "home": format!("/{home}"), "lifecycle": account.lifecycle,
    });
    ctx.printer.show(&object, &text);
    Ok(())
}
