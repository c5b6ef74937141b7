//! Which URL leads where, and what every answer carries.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use thiserror::Error;

use super::ca::Ca;
use super::fault::{Answer, Resource};
use super::problem::Problem;
use super::signed::Signed;
use super::{LoggedRequest, account, authorization, order, renewal, revoke};

/// The CA as a service, one per connection
#[derive(Clone, Debug)]
pub(super) struct Front {
    ca: Arc<Ca>,
    router: TowerToHyperService<Router>,
}

impl Front {
    pub(super) fn new(ca: Arc<Ca>) -> Self {
        let router = TowerToHyperService::new(router(Arc::clone(&ca)));
        Self { ca, router }
    }

    /// Answer a request, faults included
    pub(super) async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, HangUp> {
        let path = request.uri().path().to_owned();
        let method = request.method().to_string();
        let resource = Resource::of(&path);
        let delay = self.ca.faults.lock().delay(resource);
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let literal = self.ca.faults.lock().answer(resource);
        let mut response = match literal {
            Some(answer) => {
                // Read what was sent, or the peer sees a reset instead of the answer.
                drop(to_bytes(request.into_body(), BODY).await);
                answer.into_response()
            }
            None => self.route(request).await,
        };
        let origin = self.ca.faults.lock().foreign_origin(resource);
        if let Some(origin) = origin {
            response = self.move_urls(response, &origin).await;
        }
        self.add_headers(response.headers_mut());
        let status = response.status().as_u16();
        self.ca.record(LoggedRequest { method, path, resource, status });
        if self.ca.faults.lock().hang_up(resource) { Err(HangUp) } else { Ok(response) }
    }

