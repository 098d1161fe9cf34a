//! `apply` and `export`: all objects as TOML.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::error::DONE;
use super::output::{Format, out, plain};
use super::{Ctx, Outcome};
use crate::manage::apply::{self, Difference, files_of};
use crate::manage::{Refusal, accounts, objects};
use crate::objects::Objects;

/// Bring objects into the state that TOML files describe.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  as2gate apply -f objects.toml --dry-run       what would change
  as2gate apply -f objects.toml                 all of it, or nothing
  as2gate apply -f objects/ --prune -y          remove what the files do not name")]
pub(crate) struct Apply {
    /// A TOML file, or a directory of them.
    #[arg(short, long, value_name = "FILE|DIR", required = true)]
    file: Vec<PathBuf>,
    /// Remove objects that the files do not name.
    #[arg(long)]
    prune: bool,
}

/// Write all objects as TOML.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  as2gate export > objects.toml
  as2gate export -a acme --out acme.toml
  as2gate export -o json                           for programs: the same tables and names
  as2gate export --with-secrets --out full.toml    private keys and passwords, sealed")]
pub(crate) struct Export {
    /// With private keys and passwords, sealed: readable with the same master key only.
    #[arg(long)]
    with_secrets: bool,
    /// Write here instead, as TOML, mode 0600.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) async fn run(ctx: &Ctx, args: &Apply) -> Outcome {
    let core = ctx.core()?;
    let mut files = Vec::new();
    for path in &args.file {
        files.extend(files_of(path)?);
    }
    let differences = if args.prune && !ctx.dry_run() && !ctx.globals.yes {
        // Shown before it is asked.
        let planned = apply::apply(&core, ctx.account(), &files, true, true).await?;
        let all = objects(&core)?;
        let removals: Vec<String> = planned.iter().filter(|d| d.action == "remove").map(|d| removal(&all, d)).collect();
        if !removals.is_empty() {
            ctx.confirm(&format!("remove {}?", removals.join(", ")))?;
        }
        apply::apply(&core, ctx.account(), &files, true, false).await?
    } else {
        apply::apply(&core, ctx.account(), &files, args.prune, ctx.dry_run()).await?
    };
    show(ctx, &differences);
    Ok(DONE)
}

/// What goes, as a question names it.
fn removal(all: &Objects, gone: &Difference) -> String {
    let Difference { kind, account, name, .. } = gone;
    let has_key = || all.certificate(account, name).is_some_and(|c| c.sealed_key.is_some());
    let loss = if kind == "certificate" && has_key() {
        ", whose private key is gone for good"
    } else {
        ""
    };
    format!("{kind} {name}{loss}")
}

fn show(ctx: &Ctx, differences: &[Difference]) {
    if ctx.printer.format == Format::Json {
        ctx.printer
            .list_of(differences.iter().map(|difference| json!(difference)).collect());
        return;
    }
    if ctx.printer.quiet {
        return;
    }
    for difference in differences {
        let sign = match difference.action {
            "add" => '+',
            "remove" => '-',
            _ => '~',
        };
        let fields = if difference.fields.is_empty() {
            String::new()
        } else {
            format!("   {}", difference.fields.join(", "))
        };
        out(&plain(&format!("{sign} {:<12} {}{fields}", difference.kind, difference.name)));
    }
    let count = |action: &str| differences.iter().filter(|difference| difference.action == action).count();
    let (added, changed, removed) = (count("add"), count("change"), count("remove"));
    let summary = if differences.is_empty() {
        "nothing to change".to_owned()
    } else {
        let be = ctx.tense("", "would be ");
        format!("{added} {be}added, {changed} {be}changed, {removed} {be}removed")
    };
    out(&ctx.would(summary));
}

pub(crate) fn export(ctx: &Ctx, args: &Export) -> Outcome {
    let core = ctx.core()?;
    let all = objects(&core)?;
    if let Some(id) = ctx.account() {
        accounts::choose(&all, Some(id))?;
    }
    let text = apply::export(&all, ctx.account(), args.with_secrets);
    match &args.out {
        Some(file) => {
            ctx.write_file(file, &text, 0o600)?;
            ctx.printer
                .done(&json!({ "file": file, "written": !ctx.dry_run() }), &ctx.wrote(file));
        }
        None if ctx.printer.format == Format::Json => {
            let tables: toml::Table = text.parse().map_err(|error: toml::de::Error| {
                Refusal::failed("internal", "cannot export", error.to_string(), "export without -o json")
            })?;
            ctx.printer.show(&json!(tables), "");
        }
        None => out(&text),
    }
    Ok(DONE)
}
