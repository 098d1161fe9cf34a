//! Packaging a message: payload bytes in, body bytes out, in constant memory and with the length known beforehand
//! (as2.md §3, cms-streaming.md §4).
//!
//! A payload entity E is wrapped from the inside out: compressed Z(x), signed S(x), encrypted X(x). The MIME headers of the
//! outermost entity become HTTP headers. The compressed length is not known beforehand, so compression takes two passes: the
//! first makes zlib bytes, which the caller keeps in a scratch file and feeds to the second.

mod entity;
mod pass;

use std::sync::Arc;

use crate::algorithm::{Cipher, Compression, Digest, DigestNames, KeyTransport, SignatureScheme};
use crate::cert::{Certificate, Identity};
use crate::cms::Form;
use crate::date::imf_fixdate;
use crate::error::Error;
use crate::headers::Headers;
use crate::helper::Helper;
use crate::hex;
use crate::id::As2Id;
use crate::kernel::Kernel;
use crate::message_id::MessageId;
use crate::mic::Mic;
use crate::receipt::ReceiptRequest;

use entity::{Framer, Source};
use pass::Pass;

/// Most parts of one message (as2.md SEC3).
pub const MAX_PARTS: usize = 1_000;
/// Largest payload, in bytes; the limit of the length arithmetic.
pub const MAX_PAYLOAD: u64 = 1 << 44;
/// Longest subject, in characters.
const MAX_SUBJECT: usize = 400;

/// One file of a message.
#[derive(Clone, Debug)]
pub struct PartMeta {
    /// Its name for the partner.
    pub file_name: Option<String>,
    /// Its media type.
    pub content_type: String,
    /// Its exact length in bytes.
    pub length: u64,
}

/// How a message or an MDN is signed.
#[derive(Clone, Copy)]
pub struct Signing<'a> {
    /// Whose signature it is.
    pub identity: &'a Identity,
    /// The digest of content and signature.
    pub digest: Digest,
    /// For RSA keys.
    pub scheme: SignatureScheme,
    /// Whether the signer's certificate goes along.
    pub include_certificate: bool,
    /// Whether the signature covers the names of its algorithms (RFC 6211).
    pub protect_algorithms: bool,
}

/// How a message is encrypted.
pub struct Encryption<'a> {
    /// To whom; the partner before ourselves.
    pub recipients: Vec<&'a Certificate>,
    /// The content cipher.
    pub cipher: Cipher,
    /// How the content key travels.
    pub key_transport: KeyTransport,
}

/// How payload parts travel inside the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransferEncoding {
    /// As they are.
    #[default]
    Binary,
    /// In base64. A message without any layer and with one part stays binary: HTTP has no transfer encoding
    /// (RFC 4130 §5.2.1).
    Base64,
}

/// A message to be made.
pub struct Outgoing<'a> {
    /// Our station.
    pub from: As2Id,
    /// The partner.
    pub to: As2Id,
    /// The message's id.
    pub message_id: MessageId,
    /// Unix seconds.
    pub now: i64,
    /// One line; empty is none.
    pub subject: String,
    /// `1.0` to `1.3`.
    pub as2_version: String,
    /// Where it will be posted; shown in `Recipient-Address` without userinfo and query.
    pub recipient_url: String,
    /// The files. Their bytes are pushed one after the other, in this order.
    pub parts: Vec<PartMeta>,
    /// `None`: unsigned.
    pub sign: Option<Signing<'a>>,
    /// `None`: in clear.
    pub encrypt: Option<Encryption<'a>>,
    /// Whether, and on which side of the signature.
    pub compress: Compression,
    /// Of the payload parts.
    pub transfer_encoding: TransferEncoding,
    /// How digests are spelt.
    pub digest_names: DigestNames,
    /// The receipt asked for.
    pub receipt: Option<ReceiptRequest>,
    /// Definite lengths up to this payload size, BER chunks above (cms-streaming.md §4.3).
    pub der_max: u64,
    /// Further header lines; a name that the message sets itself is refused, except `User-Agent`.
    pub extra_headers: Vec<(String, String)>,
    /// `name/version`.
    pub product: String,
    /// Fresh random bytes, of which boundaries and Content-IDs are made.
    pub nonce: [u8; 16],
    /// Digests to take beside those that signature and receipt name.
    pub also_digest: Vec<Digest>,
}

