//! SFTP users, their public keys and what else they log in with.

use keystore::ssh::{KeyFile, KeyFormat, KeyKind, PublicKey, parse_public, user_key};

use super::{Change, Refusal, Result, accounts, edit, fields, objects, secrets};
use crate::gateway::{Core, Listening};
use crate::hint::{listed, quoted};
use crate::login::LoginStep;
use crate::objects::{ObjectKind, Objects};
use crate::url::{Url, bracketed};
use crate::user::{User, UserKind};

/// A key to be made. No `Debug`: the passphrase is secret.
pub struct KeyWish {
    /// Its type.
    pub kind: KeyKind,
    /// Its file's format.
    pub format: KeyFormat,
    /// Protects the file.
    pub passphrase: Option<zeroize::Zeroizing<String>>,
}

/// Where a user's keys come from.
pub enum KeySource {
    /// Public keys in any form that people have.
    Public(String),
    /// A new pair; we keep the public half only.
    Generate(KeyWish),
}

impl KeySource {
    /// The public keys as lines, and the private key's file if one was made.
    fn make(&self, user: &str) -> Result<(Vec<String>, Option<KeyFile>)> {
        let cannot = |error: &keystore::Error| Refusal::from_keystore(format!("cannot take this key for {user}"), error);
        match self {
            KeySource::Public(text) => {
                let keys = parse_public(text).map_err(|error| cannot(&error))?;
                Ok((keys.iter().map(line).collect(), None))
            }
            KeySource::Generate(wish) => {
                let passphrase = wish.passphrase.as_ref().map(|text| text.as_str());
                let file = user_key(wish.kind, wish.format, passphrase, user).map_err(|error| cannot(&error))?;
                Ok((vec![file.public_line.clone()], Some(file)))
            }
        }
    }
}

/// A public key as the `authorized_keys` line that is stored, options and comment included.
#[must_use]
pub fn line(key: &PublicKey) -> String {
    let parts = [key.options.to_text(), key.line.clone(), key.comment.clone()];
    parts
        .iter()
        .map(|part| part.trim())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The keys of a user as shown; a stored line that cannot be read any more is left out.
#[must_use]
pub fn keys(user: &User) -> Vec<PublicKey> {
    user.keys.iter().filter_map(|line| parse_public(line).ok()).flatten().collect()
}

/// The user of that name, whatever its case, of the wanted account if one is wanted.
///
/// # Errors
/// When there is none.
pub fn choose<'a>(objects: &'a Objects, account: Option<&str>, name: &str) -> Result<&'a User> {
    let fits = |user: &&User| account.is_none_or(|account| user.account == account);
    objects.user(name).filter(fits).ok_or_else(|| {
        let known = listed(objects.users.values().filter(fits).map(|u| u.name.as_str()), "none");
        Refusal::not_found(format!("no user {name}"), format!("known users: {known}"), "as2gate user list")
    })
}

/// Adds a user, with its first keys if it logs in with any.
///
/// # Errors
/// When the name breaks the rule or is taken, or a key is refused.
pub async fn add(
    core: &Core,
    account: Option<&str>,
    name: &str,
    source: Option<&KeySource>,
    settings: &[(String, String)],
    dry_run: bool,
) -> Result<(User, Option<KeyFile>)> {
    // Before the key is made: a name that breaks the rule should cost nothing.
    UserKind::As2.check_name(name).map_err(|why| {
        Refusal::invalid(
            format!("cannot add user {}", name.escape_default()),
            why,
            "choose a name like acme-erp",
        )
    })?;
    let fresh = fields::assign(&User::new(name), settings)?;
    let (lines, file) = match source {
        Some(source) => source.make(name)?,
        None if !fresh.login.has(LoginStep::PublicKey) => (Vec::new(), None),
        None => {
            return Err(Refusal::usage(
                "which key?",
                "a user logs in with a key unless it is set otherwise",
                "add --generate-key, or --public-key FILE; for a password --login password",
            ));
        }
    };
    let user = edit(core, dry_run, |objects| {
        let account = accounts::choose(objects, account)?.id.clone();
        if let Some(known) = objects.user(name) {
            return Err(Refusal::exists(
                format!("cannot add user {name}"),
                format!("{} exists; names are unique on the server, ignoring case", known.name),
                format!("as2gate user key add {} …", known.name),
            ));
        }
        let user = User {
            account,
            keys: lines.clone(),
            ..fresh.clone()
        };
        Ok((vec![user.clone().into()], user))
    })
    .await?;
    Ok((user, file))
}

