//! The life of the records: in view, out of view, deleted for good (product.md §6, durability.md §9).
//!
//! Ages round up to the next midnight UTC, never down. What is not final, and what is under legal hold, stays. A step
//! moves the bytes first and marks the row after, and may be repeated at any point.

use std::sync::Arc;

use as2_core::hex;
use serde::Serialize;

use crate::clock::{Millis, millis};
use crate::config::{Lifecycle, Stages};
use crate::gateway::Core;
use crate::journal::{Entry, JournalError, UploadState};
use crate::layout::Area;
use crate::storage::StorageError;

/// Entries that one transaction marks.
const BATCH: u32 = 500;
/// An automatic sweep that would take more files of an area than this, and more than a fifth of all, waits for a person.
const BRAKE: u64 = 100;
const DAY: Millis = 24 * 3600 * 1000;
/// When the last sweep ended, as milliseconds.
const FACT_LAST: &str = "lifecycle.last";

/// What a sweep would do, or did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Plan {
    /// One row per account and area with anything to do.
    pub rows: Vec<PlanRow>,
}

/// One account's area.
#[derive(Clone, Debug, Serialize)]
pub struct PlanRow {
    /// Whose.
    pub account: String,
    /// `files`, `headers`, …, `tmp`.
    pub area: String,
    /// Files that leave the view.
    pub noncurrent: u64,
    /// Files that are deleted for good.
    pub delete: u64,
    /// Files that are kept in all, before the sweep.
    pub all: u64,
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
    /// Suspiciously much would go.
    #[error(
        "the sweep would take {delete} of {all} files of account {account}, {area}; look at it with `as2gate lifecycle run --dry-run` and start it by hand with `as2gate lifecycle run`"
    )]
    Brake {
        /// Whose.
        account: String,
        /// Where.
        area: String,
        /// Would go.
        delete: u64,
        /// Are there.
        all: u64,
    },
}

/// The moments before which a stage has ended: made or taken out of view at or before them.
struct Due {
    made: Millis,
    retired: Millis,
}

