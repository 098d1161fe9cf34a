//! Message disposition notifications: the report that answers a message (RFC 4130 §7.4, RFC 8098, as2.md §5).

use crate::algorithm::{Digest, DigestNames};
use crate::cms::p7s;
use crate::compose::{self, Signing, boundary};
use crate::crypto;
use crate::disposition::Disposition;
use crate::error::Error;
use crate::headers::{Headers, is_field};
use crate::id::As2Id;
use crate::message_id::{MessageId, bare};
use crate::mic::{self, Mic};
use crate::mime::transfer::{decode_lenient, encode};
use crate::mime::{Encoding, MediaType, broken, scanner, transfer};

/// Largest report that is read, in bytes (as2.md SEC3).
pub const MAX_REPORT: usize = 1 << 20;
/// Most bytes of the human's text that are kept.
const MAX_TEXT: usize = 64 * 1024;
/// Most parts of a report, and how deep they may nest.
const MAX_PARTS: usize = 64;
const MAX_DEPTH: u8 = 8;
/// Most characters kept of a MIC that cannot be read.
const MAX_SHOWN_MIC: usize = 200;
const ORIGINAL: &str = "Original-Message-ID";
/// Longest line written into the human's text (RFC 5322 §2.1.1).
const MAX_LINE: usize = 900;

/// What a report says.
#[derive(Clone, Debug)]
pub struct Mdn {
    /// The message it answers, brackets as they came; empty if it names none.
    pub original_message_id: String,
    /// What became of it.
    pub disposition: Disposition,
    /// `Received-content-MIC`; `None` if missing or unreadable.
    pub mic: Option<Mic>,
    /// The text of a MIC that cannot be read, at most 200 characters; `None` too where the field says nothing, like `null`.
    pub unreadable_mic: Option<String>,
    /// The part for humans.
    pub text: String,
    /// `Final-Recipient` without its address type.
    pub final_recipient: String,
    /// `Original-Recipient` without its address type.
    pub original_recipient: String,
    /// `Reporting-UA`.
    pub reporting_ua: String,
}

impl Mdn {
    /// Reads the body of a `multipart/report`, or of a bare `message/disposition-notification`. `Ok(None)`: no notification is
    /// inside.
    pub(crate) fn parse(media: &MediaType, body: &[u8]) -> Result<Option<Self>, Error> {
        let mut found = Found::default();
        found.entity(media, &Encoding::Identity, body, 0)?;
        let Some(fields) = found.notifications.first() else {
            return Ok(None);
        };
        let get = |name| fields.get(name).unwrap_or_default().to_owned();
        // Of several about one message the worst counts.
        let of_same = |other: &&Headers| {
            let named = |fields: &Headers| fields.get(ORIGINAL).map(|id| bare(id).to_owned());
            named(other).is_none_or(|id| Some(id) == named(fields))
        };
        let all = |name| found.notifications.iter().filter(of_same).flat_map(move |fields| fields.all(name));
        let told = all("Disposition").map(Disposition::parse).reduce(Disposition::or_worse);
        let mut disposition = told.unwrap_or_else(|| Disposition::parse(""));
        for name in ["Failure", "Error", "Warning"] {
            all(name).for_each(|words| disposition.explain(name, words));
        }
        let mic_text = fields.get("Received-content-MIC").filter(|text| !mic::says_nothing(text));
        let mic = mic_text.and_then(|text| Mic::parse(text).ok());
        let unreadable_mic = mic_text
            .filter(|_| mic.is_none())
            .map(|text| text.chars().take(MAX_SHOWN_MIC).collect());
        Ok(Some(Mdn {
            original_message_id: get(ORIGINAL),
            disposition,
            mic,
            unreadable_mic,
            text: found.text.unwrap_or_default(),
            final_recipient: address(&get("Final-Recipient")),
            original_recipient: address(&get("Original-Recipient")),
            reporting_ua: get("Reporting-UA"),
        }))
    }
}

