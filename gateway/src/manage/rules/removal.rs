//! What a removal would leave dangling.

use super::noun;
use crate::certificate::Certificate;
use crate::hint::{command, listed};
use crate::manage::{Refusal, Result};
use crate::objects::{ObjectKind, Objects};

/// Refuses to remove what others need, and a partner whose records it alone keeps under legal hold.
pub(super) fn check(before: &Objects, after: &Objects, kind: ObjectKind, account: &str, name: &str) -> Result<()> {
    let (users, why, hint) = match kind {
        ObjectKind::Account => (contents(after, name), "it still has", "remove these first".to_owned()),
        ObjectKind::Station => {
            let partners = naming(after, account, name);
            let first = partners.first().map_or("", String::as_str);
            let hint = command("partner set", first, "--stations IDS");
            (partners, "partners name it:", hint)
        }
        ObjectKind::Certificate => (used_by(after, account, name), "it is used by", freed(after, account, name)),
        ObjectKind::Partner if before.partner(account, name).is_some_and(|partner| partner.hold) => {
            return Err(Refusal::failed(
                "held",
                format!("cannot remove or rename partner {name}"),
                "it is under legal hold, which its records would lose",
                command("partner set", name, "--hold false"),
            ));
        }
        ObjectKind::Partner | ObjectKind::User => return Ok(()),
    };
    if users.is_empty() {
        return Ok(());
    }
    Err(Refusal::failed(
        "in-use",
        format!("cannot remove {kind} {name}"),
        format!("{why} {}", listed(users.iter().map(String::as_str), "")),
        hint,
    ))
}

/// Everything that an account has.
fn contents(objects: &Objects, account: &str) -> Vec<String> {
    let of_account = objects
        .all()
        .filter(|(kind, owner, _)| *owner == account && *kind != ObjectKind::Account);
    of_account.map(|(kind, _, name)| format!("{} {name}", noun(kind))).collect()
}

/// What frees a certificate.
fn freed(objects: &Objects, account: &str, name: &str) -> String {
    let another = || format!("give them another certificate first: as2gate cert schedule {name} --replace-with FILE");
    relieved(objects, account, name).unwrap_or_else(another)
}

/// What frees one for which another is there: the switch that is planned already or, after one, to drop it where it goes on beside
/// its successor.
pub(super) fn relieved(objects: &Objects, account: &str, name: &str) -> Option<String> {
    let ours = |c: &&Certificate| c.account == account && c.replaces == name && !c.active_from.is_empty();
    if let Some(next) = objects.certificates.values().find(ours) {
        return Some(format!(
            "{} takes over at {}; at once by as2gate cert switch {}",
            next.name, next.active_from, next.name
        ));
    }
    for partner in objects.partners.values().filter(|partner| partner.account == account) {
        for (option, list) in [
            ("--sign-certificate", &partner.sign_certificate),
            ("--https-certificate", &partner.https_certificate),
        ] {
            let others: Vec<&str> = list.iter().map(String::as_str).filter(|other| *other != name).collect();
            if others.len() < list.len() && !others.is_empty() && partner.encrypt_certificate != name {
                let set = command("partner set", &partner.as2_id, &format!("{option} {}", others.join(",")));
                return Some(format!("it counts beside {}; to drop it: {set}", others.join(", ")));
            }
        }
    }
    None
}

/// The partners whose list of stations names one.
fn naming(objects: &Objects, account: &str, station: &str) -> Vec<String> {
    let named = |list: &[String]| list.iter().any(|name| name == station);
    let partners = objects.partners.values().filter(|p| p.account == account && named(&p.stations));
    partners.map(|partner| partner.as2_id.clone()).collect()
}

/// By whom a certificate is used, in words.
#[must_use]
pub fn used_by(objects: &Objects, account: &str, name: &str) -> Vec<String> {
    let mut users = Vec::new();
    for station in objects.stations.values().filter(|station| station.account == account) {
        if station.certificate == name || station.also_decrypt.iter().any(|other| other == name) {
            users.push(format!("station {}", station.as2_id));
        }
    }
    for partner in objects.partners.values().filter(|partner| partner.account == account) {
        let listed = partner
            .sign_certificate
            .iter()
            .chain(&partner.https_certificate)
            .any(|other| other == name);
        if listed || partner.encrypt_certificate == name || partner.client_certificate == name {
            users.push(format!("partner {}", partner.as2_id));
        }
    }
    for other in objects
        .certificates
        .values()
        .filter(|c| c.account == account && c.replaces == name && !c.active_from.is_empty())
    {
        users.push(format!("the switch to certificate {}", other.name));
    }
    users
}
