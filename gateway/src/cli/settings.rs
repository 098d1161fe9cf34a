//! The flags that set fields of objects: one table per noun gives `--help`, parsing and the field names.

use std::marker::PhantomData;

use as2_core::algorithm::{Compression, DigestNames, SignatureScheme};
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use serde_json::Value;

use crate::manage::{Refusal, Result, secrets};
use crate::partner::{MdnMode, Partner, TlsMode, TransferEncoding, Zip};

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// A text.
    Text,
    /// `true` or `false`; without a value `true`.
    Switch,
    /// `env:NAME` or `file:PATH`.
    Secret,
    /// One of these words.
    Word(&'static [&'static str]),
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    flag: &'static str,
    key: &'static str,
    takes: Takes,
    value: &'static str,
    help: &'static str,
}

const fn text(flag: &'static str, key: &'static str, value: &'static str, help: &'static str) -> Field {
    Field {
        flag,
        key,
        takes: Takes::Text,
        value,
        help,
    }
}

const fn switch(flag: &'static str, key: &'static str, help: &'static str) -> Field {
    Field {
        flag,
        key,
        takes: Takes::Switch,
        value: "true|false",
        help,
    }
}

const fn word(flag: &'static str, key: &'static str, words: &'static [&'static str], help: &'static str) -> Field {
    Field {
        flag,
        key,
        takes: Takes::Word(words),
        value: "WORD",
        help,
    }
}

impl Field {
    /// What it is, with its default where it has one that says something: an empty text or 0 is told in words.
    fn help_with(&self, defaults: &Value) -> String {
        let default = self.key.split('.').try_fold(defaults, |value, name| value.get(name));
        let default = match default {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            Some(Value::Number(number)) if number.as_u64() != Some(0) => number.to_string(),
            Some(Value::Bool(switch)) => switch.to_string(),
            _ => String::new(),
        };
        let default = if default.is_empty() {
            default
        } else {
            format!(" [a new one has {default}]")
        };
        format!("{}{default}", self.help)
    }
}

/// A noun with settable fields.
pub(crate) trait Noun {
    /// Its flags.
    const FIELDS: &'static [Field];

    /// An object with every default, as `--help` names them.
    fn defaults() -> Value {
        Value::Null
    }
}

/// The settings given on a command line.
#[derive(Clone, Debug)]
pub(crate) struct Settings<N> {
    given: Vec<(Field, String)>,
    free: Vec<(String, String)>,
    noun: PhantomData<N>,
}

impl<N> Settings<N> {
    /// Field names and values; secrets are read from where they are.
    pub(crate) fn pairs(&self) -> Result<Vec<(String, String)>> {
        let mut pairs = Vec::new();
        for (field, value) in &self.given {
            let value = if field.takes == Takes::Secret {
                secrets::read(value)?.as_str().to_owned()
            } else {
                value.clone()
            };
            pairs.push((field.key.to_owned(), value));
        }
        for (key, value) in &self.free {
            if key.ends_with("password") {
                pairs.push((key.clone(), secrets::read(value)?.as_str().to_owned()));
            } else {
                pairs.push((key.clone(), value.clone()));
            }
        }
        Ok(pairs)
    }

    /// The settings of a change, of which there has to be one.
    pub(crate) fn some(&self, noun: &str, name: &str) -> Result<Vec<(String, String)>> {
        let pairs = self.pairs()?;
        if pairs.is_empty() {
            return Err(Refusal::usage(
                format!("nothing to set on {noun} {name}"),
                "no setting was given",
                format!("as2gate {noun} set --help lists them"),
            ));
        }
        Ok(pairs)
    }
}

