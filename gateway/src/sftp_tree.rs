//! The SFTP door: who may log in, and what a login sees. The paths and their meaning are `layout`'s, what becomes of an
//! upload is `intake`'s; here both are put into the words of SFTP.

mod desk;
mod guesses;
mod listing;
mod pace;
mod penalty;
mod proofs;
mod reading;
pub mod revoked;
mod sending;
pub mod sessions;
mod shelves;
mod trail;
mod tree;
mod upload;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use sftp_front::{Admission, Authenticator, Fault, Method, Peer, Proof, Proven, PublicKey, Refused, Step, Tree};

use crate::block;
use crate::clock::Millis;
use crate::config::keys::MAX_CHANNELS;
use crate::config::{Algorithms, Config};
use crate::gateway::Core;
use crate::journal::JournalError;
use crate::lock::locked;
use crate::login::Progress;
use crate::manage::host_keys::{self, HostKey, HostKeyState};
use desk::Desk;
use guesses::Guesses;
use pace::Clocks;
use penalty::Penalties;
use proofs::{Judge, describe, method_of, step_of};
use revoked::Revoked;
use trail::{Deed, Trail};
use tree::As2Tree;

/// How often the host keys are looked at.
const HOST_KEYS_POLL: Duration = Duration::from_secs(1);

/// Decides who may log in, by the objects as they are at this moment.
pub struct Logins {
    core: Arc<Core>,
    desk: Arc<Desk>,
    trail: Arc<Trail>,
    clocks: Clocks,
    sessions: Mutex<HashMap<u64, Login>>,
    penalties: Penalties,
    revoked: Revoked,
    guesses: Guesses,
}

struct Login {
    account: String,
    user: String,
    given: Vec<Proven>,
    peer: IpAddr,
}

impl Logins {
    /// For this gateway.
    #[must_use]
    pub fn new(core: Arc<Core>) -> Self {
        Logins {
            revoked: Revoked::new(core.config.sftp.revoked_keys.clone()),
            core,
            desk: Arc::default(),
            trail: Arc::default(),
            clocks: Clocks::default(),
            sessions: Mutex::default(),
            penalties: Penalties::default(),
            guesses: Guesses::default(),
        }
    }

    /// The number of the list of revoked keys that counts.
    pub fn revocations(&self) -> u64 {
        self.revoked.number()
    }

    /// Ends the sessions of users, keys and passwords that lost their right meanwhile.
    pub fn end_revoked(&self, front: &sftp_front::Server) {
        let objects = self.core.objects();
        let holds = |login: &Login| {
            let user = objects.user_of(&login.account, &login.user).filter(|user| user.name == login.user);
            let judge = Judge {
                is_open: true,
                ..self.judge(login.peer)
            };
            user.is_some_and(|user| judge.holds(user, &login.given))
        };
        let revoked: Vec<u64> = {
            let sessions = locked(&self.sessions);
            let gone = sessions.iter().filter(|(_, login)| !holds(login));
            gone.map(|(id, _)| *id).collect()
        };
        if !revoked.is_empty() {
            front.end_sessions(&|session| revoked.contains(&session.id));
        }
    }

    fn judge(&self, peer: IpAddr) -> Judge<'_> {
        Judge {
            core: &self.core,
            revoked: &self.revoked,
            guesses: &self.guesses,
            is_open: false,
            peer,
            now: self.core.clock.now() / 1000,
        }
    }

    /// What a command just changed counts at this login already.
    fn refresh(&self) {
        if let Err(error) = self.core.refresh_objects() {
            tracing::error!(%error, "cannot look for changed objects");
        }
    }

    /// A login in the log, the metrics and the journal.
    fn record(&self, kind: &'static str, user: &str, facts: serde_json::Value) {
        let account = self.core.objects().user(user).map(|user| user.account.clone()).unwrap_or_default();
        let deed = Deed {
            at: self.core.clock.now(),
            account,
            kind,
            user: user.chars().take(crate::user::MAX_USER_NAME).collect(),
            facts,
        };
        // What the user did before stands before.
        if let Err(error) = self.trail.write_with(&self.core.journal, deed) {
            tracing::error!(%error, "cannot record a login yet");
        }
    }
}

impl Authenticator for Logins {
    fn admit(&self, addr: SocketAddr) -> Admission {
        if !block::admit(&self.core.config.sftp.allowed_ips, addr.ip()) {
            return Admission::Refused("sftp.allowed_ips");
        }
        let refused = self.penalties.turn_away(addr.ip(), &self.core.config.sftp.ban, Instant::now());
        if refused == Some(1) {
            // Once each time: whoever comes with the right key now wonders why nothing answers.
            tracing::info!(peer = %addr, "turned away: its source is shut out; `as2gate ban list` shows them");
        }
        if refused.is_none() {
            Admission::Granted
        } else {
            Admission::RefusedBefore
        }
    }

