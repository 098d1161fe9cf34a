//! PuTTY's key files, versions 2 and 3 (PuTTY manual, appendix C).
//!
//! A text of headers with the public blob, the private blob (perhaps encrypted) and a MAC over both, the algorithm and the
//! comment. Version 3 derives its keys by Argon2, version 2 by bare SHA-1.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openssl::hash::MessageDigest;
use openssl::memcmp;
use openssl::pkey::PKey;
use openssl::sha::Sha1;
use openssl::sign::Signer;
use openssl::symm::{Cipher, Crypter, Mode};
use zeroize::Zeroizing;

use super::private::{Curve, ED25519_BYTES, Material, Private, ed25519_from_seed};
use super::wire::{Blob, Fields, trim};
use crate::error::{Error, Format, Result};
use crate::export::wrap;
use crate::secret::{hex, random};

pub(crate) const MARK: &str = "PuTTY-User-Key-File-";
const FORMAT: Format = Format::Ppk;
const LINE: usize = 64;
const AES_BLOCK: usize = 16;
const AES_NAME: &str = "aes256-cbc";
const PLAIN_NAME: &str = "none";
const MAC_LABEL: &[u8] = b"putty-private-key-file-mac-key";

/// puttygen's own parameters.
const ARGON2: (u32, u32, u32) = (8192, 13, 1);
/// Most memory for a file that we read, in KiB, and most memory times passes: about ten seconds.
const MAX_ARGON2_MEMORY: u32 = 1024 * 1024;
const MAX_ARGON2_WORK: u64 = 16 * 1024 * 1024;
const MAX_ARGON2_LANES: u32 = 64;
/// Most lines of one blob: an RSA key of 16,384 bits has about 120.
const MAX_LINES: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PpkVersion {
    V2,
    V3,
}

/// Keys of the cipher and of the MAC.
struct Keys {
    cipher: Zeroizing<[u8; 32]>,
    iv: [u8; AES_BLOCK],
    mac: Zeroizing<Vec<u8>>,
}

pub(crate) fn write(key: &Private, passphrase: Option<&str>, version: PpkVersion) -> Result<Zeroizing<String>> {
    let public = key.public_blob();
    let mut private = private_blob(&key.material);
    let encryption = if passphrase.is_some() { AES_NAME } else { PLAIN_NAME };
    let number = if version == PpkVersion::V3 { 3 } else { 2 };
    let mut text = Zeroizing::new(String::with_capacity(8192));
    text.push_str(&format!(
        "{MARK}{number}: {}\nEncryption: {encryption}\nComment: {}\n",
        key.algorithm(),
        key.comment
    ));
    push_lines(&mut text, "Public", &public);
    let keys = match (passphrase, version) {
        (None, _) => plain_keys(version),
        (Some(passphrase), PpkVersion::V2) => sha1_keys(passphrase),
        (Some(passphrase), PpkVersion::V3) => {
            let mut salt = [0; AES_BLOCK];
            random(&mut salt)?;
            let (memory, passes, lanes) = ARGON2;
            text.push_str(&format!(
                "Key-Derivation: Argon2id\nArgon2-Memory: {memory}\nArgon2-Passes: {passes}\n\
                 Argon2-Parallelism: {lanes}\nArgon2-Salt: {}\n",
                hex(&salt)
            ));
            argon2_keys(Algorithm::Argon2id, ARGON2, &salt, passphrase)?
        }
    };
    if passphrase.is_some() {
        pad(&mut private)?;
    }
    let mac = mac(
        version,
        &keys.mac,
        &[
            key.algorithm().as_bytes(),
            encryption.as_bytes(),
            key.comment.as_bytes(),
            &public,
            &private,
        ],
    )?;
    if passphrase.is_some() {
        private = aes(Mode::Encrypt, &keys, &private)?;
    }
    push_lines(&mut text, "Private", &private);
    text.push_str(&format!("Private-MAC: {}\n", hex(&mac)));
    Ok(text)
}

