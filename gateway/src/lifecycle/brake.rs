//! How much an automatic sweep takes without a person (durability.md §9.3).
//!
//! From one sweep to the next, the moments up to which things are due move on as fast as time passes. What becomes due by that
//! goes, however much it is. Moments that went farther were moved by something else: a clock that jumped, or a life cycle that
//! was shortened. If much is due by that alone, the area is swept as far as time explains, and the rest waits for a person.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Due, FACT_LAST, PlanRow, Share};
use crate::clock::{Millis, Uptime};
use crate::event::NewEvent;
use crate::gateway::Core;
use crate::journal::{JournalError, Tx};

/// More than this, and more than a fifth of all, is much.
const FLOOR: u64 = 100;
/// What is held against no clock: due is what is due at midnight, whenever a sweep comes, and a machine is off at times.
const SLACK: Millis = 26 * 3_600_000;
/// How far the last sweep came.
const FACT_PACE: &str = "lifecycle.pace";
/// What it left for a person. Apart from the above, which grows with the accounts: the gauges ask for this every few seconds.
const FACT_HELD: &str = "lifecycle.held";

/// How far a sweep came, by a clock that is believed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Pace {
    at: Millis,
    uptime: Uptime,
    due: BTreeMap<String, Due>,
    /// That of before the clock was set back, which counts again once the clock is there again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Box<Pace>>,
}

/// The brake in one sweep.
pub(super) struct Brake {
    now: Millis,
    /// What the next sweep goes by.
    next: Pace,
    /// What waits for a person.
    held: Vec<PlanRow>,
    /// Nothing is held against a person, nor against the first sweep of all.
    last: Option<Pace>,
    /// For certain since the last one.
    passed: Millis,
    /// What stood in the journal at the beginning; a person's sweep may come in between. Where nothing did, the last sweep noted its
    /// time and no more, as those of before did, and nothing explains what is due.
    read: Option<String>,
    by_hand: bool,
}

impl Brake {
    pub(super) fn new(core: &Core, now: Millis, by_hand: bool) -> Result<Self, JournalError> {
        let (read, ended) = core.journal.read(|tx| Ok((tx.fact(FACT_PACE)?, tx.fact(FACT_LAST)?)))?;
        let pace = read.as_deref().map(serde_json::from_str::<Pace>).transpose()?;
        let ended = ended.and_then(|text| text.parse().ok());
        let last = pace.or_else(|| ended.map(|at| Pace { at, ..Pace::default() }));
        let (last, before) = match last.filter(|_| !by_hand) {
            None => (None, None),
            Some(mut last) => match last.before.take() {
                Some(before) if before.at <= now => (Some(*before), None),
                None if last.at > now => (Some(last.clone()), Some(Box::new(last))),
                before => (Some(last), before),
            },
        };
        let uptime = core.clock.uptime();
        Ok(Brake {
            now,
            passed: last.as_ref().map_or(0, |last| uptime.since(&last.uptime, now - last.at)),
            next: Pace {
                at: now,
                uptime,
                due: BTreeMap::new(),
                before,
            },
            held: Vec::new(),
            last,
            read,
            by_hand,
        })
    }

    /// What goes of an area, and up to which moments.
    pub(super) fn judge(&mut self, core: &Core, share: &Share) -> Result<(PlanRow, Due), JournalError> {
        let due = share.due(self.now);
        let row = share.count(core, due)?;
        let explained = self.explained(share, SLACK);
        if explained != due && row.gone() > FLOOR {
            let usual = share.count(core, explained)?;
            let beyond = PlanRow {
                noncurrent: row.noncurrent.saturating_sub(usual.noncurrent),
                delete: row.delete.saturating_sub(usual.delete),
                ..row.clone()
            };
            if beyond.gone() > FLOOR && beyond.gone() > row.all / 5 {
                self.held.push(beyond);
                // Without the slack: it would add up.
                self.keep(share, self.explained(share, 0));
                return Ok((usual, explained));
            }
        }
        self.keep(share, due);
        Ok((row, due))
    }

    /// Up to which moments a share is swept that no person looks after: as far as time explains.
    pub(super) fn keep_pace(&mut self, share: &Share) -> Due {
        let explained = |slack| match (&self.last, &self.read) {
            (Some(last), None) => share.due(last.at).later(slack).min(share.due(self.now)),
            _ => self.explained(share, slack),
        };
        let (due, without_slack) = (explained(SLACK), explained(0));
        let is_all = due == share.due(self.now);
        self.keep(share, if is_all { due } else { without_slack });
        due
    }

