//! Failed logins by source, as OpenSSH's `PerSourcePenalties`: a source that fails too often is shut out for a time, which
//! doubles each time it does so again. A user is never shut out, for then anybody could do that to anybody.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Ban;
use crate::listen::network;

/// Sources that are remembered, at most.
const MAX_SOURCES: usize = 10_000;
/// How often the time doubles at most: the longest is 16 times the first.
const MAX_DOUBLINGS: u32 = 4;

/// Failures of one source.
struct Record {
    count: u32,
    since: Instant,
    shut_until: Option<Instant>,
    /// How often it was shut out in a row.
    bans: u32,
    /// Whose logins failed, by the hash of the name; none once it was several.
    user: Option<u64>,
}

impl Record {
    fn new(now: Instant, user: u64) -> Self {
        Record {
            count: 0,
            since: now,
            shut_until: None,
            bans: 0,
            user: Some(user),
        }
    }
}

/// The sources with failures.
#[derive(Default)]
pub(super) struct Penalties {
    sources: Mutex<HashMap<IpAddr, Record>>,
    /// Names come from strangers and may be long.
    names: RandomState,
}

impl Penalties {
    fn sources(&self) -> MutexGuard<'_, HashMap<IpAddr, Record>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_shut(&self, peer: IpAddr, now: Instant) -> bool {
        let sources = self.sources();
        sources
            .get(&network(peer))
            .and_then(|record| record.shut_until)
            .is_some_and(|until| until > now)
    }

    /// A login that worked: the source begins anew if only this user's had failed. Who may log in as one user must not win by
    /// it more guesses at another.
    pub(super) fn forgive(&self, peer: IpAddr, user: &str) {
        let user = self.names.hash_one(user);
        let mut sources = self.sources();
        if sources.get(&network(peer)).is_some_and(|record| record.user == Some(user)) {
            sources.remove(&network(peer));
        }
    }

    /// A failed login; for how long the source is shut out now, if it is.
    pub(super) fn failed(&self, peer: IpAddr, user: &str, ban: &Ban, now: Instant) -> Option<Duration> {
        let user = self.names.hash_one(user);
        let mut sources = self.sources();
        if sources.len() >= MAX_SOURCES {
            sources.retain(|_, record| !is_over(record, ban, now));
        }
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&network(peer)) {
            // So many at once are no mistake of one partner: the limits on connections have to do.
            return None;
        }
        let record = sources.entry(network(peer)).or_insert_with(|| Record::new(now, user));
        if is_over(record, ban, now) {
            *record = Record::new(now, user);
        }
        record.user = record.user.filter(|known| *known == user);
        if now.duration_since(record.since) > ban.within {
            record.count = 0;
            record.since = now;
        }
        record.count += 1;
        if ban.failures == 0 || record.count < ban.failures {
            return None;
        }
        let length = ban.length * 2u32.pow(record.bans.min(MAX_DOUBLINGS));
        record.shut_until = Some(now + length);
        record.bans += 1;
        record.count = 0;
        record.since = now;
        Some(length)
    }
}

/// Nothing has to be remembered: the failures are old, and after the last ban the source was quiet for as long again.
fn is_over(record: &Record, ban: &Ban, now: Instant) -> bool {
    let longest = ban.length * 2u32.pow(record.bans.saturating_sub(1).min(MAX_DOUBLINGS));
    let quiet = record.shut_until.is_none_or(|until| now.saturating_duration_since(until) > longest);
    quiet && now.duration_since(record.since) > ban.within
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BAN: Ban = Ban {
        failures: 3,
        within: Duration::from_secs(60),
        length: Duration::from_secs(100),
    };

    fn fails(penalties: &Penalties, peer: IpAddr, now: Instant) -> Option<Duration> {
        (0..3).filter_map(|_| penalties.failed(peer, "acme", &BAN, now)).last()
    }

    #[test]
    fn the_time_doubles_for_who_goes_on_and_ends() {
        let (penalties, peer, mut now) = (Penalties::default(), "192.0.2.1".parse().unwrap(), Instant::now());
        for seconds in [100, 200, 400, 800, 1_600, 1_600] {
            assert_eq!(fails(&penalties, peer, now), Some(Duration::from_secs(seconds)));
            assert!(penalties.is_shut(peer, now + Duration::from_secs(seconds - 1)));
            now += Duration::from_secs(seconds + 1);
            assert!(!penalties.is_shut(peer, now));
        }
        // Quiet for as long as it was shut out: forgotten.
        assert_eq!(fails(&penalties, peer, now + Duration::from_secs(1_700)), Some(BAN.length));
    }

    #[test]
    fn rare_failures_and_other_sources_are_not_shut_out() {
        let (penalties, now) = (Penalties::default(), Instant::now());
        let [one, two, net, same, other] =
            ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|text| text.parse::<IpAddr>().unwrap());
        for n in 0..20 {
            assert_eq!(penalties.failed(one, "acme", &BAN, now + Duration::from_secs(40 * n)), None);
        }
        assert!(fails(&penalties, net, now).is_some());
        assert!(penalties.is_shut(same, now) && !penalties.is_shut(other, now) && !penalties.is_shut(two, now));
        penalties.forgive(same, "acme");
        assert!(!penalties.is_shut(net, now));
    }

    #[test]
    fn a_login_of_ones_own_buys_no_guesses_at_another() {
        let (penalties, now) = (Penalties::default(), Instant::now());
        let peer = "192.0.2.1".parse().unwrap();
        let mut guess = |user| {
            penalties.forgive(peer, "mallory");
            penalties.failed(peer, user, &BAN, now).is_some()
        };
        assert_eq!(["mallory", "mallory", "mallory"].map(&mut guess), [false; 3], "one's own slips");
        assert_eq!(["acme", "acme", "acme"].map(&mut guess), [false, false, true]);
        penalties.forgive(peer, "mallory");
        assert!(penalties.is_shut(peer, now));
    }

    #[test]
    fn the_list_of_sources_is_bounded() {
        let (penalties, now) = (Penalties::default(), Instant::now());
        for n in 0..(u32::try_from(MAX_SOURCES).unwrap() + 100) {
            let _ = penalties.failed(IpAddr::from(n.to_be_bytes()), "acme", &BAN, now);
        }
        assert_eq!(penalties.sources().len(), MAX_SOURCES);
    }
}
