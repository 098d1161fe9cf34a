//! `backup` and `restore`: everything but the master key, into a directory and back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::error::{DONE, PARTLY};
use super::output::grouped;
use super::{Ctx, Outcome, read_file, write_file};
use crate::config::{CONFIG_FILE, Config, show_size};
use crate::manage::backup::{self, Manifest, Restored};
use crate::manage::{Refusal, Result, blocking, make_dir};

/// Largest configuration that is put back, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// Copy everything but the master key and the files of TLS to a new directory, beside a running server.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  as2gate backup /backup/as2gate-2026-11-22
  as2gate backup /mnt/nas/as2gate-monday -o json

The master key is not in it: keep it apart, for without it the private keys cannot be opened. Nor are files that the
configuration names: as2.tls.cert and as2.tls.key, sftp.revoked_keys, sftp.user_ca. It says which these are.")]
pub(crate) struct Backup {
    /// A directory that is not there yet, outside of the data directory.
    dir: PathBuf,
}

/// Put a backup into an empty data directory.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  as2gate restore /backup/as2gate-2026-11-22 --master-key /safe/master.key
  as2gate --data-dir /srv/as2 restore /backup/as2gate-2026-11-22 --master-key /safe/master.key
  as2gate restore /backup/as2gate-2026-11-22 --dry-run

What was on its way when the backup was taken goes out again, under the same Message-ID. What was on its way to a partner
that does not detect duplicates is held instead, for it may have arrived since: ask the partner, then `message retry` or
`message cancel`.")]
pub(crate) struct Restore {
    /// The directory that `backup` wrote.
    dir: PathBuf,
    /// The master key, if it is not at its place yet; it is copied there.
    #[arg(long, value_name = "FILE")]
    master_key: Option<PathBuf>,
}

pub(crate) async fn run(ctx: &Ctx, args: Backup) -> Outcome {
    let core = ctx.core()?;
    if ctx.dry_run() {
        let why = "it changes nothing here, and writes to a new directory only";
        return Err(Refusal::usage("backup has no dry run", why, "run it without -n"));
    }
    let (worker, dir) = (Arc::clone(&core), args.dir.clone());
    let manifest = blocking("the backup stopped", move || backup::take(&worker, &dir)).await?;
    let mut text = told("Backup", &args.dir, &manifest);
    let mut outside = vec![("master_key", core.config.master_key.clone())];
    outside.extend(core.config.beside());
    text.push_str("Not in it: keep copies of these apart; a restored gateway needs them at the same places\n");
    for (key, place) in &outside {
        text.push_str(&format!("  {key:<18} {place}\n"));
    }
    for name in &manifest.missing {
        text.push_str(&format!("missing   {name}\n"));
    }
    let mut object = object(&args.dir, &manifest);
    let outside = outside.iter().map(|(key, place)| json!({ "key": key, "place": place.to_string() }));
    object["not_in_it"] = outside.collect();
    ctx.printer.done(&object, &text);
    Ok(if manifest.missing.is_empty() { DONE } else { PARTLY })
}

