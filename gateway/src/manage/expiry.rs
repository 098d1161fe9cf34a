//! The end of certificates: whose is near, who would miss it, and what to do.

use std::borrow::Cow;
use std::collections::HashSet;

use keystore::CertInfo;

use super::certificates::trusted;
use super::switch::finalized;
use crate::certificate::{Certificate, Purpose};
use crate::clock::Millis;
use crate::config::{Config, Secret};
use crate::objects::Objects;

/// Expiry is mentioned so many days before.
pub const SOON_DAYS: i64 = 30;
/// What stands for the name of the certificate that our HTTPS shows: it is no object, but what this setting names.
const OWN_TLS: &str = "as2.tls.cert";

/// Certificates in use that expire within a time and have no successor by then, the most urgent first.
#[must_use]
pub fn expiring(objects: &Objects, now: Millis, within: Millis) -> Vec<&Certificate> {
    let soon = |c: &&Certificate| c.ends() <= now.saturating_add(within);
    let mut found: Vec<&Certificate> = objects.certificates.values().filter(soon).collect();
    if found.is_empty() {
        return found;
    }
    let settled = finalized(objects, now);
    let planned: Vec<&Certificate> = settled.certificates.values().filter(|c| c.takes_over_at().is_some()).collect();
    let needed = needed(&settled);
    found.retain(|c| needed.contains(&(c.account.as_str(), c.name.as_str())) && !succeeded(&planned, c));
    found.sort_by_key(|certificate| certificate.not_after);
    found
}

/// [`expiring`], with the certificate of our HTTPS among them.
#[must_use]
pub fn due<'a>(config: &Config, objects: &'a Objects, now: Millis, within: Millis) -> Vec<Cow<'a, Certificate>> {
    let own = own_tls(config).filter(|own| own.ends() <= now.saturating_add(within));
    let others = expiring(objects, now, within).into_iter().map(Cow::Borrowed);
    let mut found: Vec<_> = own.map(Cow::Owned).into_iter().chain(others).collect();
    found.sort_by_key(|certificate| certificate.not_after);
    found
}

/// The certificate that our HTTPS shows, if it is on and there is one to be read; else the door and `check` tell what is wrong.
fn own_tls(config: &Config) -> Option<Certificate> {
    let text = config
        .as2
        .tls
        .cert
        .as_ref()
        .filter(|_| !config.as2.tls.listen.is_empty())?
        .read()
        .ok()?;
    let chain = openssl::x509::X509::stack_from_pem(text.as_bytes()).ok()?;
    trusted(("", OWN_TLS), Purpose::Https, "", &chain.first()?.to_der().ok()?).ok()
}

/// Whether it is the certificate that our HTTPS shows.
#[must_use]
pub fn is_own_tls(certificate: &Certificate) -> bool {
    certificate.account.is_empty() && certificate.name == OWN_TLS
}

/// Its name for people.
#[must_use]
pub fn label(certificate: &Certificate) -> Cow<'_, str> {
    if is_own_tls(certificate) {
        return Cow::Borrowed("our HTTPS certificate (as2.tls.cert)");
    }
    Cow::Borrowed(&certificate.name)
}

/// The command that puts another in its place: one that we made is made anew, any other comes in a file.
#[must_use]
pub fn replacing(certificate: &Certificate) -> String {
    if is_made_here(certificate) {
        return format!("as2gate cert renew {}", certificate.name);
    }
    format!("as2gate cert schedule {} --replace-with FILE", certificate.name)
}

/// Whether it is a station's own and signed by itself.
pub(super) fn is_made_here(certificate: &Certificate) -> bool {
    let is_self_signed = || CertInfo::from_der(&certificate.der).is_ok_and(|info| info.self_signed);
    certificate.purpose == Purpose::Station && certificate.sealed_key.is_some() && !certificate.owner.is_empty() && is_self_signed()
}

/// What to do about its end.
#[must_use]
pub fn renewal(config: &Config, certificate: &Certificate) -> String {
    if !is_own_tls(certificate) {
        let at = if is_made_here(certificate) { "" } else { " --at TIME" };
        return replacing(certificate) + at;
    }
    match (&config.as2.tls.cert, &config.as2.tls.key) {
        (Some(Secret::File(cert)), Some(Secret::File(key))) => format!(
            "put the renewed certificate into {} and its key into {}; they are taken up without a restart",
            cert.display(),
            key.display()
        ),
        _ => "set as2.tls.cert and as2.tls.key to the renewed certificate and its key, and restart the server".to_owned(),
    }
}

/// Whether a switch is planned that comes in time, and to a certificate that is valid then.
fn succeeded(planned: &[&Certificate], old: &Certificate) -> bool {
    let mut next = planned.iter().filter(|c| c.account == old.account && c.replaces == old.name);
    next.any(|c| c.takes_over_at().is_some_and(|at| at < old.ends() && at < c.ends()))
}

/// Account and name of each certificate that somebody needs: one that counts only beside another that outlives it is not missed.
fn needed(settled: &Objects) -> HashSet<(&str, &str)> {
    let mut needed = HashSet::new();
    for station in settled.stations.values() {
        let names = station.also_decrypt.iter().chain([&station.certificate]);
        needed.extend(names.map(|name| (station.account.as_str(), name.as_str())));
    }
    for partner in settled.partners.values() {
        let account = partner.account.as_str();
        needed.extend([&partner.encrypt_certificate, &partner.client_certificate].map(|name| (account, name.as_str())));
        for list in [&partner.sign_certificate, &partner.https_certificate] {
            let end = |name: &&String| settled.certificate(account, name).map(|c| c.not_after);
            let last = list.iter().filter_map(|name| end(&name)).max();
            needed.extend(list.iter().filter(|name| end(name) == last).map(|name| (account, name.as_str())));
        }
    }
    needed
}
