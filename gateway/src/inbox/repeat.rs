//! A Message-ID that came before: the first MDN again, never a second file (as2.md §6.1, durability.md §3.2).

use std::sync::Arc;
use std::time::Duration;

use as2_core::algorithm::DigestNames;
use as2_core::disposition::Disposition;
use as2_core::headers::Headers;
use as2_core::mic::Mic;
use as2_core::receipt::ReceiptRequest;
use as2_core::{Error, ErrorKind};

use super::check::{Found, brake, code_of, hold_back, note_security, open, trouble};
use super::receipt::Says;
use super::refused::keep_refused;
use super::reply;
use super::{Taken, checked, drop_staged};
use crate::clock::Millis;
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::http::Reply;
use crate::journal::{Blob, Claimed, InboundRow};
use crate::message::{Message, State};
use crate::receipts;
use crate::storage::Staged;

/// How long the sender of a repeat waits for the first copy's end.
const WAIT: Duration = Duration::from_secs(90);
/// How often the wait looks.
const LOOK: Duration = Duration::from_millis(100);
/// A rejected body that comes again so soon, with nothing changed on our side, gets the same answer without work.
const DAMPER: Millis = 10 * 60 * 1000;
/// Header fields that a body's outcome hangs on: whoever mends one of them is not answered out of the store.
const TELLING: [&str; 6] = [
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-Disposition",
    "Disposition-Notification-To",
    "Disposition-Notification-Options",
];

/// The row that has this Message-ID, for a sender that waits.
pub(super) fn known(core: &Core, taken: &Taken) -> Result<Option<InboundRow>, FlowError> {
    if !taken.is_sync() {
        return Ok(None);
    }
    let message = &taken.message;
    Ok(core
        .journal
        .read(|tx| tx.inbound(&message.station, &message.partner, &message.message_id))?)
}

/// The stored error MDN, for a body that was rejected minutes ago under the same settings.
pub(super) fn damped(core: &Core, taken: &Taken, row: &InboundRow) -> Result<Option<Reply>, FlowError> {
    if row.state != State::Rejected || row.raw_sha256 != taken.message.detail.raw_sha256 {
        return Ok(None);
    }
    // One of the future is from before the clock was set back: it would damp for as long as that was.
    if !(0..DAMPER).contains(&(core.clock.now() - row.updated)) || core.journal.read(|tx| tx.objects_changed_at())? > row.updated {
        return Ok(None);
    }
    let first = core.journal.read(|tx| tx.message(&row.message))?;
    if !first.is_some_and(|first| tells_the_same(&first, &taken.message)) {
        return Ok(None);
    }
    Ok(row.mdn_headers.clone().zip(row.mdn_body.clone()).map(reply::mdn))
}

/// Whether two bodies came under headers that are read alike.
fn tells_the_same(one: &Message, other: &Message) -> bool {
    let (Ok(one), Ok(other)) = (Headers::parse(&one.detail.head()), Headers::parse(&other.detail.head())) else {
        return false;
    };
    TELLING.iter().all(|name| one.all(name).eq(other.all(name)))
}

/// Answers a message whose id is bound already.
pub(super) async fn answer(core: &Arc<Core>, taken: Taken, staged: Staged, row: InboundRow) -> Result<Reply, FlowError> {
    let row = match row.state {
        State::Received => match wait(core, &taken).await? {
            Waited::Ended(row) => row,
            Waited::Free => return claim_again(core, taken, staged).await,
            Waited::Still => {
                drop_staged(core, staged).await;
                // Other bytes are not on the disk: no 2xx promises them.
                return Ok(if row.raw_sha256 == taken.message.detail.raw_sha256 {
                    still_checked(&taken)
                } else {
                    not_yet()
                });
            }
        },
        _ => row,
    };
    tracing::info!(
        station = taken.message.station,
        partner = taken.message.partner,
        message_id = taken.message.message_id,
        first = row.message,
        "repeat of a received message"
    );
    if row.raw_sha256 == taken.message.detail.raw_sha256 {
        if is_warned(&taken) {
            let mut taken = taken;
            // The same bytes have the same signature.
            taken.message.detail.signed = first_signed(core, &row)?;
            return warned(core, taken, staged.blob(), row).await;
        }
        drop_staged(core, staged).await;
        return replay(core, &taken, row).await;
    }
    other_bytes(core, taken, staged, row).await
}

/// Answers a repeat that is known by its name alone; `None` where its bytes are needed after all.
pub(super) async fn without_bytes(core: &Arc<Core>, taken: &Taken, row: InboundRow) -> Result<Option<Reply>, FlowError> {
    let row = match row.state {
        State::Received => match wait(core, taken).await? {
            Waited::Ended(row) => row,
            Waited::Free => return rejected(core, taken),
            Waited::Still => return Ok(Some(still_checked(taken))),
        },
        State::Rejected => return rejected(core, taken),
        _ => row,
    };
    replay(core, taken, row).await.map(Some)
}

