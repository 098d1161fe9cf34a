//! The journal: a durable record of every decision, in SQLite.
//!
//! One writer thread runs all changes of this process. It collects what is ready, commits once and only then releases
//! the answers (group commit), so that concurrent uploads and messages share one fsync. A change is a closure over
//! [`Tx`], whose methods are the domain's verbs; one that fails takes nothing along. Reads use connections of their own
//! and never wait for the writer.
//!
//! Other processes (the command line) write beside a server through the same verbs; [`Journal::version`] tells that
//! something changed.

mod contents;
mod events;
mod history;
mod inbound;
mod jobs;
mod lifecycle;
mod messages;
mod objects;
mod outbound;
mod recent;
mod snapshot;
mod tree;
mod uploads;

use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use recent::Recent;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Params, Row};
use tokio::sync::oneshot;

pub use contents::{Blob, blob_key, file_key, file_name, head_key, mdn_file, mdn_key};
pub use history::Trimmed;
pub use inbound::{Claim, Claimed, Filing, InboundRow};
pub use jobs::{Job, JobKind, LEASE, Lane, Lease, Room};
pub use lifecycle::{PurgeMark, SweepCount, Swept};
pub use messages::{InWork, MessageFilter};
pub use outbound::{Accepted, Moved, NewUpload, Next, Revived, Settlement, lane};
pub use snapshot::Snapshot;
pub use tree::{Entry, NewEntry, SendEntry};
pub use uploads::{UploadRow, UploadState, WaitReason};

/// How long a writer waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(15);
/// Most changes that share one commit.
const MAX_GROUP: usize = 256;
/// The schema's version, kept in `user_version`.
const SCHEMA_VERSION: i64 = 11;
const SCHEMA: &str = include_str!("schema.sql");
/// What takes a journal of version n + 1 to the next one, at place n.
const STEPS: &[&str] = &[
    // A partner that always uses one name had all its messages of a day read for each new one.
    "DROP INDEX message_again;
     CREATE INDEX message_same_payload ON message (account, station, partner, file, detail ->> '$.mic', created)
         WHERE direction = 'in' AND state = 'filed';",
    include_str!("step_3.sql"),
    include_str!("step_4.sql"),
    "CREATE INDEX entry_deleted ON entry (deleted) WHERE deleted IS NOT NULL;",
    include_str!("step_6.sql"),
    "CREATE INDEX message_rejected ON message (station, partner, id, detail ->> '$.raw_size')
         WHERE direction = 'in' AND state IN ('rejected', 'quarantined');",
    include_str!("step_8.sql"),
    include_str!("step_9.sql"),
    include_str!("step_10.sql"),
    // Objects have fields that a server of before does not read: it is not changed behind its back.
    "",
];
/// Pages of the write-ahead log (4 KiB each) after which it is carried over into the database. Small contents live for a
/// fraction of a second: with a longer log most of their pages are overwritten before they are carried over.
const CHECKPOINT_PAGES: i64 = 16_384;
/// Bytes of the log that stay on the disk once it was carried over; a backup or a long sweep lets it grow far beyond.
const MAX_IDLE_LOG: i64 = 64 << 20;
/// Most memory of the writer's page cache, in KiB.
const WRITER_CACHE_KIB: i64 = 8 * 1024;
/// Read connections kept for reuse.
const MAX_IDLE_READERS: usize = 8;

/// Why the journal could not do it.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// SQLite's word.
    #[error("journal: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// Its file or its thread cannot be had.
    #[error("journal: cannot {0}")]
    Open(String),
    /// A stored value is not what this version writes.
    #[error("journal holds a value that cannot be read: {0}")]
    Corrupt(String),
    /// An object holds what this version does not know.
    #[error("{object} cannot be read: {why}; written by a newer as2gate?")]
    Unknown {
        /// Which one.
        object: String,
        /// The field or value, and what was expected.
        why: String,
    },
    /// The group of changes is not known to be durable, and none of them counts.
    #[error("journal cannot commit: {0}")]
    Commit(String),
    /// The group of changes was undone: none of them happened.
    #[error("journal cannot commit: {0}")]
    Undone(String),
    /// Written by a newer version.
    #[error("journal has schema version {found}, this program knows {SCHEMA_VERSION}; install the newer as2gate")]
    Newer {
        /// The version found.
        found: i64,
    },
    /// The row is not in the state that the change needs: somebody else moved it.
    #[error("{0}")]
    Conflict(String),
    /// No such row.
    #[error("{0}")]
    NotFound(String),
    /// The change did not run: no transaction could begin, as while another process holds the database, or the writer has stopped.
    #[error("journal cannot be written; the log says why")]
    Closed,
}

