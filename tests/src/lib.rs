//! The harness of the whole-system tests: real processes, real clients, files and sockets; nothing of the product is
//! linked in. What a test sees is what an operator, an SFTP user or a trading partner sees.

// Everything here runs inside of tests, where a panic with its place is the wanted report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod gateway;
pub mod packets;
pub mod pair;
pub mod peer;
pub mod process;
pub mod relay;
pub mod sftp;
pub mod shared;
pub mod wire;

pub use gateway::Gateway;
pub use pair::{Pair, Parcel};
pub use process::{Ran, wait_for};
pub use sftp::Sftp;
pub use shared::Shared;

use std::path::Path;

/// Bytes that no compression shortens and that differ per seed.
#[must_use]
pub fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// A small X12 order with CRLF line ends; `number` makes it unlike the others.
#[must_use]
pub fn order(number: u32) -> Vec<u8> {
    let lines = [
        format!("ISA*00*          *00*          *ZZ*ALICE          *ZZ*BOB            *261122*1500*U*00401*{number:09}*0*T*>~"),
        format!("GS*PO*ALICE*BOB*20261122*1500*{number}*X*004010~"),
        "ST*850*0001~".to_owned(),
        format!("BEG*00*SA*PO-{number:06}**20261122~"),
        "PO1*1*12*EA*4.50**VP*PART-0001~".to_owned(),
        "CTT*1~".to_owned(),
        "SE*5*0001~".to_owned(),
        format!("GE*1*{number}~"),
        format!("IEA*1*{number:09}~"),
    ];
    lines.map(|line| line + "\r\n").concat().into_bytes()
}

/// A small generator (SplitMix64): the same numbers for the same seed, on every machine.
pub struct Random(u64);

impl Random {
    /// Starts at a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// The names in a directory, sorted; none if it is not there.
#[must_use]
pub fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Every file below a directory, sorted, as paths relative to it.
#[must_use]
pub fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        let Ok(entries) = std::fs::read_dir(&at) else { continue };
        for entry in entries.map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(dir).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}
