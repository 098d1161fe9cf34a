//! The rules that objects obey, whichever way they come in. Only changed objects are judged, and what a removal would
//! leave dangling; `as2gate check` judges all of them.

mod forms;
mod partner;
mod removal;
mod warnings;

use jiff::Timestamp;

use super::switch::handed_on;
use super::{Change, Object, Refusal, Result};
use crate::account::Account;
use crate::certificate::{Certificate, Purpose};
use crate::config::Config;
use crate::hint::with_hint;
use crate::objects::{ObjectKind, Objects};
use crate::partner::Partner;
use crate::partnership::SEALED;
use crate::station::Station;
use crate::user::User;

pub use forms::{MAX_AS2_ID, MAX_CERTIFICATE_NAME, MAX_LIST, MAX_TEXT, check_as2_id, check_url};
pub use removal::used_by;
pub use warnings::warnings;

use forms::{check_cidr, check_list, check_name, check_text};

/// Judges the changed objects in the company that they would be in.
///
/// # Errors
/// The first broken rule.
pub fn check_changes(config: &Config, before: &Objects, after: &Objects, changes: &[Change]) -> Result<()> {
    for change in changes {
        match change {
            Change::Put(object) => {
                check_owner(before, object)?;
                check_object(config, after, object).map_err(|why| broken(object, &why))?;
                check_beside(before, after, object).map_err(|why| broken(object, &why))?;
            }
            Change::Remove(kind, account, name) => removal::check(before, after, *kind, account, name)?,
        }
    }
    Ok(())
}

fn broken(object: &Object, why: &str) -> Refusal {
    let (why, hint) = with_hint(why);
    let hint = if hint.is_empty() {
        let verb = if object.kind() == ObjectKind::Certificate { "add" } else { "set" };
        format!("as2gate {} {verb} --help shows the form of every setting", noun(object.kind()))
    } else {
        hint.to_owned()
    };
    Refusal::invalid(format!("cannot take {} {}", object.kind(), object.name()), why, hint)
}

/// The noun of the command line.
#[must_use]
pub fn noun(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Certificate => "cert",
        other => other.as_str(),
    }
}

/// The user that messages from the command line name in journals of before.
const FORMER_SENDER: &str = "as2gate";

/// Names that are unique on the server keep their account.
fn check_owner(before: &Objects, object: &Object) -> Result<()> {
    let other = match object {
        Object::Station(station) => before.stations.get(&station.as2_id).map(|s| s.account.as_str()),
        Object::User(user) => before.user(&user.name).map(|u| u.account.as_str()),
        _ => None,
    };
    let taken = |why: &str| {
        Refusal::exists(
            format!("cannot take {} {}", object.kind(), object.name()),
            why.to_owned(),
            "choose another name",
        )
    };
    if other.is_some_and(|account| account != object.account()) {
        return Err(taken("another account on this server has that name"));
    }
    if let Object::User(user) = object
        && before.user(&user.name).is_some_and(|u| u.name != user.name)
    {
        return Err(taken("a user of that name exists; upper and lower case do not tell users apart"));
    }
    if let Object::User(user) = object
        && user.name.eq_ignore_ascii_case(FORMER_SENDER)
        && other.is_none()
    {
        return Err(taken("that user would own what `as2gate send` has queued"));
    }
    Ok(())
}

/// Judges one object; the text after a line break is the hint.
///
/// # Errors
/// The broken rule in words.
pub fn check_object(config: &Config, objects: &Objects, object: &Object) -> Result<(), String> {
    if object.kind() != ObjectKind::Account && !objects.accounts.contains_key(object.account()) {
        return Err(format!(
            "there is no account `{}`\nas2gate account list",
            object.account().escape_default()
        ));
    }
    match object {
        Object::Account(account) => check_account(config, account),
        Object::Station(station) => check_station(objects, station),
        Object::Partner(partner) => partner::check(objects, partner),
        Object::Certificate(certificate) => check_certificate(objects, certificate),
        Object::User(user) => check_user(user),
    }
}

fn check_account(config: &Config, account: &Account) -> Result<(), String> {
    Account::new(&account.id)?;
    check_text("name", &account.name)?;
    // A machine without a time zone database knows none of them; UTC needs no database.
    let checkable = account.timezone != "UTC" && jiff::tz::db().available().next().is_some();
    if checkable && jiff::tz::TimeZone::get(&account.timezone).is_err() {
        return Err(format!(
            "timezone `{}` is not known\nwrite it like America/New_York",
            account.timezone.escape_default()
        ));
    }
    config.lifecycle.with(account.lifecycle.as_ref()).map(|_| ())
}

