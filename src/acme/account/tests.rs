use std::time::Duration;

use serde_json::json;

use super::*;
use crate::acme::fake::{Ca, Reply};
use crate::failure::FailureClass;

fn record(ca: &Ca, contact: &[&str]) -> AccountRecord {
    let contact: Vec<_> = contact.iter().map(ToString::to_string).collect();
    new_account_record(&format!("{}/dir", ca.url), None, &contact, ca.now()).unwrap()
}

fn eab() -> Eab {
    Eab::decode("kid-1", &Secret::new("c2VjcmV0LXNlY3JldC1zZWNyZXQ".to_owned())).unwrap()
}

#[tokio::test]
async fn an_account_is_registered_once_and_then_costs_one_request() {
    let ca = Ca::start().await;
    let transport = ca.transport();
    let record = record(&ca, &["mailto:a@a.test"]);
    let opened = Session::open(&transport, &record, None).await.unwrap();
    assert_eq!(opened.standing, Standing::Registered);
    assert_eq!(opened.record.url.as_deref(), Some(&*format!("{}/acct/1", ca.url)));
    let seen = ca.seen();
    let payload = json!({ "termsOfServiceAgreed": true, "contact": ["mailto:a@a.test"] });
    assert_eq!(seen[2].payload, payload);
    assert!(seen.iter().all(|seen| seen.agent.starts_with("certkeep/")), "{seen:?}");
    let again = Session::open(&transport, &opened.record, None).await.unwrap();
    assert_eq!((again.standing, again.record), (Standing::Known, opened.record));
    assert_eq!(ca.requests(), ["GET /dir"]);
}

#[tokio::test]
async fn a_ca_that_is_busy_before_there_is_an_account_is_left_alone_as_long_as_it_asks() {
    let ca = Ca::start().await;
    ca.on("/nonce", |_| Reply::json(503, "").header("retry-after", Some("3600")));
    let failure = Session::open(&ca.transport(), &record(&ca, &[]), None).await.unwrap_err();
    let at = ca.now().after(Duration::from_secs(3600));
    assert_eq!(failure.class, FailureClass::NotBefore { at }, "{failure}");
    assert!(failure.try_other_issuer);
}

#[tokio::test]
async fn a_crash_before_the_url_was_written_loses_no_account() {
    let ca = Ca::start().await;
    let record = record(&ca, &[]);
    Session::open(&ca.transport(), &record, None).await.unwrap();
    let again = Session::open(&ca.transport(), &record, None).await.unwrap();
    assert_eq!(again.standing, Standing::Found);
    assert!(again.record.url.is_some());
}

#[tokio::test]
async fn an_external_account_is_bound_to_the_key() {
    let ca = Ca::start().await;
    ca.edit_directory(|d| d["meta"] = json!({ "externalAccountRequired": true }));
    let record = record(&ca, &[]);
    let refused = Session::open(&ca.transport(), &record, None).await.unwrap_err();
    assert!(matches!(refused.class, FailureClass::NeedsOperator { .. }), "{refused}");
    assert_eq!(ca.requests(), ["GET /dir"]);

    Session::open(&ca.transport(), &record, Some(&eab())).await.unwrap();
    let seen = ca.seen();
    let binding = &seen[2].payload["externalAccountBinding"];
    let decode = |name: &str| URL_SAFE_NO_PAD.decode(binding[name].as_str().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&decode("protected")).unwrap();
    let url = format!("{}/new-account", ca.url);
    assert_eq!(header, json!({ "alg": "HS256", "kid": "kid-1", "url": url }));
    let bound: Value = serde_json::from_slice(&decode("payload")).unwrap();
    assert_eq!(bound, seen[2].header["jwk"]);
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"secret-secret-secret");
    let text = |name: &str| binding[name].as_str().unwrap().to_owned();
    let input = format!("{}.{}", text("protected"), text("payload"));
    aws_lc_rs::hmac::verify(&key, input.as_bytes(), &decode("signature")).unwrap();
}

#[tokio::test]
async fn a_used_up_binding_finds_the_account_that_it_made() {
    let ca = Ca::start().await;
    let record = record(&ca, &[]);
    Session::open(&ca.transport(), &record, Some(&eab())).await.unwrap();
    ca.once("/new-account", |_| Reply::problem(401, "unauthorized", "not awaiting binding"));
    let again = Session::open(&ca.transport(), &record, Some(&eab())).await.unwrap();
    assert_eq!(again.standing, Standing::Found);

    let stranger = new_account_record(&record.directory, None, &[], ca.now()).unwrap();
    ca.once("/new-account", |_| Reply::problem(401, "unauthorized", "not awaiting binding"));
    let refused = Session::open(&ca.transport(), &stranger, Some(&eab())).await.unwrap_err();
    assert!(matches!(refused.class, FailureClass::NeedsOperator { .. }), "{refused}");
    assert!(refused.summary.as_str().contains("not awaiting binding"), "{refused}");
}

