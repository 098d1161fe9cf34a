//! The master key: what it seals, and the passwords that come from it; password hashes of SFTP users.
//!
//! One random key of 32 bytes per installation. Sealing and store passwords use keys derived from it by HMAC-SHA-256 with
//! distinct labels, so that a store's password, which an operator may see, says nothing about the key.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use openssl::symm::{Cipher, decrypt_aead, encrypt_aead};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Bytes of the master key.
pub const MASTER_KEY_BYTES: usize = 32;
/// Most bytes read from a master key's file.
const MAX_MASTER_KEY_FILE: u64 = 256;
/// Longest password hashed or checked; argon2 itself would take more.
pub const MAX_PASSWORD_BYTES: usize = 1024;

const SEAL_VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const SEAL_LABEL: &[u8] = b"as2gate seal v1";
const PASSWORD_LABEL: &[u8] = b"as2gate store password v1\0";

/// The key that seals every other secret. It has no `Debug` and is wiped when dropped.
pub struct MasterKey(Zeroizing<[u8; MASTER_KEY_BYTES]>);

impl MasterKey {
    /// A fresh random key.
    ///
    /// # Errors
    /// [`Error::Crypto`]: no random bytes.
    pub fn generate() -> Result<Self> {
        let mut key = Zeroizing::new([0; MASTER_KEY_BYTES]);
        random(key.as_mut_slice())?;
        Ok(Self(key))
    }

    /// A key as 64 hexadecimal digits, the form of its file; white space around it is ignored.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.trim().as_bytes();
        let mut key = Zeroizing::new([0; MASTER_KEY_BYTES]);
        if digits.len() != MASTER_KEY_BYTES * 2 {
            return None;
        }
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            if !pair.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(key))
    }

    /// Reads the key's file; refuses one that group or others can read.
    ///
    /// # Errors
    /// [`Error::MasterKeyExposed`], [`Error::MasterKeyBroken`], [`Error::Io`].
    pub fn load(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read the master key", path))?;
        // The mode of the open file, not of the path: nothing can be swapped in between.
        let mode = file.metadata().map_err(Error::io("read the master key", path))?.mode();
        if mode & 0o077 != 0 {
            return Err(Error::MasterKeyExposed { path: path.into() });
        }
        let mut text = Zeroizing::new(String::with_capacity(MAX_MASTER_KEY_FILE as usize));
        let broken = || Error::MasterKeyBroken { path: path.into() };
        match file.take(MAX_MASTER_KEY_FILE).read_to_string(&mut text) {
            Ok(_) => Self::from_hex(&text).ok_or_else(broken),
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Err(broken()),
            Err(e) => Err(Error::io("read the master key", path)(e)),
        }
    }

    /// Makes a key and its file, mode 0600, durable when this returns; never overwrites.
    ///
    /// # Errors
    /// [`Error::MasterKeyExists`], [`Error::Io`], [`Error::Crypto`].
    pub fn create(path: &Path) -> Result<Self> {
        let key = Self::generate()?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::AlreadyExists => Error::MasterKeyExists { path: path.into() },
                _ => Error::io("create the master key", path)(e),
            })?;
        let mut text = Zeroizing::new(hex(key.0.as_slice()));
        text.push('\n');
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| crate::dir::sync_parent(path))
            .map_err(Error::io("write the master key", path))?;
        Ok(key)
    }

    /// Seals `plain` with AES-256-GCM under a fresh nonce. `context` (say, `station/ALICE/key/3`) must be given again to
    /// open it, so that a record moved to another place does not open there.
    ///
    /// # Errors
    /// [`Error::Crypto`]: the library failed.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>> {
        let key = self.derive(SEAL_LABEL)?;
        let mut nonce = [0; NONCE_BYTES];
        random(&mut nonce)?;
        let mut tag = [0; TAG_BYTES];
        let sealed = encrypt_aead(
            Cipher::aes_256_gcm(),
            key.as_slice(),
            Some(&nonce),
            &associated_data(context),
            plain,
            &mut tag,
        )
        .map_err(Error::crypto("seal a secret"))?;
        Ok([&[SEAL_VERSION][..], &nonce, &sealed, &tag].concat())
    }

    /// Opens what [`seal`](Self::seal) made under the same context.
    ///
    /// # Errors
    /// [`Error::Unsealable`]: another master key, another context, or damage.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let unsealable = || Error::Unsealable {
            context: context.to_owned(),
        };
        let (&version, rest) = sealed.split_first().ok_or_else(unsealable)?;
        let (nonce, rest) = rest.split_at_checked(NONCE_BYTES).ok_or_else(unsealable)?;
        let body_bytes = rest.len().checked_sub(TAG_BYTES).ok_or_else(unsealable)?;
        let (body, tag) = rest.split_at_checked(body_bytes).ok_or_else(unsealable)?;
        if version != SEAL_VERSION {
            return Err(unsealable());
        }
        let key = self.derive(SEAL_LABEL)?;
        decrypt_aead(
            Cipher::aes_256_gcm(),
            key.as_slice(),
            Some(nonce),
            &associated_data(context),
            body,
            tag,
        )
        .map(Zeroizing::new)
        .map_err(|_| unsealable())
    }

    /// The password of one store file: the same label gives the same password, and no password leads to another.
    /// Lower-case hexadecimal, so that any shell and `keytool` take it as it is.
    ///
    /// # Errors
    /// [`Error::Crypto`]: the library failed.
    pub fn derive_password(&self, label: &str) -> Result<Zeroizing<String>> {
        let secret = self.derive(&[PASSWORD_LABEL, label.as_bytes()].concat())?;
        let short = secret.get(..20).unwrap_or_default();
        Ok(Zeroizing::new(hex(short)))
    }

    fn derive(&self, label: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
        let mut out = Zeroizing::new([0; 32]);
        let derived = PKey::hmac(self.0.as_slice()).and_then(|key| {
            let mut signer = Signer::new(MessageDigest::sha256(), &key)?;
            signer.update(label)?;
            signer.sign(out.as_mut_slice())
        });
        derived.map_err(Error::crypto("derive a key"))?;
        Ok(out)
    }
}

