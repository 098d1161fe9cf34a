//! The composition root: opens the backends, binds and opens the doors (`doors.rs`, `tls_door.rs`), starts the flows and what recurs
//! (`rounds.rs`), and stops all of it again. `start.rs` looks at the data directory first.

mod doors;
pub mod health;
mod rounds;
mod start;
pub mod status;
mod tls_door;

use std::fs::File;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use keystore::secret::MasterKey;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::clock::{Clock, Jumps, SystemClock};
use crate::config::Config;
use crate::helper::{Bound, SpareCores, Turns};
use crate::inbox::Brake;
use crate::journal::{Journal, JournalError};
use crate::lifecycle::Rejections;
use crate::message::Message;
use crate::objects::Objects;
use crate::partnership::{Lack, Partnership, PartnershipCache};
use crate::post::Poster;
use crate::random::random;
use crate::station::Station;
use crate::storage::Storage;
use crate::telemetry::Registry;
use crate::url::Url;
use crate::{intake, worker};

use doors::Doors;
pub use doors::{Differing, Listening, ServeOptions, Started};
pub use start::StartError;
use start::{adopt_jobless, check_master_key, forget_lost_parts, has_room, lock};
pub(crate) use start::{check_set_up, expect_own};
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
    /// Where it jumped.
    pub(crate) jumps: Jumps,
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

/// A command that works on the data directory, beside a server or without one.
impl Core {
    /// Opens journal, storage and keys below the configured data directory.
    ///
    /// # Errors
    /// What is missing or broken.
    pub fn open(config: Config) -> Result<Arc<Self>, StartError> {
        // First, for the owner of what is not set up says nothing.
        check_set_up(&config.paths())?;
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
        let storage = Arc::new(Storage::open(&paths, Arc::clone(&journal), config.storage.min_free)?);
        let objects = journal.read(|tx| tx.objects())?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let crypto = Bound::of(cores);
        Ok(Arc::new(Core {
            config: Arc::new(config),
            journal,
            storage,
            clock,
            jumps: Jumps::default(),
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

    /// Lets staged bytes go whose deciding transaction was refused or undone: whoever sent them sends them again. Where it may have
    /// been written after all, they stay until the orphan sweep.
    pub(crate) fn let_go_undecided(&self, error: &JournalError, keys: &[String]) {
        let undecided = keys.iter().filter(|key| self.is_undecided(error, key));
        undecided.for_each(|key| self.storage.discard(key));
    }

    /// Whether the transaction that ended by this error left nothing behind, and nothing else names these staged bytes.
    pub(crate) fn is_undecided(&self, error: &JournalError, key: &str) -> bool {
        error.is_undone() && matches!(self.journal.read(|tx| tx.names_store_key(key)), Ok(false))
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
    // Numbers of processes come again, in a container each time: without it, what a dead process held would look like our own, and
    // nobody would claim it.
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
        check_master_key(&core).await?;
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
        if let Some(file) = SystemClock::shift_file() {
            tracing::warn!(
                file = %file.display(),
                "{} is set: the clock goes by that file, and so do all rules and events; it is for tests only",
                SystemClock::SHIFT_FILE
            );
        }
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
    /// Waits until it cannot go on: nothing can be decided any more, and so nothing promised, or a door or a round has ended by itself.
    pub async fn broken(&self) {
        while !self.core.journal.has_stopped() && !self.tasks.iter().any(JoinHandle::is_finished) {
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
