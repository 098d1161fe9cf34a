//! Messages that wait for a person: post again, send anew, give up, take the evidence out.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::certificates::day;
use super::{Refusal, RefusalKind, Result, blocking, deed, objects, partners, stations};
use crate::clock::Millis;
use crate::code;
use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::hint::{command, listed, quoted};
use crate::inbox;
use crate::journal::{Accepted, Entry, JobKind, MessageFilter, NewUpload, Revived};
use crate::layout::{self, Area};
use crate::lifecycle;
use crate::message::{Detail, Direction, FileRecord, Message, NO_MIC, RECEIPT_LOST, State};
use crate::partner::Partner;
use crate::partnership::{Lack, Partnership};
use crate::receipts::{self, Verdict};
use crate::storage::{Content, Staged, StorageError};

/// Milliseconds after which a running server has surely seen what was set just before.
const FOLLOWED: Millis = 1_000;
/// Bytes copied at a time.
const PIECE: usize = 128 * 1024;

/// Why a message ends that a person cancels.
const CANCELLED: &str = "cancelled by an operator";

/// How often a message is looked at by whoever waits for it.
const LOOK: Duration = Duration::from_millis(100);

/// The message that a person names: `<id>`, its nine digits, or the Message-ID.
///
/// # Errors
/// When nothing, or more than one message, fits.
pub fn choose(core: &Core, account: Option<&str>, text: &str) -> Result<Message> {
    let mut found = core.journal.read(|tx| tx.messages_named(account, text))?;
    match (found.len(), account) {
        (1, _) => Ok(found.remove(0)),
        (0, None) => Err(Refusal::not_found(
            format!("no message {text}"),
            "neither an id, its last nine digits nor a Message-ID is that",
            "as2gate message list",
        )),
        (0, Some(account)) => Err(Refusal::not_found(
            format!("no message {text}"),
            format!("account {account} has none of that id"),
            "as2gate message list",
        )),
        _ => {
            let told: Vec<String> = found.iter().map(|m| format!("{} ({}, {})", m.id, m.direction, m.state)).collect();
            let why = format!("several are that: {}", listed(told.iter().map(String::as_str), ""));
            let hint = format!(
                "give the id of one; `as2gate message list --message-id {}` shows them",
                quoted(text)
            );
            Err(Refusal::usage(format!("which message {text}?"), why, hint))
        }
    }
}

/// Refuses a station or partner that is nobody's name: to look for its messages would find none, as if it had none. Those of a
/// removed one are found.
///
/// # Errors
/// When there is neither such an object nor a message of it.
pub fn expect_names(core: &Core, account: Option<&str>, station: Option<&str>, partner: Option<&str>) -> Result<()> {
    let all = objects(core)?;
    let (of_station, of_partner) = (
        MessageFilter {
            station: station.map(str::to_owned),
            ..MessageFilter::default()
        },
        MessageFilter {
            partner: partner.map(str::to_owned),
            ..MessageFilter::default()
        },
    );
    let unknown = [
        (station.and_then(|id| stations::choose(&all, account, id).err()), of_station),
        (partner.and_then(|id| partners::choose(&all, account, id).err()), of_partner),
    ];
    for (refusal, filter) in unknown {
        let filter = MessageFilter {
            account: account.map(str::to_owned),
            limit: 1,
            ..filter
        };
        // Several accounts may have a partner of one id.
        if let Some(refusal) = refusal.filter(|refusal| refusal.kind == RefusalKind::NotFound)
            && core.journal.read(|tx| tx.messages(&filter))?.is_empty()
        {
            return Err(refusal);
        }
    }
    Ok(())
}

