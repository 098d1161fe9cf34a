//! The receipt that a sender asks for: `Disposition-Notification-To`, `-Options`, `Receipt-Delivery-Option` (RFC 4130 §7.3).

use crate::algorithm::{Digest, DigestNames};
use crate::error::{Error, ErrorKind};
use crate::headers::Headers;

/// Longest `Receipt-Delivery-Option` that is taken (as2.md §2).
pub const MAX_URL: usize = 2_000;
/// Most algorithms read of one list.
const MAX_MICALGS: usize = 32;

/// A receipt request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptRequest {
    /// The value of `Disposition-Notification-To`; any text at all.
    pub notify_to: String,
    /// A signed receipt is asked for.
    pub signed: bool,
    /// The MIC algorithms listed, in the sender's order, those that we know.
    pub micalgs: Vec<Digest>,
    /// The signed receipt is `required`: whoever cannot make it answers `failed`, and no unsigned receipt (RFC 4130 §7.3).
    pub required: bool,
    /// Where an asynchronous receipt goes; `None` is synchronous.
    pub deliver_to: Option<String>,
}

impl ReceiptRequest {
    /// An unsigned receipt in the HTTP response.
    #[must_use]
    pub fn sync(notify_to: impl Into<String>) -> Self {
        ReceiptRequest {
            notify_to: notify_to.into(),
            signed: false,
            micalgs: Vec::new(),
            required: false,
            deliver_to: None,
        }
    }

    /// Asks for a signature, and a MIC by the first of these that the receiver can do.
    #[must_use]
    pub fn signed(mut self, micalgs: Vec<Digest>) -> Self {
        self.signed = true;
        self.micalgs = micalgs;
        self
    }

    /// Says `required` of protocol and algorithms instead of `optional`.
    #[must_use]
    pub fn required(mut self, required: bool) -> Self {
        self.required = required;
        self
    }

    /// Asks for the receipt by a POST of its own.
    #[must_use]
    pub fn deliver_to(mut self, url: impl Into<String>) -> Self {
        self.deliver_to = Some(url.into());
        self
    }

    /// What a message's headers ask for; `None` if no receipt is wanted. Blanks, quotes, order, case, missing importance and
    /// empty items are no trouble (as2.md Q22).
    ///
    /// # Errors
    /// [`ErrorKind::UnsupportedFormat`]: a protocol other than pkcs7-signature, or a parameter that we do not know, is required.
    /// [`ErrorKind::UnsupportedMicAlgorithms`]: a signed receipt is asked for, algorithms are listed, and we know none of them.
    pub fn from_headers(headers: &Headers) -> Result<Option<Self>, Error> {
        let Some(notify_to) = headers.get("Disposition-Notification-To") else {
            return Ok(None);
        };
        let mut request = ReceiptRequest::sync(notify_to);
        if let Some(url) = headers.get("Receipt-Delivery-Option").map(str::trim).filter(|url| !url.is_empty()) {
            if url.len() > MAX_URL {
                return Err(Error::new(
                    ErrorKind::UnexpectedProcessingError,
                    "Receipt-Delivery-Option is too long",
                ));
            }
            request.deliver_to = Some(url.to_owned());
        }
        let options = headers.all("Disposition-Notification-Options").collect::<Vec<_>>().join(";");
        let mut digests = Ok(Vec::new());
        for option in options.split(';') {
            let Some((name, values)) = option.split_once('=') else { continue };
            match clean(name).as_str() {
                "signed-receipt-protocol" => (request.required, request.signed) = is_our_protocol(values)?,
                "signed-receipt-micalg" => digests = known_digests(values),
                // Whoever does not understand a required parameter answers nothing but `failed` (RFC 8098 §2.2).
                unknown if items(values).0 => {
                    let name = unknown.escape_default();
                    return Err(Error::new(ErrorKind::UnsupportedFormat, format!("the required parameter {name}")));
                }
                _ => {}
            }
        }
        // The list is about signed receipts; nobody needs one that is not asked for, or by a protocol that is not ours.
        request.micalgs = if request.signed { digests? } else { digests.unwrap_or_default() };
        Ok(Some(request))
    }

    /// Writes the headers that ask for it, digests spelt so.
    ///
    /// # Errors
    /// A value that cannot be a header.
    pub fn write_to(&self, headers: &mut Headers, digest_names: DigestNames) -> Result<(), Error> {
        headers.push("Disposition-Notification-To", &self.notify_to)?;
        if self.signed {
            let names: Vec<_> = self.micalgs.iter().map(|digest| digest.spelt(digest_names)).collect();
            let list = if names.is_empty() {
                Digest::Sha256.spelt(digest_names).to_owned()
            } else {
                names.join(", ")
            };
            let weight = if self.required { "required" } else { "optional" };
            let value = format!("signed-receipt-protocol={weight}, pkcs7-signature; signed-receipt-micalg={weight}, {list}");
            headers.push("Disposition-Notification-Options", &value)?;
        }
        if let Some(url) = &self.deliver_to {
            headers.push("Receipt-Delivery-Option", url)?;
        }
        Ok(())
    }
}

fn clean(text: &str) -> String {
    text.trim_matches(|c: char| c.is_whitespace() || c == '"' || c == '\'')
        .to_ascii_lowercase()
}