impl<N: Noun> Args for Settings<N> {
    fn augment_args(command: Command) -> Command {
        let mut command = command.next_help_heading("Settings");
        let defaults = N::defaults();
        for field in N::FIELDS {
            let arg = Arg::new(field.flag)
                .long(field.flag)
                .value_name(field.value)
                .help(field.help_with(&defaults))
                .action(ArgAction::Set);
            let arg = match field.takes {
                Takes::Text | Takes::Secret => arg,
                Takes::Word(words) => arg.value_parser(PossibleValuesParser::new(words)),
                Takes::Switch => arg
                    .num_args(0..=1)
                    .default_missing_value("true")
                    .value_parser(PossibleValuesParser::new(["true", "false"])),
            };
            command = command.arg(arg.hide_possible_values(field.takes == Takes::Switch));
        }
        let free = Arg::new("set").long("set").value_name("KEY=VALUE").action(ArgAction::Append);
        command
            .arg(free.help("Any field by its name in TOML, e.g. headers.X-Env=prod; may be repeated"))
            .next_help_heading(None::<&str>)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<N: Noun> FromArgMatches for Settings<N> {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let given = N::FIELDS
            .iter()
            .filter_map(|field| matches.get_one::<String>(field.flag).map(|value| (*field, value.clone())))
            .collect();
        let mut free = Vec::new();
        for pair in matches.get_many::<String>("set").into_iter().flatten() {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(clap::Error::raw(
                    clap::error::ErrorKind::ValueValidation,
                    format!("--set {pair}: write it like KEY=VALUE\n"),
                ));
            };
            free.push((key.to_owned(), value.to_owned()));
        }
        Ok(Settings {
            given,
            free,
            noun: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// `account`.
#[derive(Clone, Debug)]
pub(crate) struct OfAccount;

impl Noun for OfAccount {
    const FIELDS: &'static [Field] = &[
        text("name", "name", "TEXT", "Name for people"),
        text(
            "timezone",
            "timezone",
            "ZONE",
            "Time zone for people to know, e.g. America/New_York; rules count in UTC, and times are shown in this machine's zone",
        ),
        text(
            "keep-messages",
            "lifecycle.messages.current",
            "TIME",
            "How long records stay in view, e.g. 90d",
        ),
        text(
            "keep-noncurrent",
            "lifecycle.messages.noncurrent",
            "TIME",
            "How long they can be restored after that, e.g. 35d",
        ),
        text(
            "keep-history",
            "lifecycle.history",
            "TIME",
            "How long messages and their events are listed after their end, e.g. 730d",
        ),
    ];
}

/// `station`.
#[derive(Clone, Debug)]
pub(crate) struct OfStation;

impl Noun for OfStation {
    const FIELDS: &'static [Field] = &[
        text("name", "name", "TEXT", "Name for people, goes into the certificate that is made"),
        text("email", "email", "MAIL", "Contact, also where receipts are asked for"),
        text("url", "url", "URL", "Where partners post to, if not public_url and as2.path"),
    ];
}

/// `user`.
#[derive(Clone, Debug)]
pub(crate) struct OfUser;

impl Noun for OfUser {
    const FIELDS: &'static [Field] = &[
        text(
            "login",
            "login",
            "STEPS",
            "How it logs in: publickey, password, publickey,totp …; alternatives with blanks between",
        ),
        text(
            "allowed-ips",
            "allowed_ips",
            "CIDR,…",
            "Addresses that the user may come from; empty means anywhere",
        ),
        switch("delete-received", "delete_received", "May delete fetched files from an inbox"),
        text(
            "expires",
            "expires",
            "TIME",
            "Last moment of a login, e.g. 2027-01-31T00:00:00Z; empty means never",
        ),
        text(
            "rights",
            "rights",
            "PREFIX=rwd,…",
            "What is allowed where, e.g. AS2/send=rw,AS2/files=r; empty means everything",
        ),
        text(
            "stations",
            "stations",
            "IDS",
            "Stations that the user sees, with commas; empty means all",
        ),
        text(
            "partners",
            "partners",
            "IDS",
            "Partners that the user sees, with commas; empty means all",
        ),
        text(
            "max-sessions",
            "max_sessions",
            "N",
            "Most sessions at a time; 0 means no limit of its own",
        ),
        text(
            "quota-bytes",
            "quota_bytes",
            "SIZE",
            "Most bytes that its files in send may have together; 0 means no limit",
        ),
        text("quota-files", "quota_files", "N", "Most files in send; 0 means no limit"),
        text("bandwidth", "bandwidth", "SIZE", "Bytes per second each way; 0 means no limit"),
    ];
}

/// `partner`.
#[derive(Clone, Debug)]
pub(crate) struct OfPartner;

// Those that we send, and none: more are accepted on receipt.
const DIGESTS: &[&str] = &["none", "sha1", "sha224", "sha256", "sha384", "sha512"];
const CIPHERS: &[&str] = &["none", "aes128-cbc", "aes192-cbc", "aes256-cbc", "aes128-gcm", "aes256-gcm"];

impl Noun for OfPartner {
    fn defaults() -> Value {
        serde_json::to_value(Partner::default()).unwrap_or_default()
    }

