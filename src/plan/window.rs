//! Moments within a certificate's life.

use std::time::Duration;

use aws_lc_rs::digest;

use crate::cert::Leaf;
use crate::config::Renew;
use crate::plan::Held;
use crate::record::SuggestedWindow;
use crate::time::Timestamp;

/// A number that is the same at every look at one generation and differs between generations
///
/// Drawn from the certificate and the account, so that no choice has to be stored and a fleet
/// spreads by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// The seed of a generation
    pub fn of(held: &Held) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&held.leaf.fingerprint.0);
        if let Some(origin) = &held.meta.origin {
            context.update(origin.account.as_bytes());
        }
        Self::from_digest(context.finish())
    }

    /// The seed of a certificate that has no generation yet
    pub fn of_name(name: &str) -> Self {
        Self::from_digest(digest::digest(&digest::SHA256, name.as_bytes()))
    }

    fn from_digest(digest: digest::Digest) -> Self {
        let bytes = digest.as_ref().first_chunk::<8>();
        Self(bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes)))
    }
}

/// The seed's share of a span: from nothing to all but a moment of it, evenly
pub fn fraction(span: Duration, seed: Seed) -> Duration {
    let millis = span.as_millis().saturating_mul(u128::from(seed.0)) >> 64;
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// The moment within the suggested window that the seed draws
///
/// <https://www.rfc-editor.org/rfc/rfc9773#section-4.2>
pub fn drawn(window: SuggestedWindow, seed: Seed) -> Timestamp {
    window.start.after(fraction(window.end.since(window.start), seed))
}

/// The window, if it is one that can be followed
///
/// One that is empty, or begins after the certificate ends, counts as no answer.
///
/// <https://www.rfc-editor.org/rfc/rfc9773#section-4.2>
pub fn sane(window: SuggestedWindow, leaf: &Leaf) -> Option<SuggestedWindow> {
    (window.start < window.end && window.start < leaf.not_after).then_some(window)
}

/// When the certificate is due by its age alone
///
/// What the operator set is taken as it is. The default is a third of the life left, half for a
/// life under ten days, and up to a twentieth of that earlier by the seed.
pub fn backstop(leaf: &Leaf, renew: Renew, seed: Seed) -> Timestamp {
    let lifetime = leaf.lifetime();
    let left = match renew.before(lifetime) {
        Some(left) => left,
        None => {
            let left = if lifetime < TEN_DAYS { lifetime / 2 } else { lifetime / 3 };
            left.saturating_add(fraction(left / 20, seed))
        }
    };
    leaf.not_after.before(left)
}

/// When less than a twelfth of the life is left: nothing may put a renewal off any longer
pub fn emergency(leaf: &Leaf) -> Timestamp {
    leaf.not_after.before(leaf.lifetime() / 12)
}

/// When renewal information is first asked for
///
/// A fresh certificate is not asked about at once: its issuance is the CA's latest word.
pub fn first_renewal_info(held: &Held) -> Timestamp {
    let wait = (held.leaf.lifetime() / 20).min(SIX_HOURS);
    held.meta.staged_at.after(wait / 2).after(fraction(wait / 2, Seed::of(held)))
}

const TEN_DAYS: Duration = Duration::from_secs(10 * 86_400);
const SIX_HOURS: Duration = Duration::from_secs(6 * 3600);