impl JournalError {
    /// Whether nothing of the change was written, for certain. What could not be made durable may come back after a crash.
    #[must_use]
    pub fn is_undone(&self) -> bool {
        !matches!(self, JournalError::Commit(_))
    }
}

impl From<serde_json::Error> for JournalError {
    fn from(error: serde_json::Error) -> Self {
        JournalError::Corrupt(error.to_string())
    }
}

/// Result of a journal verb.
pub type Result<T> = std::result::Result<T, JournalError>;

/// Runs as the first of its group or behind others.
type Change = Box<dyn FnOnce(&Tx<'_>, Turn) -> Ran + Send>;
/// Sends the answer, once the group's commit is known.
type Release = Box<dyn FnOnce(Committed) + Send>;
/// Whether a group is durable, or why not.
type Committed = std::result::Result<(), Failed>;

/// Why a group is not durable.
#[derive(Clone)]
struct Failed {
    why: String,
    /// Nothing of it was written.
    undone: bool,
}

impl From<Failed> for JournalError {
    fn from(failed: Failed) -> Self {
        if failed.undone {
            JournalError::Undone(failed.why)
        } else {
            JournalError::Commit(failed.why)
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Later,
}

/// What running a change came to.
struct Ran {
    release: Release,
    /// It failed, and what it wrote still stands in the transaction.
    spoilt: bool,
}

/// How a change may fail.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Failing {
    /// By a refusal of its own, after it wrote something: behind others it runs in a savepoint, which keeps a copy of every
    /// page that it touches.
    Alone,
    /// By a refusal of its own before it wrote anything. If it fails after that, all of its group fail with it.
    Unwritten,
}

/// The durable record of every decision.
pub struct Journal {
    path: PathBuf,
    changes: mpsc::Sender<Change>,
    /// The connection that writes. Its thread takes it for each group, and whoever writes [here](Journal::write_here).
    writer: Arc<Mutex<Connection>>,
    recent: Arc<Recent>,
    readers: Mutex<Vec<Connection>>,
    /// The last group could not begin or commit.
    failed: Arc<AtomicBool>,
}

/// One change: the verbs are its methods, spread over this folder by flow.
pub struct Tx<'a> {
    pub(super) db: &'a Connection,
    recent: &'a Recent,
}

impl Journal {
    /// Opens or makes the journal at this path.
    ///
    /// # Errors
    /// When the file cannot be opened or has a newer schema.
    pub fn open(path: &Path) -> Result<Self> {
        let db = connect(path)?;
        migrate(&db, STEPS)?;
        let (changes, queue) = mpsc::channel::<Change>();
        let recent = Arc::new(Recent::default());
        let shared = Arc::clone(&recent);
        let writer = Arc::new(Mutex::new(db));
        let writing = Arc::clone(&writer);
        let failed = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&failed);
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write_loop(&writing, &shared, &queue, &told))
            .map_err(|error| JournalError::Open(format!("start the writer: {error}")))?;
        Ok(Journal {
            path: path.to_owned(),
            changes,
            writer,
            recent,
            readers: Mutex::new(Vec::new()),
            failed,
        })
    }

    /// Whether the journal at this path has to be brought up to date by this program; false if there is none.
    ///
    /// # Errors
    /// The database's.
    pub fn is_older(path: &Path) -> Result<bool> {
        if !path.exists() {
            return Ok(false);
        }
        let found: i64 = connect_reader(path)?.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        Ok((1..SCHEMA_VERSION).contains(&found))
    }

    /// Runs one change and waits until it is durable. For blocking threads.
    ///
    /// # Errors
    /// The change's own, or the database's.
    pub fn write_blocking<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.asked(change, Failing::Alone)?
            .blocking_recv()
            .map_err(|_| JournalError::Closed)?
    }

    /// Runs one change and waits until it is durable.
    ///
    /// # Errors
    /// The change's own, or the database's.
    pub async fn write<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.asked(change, Failing::Alone)?.await.map_err(|_| JournalError::Closed)?
    }

    /// Like [`Journal::write`], for a change that refuses before it writes anything, or never. It costs less; one that fails
    /// later takes its whole group along, whose askers are told: nothing of it was promised.
    ///
    /// # Errors
    /// The change's own, or the database's.
    pub async fn write_sure<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.asked(change, Failing::Unwritten)?.await.map_err(|_| JournalError::Closed)?
    }

    /// [`Journal::write_sure`] for blocking threads.
    ///
    /// # Errors
    /// The change's own, or the database's.
    pub fn write_sure_blocking<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.asked(change, Failing::Unwritten)?
            .blocking_recv()
            .map_err(|_| JournalError::Closed)?
    }

    /// [`Journal::write_sure`] without waiting: `then` is told what came of it, on the writer's thread, which it must not hold up,
    /// nor ask for a change and wait for that. If the writer has stopped, it is told so here.
    pub fn write_then<T, F>(&self, change: F, then: impl FnOnce(Result<T>) + Send + 'static)
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let then = Then(Some(Box::new(then)));
        // A change that is not run is dropped with its `then`, which tells.
        let _ = self
            .changes
            .send(boxed(change, Failing::Unwritten, move |outcome| then.tell(outcome)));
    }

    /// [`Journal::write_then`] that commits on this thread if nobody else is writing: it waits for the disk and for nobody, which
    /// is quickest where there is nothing to share a commit with.
    pub fn write_here<T, F>(&self, change: F, then: impl FnOnce(Result<T>) + Send + 'static)
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let Ok(db) = self.writer.try_lock() else {
            return self.write_then(change, then);
        };
        let then = Then(Some(Box::new(then)));
        let change = boxed(change, Failing::Unwritten, move |outcome| then.tell(outcome));
        let ended = commit(&db, &self.recent, change, None, &self.failed);
        drop(db);
        ended.tell();
    }

    /// Whether nobody will ever write again in this process: a change panicked, which ends the writer. Only a new start helps.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.writer.is_poisoned()
    }

    /// Whether the last change could be committed. If not, the next one is tried at once, for whoever asks again.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        let failed = self.failed.load(Ordering::Relaxed);
        if failed {
            self.write_then(|tx| tx.set_fact("journal.tried", ""), |_| ());
        }
        !failed && !self.has_stopped()
    }

    fn asked<T, F>(&self, change: F, failing: Failing) -> Result<oneshot::Receiver<Result<T>>>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (answer, receiver) = oneshot::channel();
        let change = boxed(change, failing, move |outcome| {
            // The asker may have gone away; the decision stands all the same.
            let _ = answer.send(outcome);
        });
        self.changes.send(change).map_err(|_| JournalError::Closed)?;
        Ok(receiver)
    }

    /// Reads, on a connection of its own.
    ///
    /// # Errors
    /// The database's, or the reader's own.
    pub fn read<T>(&self, read: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let idle = self.readers.lock().ok().and_then(|mut pool| pool.pop());
        let db = match idle {
            Some(db) => db,
            None => connect_reader(&self.path)?,
        };
        let outcome = read(&self.tx(&db));
        if let Ok(mut pool) = self.readers.lock()
            && pool.len() < MAX_IDLE_READERS
        {
            pool.push(db);
        }
        outcome
    }

    /// [`Journal::read`] of a few rows, on the writer's connection while nobody is writing. That one knows what it wrote itself, where
    /// a reader's has to fetch all pages anew after each commit.
    ///
    /// # Errors
    /// The database's, or the reader's own.
    pub fn read_few<T>(&self, read: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        match self.writer.try_lock() {
            Ok(db) => read(&self.tx(&db)),
            Err(_) => self.read(read),
        }
    }

    fn tx<'a>(&'a self, db: &'a Connection) -> Tx<'a> {
        Tx { db, recent: &self.recent }
    }

    /// A number that changes whenever objects changed, by this process or another.
    ///
    /// # Errors
    /// The database's.
    pub fn version(&self) -> Result<i64> {
        self.read(|tx| tx.objects_version())
    }

    /// SQLite's own check of the file, for `doctor`.
    ///
    /// # Errors
    /// The database's.
    pub fn integrity(&self) -> Result<String> {
        self.read(|tx| Ok(tx.db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?))
    }
}

