//! The composition root: opens the backends, starts the flows, binds the doors, and stops all of it again.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use keystore::secret::MasterKey;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;

use crate::certificate::{Certificate, Purpose};
use crate::clock::{Clock, Millis, SystemClock};
use crate::config::{self, Config};
use crate::helper::SpareCores;
use crate::inbox::Brake;
use crate::journal::{Journal, JournalError, Objects, UploadState};
use crate::manage::host_keys::HostKey;
use crate::message::State;
use crate::partnership::{Lack, Partnership, PartnershipCache};
use crate::post::Poster;
use crate::random::random;
use crate::sftp_tree::Logins;
use crate::station::Station;
use crate::storage::{self, Storage, StorageError};
use crate::telemetry::Registry;
use crate::{http, inbox, lifecycle, listen, manage, telemetry, worker};

/// How often a running server looks for objects changed by the command line.
const OBJECTS_POLL: Duration = Duration::from_millis(300);
/// How long the publisher waits for more to publish, so that one sync serves many.
const PUBLISH_PAUSE: Duration = Duration::from_millis(100);
/// How often a moved clock is noticed by the daily sweep.
const SWEEP_POLL: Duration = Duration::from_secs(1);
/// How often the gauges are brought up to date.
const GAUGES: Duration = Duration::from_secs(5);
/// How long a sweep that failed is left alone.
const SWEEP_AGAIN: Duration = Duration::from_secs(3600);
/// Wake-ups are hints; the publisher looks so often anyway.
const PUBLISH_SCAN: Duration = Duration::from_secs(1);
/// How often staged bytes without a row are looked for, and how old they have to be.
const ORPHAN_SWEEP: Duration = Duration::from_secs(3600);
const ORPHAN_AGE: Duration = Duration::from_secs(48 * 3600);
/// How long a stop waits for what is under way, and how much longer than for uploads.
const STOP_WITHIN: Duration = Duration::from_secs(35);
const STOP_AFTER_UPLOADS: Duration = Duration::from_secs(5);

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
    /// A second processor for a large message while others have nothing to do.
    pub(crate) spare: Arc<SpareCores>,
    /// Slows down who sends what does not decrypt.
    pub brake: Brake,
    /// Counters.
    pub metrics: Arc<Registry>,
    objects: RwLock<Arc<Objects>>,
    partnerships: PartnershipCache,
    wake_worker: Arc<Notify>,
    wake_publisher: Arc<Notify>,
}

/// Days before the end of a certificate at which it is counted, the longest first.
const EXPIRY_DAYS: [i64; 2] = [30, 7];
const DAY: Millis = 86_400_000;
/// How often the log names certificates that need somebody.
const CERTIFICATE_WARNING: Duration = Duration::from_secs(24 * 3600);

