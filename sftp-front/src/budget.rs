//! What bounds the memory of all connections: each has a share of its own, and what it needs beyond comes from a pool that
//! all of them share. Requests wait for the pool and give back what they took when the disk has taken them. Answers never
//! wait for it, since a client that does not read would keep it: those with data leave in smaller batches while it is empty,
//! and for the others, which are there already, the connection goes that has left its answers unread for the longest. What
//! they owe the pool meanwhile is bounded too: who would add to it beyond that goes at once.

use crate::lock::locked;
use crate::packet::Broken;
use std::cmp::Reverse;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Bytes of requests that all channels of a connection may hold together, 256 per message included. It exceeds
/// [`MAX_CHANNELS`] × ([`MAX_PACKET`](crate::MAX_PACKET) and its pieces) + one message, or unfinished packets could starve each other.
pub const REQUEST_BUDGET: usize = 4 << 20;
/// What a connection holds without taking from the pool: one packet of the greatest length and what its pieces cost, so
/// that it can always finish one.
pub const OWN_SHARE: usize = 288 << 10;
/// Most channels that one connection may have: so many unfinished packets fit into [`REQUEST_BUDGET`].
pub const MAX_CHANNELS: usize = REQUEST_BUDGET / OWN_SHARE;
/// Bytes of answers, beside data, that a connection may leave unread without taking from the pool.
pub const OWN_ANSWERS: usize = 128 << 10;

/// Whole seconds for which a client has taken nothing before it has to go while memory is short.
const PATIENCE: u64 = 1;
/// How often a request that waits for memory looks for such clients.
const LOOK: Duration = Duration::from_millis(250);

/// Part of the pool that answers may owe it until connections that read nothing lose the benefit of [`PATIENCE`].
const DIRE: usize = 4;
/// Part of the pool that answers may owe it at most, while those end that must go.
const MOST: usize = 2;

/// What all connections share.
pub(crate) struct Pool {
    bytes: usize,
    room: Arc<Semaphore>,
    debts: Mutex<Debts>,
}

#[derive(Default)]
struct Debts {
    /// Bytes for which there was no room: of answers not more than `bytes / MOST` and one for each connection, and what
    /// connections that must go take for their requests.
    owed: usize,
    members: Vec<Weak<Budget>>,
}

impl Pool {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        let bytes = bytes.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            bytes,
            room: Arc::new(Semaphore::new(bytes)),
            debts: Mutex::default(),
        })
    }

    fn debts(&self) -> MutexGuard<'_, Debts> {
        locked(&self.debts)
    }

    /// Takes bytes for answers, at once; for what there is no room, connections are told to go that hold as much together.
    /// False if too much is owed: then who takes them must go as well.
    fn take_now(&self, bytes: usize) -> bool {
        let there = bytes.min(self.room.available_permits());
        let missing = match self.room.try_acquire_many(permits(there)) {
            Ok(permit) => {
                permit.forget();
                bytes - there
            }
            Err(_) => bytes,
        };
        if missing == 0 {
            return true;
        }
        let owed = {
            let mut debts = self.debts();
            debts.owed += missing;
            debts.owed
        };
        self.shed(0);
        owed <= self.bytes / MOST
    }

    /// Tells connections to go that hold, together, what is owed and `wanted` bytes more.
    fn shed(&self, wanted: usize) {
        let mut debts = self.debts();
        let missing = debts.owed + wanted;
        let is_dire = debts.owed > self.bytes / DIRE;
        debts.members.retain(|member| member.strong_count() > 0);
        let members = debts.members.iter().filter_map(Weak::upgrade);
        let mut holders: Vec<_> = members
            .map(|member| {
                let facts = member.unread().facts();
                (facts, member)
            })
            .collect();
        holders.retain(|((held, ..), _)| *held > 0);
        // Who has taken nothing for the longest, by seconds; of those, who holds the most.
        holders.sort_by_key(|((held, idle, _), _)| Reverse((*idle, *held)));
        let mut going: usize = holders
            .iter()
            .filter(|((.., must_go), _)| *must_go)
            .map(|((held, ..), _)| held)
            .sum();
        for ((held, idle, must_go), holder) in &holders {
            if going >= missing {
                break;
            }
            if !must_go && (*idle >= PATIENCE || is_dire) {
                holder.unread().must_go = true;
                holder.leaves.notify_one();
                going += held;
            }
        }
    }

    fn give(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut debts = self.debts();
        let paid = debts.owed.min(bytes);
        debts.owed -= paid;
        drop(debts);
        self.room.add_permits(bytes - paid);
    }
}

