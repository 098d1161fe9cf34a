//! Message-IDs: made by our rules, taken as opaque (RFC 4130 §5.3.3, as2.md §2 and Q19).

use std::fmt;

use crate::error::{Error, ErrorKind};

/// Longest Message-ID taken (RFC 4130 §5.3.3).
pub const MAX_RECEIVED: usize = 998;
/// Longest Message-ID made.
pub const MAX_SENT: usize = 255;

/// A Message-ID, spelled as on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MessageId(String);

impl MessageId {
    /// Ours: `<local@host>`.
    ///
    /// # Errors
    /// Characters outside of `A-Za-z0-9`, dot, dash and underscore, or more than 255 in all.
    pub fn new(local: &str, host: &str) -> Result<Self, Error> {
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        let id = format!("<{local}@{host}>");
        if plain(local) && plain(host) && id.len() <= MAX_SENT {
            return Ok(MessageId(id));
        }
        Err(Error::invalid(format!(
            "no Message-ID can be made of `{}` and `{}`",
            local.escape_default(),
            host.escape_default()
        )))
    }

    /// A partner's, as its header carries it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidMessageId`]: empty, over 998 characters, blanks or controls inside.
    pub fn from_header(value: &str) -> Result<Self, Error> {
        let id = MessageId(value.trim().to_owned());
        let legal =
            id.0.chars().count() <= MAX_RECEIVED && !id.bare().is_empty() && !id.0.chars().any(|c| c.is_whitespace() || c.is_control());
        if legal {
            Ok(id)
        } else {
            Err(Error::new(
                ErrorKind::InvalidMessageId,
                "empty, too long, or blanks or controls inside",
            ))
        }
    }

    /// As on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without the angle brackets: what ids are compared by.
    #[must_use]
    pub fn bare(&self) -> &str {
        bare(&self.0)
    }
}

/// A Message-ID without blanks and angle brackets around it, also where only one is left or there are several: partners
/// change them (as2.md Q21).
#[must_use]
pub fn bare(message_id: &str) -> &str {
    message_id.trim().trim_start_matches('<').trim_end_matches('>')
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_are_kept_as_they_came() {
        for (wire, bare) in [
            ("<a@b>", "a@b"),
            ("a@b", "a@b"),
            (" <no-at> ", "no-at"),
            ("<../../x:*?>", "../../x:*?"),
            ("<one@left", "one@left"),
            ("right@one>", "right@one"),
            ("<<two@each>>", "two@each"),
        ] {
            let id = MessageId::from_header(wire).unwrap();
            assert_eq!((id.as_str(), id.bare()), (wire.trim(), bare));
        }
        for wire in ["", "<>", "<", "<a b@c>", "a\u{1}", &"x".repeat(999)] {
            assert_eq!(
                MessageId::from_header(wire).unwrap_err().kind,
                ErrorKind::InvalidMessageId,
                "{wire:?}"
            );
        }
        assert_eq!(
            MessageId::new("20250731-1", "as2.example.com").unwrap().as_str(),
            "<20250731-1@as2.example.com>"
        );
        assert!(MessageId::new("a b", "c").is_err());
    }
}
