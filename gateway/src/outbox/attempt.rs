//! One try: recorded first, then posted, then judged.

use std::sync::Arc;
use std::time::Duration;

use super::outcome;
use super::restart::{self, GONE_ON, Posted};
use super::settle;
use crate::clock::Millis;
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::journal::{Blob, Job, JournalError, NewEntry, Settlement, head_key};
use crate::layout::{Area, Tray};
use crate::message::{Attempt, Message, State};
use crate::partner::MdnMode;
use crate::partnership::Partnership;
use crate::post::{Body, ClientIdentity, Credentials, Grant, Proxy, Target};
use crate::receipts;
use crate::storage::{Content, Staged};

/// Most bytes read of a partner's answer: an MDN is far smaller (security.md §7).
pub(crate) const MAX_ANSWER: usize = 1 << 20;
/// A POST that makes no progress for so long is given up.
const PROGRESS: Duration = Duration::from_secs(60);
/// How long the answer to a message may take that wants no MDN in it: the partner only has to store it.
const BARE_RESPONSE: Duration = Duration::from_secs(60);

/// Posts the stored bytes once and settles what came of it. `blob`: small bytes that were composed a moment ago; they become
/// durable together with the record of the try.
pub(super) async fn attempt(
    core: &Arc<Core>,
    job: &Job,
    mut message: Message,
    blob: Option<Blob>,
    pair: &Arc<Partnership>,
) -> Result<(), FlowError> {
    let began = core.clock.now();
    begin(&mut message, began);
    let (lease, composed) = (job.lease, message.detail.raw.clone());
    let recorded = core.journal.write_sure(move |tx| {
        tx.progress(&message, lease, blob.as_ref())?;
        Ok(message)
    });
    let recorded = recorded.await;
    let mut message = recorded.inspect_err(|error| core.let_go_undecided(error, &[composed]))?;

    let posted = restart::post(core, &message, pair, &target(core, pair, &pair.partner.url)).await?;
    record(&mut message, &posted, core.clock.now() - began);
    let Posted { outcome: posted, from } = posted;
    let after = outcome::judge(core, &mut message, pair, posted.as_ref()).await?;
    let id = message.id.clone();
    let mut step = restart::step(core, message, pair, from, after);
    step.lease = Some(lease);
    keep_evidence(&mut step, posted.is_ok());
    let proof = step.message.state == State::Delivered && step.message.detail.mdn_at.is_some();
    let step = Arc::new(step);
    let settled = match settle(core, Arc::clone(&step), core.clock.now()).await {
        // The job has another holder meanwhile. A receipt that proves delivery counts all the same (durability.md §4.2).
        Err(FlowError::Journal(JournalError::Conflict(_))) if proof => {
            let expected = State::IN_WORK.to_vec();
            settle(
                core,
                Settlement {
                    lease: None,
                    expected,
                    ..Arc::unwrap_or_clone(step)
                },
                core.clock.now(),
            )
            .await
        }
        other => other,
    };
    // An async MDN was faster, or somebody else: what the answer says is evidence (as2.md §5.4 rule 5).
    if let (Err(FlowError::Journal(JournalError::Conflict(_))), Ok(answer)) = (&settled, &posted)
        && let Some(evidence) = outcome::mdn_in(core, pair, answer).await?
    {
        return receipts::keep_late(core, id.as_str(), &evidence).await;
    }
    settled
}

/// Notes a try that is about to be made.
fn begin(message: &mut Message, now: Millis) {
    message.attempts += 1;
    message.state = State::Sending;
    message.next_try = None;
    message.updated = now;
    message.detail.tries.push(Attempt {
        n: message.attempts,
        at: now,
        took: 0,
        status: None,
        outcome: String::new(),
        body_sent: false,
        twice: false,
    });
}

/// The stored bytes of a message.
pub(super) fn body(core: &Core, message: &Message) -> Result<Body, FlowError> {
    Ok(match core.storage.open_staged(&message.detail.raw)? {
        Content::File(file, len) => Body::File { file, from: 0, len },
        Content::Bytes(bytes) => Body::Bytes(bytes),
    })
}

