//! Fields by their names: the keys of the TOML form are the flags of `set` and the words of a difference.

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{Object, Refusal, Result};
use crate::config::{nearest, parse_duration, parse_size};

/// The tables whose entries are named with a dot, e.g. `http_auth.user`.
const NESTED: &[&str] = &["http_auth", "inbound_auth", "proxy_auth", "retry", "headers", "lifecycle"];

/// An object as a table of its fields.
#[must_use]
pub fn table<T: Serialize>(object: &T) -> Table {
    match Value::try_from(object) {
        Ok(Value::Table(table)) => table,
        _ => Table::new(),
    }
}

impl Object {
    /// The fields in TOML form; a certificate's bytes are not among them.
    #[must_use]
    pub fn table(&self) -> Table {
        table(self)
    }
}

/// The names of the fields in which two objects differ.
#[must_use]
pub fn changed(old: &Object, new: &Object) -> Vec<String> {
    let (a, b) = (old.table(), new.table());
    let mut names: Vec<String> = a
        .keys()
        .chain(b.keys())
        .filter(|name| a.get(*name) != b.get(*name))
        .cloned()
        .collect();
    if let (Object::Certificate(a), Object::Certificate(b)) = (old, new)
        && a.sealed_key.is_some() != b.sealed_key.is_some()
    {
        names.push("private_key".to_owned());
    }
    names.sort();
    names.dedup();
    names
}

/// A copy of an object with fields set from texts: `sign=none`, `stations=A,B`, `headers.X-Env=prod`, `retry.max_tries=3`.
///
/// # Errors
/// An unknown field (with the nearest known one), or a value that does not fit it.
pub fn assign<T: Serialize + DeserializeOwned>(object: &T, settings: &[(String, String)]) -> Result<T> {
    let mut fields = table(object);
    for (name, text) in settings {
        // Header names keep their hyphens; no field of ours has one.
        let name = if name.starts_with("headers.") {
            name.clone()
        } else {
            name.replace('-', "_")
        };
        let wrong = |why: &str| {
            let known = why.contains("unknown field");
            let near = nearest(&name, fields.keys().map(String::as_str)).filter(|_| known);
            let hint = near.map_or_else(
                || "`set --help` lists the settings and their values".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            Refusal::invalid(format!("cannot set {name}"), in_words(why, &name, text), hint)
        };
        let mut last = String::new();
        let fitting = candidates(lookup(&fields, &name), Unit::of(&name), text)
            .into_iter()
            .find_map(|value| {
                let mut trial = fields.clone();
                put(&mut trial, &name, value);
                match Value::Table(trial.clone()).try_into::<T>() {
                    Ok(_) => Some(trial),
                    Err(error) => {
                        last = error.message().to_owned();
                        None
                    }
                }
            });
        fields = fitting.ok_or_else(|| wrong(&last))?;
    }
    let outcome = Value::Table(fields).try_into::<T>();
    outcome.map_err(|error| Refusal::invalid("cannot set", error.message().to_owned(), "`set --help` lists the settings"))
}

/// What the number in a field counts, and so which units it may be written with.
#[derive(Clone, Copy)]
enum Unit {
    Bytes,
    Seconds,
    Pieces,
}

impl Unit {
    fn of(field: &str) -> Self {
        match field {
            "bandwidth" | "der_max" | "max_message" | "quota_bytes" => Unit::Bytes,
            _ if field.ends_with("_timeout") => Unit::Seconds,
            _ => Unit::Pieces,
        }
    }

    /// A bare number, or one with a unit of this kind.
    fn read(self, text: &str) -> Option<i64> {
        let bare = text.parse().ok();
        bare.or_else(|| match self {
            Unit::Bytes => i64::try_from(parse_size(text).ok()?).ok(),
            Unit::Seconds => {
                let span = parse_duration(text).ok().filter(|span| span.subsec_nanos() == 0)?;
                i64::try_from(span.as_secs()).ok()
            }
            Unit::Pieces => None,
        })
    }

    /// What else it takes than a whole number.
    fn or_else(self) -> &'static str {
        match self {
            Unit::Bytes => ", nor a size like 10MB",
            Unit::Seconds => " of seconds, nor a time in whole seconds like 30s or 2m",
            Unit::Pieces => "",
        }
    }
}

