//! The listening side: configuration, limits on connections, the list of sessions.

use crate::auth::{Admission, AlgorithmPolicy, Authenticator, Peer};
use crate::balancer::Unnamed;
use crate::budget::Pool;
use crate::host_keys::{self, HostKeys};
use crate::lock::locked;
use crate::session::{self, Session, SessionInfo};
use crate::threads::Threads;
use russh::keys::{Algorithm, PrivateKey};
use russh::{AlgorithmKind, MethodKind, MethodSet, SshId};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Window that a client may fill before we answer, in bytes: 16 MiB carries 100 MiB/s over 50 ms of round trip, eight times
/// as much as russh's default. The byte budget of the connection, not this window, is what bounds memory.
const WINDOW: u32 = 16 << 20;
/// The window of a client that is near, once it has filled half of the first one. OpenSSH's client reads ahead as much as the
/// window takes, and with 16 MiB that falls out of its processor's cache: half as much work again for each byte.
pub(crate) const NEAR_WINDOW: u32 = 2 << 20;
/// Longest data message; longer ones gain nothing with OpenSSH, which never sends more.
const MAX_SSH_PACKET: u32 = 32_768;
/// Messages that russh keeps for one channel. The reader waits for nothing but the disk, so more would only help a hostile
/// client, and keep more of russh's read-ahead in use than it has buffers.
const CHANNEL_BUFFER: usize = 16;
/// Messages to the client, of at most [`MAX_SSH_PACKET`] bytes, that wait for russh's task. They share the buffers that a
/// download holds anyway; with russh's 10 the two tasks wake each other more often than once per buffer.
const EVENT_BUFFER: usize = 20;
/// Every refusal of a login takes at least so long.
const REJECTION_TIME: Duration = Duration::from_secs(1);
/// Keepalives that a client may leave unanswered; with one more it is gone.
const KEEPALIVE_MAX: usize = 3;
/// Most bytes between two key exchanges (RFC 4253 §9), and the fewest: an exchange has to pay.
const MAX_REKEY_BYTES: usize = 1 << 30;
const MIN_REKEY_BYTES: usize = 1 << 20;
/// Longer than any connection lasts, and short enough for a timer.
const NEVER: Duration = Duration::from_secs(365 * 86_400);
/// Wait after a failed accept, such as one for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Random early drop, as OpenSSH's `MaxStartups 50:30:100`: from this part of the most connections without a login on, new
/// ones are dropped with this chance in per cent, rising to all at the limit. OpenSSH itself begins at a tenth, which would
/// hit a partner that opens twenty sessions at once.
const EARLY_PART: usize = 2;
const EARLY_CHANCE: usize = 30;
/// Refusals of one kind are told so often at most, and how many were not.
const REFUSALS_EVERY: Duration = Duration::from_secs(10);
/// Characters of a client's list of algorithms that the log is told.
const MAX_TOLD: usize = 500;
/// Passwords that are hashed at a time: each takes 19 MiB and a core.
const HASHING: usize = 2;
/// Longest identification of the server behind `SSH-2.0-`.
const MAX_SERVER_ID: usize = 100;

