//! The switch of a certificate to its successor: planned, made, and in the end final.

use std::borrow::Cow;
use std::collections::BTreeSet;

use jiff::Timestamp;
use keystore::KeySpec;

use super::certificates::{NewCertificate, Trusted, choose, day, expect_free, free_name, issuers, trusted, with_key};
use super::expiry::is_made_here;
use super::{Change, Refusal, Result, edit, last_of_each, rules, stations};
use crate::certificate::{Certificate, taken_over};
use crate::clock::{DAY, Millis, rfc3339};
use crate::gateway::Core;
use crate::objects::Objects;
use crate::partner::Partner;

/// Time that partners get to take a station's next certificate, unless told otherwise.
const NOTICE: Millis = 14 * DAY;
/// So long ago is now all the same: somebody has typed the time, or another machine's clock has given it.
const PAST: Millis = 10 * 60_000;

/// When a switch happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At once.
    Now,
    /// At this time.
    At(Timestamp),
    /// After two weeks' notice, and before the old one expires.
    AfterNotice,
}

impl When {
    /// Whether the certificate that is to be replaced ends with this command. A CA's work waits for the next one of the CA.
    pub(crate) fn is_at_once(self, now: Millis, old: &Certificate) -> bool {
        !self.waits_for_ca(old) && self.resolve(now, old) <= now
    }

    fn waits_for_ca(self, old: &Certificate) -> bool {
        self == When::AfterNotice && !is_made_here(old)
    }

    fn resolve(self, now: Millis, old: &Certificate) -> Millis {
        match self {
            When::Now => now,
            When::At(at) => at.as_millisecond(),
            When::AfterNotice => now
                .saturating_add(NOTICE)
                .min(old.not_after.saturating_mul(1000).saturating_sub(DAY))
                .max(now),
        }
    }
}

/// Plans the switch from a certificate to its successor, or makes it at once.
pub struct Switch<'a> {
    /// Of this account.
    pub account: Option<&'a str>,
    /// The certificate to be replaced.
    pub old: &'a str,
    /// When.
    pub at: When,
    /// The successor's name; `None` makes one.
    pub name: Option<&'a str>,
}

/// Replaces a certificate by one from a file.
///
/// # Errors
/// When the old one is not there or unused, or the file cannot be used.
pub async fn schedule(core: &Core, switch: &Switch<'_>, new: &NewCertificate, dry_run: bool) -> Result<Certificate> {
    let before = super::objects(core)?;
    let old = choose(&before, switch.account, switch.old)?;
    let (pair, Trusted { leaf, others }) = new.read(old.sealed_key.is_some(), core, &old.account)?;
    edit(core, dry_run, |objects| {
        let old = choose(objects, switch.account, switch.old)?;
        let successor = |name: &str| match &pair {
            Some(pair) => with_key(core, (&old.account, name), old.purpose, &old.owner, pair),
            None => trusted((&old.account, name), old.purpose, &old.owner, &leaf),
        };
        let (mut changes, new) = replace(core, objects, old, (switch, "leaving out --at"), &successor)?;
        changes.extend(issuers(objects, &new, &others)?);
        Ok((changes, new))
    })
    .await
}

/// Replaces a station's certificate by a new self-signed one with a new key, of the old one's type and size unless another is
/// named: partners' products take that one. Where a CA issued the old one and no time is named, none is set: the new key waits
/// for the CA.
///
/// # Errors
/// When it is not there or belongs to no station, or its key is of a type that is not made here.
pub async fn renew(core: &Core, switch: &Switch<'_>, key: Option<KeySpec>, dry_run: bool) -> Result<Certificate> {
    let before = super::objects(core)?;
    let old = choose(&before, switch.account, switch.old)?;
    let Some(station) = before.stations.get(&old.owner).filter(|_| old.sealed_key.is_some()) else {
        let hint = format!("for a partner's: as2gate cert schedule {} --replace-with FILE --at TIME", old.name);
        return Err(Refusal::failed(
            "not-a-station",
            format!("cannot renew {}", old.name),
            "only a station's own certificate can be made anew",
            hint,
        ));
    };
    let pair = stations::make_pair(core, key.map_or_else(|| like(old), Ok)?, station)?;
    edit(core, dry_run, |objects| {
        let old = choose(objects, switch.account, switch.old)?;
        let successor = |name: &str| with_key(core, (&old.account, name), old.purpose, &old.owner, &pair);
        if switch.at.waits_for_ca(old) {
            let at = switch.at.resolve(core.clock.now(), old);
            let new = Certificate {
                replaces: old.name.clone(),
                ..successor(&successors_name(objects, old, switch, at)?)?
            };
            return Ok((vec![new.clone().into()], new));
        }
        replace(core, objects, old, (switch, "--now"), &successor)
    })
    .await
}