/// Why the gateway cannot start: what, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another server has the data directory.
    #[error("another as2gate server uses {0}")]
    Locked(PathBuf),
    /// The data directory was never set up.
    #[error("{0} is not a data directory")]
    NotSetUp(PathBuf),
    /// This user may not look into the data directory.
    #[error("cannot look into {0}: {1}")]
    Unreadable(PathBuf, String),
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
            StartError::NotSetUp(_) => "`as2gate init` sets one up here; another is named with -c FILE or --data-dir DIR",
            StartError::Unreadable(..) => "run it as the user to whom the data directory belongs",
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
        let crypto = Arc::new(Semaphore::new(cores * 2));
        Ok(Arc::new(Core {
            config: Arc::new(config),
            journal,
            storage,
            clock,
            master,
            owner: format!("{}-{}", std::process::id(), random_tag()),
            poster: Poster::new(),
            spare: Arc::new(SpareCores::new(Arc::clone(&crypto), cores)),
            crypto,
            brake: Brake::default(),
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

    /// Settings and keys of a pair.
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
        // One endpoint takes both, so a station with a URL of its own needs no second one.
        if station.url.is_empty() {
            format!("{}{}", self.base_url(), self.config.as2.mdn_path)
        } else {
            station.url.clone()
        }
    }

    /// The host part of our Message-IDs.
    #[must_use]
    pub fn host(&self) -> String {
        let url = &self.config.public_url;
        let host = url.split("://").nth(1).unwrap_or(url).split(['/', ':']).next().unwrap_or_default();
        if host.is_empty() { "localhost".to_owned() } else { host.to_owned() }
    }

    /// Lets staged bytes go that no row names any more. Losing the call costs space until the orphan sweep, nothing else.
    pub async fn let_go(&self, keys: Vec<String>) {
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

/// What `serve` may override.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// Instead of `sftp.listen`.
    pub sftp: Option<Vec<String>>,
    /// Instead of `as2.listen`.
    pub as2: Option<Vec<String>>,
    /// Instead of `telemetry.listen`; the empty text switches it off.
    pub telemetry: Option<String>,
}

/// Where a server listens, remembered in the journal so that commands know.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Listening {
    /// The server's process.
    pub pid: u32,
    /// SFTP.
    pub sftp: Vec<SocketAddr>,
    /// AS2.
    pub as2: Vec<SocketAddr>,
    /// AS2 over TLS.
    pub as2_tls: Vec<SocketAddr>,
    /// Health and metrics.
    pub telemetry: Option<SocketAddr>,
}

impl Listening {
    const FACT: &str = "server.listening";

    /// What the last server that started here told.
    #[must_use]
    pub fn read(journal: &Journal) -> Option<Self> {
        let text = journal.read(|tx| tx.fact(Self::FACT)).ok().flatten()?;
        serde_json::from_str(&text).ok()
    }

    async fn remember(&self, journal: &Journal) -> Result<(), StartError> {
        let text = serde_json::to_string(self).map_err(|error| StartError::Io(error.to_string()))?;
        Ok(journal.write(move |tx| tx.set_fact(Self::FACT, &text)).await?)
    }
}

/// Whether a server works on this data directory now.
#[must_use]
pub fn is_served(config: &Config) -> bool {
    matches!(lock(config), Err(StartError::Locked(_)))
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
        let core = Core::open(config)?;
        check_master_key(&core)?;
        core.storage.clear_spool()?;
        core.storage.partials().adopt()?;
        forget_lost_parts(&core)?;
        let doors = Doors::bind(&core, &options).await?;
        doors.listening.remember(&core.journal).await?;
        let (stop, stopped) = watch::channel(false);
        let listening = doors.listening.clone();
        let mut tasks = doors.open(&core, &stopped)?;
        tasks.push(tokio::spawn(worker::run(
            Arc::clone(&core),
            Arc::clone(&core.wake_worker),
            stopped.clone(),
        )));
        tasks.push(tokio::spawn(publish(Arc::clone(&core), stopped.clone())));
        tasks.push(tokio::spawn(sweep(Arc::clone(&core), stopped)));
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

/// The bound listeners.
struct Doors {
    listening: Listening,
    sftp: Vec<TcpListener>,
    as2: Vec<TcpListener>,
    as2_tls: Vec<TcpListener>,
    telemetry: Vec<TcpListener>,
    tls: Option<http::TlsAcceptor>,
}

impl Doors {
    async fn bind(core: &Core, options: &ServeOptions) -> Result<Self, StartError> {
        let config = &core.config;
        let bind = async |addresses: &[String]| listen::bind(addresses).await.map_err(StartError::Io);
        let mut inherited = listen::Inherited::take().map_err(StartError::Io)?;
        let sftp = match (inherited.door("sftp"), &options.sftp) {
            (Some(listeners), _) => listeners,
            (None, Some(addresses)) => bind(addresses).await?,
            (None, None) => bind_sftp(&config.sftp.listen).await?,
        };
        let as2 = match inherited.door("as2") {
            Some(listeners) => listeners,
            None => bind(options.as2.as_ref().unwrap_or(&config.as2.listen)).await?,
        };
        let as2_tls = match inherited.door("as2-tls") {
            Some(listeners) => listeners,
            None => bind(&config.as2.tls.listen).await?,
        };
        let tls = if as2_tls.is_empty() {
            None
        } else {
            Some(tls_acceptor(core, &config.as2.tls).map_err(StartError::Key)?)
        };
        let address = options.telemetry.as_ref().unwrap_or(&config.telemetry.listen);
        // A second server on one machine must not fail for want of the same metrics port.
        let wanted = Vec::from_iter((!address.is_empty()).then(|| address.clone()));
        let telemetry = match (inherited.door("telemetry"), listen::bind(&wanted)) {
            (Some(listeners), _) => Ok(listeners),
            (None, binding) => binding.await,
        };
        let telemetry = match telemetry {
            Ok(listeners) => listeners,
            Err(error) => {
                tracing::warn!(error, "no telemetry");
                Vec::new()
            }
        };
        let local = |listeners: &[TcpListener]| listeners.iter().filter_map(|l| l.local_addr().ok()).collect::<Vec<_>>();
        let listening = Listening {
            pid: std::process::id(),
            sftp: local(&sftp),
            as2: local(&as2),
            as2_tls: local(&as2_tls),
            telemetry: local(&telemetry).first().copied(),
        };
        Ok(Doors {
            listening,
            sftp,
            as2,
            as2_tls,
            telemetry,
            tls,
        })
    }

    fn open(self, core: &Arc<Core>, stop: &watch::Receiver<bool>) -> Result<Vec<JoinHandle<()>>, StartError> {
        let config = &core.config;
        let mut tasks = Vec::new();
        let logins = Arc::new(Logins::new(Arc::clone(core)));
        let keys = host_keys(config)?;
        let front = crate::sftp_tree::front(config, &keys, Arc::clone(&logins)).map_err(StartError::Io)?;
        for listener in self.sftp {
            tasks.push(tokio::spawn(Arc::clone(&front).serve(listener, stop.clone())));
        }
        let inbox = Arc::new(inbox::Inbox::new(Arc::clone(core)));
        let limits = http::Limits::new(usize::try_from(config.as2.max_connections_per_ip).unwrap_or(usize::MAX));
        for listener in self.as2 {
            tasks.push(tokio::spawn(http::serve(
                listener,
                None,
                Arc::clone(&inbox),
                limits.clone(),
                stop.clone(),
            )));
        }
        for listener in self.as2_tls {
            tasks.push(tokio::spawn(http::serve(
                listener,
                self.tls.clone(),
                Arc::clone(&inbox),
                limits.clone(),
                stop.clone(),
            )));
        }
        for listener in self.telemetry {
            tasks.push(tokio::spawn(telemetry::serve(
                listener,
                Arc::clone(&core.metrics),
                ready(core, &front),
                stop.clone(),
            )));
        }
        tasks.push(tokio::spawn(follow_objects(Arc::clone(core), logins, front, stop.clone())));
        Ok(tasks)
    }
}

fn refresh_gauges(core: &Core, front: &sftp_front::Server) -> Result<(), JournalError> {
    core.metrics
        .set_sftp_connections(u64::try_from(front.sessions().len()).unwrap_or(u64::MAX));
    let counts = core.journal.read(|tx| tx.count_states(Millis::MAX))?;
    for state in State::ALL.iter().filter(|state| state.is_in_work()) {
        let depth = counts.iter().find(|(counted, _)| counted == state).map_or(0, |(_, count)| *count);
        core.metrics.set_queue_depth(state.as_str(), depth);
    }
    let (all, now) = (core.objects(), core.clock.now());
    for days in EXPIRY_DAYS {
        let due = manage::certificates::expiring(&all, now, days * DAY).len();
        core.metrics.set_certificates_expiring(days, u64::try_from(due).unwrap_or(u64::MAX));
    }
    Ok(())
}

/// Tells the log, once a day, what needs a new certificate and who has not taken ours (as2.md SEC13).
fn warn_of_certificates(core: &Core) {
    let (all, now) = (core.objects(), core.clock.now());
    for certificate in manage::certificates::expiring(&all, now, EXPIRY_DAYS[0] * DAY) {
        let day = manage::certificates::day(certificate.not_after);
        tracing::warn!(
            certificate = certificate.name,
            owner = certificate.owner,
            day,
            "a certificate in use expires"
        );
    }
    for (what, hint) in manage::rollover::warnings(&all) {
        tracing::warn!(what, hint, "a switch of certificates is planned");
    }
}

/// Parts that were being resumed when the last server died went with its spool; nobody was promised them.
fn forget_lost_parts(core: &Core) -> Result<(), StartError> {
    let rows = core.journal.read(|tx| tx.uploads_before(Millis::MAX))?;
    for row in rows
        .into_iter()
        .filter(|row| row.state == UploadState::Part && core.storage.open_staged(&row.store).is_err())
    {
        core.journal.write_blocking(move |tx| tx.remove_upload(&row))?;
    }
    Ok(())
}

/// Whether the parts work that a message needs; each look also brings the gauges up to date.
fn ready(core: &Arc<Core>, front: &Arc<sftp_front::Server>) -> telemetry::Ready {
    let (core, front) = (Arc::clone(core), Arc::clone(front));
    Arc::new(move || {
        refresh_gauges(&core, &front).map_err(|error| format!("database {error}\n"))?;
        core.storage.check_room().map_err(|error| format!("storage {error}\n"))?;
        Ok("database ok\nstorage ok\n".to_owned())
    })
}

/// The TLS listener's certificate and key. Clients that show a certificate have to show one that is pinned for a partner.
fn tls_acceptor(core: &Core, settings: &config::Tls) -> Result<http::TlsAcceptor, String> {
    let read = |what: &str, secret: &Option<config::Secret>| match secret {
        Some(secret) => secret.read(),
        None => Err(format!("as2.tls.listen needs as2.tls.{what}, such as \"file:tls.pem\"")),
    };
    let objects = core.objects();
    let of_partner = |c: &&Certificate| matches!(c.purpose, Purpose::Https | Purpose::HttpsChain) && c.sealed_key.is_none();
    let pinned: Vec<Vec<u8>> = objects.certificates.values().filter(of_partner).map(|c| c.der.clone()).collect();
    if settings.client_auth != config::ClientAuth::None && pinned.is_empty() {
        return Err(
            "as2.tls.client_auth needs the partners' TLS certificates: cert add NAME --partner ID --use https --file FILE".to_owned(),
        );
    }
    http::TlsAcceptor::new(&http::ServerTls {
        cert_pem: read("cert", &settings.cert)?.as_bytes().to_vec(),
        key_pem: zeroize::Zeroizing::new(read("key", &settings.key)?.as_bytes().to_vec()),
        client_auth: match settings.client_auth {
            config::ClientAuth::None => http::ClientAuth::None,
            config::ClientAuth::Optional => http::ClientAuth::Optional,
            config::ClientAuth::Required => http::ClientAuth::Required,
        },
        client_cas: pinned,
    })
}

/// Port 22 needs a privilege; without it the door is at 2022.
async fn bind_sftp(addresses: &[String]) -> Result<Vec<TcpListener>, StartError> {
    match listen::bind(addresses).await {
        Ok(listeners) => Ok(listeners),
        Err(why) if addresses.iter().any(|address| address.ends_with(":22")) => {
            let others: Vec<String> = addresses
                .iter()
                .map(|a| a.strip_suffix(":22").map_or_else(|| a.clone(), |host| format!("{host}:2022")))
                .collect();
            tracing::warn!(why, "sftp answers on port 2022 instead of 22");
            listen::bind(&others).await.map_err(StartError::Io)
        }
        Err(why) => Err(StartError::Io(why)),
    }
}

/// Waits for a moment, a wake-up or the end; false at the end.
async fn pause(span: Duration, wake: Option<&Notify>, stop: &mut watch::Receiver<bool>) -> bool {
    let woken = async {
        match wake {
            Some(wake) => wake.notified().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = woken => {}
        () = tokio::time::sleep(span) => {}
        _ = stop.changed() => {}
    }
    !*stop.borrow()
}

/// Follows what commands change: settings count at once, and sessions that lost their right end.
async fn follow_objects(core: Arc<Core>, logins: Arc<Logins>, front: Arc<sftp_front::Server>, mut stop: watch::Receiver<bool>) {
    let mut gauges_at = tokio::time::Instant::now();
    let mut followed = (core.objects().version, logins.revocations());
    while pause(OBJECTS_POLL, None, &mut stop).await {
        if tokio::time::Instant::now() >= gauges_at {
            gauges_at += GAUGES;
            if let Err(error) = refresh_gauges(&core, &front) {
                tracing::error!(%error, "cannot count messages");
            }
            // Users also lose their right by the clock.
            logins.end_revoked(&front);
        }
        if let Err(error) = core.refresh_objects() {
            tracing::error!(%error, "cannot look for changed objects");
        }
        // A login may have been the first to see the change: what counts is the version that was acted upon.
        let version = (core.objects().version, logins.revocations());
        if version != followed {
            followed = version;
            logins.end_revoked(&front);
            core.wake();
        }
    }
}

/// Publishes what the journal lists; whole batches share one sync.
async fn publish(core: Arc<Core>, mut stop: watch::Receiver<bool>) {
    loop {
        let going_on = pause(PUBLISH_SCAN, Some(&core.wake_publisher), &mut stop).await;
        if going_on {
            tokio::time::sleep(PUBLISH_PAUSE).await;
        }
        loop {
            let storage = Arc::clone(&core.storage);
            match tokio::task::spawn_blocking(move || storage.publish_batch()).await {
                Ok(Ok(round)) if round.placed == 0 => break,
                // What came meanwhile waits for more to come, as the first did; at the end nothing waits.
                Ok(Ok(round)) if going_on && !round.full => break,
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "cannot publish");
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "the publisher failed");
                    break;
                }
            }
        }
        if !going_on {
            return;
        }
    }
}

