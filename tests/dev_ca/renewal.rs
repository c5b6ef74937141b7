//! Renewal information, and orders that replace a certificate.

use std::collections::BTreeMap;
use std::time::Duration;

use certkeep::cert::Leaf;
use certkeep::dev_ca::{Options, Suggestion};
use certkeep::time::{Clock as _, Timestamp};
use instant_acme::{CertificateIdentifier, NewOrder};
use serde_json::{Value, json};

use crate::support::{Answered, Raw, World, answered, dns};

#[tokio::test]
async fn the_window_is_around_two_thirds_of_the_lifetime() {
    // Lifetime, half of the window, and Retry-After.
    let cases = [(5, 1, 1), (60, 1, 6), (1000, 10, 100), (90 * 86_400, 77_760, 21_600)];
    for (lifetime, half, wait) in cases {
        let profiles = BTreeMap::from([("default".to_owned(), Duration::from_secs(lifetime))]);
        let world = World::new(Options { profiles, ..Options::default() }).await;
        let leaf = issue(&world, &["a.test"]).await;
        let answer = renewal_info(&world, &id(&leaf)).await;
        let (start, end) = window(&answer.json());
        let centre = leaf.not_after.before(Duration::from_secs(lifetime) / 3);
        let half = Duration::from_secs(half);
        assert_eq!(start.as_seconds(), centre.before(half).as_seconds(), "{lifetime} s");
        assert_eq!(end.as_seconds(), centre.after(half).as_seconds(), "{lifetime} s");
        assert_eq!(answer.header("retry-after"), wait.to_string(), "{lifetime} s");
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_to_be_renewed_at_once() {
    let world = World::new(Options::default()).await;
    let leaf = issue(&world, &["a.test"]).await;
    assert!(world.ca.revoke(leaf.ari_id.as_ref().unwrap()));
    let (start, end) = window(&renewal_info(&world, &id(&leaf)).await.json());
    assert!(start < end && end < world.clock.now());
}

#[tokio::test]
async fn a_suggested_window_is_answered_as_it_is() {
    let world = World::new(Options::default()).await;
    let leaf = issue(&world, &["a.test"]).await;
    let (start, end) = (Timestamp::from_seconds(2000), Timestamp::from_seconds(1000));
    let explanation_url = Some("https://a.test/incident".to_owned());
    let suggestion = Suggestion { start, end, explanation_url };
    assert!(world.ca.suggest_renewal(leaf.ari_id.as_ref().unwrap(), suggestion));
    let answer = renewal_info(&world, &id(&leaf)).await.json();
    assert_eq!(window(&answer), (start, end));
    assert_eq!(answer["explanationURL"], "https://a.test/incident");
}

#[tokio::test]
async fn an_unknown_certificate_has_no_window() {
    let world = World::new(Options::default()).await;
    let cases = [("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE", 404), ("nonsense", 400), ("a=.b=", 400)];
    for (id, expected) in cases {
        let answer = renewal_info(&world, id).await;
        assert_eq!(answer.outcome(), (expected, "malformed".to_owned()), "{id}");
    }
}

#[tokio::test]
async fn a_certificate_is_replaced_once_by_its_own_account() {
    let world = World::new(Options::default()).await;
    let client = Raw::new(&world).await;
    let account = world.account().await;
    let (_, chain) = world.issue(&account, &NewOrder::new(&dns(&["a.test", "b.test"]))).await;
    let leaf = Leaf::from_pem(chain.as_bytes()).unwrap();
    let id = id(&leaf);
    let order = |name: &str, replaces: &str| {
        json!({ "identifiers": [{ "type": "dns", "value": name }], "replaces": replaces })
            .to_string()
    };
    let refused = client.post("newOrder", &order("a.test", &id)).await;
    assert_eq!(refused.outcome(), (403, "unauthorized".to_owned()));
    let unknown = client.post("newOrder", &order("a.test", "AAAA.AAAA")).await;
    assert_eq!(unknown.outcome(), (404, "malformed".to_owned()));

    let ari = leaf.ari_id.as_ref().unwrap();
    let known = CertificateIdentifier::new(
        ari.key_identifier.as_slice().into(),
        ari.serial.as_slice().into(),
    );
    let elsewhere = dns(&["c.test"]);
    let error = account.new_order(&NewOrder::new(&elsewhere).replaces(known.clone())).await;
    assert!(error.err().unwrap().to_string().contains("malformed"));

    let names = dns(&["b.test"]);
    let replace = NewOrder::new(&names).replaces(known);
    let mut first = account.new_order(&replace).await.unwrap();
    let second = account.new_order(&replace).await.err().unwrap().to_string();
    assert!(second.contains("alreadyReplaced"), "a pending order counts: {second}");

    // An order that fails gives the certificate free again.
    first.authorizations().next().await.unwrap().unwrap().deactivate().await.unwrap();
    world.issue(&account, &replace).await;
    assert_eq!(world.ca.issued()[1].replaces.as_ref(), Some(&id));
    let third = account.new_order(&replace).await.err().unwrap().to_string();
    assert!(third.contains("alreadyReplaced"), "{third}");
}

async fn issue(world: &World, names: &[&str]) -> Leaf {
    let account = world.account().await;
    let (_, chain) = world.issue(&account, &NewOrder::new(&dns(names))).await;
    Leaf::from_pem(chain.as_bytes()).unwrap()
}

fn id(leaf: &Leaf) -> String {
    leaf.ari_id.as_ref().unwrap().to_string()
}

async fn renewal_info(world: &World, id: &str) -> Answered {
    let client = Raw::without_account(world).await;
    let url = format!("{}/{id}", client.url("renewalInfo"));
    answered(client.http.get(url).send().await.unwrap()).await
}

fn window(answer: &Value) -> (Timestamp, Timestamp) {
    let moment = |name: &str| answer["suggestedWindow"][name].as_str().unwrap().parse().unwrap();
    (moment("start"), moment("end"))
}
