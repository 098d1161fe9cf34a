//! A partnership: the settings and keys in force between one station and one partner. Internal; never an object.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use as2_core::cert::{Certificate as PinnedCertificate, Identity};
use keystore::secret::MasterKey;
use openssl::x509::{X509, X509Ref, X509VerifyResult};

use crate::certificate::{Certificate, Purpose, in_force, successors};
use crate::clock::Millis;
use crate::objects::Objects;
use crate::partner::Partner;
use crate::station::Station;

/// How long resolved keys stay good: scheduled switches take effect within this time.
const CACHE_MS: Millis = 20_000;

/// Most issuers that are shown beside a TLS client certificate.
const MAX_ISSUERS: usize = 8;

/// A TLS certificate with its issuers, and its key; DER and PKCS#8.
type TlsIdentity = (Vec<Vec<u8>>, zeroize::Zeroizing<Vec<u8>>);

/// Settings and ready keys of one pair.
pub struct Partnership {
    /// Our side.
    pub station: Station,
    /// The remote side.
    pub partner: Partner,
    /// Our keys: the one that signs first, if there is one, then all that still decrypt.
    pub identities: Vec<Identity>,
    /// The first of them signs: another key is old, or not in force yet, or here to decrypt only.
    signs: bool,
    /// The partner's pinned signing certificates, old and new.
    pub signers: Vec<PinnedCertificate>,
    /// The certificate that we encrypt to.
    pub recipient: Option<PinnedCertificate>,
    /// Pinned TLS certificates of the partner.
    pub pinned_tls: Vec<Vec<u8>>,
    /// Our TLS client certificate and key.
    pub tls_identity: Option<TlsIdentity>,
    /// Basic authentication.
    pub http_auth: Option<(String, zeroize::Zeroizing<String>)>,
    /// Basic authentication that the partner has to show.
    pub inbound_auth: Option<(String, zeroize::Zeroizing<String>)>,
    /// Proxy credentials.
    pub proxy_auth: Option<(String, zeroize::Zeroizing<String>)>,
}

/// Why a pair cannot trade at this moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// No such station.
    #[error("no station {0}")]
    Station(String),
    /// No such partner for the station's account.
    #[error("no partner {0}")]
    Partner(String),
    /// They do not trade.
    #[error("partner {partner} does not trade with station {station}")]
    NotAPair {
        /// The station.
        station: String,
        /// The partner.
        partner: String,
    },
    /// A certificate or key cannot be used.
    #[error("{0}")]
    Key(String),
}

impl Partnership {
    /// The identity that signs now.
    #[must_use]
    pub fn signer(&self) -> Option<&Identity> {
        self.identities.first().filter(|_| self.signs)
    }

    /// Resolves a pair.
    ///
    /// # Errors
    /// What is lacking.
    pub fn resolve(objects: &Objects, master: &MasterKey, station: &str, partner: &str, now: Millis) -> Result<Self, Lack> {
        let station = objects
            .stations
            .get(station)
            .ok_or_else(|| Lack::Station(station.to_owned()))?
            .clone();
        let account = station.account.clone();
        let partner = objects
            .partner(&account, partner)
            .ok_or_else(|| Lack::Partner(partner.to_owned()))?
            .clone();
        if !partner.trades_with(&station.as2_id) {
            return Err(Lack::NotAPair {
                station: station.as2_id,
                partner: partner.as2_id,
            });
        }
        let resolver = Resolver {
            objects,
            master,
            account: &account,
            now,
        };
        let opened = |auth: &crate::partner::HttpAuth, label: &str| resolver.credentials(auth, label, &partner);
        Ok(Partnership {
            identities: resolver.identities(&station)?,
            signs: resolver.in_force(&station.certificate).is_some(),
            signers: resolver.signers(&partner)?,
            recipient: resolver.recipient(&partner)?,
            pinned_tls: resolver
                .with_successors(&partner.https_certificate)
                .map(|c| c.der.clone())
                .collect(),
            tls_identity: resolver.tls_identity(&partner)?,
            http_auth: opened(&partner.http_auth, "http-auth")?,
            inbound_auth: opened(&partner.inbound_auth, "inbound-auth")?,
            proxy_auth: opened(&partner.proxy_auth, "proxy-auth")?,
            station,
            partner,
        })
    }
}