/// The daily sweep, and what crashes left behind.
async fn sweep(core: Arc<Core>, mut stop: watch::Receiver<bool>) {
    let mut quiet_until = tokio::time::Instant::now();
    let mut orphans_at = tokio::time::Instant::now();
    let mut certificates_at = tokio::time::Instant::now();
    loop {
        if tokio::time::Instant::now() >= certificates_at {
            certificates_at += CERTIFICATE_WARNING;
            warn_of_certificates(&core);
        }
        if tokio::time::Instant::now() >= orphans_at {
            orphans_at += ORPHAN_SWEEP;
            let (storage, oldest) = (Arc::clone(&core.storage), inbox::oldest_part(&core));
            let swept = tokio::task::spawn_blocking(move || {
                storage.partials().sweep(oldest)?;
                storage.sweep_orphans(ORPHAN_AGE.as_secs())
            });
            if let Ok(Err(error)) = swept.await {
                tracing::error!(%error, "cannot look for parts that are too old and staged bytes without a row");
            }
        }
        let due = lifecycle::is_due(&core).unwrap_or(false);
        if due && tokio::time::Instant::now() >= quiet_until {
            let core2 = Arc::clone(&core);
            let swept = tokio::task::spawn_blocking(move || lifecycle::run(&core2, false)).await;
            if let Ok(Err(error)) = swept {
                tracing::error!(%error, "the life cycle stopped");
                quiet_until = tokio::time::Instant::now() + SWEEP_AGAIN;
            }
        }
        if !pause(SWEEP_POLL, None, &mut stop).await {
            return;
        }
    }
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

/// Makes the host keys that are missing, and says so: to clients that know the former one the server is another.
fn host_keys(config: &Config) -> Result<Vec<HostKey>, StartError> {
    let wrong = |refusal: manage::Refusal| StartError::HostKey(refusal.to_string());
    let known = manage::host_keys::load(config).map_err(wrong)?;
    let keys = manage::host_keys::load_or_create(config).map_err(wrong)?;
    for key in keys.iter().filter(|key| !known.iter().any(|known| known.path == key.path)) {
        tracing::warn!(
            kind = key.kind,
            fingerprint = key.fingerprint,
            "made a host key, for there was none; clients that know another one will not connect"
        );
    }
    Ok(keys)
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
