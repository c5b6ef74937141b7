//! One order, from newOrder to the chain.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555#section-7.4>

mod place;
mod verdict;

use std::fmt;
use std::time::Duration;

use instant_acme::{
    AuthorizationHandle, AuthorizationStatus, ChallengeStatus, ChallengeType, Error, OrderStatus,
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::account::Session;
use super::answer::{Answer, Problem};
use super::call::call;
use super::poll::{CEILING, Polls};
use crate::failure::{Failure, FailureClass, Step};
use crate::name::Identifier;
use crate::text::External;
use crate::token::{Challenge, Token};

pub use place::{Resumed, Unplaced};
use verdict::refresh_nth;

/// An order at a CA
///
/// The calls follow the protocol: [`Order::challenges`], [`Order::respond`],
/// [`Order::wait_ready`], [`Order::finalize`], [`Order::wait_certificate`]. Each does nothing
/// when the order is past it already, so a resumed order takes the same way. After any failure
/// the order's record stays: the next cycle resumes it, and finds out whether it is gone.
pub struct Order {
    session: Session,
    inner: instant_acme::Order,
    status: Status,
    profile: Option<String>,
    error: Option<Problem>,
    /// How long the CA asked, in its last answer, to be left alone
    asked: Option<Duration>,
    deadline: Option<Instant>,
}

/// How far an order is
///
/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1.6>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Control is yet to be proven
    Pending,
    /// The CSR may be sent
    Ready,
    /// The CA is issuing
    Processing,
    /// The certificate is there
    Valid,
    /// Nothing comes of it
    Invalid,
}

impl Order {
    fn new(
        session: &Session,
        inner: instant_acme::Order,
        answer: Option<Answer>,
        profile: Option<String>,
    ) -> Self {
        let mut order = Self {
            session: session.clone(),
            inner,
            status: Status::Pending,
            profile,
            error: None,
            asked: None,
            deadline: None,
        };
        order.note(answer.as_ref());
        order
    }

    /// Where the order is, to find it again
    pub fn url(&self) -> &str {
        self.inner.url()
    }

    /// How far it is, as the CA last said
    pub fn status(&self) -> Status {
        self.status
    }

    /// The profile that was asked for; `None` for an order that was resumed
    pub fn profile(&self) -> Option<&str> {
        self.profile.as_deref()
    }

    /// The http-01 challenges to publish; none for names that the CA still trusts
    ///
    /// <https://www.rfc-editor.org/rfc/rfc8555#section-7.5>
    ///
    /// # Errors
    /// When a name has no such challenge, or one whose token is none; the failure names it.
    pub async fn challenges(&mut self) -> Result<Vec<Challenge>, Failure> {
        let mut challenges = Vec::new();
        for index in 0..self.pending_authorizations()? {
            self.fetch_authorization(index).await?;
            let mut list = self.inner.authorizations();
            let Ok(Some(mut authorization)) = nth(&mut list, index).await else { continue };
            let identifier = ours(&authorization)?;
            match authorization.status {
                AuthorizationStatus::Pending => {}
                AuthorizationStatus::Valid => continue,
                // The order is invalid, or is about to be; the reason is with the authorization.
                _ => return Err(self.blame(Step::Authorize).await),
            }
            let Some(challenge) = authorization.challenge(ChallengeType::Http01) else {
                let reason = "the CA offers no http-01 challenge for it";
                return Err(unfit(identifier, reason));
            };
            let Some(token) = Token::parse(&challenge.token) else {
                return Err(unfit(identifier, "the CA's challenge has a token that is none"));
            };
            let key_authorization = challenge.key_authorization().as_str().to_owned();
            challenges.push(Challenge { identifier, token, key_authorization });
        }
        Ok(challenges)
    }

