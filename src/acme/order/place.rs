//! Placing orders, and finding them again.

use instant_acme::NewOrder;
use rustls_pki_types::Der;

use super::{Order, Status};
use crate::acme::account::Session;
use crate::acme::answer::{Answer, Problem};
use crate::acme::call::call;
use crate::cert::AriId;
use crate::config::Profile;
use crate::failure::{Failure, Step};
use crate::name::Identifier;
use crate::text::External;

/// What became of an order that was placed earlier
#[derive(Debug)]
pub enum Resumed {
    /// It goes on
    Order(Box<Order>),
    /// Nothing comes of it any more, for this reason; place a new one
    Gone(External),
}

impl Session {
    /// Place an order; its URL is to be on disk before anything else is done with it
    ///
    /// `replaces` is only for a certificate that this account ordered at this CA. It is left out
    /// where the CA has no renewal information, and a CA that refuses the order with it is asked
    /// once without: an order is worth more than its exemption from rate limits. A profile that
    /// the CA does not offer is left out too, unless it is required.
    ///
    /// <https://www.rfc-editor.org/rfc/rfc9773#section-5>
    ///
    /// # Errors
    /// Of problem `accountDoesNotExist` when the CA has forgotten the account: register the same
    /// key again, once.
    pub async fn new_order(
        &self,
        identifiers: &[Identifier],
        profile: Option<&Profile>,
        replaces: Option<&AriId>,
    ) -> Result<Order, Unplaced> {
        let mut profile = self.offered(profile)?;
        let mut replaces = replaces.filter(|_| self.directory_facts().has_renewal_info());
        loop {
            let (placed, status) = self.place(identifiers, profile, replaces).await;
            let failure = match placed {
                Ok(order) => return Ok(order),
                Err(Unplaced { failure, url: None }) => failure,
                Err(unplaced) => return Err(unplaced),
            };
            let problem = failure.problem.as_ref().map(External::as_str);
            if problem == Some("invalidProfile") && profile.is_some_and(|p| !p.required) {
                profile = None;
            } else if replaces.is_some() && is_worth_a_plain_order(problem, status) {
                replaces = None;
            } else {
                return Err(failure.into());
            }
        }
    }

    /// Find an order again, as far as it got
    ///
    /// # Errors
    /// When the CA cannot be asked; the order may well be there.
    pub async fn order(&self, url: &str) -> Result<Resumed, Failure> {
        let asked = call!(self.account().order(url.to_owned()));
        let status = asked.1.as_ref().map(|answer| answer.status.as_u16());
        match self.judge(asked, Step::Order) {
            Ok((inner, answer)) => match Order::new(self, inner, answer, None) {
                Order { status: Status::Invalid, error, .. } => {
                    let words = error.as_ref().map_or("it has failed or expired", Problem::words);
                    Ok(Resumed::Gone(External::new(words)))
                }
                order => Ok(Resumed::Order(Box::new(order))),
            },
            Err(failure) => {
                let problem = failure.problem.as_ref().map(External::as_str);
                let gone = matches!(problem, Some("malformed" | "unauthorized"))
                    || matches!(status, Some(404 | 410));
                let outside = self.transport().fence().check(url).is_err();
                if problem != Some("accountDoesNotExist") && (gone || outside) {
                    return Ok(Resumed::Gone(failure.summary));
                }
                Err(failure)
            }
        }
    }

    /// The profile to ask for, given what the CA offers
    fn offered<'a>(&self, profile: Option<&'a Profile>) -> Result<Option<&'a Profile>, Failure> {
        let Some(profile) = profile else { return Ok(None) };
        let offered = &self.directory_facts().profiles;
        if offered.contains_key(&profile.name) {
            return Ok(Some(profile));
        }
        if !profile.required {
            return Ok(None);
        }
        let names = offered.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let summary = match names.as_str() {
            "" => format!("the CA has no profiles, and `{}` is required", profile.name),
            names => format!("the CA has no profile `{}`, only {names}", profile.name),
        };
        let what = "choose a `profile` that the CA offers, or do not require it";
        Err(Failure::needs_operator(Step::Order, summary, what).by_issuer())
    }

    async fn place(
        &self,
        identifiers: &[Identifier],
        profile: Option<&Profile>,
        replaces: Option<&AriId>,
    ) -> (Result<Order, Unplaced>, Option<u16>) {
        let identifiers: Vec<_> = identifiers.iter().map(foreign).collect();
        let mut order = NewOrder::new(&identifiers);
        if let Some(profile) = profile {
            order = order.profile(&profile.name);
        }
        let echo = replaces.map(ToString::to_string);
        if let Some(id) = replaces {
            order = order.replaces(instant_acme::CertificateIdentifier::new(
                Der::from_slice(&id.key_identifier),
                Der::from_slice(&id.serial),
            ));
        }
        let asked = call!(self.account().new_order(&order), replacing: echo.as_deref());
        let answer = asked.1.as_ref();
        let status = answer.map(|answer| answer.status.as_u16());
        let profile = profile.map(|profile| profile.name.clone());
        let placed_at = answer.filter(|a| a.status.is_success()).and_then(Answer::location);
        if let (Err(_), Some(url)) = (&asked.0, placed_at) {
            // The order is placed, and only the answer was odd: ask for it in the usual way.
            let again = call!(self.account().order(url.to_owned()));
            let order = self.judge(again, Step::Order);
            let order = order.map(|(inner, answer)| Order::new(self, inner, answer, profile));
            let url = Some(url.to_owned());
            return (order.map_err(|failure| Unplaced { failure, url }), status);
        }
        let order = self.judge(asked, Step::Order);
        let order = order.map(|(inner, answer)| Order::new(self, inner, answer, profile));
        (order.map_err(Unplaced::from), status)
    }
}

/// An order that was not placed, or not for all that is known
#[derive(Debug)]
pub struct Unplaced {
    /// Why
    pub failure: Failure,
    /// Where it is, if the CA took it and then could not be understood
    pub url: Option<String>,
}

impl From<Failure> for Unplaced {
    fn from(failure: Failure) -> Self {
        Self { failure, url: None }
    }
}

/// Whether an order that was refused with `replaces` might be taken without
fn is_worth_a_plain_order(problem: Option<&str>, status: Option<u16>) -> bool {
    let other = matches!(problem, Some("rateLimited" | "badNonce" | "accountDoesNotExist"));
    // Pebble answers for a certificate that it does not know with 500.
    let refused = status.is_some_and(|s| (400..500).contains(&s) && s != 429)
        || (status == Some(500) && problem == Some("serverInternal"));
    refused && !other
}

fn foreign(identifier: &Identifier) -> instant_acme::Identifier {
    match identifier {
        Identifier::Dns(name) => instant_acme::Identifier::Dns(name.as_str().to_owned()),
        Identifier::Ip(address) => instant_acme::Identifier::Ip(*address),
    }
}
