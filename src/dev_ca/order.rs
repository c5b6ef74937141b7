//! Orders, and the certificates that come of them.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555#section-7.4>

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cert::Leaf;
use crate::name::{DnsName, Identifier};
use crate::pem::{self, Kind};
use crate::time::Timestamp;

use super::ca::Ca;
use super::fault::{Faults, Flaw, Waiting};
use super::hierarchy::{Subject, SubjectKey};
use super::problem::{Problem, ProblemType};
use super::signed::Signed;
use super::state::{
    Authorization, Certificate, Challenge, Order, Stage, State, Status, identifier_json, random_id,
};
use super::{Issued, authorization, csr, renewal, route};

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.4>
pub(super) async fn create(
    Shared(ca): Shared<Arc<Ca>>,
    request: Signed,
) -> Result<Response, Problem> {
    let account = request.account()?;
    let payload: NewOrder = request.json()?;
    if payload.not_before.is_some() || payload.not_after.is_some() {
        return Err(Problem::malformed("`notBefore` and `notAfter` are not taken here"));
    }
    let identifiers = identifiers(&payload.identifiers)?;
    refuse_some(&ca.faults.lock(), &identifiers)?;
    let profile = payload.profile.unwrap_or_else(|| ca.default_profile.clone());
    if !ca.profiles.contains_key(&profile) {
        let detail = format!("there is no profile `{}`", profile.escape_debug());
        return Err(Problem::new(ProblemType::InvalidProfile, detail));
    }
    let (id, now) = (random_id()?, ca.now());
    let mut state = ca.state.lock();
    if ca.faults.lock().reuses_orders() {
        let is_it = |order: &&(&str, &Order)| {
            let order = order.1;
            order.account == account
                && order.identifiers == identifiers
                && order.profile == profile
                && matches!(order.stage, Stage::Open)
        };
        if let Some((id, order)) = state.orders.iter().find(|order| is_it(&order)) {
            let object = object(&ca, &state, id, order, now);
            let location = [(header::LOCATION, ca.url_of(route::ORDER, id))];
            return Ok((StatusCode::CREATED, location, Json(object)).into_response());
        }
    }
    if let Some(replaced) = &payload.replaces {
        renewal::check_replaces(&ca, &state, account, replaced, &identifiers, now)?;
        if let Some(certificate) = state.certificates.find_mut(replaced) {
            certificate.replaced_by = Some(id.clone());
        }
    }
    let authorizations = authorize(&ca, &mut state, account, &identifiers, now)?;
    let order = Order {
        account: account.to_owned(),
        expires: now.after(ORDER_LIFETIME),
        identifiers,
        authorizations,
        profile,
        replaces: payload.replaces,
        error: None,
        stage: Stage::Open,
    };
    let object = object(&ca, &state, &id, &order, now);
    state.orders.insert(id.clone(), order);
    let location = [(header::LOCATION, ca.url_of(route::ORDER, &id))];
    Ok((StatusCode::CREATED, location, Json(object)).into_response())
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1.3>
pub(super) async fn look(
    Shared(ca): Shared<Arc<Ca>>,
    Path(id): Path<String>,
    request: Signed,
) -> Result<Response, Problem> {
    request.only_looks()?;
    let mut state = ca.state.lock();
    let mut order = own(&state, &id, request.account()?)?.clone();
    let mut wait = None;
    if matches!(order.stage, Stage::Open) {
        for id in &order.authorizations {
            if let Some(authorization) = state.authorizations.find_mut(id) {
                wait = authorization::settle(&ca, authorization).or(wait);
            }
        }
    } else {
        wait = settle(&ca, &mut order);
    }
    let object = object(&ca, &state, &id, &order, ca.now());
    if let Some(slot) = state.orders.find_mut(&id) {
        *slot = order;
    }
    Ok((wait, Json(object)).into_response())
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.4>
pub(super) async fn finalize(
    Shared(ca): Shared<Arc<Ca>>,
    Path(id): Path<String>,
    request: Signed,
) -> Result<Response, Problem> {
    let payload: Finalize = request.json()?;
    let csr = URL_SAFE_NO_PAD
        .decode(&payload.csr)
        .map_err(|_| Problem::malformed("`csr` is not unpadded base64url"))?;
    let now = ca.now();
    // Held until the certificate is there, so that an order cannot be finalized twice.
    let mut state = ca.state.lock();
    let mut order = own(&state, &id, request.account()?)?.clone();
    let status = state.order_status(&order, now);
    if status != Status::Ready {
        let detail = format!("the order is {}", json!(status).as_str().unwrap_or_default());
        return Err(Problem::new(ProblemType::OrderNotReady, detail));
    }
    let key = csr::check(&csr, &order.identifiers, &request.key)?;
    let failure = ca.faults.lock().issuance();
    let outcome = match failure {
        Some(problem) => Err(problem),
        None => Ok(issue(&ca, &mut state, &order, key, now)?),
    };
    let stay = ca.faults.lock().stay_processing(Waiting::Order);
    let (polls, retry_after) = stay.unwrap_or_default();
    order.stage = Stage::Processing { polls, retry_after, outcome };
    let mut wait = None;
    match retry_after.map(|wait| wait.header(now)).or_else(|| ca.patience()) {
        Some(value) if polls > 0 => wait = Some([(header::RETRY_AFTER, value)]),
        _ if polls > 0 => {}
        _ => _ = settle(&ca, &mut order),
    }
    let object = object(&ca, &state, &id, &order, now);
    if let Some(slot) = state.orders.find_mut(&id) {
        *slot = order;
    }
    let location = [(header::LOCATION, ca.url_of(route::ORDER, &id))];
    Ok((wait, location, Json(object)).into_response())
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.4.2>
pub(super) async fn certificate(
    Shared(ca): Shared<Arc<Ca>>,
    Path(id): Path<String>,
    request: Signed,
) -> Result<Response, Problem> {
    request.only_looks()?;
    let state = ca.state.lock();
    let found = state.certificates.find(&id);
    let certificate = found.ok_or_else(|| Problem::not_found("certificate"))?;
    if certificate.account != request.account()? {
        return Err(Problem::unauthorized("this is the certificate of another account"));
    }
    let content_type = [(header::CONTENT_TYPE, "application/pem-certificate-chain")];
    Ok((content_type, certificate.issued.chain_pem.clone()).into_response())
}

/// Make the certificate of an order; gives where it is found
fn issue(
    ca: &Ca,
    state: &mut State,
    order: &Order,
    key: SubjectKey,
    now: Timestamp,
) -> Result<String, Problem> {
    let broken = |error: &dyn std::fmt::Display| {
        Problem::new(ProblemType::ServerInternal, error.to_string())
    };
    let lifetime = ca.profiles.get(&order.profile).copied().unwrap_or_default();
    let not_before = Timestamp::from_seconds(now.as_seconds());
    let subject = Subject {
        key,
        identifiers: order.identifiers.clone(),
        not_before,
        not_after: not_before.after(lifetime),
    };
    let flaw = ca.faults.lock().flaw();
    let chain = ca.hierarchy.issue(&subject, flaw.as_ref()).map_err(|error| broken(&error))?;
    let der = chain.first().map(|leaf| leaf.to_vec()).unwrap_or_default();
    let leaf = Leaf::parse(&der).map_err(|error| broken(&error))?;
    let id = leaf.ari_id.as_ref().ok_or_else(|| broken(&"no key identifier"))?.to_string();
    let chain_pem = match flaw {
        Some(Flaw::Text(text)) => text,
        _ => chain.iter().map(|member| pem::encode(Kind::Certificate, member)).collect(),
    };
    let issued = Issued {
        leaf,
        chain_pem,
        profile: order.profile.clone(),
        account: ca.url_of(route::ACCOUNT, &order.account),
        replaces: order.replaces.clone(),
        revoked: None,
    };
    let account = order.account.clone();
    let certificate = Certificate { issued, account, der, suggestion: None, replaced_by: None };
    state.certificates.insert(id.clone(), certificate);
    Ok(id)
}

/// Count one look at an order, and decide it when it was held back long enough
fn settle(ca: &Ca, order: &mut Order) -> Option<[(header::HeaderName, String); 1]> {
    let Stage::Processing { polls, retry_after, outcome } = &mut order.stage else { return None };
    if *polls > 0 {
        *polls -= 1;
        let value = retry_after.map(|wait| wait.header(ca.now())).or_else(|| ca.patience());
        return value.map(|value| [(header::RETRY_AFTER, value)]);
    }
    match outcome.clone() {
        Ok(certificate) => order.stage = Stage::Valid { certificate },
        Err(problem) => {
            order.error = Some(problem);
            order.stage = Stage::Invalid;
        }
    }
    None
}

/// An authorization for each identifier: new, or used again where that was asked for
fn authorize(
    ca: &Ca,
    state: &mut State,
    account: &str,
    identifiers: &[Identifier],
    now: Timestamp,
) -> Result<Vec<String>, Problem> {
    let mut faults = ca.faults.lock();
    let reuse = faults.reuses_authorizations();
    let status = if faults.authorizations_valid() { Status::Valid } else { Status::Pending };
    let mut ids = Vec::with_capacity(identifiers.len());
    for identifier in identifiers {
        let valid = |(_, known): &(&str, &Authorization)| {
            known.account == account
                && known.identifier == *identifier
                && known.status(now) == Status::Valid
        };
        if reuse && let Some((id, _)) = state.authorizations.iter().rev().find(valid) {
            ids.push(id.to_owned());
            continue;
        }
        let id = random_id()?;
        let token = match faults.token() {
            Some(text) => text,
            None => random_id()?,
        };
        let challenge = match status {
            Status::Valid => Challenge::Valid { at: now },
            _ => Challenge::Pending,
        };
        let authorization = Authorization {
            account: account.to_owned(),
            identifier: identifier.clone(),
            status,
            expires: now.after(AUTHORIZATION_LIFETIME),
            token,
            challenge,
        };
        state.authorizations.insert(id.clone(), authorization);
        ids.push(id);
    }
    Ok(ids)
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1.4>, <https://www.rfc-editor.org/rfc/rfc8738>
fn identifiers(raw: &[RawIdentifier]) -> Result<Vec<Identifier>, Problem> {
    if raw.is_empty() || raw.len() > MOST_IDENTIFIERS {
        let detail = format!("an order has 1 to {MOST_IDENTIFIERS} identifiers");
        return Err(Problem::malformed(detail));
    }
    let mut identifiers = Vec::with_capacity(raw.len());
    for RawIdentifier { kind, value } in raw {
        let shown = value.escape_debug();
        let identifier = match kind.as_str() {
            "dns" => DnsName::parse(value)
                .ok()
                .filter(|name| name.as_str().eq_ignore_ascii_case(value))
                .map(Identifier::Dns)
                .ok_or_else(|| Problem::malformed(format!("`{shown}` is no name in A-labels")))?,
            "ip" => value
                .parse::<IpAddr>()
                .ok()
                .filter(|address| address.to_string() == *value)
                .map(Identifier::Ip)
                .ok_or_else(|| Problem::malformed(format!("`{shown}` is no IP address")))?,
            other => {
                let detail =
                    format!("identifiers are `dns` or `ip`, not `{}`", other.escape_debug());
                return Err(Problem::new(ProblemType::UnsupportedIdentifier, detail));
            }
        };
        if !identifiers.contains(&identifier) {
            identifiers.push(identifier);
        }
    }
    Ok(identifiers)
}

fn refuse_some(faults: &Faults, identifiers: &[Identifier]) -> Result<(), Problem> {
    let refused: Vec<_> = identifiers
        .iter()
        .filter_map(|identifier| {
            let reason = if identifier.is_wildcard() {
                "http-01, which proves no wildcard, is all there is"
            } else if faults.rejects(identifier) {
                "it is refused, as was asked for"
            } else {
                return None;
            };
            let detail = format!("no certificate for {identifier}: {reason}");
            Some((identifier, Problem::new(ProblemType::RejectedIdentifier, detail)))
        })
        .collect();
    let Some((_, first)) = refused.first() else { return Ok(()) };
    let problem = Problem::new(ProblemType::RejectedIdentifier, first.detail());
    Err(refused.into_iter().fold(problem, |problem, (identifier, reason)| {
        problem.with_subproblem(identifier.clone(), reason)
    }))
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1.3>
fn object(ca: &Ca, state: &State, id: &str, order: &Order, now: Timestamp) -> Value {
    let authorizations = order.authorizations.iter().map(|a| ca.url_of(route::AUTHORIZATION, a));
    let mut object = json!({
        "status": state.order_status(order, now),
        "expires": order.expires.to_string(),
        "identifiers": order.identifiers.iter().map(identifier_json).collect::<Value>(),
        "authorizations": authorizations.collect::<Vec<_>>(),
        "finalize": format!("{}/finalize", ca.url_of(route::ORDER, id)),
        "profile": order.profile,
    });
    if let Some(replaces) = &order.replaces {
        object["replaces"] = json!(replaces);
    }
    if let Stage::Valid { certificate } = &order.stage {
        object["certificate"] = json!(ca.url_of(route::CERTIFICATE, certificate));
    }
    if let Some(problem) = order.error.clone().or_else(|| failure(state, order)) {
        object["error"] = problem.to_json();
    }
    object
}

/// What its authorizations failed with
fn failure(state: &State, order: &Order) -> Option<Problem> {
    let failed = order.authorizations.iter().filter_map(|id| {
        let authorization = state.authorizations.find(id)?;
        match &authorization.challenge {
            Challenge::Invalid(problem) => Some((authorization.identifier.clone(), problem)),
            _ => None,
        }
    });
    failed.fold(None, |whole, (identifier, problem)| {
        let whole = whole.unwrap_or_else(|| {
            let detail = format!("cannot validate {identifier}: {}", problem.detail());
            Problem::new(problem.kind(), detail)
        });
        Some(whole.with_subproblem(identifier, problem.clone()))
    })
}

fn own<'a>(state: &'a State, id: &str, account: &str) -> Result<&'a Order, Problem> {
    let order = state.orders.find(id).ok_or_else(|| Problem::not_found("order"))?;
    if order.account == account {
        Ok(order)
    } else {
        Err(Problem::unauthorized("this is the order of another account"))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewOrder {
    identifiers: Vec<RawIdentifier>,
    not_before: Option<Value>,
    not_after: Option<Value>,
    profile: Option<String>,
    replaces: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RawIdentifier {
    #[serde(rename = "type")]
    kind: String,
    value: String,
}

#[derive(Debug, Deserialize)]
struct Finalize {
    csr: String,
}

/// How long an authorization may be pending, and then valid
pub(super) const AUTHORIZATION_LIFETIME: Duration = Duration::from_secs(3600);
const ORDER_LIFETIME: Duration = Duration::from_secs(3600);
const MOST_IDENTIFIERS: usize = 100;
