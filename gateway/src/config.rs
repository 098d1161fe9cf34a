//! The configuration: one short TOML file, a default for every key, the environment above it (product.md §9).
//!
//! `keys.rs` is the table of keys, `values.rs` lays file and environment over the defaults, and here the values become
//! what the rest of the program works with. Nothing else reads the file or its environment variables.

pub mod keys;
pub mod units;
pub mod values;

use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::words;

pub use units::{nearest, parse_duration, parse_size, show_duration};
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
}

impl ConfigError {
    pub(crate) fn new(what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        ConfigError {
            what: what.into(),
            why: why.into(),
            hint: hint.into(),
        }
    }
}

words! {
    /// When a file name becomes free before its window ends.
    pub enum DuplicateRelease {
        /// Not before the window ends.
        Never = "never",
        /// When the first one was never fully posted, cancelled, or verifiably refused.
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

impl Secret {
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
        Ok(Zeroizing::new(text.trim().to_owned()))
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
    /// Time until login, in all.
    pub login_grace: Duration,
    /// Time without traffic.
    pub idle_timeout: Duration,
    /// Time that open uploads get when the server stops.
    pub drain: Duration,
    /// Time without a word from a client after which it is asked whether it is there; 0 = never.
    pub keepalive: Duration,
    /// Bytes after which new keys are exchanged.
    pub rekey_bytes: u64,
    /// Time after which new keys are exchanged.
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
    /// Path announced for async MDNs.
    pub mdn_path: String,
    /// Largest message in bytes.
    pub max_message: u64,
    /// How long a body that broke off is kept for its sender to go on with.
    pub keep_partial: Duration,
    /// Bytes of such bodies that are kept for one pair; 0 keeps none.
    pub partial_quota: u64,
    /// Connections of one address.
    pub max_connections_per_ip: u32,
    /// What a stranger is answered.
    pub unknown_partner: UnknownPartner,
    /// Messages worked on side by side.
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
                other => return Err(format!("lifecycle.{other} is not one of: messages, duplicate, tmp")),
            };
            let Some(table) = value.as_table() else {
                return Err(format!(
                    "lifecycle.{area} has to look like {{ current = \"35d\", noncurrent = \"35d\" }}"
                ));
            };
            for (stage, value) in table {
                let span = value
                    .as_str()
                    .ok_or_else(|| "a duration has to be a text like \"35d\"".to_owned())
                    .and_then(parse_duration);
                let span = span.map_err(|why| format!("lifecycle.{area}.{stage}: {why}"))?;
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

/// `[telemetry]`.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// Address of `/metrics`, `/healthz`, `/readyz`; empty means off.
    pub listen: String,
    /// What is logged, e.g. `info,sftp=debug`.
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
            let text = std::fs::read_to_string(file).map_err(|error| {
                let what = format!("cannot read the configuration {}", file.display());
                ConfigError::new(what, error.to_string(), "look at the path given with -c, and at the file's rights")
            })?;
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
    /// When a file that was named is not there.
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
            if file.is_file() {
                return Ok(Some(file));
            }
            let what = format!("there is no configuration {}", file.display());
            return Err(ConfigError::new(
                what,
                "it was named with -c or AS2GATE_CONFIG",
                "`as2gate init -c FILE` writes one",
            ));
        }
        let candidates = match data_dir {
            Some(dir) => vec![dir.join(CONFIG_FILE)],
            None => vec![PathBuf::from(CONFIG_FILE), PathBuf::from(SYSTEM_FILE)],
        };
        Ok(candidates.into_iter().find(|file| file.is_file()))
    }

    fn build(values: Values, file: Option<PathBuf>, data_dir: PathBuf) -> Result<Config, ConfigError> {
        let beside = file.as_deref().and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
        let wrong =
            |key: &str, why: String, hint: &str| ConfigError::new(format!("{key} ({}) cannot be used", values.source(key)), why, hint);
        let secret = |key: &str, base: &Path| {
            Secret::parse(&values.text(key), base).map_err(|why| wrong(key, why, "see `as2gate check --effective`"))
        };
        let master_key = secret("master_key", &data_dir)?.unwrap_or_else(|| Secret::File(data_dir.join("master.key")));
        let database = match values.text("database.url").strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() => data_dir.join(path),
            _ => {
                return Err(wrong(
                    "database.url",
                    "only sqlite: is known".to_owned(),
                    "write \"sqlite:db/as2gate.db\"",
                ));
            }
        };
        let public_url = values.text("public_url").trim_end_matches('/').to_owned();
        let usable = public_url.is_empty() || ["http://", "https://"].iter().any(|scheme| public_url.starts_with(scheme));
        if !usable {
            let why = format!("`{}` does not begin with http:// or https://", public_url.escape_default());
            return Err(wrong(
                "public_url",
                why,
                "give the base of your AS2 URL, e.g. \"https://as2.example.com\"",
            ));
        }
        for key in ["as2.path", "as2.mdn_path"] {
            let path = values.text(key);
            if !path.starts_with('/') || path.bytes().any(|b| !b.is_ascii_graphic() || matches!(b, b'?' | b'#')) {
                return Err(wrong(
                    key,
                    format!("`{}` is not the path of a URL", path.escape_default()),
                    "write it like \"/as2\"",
                ));
            }
        }
        let tls = Tls {
            listen: values.texts("as2.tls.listen"),
            cert: secret("as2.tls.cert", &beside)?,
            key: secret("as2.tls.key", &beside)?,
            client_auth: values.word("as2.tls.client_auth", ClientAuth::None),
        };
        if !tls.listen.is_empty() && (tls.cert.is_none() || tls.key.is_none()) {
            let hint = "set as2.tls.cert and as2.tls.key to \"file:PATH\", or as2.tls.listen to []";
            return Err(wrong(
                "as2.tls.listen",
                "a TLS listener needs a certificate and a key".to_owned(),
                hint,
            ));
        }
        if values.texts("sftp.host_keys").is_empty() {
            return Err(wrong(
                "sftp.host_keys",
                "a server without a host key answers nobody".to_owned(),
                "write [\"ed25519\", \"ecdsa\", \"rsa\"]",
            ));
        }
        let user_ca = authorities(&values.texts("sftp.user_ca"), &beside)
            .map_err(|why| wrong("sftp.user_ca", why, "write public keys, or file:PATH of a file with such lines"))?;
        let revoked_keys = Some(values.text("sftp.revoked_keys"))
            .filter(|file| !file.is_empty())
            .map(|file| beside.join(file));
        for (key, example) in [
            (
                "sftp.proxy_protocol_from",
                "write the balancers' addresses, such as [\"192.0.2.0/24\"]",
            ),
            ("sftp.allowed_ips", "write the clients' addresses, such as [\"192.0.2.0/24\"]"),
        ] {
            if let Some(block) = values.texts(key).iter().find(|block| !is_block(block)) {
                return Err(wrong(
                    key,
                    format!("`{}` is not an address or block", block.escape_default()),
                    example,
                ));
            }
        }
        let rekey = values.size("sftp.rekey_bytes");
        if !(1 << 20..=1 << 30).contains(&rekey) {
            return Err(wrong(
                "sftp.rekey_bytes",
                format!("{rekey} bytes between two key exchanges"),
                "write a size from 1MiB to 1GiB",
            ));
        }
        let stages = |area: &str| Stages {
            current: values.span(&format!("lifecycle.{area}.current")),
            noncurrent: values.span(&format!("lifecycle.{area}.noncurrent")),
        };
        Ok(Config {
            public_url,
            master_key,
            sftp: Sftp {
                listen: values.texts("sftp.listen"),
                host: values.text("sftp.host"),
                banner: values.text("sftp.banner"),
                host_keys: values.texts("sftp.host_keys"),
                algorithms: values.word("sftp.algorithms", Algorithms::Modern),
                max_connections: values.number("sftp.max_connections"),
                max_connections_per_ip: values.number("sftp.max_connections_per_ip"),
                max_unauthenticated: values.number("sftp.max_unauthenticated"),
                max_channels: values.number("sftp.max_channels"),
                max_auth_tries: values.number("sftp.max_auth_tries"),
                login_grace: values.span("sftp.login_grace"),
                idle_timeout: values.span("sftp.idle_timeout"),
                drain: values.span("sftp.drain"),
                keepalive: values.span("sftp.keepalive"),
                rekey_bytes: values.size("sftp.rekey_bytes"),
                rekey_time: values.span("sftp.rekey_time"),
                memory: values.size("sftp.memory"),
                allowed_ips: values.texts("sftp.allowed_ips"),
                ban: Ban {
                    failures: values.number("sftp.ban.failures"),
                    within: values.span("sftp.ban.within"),
                    length: values.span("sftp.ban.for"),
                },
                user_ca,
                revoked_keys,
                proxy_protocol_from: values.texts("sftp.proxy_protocol_from"),
            },
            uploads: Uploads {
                temp_names: values.texts("uploads.temp_names"),
                rename_completes: values.switch("uploads.rename_completes"),
                rename_within: values.span("uploads.rename_within"),
                release_after: values.span("uploads.release_after"),
                keep_partial: values.span("uploads.keep_partial"),
                duplicate_window: values.span("uploads.duplicate_window"),
                duplicate_release: values.word("uploads.duplicate_release", DuplicateRelease::ProvablyUndelivered),
                max_file: values.size("uploads.max_file"),
            },
            as2: As2 {
                listen: values.texts("as2.listen"),
                path: values.text("as2.path"),
                mdn_path: values.text("as2.mdn_path"),
                max_message: values.size("as2.max_message"),
                keep_partial: values.span("as2.keep_partial"),
                partial_quota: values.size("as2.partial_quota"),
                max_connections_per_ip: values.number("as2.max_connections_per_ip"),
                unknown_partner: values.word("as2.unknown_partner", UnknownPartner::Mdn),
                send_workers: values.number("as2.send_workers"),
                connect_timeout: values.span("as2.connect_timeout"),
                response_timeout: values.span("as2.response_timeout"),
                tls,
            },
            retry: Retry {
                initial: values.span("retry.initial"),
                factor: values.fraction("retry.factor"),
                max_wait: values.span("retry.max_wait"),
                max_tries: values.number("retry.max_tries"),
                max_time: values.span("retry.max_time"),
                jitter: values.fraction("retry.jitter"),
                mdn_wait: values.span("retry.mdn_wait"),
                mdn_tries: values.number("retry.mdn_tries"),
            },
            keystore_format: values.word("keystore.format", KeystoreFormat::Pkcs12),
            storage: StorageSettings {
                min_free: values.size("storage.min_free"),
            },
            lifecycle: Lifecycle {
                messages: stages("messages"),
                duplicate: stages("duplicate"),
                tmp: stages("tmp"),
                run_at: values::parse_time_of_day(&values.text("lifecycle.run_at")).unwrap_or_default(),
            },
            telemetry: Telemetry {
                listen: values.text("telemetry.listen"),
                log: values.text("telemetry.log"),
                log_format: values.word("telemetry.log_format", LogFormat::Text),
            },
            database,
            data_dir,
            file,
            values,
        })
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

/// Whether this is an address or a block like `192.0.2.0/24`.
fn is_block(text: &str) -> bool {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<std::net::IpAddr>() else {
        return false;
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    bits.is_none_or(|bits| bits.parse::<u8>().is_ok_and(|bits| bits <= most))
}

/// The keys of `sftp.user_ca`: public keys, with options if need be, or files of such lines.
fn authorities(entries: &[String], beside: &Path) -> Result<Vec<keystore::ssh::PublicKey>, String> {
    let mut all = Vec::new();
    for entry in entries {
        let text = match entry.strip_prefix("file:") {
            Some(file) => std::fs::read_to_string(beside.join(file)).map_err(|error| format!("{file}: {error}"))?,
            None => entry.clone(),
        };
        all.extend(keystore::ssh::parse_public(&text).map_err(|error| error.to_string())?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(CONFIG_FILE);
        std::fs::write(&file, text).unwrap();
        Config::load_with(Some(&file), None, env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn every_key_has_the_default_of_the_reference() {
        let config = Config::default();
        assert_eq!(config.data_dir, Path::new("/var/lib/as2gate"));
        assert_eq!(config.paths().db, Path::new("/var/lib/as2gate/db/as2gate.db"));
        assert_eq!(config.paths().master_key, Path::new("/var/lib/as2gate/master.key"));
        assert_eq!(config.as2.listen, ["0.0.0.0:8080"]);
        assert_eq!(config.as2.response_timeout, Duration::from_secs(300));
        assert_eq!(config.as2.max_message, 100 << 30);
        assert_eq!((config.as2.keep_partial.as_secs(), config.as2.partial_quota), (86_400, 10 << 30));
        assert_eq!(config.uploads.duplicate_window, Duration::from_secs(21_600));
        assert_eq!(config.uploads.temp_names.len(), 8);
        assert_eq!(config.lifecycle.messages.noncurrent, Duration::from_secs(35 * 86_400));
        assert_eq!(config.lifecycle.run_at, Duration::from_secs(600));
        assert_eq!((config.retry.factor, config.retry.jitter, config.retry.max_tries), (2.0, 0.2, 10));
        assert_eq!(config.storage.min_free, 1 << 30);
        assert_eq!(config.sftp.ban.length, Duration::from_secs(1800));
        assert_eq!(config.values.all().count(), keys::KEYS.len());
    }

    #[test]
    fn the_file_overrides_defaults_and_the_environment_the_file() {
        let text = "data_dir = \"data\"\n[sftp]\nban = { failures = 3 }\n[retry]\ninitial = \"1s\"\nfactor = 3\n";
        let env = [
            ("AS2GATE_RETRY__INITIAL", "5s"),
            ("AS2GATE_AS2__LISTEN", "127.0.0.1:0"),
            ("AS2GATE_ACCOUNT", "acme"),
            ("AS2GATE_SFTP__BAN__WITHIN", "\"1m\""),
        ];
        let config = load(text, &env).unwrap();
        assert_eq!(config.retry.initial, Duration::from_secs(5));
        assert_eq!(config.retry.factor, 3.0);
        assert_eq!(config.sftp.ban.failures, 3);
        assert_eq!(config.sftp.ban.within, Duration::from_secs(60));
        assert_eq!(config.as2.listen, ["127.0.0.1:0"]);
        assert!(
            config.data_dir.ends_with("data") && config.data_dir.is_absolute(),
            "a path in the file starts at the file"
        );
        let (_, setting) = config.values.all().find(|(key, _)| key.path == "sftp.ban.failures").unwrap();
        assert_eq!(setting.source, Source::File(3));
    }

    #[test]
    fn unknown_keys_name_line_and_nearest_key() {
        let error = load("\n[sftp]\nlisen = [\"0.0.0.0:22\"]\n", &[]).unwrap_err();
        assert!(error.what.contains("line 3: unknown key `sftp.lisen`"), "{error}");
        assert!(error.hint.contains("sftp.listen"), "{}", error.hint);
        let error = load("listen = \"x\"\n", &[]).unwrap_err();
        assert!(error.hint.contains("sftp.listen"), "{}", error.hint);
        let error = load("", &[("AS2GATE_SFTP__LISEN", "x")]).unwrap_err();
        assert!(error.what.contains("AS2GATE_SFTP__LISEN"), "{error}");
        assert!(
            load("[console]\nlisten = \"127.0.0.1:9080\"\n", &[]).is_err(),
            "later keys are unknown today"
        );
    }

    #[test]
    fn wrong_values_are_named() {
        for (text, why) in [
            ("retry.initial = \"5x\"", "duration"),
            ("retry.max_tries = 0", "from 1"),
            ("sftp.algorithms = \"old\"", "one of"),
            ("sftp.proxy_protocol_from = [\"10.0.0.0/33\"]", "block"),
            ("sftp.allowed_ips = [\"10.0.0.300\"]", "block"),
            ("sftp.rekey_bytes = \"2GiB\"", "key exchanges"),
            ("sftp.listen = [\"22\"]", "address"),
            ("as2.tls.listen = [\"0.0.0.0:443\"]", "certificate"),
            ("as2.tls.key = \"-----BEGIN\"", "env:NAME"),
            ("public_url = \"as2.example.com\"", "http://"),
            ("data_dir = 5", "quotes"),
            ("database.url = \"postgres://x\"", "sqlite"),
            ("lifecycle.run_at = \"24:00\"", "time of day"),
            ("sftp = 1", "keys"),
        ] {
            let error = load(text, &[]).unwrap_err();
            assert!(error.why.contains(why), "{text}: {error:?}");
        }
        assert!(load("data_dir = ", &[]).unwrap_err().what.contains("line 1"));
    }

    #[test]
    fn an_account_may_keep_records_for_another_time() {
        let own: toml::Table = "messages = { current = \"90d\" }".parse().unwrap();
        let merged = Config::default().lifecycle.with(Some(&own)).unwrap();
        assert_eq!(merged.messages.current, Duration::from_secs(90 * 86_400));
        assert_eq!(merged.messages.noncurrent, Duration::from_secs(35 * 86_400));
        assert!(Config::default().lifecycle.with(Some(&"file = 1".parse().unwrap())).is_err());
    }
}
