//! From values to settings: one function for each section, and the rules that a value alone cannot keep.

use std::path::{Path, PathBuf};

use super::values::{self, Values};
use super::{
    Algorithms, As2, Ban, ClientAuth, Config, ConfigError, DuplicateRelease, KeystoreFormat, Lifecycle, LogFormat, Retry, Secret, Sftp,
    Stages, StorageSettings, Telemetry, Tls, UnknownPartner, Uploads, log_filter,
};
use crate::block;
use crate::url::Url;

/// Bytes between two key exchanges that may be set.
const REKEY_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 30;

impl Config {
    pub(super) fn build(values: Values, file: Option<PathBuf>, data_dir: PathBuf) -> Result<Config, ConfigError> {
        let beside = file.as_deref().and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
        let maker = Maker {
            values: &values,
            beside: &beside,
        };
        Ok(Config {
            public_url: maker.public_url()?,
            master_key: maker
                .secret("master_key", &data_dir)?
                .unwrap_or_else(|| Secret::File(data_dir.join("master.key"))),
            sftp: maker.sftp()?,
            uploads: maker.uploads(),
            as2: maker.as2()?,
            retry: maker.retry(),
            keystore_format: values.word("keystore.format", KeystoreFormat::Pkcs12),
            storage: StorageSettings {
                min_free: values.size("storage.min_free"),
            },
            lifecycle: maker.lifecycle(),
            telemetry: Telemetry {
                listen: values.text("telemetry.listen"),
                log: maker.log()?,
                log_format: values.word("telemetry.log_format", LogFormat::Text),
            },
            database: maker.database(&data_dir)?,
            data_dir,
            file,
            values,
        })
    }
}

/// What settings are made of.
struct Maker<'a> {
    values: &'a Values,
    /// Where the file is: relative paths start there.
    beside: &'a Path,
}

