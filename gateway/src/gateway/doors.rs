//! The doors of a server: bound before anything starts, so that one that cannot be is told, and then opened.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::tls_door::TlsDoor;
use super::{Core, StartError, rounds};
use crate::config::Config;
use crate::journal::Journal;
use crate::manage::host_keys::{HostKey, HostKeyState};
use crate::sftp_tree::Logins;
use crate::{http, inbox, listen, manage, telemetry};

/// What `serve` may override.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// Instead of `sftp.listen`.
    pub sftp: Option<Vec<String>>,
    /// Instead of `as2.listen`.
    pub as2: Option<Vec<String>>,
    /// Instead of `telemetry.listen`; the empty text switches it off.
    pub telemetry: Option<String>,
}

/// Where a server listens, remembered in the journal so that commands know.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Listening {
    /// The server's process.
    pub pid: u32,
    /// SFTP.
    pub sftp: Vec<SocketAddr>,
    /// AS2.
    pub as2: Vec<SocketAddr>,
    /// AS2 over TLS.
    pub as2_tls: Vec<SocketAddr>,
    /// Health and metrics.
    pub telemetry: Option<SocketAddr>,
}

impl Listening {
    const FACT: &str = "server.listening";

    /// What the last server that started here told.
    #[must_use]
    pub fn read(journal: &Journal) -> Option<Self> {
        let text = journal.read(|tx| tx.fact(Self::FACT)).ok().flatten()?;
        serde_json::from_str(&text).ok()
    }

    pub(super) async fn remember(self, started: Started, journal: &Journal) -> Result<(), StartError> {
        let word = Word {
            listening: self,
            started: Some(started),
        };
        let text = serde_json::to_string(&word).map_err(|error| StartError::Io(error.to_string()))?;
        Ok(journal.write(move |tx| tx.set_fact(Self::FACT, &text)).await?)
    }
}

/// What a server was started with, remembered so that commands can tell what has changed since.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Started {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// A digest of each value but those of the command line.
    settings: BTreeMap<String, String>,
    /// The environment variable that gave it, by key.
    #[serde(default)]
    variables: BTreeMap<String, String>,
}

/// A key of the configuration that has another value here than in the running server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differing {
    /// The key.
    pub key: &'static str,
    /// What the environment has to do with it, in words, if it has.
    pub variable: Option<String>,
}

impl std::fmt::Display for Differing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.variable {
            Some(words) => write!(f, "{} ({words})", self.key),
            None => f.write_str(self.key),
        }
    }
}

/// All that a server leaves word of. Servers of older versions left `started` out.
#[derive(Serialize, Deserialize)]
struct Word {
    #[serde(flatten)]
    listening: Listening,
    started: Option<Started>,
}

impl Started {
    /// What brings a server and its commands together that have other variables.
    pub const ONE_ENVIRONMENT: &str = "set the same variables for both, or write these settings into the configuration file";

    pub(super) fn new(config: &Config, options: &ServeOptions) -> Self {
        let mut settings = config.values.digests();
        let overridden = [
            ("sftp.listen", options.sftp.is_some()),
            ("as2.listen", options.as2.is_some()),
            ("telemetry.listen", options.telemetry.is_some()),
        ];
        for (key, _) in overridden.into_iter().filter(|(_, is_set)| *is_set) {
            settings.remove(key);
        }
        let variable = |key: &String| Some((key.clone(), config.values.variable(key)?));
        Started {
            file: file_of(config),
            variables: settings.keys().filter_map(variable).collect(),
            settings,
        }
    }

    /// What the last server that started here told.
    #[must_use]
    pub fn read(journal: &Journal) -> Option<Self> {
        let text = journal.read(|tx| tx.fact(Listening::FACT)).ok().flatten()?;
        serde_json::from_str::<Word>(&text).ok()?.started
    }

    /// The keys that have another value here.
    #[must_use]
    pub fn changed(&self, config: &Config) -> Vec<Differing> {
        let here = config.values.digests();
        let is_other = |key: &&str| match (self.settings.get(*key), here.get(*key)) {
            (Some(theirs), Some(ours)) => theirs != ours,
            _ => false,
        };
        let keys = config.values.all().map(|(key, _)| key.path).filter(is_other);
        keys.map(|key| Differing {
            key,
            variable: self.words_of_variables(config, key),
        })
        .collect()
    }

