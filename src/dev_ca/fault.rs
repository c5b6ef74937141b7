//! Misbehaviour on request.

use std::time::Duration;

use crate::name::Identifier;
use crate::time::Timestamp;

use super::problem::{Problem, ProblemType};

/// Something that the CA is to do wrong
///
/// `times` counts down as the fault happens, and at 0 the fault is over; faults of the same kind
/// happen one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refuse this share of the good nonces, evenly spread; 0 ends it
    RejectNonces {
        /// 0 to 100
        percent: u8,
    },
    /// Answer with this instead of processing the request
    Answer {
        /// Requests to what
        to: Resource,
        /// How often
        times: u32,
        /// With what
        answer: Answer,
    },
    /// Wait before the request is processed
    Delay {
        /// Requests to what
        to: Resource,
        /// How often
        times: u32,
        /// How long
        by: Duration,
    },
    /// Process the request, then close the connection without an answer
    HangUp {
        /// Requests to what
        on: Resource,
        /// How often
        times: u32,
    },
    /// Answer with URLs of another origin than the CA's
    ForeignUrls {
        /// Answers to what
        from: Resource,
        /// How often
        times: u32,
        /// What every `https://127.0.0.1:port` becomes, such as `https://ca.invalid`
        origin: String,
    },
    /// Show as processing what is already decided, until it was looked at so many times
    StayProcessing {
        /// What
        what: Waiting,
        /// For how many of them
        times: u32,
        /// How many looks
        polls: u32,
        /// What those looks are answered with
        retry_after: Option<RetryAfter>,
    },
    /// Offer challenges with this token
    Token {
        /// In how many authorizations
        times: u32,
        /// The token, safe or not
        text: String,
    },
    /// Make orders whose authorizations are valid without a challenge
    AuthorizationsValid {
        /// How many orders
        times: u32,
    },
    /// Use an account's valid authorizations again for new orders, until faults are cleared
    ReuseAuthorizations,
    /// Give an order that is under way to whoever asks for the same names again, as Boulder does
    ReuseOrders,
    /// Refuse new orders for this, until faults are cleared; the problem names it
    RejectIdentifier(Identifier),
    /// Take the CSR, and then let the order become invalid
    IssuanceFails {
        /// How many orders
        times: u32,
        /// The type of the order's error
        problem: ProblemType,
        /// Its text
        detail: String,
    },
    /// Issue something else than was asked for
    Certificate {
        /// How many
        times: u32,
        /// What is wrong with it
        flaw: Flaw,
    },
}

/// What is wrong with a certificate
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is for a key that nobody has
    ForeignKey,
    /// It is for this instead of the order's identifiers
    OtherName(Identifier),
    /// It has this identifier more than the order
    ExtraName(Identifier),
    /// It has expired a minute ago
    ExpiredLeaf,
    /// Its intermediate has expired long ago
    ExpiredIntermediate,
    /// Its intermediate has the right name and another key
    ForeignIntermediate,
    /// It is itself a CA
    LeafIsCa,
    /// The chain is the leaf alone
    NoIntermediate,
    /// The chain is this text
    Text(String),
}

/// What may stay [processing](Fault::StayProcessing)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// An authorization's challenge
    Authorization,
    /// A finalized order
    Order,
}

/// The two forms of a `Retry-After` header
///
/// <https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// In this many seconds
    Seconds(u32),
    /// At the date that is so far away
    Date(Duration),
}

impl RetryAfter {
    pub(super) fn header(self, now: Timestamp) -> String {
        match self {
            Self::Seconds(seconds) => seconds.to_string(),
            Self::Date(span) => http_date(now.after(span)),
        }
    }
}

/// <https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7>
fn http_date(moment: Timestamp) -> String {
    use time::OffsetDateTime;
    let Ok(date) = OffsetDateTime::from_unix_timestamp(moment.as_seconds()) else {
        return "0".to_owned();
    };
    let (weekday, month) = (date.weekday().to_string(), date.month().to_string());
    format!(
        "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
        weekday.get(..3).unwrap_or_default(),
        date.day(),
        month.get(..3).unwrap_or_default(),
        date.year(),
        date.hour(),
        date.minute(),
        date.second(),
    )
}

/// A literal answer; it carries the headers that all answers carry, unless it has its own
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status; one that HTTP does not know becomes 500
    pub status: u16,
    /// Headers; those that HTTP does not allow are left out
    pub headers: Vec<(String, String)>,
    /// The body
    pub body: Vec<u8>,
}

impl Answer {
    /// A problem document, with the status that goes with its type
    pub fn problem(kind: ProblemType, detail: &str) -> Self {
        let content_type = "application/problem+json".to_owned();
        Self {
            status: kind.status().as_u16(),
            headers: vec![("content-type".to_owned(), content_type)],
            body: Problem::new(kind, detail).to_json().to_string().into_bytes(),
        }
    }

    /// A body of some type
    pub fn text(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self { status, headers, body: body.into() }
    }

    /// The same with one more header
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// What a request is to
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Whatever there is
    Any,
    /// The directory
    Directory,
    /// newNonce
    NewNonce,
    /// newAccount
    NewAccount,
    /// An account
    Account,
    /// The list of an account's orders
    Orders,
    /// newOrder
    NewOrder,
    /// An order
    Order,
    /// The finalize URL of an order
    Finalize,
    /// An authorization
    Authorization,
    /// A challenge
    Challenge,
    /// A certificate
    Certificate,
    /// revokeCert
    RevokeCert,
    /// keyChange
    KeyChange,
    /// Renewal information
    RenewalInfo,
    /// Pages for people, and what is not there
    Other,
}