/// One digest that an MDN may carry.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Which bytes it covers.
    pub what: &'static str,
    /// The digest.
    pub mic: Mic,
}

/// A finished message.
#[derive(Debug)]
pub struct Composed {
    /// HTTP headers, without `Host` and `Content-Length`.
    pub headers: Headers,
    /// Bytes of the body; exactly as many were written.
    pub content_length: u64,
    /// What our own receiver would answer.
    pub mic: Option<Mic>,
    /// Everything that a partner may answer: for a signed message one value per digest, else one per reading of the rules
    /// (as2.md §3 "The conflict").
    pub mics: Vec<Candidate>,
}

/// What [`Composer::finish`] comes to.
pub enum Finished<'a> {
    /// The message is complete.
    Done(Box<Composed>),
    /// What was written so far is compressed content: push these bytes to this composer.
    Again(Box<Composer<'a>>),
}

/// A message in the making.
pub struct Composer<'a> {
    shape: Shape<'a>,
    /// HTTP headers, the MIME ones of the outermost entity excepted.
    headers: Headers,
    extra_headers: Vec<(String, String)>,
    mics: Vec<Candidate>,
    /// What [`Composed::mic`] has to cover, and by which digest.
    answer: (&'static str, Digest),
    pass: Pass<'a>,
    /// Compressed bytes are still to come.
    compressing: bool,
}

/// What both passes have to know.
pub(crate) struct Shape<'a> {
    sign: Option<Signing<'a>>,
    encrypt: Option<Encryption<'a>>,
    compress: Compression,
    digests: Vec<Digest>,
    digest_names: DigestNames,
    boundary: String,
    now: i64,
    form: Form,
    kernel: Kernel,
    helper: Option<Arc<dyn Helper>>,
}

impl<'a> Composer<'a> {
    /// Lays the message out.
    ///
    /// # Errors
    /// An argument that cannot be used, or cannot stand in a header.
    pub fn new(outgoing: Outgoing<'a>) -> Result<Self, Error> {
        Self::with_kernel(outgoing, Kernel::default())
    }

    /// The same with a choice that [`Composer::new`] leaves to the machine; for measurements and comparisons.
    ///
    /// # Errors
    /// As [`Composer::new`].
    pub fn with_kernel(outgoing: Outgoing<'a>, kernel: Kernel) -> Result<Self, Error> {
        let total = checked_total(&outgoing.parts)?;
        let receipt = outgoing.receipt.as_ref();
        let listed = receipt.map(|request| request.micalgs.clone()).unwrap_or_default();
        let headers = message_headers(&outgoing)?;
        let shape = Shape {
            digests: [
                outgoing.also_digest,
                listed.clone(),
                outgoing.sign.map_or(vec![], |s| vec![s.digest]),
            ]
            .concat(),
            digest_names: outgoing.digest_names,
            sign: outgoing.sign,
            encrypt: outgoing.encrypt,
            compress: outgoing.compress,
            boundary: boundary(&outgoing.nonce, "signed"),
            now: outgoing.now,
            form: if total <= outgoing.der_max { Form::Der } else { Form::Ber },
            kernel,
            helper: None,
        };
        let plain = shape.sign.is_none() && shape.encrypt.is_none() && shape.compress == Compression::None;
        let answer_digest = match shape.sign {
            Some(sign) if listed.is_empty() || listed.contains(&sign.digest) => sign.digest,
            _ => listed.first().copied().unwrap_or(Digest::Sha256),
        };
        let answer = match (&shape.sign, plain) {
            (Some(_), _) => pass::SIGNED,
            (None, true) => pass::WITHOUT_HEADERS,
            (None, false) => pass::WITH_HEADERS,
        };
        let mut shape = shape;
        shape.digests.push(answer_digest);
        shape.digests.sort_unstable();
        shape.digests.dedup();
        let framer = Framer::new(&outgoing.parts, outgoing.transfer_encoding, &outgoing.nonce, plain)?;
        let compressing = shape.compress != Compression::None;
        let pass = Pass::new(&shape, Source::Parts(Box::new(framer)), compressing)?;
        Ok(Composer {
            shape,
            headers,
            extra_headers: outgoing.extra_headers,
            mics: Vec::new(),
            answer: (answer, answer_digest),
            pass,
            compressing,
        })
    }

