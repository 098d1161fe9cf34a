//! Receiving: stage the body, bind its Message-ID, check, file, receipt (RFC 4130 §5, §7; durability.md §3).
//!
//! The answer leaves only when what it promises is durable: a 2xx without MDN after the raw body and its row, a
//! positive MDN after the files. Nothing is visible in an inbox before all of the message verified.

mod brake;
mod check;
mod files;
mod mdns;
mod names;
mod receipt;
mod refused;
mod repeat;
mod reply;
mod restart;
mod transfer;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use as2_core::for_people;
use as2_core::headers::Headers;
use as2_core::hex;
use as2_core::id::As2Id;
use as2_core::message_id::MessageId;
use as2_core::receipt::ReceiptRequest;
use bytes::Bytes;
use openssl::sha::Sha256;

use crate::block;
use crate::clock::Millis;
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::http::{Arrival, Receive, Reply, Sink};
use crate::journal::{Claim, Claimed, Job, JournalError, file_name};
use crate::message::{Detail, Direction, Message, State};
use crate::partner::MdnMode;
use crate::partnership::{Lack, Partnership};
use crate::storage::{Draft, INLINE_MAX, Staged, StorageError};
use crate::{receipts, worker};

pub use brake::Brake;
pub(crate) use restart::oldest as oldest_part;

/// How often a check is tried that fails by a fault of ours, other than one that [passes].
const MAX_CHECKS: u32 = 20;
/// Pause in milliseconds before a check that failed by a fault of ours is tried again.
const PAUSE: Millis = 30_000;
/// Milliseconds from a body's end to its answer that are told: partners give up after two to five minutes (as2.md §6.1).
const SLOW: Millis = 60_000;
/// Headers that a request has once at most.
const IDENTITY: [&str; 3] = ["AS2-From", "AS2-To", "Message-ID"];

/// The AS2 endpoint: messages and async MDNs, told apart by content.
pub struct Inbox {
    core: Arc<Core>,
}

impl Inbox {
    /// The endpoint of this gateway.
    #[must_use]
    pub fn new(core: Arc<Core>) -> Self {
        Inbox { core }
    }
}

/// Where a body goes while it comes: to the spool, or nowhere for strangers.
pub struct Spool {
    core: Arc<Core>,
    draft: Option<Draft>,
    /// Of all bytes so far; of a body that goes on it is taken at the end.
    hash: Option<Sha256>,
    len: u64,
    max: u64,
    /// Who posts without the login that is asked of its partner: an MDN, or nothing that is taken.
    no_login: Option<SocketAddr>,
    transfer: Option<restart::Transfer>,
    refused: bool,
}

impl Spool {
    fn take(&mut self, bytes: &Bytes) -> Result<(), Reply> {
        self.len = self.len.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if self.len > self.max {
            return Err(self.no_login.map_or_else(|| reply::too_large(self.max), reply::unauthorized));
        }
        if self.transfer.as_ref().is_some_and(|transfer| transfer.overrun(self.len)) {
            return Err(reply::other_length());
        }
        let Some(draft) = &mut self.draft else { return Ok(()) };
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        let written = if draft.len() < u64::try_from(INLINE_MAX).unwrap_or(u64::MAX) {
            draft.append(bytes)
        } else {
            // The disk may make us wait; other connections need not.
            tokio::task::block_in_place(|| self.core.storage.check_room().and_then(|()| draft.append(bytes)))
        };
        written.map_err(|error| reply::not_now(&error))
    }
}

impl Sink for Spool {
    async fn write(&mut self, bytes: Bytes) -> Result<(), Reply> {
        let taken = self.take(&bytes);
        self.refused |= taken.is_err();
        taken
    }

    fn matters(&self) -> bool {
        // A stranger's goes nowhere. So does a transfer that is here already, but what comes of it is looked at.
        self.draft.is_some() || self.transfer.is_some()
    }

    async fn broke_off(self) {
        let Some(draft) = self.draft else { return };
        match self.transfer {
            Some(transfer) if !self.refused => restart::keep(&self.core, draft, transfer).await,
            _ => draft.discard(),
        }
    }
}

