//! Opening: AES-CBC decryption, and a SHA-256 that lags behind it.

use std::sync::OnceLock;

use zeroize::Zeroizing;

use crate::kernel::{OpenKernel, ShaKernel};
use crate::{BLOCK, DIGEST, GROUP, check, last_groups};

/// Bytes that may wait for the digest; more are digested at once.
pub const MAX_WAITING: usize = 128 * 1024;

/// AES-CBC decryption (NIST SP 800-38A §6.2) of one stream that comes in pieces, with a digest beside it.
///
/// Like an ordinary cipher that will take padding off, it holds the last whole block back, and ends nothing: see [`Remainder`].
pub struct CbcDecrypt {
    kernel: OpenKernel,
    held: [u8; BLOCK],
    filled: usize,
}

/// Where an ordinary AES-CBC cipher goes on.
pub struct Remainder {
    /// The chaining value: the last block of ciphertext that was decrypted, or the initialization vector.
    pub iv: [u8; BLOCK],
    /// Ciphertext that was not decrypted yet, a block at most.
    pub rest: Vec<u8>,
}

/// SHA-256 (FIPS 180-4) whose bytes wait until something is decrypted: then both are done in one instruction stream.
pub struct LaggingSha256 {
    kernel: ShaKernel,
    waiting: Zeroizing<Vec<u8>>,
    total: u64,
}

/// Whether this machine runs the kernel. The first call tests it.
#[must_use]
pub fn is_open_supported() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| check::opens(CbcDecrypt::untested, LaggingSha256::untested, check::openssl_open))
}

impl CbcDecrypt {
    /// A new stream. `key` has 16, 24 or 32 bytes; `iv` is the initialization vector. `None`: not on this machine, or no such
    /// key.
    #[must_use]
    pub fn new(key: &[u8], iv: &[u8; BLOCK]) -> Option<Self> {
        if is_open_supported() { Self::untested(key, iv) } else { None }
    }

    pub(crate) fn untested(key: &[u8], iv: &[u8; BLOCK]) -> Option<Self> {
        Some(CbcDecrypt {
            kernel: OpenKernel::new(key, iv)?,
            held: [0; BLOCK],
            filled: 0,
        })
    }

    /// Takes any number of bytes and appends what they decrypt to; the digest takes what waits for it.
    pub fn update(&mut self, sealed: &[u8], plain: &mut Vec<u8>, beside: Option<&mut LaggingSha256>) {
        let (now, later) = sealed.split_at(sealed.len().min(BLOCK - self.filled));
        self.held[self.filled..self.filled + now.len()].copy_from_slice(now);
        self.filled += now.len();
        if later.is_empty() {
            return;
        }
        let (now, last) = later.split_at((later.len() - 1) / BLOCK * BLOCK);
        let (blocks, _) = now.as_chunks();
        plain.reserve(BLOCK + now.len());
        let held = self.held;
        self.blocks(std::slice::from_ref(&held), plain, None);
        self.blocks(blocks, plain, beside);
        self.held[..last.len()].copy_from_slice(last);
        self.filled = last.len();
    }

    fn blocks(&mut self, sealed: &[[u8; BLOCK]], plain: &mut Vec<u8>, beside: Option<&mut LaggingSha256>) {
        let length = sealed.as_flattened().len();
        let start = plain.len();
        plain.reserve(length);
        let (room, _) = plain.spare_capacity_mut()[..length].as_chunks_mut();
        match beside {
            Some(digest) => digest.beside(|sha, groups| self.kernel.run(sealed, room, sha, groups)),
            None => self.kernel.decrypt(sealed, room),
        }
        // SAFETY: the capacity was reserved, and the kernel has written `length` bytes: as many blocks as it was given.
        unsafe { plain.set_len(start + length) };
    }

    /// Hands the cipher over.
    #[must_use]
    pub fn remainder(&self) -> Remainder {
        Remainder {
            iv: self.kernel.chain(),
            rest: self.held[..self.filled].to_vec(),
        }
    }
}

impl LaggingSha256 {
    /// A new digest. `None`: not on this machine.
    #[must_use]
    pub fn new() -> Option<Self> {
        if is_open_supported() { Self::untested() } else { None }
    }

    pub(crate) fn untested() -> Option<Self> {
        Some(LaggingSha256 {
            kernel: ShaKernel::new()?,
            waiting: Zeroizing::default(),
            total: 0,
        })
    }

    /// Takes bytes that may wait.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.waiting.len() + bytes.len() > MAX_WAITING {
            self.update(bytes);
        } else {
            self.waiting.extend_from_slice(bytes);
        }
    }

    /// Takes bytes, and digests all whole groups at once.
    pub fn update(&mut self, bytes: &[u8]) {
        self.beside(|sha, groups| sha.hash(groups));
        let (now, later) = bytes.split_at(bytes.len().min((GROUP - self.waiting.len()) % GROUP));
        self.waiting.extend_from_slice(now);
        self.beside(|sha, groups| sha.hash(groups));
        let (groups, rest) = later.as_chunks();
        self.kernel.hash(groups);
        self.total += groups.as_flattened().len() as u64;
        self.waiting.extend_from_slice(rest);
    }

    /// Has all whole groups that wait digested by `work`.
    fn beside(&mut self, work: impl FnOnce(&mut ShaKernel, &[[u8; GROUP]])) {
        let (groups, rest) = self.waiting.as_chunks();
        work(&mut self.kernel, groups);
        let digested = groups.as_flattened().len();
        let rest = rest.len();
        self.total += digested as u64;
        self.waiting.copy_within(digested.., 0);
        self.waiting.truncate(rest);
    }

    /// The digest of everything that was given.
    #[must_use]
    pub fn finish(mut self) -> [u8; DIGEST] {
        self.beside(|sha, groups| sha.hash(groups));
        let (last, groups) = last_groups(&self.waiting, self.total + self.waiting.len() as u64);
        self.kernel.hash(&last[..groups]);
        self.kernel.value()
    }
}
