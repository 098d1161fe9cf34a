//! TLS to a partner: pinned certificates or the system's roots.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::ssl::{Ssl, SslConnector, SslMethod, SslOptions, SslRef, SslVerifyMode, SslVersion};
use openssl::x509::{X509, X509Ref, X509VerifyResult};
use openssl_probe::ProbeResult;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_openssl::SslStream;

use super::connect::Connection;
use super::{PostError, Stage, Target};
use crate::lock::locked;
use crate::partner::TlsMode;
use crate::url::Url;

/// OpenSSL's SSL_OP_LEGACY_SERVER_CONNECT, which its wrapper does not name: servers of before RFC 5746 are spoken to.
const LEGACY_SERVER_CONNECT: SslOptions = SslOptions::from_bits_retain(0x4);

/// Shakes hands and checks whom we talk to.
pub(super) async fn connect(roots: &Roots, target: &Target, url: &Url, stream: TcpStream) -> Result<Connection, PostError> {
    let shown = Shown::default();
    let ssl = configure(roots, target, url, &shown).map_err(|error| {
        PostError::new(
            Stage::Tls,
            format!("TLS cannot be set up: {error}"),
            format!("look at its TLS certificate and at ours for it: {}", target.showing()),
        )
    })?;
    let mut stream =
        SslStream::new(ssl, Transport(stream)).map_err(|error| PostError::new(Stage::Tls, format!("TLS cannot be set up: {error}"), ""))?;
    match timeout(target.connect_timeout, Pin::new(&mut stream).connect()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(explain(stream.ssl(), target, &error, &shown.text())),
        Err(_) => {
            return Err(PostError::new(
                Stage::Tls,
                "the TLS handshake took too long",
                "ask whether the port really speaks TLS",
            ));
        }
    }
    // Once more in the open: the pin does not hang on how often a callback is called.
    let certificate = stream.ssl().peer_certificate();
    if !target.pinned.is_empty()
        && !certificate
            .as_ref()
            .is_some_and(|certificate| is_pinned(&target.pinned, certificate))
    {
        return Err(not_pinned(target, &shown.text()));
    }
    let cipher = stream
        .ssl()
        .current_cipher()
        .map_or("", |cipher| cipher.standard_name().unwrap_or(cipher.name()));
    let tls = Some(format!("{} {cipher}", stream.ssl().version_str()));
    let certificate = certificate.as_deref().map(describe);
    Ok(Connection {
        stream: Box::new(stream),
        tls,
        certificate,
        made: Instant::now(),
    })
}

/// What TLS runs over. Its end is an error: who ends TLS says so before, with close_notify, and any other end may be anybody's
/// (RFC 9112 §9.8). The library would pass it off as the same.
pub(super) struct Transport(pub(super) TcpStream);

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.remaining();
        match Pin::new(&mut self.0).poll_read(cx, into) {
            Poll::Ready(Ok(())) if before > 0 && into.remaining() == before => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            ))),
            read => read,
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// What the server showed. After a failed handshake the library has forgotten it.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Option<String>>>);

impl Shown {
    fn note(&self, certificate: &X509Ref) {
        locked(&self.0).get_or_insert_with(|| describe(certificate));
    }

    fn text(&self) -> String {
        let shown = locked(&self.0);
        shown.as_ref().map(|shown| format!("; it shows {shown}")).unwrap_or_default()
    }
}

/// The system's roots as they were read last. The system renews them while we run, so that they are read anew when a file or a
/// directory of theirs has changed.
#[derive(Default)]
pub(super) struct Roots(Mutex<Option<(Vec<Stamp>, SslConnector)>>);

/// Where something lies on the disk, since when, and how long it is.
type Stamp = Option<(u64, SystemTime, u64)>;

