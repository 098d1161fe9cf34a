//! What a partner's settings may be.

use as2_core::algorithm::{Cipher, Digest, KeyTransport};
use as2_core::compose::is_own_header;

use super::expect_certificate;
use super::forms::{MAX_TEXT, check_as2_id, check_cidr, check_list, check_text, check_url};
use crate::config::units::parse_duration_over_0;
use crate::content_type;
use crate::objects::Objects;
use crate::partner::Partner;
use crate::post;
use crate::variables;

pub(super) fn check(objects: &Objects, partner: &Partner) -> Result<(), String> {
    check_as2_id(&partner.as2_id)?;
    check_texts(partner)?;
    check_urls(partner)?;
    check_algorithms(partner)?;
    check_http(partner)?;
    check_limits(partner)?;
    for (name, list) in [
        ("stations", &partner.stations),
        ("sign_certificate", &partner.sign_certificate),
        ("https_certificate", &partner.https_certificate),
        ("mdn_urls", &partner.mdn_urls),
        ("allowed_ips", &partner.allowed_ips),
    ] {
        check_list(name, list)?;
    }
    partner.allowed_ips.iter().try_for_each(|block| check_cidr(block))?;
    for station in partner.stations.iter().filter(|station| *station != "*") {
        if objects.stations.get(station).is_none_or(|s| s.account != partner.account) {
            return Err(format!(
                "stations names `{}`, which is no station of this account\nas2gate station list",
                station.escape_default()
            ));
        }
    }
    check_certificates(objects, partner)
}

fn check_texts(partner: &Partner) -> Result<(), String> {
    for (name, text) in [
        ("name", &partner.name),
        ("email", &partner.email),
        ("subject", &partner.subject),
        ("file_name", &partner.file_name),
        ("token_scope", &partner.token_scope),
    ] {
        check_text(name, text)?;
    }
    for (name, template) in [("subject", &partner.subject), ("file_name", &partner.file_name)] {
        variables::check(name, template)?;
    }
    match partner.content_type.as_str() {
        "auto" | content_type::DETECT => Ok(()),
        given => content_type::check("content_type", given).map_err(|why| format!("{why}; or auto, or detect")),
    }
}

fn check_urls(partner: &Partner) -> Result<(), String> {
    let read = |name, url: &str| match url {
        "" => Ok(None),
        url => check_url(name, url).map(Some),
    };
    read("url", &partner.url)?;
    if read("proxy", &partner.proxy)?.is_some_and(|proxy| proxy.is_https()) {
        return Err("proxy: only http:// proxies are spoken to; set it as http://host:port".to_owned());
    }
    if read("token_url", &partner.token_url)?.is_some_and(|url| !url.is_https()) && !partner.private {
        return Err(
            "token_url: the client's secret goes there, which needs https\nhttp is for private addresses: --private true".to_owned(),
        );
    }
    partner.mdn_urls.iter().try_for_each(|url| check_url("mdn_urls", url).map(drop))
}

/// The rules about the certificates that it names.
pub(super) fn check_certificates(objects: &Objects, partner: &Partner) -> Result<(), String> {
    let one = (!partner.encrypt_certificate.is_empty()).then_some(&partner.encrypt_certificate);
    for name in partner.sign_certificate.iter().chain(&partner.https_certificate).chain(one) {
        expect_certificate(objects, &partner.account, name)?;
    }
    let agreement = matches!(
        partner.key_transport,
        KeyTransport::EcdhSha256 | KeyTransport::EcdhSha384 | KeyTransport::EcdhSha512
    );
    let recipient = objects.certificate(&partner.account, &partner.encrypt_certificate);
    if partner.encrypt.is_some()
        && let Some(certificate) = recipient.filter(|certificate| certificate.signs_only())
    {
        return Err(format!(
            "encrypt_certificate {} has a key of the kind {}, which signs only\ngive an RSA or EC certificate for encryption, or set encrypt = \"none\"",
            partner.encrypt_certificate, certificate.key
        ));
    }
    if agreement && recipient.is_some_and(|certificate| certificate.key.starts_with("RSA")) {
        return Err(format!(
            "key_transport {} needs an EC certificate, and {} has an RSA key\nset key_transport = \"pkcs1\" or an oaep word",
            partner.key_transport, partner.encrypt_certificate
        ));
    }
    if !partner.client_certificate.is_empty()
        && expect_certificate(objects, &partner.account, &partner.client_certificate)?
            .sealed_key
            .is_none()
    {
        return Err(format!("client certificate {} has no private key here", partner.client_certificate));
    }
    Ok(())
}

