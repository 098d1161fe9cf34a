//! A lock that a panic does not close for good.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes the lock, whether or not somebody has panicked who held it: what lies behind the locks of this crate is whole after
/// every step, and one connection's panic must not end the others.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