/// A change as the writer runs it.
fn boxed<T, F>(change: F, failing: Failing, answer: impl FnOnce(Result<T>) + Send + 'static) -> Change
where
    T: Send + 'static,
    F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
{
    Box::new(move |tx, turn| {
        let guarded = turn == Turn::Later && failing == Failing::Alone;
        let before = tx.db.total_changes();
        let outcome = if guarded { in_savepoint(tx, change) } else { change(tx) };
        let spoilt = outcome.is_err() && !guarded && tx.db.total_changes() != before;
        let release = Box::new(move |committed: Committed| {
            answer(match (outcome, committed) {
                (Ok(_), Err(failed)) => Err(failed.into()),
                (outcome, _) => outcome,
            });
        });
        Ran { release, spoilt }
    })
}

/// Who is told about a change, exactly once.
struct Then<T>(Option<Box<dyn FnOnce(Result<T>) + Send>>);

impl<T> Then<T> {
    fn tell(mut self, outcome: Result<T>) {
        self.end(outcome);
    }

    /// The writer goes on, whatever they do.
    fn end(&mut self, outcome: Result<T>) {
        if let Some(then) = self.0.take()
            && std::panic::catch_unwind(AssertUnwindSafe(|| then(outcome))).is_err()
        {
            tracing::error!("what follows a change of the journal panicked");
        }
    }
}

impl<T> Drop for Then<T> {
    fn drop(&mut self) {
        self.end(Err(JournalError::Closed));
    }
}

fn in_savepoint<T>(tx: &Tx<'_>, change: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
    tx.run("SAVEPOINT change")?;
    let outcome = change(tx);
    if outcome.is_err() {
        tx.run("ROLLBACK TO change")?;
    }
    tx.run("RELEASE change")?;
    outcome
}

impl Tx<'_> {
    /// A statement that is used so often that it is not parsed each time.
    fn run(&self, statement: &str) -> rusqlite::Result<()> {
        self.db.prepare_cached(statement)?.execute([]).map(|_| ())
    }

    /// All rows of a query.
    fn all<T>(&self, sql: &str, params: impl Params, read: fn(&Row<'_>) -> Result<T>) -> Result<Vec<T>> {
        self.db.prepare_cached(sql)?.query_and_then(params, read)?.collect()
    }
}

/// A stored word of one of our vocabularies.
///
/// # Errors
/// `Corrupt` for one that this version does not know.
fn read_word<T: FromStr<Err = String>>(row: &Row<'_>, column: usize) -> Result<T> {
    let stored = row
        .get_ref(column)?
        .as_str()
        .map_err(|error| JournalError::Corrupt(error.to_string()))?;
    stored.parse().map_err(JournalError::Corrupt)
}

fn connect(path: &Path) -> Result<Connection> {
    // SQLite would make it readable for all; its side files take the mode from it.
    let private = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    private.map_err(|error| JournalError::Open(format!("open {}: {error}", path.display())))?;
    let db = Connection::open(path)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    // FULL: in WAL mode NORMAL lost committed rows at a power cut (durability.md §10).
    db.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;")?;
    db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    db.pragma_update(None, "journal_size_limit", MAX_IDLE_LOG)?;
    db.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    prepare_once(&db, 128)?;
    Ok(db)
}

fn connect_reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.execute_batch("PRAGMA query_only=ON;")?;
    prepare_once(&db, 64)?;
    Ok(db)
}