/// How the server is set up. Start from [`Config::default`] and add host keys.
#[derive(Clone)]
pub struct Config {
    /// Host keys, each the text of an unencrypted OpenSSH private key file.
    pub host_keys: Vec<String>,
    /// Host keys to come: clients learn them after a login, and nothing uses them yet. Of these and of those in use, types that the
    /// algorithms do not have are passed over.
    pub next_host_keys: Vec<String>,
    /// Algorithms offered.
    pub algorithms: AlgorithmPolicy,
    /// Text shown before the login; empty = none.
    pub banner: String,
    /// Most connections at a time.
    pub max_connections: usize,
    /// Most connections from one IPv4 address or one IPv6 /64.
    pub max_connections_per_ip: usize,
    /// Most connections that have not logged in.
    pub max_unauthenticated: usize,
    /// Most channels of one connection.
    pub max_channels: usize,
    /// Most refused attempts to log in on one connection, beside the one that only asks for the methods.
    pub max_auth_tries: usize,
    /// Time for the whole login, from the accept on.
    pub login_grace: Duration,
    /// A session ends when no request has come and no answer has left for so long; zero for never.
    pub idle_timeout: Duration,
    /// How long open uploads may go on after the server was told to stop.
    pub drain: Duration,
    /// Keepalive messages: one after so long without a word from the client.
    pub keepalive: Duration,
    /// New keys are exchanged after so many bytes in either direction, 1 GiB at most (RFC 4253 §9).
    pub rekey_bytes: usize,
    /// New keys are exchanged after so long; zero for never.
    pub rekey_time: Duration,
    /// Bytes that all connections together may hold in requests and answers, beyond [`OWN_SHARE`](crate::OWN_SHARE) and
    /// [`OWN_ANSWERS`](crate::OWN_ANSWERS) of each.
    pub memory: usize,
    /// Software name in the identification line, without `SSH-2.0-`.
    pub server_id: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host_keys: Vec::new(),
            next_host_keys: Vec::new(),
            algorithms: AlgorithmPolicy::default(),
            banner: String::new(),
            max_connections: 500,
            max_connections_per_ip: 50,
            max_unauthenticated: 100,
            max_channels: 10,
            max_auth_tries: 6,
            login_grace: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30 * 60),
            drain: Duration::from_secs(30),
            keepalive: Duration::from_secs(30),
            rekey_bytes: MAX_REKEY_BYTES,
            rekey_time: Duration::from_secs(3600),
            memory: 64 << 20,
            server_id: "sftp".into(),
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("host_keys", &self.host_keys.len())
            .field("server_id", &self.server_id)
            .finish_non_exhaustive()
    }
}

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A host key is unreadable, encrypted or too short, or there is none of a type that the policy has.
    #[error("host key: {0}")]
    HostKey(String),
    /// `server_id` is empty, too long, or not printable ASCII without spaces and `-`.
    #[error("server_id must have 1 to 100 printable ASCII characters, no space and no minus sign")]
    ServerId,
}

/// What follows from the host keys; replaced as a whole when these change.
#[derive(Clone)]
struct Keys {
    host_keys: Arc<HostKeys>,
    transport: Arc<russh::server::Config>,
}

impl Keys {
    /// Reads the keys in use and those to come.
    fn new(config: &Config, current: &[String], next: &[String]) -> Result<Self, Error> {
        let signatures = config.algorithms.signatures();
        let read = |texts: &[String]| {
            let keys = texts.iter().filter_map(|text| host_keys::read(text, &signatures).transpose());
            keys.collect::<Result<Vec<_>, _>>()
        };
        let (keys, next) = (read(current)?, read(next)?);
        if keys.is_empty() {
            return Err(Error::HostKey("there is none that the algorithm policy allows".into()));
        }
        Ok(Self {
            host_keys: Arc::new(HostKeys::new(keys.iter().chain(&next))?),
            transport: Arc::new(transport(config, keys)),
        })
    }
}

/// The server. It lives as long as [`serve`](Server::serve) runs.
pub struct Server {
    config: Config,
    user_signatures: Vec<Algorithm>,
    hashing: Semaphore,
    keys: RwLock<Keys>,
    auth: Arc<dyn Authenticator>,
    sessions: Mutex<HashMap<u64, Arc<Session>>>,
    next_session: AtomicU64,
    slots: Arc<Mutex<Slots>>,
    refusals: Refusals,
    pool: Arc<Pool>,
}

/// Connections that were refused; of each kind by itself, so that a flood of one hides no other.
#[derive(Default)]
struct Refusals {
    limits: Quiet,
    addresses: Quiet,
    algorithms: Quiet,
}

/// What the log was not told since it was told last.
#[derive(Default)]
struct Quiet(Mutex<Untold>);

#[derive(Default)]
struct Untold {
    until: Option<Instant>,
    count: u64,
}

