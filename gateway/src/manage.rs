//! Changing objects: what every door may do with accounts, stations, partners, certificates and users, and with messages
//! that wait for a person. The command line calls it now, an API later; neither decides anything by itself.
//!
//! Every change goes the same way through [`edit`]: a plan is made on a snapshot, the objects as they would be are checked
//! against the rules (`rules.rs`), and all of it is written in one transaction, unless somebody else changed something in
//! between: then the plan is made again. That transaction asks whether messages in work need what leaves (`in_work.rs`). The key
//! stores on disk follow (`stores.rs`).

pub mod accounts;
pub mod apply;
pub mod backup;
pub mod certificates;
pub mod expiry;
pub mod fields;
pub mod host_keys;
mod in_work;
pub mod messages;
pub mod notices;
pub mod partner_test;
pub mod partners;
pub mod rollover;
pub mod rules;
pub mod sealed;
pub mod secrets;
pub mod setup;
pub mod stations;
pub mod stores;
pub mod sweeping;
pub mod switch;
pub mod uploads;
pub mod users;

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde_json::json;

use crate::account::Account;
use crate::certificate::Certificate;
use crate::event::NewEvent;
use crate::gateway::Core;
use crate::hint::command;
use crate::journal::{JournalError, Tx};
use crate::lifecycle::SweepError;
use crate::objects::{Object, ObjectKind, Objects};
use crate::partner::Partner;
use crate::partnership::Lack;
use crate::station::Station;
use crate::user::User;

/// How often a plan is made again because somebody else changed objects meanwhile.
const MAX_TRIES: usize = 8;

/// What sort of refusal it is; decides the exit code, later the HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// It did not work out, or is not possible as things stand: it is there already, in use, in work or over.
    Failed,
    /// The request makes no sense as it is, or leaves open what is meant.
    Usage,
    /// What was named is not there.
    NotFound,
    /// A value, a file or the configuration is invalid.
    Invalid,
    /// Somebody does not allow it: rights, a block, the answer no.
    Denied,
    /// The remote side or the network.
    Remote,
    /// Some of it worked.
    Partly,
}

/// Why something was not done: what, why, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Refusal {
    /// The sort.
    pub kind: RefusalKind,
    /// A word for programs, in kebab-case.
    pub code: &'static str,
    /// What was not done.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do next.
    pub hint: String,
}

impl Refusal {
    /// A refusal of this sort.
    pub fn new(kind: RefusalKind, code: &'static str, what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Refusal {
            kind,
            code,
            what: what.into(),
            why: why.into(),
            hint: hint.into(),
        }
    }

    /// An input that cannot be used.
    pub fn invalid(what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::Invalid, "invalid", what, why, hint)
    }

    /// Something that is not there.
    pub fn not_found(what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::NotFound, "not-found", what, why, hint)
    }

    /// A request that contradicts itself.
    pub fn usage(what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::Usage, "usage", what, why, hint)
    }

    /// What did not work out, or is not possible as things stand.
    pub fn failed(code: &'static str, what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::Failed, code, what, why, hint)
    }

    /// Something that is there already.
    pub fn exists(what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Refusal::failed("exists", what, why, hint)
    }

    /// The keystore's word: its sentences say what to do after the last semicolon.
    #[must_use]
    pub fn from_keystore(what: impl Into<String>, error: &keystore::Error) -> Self {
        let text = error.to_string();
        let (why, hint) = text
            .rsplit_once("; ")
            .unwrap_or((&text, "look at the file, and at its passphrase if it has one"));
        Refusal::new(RefusalKind::Invalid, "bad-key-or-certificate", what, why, hint)
    }

    /// The system's word about a file.
    #[must_use]
    pub fn from_io(what: impl Into<String>, error: &std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => RefusalKind::NotFound,
            std::io::ErrorKind::PermissionDenied => RefusalKind::Denied,
            _ => RefusalKind::Failed,
        };
        Refusal::new(
            kind,
            "file",
            what,
            error.to_string(),
            "look at the path and at the rights of the file and its directory",
        )
    }
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        let why = error.to_string();
        match error {
            JournalError::NotFound(_) => Refusal::not_found("not found", why, "`list` shows what there is"),
            JournalError::Conflict(_) => Refusal::failed("conflict", "not done", why, "look at its state with `show`, then try again"),
            JournalError::Newer { .. } | JournalError::Unknown { .. } => {
                Refusal::invalid("the journal cannot be used", why, "install the newer as2gate")
            }
            JournalError::Sqlite(_)
            | JournalError::Open(_)
            | JournalError::Corrupt(_)
            | JournalError::Commit(_)
            | JournalError::Undone(_)
            | JournalError::Closed => Refusal::failed(
                "journal",
                "the journal did not take it",
                why,
                "`as2gate doctor` checks the database and the disk",
            ),
        }
    }
}

