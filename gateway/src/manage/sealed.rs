//! What the master key seals: whether the present one is the one that sealed it, and what of it does not open.
//!
//! The first change that seals something leaves a proof in the journal: a text sealed by the same key. Under another master key
//! nothing is sealed from then on, until nothing is left of what the first one sealed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::expiry::{is_made_here, replacing};
use super::{Change, Object, Refusal, RefusalKind, Result, rules, secrets, stores};
use crate::certificate::Certificate;
use crate::gateway::Core;
use crate::hint::command;
use crate::journal::{self, Tx};
use crate::objects::Objects;
use crate::partner::Partner;
use crate::partnership::{SEALED, open_password};

/// The text that is sealed, and what it is bound to.
const PROOF: &str = "as2gate journal";
/// Under this key the journal has it, in base64.
const FACT: &str = "master_key.proof";

/// The code of the refusal of another master key.
pub const OTHER_KEY: &str = "other-key";
/// What to do about it.
pub const WAY_BACK: &str = "put back the master key that was here, from your copy of it; if it is lost for good, remove what it sealed \
                            before you add others: `message cancel` what is in work, then `station rm`, `cert rm`, `partner set ID \
                            --http-user \"\"` and `user totp NAME --remove`";

/// Something sealed that does not open.
pub struct Unopened {
    /// Whose it is: `certificate alice-2026`.
    pub name: String,
    /// The keystore's word.
    pub why: String,
    /// What puts another in its place.
    pub hint: String,
}

/// Proof of the master key, for the journal.
pub struct Proof(String);

impl Proof {
    /// Notes it in a transaction.
    pub(crate) fn note(&self, tx: &Tx<'_>) -> journal::Result<()> {
        tx.set_fact(FACT, &self.0)
    }
}

/// Refuses another master key than the one that sealed what is here. Gives a proof of the present one where the journal lacks it.
///
/// # Errors
/// [`OTHER_KEY`], or the journal's.
pub fn expect_key(core: &Core, objects: &Objects) -> Result<Option<Proof>> {
    let proof = core.journal.read(|tx| tx.fact(FACT))?;
    let opens = |proof: &String| STANDARD.decode(proof).is_ok_and(|proof| core.master.open(PROOF, &proof).is_ok());
    if proof.as_ref().is_some_and(opens) {
        return Ok(None);
    }
    let all: Vec<_> = each(core, objects).collect();
    let unopened: Vec<_> = all.iter().filter_map(|opened| opened.as_ref().err()).collect();
    let Some(first) = unopened.first() else {
        let sealed = core.master.seal(PROOF, PROOF.as_bytes());
        let sealed = sealed.map_err(|error| Refusal::from_keystore("cannot seal", &error))?;
        return Ok(Some(Proof(STANDARD.encode(sealed))));
    };
    // A journal of before: a record that is damaged is no reason to stand still, and no time to say which key is the right one.
    if proof.is_none() && unopened.len() < all.len() {
        return Ok(None);
    }
    let why = format!(
        "the master key is not the one that sealed what is here: {} of {} keys and secrets do not open, that of {} for one",
        unopened.len(),
        all.len(),
        first.name
    );
    Err(Refusal::new(
        RefusalKind::Invalid,
        OTHER_KEY,
        "the stored keys cannot be opened",
        why,
        WAY_BACK,
    ))
}

/// The same before changes that seal something; others do no harm.
pub(super) fn expect_key_for(core: &Core, before: &Objects, changes: &[Change]) -> Result<Option<Proof>> {
    match changes.iter().any(|change| seals(before, change)) {
        true => expect_key(core, before),
        false => Ok(None),
    }
}

/// What is sealed among these objects and does not open.
pub fn unopened(core: &Core, objects: &Objects) -> impl Iterator<Item = Unopened> {
    each(core, objects).filter_map(Result::err)
}

/// Everything sealed among these objects.
fn each(core: &Core, objects: &Objects) -> impl Iterator<Item = Result<(), Unopened>> {
    let pairs = objects.certificates.values().filter(|certificate| certificate.sealed_key.is_some());
    let keys = pairs.map(|certificate| {
        stores::private_key(core, certificate).map(drop).map_err(|refusal| Unopened {
            name: format!("certificate {}", certificate.name),
            why: refusal.why,
            hint: instead_of(objects, certificate),
        })
    });
    let passwords = objects.partners.values().flat_map(|partner| passwords(core, partner));
    let with_codes = objects.users.values().filter(|user| !user.totp.is_empty());
    let codes = with_codes.map(|user| {
        secrets::open_totp(&core.master, user).map(drop).map_err(|refusal| Unopened {
            name: format!("user {}", user.name),
            why: refusal.why,
            hint: format!("as2gate user totp {}", user.name),
        })
    });
    keys.chain(passwords).chain(codes)
}

/// The sealed passwords of a partner.
fn passwords(core: &Core, partner: &Partner) -> Vec<Result<(), Unopened>> {
    let (account, id) = (&partner.account, &partner.as2_id);
    let mut partner = partner.clone();
    let sealed = partner
        .credentials()
        .into_iter()
        .filter(|(_, auth)| auth.password.starts_with(SEALED));
    let opened = sealed.map(|(label, auth)| {
        let opened = open_password(&core.master, &auth.password, label, account, id);
        opened.map(drop).map_err(|lack| Unopened {
            name: format!("partner {id}"),
            why: lack.to_string(),
            hint: command("partner set", id, &format!("--{}-password SOURCE", label.trim_end_matches("-auth"))),
        })
    });
    opened.collect()
}

/// What puts another in the place of a key pair whose key does not open: a station works with none of its keys until it is gone.
fn instead_of(objects: &Objects, certificate: &Certificate) -> String {
    let name = &certificate.name;
    let removal = format!("as2gate cert rm {name}");
    if rules::used_by(objects, &certificate.account, name).is_empty() {
        return removal;
    }
    let at_once = if is_made_here(certificate) { " --now" } else { "" };
    format!("{}{at_once}, then {removal}", replacing(certificate))
}

/// Whether a change brings something sealed that was not there before.
fn seals(before: &Objects, change: &Change) -> bool {
    let is_new = |new: &str, old: Option<&str>| !new.is_empty() && old != Some(new);
    match change {
        Change::Put(Object::Certificate(new)) => {
            let old = before.certificate(&new.account, &new.name);
            new.sealed_key.is_some() && old.is_none_or(|old| old.sealed_key != new.sealed_key)
        }
        Change::Put(Object::Partner(new)) => {
            let mut old = before.partner(&new.account, &new.as2_id).cloned().unwrap_or_default();
            let old = old.credentials().map(|(_, auth)| auth.password.clone());
            let mut new = Partner::clone(new);
            let pairs = new.credentials().into_iter().zip(old);
            pairs.into_iter().any(|((_, auth), old)| is_new(&auth.password, Some(&old)))
        }
        Change::Put(Object::User(new)) => is_new(&new.totp, before.user(&new.name).map(|old| old.totp.as_str())),
        _ => false,
    }
}
