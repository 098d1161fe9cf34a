//! Connections that come by a balancer, until it has named the client; for other doors of the same server too.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::proxy;

/// How long a balancer may take for its PROXY header.
const PROXY_WAIT: Duration = Duration::from_secs(5);
/// Connections of one listener whose PROXY header has not come yet, at most; its caller counts them.
pub const MAX_UNNAMED: usize = 256;

/// The connection of the client that a balancer names; the balancer's own after a health check's header. None without a good
/// header within 5 s; the log says so.
pub async fn client_behind(mut tcp: TcpStream, balancer: SocketAddr) -> Option<(TcpStream, SocketAddr)> {
    match tokio::time::timeout(PROXY_WAIT, proxy::read(&mut tcp)).await {
        Ok(Ok(client)) => Some((tcp, client.unwrap_or(balancer))),
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