impl Quiet {
    /// How many were not told, if this one is: a flood must not fill the log.
    fn told(&self) -> Option<u64> {
        let mut quiet = locked(&self.0);
        if quiet.until.is_some_and(|until| Instant::now() < until) {
            quiet.count += 1;
            return None;
        }
        quiet.until = Some(Instant::now() + REFUSALS_EVERY);
        Some(std::mem::take(&mut quiet.count))
    }
}

impl Server {
    /// Checks the configuration and reads the host keys.
    ///
    /// # Errors
    /// [`Error`] names the field.
    pub fn new(config: Config, auth: Arc<dyn Authenticator>) -> Result<Arc<Self>, Error> {
        let id = config.server_id.as_bytes();
        if id.is_empty() || id.len() > MAX_SERVER_ID || !id.iter().all(|b| b.is_ascii_graphic() && *b != b'-') {
            return Err(Error::ServerId);
        }
        let keys = Keys::new(&config, &config.host_keys, &config.next_host_keys)?;
        Ok(Arc::new(Self {
            pool: Pool::new(config.memory),
            user_signatures: config.algorithms.user_signatures(),
            hashing: Semaphore::new(HASHING),
            keys: RwLock::new(keys),
            config,
            auth,
            sessions: Mutex::default(),
            next_session: AtomicU64::new(1),
            slots: Arc::default(),
            refusals: Refusals::default(),
        }))
    }

