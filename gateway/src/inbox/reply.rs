//! What goes back over the wire, and what is kept of messages that were refused at the door.

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

use super::check::{evidence_entries, mdn_file};
use crate::clock::rfc3339;
use crate::gateway::Core;
use crate::http::{Arrival, Reply};
use crate::journal::Filing;
use crate::message::{Detail, Direction, Id, Message, State};
use crate::outbox::FlowError;
use crate::partnership::Partnership;
use crate::storage::{Draft, StorageError};

/// Bytes kept of the header block of a stranger.
const MAX_STRANGER_HEAD: usize = 4096;

/// 413 with the limit.
pub(super) fn too_large(max: u64) -> Reply {
    Reply::text(413, &format!("the message is larger than {max} bytes\r\n"))
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
pub(super) fn mdn((block, body): (String, Vec<u8>)) -> Reply {
    match Headers::parse(block.as_bytes()) {
        Ok(headers) => Reply {
            status: 200,
            headers,
            body,
        },
        Err(error) => {
            tracing::error!(%error, "a stored MDN cannot be read");
            later("the stored receipt cannot be read")
        }
    }
}

/// What an MDN says, besides whom it goes to.
pub(super) struct Says {
    pub(super) disposition: Disposition,
    pub(super) mic: Option<Mic>,
    pub(super) text: String,
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
            ErrorKind::DecompressionFailed => "The compressed content cannot be restored.",
            ErrorKind::DecryptionFailed => "The message cannot be decrypted.",
            ErrorKind::UnexpectedProcessingError | ErrorKind::Invalid => "The message could not be processed.",
        };
        Says {
            disposition: Disposition::from(error),
            mic,
            text: advice.to_owned(),
        }
    }
}

/// Makes an MDN for a message of this pair. `failed` ones and those for strangers go unsigned (as2.md §5.1).
pub(super) fn compose_mdn(
    core: &Core,
    pair: Option<&Partnership>,
    message: &Message,
    receipt: &ReceiptRequest,
    says: Says,
) -> Result<(String, Vec<u8>), Error> {
    let now = core.clock.now();
    let legacy = pair.is_some_and(|pair| pair.partner.legacy);
    let fit = |digest: &Digest| match digest {
        Digest::Sha256 | Digest::Sha384 | Digest::Sha512 => true,
        Digest::Sha1 | Digest::Sha224 => legacy,
        _ => false,
    };
    let named = says.mic.as_ref().map(|mic| mic.digest).filter(fit);
    let digest = named
        .or_else(|| receipt.micalgs.iter().copied().find(fit))
        .unwrap_or(Digest::Sha256);
    let failed = says.disposition.to_string().contains("failed/");
    let identity = pair.filter(|_| receipt.signed && !failed).and_then(Partnership::signer);
    let sign = identity.map(|identity| as2_core::compose::Signing {
        identity,
        digest,
        scheme: pair.map_or(as2_core::algorithm::SignatureScheme::RsaPkcs1, |pair| pair.partner.signature_scheme),
        include_certificate: true,
    });
    let mut nonce = [0u8; 16];
    openssl::rand::rand_bytes(&mut nonce)?;
    let text = format!(
        "The message {} from {} to {} was received at {}.\r\n{}\r\nThis is no acceptance of its business content.\r\n",
        message.message_id,
        message.partner,
        message.station,
        rfc3339(now),
        says.text,
    );
    let (headers, body) = mdn::compose(MdnOut {
        from: As2Id::parse(&message.station)?,
        to: As2Id::parse(&message.partner)?,
        message_id: MessageId::new(Id::draw(now).as_str(), &core.host())?,
        original_message_id: message.message_id.clone(),
        now: now / 1000,
        disposition: says.disposition,
        mic: says.mic,
        text,
        sign,
        as2_version: pair.map_or_else(|| "1.2".to_owned(), |pair| pair.partner.as2_version.clone()),
        product: concat!("as2gate/", env!("CARGO_PKG_VERSION")).to_owned(),
        subject: "Message disposition notification".to_owned(),
        nonce,
        recipient_url: receipt.deliver_to.clone(),
        extra_headers: Vec::new(),
    })?;
    Ok((String::from_utf8_lossy(&headers.to_bytes()).into_owned(), body))
}

