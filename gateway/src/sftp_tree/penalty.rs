//! Failed logins by source, as OpenSSH's `PerSourcePenalties`: a source that fails too often is shut out for a time, which
//! doubles each time it does so again. A user is never shut out, for then anybody could do that to anybody. Connections that use
//! up the time for a login without trying one count too, but only where nobody logs in: behind the address of a balancer or a
//! NAT there are others.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::block;
use crate::block::network;
use crate::config::Ban;
use crate::lock::locked;

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
    /// Connections that were turned away since it is shut out.
    refused: u64,
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
            refused: 0,
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
        self.refused = 0;
        self.bans += 1;
        (self.count, self.mute, self.since) = (0, 0, now);
        Some(length)
    }
}

/// A source that is shut out.
pub(super) struct Shut {
    /// An IPv4 address, or the first of an IPv6 network.
    pub(super) source: IpAddr,
    /// For how long still.
    pub(super) left: Duration,
    /// Connections that were turned away since.
    pub(super) refused: u64,
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
        locked(&self.sources)
    }

    /// A connection of a source that is shut out: how many of it were turned away by now, with this one.
    pub(super) fn turn_away(&self, peer: IpAddr, ban: &Ban, now: Instant) -> Option<u64> {
        if is_excepted(peer, ban) {
            return None;
        }
        let mut sources = self.sources();
        let record = sources.get_mut(&network(peer))?;
        record.shut_until.filter(|until| *until > now)?;
        record.refused += 1;
        Some(record.refused)
    }

    /// The sources that are shut out, by address.
    pub(super) fn shut(&self, now: Instant) -> Vec<Shut> {
        let sources = self.sources();
        let shut = sources.iter().filter_map(|(source, record)| {
            let left = record.shut_until?.checked_duration_since(now)?;
            Some(Shut {
                source: *source,
                left,
                refused: record.refused,
            })
        });
        let mut shut: Vec<_> = shut.filter(|shut| !shut.left.is_zero()).collect();
        shut.sort_by_key(|shut| shut.source);
        shut
    }

    /// Lets a source in again, as if it had never failed; false if it had not.
    pub(super) fn lift(&self, peer: IpAddr) -> bool {
        self.sources().remove(&network(peer)).is_some()
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
        if is_excepted(peer, ban) {
            return None;
        }
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

/// It is never shut out, nor with others of its network.
fn is_excepted(peer: IpAddr, ban: &Ban) -> bool {
    ban.except.iter().any(|block| block::holds(block, peer))
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
        except: Vec::new(),
    };

    fn is_shut(penalties: &Penalties, peer: IpAddr, now: Instant) -> bool {
        let is_shut = penalties.shut(now).iter().any(|shut| shut.source == network(peer));
        assert_eq!(penalties.turn_away(peer, &BAN, now).is_some(), is_shut);
        is_shut
    }

    fn fails(penalties: &Penalties, peer: IpAddr, now: Instant) -> Option<Duration> {
        (0..3).filter_map(|_| penalties.failed(peer, "acme", &BAN, now)).last()
    }

    #[test]
    fn the_time_doubles_for_who_goes_on_and_ends() {
        let (penalties, peer, mut now) = (Penalties::default(), "192.0.2.1".parse().unwrap(), Instant::now());
        for seconds in [100, 200, 400, 800, 1_600, 1_600] {
            assert_eq!(fails(&penalties, peer, now), Some(Duration::from_secs(seconds)));
            assert!(is_shut(&penalties, peer, now + Duration::from_secs(seconds - 1)));
            now += Duration::from_secs(seconds + 1);
            assert!(!is_shut(&penalties, peer, now));
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
        assert!(is_shut(&penalties, same, now) && !is_shut(&penalties, other, now) && !is_shut(&penalties, two, now));
        penalties.forgive(same, "acme");
        assert!(!is_shut(&penalties, net, now));
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
        assert!(is_shut(&penalties, peer, now));
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
        assert!(is_shut(&penalties, mute, now) && !is_shut(&penalties, mute, now + BAN.length));
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
    fn a_ban_is_seen_and_lifted() {
        let (penalties, now) = (Penalties::default(), Instant::now());
        let [peer, same, other] = ["2001:db8::1", "2001:db8::2", "192.0.2.1"].map(|text| text.parse::<IpAddr>().unwrap());
        fails(&penalties, peer, now);
        assert_eq!([1, 2].map(|_| penalties.turn_away(same, &BAN, now)), [Some(1), Some(2)]);
        let shut = penalties.shut(now);
        assert_eq!((shut.len(), shut[0].source, shut[0].left), (1, network(peer), BAN.length));
        assert_eq!(shut[0].refused, 2);
        assert!(!penalties.lift(other) && penalties.lift(same));
        assert!(penalties.shut(now).is_empty() && penalties.turn_away(peer, &BAN, now).is_none());
        // It does not count as a second time.
        assert_eq!(fails(&penalties, peer, now), Some(BAN.length));
    }

    #[test]
    fn who_is_excepted_is_never_shut_out() {
        let (penalties, now) = (Penalties::default(), Instant::now());
        let ban = Ban {
            except: ["192.0.2.0/24", "2001:db8::5"].map(str::to_owned).to_vec(),
            ..BAN
        };
        let [inside, outside] = ["192.0.2.1", "192.0.3.1"].map(|text| text.parse::<IpAddr>().unwrap());
        let shut = |peer| (0..9).any(|_| penalties.failed(peer, "acme", &ban, now).is_some() || penalties.mute(peer, &ban, now).is_some());
        assert!(!shut(inside) && shut(outside));
        // Others of its network are no reason.
        let [kept, other] = ["2001:db8::5", "2001:db8::6"].map(|text| text.parse::<IpAddr>().unwrap());
        assert!(shut(other) && penalties.turn_away(other, &ban, now).is_some());
        assert_eq!(penalties.turn_away(kept, &ban, now), None);
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
