//! The one door to OpenSSL: digests, signatures over digests, content ciphers, and the transport of content keys.
//!
//! Nothing here knows ASN.1 structures, and nothing outside calls the library for these things.

use std::hint::black_box;
use std::sync::OnceLock;

use as2_fused::{CbcDecrypt, LaggingSha256, Remainder};
use openssl::cipher::{Cipher as EvpCipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use openssl::md::{Md, MdRef};
use openssl::md_ctx::MdCtx;
use openssl::pkey::{Id, PKey, Private, Public};
use openssl::pkey_ctx::PkeyCtx;
use openssl::rsa::Padding;
use openssl::sign::RsaPssSaltlen;
use zeroize::Zeroizing;

use crate::algorithm::{Cipher, Digest, KeyTransport, SignatureScheme};
use crate::error::{Error, ErrorKind};

mod agree;
mod beside;
mod ccm;
mod gcm;

pub(crate) use agree::{Agreement, WRAP_OVERHEAD, unwrap_by_agreement, wrap_by_agreement};
pub(crate) use beside::Beside;
pub(crate) use gcm::tag_difference;
#[cfg(test)]
pub(crate) use {ccm::tests::seal as seal_ccm, gcm::tests::seal as seal_gcm};

/// Bytes of the authentication tag that we generate (RFC 5084 §3.2).
pub(crate) const TAG_LEN: usize = 16;

/// The library's digest, fetched once: one that is not fetched is looked up again for each use.
fn md(digest: Digest) -> &'static MdRef {
    static FETCHED: [OnceLock<Option<Md>>; 9] = [const { OnceLock::new() }; 9];
    let (at, name, plain) = match digest {
        Digest::Md5 => (0, "MD5", Md::md5()),
        Digest::Sha1 => (1, "SHA1", Md::sha1()),
        Digest::Sha224 => (2, "SHA2-224", Md::sha224()),
        Digest::Sha256 => (3, "SHA2-256", Md::sha256()),
        Digest::Sha384 => (4, "SHA2-384", Md::sha384()),
        Digest::Sha512 => (5, "SHA2-512", Md::sha512()),
        Digest::Sha3_256 => (6, "SHA3-256", Md::sha3_256()),
        Digest::Sha3_384 => (7, "SHA3-384", Md::sha3_384()),
        Digest::Sha3_512 => (8, "SHA3-512", Md::sha3_512()),
    };
    FETCHED[at]
        .get_or_init(|| Md::fetch(None, name, None).ok())
        .as_deref()
        .unwrap_or(plain)
}

/// Bytes of a digest.
pub(crate) fn digest_len(digest: Digest) -> usize {
    md(digest).size()
}

/// Fills `bytes` from the library's private random generator.
pub(crate) fn random(bytes: &mut [u8]) -> Result<(), Error> {
    Ok(openssl::rand::rand_priv_bytes(bytes)?)
}

/// A digest over bytes that come in pieces.
pub(crate) struct Hasher {
    digest: Digest,
    engine: HashEngine,
}

enum HashEngine {
    Library(MdCtx),
    /// In the decryption's company.
    Beside(Beside),
    /// Out of it again.
    Lagging(LaggingSha256),
}

impl Hasher {
    /// Fails only where the library does not offer the algorithm.
    pub(crate) fn new(digest: Digest) -> Result<Self, Error> {
        let mut context = MdCtx::new()?;
        context.digest_init(md(digest))?;
        let engine = HashEngine::Library(context);
        Ok(Hasher { digest, engine })
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match &mut self.engine {
            HashEngine::Library(context) => context.digest_update(bytes)?,
            HashEngine::Beside(beside) => beside.push(bytes),
            HashEngine::Lagging(digest) => digest.update(bytes),
        }
        Ok(())
    }

    /// Parts with the decryption, so that it may go to another thread.
    pub(crate) fn part(&mut self) {
        if let HashEngine::Beside(beside) = &self.engine
            && let Some(digest) = beside.leave()
        {
            self.engine = HashEngine::Lagging(digest);
        }
    }

