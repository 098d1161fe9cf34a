//! SHA-256 and AES-CBC one after the other by OpenSSL, and both at once by the kernel: MB per CPU second, by turns.
//!
//! `speed [RUNS]` (default 5); medians are printed.
// An example may read files; the library may not.
#![allow(clippy::expect_used, clippy::disallowed_methods)]

use std::hint::black_box;

use as2_fused::FusedCbcSha256;
use openssl::symm::{Cipher, Crypter, Mode};

/// Bytes of one run.
const TOTAL: usize = 256 << 20;
/// Bytes at once, as the gateway reads them.
const PIECE: usize = 256 * 1024;

fn main() {
    let runs = std::env::args().nth(1).map_or(5, |word| word.parse().expect("a number of runs"));
    let piece: Vec<u8> = (0..PIECE as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (key_len, cipher) in [
        (16, Cipher::aes_128_cbc()),
        (24, Cipher::aes_192_cbc()),
        (32, Cipher::aes_256_cbc()),
    ] {
        let key = vec![5u8; key_len];
        let mut rates = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..runs {
            let mut out = vec![0; PIECE + 16];
            let mut sha = openssl::sha::Sha256::new();
            let mut crypter = Crypter::new(cipher, Mode::Encrypt, &key, Some(&[0; 16])).expect("AES");
            rates[0].push(rate(|| sha.update(&piece)));
            rates[1].push(rate(|| encrypt(&mut crypter, &piece, &mut out)));
            rates[2].push(rate(|| {
                sha.update(&piece);
                encrypt(&mut crypter, &piece, &mut out);
            }));
            let Some(mut fused) = FusedCbcSha256::new(&key, &[0; 16]) else {
                return println!("this machine has no AES-NI or no SHA-NI");
            };
            rates[3].push(rate(|| {
                out.clear();
                fused.update(&piece, &mut out);
            }));
            black_box((sha.finish(), out, fused.finish().digest));
        }
        let [sha, aes, series, fused] = rates.map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        });
        let bits = key_len * 8;
        println!(
            "AES-{bits}-CBC {aes:.0}  SHA-256 {sha:.0}  in series {series:.0}  fused {fused:.0} MB/cpu-s  {:.2} x",
            fused / series
        );
    }
}

fn encrypt(crypter: &mut Crypter, plain: &[u8], out: &mut [u8]) {
    crypter.update(plain, out).expect("room for the ciphertext");
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
