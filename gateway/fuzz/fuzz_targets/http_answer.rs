//! An answer as the client reads it: interim heads, the head, then the body by the framing that the head tells, until the end
//! of the connection. The first byte says in which pieces the rest arrives; what is read must not depend on it.
#![no_main]
#![allow(dead_code, reason = "the files are included as they are")]

extern crate self as as2_core;

#[path = "../../src/post/answer.rs"]
mod answer;
#[path = "../src/error.rs"]
mod error;
#[path = "../../../as2-core/src/headers.rs"]
mod headers;
#[path = "../../src/post/wire.rs"]
mod wire;

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf};
use wire::{Framing, Source};

/// Most of a body that is kept here; in the product it is an MDN's limit.
const MAX: usize = 1024;

/// A connection on which pieces arrive with pauses between them.
struct Pieces<'a> {
    left: &'a [u8],
    size: usize,
    paused: bool,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.paused = !self.paused;
        if self.paused {
            return Poll::Pending;
        }
        let (now, later) = self.left.split_at(self.size.min(self.left.len()).min(into.remaining()));
        into.put_slice(now);
        self.left = later;
        Poll::Ready(Ok(()))
    }
}

/// Polls until it is done: what it waits for comes with the next look.
fn finish<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
    }
}

type Head = (u16, Vec<u8>, Framing);

/// Head, kept body, whether it came to its end, whether it was too long; or why there is no head.
fn read(data: &[u8], size: usize) -> Result<(Head, Vec<u8>, bool, bool), String> {
    let mut source = Source::new(Pieces {
        left: data,
        size,
        paused: false,
    });
    let head = finish(answer::read_head(&mut source)).map_err(|none| none.why)?;
    assert!(head.status >= 200 && head.raw.len() <= answer::MAX_HEAD);
    let framing = head.framing();
    let mut body = answer::AnswerBody::new(framing, MAX);
    while !body.take(&mut source.buffer) {
        if finish(source.fill()).is_ok_and(|read| read == 0) {
            body.end();
            break;
        }
    }
    assert!(body.bytes.len() <= MAX && !(body.complete && body.over_limit));
    if let (Framing::Length(length), true) = (framing, body.complete) {
        assert_eq!(length, body.bytes.len() as u64, "whole, and not as long as announced");
    }
    // A connection goes on only behind an answer whose end nobody can dispute.
    let again = head.leaves_no_doubt() && body.complete && source.into_clean().is_some();
    assert!(!again || framing != Framing::UntilClose, "nothing ends this answer but the end of the connection");
    Ok(((head.status, head.raw, framing), body.bytes, body.complete, body.over_limit))
}

fuzz_target!(|data: &[u8]| {
    let Some((size, data)) = data.split_first() else { return };
    assert_eq!(read(data, usize::from(*size) + 1), read(data, data.len().max(1)));
});
