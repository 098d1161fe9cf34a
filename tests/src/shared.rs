//! A set-up that several tests use side by side: made by the first, taken down after the last one that holds it, so that
//! no server outlives the test run.

use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Place of a shared set-up, for a `static`.
pub struct Shared<T>(Mutex<Weak<T>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Shared<T> {
    /// Nothing made yet.
    #[must_use]
    pub const fn new() -> Self {
        Shared(Mutex::new(Weak::new()))
    }

    /// The set-up, made if nobody holds one.
    pub fn get(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.upgrade().unwrap_or_else(|| {
            let made = Arc::new(make());
            *slot = Arc::downgrade(&made);
            made
        })
    }
}