    pub(crate) fn finish(mut self) -> Result<Vec<u8>, Error> {
        self.part();
        match self.engine {
            HashEngine::Library(mut context) => {
                let mut value = vec![0; md(self.digest).size()];
                context.digest_final(&mut value)?;
                Ok(value)
            }
            HashEngine::Lagging(digest) => Ok(digest.finish().to_vec()),
            HashEngine::Beside(_) => Err(Error::new(ErrorKind::UnexpectedProcessingError, "a digest was taken twice")),
        }
    }
}

/// The digest of one slice.
pub(crate) fn hash(digest: Digest, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut hasher = Hasher::new(digest)?;
    hasher.update(bytes)?;
    hasher.finish()
}

/// How a signature value came to be, as far as its verification must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signature {
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1,
    /// RSASSA-PSS with the stated MGF1 digest and salt length in bytes (RFC 8017 §8.1).
    RsaPss { mgf: Digest, salt: u16 },
    /// ECDSA, the value being ECDSA-Sig-Value in DER.
    Ecdsa,
    /// Ed25519 over the bytes themselves, not over their digest (RFC 8419 §3).
    Ed25519,
}

/// Signs a digest. EC keys sign by ECDSA whatever the scheme; the salt of PSS is as long as the digest.
pub(crate) fn sign_digest(key: &PKey<Private>, scheme: SignatureScheme, digest: Digest, value: &[u8]) -> Result<Vec<u8>, Error> {
    let mut context = PkeyCtx::new(key)?;
    context.sign_init()?;
    match (key.id(), scheme) {
        (Id::EC, _) => {}
        (Id::RSA, SignatureScheme::RsaPkcs1) => context.set_rsa_padding(Padding::PKCS1)?,
        (Id::RSA | Id::RSA_PSS, SignatureScheme::RsaPss) => context.set_rsa_padding(Padding::PKCS1_PSS)?,
        (id, scheme) => return Err(Error::invalid(format!("a key of type {id:?} cannot sign by {scheme}"))),
    }
    context.set_signature_md(md(digest))?;
    if key.id() != Id::EC && scheme == SignatureScheme::RsaPss {
        context.set_rsa_mgf1_md(md(digest))?;
        context.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
    }
    let mut signature = Vec::new();
    context.sign_to_vec(value, &mut signature)?;
    Ok(signature)
}

/// Whether this key could have made such a signature at all.
pub(crate) fn key_fits(key: &PKey<Public>, signature: Signature) -> bool {
    match signature {
        Signature::RsaPkcs1 => key.id() == Id::RSA,
        Signature::RsaPss { .. } => matches!(key.id(), Id::RSA | Id::RSA_PSS),
        Signature::Ecdsa => key.id() == Id::EC,
        Signature::Ed25519 => key.id() == Id::ED25519,
    }
}

/// Whether `bytes` is this key's signature over a digest. Anything unusable is a signature that does not hold.
pub(crate) fn verify_digest(key: &PKey<Public>, signature: Signature, digest: Digest, value: &[u8], bytes: &[u8]) -> bool {
    let verify = || -> Result<bool, openssl::error::ErrorStack> {
        let mut context = PkeyCtx::new(key)?;
        context.verify_init()?;
        match signature {
            Signature::RsaPkcs1 => context.set_rsa_padding(Padding::PKCS1)?,
            Signature::RsaPss { .. } => context.set_rsa_padding(Padding::PKCS1_PSS)?,
            Signature::Ecdsa => {}
            Signature::Ed25519 => return Ok(false),
        }
        context.set_signature_md(md(digest))?;
        if let Signature::RsaPss { mgf, salt } = signature {
            context.set_rsa_mgf1_md(md(mgf))?;
            context.set_rsa_pss_saltlen(RsaPssSaltlen::custom(i32::from(salt)))?;
        }
        context.verify(value, bytes)
    };
    key_fits(key, signature) && verify().unwrap_or(false)
}