impl From<crate::storage::StorageError> for Refusal {
    fn from(error: crate::storage::StorageError) -> Self {
        Refusal::failed(
            "storage",
            "the storage did not do it",
            error.to_string(),
            "`as2gate doctor` checks the disk",
        )
    }
}

impl From<SweepError> for Refusal {
    fn from(error: SweepError) -> Self {
        match error {
            SweepError::Journal(error) => error.into(),
            SweepError::Storage(error) => error.into(),
            other => Refusal::failed("lifecycle", "the sweep did not run", other.to_string(), "as2gate lifecycle status"),
        }
    }
}

impl From<Lack> for Refusal {
    fn from(lack: Lack) -> Self {
        let why = lack.to_string();
        match lack {
            Lack::Station(_) => Refusal::not_found("no such pair", why, "as2gate station list"),
            Lack::Partner(_) => Refusal::not_found("no such pair", why, "as2gate partner list"),
            Lack::NotAPair { partner, .. } => Refusal::not_found("no such pair", why, command("partner set", &partner, "--stations IDS")),
            Lack::Key(_) => Refusal::invalid("a key or certificate cannot be used", why, "as2gate cert list"),
        }
    }
}

/// The result of everything here.
pub type Result<T, E = Refusal> = std::result::Result<T, E>;

/// One step of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Write this object, new or over the one of its name.
    Put(Object),
    /// Remove the object of this noun, account and name.
    Remove(ObjectKind, String, String),
}

impl Change {
    fn account(&self) -> &str {
        match self {
            Change::Put(object) => object.account(),
            Change::Remove(_, account, _) => account,
        }
    }

    fn kind(&self) -> ObjectKind {
        match self {
            Change::Put(object) => object.kind(),
            Change::Remove(kind, ..) => *kind,
        }
    }
}

impl From<Station> for Change {
    fn from(station: Station) -> Self {
        Change::Put(Object::Station(station))
    }
}

impl From<Partner> for Change {
    fn from(partner: Partner) -> Self {
        Change::Put(Object::Partner(Box::new(partner)))
    }
}

impl From<Certificate> for Change {
    fn from(certificate: Certificate) -> Self {
        Change::Put(Object::Certificate(Box::new(certificate)))
    }
}

impl From<User> for Change {
    fn from(user: User) -> Self {
        Change::Put(Object::User(Box::new(user)))
    }
}

impl From<Account> for Change {
    fn from(account: Account) -> Self {
        Change::Put(Object::Account(account))
    }
}

/// The objects as they are now.
///
/// # Errors
/// The journal's.
pub fn objects(core: &Core) -> Result<Objects> {
    Ok(core.journal.read(|tx| tx.objects())?)
}

/// Makes a plan on the present objects and carries it out, all or nothing. With `dry_run` everything is checked and
/// nothing is written.
///
/// # Errors
/// The plan's own refusal, a broken rule, or the journal's word.
pub async fn edit<T>(core: &Core, dry_run: bool, plan: impl Fn(&Objects) -> Result<(Vec<Change>, T)>) -> Result<T> {
    overwrite(core, dry_run, |before| {
        let (changes, outcome) = plan(before)?;
        certificates::expect_kept(before, &changes)?;
        Ok((changes, outcome))
    })
    .await
}

