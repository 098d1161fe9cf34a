//! The kernels for x86-64 with AES-NI and SHA-NI: sealing here, opening in `x86/open.rs`.

#[path = "x86/open.rs"]
mod open;

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use zeroize::Zeroizing;

use crate::{BLOCK, DIGEST, GROUP};

pub(crate) use open::{OpenKernel, ShaKernel};

/// Round keys; on the heap, so that a move leaves no copy behind.
type Keys = Box<Zeroizing<[[u8; BLOCK]; MAX_KEYS]>>;

/// Round keys of the longest key: 14 rounds and the first whitening (FIPS 197 §5.2).
const MAX_KEYS: usize = 15;
/// "Rounds" of the run that only hashes.
const HASH_ONLY: usize = 0;

/// Initial hash value (FIPS 180-4 §5.3.3).
const H: [u32; 8] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];

/// Constants of the 64 rounds (FIPS 180-4 §4.2.2), by fours.
#[rustfmt::skip]
const K: [[u32; 4]; 16] = [
    [0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5], [0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5],
    [0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3], [0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174],
    [0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc], [0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da],
    [0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7], [0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967],
    [0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13], [0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85],
    [0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3], [0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070],
    [0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5], [0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3],
    [0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208], [0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2],
];

/// Cipher and digest at work. It exists only where the instructions do.
pub(crate) struct Kernel {
    keys: Keys,
    rounds: usize,
    chain: [u8; BLOCK],
    hash: [u32; 8],
}

impl Kernel {
    /// `None` where an instruction is missing, or for a key that is none of AES.
    pub(crate) fn new(key: &[u8], iv: &[u8; BLOCK]) -> Option<Self> {
        if !is_present() || !matches!(key.len(), 16 | 24 | 32) {
            return None;
        }
        // SAFETY: the processor has AES-NI, as was just asked.
        let keys = unsafe { expand(key) };
        Some(Kernel {
            keys,
            rounds: key.len() / 4 + 6,
            chain: *iv,
            hash: H,
        })
    }

    /// Encrypts and hashes; writes exactly the groups of `sealed`, of which there must be as many as plain ones.
    pub(crate) fn run(&mut self, plain: &[[u8; GROUP]], sealed: &mut [[MaybeUninit<u8>; GROUP]]) {
        assert_eq!(plain.len(), sealed.len(), "room for all ciphertext");
        let Kernel { keys, chain, hash, .. } = self;
        match self.rounds {
            // SAFETY: a Kernel is made only where AES-NI, SHA-NI, SSE4.1 and SSSE3 are.
            10 => unsafe { interleave::<10>(keys, chain, hash, plain, sealed) },
            // SAFETY: as above.
            12 => unsafe { interleave::<12>(keys, chain, hash, plain, sealed) },
            // SAFETY: as above.
            _ => unsafe { interleave::<14>(keys, chain, hash, plain, sealed) },
        }
    }

    /// The chaining value: the last block of ciphertext.
    pub(crate) fn chain(&self) -> [u8; BLOCK] {
        self.chain
    }

    /// Hashes the last block or two, padding included, and gives the digest.
    pub(crate) fn digest(&mut self, blocks: &[[u8; GROUP]]) -> [u8; DIGEST] {
        let mut nothing = [[MaybeUninit::uninit(); GROUP]; 2];
        assert!(blocks.len() <= nothing.len(), "one block or two");
        let Kernel { keys, chain, hash, .. } = self;
        // SAFETY: a Kernel is made only where AES-NI, SHA-NI, SSE4.1 and SSSE3 are.
        unsafe { interleave::<HASH_ONLY>(keys, chain, hash, blocks, &mut nothing) };
        value_of(hash)
    }
}

/// The hash value as bytes (FIPS 180-4 §6.2.2, end).
fn value_of(hash: &[u32; 8]) -> [u8; DIGEST] {
    let mut digest = [0; DIGEST];
    for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(hash) {
        *bytes = word.to_be_bytes();
    }
    digest
}