/// What a value is refused for; a wrong type in words for people.
fn in_words(why: &str, field: &str, text: &str) -> String {
    let text = text.escape_debug();
    if why.contains("expected u64") || why.contains("expected u32") {
        format!("`{text}` is no whole number{}", Unit::of(field).or_else())
    } else if why.contains("expected f64") {
        format!("`{text}` is no number")
    } else if why.contains("expected a boolean") {
        format!("`{text}` is neither true nor false")
    } else {
        why.lines().next().unwrap_or(why).to_owned()
    }
}

/// The values that a text may stand for, the likeliest first: the type of what is there decides.
fn candidates(present: Option<&Value>, unit: Unit, text: &str) -> Vec<Value> {
    let plain = || Value::String(text.to_owned());
    let list = || {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
    };
    let fraction = || text.parse().ok().map(Value::Float);
    match present {
        Some(Value::Array(_)) => vec![list()],
        Some(Value::Integer(_)) => vec![unit.read(text).map_or_else(plain, Value::Integer)],
        Some(Value::Float(_)) => vec![fraction().unwrap_or_else(plain)],
        Some(Value::Boolean(_)) => match text {
            "true" | "yes" | "on" => vec![Value::Boolean(true)],
            "false" | "no" | "off" => vec![Value::Boolean(false)],
            _ => vec![plain()],
        },
        // Absent: a field that is left out while empty. Its type shows in what it takes.
        None => {
            let mut all = vec![plain(), list()];
            all.extend(unit.read(text).map(Value::Integer).or_else(fraction));
            all
        }
        Some(_) => vec![plain()],
    }
}

fn lookup<'a>(fields: &'a Table, name: &str) -> Option<&'a Value> {
    match split(name) {
        Some((section, rest)) => fields.get(section).and_then(Value::as_table).and_then(|inner| inner.get(rest)),
        None => fields.get(name),
    }
}

fn put(fields: &mut Table, name: &str, value: Value) {
    let Some((section, rest)) = split(name) else {
        fields.insert(name.to_owned(), value);
        return;
    };
    let inner = fields.entry(section).or_insert_with(|| Value::Table(Table::new()));
    let Some(inner) = inner.as_table_mut() else { return };
    // An empty header or retry figure is one that is not set.
    if value.as_str() == Some("") && matches!(section, "headers" | "retry") {
        inner.remove(rest);
        return;
    }
    match rest.split_once('.') {
        Some((area, stage)) if section == "lifecycle" => {
            let stages = inner.entry(area).or_insert_with(|| Value::Table(Table::new()));
            if let Some(stages) = stages.as_table_mut() {
                stages.insert(stage.to_owned(), value);
            }
        }
        _ => drop(inner.insert(rest.to_owned(), value)),
    }
}

