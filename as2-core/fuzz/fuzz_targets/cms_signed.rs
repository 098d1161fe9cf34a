//! Signatures: detached (`peek`, `verify_detached`) and with the content inside (`OpaqueVerifier`). Bit 6 of the settings
//! allows SHA-1 and MD5.
#![no_main]

use as2_core::algorithm::Digest;
use as2_core::cms::{OpaqueVerifier, peek, verify_detached};
use as2_core_fuzz::{SHA256_OF_NOTHING, STATIONS, both_ways, settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((settings, cms)) = settings(data) else { return };
    let allowed = |digest: Digest| settings & 64 != 0 || !digest.is_legacy();
    let digests = [(Digest::Sha256, SHA256_OF_NOTHING.to_vec())];
    let digest = peek(cms);
    if let Ok(verified) = verify_detached(cms, &digests, &STATIONS.signers, &allowed) {
        assert_eq!(digest, Ok(Some(verified.digest)), "verified, yet it cannot be read");
        assert_eq!(verified.content_digest, SHA256_OF_NOTHING, "the wrong content is said to be signed");
    }
    both_ways(settings, cms, |pieces| {
        let (mut verifier, mut content) = (OpaqueVerifier::new(), Vec::new());
        for piece in pieces {
            verifier.push(piece, &mut content)?;
            assert!(content.len() <= cms.len(), "more content than came in");
        }
        let verified = verifier.finish(&mut content, &STATIONS.signers, &allowed)?;
        assert!(allowed(verified.digest), "a digest that is not allowed");
        Ok((content, verified.digest, verified.signer))
    });
});
