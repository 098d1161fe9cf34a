//! A change of certificates step by step, ours or a partner's: what is done, what is next, and by which command.
//!
//! Certificate Exchange Messages (draft-meadors-certificate-exchange-14) do the same over AS2, but only one product speaks
//! them (as2.md §11). Here people mail the certificate, and the gateway keeps count of who has taken it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::certificates::choose;
use super::expiry::is_made_here;
use super::switch::{expect_to_come, finalize, worth_replacing};
use super::{Change, Refusal, Result, edit, last_of_each, partners, stations};
use crate::certificate::{Certificate, successors, taken_over};
use crate::clock::{Millis, rfc3339};
use crate::gateway::Core;
use crate::hint::{command, listed, option};
use crate::objects::Objects;
use crate::partner::Partner;
use crate::station::Station;
use crate::words;

words! {
    /// How far a step is.
    pub enum Progress {
        /// Nothing to do.
        Done = "done",
        /// Its turn has come.
        Next = "next",
        /// Others come first.
        Later = "later",
    }
}

/// One step.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Step {
    /// How far it is.
    pub progress: Progress,
    /// What happens.
    pub what: String,
    /// The command that does it.
    pub command: String,
}

/// A change of certificates as it stands.
#[derive(Clone, Debug, Serialize)]
pub struct Rollover {
    /// AS2 id of the station or partner.
    pub owner: String,
    /// Name of the certificate that is in force now.
    pub current: String,
    /// Name of the one that follows, if one is planned.
    pub next: Option<String>,
    /// When it takes over, RFC 3339.
    pub at: Option<String>,
    /// Partners that have taken a station's next certificate.
    pub confirmed: Vec<String>,
    /// Partners that have not said so.
    pub missing: Vec<String>,
    /// What to do.
    pub steps: Vec<Step>,
}

/// How the change of a station's or a partner's certificate stands. A station goes before a partner of the same name.
///
/// # Errors
/// When there is neither.
pub fn guide(objects: &Objects, account: Option<&str>, id: &str, now: Millis) -> Result<Rollover> {
    if let Ok(station) = stations::choose(objects, account, id) {
        return Ok(of_station(objects, station, now));
    }
    match partners::choose(objects, account, id) {
        Ok(partner) => Ok(of_partner(objects, partner, now)),
        Err(_) => Err(Refusal::not_found(
            format!("no station or partner {id}"),
            "a rollover belongs to one of them",
            "as2gate station list, as2gate partner list",
        )),
    }
}

/// The last switch away from a certificate that has taken place or, after those, the one that is planned next.
fn successor<'a>(objects: &'a Objects, account: &str, name: &'a str, now: Millis) -> Option<(&'a Certificate, bool)> {
    let past = taken_over(objects, account, name, now);
    match successors(objects, account, name).get(past.len()) {
        Some(next) => Some((next, false)),
        None => past.last().map(|newest| (*newest, true)),
    }
}

/// The name of the certificate that is in force while this one is planned, or since it took over.
fn in_force((next, switched): (&Certificate, bool)) -> &str {
    if switched { &next.name } else { &next.replaces }
}

/// Partners of a station that have, and that have not, said that they took a certificate.
#[must_use]
pub fn confirmations(objects: &Objects, certificate: &Certificate) -> (Vec<String>, Vec<String>) {
    let trading = objects
        .partners
        .values()
        .filter(|p| p.account == certificate.account && p.trades_with(&certificate.owner));
    let ids: Vec<String> = trading.map(|p| p.as2_id.clone()).collect();
    ids.into_iter().partition(|id| certificate.confirmed_by.contains(id))
}