pub(crate) async fn restore(ctx: &Ctx, args: Restore) -> Outcome {
    let (written, config) = configuration(ctx, &args.dir)?;
    let (dir, key, dry_run) = (args.dir.clone(), args.master_key, ctx.dry_run());
    let target = full(&config.paths().data);
    let new = written.as_ref().map(|file| created(ctx, file, &target)).unwrap_or_default();
    // A dry run may go by the configuration in the backup, whose paths begin elsewhere.
    let is_kept = config.file.as_deref() == Some(args.dir.join(CONFIG_FILE).as_path());
    let beside = if is_kept { Vec::new() } else { config.beside() };
    let restored = blocking("the restore stopped", move || {
        backup::restore(&config, &dir, key.as_deref(), dry_run)
    })
    .await;
    if let (Some(file), true) = (&written, restored.is_err()) {
        // It would only stand in the way of the next try.
        let _ = std::fs::remove_file(file);
    }
    let Restored { manifest, held } = restored?;
    let text = told(ctx.tense("Restored", "Would restore"), &target, &manifest) + &new;
    let missing: Vec<_> = beside.iter().filter(|(_, place)| !place.is_there()).collect();
    let steps: String = missing
        .iter()
        .map(|(key, place)| format!("  put {key} to {place}: it is in no backup, and not there\n"))
        .collect();
    let of_held = match held {
        0 => String::new(),
        held => format!(
            "  {}   {held} may have arrived since, and their partners do not detect duplicates: ask them\n",
            ctx.command("message list --state held")
        ),
    };
    let next = format!(
        "Next:\n{steps}  {}\n{of_held}  {}   sends what was waiting when the backup was taken: stop the other server for good before\n",
        ctx.command("check"),
        ctx.command("serve")
    );
    let mut object = object(&target, &manifest);
    object["to_be_put"] = missing
        .iter()
        .map(|(key, place)| json!({ "key": key, "place": place.to_string() }))
        .collect();
    object["held"] = json!(held);
    ctx.printer.done(&object, &format!("{}{next}", ctx.would(text)));
    Ok(DONE)
}

/// Where a relative path leads, which depends on the configuration's place, is said in full.
fn full(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The configuration that was put in its place, and what its own `data_dir` leads to if --data-dir was given instead.
fn created(ctx: &Ctx, file: &Path, target: &Path) -> String {
    let word = ctx.tense("Created ", "Would create ");
    let text = format!("{word}   {}   the configuration of the backup\n", full(file).display());
    match Config::load(Some(file), None).map(|alone| full(&alone.paths().data)) {
        Ok(other) if other != target => format!(
            "{text}  its data_dir is {}: go on with --data-dir, or change it there\n",
            other.display()
        ),
        _ => text,
    }
}

/// The configuration that counts here; where there is none, that of the backup is put in its place.
fn configuration(ctx: &Ctx, dir: &Path) -> Result<(Option<PathBuf>, Config)> {
    let (named, data_dir) = (ctx.globals.config.as_deref(), ctx.globals.data_dir.as_deref());
    let target = match (named, data_dir) {
        (Some(file), _) if !file.exists() => Some(file.to_owned()),
        (None, Some(data)) => Some(data.join(CONFIG_FILE)).filter(|file| !file.exists()),
        (None, None) if Config::locate(None, None)?.is_none() => Some(PathBuf::from(CONFIG_FILE)),
        _ => None,
    };
    let kept = dir.join(CONFIG_FILE);
    let Some(file) = target.filter(|_| kept.is_file()) else {
        return Ok((None, Config::load(named, data_dir)?));
    };
    if ctx.dry_run() {
        // Its paths begin where it would be put.
        let data = Config::load(Some(&kept), data_dir)?.paths().data;
        let data = match data.strip_prefix(dir) {
            Ok(below) => file.parent().unwrap_or(Path::new("")).join(below),
            Err(_) => data,
        };
        return Ok((None, Config::load(Some(&kept), Some(&data))?));
    }
    if let Some(parent) = file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_dir(parent)?;
    }
    write_file(&file, &String::from_utf8_lossy(&read_file(&kept, MAX_CONFIG)?), 0o640)?;
    match Config::load(Some(&file), data_dir) {
        Ok(config) => Ok((Some(file), config)),
        Err(error) => {
            let _ = std::fs::remove_file(&file);
            Err(error.into())
        }
    }
}

fn told(word: &str, dir: &Path, manifest: &Manifest) -> String {
    format!(
        "{word}   {}   journal of {}, {} files, {}\n",
        dir.display(),
        manifest.taken,
        grouped(manifest.files),
        show_size(manifest.bytes)
    )
}

fn object(dir: &Path, manifest: &Manifest) -> serde_json::Value {
    json!({
        "dir": dir, "taken": manifest.taken, "as2gate": manifest.as2gate, "files": manifest.files, "bytes": manifest.bytes,
        "missing": manifest.missing,
    })
}
