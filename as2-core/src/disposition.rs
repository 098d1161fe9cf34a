//! Dispositions: what became of a message, in the words of RFC 4130 §7.5 and RFC 8098 §3.2.6.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// Longest disposition that is read, in characters.
const MAX_TEXT: usize = 1_000;
/// Most of its mode that is kept: what is written of a disposition must not lose its end when it is read again.
const MAX_MODE: usize = 200;
/// The mode that we write; AS2 has no human in the loop.
const MODE: &str = "automatic-action/MDN-sent-automatically";

/// The word before the slash.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Processed,
    Failed,
    Other(String),
}

/// The word after the slash.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Severity {
    Error,
    Failure,
    Warning,
    Other(String),
}

impl Severity {
    fn parse(word: &str) -> Self {
        match word.to_ascii_lowercase().as_str() {
            "error" => Severity::Error,
            "failure" => Severity::Failure,
            "warning" => Severity::Warning,
            other => Severity::Other(other.to_owned()),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Severity::Error => "error",
            Severity::Failure => "Failure",
            Severity::Warning => "warning",
            Severity::Other(word) => word,
        }
    }
}

/// The value of a `Disposition` field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disposition {
    mode: String,
    kind: Kind,
    /// The severity and its words, which may be missing.
    modifier: Option<(Severity, String)>,
}

impl Disposition {
    /// All is well.
    #[must_use]
    pub fn processed() -> Self {
        Disposition {
            mode: MODE.to_owned(),
            kind: Kind::Processed,
            modifier: None,
        }
    }

    /// The one form in which this trouble is told (as2.md §5.2). The error's detail is not part of it.
    #[must_use]
    pub fn error(error: &Error) -> Self {
        let words = error.kind.as_str().to_owned();
        let (kind, severity) = match error.kind {
            ErrorKind::UnsupportedFormat | ErrorKind::UnsupportedMicAlgorithms => (Kind::Failed, Severity::Failure),
            _ => (Kind::Processed, Severity::Error),
        };
        Disposition {
            mode: MODE.to_owned(),
            kind,
            modifier: Some((severity, words)),
        }
    }

    /// Processed, with a remark such as `duplicate-document`.
    #[must_use]
    pub fn warning(words: &str) -> Self {
        Disposition {
            mode: MODE.to_owned(),
            kind: Kind::Processed,
            modifier: Some((Severity::Warning, one_line(words))),
        }
    }

    /// Reads any form met (as2.md §5.3); what cannot be understood is not positive.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = one_line(&text.chars().take(MAX_TEXT).collect::<String>());
        let (mode, rest) = match text.split_once(';') {
            Some((mode, rest)) => (mode.trim().chars().take(MAX_MODE).collect::<String>(), rest.trim()),
            None => (String::new(), text.trim()),
        };
        let mut parts = rest.split(';');
        let (mut last, mut comma) = Disposition::of(parts.next().unwrap_or_default());
        let mut told = Vec::new();
        // COMPAT(Drummond 3Q07-8): several dispositions in one field; the worst one counts.
        for text in parts {
            let (next, next_comma) = Disposition::of(text);
            if !next.is_outcome() {
                last.append(text);
                continue;
            }
            if comma {
                // `processed, mode; …`
                last.modifier = None;
            }
            told.push(std::mem::replace(&mut last, next));
            comma = next_comma;
        }
        told.push(last);
        // Also where the mode should stand.
        told.extend(Some(Disposition::of(&mode).0).filter(Disposition::is_outcome));
        let worst = told.into_iter().reduce(Disposition::or_worse);
        Disposition {
            mode,
            ..worst.unwrap_or_else(|| Disposition::of("").0)
        }
    }

    /// One of a field, without its mode; `true` if what follows its word could be the mode of the next.
    fn of(text: &str) -> (Self, bool) {
        let (kind, modifier, comma) = outcome(text);
        let mode = String::new();
        (Disposition { mode, kind, modifier }, comma)
    }

    /// Words that were cut off at a semicolon.
    fn append(&mut self, text: &str) {
        if let Some((_, words)) = &mut self.modifier
            && !words.is_empty()
            && !text.trim().is_empty()
        {
            words.push(';');
            words.push_str(text.trim_end());
        }
    }

    /// Of two that were told about one message, the one that is not positive; of equal ones, the first.
    #[must_use]
    pub(crate) fn or_worse(self, other: Self) -> Self {
        if self.is_positive() && !other.is_positive() { other } else { self }
    }

    /// Takes the words of an `Error`, `Failure` or `Warning` field of RFC 3798. They explain a modifier that has no words of its
    /// own. To a plain yes the field is the modifier, and trouble is trouble also beside a warning.
    pub(crate) fn explain(&mut self, field: &str, words: &str) {
        let words = one_line(words);
        let said = words.trim_matches(|c: char| !c.is_alphanumeric()).to_ascii_lowercase();
        if matches!(said.as_str(), "" | "none" | "null" | "no" | "n/a") {
            return;
        }
        let severity = Severity::parse(field);
        match &mut self.modifier {
            Some((Severity::Warning, _)) if severity != Severity::Warning => self.modifier = Some((severity, words)),
            Some((_, own)) if own.is_empty() => *own = words,
            Some(_) => {}
            None => self.modifier = Some((severity, words)),
        }
    }

    fn is_outcome(&self) -> bool {
        !matches!(self.kind, Kind::Other(_))
    }

    /// Whether it says that the message was processed; a warning may go with that.
    #[must_use]
    pub fn is_positive(&self) -> bool {
        self.kind == Kind::Processed && matches!(self.modifier, None | Some((Severity::Warning, _)))
    }

    /// `failed`: the receipt that was asked for cannot be made (RFC 4130 §7.5.4).
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.kind == Kind::Failed
    }

    /// Whether it calls the message a repeat of one that was processed (as2.md Q76).
    #[must_use]
    pub fn is_duplicate_notice(&self) -> bool {
        self.modifier_code()
            .is_some_and(|code| code.contains("duplicate") && !code.contains("filename"))
    }

    /// The modifier's words as a code: lower case, joined by dashes; `None` if there are none.
    #[must_use]
    pub fn modifier_code(&self) -> Option<String> {
        let (_, words) = self.modifier.as_ref()?;
        let parts = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
        let code = parts.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-");
        (!code.is_empty()).then_some(code)
    }
}

