//! Time, as the rules see it: UTC milliseconds from one place, so that tests can move it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment in UTC milliseconds since 1970.
pub type Millis = i64;

/// A day in milliseconds.
pub const DAY: Millis = 86_400_000;

/// The midnight UTC at or before a moment.
#[must_use]
pub fn midnight(at: Millis) -> Millis {
    at - at.rem_euclid(DAY)
}

/// Where `now` comes from. Leases, windows and life cycles ask only this.
pub trait Clock: Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Millis;

    /// How long the machine has been running, which nobody sets.
    fn uptime(&self) -> Uptime;

    /// The machine's clock was set, and this one goes on as before until [`Clock::follow`].
    fn step(&self) -> Option<Step> {
        None
    }

    /// Goes by the machine's clock again: what waits goes by the step.
    fn follow(&self) {}
}

/// The machine's clock was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Ahead by so much, or back, if less than 0.
    pub by: Millis,
    /// Where it would stand now.
    pub from: Millis,
}

/// A clock that is set back by less is no matter.
const BACK: Millis = 5_000;
/// Nor is one that is set ahead by less (durability.md §6).
const AHEAD: Millis = 300_000;

/// How long the machine has been running, sleep included, and since which start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uptime {
    boot: String,
    up: Millis,
}

impl Uptime {
    /// The time that has passed for certain since an earlier look, which is `by_clock` ago by the clock. How long a machine was
    /// off nobody knows; and another machine, to which the data was brought, may have been up for longer than that.
    #[must_use]
    pub fn since(&self, earlier: &Uptime, by_clock: Millis) -> Millis {
        if self.boot == earlier.boot && self.up >= earlier.up {
            self.up - earlier.up
        } else {
            self.up.min(by_clock.max(0))
        }
    }

    /// Linux's. Where a container or a service does not see which start it was, only a shorter uptime tells of another one.
    fn of_boot(up: Millis) -> Self {
        static BOOT: OnceLock<String> = OnceLock::new();
        Uptime {
            boot: BOOT.get_or_init(|| boot_id().trim().to_owned()).clone(),
            up,
        }
    }
}

fn uptime_of_machine() -> Millis {
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    up.tv_sec.saturating_mul(1000) + up.tv_nsec / 1_000_000
}

/// The jumps ahead that the clock made while this process looked: what they took is no time that passed.
#[derive(Debug, Default)]
pub struct Jumps(Mutex<VecDeque<(Millis, Millis)>>);

impl Jumps {
    /// So many are remembered.
    const MOST: usize = 32;

    /// A step ahead is a jump; one back takes the last jumps back.
    pub fn note(&self, step: Step) {
        let mut jumps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if step.by > 0 {
            jumps.push_back((step.from, step.by));
            if jumps.len() > Self::MOST {
                jumps.pop_front();
            }
        }
        let mut back = -step.by;
        while back > 0
            && let Some((_, by)) = jumps.back_mut()
        {
            let taken = back.min(*by);
            (*by, back) = (*by - taken, back - taken);
            if *by == 0 {
                jumps.pop_back();
            }
        }
    }

    /// The time that has passed since a moment.
    #[must_use]
    pub fn passed(&self, since: Millis, now: Millis) -> Millis {
        let jumps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now - since - jumps.iter().filter(|(at, _)| since <= *at).map(|(_, step)| step).sum::<Millis>()
    }
}

/// Which start of the machine this is, as Linux tells it; empty where it does not.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// The machine's clock, shifted by the number of seconds that stands in a file, if one was named.
///
/// The file is how a whole-system test moves the time of a server that runs as a process of its own. A second number is for the
/// uptime, where the clock is to jump; without one, so much time has passed.
pub struct SystemClock {
    shift: Option<PathBuf>,
    /// How far it is ahead of the uptime.
    ahead: AtomicI64,
}

impl SystemClock {
    /// The environment variable that names the file with the shift in seconds.
    pub const SHIFT_FILE: &str = "AS2GATE_TEST_CLOCK";