    /// Puts other host keys in the place of those in use and those to come; connections that are open keep theirs.
    ///
    /// # Errors
    /// A key that cannot be used, or none; then nothing changes.
    pub fn set_host_keys(&self, current: &[String], next: &[String]) -> Result<(), Error> {
        let keys = Keys::new(&self.config, current, next)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    fn keys(&self) -> Keys {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Accepts connections until `stop` turns true (or its sender is gone), then ends the sessions: at once, but open
    /// uploads may go on for [`Config::drain`]. Returns when the last one has ended.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let threads = Threads::start();
        let mut connections = JoinSet::new();
        let mut unnamed = Unnamed::default();
        let sessions_stop = stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut stop) => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                client = unnamed.named() => self.begin(client, &threads, &mut connections, &sessions_stop),
                accepted = listener.accept() => match accepted {
                    Ok((tcp, addr)) if self.auth.is_proxy(addr) => {
                        unnamed.take(tcp, addr);
                    }
                    Ok(client) => self.begin(client, &threads, &mut connections, &sessions_stop),
                    Err(e) => {
                        tracing::warn!("accept: {e}");
                        tokio::time::sleep(ACCEPT_BACKOFF).await;
                    }
                },
            }
        }
        drop((listener, unnamed));
        while connections.join_next().await.is_some() {}
    }

    /// Begins the session of a client, if there is a place for it.
    fn begin(
        self: &Arc<Self>,
        (tcp, addr): (TcpStream, SocketAddr),
        threads: &Threads,
        connections: &mut JoinSet<()>,
        stop: &watch::Receiver<bool>,
    ) {
        let Some(slot) = self.place(addr) else { return };
        let (thread, place) = threads.pick();
        let (server, stop) = (Arc::clone(self), stop.clone());
        let tcp = tcp.into_std();
        let session = async move {
            // A stream belongs to the thread that waits for it.
            match tcp.and_then(TcpStream::from_std) {
                Ok(tcp) => session::run(server, tcp, addr, slot, stop).await,
                Err(e) => tracing::warn!(%addr, "a connection could not be taken over: {e}"),
            }
            drop(place);
        };
        connections.spawn_on(session, &thread);
    }

    /// The sessions that have logged in, by number.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let mut list: Vec<_> = self.all().iter().filter(|s| s.is_logged_in()).filter_map(|s| s.info()).collect();
        list.sort_by_key(|s| s.id);
        list
    }

    /// Ends the sessions that `which` picks, those included whose login is just being decided; their number. Their open
    /// uploads are abandoned. It does not wait for the end.
    pub fn end_sessions(&self, which: &dyn Fn(&SessionInfo) -> bool) -> usize {
        let picked: Vec<_> = self.all().into_iter().filter(|s| s.info().is_some_and(|i| which(&i))).collect();
        picked.iter().for_each(|s| s.end("ended by the server"));
        picked.len()
    }

    /// Connections open now, logged in or not.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        locked(&self.slots).total
    }

    fn all(&self) -> Vec<Arc<Session>> {
        locked(&self.sessions).values().cloned().collect()
    }

    pub(crate) fn register(&self, session: &Arc<Session>) {
        locked(&self.sessions).insert(session.id, Arc::clone(session));
    }

    pub(crate) fn unregister(&self, id: u64) {
        locked(&self.sessions).remove(&id);
    }

    pub(crate) fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.pool)
    }

    pub(crate) fn next_session(&self) -> u64 {
        self.next_session.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn transport(&self) -> Arc<russh::server::Config> {
        self.keys().transport
    }

    pub(crate) fn banner(&self) -> Option<String> {
        let text = self.config.banner.trim_end();
        if text.is_empty() {
            None
        } else {
            Some(format!("{}\r\n", text.replace("\r\n", "\n").replace('\n', "\r\n")))
        }
    }

    pub(crate) fn user_signatures(&self) -> &[Algorithm] {
        &self.user_signatures
    }

    pub(crate) fn host_keys(&self) -> Arc<HostKeys> {
        self.keys().host_keys
    }

    /// One turn of those that hash a password.
    pub(crate) fn hashing(&self) -> &Semaphore {
        &self.hashing
    }

    /// Asks the authenticator on a blocking thread; `None` if it panicked.
    pub(crate) async fn ask<T: Send + 'static>(&self, question: impl FnOnce(&dyn Authenticator) -> T + Send + 'static) -> Option<T> {
        let auth = Arc::clone(&self.auth);
        tokio::task::spawn_blocking(move || question(&*auth)).await.ok()
    }

    /// A place for a connection, if the limits and the authenticator have one. The client sees a closed connection only, so the
    /// log has to say why.
    fn place(&self, addr: SocketAddr) -> Option<Slot> {
        match self.admit(addr.ip()) {
            Ok(slot) => match self.auth.admit(addr) {
                Admission::Granted => return Some(slot),
                Admission::Refused(setting) => {
                    if let Some(untold) = self.refusals.addresses.told() {
                        tracing::warn!(%addr, setting, untold, "connection refused: the address is not allowed");
                    }
                }
                Admission::RefusedBefore => tracing::debug!(%addr, "connection refused: the address is shut out"),
            },
            Err(limit) => {
                if let Some(untold) = self.refusals.limits.told() {
                    tracing::warn!(%addr, limit, untold, "connection refused: a limit is reached");
                }
            }
        }
        None
    }

    /// Nor does a client learn from most programs why there is no connection for want of common algorithms.
    pub(crate) fn tell_no_algorithm(&self, peer: &Peer, kind: &AlgorithmKind, theirs: &[String]) {
        let Some(untold) = self.refusals.algorithms.told() else { return };
        let hint = if self.config.algorithms.is_too_new_for(kind, theirs) {
            "sftp.algorithms = \"compatible\" lets older clients in"
        } else {
            "the client needs others"
        };
        let theirs: String = theirs.join(",").chars().take(MAX_TOLD).collect();
        tracing::warn!(
            addr = %peer.addr,
            client = peer.client,
            ?kind,
            theirs = %theirs.escape_default(),
            hint,
            untold,
            "connection refused: no algorithm in common"
        );
    }

    /// A place within the limits, or the one that is reached.
    fn admit(&self, ip: IpAddr) -> Result<Slot, &'static str> {
        let key = network(ip);
        let mut slots = locked(&self.slots);
        let here = slots.per_ip.get(&key).copied().unwrap_or(0);
        let c = &self.config;
        if slots.total >= c.max_connections {
            return Err("max_connections");
        }
        if here >= c.max_connections_per_ip {
            return Err("max_connections_per_ip");
        }
        if drop_chance(slots.unauthenticated, c.max_unauthenticated) > percentile() {
            return Err("max_unauthenticated");
        }
        slots.total += 1;
        slots.unauthenticated += 1;
        *slots.per_ip.entry(key).or_default() += 1;
        Ok(Slot {
            slots: Arc::clone(&self.slots),
            key,
            unauthenticated: Mutex::new(true),
        })
    }
}

