//! Listening sockets, bound by us or handed over by systemd, and who may hold a connection.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::sync::{Arc, Mutex};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::block;
use crate::lock::locked;

/// Connections that the system keeps for us before we accept them.
const BACKLOG: i32 = 1024;
/// Most HTTP connections in all (security.md §7).
pub const MAX_CONNECTIONS: usize = 1_000;

/// Binds every address, `"0.0.0.0:8080"` or `"localhost:8080"`; port 0 lets the system choose.
///
/// # Errors
/// The address that cannot be bound, and why.
pub async fn bind(addrs: &[String]) -> Result<Vec<TcpListener>, String> {
    let mut listeners = Vec::with_capacity(addrs.len());
    for text in addrs {
        let found: Vec<SocketAddr> = match tokio::net::lookup_host(text.as_str()).await {
            Ok(found) => found.collect(),
            Err(error) => return Err(format!("{text} is not an address to listen on: {error}")),
        };
        if found.is_empty() {
            return Err(format!("{text} is not an address to listen on: it resolves to nothing"));
        }
        for addr in found {
            listeners.push(bind_one(addr).map_err(|error| format!("cannot listen on {text}: {error}"))?);
        }
    }
    Ok(listeners)
}

fn bind_one(addr: SocketAddr) -> std::io::Result<TcpListener> {
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
    TcpListener::from_std(socket.into())
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
            let told = |error: std::io::Error| format!("the socket handed over as `{name}` cannot be used: {error}");
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
#[derive(Debug)]
pub struct Gate {
    all: usize,
    per_ip: usize,
    held: Mutex<Held>,
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
        })
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
    async fn errors_name_the_address() {
        let held = bind(&["127.0.0.1:0".to_owned()]).await.unwrap();
        let taken = held[0].local_addr().unwrap().to_string();
        assert!(bind(std::slice::from_ref(&taken)).await.unwrap_err().contains(&taken));
        assert!(bind(&["nonsense".to_owned()]).await.unwrap_err().contains("nonsense"));
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
