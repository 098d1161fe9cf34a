//! The composition root: opens the backends, binds and opens the doors (`doors.rs`, `tls_door.rs`), starts the flows and what recurs
//! (`rounds.rs`), and stops all of it again.

mod doors;
pub mod health;
mod rounds;
pub mod status;
mod tls_door;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use keystore::secret::MasterKey;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::certificate::Certificate;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::helper::{Bound, SpareCores, Turns};
use crate::inbox::Brake;
use crate::journal::{Journal, JournalError, UploadState};
use crate::lifecycle::Rejections;
use crate::message::Message;
use crate::objects::Objects;
use crate::partnership::{Lack, Partnership, PartnershipCache};
use crate::post::Poster;
use crate::random::random;
use crate::station::Station;
use crate::storage::{self, Storage, StorageError};
use crate::telemetry::Registry;
use crate::url::Url;
use crate::{intake, manage, worker};

use doors::Doors;
pub use doors::{Listening, ServeOptions, Started};
pub(crate) use tls_door::check as check_tls;

/// How long a stop waits for what is under way, and how much longer than for uploads.
const STOP_WITHIN: Duration = Duration::from_secs(35);
const STOP_AFTER_UPLOADS: Duration = Duration::from_secs(5);

/// How often it is looked at whether the journal's writer is there.
const BROKEN_POLL: Duration = Duration::from_secs(1);

/// What every flow works with.
pub struct Core {
    /// The server's settings.
    pub config: Arc<Config>,
    /// The record of every decision.
    pub journal: Arc<Journal>,
    /// Customers' bytes.
    pub storage: Arc<Storage>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Opens sealed keys.
    pub master: MasterKey,
    /// This process, as the owner of leases.
    pub owner: String,
    /// Posts messages and MDNs.
    pub poster: Poster,
    /// How much cryptographic work goes on at once.
    pub crypto: Bound,
    /// A second processor for a large message while others have nothing to do.
    pub(crate) spare: Arc<SpareCores>,
    /// Of messages whose MIC is computed again.
    pub(crate) mic_turns: Turns,
    /// Slows down who sends what does not decrypt.
    pub brake: Brake,
    /// Of which pairs messages were rejected lately.
    pub(crate) rejections: Rejections,
    /// Counters.
    pub metrics: Arc<Registry>,
    objects: RwLock<Arc<Objects>>,
    partnerships: PartnershipCache,
    wake_worker: Arc<Notify>,
    wake_publisher: Arc<Notify>,
}

/// Why the gateway cannot start: what, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another server has the data directory.
    #[error("another as2gate server uses {0}")]
    Locked(PathBuf),
    /// The server that runs is of an older version, whose journal this one would bring up to date.
    #[error("the server that is running is of an older version")]
    OldServer,
    /// The data directory was never set up.
    #[error("{0} is not a data directory")]
    NotSetUp(PathBuf),
    /// This user may not look into the data directory.
    #[error("cannot look into {0}: {1}")]
    Unreadable(PathBuf, String),
    /// Root works on the data directory of another user.
    #[error("{0} belongs to user {1}, whose server could not read what root writes there")]
    Foreign(PathBuf, u32),
    /// The journal's file has nothing in it: what the data directory holds would pass for worth nothing.
    #[error("the database {0} is empty")]
    Emptied(PathBuf),
    /// No room is left to open the journal: SQLite calls that an I/O error.
    #[error("no room is left on the disk of {0}")]
    Full(PathBuf),
    /// The journal's word.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The storage's word.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The keystore's word.
    #[error("{0}")]
    Key(String),
    /// Certificate or key of the TLS listener.
    #[error("{0}")]
    Tls(String),
    /// A host key that cannot be used.
    #[error("{0}")]
    HostKey(String),
    /// A listener cannot be bound, or something else of the system.
    #[error("{0}")]
    Io(String),
}