/// How russh is set up.
fn transport(config: &Config, keys: Vec<PrivateKey>) -> russh::server::Config {
    let rekey_bytes = config.rekey_bytes.clamp(MIN_REKEY_BYTES, MAX_REKEY_BYTES);
    let rekey_time = Some(config.rekey_time).filter(|time| !time.is_zero()).unwrap_or(NEVER);
    russh::server::Config {
        server_id: SshId::Standard(format!("SSH-2.0-{}", config.server_id).into()),
        // Until the first request; from then on `login.rs` says them with every answer.
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REJECTION_TIME,
        // The answer to "none" tells nothing that is worth a delay.
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys,
        window_size: WINDOW,
        maximum_packet_size: MAX_SSH_PACKET,
        channel_buffer_size: CHANNEL_BUFFER,
        event_buffer_size: EVENT_BUFFER,
        preferred: config.algorithms.preferred(),
        // Clients begin with "none", which is no attempt, and counts for russh.
        max_auth_attempts: config.max_auth_tries.saturating_add(1),
        // Our own timers do better: see `session.rs`.
        inactivity_timeout: None,
        keepalive_interval: (!config.keepalive.is_zero()).then_some(config.keepalive),
        keepalive_max: KEEPALIVE_MAX,
        limits: russh::Limits::new(rekey_bytes, rekey_bytes, rekey_time),
        nodelay: true,
        ..Default::default()
    }
}

/// The chance in per cent that a new connection is dropped, while so many have not logged in.
fn drop_chance(waiting: usize, max: usize) -> usize {
    let begin = (max / EARLY_PART).max(1);
    if waiting >= max {
        return 100;
    }
    if waiting < begin || begin >= max {
        return 0;
    }
    EARLY_CHANCE + (100 - EARLY_CHANCE) * (waiting - begin) / (max - begin)
}

/// A number from 0 to 99; 0 should the system have no chance to offer, so that the drop is certain where it is possible.
fn percentile() -> usize {
    let mut random = [0u8; 4];
    let _ = openssl::rand::rand_bytes(&mut random);
    usize::try_from(u32::from_le_bytes(random) % 100).unwrap_or(0)
}

/// Waits for the word to stop; a sender that is gone means the same.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|s| *s).await;
}

/// What counts as one source: an IPv4 address, or an IPv6 /64, which is what one customer gets.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[derive(Default)]
struct Slots {
    total: usize,
    unauthenticated: usize,
    per_ip: HashMap<IpAddr, usize>,
}

/// A connection's place within the limits, given back on drop.
pub(crate) struct Slot {
    slots: Arc<Mutex<Slots>>,
    key: IpAddr,
    unauthenticated: Mutex<bool>,
}

impl Slot {
    pub(crate) fn logged_in(&self) {
        if std::mem::take(&mut *locked(&self.unauthenticated)) {
            let mut slots = locked(&self.slots);
            slots.unauthenticated = slots.unauthenticated.saturating_sub(1);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.logged_in();
        let mut slots = locked(&self.slots);
        slots.total = slots.total.saturating_sub(1);
        if let Some(n) = slots.per_ip.get_mut(&self.key) {
            *n -= 1;
            if *n == 0 {
                slots.per_ip.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_early_drop_rises_to_the_limit() {
        assert_eq!([0, 49, 50, 75, 100, 200].map(|n| drop_chance(n, 100)), [0, 0, 30, 65, 100, 100]);
        assert_eq!([0, 1, 2].map(|n| drop_chance(n, 2)), [0, 30, 100]);
        assert_eq!([0, 1].map(|n| drop_chance(n, 1)), [0, 100]);
        assert!((0..100).all(|_| percentile() < 100));
    }

    #[test]
    fn sources() {
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        assert_eq!(network(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
        assert_eq!(network(ip("2001:db8:1:2:3:4:5:6")), ip("2001:db8:1:2::"));
        assert_ne!(network(ip("10.0.0.1")), network(ip("10.0.0.2")));
    }
}