    /// Digests of large content that do not go hand in hand with the cipher ([`Kernel::Fused`]) are taken by the helper, if it
    /// has time.
    #[must_use]
    pub fn with_helper(mut self, helper: Arc<dyn Helper>) -> Self {
        self.pass.lend(&helper);
        self.shape.helper = Some(helper);
        self
    }

    /// Whether what this pass writes is scratch, to be pushed again after [`Composer::finish`].
    #[must_use]
    pub fn needs_scratch(&self) -> bool {
        self.compressing
    }

    /// Takes the next bytes and appends what they become to `out`.
    ///
    /// # Errors
    /// More bytes than the parts have.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.pass.push(bytes, out)
    }

    /// All bytes were pushed: signs, closes, and appends the rest to `out`.
    ///
    /// # Errors
    /// Fewer bytes than the parts have; a key that cannot sign; a length that differs from the one foreseen, which is our bug.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<Finished<'a>, Error> {
        let Composer {
            shape,
            mut headers,
            extra_headers,
            mut mics,
            answer,
            pass,
            compressing,
        } = self;
        let ended = pass.finish(&shape, out)?;
        mics.extend(ended.mics);
        if compressing {
            let zlib = entity::Zlib::new(ended.written, shape.form);
            let mut pass = Pass::new(&shape, Source::Compressed(zlib), false)?;
            shape.helper.iter().for_each(|helper| pass.lend(helper));
            return Ok(Finished::Again(Box::new(Composer {
                shape,
                headers,
                extra_headers,
                mics,
                answer,
                pass,
                compressing: false,
            })));
        }
        for (name, value) in ended.mime.iter() {
            headers.push(name, value)?;
        }
        write_extra(&mut headers, &extra_headers)?;
        let mic = mics
            .iter()
            .find(|c| c.what == answer.0 && c.mic.digest == answer.1)
            .map(|c| c.mic.clone());
        Ok(Finished::Done(Box::new(Composed {
            headers,
            content_length: ended.written,
            mic,
            mics,
        })))
    }
}

fn checked_total(parts: &[PartMeta]) -> Result<u64, Error> {
    if parts.is_empty() || parts.len() > MAX_PARTS {
        return Err(Error::invalid(format!("a message has 1 to {MAX_PARTS} parts, not {}", parts.len())));
    }
    let total = parts.iter().try_fold(0u64, |sum, part| sum.checked_add(part.length));
    total
        .filter(|&total| total <= MAX_PAYLOAD)
        .ok_or_else(|| Error::invalid("a payload of more than 16 TiB"))
}

fn message_headers(outgoing: &Outgoing<'_>) -> Result<Headers, Error> {
    let mut headers = Headers::new();
    let Outgoing {
        as2_version,
        from,
        to,
        message_id,
        now,
        subject,
        ..
    } = outgoing;
    write_common(&mut headers, as2_version, from, to, message_id, *now, subject)?;
    if !outgoing.recipient_url.is_empty() {
        headers.push("Recipient-Address", &public_url(&outgoing.recipient_url))?;
    }
    headers.push("User-Agent", &outgoing.product)?;
    write_features(&mut headers, as2_version, &outgoing.product)?;
    if let Some(receipt) = &outgoing.receipt {
        receipt.write_to(&mut headers, outgoing.digest_names)?;
    }
    Ok(headers)
}

/// The headers that messages and MDNs begin with.
pub(crate) fn write_common(
    headers: &mut Headers,
    version: &str,
    from: &As2Id,
    to: &As2Id,
    message_id: &MessageId,
    now: i64,
    subject: &str,
) -> Result<(), Error> {
    headers.push("AS2-Version", version)?;
    headers.push("AS2-From", &from.to_header())?;
    headers.push("AS2-To", &to.to_header())?;
    headers.push("Message-ID", message_id.as_str())?;
    headers.push("Date", &imf_fixdate(now))?;
    if subject.chars().any(char::is_control) {
        return Err(Error::invalid("the subject holds control characters"));
    }
    if !subject.is_empty() {
        headers.push(
            "Subject",
            &entity::ascii_words(&subject.chars().take(MAX_SUBJECT).collect::<String>()),
        )?;
    }
    headers.push("MIME-Version", "1.0")
}

/// `EDIINT-Features` from version 1.2 on (RFC 6017 §4), `AS2-Product` with 1.3. Only what works is named.
pub(crate) fn write_features(headers: &mut Headers, version: &str, product: &str) -> Result<(), Error> {
    if !matches!(version, "1.0" | "1.1") {
        headers.push("EDIINT-Features", "multiple-attachments")?;
    }
    if version == "1.3" {
        headers.push("AS2-Product", &product.replace('/', ":"))?;
    }
    Ok(())
}

