//! All objects as TOML: written by `export`, read by `apply`, which shows the difference and makes it, all or nothing.
//!
//! Private keys and passwords stay out of an export unless asked for, and then they are sealed: only an installation with
//! the same master key can use them. What a file leaves out in that way stays as it is, and so does a legal hold or a block
//! that it does not mention.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keystore::KeyPair;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{Change, Object, Refusal, Result, accounts, certificates, fields, find, overwrite, rules, secrets, switch, with_changes};
use crate::account::Account;
use crate::certificate::{Certificate, Purpose};
use crate::gateway::Core;
use crate::objects::{ObjectKind, Objects};
use crate::partner::{HttpAuth, Partner};
use crate::partnership::{SEALED, password_context};
use crate::station::Station;
use crate::user::User;

/// Largest file of objects in bytes.
pub const MAX_FILE: u64 = 64 << 20;

/// The file's form.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    account: Vec<Account>,
    station: Vec<Station>,
    partner: Vec<Partner>,
    certificate: Vec<CertificateEntry>,
    user: Vec<User>,
    /// The partners as they stand in the file: what is said of each.
    #[serde(skip)]
    partners_said: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateEntry {
    name: String,
    #[serde(default)]
    account: String,
    purpose: Purpose,
    #[serde(default)]
    owner: String,
    /// Beside this file.
    #[serde(default)]
    file: String,
    #[serde(default)]
    pem: String,
    /// `sealed:…`.
    #[serde(default)]
    private_key: String,
    #[serde(default)]
    replaces: String,
    /// A date and time, quoted or not.
    #[serde(default)]
    active_from: Option<Value>,
    #[serde(default)]
    confirmed_by: Vec<String>,
}

/// One line of the difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `add`, `change` or `remove`.
    pub action: &'static str,
    /// The noun.
    pub kind: String,
    /// Whose.
    pub account: String,
    /// The name.
    pub name: String,
    /// The fields that change.
    pub fields: Vec<String>,
}

/// Brings the objects into the state that the files describe.
///
/// # Errors
/// A file that cannot be read, an object that breaks a rule, one to be removed with messages in work: then nothing is changed.
pub async fn apply(
    core: &Core,
    account: Option<&str>,
    files: &[std::path::PathBuf],
    prune: bool,
    dry_run: bool,
) -> Result<Vec<Difference>> {
    let mut documents = Vec::new();
    for file in files {
        documents.push(read(file)?);
    }
    overwrite(core, dry_run, |objects| {
        let wanted = gather(core, objects, account, &documents)?;
        let changes = plan(core, objects, wanted, prune)?;
        expect_own_certificates(objects, &changes)?;
        accounts::expect_no_records(core, objects, &changes)?;
        let differences = changes.iter().map(|change| difference(objects, change)).collect();
        Ok((changes, differences))
    })
    .await
}

/// The TOML files of a directory in the order of their names, or the file itself.
///
/// # Errors
/// When nothing is there.
pub fn files_of(path: &Path) -> Result<Vec<std::path::PathBuf>> {
    let cannot = |error: &std::io::Error| Refusal::from_io(format!("cannot read {}", path.display()), error);
    if !std::fs::metadata(path).map_err(|error| cannot(&error))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|error| cannot(&error))? {
        let file = entry.map_err(|error| cannot(&error))?.path();
        // The configuration itself may lie beside the objects.
        if file.extension().is_some_and(|ext| ext == "toml") && file.file_name().is_none_or(|name| name != crate::config::CONFIG_FILE) {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Refusal::not_found(
            format!("nothing to apply in {}", path.display()),
            "no file there ends in .toml",
            "give the file that `as2gate export` wrote",
        ));
    }
    Ok(files)
}

type Read = (std::path::PathBuf, Document);

