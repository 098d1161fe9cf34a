//! Certificates: key pairs and trusted certificates, their import and their use.

use jiff::Timestamp;
use keystore::{CertInfo, Imported, KeyPair};
use zeroize::Zeroizing;

use super::switch::finalize;
use super::{Change, Object, Refusal, Result, accounts, edit, last_of_each, rollover, rules, stations, stores};
use crate::certificate::{Certificate, Purpose};
use crate::clock::{self, Millis};
use crate::gateway::Core;
use crate::hint::{listed, option};
use crate::objects::{ObjectKind, Objects};
use crate::words;

/// A file with a certificate, as somebody gives it. No `Debug`: it may hold a key.
pub struct NewCertificate {
    /// Its name here; `None` makes one of the owner's.
    pub name: Option<String>,
    /// PEM, DER, P7B, PKCS#12 or JKS.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Opens the file, if it is closed.
    pub passphrase: Option<Zeroizing<String>>,
    /// The entry wanted of a store with several.
    pub alias: Option<String>,
}

/// Certificates of a file.
pub struct Trusted {
    /// The one that it is about.
    pub leaf: Vec<u8>,
    /// What else was in the file: its issuers.
    pub others: Vec<Vec<u8>>,
}

impl NewCertificate {
    fn import(&self) -> Result<Imported> {
        let passphrase = self.passphrase.as_ref().map(|text| text.as_str());
        let imported = match &self.alias {
            Some(alias) => keystore::import_alias(&self.bytes, passphrase, alias),
            None => keystore::import(&self.bytes, passphrase),
        };
        imported.map_err(|error| Refusal::from_keystore("cannot take this certificate", &error))
    }

    /// Certificate and private key.
    ///
    /// # Errors
    /// When the file does not open, or lacks one of them.
    pub fn key_pair(&self) -> Result<KeyPair> {
        paired(self.import()?).map(|(pair, _)| pair)
    }

    /// The certificates, and the key pair if there has to be one. Its key is in the file or, where a CA issued the certificate for a
    /// key of this account, here.
    pub(super) fn read(&self, with_private: bool, core: &Core, account: &str) -> Result<(Option<KeyPair>, Trusted)> {
        if !with_private {
            return self.trusted().map(|chain| (None, chain));
        }
        let mut imported = self.import()?;
        if let (None, Some(leaf)) = (&imported.key, imported.certificates.first()) {
            let objects = super::objects(core)?;
            let Some(key) = key_here(core, &objects, account, leaf)? else {
                return Err(Refusal::invalid(
                    "cannot take this certificate",
                    "its private key is neither in the file nor here",
                    "give the file with both (.p12, .pfx, .jks, or key and certificate in one .pem)",
                ));
            };
            imported.key = Some(key);
        }
        let (pair, others) = paired(imported)?;
        let leaf = pair.certificate.clone();
        Ok((Some(pair), Trusted { leaf, others }))
    }

    /// Certificates without a key.
    ///
    /// # Errors
    /// When the file does not open, or has a private key in it.
    pub fn trusted(&self) -> Result<Trusted> {
        let imported = self.import()?;
        if imported.key.is_some() && imported.certificates.is_empty() {
            return Err(Refusal::from_keystore(
                "cannot take this certificate",
                &keystore::Error::KeyWithoutCertificate,
            ));
        }
        refuse_key(&imported, "cannot take this certificate")?;
        let mut all = imported.certificates.into_iter();
        let leaf = all
            .next()
            .ok_or_else(|| Refusal::invalid("cannot take this certificate", "the file has none in it", "export it again"))?;
        Ok(Trusted {
            leaf,
            others: all.collect(),
        })
    }
}

/// The private key of a certificate, if another certificate of its account is of the same one.
pub(super) fn key_here(core: &Core, objects: &Objects, account: &str, der: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let mut ours = objects
        .certificates
        .values()
        .filter(|c| c.account == account && c.sealed_key.is_some());
    let of_its_key = ours.find(|c| keystore::of_one_key(&c.der, der));
    of_its_key.map(|c| stores::private_key(core, c)).transpose()
}

