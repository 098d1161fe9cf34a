//! No kernel for this architecture.

use std::mem::MaybeUninit;

use crate::{BLOCK, DIGEST, GROUP};

/// Cannot exist.
pub(crate) enum Kernel {}

/// Cannot exist.
pub(crate) enum OpenKernel {}

/// Cannot exist.
pub(crate) enum ShaKernel {}

impl OpenKernel {
    pub(crate) fn new(_: &[u8], _: &[u8; BLOCK]) -> Option<Self> {
        None
    }

    pub(crate) fn run(&mut self, _: &[[u8; BLOCK]], _: &mut [[MaybeUninit<u8>; BLOCK]], _: &mut ShaKernel, _: &[[u8; GROUP]]) {
        match *self {}
    }

    pub(crate) fn decrypt(&mut self, _: &[[u8; BLOCK]], _: &mut [[MaybeUninit<u8>; BLOCK]]) {
        match *self {}
    }

    pub(crate) fn chain(&self) -> [u8; BLOCK] {
        match *self {}
    }
}

impl ShaKernel {
    pub(crate) fn new() -> Option<Self> {
        None
    }

    pub(crate) fn hash(&mut self, _: &[[u8; GROUP]]) {
        match *self {}
    }

    pub(crate) fn value(&self) -> [u8; DIGEST] {
        match *self {}
    }
}

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
