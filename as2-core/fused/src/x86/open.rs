//! Decryption, which is parallel in CBC, in the shadow of SHA-256, which is serial.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use zeroize::Zeroizing;

use super::{H, Keys, MAX_KEYS, add, expand, four_rounds, in_place, is_present, load, pack, store, unpack, value_of, words, xor};
use crate::{BLOCK, DIGEST, GROUP};

/// Blocks of AES beside one block of SHA-256.
const BESIDE: usize = GROUP / BLOCK;
/// How far ahead ciphertext is asked for, in bytes.
const AHEAD: usize = 1024;

/// AES-CBC decryption at work. It exists only where the instructions do.
pub(crate) struct OpenKernel {
    /// Of the equivalent inverse cipher (FIPS 197 §5.3.5), the first one first.
    keys: Keys,
    rounds: usize,
    chain: [u8; BLOCK],
}

/// SHA-256 at work. It exists only where the instructions do.
pub(crate) struct ShaKernel {
    hash: [u32; 8],
}

impl OpenKernel {
    /// `None` where an instruction is missing, or for a key that is none of AES.
    pub(crate) fn new(key: &[u8], iv: &[u8; BLOCK]) -> Option<Self> {
        if !is_present() || !matches!(key.len(), 16 | 24 | 32) {
            return None;
        }
        let rounds = key.len() / 4 + 6;
        // SAFETY: the processor has AES-NI, as was just asked.
        let expanded = unsafe { expand(key) };
        // SAFETY: the same.
        let keys = unsafe { invert(&expanded, rounds) };
        Some(OpenKernel { keys, rounds, chain: *iv })
    }

    /// Decrypts, and hashes other bytes meanwhile. Writes all blocks of `plain`, of which there must be as many as sealed ones.
    pub(crate) fn run(
        &mut self,
        sealed: &[[u8; BLOCK]],
        plain: &mut [[MaybeUninit<u8>; BLOCK]],
        sha: &mut ShaKernel,
        hashed: &[[u8; GROUP]],
    ) {
        assert_eq!(sealed.len(), plain.len(), "room for all plain text");
        let OpenKernel { keys, chain, .. } = self;
        match self.rounds {
            // SAFETY: both kernels are made only where AES-NI, SHA-NI, SSE4.1 and SSSE3 are.
            10 => unsafe { beside::<10>(keys, chain, sealed, plain, &mut sha.hash, hashed) },
            // SAFETY: as above.
            12 => unsafe { beside::<12>(keys, chain, sealed, plain, &mut sha.hash, hashed) },
            // SAFETY: as above.
            _ => unsafe { beside::<14>(keys, chain, sealed, plain, &mut sha.hash, hashed) },
        }
    }

    /// Decrypts alone. Writes all blocks of `plain`, of which there must be as many as sealed ones.
    pub(crate) fn decrypt(&mut self, sealed: &[[u8; BLOCK]], plain: &mut [[MaybeUninit<u8>; BLOCK]]) {
        self.run(sealed, plain, &mut ShaKernel { hash: H }, &[]);
    }

    /// The chaining value: the last block of ciphertext.
    pub(crate) fn chain(&self) -> [u8; BLOCK] {
        self.chain
    }
}

impl ShaKernel {
    /// `None` where an instruction is missing.
    pub(crate) fn new() -> Option<Self> {
        is_present().then_some(ShaKernel { hash: H })
    }

    pub(crate) fn hash(&mut self, blocks: &[[u8; GROUP]]) {
        // SAFETY: a ShaKernel is made only where SHA-NI, SSE4.1 and SSSE3 are.
        unsafe { hash(&mut self.hash, blocks) }
    }

    /// The digest, once the padding was hashed too.
    pub(crate) fn value(&self) -> [u8; DIGEST] {
        value_of(&self.hash)
    }
}

/// The round keys in the other direction.
#[target_feature(enable = "aes")]
fn invert(forward: &[[u8; BLOCK]; MAX_KEYS], rounds: usize) -> Keys {
    let mut keys = Keys::new(Zeroizing::new([[0; BLOCK]; MAX_KEYS]));
    for (i, key) in keys.iter_mut().take(rounds + 1).enumerate() {
        *key = forward[rounds - i];
        if i != 0 && i != rounds {
            let mixed = _mm_aesimc_si128(load(key));
            // SAFETY: `key` is 16 writable bytes, and the store needs no alignment.
            unsafe { _mm_storeu_si128(key.as_mut_ptr().cast(), mixed) };
        }
    }
    keys
}

