//! What the agent allows itself, before the CA has to refuse.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::name::Identifier;
use crate::plan::Reason;
use crate::record::{Attempts, IssuedRecord};
use crate::time::Timestamp;

/// The moment before which the ledger refuses another order for these identifiers, if any
///
/// Successes for one set of identifiers are kept apart by a day, or a quarter of the lifetime if
/// that is less: a certificate that is due again right away is a mistake and no renewal. What the
/// CA or the operator changed in between is allowed a few more.
pub fn held_back(
    now: Timestamp,
    attempts: &Attempts,
    identifiers: &BTreeSet<Identifier>,
    reason: &Reason,
) -> Option<Timestamp> {
    let recent: Vec<_> = attempts
        .issued
        .iter()
        .filter(|issued| issued.identifiers.iter().eq(identifiers))
        // One from the future was written while the clock was ahead, and tells nothing of when.
        .filter(|issued| issued.at <= now.after(super::SKEW))
        .map(|issued| issued.at.after(spacing(issued)))
        .filter(|until| *until > now)
        .collect();
    let surplus = recent.len().checked_sub(tolerated(reason))?;
    recent.get(surplus).copied()
}

/// How long one success keeps the next away
fn spacing(issued: &IssuedRecord) -> Duration {
    Duration::from_secs(issued.lifetime / 4).min(Duration::from_secs(86_400))
}

/// From how many recent successes on another order is refused
const fn tolerated(reason: &Reason) -> usize {
    match reason {
        // What the operator did cannot repeat itself; Let's Encrypt allows 5 in a week.
        Reason::Drift(_) | Reason::Revoked => 4,
        // One replacement at once is right, a second one is a loop.
        Reason::Damaged | Reason::Emergency | Reason::Missing | Reason::RenewalInfo { .. } => 2,
        _ => 1,
    }
}

/// The successes worth keeping: none so old that it could matter again
pub fn retained(issued: &[IssuedRecord], now: Timestamp) -> Vec<IssuedRecord> {
    let week = Duration::from_secs(7 * 86_400);
    let recent = issued.iter().filter(|issued| issued.at.after(week) > now);
    let mut kept: Vec<_> = recent.cloned().collect();
    if kept.len() > 50 {
        kept.drain(..kept.len() - 50);
    }
    kept
}
