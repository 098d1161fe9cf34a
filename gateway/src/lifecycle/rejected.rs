//! A bound on what is kept of rejected messages: names in a header prove nothing, so that whoever knows those of a pair might fill
//! the disk with bodies that are kept as evidence for weeks.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

use super::{REJECTED, SweepError};
use crate::gateway::Core;
use crate::journal::{JournalError, Swept};
use crate::lock::locked;
use crate::message::Message;

/// Rejected messages of a pair that are kept, with a signature that holds and without; the oldest of either go first.
const MAX_MESSAGES: u32 = 1_000;
/// Bytes of their bodies. The newest message is kept in any case.
const MAX_BYTES: u64 = 1 << 30;
/// Messages looked up at once.
const BATCH: u32 = 100;

/// The pairs with messages that were rejected since somebody looked how many are kept. A restart forgets them: their next one is
/// soon enough.
#[derive(Default)]
pub struct Rejections {
    pairs: Mutex<BTreeSet<(String, String)>>,
    noted: Notify,
}

impl Rejections {
    /// A message was rejected.
    pub fn note(&self, message: &Message) {
        self.pairs().insert((message.station.clone(), message.partner.clone()));
        self.noted.notify_one();
    }

    fn pairs(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        locked(&self.pairs)
    }

    /// Wakes one that waits after [`Rejections::note`].
    #[must_use]
    pub fn noted(&self) -> &Notify {
        &self.noted
    }
}

/// Deletes the oldest rejected messages of pairs that have too many of them, for good; how many. Those of a partner under legal
/// hold stay.
///
/// # Errors
/// The first trouble; `Held` while a backup is taken. What was done stays done, and the rest is left to the next call.
pub fn bound_rejected(core: &Core) -> Result<u64, SweepError> {
    let mut left = std::mem::take(&mut *core.rejections.pairs());
    let mut all = 0;
    while let Some((station, partner)) = left.first() {
        match bound_pair(core, station, partner) {
            Ok(gone) => all += gone,
            Err(error) => {
                core.rejections.pairs().append(&mut left);
                return Err(error);
            }
        }
        left.pop_first();
    }
    Ok(all)
}

fn bound_pair(core: &Core, station: &str, partner: &str) -> Result<u64, SweepError> {
    let mut gone = 0u64;
    if is_held(core, station, partner) {
        return Ok(gone);
    }
    loop {
        let ids = core
            .journal
            .read(|tx| tx.rejected_over(station, partner, MAX_MESSAGES, MAX_BYTES, BATCH))?;
        let before = gone;
        for id in ids {
            // Whoever lays a hold meanwhile saves the rest.
            if !is_held(core, station, partner) {
                gone += u64::from(delete(core, id)?);
            }
        }
        if gone == before {
            break;
        }
    }
    if gone > 0 {
        tracing::warn!(
            station,
            partner,
            gone,
            "many messages are rejected: the oldest of them were deleted"
        );
    }
    Ok(gone)
}

fn is_held(core: &Core, station: &str, partner: &str) -> bool {
    let objects = core.objects();
    let account = objects.stations.get(station).map(|station| station.account.as_str());
    account
        .and_then(|account| objects.partner(account, partner))
        .is_some_and(|partner| partner.hold)
}