/// The key pair of a file, and the issuers.
pub(super) fn paired(imported: Imported) -> Result<(KeyPair, Vec<Vec<u8>>)> {
    let (certificate, key) = imported
        .key_pair()
        .map_err(|error| Refusal::from_keystore("cannot take this key pair", &error))?;
    let pair = KeyPair {
        pkcs8: Zeroizing::new(key.to_vec()),
        certificate: certificate.to_vec(),
    };
    Ok((pair, imported.certificates.into_iter().skip(1).collect()))
}

/// A partner's file is not to have a private key in it.
pub(super) fn refuse_key(imported: &Imported, what: &str) -> Result<()> {
    if imported.key.is_none() {
        return Ok(());
    }
    Err(Refusal::invalid(
        what,
        "the file has a private key in it, which only its owner may have",
        "ask the partner for the certificate alone (.cer, .crt, .p7b), and tell them that their key is out",
    ))
}

/// The rest of a certificate's file as certificates of purpose `partner-chain`, named after it; those known are left out. None of a
/// station's: partners ask for the issuers of what we show them in TLS only.
///
/// # Errors
/// A certificate that cannot be read.
pub(super) fn issuers(objects: &Objects, leaf: &Certificate, others: &[Vec<u8>]) -> Result<Vec<Change>> {
    if leaf.purpose == Purpose::Station {
        return Ok(Vec::new());
    }
    let account = leaf.account.as_str();
    let known = |der: &Vec<u8>| objects.certificates.values().any(|c| c.account == account && c.der == *der);
    let fresh = others.iter().filter(|der| !known(der)).enumerate();
    fresh
        .map(|(n, der)| {
            // Partners may share the name of a leaf in the course of years.
            let name = free_name(objects, account, &format!("{}-ca{}", leaf.name, n + 1));
            trusted((account, &name), Purpose::PartnerChain, &leaf.owner, der).map(Change::from)
        })
        .collect()
}

/// The object of a trusted certificate.
///
/// # Errors
/// When the bytes are no certificate.
pub(super) fn trusted((account, name): (&str, &str), purpose: Purpose, owner: &str, der: &[u8]) -> Result<Certificate> {
    let info = CertInfo::from_der(der).map_err(|error| Refusal::from_keystore(format!("cannot take certificate {name}"), &error))?;
    Ok(Certificate {
        name: name.to_owned(),
        account: account.to_owned(),
        purpose,
        owner: owner.to_owned(),
        der: der.to_vec(),
        sealed_key: None,
        replaces: String::new(),
        active_from: String::new(),
        confirmed_by: Vec::new(),
        subject: info.subject,
        fingerprint: info.sha256,
        key: info.key,
        not_before: info.not_before,
        not_after: info.not_after,
    })
}

/// The object of a key pair, its key sealed.
///
/// # Errors
/// When the certificate cannot be read or the key not sealed.
pub(super) fn with_key(core: &Core, (account, name): (&str, &str), purpose: Purpose, owner: &str, pair: &KeyPair) -> Result<Certificate> {
    let mut certificate = trusted((account, name), purpose, owner, &pair.certificate)?;
    if certificate.key == "unknown" || certificate.signs_only() {
        let why = format!("its key is {}, which AS2 partners do not understand", certificate.key);
        return Err(Refusal::invalid(
            format!("cannot take certificate {name}"),
            why,
            "give an RSA or EC key",
        ));
    }
    let sealed = core.master.seal(&Certificate::seal_context(account, name), &pair.pkcs8);
    certificate.sealed_key = Some(sealed.map_err(|error| Refusal::from_keystore("cannot seal a private key", &error))?);
    Ok(certificate)
}

