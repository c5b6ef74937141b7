//! Requests whose signature, nonce and URL are good.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555#section-6>

use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::ca::Ca;
use super::jwk::AccountKey;
use super::jws::{Jws, KeyRef};
use super::problem::{Problem, ProblemType};
use super::route;

/// A request that somebody signed
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) url: String,
    pub(super) payload: Vec<u8>,
    /// The key that signed it
    pub(super) key: AccountKey,
    signer: Signer,
}

#[derive(Debug)]
enum Signer {
    Account(String),
    Key,
}

impl Signed {
    /// The account that signed it; refused when it was a bare key
    pub(super) fn account(&self) -> Result<&str, Problem> {
        match &self.signer {
            Signer::Account(id) => Ok(id),
            Signer::Key => Err(Problem::malformed("this is signed by an account, with `kid`")),
        }
    }

    /// The account that signed it, or `None` for a bare key
    pub(super) fn signing_account(&self) -> Option<&str> {
        match &self.signer {
            Signer::Account(id) => Some(id),
            Signer::Key => None,
        }
    }

    /// The key that signed it; refused when it was named as an account
    pub(super) fn bare_key(&self) -> Result<&AccountKey, Problem> {
        match self.signer {
            Signer::Key => Ok(&self.key),
            Signer::Account(_) => Err(Problem::malformed("this is signed by a key, with `jwk`")),
        }
    }

    /// Read the payload, which is an object
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.payload)
            .map_err(|error| Problem::malformed(format!("the payload: {error}")))
    }

    /// Refuse a payload where only a look is possible
    ///
    /// <https://www.rfc-editor.org/rfc/rfc8555#section-6.3>
    pub(super) fn only_looks(&self) -> Result<(), Problem> {
        if self.looks() { Ok(()) } else { Err(Problem::malformed("POST-as-GET has no payload")) }
    }

    /// Whether this is POST-as-GET
    pub(super) fn looks(&self) -> bool {
        self.payload.is_empty()
    }
}

impl FromRequest<Arc<Ca>> for Signed {
    type Rejection = Problem;

    async fn from_request(request: Request, ca: &Arc<Ca>) -> Result<Self, Problem> {
        let (head, body) = request.into_parts();
        if !head.headers.contains_key(header::USER_AGENT) {
            return Err(Problem::malformed("the request has no User-Agent"));
        }
        let content_type = head.headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
        if content_type != Some(b"application/jose+json") {
            return Err(Problem::malformed("the content type is application/jose+json")
                .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let body = match timeout(PATIENCE, to_bytes(body, BODY)).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => {
                return Err(Problem::malformed("the request is cut off, or longer than 64 KiB")
                    .with_status(StatusCode::PAYLOAD_TOO_LARGE));
            }
            Err(_) => {
                return Err(Problem::malformed("the request did not arrive within 10 s")
                    .with_status(StatusCode::REQUEST_TIMEOUT));
            }
        };
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        authenticate(ca, Jws::parse(&body)?, &ca.url(path))
    }
}

fn authenticate(ca: &Ca, jws: Jws, url: &str) -> Result<Signed, Problem> {
    let (key, signer, active) = match jws.key {
        KeyRef::Jwk(key) => (key, Signer::Key, true),
        KeyRef::Kid(kid) => {
            let (id, key, active) = find(ca, &kid)?;
            (key, Signer::Account(id), active)
        }
    };
    key.verify(jws.algorithm, jws.message.as_bytes(), &jws.signature)?;
    let nonce = jws.nonce.ok_or_else(|| bad_nonce("the request has no nonce"))?;
    if !ca.nonces.lock().redeem(&nonce) {
        return Err(bad_nonce("the nonce is not one of ours, or was used before"));
    }
    if ca.faults.lock().rejects_nonce() {
        return Err(bad_nonce("the nonce is refused, as was asked for"));
    }
    if jws.url != url {
        return Err(Problem::unauthorized(format!(
            "`url` is signed for something else than {url}"
        )));
    }
    if !active {
        return Err(Problem::unauthorized("the account is deactivated"));
    }
    Ok(Signed { url: jws.url, payload: jws.payload, key, signer })
}

fn find(ca: &Ca, kid: &str) -> Result<(String, AccountKey, bool), Problem> {
    let unknown =
        || Problem::new(ProblemType::AccountDoesNotExist, "`kid` is no account of this CA");
    let id = kid
        .strip_prefix(ca.base.as_str())
        .and_then(|path| path.strip_prefix(route::ACCOUNT))
        .and_then(|path| path.strip_prefix('/'))
        .ok_or_else(unknown)?;
    let state = ca.state.lock();
    let account = state.accounts.find(id).ok_or_else(unknown)?;
    Ok((id.to_owned(), account.key.clone(), account.active))
}

fn bad_nonce(detail: &str) -> Problem {
    Problem::new(ProblemType::BadNonce, detail)
}

const BODY: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);