/// The names in the headers, resolved.
enum Relationship {
    Known(Arc<Partnership>),
    /// Known, and its messages are not taken; its receipts for ours are.
    Blocked(Arc<Partnership>),
    /// Ids as they came, for the list of rejected messages.
    Unknown(String, String),
    /// Our own set-up is broken at this moment.
    Broken(Lack),
}

impl Receive for Inbox {
    type Sink = Spool;

    async fn admit(&self, arrival: &Arrival) -> Result<Spool, Reply> {
        let headers = &arrival.head.headers;
        // Whom a message is from and what it is called may not be read in two ways.
        if let Some(name) = IDENTITY.iter().find(|name| headers.all(name).nth(1).is_some()) {
            return Err(Reply::text(400, &format!("the header {name} is repeated\r\n")));
        }
        if lacks_names(headers) {
            return mdns::admit(&self.core, arrival);
        }
        let (opened, max, no_login) = match relationship(&self.core, arrival) {
            Relationship::Known(pair) => of_partner(&self.core, arrival, &pair)?,
            Relationship::Blocked(pair) if mdns::is_possible(arrival) && foreign(&pair, arrival).is_none() => {
                (restart::Opened::plain(&self.core, None), receipts::MAX_MDN, None)
            }
            Relationship::Blocked(_) | Relationship::Unknown(..) => (restart::Opened::nowhere(), self.core.config.as2.max_message, None),
            Relationship::Broken(lack) => {
                tracing::error!(why = %lack, "cannot take messages for this pair");
                return Err(reply::later("not ready for this pair"));
            }
        };
        let restart::Opened { draft, transfer } = opened;
        let len = draft.as_ref().map_or(0, Draft::len);
        if arrival.length.is_some_and(|more| len.saturating_add(more) > max) {
            if let Some(draft) = draft {
                draft.discard();
            }
            return Err(reply::too_large(max));
        }
        Ok(Spool {
            core: Arc::clone(&self.core),
            draft,
            hash: (len == 0).then(Sha256::new),
            len,
            max,
            no_login,
            transfer,
            refused: false,
        })
    }

    async fn kept_bytes(&self, arrival: &Arrival) -> Option<Reply> {
        restart::kept_bytes(&self.core, arrival)
    }

    fn answered(&self, tls: bool, method: &'static str, status: u16) {
        self.core.metrics.http_request(if tls { "as2-tls" } else { "as2" }, method, status);
    }

    async fn receive(&self, arrival: Arrival, spool: Spool) -> Reply {
        let began = self.core.clock.now();
        let reply = match receive(&self.core, &arrival, spool).await {
            Ok(reply) => reply,
            Err(FlowError::Storage(error)) => reply::not_now(&error),
            Err(error) => {
                tracing::error!(%error, "cannot take a message");
                reply::later("a fault of ours")
            }
        };
        let took = self.core.clock.now() - began;
        if took > SLOW {
            reply::slow(&arrival, took, reply.status);
        }
        reply
    }
}

/// Where the body of a known partner goes, how much it may hold, and who has not logged in who should have.
fn of_partner(core: &Core, arrival: &Arrival, pair: &Partnership) -> Result<(restart::Opened, u64, Option<SocketAddr>), Reply> {
    if let Some(why) = foreign(pair, arrival) {
        tracing::warn!(station = pair.station.as2_id, partner = pair.partner.as2_id, peer = %arrival.peer, why, "POST refused");
        return Err(Reply::text(403, &format!("{why}\r\n")));
    }
    let logged_in = reply::shows(arrival, pair.inbound_auth.as_ref());
    if !logged_in && !mdns::is_possible(arrival) {
        return Err(reply::unauthorized(arrival.peer));
    }
    if !mdns::is_possible(arrival) {
        core.storage.check_room().map_err(|error| reply::not_now(&error))?;
    }
    if !logged_in {
        return Ok((restart::Opened::plain(core, None), receipts::MAX_MDN, Some(arrival.peer)));
    }
    let max = match pair.partner.max_message {
        0 => core.config.as2.max_message,
        own => own,
    };
    Ok((restart::open(core, arrival, pair)?, max, None))
}

