//! The configuration: one short TOML file, a default for every key, the environment above it (product.md §9).
//!
//! `keys.rs` is the table of keys, `values.rs` lays file and environment over the defaults, and `build.rs` makes of the values
//! what stands here and the rest of the program works with. Nothing else reads the file or its environment variables.

mod build;
pub mod keys;
mod log;
pub mod units;
pub mod values;

use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::words;

pub use log::log_filter;
pub use units::{nearest, parse_duration, parse_size, show_duration, show_size};
use values::{Source, Values};

/// Names the configuration file when no `-c` is given.
pub const CONFIG_VARIABLE: &str = "AS2GATE_CONFIG";
/// The file looked for in the working directory and in the data directory.
pub const CONFIG_FILE: &str = "as2gate.toml";
/// The file of a system-wide installation.
pub const SYSTEM_FILE: &str = "/etc/as2gate/as2gate.toml";
/// Largest file that a `file:` secret may name, in bytes.
const MAX_SECRET: u64 = 256 << 10;

/// Why the configuration cannot be used: what, why, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct ConfigError {
    /// What is wrong, with file and line or the variable's name.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do next.
    pub hint: String,
    /// This user lacks the rights; the configuration may be right.
    pub denied: bool,
}

impl ConfigError {
    pub(crate) fn new(what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        ConfigError {
            what: what.into(),
            why: why.into(),
            hint: hint.into(),
            denied: false,
        }
    }

    /// A file that cannot be read, or not even be looked for.
    fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
        let hint = if denied {
            "run it as the user to whom the configuration belongs: sudo -u NAME as2gate …"
        } else {
            "look at the path given with -c, and at the file's rights"
        };
        let what = format!("cannot read the configuration {}", file.display());
        ConfigError {
            denied,
            ..ConfigError::new(what, error.to_string(), hint)
        }
    }
}

words! {
    /// When a file name becomes free before its window ends.
    pub enum DuplicateRelease {
        /// Not before the window ends.
        Never = "never",
        /// When the partner surely does not hold the first one: it was never fully posted, or verifiably refused.
        ProvablyUndelivered = "provably-undelivered",
        /// When the first one failed for any reason.
        AnyFailure = "any-failure",
    }
}

words! {
    /// What a stranger is answered.
    pub enum UnknownPartner {
        /// 200 with an MDN that says so.
        Mdn = "mdn",
        /// The vendor's 422.
        Http422 = "http-422",
    }
}

words! {
    /// Which SSH algorithms are offered.
    pub enum Algorithms {
        /// What clients that are still cared for need.
        Modern = "modern",
        /// NIST curves, group 14 and SHA-1 as well, for old partners.
        Compatible = "compatible",
        /// Approved algorithms only.
        FipsLike = "fips-like",
    }
}

words! {
    /// Whether TLS clients show a certificate.
    pub enum ClientAuth {
        /// Not asked for.
        None = "none",
        /// Asked for.
        Optional = "optional",
        /// Insisted on.
        Required = "required",
    }
}

words! {
    /// How the three key stores are written.
    pub enum KeystoreFormat {
        /// PKCS#12 content, which Java reads under any name.
        Pkcs12 = "pkcs12",
        /// Java's own.
        Jks = "jks",
    }
}

words! {
    /// How log lines look.
    pub enum LogFormat {
        /// For people.
        Text = "text",
        /// For machines.
        Json = "json",
    }
}

/// A secret that lies outside of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// In an environment variable.
    Env(String),
    /// In a file.
    File(PathBuf),
}

impl std::fmt::Display for Secret {
    /// Where it lies, never what it is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Secret::Env(name) => write!(f, "the environment variable {name}"),
            Secret::File(path) => path.display().fmt(f),
        }
    }
}

impl Secret {
    /// Whether there is something at its place.
    #[must_use]
    pub fn is_there(&self) -> bool {
        match self {
            Secret::Env(name) => std::env::var_os(name).is_some(),
            Secret::File(path) => path.exists(),
        }
    }