impl StartError {
    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            StartError::Locked(_) => "stop the other server, or give this one its own --data-dir",
            StartError::OldServer => "restart the server with this version first",
            StartError::NotSetUp(_) => "`as2gate init` sets one up here; another is named with -c FILE or --data-dir DIR",
            StartError::Unreadable(..) => "run it as the user to whom the data directory belongs",
            StartError::Foreign(..) => "run it as that user: sudo -u NAME as2gate …",
            StartError::Full(_) => "make room; nothing that was accepted is lost",
            StartError::Journal(JournalError::Newer { .. } | JournalError::Unknown { .. }) => {
                "install the as2gate version that wrote it, or restore a backup"
            }
            StartError::Emptied(_) => "restore a backup; to begin anew, remove the data directory and run `as2gate init`",
            StartError::Journal(error) if is_damage(error) => {
                "stop the server, keep a copy of the data directory, and restore a backup: as2gate restore --help"
            }
            StartError::Journal(_) => "look at the disk and the rights of the data directory; `as2gate doctor` checks the database",
            StartError::Storage(_) => "look at the disk and the rights of the data directory",
            StartError::HostKey(_) => {
                "put it back from a backup; where its file is missing a new key is made, which every client has to be told of"
            }
            StartError::Key(_) => "look at master_key in the configuration and at the file's rights",
            StartError::Tls(_) => "give as2.tls.cert and as2.tls.key files in PEM that belong together",
            StartError::Io(why) if why.contains("Permission denied") => {
                "ports below 1024 need root, CAP_NET_BIND_SERVICE or a socket of systemd; or set another: sftp.listen, as2.listen"
            }
            StartError::Io(why) if why.contains("not an address") => "write it like 0.0.0.0:2022 or [::]:2022",
            StartError::Io(_) => "choose another address, or stop the program that uses it",
        }
    }
}

/// The file of the journal is not what SQLite wrote.
fn is_damage(error: &JournalError) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    let JournalError::Sqlite(error) = error else { return false };
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// Whether the disk has room for what opening a journal writes.
fn has_room(data: &Path) -> bool {
    const NEEDED: u64 = 1 << 20;
    storage::free_bytes(data).is_ok_and(|free| free >= NEEDED)
}

/// A command that works on the data directory, beside a server or without one.
impl Core {
    /// Opens journal, storage and keys below the configured data directory.
    ///
    /// # Errors
    /// What is missing or broken.
    pub fn open(config: Config) -> Result<Arc<Self>, StartError> {
        expect_own(&config.paths())?;
        // It would change the database below a server of the older version, which could not even be started again.
        if Journal::is_older(&config.paths().db).unwrap_or(false) && is_served(&config) {
            return Err(StartError::OldServer);
        }
        Self::open_here(config)
    }

    fn open_here(config: Config) -> Result<Arc<Self>, StartError> {
        Self::open_with_clock(config, Arc::new(SystemClock::from_env()))
    }

    /// The same, with a clock that a test may move.
    ///
    /// # Errors
    /// What is missing or broken.
    pub fn open_with_clock(config: Config, clock: Arc<dyn Clock>) -> Result<Arc<Self>, StartError> {
        let paths = config.paths();
        check_set_up(&paths)?;
        let master = config.load_master_key().map_err(StartError::Key)?;
        let journal = Journal::open(&paths.db).map_err(|error| match has_room(&paths.data) {
            true => StartError::from(error),
            false => StartError::Full(paths.data.clone()),
        })?;
        let journal = Arc::new(journal);
        let storage = Arc::new(Storage::open(&paths.data, Arc::clone(&journal), config.storage.min_free)?);
        let objects = journal.read(|tx| tx.objects())?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let crypto = Bound::of(cores);
        Ok(Arc::new(Core {
            config: Arc::new(config),
            journal,
            storage,
            clock,
            master,
            owner: format!("{}-{}", std::process::id(), random_tag()),
            poster: Poster::new(),
            spare: Arc::new(SpareCores::within(&crypto, cores)),
            crypto,
            mic_turns: Turns::default(),
            brake: Brake::default(),
            rejections: Rejections::default(),
            metrics: Registry::new(),
            objects: RwLock::new(Arc::new(objects)),
            partnerships: PartnershipCache::default(),
            wake_worker: Arc::new(Notify::new()),
            wake_publisher: Arc::new(Notify::new()),
        }))
    }

    /// The objects as they are now, give or take the poll.
    #[must_use]
    pub fn objects(&self) -> Arc<Objects> {
        self.objects.read().map(|objects| Arc::clone(&objects)).unwrap_or_default()
    }

    /// Settings and keys of a pair, by the names that a partner or an operator gave.
    ///
    /// # Errors
    /// What is lacking.
    pub fn partnership(&self, station: &str, partner: &str) -> Result<Arc<Partnership>, Lack> {
        let look = || {
            self.partnerships
                .get(&self.objects(), &self.master, station, partner, self.clock.now())
        };
        // What is lacking may just have been added: a message must not wait for the poll, and then for its next try.
        look().or_else(|lack| self.refresh_objects().map_or(Err(lack), |_| look()))
    }

    /// Settings and keys for a message. Its station may have been removed, and be another account's by now.
    ///
    /// # Errors
    /// What is lacking.
    pub fn partnership_of(&self, message: &Message) -> Result<Arc<Partnership>, Lack> {
        let pair = self.partnership(&message.station, &message.partner)?;
        if pair.station.account == message.account {
            Ok(pair)
        } else {
            Err(Lack::Station(message.station.clone()))
        }
    }

