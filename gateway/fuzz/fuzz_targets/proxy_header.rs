//! The PROXY v2 header: whatever comes first on a connection, an answer is there once the bytes are, and nothing behind the
//! header is taken.
#![no_main]
#![allow(dead_code, reason = "the file is included as it is")]

#[path = "../../../sftp-front/src/proxy.rs"]
mod proxy;

use std::pin::pin;
use std::task::{Context, Waker};

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    let read = pin!(proxy::read(&mut rest)).poll(&mut Context::from_waker(Waker::noop()));
    let std::task::Poll::Ready(read) = read else {
        panic!("it waits for bytes that are all there");
    };
    if read.is_ok() {
        // The length of what follows is in the last two of the first sixteen bytes.
        let length = 16 + usize::from(u16::from_be_bytes([data[14], data[15]]));
        assert_eq!(data.len() - rest.len(), length, "more or less than the header was taken");
    }
});