/// Posts the stored bytes again at once, under the same Message-ID; of a received message, its async MDN.
///
/// # Errors
/// When the message is final with a known outcome or is being posted, or was received and has no async MDN.
pub async fn retry(core: &Arc<Core>, message: &Message, dry_run: bool) -> Result<Message> {
    if message.direction == Direction::In {
        return retry_mdn(core, message, dry_run).await;
    }
    if message.state == State::Sending {
        return Err(being_posted(format!("cannot retry message {}", message.id)));
    }
    expect_not_renamed(message, || format!("cannot retry message {}", message.id))?;
    if !message.can_be_retried() {
        let hint = format!("as2gate message resend {} makes a new message of the same file", message.id.short());
        return Err(Refusal::failed(
            "final",
            format!("cannot retry message {}", message.id),
            why_final(message),
            hint,
        ));
    }
    let pair = pair_of(core, message, &Pair::default(), format!("cannot retry message {}", message.id))?;
    may_send(&pair.partner, format!("cannot retry message {}", message.id))?;
    if dry_run {
        return Ok(message.clone());
    }
    let revived = if message.state.is_final() {
        Some(revive(core, message).await?)
    } else {
        None
    };
    let (gone, copies) = revived
        .as_ref()
        .map(|revived| (revived.gone.clone(), vec![revived.payload.key.clone(), revived.raw.key.clone()]))
        .unwrap_or_default();
    let (id, now) = (message.id.as_str().to_owned(), core.clock.now());
    let retried = core.journal.write(move |tx| tx.retry_now(&id, revived.as_ref(), now)).await;
    let retried = retried.inspect_err(|error| core.let_go_undecided(error, &copies))?;
    for entry in gone {
        // The server may have failed again by now and shown the file anew.
        let is_shown = core
            .journal
            .read(|tx| tx.entry(&entry.account, &entry.parent, &entry.name))?
            .is_some();
        let is_gone = is_shown || core.storage.unpublish_unless_held(&entry);
        // Of one that was not published yet the publisher may just be putting the bytes out of view.
        if is_gone && entry.store.is_empty() {
            let retired = Entry {
                noncurrent: Some(now),
                ..entry
            };
            core.journal.write(move |tx| tx.purge_entry(&retired)).await?;
        }
    }
    core.wake();
    Ok(retried)
}

/// Why the bytes of a message are not posted again: others that failed are.
fn why_final(message: &Message) -> String {
    match message.state {
        // The code alone would let it: there are no bytes.
        State::Failed if code::may_be_retried(&message.code) => "it failed before it was packed".to_owned(),
        State::Failed => format!("it is failed, and its outcome is final: {}", message.code),
        state => format!("it is {state}"),
    }
}

/// What is asked for by hand goes out at once, or is refused: it does not wait until somebody lifts a block.
///
/// # Errors
/// When nothing is sent to this partner.
pub fn may_send(partner: &Partner, what: String) -> Result<()> {
    if partner.blocked.out() {
        return Err(Refusal::new(
            RefusalKind::Denied,
            "partner-blocked",
            what,
            format!("sending to {} is blocked", partner.as2_id),
            command("partner unblock", &partner.as2_id, ""),
        ));
    }
    Ok(())
}

/// What waits for this partner because of a block, in words, with the command that lifts it.
pub fn waits_for_block(partner: &Partner) -> Option<String> {
    let lift = command("partner unblock", &partner.as2_id, "");
    partner
        .blocked
        .out()
        .then(|| format!("sending to {} is blocked: nothing goes out until {lift}", partner.as2_id))
}

/// The message that has to end before this one goes out, where the partner gets one after the other.
///
/// # Errors
/// The journal's.
pub fn in_front_of(core: &Core, message: &Message) -> Result<Option<Message>> {
    let all = objects(core)?;
    let is_ordered = all
        .partner(&message.account, &message.partner)
        .is_some_and(|partner| partner.in_order);
    if message.direction == Direction::In || message.state == State::Sending || !is_ordered {
        return Ok(None);
    }
    Ok(core.journal.read(|tx| tx.first_before(message))?)
}

/// Posts the async MDN of a received message again, the stored bytes, to the URL that the partner asked for.
async fn retry_mdn(core: &Arc<Core>, message: &Message, dry_run: bool) -> Result<Message> {
    let what = || format!("cannot retry message {}", message.id);
    if message.detail.mdn_url.is_empty() {
        let why = "it was received, and its sender asked for no async MDN";
        return Err(Refusal::failed("received", what(), why, "ask the partner to send it again"));
    }
    if message.state == State::Received {
        let hint = format!("as2gate message follow {}", message.id.short());
        return Err(Refusal::failed(
            "in-work",
            what(),
            "it is being checked; its MDN goes out by itself",
            hint,
        ));
    }
    if let Some(why) = receipts::superseded(core, message).map_err(|error| refusal(error, what()))? {
        return Err(Refusal::failed("superseded", what(), why, "look at that one"));
    }
    if receipts::stored_mdn(core, message)
        .map_err(|error| refusal(error, what()))?
        .is_none()
    {
        let hint = "ask the partner to send it again, under the same Message-ID";
        return Err(Refusal::not_found(what(), "its MDN is kept no more", hint));
    }
    if dry_run {
        return Ok(message.clone());
    }
    let (id, now) = (message.id.as_str().to_owned(), core.clock.now());
    let asked = core.journal.write(move |tx| tx.retry_mdn(&id, now + FOLLOWED, now)).await?;
    core.wake();
    Ok(asked)
}

