//! The threads that connections run on. All tasks of a connection share one thread, and so need no other processor to be woken
//! for what one task hands to the next, which takes longer than most of the work. What waits for the disk or the journal has
//! blocking threads of its own, but for the uploads of a connection that [is alone](is_alone) on its thread.

use std::cell::OnceCell;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// Most threads, however many processors there are.
const MAX_THREADS: usize = 16;

thread_local! {
    /// How many connections this thread has, if it is one of these.
    static HERE: OnceCell<Arc<AtomicUsize>> = const { OnceCell::new() };
}

/// Whether this thread has one connection and no other: what that waits for here, nobody else does.
pub(crate) fn is_alone() -> bool {
    HERE.with(|here| here.get().is_some_and(|connections| connections.load(Ordering::Relaxed) == 1))
}

/// One for each processor. They end when this is dropped, and with them what still runs there.
pub(crate) struct Threads(Vec<Thread>);

struct Thread {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    _until_dropped: oneshot::Sender<()>,
}

/// A connection on a thread.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Threads {
    /// Starts them. One that the system refuses is done without.
    pub(crate) fn start() -> Self {
        let count = available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
        let started = (0..count).filter_map(|_| match Thread::start() {
            Ok(thread) => Some(thread),
            Err(e) => {
                tracing::warn!("a thread for connections: {e}");
                None
            }
        });
        Self(started.collect())
    }

    /// The thread with the fewest connections; the caller's own if there is none.
    pub(crate) fn pick(&self) -> (Handle, Place) {
        match self.0.iter().min_by_key(|t| t.connections.load(Ordering::Relaxed)) {
            None => (Handle::current(), Place(Arc::new(AtomicUsize::new(1)))),
            Some(thread) => {
                thread.connections.fetch_add(1, Ordering::Relaxed);
                (thread.runtime.clone(), Place(Arc::clone(&thread.connections)))
            }
        }
    }
}

impl Thread {
    fn start() -> std::io::Result<Self> {
        let runtime: Runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let connections: Arc<AtomicUsize> = Arc::default();
        let here = Arc::clone(&connections);
        let (until_dropped, dropped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("sftp".into()).spawn(move || {
            HERE.with(|cell| cell.set(here).ok());
            let _ = runtime.block_on(dropped);
            runtime.shutdown_background();
        })?;
        Ok(Self {
            runtime: handle,
            connections,
            _until_dropped: until_dropped,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_connection_is_alone_until_its_thread_has_another() {
        assert!(!is_alone(), "no thread for connections");
        let threads = Threads::start();
        let (first, place) = threads.pick();
        let is_alone_there = async || first.spawn(async { is_alone() }).await.unwrap();
        assert!(is_alone_there().await);
        let more: Vec<_> = threads.0.iter().map(|_| threads.pick()).collect();
        assert!(!is_alone_there().await);
        drop(more);
        assert!(is_alone_there().await);
        drop(place);
        assert!(!is_alone_there().await, "what is left there is nobody's");
    }
}