/// The stored error MDN of the row as it is now, to a sender that waits for one.
fn rejected(core: &Core, taken: &Taken) -> Result<Option<Reply>, FlowError> {
    match known(core, taken)? {
        Some(row) => damped(core, taken, &row),
        None => Ok(None),
    }
}

fn still_checked(taken: &Taken) -> Reply {
    if taken.is_sync() { not_yet() } else { accepted(taken) }
}

fn not_yet() -> Reply {
    reply::later("the first copy of this message is still being processed")
}

fn accepted(taken: &Taken) -> Reply {
    Reply::empty(if taken.is_async() { taken.pair.partner.async_status } else { 204 })
}

enum Waited {
    Ended(InboundRow),
    /// The first copy was rejected meanwhile: the id is free.
    Free,
    Still,
}

async fn wait(core: &Core, taken: &Taken) -> Result<Waited, FlowError> {
    let message = &taken.message;
    let until = tokio::time::Instant::now() + if taken.is_sync() { WAIT } else { Duration::ZERO };
    loop {
        match core
            .journal
            .read(|tx| tx.inbound(&message.station, &message.partner, &message.message_id))?
        {
            Some(row) if row.state == State::Received => {}
            Some(row) if row.state == State::Rejected => return Ok(Waited::Free),
            Some(row) => return Ok(Waited::Ended(row)),
            None => return Ok(Waited::Free),
        }
        if tokio::time::Instant::now() >= until {
            return Ok(Waited::Still);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn claim_again(core: &Arc<Core>, taken: Taken, staged: Staged) -> Result<Reply, FlowError> {
    let now = core.clock.now();
    let claim = taken.claim(core, &staged);
    match core.journal.write(move |tx| tx.receive(claim, now)).await? {
        Claimed::New => checked(core, taken).await,
        Claimed::Bound(_) => {
            drop_staged(core, staged).await;
            Ok(reply::later("another copy of this message is being processed"))
        }
    }
}

/// The MDN of the first copy, byte for byte, in the mode that this copy asks for.
async fn replay(core: &Arc<Core>, taken: &Taken, row: InboundRow) -> Result<Reply, FlowError> {
    if taken.is_sync() {
        // The first copy may have asked for none; then there is nothing to repeat, and the 2xx says that we hold it.
        return Ok(row.mdn_headers.zip(row.mdn_body).map_or_else(|| Reply::empty(204), reply::mdn));
    }
    if taken.is_async() && row.mdn_headers.is_some() {
        let first = core.journal.read(|tx| tx.message(&row.message))?;
        let url = receipts::address_of_repeat(&taken.pair, first.as_ref(), &taken.message.detail.mdn_url).to_owned();
        let (id, now) = (row.message, core.clock.now());
        core.journal.write(move |tx| tx.post_mdn_again(&id, &url, now)).await?;
        core.wake();
    }
    Ok(accepted(taken))
}

/// The partner wants to be told of repeats, and asks for a receipt.
fn is_warned(taken: &Taken) -> bool {
    taken.pair.partner.duplicate_warning && taken.receipt.is_some()
}

/// A repeat for a partner that wants to be told so: kept as evidence with an MDN of its own, which carries the first MIC.
async fn warned(core: &Arc<Core>, taken: Taken, raw: Option<Blob>, first: InboundRow) -> Result<Reply, FlowError> {
    let mut message = taken.message.clone();
    message.state = State::Rejected;
    "duplicate-document".clone_into(&mut message.code);
    message.reason = format!("repeat of {}", first.message);
    message.detail.previous.clone_from(&first.message);
    message.detail.hint = "nothing to do: the first copy was filed".to_owned();
    let text = "A message with this Message-ID was received before; it was not filed again.";
    let says = Says {
        disposition: Disposition::warning("duplicate-document"),
        mic: Mic::parse(&first.mic).ok(),
        text: text.to_owned(),
        explanation: Some(text.to_owned()),
    };
    let made = keep_refused(core, &taken.pair, message, taken.receipt.as_ref(), says, raw).await?;
    Ok(match made {
        Some(made) if taken.is_sync() => reply::mdn(made),
        _ => accepted(&taken),
    })
}

/// Other bytes under a bound id: encrypted anew if the content is the same, quarantined if it is not.
async fn other_bytes(core: &Arc<Core>, mut taken: Taken, staged: Staged, row: InboundRow) -> Result<Reply, FlowError> {
    if let Some((key, bytes)) = staged.blob() {
        core.journal.write(move |tx| tx.put_blob(&key, &bytes)).await?;
    }
    let found = open(core, &taken.pair, &taken.message).await?;
    let same = match &found {
        Found::Good(facts, _) => {
            note_security(&mut taken.message, facts);
            is_same_content(core, &taken, facts.mic.as_ref(), &row).await?
        }
        Found::Bad(_) => false,
    };
    if same {
        discard_parts(core, found);
        if is_warned(&taken) {
            return warned(core, taken, None, row).await;
        }
        core.let_go(vec![staged.key]).await;
        if taken.is_async() && taken.message.detail.signed.is_empty() && !first_signed(core, &row)?.is_empty() {
            // A signature proved whose the first copy was, and where its MDN goes; nothing proves that of this one.
            return Ok(accepted(&taken));
        }
        return replay(core, &taken, row).await;
    }
    let braked = brake(core, &taken, trouble(&found)).await;
    let (message, says) = quarantined(&taken.message, &found, &row);
    discard_parts(core, found);
    tracing::warn!(id = %message.id, station = message.station, partner = message.partner, message_id = message.message_id, reason = message.reason, "message refused: its id is bound");
    let made = keep_refused(core, &taken.pair, message, taken.receipt.as_ref(), says, None).await?;
    hold_back(braked).await;
    Ok(match made {
        Some(made) if taken.is_sync() => reply::mdn(made),
        _ => accepted(&taken),
    })
}

/// What the first copy of a message was signed with; empty if it was not.
fn first_signed(core: &Core, row: &InboundRow) -> Result<String, FlowError> {
    let first = core.journal.read(|tx| tx.message(&row.message))?;
    Ok(first.map(|first| first.detail.signed).unwrap_or_default())
}

/// Whether this copy has the MIC of the first one, by the algorithm of that one: a partner that was set otherwise between
/// two tries asks for another.
async fn is_same_content(core: &Arc<Core>, taken: &Taken, mic: Option<&Mic>, row: &InboundRow) -> Result<bool, FlowError> {
    let (Some(mic), Ok(first)) = (mic, Mic::parse(&row.mic)) else {
        return Ok(false);
    };
    if mic.digest == first.digest {
        return Ok(*mic == first);
    }
    let mut message = taken.message.clone();
    let mut headers = Headers::parse(&message.detail.head()).map_err(|e| FlowError::Internal(e.to_string()))?;
    headers.remove("Disposition-Notification-To");
    headers.remove("Disposition-Notification-Options");
    ReceiptRequest::sync("same")
        .signed(vec![first.digest])
        .write_to(&mut headers, DigestNames::Rfc5751)
        .map_err(|e| FlowError::Internal(e.to_string()))?;
    message.detail.set_head(&headers.to_bytes());
    let again = open(core, &taken.pair, &message).await?;
    let same = matches!(&again, Found::Good(facts, _) if facts.mic.as_ref() == Some(&first));
    discard_parts(core, again);
    Ok(same)
}

/// The row of a message whose id belongs to another one, and what its sender is told.
fn quarantined(message: &Message, found: &Found, first: &InboundRow) -> (Message, Says) {
    let mut message = message.clone();
    let (error, mic) = match found {
        Found::Good(facts, _) => {
            message.state = State::Quarantined;
            let why = format!("Message-ID of {} with other content", first.message);
            (Error::new(ErrorKind::UnexpectedProcessingError, why), facts.mic.clone())
        }
        Found::Bad(failure) => {
            message.state = State::Rejected;
            (failure.error.clone(), failure.mic.clone())
        }
    };
    message.code = if message.state == State::Quarantined {
        "message-id-reused".to_owned()
    } else {
        code_of(error.kind)
    };
    message.reason.clone_from(&error.detail);
    message.detail.previous.clone_from(&first.message);
    message.detail.hint = "ask the partner to send it under a new Message-ID; the raw message is kept".to_owned();
    (message, Says::error(&error, mic))
}

fn discard_parts(core: &Core, found: Found) {
    if let Found::Good(_, parts) = found {
        for part in parts {
            core.storage.discard(&part.staged.key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::manage::tests::{Place, accept, message, place, plain_pair};
    use crate::message::Direction;

    #[tokio::test]
    async fn a_rejection_of_the_future_damps_nothing() {
        let Place { core, dir: _dir, .. } = place().await;
        plain_pair(&core).await;
        let now = core.clock.now();
        let first = message(Direction::In, State::Rejected, "j:1", now);
        accept(&core, &first, b"abc").await;
        let row = |updated| InboundRow {
            message: first.id.as_str().to_owned(),
            state: State::Rejected,
            raw_sha256: String::new(),
            mic: String::new(),
            mdn_headers: Some(String::new()),
            mdn_body: Some(Vec::new()),
            updated,
        };
        let taken = Taken {
            pair: core.partnership("ALICE", "BOB").unwrap(),
            message: first.clone(),
            receipt: None,
            source: None,
        };
        let damps = |updated| damped(&core, &taken, &row(updated)).unwrap().is_some();
        assert!(damps(now));
        assert!(!damps(now + 1), "the clock was set back since");
    }
}
