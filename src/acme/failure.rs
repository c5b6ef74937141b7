//! What a CA's refusal means: when to try again, who must act, and which name is to blame.
//!
//! The problem's type decides. The HTTP status only counts where no ACME server spoke.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555#section-6.7>

use std::time::Duration;

use instant_acme::Error;
use url::Url;

use super::answer::{Answer, Problem};
use super::fence::{Fault, FenceError};
use super::transport::TransportError;
use crate::failure::{Failure, FailureClass, Step};
use crate::name::Identifier;
use crate::text::External;
use crate::time::Timestamp;

/// Sort an error of instant-acme, given the last answer that the call saw
pub(super) fn sort(error: Error, answer: Option<&Answer>, step: Step, now: Timestamp) -> Failure {
    if let Some(answer) = answer
        && let Some(problem) = &answer.problem
    {
        return refused(problem, Some(answer), step, now);
    }
    match error {
        Error::Api(problem) => refused(&Problem::from(&problem), answer, step, now),
        Error::Other(error) => match error.downcast_ref::<TransportError>() {
            Some(error) => unanswered(error, step),
            None => Failure::retry(step, error.to_string()).by_issuer(),
        },
        Error::Json(error) => {
            let summary = format!("the CA's answer cannot be understood: {error}");
            Failure::retry(step, summary).by_issuer()
        }
        other => Failure::retry(step, other.to_string()).by_issuer(),
    }
}

/// An answer to a request of our own, or why there is none
pub(super) fn sent(
    result: Result<Answer, TransportError>,
    step: Step,
    now: Timestamp,
) -> Result<Answer, Failure> {
    let answer = result.map_err(|error| unanswered(&error, step))?;
    match &answer.problem {
        Some(problem) => Err(refused(problem, Some(&answer), step, now)),
        None => Ok(answer),
    }
}

/// The CA could not be asked
pub(super) fn unanswered(error: &TransportError, step: Step) -> Failure {
    if let TransportError::Fenced(error) = error {
        return fenced(error, step);
    }
    let text = error.to_string();
    let hint = if text.contains("UnknownIssuer") {
        "; for a CA with a root of its own set `ca_file`"
    } else {
        ""
    };
    Failure::retry(step, format!("{text}{hint}")).by_issuer()
}

/// There is no nonce to ask the CA with
pub(super) fn without_nonce(error: &TransportError, step: Step, now: Timestamp) -> Failure {
    match error {
        TransportError::NoNonce(answer) if let Some(problem) = &answer.problem => {
            refused(problem, Some(answer), step, now)
        }
        _ => unanswered(error, step),
    }
}

/// The CA named a URL that must not be asked
pub(super) fn fenced(error: &FenceError, step: Step) -> Failure {
    let summary = TransportError::Fenced(error.clone()).to_string();
    let what = match error.fault {
        Fault::Foreign => "if the CA is known to use that host, add it to `allowed_hosts`",
        _ => "make sure that `directory` is the CA that is meant, and ask the CA",
    };
    Failure::needs_operator(step, summary, what).by_issuer()
}

/// The CA said no
pub(super) fn refused(
    problem: &Problem,
    answer: Option<&Answer>,
    step: Step,
    now: Timestamp,
) -> Failure {
    let class = class(problem, answer, step, now);
    let mut failure = Failure::retry(step, format!("{}: {}", refusal(step), problem.words()));
    failure.class = class;
    failure.problem = problem.kind.as_deref().map(External::new);
    failure.identifiers = blamed(problem);
    failure.try_other_issuer = is_issuers_fault(problem);
    failure
}

/// The names that the CA blames, each with its words
fn blamed(problem: &Problem) -> Vec<(Identifier, External)> {
    let subproblems = problem.subproblems.iter();
    subproblems.map(|(name, sub)| (name.clone(), External::new(sub.words()))).collect()
}

