//! Bodies that broke off, and their senders who go on where they stopped (draft-harding-as2-restart-07).
//!
//! A POST with an `ETag` may be continued: what came of it is kept for the pair and that tag. `HEAD` with the same tag tells
//! how much is held, a POST with `Content-Range: bytes k-(n-1)/n` brings the rest, and the whole is a message like any
//! other, under the header block of that last POST. A transfer that came whole is remembered too: whoever lost the receipt
//! sends the last byte again and gets it (as2.md §9). Nobody needs a setting for it, and no tag makes a message fail.

use std::sync::Arc;

use as2_core::headers::Headers;
use as2_core::hex;
use openssl::sha::sha256;

use super::reply;
use super::transfer::{Range, tag};
use super::{Relationship, Taken, new_message, relationship, repeat};
use crate::clock::{Millis, millis};
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::http::{Arrival, Reply};
use crate::partnership::Partnership;
use crate::storage::{Draft, INLINE_MAX, Kept, Place, StorageError};

/// Most parts kept for one pair; their bytes are bounded by `as2.partial_quota`.
const MAX_PARTS: usize = 20;
/// Most transfers of one pair that are remembered as having come whole.
const MAX_WHOLE: usize = 1_000;
/// Shorter bodies are not worth remembering: they come again as fast as a last byte.
const WHOLE_FROM: u64 = 64 * 1024;

/// The transfer that a body belongs to; nobody else gets at it until this is dropped.
pub(super) struct Transfer {
    pair: String,
    tag: String,
    place: Place,
    /// Bytes of the whole body, where the head tells.
    total: Option<u64>,
}

/// Where a body goes. Without a draft all of it is held already, and only its last byte comes again.
pub(super) struct Opened {
    pub(super) draft: Option<Draft>,
    pub(super) transfer: Option<Transfer>,
}

impl Opened {
    /// A draft that nobody goes on with if it breaks off.
    pub(super) fn plain(core: &Core, transfer: Option<Transfer>) -> Self {
        Opened {
            draft: Some(core.storage.draft()),
            transfer,
        }
    }

    /// What nobody keeps.
    pub(super) fn nowhere() -> Self {
        Opened {
            draft: None,
            transfer: None,
        }
    }
}

impl Transfer {
    fn find(core: &Core, pair: &Partnership, tag: &str) -> Option<Self> {
        let pair = pair_digest(pair);
        let place = core.storage.partials().place(&pair, &digest(tag))?;
        Some(Transfer {
            pair,
            tag: tag.to_owned(),
            place,
            total: None,
        })
    }

    /// Whether so many bytes more may be kept for this pair.
    fn fits(&self, core: &Core, bytes: u64) -> Result<bool, StorageError> {
        let usage = core.storage.partials().usage(&self.pair, &self.place)?;
        Ok(usage.parts < MAX_PARTS && usage.bytes.saturating_add(bytes) <= core.config.as2.partial_quota)
    }

    /// Whether the body would be longer than its head said.
    pub(super) fn overrun(&self, len: u64) -> bool {
        self.total.is_some_and(|total| len > total)
    }

    /// Whether the body is as long as its head said.
    pub(super) fn is_whole(&self, len: u64) -> bool {
        self.total.is_none_or(|total| len == total)
    }

    /// The body became a message: its tag is remembered, and free again.
    pub(super) fn came_whole(self, core: &Core, len: u64) {
        let noted = tokio::task::block_in_place(|| {
            let usage = core.storage.partials().usage(&self.pair, &self.place)?;
            if len < WHOLE_FROM || usage.whole >= MAX_WHOLE || core.config.as2.partial_quota == 0 {
                return self.place.clear();
            }
            self.place.came_whole(len)
        });
        if let Err(error) = noted {
            tracing::warn!(%error, "cannot note that a transfer came whole");
        }
    }
}

/// Answers a HEAD that asks how much is held; `None` if it does not ask.
pub(super) fn kept_bytes(core: &Core, arrival: &Arrival) -> Option<Reply> {
    let headers = &arrival.head.headers;
    let tag = tag(headers)?;
    headers.get("AS2-From").and(headers.get("AS2-To"))?;
    let kept = match relationship(core, arrival) {
        Relationship::Known(pair) if !reply::shows(arrival, pair.inbound_auth.as_ref()) => return Some(reply::unauthorized(arrival.peer)),
        Relationship::Known(pair) if super::foreign(&pair, arrival).is_none() => {
            let look = || core.storage.partials().look(&pair_digest(&pair), &digest(&tag), oldest(core));
            match tokio::task::block_in_place(look) {
                Some(kept) => kept,
                None => return Some(busy()),
            }
        }
        // Strangers and others learn nothing.
        _ => Ok(Kept::Nothing),
    };
    Some(match kept {
        Ok(kept) => Reply {
            length: Some(bytes(kept)),
            ..Reply::empty(200)
        },
        Err(error) => reply::not_now(&error),
    })
}

