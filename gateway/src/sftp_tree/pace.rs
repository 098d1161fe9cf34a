//! Bandwidth of users: all sessions of a user take turns at one clock for each way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sftp_front::Way;

use crate::lock::locked;

/// Users whose clocks are kept, at most; a clock that is let go forgets no more than the turns of a few blocks.
const MAX_CLOCKS: usize = 10_000;
/// What may pass ahead of the clock, so that a short file is not slowed down.
const BURST: Duration = Duration::from_millis(250);

/// The clock of one user: when the next byte is due, each way.
#[derive(Default)]
pub(super) struct Pace([Mutex<Option<Instant>>; 2]);

impl Pace {
    /// How long `bytes` have to wait, after all before them, at `rate` bytes per second. 0 is no limit.
    pub(super) fn pause(&self, way: Way, bytes: usize, rate: u64) -> Duration {
        self.turn(way, bytes, rate, Instant::now())
    }

    fn turn(&self, way: Way, bytes: usize, rate: u64, now: Instant) -> Duration {
        if rate == 0 {
            return Duration::ZERO;
        }
        let clock = match way {
            Way::In => &self.0[0],
            Way::Out => &self.0[1],
        };
        let mut due = locked(clock);
        let start = due.unwrap_or(now).max(now);
        let nanos = u128::try_from(bytes).unwrap_or(u128::MAX).saturating_mul(1_000_000_000) / u128::from(rate);
        let end = start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        *due = Some(end);
        end.saturating_duration_since(now).saturating_sub(BURST)
    }
}

/// The clocks of all users.
#[derive(Default)]
pub(super) struct Clocks(Mutex<HashMap<String, Arc<Pace>>>);

impl Clocks {
    pub(super) fn of(&self, user: &str) -> Arc<Pace> {
        let mut clocks = locked(&self.0);
        if clocks.len() >= MAX_CLOCKS {
            clocks.retain(|_, pace| Arc::strong_count(pace) > 1);
        }
        Arc::clone(clocks.entry(user.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_each_way_by_itself() {
        let (pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.turn(Way::In, 100_000, 1_000_000, now), Duration::ZERO, "within the burst");
        let waited = pace.turn(Way::In, 900_000, 1_000_000, now);
        assert_eq!(waited, Duration::from_millis(750));
        assert_eq!(pace.turn(Way::Out, 100_000, 1_000_000, now), Duration::ZERO);
        assert_eq!(pace.turn(Way::In, usize::MAX, 0, now), Duration::ZERO);
    }

    #[test]
    fn sessions_of_one_user_share_a_clock() {
        let clocks = Clocks::default();
        assert!(Arc::ptr_eq(&clocks.of("u"), &clocks.of("u")));
        assert!(!Arc::ptr_eq(&clocks.of("u"), &clocks.of("v")));
    }
}
