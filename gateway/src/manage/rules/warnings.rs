//! What is legal and will not do its work.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::partner::legacy_digests;
use super::removal::relieved;
use super::used_by;
use crate::certificate::Certificate;
use crate::clock::Millis;
use crate::config::Config;
use crate::hint::{at_a_glance, command, option};
use crate::layout::Place;
use crate::login::LoginStep;
use crate::manage::certificates::day;
use crate::manage::expiry::replacing;
use crate::manage::switch::finalized;
use crate::objects::Objects;
use crate::partner::Partner;
use crate::url::Url;
use crate::user::User;

/// What is wrong, and the command that mends it.
type Warning = (String, String);

/// What `check` says about an object that is legal and will not do its work.
#[must_use]
pub fn warnings(config: &Config, objects: &Objects, now: Millis) -> Vec<Warning> {
    let bare = objects.stations.values().filter(|station| station.certificate.is_empty());
    let mut found: Vec<Warning> = bare
        .map(|station| {
            (
                format!("station {} has no certificate", station.as2_id),
                format!("as2gate cert add NAME {} --file FILE", option("station", &station.as2_id)),
            )
        })
        .collect();
    objects
        .partners
        .values()
        .for_each(|partner| of_partner(objects, partner, &mut found));
    if config.public_url.is_empty() {
        found.extend(objects.partners.values().filter_map(|partner| unreachable(objects, partner)));
    }
    look_alikes(objects, &mut found);
    let faulty: Vec<_> = objects.certificates.values().filter_map(|c| Some((c, fault(c, now)?))).collect();
    if !faulty.is_empty() {
        let settled = finalized(objects, now);
        for (certificate, fault) in faulty {
            if !used_by(&settled, &certificate.account, &certificate.name).is_empty() {
                let what = format!("certificate {} {fault} and is in use", certificate.name);
                let relieved = relieved(&settled, &certificate.account, &certificate.name);
                found.push((what, relieved.unwrap_or_else(|| replacing(certificate))));
            }
        }
    }
    found.extend(crate::manage::rollover::warnings(objects));
    found.extend(crate::manage::rollover::unconfirmed(objects));
    objects.users.values().for_each(|user| of_user(objects, user, now, &mut found));
    found
}

/// Why partners may refuse what is made with this certificate.
fn fault(certificate: &Certificate, now: Millis) -> Option<String> {
    if certificate.ends() < now {
        Some("has expired".to_owned())
    } else if certificate.not_before.saturating_mul(1000) > now {
        Some(format!("is not valid before {}", day(certificate.not_before)))
    } else {
        let bits = certificate.short_rsa_bits()?;
        Some(format!("has a key of {bits} bits, which is too short today,"))
    }
}

fn of_partner(objects: &Objects, partner: &Partner, found: &mut Vec<Warning>) {
    let id = &partner.as2_id;
    if partner.url.is_empty() {
        found.push((format!("partner {id} has no url"), command("partner set", id, "--url URL")));
    }
    let certificate = format!("as2gate cert add NAME {} --file FILE", option("partner", id));
    if partner.encrypt.is_some() && partner.encrypt_certificate.is_empty() {
        found.push((format!("partner {id} has no encryption certificate"), certificate.clone()));
    }
    if partner.sign_certificate.is_empty() && (partner.require_signed || partner.mdn.is_signed()) {
        found.push((format!("partner {id} has no signing certificate"), certificate));
    }
    let recipient = objects.certificate(&partner.account, &partner.encrypt_certificate);
    if partner.encrypt.is_some()
        && let Some(recipient) = recipient
        && let Some(uses) = keystore::uses_without_encryption(&recipient.der)
    {
        let what = format!(
            "partner {id} has {} for encryption, which by its keyUsage is for {} only",
            recipient.name,
            uses.join(", ")
        );
        let add = format!("as2gate cert add NAME {} --use encrypt --file FILE", option("partner", id));
        found.push((what, format!("ask whether it has another one for that; {add}")));
    }
    if let Some((what, settings)) = legacy(partner) {
        let hint = command("partner set", id, &settings);
        found.push((what, format!("{hint}, or --legacy true if it can do no better")));
    }
}

/// Digests that the partner's messages and MDNs may not have, and the settings without them.
fn legacy(partner: &Partner) -> Option<(String, String)> {
    let named = legacy_digests(partner);
    let words: Vec<String> = named.iter().map(|(field, digest)| format!("{field} {digest}")).collect();
    let mut mended = Vec::new();
    if named.iter().any(|(field, _)| *field == "sign") {
        mended.push("--sign sha256".to_owned());
    }
    if named.iter().any(|(field, _)| *field == "micalgs") {
        let kept = partner.micalgs.iter().filter(|digest| !digest.is_legacy());
        let kept: Vec<&str> = kept.map(|digest| digest.as_str()).collect();
        mended.push(format!(
            "--micalgs {}",
            if kept.is_empty() { "sha256".to_owned() } else { kept.join(",") }
        ));
    }
    let id = &partner.as2_id;
    let what = format!(
        "partner {id} has {}, and MDNs by that are refused without legacy",
        words.join(" and ")
    );
    (!named.is_empty()).then(|| (what, mended.join(" ")))
}

