//! Object identifiers (contents bytes) and the algorithms that they name (RFC 5652, 5754, 9688, 3565, 5084, 5753, 8017, 8410).

use crate::algorithm::{Cipher, Digest};

pub(crate) const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
pub(crate) const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
pub(crate) const ENVELOPED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 3];
pub(crate) const AUTH_ENVELOPED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 16, 1, 23];
pub(crate) const COMPRESSED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 16, 1, 9];
pub(crate) const ZLIB: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 16, 3, 8];

pub(crate) const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 3];
pub(crate) const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 4];
/// RFC 6211 §2.
pub(crate) const ALGORITHM_PROTECTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 0x34];
pub(crate) const SIGNING_TIME: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 5];

pub(crate) const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
pub(crate) const RSAES_OAEP: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 7];
pub(crate) const MGF1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8];
pub(crate) const P_SPECIFIED: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 9];
pub(crate) const RSASSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
pub(crate) const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
pub(crate) const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// The OID of a digest.
pub(crate) fn digest(digest: Digest) -> &'static [u8] {
    match digest {
        Digest::Md5 => &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 5],
        Digest::Sha1 => &[0x2b, 0x0e, 3, 2, 0x1a],
        Digest::Sha256 => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1],
        Digest::Sha384 => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2],
        Digest::Sha512 => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3],
        Digest::Sha224 => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 4],
        Digest::Sha3_256 => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 8],
        Digest::Sha3_384 => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 9],
        Digest::Sha3_512 => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 10],
    }
}

/// The digest that an OID names.
pub(crate) fn digest_of(oid: &[u8]) -> Option<Digest> {
    Digest::ALL.iter().copied().find(|known| digest(*known) == oid)
}

/// A digest that is known and never allowed: MD2.
pub(crate) fn is_refused_digest(oid: &[u8]) -> bool {
    oid == [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 2]
}

/// The OID of a content encryption.
pub(crate) fn cipher(cipher: Cipher) -> &'static [u8] {
    match cipher {
        Cipher::Aes128Cbc => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 2],
        Cipher::Aes128Gcm => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 6],
        Cipher::Aes192Cbc => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 22],
        Cipher::Aes192Gcm => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 26],
        Cipher::Aes256Cbc => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 42],
        Cipher::Aes256Gcm => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 46],
        Cipher::Aes128Ccm => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 7],
        Cipher::Aes192Ccm => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 27],
        Cipher::Aes256Ccm => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 47],
        Cipher::TripleDesCbc => &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 3, 7],
    }
}

/// The content encryption that an OID names.
pub(crate) fn cipher_of(oid: &[u8]) -> Option<Cipher> {
    Cipher::ALL.iter().copied().find(|known| cipher(*known) == oid)
}

/// The OID of key agreement by ECDH with this digest, standard and cofactor Diffie-Hellman (RFC 5753 §7.1.4); none for digests
/// that have none.
pub(crate) fn ecdh(digest: Digest) -> Option<[&'static [u8]; 2]> {
    Some(match digest {
        Digest::Sha1 => [
            &[0x2b, 0x81, 5, 16, 0x86, 0x48, 63, 0, 2],
            &[0x2b, 0x81, 5, 16, 0x86, 0x48, 63, 0, 3],
        ],
        Digest::Sha224 => [&[0x2b, 0x81, 4, 1, 11, 0], &[0x2b, 0x81, 4, 1, 14, 0]],
        Digest::Sha256 => [&[0x2b, 0x81, 4, 1, 11, 1], &[0x2b, 0x81, 4, 1, 14, 1]],
        Digest::Sha384 => [&[0x2b, 0x81, 4, 1, 11, 2], &[0x2b, 0x81, 4, 1, 14, 2]],
        Digest::Sha512 => [&[0x2b, 0x81, 4, 1, 11, 3], &[0x2b, 0x81, 4, 1, 14, 3]],
        _ => return None,
    })
}

/// The OID of AES key wrap with keys of so many bytes (RFC 3565 §2.3.2).
pub(crate) fn aes_wrap(kek_len: usize) -> Option<&'static [u8]> {
    Some(match kek_len {
        16 => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 5],
        24 => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 25],
        32 => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 45],
        _ => return None,
    })
}

/// Ciphers that are known and never allowed: RC2, RC4, RC5, DES, CAST5, IDEA.
pub(crate) fn is_refused_cipher(oid: &[u8]) -> bool {
    const REFUSED: [&[u8]; 6] = [
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 3, 2],
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 3, 4],
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 3, 9],
        &[0x2b, 0x0e, 3, 2, 7],
        &[0x2a, 0x86, 0x48, 0x86, 0xf6, 0x7d, 7, 0x42, 10],
        &[0x2b, 6, 1, 4, 1, 0x81, 0x3c, 7, 1, 1, 2],
    ];
    REFUSED.contains(&oid)
}

/// `ecdsa-with-…` (RFC 5758 §3.2, RFC 9688 §3.2); none for MD5.
pub(crate) fn ecdsa_with(digest: Digest) -> Option<&'static [u8]> {
    Some(match digest {
        Digest::Md5 => return None,
        Digest::Sha1 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1],
        Digest::Sha224 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 1],
        Digest::Sha256 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
        Digest::Sha384 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
        Digest::Sha512 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4],
        Digest::Sha3_256 => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 10],
        Digest::Sha3_384 => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 11],
        Digest::Sha3_512 => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 12],
    })
}

/// `…WithRSAEncryption` (RFC 8017 appendix A.2.4, RFC 9688 §3.1), with OIW's older name for SHA-1.
pub(crate) fn is_with_rsa(digest: Digest, oid: &[u8]) -> bool {
    let pkcs1: &[u8] = match digest {
        Digest::Md5 => &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4],
        Digest::Sha1 => &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5],
        Digest::Sha256 => &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11],
        Digest::Sha384 => &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12],
        Digest::Sha512 => &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13],
        Digest::Sha224 => &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 14],
        Digest::Sha3_256 => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 14],
        Digest::Sha3_384 => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 15],
        Digest::Sha3_512 => &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 16],
    };
    oid == pkcs1 || (digest == Digest::Sha1 && oid == [0x2b, 0x0e, 3, 2, 0x1d])
}