/// Whether `bytes` is this key's RSASSA-PKCS1-v1_5 signature over this DigestInfo, whatever the library thinks of it. The whole
/// block is compared with the one that is due (RFC 8017 §8.2.2 step 4): nothing is read out of it.
pub(crate) fn verify_digest_info(key: &PKey<Public>, info: &[u8], bytes: &[u8]) -> bool {
    let recover = || -> Result<Vec<u8>, openssl::error::ErrorStack> {
        let rsa = key.rsa()?;
        let mut block = vec![0; rsa.size() as usize];
        let len = rsa.public_decrypt(bytes, &mut block, Padding::NONE)?;
        block.truncate(len);
        Ok(block)
    };
    if !key_fits(key, Signature::RsaPkcs1) || bytes.len() != key.size() {
        return false;
    }
    let Some(padding) = bytes.len().checked_sub(info.len() + 3).filter(|padding| *padding >= 8) else {
        return false;
    };
    let due = [&[0u8, 1][..], &vec![0xff; padding], &[0], info].concat();
    recover().is_ok_and(|block| block.len() == due.len() && openssl::memcmp::eq(&block, &due))
}

/// Whether `bytes` is this key's Ed25519 signature over `message`.
pub(crate) fn verify_message(key: &PKey<Public>, message: &[u8], bytes: &[u8]) -> bool {
    let verify = || openssl::sign::Verifier::new_without_digest(key)?.verify_oneshot(bytes, message);
    key_fits(key, Signature::Ed25519) && verify().unwrap_or(false)
}

impl Cipher {
    /// Whether it is in Galois/counter mode.
    pub(crate) fn is_gcm(self) -> bool {
        matches!(self, Cipher::Aes128Gcm | Cipher::Aes192Gcm | Cipher::Aes256Gcm)
    }

    /// Whether it is in counter mode with CBC-MAC.
    pub(crate) fn is_ccm(self) -> bool {
        matches!(self, Cipher::Aes128Ccm | Cipher::Aes192Ccm | Cipher::Aes256Ccm)
    }

    /// Whether it authenticates and therefore travels in AuthEnvelopedData (RFC 5083).
    pub(crate) fn is_authenticated(self) -> bool {
        self.is_gcm() || self.is_ccm()
    }

    /// Bytes of the content key.
    pub(crate) fn key_len(self) -> usize {
        self.evp().key_length()
    }

    /// Bytes of the initialization vector or nonce; of CCM's, the most there may be.
    pub(crate) fn iv_len(self) -> usize {
        match self {
            Cipher::Aes128Gcm | Cipher::Aes192Gcm | Cipher::Aes256Gcm => 12,
            Cipher::Aes128Ccm | Cipher::Aes192Ccm | Cipher::Aes256Ccm => 13,
            Cipher::TripleDesCbc => 8,
            Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc => 16,
        }
    }

    /// Bytes of ciphertext for `plain` bytes, padding included.
    pub(crate) fn sealed_len(self, plain: u64) -> u64 {
        if self.is_authenticated() {
            plain
        } else {
            (plain / self.iv_len() as u64 + 1) * self.iv_len() as u64
        }
    }

    fn evp(self) -> &'static CipherRef {
        match self {
            Cipher::Aes128Cbc => EvpCipher::aes_128_cbc(),
            Cipher::Aes192Cbc => EvpCipher::aes_192_cbc(),
            Cipher::Aes256Cbc => EvpCipher::aes_256_cbc(),
            Cipher::Aes128Gcm => EvpCipher::aes_128_gcm(),
            Cipher::Aes192Gcm => EvpCipher::aes_192_gcm(),
            Cipher::Aes256Gcm => EvpCipher::aes_256_gcm(),
            Cipher::Aes128Ccm => EvpCipher::aes_128_ccm(),
            Cipher::Aes192Ccm => EvpCipher::aes_192_ccm(),
            Cipher::Aes256Ccm => EvpCipher::aes_256_ccm(),
            Cipher::TripleDesCbc => EvpCipher::des_ede3_cbc(),
        }
    }
}

/// A content cipher at work in one direction; what it makes is appended to `out`.
pub(crate) struct CipherStream {
    engine: Engine,
}

enum Engine {
    Library(CipherCtx),
    Ccm(Box<ccm::CcmDecrypt>),
    Fused(Box<Fused>),
}

/// AES-CBC decryption that takes a digest along, until the library's cipher takes the padding off.
struct Fused {
    decryption: CbcDecrypt,
    beside: Beside,
    cipher: Cipher,
    key: Zeroizing<Vec<u8>>,
}

impl CipherStream {
    /// Not for CCM.
    pub(crate) fn encrypt(cipher: Cipher, key: &[u8], iv: &[u8]) -> Result<Self, Error> {
        let mut context = CipherCtx::new()?;
        context.encrypt_init(Some(cipher.evp()), Some(key), Some(iv))?;
        Ok(CipherStream {
            engine: Engine::Library(context),
        })
    }