/// The certificate of that name in an account; without an account named, the only one of that name.
///
/// # Errors
/// When there is none, or several.
pub fn choose<'a>(objects: &'a Objects, account: Option<&str>, name: &str) -> Result<&'a Certificate> {
    let fits = |certificate: &&Certificate| account.is_none_or(|account| certificate.account == account);
    let mut found = objects
        .certificates
        .values()
        .filter(fits)
        .filter(|certificate| certificate.name == name);
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => {
            let known = listed(objects.certificates.values().filter(fits).map(|c| c.name.as_str()), "none");
            Err(Refusal::not_found(
                format!("no certificate {name}"),
                format!("known certificates: {known}"),
                "as2gate cert list",
            ))
        }
        _ => Err(Refusal::usage(
            format!("which certificate {name}?"),
            "several accounts have one",
            "add --account ID",
        )),
    }
}

/// `ALICE` → `alice-2026`: a name for a new certificate.
#[must_use]
pub fn name_for(id: &str, now: Millis) -> String {
    let year = Timestamp::from_millisecond(now).map_or(1970, |at| at.to_zoned(jiff::tz::TimeZone::UTC).year());
    let plain: String = id
        .to_ascii_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '_' | '.') {
                c
            } else {
                '-'
            }
        })
        .collect();
    let plain = plain.trim_start_matches(['-', '.']);
    // Room for the year and a number behind it.
    let plain = plain.get(..plain.len().min(rules::MAX_CERTIFICATE_NAME - 16)).unwrap_or(plain);
    if plain.is_empty() {
        format!("cert-{year}")
    } else {
        format!("{plain}-{year}")
    }
}

/// The name, or with `-2`, `-3`, … behind it, whichever is free.
#[must_use]
pub fn free_name(objects: &Objects, account: &str, wanted: &str) -> String {
    let numbered = (2u32..).map(|n| format!("{wanted}-{n}"));
    let mut candidates = std::iter::once(wanted.to_owned()).chain(numbered);
    // Key stores do not tell names apart by upper and lower case.
    let known = objects.certificates.values().filter(|c| c.account == account).map(|c| &c.name);
    candidates
        .find(|name| !known.clone().any(|known| known.eq_ignore_ascii_case(name)))
        .unwrap_or_else(|| wanted.to_owned())
}

/// Refuses a name that is taken.
pub(super) fn expect_free(objects: &Objects, account: &str, name: &str) -> Result<()> {
    match objects.certificate(account, name) {
        None => Ok(()),
        Some(_) => Err(taken(name)),
    }
}

fn taken(name: &str) -> Refusal {
    Refusal::exists(
        format!("cannot add certificate {name}"),
        "the name is taken",
        "choose another name, e.g. with the year in it",
    )
}

/// The name that is wanted, if it is free, or one made of the owner's id.
pub(super) fn new_name(objects: &Objects, account: &str, wanted: Option<&String>, id: &str, now: Millis) -> Result<String> {
    match wanted {
        Some(name) => expect_free(objects, account, name).map(|()| name.clone()),
        None => Ok(free_name(objects, account, &name_for(id, now))),
    }
}

/// Refuses changes that put another certificate in the place of one, or leave its private key out.
pub(super) fn expect_kept(before: &Objects, changes: &[Change]) -> Result<()> {
    let lost = |change: &Change| match change {
        Change::Put(Object::Certificate(new)) => {
            let old = before.certificate(&new.account, &new.name);
            old.is_some_and(|old| old.der != new.der || old.sealed_key.is_some() && new.sealed_key.is_none())
                .then(|| taken(&new.name))
        }
        _ => None,
    };
    changes.iter().find_map(lost).map_or(Ok(()), Err)
}

/// Certificates of a station or partner under its new id, or of nobody.
pub(super) fn hand_over(objects: &Objects, account: &str, (noun, from): (ObjectKind, &str), to: &str) -> Vec<Change> {
    // A station and a partner of one id may stand side by side: the key pairs are the station's, the others the partner's.
    let both = objects.partner(account, from).is_some() && objects.stations.get(from).is_some_and(|s| s.account == account);
    let serves = |c: &Certificate| !both || c.sealed_key.is_some() == (noun == ObjectKind::Station);
    let owned = objects
        .certificates
        .values()
        .filter(|c| c.account == account && c.owner == from && serves(c));
    owned
        .map(|c| {
            Certificate {
                owner: to.to_owned(),
                ..c.clone()
            }
            .into()
        })
        .collect()
}

