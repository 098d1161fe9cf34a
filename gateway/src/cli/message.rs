//! `message`: what was sent and received.

mod follow;
mod moves;

use std::path::{Path, PathBuf};
use std::time::Duration;

use as2_core::for_people;
use as2_core::headers::Headers;
use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::error::{DONE, FAILED, PARTLY, REMOTE};
use super::output::{Cell, List, ROWS, facts, grouped, local};
use super::{Ctx, Outcome};
use crate::clock::{Millis, millis, rfc3339};
use crate::config::parse_duration;
use crate::gateway::Core;
use crate::journal::{Entry, MessageFilter};
use crate::layout::{Area, send_dir};
use crate::manage::Result;
use crate::manage::certificates::day;
use crate::manage::messages::{self, Pair};
use crate::message::{Attempt, Direction, Message, State};
use crate::partner::MdnMode;
use follow::{follow_all, follow_one};
use moves::{Move, each};

/// Most rows of one list.
const MAX_LIMIT: u32 = 100_000;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  as2gate message list
  as2gate message list --state failed --since 24h
  as2gate message show 048291637
  as2gate message retry 048291637")]
pub(crate) enum Verb {
    /// List messages, newest first.
    #[command(after_help = "Examples:
  as2gate message list
  as2gate message list --state retrying
  as2gate message list --partner BIGMART --direction in --since 7d -o json
  as2gate message list --file 'order-10*.edi'

States of what is sent:
  queued       waits for its release, a free place or a setting; goes out by itself
  sending      is being posted
  waiting-mdn  was posted, its async MDN is due
  retrying     a try failed, the next one has its time
  held         the partner may have it and does not detect duplicates: `retry` or `cancel`
  delivered    the receipt says so (or none was asked for)
  failed       given up, with a reason: `resend` makes a new message; `retry` posts the same bytes, unless the outcome
               is final, as what the partner's MDN refused or an operator cancelled
  duplicate    its name was used within six hours, nothing was sent: `resend`, or another name

States of what is received:
  received     on disk, not checked yet
  filed        checked, in the inbox
  rejected     refused, and the partner was told why
  quarantined  a known Message-ID with other content: kept aside, look at it")]
    List {
        /// Only in this state (see below).
        #[arg(long, value_name = "STATE")]
        state: Option<State>,
        /// Only in or out.
        #[arg(long, value_name = "in|out")]
        direction: Option<Direction>,
        /// Only of this station.
        #[arg(long, value_name = "ID")]
        station: Option<String>,
        /// Only of this partner.
        #[arg(long, value_name = "ID")]
        partner: Option<String>,
        /// Only of this file name; * stands for anything.
        #[arg(long, value_name = "NAME")]
        file: Option<String>,
        /// Only of this Message-ID.
        #[arg(long, value_name = "ID")]
        message_id: Option<String>,
        /// Only of the last time, e.g. 24h or 7d.
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        since: Option<Duration>,
        /// Only older than this message: the next page.
        #[arg(long, value_name = "ID")]
        before: Option<String>,
        /// At most so many [default: 100].
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LIMIT)))]
        limit: Option<u32>,
    },
    /// Show everything about a message.
    #[command(after_help = "Examples:
  as2gate message show 048291637
  as2gate message show 20261122T150342118Z-048291637 -o json")]
    Show {
        /// Its id, the id's nine digits, or the Message-ID.
        id: String,
    },
    /// Print each step as it happens.
    #[command(after_help = "Examples:
  as2gate message follow
  as2gate message follow 048291637        until it is final
  as2gate -q message follow --until-idle  returns when nothing is left to do")]
    Follow {
        /// Only this message, until it is final.
        id: Option<String>,
        /// Return when nothing is left to do.
        #[arg(long, conflicts_with = "id")]
        until_idle: bool,
        /// Return with 1 after this time.
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        timeout: Option<Duration>,
    },
    /// Post the same bytes again now, under the same Message-ID; of a received message, its async MDN.
    #[command(after_help = "Examples:
  as2gate message retry 048291637
  as2gate message retry --state held
  as2gate message retry --state failed --partner BIGMART")]
    Retry(Which),
    /// Send the stored file as a new message; the 6-hour rule does not count.
    #[command(after_help = "Examples:
  as2gate message resend 048291637
  as2gate message resend --state failed --dry-run
  as2gate message resend --state failed --partner BIGMART --since 12h
  as2gate message resend 048291637 --to BIGMART       it was sent to a wrong AS2 id")]
    Resend {
        #[command(flatten)]
        which: Which,
        /// From this station, if not as before.
        #[arg(long, value_name = "STATION")]
        from: Option<String>,
        /// To this partner, if not as before.
        #[arg(long, value_name = "PARTNER")]
        to: Option<String>,
    },
    /// Give up a message in work: its file goes to failed. A received one that is not checked yet is rejected; of one that was, the
    /// async MDN is given up that we owe.
    #[command(after_help = "Examples:
  as2gate message cancel 048291637")]
    Cancel(Which),
    /// Write a message with all its evidence to a directory.
    #[command(after_help = "Examples:
  as2gate message export 048291637
  as2gate message export 048291637 --out evidence")]
    Export {
        /// Its id, the id's nine digits, or the Message-ID.
        id: String,
        /// A directory of the message's id is made here.
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
    },
}

