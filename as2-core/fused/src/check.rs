//! The test that decides at first use: the kernel against OpenSSL, every key length, groups in one run and in pieces.

use openssl::symm::{Cipher, Crypter, Mode};

use crate::{BLOCK, DIGEST, FusedCbcSha256, GROUP};

/// Bytes of the message that both encrypt: several groups, and a rest that is padded in two blocks.
const LENGTH: usize = 17 * GROUP + 61;

/// What both must come to: ciphertext of the whole groups, and the digest of everything.
type Outcome = (Vec<u8>, [u8; DIGEST]);

/// Whether the kernel exists here and gives what the oracle gives.
pub(crate) fn agrees(
    make: impl Fn(&[u8], &[u8; BLOCK]) -> Option<FusedCbcSha256>,
    oracle: impl Fn(&[u8], &[u8; BLOCK], &[u8]) -> Option<Outcome>,
) -> bool {
    // Bytes without a pattern that a mistake could hide behind: the high bytes of a full-period generator.
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    };
    [16, 24, 32].into_iter().all(|key_len| {
        let key: Vec<u8> = (0..key_len).map(|_| next()).collect();
        let iv: [u8; BLOCK] = std::array::from_fn(|_| next());
        let plain: Vec<u8> = (0..LENGTH).map(|_| next()).collect();
        let expected = oracle(&key, &iv, &plain);
        expected.is_some()
            && [LENGTH, GROUP + 1, 29].into_iter().all(|piece| {
                let ours = make(&key, &iv).map(|mut fused| {
                    let mut sealed = Vec::new();
                    plain.chunks(piece).for_each(|bytes| fused.update(bytes, &mut sealed));
                    let end = fused.finish();
                    let whole = sealed.len() + end.rest.len() == plain.len() && sealed.ends_with(&end.iv);
                    (whole, (sealed, end.digest))
                });
                ours.is_some_and(|(whole, ours)| whole && Some(ours) == expected)
            })
    })
}

/// The same by OpenSSL.
pub(crate) fn openssl(key: &[u8], iv: &[u8; BLOCK], plain: &[u8]) -> Option<Outcome> {
    let cipher = match key.len() {
        16 => Cipher::aes_128_cbc(),
        24 => Cipher::aes_192_cbc(),
        32 => Cipher::aes_256_cbc(),
        _ => return None,
    };
    let groups = plain.len() / GROUP * GROUP;
    let mut crypter = Crypter::new(cipher, Mode::Encrypt, key, Some(iv)).ok()?;
    crypter.pad(false);
    let mut sealed = vec![0; groups + BLOCK];
    let written = crypter.update(&plain[..groups], &mut sealed).ok()?;
    sealed.truncate(written);
    Some((sealed, openssl::sha::sha256(plain)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_differs_or_is_absent_is_not_used() {
        let wrong_digest = |key: &[u8], iv: &[u8; BLOCK], plain: &[u8]| {
            let (sealed, mut digest) = openssl(key, iv, plain)?;
            digest[31] ^= u8::from(key.len() == 32);
            Some((sealed, digest))
        };
        let wrong_byte = |key: &[u8], iv: &[u8; BLOCK], plain: &[u8]| {
            let (mut sealed, digest) = openssl(key, iv, plain)?;
            sealed[700] ^= u8::from(key.len() == 24);
            Some((sealed, digest))
        };
        assert!(!agrees(FusedCbcSha256::untested, wrong_digest));
        assert!(!agrees(FusedCbcSha256::untested, wrong_byte));
        assert!(!agrees(FusedCbcSha256::untested, |_, _, _| None), "no oracle, no kernel");
        assert!(!agrees(|_, _| None, openssl));
    }
}
