//! Receipts: the body of a `multipart/report` with the boundary `b`, or, without a leading `--b`, the fields alone.
#![no_main]

use as2_core::headers::Headers;
use as2_core::receive::SecurityPolicy;
use as2_core_fuzz::{piece_len, receive, settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((settings, body)) = settings(data) else { return };
    let kind = if body.starts_with(b"--b") {
        "multipart/report; report-type=disposition-notification; boundary=b"
    } else {
        "message/disposition-notification"
    };
    let mut headers = Headers::new();
    headers.push("Content-Type", kind).expect("a header");
    headers.push("AS2-Version", "1.2").expect("a header");
    let policy = SecurityPolicy::default();
    let whole = receive(&headers, policy, &mut || vec![body.to_vec()]);
    let pieces = receive(&headers, policy, &mut || {
        body.chunks(piece_len(settings)).map(<[u8]>::to_vec).collect()
    });
    assert_eq!(whole, pieces, "the cuts between pieces change the outcome");
});