fn read(file: &Path) -> Result<Read> {
    let what = || format!("cannot apply {}", file.display());
    let cannot = |error: &std::io::Error| Refusal::from_io(what(), error);
    if std::fs::metadata(file).map_err(|error| cannot(&error))?.len() > MAX_FILE {
        return Err(Refusal::invalid(
            what(),
            format!("it is larger than {MAX_FILE} bytes"),
            "look whether it is the right file",
        ));
    }
    let text = std::fs::read_to_string(file).map_err(|error| cannot(&error))?;
    let mut document: Document = toml::from_str(&text).map_err(|error: toml::de::Error| {
        let line = error
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(1, |before| before.matches('\n').count() + 1);
        let message = error.message().lines().next().unwrap_or_default().to_owned();
        Refusal::invalid(
            format!("{}, line {line}", what()),
            message,
            "`as2gate export` shows the form of every object",
        )
    })?;
    let partners = toml::from_str::<Table>(&text).ok().and_then(|mut all| all.remove("partner"));
    document.partners_said = match partners {
        Some(Value::Array(partners)) => partners,
        _ => Vec::new(),
    };
    let beside = file.parent().map(Path::to_owned).unwrap_or_default();
    Ok((beside, document))
}

fn gather(core: &Core, objects: &Objects, account: Option<&str>, documents: &[Read]) -> Result<Vec<Object>> {
    let only = only_account(objects, account, documents);
    let account_of = |given: &str, what: &str| match (given, &only) {
        ("", Some(only)) => Ok(only.clone()),
        ("", None) => Err(Refusal::usage(
            format!("which account has {what}?"),
            "there are several, or none",
            "write account = \"ID\" in the file, or add --account ID",
        )),
        (given, _) => Ok(given.to_owned()),
    };
    let mut wanted = Vec::new();
    for (beside, document) in documents {
        wanted.extend(document.account.iter().cloned().map(Object::Account));
        for station in &document.station {
            let mut station = station.clone();
            station.account = account_of(&station.account, &format!("station {}", station.as2_id))?;
            wanted.push(Object::Station(station));
        }
        for (partner, said) in document.partner.iter().zip(&document.partners_said) {
            let mut partner = partner.clone();
            partner.account = account_of(&partner.account, &format!("partner {}", partner.as2_id))?;
            // Nobody lifts a legal hold or a block by saying nothing about it.
            if let Some(present) = objects.partner(&partner.account, &partner.as2_id) {
                if said.get("hold").is_none() {
                    partner.hold = present.hold;
                }
                if said.get("blocked").is_none() {
                    partner.blocked = present.blocked;
                }
            }
            keep_passwords(core, objects, &mut partner)?;
            wanted.push(Object::Partner(Box::new(partner)));
        }
        for entry in &document.certificate {
            let account = account_of(&entry.account, &format!("certificate {}", entry.name))?;
            let certificate = certificate(core, objects, &account, beside, entry)?;
            wanted.push(Object::Certificate(Box::new(certificate)));
        }
        for user in &document.user {
            let mut user = normalised(user.clone())?;
            user.account = account_of(&user.account, &format!("user {}", user.name))?;
            keep_credentials(core, objects, &mut user)?;
            wanted.push(Object::User(Box::new(user)));
        }
    }
    refuse_doubles(&wanted)?;
    name_owners(objects, &mut wanted);
    Ok(wanted)
}

/// The account of what names none: the one given, or the one there is, here or in the files.
fn only_account(objects: &Objects, given: Option<&str>, documents: &[Read]) -> Option<String> {
    let described = documents
        .iter()
        .flat_map(|(_, document)| &document.account)
        .map(|account| &account.id);
    let known: BTreeSet<&String> = objects.accounts.keys().chain(described).collect();
    let single = known.first().filter(|_| known.len() == 1);
    given.or(single.map(|id| id.as_str())).map(str::to_owned)
}

fn refuse_doubles(objects: &[Object]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for object in objects {
        let account = if matches!(object, Object::Station(_) | Object::User(_)) {
            ""
        } else {
            object.account()
        };
        // Two spellings of a login are one.
        let name = match object {
            Object::User(user) => user.name.to_lowercase(),
            _ => object.name().to_owned(),
        };
        if !seen.insert((object.kind(), account, name)) {
            return Err(Refusal::invalid(
                "cannot apply",
                format!("{} {} is described twice", object.kind(), object.name()),
                "leave one of them out",
            ));
        }
    }
    Ok(())
}

/// Keys in the spelling that is stored, so that a second run changes nothing.
fn normalised(mut user: User) -> Result<User> {
    for line in &mut user.keys {
        let cannot = |error: keystore::Error| Refusal::from_keystore(format!("cannot take a key of user {}", user.name), &error);
        let keys = keystore::ssh::parse_public(line).map_err(cannot)?;
        if let [key] = keys.as_slice() {
            *line = super::users::line(key);
        }
    }
    Ok(user)
}

