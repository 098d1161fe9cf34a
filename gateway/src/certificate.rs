//! Key pairs and trusted certificates as objects: what they are for, whose they are, from when they count.

use serde::{Deserialize, Serialize};

use crate::clock::Millis;
use crate::objects::Objects;
use crate::words;

words! {
    /// What a certificate is used for.
    pub enum Purpose {
        /// A station's own key pair.
        Station = "station",
        /// A partner's signing and encryption certificate, pinned.
        Partner = "partner",
        /// An issuer in a partner's chain, or in that of our own TLS certificate; informs, never proves.
        PartnerChain = "partner-chain",
        /// Our TLS key pair, or a partner's pinned TLS certificate.
        Https = "https",
        /// An issuer of client certificates that partners show at our TLS port; proves.
        HttpsChain = "https-chain",
    }
}

/// A key pair or trusted certificate.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Unique in the account.
    pub name: String,
    /// The account it belongs to.
    #[serde(default)]
    pub account: String,
    /// What it is used for.
    pub purpose: Purpose,
    /// AS2 id of the station or partner it belongs to; empty if to none.
    #[serde(default)]
    pub owner: String,
    /// The certificate's own bytes, never re-encoded.
    #[serde(skip)]
    pub der: Vec<u8>,
    /// PKCS#8, sealed under the master key with `context()`; absent for trusted certificates.
    #[serde(skip)]
    pub sealed_key: Option<Vec<u8>>,
    /// Name of the certificate that this one takes over from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub replaces: String,
    /// When the switch happens, RFC 3339; empty means it has happened or none is planned.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub active_from: String,
    /// AS2 ids of partners that said they have taken this certificate of a station's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub confirmed_by: Vec<String>,
    /// Subject, for listings.
    #[serde(default)]
    pub subject: String,
    /// SHA-256 of `der` in hex, for listings and comparison.
    #[serde(default)]
    pub fingerprint: String,
    /// `RSA 3072`, `EC P-256`, for listings.
    #[serde(default)]
    pub key: String,
    /// Validity in unix seconds.
    #[serde(default)]
    pub not_before: i64,
    /// Validity in unix seconds.
    #[serde(default)]
    pub not_after: i64,
}

/// The certificates that are to take over from this one or have done so, one after the other.
#[must_use]
pub fn successors<'a>(objects: &'a Objects, account: &str, name: &'a str) -> Vec<&'a Certificate> {
    let of_account = |c: &&Certificate| c.account == account && c.takes_over_at().is_some();
    let planned: Vec<&Certificate> = objects.certificates.values().filter(of_account).collect();
    let mut found: Vec<&Certificate> = Vec::new();
    let mut replaced = name;
    while let Some(next) = planned.iter().find(|c| c.replaces == replaced) {
        if found.iter().any(|c| c.name == next.name) {
            // A file of objects may let two replace each other.
            break;
        }
        found.push(next);
        replaced = &next.name;
    }
    found
}

/// Those of them whose time has come: the last one stands for the name now. None goes before the one that it replaces.
#[must_use]
pub fn taken_over<'a>(objects: &'a Objects, account: &str, name: &'a str, now: Millis) -> Vec<&'a Certificate> {
    let mut found = successors(objects, account, name);
    let due = found.iter().take_while(|c| c.takes_over_at().is_some_and(|at| at <= now)).count();
    found.truncate(due);
    found
}

/// The certificate that stands for this name now.
#[must_use]
pub fn in_force<'a>(objects: &'a Objects, account: &str, name: &'a str, now: Millis) -> Option<&'a Certificate> {
    let newest = taken_over(objects, account, name, now).pop();
    newest.or_else(|| objects.certificate(account, name))
}

/// Shortest RSA key that is no reason for a warning (NIST SP 800-131A).
const LEAST_RSA_BITS: u32 = 2048;

impl Certificate {
    /// The size of an RSA key that is too short today.
    #[must_use]
    pub fn short_rsa_bits(&self) -> Option<u32> {
        let bits = self.key.strip_prefix("RSA ")?.parse().ok()?;
        Some(bits).filter(|bits| *bits < LEAST_RSA_BITS)
    }

    /// The same that follows no other certificate.
    #[must_use]
    pub fn following_none(&self) -> Self {
        Certificate {
            replaces: String::new(),
            active_from: String::new(),
            ..self.clone()
        }
    }

    /// Whether it follows this one as soon as a CA has signed its key: no time is set.
    #[must_use]
    pub fn awaits_ca(&self, old: &Certificate) -> bool {
        self.account == old.account && self.replaces == old.name && self.active_from.is_empty()
    }

    /// When it takes over from the one that it replaces, in milliseconds since 1970; `None` if no switch to it is planned.
    #[must_use]
    pub fn takes_over_at(&self) -> Option<Millis> {
        if self.replaces.is_empty() {
            return None;
        }
        // As a moment, not as a text: TOML files may write it with any offset.
        self.active_from
            .parse::<jiff::Timestamp>()
            .ok()
            .map(jiff::Timestamp::as_millisecond)
    }

    /// Whether its key is of a kind that signs and cannot encrypt.
    #[must_use]
    pub fn signs_only(&self) -> bool {
        ["Ed", "DSA", "RSA-PSS"].iter().any(|kind| self.key.starts_with(kind))
    }

    /// When its validity ends, in milliseconds since 1970.
    #[must_use]
    pub fn ends(&self) -> Millis {
        self.not_after.saturating_mul(1000)
    }

    /// What the sealed key is bound to, so that one record cannot be pasted over another.
    #[must_use]
    pub fn seal_context(account: &str, name: &str) -> String {
        format!("certificate/{account}/{name}")
    }
}