fn associated_data(context: &str) -> Vec<u8> {
    [&[SEAL_VERSION][..], context.as_bytes()].concat()
}

pub(crate) fn random(buffer: &mut [u8]) -> Result<()> {
    openssl::rand::rand_bytes(buffer).map_err(Error::crypto("draw random bytes"))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The argon2id hash of a password as a PHC string (19 MiB, 2 passes, 1 lane; RFC 9106, OWASP's floor).
///
/// # Errors
/// [`Error::BadPassphrase`]: empty, or longer than 1,024 bytes; [`Error::Crypto`].
pub fn password_hash(password: &str) -> Result<String> {
    if password.is_empty() {
        return Err(Error::BadPassphrase("it is empty; choose one of at least 12 characters"));
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(Error::BadPassphrase("it is longer than 1024 bytes; choose a shorter one"));
    }
    Argon2::default()
        .hash_password(password.as_bytes())
        .map(|hash: PasswordHash| hash.to_string())
        .map_err(Error::crypto("hash a password"))
}

/// Whether a text is a hash as [`password_hash`] makes it, at no less and not much more than its cost: checking one takes the
/// memory and time that stand in it.
pub fn is_password_hash(text: &str) -> bool {
    const MEMORY_KIB: std::ops::RangeInclusive<u32> = 19_456..=131_072;
    const PASSES: std::ops::RangeInclusive<u32> = 2..=8;
    const MAX_LANES: u32 = 4;
    PasswordHash::new(text).is_ok_and(|hash| {
        let cost = |name: &str| hash.params.get_decimal(name).unwrap_or_default();
        hash.algorithm.as_str() == "argon2id"
            && MEMORY_KIB.contains(&cost("m"))
            && PASSES.contains(&cost("t"))
            && (1..=MAX_LANES).contains(&cost("p"))
            && hash.hash.is_some()
    })
}

/// A fresh password of 24 letters and digits that are not mistaken for each other: 120 bits.
///
/// # Errors
/// [`Error::Crypto`]: no random bytes.
pub fn new_password() -> Result<Zeroizing<String>> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = Zeroizing::new([0; 24]);
    random(bytes.as_mut_slice())?;
    let letters = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)]));
    Ok(Zeroizing::new(letters.collect()))
}

/// Whether `password` is the one that `hash` was made of. A hash that does not parse matches nothing.
pub fn password_verify(password: &str, hash: &str) -> bool {
    if password.len() > MAX_PASSWORD_BYTES {
        return false;
    }
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

/// The same work as [`password_verify`] for a user who does not exist, so that the time says nothing; always false.
pub fn password_verify_nobody(password: &str) -> bool {
    let password = password.as_bytes().get(..password.len().min(MAX_PASSWORD_BYTES));
    let mut out = [0; 32];
    let _ = Argon2::default().hash_password_into(password.unwrap_or_default(), &[0; 16], &mut out);
    false
}