/// The same for plans that may put another certificate in the place of one.
///
/// # Errors
/// As [`edit`].
pub async fn overwrite<T>(core: &Core, dry_run: bool, plan: impl Fn(&Objects) -> Result<(Vec<Change>, T)>) -> Result<T> {
    for _ in 0..MAX_TRIES {
        let before = objects(core)?;
        let (mut changes, outcome) = plan(&before)?;
        for change in &mut changes {
            match change {
                Change::Put(Object::Partner(partner)) => secrets::seal_passwords(&core.master, partner)?,
                Change::Put(Object::User(user)) => secrets::hash_password(user)?,
                _ => {}
            }
        }
        let proof = sealed::expect_key_for(core, &before, &changes)?;
        let after = with_changes(&before, &changes);
        rules::check_changes(&core.config, &before, &after, &changes)?;
        let leaving = in_work::leaving(&before, &after, &changes);
        if dry_run || changes.is_empty() {
            let refused = core.journal.read(|tx| in_work::refused(tx, &leaving))?;
            return refused.map_or(Ok(outcome), Err);
        }
        if write(core, &before, &changes, leaving, proof).await? {
            stores::follow(core, &changes)?;
            return Ok(outcome);
        }
    }
    Err(Refusal::failed(
        "conflict",
        "not done",
        "somebody else keeps changing objects",
        "try again",
    ))
}

/// Writes the changes with their events, unless messages in work need what leaves; false if the objects are no longer those of the
/// plan.
async fn write(
    core: &Core,
    before: &Objects,
    changes: &[Change],
    leaving: Vec<in_work::Leaving>,
    proof: Option<sealed::Proof>,
) -> Result<bool> {
    let now = core.clock.now();
    let (version, changes) = (before.version, changes.to_vec());
    let settled = switch::finalized(before, now);
    let events: Vec<_> = changes.iter().map(|change| describe(before, &settled, change)).collect();
    let switches = switch::taken_place(before, now);
    let done = core.journal.write(move |tx| {
        if tx.objects_version()? != version {
            return Ok(Ok(false));
        }
        if let Some(refusal) = in_work::refused(tx, &leaving)? {
            return Ok(Err(refusal));
        }
        notices::tell_switches(tx, &switches, now)?;
        proof.iter().try_for_each(|proof| proof.note(tx))?;
        for (change, (kind, facts)) in changes.iter().zip(events) {
            carry_out(tx, change, now)?;
            let subject = match change {
                Change::Put(object) => object.name(),
                Change::Remove(_, _, name) => name,
            };
            tx.record(
                &NewEvent {
                    account: change.account(),
                    kind: &kind,
                    subject,
                    facts,
                },
                now,
            )?;
        }
        Ok(Ok(true))
    });
    done.await?
}

/// Runs work that blocks on a thread of its own. `what` is said if it panics.
pub(crate) async fn blocking<T, E>(what: impl Into<String>, work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    E: Into<Refusal> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Refusal::failed("internal", what, error.to_string(), "look at the log, then run it again"))?;
    done.map_err(Into::into)
}

/// Makes a directory and those above it, readable by nobody else.
pub(crate) fn make_dir(dir: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| Refusal::from_io(format!("cannot make {}", dir.display()), &error))
}

/// Writes a new file with this mode, durably; never over another.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn carry_out(tx: &Tx<'_>, change: &Change, now: crate::clock::Millis) -> crate::journal::Result<()> {
    match change {
        Change::Put(object) => tx.put_object(object, now),
        Change::Remove(kind, account, name) => tx.remove_object(*kind, account, name).map(|_| ()),
    }
}

