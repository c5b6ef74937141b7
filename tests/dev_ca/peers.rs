//! The peers of the demo.

use std::path::Path;
use std::time::Duration;

use certkeep::cert::Fingerprint;
use certkeep::dev_ca::{Hammer, Options, TlsServer};
use certkeep::pem;
use instant_acme::{Account, NewOrder};

use crate::support::{World, dns};

#[tokio::test]
async fn a_reload_under_load_loses_no_handshake() {
    let world = World::new(Options::default()).await;
    let account = world.account().await;
    let directory = tempfile::tempdir().unwrap();
    let first = install(&world, &account, directory.path()).await;
    let server = TlsServer::start(directory.path()).await.unwrap();
    let hammer = Hammer::start(server.address(), "a.test", world.ca.root_pem()).unwrap();
    reach(&hammer, first, 20).await;
    let second = install(&world, &account, directory.path()).await;
    reach(&hammer, first, hammer.counts().ok + 10).await;
    assert!(!hammer.counts().by_fingerprint.contains_key(&second), "not before the reload");
    server.reload().unwrap();
    reach(&hammer, second, 20).await;
    let counts = hammer.counts();
    assert_eq!((counts.failed, counts.failures), (0, Vec::new()));
    assert_eq!(counts.ok, counts.by_fingerprint.values().sum::<u64>());
    assert!(server.handshakes() >= counts.ok);
}

#[tokio::test]
async fn a_pair_that_does_not_fit_is_not_served() {
    let world = World::new(Options::default()).await;
    let account = world.account().await;
    let directory = tempfile::tempdir().unwrap();
    assert!(TlsServer::start(directory.path()).await.is_err(), "nothing is there");
    let served = install(&world, &account, directory.path()).await;
    let server = TlsServer::start(directory.path()).await.unwrap();
    let stray = rcgen::KeyPair::generate().unwrap().serialize_pem();
    write(&directory.path().join("privkey.pem"), &stray);
    assert!(server.reload().is_err());
    let hammer = Hammer::start(server.address(), "a.test", world.ca.root_pem()).unwrap();
    reach(&hammer, served, 1).await;
}

#[tokio::test]
async fn a_handshake_that_proves_nothing_is_counted_as_failed() {
    let world = World::new(Options::default()).await;
    let account = world.account().await;
    let directory = tempfile::tempdir().unwrap();
    install(&world, &account, directory.path()).await;
    let server = TlsServer::start(directory.path()).await.unwrap();
    let stranger = World::new(Options::default()).await;
    let cases = [("b.test", world.ca.root_pem()), ("a.test", stranger.ca.root_pem())];
    for (name, root) in cases {
        let hammer = Hammer::start(server.address(), name, root).unwrap();
        let failed = async {
            while hammer.counts().failed == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), failed).await.unwrap();
        let counts = hammer.counts();
        assert_eq!(counts.ok, 0, "{name}");
        assert!(counts.failures[0].contains("certificate"), "{:?}", counts.failures);
    }
}

async fn install(world: &World, account: &Account, directory: &Path) -> Fingerprint {
    let (key, chain) = world.issue(account, &NewOrder::new(&dns(&["a.test"]))).await;
    write(&directory.join("fullchain.pem"), &chain);
    write(&directory.join("privkey.pem"), &key.serialize_pem());
    Fingerprint::of(&pem::certificates(chain.as_bytes()).unwrap()[0])
}

#[expect(clippy::disallowed_methods, reason = "the server reads only when it is told to")]
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// Wait until so many handshakes saw the leaf
async fn reach(hammer: &Hammer, leaf: Fingerprint, count: u64) {
    let reached = async {
        while hammer.counts().by_fingerprint.get(&leaf).is_none_or(|seen| *seen < count) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap();
}