/// The users of an account that see only some stations or partners, with the new AS2 id of one of these.
pub(super) fn renamed_for(objects: &Objects, account: &str, kind: ObjectKind, old: &str, new: &str) -> Vec<Change> {
    let mut changes = Vec::new();
    for user in objects.users.values().filter(|user| user.account == account) {
        let mut user = user.clone();
        let seen = match kind {
            ObjectKind::Station => &mut user.stations,
            _ => &mut user.partners,
        };
        let Some(id) = seen.iter_mut().find(|id| *id == old) else {
            continue;
        };
        new.clone_into(id);
        changes.push(user.into());
    }
    changes
}

/// Changes settings of a user.
///
/// # Errors
/// When it is not there, or a setting does not fit.
pub async fn set(core: &Core, account: Option<&str>, name: &str, settings: &[(String, String)], dry_run: bool) -> Result<User> {
    change(core, account, name, dry_run, |user| {
        let new = fields::assign(user, settings)?;
        if new.name != user.name || new.account != user.account {
            return Err(Refusal::usage(
                "cannot rename or move a user",
                "the name is the login",
                "add another user, and remove this one",
            ));
        }
        Ok(new)
    })
    .await
}

/// Allows or refuses logins; a running server ends the open connections of a disabled user.
///
/// # Errors
/// When the user is not there.
pub async fn enable(core: &Core, account: Option<&str>, name: &str, enabled: bool, dry_run: bool) -> Result<User> {
    change(core, account, name, dry_run, |user| Ok(User { enabled, ..user.clone() })).await
}

/// Adds keys to a user.
///
/// # Errors
/// When the user is not there, or a key is refused or known already.
pub async fn add_key(core: &Core, account: Option<&str>, name: &str, source: &KeySource, dry_run: bool) -> Result<(User, Option<KeyFile>)> {
    let (lines, file) = source.make(name)?;
    let user = change(core, account, name, dry_run, |user| {
        let mut new = user.clone();
        for line in &lines {
            let same = |other: &PublicKey| parse_public(line).is_ok_and(|keys| keys.iter().any(|key| key.line == other.line));
            if keys(user).iter().any(same) {
                return Err(Refusal::exists(
                    format!("cannot add this key to {name}"),
                    "the user has it already",
                    format!("as2gate user key list {name}"),
                ));
            }
            new.keys.push(line.clone());
        }
        Ok(new)
    })
    .await?;
    Ok((user, file))
}

/// Replaces all keys of a user: the old ones no longer work.
///
/// # Errors
/// When the user is not there, or a key is refused.
pub async fn rotate_key(
    core: &Core,
    account: Option<&str>,
    name: &str,
    source: &KeySource,
    dry_run: bool,
) -> Result<(User, Option<KeyFile>)> {
    let (lines, file) = source.make(name)?;
    let user = change(core, account, name, dry_run, |user| {
        Ok(User {
            keys: lines.clone(),
            ..user.clone()
        })
    })
    .await?;
    Ok((user, file))
}

/// Removes the key with this fingerprint or comment.
///
/// # Errors
/// When no key, or more than one, fits.
pub async fn remove_key(core: &Core, account: Option<&str>, name: &str, which: &str, dry_run: bool) -> Result<User> {
    change(core, account, name, dry_run, |user| {
        let fits =
            |line: &String| parse_public(line).is_ok_and(|keys| keys.iter().any(|key| key.fingerprint == which || key.comment == which));
        let mut new = user.clone();
        new.keys.retain(|line| !fits(line));
        match user.keys.len() - new.keys.len() {
            1 => Ok(new),
            0 => Err(Refusal::not_found(
                format!("{name} has no key {which}"),
                "neither a fingerprint nor a comment is that",
                format!("as2gate user key list {name}"),
            )),
            _ => Err(Refusal::usage(
                format!("which key {which}?"),
                "several have this comment",
                "give the fingerprint",
            )),
        }
    })
    .await
}

