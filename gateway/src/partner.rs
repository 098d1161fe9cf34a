//! The remote side and every setting about it. The keys are those of `[[partner]]` in TOML.

use std::collections::BTreeMap;

use as2_core::algorithm::{Cipher, Compression, Digest, DigestNames, KeyTransport, SignatureScheme};
use serde::{Deserialize, Serialize};

use crate::hint::{command, option};
use crate::text::{word, word_list, word_or_none};
use crate::words;

words! {
    /// Which traffic of a partner is refused.
    pub enum Blocked { None = "none", In = "in", Out = "out", Both = "both" }
}

impl Blocked {
    /// Nothing may be sent to it.
    #[must_use]
    pub fn out(self) -> bool {
        matches!(self, Blocked::Out | Blocked::Both)
    }

    /// Nothing is accepted from it.
    #[must_use]
    pub fn inbound(self) -> bool {
        matches!(self, Blocked::In | Blocked::Both)
    }
}

words! {
    /// Whether an uploaded zip goes as it is or as several attachments (RFC 6362).
    pub enum Zip { AsIs = "as-is", Unpack = "unpack" }
}

words! {
    /// The receipt asked for.
    pub enum MdnMode {
        /// None: a 2xx is all the evidence.
        None = "none",
        /// In the answer to the POST, unsigned.
        Sync = "sync",
        /// In the answer to the POST, signed.
        SyncSigned = "sync-signed",
        /// By a POST of the partner, unsigned.
        Async = "async",
        /// By a POST of the partner, signed.
        AsyncSigned = "async-signed",
    }
}

impl MdnMode {
    /// A receipt comes by a POST of the partner.
    #[must_use]
    pub fn is_async(self) -> bool {
        matches!(self, MdnMode::Async | MdnMode::AsyncSigned)
    }

    /// The receipt has to be signed.
    #[must_use]
    pub fn is_signed(self) -> bool {
        matches!(self, MdnMode::SyncSigned | MdnMode::AsyncSigned)
    }
}

words! {
    /// TLS towards the partner.
    pub enum TlsMode {
        /// 1.2 and later.
        Default = "default",
        /// 1.3 and nothing else.
        Only13 = "1.3",
        /// 1.0 and later, for old servers.
        Legacy = "legacy",
    }
}

words! {
    /// How the payload travels inside the message.
    pub enum TransferEncoding { Binary = "binary", Base64 = "base64" }
}

/// The credentials of HTTP basic authentication.
#[derive(Clone, Serialize, Deserialize, PartialEq, Default)]
#[serde(deny_unknown_fields, default)]
pub struct HttpAuth {
    /// User name; empty means no authentication.
    pub user: String,
    /// Password, sealed (`sealed:…`) once stored.
    pub password: String,
}

impl std::fmt::Debug for HttpAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpAuth {{ user: {:?}, password: … }}", self.user)
    }
}

/// Retry figures that differ from `[retry]`; absent means the server's.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Default)]
#[serde(deny_unknown_fields, default)]
pub struct PartnerRetry {
    /// First wait, e.g. `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial: Option<String>,
    /// By which each wait grows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// Longest wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_wait: Option<String>,
    /// Tries in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tries: Option<u32>,
    /// Time in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_time: Option<String>,
    /// How long an async MDN may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mdn_wait: Option<String>,
    /// How often the same bytes are posted again for want of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mdn_tries: Option<u32>,
}

