//! Decryption: EnvelopedData and AuthEnvelopedData, BER and DER, RSA and ECDH. Bit 6 of the settings allows 3DES.
#![no_main]

use as2_core::cms::{OpenPolicy, Opener, content_type_of};
use as2_core_fuzz::{STATIONS, both_ways, settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((settings, cms)) = settings(data) else { return };
    let _ = content_type_of(cms);
    let policy = OpenPolicy {
        accept_3des: settings & 64 != 0,
    };
    both_ways(settings, cms, |pieces| {
        let (mut opener, mut plain) = (Opener::new(&STATIONS.ours, policy), Vec::new());
        for piece in pieces {
            opener.push(piece, &mut plain)?;
            assert!(plain.len() <= cms.len(), "decryption yields more than came in");
        }
        let opened = opener.finish(&mut plain)?;
        Ok((plain, opened.cipher, opened.key_transport, opened.recipient))
    });
});
