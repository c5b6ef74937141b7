//! What is held of a certificate, and the ways back to it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use support::pair::Pair;
use support::pebble::{Pebble, pebble};
use support::site::Site;
use support::{PATIENCE, read, wait_until, write};

/// A certificate for two targets, of which `mail` refuses everything while `TLS/broken` exists
const TWO: &str = "site:
  names: [a.test]
  targets:
    - { name: web, dir: TLS/web }
    - { name: mail, dir: TLS/mail, deploy: { check: [test, '!', -e, TLS/broken] } }";

fn calm(certificates: &str) -> (Pebble, Site) {
    let ca = pebble().start();
    let site = Site::new(&ca);
    site.configure(certificates);
    (ca, site)
}

/// The same with three generations, the newest of them refused by `mail`
fn refused() -> (Pebble, Site) {
    let (ca, site) = calm(TWO);
    site.renew();
    force(&site);
    write(site.tls().join("broken"), "");
    site.certkeep(&["renew", "--force"]).exits(1);
    (ca, site)
}

#[track_caller]
fn force(site: &Site) {
    site.certkeep(&["renew", "--force"]).succeeds();
}

/// The generations, as number and what each is to which target
#[track_caller]
fn generations(site: &Site) -> Vec<(u64, Vec<String>)> {
    let all = site.certkeep(&["--json", "generations", "site"]).succeeds().json();
    assert_eq!((&all["version"], &all["certificate"]), (&1.into(), &"site".into()), "{all}");
    let uses = |generation: &Value| {
        let each = generation["targets"].as_array().unwrap().iter().map(|target| {
            let (name, state) = (target["name"].as_str().unwrap(), &target["state"]);
            let back = target["back_from"].as_u64().map(|from| format!(" from {from}"));
            format!("{name} {}{}", state.as_str().unwrap(), back.unwrap_or_default())
        });
        each.collect()
    };
    let all = all["generations"].as_array().unwrap().iter();
    all.map(|generation| (generation["number"].as_u64().unwrap(), uses(generation))).collect()
}

fn expect(all: &[(u64, &[&str])]) -> Vec<(u64, Vec<String>)> {
    let owned = |uses: &[&str]| uses.iter().map(ToString::to_string).collect();
    all.iter().map(|(number, uses)| (*number, owned(uses))).collect()
}

fn leaf(site: &Site, target: &str) -> String {
    Pair::in_dir(&site.tls().join(target)).leaf().fingerprint.to_string()
}

fn home(site: &Site) -> PathBuf {
    site.state().join("certificates/site")
}

#[test]
fn each_generation_says_whence_it_came_and_what_it_is_to_each_target() {
    let (ca, site) = refused();
    let expected: [(u64, &[&str]); 3] =
        [(3, &["web live", "mail refused"]), (2, &["web previous", "mail in-force"]), (1, &[])];
    assert_eq!(generations(&site), expect(&expected));
    let all = site.certkeep(&["--json", "generations", "site"]).succeeds().json();
    let newest = &all["generations"][0];
    assert_eq!(newest["fingerprint"], leaf(&site, "web"), "{newest}");
    assert_eq!(newest["origin"]["issuer"], "pebble", "{newest}");
    assert_eq!(newest["origin"]["directory"], ca.directory(), "{newest}");
    assert!(newest["origin"]["order"].as_str().unwrap().contains("/my-order/"), "{newest}");
    for member in ["serial", "issuer", "not_before", "not_after", "key_type", "staged_at"] {
        assert!(newest[member].is_string(), "no {member}: {newest}");
    }
    let said = site.certkeep(&["generations", "site"]).succeeds();
    said.says(&["NUMBER", "target `mail`: refused", "    ordered as\n        https://"]);
    said.says(&["3 generations of site"]);
    let wide = said.stdout.lines().find(|line| line.chars().count() > 79);
    assert_eq!(wide, None, "{said}");
    assert!(!said.stdout.contains('\u{1b}'), "{said}");
    write(home(&site).join("generations/000001/key.pem"), "junk");
    site.certkeep(&["generations", "site"]).succeeds().says(&["cannot be used:", "000001"]);
}

#[test]
fn nothing_held_and_what_was_found_are_told_as_they_are() {
    let (_ca, site) = calm("site: { names: [a.test], dir: TLS/site }");
    site.certkeep(&["generations", "site"]).succeeds().says(&["site: no generation is held"]);
    assert!(!site.state().exists());
    site.renew();
    let pair = site.pair();
    pair.flatten();
    site.lose_state();
    // The directory that was switched is of nobody now.
    site.renew();
    let said = site.certkeep(&["generations", "site"]).succeeds();
    said.says(&["found in the files", "the files from before certkeep are kept for target"]);
    let all = site.certkeep(&["--json", "generations", "site"]).succeeds().json();
    assert_eq!(all["originals"], serde_json::json!(["default"]));
    assert!(all["generations"][0]["origin"].is_null(), "{all}");
}

