//! Addresses of partners: `http` and `https`, nothing clever.

use super::{PostError, Stage};

/// Longest URL (security.md §7).
pub(super) const MAX_URL: usize = 2_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) https: bool,
    /// Name or address; IPv6 without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Path and query.
    pub(super) target: String,
}

impl Url {
    /// Reads an absolute URL; a fragment is dropped.
    ///
    /// # Errors
    /// [`Stage::Url`] with what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, PostError> {
        let wrong = |what: &str| PostError::new(Stage::Url, format!("the URL {what}"), "set a URL like https://partner.example/as2");
        if text.len() > MAX_URL {
            return Err(wrong("is longer than 2,000 characters"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
            return Err(wrong("holds a blank or a character that must be escaped"));
        }
        if text.is_empty() {
            let hint = "give the partner one: as2gate partner set ID --url URL";
            return Err(PostError::new(Stage::Url, "there is no URL to send to", hint));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("has no scheme"))?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(wrong("is neither http nor https")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(wrong("holds credentials; they have settings of their own"));
        }
        let (host, port) = split_port(authority).ok_or_else(|| wrong("has no good host"))?;
        let port = match port {
            None | Some("") => {
                if https {
                    443
                } else {
                    80
                }
            }
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| wrong("has a port outside 1 to 65535"))?,
            Some(_) => return Err(wrong("has a port that is no number")),
        };
        let target = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Ok(Url {
            https,
            host: host.to_ascii_lowercase(),
            port,
            target,
        })
    }

    /// `Host` header and authority form: the port only where it is not the scheme's own.
    pub(super) fn authority(&self) -> String {
        let default = if self.https { 443 } else { 80 };
        if self.port == default { self.bracketed() } else { self.with_port() }
    }

    /// `host:port`, as CONNECT wants it.
    pub(super) fn with_port(&self) -> String {
        format!("{}:{}", self.bracketed(), self.port)
    }

    pub(super) fn origin(&self) -> String {
        format!("{}://{}", if self.https { "https" } else { "http" }, self.authority())
    }

    fn bracketed(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }
}

/// Host and port text; `None` if the host is none.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return match after.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None => after.is_empty().then_some((host, None)),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let good = !host.is_empty() && host.len() <= 255 && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    good.then_some((host, port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn good_urls() {
        let url = Url::parse("HTTPS://Partner.Example/as2?x=1#frag").unwrap();
        assert_eq!(
            (url.https, url.host.as_str(), url.port, url.target.as_str()),
            (true, "partner.example", 443, "/as2?x=1")
        );
        assert_eq!(url.authority(), "partner.example");
        let url = Url::parse("http://[::1]:8080?q").unwrap();
        assert_eq!(
            (url.host.as_str(), url.target.as_str(), url.authority().as_str()),
            ("::1", "/?q", "[::1]:8080")
        );
        let long = format!("http://a.example/?{}", "x".repeat(MAX_URL - 18));
        assert_eq!(long.len(), MAX_URL);
        assert!(Url::parse(&long).is_ok());
        assert!(Url::parse(&format!("{long}x")).is_err());
    }

    #[test]
    fn bad_urls() {
        for text in [
            "",
            "a.example",
            "ftp://a/",
            "file:///etc/passwd",
            "gopher://a/",
            "http://",
            "http:///x",
            "http://a@b/",
            "http://a:b@c/",
            "http://a:0/",
            "http://a:65536/",
            "http://a:-1/",
            "http://a:x/",
            "http://a b/",
            "http://a\\b/",
            "http://[::1/",
            "http://[::1]x/",
            "http://[fe80::1%25eth0]/",
            "http://é/",
            "http://a/\r\nX: y",
            "http://a,b/",
        ] {
            assert_eq!(Url::parse(text).err().map(|error| error.stage), Some(Stage::Url), "{text:?}");
        }
    }
}
