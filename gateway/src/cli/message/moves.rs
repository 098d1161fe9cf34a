//! What a person wants done with messages, one or many.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{MAX_LIMIT, Which, object_behind};
use crate::cli::{Ctx, Outcome};
use crate::clock::millis;
use crate::gateway::Core;
use crate::journal::MessageFilter;
use crate::manage::Result;
use crate::manage::messages::{self, Pair};
use crate::message::{Direction, Message, State};

/// What a person wants done with messages.
pub(super) enum Move {
    Retry,
    Resend(Pair),
    Cancel,
}

/// Does it to each of those that are meant.
pub(super) async fn each(ctx: &Ctx, core: &Arc<Core>, which: Which, what: Move) -> Outcome {
    let chosen = chosen(ctx, core, &which, &what)?;
    if which.state.is_some() && chosen.len() > 1 {
        ctx.confirm(&format!("{} messages; go on?", chosen.len()))?;
    }
    if which.state.is_none() && matches!(what, Move::Resend(_)) {
        ask_about_repeats(ctx, core, &chosen)?;
    }
    let mut results = Vec::new();
    for message in &chosen {
        let done = match &what {
            Move::Retry => messages::retry(core, message, ctx.dry_run()).await,
            Move::Resend(to) => messages::resend(core, message, to, ctx.dry_run()).await,
            Move::Cancel => messages::cancel(core, message, ctx.dry_run()).await,
        };
        let front = match &done {
            Ok(after) if matches!(what, Move::Retry) => messages::in_front_of(core, after)?,
            _ => None,
        };
        results.push(done.map(|after| {
            let word = match &what {
                Move::Retry => {
                    let what = if after.direction == Direction::In { "its MDN " } else { "" };
                    let when = front.as_ref().map_or_else(|| "now".to_owned(), super::after);
                    format!("{what}{} out again {when}", ctx.tense("goes", "would go"))
                }
                Move::Resend(_) if ctx.dry_run() => "would be sent anew".to_owned(),
                Move::Resend(_) => format!("sent anew as {}", after.id),
                Move::Cancel => ctx.tense("cancelled", "would be cancelled").to_owned(),
            };
            (
                object_behind(&after, front.as_ref()),
                ctx.would(format!("Message {}   {word}", message.id)),
            )
        }));
    }
    ctx.each_done("messages", which.state.is_none() && which.ids.len() == 1, results)
}

fn chosen(ctx: &Ctx, core: &Core, which: &Which, what: &Move) -> Result<Vec<Message>> {
    if let Some(state) = which.state {
        let filter = MessageFilter {
            account: ctx.account().map(str::to_owned),
            direction: Some(Direction::Out),
            state: Some(state),
            partner: which.partner.clone(),
            since: which.since.map(|span| core.clock.now() - millis(span)),
            limit: MAX_LIMIT,
            ..MessageFilter::default()
        };
        let mut found = core.journal.read(|tx| tx.messages(&filter))?;
        if found.is_empty() {
            messages::expect_names(core, ctx.account(), None, filter.partner.as_deref())?;
        }
        // What was dropped in an order goes out in it.
        found.reverse();
        if !matches!(what, Move::Cancel) {
            leave_out_done(ctx, core, &mut found, what)?;
        }
        return Ok(found);
    }
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for id in &which.ids {
        let message = messages::choose(core, ctx.account(), id)?;
        if seen.insert(message.id.clone()) {
            found.push(message);
        }
    }
    Ok(found)
}

/// Of all messages in a state, nobody means those that would reach the partner twice.
fn leave_out_done(ctx: &Ctx, core: &Core, found: &mut Vec<Message>, what: &Move) -> Result<()> {
    found.retain(|message| !message.is_test());
    let Some(oldest) = found.first().map(|message| message.id.as_str().to_owned()) else {
        return Ok(());
    };
    let anew = core.journal.read(|tx| tx.sent_anew_since(&oldest))?;
    let mut leave_out = |is_left: &dyn Fn(&Message) -> bool, why: &str| {
        let before = found.len();
        found.retain(|message| !is_left(message));
        match before - found.len() {
            0 => {}
            left => ctx.printer.note(&format!("left out: {left} {why}")),
        }
    };
    leave_out(&|message| anew.contains_key(message.id.as_str()), "sent anew before");
    if matches!(what, Move::Resend(_)) {
        leave_out(
            &|message| message.state == State::Failed && message.partner_may_hold_it(),
            "that the partner may have: retry them, or ask it, then resend them by their ids",
        );
    }
    Ok(())
}

/// Of single messages a person may mean what the partner has, and should know it.
fn ask_about_repeats(ctx: &Ctx, core: &Core, chosen: &[Message]) -> Result<()> {
    let Some(oldest) = chosen.iter().map(|message| message.id.as_str()).min() else {
        return Ok(());
    };
    let anew = core.journal.read(|tx| tx.sent_anew_since(oldest))?;
    let sent = chosen.iter().filter(|message| message.direction == Direction::Out);
    let repeats: Vec<String> = sent
        .filter_map(|message| messages::would_repeat(message, anew.get(message.id.as_str())))
        .collect();
    for repeat in &repeats {
        ctx.printer.note(&format!("note: {repeat}"));
    }
    match repeats.len() {
        0 => Ok(()),
        1 => ctx.confirm("the partner may have it; go on?"),
        n => ctx.confirm(&format!("the partner may have {n} of these; go on?")),
    }
}