    /// Not for CCM.
    pub(crate) fn decrypt(cipher: Cipher, key: &[u8], iv: &[u8]) -> Result<Self, Error> {
        let mut context = CipherCtx::new()?;
        context.decrypt_init(Some(cipher.evp()), Some(key), Some(iv))?;
        Ok(CipherStream {
            engine: Engine::Library(context),
        })
    }

    /// The same, in the company of a digest where that can be.
    pub(crate) fn decrypt_beside(beside: &Beside, cipher: Cipher, key: &[u8], iv: &[u8]) -> Result<Self, Error> {
        let Some(decryption) = beside.decryption(cipher, key, iv) else {
            return CipherStream::decrypt(cipher, key, iv);
        };
        let fused = Fused {
            decryption,
            beside: beside.clone(),
            cipher,
            key: Zeroizing::new(key.to_vec()),
        };
        Ok(CipherStream {
            engine: Engine::Fused(Box::new(fused)),
        })
    }

    /// For CCM, which must know the length of the content.
    pub(crate) fn decrypt_ccm(key: &[u8], nonce: &[u8], tag_len: usize, length: u64) -> Result<Self, Error> {
        let ccm = ccm::CcmDecrypt::new(key, nonce, tag_len, length)?;
        Ok(CipherStream {
            engine: Engine::Ccm(Box::new(ccm)),
        })
    }

    /// `bytes` of at most 1 GiB are taken in one call of the library.
    pub(crate) fn update(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let context = match &mut self.engine {
            Engine::Library(context) => context,
            Engine::Ccm(ccm) => return ccm.update(bytes, out),
            Engine::Fused(fused) => {
                fused.beside.decrypt(&mut fused.decryption, bytes, out);
                return Ok(());
            }
        };
        for piece in bytes.chunks(1 << 30) {
            context.cipher_update_vec(piece, out)?;
        }
        Ok(())
    }

    /// The last block: padding is added, or checked and taken off; a tag that was set is checked.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        match &mut self.engine {
            Engine::Library(context) => context.cipher_final_vec(out).map(|_| ()).map_err(Error::from),
            Engine::Ccm(ccm) => ccm.finish(),
            Engine::Fused(fused) => {
                let Remainder { iv, rest } = fused.decryption.remainder();
                let mut last = CipherStream::decrypt(fused.cipher, &fused.key, &iv)?;
                last.update(&rest, out)?;
                last.finish(out)
            }
        }
    }

    /// The tag over what was encrypted, after `finish`.
    pub(crate) fn tag(&self) -> Result<[u8; TAG_LEN], Error> {
        let mut tag = [0; TAG_LEN];
        match &self.engine {
            Engine::Library(context) => context.tag(&mut tag)?,
            Engine::Ccm(_) | Engine::Fused(_) => return Err(Error::invalid("no tag is made on receipt")),
        }
        Ok(tag)
    }

    /// The tag to check, before `finish`.
    pub(crate) fn set_tag(&mut self, tag: &[u8]) -> Result<(), Error> {
        match &mut self.engine {
            Engine::Library(context) => context.set_tag(tag)?,
            Engine::Ccm(ccm) => ccm.set_tag(tag),
            // CBC has none.
            Engine::Fused(_) => {}
        }
        Ok(())
    }
}

impl KeyTransport {
    /// The digest of OAEP; none for the others.
    pub(crate) fn oaep_digest(self) -> Option<Digest> {
        match self {
            KeyTransport::OaepSha1 => Some(Digest::Sha1),
            KeyTransport::OaepSha256 => Some(Digest::Sha256),
            KeyTransport::OaepSha384 => Some(Digest::Sha384),
            KeyTransport::OaepSha512 => Some(Digest::Sha512),
            _ => None,
        }
    }

    /// How a content key goes to an EC key under this setting: those for RSA keys say nothing about it.
    #[must_use]
    pub fn for_ec(self) -> Self {
        if self.ecdh_digest().is_some() {
            self
        } else {
            KeyTransport::EcdhSha256
        }
    }

