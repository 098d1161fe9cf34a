//! Whether all is as it should be: what `check` and `doctor` look at.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;
use serde::Serialize;

use super::doors::without_22;
use super::status::interrupted;
use super::{Core, Differing, Listening, StartError, Started, check_tls, is_served};
use crate::clock::{DAY, rfc3339};
use crate::config::{Config, Paths, Secret, show_size};
use crate::hint::{quoted, with_hint};
use crate::journal::{Entry, MessageFilter};
use crate::lifecycle;
use crate::listen::try_bind;
use crate::manage::host_keys::HostKeyState;
use crate::manage::{self, certificates, expiry, find, host_keys, objects, rules, sealed};
use crate::objects::Objects;
use crate::sftp_tree::revoked;
use crate::storage::{PARTIAL, StorageError};
use crate::words;

words! {
    /// How good something that was looked at is.
    pub enum Level {
        /// As it should be.
        Ok = "ok",
        /// It works, and wants to be looked after.
        Warn = "warn",
        /// Something does not work for it.
        Bad = "no",
    }
}

/// One line of a check.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// How good it is.
    pub level: Level,
    /// What was looked at; empty where the detail says it.
    pub name: String,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub hint: String,
}

impl Finding {
    fn ok(name: &str, detail: impl Into<String>) -> Self {
        Finding {
            level: Level::Ok,
            name: name.to_owned(),
            detail: detail.into(),
            hint: String::new(),
        }
    }

    fn warn(name: &str, detail: impl Into<String>, hint: &str) -> Self {
        Finding {
            level: Level::Warn,
            name: name.to_owned(),
            detail: detail.into(),
            hint: hint.to_owned(),
        }
    }

    /// Something that does not work.
    #[must_use]
    pub fn bad(name: &str, detail: impl Into<String>, hint: &str) -> Self {
        Finding {
            level: Level::Bad,
            name: name.to_owned(),
            detail: detail.into(),
            hint: hint.to_owned(),
        }
    }
}

/// All that `check` looks at: what the configuration names, and the objects of the data directory, if there is one.
///
/// # Errors
/// The journal's.
pub fn check(config: &Config, core: Option<&Core>) -> manage::Result<Vec<Finding>> {
    let file = config.file.as_ref();
    let file = file.map_or_else(|| "defaults only, no file".to_owned(), |file| file.display().to_string());
    let mut findings = vec![Finding::ok("configuration", file)];
    let tls = tls_files(config);
    let are_readable = tls.iter().all(|finding| finding.level == Level::Ok);
    findings.extend(tls);
    findings.extend(revoked_keys(config));
    let Some(core) = core else { return Ok(findings) };
    if are_readable && !config.as2.tls.listen.is_empty() {
        findings.push(match check_tls(core) {
            Ok(()) => Finding::ok("as2.tls", "certificate and key belong together"),
            Err(error) => Finding::bad("as2.tls", error.to_string(), &error.hint()),
        });
        findings.extend(expiry(core, &Objects::default()));
    }
    if let Err(refusal) = host_keys::load(config) {
        findings.push(Finding::bad("host keys", refusal.why, &refusal.hint));
    }
    findings.extend(rights(config));
    findings.extend(lost_files(core)?);
    findings.extend(judge_objects(core)?);
    Ok(findings)
}

/// All that `doctor` looks at: of the machine, and of the data directory if it could be opened; why it could not is left to say.
///
/// # Errors
/// The journal's, or the disk's.
pub fn diagnose(config: &Config, opened: Result<&Core, &StartError>) -> manage::Result<Vec<Finding>> {
    // Where nothing is set up, or for this user to see, its keys are not lost.
    let is_ours = !matches!(opened, Err(StartError::NotSetUp(_) | StartError::Unreadable(..)));
    let mut findings = if is_ours { keys(config) } else { Vec::new() };
    findings.extend(tls_files(config));
    findings.extend(revoked_keys(config));
    let core = opened.ok();
    if is_served(config) {
        findings.extend(server(config, core));
    } else {
        findings.extend(ports(config));
    }
    if is_ours {
        findings.extend(rights(config));
    }
    if let Ok(core) = opened {
        findings.extend(contents(core)?);
    }
    Ok(findings)
}

