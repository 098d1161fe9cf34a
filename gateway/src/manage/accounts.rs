//! Accounts.

use super::{Change, Object, Refusal, Result, edit, fields};
use crate::account::Account;
use crate::gateway::Core;
use crate::hint::listed;
use crate::objects::{ObjectKind, Objects};

/// The account that a request is about: the one named, or the only one there is.
///
/// # Errors
/// When none fits, or several do.
pub fn choose<'a>(objects: &'a Objects, wanted: Option<&str>) -> Result<&'a Account> {
    let known = || listed(objects.accounts.keys().map(String::as_str), "none");
    if let Some(id) = wanted {
        let hint = format!("known accounts: {}", known());
        return objects
            .accounts
            .get(id)
            .ok_or_else(|| Refusal::not_found(format!("no account {id}"), "nothing has this id", hint));
    }
    let mut all = objects.accounts.values();
    match (all.next(), all.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Refusal::not_found(
            "there is no account",
            "every object belongs to one",
            "as2gate account add ID",
        )),
        _ => Err(Refusal::usage(
            "which account?",
            format!("there are several: {}", known()),
            "add --account ID, or set AS2GATE_ACCOUNT",
        )),
    }
}

/// A new account of this id.
///
/// # Errors
/// When it cannot be one.
pub fn check_id(id: &str) -> Result<Account> {
    Account::new(id).map_err(|why| Refusal::invalid(format!("cannot add account {id}"), why, "choose an id like acme"))
}

/// Adds an account; one that takes over the records of a former account of this id only if that is wanted.
///
/// # Errors
/// When it exists, has records without wanting them, or breaks a rule.
pub async fn add(core: &Core, id: &str, settings: &[(String, String)], with_records: bool, dry_run: bool) -> Result<Account> {
    let account = fields::assign(&check_id(id)?, settings)?;
    edit(core, dry_run, |objects| {
        if objects.accounts.contains_key(id) {
            return Err(Refusal::exists(
                format!("cannot add account {id}"),
                "it exists already",
                format!("as2gate account set {id} …"),
            ));
        }
        let changes = vec![account.clone().into()];
        if !with_records {
            expect_no_records(core, objects, &changes)?;
        }
        Ok((changes, account.clone()))
    })
    .await
}

/// What a removed account received and sent is shown to the users of the next account of its id: another customer's, perhaps.
///
/// # Errors
/// When an account that is new in `changes` would have such records.
pub(super) fn expect_no_records(core: &Core, before: &Objects, changes: &[Change]) -> Result<()> {
    for change in changes {
        let Change::Put(Object::Account(account)) = change else { continue };
        let id = &account.id;
        if !before.accounts.contains_key(id) && core.journal.read(|tx| tx.has_records(id))? {
            return Err(Refusal::exists(
                format!("cannot add account {id}"),
                "messages and files of a removed account of this id are still kept, which the new one's users would see",
                format!("choose another id; for the same customer again: as2gate account add {id} --with-records"),
            ));
        }
    }
    Ok(())
}

/// Changes settings of an account.
///
/// # Errors
/// When it is not there, or a setting does not fit.
pub async fn set(core: &Core, id: &str, settings: &[(String, String)], dry_run: bool) -> Result<Account> {
    edit(core, dry_run, |objects| {
        let account = fields::assign(choose(objects, Some(id))?, settings)?;
        if account.id != id {
            return Err(Refusal::usage(
                "cannot rename an account",
                "its id names its folders",
                "add a new account, and remove this one",
            ));
        }
        Ok((vec![account.clone().into()], account))
    })
    .await
}

/// Removes an account that owns nothing any more.
///
/// # Errors
/// When it is not there, still owns something, or messages of it are in work.
pub async fn remove(core: &Core, id: &str, dry_run: bool) -> Result<()> {
    edit(core, dry_run, |objects| {
        choose(objects, Some(id))?;
        Ok((vec![Change::Remove(ObjectKind::Account, id.to_owned(), id.to_owned())], ()))
    })
    .await
}