fn class(problem: &Problem, answer: Option<&Answer>, step: Step, now: Timestamp) -> FailureClass {
    let kind = kind(problem);
    if kind == Some("rateLimited") {
        return rate_limited(problem, answer, now);
    }
    // A compound problem says nothing itself.
    let kinds = problem.subproblems.iter().filter_map(|(_, sub)| sub.kind.as_deref());
    if let Some(what) = kind.into_iter().chain(kinds).find_map(|kind| remedy(kind, step)) {
        let url = match kind {
            Some("userActionRequired") => problem
                .instance
                .as_deref()
                .or_else(|| answer.and_then(|answer| answer.link("terms-of-service"))),
            _ => None,
        };
        return FailureClass::NeedsOperator {
            what: External::new(what),
            url: url.and_then(sane_url),
        };
    }
    match answer.and_then(|answer| answer.retry_after(now)) {
        Some(delay) => FailureClass::NotBefore { at: now.after(clamp(delay)) },
        None => FailureClass::Retry,
    }
}

/// What a human must do about a problem of this kind; `None` when it may pass by itself
fn remedy(kind: &str, step: Step) -> Option<&'static str> {
    Some(match kind {
        "badCSR" => "choose another `key` or `profile`: the CA does not take such a request",
        "badPublicKey" | "badSignatureAlgorithm" => "choose a `key` that the CA takes",
        "caa" => "let the CAA records of the name allow this CA",
        "externalAccountRequired" => "set `eab` to the credentials that the CA gives out",
        "invalidContact" | "unsupportedContact" => "correct `contact`",
        "invalidProfile" => "choose a `profile` that the CA offers",
        "rejectedIdentifier" => "ask the CA why, or take the name out of `names`",
        "unsupportedIdentifier" => "choose a CA or a `profile` that takes such names",
        "userActionRequired" => "follow the CA's instructions, such as agreeing to new terms",
        "malformed" if step == Step::Account => CLOSED,
        // Nobody else is refused an order for it once `replaces` is out of the way.
        "unauthorized" if matches!(step, Step::Account | Step::Order) => CLOSED,
        "badRevocationReason" => "give another reason",
        _ => return None,
    })
}

/// When the CA takes requests again, or who must ask it to
///
/// Let's Encrypt pauses an account whose name failed for months, and says so with the same type,
/// no time, and a link that a human must follow.
fn rate_limited(problem: &Problem, answer: Option<&Answer>, now: Timestamp) -> FailureClass {
    if let Some(delay) = answer.and_then(|answer| answer.retry_after(now)) {
        return FailureClass::NotBefore { at: now.after(clamp(delay)) };
    }
    let detail = problem.detail.as_deref().unwrap_or_default();
    if let Some(at) = moment_within(detail) {
        return FailureClass::NotBefore { at: now.after(clamp(at.since(now))) };
    }
    let paused = ["unpause", "paused", "temporarily prevented"].iter().any(|w| detail.contains(w));
    if paused && let Some(url) = detail.split_whitespace().find_map(sane_url) {
        let what = External::new("the CA has paused the account for these names: unpause it there");
        return FailureClass::NeedsOperator { what, url: Some(url) };
    }
    FailureClass::NotBefore { at: now.after(UNKNOWN_LIMIT) }
}

/// `… retry after 2026-11-23 20:01:02 UTC …`
fn moment_within(detail: &str) -> Option<Timestamp> {
    let (_, rest) = detail.split_once("retry after ")?;
    let (date, rest) = rest.trim_start().split_once([' ', 'T'])?;
    let time = rest.split([' ', 'Z', ':', ',', ';']).take(3).collect::<Vec<_>>().join(":");
    format!("{date}T{time}Z").parse().ok()
}

/// A URL that a human can be sent to
pub(super) fn sane_url(text: &str) -> Option<External> {
    let text = text.trim_matches(|c: char| "<>()[]{}\"'`,;.:!".contains(c));
    let url = Url::parse(text).ok().filter(|url| url.scheme() == "https")?;
    let plain = url.username().is_empty() && url.password().is_none() && url.host().is_some();
    (plain && url.as_str().len() < External::LIMIT).then(|| External::new(url.as_str()))
}