/// Without a `public_url`, nor one of a station, async MDNs are asked for at this machine's own name, where only itself gets.
fn unreachable(objects: &Objects, partner: &Partner) -> Option<Warning> {
    let mut stations = objects.stations.values();
    let station = stations.find(|s| s.account == partner.account && s.url.is_empty() && partner.trades_with(&s.as2_id))?;
    let asked = partner.mdn.is_async() && !partner.url.is_empty() && !is_here(&partner.url);
    asked.then(|| {
        (
            format!(
                "partner {} is asked for async MDNs at http://localhost, where it does not get",
                partner.as2_id
            ),
            format!(
                "set public_url in the configuration, or {}",
                command("station set", &station.as2_id, "--url URL")
            ),
        )
    })
}

/// Whether a URL leads to this machine itself.
fn is_here(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| {
        let host = url.host();
        let address = host.parse::<IpAddr>();
        host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|ip| ip.to_canonical().is_loopback())
    })
}

/// AS2 ids, or names, of an account that people take for one another: they differ in upper and lower case or in blanks only.
fn look_alikes(objects: &Objects, found: &mut Vec<Warning>) {
    let stations = objects.stations.values().map(|s| (&s.account, "station", &s.as2_id, &s.name));
    let partners = objects.partners.values().map(|p| (&p.account, "partner", &p.as2_id, &p.name));
    let mut alike: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (account, noun, id, name) in stations.chain(partners) {
        for (what, text) in [("AS2 ids", id), ("names", name)] {
            let glance = at_a_glance(text);
            if !glance.is_empty() {
                let key = (account, what, glance);
                alike.entry(key).or_default().push((noun, id, text));
            }
        }
    }
    for ((_, what, _), group) in alike {
        let pairs = group.iter().zip(group.iter().skip(1));
        for ((noun, id, text), (second, other, another)) in pairs.filter(|((.., one), (.., other))| one != other) {
            let told = format!("{second} {other} and {noun} {id} have {what} that differ in case or blanks only");
            found.push(if what == "names" {
                let hint = command(&format!("{second} set"), other, "--name NAME");
                (format!("{told}: {another}, {text}"), hint)
            } else {
                let hint = command(&format!("{second} rm"), other, "");
                (told, format!("if one is a slip: {hint}"))
            });
        }
    }
}

fn of_user(objects: &Objects, user: &User, now: Millis, found: &mut Vec<Warning>) {
    let name = &user.name;
    let key = format!("key add {name} --public-key FILE");
    let lacks = [
        (LoginStep::PublicKey, user.keys.is_empty(), "no key", key),
        (
            LoginStep::Password,
            user.password.is_empty(),
            "no password",
            format!("password {name}"),
        ),
        (LoginStep::Totp, user.totp.is_empty(), "no secret for codes", format!("totp {name}")),
    ];
    for (_, _, lack, hint) in lacks.into_iter().filter(|(step, empty, ..)| *empty && user.login.has(*step)) {
        found.push((
            format!("user {name} has {lack} and cannot log in with {}", user.login.describe()),
            format!("as2gate user {hint}"),
        ));
    }
    // One that is set before its station is there is legal; one that is spelled wrongly hides everything.
    let stations = objects.stations.values().map(|s| (&s.account, &s.as2_id));
    let partners = objects.partners.values().map(|p| (&p.account, &p.as2_id));
    let narrowed = [
        ("station", &user.stations, stations.collect::<Vec<_>>()),
        ("partner", &user.partners, partners.collect()),
    ];
    for (noun, ids, known) in narrowed {
        for id in ids.iter().filter(|id| !known.contains(&(&user.account, id))) {
            let what = format!("user {name} is to see {noun} {id}, and there is none");
            found.push((what, format!("as2gate user set {name} --{noun}s IDS")));
        }
    }
    for right in &user.rights {
        let prefix: Vec<&str> = right.prefix.iter().map(String::as_str).collect();
        if matches!(Place::read(&prefix), Place::Nowhere | Place::Closed) {
            let what = format!("user {name} has rights at {}, and nothing can be there", prefix.join("/"));
            found.push((what, format!("as2gate user set {name} --rights AS2/send=rw,AS2/files=r")));
        }
    }
    let ended = user.expires.parse::<jiff::Timestamp>().is_ok_and(|end| end.as_millisecond() <= now);
    if ended && user.enabled {
        let what = format!("user {name} expired at {} and cannot log in", user.expires);
        found.push((what, format!("as2gate user set {name} --expires TIME, or user disable {name}")));
    }
}
