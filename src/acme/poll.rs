//! When to look again at something that a CA is working on.

use std::time::Duration;

use tokio::time::Instant;

use crate::failure::{Failure, Step};
use crate::time::Timestamp;

/// The looks at one order: quick at first, then rarer, never before the CA wants one, not forever
#[derive(Debug)]
pub(super) struct Polls {
    deadline: Instant,
    delay: Duration,
}

impl Polls {
    /// Looks that end at a deadline
    pub(super) fn until(deadline: Instant) -> Self {
        Self { deadline, delay: FIRST }
    }

    /// How long to wait before the next look
    ///
    /// `asked` is the Retry-After of the last answer, if it had one.
    ///
    /// # Errors
    /// When that would be past the deadline: the order goes on, and so do we, in the next cycle.
    pub(super) fn next(
        &mut self,
        asked: Option<Duration>,
        step: Step,
        now: Timestamp,
    ) -> Result<Duration, Failure> {
        let asked = asked.map(|delay| delay.clamp(MIN_ASKED, MAX_ASKED));
        let delay = asked.unwrap_or_default().max(self.delay);
        self.delay = match self.delay {
            FIRST => SECOND,
            delay => (delay * 2).min(LAST),
        };
        if Instant::now() + delay <= self.deadline {
            return Ok(delay);
        }
        Err(match asked {
            Some(asked) => {
                let summary = "the CA is still working on the order and names a time to come back";
                let failure = Failure::not_before(now.after(asked), step, summary);
                // Nothing can have been issued yet.
                if step == Step::Authorize { failure.by_issuer() } else { failure }
            }
            None => {
                let summary = "the CA is still working on the order; it goes on in the next cycle";
                Failure::retry(step, summary)
            }
        })
    }
}

/// How long one order is waited for in one cycle
pub(super) const CEILING: Duration = Duration::from_secs(15 * 60);

/// A CA that is near and idle is done within this
const FIRST: Duration = Duration::from_millis(15);

const SECOND: Duration = Duration::from_millis(20);

const LAST: Duration = Duration::from_secs(5);

const MIN_ASKED: Duration = Duration::from_secs(1);

const MAX_ASKED: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureClass;

    const NOW: Timestamp = Timestamp::from_seconds(1_795_464_000);

    #[tokio::test(start_paused = true)]
    async fn looks_get_rarer_and_end_at_the_ceiling() {
        let mut polls = Polls::until(Instant::now() + CEILING);
        let mut delays = Vec::new();
        let failure = loop {
            match polls.next(None, Step::Authorize, NOW) {
                Ok(delay) => {
                    tokio::time::advance(delay).await;
                    delays.push(delay.as_millis());
                }
                Err(failure) => break failure,
            }
        };
        assert_eq!(delays[..5], [15, 20, 40, 80, 160]);
        assert_eq!(*delays.last().unwrap(), 5000);
        assert!(delays.len() < 200, "{}", delays.len());
        assert_eq!(failure.class, FailureClass::Retry);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_ca_asks_for_is_a_floor_within_reason() {
        let next = |asked| {
            let mut polls = Polls::until(Instant::now() + CEILING);
            polls.next(Some(asked), Step::Finalize, NOW)
        };
        assert_eq!(next(Duration::ZERO).unwrap(), Duration::from_secs(1));
        assert_eq!(next(Duration::from_secs(5)).unwrap(), Duration::from_secs(5));
        let late = next(Duration::from_secs(3600)).unwrap_err();
        assert_eq!(
            late.class,
            FailureClass::NotBefore { at: NOW.after(Duration::from_secs(3600)) }
        );
        let absurd = next(Duration::MAX).unwrap_err();
        let day = Duration::from_secs(86_400);
        assert_eq!(absurd.class, FailureClass::NotBefore { at: NOW.after(day) });
    }
}