/// A new certificate without owner belongs to the one who names it; one that is there has been without for a reason.
fn name_owners(present: &Objects, wanted: &mut [Object]) {
    let mut owners = Vec::new();
    for object in wanted.iter() {
        match object {
            Object::Station(station) => owners.push((station.account.clone(), station.certificate.clone(), station.as2_id.clone())),
            Object::Partner(partner) => {
                let names = partner
                    .sign_certificate
                    .iter()
                    .chain(&partner.https_certificate)
                    .chain([&partner.encrypt_certificate]);
                owners.extend(names.map(|name| (partner.account.clone(), name.clone(), partner.as2_id.clone())));
            }
            _ => {}
        }
    }
    for object in wanted.iter_mut() {
        let Object::Certificate(certificate) = object else { continue };
        if present.certificate(&certificate.account, &certificate.name).is_some() {
            continue;
        }
        let replaced = certificate.replaces.clone();
        let names = |(account, name, _): &&(String, String, String)| {
            *account == certificate.account && (*name == certificate.name || (!replaced.is_empty() && *name == replaced))
        };
        if certificate.owner.is_empty()
            && let Some((_, _, owner)) = owners.iter().find(names)
        {
            certificate.owner.clone_from(owner);
        }
    }
}

/// Passwords that the file leaves out, or repeats in clear, stay sealed as they are.
fn keep_passwords(core: &Core, objects: &Objects, partner: &mut Partner) -> Result<()> {
    let present = objects.partner(&partner.account, &partner.as2_id);
    let (account, id) = (partner.account.clone(), partner.as2_id.clone());
    let pairs = [
        ("http-auth", &mut partner.http_auth, present.map(|p| &p.http_auth)),
        ("inbound-auth", &mut partner.inbound_auth, present.map(|p| &p.inbound_auth)),
        ("proxy-auth", &mut partner.proxy_auth, present.map(|p| &p.proxy_auth)),
    ];
    for (label, auth, old) in pairs {
        if auth.password.starts_with("env:") || auth.password.starts_with("file:") {
            auth.password = secrets::read(&auth.password)?.as_str().to_owned();
        }
        if auth.password.starts_with(SEALED) && old.is_none_or(|old| old.password != auth.password) {
            open_sealed(
                core,
                &password_context(label, &account, &id),
                &auth.password,
                &format!("the {label} password of partner {id}"),
            )?;
        }
        let Some(old) = old.filter(|old| old.user == auth.user) else {
            continue;
        };
        if (auth.password.is_empty() && !auth.user.is_empty())
            || opens_to(core, old, &password_context(label, &account, &id), &auth.password)
        {
            auth.password.clone_from(&old.password);
        }
    }
    Ok(())
}

/// A password and a secret for codes that the file leaves out stay; one in clear that is the present one changes nothing.
fn keep_credentials(core: &Core, objects: &Objects, user: &mut User) -> Result<()> {
    let present = objects.user(&user.name).filter(|known| known.account == user.account);
    if user.password.starts_with("env:") || user.password.starts_with("file:") {
        user.password = secrets::read(&user.password)?.as_str().to_owned();
    }
    if let Some(present) = present {
        if user.password.is_empty() || keystore::password_verify(&user.password, &present.password) {
            user.password.clone_from(&present.password);
        }
        if user.totp.is_empty() {
            user.totp.clone_from(&present.totp);
        }
    }
    if !user.totp.is_empty() && present.is_none_or(|present| present.totp != user.totp) {
        secrets::open_totp(&core.master, user)?;
    }
    secrets::hash_password(user)
}

fn opens_to(core: &Core, sealed: &HttpAuth, context: &str, plain: &str) -> bool {
    let bytes = sealed.password.strip_prefix(SEALED).and_then(|text| STANDARD.decode(text).ok());
    bytes
        .and_then(|bytes| core.master.open(context, &bytes).ok())
        .is_some_and(|opened| opened.as_slice() == plain.as_bytes())
}

