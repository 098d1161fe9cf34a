//! MIME as AS2 products write it: media types, names, boundaries, transfer encodings (RFC 2045, 2046, 2231, 2047).

mod comment;
pub(crate) mod param;
pub(crate) mod scanner;
pub(crate) mod transfer;

use crate::error::Error;
use crate::headers::Headers;

pub(crate) use comment::without_comments;
pub(crate) use param::MediaType;

/// A header's value for people to read: its RFC 2047 words decoded, as far as their charsets are known. May hold any character.
#[must_use]
pub fn for_people(value: &str) -> String {
    param::decode_words(value).0
}

/// Whether a content type says how a message is packed, so that no receiver takes a body of that type for a file.
#[must_use]
pub fn is_packing(content_type: &str) -> bool {
    let media = MediaType::parse(content_type);
    media.is_multipart() || media.is_cms() || media.essence == "message/disposition-notification"
}

/// How a body's bytes are encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// 7bit, 8bit, binary, or nothing said: AS2's default is binary (as2.md Q2).
    Identity,
    Base64,
    QuotedPrintable,
    /// Something else; taken as it is.
    Unknown(String),
}

impl Encoding {
    pub(crate) fn of(headers: &Headers) -> Self {
        let Some(value) = headers.get("Content-Transfer-Encoding") else {
            return Encoding::Identity;
        };
        let value = without_comments(value);
        let word = value
            .split(';')
            .next()
            .unwrap_or_default()
            .trim_matches(|c: char| c == '"' || c.is_whitespace())
            .to_ascii_lowercase();
        match word.as_str() {
            "" | "7bit" | "8bit" | "binary" => Encoding::Identity,
            "base64" => Encoding::Base64,
            "quoted-printable" => Encoding::QuotedPrintable,
            _ => Encoding::Unknown(word),
        }
    }
}

/// The name of a payload file: `filename*`, then `filename`, then the content type's `name`; the names that products give to
/// the CMS layers are no payload's (as2.md §2).
pub(crate) fn file_name(headers: &Headers) -> Option<String> {
    let disposition = headers.get("Content-Disposition").map(MediaType::parse);
    let named = disposition.as_ref().and_then(|d| d.name_param("filename"));
    let name = named.or_else(|| headers.get("Content-Type").map(MediaType::parse).and_then(|t| t.name_param("name")))?;
    let name = name.trim().to_owned();
    let layer = matches!(
        name.to_ascii_lowercase().as_str(),
        "smime.p7m" | "smime.p7z" | "smime.p7s" | "smime.p7c"
    );
    (!name.is_empty() && !layer).then_some(name)
}

/// The name that a payload file came with and that says nothing to us, as it came: cut, and without control characters.
pub(crate) fn strange_name(headers: &Headers) -> Option<String> {
    /// Most of it that is told, in characters.
    const MAX_TOLD: usize = 200;
    if file_name(headers).is_some() {
        return None;
    }
    let found = [("Content-Disposition", "filename"), ("Content-Type", "name")]
        .iter()
        .find_map(|(line, name)| {
            let media = MediaType::parse(headers.get(line)?);
            media.strange_name(name).map(str::to_owned)
        })?;
    Some(found.chars().filter(|c| !c.is_control()).take(MAX_TOLD).collect())
}

/// The one Content-Type of an entity; none is `None`.
///
/// # Errors
/// Two of them, which two readers would understand differently (cms-streaming.md §10).
pub(crate) fn content_type(headers: &Headers) -> Result<Option<MediaType>, Error> {
    let mut all = headers.all("Content-Type");
    let first = all.next();
    if all.next().is_some() {
        return Err(broken("two Content-Type lines in one entity"));
    }
    Ok(first.map(MediaType::parse))
}

/// A structure that cannot be read.
pub(crate) fn broken(detail: impl Into<String>) -> Error {
    Error::new(crate::error::ErrorKind::UnexpectedProcessingError, detail)
}
