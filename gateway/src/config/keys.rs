//! Every key of the configuration with its kind and default: the one table that reading, checking, the environment and
//! `check --effective` go by.

use super::{Algorithms, ClientAuth, DuplicateRelease, KeystoreFormat, LogFormat, UnknownPartner};

/// What a key's value has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `true` or `false`.
    Switch,
    /// A whole number within these limits.
    Number(i64, i64),
    /// A number within these limits.
    Fraction(f64, f64),
    /// `2s`, `6h`, `0`.
    Span,
    /// The same, at least this many days.
    SpanFrom(u64),
    /// `512`, `100GiB`.
    Size,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Several of these words.
    Words(&'static [&'static str]),
    /// Several texts.
    Texts,
    /// One `host:port`, or empty for none.
    Address,
    /// Several `host:port`.
    Addresses,
    /// `""`, `env:NAME` or `file:PATH`.
    Secret,
    /// A time of day, `00:10`.
    TimeOfDay,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Section and name with dots, e.g. `sftp.ban.failures`.
    pub path: &'static str,
    /// What its value has to be.
    pub kind: Kind,
    /// The default, as TOML.
    pub default: &'static str,
}

const fn key(path: &'static str, kind: Kind, default: &'static str) -> Key {
    Key { path, kind, default }
}

/// Most connections, workers and tries that may be configured: more than any machine of ours serves.
const MANY: i64 = 100_000;
/// Most channels of one SFTP connection: what `sftp_front` allows, which the door compares.
pub const MAX_CHANNELS: i64 = 14;
/// Fewest days for which a Message-ID stays bound: partners repeat a message for days (RFC 4130 §5.5, §7.3.1).
pub const MIN_HISTORY: u64 = 7;

