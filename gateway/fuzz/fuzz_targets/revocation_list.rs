//! OpenSSH's binary revocation lists: whatever the bytes, no panic, and no more memory than a few times their number.
#![no_main]
#![allow(dead_code, reason = "the files are included as they are")]

#[path = "../../../keystore/src/ssh/krl.rs"]
mod krl;
#[path = "../../../keystore/src/ssh/wire.rs"]
mod wire;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // With the magic in front, so that not every input has to find it.
    let list = [&krl::MAGIC[..], data].concat();
    let Ok(read) = krl::parse(&list) else { return };
    let mut held = read.keys.iter().map(Vec::len).sum::<usize>() + read.sha1.len() * 20 + read.sha256.len() * 32;
    for certificates in &read.certificates {
        held += certificates.authority.as_ref().map_or(0, Vec::len) + certificates.serials.len() * 8;
        // An invalid byte of a name may become three.
        held += certificates.ids.iter().map(String::len).sum::<usize>() / 3;
        for serial in [0, 1, 7, 8, u64::from(u32::MAX), u64::MAX] {
            let _ = certificates.bitmaps.iter().any(|bits| bits.has(serial));
        }
        assert!(certificates.serials.iter().all(|(first, last)| 0 < *first && first <= last));
    }
    assert!(held <= data.len(), "{held} bytes out of {}", data.len());
});