/// Finds out where the body of a POST of a known pair goes.
///
/// # Errors
/// The answer for a body that cannot be a continuation of what is held.
pub(super) fn open(core: &Core, arrival: &Arrival, pair: &Partnership) -> Result<Opened, Reply> {
    let headers = &arrival.head.headers;
    let range = headers.get("Content-Range").and_then(Range::read);
    // Of a body that comes whole it says nothing that matters, be its end counted wrongly.
    let range = range.filter(|range| range.first > 0 || arrival.length != Some(range.total));
    let first = range.map_or(0, |range| range.first);
    let Some(tag) = tag(headers) else {
        // Nothing ties a later piece to the earlier ones; taken for a message it would be refused for good.
        return if first == 0 {
            Ok(Opened::plain(core, None))
        } else {
            Err(unsatisfiable(0))
        };
    };
    let Some(mut transfer) = Transfer::find(core, pair, &tag) else {
        // A dead connection may hold the place for minutes; a whole body needs no place.
        return if first == 0 { Ok(Opened::plain(core, None)) } else { Err(busy()) };
    };
    transfer.total = range.map(|range| range.total).or(arrival.length);
    let failed = |error: StorageError| reply::not_now(&error);
    tokio::task::block_in_place(|| {
        let kept = transfer.place.kept_bytes(oldest(core)).map_err(failed)?;
        if range.is_some_and(|range| !range.is_sound(arrival.length)) {
            return Err(unsatisfiable(bytes(kept)));
        }
        if first > 0 {
            return go_on(core, transfer, kept, first);
        }
        let small = transfer.total.is_some_and(|total| total <= INLINE_MAX as u64);
        let draft = if small || transfer.fits(core, 1).map_err(failed)? {
            transfer.place.begin(&core.storage).map_err(failed)?
        } else {
            transfer.place.clear().map_err(failed)?;
            core.storage.draft()
        };
        Ok(Opened {
            draft: Some(draft),
            transfer: Some(transfer),
        })
    })
}

/// The rest of what is held, or its last byte again.
fn go_on(core: &Core, transfer: Transfer, kept: Kept, first: u64) -> Result<Opened, Reply> {
    let last_again = transfer.total == Some(first + 1) && bytes(kept) == first + 1;
    let draft = match kept {
        Kept::Whole(_) if last_again => None,
        Kept::Part(len) if len == first || last_again => {
            let draft = transfer.place.go_on(&core.storage, first);
            Some(draft.map_err(|error| reply::not_now(&error))?)
        }
        _ => return Err(unsatisfiable(bytes(kept))),
    };
    tracing::info!(
        held = bytes(kept),
        first,
        total = transfer.total,
        "a transfer that broke off goes on"
    );
    Ok(Opened {
        draft,
        transfer: Some(transfer),
    })
}

/// Keeps what came of a body that broke off, if the pair's quota and the disk have room for it.
pub(super) async fn keep(core: &Arc<Core>, draft: Draft, transfer: Transfer) {
    let core = Arc::clone(core);
    let kept = tokio::task::spawn_blocking(move || {
        let len = draft.len();
        core.storage.check_room()?;
        if !transfer.fits(&core, len)? {
            tracing::warn!(len, "a body that broke off is not kept: its pair's quota is full");
            draft.discard();
            return Ok(());
        }
        draft.keep()?;
        tracing::info!(len, "a body broke off and is kept to be gone on with");
        Ok::<_, StorageError>(())
    });
    match kept.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "a body that broke off cannot be kept"),
        Err(error) => tracing::error!(%error, "a body that broke off cannot be kept"),
    }
}

/// The last byte of a transfer that became a message: its sender lost the answer and gets it again.
pub(super) async fn again(core: &Arc<Core>, arrival: &Arrival, pair: Arc<Partnership>, transfer: Transfer) -> Result<Reply, FlowError> {
    let begin_anew = |transfer: Transfer| {
        transfer.place.clear()?;
        Ok(unsatisfiable(0))
    };
    let given = arrival.head.headers.get("Message-ID").unwrap_or_default();
    let (station, partner) = (&pair.station.as2_id, &pair.partner.as2_id);
    let first = core.journal.read(|tx| {
        let Some(row) = tx.inbound(station, partner, given)? else {
            return Ok(None);
        };
        Ok(tx.message(&row.message)?.map(|message| (row, message)))
    })?;
    let of_this_transfer = |detail: &crate::message::Detail| {
        let headers = Headers::parse(&detail.head()).unwrap_or_default();
        Some(detail.raw_size) == transfer.total && tag(&headers).as_deref() == Some(transfer.tag.as_str())
    };
    let Some((row, message)) = first.filter(|(_, message)| of_this_transfer(&message.detail)) else {
        return begin_anew(transfer);
    };
    let now = core.clock.now();
    let Ok((message, receipt)) = new_message(arrival, &pair, row.raw_sha256.clone(), message.detail.raw_size, now) else {
        return begin_anew(transfer);
    };
    let taken = Taken {
        pair,
        message,
        receipt,
        source: Some(arrival.peer.ip()),
    };
    match repeat::without_bytes(core, &taken, row).await? {
        Some(reply) => Ok(reply),
        None => begin_anew(transfer),
    }
}

/// What was written before it is too old to go on with.
pub(crate) fn oldest(core: &Core) -> Millis {
    core.clock.now() - millis(core.config.as2.keep_partial)
}

fn bytes(kept: Kept) -> u64 {
    match kept {
        Kept::Nothing => 0,
        Kept::Part(len) | Kept::Whole(len) => len,
    }
}

/// A digest, because ids hold what no file name may; the account is the station's.
fn pair_digest(pair: &Partnership) -> String {
    digest(&format!("{}\n{}", pair.station.as2_id, pair.partner.as2_id))
}

fn digest(text: &str) -> String {
    hex(&sha256(text.as_bytes()))
}

/// 416 with what is held.
fn unsatisfiable(held: u64) -> Reply {
    let mut reply = Reply::text(416, &format!("{held} bytes of this transfer are held\r\n"));
    let _ = reply.headers.push("Content-Range", &format!("bytes */{held}"));
    reply
}

/// 500, as the interoperability tests settled it (Drummond 1Q14, issue 6).
fn busy() -> Reply {
    Reply::text(500, "an earlier connection still writes this transfer; try again later\r\n")
}
