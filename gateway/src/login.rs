//! The ways in which a user may log in, in the spirit of OpenSSH's `AuthenticationMethods`: alternatives, each a list of
//! steps that have to be taken in this order.

use serde::{Deserialize, Serialize};

use crate::words;

/// Most alternatives of one user.
pub const MAX_WAYS: usize = 8;

words! {
    /// One step of a login.
    pub enum LoginStep {
        /// A key of the user's, or a certificate of one by an authority that is trusted.
        PublicKey = "publickey",
        /// The user's password.
        Password = "password",
        /// A code from the user's authenticator app.
        Totp = "totp",
    }
}

/// Alternatives with their steps: `publickey,totp password,totp`. Also read as a list, one alternative an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "String")]
pub struct LoginWays(Vec<Vec<LoginStep>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    One(String),
    Several(Vec<String>),
}

/// How far the steps taken lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nowhere.
    Astray,
    /// One of these steps is the next.
    Next(Vec<LoginStep>),
    /// To the end.
    Complete,
}

impl Default for LoginWays {
    fn default() -> Self {
        LoginWays(vec![vec![LoginStep::PublicKey]])
    }
}

impl LoginWays {
    /// What follows after these steps.
    #[must_use]
    pub fn after(&self, taken: &[LoginStep]) -> Progress {
        let mut next = Vec::new();
        for way in &self.0 {
            match way.strip_prefix(taken) {
                Some([]) => return Progress::Complete,
                Some([step, ..]) if !next.contains(step) => next.push(*step),
                _ => {}
            }
        }
        if next.is_empty() { Progress::Astray } else { Progress::Next(next) }
    }

    /// Whether some way has this step.
    #[must_use]
    pub fn has(&self, step: LoginStep) -> bool {
        self.0.iter().any(|way| way.contains(&step))
    }

    /// The same ways, each with a code at its end.
    #[must_use]
    pub fn with_codes(&self) -> Self {
        let way = |way: &Vec<LoginStep>| way.iter().copied().chain([LoginStep::Totp]).collect();
        LoginWays(self.0.iter().map(way).collect())
    }

    /// For people: `publickey, then totp; or password, then totp`.
    #[must_use]
    pub fn describe(&self) -> String {
        let way = |way: &Vec<LoginStep>| way.iter().map(|step| step.as_str()).collect::<Vec<_>>().join(", then ");
        self.0.iter().map(way).collect::<Vec<_>>().join("; or ")
    }
}

impl TryFrom<Text> for LoginWays {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        let ways: Vec<String> = match text {
            Text::One(text) => text.split_whitespace().map(str::to_owned).collect(),
            Text::Several(list) => list,
        };
        if ways.is_empty() || ways.len() > MAX_WAYS {
            return Err(format!("login takes 1 to {MAX_WAYS} ways, such as publickey or publickey,totp"));
        }
        let mut all = Vec::new();
        for text in &ways {
            let steps = text.split(',').map(|step| step.trim().parse());
            let way: Vec<LoginStep> = steps.collect::<Result<_, String>>().map_err(|why| format!("login: {why}"))?;
            if way.first() == Some(&LoginStep::Totp) {
                return Err("login: a code alone is no login; put publickey or password before totp".to_owned());
            }
            if way
                .iter()
                .enumerate()
                .any(|(at, step)| way.get(..at).is_some_and(|before| before.contains(step)))
            {
                return Err(format!("login: `{}` has a step twice", text.escape_default()));
            }
            all.push(way);
        }
        Ok(LoginWays(all))
    }
}

impl From<LoginWays> for String {
    fn from(ways: LoginWays) -> String {
        let way = |way: &Vec<LoginStep>| way.iter().map(|step| step.as_str()).collect::<Vec<_>>().join(",");
        ways.0.iter().map(way).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use LoginStep::{Password, PublicKey, Totp};

    fn ways(json: &str) -> Result<LoginWays, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn steps_are_taken_in_order() {
        let two = ways(r#""publickey,totp password,totp""#).unwrap();
        assert_eq!(two, ways(r#"["publickey,totp", "password, totp"]"#).unwrap());
        assert_eq!(two.after(&[]), Progress::Next(vec![PublicKey, Password]));
        assert_eq!(two.after(&[Password]), Progress::Next(vec![Totp]));
        assert_eq!(two.after(&[Totp]), Progress::Astray);
        assert_eq!(two.after(&[Password, PublicKey]), Progress::Astray);
        assert_eq!(two.after(&[PublicKey, Totp]), Progress::Complete);
        assert_eq!(serde_json::to_string(&two).unwrap(), r#""publickey,totp password,totp""#);
        assert_eq!(LoginWays::default().after(&[PublicKey]), Progress::Complete);
    }

    #[test]
    fn senseless_ways_are_refused() {
        for wrong in [
            r#""""#,
            r#"[]"#,
            r#""totp""#,
            r#""publickey,publickey""#,
            r#""key""#,
            r#""publickey,""#,
        ] {
            assert!(ways(wrong).is_err(), "{wrong}");
        }
    }
}
