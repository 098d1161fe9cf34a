//! Which content type a file name gets, and the other way round (as2.md §12).

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