/// The round keys, which are to be read from their one place each time: a copy on the stack would outlive the wipe. The compiler
/// would make one ahead of a loop if it knew that they are the same.
#[inline(always)]
fn in_place(keys: &[[u8; BLOCK]; MAX_KEYS]) -> &[[u8; BLOCK]; MAX_KEYS] {
    std::hint::black_box(keys)
}

/// Whether the processor has the instructions.
fn is_present() -> bool {
    is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("sse4.1")
        && is_x86_feature_detected!("ssse3")
}

/// The round keys of 4·(rounds + 1) words (FIPS 197 §5.2). SubWord is an instruction here, so no table is read at a place
/// that depends on the key.
#[target_feature(enable = "aes,sse2")]
fn expand(key: &[u8]) -> Keys {
    let length = key.len() / 4;
    let words = 4 * (length + 7);
    // Of `aeskeygenassist`, the lowest word is SubWord of the second.
    let sub_word = |word: u32| _mm_cvtsi128_si32(_mm_aeskeygenassist_si128::<0>(_mm_set1_epi32(word as i32))) as u32;
    let mut w = Zeroizing::new([0u32; 4 * MAX_KEYS]);
    for (word, bytes) in w.iter_mut().zip(key.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    // In these little-endian words the first byte is the lowest one: RotWord turns right, Rcon goes to the bottom.
    let mut rcon = 1u32;
    for i in length..words {
        let before = w[i - 1];
        let change = if i % length == 0 {
            let change = sub_word(before.rotate_right(8)) ^ rcon;
            rcon = (rcon << 1) ^ if rcon & 0x80 == 0 { 0 } else { 0x11b };
            change
        } else if length == 8 && i % 8 == 4 {
            sub_word(before)
        } else {
            before
        };
        w[i] = w[i - length] ^ change;
    }
    let mut keys = Box::new(Zeroizing::new([[0; BLOCK]; MAX_KEYS]));
    for (bytes, word) in keys.as_flattened_mut().as_chunks_mut().0.iter_mut().zip(w.iter()) {
        *bytes = word.to_le_bytes();
    }
    keys
}

/// For each group: SHA-256's 64 rounds in 16 steps of four, and within each step a quarter of the work on one AES block.
///
/// `R`: rounds of AES, or [`HASH_ONLY`]: then `chain` and `sealed` stay as they are.
#[target_feature(enable = "aes,sha,sse4.1,ssse3")]
fn interleave<const R: usize>(
    keys: &[[u8; BLOCK]; MAX_KEYS],
    chain: &mut [u8; BLOCK],
    hash: &mut [u32; 8],
    plain: &[[u8; GROUP]],
    sealed: &mut [[MaybeUninit<u8>; GROUP]],
) {
    let mut state = pack(hash);
    let mut block = load(chain);
    for (plain, sealed) in plain.iter().zip(sealed) {
        let keys = in_place(keys);
        let mut w = words(plain);
        let (plain, _) = plain.as_chunks();
        let (sealed, _) = sealed.as_chunks_mut();
        let text: [__m128i; 4] = std::array::from_fn(|i| load(&plain[i]));
        // The cipher's first key addition, ahead of its turn.
        let white = text.map(|text| _mm_xor_si128(text, load(&keys[0])));
        let before = state;
        block = _mm_xor_si128(block, white[0]);
        macro_rules! step {
            ($($i:literal)*) => {$(
                four_rounds::<$i>(&mut state, &mut w);
                // A quarter of a block: rounds from..to of 1..R, the last one by itself.
                if R != HASH_ONLY {
                    let (n, quarter) = ($i / 4, $i % 4);
                    let (from, to) = (1 + quarter * (R - 1) / 4, 1 + (quarter + 1) * (R - 1) / 4);
                    for key in &keys[from..to] {
                        block = _mm_aesenc_si128(block, load(key));
                    }
                    if quarter == 3 && n < 3 {
                        // The last key addition takes the next block's plain text along, so that it costs no step of the chain.
                        block = _mm_aesenclast_si128(block, _mm_xor_si128(load(&keys[R]), white[n + 1]));
                        store(&mut sealed[n], _mm_xor_si128(block, white[n + 1]));
                    } else if quarter == 3 {
                        block = _mm_aesenclast_si128(block, load(&keys[R]));
                        store(&mut sealed[n], block);
                    }
                }
            )*};
        }
        step!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        state = add(state, before);
    }
    if R != HASH_ONLY {
        let mut last = [MaybeUninit::uninit(); BLOCK];
        store(&mut last, block);
        // SAFETY: all sixteen bytes were just stored.
        *chain = last.map(|byte| unsafe { byte.assume_init() });
    }
    *hash = unpack(state);
}

/// The hash value in the order that the instructions want: words a, b, e, f and c, d, g, h.
type State = (__m128i, __m128i);

#[inline]
#[target_feature(enable = "sse2")]
fn pack(hash: &[u32; 8]) -> State {
    let [a, b, c, d, e, f, g, h] = hash.map(|word| word as i32);
    (_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h))
}

