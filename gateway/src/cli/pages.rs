//! `completions` and `man`: what shells and manuals are told, from the same description that `--help` is made of.

use std::path::PathBuf;

use clap::{Args, Command};
use serde_json::json;

use super::error::DONE;
use super::output::out;
use super::{Ctx, Outcome};
use crate::manage::Refusal;

/// Print the completion script of a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  as2gate completions bash > /etc/bash_completion.d/as2gate
  as2gate completions zsh > ~/.zfunc/_as2gate")]
pub(crate) struct Completions {
    /// bash, elvish, fish, powershell or zsh.
    shell: clap_complete::Shell,
}

/// Print the manual page, or write those of all commands.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  as2gate man | man -l -
  as2gate man --out /usr/local/share/man/man1     then: man as2gate-partner-add")]
pub(crate) struct Man {
    /// Write a page for each command into this directory, which has to be there.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn completions(args: &Completions, mut described: Command) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut described, "as2gate", &mut script);
    out(&String::from_utf8_lossy(&script));
    Ok(DONE)
}

pub(crate) fn man(ctx: &Ctx, args: &Man, described: Command) -> Outcome {
    let Some(dir) = &args.out else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(described).render(&mut page);
        rendered.map_err(|error| Refusal::from_io("cannot make the manual page", &error))?;
        out(&String::from_utf8_lossy(&page));
        return Ok(DONE);
    };
    if !dir.is_dir() {
        let what = format!("cannot write manual pages to {}", dir.display());
        return Err(Refusal::not_found(what, "it is no directory", "make it first, or name another one"));
    }
    if !ctx.dry_run() {
        let written = clap_mangen::generate_to(described, dir);
        written.map_err(|error| Refusal::from_io(format!("cannot write manual pages to {}", dir.display()), &error))?;
    }
    let wrote = ctx.tense("Wrote", "would write");
    let text = ctx.would(format!("{wrote} the manual pages to {}: begin with as2gate.1\n", dir.display()));
    ctx.printer.done(&json!({ "dir": dir, "written": !ctx.dry_run() }), &text);
    Ok(DONE)
}
