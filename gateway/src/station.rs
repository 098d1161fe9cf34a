//! Our side of an exchange: an AS2 id with its identity and address.

use serde::{Deserialize, Serialize};

/// A station: our AS2 identity.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Station {
    /// Unique on the server, compared exactly.
    pub as2_id: String,
    /// The account it belongs to.
    #[serde(default)]
    pub account: String,
    /// For people.
    #[serde(default)]
    pub name: String,
    /// Where receipts are asked for (`Disposition-Notification-To`).
    #[serde(default)]
    pub email: String,
    /// Where partners post to; empty means `public_url` and `as2.path`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Name of the certificate (with key) that signs and decrypts now.
    #[serde(default)]
    pub certificate: String,
    /// Further certificates (with keys) that still or already decrypt: the overlap of a rollover.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_decrypt: Vec<String>,
}
