//! Errors as people and programs see them: what, why, what to do next; and the exit code (product.md §11).

use std::io::Write as _;

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use serde_json::json;

use super::output::{Format, Printer, plain};
use crate::config::ConfigError;
use crate::gateway::StartError;
use crate::manage::{Refusal, RefusalKind};

/// Done.
pub(crate) const DONE: u8 = 0;
/// Failed, or a check whose result is no.
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
pub(crate) fn report(refusal: &Refusal, printer: &Printer) {
    let Refusal { code, what, why, hint, .. } = refusal;
    let hint = &printer.placed(hint);
    let text = if printer.format == Format::Json {
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
        let kind = if error.denied { RefusalKind::Denied } else { RefusalKind::Invalid };
        Refusal::new(kind, "configuration", error.what, error.why, error.hint)
    }
}

impl From<StartError> for Refusal {
    fn from(error: StartError) -> Self {
        let hint = error.hint();
        let (kind, code, what) = match &error {
            StartError::Locked(_) => (RefusalKind::Failed, "locked", "as2gate cannot start"),
            StartError::OldServer => (RefusalKind::Failed, "older-server", "this as2gate is newer than the server"),
            StartError::NotSetUp(_) => (RefusalKind::NotFound, "not-set-up", "nothing is set up here"),
            StartError::Key(_) | StartError::OtherKey(_) => (RefusalKind::Invalid, "key", "the stored keys cannot be opened"),
            StartError::Tls(_) | StartError::HostKey(_) => (RefusalKind::Invalid, "key", "as2gate cannot start"),
            StartError::Emptied(_) | StartError::Lost(..) => (RefusalKind::Failed, "journal", "the database cannot be opened"),
            StartError::Unreadable(..) => (RefusalKind::Denied, "storage", "the data directory cannot be used"),
            StartError::Foreign(..) => (
                RefusalKind::Denied,
                "foreign",
                "root does not work on another user's data directory",
            ),
            StartError::Full(_) => (RefusalKind::Failed, "storage", "the disk is full"),
            StartError::Journal(_) => (RefusalKind::Failed, "journal", "the database cannot be opened"),
            StartError::Storage(_) => (RefusalKind::Failed, "storage", "the data directory cannot be used"),
            StartError::Address(_) | StartError::Io(_) => (RefusalKind::Failed, "system", "as2gate cannot start"),
        };
        Refusal::new(kind, code, what, error.to_string(), hint)
    }
}

/// A clap error in our form. `arguments` are those of this process, to name the command whose help explains.
pub(crate) fn from_clap(error: &clap::Error, arguments: impl Iterator<Item = String>) -> Refusal {
    let command = command_of(arguments);
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("the command line cannot be read");
    let rest: Vec<&str> = lines.filter(|line| !line.starts_with("For more information")).collect();
    let usage = rest.iter().find_map(|line| line.strip_prefix("Usage: "));
    let hint = match usage {
        Some(usage) => format!("{usage}   (--help explains)"),
        None => format!("{} --help", command.get_bin_name().unwrap_or_default()),
    };
    let rest = rest.iter().filter(|line| !line.starts_with("Usage: ")).copied();
    let rest = rest.collect::<Vec<_>>().join(" ");
    let values = rest
        .strip_prefix("[possible values: ")
        .and_then(|values| Some(values.split_once(']')?.0));
    let why = match (error.kind(), values) {
        (ErrorKind::MissingRequiredArgument, _) => return Refusal::usage(format!("missing: {rest}"), "the command needs it", hint),
        (ErrorKind::UnknownArgument, _) if !rest.contains("similar") => match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(word)) if !word.starts_with('-') => option_for(&command, word),
            _ => None,
        }
        .unwrap_or_else(|| "the command has nothing of this kind".to_owned()),
        (ErrorKind::InvalidSubcommand, _) if !rest.contains("similar") => "there is no such command; --help lists them".to_owned(),
        (ErrorKind::ValueValidation | ErrorKind::InvalidValue, None) if rest.is_empty() => "it takes a value of another form".to_owned(),
        (_, Some(values)) => format!("it has to be one of: {values}"),
        _ if rest.is_empty() => "the command line is not complete".to_owned(),
        _ => rest,
    };
    Refusal::usage(first.trim_start_matches("error: "), why, hint)
}

/// The options one of which a word that stands alone may have been meant for: those that take a file or a URL if it looks
/// like one, else all if they are few.
fn option_for(command: &clap::Command, word: &str) -> Option<String> {
    /// Most options that are named.
    const NAMED: usize = 5;
    let takes = |wanted: Option<&str>| -> Vec<String> {
        let own = command
            .get_opts()
            .filter(|arg| arg.get_action().takes_values() && !arg.is_global_set());
        own.filter_map(|arg| {
            let value = arg.get_value_names()?.first()?;
            let is_wanted = wanted.is_none_or(|wanted| value.split('|').any(|value| value == wanted));
            is_wanted.then(|| format!("--{} {value}", arg.get_long().unwrap_or_default()))
        })
        .collect()
    };
    let kind = match word {
        url if url.contains("://") => Some("URL"),
        file if file.contains(['.', '/']) => Some("FILE"),
        _ => None,
    };
    let named = match takes(kind) {
        none if none.is_empty() => takes(None),
        some => some,
    };
    match named.len() {
        0 => None,
        1..=NAMED => Some(format!("a value stands behind its option: {}", named.join(", or "))),
        _ => Some("a value stands behind the name of its option; --help lists them".to_owned()),
    }
}

/// The command that a command line names, as far as it is one.
fn command_of(arguments: impl Iterator<Item = String>) -> clap::Command {
    let (mut command, mut name) = (super::Cli::command(), "as2gate".to_owned());
    for argument in arguments.skip(1) {
        if let Some(found) = command.find_subcommand(&argument) {
            name = format!("{name} {}", found.get_name());
            command = found.clone();
        }
    }
    command.bin_name(name)
}
