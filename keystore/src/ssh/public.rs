//! Public keys as users send them.
//!
//! Nothing of the text is repeated in an error: people paste the wrong half of the pair.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use openssl::pkey::{Id, PKey};
use openssl::sha::sha256;

use super::options::{self, KeyOptions};
use super::private::{Curve, DSA_REFUSED, ED25519_BYTES};
use super::wire::{Blob, Fields};
use super::{PublicKey, is_private, rfc4716};
use crate::error::{Error, Result};

/// Largest text with public keys.
pub const MAX_PUBLIC_TEXT: usize = 256 * 1024;
/// Largest single key.
pub const MAX_PUBLIC_KEY: usize = 16 * 1024;
/// Most keys in one text.
pub const MAX_PUBLIC_KEYS: usize = 1000;
/// Smallest and largest RSA keys accepted, in bits.
pub const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;
const MAX_COMMENT_CHARS: usize = 255;

const NOT_A_KEY: &str = "this is not an SSH public key; give the line of a .pub file, like ssh-ed25519 AAAA… name";
const CUT_OFF: &str = "the key is cut off or damaged; copy the whole line again, without line breaks in it";

/// Reads public keys: `.pub` files, `authorized_keys` text, RFC 4716, PEM.
///
/// # Errors
/// [`Error::TooLarge`] above [`MAX_PUBLIC_TEXT`] bytes, [`Error::PrivateKeyGiven`], [`Error::Empty`], and [`Error::RefusedKey`] or
/// [`Error::RefusedLine`] with what to do.
pub fn parse_public(text: &str) -> Result<Vec<PublicKey>> {
    if text.len() > MAX_PUBLIC_TEXT {
        return Err(Error::TooLarge {
            what: "text of public keys",
            limit: MAX_PUBLIC_TEXT,
        });
    }
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
    if is_private(&text) {
        return Err(Error::PrivateKeyGiven);
    }
    let (found, lines) = read_all(&text)?;
    match found.len() {
        0 if lines == 0 => Err(Error::Empty),
        0 => Err(Error::RefusedKey(
            "the text has only comments in it; give a line like ssh-ed25519 AAAA… name".into(),
        )),
        _ => Ok(found),
    }
}

/// All keys, and how many lines were not blank.
fn read_all(text: &str) -> Result<(Vec<PublicKey>, usize)> {
    let mut lines = text.split('\n').enumerate().map(|(at, line)| (at + 1, line.trim()));
    let several = text.lines().filter(|line| is_content(line.trim())).count() > 1;
    let mut found = Vec::new();
    let mut used = 0;
    while let Some((number, line)) = lines.next() {
        used += usize::from(!line.is_empty());
        let key = if rfc4716::is_begin(line) {
            rfc4716::read(&mut lines)
                .ok_or(CUT_OFF.to_owned())
                .and_then(|block| decode(&block.body).and_then(|blob| describe(&blob, &block.comment, KeyOptions::default())))
        } else if line.starts_with("-----BEGIN ") {
            read_pem(line, &mut lines)
        } else if is_content(line) {
            read_line(line)
        } else {
            continue;
        };
        let key = key.map_err(|reason| match several {
            true => Error::RefusedLine { line: number, reason },
            false => Error::RefusedKey(reason),
        })?;
        found.push(key);
        if found.len() > MAX_PUBLIC_KEYS {
            return Err(Error::RefusedKey(format!("the text has more than {MAX_PUBLIC_KEYS} keys")));
        }
    }
    Ok((found, used))
}

fn is_content(line: &str) -> bool {
    !line.is_empty() && !line.starts_with('#')
}

fn read_line(line: &str) -> Result<PublicKey, String> {
    if line.len() > MAX_PUBLIC_KEY {
        return Err(format!("the key is longer than {MAX_PUBLIC_KEY} bytes"));
    }
    let (first, rest) = options::split(line);
    let (options, line) = match is_algorithm(first) {
        true => (KeyOptions::default(), line),
        false if rest.is_empty() => return Err(NOT_A_KEY.into()),
        false => (options::parse(first)?, rest),
    };
    // Columns may be set apart by more than one blank; those of the comment are its own.
    let word = |text: &str| text.find([' ', '\t']).unwrap_or(text.len());
    let (algorithm, rest) = line.split_at(word(line));
    let (body, comment) = rest.trim_start().split_at(word(rest.trim_start()));
    if !is_algorithm(algorithm) {
        return Err(NOT_A_KEY.into());
    }
    let blob = decode(body)?;
    if Fields(&blob).text() != Some(algorithm) {
        return Err("the key's type and its content differ; copy the whole line again".into());
    }
    describe(&blob, comment.trim(), options)
}

fn is_algorithm(word: &str) -> bool {
    ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"]
        .iter()
        .any(|start| word.starts_with(start))
}

fn decode(body: &str) -> Result<Vec<u8>, String> {
    if body.len() > MAX_PUBLIC_KEY {
        return Err(format!("the key is longer than {MAX_PUBLIC_KEY} bytes"));
    }
    let decoded = STANDARD.decode(body).or_else(|_| STANDARD_NO_PAD.decode(body));
    decoded.ok().filter(|blob| !blob.is_empty()).ok_or_else(|| CUT_OFF.into())
}

