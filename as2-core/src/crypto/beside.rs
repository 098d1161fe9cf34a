//! The digest of what is decrypted, taken in one stream of instructions with the decryption of what follows (cms-streaming.md §9).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use as2_fused::{CbcDecrypt, LaggingSha256};

use super::Hasher;
use crate::algorithm::{Cipher, Digest};

/// Where the decryption of a message and one SHA-256 of its plain text meet. Each works without the other.
#[derive(Clone, Default)]
pub(crate) struct Beside(Arc<Mutex<Seat>>);

#[derive(Default)]
struct Seat {
    /// A decryption is at work that takes a digest along.
    offered: bool,
    digest: Option<LaggingSha256>,
}

impl Beside {
    fn seat(&self) -> MutexGuard<'_, Seat> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cipher that takes a digest along. `None`: another cipher, or a machine without the instructions.
    pub(super) fn decryption(&self, cipher: Cipher, key: &[u8], iv: &[u8]) -> Option<CbcDecrypt> {
        let cbc = matches!(cipher, Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc);
        let iv = iv.try_into().ok().filter(|_| cbc)?;
        let decryption = CbcDecrypt::new(key, iv)?;
        self.seat().offered = true;
        Some(decryption)
    }

    /// Decrypts, and digests what waits for it.
    pub(super) fn decrypt(&self, decryption: &mut CbcDecrypt, sealed: &[u8], plain: &mut Vec<u8>) {
        decryption.update(sealed, plain, self.seat().digest.as_mut());
    }

    /// Takes the seat for a new SHA-256. `None`: there is none, or it is taken.
    pub(crate) fn sha256(&self) -> Option<Hasher> {
        let mut seat = self.seat();
        if !seat.offered || seat.digest.is_some() {
            return None;
        }
        seat.digest = Some(LaggingSha256::new()?);
        Some(Hasher {
            digest: Digest::Sha256,
            engine: super::HashEngine::Beside(self.clone()),
        })
    }

    pub(super) fn push(&self, bytes: &[u8]) {
        if let Some(digest) = &mut self.seat().digest {
            digest.push(bytes);
        }
    }

    /// Gives the digest back, with what still waits for it.
    pub(super) fn leave(&self) -> Option<LaggingSha256> {
        self.seat().digest.take()
    }
}
