//! AES-CBC and SHA-256 in one instruction stream: encryption and digest of the same bytes, or decryption and digest of what was
//! decrypted just before.
//!
//! SHA-256 is a chain in which every step waits for the one before, and so is encryption: alone they leave most of the core
//! idle. Interleaved, both cost little more than the slower one (cms-streaming.md §9). It takes AES-NI and SHA-NI (x86-64);
//! where these are missing, or a kernel does not agree with OpenSSL at its first use, [`FusedCbcSha256::new`],
//! [`CbcDecrypt::new`] and [`LaggingSha256::new`] say `None` and the caller takes the ordinary way. Both ways give the same
//! bytes.

#![deny(unsafe_op_in_unsafe_fn)]

mod check;
#[cfg(target_arch = "x86_64")]
#[path = "x86.rs"]
mod kernel;
#[cfg(not(target_arch = "x86_64"))]
#[path = "absent.rs"]
mod kernel;
mod open;

use std::sync::OnceLock;

use kernel::Kernel;
pub use open::{CbcDecrypt, LaggingSha256, MAX_WAITING, Remainder, is_open_supported};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of an AES block, of the initialization vector, and of the chaining value (FIPS 197).
pub const BLOCK: usize = 16;
/// Bytes that are worked on at once: a block of SHA-256, four of AES.
pub const GROUP: usize = 64;
/// Bytes of a SHA-256 value.
pub const DIGEST: usize = 32;

/// AES-CBC encryption (NIST SP 800-38A §6.2) and SHA-256 (FIPS 180-4) of one stream that comes in pieces.
///
/// Neither pads the cipher nor ends it: what is left over goes to an ordinary cipher, see [`HandOver`].
pub struct FusedCbcSha256 {
    kernel: Kernel,
    /// The beginning of a group, plain.
    pending: [u8; GROUP],
    filled: usize,
    /// Plain bytes of the whole groups so far.
    total: u64,
}

/// Where an ordinary AES-CBC cipher goes on.
pub struct HandOver {
    /// SHA-256 of everything that was given.
    pub digest: [u8; DIGEST],
    /// The chaining value: the last block of ciphertext, or the initialization vector if there is none.
    pub iv: [u8; BLOCK],
    /// Plain bytes that are part of the digest and not encrypted yet, fewer than [`GROUP`].
    pub rest: Zeroizing<Vec<u8>>,
}

/// Whether this machine runs the kernel. The first call tests it.
#[must_use]
pub fn is_supported() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| check::agrees(FusedCbcSha256::untested, check::openssl))
}

impl FusedCbcSha256 {
    /// A new stream. `key` has 16, 24 or 32 bytes; `iv` is the initialization vector, or the block of ciphertext that goes
    /// before. `None`: not on this machine, or no such key.
    #[must_use]
    pub fn new(key: &[u8], iv: &[u8; BLOCK]) -> Option<Self> {
        if is_supported() { Self::untested(key, iv) } else { None }
    }

    fn untested(key: &[u8], iv: &[u8; BLOCK]) -> Option<Self> {
        Some(FusedCbcSha256 {
            kernel: Kernel::new(key, iv)?,
            pending: [0; GROUP],
            filled: 0,
            total: 0,
        })
    }

    /// How many of the next plain bytes make at most `room` bytes of ciphertext.
    #[must_use]
    pub fn fits(&self, room: usize) -> usize {
        (room / GROUP * GROUP).saturating_add(GROUP - 1 - self.filled)
    }

    /// Takes any number of bytes and appends the ciphertext of every group that is complete to `out`.
    pub fn update(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let mut plain = plain;
        if self.filled > 0 {
            let (now, later) = plain.split_at(plain.len().min(GROUP - self.filled));
            self.pending[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            plain = later;
            if self.filled < GROUP {
                return;
            }
            self.filled = 0;
            let pending = Zeroizing::new(self.pending);
            self.groups(std::slice::from_ref(&pending), out);
        }
        let (groups, rest) = plain.as_chunks();
        self.groups(groups, out);
        self.pending[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
    }

    fn groups(&mut self, plain: &[[u8; GROUP]], out: &mut Vec<u8>) {
        let length = plain.as_flattened().len();
        let start = out.len();
        out.reserve(length);
        let (room, _) = out.spare_capacity_mut()[..length].as_chunks_mut();
        self.kernel.run(plain, room);
        // SAFETY: the capacity was reserved, and the kernel has written `length` bytes: as many groups as it was given.
        unsafe { out.set_len(start + length) };
        self.total += length as u64;
    }

    /// Ends the digest and hands the cipher over.
    #[must_use]
    pub fn finish(mut self) -> HandOver {
        let rest = Zeroizing::new(self.pending[..self.filled].to_vec());
        let iv = self.kernel.chain();
        let (last, groups) = last_groups(&rest, self.total + rest.len() as u64);
        let digest = self.kernel.digest(&last[..groups]);
        HandOver { digest, iv, rest }
    }
}

/// What SHA-256 ends with (FIPS 180-4 §5.1.1): the rest, a one bit, zeros, and the length in bits; one group, or two if the rest
/// leaves no room. `total`: bytes of everything.
fn last_groups(rest: &[u8], total: u64) -> (Zeroizing<[[u8; GROUP]; 2]>, usize) {
    let mut last = Zeroizing::new([[0; GROUP]; 2]);
    let groups = if rest.len() < GROUP - 8 { 1 } else { 2 };
    let bytes = last[..groups].as_flattened_mut();
    bytes[..rest.len()].copy_from_slice(rest);
    bytes[rest.len()] = 0x80;
    let length = bytes.len() - 8;
    bytes[length..].copy_from_slice(&total.wrapping_mul(8).to_be_bytes());
    (last, groups)
}

impl Drop for FusedCbcSha256 {
    fn drop(&mut self) {
        self.pending.zeroize();
    }
}
