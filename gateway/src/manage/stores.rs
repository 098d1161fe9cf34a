//! The three key stores of each account on disk follow the objects: `identity.jks` our stations' keys, `trust.jks` the
//! partners' certificates, `https.jks` the TLS keys and certificates (product.md §8).

use std::collections::BTreeSet;

use keystore::{StoreEntry, StoreFormat, StorePasswords, Stores, TrustEntry};

use super::{Change, Refusal, RefusalKind, Result, objects, sealed};
use crate::certificate::{Certificate, Purpose};
use crate::config::KeystoreFormat;
use crate::gateway::Core;
use crate::layout;
use crate::objects::ObjectKind;

/// Where the stores of an account are.
#[must_use]
pub fn of_account(core: &Core, account: &str) -> Stores {
    Stores::new(core.config.paths().keystore.join(layout::home(account)))
}

/// The passwords for `keytool`.
///
/// # Errors
/// The keystore's.
pub fn passwords(core: &Core, account: &str) -> Result<StorePasswords> {
    StorePasswords::derive(&core.master, account).map_err(|error| Refusal::from_keystore("cannot derive the stores' passwords", &error))
}

/// Writes the stores of those accounts that the changes touch.
pub(super) fn follow(core: &Core, changes: &[Change]) -> Result<()> {
    let touches = |change: &&Change| {
        matches!(
            change.kind(),
            ObjectKind::Certificate | ObjectKind::Account | ObjectKind::Station | ObjectKind::Partner
        )
    };
    let accounts: BTreeSet<&str> = changes.iter().filter(touches).map(Change::account).collect();
    let now = objects(core)?;
    for account in accounts.into_iter().filter(|account| now.accounts.contains_key(*account)) {
        write(core, account).map_err(|refusal| Refusal {
            kind: RefusalKind::Partly,
            what: format!("the change is made, but the key stores of account {account} are not written"),
            hint: format!("{}; `as2gate cert stores` writes them again", refusal.hint),
            ..refusal
        })?;
    }
    Ok(())
}

/// Writes the stores of an account. Gives the names of certificates too odd for Java, which are left out.
///
/// # Errors
/// A key that does not open, or the disk's.
pub fn write(core: &Core, account: &str) -> Result<Vec<String>> {
    let stores = of_account(core, account);
    let cannot = |error: &keystore::Error| Refusal::from_keystore("cannot write the key stores", error);
    let locked = stores.lock().map_err(|error| cannot(&error))?;
    // Read under the lock, or one who read earlier could write later.
    let objects = objects(core)?;
    sealed::expect_key(core, &objects)?;
    let (mut identity, mut trust, mut https) = (Vec::new(), Vec::new(), Vec::new());
    for certificate in objects.certificates.values().filter(|certificate| certificate.account == account) {
        match (certificate.purpose, &certificate.sealed_key) {
            (Purpose::Https, Some(_)) => https.push(entry(core, certificate)?),
            (_, Some(_)) => identity.push(entry(core, certificate)?),
            (_, None) => trust.push(TrustEntry {
                alias: certificate.name.clone(),
                certificate: certificate.der.clone(),
            }),
        }
    }
    let format = match core.config.keystore_format {
        KeystoreFormat::Pkcs12 => StoreFormat::Pkcs12,
        KeystoreFormat::Jks => StoreFormat::Jks,
    };
    let written = locked.write(&identity, &trust, &https, &passwords(core, account)?, format);
    written.map_err(|error| cannot(&error))
}

fn entry(core: &Core, certificate: &Certificate) -> Result<StoreEntry> {
    let pkcs8 = private_key(core, certificate)?;
    Ok(StoreEntry {
        alias: certificate.name.clone(),
        pkcs8,
        chain: vec![certificate.der.clone()],
    })
}

/// The private key of a certificate, PKCS#8 DER.
///
/// # Errors
/// When there is none, or the master key does not open it.
pub fn private_key(core: &Core, certificate: &Certificate) -> Result<zeroize::Zeroizing<Vec<u8>>> {
    let what = || format!("cannot use the key of certificate {}", certificate.name);
    let Some(sealed) = &certificate.sealed_key else {
        return Err(Refusal::failed(
            "no-private-key",
            what(),
            "it is a trusted certificate without a private key",
            "`as2gate cert list` shows which have one",
        ));
    };
    let context = Certificate::seal_context(&certificate.account, &certificate.name);
    core.master
        .open(&context, sealed)
        .map_err(|error| Refusal::from_keystore(what(), &error))
}
