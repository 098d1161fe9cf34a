//! A change of certificates step by step, ours or a partner's: what is done, what is next, and by which command.
//!
//! Certificate Exchange Messages (draft-meadors-certificate-exchange-14) do the same over AS2, but only one product speaks
//! them (as2.md §11). Here people mail the certificate, and the gateway keeps count of who has taken it.

use std::collections::BTreeMap;

use keystore::of_one_key;
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
    let pairs = key_pairs(objects, station);
    let unplanned = present.filter(|_| plan.is_none() && waiting.is_none());
    let unplanned = unplanned.and_then(|present| made_since(&pairs, present));
    let subject = plan.map(|(next, _)| next).or(waiting).or(unplanned).or(present);
    let switched = waiting.is_none() && unplanned.is_none() && plan.is_none_or(|(_, due)| due);
    let current = plan.map_or(station.certificate.as_str(), in_force);
    let is_old = |c: &&&Certificate| subject.is_none_or(|subject| is_older(c, subject, current, now));
    let old: Vec<&str> = pairs.iter().filter(is_old).map(|c| c.name.as_str()).collect();
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
            match unplanned {
                Some(_) => command("station set", &station.as2_id, &format!("--set certificate={name}")),
                None => format!("as2gate cert switch {name} --at TIME"),
            },
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

/// The station's key pairs, the oldest first.
fn key_pairs<'a>(objects: &'a Objects, station: &Station) -> Vec<&'a Certificate> {
    let of_station = |c: &&Certificate| c.account == station.account && c.owner == station.as2_id && c.sealed_key.is_some();
    let mut pairs: Vec<&Certificate> = objects.certificates.values().filter(of_station).collect();
    pairs.sort_by_key(|c| c.not_before);
    pairs
}

/// The newest of those that are younger than the one in force, and follow none: it was added, or its switch was called off.
fn made_since<'a>(pairs: &[&'a Certificate], present: &Certificate) -> Option<&'a Certificate> {
    let is_younger = |c: &&Certificate| c.not_before > present.not_before && !of_one_key(&c.der, &present.der);
    pairs.iter().rev().copied().find(is_younger)
}

/// Whether a key pair is there from before the one that the change is about. One of its own key does no more than it, either.
fn is_older(pair: &Certificate, subject: &Certificate, current: &str, now: Millis) -> bool {
    let is_to_come = pair.takes_over_at().is_some_and(|at| at > now);
    let is_before = !is_to_come && (pair.not_before <= subject.not_before || of_one_key(&pair.der, &subject.der));
    pair.name != subject.name && (is_before || pair.name == current)
}

/// What a partner uses a certificate for, and how far the change of that one is.
struct Chain<'a> {
    current: &'a str,
    plan: Option<(&'a Certificate, bool)>,
    steps: Vec<Step>,
}

/// A partner has one certificate for signatures and encryption, or one for each, which change each by itself.
fn of_partner(objects: &Objects, partner: &Partner, now: Millis) -> Rollover {
    let (signing, encryption) = (&partner.sign_certificate, &partner.encrypt_certificate);
    let has_one = match (signing.is_empty(), encryption.is_empty()) {
        (false, false) => signing.contains(encryption),
        (no_signing, no_encryption) => no_signing && no_encryption,
    };
    let mut chains = Vec::new();
    if has_one {
        chains.push(for_both(objects, partner, now));
    } else {
        if !encryption.is_empty() {
            chains.push(for_encryption(objects, partner, now));
        }
        if !signing.is_empty() {
            chains.push(for_signatures(objects, partner, now));
        }
    }
    let planned = chains.iter().find(|chain| chain.plan.is_some()).or(chains.first());
    let (current, plan) = planned.map_or_else(Default::default, |chain| (chain.current, chain.plan));
    let steps = chains.into_iter().flat_map(|chain| chain.steps).collect();
    standing(&partner.as2_id, current, plan, steps)
}