/// An error of a flow, as a refusal.
fn refusal(error: FlowError, what: String) -> Refusal {
    match error {
        FlowError::Journal(error) => Refusal::from(error),
        FlowError::Storage(error) => error.into(),
        other => Refusal::failed("internal", what, other.to_string(), "try again"),
    }
}

/// Brings the bytes of a failed message back from the tree.
async fn revive(core: &Arc<Core>, message: &Message) -> Result<Revived> {
    let entries = core.journal.read(|tx| tx.entries_of(message.id.as_str()))?;
    let gone: Vec<Entry> = entries
        .iter()
        .filter(|e| e.area == Area::Files && e.noncurrent.is_none())
        .cloned()
        .collect();
    let current = |area: Area| {
        entries
            .iter()
            .find(|e| !e.is_dir && e.noncurrent.is_none() && e.area == area)
            .cloned()
    };
    let what = format!("cannot retry message {}", message.id);
    let (Some(payload), Some(raw)) = (current(Area::Files), current(Area::RawMessage)) else {
        return Err(out_of_reach(core, message, what)?);
    };
    let core = Arc::clone(core);
    let copy = move || {
        // Both or none.
        core.storage.check_room_for(payload.size.saturating_add(raw.size))?;
        let payload = core.storage.restage(&payload)?;
        let raw = core.storage.restage(&raw).inspect_err(|_| core.storage.discard(&payload.key))?;
        Ok::<_, StorageError>((payload, raw))
    };
    let (payload, raw) = blocking(what, copy).await?;
    Ok(Revived { payload, raw, gone })
}

/// Between whom a message goes that is sent anew; what is not given stays as it was.
#[derive(Clone, Debug, Default)]
pub struct Pair {
    /// From this station.
    pub station: Option<String>,
    /// To this partner.
    pub partner: Option<String>,
}

/// The pair of a message that is to go out, with one of its ids or both replaced.
fn pair_of(core: &Core, message: &Message, other: &Pair, what: String) -> Result<Arc<Partnership>> {
    let wanted = Message {
        station: other.station.clone().unwrap_or_else(|| message.station.clone()),
        partner: other.partner.clone().unwrap_or_else(|| message.partner.clone()),
        ..message.clone()
    };
    core.partnership_of(&wanted).map_err(|lack| {
        // Who has another AS2 id now has the message under the former one.
        let option = match &lack {
            Lack::Station(_) if other.station.is_none() => "--from STATION",
            Lack::Partner(_) if other.partner.is_none() => "--to PARTNER",
            _ => return lack.into(),
        };
        let hint = format!(
            "if it has another AS2 id now: as2gate message resend {} {option}",
            message.id.short()
        );
        Refusal::not_found(what, lack.to_string(), hint)
    })
}

/// Why the partner may get twice what is sent anew, in words; `anew` is what this message was sent anew as before.
#[must_use]
pub fn would_repeat(message: &Message, anew: Option<&String>) -> Option<String> {
    let id = message.id.short();
    match (anew, message.state) {
        (Some(anew), _) => Some(format!("message {id} was sent anew before, as {anew}")),
        (None, State::Delivered) => Some(format!("message {id} was delivered")),
        (None, State::Failed) if message.partner_may_hold_it() => Some(match message.can_be_retried() {
            true => format!("message {id} may have arrived: as2gate message retry {id} posts it under the same Message-ID"),
            false => format!("message {id} may have arrived: ask the partner first"),
        }),
        _ => None,
    }
}

