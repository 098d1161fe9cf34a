//! Following messages: their events, as they happen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{object, verdict};
use crate::cli::error::{DONE, FAILED};
use crate::cli::output::{Format, local, out, plain};
use crate::cli::{Ctx, Outcome};
use crate::clock::{Millis, rfc3339};
use crate::event::Event;
use crate::gateway::{Core, is_served};
use crate::manage::Result;
use crate::message::{Message, State};

/// How often a follower looks.
const LOOK: Duration = Duration::from_millis(100);
/// A clock that was set back by less hides no event: 1 h in milliseconds.
const CLOCK_STEP: i64 = 3_600_000;
/// Work that is due later than this does not keep `--until-idle` waiting.
const SOON: Millis = 5_000;

/// Until it has come to an end, or the time is over.
pub(super) async fn follow_one(ctx: &Ctx, core: &Arc<Core>, message: &Message, timeout: Option<Duration>) -> Outcome {
    note_if_idle(ctx, core);
    let began = Instant::now();
    let mut cursor = core.journal.read(|tx| tx.events_before(message.created - CLOCK_STEP))?;
    let mut shown = false;
    loop {
        let id = message.id.as_str();
        let events = core.journal.read(|tx| tx.events(cursor, Some(id), Some("message."), 500))?;
        cursor = events.last().map_or(cursor, |event| event.seq);
        shown |= !events.is_empty();
        print_events(ctx, core, &events);
        let current = core.journal.read(|tx| tx.expect_message(id))?;
        if current.state.is_final() || current.state == State::Held {
            if !shown && !ctx.printer.quiet {
                print_state(ctx, &current, core.clock.now());
            }
            return Ok(verdict(&current));
        }
        if timeout.is_some_and(|limit| began.elapsed() >= limit) {
            return Ok(FAILED);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Until somebody ends it, the time is over, or nothing is left to do.
pub(super) async fn follow_all(ctx: &Ctx, core: &Arc<Core>, until_idle: bool, timeout: Option<Duration>) -> Outcome {
    note_if_idle(ctx, core);
    let began = Instant::now();
    let mut cursor = core.journal.read(|tx| tx.events_before(Millis::MAX))?;
    loop {
        // Asked before the events are read: what makes it idle is among them.
        let idle = until_idle && is_idle(core)?;
        let events = core.journal.read(|tx| tx.events(cursor, None, Some("message."), 500))?;
        cursor = events.last().map_or(cursor, |event| event.seq);
        let ours: Vec<_> = events.into_iter().filter(|event| ctx.lists(&event.account)).collect();
        print_events(ctx, core, &ours);
        if idle {
            return Ok(DONE);
        }
        if timeout.is_some_and(|limit| began.elapsed() >= limit) {
            return Ok(FAILED);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Without a server nothing moves: better said than waited for.
fn note_if_idle(ctx: &Ctx, core: &Core) {
    if !is_served(&core.config) {
        ctx.printer.note("note: no server is running here; as2gate serve");
    }
}

/// Nothing is in work, and nothing is due within the next seconds.
fn is_idle(core: &Core) -> Result<bool> {
    let states = core.journal.read(|tx| tx.count_states(Millis::MAX))?;
    if states
        .iter()
        .any(|(state, count)| *count > 0 && !state.is_final() && *state != State::Held)
    {
        return Ok(false);
    }
    let (jobs, oldest) = core.journal.read(|tx| tx.queue())?;
    Ok(jobs == 0 || oldest.is_none_or(|due| due > core.clock.now() + SOON))
}

fn print_events(ctx: &Ctx, core: &Core, events: &[Event]) {
    if ctx.printer.quiet {
        return;
    }
    for event in events {
        let word = |name: &str| event.facts[name].as_str().unwrap_or_default().to_owned();
        if ctx.printer.format == Format::Json {
            let mut line = json!({ "time": rfc3339(event.at), "event": event.kind, "id": event.subject, "account": event.account });
            if let (Some(line), Some(facts)) = (line.as_object_mut(), event.facts.as_object()) {
                line.extend(facts.clone());
            }
            out(&line.to_string());
            continue;
        }
        let digits = event.subject.rsplit('-').next().unwrap_or_default();
        let code = if word("code").is_empty() {
            String::new()
        } else {
            format!("  {}", word("code"))
        };
        let line = format!(
            "{}  {digits}  {:<3}  {}  {}  {}  {}{code}",
            local(event.at, core.clock.now()),
            word("direction"),
            word("station"),
            word("partner"),
            word("file"),
            event.kind.trim_start_matches("message.")
        );
        out(&plain(&line));
    }
}

fn print_state(ctx: &Ctx, message: &Message, now: Millis) {
    if ctx.printer.format == Format::Json {
        out(&object(message).to_string());
    } else {
        out(&plain(&format!(
            "{}  {}  {}",
            local(message.updated, now),
            message.id.short(),
            message.state
        )));
    }
}