    /// What is due at most by the time that has passed.
    fn explained(&self, share: &Share, slack: Millis) -> Due {
        let due = share.due(self.now);
        let Some(last) = &self.last else { return due };
        let was = match last.due.get(&key(share)) {
            Some(was) => *was,
            None if self.read.is_none() => Due::NEVER,
            None => share.due(last.at),
        };
        was.later(self.passed + slack).min(due)
    }

    fn keep(&mut self, share: &Share, due: Due) {
        self.next.due.insert(key(share), due);
    }

    /// What waits for a person.
    pub(super) fn held(&self) -> &[PlanRow] {
        &self.held
    }

    /// The time, unless the clock jumped.
    pub(super) fn believed(&self) -> Millis {
        self.passed_until(SLACK)
    }

    fn passed_until(&self, slack: Millis) -> Millis {
        let since = self.last.as_ref().map(|last| last.at.saturating_add(self.passed + slack));
        since.map_or(self.now, |until| until.min(self.now))
    }

    /// The sweep has ended. What a person decided meanwhile stands.
    pub(super) fn note(mut self, tx: &Tx<'_>) -> Result<(), JournalError> {
        if !self.by_hand && tx.fact(FACT_PACE)? != self.read {
            return Ok(());
        }
        if self.held.is_empty() {
            tx.set_fact(FACT_LAST, &self.now.to_string())?;
        } else {
            self.next.at = self.passed_until(0);
        }
        let before = read_held(tx)?;
        for row in &self.held {
            // Once, not at each new try.
            if before
                .iter()
                .any(|known| (&known.account, &known.area) == (&row.account, &row.area))
            {
                continue;
            }
            let event = NewEvent {
                account: &row.account,
                kind: "lifecycle.held",
                subject: &row.account,
                facts: json!({ "area": row.area, "noncurrent": row.noncurrent, "deleted": row.delete, "all": row.all }),
            };
            tx.record(&event, self.now)?;
        }
        tx.set_fact(FACT_HELD, &serde_json::to_string(&self.held)?)?;
        tx.set_fact(FACT_PACE, &serde_json::to_string(&self.next)?)
    }
}

fn key(share: &Share) -> String {
    format!("{}/{}", share.account, share.area())
}

/// What the last automatic sweep left for a person, by account and area.
///
/// # Errors
/// The journal's.
pub fn held(core: &Core) -> Result<Vec<PlanRow>, JournalError> {
    core.journal.read(read_held)
}

