//! Problem documents.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555#section-6.7>

use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::state::identifier_json;
use crate::name::Identifier;

/// Why a request or an order failed, as the client is told
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    kind: ProblemType,
    status: StatusCode,
    detail: String,
    subproblems: Vec<(Identifier, Self)>,
    headers: Vec<(HeaderName, String)>,
    instance: Option<String>,
    algorithms: &'static [&'static str],
}

impl Problem {
    pub(super) fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self {
            kind,
            status: kind.status(),
            detail: detail.into(),
            subproblems: Vec::new(),
            headers: Vec::new(),
            instance: None,
            algorithms: &[],
        }
    }

    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::Malformed, detail)
    }

    pub(super) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::Unauthorized, detail)
    }

    pub(super) fn not_found(what: &str) -> Self {
        Self::malformed(format!("there is no such {what}")).with_status(StatusCode::NOT_FOUND)
    }

    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn with_instance(mut self, url: String) -> Self {
        self.instance = Some(url);
        self
    }

    pub(super) fn with_algorithms(mut self, algorithms: &'static [&'static str]) -> Self {
        self.algorithms = algorithms;
        self
    }

    pub(super) fn with_subproblem(mut self, identifier: Identifier, problem: Self) -> Self {
        self.subproblems.push((identifier, problem));
        self
    }

    pub(super) fn kind(&self) -> ProblemType {
        self.kind
    }

    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn to_json(&self) -> Value {
        let mut object = json!({
            "type": self.kind.urn(),
            "detail": self.detail,
            "status": self.status.as_u16(),
        });
        if !self.subproblems.is_empty() {
            let subproblems = self.subproblems.iter().map(|(identifier, problem)| {
                json!({
                    "type": problem.kind.urn(),
                    "detail": problem.detail,
                    "identifier": identifier_json(identifier),
                })
            });
            object["subproblems"] = subproblems.collect();
        }
        if let Some(url) = &self.instance {
            object["instance"] = json!(url);
        }
        if !self.algorithms.is_empty() {
            object["algorithms"] = json!(self.algorithms);
        }
        object
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
        let body = self.to_json().to_string();
        let mut response = (self.status, content_type, body).into_response();
        for (name, value) in self.headers {
            if let Ok(value) = value.try_into() {
                response.headers_mut().append(name, value);
            }
        }
        response
    }
}

impl From<aws_lc_rs::error::Unspecified> for Problem {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self::new(ProblemType::ServerInternal, "no random numbers")
    }
}

macro_rules! problem_types {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident;)*) => {
        /// The type of a problem
        ///
        /// <https://www.rfc-editor.org/rfc/rfc8555#section-6.7>
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ProblemType {
            $($(#[$doc])* $name,)*
        }

        impl ProblemType {
            /// The type as a problem document has it
            pub const fn urn(self) -> &'static str {
                match self {
                    $(Self::$name => concat!("urn:ietf:params:acme:error:", $text),)*
                }
            }

            /// The status that goes with it where nothing else is said
            pub(super) const fn status(self) -> StatusCode {
                match self {
                    $(Self::$name => StatusCode::$status,)*
                }
            }
        }
    };
}

problem_types! {
    /// No account has the key
    AccountDoesNotExist = "accountDoesNotExist", BAD_REQUEST;
    /// The certificate has a replacement already
    AlreadyReplaced = "alreadyReplaced", CONFLICT;
    /// The certificate is revoked already
    AlreadyRevoked = "alreadyRevoked", BAD_REQUEST;
    /// The CSR cannot be used
    BadCsr = "badCSR", BAD_REQUEST;
    /// The nonce is not a good one
    BadNonce = "badNonce", BAD_REQUEST;
    /// The account key cannot be used
    BadPublicKey = "badPublicKey", BAD_REQUEST;
    /// The reason of a revocation is not allowed
    BadRevocationReason = "badRevocationReason", BAD_REQUEST;
    /// The request is signed in a way that is not known
    BadSignatureAlgorithm = "badSignatureAlgorithm", BAD_REQUEST;
    /// A CAA record forbids it
    Caa = "caa", FORBIDDEN;
    /// The server to be validated could not be reached
    Connection = "connection", BAD_REQUEST;
    /// A name could not be resolved
    Dns = "dns", BAD_REQUEST;
    /// An external account must be bound
    ExternalAccountRequired = "externalAccountRequired", FORBIDDEN;
    /// The challenge was answered with something else
    IncorrectResponse = "incorrectResponse", FORBIDDEN;
    /// A contact is not valid
    InvalidContact = "invalidContact", BAD_REQUEST;
    /// There is no such profile
    InvalidProfile = "invalidProfile", BAD_REQUEST;
    /// The request is malformed
    Malformed = "malformed", BAD_REQUEST;
    /// The order cannot be finalized in its state
    OrderNotReady = "orderNotReady", FORBIDDEN;
    /// Too many requests
    RateLimited = "rateLimited", TOO_MANY_REQUESTS;
    /// The CA does not issue for the identifier
    RejectedIdentifier = "rejectedIdentifier", BAD_REQUEST;
    /// The CA is broken
    ServerInternal = "serverInternal", INTERNAL_SERVER_ERROR;
    /// TLS failed during validation
    Tls = "tls", BAD_REQUEST;
    /// The client may not do it
    Unauthorized = "unauthorized", FORBIDDEN;
    /// A contact's scheme is not known
    UnsupportedContact = "unsupportedContact", BAD_REQUEST;
    /// An identifier's type is not known
    UnsupportedIdentifier = "unsupportedIdentifier", BAD_REQUEST;
    /// A human must do something at `instance`
    UserActionRequired = "userActionRequired", FORBIDDEN;
}
