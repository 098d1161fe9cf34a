//! Stations: our AS2 identities.

use keystore::{CertInfo, KeyPair, KeySpec, Subject, generate};

use super::certificates::{self, NewCertificate};
use super::{Change, Refusal, Result, accounts, edit, fields, last_of_each, switch, users};
use crate::certificate::{Certificate, Purpose, in_force};
use crate::gateway::Core;
use crate::hint::{command, instead, option};
use crate::objects::{ObjectKind, Objects};
use crate::station::Station;

/// How long a certificate that we make is valid: two years.
pub const CERTIFICATE_DAYS: u32 = 730;

/// The station of that AS2 id, of the wanted account if one is wanted.
///
/// # Errors
/// When there is none.
pub fn choose<'a>(objects: &'a Objects, account: Option<&str>, id: &str) -> Result<&'a Station> {
    let fits = |station: &&Station| account.is_none_or(|account| station.account == account);
    objects.stations.get(id).filter(fits).ok_or_else(|| {
        let known = objects.stations.values().filter(fits).map(|s| s.as2_id.as_str());
        let (why, hint) = instead("stations", known, "as2gate station add ID");
        Refusal::not_found(format!("no station {id}"), why, hint)
    })
}

/// A station to be added.
pub struct NewStation {
    /// Whose.
    pub account: Option<String>,
    /// Its AS2 id.
    pub as2_id: String,
    /// Further fields by name.
    pub settings: Vec<(String, String)>,
    /// A key pair from a file; without one, a certificate is made.
    pub certificate: Option<NewCertificate>,
    /// The key of a certificate that is made.
    pub key: KeySpec,
}

/// Adds a station with its certificate.
///
/// # Errors
/// When it exists, breaks a rule, or the certificate cannot be used.
pub async fn add(core: &Core, new: &NewStation, dry_run: bool) -> Result<(Station, Certificate)> {
    let id = &new.as2_id;
    let blank = Station {
        as2_id: id.clone(),
        account: String::new(),
        name: String::new(),
        email: String::new(),
        url: String::new(),
        certificate: String::new(),
        also_decrypt: Vec::new(),
    };
    let station = fields::assign(&blank, &new.settings)?;
    if !station.certificate.is_empty() {
        return Err(Refusal::invalid(
            format!("cannot add station {id}"),
            "a new station gets a certificate of its own",
            format!(
                "add it without, then {}",
                command("station set", id, &format!("--set certificate={}", station.certificate))
            ),
        ));
    }
    super::rules::check_as2_id(id)
        .map_err(|why| Refusal::invalid(format!("cannot add station {id}"), why, "choose an id like ACME_PROD"))?;
    let pair = match &new.certificate {
        Some(given) => given.key_pair()?,
        None => make_pair(core, new.key, &station)?,
    };
    edit(core, dry_run, |objects| {
        if objects.stations.contains_key(id) {
            return Err(Refusal::exists(
                format!("cannot add station {id}"),
                "it exists already",
                command("station set", id, "…"),
            ));
        }
        let account = accounts::choose(objects, new.account.as_deref())?.id.clone();
        let wanted = new.certificate.as_ref().and_then(|given| given.name.as_ref());
        let name = certificates::new_name(objects, &account, wanted, id, core.clock.now())?;
        let certificate = certificates::with_key(core, (&account, &name), Purpose::Station, id, &pair)?;
        let station = Station {
            account,
            certificate: name,
            ..station.clone()
        };
        Ok((vec![station.clone().into(), certificate.clone().into()], (station, certificate)))
    })
    .await
}

/// A new key pair with a self-signed certificate for a station.
///
/// # Errors
/// The keystore's.
pub(super) fn make_pair(core: &Core, key: KeySpec, station: &Station) -> Result<KeyPair> {
    // A common name ends at 64 characters; an AS2 id may have 128.
    let cn: String = station.as2_id.chars().take(generate::MAX_NAME_CHARS).collect();
    let org = (!station.name.is_empty()).then(|| station.name.chars().take(generate::MAX_NAME_CHARS).collect());
    let email = Some(&station.email)
        .filter(|email| email.is_ascii() && email.contains('@'))
        .cloned();
    let subject = Subject {
        cn,
        org,
        email,
        country: None,
    };
    let pair = keystore::identity(key, &subject, core.clock.now() / 1000, CERTIFICATE_DAYS);
    pair.map_err(|error| Refusal::from_keystore(format!("cannot make a certificate for {}", station.as2_id), &error))
}

/// Changes settings of a station.
///
/// # Errors
/// When it is not there, a setting does not fit, or it would get another AS2 id while messages of it are in work.
pub async fn set(core: &Core, account: Option<&str>, id: &str, settings: &[(String, String)], dry_run: bool) -> Result<Station> {
    edit(core, dry_run, |objects| {
        let account = choose(objects, account, id)?.account.as_str();
        let mut changes = switch::finalize_for(settings, objects, account, core.clock.now());
        let objects = &super::with_changes(objects, &changes);
        let old = choose(objects, Some(account), id)?;
        let new = fields::assign(old, settings)?;
        if new.account != old.account {
            return Err(Refusal::usage(
                "cannot move a station to another account",
                "its records stay where they are",
                "add it there under another AS2 id",
            ));
        }
        if new.as2_id == old.as2_id {
            changes.push(new.clone().into());
        } else {
            changes.extend(rename(objects, old, &new)?);
        }
        Ok((last_of_each(changes), new))
    })
    .await
}