impl From<&Error> for Disposition {
    fn from(error: &Error) -> Self {
        Disposition::error(error)
    }
}

impl fmt::Display for Disposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.mode.is_empty() { MODE } else { &self.mode };
        let kind = match &self.kind {
            Kind::Processed => "processed",
            Kind::Failed => "failed",
            Kind::Other(word) => word,
        };
        write!(f, "{mode}; {kind}")?;
        match &self.modifier {
            None => Ok(()),
            Some((severity, words)) if words.is_empty() => write!(f, "/{}", severity.as_str()),
            Some((severity, words)) => write!(f, "/{}: {words}", severity.as_str()),
        }
    }
}

/// The part after the mode: `processed`, `processed/error: words`, or a bare `error: words` (Drummond 3Q13-1). What follows the word and
/// is not understood is a modifier too, and no plain yes; `true` if it is that and stands behind a comma.
fn outcome(text: &str) -> (Kind, Option<(Severity, String)>, bool) {
    let text = text.trim();
    let end = text
        .find(|c: char| matches!(c, '/' | ':' | ',' | '(') || c.is_whitespace())
        .unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let rest = without_comment(rest);
    let bare = Severity::parse(word);
    if !matches!(bare, Severity::Other(_)) {
        return (Kind::Processed, Some((bare, words_of(rest))), false);
    }
    let kind = match word.to_ascii_lowercase().as_str() {
        "processed" => Kind::Processed,
        "failed" => Kind::Failed,
        other => Kind::Other(other.to_owned()),
    };
    if let Some(rest) = rest.strip_prefix('/') {
        return (kind, Some(severity_of(rest)), false);
    }
    if let Some(rest) = rest.strip_prefix(':') {
        // `processed: error: x` and the like: words without a severity are no plain yes.
        return (kind, Some((Severity::Error, words_of(rest))), false);
    }
    let comma = rest.starts_with(',');
    let rest = without_comment(rest.trim_start_matches(','));
    if rest.is_empty() {
        return (kind, None, false);
    }
    let (severity, words) = severity_of(rest);
    let strange = matches!(severity, Severity::Other(_));
    (kind, Some((severity, words)), comma && strange)
}

/// `severity: words`.
fn severity_of(text: &str) -> (Severity, String) {
    let text = text.trim_start();
    let end = text.find(|c: char| c == ':' || c.is_whitespace()).unwrap_or(text.len());
    let (severity, words) = text.split_at(end);
    (Severity::parse(severity), words_of(words))
}

/// Without the blanks and the comment in front (RFC 5322 §3.2.2), if that is closed.
fn without_comment(text: &str) -> &str {
    let text = text.trim_start();
    let rest = text.strip_prefix('(').and_then(|comment| comment.split_once(')'));
    rest.map_or(text, |(_, rest)| rest.trim_start())
}