fn kind(problem: &Problem) -> Option<&str> {
    match (problem.kind.as_deref(), problem.status) {
        (Some(kind), _) => Some(kind),
        (None, Some(429)) => Some("rateLimited"),
        (None, _) => None,
    }
}

fn is_issuers_fault(problem: &Problem) -> bool {
    let kind = kind(problem);
    problem.status.is_some_and(|status| status >= 500)
        // No ACME server spoke, but a firewall or a proxy before it.
        || kind.is_none()
        || matches!(kind, Some("rateLimited" | "serverInternal" | "caa"))
        || problem.subproblems.iter().any(|(_, sub)| is_issuers_fault(sub))
}

const fn refusal(step: Step) -> &'static str {
    match step {
        Step::Account => "the CA refused the account",
        Step::Authorize => "the CA refused the proof of control",
        Step::Download => "the CA did not hand out the certificate",
        Step::Finalize => "the CA refused to issue",
        Step::RenewalInfo => "the CA gave no renewal information",
        Step::Revoke => "the CA refused to revoke",
        _ => "the CA refused the order",
    }
}

/// The bounds within which a CA may put us off
fn clamp(delay: Duration) -> Duration {
    delay.clamp(Duration::from_secs(60), Duration::from_secs(86_400))
}

const CLOSED: &str =
    "see whether the CA has closed the account, and whether `eab` is right and unused";

