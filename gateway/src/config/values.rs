//! The layers of the configuration: defaults, the file, the environment. Each value remembers where it came from.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::keys::{KEYS, Key, Kind, find, is_section};
use super::units::{nearest, parse_duration, parse_duration_from, parse_duration_over_0, parse_size};
use super::{ConfigError, Secret};

/// Largest configuration file in bytes.
pub const MAX_CONFIG_FILE: usize = 1 << 20;
/// What begins the name of an environment variable that overrides a key.
pub const ENV_PREFIX: &str = "AS2GATE_";
/// The standard port of SFTP, and the one used where it cannot be bound.
const SFTP_PORT_FALLBACK: &str = "0.0.0.0:2022";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The table of keys.
    Default,
    /// A line of the file.
    File(usize),
    /// An environment variable.
    Env(String),
    /// The command line.
    Flag(&'static str),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(line) => write!(f, "line {line}"),
            Source::Env(name) => f.write_str(name),
            Source::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One value in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// As TOML.
    pub value: Value,
    /// Where it came from.
    pub source: Source,
}

/// All values in force, by path. Every key of the table is in it, with a value of its kind.
#[derive(Clone, Debug)]
pub struct Values(BTreeMap<&'static str, Setting>);

impl Values {
    /// The defaults.
    #[must_use]
    pub fn defaults() -> Self {
        let mut values = BTreeMap::new();
        for key in KEYS {
            let parsed = format!("v = {}", key.default)
                .parse::<Table>()
                .ok()
                .and_then(|mut table| table.remove("v"));
            let mut value = parsed.unwrap_or(Value::String(String::new()));
            if key.path == "sftp.listen" && !may_bind_low_ports() {
                value = Value::Array(vec![Value::String(SFTP_PORT_FALLBACK.to_owned())]);
            }
            values.insert(
                key.path,
                Setting {
                    value,
                    source: Source::Default,
                },
            );
        }
        Values(values)
    }

    /// Lays the file's text over what is there.
    ///
    /// # Errors
    /// The first key or value that is wrong, with its line.
    pub fn lay_file(&mut self, file: &Path, text: &str) -> Result<(), ConfigError> {
        let name = file.display().to_string();
        if text.len() > MAX_CONFIG_FILE {
            return Err(ConfigError::new(
                format!("{name} is larger than {MAX_CONFIG_FILE} bytes"),
                "no configuration is that long",
                "look whether it is the right file",
            ));
        }
        let line_of = |at: usize| text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
        let broken = |error: &toml::de::Error| {
            let line = error.span().map_or(1, |span| line_of(span.start));
            ConfigError::new(
                format!("{name}, line {line}: this is not TOML"),
                error.message(),
                "texts stand in \"quotes\", lists in [brackets]",
            )
        };
        // The spanned form knows the lines, the plain one has the values: both come from the same text.
        let spanned = DeTable::parse(text).map_err(|error| broken(&error))?;
        let plain = text.parse::<Table>().map_err(|error| broken(&error))?;
        let mut lines = BTreeMap::new();
        collect_lines(spanned.get_ref(), "", &line_of, &mut lines);
        self.lay_table(&plain, "", &|path| Source::File(lines.get(path).copied().unwrap_or(1)), Some(&name))
    }

    /// Lays the environment over what is there: `AS2GATE_SECTION__KEY`, the value in TOML syntax or as a plain text.
    ///
    /// # Errors
    /// The first variable with an unknown key or a wrong value.
    pub fn lay_env(&mut self, variables: impl Iterator<Item = (String, String)>) -> Result<(), ConfigError> {
        let mut ours: Vec<(String, String)> = variables.filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
        ours.sort();
        let in_layers = texts(&self.0).filter_map(|text| text.strip_prefix("env:").map(str::to_owned));
        let in_variables = ours.iter().filter_map(|(_, text)| text.strip_prefix("env:").map(str::to_owned));
        let secrets: Vec<String> = in_layers.chain(in_variables).collect();
        for (name, text) in ours {
            if secrets.contains(&name) || is_of_kubernetes(&name, &text) {
                continue;
            }
            let path = name
                .strip_prefix(ENV_PREFIX)
                .unwrap_or_default()
                .to_ascii_lowercase()
                .replace("__", ".");
            if is_others(&path) {
                continue;
            }
            let parsed = format!("v = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("v"));
            let value = match (parsed, find(&path)) {
                (Some(Value::Table(table)), None) => {
                    self.lay_table(&table, &format!("{path}."), &|_| Source::Env(name.clone()), None)?;
                    continue;
                }
                (_, None) => {
                    let error = unknown(&path, &name);
                    let hint = format!(
                        "{}; names of keys look like AS2GATE_SFTP__LISTEN, and a variable of yours needs a name that is not so near to one",
                        error.hint
                    );
                    return Err(ConfigError { hint, ..error });
                }
                (Some(Value::String(value)), Some(_)) => Value::String(value),
                (_, Some(key)) if is_textual(key.kind) => Value::String(text),
                (parsed, Some(_)) => parsed.unwrap_or(Value::String(text)),
            };
            self.set(&path, value, Source::Env(name), None)?;
        }
        Ok(())
    }

    /// Sets one value from the command line.
    ///
    /// # Errors
    /// When the value is not of the key's kind.
    pub fn lay_flag(&mut self, path: &str, value: Value, flag: &'static str) -> Result<(), ConfigError> {
        self.set(path, value, Source::Flag(flag), None)
    }

    fn lay_table(&mut self, table: &Table, prefix: &str, source: &dyn Fn(&str) -> Source, file: Option<&str>) -> Result<(), ConfigError> {
        for (name, value) in table {
            let path = format!("{prefix}{name}");
            match value {
                Value::Table(inner) if is_section(&path) => self.lay_table(inner, &format!("{path}."), source, file)?,
                _ if find(&path).is_some() => self.set(&path, value.clone(), source(&path), file)?,
                _ if is_section(&path) => {
                    let at = place(&source(&path), file);
                    return Err(ConfigError::new(
                        format!("{at}: `{path}` is a section"),
                        "it holds keys and has no value itself",
                        format!("write [{path}] and its keys below"),
                    ));
                }
                _ => return Err(unknown(&path, &place(&source(&path), file))),
            }
        }
        Ok(())
    }

    fn set(&mut self, path: &str, value: Value, source: Source, file: Option<&str>) -> Result<(), ConfigError> {
        let Some(key) = find(path) else {
            return Err(unknown(path, &place(&source, file)));
        };
        let value = normalised(key.kind, value);
        if let Err(why) = check(key.kind, &value) {
            let what = format!("{}: {path} has a value that cannot be used", place(&source, file));
            return Err(ConfigError::new(what, why, format!("the default is {path} = {}", key.default)));
        }
        self.0.insert(key.path, Setting { value, source });
        Ok(())
    }

    /// Every key with its value and source, in the table's order.
    pub fn all(&self) -> impl Iterator<Item = (&'static Key, &Setting)> {
        KEYS.iter().filter_map(|key| self.0.get(key.path).map(|setting| (key, setting)))
    }

    /// A digest of each value by key: enough to tell which ones are others elsewhere, without keeping a value. `data_dir` is left
    /// out, which led to whoever compares.
    #[must_use]
    pub fn digests(&self) -> BTreeMap<String, String> {
        let ours = self.all().filter(|(key, _)| key.path != "data_dir");
        let digest = |(key, setting): (&Key, &Setting)| {
            let value = match (key.path, &setting.source) {
                // The same for every user, whichever port that one may bind.
                ("sftp.listen", Source::Default) => key.default.to_owned(),
                _ => setting.value.to_string(),
            };
            let sum = openssl::sha::sha256(format!("{} = {value}", key.path).as_bytes());
            (key.path.to_owned(), as2_core::hex(&sum[..8]))
        };
        ours.map(digest).collect()
    }

    /// The environment variable that gave the value of a key, if one did.
    #[must_use]
    pub fn variable(&self, path: &str) -> Option<String> {
        match self.source(path) {
            Source::Env(name) => Some(name),
            _ => None,
        }
    }

    pub(super) fn source(&self, path: &str) -> Source {
        self.0.get(path).map_or(Source::Default, |setting| setting.source.clone())
    }

    // The getters below read values that `check` has passed; a test reads every key with them.

    fn value(&self, path: &str) -> Option<&Value> {
        debug_assert!(find(path).is_some(), "{path}");
        self.0.get(path).map(|setting| &setting.value)
    }

    pub(super) fn text(&self, path: &str) -> String {
        self.value(path).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    pub(super) fn texts(&self, path: &str) -> Vec<String> {
        let list = self.value(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
    }

    pub(super) fn switch(&self, path: &str) -> bool {
        self.value(path).and_then(Value::as_bool).unwrap_or_default()
    }

    pub(super) fn number(&self, path: &str) -> u32 {
        self.value(path)
            .and_then(Value::as_integer)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or_default()
    }

    pub(super) fn fraction(&self, path: &str) -> f64 {
        match self.value(path) {
            Some(Value::Float(value)) => *value,
            _ => f64::from(self.number(path)),
        }
    }

    pub(super) fn span(&self, path: &str) -> Duration {
        match self.value(path) {
            Some(Value::String(text)) => parse_duration(text).unwrap_or_default(),
            _ => Duration::ZERO,
        }
    }

    pub(super) fn size(&self, path: &str) -> u64 {
        match self.value(path) {
            Some(Value::String(text)) => parse_size(text).unwrap_or_default(),
            Some(Value::Integer(bytes)) => u64::try_from(*bytes).unwrap_or_default(),
            _ => 0,
        }
    }

    pub(super) fn word<T: std::str::FromStr>(&self, path: &str, default: T) -> T {
        self.text(path).parse().unwrap_or(default)
    }
}

/// Where a value stands, for messages.
fn place(source: &Source, file: Option<&str>) -> String {
    match file {
        Some(file) => format!("{file}, {source}"),
        None => source.to_string(),
    }
}

/// Every text among the values.
fn texts<'a>(values: &'a BTreeMap<&'static str, Setting>) -> impl Iterator<Item = &'a str> {
    values.values().flat_map(|setting| match &setting.value {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        value => Vec::from_iter(value.as_str()),
    })
}

/// What Kubernetes sets in every pod beside a service named as2gate-…: `AS2GATE_SFTP_PORT=tcp://10.0.0.1:2022` and parts of that.
fn is_of_kubernetes(name: &str, text: &str) -> bool {
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme));
    let is_part = ["_SERVICE_HOST", "_SERVICE_PORT"].iter().any(|end| name.ends_with(end));
    is_address || is_part
}

/// Whether a variable is no slip in the name of a key: a secret that the command line reads, or an option of it.
fn is_others(path: &str) -> bool {
    let is_section = KEYS.iter().any(|key| key.path.split('.').next() == Some(path));
    !path.contains('.') && !is_section && nearest(path, KEYS.iter().map(|key| key.path)).is_none()
}

fn unknown(path: &str, at: &str) -> ConfigError {
    let section = path.rsplit_once('.').map_or("", |(section, _)| section);
    let siblings = KEYS
        .iter()
        .filter(|key| key.path.rsplit_once('.').map_or("", |(section, _)| section) == section);
    // First among the section's own keys, then by the last part anywhere, then among sections.
    let last = path.rsplit('.').next().unwrap_or(path);
    let near = nearest(path, siblings.map(|key| key.path)).or_else(|| {
        let same = KEYS.iter().map(|key| key.path).find(|known| known.rsplit('.').next() == Some(last));
        same.or_else(|| nearest(path, KEYS.iter().map(|key| key.path)))
    });
    let sections = KEYS.iter().filter_map(|key| key.path.rsplit_once('.').map(|(section, _)| section));
    let hint = match near.or_else(|| nearest(path, sections)) {
        Some(near) => format!("the nearest known key is `{near}`"),
        None => "`as2gate check --effective` lists every key".to_owned(),
    };
    ConfigError::new(format!("{at}: unknown key `{path}`"), "the configuration has no such key", hint)
}

fn collect_lines(table: &DeTable<'_>, prefix: &str, line_of: &dyn Fn(usize) -> usize, lines: &mut BTreeMap<String, usize>) {
    for (name, value) in table {
        let path = format!("{prefix}{}", name.get_ref());
        lines.insert(path.clone(), line_of(name.span().start));
        if let DeValue::Table(inner) = value.get_ref() {
            collect_lines(inner, &format!("{path}."), line_of, lines);
        }
    }
}

fn is_textual(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Text
            | Kind::Span
            | Kind::SpanOver0
            | Kind::SpanFrom(_)
            | Kind::Size
            | Kind::Word(_)
            | Kind::Address
            | Kind::Secret
            | Kind::TimeOfDay
    )
}

/// One text where a list is wanted is a list of one (or several, with commas); the number 0 is a span of nothing.
fn normalised(kind: Kind, value: Value) -> Value {
    match (kind, value) {
        (Kind::Texts | Kind::Words(_) | Kind::Addresses, Value::String(text)) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
        }
        (Kind::Span | Kind::SpanOver0, Value::Integer(0)) => Value::String("0".to_owned()),
        (_, value) => value,
    }
}