/// The items of a list, and whether it is `required`.
fn items(values: &str) -> (bool, Vec<String>) {
    let mut required = false;
    let mut rest = Vec::new();
    for item in values.split(',').map(clean).filter(|item| !item.is_empty()) {
        match item.as_str() {
            "required" => required = true,
            "optional" => {}
            _ => rest.push(item),
        }
    }
    rest.truncate(MAX_MICALGS);
    (required, rest)
}

/// Whether it is required, and whether it is ours.
fn is_our_protocol(values: &str) -> Result<(bool, bool), Error> {
    let (required, protocols) = items(values);
    let ours = protocols
        .iter()
        .any(|p| matches!(p.as_str(), "pkcs7-signature" | "x-pkcs7-signature" | "application/pkcs7-signature"));
    if !ours && required {
        return Err(Error::new(
            ErrorKind::UnsupportedFormat,
            format!("receipt protocol {}", protocols.join(", ")),
        ));
    }
    Ok((required, ours))
}

fn known_digests(values: &str) -> Result<Vec<Digest>, Error> {
    let (_, mut names) = items(values);
    // COMPAT(OpenAS2 #60): the protocol's name strays into this list.
    names.retain(|name| !name.ends_with("pkcs7-signature"));
    let mut known = Vec::new();
    for digest in names.iter().filter_map(|name| Digest::parse(name)) {
        if !known.contains(&digest) {
            known.push(digest);
        }
    }
    // An algorithm that was not listed is never used, so a list without a known one cannot be served (as2.md X8).
    if known.is_empty() && !names.is_empty() {
        return Err(Error::new(ErrorKind::UnsupportedMicAlgorithms, names.join(", ")));
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(options: &str) -> Result<ReceiptRequest, Error> {
        let mut headers = Headers::new();
        headers.push("Disposition-Notification-To", "x").unwrap();
        headers.push("Disposition-Notification-Options", options).unwrap();
        ReceiptRequest::from_headers(&headers).map(Option::unwrap)
    }

    #[test]
    fn every_spelling_is_understood() {
        let spellings = [
            "signed-receipt-protocol=optional, pkcs7-signature; signed-receipt-micalg=optional, sha-256, sha1",
            " signed-receipt-protocol   =   optional  , pkcs7-signature  ;\tsigned-receipt-micalg =\toptional , SHA256, SHA-1 ;",
            "SIGNED-RECEIPT-PROTOCOL=required,PKCS7-SIGNATURE;SIGNED-RECEIPT-MICALG=REQUIRED,SHA_256,RSA-SHA1",
            "signed-receipt-protocol=pkcs7-signature; signed-receipt-micalg=\"sha256\", sha, crc32",
            "signed-receipt-micalg=optional,,pkcs7-signature,sha-256,sha1;;signed-receipt-protocol=optional,pkcs7-signature;",
        ];
        for spelling in spellings {
            let request = read(spelling).unwrap();
            assert!(request.signed, "{spelling}");
            assert_eq!(request.micalgs, [Digest::Sha256, Digest::Sha1], "{spelling}");
        }
    }

    #[test]
    fn what_cannot_be_made_is_told() {
        assert_eq!(
            read("signed-receipt-protocol=required, pgp").unwrap_err().kind,
            ErrorKind::UnsupportedFormat
        );
        assert!(!read("signed-receipt-protocol=optional, pgp").unwrap().signed);
        assert_eq!(
            read("signed-receipt-protocol=optional, pkcs7-signature; x-archive=required, 10y")
                .unwrap_err()
                .kind,
            ErrorKind::UnsupportedFormat
        );
        assert!(
            read("signed-receipt-protocol=optional, pkcs7-signature; x-archive=optional, 10y")
                .unwrap()
                .signed
        );
        assert_eq!(
            read("signed-receipt-micalg=optional, crc32; signed-receipt-protocol=optional, pkcs7-signature")
                .unwrap_err()
                .kind,
            ErrorKind::UnsupportedMicAlgorithms
        );
        // Whoever wants no signature gets an unsigned receipt, whatever stands in the list.
        for unsigned in [
            "signed-receipt-micalg=optional, crc32",
            "signed-receipt-micalg=crc32; signed-receipt-protocol=optional, pgp",
        ] {
            let request = read(unsigned).unwrap();
            assert!(!request.signed && request.micalgs.is_empty(), "{unsigned}");
        }
        assert!(read("signed-receipt-micalg=optional, pkcs7-signature").unwrap().micalgs.is_empty());
        assert!(ReceiptRequest::from_headers(&Headers::new()).unwrap().is_none());
    }

    #[test]
    fn what_we_write_we_read() {
        let request = ReceiptRequest::sync("as2@example.com")
            .signed(vec![Digest::Sha384, Digest::Sha256])
            .required(true)
            .deliver_to("https://x.example/mdn?a=b");
        for (names, list) in [(DigestNames::Rfc5751, "sha-384, sha-256"), (DigestNames::Rfc3851, "sha384, sha256")] {
            let mut headers = Headers::new();
            request.write_to(&mut headers, names).unwrap();
            let wanted = format!("signed-receipt-protocol=required, pkcs7-signature; signed-receipt-micalg=required, {list}");
            assert_eq!(headers.get("Disposition-Notification-Options"), Some(wanted.as_str()));
            assert_eq!(ReceiptRequest::from_headers(&headers).unwrap().as_ref(), Some(&request));
        }
    }
}