/// Which messages to move.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Ids, their nine digits, or Message-IDs.
    #[arg(required_unless_present = "state", conflicts_with = "state")]
    ids: Vec<String>,
    /// All sent messages in this state, the oldest first; `retry` and `resend` leave out those of `partner test` and those
    /// that were sent anew before, `resend` also failed ones that the partner may have.
    #[arg(long, value_name = "STATE")]
    state: Option<State>,
    /// Of these, only those to this partner.
    #[arg(long, value_name = "ID", requires = "state")]
    partner: Option<String>,
    /// Of these, only those from the last so long, like 24h.
    #[arg(long, value_name = "TIME", requires = "state", value_parser = crate::config::parse_duration)]
    since: Option<Duration>,
}

pub(crate) async fn run(ctx: &Ctx, verb: Verb) -> Outcome {
    let core = ctx.core()?;
    match verb {
        Verb::List {
            state,
            direction,
            station,
            partner,
            file,
            message_id,
            since,
            before,
            limit,
        } => {
            let before = before.map(|id| messages::choose(&core, ctx.account(), &id)).transpose()?;
            let filter = MessageFilter {
                account: ctx.account().map(str::to_owned),
                direction,
                state,
                station,
                partner,
                file,
                message_id,
                since: since.map(|span| core.clock.now() - millis(span)),
                before: before.map(|message| message.id.to_string()),
                limit: limit.unwrap_or(ROWS + 1),
            };
            let mut found = core.journal.read(|tx| tx.messages(&filter))?;
            let is_cut = limit.is_none() && found.len() > ROWS as usize;
            if is_cut {
                found.truncate(ROWS as usize);
            }
            if found.is_empty() {
                messages::expect_names(&core, ctx.account(), filter.station.as_deref(), filter.partner.as_deref())?;
            }
            ctx.printer.list(&table(&found, state, core.clock.now()));
            if is_cut {
                ctx.printer.note_more();
            }
        }
        Verb::Show { id } => {
            let message = messages::choose(&core, ctx.account(), &id)?;
            let hidden = messages::hidden_until(&core, &message)?;
            let front = front(&core, &message)?;
            let mut object = object_behind(&message, front.as_ref());
            if let Some(until) = hidden {
                object["out_of_view_until"] = json!(rfc3339(until));
            }
            ctx.printer.show(&object, &shown(&core, &message, front.as_ref(), hidden)?);
        }
        Verb::Follow { id: Some(id), timeout, .. } => {
            let message = messages::choose(&core, ctx.account(), &id)?;
            return follow_one(ctx, &core, &message, timeout).await;
        }
        Verb::Follow {
            id: None,
            until_idle,
            timeout,
        } => return follow_all(ctx, &core, until_idle, timeout).await,
        Verb::Retry(which) => return each(ctx, &core, which, Move::Retry).await,
        Verb::Resend { which, from, to } => {
            let to = Pair {
                station: from,
                partner: to,
            };
            return each(ctx, &core, which, Move::Resend(to)).await;
        }
        Verb::Cancel(which) => return each(ctx, &core, which, Move::Cancel).await,
        Verb::Export { id, out } => return export(ctx, &core, &id, &out).await,
    }
    Ok(DONE)
}