    fn words_of_variables(&self, config: &Config, key: &str) -> Option<String> {
        Some(match (self.variables.get(key), config.values.variable(key)) {
            (Some(name), None) => format!("{name} is set for the server and not here"),
            (None, Some(name)) => format!("{name} is set here and not for the server"),
            (Some(name), Some(_)) => format!("{name} is another one for the server"),
            (None, None) => return None,
        })
    }

    /// Whether it was started with this very file.
    #[must_use]
    pub fn is_of(&self, config: &Config) -> bool {
        self.file == file_of(config)
    }
}

/// The configuration file, wherever one stands.
fn file_of(config: &Config) -> Option<PathBuf> {
    config.file.as_ref().and_then(|file| std::path::absolute(file).ok())
}

/// The setting of the SFTP door's addresses.
const SFTP: &str = "sftp.listen";

/// The bound listeners.
pub(super) struct Doors {
    pub(super) listening: Listening,
    sftp: Vec<TcpListener>,
    as2: Vec<TcpListener>,
    as2_tls: Vec<TcpListener>,
    telemetry: Vec<TcpListener>,
    tls: Option<TlsDoor>,
}

impl Doors {
    pub(super) async fn bind(core: &Core, options: &ServeOptions) -> Result<Self, StartError> {
        let config = &core.config;
        let mut inherited = listen::Inherited::take().map_err(StartError::Io)?;
        let sftp = match (inherited.door("sftp"), &options.sftp) {
            (Some(listeners), _) => listeners,
            (None, Some(addresses)) => listen::bind("--sftp", addresses).await?,
            (None, None) => bind_sftp(&config.sftp.listen).await?,
        };
        let as2 = match inherited.door("as2") {
            Some(listeners) => listeners,
            None => match &options.as2 {
                Some(addresses) => listen::bind("--as2", addresses).await?,
                None => listen::bind("as2.listen", &config.as2.listen).await?,
            },
        };
        let as2_tls = match inherited.door("as2-tls") {
            Some(listeners) => listeners,
            None => listen::bind("as2.tls.listen", &config.as2.tls.listen).await?,
        };
        let tls = if as2_tls.is_empty() {
            None
        } else {
            Some(TlsDoor::new(core).map_err(StartError::Tls)?)
        };
        let address = options.telemetry.as_ref().unwrap_or(&config.telemetry.listen);
        // A second server on one machine must not fail for want of the same metrics port.
        let wanted = Vec::from_iter((!address.is_empty()).then(|| address.clone()));
        let telemetry = match (inherited.door("telemetry"), listen::bind("telemetry.listen", &wanted)) {
            (Some(listeners), _) => Ok(listeners),
            (None, binding) => binding.await,
        };
        let telemetry = match telemetry {
            Ok(listeners) => listeners,
            Err(error) => {
                tracing::warn!(%error, "no telemetry");
                Vec::new()
            }
        };
        let local = |listeners: &[TcpListener]| listeners.iter().filter_map(|l| l.local_addr().ok()).collect::<Vec<_>>();
        let listening = Listening {
            pid: std::process::id(),
            sftp: local(&sftp),
            as2: local(&as2),
            as2_tls: local(&as2_tls),
            telemetry: local(&telemetry).first().copied(),
        };
        Ok(Doors {
            listening,
            sftp,
            as2,
            as2_tls,
            telemetry,
            tls,
        })
    }

    pub(super) fn open(self, core: &Arc<Core>, stop: &watch::Receiver<bool>) -> Result<Vec<JoinHandle<()>>, StartError> {
        let config = &core.config;
        let mut tasks = Vec::new();
        let logins = Arc::new(Logins::new(Arc::clone(core)));
        let keys = host_keys(config)?;
        let front = crate::sftp_tree::front(config, &keys, Arc::clone(&logins)).map_err(StartError::Io)?;
        for listener in self.sftp {
            tasks.push(tokio::spawn(Arc::clone(&front).serve(listener, stop.clone())));
        }
        let inbox = Arc::new(inbox::Inbox::new(Arc::clone(core)));
        let limits = http::Limits {
            balancers: config.as2.proxy_protocol_from.clone(),
            ..http::Limits::new(usize::try_from(config.as2.max_connections_per_ip).unwrap_or(usize::MAX))
        };
        let plain = self.as2.into_iter().map(|listener| (listener, None));
        let secured = self
            .as2_tls
            .into_iter()
            .map(|listener| (listener, self.tls.as_ref().map(TlsDoor::acceptor)));
        for (listener, tls) in plain.chain(secured) {
            tasks.push(tokio::spawn(http::serve(
                listener,
                tls,
                Arc::clone(&inbox),
                limits.clone(),
                stop.clone(),
            )));
        }
        for listener in self.telemetry {
            tasks.push(tokio::spawn(telemetry::serve(
                listener,
                Arc::clone(&core.metrics),
                ready(core, &front),
                stop.clone(),
            )));
        }
        let follower = rounds::follow_objects(Arc::clone(core), logins, front, self.tls, stop.clone());
        tasks.push(tokio::spawn(follower));
        Ok(tasks)
    }
}

