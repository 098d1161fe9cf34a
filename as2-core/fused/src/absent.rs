//! No kernel for this architecture.

use std::mem::MaybeUninit;

use crate::{BLOCK, DIGEST, GROUP};

/// Cannot exist.
pub(crate) enum Kernel {}

impl Kernel {
    pub(crate) fn new(_: &[u8], _: &[u8; BLOCK]) -> Option<Self> {
        None
    }

    pub(crate) fn run(&mut self, _: &[[u8; GROUP]], _: &mut [[MaybeUninit<u8>; GROUP]]) {
        match *self {}
    }

    pub(crate) fn chain(&self) -> [u8; BLOCK] {
        match *self {}
    }

    pub(crate) fn digest(&mut self, _: &[[u8; GROUP]]) -> [u8; DIGEST] {
        match *self {}
    }
}
