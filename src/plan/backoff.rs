//! How long to wait after a failure.

use std::time::Duration;

use crate::failure::FailureClass;
use crate::plan::window::{Seed, fraction};
use crate::time::Timestamp;

/// The earliest next attempt after `failures` failures in a row, the last one of this class
///
/// The ladder is 1, 10 and 100 minutes, then daily, as Let's Encrypt advises, each up to a tenth
/// longer by the seed. A certificate that lives so briefly that a rung would miss its end waits a
/// twentieth of its `lifetime` at most. A moment that the CA named is a floor, clamped to between
/// a minute and a day from now.
pub fn after_failure(
    now: Timestamp,
    failures: u32,
    class: &FailureClass,
    lifetime: Option<Duration>,
    seed: Seed,
) -> Timestamp {
    let rung = match class {
        FailureClass::NeedsOperator { .. } => DAY,
        _ => LADDER.get(failures.saturating_sub(1) as usize).copied().unwrap_or(DAY),
    };
    let short = lifetime.map_or(rung, |lifetime| rung.min(lifetime / 20).max(SHORTEST));
    let waited = now.after(jittered(short, seed));
    match class {
        FailureClass::NotBefore { at } => {
            waited.max((*at).clamp(now.after(MINUTE), now.after(DAY)))
        }
        _ => waited,
    }
}

/// The earliest next attempt at what asks no CA, after `failures` failures in a row
///
/// Such as a deployment, or the look at disk and permissions before an order. Nobody is bothered,
/// so the ladder is shorter: 30 seconds, 2 and 10 minutes, then hourly.
pub fn after_failure_at_home(now: Timestamp, failures: u32, seed: Seed) -> Timestamp {
    let rung = HOME_LADDER.get(failures.saturating_sub(1) as usize).copied();
    now.after(jittered(rung.unwrap_or(HOUR), seed))
}

/// The earliest next attempt at what harmed a server again and again: a day later
pub fn after_harm(now: Timestamp, seed: Seed) -> Timestamp {
    now.after(jittered(DAY, seed))
}

/// When to ask for renewal information again after `failures` failures in a row
///
/// The moment that the CA names is a floor, as far as a day ahead.
///
/// <https://www.rfc-editor.org/rfc/rfc9773#section-4.3.3>
pub fn after_failed_renewal_info(
    now: Timestamp,
    failures: u32,
    class: &FailureClass,
    seed: Seed,
) -> Timestamp {
    let rung = RENEWAL_INFO_LADDER.get(failures.saturating_sub(1) as usize).copied();
    let next = now.after(jittered(rung.unwrap_or(HOUR * 6), seed));
    match class {
        FailureClass::NotBefore { at } => next.max(*at.min(&now.after(DAY))),
        FailureClass::Retry | FailureClass::NeedsOperator { .. } => next,
    }
}

fn jittered(rung: Duration, seed: Seed) -> Duration {
    rung.saturating_add(fraction(rung / 10, seed))
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const SHORTEST: Duration = Duration::from_secs(1);
const LADDER: [Duration; 3] = [MINUTE, Duration::from_secs(10 * 60), Duration::from_secs(100 * 60)];
const HOME_LADDER: [Duration; 3] =
    [Duration::from_secs(30), Duration::from_secs(120), Duration::from_secs(600)];
const RENEWAL_INFO_LADDER: [Duration; 3] =
    [MINUTE, Duration::from_secs(10 * 60), Duration::from_secs(100 * 60)];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::External;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn minutes(failures: u32, class: &FailureClass, lifetime: Option<Duration>) -> u64 {
        after_failure(NOW, failures, class, lifetime, Seed(0)).since(NOW).as_secs() / 60
    }

    #[test]
    fn the_ladder_is_1_10_100_minutes_and_then_daily() {
        let ladder: Vec<_> = (1..=5).map(|n| minutes(n, &FailureClass::Retry, None)).collect();
        assert_eq!(ladder, [1, 10, 100, 1440, 1440]);
        let most = after_failure(NOW, 4, &FailureClass::Retry, None, Seed(u64::MAX)).since(NOW);
        assert!(most > DAY && most <= DAY * 11 / 10);
    }

    #[test]
    fn a_six_day_certificate_is_tried_every_eight_hours_at_least() {
        let lifetime = Some(Duration::from_secs(160 * 3600));
        assert_eq!(minutes(9, &FailureClass::Retry, lifetime), 480);
    }

    #[test]
    fn the_moment_a_ca_names_is_a_floor_between_a_minute_and_a_day() {
        let cases = [(0, 1), (30, 30), (2000, 1440), (i64::MAX / 100_000, 1440)];
        for (minutes_ahead, expected) in cases {
            let at = Timestamp::from_seconds(NOW.as_seconds().saturating_add(minutes_ahead * 60));
            let class = FailureClass::NotBefore { at };
            assert_eq!(minutes(1, &class, None), expected, "{minutes_ahead} minutes ahead");
        }
    }

    #[test]
    fn what_needs_an_operator_is_tried_daily() {
        let class = FailureClass::NeedsOperator { what: External::default(), url: None };
        assert_eq!(minutes(1, &class, None), 1440);
    }
}
