//! The composition root: opens the backends, starts the flows, binds the doors, and stops all of it again.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use keystore::secret::MasterKey;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;

use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::journal::{Journal, JournalError, Objects};
use crate::partnership::{Lack, Partnership, PartnershipCache};
use crate::post::Poster;
use crate::storage::{Storage, StorageError};

/// How often a running server looks for objects changed by the command line.
const OBJECTS_POLL: Duration = Duration::from_millis(300);
/// How long the publisher waits for more to publish, so that one sync serves many.
const PUBLISH_PAUSE: Duration = Duration::from_millis(100);
/// How often a moved clock is noticed by the daily sweep.
const SWEEP_POLL: Duration = Duration::from_secs(1);

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
    /// Bounds cryptographic work to what the machine can do side by side.
    pub crypto: Arc<Semaphore>,
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
    /// The data directory was never set up.
    #[error("{0} is not a data directory")]
    NotSetUp(PathBuf),
    /// The journal's word.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The storage's word.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The keystore's word.
    #[error("{0}")]
    Key(String),
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
            StartError::NotSetUp(_) => "run `as2gate init` first, with the same --data-dir",
            StartError::Journal(JournalError::Newer { .. }) => "install the as2gate version that wrote it, or restore a backup",
            StartError::Journal(_) => "look at the disk and the rights of the data directory; `as2gate doctor` checks the database",
            StartError::Storage(_) => "look at the disk and the rights of the data directory",
            StartError::Key(_) => "look at master_key in the configuration and at the file's rights",
            StartError::Io(_) => "choose another address, or stop the program that uses it",
        }
    }
}

/// A command that works on the data directory, beside a server or without one.
impl Core {
    /// Opens journal, storage and keys below the configured data directory.
    ///
    /// # Errors
    /// What is missing or broken.
    pub fn open(config: Config) -> Result<Arc<Self>, StartError> {
        Self::open_with_clock(config, Arc::new(SystemClock::from_env()))
    }

    /// The same, with a clock that a test may move.
    ///
    /// # Errors
    /// What is missing or broken.
    pub fn open_with_clock(config: Config, clock: Arc<dyn Clock>) -> Result<Arc<Self>, StartError> {
        let paths = config.paths();
        if !paths.db.exists() {
            return Err(StartError::NotSetUp(paths.data));
        }
        let master = MasterKey::load(&paths.master_key).map_err(|error| StartError::Key(error.to_string()))?;
        let journal = Arc::new(Journal::open(&paths.db)?);
        let storage = Arc::new(Storage::open(&paths.data, Arc::clone(&journal), config.storage.min_free)?);
        let objects = journal.read(|tx| tx.objects())?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Ok(Arc::new(Core {
            config: Arc::new(config),
            journal,
            storage,
            clock,
            master,
            owner: format!("{}-{}", std::process::id(), random_tag()),
            poster: Poster::new(),
            crypto: Arc::new(Semaphore::new(cores * 2)),
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

    /// Settings and keys of a pair.
    ///
    /// # Errors
    /// What is lacking.
    pub fn partnership(&self, station: &str, partner: &str) -> Result<Arc<Partnership>, Lack> {
        self.partnerships.get(&self.objects(), &self.master, station, partner, self.clock.now())
    }

    /// Tells the workers that something is due. A hint: their scan finds it anyway.
    pub fn wake(&self) {
        self.wake_worker.notify_one();
        self.wake_publisher.notify_one();
    }

    /// The host part of our Message-IDs.
    #[must_use]
    pub fn host(&self) -> String {
        let url = &self.config.public_url;
        let host = url.split("://").nth(1).unwrap_or(url).split(['/', ':']).next().unwrap_or_default();
        if host.is_empty() { "as2gate.local".to_owned() } else { host.to_owned() }
    }

    /// Lets staged bytes go that no row names any more. Losing the call costs space until the orphan sweep, nothing else.
    pub async fn let_go(&self, keys: Vec<String>) {
        let storage = Arc::clone(&self.storage);
        let outcome = self.journal.write(move |tx| {
            let mut unnamed = Vec::new();
            for key in keys {
                if !key.is_empty() && !tx.names_store_key(&key)? {
                    tx.drop_blob(&key)?;
                    unnamed.push(key);
                }
            }
            Ok(unnamed)
        });
        match outcome.await {
            Ok(unnamed) => unnamed.iter().filter(|key| key.starts_with("f:")).for_each(|key| storage.discard(key)),
            Err(error) => tracing::warn!(%error, "staged bytes stay until the next sweep"),
        }
    }

    /// Loads the objects again if somebody changed them; true if so.
    fn refresh_objects(&self) -> Result<bool, JournalError> {
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
    let mut random = [0u8; 8];
    // A fixed tag would only make leases of a dead process last until they run out.
    let _ = openssl::rand::rand_bytes(&mut random);
    format!("{:016x}", u64::from_le_bytes(random))
}

/// What `serve` may override.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// Instead of `sftp.listen`.
    pub sftp: Option<Vec<String>>,
    /// Instead of `as2.listen`.
    pub as2: Option<Vec<String>>,
}

/// A running server.
pub struct Running {
    /// Where SFTP answers.
    pub sftp: Vec<SocketAddr>,
    /// Where AS2 answers.
    pub as2: Vec<SocketAddr>,
    /// Where AS2 answers over TLS.
    pub as2_tls: Vec<SocketAddr>,
    /// Where health and metrics answer.
    pub telemetry: Option<SocketAddr>,
    /// What it works with.
    pub core: Arc<Core>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    // Held for as long as this process serves.
    _lock: File,
}

/// Takes the data directory for this process.
fn lock(config: &Config) -> Result<File, StartError> {
    let paths = config.paths();
    let io = |error: std::io::Error| StartError::Io(format!("cannot open {}: {error}", paths.lock.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&paths.lock).map_err(io)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::Locked(paths.data)),
        Err(error) => Err(io(error.into())),
    }
}