/// A partner: the remote AS2 identity with its settings.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Partner {
    /// Unique in the account, compared exactly.
    pub as2_id: String,
    /// The account it belongs to.
    pub account: String,
    /// For people.
    pub name: String,
    /// Where messages are posted to.
    pub url: String,
    /// Contact.
    pub email: String,
    /// Which of our stations trade with it; `*` is all.
    pub stations: Vec<String>,
    /// Traffic refused.
    pub blocked: Blocked,
    /// Legal hold: no life cycle.
    pub hold: bool,
    /// Default subject; may hold [`crate::variables`].
    pub subject: String,
    /// Name of the file as the partner sees it; empty is its own name. May hold variables. Attachments of an unpacked zip
    /// keep their names.
    pub file_name: String,
    /// Content type of payloads; `auto` goes by extension, `detect` by the first bytes and then by extension.
    pub content_type: String,
    /// What happens to an uploaded zip.
    pub zip: Zip,
    /// Send zero-byte files.
    pub allow_empty: bool,

    /// Names of the certificates that verify its signatures, old and new.
    pub sign_certificate: Vec<String>,
    /// Name of the certificate that encrypts to it.
    pub encrypt_certificate: String,
    /// Digest of our signature; `none` sends unsigned.
    #[serde(with = "word_or_none")]
    pub sign: Option<Digest>,
    /// RSA signature scheme.
    #[serde(with = "word")]
    pub signature_scheme: SignatureScheme,
    /// How digests are spelt for it, in what we send and in its MDNs.
    #[serde(with = "word")]
    pub digest_names: DigestNames,
    /// Our signatures cover the names of their algorithms (CMSAlgorithmProtection, RFC 6211).
    pub protect_algorithms: bool,
    /// Our signatures carry our certificate.
    pub include_certificate: bool,
    /// Content encryption; `none` sends in clear.
    #[serde(with = "word_or_none")]
    pub encrypt: Option<Cipher>,
    /// How the content key is wrapped for an RSA certificate; an EC one has it by ECDH, with SHA-256 unless another is set.
    #[serde(with = "word")]
    pub key_transport: KeyTransport,
    /// What we send is encrypted to our own certificate as well, so that it can be opened here later.
    pub originator_copy: bool,
    /// Compression and its place.
    #[serde(with = "word")]
    pub compress: Compression,
    /// Transfer encoding of the payload.
    pub transfer_encoding: TransferEncoding,
    /// Definite lengths up to this many bytes, BER chunks above.
    pub der_max: u64,

    /// Unsigned messages are refused.
    pub require_signed: bool,
    /// Messages in clear are refused.
    pub require_encrypted: bool,
    /// SHA-1 and SHA-224 may be used.
    pub legacy: bool,
    /// 3DES is accepted.
    pub accept_3des: bool,
    /// MD5 is accepted.
    pub accept_md5: bool,

    /// A file name that came within 24 hours is refused (`duplicate-filename`).
    pub refuse_duplicate_names: bool,
    /// A file name that cannot be stored as it is, is refused (`illegal-filename`) and not made safe.
    pub refuse_illegal_names: bool,

    /// It gets `processed/warning: duplicate-document` for a Message-ID that was accepted before, not the first MDN again.
    pub duplicate_warning: bool,

    /// The receipt asked for.
    pub mdn: MdnMode,
    /// Digests that its receipt may have, the most wanted first; empty means that of our signature.
    #[serde(with = "word_list")]
    pub micalgs: Vec<Digest>,
    /// A signed receipt is `required`, not `optional` (RFC 4130 §7.3).
    pub mdn_required: bool,
    /// Further origins that its async MDNs may go to; those for messages that no signature proves go to these very addresses, or to
    /// `url`.
    pub mdn_urls: Vec<String>,

    /// TLS towards it.
    pub tls: TlsMode,
    /// Names of its pinned TLS certificates; empty means the system's roots.
    pub https_certificate: Vec<String>,
    /// Name of our TLS client certificate.
    pub client_certificate: String,
    /// Basic authentication that we show or, with a token URL, id and secret of a client.
    pub http_auth: HttpAuth,
    /// The token endpoint of OAuth 2.0 where that client gets the token that we show (RFC 6749 §4.4); empty means none.
    pub token_url: String,
    /// The scope that is asked for there; may be empty.
    pub token_scope: String,
    /// Basic authentication that it has to show with messages; signed MDNs need none: their signature is their proof.
    pub inbound_auth: HttpAuth,
    /// Addresses and blocks that its messages and MDNs may come from; empty means any. Behind a balancer it is that one's, unless it is in
    /// `as2.proxy_protocol_from`.
    pub allowed_ips: Vec<String>,
    /// Further header lines on each message; values may hold variables.
    pub headers: BTreeMap<String, String>,
    /// Proxy URL, `http://host:port`.
    pub proxy: String,
    /// Proxy credentials.
    pub proxy_auth: HttpAuth,
    /// Chunked transfer coding instead of a length.
    pub chunked: bool,
    /// Connections to it are used for several POSTs, provided that it detects duplicates.
    pub keep_alive: bool,
    /// It can go on with a POST that broke off (AS2 Restart).
    pub restart: bool,
    /// Its URLs may lead to private addresses.
    pub private: bool,
    /// Status of our answer to its async messages (200, 202 or 204).
    pub async_status: u16,

    /// Largest message accepted from it, bytes; 0 means the server's.
    pub max_message: u64,
    /// Seconds; 0 means the server's.
    pub connect_timeout: u64,
    /// Seconds; 0 means the server's.
    pub response_timeout: u64,
    /// Seconds for a whole POST, name to answer; 0 means no limit as long as bytes move.
    pub total_timeout: u64,
    /// Retry figures.
    pub retry: PartnerRetry,

    /// Messages posted to it at once; beside them as many async MDNs, up to 8 (`worker.rs`).
    pub max_parallel: u32,
    /// One after the other, in the order of acceptance.
    pub in_order: bool,
    /// It answers a repeated Message-ID with its first MDN; if not, an unknown outcome is held.
    pub detects_duplicates: bool,
    /// A verified MDN without MIC is a failure.
    pub strict_mic: bool,
    /// `AS2-Version` we announce.
    pub as2_version: String,
}

