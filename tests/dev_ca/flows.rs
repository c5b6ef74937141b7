//! What a good client does, with instant-acme.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use certkeep::cert::{Leaf, check_issued};
use certkeep::dev_ca::{DevCa, DevCaError, Options, Resource, Scheme};
use certkeep::name;
use certkeep::pem;
use certkeep::secret::Secret;
use certkeep::time::Clock as _;
use instant_acme::{
    Account, AuthorizationStatus, ExternalAccountKey, Identifier, NewAccount, NewOrder,
    OrderStatus, RevocationReason, RevocationRequest,
};
use rcgen::PublicKeyData as _;

use crate::support::{RETRY, TestClock, World, csr, dns};

#[tokio::test]
async fn a_certificate_is_issued_over_https_and_over_http() {
    for scheme in [Scheme::Https, Scheme::Http] {
        let world = World::new(Options { scheme, ..Options::default() }).await;
        let account = world.account().await;
        let names = dns(&["a.test", "b.test"]);
        let (key, chain) = world.issue(&account, &NewOrder::new(&names)).await;

        let chain = pem::certificates(chain.as_bytes()).unwrap();
        assert_eq!(chain.len(), 2, "the root is left out");
        let asked = ["a.test", "b.test"].map(|n| name::Identifier::parse(n).unwrap()).into();
        let now = world.clock.now();
        let leaf = check_issued(&chain, &key.subject_public_key_info(), &asked, now).unwrap();
        assert_eq!(leaf.lifetime(), Duration::from_secs(90 * 86_400));
        assert!(leaf.not_before <= now);
        let issued = world.ca.issued();
        assert_eq!(issued.len(), 1);
        assert_eq!(issued[0].leaf, leaf);
        assert_eq!(issued[0].account, account.id());

        let hosts: Vec<_> = world.web.seen.lock().unwrap().iter().map(|s| s.0.clone()).collect();
        assert_eq!(hosts.len(), 2);
        assert!(hosts.contains(&"a.test".to_owned()) && hosts.contains(&"b.test".to_owned()));
        let requests = world.ca.requests();
        assert_eq!(requests[0].resource, Resource::Directory);
        assert!(requests.iter().all(|request| request.status < 300), "{requests:#?}");
        world.ca.stop().await;
    }
}

#[tokio::test]
async fn rustls_trusts_what_was_issued() {
    let world = World::new(Options { intermediates: 3, ..Options::default() }).await;
    let account = world.account().await;
    let (_, chain) = world.issue(&account, &NewOrder::new(&dns(&["a.test"]))).await;
    let chain = pem::certificates(chain.as_bytes()).unwrap();
    assert_eq!(chain.len(), 4);
    let root = pem::certificates(world.ca.root_pem().as_bytes()).unwrap();
    let anchor = webpki::anchor_from_trusted_cert(&root[0]).unwrap();
    let leaf = webpki::EndEntityCert::try_from(&chain[0]).unwrap();
    let now = Duration::from_secs(world.clock.now().as_seconds().try_into().unwrap());
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &[anchor],
        &chain[1..],
        rustls_pki_types::UnixTime::since_unix_epoch(now),
        webpki::KeyUsage::server_auth(),
        None,
        None,
    )
    .unwrap();
    leaf.verify_is_valid_for_subject_name(&"a.test".try_into().unwrap()).unwrap();
}

#[tokio::test]
async fn a_profile_decides_the_lifetime() {
    let profiles = BTreeMap::from([
        ("default".to_owned(), Duration::from_secs(86_400)),
        ("minute".to_owned(), Duration::from_secs(60)),
    ]);
    let world = World::new(Options { profiles, ..Options::default() }).await;
    let account = world.account().await;
    let offered: BTreeSet<_> = account.profiles().map(|profile| profile.name.to_owned()).collect();
    assert!(offered.iter().eq(["default", "minute"]), "{offered:?}");
    for (profile, seconds) in [(None, 86_400), (Some("minute"), 60)] {
        let names = dns(&["a.test"]);
        let mut new = NewOrder::new(&names);
        if let Some(profile) = profile {
            new = new.profile(profile);
        }
        let (_, chain) = world.issue(&account, &new).await;
        let leaf = Leaf::from_pem(chain.as_bytes()).unwrap();
        assert_eq!(leaf.lifetime(), Duration::from_secs(seconds), "{profile:?}");
    }
}

#[tokio::test]
async fn an_address_is_validated_and_certified() {
    let world = World::new(Options::default()).await;
    let account = world.account().await;
    let address = Identifier::Ip(Ipv4Addr::new(192, 0, 2, 1).into());
    let (_, chain) = world.issue(&account, &NewOrder::new(&[address])).await;
    let leaf = Leaf::from_pem(chain.as_bytes()).unwrap();
    assert_eq!(leaf.identifiers, [name::Identifier::parse("192.0.2.1").unwrap()].into());
    assert_eq!(world.web.seen.lock().unwrap()[0].0, "192.0.2.1");
}

