//! Decompression: CompressedData, bombs included.
#![no_main]

use as2_core::Error;
use as2_core::cms::Inflater;
use as2_core_fuzz::{MAX_PAYLOAD, both_ways, settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((settings, cms)) = settings(data) else { return };
    both_ways(settings, cms, |pieces| {
        let (mut inflater, mut plain) = (Inflater::new(MAX_PAYLOAD), Vec::new());
        let mut sink = |bytes: &[u8]| -> Result<(), Error> {
            assert!(bytes.len() <= 64 << 10, "more than 64 KiB at once");
            plain.extend_from_slice(bytes);
            assert!(plain.len() as u64 <= MAX_PAYLOAD, "more than allowed");
            Ok(())
        };
        for piece in pieces {
            inflater.push(piece, &mut sink)?;
        }
        inflater.finish(&mut sink)?;
        Ok(plain)
    });
});
