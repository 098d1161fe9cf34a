//! `status`: how the server and its queue are doing, asked of the journal and of the server itself.

use std::net::SocketAddr;

use clap::Args;

use super::error::DONE;
use super::{Ctx, Outcome};
use crate::gateway::Listening;
use crate::gateway::status::{self, Facts};
use crate::manage::host_keys::HostKeyState;
use crate::message::State;

/// Show how the server and its queue are doing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  as2gate status
  as2gate status -o json
  watch as2gate status")]
pub(crate) struct Status {}

pub(crate) async fn run(ctx: &Ctx, _: &Status) -> Outcome {
    let core = ctx.core()?;
    let facts = status::gather(&core)?;
    ctx.printer.show(&facts.object(), &text(&facts));
    Ok(DONE)
}

/// Where the server listens.
fn addresses(listening: &Listening) -> String {
    let list = |list: &[SocketAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let telemetry = listening.telemetry.map(|address| format!("   telemetry {address}"));
    let tls = if listening.as2_tls.is_empty() {
        String::new()
    } else {
        format!("   as2 tls {}", list(&listening.as2_tls))
    };
    format!(
        "listening  sftp {}   as2 {}{tls}{}   pid {}",
        list(&listening.sftp),
        list(&listening.as2),
        telemetry.unwrap_or_default(),
        listening.pid
    )
}

fn text(facts: &Facts) -> String {
    let keys = facts.host_keys.iter().map(|key| match key.state {
        HostKeyState::Current => format!("{} {}", key.kind, key.fingerprint),
        HostKeyState::Next => format!("next {} {}", key.kind, key.fingerprint),
    });
    let counts = facts.counts.iter().map(|(name, count)| format!("{name} {count}"));
    let mut lines = vec![doors(facts), work(facts)];
    lines.extend(facts.listening.as_ref().map(addresses));
    if let Some((first, others)) = facts.sweep_holds.split_first() {
        let more = match others.len() {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        lines.push(format!("sweep      {}{more} wait for a person: as2gate doctor", first.words()));
    }
    if !facts.other_settings.is_empty() {
        let keys = facts.other_settings.join(", ");
        lines.push(format!("settings   the running server has other values of {keys}: as2gate doctor"));
    }
    lines.push(format!("host keys  {}", keys.collect::<Vec<_>>().join("   ")));
    lines.push(format!("objects    {}\n", counts.collect::<Vec<_>>().join("   ")));
    lines.join("\n")
}

/// Which doors open, and what is behind them.
fn doors(facts: &Facts) -> String {
    let sftp = match (facts.door("sftp").as_str(), facts.connections) {
        ("ok", Some(1)) => "ok (1 connection)".to_owned(),
        ("ok", Some(n)) => format!("ok ({n} connections)"),
        (other, _) => other.to_owned(),
    };
    let tls = if facts.answers.iter().any(|(door, ..)| *door == "as2_tls") {
        format!("   as2 tls {}", facts.door("as2_tls"))
    } else {
        String::new()
    };
    format!(
        "sftp {sftp}   as2 {}{tls}   database ok   storage {} ({} % free)",
        facts.door("as2"),
        facts.storage(),
        facts.free_percent
    )
}

/// What is in work, and what wants to be looked after.
fn work(facts: &Facts) -> String {
    let held = facts.states.iter().filter(|(state, _)| *state == State::Held);
    let held: u64 = held.map(|(_, count)| count).sum();
    let held = if held > 0 { format!("   held {held}") } else { String::new() };
    let expiring = facts.expiring.iter().map(|(_, name, days)| {
        if *days < 0 {
            format!("{name} has expired")
        } else {
            format!("{name} expires in {days} days")
        }
    });
    let certificates = match facts.expiring.as_slice() {
        [] => "ok".to_owned(),
        _ => expiring.collect::<Vec<_>>().join(", "),
    };
    let duplicates = match facts.duplicates {
        0 => String::new(),
        n => format!("   duplicates 24h {n}, not sent"),
    };
    let interrupted = match facts.interrupted {
        0 => String::new(),
        n => format!("   interrupted {n}: as2gate upload list"),
    };
    format!(
        "queue {}{held}   failed 24h {}{duplicates}{interrupted}   next sweep {} UTC   certificates: {certificates}",
        facts.queue, facts.failed, facts.next_sweep
    )
}