/// Definite CMS lengths are used up to this size: Java peers refuse longer ones (cms-streaming §4.3).
pub const DER_MAX_DEFAULT: u64 = 256 << 20;

impl Default for Partner {
    fn default() -> Self {
        Partner {
            as2_id: String::new(),
            account: String::new(),
            name: String::new(),
            url: String::new(),
            email: String::new(),
            stations: vec!["*".to_owned()],
            blocked: Blocked::None,
            hold: false,
            subject: String::new(),
            file_name: String::new(),
            content_type: "auto".to_owned(),
            zip: Zip::AsIs,
            allow_empty: false,
            sign_certificate: Vec::new(),
            encrypt_certificate: String::new(),
            sign: Some(Digest::Sha256),
            signature_scheme: SignatureScheme::RsaPkcs1,
            digest_names: DigestNames::Rfc5751,
            protect_algorithms: false,
            include_certificate: true,
            encrypt: Some(Cipher::Aes256Cbc),
            key_transport: KeyTransport::RsaPkcs1,
            originator_copy: false,
            compress: Compression::None,
            transfer_encoding: TransferEncoding::Binary,
            der_max: DER_MAX_DEFAULT,
            require_signed: true,
            require_encrypted: true,
            legacy: false,
            accept_3des: false,
            accept_md5: false,
            refuse_duplicate_names: false,
            refuse_illegal_names: false,
            duplicate_warning: false,
            mdn: MdnMode::SyncSigned,
            micalgs: Vec::new(),
            mdn_required: false,
            mdn_urls: Vec::new(),
            tls: TlsMode::Default,
            https_certificate: Vec::new(),
            client_certificate: String::new(),
            http_auth: HttpAuth::default(),
            token_url: String::new(),
            token_scope: String::new(),
            inbound_auth: HttpAuth::default(),
            allowed_ips: Vec::new(),
            headers: BTreeMap::new(),
            proxy: String::new(),
            proxy_auth: HttpAuth::default(),
            chunked: false,
            keep_alive: true,
            restart: false,
            private: false,
            async_status: 204,
            max_message: 0,
            connect_timeout: 0,
            response_timeout: 0,
            total_timeout: 0,
            retry: PartnerRetry::default(),
            max_parallel: 4,
            in_order: false,
            detects_duplicates: true,
            strict_mic: false,
            as2_version: "1.2".to_owned(),
        }
    }
}

impl Partner {
    /// Every pair of user and password, with the label that its sealed password is bound to.
    pub fn credentials(&mut self) -> [(&'static str, &mut HttpAuth); 3] {
        [
            ("http-auth", &mut self.http_auth),
            ("inbound-auth", &mut self.inbound_auth),
            ("proxy-auth", &mut self.proxy_auth),
        ]
    }

    /// Whether it trades with this station.
    #[must_use]
    pub fn trades_with(&self, station: &str) -> bool {
        self.as2_id != station && self.stations.iter().any(|s| s == "*" || s == station)
    }

    /// The command that makes it trade with this station as well.
    #[must_use]
    pub(crate) fn trading_with(&self, station: &str) -> String {
        let stations: Vec<&str> = self.stations.iter().map(String::as_str).chain([station]).collect();
        command("partner set", &self.as2_id, &option("stations", &stations.join(",")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What people copy names a default wherever it shows another value, and names it rightly.
    #[test]
    fn the_example_of_a_partner_names_the_defaults() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/partner/partner.toml");
        let text = std::fs::read_to_string(file).unwrap();
        let (_, settings) = text.split_once("[[partner]]").unwrap();
        let defaults = serde_json::to_value(Partner::default()).unwrap();
        let mut seen = 0;
        for line in settings.lines() {
            let setting = line.strip_prefix("# ").unwrap_or(line);
            let Some((key, rest)) = setting.split_once(" = ") else { continue };
            let Some(default) = defaults.get(key) else { continue };
            let default = match default {
                serde_json::Value::Array(list) => list.iter().filter_map(|item| item.as_str()).collect(),
                serde_json::Value::Object(_) => String::new(),
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let (value, comment) = rest.split_once(" # ").unwrap_or((rest, ""));
            let shown = value.trim().trim_matches('"');
            let named = comment
                .split_once("default: ")
                .map(|(_, rest)| rest.split([';', ',', ' ']).next().unwrap());
            if matches!(default.as_str(), "" | "0") || shown == default {
                assert!(named.is_none_or(|named| named == default), "{line}");
            } else {
                assert_eq!(named, Some(default.as_str()), "{line}");
                seen += 1;
            }
        }
        assert!(seen > 5, "{seen}");
    }
}
