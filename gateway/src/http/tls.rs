//! TLS for the listener.

use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::{AlpnError, Ssl, SslContext, SslMethod, SslMode, SslOptions, SslVerifyMode, SslVersion, select_next_proto};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509VerifyResult};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_openssl::SslStream;
use zeroize::Zeroizing;

use super::{TELL_REFUSED_AGAIN, is_due};
use crate::config::ClientAuth;

/// Ciphers of TLS 1.2; those of 1.3 are the library's.
const CIPHERS: &str =
    "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:ECDHE+AES:AES128-GCM-SHA256:AES256-GCM-SHA384:!aNULL:!eNULL:!MD5:!3DES:!PSK:!DSS";
/// The library's word for a client that has to show a certificate and shows none.
const NO_CERTIFICATE: &str = "peer did not return a certificate";

/// What a TLS listener shows and asks.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// Our certificate first, then its chain; PEM.
    pub cert_pem: Vec<u8>,
    /// Its key, PEM without a passphrase.
    pub key_pem: Zeroizing<Vec<u8>>,
    /// Whether clients show a certificate.
    pub client_auth: ClientAuth,
    /// Client certificates, or their issuers, in DER. Empty: none is taken.
    pub client_cas: Vec<Vec<u8>>,
}

/// Shakes hands with TLS clients, TLS 1.2 and 1.3. Its clones change together.
#[derive(Clone)]
pub struct TlsAcceptor(Arc<RwLock<Standing>>);

/// What counts for the next handshake, and the end of the connections that were made by it.
struct Standing {
    context: SslContext,
    over: watch::Sender<bool>,
    /// When the log last told of a client's certificate.
    told: Option<Instant>,
}

impl TlsAcceptor {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(settings: &ServerTls) -> Result<Self, String> {
        let (over, _) = watch::channel(false);
        let context = context(settings)?;
        Ok(TlsAcceptor(Arc::new(RwLock::new(Standing { context, over, told: None }))))
    }

    /// Shakes hands by other settings from now on. No session of before is resumed: each context has ticket keys of its own.
    /// With `end_former` the connections of before end as they do at a stop: idle ones at once, the others with their answer.
    ///
    /// # Errors
    /// What is wrong with them; then all stays as it was.
    pub fn renew(&self, settings: &ServerTls, end_former: bool) -> Result<(), String> {
        let context = context(settings)?;
        let mut standing = self.0.write().unwrap_or_else(PoisonError::into_inner);
        standing.context = context;
        if end_former {
            standing.over.send_replace(true);
            standing.over = watch::channel(false).0;
        }
        Ok(())
    }

    /// Ends the connections, for the stop of a listener.
    pub(super) fn end(&self) {
        let standing = self.0.read().unwrap_or_else(PoisonError::into_inner);
        standing.over.send_replace(true);
    }

    /// Whether the log is to tell of a client that is refused by its certificate; then it is told now.
    pub(super) fn tells_refusal(&self) -> bool {
        is_due(&mut self.0.write().unwrap_or_else(PoisonError::into_inner).told, TELL_REFUSED_AGAIN)
    }

    /// The handshake; true on the other hand tells the connection to end.
    ///
    /// # Errors
    /// What went wrong.
    pub(super) async fn accept(&self, stream: TcpStream) -> Result<(SslStream<TcpStream>, watch::Receiver<bool>), Unshaken> {
        let (ssl, over) = {
            let standing = self.0.read().unwrap_or_else(PoisonError::into_inner);
            (Ssl::new(&standing.context), standing.over.subscribe())
        };
        let mut stream = ssl
            .and_then(|ssl| SslStream::new(ssl, stream))
            .map_err(|error| Unshaken::Broken(error.to_string()))?;
        match Pin::new(&mut stream).accept().await {
            Ok(()) => Ok((stream, over)),
            Err(error) => Err(Unshaken::new(stream.ssl().verify_result(), &error)),
        }
    }
}

/// Why a handshake came to nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unshaken {
    /// By the client's certificate: what is wrong with it, or that there is none.
    Certificate(String),
    /// By something else, in the library's words.
    Broken(String),
}

impl Unshaken {
    fn new(verified: X509VerifyResult, error: &openssl::ssl::Error) -> Self {
        if verified != X509VerifyResult::OK {
            return Unshaken::Certificate(verified.error_string().to_owned());
        }
        let reasons = error.ssl_error().map(ErrorStack::errors).unwrap_or_default();
        if reasons.iter().any(|reason| reason.reason() == Some(NO_CERTIFICATE)) {
            return Unshaken::Certificate("it shows none".to_owned());
        }
        Unshaken::Broken(error.to_string())
    }
}

fn context(settings: &ServerTls) -> Result<SslContext, String> {
    let because = |what: &'static str| move |error: ErrorStack| format!("{what}: {error}");
    let chain = X509::stack_from_pem(&settings.cert_pem).map_err(because("the TLS certificate is not PEM"))?;
    let key = PKey::private_key_from_pem_callback(&settings.key_pem, |_| Ok(0))
        .map_err(because("the TLS key is not PEM without a passphrase"))?;
    let (first, others) = chain.split_first().ok_or("the TLS certificate file holds no certificate")?;
    if !first.public_key().is_ok_and(|public| public.public_eq(&key)) {
        return Err("the TLS key does not belong to the first certificate of the file".to_owned());
    }
    build(settings, first, others, &key).map_err(because("the TLS listener cannot be set up"))
}

