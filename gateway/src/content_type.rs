//! Which content type a file name gets, and the other way round (as2.md §12).

/// The setting that looks at a file's first bytes.
pub const DETECT: &str = "detect";
/// So many first bytes are looked at.
pub const HEAD: usize = 256;

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