/// For each block of SHA-256, its 64 rounds in 16 steps of four, and within each step a round or none on four blocks of AES. What
/// is longer, the ciphertext or what is hashed, goes on alone.
#[target_feature(enable = "aes,sha,sse4.1,ssse3")]
fn beside<const R: usize>(
    keys: &[[u8; BLOCK]; MAX_KEYS],
    chain: &mut [u8; BLOCK],
    sealed: &[[u8; BLOCK]],
    plain: &mut [[MaybeUninit<u8>; BLOCK]],
    digest: &mut [u32; 8],
    hashed: &[[u8; GROUP]],
) {
    let (groups, last) = sealed.as_chunks::<BESIDE>();
    let (room, last_room) = plain.as_chunks_mut::<BESIDE>();
    let both = groups.len().min(hashed.len());
    let (now, alone) = groups.split_at(both);
    let (now_room, alone_room) = room.split_at_mut(both);
    let (now_hashed, hashed_alone) = hashed.split_at(both);

    let mut before = load(chain);
    let mut state = pack(digest);
    for ((sealed, plain), hashed) in now.iter().zip(now_room).zip(now_hashed) {
        let keys = in_place(keys);
        fetch(sealed);
        let mut w = words(hashed);
        let start = state;
        let mut blocks = begin(keys, sealed);
        macro_rules! step {
            ($($i:literal)*) => {$(
                four_rounds::<$i>(&mut state, &mut w);
                for key in &keys[1 + $i * (R - 1) / 16..1 + ($i + 1) * (R - 1) / 16] {
                    round(key, &mut blocks);
                }
            )*};
        }
        step!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        before = finish::<R, BESIDE>(keys, before, sealed, &blocks, plain);
        state = add(state, start);
    }
    *digest = unpack(state);
    for (sealed, plain) in alone.iter().zip(alone_room) {
        before = decrypt::<R, BESIDE>(keys, before, sealed, plain);
    }
    for (sealed, plain) in last.iter().zip(last_room) {
        before = decrypt::<R, 1>(keys, before, std::array::from_ref(sealed), std::array::from_mut(plain));
    }
    if let Some(last) = sealed.last() {
        *chain = *last;
    }
    hash(digest, hashed_alone);
}

/// Some blocks at once, without a digest.
#[inline]
#[target_feature(enable = "aes")]
fn decrypt<const R: usize, const N: usize>(
    keys: &[[u8; BLOCK]; MAX_KEYS],
    before: __m128i,
    sealed: &[[u8; BLOCK]; N],
    plain: &mut [[MaybeUninit<u8>; BLOCK]; N],
) -> __m128i {
    let keys = in_place(keys);
    let mut blocks = begin(keys, sealed);
    for key in &keys[1..R] {
        round(key, &mut blocks);
    }
    finish::<R, N>(keys, before, sealed, &blocks, plain)
}

/// Asks for ciphertext that comes soon: it may lie in memory, across the border of a page, where the processor does not look
/// ahead by itself.
#[inline(always)]
fn fetch(sealed: &[[u8; BLOCK]; BESIDE]) {
    let ahead = sealed.as_ptr().wrapping_byte_add(AHEAD);
    // SAFETY: a hint; nothing is read, wherever it points. SSE is part of x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.cast()) };
}

/// The blocks with the first key added.
#[inline(always)]
fn begin<const N: usize>(keys: &[[u8; BLOCK]; MAX_KEYS], sealed: &[[u8; BLOCK]; N]) -> [__m128i; N] {
    std::array::from_fn(|i| xor(load(&sealed[i]), load(&keys[0])))
}

#[inline]
#[target_feature(enable = "aes")]
fn round<const N: usize>(key: &[u8; BLOCK], blocks: &mut [__m128i; N]) {
    for block in blocks {
        *block = _mm_aesdec_si128(*block, load(key));
    }
}

/// The last round, and what CBC adds to each block: the ciphertext before it. Gives the last ciphertext.
#[inline]
#[target_feature(enable = "aes")]
fn finish<const R: usize, const N: usize>(
    keys: &[[u8; BLOCK]; MAX_KEYS],
    before: __m128i,
    sealed: &[[u8; BLOCK]; N],
    blocks: &[__m128i; N],
    plain: &mut [[MaybeUninit<u8>; BLOCK]; N],
) -> __m128i {
    let mut before = before;
    for ((sealed, block), plain) in sealed.iter().zip(blocks).zip(plain) {
        store(plain, _mm_aesdeclast_si128(*block, xor(load(&keys[R]), before)));
        before = load(sealed);
    }
    before
}

/// SHA-256 alone.
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn hash(digest: &mut [u32; 8], blocks: &[[u8; GROUP]]) {
    let mut state = pack(digest);
    for block in blocks {
        let mut w = words(block);
        let start = state;
        macro_rules! step {
            ($($i:literal)*) => {$( four_rounds::<$i>(&mut state, &mut w); )*};
        }
        step!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        state = add(state, start);
    }
    *digest = unpack(state);
}