    /// Reads `env:NAME` or `file:PATH`; the empty text is no secret. A relative path starts at `base`.
    ///
    /// # Errors
    /// The forms there are, when it is another.
    pub fn parse(text: &str, base: &Path) -> Result<Option<Self>, String> {
        match text.split_once(':') {
            _ if text.is_empty() => Ok(None),
            Some(("env", name)) if !name.is_empty() => Ok(Some(Secret::Env(name.to_owned()))),
            Some(("file", path)) if !path.is_empty() => Ok(Some(Secret::File(base.join(path)))),
            // The text itself is not repeated: somebody may have put the secret here.
            _ => Err("a secret does not stand here; write \"env:NAME\" or \"file:PATH\"".to_owned()),
        }
    }

    /// The secret's text, without white space around it; at most 256 KiB.
    ///
    /// # Errors
    /// When the variable is not set or the file cannot be read.
    pub fn read(&self) -> Result<Zeroizing<String>, String> {
        let text = match self {
            Secret::Env(name) => std::env::var(name)
                .map(Zeroizing::new)
                .map_err(|_| format!("the environment variable {name} is not set"))?,
            Secret::File(path) => {
                let cannot = |why: String| format!("cannot read {}: {why}", path.display());
                let size = std::fs::metadata(path).map_err(|error| cannot(error.to_string()))?.len();
                if size > MAX_SECRET {
                    return Err(cannot(format!("it is larger than {MAX_SECRET} bytes")));
                }
                std::fs::read_to_string(path)
                    .map(Zeroizing::new)
                    .map_err(|error| cannot(error.to_string()))?
            }
        };
        // Editors of Windows put a byte-order mark before a text.
        Ok(Zeroizing::new(text.trim_start_matches('\u{feff}').trim().to_owned()))
    }
}

/// `[sftp]`.
#[derive(Clone, Debug)]
pub struct Sftp {
    /// Addresses to listen on.
    pub listen: Vec<String>,
    /// Host name shown to users; empty means the host of `public_url`.
    pub host: String,
    /// Text sent before login.
    pub banner: String,
    /// Kinds of host keys: `ed25519`, `ecdsa`, `rsa`.
    pub host_keys: Vec<String>,
    /// Algorithms offered.
    pub algorithms: Algorithms,
    /// Connections in all.
    pub max_connections: u32,
    /// Connections of one address.
    pub max_connections_per_ip: u32,
    /// Connections that have not logged in.
    pub max_unauthenticated: u32,
    /// Channels of one connection.
    pub max_channels: u32,
    /// Failed tries of one connection.
    pub max_auth_tries: u32,
    /// Time until login, in all; never 0.
    pub login_grace: Duration,
    /// Time without traffic after which a session ends; 0 = never.
    pub idle_timeout: Duration,
    /// Time that open uploads get when the server stops.
    pub drain: Duration,
    /// Time without a word from a client after which it is asked whether it is there; 0 = never.
    pub keepalive: Duration,
    /// Bytes after which new keys are exchanged.
    pub rekey_bytes: u64,
    /// Time after which new keys are exchanged; 0 = never.
    pub rekey_time: Duration,
    /// Bytes of memory for the requests and answers of all connections.
    pub memory: u64,
    /// Addresses that may connect at all, single or as CIDR blocks; none means all.
    pub allowed_ips: Vec<String>,
    /// When an address is shut out.
    pub ban: Ban,
    /// Authorities whose certificates count for every user that they name.
    pub user_ca: Vec<keystore::ssh::PublicKey>,
    /// The list of keys and certificates that count no more.
    pub revoked_keys: Option<PathBuf>,
    /// Balancers that may send PROXY v2, as CIDR blocks.
    pub proxy_protocol_from: Vec<String>,
}

/// `sftp.ban`: after so many failures within a time, an address is refused for a time. No failures means never.
#[derive(Clone, Debug)]
pub struct Ban {
    /// Failed logins.
    pub failures: u32,
    /// Counted over this time.
    pub within: Duration,
    /// Shut out for this long.
    pub length: Duration,
    /// CIDR blocks that are never shut out.
    pub except: Vec<String>,
}

/// `[uploads]`.
#[derive(Clone, Debug)]
pub struct Uploads {
    /// Patterns of temporary names.
    pub temp_names: Vec<String>,
    /// A rename to a normal name completes an upload.
    pub rename_completes: bool,
    /// How long after the upload.
    pub rename_within: Duration,
    /// Delay before an accepted file is sent.
    pub release_after: Duration,
    /// How long a part may be resumed.
    pub keep_partial: Duration,
    /// How long a name stays taken.
    pub duplicate_window: Duration,
    /// When it becomes free earlier.
    pub duplicate_release: DuplicateRelease,
    /// Largest upload in bytes.
    pub max_file: u64,
}