fn read_held(tx: &Tx<'_>) -> Result<Vec<PlanRow>, JournalError> {
    let held = tx.fact(FACT_HELD)?;
    held.map_or_else(|| Ok(Vec::new()), |held| Ok(serde_json::from_str(&held)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use tokio::task::block_in_place;

    use super::*;
    use crate::clock::{Clock as _, DAY};
    use crate::config::{Config, Stages};
    use crate::journal::Swept;
    use crate::lifecycle::{Plan, SweepError, is_due, run};
    use crate::manage::accounts;
    use crate::manage::tests::{Place, place_with};

    const A_DAY: Duration = Duration::from_secs(86_400);

    /// A place whose account the sweeps know.
    async fn place(change: impl FnOnce(&mut Config)) -> Place {
        let place = place_with(change).await;
        place.core.refresh_objects().unwrap();
        place
    }

    fn sql(place: &Place, statement: &str) {
        let db = rusqlite::Connection::open(place.core.config.paths().db).unwrap();
        db.busy_timeout(A_DAY).unwrap();
        db.execute(statement, []).unwrap();
    }

    /// So many MDNs come; nobody misses their bytes.
    fn come(place: &Place, count: u64) {
        let now = place.clock.now();
        let some = format!("WITH RECURSIVE n (k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < {count})");
        sql(
            place,
            &format!(
                "{some} INSERT INTO entry (account, parent, name, area, message, is_dir, size, created)
                 SELECT 'acme', 'AS2/raw-mdn/incoming', '{now}-' || k || '.mdn', 'raw-mdn', '', 0, 9, {now} FROM n"
            ),
        );
    }

    fn sweep(place: &Place, by_hand: bool) -> Result<Plan, SweepError> {
        block_in_place(|| run(&place.core, by_hand))
    }

    fn mdns(place: &Place) -> PlanRow {
        let plan = crate::lifecycle::plan(&place.core).unwrap();
        plan.rows.into_iter().find(|row| row.area == "raw-mdn").unwrap()
    }

    /// What the events of a kind say about the account.
    fn told(place: &Place, kind: &str) -> Vec<serde_json::Value> {
        let events = place.core.journal.read(|tx| tx.events(0, Some("acme"), Some(kind), 100)).unwrap();
        events.into_iter().map(|event| event.facts).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_sweep_tells_once_what_went() {
        let place = place(|_| ()).await;
        let swept = || told(&place, "lifecycle.swept");
        assert_eq!(braked(&place), None);
        assert_eq!(swept().len(), 0, "nothing went");
        // More than one transaction marks.
        come(&place, 600);
        place.clock.advance(36 * A_DAY);
        assert_eq!(braked(&place), None);
        let first = json!({ "area": "raw-mdn", "noncurrent": 600, "deleted": 0, "bytes": 0 });
        assert_eq!(swept(), std::slice::from_ref(&first));
        come(&place, 10);
        place.clock.advance(36 * A_DAY);
        assert_eq!(braked(&place), None);
        let second = json!({ "area": "raw-mdn", "noncurrent": 10, "deleted": 600, "bytes": 5400 });
        assert_eq!(swept(), [first, second]);
        for row in ["noncurrent\"} 610", "deleted\"} 600"] {
            let row = format!("as2gate_lifecycle_files_total{{area=\"raw-mdn\",action=\"{row}");
            assert!(place.core.metrics.render().contains(&row), "{row}");
        }
        // What one did that was killed before its end.
        let left = Swept {
            noncurrent: 3,
            ..Swept::default()
        };
        block_in_place(|| place.core.journal.write_blocking(move |tx| tx.tally("acme", "files", left))).unwrap();
        assert_eq!(braked(&place), None);
        assert_eq!(braked(&place), None);
        let third = json!({ "area": "files", "noncurrent": 3, "deleted": 0, "bytes": 0 });
        assert_eq!(swept()[2..], [third]);
    }

    /// What the brake holds of how many.
    fn braked(place: &Place) -> Option<(u64, u64)> {
        let told = match sweep(place, false) {
            Ok(_) => None,
            Err(SweepError::Brake(row)) => Some((row.gone(), row.all)),
            Err(error) => panic!("{error}"),
        };
        let held = held(&place.core).unwrap();
        assert_eq!(held.first().map(|row| (row.gone(), row.all)), told);
        assert_eq!(is_due(&place.core).unwrap(), told.is_some(), "it is tried again");
        told
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn usual_days_are_never_braked() {
        let days = |n: u32| A_DAY * n;
        for (stage, step, count) in [(2, 1, 60), (2, 1, 500), (35, 30, 420), (1, 3, 200)] {
            let place = place(|config| {
                config.lifecycle.messages = Stages {
                    current: days(stage),
                    noncurrent: days(stage),
                }
            })
            .await;
            assert_eq!(braked(&place), None);
            for round in 0..8 {
                come(&place, count);
                place.clock.advance(days(step));
                assert_eq!(braked(&place), None, "{stage} days, {count} every {step} days, round {round}");
            }
            let kept = u64::from(2 * stage / step + 2) * count;
            assert!(mdns(&place).all <= kept, "{:?}", mdns(&place));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_clock_that_jumped_takes_nothing() {
        let place = place(|_| ()).await;
        assert_eq!(braked(&place), None);
        let day = place.clock.now() / DAY * DAY;
        for _ in 0..3 {
            come(&place, 50);
            place.clock.advance(A_DAY);
            assert_eq!(braked(&place), None);
        }
        // One name is free again when the sweep comes, of the other the clock says so.
        for (name, ends) in [("over", day), ("ahead", day + 20 * DAY)] {
            sql(
                &place,
                &format!("INSERT INTO name_window VALUES ('acme', 's', '{name}', 0, {ends}, 'm')"),
            );
        }
        place.clock.set_forward(40 * A_DAY);
        for _ in 0..3 {
            assert_eq!(braked(&place), Some((150, 150)));
            place.clock.advance(A_DAY / 24);
        }
        assert_eq!(mdns(&place).noncurrent, 150, "all are there");
        let db = rusqlite::Connection::open(place.core.config.paths().db).unwrap();
        let names: String = db
            .query_row("SELECT group_concat(name_key) FROM name_window", [], |row| row.get(0))
            .unwrap();
        assert_eq!(names, "ahead", "what comes behind a braked area is done");
        let waits = json!({ "area": "raw-mdn", "noncurrent": 150, "deleted": 0, "all": 150 });
        assert_eq!(
            told(&place, "lifecycle.held"),
            std::slice::from_ref(&waits),
            "once, however often it is tried"
        );
        // Set right, it has done no harm.
        place.clock.set_back(40 * A_DAY);
        place.clock.advance(A_DAY);
        assert_eq!(braked(&place), None);
        // A person may believe it.
        place.clock.set_forward(40 * A_DAY);
        assert_eq!(braked(&place), Some((150, 150)));
        assert_eq!(told(&place, "lifecycle.held"), [waits.clone(), waits]);
        sweep(&place, true).unwrap();
        assert_eq!((mdns(&place).noncurrent, held(&place.core).unwrap().len()), (0, 0));
        assert_eq!(braked(&place), None);
    }

    /// Forty days, 110 MDNs each five, and then the life cycle is shortened by a slip.
    async fn shortened() -> Place {
        let place = place(|_| ()).await;
        for _ in 0..8 {
            assert_eq!(braked(&place), None);
            come(&place, 110);
            place.clock.advance(5 * A_DAY);
        }
        assert_eq!(braked(&place), None);
        assert_eq!(mdns(&place).all, 880);
        let slip = ["current", "noncurrent"].map(|stage| (format!("lifecycle.messages.{stage}"), "1d".to_owned()));
        accounts::set(&place.core, "acme", &slip, false).await.unwrap();
        place.core.refresh_objects().unwrap();
        place.clock.advance(A_DAY);
        place
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_long_uptime_of_another_machine_explains_nothing() {
        let place = shortened().await;
        sql(
            &place,
            "UPDATE fact SET value = json_set(value, '$.uptime.boot', 'another') WHERE key = 'lifecycle.pace'",
        );
        assert_eq!(braked(&place), Some((770, 880)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_first_sweep_of_this_kind_takes_nothing_much_without_a_person() {
        let place = shortened().await;
        sql(&place, "DELETE FROM fact WHERE key IN ('lifecycle.pace', 'lifecycle.held')");
        let held = braked(&place);
        assert!(held.is_some_and(|(gone, all)| gone >= 770 && all == 880), "{held:?}");
        place.clock.advance(A_DAY);
        assert!(braked(&place).is_some(), "it waits on");
        sweep(&place, true).unwrap();
        place.clock.advance(A_DAY);
        assert_eq!(braked(&place), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_sweep_while_the_clock_was_back_holds_nothing_once_it_is_right() {
        let place = place(|config| {
            config.lifecycle.messages = Stages {
                current: 2 * A_DAY,
                noncurrent: 2 * A_DAY,
            }
        })
        .await;
        for day in 0..12 {
            assert_eq!(braked(&place), None, "day {day}");
            if day == 6 {
                place.clock.set_back(365 * A_DAY);
                assert_eq!(braked(&place), None);
                place.clock.advance(A_DAY / 24);
                assert_eq!(braked(&place), None);
                place.clock.set_forward(365 * A_DAY);
            }
            come(&place, 500);
            place.clock.advance(A_DAY);
        }
        assert!(mdns(&place).all <= 3000, "{:?}", mdns(&place));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_person_swept_meanwhile_is_not_held_again() {
        let place = shortened().await;
        let mut brake = Brake::new(&place.core, place.clock.now(), false).unwrap();
        for share in crate::lifecycle::shares(&place.core).unwrap() {
            brake.judge(&place.core, &share).unwrap();
        }
        assert!(!brake.held().is_empty());
        sweep(&place, true).unwrap();
        block_in_place(|| place.core.journal.write_blocking(|tx| brake.note(tx))).unwrap();
        assert_eq!(held(&place.core).unwrap().len(), 0);
        assert_eq!(braked(&place), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_slack_of_one_sweep_is_not_added_to_that_of_the_next() {
        let place = shortened().await;
        place.clock.set_forward(3 * 365 * A_DAY);
        let of_nobody = || {
            let pace = place.core.journal.read(|tx| tx.fact(FACT_PACE)).unwrap().unwrap();
            serde_json::from_str::<Pace>(&pace).unwrap().due["/history"].made
        };
        assert!(braked(&place).is_some());
        let first = of_nobody();
        for _ in 0..4 {
            place.clock.advance(A_DAY / 24);
            assert!(braked(&place).is_some());
        }
        assert_eq!(of_nobody() - first, 4 * DAY / 24);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_life_cycle_shortened_by_a_slip_takes_no_more_than_before() {
        let place = shortened().await;
        assert_eq!(braked(&place), Some((770, 880)));
        // What the days make due goes on leaving: the disk does not fill while nobody looks.
        let before = mdns(&place).noncurrent;
        place.clock.advance(10 * A_DAY);
        assert!(braked(&place).is_some());
        assert_eq!(mdns(&place).noncurrent, before - 220);
        sweep(&place, true).unwrap();
        assert_eq!(braked(&place), None);
    }
}