/// Gives a user a password; none takes it away. Sessions that the old one opened end.
///
/// # Errors
/// When the user is not there, or the password is too short or too long.
pub async fn set_password(core: &Core, account: Option<&str>, name: &str, password: Option<&str>, dry_run: bool) -> Result<User> {
    let mut hashed = choose(&objects(core)?, account, name)?.clone();
    hashed.password = password.unwrap_or_default().to_owned();
    // Once, and not in each try of the change.
    secrets::hash_password(&mut hashed)?;
    change(core, account, name, dry_run, |user| {
        Ok(User {
            password: hashed.password.clone(),
            ..user.clone()
        })
    })
    .await
}

/// Gives a user a new secret for codes, which is returned and shown once; or takes it away.
///
/// # Errors
/// When the user is not there.
pub async fn set_totp(core: &Core, account: Option<&str>, name: &str, remove: bool, dry_run: bool) -> Result<(User, Option<NewTotp>)> {
    let mut new = choose(&objects(core)?, account, name)?.clone();
    let secret = if remove {
        new.totp.clear();
        None
    } else {
        let secret = secrets::new_totp(&core.master, &mut new)?;
        Some(NewTotp {
            base32: keystore::otp::base32(&secret),
            uri: keystore::otp::uri("as2gate", &new.name, &secret),
        })
    };
    let user = change(core, account, name, dry_run, |user| {
        Ok(User {
            totp: new.totp.clone(),
            ..user.clone()
        })
    })
    .await?;
    Ok((user, secret))
}

/// A secret for an authenticator app, which exists only here. No `Debug`.
pub struct NewTotp {
    /// To be typed.
    pub base32: zeroize::Zeroizing<String>,
    /// To be shown as a QR code.
    pub uri: zeroize::Zeroizing<String>,
}

async fn change(core: &Core, account: Option<&str>, name: &str, dry_run: bool, how: impl Fn(&User) -> Result<User>) -> Result<User> {
    edit(core, dry_run, |objects| {
        let user = how(choose(objects, account, name)?)?;
        Ok((vec![user.clone().into()], user))
    })
    .await
}

/// Removes a user.
///
/// # Errors
/// When it is not there.
pub async fn remove(core: &Core, account: Option<&str>, name: &str, dry_run: bool) -> Result<()> {
    edit(core, dry_run, |objects| {
        let user = choose(objects, account, name)?;
        Ok((vec![Change::Remove(ObjectKind::User, user.account.clone(), user.name.clone())], ()))
    })
    .await
}

/// The command with which a user connects by this client, OpenSSH's or PuTTY's: to where the server answers, or would answer.
#[must_use]
pub fn connect_command(core: &Core, client: &str, user: &str, key_file: Option<&str>) -> String {
    let config = &core.config;
    let listening = Listening::read(&core.journal).and_then(|listening| listening.sftp.first().map(ToString::to_string));
    let address = listening.or_else(|| config.sftp.listen.first().cloned()).unwrap_or_default();
    let (bound, port) = address.rsplit_once(':').unwrap_or(("", "22"));
    let public = Url::parse(&config.public_url);
    let public = public.as_ref().map_or("", Url::host);
    // Clients of other machines need a name: sftp.host or public_url. This one is for trying it out here.
    let wildcard = matches!(bound, "" | "0.0.0.0" | "[::]" | "127.0.0.1" | "[::1]");
    let host = match (config.sftp.host.as_str(), public) {
        ("", "") if wildcard => "localhost",
        ("", "") => bound,
        ("", public) => public,
        (host, _) => host,
    };
    let port = if port == "22" { String::new() } else { format!("-P {port} ") };
    let key = key_file.map(|file| format!("-i {} ", quoted(file))).unwrap_or_default();
    // sftp takes what is behind the first colon for a path, and shells brackets for a pattern.
    let to = format!("{user}@{}", bracketed(host));
    format!("{client} {port}{key}{}", quoted(&to))
}