/// A key like this one; what is too short today grows.
pub(super) fn like(old: &Certificate) -> Result<KeySpec> {
    if old.short_rsa_bits().is_some() {
        return Ok(KeySpec::default());
    }
    old.key.parse().map_err(|_| {
        Refusal::failed(
            "key-type",
            format!("cannot renew {} with a key like its own", old.name),
            format!("{} is not made here", old.key),
            format!(
                "as2gate cert renew {} --key TYPE; {}",
                old.name,
                KeySpec::ALL.map(KeySpec::name).join(", ")
            ),
        )
    })
}

/// `at_once`: how the command that asks for the switch has it made at once.
fn replace(
    core: &Core,
    objects: &Objects,
    old: &Certificate,
    (switch, at_once): (&Switch<'_>, &str),
    successor: &dyn Fn(&str) -> Result<Certificate>,
) -> Result<(Vec<Change>, Certificate)> {
    let now = core.clock.now();
    let at = switch.at.resolve(now, old);
    if matches!(switch.at, When::At(_)) {
        expect_to_come(at, now, format!("cannot replace {}", old.name), at_once)?;
    }
    let mut new = successor(&successors_name(objects, old, switch, at)?)?;
    worth_replacing(old, &new, at.max(now))?;
    // Switches whose time has come are made final first, so that one certificate has at most one successor under way.
    let mut changes = finalize(objects, &old.account, now);
    let settled = super::with_changes(objects, &changes);
    if rules::used_by(&settled, &old.account, &old.name).is_empty() {
        let hint = "as2gate cert add NAME --partner ID --file FILE adds one without replacing another";
        return Err(Refusal::failed(
            "not-in-use",
            format!("cannot replace {}", old.name),
            "nobody uses it",
            hint,
        ));
    }
    let planned = settled
        .certificates
        .values()
        .filter(|c| c.account == old.account && c.replaces == old.name);
    changes.extend(planned.map(|c| c.following_none().into()));
    new.replaces.clone_from(&old.name);
    new.active_from = crate::clock::rfc3339(at);
    let result = new.clone();
    changes.push(new.into());
    if at <= now {
        let after = super::with_changes(objects, &changes);
        changes.extend(finalize(&after, &old.account, now));
    }
    Ok((last_of_each(changes), result))
}

/// Refuses a time of long ago; `at_once`: how the switch is made at once.
pub(super) fn expect_to_come(at: Millis, now: Millis, what: String, at_once: &str) -> Result<()> {
    if at >= now - PAST {
        return Ok(());
    }
    Err(Refusal::invalid(
        what,
        format!("{} is in the past", rfc3339(at)),
        format!("{at_once} makes the switch at once; else give a time to come"),
    ))
}

/// The name that is wanted, if it is free, or one made of the old one's.
fn successors_name(objects: &Objects, old: &Certificate, switch: &Switch<'_>, at: Millis) -> Result<String> {
    match switch.name {
        Some(name) => expect_free(objects, &old.account, name).map(|()| name.to_owned()),
        None => Ok(free_name(objects, &old.account, &successor_name(&old.name, at))),
    }
}

/// Another certificate than the old one, and one that is still valid when it takes over.
pub(super) fn worth_replacing(old: &Certificate, new: &Certificate, at: Millis) -> Result<()> {
    if new.fingerprint == old.fingerprint {
        return Err(Refusal::invalid(
            format!("cannot replace {}", old.name),
            "the new certificate is the same as the old one",
            "look whether it is the right file",
        ));
    }
    if new.ends() <= at {
        let why = format!(
            "the new certificate expires on {}, and would take over at {}",
            day(new.not_after),
            crate::clock::rfc3339(at)
        );
        return Err(Refusal::invalid(
            format!("cannot replace {}", old.name),
            why,
            "ask for one that is valid",
        ));
    }
    Ok(())
}

/// `bigmart-enc` at a time in 2027 → `bigmart-enc-2027`; `alice-2026` → `alice-2027`.
fn successor_name(old: &str, at: Millis) -> String {
    let base = match old.rsplit_once('-') {
        Some((base, year)) if year.len() == 4 && year.bytes().all(|b| b.is_ascii_digit()) => base,
        _ => old,
    };
    let zoned = Timestamp::from_millisecond(at).map(|at| at.to_zoned(jiff::tz::TimeZone::UTC));
    format!("{base}-{}", zoned.map_or(1970, |at| at.year()))
}

/// Makes past switches final: owners name the successor; the old one goes on to verify and decrypt beside it.
pub(super) fn finalize(objects: &Objects, account: &str, now: Millis) -> Vec<Change> {
    finalize_in(&mut objects.clone(), account, now)
}

/// The same, if one of these settings names a certificate: that is meant as it is, and no switch of the past goes on from it.
pub(super) fn finalize_for(settings: &[(String, String)], objects: &Objects, account: &str, now: Millis) -> Vec<Change> {
    let names = |field: &str| field.ends_with("certificate") || field == "also_decrypt";
    if settings.iter().any(|(field, _)| names(field)) {
        finalize(objects, account, now)
    } else {
        Vec::new()
    }
}

/// The objects as they are once the switches are final whose time has come; until somebody changes something they are not
/// written so.
#[must_use]
pub fn finalized(objects: &Objects, now: Millis) -> Cow<'_, Objects> {
    let accounts = accounts_with_due(objects, now);
    if accounts.is_empty() {
        return Cow::Borrowed(objects);
    }
    let mut state = objects.clone();
    for account in accounts {
        finalize_in(&mut state, account, now);
    }
    Cow::Owned(state)
}

