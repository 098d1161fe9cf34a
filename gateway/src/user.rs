//! An SFTP login of an account. The kind decides name rule, login methods, layout and rights, all here.

use serde::{Deserialize, Serialize};

use crate::words;

/// Longest user name in characters.
pub const MAX_USER_NAME: usize = 64;

words! {
    /// What sort of user it is; later also `epoch` and `feed`.
    pub enum UserKind {
        /// Sends and fetches in the `AS2/` tree; keys only.
        As2 = "as2",
    }
}

impl UserKind {
    /// Whether a name is allowed for this kind.
    ///
    /// # Errors
    /// The vendor's rule in words.
    pub fn check_name(self, name: &str) -> Result<(), String> {
        let UserKind::As2 = self;
        let legal = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if name.is_empty() || name.len() > MAX_USER_NAME || !legal || name.starts_with('-') {
            return Err(format!(
                "user name `{}` must be 1 to {MAX_USER_NAME} of a-z, A-Z, 0-9, - and _, and must not begin with -",
                name.escape_default()
            ));
        }
        Ok(())
    }
}

/// An SFTP login.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Unique on the server, ignoring case.
    pub name: String,
    /// The account it belongs to.
    #[serde(default)]
    pub account: String,
    /// Decides rules and rights.
    #[serde(default = "as2")]
    pub kind: UserKind,
    /// Public keys as normalised `authorized_keys` lines, options `from=` and `expiry-time=` included.
    #[serde(default)]
    pub keys: Vec<String>,
    /// CIDR blocks the user may come from; empty means anywhere.
    #[serde(default)]
    pub allowed_ips: Vec<String>,
    /// May delete fetched files from an inbox.
    #[serde(default)]
    pub delete_received: bool,
    /// May log in.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// RFC 3339 time after which no login is accepted; empty means never.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub expires: String,
}

fn as2() -> UserKind {
    UserKind::As2
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_vendors_rule() {
        for good in ["a", "A-b_9", "_x", "9"] {
            assert!(UserKind::As2.check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a.b", "a b", "ä", "a/b", "a\0", &"x".repeat(65)] {
            assert!(UserKind::As2.check_name(bad).is_err(), "{bad}");
        }
    }
}
