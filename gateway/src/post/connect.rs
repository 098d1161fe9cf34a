//! From a name to a connection: resolve once, check every address, connect to what was checked, pass the proxy.

use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_openssl::SslStream;

use super::tls::Transport;
use super::{PostError, Stage, Target, address, exchange};
use crate::url::Url;

/// Most addresses of one name that are tried.
const MAX_TRIES: usize = 8;

/// A byte stream, with TLS or without.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Whether it is open and holds nothing that was not read.
    fn is_quiet(&self) -> bool;
}

impl Stream for TcpStream {
    /// Asks the socket: what the runtime knows of it may be a moment old.
    fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        SockRef::from(self)
            .peek(&mut byte)
            .is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

impl Stream for SslStream<Transport> {
    fn is_quiet(&self) -> bool {
        self.ssl().pending() == 0 && self.get_ref().0.is_quiet()
    }
}

/// Ready for requests.
pub(super) struct Connection {
    pub(super) stream: Box<dyn Stream>,
    /// Protocol and cipher.
    pub(super) tls: Option<String>,
    /// Subject and end of the server's certificate.
    pub(super) certificate: Option<String>,
    /// When it was made.
    pub(super) made: std::time::Instant,
}

impl Connection {
    pub(super) fn describe(&self) -> String {
        [self.tls.as_deref(), self.certificate.as_deref()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// Checked addresses: the server's, or the proxy's.
pub(super) struct Route {
    addresses: Vec<SocketAddr>,
    proxy: Option<Url>,
}

impl Route {
    /// Resolves the server, or the proxy if there is one. A proxy is the operator's own choice and may stand anywhere; a
    /// name behind it is resolved by the proxy, so only addresses and local names can be refused here.
    pub(super) async fn find(target: &Target, url: &Url) -> Result<Self, PostError> {
        // RFC 6761 §6.3: such a name is this machine, whatever a resolver says.
        let local = url.host().trim_end_matches('.') == "localhost" || url.host().trim_end_matches('.').ends_with(".localhost");
        if !target.allow_private && (local || address::spelled(url.host()).is_some_and(address::denied)) {
            return Err(denied(target, url.host(), if local { "this machine" } else { url.host() }));
        }
        let Some(proxy) = &target.proxy else {
            let addresses = resolve(target, url).await?;
            if let Some(inner) = addresses
                .iter()
                .find(|addr| address::denied(addr.ip()))
                .filter(|_| !target.allow_private)
            {
                // What a name resolves to may be another address in an hour: a resolver that is ill, or one for our own networks.
                return Err(PostError {
                    retry: true,
                    ..denied(target, url.host(), &inner.ip().to_string())
                });
            }
            return Ok(Route { addresses, proxy: None });
        };
        let wrong = |text: String| PostError::new(Stage::Url, text, target.setting("--proxy http://HOST:PORT"));
        let proxy = Url::parse(&proxy.url).map_err(|why| wrong(format!("proxy: the URL {why}")))?;
        if proxy.is_https() {
            return Err(wrong("proxy: only http:// proxies are spoken to".to_owned()));
        }
        Ok(Route {
            addresses: resolve(target, &proxy).await?,
            proxy: Some(proxy),
        })
    }

    pub(super) fn describe(&self) -> String {
        let all: Vec<String> = self.addresses.iter().map(|addr| addr.ip().to_string()).collect();
        match &self.proxy {
            Some(proxy) => format!("proxy {} is {}", proxy.host(), all.join(", ")),
            None => all.join(", "),
        }
    }

    /// Connects to the first address that answers; for https through a proxy, up to the server's first byte.
    pub(super) async fn connect(&self, target: &Target, url: &Url) -> Result<TcpStream, PostError> {
        let mut stream = self.dial(target).await?;
        if let Some(proxy) = &self.proxy
            && url.is_https()
        {
            match timeout(target.connect_timeout, tunnel(&mut stream, target, url)).await {
                Ok(outcome) => outcome?,
                Err(_) => {
                    return Err(proxy_failed(target, format!("proxy {} did not answer in time", proxy.with_port())));
                }
            }
        }
        Ok(stream)
    }

    /// The time is shared among the addresses that are left, so that a dead one does not use all of it.
    async fn dial(&self, target: &Target) -> Result<TcpStream, PostError> {
        let deadline = Instant::now() + target.connect_timeout;
        let tries = self.addresses.len().min(MAX_TRIES);
        let mut troubles = Vec::new();
        for (at, addr) in self.addresses.iter().take(tries).enumerate() {
            let left = u32::try_from(tries - at).unwrap_or(1);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            match timeout_at(Instant::now() + share, TcpStream::connect(addr)).await {
                Ok(Ok(stream)) => {
                    // The last piece of a body must not wait for an acknowledgement; without the option it only comes later.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => troubles.push(format!("{addr}: {error}")),
                Err(_) => troubles.push(format!("{addr}: no answer in time")),
            }
        }
        let text = format!("cannot connect: {}", troubles.join("; "));
        if let Some(proxy) = &self.proxy {
            return Err(proxy_failed(target, format!("proxy {}: {text}", proxy.with_port())));
        }
        Err(PostError::new(
            Stage::Connect,
            text,
            "ask whether the partner's firewall lets us in, and whether host and port are right",
        ))
    }
}

fn proxy_failed(target: &Target, text: String) -> PostError {
    let mend = target.setting("--proxy URL --proxy-user USER --proxy-password file:PATH");
    PostError::new(Stage::Connect, text, format!("look at the proxy and how we log in there: {mend}"))
}

/// The proxy does not let us through.
pub(super) fn locked_out(target: &Target, status: u16) -> PostError {
    proxy_failed(target, format!("the proxy wants other credentials: HTTP {status}"))
}

async fn resolve(target: &Target, url: &Url) -> Result<Vec<SocketAddr>, PostError> {
    let failed = |why: String| {
        PostError::new(
            Stage::Resolve,
            format!("cannot resolve {}: {why}", url.host()),
            "look at the host name in the URL and at this machine's DNS",
        )
    };
    let looked_up = timeout(target.connect_timeout, tokio::net::lookup_host((url.host(), url.port()))).await;
    let addresses: Vec<SocketAddr> = match looked_up {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed("no answer in time".to_owned())),
    };
    if addresses.is_empty() {
        Err(failed("it has no address".to_owned()))
    } else {
        Ok(addresses)
    }
}

fn denied(target: &Target, host: &str, ip: &str) -> PostError {
    PostError::new(
        Stage::Denied,
        format!("{host} is {ip}, an address inside our own networks"),
        format!("if the partner really stands there: {}", target.setting("--private true")),
    )
}

/// `CONNECT host:port` (RFC 9110 §9.3.6).
async fn tunnel(stream: &mut TcpStream, target: &Target, url: &Url) -> Result<(), PostError> {
    let wrong = |text: String| proxy_failed(target, text);
    let authority = url.with_port();
    let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    if let Some(auth) = target.proxy.as_ref().and_then(|proxy| proxy.auth.as_ref()) {
        head.push_str(&format!("Proxy-Authorization: {}\r\n", exchange::basic(auth).as_str()));
    }
    head.push_str("\r\n");
    stream
        .write_all(head.as_bytes())
        .await
        .map_err(|error| wrong(format!("the proxy hung up: {error}")))?;
    let status = exchange::tunnel_status(stream)
        .await
        .map_err(|why| wrong(format!("the proxy's answer cannot be read: {why}")))?;
    match status {
        200..300 => Ok(()),
        // COMPAT(tinyproxy): it says 401 to a wrong password. Nobody but the proxy answers here.
        401 | 407 => Err(locked_out(target, status)),
        _ => Err(wrong(format!("the proxy refuses to connect to {authority}: HTTP {status}"))),
    }
}