/// `[as2]`.
#[derive(Clone, Debug)]
pub struct As2 {
    /// Addresses to listen on.
    pub listen: Vec<String>,
    /// Path announced for messages.
    pub path: String,
    /// Path announced for async MDNs; empty means that of messages.
    pub mdn_path: String,
    /// Largest message in bytes.
    pub max_message: u64,
    /// How long a body that broke off is kept for its sender to go on with.
    pub keep_partial: Duration,
    /// Bytes of such bodies that are kept for one pair; 0 keeps none.
    pub partial_quota: u64,
    /// Connections of one address.
    pub max_connections_per_ip: u32,
    /// Balancers, whose connections begin with a PROXY header (version 2), as CIDR blocks.
    pub proxy_protocol_from: Vec<String>,
    /// What a stranger is answered.
    pub unknown_partner: UnknownPartner,
    /// Messages posted side by side; checks and async MDNs have slots of their own. One that waits for its answer costs about
    /// 1 MiB and a slot, so there are many: some partners that do not answer must not hold up all others.
    pub send_workers: u32,
    /// Time to connect to a partner.
    pub connect_timeout: Duration,
    /// Time for a partner's answer.
    pub response_timeout: Duration,
    /// The TLS listener.
    pub tls: Tls,
}

/// `[as2.tls]`.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Addresses to listen on; none means off.
    pub listen: Vec<String>,
    /// Certificate chain in PEM.
    pub cert: Option<Secret>,
    /// Private key in PEM.
    pub key: Option<Secret>,
    /// Whether clients show a certificate.
    pub client_auth: ClientAuth,
}

/// `[retry]`.
#[derive(Clone, Debug)]
pub struct Retry {
    /// First wait.
    pub initial: Duration,
    /// By which each wait grows.
    pub factor: f64,
    /// Longest wait.
    pub max_wait: Duration,
    /// Tries in all.
    pub max_tries: u32,
    /// Time in all.
    pub max_time: Duration,
    /// Share of the wait that is random.
    pub jitter: f64,
    /// How long an async MDN may take.
    pub mdn_wait: Duration,
    /// How often the same bytes are posted again for want of it.
    pub mdn_tries: u32,
}

/// `[storage]`.
#[derive(Clone, Debug)]
pub struct StorageSettings {
    /// Bytes that stay free.
    pub min_free: u64,
}

/// How long something stays in each stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stages {
    /// In view.
    pub current: Duration,
    /// Out of view, restorable.
    pub noncurrent: Duration,
}

/// `[lifecycle]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    /// `files`, `raw-message`, `raw-mdn`, `headers`.
    pub messages: Stages,
    /// `duplicate`.
    pub duplicate: Stages,
    /// `tmp`.
    pub tmp: Stages,
    /// How long a message that ended is known: its row, its Message-ID, its events. Never shorter than its files are kept.
    pub history: Duration,
    /// When the daily sweep runs: time since midnight UTC.
    pub run_at: Duration,
}

impl Lifecycle {
    /// The life cycle of an account: the server's with the account's own `lifecycle` table over it.
    ///
    /// # Errors
    /// The first key or value of that table that is wrong.
    pub fn with(&self, own: Option<&toml::Table>) -> Result<Lifecycle, String> {
        let mut merged = self.clone();
        for (area, value) in own.into_iter().flatten() {
            let stages = match area.as_str() {
                "messages" => &mut merged.messages,
                "duplicate" => &mut merged.duplicate,
                "tmp" => &mut merged.tmp,
                "history" => {
                    merged.history = own_span("lifecycle.history", value)?;
                    continue;
                }
                other => return Err(format!("lifecycle.{other} is not one of: messages, duplicate, tmp, history")),
            };
            let Some(table) = value.as_table() else {
                return Err(format!(
                    "lifecycle.{area} has to look like {{ current = \"35d\", noncurrent = \"35d\" }}"
                ));
            };
            for (stage, value) in table {
                let span = own_span(&format!("lifecycle.{area}.{stage}"), value)?;
                match stage.as_str() {
                    "current" => stages.current = span,
                    "noncurrent" => stages.noncurrent = span,
                    other => return Err(format!("lifecycle.{area}.{other} is not one of: current, noncurrent")),
                }
            }
        }
        Ok(merged)
    }
}

