use std::collections::BTreeSet;
use std::future::pending;

use serde_json::json;

use super::*;
use crate::acme::fake::{CHAIN, Ca, Reply};
use crate::cert::AriId;
use crate::config::Profile;

fn names(names: &[&str]) -> Vec<Identifier> {
    names.iter().map(|name| Identifier::parse(name).unwrap()).collect()
}

fn replaced() -> AriId {
    AriId { key_identifier: vec![1, 2], serial: vec![0, 0x87] }
}

async fn issue(order: &mut Order) -> Result<String, Failure> {
    order.challenges().await?;
    order.respond().await?;
    order.wait_ready(pending()).await?;
    order.finalize(b"csr").await?;
    order.wait_certificate().await
}

async fn order(session: &Session) -> Order {
    session.new_order(&names(&["a.test"]), None, None).await.unwrap()
}

fn needs_operator(failure: &Failure) -> bool {
    matches!(failure.class, FailureClass::NeedsOperator { .. })
}

#[tokio::test]
async fn one_certificate_costs_seven_requests_on_an_open_session() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    ca.seen();
    let mut order = order(&session).await;
    assert_eq!(order.url(), format!("{}/order/0", ca.url));
    let challenges = order.challenges().await.unwrap();
    let [challenge] = &challenges[..] else { panic!("{challenges:?}") };
    assert_eq!(challenge.identifier.to_string(), "a.test");
    let (token, thumbprint) = challenge.key_authorization.split_once('.').unwrap();
    assert_eq!((token, thumbprint.len()), (challenge.token.as_str(), 43));
    assert_eq!(issue(&mut order).await.unwrap(), CHAIN);
    let expected = [
        "POST /new-order",
        "POST /authz/0/0",
        "POST /chall/0/0",
        "POST /order/0",
        "POST /finalize/0",
        "POST /order/0",
        "POST /cert/0",
    ];
    assert_eq!(ca.requests(), expected);
}

#[tokio::test]
async fn orders_share_nonces_and_use_none_twice() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    ca.seen();
    let mut first = order(&session).await;
    let mut second = order(&session).await;
    issue(&mut first).await.unwrap();
    issue(&mut second).await.unwrap();
    let requests = ca.requests();
    assert_eq!(requests.len(), 14, "{requests:?}");
}

#[tokio::test]
async fn twenty_names_are_polled_as_one_order() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    ca.seen();
    let wanted: Vec<_> = (0..20).map(|i| format!("n{i}.test")).collect();
    let wanted: Vec<_> = wanted.iter().map(|n| Identifier::parse(n).unwrap()).collect();
    let mut order = session.new_order(&wanted, None, None).await.unwrap();
    let challenges = order.challenges().await.unwrap();
    let got: BTreeSet<_> = challenges.into_iter().map(|c| c.identifier).collect();
    assert_eq!(got, wanted.into_iter().collect());
    issue(&mut order).await.unwrap();
    assert_eq!(ca.seen().len(), 7 + 2 * 19);
}

#[tokio::test]
async fn what_is_ready_or_valid_already_skips_work() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let url = ca.url.clone();
    let at = format!("{url}/order/9");
    for (status, expected) in
        [("ready", &["POST /finalize/9", "POST /cert/9"][..]), ("valid", &["POST /cert/9"][..])]
    {
        let body = |status: &str| {
            json!({ "status": status, "authorizations": [format!("{url}/authz/9/0")],
                "finalize": format!("{url}/finalize/9"), "certificate": format!("{url}/cert/9") })
            .to_string()
        };
        let (first, at, done) = (body(status), at.clone(), body("valid"));
        ca.on("/new-order", move |_| Reply::json(201, &first).header("location", Some(&at)));
        ca.on("/finalize/9", move |_| Reply::json(200, &done));
        let mut order = order(&session).await;
        ca.seen();
        issue(&mut order).await.unwrap();
        assert_eq!(ca.requests(), expected, "{status}");
    }
}

#[tokio::test]
async fn a_valid_authorization_needs_no_challenge() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let mut order = session.new_order(&names(&["a.test", "b.test"]), None, None).await.unwrap();
    let body = json!({ "identifier": { "type": "dns", "value": "a.test" }, "status": "valid",
        "challenges": [] });
    ca.on("/authz/0/0", move |_| Reply::json(200, &body.to_string()));
    let challenges = order.challenges().await.unwrap();
    assert_eq!(challenges.len(), 1);
    assert_eq!(challenges[0].identifier.to_string(), "b.test");
    ca.seen();
    order.respond().await.unwrap();
    assert_eq!(ca.requests(), ["POST /chall/0/1"]);
}

