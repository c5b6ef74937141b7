//! Misbehaviour on request: that it happens, as often as was asked for, and then ends.

use std::time::Duration;

use certkeep::cert::{CertError, check_issued};
use certkeep::dev_ca::{Answer, Fault, Flaw, Options, ProblemType, Resource, RetryAfter, Waiting};
use certkeep::name::Identifier;
use certkeep::pem;
use certkeep::time::Clock as _;
use instant_acme::{NewOrder, OrderStatus};
use rcgen::PublicKeyData as _;
use serde_json::json;

use crate::support::{RETRY, Raw, World, csr, dns};

#[tokio::test]
async fn half_of_the_nonces_are_refused_and_all_is_well() {
    let world = World::new(Options {
        faults: vec![Fault::RejectNonces { percent: 50 }],
        ..Options::default()
    })
    .await;
    let account = world.account().await;
    for _ in 0..5 {
        world.issue(&account, &NewOrder::new(&dns(&["a.test"]))).await;
    }
    let requests = world.ca.requests();
    let refused = requests.iter().filter(|request| request.status == 400).count();
    assert!(refused > 15, "{refused} of {}", requests.len());
    world.ca.clear_faults();
    world.issue(&account, &NewOrder::new(&dns(&["a.test"]))).await;
    let after = world.ca.requests().into_iter().skip(requests.len());
    assert_eq!(after.filter(|request| request.status == 400).count(), 0);
}

#[tokio::test]
async fn an_answer_replaces_the_resource_as_often_as_asked() {
    let world = World::new(Options::default()).await;
    let client = Raw::new(&world).await;
    let answer =
        Answer::problem(ProblemType::RateLimited, "slow down").with_header("retry-after", "7");
    world.ca.inject(Fault::Answer { to: Resource::NewOrder, times: 2, answer });
    let order = json!({ "identifiers": [{ "type": "dns", "value": "a.test" }] }).to_string();
    for _ in 0..2 {
        let answer = client.post("newOrder", &order).await;
        assert_eq!(answer.outcome(), (429, "rateLimited".to_owned()));
        assert_eq!(answer.header("retry-after"), "7");
        assert!(!answer.header("replay-nonce").is_empty());
    }
    assert_eq!(client.post("newOrder", &order).await.status, 201);
    let page = Answer::text(502, "text/html", "<h1>Bad Gateway</h1>");
    world.ca.inject(Fault::Answer { to: Resource::Any, times: 1, answer: page });
    let answer = client.http.get(world.ca.directory()).send().await.unwrap();
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.text().await.unwrap(), "<h1>Bad Gateway</h1>");
}

