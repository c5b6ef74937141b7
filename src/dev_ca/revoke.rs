//! Revocation.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555#section-7.6>

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::cert::Leaf;
use crate::name::Identifier;
use crate::time::Timestamp;

use super::ca::Ca;
use super::problem::{Problem, ProblemType};
use super::signed::Signed;
use super::state::{Certificate, State, Status};

pub(super) async fn revoke(
    Shared(ca): Shared<Arc<Ca>>,
    request: Signed,
) -> Result<StatusCode, Problem> {
    let payload: Revocation = request.json()?;
    let der = URL_SAFE_NO_PAD
        .decode(&payload.certificate)
        .map_err(|_| Problem::malformed("`certificate` is not unpadded base64url"))?;
    let reason = payload.reason.unwrap_or_default();
    if !REASONS.contains(&reason) {
        let detail = format!("a reason is one of {REASONS:?}");
        return Err(Problem::new(ProblemType::BadRevocationReason, detail));
    }
    let leaf = Leaf::parse(&der).map_err(|error| Problem::malformed(error.to_string()))?;
    let id = leaf.ari_id.map(|id| id.to_string()).unwrap_or_default();
    let mut state = ca.state.lock();
    let certificate = state.certificates.find(&id).filter(|known| known.der == der);
    let certificate = certificate.ok_or_else(|| Problem::not_found("certificate"))?;
    if !may_revoke(&state, certificate, &request, ca.now()) {
        let detail = "this is signed by nobody whom the certificate belongs to";
        return Err(Problem::unauthorized(detail));
    }
    let Some(certificate) = state.certificates.find_mut(&id) else {
        return Err(Problem::not_found("certificate"));
    };
    if certificate.issued.revoked.is_some() {
        let detail = "the certificate is revoked already";
        return Err(Problem::new(ProblemType::AlreadyRevoked, detail));
    }
    // Who holds the key of a certificate that is not theirs proves that it is known.
    let compromised = request.signing_account().is_none();
    certificate.issued.revoked = Some(if compromised { KEY_COMPROMISE } else { reason });
    Ok(StatusCode::OK)
}

/// The account that ordered it, one that proved control of all its names, or its own key
fn may_revoke(state: &State, certificate: &Certificate, request: &Signed, now: Timestamp) -> bool {
    let Some(account) = request.signing_account() else {
        return X509Certificate::from_der(&certificate.der)
            .is_ok_and(|(_, x509)| request.key.is_key_of(x509.public_key()));
    };
    let controls = |identifier: &Identifier| {
        state.authorizations.values().any(|known| {
            known.account == account
                && known.identifier == *identifier
                && known.status(now) == Status::Valid
        })
    };
    certificate.account == account || certificate.issued.leaf.identifiers.iter().all(controls)
}

#[derive(Debug, Deserialize)]
struct Revocation {
    certificate: String,
    reason: Option<u8>,
}

/// unspecified, keyCompromise, superseded, cessationOfOperation: what public CAs take
///
/// <https://www.rfc-editor.org/rfc/rfc5280#section-5.3.1>
const REASONS: [u8; 4] = [0, KEY_COMPROMISE, 4, 5];
const KEY_COMPROMISE: u8 = 1;
