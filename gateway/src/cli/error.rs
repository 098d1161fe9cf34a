//! Errors as people and programs see them: what, why, what to do next; and the exit code (product.md §11).

use std::io::Write as _;

use serde_json::json;

use super::output::{Format, plain};
use crate::config::ConfigError;
use crate::gateway::StartError;
use crate::intake::SubmitError;
use crate::lifecycle::SweepError;
use crate::manage::{Refusal, RefusalKind};
use crate::partnership::Lack;

/// Done.
pub(crate) const DONE: u8 = 0;
/// Failed, or "no" as an answer.
pub(crate) const FAILED: u8 = 1;
/// The remote side or the network.
pub(crate) const REMOTE: u8 = 6;
/// Some of several failed.
pub(crate) const PARTLY: u8 = 7;

/// The exit code of a refusal.
pub(crate) fn exit_code(refusal: &Refusal) -> u8 {
    match refusal.kind {
        RefusalKind::Failed => FAILED,
        RefusalKind::Usage => 2,
        RefusalKind::NotFound => 3,
        RefusalKind::Invalid => 4,
        RefusalKind::Denied => 5,
        RefusalKind::Remote => REMOTE,
        RefusalKind::Partly => PARTLY,
    }
}

/// Writes a refusal to standard error, in three lines or as one JSON object.
pub(crate) fn report(refusal: &Refusal, format: Format) {
    let Refusal { code, what, why, hint, .. } = refusal;
    let text = if format == Format::Json {
        json!({ "error": { "code": code, "what": what, "why": why, "hint": hint } }).to_string()
    } else {
        let hint = if hint.is_empty() { "as2gate --help" } else { hint };
        format!(
            "error: {}\nwhy:   {}\nhint:  {}",
            plain(what),
            plain(why).replace('\n', " "),
            plain(hint).replace('\n', " ")
        )
    };
    // Nobody may be listening.
    let _ = writeln!(std::io::stderr(), "{text}");
}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        Refusal::new(RefusalKind::Invalid, "configuration", error.what, error.why, error.hint)
    }
}

impl From<StartError> for Refusal {
    fn from(error: StartError) -> Self {
        let hint = error.hint();
        let (kind, code) = match &error {
            StartError::Locked(_) => (RefusalKind::Failed, "locked"),
            StartError::NotSetUp(_) => (RefusalKind::NotFound, "not-set-up"),
            StartError::Key(_) => (RefusalKind::Invalid, "key"),
            StartError::Journal(_) => (RefusalKind::Failed, "journal"),
            StartError::Storage(_) => (RefusalKind::Failed, "storage"),
            StartError::Io(_) => (RefusalKind::Failed, "system"),
        };
        Refusal::new(kind, code, "as2gate cannot start", error.to_string(), hint)
    }
}

impl From<SubmitError> for Refusal {
    fn from(error: SubmitError) -> Self {
        let kind = match error.code {
            "no-station" | "no-partner" | "unreadable-file" => RefusalKind::NotFound,
            "bad-name" | "empty-file" | "not-a-pair" => RefusalKind::Invalid,
            _ => RefusalKind::Failed,
        };
        Refusal::new(kind, error.code, error.what, error.why, error.hint)
    }
}

impl From<SweepError> for Refusal {
    fn from(error: SweepError) -> Self {
        match error {
            SweepError::Journal(error) => error.into(),
            SweepError::Storage(error) => error.into(),
            other => Refusal::new(
                RefusalKind::Failed,
                "lifecycle",
                "the sweep did not run",
                other.to_string(),
                "as2gate lifecycle status",
            ),
        }
    }
}

impl From<Lack> for Refusal {
    fn from(lack: Lack) -> Self {
        let why = lack.to_string();
        match lack {
            Lack::Station(_) => Refusal::not_found("no such pair", why, "as2gate station list"),
            Lack::Partner(_) => Refusal::not_found("no such pair", why, "as2gate partner list"),
            Lack::NotAPair { .. } => Refusal::invalid("no such pair", why, "as2gate partner set ID --stations …"),
            Lack::Key(_) => Refusal::invalid("a key or certificate cannot be used", why, "as2gate cert list"),
        }
    }
}

/// A clap error in our form.
pub(crate) fn from_clap(error: &clap::Error) -> Refusal {
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let what = lines
        .next()
        .unwrap_or("the command line cannot be read")
        .trim_start_matches("error: ")
        .to_owned();
    let rest: Vec<&str> = lines.filter(|line| !line.starts_with("For more information")).collect();
    let usage = rest.iter().find_map(|line| line.strip_prefix("Usage: "));
    let why = rest
        .iter()
        .filter(|line| !line.starts_with("Usage: "))
        .copied()
        .collect::<Vec<_>>()
        .join(" ");
    let why = if why.is_empty() {
        "the command line is not complete".to_owned()
    } else {
        why
    };
    let hint = usage.map_or_else(|| "as2gate --help".to_owned(), |usage| format!("{usage}   (--help explains)"));
    Refusal::usage(what, why, hint)
}
