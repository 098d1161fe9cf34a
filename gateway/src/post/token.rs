//! Tokens of OAuth 2.0 for partners that want one: fetched with the client's own credentials (RFC 6749 §4.4), sent as
//! `Authorization: Bearer` (RFC 6750 §2.1), and kept until shortly before they end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use as2_core::headers::Headers;
use bytes::Bytes;
use zeroize::Zeroizing;

use super::exchange::basic;
use super::pool::Digest;
use super::{Body, Credentials, PostError, Poster, Stage, Target};
use crate::lock::locked;
use crate::url::Url;

/// How long a token endpoint may take in all.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer of a token endpoint that is read.
const MAX_ANSWER: usize = 64 * 1024;
/// Longest token: it goes into a header field.
const MAX_TOKEN: usize = 16 * 1024;
/// A token is fetched anew so long before it ends.
const MARGIN: Duration = Duration::from_secs(60);
/// How long a token counts whose endpoint does not say.
const UNSAID: u64 = 300;
/// Longest time for which a token is kept, whatever its endpoint says.
const LONGEST: u64 = 86_400;

/// How to get a token.
#[derive(Clone)]
pub struct Grant {
    /// The token endpoint.
    pub url: String,
    /// Id and secret of the client.
    pub client: (String, Zeroizing<String>),
    /// What it shall allow; may be empty.
    pub scope: String,
}

impl Grant {
    /// All of it.
    pub(super) fn texts(&self) -> [&str; 4] {
        [&self.url, &self.client.0, &self.client.1, &self.scope]
    }

    /// No secret is kept as a key.
    fn digest(&self) -> [u8; 32] {
        Digest::of(&self.texts())
    }

    /// The endpoint as a target: by the partner's ways. Pinned certificates and our own one are
    /// the partner's business and count there only where it is the same server.
    fn target(&self, partner: &Target) -> Target {
        let is_same = match (Url::parse(&self.url), Url::parse(&partner.url)) {
            (Ok(endpoint), Ok(partner)) => endpoint.same_origin(&partner),
            _ => false,
        };
        Target {
            partner: partner.partner.clone(),
            url: self.url.clone(),
            tls: partner.tls,
            pinned: if is_same { partner.pinned.clone() } else { Vec::new() },
            client_identity: partner.client_identity.clone().filter(|_| is_same),
            credentials: None,
            headers: Vec::new(),
            allow_private: partner.allow_private,
            proxy: partner.proxy.clone(),
            connect_timeout: partner.connect_timeout,
            progress_timeout: PATIENCE,
            response_timeout: PATIENCE,
            total_timeout: Some(PATIENCE),
            chunked: false,
            keep_alive: false,
        }
    }

    fn form(&self) -> Bytes {
        let mut form = "grant_type=client_credentials".to_owned();
        if !self.scope.is_empty() {
            form.push_str("&scope=");
            form.push_str(&escaped(&self.scope));
        }
        form.into()
    }
}

