//! Signed requests: JWS in its flattened JSON form.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555#section-6.2>, <https://www.rfc-editor.org/rfc/rfc7515>

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::jwk::{AccountKey, RawJwk};
use super::problem::{Problem, ProblemType};

/// A request as it came: read, and not verified yet
#[derive(Debug)]
pub(super) struct Jws {
    pub(super) algorithm: Algorithm,
    pub(super) nonce: Option<String>,
    pub(super) url: String,
    pub(super) key: KeyRef,
    pub(super) payload: Vec<u8>,
    /// What the signature is over
    pub(super) message: String,
    pub(super) signature: Vec<u8>,
}

/// How a request says who signed it: by exactly one of `jwk` and `kid`
#[derive(Debug)]
pub(super) enum KeyRef {
    Jwk(AccountKey),
    Kid(String),
}

/// How a request is signed
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Es256,
    Es384,
    Rs256,
    /// For external account bindings alone
    Hs256,
}

impl Jws {
    /// Read a request's body
    pub(super) fn parse(body: &[u8]) -> Result<Self, Problem> {
        let raw: Flattened = serde_json::from_slice(body)
            .map_err(|error| Problem::malformed(format!("not a flattened JWS: {error}")))?;
        Self::from_flattened(raw)
    }

    /// Read a JWS that is a member of a payload: a binding, or the inner one of a key change
    pub(super) fn from_value(value: Value) -> Result<Self, Problem> {
        let raw: Flattened = serde_json::from_value(value)
            .map_err(|error| Problem::malformed(format!("the inner object is no JWS: {error}")))?;
        Self::from_flattened(raw)
    }

    fn from_flattened(raw: Flattened) -> Result<Self, Problem> {
        let decode = |text: &str, name: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(text);
            bytes.map_err(|_| Problem::malformed(format!("`{name}` is not unpadded base64url")))
        };
        let header: Header = serde_json::from_slice(&decode(&raw.protected, "protected")?)
            .map_err(|error| Problem::malformed(format!("the protected header: {error}")))?;
        if header.crit.is_some() || header.b64.is_some() {
            return Err(Problem::malformed("`crit` and `b64` are not understood"));
        }
        let key = match (header.jwk, header.kid) {
            (Some(jwk), None) => KeyRef::Jwk(AccountKey::from_jwk(&jwk)?),
            (None, Some(kid)) => KeyRef::Kid(kid),
            _ => {
                let detail = "the protected header has exactly one of `jwk` and `kid`";
                return Err(Problem::malformed(detail));
            }
        };
        Ok(Self {
            algorithm: Algorithm::parse(&header.alg)?,
            nonce: header.nonce,
            url: header.url,
            key,
            payload: decode(&raw.payload, "payload")?,
            message: format!("{}.{}", raw.protected, raw.payload),
            signature: decode(&raw.signature, "signature")?,
        })
    }
}

impl Algorithm {
    fn parse(name: &str) -> Result<Self, Problem> {
        match name {
            "ES256" => Ok(Self::Es256),
            "ES384" => Ok(Self::Es384),
            "RS256" => Ok(Self::Rs256),
            "HS256" => Ok(Self::Hs256),
            _ => Err(unsupported()),
        }
    }
}

/// The problem that lists what a request may be signed with
fn unsupported() -> Problem {
    let detail = "requests are signed with ES256, ES384 or RS256";
    Problem::new(ProblemType::BadSignatureAlgorithm, detail)
        .with_algorithms(&["ES256", "ES384", "RS256"])
}

/// An unprotected `header` and the many `signatures` of the general form are unknown members
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Flattened {
    protected: String,
    payload: String,
    signature: String,
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    nonce: Option<String>,
    url: String,
    jwk: Option<RawJwk>,
    kid: Option<String>,
    crit: Option<Value>,
    b64: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(protected: &str, rest: &str) -> String {
        format!(r#"{{"protected":"{}"{rest}}}"#, URL_SAFE_NO_PAD.encode(protected))
    }

    #[test]
    fn what_is_not_a_flattened_jws_is_malformed() {
        let kid = r#"{"alg":"ES256","url":"u","kid":"k"}"#;
        let good = r#","payload":"","signature":"""#;
        assert!(Jws::parse(body(kid, good).as_bytes()).is_ok());
        let cases = [
            "".to_owned(),
            "[]".to_owned(),
            "\u{0}".to_owned(),
            "{}".to_owned(),
            "[".repeat(10_000),
            body(kid, r#","payload":"","signature":"","header":{}"#),
            body(kid, r#","payload":"","signatures":[]"#),
            body(kid, r#","payload":"==","signature":"""#),
            body(kid, r#","payload":"YQ==","signature":"""#),
            body(kid, r#","payload":"","payload":"","signature":"""#),
            body("{}", good),
            body(r#"{"alg":"ES256","url":"u"}"#, good),
            body(r#"{"alg":"ES256","kid":"k"}"#, good),
            body(r#"{"alg":"ES256","url":"u","kid":"k","crit":["x"]}"#, good),
            body(r#"{"alg":"ES256","url":"u","kid":"k","b64":false}"#, good),
            body(r#"{"alg":"ES256","url":7,"kid":"k"}"#, good),
        ];
        for case in cases {
            let problem = Jws::parse(case.as_bytes()).unwrap_err();
            assert_eq!(problem.kind(), ProblemType::Malformed, "{case}");
        }
    }

    #[test]
    fn an_algorithm_that_signs_nothing_is_refused() {
        for alg in ["none", "None", "HS512", "PS256", "EdDSA", ""] {
            let header = format!(r#"{{"alg":"{alg}","url":"u","kid":"k"}}"#);
            let body = body(&header, r#","payload":"","signature":"""#);
            let problem = Jws::parse(body.as_bytes()).unwrap_err();
            assert_eq!(problem.kind(), ProblemType::BadSignatureAlgorithm, "{alg}");
            assert!(problem.to_json()["algorithms"].is_array());
        }
    }
}