fn words_of(text: &str) -> String {
    text.trim_start_matches(|c: char| c == ':' || c.is_whitespace()).trim().to_owned()
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_write_one_form_per_trouble() {
        let told = |kind| Disposition::error(&Error::new(kind, "secret")).to_string();
        assert_eq!(
            Disposition::processed().to_string(),
            "automatic-action/MDN-sent-automatically; processed"
        );
        assert_eq!(
            told(ErrorKind::DecryptionFailed),
            "automatic-action/MDN-sent-automatically; processed/error: decryption-failed"
        );
        assert_eq!(
            told(ErrorKind::UnsupportedFormat),
            "automatic-action/MDN-sent-automatically; failed/Failure: unsupported format"
        );
        assert_eq!(
            told(ErrorKind::UnsupportedMicAlgorithms),
            "automatic-action/MDN-sent-automatically; failed/Failure: unsupported MIC-algorithms"
        );
        for kind in [ErrorKind::UnsupportedFormat, ErrorKind::UnsupportedMicAlgorithms] {
            assert!(Disposition::error(&Error::new(kind, "")).is_failed());
        }
        assert!(!Disposition::error(&Error::new(ErrorKind::DecryptionFailed, "failed/")).is_failed());
        let warning = Disposition::warning("duplicate-document");
        assert_eq!(
            warning.to_string(),
            "automatic-action/MDN-sent-automatically; processed/warning: duplicate-document"
        );
        assert!(warning.is_positive() && warning.is_duplicate_notice() && !warning.is_failed());
    }

    #[test]
    fn every_spelling_is_understood() {
        let positive = [
            "automatic-action/MDN-sent-automatically; processed",
            "Automatic-action/mdn-sent-automatically;processed",
            "automatic-action/MDN-sent-automatically ; PROCESSED ",
            "processed",
            "a; processed/warning: authentication-failed, processing continued",
            "a; processed/Warning: duplicate-document",
        ];
        for text in positive {
            assert!(Disposition::parse(text).is_positive(), "{text}");
        }
        let negative = [
            ("a; processed/error: authentication-failed", Some("authentication-failed")),
            ("a;processed / Error:unknown-trading-partner", Some("unknown-trading-partner")),
            ("a; failed/failure: sender-equals-receiver", Some("sender-equals-receiver")),
            ("a; failed/Failure: unsupported MIC-algorithms", Some("unsupported-mic-algorithms")),
            ("a; error: decryption-failed", Some("decryption-failed")),
            ("error: decryption-failed", Some("decryption-failed")),
            ("a; processed/error", None),
            ("a; failed", None),
            ("a; displayed", None),
            ("", None),
            (
                "a; processed, a; processed/error: integrity-check-failed",
                Some("integrity-check-failed"),
            ),
        ];
        for (text, code) in negative {
            let disposition = Disposition::parse(text);
            assert!(!disposition.is_positive(), "{text}");
            assert_eq!(disposition.modifier_code().as_deref(), code, "{text}");
        }
        assert!(!Disposition::parse("a; processed/error: duplicate-filename").is_duplicate_notice());
    }

    #[test]
    fn what_cannot_be_understood_is_not_positive() {
        let negative = [
            ("a; processed, error: decryption-failed", Some("decryption-failed")),
            ("a; processed error: decryption-failed", Some("decryption-failed")),
            ("a; processed error", None),
            ("a; processed - failure: x", Some("failure-x")),
            ("a; processed with errors", Some("errors")),
            ("a; processed, a/b; processed/warning: x; processed/error: bad", Some("bad")),
            ("a; processed, error: bad; displayed", Some("bad-displayed")),
            ("a; processed/warning: x, a; processed/error: bad", Some("bad")),
            ("a; processed; error: bad", Some("bad")),
            ("processed/error: bad; processed", Some("bad")),
            ("a; processed, a; gibberish", None),
            ("a; processed/error: bad; processed, a; processed", Some("bad")),
        ];
        for (text, code) in negative {
            let disposition = Disposition::parse(text);
            assert!(!disposition.is_positive(), "{text}");
            assert_eq!(disposition.modifier_code().as_deref(), code, "{text}");
        }
        let positive = [
            "a; processed;",
            "a; processed,",
            "a; processed ;;",
            "a; processed (all is well)",
            "a; processed, a/b; processed",
            "a/b; processed; a/b; processed",
            "a; processed warning: duplicate-document",
            "a; processed/warning: sender (x), and more; or less",
            "a; processed, a; processed, a; processed",
        ];
        for text in positive {
            assert!(Disposition::parse(text).is_positive(), "{text}");
        }
        let long = format!("{};error", "m".repeat(MAX_TEXT - 11));
        let odd = [
            "a; /error: x",
            "a; processed, : x",
            "a; processed, (x",
            "a; processed/",
            ",;,",
            "error;processed",
            &long,
        ];
        for text in odd.into_iter().chain(positive).chain(negative.map(|(text, _)| text)) {
            let read = Disposition::parse(text);
            let again = Disposition::parse(&read.to_string());
            assert_eq!(again.is_positive(), read.is_positive(), "{text}: {read}");
        }
        let deep = format!("a; processed{}", ";".repeat(10 * MAX_TEXT));
        assert!(Disposition::parse(&deep).is_positive());
    }
}