    /// Tell the CA that the challenges are published
    ///
    /// # Errors
    /// When the CA does not take that, or says at once that it cannot see one.
    pub async fn respond(&mut self) -> Result<(), Failure> {
        let (mut index, mut misses) = (0, 0);
        while index < self.pending_authorizations()? {
            let inner = &mut self.inner;
            let asked = call!(respond_nth(inner, index));
            let taken = asked.1.as_ref().filter(|answer| answer.status.is_success());
            let Some(answer) = taken else {
                let refused = is_refused(asked.1.as_ref());
                match self.session.judge(asked, Step::Authorize) {
                    Ok(_) => index += 1,
                    Err(failure) if refused => return Err(failure),
                    Err(failure) => {
                        self.find_out(failure, Step::Authorize, &mut misses).await?;
                        let inner = &mut self.inner;
                        // Where this fails too, the next answer tells.
                        drop(call!(refresh_nth(inner, index)));
                    }
                }
                continue;
            };
            let pause = answer.retry_after(self.session.transport().now());
            self.asked = self.asked.max(pause);
            // An error in a challenge that the CA took is its verdict, unless it tries again.
            let challenge = answer.json().unwrap_or_default();
            let settled = matches!(challenge["status"].as_str(), Some("pending" | "invalid"));
            if let Some(problem) = first_error(&challenge).filter(|_| settled) {
                let identifier = self.identifier(index).await;
                return Err(self.verdict(identifier.into_iter().collect(), &problem));
            }
            index += 1;
        }
        Ok(())
    }

    /// Wait until the CA has validated everything
    ///
    /// `served` completes when the CA has fetched the last of the challenges, where that can be
    /// seen; it only makes the next look come sooner. Otherwise pass [`std::future::pending`].
    ///
    /// # Errors
    /// After 15 minutes, or with the names that failed and the CA's reason for each.
    pub async fn wait_ready(&mut self, served: impl Future<Output = ()>) -> Result<(), Failure> {
        let mut served = std::pin::pin!(served);
        let mut hinted = false;
        let mut polls = self.polls();
        let mut misses = 0;
        while self.status == Status::Pending {
            let asked = self.asked.take();
            let now = self.session.transport().now();
            let delay = polls.next(asked, Step::Authorize, now)?;
            tokio::select! {
                () = sleep(delay) => {}
                () = &mut served, if !hinted && asked.is_none() => {
                    hinted = true;
                    sleep(AFTER_SERVED).await;
                }
            }
            self.look(Step::Authorize, &mut misses).await?;
        }
        match self.status {
            Status::Invalid => Err(self.blame(Step::Authorize).await),
            _ => Ok(()),
        }
    }

    /// Ask for the certificate
    ///
    /// # Errors
    /// When the CA does not take the request; the order stays and may be finalized with another.
    /// Where the CA may have taken it, no other issuer is to be asked before this one was again.
    pub async fn finalize(&mut self, csr_der: &[u8]) -> Result<(), Failure> {
        let (mut surprised, mut misses) = (false, 0);
        loop {
            self.wait_ready(std::future::pending()).await?;
            if self.status != Status::Ready {
                return Ok(());
            }
            let inner = &mut self.inner;
            let asked = call!(inner.finalize_csr(csr_der));
            let answer = asked.1.as_ref();
            if answer.is_some_and(|answer| answer.is("orderNotReady")) && !surprised {
                surprised = true;
                self.refresh(Step::Finalize).await?;
                continue;
            }
            let refused = is_refused(answer);
            let taken = answer.is_some_and(|answer| answer.status.is_success());
            if taken && matches!(asked.0, Err(Error::Json(_))) {
                return self.refresh(Step::Finalize).await.map_err(perhaps_issued);
            }
            match self.session.judge(asked, Step::Finalize) {
                Ok((_, answer)) => {
                    self.note(answer.as_ref());
                    return Ok(());
                }
                Err(failure) if refused => return Err(failure),
                Err(failure) => {
                    if let Err(failure) = self.find_out(failure, Step::Finalize, &mut misses).await
                    {
                        let shown = self.refresh(Step::Finalize).await;
                        // What the CA shows as ready it has not issued.
                        let ready = shown.is_ok() && self.status == Status::Ready;
                        return Err(if ready { failure } else { perhaps_issued(failure) });
                    }
                }
            }
        }
    }