/// Keeps so many statements, and their plans whatever is bound to them: SQLite would prepare every one with a `LIMIT ?` anew at each
/// use, to look at the number.
fn prepare_once(db: &Connection, statements: usize) -> Result<()> {
    db.set_prepared_statement_cache_capacity(statements);
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Brings the schema to [`SCHEMA_VERSION`], all steps or none.
fn migrate(db: &Connection, steps: &[&str]) -> Result<()> {
    // A command that only reads does not wait for whoever writes.
    if db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))? == SCHEMA_VERSION {
        return Ok(db.execute_batch("PRAGMA temp_store=MEMORY")?);
    }
    // Millions of rows are sorted for an index: on the disk, and not in memory, which would have no bound.
    db.execute_batch("PRAGMA temp_store=FILE; BEGIN IMMEDIATE")?;
    let outcome = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(Into::into)
        .and_then(|found| advance(db, found, steps));
    db.execute_batch(if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    db.execute_batch("PRAGMA temp_store=MEMORY")?;
    outcome
}

fn advance(db: &Connection, found: i64, steps: &[&str]) -> Result<()> {
    match found {
        0 => db.execute_batch(SCHEMA)?,
        1..SCHEMA_VERSION => {
            tracing::info!(
                from = found,
                to = SCHEMA_VERSION,
                "the journal is being brought up to date; with many millions of files this takes minutes, and a start that is cut off begins anew"
            );
            let done = usize::try_from(found - 1).unwrap_or_default();
            steps.iter().skip(done).try_for_each(|step| db.execute_batch(step))?;
            tracing::info!(version = SCHEMA_VERSION, "the journal is up to date");
        }
        SCHEMA_VERSION => {}
        found => return Err(JournalError::Newer { found }),
    }
    if found != SCHEMA_VERSION {
        db.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    Ok(())
}

/// Runs changes until nobody can send any more.
fn write_loop(writer: &Mutex<Connection>, recent: &Recent, queue: &mpsc::Receiver<Change>, failed: &AtomicBool) {
    while let Ok(first) = queue.recv() {
        // A change that panicked: nobody knows what it left behind.
        let Ok(db) = writer.lock() else { return };
        let ended = commit(&db, recent, first, Some(queue), failed);
        drop(db);
        ended.tell();
    }
}

/// A group that has ended, whose askers wait for the answer.
struct Ended {
    releases: Vec<Release>,
    committed: Committed,
}

impl Ended {
    fn tell(self) {
        for release in self.releases {
            release(self.committed.clone());
        }
    }
}

/// Rolls back what a panic leaves open: other processes wait for it.
struct Undo<'a>(&'a Connection);

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.execute_batch("ROLLBACK");
        }
    }
}

