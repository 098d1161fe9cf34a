//! Wrong codes of the second step. A code has six digits, so who has taken the first step, with a stolen password, must not
//! try many (RFC 4226 §7.3, RFC 6238 §5.2). Only codes behind a right first step count: strangers cannot shut a user out.
//! Whoever has stolen that step cannot either where the user has logged in before: such a source has its own count only.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};

use crate::block::network;
use crate::lock::locked;

/// Wrong codes of a user from one source before it has to wait.
const FREE: u32 = 3;
/// The first wait, in seconds: one step of the codes. It doubles with each further wrong code.
const WAIT: i64 = 30;
/// The longest wait is 32 minutes.
const MAX_DOUBLINGS: u32 = 6;
/// Wrong codes of a user in an hour, from all sources from which the user has not logged in: one chance in 16,000.
const PER_HOUR: u32 = 20;
/// For so long, in seconds, the above are remembered.
const HOUR: i64 = 3600;
/// Sources of one user that are remembered.
const MAX_SOURCES: usize = 256;

/// The users of whom codes were asked.
#[derive(Default)]
pub(super) struct Guesses(Mutex<HashMap<String, Record>>);

/// Of one user.
#[derive(Default)]
struct Record {
    since: i64,
    /// Wrong codes since then, from sources that are not known.
    wrong: u32,
    sources: HashMap<IpAddr, Source>,
}

#[derive(Default)]
struct Source {
    wrong: u32,
    last: i64,
    shut_until: i64,
    /// The user has logged in from here.
    is_known: bool,
}

impl Source {
    fn is_over(&self, now: i64) -> bool {
        now >= self.shut_until && now - self.last >= HOUR
    }

    fn set(&mut self, wrong: u32, now: i64) {
        self.wrong = wrong;
        let doublings = wrong.checked_sub(FREE).map(|more| more.min(MAX_DOUBLINGS));
        self.shut_until = doublings.map_or(0, |doublings| now + WAIT * 2i64.pow(doublings));
    }
}

/// What came of a code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Right,
    /// Right, but used before: no guess.
    Used,
    Wrong,
}

impl Guesses {
    fn records(&self) -> MutexGuard<'_, HashMap<String, Record>> {
        locked(&self.0)
    }

    /// Whether a code may be tried now, in Unix seconds. It counts as wrong until [`end`](Self::end), so that many at the same
    /// time are no way around.
    ///
    /// # Errors
    /// The seconds to wait.
    pub(super) fn begin(&self, user: &str, peer: IpAddr, now: i64) -> Result<(), i64> {
        let mut records = self.records();
        let record = records.entry(user.to_owned()).or_default();
        if now - record.since >= HOUR || now < record.since {
            record.since = now;
            record.wrong = 0;
        }
        record.make_room(now);
        let source = record.sources.entry(network(peer)).or_default();
        if source.is_over(now) {
            source.set(0, now);
        }
        if now < source.shut_until {
            return Err(source.shut_until - now);
        }
        if !source.is_known {
            if record.wrong >= PER_HOUR {
                return Err(record.since + HOUR - now);
            }
            record.wrong += 1;
        }
        source.last = now;
        source.set(source.wrong + 1, now);
        Ok(())
    }

    /// What came of it.
    pub(super) fn end(&self, user: &str, peer: IpAddr, now: i64, outcome: Outcome) {
        let mut records = self.records();
        let Some(record) = records.get_mut(user).filter(|_| outcome != Outcome::Wrong) else {
            return;
        };
        let Some(source) = record.sources.get_mut(&network(peer)) else {
            return;
        };
        if !source.is_known {
            record.wrong = record.wrong.saturating_sub(1);
        }
        let wrong = if outcome == Outcome::Right {
            0
        } else {
            source.wrong.saturating_sub(1)
        };
        source.set(wrong, now);
        source.is_known |= outcome == Outcome::Right;
    }
}

impl Record {
    fn make_room(&mut self, now: i64) {
        if self.sources.len() < MAX_SOURCES {
            return;
        }
        self.sources.retain(|_, source| source.is_known || !source.is_over(now));
        if self.sources.len() >= MAX_SOURCES {
            let oldest = self.sources.iter().min_by_key(|(_, source)| source.last).map(|(ip, _)| *ip);
            oldest.map(|ip| self.sources.remove(&ip));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOON: i64 = 1_795_478_400;

    fn ip(n: u32) -> IpAddr {
        IpAddr::from((0xC000_0200 + n).to_be_bytes())
    }

    #[test]
    fn a_source_that_guesses_waits_longer_and_longer() {
        let (guesses, mut now) = (Guesses::default(), NOON);
        for _ in 0..FREE {
            assert_eq!(guesses.begin("ops", ip(1), now), Ok(()));
        }
        for wait in [30, 60, 120, 240, 480, 960, 1920, 1920] {
            assert_eq!(guesses.begin("ops", ip(1), now), Err(wait));
            assert_eq!(guesses.begin("ops", ip(1), now + wait - 1), Err(1));
            assert_eq!(guesses.begin("other", ip(1), now), Ok(()), "another user");
            guesses.end("other", ip(1), now, Outcome::Right);
            now += wait;
            assert_eq!(guesses.begin("ops", ip(1), now), Ok(()));
        }
        guesses.end("ops", ip(1), now, Outcome::Right);
        for _ in 0..100 {
            assert_eq!(guesses.begin("ops", ip(1), now), Ok(()));
            guesses.end("ops", ip(1), now, Outcome::Used);
        }
    }

    #[test]
    fn many_sources_have_one_hour_together_and_the_users_own_is_not_in_it() {
        let (guesses, now) = (Guesses::default(), NOON);
        assert_eq!(guesses.begin("ops", ip(0), now), Ok(()));
        guesses.end("ops", ip(0), now, Outcome::Right);
        let tried = (1..200).filter(|n| guesses.begin("ops", ip(*n), now + 1).is_ok()).count();
        assert_eq!(tried, usize::try_from(PER_HOUR).unwrap());
        assert_eq!(guesses.begin("ops", ip(200), now + 1), Err(HOUR - 1));
        assert_eq!(guesses.begin("ops", ip(0), now + 1), Ok(()), "where the user comes from");
        assert_eq!(guesses.begin("ops", ip(200), now + HOUR), Ok(()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let guesses = Guesses::default();
        for n in 0..2_000 {
            let now = NOON + i64::from(n) * HOUR / 10;
            if guesses.begin("ops", ip(n), now).is_ok() {
                guesses.end("ops", ip(n), now, Outcome::Right);
            }
        }
        assert!(guesses.records()["ops"].sources.len() <= MAX_SOURCES);
    }
}
