//! Decryption with a digest beside it, against OpenSSL's two separate ones, and against NIST's own values.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod oracle;

use as2_fused::{BLOCK, CbcDecrypt, GROUP, LaggingSha256, MAX_WAITING, is_open_supported};
use openssl::symm::Mode;
use oracle::{PLAIN, VECTORS, evp, hex};
use proptest::prelude::*;

/// Opens in such pieces, digests what lies in the range, and has OpenSSL take the padding off.
fn open(key: &[u8], iv: &[u8; BLOCK], sealed: &[u8], pieces: &[usize], digested: std::ops::Range<usize>) -> (Vec<u8>, [u8; 32]) {
    let (mut cipher, mut digest) = (CbcDecrypt::new(key, iv).unwrap(), LaggingSha256::new().unwrap());
    let mut plain = Vec::new();
    let mut taken = 0;
    let mut take = |digest: &mut LaggingSha256, plain: &[u8]| {
        let (from, to) = (digested.start.clamp(taken, plain.len()), digested.end.clamp(taken, plain.len()));
        digest.push(&plain[from..to]);
        taken = plain.len();
    };
    let mut left = sealed;
    let mut sizes = pieces.iter().cycle();
    while !left.is_empty() {
        let size = sizes.next().copied().unwrap_or(GROUP);
        let (now, later) = left.split_at(left.len().min(size));
        // Now and then the cipher goes alone; the digest waits or helps itself.
        let beside = (size % 7 != 0).then_some(&mut digest);
        cipher.update(now, &mut plain, beside);
        let seen = sealed.len() - later.len();
        assert_eq!(
            plain.len(),
            (seen - 1) / BLOCK * BLOCK,
            "all but the last block, as an ordinary cipher gives"
        );
        take(&mut digest, &plain);
        left = later;
    }
    let end = cipher.remainder();
    plain.extend(evp(Mode::Decrypt, key, &end.iv, &end.rest, true));
    take(&mut digest, &plain);
    (plain, digest.finish())
}

/// Said aloud, because every other test here is empty on such a machine.
fn absent() -> bool {
    if !is_open_supported() {
        eprintln!("this machine has no AES-NI or no SHA-NI: nothing to test");
    }
    !is_open_supported()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_message_in_any_pieces_is_as_openssl_opens_it(
        (plain, from, to) in prop_oneof![
            (0usize..700).boxed(),
            (0usize..40_000).boxed(),
        ].prop_flat_map(|length| (prop::collection::vec(any::<u8>(), length), 0..=length, 0..=length)),
        pieces in prop::collection::vec(prop_oneof![1usize..200, 1usize..9_000], 1..6),
        key in prop::collection::vec(any::<u8>(), 32),
        key_len in prop::sample::select(vec![16usize, 24, 32]),
        iv in any::<[u8; BLOCK]>(),
    ) {
        if absent() {
            return Ok(());
        }
        let key = &key[..key_len];
        let range = from.min(to)..from.max(to);
        let sealed = evp(Mode::Encrypt, key, &iv, &plain, true);
        let (opened, digest) = open(key, &iv, &sealed, &pieces, range.clone());
        prop_assert_eq!(&opened, &plain);
        prop_assert_eq!(digest, openssl::sha::sha256(&plain[range]));
    }

    /// The digest by itself, given bytes that may wait and bytes that may not.
    #[test]
    fn a_digest_waits_or_does_not(steps in prop::collection::vec((any::<bool>(), 0usize..MAX_WAITING), 0..8)) {
        if absent() {
            return Ok(());
        }
        let (mut digest, mut expected) = (LaggingSha256::new().unwrap(), openssl::sha::Sha256::new());
        for (n, (waits, length)) in steps.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 31 + n) as u8).collect();
            if waits { digest.push(&bytes) } else { digest.update(&bytes) }
            expected.update(&bytes);
        }
        prop_assert_eq!(digest.finish(), expected.finish());
    }
}

/// Every length around the borders of blocks, groups and the digest's padding.
#[test]
fn every_short_length() {
    if absent() {
        return;
    }
    let (key, iv) = ([7u8; 32], [9u8; BLOCK]);
    let plain: Vec<u8> = (0..4 * GROUP as u32).map(|i| ((i * 37) >> 2) as u8).collect();
    for length in 0..=plain.len() {
        let sealed = evp(Mode::Encrypt, &key, &iv, &plain[..length], true);
        for piece in [1, 15, 16, 17, 63, 64, 65, 1000] {
            let (opened, digest) = open(&key, &iv, &sealed, &[piece], 0..length);
            assert_eq!(opened, &plain[..length], "{length} bytes by {piece}");
            assert_eq!(digest, openssl::sha::sha256(&plain[..length]), "{length} bytes by {piece}");
        }
    }
}

/// NIST SP 800-38A F.2.2, F.2.4, F.2.6.
#[test]
fn the_vectors_of_sp_800_38a() {
    if absent() {
        return;
    }
    let iv: [u8; BLOCK] = std::array::from_fn(|i| i as u8);
    let plain = hex(PLAIN);
    for (key, sealed) in VECTORS {
        let mut cipher = CbcDecrypt::new(&hex(key), &iv).unwrap();
        let mut out = Vec::new();
        // One byte more, so that nothing of the vector is held back.
        cipher.update(&[hex(sealed), vec![0]].concat(), &mut out, None);
        assert_eq!(out, plain);
    }
}

#[test]
fn keys_that_are_none_of_aes_are_refused() {
    for length in [0, 8, 15, 17, 31, 33, 64] {
        assert!(CbcDecrypt::new(&vec![0; length], &[0; BLOCK]).is_none());
    }
}
