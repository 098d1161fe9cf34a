//! Partners: the remote AS2 identities and every setting about them.

use std::net::IpAddr;

use super::certificates::{self, NewCertificate};
use super::{Change, Refusal, Result, accounts, edit, fields, last_of_each, secrets, stations, switch, users};
use crate::certificate::{Certificate, Purpose, in_force};
use crate::gateway::Core;
use crate::hint::{command, instead, option};
use crate::objects::{ObjectKind, Objects};
use crate::partner::{Blocked, Partner};
use crate::url::Url;

/// The partner of that AS2 id in an account; without an account named, the only one of that id.
///
/// # Errors
/// When there is none, or several.
pub fn choose<'a>(objects: &'a Objects, account: Option<&str>, id: &str) -> Result<&'a Partner> {
    let fits = |partner: &&Partner| account.is_none_or(|account| partner.account == account);
    let mut found = objects.partners.values().filter(fits).filter(|partner| partner.as2_id == id);
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => {
            let known = objects.partners.values().filter(fits).map(|p| p.as2_id.as_str());
            let (why, hint) = instead("partners", known, "as2gate partner add ID --url URL --certificate FILE");
            Err(Refusal::not_found(format!("no partner {id}"), why, hint))
        }
        _ => Err(Refusal::usage(
            format!("which partner {id}?"),
            "several accounts have one",
            "add --account ID",
        )),
    }
}

/// A partner to be added.
pub struct NewPartner {
    /// Whose.
    pub account: Option<String>,
    /// Its AS2 id.
    pub as2_id: String,
    /// Further fields by name.
    pub settings: Vec<(String, String)>,
    /// Its certificate, for signatures and encryption.
    pub certificate: Option<NewCertificate>,
}

/// Adds a partner.
///
/// # Errors
/// When it exists, breaks a rule, or the certificate cannot be used.
pub async fn add(core: &Core, new: &NewPartner, dry_run: bool) -> Result<Partner> {
    let id = &new.as2_id;
    let fresh = fields::assign(
        &Partner {
            as2_id: id.clone(),
            ..Partner::default()
        },
        &new.settings,
    )?;
    let trusted = new.certificate.as_ref().map(NewCertificate::trusted).transpose()?;
    edit(core, dry_run, |objects| {
        let account = accounts::choose(objects, new.account.as_deref())?.id.clone();
        refuse_known(objects, &account, id)?;
        let mut partner = Partner {
            account: account.clone(),
            ..fresh.clone()
        };
        let mut changes = Vec::new();
        if let Some(chain) = &trusted {
            let wanted = new.certificate.as_ref().and_then(|given| given.name.as_ref());
            let name = certificates::new_name(objects, &account, wanted, id, core.clock.now())?;
            let certificate = certificates::trusted((&account, &name), Purpose::Partner, id, &chain.leaf)?;
            trust(&mut partner, &certificate);
            changes.extend(certificates::issuers(objects, &certificate, &chain.others)?);
            changes.push(certificate.into());
        }
        changes.insert(0, partner.clone().into());
        Ok((changes, partner))
    })
    .await
}

/// Adds a partner that is a station of this server: its id, URL and certificate are copied.
///
/// # Errors
/// When there is no such station, or the partner exists.
pub async fn add_from_station(
    core: &Core,
    account: Option<&str>,
    station_id: &str,
    settings: &[(String, String)],
    dry_run: bool,
) -> Result<Partner> {
    edit(core, dry_run, |objects| {
        let station = stations::choose(objects, None, station_id)?;
        // One account and its own stations, or another account that trades with them.
        let account = account
            .map_or(Ok(&station.account), |wanted| {
                accounts::choose(objects, Some(wanted)).map(|a| &a.id)
            })?
            .clone();
        refuse_known(objects, &account, station_id)?;
        let Some(own) = in_force(objects, &station.account, &station.certificate, core.clock.now()) else {
            let hint = format!("as2gate cert add NAME {} --file FILE", option("station", station_id));
            return Err(Refusal::not_found(
                format!("cannot copy station {station_id}"),
                "it has no certificate",
                hint,
            ));
        };
        let url = core.station_url(station);
        let copied = Partner {
            as2_id: station_id.to_owned(),
            account: account.clone(),
            name: station.name.clone(),
            email: station.email.clone(),
            private: is_private(&url),
            mdn_urls: Some(core.mdn_url(station)).filter(|to| *to != url).into_iter().collect(),
            url,
            ..Partner::default()
        };
        let mut partner = fields::assign(&copied, settings)?;
        let name = certificates::free_name(objects, &account, &format!("{}-public", own.name));
        let certificate = certificates::trusted((&account, &name), Purpose::Partner, station_id, &own.der)?;
        trust(&mut partner, &certificate);
        Ok((vec![partner.clone().into(), certificate.into()], partner))
    })
    .await
}

