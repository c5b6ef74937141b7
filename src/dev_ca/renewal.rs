//! Renewal information.
//!
//! <https://www.rfc-editor.org/rfc/rfc9773>

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State as Shared};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::name::Identifier;
use crate::time::Timestamp;

use super::Suggestion;
use super::ca::Ca;
use super::problem::{Problem, ProblemType};
use super::state::{Certificate, State, Status};

/// <https://www.rfc-editor.org/rfc/rfc9773#section-4.1>
pub(super) async fn look(
    Shared(ca): Shared<Arc<Ca>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let state = ca.state.lock();
    let certificate = find(&state, &id)?;
    let suggestion = certificate.suggestion.clone();
    let Suggestion { start, end, explanation_url } =
        suggestion.unwrap_or_else(|| suggest(certificate, ca.now()));
    let wait = (certificate.issued.leaf.lifetime() / 10).clamp(Duration::from_secs(1), SIX_HOURS);
    let mut object = json!({
        "suggestedWindow": { "start": start.to_string(), "end": end.to_string() },
    });
    if let Some(url) = explanation_url {
        object["explanationURL"] = json!(url);
    }
    Ok(([(header::RETRY_AFTER, wait.as_secs().to_string())], Json(object)).into_response())
}

/// Around two thirds of the lifetime, or in the past when the certificate is revoked
fn suggest(certificate: &Certificate, now: Timestamp) -> Suggestion {
    let leaf = &certificate.issued.leaf;
    let (start, end) = if certificate.issued.revoked.is_some() {
        (now.before(2 * HALF_AN_HOUR), now.before(HALF_AN_HOUR))
    } else {
        let centre = leaf.not_after.before(leaf.lifetime() / 3);
        let half = (leaf.lifetime() / 100).max(Duration::from_secs(1));
        (centre.before(half), centre.after(half))
    };
    Suggestion { start, end, explanation_url: None }
}

/// Whether an order may replace the certificate
///
/// <https://www.rfc-editor.org/rfc/rfc9773#section-5>
pub(super) fn check_replaces(
    ca: &Ca,
    state: &State,
    account: &str,
    id: &str,
    identifiers: &[Identifier],
    now: Timestamp,
) -> Result<(), Problem> {
    let certificate = find(state, id)?;
    // Like public CAs, from the replacement's order on, and not only once that is finalized.
    let replaced = certificate.replaced_by.as_ref().is_some_and(|order| {
        let order = state.orders.find(order);
        order.is_none_or(|order| state.order_status(order, now) != Status::Invalid)
    });
    if replaced {
        let detail = format!("there is an order already that replaces {}", id.escape_debug());
        return Err(Problem::new(ProblemType::AlreadyReplaced, detail));
    }
    if certificate.account != account {
        return Err(Problem::unauthorized(format!(
            "the certificate is of another account than {}",
            ca.url_of(super::route::ACCOUNT, account)
        )));
    }
    let shared = identifiers.iter().any(|i| certificate.issued.leaf.identifiers.contains(i));
    if !shared {
        return Err(Problem::malformed("the certificate has none of the order's identifiers"));
    }
    Ok(())
}

fn find<'a>(state: &'a State, id: &str) -> Result<&'a Certificate, Problem> {
    let decodes = |part: &str| !part.is_empty() && URL_SAFE_NO_PAD.decode(part).is_ok();
    if !id.split_once('.').is_some_and(|(key, serial)| decodes(key) && decodes(serial)) {
        return Err(Problem::malformed("no certificate is named like this"));
    }
    state.certificates.find(id).ok_or_else(|| Problem::not_found("certificate"))
}

const HALF_AN_HOUR: Duration = Duration::from_secs(1800);
const SIX_HOURS: Duration = Duration::from_secs(6 * 3600);
