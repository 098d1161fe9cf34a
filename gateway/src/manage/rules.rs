//! The rules that objects obey, whichever way they come in. Only changed objects are judged, and what a removal would
//! leave dangling; `as2gate check` judges all of them.

use std::net::IpAddr;

use as2_core::algorithm::{Cipher, Digest, KeyTransport};
use jiff::Timestamp;

use super::{Change, Object, Refusal, RefusalKind, Result, listed};
use crate::account::Account;
use crate::certificate::{Certificate, Purpose};
use crate::config::{Config, parse_duration};
use crate::journal::{ObjectKind, Objects};
use crate::layout::{MAX_DIR_NAME, encode};
use crate::login::LoginStep;
use crate::partner::Partner;
use crate::station::Station;
use crate::user::User;
use crate::variables;

/// Longest AS2 id in characters (RFC 4130 §6.2).
pub const MAX_AS2_ID: usize = 128;
/// Longest name of a certificate.
pub const MAX_CERTIFICATE_NAME: usize = 64;
/// Longest URL.
pub const MAX_URL: usize = 2_048;
/// Longest text for people: names, subjects, mail addresses.
pub const MAX_TEXT: usize = 255;
/// Most entries of a list in an object.
pub const MAX_LIST: usize = 100;

/// Judges the changed objects in the company that they would be in.
///
/// # Errors
/// The first broken rule.
pub fn check_changes(config: &Config, before: &Objects, after: &Objects, changes: &[Change]) -> Result<()> {
    for change in changes {
        match change {
            Change::Put(object) => {
                check_owner(before, object)?;
                check_object(config, after, object).map_err(|why| broken(object, why))?;
            }
            Change::Remove(kind, account, name) => check_removal(after, *kind, account, name)?,
        }
    }
    Ok(())
}

fn broken(object: &Object, why: String) -> Refusal {
    let (why, hint) = why
        .split_once('\n')
        .map(|(why, hint)| (why.to_owned(), hint.to_owned()))
        .unwrap_or((why, String::new()));
    let hint = if hint.is_empty() {
        format!("as2gate {} --help shows the form of every setting", noun(object.kind()))
    } else {
        hint
    };
    Refusal::invalid(format!("cannot take {} {}", object.kind(), object.name()), why, hint)
}

/// The noun of the command line.
#[must_use]
pub fn noun(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Certificate => "cert",
        other => other.as_str(),
    }
}

/// Names that are unique on the server keep their account.
fn check_owner(before: &Objects, object: &Object) -> Result<()> {
    let other = match object {
        Object::Station(station) => before.stations.get(&station.as2_id).map(|s| s.account.as_str()),
        Object::User(user) => before.user(&user.name).map(|u| u.account.as_str()),
        _ => None,
    };
    let taken = |why: &str| {
        Refusal::exists(
            format!("cannot take {} {}", object.kind(), object.name()),
            why.to_owned(),
            "choose another name",
        )
    };
    if other.is_some_and(|account| account != object.account()) {
        return Err(taken("another account on this server has that name"));
    }
    if let Object::User(user) = object
        && before.user(&user.name).is_some_and(|u| u.name != user.name)
    {
        return Err(taken("a user of that name exists; upper and lower case do not tell users apart"));
    }
    Ok(())
}

/// Judges one object; the text after a line break is the hint.
///
/// # Errors
/// The broken rule in words.
pub fn check_object(config: &Config, objects: &Objects, object: &Object) -> Result<(), String> {
    if object.kind() != ObjectKind::Account && !objects.accounts.contains_key(object.account()) {
        return Err(format!(
            "there is no account `{}`\nas2gate account list",
            object.account().escape_default()
        ));
    }
    match object {
        Object::Account(account) => check_account(config, account),
        Object::Station(station) => check_station(objects, station),
        Object::Partner(partner) => check_partner(objects, partner),
        Object::Certificate(certificate) => check_certificate(objects, certificate),
        Object::User(user) => check_user(user),
    }
}

