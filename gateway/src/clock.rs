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

    /// Both at one moment.
    fn both(&self) -> (Millis, Uptime) {
        (self.now(), self.uptime())
    }
}

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
    fn of_machine(shift: Millis) -> Self {
        static BOOT: OnceLock<String> = OnceLock::new();
        let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Uptime {
            boot: BOOT.get_or_init(|| boot_id().trim().to_owned()).clone(),
            up: (up.tv_sec.saturating_mul(1000) + up.tv_nsec / 1_000_000).saturating_add(shift),
        }
    }
}

/// The jumps ahead that the clock made while this process looked: what they took is no time that passed.
#[derive(Debug, Default)]
pub struct Jumps(Mutex<VecDeque<(Millis, Millis)>>);

impl Jumps {
    /// So many are remembered.
    const MOST: usize = 32;

    /// At this moment of before, the clock jumped ahead so far.
    pub fn note(&self, at: Millis, step: Millis) {
        let mut jumps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jumps.push_back((at, step));
        if jumps.len() > Self::MOST {
            jumps.pop_front();
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
}

impl SystemClock {
    /// The environment variable that names the file with the shift in seconds.
    pub const SHIFT_FILE: &str = "AS2GATE_TEST_CLOCK";

    /// The clock of this process.
    #[must_use]
    pub fn from_env() -> Self {
        SystemClock { shift: Self::shift_file() }
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
}

impl Clock for SystemClock {
    fn now(&self) -> Millis {
        shown(self.shifts().0)
    }

    fn uptime(&self) -> Uptime {
        Uptime::of_machine(self.shifts().1)
    }

    fn both(&self) -> (Millis, Uptime) {
        let (clock, uptime) = self.shifts();
        (shown(clock), Uptime::of_machine(uptime))
    }
}

/// What the machine's clock shows, shifted.
fn shown(shift: Millis) -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    millis(since).saturating_add(shift)
}

/// A clock that stands still until somebody moves it.
#[derive(Clone, Default)]
pub struct ManualClock {
    now: Arc<AtomicI64>,
    up: Arc<AtomicI64>,
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
}

/// A duration in milliseconds; longer than 292 million years saturates.
#[must_use]
pub fn millis(span: Duration) -> Millis {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// RFC 3339 in UTC with milliseconds, the form of JSON, TSV and logs.
#[must_use]
pub fn rfc3339(at: Millis) -> String {
    match jiff::Timestamp::from_millisecond(at) {
        Ok(stamp) => stamp.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
        Err(_) => at.to_string(),
    }
}

/// The compact form that begins a message's `<id>`: `20261122T002913123Z`.
#[must_use]
pub fn compact(at: Millis) -> String {
    match jiff::Timestamp::from_millisecond(at) {
        Ok(stamp) => stamp.strftime("%Y%m%dT%H%M%S%3fZ").to_string(),
        Err(_) => at.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_utc_with_milliseconds() {
        assert_eq!(rfc3339(1_795_306_153_123), "2026-11-22T00:09:13.123Z");
        assert_eq!(compact(1_795_306_153_123), "20261122T000913123Z");
    }

    #[test]
    fn jumps_are_no_time_that_passed() {
        let jumps = Jumps::default();
        jumps.note(1_000, 90_000);
        assert_eq!(jumps.passed(500, 91_500), 1_000);
        assert_eq!(jumps.passed(91_000, 91_500), 500);
        for _ in 0..2 * Jumps::MOST {
            jumps.note(200_000, 1);
        }
        assert_eq!(jumps.passed(91_000, 91_500), 500 - i64::try_from(Jumps::MOST).unwrap_or(0));
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
        let now = Uptime::of_machine(0);
        assert!(!now.boot.is_empty() && now.up > 0, "{now:?}");
        assert!((0..60_000).contains(&Uptime::of_machine(0).since(&now, 0)));
    }
}