fn check(kind: Kind, value: &Value) -> Result<(), String> {
    let wanted = |what: &str| Err(format!("it has to be {what}, and is {}", described(value)));
    let one_of = |words: &[&str], text: &str| {
        if words.contains(&text) {
            Ok(())
        } else {
            Err(format!("`{}` is not one of: {}", text.escape_default(), words.join(", ")))
        }
    };
    match (kind, value) {
        (Kind::Text, Value::String(text)) if text.contains(['\0', '\r']) => Err("it holds a control character".to_owned()),
        (Kind::Text, Value::String(_)) | (Kind::Switch, Value::Boolean(_)) => Ok(()),
        (Kind::Number(low, high), Value::Integer(n)) if (low..=high).contains(n) => Ok(()),
        (Kind::Number(low, high), _) => wanted(&format!("a whole number from {low} to {high}")),
        (Kind::Fraction(low, high), Value::Float(n)) if (low..=high).contains(n) => Ok(()),
        (Kind::Fraction(low, high), Value::Integer(n)) if u32::try_from(*n).is_ok_and(|n| (low..=high).contains(&f64::from(n))) => Ok(()),
        (Kind::Fraction(low, high), _) => wanted(&format!("a number from {low} to {high}")),
        (Kind::Span, Value::String(text)) => parse_duration(text).map(|_| ()),
        (Kind::SpanOver0, Value::String(text)) => parse_duration_over_0(text).map(|_| ()),
        (Kind::SpanFrom(days), Value::String(text)) => parse_duration_from(days, text).map(|_| ()),
        (Kind::Size, Value::String(text)) => parse_size(text).map(|_| ()),
        (Kind::Size, Value::Integer(n)) if *n >= 0 => Ok(()),
        (Kind::Word(words), Value::String(text)) => one_of(words, text),
        (Kind::Words(words), Value::Array(list)) => each_text(list, &|text| one_of(words, text)),
        (Kind::Texts, Value::Array(list)) => each_text(list, &|_| Ok(())),
        (Kind::Address, Value::String(text)) if text.is_empty() => Ok(()),
        (Kind::Address, Value::String(text)) => check_address(text),
        (Kind::Addresses, Value::Array(list)) => each_text(list, &check_address),
        (Kind::Secret, Value::String(text)) => Secret::parse(text, Path::new("")).map(|_| ()),
        (Kind::TimeOfDay, Value::String(text)) => parse_time_of_day(text).map(|_| ()),
        (Kind::Switch, _) => wanted("true or false"),
        (Kind::Span | Kind::SpanOver0 | Kind::SpanFrom(_), _) => wanted("a duration like \"30s\""),
        (Kind::Size, _) => wanted("a size like \"100GiB\""),
        (Kind::Words(_) | Kind::Texts | Kind::Addresses, _) => wanted("a list of texts"),
        (Kind::Text | Kind::Word(_) | Kind::Address | Kind::Secret | Kind::TimeOfDay, _) => wanted("a text in quotes"),
    }
}