async fn export(ctx: &Ctx, core: &Core, id: &str, dir: &Path) -> Outcome {
    let message = messages::choose(core, ctx.account(), id)?;
    let done = messages::export(core, &message, dir, ctx.dry_run()).await?;
    let mut text = format!("{}\n", ctx.wrote(&done.dir));
    done.files.iter().for_each(|file| text.push_str(&format!("      {file}\n")));
    let until = messages::hidden_until(core, &message)?.map(|until| out_of_view(&message, until));
    done.hidden
        .iter()
        .for_each(|file| text.push_str(&format!("      {file}: {}\n", until.as_deref().unwrap_or("out of view"))));
    done.expired
        .iter()
        .for_each(|file| text.push_str(&format!("      {file}: not kept any more, or deleted\n")));
    let object = json!({
        "id": message.id, "dir": done.dir, "files": done.files, "out_of_view": done.hidden, "expired": done.expired,
        "written": !ctx.dry_run(),
    });
    ctx.printer.done(&object, &text);
    Ok(if done.expired.is_empty() && done.hidden.is_empty() {
        DONE
    } else {
        PARTLY
    })
}

/// What is said of files that can be brought back.
fn out_of_view(message: &Message, until: Millis) -> String {
    format!("out of view until {}: {}", day(until / 1000), messages::restoring(message))
}

/// The receipt in one word, with another where people have to do something.
fn receipt(message: &Message) -> Cell {
    let word = message.receipt_word();
    if message.undelivered_mdn().is_some() {
        return Cell::short(format!("{word}, not delivered"), word);
    }
    Cell::text(word)
}

/// The first words of the reason: the list has other columns as well.
fn in_short(reason: &str) -> Cell {
    /// Characters.
    const MOST: usize = 48;
    if reason.is_empty() {
        return Cell::text("");
    }
    let whole = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut: String = whole.chars().take(MOST).collect();
    let shown = match cut.rsplit_once(' ') {
        _ if cut == whole => whole,
        Some((words, _)) => format!("{words}…"),
        None => format!("{cut}…"),
    };
    Cell::short(shown, reason)
}

/// A message as programs see it: one object, times in RFC 3339.
pub(crate) fn object(message: &Message) -> Value {
    let mut fields = Map::new();
    let detail = serde_json::to_value(&message.detail).unwrap_or_default();
    if let Value::Object(detail) = detail {
        // Keys of the store are of no use to anybody else.
        fields.extend(detail.into_iter().filter(|(name, _)| !matches!(name.as_str(), "payload" | "raw")));
    }
    if let Ok(Value::Object(mut row)) = serde_json::to_value(message) {
        row.remove("detail");
        fields.extend(row);
    }
    for name in ["created", "updated", "finished", "next_try", "mdn_at", "mdn_due", "mdn_asked_again"] {
        if let Some(at) = fields.get(name).and_then(Value::as_i64) {
            fields.insert(name.to_owned(), json!(rfc3339(at)));
        }
    }
    if let Some(retried) = &message.detail.retried {
        fields["retried"]["at"] = json!(rfc3339(retried.at));
    }
    for attempt in fields.get_mut("tries").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(at) = attempt["at"].as_i64() {
            attempt["at"] = json!(rfc3339(at));
        }
    }
    fields.insert("mdn".to_owned(), json!(message.receipt_word()));
    fields.insert("subject".to_owned(), json!(subject(message)));
    let hint = hint(message);
    if !hint.is_empty() {
        fields.insert("hint".to_owned(), json!(hint));
    }
    Value::Object(fields)
}

/// The same with the message that it waits for.
fn object_behind(message: &Message, front: Option<&Message>) -> Value {
    let mut object = object(message);
    if let Some(front) = front {
        object["behind"] = json!(front.id);
    }
    object
}