/// Why a connection cannot be the partner's: a client that shows a certificate shows one that is pinned for it, if any is, and
/// comes from an address that is set for it, if any is.
fn foreign(pair: &Partnership, arrival: &Arrival) -> Option<&'static str> {
    let shown = arrival.client_cert.as_ref();
    if !pair.pinned_tls.is_empty() && shown.is_some_and(|shown| !pair.pinned_tls.contains(shown)) {
        Some("the TLS certificate is another partner's")
    } else if !block::admit(&pair.partner.allowed_ips, arrival.peer.ip()) {
        Some("this partner does not come from this address")
    } else {
        None
    }
}

fn lacks_names(headers: &Headers) -> bool {
    headers.get("AS2-From").is_none() || headers.get("AS2-To").is_none()
}

fn relationship(core: &Core, arrival: &Arrival) -> Relationship {
    let name = |field: &str| {
        let raw = arrival.head.headers.get(field).unwrap_or_default();
        As2Id::readings(raw.as_bytes()).map_err(|_| reply::clean(raw, 128))
    };
    let first = |readings: &[As2Id]| readings.first().map(|id| id.as_str().to_owned()).unwrap_or_default();
    let (froms, tos) = match (name("AS2-From"), name("AS2-To")) {
        (Ok(froms), Ok(tos)) => (froms, tos),
        (from, to) => {
            let shown = |readings: Result<Vec<As2Id>, String>| readings.map_or_else(|raw| raw, |readings| first(&readings));
            return Relationship::Unknown(shown(from), shown(to));
        }
    };
    let mut pairs = tos
        .iter()
        .flat_map(|to| froms.iter().map(move |from| core.partnership(to.as_str(), from.as_str())));
    let found = pairs.find(|found| matches!(found, Ok(_) | Err(Lack::Key(_))));
    match found {
        Some(Ok(pair)) if pair.partner.blocked.inbound() => Relationship::Blocked(pair),
        Some(Ok(pair)) => Relationship::Known(pair),
        Some(Err(lack @ Lack::Key(_))) => Relationship::Broken(lack),
        _ => {
            // The reading that somebody here has, if there is one: that is what the operator knows.
            let objects = core.objects();
            let station = tos.iter().find(|to| objects.stations.contains_key(to.as_str()));
            let partner = froms.iter().find(|from| objects.is_partner(from.as_str()));
            let or_first = |known: Option<&As2Id>, all: &[As2Id]| known.map_or_else(|| first(all), |id| id.as_str().to_owned());
            Relationship::Unknown(or_first(partner, &froms), or_first(station, &tos))
        }
    }
}

/// Everything about a message that came, before it is checked.
#[derive(Clone)]
pub(super) struct Taken {
    pub(super) pair: Arc<Partnership>,
    pub(super) message: Message,
    pub(super) receipt: Option<ReceiptRequest>,
    /// Whose connection it came by; none once only the row is left.
    pub(super) source: Option<IpAddr>,
}

impl Taken {
    pub(super) fn claim(&self, core: &Core, staged: &Staged) -> Claim {
        Claim {
            message: self.message.clone(),
            inline: staged.blob(),
            owner: core.owner.clone(),
        }
    }

    fn is_async(&self) -> bool {
        self.receipt.as_ref().is_some_and(|request| request.deliver_to.is_some())
    }

    /// Its sender waits on the connection for the receipt.
    fn is_sync(&self) -> bool {
        self.receipt.as_ref().is_some_and(|request| request.deliver_to.is_none())
    }
}

async fn receive(core: &Arc<Core>, arrival: &Arrival, spool: Spool) -> Result<Reply, FlowError> {
    if lacks_names(&arrival.head.headers) {
        return mdns::take_nameless(core, arrival, spool.draft).await;
    }
    let pair = match relationship(core, arrival) {
        Relationship::Known(pair) => pair,
        Relationship::Blocked(pair) => return from_blocked(core, arrival, &pair, spool).await,
        Relationship::Unknown(from, to) => return refused::stranger(core, arrival, &from, &to).await,
        Relationship::Broken(lack) => return Err(lack.into()),
    };
    let Spool {
        draft,
        hash,
        len,
        transfer,
        ..
    } = spool;
    let Some(draft) = draft.map(Draft::whole) else {
        return match transfer {
            Some(transfer) => restart::again(core, arrival, pair, transfer).await,
            // It became known while its body came: the sender tries again.
            None => Ok(reply::later("try again")),
        };
    };
    if transfer.as_ref().is_some_and(|transfer| !transfer.is_whole(len)) {
        return Ok(reply::other_length());
    }
    if let Some(reply) = mdns::take(core, arrival, &pair, &draft).await? {
        return Ok(reply);
    }
    if !reply::shows(arrival, pair.inbound_auth.as_ref()) {
        return Ok(reply::unauthorized(arrival.peer));
    }
    if let Err(error) = core.storage.check_room() {
        return Ok(reply::not_now(&error));
    }
    let body = Body {
        draft,
        hash,
        len,
        transfer,
    };
    take_in(core, arrival, pair, body).await
}

