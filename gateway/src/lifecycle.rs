//! The life of the records: in view, out of view, deleted for good, and at last forgotten (product.md §6, durability.md §9).
//!
//! Ages round up to the next midnight UTC, never down. What is not final, and what is under legal hold, stays. A step
//! moves the bytes first, makes that durable, a batch with one sync, and marks the rows after; it may be repeated at any point.

mod brake;
mod rejected;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use as2_core::hex;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::clock::{DAY, Millis, midnight, millis, rfc3339};
use crate::config::{Lifecycle, Stages};
use crate::event::NewEvent;
use crate::gateway::Core;
use crate::journal::{Entry, JournalError, Swept, Tx, UploadRow, UploadState};
use crate::layout::{self, Area};
use crate::storage::StorageError;

use brake::Brake;
pub use brake::held;
pub use rejected::{Rejections, bound_rejected};

/// Entries that one transaction marks.
const BATCH: u32 = 500;
/// Messages, names or events that one transaction forgets; other writers wait meanwhile.
const FORGET_BATCH: u32 = 200;
/// When the last sweep ended, as milliseconds.
const FACT_LAST: &str = "lifecycle.last";
/// Set once the directories are gone that sweeps of before left behind.
const FACT_DIRECTORIES: &str = "lifecycle.directories";
/// How old these have to be: a fresh one may be just about to be filled.
const DIRECTORY_AGE: Duration = Duration::from_secs(48 * 3600);

/// The row of a plan that counts messages and not files.
pub const HISTORY: &str = "history";
/// Of uploads that broke off.
const PARTS: &str = "tmp";
/// What stands for an area where rejected messages were deleted because there are too many of them.
const REJECTED: &str = "rejected";

/// What a sweep would do, or did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Plan {
    /// One row per account and area with anything to do.
    pub rows: Vec<PlanRow>,
}

/// One account's area.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanRow {
    /// Whose.
    pub account: String,
    /// `files`, `headers`, …, `tmp`; [`HISTORY`] counts messages.
    pub area: String,
    /// Files that leave the view.
    pub noncurrent: u64,
    /// Files that are deleted for good; messages that are forgotten.
    pub delete: u64,
    /// Files or messages that are kept in all, before the sweep.
    pub all: u64,
}

impl PlanRow {
    fn gone(&self) -> u64 {
        self.noncurrent + self.delete
    }

    /// How much of what it is, in words.
    #[must_use]
    pub fn words(&self) -> String {
        let things = if self.area == HISTORY { "messages" } else { "files" };
        format!(
            "{} of {} {things} of account {}, {}",
            self.gone(),
            self.all,
            self.account,
            self.area
        )
    }
}

/// Why a sweep stopped.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The journal's word.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The storage's word.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An account's own figures cannot be read.
    #[error("account {account}: {why}")]
    Figures {
        /// Whose.
        account: String,
        /// Why.
        why: String,
    },
    /// Much is due that the time since the last sweep does not explain.
    #[error(
        "{} wait for a person, as the clock jumped or a life cycle was shortened; look at it with `as2gate lifecycle run --dry-run` and start it by hand with `as2gate lifecycle run`",
        .0.words()
    )]
    Brake(PlanRow),
}

/// The moments before which a stage has ended: made or taken out of view at or before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Due {
    made: Millis,
    retired: Millis,
}

impl Due {
    /// Before anything was made, and far enough from it that no time leads there.
    const NEVER: Due = Due {
        made: Millis::MIN / 2,
        retired: Millis::MIN / 2,
    };

    fn at(now: Millis, stages: Stages) -> Self {
        let midnight = midnight(now);
        Due {
            made: midnight - millis(stages.current),
            retired: midnight - millis(stages.noncurrent),
        }
    }

    fn later(self, by: Millis) -> Self {
        Due {
            made: self.made.saturating_add(by),
            retired: self.retired.saturating_add(by),
        }
    }

    fn min(self, other: Due) -> Self {
        Due {
            made: self.made.min(other.made),
            retired: self.retired.min(other.retired),
        }
    }
}

