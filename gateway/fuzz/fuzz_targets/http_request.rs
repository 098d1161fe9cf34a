//! A request as the server reads it: the head, then the body by the framing that the head tells. The first byte says in which
//! pieces the rest arrives; what is read must not depend on it, since a parser that it does depend on can be smuggled past.
#![no_main]
#![allow(dead_code, reason = "the files are included as they are")]

extern crate self as as2_core;

#[path = "../src/error.rs"]
mod error;
#[path = "../../src/http/head.rs"]
mod head;
#[path = "../../../as2-core/src/headers.rs"]
mod headers;
#[path = "../../src/post/wire.rs"]
mod wire;

mod post {
    pub(crate) use crate::wire;
}

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use wire::{Decoder, Framing, Step};

/// What was read: the head's facts, the body, and whether the body came to its end or what was wrong.
#[derive(Debug, PartialEq)]
struct Seen {
    head: Result<(Vec<u8>, String, String, Option<Framing>), u16>,
    body: Vec<u8>,
    ended: Result<bool, &'static str>,
    left: Vec<u8>,
}

/// Reads pieces of this size; nothing if the head does not end.
fn read(data: &[u8], size: usize) -> Option<Seen> {
    let (mut pieces, mut buffer, mut scanned) = (data.chunks(size), BytesMut::new(), 0);
    let mut seen = Seen {
        head: Err(0),
        body: Vec::new(),
        ended: Ok(false),
        left: Vec::new(),
    };
    let parsed = loop {
        match head::take(&mut buffer, &mut scanned) {
            Ok(Some(parsed)) => break parsed,
            Ok(None) => buffer.extend_from_slice(pieces.next()?),
            Err((status, _)) => {
                seen.head = Err(status);
                return Some(seen);
            }
        }
    };
    assert!(parsed.head.bytes.len() <= head::MAX_HEAD && parsed.head.headers.iter().count() <= head::MAX_FIELDS);
    seen.head = Ok((parsed.head.bytes, parsed.head.method, parsed.head.target, parsed.framing));
    let mut decoder = Decoder::new(parsed.framing.unwrap_or(Framing::Length(0)));
    loop {
        match decoder.step(&mut buffer) {
            Ok(Step::Piece(piece)) => seen.body.extend_from_slice(&piece),
            Ok(Step::Starved) => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => return Some(seen),
            },
            Ok(Step::End) => {
                seen.ended = Ok(true);
                pieces.for_each(|piece| buffer.extend_from_slice(piece));
                seen.left = buffer.to_vec();
                return Some(seen);
            }
            Err(why) => {
                seen.ended = Err(why);
                return Some(seen);
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((size, data)) = data.split_first() else { return };
    assert_eq!(read(data, usize::from(*size) + 1), read(data, data.len().max(1)));
});