/// The list's columns depend on what was asked for only in what people see.
fn table(found: &[Message], state: Option<State>, now: Millis) -> List {
    let waiting = state.is_some_and(|state| State::WORKED_ON.contains(&state));
    let reasons = waiting || matches!(state, Some(State::Failed | State::Held | State::Rejected | State::Quarantined));
    let any = found.iter().any(|message| !message.reason.is_empty());
    let only = |shown: bool, head: &'static str| if shown { head } else { "" };
    let columns = [
        ("id", "ID"),
        ("created", "TIME"),
        ("direction", "DIR"),
        ("station", "STATION"),
        ("partner", "PARTNER"),
        ("file", "FILE"),
        ("size", "SIZE"),
        ("state", "STATE"),
        ("mdn", only(!reasons, "MDN")),
        ("attempts", only(waiting, "TRIES")),
        ("next_try", only(waiting, "NEXT")),
        ("reason", only(reasons || any, "REASON")),
        ("code", ""),
        ("message_id", ""),
        ("account", ""),
        ("updated", ""),
        ("finished", ""),
        ("content_type", ""),
        ("subject", ""),
        ("sha256", ""),
        ("previous", ""),
        ("marks", ""),
    ];
    let mut list = List::new(&columns, "no messages");
    for message in found {
        list.push(vec![
            Cell::short(message.id.short(), message.id.as_str()),
            Cell::time(Some(message.created), now),
            Cell::text(message.direction.to_string()),
            Cell::text(&message.station),
            Cell::text(&message.partner),
            Cell::text(&message.file),
            Cell::size(message.size),
            Cell::text(message.state.to_string()),
            receipt(message),
            Cell::number(u64::from(message.attempts)),
            Cell::time(message.next_try, now),
            if reasons {
                Cell::text(&message.reason)
            } else {
                in_short(&message.reason)
            },
            Cell::text(&message.code),
            Cell::text(&message.message_id),
            Cell::text(&message.account),
            Cell::time(Some(message.updated), now),
            Cell::time(message.finished, now),
            Cell::text(&message.content_type),
            Cell::text(subject(message)),
            Cell::text(&message.sha256),
            Cell::text(&message.detail.previous),
            Cell::text(message.detail.marks.join(", ")),
        ]);
    }
    list
}

/// The message that a sent one in work waits for.
fn front(core: &Core, message: &Message) -> Result<Option<Message>> {
    match State::WORKED_ON.contains(&message.state) {
        true => messages::in_front_of(core, message),
        false => Ok(None),
    }
}

/// When a message goes out that waits for another one.
fn after(front: &Message) -> String {
    format!(
        "after message {}, which is {}; {} gets one after the other",
        front.id.short(),
        front.state,
        front.partner
    )
}

fn shown(core: &Core, message: &Message, front: Option<&Message>, hidden: Option<Millis>) -> Result<String> {
    let detail = &message.detail;
    let now = core.clock.now();
    let (from, to) = match message.direction {
        Direction::Out => (&message.station, &message.partner),
        Direction::In => (&message.partner, &message.station),
    };
    let next = message.next_try.filter(|_| !message.state.is_final());
    let next = front.map(after).or(next.map(|at| local(at, now)));
    let mut places = places(core, message)?;
    places.extend(hidden.map(|until| out_of_view(message, until)));
    Ok(facts(&[
        ("Message", format!("{}   {}   {}", message.id, message.direction, message.state)),
        ("AS2", format!("{from} → {to}   {}", message.message_id)),
        ("Subject", subject(message)),
        ("File", files(message)),
        ("Security", security(message)),
        ("MIC", mic(message)),
        ("MDN", mdn(message, now)),
        ("MDN says", detail.mdn_text.trim().to_owned()),
        ("Attempts", attempts(message, now)),
        ("Next try", next.unwrap_or_default()),
        ("Error", message.code.clone()),
        ("Why", message.reason.clone()),
        ("Hint", hint(message)),
        ("Marks", detail.marks.join(", ")),
        ("Previous", detail.previous.clone()),
        ("Resent", sent_anew_as(core, message)?),
        ("User", if message.is_resent() { String::new() } else { detail.user.clone() }),
        ("Where", places.join("\n")),
    ]))
}