    /// The clock of this process.
    #[must_use]
    pub fn from_env() -> Self {
        let clock = SystemClock {
            shift: Self::shift_file(),
            ahead: AtomicI64::new(0),
        };
        clock.follow();
        clock
    }

    /// The file that shifts the clock of this process.
    #[must_use]
    pub fn shift_file() -> Option<PathBuf> {
        std::env::var_os(Self::SHIFT_FILE).map(PathBuf::from)
    }

    /// Of the clock and of the uptime.
    fn shifts(&self) -> (Millis, Millis) {
        let Some(path) = &self.shift else { return (0, 0) };
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut numbers = text.split_whitespace().map_while(|word| word.parse::<i64>().ok());
        let clock = numbers.next().unwrap_or(0);
        let uptime = numbers.next().unwrap_or(clock);
        (clock.saturating_mul(1000), uptime.saturating_mul(1000))
    }

    /// What the machine shows: its clock and its uptime.
    fn machine(&self) -> (Millis, Millis) {
        let (clock, uptime) = self.shifts();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        (millis(since).saturating_add(clock), uptime_of_machine().saturating_add(uptime))
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Millis {
        let (clock, up) = self.machine();
        let (ahead, was) = (clock - up, self.ahead.load(Ordering::Relaxed));
        if is_step(ahead - was) {
            return up + was;
        }
        self.ahead.store(ahead, Ordering::Relaxed);
        clock
    }

    fn uptime(&self) -> Uptime {
        Uptime::of_boot(self.machine().1)
    }

    fn step(&self) -> Option<Step> {
        let (clock, up) = self.machine();
        let from = up + self.ahead.load(Ordering::Relaxed);
        let step = Step { by: clock - from, from };
        is_step(step.by).then_some(step)
    }

    fn follow(&self) {
        let (clock, up) = self.machine();
        self.ahead.store(clock - up, Ordering::Relaxed);
    }
}

fn is_step(by: Millis) -> bool {
    !(-BACK..=AHEAD).contains(&by)
}

/// A clock that stands still until somebody moves it.
#[derive(Clone, Default)]
pub struct ManualClock {
    now: Arc<AtomicI64>,
    up: Arc<AtomicI64>,
    step: Arc<AtomicI64>,
}

impl ManualClock {
    /// A clock that shows `at`.
    #[must_use]
    pub fn at(at: Millis) -> Self {
        let clock = ManualClock::default();
        clock.now.store(at, Ordering::SeqCst);
        clock
    }

    /// Time passes.
    pub fn advance(&self, by: Duration) {
        self.set_forward(by);
        self.up.fetch_add(millis(by), Ordering::SeqCst);
    }

    /// Sets the clock forward: no time passes.
    pub fn set_forward(&self, by: Duration) {
        self.now.fetch_add(millis(by), Ordering::SeqCst);
    }

    /// Sets the machine's clock, which this one follows when it is told.
    pub fn step_by(&self, by: Millis) {
        self.step.store(by, Ordering::SeqCst);
    }

