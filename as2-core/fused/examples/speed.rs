//! SHA-256 and AES-CBC one after the other by OpenSSL, and both at once by the kernels: MB per CPU second, by turns.
//!
//! `speed [RUNS]` (default 5); medians are printed.
// An example may read files; the library may not.
#![allow(clippy::expect_used, clippy::disallowed_methods)]

use std::hint::black_box;

use as2_fused::{CbcDecrypt, FusedCbcSha256, LaggingSha256};
use openssl::symm::{Cipher, Crypter, Mode};

/// Bytes of one run.
const TOTAL: usize = 256 << 20;
/// Bytes at once, as the gateway reads them.
const PIECE: usize = 256 * 1024;
/// Bytes that are opened at once: digested while the next ones are decrypted, out of a cache that is near.
const OPENED: usize = 64 * 1024;

fn main() {
    let runs = std::env::args().nth(1).map_or(5, |word| word.parse().expect("a number of runs"));
    let piece: Vec<u8> = (0..PIECE as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (key_len, cipher) in [
        (16, Cipher::aes_128_cbc()),
        (24, Cipher::aes_192_cbc()),
        (32, Cipher::aes_256_cbc()),
    ] {
        let key = vec![5u8; key_len];
        let rates = [Mode::Encrypt, Mode::Decrypt].map(|mode| {
            let mut rates = [const { Vec::new() }; 5];
            for _ in 0..runs {
                let all = run(mode, cipher, &key, &piece).expect("this machine has no AES-NI or no SHA-NI");
                rates.iter_mut().zip(all).for_each(|(rates, rate)| rates.push(rate));
            }
            rates.map(|mut rates: Vec<f64>| {
                rates.sort_by(f64::total_cmp);
                rates[rates.len() / 2]
            })
        });
        for ([sha, aes, series, alone, fused], word) in rates.into_iter().zip(["encrypt", "decrypt"]) {
            let bits = key_len * 8;
            println!(
                "AES-{bits}-CBC {word} {aes:.0} ({alone:.0})  SHA-256 {sha:.0}  in series {series:.0}  fused {fused:.0} MB/cpu-s  {:.2} x",
                fused / series
            );
        }
    }
}

/// The digest, the cipher, both in series; of opening, the kernel's cipher alone; fused.
fn run(mode: Mode, cipher: Cipher, key: &[u8], piece: &[u8]) -> Option<[f64; 5]> {
    let mut out = vec![0; PIECE + 16];
    let mut sha = openssl::sha::Sha256::new();
    let mut crypter = Crypter::new(cipher, mode, key, Some(&[0; 16])).expect("AES");
    let digest = rate(|| sha.update(piece));
    let aes = rate(|| crypt(&mut crypter, piece, &mut out));
    let series = rate(|| {
        sha.update(piece);
        crypt(&mut crypter, piece, &mut out);
    });
    let mut alone = f64::NAN;
    let fused = if matches!(mode, Mode::Encrypt) {
        let mut fused = FusedCbcSha256::new(key, &[0; 16])?;
        let fast = rate(|| {
            out.clear();
            fused.update(piece, &mut out);
        });
        black_box(fused.finish().digest);
        fast
    } else {
        let (mut cipher, mut sha) = CbcDecrypt::new(key, &[0; 16]).zip(LaggingSha256::new())?;
        alone = rate(|| {
            out.clear();
            cipher.update(piece, &mut out, None);
        });
        let fast = rate(|| {
            for piece in piece.chunks(OPENED) {
                out.clear();
                cipher.update(piece, &mut out, Some(&mut sha));
                sha.push(&out);
            }
        });
        black_box(sha.finish());
        fast
    };
    black_box((sha.finish(), out));
    Some([digest, aes, series, alone, fused])
}

fn crypt(crypter: &mut Crypter, from: &[u8], to: &mut [u8]) {
    crypter.update(from, to).expect("room for the other text");
}

fn rate(mut step: impl FnMut()) -> f64 {
    let began = cpu_seconds();
    (0..TOTAL / PIECE).for_each(|_| step());
    TOTAL as f64 / 1e6 / (cpu_seconds() - began)
}

/// Seconds that this thread was on a processor (Linux).
fn cpu_seconds() -> f64 {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the scheduler's figures");
    let nanoseconds: u64 = schedstat.split(' ').next().unwrap_or_default().parse().expect("nanoseconds");
    nanoseconds as f64 / 1e9
}