    /// The digest of ECDH's key derivation; none for the others.
    pub(crate) fn ecdh_digest(self) -> Option<Digest> {
        match self {
            KeyTransport::EcdhSha1 => Some(Digest::Sha1),
            KeyTransport::EcdhSha224 => Some(Digest::Sha224),
            KeyTransport::EcdhSha256 => Some(Digest::Sha256),
            KeyTransport::EcdhSha384 => Some(Digest::Sha384),
            KeyTransport::EcdhSha512 => Some(Digest::Sha512),
            _ => None,
        }
    }
}

/// Encrypts a content key to an RSA key. OAEP uses its digest for MGF1 too, and the empty label.
pub(crate) fn wrap_key(key: &PKey<Public>, transport: KeyTransport, cek: &[u8]) -> Result<Vec<u8>, Error> {
    if key.id() != Id::RSA {
        return Err(Error::invalid("the recipient's certificate holds no RSA key that can encrypt"));
    }
    if transport.ecdh_digest().is_some() {
        return Err(Error::invalid(format!(
            "{transport} needs an EC certificate, and the recipient's is RSA"
        )));
    }
    let mut context = PkeyCtx::new(key)?;
    context.encrypt_init()?;
    match transport.oaep_digest() {
        None => context.set_rsa_padding(Padding::PKCS1)?,
        Some(digest) => {
            context.set_rsa_padding(Padding::PKCS1_OAEP)?;
            context.set_rsa_oaep_md(md(digest))?;
            context.set_rsa_mgf1_md(md(digest))?;
        }
    }
    let mut wrapped = Vec::new();
    context.encrypt_to_vec(cek, &mut wrapped)?;
    Ok(wrapped)
}

/// The padding that a received key says it has. OAEP's two digests may differ: Java's default is SHA-256 with MGF1-SHA-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrapping {
    Pkcs1,
    Oaep { digest: Digest, mgf: Digest },
}

/// What came out of an unwrap: a key of the wanted length whatever happened, and whether it may be used.
pub(crate) struct Unwrapped {
    key: Zeroizing<Vec<u8>>,
    /// 0xff if the key is good, else 0.
    good: u8,
}

/// Decrypts a content key of exactly `len` bytes.
///
/// No error, and for PKCS#1 v1.5 no branch, tells a key that does not fit from one that does (RFC 3218 §2.3.2): the caller
/// goes on with a random key. `wrapped` is public, so its length may be looked at.
pub(crate) fn unwrap_key(key: &PKey<Private>, wrapping: Wrapping, wrapped: &[u8], len: usize) -> Unwrapped {
    let none = || Unwrapped {
        key: Zeroizing::new(vec![0; len]),
        good: 0,
    };
    let Ok(rsa) = key.rsa() else { return none() };
    let size = rsa.size() as usize;
    if wrapped.len() > size {
        return none();
    }
    match wrapping {
        Wrapping::Pkcs1 => {
            // A failure of the raw operation leaves zeros, which are no padding either.
            let mut block = Zeroizing::new(vec![0; size]);
            let _ = rsa.private_decrypt(wrapped, &mut block, Padding::NONE);
            unpad_pkcs1(&block, len)
        }
        Wrapping::Oaep { digest, mgf } => {
            let decrypt = |block: &mut [u8]| -> Result<usize, openssl::error::ErrorStack> {
                let mut context = PkeyCtx::new(key)?;
                context.decrypt_init()?;
                context.set_rsa_padding(Padding::PKCS1_OAEP)?;
                context.set_rsa_oaep_md(md(digest))?;
                context.set_rsa_mgf1_md(md(mgf))?;
                context.decrypt(wrapped, Some(block))
            };
            // The library's own OAEP decoding is constant-time and has one failure (RFC 8017 §7.1.2, Manger's attack).
            let mut block = Zeroizing::new(vec![0; size]);
            let length = decrypt(&mut block).unwrap_or(0);
            let good = 0u8.wrapping_sub(u8::from(length == len));
            let mut found = Zeroizing::new(vec![0; len]);
            found.iter_mut().zip(block.iter()).for_each(|(to, from)| *to = *from & good);
            Unwrapped { key: found, good }
        }
    }
}

