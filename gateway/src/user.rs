//! An SFTP login of an account. The kind decides name rule, login methods, layout and rights, all here.

use serde::{Deserialize, Serialize};

use crate::layout::{self, Area};
use crate::login::LoginWays;
use crate::words;

/// Longest user name in characters.
pub const MAX_USER_NAME: usize = 64;

words! {
    /// What sort of user it is; later also `epoch` and `feed`.
    pub enum UserKind {
        /// Sends and fetches in the `AS2/` tree; with keys unless other ways to log in are set.
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
    /// How the user logs in: `publickey`, `password`, `publickey,password`, `publickey,totp`, several with blanks between.
    #[serde(default)]
    pub login: LoginWays,
    /// Public keys as normalised `authorized_keys` lines with their options; with `cert-authority` whose certificates count.
    #[serde(default)]
    pub keys: Vec<String>,
    /// The argon2id hash of the password; empty means none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub password: String,
    /// The secret of the authenticator app, sealed; empty means none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub totp: String,
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
    /// What the user may do where; the longest prefix of a path decides. Empty means everything that the place allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rights: Vec<Right>,
    /// Stations whose directories the user sees; empty means all of the account.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stations: Vec<String>,
    /// Partners whose directories the user sees; empty means all of the account.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partners: Vec<String>,
    /// Most sessions at a time; 0 means no limit of its own.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub max_sessions: u64,
    /// Most bytes that the user's files in `send` may have together; 0 means no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub quota_bytes: u64,
    /// Most files that the user may have in `send`; 0 means no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub quota_files: u64,
    /// Bytes per second each way over all sessions of the user, [`MIN_BANDWIDTH`] at least; 0 means no limit.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "bandwidth")]
    pub bandwidth: u64,
}

/// Least bandwidth that can be set, in bytes per second: below it, one block would hold its thread for too long.
pub const MIN_BANDWIDTH: u64 = 64 << 10;
/// Longest text of one right, in bytes.
pub const MAX_RIGHT: usize = 4096;

/// What a user wants to do with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// List directories and read files.
    Read,
    /// Upload, rename and set attributes.
    Write,
    /// Remove.
    Delete,
}

/// What is allowed below a directory of the account's home: `AS2/send=rw`, `AS2/files=rd`, `AS2=` for nothing.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String", into = "String")]
pub struct Right {
    pub(crate) prefix: Vec<String>,
    read: bool,
    write: bool,
    delete: bool,
}

impl Right {
    fn allows(&self, act: Act) -> bool {
        match act {
            Act::Read => self.read,
            Act::Write => self.write,
            Act::Delete => self.delete,
        }
    }

    fn allows_anything(&self) -> bool {
        self.read || self.write || self.delete
    }
}

impl TryFrom<String> for Right {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || {
            format!(
                "right `{}` is not PREFIX=LETTERS, such as AS2/send=rw; letters are r, w and d",
                text.escape_default()
            )
        };
        if text.len() > MAX_RIGHT || text.chars().any(char::is_control) {
            return Err(wrong());
        }
        let (prefix, letters) = text.rsplit_once('=').ok_or_else(wrong)?;
        let prefix: Vec<String> = prefix.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let known = letters.chars().all(|letter| "rwd".contains(letter));
        if !known || prefix.iter().any(|part| part == "." || part == "..") {
            return Err(wrong());
        }
        Ok(Right {
            prefix,
            read: letters.contains('r'),
            write: letters.contains('w'),
            delete: letters.contains('d'),
        })
    }
}

impl From<Right> for String {
    fn from(right: Right) -> String {
        let letters = [(right.read, 'r'), (right.write, 'w'), (right.delete, 'd')];
        let letters: String = letters.iter().filter(|(has, _)| *has).map(|(_, letter)| *letter).collect();
        let prefix = if right.prefix.is_empty() {
            "/".to_owned()
        } else {
            right.prefix.join("/")
        };
        format!("{prefix}={letters}")
    }
}

