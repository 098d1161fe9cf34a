//! MDNs that partners post, told from messages by content (as2.md §5.4, §6.1): those of a pair, and those without AS2 names.

use std::sync::Arc;

use super::{Spool, foreign, reply};
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::http::{Arrival, Reply};
use crate::partnership::Partnership;
use crate::receipts;
use crate::storage::{Draft, StorageError};

/// Bytes read at once of a body that may be an MDN.
const PIECE: usize = 16 * 1024;

/// Whether a request without the partner's login may be taken in all the same, until its body tells: async MDNs need none. Their
/// signature is their proof, and products send credentials only to the URL that they were given for. Without a signature they
/// change nothing unless they show credentials. It is taken in on a disk below its watermark as well: a receipt is small, and without
/// it what was delivered would go again and end as failed.
pub(super) fn is_possible(arrival: &Arrival) -> bool {
    arrival.head.headers.get("Disposition-Notification-To").is_none() && arrival.length.is_none_or(|length| length <= receipts::MAX_MDN)
}

/// An async MDN looks like a small message that asks for no receipt. `None`: it is something else.
pub(super) async fn take(core: &Arc<Core>, arrival: &Arrival, pair: &Arc<Partnership>, draft: &Draft) -> Result<Option<Reply>, FlowError> {
    let headers = &arrival.head.headers;
    if draft.len() > receipts::MAX_MDN || headers.get("Disposition-Notification-To").is_some() {
        return Ok(None);
    }
    let body = read(draft)?;
    let media = media(arrival);
    let words: &[u8] = b"disposition-notification";
    let plausible = media.starts_with("multipart/report")
        || media.starts_with("application/")
        || (media.starts_with("multipart/") && body.windows(words.len()).any(|w| w.eq_ignore_ascii_case(words)));
    if !plausible {
        return Ok(None);
    }
    let Some(evidence) = receipts::read_mdn(core, pair, headers.clone(), body).await? else {
        return Ok(None);
    };
    let logged_in = reply::shows(arrival, pair.inbound_auth.as_ref());
    receipts::take_async(core, pair, evidence, logged_in).await?;
    Ok(Some(Reply::empty(200)))
}

/// Where the body of a request without AS2 names goes: it may be an MDN in clear.
///
/// # Errors
/// 400 for everything else.
pub(super) fn admit(core: &Arc<Core>, arrival: &Arrival) -> Result<Spool, Reply> {
    let media = media(arrival);
    let receipt = media.starts_with("multipart/report") || media.starts_with("multipart/signed");
    let too_long = arrival.length.is_some_and(|length| length > receipts::MAX_MDN);
    if !receipt || too_long || arrival.head.headers.get("Disposition-Notification-To").is_some() {
        return Err(no_names());
    }
    Ok(Spool {
        core: Arc::clone(core),
        draft: Some(core.storage.draft()),
        hash: None,
        len: 0,
        max: receipts::MAX_MDN,
        no_login: None,
        transfer: None,
        refused: false,
    })
}

/// An MDN without AS2 names counts if one message alone has the id that it answers, and its partner signed it. The answer does
/// not tell which ids exist.
pub(super) async fn take_nameless(core: &Arc<Core>, arrival: &Arrival, draft: Option<Draft>) -> Result<Reply, FlowError> {
    let Some(draft) = draft else { return Ok(no_names()) };
    let headers = &arrival.head.headers;
    let body = read(&draft)?;
    // Only its signature counts, so it needs no login, and a partner whose messages are not taken may still sign for ours.
    let allowed = |pair: &Partnership| foreign(pair, arrival).is_none();
    Ok(if receipts::take_nameless(core, headers.clone(), body, allowed).await? {
        Reply::empty(200)
    } else {
        no_names()
    })
}

fn no_names() -> Reply {
    Reply::text(400, "this is an AS2 endpoint: the headers AS2-From and AS2-To are missing\r\n")
}

fn media(arrival: &Arrival) -> String {
    let given = arrival.head.headers.get("Content-Type").unwrap_or_default();
    given.trim().to_ascii_lowercase()
}

fn read(draft: &Draft) -> Result<Vec<u8>, StorageError> {
    let mut body = Vec::with_capacity(usize::try_from(draft.len()).unwrap_or(0));
    draft.for_each(PIECE, |piece| {
        body.extend_from_slice(piece);
        Ok::<_, StorageError>(())
    })?;
    Ok(body)
}