/// `application/x-www-form-urlencoded`.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b' ' => "+".to_owned(),
        byte if byte.is_ascii_alphanumeric() || b"-._*".contains(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Tokens that still count, and who fetches one.
#[derive(Default)]
pub(super) struct Tokens {
    kept: Mutex<HashMap<[u8; 32], Token>>,
    /// One fetch at a time for a grant: many servers withdraw the former token when they give a new one.
    turns: Mutex<HashMap<[u8; 32], Arc<tokio::sync::Mutex<()>>>>,
}

struct Token {
    text: Zeroizing<String>,
    until: Instant,
}

impl Tokens {
    fn get(&self, grant: &Grant) -> Option<Zeroizing<String>> {
        let kept = self.lock();
        let token = kept.get(&grant.digest())?;
        (token.until > Instant::now()).then(|| token.text.clone())
    }

    fn put(&self, grant: &Grant, token: Token) {
        let (now, mut kept) = (Instant::now(), self.lock());
        kept.retain(|_, token| token.until > now);
        kept.insert(grant.digest(), token);
    }

    /// The target did not accept what was shown; true if it may accept another token.
    fn refused(&self, grant: &Grant, shown: &Authorization) -> bool {
        let mut kept = self.lock();
        let digest = grant.digest();
        match kept.get(&digest) {
            Some(token) if shown.value.as_str() == bearer(token.text.as_str()).as_str() => {
                kept.remove(&digest);
                shown.is_old
            }
            // Somebody has fetched another one meanwhile.
            Some(_) => true,
            None => shown.is_old,
        }
    }

    fn turn(&self, grant: &Grant) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = locked(&self.turns);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(grant.digest()).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Token>> {
        locked(&self.kept)
    }
}

/// What stands in `Authorization`.
pub(super) struct Authorization {
    pub(super) value: Zeroizing<String>,
    /// It is from before: the server may have withdrawn it.
    pub(super) is_old: bool,
}

impl Authorization {
    fn of(value: Zeroizing<String>) -> Self {
        Authorization { value, is_old: false }
    }
}

fn bearer(token: &str) -> Zeroizing<String> {
    Zeroizing::new(format!("Bearer {token}"))
}

impl Poster {
    /// What to show a target, fetched first if it is a token that is not there yet.
    pub(super) async fn authorization(&self, target: &Target) -> Result<Option<Authorization>, PostError> {
        let grant = match &target.credentials {
            None => return Ok(None),
            Some(Credentials::Basic(login)) => return Ok(Some(Authorization::of(basic(login)))),
            Some(Credentials::Token(grant)) => grant,
        };
        let (token, is_old) = match self.tokens.get(grant) {
            Some(token) => (token, true),
            None => self.first(target, grant).await?,
        };
        let value = bearer(token.as_str());
        Ok(Some(Authorization { value, is_old }))
    }

    /// A token from the endpoint, or one that somebody else fetched while we waited for our turn; whether it is that.
    async fn first(&self, target: &Target, grant: &Grant) -> Result<(Zeroizing<String>, bool), PostError> {
        let turn = self.tokens.turn(grant);
        let _ours = turn.lock().await;
        match self.tokens.get(grant) {
            Some(token) => Ok((token, true)),
            None => Ok((self.fetch(target, grant).await?, false)),
        }
    }

    /// The target answered 401 to what was shown; true if it is worth to ask once more.
    pub(super) fn refused_token(&self, target: &Target, shown: &Authorization) -> bool {
        match &target.credentials {
            Some(Credentials::Token(grant)) => self.tokens.refused(grant, shown),
            _ => false,
        }
    }

    async fn fetch(&self, partner: &Target, grant: &Grant) -> Result<Zeroizing<String>, PostError> {
        let endpoint = grant.target(partner);
        let mut headers = Headers::default();
        for (name, value) in [
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Accept", "application/json"),
        ] {
            headers.push(name, value).map_err(|error| refused(error.to_string(), false))?;
        }
        // RFC 6749 §2.3.1: encoded before they are joined.
        let (id, secret) = &grant.client;
        let shown = Authorization::of(basic(&(escaped(id), Zeroizing::new(escaped(secret)))));
        let form = Body::Bytes(grant.form());
        let posted = self.post_as(&endpoint, &headers, form, MAX_ANSWER, Some(&shown)).await;
        let answer = posted.map_err(|error| PostError {
            // Nothing of the message has left.
            body_sent: false,
            unanswered: false,
            text: format!("token endpoint {}: {}", grant.url, error.text),
            ..error
        })?;
        let token =
            read(answer.status, &answer.body).map_err(|(why, retry)| refused(format!("token endpoint {}: {why}", grant.url), retry))?;
        let text = token.text.clone();
        self.tokens.put(grant, token);
        Ok(text)
    }
}

fn refused(text: String, retry: bool) -> PostError {
    PostError {
        retry,
        ..PostError::new(
            Stage::Token,
            text,
            "look at the partner's token_url, token_scope, http_auth.user and http_auth.password",
        )
    }
}

/// The fields of an answer that count (RFC 6749 §5.1, §5.2). One of another type than it should have costs none of the others.
#[derive(Default)]
struct Fields {
    access_token: Zeroizing<String>,
    token_type: String,
    expires_in: Option<u64>,
    error: String,
    error_description: String,
}

impl Fields {
    fn read(body: &[u8]) -> Self {
        let Ok(serde_json::Value::Object(mut all)) = serde_json::from_slice(body) else {
            return Fields::default();
        };
        let mut text = |name: &str| match all.remove(name) {
            Some(serde_json::Value::String(text)) => text,
            Some(serde_json::Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        // COMPAT(Azure AD v1): a text; others send a fraction.
        let seconds = text("expires_in");
        Fields {
            access_token: Zeroizing::new(text("access_token")),
            token_type: text("token_type"),
            expires_in: seconds.split('.').next().and_then(|whole| whole.parse().ok()),
            error: text("error"),
            error_description: text("error_description"),
        }
    }
}

/// The token of an answer; or why there is none, and whether there may be one later.
fn read(status: u16, body: &[u8]) -> Result<Token, (String, bool)> {
    let fields = Fields::read(body);
    if status != 200 {
        let said = [fields.error, fields.error_description].join(" ");
        let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
        let is_final = (400..500).contains(&status) && !matches!(status, 408 | 425 | 429);
        return Err((format!("HTTP {status} {}", said.trim()).trim().to_owned(), !is_final));
    }
    let token = fields.access_token;
    if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(("the answer holds no usable access_token".to_owned(), true));
    }
    if !fields.token_type.eq_ignore_ascii_case("bearer") {
        let kind = fields.token_type.escape_default();
        return Err((format!("the token's type is `{kind}` and not Bearer"), false));
    }
    let counts = Duration::from_secs(fields.expires_in.unwrap_or(UNSAID).min(LONGEST)).saturating_sub(MARGIN);
    Ok(Token {
        text: token,
        until: Instant::now() + counts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_scopes_are_encoded_as_a_form() {
        assert_eq!(escaped("a b:c&d/é_1-2.3*~"), "a+b%3Ac%26d%2F%C3%A9_1-2.3*%7E");
    }

    #[test]
    fn answers_of_token_endpoints() {
        let until =
            |body: &str| read(200, body.as_bytes()).map(|token| token.until.saturating_duration_since(Instant::now()).as_secs() + 1);
        assert_eq!(
            until(r#"{"access_token":"x.y","token_type":"bearer","expires_in":3600}"#).ok(),
            Some(3540)
        );
        assert_eq!(until(r#"{"access_token":"x.y","token_type":"Bearer"}"#).ok(), Some(240));
        for seconds in [r#""3600""#, "3600.0"] {
            let body = format!(r#"{{"access_token":"x.y","token_type":"Bearer","expires_in":{seconds},"error":null}}"#);
            assert_eq!(until(&body).ok(), Some(3540), "{seconds}");
        }
        assert_eq!(until(r#"{"access_token":"x","token_type":"Bearer","expires_in":5}"#).ok(), Some(1));
        for (status, body, retry) in [
            (200, r#"{"access_token":"x y","token_type":"Bearer"}"#, true),
            (200, r#"{"access_token":"x\r\nX: y","token_type":"Bearer"}"#, true),
            (200, r#"{"access_token":"x","token_type":"mac"}"#, false),
            (200, "<html>", true),
            (401, r#"{"error":"invalid_client"}"#, false),
            (429, "", true),
            (503, "", true),
        ] {
            let told = read(status, body.as_bytes()).err();
            assert_eq!(told.as_ref().map(|(_, retry)| *retry), Some(retry), "{status} {body}");
        }
        let told = read(400, br#"{"error":"invalid_scope","error_description":"no such\nscope"}"#).err();
        assert_eq!(told, Some(("HTTP 400 invalid_scope no suchscope".to_owned(), false)));
    }
}
