//! Requests that no good client sends, and servers that no good operator runs.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use certkeep::dev_ca::{Options, Resolve};
use serde_json::{Value, json};

use crate::support::{Answered, Raw, World, answered, csr, jwk, new_key, seal, sign};

#[tokio::test]
async fn a_request_that_is_signed_wrongly_is_refused() {
    let world = World::new(Options::default()).await;
    let client = Raw::new(&world).await;
    let url = client.url("newOrder");
    let order = json!({ "identifiers": [{ "type": "dns", "value": "a.test" }] }).to_string();
    type Change = fn(&mut Value);
    let cases: [(&str, Change, (u16, &str)); 9] = [
        ("good", |_| {}, (201, "")),
        ("no nonce", |h| _ = h.as_object_mut().unwrap().remove("nonce"), (400, "badNonce")),
        ("made-up nonce", |h| h["nonce"] = json!("bm9uY2U"), (400, "badNonce")),
        ("other url", |h| h["url"] = json!("https://ca.invalid/"), (403, "unauthorized")),
        ("no algorithm", |h| h["alg"] = json!("none"), (400, "badSignatureAlgorithm")),
        ("a MAC", |h| h["alg"] = json!("HS256"), (400, "malformed")),
        ("other algorithm", |h| h["alg"] = json!("ES384"), (400, "malformed")),
        ("no account", |h| h["kid"] = json!("https://x/1"), (400, "accountDoesNotExist")),
        ("critical", |h| h["crit"] = json!(["exp"]), (400, "malformed")),
    ];
    for (name, change, expected) in cases {
        let mut header = client.header(&url).await;
        change(&mut header);
        let answer = client.send(&url, sign(&client.key, &header, &order).to_string()).await;
        assert_eq!(answer.outcome(), (expected.0, expected.1.to_owned()), "{name}: {answer:?}");
        assert!(!answer.header("replay-nonce").is_empty(), "{name}");
    }
    let mut header = client.header(&url).await;
    header["jwk"] = jwk(&client.key);
    let answer = client.send(&url, sign(&client.key, &header, &order).to_string()).await;
    assert_eq!(answer.outcome(), (400, "malformed".to_owned()));

    let header = client.header(&url).await;
    let foreign = sign(&new_key(), &header, &order).to_string();
    assert_eq!(client.send(&url, foreign).await.outcome(), (400, "malformed".to_owned()));
    let mut tampered = sign(&client.key, &header, &order);
    tampered["payload"] = json!(URL_SAFE_NO_PAD.encode("{}"));
    let answer = client.send(&url, tampered.to_string()).await;
    assert_eq!(answer.outcome(), (400, "malformed".to_owned()));
}

#[tokio::test]
async fn a_request_cannot_be_sent_twice() {
    let world = World::new(Options::default()).await;
    let client = Raw::new(&world).await;
    let url = client.kid.clone().unwrap();
    let body = sign(&client.key, &client.header(&url).await, "").to_string();
    assert_eq!(client.send(&url, body.clone()).await.status, 200);
    assert_eq!(client.send(&url, body).await.outcome(), (400, "badNonce".to_owned()));
}

#[tokio::test]
async fn a_request_in_the_wrong_form_is_refused() {
    let world = World::new(Options::default()).await;
    let client = Raw::new(&world).await;
    let url = client.kid.clone().unwrap();
    let body = sign(&client.key, &client.header(&url).await, "").to_string();
    let http = &client.http;
    let typed = |content_type: &str, body: String| {
        http.post(&url).header("content-type", content_type).body(body).send()
    };
    let json = answered(typed("application/json", body.clone()).await.unwrap()).await;
    assert_eq!(json.outcome(), (415, "malformed".to_owned()));
    let huge = format!("{body}{}", " ".repeat(65 * 1024));
    let huge = answered(typed("application/jose+json", huge).await.unwrap()).await;
    assert_eq!(huge.outcome(), (413, "malformed".to_owned()));
    let got = answered(http.get(&url).send().await.unwrap()).await;
    assert_eq!(got.outcome(), (405, "malformed".to_owned()));
    assert_eq!(got.header("allow"), "POST");
    let nowhere = answered(http.get(format!("{url}/x/y")).send().await.unwrap()).await;
    assert_eq!(nowhere.outcome(), (404, "malformed".to_owned()));
    let nonce = answered(http.get(client.url("newNonce")).send().await.unwrap()).await;
    assert_eq!(nonce.status, 204);
    for answer in [json, huge, got, nowhere, nonce] {
        assert!(!answer.header("replay-nonce").is_empty());
        assert!(answer.header("link").ends_with("/directory>;rel=\"index\""));
        assert!(answer.header("cache-control").contains("no-store"));
    }
    let silent = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(world.ca.root_pem().as_bytes()).unwrap()]);
    let anonymous = silent.build().unwrap().post(&url);
    let anonymous = anonymous.header("content-type", "application/jose+json").body(body);
    let anonymous = answered(anonymous.send().await.unwrap()).await;
    assert!(anonymous.text.contains("User-Agent"), "{anonymous:?}");
}

