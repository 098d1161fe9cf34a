//! Random bytes that need not be secret: for names, which must differ, and to spread times.

use std::cell::RefCell;

use openssl::error::ErrorStack;

/// Bytes drawn at once: a draw goes through two locks of the library, and a message needs seven names.
const STOCK: usize = 512;

thread_local! {
    static DRAWN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that nobody else got, for names: these are refused where they are taken already, so that a failing source does no
/// harm. Never for keys: they lie in memory before they are asked for.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    try_random().unwrap_or([0; N])
}

/// The same for what nobody compares with what is there, as the boundaries of a receipt.
///
/// # Errors
/// When the source fails.
pub(crate) fn try_random<const N: usize>() -> Result<[u8; N], ErrorStack> {
    const { assert!(N <= STOCK) };
    DRAWN.with_borrow_mut(|drawn| {
        if drawn.len() < N {
            let mut fresh = vec![0; STOCK];
            openssl::rand::rand_bytes(&mut fresh)?;
            *drawn = fresh;
        }
        let rest = drawn.len() - N;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&drawn[rest..]);
        drawn.truncate(rest);
        Ok(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_names_are_equal() {
        let here = (0..1_000).map(|_| random::<16>());
        let there = std::thread::spawn(|| (0..1_000).map(|_| random::<16>()).collect::<Vec<_>>());
        let all: HashSet<_> = here.chain(there.join().unwrap_or_default()).collect();
        assert_eq!(all.len(), 2_000);
    }
}
