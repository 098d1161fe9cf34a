//! Passwords of partners: sealed before they are stored, each bound to its partner and purpose. Passwords of users: hashed;
//! the secrets of their authenticator apps: sealed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keystore::MasterKey;
use zeroize::Zeroizing;

use super::{Refusal, Result};
use crate::config::Secret;
use crate::partner::{HttpAuth, Partner};
use crate::partnership::{SEALED, password_context};
use crate::user::User;

/// Shortest password of a user, in characters.
pub const MIN_USER_PASSWORD: usize = 12;
/// Longest password in bytes.
pub const MAX_PASSWORD: usize = 1024;

/// Seals the passwords of a partner that are still in clear.
///
/// # Errors
/// When a password is too long, or the master key cannot be used.
pub fn seal_passwords(master: &MasterKey, partner: &mut Partner) -> Result<()> {
    let (account, id) = (partner.account.clone(), partner.as2_id.clone());
    for (label, auth) in partner.credentials() {
        seal(master, auth, &password_context(label, &account, &id))?;
    }
    Ok(())
}

fn seal(master: &MasterKey, auth: &mut HttpAuth, context: &str) -> Result<()> {
    if auth.password.is_empty() || auth.password.starts_with(SEALED) {
        return Ok(());
    }
    let plain = Zeroizing::new(std::mem::take(&mut auth.password));
    if plain.len() > MAX_PASSWORD || plain.contains(['\r', '\n', '\0']) {
        let why = format!("it is longer than {MAX_PASSWORD} bytes or has line breaks in it");
        return Err(Refusal::invalid(
            "cannot keep this password",
            why,
            "give the password alone, on one line",
        ));
    }
    let sealed = master
        .seal(context, plain.as_bytes())
        .map_err(|error| Refusal::from_keystore("cannot seal a password", &error))?;
    auth.password = format!("{SEALED}{}", STANDARD.encode(sealed));
    Ok(())
}

/// Binds the sealed passwords to a partner's new AS2 id.
///
/// # Errors
/// When they do not open under the old one.
pub fn rebind_passwords(master: &MasterKey, partner: &mut Partner, old_id: &str) -> Result<()> {
    let account = partner.account.clone();
    for (label, auth) in partner.credentials() {
        let Some(sealed) = auth.password.strip_prefix(SEALED) else {
            continue;
        };
        let what = || format!("cannot rename partner {old_id}");
        let sealed = STANDARD
            .decode(sealed)
            .map_err(|error| Refusal::invalid(what(), error.to_string(), "set its password again"))?;
        let plain = master
            .open(&password_context(label, &account, old_id), &sealed)
            .map_err(|error| Refusal::from_keystore(what(), &error))?;
        auth.password = String::from_utf8_lossy(&plain).into_owned();
    }
    seal_passwords(master, partner)
}

/// Hashes a user's password that is still in clear.
///
/// # Errors
/// When it is too short or too long.
pub fn hash_password(user: &mut User) -> Result<()> {
    if user.password.is_empty() || keystore::is_password_hash(&user.password) {
        return Ok(());
    }
    let plain = Zeroizing::new(std::mem::take(&mut user.password));
    let cannot = |why: &str, hint: &str| Refusal::invalid(format!("cannot take this password for {}", user.name), why, hint);
    if plain.starts_with("$argon2") {
        return Err(cannot(
            "it is a hash of another kind or cost",
            "give the password itself, or an argon2id hash of m=19456,t=2,p=1 to four times that",
        ));
    }
    if plain.chars().count() < MIN_USER_PASSWORD || plain.contains(['\r', '\n', '\0']) {
        return Err(cannot(
            "it is too short, or has line breaks in it",
            "give at least 12 characters on one line; `as2gate user password NAME --generate` makes one",
        ));
    }
    user.password = keystore::password_hash(&plain).map_err(|error| Refusal::from_keystore("cannot take this password", &error))?;
    Ok(())
}

/// Gives a user a new secret for an authenticator app; the secret itself is returned and kept nowhere.
///
/// # Errors
/// When the master key cannot be used.
pub fn new_totp(master: &MasterKey, user: &mut User) -> Result<Zeroizing<Vec<u8>>> {
    let cannot = |error: &keystore::Error| Refusal::from_keystore("cannot make a secret", error);
    let secret = keystore::otp::new_secret().map_err(|error| cannot(&error))?;
    let sealed = master.seal(&totp_context(user), &secret).map_err(|error| cannot(&error))?;
    user.totp = format!("{SEALED}{}", STANDARD.encode(sealed));
    Ok(secret)
}

/// The secret of a user's authenticator app.
///
/// # Errors
/// When it does not open under this master key.
pub fn open_totp(master: &MasterKey, user: &User) -> Result<Zeroizing<Vec<u8>>> {
    let what = || format!("cannot open the secret for codes of {}", user.name);
    let sealed = user.totp.strip_prefix(SEALED).and_then(|text| STANDARD.decode(text).ok());
    let sealed = sealed.ok_or_else(|| Refusal::invalid(what(), "it is damaged", format!("as2gate user totp {}", user.name)))?;
    master
        .open(&totp_context(user), &sealed)
        .map_err(|error| Refusal::from_keystore(what(), &error))
}

fn totp_context(user: &User) -> String {
    format!("totp/{}/{}", user.account, user.name)
}

/// A secret given as `env:NAME` or `file:PATH`: it never stands on a command line.
///
/// # Errors
/// When it stands there all the same, or cannot be read.
pub fn read(text: &str) -> Result<Zeroizing<String>> {
    let what = "cannot take this secret";
    let hint = "write env:NAME or file:PATH; on a command line others could read it";
    let secret = Secret::parse(text, std::path::Path::new("")).map_err(|why| Refusal::usage(what, why, hint))?;
    let secret = secret.ok_or_else(|| {
        Refusal::usage(
            what,
            "it is empty",
            "a login goes with its user: an empty --http-user, say; else write env:NAME or file:PATH",
        )
    })?;
    secret
        .read()
        .map_err(|why| Refusal::invalid(what, why, "look at the name of the variable or the path of the file"))
}