#[tokio::test]
async fn an_order_is_resumed_where_it_was_left() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let mut first = order(&session).await;
    first.challenges().await.unwrap();
    first.respond().await.unwrap();
    let url = first.url().to_owned();
    drop(first);
    let Resumed::Order(mut order) = session.order(&url).await.unwrap() else { panic!("gone") };
    assert_eq!(order.status(), Status::Ready);
    assert_eq!(issue(&mut order).await.unwrap(), CHAIN);
    let Resumed::Order(mut order) = session.order(&url).await.unwrap() else { panic!("gone") };
    ca.seen();
    assert_eq!(issue(&mut order).await.unwrap(), CHAIN);
    assert_eq!(ca.requests(), ["POST /cert/0"]);
}

#[tokio::test]
async fn a_challenge_that_is_being_validated_is_not_responded_to_again() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let mut order = order(&session).await;
    let body = json!({ "identifier": { "type": "dns", "value": "a.test" }, "status": "pending",
        "challenges": [{ "type": "http-01", "url": format!("{}/chall/0/0", ca.url),
            "status": "processing", "token": "0123456789012345678901" }] });
    ca.on("/authz/0/0", move |_| Reply::json(200, &body.to_string()));
    // It is published again all the same: the CA may fetch it from another vantage point.
    assert_eq!(order.challenges().await.unwrap().len(), 1);
    ca.seen();
    order.respond().await.unwrap();
    assert!(ca.seen().is_empty());
}

#[tokio::test]
async fn an_order_that_the_ca_dropped_is_gone() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let url = format!("{}/order/0", ca.url);
    let gone = |status, kind: &'static str| {
        ca.on("/order/0", move |_| Reply::problem(status, kind, "words of the CA"));
        session.order(&url)
    };
    for (status, kind) in [(404, "malformed"), (403, "unauthorized"), (410, "x")] {
        let resumed = gone(status, kind).await.unwrap();
        assert!(matches!(resumed, Resumed::Gone(_)), "{status} {kind}");
    }
    for (status, kind) in [(400, "accountDoesNotExist"), (429, "rateLimited"), (500, "x")] {
        assert!(gone(status, kind).await.is_err(), "{status} {kind}");
    }
    ca.on("/order/0", |_| Reply::json(404, "<html>"));
    assert!(matches!(session.order(&url).await.unwrap(), Resumed::Gone(_)));
    let elsewhere = session.order("https://other.test/order/1").await.unwrap();
    assert!(matches!(elsewhere, Resumed::Gone(_)));
    let body = json!({ "status": "invalid", "authorizations": [], "finalize": ca.url });
    ca.on("/order/0", move |_| Reply::json(200, &body.to_string()));
    assert!(matches!(session.order(&url).await.unwrap(), Resumed::Gone(_)));
}

#[tokio::test]
async fn an_order_is_placed_without_replaces_when_the_ca_wants_it_so() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let refusals: [(u16, &str, bool); 9] = [
        (409, "alreadyReplaced", true),
        (409, "conflict", true),
        (403, "unauthorized", true),
        (404, "malformed", true),
        (400, "malformed", true),
        (500, "serverInternal", true),
        (429, "rateLimited", false),
        (400, "accountDoesNotExist", false),
        (503, "busy", false),
    ];
    for (status, kind, again) in refusals {
        ca.once("/new-order", move |_| Reply::problem(status, kind, "d"));
        ca.seen();
        let placed = session.new_order(&names(&["a.test"]), None, Some(&replaced())).await;
        assert_eq!(placed.is_ok(), again, "{status} {kind}");
        let seen: Vec<_> = ca.seen().iter().map(|s| s.payload.get("replaces").cloned()).collect();
        let sent = Some(json!("AQI.AIc"));
        let expected = if again { vec![sent, None] } else { vec![sent] };
        assert_eq!(seen, expected, "{status} {kind}");
    }
    for _ in 0..2 {
        ca.once("/new-order", |_| Reply::problem(409, "alreadyReplaced", "d"));
    }
    ca.seen();
    session.new_order(&names(&["a.test"]), None, Some(&replaced())).await.unwrap_err();
    assert_eq!(ca.seen().len(), 2);
}

