//! Whose fault an invalid order is.

use instant_acme::{AuthorizationStatus, Error};

use super::{MAX_AUTHORIZATIONS, Order, nth, ours};
use crate::acme::answer::Problem;
use crate::acme::call::call;
use crate::acme::failure;
use crate::failure::{Failure, FailureClass, Step};
use crate::name::Identifier;
use crate::text::External;

impl Order {
    /// Find out which names an invalid order failed for, and why
    pub(super) async fn blame(&mut self, step: Step) -> Failure {
        let mut failed: Vec<(Identifier, Problem)> = Vec::new();
        if let Some(error) = &self.error {
            failed.clone_from(&error.subproblems);
        }
        let count = self.inner.state().authorizations.len().min(MAX_AUTHORIZATIONS);
        let silent = failed.is_empty();
        for index in (0..count).take_while(|_| silent) {
            let inner = &mut self.inner;
            let (asked, _) = call!(refresh_nth(inner, index));
            // What the CA will not tell is not worth another failure.
            failed.extend(asked.ok().flatten());
        }
        match failed.first().map(|(_, problem)| problem.clone()).or_else(|| self.error.clone()) {
            Some(problem) => self.judgement(failed, &problem, step),
            None => Failure::retry(step, "the CA dropped the order and does not say why"),
        }
    }

    pub(super) fn verdict(&self, identifiers: Vec<Identifier>, problem: &Problem) -> Failure {
        let failed = identifiers.into_iter().map(|name| (name, problem.clone())).collect();
        self.judgement(failed, problem, Step::Authorize)
    }

    /// A failure from the reasons of single names, the gravest class of them
    fn judgement(
        &self,
        failed: Vec<(Identifier, Problem)>,
        problem: &Problem,
        step: Step,
    ) -> Failure {
        let now = self.session.transport().now();
        let mut failure = failure::refused(problem, None, step, now);
        for (_, problem) in &failed {
            let other = failure::refused(problem, None, step, now);
            if matches!(other.class, FailureClass::NeedsOperator { .. }) {
                failure.class = other.class;
            }
            failure.try_other_issuer |= other.try_other_issuer;
        }
        let said = |words: &str| {
            failed.iter().any(|(_, p)| p.words().to_ascii_lowercase().contains(words))
        };
        if !failed.is_empty() {
            let names: Vec<_> = failed.iter().map(|(name, _)| name.to_string()).collect();
            let hint = if said("secondary validation") {
                "; only some of the CA's vantage points saw it, which a firewall by country, a \
                 WAF or split DNS would explain"
            } else {
                ""
            };
            let names = names.join(", ");
            failure.summary =
                External::new(format!("the CA did not validate control of {names}{hint}"));
            failure.identifiers =
                failed.iter().map(|(name, p)| (name.clone(), External::new(p.words()))).collect();
        }
        failure
    }
}

/// Ask what became of an authorization, and why if it failed
pub(super) async fn refresh_nth(
    order: &mut instant_acme::Order,
    index: usize,
) -> Result<Option<(Identifier, Problem)>, Error> {
    let mut list = order.authorizations();
    let Some(mut authorization) = nth(&mut list, index).await? else { return Ok(None) };
    if authorization.status == AuthorizationStatus::Pending {
        authorization.refresh().await?;
    }
    let Ok(identifier) = ours(&authorization) else { return Ok(None) };
    let error = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref());
    Ok(match (error, authorization.status) {
        (Some(error), _) => Some((identifier, Problem::from(error))),
        (None, AuthorizationStatus::Pending | AuthorizationStatus::Valid) => None,
        (None, status) => {
            let detail = Some(format!("the authorization is {status:?}").to_lowercase());
            Some((identifier, Problem { detail, ..Problem::default() }))
        }
    })
}