/// A receipt of a blocked partner, or what a stranger gets.
async fn from_blocked(core: &Arc<Core>, arrival: &Arrival, pair: &Arc<Partnership>, spool: Spool) -> Result<Reply, FlowError> {
    if let Some(draft) = spool.draft.map(Draft::whole)
        && let Some(reply) = mdns::take(core, arrival, pair, &draft).await?
    {
        return Ok(reply);
    }
    refused::stranger(core, arrival, &pair.partner.as2_id, &pair.station.as2_id).await
}

/// A body that is all there.
struct Body {
    draft: Draft,
    /// SHA-256 of it, where it came in one piece.
    hash: Option<Sha256>,
    len: u64,
    transfer: Option<restart::Transfer>,
}

/// A message of a partner: small ones are checked before they are bound, where the sender waits for the receipt.
async fn take_in(core: &Arc<Core>, arrival: &Arrival, pair: Arc<Partnership>, body: Body) -> Result<Reply, FlowError> {
    let Body {
        draft,
        hash,
        len,
        transfer,
    } = body;
    let (draft, sha256) = digested(draft, hash).await?;
    let now = core.clock.now();
    let (message, receipt) = match new_message(arrival, &pair, sha256, len, now) {
        Ok(fields) => fields,
        Err((message, error)) => return refused::refuse(core, &pair, arrival, *message, error, draft).await,
    };
    let mut taken = Taken {
        pair,
        message,
        receipt,
        source: Some(arrival.peer.ip()),
    };
    let known = repeat::known(core, &taken)?;
    if let Some(reply) = known.as_ref().and_then(|row| repeat::damped(core, &taken, row).transpose()) {
        return reply;
    }
    let staged = stage(draft).await?;
    taken.message.detail.raw.clone_from(&staged.key);
    let whole = |transfer: Option<restart::Transfer>| transfer.into_iter().for_each(|transfer| transfer.came_whole(core, len));
    if taken.is_sync() && staged.inline.is_some() {
        let reply = match known.filter(|row| row.state != State::Rejected) {
            Some(row) => repeat::answer(core, taken, staged, row).await,
            None => at_once(core, taken, staged).await,
        };
        whole(transfer);
        return reply;
    }
    let claim = taken.claim(core, &staged);
    let claimed = core.journal.write_sure(move |tx| tx.receive(claim, now)).await;
    let claimed = claimed.inspect_err(|error| core.let_go_undecided(error, std::slice::from_ref(&staged.key)))?;
    whole(transfer);
    match claimed {
        Claimed::New => checked(core, taken).await,
        Claimed::Bound(row) => repeat::answer(core, taken, staged, row).await,
    }
}

/// The SHA-256 of a body in hex, taken from the disk where only the last of its pieces came now.
async fn digested(draft: Draft, hash: Option<Sha256>) -> Result<(Draft, String), FlowError> {
    if let Some(hash) = hash {
        return Ok((draft, hex(&hash.finish())));
    }
    let read = tokio::task::spawn_blocking(move || {
        let sha256 = draft.sha256()?;
        Ok((draft, sha256))
    });
    read.await?
}

/// Makes the body durable, or leaves a small one to the deciding transaction.
async fn stage(draft: Draft) -> Result<Staged, FlowError> {
    if draft.is_small() {
        return Ok(draft.stage()?);
    }
    Ok(tokio::task::spawn_blocking(move || draft.stage()).await??)
}

