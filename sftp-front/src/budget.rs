//! What bounds the memory of all connections: each has a share of its own, and what it needs beyond comes from a pool that
//! all of them share. Requests wait for the pool and give back what they took when the disk has taken them. Answers never
//! wait for it, since a client that does not read would keep it; they leave in smaller batches while it is empty.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of requests that all channels of a connection may hold together, 256 per message included. Must exceed
/// channels × ([`MAX_PACKET`](crate::MAX_PACKET) and its pieces) + one message, or unfinished packets could starve each other.
pub const REQUEST_BUDGET: usize = 4 << 20;
/// What a connection holds without taking from the pool: one packet of the greatest length and what its pieces cost, so
/// that it can always finish one.
pub const OWN_SHARE: usize = 288 << 10;

/// The budget of one connection.
pub(crate) struct Budget {
    own: Semaphore,
    pool: Arc<Semaphore>,
    held: Mutex<usize>,
}

impl Budget {
    pub(crate) fn new(pool: Arc<Semaphore>) -> Arc<Self> {
        Arc::new(Self {
            own: Semaphore::new(REQUEST_BUDGET),
            pool,
            held: Mutex::new(0),
        })
    }

    /// Takes `cost` bytes as soon as there is room. Must not be broken off; the pool is never empty for long, see
    /// [`is_greedy`](Self::is_greedy).
    pub(crate) async fn take(&self, cost: usize) {
        if let Ok(permit) = self.own.acquire_many(permits(cost)).await {
            permit.forget();
        }
        let from_pool = self.hold(|held| held + cost);
        if let Ok(permit) = self.pool.acquire_many(permits(from_pool)).await {
            permit.forget();
        }
    }

    /// Gives back `cost` bytes.
    pub(crate) fn give(&self, cost: usize) {
        let to_pool = self.hold(|held| held.saturating_sub(cost));
        self.pool.add_permits(to_pool);
        self.own.add_permits(cost);
    }

    /// Room in the pool for a batch of answers, if there is some now.
    pub(crate) fn batch(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.pool).try_acquire_many_owned(permits(bytes)).ok()
    }

    /// Whether this connection keeps bytes of the pool while others find it empty.
    pub(crate) fn is_greedy(&self) -> bool {
        beyond(*self.held()) > 0 && self.pool.available_permits() == 0
    }

    /// Changes what is held; by how much the part beyond the share changes.
    fn hold(&self, change: impl FnOnce(usize) -> usize) -> usize {
        let mut held = self.held();
        let before = beyond(*held);
        *held = change(*held);
        before.abs_diff(beyond(*held))
    }

    fn held(&self) -> MutexGuard<'_, usize> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn beyond(held: usize) -> usize {
    held.saturating_sub(OWN_SHARE)
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_share_of_its_own_and_the_pool_beyond() {
        let pool = Arc::new(Semaphore::new(1000));
        let (one, two) = (Budget::new(Arc::clone(&pool)), Budget::new(Arc::clone(&pool)));
        one.take(OWN_SHARE).await;
        two.take(OWN_SHARE - 1).await;
        assert_eq!(pool.available_permits(), 1000);
        one.take(1000).await;
        assert!(one.is_greedy() && !two.is_greedy() && one.batch(1).is_none());
        two.take(1).await;
        let waits = tokio::time::timeout(Duration::from_millis(50), two.take(1));
        assert!(waits.await.is_err(), "the pool is empty");
        one.give(500);
        assert_eq!(pool.available_permits(), 500);
        one.give(OWN_SHARE + 500);
        assert_eq!(pool.available_permits(), 1000);
    }
}
