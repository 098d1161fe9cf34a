//! Backups: a directory that holds everything but the master key and the files that the configuration names elsewhere, taken beside a running server; and the way back.
//!
//! ```text
//! DIR/journal.db        the journal at one moment
//! DIR/data/…            the contents that it names, where it says that they are, and the key stores
//! DIR/host-keys/…       the SSH host keys, sealed by the master key
//! DIR/as2gate.toml      the configuration, if there is a file
//! DIR/backup.json       written last: without it, it is no backup
//! ```
//! Contents never change, and move only from the store to the tree and out of view: what has moved since the moment of the
//! journal is found at its later place and put at the earlier one. Until all is copied, nobody lets anything go.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use as2_core::hex;
use keystore::MasterKey;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Refusal, RefusalKind, Result, deed, make_dir, objects, sealed, write_new};
use crate::clock::{Clock as _, Millis, SystemClock, rfc3339};
use crate::config::{CONFIG_FILE, Config, Secret};
use crate::gateway::{Core, expect_own};
use crate::journal::{self, Entry, Journal, JournalError, Snapshot, Tx};
use crate::outbox;
use crate::storage::{Content, StorageError};

/// The form of the directory.
const FORMAT: u32 = 1;
const MANIFEST: &str = "backup.json";
const JOURNAL: &str = "journal.db";
const HOST_KEYS: &str = "host-keys";
/// Sealed into each backup, so that the wrong master key is noticed before anything is written.
const PROOF: &str = "as2gate backup";
/// What helps against a backup that is not whole.
const ANOTHER: &str = "the backup was changed or copied in part; take another one";
/// Entries read at once.
const PAGE: u32 = 1_000;
/// Largest file read whole, but for the manifest: a key, in bytes.
const MAX_SMALL: u64 = 1 << 20;
/// Largest manifest in bytes: it names every content that was missing.
const MAX_MANIFEST: u64 = 64 << 20;

/// What stands in `backup.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The form of the directory.
    pub format: u32,
    /// The version that wrote it.
    pub as2gate: String,
    /// When the journal was copied.
    pub taken: String,
    /// Contents beside the journal.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Contents that were named and not there.
    pub missing: Vec<String>,
    /// A text sealed by the master key that belongs to it, in hex.
    pub proof: String,
}

/// Takes a backup into a new directory. For blocking threads.
///
/// # Errors
/// When the directory is there already, or the disk or the journal refuses; what was written then stays and is no backup.
pub fn take(core: &Core, dir: &Path) -> Result<Manifest> {
    if dir.exists() {
        return Err(Refusal::exists(
            format!("cannot back up to {}", dir.display()),
            "it exists already, and nothing is overwritten",
            "give a new directory, e.g. one with the date in its name",
        ));
    }
    let paths = core.config.paths();
    expect_outside(dir, &paths.data)?;
    sealed::expect_key(core, &objects(core)?)?;
    make_dir(dir)?;
    let proof = core.master.seal(PROOF, PROOF.as_bytes());
    let mut manifest = Manifest {
        format: FORMAT,
        as2gate: env!("CARGO_PKG_VERSION").to_owned(),
        taken: rfc3339(core.clock.now()),
        files: 0,
        bytes: 0,
        missing: Vec::new(),
        proof: hex(&proof.map_err(|error| Refusal::from_keystore("cannot seal", &error))?),
    };
    let _held = core.storage.hold()?;
    let snapshot = core.journal.snapshot(&dir.join(JOURNAL))?;
    let mut copier = Copier {
        core,
        data: &paths.data,
        target: dir.join("data"),
        manifest: &mut manifest,
    };
    for key in snapshot.read(|tx| tx.store_keys())? {
        copier.staged(&key)?;
    }
    every_entry(|last| snapshot.read(|tx| tx.files_after(last, PAGE)), |entry| copier.entry(&entry))?;
    copy_dir(&paths.keystore, &dir.join("data/keystore"))?;
    seal_host_keys(&core.master, &paths.host_keys, &dir.join(HOST_KEYS))?;
    if let Some(file) = &core.config.file {
        copy_file(file, &dir.join(CONFIG_FILE))?;
    }
    sync(dir)?;
    let text = serde_json::to_string_pretty(&manifest).map_err(|error| Refusal::from_io("cannot write the manifest", &error.into()))?;
    if u64::try_from(text.len()).is_ok_and(|len| len > MAX_MANIFEST) {
        let why = format!("{} contents are missing, too many to be named", manifest.missing.len());
        let hint = "look whether the data directory is whole: `as2gate doctor`";
        return Err(Refusal::failed("broken-store", "the backup is not whole", why, hint));
    }
    write(&dir.join(MANIFEST), text.as_bytes())?;
    sync(dir)?;
    let facts = json!({ "directory": dir.display().to_string(), "files": manifest.files, "bytes": manifest.bytes });
    core.journal.write_blocking(deed(core, "", "journal.backed_up", "journal", facts))?;
    Ok(manifest)
}