/// Files that the configuration names for TLS, which no backup has.
fn tls_files(config: &Config) -> Vec<Finding> {
    let files = [("as2.tls.cert", &config.as2.tls.cert), ("as2.tls.key", &config.as2.tls.key)];
    let used = files
        .into_iter()
        .filter_map(|(name, secret)| secret.as_ref().map(|secret| (name, secret)))
        .filter(|_| !config.as2.tls.listen.is_empty());
    let findings = used.map(|(name, secret)| match secret.read() {
        Ok(_) => Finding::ok(name, shown(secret)),
        Err(why) if !secret.is_there() => {
            Finding::bad(name, why, "put it there, after a restore from a copy of your own: no backup has it")
        }
        Err(why) => Finding::bad(name, why, "give a readable PEM file"),
    });
    findings.collect()
}

/// The same of keys that count no more.
fn revoked_keys(config: &Config) -> Option<Finding> {
    let file = config.sftp.revoked_keys.as_ref()?;
    Some(match revoked::check(file) {
        Ok(()) => Finding::ok("sftp.revoked_keys", file.display().to_string()),
        Err(why) if !file.exists() => Finding::bad(
            "sftp.revoked_keys",
            format!("cannot read {}: {why}", file.display()),
            "put it there, after a restore from a copy of your own: no backup has it; until then nobody logs in with a key",
        ),
        Err(why) => Finding::bad(
            "sftp.revoked_keys",
            why,
            "give a list by ssh-keygen -k, or a text; until then nobody logs in with a key",
        ),
    })
}

fn shown(secret: &Secret) -> String {
    match secret {
        Secret::Env(name) => format!("from the environment variable {name}"),
        Secret::File(path) => path.display().to_string(),
    }
}

fn keys(config: &Config) -> Vec<Finding> {
    let master = match config.load_master_key() {
        Ok(_) if matches!(config.master_key, Secret::File(_)) => Finding::ok("master.key", "is 0600"),
        Ok(_) => Finding::ok("master key", "from the environment"),
        Err(why) => Finding::bad("master key", why, "restore it from the backup; without it stored keys are lost"),
    };
    let host = match host_keys::load(config) {
        Ok(keys) if keys.is_empty() => Finding::warn("host keys", "none yet", "as2gate init, or the first start, makes them"),
        Ok(keys) => Finding::ok(
            "host keys",
            keys.iter()
                .filter(|key| key.state == HostKeyState::Current)
                .map(|key| format!("{} {}", key.kind, key.fingerprint))
                .collect::<Vec<_>>()
                .join("   "),
        ),
        Err(refusal) => Finding::bad("host keys", refusal.why, &refusal.hint),
    };
    vec![master, host]
}

/// Nobody else of this machine has any business in the data directory, and its user has to get at all of it.
fn rights(config: &Config) -> Vec<Finding> {
    let data = config.paths().data;
    let me = rustix::process::geteuid().as_raw();
    // For root all is open: it looks after the data directory of another, whose server has to read what is there.
    let owner = std::fs::metadata(&data).map_or(me, |data| if me == 0 { data.uid() } else { me });
    let mut findings = rights_of("data directory", &data, 0o700, owner);
    for file in host_keys::files(config) {
        findings.extend(rights_of("host key", &file, 0o600, owner));
    }
    if let Secret::File(file) = &config.master_key {
        // Whoever reads it looks at its mode.
        findings.extend(foreign("master key", file, owner));
    }
    let paths = config.paths();
    findings.extend(inner_places(&paths).iter().filter_map(|place| usable(place, owner)));
    findings.extend(foreign_places(&paths.store, owner));
    findings
}

/// What the server has to get at below the data directory.
fn inner_places(paths: &Paths) -> Vec<PathBuf> {
    let Paths {
        data,
        db,
        lock,
        spool,
        store,
        tree,
        noncurrent,
        keystore,
        host_keys,
        ..
    } = paths;
    let mut places = Vec::from_iter(db.parent().map(Path::to_owned));
    places.extend([db, lock, spool, store, tree, noncurrent, keystore, host_keys].map(PathBuf::clone));
    places.extend(["db-wal", "db-shm"].map(|log| db.with_extension(log)));
    places.push(data.join(PARTIAL));
    places
}

/// Others get no further than the data directory: here it matters that its own user does.
fn usable(place: &Path, owner: u32) -> Option<Finding> {
    let found = std::fs::metadata(place).ok()?;
    let (name, shown, file) = (place.file_name()?.to_string_lossy(), place.display(), quoted_path(place));
    let (needed, word, access) = match found.is_dir() {
        true => (0o700, "rwX", Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK),
        false => (0o600, "rw", Access::READ_OK | Access::WRITE_OK),
    };
    let (why, hint) = if found.uid() != owner {
        let why = format!("{shown} belongs to user {}, not to {owner}", found.uid());
        (why, format!("chown -R {owner} {file}"))
    } else if found.mode() & needed != needed {
        let why = format!("{shown} is {:04o}: its own user does not get at it", found.mode() & 0o777);
        (why, format!("chmod u+{word} {file}"))
    } else {
        return None;
    };
    // A group or a list may let it in all the same; and root gets everywhere, whosever the server is that it looks after.
    Some(match rustix::fs::access(place, access) {
        Ok(()) => Finding::warn(&name, why, &hint),
        Err(_) => Finding::bad(&name, why, &hint),
    })
}

