//! Message integrity checks: a digest with its algorithm, `Received-content-MIC` (RFC 4130 §7.4.3).

mod hashes;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use crate::algorithm::{Digest, DigestNames};
use crate::error::{Error, ErrorKind};

pub(crate) use hashes::{Digests, Hashes};

/// Longest MIC text that is read, in bytes.
const MAX_TEXT: usize = 1_024;

/// A digest of a message's content.
#[derive(Clone, Debug)]
pub struct Mic {
    /// The algorithm.
    pub digest: Digest,
    /// The digest's bytes.
    pub value: Vec<u8>,
}

impl Mic {
    /// Reads `base64, algorithm` in any form met: no blank after the comma, folded, blanks inside, any spelling of the name, a comma or
    /// a comment behind it (as2.md §5.3).
    ///
    /// # Errors
    /// Something else, such as the text `null` that stands for a missing MIC (as2.md Q9).
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = || Error::new(ErrorKind::UnexpectedProcessingError, "Received-content-MIC cannot be read");
        if text.len() > MAX_TEXT {
            return Err(bad());
        }
        let (value, name) = without_tail(text).rsplit_once(',').ok_or_else(bad)?;
        let digest = Digest::parse(name).ok_or_else(bad)?;
        let value: String = value.chars().filter(|c| !c.is_whitespace() && *c != '"').collect();
        let value = STANDARD_NO_PAD.decode(value.trim_end_matches('=')).map_err(|_| bad())?;
        if value.is_empty() { Err(bad()) } else { Ok(Mic { digest, value }) }
    }

    /// The text with the algorithm spelt so.
    pub(crate) fn spelt(&self, names: DigestNames) -> String {
        format!("{}, {}", STANDARD.encode(&self.value), self.digest.spelt(names))
    }
}

/// Neither a comment nor commas behind the name; no base64 and no name holds a bracket.
fn without_tail(text: &str) -> &str {
    let text = text.split_once('(').map_or(text, |(text, _)| text);
    text.trim_end_matches(|c: char| c.is_whitespace() || c == ',')
}

/// Whether a field stands for no MIC at all: nothing before the algorithm, or the word `null` (as2.md Q9).
pub(crate) fn says_nothing(text: &str) -> bool {
    let text = without_tail(text);
    let value = text.rsplit_once(',').map_or(text, |(value, _)| value);
    let value = value.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '=' | ','));
    value.is_empty() || value.eq_ignore_ascii_case("null")
}

impl fmt::Display for Mic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelt(DigestNames::Rfc5751))
    }
}

impl PartialEq for Mic {
    /// In constant time for values of equal length.
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.value.len() == other.value.len() && openssl::memcmp::eq(&self.value, &other.value)
    }
}

impl Eq for Mic {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_form_of_a_mic_is_read() {
        let mic = Mic {
            digest: Digest::Sha1,
            value: (0..20).collect(),
        };
        assert_eq!(mic.to_string(), "AAECAwQFBgcICQoLDA0ODxAREhM=, sha1");
        let forms = [
            "AAECAwQFBgcICQoLDA0ODxAREhM=, sha1",
            "AAECAwQFBgcICQoLDA0ODxAREhM=,SHA1",
            "AAECAwQF BgcICQoL\r\n DA0ODxAREhM , sha-1",
            "AAECAwQFBgcICQoLDA0ODxAREhM=, sha1,",
            "AAECAwQFBgcICQoLDA0ODxAREhM=, sha1 (in base64)",
        ];
        for form in forms {
            assert_eq!(Mic::parse(form).unwrap(), mic, "{form}");
        }
        for form in ["null", "", "abc", "=, sha1", "*, sha1", "AAEC, crc32"] {
            assert!(Mic::parse(form).is_err(), "{form}");
        }
        for form in ["null", "NULL, sha1", "", "=, sha1", " , sha-256", "=, sha1, ", "(none)"] {
            assert!(says_nothing(form), "{form}");
        }
        for form in ["abc", "*, sha1", "AAEC, crc32", "AAECAwQFBgcICQoLDA0ODxAREhM=, sha1"] {
            assert!(!says_nothing(form), "{form}");
        }
        assert_ne!(
            mic,
            Mic {
                digest: Digest::Sha256,
                value: mic.value.clone()
            }
        );
    }
}
