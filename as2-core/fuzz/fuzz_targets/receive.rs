//! Whole messages: headers, a blank line, a body, through every layer. Of the settings, bit 5 has the body sealed for BOB
//! first, so that what is fuzzed lies behind the encryption; bit 6 allows what is for legacy partners only; bit 7 demands
//! signature and encryption.
#![no_main]

use as2_core::algorithm::{Cipher, KeyTransport};
use as2_core::cms::{EnvelopePlan, Form, Sealer};
use as2_core::headers::Headers;
use as2_core::receive::SecurityPolicy;
use as2_core_fuzz::{STATIONS, head_and_body, piece_len, receive, settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((settings, message)) = settings(data) else { return };
    let (head, body) = head_and_body(message);
    let Ok(mut headers) = Headers::parse(head) else { return };
    let policy = SecurityPolicy {
        require_signed: settings & 128 != 0,
        require_encrypted: settings & 128 != 0,
        legacy_sha1: settings & 64 != 0,
        accept_md5: settings & 64 != 0,
        accept_3des: settings & 64 != 0,
    };
    let body = if settings & 32 != 0 {
        headers.remove("Content-Transfer-Encoding");
        seal(&mut headers, body)
    } else {
        body.to_vec()
    };
    let whole = receive(&headers, policy, &mut || vec![body.clone()]);
    let pieces = receive(&headers, policy, &mut || {
        body.chunks(piece_len(settings)).map(<[u8]>::to_vec).collect()
    });
    // A message with two faults is refused for the one that is met first, and of a damaged zlib stream the pieces decide
    // whether the bytes before the damage are read before it is seen. Refused it must be either way.
    assert_eq!(whole.ok(), pieces.ok(), "the cuts between pieces change the outcome");
});

/// The entity moves inside, its type with it.
fn seal(headers: &mut Headers, body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    for name in ["Content-Type", "Content-Disposition"] {
        if let Some(value) = headers.get(name) {
            plain.extend_from_slice(name.as_bytes());
            plain.extend_from_slice(b": ");
            plain.extend_from_slice(value.as_bytes());
            plain.extend_from_slice(b"\r\n");
        }
        headers.remove(name);
    }
    plain.extend_from_slice(b"\r\n");
    plain.extend_from_slice(body);
    // A full block has no room for one more field; then the type stays away, which is a message as well.
    let _ = headers.push("Content-Type", "application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m");
    let plan = EnvelopePlan {
        recipients: vec![STATIONS.bob.certificate()],
        cipher: Cipher::Aes128Cbc,
        key_transport: KeyTransport::RsaPkcs1,
        plain_len: plain.len() as u64,
        form: Form::Der,
    };
    let (mut sealer, mut out) = (Sealer::new(&plan).expect("a sealer"), Vec::new());
    sealer.push(&plain, &mut out).expect("sealing");
    sealer.finish(&mut out).expect("sealing");
    out
}
