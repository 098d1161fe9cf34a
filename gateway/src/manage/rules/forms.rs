//! The forms that single values have: ids, names, URLs, address blocks; and how much there may be of each.

use crate::block;
use crate::layout::{MAX_DIR_NAME, encode};
use crate::url::Url;

/// Longest AS2 id in characters (RFC 4130 §6.2).
pub const MAX_AS2_ID: usize = 128;
/// Longest name of a certificate.
pub const MAX_CERTIFICATE_NAME: usize = 64;
/// Longest text for people: names, subjects, mail addresses.
pub const MAX_TEXT: usize = 255;
/// Most entries of a list in an object.
pub const MAX_LIST: usize = 100;

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

pub(super) fn check_name(name: &str) -> Result<(), String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > MAX_CERTIFICATE_NAME || !name.bytes().all(legal) || name.starts_with(['-', '.']) {
        return Err(format!(
            "certificate name `{}` must be 1 to {MAX_CERTIFICATE_NAME} of a-z, A-Z, 0-9, - _ and ., and must not begin with - or .",
            name.escape_default()
        ));
    }
    Ok(())
}

pub(super) fn check_text(name: &str, text: &str) -> Result<(), String> {
    if text.chars().count() > MAX_TEXT || text.chars().any(char::is_control) {
        return Err(format!(
            "{name} is longer than {MAX_TEXT} characters or has control characters in it"
        ));
    }
    Ok(())
}

pub(super) fn check_list(name: &str, list: &[String]) -> Result<(), String> {
    if list.len() > MAX_LIST {
        Err(format!("{name} has more than {MAX_LIST} entries"))
    } else {
        Ok(())
    }
}

/// The rule for URLs: one that can be posted to.
///
/// # Errors
/// The rule.
pub fn check_url(name: &str, url: &str) -> Result<Url, String> {
    Url::parse(url).map_err(|why| format!("{name} `{}` {why}\nwrite it like https://as2.example.com/as2", url.escape_default()))
}

/// The rule for address blocks: an address, or `address/bits`.
pub(super) fn check_cidr(block: &str) -> Result<(), String> {
    if block::is_block(block) {
        return Ok(());
    }
    let shown = block.escape_default();
    Err(format!("allowed_ips: `{shown}` is not an address or block like 192.0.2.0/24"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::url::MAX_URL;

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
        for good in [
            "http://localhost:8080/as2",
            "https://[::1]:4443/",
            "https://as2.example.com",
            "HTTPS://a.example/as2",
        ] {
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
            "http://127.0.0.1:0/as2",
            "http://a,b/as2",
            &format!("http://a.example/{}", "x".repeat(MAX_URL)),
        ] {
            let told = check_url("url", bad).unwrap_err();
            assert!(
                told.starts_with("url `") && told.ends_with("\nwrite it like https://as2.example.com/as2"),
                "{told}"
            );
        }
        assert!(check_cidr("192.0.2.0/24").is_ok() && check_cidr("::1").is_ok() && check_cidr("2001:db8::/32").is_ok());
        assert!(check_cidr("192.0.2.0/33").is_err() && check_cidr("x").is_err() && check_cidr("1.2.3.4/-1").is_err());
    }
}