/// Staged bytes go to directories by the beginnings of their names: one that another user has made takes none.
fn foreign_places(store: &Path, owner: u32) -> Option<Finding> {
    let places = std::fs::read_dir(store).ok()?;
    let owners = places.filter_map(|place| Some(place.ok()?.metadata().ok()?.uid()));
    let foreign = owners.filter(|found| *found != owner).count();
    (foreign > 0).then(|| {
        let why = format!(
            "{foreign} places in {} belong to other users: uploads and messages fail there",
            store.display()
        );
        Finding::bad("store", why, &format!("chown -R {owner} {}", quoted_path(store)))
    })
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy()).into_owned()
}

fn rights_of(name: &str, path: &Path, wanted: u32, owner: u32) -> Vec<Finding> {
    let Ok(found) = std::fs::metadata(path) else { return Vec::new() };
    let (mode, shown) = (found.mode() & 0o777, path.display());
    let file = quoted_path(path);
    let needed = if found.is_dir() { 0o700 } else { 0o400 };
    let who = if mode & 0o077 != 0 {
        Some("other users of this machine get at it")
    } else if mode & needed != needed {
        Some("its own user does not get at it")
    } else {
        None
    };
    let told = who.map(|who| Finding::warn(name, format!("{shown} is {mode:04o}: {who}"), &format!("chmod {wanted:o} {file}")));
    told.into_iter().chain(foreign(name, path, owner)).collect()
}

fn foreign(name: &str, path: &Path, owner: u32) -> Option<Finding> {
    let found = std::fs::metadata(path).ok()?.uid();
    (found != owner).then(|| {
        let why = format!("{} belongs to user {found}, not to {owner}", path.display());
        Finding::warn(name, why, &format!("chown {owner} {}", quoted_path(path)))
    })
}

/// What the data directory holds: database, events, room, certificates, settings.
fn contents(core: &Core) -> manage::Result<Vec<Finding>> {
    let mut findings = vec![
        match core.journal.integrity()?.as_str() {
            "ok" => Finding::ok("database", "intact"),
            other => Finding::bad("database", other, "stop the server and restore a backup"),
        },
        match core.journal.read(|tx| tx.verify_events(|_| ()))? {
            Ok(chain) => Finding::ok("events", format!("{}, chain unbroken", chain.events)),
            Err(seq) => Finding::bad(
                "events",
                format!("the chain breaks at event {seq}"),
                "somebody changed the table; keep a copy of the database",
            ),
        },
        space(core)?,
        clock(core)?,
    ];
    findings.extend(lost_files(core)?);
    findings.extend(sweep(core)?);
    findings.extend(uploads(core)?);
    let all = objects(core)?;
    findings.extend(sealed(core, &all));
    findings.extend(expiry(core, &all));
    findings.extend(warnings(core, &all));
    Ok(findings)
}

/// Whether files are where the journal says that they are, by a sample.
fn lost_files(core: &Core) -> manage::Result<Option<Finding>> {
    /// So many files of each place are looked for.
    const SAMPLE: u32 = 100;
    /// A sweep that lets files go has let their rows go by then.
    const A_BATCH: Duration = Duration::from_secs(2);
    let mut looked_at = 0;
    let mut look = || -> manage::Result<Vec<Entry>> {
        let mut files = core.journal.read(|tx| tx.some_files(SAMPLE))?;
        files.retain(|file| core.storage.place_of(file).is_some());
        looked_at = files.len();
        files.retain(|file| matches!(core.storage.find_entry(file), Err(StorageError::Missing(_))));
        Ok(files)
    };
    let key = |file: &Entry| (file.account.clone(), file.parent.clone(), file.name.clone(), file.version);
    let first: Vec<_> = look()?.iter().map(key).collect();
    // What the server let go between the look at its row and the look at the disk has no row any more.
    let lost: Vec<Entry> = if first.is_empty() {
        Vec::new()
    } else {
        std::thread::sleep(A_BATCH);
        look()?.into_iter().filter(|file| first.contains(&key(file))).collect()
    };
    Ok(lost.iter().find_map(|file| core.storage.place_of(file)).map(|place| {
        let detail = format!(
            "{} of {looked_at} that were looked for are not where the journal has them, {} for one",
            lost.len(),
            place.display()
        );
        Finding::bad("files", detail, "mount the disk that they lie on, or put them back from a backup")
    }))
}

