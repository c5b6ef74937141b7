//! The compiled binary, killed at any moment.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use support::pair::Pair;
use support::pebble::{Pebble, pebble};
use support::site::Site;
use support::{PATIENCE, program, wait_until};

/// How often a renewal is killed
fn rounds() -> usize {
    if std::env::var_os("CERTKEEP_TESTS").is_some() { 1000 } else { 200 }
}

/// A part of a span, by chance
fn part(span: Duration) -> Duration {
    let drawn = RandomState::new().hash_one(Instant::now());
    Duration::from_micros(drawn % (1 + u64::try_from(span.as_micros()).unwrap()))
}

/// How the pair looks to a server at any moment
#[track_caller]
fn assert_pair_is_sound(pair: &Pair) {
    if pair.fullchain.exists() || pair.key.exists() {
        pair.assert_sound();
    }
}

/// Kill renewals at random moments, and let each be finished by the next
fn survive(ca: &Pebble, site: &Site, pair: &Pair) {
    site.certkeep(&["renew", "--force"]).succeeds();
    let begun = Instant::now();
    site.certkeep(&["renew", "--force"]).succeeds();
    let usual = begun.elapsed();
    let mut killed = 0;
    for round in 0..rounds() {
        let issued = ca.issued();
        let moment = Instant::now() + part(usual);
        let mut renewal = site.certkeep(&["renew", "--force"]).spawn();
        wait_until("the moment has come", PATIENCE, || (Instant::now() >= moment).then_some(()));
        renewal.signal(Signal::KILL);
        killed += usize::from(renewal.finish().signal.is_some());
        assert_pair_is_sound(pair);
        let rest = site.certkeep(&["renew"]).succeeds();
        assert_eq!(site.state_of("site"), "live", "round {round}: {rest}");
        pair.assert_sound();
        let orders = ca.issued() - issued;
        assert!(orders <= 1, "round {round}: {orders} certificates for one renewal\n{rest}");
    }
    // A kill after the end kills nothing; most moments are before it.
    assert!(killed * 2 > rounds(), "only {killed} of {} renewals were killed", rounds());
    assert!(left_over(&site.state()).is_empty(), "{:?}", left_over(&site.state()));
}

/// Temporary files and records of unfinished work in the state directory
fn left_over(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() {
                left_over(&path)
            } else if name == "order.json" || name.contains("tmp") || name.contains(".corrupt-") {
                vec![path]
            } else {
                Vec::new()
            }
        })
        .collect()
}

#[test]
fn a_renewal_killed_at_any_moment_is_finished_by_the_next() {
    let ca = pebble().start();
    let site = Site::new(&ca);
    site.configure_one(&["a.test"]);
    survive(&ca, &site, &site.pair());
}

#[test]
fn links_at_any_paths_are_never_mixed_by_a_kill() {
    let ca = pebble().start();
    let site = Site::new(&ca);
    for folder in ["certs", "keys"] {
        std::fs::create_dir(site.tls().join(folder)).unwrap();
    }
    site.configure(
        "site:\n  names: [a.test]\n  files:\n  \
         - { path: TLS/certs/site.pem, content: fullchain }\n  \
         - { path: TLS/keys/site.key, content: key }",
    );
    let pair = Pair {
        fullchain: site.tls().join("certs/site.pem"),
        key: site.tls().join("keys/site.key"),
    };
    survive(&ca, &site, &pair);
}

#[test]
fn a_first_issuance_killed_at_any_moment_places_one_order() {
    let ca = pebble().start();
    for round in 0..rounds() / 10 {
        let site = Site::new(&ca);
        site.configure_one(&["a.test"]);
        let (orders, issued) = (ca.orders(), ca.issued());
        let moment = Instant::now() + part(Duration::from_millis(400));
        let mut first = site.certkeep(&["renew"]).spawn();
        wait_until("the moment has come", PATIENCE, || (Instant::now() >= moment).then_some(()));
        first.signal(Signal::KILL);
        let first = first.finish();
        assert_pair_is_sound(&site.pair());
        site.renew();
        site.pair().assert_sound();
        let issued = ca.issued() - issued;
        assert_eq!(issued, 1, "round {round}: {first}");
        // An order whose URL never arrived cannot be found again.
        assert!(ca.orders() - orders <= 2, "round {round}: {first}");
    }
}

/// Under the mask of the units, a directory is closed until it is given its mode
#[test]
fn a_kill_before_a_directory_has_its_mode_closes_no_server_out() {
    let ca = pebble().start();
    let files =
        "files: [{ path: TLS/x.pem, content: fullchain }, { path: TLS/x.key, content: key }]";
    for (layout, made, beside) in [
        (files, vec![("state/deployed/site", 0o711), ("state/deployed/site/default", 0o711)], 2),
        ("dir: TLS/site", vec![("tls/site", 0o755)], 1),
    ] {
        for moment in 1.. {
            assert!(moment < 100, "it sets modes without end");
            let site = Site::new(&ca);
            site.configure(&format!("site: {{ names: [a.test], {layout} }}"));
            // strace counts each thread by itself: the one that installs is to be the first.
            std::fs::create_dir_all(site.state().join("deployed")).unwrap();
            let strike = format!("inject=fchmod:signal=KILL:when={moment}");
            let strace = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=fchmod", "-e", &strike];
            let strace = [program("strace").into()].into_iter().chain(strace.map(OsString::from));
            let first = site.certkeep_under(strace, &["renew"]).masked().run();
            let story = format!("{layout}, mode {moment}: {first}");
            site.certkeep(&["renew"]).masked().succeeds();
            for (dir, mode) in &made {
                let found = std::fs::metadata(site.path().join(dir)).unwrap().permissions().mode();
                assert_eq!(found & 0o7777, *mode, "{dir}, {story}");
            }
            assert_eq!(std::fs::read_dir(site.tls()).unwrap().count(), beside, "{story}");
            if first.code == Some(0) {
                assert!(moment > made.len(), "only {story}");
                break;
            }
        }
    }
}

#[test]
fn an_agent_killed_at_any_moment_goes_on() {
    let ca = pebble().start();
    let site = Site::new(&ca);
    site.configure_one(&["a.test"]);
    for _ in 0..10 {
        let moment = Instant::now() + part(Duration::from_millis(500));
        let mut agent = site.start(&["run"]);
        wait_until("the moment has come", PATIENCE, || (Instant::now() >= moment).then_some(()));
        agent.kill();
        assert_pair_is_sound(&site.pair());
    }
    let mut agent = site.start(&["run"]);
    wait_until("the certificate is live", PATIENCE, || {
        (site.pair().fullchain.exists() && site.state_of("site") == "live").then_some(())
    });
    assert_eq!(ca.issued(), 1);
    assert_eq!(agent.terminate(PATIENCE).code(), Some(0), "{}", agent.log());
}
