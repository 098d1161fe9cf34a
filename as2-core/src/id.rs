//! AS2 names (RFC 4130 §6.2, as2.md §2).

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::error::{Error, ErrorKind};

/// Most characters of a name, after unquoting.
pub const MAX_LEN: usize = 128;

/// An AS2 name: 1 to 128 printable ASCII characters, compared byte for byte.
#[derive(Clone)]
pub struct As2Id {
    name: String,
    /// It came in quotes, so an MDN gives it back in quotes (as2.md §2).
    quoted: bool,
}

impl As2Id {
    /// A name as it stands in our own configuration, without quotes and escapes.
    ///
    /// # Errors
    /// Empty, over 128 characters, characters outside printable ASCII, or blanks around it.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let legal = (1..=MAX_LEN).contains(&name.len()) && name.bytes().all(|b| (32..127).contains(&b)) && name.trim() == name;
        if legal {
            return Ok(As2Id {
                name: name.to_owned(),
                quoted: false,
            });
        }
        Err(Error::invalid(format!(
            "`{}` is no AS2 name: 1 to {MAX_LEN} printable ASCII characters",
            name.escape_default()
        )))
    }

    /// A name as a header carries it: the first of its [`readings`](As2Id::readings).
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTradingRelationship`]: a value that can be nobody's name.
    pub fn from_header(value: &[u8]) -> Result<Self, Error> {
        Ok(As2Id::readings(value)?.swap_remove(0))
    }

    /// What a header's value may mean, the RFC's reading first: `"` and `\` stand escaped between quotes. Further ones are for
    /// products that quote twice, do not escape, or forget the quotes of a name with blanks; a relationship decides among
    /// them. At least one, at most three.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTradingRelationship`]: a value that can be nobody's name.
    pub fn readings(value: &[u8]) -> Result<Vec<Self>, Error> {
        let unknown = || {
            Error::new(
                ErrorKind::UnknownTradingRelationship,
                "an AS2 name that is empty, too long or not printable ASCII",
            )
        };
        let text = std::str::from_utf8(value).map_err(|_| unknown())?.trim();
        let inside = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let names: Vec<Option<String>> = match inside {
            Some(inside) => {
                let once = unescape(inside);
                // COMPAT(as2-lib): some products quote the quoted form again (`"\"A B\""`, `""A B""`).
                let again = once.as_deref().unwrap_or(inside);
                let twice = again.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).and_then(unescape);
                vec![once, twice, Some(inside.to_owned())]
            }
            None => vec![
                Some(text.to_owned()),
                Some(text.trim_matches('"').to_owned()),
                // Drummond 1Q07-3: a name without quotes ends at the first blank.
                text.split_once(' ').map(|(word, _)| word.to_owned()),
            ],
        };
        let mut found: Vec<As2Id> = Vec::new();
        for name in names.iter().flatten() {
            if let Ok(id) = As2Id::parse(name.trim())
                && !found.contains(&id)
            {
                found.push(As2Id {
                    quoted: inside.is_some(),
                    ..id
                });
            }
        }
        if found.is_empty() { Err(unknown()) } else { Ok(found) }
    }

    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The form for a header: in quotes if the name needs them, or came in them.
    #[must_use]
    pub fn to_header(&self) -> String {
        let needs = self.name.bytes().any(|b| matches!(b, b' ' | b'"' | b'\\'));
        if !needs && !self.quoted {
            return self.name.clone();
        }
        format!("\"{}\"", self.name.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

/// The inside of a quoted value without its escapes; `None` where a quote or a last backslash stands unescaped.
fn unescape(inside: &str) -> Option<String> {
    let mut out = String::with_capacity(inside.len());
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next()?),
            '"' => return None,
            other => out.push(other),
        }
    }
    Some(out)
}

impl PartialEq for As2Id {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for As2Id {}

impl Hash for As2Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl fmt::Debug for As2Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.name, f)
    }
}

impl fmt::Display for As2Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_form_of_a_name_is_read() {
        let forms = [
            ("ACME", "ACME"),
            ("\"AS2 Test\"", "AS2 Test"),
            ("AS2 Test", "AS2 Test"),
            ("\"ACME\"", "ACME"),
            ("\"a\\\"b\\\\c\"", "a\"b\\c"),
            ("\"\"AS2 Test\"\"", "AS2 Test"),
            ("a,b!#[]<x>;:'", "a,b!#[]<x>;:'"),
            (" ACME\t", "ACME"),
        ];
        for (wire, name) in forms {
            assert_eq!(As2Id::from_header(wire.as_bytes()).unwrap().as_str(), name, "{wire}");
        }
        for wire in ["", "\"\"", "M\u{fc}ller", &"x".repeat(129)] {
            assert_eq!(
                As2Id::from_header(wire.as_bytes()).unwrap_err().kind,
                ErrorKind::UnknownTradingRelationship,
                "{wire}"
            );
        }
    }

    #[test]
    fn other_readings_come_after_the_one_of_the_rfc() {
        let all = |wire: &str| {
            let readings = As2Id::readings(wire.as_bytes()).unwrap();
            readings.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(all("ACME"), ["ACME"]);
        assert_eq!(all("\"ACME\""), ["ACME"]);
        assert_eq!(all("AS2 Test"), ["AS2 Test", "AS2"]);
        assert_eq!(all("A\\C\"M"), ["A\\C\"M"]);
        assert_eq!(all("ACME\""), ["ACME\"", "ACME"]);
        // A name in quotes of its own, and one that was quoted twice.
        assert_eq!(all("\"\\\"A B\\\"\""), ["\"A B\"", "A B", "\\\"A B\\\""]);
        // Quoted and not escaped.
        assert_eq!(all("\"A\\C\""), ["AC", "A\\C"]);
        assert_eq!(all("\"A\"C\""), ["A\"C"]);
    }

    #[test]
    fn quotes_are_written_where_needed_and_given_back() {
        for (name, wire) in [
            ("ACME", "ACME"),
            ("AS2 Test", "\"AS2 Test\""),
            ("a\"b\\", "\"a\\\"b\\\\\""),
            ("a \"b\"", "\"a \\\"b\\\"\""),
            ("\"a\"", "\"\\\"a\\\"\""),
            ("\\", "\"\\\\\""),
        ] {
            let id = As2Id::parse(name).unwrap();
            assert_eq!(id.to_header(), wire);
            assert_eq!(As2Id::from_header(wire.as_bytes()).unwrap(), id);
        }
        assert_eq!(As2Id::from_header(b"\"ACME\"").unwrap().to_header(), "\"ACME\"");
        assert!(As2Id::parse("a\r\nb").is_err());
    }
}