#[tokio::test]
async fn refused_nonces_do_not_stop_a_registration() {
    let ca = Ca::start().await;
    for _ in 0..20 {
        ca.once("/new-account", |_| Reply::problem(400, "badNonce", "old"));
    }
    Session::open(&ca.transport(), &record(&ca, &[]), None).await.unwrap();
}

#[test]
fn a_mac_key_is_taken_in_every_base64() {
    for text in ["_-8_", "/+8/", " _-8_\n", "_-8_====", "\t/+8/\r\n"] {
        let eab = Eab::decode(" kid\n", &Secret::new(text.to_owned())).unwrap();
        assert_eq!(
            (eab.key_id.as_str(), eab.hmac_key.expose().as_slice()),
            ("kid", &[255, 239, 63][..])
        );
    }
    for text in ["", "   ", "hunter two", "a"] {
        let failure = Eab::decode("kid", &Secret::new(text.to_owned())).unwrap_err();
        assert!(text.trim().len() < 2 || !failure.to_string().contains(text), "{failure}");
    }
    assert!(!format!("{:?}", eab()).contains("115"), "{:?}", eab());
}

#[tokio::test]
async fn a_rollover_survives_a_crash_on_either_side_of_it() {
    let ca = Ca::start().await;
    let opened = Session::open(&ca.transport(), &record(&ca, &[]), None).await.unwrap();
    let prepared = next_key(&opened.record).unwrap();
    assert_ne!(prepared.next_key.as_ref().unwrap(), &prepared.key);

    // Before the CA heard of it: the old key stays.
    let before = Session::open(&ca.transport(), &prepared, None).await.unwrap();
    assert_eq!(before.record, opened.record);

    ca.seen();
    let rolled = opened.session.roll_over(&prepared).await.unwrap();
    assert_eq!(Some(&rolled.key), prepared.next_key.as_ref());
    assert_eq!(rolled.next_key, None);
    let seen = ca.seen().pop().unwrap();
    assert_eq!(seen.header["kid"], opened.session.account_url());
    let inner = URL_SAFE_NO_PAD.decode(seen.payload["payload"].as_str().unwrap()).unwrap();
    let inner: Value = serde_json::from_slice(&inner).unwrap();
    let old = AccountKey::parse(&opened.record.key).unwrap().jwk();
    assert_eq!(inner, json!({ "account": opened.session.account_url(), "oldKey": old }));

    // After the CA did it and before we wrote it down: the new key is found.
    let new = AccountRecord { key: rolled.key.clone(), url: None, ..opened.record.clone() };
    Session::open(&ca.transport(), &new, None).await.unwrap();
    let after = Session::open(&ca.transport(), &prepared, None).await.unwrap();
    assert_eq!(after.record, rolled);
}

#[tokio::test]
async fn what_the_ca_refuses_is_not_taken_for_done() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    session.update_contacts(&["mailto:b@b.test".to_owned()]).await.unwrap();
    assert_eq!(ca.seen().pop().unwrap().payload, json!({ "contact": ["mailto:b@b.test"] }));
    session.revoke(b"der", RevocationReason::Superseded).await.unwrap();
    assert_eq!(ca.seen().pop().unwrap().payload, json!({ "certificate": "ZGVy", "reason": 4 }));
    session.deactivate().await.unwrap();
    assert_eq!(ca.seen().pop().unwrap().payload, json!({ "status": "deactivated" }));

    ca.on("/revoke", |_| Reply::problem(400, "alreadyRevoked", "d"));
    session.revoke(b"der", RevocationReason::Unspecified).await.unwrap();
    ca.on("/revoke", |_| Reply::problem(403, "unauthorized", "d"));
    let refused = session.revoke(b"der", RevocationReason::Unspecified).await.unwrap_err();
    assert_eq!((refused.step, refused.problem.unwrap().as_str()), (Step::Revoke, "unauthorized"));
    ca.on("/acct/1", |_| Reply::problem(403, "unauthorized", "d"));
    session.deactivate().await.unwrap_err();
    session.update_contacts(&[]).await.unwrap_err();
}

#[tokio::test]
async fn a_deactivated_account_is_not_used() {
    let ca = Ca::start().await;
    let record = AccountRecord { deactivated_at: Some(ca.now()), ..record(&ca, &[]) };
    Session::open(&ca.transport(), &record, None).await.unwrap_err();
    assert!(ca.seen().is_empty());
}
