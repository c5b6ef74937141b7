//! Authorizations and their challenges.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555#section-7.5>

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::time::Timestamp;

use super::ca::Ca;
use super::fault::Waiting;
use super::problem::Problem;
use super::route;
use super::signed::Signed;
use super::state::{Authorization, Challenge, Outcome, Status, identifier_json};

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.5>,
/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.5.2>
pub(super) async fn look(
    State(ca): State<Arc<Ca>>,
    Path(id): Path<String>,
    request: Signed,
) -> Result<Response, Problem> {
    let deactivate = !request.looks() && {
        let change: Change = request.json()?;
        if change.status != "deactivated" {
            let detail = "an authorization can only become `deactivated`";
            return Err(Problem::malformed(detail));
        }
        true
    };
    let mut state = ca.state.lock();
    let authorization = own(state.authorizations.find_mut(&id), request.account()?)?;
    let wait = settle(&ca, authorization);
    let now = ca.now();
    if deactivate && matches!(authorization.status(now), Status::Pending | Status::Valid) {
        authorization.status = Status::Deactivated;
    }
    let object = json!({
        "status": authorization.status(now),
        "expires": authorization.expires.to_string(),
        "identifier": identifier_json(&authorization.identifier),
        "challenges": [challenge_json(&ca, &id, authorization)],
    });
    Ok((wait, Json(object)).into_response())
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.5.1>
pub(super) async fn challenge(
    State(ca): State<Arc<Ca>>,
    Path(id): Path<String>,
    request: Signed,
) -> Result<Response, Problem> {
    let respond = !request.looks();
    if respond {
        request.json::<Map<String, Value>>()?;
    }
    let mut state = ca.state.lock();
    let authorization = own(state.authorizations.find_mut(&id), request.account()?)?;
    let pending = authorization.status(ca.now()) == Status::Pending
        && matches!(authorization.challenge, Challenge::Pending);
    let wait = if respond && pending {
        let stay = ca.faults.lock().stay_processing(Waiting::Authorization);
        let (polls, retry_after) = stay.unwrap_or_default();
        authorization.challenge = Challenge::Processing { polls, retry_after, outcome: None };
        let key_authorization = format!("{}.{}", authorization.token, request.key.thumbprint());
        validate(&ca, &id, authorization, key_authorization);
        ca.patience().map(|value| [(header::RETRY_AFTER, value)])
    } else {
        settle(&ca, authorization)
    };
    let up = format!("<{}>;rel=\"up\"", ca.url_of(route::AUTHORIZATION, &id));
    let object = challenge_json(&ca, &id, authorization);
    Ok((wait, [(header::LINK, up)], Json(object)).into_response())
}

/// Begin to validate; the outcome is put into the authorization when there is one
fn validate(ca: &Arc<Ca>, id: &str, authorization: &Authorization, key_authorization: String) {
    let (ca, id) = (Arc::clone(ca), id.to_owned());
    let (identifier, token) = (authorization.identifier.clone(), authorization.token.clone());
    ca.tasks.clone().spawn(async move {
        let result = tokio::select! {
            () = ca.stop.cancelled() => return,
            result = ca.validator.http01(&identifier, &token, &key_authorization) => result,
        };
        let outcome = (ca.now(), result);
        let mut state = ca.state.lock();
        let Some(authorization) = state.authorizations.find_mut(&id) else { return };
        match &mut authorization.challenge {
            Challenge::Processing { polls, outcome: slot, .. } if *polls > 0 => {
                *slot = Some(outcome);
            }
            _ => decide(authorization, outcome),
        }
    });
}

type Wait = Option<[(header::HeaderName, String); 1]>;

/// Count one look at an authorization, and decide it when it was held back long enough
///
/// Gives what the client is asked to wait while its challenge is processing.
pub(super) fn settle(ca: &Ca, authorization: &mut Authorization) -> Wait {
    let Challenge::Processing { polls, retry_after, outcome } = &mut authorization.challenge else {
        return None;
    };
    let held = *polls > 0;
    *polls = polls.saturating_sub(1);
    if !held && let Some(outcome) = outcome.take() {
        decide(authorization, outcome);
        return None;
    }
    let asked = retry_after.filter(|_| held).map(|wait| wait.header(ca.now()));
    asked.or_else(|| ca.patience()).map(|value| [(header::RETRY_AFTER, value)])
}

fn decide(authorization: &mut Authorization, (at, result): Outcome) {
    let pending = authorization.status(at) == Status::Pending;
    match result {
        Ok(()) => {
            authorization.challenge = Challenge::Valid { at };
            if pending {
                authorization.status = Status::Valid;
                authorization.expires = at.after(super::order::AUTHORIZATION_LIFETIME);
            }
        }
        Err(problem) => {
            authorization.challenge = Challenge::Invalid(problem);
            if pending {
                authorization.status = Status::Invalid;
            }
        }
    }
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-8>
fn challenge_json(ca: &Ca, id: &str, authorization: &Authorization) -> Value {
    let (status, validated, error) = match &authorization.challenge {
        Challenge::Pending => (Status::Pending, None, None),
        Challenge::Processing { .. } => (Status::Processing, None, None),
        Challenge::Valid { at } => (Status::Valid, Some(*at), None),
        Challenge::Invalid(problem) => (Status::Invalid, None, Some(problem)),
    };
    let mut object = json!({
        "type": "http-01",
        "url": ca.url_of(route::CHALLENGE, id),
        "token": authorization.token,
        "status": status,
    });
    if let Some(at) = validated {
        object["validated"] = json!(Timestamp::to_string(&at));
    }
    if let Some(problem) = error {
        object["error"] = problem.to_json();
    }
    object
}

fn own<'a>(
    found: Option<&'a mut Authorization>,
    account: &str,
) -> Result<&'a mut Authorization, Problem> {
    let authorization = found.ok_or_else(|| Problem::not_found("authorization"))?;
    if authorization.account == account {
        Ok(authorization)
    } else {
        Err(Problem::unauthorized("this is the authorization of another account"))
    }
}

#[derive(Debug, Deserialize)]
struct Change {
    status: String,
}
