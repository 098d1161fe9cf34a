//! Listening sockets, bound by us or handed over by systemd, and who may hold a connection.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::block;
use crate::lock::locked;

/// Connections that the system keeps for us before we accept them.
const BACKLOG: i32 = 1024;
/// Most HTTP connections in all (security.md §7).
pub const MAX_CONNECTIONS: usize = 1_000;
/// How often a new connection looks whether the one that gives way to it has ended, and how long it waits before each look.
const LEAVING_LOOKS: u32 = 20;
const LEAVING_LOOK: Duration = Duration::from_millis(5);

/// An address that a door cannot have.
#[derive(Debug, thiserror::Error)]
#[error("{address} {why}", why = self.why())]
pub struct Obstacle {
    /// The setting or option that asks for it.
    key: &'static str,
    /// As it stands there.
    address: String,
    error: io::Error,
}

impl Obstacle {
    /// What keeps the door from it.
    fn why(&self) -> String {
        match self.error.kind() {
            io::ErrorKind::AddrInUse => "is taken by another program".to_owned(),
            io::ErrorKind::PermissionDenied => "needs a privilege".to_owned(),
            _ => format!("cannot be had: {}", self.error),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        let key = self.key;
        match self.error.kind() {
            io::ErrorKind::AddrInUse if self.address.ends_with(":22") => {
                format!("choose another address for {key}, or move that program, mostly sshd, to another port")
            }
            io::ErrorKind::AddrInUse => format!("choose another address for {key}, or stop that program"),
            io::ErrorKind::PermissionDenied => {
                format!("give as2gate CAP_NET_BIND_SERVICE or a socket of systemd, or choose a port of 1024 or above for {key}")
            }
            io::ErrorKind::AddrNotAvailable => format!("choose an address of this machine for {key}"),
            _ => "write it like 0.0.0.0:2022 or [::]:2022".to_owned(),
        }
    }
}

/// Binds every address of a setting, `"0.0.0.0:8080"` or `"localhost:8080"`; port 0 lets the system choose.
///
/// # Errors
/// The first address that cannot be had.
pub async fn bind(key: &'static str, addresses: &[String]) -> Result<Vec<TcpListener>, Obstacle> {
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        let told = obstacle(key, address);
        let found = tokio::net::lookup_host(address.as_str()).await.map_err(told)?;
        for listener in bind_found(found).map_err(told)? {
            listeners.push(TcpListener::from_std(listener).map_err(told)?);
        }
    }
    Ok(listeners)
}

/// Whether an address could be had now.
///
/// # Errors
/// What stands in the way.
pub fn try_bind(key: &'static str, address: &str) -> Result<(), Obstacle> {
    let bound = address.to_socket_addrs().and_then(bind_found);
    bound.map(drop).map_err(obstacle(key, address))
}

fn obstacle(key: &'static str, address: &str) -> impl Fn(io::Error) -> Obstacle + Copy {
    move |error| Obstacle {
        key,
        address: address.to_owned(),
        error,
    }
}

fn bind_found(found: impl Iterator<Item = SocketAddr>) -> io::Result<Vec<std::net::TcpListener>> {
    let listeners: Vec<_> = found.map(bind_one).collect::<io::Result<_>>()?;
    match listeners.is_empty() {
        true => Err(io::Error::other("it resolves to nothing")),
        false => Ok(listeners),
    }
}

fn bind_one(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        // So that "0.0.0.0:80" and "[::]:80" can stand side by side.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The doors that systemd may hold open while the server restarts: names for `FileDescriptorName=` (sd_listen_fds(3)).
pub const DOORS: [&str; 4] = ["sftp", "as2", "as2-tls", "telemetry"];

/// Listening sockets that were handed over, by the door they belong to.
#[derive(Debug, Default)]
pub struct Inherited(HashMap<&'static str, Vec<TcpListener>>);

impl Inherited {
    /// Takes the sockets that systemd passed to this process, if it did.
    ///
    /// # Errors
    /// A socket without the name of a door, or one that is no listening TCP socket.
    pub fn take() -> Result<Self, String> {
        // The variables are those of this very process only if `LISTEN_PID` says so, which the crate checks.
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<&str> = names.split(':').collect();
        let mut passed = listenfd::ListenFd::from_env();
        let mut doors: HashMap<&'static str, Vec<TcpListener>> = HashMap::new();
        for k in 0..passed.len() {
            let name = names.get(k).copied().unwrap_or_default();
            let door = DOORS.into_iter().find(|door| *door == name).ok_or_else(|| {
                format!(
                    "socket {k} was handed over as `{name}`: FileDescriptorName= has to be one of {}",
                    DOORS.join(", ")
                )
            })?;
            let told = |error: io::Error| format!("the socket handed over as `{name}` cannot be used: {error}");
            let listener = passed
                .take_tcp_listener(k)
                .map_err(told)?
                .ok_or_else(|| format!("the socket handed over as `{name}` is gone"))?;
            listener.set_nonblocking(true).map_err(told)?;
            doors.entry(door).or_default().push(TcpListener::from_std(listener).map_err(told)?);
        }
        Ok(Self(doors))
    }

    /// The sockets of one door, if there are some; it must not be bound then.
    #[must_use]
    pub fn door(&mut self, name: &str) -> Option<Vec<TcpListener>> {
        self.0.remove(name)
    }
}

/// Tells systemd how far the server is, `READY=1` or `STOPPING=1` (sd_notify(3)); does nothing where nobody asked for it.
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let told = UnixDatagram::unbound().and_then(|socket| match path.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => socket.send_to_addr(state.as_bytes(), &UnixAddr::from_abstract_name(name)?),
        None => socket.send_to(state.as_bytes(), &path),
    });
    if let Err(error) = told {
        tracing::warn!(%error, "cannot tell systemd {state}");
    }
}