impl Roots {
    fn connector(&self, tls: TlsMode, places: &ProbeResult) -> Result<SslConnector, ErrorStack> {
        let stamps: Vec<Stamp> = places.cert_file.iter().chain(&places.cert_dir).map(|path| stamp(path)).collect();
        let mut read = locked(&self.0);
        if let Some((of, connector)) = &*read
            && *of == stamps
        {
            return Ok(connector.clone());
        }
        match (connector(tls, places), &*read) {
            (Ok(connector), _) => {
                *read = Some((stamps, connector.clone()));
                Ok(connector)
            }
            // Somebody may be just about to write it.
            (Err(error), Some((_, connector))) => {
                tracing::warn!(%error, "cannot read the system's roots anew; those of before count");
                Ok(connector.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.modified().ok()?, found.len()))
}

fn configure(roots: &Roots, target: &Target, url: &Url, shown: &Shown) -> Result<Ssl, ErrorStack> {
    // A library that was built into the program does not know where this system keeps its roots.
    let connector = roots.connector(target.tls, &openssl_probe::probe())?;
    let mut configuration = connector.configure()?;
    let (pinned, shown) = (target.pinned.clone(), shown.clone());
    configuration.set_verify_hostname(pinned.is_empty());
    configuration.set_verify_callback(SslVerifyMode::PEER, move |fine, context| {
        if let Some(leaf) = context.chain().and_then(|chain| chain.get(0)) {
            shown.note(leaf);
        }
        if pinned.is_empty() || context.error_depth() > 0 {
            // Whoever issued a pinned certificate does not matter.
            return fine || !pinned.is_empty();
        }
        let good = context.current_cert().is_some_and(|certificate| is_pinned(&pinned, certificate));
        context.set_error(if good {
            X509VerifyResult::OK
        } else {
            X509VerifyResult::APPLICATION_VERIFICATION
        });
        good
    });
    if let Some(identity) = &target.client_identity {
        show(&mut configuration, &identity.cert_chain, &identity.pkcs8)?;
    }
    configuration.into_ssl(url.host().trim_end_matches('.'))
}

fn show(ssl: &mut SslRef, chain: &[Vec<u8>], pkcs8: &[u8]) -> Result<(), ErrorStack> {
    for (at, der) in chain.iter().enumerate() {
        let certificate = X509::from_der(der)?;
        if at == 0 {
            ssl.set_certificate(&certificate)?;
        } else {
            ssl.add_chain_cert(certificate)?;
        }
    }
    let key = PKey::private_key_from_pkcs8(pkcs8)?;
    ssl.set_private_key(&key)
}

fn connector(tls: TlsMode, places: &ProbeResult) -> Result<SslConnector, ErrorStack> {
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    match tls {
        TlsMode::Default => builder.set_min_proto_version(Some(SslVersion::TLS1_2))?,
        TlsMode::Only13 => builder.set_min_proto_version(Some(SslVersion::TLS1_3))?,
        TlsMode::Legacy => {
            builder.set_cipher_list("ALL:!aNULL:!eNULL:@SECLEVEL=0")?;
            builder.set_security_level(0);
            builder.set_min_proto_version(Some(SslVersion::TLS1))?;
            builder.set_options(LEGACY_SERVER_CONNECT);
        }
    }
    builder.set_options(SslOptions::NO_COMPRESSION);
    builder.set_alpn_protos(b"\x08http/1.1")?;
    if let Some(file) = &places.cert_file {
        builder.load_verify_locations(Some(file), None)?;
    }
    for dir in &places.cert_dir {
        builder.load_verify_locations(None, Some(dir))?;
    }
    Ok(builder.build())
}

fn is_pinned(pinned: &[Vec<u8>], certificate: &X509Ref) -> bool {
    certificate.to_der().is_ok_and(|der| pinned.contains(&der))
}

/// What a failed handshake means.
fn explain(ssl: &SslRef, target: &Target, error: &openssl::ssl::Error, shown: &str) -> PostError {
    let verdict = ssl.verify_result();
    if verdict != X509VerifyResult::OK {
        if !target.pinned.is_empty() {
            return not_pinned(target, shown);
        }
        let text = format!("the server's certificate is not trusted: {}{shown}", verdict.error_string());
        return PostError::new(Stage::TlsTrust, text, mend(target, verdict));
    }
    // Without words of its own it is the connection that broke.
    let text = error.to_string();
    if let Some((text, hint)) = refused(target, &text) {
        return PostError::new(Stage::Tls, text, hint);
    }
    let hint = match target.tls {
        _ if text.contains("wrong version number") => format!(
            "something else than TLS answers there; if it is plain HTTP: {}",
            target.setting("--url http://…")
        ),
        _ if text.contains("unsafe legacy renegotiation") => format!(
            "the server is of before 2010 (RFC 5746): ask for a newer one; to speak to it all the same: {}",
            target.setting("--tls legacy")
        ),
        TlsMode::Default => format!(
            "ask whether the port speaks TLS 1.2 or later; for an old server: {}",
            target.setting("--tls legacy")
        ),
        TlsMode::Only13 => format!(
            "ask whether the port speaks TLS 1.3; for a server that does not: {}",
            target.setting("--tls default")
        ),
        TlsMode::Legacy => "ask whether the port really speaks TLS".to_owned(),
    };
    PostError::new(Stage::Tls, format!("the TLS handshake failed: {text}"), hint)
}

/// What to do about a certificate that is not trusted. To pin one that has ended or is another host's would be to take the fault.
fn mend(target: &Target, verdict: X509VerifyResult) -> String {
    match verdict.as_raw() {
        X509_V_ERR_CERT_HAS_EXPIRED => "the partner has to renew it; or look whether this machine's clock is right".to_owned(),
        X509_V_ERR_CERT_NOT_YET_VALID => {
            "look whether this machine's clock is right; or the partner has to show one that is valid by now".to_owned()
        }
        X509_V_ERR_HOSTNAME_MISMATCH | X509_V_ERR_IP_ADDRESS_MISMATCH => format!(
            "look at the host in the URL: {}; if it is right, the partner needs a certificate for that host",
            target.setting("--url URL")
        ),
        X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT
        | X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
        | X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN
        | X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
        | X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE => format!(
            "ask the partner for its TLS certificate by another way, then {}; or install its issuer in this system",
            target.trusting()
        ),
        _ => format!(
            "the partner has to mend it; if it cannot, ask for the certificate by another way, then {}",
            target.trusting()
        ),
    }
}

// OpenSSL's x509_vfy.h; its wrapper names none of them.
const X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT: i32 = 2;
const X509_V_ERR_CERT_NOT_YET_VALID: i32 = 9;
const X509_V_ERR_CERT_HAS_EXPIRED: i32 = 10;
const X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT: i32 = 18;
const X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN: i32 = 19;
const X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: i32 = 20;
const X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: i32 = 21;
const X509_V_ERR_HOSTNAME_MISMATCH: i32 = 62;
const X509_V_ERR_IP_ADDRESS_MISMATCH: i32 = 64;

/// What an error says if it is the server's alert about our certificate, and what to do. TLS 1.3 has it come after the handshake,
/// in place of an answer (RFC 8446 §4.4.2.4, §6.2).
pub(super) fn refused(target: &Target, error: &str) -> Option<(String, String)> {
    let word = error.split_once("alert ")?.1.split(':').next()?;
    // Numbers 42 to 49 and 116, in the library's words.
    let about_certificates = [
        "bad certificate",
        "unsupported certificate",
        "certificate revoked",
        "certificate expired",
        "certificate unknown",
        "unknown ca",
        "access denied",
        "certificate required",
    ];
    if !about_certificates.contains(&word) {
        return None;
    }
    let text = match &target.client_identity {
        None => "the server wants a client certificate of ours".to_owned(),
        Some(_) => format!("the server does not take our client certificate: {word}"),
    };
    let hint = format!(
        "ask the partner which certificate it expects, and whether it knows the issuer; then {}",
        target.showing()
    );
    Some((text, hint))
}

fn not_pinned(target: &Target, shown: &str) -> PostError {
    PostError::new(
        Stage::TlsTrust,
        format!("the server's certificate is not the one pinned for this partner{shown}"),
        format!(
            "the server's own certificate counts, not its issuer's; if the partner has renewed it, compare the fingerprint by another way, then {}",
            target.trusting()
        ),
    )
}

/// Subject, end and SHA-256, on one line.
fn describe(certificate: &X509Ref) -> String {
    let name: Vec<String> = certificate
        .subject_name()
        .entries()
        .filter_map(|entry| entry.data().to_string().ok())
        .map(|value| value.chars().map(|c| if c.is_control() { ' ' } else { c }).take(100).collect())
        .collect();
    let digest = certificate
        .digest(MessageDigest::sha256())
        .map(|digest| digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":"));
    // A pinned one counts all the same, and whoever looks should know.
    let is_over = Asn1Time::days_from_now(0).is_ok_and(|now| certificate.not_after() < &*now);
    format!(
        "{} ({} {}, SHA-256 {})",
        name.join(", "),
        if is_over { "expired" } else { "until" },
        certificate.not_after(),
        digest.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn changed_roots_count_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bundle.pem");
        let places = ProbeResult {
            cert_file: Some(file.clone()),
            cert_dir: Vec::new(),
        };
        // As the system does it: a new file takes the place of the old one.
        let put = |text: &[u8]| {
            std::fs::write(dir.path().join("new"), text).unwrap();
            std::fs::rename(dir.path().join("new"), &file).unwrap();
        };
        let pem = |cn: &str| {
            let subject = keystore::Subject {
                cn: cn.to_owned(),
                ..keystore::Subject::default()
            };
            let pair = keystore::identity(keystore::KeySpec::EcP256, &subject, 1_795_359_600, 400).unwrap();
            X509::from_der(&pair.certificate).unwrap().to_pem().unwrap()
        };
        let roots = Roots::default();
        let trusted = || {
            let connector = roots.connector(TlsMode::Default, &places).unwrap();
            let names = connector
                .context()
                .cert_store()
                .all_certificates()
                .into_iter()
                .map(|root| describe(&root));
            (std::ptr::from_ref(connector.context()), names.collect::<Vec<_>>().join("\n"))
        };
        put(&pem("first root"));
        let (one, names) = trusted();
        assert!(names.contains("first root"), "{names}");
        assert_eq!(trusted().0, one, "read once");
        put(&pem("second root"));
        let (other, names) = trusted();
        assert!(
            other != one && names.contains("second root") && !names.contains("first root"),
            "{names}"
        );
        // One that cannot be read takes nothing away.
        put(b"-----BEGIN CERTIFICATE-----\nhalf");
        assert_eq!(trusted().0, other);
    }
}