/// `rfc822; "AS2 Test"` without the type and the quotes.
fn address(value: &str) -> String {
    let address = value.split_once(';').map_or(value, |(_, address)| address).trim();
    As2Id::from_header(address.as_bytes()).map_or_else(|_| address.to_owned(), |id| id.as_str().to_owned())
}

/// The parts of a report, taken by their type and not by their place (as2.md §5.3). Whatever else cannot be read is passed over.
#[derive(Default)]
struct Found {
    /// The fields of each.
    notifications: Vec<Headers>,
    text: Option<String>,
}

impl Found {
    fn entity(&mut self, media: &MediaType, encoding: &Encoding, body: &[u8], depth: u8) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(broken("a report nested too deep"));
        }
        if media.is_multipart() {
            let parts = match scanner::split(body, media.param("boundary"), MAX_PARTS) {
                Ok((parts, _)) => parts,
                Err(error) if depth == 0 => return Err(error),
                Err(_) => return Ok(()),
            };
            return parts.iter().try_for_each(|part| self.part(part, depth + 1));
        }
        let decoded = match encoding {
            Encoding::Base64 => decode_lenient(body),
            Encoding::QuotedPrintable => {
                let (mut decoder, mut scratch) = (transfer::Decoder::new(encoding), Vec::new());
                let mut out = decoder.push(body, &mut scratch).to_vec();
                decoder.finish(&mut out);
                out
            }
            _ => body.to_vec(),
        };
        match media.essence.as_str() {
            "message/disposition-notification" | "message/global-disposition-notification" => {
                self.notifications.push(fields_of(&decoded)?);
            }
            "text/plain" | "text/html" | "" if self.text.is_none() => {
                let text = decoded.get(..decoded.len().min(MAX_TEXT)).unwrap_or_default();
                self.text = Some(String::from_utf8_lossy(text).trim_end().to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    fn part(&mut self, part: &[u8], depth: u8) -> Result<(), Error> {
        let (head, body) = split_head(part);
        let Ok(headers) = Headers::parse_mime(head) else { return Ok(()) };
        let media = MediaType::parse(headers.get("Content-Type").unwrap_or("text/plain"));
        self.entity(&media, &Encoding::of(&headers), body, depth)
    }
}

/// The header block with its blank line, and the body.
fn split_head(part: &[u8]) -> (&[u8], &[u8]) {
    let mut start = 0;
    for line in part.split_inclusive(|&b| b == b'\n') {
        start += line.len();
        if matches!(line, b"\n" | b"\r\n") {
            return part.split_at(start);
        }
    }
    (part, &[])
}

/// The fields of a notification. Blank lines may stand before and between them.
fn fields_of(body: &[u8]) -> Result<Headers, Error> {
    let lines = body.split_inclusive(|&b| b == b'\n').filter(|line| !line.trim_ascii().is_empty());
    // COMPAT: a line that is no field, such as an advertisement, is passed over, with what continues it.
    let mut wanted = false;
    let fields = lines.filter(|line| {
        if !line.starts_with(b" ") && !line.starts_with(b"\t") {
            wanted = is_field(line);
        }
        wanted
    });
    Headers::parse_mime(&fields.collect::<Vec<_>>().concat())
}

/// Whether the multipart under these headers has its last delimiter, the sign that nothing is lacking (RFC 2046 §5.1.1). `None` for
/// what is no multipart, has no usable boundary, or is in base64.
#[must_use]
pub fn is_closed(headers: &Headers, body: &[u8]) -> Option<bool> {
    let media = MediaType::parse(headers.get("Content-Type")?);
    if !media.is_multipart() || Encoding::of(headers) == Encoding::Base64 {
        return None;
    }
    let mut scanner = scanner::Scanner::new(media.param("boundary")).ok()?;
    let mut pass = |_: scanner::Piece<'_>| Ok::<(), Error>(());
    let scanned = scanner.push(body, &mut pass).and_then(|()| scanner.finish(&mut pass));
    Some(scanned.is_ok() && scanner.is_closed())
}

/// An MDN to be made.
pub struct MdnOut<'a> {
    /// Our station: the message's AS2-To, as [`As2Id::from_header`] read it, so that the spelling is given back.
    pub from: As2Id,
    /// The partner: the message's AS2-From.
    pub to: As2Id,
    /// The MDN's own id.
    pub message_id: MessageId,
    /// The id of the message, exactly as it came.
    pub original_message_id: String,
    /// Unix seconds.
    pub now: i64,
    /// What became of the message.
    pub disposition: Disposition,
    /// The MIC, if one could be computed.
    pub mic: Option<Mic>,
    /// How digests are spelt.
    pub digest_names: DigestNames,
    /// For humans; characters outside of ASCII are replaced.
    pub text: String,
    /// `Explanation`, for partners of AS2 1.3 (as2.md §5.2). Never for `decryption-failed`: it would be an oracle.
    pub explanation: Option<String>,
    /// How it is signed, if it is.
    pub sign: Option<Signing<'a>>,
    /// `AS2-Version`.
    pub as2_version: String,
    /// Our product, `name/version`.
    pub product: String,
    /// `Subject`.
    pub subject: String,
    /// Random bytes of which boundaries are made.
    pub nonce: [u8; 16],
    /// Where an asynchronous MDN goes; adds `Recipient-Address`.
    pub recipient_url: Option<String>,
}

/// Makes the headers and the body of an MDN (as2.md §5.1).
///
/// # Errors
/// An argument that cannot stand in a header, or a key that cannot sign.
pub fn compose(out: MdnOut<'_>) -> Result<(Headers, Vec<u8>), Error> {
    let report_boundary = boundary(&out.nonce, "report");
    let report_type = format!("multipart/report; report-type=disposition-notification; boundary=\"{report_boundary}\"");
    let report = report(&out, &report_boundary)?;
    let (content_type, body) = match &out.sign {
        None => (report_type, report),
        Some(signing) => {
            let entity = [format!("Content-Type: {report_type}\r\n\r\n").into_bytes(), report].concat();
            sign(signing, out.digest_names, &entity, &boundary(&out.nonce, "signed"), out.now)?
        }
    };
    let mut headers = Headers::new();
    compose::write_common(
        &mut headers,
        &out.as2_version,
        &out.from,
        &out.to,
        &out.message_id,
        out.now,
        &out.subject,
    )?;
    if let Some(url) = &out.recipient_url {
        headers.push("Recipient-Address", &compose::public_url(url))?;
    }
    headers.push(if out.recipient_url.is_some() { "User-Agent" } else { "Server" }, &out.product)?;
    compose::write_features(&mut headers, &out.as2_version, &out.product)?;
    headers.push("Content-Type", &content_type)?;
    Ok((headers, body))
}

fn report(out: &MdnOut<'_>, boundary: &str) -> Result<Vec<u8>, Error> {
    let mut fields = Headers::new();
    let station = out.from.to_header();
    fields.push("Reporting-UA", out.product.split('/').next().unwrap_or_default())?;
    fields.push("Original-Recipient", &format!("rfc822; {station}"))?;
    fields.push("Final-Recipient", &format!("rfc822; {station}"))?;
    if !out.original_message_id.is_empty() {
        fields.push(ORIGINAL, &out.original_message_id)?;
    }
    fields.push("Disposition", &out.disposition.to_string())?;
    if let Some(words) = &out.explanation {
        fields.push("Explanation", words)?;
    }
    if let Some(mic) = &out.mic {
        fields.push("Received-content-MIC", &mic.spelt(out.digest_names))?;
    }
    let mut body = Vec::new();
    for (kind, content) in [
        ("text/plain; charset=us-ascii", plain_lines(&out.text)),
        ("message/disposition-notification", fields.to_bytes()),
    ] {
        body.extend_from_slice(format!("--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: 7bit\r\n\r\n").as_bytes());
        body.extend_from_slice(&content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    Ok(body)
}

/// Printable ASCII in lines that end in CRLF.
fn plain_lines(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    for line in text.lines() {
        let ascii: Vec<u8> = line
            .chars()
            .map(|c| if matches!(c, ' '..='~' | '\t') { c as u8 } else { b'?' })
            .collect();
        for piece in ascii.chunks(MAX_LINE) {
            out.extend_from_slice(piece);
            out.extend_from_slice(b"\r\n");
        }
        if ascii.is_empty() {
            out.extend_from_slice(b"\r\n");
        }
    }
    out
}

/// Wraps a small entity in `multipart/signed`: the content type and the body.
fn sign(signing: &Signing<'_>, names: DigestNames, entity: &[u8], boundary: &str, now: i64) -> Result<(String, Vec<u8>), Error> {
    let digest: Digest = signing.digest;
    let signature = encode(&p7s(&signing.params(), &crypto::hash(digest, entity)?, now)?);
    let (start, end) = (format!("--{boundary}\r\n"), format!("\r\n--{boundary}--\r\n"));
    let head = compose::signature_head(boundary);
    let body = [start.as_bytes(), entity, &head, &signature, end.as_bytes()].concat();
    Ok((compose::signed_type(digest.spelt(names), boundary), body))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::algorithm::SignatureScheme;
    use crate::cms::testkit;

    #[test]
    fn a_multipart_tells_by_its_last_delimiter_whether_it_is_whole() {
        let whole = b"--b\r\n\r\ntext\r\n--b\r\n\r\nmore\r\n--b--";
        for (media, body, closed) in [
            ("multipart/report; boundary=b", &whole[..], Some(true)),
            ("Multipart/Signed;x-boundary=no; BOUNDARY = \"b\" ; x=y", whole, Some(true)),
            ("multipart/report (a report); boundary=b (its end)", whole, Some(true)),
            ("multipart/report; boundary=b", &whole[..whole.len() - 1], Some(false)),
            ("multipart/report; boundary=b", &whole[..20], Some(false)),
            ("multipart/report; boundary=b", b"", Some(false)),
            ("multipart/report; boundary=other", whole, Some(false)),
            ("multipart/report", whole, None),
            ("message/disposition-notification; boundary=b", whole, None),
        ] {
            let mut headers = Headers::new();
            headers.push("Content-Type", media).unwrap();
            assert_eq!(is_closed(&headers, body), closed, "{media} {body:?}");
            headers.push("Content-Transfer-Encoding", "BASE64 (coded)").unwrap();
            assert_eq!(is_closed(&headers, body), None);
        }
        assert_eq!(is_closed(&Headers::new(), whole), None);
    }

    fn out() -> MdnOut<'static> {
        MdnOut {
            from: As2Id::from_header(b"\"AS2 Test\"").unwrap(),
            to: As2Id::parse("ACME").unwrap(),
            message_id: MessageId::new("1", "host").unwrap(),
            original_message_id: "no brackets@x".to_owned(),
            now: 0,
            disposition: Disposition::processed(),
            mic: Some(Mic {
                digest: Digest::Sha256,
                value: vec![7; 32],
            }),
            digest_names: DigestNames::Rfc5751,
            text: "Grüße\n\nreceived".to_owned(),
            explanation: None,
            sign: None,
            as2_version: "1.2".to_owned(),
            product: "as2gate/1".to_owned(),
            subject: "receipt".to_owned(),
            nonce: [1; 16],
            recipient_url: None,
        }
    }

    #[test]
    fn what_we_write_we_read() {
        let (headers, body) = compose(out()).unwrap();
        assert_eq!(headers.get("AS2-From"), Some("\"AS2 Test\""));
        let text = String::from_utf8(body.clone()).unwrap();
        assert!(text.contains("Final-Recipient: rfc822; \"AS2 Test\"\r\n"), "{text}");
        assert!(text.ends_with("--\r\n") && !text.replace("\r\n", "").contains('\n'));
        let mdn = Mdn::parse(&MediaType::parse(headers.get("Content-Type").unwrap()), &body)
            .unwrap()
            .unwrap();
        assert_eq!(mdn.original_message_id, "no brackets@x");
        assert_eq!(mdn.mic, out().mic);
        assert_eq!(
            (mdn.final_recipient.as_str(), mdn.text.as_str()),
            ("AS2 Test", "Gr??e\r\n\r\nreceived")
        );
        assert!(mdn.disposition.is_positive());
    }

    #[test]
    fn digests_are_spelt_as_the_partner_reads_them() {
        for (digest_names, name) in [(DigestNames::Rfc5751, "sha-256"), (DigestNames::Rfc3851, "sha256")] {
            let out = MdnOut {
                digest_names,
                sign: Some(Signing {
                    identity: testkit::rsa(),
                    digest: Digest::Sha256,
                    scheme: SignatureScheme::RsaPkcs1,
                    include_certificate: true,
                    protect_algorithms: false,
                }),
                ..out()
            };
            let (headers, body) = compose(out).unwrap();
            let kind = headers.get("Content-Type").unwrap();
            assert!(kind.contains(&format!("; micalg={name}; ")), "{kind}");
            let body = String::from_utf8(body).unwrap();
            assert!(body.contains(&format!("=, {name}\r\n")), "{body}");
        }
    }

    #[test]
    fn nothing_splits_a_header() {
        assert!(
            compose(MdnOut {
                original_message_id: "a\r\nX: y".to_owned(),
                ..out()
            })
            .is_err()
        );
        assert!(
            compose(MdnOut {
                subject: "a\r\nX: y".to_owned(),
                ..out()
            })
            .is_err()
        );
    }

    #[test]
    fn odd_reports_are_read() {
        let media = MediaType::parse("Multipart/Report; Report-Type=disposition-notification; boundary=b");
        let body = b"Content-Type: x\n\n--b\nContent-Type: message/disposition-notification\nContent-Transfer-Encoding: base64\n\n\
            CgpvcmlnaW5hbC1tZXNzYWdlLWlkOiA8YT4KCmRpc3Bvc2l0aW9uOiBhO3Byb2Nlc3NlZC9lcnJvcgplcnJvcjogYmFkIG9uZQo=\n--b\n\n<p>\n";
        let mdn = Mdn::parse(&media, body).unwrap().unwrap();
        assert_eq!(mdn.original_message_id, "<a>");
        assert_eq!(mdn.disposition.modifier_code().as_deref(), Some("bad-one"));
        assert!(mdn.mic.is_none() && !mdn.disposition.is_positive());
        assert!(Mdn::parse(&media, b"--b\r\n\r\ntext\r\n--b--\r\n").unwrap().is_none());
    }

    #[test]
    fn a_mic_that_cannot_be_read_is_no_missing_one() {
        let media = MediaType::parse("multipart/report; boundary=b");
        let read = |mic: &str| {
            let body =
                format!("--b\r\nContent-Type: message/disposition-notification\r\n\r\nDisposition: a; processed\r\n{mic}\r\n--b--\r\n");
            let mdn = Mdn::parse(&media, body.as_bytes()).unwrap().unwrap();
            (mdn.mic.is_some(), mdn.unreadable_mic)
        };
        assert_eq!(
            read("Received-content-MIC: AAEC, crc32\r\n"),
            (false, Some("AAEC, crc32".to_owned()))
        );
        assert_eq!(read("Received-content-MIC: null\r\n"), (false, None));
        assert_eq!(read(""), (false, None));
        assert_eq!(read("Received-content-MIC: AAEC, sha1\r\n"), (true, None));
    }

    #[test]
    fn the_worst_that_a_notification_says_counts() {
        let media = MediaType::parse("multipart/report; boundary=b");
        let read = |fields: &str| {
            let body =
                format!("--b\r\nContent-Type: message/disposition-notification\r\n\r\nOriginal-Message-ID: <a>\r\n{fields}\r\n--b--\r\n");
            let disposition = Mdn::parse(&media, body.as_bytes()).unwrap().unwrap().disposition;
            (disposition.is_positive(), disposition.modifier_code())
        };
        let said = |words: &str| Some(words.to_owned());
        let plain = "Disposition: a; processed\r\n";
        assert_eq!(read(plain), (true, None));
        assert_eq!(
            read(&format!("{plain}Error: decryption failed\r\n")),
            (false, said("decryption-failed"))
        );
        assert_eq!(read(&format!("{plain}Failure: x\r\nWarning: y\r\n")), (false, said("x")));
        assert_eq!(read(&format!("{plain}Warning: duplicate\r\nError: z\r\n")), (false, said("z")));
        assert_eq!(read(&format!("{plain}Warning: duplicate\r\n")), (true, said("duplicate")));
        assert_eq!(read(&format!("{plain}Error:\r\nFailure: none\r\n")), (true, None));
        assert_eq!(
            read(&format!("{plain}Disposition: a; processed/error: bad\r\n")),
            (false, said("bad"))
        );
        assert_eq!(read(&format!("Disposition: a; failed/Failure: x\r\n{plain}")), (false, said("x")));
        assert_eq!(read(&format!("{plain}{plain}")), (true, None));
        assert_eq!(read(""), (false, None));
    }

    #[test]
    fn lines_that_are_no_fields_are_passed_over() {
        let media = MediaType::parse("multipart/report; boundary=b");
        let body = b"--b\r\nContent-Type : message/disposition-notification\r\n\r\n  stray\r\nOriginal-Message-ID: <a>\r\n\
            Disposition\t : a;\r\n processed\r\nPlease visit us: http://x.example\r\n\tprocessed/error: in an advertisement\r\n\
            -----\r\n\x80dd: x\r\nReceived-content-MIC : AAEC, sha1\r\n: nothing\r\nReporting-UA: u\r\n more\r\n\r\n--b--\r\n";
        let mdn = Mdn::parse(&media, body).unwrap().unwrap();
        assert!(mdn.disposition.is_positive() && mdn.disposition.modifier_code().is_none());
        assert_eq!((mdn.original_message_id.as_str(), mdn.reporting_ua.as_str()), ("<a>", "u more"));
        assert!(mdn.mic.is_some());
    }

    /// A report of these parts, each with its header block.
    fn report_of(parts: &[&str]) -> Mdn {
        let body: String = parts.iter().map(|part| format!("--b\r\n{part}\r\n")).collect();
        let media = MediaType::parse("multipart/report; report-type=disposition-notification; boundary=b");
        Mdn::parse(&media, format!("{body}--b--\r\n").as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn the_worst_of_several_notifications_about_one_message_counts() {
        let told = |id: &str, words: &str| {
            format!("Content-Type: message/disposition-notification\r\n\r\nOriginal-Message-ID: {id}\r\nDisposition: a; {words}\r\n")
        };
        let good = told("<1@x>", "processed");
        for (other, is_positive) in [
            (told("1@x", "processed/error: unexpected-processing-error"), false),
            (told("<2@x>", "processed/error: unexpected-processing-error"), true),
            (told("<1@x>", "processed"), true),
        ] {
            let mdn = report_of(&[&good, &other]);
            assert_eq!(mdn.disposition.is_positive(), is_positive, "{other}");
            assert_eq!(mdn.original_message_id, "<1@x>");
        }
    }

    #[test]
    fn a_part_that_cannot_be_read_does_not_cost_the_notification() {
        let notification =
            "Content-Type: message/disposition-notification\r\n\r\nOriginal-Message-ID: <1@x>\r\nDisposition: a; processed\r\n";
        for odd in [
            "Content-Type: text/plain\r\nThe message was received.\r\n",
            "Content-Type: multipart/alternative\r\n\r\nwithout a boundary\r\n",
        ] {
            assert!(report_of(&[odd, notification]).disposition.is_positive(), "{odd}");
        }
    }
}