/// Whether a message has this header line of its own, in some version or setting: an extra line may not double it.
#[must_use]
pub fn is_own_header(name: &str) -> bool {
    const NAMES: [&str; 6] = [
        "Message-ID",
        "Date",
        "Subject",
        "MIME-Version",
        "Recipient-Address",
        "EDIINT-Features",
    ];
    const PREFIXES: [&str; 4] = ["AS2-", "Content-", "Disposition-Notification-", "Receipt-Delivery-"];
    let begins = |prefix: &&str| name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix));
    NAMES.iter().any(|own| own.eq_ignore_ascii_case(name)) || PREFIXES.iter().any(begins)
}

fn write_extra(headers: &mut Headers, extra: &[(String, String)]) -> Result<(), Error> {
    for (name, value) in extra {
        let framing = ["Host", "Content-Length", "Transfer-Encoding", "Connection"]
            .iter()
            .any(|own| own.eq_ignore_ascii_case(name));
        if name.eq_ignore_ascii_case("User-Agent") {
            headers.remove(name);
        } else if framing || headers.get(name).is_some() {
            return Err(Error::invalid(format!(
                "the header {} is set by the protocol",
                name.escape_default()
            )));
        }
        headers.push(name, value)?;
    }
    Ok(())
}

/// A URL without userinfo, query and fragment: these may hold secrets.
pub(crate) fn public_url(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// A boundary that no payload contains, because its bytes were random after the payload was written.
pub(crate) fn boundary(nonce: &[u8; 16], purpose: &str) -> String {
    format!("as2-{}-{purpose}", hex(nonce))
}

/// The content type of `multipart/signed` (RFC 1847 §2.1).
pub(crate) fn signed_type(micalg: &str, boundary: &str) -> String {
    format!("multipart/signed; protocol=\"application/pkcs7-signature\"; micalg={micalg}; boundary=\"{boundary}\"")
}

/// What stands between the signed part and the signature.
pub(crate) fn signature_head(boundary: &str) -> Vec<u8> {
    format!(
        "\r\n--{boundary}\r\nContent-Type: application/pkcs7-signature; name=smime.p7s; smime-type=signed-data\r\n\
         Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=smime.p7s\r\n\r\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_line_of_a_message_is_its_own_but_the_product_and_none_holds_a_secret() {
        let id = |text: &str| As2Id::parse(text).unwrap();
        let outgoing = Outgoing {
            from: id("A"),
            to: id("B"),
            message_id: MessageId::new("1", "test").unwrap(),
            now: 0,
            subject: "s".to_owned(),
            as2_version: "1.3".to_owned(),
            recipient_url: "http://u:p@b.example/as2?key=1".to_owned(),
            parts: Vec::new(),
            sign: None,
            encrypt: None,
            compress: Compression::None,
            transfer_encoding: TransferEncoding::Binary,
            digest_names: DigestNames::Rfc5751,
            receipt: Some(
                ReceiptRequest::sync("a".to_owned())
                    .signed(vec![Digest::Sha256])
                    .deliver_to("http://a.example/".to_owned()),
            ),
            der_max: 0,
            extra_headers: Vec::new(),
            product: "p/1".to_owned(),
            nonce: [0; 16],
            also_digest: Vec::new(),
        };
        let headers = message_headers(&outgoing).unwrap();
        let others: Vec<_> = headers.iter().map(|(name, _)| name).filter(|name| !is_own_header(name)).collect();
        assert_eq!(others, ["User-Agent"]);
        assert!(headers.iter().count() > 10 && !is_own_header("X-Env") && !is_own_header("As2"));
        assert_eq!(headers.get("Recipient-Address"), Some("http://b.example/as2"));
        assert_eq!(headers.get("AS2-Product"), Some("p:1"));
    }

    #[test]
    fn urls_are_shown_without_secrets() {
        assert_eq!(
            public_url("https://u:p@x.example:8443/as2/in?key=1#f"),
            "https://x.example:8443/as2/in"
        );
        assert_eq!(public_url("http://x.example"), "http://x.example");
        assert_eq!(public_url("https://x.example/a@b"), "https://x.example/a@b");
    }
}