/// A small message whose sender waits for the MDN: checked in memory, then bound, filed and receipted by one transaction
/// with one sync. Nothing was promised before, so a crash in between leaves nothing, and the sender posts again.
async fn at_once(core: &Arc<Core>, taken: Taken, staged: Staged) -> Result<Reply, FlowError> {
    let decided = match check::decide(core, &taken, &staged).await {
        Ok(decision) => *decision?,
        Err(error) => {
            // A fault of ours: what came is kept, and the worker tries again.
            let (claim, now) = (taken.claim(core, &staged), core.clock.now());
            if let Claimed::New = core.journal.write(move |tx| tx.receive(claim, now)).await? {
                give_back(core, &taken.message, PAUSE);
            }
            return Err(error);
        }
    };
    match decided.claimed {
        Claimed::New => {
            check::filed(core, &decided.message);
            check::hold_back(decided.delay).await;
            Ok(decided.mdn.map_or_else(|| Reply::empty(200), reply::mdn))
        }
        Claimed::Bound(row) => {
            decided.parts.iter().for_each(|key| core.storage.discard(key));
            repeat::answer(core, taken, staged, row).await
        }
    }
}

/// Ours to check: while the sender waits if it wants its MDN at once, behind its back otherwise.
async fn checked(core: &Arc<Core>, taken: Taken) -> Result<Reply, FlowError> {
    if taken.is_sync() {
        let mdn = guarded(Arc::clone(core), taken).await?;
        return Ok(mdn.map_or_else(|| Reply::empty(200), reply::mdn));
    }
    let status = if taken.is_async() { taken.pair.partner.async_status } else { 204 };
    if !core.crypto.has_room(taken.message.detail.raw_size) {
        // The queue on disk is the one that may grow.
        give_back(core, &taken.message, 0);
        return Ok(Reply::empty(status));
    }
    let (core, id) = (Arc::clone(core), taken.message.id.clone());
    tokio::spawn(async move {
        if let Err(error) = guarded(core, taken).await {
            tracing::error!(%id, %error, "cannot check a received message yet");
        }
    });
    Ok(Reply::empty(status))
}

/// Checks a claimed message in a task of its own: it must not stay claimed after a panic, nor after a fault of ours, which
/// leaves it to the worker.
async fn guarded(core: Arc<Core>, taken: Taken) -> Result<Option<receipt::Mdn>, FlowError> {
    let taken = Arc::new(taken);
    let checking = tokio::spawn({
        let (core, taken) = (Arc::clone(&core), Arc::clone(&taken));
        async move { check::check(&core, &taken).await }
    });
    let outcome = checking.await.unwrap_or_else(|panic| Err(panic.into()));
    if outcome.is_err() {
        give_back(&core, &taken.message, PAUSE);
    }
    outcome
}

/// Leaves a claimed message to the worker, due after a pause. Whoever waits for an answer does not wait for this.
fn give_back(core: &Arc<Core>, message: &Message, pause: Millis) {
    let (id, due, core) = (message.id.as_str().to_owned(), core.clock.now() + pause, Arc::clone(core));
    tokio::spawn(async move {
        worker::insist(&core, move |tx| tx.give_back_receive(&id, due)).await;
        core.wake();
    });
}

/// Finishes a message whose checker died or failed.
///
/// # Errors
/// Ours only, and of those what a further try may not mend: the worker gives the job back, which counts the try.
pub async fn recover(core: &Arc<Core>, job: Job) -> Result<(), FlowError> {
    match check_again(core, &job).await {
        Err(FlowError::Journal(JournalError::Conflict(_))) => Ok(()),
        Err(error) if passes(&error) => {
            postpone(core, &job, &error.to_string()).await;
            Ok(())
        }
        other => other,
    }
}

async fn check_again(core: &Arc<Core>, job: &Job) -> Result<(), FlowError> {
    let id = job.message.clone();
    let Some(message) = core.journal.read_few(|tx| tx.message(&id))?.filter(|m| m.state == State::Received) else {
        let job = job.clone();
        core.journal.write(move |tx| tx.end_job(&job)).await?;
        return Ok(());
    };
    let pair = core.partnership_of(&message)?;
    let receipt = receipt_asked(&message)?;
    if job.tries >= MAX_CHECKS {
        tracing::error!(%id, tries = job.tries, "a received message cannot be checked; given up");
        let why = "every check failed by a fault of ours; see the log";
        return check::give_up(core, message, Some(&pair), receipt, why).await;
    }
    tracing::info!(%id, "finishing a received message");
    let taken = Taken {
        pair,
        message,
        receipt,
        source: None,
    };
    match check::check(core, &taken).await {
        Err(FlowError::Storage(damage @ StorageError::Damaged(_))) => {
            tracing::error!(%id, %damage, "a received message cannot be checked: look at the disk");
            let Taken {
                pair, message, receipt, ..
            } = taken;
            check::give_up(core, message, Some(&pair), receipt, "our copy of it is damaged; see the log").await
        }
        other => other.map(drop),
    }
}