/// The whole configuration (product.md §9).
pub const KEYS: &[Key] = &[
    key("data_dir", Kind::Text, r#""/var/lib/as2gate""#),
    key("public_url", Kind::Text, r#""""#),
    key("master_key", Kind::Secret, r#""file:master.key""#),
    // The port is 2022 where this process cannot bind 22: see `values.rs`.
    key("sftp.listen", Kind::Addresses, r#"["0.0.0.0:22"]"#),
    key("sftp.host", Kind::Text, r#""""#),
    key("sftp.banner", Kind::Text, r#""""#),
    key(
        "sftp.host_keys",
        Kind::Words(&["ed25519", "ecdsa", "rsa"]),
        r#"["ed25519", "ecdsa", "rsa"]"#,
    ),
    key("sftp.algorithms", Kind::Word(Algorithms::WORDS), r#""modern""#),
    key("sftp.max_connections", Kind::Number(1, MANY), "200"),
    key("sftp.max_connections_per_ip", Kind::Number(1, MANY), "20"),
    key("sftp.max_unauthenticated", Kind::Number(1, MANY), "100"),
    key("sftp.max_channels", Kind::Number(1, MAX_CHANNELS), "10"),
    key("sftp.max_auth_tries", Kind::Number(1, 100), "6"),
    key("sftp.login_grace", Kind::Span, r#""30s""#),
    key("sftp.idle_timeout", Kind::Span, r#""30m""#),
    key("sftp.drain", Kind::Span, r#""30s""#),
    key("sftp.keepalive", Kind::Span, r#""30s""#),
    key("sftp.rekey_bytes", Kind::Size, r#""1GiB""#),
    key("sftp.rekey_time", Kind::Span, r#""1h""#),
    key("sftp.memory", Kind::Size, r#""64MiB""#),
    key("sftp.allowed_ips", Kind::Texts, "[]"),
    key("sftp.ban.failures", Kind::Number(0, MANY), "10"),
    key("sftp.ban.within", Kind::Span, r#""10m""#),
    key("sftp.ban.for", Kind::Span, r#""30m""#),
    key("sftp.ban.except", Kind::Texts, "[]"),
    key("sftp.user_ca", Kind::Texts, "[]"),
    key("sftp.revoked_keys", Kind::Text, r#""""#),
    key("sftp.proxy_protocol_from", Kind::Texts, "[]"),
    key(
        "uploads.temp_names",
        Kind::Texts,
        r#"["*.filepart", "*.part", "*.partial", "*.tmp", "*.crdownload", "*.inprogress", "*.writing", "*.uploading", ".*", "*~"]"#,
    ),
    key("uploads.rename_completes", Kind::Switch, "true"),
    key("uploads.rename_within", Kind::Span, r#""24h""#),
    key("uploads.release_after", Kind::Span, r#""2s""#),
    key("uploads.keep_partial", Kind::Span, r#""1d""#),
    key("uploads.duplicate_window", Kind::Span, r#""6h""#),
    key(
        "uploads.duplicate_release",
        Kind::Word(DuplicateRelease::WORDS),
        r#""provably-undelivered""#,
    ),
    key("uploads.max_file", Kind::Size, r#""100GiB""#),
    key("as2.listen", Kind::Addresses, r#"["0.0.0.0:8080"]"#),
    key("as2.path", Kind::Text, r#""/as2""#),
    key("as2.mdn_path", Kind::Text, r#""""#),
    key("as2.max_message", Kind::Size, r#""100GiB""#),
    key("as2.keep_partial", Kind::Span, r#""1d""#),
    key("as2.partial_quota", Kind::Size, r#""10GiB""#),
    key("as2.max_connections_per_ip", Kind::Number(1, MANY), "50"),
    key("as2.proxy_protocol_from", Kind::Texts, "[]"),
    key("as2.unknown_partner", Kind::Word(UnknownPartner::WORDS), r#""mdn""#),
    key("as2.send_workers", Kind::Number(1, 1_000), "64"),
    key("as2.connect_timeout", Kind::Span, r#""10s""#),
    key("as2.response_timeout", Kind::Span, r#""300s""#),
    key("as2.tls.listen", Kind::Addresses, "[]"),
    key("as2.tls.cert", Kind::Secret, r#""""#),
    key("as2.tls.key", Kind::Secret, r#""""#),
    key("as2.tls.client_auth", Kind::Word(ClientAuth::WORDS), r#""none""#),
    key("retry.initial", Kind::Span, r#""30s""#),
    key("retry.factor", Kind::Fraction(1.0, 100.0), "2.0"),
    key("retry.max_wait", Kind::Span, r#""1h""#),
    key("retry.max_tries", Kind::Number(1, MANY), "10"),
    key("retry.max_time", Kind::Span, r#""24h""#),
    key("retry.jitter", Kind::Fraction(0.0, 1.0), "0.2"),
    key("retry.mdn_wait", Kind::Span, r#""60m""#),
    key("retry.mdn_tries", Kind::Number(0, MANY), "3"),
    key("keystore.format", Kind::Word(KeystoreFormat::WORDS), r#""pkcs12""#),
    key("database.url", Kind::Text, r#""sqlite:db/as2gate.db""#),
    key("storage.kind", Kind::Word(&["local"]), r#""local""#),
    key("storage.min_free", Kind::Size, r#""1GiB""#),
    key("lifecycle.messages.current", Kind::Span, r#""35d""#),
    key("lifecycle.messages.noncurrent", Kind::Span, r#""35d""#),
    key("lifecycle.duplicate.current", Kind::Span, r#""35d""#),
    key("lifecycle.duplicate.noncurrent", Kind::Span, r#""35d""#),
    key("lifecycle.tmp.current", Kind::Span, r#""1d""#),
    key("lifecycle.tmp.noncurrent", Kind::Span, r#""1d""#),
    key("lifecycle.history", Kind::SpanFrom(MIN_HISTORY), r#""730d""#),
    key("lifecycle.run_at", Kind::TimeOfDay, r#""00:10""#),
    key("telemetry.listen", Kind::Address, r#""127.0.0.1:9090""#),
    key("telemetry.log", Kind::Text, r#""info""#),
    key("telemetry.log_format", Kind::Word(LogFormat::WORDS), r#""text""#),
];

/// The key of a path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether a path is a section: some key lies below it.
#[must_use]
pub fn is_section(path: &str) -> bool {
    KEYS.iter()
        .any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}
