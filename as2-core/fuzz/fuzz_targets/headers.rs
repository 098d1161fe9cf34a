//! A header block and what is read from AS2's own fields. What was understood must survive being written and read again.
#![no_main]

use as2_core::algorithm::{Digest, DigestNames};
use as2_core::disposition::Disposition;
use as2_core::headers::{Headers, MAX_FIELDS};
use as2_core::id::As2Id;
use as2_core::message_id::MessageId;
use as2_core::mic::Mic;
use as2_core::receipt::ReceiptRequest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    field(data);
    let Ok(headers) = Headers::parse(data) else { return };
    assert!(headers.len() <= MAX_FIELDS, "too many fields");
    let again = Headers::parse(&headers.to_bytes()).expect("our own block");
    assert_eq!(headers, again, "a block changes when it is written");
    for (_, value) in headers.iter() {
        field(value.as_bytes());
    }
    if let Ok(Some(request)) = ReceiptRequest::from_headers(&headers) {
        let mut written = Headers::new();
        if request.write_to(&mut written, DigestNames::Rfc5751).is_ok() {
            let read = ReceiptRequest::from_headers(&written).expect("our own request").expect("a request");
            assert_eq!(read.deliver_to, request.deliver_to, "the address changes");
            assert_eq!(read.signed, request.signed, "the signature's wish changes");
        }
    }
});

/// One value, read as each of AS2's fields.
fn field(value: &[u8]) {
    if let Ok(id) = As2Id::from_header(value) {
        let again = As2Id::from_header(id.to_header().as_bytes());
        // A name that has quotes of its own around it cannot be told from one that a partner quoted twice.
        let quotes = id.as_str().len() > 1 && id.as_str().starts_with('"') && id.as_str().ends_with('"');
        assert!(
            quotes || again.is_ok_and(|again| again == id),
            "a name changes when it is written: {id:?}"
        );
        drop(id.to_header());
    }
    let Ok(text) = std::str::from_utf8(value) else { return };
    if let Ok(id) = MessageId::from_header(text) {
        assert_eq!(
            MessageId::from_header(id.as_str()).expect("our own id"),
            id,
            "a Message-ID changes when it is written"
        );
    }
    if let Ok(mic) = Mic::parse(text) {
        assert_eq!(
            Mic::parse(&mic.to_string()).expect("our own MIC"),
            mic,
            "a MIC changes when it is written"
        );
    }
    if let Some(digest) = Digest::parse(text) {
        assert_eq!(
            Digest::parse(digest.name()),
            Some(digest),
            "an algorithm changes when it is written"
        );
    }
    let disposition = Disposition::parse(text);
    let written = disposition.to_string();
    assert!(!written.contains(['\r', '\n']), "a line end in a disposition");
    assert_eq!(
        Disposition::parse(&written).is_positive(),
        disposition.is_positive(),
        "yes becomes no, or no becomes yes: {written}"
    );
    drop((disposition.modifier_code(), disposition.is_duplicate_notice()));
}
