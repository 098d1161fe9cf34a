//! Cryptographic work: how much of it goes on at once, and a second processor for large messages, as long as there is one to
//! spare.

use std::sync::Arc;

use as2_core::helper::Helper;
use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::flow_error::FlowError;
use crate::gateway::Core;

/// A place within the bound for cryptographic work, waited for.
///
/// # Errors
/// Ours only.
pub(crate) async fn permit(core: &Core) -> Result<OwnedSemaphorePermit, FlowError> {
    let permit = Arc::clone(&core.crypto).acquire_owned().await;
    permit.map_err(|e| FlowError::Internal(e.to_string()))
}

/// Does cryptographic work on a blocking thread, within its bound.
///
/// # Errors
/// Ours only.
pub(crate) async fn with_permit<T: Send + 'static>(
    core: &Arc<Core>,
    work: impl FnOnce(&Arc<Core>) -> T + Send + 'static,
) -> Result<T, FlowError> {
    let permit = permit(core).await?;
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
    /// `keep`: permits of `crypto` that are not for helping threads.
    #[must_use]
    pub(crate) fn new(crypto: Arc<Semaphore>, keep: usize) -> Self {
        SpareCores { crypto, keep }
    }

    /// For a command that works on a single message.
    #[must_use]
    pub(crate) fn for_one_message() -> Self {
        SpareCores::new(Arc::new(Semaphore::new(1)), 0)
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

    #[test]
    fn threads_are_lent_while_there_are_processors_to_spare() {
        let crypto = Arc::new(Semaphore::new(4));
        let helper = SpareCores::new(Arc::clone(&crypto), 2);
        let _message = Arc::clone(&crypto).try_acquire_owned().unwrap();
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