/// The message that took this one's place.
fn sent_anew_as(core: &Core, message: &Message) -> Result<String> {
    let is_over = message.direction == Direction::Out && matches!(message.state, State::Failed | State::Duplicate);
    if !is_over {
        return Ok(String::new());
    }
    let mut anew = core.journal.read(|tx| tx.sent_anew_since(message.id.as_str()))?;
    Ok(anew.remove(message.id.as_str()).unwrap_or_default())
}

/// As the partner reads it, once a sent message is packed; the row keeps what it was made of.
fn subject(message: &Message) -> String {
    let head = (message.direction == Direction::Out)
        .then(|| Headers::parse(&message.detail.head()).ok())
        .flatten();
    match head.as_ref().and_then(|head| head.get("Subject")) {
        Some(packed) => for_people(packed).chars().filter(|c| !c.is_control()).collect(),
        None => message.subject.clone(),
    }
}

/// What to do next.
fn hint(message: &Message) -> String {
    let own = Some(message.detail.hint.clone()).filter(|hint| !hint.is_empty());
    let owed = message.undelivered_mdn().is_some().then(|| {
        format!(
            "once it can be delivered, `as2gate message retry {}` posts the MDN again",
            message.id.short()
        )
    });
    own.into_iter().chain(owed).collect::<Vec<_>>().join("; ")
}

fn files(message: &Message) -> String {
    let line = |name: &str, kind: &str, bytes: u64| format!("{name}   {kind}   {} bytes", grouped(bytes));
    match message.detail.files.as_slice() {
        // Nobody has seen what is in it.
        [] if message.direction == Direction::In => format!("not opened   {} bytes as they came", grouped(message.detail.raw_size)),
        [] | [_] => line(&message.file, &message.content_type, message.size),
        many => {
            let lines: Vec<String> = many.iter().map(|f| line(&f.name, &f.content_type, f.size)).collect();
            lines.join("\n")
        }
    }
}

fn security(message: &Message) -> String {
    let detail = &message.detail;
    // Compression has a word as soon as a message was packaged or opened.
    match message.direction {
        Direction::In if detail.compressed.is_empty() => return "unknown".to_owned(),
        Direction::Out if detail.compressed.is_empty() => return "not packaged".to_owned(),
        _ => {}
    }
    let word = |text: &str, yes: &str, no: &str| {
        if matches!(text, "" | "none") {
            no.to_owned()
        } else {
            format!("{yes} {text}")
        }
    };
    format!(
        "{}   {}   {}",
        word(&detail.signed, "signed", "not signed"),
        word(&detail.encrypted, "encrypted", "not encrypted"),
        word(&detail.compressed, "compressed", "not compressed")
    )
}

fn mic(message: &Message) -> String {
    let detail = &message.detail;
    let Some((value, digest)) = detail.mic.rsplit_once(',') else {
        return detail.mic.clone();
    };
    let remark = messages::mic_remark(message)
        .map(|remark| format!("   ({remark})"))
        .unwrap_or_default();
    format!("{}  {}{remark}", value.trim(), digest.trim())
}

fn mdn(message: &Message, now: Millis) -> String {
    let detail = &message.detail;
    let mode = if detail.mdn_mode.is_some_and(MdnMode::is_async) {
        "async"
    } else {
        "sync"
    };
    let is_over = message.direction == Direction::Out && message.state.is_final();
    match (detail.mdn_mode, detail.mdn_at) {
        // What is asked for is settled when the message is packed.
        (None, None) if is_over => "none, as nothing was sent".to_owned(),
        (None, None) if message.direction == Direction::Out => "not yet".to_owned(),
        (Some(MdnMode::None) | None, None) => "none asked for".to_owned(),
        (_, None) if is_over => format!("{mode}, none came"),
        (_, None) => match detail.mdn_due {
            Some(due) => format!("{mode}, due {}", local(due, now)),
            None if message.undelivered_mdn().is_some() => format!("{mode}, not delivered"),
            None => format!("{mode}, not yet"),
        },
        (_, Some(at)) => {
            let posted = detail.tries.last();
            let posted = posted.map(|try_| format!("   {:.2} s after posting", seconds(at - try_.at)));
            format!(
                "{mode}, {}, {}   {}{}",
                detail.mdn_signature,
                message.receipt_word(),
                local(at, now),
                posted.unwrap_or_default()
            )
        }
    }
}

