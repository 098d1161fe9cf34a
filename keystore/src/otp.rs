//! Codes that change with the time (RFC 6238, TOTP), as authenticator apps make them: SHA-1, six digits, thirty seconds.

use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::secret::random;

/// Bytes of a secret: those of the hash (RFC 4226 §4, R6).
pub const SECRET_BYTES: usize = 20;
/// Seconds for which a code is shown.
pub const STEP_SECONDS: i64 = 30;
/// Digits of a code.
pub const DIGITS: usize = 6;
/// Steps by which the other clock may be ahead or behind.
const DRIFT: i64 = 1;

/// A fresh random secret.
///
/// # Errors
/// [`Error::Crypto`]: no random bytes.
pub fn new_secret() -> Result<Zeroizing<Vec<u8>>> {
    let mut secret = Zeroizing::new(vec![0; SECRET_BYTES]);
    random(&mut secret)?;
    Ok(secret)
}

/// The code of one step (RFC 4226 §5.3).
fn code(secret: &[u8], step: i64) -> Result<String> {
    let mac = PKey::hmac(secret).and_then(|key| {
        let mut signer = Signer::new(MessageDigest::sha1(), &key)?;
        signer.update(&step.to_be_bytes())?;
        signer.sign_to_vec()
    });
    let mac = mac.map_err(Error::crypto("make a code"))?;
    let offset = usize::from(mac.last().copied().unwrap_or_default() & 0xf);
    let word = mac
        .get(offset..)
        .and_then(|tail| tail.first_chunk::<4>())
        .copied()
        .unwrap_or_default();
    let number = (u32::from_be_bytes(word) & 0x7fff_ffff) % 10u32.pow(DIGITS as u32);
    Ok(format!("{number:0width$}", width = DIGITS))
}

/// The step whose code this is, of those around `now` (Unix seconds); the caller sees to it that each counts once. White
/// space within the code is ignored: apps show it in groups.
///
/// # Errors
/// [`Error::Crypto`]: the library failed.
pub fn matching_step(secret: &[u8], given: &str, now: i64) -> Result<Option<i64>> {
    let given: String = given.chars().filter(|c| !c.is_whitespace()).collect();
    let present = now.div_euclid(STEP_SECONDS);
    let mut found = None;
    // All of them in any case: the time does not tell which.
    for step in present - DRIFT..=present + DRIFT {
        let right = code(secret, step)?;
        if right.len() == given.len() && openssl::memcmp::eq(right.as_bytes(), given.as_bytes()) {
            found = Some(step);
        }
    }
    Ok(found)
}

/// The secret as people type it into an app.
pub fn base32(secret: &[u8]) -> Zeroizing<String> {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut text = Zeroizing::new(String::with_capacity(secret.len().div_ceil(5) * 8));
    for group in secret.chunks(5) {
        let mut bits = [0; 8];
        if let Some(part) = bits.get_mut(3..3 + group.len()) {
            part.copy_from_slice(group);
        }
        let bits = u64::from_be_bytes(bits);
        let letters = (group.len() * 8).div_ceil(5);
        for at in 0..letters {
            let five = bits >> (35 - 5 * at) & 31;
            text.push(char::from(ALPHABET[usize::try_from(five).unwrap_or_default()]));
        }
    }
    text
}

/// The address that an app reads from a QR code.
pub fn uri(issuer: &str, user: &str, secret: &[u8]) -> Zeroizing<String> {
    let plain = |text: &str| text.bytes().map(percent).collect::<String>();
    let (issuer, user, secret) = (plain(issuer), plain(user), base32(secret));
    Zeroizing::new(format!(
        "otpauth://totp/{issuer}:{user}?secret={}&issuer={issuer}&algorithm=SHA1&digits={DIGITS}&period={STEP_SECONDS}",
        secret.as_str()
    ))
}

fn percent(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECRET: &[u8] = b"12345678901234567890";

    #[test]
    fn codes_are_those_of_rfc_6238() {
        // Appendix B, the last six of its eight digits.
        for (time, right) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(code(SECRET, time / STEP_SECONDS).unwrap(), right);
            assert_eq!(matching_step(SECRET, right, time).unwrap(), Some(time / STEP_SECONDS));
        }
    }

    #[test]
    fn one_step_of_drift_is_taken_and_no_more() {
        let now = 1_234_567_890;
        let step = now / STEP_SECONDS;
        for (at, taken) in [
            (step - 2, false),
            (step - 1, true),
            (step, true),
            (step + 1, true),
            (step + 2, false),
        ] {
            let given = code(SECRET, at).unwrap();
            assert_eq!(matching_step(SECRET, &given, now).unwrap(), taken.then_some(at));
        }
        assert_eq!(matching_step(SECRET, " 005 924 ", now).unwrap(), Some(step));
        for wrong in ["", "5924", "0059240", "００５９２４"] {
            assert_eq!(matching_step(SECRET, wrong, now).unwrap(), None, "{wrong}");
        }
    }

    #[test]
    fn secrets_are_written_as_rfc_4648_has_it() {
        for (plain, text) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(plain.as_bytes()).as_str(), text);
        }
        assert_eq!(
            uri("as2gate", "a b", b"foo").as_str(),
            "otpauth://totp/as2gate:a%20b?secret=MZXW6&issuer=as2gate&algorithm=SHA1&digits=6&period=30"
        );
    }
}