#[tokio::test]
async fn an_account_is_made_once_and_on_terms() {
    let world = World::new(Options::default()).await;
    let client = Raw::without_account(&world).await;
    let agree = |extra: Value| {
        let mut payload = json!({ "termsOfServiceAgreed": true });
        payload.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        payload.to_string()
    };
    let existing = agree(json!({ "onlyReturnExisting": true }));
    let answer = client.post("newAccount", &existing).await;
    assert_eq!(answer.outcome(), (400, "accountDoesNotExist".to_owned()));
    let answer = client.post("newAccount", "{}").await;
    assert_eq!(answer.outcome(), (403, "userActionRequired".to_owned()));
    assert!(
        answer
            .headers
            .get_all("link")
            .iter()
            .any(|link| { link.to_str().unwrap().ends_with("/terms>;rel=\"terms-of-service\"") })
    );
    let contacts = [
        ("tel:+1", "unsupportedContact"),
        ("mailto:nobody", "invalidContact"),
        ("mailto:a@b.test,c@d.test", "invalidContact"),
        ("mailto:a@b.test?x=y", "invalidContact"),
    ];
    for (contact, expected) in contacts {
        let answer = client.post("newAccount", &agree(json!({ "contact": [contact] }))).await;
        assert_eq!(answer.outcome(), (400, expected.to_owned()), "{contact}");
    }
    let first = client.post("newAccount", &agree(json!({ "contact": ["mailto:a@b.test"] }))).await;
    let again = client.post("newAccount", &existing).await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 200));
    assert_eq!(first.header("location"), again.header("location"));
    assert_eq!(again.json()["contact"], json!(["mailto:a@b.test"]));
}

#[tokio::test]
async fn an_order_that_no_ca_takes_is_refused() {
    let world = World::new(Options::default()).await;
    let client = Raw::new(&world).await;
    let one = |kind, value| json!({ "identifiers": [{ "type": kind, "value": value }] });
    let mut dated = one("dns", "a.test");
    dated["notAfter"] = json!("2030-01-01T00:00:00Z");
    let mut profiled = one("dns", "a.test");
    profiled["profile"] = json!("none such");
    let many: Vec<_> =
        (0..101).map(|i| json!({ "type": "dns", "value": format!("a{i}.test") })).collect();
    let cases = [
        (json!({}), "malformed"),
        (json!({ "identifiers": [] }), "malformed"),
        (json!({ "identifiers": many }), "malformed"),
        (one("dns", ""), "malformed"),
        (one("dns", "bücher.test"), "malformed"),
        (one("dns", "a.test."), "malformed"),
        (one("dns", "a_b.test"), "malformed"),
        (one("dns", "*.a.test"), "rejectedIdentifier"),
        (one("ip", "2001:DB8::1"), "malformed"),
        (one("ip", "a.test"), "malformed"),
        (one("email", "a@b.test"), "unsupportedIdentifier"),
        (profiled, "invalidProfile"),
        (dated, "malformed"),
    ];
    for (payload, expected) in cases {
        let answer = client.post("newOrder", &payload.to_string()).await;
        assert_eq!(answer.outcome(), (400, expected.to_owned()), "{payload}");
    }
}