/// The event of a change: `partner.changed`, with the names of the fields, never their values. Where it only writes down what a
/// switch of certificates has done by its time (`settled`), it says that nobody else did.
fn describe(before: &Objects, settled: &Objects, change: &Change) -> (String, serde_json::Value) {
    match change {
        Change::Put(object) => match find(before, object.kind(), object.account(), object.name()) {
            Some(old) => {
                let changed = fields::changed(&old, object);
                let keys = object.kind() == ObjectKind::User && changed.iter().any(|field| field == "keys");
                let kind = if keys {
                    "user.key_changed".to_owned()
                } else {
                    format!("{}.changed", object.kind())
                };
                let mut facts = json!({ "fields": changed });
                let is_settled = old != *object && find(settled, object.kind(), object.account(), object.name()).as_ref() == Some(object);
                if is_settled {
                    facts["by"] = json!(notices::BY_SCHEDULE);
                }
                (kind, facts)
            }
            None => (format!("{}.added", object.kind()), json!({})),
        },
        Change::Remove(kind, ..) => (format!("{kind}.removed"), json!({})),
    }
}

/// One object of a snapshot.
#[must_use]
pub fn find(objects: &Objects, kind: ObjectKind, account: &str, name: &str) -> Option<Object> {
    match kind {
        ObjectKind::Account => objects.accounts.get(name).cloned().map(Object::Account),
        ObjectKind::Station => objects
            .stations
            .get(name)
            .filter(|s| s.account == account)
            .cloned()
            .map(Object::Station),
        ObjectKind::Partner => objects.partner(account, name).cloned().map(|p| Object::Partner(Box::new(p))),
        ObjectKind::Certificate => objects
            .certificate(account, name)
            .cloned()
            .map(|c| Object::Certificate(Box::new(c))),
        ObjectKind::User => objects
            .user(name)
            .filter(|u| u.account == account)
            .cloned()
            .map(|user| Object::User(Box::new(user))),
    }
}

/// Writes down what somebody did that changes no object, for the audit.
pub(crate) fn deed(
    core: &Core,
    account: &str,
    kind: &'static str,
    subject: &str,
    facts: serde_json::Value,
) -> impl FnOnce(&Tx<'_>) -> Result<(), JournalError> + Send + 'static {
    let (now, account, subject) = (core.clock.now(), account.to_owned(), subject.to_owned());
    move |tx| {
        let event = NewEvent {
            account: &account,
            kind,
            subject: &subject,
            facts,
        };
        tx.record(&event, now)
    }
}

/// The snapshot as it would be after the changes.
#[must_use]
pub fn with_changes(before: &Objects, changes: &[Change]) -> Objects {
    let mut after = before.clone();
    make_changes(&mut after, changes);
    after
}

/// Of several writes of one object only the last counts.
fn last_of_each(changes: Vec<Change>) -> Vec<Change> {
    let key = |change: &Change| match change {
        Change::Put(object) => (object.kind(), object.account().to_owned(), object.name().to_owned()),
        Change::Remove(kind, account, name) => (*kind, account.clone(), name.clone()),
    };
    let keys: Vec<_> = changes.iter().map(key).collect();
    let numbered = changes.into_iter().enumerate();
    numbered
        .filter(|(n, _)| !keys[n + 1..].contains(&keys[*n]))
        .map(|(_, change)| change)
        .collect()
}

/// Makes changes to a snapshot.
fn make_changes(after: &mut Objects, changes: &[Change]) {
    for change in changes {
        match change.clone() {
            Change::Put(object) => after.put(object),
            Change::Remove(kind, account, name) => match kind {
                ObjectKind::Account => drop(after.accounts.remove(&name)),
                ObjectKind::Station => drop(after.stations.remove(&name)),
                ObjectKind::Partner => drop(after.partners.remove(&(account, name))),
                ObjectKind::Certificate => drop(after.certificates.remove(&(account, name))),
                ObjectKind::User => drop(after.users.remove(&name.to_ascii_lowercase())),
            },
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