/// An account's own duration in the place of the server's key, which says how short it may be.
fn own_span(path: &str, value: &toml::Value) -> Result<Duration, String> {
    let days = match keys::find(path).map(|key| key.kind) {
        Some(keys::Kind::SpanFrom(days)) => days,
        _ => 0,
    };
    let span = text(value).and_then(|text| units::parse_duration_from(days, text));
    span.map_err(|why| format!("{path}: {why}"))
}

/// The text of a duration.
fn text(value: &toml::Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| "a duration has to be a text like \"35d\"".to_owned())
}

/// `[telemetry]`.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// Address of `/metrics`, `/healthz`, `/readyz`; empty means off.
    pub listen: String,
    /// What is logged, e.g. `info,sftp=debug`; areas are `as2` and `sftp`.
    pub log: String,
    /// How lines look.
    pub log_format: LogFormat,
}

/// Where things lie below the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The data directory.
    pub data: PathBuf,
    /// The journal.
    pub db: PathBuf,
    /// The master key's file.
    pub master_key: PathBuf,
    /// Held by the one server of this directory.
    pub lock: PathBuf,
    /// Writes in progress.
    pub spool: PathBuf,
    /// Staged contents.
    pub store: PathBuf,
    /// What an administrator reads.
    pub tree: PathBuf,
    /// Out of view.
    pub noncurrent: PathBuf,
    /// The accounts' key stores.
    pub keystore: PathBuf,
    /// The server's SSH keys.
    pub host_keys: PathBuf,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file they were read from, if there is one.
    pub file: Option<PathBuf>,
    /// Where everything lies.
    pub data_dir: PathBuf,
    /// Base of our AS2 URLs; empty if not set.
    pub public_url: String,
    /// Seals everything secret.
    pub master_key: Secret,
    /// `[sftp]`.
    pub sftp: Sftp,
    /// `[uploads]`.
    pub uploads: Uploads,
    /// `[as2]`.
    pub as2: As2,
    /// `[retry]`.
    pub retry: Retry,
    /// `keystore.format`.
    pub keystore_format: KeystoreFormat,
    /// The journal's file, from `database.url`.
    pub database: PathBuf,
    /// `[storage]`.
    pub storage: StorageSettings,
    /// `[lifecycle]`.
    pub lifecycle: Lifecycle,
    /// `[telemetry]`.
    pub telemetry: Telemetry,
    /// Every value with its source, for `check --effective`.
    pub values: Values,
}

impl Default for Config {
    /// Every default; the data directory is the system's.
    fn default() -> Self {
        let values = Values::defaults();
        let data = PathBuf::from(values.text("data_dir"));
        Config::build(values, None, data).unwrap_or_else(|error| unreachable!("a default is wrong: {error}"))
    }
}

impl Config {
    /// Reads the configuration: `path`, else `AS2GATE_CONFIG`, else `./as2gate.toml`, else the system's file, else
    /// defaults only. With a data directory and no path, only that directory's own `as2gate.toml` counts.
    ///
    /// # Errors
    /// An unreadable file, an unknown key (with the nearest known one), or a value that cannot be used.
    pub fn load(path: Option<&Path>, data_dir: Option<&Path>) -> Result<Config, ConfigError> {
        Self::load_with(
            path,
            data_dir,
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
        )
    }

