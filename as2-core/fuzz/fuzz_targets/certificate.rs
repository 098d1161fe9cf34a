//! Certificates, as partners send them.
#![no_main]

use as2_core::cert::Certificate;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(certificate) = Certificate::from_der(data) else { return };
    assert_eq!(certificate.der(), data, "not the bytes it came in");
    assert!(
        data.windows(certificate.issuer_der().len())
            .any(|window| window == certificate.issuer_der()),
        "an issuer from elsewhere"
    );
    drop((
        certificate.serial().len(),
        certificate.ski().map(<[u8]>::len),
        certificate.subject(),
    ));
    assert!(
        certificate.is_rsa() || certificate.is_ec() || certificate.public_key().bits() > 0,
        "a key of no kind"
    );
});
