//! Connections that come by a balancer, until it has named the client; for other doors of the same server too.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::proxy;

/// How long a balancer may take for its PROXY header.
const PROXY_WAIT: Duration = Duration::from_secs(5);
/// Connections of one listener whose PROXY header has not come yet, at most.
const MAX_UNNAMED: usize = 256;

/// A connection and its client's address.
type Client = (TcpStream, SocketAddr);

/// The connections of one listener whose balancer has not named the client yet, at most 256. Dropping it closes them.
#[derive(Debug, Default)]
pub struct Unnamed(JoinSet<Option<Client>>);

impl Unnamed {
    /// Waits for the header of a connection from a balancer; false if too many wait already, and it is closed.
    pub fn take(&mut self, tcp: TcpStream, balancer: SocketAddr) -> bool {
        let has_room = self.0.len() < MAX_UNNAMED;
        if has_room {
            self.0.spawn(client_behind(tcp, balancer));
        }
        has_room
    }

    /// The next connection whose client is known; for ever without one. Cancel-safe.
    pub async fn named(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.0.join_next().await {
                Some(Ok(Some(client))) => return client,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// The connection of the client that a balancer names; the balancer's own after a health check's header. None without a good
/// header within 5 s; the log says so, except where nothing came at all before the end: whoever looks whether the door is open says
/// nothing.
async fn client_behind(mut tcp: TcpStream, balancer: SocketAddr) -> Option<Client> {
    let header = async {
        let ended = matches!(tcp.peek(&mut [0]).await, Ok(0) | Err(_));
        if ended { Ok(Err(())) } else { proxy::read(&mut tcp).await.map(Ok) }
    };
    match tokio::time::timeout(PROXY_WAIT, header).await {
        Ok(Ok(Err(()))) => {
            tracing::debug!(%balancer, "a connection that ended without a PROXY header");
            None
        }
        Ok(Ok(Ok(client))) => Some((tcp, client.unwrap_or(balancer))),
        Ok(Err(error)) => {
            tracing::warn!(%balancer, %error, "a connection without a good PROXY header");
            None
        }
        Err(_) => {
            tracing::warn!(%balancer, "no PROXY header in time");
            None
        }
    }
}
