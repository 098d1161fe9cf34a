//! What the TLS door shows and whom it lets in, as it is now: the files may be renewed and certificates may come and go.

use zeroize::Zeroizing;

use super::{Core, StartError};
use crate::certificate::{Certificate, Purpose, successors};
use crate::config::{ClientAuth, Secret};
use crate::http::{self, ServerTls};

/// The acceptor, and the settings that it was last given.
pub(super) struct TlsDoor {
    acceptor: http::TlsAcceptor,
    given: ServerTls,
    /// What was last logged as wrong with the files.
    wrong: String,
}

impl TlsDoor {
    /// Reads certificate and key. Without any certificate of a partner it opens all the same: one may be added any time.
    pub(super) fn new(core: &Core) -> Result<Self, String> {
        let given = read(core)?;
        if given.client_auth != ClientAuth::None && given.client_cas.is_empty() {
            tracing::warn!(
                hint = "cert add NAME --partner ID --use https --file FILE",
                "as2.tls.client_auth is set, but no partner's TLS certificate is known: no client's certificate is accepted"
            );
        }
        Ok(TlsDoor {
            acceptor: http::TlsAcceptor::new(&given)?,
            given,
            wrong: String::new(),
        })
    }

    pub(super) fn acceptor(&self) -> http::TlsAcceptor {
        self.acceptor.clone()
    }

    /// Takes what has changed. While the files are wrong, such as between the writing of the one and the other, the former
    /// certificate is shown; the clients' certificates are followed nevertheless.
    pub(super) fn follow(&mut self, core: &Core) {
        let mut wrong = String::new();
        let files = read(core).map(|wanted| self.renew(wanted));
        if let Err(why) | Ok(Err(why)) = files {
            let clients = ServerTls {
                client_cas: pinned(core),
                ..self.given.clone()
            };
            wrong = self.renew(clients).err().unwrap_or(why);
        }
        if !wrong.is_empty() && wrong != self.wrong {
            tracing::error!(error = wrong, "the TLS listener keeps its certificate");
        }
        self.wrong = wrong;
    }

    fn renew(&mut self, wanted: ServerTls) -> Result<(), String> {
        if wanted == self.given {
            return Ok(());
        }
        // Who showed a certificate that is gone now is not served any further.
        let fewer = self.given.client_cas.iter().any(|former| !wanted.client_cas.contains(former));
        self.acceptor.renew(&wanted, fewer)?;
        tracing::info!(
            clients = wanted.client_cas.len(),
            "the TLS listener follows a change of certificates"
        );
        self.given = wanted;
        Ok(())
    }
}

/// Whether the TLS listener could show its certificate.
///
/// # Errors
/// What is wrong.
pub(crate) fn check(core: &Core) -> Result<(), StartError> {
    let wanted = read(core).map_err(StartError::Tls)?;
    http::TlsAcceptor::new(&wanted).map(drop).map_err(StartError::Tls)
}

fn read(core: &Core) -> Result<ServerTls, String> {
    let settings = &core.config.as2.tls;
    let file = |what: &str, secret: &Option<Secret>| match secret {
        Some(secret) => secret.read(),
        None => Err(format!("as2.tls.listen needs as2.tls.{what}, such as \"file:tls.pem\"")),
    };
    Ok(ServerTls {
        cert_pem: file("cert", &settings.cert)?.as_bytes().to_vec(),
        key_pem: Zeroizing::new(file("key", &settings.key)?.as_bytes().to_vec()),
        client_auth: settings.client_auth,
        client_cas: pinned(core),
    })
}

/// Clients that show a certificate have to show one that is pinned for a partner, or that a known issuer of such ones made.
fn pinned(core: &Core) -> Vec<Vec<u8>> {
    if core.config.as2.tls.client_auth == ClientAuth::None {
        return Vec::new();
    }
    let objects = core.objects();
    let mut found: Vec<&Certificate> = objects
        .certificates
        .values()
        .filter(|c| c.purpose == Purpose::HttpsChain && c.sealed_key.is_none())
        .collect();
    for partner in objects.partners.values() {
        for name in &partner.https_certificate {
            found.extend(objects.certificate(&partner.account, name));
            found.extend(successors(&objects, &partner.account, name));
        }
    }
    found.into_iter().map(|certificate| certificate.der.clone()).collect()
}
