//! `init`: from an empty directory to something that `serve` can start.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::error::DONE;
use super::{Ctx, Outcome};
use crate::config::{CONFIG_FILE, Config};
use crate::gateway::Core;
use crate::manage::{Refusal, Result, accounts, setup};

/// Set up a data directory with keys and an account.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  as2gate init --account acme                                  ./as2gate.toml and ./data
  as2gate init --account acme --public-url https://as2.acme.example
  as2gate --data-dir /srv/as2 init --account acme              everything in one directory")]
pub(crate) struct Init {
    /// Base of the URL that partners post to, e.g. `https://as2.example.com`.
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Where SFTP listens.
    #[arg(long, value_name = "ADDR")]
    sftp: Option<String>,
    /// Where AS2 listens.
    #[arg(long, value_name = "ADDR")]
    as2: Option<String>,
}

pub(crate) async fn run(ctx: &Ctx, args: Init) -> Outcome {
    if ctx.dry_run() {
        return Err(Refusal::usage(
            "init has no dry run",
            "it only adds files, and never overwrites",
            "run it in an empty directory",
        ));
    }
    if let Some(id) = ctx.account() {
        // Before anything is made: half of what was wished for would only be told "set up already" the next time.
        accounts::check_id(id)?;
    }
    let (written, config) = configuration(ctx, &args)?;
    let made = match setup::set_up(&config) {
        Ok(made) => made,
        Err(refusal) => {
            // A configuration of ours that led to nothing would only stand in the way of the next try.
            if let Some(file) = &written {
                let _ = std::fs::remove_file(file);
            }
            return Err(refusal);
        }
    };
    let core = Core::open(config)?;
    let mut text = created(&core, written.as_deref(), &made);
    if let Some(id) = ctx.account() {
        let account = accounts::add(&core, id, &[], false, false).await?;
        text.push_str(&format!("Created  account {}\n", account.id));
    }
    text.push_str(&next_steps(ctx, &core.config));
    let keys = made.host_keys.iter();
    let keys: Vec<_> = keys
        .map(|key| json!({ "kind": key.kind, "fingerprint": key.fingerprint }))
        .collect();
    let paths = core.config.paths();
    let object = json!({
        "config": core.config.file, "data_dir": paths.data, "master_key": paths.master_key, "host_keys": keys, "account": ctx.account(),
    });
    ctx.printer.done(&object, &text);
    Ok(DONE)
}

fn created(core: &Core, written: Option<&Path>, made: &setup::SetUp) -> String {
    let mut text = String::new();
    if let Some(file) = written {
        text.push_str(&format!("Created  {}\n", shown(file)));
    }
    if made.master_key {
        text.push_str(&format!(
            "Created  {:<27} mode 0600; keep a copy: without it stored keys are lost\n",
            shown(&core.config.paths().master_key)
        ));
    }
    // Those that somebody has brought along are known to clients.
    for (word, new) in [("Created", true), ("Kept", false)] {
        let keys = made.host_keys.iter().filter(|key| made.new_host_keys.contains(&key.kind) == new);
        for (n, key) in keys.enumerate() {
            let head = if n == 0 { format!("{word:<9}host keys") } else { String::new() };
            text.push_str(&format!("{head:<20}{:<8} {}\n", key.kind, key.fingerprint));
        }
    }
    text
}

fn next_steps(ctx: &Ctx, config: &Config) -> String {
    let port = |list: &[String]| {
        list.first()
            .and_then(|address| address.rsplit_once(':'))
            .map(|(_, port)| format!(":{port}"))
            .unwrap_or_default()
    };
    let (sftp, as2) = (port(&config.sftp.listen), port(&config.as2.listen));
    let start = ctx.command("serve");
    let (next, why) = if ctx.account().is_some() {
        (ctx.command("station add ALICE"), "your first AS2 identity")
    } else {
        (ctx.command("account add ID"), "the account that owns everything else")
    };
    format!(
        "\nNext:\n  {start:<35} # sftp {sftp}   as2 {as2}   telemetry {}\n  {next:<35} # {why}\n",
        config.telemetry.listen
    )
}

/// The configuration to set up from; written first where there is none and settings are to be kept.
fn configuration(ctx: &Ctx, args: &Init) -> Result<(Option<PathBuf>, Config)> {
    let (named, data_dir) = (ctx.globals.config.as_deref(), ctx.globals.data_dir.as_deref());
    let has_settings = args.public_url.is_some() || args.sftp.is_some() || args.as2.is_some();
    let target = match (named, data_dir) {
        (Some(file), _) => Some(file.to_owned()),
        (None, Some(dir)) => has_settings.then(|| dir.join(CONFIG_FILE)),
        (None, None) => match std::env::var_os(crate::config::CONFIG_VARIABLE).filter(|value| !value.is_empty()) {
            Some(file) => Some(PathBuf::from(file)),
            // A system-wide configuration is no reason to leave this directory empty.
            None => Some(Path::new(".").join(CONFIG_FILE)),
        },
    };
    let present = target.as_deref().is_some_and(Path::exists);
    if present && has_settings {
        let file = target.unwrap_or_default();
        return Err(Refusal::exists(
            format!("{} exists already", file.display()),
            "init never overwrites",
            "edit it, then run init without these flags",
        ));
    }
    let Some(file) = target.filter(|_| !present) else {
        return Ok((None, Config::load(named, data_dir)?));
    };
    // A file in the directory itself needs no word of where it is. Else a command without --data-dir would look beside the file.
    let data = match (named, data_dir) {
        (None, Some(_)) => None,
        (Some(_), Some(dir)) => {
            Some(std::path::absolute(dir).map_err(|error| Refusal::from_io(format!("cannot use {}", dir.display()), &error))?)
        }
        (_, None) => Some(PathBuf::from("data")),
    };
    let data = data.as_ref().map(|dir| dir.to_string_lossy());
    let text = setup::config_text(
        data.as_deref(),
        args.public_url.as_deref(),
        args.sftp.as_deref(),
        args.as2.as_deref(),
    );
    if let Some(parent) = file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|error| Refusal::from_io(format!("cannot make {}", parent.display()), &error))?;
    }
    super::write_file(&file, &text, 0o640)?;
    match Config::load(Some(&file), data_dir) {
        Ok(config) => Ok((Some(file), config)),
        Err(error) => {
            let _ = std::fs::remove_file(&file);
            Err(error.into())
        }
    }
}

/// A path as people write it.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    if path.is_relative() && !text.starts_with("./") {
        format!("./{text}")
    } else {
        text
    }
}
