//! The account: it owns everything below it.

use serde::{Deserialize, Serialize};

/// Longest account id in characters.
pub const MAX_ACCOUNT_ID: usize = 40;

/// One owner; one storage root, SFTP home `/mftg-<id>`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Known by: `[a-z0-9-]`, at most 40 characters.
    pub id: String,
    /// For people.
    #[serde(default)]
    pub name: String,
    /// For people; every rule counts in UTC.
    #[serde(default = "utc")]
    pub timezone: String,
    /// Overrides the server's life cycle; absent means the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<toml::Table>,
}

fn utc() -> String {
    "UTC".to_owned()
}

impl Account {
    /// A new account of that id.
    ///
    /// # Errors
    /// The rule, if the id breaks it.
    pub fn new(id: &str) -> Result<Self, String> {
        let fits =
            !id.is_empty() && id.len() <= MAX_ACCOUNT_ID && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fits {
            return Err(format!("account id `{id}` must be 1 to {MAX_ACCOUNT_ID} of a-z, 0-9 and -"));
        }
        Ok(Account {
            id: id.to_owned(),
            name: String::new(),
            timezone: utc(),
            lifecycle: None,
        })
    }
}