impl Maker<'_> {
    fn wrong(&self, key: &str, why: impl Into<String>, hint: &str) -> ConfigError {
        ConfigError::new(format!("{key} ({}) cannot be used", self.values.source(key)), why, hint)
    }

    fn secret(&self, key: &str, base: &Path) -> Result<Option<Secret>, ConfigError> {
        Secret::parse(&self.values.text(key), base).map_err(|why| self.wrong(key, why, "see `as2gate check --effective`"))
    }

    fn database(&self, data_dir: &Path) -> Result<PathBuf, ConfigError> {
        match self.values.text("database.url").strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() => Ok(data_dir.join(path)),
            _ => Err(self.wrong("database.url", "only sqlite: is known", "write \"sqlite:db/as2gate.db\"")),
        }
    }

    fn public_url(&self) -> Result<String, ConfigError> {
        /// Longest host: a Message-ID has 255 characters, its own part among them.
        const MAX_HOST: usize = 200;
        let url = self.values.text("public_url").trim_end_matches('/').to_owned();
        let why = match Url::parse(&url) {
            _ if url.is_empty() => return Ok(url),
            Err(why) => why,
            Ok(_) if url.contains(['?', '#']) => "has a query or a fragment, and as2.path comes behind it".to_owned(),
            Ok(read) if read.host().len() > MAX_HOST => format!("has a host of more than {MAX_HOST} characters"),
            Ok(_) => return Ok(url),
        };
        let hint = "give the base of your AS2 URL, e.g. \"https://as2.example.com\"";
        Err(self.wrong("public_url", format!("`{}` {why}", url.escape_default()), hint))
    }

    fn sftp(&self) -> Result<Sftp, ConfigError> {
        let values = self.values;
        if values.texts("sftp.host_keys").is_empty() {
            let why = "a server without a host key answers nobody";
            return Err(self.wrong("sftp.host_keys", why, "write [\"ed25519\", \"ecdsa\", \"rsa\"]"));
        }
        let user_ca = authorities(&values.texts("sftp.user_ca"), self.beside).map_err(|why| {
            let hint = "write public keys, or file:PATH of a file with such lines, which no backup has";
            self.wrong("sftp.user_ca", why, hint)
        })?;
        let revoked_keys = Some(values.text("sftp.revoked_keys")).filter(|file| !file.is_empty());
        Ok(Sftp {
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
            rekey_bytes: self.rekey_bytes()?,
            rekey_time: values.span("sftp.rekey_time"),
            memory: values.size("sftp.memory"),
            allowed_ips: self.blocks("sftp.allowed_ips", "clients'")?,
            ban: Ban {
                failures: values.number("sftp.ban.failures"),
                within: values.span("sftp.ban.within"),
                length: values.span("sftp.ban.for"),
                except: self.blocks("sftp.ban.except", "clients'")?,
            },
            user_ca,
            revoked_keys: revoked_keys.map(|file| self.beside.join(file)),
            proxy_protocol_from: self.blocks("sftp.proxy_protocol_from", "balancers'")?,
        })
    }

    fn rekey_bytes(&self) -> Result<u64, ConfigError> {
        let bytes = self.values.size("sftp.rekey_bytes");
        if REKEY_BYTES.contains(&bytes) {
            return Ok(bytes);
        }
        let why = format!("{bytes} bytes between two key exchanges");
        Err(self.wrong("sftp.rekey_bytes", why, "write a size from 1MiB to 1GiB"))
    }

    /// Addresses and blocks of them.
    fn blocks(&self, key: &str, whose: &str) -> Result<Vec<String>, ConfigError> {
        let blocks = self.values.texts(key);
        match blocks.iter().find(|block| !block::is_block(block)) {
            None => Ok(blocks),
            Some(block) => {
                let why = format!("`{}` is not an address or block", block.escape_default());
                Err(self.wrong(key, why, &format!("write the {whose} addresses, such as [\"192.0.2.0/24\"]")))
            }
        }
    }

    fn uploads(&self) -> Uploads {
        let values = self.values;
        Uploads {
            temp_names: values.texts("uploads.temp_names"),
            rename_completes: values.switch("uploads.rename_completes"),
            rename_within: values.span("uploads.rename_within"),
            release_after: values.span("uploads.release_after"),
            keep_partial: values.span("uploads.keep_partial"),
            duplicate_window: values.span("uploads.duplicate_window"),
            duplicate_release: values.word("uploads.duplicate_release", DuplicateRelease::ProvablyUndelivered),
            max_file: values.size("uploads.max_file"),
        }
    }

    fn as2(&self) -> Result<As2, ConfigError> {
        let values = self.values;
        Ok(As2 {
            listen: values.texts("as2.listen"),
            path: self.url_path("as2.path")?,
            mdn_path: match self.values.text("as2.mdn_path") {
                none if none.is_empty() => none,
                _ => self.url_path("as2.mdn_path")?,
            },
            max_message: values.size("as2.max_message"),
            keep_partial: values.span("as2.keep_partial"),
            partial_quota: values.size("as2.partial_quota"),
            max_connections_per_ip: values.number("as2.max_connections_per_ip"),
            proxy_protocol_from: self.blocks("as2.proxy_protocol_from", "balancers'")?,
            unknown_partner: values.word("as2.unknown_partner", UnknownPartner::Mdn),
            send_workers: values.number("as2.send_workers"),
            connect_timeout: values.span("as2.connect_timeout"),
            response_timeout: values.span("as2.response_timeout"),
            tls: self.tls()?,
        })
    }

    fn url_path(&self, key: &str) -> Result<String, ConfigError> {
        let path = self.values.text(key);
        if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#')) {
            return Ok(path);
        }
        let why = format!("`{}` is not the path of a URL", path.escape_default());
        Err(self.wrong(key, why, "write it like \"/as2\""))
    }

    fn tls(&self) -> Result<Tls, ConfigError> {
        let tls = Tls {
            listen: self.values.texts("as2.tls.listen"),
            cert: self.secret("as2.tls.cert", self.beside)?,
            key: self.secret("as2.tls.key", self.beside)?,
            client_auth: self.values.word("as2.tls.client_auth", ClientAuth::None),
        };
        if tls.listen.is_empty() || (tls.cert.is_some() && tls.key.is_some()) {
            return Ok(tls);
        }
        let hint = "set as2.tls.cert and as2.tls.key to \"file:PATH\", or as2.tls.listen to []";
        Err(self.wrong("as2.tls.listen", "a TLS listener needs a certificate and a key", hint))
    }

    fn retry(&self) -> Retry {
        let values = self.values;
        Retry {
            initial: values.span("retry.initial"),
            factor: values.fraction("retry.factor"),
            max_wait: values.span("retry.max_wait"),
            max_tries: values.number("retry.max_tries"),
            max_time: values.span("retry.max_time"),
            jitter: values.fraction("retry.jitter"),
            mdn_wait: values.span("retry.mdn_wait"),
            mdn_tries: values.number("retry.mdn_tries"),
        }
    }

    fn log(&self) -> Result<String, ConfigError> {
        let wanted = self.values.text("telemetry.log");
        match log_filter(&wanted) {
            Ok(_) => Ok(wanted),
            Err(why) => Err(self.wrong("telemetry.log", why, "write it like \"info\" or \"info,sftp=debug\"")),
        }
    }

    fn lifecycle(&self) -> Lifecycle {
        let stages = |area: &str| Stages {
            current: self.values.span(&format!("lifecycle.{area}.current")),
            noncurrent: self.values.span(&format!("lifecycle.{area}.noncurrent")),
        };
        Lifecycle {
            messages: stages("messages"),
            duplicate: stages("duplicate"),
            tmp: stages("tmp"),
            history: self.values.span("lifecycle.history"),
            run_at: values::parse_time_of_day(&self.values.text("lifecycle.run_at")).unwrap_or_default(),
        }
    }
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