/// The object of a certificate's entry; one without contents has those that are there.
fn certificate(core: &Core, objects: &Objects, account: &str, beside: &Path, entry: &CertificateEntry) -> Result<Certificate> {
    let what = || format!("cannot take certificate {}", entry.name);
    let present = objects.certificate(account, &entry.name);
    let bytes = match (entry.pem.is_empty(), entry.file.is_empty()) {
        (false, false) => return Err(Refusal::invalid(what(), "it has both file and pem", "leave one of them out")),
        (false, true) => Some(entry.pem.clone().into_bytes()),
        (true, false) => Some(read_beside(beside, &entry.file).map_err(|error| Refusal::from_io(what(), &error))?),
        (true, true) => None,
    };
    let (der, pair) = match (bytes, present) {
        (Some(bytes), _) => contents(entry.purpose, &bytes, &what())?,
        (None, Some(present)) => (present.der.clone(), None),
        (None, None) => return Err(Refusal::invalid(what(), "it has neither file nor pem", "write file = \"NAME.cer\"")),
    };
    let mut certificate = certificates::trusted((account, &entry.name), entry.purpose, &entry.owner, &der)?;
    certificate.replaces.clone_from(&entry.replaces);
    certificate.confirmed_by.clone_from(&entry.confirmed_by);
    certificate.active_from = match &entry.active_from {
        Some(Value::Datetime(at)) => at.to_string(),
        Some(Value::String(at)) => at.clone(),
        Some(other) => {
            return Err(Refusal::invalid(
                what(),
                format!("active_from is {other}"),
                "write it like 2026-12-05T06:00:00Z",
            ));
        }
        None => String::new(),
    };
    certificate.sealed_key = match entry.private_key.strip_prefix(SEALED) {
        Some(sealed) => Some(open_key(core, &certificate, sealed)?),
        None if !entry.private_key.is_empty() => {
            return Err(Refusal::invalid(
                what(),
                "private_key is not a sealed one",
                "as2gate cert add takes key pairs in PEM, PKCS#12 and JKS",
            ));
        }
        // Exports leave keys out: the one that is there stays with its certificate.
        None => match present.filter(|present| present.der == certificate.der && present.sealed_key.is_some()) {
            Some(present) => present.sealed_key.clone(),
            None => own_key(core, objects, &certificate, pair)?,
        },
    };
    if certificate.sealed_key.is_none() && present.is_some_and(|present| present.sealed_key.is_some()) {
        return Err(Refusal::invalid(
            what(),
            "the one of that name has a private key, and that of this one is neither in the file nor here",
            "give a file with both, or another name",
        ));
    }
    if certificate.owner.is_empty() {
        let replaced = objects.certificate(account, &certificate.replaces).or(present);
        certificate.owner = replaced.map(|c| c.owner.clone()).unwrap_or_default();
    }
    Ok(certificate)
}

/// The certificate of a file, and the pair that it is of, if its key is there.
fn contents(purpose: Purpose, bytes: &[u8], what: &str) -> Result<(Vec<u8>, Option<KeyPair>)> {
    let refused = |error: keystore::Error| Refusal::from_keystore(what, &error);
    let imported = keystore::import(bytes, None).map_err(refused)?;
    if matches!(purpose, Purpose::Partner | Purpose::PartnerChain | Purpose::HttpsChain) {
        certificates::refuse_key(&imported, what)?;
    }
    if imported.key.is_none() {
        return Ok((imported.certificate().map_err(refused)?.to_vec(), None));
    }
    let (pair, _) = certificates::paired(imported)?;
    Ok((pair.certificate.clone(), Some(pair)))
}

/// The key of a certificate of ours, sealed for it: that of its file, or of another certificate here that is of the same one.
fn own_key(core: &Core, objects: &Objects, certificate: &Certificate, pair: Option<KeyPair>) -> Result<Option<Vec<u8>>> {
    if !matches!(certificate.purpose, Purpose::Station | Purpose::Https) {
        return Ok(None);
    }
    let found = match pair {
        Some(pair) => Some(pair.pkcs8),
        None => certificates::key_here(core, objects, &certificate.account, &certificate.der)?,
    };
    let Some(pkcs8) = found else { return Ok(None) };
    let pair = KeyPair {
        pkcs8,
        certificate: certificate.der.clone(),
    };
    let id = (certificate.account.as_str(), certificate.name.as_str());
    certificates::with_key(core, id, certificate.purpose, &certificate.owner, &pair).map(|sealed| sealed.sealed_key)
}