    /// Sets the clock back.
    pub fn set_back(&self, by: Duration) {
        self.now.fetch_sub(millis(by), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Millis {
        self.now.load(Ordering::SeqCst)
    }

    fn uptime(&self) -> Uptime {
        Uptime {
            boot: "manual".to_owned(),
            up: self.up.load(Ordering::SeqCst),
        }
    }

    fn step(&self) -> Option<Step> {
        let (by, from) = (self.step.load(Ordering::SeqCst), self.now());
        is_step(by).then_some(Step { by, from })
    }

    fn follow(&self) {
        self.now.fetch_add(self.step.swap(0, Ordering::SeqCst), Ordering::SeqCst);
    }
}

/// A duration in milliseconds; longer than 292 million years saturates.
#[must_use]
pub fn millis(span: Duration) -> Millis {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// RFC 3339 in UTC with milliseconds, the form of JSON, TSV and logs.
#[must_use]
pub fn rfc3339(at: Millis) -> String {
    shown(at, "%Y-%m-%dT%H:%M:%S.%3fZ")
}

/// The compact form that begins a message's `<id>`: `20261122T002913123Z`.
#[must_use]
pub fn compact(at: Millis) -> String {
    shown(at, "%Y%m%dT%H%M%S%3fZ")
}

/// A timestamp ends a day before the year 9999 does, with which certificates without an end are marked (RFC 5280 §4.1.2.5); a civil
/// time has that day too. What lies beyond is shown as the last there is.
fn shown(at: Millis, form: &str) -> String {
    let epoch = jiff::civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
    epoch
        .saturating_add(jiff::SignedDuration::from_millis(at))
        .strftime(form)
        .to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn forms_are_utc_with_milliseconds() {
        assert_eq!(rfc3339(1_795_306_153_123), "2026-11-22T00:09:13.123Z");
        assert_eq!(compact(1_795_306_153_123), "20261122T000913123Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn an_end_that_is_none_is_the_last_day_there_is() {
        assert_eq!(rfc3339(253_402_300_799_000), "9999-12-31T23:59:59.000Z");
        assert_eq!(rfc3339(i64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(crate::manage::certificates::day(253_402_300_799), "9999-12-31");
    }

    #[test]
    fn jumps_are_no_time_that_passed() {
        let jumps = Jumps::default();
        let step = |from, by| jumps.note(Step { by, from });
        step(1_000, 90_000);
        assert_eq!(jumps.passed(500, 91_500), 1_000);
        assert_eq!(jumps.passed(91_000, 91_500), 500);
        // Set right in two steps, and further back.
        step(92_000, -60_000);
        assert_eq!(jumps.passed(500, 31_500), 1_000);
        step(32_000, -40_000);
        assert_eq!(jumps.passed(500, 1_500), 1_000);
        for _ in 0..2 * Jumps::MOST {
            step(200_000, 1);
        }
        assert_eq!(jumps.passed(91_000, 91_500), 500 - i64::try_from(Jumps::MOST).unwrap_or(0));
    }

    #[test]
    fn a_step_is_shown_once_it_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("clock");
        let set = |text: &str| std::fs::write(&file, text).unwrap();
        set("0");
        let clock = SystemClock {
            shift: Some(file.clone()),
            ahead: AtomicI64::new(0),
        };
        clock.follow();
        let before = clock.now();
        let near = |at: Millis, by: Millis| (by..by + 60_000).contains(&(at - before));
        // Time passes; small steps are followed at once.
        for (text, by) in [("7200", 7_200), ("7320 7200", 7_320)] {
            set(text);
            assert_eq!(clock.step(), None, "{text}");
            assert!(near(clock.now(), by * 1000), "{text}");
        }
        for (text, by) in [("97320 7200", 90_000), ("3720 7200", -3_600)] {
            set(text);
            assert!(near(clock.now(), 7_320_000), "{text}");
            let step = clock.step().unwrap();
            assert!((step.by - by * 1000).abs() < 1000 && near(step.from, 7_320_000), "{text}: {step:?}");
            clock.follow();
            assert!(near(clock.now(), 7_320_000 + by * 1000), "{text}");
            assert_eq!(clock.step(), None);
            set("7320 7200");
            clock.follow();
        }
    }

    #[test]
    fn a_start_hides_how_long_a_machine_was_off() {
        let look = |boot: &str, up| Uptime { boot: boot.to_owned(), up };
        assert_eq!(look("a", 900).since(&look("a", 200), 0), 700);
        assert_eq!(look("b", 900).since(&look("a", 200), 5000), 900);
        // Another machine, and one whose clock is behind.
        assert_eq!(look("b", 900).since(&look("a", 200), 30), 30);
        assert_eq!(look("b", 900).since(&look("a", 200), -30), 0);
        // Which start it was is not to be seen.
        assert_eq!(look("", 900).since(&look("", 200), 5000), 700);
        assert_eq!(look("", 100).since(&look("", 200), 5000), 100);
        let now = Uptime::of_boot(uptime_of_machine());
        assert!(!now.boot.is_empty() && now.up > 0, "{now:?}");
        assert!((0..60_000).contains(&Uptime::of_boot(uptime_of_machine()).since(&now, 0)));
    }
}