words! {
    /// What a partner's new certificate is for.
    pub enum Use {
        /// Signatures and, if there is no usable one yet, encryption.
        Auto = "auto",
        /// Signatures and encryption.
        Both = "both",
        /// Signatures only.
        Sign = "sign",
        /// Encryption only.
        Encrypt = "encrypt",
        /// TLS of its server: pinned.
        Https = "https",
    }
}

/// Whom a new certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum For {
    /// A station; `true` makes it the one that signs.
    Station(String, bool),
    /// A partner.
    Partner(String, Use),
    /// Our own TLS.
    Https,
    /// Nobody yet.
    Purpose(Purpose),
}

impl For {
    /// Whose objects they are.
    fn account(&self, objects: &Objects, account: Option<&str>) -> Result<String> {
        Ok(match self {
            For::Station(id, _) => stations::choose(objects, account, id)?.account.clone(),
            For::Partner(id, _) => super::partners::choose(objects, account, id)?.account.clone(),
            For::Https | For::Purpose(_) => accounts::choose(objects, account)?.id.clone(),
        })
    }
}

/// A certificate signing request for the key of a certificate, PKCS#10 in DER.
///
/// # Errors
/// When its private key is not here.
pub fn request(core: &Core, certificate: &Certificate) -> Result<Vec<u8>> {
    let key = stores::private_key(core, certificate)?;
    let made = keystore::request(&certificate.der, &key);
    made.map_err(|error| Refusal::from_keystore(format!("cannot make a request for {}", certificate.name), &error))
}

/// A certificate that was added.
#[derive(Debug)]
pub struct Added {
    /// The certificate.
    pub certificate: Certificate,
    /// The station or partner that uses it, as it is now.
    pub user: Option<Object>,
}

/// Adds a certificate and gives it to its owner.
///
/// # Errors
/// When the name is taken, the file cannot be used, or the owner is not there.
pub async fn add(core: &Core, account: Option<&str>, name: &str, new: &NewCertificate, whom: &For, dry_run: bool) -> Result<Added> {
    let with_private = matches!(
        whom,
        For::Station(..) | For::Https | For::Purpose(Purpose::Station | Purpose::Https)
    );
    let account = whom.account(&super::objects(core)?, account)?;
    let (pair, Trusted { leaf, others }) = new.read(with_private, core, &account)?;
    edit(core, dry_run, |objects| {
        let account = whom.account(objects, Some(&account))?;
        expect_free(objects, &account, name)?;
        let (purpose, owner) = match whom {
            For::Station(id, _) => (Purpose::Station, id.as_str()),
            For::Partner(id, Use::Https) => (Purpose::Https, id.as_str()),
            For::Partner(id, _) => (Purpose::Partner, id.as_str()),
            For::Https => (Purpose::Https, ""),
            For::Purpose(purpose) => (*purpose, ""),
        };
        let mut changes = finalize(objects, &account, core.clock.now());
        let objects = &super::with_changes(objects, &changes);
        let certificate = match &pair {
            Some(pair) => with_key(core, (&account, name), purpose, owner, pair)?,
            None => trusted((&account, name), purpose, owner, &leaf)?,
        };
        changes.extend(issuers(objects, &certificate, &others)?);
        let user = give(core, objects, &account, &certificate, whom)?;
        changes.extend(user.clone().map(Change::Put));
        changes.insert(0, certificate.clone().into());
        Ok((last_of_each(changes), Added { certificate, user }))
    })
    .await
}