fn check_station(objects: &Objects, station: &Station) -> Result<(), String> {
    check_as2_id(&station.as2_id)?;
    check_text("name", &station.name)?;
    check_text("email", &station.email)?;
    if !station.url.is_empty() {
        check_url("url", &station.url)?;
    }
    check_list("also_decrypt", &station.also_decrypt)?;
    for name in station
        .also_decrypt
        .iter()
        .chain((!station.certificate.is_empty()).then_some(&station.certificate))
    {
        let certificate = expect_certificate(objects, &station.account, name)?;
        if certificate.sealed_key.is_none() {
            return Err(format!(
                "certificate {name} has no private key here, and a station signs and decrypts with one\nas2gate cert add {name} --purpose station --file FILE"
            ));
        }
    }
    Ok(())
}

fn check_certificate(objects: &Objects, certificate: &Certificate) -> Result<(), String> {
    check_name(&certificate.name)?;
    keystore::CertInfo::from_der(&certificate.der).map_err(|error| error.to_string())?;
    if matches!(certificate.purpose, Purpose::Station | Purpose::Partner) {
        as2_core::cert::Certificate::from_der(&certificate.der).map_err(|error| error.detail)?;
    }
    if certificate.purpose == Purpose::Station && certificate.signs_only() {
        return Err(format!(
            "a station signs and decrypts, and a key of the kind {} signs only\ngive an RSA or EC key",
            certificate.key
        ));
    }
    if certificate.purpose == Purpose::Station && certificate.sealed_key.is_none() {
        return Err("a station's certificate needs its private key\ngive a file with both (.p12, .pfx, .jks, .pem)".to_owned());
    }
    if certificate.sealed_key.is_some() && !matches!(certificate.purpose, Purpose::Station | Purpose::Https) {
        return Err("a partner's private key is the partner's own; nobody else may have it\nask the partner for the certificate alone (.cer, .crt, .p7b)".to_owned());
    }
    let owner = &certificate.owner;
    let known = objects.partner(&certificate.account, owner).is_some()
        || objects.stations.get(owner).is_some_and(|s| s.account == certificate.account);
    if !owner.is_empty() && !known {
        return Err(format!(
            "it belongs to `{}`, which is neither station nor partner of this account",
            owner.escape_default()
        ));
    }
    check_list("confirmed_by", &certificate.confirmed_by)?;
    if !certificate.active_from.is_empty() && certificate.active_from.parse::<Timestamp>().is_err() {
        return Err("active_from has to be a time like 2026-12-05T06:00:00Z".to_owned());
    }
    if !certificate.active_from.is_empty() && certificate.replaces.is_empty() {
        return Err("active_from is when it takes over, and nothing says from which\nname that certificate in replaces".to_owned());
    }
    if !certificate.replaces.is_empty() {
        let old = expect_certificate(objects, &certificate.account, &certificate.replaces)?;
        if old.name == certificate.name {
            return Err("it cannot replace itself".to_owned());
        }
        let mut others = objects
            .certificates
            .values()
            .filter(|c| c.account == old.account && c.replaces == old.name);
        if let Some(other) = others.find(|c| c.name != certificate.name && c.takes_over_at().is_some())
            && certificate.takes_over_at().is_some()
        {
            return Err(format!("{} is to replace {} already; one can", other.name, old.name));
        }
    }
    if certificate.takes_over_at().is_some() {
        check_switch(objects, certificate)?;
    }
    Ok(())
}

/// What a new certificate may not have in common with others, and which digests a partner may not get. What is there already
/// stands in nobody's way.
fn check_beside(before: &Objects, after: &Objects, object: &Object) -> Result<(), String> {
    let certificate = match object {
        Object::Certificate(certificate) => certificate,
        Object::Partner(partner) => return check_legacy(before, partner),
        _ => return Ok(()),
    };
    let known = before.certificate(&certificate.account, &certificate.name);
    if known.is_some_and(|known| known.der == certificate.der && !known.owner.is_empty()) {
        return Ok(());
    }
    check_alias(after, certificate)?;
    if certificate.purpose == Purpose::Station {
        check_number(after, certificate)?;
    }
    Ok(())
}

