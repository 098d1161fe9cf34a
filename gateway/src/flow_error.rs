//! What stops a flow: faults of ours. Whatever a partner does is an outcome.

use tokio::task::JoinError;

use crate::journal::JournalError;
use crate::partnership::Lack;
use crate::storage::StorageError;

/// What went wrong on our side while working on a message. The worker gives the job back, and it is tried again
/// after a pause.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// The journal's word.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The storage's word.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The pair cannot trade at this moment.
    #[error(transparent)]
    Lacking(#[from] Lack),
    /// A task of ours panicked or was cancelled.
    #[error(transparent)]
    Task(#[from] JoinError),
    /// What should not happen, in words.
    #[error("{0}")]
    Internal(String),
}