struct Resolver<'a> {
    objects: &'a Objects,
    master: &'a MasterKey,
    account: &'a str,
    now: Millis,
}

impl Resolver<'_> {
    fn named<'s>(&'s self, names: &'s [String]) -> impl Iterator<Item = &'s Certificate> {
        names.iter().filter_map(|name| self.objects.certificate(self.account, name))
    }

    /// The certificate that stands for this name now.
    fn in_force<'s>(&'s self, name: &'s str) -> Option<&'s Certificate> {
        in_force(self.objects, self.account, name, self.now)
    }

    /// Those of these names, and those that follow them: a partner may be early or late.
    fn with_successors<'s>(&'s self, names: &'s [String]) -> impl Iterator<Item = &'s Certificate> {
        let next = names.iter().flat_map(|name| successors(self.objects, self.account, name));
        self.named(names).chain(next)
    }

    fn identities(&self, station: &Station) -> Result<Vec<Identity>, Lack> {
        let signer = self.in_force(&station.certificate);
        let is_pair = |c: &&Certificate| c.sealed_key.is_some();
        let of_station = |c: &&Certificate| c.owner == station.as2_id && c.account == self.account;
        let owned = self.objects.certificates.values().filter(of_station);
        // Whoever owns them: a pair may belong to another station, or to nobody. Partners are early or late at a switch.
        let before_and_after = self.with_successors(std::slice::from_ref(&station.certificate));
        let others = owned
            .chain(before_and_after)
            .filter(is_pair)
            .chain(self.named(&station.also_decrypt));
        let mut names: Vec<&str> = Vec::new();
        let mut identities = Vec::new();
        for certificate in signer.into_iter().chain(others) {
            if names.contains(&certificate.name.as_str()) {
                continue;
            }
            names.push(&certificate.name);
            identities.push(self.identity(certificate)?);
        }
        Ok(identities)
    }

    fn identity(&self, certificate: &Certificate) -> Result<Identity, Lack> {
        let key = self.key(certificate)?;
        Identity::new(&certificate.der, &key).map_err(|e| Lack::Key(format!("certificate {}: {e}", certificate.name)))
    }

    fn key(&self, certificate: &Certificate) -> Result<zeroize::Zeroizing<Vec<u8>>, Lack> {
        let sealed = certificate.sealed_key.as_deref().unwrap_or_default();
        let context = Certificate::seal_context(&certificate.account, &certificate.name);
        self.master
            .open(&context, sealed)
            .map_err(|e| Lack::Key(format!("key of certificate {}: {e}", certificate.name)))
    }

    fn signers(&self, partner: &Partner) -> Result<Vec<PinnedCertificate>, Lack> {
        self.with_successors(&partner.sign_certificate).map(pinned).collect()
    }

    fn recipient(&self, partner: &Partner) -> Result<Option<PinnedCertificate>, Lack> {
        self.in_force(&partner.encrypt_certificate).map(pinned).transpose()
    }

    fn tls_identity(&self, partner: &Partner) -> Result<Option<TlsIdentity>, Lack> {
        if partner.client_certificate.is_empty() {
            return Ok(None);
        }
        let name = &partner.client_certificate;
        let certificate = self
            .in_force(name)
            .ok_or_else(|| Lack::Key(format!("no client certificate {name}")))?;
        Ok(Some((self.with_issuers(&certificate.der), self.key(certificate)?)))
    }

    /// The certificate and those of its issuers that are known here, but for the root, which whoever trusts it has (RFC 8446
    /// §4.4.2).
    fn with_issuers(&self, leaf: &[u8]) -> Vec<Vec<u8>> {
        let is_issuer = |c: &&Certificate| c.account == self.account && matches!(c.purpose, Purpose::PartnerChain | Purpose::HttpsChain);
        let known = self.objects.certificates.values().filter(is_issuer);
        let mut known: Vec<X509> = known.filter_map(|c| X509::from_der(&c.der).ok()).collect();
        let mut shown = vec![leaf.to_vec()];
        let mut current = X509::from_der(leaf).ok();
        while let Some(at) = current.and_then(|current| known.iter().position(|issuer| has_issued(issuer, &current))) {
            let issuer = known.swap_remove(at);
            let Ok(der) = issuer.to_der() else { break };
            if shown.len() > MAX_ISSUERS || has_issued(&issuer, &issuer) {
                break;
            }
            shown.push(der);
            current = Some(issuer);
        }
        shown
    }

    fn credentials(
        &self,
        auth: &crate::partner::HttpAuth,
        label: &str,
        partner: &Partner,
    ) -> Result<Option<(String, zeroize::Zeroizing<String>)>, Lack> {
        if auth.user.is_empty() {
            return Ok(None);
        }
        let password = open_password(self.master, &auth.password, label, &partner.account, &partner.as2_id)?;
        Ok(Some((auth.user.clone(), password)))
    }
}