/// Where and how to post to this partner.
pub(crate) fn target(core: &Core, pair: &Partnership, url: &str) -> Target {
    let partner = &pair.partner;
    let seconds = |own: u64, servers: Duration| if own == 0 { servers } else { Duration::from_secs(own) };
    let response = if partner.mdn.is_async() || partner.mdn == MdnMode::None {
        BARE_RESPONSE
    } else {
        core.config.as2.response_timeout
    };
    Target {
        partner: partner.as2_id.clone(),
        url: url.to_owned(),
        tls: partner.tls,
        pinned: pair.pinned_tls.clone(),
        client_identity: pair
            .tls_identity
            .clone()
            .map(|(cert_chain, pkcs8)| ClientIdentity { cert_chain, pkcs8 }),
        credentials: credentials(pair),
        headers: Vec::new(),
        allow_private: partner.private,
        proxy: (!partner.proxy.is_empty()).then(|| Proxy {
            url: partner.proxy.clone(),
            auth: pair.proxy_auth.clone(),
        }),
        connect_timeout: seconds(partner.connect_timeout, core.config.as2.connect_timeout),
        progress_timeout: PROGRESS,
        response_timeout: seconds(partner.response_timeout, response),
        total_timeout: (partner.total_timeout > 0).then(|| Duration::from_secs(partner.total_timeout)),
        chunked: partner.chunked,
        // When a connection breaks, nobody knows whether the message arrived: it may only be sent again to partners that see
        // what came before.
        keep_alive: partner.keep_alive && partner.detects_duplicates,
    }
}

/// What we show to this partner.
fn credentials(pair: &Partnership) -> Option<Credentials> {
    let (partner, login) = (&pair.partner, pair.http_auth.clone()?);
    if partner.token_url.is_empty() {
        return Some(Credentials::Basic(login));
    }
    Some(Credentials::Token(Grant {
        url: partner.token_url.clone(),
        client: login,
        scope: partner.token_scope.clone(),
    }))
}

/// Writes into the row what the try came to, as far as the wire tells.
fn record(message: &mut Message, posted: &Posted, took: i64) {
    let Some(last) = message.detail.tries.last_mut() else { return };
    last.took = took;
    let from = match posted.from {
        0 => String::new(),
        from => format!(", {GONE_ON} {from}"),
    };
    match &posted.outcome {
        Ok(answer) => {
            last.status = Some(answer.status);
            last.body_sent = answer.body_sent;
            last.twice = answer.twice;
            last.outcome = format!("HTTP {}{from}", answer.status);
            message.detail.set_head(header_lines(&answer.sent_head));
        }
        Err(error) => {
            last.body_sent = error.body_sent;
            last.outcome = format!("{error}{from}");
        }
    }
}

/// The raw message and its header block become visible with the first try.
pub(super) fn keep_evidence(step: &mut Settlement, answered: bool) {
    let message = &step.message;
    // The row of a delivered message keeps its head; another's may get that of its next try.
    let block = match message.state {
        State::Delivered => Staged::in_memory(head_key(message.id.as_str()), message.detail.head()),
        _ => Staged::small(message.detail.head()),
    };
    let has_head = answered || message.state.is_final();
    let entries = NewEntry::evidence(message, Tray::Outbox, &block);
    step.entries
        .extend(entries.into_iter().filter(|entry| has_head || entry.area != Area::Headers));
    step.blobs.extend(block.into_blob().filter(|_| has_head));
}

/// The header lines of a request head: without the request line and the blank line.
pub(crate) fn header_lines(head: &[u8]) -> &[u8] {
    let start = head.windows(2).position(|pair| pair == b"\r\n").map_or(0, |at| at + 2);
    let lines = head.get(start..).unwrap_or_default();
    lines
        .strip_suffix(b"\r\n\r\n")
        .and_then(|_| lines.get(..lines.len() - 2))
        .unwrap_or(lines)
}
