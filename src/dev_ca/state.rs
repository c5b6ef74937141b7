//! Accounts, orders, authorizations and certificates, in bounded memory.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Value, json};

use crate::name::Identifier;
use crate::time::Timestamp;

use super::fault::RetryAfter;
use super::jwk::AccountKey;
use super::problem::Problem;
use super::{Issued, Suggestion};

/// All that the CA knows; the oldest of a kind makes room for the newest
#[derive(Debug)]
pub(super) struct State {
    pub(super) accounts: Bounded<Account>,
    pub(super) orders: Bounded<Order>,
    pub(super) authorizations: Bounded<Authorization>,
    /// By what renewal information is asked by, which is also in their URLs
    pub(super) certificates: Bounded<Certificate>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            accounts: Bounded::new(4096),
            orders: Bounded::new(16_384),
            authorizations: Bounded::new(65_536),
            certificates: Bounded::new(16_384),
        }
    }
}

impl State {
    pub(super) fn account_of(&self, key: &AccountKey) -> Option<(&str, &Account)> {
        self.accounts.iter().find(|(_, account)| account.key == *key)
    }

    /// The state of an order, which follows from its authorizations until it is finalized
    ///
    /// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1.6>
    pub(super) fn order_status(&self, order: &Order, now: Timestamp) -> Status {
        match &order.stage {
            Stage::Processing { .. } => Status::Processing,
            Stage::Valid { .. } => Status::Valid,
            Stage::Invalid => Status::Invalid,
            Stage::Open if order.expires <= now => Status::Invalid,
            Stage::Open => {
                let mut status = Status::Ready;
                for id in &order.authorizations {
                    match self.authorizations.find(id).map(|a| a.status(now)) {
                        Some(Status::Valid) => {}
                        Some(Status::Pending) => status = Status::Pending,
                        _ => return Status::Invalid,
                    }
                }
                status
            }
        }
    }
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1.2>
#[derive(Debug)]
pub(super) struct Account {
    pub(super) key: AccountKey,
    pub(super) active: bool,
    pub(super) contact: Vec<String>,
    pub(super) binding: Option<Value>,
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1.3>
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) account: String,
    pub(super) expires: Timestamp,
    pub(super) identifiers: Vec<Identifier>,
    pub(super) authorizations: Vec<String>,
    pub(super) profile: String,
    pub(super) replaces: Option<String>,
    pub(super) error: Option<Problem>,
    pub(super) stage: Stage,
}

/// How far an order is after its authorizations
#[derive(Clone, Debug)]
pub(super) enum Stage {
    Open,
    /// Decided, and shown as processing for so many looks more
    Processing {
        polls: u32,
        retry_after: Option<RetryAfter>,
        outcome: Result<String, Problem>,
    },
    Valid {
        certificate: String,
    },
    Invalid,
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1.4>, with its one http-01 challenge
#[derive(Debug)]
pub(super) struct Authorization {
    pub(super) account: String,
    pub(super) identifier: Identifier,
    pub(super) status: Status,
    pub(super) expires: Timestamp,
    pub(super) token: String,
    pub(super) challenge: Challenge,
}

impl Authorization {
    pub(super) fn status(&self, now: Timestamp) -> Status {
        match self.status {
            Status::Pending if self.expires <= now => Status::Invalid,
            Status::Valid if self.expires <= now => Status::Expired,
            status => status,
        }
    }
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1.6>
#[derive(Debug)]
pub(super) enum Challenge {
    Pending,
    /// Being validated, or shown so for so many looks more
    Processing {
        polls: u32,
        retry_after: Option<RetryAfter>,
        outcome: Option<Outcome>,
    },
    Valid {
        at: Timestamp,
    },
    Invalid(Problem),
}

/// When a validation ended, and how
pub(super) type Outcome = (Timestamp, Result<(), Problem>);

/// An issued certificate
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) issued: Issued,
    pub(super) account: String,
    pub(super) der: Vec<u8>,
    pub(super) suggestion: Option<Suggestion>,
    /// The order that replaces it, or did
    pub(super) replaced_by: Option<String>,
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1.6>
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Pending,
    Ready,
    Processing,
    Valid,
    Invalid,
    Deactivated,
    Expired,
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-9.7.7>, <https://www.rfc-editor.org/rfc/rfc8738>
pub(super) fn identifier_json(identifier: &Identifier) -> Value {
    let kind = match identifier {
        Identifier::Dns(_) => "dns",
        Identifier::Ip(_) => "ip",
    };
    json!({ "type": kind, "value": identifier.to_string() })
}

/// A map that forgets its oldest entry when it is full
#[derive(Debug)]
pub(super) struct Bounded<V> {
    entries: HashMap<String, V>,
    order: VecDeque<String>,
    limit: usize,
}

impl<V> Bounded<V> {
    pub(super) fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), limit }
    }

    pub(super) fn insert(&mut self, id: String, value: V) {
        if self.entries.insert(id.clone(), value).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    pub(super) fn find(&self, id: &str) -> Option<&V> {
        self.entries.get(id)
    }

    pub(super) fn find_mut(&mut self, id: &str) -> Option<&mut V> {
        self.entries.get_mut(id)
    }

    /// Entries from the oldest to the newest
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &V)> {
        self.order.iter().filter_map(|id| self.entries.get(id).map(|value| (id.as_str(), value)))
    }

    pub(super) fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

/// A name that nobody guesses, safe in an URL
pub(super) fn random_id() -> Result<String, Unspecified> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A mutex whose holder cannot leave it unusable: what is behind it is whole between statements
#[derive(Debug, Default)]
pub(super) struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entry_makes_room() {
        let mut map = Bounded::new(2);
        for id in ["a", "b", "a", "c"] {
            map.insert(id.to_owned(), id);
        }
        assert_eq!(map.find("a"), None);
        assert_eq!(map.values().collect::<Vec<_>>(), [&"b", &"c"]);
    }
}
