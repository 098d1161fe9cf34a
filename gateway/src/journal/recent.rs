//! Small contents that were written a moment ago, kept in memory: they are read soon, by the next step of their flow and by
//! the publisher, and are gone from the journal after that. A copy never gets stale, because contents never change and no key
//! is used twice; what is not here is read from the database.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use bytes::Bytes;

use crate::lock::locked;

/// Most bytes that are kept: what comes in half a second at full speed, so that the publisher does not fall behind them.
const MAX_BYTES: usize = 16 << 20;

#[derive(Default)]
pub(super) struct Recent(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    contents: HashMap<String, Bytes>,
    /// Keys in the order in which they came; some may be gone already.
    order: VecDeque<String>,
    bytes: usize,
}

impl Recent {
    pub(super) fn put(&self, key: &str, bytes: &Bytes) {
        let mut kept = self.lock();
        kept.forget(key);
        kept.bytes += bytes.len();
        kept.contents.insert(key.to_owned(), bytes.clone());
        kept.order.push_back(key.to_owned());
        while kept.bytes > MAX_BYTES || kept.order.len() > 2 * kept.contents.len() + 1024 {
            let Some(oldest) = kept.order.pop_front() else { break };
            kept.forget(&oldest);
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<Bytes> {
        self.lock().contents.get(key).cloned()
    }

    pub(super) fn forget(&self, key: &str) {
        self.lock().forget(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        locked(&self.0)
    }
}

impl Kept {
    fn forget(&mut self, key: &str) {
        if let Some(gone) = self.contents.remove(key) {
            self.bytes -= gone.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_when_there_is_too_much() {
        let recent = Recent::default();
        let piece = Bytes::from(vec![7u8; MAX_BYTES / 4]);
        for key in ["a", "b", "c", "d", "e"] {
            recent.put(key, &piece);
        }
        assert_eq!(
            (recent.get("a"), recent.get("e").map(|bytes| bytes.len())),
            (None, Some(piece.len()))
        );
        recent.forget("e");
        assert_eq!(recent.get("e"), None);
        assert!(recent.lock().bytes <= MAX_BYTES);
    }

    #[test]
    fn the_list_of_keys_is_bounded_as_well() {
        let recent = Recent::default();
        for n in 0..100_000 {
            recent.put(&n.to_string(), &Bytes::from_static(b"x"));
            recent.forget(&n.to_string());
        }
        assert!(recent.lock().order.len() < 2048);
    }
}
