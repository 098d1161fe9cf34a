//! The brake on decryption failures: whoever sends message after message that does not decrypt waits for each answer.
//!
//! Attacks on padding need 10⁵ to 10⁶ answers (security.md §6). More than 20 failures an hour from one address, or under
//! one pair of names, delay the answers to further failures by one second more each. Good messages are never delayed, as
//! the names in the headers prove nothing and a stranger must not slow a partner down.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use crate::block::network;
use crate::clock::Millis;
use crate::lock::locked;

/// Failures an hour that delay nothing.
const FREE_PER_HOUR: f64 = 20.0;
/// Longest delay: senders give up between two and five minutes, and a delayed answer holds a connection.
pub(super) const MAX_DELAY: Duration = Duration::from_secs(30);
/// Addresses kept in memory; the quietest is forgotten first. Pairs are bounded by what is configured.
const MAX_SOURCES: usize = 4_096;
const HOUR: f64 = 3_600_000.0;

/// Failures by source and by pair. They are few numbers in memory: a restart forgets them.
#[derive(Default)]
pub struct Brake(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    sources: HashMap<IpAddr, Level>,
    pairs: HashMap<(String, String), Level>,
}

/// A bucket that loses [`FREE_PER_HOUR`] an hour.
#[derive(Clone, Copy, Default)]
struct Level {
    failures: f64,
    at: Millis,
    alerted: bool,
}

/// What a failure costs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Braked {
    /// How much later the answer leaves.
    pub(super) delay: Duration,
    /// The limit was passed just now: an operator should know.
    pub(super) alert: bool,
}

impl Brake {
    /// Counts a failure.
    pub(super) fn failed(&self, source: Option<IpAddr>, station: &str, partner: &str, now: Millis) -> Braked {
        let mut counts = locked(&self.0);
        let of_pair = counts.pairs.entry((station.to_owned(), partner.to_owned())).or_default().add(now);
        let Some(source) = source.map(network) else { return of_pair };
        if counts.sources.len() >= MAX_SOURCES && !counts.sources.contains_key(&source) {
            let quietest = counts
                .sources
                .iter()
                .min_by(|(_, a), (_, b)| a.left(now).total_cmp(&b.left(now)))
                .map(|(source, _)| *source);
            quietest.map(|quietest| counts.sources.remove(&quietest));
        }
        let of_source = counts.sources.entry(source).or_default().add(now);
        Braked {
            delay: of_pair.delay.max(of_source.delay),
            alert: of_pair.alert || of_source.alert,
        }
    }
}

impl Level {
    fn left(&self, now: Millis) -> f64 {
        let passed = now.saturating_sub(self.at).max(0) as f64;
        (self.failures - passed * FREE_PER_HOUR / HOUR).max(0.0)
    }

    fn add(&mut self, now: Millis) -> Braked {
        // Over the longest delay nothing counts: who stops for an hour or two is as good as new.
        let most = FREE_PER_HOUR + MAX_DELAY.as_secs_f64();
        self.failures = (self.left(now) + 1.0).min(most);
        self.at = now;
        let over = (self.failures - FREE_PER_HOUR).max(0.0).ceil();
        if over == 0.0 {
            self.alerted = false;
        }
        Braked {
            delay: Duration::from_secs_f64(over).min(MAX_DELAY),
            alert: over > 0.0 && !std::mem::replace(&mut self.alerted, true),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv6Addr;

    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn twenty_failures_are_free_then_each_costs_a_second_more() {
        let brake = Brake::default();
        let delays: Vec<u64> = (0..60).map(|_| brake.failed(Some(V4), "ALICE", "BOB", 0).delay.as_secs()).collect();
        assert!(delays.iter().take(20).all(|delay| *delay == 0), "{delays:?}");
        assert_eq!(delays.iter().skip(20).take(3).copied().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(delays.last(), Some(&30), "{delays:?}");
    }

    #[test]
    fn an_operator_is_told_once_and_again_after_a_calm_time() {
        let brake = Brake::default();
        let alerts = |now| (0..50).filter(|_| brake.failed(None, "ALICE", "BOB", now).alert).count();
        assert_eq!((alerts(0), alerts(1_000)), (1, 0));
        assert_eq!(alerts(4 * 3_600_000), 1);
    }

    #[test]
    fn an_address_cannot_hide_behind_many_names_nor_a_name_behind_many_addresses() {
        let brake = Brake::default();
        for n in 0..30 {
            let last = brake.failed(Some(V4), "ALICE", &n.to_string(), 0);
            assert_eq!(last.delay.is_zero(), n < 20);
        }
        let brake = Brake::default();
        for n in 0..30u16 {
            let source = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, n, 0, 0, 0, 0, 1));
            assert_eq!(brake.failed(Some(source), "ALICE", "BOB", 0).delay.is_zero(), n < 20);
        }
    }

    #[test]
    fn memory_is_bounded_and_the_loudest_stays() {
        let brake = Brake::default();
        for _ in 0..30 {
            brake.failed(Some(V4), "ALICE", "BOB", 0);
        }
        for n in 0..MAX_SOURCES + 100 {
            let source = IpAddr::V6(Ipv6Addr::from(u128::from(u64::try_from(n).unwrap()) << 64));
            brake.failed(Some(source), "ALICE", "BOB", 1);
        }
        let counts = brake.0.lock().unwrap();
        assert_eq!(counts.sources.len(), MAX_SOURCES);
        assert!(counts.sources.contains_key(&V4));
    }
}