    /// Wait for the certificate and fetch it: the leaf and its intermediates, PEM, unchecked
    ///
    /// # Errors
    /// After 15 minutes, or with what the CA says about an order that it dropped.
    pub async fn wait_certificate(&mut self) -> Result<String, Failure> {
        let mut polls = self.polls();
        let mut misses = 0;
        while !matches!(self.status, Status::Valid | Status::Invalid) {
            let asked = self.asked.take();
            let now = self.session.transport().now();
            sleep(polls.next(asked, Step::Finalize, now)?).await;
            self.look(Step::Finalize, &mut misses).await.map_err(perhaps_issued)?;
        }
        if self.status == Status::Invalid {
            return Err(self.blame(Step::Finalize).await);
        }
        misses = 0;
        let chain = loop {
            let inner = &mut self.inner;
            let asked = call!(inner.certificate());
            match self.session.judge(asked, Step::Download) {
                Ok((chain, _)) => break chain,
                Err(failure) => {
                    let pause = self.bear(failure, &mut misses).map_err(perhaps_issued)?;
                    let now = self.session.transport().now();
                    sleep(polls.next(Some(pause), Step::Download, now)?).await;
                }
            }
        };
        match chain {
            Some(chain) if chain.len() <= MAX_CHAIN => Ok(chain),
            Some(_) => {
                let summary = "the CA's certificate chain is longer than 256 KiB";
                Err(Failure::retry(Step::Download, summary).by_issuer())
            }
            None => {
                let summary = "the CA took the certificate back into processing";
                Err(Failure::retry(Step::Download, summary))
            }
        }
    }

    fn polls(&mut self) -> Polls {
        Polls::until(self.deadline())
    }

    /// When the wait for the whole order ends, which begins with the first wait
    fn deadline(&mut self) -> Instant {
        *self.deadline.get_or_insert_with(|| Instant::now() + CEILING)
    }

    /// Look at the order, and bear with a CA that is out of order for a moment
    async fn look(&mut self, step: Step, misses: &mut u32) -> Result<(), Failure> {
        let Err(failure) = self.refresh(step).await else {
            *misses = 0;
            return Ok(());
        };
        self.asked = Some(self.bear(failure, misses)?);
        Ok(())
    }

    /// Look at the order after a request that the CA may have taken, although its answer is lost
    async fn find_out(
        &mut self,
        mut failure: Failure,
        step: Step,
        misses: &mut u32,
    ) -> Result<(), Failure> {
        loop {
            sleep(self.bear(failure, misses)?).await;
            match self.refresh(step).await {
                Ok(()) => return Ok(()),
                Err(next) => failure = next,
            }
        }
    }

    /// How long to leave the CA alone before the same is asked again
    fn bear(&mut self, failure: Failure, misses: &mut u32) -> Result<Duration, Failure> {
        let now = self.session.transport().now();
        let pause = match failure.class {
            FailureClass::NeedsOperator { .. } => return Err(failure),
            _ if !failure.try_other_issuer || *misses == MAX_MISSES => return Err(failure),
            FailureClass::NotBefore { at } => at.since(now),
            FailureClass::Retry => Duration::from_secs(1) * 2_u32.pow(*misses),
        };
        // What the CA said is worth more than that the time is over.
        if pause > self.deadline().saturating_duration_since(Instant::now()) {
            return Err(failure);
        }
        *misses += 1;
        Ok(pause)
    }

    async fn refresh(&mut self, step: Step) -> Result<(), Failure> {
        let inner = &mut self.inner;
        let asked = call!(async { inner.refresh().await.map(drop) });
        let ((), answer) = self.session.judge(asked, step)?;
        self.note(answer.as_ref());
        Ok(())
    }

