//! What users did to files, on its way into the journal. These events follow the deeds within a second and share commits,
//! so that no transfer waits for them; what must not be lost about a file is recorded with the decision about it.

use std::sync::Mutex;

use serde_json::Value;

use crate::clock::Millis;
use crate::event::NewEvent;
use crate::journal::{JournalError, Tx};
use crate::lock::locked;

/// Events that wait for the next write, at most; further ones are counted in the log only.
const MAX_WAITING: usize = 10_000;

/// One deed.
struct Deed {
    at: Millis,
    account: String,
    kind: &'static str,
    user: String,
    facts: Value,
}

/// The deeds not yet written.
#[derive(Default)]
pub(super) struct Trail(Mutex<Vec<Deed>>);

/// Deeds to be written in one change.
pub(super) struct Batch(Vec<Deed>);

impl Trail {
    pub(super) fn add(&self, kind: &'static str, account: &str, user: &str, facts: Value, at: Millis) {
        tracing::info!(user, %facts, "{kind}");
        let mut deeds = locked(&self.0);
        if deeds.len() < MAX_WAITING {
            deeds.push(Deed {
                at,
                account: account.to_owned(),
                kind,
                user: user.to_owned(),
                facts,
            });
        } else {
            tracing::warn!(user, "too many events wait for the journal; this one stands here only");
        }
    }

    /// Takes what waits, if anything does.
    pub(super) fn take(&self) -> Option<Batch> {
        let deeds = std::mem::take(&mut *locked(&self.0));
        (!deeds.is_empty()).then_some(Batch(deeds))
    }
}

impl Batch {
    /// Writes the deeds, oldest first.
    pub(super) fn record(&self, tx: &Tx<'_>) -> Result<(), JournalError> {
        self.0.iter().try_for_each(|deed| {
            let event = NewEvent {
                account: &deed.account,
                kind: deed.kind,
                subject: &deed.user,
                facts: deed.facts.clone(),
            };
            tx.record(&event, deed.at)
        })
    }
}