/// What `ssh-keygen -e -m PKCS8` and openssl write.
fn read_pem<'a>(first: &str, lines: &mut impl Iterator<Item = (usize, &'a str)>) -> Result<PublicKey, String> {
    if first.contains("CERTIFICATE") {
        return Err("this is an X.509 certificate; SFTP users log in with an SSH public key (the .pub file)".into());
    }
    let mut text = format!("{first}\n");
    for (_, line) in lines {
        text.push_str(line);
        text.push('\n');
        if line.starts_with("-----END ") || text.len() > MAX_PUBLIC_KEY {
            break;
        }
    }
    let key = match first {
        "-----BEGIN PUBLIC KEY-----" => PKey::public_key_from_pem(text.as_bytes()),
        "-----BEGIN RSA PUBLIC KEY-----" => openssl::rsa::Rsa::public_key_from_pem_pkcs1(text.as_bytes()).and_then(PKey::from_rsa),
        _ => return Err(NOT_A_KEY.into()),
    };
    let blob = key.ok().and_then(|key| blob_of(&key)).ok_or(CUT_OFF)?;
    describe(&blob, "", KeyOptions::default())
}

fn blob_of(key: &PKey<openssl::pkey::Public>) -> Option<Vec<u8>> {
    use openssl::bn::BigNumContext;
    use openssl::ec::PointConversionForm;
    let blob = match key.id() {
        Id::RSA => {
            let rsa = key.rsa().ok()?;
            Blob::default().string("ssh-rsa").mpint(&rsa.e().to_vec()).mpint(&rsa.n().to_vec())
        }
        Id::EC => {
            let key = key.ec_key().ok()?;
            let bits = key.group().order_bits();
            let curve = [Curve::P256, Curve::P384, Curve::P521].into_iter().find(|c| c.bits() == bits)?;
            let mut context = BigNumContext::new().ok()?;
            let point = key
                .public_key()
                .to_bytes(key.group(), PointConversionForm::UNCOMPRESSED, &mut context)
                .ok()?;
            Blob::default().string(curve.algorithm()).string(curve.name()).string(point)
        }
        Id::ED25519 => Blob::default().string("ssh-ed25519").string(key.raw_public_key().ok()?),
        _ => return None,
    };
    Some(blob.finish().to_vec())
}

/// Checks the key of a wire blob and describes it.
pub(super) fn describe(blob: &[u8], comment: &str, options: KeyOptions) -> Result<PublicKey, String> {
    let mut fields = Fields(blob);
    let algorithm = fields.text().ok_or(CUT_OFF)?;
    let bits = check(algorithm, &mut fields)?;
    if !fields.is_empty() {
        return Err(CUT_OFF.into());
    }
    Ok(PublicKey {
        line: format!("{algorithm} {}", STANDARD.encode(blob)),
        algorithm: algorithm.to_owned(),
        bits,
        fingerprint: fingerprint(blob),
        comment: comment.chars().filter(|c| !c.is_control()).take(MAX_COMMENT_CHARS).collect(),
        options,
    })
}

pub(super) fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(sha256(blob)))
}

fn check(algorithm: &str, fields: &mut Fields<'_>) -> Result<u32, String> {
    let bits = match algorithm {
        "ssh-ed25519" => ed25519(fields),
        "ecdsa-sha2-nistp256" | "ecdsa-sha2-nistp384" | "ecdsa-sha2-nistp521" => ecdsa(algorithm, fields),
        // The application's name follows (PROTOCOL.u2f).
        "sk-ssh-ed25519@openssh.com" => ed25519(fields).filter(|_| fields.text().is_some()),
        "sk-ecdsa-sha2-nistp256@openssh.com" => ecdsa("ecdsa-sha2-nistp256", fields).filter(|_| fields.text().is_some()),
        "ssh-rsa" => return rsa(fields),
        "ssh-dss" => return Err(DSA_REFUSED.into()),
        other if other.contains("-cert-") => {
            return Err("this is a certificate of a key; give the plain public key (the .pub file without -cert)".into());
        }
        _ => {
            return Err("keys of this type are not supported; make an Ed25519, ECDSA or RSA key".into());
        }
    };
    bits.ok_or_else(|| CUT_OFF.into())
}

fn ed25519(fields: &mut Fields<'_>) -> Option<u32> {
    (fields.string()?.len() == ED25519_BYTES).then_some(256)
}

fn ecdsa(algorithm: &str, fields: &mut Fields<'_>) -> Option<u32> {
    let curve = Curve::named(fields.text()?).filter(|curve| curve.algorithm() == algorithm)?;
    curve.has_point(fields.string()?).then(|| curve.bits())
}

fn rsa(fields: &mut Fields<'_>) -> Result<u32, String> {
    let (Some(e), Some(n)) = (fields.mpint(), fields.mpint()) else {
        return Err(CUT_OFF.into());
    };
    let first = n.first().map_or(0, |first| 8 - first.leading_zeros());
    let rest = u32::try_from(n.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let bits = rest.saturating_mul(8).saturating_add(first);
    let odd = |digits: &[u8]| digits.last().is_some_and(|last| last & 1 == 1);
    if !odd(n) || !odd(e) || e == [1] || e.len() > 8 {
        return Err(CUT_OFF.into());
    }
    if bits < *RSA_BITS.start() {
        return Err(format!(
            "an RSA key of {bits} bits is too short; make one of 3072 bits or an Ed25519 key"
        ));
    }
    if bits > *RSA_BITS.end() {
        return Err(format!(
            "an RSA key of {bits} bits is longer than {}; make one of 3072 bits or an Ed25519 key",
            RSA_BITS.end()
        ));
    }
    Ok(bits)
}