/// Makes a new message of the stored payload; the name window does not count.
///
/// # Errors
/// When the message was received, is still in work, or its payload is gone.
pub async fn resend(core: &Arc<Core>, message: &Message, to: &Pair, dry_run: bool) -> Result<Message> {
    expect_sent(message, "resend")?;
    let what = || format!("cannot resend message {}", message.id);
    if !message.state.is_final() {
        let hint = format!("as2gate message retry {}, or cancel it first", message.id.short());
        return Err(Refusal::failed(
            "in-work",
            what(),
            format!("it is {}, and would arrive twice", message.state),
            hint,
        ));
    }
    expect_not_renamed(message, what)?;
    let pair = pair_of(core, message, to, what())?;
    may_send(&pair.partner, what())?;
    let payload = payload_of(core, message)?;
    if dry_run {
        return Ok(message.clone());
    }
    let storage = Arc::clone(&core.storage);
    let staged = blocking(what(), move || storage.restage(&payload)).await?;
    let now = core.clock.now();
    let anew = anew(message, &pair, &staged, core.host(), now);
    let upload = NewUpload {
        message: anew.clone(),
        window: None,
        due: now,
        inline: staged.blob(),
        replaces: None,
    };
    let accepted = core.journal.write(move |tx| tx.accept_upload(upload, now)).await;
    match accepted.inspect_err(|error| core.let_go_undecided(error, &[staged.key]))? {
        Accepted::Queued => {
            core.wake();
            Ok(anew)
        }
        Accepted::Duplicate { winner, .. } => Err(Refusal::failed("duplicate", what(), format!("{winner} has the name"), "try again")),
    }
}

/// A message that was renamed has no bytes: another goes out with them.
fn expect_not_renamed(message: &Message, what: impl Fn() -> String) -> Result<()> {
    if message.code != "renamed" {
        return Ok(());
    }
    let hint = "look at the message that took over";
    Err(Refusal::failed("final", what(), message.reason.clone(), hint))
}

/// The payload as the tree shows it.
fn payload_of(core: &Core, message: &Message) -> Result<Entry> {
    let entries = core.journal.read(|tx| tx.entries_of(message.id.as_str()))?;
    let shown = |e: &Entry| !e.is_dir && e.noncurrent.is_none() && matches!(e.area, Area::Files | Area::Duplicate);
    match entries.into_iter().find(shown) {
        Some(payload) => Ok(payload),
        None => Err(out_of_reach(core, message, format!("cannot resend message {}", message.id))?),
    }
}

/// The command that brings a message's files back into view.
#[must_use]
pub fn restoring(message: &Message) -> String {
    format!("as2gate lifecycle restore {}", message.id.short())
}

/// Until when the files of a message that have left the view are kept, the first of them to be deleted; `None` if there are none.
///
/// # Errors
/// The journal's, or unreadable figures of the account.
pub fn hidden_until(core: &Core, message: &Message) -> Result<Option<Millis>> {
    let entries = core.journal.read(|tx| tx.entries_of(message.id.as_str()))?;
    let files = entries.iter().filter(|entry| !entry.is_dir);
    let ends = files
        .map(|entry| lifecycle::kept_until(core, entry))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(ends.into_iter().flatten().min())
}

/// Why bytes are not at hand that a message had.
fn out_of_reach(core: &Core, message: &Message, what: String) -> Result<Refusal> {
    Ok(match hidden_until(core, message)? {
        Some(until) => {
            let why = format!("its files are out of view, and kept until {}", day(until / 1000));
            Refusal::not_found(what, why, format!("{} brings them back", restoring(message)))
        }
        None => Refusal::not_found(
            what,
            "its files are not kept any more",
            "send the file itself again, where it came from",
        ),
    })
}

/// A new message of the same file.
fn anew(message: &Message, pair: &Partnership, payload: &Staged, id_host: String, now: Millis) -> Message {
    let detail = Detail {
        user: message.detail.user.clone(),
        files: vec![FileRecord {
            name: message.file.clone(),
            size: message.size,
            sha256: message.sha256.clone(),
            content_type: message.content_type.clone(),
        }],
        id_host,
        payload: payload.key.clone(),
        previous: message.id.as_str().to_owned(),
        ..Detail::default()
    };
    Message {
        file: message.file.clone(),
        size: message.size,
        sha256: message.sha256.clone(),
        content_type: message.content_type.clone(),
        subject: message.subject.clone(),
        detail,
        ..Message::new(
            message.direction,
            State::Queued,
            (&message.account, &pair.station.as2_id, &pair.partner.as2_id),
            now,
        )
    }
}

