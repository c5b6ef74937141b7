//! Rehearsals: of a whole renewal where nothing counts, and of a deployment with what is there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use certkeep::clock::SystemClock;
use certkeep::dev_ca::{DevCa, Fault, Options, Waiting};
use rustix::process::Signal;
use serde_json::{Value, json};

use support::pebble::{Pebble, pebble};
use support::site::Site;
use support::{Entry, PATIENCE, free_port, tree, wait_until, write};

/// A CA, the same for tests, and a host that knows both
fn both() -> (Pebble, Pebble, Site) {
    let (real, staging) = (pebble().start(), pebble().start());
    let site = at(&real, &staging.directory(), &staging.ca_file());
    (real, staging, site)
}

fn at(real: &Pebble, directory: &str, ca_file: &Path) -> Site {
    let ca_file = ca_file.display();
    let more = format!("staging: {{ directory: \"{directory}\", ca_file: {ca_file} }}");
    Site::with_issuer(real, &more)
}

/// A certificate for a directory, for symlinks and for regular files, each with a server that
/// writes down what it is told; challenges are answered where this CA looks
fn three(site: &Site, answers: &Pebble) -> String {
    let trace = site.path().join("trace");
    let told = |name| format!("[sh, -c, 'echo $0 >> {}', {name}]", trace.display());
    let deploy = |name| format!("deploy: {{ check: {}, reload: {} }}", told(name), told(name));
    format!(
        "site:
  names: [a.test]
  challenge: {{ http-01: {{ listen: \"{}\" }} }}
  targets:
    - {{ name: dir, dir: TLS/dir, {} }}
    - name: links
      files: [{{ path: TLS/links.pem, content: combined, mode: \"0640\", group: 4711 }}]
      {}
    - name: copies
      copy: true
      files:
        - {{ path: TLS/copy.pem, content: fullchain }}
        - {{ path: TLS/copy.key, content: key }}
      {}",
        answers.http01(),
        deploy("dir"),
        deploy("links"),
        deploy("copies"),
    )
}

/// All that is live or remembered, but for the account at the CA for tests
fn untouched(site: &Site, staging: &Pebble) -> BTreeMap<PathBuf, Entry> {
    let mut all = tree(&site.state());
    all.extend(tree(&site.tls()));
    let host = staging.ip().to_string();
    all.retain(|path, _| !path.to_str().unwrap().contains(&format!("accounts/{host}")));
    all.insert("trace".into(), (0, (0, 0), 0, 0, trace(site).concat().into_bytes()));
    all
}

fn trace(site: &Site) -> Vec<String> {
    let text = std::fs::read_to_string(site.path().join("trace")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn scratch(site: &Site) -> Vec<PathBuf> {
    let all = std::fs::read_dir(site.state()).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.to_str().unwrap().contains("/rehearsal-")).collect()
}

fn accounts(site: &Site) -> usize {
    std::fs::read_dir(site.state().join("accounts")).unwrap().count()
}

#[test]
fn a_whole_renewal_is_rehearsed_and_nothing_live_is_touched() {
    let (real, staging, site) = both();
    site.configure(&three(&site, &real));
    site.renew();
    site.configure(&three(&site, &staging));
    let (before, asked) = (untouched(&site, &staging), real.requests());
    let said = site.certkeep(&["renew", "--rehearse"]).succeeds();
    said.says(&["site: issued by `pebble` at", &staging.directory()]);
    said.says(&["the files of `copies`, `dir`, `links`", "1 of 1 certificate rehearsed well"]);
    said.says(&["not rehearsed:", "which `certkeep deploy --test` rehearses"]);
    assert_eq!((staging.orders(), staging.issued()), (1, 1));
    assert_eq!(real.requests(), asked);
    assert_eq!(untouched(&site, &staging), before);
    assert_eq!(scratch(&site), Vec::<PathBuf>::new());
    let again = site.certkeep(&["--json", "renew", "--rehearse", "site"]).succeeds().json();
    let rehearsed = &again["rehearsals"][0];
    assert_eq!(rehearsed["targets"], json!(["copies", "dir", "links"]), "{again}");
    assert_eq!(rehearsed["directory"], staging.directory(), "{again}");
    assert_eq!(rehearsed["failure"], Value::Null, "{again}");
    assert_eq!(staging.issued(), 2);
    assert_eq!(staging.requests_to("/sign-me-up"), 1, "one account serves all rehearsals");
    assert_eq!((accounts(&site), real.requests()), (2, asked));
    assert_eq!(untouched(&site, &staging), before);
}

#[test]
fn a_rehearsal_can_come_before_everything_else() {
    let (real, staging, site) = both();
    site.configure(&three(&site, &staging));
    site.certkeep(&["renew", "--rehearse"]).succeeds();
    assert_eq!((real.requests().len(), staging.issued()), (0, 1));
    assert!(tree(&site.tls()).is_empty() && trace(&site).is_empty());
    site.certkeep(&["generations", "site"]).succeeds().says(&["no generation is held"]);
    site.configure(&three(&site, &real));
    site.renew();
    assert_eq!((real.issued(), staging.issued()), (1, 1));
}

#[test]
fn a_challenge_that_fails_in_a_rehearsal_is_told_and_not_held_against_a_renewal() {
    let (real, staging, site) = both();
    site.configure(&three(&site, &real));
    site.renew();
    staging.break_lookup("a.test");
    site.configure(&three(&site, &staging));
    let (before, asked) = (untouched(&site, &staging), real.requests());
    let said = site.certkeep(&["renew", "--rehearse"]).exits(1);
    said.says(&["site: failed: authorize:", "a.test", "0 of 1 certificate"]);
    let json = site.certkeep(&["--json", "renew", "--rehearse"]).exits(1).json();
    assert_eq!(json["rehearsals"][0]["failure"]["step"], "authorize", "{json}");
    assert_eq!((untouched(&site, &staging), real.requests()), (before, asked));
    assert_eq!(scratch(&site), Vec::<PathBuf>::new());
    let status = site.status("site");
    assert_eq!((&status["state"], &status["failures"]), (&"live".into(), &0.into()), "{status}");
}

#[test]
fn an_output_that_cannot_be_made_is_told() {
    let (_real, staging, site) = both();
    let wrong = three(&site, &staging).replace("group: 4711", "group: no-such-group");
    site.configure(&wrong);
    let said = site.certkeep(&["renew", "--rehearse"]).exits(1);
    said.says(&["no-such-group", "does not exist"]);
    assert_eq!(staging.orders(), 0, "no order is wasted on it");
}

#[test]
fn a_ca_without_a_directory_for_tests_is_not_rehearsed() {
    let (real, staging) = (pebble().start(), pebble().start());
    let site = Site::new(&real);
    site.configure(&three(&site, &staging));
    let said = site.certkeep(&["renew", "--rehearse"]).exits(1);
    said.says(&["no directory for tests is known of issuer `pebble`", "`staging: https://…`"]);
    assert_eq!(real.requests().len(), 0);
    for other in ["--force", "--dry-run"] {
        site.certkeep(&["renew", "--rehearse", other]).exits(2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rehearsal_that_is_killed_leaves_nothing_after_the_next_start() {
    // A CA that never comes to an end with a validation.
    let what = Waiting::Authorization;
    let endless = Fault::StayProcessing { what, times: 9, polls: u32::MAX, retry_after: None };
    let options = Options { faults: vec![endless], ..Options::default() };
    let staging = DevCa::start(options, Arc::new(SystemClock)).await.unwrap();
    let (real, roots) = (pebble().start(), support::folder());
    let root = roots.path().join("root.pem");
    write(&root, staging.root_pem());
    let site = at(&real, staging.directory(), &root).answering_by_webroot();
    site.configure("site: { names: [a.test], dir: TLS/site }");
    let mut rehearsal = site.certkeep(&["renew", "--rehearse"]).spawn();
    let challenges = site.webroot().join(".well-known/acme-challenge");
    let files = || {
        let files = std::fs::read_dir(&challenges).into_iter().flatten();
        files.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    wait_until("the challenge is published", PATIENCE, || (!files().is_empty()).then_some(()));
    rehearsal.signal(Signal::KILL);
    assert_eq!(rehearsal.finish().signal, Some(9));
    let (dead, left) = (scratch(&site), files());
    assert_eq!((dead.len(), left.len()), (1, 1));
    let mut rehearsal = site.certkeep(&["renew", "--rehearse"]).spawn();
    let alive = wait_until("another challenge is published", PATIENCE, || {
        let files = files();
        (!files.is_empty() && files != left).then(|| scratch(&site))
    });
    assert_eq!((alive.len(), files().len()), (1, 1), "of the dead one nothing is left");
    assert_ne!(alive, dead);
    // What is alive is left alone.
    site.certkeep(&["renew", "--force"]).run();
    assert_eq!(scratch(&site), alive);
    rehearsal.signal(Signal::TERM);
    let said = rehearsal.finish();
    assert_eq!(said.code, Some(1), "{said}");
    said.says(&["stopped by SIGTERM; nothing is left of it"]);
    assert_eq!((scratch(&site).len(), files().len()), (0, 0));
}

#[test]
fn a_deployment_is_rehearsed_at_each_target_with_what_is_there() {
    let (real, staging, site) = both();
    site.configure(&three(&site, &real));
    site.renew();
    let before = (tree(&site.state()), tree(&site.tls()), real.requests());
    let told = trace(&site).len();
    let said = site.certkeep(&["deploy", "--test"]).succeeds();
    for target in ["dir", "links", "copies"] {
        said.says(&[&format!("site ({target}): works, and there is no endpoint to ask")]);
        let of = trace(&site).split_off(told).into_iter().filter(|line| line == target);
        assert_eq!(of.count(), 2, "check and reload of {target}");
    }
    assert_eq!((tree(&site.state()), tree(&site.tls()), real.requests()), before);
    // One target fails, and the others are rehearsed all the same.
    let closed = free_port(staging.ip());
    let endpoint = format!("\"a.test:443\", connect: \"{}:{closed}\", within: 1s", staging.ip());
    let verify =
        format!("name: dir, dir: TLS/dir, deploy: {{ verify: [{{ endpoint: {endpoint} }}],");
    let broken = three(&site, &real).replace("name: dir, dir: TLS/dir, deploy: {", &verify);
    site.configure(&broken);
    let said = site.certkeep(&["deploy", "--test"]).exits(1);
    said.says(&["site (dir): failed: verify:", "site (links): works", "site (copies): works"]);
    assert_eq!((tree(&site.state()), tree(&site.tls()), real.requests()), before);
}

#[test]
fn a_rehearsal_that_is_interrupted_begins_no_further_target() {
    let (_real, _staging, site) = both();
    let (home, held) = (site.path().display(), site.path().join("held"));
    let script = "echo $1 >> $0/trace; while [ -e $0/held ]; do sleep 0.1; done";
    let target = |name: &str| {
        let check = format!("check: [sh, -c, '{script}', {home}, {name}]");
        format!("{{ name: {name}, dir: TLS/{name}, deploy: {{ {check} }} }}")
    };
    let (first, second) = (target("first"), target("second"));
    site.configure(&format!("site: {{ names: [a.test], targets: [{first}, {second}] }}"));
    site.renew();
    write(&held, "");
    let mut rehearsal = site.start(&["deploy", "--test"]);
    wait_until("the first check", PATIENCE, || (trace(&site).len() == 3).then_some(()));
    rehearsal.signal(Signal::TERM);
    wait_until("the signal is heard", PATIENCE, || {
        rehearsal.log().contains("brought to its end").then_some(())
    });
    std::fs::remove_file(&held).unwrap();
    let ended = rehearsal.wait(PATIENCE);
    let said = rehearsal.log();
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(said.contains("site (first): works") && !said.contains("site (second)"), "{said}");
    assert!(said.contains("stopped by SIGTERM; what it had not begun"), "{said}");
    assert_eq!(trace(&site).len(), 3, "{said}");
}

#[test]
fn the_first_deployment_is_rehearsed_with_what_another_client_left() {
    let (real, _staging, site) = both();
    let pair = site.pair();
    std::fs::create_dir_all(pair.fullchain.parent().unwrap()).unwrap();
    site.configure("site: { names: [a.test], dir: TLS/site, deploy: { check: ['true'] } }");
    let said = site.certkeep(&["deploy", "--test"]).exits(1);
    said.says(&["no certificate is installed there yet"]);
    pair.lay_down_another_client_s(&["a.test"], 90 * 86_400, 60 * 86_400);
    site.certkeep(&["deploy", "--test"]).succeeds().says(&["site (default): works"]);
    assert_eq!(real.requests().len(), 0);
}

#[test]
fn what_is_in_force_is_rehearsed_where_a_newer_one_was_refused() {
    let (real, _staging, site) = both();
    let certificate = "site: { names: [a.test], dir: TLS/site, deploy: \
                       { check: [test, '!', -e, TLS/broken] } }";
    site.configure(certificate);
    site.renew();
    write(site.tls().join("broken"), "");
    site.certkeep(&["renew", "--force"]).exits(1);
    std::fs::remove_file(site.tls().join("broken")).unwrap();
    site.certkeep(&["deploy", "--test"]).succeeds().says(&["site (default): works"]);
    assert_eq!(real.issued(), 2);
}