    fn is_proxy(&self, addr: SocketAddr) -> bool {
        let balancers = &self.core.config.sftp.proxy_protocol_from;
        balancers.iter().any(|block| block::holds(block, addr.ip()))
    }

    /// The first steps of all users' logins: a list that says nothing about any of them.
    fn methods(&self) -> Vec<Method> {
        self.refresh();
        let mut methods = vec![Method::PublicKey];
        for user in self.core.objects().users.values().filter(|user| user.enabled) {
            let Progress::Next(steps) = user.login.after(&[]) else { continue };
            for method in steps.into_iter().map(method_of) {
                if !methods.contains(&method) {
                    methods.push(method);
                }
            }
        }
        methods
    }

    fn public_key(&self, user: &str, key: &PublicKey, peer: &Peer) -> Result<(), Refused> {
        self.refresh();
        let objects = self.core.objects();
        let user = objects.user(user).filter(|known| known.name == user);
        self.judge(peer.addr.ip()).known(user, key)
    }

    fn mark(&self, user: &str, method: Method) -> String {
        self.refresh();
        let objects = self.core.objects();
        let secret = objects.user(user).and_then(|known| match method {
            Method::Password => Some(known.password.clone()),
            Method::Code => Some(known.totp.clone()),
            Method::PublicKey => None,
        });
        secret.unwrap_or_default()
    }

    fn prove(&self, user: &str, given: &[Proven], proof: &Proof, peer: &Peer) -> Step {
        self.refresh();
        let objects = self.core.objects();
        let user = objects.user(user).filter(|known| known.name == user);
        self.judge(peer.addr.ip()).prove(user, given, proof)
    }

    fn login(&self, user: &str, given: &[Proven], peer: &Peer, session: u64) -> Result<Arc<dyn Tree>, Refused> {
        let address = peer.addr.ip();
        let objects = self.core.objects();
        let found = objects
            .user(user)
            .filter(|found| found.name == user && self.judge(address).holds(found, given))
            .ok_or_else(|| Refused::right("the proofs lost their right meanwhile"))?;
        let login = Login {
            account: found.account.clone(),
            user: user.to_owned(),
            given: given.to_vec(),
            peer: address,
        };
        {
            let mut sessions = locked(&self.sessions);
            let mine = sessions.values().filter(|login| login.user == user).count();
            if found.max_sessions > 0 && u64::try_from(mine).unwrap_or(u64::MAX) >= found.max_sessions {
                return Err(Refused::right(format!("{user} has {mine} sessions (max_sessions)")));
            }
            sessions.insert(session, login);
        }
        self.penalties.forgive(address, user);
        self.desk.begin(session);
        let last = given.last().map_or(Method::PublicKey, Proven::method);
        self.core.metrics.sftp_login(step_of(last).as_str(), "ok");
        let by = given.iter().map(describe).collect::<Vec<_>>().join(", then ");
        tracing::info!(user, peer = %peer.addr, client = peer.client, session, by, "sftp login");
        self.record(
            "user.login",
            user,
            serde_json::json!({ "by": by, "peer": peer.addr.to_string(), "client": peer.client, "session": session }),
        );
        let tools = tree::Tools {
            desk: Arc::clone(&self.desk),
            trail: Arc::clone(&self.trail),
            pace: self.clocks.of(user),
        };
        Ok(Arc::new(As2Tree::new(Arc::clone(&self.core), tools, found, session)))
    }

    fn failed(&self, user: &str, method: Method, tried: &[String], guessed: bool, peer: &Peer) {
        let ban = &self.core.config.sftp.ban;
        let shut = guessed
            .then(|| self.penalties.failed(peer.addr.ip(), user, ban, Instant::now()))
            .flatten();
        if shut.is_some() {
            self.core.metrics.sftp_ban();
        }
        let (shut_seconds, tried) = (shut.map(|length| length.as_secs()), tried.join("; "));
        self.core.metrics.sftp_login(step_of(method).as_str(), "failed");
        tracing::warn!(user = %user.escape_default(), peer = %peer.addr, client = peer.client, tried, shut_seconds, "sftp login failed");
        self.record(
            "user.login_failed",
            user,
            serde_json::json!({ "tried": tried, "peer": peer.addr.to_string(), "shut": shut.is_some(), "shut_seconds": shut_seconds }),
        );
    }

