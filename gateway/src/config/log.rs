//! What `telemetry.log` may say: levels, for all or for areas of the log.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Areas of the log go by names of the product, and each is several modules.
const AREAS: &[(&str, &[&str])] = &[
    (
        "as2",
        &[
            "as2_core",
            "gateway::http",
            "gateway::inbox",
            "gateway::outbox",
            "gateway::post",
            "gateway::receipts",
            "gateway::worker",
        ],
    ),
    ("sftp", &["sftp_front", "gateway::sftp_tree", "gateway::intake"]),
];

/// Reads what is to be logged, like `info` or `info,sftp=debug`.
///
/// # Errors
/// Why it cannot be used.
pub fn log_filter(wanted: &str) -> Result<EnvFilter, String> {
    if let Some(word) = unknown_level(wanted) {
        return Err(format!(
            "`{}` is neither a level nor an area with one; levels are error, warn, info, debug and trace",
            word.escape_default()
        ));
    }
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(in_modules(wanted))
        .map_err(|error| format!("`{}`: {error}", wanted.escape_default()))
}

/// A word that is no level for itself, or of which a blank makes a name: it would be taken for a module of ours, and nothing else be logged.
fn unknown_level(wanted: &str) -> Option<&str> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok() || AREAS.iter().any(|(area, _)| *area == word);
    let is_known = |word: &&str| match word.split_once('=') {
        _ if word.contains('[') => true,
        Some((area, _)) => !area.contains(char::is_whitespace),
        None => is_level(word),
    };
    let mut words = wanted.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.find(|word| !is_known(word))
}

/// What is to be logged, with modules in place of areas: `sftp=debug` → `sftp_front=debug,gateway::sftp_tree=debug,…`.
fn in_modules(wanted: &str) -> String {
    let mut all = Vec::new();
    for directive in wanted.split(',') {
        let (area, level) = directive.split_at(directive.find('=').unwrap_or(directive.len()));
        match AREAS.iter().find(|(name, _)| *name == area.trim()) {
            Some((_, modules)) => all.extend(modules.iter().map(|module| format!("{module}{level}"))),
            None => all.push(directive.to_owned()),
        }
    }
    all.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_of_the_log_are_all_their_modules() {
        assert_eq!(
            in_modules("warn, sftp=debug"),
            "warn,sftp_front=debug,gateway::sftp_tree=debug,gateway::intake=debug"
        );
        let as2 = in_modules("as2=trace,gateway::objects=debug");
        for module in [
            "as2_core",
            "gateway::inbox",
            "gateway::outbox",
            "gateway::receipts",
            "gateway::post",
            "gateway::http",
            "gateway::worker",
        ] {
            assert!(as2.split(',').any(|one| one == format!("{module}=trace")), "{as2}");
        }
        assert!(as2.ends_with(",gateway::objects=debug"), "{as2}");
        for unchanged in ["info", "sftp_front=debug", "gateway::sftp_tree=info", "[span{a=1,b=2}]=debug"] {
            assert_eq!(in_modules(unchanged), unchanged);
        }
    }

    #[test]
    fn what_filters_nothing_is_refused() {
        for good in [
            "",
            "info",
            "OFF",
            "warn, sftp=debug",
            "sftp",
            "info,gateway::objects=trace",
            "[span{a}]=debug,warn",
            "[span]",
        ] {
            assert!(log_filter(good).is_ok(), "{good}");
        }
        for wrong in ["loud", "sftp=loud", "info,loud", "info sftp=debug", "[span"] {
            assert!(log_filter(wrong).is_err(), "{wrong}");
        }
    }
}
