//! Packages and opens from memory to memory, so that the processor alone is measured.
//!
//! Pieces of 256 KiB go in, and what comes out lies in a buffer that is used again. `series_out` and `series_in` are OpenSSL's
//! SHA-256 and AES-256-CBC one after the other over the same pieces, without any file format: the ceiling of one core.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use as2_core::cert::{Certificate, Identity};
use as2_core::compose::{Composed, Composer, Finished};
use as2_core::headers::Headers;
use as2_core::helper::Helper;
use as2_core::kernel::Kernel;
use as2_core::receive::{PartInfo, PayloadSink, Receiver, SinkError};
use openssl::symm::{Cipher, Crypter, Mode};

use super::{PIECE, Result, identity, incoming, outgoing};

/// One way to work through the payload.
type Way = fn(&Bench) -> Result<()>;

const WAYS: [(&str, Way); 8] = [
    ("series_out", encrypt_in_series),
    ("separate", |bench| pack(bench, Kernel::Separate, None, |_| ()).map(drop)),
    ("separate_helped", |bench| pack(bench, Kernel::Separate, helper(), |_| ()).map(drop)),
    ("fused", |bench| pack(bench, Kernel::Fused, None, |_| ()).map(drop)),
    ("series_in", decrypt_in_series),
    ("open", |bench| unpack(bench, Kernel::Separate, None)),
    ("open_helped", |bench| unpack(bench, Kernel::Fused, helper())),
    ("open_fused", |bench| unpack(bench, Kernel::Fused, None)),
];

/// A thread for every job. What it cost is known once the job has given its result.
struct Threads;

/// Nanoseconds that helping threads were on a processor.
static HELPED: AtomicU64 = AtomicU64::new(0);

impl Helper for Threads {
    fn run(&self, job: Box<dyn FnOnce() + Send>) -> bool {
        std::thread::spawn(|| {
            job();
            HELPED.store(cpu_nanoseconds().unwrap_or_default(), Ordering::Release);
        });
        true
    }
}

fn helper() -> Option<Arc<dyn Helper>> {
    Some(Arc::new(Threads))
}

/// What the ways work on.
struct Bench {
    alice: Identity,
    bob: [Identity; 1],
    signers: [Certificate; 1],
    /// The payload is this piece, so many times.
    piece: Vec<u8>,
    pieces: u64,
    headers: Headers,
    body: Vec<u8>,
}

/// Gives for each way its rates in MB per CPU second of its busier thread and per second of wall time, as JSON.
pub(super) fn speed(keys: &Path, size: &str) -> Result<String> {
    let (alice, bob) = (identity(keys, "alice")?, [identity(keys, "bob")?]);
    let mut bench = Bench {
        signers: [alice.certificate().clone()],
        alice,
        bob,
        piece: vec![0u8; PIECE],
        pieces: size.parse::<u64>()? << 20 >> PIECE.ilog2(),
        headers: Headers::new(),
        body: Vec::new(),
    };
    openssl::rand::rand_bytes(&mut bench.piece)?;
    let mut body = Vec::with_capacity(bench.piece.len() * (bench.pieces as usize + 1));
    bench.headers = pack(&bench, Kernel::Fused, None, |out| body.extend_from_slice(out))?.headers;
    bench.body = body;
    let rate = |seconds: f64| (bench.pieces * PIECE as u64) as f64 / 1e6 / seconds;
    let mut rates = Vec::new();
    for (name, way) in WAYS {
        HELPED.store(0, Ordering::Release);
        let began = (cpu_nanoseconds()?, Instant::now());
        way(&bench)?;
        let wall = began.1.elapsed().as_secs_f64();
        let own = cpu_nanoseconds()? - began.0;
        while name.ends_with("helped") && HELPED.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        let cpu = own.max(HELPED.load(Ordering::Acquire)) as f64 / 1e9;
        rates.push(format!("\"{name}\": {{\"cpu\": {:.1}, \"wall\": {:.1}}}", rate(cpu), rate(wall)));
    }
    let supported = as2_fused::is_supported() && as2_fused::is_open_supported();
    Ok(format!("{{{}, \"supported\": {supported}}}", rates.join(", ")))
}

fn encrypt_in_series(bench: &Bench) -> Result<()> {
    let mut sha = openssl::sha::Sha256::new();
    let mut cipher = Crypter::new(Cipher::aes_256_cbc(), Mode::Encrypt, &[7; 32], Some(&[9; 16]))?;
    let mut out = vec![0u8; PIECE + 16];
    for _ in 0..bench.pieces {
        sha.update(&bench.piece);
        cipher.update(&bench.piece, &mut out)?;
    }
    std::hint::black_box((sha.finish(), out));
    Ok(())
}

fn decrypt_in_series(bench: &Bench) -> Result<()> {
    let mut sha = openssl::sha::Sha256::new();
    let mut cipher = Crypter::new(Cipher::aes_256_cbc(), Mode::Decrypt, &[7; 32], Some(&[9; 16]))?;
    let mut out = vec![0u8; PIECE + 16];
    for piece in bench.body.chunks(PIECE) {
        let n = cipher.update(piece, &mut out)?;
        sha.update(out.get(..n).unwrap_or_default());
    }
    std::hint::black_box(sha.finish());
    Ok(())
}

fn pack(bench: &Bench, kernel: Kernel, helper: Option<Arc<dyn Helper>>, mut take: impl FnMut(&[u8])) -> Result<Composed> {
    let outgoing = outgoing(&bench.alice, &bench.bob[0], None, bench.pieces * PIECE as u64)?;
    let mut composer = Composer::with_kernel(outgoing, kernel)?;
    if let Some(helper) = helper {
        composer = composer.with_helper(helper);
    }
    let mut out = Vec::with_capacity(PIECE + 4096);
    for _ in 0..bench.pieces {
        composer.push(&bench.piece, &mut out)?;
        take(&out);
        out.clear();
    }
    let Finished::Done(composed) = composer.finish(&mut out)? else {
        return Err("a second pass without compression".into());
    };
    take(&out);
    Ok(*composed)
}

fn unpack(bench: &Bench, kernel: Kernel, helper: Option<Arc<dyn Helper>>) -> Result<()> {
    let mut receiver = Receiver::new(incoming(&bench.headers, &bench.bob, &bench.signers))?.with_kernel(kernel);
    if let Some(helper) = helper {
        receiver = receiver.with_helper(helper);
    }
    let mut sink = InMemory(0);
    for piece in bench.body.chunks(PIECE) {
        receiver.push(piece, &mut sink)?;
    }
    receiver.finish(&mut sink)?;
    if sink.0 == bench.pieces * PIECE as u64 {
        Ok(())
    } else {
        Err("not all of the payload came".into())
    }
}

/// How long this thread was on a processor (Linux).
fn cpu_nanoseconds() -> Result<u64> {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(schedstat.split(' ').next().unwrap_or_default().parse()?)
}

/// Finds the payload in the receiver's own buffer, and counts it.
struct InMemory(u64);

impl PayloadSink for InMemory {
    fn part(&mut self, _: PartInfo) -> std::result::Result<(), SinkError> {
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> std::result::Result<(), SinkError> {
        self.0 += std::hint::black_box(bytes).len() as u64;
        Ok(())
    }

    fn part_end(&mut self) -> std::result::Result<(), SinkError> {
        Ok(())
    }
}