/// Runs a change, and those behind it in a queue, and commits them.
fn commit(db: &Connection, recent: &Recent, first: Change, queue: Option<&mpsc::Receiver<Change>>, failed: &AtomicBool) -> Ended {
    let (tx, _undo) = (Tx { db, recent }, Undo(db));
    if let Err(error) = tx.run("BEGIN IMMEDIATE") {
        failed.store(true, Ordering::Relaxed);
        // Without a transaction nothing may be decided: the change runs nowhere and its asker is told.
        drop(first);
        tracing::error!(%error, "the journal cannot begin a transaction");
        return Ended {
            releases: Vec::new(),
            committed: Ok(()),
        };
    }
    let (releases, spoilt) = run_group(&tx, first, queue);
    let committed = if spoilt {
        Err(Failed {
            why: "a change of the same group failed".to_owned(),
            undone: true,
        })
    } else {
        tx.run("COMMIT").map_err(|error| {
            tracing::error!(%error, "the journal cannot commit");
            Failed {
                undone: error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
                why: error.to_string(),
            }
        })
    };
    if committed.is_err() {
        let _ = db.execute_batch("ROLLBACK");
    }
    // A change that took its group along says nothing about the disk.
    if !spoilt {
        failed.store(committed.is_err(), Ordering::Relaxed);
    }
    Ended { releases, committed }
}

/// Runs the first change and those that wait behind it. The group ends at a change that spoilt the transaction, which is
/// then rolled back: with only the first in it, that costs nobody else anything.
fn run_group(tx: &Tx<'_>, first: Change, queue: Option<&mpsc::Receiver<Change>>) -> (Vec<Release>, bool) {
    let Ran { release, mut spoilt } = first(tx, Turn::First);
    let mut releases = vec![release];
    // A full disk ends the transaction by itself; what would follow in this group would stand outside of it.
    while !spoilt
        && releases.len() < MAX_GROUP
        && !tx.db.is_autocommit()
        && let Some(Ok(next)) = queue.map(mpsc::Receiver::try_recv)
    {
        let ran = next(tx, Turn::Later);
        spoilt = ran.spoilt;
        releases.push(ran.release);
    }
    (releases, spoilt)
}

#[cfg(test)]
mod tests;