    /// Tells the workers that something is due. A hint: their scan finds it anyway.
    pub fn wake(&self) {
        self.wake_worker.notify_one();
        self.wake_publisher();
    }

    /// Tells the publisher that there are new entries. A hint as well.
    pub fn wake_publisher(&self) {
        self.wake_publisher.notify_one();
    }

    /// The base of our own URLs: `public_url`, or this machine's AS2 port.
    #[must_use]
    pub fn base_url(&self) -> String {
        let url = self.config.public_url.trim_end_matches('/');
        if !url.is_empty() {
            return url.to_owned();
        }
        let listening = Listening::read(&self.journal)
            .and_then(|l| l.as2.first().copied())
            .map(|address| address.port());
        let configured = || {
            self.config
                .as2
                .listen
                .first()
                .and_then(|text| text.rsplit_once(':')?.1.parse().ok())
                .unwrap_or(8080)
        };
        format!("http://localhost:{}", listening.unwrap_or_else(configured))
    }

    /// Where partners post messages for a station to.
    #[must_use]
    pub fn station_url(&self, station: &Station) -> String {
        if station.url.is_empty() {
            format!("{}{}", self.base_url(), self.config.as2.path)
        } else {
            station.url.clone()
        }
    }

    /// Where partners post async MDNs for a station to.
    #[must_use]
    pub fn mdn_url(&self, station: &Station) -> String {
        // One endpoint takes both. Partners that have it as our URL let MDNs go there that no signature proves the asking for.
        let own = &self.config.as2.mdn_path;
        if own.is_empty() || !station.url.is_empty() {
            self.station_url(station)
        } else {
            format!("{}{own}", self.base_url())
        }
    }

    /// The host part of our Message-IDs: that of `public_url`, an IPv6 address with dashes for its colons, or `localhost`.
    #[must_use]
    pub fn host(&self) -> String {
        Url::parse(&self.config.public_url).map_or_else(|_| "localhost".to_owned(), |url| url.host_in_ids())
    }

    /// Lets staged bytes go that no row names any more. Losing the call costs space until the orphan sweep, nothing else.
    pub async fn let_go(&self, keys: Vec<String>) {
        if keys.is_empty() {
            return;
        }
        let outcome = self.journal.write(move |tx| tx.forget_unnamed(keys)).await;
        self.discard_unnamed(outcome);
    }

    /// The same, for blocking threads.
    pub fn let_go_blocking(&self, keys: Vec<String>) {
        if keys.is_empty() {
            return;
        }
        let outcome = self.journal.write_blocking(move |tx| tx.forget_unnamed(keys));
        self.discard_unnamed(outcome);
    }

    fn discard_unnamed(&self, outcome: Result<Vec<String>, JournalError>) {
        match outcome {
            Ok(unnamed) => unnamed.iter().for_each(|key| self.storage.discard(key)),
            Err(error) => tracing::warn!(%error, "staged bytes stay until the next sweep"),
        }
    }

    /// Loads the objects again if somebody changed them; true if so.
    pub(crate) fn refresh_objects(&self) -> Result<bool, JournalError> {
        if self.journal.version()? == self.objects().version {
            return Ok(false);
        }
        let objects = self.journal.read(|tx| tx.objects())?;
        if let Ok(mut current) = self.objects.write() {
            *current = Arc::new(objects);
        }
        Ok(true)
    }
}

fn random_tag() -> String {
    // A fixed tag would only make leases of a dead process last until they run out.
    format!("{:016x}", u64::from_le_bytes(random()))
}

/// Whether a server works on this data directory now.
#[must_use]
pub fn is_served(config: &Config) -> bool {
    use rustix::fs::{FlockOperation, flock};
    // Whoever only looks makes no file: root's would keep the server of another user from starting.
    let busy = Err(rustix::io::Errno::WOULDBLOCK);
    File::open(config.paths().lock).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive) == busy)
}

/// A running server.
pub struct Running {
    /// Where it answers.
    pub listening: Listening,
    /// What it works with.
    pub core: Arc<Core>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    // Held for as long as this process serves.
    _lock: File,
}

/// The server.
pub struct Gateway;

