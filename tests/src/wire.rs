//! HTTP by hand: requests exactly as a test wants them, and answers as they came; and a partner's server that plays a script.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::peer::Identity;
use crate::process::tool;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Headers that belong to one transfer and are made anew.
const OF_THE_TRANSFER: &[&str] = &["host", "content-length", "connection", "transfer-encoding", "expect", "keep-alive"];

/// A message: header lines in order, and a body.
#[derive(Clone, Debug)]
pub struct Request {
    /// Name and value, in order.
    pub headers: Vec<(String, String)>,
    /// The bytes after the blank line.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Name and value, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// A request as it came to a partner.
#[derive(Clone, Debug)]
pub struct Hit {
    /// When all of it was there.
    pub at: Instant,
    /// The request line and the header lines.
    pub head: String,
    /// Headers and body.
    pub message: Request,
}

/// The lines of a header block, folded ones joined.
#[must_use]
pub fn header_lines(block: &str) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = Vec::new();
    for line in block.lines().map(|line| line.trim_end_matches('\r')) {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = lines.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            lines.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    lines
}

fn value_of<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let line = headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
    line.map(|(_, value)| value.as_str())
}

impl Request {
    /// From `headers.txt` and `message.as2`.
    #[must_use]
    pub fn captured(headers: &str, body: Vec<u8>) -> Self {
        let mut headers = header_lines(headers);
        headers.retain(|(name, _)| !OF_THE_TRANSFER.contains(&name.to_ascii_lowercase().as_str()));
        Request { headers, body }
    }

    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        value_of(&self.headers, name)
    }

    /// With another value of a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        match self.headers.iter_mut().find(|(found, _)| found.eq_ignore_ascii_case(name)) {
            Some((_, old)) => value.clone_into(old),
            None => self.headers.push((name.to_owned(), value.to_owned())),
        }
        self
    }

    /// Without a header.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
        self
    }

    /// Posts it to a loopback port.
    #[must_use]
    #[track_caller]
    pub fn post(&self, port: u16) -> Answer {
        exchange(port, "POST", "/as2", &self.headers, &self.body)
    }
}

impl Answer {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        value_of(&self.headers, name)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The `Disposition` of the MDN in the body.
    #[must_use]
    pub fn disposition(&self) -> String {
        let text = self.text();
        let line = text.lines().find(|line| line.to_ascii_lowercase().starts_with("disposition:"));
        line.map(|line| line.split_once(':').unwrap().1.trim().to_owned())
            .unwrap_or_default()
    }

    /// Whether the body is a signed MDN.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.header("Content-Type")
            .is_some_and(|value| value.to_ascii_lowercase().starts_with("multipart/signed"))
    }
}

/// An answer in full, as a server writes it.
#[must_use]
pub fn http(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 {status} Status\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{head}\r\n{body}").into_bytes()
}

/// Reads one request; nothing if the peer goes away inside of it.
#[must_use]
pub fn read_request(stream: &mut TcpStream) -> Option<Hit> {
    let mut bytes = Vec::new();
    let mut piece = [0u8; 64 * 1024];
    let mut more = |bytes: &mut Vec<u8>| match stream.read(&mut piece) {
        Ok(n) if n > 0 => bytes.extend_from_slice(&piece[..n]),
        _ => bytes.clear(),
    };
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        more(&mut bytes);
        if bytes.is_empty() {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let headers = header_lines(head.split_once("\r\n")?.1);
    let message = Request { headers, body: Vec::new() };
    let len: usize = message.header("Content-Length").map_or(Some(0), |len| len.parse().ok())?;
    while bytes.len() < end + 4 + len {
        more(&mut bytes);
        if bytes.is_empty() {
            return None;
        }
    }
    let message = Request {
        body: bytes.split_off(end + 4),
        ..message
    };
    Some(Hit {
        at: Instant::now(),
        head,
        message,
    })
}

/// A partner's server, for as long as the process lives. The script makes of each request, and of how many have come by then,
/// the bytes to write before it closes. What came so far.
pub fn serve(listener: TcpListener, script: impl Fn(&Hit, usize) -> Vec<u8> + Send + Sync + 'static) -> Arc<Mutex<Vec<Hit>>> {
    let hits = Arc::new(Mutex::new(Vec::new()));
    let (seen, script) = (Arc::clone(&hits), Arc::new(script));
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
            thread::spawn(move || {
                let Some(hit) = read_request(&mut stream) else { return };
                let count = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(hit.clone());
                    seen.len()
                };
                let _ = stream.write_all(&script(&hit, count));
            });
        }
    });
    hits
}

/// One request on a connection of its own.
#[must_use]
#[track_caller]
pub fn exchange(port: u16, method: &str, path: &str, headers: &[(String, String)], body: &[u8]) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    raw(port, head.as_bytes(), body)
}

/// Writes bytes and reads the answer until the server closes.
#[must_use]
#[track_caller]
pub fn raw(port: u16, head: &[u8], body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head).unwrap();
    // A server that refuses early may close before it has read all.
    let _ = stream.write_all(body);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    parse(&bytes).unwrap_or_else(|| panic!("no HTTP answer: {:?}", String::from_utf8_lossy(&bytes)))
}

/// `openssl s_client` to a loopback port, with the certificate of a client: what it reads goes to the server as it is.
#[must_use]
pub fn tls_client(port: u16, client: Option<&Identity>) -> Command {
    let mut command = tool("openssl", &["s_client", "-quiet", "-connect", &format!("127.0.0.1:{port}")]);
    if let Some(client) = client {
        command
            .arg("-cert")
            .arg(client.path("cert.pem"))
            .arg("-key")
            .arg(client.path("key.pem"));
    }
    command.stderr(Stdio::null());
    command
}

/// Writes bytes over TLS and reads the answer until the server closes.
#[must_use]
#[track_caller]
pub fn over_tls(port: u16, client: Option<&Identity>, request: &[u8]) -> Answer {
    let mut child = tls_client(port, client)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // A server that refuses early may close before it has read all.
    let _ = child.stdin.as_mut().unwrap().write_all(request);
    let output = child.wait_with_output().unwrap();
    parse(&output.stdout).unwrap_or_else(|| panic!("no HTTP answer: {:?}", String::from_utf8_lossy(&output.stdout)))
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let (first, rest) = head.split_once("\r\n").unwrap_or((&head, ""));
    let status = first.split(' ').nth(1)?.parse().ok()?;
    let (headers, body) = (header_lines(rest), &bytes[end + 4..]);
    let chunked = headers
        .iter()
        .any(|(name, value)| name.eq_ignore_ascii_case("transfer-encoding") && value.contains("chunked"));
    Some(Answer {
        status,
        headers,
        body: if chunked { dechunked(body)? } else { body.to_vec() },
    })
}

fn dechunked(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).ok()?.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(end + 2..end + 2 + size)?);
        bytes = bytes.get(end + 4 + size..)?;
    }
}