fn of_station(objects: &Objects, station: &Station, now: Millis) -> Rollover {
    let account = station.account.as_str();
    let plan = successor(objects, account, &station.certificate, now);
    // The certificate that the change is about: the planned one or, once it is over, the one in force.
    let present = objects.certificate(account, &station.certificate);
    let awaiting_ca = |present| objects.certificates.values().find(|c| c.awaits_ca(present));
    let waiting = present.filter(|_| plan.is_none()).and_then(awaiting_ca);
    let subject = plan.map(|(next, _)| next).or(waiting).or(present);
    let switched = waiting.is_none() && plan.is_none_or(|(_, due)| due);
    let current = plan.map_or(station.certificate.as_str(), in_force);
    let old = other_key_pairs(objects, station, subject);
    let begun = plan.is_some() || !old.is_empty();
    let by_ca = objects.certificate(account, current).is_some_and(|c| !is_made_here(c));
    let subject = subject.filter(|_| begun);
    let (confirmed, missing) = subject.map_or_else(Default::default, |c| confirmations(objects, c));
    let name = subject.map_or("NEXT", |c| c.name.as_str());
    let all_told = missing.is_empty();
    let mut order = vec![
        (
            begun,
            "make the next key pair; both decrypt from then on".to_owned(),
            format!("as2gate cert renew {current}{}", if by_ca { "" } else { " --at TIME" }),
        ),
        (
            begun && all_told,
            format!("send it to the partners{}", named(": ", &missing)),
            format!("as2gate cert export {name} --out {name}.pem"),
        ),
        (
            begun && all_told,
            format!("note who has taken it{}", named("; so far ", &confirmed)),
            format!(
                "as2gate cert confirm {name} {}",
                option("partner", missing.first().map_or("ID", |id| id))
            ),
        ),
        (
            begun && switched,
            when(plan, "sign with it"),
            format!("as2gate cert switch {name} --at TIME"),
        ),
        (
            begun && old.is_empty(),
            "remove the old key pair, once nobody encrypts to it".to_owned(),
            format!("as2gate cert rm {}", old.first().copied().unwrap_or(&station.certificate)),
        ),
    ];
    // Partners that take one of a CA may take no other.
    if by_ca {
        let issued = begun && subject.is_some_and(|c| !is_made_here(c));
        let what = format!("have the CA sign it, and take what it gives: as2gate cert schedule {current} --replace-with FILE --at TIME");
        order.insert(1, (issued, what, format!("as2gate cert request {name} --out {name}.csr")));
    }
    Rollover {
        confirmed,
        missing,
        ..standing(&station.as2_id, current, plan, in_order(order))
    }
}

/// The station's key pairs but for this one.
fn other_key_pairs<'a>(objects: &'a Objects, station: &Station, but: Option<&Certificate>) -> Vec<&'a str> {
    let of_station = |c: &&Certificate| c.account == station.account && c.owner == station.as2_id && c.sealed_key.is_some();
    let pairs = objects.certificates.values().filter(of_station).map(|c| c.name.as_str());
    pairs.filter(|name| but.is_none_or(|but| *name != but.name)).collect()
}

fn of_partner(objects: &Objects, partner: &Partner, now: Millis) -> Rollover {
    let account = partner.account.as_str();
    let first = partner.sign_certificate.first().map_or("", String::as_str);
    let listed = if partner.encrypt_certificate.is_empty() {
        first
    } else {
        &partner.encrypt_certificate
    };
    let plan = successor(objects, account, listed, now);
    let current = plan.map_or(listed, in_force);
    // After a switch the old one stays in the list of those that verify; a certificate for signatures alone is no old one.
    let several = partner.sign_certificate.len() > 1 && partner.sign_certificate.iter().any(|c| c == current);
    // One that was added without a date: both verify, and what goes out is for the first still.
    let waiting = partner
        .sign_certificate
        .last()
        .filter(|last| several && plan.is_none() && last.as_str() != current);
    let begun = plan.is_some() || several;
    let switched = plan.map_or(several && waiting.is_none(), |(_, due)| due);
    let planned = plan.map(|(next, _)| next.name.as_str());
    let name = planned
        .or(waiting.map(String::as_str))
        .unwrap_or(if several { current } else { "NEXT" });
    let id = &partner.as2_id;
    let take = if current.is_empty() {
        format!("as2gate cert add NAME {} --file FILE", option("partner", id))
    } else {
        format!("as2gate cert schedule {current} --replace-with FILE --at TIME")
    };
    let order = vec![
        (begun, "take its next certificate; both verify from then on".to_owned(), take),
        (
            switched,
            "compare the fingerprint by telephone".to_owned(),
            format!("as2gate cert show {name}"),
        ),
        (
            switched,
            when(plan, "encrypt to it"),
            match waiting {
                Some(_) => command("partner set", id, &format!("--encrypt-certificate {name}")),
                None => format!("as2gate cert switch {name} --at TIME"),
            },
        ),
        (
            false,
            "drop the old one, once it signs with the new one".to_owned(),
            command("partner set", id, &format!("--sign-certificate {name}")),
        ),
    ];
    standing(id, current, plan, in_order(order))
}