/// What was put and is not sent, until somebody says so.
fn uploads(core: &Core) -> manage::Result<Option<Finding>> {
    let detail = match interrupted(core)? {
        0 => return Ok(None),
        1 => "1 file in send looks interrupted and waits for a person".to_owned(),
        n => format!("{n} files in send look interrupted and wait for a person"),
    };
    Ok(Some(Finding::warn("uploads", detail, "as2gate upload list")))
}

/// Certificates among these objects that end soon, and that of our HTTPS.
fn expiry(core: &Core, all: &Objects) -> Vec<Finding> {
    let now = core.clock.now();
    let due = expiry::due(&core.config, all, now, expiry::SOON_DAYS * DAY);
    // Objects that are over are among the warnings.
    let told = due.iter().filter(|c| c.ends() >= now || expiry::is_own_tls(c));
    let findings = told.map(|c| {
        let verb = if c.ends() < now { "expired" } else { "expires" };
        let detail = format!("{} {verb} on {}", expiry::label(c), certificates::day(c.not_after));
        Finding::warn("certificate", detail, &expiry::renewal(&core.config, c))
    });
    findings.collect()
}

/// What the running server tells of itself: it goes by the configuration that it was started with.
fn server(config: &Config, core: Option<&Core>) -> Vec<Finding> {
    let listening = core.and_then(|core| Listening::read(&core.journal));
    let doors: Option<Vec<String>> = listening.map(|listening| listening.sftp.iter().map(ToString::to_string).collect());
    let mut findings = Vec::from_iter(sftp_port(config, doors.as_ref().unwrap_or(&config.sftp.listen)));
    findings.push(Finding::ok("server", "runs on this data directory"));
    let Some(started) = core.and_then(|core| Started::read(&core.journal)) else {
        return findings;
    };
    let (by_variables, by_file): (Vec<_>, Vec<_>) = started.changed(config).into_iter().partition(|other| other.variable.is_some());
    let listed = |others: &[Differing]| others.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let name = "configuration";
    if by_variables.is_empty() && by_file.is_empty() {
        findings.push(Finding::ok(name, "is what the server was started with"));
    }
    if !by_variables.is_empty() {
        findings.push(Finding::warn(
            name,
            format!("commands go by other values than the running server: {}", listed(&by_variables)),
            Started::ONE_ENVIRONMENT,
        ));
    }
    if by_file.is_empty() {
        return findings;
    }
    let changed = listed(&by_file);
    findings.push(match &started.file {
        Some(file) if !started.is_of(config) => Finding::warn(
            name,
            format!("is not that of the running server, {}; it differs in {changed}", file.display()),
            &format!("as2gate -c {} doctor", quoted(&file.to_string_lossy())),
        ),
        _ => Finding::warn(
            name,
            format!("differs from what the running server was started with: {changed}"),
            "restart the server to take it over",
        ),
    });
    findings
}

/// What is said of an SFTP port that clients have to be told of, with what gives them 22.
fn sftp_port(config: &Config, addresses: &[String]) -> Option<Finding> {
    let is_22 = |address: &&String| address.ends_with(":22");
    if addresses.iter().any(|address| is_22(&address)) {
        return None;
    }
    let first = addresses.first().and_then(|address| address.rsplit_once(':'));
    let (host, port) = first.unwrap_or(("0.0.0.0", "none"));
    let (wanted, next) = match config.sftp.listen.iter().find(is_22) {
        Some(address) => (address.clone(), "restart the server"),
        None => (format!("{host}:22"), "set sftp.listen"),
    };
    let hint = match try_bind("sftp.listen", &wanted) {
        Ok(()) => format!("{wanted} is free: {next}; without root it needs CAP_NET_BIND_SERVICE, or socket activation"),
        Err(obstacle) => format!("{obstacle}: {}", obstacle.hint()),
    };
    Some(Finding::warn("sftp port", format!("is {port}; clients expect 22"), &hint))
}

