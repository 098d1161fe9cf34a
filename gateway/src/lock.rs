//! Locks whose contents stand by themselves: a holder that panicked has left nothing half done in them.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits for the lock, whatever became of its last holder.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
