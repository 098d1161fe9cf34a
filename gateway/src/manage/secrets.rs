//! Passwords of partners: sealed before they are stored, each bound to its partner and purpose.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keystore::MasterKey;
use zeroize::Zeroizing;

use super::{Refusal, Result};
use crate::config::Secret;
use crate::partner::{HttpAuth, Partner};
use crate::partnership::password_context;

/// Marks a password that only the master key opens.
pub const SEALED: &str = "sealed:";
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

/// A secret given as `env:NAME` or `file:PATH`: it never stands on a command line.
///
/// # Errors
/// When it stands there all the same, or cannot be read.
pub fn read(text: &str) -> Result<Zeroizing<String>> {
    let what = "cannot take this secret";
    let hint = "write env:NAME or file:PATH; on a command line others could read it";
    let secret = Secret::parse(text, std::path::Path::new("")).map_err(|why| Refusal::usage(what, why, hint))?;
    let secret = secret.ok_or_else(|| Refusal::usage(what, "it is empty", hint))?;
    secret
        .read()
        .map_err(|why| Refusal::invalid(what, why, "look at the name of the variable or the path of the file"))
}