impl User {
    /// A user of AS2 that may log in and has nothing of its own yet: no account, keys, limits.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            account: String::new(),
            kind: UserKind::As2,
            login: LoginWays::default(),
            keys: Vec::new(),
            password: String::new(),
            totp: String::new(),
            allowed_ips: Vec::new(),
            delete_received: false,
            enabled: true,
            expires: String::new(),
            rights: Vec::new(),
            stations: Vec::new(),
            partners: Vec::new(),
            max_sessions: 0,
            quota_bytes: 0,
            quota_files: 0,
            bandwidth: 0,
        }
    }

    /// Whether the user's rights allow this for a path, given in components below the account's home.
    #[must_use]
    pub fn may(&self, act: Act, path: &[String]) -> bool {
        if self.rights.is_empty() {
            return true;
        }
        let above = self.rights.iter().filter(|right| path.starts_with(&right.prefix));
        above.max_by_key(|right| right.prefix.len()).is_some_and(|right| right.allows(act))
    }

    /// Whether the user sees that a path exists: it may do something there, or the way to such a place leads over it.
    #[must_use]
    pub fn sees(&self, path: &[String]) -> bool {
        let allowed = [Act::Read, Act::Write, Act::Delete].iter().any(|act| self.may(*act, path));
        (allowed || self.leads_on(path)) && self.sees_pair(path)
    }

    /// Whether the way to a place with rights leads over this path.
    #[must_use]
    pub fn leads_on(&self, path: &[String]) -> bool {
        self.rights
            .iter()
            .any(|right| right.allows_anything() && right.prefix.len() > path.len() && right.prefix.starts_with(path))
    }

    /// The directories are `AS2/<area>/<station>/<partner>`; MDNs lie together, so a user of some pairs sees none.
    fn sees_pair(&self, path: &[String]) -> bool {
        if self.stations.is_empty() && self.partners.is_empty() {
            return true;
        }
        if path.get(1).is_some_and(|area| area == Area::RawMdn.as_str()) {
            return false;
        }
        let fits = |allowed: &[String], part: Option<&String>| {
            let id = part.map(|part| layout::decode(part).unwrap_or_default());
            allowed.is_empty() || id.is_none_or(|id| allowed.contains(&id))
        };
        fits(&self.stations, path.get(2)) && fits(&self.partners, path.get(3))
    }

    /// Whether the user deals with this pair at all.
    #[must_use]
    pub fn deals_with(&self, station: &str, partner: &str) -> bool {
        let fits = |allowed: &[String], id: &str| allowed.is_empty() || allowed.iter().any(|one| one == id);
        fits(&self.stations, station) && fits(&self.partners, partner)
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn bandwidth<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(from)?;
    if (1..MIN_BANDWIDTH).contains(&number) {
        return Err(serde::de::Error::custom(format!(
            "bandwidth must be {MIN_BANDWIDTH} bytes per second at least, or 0 for no limit"
        )));
    }
    Ok(number)
}

fn as2() -> UserKind {
    UserKind::As2
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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

    fn user(fields: serde_json::Value) -> User {
        let mut all = serde_json::json!({ "name": "u" });
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    fn path(text: &str) -> Vec<String> {
        text.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn the_longest_prefix_decides() {
        let user = user(serde_json::json!({ "rights": ["AS2/send=rw", "AS2/send/A/B=w", "AS2/files=rd", "AS2/files/A/X="] }));
        for (act, place, allowed) in [
            (Act::Write, "AS2/send/A/C/f", true),
            (Act::Delete, "AS2/send/A/C/f", false),
            (Act::Read, "AS2/send/A/B/f", false),
            (Act::Write, "AS2/send/A/B/f", true),
            (Act::Read, "AS2/files/A/B/inbox/1/f", true),
            (Act::Delete, "AS2/files/A/B/inbox/1/f", true),
            (Act::Read, "AS2/files/A/X/inbox/1/f", false),
            (Act::Read, "AS2/raw-message/A/B", false),
            (Act::Read, "AS2/sendx", false),
        ] {
            assert_eq!(user.may(act, &path(place)), allowed, "{act:?} {place}");
        }
        for (place, seen) in [
            ("", true),
            ("AS2", true),
            ("AS2/send/A", true),
            ("AS2/headers", false),
            ("AS2/files/A/X", false),
        ] {
            assert_eq!(user.sees(&path(place)), seen, "{place}");
        }
    }

    #[test]
    fn pairs_that_are_not_allowed_are_not_seen() {
        let user = user(serde_json::json!({ "stations": ["A"], "partners": ["B"] }));
        for (place, seen) in [
            ("AS2/send", true),
            ("AS2/send/A/B/f", true),
            ("AS2/send/A/C", false),
            ("AS2/files/X", false),
            ("AS2/raw-mdn", false),
        ] {
            assert_eq!(user.sees(&path(place)), seen, "{place}");
        }
        assert!(user.deals_with("A", "B") && !user.deals_with("A", "C"));
    }

    #[test]
    fn rights_are_texts_and_odd_ones_are_refused() {
        let right = Right::try_from("/AS2/send/=wr".to_owned()).unwrap();
        assert_eq!(String::from(right), "AS2/send=rw");
        for bad in ["AS2/send", "AS2=x", "../x=r", "a\u{0}=r"] {
            assert!(Right::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        assert!(serde_json::from_value::<User>(serde_json::json!({ "name": "u", "bandwidth": 10 })).is_err());
    }
}