/// Ports that a server would bind, tried while none runs.
fn ports(config: &Config) -> Vec<Finding> {
    let sftp = &config.sftp.listen;
    let mut findings = Vec::from_iter(sftp_port(config, sftp));
    let falls_back = without_22(sftp).is_some_and(|others| others.iter().all(|address| try_bind("sftp.listen", address).is_ok()));
    let telemetry = Vec::from_iter(Some(config.telemetry.listen.clone()).filter(|address| !address.is_empty()));
    let lists = [
        ("sftp", "sftp.listen", sftp),
        ("as2", "as2.listen", &config.as2.listen),
        ("as2 tls", "as2.tls.listen", &config.as2.tls.listen),
        ("telemetry", "telemetry.listen", &telemetry),
    ];
    for (name, key, address) in lists
        .into_iter()
        .flat_map(|(name, key, list)| list.iter().map(move |address| (name, key, address)))
    {
        let Err(obstacle) = try_bind(key, address) else { continue };
        let (port, detail, hint) = (format!("{name} port"), obstacle.to_string(), obstacle.hint());
        findings.push(match name {
            "sftp" if falls_back => Finding::warn(&port, format!("{detail}; a server answers at 2022 instead"), &hint),
            "telemetry" => Finding::warn(&port, format!("{detail}; a server starts without health and metrics"), &hint),
            _ => Finding::bad(&port, detail, &hint),
        });
    }
    findings.push(Finding::ok("server", "not running"));
    findings
}

fn space(core: &Core) -> manage::Result<Finding> {
    let (free, share) = core.storage.free_share()?;
    let detail = format!("{} free ({share} %)", show_size(free));
    match core.storage.look_for_room(0) {
        Err(error @ StorageError::NoFiles) => {
            let why = format!("{detail}, but {error}: new data is refused");
            return Ok(Finding::bad("disk", why, "remove files, or make a file system with more inodes"));
        }
        Err(_) => {
            let why = format!("{detail}, less than storage.min_free: new data is refused");
            return Ok(Finding::bad("disk", why, "make room"));
        }
        Ok(()) => {}
    }
    Ok(if share < 10 {
        Finding::warn("disk", detail, "make room before it is full")
    } else {
        Finding::ok("disk", detail)
    })
}

/// A clock that stands before what was recorded last was set back.
fn clock(core: &Core) -> manage::Result<Finding> {
    let newest = core.journal.read(|tx| {
        tx.messages(&MessageFilter {
            limit: 1,
            ..Default::default()
        })
    })?;
    let now = core.clock.now();
    let ahead = newest.first().map_or(0, |message| message.created - now);
    // Clocks of one machine differ by nothing; a minute is a clock that was set.
    if ahead > 60_000 {
        let detail = format!("is {} s behind the newest message", ahead / 1000);
        return Ok(Finding::warn(
            "clock",
            detail,
            "synchronise it (NTP); windows and life cycles go by it",
        ));
    }
    Ok(Finding::ok("clock", rfc3339(now)))
}

/// What the brake of the life cycle holds.
fn sweep(core: &Core) -> manage::Result<Vec<Finding>> {
    let held = lifecycle::held(core)?;
    let findings = held.iter().map(|row| {
        let detail = format!("{} wait for a person: the clock jumped, or a life cycle was shortened", row.words());
        let hint = "set the clock or the life cycle right; if they are, `as2gate lifecycle run --dry-run` shows what goes and `as2gate lifecycle run` lets it go";
        Finding::warn("life cycle", detail, hint)
    });
    Ok(findings.collect())
}

fn judge_objects(core: &Core) -> manage::Result<Vec<Finding>> {
    let all = objects(core)?;
    let mut findings = Vec::new();
    let mut count = 0;
    for object in all.all().filter_map(|(kind, account, name)| find(&all, kind, account, name)) {
        count += 1;
        if let Err(why) = rules::check_object(&core.config, &all, &object) {
            let (why, hint) = with_hint(&why);
            findings.push(Finding::bad(&format!("{} {}", object.kind(), object.name()), why, hint));
        }
    }
    findings.extend(sealed(core, &all));
    findings.extend(warnings(core, &all));
    findings.insert(0, Finding::ok("objects", format!("{count} read")));
    Ok(findings)
}

/// What is legal among these objects and will not do its work.
fn warnings(core: &Core, all: &Objects) -> impl Iterator<Item = Finding> + use<> {
    let found = rules::warnings(&core.config, all, core.clock.now());
    found.into_iter().map(|(what, hint)| Finding::warn("", what, &hint))
}

/// What was sealed under another master key is found here, not with the first message.
fn sealed(core: &Core, all: &Objects) -> Vec<Finding> {
    match sealed::expect_key(core, all) {
        Err(refusal) => vec![Finding::bad("master key", refusal.why, &refusal.hint)],
        Ok(_) => {
            let hint = |hint: &str| format!("if no other master key opens it: {hint}");
            let unopened = sealed::unopened(core, all);
            unopened.map(|lost| Finding::bad(&lost.name, lost.why, &hint(&lost.hint))).collect()
        }
    }
}