fn build(settings: &ServerTls, first: &X509, others: &[X509], key: &PKey<openssl::pkey::Private>) -> Result<SslContext, ErrorStack> {
    let mut context = SslContext::builder(SslMethod::tls_server())?;
    context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    context.set_cipher_list(CIPHERS)?;
    // A missing close_notify is harmless where every request has its length; renegotiation serves nobody.
    context.set_options(
        SslOptions::NO_COMPRESSION
            | SslOptions::CIPHER_SERVER_PREFERENCE
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::IGNORE_UNEXPECTED_EOF,
    );
    // Idle connections hold no buffers.
    context.set_mode(SslMode::AUTO_RETRY | SslMode::RELEASE_BUFFERS | SslMode::ENABLE_PARTIAL_WRITE | SslMode::ACCEPT_MOVING_WRITE_BUFFER);
    context.set_session_id_context(b"as2gate")?;
    context.set_certificate(first)?;
    for other in others {
        context.add_extra_chain_cert(other.clone())?;
    }
    context.set_private_key(key)?;
    // Clients that ask for something get HTTP/1.1, the others are not bothered.
    context.set_alpn_select_callback(|_, offered| select_next_proto(b"\x08http/1.1", offered).ok_or(AlpnError::NOACK));
    ask_clients(&mut context, settings)?;
    Ok(context.build())
}

fn ask_clients(context: &mut openssl::ssl::SslContextBuilder, settings: &ServerTls) -> Result<(), ErrorStack> {
    let mode = match settings.client_auth {
        ClientAuth::None => return Ok(()),
        ClientAuth::Optional => SslVerifyMode::PEER,
        ClientAuth::Required => SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
    };
    let mut store = X509StoreBuilder::new()?;
    for der in &settings.client_cas {
        let certificate = X509::from_der(der)?;
        context.add_client_ca(&certificate)?;
        store.add_cert(certificate)?;
    }
    // A pinned certificate counts by itself, without its issuers, and whatever it says of its use and its end, as that of a server
    // does: authorities issue hardly any for clients now.
    store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
    context.set_cert_store(store.build());
    let pinned = settings.client_cas.clone();
    context.set_verify_callback(mode, move |holds, chain| {
        let shown = chain.current_cert().filter(|_| !holds && chain.error_depth() == 0);
        let is_pinned = shown.is_some_and(|leaf| leaf.to_der().is_ok_and(|der| pinned.contains(&der)));
        if is_pinned {
            chain.set_error(X509VerifyResult::OK);
        }
        holds || is_pinned
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use openssl::asn1::Asn1Time;
    use openssl::hash::MessageDigest;
    use openssl::pkey::Private;
    use openssl::rsa::Rsa;
    use openssl::x509::X509Name;
    use openssl::x509::extension::ExtendedKeyUsage;
    use tokio::net::TcpListener;

    use super::*;

    /// A certificate that ended yesterday or ends tomorrow, for clients or for servers only, with its key.
    fn certificate(has_ended: bool, for_clients: bool) -> (X509, PKey<Private>) {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let mut name = X509Name::builder().unwrap();
        name.append_entry_by_text("CN", "partner").unwrap();
        let name = name.build();
        let day = |days: i64| {
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs();
            Asn1Time::from_unix(i64::try_from(now).unwrap() + days * 86_400).unwrap()
        };
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder.set_subject_name(&name).unwrap();
        builder.set_issuer_name(&name).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&day(-9)).unwrap();
        builder.set_not_after(&day(if has_ended { -1 } else { 1 })).unwrap();
        let mut usage = ExtendedKeyUsage::new();
        let usage = if for_clients { usage.client_auth() } else { usage.server_auth() };
        builder.append_extension(usage.build().unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        (builder.build(), key)
    }

    #[tokio::test]
    async fn a_pinned_client_certificate_counts_whatever_it_says_of_its_use_and_its_end() {
        let (own, own_key) = certificate(false, false);
        let clients = [(false, true), (true, true), (false, false)].map(|(ended, clients)| certificate(ended, clients));
        let acceptor = TlsAcceptor::new(&ServerTls {
            cert_pem: own.to_pem().unwrap(),
            key_pem: Zeroizing::new(own_key.private_key_to_pem_pkcs8().unwrap()),
            client_auth: ClientAuth::Required,
            client_cas: clients.iter().map(|(pinned, _)| pinned.to_der().unwrap()).collect(),
        })
        .unwrap();
        let foreign = [(false, true), (true, false)].map(|(ended, clients)| certificate(ended, clients));
        let pinned = clients.iter().map(|client| (Some(client), true));
        let refused = foreign.iter().map(Some).chain([None]).map(|client| (client, false));
        for (shown, is_pinned) in pinned.chain(refused) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
            if let Some((certificate, key)) = shown {
                context.set_certificate(certificate).unwrap();
                context.set_private_key(key).unwrap();
            }
            let mut client = SslStream::new(Ssl::new(&context.build()).unwrap(), stream).unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            let client = tokio::spawn(async move {
                let _ = Pin::new(&mut client).connect().await;
                client
            });
            let shaken = tokio::time::timeout(Duration::from_secs(30), acceptor.accept(accepted))
                .await
                .unwrap();
            assert_eq!(shaken.is_ok(), is_pinned);
            match shaken {
                Ok((stream, _)) => {
                    let told = stream.ssl().peer_certificate().unwrap().to_der().unwrap();
                    assert_eq!(told, shown.unwrap().0.to_der().unwrap());
                }
                // Why, in the log: nothing else tells the operator of a partner that cannot connect.
                Err(Unshaken::Certificate(reason)) => assert_eq!(reason == "it shows none", shown.is_none(), "{reason}"),
                Err(unshaken) => panic!("{unshaken:?}"),
            }
            client.await.unwrap();
        }
    }
}
