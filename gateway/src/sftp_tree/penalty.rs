//! Failed logins by source, as OpenSSH's `PerSourcePenalties`: a source that fails too often is shut out for a time, which
//! doubles each time it does so again. A user is never shut out, for then anybody could do that to anybody. Connections that use
//! up the time for a login without trying one count too, but only where nobody logs in: behind the address of a balancer or a
//! NAT there are others.

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
    /// Connections without a try at a login since the last login.
    mute: u32,
    since: Instant,
    shut_until: Option<Instant>,
    /// How often it was shut out in a row.
    bans: u32,
    /// Whose logins failed, by the hash of the name; none once it was several.
    user: Option<u64>,
}

impl Record {
    fn new(now: Instant) -> Self {
        Record {
            count: 0,
            mute: 0,
            since: now,
            shut_until: None,
            bans: 0,
            user: None,
        }
    }

    /// Shuts the source out if it did something so often.
    fn judge(&mut self, often: u32, ban: &Ban, now: Instant) -> Option<Duration> {
        if ban.failures == 0 || often < ban.failures {
            return None;
        }
        let length = ban.length * 2u32.pow(self.bans.min(MAX_DOUBLINGS));
        self.shut_until = Some(now + length);
        self.bans += 1;
        (self.count, self.mute, self.since) = (0, 0, now);
        Some(length)
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
        let Some(record) = sources.get_mut(&network(peer)) else { return };
        record.mute = 0;
        if record.user == Some(user) || (record.count == 0 && record.bans == 0) {
            sources.remove(&network(peer));
        }
    }

    /// A failed login; for how long the source is shut out now, if it is.
    pub(super) fn failed(&self, peer: IpAddr, user: &str, ban: &Ban, now: Instant) -> Option<Duration> {
        let user = self.names.hash_one(user);
        self.record(peer, ban, now, |record| {
            let is_first = record.count == 0 && record.bans == 0;
            record.user = if is_first {
                Some(user)
            } else {
                record.user.filter(|known| *known == user)
            };
            record.count += 1;
            record.judge(record.count, ban, now)
        })
    }

    /// A connection that used up the time for a login and tried none; as above.
    pub(super) fn mute(&self, peer: IpAddr, ban: &Ban, now: Instant) -> Option<Duration> {
        self.record(peer, ban, now, |record| {
            record.mute += 1;
            record.judge(record.mute, ban, now)
        })
    }

    /// Adds to the record of a source, which begins anew when what is in it is over.
    fn record(&self, peer: IpAddr, ban: &Ban, now: Instant, add: impl FnOnce(&mut Record) -> Option<Duration>) -> Option<Duration> {
        let mut sources = self.sources();
        if sources.len() >= MAX_SOURCES {
            sources.retain(|_, record| !is_over(record, ban, now));
        }
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&network(peer)) {
            // So many at once are no mistake of one partner: the limits on connections have to do.
            return None;
        }
        let record = sources.entry(network(peer)).or_insert_with(|| Record::new(now));
        if is_over(record, ban, now) {
            *record = Record::new(now);
        }
        if now.duration_since(record.since) > ban.within {
            (record.count, record.mute, record.since) = (0, 0, now);
        }
        add(record)
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
    fn a_source_of_mute_connections_is_shut_out_unless_somebody_logs_in_there() {
        let (penalties, now) = (Penalties::default(), Instant::now());
        let [mute, shared] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let mut told = (0..3).map(|_| penalties.mute(mute, &BAN, now));
        assert_eq!(
            [told.next(), told.next(), told.next()].map(Option::flatten),
            [None, None, Some(BAN.length)]
        );
        assert!(penalties.is_shut(mute, now) && !penalties.is_shut(mute, now + BAN.length));
        for _ in 0..20 {
            assert_eq!(penalties.mute(shared, &BAN, now), None);
            assert_eq!(penalties.mute(shared, &BAN, now), None);
            penalties.forgive(shared, "acme");
        }
        // They win nobody guesses, and cost nobody any.
        assert_eq!([(); 2].map(|()| penalties.failed(shared, "acme", &BAN, now)), [None; 2]);
        assert_eq!(penalties.mute(shared, &BAN, now), None);
        penalties.forgive(shared, "mallory");
        assert!(penalties.failed(shared, "acme", &BAN, now).is_some());
        assert_eq!([(); 2].map(|()| penalties.mute(shared, &BAN, now)), [None; 2], "rare ones");
        assert_eq!(penalties.mute(shared, &BAN, now + BAN.within + Duration::from_secs(1)), None);
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
