//! A second processor for large content: whoever calls this crate may lend one, and digests are taken there.

/// Runs work beside the caller's own. This crate starts no threads; the caller decides whether it has one to spare.
///
/// It is asked at most once for each message and digest run, and only for content of [`HELP_FROM`] bytes and more.
pub trait Helper: Send + Sync {
    /// Runs `job` beside the caller, which soon waits for it: it must not queue behind the caller. `false`: no, and the
    /// caller does the work itself.
    fn run(&self, job: Box<dyn FnOnce() + Send>) -> bool;
}

/// Bytes of content before help is asked for: below, a thread costs more than it brings.
pub const HELP_FROM: u64 = 1 << 20;
