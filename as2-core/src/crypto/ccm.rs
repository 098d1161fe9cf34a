//! AES-CCM from its parts, counter mode and CBC-MAC (NIST SP 800-38C): the library's own wants the whole message in one call.

use openssl::cipher::{Cipher as EvpCipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use openssl::memcmp;

use super::decryption_failed;
use crate::error::Error;

/// Bytes of one AES block.
const BLOCK: usize = 16;
/// Bytes that are decrypted before the MAC takes them.
const PIECE: usize = 16 * 1024;

/// Decrypts a message whose length is known beforehand, and authenticates it without associated data.
pub(crate) struct CcmDecrypt {
    counter: CipherCtx,
    mac: CipherCtx,
    /// The last block of the MAC.
    state: [u8; BLOCK],
    /// What masks the tag.
    mask: [u8; BLOCK],
    left: u64,
    length: u64,
    tag: Vec<u8>,
    tag_len: usize,
    scratch: Vec<u8>,
}

impl CcmDecrypt {
    /// `nonce` of 7 to 13 bytes, `tag_len` of 4 to 16 and even (RFC 5084 §3.1). The nonce's length bounds the message's.
    pub(crate) fn new(key: &[u8], nonce: &[u8], tag_len: usize, length: u64) -> Result<Self, Error> {
        let (ctr, cbc) = match key.len() {
            16 => (EvpCipher::aes_128_ctr(), EvpCipher::aes_128_cbc()),
            24 => (EvpCipher::aes_192_ctr(), EvpCipher::aes_192_cbc()),
            _ => (EvpCipher::aes_256_ctr(), EvpCipher::aes_256_cbc()),
        };
        // The message's length is written in the bytes that nonce and flags leave.
        let digits = BLOCK - 1 - nonce.len();
        if digits < 8 && length >> (8 * digits) != 0 {
            return Err(decryption_failed("the content is too long for its nonce"));
        }
        let mut first = [0; BLOCK];
        first[0] = (digits - 1) as u8;
        first[1..=nonce.len()].copy_from_slice(nonce);
        let mut counter = encryptor(ctr, key, &first)?;
        let mut mask = Vec::new();
        counter.cipher_update_vec(&[0; BLOCK], &mut mask)?;

        first[0] |= ((tag_len - 2) / 2 * 8) as u8;
        for (at, digit) in first[nonce.len() + 1..].iter_mut().rev().zip(length.to_le_bytes()) {
            *at = digit;
        }
        let mut ccm = CcmDecrypt {
            counter,
            mac: encryptor(cbc, key, &[0; BLOCK])?,
            state: [0; BLOCK],
            mask: [0; BLOCK],
            left: length,
            length,
            tag: Vec::new(),
            tag_len,
            scratch: Vec::new(),
        };
        ccm.mask.copy_from_slice(&mask[..BLOCK]);
        ccm.authenticate(&first)?;
        Ok(ccm)
    }

    pub(crate) fn update(&mut self, sealed: &[u8], plain: &mut Vec<u8>) -> Result<(), Error> {
        self.left = self
            .left
            .checked_sub(sealed.len() as u64)
            .ok_or_else(|| decryption_failed("longer than announced"))?;
        for piece in sealed.chunks(PIECE) {
            let start = plain.len();
            self.counter.cipher_update_vec(piece, plain)?;
            self.authenticate(&plain[start..])?;
        }
        Ok(())
    }

    pub(crate) fn set_tag(&mut self, tag: &[u8]) {
        self.tag = tag.to_vec();
    }

    /// Checks length and tag.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        let over = (self.length % BLOCK as u64) as usize;
        if over > 0 {
            self.authenticate(&[0; BLOCK][over..])?;
        }
        let expected: Vec<u8> = self
            .state
            .iter()
            .zip(self.mask)
            .map(|(mac, mask)| mac ^ mask)
            .take(self.tag_len)
            .collect();
        if self.left == 0 && self.tag.len() == self.tag_len && memcmp::eq(&expected, &self.tag) {
            Ok(())
        } else {
            Err(decryption_failed("authentication tag"))
        }
    }

    /// The MAC is the last block of a CBC encryption.
    fn authenticate(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.scratch.clear();
        self.mac.cipher_update_vec(bytes, &mut self.scratch)?;
        if let Some(last) = self.scratch.last_chunk::<BLOCK>() {
            self.state = *last;
        }
        Ok(())
    }
}

fn encryptor(cipher: &CipherRef, key: &[u8], iv: &[u8; BLOCK]) -> Result<CipherCtx, Error> {
    let mut context = CipherCtx::new()?;
    context.encrypt_init(Some(cipher), Some(key), Some(iv))?;
    context.set_padding(false);
    Ok(context)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    /// The library's own CCM, in one call: ciphertext and tag.
    pub(crate) fn seal(key: &[u8], nonce: &[u8], tag_len: usize, plain: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let cipher = match key.len() {
            16 => EvpCipher::aes_128_ccm(),
            24 => EvpCipher::aes_192_ccm(),
            _ => EvpCipher::aes_256_ccm(),
        };
        let mut context = CipherCtx::new().unwrap();
        context.encrypt_init(Some(cipher), None, None).unwrap();
        context.set_tag_length(tag_len).unwrap();
        context.set_iv_length(nonce.len()).unwrap();
        context.encrypt_init(None, Some(key), Some(nonce)).unwrap();
        context.set_data_len(plain.len()).unwrap();
        let mut sealed = vec![0; plain.len() + BLOCK];
        let length = context.cipher_update(plain, Some(&mut sealed)).unwrap();
        sealed.truncate(length);
        let mut tag = vec![0; tag_len];
        context.tag(&mut tag).unwrap();
        (sealed, tag)
    }

    fn open(key: &[u8], nonce: &[u8], length: usize, sealed: &[u8], tag: &[u8], piece: usize) -> Result<Vec<u8>, Error> {
        let mut ccm = CcmDecrypt::new(key, nonce, tag.len(), length as u64)?;
        let mut plain = Vec::new();
        for piece in sealed.chunks(piece) {
            ccm.update(piece, &mut plain)?;
        }
        ccm.set_tag(tag);
        ccm.finish()?;
        Ok(plain)
    }

    #[test]
    fn the_library_in_one_call_and_ours_in_pieces_agree() {
        for key_len in [16, 24, 32] {
            let key = vec![3; key_len];
            for (nonce_len, tag_len, length) in [(12, 16, 0), (7, 4, 1), (13, 12, 65_535), (8, 8, 16), (12, 12, 40_001), (11, 14, 31)] {
                let plain = crate::cms::testkit::content(length);
                let nonce = vec![9; nonce_len];
                let (sealed, tag) = seal(&key, &nonce, tag_len, &plain);
                for piece in [1, 7, 16, 20_000] {
                    assert!(open(&key, &nonce, length, &sealed, &tag, piece).unwrap() == plain);
                }
                let mut wrong = tag.clone();
                wrong[tag_len - 1] ^= 1;
                assert!(open(&key, &nonce, length, &sealed, &wrong, 100).is_err());
                if length > 0 {
                    assert!(open(&key, &nonce, length, &sealed[1..], &tag, 100).is_err());
                    assert!(open(&key, &nonce, length - 1, &sealed, &tag, 100).is_err());
                }
            }
        }
        assert!(CcmDecrypt::new(&[0; 16], &[0; 13], 12, 65_536).is_err());
    }
}