fn push_lines(text: &mut String, name: &str, blob: &[u8]) {
    let body = Zeroizing::new(STANDARD.encode(blob));
    text.push_str(&format!("{name}-Lines: {}\n", body.len().div_ceil(LINE)));
    wrap(text, &body, LINE);
}

fn pad(private: &mut Zeroizing<Vec<u8>>) -> Result<()> {
    let missing = private.len().next_multiple_of(AES_BLOCK) - private.len();
    let mut padding = [0; AES_BLOCK];
    random(&mut padding)?;
    private.extend_from_slice(padding.get(..missing).unwrap_or_default());
    Ok(())
}

fn private_blob(material: &Material) -> Zeroizing<Vec<u8>> {
    let blob = Blob::default();
    match material {
        Material::Rsa { d, p, q, iqmp, .. } => blob.mpint(d).mpint(p).mpint(q).mpint(iqmp),
        // All 32 bytes always: PuTTY itself cuts zeros at the end, but reads both.
        Material::Ed25519 { seed, .. } => blob.string(seed.as_slice()),
        Material::Ecdsa { scalar, .. } => blob.mpint(scalar),
    }
    .finish()
}

pub(crate) fn read(text: &str, passphrase: Option<&str>) -> Result<Private> {
    let file = PpkFile::parse(text)?;
    let keys = file.keys(passphrase)?;
    let private = match file.is_encrypted()? {
        false => file.private.clone(),
        true if file.private.len() % AES_BLOCK != 0 => {
            return Err(Error::broken(FORMAT, "its private part is cut off"));
        }
        true => aes(Mode::Decrypt, &keys, &file.private)?,
    };
    let parts = [
        file.algorithm.as_bytes(),
        file.encryption.as_bytes(),
        file.comment.as_bytes(),
        &file.public,
        &private,
    ];
    if !memcmp_any(&mac(file.version, &keys.mac, &parts)?, &file.mac) {
        return Err(if passphrase.is_some() && file.is_encrypted()? {
            Error::WrongPassphrase(FORMAT)
        } else {
            Error::broken(FORMAT, "its MAC does not fit")
        });
    }
    if file.algorithm == "ssh-dss" {
        return Err(Error::RefusedKey(super::private::DSA_REFUSED.into()));
    }
    let material = material(file.algorithm, &file.public, &private);
    let material = material.ok_or_else(|| Error::broken(FORMAT, "its key does not parse, or is of an unknown type"))?;
    Ok(Private {
        material,
        comment: file.comment.to_owned(),
    })
}

/// The public half and the comment, which need no passphrase.
pub(crate) fn read_public(text: &str) -> Result<(Vec<u8>, String)> {
    let file = PpkFile::parse(text)?;
    Ok((file.public, file.comment.to_owned()))
}

fn memcmp_any(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && memcmp::eq(a, b)
}

fn material(algorithm: &str, public: &[u8], private: &[u8]) -> Option<Material> {
    let (mut public, mut private) = (Fields(public), Fields(private));
    if public.text()? != algorithm {
        return None;
    }
    let secret = |digits: &[u8]| Zeroizing::new(digits.to_vec());
    match algorithm {
        "ssh-ed25519" => {
            // PuTTY writes the seed as a little-endian number without its highest zeros: one key in 256 is shorter.
            let digits = private.string()?;
            let mut seed = Zeroizing::new([0; ED25519_BYTES]);
            seed.get_mut(..digits.len())?.copy_from_slice(digits);
            ed25519_from_seed(seed.as_slice(), Some(public.string()?.try_into().ok()?))
        }
        "ssh-rsa" => {
            let (e, n) = (public.mpint()?.to_vec(), public.mpint()?.to_vec());
            let (d, p) = (secret(private.mpint()?), secret(private.mpint()?));
            let (q, iqmp) = (secret(private.mpint()?), secret(private.mpint()?));
            Some(Material::Rsa { n, e, d, p, q, iqmp })
        }
        _ => {
            let curve = Curve::named(public.text()?).filter(|c| c.algorithm() == algorithm)?;
            let point = public.string()?.to_vec();
            Some(Material::Ecdsa {
                curve,
                point,
                scalar: secret(trim(private.string()?)),
            })
        }
    }
}

