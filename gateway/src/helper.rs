//! Cryptographic work: how much of it goes on at once, and a second processor for large messages, as long as there is one to
//! spare.

use std::sync::Arc;

use as2_core::helper::Helper;
use tokio::sync::{AcquireError, Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::flow_error::FlowError;
use crate::gateway::Core;

/// Contents of more bytes than this take a large part of a second, or minutes.
const LARGE: u64 = 64 << 20;

/// Bounds cryptographic work to what the machine can do side by side: two places for each processor, of which large contents get
/// half, so that small ones never wait behind gigabytes.
#[derive(Debug)]
pub struct Bound {
    places: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// A place within the bound; dropping it gives it back.
pub(crate) struct Permit {
    _large: Option<OwnedSemaphorePermit>,
    _place: OwnedSemaphorePermit,
}

impl Bound {
    /// For a machine with so many processors.
    #[must_use]
    pub(crate) fn of(cores: usize) -> Self {
        Bound {
            places: Arc::new(Semaphore::new(cores * 2)),
            large: Arc::new(Semaphore::new(cores)),
        }
    }

    /// Whether a place for work on so many bytes is free at this moment.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.places.available_permits() > 0 && (bytes <= LARGE || self.large.available_permits() > 0)
    }

    /// A place for work on so many bytes, waited for.
    ///
    /// # Errors
    /// Ours only.
    pub(crate) async fn permit(&self, bytes: u64) -> Result<Permit, FlowError> {
        let of = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).acquire_owned();
        let ours = |e: AcquireError| FlowError::Internal(e.to_string());
        let large = if bytes > LARGE {
            Some(of(&self.large).await.map_err(ours)?)
        } else {
            None
        };
        Ok(Permit {
            _large: large,
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
    /// The bound for cryptographic work; a thread that is lent counts.
    crypto: Arc<Semaphore>,
    /// Permits that stay for further messages.
    keep: usize,
}

impl SpareCores {
    /// Within this bound; a place for each of the machine's processors is not for helping threads.
    #[must_use]
    pub(crate) fn within(bound: &Bound, cores: usize) -> Self {
        SpareCores {
            crypto: Arc::clone(&bound.places),
            keep: cores,
        }
    }

    /// For a command that works on a single message.
    #[must_use]
    pub(crate) fn for_one_message() -> Self {
        SpareCores {
            crypto: Arc::new(Semaphore::new(1)),
            keep: 0,
        }
    }
}

impl Helper for SpareCores {
    /// A thread of its own: one of a pool might queue behind the caller, which waits for it.
    fn run(&self, job: Box<dyn FnOnce() + Send>) -> bool {
        let Ok(permit) = Arc::clone(&self.crypto).try_acquire_owned() else {
            return false;
        };
        if self.crypto.available_permits() < self.keep {
            return false;
        }
        let work = move || {
            job();
            drop(permit);
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

    #[tokio::test]
    async fn large_contents_leave_places_for_small_ones() {
        let bound = Bound::of(1);
        // What is free is given at the first look.
        let soon = |bytes| tokio::time::timeout(Duration::ZERO, bound.permit(bytes));
        let large = soon(LARGE + 1).await.unwrap().unwrap();
        assert!(bound.has_room(LARGE) && !bound.has_room(LARGE + 1));
        assert!(soon(LARGE + 1).await.is_err(), "one processor, one of them");
        let small = soon(LARGE).await.unwrap().unwrap();
        assert!(soon(1).await.is_err(), "two places in all");
        drop((large, small));
        assert!(soon(LARGE + 1).await.is_ok());
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
