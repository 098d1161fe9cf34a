//! How long until the next try.

use std::time::Duration;

use crate::clock::millis;
use crate::config::Retry;
use crate::gateway::Core;
use crate::message::Message;
use crate::partner::PartnerRetry;
use crate::partnership::Partnership;
use crate::random::random;

/// The retry figures for a partner: its own where it has some, else the server's. Those of MDNs are the same.
pub(crate) fn figures(core: &Core, pair: &Partnership) -> Retry {
    own_over(core.config.retry.clone(), &pair.partner.retry)
}

fn own_over(mut figures: Retry, own: &PartnerRetry) -> Retry {
    let spans = [
        (&mut figures.initial, &own.initial),
        (&mut figures.max_wait, &own.max_wait),
        (&mut figures.max_time, &own.max_time),
        (&mut figures.mdn_wait, &own.mdn_wait),
    ];
    for (span, text) in spans {
        if let Some(own) = text.as_deref().and_then(|text| crate::config::parse_duration(text).ok()) {
            *span = own;
        }
    }
    figures.factor = own.factor.unwrap_or(figures.factor);
    figures.max_tries = own.max_tries.unwrap_or(figures.max_tries);
    figures.mdn_tries = own.mdn_tries.unwrap_or(figures.mdn_tries);
    figures
}

/// Whether a message has had all its tries, or all its time.
pub(super) fn is_over(core: &Core, message: &Message, figures: &Retry) -> bool {
    let passed = core.jumps.passed(message.tried_since(), core.clock.now());
    message.tries_that_count() >= figures.max_tries || passed >= millis(figures.max_time)
}

/// The wait before try `n + 1` by these figures, at least as long as was asked for.
pub(crate) fn next_wait(figures: &Retry, n: u32, asked: Option<Duration>) -> Duration {
    let roll = jitter_roll();
    retry_wait(figures.initial, figures.factor, figures.max_wait, n, figures.jitter, roll).max(asked.unwrap_or_default())
}

/// The wait before try `n + 1`: doubling (or what `factor` says) up to the cap, with jitter; `roll` is in -1..=1.
fn retry_wait(initial: Duration, factor: f64, max_wait: Duration, n: u32, jitter: f64, roll: f64) -> Duration {
    let exponent = i32::try_from(n.saturating_sub(1)).unwrap_or(i32::MAX);
    let plain = (initial.as_secs_f64() * factor.powi(exponent)).min(max_wait.as_secs_f64());
    Duration::try_from_secs_f64((plain * (1.0 + jitter * roll)).max(0.0)).unwrap_or(max_wait)
}

fn jitter_roll() -> f64 {
    // Without randomness there is no jitter, which harms nobody.
    f64::from(u32::from_le_bytes(random())) / f64::from(u32::MAX) * 2.0 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partners_figures_win_over_the_servers() {
        let second = Duration::from_secs(1);
        let figures = Retry {
            initial: second,
            factor: 2.0,
            max_wait: second,
            max_tries: 1,
            max_time: second,
            jitter: 0.0,
            mdn_wait: second,
            mdn_tries: 1,
        };
        let text = || Some("5s".to_owned());
        let own = PartnerRetry {
            initial: text(),
            factor: Some(1.5),
            max_wait: text(),
            max_tries: Some(5),
            max_time: text(),
            mdn_wait: text(),
            mdn_tries: Some(0),
        };
        let wait = |figures: &Retry| (figures.initial, figures.max_wait, figures.max_time, figures.mdn_wait);
        let number = |figures: &Retry| (figures.factor, figures.max_tries, figures.mdn_tries);
        let won = own_over(figures.clone(), &own);
        assert_eq!(
            (wait(&won), number(&won)),
            ((5 * second, 5 * second, 5 * second, 5 * second), (1.5, 5, 0))
        );
        let kept = own_over(figures.clone(), &PartnerRetry::default());
        assert_eq!((wait(&kept), number(&kept)), (wait(&figures), number(&figures)));
    }

    #[test]
    fn waits_double_up_to_the_cap() {
        let wait = |n| retry_wait(Duration::from_secs(30), 2.0, Duration::from_secs(3600), n, 0.2, 0.0).as_secs();
        let waits: Vec<u64> = (1..=9).map(wait).collect();
        assert_eq!(waits, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600], "durability.md §4.3");
    }

    #[test]
    fn jitter_stays_within_a_fifth() {
        for roll in [-1.0, 1.0] {
            let wait = retry_wait(Duration::from_secs(100), 2.0, Duration::from_secs(3600), 1, 0.2, roll).as_secs();
            assert!((80..=120).contains(&wait));
        }
    }
}
