//! URLs, ours and those of partners: `http` and `https`, nothing clever. Whoever takes, compares or follows one reads it here.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Longest URL (security.md §7).
pub const MAX_URL: usize = 2_000;

/// A URL that can be posted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    https: bool,
    /// Name in small letters, or address; IPv6 without brackets, as RFC 5952 writes it.
    host: String,
    port: u16,
    /// Path and query.
    target: String,
}

impl Url {
    /// Reads an absolute URL; a fragment is dropped.
    ///
    /// # Errors
    /// What is wrong with it, for people, to be put behind its name: "is longer than 2,000 characters".
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_URL {
            return Err("is longer than 2,000 characters".to_owned());
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
            return Err("holds a blank or a character that must be escaped".to_owned());
        }
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err("does not begin with http:// or https://".to_owned()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("holds a user name, which has a setting of its own".to_owned());
        }
        if authority.parse::<Ipv6Addr>().is_ok() {
            return Err("has an IPv6 address without its brackets".to_owned());
        }
        let (host, port) = split_port(authority).ok_or("has no usable host")?;
        let port = match port {
            None | Some("") => default_port(https),
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or("has a port outside 1 to 65535")?,
            Some(_) => return Err("has a port that is no number".to_owned()),
        };
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Url {
            https,
            host,
            port,
            target: format!("{slash}{path}"),
        })
    }

    /// Whether TLS is spoken there.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// The name in small letters, or the address; IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host in the characters that our Message-IDs have: an IPv6 address with dashes for its colons, a name without a dot at
    /// its end. Nobody resolves it; it only makes ids differ from those of others.
    #[must_use]
    pub fn host_in_ids(&self) -> String {
        self.host.trim_end_matches('.').replace(':', "-")
    }

    /// The port, said or the scheme's own.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, at least `/`.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.target
    }

    /// `Host` header and authority form: the port only where it is not the scheme's own.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == default_port(self.https) {
            bracketed(&self.host).into_owned()
        } else {
            self.with_port()
        }
    }

    /// `host:port`, as CONNECT wants it.
    #[must_use]
    pub fn with_port(&self) -> String {
        format!("{}:{}", bracketed(&self.host), self.port)
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.https { "https" } else { "http" }, self.authority())
    }

    /// Scheme, host and port agree.
    #[must_use]
    pub fn same_origin(&self, other: &Url) -> bool {
        (self.https, &self.host, self.port) == (other.https, &other.host, other.port)
    }

    /// Origin, path and query agree.
    #[must_use]
    pub fn same_address(&self, other: &Url) -> bool {
        self == other
    }
}

/// A URL, or what should be one, up to its query or fragment.
#[must_use]
pub fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

/// An IPv6 address in brackets, any other host as it is: so it can stand beside a port, or behind `sftp user@`.
#[must_use]
pub fn bracketed(host: &str) -> Cow<'_, str> {
    match host.parse::<Ipv6Addr>() {
        Ok(_) => Cow::Owned(format!("[{host}]")),
        Err(_) => Cow::Borrowed(host),
    }
}

fn default_port(https: bool) -> u16 {
    if https { 443 } else { 80 }
}