/// The budget of one connection.
pub(crate) struct Budget {
    own: Semaphore,
    pool: Arc<Pool>,
    held: Mutex<usize>,
    unread: Mutex<Unread>,
    leaves: Notify,
}

/// Answers that the client has not taken.
struct Unread {
    bytes: usize,
    /// When it last took something.
    since: Instant,
    must_go: bool,
}

impl Unread {
    /// Bytes of the pool, whole seconds of waiting, and whether the connection goes already.
    fn facts(&self) -> (usize, u64, bool) {
        (self.of_pool(), self.since.elapsed().as_secs(), self.must_go)
    }

    fn of_pool(&self) -> usize {
        self.bytes.saturating_sub(OWN_ANSWERS)
    }
}

impl Budget {
    pub(crate) fn new(pool: Arc<Pool>) -> Arc<Self> {
        let budget = Arc::new(Self {
            own: Semaphore::new(REQUEST_BUDGET),
            held: Mutex::new(0),
            unread: Mutex::new(Unread {
                bytes: 0,
                since: Instant::now(),
                must_go: false,
            }),
            leaves: Notify::new(),
            pool: Arc::clone(&pool),
        });
        let mut debts = pool.debts();
        debts.members.retain(|member| member.strong_count() > 0);
        debts.members.push(Arc::downgrade(&budget));
        drop(debts);
        budget
    }

    /// Takes `cost` bytes as soon as there is room. Must not be broken off; the pool is never empty for long, see
    /// [`is_greedy`](Self::is_greedy).
    pub(crate) async fn take(&self, cost: usize) {
        if let Ok(permit) = self.own.acquire_many(permits(cost)).await {
            permit.forget();
        }
        let from_pool = self.hold(|held| held + cost);
        if from_pool == 0 {
            return;
        }
        let mut room = pin!(self.pool.room.acquire_many(permits(from_pool)));
        loop {
            match tokio::time::timeout(LOOK, &mut room).await {
                Ok(permit) => {
                    permit.into_iter().for_each(SemaphorePermit::forget);
                    return;
                }
                // Who must go is waited for, and must not wait itself.
                Err(_) if self.unread().must_go => {
                    self.pool.debts().owed += from_pool;
                    return;
                }
                // Requests that wait make no answers: nobody else would look for those who leave theirs unread.
                Err(_) => self.pool.shed(from_pool),
            }
        }
    }

    /// Gives back `cost` bytes.
    pub(crate) fn give(&self, cost: usize) {
        let to_pool = self.hold(|held| held.saturating_sub(cost));
        self.pool.give(to_pool);
        self.own.add_permits(cost);
    }