fn standing(owner: &str, current: &str, plan: Option<(&Certificate, bool)>, steps: Vec<Step>) -> Rollover {
    Rollover {
        owner: owner.to_owned(),
        current: current.to_owned(),
        next: plan.filter(|(_, due)| !due).map(|(next, _)| next.name.clone()),
        at: plan.map(|(next, _)| next.active_from.clone()),
        confirmed: Vec::new(),
        missing: Vec::new(),
        steps,
    }
}

fn when(plan: Option<(&Certificate, bool)>, what: &str) -> String {
    match plan {
        Some((next, false)) => format!("{what}: by itself at {}", next.active_from),
        Some((next, true)) => format!("{what}: since {}", next.active_from),
        None => what.to_owned(),
    }
}

fn named(before: &str, ids: &[String]) -> String {
    if ids.is_empty() {
        String::new()
    } else {
        format!("{before}{}", ids.join(", "))
    }
}

/// The first step that is not done is next.
fn in_order(order: Vec<(bool, String, String)>) -> Vec<Step> {
    let first_open = order.iter().position(|(done, ..)| !done);
    let steps = order.into_iter().enumerate().map(|(n, (done, what, command))| Step {
        progress: match done {
            true => Progress::Done,
            false if first_open == Some(n) => Progress::Next,
            false => Progress::Later,
        },
        what,
        command,
    });
    steps.collect()
}

/// Notes that partners have taken a station's certificate, or that they have not.
///
/// # Errors
/// When it belongs to no station, or somebody named does not trade with that station.
pub async fn confirm(core: &Core, account: Option<&str>, name: &str, ids: &[String], taken: bool, dry_run: bool) -> Result<Certificate> {
    edit(core, dry_run, |objects| {
        let certificate = choose(objects, account, name)?;
        if certificate.sealed_key.is_none() || !objects.stations.contains_key(&certificate.owner) {
            return Err(Refusal::failed(
                "not-a-station",
                format!("cannot confirm {name}"),
                "partners take a station's certificate, and this one belongs to none",
                "as2gate cert list",
            ));
        }
        let (confirmed, missing) = confirmations(objects, certificate);
        if let Some(stranger) = ids.iter().find(|id| !confirmed.contains(id) && !missing.contains(id)) {
            let why = format!("{stranger} does not trade with {}", certificate.owner);
            return Err(Refusal::not_found(format!("cannot confirm {name}"), why, "as2gate partner list"));
        }
        let mut new = certificate.clone();
        if taken {
            new.confirmed_by.extend(ids.iter().filter(|id| !confirmed.contains(id)).cloned());
        } else {
            new.confirmed_by.retain(|id| !ids.contains(id));
        }
        new.confirmed_by.sort();
        new.confirmed_by.dedup();
        Ok((vec![new.clone().into()], new))
    })
    .await
}

/// Moves the time of a planned switch: later, at once, or back to the old certificate until a time to come.
///
/// # Errors
/// When no switch to it is planned.
pub async fn switch(core: &Core, account: Option<&str>, name: &str, at: Option<jiff::Timestamp>, dry_run: bool) -> Result<Certificate> {
    edit(core, dry_run, |objects| {
        let certificate = choose(objects, account, name)?;
        if certificate.replaces.is_empty() || certificate.active_from.is_empty() {
            return Err(Refusal::failed(
                "no-switch",
                format!("cannot move the switch to {name}"),
                "none is planned, or it is over",
                "as2gate cert renew, as2gate cert schedule",
            ));
        }
        let now = core.clock.now();
        let at = at.map_or(now, |at| at.as_millisecond());
        expect_to_come(at, now, format!("cannot move the switch to {name}"), "leaving out --at")?;
        if let Some(old) = objects.certificate(&certificate.account, &certificate.replaces) {
            worth_replacing(old, certificate, at.max(now))?;
        }
        let new = Certificate {
            active_from: rfc3339(at),
            ..certificate.clone()
        };
        let mut changes: Vec<Change> = vec![new.clone().into()];
        let after = super::with_changes(objects, &changes);
        changes.extend(finalize(&after, &new.account, now));
        Ok((last_of_each(changes), new))
    })
    .await
}