fn described(value: &Value) -> String {
    match value {
        Value::Table(_) => "a table".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => other.to_string(),
    }
}

fn each_text(list: &[Value], check: &dyn Fn(&str) -> Result<(), String>) -> Result<(), String> {
    list.iter().try_for_each(|value| {
        value
            .as_str()
            .ok_or_else(|| "every element has to be a text in quotes".to_owned())
            .and_then(check)
    })
}

fn check_address(text: &str) -> Result<(), String> {
    let named = text.rsplit_once(':').is_some_and(|(host, port)| {
        let plain = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
        plain && port.parse::<u16>().is_ok()
    });
    if named || text.parse::<SocketAddr>().is_ok() {
        return Ok(());
    }
    Err(format!(
        "`{}` is not an address; write it like 0.0.0.0:2022 or [::]:2022",
        text.escape_default()
    ))
}

/// Reads `00:10` as the time since midnight.
pub(super) fn parse_time_of_day(text: &str) -> Result<Duration, String> {
    let parts = text
        .split_once(':')
        .and_then(|(hour, minute)| Some((hour.parse::<u64>().ok()?, minute.parse::<u64>().ok()?)));
    match parts {
        Some((hour, minute)) if hour < 24 && minute < 60 => Ok(Duration::from_secs(hour * 3600 + minute * 60)),
        _ => Err(format!("`{}` is not a time of day; write it like 00:10", text.escape_default())),
    }
}

/// Whether this process can bind ports below 1024.
fn may_bind_low_ports() -> bool {
    const CAP_NET_BIND_SERVICE: u64 = 1 << 10;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    if effective.is_some_and(|bits| bits & CAP_NET_BIND_SERVICE != 0) {
        return true;
    }
    let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok();
    start
        .and_then(|text| text.trim().parse::<u16>().ok())
        .is_some_and(|start| start <= 22)
}