/// The owner's object with the certificate in the right places.
fn give(core: &Core, objects: &Objects, account: &str, certificate: &Certificate, whom: &For) -> Result<Option<Object>> {
    let name = &certificate.name;
    match whom {
        For::Station(id, activate) => {
            let mut station = stations::choose(objects, Some(account), id)?.clone();
            if *activate || station.certificate.is_empty() {
                station.certificate.clone_from(name);
                return Ok(Some(Object::Station(station)));
            }
            Ok(None)
        }
        For::Partner(id, purpose) => {
            let mut partner = super::partners::choose(objects, Some(account), id)?.clone();
            let present = objects.certificate(account, &partner.encrypt_certificate);
            let usable = present.is_some_and(|c| c.not_after.saturating_mul(1000) > core.clock.now());
            match purpose {
                Use::Https => partner.https_certificate.push(name.clone()),
                Use::Sign => partner.sign_certificate.push(name.clone()),
                Use::Encrypt => partner.encrypt_certificate.clone_from(name),
                Use::Both | Use::Auto => {
                    partner.sign_certificate.push(name.clone());
                    if *purpose == Use::Both || !usable {
                        partner.encrypt_certificate.clone_from(name);
                    }
                }
            }
            Ok(Some(Object::Partner(Box::new(partner))))
        }
        For::Https | For::Purpose(_) => Ok(None),
    }
}

/// Removes an unused certificate, and the private key with it.
///
/// # Errors
/// When it is not there, or in use: then by whom.
pub async fn remove(core: &Core, account: Option<&str>, name: &str, dry_run: bool) -> Result<()> {
    edit(core, dry_run, |objects| {
        let certificate = choose(objects, account, name)?;
        // A station decrypts with every key pair that belongs to it; only the one that signs is held, and a switch whose
        // time has come has let the old one go.
        let mut changes = finalize(objects, &certificate.account, core.clock.now());
        let settled = super::with_changes(objects, &changes);
        expect_unplanned(&settled, &certificate.account, name)?;
        // One that waits for its CA follows nobody then.
        let waiting = settled.certificates.values().filter(|c| c.awaits_ca(certificate));
        changes.extend(waiting.map(|c| c.following_none().into()));
        changes.push(Change::Remove(
            ObjectKind::Certificate,
            certificate.account.clone(),
            name.to_owned(),
        ));
        Ok((last_of_each(changes), ()))
    })
    .await
}

/// Refuses to remove what nobody uses yet: one that is to take over, or a key pair that partners have taken.
pub(super) fn expect_unplanned(settled: &Objects, account: &str, name: &str) -> Result<()> {
    let Some(certificate) = settled.certificate(account, name) else {
        return Ok(());
    };
    let relying = rollover::relying(settled, certificate);
    let ids = listed(relying.iter().map(String::as_str), "");
    let (why, hint) = if certificate.takes_over_at().is_some() {
        let taken = match relying.is_empty() {
            true => String::new(),
            false => format!(", and has been taken by {ids}"),
        };
        (
            format!("it takes over from {} at {}{taken}", certificate.replaces, certificate.active_from),
            format!("as2gate cert switch {name} --cancel calls that off"),
        )
    } else if !relying.is_empty() && rules::used_by(settled, account, name).is_empty() {
        (
            format!("it has been taken by {ids}, and no newer one"),
            format!(
                "once they use another: as2gate cert confirm {name} {} --undo",
                option("partner", if relying.len() == 1 { &ids } else { "IDS" })
            ),
        )
    } else {
        return Ok(());
    };
    Err(Refusal::failed("in-use", format!("cannot remove certificate {name}"), why, hint))
}

/// `2028-11-21` of a time in unix seconds.
#[must_use]
pub fn day(seconds: i64) -> String {
    let at = clock::rfc3339(seconds.saturating_mul(1000));
    at.split_once('T').map_or_else(String::new, |(day, _)| day.to_owned())
}

/// `ab:cd:…` of hexadecimal digits, as other products show fingerprints.
#[must_use]
pub fn colons(hex: &str) -> String {
    let pairs: Vec<&str> = hex.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok()).collect();
    pairs.join(":").to_ascii_uppercase()
}