fn open_key(core: &Core, certificate: &Certificate, sealed: &str) -> Result<Vec<u8>> {
    let context = Certificate::seal_context(&certificate.account, &certificate.name);
    open_sealed(
        core,
        &context,
        sealed,
        &format!("the private key of certificate {}", certificate.name),
    )
}

/// What is sealed is looked at before it is stored: of another master key it would be of no use.
fn open_sealed(core: &Core, context: &str, sealed: &str, what: &str) -> Result<Vec<u8>> {
    let what = format!("cannot take {what}");
    let bytes = STANDARD
        .decode(sealed.strip_prefix(SEALED).unwrap_or(sealed))
        .map_err(|error| Refusal::invalid(what.clone(), error.to_string(), "export it again"))?;
    core.master
        .open(context, &bytes)
        .map_err(|error| Refusal::from_keystore(what, &error))?;
    Ok(bytes)
}

fn read_beside(beside: &Path, file: &str) -> std::io::Result<Vec<u8>> {
    let path = beside.join(file);
    if std::fs::metadata(&path)?.len() > u64::try_from(keystore::import::MAX_IMPORT_BYTES).unwrap_or(u64::MAX) {
        return Err(std::io::Error::other("the file is too large for a certificate"));
    }
    std::fs::read(&path)
}

fn plan(core: &Core, objects: &Objects, wanted: Vec<Object>, prune: bool) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    let mut named: BTreeSet<(ObjectKind, String, String)> = BTreeSet::new();
    let mut scope: BTreeSet<String> = BTreeSet::new();
    for object in wanted {
        let key = |name: &str| (object.kind(), object.account().to_owned(), name.to_owned());
        named.insert(key(object.name()));
        scope.insert(object.account().to_owned());
        let mut sealed = object.clone();
        if let Object::Partner(partner) = &mut sealed {
            secrets::seal_passwords(&core.master, partner)?;
        }
        if find(objects, object.kind(), object.account(), object.name()).as_ref() != Some(&sealed) {
            changes.push(Change::Put(sealed));
        }
    }
    if prune {
        for (kind, account, name) in objects.all().filter(|(kind, ..)| *kind != ObjectKind::Account) {
            let (account, name) = (account.to_owned(), name.to_owned());
            if scope.contains(&account) && !named.contains(&(kind, account.clone(), name.clone())) {
                changes.push(Change::Remove(kind, account, name));
            }
        }
        expect_unplanned(core, objects, &changes)?;
    }
    Ok(changes)
}

/// What `cert rm` refuses to remove stays here too, unless its station goes with it.
fn expect_unplanned(core: &Core, objects: &Objects, changes: &[Change]) -> Result<()> {
    let settled = switch::finalized(objects, core.clock.now());
    let after = with_changes(objects, changes);
    for change in changes {
        if let Change::Remove(ObjectKind::Certificate, account, name) = change
            && let Some(certificate) = settled.certificate(account, name)
            && (certificate.owner.is_empty() || after.stations.contains_key(&certificate.owner))
        {
            certificates::expect_unplanned(&settled, account, name)?;
        }
    }
    Ok(())
}

/// Refuses another certificate under the name of one that somebody else goes on using: what its key signs would be theirs.
fn expect_own_certificates(objects: &Objects, changes: &[Change]) -> Result<()> {
    let after = with_changes(objects, changes);
    for change in changes {
        let Change::Put(Object::Certificate(new)) = change else { continue };
        let Some(old) = objects.certificate(&new.account, &new.name) else {
            continue;
        };
        let users = |objects: &Objects| -> Vec<String> {
            let all = rules::used_by(objects, &new.account, &new.name);
            all.into_iter().filter(|user| !user.starts_with("the switch")).collect()
        };
        let (before, now) = (users(objects), users(&after));
        let stays = |user: &&String| before.contains(user);
        let is_new_owner = |user: &str| user.split_once(' ').is_some_and(|(_, id)| id == new.owner);
        let robbed = match old.owner.as_str() {
            // A renewal, for all that share it; but who comes to it with another certificate has taken a name that is taken.
            owner if owner == new.owner || owner.is_empty() => now.iter().find(stays).filter(|_| {
                let joins = now.iter().any(|user| !before.contains(user));
                old.der != new.der && joins
            }),
            _ => now.iter().filter(stays).find(|user| !is_new_owner(user)),
        };
        if let Some(user) = robbed {
            return Err(Refusal::exists(
                format!("cannot take certificate {}", new.name),
                format!("the name is taken: {user} uses the certificate that has it"),
                "give this one a name of its own",
            ));
        }
    }
    Ok(())
}