/// Makes the host keys that are missing, and says so: to clients that know the former one the server is another.
fn host_keys(config: &Config) -> Result<Vec<HostKey>, StartError> {
    let wrong = |refusal: manage::Refusal| StartError::HostKey(refusal.to_string());
    let made = manage::host_keys::create_missing(config).map_err(wrong)?;
    let keys = manage::host_keys::load(config).map_err(wrong)?;
    let is_new = |key: &&HostKey| key.state == HostKeyState::Current && made.contains(&key.kind);
    for key in keys.iter().filter(is_new) {
        tracing::warn!(
            kind = key.kind,
            fingerprint = key.fingerprint,
            "made a host key, for there was none; clients that know another one will not connect"
        );
    }
    Ok(keys)
}

/// Whether the parts work that a message needs; each look also brings the gauges up to date.
fn ready(core: &Arc<Core>, front: &Arc<sftp_front::Server>) -> telemetry::Ready {
    let (core, front) = (Arc::clone(core), Arc::clone(front));
    Arc::new(move || {
        if !core.journal.is_writable() {
            return Err("database cannot be written; the log says why\n".to_owned());
        }
        rounds::refresh_gauges(&core, &front).map_err(|error| format!("database {error}\n"))?;
        core.storage.check_room().map_err(|error| format!("storage {error}\n"))?;
        Ok("database ok\nstorage ok\n".to_owned())
    })
}

/// Port 22 needs a privilege, and is often another's; without it the door is at 2022.
async fn bind_sftp(addresses: &[String]) -> Result<Vec<TcpListener>, StartError> {
    match (listen::bind(SFTP, addresses).await, without_22(addresses)) {
        (Err(why), Some(others)) => {
            tracing::warn!(%why, "sftp answers on port 2022 instead of 22");
            Ok(listen::bind(SFTP, &others).await?)
        }
        (bound, _) => Ok(bound?),
    }
}

/// Where SFTP answers if not all of these addresses are to be had, port 22 among them.
pub(super) fn without_22(addresses: &[String]) -> Option<Vec<String>> {
    let is_22 = |address: &String| address.ends_with(":22");
    let other = |address: &String| {
        let host = address.strip_suffix(":22");
        host.map_or_else(|| address.clone(), |host| format!("{host}:2022"))
    };
    addresses.iter().any(is_22).then(|| addresses.iter().map(other).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn what_the_command_line_gave_is_not_compared_and_what_the_environment_gave_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let config = |text: &str, variable: Option<(&str, &str)>| {
            std::fs::write(dir.path().join("as2gate.toml"), text).unwrap();
            let variables = variable.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
            Config::load_with(None, Some(dir.path()), variables).unwrap()
        };
        let options = ServeOptions {
            sftp: Some(vec!["127.0.0.1:0".to_owned()]),
            ..ServeOptions::default()
        };
        let started = Started::new(&config("retry.max_tries = 5\n", Some(("AS2GATE_SFTP__BANNER", "hello"))), &options);
        let later = "sftp.listen = [\"127.0.0.1:9\"]\nsftp.banner = \"bye\"\nas2.listen = [\"127.0.0.1:9\"]\n";
        let later = config(later, None);
        let changed: Vec<String> = started.changed(&later).iter().map(ToString::to_string).collect();
        let banner = "sftp.banner (AS2GATE_SFTP__BANNER is set for the server and not here)";
        assert_eq!(changed, [banner, "as2.listen", "retry.max_tries"]);
        assert!(started.is_of(&later));
        // A server of an older version left no such word.
        let old = serde_json::to_string(&Listening::default()).unwrap();
        assert!(serde_json::from_str::<Word>(&old).unwrap().started.is_none());
    }
}