/// Counts connections, in all and per address. An IPv6 host may choose among its whole /64, so that is what counts.
///
/// Where all places are taken, the connection that has rested longest gives way to a new one: a thousand that send nothing shut
/// nobody out.
#[derive(Debug)]
pub struct Gate {
    all: usize,
    per_ip: usize,
    held: Mutex<Held>,
    /// Connections without a request under way, those that have rested longest first.
    resting: Notify,
    /// How many they are.
    rest: AtomicUsize,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// The right to hold one connection; dropping it gives the place back.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    ip: IpAddr,
}

impl Gate {
    /// A gate for `all` connections, `per_ip` of them from one address (0: no limit per address).
    #[must_use]
    pub fn new(all: usize, per_ip: usize) -> Arc<Self> {
        Arc::new(Gate {
            all,
            per_ip,
            held: Mutex::new(Held::default()),
            resting: Notify::new(),
            rest: AtomicUsize::new(0),
        })
    }

    /// The same, and where all places are taken, that of a connection that rests. It waits a moment for it to end.
    pub async fn enter_or_displace(self: &Arc<Self>, ip: IpAddr) -> Option<Pass> {
        let mut pass = self.enter(ip);
        if pass.is_some() || !self.lacks_only_room(ip) || self.rest.load(Ordering::Relaxed) == 0 {
            return pass;
        }
        self.resting.notify_one();
        for _ in 0..LEAVING_LOOKS {
            tokio::time::sleep(LEAVING_LOOK).await;
            pass = self.enter(ip);
            if pass.is_some() {
                break;
            }
        }
        pass
    }

    /// Waits, as a connection that rests, until another one needs the place.
    pub async fn displaced(&self) {
        self.rest.fetch_add(1, Ordering::Relaxed);
        let _rests = Rests(&self.rest);
        self.resting.notified().await;
    }

    /// All places are taken, and not too many of them by this address.
    fn lacks_only_room(&self, ip: IpAddr) -> bool {
        let held = locked(&self.held);
        let mine = held.by_ip.get(&block::network(ip)).copied().unwrap_or_default();
        held.all >= self.all && (self.per_ip == 0 || mine < self.per_ip)
    }

    /// A place for a connection from `ip`, if there is one.
    #[must_use]
    pub fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Pass> {
        let ip = block::network(ip);
        let mut held = locked(&self.held);
        let mine = held.by_ip.get(&ip).copied().unwrap_or_default();
        if held.all >= self.all || (self.per_ip > 0 && mine >= self.per_ip) {
            return None;
        }
        held.all += 1;
        held.by_ip.insert(ip, mine + 1);
        Some(Pass {
            gate: Arc::clone(self),
            ip,
        })
    }

    /// Connections held now.
    #[must_use]
    pub fn held(&self) -> usize {
        locked(&self.held).all
    }
}

/// Counts a connection that rests.
struct Rests<'a>(&'a AtomicUsize);

impl Drop for Rests<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut held = locked(&self.gate.held);
        held.all = held.all.saturating_sub(1);
        let left = held.by_ip.get(&self.ip).copied().unwrap_or_default().saturating_sub(1);
        if left == 0 {
            held.by_ip.remove(&self.ip);
        } else {
            held.by_ip.insert(self.ip, left);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[tokio::test]
    async fn what_keeps_a_door_from_an_address_is_told() {
        let bind = async |address: &str| bind("as2.listen", &[address.to_owned()]).await;
        let held = bind("127.0.0.1:0").await.unwrap();
        let taken = held[0].local_addr().unwrap().to_string();
        let obstacle = bind(&taken).await.unwrap_err();
        assert_eq!(obstacle.to_string(), format!("{taken} is taken by another program"));
        assert!(obstacle.hint().contains("as2.listen"), "{}", obstacle.hint());
        assert_eq!(try_bind("as2.listen", &taken).unwrap_err().to_string(), obstacle.to_string());
        // An address of documentation, which is nobody's.
        for address in ["nonsense", "192.0.2.1:8080"] {
            let told = bind(address).await.unwrap_err().to_string();
            assert!(told.starts_with(&format!("{address} cannot be had: ")), "{told}");
        }
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let gate = Gate::new(3, 2);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = gate.enter(ip("2001:db8::1"));
        let second = gate.enter(ip("2001:db8::2"));
        assert!(first.is_some() && second.is_some());
        assert!(gate.enter(ip("2001:db8::3")).is_none(), "one /64, two places");
        let other = gate.enter(ip("10.0.0.1"));
        assert!(other.is_some());
        assert!(gate.enter(ip("10.0.0.2")).is_none(), "three in all");
        drop(first);
        assert!(gate.enter(ip("::ffff:10.0.0.1")).is_some());
        drop((second, other));
        assert_eq!(gate.held(), 0);
    }
}