/// A new AS2 id: certificates and the lists of partners and users follow, folders and history do not.
fn rename(objects: &Objects, old: &Station, new: &Station) -> Result<Vec<Change>> {
    if objects.stations.contains_key(&new.as2_id) {
        return Err(Refusal::exists(
            format!("cannot rename station {}", old.as2_id),
            format!("{} exists already", new.as2_id),
            "choose another AS2 id",
        ));
    }
    let mut changes = vec![
        new.clone().into(),
        Change::Remove(ObjectKind::Station, old.account.clone(), old.as2_id.clone()),
    ];
    changes.extend(certificates::hand_over(
        objects,
        &old.account,
        (ObjectKind::Station, &old.as2_id),
        &new.as2_id,
    ));
    for partner in objects
        .partners
        .values()
        .filter(|p| p.account == old.account && p.stations.contains(&old.as2_id))
    {
        let mut partner = partner.clone();
        partner
            .stations
            .iter_mut()
            .filter(|s| **s == old.as2_id)
            .for_each(|s| s.clone_from(&new.as2_id));
        changes.push(partner.into());
    }
    changes.extend(users::renamed_for(
        objects,
        &old.account,
        ObjectKind::Station,
        &old.as2_id,
        &new.as2_id,
    ));
    Ok(changes)
}

/// Removes a station. Its certificates stay, belonging to nobody.
///
/// # Errors
/// When it is not there, a partner names it, or messages of it are in work.
pub async fn remove(core: &Core, account: Option<&str>, id: &str, dry_run: bool) -> Result<()> {
    edit(core, dry_run, |objects| {
        let station = choose(objects, account, id)?;
        let mut changes = vec![Change::Remove(ObjectKind::Station, station.account.clone(), id.to_owned())];
        changes.extend(certificates::hand_over(objects, &station.account, (ObjectKind::Station, id), ""));
        Ok((changes, ()))
    })
    .await
}

/// What a partner asks for by mail.
///
/// # Errors
/// When the station has no certificate.
pub fn profile(core: &Core, objects: &Objects, station: &Station) -> Result<String> {
    let what = || format!("cannot write a profile of {}", station.as2_id);
    let Some(certificate) = in_force(objects, &station.account, &station.certificate, core.clock.now()) else {
        return Err(Refusal::not_found(
            what(),
            "it has no certificate",
            format!("as2gate cert add NAME {} --file FILE", option("station", &station.as2_id)),
        ));
    };
    let info = CertInfo::from_der(&certificate.der).map_err(|error| Refusal::from_keystore(what(), &error))?;
    let next = objects
        .certificates
        .values()
        .find(|c| c.account == station.account && c.replaces == certificate.name && !c.active_from.is_empty());
    let (signature, transport) = if info.key.starts_with("RSA") {
        ("RSA", "RSA key transport")
    } else {
        ("ECDSA", "ECDH key agreement with SHA-256 and AES key wrap")
    };
    let lines = [
        ("AS2 id", station.as2_id.clone()),
        ("Name", station.name.clone()),
        ("E-mail", station.email.clone()),
        ("URL", core.station_url(station)),
        ("URL for async MDNs", core.mdn_url(station)),
        (
            "Signature",
            format!("SHA-256 with {signature} (SHA-384, SHA-512 on request); detached, certificate included"),
        ),
        ("Encryption", format!("AES-256-CBC (AES-128, AES-192, GCM on request); {transport}")),
        ("Compression", "ZLIB understood, before or after signing".to_owned()),
        ("MDN", "synchronous and signed preferred; asynchronous possible".to_owned()),
        (
            "Certificate",
            format!("{} ({}), serial {}", info.subject, info.key, info.serial_hex),
        ),
        ("Valid until", certificates::day(info.not_after)),
        ("SHA-256 fingerprint", certificates::colons(&info.sha256)),
        ("SHA-1 fingerprint", certificates::colons(&info.sha1)),
        ("Next certificate", next.map(describe_next).unwrap_or_default()),
    ];
    let mut text = String::new();
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("{name:<21}{value}\n"));
    }
    text.push('\n');
    for certificate in std::iter::once(certificate).chain(next) {
        text.push_str(&keystore::to_pem("CERTIFICATE", &certificate.der));
    }
    Ok(text)
}

/// What a partner has to know of the certificate that takes over.
fn describe_next(next: &Certificate) -> String {
    format!(
        "{} from {}, the second below; take both, SHA-256 {}",
        next.key,
        next.active_from,
        certificates::colons(&next.fingerprint)
    )
}
