//! Every key of the configuration with its kind, default and meaning: the one table that reading, checking, the environment,
//! `check --effective` and `docs/CONFIGURATION.md` go by.

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
    /// The same, but 0: what lasts no time would be of no use there.
    SpanOver0,
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

impl Kind {
    /// What is allowed, where that is not any value of its form.
    fn limits(self) -> Option<String> {
        Some(match self {
            Kind::Switch => "true or false".to_owned(),
            Kind::Number(low, high) => format!("{low} to {high}"),
            Kind::Fraction(low, high) => format!("{low:.1} to {high:.1}"),
            Kind::SpanOver0 => "more than 0".to_owned(),
            Kind::SpanFrom(days) => format!("at least {days}d"),
            Kind::Word([_]) => return None,
            Kind::Word(words) | Kind::Words(words) => words.join(", "),
            _ => return None,
        })
    }
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
    /// What it means and why one would change it, for people; without its limits.
    pub help: &'static str,
}

impl Key {
    /// What it means, with its limits.
    #[must_use]
    pub fn meaning(&self) -> String {
        let limits = self.kind.limits().map(|limits| format!(" ({limits})")).unwrap_or_default();
        format!("{}{limits}.", self.help)
    }
}

const fn key(path: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key { path, kind, default, help }
}

/// Most connections, workers and tries that may be configured: more than any machine of ours serves.
const MANY: i64 = 100_000;
/// Most channels of one SFTP connection: what `sftp_front` allows, which the door compares.
pub const MAX_CHANNELS: i64 = 14;
/// Fewest days for which a Message-ID stays bound: partners repeat a message for days (RFC 4130 §5.5, §7.3.1).
pub const MIN_HISTORY: u64 = 7;

/// Fewest days for which records stay in each stage: stages end at midnight, and `35m` is a slip of the pen.
pub const MIN_STAGE: u64 = 1;