#[tokio::test]
async fn an_external_account_is_required_and_checked() {
    let mac = vec![7; 32];
    let eab = BTreeMap::from([("kid-1".to_owned(), Secret::new(mac.clone()))]);
    let world = World::new(Options { eab, ..Options::default() }).await;
    let new =
        NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
    let cases = [
        (None, Some("externalAccountRequired")),
        (Some(ExternalAccountKey::new("kid-2".to_owned(), &mac)), Some("unauthorized")),
        (Some(ExternalAccountKey::new("kid-1".to_owned(), &[8; 32])), Some("unauthorized")),
        (Some(ExternalAccountKey::new("kid-1".to_owned(), &mac)), None),
    ];
    for (number, (key, expected)) in cases.into_iter().enumerate() {
        let builder = Account::builder_with_http(Box::new(world.http()));
        let made = builder.create(&new, world.ca.directory().to_owned(), key.as_ref()).await;
        let error = made.map(|_| ()).map_err(|error| error.to_string());
        match expected {
            None => assert_eq!(error, Ok(()), "case {number}"),
            Some(kind) => assert!(error.unwrap_err().contains(kind), "case {number}"),
        }
    }
}

#[tokio::test]
async fn an_account_lives_and_dies() {
    let world = World::new(Options::default()).await;
    let mut account = world.account().await;
    account.update_contacts(&["mailto:ops@a.test"]).await.unwrap();
    let id = account.id().to_owned();
    drop(account.update_key().await.unwrap());
    assert_eq!(account.id(), id);
    let names = dns(&["a.test"]);
    let (_, chain) = world.issue(&account, &NewOrder::new(&names)).await;
    let der = pem::certificates(chain.as_bytes()).unwrap().remove(0);
    let reason = Some(RevocationReason::Superseded);
    account.revoke(&RevocationRequest { certificate: &der, reason }).await.unwrap();
    assert_eq!(world.ca.issued()[0].revoked, Some(4));
    let again = RevocationRequest { certificate: &der, reason: None };
    let error = account.revoke(&again).await.unwrap_err().to_string();
    assert!(error.contains("alreadyRevoked"), "{error}");
    account.clone().deactivate().await.unwrap();
    let error = account.new_order(&NewOrder::new(&names)).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("unauthorized"), "{error}");
}

#[tokio::test]
async fn a_deactivated_authorization_ends_its_order() {
    let world = World::new(Options::default()).await;
    let account = world.account().await;
    let mut order = account.new_order(&NewOrder::new(&dns(&["a.test"]))).await.unwrap();
    {
        let mut authorizations = order.authorizations();
        let mut authorization = authorizations.next().await.unwrap().unwrap();
        let state = authorization.deactivate().await.unwrap();
        assert_eq!(state.status, AuthorizationStatus::Deactivated);
    }
    assert_eq!(order.refresh().await.unwrap().status, OrderStatus::Invalid);
}

#[tokio::test]
async fn an_order_expires_before_its_authorizations() {
    let world = World::new(Options::default()).await;
    let account = world.account().await;
    let names = dns(&["a.test"]);
    let mut order = account.new_order(&NewOrder::new(&names)).await.unwrap();
    world.clock.forward(Duration::from_secs(1800));
    world.respond(&mut order).await;
    assert_eq!(order.poll_ready(&RETRY).await.unwrap(), OrderStatus::Ready);
    world.clock.forward(Duration::from_secs(1801));
    let (_, csr) = csr(&["a.test".to_owned()]);
    let error = order.finalize_csr(&csr).await.unwrap_err().to_string();
    assert!(error.contains("orderNotReady"), "{error}");
    assert_eq!(order.refresh().await.unwrap().status, OrderStatus::Invalid);
}

#[tokio::test]
async fn a_ca_that_would_be_reachable_or_absurd_does_not_start() {
    let day = Duration::from_secs(86_400);
    let profiles = |lifetime| BTreeMap::from([("default".to_owned(), lifetime)]);
    let cases = [
        Options { listen: "0.0.0.0:0".parse().unwrap(), ..Options::default() },
        Options { listen: "[::]:0".parse().unwrap(), ..Options::default() },
        Options { listen: "192.0.2.1:0".parse().unwrap(), ..Options::default() },
        Options { default_profile: "other".to_owned(), ..Options::default() },
        Options { profiles: profiles(Duration::ZERO), ..Options::default() },
        Options { profiles: profiles(Duration::from_millis(1500)), ..Options::default() },
        Options { profiles: profiles(day * 365 * 11), ..Options::default() },
        Options { intermediates: 0, ..Options::default() },
        Options { intermediates: 6, ..Options::default() },
    ];
    for (number, options) in cases.into_iter().enumerate() {
        let started = DevCa::start(options, TestClock::real()).await;
        assert!(!matches!(started, Ok(_) | Err(DevCaError::Bind { .. })), "case {number}");
    }
}

#[tokio::test]
async fn a_stopped_or_dropped_ca_frees_its_port() {
    for drops in [false, true] {
        let world = World::new(Options::default()).await;
        let address = world.ca.address();
        // A connection that is open must not keep it.
        let _open = tokio::net::TcpStream::connect(address).await.unwrap();
        if drops {
            drop(world.ca);
        } else {
            let limit = Duration::from_secs(10);
            tokio::time::timeout(limit, world.ca.stop()).await.unwrap();
        }
        let closed = async {
            while tokio::net::TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), closed).await.unwrap();
    }
}
