//! What all requests share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::secret::Secret;
use crate::time::{Clock, Timestamp};

use super::fault::Faults;
use super::hierarchy::Hierarchy;
use super::nonce::Nonces;
use super::state::{Lock, State};
use super::validate::Validator;
use super::{DevCa, LoggedRequest, Options};

/// The CA behind its URLs
///
/// Locks are taken one at a time but for `state` before `faults`, and never across an `await`.
#[derive(Debug)]
pub(super) struct Ca {
    /// Scheme and authority, to which paths are appended
    pub(super) base: String,
    pub(super) profiles: BTreeMap<String, Duration>,
    pub(super) default_profile: String,
    pub(super) eab: BTreeMap<String, Secret<Vec<u8>>>,
    pub(super) retry_after: Option<Duration>,
    pub(super) hierarchy: Hierarchy,
    pub(super) validator: Validator,
    pub(super) nonces: Lock<Nonces>,
    pub(super) faults: Lock<Faults>,
    pub(super) state: Lock<State>,
    pub(super) log: Lock<VecDeque<LoggedRequest>>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    clock: Arc<dyn Clock>,
}

impl Ca {
    pub(super) fn new(
        options: Options,
        clock: Arc<dyn Clock>,
        hierarchy: Hierarchy,
        base: String,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let mut faults = Faults::default();
        options.faults.into_iter().for_each(|fault| faults.add(fault));
        Self {
            base,
            profiles: options.profiles,
            default_profile: options.default_profile,
            eab: options.eab,
            retry_after: options.retry_after,
            hierarchy,
            validator: Validator::new(options.http01_port, options.resolve),
            nonces: Lock::default(),
            faults: Lock::new(faults),
            state: Lock::default(),
            log: Lock::default(),
            tasks,
            stop,
            clock,
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub(super) fn url_of(&self, collection: &str, id: &str) -> String {
        format!("{}{collection}/{id}", self.base)
    }

    /// What clients are asked to wait between looks, as a header's value
    pub(super) fn patience(&self) -> Option<String> {
        self.retry_after.map(|span| span.as_secs().max(1).to_string())
    }

    pub(super) fn record(&self, request: LoggedRequest) {
        let mut log = self.log.lock();
        if log.len() >= DevCa::REQUESTS_KEPT {
            log.pop_front();
        }
        log.push_back(request);
    }
}