#[tokio::test]
async fn what_belongs_to_another_account_is_out_of_reach() {
    let world = World::new(Options::default()).await;
    let (owner, stranger) = (Raw::new(&world).await, Raw::new(&world).await);
    let (order, answer) = new_order(&owner, &["a.test"]).await;
    let authorization = answer["authorizations"][0].as_str().unwrap().to_owned();
    let challenge = owner.post(&authorization, "").await.json()["challenges"][0]["url"].clone();
    let account = owner.kid.clone().unwrap();
    for url in [order.as_str(), &authorization, challenge.as_str().unwrap(), &account] {
        assert_eq!(owner.post(url, "").await.status, 200, "{url}");
        let answer = stranger.post(url, "").await;
        assert_eq!(answer.outcome(), (403, "unauthorized".to_owned()), "{url}");
        let unknown = format!("{}x", url);
        let answer = owner.post(&unknown, "").await;
        assert_eq!(answer.problem(), if url == account { "unauthorized" } else { "malformed" });
    }
    let finalize = answer["finalize"].as_str().unwrap();
    let payload = json!({ "csr": "AAAA" }).to_string();
    assert_eq!(stranger.post(finalize, &payload).await.outcome().0, 403);
    assert_eq!(owner.post(finalize, &payload).await.problem(), "orderNotReady");
}

#[tokio::test]
async fn a_bad_csr_leaves_the_order_ready() {
    let world = World::new(Options::default()).await;
    let client = Raw::new(&world).await;
    let order = ready_order(&world, &client, &["a.test"]).await;
    let finalize = format!("{order}/finalize");
    let encoded = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        json!({ "csr": URL_SAFE_NO_PAD.encode(csr(&names).1) }).to_string()
    };
    for bad in [encoded(&["b.test"]), encoded(&["a.test", "b.test"]), encoded(&[])] {
        assert_eq!(client.post(&finalize, &bad).await.problem(), "badCSR");
        assert_eq!(client.post(&order, "").await.json()["status"], "ready");
    }
    let answer = client.post(&finalize, &encoded(&["a.test"])).await;
    assert_eq!(answer.json()["status"], "valid", "{answer:?}");
    assert_eq!(client.post(&finalize, &encoded(&["a.test"])).await.problem(), "orderNotReady");
    let stranger = Raw::new(&world).await;
    let url = answer.json()["certificate"].as_str().unwrap().to_owned();
    assert_eq!(stranger.post(&url, "").await.outcome().0, 403);
    let chain = client.post(&url, "").await;
    assert_eq!(chain.header("content-type"), "application/pem-certificate-chain");
}