/// AS2-From or AS2-To is nobody we know: told in the answer itself, and shown in the list of rejected messages. Nothing
/// of the body is kept, and no URL of the sender is ever contacted.
pub(super) async fn stranger(core: &Arc<Core>, arrival: &Arrival, from: &str, to: &str) -> Result<Reply, FlowError> {
    let now = core.clock.now();
    core.storage.check_room()?;
    let headers = &arrival.head.headers;
    let error = Error::new(
        ErrorKind::UnknownTradingRelationship,
        format!("no relationship between station {to} and partner {from}"),
    );
    let account = core
        .objects()
        .stations
        .get(to)
        .map(|station| station.account.clone())
        .unwrap_or_default();
    let clean = |text: &str, most: usize| text.chars().filter(|c| !c.is_control()).take(most).collect::<String>();
    let mut message = Message {
        id: Id::draw(now),
        account,
        direction: Direction::In,
        station: clean(to, 128),
        partner: clean(from, 128),
        message_id: clean(headers.get("Message-ID").unwrap_or_default(), 998),
        state: State::Rejected,
        code: error.kind.as_str().to_owned(),
        reason: format!("from {}: no such pair of station and partner", arrival.peer.ip()),
        file: String::new(),
        size: 0,
        sha256: String::new(),
        content_type: String::new(),
        subject: clean(headers.get("Subject").unwrap_or_default(), 500),
        created: now,
        updated: now,
        finished: Some(now),
        attempts: 0,
        next_try: None,
        detail: Detail {
            mdn_mode: "none".to_owned(),
            ..Detail::default()
        },
    };
    message
        .detail
        .set_head(arrival.head.bytes.get(..MAX_STRANGER_HEAD).unwrap_or(&arrival.head.bytes));
    message.detail.hint = "partner add, if it is one of yours; ids are compared exactly".to_owned();
    tracing::warn!(id = %message.id, station = message.station, partner = message.partner, peer = %arrival.peer, "message of an unknown pair refused");
    let wants_mdn = headers.get("Disposition-Notification-To").is_some();
    let as_mdn = wants_mdn && core.config.as2.unknown_partner != crate::config::UnknownPartner::Http422;
    let receipt = ReceiptRequest::sync(String::new());
    let made = if as_mdn {
        compose_mdn(core, None, &message, &receipt, Says::error(&error, None)).ok()
    } else {
        None
    };
    if made.is_some() {
        message.detail.mdn_disposition = Disposition::from(&error).to_string();
        message.detail.mdn_signature = "unsigned".to_owned();
    }
    core.metrics.message("in", "unknown");
    core.journal.write(move |tx| tx.record_stranger(&message)).await?;
    Ok(match made {
        Some(made) => mdn(made),
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

/// A message of a known pair that cannot even be bound: unusable Message-ID, impossible receipt. Kept as evidence.
pub(super) async fn refuse(
    core: &Arc<Core>,
    pair: &Arc<Partnership>,
    arrival: &Arrival,
    mut message: Message,
    error: Error,
    draft: Draft,
) -> Result<Reply, FlowError> {
    let now = core.clock.now();
    tracing::warn!(id = %message.id, station = message.station, partner = message.partner, %error, "message refused");
    let staged = tokio::task::spawn_blocking(move || draft.stage())
        .await
        .map_err(|e| FlowError::Internal(e.to_string()))??;
    message.detail.raw.clone_from(&staged.key);
    message.state = State::Rejected;
    message.code = error.kind.as_str().replace(' ', "-").to_ascii_lowercase();
    message.reason.clone_from(&error.detail);
    message.finished = Some(now);
    let (mut entries, mut blobs) = evidence_entries(&message);
    blobs.extend(staged.blob());
    let wants_mdn = arrival.head.headers.get("Disposition-Notification-To").is_some();
    let mut made = None;
    if wants_mdn {
        // The receipt that was asked for, unless that is what is wrong; in the answer, whatever else was asked.
        let asked = ReceiptRequest::from_headers(&arrival.head.headers).ok().flatten();
        let receipt = ReceiptRequest {
            deliver_to: None,
            ..asked.unwrap_or_else(|| ReceiptRequest::sync(String::new()))
        };
        let disposition = Disposition::from(&error).to_string();
        made = compose_mdn(core, Some(pair), &message, &receipt, Says::error(&error, None)).ok();
        if let Some(made) = &made {
            message.detail.mdn_disposition = disposition;
            message.detail.mdn_signature = if receipt.signed && !made.0.contains("multipart/report") {
                "signed"
            } else {
                "unsigned"
            }
            .to_owned();
            message.detail.mdn_at = Some(now);
            let (entry, blob) = mdn_file(&message, made);
            entries.push(entry);
            blobs.push(blob);
        }
    }
    let filing = Filing {
        message,
        entries,
        blobs,
        mdn: None,
        mdn_is_async: false,
    };
    core.journal.write(move |tx| tx.record_refused(&filing, now)).await?;
    core.wake();
    Ok(made.map_or_else(
        || Reply::text(400, "the message cannot be processed: its headers are wrong\r\n"),
        mdn,
    ))
}