/// The whole configuration (product.md §9).
pub const KEYS: &[Key] = &[
    key(
        "data_dir",
        Kind::Text,
        r#""/var/lib/as2gate""#,
        "Directory of all data: journal, contents, keys. `init` writes `data`",
    ),
    key(
        "public_url",
        Kind::Text,
        r#""""#,
        "Base of the URL that partners post to, such as `https://as2.example.com`; also the host of Message-IDs. Empty is `http://localhost:PORT`, which no partner reaches",
    ),
    key(
        "master_key",
        Kind::Secret,
        r#""file:master.key""#,
        "Seals private keys and secrets: the file that `init` makes, `file:PATH`, or `env:NAME` with 64 hexadecimal digits. Without it all keys are lost",
    ),
    key(
        "sftp.listen",
        Kind::Addresses,
        r#"["0.0.0.0:22"]"#,
        "Addresses for SFTP, `host:port`. The default is port 2022 where ports below 1024 may not be bound",
    ),
    key(
        "sftp.host",
        Kind::Text,
        r#""""#,
        "Host name in the `sftp` commands that users are shown. Empty is that of `public_url`",
    ),
    key("sftp.banner", Kind::Text, r#""""#, "Text that clients show before the login"),
    key(
        "sftp.host_keys",
        Kind::Words(&["ed25519", "ecdsa", "rsa"]),
        r#"["ed25519", "ecdsa", "rsa"]"#,
        "Kinds of host keys; missing ones are made at the start. Fewer only if a client stumbles over one",
    ),
    key(
        "sftp.algorithms",
        Kind::Word(Algorithms::WORDS),
        r#""modern""#,
        "SSH algorithms that are offered: `compatible` for clients that know neither Curve25519 nor SHA-2, `fips-like` for approved ones only",
    ),
    key(
        "sftp.max_connections",
        Kind::Number(1, MANY),
        "200",
        "Most SFTP connections at a time",
    ),
    key(
        "sftp.max_connections_per_ip",
        Kind::Number(1, MANY),
        "20",
        "Most of one address (IPv6: of a /64). Raise it for many clients behind one NAT",
    ),
    key(
        "sftp.max_unauthenticated",
        Kind::Number(1, MANY),
        "100",
        "Most that have not logged in yet; from a part of it on, some new ones are dropped by chance",
    ),
    key(
        "sftp.max_channels",
        Kind::Number(1, MAX_CHANNELS),
        "10",
        "Most sessions inside of one connection",
    ),
    key(
        "sftp.max_auth_tries",
        Kind::Number(1, 100),
        "6",
        "Refused logins after which a connection ends",
    ),
    key("sftp.login_grace", Kind::SpanOver0, r#""30s""#, "Time for a login, in all"),
    key(
        "sftp.idle_timeout",
        Kind::Span,
        r#""30m""#,
        "A session that does nothing for so long ends; `\"0\"` is never",
    ),
    key(
        "sftp.drain",
        Kind::Span,
        r#""30s""#,
        "Time that open uploads get when the server stops",
    ),
    key(
        "sftp.keepalive",
        Kind::Span,
        r#""30s""#,
        "A client that is silent for so long is asked whether it is there, and dropped after three questions without an answer; `\"0\"` is never",
    ),
    key(
        "sftp.rekey_bytes",
        Kind::Size,
        r#""1GiB""#,
        "New session keys after so many bytes; 1MiB to 1GiB",
    ),
    key(
        "sftp.rekey_time",
        Kind::Span,
        r#""1h""#,
        "New session keys after so long; `\"0\"` is never",
    ),
    key(
        "sftp.memory",
        Kind::Size,
        r#""64MiB""#,
        "Memory for requests and answers of all connections. Raise it for hundreds of busy clients",
    ),
    key(
        "sftp.allowed_ips",
        Kind::Texts,
        "[]",
        "Addresses and blocks that may connect at all, such as `192.0.2.0/24`. Empty is anywhere",
    ),
    key(
        "sftp.ban.failures",
        Kind::Number(0, MANY),
        "10",
        "Failed logins after which their source is shut out; 0 is never",
    ),
    key(
        "sftp.ban.within",
        Kind::SpanOver0,
        r#""10m""#,
        "The time over which they are counted",
    ),
    key(
        "sftp.ban.for",
        Kind::SpanOver0,
        r#""30m""#,
        "How long a source is shut out at first; it doubles each time, up to 16 times as long",
    ),
    key(
        "sftp.ban.except",
        Kind::Texts,
        "[]",
        "Addresses and blocks that are never shut out, such as your own systems",
    ),
    key(
        "sftp.user_ca",
        Kind::Texts,
        "[]",
        "Authorities whose certificates let in every user that they name: public keys, or `file:PATH` of a file with such lines. No backup has the file",
    ),
    key(
        "sftp.revoked_keys",
        Kind::Text,
        r#""""#,
        "File with the keys and certificates that count no more: by `ssh-keygen -k`, or a text. While it cannot be read, nobody logs in with a key. No backup has it",
    ),
    key(
        "sftp.proxy_protocol_from",
        Kind::Texts,
        "[]",
        "Balancers whose connections begin with a PROXY header (version 2); the client that it names counts",
    ),
    key(
        "uploads.temp_names",
        Kind::Texts,
        r#"["*.filepart", "*.part", "*.partial", "*.tmp", "*.crdownload", "*.inprogress", "*.writing", "*.uploading", ".*", "*~"]"#,
        "Patterns of temporary names, in either case: such a file is sent when it is renamed",
    ),
    key(
        "uploads.rename_completes",
        Kind::Switch,
        "true",
        "Whether a rename to a normal name sends the file; without it, files with temporary names are never sent",
    ),
    key(
        "uploads.rename_within",
        Kind::SpanOver0,
        r#""24h""#,
        "How long after the upload a rename still sends it; a later one leaves it unsent",
    ),
    key(
        "uploads.release_after",
        Kind::Span,
        r#""2s""#,
        "Wait between the end of an upload and its sending, in which a rename or a further write is noticed; `\"0\"` sends at once",
    ),
    key(
        "uploads.keep_partial",
        Kind::Span,
        r#""1d""#,
        "How long an upload that broke off is shown and may be resumed",
    ),
    key(
        "uploads.duplicate_window",
        Kind::Span,
        r#""6h""#,
        "How long a name is taken: a second file of this name for the same partner goes to `AS2/duplicate`",
    ),
    key(
        "uploads.duplicate_release",
        Kind::Word(DuplicateRelease::WORDS),
        r#""provably-undelivered""#,
        "When a name is free earlier: `never`; where the partner surely does not have the first file; or after any failure",
    ),
    key("uploads.max_file", Kind::Size, r#""100GiB""#, "Largest upload"),
    key(
        "as2.listen",
        Kind::Addresses,
        r#"["0.0.0.0:8080"]"#,
        "Addresses for AS2 over plain HTTP, `host:port`; `[]` for none, where HTTPS is enough",
    ),
    key(
        "as2.path",
        Kind::Text,
        r#""/as2""#,
        "Path of the URL that partners are told. Messages are taken at every path",
    ),
    key(
        "as2.mdn_path",
        Kind::Text,
        r#""""#,
        "Path for async MDNs that partners are told. Empty is that of messages",
    ),
    key(
        "as2.max_message",
        Kind::Size,
        r#""100GiB""#,
        "Largest message received (HTTP 413 above); a partner may have a limit of its own in its place (`max_message`)",
    ),
    key(
        "as2.keep_partial",
        Kind::Span,
        r#""1d""#,
        "How long a message that broke off is kept for its sender to go on with (AS2 Restart)",
    ),
    key(
        "as2.partial_quota",
        Kind::Size,
        r#""10GiB""#,
        "Most bytes of such messages, for each station and partner; 0 keeps none",
    ),
    key(
        "as2.max_connections_per_ip",
        Kind::Number(1, MANY),
        "50",
        "Most HTTP connections of one address. Behind a balancer set `proxy_protocol_from`, or all partners share it",
    ),
    key(
        "as2.proxy_protocol_from",
        Kind::Texts,
        "[]",
        "Balancers whose connections begin with a PROXY header (version 2); `X-Forwarded-For` is not believed",
    ),
    key(
        "as2.unknown_partner",
        Kind::Word(UnknownPartner::WORDS),
        r#""mdn""#,
        "What a sender that nobody knows is answered: an error MDN if it asked for one, or always HTTP 422",
    ),
    key(
        "as2.send_workers",
        Kind::Number(1, 1_000),
        "64",
        "Messages posted at a time to all partners together, and a quarter more to those that have none under way; each has its `max_parallel` besides",
    ),
    key(
        "as2.connect_timeout",
        Kind::SpanOver0,
        r#""10s""#,
        "Time to connect to a partner, which may have its own (`connect_timeout`)",
    ),
    key(
        "as2.response_timeout",
        Kind::SpanOver0,
        r#""300s""#,
        "Time for the answer with a sync MDN, which may have its own (`response_timeout`); without one it is 60 seconds",
    ),
    key(
        "as2.tls.listen",
        Kind::Addresses,
        "[]",
        "Addresses for AS2 over HTTPS, such as `[\"0.0.0.0:443\"]`; needs `cert` and `key`. Empty is none",
    ),
    key(
        "as2.tls.cert",
        Kind::Secret,
        r#""""#,
        "Certificate of HTTPS with its chain, PEM: `file:PATH` or `env:NAME`. A renewed file is taken without a restart; no backup has it",
    ),
    key(
        "as2.tls.key",
        Kind::Secret,
        r#""""#,
        "Its private key, PEM without a passphrase: `file:PATH` or `env:NAME`. A renewed file is taken without a restart; no backup has it",
    ),
    key(
        "as2.tls.client_auth",
        Kind::Word(ClientAuth::WORDS),
        r#""none""#,
        "Whether partners show a TLS certificate; those that count are the partners' `https_certificate`s and their issuers",
    ),
    key("retry.initial", Kind::SpanOver0, r#""30s""#, "Wait after the first try that failed"),
    key(
        "retry.factor",
        Kind::Fraction(1.0, 100.0),
        "2.0",
        "By which each further wait is longer",
    ),
    key("retry.max_wait", Kind::SpanOver0, r#""1h""#, "Longest wait between two tries"),
    key(
        "retry.max_tries",
        Kind::Number(1, MANY),
        "10",
        "Tries after which a message is given up",
    ),
    key(
        "retry.max_time",
        Kind::SpanOver0,
        r#""24h""#,
        "Time after which a message is given up, whichever comes first",
    ),
    key(
        "retry.jitter",
        Kind::Fraction(0.0, 1.0),
        "0.2",
        "Part of a wait that is left to chance, so that many messages do not come back at once",
    ),
    key(
        "retry.mdn_wait",
        Kind::SpanOver0,
        r#""60m""#,
        "How long an async MDN may take until the same message is posted again",
    ),
    key(
        "retry.mdn_tries",
        Kind::Number(0, MANY),
        "3",
        "How often that is done until the message fails",
    ),
    key(
        "keystore.format",
        Kind::Word(KeystoreFormat::WORDS),
        r#""pkcs12""#,
        "Form of the accounts' key stores in `data_dir`, for other programs: PKCS#12, or Java's own",
    ),
    key(
        "database.url",
        Kind::Text,
        r#""sqlite:db/as2gate.db""#,
        "File of the journal below `data_dir`; only `sqlite:PATH` is known",
    ),
    key(
        "storage.kind",
        Kind::Word(&["local"]),
        r#""local""#,
        "Where contents lie; only `local` is known: in `data_dir`",
    ),
    key(
        "storage.min_free",
        Kind::Size,
        r#""1GiB""#,
        "Disk space that stays free: below it uploads and messages are refused before they begin",
    ),
    key(
        "lifecycle.messages.current",
        Kind::SpanFrom(MIN_STAGE),
        r#""35d""#,
        "How long files of messages are seen by SFTP, in whole days from midnight UTC; an account may have its own (`account set --keep-messages`)",
    ),
    key(
        "lifecycle.messages.noncurrent",
        Kind::SpanFrom(MIN_STAGE),
        r#""35d""#,
        "How long after that they are kept and can be restored (`lifecycle restore`), before they are deleted",
    ),
    key(
        "lifecycle.duplicate.current",
        Kind::SpanFrom(MIN_STAGE),
        r#""35d""#,
        "The same of refused duplicates: in view",
    ),
    key(
        "lifecycle.duplicate.noncurrent",
        Kind::SpanFrom(MIN_STAGE),
        r#""35d""#,
        "The same of refused duplicates: out of view",
    ),
    key(
        "lifecycle.tmp.current",
        Kind::Span,
        r#""1d""#,
        "Uploads that broke off are deleted after this time and the next together",
    ),
    key("lifecycle.tmp.noncurrent", Kind::Span, r#""1d""#, "See `lifecycle.tmp.current`"),
    key(
        "lifecycle.history",
        Kind::SpanFrom(MIN_HISTORY),
        r#""730d""#,
        "How long a message is listed and its Message-ID known after its end; never shorter than its files are kept",
    ),
    key(
        "lifecycle.run_at",
        Kind::TimeOfDay,
        r#""00:10""#,
        "Time of day of the sweep that does all this, UTC",
    ),
    key(
        "telemetry.listen",
        Kind::Address,
        r#""127.0.0.1:9090""#,
        "Address of `/healthz`, `/readyz` and `/metrics`, without a login: keep it inside. Empty is none",
    ),
    key(
        "telemetry.log",
        Kind::Text,
        r#""info""#,
        "Least level of the log, `error`, `warn`, `info`, `debug` or `trace`, and of areas besides: `info,sftp=debug`",
    ),
    key(
        "telemetry.log_format",
        Kind::Word(LogFormat::WORDS),
        r#""text""#,
        "Form of the log's lines",
    ),
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
