//! TLS for the listener.

use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::{AlpnError, Ssl, SslContext, SslMethod, SslMode, SslOptions, SslVerifyMode, SslVersion, select_next_proto};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_openssl::SslStream;
use zeroize::Zeroizing;

use crate::config::ClientAuth;

/// Ciphers of TLS 1.2; those of 1.3 are the library's.
const CIPHERS: &str =
    "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:ECDHE+AES:AES128-GCM-SHA256:AES256-GCM-SHA384:!aNULL:!eNULL:!MD5:!3DES:!PSK:!DSS";

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
}

impl TlsAcceptor {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(settings: &ServerTls) -> Result<Self, String> {
        let (over, _) = watch::channel(false);
        let context = context(settings)?;
        Ok(TlsAcceptor(Arc::new(RwLock::new(Standing { context, over }))))
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

    /// The handshake; true on the other hand tells the connection to end.
    ///
    /// # Errors
    /// The library's words.
    pub(super) async fn accept(&self, stream: TcpStream) -> Result<(SslStream<TcpStream>, watch::Receiver<bool>), String> {
        let (ssl, over) = {
            let standing = self.0.read().unwrap_or_else(PoisonError::into_inner);
            (Ssl::new(&standing.context), standing.over.subscribe())
        };
        let mut stream = ssl.and_then(|ssl| SslStream::new(ssl, stream)).map_err(|error| error.to_string())?;
        Pin::new(&mut stream).accept().await.map_err(|error| error.to_string())?;
        Ok((stream, over))
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
    // A pinned certificate counts by itself, without its issuers.
    store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
    context.set_cert_store(store.build());
    context.set_verify(mode);
    Ok(())
}
