//! The nonces that a CA hands out, each to be used once.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555#section-6.5>

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The nonces of one CA that nobody has used yet
///
/// Every answer brings one, so that in a running session newNonce need not be asked. The newest
/// is used first, since CAs forget old ones.
#[derive(Debug, Default)]
pub(super) struct Nonces(Mutex<VecDeque<(String, Instant)>>);

impl Nonces {
    /// Keep a nonce for the next request
    pub(super) fn put(&self, nonce: &str) {
        // The RFC says base64url, some CAs take more of ASCII, and JSON can carry that.
        let sound =
            (1..=MAX_LENGTH).contains(&nonce.len()) && nonce.bytes().all(|b| b.is_ascii_graphic());
        if !sound {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.pop_front();
        }
        kept.push_back((nonce.to_owned(), Instant::now()));
    }

    /// The newest nonce, unless it is too old to be trusted
    pub(super) fn take(&self) -> Option<String> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (nonce, since) = kept.pop_back()?;
        if since.elapsed() > MAX_AGE {
            kept.clear();
            return None;
        }
        Some(nonce)
    }
}

/// One for each order that may be waiting at the same time
const MAX_KEPT: usize = 256;

const MAX_LENGTH: usize = 512;

const MAX_AGE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_newest_is_used_first_and_an_old_one_never() {
        let nonces = Nonces::default();
        nonces.put("old");
        tokio::time::advance(Duration::from_secs(50)).await;
        nonces.put("new");
        assert_eq!(nonces.take().as_deref(), Some("new"));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(nonces.take(), None);
    }

    #[test]
    fn what_is_no_nonce_is_not_kept() {
        let nonces = Nonces::default();
        for text in ["", "a b", "a\n", "ä", &"a".repeat(513)] {
            nonces.put(text);
            assert_eq!(nonces.take(), None, "{text:?}");
        }
    }
}
