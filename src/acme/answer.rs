//! What a CA answered to one request, with all that instant-acme would throw away.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, LINK, LOCATION, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::name::Identifier;
use crate::time::Timestamp;

/// One answer, its body read to the end
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// What was wrong, for every status that is not a success
    pub(super) problem: Option<Problem>,
}

impl Answer {
    pub(super) fn new(status: StatusCode, headers: HeaderMap, body: Bytes) -> Self {
        let problem = (!status.is_success()).then(|| Problem::of(status, &headers, &body));
        Self { status, headers, body, problem }
    }

    /// The resource that the answer is about, where it says
    pub(super) fn location(&self) -> Option<&str> {
        self.header(&LOCATION)
    }

    /// How long the CA wants to be left alone, in either form of the header
    ///
    /// A date counts from the CA's own clock where it shows it, so that ours may be wrong.
    ///
    /// <https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3>
    pub(super) fn retry_after(&self, now: Timestamp) -> Option<Duration> {
        let text = self.header(&RETRY_AFTER)?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let from = self.date().unwrap_or(now);
        Some(http_date(text)?.since(from))
    }

    /// What the CA's clock said
    pub(super) fn date(&self) -> Option<Timestamp> {
        http_date(self.header(&DATE)?)
    }

    /// The target of the first link with this relation
    ///
    /// <https://www.rfc-editor.org/rfc/rfc8288#section-3>
    pub(super) fn link(&self, relation: &str) -> Option<&str> {
        let values = self.headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(", ")).find_map(|link| {
            let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
            let named = parameters.split(';').any(|parameter| {
                let relations = parameter.trim().strip_prefix("rel=");
                relations.is_some_and(|r| r.trim_matches('"').split(' ').any(|r| r == relation))
            });
            named.then_some(target)
        })
    }

    /// The body as JSON
    pub(super) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The problem of this kind, and only that
    pub(super) fn is(&self, kind: &str) -> bool {
        self.problem.as_ref().is_some_and(|problem| problem.kind.as_deref() == Some(kind))
    }

    fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

fn http_date(text: &str) -> Option<Timestamp> {
    let moment = OffsetDateTime::parse(text.trim(), &Rfc2822).ok()?;
    Some(Timestamp::from_seconds(moment.unix_timestamp()))
}

/// A problem document, read as leniently as it is written
///
/// <https://www.rfc-editor.org/rfc/rfc8555#section-6.7>
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Problem {
    /// The type without ACME's own prefix; `None` when no ACME server said this
    pub(super) kind: Option<String>,
    pub(super) detail: Option<String>,
    pub(super) status: Option<u16>,
    /// Where a human is sent
    pub(super) instance: Option<String>,
    pub(super) subproblems: Vec<(Identifier, Self)>,
}

impl Problem {
    fn of(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let document = serde_json::from_slice::<Value>(body).ok();
        let mut problem = document.as_ref().map(Self::read).unwrap_or_default();
        if problem.kind.is_none() && problem.detail.is_none() {
            let kind = headers.get(CONTENT_TYPE).and_then(|value| HeaderValue::to_str(value).ok());
            problem.detail = Some(format!("HTTP {status}, {}", kind.unwrap_or("without a word")));
        }
        problem.status = Some(status.as_u16());
        problem
    }

    /// Read a document, or what there is of one
    pub(super) fn read(document: &Value) -> Self {
        let text = |name| document.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
        let kind = text("type").filter(|kind| kind != "about:blank");
        let subproblems = document.get("subproblems").and_then(Value::as_array);
        Self {
            kind: kind.map(|kind| kind.strip_prefix(PREFIX).map(ToOwned::to_owned).unwrap_or(kind)),
            detail: text("detail").or_else(|| text("title")),
            status: document.get("status").and_then(Value::as_u64).and_then(|s| s.try_into().ok()),
            instance: text("instance"),
            subproblems: subproblems
                .into_iter()
                .flatten()
                .filter_map(|sub| {
                    let name = sub.get("identifier")?.get("value")?.as_str()?;
                    Some((Identifier::parse(name).ok()?, Self::read(sub)))
                })
                .collect(),
        }
    }