/// Host and port text; `None` if the host is none.
fn split_port(authority: &str) -> Option<(String, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        let host = host.parse::<Ipv6Addr>().ok()?.to_string();
        return match after.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None => after.is_empty().then_some((host, None)),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    // The root's dot may stand at the end.
    let labels = host.strip_suffix('.').unwrap_or(host);
    let good = host.len() <= 255
        && labels.split('.').all(|label| !label.is_empty())
        && labels.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    good.then(|| (host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn read(text: &str) -> Url {
        Url::parse(text).unwrap_or_else(|why| panic!("{text} {why}"))
    }

    #[test]
    fn good_urls() {
        let url = read("HTTPS://Partner.Example/as2?x=1#frag");
        assert_eq!(
            (url.is_https(), url.host(), url.port(), url.path_and_query()),
            (true, "partner.example", 443, "/as2?x=1")
        );
        assert_eq!(
            (url.authority(), url.with_port()),
            ("partner.example".to_owned(), "partner.example:443".to_owned())
        );
        let url = read("http://[::1]:8080?q");
        assert_eq!(
            (url.host(), url.path_and_query(), url.authority().as_str()),
            ("::1", "/?q", "[::1]:8080")
        );
        assert_eq!(read("http://[2001:DB8:0::1]:80/").origin(), "http://[2001:db8::1]");
        for (text, origin) in [
            ("http://a.example:/as2", "http://a.example"),
            ("https://as2_test.a-b.example:80", "https://as2_test.a-b.example:80"),
            ("http://a.example.:80/", "http://a.example."),
            ("https://127.1:65535/", "https://127.1:65535"),
        ] {
            assert_eq!(read(text).origin(), origin, "{text}");
        }
        let long = format!("http://a.example/?{}", "x".repeat(MAX_URL - 18));
        assert_eq!(long.len(), MAX_URL);
        assert!(Url::parse(&long).is_ok());
        assert!(Url::parse(&format!("{long}x")).is_err());
    }

    #[test]
    fn bad_urls_and_why() {
        for (why, texts) in [
            (
                "does not begin with http:// or https://",
                &[
                    "",
                    "a.example",
                    "ftp://a/",
                    "file:///etc/passwd",
                    "gopher://a/",
                    "://a/",
                    "http:/a/",
                ][..],
            ),
            (
                "has no usable host",
                &[
                    "http://",
                    "http:///x",
                    "http://:80/",
                    "http://?x",
                    "http://./",
                    "http://a..b/",
                    "http://.a/",
                    "http://a../",
                    "http://[::1/",
                    "http://[::1]x/",
                    "http://[fe80::1%25eth0]/",
                    "http://[127.0.0.1]/",
                    "http://a,b/",
                    "http://a%20b/",
                ],
            ),
            ("has an IPv6 address without its brackets", &["http://::1/", "https://2001:db8::1"]),
            ("holds a user name", &["http://a@b/", "http://a:b@c/"]),
            (
                "has a port outside 1 to 65535",
                &["http://a:0/", "http://a:65536/", "http://[::1]:0/"],
            ),
            ("has a port that is no number", &["http://a:-1/", "http://a:x/", "http://a:+80/"]),
            (
                "holds a blank or a character that must be escaped",
                &["http://a b/", "http://a\\b/", "http://é/", "http://a/\r\nX: y"],
            ),
        ] {
            for text in texts {
                let told = Url::parse(text).expect_err(text);
                assert!(told.starts_with(why), "{text:?} {told}");
            }
        }
    }

    #[test]
    fn origins_are_compared_whole() {
        let url = read("https://a.example/as2");
        assert!(url.same_origin(&read("HTTPS://A.example:443/mdn?x=1")));
        assert!(read("http://[::1]/").same_origin(&read("http://[0:0::1]:80/x")));
        for other in [
            "http://a.example/",
            "https://b.example/",
            "https://a.example:444/",
            "https://a.example./",
        ] {
            assert!(!url.same_origin(&read(other)), "{other}");
        }
    }

    #[test]
    fn addresses_are_compared_with_path_and_query() {
        let url = read("https://a.example/mdn?x=1");
        assert!(url.same_address(&read("HTTPS://A.example:443/mdn?x=1#here")));
        assert!(read("https://a.example").same_address(&read("https://a.example/")));
        for other in [
            "https://a.example/mdn",
            "https://a.example/mdn?x=2",
            "https://a.example/MDN?x=1",
            "https://a.example/mdn/../mdn?x=1",
            "https://b.example/mdn?x=1",
            "http://a.example/mdn?x=1",
        ] {
            assert!(!url.same_address(&read(other)), "{other}");
        }
    }

    #[test]
    fn every_host_can_stand_in_a_message_id() {
        for (url, wanted) in [
            ("https://As2.Example.com/x", "as2.example.com"),
            ("https://as2.example.com./x", "as2.example.com"),
            ("http://[2001:db8::1]:42180", "2001-db8--1"),
            ("http://[::ffff:192.0.2.1]/", "--ffff-192.0.2.1"),
            ("http://192.0.2.1:8080", "192.0.2.1"),
        ] {
            let host = read(url).host_in_ids();
            assert_eq!(host, wanted);
            assert!(as2_core::message_id::MessageId::new("0123456789", &host).is_ok(), "{host}");
        }
    }

    #[test]
    fn queries_are_cut_off_and_only_addresses_get_brackets() {
        for (url, wanted) in [("http://a/b?c#d", "http://a/b"), ("a#b?c", "a"), ("http://a", "http://a"), ("", "")] {
            assert_eq!(without_query(url), wanted);
        }
        for (host, wanted) in [
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
            ("a.example", "a.example"),
            ("192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(bracketed(host), wanted);
        }
    }
}