fn check_account(config: &Config, account: &Account) -> Result<(), String> {
    Account::new(&account.id)?;
    check_text("name", &account.name)?;
    // A machine without a time zone database knows none of them; UTC needs no database.
    let checkable = account.timezone != "UTC" && jiff::tz::db().available().next().is_some();
    if checkable && jiff::tz::TimeZone::get(&account.timezone).is_err() {
        return Err(format!(
            "timezone `{}` is not known\nwrite it like America/New_York",
            account.timezone.escape_default()
        ));
    }
    config.lifecycle.with(account.lifecycle.as_ref()).map(|_| ())
}

fn check_station(objects: &Objects, station: &Station) -> Result<(), String> {
    check_as2_id(&station.as2_id)?;
    check_text("name", &station.name)?;
    check_text("email", &station.email)?;
    if !station.url.is_empty() {
        check_url("url", &station.url)?;
    }
    check_list("also_decrypt", &station.also_decrypt)?;
    for name in station
        .also_decrypt
        .iter()
        .chain((!station.certificate.is_empty()).then_some(&station.certificate))
    {
        let certificate = expect_certificate(objects, &station.account, name)?;
        if certificate.sealed_key.is_none() {
            return Err(format!(
                "certificate {name} has no private key here, and a station signs and decrypts with one\nas2gate cert add NAME --station {} --file FILE",
                station.as2_id
            ));
        }
    }
    Ok(())
}