/// Calls a planned switch off. The certificate that was to take over stays, following nobody.
///
/// # Errors
/// When no switch to it is planned, or it has taken place.
pub async fn cancel(core: &Core, account: Option<&str>, name: &str, dry_run: bool) -> Result<Certificate> {
    edit(core, dry_run, |objects| {
        let account = choose(objects, account, name)?.account.as_str();
        let mut changes = finalize(objects, account, core.clock.now());
        let objects = &super::with_changes(objects, &changes);
        let planned = choose(objects, Some(account), name)?;
        if planned.takes_over_at().is_none() {
            return Err(Refusal::failed(
                "no-switch",
                format!("cannot call the switch to {name} off"),
                "none is planned, or it is over",
                "as2gate cert list",
            ));
        }
        let new = planned.following_none();
        changes.push(new.clone().into());
        Ok((last_of_each(changes), new))
    })
    .await
}

/// Partners whose messages may be encrypted to a station's key pair still: they have taken it, and none that is newer.
#[must_use]
pub fn relying(objects: &Objects, certificate: &Certificate) -> Vec<String> {
    let of_station = objects
        .stations
        .get(&certificate.owner)
        .is_some_and(|s| s.account == certificate.account);
    if certificate.sealed_key.is_none() || !of_station {
        return Vec::new();
    }
    let newer: Vec<&Certificate> = objects
        .certificates
        .values()
        .filter(|c| c.account == certificate.account && c.owner == certificate.owner && c.not_before > certificate.not_before)
        .collect();
    let (mut confirmed, _) = confirmations(objects, certificate);
    confirmed.retain(|id| !newer.iter().any(|c| c.confirmed_by.contains(id)));
    confirmed
}

/// What partners will not know or not take of a station's next certificate when it takes over, in the words of `check`.
#[must_use]
pub fn warnings(objects: &Objects) -> Vec<(String, String)> {
    let planned = objects
        .certificates
        .values()
        .filter(|c| c.sealed_key.is_some() && !c.active_from.is_empty());
    let unsigned = planned.clone().filter_map(|c| {
        let old = objects.certificate(&c.account, &c.replaces)?;
        let what = format!(
            "certificate {}, which is self-signed, takes over at {} from {}, which a CA issued",
            c.name, c.active_from, old.name
        );
        (is_made_here(c) && !is_made_here(old)).then(|| (what, command("cert rollover", &c.owner, "")))
    });
    let unconfirmed = planned.filter_map(|c| {
        objects.stations.get(&c.owner)?;
        let (_, missing) = confirmations(objects, c);
        let what = format!(
            "certificate {} takes over at {} and is not confirmed by {}",
            c.name,
            c.active_from,
            listed(missing.iter().map(String::as_str), "")
        );
        (!missing.is_empty()).then(|| (what, command("cert rollover", &c.owner, "")))
    });
    unsigned.chain(unconfirmed).collect()
}

/// The same of what a station signs with already, for as long as the key pair before it is kept.
#[must_use]
pub fn unconfirmed(objects: &Objects) -> Vec<(String, String)> {
    let mut pairs: BTreeMap<(&str, &str), Vec<&Certificate>> = BTreeMap::new();
    for certificate in objects.certificates.values().filter(|c| c.sealed_key.is_some()) {
        let owner = (certificate.account.as_str(), certificate.owner.as_str());
        pairs.entry(owner).or_default().push(certificate);
    }
    let found = objects.stations.values().filter_map(|station| {
        let pairs = pairs.get(&(station.account.as_str(), station.as2_id.as_str()))?;
        let current = pairs.iter().find(|c| c.name == station.certificate && c.active_from.is_empty())?;
        let is_before = |c: &&Certificate| c.name != current.name && c.replaces != current.name && c.not_before <= current.not_before;
        pairs.iter().copied().find(is_before)?;
        let (_, missing) = confirmations(objects, current);
        let what = format!(
            "certificate {} signs now and is not confirmed by {}",
            current.name,
            listed(missing.iter().map(String::as_str), "")
        );
        (!missing.is_empty()).then(|| (what, command("cert rollover", &station.as2_id, "")))
    });
    found.collect()
}
