//! What certificates do by themselves, told once to the log and as an event: one has taken over from another, one in use ends soon
//! (as2.md SEC13).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::certificates::day;
use super::expiry::{self, SOON_DAYS};
use super::switch;
use crate::certificate::Certificate;
use crate::clock::{DAY, Millis, rfc3339};
use crate::event::NewEvent;
use crate::gateway::Core;
use crate::journal::{JournalError, Tx};

/// What was told, so that a server that starts anew does not say it again.
const FACT: &str = "certificates.told";
/// Who made a switch whose time had come.
pub(super) const BY_SCHEDULE: &str = "schedule";

/// By account and name of the certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Told {
    /// That it has taken over, and when that was.
    switched: BTreeMap<String, Millis>,
    /// When it was last said that it ends.
    expiring: BTreeMap<String, Millis>,
}

fn key(certificate: &Certificate) -> String {
    format!("{}/{}", certificate.account, certificate.name)
}

impl Told {
    fn read(tx: &Tx<'_>) -> Result<Self, JournalError> {
        let told = tx.fact(FACT)?;
        told.map_or_else(|| Ok(Told::default()), |told| Ok(serde_json::from_str(&told)?))
    }

    fn keep(&self, tx: &Tx<'_>) -> Result<(), JournalError> {
        tx.set_fact(FACT, &serde_json::to_string(self)?)
    }

    /// Those of the switches that have taken place which were not told.
    fn news_of_switches(&mut self, all: &[Certificate]) -> Vec<Certificate> {
        let times = all.iter().filter_map(|c| Some((key(c), c.takes_over_at()?)));
        let before = std::mem::replace(&mut self.switched, times.collect());
        let is_new = |c: &&Certificate| before.get(&key(c)).copied() != c.takes_over_at();
        all.iter().filter(is_new).cloned().collect()
    }

    /// Those of the certificates that end of which nothing was said for a day.
    fn news_of_ends(&mut self, all: &[Certificate], now: Millis) -> Vec<Certificate> {
        let before = std::mem::take(&mut self.expiring);
        let mut news = Vec::new();
        for certificate in all {
            // A time to come is that of a clock that was set back since.
            let last = before.get(&key(certificate)).filter(|at| (0..DAY).contains(&(now - **at)));
            self.expiring.insert(key(certificate), last.copied().unwrap_or(now));
            if last.is_none() {
                news.push(certificate.clone());
            }
        }
        news
    }
}

/// Tells what has come about since it was last told.
///
/// # Errors
/// The journal's.
pub async fn tell(core: &Core) -> Result<(), JournalError> {
    let (objects, now) = (core.objects(), core.clock.now());
    let switches = switch::taken_place(&objects, now);
    let ends = expiry::due(&core.config, &objects, now, SOON_DAYS * DAY);
    let ends: Vec<Certificate> = ends.into_iter().map(std::borrow::Cow::into_owned).collect();
    let news = move |mut told: Told| {
        let news = (told.news_of_switches(&switches), told.news_of_ends(&ends, now));
        (told, news)
    };
    let before = core.journal.read(Told::read)?;
    if news(before.clone()).0 == before {
        return Ok(());
    }
    let write = move |tx: &Tx<'_>| {
        // A command may have told of a switch meanwhile.
        let (told, (switched, ending)) = news(Told::read(tx)?);
        told.keep(tx)?;
        switched.iter().try_for_each(|certificate| record_switch(tx, certificate, now))?;
        ending.iter().try_for_each(|certificate| record_end(tx, certificate, now))?;
        Ok((switched, ending))
    };
    let (switched, ending) = core.journal.write(write).await?;
    for Certificate { name, owner, replaces, .. } in &switched {
        tracing::info!(certificate = name, owner, replaces, "a certificate has taken over by its schedule");
    }
    for certificate in &ending {
        let Certificate {
            name, owner, not_after, ..
        } = certificate;
        let word = if certificate.ends() < now { "has expired" } else { "expires" };
        tracing::warn!(certificate = name, owner, day = day(*not_after), "a certificate in use {word}");
    }
    Ok(())
}

/// Tells of switches before a change makes them final: afterwards nobody sees when they were.
pub(super) fn tell_switches(tx: &Tx<'_>, all: &[Certificate], now: Millis) -> Result<(), JournalError> {
    if all.is_empty() {
        return Ok(());
    }
    let mut told = Told::read(tx)?;
    let news = told.news_of_switches(all);
    news.iter().try_for_each(|certificate| record_switch(tx, certificate, now))?;
    told.keep(tx)
}

fn record_switch(tx: &Tx<'_>, certificate: &Certificate, now: Millis) -> Result<(), JournalError> {
    let at = certificate.takes_over_at().map(rfc3339);
    let facts = json!({
        "by": BY_SCHEDULE, "at": at, "replaces": certificate.replaces, "owner": certificate.owner, "purpose": certificate.purpose,
    });
    record(tx, certificate, "certificate.switched", facts, now)
}

fn record_end(tx: &Tx<'_>, certificate: &Certificate, now: Millis) -> Result<(), JournalError> {
    let facts = json!({
        "not_after": rfc3339(certificate.ends()), "owner": certificate.owner, "purpose": certificate.purpose,
    });
    record(tx, certificate, "certificate.expiring", facts, now)
}

fn record(tx: &Tx<'_>, certificate: &Certificate, kind: &str, facts: serde_json::Value, now: Millis) -> Result<(), JournalError> {
    let event = NewEvent {
        account: &certificate.account,
        kind,
        subject: &certificate.name,
        facts,
    };
    tx.record(&event, now)
}
