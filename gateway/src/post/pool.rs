//! Connections that wait for the next request to the same place (RFC 9112 §9.3).
//!
//! A place is everything that decided whom we talk to and as whom: scheme, host, port, TLS, pins, our certificate and
//! credentials, proxy, and whether inner networks are allowed. A setting that changes makes another place, so that what was
//! connected under the old one is never used again. An address was checked when the connection was made; no name is
//! resolved for one that is used again.

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use openssl::sha::Sha256;

use super::connect::Connection;
use super::{Credentials, Target};
use crate::lock::locked;
use crate::partner::TlsMode;
use crate::url::Url;

/// How long a connection waits for its next request.
const MAX_IDLE_TIME: Duration = Duration::from_secs(15);
/// How long a connection is used in all: what a name, a certificate or a list of roots says now counts within this time.
const MAX_AGE: Duration = Duration::from_secs(300);
/// Most connections that wait for requests to one place.
const MAX_IDLE_PER_PLACE: usize = 32;
/// Most connections that wait in all.
const MAX_IDLE: usize = 256;
/// How often those that wait are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// Everything that matters about whom we talk to; a digest, so that no key or password is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place([u8; 32]);

impl Place {
    pub(super) fn of(target: &Target, url: &Url) -> Self {
        let mut place = Digest(Sha256::new());
        let tls = match target.tls {
            TlsMode::Default => 0,
            TlsMode::Only13 => 1,
            TlsMode::Legacy => 2,
        };
        place.part(&[tls, u8::from(url.is_https()), u8::from(target.allow_private)]);
        place.part(url.with_port().as_bytes());
        place.list(&target.pinned);
        place.option(target.client_identity.as_ref(), |place, identity| {
            place.list(&identity.cert_chain);
            place.part(&identity.pkcs8);
        });
        place.option(target.credentials.as_ref(), |place, credentials| match credentials {
            Credentials::Basic((user, password)) => place.texts(&[user, password]),
            Credentials::Token(grant) => place.texts(&grant.texts()),
        });
        place.option(target.proxy.as_ref(), |place, proxy| {
            place.part(proxy.url.as_bytes());
            place.option(proxy.auth.as_ref(), |place, (user, password)| {
                place.part(user.as_bytes());
                place.part(password.as_bytes());
            });
        });
        Place(place.0.finish())
    }
}

/// Every part goes in with its length, every list with its own: no two places can look alike.
pub(super) struct Digest(Sha256);

impl Digest {
    /// That of some texts alone.
    pub(super) fn of(texts: &[&str]) -> [u8; 32] {
        let mut digest = Digest(Sha256::new());
        digest.texts(texts);
        digest.0.finish()
    }

    fn texts(&mut self, texts: &[&str]) {
        self.count(texts.len());
        texts.iter().for_each(|text| self.part(text.as_bytes()));
    }

    fn part(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }

    fn list(&mut self, parts: &[Vec<u8>]) {
        self.count(parts.len());
        parts.iter().for_each(|part| self.part(part));
    }

    fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        self.count(usize::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn count(&mut self, count: usize) {
        self.0.update(&(count as u64).to_be_bytes());
    }
}

/// The connections that wait.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Idle>>);

#[derive(Default)]
struct Idle {
    /// The one that came last is at the end.
    waiting: Vec<Waiting>,
    /// A task looks after them.
    swept: bool,
}

struct Waiting {
    place: Place,
    since: Instant,
    connection: Connection,
}

impl Waiting {
    /// A server that speaks without being asked is not trusted with another request.
    fn is_good(&self) -> bool {
        self.since.elapsed() < MAX_IDLE_TIME && self.connection.made.elapsed() < MAX_AGE && self.connection.stream.is_quiet()
    }
}

impl Pool {
    /// A connection to this place on which nothing has happened since its last answer.
    pub(super) fn take(&self, place: Place) -> Option<Connection> {
        let mut idle = locked(&self.0);
        while let Some(at) = idle.waiting.iter().rposition(|waiting| waiting.place == place) {
            let waiting = idle.waiting.remove(at);
            if waiting.is_good() {
                return Some(waiting.connection);
            }
        }
        None
    }

    /// Keeps a connection whose answer was read to its end.
    pub(super) fn put(&self, place: Place, connection: Connection) {
        let mut idle = locked(&self.0);
        if idle.waiting.iter().filter(|waiting| waiting.place == place).count() >= MAX_IDLE_PER_PLACE {
            return;
        }
        if idle.waiting.len() >= MAX_IDLE {
            idle.waiting.remove(0);
        }
        idle.waiting.push(Waiting {
            place,
            since: Instant::now(),
            connection,
        });
        if !idle.swept {
            idle.swept = true;
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
    }
}

/// Lets go of those that have waited too long or whose server has closed, until none is left.
async fn sweep(pool: Weak<Mutex<Idle>>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = locked(&pool);
        idle.waiting.retain(Waiting::is_good);
        idle.swept = !idle.waiting.is_empty();
        if !idle.swept {
            return;
        }
    }
}