/// The parts of a file, still encrypted.
struct PpkFile<'a> {
    version: PpkVersion,
    algorithm: &'a str,
    encryption: &'a str,
    comment: &'a str,
    public: Vec<u8>,
    derivation: Vec<(&'a str, &'a str)>,
    private: Zeroizing<Vec<u8>>,
    mac: Vec<u8>,
}

impl<'a> PpkFile<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        let broken = |why: &str| Error::broken(FORMAT, why);
        let text = text.get(text.find(MARK).unwrap_or_default()..).unwrap_or_default();
        let mut lines = text.lines();
        let (mark, algorithm) = lines
            .next()
            .and_then(|l| l.split_once(": "))
            .ok_or_else(|| broken("it has no first line"))?;
        let version = match mark.strip_prefix(MARK) {
            Some("2") => PpkVersion::V2,
            Some("3") => PpkVersion::V3,
            _ => {
                return Err(broken("only versions 2 and 3 are read; load and save it with a newer PuTTYgen"));
            }
        };
        let mut file = PpkFile {
            version,
            algorithm: algorithm.trim(),
            encryption: PLAIN_NAME,
            comment: "",
            public: Vec::new(),
            derivation: Vec::new(),
            private: Zeroizing::default(),
            mac: Vec::new(),
        };
        while let Some(line) = lines.next() {
            let Some((name, value)) = line.split_once(": ").or(line.strip_suffix(':').map(|n| (n, ""))) else {
                continue;
            };
            match name {
                "Encryption" => file.encryption = value,
                "Comment" => file.comment = value,
                "Public-Lines" => file.public = body(value, &mut lines)?.to_vec(),
                "Private-Lines" => file.private = body(value, &mut lines)?,
                "Private-MAC" => file.mac = from_hex(value).ok_or_else(|| broken("its MAC is not hexadecimal"))?,
                _ => file.derivation.push((name, value)),
            }
        }
        if file.public.is_empty() || file.private.is_empty() || file.mac.is_empty() {
            return Err(broken("a part of it is missing"));
        }
        Ok(file)
    }

    fn is_encrypted(&self) -> Result<bool> {
        match self.encryption {
            AES_NAME => Ok(true),
            PLAIN_NAME => Ok(false),
            _ => Err(Error::broken(FORMAT, "its encryption is not aes256-cbc")),
        }
    }

    fn keys(&self, passphrase: Option<&str>) -> Result<Keys> {
        if !self.is_encrypted()? {
            return Ok(plain_keys(self.version));
        }
        let passphrase = passphrase.ok_or(Error::PassphraseNeeded(FORMAT))?;
        if self.version == PpkVersion::V2 {
            return Ok(sha1_keys(passphrase));
        }
        let broken = || Error::broken(FORMAT, "its Argon2 parameters are missing or out of range");
        let value = |name: &str| self.derivation.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        let number = |name: &str| value(name).and_then(|v| v.parse::<u32>().ok()).ok_or_else(broken);
        let algorithm = match value("Key-Derivation") {
            Some("Argon2id") => Algorithm::Argon2id,
            Some("Argon2i") => Algorithm::Argon2i,
            Some("Argon2d") => Algorithm::Argon2d,
            _ => return Err(broken()),
        };
        let (memory, passes, lanes) = (number("Argon2-Memory")?, number("Argon2-Passes")?, number("Argon2-Parallelism")?);
        let work = u64::from(memory).saturating_mul(u64::from(passes));
        if memory > MAX_ARGON2_MEMORY || work > MAX_ARGON2_WORK || lanes > MAX_ARGON2_LANES {
            return Err(broken());
        }
        let salt = value("Argon2-Salt").and_then(from_hex).ok_or_else(broken)?;
        argon2_keys(algorithm, (memory, passes, lanes), &salt, passphrase)
    }
}

