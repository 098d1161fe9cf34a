//! Cryptographic work: how much of it goes on at once, and a second processor for large messages, as long as there is one to
//! spare.

use std::sync::Arc;

use as2_core::helper::Helper;
use tokio::sync::{AcquireError, Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::flow_error::FlowError;
use crate::gateway::Core;
use crate::weight::Weight;

/// Bounds cryptographic work to what the machine can do side by side: two places for each processor. Large contents get half of
/// them, and one is for small ones only, so that these never wait behind gigabytes, nor behind what inflates to some.
#[derive(Debug)]
pub struct Bound {
    places: Arc<Semaphore>,
    not_small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// A place within the bound; dropping it gives it back.
pub(crate) struct Permit {
    _large: Option<OwnedSemaphorePermit>,
    _not_small: Option<OwnedSemaphorePermit>,
    _place: OwnedSemaphorePermit,
}

impl Bound {
    /// For a machine with so many processors.
    #[must_use]
    pub(crate) fn of(cores: usize) -> Self {
        Bound {
            places: Arc::new(Semaphore::new(cores * 2)),
            not_small: Arc::new(Semaphore::new(cores * 2 - 1)),
            large: Arc::new(Semaphore::new(cores)),
        }
    }

    /// Whether a place for work on so many bytes is free at this moment.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        let weight = Weight::of(bytes);
        let free = |semaphore: &Semaphore| semaphore.available_permits() > 0;
        free(&self.places) && (weight < Weight::Medium || free(&self.not_small)) && (weight < Weight::Large || free(&self.large))
    }

    /// A place for work on so many bytes, waited for.
    ///
    /// # Errors
    /// Ours only.
    pub(crate) async fn permit(&self, bytes: u64) -> Result<Permit, FlowError> {
        let of = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).acquire_owned();
        let ours = |e: AcquireError| FlowError::Internal(e.to_string());
        let weight = Weight::of(bytes);
        // The place last: whoever waits for the others holds none.
        let large = match weight {
            Weight::Large => Some(of(&self.large).await.map_err(ours)?),
            Weight::Small | Weight::Medium => None,
        };
        let not_small = match weight {
            Weight::Small => None,
            Weight::Medium | Weight::Large => Some(of(&self.not_small).await.map_err(ours)?),
        };
        Ok(Permit {
            _large: large,
            _not_small: not_small,
            _place: of(&self.places).await.map_err(ours)?,
        })
    }
}

/// Does cryptographic work on so many bytes, on a blocking thread and within its bound.
///
/// # Errors
/// Ours only.
pub(crate) async fn with_permit<T: Send + 'static>(
    core: &Arc<Core>,
    bytes: u64,
    work: impl FnOnce(&Arc<Core>) -> T + Send + 'static,
) -> Result<T, FlowError> {
    let permit = core.crypto.permit(bytes).await?;
    let core = Arc::clone(core);
    let work = tokio::task::spawn_blocking(move || {
        let done = work(&core);
        drop(permit);
        done
    });
    Ok(work.await?)
}

/// One at a time for each message. A few messages share a turn.
#[derive(Default)]
pub(crate) struct Turns([Mutex<()>; 16]);

impl Turns {
    /// Waits for the turn of a message.
    pub(crate) async fn take(&self, message: &str) -> MutexGuard<'_, ()> {
        let sum = message
            .bytes()
            .fold(0, |sum: usize, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        self.0[sum % self.0.len()].lock().await
    }
}

/// Lends threads to the cryptographic work on large messages. With few messages in work the digest runs beside the cipher; with
/// many, every processor has a message of its own, and nothing is gained by splitting one.
#[derive(Debug)]
pub(crate) struct SpareCores {
    /// The bound for cryptographic work; a thread that is lent counts, and is no small one.
    crypto: Arc<Semaphore>,
    not_small: Arc<Semaphore>,
    /// Permits that stay for further messages.
    keep: usize,
}

impl SpareCores {
    /// Within this bound; a place for each of the machine's processors is not for helping threads.
    #[must_use]
    pub(crate) fn within(bound: &Bound, cores: usize) -> Self {
        SpareCores {
            crypto: Arc::clone(&bound.places),
            not_small: Arc::clone(&bound.not_small),
            keep: cores,
        }
    }

    /// For a command that works on a single message.
    #[must_use]
    pub(crate) fn for_one_message() -> Self {
        SpareCores {
            crypto: Arc::new(Semaphore::new(1)),
            not_small: Arc::new(Semaphore::new(1)),
            keep: 0,
        }
    }
}

impl Helper for SpareCores {
    /// A thread of its own: one of a pool might queue behind the caller, which waits for it.
    fn run(&self, job: Box<dyn FnOnce() + Send>) -> bool {
        let lent = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_owned();
        let (Ok(not_small), Ok(permit)) = (lent(&self.not_small), lent(&self.crypto)) else {
            return false;
        };
        if self.crypto.available_permits() < self.keep {
            return false;
        }
        let work = move || {
            job();
            drop((permit, not_small));
        };
        std::thread::Builder::new().name("digest".to_owned()).spawn(work).is_ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    const SMALL: u64 = 300 << 10;
    const MEDIUM: u64 = 64 << 20;
    const LARGE: u64 = MEDIUM + 1;

    #[tokio::test]
    async fn large_contents_leave_places_for_small_ones() {
        let bound = Bound::of(2);
        // What is free is given at the first look.
        let soon = |bytes| tokio::time::timeout(Duration::ZERO, bound.permit(bytes));
        let large = (soon(LARGE).await.unwrap().unwrap(), soon(LARGE).await.unwrap().unwrap());
        assert!(bound.has_room(MEDIUM) && !bound.has_room(LARGE));
        assert!(soon(LARGE).await.is_err(), "two processors, two of them");
        let medium = soon(MEDIUM).await.unwrap().unwrap();
        assert!(bound.has_room(SMALL) && !bound.has_room(MEDIUM));
        assert!(soon(MEDIUM).await.is_err(), "it may inflate to gigabytes");
        let small = soon(SMALL).await.unwrap().unwrap();
        assert!(soon(1).await.is_err(), "four places in all");
        drop((large, medium, small));
        let small = [soon(1).await, soon(1).await, soon(1).await, soon(1).await];
        assert!(small.iter().all(Result::is_ok), "small ones get all of them");
        drop(small);
        assert!(soon(LARGE).await.is_ok());
    }

    #[test]
    fn a_thread_that_is_lent_is_not_the_place_of_a_small_one() {
        let bound = Bound::of(2);
        let helper = SpareCores::within(&bound, 2);
        let _busy = Arc::clone(&bound.places).try_acquire_owned().unwrap();
        let _others = Arc::clone(&bound.not_small).try_acquire_many_owned(3).unwrap();
        assert!(!helper.run(Box::new(|| ())));
    }

    #[test]
    fn threads_are_lent_while_there_are_processors_to_spare() {
        let bound = Bound::of(2);
        let helper = SpareCores::within(&bound, 2);
        let _message = Arc::clone(&bound.places).try_acquire_owned().unwrap();
        let (release, held) = mpsc::channel::<()>();
        let (ended, wait) = mpsc::channel();
        let job = move || {
            held.recv().unwrap_err();
            ended.send(()).unwrap();
        };
        assert!(helper.run(Box::new(job)), "one message: the second processor is idle");
        assert!(!helper.run(Box::new(|| ())), "both processors are busy");
        drop(release);
        wait.recv().unwrap();
    }
}