    const FIELDS: &'static [Field] = &[
        text("url", "url", "URL", "Where messages are posted to"),
        text("name", "name", "TEXT", "Name for people"),
        text("email", "email", "MAIL", "Contact"),
        text("stations", "stations", "IDS", "Stations that trade with it, with commas; * is all"),
        text(
            "subject",
            "subject",
            "TEXT",
            "Default subject; $file $stem $ext $station $partner $id $date $time are put in, $$ is a dollar",
        ),
        text(
            "file-name",
            "file_name",
            "TEXT",
            "Name of the file as the partner sees it, e.g. '${stem}_$date.$ext'; empty is its own",
        ),
        text(
            "content-type",
            "content_type",
            "TYPE",
            "Content type of payloads; auto goes by extension, detect by the first bytes (X12, EDIFACT, XML)",
        ),
        word("zip", "zip", Zip::WORDS, "Send an uploaded zip as it is, or as several attachments"),
        switch("allow-empty", "allow_empty", "Send files of zero bytes"),
        switch("hold", "hold", "Legal hold: its records have no end"),
        text(
            "sign-certificate",
            "sign_certificate",
            "NAMES",
            "Certificates that verify its signatures, with commas",
        ),
        text(
            "encrypt-certificate",
            "encrypt_certificate",
            "NAME",
            "Certificate that encrypts to it",
        ),
        word(
            "sign",
            "sign",
            DIGESTS,
            "Digest of our signature; sha1 and sha224 with --legacy only",
        ),
        word(
            "signature-scheme",
            "signature_scheme",
            SignatureScheme::WORDS,
            "RSA signature scheme",
        ),
        word(
            "digest-names",
            "digest_names",
            DigestNames::WORDS,
            "How digests are spelt for it: sha-256 (RFC 5751) or sha256 (RFC 3851, old products); both are read",
        ),
        switch(
            "protect-algorithms",
            "protect_algorithms",
            "Signatures cover the names of their algorithms (RFC 6211), which some products cannot read",
        ),
        switch(
            "include-certificate",
            "include_certificate",
            "Put our certificate into our signatures; false for partners that stumble over it",
        ),
        word("encrypt", "encrypt", CIPHERS, "Content encryption"),
        word(
            "key-transport",
            "key_transport",
            &[
                "pkcs1",
                "oaep-sha1",
                "oaep-sha256",
                "oaep-sha384",
                "oaep-sha512",
                "ecdh-sha256",
                "ecdh-sha384",
                "ecdh-sha512",
            ],
            "How the content key is wrapped; for EC certificates ecdh-sha256 unless another ecdh is set",
        ),
        switch(
            "originator-copy",
            "originator_copy",
            "Encrypt to our own certificate as well, so that a sent message can be opened here",
        ),
        word("compress", "compress", Compression::WORDS, "Compression"),
        word(
            "transfer-encoding",
            "transfer_encoding",
            TransferEncoding::WORDS,
            "How the payload travels inside the message",
        ),
        text(
            "der-max",
            "der_max",
            "SIZE",
            "Definite CMS lengths up to this size in bytes, pieces above",
        ),
        switch("require-signed", "require_signed", "Refuse unsigned messages"),
        switch("require-encrypted", "require_encrypted", "Refuse messages in clear"),
        switch("legacy", "legacy", "Allow SHA-1 and SHA-224, for old partners only"),
        switch("accept-3des", "accept_3des", "Accept 3DES, for old partners only"),
        switch("accept-md5", "accept_md5", "Accept MD5, for old partners only"),
        switch(
            "refuse-duplicate-names",
            "refuse_duplicate_names",
            "Refuse a file name that came within 24 hours",
        ),
        switch(
            "refuse-illegal-names",
            "refuse_illegal_names",
            "Refuse a file name that cannot be stored, instead of making it safe",
        ),
        switch(
            "duplicate-warning",
            "duplicate_warning",
            "Answer a repeated Message-ID with a warning, instead of the first MDN again",
        ),
        word("mdn", "mdn", MdnMode::WORDS, "Receipt asked for"),
        text(
            "micalgs",
            "micalgs",
            "DIGESTS",
            "Digests that its receipt may have, the most wanted first, with commas; empty is that of our signature",
        ),
        switch(
            "mdn-required",
            "mdn_required",
            "Require a signed receipt instead of wishing for one",
        ),
        text(
            "mdn-urls",
            "mdn_urls",
            "URLS",
            "Where its async MDNs may go besides its own host; for unsigned messages, the very addresses",
        ),
        word(
            "tls",
            "tls",
            TlsMode::WORDS,
            "TLS towards it: 1.2 and later, 1.3 only, or 1.0 and later",
        ),
        text(
            "https-certificate",
            "https_certificate",
            "NAMES",
            "Pinned TLS certificates; empty means the system's roots",
        ),
        text("client-certificate", "client_certificate", "NAME", "Our TLS client certificate"),
        text("http-user", "http_auth.user", "USER", "User of HTTP basic authentication"),
        Field {
            flag: "http-password",
            key: "http_auth.password",
            takes: Takes::Secret,
            value: "env:NAME|file:PATH",
            help: "Its password",
        },
        text(
            "token-url",
            "token_url",
            "URL",
            "OAuth 2.0: where --http-user and --http-password, a client's id and secret, get the token to show",
        ),
        text("token-scope", "token_scope", "TEXT", "OAuth 2.0: the scope to ask for"),
        text(
            "inbound-user",
            "inbound_auth.user",
            "USER",
            "User that it has to log in as, by HTTP basic authentication",
        ),
        Field {
            flag: "inbound-password",
            key: "inbound_auth.password",
            takes: Takes::Secret,
            value: "env:NAME|file:PATH",
            help: "The password that it has to give",
        },
        text(
            "allowed-ips",
            "allowed_ips",
            "CIDR,…",
            "Addresses that its messages and MDNs may come from; empty means anywhere",
        ),
        text("proxy", "proxy", "URL", "HTTP proxy on the way to it"),
        text("proxy-user", "proxy_auth.user", "USER", "User at the proxy"),
        Field {
            flag: "proxy-password",
            key: "proxy_auth.password",
            takes: Takes::Secret,
            value: "env:NAME|file:PATH",
            help: "Its password",
        },
        switch("chunked", "chunked", "Chunked transfer instead of a Content-Length"),
        switch(
            "keep-alive",
            "keep_alive",
            "Several POSTs on one connection, if it detects duplicates",
        ),
        switch(
            "restart",
            "restart",
            "It knows AS2 Restart: a POST that broke off goes on where it stopped",
        ),
        switch("private", "private", "Its URL may lead to a private address"),
        text("async-status", "async_status", "200|202|204", "Our answer to its async messages"),
        text(
            "max-message",
            "max_message",
            "SIZE",
            "Largest message accepted from it; 0 means the server's",
        ),
        text(
            "connect-timeout",
            "connect_timeout",
            "TIME",
            "Time to connect; 0 means the server's",
        ),
        text(
            "response-timeout",
            "response_timeout",
            "TIME",
            "Time for its answer; 0 means the server's",
        ),
        text(
            "total-timeout",
            "total_timeout",
            "TIME",
            "Time for a whole POST to it; 0 means no limit while bytes move",
        ),
        text(
            "retry-initial",
            "retry.initial",
            "TIME",
            "First wait before another try; this and the six below are the server's unless set",
        ),
        text(
            "retry-factor",
            "retry.factor",
            "N",
            "By which each further wait is longer, e.g. 1.5",
        ),
        text("retry-max-wait", "retry.max_wait", "TIME", "Longest wait"),
        text("retry-max-tries", "retry.max_tries", "N", "Tries in all"),
        text("retry-max-time", "retry.max_time", "TIME", "Time in all"),
        text("mdn-wait", "retry.mdn_wait", "TIME", "How long an async MDN may take"),
        text(
            "mdn-tries",
            "retry.mdn_tries",
            "N",
            "How often the same message is posted again for want of it",
        ),
        text(
            "max-parallel",
            "max_parallel",
            "N",
            "Messages posted to it at once; beside them as many async MDNs of ours, 8 at most",
        ),
        switch(
            "in-order",
            "in_order",
            "One message of a station after the other; one that is retrying or held holds up the next ones",
        ),
        switch(
            "detects-duplicates",
            "detects_duplicates",
            "It knows a repeated Message-ID; false holds unknown outcomes",
        ),
        switch("strict-mic", "strict_mic", "A verified MDN without MIC is a failure"),
        text("as2-version", "as2_version", "1.2", "AS2-Version that we announce"),
    ];
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::manage::fields::assign;

    #[test]
    fn a_partner_takes_every_word_that_its_flags_offer() {
        let mut words = 0;
        for field in OfPartner::FIELDS {
            let Takes::Word(offered) = field.takes else { continue };
            for word in offered {
                let set = [(field.key.to_owned(), (*word).to_owned())];
                assert!(assign(&Partner::default(), &set).is_ok(), "--{} {word}", field.flag);
                words += 1;
            }
        }
        assert!(words > 30, "{words}");
    }

    #[test]
    fn the_help_of_a_partners_settings_names_the_defaults() {
        let command = Settings::<OfPartner>::augment_args(Command::new("set"));
        let help = |flag: &str| {
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(flag)).unwrap();
            arg.get_help().unwrap().to_string()
        };
        for (flag, default) in [
            ("sign", "sha256"),
            ("encrypt", "aes256-cbc"),
            ("mdn", "sync-signed"),
            ("require-signed", "true"),
            ("legacy", "false"),
            ("stations", "*"),
            ("max-parallel", "4"),
            ("as2-version", "1.2"),
        ] {
            assert!(help(flag).ends_with(&format!(" [a new one has {default}]")), "{}", help(flag));
        }
        assert!(!help("url").contains("default:") && !help("retry-initial").contains("default:"));
    }
}