    /// The same with the environment given.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with(
        path: Option<&Path>,
        data_dir: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let file = Self::locate(path, data_dir)?;
        let mut values = Values::defaults();
        if let Some(file) = &file {
            let text = std::fs::read_to_string(file).map_err(|error| ConfigError::unreadable(file, &error))?;
            values.lay_file(file, &text)?;
        }
        values.lay_env(variables)?;
        if let Some(dir) = data_dir {
            values.lay_flag("data_dir", toml::Value::String(dir.to_string_lossy().into_owned()), "--data-dir")?;
        }
        // A path in the file starts at the file, one from the environment or the command line where we are.
        let base = match (values.source("data_dir"), &file) {
            (Source::File(_), Some(file)) => file.parent().map(Path::to_owned).unwrap_or_default(),
            _ => PathBuf::new(),
        };
        let data = base.join(values.text("data_dir"));
        Config::build(values, file, data)
    }

    /// The file that `load` would read.
    ///
    /// # Errors
    /// When a file that was named is not there, or one may be where this user must not look.
    pub fn locate(path: Option<&Path>, data_dir: Option<&Path>) -> Result<Option<PathBuf>, ConfigError> {
        let named = path.map(Path::to_owned);
        let named = match data_dir {
            Some(_) => named,
            None => named.or_else(|| {
                std::env::var_os(CONFIG_VARIABLE)
                    .filter(|value| !value.is_empty())
                    .map(PathBuf::from)
            }),
        };
        if let Some(file) = named {
            if is_there(&file)? {
                return Ok(Some(file));
            }
            let what = format!("there is no configuration {}", file.display());
            return Err(ConfigError::new(
                what,
                "it was named with -c or AS2GATE_CONFIG",
                "`as2gate init` writes one",
            ));
        }
        let first = data_dir.map_or_else(|| PathBuf::from(CONFIG_FILE), |dir| dir.join(CONFIG_FILE));
        // By `sudo -u`, commands are run from directories of others that nobody meant.
        let is_closed = || data_dir.is_none() && first.symlink_metadata().is_err();
        if !is_closed() && is_there(&first)? {
            return Ok(Some(first));
        }
        let system = data_dir.is_none().then(|| PathBuf::from(SYSTEM_FILE));
        match system {
            Some(file) if is_there(&file)? => Ok(Some(file)),
            _ => Ok(None),
        }
    }

    /// Where things lie.
    #[must_use]
    pub fn paths(&self) -> Paths {
        let below = |name: &str| self.data_dir.join(name);
        Paths {
            data: self.data_dir.clone(),
            db: self.database.clone(),
            master_key: match &self.master_key {
                Secret::File(path) => path.clone(),
                Secret::Env(_) => below("master.key"),
            },
            lock: below("lock"),
            spool: below("spool"),
            store: below("store"),
            tree: below("tree"),
            noncurrent: below("noncurrent"),
            keystore: below("keystore"),
            host_keys: below("host-keys"),
        }
    }

    /// What the configuration names by key that lies beside all that is the data directory's own, and so in no backup.
    #[must_use]
    pub fn beside(&self) -> Vec<(&'static str, Secret)> {
        let here = self.file.as_deref().and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
        let authorities = self.values.texts("sftp.user_ca");
        let authorities = authorities.iter().filter_map(|entry| entry.strip_prefix("file:"));
        let tls = [("as2.tls.cert", &self.as2.tls.cert), ("as2.tls.key", &self.as2.tls.key)];
        let tls = tls.into_iter().filter_map(|(key, secret)| Some((key, secret.clone()?)));
        tls.chain(self.sftp.revoked_keys.clone().map(|file| ("sftp.revoked_keys", Secret::File(file))))
            .chain(authorities.map(|file| ("sftp.user_ca", Secret::File(here.join(file)))))
            .collect()
    }

    /// The key that seals every other secret, from its file (mode 0600) or its environment variable (64 hex digits).
    ///
    /// # Errors
    /// When it cannot be read or is not one.
    pub fn load_master_key(&self) -> Result<keystore::MasterKey, String> {
        match &self.master_key {
            Secret::File(path) => keystore::MasterKey::load(path).map_err(|error| error.to_string()),
            secret @ Secret::Env(name) => {
                let text = secret.read()?;
                keystore::MasterKey::from_hex(&text).ok_or_else(|| format!("the environment variable {name} is not 64 hexadecimal digits"))
            }
        }
    }
}

/// Whether there is a configuration at this path. Where that cannot be told, defaults must not stand in for it.
fn is_there(file: &Path) -> Result<bool, ConfigError> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match file.metadata() {
        Ok(found) => Ok(found.is_file()),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(false),
        Err(error) => Err(ConfigError::unreadable(file, &error)),
    }
}

#[cfg(test)]
mod tests;
