//! A TCP relay that cuts connections: a bad line between two gateways.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// One connection as the relay saw it.
#[derive(Clone, Debug)]
pub struct Passed {
    /// The first word of what the client sent, the method of an HTTP request.
    pub method: String,
    /// Bytes that reached the server.
    pub up: usize,
    /// The relay cut it.
    pub cut: bool,
}

/// A relay in front of a loopback port, for as long as the process lives.
pub struct Relay {
    /// Where it listens.
    pub port: u16,
    passed: Arc<Mutex<Vec<Passed>>>,
}

impl Relay {
    /// Relays to `to`. A connection that would carry more than the first of `cuts` is cut there, and the next cut counts.
    #[must_use]
    pub fn cutting(to: u16, cuts: &[usize]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let passed = Arc::new(Mutex::new(Vec::new()));
        let cuts = Arc::new(Mutex::new(cuts.to_vec()));
        let seen = Arc::clone(&passed);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (seen, cuts) = (Arc::clone(&seen), Arc::clone(&cuts));
                // A server that is down is a connection that is closed at once.
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else {
                    continue;
                };
                thread::spawn(move || carry(client, server, &seen, &cuts));
            }
        });
        Relay { port, passed }
    }

    /// The connections so far, in the order of their beginning.
    #[must_use]
    pub fn passed(&self) -> Vec<Passed> {
        self.passed.lock().unwrap().clone()
    }
}

fn carry(mut client: TcpStream, mut server: TcpStream, seen: &Mutex<Vec<Passed>>, cuts: &Mutex<Vec<usize>>) {
    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let back = thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut buffer, mut index, mut up) = (vec![0; 64 * 1024], None, 0);
    loop {
        let n = client.read(&mut buffer).unwrap_or(0);
        let at = *index.get_or_insert_with(|| {
            let method = String::from_utf8_lossy(&buffer[..n])
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned();
            let mut seen = seen.lock().unwrap();
            seen.push(Passed { method, up: 0, cut: false });
            seen.len() - 1
        });
        let limit = cuts.lock().unwrap().first().copied().unwrap_or(usize::MAX);
        let cut = up + n > limit;
        let n = n.min(limit.saturating_sub(up));
        let sent = n > 0 && server.write_all(&buffer[..n]).is_ok();
        up += if sent { n } else { 0 };
        let mut seen = seen.lock().unwrap();
        (seen[at].up, seen[at].cut) = (up, cut);
        drop(seen);
        if cut {
            cuts.lock().unwrap().remove(0);
            let _ = server.shutdown(Shutdown::Both);
            let _ = client.shutdown(Shutdown::Both);
        }
        if cut || !sent {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Write);
    let _ = back.join();
}