    async fn route(&self, request: Request<Body>) -> Response<Body> {
        let routed: Result<_, Infallible> = self.router.call(request).await;
        match routed {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    async fn move_urls(&self, response: Response<Body>, origin: &str) -> Response<Body> {
        let (mut head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
        let moved = String::from_utf8_lossy(&body).replace(&self.ca.base, origin);
        for value in head.headers.values_mut() {
            let text = value.to_str().unwrap_or_default().replace(&self.ca.base, origin);
            if let Ok(moved) = text.try_into() {
                *value = moved;
            }
        }
        head.headers.remove(header::CONTENT_LENGTH);
        Response::from_parts(head, moved.into())
    }

    /// <https://www.rfc-editor.org/rfc/rfc8555#section-6.5>,
    /// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1>
    fn add_headers(&self, headers: &mut HeaderMap) {
        const REPLAY_NONCE: HeaderName = HeaderName::from_static("replay-nonce");
        let nonce = self.ca.nonces.lock().issue().ok();
        if let (false, Some(Ok(nonce))) =
            (headers.contains_key(&REPLAY_NONCE), nonce.map(HeaderValue::try_from))
        {
            headers.insert(REPLAY_NONCE, nonce);
        }
        let index = format!("<{}>;rel=\"index\"", self.ca.url(DIRECTORY));
        if let Ok(index) = index.try_into() {
            headers.append(header::LINK, index);
        }
        headers
            .entry(header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("public, max-age=0, no-cache, no-store"));
    }
}

/// The connection ends without an answer, as was asked for
#[derive(Debug, Error)]
#[error("closed without an answer")]
pub(super) struct HangUp;

impl Answer {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        for (name, value) in self.headers {
            let parsed = (HeaderName::try_from(name), HeaderValue::try_from(value));
            if let (Ok(name), Ok(value)) = parsed {
                response.headers_mut().append(name, value);
            }
        }
        response
    }
}

fn router(ca: Arc<Ca>) -> Router {
    let item = |collection: &str| format!("{collection}/{{id}}");
    Router::new()
        .route("/", get(async || WELCOME))
        .route(TERMS, get(async || WELCOME))
        .route(DIRECTORY, get(directory).post(signed_directory))
        .route(NEW_NONCE, get(nonce).head(head_nonce).post(signed_nonce))
        .route(NEW_ACCOUNT, post(account::create))
        .route(&item(ACCOUNT), post(account::update))
        .route(&format!("{}/orders", item(ACCOUNT)), post(account::orders))
        .route(NEW_ORDER, post(order::create))
        .route(&item(ORDER), post(order::look))
        .route(&format!("{}/finalize", item(ORDER)), post(order::finalize))
        .route(&item(AUTHORIZATION), post(authorization::look))
        .route(&item(CHALLENGE), post(authorization::challenge))
        .route(&item(CERTIFICATE), post(order::certificate))
        .route(REVOKE_CERT, post(revoke::revoke))
        .route(KEY_CHANGE, post(account::change_key))
        .route(&item(RENEWAL_INFO), get(renewal::look))
        .fallback(async || Problem::not_found("page"))
        .method_not_allowed_fallback(async || {
            Problem::malformed("the method is another one here")
                .with_status(StatusCode::METHOD_NOT_ALLOWED)
        })
        .with_state(ca)
}

impl Resource {
    /// What a path leads to
    fn of(path: &str) -> Self {
        let (collection, rest) = match path.rsplit_once('/') {
            Some((collection, "finalize" | "orders")) => (collection, true),
            _ => (path, false),
        };
        let parent = collection.rsplit_once('/').map_or("", |(parent, _)| parent);
        match (path, parent, rest) {
            (DIRECTORY, ..) => Self::Directory,
            (NEW_NONCE, ..) => Self::NewNonce,
            (NEW_ACCOUNT, ..) => Self::NewAccount,
            (NEW_ORDER, ..) => Self::NewOrder,
            (REVOKE_CERT, ..) => Self::RevokeCert,
            (KEY_CHANGE, ..) => Self::KeyChange,
            (_, ACCOUNT, true) => Self::Orders,
            (_, ACCOUNT, false) => Self::Account,
            (_, ORDER, true) => Self::Finalize,
            (_, ORDER, false) => Self::Order,
            (_, AUTHORIZATION, _) => Self::Authorization,
            (_, CHALLENGE, _) => Self::Challenge,
            (_, CERTIFICATE, _) => Self::Certificate,
            (_, RENEWAL_INFO, _) => Self::RenewalInfo,
            _ => Self::Other,
        }
    }
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1.1>
async fn directory(State(ca): State<Arc<Ca>>) -> Json<Value> {
    let profiles = ca.profiles.iter().map(|(name, lifetime)| {
        (name.clone(), json!(format!("good for {} seconds", lifetime.as_secs())))
    });
    Json(json!({
        "newNonce": ca.url(NEW_NONCE),
        "newAccount": ca.url(NEW_ACCOUNT),
        "newOrder": ca.url(NEW_ORDER),
        "revokeCert": ca.url(REVOKE_CERT),
        "keyChange": ca.url(KEY_CHANGE),
        "renewalInfo": ca.url(RENEWAL_INFO),
        "meta": {
            "termsOfService": ca.url(TERMS),
            "website": ca.url("/"),
            "externalAccountRequired": !ca.eab.is_empty(),
            "profiles": profiles.collect::<serde_json::Map<_, _>>(),
        },
    }))
}

async fn signed_directory(ca: State<Arc<Ca>>, request: Signed) -> Result<Json<Value>, Problem> {
    request.only_looks()?;
    Ok(directory(ca).await)
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.2>
async fn nonce() -> StatusCode {
    StatusCode::NO_CONTENT
}

async fn head_nonce() -> StatusCode {
    StatusCode::OK
}

async fn signed_nonce(request: Signed) -> Result<StatusCode, Problem> {
    request.only_looks()?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) const DIRECTORY: &str = "/directory";
pub(super) const TERMS: &str = "/terms";
pub(super) const ACCOUNT: &str = "/acme/account";
pub(super) const ORDER: &str = "/acme/order";
pub(super) const AUTHORIZATION: &str = "/acme/authorization";
pub(super) const CHALLENGE: &str = "/acme/challenge";
pub(super) const CERTIFICATE: &str = "/acme/certificate";
const NEW_NONCE: &str = "/acme/new-nonce";
const NEW_ACCOUNT: &str = "/acme/new-account";
const NEW_ORDER: &str = "/acme/new-order";
const REVOKE_CERT: &str = "/acme/revoke-cert";
const KEY_CHANGE: &str = "/acme/key-change";
const RENEWAL_INFO: &str = "/acme/renewal-info";
const BODY: usize = 64 * 1024;
const WELCOME: &str = "This is certkeep's CA for development and tests. It is reached from this \
host only, nobody else trusts it, and it forgets everything when it stops.\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_known_as_what_it_leads_to() {
        let cases = [
            ("/directory", Resource::Directory),
            ("/acme/new-nonce", Resource::NewNonce),
            ("/acme/account/x", Resource::Account),
            ("/acme/account/x/orders", Resource::Orders),
            ("/acme/order/x", Resource::Order),
            ("/acme/order/x/finalize", Resource::Finalize),
            ("/acme/authorization/x", Resource::Authorization),
            ("/acme/challenge/x", Resource::Challenge),
            ("/acme/certificate/x.y", Resource::Certificate),
            ("/acme/renewal-info/x.y", Resource::RenewalInfo),
            ("/acme/order/", Resource::Order),
            ("/acme/order/a/b", Resource::Other),
            ("/", Resource::Other),
            ("", Resource::Other),
        ];
        for (path, expected) in cases {
            assert_eq!(Resource::of(path), expected, "{path}");
        }
    }
}
