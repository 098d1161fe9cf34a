//! What goes back over the wire, and what is kept of messages that were refused at the door.

use std::net::SocketAddr;
use std::sync::Arc;

use as2_core::algorithm::Digest;
use as2_core::disposition::Disposition;
use as2_core::headers::Headers;
use as2_core::id::As2Id;
use as2_core::mdn::{self, MdnOut};
use as2_core::message_id::MessageId;
use as2_core::mic::Mic;
use as2_core::receipt::ReceiptRequest;
use as2_core::{Error, ErrorKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::check::{code_of, evidence_entries, mdn_file};
use crate::clock::{Millis, rfc3339};
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::hint::command;
use crate::http::{Arrival, Reply};
use crate::journal::{Blob, Filing};
use crate::message::{Detail, Direction, Id, Message, State};
use crate::partner::MdnMode;
use crate::partnership::Partnership;
use crate::random::try_random;
use crate::storage::{Draft, StorageError};

/// Bytes kept of the header block of a stranger.
const MAX_STRANGER_HEAD: usize = 4096;

/// 413 with the limit.
pub(super) fn too_large(max: u64) -> Reply {
    Reply::text(413, &format!("the message is larger than {max} bytes\r\n"))
}

/// 401 with its challenge (RFC 7617 §2).
pub(super) fn unauthorized(peer: SocketAddr) -> Reply {
    tracing::warn!(%peer, "a POST without the partner's credentials refused");
    let mut reply = Reply::text(401, "user name and password are missing or wrong\r\n");
    let _ = reply.headers.push("WWW-Authenticate", "Basic realm=\"AS2\", charset=\"UTF-8\"");
    reply
}

/// Tells that a sender waited long for its answer, and may have given up.
pub(super) fn slow(arrival: &Arrival, took: Millis, status: u16) {
    let field = |name: &str| arrival.head.headers.get(name).unwrap_or_default();
    tracing::warn!(
        station = field("AS2-To"),
        partner = field("AS2-From"),
        message_id = field("Message-ID"),
        seconds = took / 1000,
        status,
        "a message took long to answer: its sender may have given up"
    );
}

/// Whether a request shows the credentials that are asked of its partner, if any. Takes the same time for every wrong one
/// of the same length.
pub(super) fn shows(arrival: &Arrival, asked: Option<&(String, Zeroizing<String>)>) -> bool {
    let Some((user, password)) = asked else { return true };
    let shown = arrival.head.headers.get("Authorization").unwrap_or_default();
    let Some(encoded) = shown
        .get(..6)
        .filter(|scheme| scheme.eq_ignore_ascii_case("basic "))
        .and(shown.get(6..))
    else {
        return false;
    };
    let Ok(decoded) = STANDARD.decode(encoded.trim()) else {
        return false;
    };
    let wanted = Zeroizing::new(format!("{user}:{}", password.as_str()));
    decoded.len() == wanted.len() && openssl::memcmp::eq(&decoded, wanted.as_bytes())
}

/// A header block as it came, but for passwords: it becomes a file that users fetch.
pub(super) fn without_secrets(block: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(block.len());
    let mut secret = false;
    for line in block.split_inclusive(|byte| *byte == b'\n') {
        let folded = line.starts_with(b" ") || line.starts_with(b"\t");
        if !folded {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            secret = [&b"authorization"[..], b"proxy-authorization"]
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known));
            if secret {
                kept.extend_from_slice(name);
                kept.extend_from_slice(b": ***\r\n");
            }
        }
        if !secret {
            kept.extend_from_slice(line);
        }
    }
    kept
}

/// The body is not as long as its head said.
pub(super) fn other_length() -> Reply {
    Reply::text(400, "the body has another length than its Content-Range says\r\n")
}

/// 503 with `Retry-After`.
pub(super) fn later(line: &str) -> Reply {
    let mut reply = Reply::text(503, &format!("{line}\r\n"));
    let _ = reply.headers.push("Retry-After", "30");
    reply
}

/// Our disk cannot take it.
pub(super) fn not_now(error: &StorageError) -> Reply {
    tracing::error!(%error, "cannot keep a message");
    later(if error.is_full() {
        "no room at this moment"
    } else {
        "cannot store the message at this moment"
    })
}

