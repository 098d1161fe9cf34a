//! The associated data of GCM when it comes after the ciphertext, as AuthEnvelopedData puts it (RFC 5083 §2.1).
//!
//! GHASH is linear: with the hash key `H`, `n` blocks of ciphertext and the associated data `A`, the tag is
//! `T = T₀ ⊕ S·Hⁿ⁺¹ ⊕ (bits of A ‖ 0)·H`, where `T₀` is the tag without `A`, and `S` the GHASH of `A` alone. So the difference can
//! be taken off the received tag, and the library then checks `T₀` (NIST SP 800-38D §6.4, §7.2).

use openssl::cipher::Cipher as EvpCipher;
use openssl::cipher_ctx::CipherCtx;

use crate::error::Error;

/// What associated data adds to the tag of `sealed_len` bytes of ciphertext under this key.
pub(crate) fn tag_difference(key: &[u8], associated: &[u8], sealed_len: u64) -> Result<[u8; 16], Error> {
    let hash_key = hash_key(key)?;
    let mut sum = 0;
    for block in associated.chunks(16) {
        let mut padded = [0; 16];
        padded[..block.len()].copy_from_slice(block);
        sum = multiply(sum ^ u128::from_be_bytes(padded), hash_key);
    }
    let lengths = u128::from(associated.len() as u64 * 8) << 64;
    let difference = multiply(sum, power(hash_key, sealed_len.div_ceil(16) + 1)) ^ multiply(lengths, hash_key);
    Ok(difference.to_be_bytes())
}

/// `H`: the zero block encrypted.
fn hash_key(key: &[u8]) -> Result<u128, Error> {
    let cipher = match key.len() {
        16 => EvpCipher::aes_128_ecb(),
        24 => EvpCipher::aes_192_ecb(),
        _ => EvpCipher::aes_256_ecb(),
    };
    let mut context = CipherCtx::new()?;
    context.encrypt_init(Some(cipher), Some(key), None)?;
    context.set_padding(false);
    let mut block = [0; 32];
    context.cipher_update(&[0; 16], Some(&mut block))?;
    let mut first = [0; 16];
    first.copy_from_slice(&block[..16]);
    Ok(u128::from_be_bytes(first))
}

/// The product in GF(2¹²⁸), the bits in GCM's order, without a branch on them (SP 800-38D §6.3).
fn multiply(a: u128, b: u128) -> u128 {
    const REDUCTION: u128 = 0xe1 << 120;
    let (mut product, mut shifted) = (0u128, b);
    for bit in (0..128).rev() {
        product ^= shifted & 0u128.wrapping_sub(a >> bit & 1);
        shifted = (shifted >> 1) ^ (REDUCTION & 0u128.wrapping_sub(shifted & 1));
    }
    product
}

/// `baseⁿ` for `n ≥ 1`, which is public.
fn power(base: u128, n: u64) -> u128 {
    /// The one of this field.
    const ONE: u128 = 1 << 127;
    let (mut result, mut square) = (ONE, base);
    for bit in 0..64 - n.leading_zeros() {
        if n >> bit & 1 == 1 {
            result = multiply(result, square);
        }
        square = multiply(square, square);
    }
    result
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    /// The library's own GCM with the associated data first: ciphertext and tag.
    pub(crate) fn seal(key: &[u8], nonce: &[u8], associated: &[u8], plain: &[u8]) -> (Vec<u8>, [u8; 16]) {
        let cipher = match key.len() {
            16 => EvpCipher::aes_128_gcm(),
            24 => EvpCipher::aes_192_gcm(),
            _ => EvpCipher::aes_256_gcm(),
        };
        let mut context = CipherCtx::new().unwrap();
        context.encrypt_init(Some(cipher), Some(key), Some(nonce)).unwrap();
        if !associated.is_empty() {
            context.cipher_update(associated, None).unwrap();
        }
        let mut sealed = Vec::new();
        context.cipher_update_vec(plain, &mut sealed).unwrap();
        context.cipher_final_vec(&mut sealed).unwrap();
        let mut tag = [0; 16];
        context.tag(&mut tag).unwrap();
        (sealed, tag)
    }

    #[test]
    fn the_difference_is_that_of_the_library() {
        for key_len in [16, 24, 32] {
            let key = vec![5; key_len];
            for associated in [0, 1, 15, 16, 17, 300] {
                for length in [0, 1, 16, 33, 5000] {
                    let (associated, plain) = (vec![0xa7; associated], vec![0x3c; length]);
                    let (_, with) = seal(&key, &[1; 12], &associated, &plain);
                    let (_, without) = seal(&key, &[1; 12], &[], &plain);
                    let difference = tag_difference(&key, &associated, length as u64).unwrap();
                    assert!(with.iter().zip(without).zip(difference).all(|((a, b), c)| *a == b ^ c));
                }
            }
        }
    }
}