#[tokio::test]
async fn an_order_is_not_lost_when_the_ca_does_not_echo_replaces() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    for echo in [json!(null), json!("other.id"), json!(7)] {
        let at = format!("{}/order/7", ca.url);
        let body = json!({ "status": "pending", "authorizations": [], "replaces": echo,
            "finalize": format!("{}/finalize/7", ca.url) });
        let shown = body.to_string();
        ca.once("/new-order", move |_| Reply::json(201, &shown).header("location", Some(&at)));
        ca.seen();
        let order = session.new_order(&names(&["a.test"]), None, Some(&replaced())).await.unwrap();
        assert_eq!(order.url(), format!("{}/order/7", ca.url), "{body}");
        assert_eq!(ca.seen().len(), 1, "{body}");
    }
}

#[tokio::test]
async fn an_order_is_not_lost_when_the_answer_is_odd() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    order(&session).await;
    for location in [format!("{}/order/0", ca.url), "/order/0".to_owned(), "order/0".to_owned()] {
        ca.once("/new-order", move |_| Reply::json(201, "").header("location", Some(&location)));
        assert_eq!(order(&session).await.url(), format!("{}/order/0", ca.url));
    }
    // Too much to be read, and then nothing at all: it is placed all the same.
    ca.once("/new-order", |_| Reply::flood().header("location", Some("/order/0")));
    assert_eq!(order(&session).await.url(), format!("{}/order/0", ca.url));
    ca.once("/new-order", |_| Reply::flood().header("location", Some("/order/0")));
    ca.once("/order/0", |_| Reply::json(503, ""));
    let unplaced = session.new_order(&names(&["a.test"]), None, None).await.unwrap_err();
    assert_eq!(unplaced.url, Some(format!("{}/order/0", ca.url)), "{unplaced:?}");
}

#[tokio::test]
async fn replaces_is_not_sent_to_a_ca_without_renewal_information() {
    let ca = Ca::start().await;
    ca.edit_directory(|directory| drop(directory.remove("renewalInfo")));
    let session = ca.session().await;
    ca.seen();
    session.new_order(&names(&["a.test"]), None, Some(&replaced())).await.unwrap();
    assert_eq!(ca.seen()[0].payload.get("replaces"), None);
}

#[tokio::test]
async fn a_profile_is_asked_for_as_far_as_it_is_offered_and_required() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let profile = |name: &str, required| Profile { name: name.to_owned(), required };
    let ask = async |profile: &Profile| {
        ca.seen();
        let placed = session.new_order(&names(&["a.test"]), Some(profile), None).await;
        let sent: Vec<_> = ca.seen().iter().map(|s| s.payload.get("profile").cloned()).collect();
        (placed, sent)
    };
    let (placed, sent) = ask(&profile("short", true)).await;
    assert_eq!((placed.unwrap().profile(), sent), (Some("short"), vec![Some(json!("short"))]));
    let (placed, sent) = ask(&profile("long", false)).await;
    assert_eq!((placed.unwrap().profile(), sent), (None, vec![None]));
    let (placed, sent) = ask(&profile("long", true)).await;
    let failure = placed.unwrap_err().failure;
    assert!(needs_operator(&failure) && failure.try_other_issuer && sent.is_empty(), "{failure}");
    assert!(failure.to_string().contains("only short"), "{failure}");
    ca.once("/new-order", |_| Reply::problem(400, "invalidProfile", "withdrawn"));
    let (placed, sent) = ask(&profile("short", false)).await;
    assert_eq!((placed.unwrap().profile(), sent), (None, vec![Some(json!("short")), None]));
    ca.once("/new-order", |_| Reply::problem(400, "invalidProfile", "withdrawn"));
    let (placed, _) = ask(&profile("short", true)).await;
    assert!(needs_operator(&placed.unwrap_err().failure));
}