fn check_partner(objects: &Objects, partner: &Partner) -> Result<(), String> {
    check_as2_id(&partner.as2_id)?;
    for (name, text) in [
        ("name", &partner.name),
        ("email", &partner.email),
        ("subject", &partner.subject),
        ("file_name", &partner.file_name),
        ("content_type", &partner.content_type),
    ] {
        check_text(name, text)?;
    }
    for (name, template) in [("subject", &partner.subject), ("file_name", &partner.file_name)] {
        variables::check(name, template)?;
    }
    if !partner.url.is_empty() {
        check_url("url", &partner.url)?;
    }
    for url in &partner.mdn_urls {
        check_url("mdn_urls", url)?;
    }
    if !partner.proxy.is_empty() {
        check_url("proxy", &partner.proxy)?;
    }
    if partner.content_type != "auto" && !partner.content_type.contains('/') {
        return Err("content_type has to be `auto` or a media type like application/EDI-X12".to_owned());
    }
    check_algorithms(partner)?;
    check_http(partner)?;
    for (name, list) in [
        ("stations", &partner.stations),
        ("sign_certificate", &partner.sign_certificate),
        ("https_certificate", &partner.https_certificate),
        ("mdn_urls", &partner.mdn_urls),
    ] {
        check_list(name, list)?;
    }
    for station in partner.stations.iter().filter(|station| *station != "*") {
        if objects.stations.get(station).is_none_or(|s| s.account != partner.account) {
            return Err(format!(
                "stations names `{}`, which is no station of this account\nas2gate station list",
                station.escape_default()
            ));
        }
    }
    let one = (!partner.encrypt_certificate.is_empty()).then_some(&partner.encrypt_certificate);
    for name in partner.sign_certificate.iter().chain(&partner.https_certificate).chain(one) {
        expect_certificate(objects, &partner.account, name)?;
    }
    let agreement = matches!(
        partner.key_transport,
        KeyTransport::EcdhSha256 | KeyTransport::EcdhSha384 | KeyTransport::EcdhSha512
    );
    let recipient = objects.certificate(&partner.account, &partner.encrypt_certificate);
    if agreement && recipient.is_some_and(|certificate| certificate.key.starts_with("RSA")) {
        return Err(format!(
            "key_transport {} needs an EC certificate, and {} has an RSA key\nset key_transport = \"pkcs1\" or an oaep word",
            partner.key_transport, partner.encrypt_certificate
        ));
    }
    if partner.encrypt.is_some() && recipient.is_some_and(|certificate| certificate.key.starts_with("Ed25519")) {
        return Err(format!(
            "encrypt_certificate {} has an Ed25519 key, which signs only\ngive an RSA or EC certificate for encryption, or set encrypt = \"none\"",
            partner.encrypt_certificate
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
    match partner.sign {
        Some(Digest::Sha1) if !partner.legacy => {
            return Err(
                "sign = \"sha1\" is allowed for old partners only\nset legacy = true as well, if this partner can do no better".to_owned(),
            );
        }
        Some(Digest::Md5 | Digest::Sha3_256 | Digest::Sha3_384 | Digest::Sha3_512) => {
            return Err("sign has to be one of: none, sha224, sha256, sha384, sha512, with legacy also sha1".to_owned());
        }
        _ => {}
    }
    for (n, digest) in partner.micalgs.iter().enumerate() {
        let fits = match digest {
            Digest::Sha1 => partner.legacy,
            Digest::Sha224 | Digest::Sha256 | Digest::Sha384 | Digest::Sha512 => true,
            _ => false,
        };
        if !fits || partner.micalgs[..n].contains(digest) {
            return Err("micalgs may hold, each once: sha224, sha256, sha384, sha512, with legacy also sha1".to_owned());
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

/// Header names that a message's own lines have; a partner's extra lines may not double them.
const OWN_HEADERS: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "message-id",
    "date",
    "subject",
    "mime-version",
    "expect",
    "authorization",
];
const OWN_HEADER_PREFIXES: &[&str] = &["as2-", "content-", "disposition-notification-", "receipt-delivery-"];

fn check_http(partner: &Partner) -> Result<(), String> {
    /// Most header lines of a partner.
    const MAX_HEADERS: usize = 50;
    if partner.headers.len() > MAX_HEADERS {
        return Err(format!("headers has more than {MAX_HEADERS} lines"));
    }
    for (name, value) in &partner.headers {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || name.len() > MAX_TEXT || !name.bytes().all(token) {
            return Err(format!("headers: `{}` is not the name of a header", name.escape_default()));
        }
        let lower = name.to_ascii_lowercase();
        if OWN_HEADERS.contains(&lower.as_str()) || OWN_HEADER_PREFIXES.iter().any(|prefix| lower.starts_with(prefix)) {
            return Err(format!("headers: {name} is written by the gateway itself"));
        }
        if value.len() > MAX_URL || value.chars().any(char::is_control) {
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
    for text in [&retry.initial, &retry.max_wait, &retry.max_time, &retry.mdn_wait]
        .into_iter()
        .flatten()
    {
        parse_duration(text).map_err(|why| format!("retry: {why}"))?;
    }
    Ok(())
}

fn check_certificate(objects: &Objects, certificate: &Certificate) -> Result<(), String> {
    check_name(&certificate.name)?;
    keystore::CertInfo::from_der(&certificate.der).map_err(|error| error.to_string())?;
    if matches!(certificate.purpose, Purpose::Station | Purpose::Partner) {
        as2_core::cert::Certificate::from_der(&certificate.der).map_err(|error| error.detail)?;
    }
    if certificate.purpose == Purpose::Station && certificate.key.starts_with("Ed25519") {
        return Err("a station signs and decrypts, and an Ed25519 key cannot decrypt\ngive an RSA or EC key".to_owned());
    }
    if certificate.purpose == Purpose::Station && certificate.sealed_key.is_none() {
        return Err("a station's certificate needs its private key\ngive a file with both (.p12, .pfx, .jks, .pem)".to_owned());
    }
    if certificate.sealed_key.is_some() && !matches!(certificate.purpose, Purpose::Station | Purpose::Https) {
        return Err("a partner's private key is the partner's own; nobody else may have it\nask the partner for the certificate alone (.cer, .crt, .p7b)".to_owned());
    }
    let owner = &certificate.owner;
    let known = objects.partner(&certificate.account, owner).is_some()
        || objects.stations.get(owner).is_some_and(|s| s.account == certificate.account);
    if !owner.is_empty() && !known {
        return Err(format!(
            "it belongs to `{}`, which is neither station nor partner of this account",
            owner.escape_default()
        ));
    }
    check_list("confirmed_by", &certificate.confirmed_by)?;
    if !certificate.active_from.is_empty() && certificate.active_from.parse::<Timestamp>().is_err() {
        return Err("active_from has to be a time like 2026-12-05T06:00:00Z".to_owned());
    }
    if !certificate.replaces.is_empty() {
        let old = expect_certificate(objects, &certificate.account, &certificate.replaces)?;
        if old.name == certificate.name {
            return Err("it cannot replace itself".to_owned());
        }
    }
    Ok(())
}

fn check_user(user: &User) -> Result<(), String> {
    user.kind.check_name(&user.name)?;
    check_list("keys", &user.keys)?;
    check_list("allowed_ips", &user.allowed_ips)?;
    for key in &user.keys {
        let found = keystore::ssh::parse_public(key).map_err(|error| error.to_string())?;
        if found.len() != 1 {
            return Err("each entry of keys has to be one public key".to_owned());
        }
    }
    if !user.password.is_empty() && !keystore::is_password_hash(&user.password) {
        return Err("password is not an argon2id hash of an agreed cost".to_owned());
    }
    if !user.totp.is_empty() && !user.totp.starts_with(super::secrets::SEALED) {
        return Err("totp is not a sealed secret; `as2gate user totp NAME` makes one".to_owned());
    }
    for block in &user.allowed_ips {
        check_cidr(block)?;
    }
    if !user.expires.is_empty() && user.expires.parse::<Timestamp>().is_err() {
        return Err(format!(
            "expires `{}` is not a time like 2027-01-31T00:00:00Z",
            user.expires.escape_default()
        ));
    }
    Ok(())
}

fn check_removal(after: &Objects, kind: ObjectKind, account: &str, name: &str) -> Result<()> {
    let in_use = |why: String, hint: &str| {
        Err(Refusal::new(
            RefusalKind::Failed,
            "in-use",
            format!("cannot remove {kind} {name}"),
            why,
            hint,
        ))
    };
    match kind {
        ObjectKind::Account => {
            let stations = after
                .stations
                .values()
                .filter(|s| s.account == name)
                .map(|s| format!("station {}", s.as2_id));
            let partners = after
                .partners
                .values()
                .filter(|p| p.account == name)
                .map(|p| format!("partner {}", p.as2_id));
            let certificates = after
                .certificates
                .values()
                .filter(|c| c.account == name)
                .map(|c| format!("cert {}", c.name));
            let users = after
                .users
                .values()
                .filter(|u| u.account == name)
                .map(|u| format!("user {}", u.name));
            let all: Vec<String> = stations.chain(partners).chain(certificates).chain(users).collect();
            if !all.is_empty() {
                return in_use(
                    format!("it still has {}", listed(all.iter().map(String::as_str), "")),
                    "remove these first",
                );
            }
        }
        ObjectKind::Station => {
            let naming: Vec<&str> = after
                .partners
                .values()
                .filter(|p| p.account == account && p.stations.iter().any(|s| s == name))
                .map(|p| p.as2_id.as_str())
                .collect();
            if !naming.is_empty() {
                return in_use(
                    format!("partners name it: {}", listed(naming.into_iter(), "")),
                    "as2gate partner set ID --stations …",
                );
            }
        }
        ObjectKind::Certificate => {
            let users = used_by(after, account, name);
            if !users.is_empty() {
                return in_use(
                    format!("it is used by {}", listed(users.iter().map(String::as_str), "")),
                    "give them another certificate first, e.g. with `as2gate cert schedule`",
                );
            }
        }
        ObjectKind::Partner | ObjectKind::User => {}
    }
    Ok(())
}

/// By whom a certificate is used, in words.
#[must_use]
pub fn used_by(objects: &Objects, account: &str, name: &str) -> Vec<String> {
    let mut users = Vec::new();
    for station in objects.stations.values().filter(|station| station.account == account) {
        if station.certificate == name || station.also_decrypt.iter().any(|other| other == name) {
            users.push(format!("station {}", station.as2_id));
        }
    }
    for partner in objects.partners.values().filter(|partner| partner.account == account) {
        let listed = partner
            .sign_certificate
            .iter()
            .chain(&partner.https_certificate)
            .any(|other| other == name);
        if listed || partner.encrypt_certificate == name || partner.client_certificate == name {
            users.push(format!("partner {}", partner.as2_id));
        }
    }
    for other in objects
        .certificates
        .values()
        .filter(|c| c.account == account && c.replaces == name && !c.active_from.is_empty())
    {
        users.push(format!("the switch to certificate {}", other.name));
    }
    users
}

fn expect_certificate<'a>(objects: &'a Objects, account: &str, name: &str) -> Result<&'a Certificate, String> {
    objects
        .certificate(account, name)
        .ok_or_else(|| format!("there is no certificate `{}`\nas2gate cert list", name.escape_default()))
}

/// The rule for AS2 ids: 1 to 128 printable ASCII characters, no blank at either end, and a directory name that fits.
///
/// # Errors
/// The rule.
pub fn check_as2_id(id: &str) -> Result<(), String> {
    let printable = id.bytes().all(|b| (0x20..0x7f).contains(&b));
    if id.is_empty() || id.len() > MAX_AS2_ID || !printable || id.trim() != id {
        return Err(format!(
            "AS2 id `{}` must be 1 to {MAX_AS2_ID} printable ASCII characters, without blanks at the ends",
            id.escape_default()
        ));
    }
    if encode(id).len() > MAX_DIR_NAME {
        return Err(format!("AS2 id `{id}` makes a directory name of more than {MAX_DIR_NAME} bytes"));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > MAX_CERTIFICATE_NAME || !name.bytes().all(legal) || name.starts_with(['-', '.']) {
        return Err(format!(
            "certificate name `{}` must be 1 to {MAX_CERTIFICATE_NAME} of a-z, A-Z, 0-9, - _ and ., and must not begin with - or .",
            name.escape_default()
        ));
    }
    Ok(())
}

fn check_text(name: &str, text: &str) -> Result<(), String> {
    if text.chars().count() > MAX_TEXT || text.chars().any(char::is_control) {
        return Err(format!(
            "{name} is longer than {MAX_TEXT} characters or has control characters in it"
        ));
    }
    Ok(())
}

fn check_list(name: &str, list: &[String]) -> Result<(), String> {
    if list.len() > MAX_LIST {
        Err(format!("{name} has more than {MAX_LIST} entries"))
    } else {
        Ok(())
    }
}

/// The rule for URLs: http or https, a host, no user name in it.
///
/// # Errors
/// The rule.
pub fn check_url(name: &str, url: &str) -> Result<(), String> {
    let wrong = |why: &str| {
        Err(format!(
            "{name} `{}` {why}\nwrite it like https://as2.example.com/as2",
            url.escape_default()
        ))
    };
    if url.len() > MAX_URL || !url.bytes().all(|b| b.is_ascii_graphic()) {
        return wrong("is too long or has characters in it that a URL has not");
    }
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return wrong("does not begin with http:// or https://");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return wrong("has a user name in it; use http_auth");
    }
    let port_fits = match authority.strip_prefix('[') {
        Some(inner) => inner.split_once(']').is_some_and(|(host, port)| {
            host.parse::<std::net::Ipv6Addr>().is_ok()
                && (port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok()))
        }),
        None => match authority.split_once(':') {
            Some((host, port)) => !host.is_empty() && port.parse::<u16>().is_ok(),
            None => !authority.is_empty(),
        },
    };
    if port_fits { Ok(()) } else { wrong("has no usable host or port") }
}

/// The rule for address blocks: an address, or `address/bits`.
fn check_cidr(block: &str) -> Result<(), String> {
    let wrong = || {
        format!(
            "allowed_ips: `{}` is not an address or block like 192.0.2.0/24",
            block.escape_default()
        )
    };
    let (address, bits) = block.split_once('/').map_or((block, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    match bits.map(str::parse::<u8>) {
        None => Ok(()),
        Some(Ok(bits)) if bits <= most => Ok(()),
        Some(_) => Err(wrong()),
    }
}

/// What `check` says about an object that is legal and will not do its work.
#[must_use]
pub fn warnings(objects: &Objects, now: crate::clock::Millis) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for station in objects.stations.values() {
        if station.certificate.is_empty() {
            found.push((
                format!("station {} has no certificate", station.as2_id),
                format!("as2gate cert add NAME --station {} --file FILE", station.as2_id),
            ));
        }
    }
    for partner in objects.partners.values() {
        let id = &partner.as2_id;
        if partner.url.is_empty() {
            found.push((format!("partner {id} has no url"), format!("as2gate partner set {id} --url URL")));
        }
        if partner.encrypt.is_some() && partner.encrypt_certificate.is_empty() {
            found.push((
                format!("partner {id} has no encryption certificate"),
                format!("as2gate cert add NAME --partner {id} --file FILE"),
            ));
        }
        if partner.sign_certificate.is_empty() && (partner.require_signed || partner.mdn.is_signed()) {
            found.push((
                format!("partner {id} has no signing certificate"),
                format!("as2gate cert add NAME --partner {id} --file FILE"),
            ));
        }
    }
    for certificate in objects.certificates.values() {
        if certificate.not_after.saturating_mul(1000) < now && !used_by(objects, &certificate.account, &certificate.name).is_empty() {
            let switch = format!("as2gate cert schedule {} --replace-with FILE", certificate.name);
            found.push((format!("certificate {} has expired and is in use", certificate.name), switch));
        }
    }
    found.extend(super::rollover::warnings(objects));
    for user in objects.users.values() {
        let lacks = [
            (
                LoginStep::PublicKey,
                user.keys.is_empty(),
                "no key",
                format!("key add {} --public-key FILE", user.name),
            ),
            (
                LoginStep::Password,
                user.password.is_empty(),
                "no password",
                format!("password {}", user.name),
            ),
            (
                LoginStep::Totp,
                user.totp.is_empty(),
                "no secret for codes",
                format!("totp {}", user.name),
            ),
        ];
        for (_, _, lack, hint) in lacks.into_iter().filter(|(step, empty, ..)| *empty && user.login.has(*step)) {
            found.push((
                format!("user {} has {lack} and cannot log in with {}", user.name, user.login.describe()),
                format!("as2gate user {hint}"),
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_urls_and_blocks() {
        for good in [
            "ACME_PROD",
            "AS 2/x",
            "a.b",
            "ünïcode".replace('ü', "u").replace('ï', "i").as_str(),
            &"x".repeat(128),
            "a\"b",
            "\"a\\b\"",
        ] {
            assert!(check_as2_id(good).is_ok(), "{good}");
        }
        for bad in ["", " a", "a ", "a\n", "ä", &"\"".repeat(100), &"x".repeat(129), &"/".repeat(100)] {
            assert!(check_as2_id(bad).is_err(), "{bad}");
        }
        for good in ["http://localhost:8080/as2", "https://[::1]:4443/", "https://as2.example.com"] {
            assert!(check_url("url", good).is_ok(), "{good}");
        }
        for bad in [
            "ftp://x",
            "http://",
            "http://u:p@x/",
            "http://x:99999/",
            "http://a b/",
            "http://[::1/",
            "as2.example.com",
        ] {
            assert!(check_url("url", bad).is_err(), "{bad}");
        }
        assert!(check_cidr("192.0.2.0/24").is_ok() && check_cidr("::1").is_ok() && check_cidr("2001:db8::/32").is_ok());
        assert!(check_cidr("192.0.2.0/33").is_err() && check_cidr("x").is_err() && check_cidr("1.2.3.4/-1").is_err());
    }

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
    fn partners_cannot_double_our_headers() {
        let mut partner = Partner {
            as2_id: "B".to_owned(),
            ..Partner::default()
        };
        partner.headers.insert("X-Env".to_owned(), "prod".to_owned());
        assert!(check_http(&partner).is_ok());
        partner.headers.insert("AS2-From".to_owned(), "x".to_owned());
        assert!(check_http(&partner).is_err());
    }
}