fn split(name: &str) -> Option<(&str, &str)> {
    name.split_once('.').filter(|(section, _)| NESTED.contains(section))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::partner::Partner;
    use crate::user::User;

    fn set(partner: &Partner, name: &str, text: &str) -> Result<Partner> {
        assign(partner, &[(name.to_owned(), text.to_owned())])
    }

    #[test]
    fn fields_are_set_by_name() {
        let partner = Partner {
            as2_id: "B".to_owned(),
            ..Partner::default()
        };
        assert_eq!(set(&partner, "sign", "none").unwrap().sign, None);
        assert_eq!(set(&partner, "stations", "A, C").unwrap().stations, ["A", "C"]);
        assert!(set(&partner, "private", "yes").unwrap().private);
        assert_eq!(set(&partner, "max-message", "1GiB").unwrap().max_message, 1 << 30);
        assert_eq!(set(&partner, "connect_timeout", "2m").unwrap().connect_timeout, 120);
        assert_eq!(set(&partner, "retry.max_tries", "3").unwrap().retry.max_tries, Some(3));
        let slower = set(&partner, "retry.factor", "2").unwrap();
        assert_eq!(set(&slower, "retry.factor", "1.5").unwrap().retry.factor, Some(1.5));
        assert_eq!(set(&slower, "retry.factor", "").unwrap().retry, partner.retry);
        assert!(set(&slower, "retry.factor", "x").unwrap_err().why.contains("is no number"));
        assert_eq!(set(&partner, "retry.initial", "5s").unwrap().retry.initial.as_deref(), Some("5s"));
        assert_eq!(set(&partner, "http_auth.user", "joe").unwrap().http_auth.user, "joe");
        let headed = set(&partner, "headers.X-Env", "a=b").unwrap();
        assert_eq!(headed.headers.get("X-Env").map(String::as_str), Some("a=b"));
        assert!(set(&headed, "headers.X-Env", "").unwrap().headers.is_empty());
        let error = set(&partner, "encript", "none").unwrap_err();
        assert!(error.hint.contains("encrypt"), "{error:?}");
        assert!(set(&partner, "sign", "crc32").is_err() && set(&partner, "private", "maybe").is_err());
    }

    #[test]
    fn a_value_of_another_kind_is_told_in_words() {
        let user: User = serde_json::from_str(r#"{"name":"u"}"#).unwrap();
        let why = |name: &str, text: &str| assign(&user, &[(name.to_owned(), text.to_owned())]).unwrap_err().why;
        for (name, text) in [("quota_bytes", "10x"), ("quota_files", "-1"), ("max_sessions", "many")] {
            assert!(
                why(name, text).starts_with(&format!("`{text}` is no whole number")),
                "{}",
                why(name, text)
            );
        }
        assert_eq!(why("delete_received", "maybe"), "`maybe` is neither true nor false");
    }

    #[test]
    fn a_unit_of_another_kind_is_no_number() {
        let partner = Partner::default();
        let stored = |name: &str, text: &str| table(&set(&partner, name, text).unwrap()).get(name).and_then(Value::as_integer);
        for (name, text, number) in [
            ("max_message", "10MB", 10_000_000),
            ("der_max", "4096", 4096),
            ("connect_timeout", "2m", 120),
            ("total_timeout", "3000ms", 3),
            ("response_timeout", "0", 0),
            ("max_parallel", "3", 3),
        ] {
            assert_eq!(stored(name, text), Some(number), "{name} {text}");
        }
        for (name, text) in [
            ("max_message", "30s"),
            ("der_max", "1h"),
            ("connect_timeout", "10MB"),
            ("response_timeout", "500ms"),
            ("response_timeout", "1500ms"),
            ("max_parallel", "2kB"),
            ("max_parallel", "2s"),
            ("retry.max_tries", "2kB"),
        ] {
            let why = set(&partner, name, text).unwrap_err().why;
            assert!(why.starts_with(&format!("`{text}` is no whole number")), "{name}: {why}");
        }
        let user: User = serde_json::from_str(r#"{"name":"u"}"#).unwrap();
        let user = |name: &str, text: &str| assign(&user, &[(name.to_owned(), text.to_owned())]);
        assert_eq!(user("quota_bytes", "1GiB").unwrap().quota_bytes, 1 << 30);
        assert_eq!(user("bandwidth", "1MB").unwrap().bandwidth, 1_000_000);
        assert!(user("quota_files", "1kB").is_err() && user("quota_bytes", "1h").is_err());
    }

    #[test]
    fn fields_that_are_left_out_while_empty_can_be_set() {
        let user: User = serde_json::from_str(r#"{"name":"u"}"#).unwrap();
        let user = assign(&user, &[("expires".to_owned(), "2027-01-01T00:00:00Z".to_owned())]).unwrap();
        assert_eq!(user.expires, "2027-01-01T00:00:00Z");
        let account = crate::account::Account::new("acme").unwrap();
        let account = assign(&account, &[("lifecycle.messages.current".to_owned(), "90d".to_owned())]).unwrap();
        assert_eq!(account.lifecycle.unwrap()["messages"]["current"].as_str(), Some("90d"));
    }
}