    fn note(&mut self, answer: Option<&Answer>) {
        let state = self.inner.state();
        self.status = match state.status {
            OrderStatus::Pending => Status::Pending,
            OrderStatus::Ready => Status::Ready,
            OrderStatus::Processing => Status::Processing,
            OrderStatus::Valid => Status::Valid,
            OrderStatus::Invalid => Status::Invalid,
        };
        let now = self.session.transport().now();
        self.asked = answer.and_then(|answer| answer.retry_after(now));
        self.error = answer.and_then(Answer::json).as_ref().and_then(first_error);
    }

    /// How many authorizations there are to see to
    fn pending_authorizations(&mut self) -> Result<usize, Failure> {
        if self.status != Status::Pending {
            return Ok(0);
        }
        match self.inner.state().authorizations.len() {
            count @ 1..=MAX_AUTHORIZATIONS => Ok(count),
            count => {
                let summary = format!("the CA's order has {count} authorizations");
                Err(Failure::retry(Step::Authorize, summary).by_issuer())
            }
        }
    }

    async fn fetch_authorization(&mut self, index: usize) -> Result<(), Failure> {
        let inner = &mut self.inner;
        let asked = call!(async {
            let mut list = inner.authorizations();
            nth(&mut list, index).await.map(drop)
        });
        self.session.judge(asked, Step::Authorize).map(drop)
    }

    async fn identifier(&mut self, index: usize) -> Option<Identifier> {
        let mut list = self.inner.authorizations();
        ours(&nth(&mut list, index).await.ok()??).ok()
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order")
            .field("url", &self.url())
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// The authorization of this index; those before it are fetched if they are not yet
async fn nth<'a>(
    list: &'a mut instant_acme::Authorizations<'_>,
    index: usize,
) -> Result<Option<AuthorizationHandle<'a>>, Error> {
    for _ in 0..index {
        if let Some(authorization) = list.next().await {
            authorization?;
        }
    }
    list.next().await.transpose()
}

async fn respond_nth(order: &mut instant_acme::Order, index: usize) -> Result<(), Error> {
    let mut list = order.authorizations();
    let Some(mut authorization) = nth(&mut list, index).await? else { return Ok(()) };
    if authorization.status != AuthorizationStatus::Pending {
        return Ok(());
    }
    match authorization.challenge(ChallengeType::Http01) {
        // One that is processing was responded to before a crash.
        Some(mut challenge) if challenge.status == ChallengeStatus::Pending => {
            challenge.set_ready().await
        }
        _ => Ok(()),
    }
}

/// Whether the CA, or what is before it, has done nothing of what was asked
fn is_refused(answer: Option<&Answer>) -> bool {
    answer.is_some_and(|answer| answer.status.is_client_error())
}

/// A failure after the request for the certificate was sent: there may be one by now, and to ask
/// another CA would waste it together with its key
fn perhaps_issued(failure: Failure) -> Failure {
    Failure { try_other_issuer: false, ..failure }
}

fn first_error(document: &Value) -> Option<Problem> {
    document.get("error").filter(|error| error.is_object()).map(Problem::read)
}

/// An authorization's identifier as we write it
fn ours(authorization: &AuthorizationHandle<'_>) -> Result<Identifier, Failure> {
    let text = authorization.identifier().to_string();
    Identifier::parse(&text).map_err(|error| {
        let summary = format!("the CA authorizes a name that is none: {error}");
        Failure::retry(Step::Authorize, summary).by_issuer()
    })
}

/// A challenge that cannot be met
fn unfit(identifier: Identifier, reason: &str) -> Failure {
    let summary = format!("control of {identifier} cannot be proven");
    let mut failure = Failure::retry(Step::Authorize, summary).by_issuer();
    failure.identifiers = vec![(identifier, External::new(reason))];
    failure
}

/// After the CA's first fetch its others, and the verdict, follow at once
const AFTER_SERVED: Duration = Duration::from_millis(5);

const MAX_AUTHORIZATIONS: usize = 1000;

const MAX_CHAIN: usize = 256 << 10;

const MAX_MISSES: u32 = 3;

#[cfg(test)]
mod tests;