/// Digests of old partners are for those; one that the partner's settings name already may stay, and [`warnings`] tells of it.
fn check_legacy(before: &Objects, partner: &Partner) -> Result<(), String> {
    let known = before.partner(&partner.account, &partner.as2_id);
    let known = known.map(partner::legacy_digests).unwrap_or_default();
    match partner::legacy_digests(partner).into_iter().find(|named| !known.contains(named)) {
        None => Ok(()),
        Some((field, digest)) => Err(format!(
            "{field} names {digest}, which is allowed for old partners only\ntake sha256, or set legacy = true as well, if this partner can do no better"
        )),
    }
}

/// A message names the key that it is for by issuer and serial number, or by the key's identifier; only the first that is
/// named so is tried.
fn check_number(objects: &Objects, certificate: &Certificate) -> Result<(), String> {
    let read = |c: &Certificate| as2_core::cert::Certificate::from_der(&c.der).map_err(|error| error.detail);
    let own = read(certificate)?;
    let of_station = |c: &&Certificate| c.account == certificate.account && c.owner == certificate.owner && c.sealed_key.is_some();
    let others = objects
        .certificates
        .values()
        .filter(of_station)
        .filter(|c| c.name != certificate.name);
    for other in others.filter(|_| !certificate.owner.is_empty()) {
        let Ok(known) = read(other) else { continue };
        let by_number = known.issuer_der() == own.issuer_der() && known.serial() == own.serial();
        let by_key = own.ski().is_some() && known.ski() == own.ski();
        if (by_number || by_key) && !known.public_key().public_eq(own.public_key()) {
            let what = if by_number { "issuer and serial number" } else { "key identifier" };
            return Err(format!(
                "it has the {what} of {} with another key, and messages tell the key pairs of a station apart by that\nmake it with a serial number of its own",
                other.name
            ));
        }
    }
    Ok(())
}

/// In the key stores upper and lower case do not tell names apart.
fn check_alias(objects: &Objects, certificate: &Certificate) -> Result<(), String> {
    let of_account = objects.certificates.values().filter(|c| c.account == certificate.account);
    let mut others = of_account.filter(|c| c.name != certificate.name);
    match others.find(|c| c.name.eq_ignore_ascii_case(&certificate.name)) {
        None => Ok(()),
        Some(other) => Err(format!(
            "its name differs from {} in upper and lower case only, and key stores do not tell them apart\nchoose another name",
            other.name
        )),
    }
}

/// Those who are to name it obey the rules then, too: nobody is there to hear of it when the time has come.
fn check_switch(objects: &Objects, next: &Certificate) -> Result<(), String> {
    // Of a chain of switches they name the first.
    let mut named = &next.replaces;
    for _ in 0..objects.certificates.len() {
        match objects.certificate(&next.account, named).filter(|c| c.takes_over_at().is_some()) {
            Some(before) => named = &before.replaces,
            None => break,
        }
    }
    let names = |p: &&Partner| p.account == next.account && (p.encrypt_certificate == *named || p.client_certificate == *named);
    let mut partners = objects.partners.values().filter(names);
    partners.try_for_each(|partner| partner::check_certificates(objects, &handed_on(partner, named, &next.name)))
}

fn check_user(user: &User) -> Result<(), String> {
    user.kind.check_name(&user.name)?;
    check_list("keys", &user.keys)?;
    check_list("allowed_ips", &user.allowed_ips)?;
    for key in &user.keys {
        let found = keystore::ssh::parse_public(key).map_err(|error| error.to_string())?;
        if found.len() != 1 {
            return Err("each entry of keys has to be one public key".to_owned());
        }
    }
    if !user.password.is_empty() && !keystore::is_password_hash(&user.password) {
        return Err("password is not an argon2id hash of an agreed cost".to_owned());
    }
    if !user.totp.is_empty() && !user.totp.starts_with(SEALED) {
        return Err("totp is not a sealed secret; `as2gate user totp NAME` makes one".to_owned());
    }
    for block in &user.allowed_ips {
        check_cidr(block)?;
    }
    if !user.expires.is_empty() && user.expires.parse::<Timestamp>().is_err() {
        return Err(format!(
            "expires `{}` is not a time like 2027-01-31T00:00:00Z",
            user.expires.escape_default()
        ));
    }
    Ok(())
}

fn expect_certificate<'a>(objects: &'a Objects, account: &str, name: &str) -> Result<&'a Certificate, String> {
    objects
        .certificate(account, name)
        .ok_or_else(|| format!("there is no certificate `{}`\nas2gate cert list", name.escape_default()))
}