    fn mute(&self, peer: &Peer) {
        let shut = self.penalties.mute(peer.addr.ip(), &self.core.config.sftp.ban, Instant::now());
        if let Some(length) = shut {
            let shut_seconds = length.as_secs();
            self.core.metrics.sftp_ban();
            tracing::warn!(peer = %peer.addr, shut_seconds, "connections that never log in: their source is shut out");
        }
    }

    fn logout(&self, session: u64, user: &str, reason: &str, bytes_in: u64, bytes_out: u64) {
        locked(&self.sessions).remove(&session);
        self.desk.end(session);
        self.core.metrics.sftp_bytes("in", bytes_in);
        self.core.metrics.sftp_bytes("out", bytes_out);
        tracing::info!(user, session, reason, bytes_in, bytes_out, "sftp logout");
        self.record(
            "user.logout",
            user,
            serde_json::json!({ "session": session, "reason": reason, "bytes_in": bytes_in, "bytes_out": bytes_out }),
        );
    }
}

const _: () = assert!(sftp_front::MAX_CHANNELS as i64 == MAX_CHANNELS, "most of what may be configured");

/// The SFTP server of this configuration; inside a runtime, where it also keeps the list of its sessions.
///
/// # Errors
/// A host key that cannot be used.
pub fn front(config: &Config, keys: &[HostKey], logins: Arc<Logins>) -> Result<Arc<sftp_front::Server>, String> {
    let sftp = &config.sftp;
    let limit = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let settings = sftp_front::Config {
        host_keys: texts(keys, HostKeyState::Current),
        next_host_keys: texts(keys, HostKeyState::Next),
        algorithms: match sftp.algorithms {
            Algorithms::Modern => sftp_front::AlgorithmPolicy::Modern,
            Algorithms::Compatible => sftp_front::AlgorithmPolicy::Compatible,
            Algorithms::FipsLike => sftp_front::AlgorithmPolicy::FipsLike,
        },
        banner: sftp.banner.clone(),
        max_connections: limit(sftp.max_connections),
        max_connections_per_ip: limit(sftp.max_connections_per_ip),
        max_unauthenticated: limit(sftp.max_unauthenticated),
        max_channels: limit(sftp.max_channels),
        max_auth_tries: limit(sftp.max_auth_tries),
        drain: sftp.drain,
        keepalive: sftp.keepalive,
        rekey_bytes: usize::try_from(sftp.rekey_bytes).unwrap_or(usize::MAX),
        rekey_time: sftp.rekey_time,
        memory: usize::try_from(sftp.memory).unwrap_or(usize::MAX),
        login_grace: sftp.login_grace,
        idle_timeout: sftp.idle_timeout,
        server_id: "as2gate".to_owned(),
    };
    let (core, known) = (Arc::downgrade(&logins.core), Arc::downgrade(&logins));
    let front = sftp_front::Server::new(settings, logins).map_err(|error| error.to_string())?;
    tokio::spawn(sessions::keep(core, known, Arc::downgrade(&front)));
    tokio::spawn(follow_host_keys(config.clone(), Arc::downgrade(&front)));
    Ok(front)
}

fn texts(keys: &[HostKey], state: HostKeyState) -> Vec<String> {
    let keys = keys.iter().filter(|key| key.state == state);
    keys.map(|key| key.private.to_string()).collect()
}

/// Takes host keys that a command has made or put in their place, for as long as the server lives.
async fn follow_host_keys(config: Config, front: Weak<sftp_front::Server>) {
    let changed = || std::fs::metadata(config.paths().host_keys).and_then(|dir| dir.modified()).ok();
    let mut seen = changed();
    loop {
        tokio::time::sleep(HOST_KEYS_POLL).await;
        let Some(front) = front.upgrade() else { return };
        let now = changed();
        if now == seen {
            continue;
        }
        seen = now;
        let taken = host_keys::load(&config).map_err(|refusal| refusal.to_string()).and_then(|keys| {
            let set = front.set_host_keys(&texts(&keys, HostKeyState::Current), &texts(&keys, HostKeyState::Next));
            set.map_err(|error| error.to_string())
        });
        match taken {
            Ok(()) => tracing::info!("host keys read again"),
            Err(error) => tracing::error!(error, "cannot take the changed host keys; the old ones stay in use"),
        }
    }
}

/// A fault of ours: the client learns that it was one, the log learns which.
fn failure(error: impl std::fmt::Display) -> Fault {
    tracing::error!(%error, "sftp request failed");
    Fault::Failure("a fault of the server; try again".to_owned())
}

/// The journal's word about a change; where another session was faster, that is no fault.
fn unchanged(error: JournalError) -> Fault {
    match error {
        JournalError::Conflict(why) => Fault::Failure(why),
        other => failure(other),
    }
}

/// The present as the clock of the rules shows it.
fn now(core: &Core) -> Millis {
    core.clock.now()
}