fn check_algorithms(partner: &Partner) -> Result<(), String> {
    if partner.sign.is_some_and(|digest| !digest.is_sent()) {
        return Err("sign has to be one of: none, sha256, sha384, sha512, with legacy also sha1 and sha224".to_owned());
    }
    for (n, digest) in partner.micalgs.iter().enumerate() {
        if !digest.is_sent() || partner.micalgs[..n].contains(digest) {
            return Err("micalgs may hold, each once: sha256, sha384, sha512, with legacy also sha1 and sha224".to_owned());
        }
    }
    if matches!(
        partner.encrypt,
        Some(Cipher::TripleDesCbc | Cipher::Aes192Gcm | Cipher::Aes128Ccm | Cipher::Aes192Ccm | Cipher::Aes256Ccm)
    ) {
        return Err("encrypt has to be one of: none, aes128-cbc, aes192-cbc, aes256-cbc, aes128-gcm, aes256-gcm".to_owned());
    }
    if matches!(partner.key_transport, KeyTransport::EcdhSha1 | KeyTransport::EcdhSha224) {
        return Err("key_transport by ecdh-sha1 or ecdh-sha224 is for receipt only\nuse ecdh-sha256".to_owned());
    }
    Ok(())
}

/// The settings that name a legacy digest though `legacy` is off: what comes back by it is refused here.
pub(super) fn legacy_digests(partner: &Partner) -> Vec<(&'static str, Digest)> {
    let sign = partner.sign.iter().map(|digest| ("sign", *digest));
    let named = sign.chain(partner.micalgs.iter().map(|digest| ("micalgs", *digest)));
    named.filter(|(_, digest)| digest.is_legacy() && !partner.legacy).collect()
}

fn check_http(partner: &Partner) -> Result<(), String> {
    /// Most header lines of a partner.
    const MAX_HEADERS: usize = 50;
    /// Longest value of one.
    const MAX_HEADER_VALUE: usize = 2_048;
    if partner.headers.len() > MAX_HEADERS {
        return Err(format!("headers has more than {MAX_HEADERS} lines"));
    }
    for (name, value) in &partner.headers {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || name.len() > MAX_TEXT || !name.bytes().all(token) {
            return Err(format!("headers: `{}` is not the name of a header", name.escape_default()));
        }
        if is_own_header(name) || post::is_ours(name) {
            let hint = match name.to_ascii_lowercase().as_str() {
                "authorization" => "\nset http_auth instead: --http-user, --http-password",
                "proxy-authorization" => "\nset proxy_auth instead: --proxy-user, --proxy-password",
                _ => "",
            };
            return Err(format!("headers: {name} is the gateway's own to write{hint}"));
        }
        if let Some(other) = partner
            .headers
            .keys()
            .find(|other| *other != name && other.eq_ignore_ascii_case(name))
        {
            return Err(format!(
                "headers: {name} and {other} are one header, which a message has once\nleave one of them out"
            ));
        }
        if value.len() > MAX_HEADER_VALUE || value.chars().any(char::is_control) {
            return Err(format!("headers: the value of {name} is too long or has control characters in it"));
        }
        variables::check(&format!("headers: {name}"), value)?;
    }
    for (name, auth) in [
        ("http_auth", &partner.http_auth),
        ("inbound_auth", &partner.inbound_auth),
        ("proxy_auth", &partner.proxy_auth),
    ] {
        check_text(name, &auth.user)?;
        if auth.user.contains(':') {
            return Err(format!("{name}: a user name of HTTP has no colon in it"));
        }
    }
    if !partner.inbound_auth.user.is_empty() && partner.inbound_auth.password.is_empty() {
        return Err("inbound_auth has a user without a password\ngive both: --inbound-user, --inbound-password".to_owned());
    }
    let has_client = !partner.http_auth.user.is_empty() && !partner.http_auth.password.is_empty();
    if !partner.token_url.is_empty() && !has_client {
        return Err("token_url needs the client's id and secret\ngive both: --http-user, --http-password".to_owned());
    }
    Ok(())
}

