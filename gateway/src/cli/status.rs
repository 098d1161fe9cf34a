//! `status`: how the server and its queue are doing, asked of the journal and of the server itself.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::error::DONE;
use super::{Ctx, Outcome};
use crate::clock::{DAY, Millis, rfc3339};
use crate::gateway::{Core, Listening, Started, is_served};
use crate::manage::certificates::{SOON_DAYS, due, label};
use crate::manage::host_keys::{HostKey, HostKeyState};
use crate::manage::{Result, host_keys, objects};
use crate::message::State;

/// How long the server may take to answer.
const ASK_WITHIN: Duration = Duration::from_millis(500);
/// Most bytes read of its metrics.
const MAX_METRICS: u64 = 1 << 20;

/// Show how the server and its queue are doing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  as2gate status
  as2gate status -o json
  watch as2gate status")]
pub(crate) struct Status {}

pub(crate) async fn run(ctx: &Ctx, _: &Status) -> Outcome {
    let core = ctx.core()?;
    let facts = gather(&core, core.journal.integrity()?)?;
    ctx.printer.show(&facts.object(), &facts.text());
    Ok(DONE)
}

pub(super) struct Facts {
    running: bool,
    listening: Option<Listening>,
    /// Keys of the configuration of which the running server was started with other values.
    other_settings: Vec<&'static str>,
    answers: Vec<(&'static str, SocketAddr, bool)>,
    connections: Option<u64>,
    database: String,
    free_percent: u64,
    free_bytes: u64,
    /// More is free than `storage.min_free`.
    has_room: bool,
    states: Vec<(State, u64)>,
    queue: u64,
    failed: u64,
    /// Uploads that were not sent, as their names were used before, of the last day.
    duplicates: u64,
    next_sweep: String,
    /// Name, name for people, and days that are left.
    expiring: Vec<(String, String, i64)>,
    host_keys: Vec<HostKey>,
    counts: [(&'static str, usize); 5],
    now: Millis,
}

/// `database` is the word about it, which takes long to be found for a large one.
pub(super) fn gather(core: &Core, database: String) -> Result<Facts> {
    let now = core.clock.now();
    let running = is_served(&core.config);
    let listening = Listening::read(&core.journal).filter(|_| running);
    let started = Started::read(&core.journal).filter(|_| running);
    let answers = listening.as_ref().map(probe).unwrap_or_default();
    let connections = listening.as_ref().and_then(|listening| listening.telemetry).and_then(connections);
    let all = objects(core)?;
    let states = core.journal.read(|tx| tx.count_states(now - DAY))?;
    let count = |wanted: &dyn Fn(State) -> bool| states.iter().filter(|(state, _)| wanted(*state)).map(|(_, count)| count).sum();
    let (free, total) = (core.storage.free_bytes()?, core.storage.total_bytes()?);
    let run_at = core.config.lifecycle.run_at.as_secs();
    let due = due(&core.config, &all, now, SOON_DAYS * DAY);
    Ok(Facts {
        running,
        listening,
        other_settings: started.map_or_else(Vec::new, |started| started.changed(&core.config)),
        answers,
        connections,
        database,
        free_percent: free.saturating_mul(100) / total.max(1),
        free_bytes: free,
        has_room: core.storage.has_room(free),
        queue: count(&|state| !state.is_final()),
        failed: count(&|state| matches!(state, State::Failed | State::Rejected | State::Quarantined)),
        duplicates: count(&|state| state == State::Duplicate),
        states,
        next_sweep: format!("{:02}:{:02}", run_at / 3600, run_at / 60 % 60),
        expiring: due
            .iter()
            .map(|c| (c.name.clone(), label(c).into_owned(), (c.not_after - now / 1000).div_euclid(86_400)))
            .collect(),
        host_keys: host_keys::load(&core.config)?,
        counts: [
            ("accounts", all.accounts.len()),
            ("stations", all.stations.len()),
            ("partners", all.partners.len()),
            ("certificates", all.certificates.len()),
            ("users", all.users.len()),
        ],
        now,
    })
}

/// Whether each door opens.
fn probe(listening: &Listening) -> Vec<(&'static str, SocketAddr, bool)> {
    let doors = [("sftp", &listening.sftp), ("as2", &listening.as2), ("as2_tls", &listening.as2_tls)];
    let all = doors
        .into_iter()
        .flat_map(|(name, list)| list.iter().map(move |address| (name, *address)));
    all.map(|(name, address)| (name, address, TcpStream::connect_timeout(&reachable(address), ASK_WITHIN).is_ok()))
        .collect()
}

/// The loopback address of a wildcard.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        other => other.ip(),
    };
    SocketAddr::new(ip, address.port())
}

/// Open SFTP connections, from the server's metrics.
fn connections(telemetry: SocketAddr) -> Option<u64> {
    let mut stream = TcpStream::connect_timeout(&reachable(telemetry), ASK_WITHIN).ok()?;
    stream.set_read_timeout(Some(ASK_WITHIN)).ok()?;
    stream
        .write_all(format!("GET /metrics HTTP/1.1\r\nHost: {telemetry}\r\nConnection: close\r\n\r\n").as_bytes())
        .ok()?;
    let mut answer = Vec::new();
    // A server that keeps the connection open is read until it pauses.
    let _ = stream.take(MAX_METRICS).read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    let line = text.lines().find_map(|line| line.strip_prefix("as2gate_sftp_connections "))?;
    line.trim().parse::<f64>().ok().map(|value| value.max(0.0).round() as u64)
}

/// Where the server listens.
fn addresses(listening: &Listening) -> String {
    let list = |list: &[SocketAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let telemetry = listening.telemetry.map(|address| format!("   telemetry {address}"));
    let tls = if listening.as2_tls.is_empty() {
        String::new()
    } else {
        format!("   as2 tls {}", list(&listening.as2_tls))
    };
    format!(
        "listening  sftp {}   as2 {}{tls}{}   pid {}",
        list(&listening.sftp),
        list(&listening.as2),
        telemetry.unwrap_or_default(),
        listening.pid
    )
}

impl Facts {
    fn door(&self, name: &str) -> String {
        let mut doors = self.answers.iter().filter(|(door, ..)| *door == name);
        match (self.running, doors.clone().next()) {
            (false, _) => "not running".to_owned(),
            (true, None) => "off".to_owned(),
            (true, Some(_)) => match doors.find(|(.., answers)| !answers) {
                Some((_, address, _)) => format!("no answer on {address}"),
                None => "ok".to_owned(),
            },
        }
    }

    fn text(&self) -> String {
        let keys = self.host_keys.iter().map(|key| match key.state {
            HostKeyState::Current => format!("{} {}", key.kind, key.fingerprint),
            HostKeyState::Next => format!("next {} {}", key.kind, key.fingerprint),
        });
        let counts = self.counts.iter().map(|(name, count)| format!("{name} {count}"));
        let mut lines = vec![self.doors(), self.work()];
        lines.extend(self.listening.as_ref().map(addresses));
        if !self.other_settings.is_empty() {
            let keys = self.other_settings.join(", ");
            lines.push(format!("settings   the running server has other values of {keys}: as2gate doctor"));
        }
        lines.push(format!("host keys  {}", keys.collect::<Vec<_>>().join("   ")));
        lines.push(format!("objects    {}\n", counts.collect::<Vec<_>>().join("   ")));
        lines.join("\n")
    }

    /// Which doors open, and what is behind them.
    fn doors(&self) -> String {
        let sftp = match (self.door("sftp").as_str(), self.connections) {
            ("ok", Some(1)) => "ok (1 connection)".to_owned(),
            ("ok", Some(n)) => format!("ok ({n} connections)"),
            (other, _) => other.to_owned(),
        };
        let tls = if self.answers.iter().any(|(door, ..)| *door == "as2_tls") {
            format!("   as2 tls {}", self.door("as2_tls"))
        } else {
            String::new()
        };
        let database = if self.database == "ok" { "ok" } else { "damaged: as2gate doctor" };
        format!(
            "sftp {sftp}   as2 {}{tls}   database {database}   storage {} ({} % free)",
            self.door("as2"),
            self.storage(),
            self.free_percent
        )
    }

    /// What is in work, and what wants to be looked after.
    fn work(&self) -> String {
        let held = self.states.iter().filter(|(state, _)| *state == State::Held);
        let held: u64 = held.map(|(_, count)| count).sum();
        let held = if held > 0 { format!("   held {held}") } else { String::new() };
        let expiring = self.expiring.iter().map(|(_, name, days)| {
            if *days < 0 {
                format!("{name} has expired")
            } else {
                format!("{name} expires in {days} days")
            }
        });
        let certificates = match self.expiring.as_slice() {
            [] => "ok".to_owned(),
            _ => expiring.collect::<Vec<_>>().join(", "),
        };
        let duplicates = match self.duplicates {
            0 => String::new(),
            n => format!("   duplicates 24h {n}, not sent"),
        };
        format!(
            "queue {}{held}   failed 24h {}{duplicates}   next sweep {} UTC   certificates: {certificates}",
            self.queue, self.failed, self.next_sweep
        )
    }

    fn storage(&self) -> &'static str {
        if self.has_room {
            "ok"
        } else {
            "full, new data is refused: as2gate doctor"
        }
    }

    pub(super) fn object(&self) -> Value {
        let states: serde_json::Map<String, Value> = self.states.iter().map(|(state, count)| (state.to_string(), json!(count))).collect();
        let objects: serde_json::Map<String, Value> = self.counts.iter().map(|(name, count)| ((*name).to_owned(), json!(count))).collect();
        json!({
            "time": rfc3339(self.now),
            "running": self.running,
            "listening": self.listening,
            "other_settings": self.other_settings,
            "sftp": self.door("sftp"),
            "sftp_connections": self.connections,
            "as2": self.door("as2"),
            "as2_tls": self.door("as2_tls"),
            "database": self.database,
            "storage": self.storage(),
            "storage_free_bytes": self.free_bytes,
            "storage_free_percent": self.free_percent,
            "queue": self.queue,
            "failed_24h": self.failed,
            "duplicates_24h": self.duplicates,
            "states": states,
            "next_sweep": self.next_sweep,
            "expiring": self.expiring.iter().map(|(name, _, days)| json!({ "name": name, "days": days })).collect::<Vec<_>>(),
            "host_keys": self.host_keys.iter().map(|key| json!({ "kind": key.kind, "state": key.state.as_str(), "fingerprint": key.fingerprint })).collect::<Vec<_>>(),
            "objects": objects,
        })
    }
}