#[test]
fn each_target_goes_back_from_what_it_has_in_force() {
    let (_ca, site) = refused();
    std::fs::remove_file(site.tls().join("broken")).unwrap();
    let all = site.certkeep(&["--json", "generations", "site"]).succeeds().json();
    let print = |number: usize| all["generations"][3 - number]["fingerprint"].clone();
    site.certkeep(&["rollback", "site"]).succeeds().says(&["until there is a newer one than 3"]);
    let expected: [(u64, &[&str]); 3] = [
        (3, &["web previous"]),
        (2, &["web live from 3", "mail previous"]),
        (1, &["mail live from 3"]),
    ];
    assert_eq!(generations(&site), expect(&expected));
    assert_eq!((leaf(&site, "web"), leaf(&site, "mail")), (text(print(2)), text(print(1))));
    site.renew();
    assert_eq!(generations(&site), expect(&expected), "a pass goes forward again");
    site.certkeep(&["rollback", "site", "--to", "3"]).succeeds();
    let expected: [(u64, &[&str]); 3] =
        [(3, &["web live", "mail live"]), (2, &["web previous"]), (1, &["mail previous"])];
    assert_eq!(generations(&site), expect(&expected));
}

fn text(value: Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn a_way_back_that_fails_leads_to_what_was_in_force() {
    let (_ca, site) = refused();
    // What `mail` has in force is 2, and its record is about 3.
    let before = leaf(&site, "mail");
    site.certkeep(&["rollback", "site", "--target", "mail", "--to", "1"]).exits(1);
    assert_eq!(leaf(&site, "mail"), before);
    let expected: [(u64, &[&str]); 3] = [
        (3, &["web live"]),
        (2, &["web previous", "mail in-force"]),
        (1, &["mail refused from 3"]),
    ];
    assert_eq!(generations(&site), expect(&expected));
}

#[test]
fn one_target_goes_back_alone() {
    let (_ca, site) = calm(TWO);
    site.renew();
    force(&site);
    site.certkeep(&["rollback", "site", "--target", "mail"]).succeeds();
    let expected: [(u64, &[&str]); 2] =
        [(2, &["web live", "mail previous"]), (1, &["web previous", "mail live from 2"])];
    assert_eq!(generations(&site), expect(&expected));
    let said = site.certkeep(&["rollback", "site", "--target", "maik"]).exits(2);
    said.says(&["site has no target `maik`", "hint: it has web, mail"]);
    site.certkeep(&["rollback", "site", "--target", "mail"]).exits(1).says(&["no earlier"]);
}

#[test]
fn a_target_without_an_original_keeps_the_others_from_going_back_to_theirs() {
    let (_ca, site) = calm(TWO);
    std::fs::create_dir(site.tls().join("mail")).unwrap();
    Pair::in_dir(&site.tls().join("mail")).placeholder("a.test");
    let placeholder = read(site.tls().join("mail/fullchain.pem"));
    site.renew();
    let live = leaf(&site, "mail");
    let said = site.certkeep(&["rollback", "site", "--to", "original"]).exits(2);
    said.says(&["keeps no original of target `web`"]);
    assert_eq!(leaf(&site, "mail"), live);
    site.certkeep(&["rollback", "site", "--to", "original", "--target", "mail"]).succeeds();
    assert_eq!(read(site.tls().join("mail/fullchain.pem")), placeholder);
}

#[test]
fn what_is_expired_comes_back_under_force_alone() {
    let life = Duration::from_secs(6);
    let ca = pebble().with_profiles(&[("long", life * 10_000), ("short", life)]).start();
    let site = Site::new(&ca);
    let with = |profile: &str| {
        site.configure(&format!("site: {{ names: [a.test], dir: TLS/site, profile: {profile} }}"));
    };
    with("short");
    site.certkeep(&["renew"]).run();
    let end = site.pair().leaf().not_after.as_seconds();
    with("long");
    force(&site);
    let long = site.pair().leaf().fingerprint;
    wait_until("the first one is expired", PATIENCE, || {
        let all = site.certkeep(&["--json", "generations", "site"]).succeeds().json();
        let now: certkeep::time::Timestamp = serde_json::from_value(all["now"].clone()).unwrap();
        (now.as_seconds() > end).then_some(())
    });
    site.certkeep(&["rollback", "site", "--to", "1"]).exits(1).says(&["1 expired at", "--force"]);
    assert_eq!(site.pair().leaf().fingerprint, long);
    let forced = site.certkeep(&["rollback", "site", "--to", "1", "--force"]).run();
    forced.says(&["`run` and `renew` go forward again at once"]);
    assert_ne!(site.pair().leaf().fingerprint, long);
    site.renew();
    assert_eq!(site.pair().leaf().fingerprint, long, "nobody stays on what is expired");
}

#[test]
fn what_is_revoked_comes_back_under_force_alone() {
    let (_ca, site) = calm("site: { names: [a.test], dir: TLS/site }");
    site.renew();
    force(&site);
    site.certkeep(&["revoke", "site", "--reason", "superseded", "--generation", "1"]).succeeds();
    site.certkeep(&["rollback", "site"]).exits(1).says(&["generation 1 is revoked", "--force"]);
    site.certkeep(&["generations", "site"]).succeeds().says(&["    revoked"]);
    site.certkeep(&["rollback", "site", "--force"]).succeeds();
}

#[test]
fn old_generations_go_by_number_and_by_age() {
    let (_ca, site) = calm("site: { names: [a.test], dir: TLS/site, keep: { generations: 1 } }");
    let numbers = || generations(&site).into_iter().map(|(number, _)| number).collect::<Vec<_>>();
    site.renew();
    for _ in 0..4 {
        force(&site);
    }
    assert_eq!(numbers(), [5, 4, 3], "one beside the live one and the previous one");
    site.configure("site: { names: [a.test], dir: TLS/site, keep: { generations: 1, for: 1d } }");
    for _ in 0..2 {
        force(&site);
    }
    assert_eq!(numbers(), [7, 6, 5, 4, 3], "none is a day old");
}