fn difference(objects: &Objects, change: &Change) -> Difference {
    let (kind, account) = (change.kind().to_string(), change.account().to_owned());
    match change {
        Change::Put(object) => {
            let old = find(objects, object.kind(), object.account(), object.name());
            let action = if old.is_some() { "change" } else { "add" };
            let fields = old.map(|old| fields::changed(&old, object)).unwrap_or_default();
            Difference {
                action,
                kind,
                account,
                name: object.name().to_owned(),
                fields,
            }
        }
        Change::Remove(_, _, name) => Difference {
            action: "remove",
            kind,
            account,
            name: name.clone(),
            fields: Vec::new(),
        },
    }
}

/// All objects, or those of one account, as TOML.
#[must_use]
pub fn export(objects: &Objects, account: Option<&str>, with_secrets: bool) -> String {
    let mut text = String::new();
    let ours = |owner: &str| account.is_none_or(|account| account == owner);
    for account in objects.accounts.values().filter(|a| ours(&a.id)) {
        section(&mut text, "account", &fields::table(account), &["id"], &Table::new());
    }
    for certificate in objects.certificates.values().filter(|c| ours(&c.account)) {
        let mut table = fields::table(certificate);
        for derived in ["subject", "fingerprint", "key", "not_before", "not_after"] {
            table.remove(derived);
        }
        if let Some(sealed) = certificate.sealed_key.as_ref().filter(|_| with_secrets) {
            table.insert(
                "private_key".to_owned(),
                Value::String(format!("{SEALED}{}", STANDARD.encode(sealed))),
            );
        }
        section(&mut text, "certificate", &table, &["name", "account", "purpose"], &empty_owner());
        let pem = keystore::to_pem("CERTIFICATE", &certificate.der);
        text.push_str(&format!("pem = \"\"\"\n{}\"\"\"\n", pem.as_str()));
    }
    for station in objects.stations.values().filter(|s| ours(&s.account)) {
        section(&mut text, "station", &fields::table(station), &["as2_id", "account"], &Table::new());
    }
    let defaults = fields::table(&Partner::default());
    for partner in objects.partners.values().filter(|p| ours(&p.account)) {
        let mut partner = partner.clone();
        if !with_secrets {
            partner.credentials().into_iter().for_each(|(_, auth)| auth.password.clear());
        }
        section(
            &mut text,
            "partner",
            &fields::table(&partner),
            &["as2_id", "account", "url"],
            &defaults,
        );
    }
    for user in objects.users.values().filter(|u| ours(&u.account)) {
        let mut user = user.clone();
        if !with_secrets {
            user.password.clear();
            user.totp.clear();
        }
        section(&mut text, "user", &fields::table(&user), &["name", "account"], &Table::new());
    }
    text
}

fn empty_owner() -> Table {
    let mut table = Table::new();
    table.insert("owner".to_owned(), Value::String(String::new()));
    table
}

/// One object; keys with their default values are left out.
fn section(text: &mut String, noun: &str, table: &Table, first: &[&str], defaults: &Table) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&format!("[[{noun}]]\n"));
    let leading = first.iter().filter_map(|name| table.get(*name).map(|value| (*name, value)));
    let rest = table
        .iter()
        .map(|(name, value)| (name.as_str(), value))
        .filter(|(name, _)| !first.contains(name));
    for (name, value) in leading.chain(rest) {
        if defaults.get(name) != Some(value) || first.contains(&name) {
            text.push_str(&format!("{name} = {}\n", inline(value)));
        }
    }
}

/// A value on one line.
fn inline(value: &Value) -> String {
    match value {
        Value::Table(table) => {
            let quoted = |name: &String| {
                if name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
                    name.clone()
                } else {
                    Value::String(name.clone()).to_string()
                }
            };
            let pairs: Vec<String> = table
                .iter()
                .map(|(name, value)| format!("{} = {}", quoted(name), inline(value)))
                .collect();
            if pairs.is_empty() {
                "{}".to_owned()
            } else {
                format!("{{ {} }}", pairs.join(", "))
            }
        }
        Value::Array(list) => format!("[{}]", list.iter().map(inline).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}
