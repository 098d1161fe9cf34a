//! Which content type a file name gets, and the other way round (as2.md §12); and what may be given as one.

use as2_core::is_packing;

/// The setting that looks at a file's first bytes.
pub const DETECT: &str = "detect";
/// So many first bytes are looked at.
pub const HEAD: usize = 256;

/// Longest content type that is given, in bytes.
const MAX: usize = 255;

/// The rule for a content type that is given: a type, a subtype and parameters as RFC 2045 §5.1 writes them, and none that
/// receivers unpack.
///
/// # Errors
/// The rule, as `name` breaks it, and what to write instead.
pub fn check(name: &str, given: &str) -> Result<(), String> {
    if given.len() > MAX {
        return Err(format!("{name} is longer than {MAX} characters\nwrite it like application/EDI-X12"));
    }
    let shown = given.escape_default();
    if !is_media_type(given) {
        return Err(format!(
            "{name}: `{shown}` is not a media type\nwrite it like application/EDI-X12 or text/plain; charset=utf-8"
        ));
    }
    if is_packing(given) {
        return Err(format!(
            "{name}: `{shown}` says how a message is packed; the receiver would unpack the file\n\
             say what the file is, e.g. application/EDI-X12 or application/octet-stream"
        ));
    }
    Ok(())
}

fn is_media_type(given: &str) -> bool {
    let (media, mut rest) = given.split_at(given.find(';').unwrap_or(given.len()));
    let has_type = media.trim_end_matches(' ').split_once('/');
    let mut fits = has_type.is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype));
    while let Some(parameter) = rest.strip_prefix(';').filter(|_| fits) {
        let parameter = parameter.trim_start_matches(' ');
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let end = value_end(value);
        let (value, after) = value.split_at(end);
        fits = is_token(name) && !value.is_empty();
        rest = after.trim_start_matches(' ');
    }
    fits && rest.is_empty()
}

/// Where a parameter's value ends that a text begins with, a token or a quoted text; 0 where there is none.
fn value_end(text: &str) -> usize {
    let Some(quoted) = text.strip_prefix('"') else {
        return text.find(|c: char| !is_token_char(c)).unwrap_or(text.len());
    };
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if !matches!(c, ' '..='~') => return 0,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 2,
            _ => {}
        }
    }
    0
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_token_char)
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_graphic() && !r#"()<>@,;:\"/[]?="#.contains(c)
}

/// The content type that a file's first bytes tell: an X12 interchange (`ISA` and its element separator), an EDIFACT one (`UNA`,
/// `UNB`), or XML. Blanks and line ends before them are no part of it.
#[must_use]
pub fn for_bytes(head: &[u8]) -> Option<&'static str> {
    let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head).trim_ascii_start();
    if let Some([separator, ..]) = head.strip_prefix(b"ISA") {
        let is_separator = !separator.is_ascii_alphanumeric() && *separator != b' ';
        return is_separator.then_some("application/EDI-X12");
    }
    if head.starts_with(b"UNA") || head.starts_with(b"UNB+") {
        return Some("application/EDIFACT");
    }
    head.starts_with(b"<?xml").then_some("application/xml")
}

/// The content type that the vendor's table gives to a file name.
#[must_use]
pub fn for_name(name: &str) -> &'static str {
    match extension(name).as_str() {
        "txt" => "text/plain",
        "xml" => "application/xml",
        "edi" => "application/EDI",
        "x12" => "application/EDI-X12",
        "edifact" => "application/EDIFACT",
        _ => "application/octet-stream",
    }
}

/// The content type of one of several attachments (RFC 6362 §2.2): the table above, and the registered types of documents.
#[must_use]
pub fn for_attachment(name: &str) -> &'static str {
    match extension(name).as_str() {
        "pdf" => "application/pdf",
        "tif" | "tiff" => "image/tiff",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "zip" => "application/zip",
        "rtf" => "application/rtf",
        "doc" => "application/msword",
        "html" | "htm" => "text/html",
        _ => for_name(name),
    }
}

/// The extension for a received file without a name.
#[must_use]
pub fn extension_for(content_type: &str) -> &'static str {
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "text/plain" => "txt",
        "application/xml" | "text/xml" => "xml",
        "application/edi" | "application/edi-consent" => "edi",
        "application/edi-x12" => "x12",
        "application/edifact" => "edifact",
        "application/pdf" => "pdf",
        "image/tiff" => "tiff",
        "image/jpeg" => "jpg",
        "image/gif" => "gif",
        "application/zip" => "zip",
        "text/html" => "html",
        _ => "bin",
    }
}

fn extension(name: &str) -> String {
    name.rsplit_once('.').map(|(_, ext)| ext.to_ascii_lowercase()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_media_types_of_files_may_be_given() {
        for good in [
            "text/plain",
            "application/EDI-X12",
            "application/vnd.gs1+xml; charset=utf-8",
            "text/plain ; charset=\"utf-8\" ;format=flowed",
            "text/plain; name=\"a \\\"b; c=d\"",
            "application/pkcs7-mime; smime-type=certs-only",
        ] {
            assert_eq!(check("type", good), Ok(()), "{good}");
        }
        let long = format!("text/{}", "x".repeat(MAX));
        for bad in [
            "",
            "foo",
            "text/",
            "/plain",
            "text/plain/x",
            "text/pl ain",
            " text/plain",
            "text/plain;",
            "text/plain; charset",
            "text/plain; =x",
            "text/plain; a=",
            "text/plain; a=\"x",
            "text/plain; a=\"x\"y",
            "text/plain; a=x y",
            "text/plain\r\nX-Evil: 1",
            "text/plain; a=\"x\r\ny\"",
            "text/plän",
            &long,
        ] {
            assert!(check("type", bad).is_err(), "{bad}");
        }
        for layer in [
            "multipart/mixed; boundary=x",
            "Multipart/Related",
            "application/pkcs7-mime",
            "application/x-pkcs7-mime; smime-type=enveloped-data",
            "message/disposition-notification",
        ] {
            assert!(check("type", layer).is_err_and(|why| why.contains("packed")), "{layer}");
        }
    }

    #[test]
    fn first_bytes_tell_the_standard() {
        for (head, wanted) in [
            (&b"ISA*00*          *00*"[..], Some("application/EDI-X12")),
            (b"\r\n ISA|00|", Some("application/EDI-X12")),
            (b"UNA:+.? 'UNB+UNOC:3", Some("application/EDIFACT")),
            (b"UNB+UNOA:1+A+B", Some("application/EDIFACT")),
            (b"\xEF\xBB\xBF<?xml version=\"1.0\"?>", Some("application/xml")),
            (b"ISABELLA wrote this", None),
            (b"ISA then nothing", None),
            (b"ISA", None),
            (b"PK\x03\x04", None),
            (b"", None),
        ] {
            assert_eq!(for_bytes(head), wanted, "{}", head.escape_ascii());
        }
    }
}
