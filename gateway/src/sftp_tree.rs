//! The SFTP door: who may log in, and what a login sees. The paths and their meaning are `layout`'s, what becomes of an
//! upload is `intake`'s; here both are put into the words of SFTP.

mod desk;
mod listing;
mod pace;
pub mod sessions;
mod trail;
mod tree;
mod upload;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sftp_front::{Authenticator, Fault, Peer, PublicKey, Refused, Tree};

use crate::clock::Millis;
use crate::config::{Algorithms, Config};
use crate::event::NewEvent;
use crate::gateway::Core;
use crate::manage::host_keys::HostKey;
use crate::user::User;
use desk::Desk;
use pace::Clocks;
use trail::Trail;
use tree::As2Tree;

/// Addresses whose failed logins are counted, at most.
const MAX_COUNTED: usize = 10_000;

/// Decides who may log in, by the objects as they are at this moment.
pub struct Logins {
    core: Arc<Core>,
    desk: Arc<Desk>,
    trail: Arc<Trail>,
    clocks: Clocks,
    sessions: Mutex<HashMap<u64, Login>>,
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

struct Login {
    user: String,
    key: String,
    peer: IpAddr,
}

/// Failed logins of one address.
struct Failures {
    count: u32,
    since: Instant,
    shut_until: Option<Instant>,
}

impl Logins {
    /// For this gateway.
    #[must_use]
    pub fn new(core: Arc<Core>) -> Self {
        Logins {
            core,
            desk: Arc::default(),
            trail: Arc::default(),
            clocks: Clocks::default(),
            sessions: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    /// Ends the sessions of users and keys that lost their right meanwhile.
    pub fn end_revoked(&self, front: &sftp_front::Server) {
        let revoked: Vec<u64> = {
            let sessions = locked(&self.sessions);
            sessions
                .iter()
                .filter(|(_, login)| self.allowed(&login.user, &login.key, login.peer).is_none())
                .map(|(id, _)| *id)
                .collect()
        };
        if !revoked.is_empty() {
            front.end_sessions(&|session| revoked.contains(&session.id));
        }
    }

    /// The user, if this key may log in from this address now.
    fn allowed(&self, name: &str, key: &str, peer: IpAddr) -> Option<User> {
        let objects = self.core.objects();
        let user = objects.user(name).filter(|user| user.name == name && user.enabled);
        let now = self.core.clock.now() / 1000;
        // An unknown user costs the same work: one key is parsed and compared.
        let nobody = [String::from(
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        )];
        let lines = user.map_or(&nobody[..], |user| &user.keys[..]);
        let fits = lines
            .iter()
            .flat_map(|line| keystore::ssh::parse_public(line).unwrap_or_default())
            .any(|known| known.line == key && known.options.allows(peer) && known.options.is_current(now));
        let user = user.filter(|_| fits)?;
        let current = user.expires.is_empty() || user.expires.parse::<jiff::Timestamp>().is_ok_and(|end| end.as_second() > now);
        let place = user.allowed_ips.is_empty() || user.allowed_ips.iter().any(|block| in_block(block, peer));
        (current && place).then(|| user.clone())
    }

    fn is_shut(&self, peer: IpAddr) -> bool {
        locked(&self.failures)
            .get(&peer)
            .and_then(|failures| failures.shut_until)
            .is_some_and(|until| until > Instant::now())
    }

    /// A login in the log, the metrics and the journal.
    fn record(&self, kind: &'static str, user: &str, facts: serde_json::Value) {
        let account = self.core.objects().user(user).map(|user| user.account.clone()).unwrap_or_default();
        let (user, now) = (
            user.chars().take(crate::user::MAX_USER_NAME).collect::<String>(),
            self.core.clock.now(),
        );
        // What the user did before stands before.
        let deeds = self.trail.take();
        let event = move |tx: &crate::journal::Tx<'_>| {
            deeds.map_or(Ok(()), |deeds| deeds.record(tx))?;
            tx.record(
                &NewEvent {
                    account: &account,
                    kind,
                    subject: &user,
                    facts,
                },
                now,
            )
        };
        if let Err(error) = self.core.journal.write_blocking(event) {
            tracing::error!(%error, "cannot record a login");
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an address lies in `10.0.0.0/8`, `2001:db8::/32` or is the one that stands there.
fn in_block(block: &str, address: IpAddr) -> bool {
    let (net, bits) = block
        .split_once('/')
        .map_or((block, None), |(net, bits)| (net, bits.parse::<u32>().ok()));
    let bits = if block.contains('/') && bits.is_none() {
        return false;
    } else {
        bits
    };
    match (net.parse::<IpAddr>().map(|net| net.to_canonical()), address.to_canonical()) {
        (Ok(IpAddr::V4(net)), IpAddr::V4(address)) => {
            let shift = 32u32.saturating_sub(bits.unwrap_or(32));
            shift == 32 || net.to_bits() >> shift == address.to_bits() >> shift
        }
        (Ok(IpAddr::V6(net)), IpAddr::V6(address)) => {
            let shift = 128u32.saturating_sub(bits.unwrap_or(128));
            shift == 128 || net.to_bits() >> shift == address.to_bits() >> shift
        }
        _ => false,
    }
}

impl Authenticator for Logins {
    fn admit(&self, addr: SocketAddr) -> bool {
        let allowed = &self.core.config.sftp.allowed_ips;
        let is_allowed = allowed.is_empty() || allowed.iter().any(|block| in_block(block, addr.ip()));
        is_allowed && !self.is_shut(addr.ip())
    }

    fn is_proxy(&self, addr: SocketAddr) -> bool {
        self.core
            .config
            .sftp
            .proxy_protocol_from
            .iter()
            .any(|block| in_block(block, addr.ip()))
    }

    fn public_key(&self, user: &str, key: &PublicKey, peer: &Peer) -> bool {
        // What a command just changed counts at this login already.
        if let Err(error) = self.core.refresh_objects() {
            tracing::error!(%error, "cannot look for changed objects");
        }
        self.allowed(user, &key.openssh, peer.addr.ip()).is_some()
    }

    fn login(&self, user: &str, key: &PublicKey, peer: &Peer, session: u64) -> Result<Arc<dyn Tree>, Refused> {
        let address = peer.addr.ip();
        let found = self
            .allowed(user, &key.openssh, address)
            .ok_or_else(|| Refused("the key lost its right meanwhile".to_owned()))?;
        locked(&self.failures).remove(&address);
        let login = Login {
            user: user.to_owned(),
            key: key.openssh.clone(),
            peer: address,
        };
        {
            let mut sessions = locked(&self.sessions);
            let mine = sessions.values().filter(|login| login.user == user).count();
            if found.max_sessions > 0 && u64::try_from(mine).unwrap_or(u64::MAX) >= found.max_sessions {
                return Err(Refused(format!("{user} has {mine} sessions (max_sessions)")));
            }
            sessions.insert(session, login);
        }
        self.desk.begin(session);
        self.core.metrics.sftp_login("ok");
        tracing::info!(user, peer = %peer.addr, client = peer.client, session, "sftp login");
        self.record(
            "user.login",
            user,
            serde_json::json!({ "peer": peer.addr.to_string(), "client": peer.client, "session": session }),
        );
        let tools = tree::Tools {
            desk: Arc::clone(&self.desk),
            trail: Arc::clone(&self.trail),
            pace: self.clocks.of(user),
        };
        Ok(Arc::new(As2Tree::new(Arc::clone(&self.core), tools, &found, session)))
    }

    fn failed(&self, user: &str, peer: &Peer) {
        let ban = &self.core.config.sftp.ban;
        let shut = {
            let mut failures = locked(&self.failures);
            if failures.len() >= MAX_COUNTED {
                failures.retain(|_, f| f.since.elapsed() < ban.within || f.shut_until.is_some_and(|until| until > Instant::now()));
            }
            let fresh = Failures {
                count: 0,
                since: Instant::now(),
                shut_until: None,
            };
            let mine = failures.entry(peer.addr.ip()).or_insert(fresh);
            if mine.since.elapsed() > ban.within {
                *mine = Failures {
                    count: 0,
                    since: Instant::now(),
                    shut_until: None,
                };
            }
            mine.count += 1;
            let shut = ban.failures > 0 && mine.count >= ban.failures;
            if shut {
                mine.shut_until = Some(Instant::now() + ban.length);
            }
            shut
        };
        self.core.metrics.sftp_login("failed");
        tracing::warn!(user = %user.escape_default(), peer = %peer.addr, client = peer.client, shut, "sftp login failed");
        self.record(
            "user.login_failed",
            user,
            serde_json::json!({ "peer": peer.addr.to_string(), "shut": shut }),
        );
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

/// The SFTP server of this configuration; inside a runtime, where it also keeps the list of its sessions.
///
/// # Errors
/// A host key that cannot be used.
pub fn front(config: &Config, keys: Vec<HostKey>, logins: Arc<Logins>) -> Result<Arc<sftp_front::Server>, String> {
    let sftp = &config.sftp;
    let limit = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let settings = sftp_front::Config {
        host_keys: keys.into_iter().map(|key| key.private.to_string()).collect(),
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
    Ok(front)
}

/// A fault of ours: the client learns that it was one, the log learns which.
fn failure(error: impl std::fmt::Display) -> Fault {
    tracing::error!(%error, "sftp request failed");
    Fault::Failure("a fault of the server; try again".to_owned())
}

/// The present as the clock of the rules shows it.
fn now(core: &Core) -> Millis {
    core.clock.now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap_or(IpAddr::from([0, 0, 0, 0]));
        for (block, address) in [
            ("10.0.0.0/8", "10.9.8.7"),
            ("192.0.2.1", "192.0.2.1"),
            ("0.0.0.0/0", "1.2.3.4"),
            ("2001:db8::/32", "2001:db8::9"),
            ("10.0.0.0/8", "::ffff:10.1.1.1"),
        ] {
            assert!(in_block(block, ip(address)), "{block} {address}");
        }
        for (block, address) in [
            ("10.0.0.0/8", "11.0.0.1"),
            ("192.0.2.1", "192.0.2.2"),
            ("10.0.0.0/x", "10.0.0.1"),
            ("nonsense", "10.0.0.1"),
            ("10.0.0.0/8", "2001:db8::9"),
        ] {
            assert!(!in_block(block, ip(address)), "{block} {address}");
        }
    }
}