    /// The same in the least that instant-acme needs to tell it from other errors
    pub(super) fn to_plain(&self) -> Value {
        let kind = self.kind.as_deref().map(|kind| match kind.contains(':') {
            true => kind.to_owned(),
            false => format!("{PREFIX}{kind}"),
        });
        serde_json::json!({ "type": kind, "detail": self.detail, "status": self.status })
    }

    /// The CA's words
    pub(super) fn words(&self) -> &str {
        self.detail.as_deref().or(self.kind.as_deref()).unwrap_or("it did not say why")
    }
}

impl From<&instant_acme::Problem> for Problem {
    fn from(problem: &instant_acme::Problem) -> Self {
        let kind = problem.r#type.as_deref();
        Self {
            kind: kind.map(|kind| kind.strip_prefix(PREFIX).unwrap_or(kind).to_owned()),
            detail: problem.detail.clone(),
            status: problem.status,
            ..Self::default()
        }
    }
}

const PREFIX: &str = "urn:ietf:params:acme:error:";

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(headers: &[(&'static str, &'static str)]) -> Answer {
        let pairs = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        Answer::new(StatusCode::OK, pairs.collect(), Bytes::new())
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        const DATE: &str = "Mon, 23 Nov 2026 12:00:10 GMT";
        type Headers = &'static [(&'static str, &'static str)];
        let cases: [(Headers, Option<u64>); 8] = [
            (&[], None),
            (&[("retry-after", "7")], Some(7)),
            (&[("retry-after", " 7 ")], Some(7)),
            (&[("retry-after", DATE)], Some(10)),
            (&[("retry-after", DATE), ("date", "Mon, 23 Nov 2026 12:00:07 GMT")], Some(3)),
            (&[("retry-after", "Mon, 23 Nov 2026 11:00:00 GMT")], Some(0)),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "-1")], None),
        ];
        for (headers, expected) in cases {
            let got = answer(headers).retry_after(now);
            assert_eq!(got, expected.map(Duration::from_secs), "{headers:?}");
        }
    }

    #[test]
    fn links_are_found_by_their_relation() {
        let several = answer(&[(
            "link",
            r#"<https://ca.test/dir>;rel="index", <https://ca.test/tos,v2>; title="x"; rel=terms-of-service"#,
        )]);
        assert_eq!(several.link("index"), Some("https://ca.test/dir"));
        assert_eq!(several.link("terms-of-service"), Some("https://ca.test/tos,v2"));
        assert_eq!(several.link("alternate"), None);
    }

    #[test]
    fn any_error_body_becomes_a_problem() {
        let of = |body: &str| {
            let headers =
                HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("text/html"))]);
            Problem::of(StatusCode::BAD_GATEWAY, &headers, body.as_bytes())
        };
        for body in ["<html>", "", "[]", "{}", "null", r#"{"type": 5, "detail": {}}"#] {
            let problem = of(body);
            assert_eq!(problem.kind, None, "{body}");
            assert_eq!(
                problem.detail.as_deref(),
                Some("HTTP 502 Bad Gateway, text/html"),
                "{body}"
            );
        }
        let full = of(
            r#"{"type":"urn:ietf:params:acme:error:compound","detail":"d","status":"no","instance":"https://x/",
            "subproblems":[{"identifier":{"type":"dns","value":"a.test"},"type":"urn:ietf:params:acme:error:caa"},
            {"identifier":{"type":"odd","value":"\u0000"}},{},7]}"#,
        );
        assert_eq!(full.kind.as_deref(), Some("compound"));
        assert_eq!(full.status, Some(502));
        assert_eq!(full.subproblems.len(), 1);
        assert_eq!(full.subproblems[0].1.kind.as_deref(), Some("caa"));
    }
}