/// The receipt that a received message asks for.
fn receipt_asked(message: &Message) -> Result<Option<ReceiptRequest>, FlowError> {
    let headers = Headers::parse(&message.detail.head()).map_err(|e| FlowError::Internal(e.to_string()))?;
    Ok(ReceiptRequest::from_headers(&headers).unwrap_or_default())
}

/// An operator gives up a received message that is not checked yet.
///
/// # Errors
/// Ours; a conflict if its check has just ended.
pub(crate) async fn reject_unchecked(core: &Arc<Core>, message: Message, why: &str) -> Result<(), FlowError> {
    let (pair, receipt) = (core.partnership_of(&message).ok(), receipt_asked(&message)?);
    check::give_up(core, message, pair.as_ref(), receipt, why).await
}

/// Whether a check failed by what has nothing to do with the message, and ends without it: a full disk, a locked journal, a
/// pair without its keys.
fn passes(error: &FlowError) -> bool {
    match error {
        FlowError::Storage(StorageError::Missing(_) | StorageError::Damaged(_)) | FlowError::Task(_) | FlowError::Internal(_) => false,
        FlowError::Storage(_) | FlowError::Journal(_) | FlowError::Lacking(_) => true,
    }
}

/// Leaves a message to a later check, however many there were: it was promised, and is not rejected for what is lacking here.
async fn postpone(core: &Core, job: &Job, why: &str) {
    tracing::error!(id = job.message, why, "a received message cannot be checked yet");
    let (lease, due) = (job.lease, core.clock.now() + PAUSE);
    worker::insist(core, move |tx| tx.postpone_job(lease, due)).await;
}

type NewMessage = Result<(Message, Option<ReceiptRequest>), (Box<Message>, as2_core::Error)>;

/// The row of a message that came, state `received`.
fn new_message(arrival: &Arrival, pair: &Partnership, raw_sha256: String, len: u64, now: Millis) -> NewMessage {
    let headers = &arrival.head.headers;
    let given = headers.get("Message-ID").unwrap_or_default();
    let between = (&*pair.station.account, &*pair.station.as2_id, &*pair.partner.as2_id);
    let mut message = Message {
        message_id: given.trim().to_owned(),
        subject: reply::clean(&for_people(headers.get("Subject").unwrap_or_default()), 500),
        detail: Detail {
            raw_size: len,
            raw_sha256,
            mdn_mode: Some(MdnMode::None),
            ..Detail::default()
        },
        ..Message::new(Direction::In, State::Received, between, now)
    };
    message.detail.set_head(&reply::without_secrets(&arrival.head.bytes));
    if let Err(error) = MessageId::from_header(given) {
        message.message_id = reply::clean(given, 200);
        return Err((Box::new(message), error));
    }
    match ReceiptRequest::from_headers(headers) {
        Ok(receipt) => {
            receipt.iter().for_each(|request| note_request(&mut message.detail, request));
            Ok((message, receipt))
        }
        Err(error) => Err((Box::new(message), error)),
    }
}

fn note_request(detail: &mut Detail, request: &ReceiptRequest) {
    let mode = match (&request.deliver_to, request.signed) {
        (None, false) => MdnMode::Sync,
        (None, true) => MdnMode::SyncSigned,
        (Some(_), false) => MdnMode::Async,
        (Some(_), true) => MdnMode::AsyncSigned,
    };
    detail.mdn_mode = Some(mode);
    detail.mdn_url = request.deliver_to.clone().unwrap_or_default();
}

/// Staged bytes that nobody needs after all.
pub(super) async fn drop_staged(core: &Core, staged: Staged) {
    if file_name(&staged.key).is_some() {
        core.let_go(vec![staged.key]).await;
    }
}