#[tokio::test]
async fn a_withheld_answer_is_to_a_request_that_was_processed() {
    let world = World::new(Options::default()).await;
    let client = Raw::new(&world).await;
    world.ca.inject(Fault::HangUp { on: Resource::NewOrder, times: 1 });
    let url = client.url("newOrder");
    let order = json!({ "identifiers": [{ "type": "dns", "value": "a.test" }] }).to_string();
    let body = crate::support::sign(&client.key, &client.header(&url).await, &order).to_string();
    let request = client.http.post(&url).header("content-type", "application/jose+json");
    assert!(request.body(body).send().await.is_err());
    let orders = format!("{}/orders", client.kid.clone().unwrap());
    let list = client.post(&orders, "").await.json();
    assert_eq!(list["orders"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn processing_stays_for_the_looks_asked_for_in_both_forms() {
    let forms = [(RetryAfter::Seconds(3), "3"), (RetryAfter::Date(Duration::from_secs(9)), " GMT")];
    for (form, expected) in forms {
        let world = World::new(Options::default()).await;
        let client = Raw::new(&world).await;
        world.ca.inject(Fault::AuthorizationsValid { times: 1 });
        let what = Waiting::Order;
        let stay = Fault::StayProcessing { what, times: 1, polls: 2, retry_after: Some(form) };
        world.ca.inject(stay);
        let new = json!({ "identifiers": [{ "type": "dns", "value": "a.test" }] }).to_string();
        let order = client.post("newOrder", &new).await;
        assert_eq!(order.json()["status"], "ready", "authorizations are valid already");
        let url = order.header("location");
        let (_, csr) = csr(&["a.test".to_owned()]);
        let csr = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, csr);
        let mut answers =
            vec![client.post(&format!("{url}/finalize"), &json!({ "csr": csr }).to_string()).await];
        for _ in 0..3 {
            answers.push(client.post(url, "").await);
        }
        let states: Vec<_> = answers.iter().map(|a| a.json()["status"].clone()).collect();
        assert_eq!(states, ["processing", "processing", "processing", "valid"]);
        for answer in &answers[..3] {
            let wait = answer.header("retry-after");
            assert!(wait.ends_with(expected), "{wait}");
        }
        assert_eq!(answers[3].header("retry-after"), "");
    }
}

#[tokio::test]
async fn a_slow_authorization_becomes_valid_in_the_end() {
    let world = World::new(Options::default()).await;
    let account = world.account().await;
    let what = Waiting::Authorization;
    world.ca.inject(Fault::StayProcessing { what, times: 1, polls: 3, retry_after: None });
    let mut order = account.new_order(&NewOrder::new(&dns(&["a.test"]))).await.unwrap();
    world.respond(&mut order).await;
    for _ in 0..3 {
        assert_eq!(order.refresh().await.unwrap().status, OrderStatus::Pending);
    }
    assert_eq!(order.poll_ready(&RETRY).await.unwrap(), OrderStatus::Ready);
}

#[tokio::test]
async fn valid_authorizations_are_used_again() {
    let world = World::new(Options::default()).await;
    let account = world.account().await;
    let names = dns(&["a.test"]);
    world.issue(&account, &NewOrder::new(&names)).await;
    let mut order = account.new_order(&NewOrder::new(&names)).await.unwrap();
    assert_eq!(order.state().status, OrderStatus::Pending);
    world.ca.inject(Fault::ReuseAuthorizations);
    let mut order = account.new_order(&NewOrder::new(&names)).await.unwrap();
    assert_eq!(order.state().status, OrderStatus::Ready);
    world.clock.forward(Duration::from_secs(3600));
    let mut order = account.new_order(&NewOrder::new(&names)).await.unwrap();
    assert_eq!(order.state().status, OrderStatus::Pending, "an hour later they are not valid");
}

#[tokio::test]
async fn a_refused_name_is_named() {
    let world = World::new(Options::default()).await;
    let client = Raw::new(&world).await;
    world.ca.inject(Fault::RejectIdentifier(Identifier::parse("b.test").unwrap()));
    let both = json!({ "identifiers": [
        { "type": "dns", "value": "a.test" }, { "type": "dns", "value": "b.test" },
    ] });
    let problem = client.post("newOrder", &both.to_string()).await;
    assert_eq!(problem.problem(), "rejectedIdentifier");
    let subproblems = problem.json()["subproblems"].clone();
    assert_eq!(subproblems.as_array().unwrap().len(), 1);
    assert_eq!(subproblems[0]["identifier"]["value"], "b.test");
}

#[tokio::test]
async fn tokens_and_urls_are_what_was_asked_for() {
    let world = World::new(Options::default()).await;
    let client = Raw::new(&world).await;
    let text = "../../../../etc/cron.d/x".to_owned();
    world.ca.inject(Fault::Token { times: 1, text: text.clone() });
    let new = json!({ "identifiers": [{ "type": "dns", "value": "a.test" }] }).to_string();
    let order = client.post("newOrder", &new).await.json();
    let authorization = client.post(order["authorizations"][0].as_str().unwrap(), "").await;
    assert_eq!(authorization.json()["challenges"][0]["token"], text);
    // What no client should ask for must not hurt the CA.
    let challenge = authorization.json()["challenges"][0]["url"].as_str().unwrap().to_owned();
    assert_eq!(client.post(&challenge, "{}").await.status, 200);

    let origin = "https://ca.invalid".to_owned();
    world.ca.inject(Fault::ForeignUrls { from: Resource::NewOrder, times: 1, origin });
    let order = client.post("newOrder", &new).await;
    assert!(order.header("location").starts_with("https://ca.invalid/acme/order/"));
    let text = order.json();
    assert!(text["finalize"].as_str().unwrap().starts_with("https://ca.invalid/acme/order/"));
    let next = client.post("newOrder", &new).await;
    assert!(next.header("location").starts_with("https://127.0.0.1:"));
}

#[tokio::test]
async fn a_failed_issuance_leaves_an_invalid_order_with_its_error() {
    let world = World::new(Options::default()).await;
    let account = world.account().await;
    let problem = ProblemType::Caa;
    let detail = "a record forbids it".to_owned();
    world.ca.inject(Fault::IssuanceFails { times: 1, problem, detail });
    world.ca.inject(Fault::AuthorizationsValid { times: 1 });
    let mut order = account.new_order(&NewOrder::new(&dns(&["a.test"]))).await.unwrap();
    let (_, csr) = csr(&["a.test".to_owned()]);
    order.finalize_csr(&csr).await.unwrap();
    let state = order.refresh().await.unwrap();
    assert_eq!(state.status, OrderStatus::Invalid);
    let error = state.error.as_ref().unwrap();
    assert_eq!(error.r#type.as_deref(), Some(ProblemType::Caa.urn()));
}

#[tokio::test]
async fn a_flawed_certificate_is_not_what_was_ordered() {
    let world = World::new(Options { intermediates: 2, ..Options::default() }).await;
    let account = world.account().await;
    let other = Identifier::parse("other.test").unwrap();
    type Expected = fn(&CertError) -> bool;
    let flaws: [(Flaw, Expected); 8] = [
        (Flaw::ForeignKey, |e| matches!(e, CertError::ForeignKey)),
        (Flaw::OtherName(other.clone()), |e| matches!(e, CertError::Names { .. })),
        (Flaw::ExtraName(other), |e| matches!(e, CertError::Names { .. })),
        (Flaw::ExpiredLeaf, |e| matches!(e, CertError::Expired { position: 1, .. })),
        (Flaw::ExpiredIntermediate, |e| matches!(e, CertError::Expired { position: 2, .. })),
        (Flaw::ForeignIntermediate, |e| matches!(e, CertError::Unlinked { position: 1 })),
        (Flaw::LeafIsCa, |e| matches!(e, CertError::Role { position: 1 })),
        (Flaw::Text("nonsense".to_owned()), |e| matches!(e, CertError::Pem(_))),
    ];
    let names = dns(&["a.test"]);
    let ordered = [Identifier::parse("a.test").unwrap()].into();
    for (flaw, expected) in flaws {
        world.ca.inject(Fault::Certificate { times: 1, flaw: flaw.clone() });
        let (key, text) = world.issue(&account, &NewOrder::new(&names)).await;
        let spki = key.subject_public_key_info();
        let checked = pem::certificates(text.as_bytes())
            .map_err(CertError::from)
            .and_then(|chain| check_issued(&chain, &spki, &ordered, world.clock.now()));
        let error = checked.expect_err(&format!("{flaw:?}"));
        assert!(expected(&error), "{flaw:?}: {error}");
    }
    world.ca.inject(Fault::Certificate { times: 1, flaw: Flaw::NoIntermediate });
    let (_, text) = world.issue(&account, &NewOrder::new(&names)).await;
    assert_eq!(pem::certificates(text.as_bytes()).unwrap().len(), 1);
    let (_, text) = world.issue(&account, &NewOrder::new(&names)).await;
    assert_eq!(pem::certificates(text.as_bytes()).unwrap().len(), 3, "and then all is well");
}

#[tokio::test]
async fn a_ca_that_forgets_knows_no_account() {
    let world = World::new(Options::default()).await;
    let client = Raw::new(&world).await;
    world.ca.forget();
    let answer = client.post(&client.kid.clone().unwrap(), "").await;
    assert_eq!(answer.outcome(), (400, "accountDoesNotExist".to_owned()));
}
