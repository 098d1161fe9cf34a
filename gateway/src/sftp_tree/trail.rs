//! What users did to files, on its way into the journal. These events follow the deeds within a second and share commits,
//! so that no transfer waits for them; what must not be lost about a file is recorded with the decision about it.

use std::sync::Mutex;

use serde_json::Value;

use crate::clock::Millis;
use crate::event::NewEvent;
use crate::journal::{Journal, JournalError, Tx};
use crate::lock::locked;

/// Events that wait for the next write, at most; further ones are counted in the log only.
const MAX_WAITING: usize = 10_000;

/// One deed.
#[derive(Clone)]
pub(super) struct Deed {
    pub(super) at: Millis,
    pub(super) account: String,
    pub(super) kind: &'static str,
    pub(super) user: String,
    pub(super) facts: Value,
}

/// The deeds not yet written.
#[derive(Default)]
pub(super) struct Trail(Mutex<Vec<Deed>>);

/// Deeds to be written in one change.
#[derive(Clone, Default)]
struct Batch(Vec<Deed>);

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

    /// Takes what waits.
    fn take(&self) -> Batch {
        Batch(std::mem::take(&mut *locked(&self.0)))
    }

    /// Puts what could not be written back in front of what has come meanwhile.
    fn put_back(&self, batch: Batch) {
        let mut deeds = locked(&self.0);
        let later = std::mem::replace(&mut *deeds, batch.0);
        deeds.extend(later);
        let end = deeds.len().min(MAX_WAITING);
        for lost in deeds.drain(end..) {
            tracing::warn!(
                user = lost.user,
                facts = %lost.facts,
                "too many events wait for the journal; this {} stands here only",
                lost.kind
            );
        }
    }

    /// Writes what waits. What cannot be written waits on.
    pub(super) async fn write(&self, journal: &Journal) -> Result<(), JournalError> {
        let batch = self.take();
        if batch.0.is_empty() {
            return Ok(());
        }
        let written = batch.clone();
        let outcome = journal.write(move |tx| written.record(tx)).await;
        if outcome.is_err() {
            self.put_back(batch);
        }
        outcome
    }

    /// Writes what waits, and this deed behind it. What cannot be written waits on.
    pub(super) fn write_with(&self, journal: &Journal, deed: Deed) -> Result<(), JournalError> {
        let mut batch = self.take();
        batch.0.push(deed);
        let written = batch.clone();
        let outcome = journal.write_blocking(move |tx| written.record(tx));
        if outcome.is_err() {
            self.put_back(batch);
        }
        outcome
    }
}

impl Batch {
    /// Writes the deeds, oldest first.
    fn record(&self, tx: &Tx<'_>) -> Result<(), JournalError> {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;
    use tokio::task::block_in_place;

    use super::*;
    use crate::manage::tests::place;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_cannot_be_written_waits() {
        let place = place().await;
        let journal = &place.core.journal;
        let sql = |statement: &str| {
            let db = rusqlite::Connection::open(place.core.config.paths().db).unwrap();
            db.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
            db.execute_batch(statement).unwrap();
        };
        let trail = Trail::default();
        let deed = |at: Millis| trail.add("user.download", "acme", "ann", json!({ "n": at }), at);
        let login = |at: Millis| Deed {
            at,
            account: "acme".to_owned(),
            kind: "user.login",
            user: "ann".to_owned(),
            facts: json!({ "n": at }),
        };
        sql("CREATE TRIGGER no_room BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'no room'); END");
        deed(1);
        deed(2);
        trail.write(journal).await.unwrap_err();
        deed(3);
        block_in_place(|| trail.write_with(journal, login(4))).unwrap_err();
        deed(5);
        trail.write(journal).await.unwrap_err();
        sql("DROP TRIGGER no_room");
        trail.write(journal).await.unwrap();
        let events = journal.read(|tx| tx.events(0, Some("ann"), None, 10)).unwrap();
        let known: Vec<_> = events.iter().map(|event| (event.at, event.kind.as_str())).collect();
        let (read, login) = ("user.download", "user.login");
        assert_eq!(known, [(1, read), (2, read), (3, read), (4, login), (5, read)]);
        // They are bounded, and the oldest stay.
        (0..MAX_WAITING as i64).for_each(deed);
        let batch = trail.take();
        deed(-1);
        trail.put_back(batch);
        let kept = trail.take().0;
        assert_eq!(
            (kept.len(), kept[0].at, kept[MAX_WAITING - 1].at),
            (MAX_WAITING, 0, MAX_WAITING as i64 - 1)
        );
    }
}
