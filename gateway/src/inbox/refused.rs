//! What is kept of messages that were refused at the door, and what their senders get.

use std::sync::Arc;

use as2_core::disposition::Disposition;
use as2_core::receipt::ReceiptRequest;
use as2_core::{Error, ErrorKind};

use super::check::{code_of, evidence_entries, mdn_file};
use super::receipt::{Mdn, Says, compose_mdn, receipted};
use super::reply::{clean, mdn, without_secrets};
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::hint::{command, look_alike, option};
use crate::http::{Arrival, Reply};
use crate::journal::{Blob, Filing};
use crate::message::{Detail, Direction, Message, State};
use crate::objects::Objects;
use crate::partner::MdnMode;
use crate::partnership::Partnership;
use crate::storage::Draft;

/// Bytes kept of the header block of a stranger.
const MAX_STRANGER_HEAD: usize = 4096;

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
        let disposition = Disposition::from(&error);
        core.metrics.mdn_made("sync", &disposition);
        message.detail.mdn_mode = Some(MdnMode::Sync);
        message.detail.mdn_at = message.finished;
        message.detail.mdn_disposition = disposition.to_string();
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
    let (why, hint) = lack(&objects, from, to);
    let mut detail = Detail {
        mdn_mode: Some(MdnMode::None),
        hint,
        ..Detail::default()
    };
    let head = without_secrets(&arrival.head.bytes);
    detail.set_head(head.get(..MAX_STRANGER_HEAD).unwrap_or(&head));
    Message {
        message_id: clean(headers.get("Message-ID").unwrap_or_default(), 998),
        code: error.kind.as_str().to_owned(),
        reason: format!("from {}: {why}", arrival.peer.ip()),
        subject: clean(headers.get("Subject").unwrap_or_default(), 500),
        finished: Some(now),
        detail,
        ..Message::new(Direction::In, State::Rejected, (account, &clean(to, 128), &clean(from, 128)), now)
    }
}

/// What a pair lacks, and what to do about it. Only the list of rejected messages has it: whoever asks at the door learns nothing.
fn lack(objects: &Objects, from: &str, to: &str) -> (&'static str, String) {
    let known = |account: &str| objects.partner(account, from);
    let Some(station) = objects.stations.get(to) else {
        // This line is no account's, and shows no account's stations: it goes by who knows the partner.
        let hint = match objects.is_partner(from) {
            true => "a partner of this name is known: ask it to correct its AS2-To; as2gate station list",
            false => "AS2-To has to be one of ours, exactly as written: as2gate station list",
        };
        return ("no such station", hint.to_owned());
    };
    match known(&station.account) {
        Some(partner) if partner.blocked.inbound() && partner.trades_with(to) => (
            "the partner is blocked",
            format!("once its messages may pass again: {}", command("partner unblock", from, "")),
        ),
        Some(partner) if from != to && !partner.trades_with(to) => {
            let stations: Vec<&str> = partner.stations.iter().map(String::as_str).chain([to]).collect();
            let set = command("partner set", from, &option("stations", &stations.join(",")));
            ("the partner does not trade with this station", format!("if it is to: {set}"))
        }
        _ => {
            let from = clean(from, 128);
            let mut partners = objects.partners.values().filter(|partner| partner.account == station.account);
            let hint = match partners.find(|partner| look_alike(&partner.as2_id, &from)) {
                Some(meant) => format!(
                    "{0} differs from it in case or blanks only: ask the partner to send as {0}, or {1}",
                    meant.as2_id,
                    command("partner set", &meant.as2_id, &option("as2-id", &from))
                ),
                None => format!(
                    "ids are compared exactly; if it is one of yours: {}",
                    command("partner add", &from, "--url URL --certificate FILE")
                ),
            };
            ("no such partner", hint)
        }
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
    let refused = record.await?;
    core.rejections.note(&refused);
    core.metrics.settled(&refused);
    core.wake();
    Ok(made)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::manage::tests::{Place, place, plain_pair, set_bob, station};

    #[tokio::test]
    async fn the_list_says_what_a_pair_lacks() {
        let Place { core, dir: _dir, .. } = place().await;
        plain_pair(&core).await;
        station(&core, "CAROL").await;
        let hint = |from: &str, to: &str| lack(&core.objects(), from, to).1;
        assert!(hint("MALLORY", "ALICE").contains("as2gate partner add MALLORY --url"));
        for from in ["BOB", "MALLORY"] {
            let told = hint(from, "ALIC");
            assert_eq!(told.contains("correct its AS2-To"), from == "BOB", "{told}");
            assert!(told.ends_with("as2gate station list") && !told.contains("ALICE"), "{told}");
        }
        set_bob(&core, &[("stations", "CAROL")]).await;
        assert!(hint("BOB", "ALICE").ends_with("as2gate partner set BOB --stations CAROL,ALICE"));
        set_bob(&core, &[("stations", "*"), ("blocked", "in")]).await;
        assert!(hint("BOB", "ALICE").ends_with("as2gate partner unblock BOB"));
    }
}