#[tokio::test]
async fn a_failed_validation_says_why() {
    let world = World::new(Options::default()).await;
    let client = Raw::new(&world).await;
    let port = world.web.port;
    let loops = "Location: /again\r\n";
    world.web.serve_path("/again", 302, loops, "");
    let cases: [(u16, &str, &str, (&str, &str)); 8] = [
        (404, "", "", ("unauthorized", "404")),
        (500, "", "", ("unauthorized", "500")),
        (200, "", "\u{1b}[2Jnonsense", ("incorrectResponse", "nonsense")),
        (200, "", &"x".repeat(9000), ("connection", "limit")),
        (302, loops, "", ("connection", "redirects")),
        (302, "Location: https://a.test/\r\n", "", ("connection", "only http")),
        (302, "Location: http://a.test:1/\r\n", "", ("connection", "port")),
        (302, "", "", ("connection", "nowhere")),
    ];
    for (status, header, body, (kind, detail)) in cases {
        let problem = validate(&world, &client, |_| (status, header.to_owned(), body.to_owned()));
        let problem = problem.await;
        assert_eq!(problem["type"], format!("urn:ietf:params:acme:error:{kind}"), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
        assert!(!problem.to_string().contains('\u{1b}'));
    }
    let kept = validate(&world, &client, |key_authorization| {
        world.web.serve_path("/moved", 200, "", &format!("{key_authorization}\r\n \t"));
        (301, format!("Location: http://other.test:{port}/moved\r\n"), String::new())
    });
    assert_eq!(kept.await, Value::Null, "redirects and trailing white space are fine");
    let hosts = world.web.seen.lock().unwrap();
    assert_eq!(hosts.last().unwrap().0, "other.test");
}

#[tokio::test]
async fn only_loopback_is_ever_connected_to() {
    let world = World::new(Options { resolve: Resolve::System, ..Options::default() }).await;
    let client = Raw::new(&world).await;
    let cases = [
        (("dns", "localhost"), None),
        (("ip", "127.0.0.1"), None),
        (("ip", "192.0.2.1"), Some(("connection", "192.0.2.1 is not loopback"))),
        (("ip", "2001:db8::1"), Some(("connection", "2001:db8::1 is not loopback"))),
        (("dns", "none.invalid"), Some(("dns", "cannot resolve none.invalid"))),
    ];
    for ((kind, value), expected) in cases {
        let identifier = json!({ "type": kind, "value": value });
        let problem = validate_identifier(&world, &client, identifier, |key_authorization| {
            (200, String::new(), key_authorization.to_owned())
        });
        let problem = problem.await;
        let Some((kind, detail)) = expected else {
            assert_eq!(problem, Value::Null, "{value}");
            continue;
        };
        assert_eq!(problem["type"], format!("urn:ietf:params:acme:error:{kind}"), "{value}");
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
    }
}

#[tokio::test]
async fn a_key_change_needs_both_keys() {
    let world = World::new(Options::default()).await;
    let mut client = Raw::new(&world).await;
    let other = Raw::new(&world).await;
    let url = client.url("keyChange");
    let fresh = new_key();
    let account = client.kid.clone().unwrap();
    let payload = json!({ "account": account, "oldKey": jwk(&client.key) });
    let inner = json!({ "alg": "ES256", "url": url, "jwk": jwk(&fresh) });
    type Change = fn(&mut Value, &mut Value);
    let cases: [(&str, Change); 5] = [
        ("other url", |inner, _| inner["url"] = json!("https://x/")),
        ("a nonce", |inner, _| inner["nonce"] = json!("x")),
        ("other account", |_, payload| payload["account"] = json!("https://x/")),
        ("other old key", |_, payload| payload["oldKey"] = jwk(&new_key())),
        ("other signer", |inner, _| inner["jwk"] = jwk(&new_key())),
    ];
    for (name, change) in cases {
        let (mut inner, mut payload) = (inner.clone(), payload.clone());
        change(&mut inner, &mut payload);
        let inner = sign(&fresh, &inner, &payload.to_string()).to_string();
        assert_eq!(client.post("keyChange", &inner).await.problem(), "malformed", "{name}");
    }
    let mut taken = inner.clone();
    taken["jwk"] = jwk(&other.key);
    let taken = sign(&other.key, &taken, &payload.to_string()).to_string();
    let answer = client.post("keyChange", &taken).await;
    assert_eq!(answer.outcome().0, 409);
    assert_eq!(answer.header("location"), other.kid.unwrap());

    let inner = sign(&fresh, &inner, &payload.to_string()).to_string();
    assert_eq!(client.post("keyChange", &inner).await.status, 200);
    assert_eq!(client.post(&account, "").await.problem(), "malformed", "the old key is void");
    client.key = fresh;
    assert_eq!(client.post(&account, "").await.status, 200);
}

#[tokio::test]
async fn a_binding_is_of_the_key_and_the_url_that_are_used() {
    let eab = [("kid-1".to_owned(), certkeep::secret::Secret::new(vec![7; 32]))].into();
    let world = World::new(Options { eab, ..Options::default() }).await;
    let client = Raw::without_account(&world).await;
    let url = client.url("newAccount");
    let mac = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
    let good = json!({ "alg": "HS256", "kid": "kid-1", "url": url });
    let own = jwk(&client.key);
    let changed = |name: &str, value: Value| {
        let mut header = good.clone();
        header[name] = value;
        header
    };
    let cases = [
        (changed("url", json!("https://x/")), own.clone(), (400, "malformed")),
        (changed("nonce", json!("x")), own.clone(), (400, "malformed")),
        (changed("alg", json!("ES256")), own.clone(), (400, "badSignatureAlgorithm")),
        (changed("kid", json!("kid-2")), own.clone(), (403, "unauthorized")),
        (good.clone(), jwk(&new_key()), (400, "malformed")),
        (good.clone(), own, (201, "")),
    ];
    for (header, key, expected) in cases {
        let binding = seal(&header, &key.to_string(), |message| {
            hmac::sign(&mac, message.as_bytes()).as_ref().to_vec()
        });
        let payload = json!({ "termsOfServiceAgreed": true, "externalAccountBinding": binding });
        let answer = client.post("newAccount", &payload.to_string()).await;
        assert_eq!(answer.outcome(), (expected.0, expected.1.to_owned()), "{header}");
    }
}

#[tokio::test]
async fn the_key_of_a_certificate_may_revoke_it() {
    let world = World::new(Options::default()).await;
    let client = Raw::new(&world).await;
    let order = ready_order(&world, &client, &["a.test"]).await;
    let key = new_key();
    let pkcs8 = key.to_pkcs8v1().unwrap();
    let pair = rcgen::KeyPair::try_from(pkcs8.as_ref()).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let csr = URL_SAFE_NO_PAD.encode(params.serialize_request(&pair).unwrap().der());
    let finalize = format!("{order}/finalize");
    let answer = client.post(&finalize, &json!({ "csr": csr }).to_string()).await;
    assert_eq!(answer.json()["status"], "valid", "{answer:?}");
    let chain = world.ca.issued()[0].chain_pem.clone();
    let der = certkeep::pem::certificates(chain.as_bytes()).unwrap().remove(0);
    let payload = |reason: u8| {
        json!({ "certificate": URL_SAFE_NO_PAD.encode(&der), "reason": reason }).to_string()
    };
    let stranger = Raw::new(&world).await;
    assert_eq!(stranger.post("revokeCert", &payload(0)).await.problem(), "unauthorized");
    let mut holder = Raw::without_account(&world).await;
    assert_eq!(holder.post("revokeCert", &payload(0)).await.problem(), "unauthorized");
    holder.key = key;
    assert_eq!(holder.post("revokeCert", &payload(6)).await.problem(), "badRevocationReason");
    assert_eq!(holder.post("revokeCert", &payload(0)).await.status, 200);
    assert_eq!(world.ca.issued()[0].revoked, Some(1), "a key that revokes is known");
}

/// An order with all its authorizations valid
async fn ready_order(world: &World, client: &Raw, names: &[&str]) -> String {
    let (order, answer) = new_order(client, names).await;
    for authorization in answer["authorizations"].as_array().unwrap() {
        let found = client.post(authorization.as_str().unwrap(), "").await.json();
        let problem = prove(world, client, &found, |key_authorization| {
            (200, String::new(), key_authorization.to_owned())
        });
        assert_eq!(problem.await, Value::Null);
    }
    order
}

async fn new_order(client: &Raw, names: &[&str]) -> (String, Value) {
    let identifiers: Vec<_> =
        names.iter().map(|name| json!({ "type": "dns", "value": name })).collect();
    let answer = client.post("newOrder", &json!({ "identifiers": identifiers }).to_string()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    (answer.header("location").to_owned(), answer.json())
}

async fn validate(
    world: &World,
    client: &Raw,
    serve: impl Fn(&str) -> (u16, String, String),
) -> Value {
    let identifier = json!({ "type": "dns", "value": "a.test" });
    validate_identifier(world, client, identifier, serve).await
}

/// Go through a validation and give the challenge's error
async fn validate_identifier(
    world: &World,
    client: &Raw,
    identifier: Value,
    serve: impl Fn(&str) -> (u16, String, String),
) -> Value {
    let payload = json!({ "identifiers": [identifier] }).to_string();
    let order: Answered = client.post("newOrder", &payload).await;
    let authorization = order.json()["authorizations"][0].as_str().unwrap().to_owned();
    let found = client.post(&authorization, "").await.json();
    let problem = prove(world, client, &found, serve).await;
    let after = client.post(order.header("location"), "").await.json();
    if problem.is_null() {
        assert_eq!(after["status"], "ready");
    } else {
        assert_eq!(after["status"], "invalid");
        assert_eq!(after["error"]["type"], problem["type"]);
        assert_eq!(after["error"]["subproblems"][0]["identifier"], identifier);
    }
    problem
}

async fn prove(
    world: &World,
    client: &Raw,
    authorization: &Value,
    serve: impl Fn(&str) -> (u16, String, String),
) -> Value {
    let challenge = &authorization["challenges"][0];
    let token = challenge["token"].as_str().unwrap();
    let thumbprint = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        canonical(&jwk(&client.key)).as_bytes(),
    );
    let key_authorization = format!("{token}.{}", URL_SAFE_NO_PAD.encode(thumbprint));
    let (status, header, body) = serve(&key_authorization);
    world.web.serve(token, status, &header, &body);
    let url = challenge["url"].as_str().unwrap();
    let answer = client.post(url, "{}").await;
    assert!(answer.headers.get_all("link").iter().any(|l| l.to_str().unwrap().contains("up")));
    loop {
        let challenge = client.post(url, "").await.json();
        match challenge["status"].as_str().unwrap() {
            "processing" => {}
            "valid" => return Value::Null,
            _ => return challenge["error"].clone(),
        }
    }
}

fn canonical(jwk: &Value) -> String {
    let text = |name: &str| jwk[name].as_str().unwrap();
    format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, text("x"), text("y"))
}