/// What a row of a plan is about.
#[derive(Clone, Copy)]
enum Kind {
    Area(Area),
    /// Of uploads that broke off.
    Parts,
    History,
}

/// What a sweep does for one account in one area.
struct Share {
    account: String,
    kind: Kind,
    stages: Stages,
}

impl Share {
    fn all_of(account: &str, lifecycle: &Lifecycle) -> Vec<Share> {
        let tmp = lifecycle.tmp.current.saturating_add(lifecycle.tmp.noncurrent);
        let areas = Area::ALL.iter().map(|area| (Kind::Area(*area), stages(lifecycle, *area)));
        let all = areas.chain([(Kind::Parts, one_stage(tmp)), (Kind::History, one_stage(lifecycle.history))]);
        let shares = all.map(|(kind, stages)| Share {
            account: account.to_owned(),
            kind,
            stages,
        });
        shares.collect()
    }

    fn area(&self) -> &'static str {
        match self.kind {
            Kind::Area(area) => area.as_str(),
            Kind::Parts => PARTS,
            Kind::History => HISTORY,
        }
    }

    fn due(&self, now: Millis) -> Due {
        Due::at(now, self.stages)
    }

    /// What goes up to these moments.
    fn count(&self, core: &Core, due: Due) -> Result<PlanRow, JournalError> {
        let (noncurrent, delete, all) = match self.kind {
            Kind::Area(area) => {
                let count = core.journal.read(|tx| tx.count_sweep(&self.account, area, due.made, due.retired))?;
                (count.retire, count.purge, count.all)
            }
            Kind::Parts => {
                let parts = parts(core, &self.account)?;
                let old = parts.iter().filter(|row| row.updated <= due.made).count();
                (0, counted(old), counted(parts.len()))
            }
            Kind::History => {
                let (forget, messages) = core.journal.read(|tx| tx.count_history(&self.account, due.made))?;
                (0, forget, messages)
            }
        };
        Ok(PlanRow {
            account: self.account.clone(),
            area: self.area().to_owned(),
            noncurrent,
            delete,
            all,
        })
    }
}

