//! The fused stream against OpenSSL's two separate ones, and against NIST's own values.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod oracle;

use as2_fused::{BLOCK, FusedCbcSha256, GROUP, is_supported};
use openssl::symm::Mode;
use oracle::{PLAIN, VECTORS, evp, hex};
use proptest::prelude::*;

/// Ciphertext with padding, and digest: fused as far as it goes, then handed over to OpenSSL.
fn fused(key: &[u8], iv: &[u8; BLOCK], plain: &[u8], pieces: &[usize], head: usize, tail: usize) -> (Vec<u8>, [u8; 32]) {
    let (before, rest) = plain.split_at(head);
    let (hashed, after) = rest.split_at(rest.len() - tail);
    let mut sealed = evp(Mode::Encrypt, key, iv, before, false);
    let start = sealed.last_chunk().unwrap_or(iv);
    let mut stream = FusedCbcSha256::new(key, start).unwrap();
    let mut left = hashed;
    let mut sizes = pieces.iter().cycle();
    while !left.is_empty() {
        let (now, later) = left.split_at(left.len().min(sizes.next().copied().unwrap_or(GROUP)));
        let whole = sealed.len();
        let room = stream.fits(now.len());
        stream.update(now, &mut sealed);
        assert!(sealed.len() - whole <= now.len() / GROUP * GROUP + GROUP);
        assert!(now.len() > room || sealed.len() - whole <= now.len(), "fits() is an upper bound");
        left = later;
    }
    let end = stream.finish();
    assert!(end.rest.len() < GROUP);
    let last = [end.rest.as_slice(), after].concat();
    sealed.extend(evp(Mode::Encrypt, key, &end.iv, &last, true));
    (sealed, end.digest)
}

/// Said aloud, because every other test here is empty on such a machine.
fn absent() -> bool {
    if !is_supported() {
        eprintln!("this machine has no AES-NI or no SHA-NI: nothing to test");
    }
    !is_supported()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_message_in_any_pieces_is_as_openssl_makes_it(
        (plain, head, tail) in prop_oneof![
            (0usize..700).boxed(),
            (0usize..40_000).boxed(),
        ].prop_flat_map(|length| (
            prop::collection::vec(any::<u8>(), length),
            (0..=length / BLOCK).prop_map(|blocks| blocks * BLOCK),
            0..=length,
        )),
        pieces in prop::collection::vec(prop_oneof![1usize..200, 1usize..9_000], 1..6),
        key in prop::collection::vec(any::<u8>(), 32),
        key_len in prop::sample::select(vec![16usize, 24, 32]),
        iv in any::<[u8; BLOCK]>(),
    ) {
        if absent() {
            return Ok(());
        }
        let key = &key[..key_len];
        let tail = tail.min(plain.len() - head);
        let (sealed, digest) = fused(key, &iv, &plain, &pieces, head, tail);
        prop_assert_eq!(sealed, evp(Mode::Encrypt, key, &iv, &plain, true));
        prop_assert_eq!(digest, openssl::sha::sha256(&plain[head..plain.len() - tail]));
    }
}

/// Every length around the borders of groups and of the digest's padding.
#[test]
fn every_short_length() {
    if absent() {
        return;
    }
    let (key, iv) = ([7u8; 32], [9u8; BLOCK]);
    let plain: Vec<u8> = (0..4 * GROUP as u32).map(|i| ((i * 37) >> 2) as u8).collect();
    for length in 0..=plain.len() {
        for piece in [1, 63, 64, 65, 1000] {
            let (sealed, digest) = fused(&key, &iv, &plain[..length], &[piece], 0, 0);
            assert_eq!(
                sealed,
                evp(Mode::Encrypt, &key, &iv, &plain[..length], true),
                "{length} bytes by {piece}"
            );
            assert_eq!(digest, openssl::sha::sha256(&plain[..length]), "{length} bytes by {piece}");
        }
    }
}

/// NIST SP 800-38A F.2.1, F.2.3, F.2.5: four blocks, which are one group.
#[test]
fn the_vectors_of_sp_800_38a() {
    if absent() {
        return;
    }
    let iv: [u8; BLOCK] = std::array::from_fn(|i| i as u8);
    let plain = hex(PLAIN);
    for (key, sealed) in VECTORS {
        let mut stream = FusedCbcSha256::new(&hex(key), &iv).unwrap();
        let mut out = Vec::new();
        stream.update(&plain, &mut out);
        assert_eq!(out, hex(sealed));
        assert_eq!(stream.finish().iv.as_slice(), &out[48..]);
    }
}

/// FIPS 180-4's examples: no bytes, `abc`, 56 bytes (padding in a second block), a million times `a`.
#[test]
fn the_examples_of_sha_256() {
    if absent() {
        return;
    }
    let digest = |message: &[u8]| {
        let mut stream = FusedCbcSha256::new(&[0; 16], &[0; BLOCK]).unwrap();
        stream.update(message, &mut Vec::new());
        stream.finish().digest.to_vec()
    };
    let expected = [
        (Vec::new(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc".to_vec(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq".to_vec(),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (
            vec![b'a'; 1_000_000],
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
        ),
    ];
    for (message, value) in expected {
        assert_eq!(digest(&message), hex(value));
    }
}

#[test]
fn keys_that_are_none_of_aes_are_refused() {
    for length in [0, 8, 15, 17, 31, 33, 64] {
        assert!(FusedCbcSha256::new(&vec![0; length], &[0; BLOCK]).is_none());
    }
}