/// Gives a message in work up: its file goes to `failed`. A received one that is not checked yet is rejected; of one that was, the
/// async MDN is given up that we owe.
///
/// # Errors
/// When it is final, or a try is under way.
pub async fn cancel(core: &Arc<Core>, message: &Message, dry_run: bool) -> Result<Message> {
    let id = message.id.as_str();
    let owes_mdn = core.journal.read(|tx| tx.has_job(JobKind::Mdn, id))?;
    if message.state == State::Received || owes_mdn {
        return cancel_received(core, message, dry_run).await;
    }
    let hint = if message.may_have_arrived() {
        "the partner may have received it"
    } else {
        ""
    };
    give_up(core, message, CANCELLED, hint, dry_run).await
}

async fn cancel_received(core: &Arc<Core>, message: &Message, dry_run: bool) -> Result<Message> {
    if dry_run {
        return Ok(message.clone());
    }
    let cancelled = match message.state {
        State::Received => inbox::reject_unchecked(core, message.clone(), CANCELLED).await,
        _ => receipts::give_up_mdn(core, message.clone(), CANCELLED).await,
    };
    cancelled.map_err(|error| refusal(error, format!("cannot cancel message {}", message.id)))?;
    Ok(core.journal.read(|tx| tx.expect_message(message.id.as_str()))?)
}

/// Gives up a sent message for another reason, with what is to be done next.
///
/// # Errors
/// When it was received, is final, or a try is under way.
pub async fn give_up(core: &Arc<Core>, message: &Message, why: &str, hint: &str, dry_run: bool) -> Result<Message> {
    expect_sent(message, "cancel")?;
    let what = || format!("cannot cancel message {}", message.id);
    if message.state.is_final() {
        let hint = if message.state == State::Delivered {
            "what was delivered cannot be called back".to_owned()
        } else {
            format!("nothing of it goes out any more; see as2gate message show {}", message.id.short())
        };
        let why = format!("it is {}", message.state);
        return Err(Refusal::failed("final", what(), why, hint));
    }
    let now = core.clock.now();
    // What a try left behind that broke off, or that settings hold back since, nobody is posting.
    let is_held = || core.journal.read(|tx| tx.job_is_held(JobKind::Send, message.id.as_str(), now));
    if message.state == State::Sending && is_held()? {
        return Err(being_posted(what()));
    }
    if dry_run {
        return Ok(message.clone());
    }
    let verdict = Verdict::failed("cancelled", why, hint);
    let mut step = crate::outbox::ended(core, message.clone(), verdict, None, &[message.state], now);
    step.event = "message.cancelled";
    // The person has seen the row as it was; a try may have begun and ended since.
    step.seen = Some(message.updated);
    let settled = step.message.clone();
    crate::outbox::settle(core, step, now)
        .await
        .map_err(|error| refusal(error, what()))?;
    Ok(settled)
}

/// Nobody may hide that a try is under way: its answer counts, and after a crash its outcome is unknown.
fn being_posted(what: String) -> Refusal {
    Refusal::failed(
        "in-work",
        what,
        "it is being posted at this moment",
        "try again when `message show` says retrying, waiting-mdn or held",
    )
}

fn expect_sent(message: &Message, verb: &str) -> Result<()> {
    if message.direction == Direction::In {
        let why = "it was received; only sent messages can be moved by hand";
        return Err(Refusal::failed(
            "received",
            format!("cannot {verb} message {}", message.id),
            why,
            "ask the partner to send it again",
        ));
    }
    Ok(())
}

/// What an export wrote.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// The directory.
    pub dir: PathBuf,
    /// Files in it.
    pub files: Vec<String>,
    /// Records that are out of view.
    pub hidden: Vec<String>,
    /// Records whose content has expired.
    pub expired: Vec<String>,
}

/// Writes a message with all its evidence to `dir/<id>/`: `files/…`, `headers.txt`, `message.as2`, `<id>.mdn` and the row
/// as `message.json`; the record says who took it. A dry run only tells what it would write.
///
/// # Errors
/// When the directory is there already, or the disk refuses; the journal's.
pub async fn export(core: &Core, message: &Message, dir: &Path, dry_run: bool) -> Result<Exported> {
    let done = write_out(core, message, dir, dry_run)?;
    if !dry_run {
        let facts = json!({ "files": done.files.len() });
        let told = deed(core, &message.account, "message.exported", message.id.as_str(), facts);
        core.journal.write(told).await?;
    }
    Ok(done)
}