/// A backup is no part of what it is a copy of.
fn expect_outside(dir: &Path, data: &Path) -> Result<()> {
    if !resolved(dir).starts_with(resolved(data)) {
        return Ok(());
    }
    Err(Refusal::invalid(
        format!("cannot back up to {}", dir.display()),
        format!("it lies in the data directory {}", data.display()),
        "give a directory outside of it, best on another disk",
    ))
}

/// Where a path leads once its directories are made: links are followed as far as it is there.
fn resolved(path: &Path) -> PathBuf {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    full.components().fold(PathBuf::new(), |mut place, part| {
        match part {
            Component::ParentDir => _ = place.pop(),
            part => place.push(part),
        }
        fs::canonicalize(&place).unwrap_or(place)
    })
}

struct Copier<'a> {
    core: &'a Core,
    data: &'a Path,
    target: PathBuf,
    manifest: &'a mut Manifest,
}

impl Copier<'_> {
    fn staged(&mut self, key: &str) -> Result<()> {
        let place = self.core.storage.place_of_key(key)?;
        self.put(&place, key, self.core.storage.open_staged(key))
    }

    fn entry(&mut self, entry: &Entry) -> Result<()> {
        let Some(place) = self.core.storage.place_of(entry) else {
            // The journal holds the bytes.
            return Ok(());
        };
        let found = match self.core.storage.find_entry(entry) {
            Err(StorageError::Missing(what)) => match self.moved(entry)? {
                Some(now) => self.core.storage.find_entry(&now),
                None => Err(StorageError::Missing(what)),
            },
            other => other,
        };
        self.put(&place, &format!("{}/{}", entry.parent, entry.name), found)
    }

    /// The entry as it is now, if its message went from tray to tray since.
    fn moved(&self, entry: &Entry) -> Result<Option<Entry>> {
        let entries = self.core.journal.read(|tx| tx.entries_of(&entry.message))?;
        let same = |now: &Entry| !now.is_dir && (now.area, &now.name, now.size) == (entry.area, &entry.name, entry.size);
        Ok(entries.into_iter().find(same))
    }

    fn put(&mut self, place: &Path, name: &str, found: Result<Content, StorageError>) -> Result<()> {
        let target = self.target.join(place.strip_prefix(self.data).unwrap_or(place));
        if target.exists() {
            return Ok(());
        }
        match found {
            Ok(content) => {
                content.copy_to(&target)?;
                self.manifest.files += 1;
                self.manifest.bytes += content.len();
                Ok(())
            }
            Err(StorageError::Missing(_)) => {
                tracing::warn!(name, "content is missing and will be in the backup as well");
                self.manifest.missing.push(name.to_owned());
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Every file of the records, page by page.
fn every_entry(page: impl Fn(Option<&Entry>) -> Result<Vec<Entry>, JournalError>, mut each: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    let mut last: Option<Entry> = None;
    loop {
        let entries = page(last.as_ref())?;
        last = entries.last().cloned();
        if last.is_none() {
            return Ok(());
        }
        entries.into_iter().try_for_each(&mut each)?;
    }
}

/// What a restore put in place.
pub struct Restored {
    /// Of the backup.
    pub manifest: Manifest,
    /// Messages that wait for an operator, for they may have arrived since the backup.
    pub held: usize,
}

/// Puts a backup into an empty data directory. For blocking threads.
///
/// What was on its way goes out again, for it may not have arrived; partners see by its Message-ID what came before. Those that do not
/// would take it twice: theirs is held.
///
/// # Errors
/// When it is no whole backup, the master key is missing or another one, or the data directory is not empty.
pub fn restore(config: &Config, dir: &Path, master_key: Option<&Path>, dry_run: bool) -> Result<Restored> {
    let manifest = read_manifest(dir)?;
    let paths = config.paths();
    expect_own(&paths)?;
    check_empty(config)?;
    let cannot = || format!("cannot restore {}", dir.display());
    let master = master_key_of(config, master_key).map_err(|refusal| Refusal { what: cannot(), ..refusal })?;
    if unhex(&manifest.proof).is_none_or(|proof| master.open(PROOF, &proof).is_err()) {
        let why = "it was sealed by another master key: the private keys in it could not be opened";
        let hint = "give the master key of the gateway that it was taken of";
        return Err(Refusal::invalid(cannot(), why, hint));
    }
    let journal = Snapshot::open(&dir.join(JOURNAL)).map_err(|error| unreadable(error, cannot()))?;
    if dry_run {
        let held = journal.read(may_arrive_twice)?.len();
        return Ok(Restored { manifest, held });
    }
    drop(journal);
    make_dir(&paths.data)?;
    if let (Secret::File(file), Some(given)) = (&config.master_key, master_key)
        && !file.exists()
    {
        copy_file(given, file)?;
    }
    copy_dir(&dir.join("data"), &paths.data)?;
    open_host_keys(&master, &dir.join(HOST_KEYS), &paths.host_keys)?;
    // Last: its presence is what says "set up".
    let beside = paths.db.with_extension("restoring");
    copy_file(&dir.join(JOURNAL), &beside)?;
    let now = SystemClock::from_env().now();
    let held = Journal::change_copy(&beside, |tx| hold(tx, now))?;
    sync(&paths.data)?;
    fs::rename(&beside, &paths.db).map_err(|error| Refusal::from_io(cannot(), &error))?;
    sync(&paths.data)?;
    let whole = check_contents(config, &manifest).and_then(|core| tell_restored(&core, &manifest));
    whole.inspect_err(|_| {
        // Nobody shall serve from it.
        let _ = fs::rename(&paths.db, paths.db.with_extension("broken"));
    })?;
    Ok(Restored { manifest, held })
}

/// What would be sent by itself to partners that do not detect duplicates. What was only queued may have been sent since.
fn may_arrive_twice(tx: &Tx<'_>) -> journal::Result<Vec<String>> {
    let objects = tx.objects()?;
    let blind = objects.partners.values().filter(|partner| !partner.detects_duplicates);
    let sent = blind.map(|partner| tx.on_its_way(&partner.account, &partner.as2_id));
    Ok(sent.collect::<journal::Result<Vec<_>>>()?.concat())
}

/// Leaves that to an operator.
fn hold(tx: &Tx<'_>, now: Millis) -> journal::Result<usize> {
    const WHY: &str = "a backup was restored in which it was not sent; it may have been since, and the partner does not detect duplicates";
    let ids = may_arrive_twice(tx)?;
    for id in &ids {
        let step = outbox::held(tx.expect_message(id)?, WHY, now);
        tx.settle(&step, now)?;
    }
    Ok(ids.len())
}

/// The configured master key, or the one given if the configured place is empty.
fn master_key_of(config: &Config, given: Option<&Path>) -> Result<MasterKey> {
    match (&config.master_key, given) {
        (Secret::File(file), Some(given)) if !file.exists() => {
            MasterKey::load(given).map_err(|error| Refusal::from_keystore("cannot use the master key", &error))
        }
        _ => config.load_master_key().map_err(|why| {
            let hint = "a backup holds no master key: put yours there, or give --master-key FILE";
            Refusal::invalid("cannot use the master key", why, hint)
        }),
    }
}

fn read_manifest(dir: &Path) -> Result<Manifest> {
    let file = dir.join(MANIFEST);
    let cannot = format!("cannot restore {}", dir.display());
    let hint = "give the directory that `as2gate backup` wrote; one without backup.json was not finished";
    let text = read_whole(&file, MAX_MANIFEST).map_err(|refusal| Refusal {
        what: cannot.clone(),
        hint: hint.to_owned(),
        ..refusal
    })?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| Refusal::invalid(&cannot, error.to_string(), hint))?;
    if manifest.format == FORMAT {
        return Ok(manifest);
    }
    let why = format!("it has form {}, and this version reads {FORMAT}", manifest.format);
    Err(Refusal::invalid(cannot, why, "install the as2gate version that wrote it"))
}

/// Nothing is there but a configuration and a master key, which may be put there before, and what a disk of its own has.
fn check_empty(config: &Config) -> Result<()> {
    let (data, db) = (&config.paths().data, &config.paths().db);
    let not_empty = |what: &Path| {
        Refusal::exists(
            format!("cannot restore into {}", data.display()),
            format!("{} is there already, and nothing is overwritten", what.display()),
            "give an empty --data-dir, or move what is there away",
        )
    };
    if db.exists() {
        return Err(not_empty(db));
    }
    let entries = match fs::read_dir(data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|error| Refusal::from_io(format!("cannot list {}", data.display()), &error))?,
    };
    // The configuration may have any name, and `data_dir = "."` in it.
    let configuration = config.file.as_ref().and_then(|file| fs::canonicalize(file).ok());
    let is_configuration = |entry: &Path| configuration.is_some() && fs::canonicalize(entry).ok() == configuration;
    // So may be what it names, which no backup has.
    let beside: Vec<PathBuf> = config
        .beside()
        .into_iter()
        .filter_map(|(_, place)| match place {
            Secret::File(file) => fs::canonicalize(file).ok(),
            Secret::Env(_) => None,
        })
        .collect();
    let is_named = |entry: &Path| fs::canonicalize(entry).is_ok_and(|entry| beside.iter().any(|file| file.starts_with(&entry)));
    for entry in entries.filter_map(io::Result::ok) {
        // The last one is in every new ext4 file system.
        let is_known = [CONFIG_FILE, "master.key", "lost+found"]
            .iter()
            .any(|name| entry.file_name() == *name);
        if !is_known && !is_configuration(&entry.path()) && !is_named(&entry.path()) {
            return Err(not_empty(&entry.path()));
        }
    }
    Ok(())
}

/// Whoever reads the events sees where they went on from an earlier time.
fn tell_restored(core: &Core, manifest: &Manifest) -> Result<()> {
    let facts = json!({
        "taken": manifest.taken, "as2gate": manifest.as2gate, "files": manifest.files, "bytes": manifest.bytes,
        "missing": manifest.missing.len(),
    });
    let told = deed(core, "", "journal.restored", "journal", facts);
    Ok(core.journal.write_blocking(told)?)
}

/// Why the journal of a backup cannot be used.
fn unreadable(error: JournalError, what: String) -> Refusal {
    let refusal = Refusal::from(error);
    match refusal.kind {
        RefusalKind::Invalid => Refusal { what, ..refusal },
        _ => Refusal::failed("broken-backup", what, refusal.why, ANOTHER),
    }
}

/// Whether everything that the restored journal names is there, but for what was missing before.
fn check_contents(config: &Config, manifest: &Manifest) -> Result<Arc<Core>> {
    let broken = |why: String| Refusal::failed("broken-backup", "the backup is not whole", why, ANOTHER);
    let core = Core::open(config.clone())?;
    let word = core.journal.integrity()?;
    if word != "ok" {
        return Err(broken(format!("its journal: {word}")));
    }
    let missing: HashSet<&str> = manifest.missing.iter().map(String::as_str).collect();
    let check = |name: String, place: Option<PathBuf>, size: Option<u64>| {
        let Some(place) = place.filter(|_| !missing.contains(name.as_str())) else {
            return Ok(());
        };
        match fs::metadata(&place).map(|meta| meta.len()) {
            Ok(len) if size.is_none_or(|size| size == len) => Ok(()),
            Ok(len) => Err(broken(format!("{name} has {len} bytes instead of {}", size.unwrap_or_default()))),
            Err(error) => Err(broken(format!("{name}: {error}"))),
        }
    };
    for key in core.journal.read(|tx| tx.store_keys())? {
        let place = core.storage.place_of_key(&key)?;
        check(key, Some(place), None)?;
    }
    every_entry(
        |last| core.journal.read(|tx| tx.files_after(last, PAGE)),
        |entry| {
            check(
                format!("{}/{}", entry.parent, entry.name),
                core.storage.place_of(&entry),
                Some(entry.size),
            )
        },
    )?;
    Ok(core)
}

fn seal_host_keys(master: &MasterKey, from: &Path, to: &Path) -> Result<()> {
    make_dir(to)?;
    for (name, path) in host_keys_of(from)? {
        let text = read_whole(&path, MAX_SMALL)?;
        let sealed = master.seal(&host_key_label(&name), &text);
        let sealed = sealed.map_err(|error| Refusal::from_keystore("cannot seal a host key", &error))?;
        write(&to.join(name), &sealed)?;
    }
    Ok(())
}

fn open_host_keys(master: &MasterKey, from: &Path, to: &Path) -> Result<()> {
    make_dir(to)?;
    for (name, path) in host_keys_of(from)? {
        let text = master.open(&host_key_label(&name), &read_whole(&path, MAX_SMALL)?);
        let text = text.map_err(|error| Refusal::from_keystore("cannot open a host key", &error))?;
        write(&to.join(name), &text)?;
    }
    Ok(())
}

/// What a sealed host key is bound to.
fn host_key_label(name: &str) -> String {
    format!("host-key/{name}")
}

/// What a directory holds by name; nothing if it is not there. What cannot be listed is an error: a backup is whole or none.
fn entries_of(dir: &Path) -> Result<Vec<(OsString, PathBuf)>> {
    let cannot = |error: io::Error| Refusal::from_io(format!("cannot list {}", dir.display()), &error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(cannot)?,
    };
    let named = entries.map(|entry| entry.map(|entry| (entry.file_name(), entry.path())));
    named.collect::<io::Result<_>>().map_err(cannot)
}

/// The host keys of a directory, by name.
fn host_keys_of(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let files = entries_of(dir)?.into_iter().filter(|(_, path)| path.is_file());
    Ok(files.map(|(name, path)| (name.to_string_lossy().into_owned(), path)).collect())
}

fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    make_dir(to)?;
    for (name, path) in entries_of(from)? {
        if path.is_dir() {
            copy_dir(&path, &to.join(name))?;
        } else if path.is_file() {
            copy_file(&path, &to.join(name))?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    Ok(Content::open(from)?.copy_to(to)?)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_new(path, bytes, 0o600).map_err(|error| Refusal::from_io(format!("cannot write {}", path.display()), &error))
}

/// A file of at most `max` bytes; a longer one is refused, never cut.
fn read_whole(path: &Path, max: u64) -> Result<zeroize::Zeroizing<Vec<u8>>> {
    use std::io::Read as _;
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    let read = fs::File::open(path).and_then(|file| file.take(max + 1).read_to_end(&mut bytes));
    let read = read.and_then(|len| match u64::try_from(len) {
        Ok(len) if len <= max => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is longer than {max} bytes"),
        )),
    });
    read.map_err(|error| Refusal::from_io(format!("cannot read {}", path.display()), &error))?;
    Ok(bytes)
}

/// Everything on this directory's file system is durable after it.
fn sync(dir: &Path) -> Result<()> {
    let synced = fs::File::open(dir).and_then(|open| rustix::fs::syncfs(&open).map_err(io::Error::from));
    synced.map_err(|error| Refusal::from_io(format!("cannot sync {}", dir.display()), &error))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}