impl Resource {
    fn matches(self, actual: Self) -> bool {
        self == Self::Any || self == actual
    }
}

/// The faults in force
#[derive(Debug, Default)]
pub(super) struct Faults {
    active: Vec<Fault>,
    percent: u8,
    /// Grows by `percent` with each good nonce; at 100 one is refused
    debt: u32,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        match fault {
            Fault::RejectNonces { percent } => self.percent = percent.min(100),
            fault if self.active.len() < LIMIT => self.active.push(fault),
            _ => {}
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn rejects_nonce(&mut self) -> bool {
        self.debt += u32::from(self.percent);
        let reject = self.debt >= 100;
        if reject {
            self.debt -= 100;
        }
        reject
    }

    pub(super) fn answer(&mut self, actual: Resource) -> Option<Answer> {
        self.take(|fault| match fault {
            Fault::Answer { to, times, answer } if to.matches(actual) => {
                Some((times, answer.clone()))
            }
            _ => None,
        })
    }

    pub(super) fn delay(&mut self, actual: Resource) -> Option<Duration> {
        self.take(|fault| match fault {
            Fault::Delay { to, times, by } if to.matches(actual) => Some((times, *by)),
            _ => None,
        })
    }

    pub(super) fn hang_up(&mut self, actual: Resource) -> bool {
        let taken = self.take(|fault| match fault {
            Fault::HangUp { on, times } if on.matches(actual) => Some((times, ())),
            _ => None,
        });
        taken.is_some()
    }

    pub(super) fn foreign_origin(&mut self, actual: Resource) -> Option<String> {
        self.take(|fault| match fault {
            Fault::ForeignUrls { from, times, origin } if from.matches(actual) => {
                Some((times, origin.clone()))
            }
            _ => None,
        })
    }

    pub(super) fn stay_processing(&mut self, actual: Waiting) -> Option<(u32, Option<RetryAfter>)> {
        self.take(|fault| match fault {
            Fault::StayProcessing { what, times, polls, retry_after } if *what == actual => {
                Some((times, (*polls, *retry_after)))
            }
            _ => None,
        })
    }

    pub(super) fn token(&mut self) -> Option<String> {
        self.take(|fault| match fault {
            Fault::Token { times, text } => Some((times, text.clone())),
            _ => None,
        })
    }

    pub(super) fn authorizations_valid(&mut self) -> bool {
        let taken = self.take(|fault| match fault {
            Fault::AuthorizationsValid { times } => Some((times, ())),
            _ => None,
        });
        taken.is_some()
    }

    pub(super) fn reuses_authorizations(&self) -> bool {
        self.active.contains(&Fault::ReuseAuthorizations)
    }

    pub(super) fn reuses_orders(&self) -> bool {
        self.active.contains(&Fault::ReuseOrders)
    }

    pub(super) fn rejects(&self, identifier: &Identifier) -> bool {
        self.active
            .iter()
            .any(|fault| matches!(fault, Fault::RejectIdentifier(i) if i == identifier))
    }

    pub(super) fn issuance(&mut self) -> Option<Problem> {
        self.take(|fault| match fault {
            Fault::IssuanceFails { times, problem, detail } => {
                Some((times, Problem::new(*problem, detail.clone())))
            }
            _ => None,
        })
    }

    pub(super) fn flaw(&mut self) -> Option<Flaw> {
        self.take(|fault| match fault {
            Fault::Certificate { times, flaw } => Some((times, flaw.clone())),
            _ => None,
        })
    }

    /// Use up one time of the first fault that `read` knows
    fn take<T>(&mut self, read: impl Fn(&mut Fault) -> Option<(&mut u32, T)>) -> Option<T> {
        for (position, fault) in self.active.iter_mut().enumerate() {
            let Some((times, value)) = read(fault) else { continue };
            if *times == 0 {
                continue;
            }
            *times -= 1;
            if *times == 0 {
                self.active.remove(position);
            }
            return Some(value);
        }
        None
    }
}

const LIMIT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_nonces_is_refused_evenly() {
        for (percent, expected) in [(0, 0), (33, 33), (50, 50), (100, 100), (200, 100)] {
            let mut faults = Faults::default();
            faults.add(Fault::RejectNonces { percent });
            let refused = (0..100).filter(|_| faults.rejects_nonce()).count();
            assert_eq!(refused, expected, "{percent} %");
        }
    }

    #[test]
    fn a_fault_is_over_when_its_times_are_used_up() {
        let mut faults = Faults::default();
        faults.add(Fault::HangUp { on: Resource::NewOrder, times: 2 });
        faults.add(Fault::HangUp { on: Resource::Any, times: 1 });
        faults.add(Fault::HangUp { on: Resource::Any, times: 0 });
        let seen = [Resource::NewOrder, Resource::Order, Resource::NewOrder, Resource::NewOrder]
            .map(|resource| faults.hang_up(resource));
        assert_eq!(seen, [true, true, true, false]);
    }

    #[test]
    fn a_date_is_written_as_http_has_it() {
        let moment: Timestamp = "1994-11-06T08:49:37Z".parse().unwrap();
        assert_eq!(
            RetryAfter::Date(Duration::ZERO).header(moment),
            "Sun, 06 Nov 1994 08:49:37 GMT"
        );
        assert_eq!(RetryAfter::Seconds(7).header(moment), "7");
    }
}