impl Due {
    fn at(now: Millis, stages: Stages) -> Self {
        let midnight = now - now.rem_euclid(DAY);
        Due {
            made: midnight - millis(stages.current),
            retired: midnight - millis(stages.noncurrent),
        }
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

/// What a sweep would do now.
///
/// # Errors
/// The journal's, or unreadable figures.
pub fn plan(core: &Core) -> Result<Plan, SweepError> {
    let now = core.clock.now();
    let mut rows = Vec::new();
    for (account, lifecycle) in figures(core)? {
        for area in Area::ALL {
            let due = Due::at(now, stages(&lifecycle, *area));
            let count = core.journal.read(|tx| tx.count_sweep(&account, *area, due.made, due.retired))?;
            rows.push(PlanRow {
                account: account.clone(),
                area: area.to_string(),
                noncurrent: count.retire,
                delete: count.purge,
                all: count.all,
            });
        }
        let (parts, old) = parts(core, &account, lifecycle.tmp, now)?;
        rows.push(PlanRow {
            account,
            area: "tmp".to_owned(),
            noncurrent: 0,
            delete: old,
            all: parts,
        });
    }
    Ok(Plan { rows })
}

/// Parts of broken-off uploads: all, and those whose time is over.
fn parts(core: &Core, account: &str, tmp: Stages, now: Millis) -> Result<(u64, u64), SweepError> {
    let before = Due::at(now, tmp).made - millis(tmp.noncurrent);
    let rows = core.journal.read(|tx| tx.uploads_before(Millis::MAX))?;
    let parts = rows.iter().filter(|row| row.account == account && row.state == UploadState::Part);
    let (mut all, mut old) = (0, 0);
    for row in parts {
        all += 1;
        old += u64::from(row.created <= before);
    }
    Ok((all, old))
}

/// Sweeps now. `by_hand`: a person has looked, so the brake does not count.
///
/// # Errors
/// The first trouble; what was done stays done, and the next sweep goes on.
pub fn run(core: &Arc<Core>, by_hand: bool) -> Result<Plan, SweepError> {
    let plan = plan(core)?;
    if !by_hand
        && let Some(row) = plan
            .rows
            .iter()
            .find(|row| row.noncurrent + row.delete > BRAKE && row.noncurrent + row.delete > row.all / 5)
    {
        return Err(SweepError::Brake {
            account: row.account.clone(),
            area: row.area.clone(),
            delete: row.noncurrent + row.delete,
            all: row.all,
        });
    }
    let now = core.clock.now();
    for (account, lifecycle) in figures(core)? {
        for area in Area::ALL {
            let due = Due::at(now, stages(&lifecycle, *area));
            sweep_area(core, &account, *area, &due)?;
        }
        drop_parts(core, &account, lifecycle.tmp, now)?;
    }
    core.journal.write_blocking(move |tx| {
        tx.forget_windows(now)?;
        tx.set_fact(FACT_LAST, &now.to_string())
    })?;
    // Noted where whoever rewrites the table does not get at it (security.md §11).
    let head = core.journal.read(|tx| tx.last_hash())?;
    tracing::info!(
        head = hex(&head),
        "head of the chain of events; `as2gate audit verify --head` finds it again"
    );
    for row in plan.rows.iter().filter(|row| row.noncurrent + row.delete > 0) {
        tracing::info!(
            account = row.account,
            area = row.area,
            noncurrent = row.noncurrent,
            deleted = row.delete,
            "life cycle"
        );
    }
    Ok(plan)
}

fn sweep_area(core: &Core, account: &str, area: Area, due: &Due) -> Result<(), SweepError> {
    // The rows say from which midnight the next stage counts, whatever the hour at which somebody came to look.
    let now = core.clock.now();
    let midnight = now - now.rem_euclid(DAY);
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
        core.journal
            .write_blocking(move |tx| entries.iter().try_for_each(|entry| tx.retire_entry(entry, midnight)))?;
    }
    loop {
        let entries = core.journal.read(|tx| tx.to_purge(account, area, due.retired, BATCH))?;
        if entries.is_empty() {
            return Ok(());
        }
        for entry in &entries {
            core.storage.purge(entry)?;
        }
        core.journal
            .write_blocking(move |tx| entries.iter().try_for_each(|entry| tx.purge_entry(entry, midnight)))?;
    }
}

fn drop_parts(core: &Core, account: &str, tmp: Stages, now: Millis) -> Result<(), SweepError> {
    let before = Due::at(now, tmp).made - millis(tmp.noncurrent);
    let rows = core.journal.read(|tx| tx.uploads_before(Millis::MAX))?;
    let old = rows
        .into_iter()
        .filter(|row| row.account == account && row.state == UploadState::Part && row.created <= before);
    for row in old {
        let store = row.store.clone();
        core.journal.write_blocking(move |tx| tx.remove_upload(&row))?;
        core.let_go_blocking(vec![store]);
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
    core.journal.write_blocking(move |tx| tx.retire_entry(&entry, now))?;
    Ok(())
}

/// Brings everything below a path back into view; the number of files. Their life begins anew.
///
/// # Errors
/// The disk's or the journal's.
pub fn restore(core: &Core, account: &str, path: &str) -> Result<u64, SweepError> {
    let path = path.trim_matches('/');
    let path = path.strip_prefix(&format!("mftg-{account}/")).unwrap_or(path);
    let now = core.clock.now();
    let mut restored = 0;
    loop {
        let mut entries = core.journal.read(|tx| tx.noncurrent_below(account, path, BATCH))?;
        // The newest version of a name comes back; an older one only if its name is free.
        entries.sort_by_key(|entry| (entry.parent.clone(), entry.name.clone(), -entry.version));
        let mut moved = 0;
        for entry in entries {
            if core
                .journal
                .read(|tx| tx.entry(&entry.account, &entry.parent, &entry.name))?
                .is_some()
            {
                continue;
            }
            core.storage.restore(&entry)?;
            let is_file = !entry.is_dir;
            if core.journal.write_blocking(move |tx| tx.restore_entry(&entry, now))? {
                moved += 1;
                restored += u64::from(is_file);
            }
        }
        if moved == 0 {
            break;
        }
    }
    restore_parents(core, account, path, now)?;
    Ok(restored)
}

/// The directories above a restored path come back with it.
fn restore_parents(core: &Core, account: &str, path: &str, now: Millis) -> Result<(), SweepError> {
    let mut above = path;
    while let Some((parent, name)) = above.rsplit_once('/') {
        let hidden = core.journal.read(|tx| tx.noncurrent_below(account, above, 1))?;
        for entry in hidden
            .into_iter()
            .filter(|entry| entry.is_dir && entry.parent == parent && entry.name == name)
        {
            core.storage.restore(&entry)?;
            core.journal.write_blocking(move |tx| tx.restore_entry(&entry, now))?;
        }
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
    let today = now - now.rem_euclid(DAY) + run_at;
    let latest = if today <= now { today } else { today - DAY };
    let last = core
        .journal
        .read(|tx| tx.fact(FACT_LAST))?
        .and_then(|text| text.parse::<Millis>().ok())
        .unwrap_or(Millis::MIN);
    // A mark in the future comes from a clock that went wrong.
    Ok(last < latest || last > now)
}
