//! Renewals under a real server's feet.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::time::Instant;

use support::client::Load;
use support::nginx::{Nginx, nginx};
use support::pair::Pair;
use support::pebble::{Pebble, pebble};
use support::site::Site;
use support::{PATIENCE, program, wait_until};

/// A host whose nginx started on a placeholder
struct Host {
    ca: Pebble,
    site: Site,
    pair: Pair,
    nginx: Nginx,
}

fn host(site: impl Fn(&Pebble) -> Site) -> Host {
    let ca = pebble().start();
    let site = site(&ca);
    let pair = Pair { fullchain: site.tls().join("site.pem"), key: site.tls().join("site.key") };
    pair.placeholder("a.test");
    let nginx = nginx(&pair.fullchain, &pair.key)
        .with_webroot((ca.ip(), support::free_port(ca.ip())).into(), site.webroot())
        .start();
    Host { ca, site, pair, nginx }
}

impl Host {
    /// Configure the certificate, with this `check` and this `reload`
    fn configure(&self, check: &str, reload: &str) {
        self.site.configure(&format!(
            "site:\n  names: [a.test]\n  files:\n  - {{ path: TLS/site.pem, content: fullchain }}\n  \
             - {{ path: TLS/site.key, content: key, mode: \"0600\" }}\n  deploy:\n    \
             check: {check}\n    reload: {reload}\n    verify: [{{ endpoint: \"a.test:443\", \
             connect: \"{}\", within: 10s }}]\n",
            self.nginx.address()
        ));
    }

    fn configure_well(&self) {
        self.configure(&self.nginx.check(), &self.nginx.reload());
    }

    #[track_caller]
    fn assert_serves_what_is_on_disk(&self) {
        assert_eq!(self.nginx.serves(), self.pair.leaf().fingerprint);
    }
}

#[test]
fn nginx_serves_the_first_certificate() {
    let host = host(Site::new);
    host.configure_well();
    let before = host.nginx.serves();
    // A placeholder that signed itself is no certificate worth keeping.
    host.site.certkeep(&["renew"]).succeeds();
    assert_ne!(host.nginx.serves(), before);
    host.assert_serves_what_is_on_disk();
    host.pair.assert_leads_to(&host.ca.root());
    let status = host.site.status("site");
    assert_eq!((&status["state"], &status["verified"]), (&"live".into(), &true.into()), "{status}");
}

#[test]
fn a_renewal_under_load_fails_no_handshake_and_ends_with_the_new_leaf_alone() {
    let host = host(Site::new);
    host.configure_well();
    host.site.certkeep(&["renew", "--force"]).succeeds();
    let old = host.nginx.serves();
    let load = Load::start(2, host.nginx.address(), "a.test");
    let mut live = Instant::now();
    for _ in 0..3 {
        host.site.certkeep(&["renew", "--force"]).succeeds();
        live = Instant::now();
    }
    let new = host.pair.leaf().fingerprint;
    wait_until("the clients go on", PATIENCE, || (live.elapsed().as_millis() > 500).then_some(()));
    let seen = load.stop();
    assert!(
        seen.failures.is_empty(),
        "{} of {}: {:?}",
        seen.failures.len(),
        seen.leaves.len(),
        seen.failures
    );
    assert!(seen.leaves.iter().any(|(_, leaf)| *leaf == old), "the load began too late");
    assert_eq!(seen.after(live), [new], "{} handshakes", seen.leaves.len());
}

#[test]
fn nginx_answers_the_challenge_from_a_webroot() {
    let ca = pebble().start();
    let site = Site::new(&ca).answering_by_webroot();
    let pair = Pair::in_dir(&site.tls().join("placeholder"));
    std::fs::create_dir(site.tls().join("placeholder")).unwrap();
    pair.placeholder("a.test");
    let _nginx =
        nginx(&pair.fullchain, &pair.key).with_webroot(ca.http01(), site.webroot()).start();
    site.configure_one(&["a.test", "b.test"]);
    site.renew();
    site.pair().assert_sound();
    let left: Vec<_> = walk(&site.webroot());
    assert!(left.is_empty(), "left behind in the webroot: {left:?}");
}