fn for_both<'a>(objects: &'a Objects, partner: &'a Partner, now: Millis) -> Chain<'a> {
    let (id, listed) = (&partner.as2_id, partner.encrypt_certificate.as_str());
    let plan = successor(objects, &partner.account, listed, now);
    let current = plan.map_or(listed, in_force);
    // After a switch the old one stays in the list of those that verify.
    let several = partner.sign_certificate.len() > 1;
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
    let take = if current.is_empty() {
        format!("as2gate cert add NAME {} --file FILE", option("partner", id))
    } else {
        format!("as2gate cert schedule {current} --replace-with FILE --at TIME")
    };
    let order = vec![
        (begun, "take its next certificate; both verify from then on".to_owned(), take),
        (switched, COMPARE.to_owned(), format!("as2gate cert show {name}")),
        (
            switched,
            when(plan, "encrypt to it"),
            match waiting {
                Some(_) => command("partner set", id, &format!("--encrypt-certificate {name}")),
                None => format!("as2gate cert switch {name} --at TIME"),
            },
        ),
        (false, DROP.to_owned(), keep_signing(partner, plan.map(|_| listed), name)),
    ];
    Chain {
        current,
        plan,
        steps: in_order(order),
    }
}

/// It verifies nothing, so that none has to be dropped.
fn for_encryption<'a>(objects: &'a Objects, partner: &'a Partner, now: Millis) -> Chain<'a> {
    let listed = partner.encrypt_certificate.as_str();
    let plan = successor(objects, &partner.account, listed, now);
    let current = plan.map_or(listed, in_force);
    let name = plan.map_or("NEXT", |(next, _)| next.name.as_str());
    let switched = plan.is_some_and(|(_, due)| due);
    let order = vec![
        (
            plan.is_some(),
            "for encryption: take its next certificate".to_owned(),
            format!("as2gate cert schedule {current} --replace-with FILE --at TIME"),
        ),
        (switched, COMPARE.to_owned(), format!("as2gate cert show {name}")),
        (
            switched,
            when(plan, "encrypt to it"),
            format!("as2gate cert switch {name} --at TIME"),
        ),
    ];
    Chain {
        current,
        plan,
        steps: in_order(order),
    }
}

/// Every one that is listed or planned verifies: only the partner knows when it signs with another.
fn for_signatures<'a>(objects: &'a Objects, partner: &'a Partner, now: Millis) -> Chain<'a> {
    let (id, list) = (&partner.as2_id, &partner.sign_certificate);
    let plans = list
        .iter()
        .filter_map(|name| Some((name.as_str(), successor(objects, &partner.account, name, now)?)));
    let (old, plan) = plans.max_by_key(|(_, (_, due))| !due).unzip();
    let last = list.last().map_or("", String::as_str);
    let current = plan.map_or(last, in_force);
    let begun = plan.is_some() || list.len() > 1;
    let newest = plan.map_or(last, |(next, _)| next.name.as_str());
    let name = if begun { newest } else { "NEXT" };
    let order = vec![
        (
            begun,
            "for signatures: take its next certificate; both verify from then on".to_owned(),
            format!("as2gate cert add NAME {} --use sign --file FILE", option("partner", id)),
        ),
        (false, COMPARE.to_owned(), format!("as2gate cert show {name}")),
        (false, DROP.to_owned(), keep_signing(partner, old, name)),
    ];
    Chain {
        current,
        plan,
        steps: in_order(order),
    }
}

const COMPARE: &str = "compare the fingerprint by telephone";
const DROP: &str = "drop the old one, once it signs with the new one";

/// The command after which this one verifies in the place of the old one or, where no switch says which that is, of all others.
fn keep_signing(partner: &Partner, old: Option<&str>, name: &str) -> String {
    let others = partner.sign_certificate.iter().map(String::as_str);
    let mut kept: Vec<&str> = match old {
        Some(old) => others.filter(|other| *other != old && *other != name).collect(),
        None => Vec::new(),
    };
    kept.push(name);
    command("partner set", &partner.as2_id, &format!("--sign-certificate {}", kept.join(",")))
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

/// Notes that partners have taken a station's certificate, or that they have not. Each text names one, or several with commas.
///
/// # Errors
/// When it belongs to no station, or somebody named does not trade with that station.
pub async fn confirm(core: &Core, account: Option<&str>, name: &str, texts: &[String], taken: bool, dry_run: bool) -> Result<Certificate> {
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
        let ids = named_in(texts, |id| confirmed.contains(id) || missing.contains(id));
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

/// The AS2 ids in these texts: a text that is one as a whole, or what stands between its commas, since an id may hold one.
fn named_in(texts: &[String], is_known: impl Fn(&String) -> bool) -> Vec<String> {
    let split = |text: &String| match is_known(text) {
        true => vec![text.clone()],
        false => text.split(',').map(str::to_owned).collect(),
    };
    texts.iter().flat_map(split).collect()
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