    /// Room in the pool for a batch of answers, if there is some now.
    pub(crate) fn batch(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.pool.room).try_acquire_many_owned(permits(bytes)).ok()
    }

    /// Answers wait for the client.
    ///
    /// # Errors
    /// The connection must end: it leaves its answers unread while memory is short.
    pub(crate) fn answered(&self, bytes: usize) -> Result<(), Broken> {
        let more = self.change_unread(|unread| {
            if unread.bytes == 0 {
                unread.since = Instant::now();
            }
            unread.bytes += bytes;
        });
        let has_room = self.pool.take_now(more);
        let mut unread = self.unread();
        if !has_room && !unread.must_go {
            unread.must_go = true;
            self.leaves.notify_one();
        }
        if unread.must_go { Err(Broken::NotReading) } else { Ok(()) }
    }

    /// The client has taken answers, or nobody will.
    pub(crate) fn taken(&self, bytes: usize) {
        let less = self.change_unread(|unread| unread.bytes = unread.bytes.saturating_sub(bytes));
        self.pool.give(less);
    }

    /// The client goes on taking what is sent.
    pub(crate) fn is_read(&self) {
        self.unread().since = Instant::now();
    }

    /// Waits until the connection has to go for its unread answers.
    pub(crate) async fn must_go(&self) {
        self.leaves.notified().await;
    }

    /// By how much the part beyond the share changes.
    fn change_unread(&self, change: impl FnOnce(&mut Unread)) -> usize {
        let mut unread = self.unread();
        let before = unread.of_pool();
        change(&mut unread);
        before.abs_diff(unread.of_pool())
    }

    fn unread(&self) -> MutexGuard<'_, Unread> {
        locked(&self.unread)
    }

    /// Whether this connection keeps bytes of the pool while others find it empty.
    pub(crate) fn is_greedy(&self) -> bool {
        beyond(*self.held()) > 0 && self.pool.room.available_permits() == 0
    }

    /// Changes what is held; by how much the part beyond the share changes.
    fn hold(&self, change: impl FnOnce(usize) -> usize) -> usize {
        let mut held = self.held();
        let before = beyond(*held);
        *held = change(*held);
        before.abs_diff(beyond(*held))
    }

    fn held(&self) -> MutexGuard<'_, usize> {
        locked(&self.held)
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

    #[tokio::test]
    async fn a_share_of_its_own_and_the_pool_beyond() {
        let pool = Pool::new(1000);
        let (one, two) = (Budget::new(Arc::clone(&pool)), Budget::new(Arc::clone(&pool)));
        one.take(OWN_SHARE).await;
        two.take(OWN_SHARE - 1).await;
        assert_eq!(pool.room.available_permits(), 1000);
        one.take(1000).await;
        assert!(one.is_greedy() && !two.is_greedy() && one.batch(1).is_none());
        two.take(1).await;
        let waits = tokio::time::timeout(Duration::from_millis(50), two.take(1));
        assert!(waits.await.is_err(), "the pool is empty");
        one.give(500);
        assert_eq!(pool.room.available_permits(), 500);
        one.give(OWN_SHARE + 500);
        assert_eq!(pool.room.available_permits(), 1000);
    }

    #[tokio::test]
    async fn requests_do_not_wait_for_ever_behind_unread_answers() {
        let pool = Pool::new(1000);
        let (deaf, other) = (Budget::new(Arc::clone(&pool)), Budget::new(Arc::clone(&pool)));
        deaf.answered(OWN_ANSWERS + 1000).unwrap();
        let goes = async {
            deaf.must_go().await;
            deaf.taken(OWN_ANSWERS + 1000);
        };
        let both = async { tokio::join!(other.take(OWN_SHARE + 500), goes) };
        assert!(tokio::time::timeout(Duration::from_secs(10), both).await.is_ok());
        assert_eq!(pool.room.available_permits(), 500);
    }

    #[test]
    fn what_is_owed_is_bounded_although_nobody_has_ended_yet() {
        const ONE: usize = 40;
        let pool = Pool::new(1000);
        let all: Vec<_> = (0..50).map(|_| Budget::new(Arc::clone(&pool))).collect();
        let mut held = 0;
        for budget in all.iter().cycle().take(5_000) {
            let first = if budget.unread().bytes == 0 { OWN_ANSWERS } else { 0 };
            if !budget.unread().must_go {
                held += ONE;
                let _ = budget.answered(first + ONE);
            }
        }
        assert!(all.iter().all(|budget| budget.unread().must_go), "all wanted more than there is");
        assert!(held <= 1000 + 1000 / MOST + all.len() * ONE, "{held}");
        assert_eq!(pool.debts().owed, held - 1000);
        all.iter().for_each(|budget| budget.taken(usize::MAX));
        assert_eq!((pool.debts().owed, pool.room.available_permits()), (0, 1000));
    }

    #[test]
    fn who_reads_nothing_goes_when_memory_is_short() {
        let pool = Pool::new(1000);
        let of = || Budget::new(Arc::clone(&pool));
        let (deaf, reader, other) = (of(), of(), of());
        let second = Duration::from_millis(1_100);
        for budget in [&deaf, &reader] {
            budget.answered(OWN_ANSWERS + 400).unwrap();
        }
        assert_eq!(pool.room.available_permits(), 200);
        std::thread::sleep(second);
        reader.is_read();
        // It holds less than the reader, but has taken nothing for longer.
        deaf.taken(100);
        assert_eq!(other.answered(OWN_ANSWERS + 310), Ok(()));
        assert_eq!(deaf.answered(1), Err(Broken::NotReading));
        // What goes pays for some more; then the next has to.
        assert_eq!(other.answered(200), Ok(()));
        assert!(!reader.unread().must_go && pool.debts().owed == 211);
        deaf.taken(OWN_ANSWERS + 301);
        assert_eq!((pool.debts().owed, pool.room.available_permits()), (0, 90));
        reader.taken(OWN_ANSWERS + 400);
        other.taken(OWN_ANSWERS + 510);
        assert_eq!((pool.debts().owed, pool.room.available_permits()), (0, 1000));
    }
}
