//! One line of the journal's record: who did or decided what. Alerts will read these rows by cursor.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::clock::Millis;

/// Who runs the command that this process is; a server is nobody's.
static OPERATOR: OnceLock<String> = OnceLock::new();

/// From now on every event of this process carries the fact `operator`, with this name.
pub fn told_by(operator: String) {
    let _ = OPERATOR.set(operator);
}

/// An event row; its hash chains it to the one before (security.md §11).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Counted up by the journal.
    pub seq: i64,
    /// When.
    pub at: Millis,
    /// Whose.
    pub account: String,
    /// `message.received`, `user.login_failed`, …
    pub kind: String,
    /// Message id, user or object that it is about.
    pub subject: String,
    /// Further facts, a JSON object.
    pub facts: serde_json::Value,
}

/// An event before the journal numbers it.
#[derive(Clone, Debug)]
pub struct NewEvent<'a> {
    /// Whose.
    pub account: &'a str,
    /// `message.received`, …
    pub kind: &'a str,
    /// What it is about.
    pub subject: &'a str,
    /// Further facts.
    pub facts: serde_json::Value,
}

impl NewEvent<'_> {
    /// Its facts as they are written.
    pub(crate) fn all_facts(&self) -> String {
        match OPERATOR.get() {
            Some(operator) => {
                let mut facts = self.facts.clone();
                facts["operator"] = operator.as_str().into();
                facts.to_string()
            }
            None => self.facts.to_string(),
        }
    }
}
