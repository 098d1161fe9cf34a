//! How the server and its queue are doing, asked of the journal and of the server itself.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Core, Listening, Started, is_served};
use crate::clock::{DAY, Millis, rfc3339};
use crate::lifecycle::{self, PlanRow};
use crate::manage::expiry::{SOON_DAYS, due, label};
use crate::manage::host_keys::HostKey;
use crate::manage::{Result, host_keys, objects};
use crate::message::State;

/// How long the server may take to answer.
const ASK_WITHIN: Duration = Duration::from_millis(500);
/// Most bytes read of its metrics.
const MAX_METRICS: u64 = 1 << 20;

/// What is known of a server and its queue at one moment.
pub struct Facts {
    /// A server runs on this data directory.
    pub running: bool,
    /// Where it listens.
    pub listening: Option<Listening>,
    /// Keys of the configuration of which the running server was started with other values.
    pub other_settings: Vec<&'static str>,
    /// Door, address, and whether it opens.
    pub answers: Vec<(&'static str, SocketAddr, bool)>,
    /// Open SFTP connections, if the server tells.
    pub connections: Option<u64>,
    /// Of the disk.
    pub free_percent: u64,
    /// Of the disk.
    pub free_bytes: u64,
    /// More is free than `storage.min_free`.
    pub has_room: bool,
    /// How many messages are in each state, of ended ones those of the last day.
    pub states: Vec<(State, u64)>,
    /// Messages that have not ended.
    pub queue: u64,
    /// Messages that failed or were refused within the last day.
    pub failed: u64,
    /// Uploads that were not sent, as their names were used before, of the last day.
    pub duplicates: u64,
    /// Uploads that look interrupted and wait for a person.
    pub interrupted: u64,
    /// `HH:MM`, UTC.
    pub next_sweep: String,
    /// What the last sweep left for a person.
    pub sweep_holds: Vec<PlanRow>,
    /// Name, name for people, and days that are left.
    pub expiring: Vec<(String, String, i64)>,
    /// Of the SFTP door.
    pub host_keys: Vec<HostKey>,
    /// How many objects of each kind.
    pub counts: [(&'static str, usize); 5],
    /// The moment.
    pub now: Millis,
}

/// Uploads that ended as whole files and look interrupted: nothing but a person, or their user, moves them.
///
/// # Errors
/// The journal's.
pub(super) fn interrupted(core: &Core) -> Result<u64> {
    let waiting = core.journal.read(|tx| tx.waiting_uploads())?;
    Ok(waiting
        .iter()
        .filter(|(reason, _)| reason.looks_interrupted())
        .map(|(_, count)| count)
        .sum())
}

/// What can be told at once: whether the pages of a large database are all intact takes `doctor`.
///
/// # Errors
/// The journal's, or the disk's.
pub fn gather(core: &Core) -> Result<Facts> {
    let now = core.clock.now();
    let running = is_served(&core.config);
    let listening = Listening::read(&core.journal).filter(|_| running);
    let started = Started::read(&core.journal).filter(|_| running);
    let answers = listening.as_ref().map(probe).unwrap_or_default();
    let connections = listening.as_ref().and_then(|listening| listening.telemetry).and_then(connections);
    let all = objects(core)?;
    let states = core.journal.read(|tx| tx.count_states(now - DAY))?;
    let count = |wanted: &dyn Fn(State) -> bool| states.iter().filter(|(state, _)| wanted(*state)).map(|(_, count)| count).sum();
    let (free_bytes, free_percent) = core.storage.free_share()?;
    let run_at = core.config.lifecycle.run_at.as_secs();
    let due = due(&core.config, &all, now, SOON_DAYS * DAY);
    Ok(Facts {
        running,
        listening,
        other_settings: started.map_or_else(Vec::new, |started| {
            started.changed(&core.config).iter().map(|other| other.key).collect()
        }),
        answers,
        connections,
        free_percent,
        free_bytes,
        has_room: core.storage.look_for_room(0).is_ok(),
        queue: count(&|state| !state.is_final()),
        failed: count(&|state| matches!(state, State::Failed | State::Rejected | State::Quarantined)),
        duplicates: count(&|state| state == State::Duplicate),
        interrupted: interrupted(core)?,
        states,
        next_sweep: format!("{:02}:{:02}", run_at / 3600, run_at / 60 % 60),
        sweep_holds: lifecycle::held(core)?,
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

impl Facts {
    /// In a word, how one of the doors does: `sftp`, `as2`, `as2_tls`.
    #[must_use]
    pub fn door(&self, name: &str) -> String {
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

    /// In a word, whether there is room.
    #[must_use]
    pub fn storage(&self) -> &'static str {
        if self.has_room {
            "ok"
        } else {
            "full, new data is refused: as2gate doctor"
        }
    }

    /// As programs see it.
    #[must_use]
    pub fn object(&self) -> Value {
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
            // It told all of this; `doctor` looks at every page.
            "database": "ok",
            "storage": self.storage(),
            "storage_free_bytes": self.free_bytes,
            "storage_free_percent": self.free_percent,
            "queue": self.queue,
            "failed_24h": self.failed,
            "duplicates_24h": self.duplicates,
            "interrupted": self.interrupted,
            "states": states,
            "next_sweep": self.next_sweep,
            "sweep_holds": self.sweep_holds,
            "expiring": self.expiring.iter().map(|(name, _, days)| json!({ "name": name, "days": days })).collect::<Vec<_>>(),
            "host_keys": self.host_keys.iter().map(|key| json!({ "kind": key.kind, "state": key.state.as_str(), "fingerprint": key.fingerprint })).collect::<Vec<_>>(),
            "objects": objects,
        })
    }
}