#[inline]
#[target_feature(enable = "sse4.1")]
fn unpack((abef, cdgh): State) -> [u32; 8] {
    [
        _mm_extract_epi32::<3>(abef) as u32,
        _mm_extract_epi32::<2>(abef) as u32,
        _mm_extract_epi32::<3>(cdgh) as u32,
        _mm_extract_epi32::<2>(cdgh) as u32,
        _mm_extract_epi32::<1>(abef) as u32,
        _mm_extract_epi32::<0>(abef) as u32,
        _mm_extract_epi32::<1>(cdgh) as u32,
        _mm_extract_epi32::<0>(cdgh) as u32,
    ]
}

#[inline]
#[target_feature(enable = "sse2")]
fn add(one: State, other: State) -> State {
    (_mm_add_epi32(one.0, other.0), _mm_add_epi32(one.1, other.1))
}

/// The sixteen words of a block of bytes.
#[inline]
#[target_feature(enable = "ssse3")]
fn words(block: &[u8; GROUP]) -> [__m128i; 4] {
    let big_endian = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let (text, _) = block.as_chunks();
    let mut words = [big_endian; 4];
    for (word, text) in words.iter_mut().zip(text) {
        *word = _mm_shuffle_epi8(load(text), big_endian);
    }
    words
}

/// Rounds 4·I to 4·I + 3, and what they add to the message schedule `w` (FIPS 180-4 §6.2.2).
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn four_rounds<const I: usize>((abef, cdgh): &mut State, w: &mut [__m128i; 4]) {
    let now = w[I & 3];
    let sum = _mm_add_epi32(now, constants(I));
    *cdgh = _mm_sha256rnds2_epu32(*cdgh, *abef, sum);
    if I >= 3 && I < 15 {
        let next = _mm_add_epi32(w[(I + 1) & 3], _mm_alignr_epi8::<4>(now, w[(I + 3) & 3]));
        w[(I + 1) & 3] = _mm_sha256msg2_epu32(next, now);
    }
    *abef = _mm_sha256rnds2_epu32(*abef, *cdgh, _mm_shuffle_epi32::<0x0e>(sum));
    if I >= 1 && I < 13 {
        w[(I + 3) & 3] = _mm_sha256msg1_epu32(w[(I + 3) & 3], now);
    }
}

#[inline(always)]
fn xor(one: __m128i, other: __m128i) -> __m128i {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_xor_si128(one, other) }
}

/// Constants of rounds 4·i to 4·i + 3.
#[inline(always)]
fn constants(i: usize) -> __m128i {
    // SAFETY: the reference is to 16 bytes, and the load needs no alignment. SSE2 is part of x86-64.
    unsafe { _mm_loadu_si128(std::ptr::from_ref(&K[i]).cast()) }
}

/// Sixteen bytes as a vector.
#[inline(always)]
fn load(from: &[u8; BLOCK]) -> __m128i {
    // SAFETY: `from` is 16 bytes, and the load needs no alignment. SSE2 is part of x86-64.
    unsafe { _mm_loadu_si128(from.as_ptr().cast()) }
}

#[inline(always)]
fn store(to: &mut [MaybeUninit<u8>; BLOCK], value: __m128i) {
    // SAFETY: `to` is 16 writable bytes, and the store needs no alignment. SSE2 is part of x86-64.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), value) }
}