#[tokio::test]
async fn a_hostile_token_fails_its_name() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let long = "a".repeat(300);
    let tokens = ["", "../../../../etc/cron.d/x", "a/b", "$(id)`;\n\u{1b}[2J", "a\0", &long];
    for (id, token) in tokens.into_iter().enumerate() {
        let body = json!({ "identifier": { "type": "dns", "value": "a.test" },
            "status": "pending", "challenges": [{ "type": "http-01", "token": token,
            "url": format!("{}/chall/{id}/0", ca.url), "status": "pending" }] });
        ca.on(&format!("/authz/{id}/0"), move |_| Reply::json(200, &body.to_string()));
        let failure = order(&session).await.challenges().await.unwrap_err();
        assert_eq!(failure.identifiers[0].0.to_string(), "a.test", "{token:?}");
        assert!(!failure.to_string().contains('\u{1b}'), "{token:?}");
    }
}

#[tokio::test]
async fn a_name_without_an_http_challenge_is_named() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let mut order = order(&session).await;
    let body = json!({ "identifier": { "type": "dns", "value": "a.test" }, "wildcard": true,
        "status": "pending", "challenges": [{ "type": "dns-01", "token": "t", "status": "pending",
        "url": ca.url }] });
    ca.on("/authz/0/0", move |_| Reply::json(200, &body.to_string()));
    let failure = order.challenges().await.unwrap_err();
    assert_eq!(failure.identifiers[0].0.to_string(), "*.a.test");
}

#[tokio::test]
async fn a_failed_validation_names_each_name_with_the_ca_s_reason() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let mut order = session.new_order(&names(&["a.test", "b.test"]), None, None).await.unwrap();
    order.challenges().await.unwrap();
    order.respond().await.unwrap();
    let url = ca.url.clone();
    let body = json!({ "status": "invalid", "finalize": format!("{url}/finalize/0"),
        "authorizations": [format!("{url}/authz/0/0"), format!("{url}/authz/0/1")] });
    ca.on("/order/0", move |_| Reply::json(200, &body.to_string()));
    let failed = |name: &str, kind: &str, detail: &str| {
        json!({ "identifier": { "type": "dns", "value": name }, "status": "invalid",
            "challenges": [{ "type": "http-01", "token": "t", "status": "invalid", "url": "u",
            "error": { "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail }}]})
        .to_string()
    };
    let body = failed("b.test", "connection", "During secondary validation: refused");
    ca.on("/authz/0/1", move |_| Reply::json(200, &body));
    ca.seen();
    let failure = order.wait_ready(pending()).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Retry);
    assert_eq!(failure.problem.as_ref().unwrap().as_str(), "connection");
    let [(name, reason)] = &failure.identifiers[..] else { panic!("{failure}") };
    assert_eq!(name.to_string(), "b.test");
    assert_eq!(reason.as_str(), "During secondary validation: refused");
    assert!(failure.summary.as_str().contains("vantage points"), "{failure}");
    // Each authorization is asked once, and nothing is responded to again.
    assert_eq!(ca.requests(), ["POST /order/0", "POST /authz/0/0", "POST /authz/0/1"]);

    let body = failed("a.test", "caa", "CAA forbids");
    ca.on("/authz/0/0", move |_| Reply::json(200, &body));
    let mut order = session.new_order(&names(&["a.test", "b.test"]), None, None).await.unwrap();
    order.status = Status::Invalid;
    ca.on("/authz/1/0", |_| Reply::json(500, ""));
    ca.on("/authz/1/1", |_| Reply::json(500, ""));
    let unknown = order.wait_ready(pending()).await.unwrap_err();
    assert!(unknown.identifiers.is_empty() && unknown.class == FailureClass::Retry, "{unknown}");
}

#[tokio::test]
async fn the_gravest_reason_decides_what_happens_next() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let mut order = order(&session).await;
    let error = |kind: &str| format!("urn:ietf:params:acme:error:{kind}");
    let name = |name: &str| json!({ "type": "dns", "value": name });
    let body = json!({ "status": "invalid", "authorizations": [], "finalize": ca.url,
        "error": { "type": error("compound"), "detail": "several", "subproblems": [
            { "type": error("dns"), "detail": "gone", "identifier": name("a.test") },
            { "type": error("caa"), "detail": "CAA", "identifier": name("b.test") }] } });
    ca.on("/order/0", move |_| Reply::json(200, &body.to_string()));
    let failure = order.wait_ready(pending()).await.unwrap_err();
    assert!(needs_operator(&failure) && failure.try_other_issuer, "{failure}");
    assert_eq!(failure.identifiers.len(), 2);
}

#[tokio::test]
async fn a_verdict_in_the_answer_to_a_response_is_heard() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    for (status, heard) in [("pending", true), ("invalid", true), ("processing", false)] {
        let mut order = order(&session).await;
        order.challenges().await.unwrap();
        let body = json!({ "type": "http-01", "url": "u", "token": "t", "status": status,
            "error": { "type": "urn:ietf:params:acme:error:connection", "detail": "refused" } });
        let path = order.url().trim_start_matches(&ca.url).replace("order", "chall") + "/0";
        ca.on(&path, move |_| Reply::json(200, &body.to_string()));
        let responded = order.respond().await;
        assert_eq!(responded.is_err(), heard, "{status}");
        if let Err(failure) = responded {
            assert_eq!(failure.identifiers[0].1.as_str(), "refused", "{status}");
        }
    }
}

#[tokio::test]
async fn a_refused_response_is_a_failure() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let mut order = order(&session).await;
    order.challenges().await.unwrap();
    ca.on("/chall/0/0", |_| Reply::problem(400, "malformed", "already answered"));
    let failure = order.respond().await.unwrap_err();
    assert_eq!(failure.problem.unwrap().as_str(), "malformed");
}

