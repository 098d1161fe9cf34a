//! `check` validates without starting; `doctor` looks at the machine.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::json;

use super::error::DONE;
use super::output::{Cell, Format, List, out, plain};
use super::{Ctx, Outcome};
use crate::config::Config;
use crate::config::values::{Setting, Source};
use crate::gateway::health::{self, Finding, Level};
use crate::gateway::{Core, StartError};
use crate::manage::{Refusal, RefusalKind, Result, objects, rules};

/// Validate configuration and objects without starting.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  as2gate check
  as2gate check --effective            every value and where it came from
  as2gate check --effective -v         and what it means
  as2gate check -c new.toml            before it is put in place")]
pub(crate) struct Check {
    /// Print every value in force and its source; with -v also its default and what it means.
    #[arg(long)]
    effective: bool,
}

/// Look for what could go wrong: keys, ports, disk, clock, database.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  as2gate doctor
  as2gate doctor -o json")]
pub(crate) struct Doctor {}

/// Says on standard error what keeps one object, named like `partner BOB `, from doing its work.
pub(super) fn note(ctx: &Ctx, core: &Core, object: &str) -> Result<()> {
    if ctx.dry_run() || ctx.printer.format == Format::Json {
        return Ok(());
    }
    for (what, hint) in rules::warnings(&core.config, &objects(core)?, core.clock.now()) {
        // Two that look alike are told of in one line.
        if what.starts_with(object) || what.contains(&format!(" and {object}have ")) {
            ctx.printer.note(&format!("note: {what}; {hint}"));
        }
    }
    Ok(())
}

/// The same of certificates by name.
pub(super) fn note_certificates<'a>(ctx: &Ctx, core: &Core, names: impl IntoIterator<Item = &'a String>) -> Result<()> {
    let names: BTreeSet<&String> = names.into_iter().collect();
    names
        .into_iter()
        .try_for_each(|name| note(ctx, core, &format!("certificate {name} ")))
}

pub(crate) fn run(ctx: &Ctx, args: &Check) -> Outcome {
    let config = ctx.config()?;
    if args.effective {
        match (ctx.globals.verbose, ctx.printer.format) {
            (0, _) => ctx.printer.list(&effective(&config)),
            (_, Format::Table) => out(&plain(&explained(&config))),
            _ => ctx.printer.list(&listed(&config, true)),
        }
        return Ok(DONE);
    }
    let findings = match Core::open(config.clone()) {
        Ok(core) => health::check(&config, Some(&core))?,
        Err(error @ StartError::NotSetUp(_)) => {
            let mut findings = health::check(&config, None)?;
            findings.push(unopened(ctx, &error));
            findings
        }
        Err(error) => return Err(ctx.cannot_start(error)),
    };
    finish(ctx, &findings, "configuration and objects are valid")
}

/// What is said of a data directory that cannot be opened.
pub(super) fn unopened(ctx: &Ctx, error: &StartError) -> Finding {
    Finding::bad("data directory", error.to_string(), &ctx.start_hint(error))
}

/// Every value in force and its source.
pub(super) fn effective(config: &Config) -> List {
    listed(config, false)
}

/// The same, and on demand what it means.
fn listed(config: &Config, with_meaning: bool) -> List {
    let columns = [
        ("key", "KEY"),
        ("value", "VALUE"),
        ("source", "SOURCE"),
        ("default", "DEFAULT"),
        ("meaning", "MEANING"),
    ];
    let count = if with_meaning { columns.len() } else { 3 };
    let mut list = List::new(&columns[..count], "");
    for (key, setting) in config.values.all() {
        let value = serde_json::to_value(&setting.value).unwrap_or_default();
        let mut row = vec![
            Cell::text(key.path),
            Cell::short(setting.value.to_string(), value),
            Cell::text(source(config, setting)),
            Cell::text(key.default),
            Cell::text(key.meaning()),
        ];
        row.truncate(count);
        list.push(row);
    }
    list
}

fn source(config: &Config, setting: &Setting) -> String {
    match (&setting.source, &config.file) {
        (Source::File(line), Some(file)) => format!("{}, line {line}", file.display()),
        (source, _) => source.to_string(),
    }
}

/// The same for people, one key a block.
fn explained(config: &Config) -> String {
    /// Columns of a line.
    const WIDTH: usize = 100;
    let mut text = String::new();
    for (key, setting) in config.values.all() {
        let from = match setting.source {
            Source::Default => "default".to_owned(),
            _ => format!("{}; default {}", source(config, setting), key.default),
        };
        text.push_str(&format!("{} = {}   ({from})", key.path, setting.value));
        let mut column = WIDTH;
        for word in key.meaning().split(' ') {
            let width = word.chars().count() + 1;
            if column + width > WIDTH {
                text.push_str("\n   ");
                column = 3;
            }
            text.push_str(&format!(" {word}"));
            column += width;
        }
        text.push_str("\n\n");
    }
    let rules = "A changed file needs a restart. docs/CONFIGURATION.md tells about units, the environment and HTTPS.\n";
    text + rules
}

/// Level, name, detail and, in brackets, what to do.
pub(super) fn line(finding: &Finding) -> String {
    let Finding { level, name, detail, hint } = finding;
    let hint = if hint.is_empty() { String::new() } else { format!("   ({hint})") };
    let joint = match (name.as_str(), level) {
        ("", _) => "",
        (_, Level::Bad) => ": ",
        _ => " ",
    };
    format!("{level:<4}  {name}{joint}{detail}{hint}")
}

/// Prints the findings; one that is bad is an error of exit code 4.
fn finish(ctx: &Ctx, findings: &[Finding], all_well: &str) -> Outcome {
    let bad = findings.iter().filter(|finding| finding.level == Level::Bad).count();
    if ctx.printer.format == Format::Json {
        ctx.printer.list_of(findings.iter().map(|finding| json!(finding)).collect());
    } else if !ctx.printer.quiet {
        for finding in findings {
            out(&plain(&line(finding)));
        }
    }
    match findings.iter().find(|finding| finding.level == Level::Bad) {
        None => {
            if ctx.printer.format != Format::Json && !ctx.printer.quiet {
                ctx.printer.note(all_well);
            }
            Ok(DONE)
        }
        Some(first) => {
            let what = if bad == 1 {
                first.name.clone()
            } else {
                format!("{} and {} more", first.name, bad - 1)
            };
            Err(Refusal::new(
                RefusalKind::Invalid,
                "check",
                format!("not as it should be: {what}"),
                first.detail.clone(),
                first.hint.clone(),
            ))
        }
    }
}

pub(crate) fn doctor(ctx: &Ctx, _: &Doctor) -> Outcome {
    let config = ctx.config()?;
    let opened = Core::open(config.clone());
    let mut findings = health::diagnose(&config, opened.as_ref().map(|core| &**core))?;
    findings.extend(opened.as_ref().err().map(|error| unopened(ctx, error)));
    finish(ctx, &findings, "")
}