/// How long a limit is respected that the CA says nothing more about
const UNKNOWN_LIMIT: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;
    use http::header::{HeaderMap, HeaderName, HeaderValue};

    use super::*;

    fn now() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn refused_with(
        status: u16,
        headers: &[(&'static str, &'static str)],
        body: &str,
        step: Step,
    ) -> Failure {
        let pairs = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let headers: HeaderMap = pairs.collect();
        let status = StatusCode::from_u16(status).unwrap();
        let answer = Answer::new(status, headers, Bytes::from(body.to_owned()));
        sort(Error::Str("not looked at"), Some(&answer), step, now())
    }

    fn problem(kind: &str, detail: &str) -> String {
        serde_json::json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail })
            .to_string()
    }

    #[test]
    fn a_rate_limit_is_respected_in_every_form() {
        let at = |text: &str| FailureClass::NotBefore { at: text.parse().unwrap() };
        let html = "<html>slow down</html>".to_owned();
        type Case = (&'static [(&'static str, &'static str)], String, FailureClass);
        let cases: [Case; 8] = [
            (&[("retry-after", "600")], problem("rateLimited", ""), at("2026-11-23T12:10:00Z")),
            (&[("retry-after", "600")], html.clone(), at("2026-11-23T12:10:00Z")),
            (
                &[("retry-after", "Mon, 23 Nov 2026 13:00:00 GMT")],
                problem("rateLimited", ""),
                at("2026-11-23T13:00:00Z"),
            ),
            (&[("retry-after", "0")], problem("rateLimited", ""), at("2026-11-23T12:01:00Z")),
            (&[("retry-after", "9999999")], problem("rateLimited", ""), at("2026-11-24T12:00:00Z")),
            (
                &[],
                problem(
                    "rateLimited",
                    "too many, retry after 2026-11-23 14:30:00 UTC: see https://ca.test/limits",
                ),
                at("2026-11-23T14:30:00Z"),
            ),
            (
                &[],
                problem("rateLimited", "too many, retry after lunch"),
                at("2026-11-23T13:00:00Z"),
            ),
            (&[], html, at("2026-11-23T13:00:00Z")),
        ];
        for (headers, body, class) in cases {
            let failure = refused_with(429, headers, &body, Step::Order);
            assert_eq!(failure.class, class, "{headers:?} {body}");
            assert!(failure.try_other_issuer, "{body}");
        }
    }

    #[test]
    fn a_pause_is_for_a_human_at_a_sane_url() {
        let said = |url: &str| {
            let detail = format!("Your account is temporarily prevented. Please visit: {url}");
            refused_with(429, &[], &problem("rateLimited", &detail), Step::Order).class
        };
        let url = "https://portal.ca.test/sfe/v1/unpause?jwt=abc.def";
        let FailureClass::NeedsOperator { url: Some(shown), .. } = said(&format!("{url}.")) else {
            panic!("not for a human");
        };
        assert_eq!(shown.as_str(), url);
        for url in ["javascript:alert(1)", "http://ca.test/unpause", "https://u:p@ca.test/", "x"] {
            assert!(matches!(said(url), FailureClass::NotBefore { .. }), "{url}");
        }
    }

    #[test]
    fn what_only_a_human_can_mend_is_told_apart() {
        let cases = [
            ("rejectedIdentifier", Step::Order, true),
            ("unsupportedIdentifier", Step::Order, true),
            ("caa", Step::Authorize, true),
            ("badCSR", Step::Finalize, true),
            ("externalAccountRequired", Step::Account, true),
            ("userActionRequired", Step::Order, true),
            ("unauthorized", Step::Account, true),
            ("unauthorized", Step::Order, true),
            ("unauthorized", Step::Authorize, false),
            ("dns", Step::Authorize, false),
            ("connection", Step::Authorize, false),
            ("malformed", Step::Order, false),
            ("accountDoesNotExist", Step::Order, false),
            ("never-heard-of", Step::Order, false),
        ];
        for (kind, step, human) in cases {
            let failure = refused_with(403, &[], &problem(kind, "d"), step);
            let operator = matches!(failure.class, FailureClass::NeedsOperator { .. });
            assert_eq!(operator, human, "{kind}");
            assert_eq!(failure.problem.unwrap().as_str(), kind);
        }
    }

    #[test]
    fn new_terms_are_shown_where_the_ca_says() {
        let link = [("link", r#"<https://ca.test/terms>;rel="terms-of-service""#)];
        let by_link = refused_with(403, &link, &problem("userActionRequired", "d"), Step::Order);
        let body = r#"{"type":"urn:ietf:params:acme:error:userActionRequired",
            "instance":"https://ca.test/agree?t=1"}"#;
        let by_instance = refused_with(403, &link, body, Step::Order);
        let shown = |failure: Failure| match failure.class {
            FailureClass::NeedsOperator { url: Some(url), .. } => url.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(shown(by_link), "https://ca.test/terms");
        assert_eq!(shown(by_instance), "https://ca.test/agree?t=1");
    }

    #[test]
    fn subproblems_name_the_names() {
        let body = r#"{"type":"urn:ietf:params:acme:error:compound","detail":"some names are bad",
            "subproblems":[
            {"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"on a list",
             "identifier":{"type":"dns","value":"bad.test"}},
            {"type":"urn:ietf:params:acme:error:dns","detail":"no such name",
             "identifier":{"type":"dns","value":"gone.test"}}]}"#;
        let failure = refused_with(400, &[], body, Step::Order);
        let names: Vec<_> =
            failure.identifiers.iter().map(|(name, why)| format!("{name} {why}")).collect();
        assert_eq!(names, ["bad.test on a list", "gone.test no such name"]);
        assert!(matches!(failure.class, FailureClass::NeedsOperator { .. }));
    }

    #[test]
    fn an_error_page_is_the_ca_s_fault_and_passes() {
        let html = [("content-type", "text/html")];
        let failure = refused_with(502, &html, "<script>alert(1)</script>", Step::Order);
        assert_eq!(failure.class, FailureClass::Retry);
        assert!(failure.try_other_issuer);
        assert_eq!(
            failure.summary.as_str(),
            "the CA refused the order: HTTP 502 Bad Gateway, text/html"
        );
        let busy = refused_with(503, &[("retry-after", "120")], "", Step::Order);
        let at = now().after(Duration::from_secs(120));
        assert_eq!(busy.class, FailureClass::NotBefore { at });
    }
}