/// Takes 00 02 PS 00 off a block, where PS must leave exactly `len` bytes (RFC 8017 §7.2.2), in constant time.
fn unpad_pkcs1(block: &[u8], len: usize) -> Unwrapped {
    // Eleven bytes are 00 02, eight of PS and the zero behind them; both lengths are public.
    if block.len() < len + 11 {
        return Unwrapped {
            key: Zeroizing::new(vec![0; len]),
            good: 0,
        };
    }
    let (padding, key) = block.split_at(block.len() - len);
    let mut wrong = padding[0] | (padding[1] ^ 2) | padding[padding.len() - 1];
    for byte in &padding[2..padding.len() - 1] {
        wrong |= is_zero(*byte);
    }
    let good = is_zero(black_box(wrong));
    Unwrapped {
        key: Zeroizing::new(key.to_vec()),
        good,
    }
}

/// 0xff for zero, 0 for anything else, without a branch.
fn is_zero(byte: u8) -> u8 {
    let wide = u16::from(byte);
    (wide.wrapping_sub(1) >> 8) as u8
}

/// The content key that decryption goes on with: the first good one of several unwraps, or the random one drawn before.
pub(crate) struct KeyChoice {
    key: Zeroizing<Vec<u8>>,
    found: u8,
    index: u8,
}

impl KeyChoice {
    /// Draws the random key of `len` bytes.
    pub(crate) fn new(len: usize) -> Result<Self, Error> {
        let mut key = Zeroizing::new(vec![0; len]);
        random(&mut key)?;
        Ok(KeyChoice { key, found: 0, index: 0 })
    }

    /// Takes the unwrapped key if it is good and the first such, in constant time.
    pub(crate) fn offer(&mut self, index: u8, unwrapped: &Unwrapped) {
        let take = black_box(unwrapped.good & !self.found);
        for (to, from) in self.key.iter_mut().zip(unwrapped.key.iter()) {
            *to = (*to & !take) | (*from & take);
        }
        self.index = (self.index & !take) | (index & take);
        self.found |= take;
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Whether any key was good. To be asked after the whole body was decrypted only.
    pub(crate) fn is_good(&self) -> bool {
        self.found != 0
    }

    /// The index that was offered with the chosen key, 0 if none was good. To be used after a successful decryption only.
    pub(crate) fn index(&self) -> usize {
        usize::from(self.index)
    }
}

/// The one answer to all troubles after the key unwrap; the detail is for our log (SEC4).
pub(crate) fn decryption_failed(detail: &str) -> Error {
    Error::new(ErrorKind::DecryptionFailed, detail)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn zero_is_told_without_a_branch() {
        assert!((0..=255u8).all(|byte| is_zero(byte) == if byte == 0 { 0xff } else { 0 }));
    }

    #[test]
    fn only_exact_padding_is_good() {
        let mut block = vec![7u8; 256];
        block[0] = 0;
        block[1] = 2;
        block[223] = 0;
        assert_eq!(unpad_pkcs1(&block, 32).good, 0xff);
        assert_eq!(unpad_pkcs1(&block, 16).good, 0, "a key of another length");
        for (at, byte) in [(0, 1), (1, 1), (2, 0), (100, 0), (223, 9)] {
            let mut broken = block.clone();
            broken[at] = byte;
            assert_eq!(unpad_pkcs1(&broken, 32).good, 0, "byte {at}");
        }
        assert_eq!(unpad_pkcs1(&[0, 2, 1, 1, 1, 1, 1, 1, 1, 0, 5], 1).good, 0, "seven bytes of padding");
    }

    #[test]
    fn the_random_key_stays_until_a_good_one_comes() {
        let mut choice = KeyChoice::new(4).unwrap();
        let random = choice.key().to_vec();
        choice.offer(
            1,
            &Unwrapped {
                key: Zeroizing::new(vec![1; 4]),
                good: 0,
            },
        );
        assert_eq!((choice.key(), choice.index()), (random.as_slice(), 0));
        choice.offer(
            2,
            &Unwrapped {
                key: Zeroizing::new(vec![2; 4]),
                good: 0xff,
            },
        );
        choice.offer(
            3,
            &Unwrapped {
                key: Zeroizing::new(vec![3; 4]),
                good: 0xff,
            },
        );
        assert_eq!((choice.key(), choice.index()), ([2; 4].as_slice(), 2));
    }
}