/// Numbers, times and sizes.
fn check_limits(partner: &Partner) -> Result<(), String> {
    if !matches!(partner.async_status, 200 | 202 | 204) {
        return Err("async_status has to be 200, 202 or 204".to_owned());
    }
    if partner.max_parallel == 0 || partner.max_parallel > 1_000 {
        return Err("max_parallel has to be from 1 to 1000".to_owned());
    }
    let version = partner
        .as2_version
        .split_once('.')
        .is_some_and(|(a, b)| a.parse::<u8>().is_ok() && b.parse::<u8>().is_ok());
    if !version {
        return Err("as2_version has to look like 1.2".to_owned());
    }
    if i64::try_from(partner.max_message).is_err() || i64::try_from(partner.der_max).is_err() {
        return Err("max_message or der_max is more bytes than a file can have".to_owned());
    }
    let retry = &partner.retry;
    for (name, text) in [
        ("initial", &retry.initial),
        ("max_wait", &retry.max_wait),
        ("max_time", &retry.max_time),
        ("mdn_wait", &retry.mdn_wait),
    ] {
        let read = text.as_deref().map(parse_duration_over_0).transpose();
        read.map_err(|why| format!("retry.{name}: {why}"))?;
    }
    if retry.max_tries == Some(0) {
        return Err("retry.max_tries has to be at least 1".to_owned());
    }
    if retry.factor.is_some_and(|factor| !(1.0..=100.0).contains(&factor)) {
        return Err("retry.factor has to be from 1 to 100".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_for_receipt_only_is_not_sent() {
        let with = |encrypt, key_transport| {
            let partner = Partner {
                encrypt: Some(encrypt),
                key_transport,
                ..Partner::default()
            };
            check_algorithms(&partner).is_ok()
        };
        for cipher in [Cipher::TripleDesCbc, Cipher::Aes128Ccm, Cipher::Aes192Ccm, Cipher::Aes256Ccm] {
            assert!(!with(cipher, KeyTransport::RsaPkcs1), "{cipher}");
        }
        for (transport, sent) in [
            (KeyTransport::EcdhSha256, true),
            (KeyTransport::EcdhSha1, false),
            (KeyTransport::EcdhSha224, false),
        ] {
            assert_eq!(with(Cipher::Aes256Gcm, transport), sent, "{transport}");
        }
    }

    #[test]
    fn no_time_at_all_is_not_a_retry_figure() {
        let own = |key: &str, value: &str| {
            let retry = toml::from_str(&format!("{key} = {value}")).unwrap();
            let partner = Partner {
                retry,
                ..Partner::default()
            };
            check_limits(&partner).map_err(|why| why.split_once(' ').unwrap().0.to_owned())
        };
        for key in ["initial", "max_wait", "max_time", "mdn_wait"] {
            assert_eq!(own(key, "\"0s\""), Err(format!("retry.{key}:")));
            assert_eq!(own(key, "\"1ms\""), Ok(()), "{key}");
        }
        assert_eq!(own("max_tries", "0"), Err("retry.max_tries".to_owned()));
        assert_eq!(own("mdn_tries", "0"), Ok(()), "none is what it says");
    }

    #[test]
    fn urls_are_judged_by_what_they_say_not_by_how_they_are_written() {
        let mut partner = Partner {
            token_url: "HTTP://a.example/token".to_owned(),
            ..Partner::default()
        };
        assert!(check_urls(&partner).unwrap_err().contains("needs https"));
        partner.private = true;
        assert!(check_urls(&partner).is_ok());
        partner.proxy = "HTTPS://proxy.example:3128".to_owned();
        assert!(check_urls(&partner).unwrap_err().contains("only http:// proxies"));
    }

    #[test]
    fn partners_cannot_double_our_headers() {
        let mut partner = Partner {
            as2_id: "B".to_owned(),
            ..Partner::default()
        };
        partner.headers.insert("X-Env".to_owned(), "prod".to_owned());
        assert!(check_http(&partner).is_ok());
        for own in [
            "AS2-From",
            "EDIINT-Features",
            "recipient-address",
            "Content-Type",
            "TE",
            "upgrade",
            "Proxy-Authorization",
        ] {
            let mut partner = partner.clone();
            partner.headers.insert(own.to_owned(), "x".to_owned());
            assert!(check_http(&partner).unwrap_err().contains("the gateway's own"), "{own}");
        }
        partner.headers.insert("x-env".to_owned(), "test".to_owned());
        assert!(check_http(&partner).unwrap_err().contains("X-Env and x-env are one"));
    }
}