/// So many base64 lines.
fn body<'a>(count: &str, lines: &mut impl Iterator<Item = &'a str>) -> Result<Zeroizing<Vec<u8>>> {
    let broken = || Error::broken(FORMAT, "a part of it is cut off or not base64");
    let count = count.trim().parse().ok().filter(|n| *n <= MAX_LINES).ok_or_else(broken)?;
    let joined: Zeroizing<String> = Zeroizing::new(lines.take(count).map(str::trim).collect());
    STANDARD.decode(joined.as_bytes()).map(Zeroizing::new).map_err(|_| broken())
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim().as_bytes();
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    pairs.collect()
}

fn plain_keys(version: PpkVersion) -> Keys {
    let mac = match version {
        PpkVersion::V2 => sha1(&[MAC_LABEL]).to_vec(),
        PpkVersion::V3 => Vec::new(),
    };
    Keys {
        cipher: Zeroizing::default(),
        iv: [0; AES_BLOCK],
        mac: Zeroizing::new(mac),
    }
}

fn sha1_keys(passphrase: &str) -> Keys {
    let passphrase = passphrase.as_bytes();
    let both = Zeroizing::new([sha1(&[&[0, 0, 0, 0], passphrase]), sha1(&[&[0, 0, 0, 1], passphrase])].concat());
    let mut cipher = Zeroizing::new([0; 32]);
    cipher.iter_mut().zip(both.iter()).for_each(|(to, from)| *to = *from);
    let mac = sha1(&[MAC_LABEL, passphrase]).to_vec();
    Keys {
        cipher,
        iv: [0; AES_BLOCK],
        mac: Zeroizing::new(mac),
    }
}

fn argon2_keys(algorithm: Algorithm, (memory, passes, lanes): (u32, u32, u32), salt: &[u8], passphrase: &str) -> Result<Keys> {
    let failed = || Error::crypto("derive the keys of a PuTTY private key");
    let mut keys = Keys {
        cipher: Zeroizing::default(),
        iv: [0; AES_BLOCK],
        mac: Zeroizing::new(vec![0; 32]),
    };
    let mut out = Zeroizing::new([0; 80]);
    let params = Params::new(memory, passes, lanes, Some(out.len())).map_err(failed())?;
    Argon2::new(algorithm, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, out.as_mut_slice())
        .map_err(failed())?;
    let slots = keys.cipher.iter_mut().chain(keys.iv.iter_mut()).chain(keys.mac.iter_mut());
    slots.zip(out.iter()).for_each(|(to, from)| *to = *from);
    Ok(keys)
}

fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hash = Sha1::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finish()
}

fn mac(version: PpkVersion, key: &[u8], parts: &[&[u8]]) -> Result<Vec<u8>> {
    let digest = match version {
        PpkVersion::V2 => MessageDigest::sha1(),
        PpkVersion::V3 => MessageDigest::sha256(),
    };
    let data = parts.iter().fold(Blob::default(), |blob, part| blob.string(part)).finish();
    // HMAC pads its key with zeros, so one zero is the empty key, which openssl does not take.
    let key = if key.is_empty() { &[0] } else { key };
    let signed = PKey::hmac(key).and_then(|key| {
        let mut signer = Signer::new(digest, &key)?;
        signer.update(&data)?;
        signer.sign_to_vec()
    });
    signed.map_err(Error::crypto("compute the MAC of a PuTTY private key"))
}

fn aes(mode: Mode, keys: &Keys, data: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let run = || {
        let mut crypter = Crypter::new(Cipher::aes_256_cbc(), mode, keys.cipher.as_slice(), Some(&keys.iv))?;
        crypter.pad(false);
        let mut out = Zeroizing::new(vec![0; data.len() + AES_BLOCK]);
        let count = crypter.update(data, &mut out)?;
        let rest = crypter.finalize(out.get_mut(count..).unwrap_or_default())?;
        out.truncate(count + rest);
        Ok::<_, openssl::error::ErrorStack>(out)
    };
    run().map_err(Error::crypto("cipher a PuTTY private key"))
}