fn accounts_with_due(objects: &Objects, now: Millis) -> BTreeSet<&str> {
    let due = |c: &&Certificate| c.takes_over_at().is_some_and(|at| at <= now);
    objects.certificates.values().filter(due).map(|c| c.account.as_str()).collect()
}

/// The certificates that have taken over by their time and are not written as [final](finalized) yet.
pub(super) fn taken_place(objects: &Objects, now: Millis) -> Vec<Certificate> {
    let accounts = accounts_with_due(objects, now);
    accounts.into_iter().flat_map(|account| due_in(objects, account, now)).collect()
}

/// Those of an account, in the order in which they did.
fn due_in(objects: &Objects, account: &str, now: Millis) -> Vec<Certificate> {
    let planned = |c: &&Certificate| c.account == account && c.takes_over_at().is_some();
    // Each chain once, from the certificate in force at its start: of thousands few are to be replaced.
    let replaced: BTreeSet<&str> = objects.certificates.values().filter(planned).map(|c| c.replaces.as_str()).collect();
    let in_force = |name: &&str| objects.certificate(account, name).is_some_and(|c| c.takes_over_at().is_none());
    let due = replaced
        .into_iter()
        .filter(in_force)
        .flat_map(|name| taken_over(objects, account, name, now));
    due.cloned().collect()
}

fn finalize_in(state: &mut Objects, account: &str, now: Millis) -> Vec<Change> {
    let due = due_in(state, account, now);
    let mut changes: Vec<Change> = Vec::new();
    for successor in due {
        let (old, new) = (&successor.replaces, &successor.name);
        let mut step: Vec<Change> = vec![successor.following_none().into()];
        for station in state.stations.values().filter(|s| s.account == account && s.certificate == *old) {
            let mut station = station.clone();
            station.certificate.clone_from(new);
            // Its own old pairs decrypt by themselves.
            let is_own = state.certificate(account, old).is_some_and(|c| c.owner == station.as2_id);
            if !is_own && !station.also_decrypt.contains(old) {
                station.also_decrypt.push(old.clone());
            }
            step.push(station.into());
        }
        for partner in state.partners.values().filter(|p| p.account == account) {
            let changed = handed_on(partner, old, new);
            if changed != *partner {
                step.push(changed.into());
            }
        }
        super::make_changes(state, &step);
        changes.extend(step);
    }
    changes
}

/// A partner once one certificate has taken over from another.
pub(super) fn handed_on(partner: &Partner, old: &str, new: &str) -> Partner {
    let mut changed = partner.clone();
    for list in [&mut changed.sign_certificate, &mut changed.https_certificate] {
        if list.iter().any(|name| name == old) && !list.iter().any(|name| name == new) {
            list.push(new.to_owned());
        }
    }
    for single in [&mut changed.encrypt_certificate, &mut changed.client_certificate] {
        if single == old {
            new.clone_into(single);
        }
    }
    changed
}