fn write_out(core: &Core, message: &Message, dir: &Path, dry_run: bool) -> Result<Exported> {
    let id = message.id.as_str();
    let done_dir = dir.join(id);
    let mut done = Exported {
        dir: done_dir.clone(),
        ..Exported::default()
    };
    if done_dir.exists() {
        return Err(Refusal::exists(
            format!("cannot export message {id}"),
            format!("{} exists already", done_dir.display()),
            "choose another directory with --out",
        ));
    }
    let io = |error: &std::io::Error| Refusal::from_io(format!("cannot export message {id}"), error);
    let put = |content: &Content, name: &str| {
        if dry_run {
            return Ok(());
        }
        write(content, &done_dir.join(name)).map_err(|error| io(&error))
    };
    if !dry_run {
        std::fs::create_dir_all(done_dir.join("files")).map_err(|error| io(&error))?;
    }
    let entries = core.journal.read(|tx| tx.entries_of(id))?;
    let files: Vec<&Entry> = entries.iter().filter(|entry| !entry.is_dir).collect();
    for entry in &files {
        let name = match entry.area {
            Area::Files | Area::Duplicate => format!("files/{}", entry.name),
            Area::Headers | Area::RawMessage | Area::RawMdn => entry.name.clone(),
        };
        match core.storage.open_entry(entry) {
            Ok(content) => put(&content, &name)?,
            Err(StorageError::Missing(_)) => {
                match entry.noncurrent {
                    Some(_) => done.hidden.push(name),
                    None => done.expired.push(name),
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        done.files.push(name);
    }
    // A message in work has its contents in the store only.
    let staged = [
        (format!("files/{}", message.file), &message.detail.payload),
        (layout::RAW_FILE.to_owned(), &message.detail.raw),
    ];
    for (name, key) in staged
        .iter()
        .filter(|(name, key)| !key.is_empty() && !done.files.contains(name))
        .collect::<Vec<_>>()
    {
        if let Ok(content) = core.storage.open_staged(key) {
            put(&content, name)?;
            done.files.push(name.clone());
        }
    }
    let row = serde_json::to_string_pretty(message).unwrap_or_default();
    if !dry_run {
        std::fs::write(done_dir.join("message.json"), row).map_err(|error| io(&error))?;
    }
    done.files.push("message.json".to_owned());
    Ok(done)
}

fn write(content: &Content, path: &Path) -> std::io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut buffer = vec![0u8; PIECE];
    let mut at = 0u64;
    loop {
        let n = content.read_at(at, &mut buffer).map_err(std::io::Error::other)?;
        if n == 0 {
            return file.flush();
        }
        file.write_all(buffer.get(..n).unwrap_or_default())?;
        at += u64::try_from(n).unwrap_or(u64::MAX);
    }
}

/// Waits until a message is final or held, or the time is over; the message as it is then.
///
/// # Errors
/// The journal's.
pub async fn wait_until_final(core: &Arc<Core>, id: &str, timeout: Option<Duration>) -> Result<Message> {
    let began = Instant::now();
    loop {
        let message = core.journal.read(|tx| tx.expect_message(id))?;
        let late = timeout.is_some_and(|limit| began.elapsed() >= limit);
        if late || message.state.is_final() || message.state == State::Held {
            return Ok(message);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What the MDN of a delivered message says to our MIC.
#[must_use]
pub fn mic_remark(message: &Message) -> Option<&'static str> {
    let detail = &message.detail;
    let has_mdn = message.direction == Direction::Out && message.state == State::Delivered && !detail.mdn_disposition.is_empty();
    let has = |mark: &str| detail.marks.iter().any(|known| known == mark);
    has_mdn.then(|| {
        if has(NO_MIC) {
            "no MIC in the MDN"
        } else if has(RECEIPT_LOST) {
            "the first MDN was lost, and this one has not our MIC"
        } else {
            MIC_AGREES
        }
    })
}

/// What [`mic_remark`] says of an MDN with our MIC.
const MIC_AGREES: &str = "the MDN agrees";

/// The same for `partner test`: a part of the line about its MDN.
#[must_use]
pub fn mic_words(message: &Message) -> String {
    let digest = message.detail.mic.rsplit_once(',').map(|(_, name)| name.trim());
    match (mic_remark(message), digest) {
        (Some(MIC_AGREES), Some(digest)) => format!(", MIC {digest} agrees"),
        (Some(MIC_AGREES), None) | (None, _) => String::new(),
        (Some(remark), _) => format!(", {remark}"),
    }
}