/// Every file below a directory
fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn a_configuration_that_somebody_else_broke_leaves_the_old_pair_in_force() {
    let host = host(Site::new);
    host.configure_well();
    host.site.certkeep(&["renew", "--force"]).succeeds();
    let old = host.nginx.serves();
    host.nginx.break_settings();
    let output = host.site.certkeep(&["renew", "--force"]).exits(1);
    output.says(&["this_is_no_directive"]);
    assert_eq!(host.nginx.serves(), old);
    assert_eq!(host.pair.leaf().fingerprint, old, "the files hold what is served");
    assert_ne!(host.site.state_of("site"), "live");
    let issued = host.ca.issued();
    host.nginx.repair_settings();
    host.site.certkeep(&["deploy"]).succeeds();
    host.assert_serves_what_is_on_disk();
    assert_ne!(host.nginx.serves(), old);
    assert_eq!(host.ca.issued(), issued, "a failed deployment is retried without an order");
}

#[test]
fn a_reload_that_does_nothing_ends_as_installed() {
    let host = host(Site::new);
    host.configure(&host.nginx.check(), &format!("[{}]", program("true").display()));
    let before = host.nginx.serves();
    host.site.certkeep(&["renew", "--force"]).exits(1);
    assert_eq!(host.nginx.serves(), before);
    assert_eq!(host.site.state_of("site"), "installed");
    assert_eq!(host.ca.issued(), 1);
}

#[test]
fn a_reload_that_comes_late_is_waited_for() {
    let host = host(Site::new);
    let script = host.site.path().join("late");
    let pid = host.nginx.pid_file();
    support::write(
        &script,
        format!("#!/bin/sh\n(sleep 2; kill -HUP $(cat {})) >/dev/null 2>&1 &\n", pid.display()),
    );
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    host.configure(&host.nginx.check(), &format!("[{}]", script.display()));
    host.site.certkeep(&["renew", "--force"]).succeeds();
    host.assert_serves_what_is_on_disk();
}

#[test]
fn taking_over_files_changes_nothing_that_is_served() {
    let host = host(Site::new);
    host.configure_well();
    host.site.certkeep(&["renew"]).succeeds();
    let before = host.nginx.serves();
    // Flat files and no state: as another client leaves them, or a careless backup.
    host.pair.flatten();
    host.site.lose_state();
    let mode = |path: &std::path::Path| {
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions())
    };
    host.site.certkeep(&["renew"]).succeeds();
    assert_eq!(host.nginx.serves(), before, "what was there is good and stays");
    assert_eq!(host.pair.leaf().fingerprint, before);
    assert_eq!(host.ca.issued(), 1, "what is there is not ordered again");
    assert_eq!(mode(&host.pair.key) & 0o077, 0, "nobody else may read the key");
    host.pair.assert_sound();
}

#[test]
fn the_original_comes_back_on_request() {
    let host = host(Site::new);
    host.configure_well();
    host.site.certkeep(&["renew", "--force"]).succeeds();
    let first = host.nginx.serves();
    host.site.certkeep(&["renew", "--force"]).succeeds();
    assert_ne!(host.nginx.serves(), first);
    host.site.certkeep(&["rollback", "site"]).succeeds();
    assert_eq!(host.nginx.serves(), first);
    host.pair.assert_sound();
}

#[test]
fn regular_files_are_kept_where_they_are_asked_for() {
    let host = host(Site::new);
    host.site.configure(&format!(
        "site:\n  names: [a.test]\n  copy: true\n  files:\n  \
         - {{ path: TLS/site.pem, content: fullchain }}\n  \
         - {{ path: TLS/site.key, content: key }}\n  deploy:\n    check: {}\n    reload: {}\n    \
         verify: [{{ endpoint: \"a.test:443\", connect: \"{}\" }}]\n",
        host.nginx.check(),
        host.nginx.reload(),
        host.nginx.address()
    ));
    host.site.certkeep(&["renew", "--force"]).succeeds();
    for path in [&host.pair.fullchain, &host.pair.key] {
        assert!(std::fs::symlink_metadata(path).unwrap().is_file(), "{}", path.display());
    }
    host.assert_serves_what_is_on_disk();
    host.pair.assert_sound();
}

#[test]
fn challenges_come_through_a_proxy_that_passes_the_host_on() {
    let ca = pebble().start();
    let own = (ca.ip(), support::free_port(ca.ip())).into();
    let site = Site::new(&ca).listening_on(own);
    site.configure_one(&["a.test"]);
    let pair = Pair::in_dir(&site.tls());
    pair.placeholder("a.test");
    let start =
        |settings| nginx(&pair.fullchain, &pair.key).with_proxy(ca.http01(), own, settings).start();
    let proxy = start("");
    site.certkeep(&["renew"]).exits(1).says(&["Host"]);
    drop(proxy);
    let _proxy = start("proxy_set_header Host $host;");
    site.certkeep(&["renew", "--force"]).succeeds();
}