/// Deletes a message's files and then all that is known of it; false if its MDN is just being posted.
fn delete(core: &Core, id: String) -> Result<bool, SweepError> {
    // Whatever is being published would be left without a row.
    core.storage.between_rounds(|| {
        let entries = core.journal.read(|tx| tx.entries_of(&id))?;
        let (dirs, files): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .filter(|entry| entry.store.is_empty())
            .partition(|entry| entry.is_dir);
        core.storage.delete(&[files, dirs].concat())?;
        let forget = core.journal.write_blocking(move |tx| {
            let message = tx.expect_message(&id)?;
            let keys = tx.forget_rejected(&id)?;
            // The next sweep tells of all of them: in a flood there is no end of such moments.
            let gone = Swept {
                deleted: 1,
                bytes: message.detail.raw_size,
                ..Swept::default()
            };
            tx.tally(&message.account, REJECTED, gone)?;
            Ok(keys)
        });
        match forget {
            Ok(keys) => {
                core.let_go_blocking(keys);
                Ok(true)
            }
            Err(JournalError::Conflict(_) | JournalError::NotFound(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    })
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::task::block_in_place;

    use super::*;
    use crate::clock::Millis;
    use crate::journal::{Filing, NewEntry, blob_key};
    use crate::layout::{self, Area, Tray};
    use crate::manage::tests::{message, place, plain_pair, set_bob};
    use crate::message::{Direction, Id, State};
    use crate::storage::StorageError;

    /// A rejected message with a body of this size, its evidence published.
    pub(in crate::lifecycle) async fn reject(core: &Core, at: Millis, size: u64) -> Id {
        rejected(core, at, size, "").await
    }

    /// The same with the digest of a signature that holds.
    async fn rejected(core: &Core, at: Millis, size: u64, signed: &str) -> Id {
        let mut row = message(Direction::In, State::Rejected, "", at);
        row.detail.raw_size = size;
        signed.clone_into(&mut row.detail.signed);
        row.message_id = format!("<{}@bob>", row.id);
        row.finished = Some(at);
        let id = row.id.clone();
        let shelf = layout::shelf(Area::RawMessage, "ALICE", "BOB", Tray::Inbox);
        let key = blob_key(id.as_str());
        let entries = vec![
            NewEntry::dir(Area::RawMessage, shelf.clone(), id.as_str()),
            NewEntry::file(Area::RawMessage, format!("{shelf}/{id}"), layout::RAW_FILE, &key, 3),
        ];
        core.rejections.note(&row);
        let filing = Filing {
            message: row,
            entries,
            blobs: vec![(key, bytes::Bytes::from_static(b"bad"))],
            mdn: None,
            post_mdn_at: None,
        };
        core.journal.write(move |tx| tx.record_refused(&filing, at)).await.unwrap();
        id
    }

    fn bound(core: &Core) -> u64 {
        block_in_place(|| bound_rejected(core)).unwrap()
    }

    pub(in crate::lifecycle) fn files_below(dir: &std::path::Path) -> usize {
        let mut all = 0;
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            all += if entry.path().is_dir() { files_below(&entry.path()) } else { 1 };
        }
        all
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rejected_messages_fill_no_disk() {
        let place = place().await;
        plain_pair(&place.core).await;
        let core = &place.core;
        let now = core.clock.now();
        let big = MAX_BYTES / 2;
        let first = reject(core, now, big).await;
        block_in_place(|| core.storage.publish_listed()).unwrap();
        assert_eq!(bound(core), 0);
        // One that is published and one that is not go for those that came later.
        let second = reject(core, now + 1, big).await;
        let third = reject(core, now + 2, big).await;
        let fourth = reject(core, now + 3, 3 * big).await;
        // A backup that is being taken keeps all of them, and its end is no new rejection.
        let hold = core.storage.hold().unwrap();
        let kept = block_in_place(|| bound_rejected(core));
        assert!(matches!(kept, Err(SweepError::Storage(StorageError::Held))), "{kept:?}");
        drop(hold);
        assert_eq!(bound(core), 3, "the newest stays, however large it is");
        let known = |id: &Id| core.journal.read(|tx| tx.message(id.as_str())).unwrap().is_some();
        assert_eq!([&first, &second, &third, &fourth].map(known), [false, false, false, true]);
        assert!(core.journal.read(|tx| tx.entries_of(second.as_str())).unwrap().is_empty());
        assert!(!core.journal.read(|tx| tx.names_store_key(&blob_key(third.as_str()))).unwrap());
        assert!(core.journal.read(|tx| tx.blob(&blob_key(third.as_str()))).unwrap().is_none());
        block_in_place(|| core.storage.publish_listed()).unwrap();
        assert_eq!(files_below(&place.dir.path().join("tree")), 1);
        // Told with the next sweep.
        block_in_place(|| super::super::run(core, false)).unwrap();
        let told = core
            .journal
            .read(|tx| tx.events(0, Some("acme"), Some("lifecycle.swept"), 5))
            .unwrap();
        let facts = serde_json::json!({ "area": "rejected", "messages": 3, "bytes": 3 * big });
        assert_eq!(told.iter().map(|event| &event.facts).collect::<Vec<_>>(), [&facts]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_partner_signed_goes_for_nobody_else() {
        let place = place().await;
        plain_pair(&place.core).await;
        let core = &place.core;
        let now = core.clock.now();
        let known = |id: &Id| core.journal.read(|tx| tx.message(id.as_str())).unwrap().is_some();
        let signed = rejected(core, now, MAX_BYTES, "sha-256").await;
        let stranger = reject(core, now + 1, MAX_BYTES).await;
        reject(core, now + 2, MAX_BYTES).await;
        assert_eq!(bound(core), 1);
        assert_eq!([&signed, &stranger].map(known), [true, false]);
        // Its own do.
        rejected(core, now + 3, MAX_BYTES, "sha-256").await;
        assert_eq!(bound(core), 1);
        assert!(!known(&signed));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn small_ones_are_bounded_by_number_and_so_are_their_events() {
        let place = place().await;
        plain_pair(&place.core).await;
        let core = &place.core;
        let now = core.clock.now();
        let mut ids = Vec::new();
        for at in 0..i64::from(MAX_MESSAGES) + 3 {
            ids.push(reject(core, now + at, 3).await);
        }
        let events = core.journal.read(|tx| tx.events(0, None, Some("message.rejected"), 5_000)).unwrap();
        assert_eq!(events.len(), 999, "a flood is told often enough");
        set_bob(core, &[("hold", "true")]).await;
        assert_eq!(bound(core), 0, "legal hold");
        set_bob(core, &[("hold", "false")]).await;
        ids.push(reject(core, now + i64::from(MAX_MESSAGES) + 3, 3).await);
        assert_eq!(bound(core), 4);
        let known = |id: &&Id| core.journal.read(|tx| tx.message(id.as_str())).unwrap().is_some();
        assert_eq!(ids.iter().filter(known).count(), MAX_MESSAGES as usize);
        assert!(!known(&&ids[3]) && known(&&ids[4]), "the oldest go");
        // An hour later they are events again.
        reject(core, now + 4_000_000, 3).await;
        let events = core.journal.read(|tx| tx.events(0, None, Some("message.rejected"), 5_000)).unwrap();
        assert_eq!(events.len(), 1_000);
    }
}
