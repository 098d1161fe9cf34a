//! The MDN that answers a message: what it says, and how it is made.

use as2_core::algorithm::{Digest, DigestNames};
use as2_core::disposition::Disposition;
use as2_core::headers::Headers;
use as2_core::id::As2Id;
use as2_core::mdn::{self, MdnOut};
use as2_core::message_id::MessageId;
use as2_core::mic::Mic;
use as2_core::receipt::ReceiptRequest;
use as2_core::{Error, ErrorKind};

use crate::clock::rfc3339;
use crate::gateway::Core;
use crate::message::{Id, Message};
use crate::partnership::Partnership;
use crate::random::try_random;

/// A made MDN: header block and body.
pub(super) type Mdn = (String, Vec<u8>);

/// What an MDN says, besides whom it goes to.
pub(super) struct Says {
    pub(super) disposition: Disposition,
    pub(super) mic: Option<Mic>,
    pub(super) text: String,
    /// For the field `Explanation`; nothing about decryption ever stands there.
    pub(super) explanation: Option<String>,
}

impl Says {
    /// The words for an error. The reason stays in our log: a sender learns the kind only (as2.md SEC4).
    pub(super) fn error(error: &Error, mic: Option<Mic>) -> Self {
        let advice = match error.kind {
            ErrorKind::UnknownTradingRelationship => "The AS2-From or AS2-To identifier is not registered here.",
            ErrorKind::AuthenticationFailed => "The signature does not belong to the certificate that is registered here.",
            ErrorKind::IntegrityCheckFailed => "The content was altered after it was signed.",
            ErrorKind::InsufficientMessageSecurity(_) => {
                "The message is less protected than agreed: it has to be signed and encrypted with allowed algorithms."
            }
            ErrorKind::InvalidMessageId => "The Message-ID cannot be used.",
            ErrorKind::UnsupportedMicAlgorithms => "None of the requested MIC algorithms is supported for this relationship.",
            ErrorKind::UnsupportedFormat => "The requested receipt format is not supported.",
            ErrorKind::DuplicateFilename => "A file of this name was received before.",
            ErrorKind::IllegalFilename => "The file name cannot be used here.",
            ErrorKind::DecompressionFailed => "The compressed content cannot be restored.",
            ErrorKind::DecryptionFailed => "The message cannot be decrypted.",
            ErrorKind::UnexpectedProcessingError | ErrorKind::Invalid => "The message could not be processed.",
        };
        Says {
            disposition: Disposition::from(error),
            mic,
            text: advice.to_owned(),
            explanation: (error.kind != ErrorKind::DecryptionFailed).then(|| advice.to_owned()),
        }
    }
}

/// Makes an MDN for a message of this pair, and tells whether it is signed. `failed` ones and those for strangers go
/// unsigned (as2.md §5.1).
pub(super) fn compose_mdn(
    core: &Core,
    pair: Option<&Partnership>,
    message: &Message,
    receipt: &ReceiptRequest,
    says: Says,
) -> Result<(Mdn, bool), Error> {
    let now = core.clock.now();
    let sign = pair.filter(|_| receipt.signed && !says.disposition.is_failed()).and_then(|pair| {
        Some(as2_core::compose::Signing {
            identity: pair.signer()?,
            digest: receipt_digest(pair, receipt, says.mic.as_ref()),
            scheme: pair.partner.signature_scheme,
            include_certificate: pair.partner.include_certificate,
            protect_algorithms: pair.partner.protect_algorithms,
        })
    });
    let signed = sign.is_some();
    let as2_version = pair.map_or("1.2", |pair| pair.partner.as2_version.as_str());
    let text = format!(
        "The message {} from {} to {} was received at {}.\r\n{}\r\nThis is no acceptance of its business content.\r\n",
        message.message_id,
        message.partner,
        message.station,
        rfc3339(now),
        says.text,
    );
    let came = Headers::parse(&message.detail.head()).unwrap_or_default();
    let (headers, body) = mdn::compose(MdnOut {
        from: as_it_came(&came, "AS2-To", &message.station)?,
        to: as_it_came(&came, "AS2-From", &message.partner)?,
        message_id: MessageId::new(Id::draw(now).as_str(), &core.host())?,
        original_message_id: message.message_id.clone(),
        now: now / 1000,
        disposition: says.disposition,
        mic: says.mic,
        digest_names: pair.map_or(DigestNames::Rfc5751, |pair| pair.partner.digest_names),
        text,
        explanation: says.explanation.filter(|_| knows_explanation(as2_version)),
        sign,
        as2_version: as2_version.to_owned(),
        product: concat!("as2gate/", env!("CARGO_PKG_VERSION")).to_owned(),
        subject: "Message disposition notification".to_owned(),
        nonce: try_random()?,
        recipient_url: receipt.deliver_to.clone(),
    })?;
    Ok(((String::from_utf8_lossy(&headers.to_bytes()).into_owned(), body), signed))
}

/// An AS2 name of ours in the form in which the message had it: quotes of message and MDN have to agree (as2.md §2).
fn as_it_came(headers: &Headers, field: &str, name: &str) -> Result<As2Id, Error> {
    let readings = headers.get(field).and_then(|value| As2Id::readings(value.as_bytes()).ok());
    let came = readings.into_iter().flatten().find(|id| id.as_str() == name);
    came.map_or_else(|| As2Id::parse(name), Ok)
}

/// The digest of the MDN's own signature: the MIC's, else the first one asked for that fits this partner.
fn receipt_digest(pair: &Partnership, receipt: &ReceiptRequest, mic: Option<&Mic>) -> Digest {
    let fit = |digest: &Digest| digest.is_sent() && (pair.partner.legacy || !digest.is_legacy());
    let named = mic.map(|mic| mic.digest).filter(fit);
    named
        .or_else(|| receipt.micalgs.iter().copied().find(fit))
        .unwrap_or(Digest::Sha256)
}

/// The field came with AS2 1.3 (rfc4130bis).
fn knows_explanation(as2_version: &str) -> bool {
    let mut numbers = as2_version.split('.').map(|part| part.parse::<u8>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(1), Some(3))
}

/// Makes the MDN and writes into the row what it says.
pub(super) fn receipted(
    core: &Core,
    pair: &Partnership,
    message: &mut Message,
    receipt: &ReceiptRequest,
    says: Says,
) -> Result<Mdn, Error> {
    let (disposition, text) = (says.disposition.clone(), says.text.clone());
    let mic = says.mic.as_ref().map(ToString::to_string);
    let (made, signed) = compose_mdn(core, Some(pair), message, receipt, says)?;
    core.metrics
        .mdn_made(if receipt.deliver_to.is_some() { "async" } else { "sync" }, &disposition);
    let detail = &mut message.detail;
    detail.mdn_disposition = disposition.to_string();
    detail.mdn_text = text;
    detail.mic = mic.unwrap_or_else(|| std::mem::take(&mut detail.mic));
    detail.mdn_signature = if signed { "signed" } else { "unsigned" }.to_owned();
    if receipt.deliver_to.is_none() {
        detail.mdn_at = Some(core.clock.now());
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_explanation_is_for_1_3_and_later() {
        let known: Vec<bool> = ["1.0", "1.2", "1.3", "1.10", "2.0"].map(knows_explanation).to_vec();
        assert_eq!(known, [false, false, true, true, true]);
    }
}