fn counted(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// Of what goes in one step.
fn one_stage(span: Duration) -> Stages {
    Stages {
        current: span,
        noncurrent: span,
    }
}

/// Whether a part of an upload is still shown to its user.
#[must_use]
pub fn part_is_current(core: &Core, updated: Millis) -> bool {
    updated > core.clock.now() - millis(core.config.uploads.keep_partial)
}

fn stages(lifecycle: &Lifecycle, area: Area) -> Stages {
    match area {
        Area::Duplicate => lifecycle.duplicate,
        Area::Files | Area::Headers | Area::RawMessage | Area::RawMdn => lifecycle.messages,
    }
}

fn figures(core: &Core) -> Result<Vec<(String, Lifecycle)>, SweepError> {
    let objects = core.objects();
    let own = objects.accounts.values().map(|account| {
        let lifecycle = core.config.lifecycle.with(account.lifecycle.as_ref());
        lifecycle
            .map(|figures| (account.id.clone(), figures))
            .map_err(|why| SweepError::Figures {
                account: account.id.clone(),
                why,
            })
    });
    own.collect()
}

fn shares(core: &Core) -> Result<Vec<Share>, SweepError> {
    let all = figures(core)?;
    Ok(all
        .iter()
        .flat_map(|(account, lifecycle)| Share::all_of(account, lifecycle))
        .collect())
}

/// What a sweep would do now.
///
/// # Errors
/// The journal's, or unreadable figures.
pub fn plan(core: &Core) -> Result<Plan, SweepError> {
    let (now, shares) = (core.clock.now(), shares(core)?);
    let rows = shares.iter().map(|share| share.count(core, share.due(now)));
    Ok(Plan {
        rows: rows.collect::<Result<_, _>>()?,
    })
}

/// Parts of broken-off uploads.
fn parts(core: &Core, account: &str) -> Result<Vec<UploadRow>, JournalError> {
    let mut rows = core.journal.read(|tx| tx.all_uploads())?;
    rows.retain(|row| row.account == account && row.state == UploadState::Part);
    Ok(rows)
}

/// Sweeps now. `by_hand`: a person has looked, so the brake does not count.
///
/// # Errors
/// The first trouble; what was done stays done, and the next sweep goes on.
pub fn run(core: &Arc<Core>, by_hand: bool) -> Result<Plan, SweepError> {
    let swept = sweep(core, by_hand);
    // Also of one that stopped half-way.
    let told = tell_swept(core);
    let plan = swept?;
    told?;
    Ok(plan)
}

/// One event for each account and area of which something went since the last ones.
fn tell_swept(core: &Core) -> Result<(), JournalError> {
    let now = core.clock.now();
    core.journal.write_blocking(move |tx| {
        for (account, area, swept) in tx.take_tallies()? {
            let facts = if area == REJECTED {
                json!({ "area": area, "messages": swept.deleted, "bytes": swept.bytes })
            } else {
                json!({ "area": area, "noncurrent": swept.noncurrent, "deleted": swept.deleted, "bytes": swept.bytes })
            };
            let event = NewEvent {
                account: &account,
                kind: "lifecycle.swept",
                subject: &account,
                facts,
            };
            tx.record(&event, now)?;
        }
        Ok(())
    })
}

fn sweep(core: &Arc<Core>, by_hand: bool) -> Result<Plan, SweepError> {
    let (now, shares) = (core.clock.now(), shares(core)?);
    let mut brake = Brake::new(core, now, by_hand)?;
    let mut plan = Plan::default();
    let mut borders = Vec::with_capacity(shares.len());
    for share in &shares {
        let (row, due) = brake.judge(core, share)?;
        plan.rows.push(row);
        borders.push((share, due));
    }
    let mut histories = Vec::new();
    for (share, due) in borders {
        match share.kind {
            Kind::Area(area) => sweep_area(core, &share.account, area, &due)?,
            Kind::Parts => drop_parts(core, &share.account, due.made)?,
            Kind::History => histories.push((share.account.clone(), due.made)),
        }
    }
    // Refused messages to stations that are not here belong to nobody, who waits for no person.
    let nobody = Share {
        account: String::new(),
        kind: Kind::History,
        stages: one_stage(core.config.lifecycle.history),
    };
    histories.push((String::new(), brake.keep_pace(&nobody).made));
    forget(core, now, histories)?;
    if core.journal.read(|tx| tx.fact(FACT_DIRECTORIES))?.is_none() {
        let gone = core.storage.drop_unlisted_directories(DIRECTORY_AGE.as_secs())?;
        core.journal.write_blocking(|tx| tx.set_fact(FACT_DIRECTORIES, "gone"))?;
        if gone > 0 {
            tracing::info!(gone, "removed empty directories that earlier sweeps left behind");
        }
    }
    let held = brake.held().first().cloned();
    core.journal.write_blocking(move |tx| {
        tx.forget_windows(brake.believed())?;
        brake.note(tx)
    })?;
    // Noted where whoever rewrites the table does not get at it (security.md §11).
    let head = core.journal.read(|tx| tx.last_hash())?;
    tracing::info!(
        head = hex(&head),
        "head of the chain of events; `as2gate audit verify --head` finds it again"
    );
    for row in plan.rows.iter().filter(|row| row.gone() > 0) {
        tracing::info!(
            account = row.account,
            area = row.area,
            noncurrent = row.noncurrent,
            deleted = row.delete,
            "life cycle"
        );
    }
    held.map_or(Ok(plan), |row| Err(SweepError::Brake(row)))
}

fn sweep_area(core: &Core, account: &str, area: Area, due: &Due) -> Result<(), SweepError> {
    // The rows say from which midnight the next stage counts, whatever the hour at which somebody came to look.
    let now = core.clock.now();
    let midnight = midnight(now);
    let mut last = None;
    loop {
        let entries = core
            .journal
            .read(|tx| tx.to_retire(account, area, due.made, last.as_ref(), BATCH))?;
        if entries.is_empty() {
            break;
        }
        last = entries.last().cloned();
        for entry in &entries {
            core.storage.retire(entry)?;
        }
        core.storage.drop_emptied(&entries);
        core.storage.sync_names()?;
        mark(core, account, area.as_str(), move |tx| {
            let mut step = Swept::default();
            for entry in &entries {
                step.noncurrent += u64::from(tx.retire_entry(entry, midnight)? && !entry.is_dir);
            }
            Ok(step)
        })?;
    }
    let mut last = None;
    loop {
        let (entries, end) = core.journal.read(|tx| tx.to_purge(account, area, due.retired, last, BATCH))?;
        if entries.is_empty() {
            return Ok(());
        }
        last = end;
        purge(core, account, area, entries)?;
    }
}

/// Marks the rows of a step, and with them what it did.
fn mark(
    core: &Core,
    account: &str,
    area: &'static str,
    rows: impl FnOnce(&Tx<'_>) -> Result<Swept, JournalError> + Send + 'static,
) -> Result<(), JournalError> {
    let account = account.to_owned();
    let step = core.journal.write_blocking(move |tx| {
        let step = rows(tx)?;
        tx.tally(&account, area, step)?;
        Ok(step)
    })?;
    core.metrics.swept(area, step);
    Ok(())
}

/// Deletes entries for good. Each is looked at once more just before: whoever lays a hold meanwhile saves all that is still there.
fn purge(core: &Core, account: &str, area: Area, entries: Vec<Entry>) -> Result<(), SweepError> {
    let mut gone = Vec::with_capacity(entries.len());
    for entry in entries {
        if core.journal.read(|tx| tx.may_purge(&entry))? {
            core.storage.purge(&entry)?;
            gone.push(entry);
        }
    }
    core.storage.sync_names()?;
    mark(core, account, area.as_str(), move |tx| {
        let mut step = Swept::default();
        for entry in &gone {
            if tx.purge_entry(entry)? && !entry.is_dir {
                step.deleted += 1;
                step.bytes += entry.size;
            }
        }
        Ok(step)
    })?;
    Ok(())
}

fn drop_parts(core: &Core, account: &str, before: Millis) -> Result<(), SweepError> {
    let parts = parts(core, account)?;
    for row in parts.into_iter().filter(|row| row.updated <= before) {
        let store = row.store.clone();
        mark(core, account, PARTS, move |tx| {
            let gone = Swept {
                deleted: 1,
                bytes: row.size,
                ..Swept::default()
            };
            Ok(if tx.remove_upload(&row)? { gone } else { Swept::default() })
        })?;
        core.let_go_blocking(vec![store]);
    }
    Ok(())
}

/// Forgets messages whose files are gone for good and that ended up to the moment of their account, and then the events that are
/// older than every message that is still known.
fn forget(core: &Core, now: Millis, histories: Vec<(String, Millis)>) -> Result<(), SweepError> {
    // Whose sweep is held back keeps its events too.
    let oldest = histories.iter().map(|(_, ended)| *ended).min();
    for (account, ended) in histories {
        let messages = repeat(core, {
            let account = account.clone();
            move |tx| tx.forget_messages(&account, ended, FORGET_BATCH)
        })?;
        if messages > 0 {
            core.journal.write_blocking(move |tx| {
                let event = NewEvent {
                    account: &account,
                    kind: "history.forgotten",
                    subject: &account,
                    facts: json!({ "messages": messages, "ended_before": rfc3339(ended) }),
                };
                tx.record(&event, now)
            })?;
        }
    }
    oldest.map_or(Ok(()), |oldest| trim_events(core, oldest, now))
}

/// Does it until less than a batch was left to do; how much it was in all.
fn repeat(core: &Core, step: impl Fn(&Tx<'_>) -> Result<usize, JournalError> + Clone + Send + 'static) -> Result<u64, SweepError> {
    let mut done = 0u64;
    loop {
        let count = u64::try_from(core.journal.write_blocking(step.clone())?).unwrap_or(u64::MAX);
        done += count;
        if count < u64::from(FORGET_BATCH) {
            return Ok(done);
        }
    }
}

/// Takes events off the front of their chain; which ones is the chain's own last word about them.
fn trim_events(core: &Core, before: Millis, now: Millis) -> Result<(), SweepError> {
    let through = core.journal.read(|tx| {
        let oldest = tx.oldest_message()?.unwrap_or(Millis::MAX);
        tx.events_before(before.min(oldest))
    })?;
    let mut events = 0;
    let mut last = None;
    while let Some(trimmed) = core.journal.write_blocking(move |tx| tx.trim_events(through, FORGET_BATCH))? {
        events += trimmed.events;
        last = Some(trimmed);
    }
    if let Some(last) = last {
        core.journal.write_blocking(move |tx| {
            let event = NewEvent {
                account: "",
                kind: "audit.trimmed",
                subject: "events",
                facts: json!({ "events": events, "through": last.through, "head": hex(&last.head) }),
            };
            tx.record(&event, now)
        })?;
    }
    Ok(())
}

/// Takes one entry out of view at once: a user's delete.
///
/// # Errors
/// The disk's or the journal's.
pub fn retire_now(core: &Core, entry: Entry) -> Result<(), SweepError> {
    let now = core.clock.now();
    core.storage.retire(&entry)?;
    if !entry.is_dir {
        core.storage.sync_retired(&entry)?;
    }
    core.journal.write_blocking(move |tx| tx.retire_entry(&entry, now))?;
    Ok(())
}

/// Brings everything below a path back into view; the number of files. Their life begins anew.
///
/// # Errors
/// The disk's or the journal's.
pub fn restore(core: &Core, account: &str, path: &str) -> Result<u64, SweepError> {
    let path = layout::below_home(account, path.trim_matches('/'));
    let now = core.clock.now();
    let _restoring = core.storage.restoring()?;
    let mut restored = 0;
    let mut last: Option<Entry> = None;
    loop {
        let entries = core.journal.read(|tx| tx.noncurrent_below(account, path, last.as_ref(), BATCH))?;
        let Some(end) = entries.last() else { break };
        last = Some(end.clone());
        restored += bring_back(core, path, entries, now)?;
    }
    restore_parents(core, account, path, now)?;
    Ok(restored)
}

/// Brings back all of a message's files; how many. Their life begins anew.
///
/// # Errors
/// The disk's or the journal's.
pub fn restore_message(core: &Core, id: &str) -> Result<u64, SweepError> {
    let now = core.clock.now();
    let _restoring = core.storage.restoring()?;
    let mut hidden = core.journal.read(|tx| tx.entries_of(id))?;
    hidden.retain(|entry| entry.noncurrent.is_some());
    hidden.sort_by(|a, b| (&a.parent, &a.name, b.version).cmp(&(&b.parent, &b.name, a.version)));
    let places: BTreeSet<(String, String)> = hidden.iter().map(|e| (e.account.clone(), e.parent.clone())).collect();
    let restored = bring_back(core, id, hidden, now)?;
    for (account, place) in &places {
        restore_parents(core, account, place, now)?;
    }
    Ok(restored)
}

/// The midnight UTC from which on a file that has left the view may be deleted for good; `None` of one that is in view.
///
/// # Errors
/// Unreadable figures of its account.
pub fn kept_until(core: &Core, entry: &Entry) -> Result<Option<Millis>, SweepError> {
    let Some(left) = entry.noncurrent else { return Ok(None) };
    let own = core
        .objects()
        .accounts
        .get(&entry.account)
        .and_then(|account| account.lifecycle.clone());
    let figures = core.config.lifecycle.with(own.as_ref()).map_err(|why| SweepError::Figures {
        account: entry.account.clone(),
        why,
    })?;
    let end = left.saturating_add(millis(stages(&figures, entry.area).noncurrent));
    Ok(Some(end.saturating_add((-end).rem_euclid(DAY))))
}

/// Brings these back, of the message or path that was named; the number of files.
fn bring_back(core: &Core, named: &str, entries: Vec<Entry>, now: Millis) -> Result<u64, SweepError> {
    let mut back: Vec<Entry> = Vec::new();
    for entry in entries {
        // The newest version of a name comes first, at once behind it the older ones, which come back only if the name is free.
        let is_taken = back
            .last()
            .is_some_and(|last| (&last.parent, &last.name) == (&entry.parent, &entry.name));
        if is_taken
            || core
                .journal
                .read(|tx| tx.entry(&entry.account, &entry.parent, &entry.name))?
                .is_some()
        {
            continue;
        }
        if core.storage.restore(&entry)? {
            back.push(entry);
        }
    }
    if back.is_empty() {
        return Ok(0);
    }
    core.storage.sync_names()?;
    let named = named.to_owned();
    let restored = core.journal.write_blocking(move |tx| {
        let (mut restored, mut bytes) = (0, 0);
        for entry in &back {
            if tx.restore_entry(entry, now)? && !entry.is_dir {
                restored += 1;
                bytes += entry.size;
            }
        }
        if let Some(first) = back.first().filter(|_| restored > 0) {
            let event = NewEvent {
                account: &first.account,
                kind: "lifecycle.restored",
                subject: &named,
                facts: json!({ "files": restored, "bytes": bytes }),
            };
            tx.record(&event, now)?;
        }
        Ok(restored)
    })?;
    Ok(restored)
}

/// The directories above a restored path come back with it.
fn restore_parents(core: &Core, account: &str, path: &str, now: Millis) -> Result<(), SweepError> {
    let mut above = path;
    while let Some((parent, name)) = above.rsplit_once('/') {
        let mut hidden = core.journal.read(|tx| tx.noncurrent_below(account, above, None, 1))?;
        hidden.retain(|entry| entry.is_dir && entry.parent == parent && entry.name == name);
        bring_back(core, above, hidden, now)?;
        above = parent;
    }
    Ok(())
}

/// Whether the daily sweep is due: the day's time has come and no sweep ended since.
///
/// # Errors
/// The journal's.
pub fn is_due(core: &Core) -> Result<bool, JournalError> {
    let now = core.clock.now();
    let run_at = millis(core.config.lifecycle.run_at);
    let today = midnight(now) + run_at;
    let latest = if today <= now { today } else { today - DAY };
    let last = core.journal.read(|tx| tx.number_fact(FACT_LAST))?.unwrap_or(Millis::MIN);
    // A mark in the future comes from a clock that went wrong.
    Ok(last < latest || last > now)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::task::block_in_place;

    use super::rejected::tests::{files_below, reject};
    use super::*;
    use crate::manage::tests::{place, plain_pair, set_bob};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_hold_saves_what_a_sweep_has_read_already() {
        let place = place().await;
        plain_pair(&place.core).await;
        let core = &place.core;
        let now = core.clock.now();
        let id = reject(core, now, 3).await;
        let entries = || core.journal.read(|tx| tx.entries_of(id.as_str())).unwrap();
        block_in_place(|| {
            core.storage.publish_listed().unwrap();
            entries().into_iter().for_each(|entry| retire_now(core, entry).unwrap());
        });
        let read = entries();
        let left = || files_below(&place.dir.path().join("noncurrent"));
        assert!(read.iter().all(|entry| entry.noncurrent.is_some()) && left() == 1, "{read:?}");
        set_bob(core, &[("hold", "true")]).await;
        block_in_place(|| purge(core, "acme", Area::RawMessage, read.clone())).unwrap();
        assert_eq!((entries(), left()), (read.clone(), 1));
        set_bob(core, &[("hold", "false")]).await;
        block_in_place(|| purge(core, "acme", Area::RawMessage, read)).unwrap();
        assert_eq!((entries().len(), left()), (0, 0));
    }
}
