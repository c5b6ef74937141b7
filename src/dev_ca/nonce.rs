//! Nonces, each good for one request.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555#section-6.5>

use std::collections::{HashSet, VecDeque};

use aws_lc_rs::error::Unspecified;

use super::state::random_id;

/// The nonces that are out and not used yet; beyond [`LIMIT`] the oldest is void
#[derive(Debug, Default)]
pub(super) struct Nonces {
    good: HashSet<String>,
    order: VecDeque<String>,
}

impl Nonces {
    pub(super) fn issue(&mut self) -> Result<String, Unspecified> {
        let nonce = random_id()?;
        if self.order.len() >= LIMIT
            && let Some(oldest) = self.order.pop_front()
        {
            self.good.remove(&oldest);
        }
        self.good.insert(nonce.clone());
        self.order.push_back(nonce.clone());
        Ok(nonce)
    }

    /// Whether the nonce was good; it no longer is
    pub(super) fn redeem(&mut self, nonce: &str) -> bool {
        self.good.remove(nonce)
    }
}

const LIMIT: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_once() {
        let mut nonces = Nonces::default();
        let nonce = nonces.issue().unwrap();
        assert!(nonces.redeem(&nonce));
        assert!(!nonces.redeem(&nonce));
        assert!(!nonces.redeem("bm90IG91cnM"));
    }

    #[test]
    fn the_oldest_nonce_makes_room() {
        let mut nonces = Nonces::default();
        let first = nonces.issue().unwrap();
        let second = nonces.issue().unwrap();
        for _ in 2..=LIMIT {
            nonces.issue().unwrap();
        }
        assert!(!nonces.redeem(&first));
        assert!(nonces.redeem(&second));
        assert_eq!(nonces.order.len(), LIMIT);
    }
}