/// Signatures and encryption by one certificate.
fn trust(partner: &mut Partner, certificate: &Certificate) {
    partner.sign_certificate.push(certificate.name.clone());
    if partner.encrypt_certificate.is_empty() {
        partner.encrypt_certificate.clone_from(&certificate.name);
    }
}

fn refuse_known(objects: &Objects, account: &str, id: &str) -> Result<()> {
    if objects.partner(account, id).is_some() {
        return Err(Refusal::exists(
            format!("cannot add partner {id}"),
            "it exists already",
            command("partner set", id, "…"),
        ));
    }
    Ok(())
}

/// Whether a URL leads to an address that only this machine or network has. Names other than `localhost` are taken for
/// public: what they resolve to is checked with each connection.
#[must_use]
pub fn is_private(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let host = url.host();
    match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified() || in_shared_space(ip),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_unspecified(),
        Err(_) => host == "localhost" || host.ends_with(".localhost") || host.ends_with(".local") || !host.contains('.'),
    }
}

/// 100.64.0.0/10 (RFC 6598).
fn in_shared_space(ip: std::net::Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    first == 100 && (64..128).contains(&second)
}

/// Changes settings of a partner.
///
/// # Errors
/// When it is not there, a setting does not fit, or it would get another AS2 id while messages of it are in work.
pub async fn set(core: &Core, account: Option<&str>, id: &str, settings: &[(String, String)], dry_run: bool) -> Result<Partner> {
    edit(core, dry_run, |objects| {
        let account = choose(objects, account, id)?.account.as_str();
        let mut changes = switch::finalize_for(settings, objects, account, core.clock.now());
        let objects = &super::with_changes(objects, &changes);
        let old = choose(objects, Some(account), id)?;
        let mut new = fields::assign(old, settings)?;
        if new.account != old.account {
            return Err(Refusal::usage(
                "cannot move a partner to another account",
                "its records stay where they are",
                "add it there",
            ));
        }
        if new.as2_id == old.as2_id {
            changes.push(new.clone().into());
            return Ok((last_of_each(changes), new));
        }
        refuse_known(objects, &old.account, &new.as2_id)?;
        secrets::rebind_passwords(&core.master, &mut new, &old.as2_id)?;
        changes.push(new.clone().into());
        changes.push(Change::Remove(ObjectKind::Partner, old.account.clone(), old.as2_id.clone()));
        changes.extend(certificates::hand_over(
            objects,
            &old.account,
            (ObjectKind::Partner, &old.as2_id),
            &new.as2_id,
        ));
        changes.extend(confirmed_as(objects, old, &new.as2_id));
        changes.extend(users::renamed_for(
            objects,
            &old.account,
            ObjectKind::Partner,
            &old.as2_id,
            &new.as2_id,
        ));
        Ok((last_of_each(changes), new))
    })
    .await
}

/// The key pairs that a partner has taken, as taken by its new id.
fn confirmed_as(objects: &Objects, old: &Partner, id: &str) -> Vec<Change> {
    let taken = |c: &&Certificate| c.account == old.account && c.confirmed_by.contains(&old.as2_id);
    let certificates = objects.certificates.values().filter(taken).cloned();
    certificates
        .map(|mut certificate| {
            for confirmed in certificate.confirmed_by.iter_mut().filter(|known| **known == old.as2_id) {
                id.clone_into(confirmed);
            }
            certificate.confirmed_by.sort();
            certificate.into()
        })
        .collect()
}

/// Refuses traffic of a partner, or lets it pass again.
///
/// # Errors
/// When it is not there.
pub async fn block(core: &Core, account: Option<&str>, id: &str, which: Blocked, dry_run: bool) -> Result<Partner> {
    set(core, account, id, &[("blocked".to_owned(), which.to_string())], dry_run).await
}

/// Removes a partner. Its certificates stay, belonging to nobody; its records stay until their life ends.
///
/// # Errors
/// When it is not there, or messages of it are in work.
pub async fn remove(core: &Core, account: Option<&str>, id: &str, dry_run: bool) -> Result<()> {
    edit(core, dry_run, |objects| {
        let partner = choose(objects, account, id)?;
        let mut changes = vec![Change::Remove(ObjectKind::Partner, partner.account.clone(), id.to_owned())];
        changes.extend(certificates::hand_over(objects, &partner.account, (ObjectKind::Partner, id), ""));
        Ok((changes, ()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::is_private;

    #[test]
    fn private_urls_are_told_from_public_ones() {
        for private in [
            "http://localhost:8080/as2",
            "http://127.0.0.1/",
            "https://[::1]:1/",
            "http://10.1.2.3/",
            "http://100.64.0.1/",
            "http://gateway/as2",
            "HTTP://LOCALHOST/",
            "http://[FD00::1]:8080",
        ] {
            assert!(is_private(private), "{private}");
        }
        for public in [
            "https://as2.example.com/",
            "http://8.8.8.8/",
            "https://[2600::1]/",
            "http://100.128.0.1/",
            "not a url",
        ] {
            assert!(!is_private(public), "{public}");
        }
    }
}
