//! Accounts.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555#section-7.3>

use std::sync::Arc;

use aws_lc_rs::hmac;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ca::Ca;
use super::jwk::{AccountKey, RawJwk};
use super::jws::{Algorithm, Jws, KeyRef};
use super::problem::{Problem, ProblemType};
use super::route;
use super::signed::Signed;
use super::state::{Account, random_id};

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.3>
pub(super) async fn create(
    State(ca): State<Arc<Ca>>,
    request: Signed,
) -> Result<Response, Problem> {
    let key = request.bare_key()?;
    let payload: NewAccount = request.json()?;
    if let Some((id, account)) = ca.state.lock().account_of(key) {
        return existing(&ca, id, account);
    }
    if payload.only_return_existing {
        let detail = "no account has this key";
        return Err(Problem::new(ProblemType::AccountDoesNotExist, detail));
    }
    if !payload.terms_of_service_agreed {
        let terms = ca.url(route::TERMS);
        let problem = Problem::new(
            ProblemType::UserActionRequired,
            format!("the terms of service at {terms} must be agreed to"),
        );
        let link = format!("<{terms}>;rel=\"terms-of-service\"");
        return Err(problem.with_instance(terms).with_header(header::LINK, link));
    }
    check_contacts(&payload.contact)?;
    let binding = match payload.external_account_binding {
        Some(binding) if !ca.eab.is_empty() => {
            check_binding(&ca, binding.clone(), key, &request.url)?;
            Some(binding)
        }
        None if !ca.eab.is_empty() => {
            let detail = "a new account is bound to an external one here";
            return Err(Problem::new(ProblemType::ExternalAccountRequired, detail));
        }
        _ => None,
    };
    let account = Account { key: key.clone(), active: true, contact: payload.contact, binding };
    let id = random_id()?;
    let response = object(&ca, StatusCode::CREATED, &id, &account);
    let mut state = ca.state.lock();
    // Another request with the same key may have come first.
    if let Some((id, account)) = state.account_of(key) {
        return existing(&ca, id, account);
    }
    state.accounts.insert(id, account);
    Ok(response)
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.3.1>
fn existing(ca: &Ca, id: &str, account: &Account) -> Result<Response, Problem> {
    if account.active {
        Ok(object(ca, StatusCode::OK, id, account))
    } else {
        Err(Problem::unauthorized("the account of this key is deactivated"))
    }
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.3.2>
pub(super) async fn update(
    State(ca): State<Arc<Ca>>,
    Path(id): Path<String>,
    request: Signed,
) -> Result<Response, Problem> {
    require_own(&request, &id)?;
    let change = if request.looks() { AccountChange::default() } else { request.json()? };
    if let Some(contact) = &change.contact {
        check_contacts(contact)?;
    }
    let deactivate = match change.status.as_deref() {
        None | Some("valid") => false,
        Some("deactivated") => true,
        Some(_) => return Err(Problem::malformed("an account can only become `deactivated`")),
    };
    let mut state = ca.state.lock();
    let account = state.accounts.find_mut(&id).ok_or_else(|| Problem::not_found("account"))?;
    if let Some(contact) = change.contact {
        account.contact = contact;
    }
    account.active &= !deactivate;
    Ok(object(&ca, StatusCode::OK, &id, account))
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1.2.1>
pub(super) async fn orders(
    State(ca): State<Arc<Ca>>,
    Path(id): Path<String>,
    request: Signed,
) -> Result<Response, Problem> {
    require_own(&request, &id)?;
    request.only_looks()?;
    let state = ca.state.lock();
    let orders = state.orders.iter().filter(|(_, order)| order.account == id);
    let urls: Vec<_> = orders.map(|(order, _)| ca.url_of(route::ORDER, order)).collect();
    Ok(Json(json!({ "orders": urls })).into_response())
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.3.5>
pub(super) async fn change_key(
    State(ca): State<Arc<Ca>>,
    request: Signed,
) -> Result<Response, Problem> {
    let id = request.account()?;
    let inner = Jws::from_value(request.json()?)?;
    let KeyRef::Jwk(new_key) = inner.key else {
        return Err(Problem::malformed("the inner JWS has the new key as its `jwk`"));
    };
    new_key.verify(inner.algorithm, inner.message.as_bytes(), &inner.signature)?;
    if inner.url != request.url {
        return Err(Problem::malformed("the inner `url` is not the outer one"));
    }
    if inner.nonce.is_some() {
        return Err(Problem::malformed("the inner JWS has no nonce"));
    }
    let payload: KeyChange = serde_json::from_slice(&inner.payload)
        .map_err(|error| Problem::malformed(format!("the inner payload: {error}")))?;
    if payload.account != ca.url_of(route::ACCOUNT, id) {
        return Err(Problem::malformed("`account` is not the account that signed"));
    }
    if AccountKey::from_jwk(&payload.old_key)? != request.key {
        return Err(Problem::malformed("`oldKey` is not the key that signed"));
    }
    let mut state = ca.state.lock();
    if let Some((other, _)) = state.account_of(&new_key) {
        let url = ca.url_of(route::ACCOUNT, other);
        return Err(Problem::malformed("an account has the new key already")
            .with_status(StatusCode::CONFLICT)
            .with_header(header::LOCATION, url));
    }
    let account = state.accounts.find_mut(id).ok_or_else(|| Problem::not_found("account"))?;
    account.key = new_key;
    Ok(object(&ca, StatusCode::OK, id, account))
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.3.4>
fn check_binding(ca: &Ca, binding: Value, key: &AccountKey, url: &str) -> Result<(), Problem> {
    let jws = Jws::from_value(binding)?;
    if jws.algorithm != Algorithm::Hs256 {
        let detail = "an external account binding is signed with HS256";
        return Err(
            Problem::new(ProblemType::BadSignatureAlgorithm, detail).with_algorithms(&["HS256"])
        );
    }
    let KeyRef::Kid(kid) = &jws.key else {
        return Err(Problem::malformed("an external account binding has a `kid`"));
    };
    if jws.nonce.is_some() {
        return Err(Problem::malformed("an external account binding has no nonce"));
    }
    if jws.url != url {
        return Err(Problem::malformed("the `url` of the external account binding is another"));
    }
    let secret =
        ca.eab.get(kid).ok_or_else(|| Problem::unauthorized("no such external account"))?;
    let mac = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
    hmac::verify(&mac, jws.message.as_bytes(), &jws.signature)
        .map_err(|_| Problem::unauthorized("the external account binding has another MAC key"))?;
    let bound: RawJwk = serde_json::from_slice(&jws.payload)
        .map_err(|error| Problem::malformed(format!("the bound key: {error}")))?;
    if AccountKey::from_jwk(&bound)? != *key {
        return Err(Problem::malformed("the external account binding is of another key"));
    }
    Ok(())
}

fn check_contacts(contacts: &[String]) -> Result<(), Problem> {
    let refuse = |kind, text: &str, reason| {
        Err(Problem::new(kind, format!("`{}`: {reason}", text.escape_debug())))
    };
    if contacts.len() > MOST_CONTACTS {
        let detail = format!("more than {MOST_CONTACTS} contacts");
        return Err(Problem::new(ProblemType::InvalidContact, detail));
    }
    for contact in contacts {
        let Some(address) = contact.strip_prefix("mailto:") else {
            return refuse(ProblemType::UnsupportedContact, contact, "only mailto: is known");
        };
        let sound = address.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && !domain.is_empty() && !domain.contains('@')
        });
        if !sound || !address.is_ascii() || address.contains([',', '?', ' ']) {
            let reason = "it is one address without header fields";
            return refuse(ProblemType::InvalidContact, contact, reason);
        }
    }
    Ok(())
}

fn require_own(request: &Signed, id: &str) -> Result<(), Problem> {
    if request.account()? == id {
        Ok(())
    } else {
        Err(Problem::unauthorized("this is the account of somebody else"))
    }
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1.2>
fn object(ca: &Ca, status: StatusCode, id: &str, account: &Account) -> Response {
    let url = ca.url_of(route::ACCOUNT, id);
    let mut object = json!({
        "status": if account.active { "valid" } else { "deactivated" },
        "contact": account.contact,
        "termsOfServiceAgreed": true,
        "orders": format!("{url}/orders"),
    });
    if let Some(binding) = &account.binding {
        object["externalAccountBinding"] = binding.clone();
    }
    (status, [(header::LOCATION, url)], Json(object)).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewAccount {
    #[serde(default)]
    contact: Vec<String>,
    #[serde(default)]
    terms_of_service_agreed: bool,
    #[serde(default)]
    only_return_existing: bool,
    external_account_binding: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
struct AccountChange {
    contact: Option<Vec<String>>,
    status: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyChange {
    account: String,
    old_key: RawJwk,
}

const MOST_CONTACTS: usize = 10;
