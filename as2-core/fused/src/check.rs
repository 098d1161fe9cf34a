//! The tests that decide at first use: each kernel against OpenSSL, every key length, groups in one run and in pieces.

use openssl::symm::{Cipher, Crypter, Mode};

use crate::{BLOCK, CbcDecrypt, DIGEST, FusedCbcSha256, GROUP, LaggingSha256};

/// Bytes of the message that both encrypt: several groups, and a rest that is padded in two blocks.
const LENGTH: usize = 17 * GROUP + 61;

/// What both must come to: ciphertext of the whole groups, and the digest of everything.
type Outcome = (Vec<u8>, [u8; DIGEST]);

/// Whether the kernel exists here and gives what the oracle gives.
pub(crate) fn agrees(
    make: impl Fn(&[u8], &[u8; BLOCK]) -> Option<FusedCbcSha256>,
    oracle: impl Fn(&[u8], &[u8; BLOCK], &[u8]) -> Option<Outcome>,
) -> bool {
    let mut next = numbers();
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

/// Whether the opening kernel exists here and gives what the oracle gives: the plain text of all blocks but the last, and the
/// digest of that from its first byte or from somewhere in its middle.
pub(crate) fn opens(
    make: impl Fn(&[u8], &[u8; BLOCK]) -> Option<CbcDecrypt>,
    digest: impl Fn() -> Option<LaggingSha256>,
    oracle: impl Fn(&[u8], &[u8; BLOCK], &[u8]) -> Option<Vec<u8>>,
) -> bool {
    let mut next = numbers();
    [16, 24, 32].into_iter().all(|key_len| {
        let key: Vec<u8> = (0..key_len).map(|_| next()).collect();
        let iv: [u8; BLOCK] = std::array::from_fn(|_| next());
        let sealed: Vec<u8> = (0..LENGTH / BLOCK * BLOCK).map(|_| next()).collect();
        let expected = oracle(&key, &iv, &sealed);
        [(LENGTH, 0), (6 * GROUP, 0), (3 * GROUP + 5, 37), (29, 1)]
            .into_iter()
            .all(|(piece, from)| {
                let ours = make(&key, &iv).zip(digest()).map(|(mut cipher, mut sha)| {
                    let (mut plain, mut taken) = (Vec::new(), from);
                    for bytes in sealed.chunks(piece) {
                        cipher.update(bytes, &mut plain, Some(&mut sha));
                        sha.push(plain.get(taken..).unwrap_or_default());
                        taken = plain.len().max(from);
                    }
                    (cipher.remainder(), plain, sha.finish())
                });
                ours.zip(expected.as_ref()).is_some_and(|((end, plain, value), expected)| {
                    let (before, last) = sealed.split_at(sealed.len() - BLOCK);
                    plain == *expected && end.rest == last && before.ends_with(&end.iv) && value == openssl::sha::sha256(&plain[from..])
                })
            })
    })
}

/// Bytes without a pattern that a mistake could hide behind: the high bytes of a full-period generator.
fn numbers() -> impl FnMut() -> u8 {
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    }
}

/// The same as sealing by OpenSSL.
pub(crate) fn openssl(key: &[u8], iv: &[u8; BLOCK], plain: &[u8]) -> Option<Outcome> {
    let groups = plain.len() / GROUP * GROUP;
    let sealed = crypt(Mode::Encrypt, key, iv, &plain[..groups])?;
    Some((sealed, openssl::sha::sha256(plain)))
}

/// The same as opening by OpenSSL: of all blocks but the last.
pub(crate) fn openssl_open(key: &[u8], iv: &[u8; BLOCK], sealed: &[u8]) -> Option<Vec<u8>> {
    crypt(Mode::Decrypt, key, iv, &sealed[..sealed.len().saturating_sub(BLOCK)])
}

/// AES-CBC of whole blocks.
fn crypt(mode: Mode, key: &[u8], iv: &[u8; BLOCK], from: &[u8]) -> Option<Vec<u8>> {
    let cipher = match key.len() {
        16 => Cipher::aes_128_cbc(),
        24 => Cipher::aes_192_cbc(),
        32 => Cipher::aes_256_cbc(),
        _ => return None,
    };
    let mut crypter = Crypter::new(cipher, mode, key, Some(iv)).ok()?;
    crypter.pad(false);
    let mut to = vec![0; from.len() + BLOCK];
    let written = crypter.update(from, &mut to).ok()?;
    to.truncate(written);
    Some(to)
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

    #[test]
    fn an_opening_kernel_that_differs_or_is_absent_is_not_used() {
        let usable = opens(CbcDecrypt::untested, LaggingSha256::untested, openssl_open);
        assert_eq!(usable, LaggingSha256::untested().is_some());
        let wrong_byte = |key: &[u8], iv: &[u8; BLOCK], sealed: &[u8]| {
            let mut plain = openssl_open(key, iv, sealed)?;
            plain[700] ^= u8::from(key.len() == 24);
            Some(plain)
        };
        // A digest of other bytes.
        let wrong_digest = || {
            let mut sha = LaggingSha256::untested()?;
            sha.push(&[0]);
            Some(sha)
        };
        assert!(!opens(CbcDecrypt::untested, LaggingSha256::untested, wrong_byte));
        assert!(!opens(CbcDecrypt::untested, wrong_digest, openssl_open));
        assert!(!opens(CbcDecrypt::untested, LaggingSha256::untested, |_, _, _| None));
        assert!(!opens(|_, _| None, LaggingSha256::untested, openssl_open));
        assert!(!opens(CbcDecrypt::untested, || None, openssl_open));
    }
}