/// Marks a password that only the master key opens.
pub const SEALED: &str = "sealed:";

/// What a partner's sealed password is bound to.
#[must_use]
pub fn password_context(label: &str, account: &str, partner: &str) -> String {
    format!("{label}/{account}/{partner}")
}

/// A partner's password in clear.
pub(crate) fn open_password(
    master: &MasterKey,
    text: &str,
    label: &str,
    account: &str,
    partner: &str,
) -> Result<zeroize::Zeroizing<String>, Lack> {
    use base64::Engine as _;
    let Some(sealed) = text.strip_prefix(SEALED) else {
        return Ok(zeroize::Zeroizing::new(text.to_owned()));
    };
    let broken = |why: String| Lack::Key(format!("password of partner {partner}: {why}"));
    let sealed = base64::engine::general_purpose::STANDARD
        .decode(sealed)
        .map_err(|e| broken(e.to_string()))?;
    let plain = master
        .open(&password_context(label, account, partner), &sealed)
        .map_err(|e| broken(e.to_string()))?;
    let text = std::str::from_utf8(&plain).map_err(|e| broken(e.to_string()))?;
    Ok(zeroize::Zeroizing::new(text.to_owned()))
}

fn pinned(certificate: &Certificate) -> Result<PinnedCertificate, Lack> {
    PinnedCertificate::from_der(&certificate.der).map_err(|e| Lack::Key(format!("certificate {}: {e}", certificate.name)))
}

fn has_issued(issuer: &X509Ref, certificate: &X509Ref) -> bool {
    issuer.issued(certificate) == X509VerifyResult::OK && issuer.public_key().is_ok_and(|key| certificate.verify(&key).unwrap_or(false))
}

type Resolved = (i64, Millis, Result<Arc<Partnership>, Lack>);

/// Resolved pairs, kept for a short time and per version of the objects.
#[derive(Default)]
pub struct PartnershipCache(Mutex<HashMap<(String, String), Resolved>>);

impl PartnershipCache {
    /// The partnership of a pair.
    ///
    /// # Errors
    /// What is lacking.
    pub fn get(&self, objects: &Objects, master: &MasterKey, station: &str, partner: &str, now: Millis) -> Result<Arc<Partnership>, Lack> {
        let key = (station.to_owned(), partner.to_owned());
        let fresh = |(version, at, _): &Resolved| *version == objects.version && (0..CACHE_MS).contains(&(now - at));
        if let Ok(cache) = self.0.lock()
            && let Some(found) = cache.get(&key)
            && fresh(found)
        {
            return found.2.clone();
        }
        let resolved = Partnership::resolve(objects, master, station, partner, now).map(Arc::new);
        // Strangers' names are not kept: the cache holds pairs that exist.
        if objects.stations.contains_key(station)
            && !matches!(resolved, Err(Lack::Partner(_) | Lack::Station(_)))
            && let Ok(mut cache) = self.0.lock()
        {
            cache.insert(key, (objects.version, now, resolved.clone()));
        }
        resolved
    }
}