impl Gateway {
    /// Opens the data directory, recovers, binds the doors and starts the flows.
    ///
    /// # Errors
    /// What stands in the way; then nothing runs.
    pub async fn start(config: Config, options: ServeOptions) -> Result<Running, StartError> {
        let lock = lock(&config)?;
        let core = Core::open_here(config)?;
        check_master_key(&core)?;
        core.storage.clear_spool()?;
        core.storage.partials().adopt()?;
        forget_lost_parts(&core)?;
        intake::bring_all_back(&core)?;
        adopt_jobless(&core).await?;
        let unnamed = core.journal.read(|tx| tx.unnamed_blobs())?;
        core.let_go(unnamed).await;
        worker::check_clock(&core).await;
        let doors = Doors::bind(&core, &options).await?;
        let listening = doors.listening.clone();
        let started = Started::new(&core.config, &options);
        listening.clone().remember(started, &core.journal).await?;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = doors.open(&core, &stopped)?;
        tasks.push(tokio::spawn(worker::run(
            Arc::clone(&core),
            Arc::clone(&core.wake_worker),
            stopped.clone(),
        )));
        tasks.push(tokio::spawn(rounds::publish(Arc::clone(&core), stopped.clone())));
        tasks.push(tokio::spawn(rounds::bound_rejected(Arc::clone(&core), stopped.clone())));
        tasks.push(tokio::spawn(rounds::sweep(Arc::clone(&core), stopped)));
        Ok(Running {
            listening,
            core,
            stop,
            tasks,
            _lock: lock,
        })
    }
}

impl Running {
    /// Waits until it cannot go on: nothing can be decided any more, and so nothing promised.
    pub async fn broken(&self) {
        while !self.core.journal.has_stopped() {
            tokio::time::sleep(BROKEN_POLL).await;
        }
    }

    /// Stops: no new connections, what is under way may end within a limit, then the rest is cut.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let within = STOP_WITHIN.max(self.core.config.sftp.drain + STOP_AFTER_UPLOADS);
        let deadline = tokio::time::Instant::now() + within;
        for task in self.tasks {
            let abort = task.abort_handle();
            if tokio::time::timeout_at(deadline, task).await.is_err() {
                abort.abort();
            }
        }
    }
}

/// Parts that were being resumed when the last server died went with its spool; nobody was promised them.
fn forget_lost_parts(core: &Core) -> Result<(), StartError> {
    let rows = core.journal.read(|tx| tx.all_uploads())?;
    for row in rows
        .into_iter()
        .filter(|row| row.state == UploadState::Part && core.storage.open_staged(&row.store).is_err())
    {
        core.journal.write_blocking(move |tx| tx.remove_upload(&row))?;
    }
    Ok(())
}

/// A message in work that nobody would work on is a fault of ours, and not one to keep.
async fn adopt_jobless(core: &Core) -> Result<(), StartError> {
    let now = core.clock.now();
    for id in core.journal.write(move |tx| tx.adopt_jobless(now)).await? {
        tracing::warn!(id, "a message in work had no job; it has one now");
    }
    Ok(())
}

/// Whether somebody has set up the data directory, and this user gets at it.
fn check_set_up(paths: &config::Paths) -> Result<(), StartError> {
    match paths.db.try_exists() {
        Ok(true) if is_empty(&paths.db) && is_empty(&paths.db.with_extension("db-wal")) => Err(StartError::Emptied(paths.db.clone())),
        Ok(true) => Ok(()),
        Ok(false) => Err(StartError::NotSetUp(paths.data.clone())),
        Err(error) => Err(StartError::Unreadable(paths.data.clone(), error.to_string())),
    }
}

/// What root makes, also the database's log, is closed to the user that the server runs as. The server itself may be root.
fn expect_own(paths: &config::Paths) -> Result<(), StartError> {
    use std::os::unix::fs::MetadataExt as _;
    let owner = std::fs::metadata(&paths.db).map_or(0, |found| found.uid());
    if owner != 0 && rustix::process::geteuid().is_root() {
        return Err(StartError::Foreign(paths.data.clone(), owner));
    }
    Ok(())
}

fn is_empty(file: &Path) -> bool {
    std::fs::metadata(file).map_or(true, |metadata| metadata.len() == 0)
}

/// Whether the master key is the one under which the private keys were sealed: with another one, every message would fail.
fn check_master_key(core: &Core) -> Result<(), StartError> {
    let objects = core.objects();
    let mut sealed = objects.certificates.values().filter(|certificate| certificate.sealed_key.is_some());
    let Some(first) = sealed.next() else { return Ok(()) };
    let opens = |certificate: &Certificate| manage::stores::private_key(core, certificate).is_ok();
    // A single one that is damaged is no reason to stand still.
    if opens(first) || sealed.any(opens) {
        return Ok(());
    }
    Err(StartError::Key(format!(
        "the master key is not the one that sealed the private keys here; none of them opens, {} for one",
        first.name
    )))
}

/// Takes the data directory for this process.
fn lock(config: &Config) -> Result<File, StartError> {
    let paths = config.paths();
    check_set_up(&paths)?;
    let io = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            StartError::Unreadable(paths.data.clone(), error.to_string())
        }
        _ => StartError::Io(format!("cannot open {}: {error}", paths.lock.display())),
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&paths.lock)
        .map_err(io)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::Locked(paths.data)),
        Err(error) => Err(io(error.into())),
    }
}