#[tokio::test]
async fn refused_nonces_are_never_a_failure() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    for path in ["/new-order", "/authz/0/0", "/chall/0/0", "/order/0", "/finalize/0", "/cert/0"] {
        for _ in 0..8 {
            ca.once(path, |_| Reply::problem(400, "badNonce", "old"));
        }
    }
    let mut order = order(&session).await;
    assert_eq!(issue(&mut order).await.unwrap(), CHAIN);
}

#[tokio::test]
async fn a_ca_that_is_out_of_order_for_a_moment_is_borne_with() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let mut order = order(&session).await;
    order.challenges().await.unwrap();
    order.respond().await.unwrap();
    ca.once("/order/0", |_| Reply::json(502, "<html>"));
    order.wait_ready(pending()).await.unwrap();
    for _ in 0..3 {
        ca.once("/finalize/0", |_| Reply::problem(403, "orderNotReady", "not yet"));
    }
    let failure = order.finalize(b"csr").await.unwrap_err();
    assert_eq!(failure.problem.unwrap().as_str(), "orderNotReady");
    ca.on("/finalize/0", |_| Reply::problem(400, "badCSR", "no"));
    ca.once("/finalize/0", |_| Reply::problem(403, "orderNotReady", "not yet"));
    assert_eq!(
        order.finalize(b"csr").await.unwrap_err().problem.unwrap().as_str(),
        "orderNotReady"
    );
    assert!(needs_operator(&order.finalize(b"csr").await.unwrap_err()));
}

#[tokio::test]
async fn a_challenge_that_the_ca_puts_off_for_long_is_not_waited_for() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let mut order = order(&session).await;
    order.challenges().await.unwrap();
    ca.once("/chall/0/0", |_| Reply::json(503, "<html>").header("retry-after", Some("86400")));
    let failure = order.respond().await.unwrap_err();
    let at = ca.now().after(Duration::from_secs(86_400));
    assert_eq!((failure.class, failure.try_other_issuer), (FailureClass::NotBefore { at }, true));
    ca.once("/chall/0/0", |_| Reply::json(502, "<html>"));
    order.respond().await.unwrap();
    order.wait_ready(pending()).await.unwrap();
}

#[tokio::test]
async fn what_the_ca_shows_as_ready_may_be_ordered_elsewhere() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let mut order = order(&session).await;
    order.challenges().await.unwrap();
    order.respond().await.unwrap();
    let down = |_: &_| Reply::json(503, "<html>").header("retry-after", Some("3600"));
    ca.on("/finalize/0", down);
    assert!(order.finalize(b"csr").await.unwrap_err().try_other_issuer);
    ca.on("/order/0", down);
    assert!(!order.finalize(b"csr").await.unwrap_err().try_other_issuer);
}

#[tokio::test]
async fn a_download_that_fails_for_a_moment_is_tried_again() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let mut order = order(&session).await;
    ca.once("/cert/0", |_| Reply::json(503, "<html>"));
    issue(&mut order).await.unwrap();
    ca.once("/cert/0", |_| Reply::json(503, "<html>").header("retry-after", Some("3600")));
    let failure = order.wait_certificate().await.unwrap_err();
    let at = ca.now().after(Duration::from_secs(3600));
    assert_eq!((failure.class, failure.try_other_issuer), (FailureClass::NotBefore { at }, false));
}

