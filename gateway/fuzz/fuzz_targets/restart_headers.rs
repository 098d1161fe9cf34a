//! The headers of a transfer that may be gone on with: whatever `ETag` and `Content-Range` say, a tag that counts is one that
//! names a place, and a range that is sound is one that a body can have.
#![no_main]
#![allow(dead_code, reason = "the files are included as they are")]

extern crate self as as2_core;

#[path = "../src/error.rs"]
mod error;
#[path = "../../../as2-core/src/headers.rs"]
mod headers;
#[path = "../../src/inbox/transfer.rs"]
mod transfer;

use headers::Headers;
use libfuzzer_sys::fuzz_target;
use transfer::{MAX_TAG, Range, tag};

fuzz_target!(|data: &[u8]| {
    let Some((length, block)) = data.split_first_chunk::<8>() else { return };
    let Ok(headers) = Headers::parse(block) else { return };
    if let Some(tag) = tag(&headers) {
        assert!(!tag.is_empty() && tag.len() <= MAX_TAG && !tag.contains(['"', '\r', '\n', '\0']), "{tag:?}");
    }
    let Some(range) = headers.get("Content-Range").and_then(Range::read) else { return };
    let Range { first, last, total } = range;
    assert_eq!(Range::read(&format!("bytes {first}-{last}/{total}")), Some(range));
    let length = u64::from_be_bytes(*length);
    for length in [None, Some(length), total.checked_sub(first)] {
        if range.is_sound(length) {
            assert!(first < total && last == total - 1, "{range:?}");
            assert!(length.is_none_or(|length| first.checked_add(length) == Some(total)), "{range:?} of {length:?} bytes");
        }
    }
});
