//! The peers and the tests' own instruments, without certkeep: an instrument that cannot show a
//! failure proves nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::time::Instant;

use support::client::Load;
use support::nginx::nginx;
use support::pair::Pair;
use support::pebble::pebble;
use support::{PATIENCE, folder, wait_until};

fn placeholders(folder: &std::path::Path, name: &str) -> Pair {
    std::fs::create_dir_all(folder).unwrap();
    let pair = Pair::in_dir(folder);
    pair.placeholder(name);
    pair
}

#[test]
fn pebble_starts_and_forgets_everything_when_restarted() {
    let mut ca = pebble().with_intermediates(3).start();
    let before = ca.root();
    assert!(ca.requests().is_empty(), "{:?}", ca.requests());
    ca.restart();
    assert_ne!(before, ca.root());
    assert_eq!((ca.requests().len(), ca.orders(), ca.issued()), (0, 0, 0));
}

#[test]
fn two_pebbles_do_not_disturb_each_other() {
    let (one, other) = (pebble().start(), pebble().start());
    assert_ne!(one.directory(), other.directory());
    assert_ne!(one.root(), other.root());
}

#[test]
fn a_reload_under_load_fails_no_handshake_and_is_seen() {
    let folder = folder();
    let pair = placeholders(folder.path(), "a.test");
    let server = nginx(&pair.fullchain, &pair.key).start();
    let old = pair.leaf().fingerprint;
    assert_eq!(server.serves(), old);
    let load = Load::start(2, server.address(), "a.test");
    pair.placeholder("a.test");
    let new = pair.leaf().fingerprint;
    server.reload_by_hand();
    wait_until("nginx serves the new leaf", PATIENCE, || (server.serves() == new).then_some(()));
    let switched = Instant::now();
    wait_until("the clients go on", PATIENCE, || {
        (switched.elapsed().as_millis() > 300).then_some(())
    });
    let seen = load.stop();
    assert!(seen.failures.is_empty(), "{:?}", seen.failures);
    assert!(seen.leaves.iter().any(|(_, leaf)| *leaf == old));
    assert!(seen.after(switched).contains(&new));
}

#[test]
fn the_clients_notice_a_server_that_is_gone() {
    let folder = folder();
    let pair = placeholders(folder.path(), "a.test");
    let server = nginx(&pair.fullchain, &pair.key).start();
    let load = Load::start(1, server.address(), "a.test");
    drop(server);
    wait_until("time passes", PATIENCE, {
        let begun = Instant::now();
        move || (begun.elapsed().as_millis() > 200).then_some(())
    });
    assert!(!load.stop().failures.is_empty());
}

#[test]
fn nginx_does_not_load_what_is_broken() {
    let folder = folder();
    let pair = placeholders(folder.path(), "a.test");
    let server = nginx(&pair.fullchain, &pair.key).start();
    server.break_settings();
    server.reload_by_hand();
    wait_until("nginx refuses", PATIENCE, || {
        server.error_log().contains("this_is_no_directive").then_some(())
    });
    server.repair_settings();
    pair.assert_sound();
}

#[test]
#[should_panic(expected = "do not match")]
fn openssl_notices_a_key_of_another_certificate() {
    let folder = folder();
    let pair = placeholders(&folder.path().join("one"), "a.test");
    let other = placeholders(&folder.path().join("other"), "a.test");
    Pair { key: other.key, ..pair }.assert_sound();
}