#[tokio::test]
async fn a_chain_that_is_too_long_is_refused() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let mut order = order(&session).await;
    ca.on("/cert/0", |_| Reply::json(200, &"x".repeat((256 << 10) + 1)));
    let failure = issue(&mut order).await.unwrap_err();
    assert_eq!(failure.step, Step::Download);
}

#[tokio::test]
async fn a_processing_order_is_left_alone_as_long_as_the_ca_asks() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let date = "Mon, 23 Nov 2026 12:00:10 GMT";
    let cases =
        [(Some("10"), Some(10)), (Some(date), Some(10)), (Some("soon"), None), (None, None)];
    for (header, expected) in cases {
        let mut order = order(&session).await;
        order.challenges().await.unwrap();
        order.respond().await.unwrap();
        order.wait_ready(pending()).await.unwrap();
        let body = json!({ "status": "processing", "authorizations": [], "finalize": ca.url });
        let path = order.url().trim_start_matches(&ca.url).replace("order", "finalize");
        ca.once(&path, move |_| {
            let noon = Some("Mon, 23 Nov 2026 12:00:00 GMT");
            let reply = Reply::json(200, &body.to_string()).header("date", noon);
            reply.header("retry-after", header)
        });
        order.finalize(b"csr").await.unwrap();
        assert_eq!(order.status(), Status::Processing);
        assert_eq!(order.asked, expected.map(Duration::from_secs), "{header:?}");
    }
}

#[tokio::test]
async fn an_order_that_takes_too_long_goes_on_in_the_next_cycle() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let mut order = order(&session).await;
    order.challenges().await.unwrap();
    order.respond().await.unwrap();
    order.wait_ready(pending()).await.unwrap();
    let body = json!({ "status": "processing", "authorizations": [], "finalize": ca.url });
    let processing = move |_: &_| Reply::json(200, &body.to_string());
    ca.on("/finalize/0", processing.clone());
    ca.on("/order/0", processing);
    order.finalize(b"csr").await.unwrap();
    order.deadline = Some(Instant::now() + Duration::from_millis(100));
    let failure = order.wait_certificate().await.unwrap_err();
    assert_eq!((failure.class, failure.step), (FailureClass::Retry, Step::Finalize));
    assert!(!failure.try_other_issuer);
    order.asked = Some(Duration::from_secs(3600));
    let failure = order.wait_certificate().await.unwrap_err();
    let at = ca.now().after(Duration::from_secs(3600));
    assert_eq!(failure.class, FailureClass::NotBefore { at });

    let Resumed::Order(mut order) = session.order(order.url()).await.unwrap() else {
        panic!("gone")
    };
    let body = json!({ "status": "valid", "authorizations": [], "finalize": ca.url,
        "certificate": format!("{}/cert/0", ca.url) });
    ca.on("/order/0", move |_| Reply::json(200, &body.to_string()));
    ca.seen();
    assert_eq!(issue(&mut order).await.unwrap(), CHAIN);
    assert_eq!(ca.requests(), ["POST /order/0", "POST /cert/0"]);
}

#[tokio::test]
async fn the_listener_s_hint_makes_the_look_come_sooner() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let mut order = order(&session).await;
    order.challenges().await.unwrap();
    order.respond().await.unwrap();
    let before = std::time::Instant::now();
    order.asked = None;
    order.wait_ready(std::future::ready(())).await.unwrap();
    assert!(before.elapsed() >= AFTER_SERVED);
}

#[tokio::test]
async fn orders_run_side_by_side_on_one_session() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    ca.seen();
    let mut jobs = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let session = session.clone();
        jobs.spawn(async move {
            let mut order = order(&session).await;
            issue(&mut order).await.unwrap();
        });
    }
    while let Some(done) = jobs.join_next().await {
        done.unwrap();
    }
    let seen = ca.requests();
    let fetched = seen.iter().filter(|request| *request == "HEAD /nonce").count();
    assert!(fetched <= 50, "{fetched}");
    assert!(seen.len() <= 50 * 9, "{}", seen.len());
}
