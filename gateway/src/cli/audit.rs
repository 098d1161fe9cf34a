//! `audit`: what was decided, done and changed, and whether anybody rewrote it.

use std::collections::VecDeque;
use std::time::Duration;

use as2_core::hex;
use clap::Subcommand;
use serde_json::json;

use super::error::DONE;
use super::output::{Cell, List, ROWS};
use super::{Ctx, Outcome};
use crate::clock::{millis, rfc3339};
use crate::config::parse_duration;
use crate::event::Event;
use crate::gateway::Core;
use crate::manage::{Refusal, Result};

/// Events read at once.
const PAGE: u32 = 1_000;
/// Most events that are shown, and so held in memory.
const MAX_SHOWN: usize = 100_000;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  as2gate audit list --since 24h
  as2gate audit verify")]
pub(crate) enum Verb {
    /// List events, the newest last: of messages, uploads, logins, and of changes to partners, users and the other objects.
    #[command(after_help = "Examples:
  as2gate audit list
  as2gate audit list --kind partner.
  as2gate audit list --kind message.failed --since 7d -o json
  as2gate audit list --subject 20261122T150342118Z-048291637")]
    List {
        /// Only kinds that begin so, e.g. `message.` or `user.login_failed`.
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
        /// Only of this message id, user or object.
        #[arg(long, value_name = "NAME")]
        subject: Option<String>,
        /// Only of the last time, e.g. 24h or 7d.
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        since: Option<Duration>,
        /// The last so many [default: 100].
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Check that no event was changed, put in or taken out since it was written.
    #[command(after_help = "Examples:
  as2gate audit verify
  as2gate audit verify --head b0d56af63d92df084d6298b8a2f193310bc72236af924a03443a709b358ec043

Each event carries a hash over itself and the one before. Whoever rewrites all of them from some point on changes the last
one, which the server logs once a day: a hash that was noted there, or here, has to stand in the chain still.")]
    Verify {
        /// A hash that has to stand in the chain.
        #[arg(long, value_name = "HASH", value_parser = parse_hash)]
        head: Option<String>,
    },
}

pub(crate) fn run(ctx: &Ctx, verb: Verb) -> Outcome {
    let core = ctx.core()?;
    match verb {
        Verb::List {
            kind,
            subject,
            since,
            limit,
        } => {
            let after = match since {
                Some(span) => core.journal.read(|tx| tx.events_before(core.clock.now() - millis(span)))?,
                None => 0,
            };
            let newest = Newest::of(ctx, &core, after, (subject.as_deref(), kind.as_deref()), limit)?;
            list(ctx, &core, &newest.events);
            newest.note(ctx);
        }
        Verb::Verify { head } => verify(ctx, &core, head.as_deref())?,
    }
    Ok(DONE)
}

/// What a list of events shows, oldest first.
pub(super) struct Newest {
    pub(super) events: VecDeque<Event>,
    /// There are more, and nobody has said how many are wanted.
    is_cut: bool,
}

impl Newest {
    pub(super) fn of(
        ctx: &Ctx,
        core: &Core,
        after: i64,
        (subject, kind): (Option<&str>, Option<&str>),
        limit: Option<usize>,
    ) -> Result<Self> {
        let most = limit.unwrap_or(ROWS as usize + 1);
        let mut events = last_events(ctx, core, after, subject, kind, most)?;
        let is_cut = limit.is_none() && events.len() == most;
        if is_cut {
            events.pop_front();
        }
        Ok(Newest { events, is_cut })
    }

    pub(super) fn note(&self, ctx: &Ctx) {
        if self.is_cut {
            ctx.printer.note_more();
        }
    }
}

/// The last events of the accounts in question, oldest first; at most 100,000.
pub(super) fn last_events(
    ctx: &Ctx,
    core: &Core,
    mut after: i64,
    subject: Option<&str>,
    kind: Option<&str>,
    limit: usize,
) -> Result<VecDeque<Event>> {
    let mut last = VecDeque::new();
    loop {
        let page = core.journal.read(|tx| tx.events(after, subject, kind, PAGE))?;
        let Some(end) = page.last() else { return Ok(last) };
        after = end.seq;
        last.extend(page.into_iter().filter(|event| ctx.lists(&event.account)));
        while last.len() > limit.min(MAX_SHOWN) {
            last.pop_front();
        }
    }
}

/// What else is known of an event, as `name=value …`.
pub(super) fn facts_cell(event: &Event) -> Cell {
    let shown = event.facts.as_object().map(|facts| {
        let pairs = facts.iter().map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join(" ")
    });
    Cell::short(shown.unwrap_or_default(), event.facts.clone())
}

/// SHA-256 in hex.
fn parse_hash(text: &str) -> std::result::Result<String, String> {
    if text.len() == 64 && text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("64 hexadecimal digits, as `audit verify` prints them".to_owned())
    }
}

fn list(ctx: &Ctx, core: &Core, events: &VecDeque<Event>) {
    let columns = [
        ("seq", "NO"),
        ("time", "TIME"),
        ("account", "ACCOUNT"),
        ("kind", "EVENT"),
        ("subject", "OF"),
        ("facts", "FACTS"),
    ];
    let mut list = List::new(&columns, "nothing happened");
    for event in events {
        list.push(vec![
            Cell::number(event.seq.unsigned_abs()),
            Cell::time(Some(event.at), core.clock.now()),
            Cell::text(&event.account),
            Cell::text(&event.kind),
            Cell::text(&event.subject),
            facts_cell(event),
        ]);
    }
    ctx.printer.list(&list);
}

fn verify(ctx: &Ctx, core: &Core, noted: Option<&str>) -> Result<()> {
    let broken = |why: String| {
        let hint = "keep a copy of the database and look who had access to it";
        Refusal::failed("audit", "the events are not as they were written", why, hint)
    };
    let mut found = noted.is_none();
    let walked = core.journal.read(|tx| {
        tx.verify_events(|hash| {
            found |= noted == Some(hex(hash).as_str());
        })
    })?;
    let chain = walked.map_err(|seq| broken(format!("the chain of hashes breaks at event {seq}")))?;
    let since = chain.since.map(rfc3339);
    let span = since.as_ref().map(|at| format!(" since {at}")).unwrap_or_default();
    if !found {
        let hash = noted.unwrap_or_default();
        return Err(broken(format!("no event carries the hash {hash}; there are events{span}")));
    }
    let head = hex(&chain.head);
    ctx.printer.show(
        &json!({ "events": chain.events, "since": since, "head": head }),
        &format!("{} events{span}, chain unbroken\nhead {head}\n", chain.events),
    );
    Ok(())
}