fn attempts(message: &Message, now: Millis) -> String {
    match message.detail.tries.as_slice() {
        [] if message.direction == Direction::In => String::new(),
        [] => "0".to_owned(),
        [one] => format!("1   {}", one.outcome),
        many => {
            let line = |t: &Attempt| format!("{}  {}  {}  {:.2} s", t.n, local(t.at, now), t.outcome, seconds(t.took));
            let lines: Vec<String> = many.iter().map(line).collect();
            format!("{}\n{}", message.attempts, lines.join("\n"))
        }
    }
}

fn seconds(ms: Millis) -> f64 {
    Duration::from_millis(ms.max(0).unsigned_abs()).as_secs_f64()
}

/// Where the message's records lie, as SFTP shows it and `lifecycle restore` takes it, the payload first; of one in work, where its
/// file is seen.
fn places(core: &Core, message: &Message) -> Result<Vec<String>> {
    if message.state.is_in_work() {
        let dir = send_dir(&message.station, &message.partner);
        return Ok(vec![format!("{dir}/{}", message.file)]);
    }
    let rank = |entry: &Entry| match entry.area {
        Area::Files | Area::Duplicate => 0,
        Area::RawMessage => 1,
        Area::Headers => 2,
        Area::RawMdn => 3,
    };
    let mut entries = core.journal.read(|tx| tx.entries_of(message.id.as_str()))?;
    entries.retain(|entry| !entry.is_dir && entry.noncurrent.is_none());
    entries.sort_by_key(rank);
    Ok(entries.iter().map(|entry| format!("{}/{}", entry.parent, entry.name)).collect())
}

/// The exit code that a message's end stands for.
pub(crate) fn verdict(message: &Message) -> u8 {
    match message.state {
        State::Delivered | State::Filed => DONE,
        State::Failed | State::Held => REMOTE,
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mdn_is_awaited_where_none_is_to_come() {
        let shown = |direction, state, mode| {
            let mut message = Message::new(direction, state, ("a", "s", "p"), 0);
            message.detail.mdn_mode = mode;
            mdn(&message, 0)
        };
        let (sync, later) = (Some(MdnMode::SyncSigned), Some(MdnMode::AsyncSigned));
        for (direction, state, mode, words) in [
            (Direction::Out, State::Queued, None, "not yet"),
            (Direction::Out, State::Retrying, sync, "sync, not yet"),
            (Direction::Out, State::Held, later, "async, not yet"),
            (Direction::Out, State::Failed, sync, "sync, none came"),
            (Direction::Out, State::Failed, Some(MdnMode::None), "none asked for"),
            (Direction::Out, State::Duplicate, None, "none, as nothing was sent"),
            (Direction::In, State::Filed, later, "async, not yet"),
        ] {
            assert_eq!(shown(direction, state, mode), words, "{direction} {state}");
        }
    }

    #[test]
    fn a_mic_agrees_only_with_one_in_the_mdn() {
        let with = |mark: &str| {
            let mut message = Message::new(Direction::Out, State::Delivered, ("a", "s", "p"), 0);
            message.detail.mic = "x, sha-256".to_owned();
            message.detail.mdn_disposition = "processed".to_owned();
            message.detail.marks.push(mark.to_owned());
            (mic(&message), messages::mic_words(&message))
        };
        let (shown, told) = with("late");
        assert!(
            shown.ends_with("(the MDN agrees)") && told == ", MIC sha-256 agrees",
            "{shown}{told}"
        );
        for (mark, remark) in [("no MIC", "no MIC in the MDN"), ("receipt lost", "the first MDN was lost")] {
            let (shown, told) = with(mark);
            assert!(shown.contains(remark) && told.contains(remark), "{shown}{told}");
            assert!(!shown.contains("agrees") && !told.contains("agrees"), "{shown}{told}");
        }
    }
}
