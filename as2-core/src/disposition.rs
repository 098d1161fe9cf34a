//! Dispositions: what became of a message, in the words of RFC 4130 §7.5 and RFC 8098 §3.2.6.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// Longest disposition that is read, in characters.
const MAX_TEXT: usize = 1_000;
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
            Some((mode, rest)) => (mode.trim().to_owned(), rest.trim()),
            None => (String::new(), text.trim()),
        };
        let (kind, modifier) = outcome(rest);
        // COMPAT(DG 3Q07-8): two dispositions in one field; the worse one counts.
        if let Some((head, second)) = rest.split_once(';') {
            let worse = Disposition::parse(&format!(";{second}"));
            if outcome(head).1.is_none() && kind == Kind::Processed && worse.is_outcome() && !worse.is_positive() {
                return Disposition { mode, ..worse };
            }
        }
        Disposition { mode, kind, modifier }
    }

    /// Takes the words of an `Error`, `Failure` or `Warning` field of RFC 3798 for a disposition that has none of its own.
    pub(crate) fn explain(&mut self, words: &str) {
        if let Some((_, own)) = &mut self.modifier
            && own.is_empty()
        {
            *own = one_line(words);
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

/// The part after the mode: `processed`, `processed/error: words`, or a bare `error: words` (DG 3Q13-1).
fn outcome(text: &str) -> (Kind, Option<(Severity, String)>) {
    let text = text.trim();
    let end = text
        .find(|c: char| c == '/' || c == ':' || c == ';' || c == ',' || c.is_whitespace())
        .unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let rest = rest.trim_start();
    let bare = Severity::parse(word);
    if !matches!(bare, Severity::Other(_)) {
        return (Kind::Processed, Some((bare, words_of(rest))));
    }
    let kind = match word.to_ascii_lowercase().as_str() {
        "processed" => Kind::Processed,
        "failed" => Kind::Failed,
        other => Kind::Other(other.to_owned()),
    };
    let modifier = rest.strip_prefix('/').map(|rest| {
        let rest = rest.trim_start();
        let end = rest.find(|c: char| c == ':' || c.is_whitespace()).unwrap_or(rest.len());
        let (severity, words) = rest.split_at(end);
        (Severity::parse(severity), words_of(words))
    });
    // `processed: error: x` and the like: words without a severity are no plain yes.
    let modifier = modifier.or_else(|| rest.strip_prefix(':').map(|rest| (Severity::Error, words_of(rest))));
    (kind, modifier)
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
        let warning = Disposition::warning("duplicate-document");
        assert_eq!(
            warning.to_string(),
            "automatic-action/MDN-sent-automatically; processed/warning: duplicate-document"
        );
        assert!(warning.is_positive() && warning.is_duplicate_notice());
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
}