/// A stored MDN, in the answer.
pub(super) fn mdn((block, body): Mdn) -> Reply {
    match Headers::parse(block.as_bytes()) {
        Ok(headers) => Reply {
            status: 200,
            headers,
            body,
            length: None,
        },
        Err(error) => {
            tracing::error!(%error, "a stored MDN cannot be read");
            later("the stored receipt cannot be read")
        }
    }
}

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
            ErrorKind::InsufficientMessageSecurity => {
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

    /// `failed`: the receipt that was asked for cannot be made (RFC 4130 §7.5.3).
    fn is_failed(&self) -> bool {
        self.disposition.to_string().contains("failed/")
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
    let sign = pair.filter(|_| receipt.signed && !says.is_failed()).and_then(|pair| {
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

/// Partner text for a row and a line of ours.
pub(super) fn clean(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

/// AS2-From or AS2-To is nobody we know: told in the answer itself, and shown in the list of rejected messages. Nothing
/// of the body is kept, and no URL of the sender is ever contacted.
pub(super) async fn stranger(core: &Arc<Core>, arrival: &Arrival, from: &str, to: &str) -> Result<Reply, FlowError> {
    core.storage.check_room()?;
    let error = Error::new(
        ErrorKind::UnknownTradingRelationship,
        format!("no relationship between station {to} and partner {from}"),
    );
    let mut message = strangers_row(core, arrival, from, to, &error);
    tracing::warn!(id = %message.id, station = message.station, partner = message.partner, peer = %arrival.peer, "message of an unknown pair refused");
    let wants_mdn = arrival.head.headers.get("Disposition-Notification-To").is_some();
    let as_mdn = wants_mdn && core.config.as2.unknown_partner != crate::config::UnknownPartner::Http422;
    let made = as_mdn
        .then(|| {
            compose_mdn(
                core,
                None,
                &message,
                &ReceiptRequest::sync(String::new()),
                Says::error(&error, None),
            )
            .ok()
        })
        .flatten();
    if made.is_some() {
        message.detail.mdn_disposition = Disposition::from(&error).to_string();
        message.detail.mdn_signature = "unsigned".to_owned();
    }
    core.metrics.message("in", "unknown");
    core.journal.write(move |tx| tx.record_stranger(&message)).await?;
    Ok(match made {
        Some((made, _)) => mdn(made),
        None => Reply::text(
            422,
            &format!(
                "no trading relationship between AS2-From {} and AS2-To {}\r\n",
                clean(from, 128),
                clean(to, 128)
            ),
        ),
    })
}

/// The line in the list of rejected messages.
fn strangers_row(core: &Core, arrival: &Arrival, from: &str, to: &str, error: &Error) -> Message {
    let now = core.clock.now();
    let headers = &arrival.head.headers;
    let objects = core.objects();
    let account = objects.stations.get(to).map_or("", |station| &station.account);
    let mut detail = Detail {
        mdn_mode: Some(MdnMode::None),
        hint: format!(
            "ids are compared exactly; if it is one of yours: {}",
            command("partner add", &clean(from, 128), "--url URL --certificate FILE")
        ),
        ..Detail::default()
    };
    let head = without_secrets(&arrival.head.bytes);
    detail.set_head(head.get(..MAX_STRANGER_HEAD).unwrap_or(&head));
    Message {
        message_id: clean(headers.get("Message-ID").unwrap_or_default(), 998),
        code: error.kind.as_str().to_owned(),
        reason: format!("from {}: no such pair of station and partner", arrival.peer.ip()),
        subject: clean(headers.get("Subject").unwrap_or_default(), 500),
        finished: Some(now),
        detail,
        ..Message::new(Direction::In, State::Rejected, (account, &clean(to, 128), &clean(from, 128)), now)
    }
}

/// A message of a known pair that cannot even be bound: unusable Message-ID, impossible receipt. Kept as evidence.
pub(super) async fn refuse(
    core: &Arc<Core>,
    pair: &Arc<Partnership>,
    arrival: &Arrival,
    mut message: Message,
    error: Error,
    draft: Draft,
) -> Result<Reply, FlowError> {
    tracing::warn!(id = %message.id, station = message.station, partner = message.partner, %error, "message refused");
    let staged = tokio::task::spawn_blocking(move || draft.stage()).await??;
    message.detail.raw.clone_from(&staged.key);
    message.state = State::Rejected;
    message.code = code_of(error.kind);
    message.reason.clone_from(&error.detail);
    let headers = &arrival.head.headers;
    // A message without any id cannot be named by an MDN (as2.md Q19).
    let nameless = message.message_id.is_empty();
    let wants_receipt = headers.get("Disposition-Notification-To").filter(|_| !nameless);
    let receipt = wants_receipt.map(|_| {
        // The receipt that was asked for, unless that is what is wrong; in the answer, whatever else was asked.
        let asked = ReceiptRequest::from_headers(headers).ok().flatten();
        ReceiptRequest {
            deliver_to: None,
            ..asked.unwrap_or_else(|| ReceiptRequest::sync(String::new()))
        }
    });
    let made = keep_refused(core, pair, message, receipt.as_ref(), Says::error(&error, None), staged.blob()).await?;
    let why = if nameless {
        "the header Message-ID is missing"
    } else {
        "its headers are wrong"
    };
    Ok(made.map_or_else(|| Reply::text(400, &format!("the message cannot be processed: {why}\r\n")), mdn))
}

/// Files a refusal with its evidence and the receipt that was asked for, which comes back for the answer or, where it was
/// asked for at a URL, goes out by a job.
pub(super) async fn keep_refused(
    core: &Arc<Core>,
    pair: &Partnership,
    mut message: Message,
    receipt: Option<&ReceiptRequest>,
    says: Says,
    raw: Option<Blob>,
) -> Result<Option<Mdn>, FlowError> {
    let now = core.clock.now();
    message.updated = now;
    message.finished = Some(now);
    let (mut entries, mut blobs) = evidence_entries(&message);
    blobs.extend(raw);
    let made = match receipt.map(|receipt| receipted(core, pair, &mut message, receipt, says)) {
        Some(Ok(made)) => Some(made),
        Some(Err(error)) => {
            // A Message-ID that is wrong enough cannot be named in a receipt either.
            tracing::info!(id = %message.id, %error, "no MDN for a refused message");
            None
        }
        None => None,
    };
    if let Some(made) = &made {
        let (entry, blob) = mdn_file(&message, made);
        entries.push(entry);
        blobs.push(blob);
    }
    let filing = Filing {
        message,
        entries,
        blobs,
        mdn: made.clone(),
        post_mdn_at: receipt.and_then(|receipt| receipt.deliver_to.as_ref()).map(|_| now),
    };
    let record = core
        .journal
        .write(move |tx| tx.record_refused(&filing, now).map(|()| filing.message));
    core.rejections.note(&record.await?);
    core.wake();
    Ok(made)
}

/// Makes the MDN and writes into the row what it says.
pub(super) fn receipted(
    core: &Core,
    pair: &Partnership,
    message: &mut Message,
    receipt: &ReceiptRequest,
    says: Says,
) -> Result<Mdn, Error> {
    let (disposition, text) = (says.disposition.to_string(), says.text.clone());
    let mic = says.mic.as_ref().map(ToString::to_string);
    let (made, signed) = compose_mdn(core, Some(pair), message, receipt, says)?;
    let detail = &mut message.detail;
    detail.mdn_disposition = disposition;
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
    fn passwords_are_no_evidence() {
        let block = b"Host: x\r\nAUTHORIZATION: Basic\r\n\tYTpi\r\nX: \xff\r\n y\r\nProxy-Authorization: z\r\n";
        let kept = without_secrets(block);
        assert_eq!(
            kept,
            b"Host: x\r\nAUTHORIZATION: ***\r\nX: \xff\r\n y\r\nProxy-Authorization: ***\r\n"
        );
    }

    #[test]
    fn the_explanation_is_for_1_3_and_later() {
        let known: Vec<bool> = ["1.0", "1.2", "1.3", "1.10", "2.0"].map(knows_explanation).to_vec();
        assert_eq!(known, [false, false, true, true, true]);
    }
}
