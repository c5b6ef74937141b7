//! What is held of a certificate, the ways back to it, and whether a copy of it can renew.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use support::pair::Pair;
use support::pebble::{Pebble, pebble};
use support::site::Site;
use support::{PATIENCE, read, tree, wait_until, write};

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
    said.says(&["NUMBER", "target `mail`: refused", "ordered as https://"]);
    said.says(&["3 generations of site"]);
    let wide = |line: &&str| line.chars().count() > 79 && line.trim().contains(' ');
    assert_eq!(said.stdout.lines().find(wide), None, "{said}");
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
    std::fs::create_dir(site.tls().join("web")).unwrap();
    Pair::in_dir(&site.tls().join("web")).placeholder("a.test");
    let placeholder = read(site.tls().join("web/fullchain.pem"));
    site.renew();
    let live = leaf(&site, "web");
    let said = site.certkeep(&["rollback", "site", "--to", "original"]).exits(2);
    said.says(&["keeps no original of target `mail`"]);
    assert_eq!(leaf(&site, "web"), live);
    site.certkeep(&["rollback", "site", "--to", "original", "--target", "web"]).succeeds();
    assert_eq!(read(site.tls().join("web/fullchain.pem")), placeholder);
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
    let forced = site.certkeep(&["rollback", "site", "--to", "1", "--force"]).exits(1);
    forced.says(&["`run` and `renew` go forward again at once"]);
    forced.says(&["target `default`: generation 1 is in force and expired at"]);
    assert_ne!(site.pair().leaf().fingerprint, long);
    site.renew();
    assert_eq!(site.pair().leaf().fingerprint, long, "nobody stays on what is expired");
}

#[test]
fn what_is_revoked_comes_back_under_force_alone() {
    let (_ca, site) = calm("site: { names: [a.test], dir: TLS/site }");
    site.renew();
    site.certkeep(&["revoke", "site", "--reason", "superseded"]).succeeds();
    site.renew().says(&["revoked"]);
    site.certkeep(&["rollback", "site"]).exits(1).says(&["generation 1 is revoked", "--force"]);
    site.certkeep(&["generations", "site"]).succeeds().says(&["    revoked"]);
    for back in [&["rollback", "site", "--force"][..], &["status"], &["renew"]] {
        let said = site.certkeep(back).exits(1);
        said.says(&["target `default`: generation 1 is in force and is revoked"]);
    }
    let chosen = ["rollback", "site", "--to", "1", "--force", "--target", "default"];
    site.certkeep(&chosen).exits(1);
}

#[test]
fn what_is_revoked_after_a_way_back_to_it_makes_room_for_the_newest() {
    let (ca, site) = calm("site: { names: [a.test], dir: TLS/site }");
    site.renew();
    let first = site.pair().leaf().fingerprint;
    force(&site);
    let newest = site.pair().leaf().fingerprint;
    site.certkeep(&["rollback", "site"]).succeeds();
    assert_eq!(site.pair().leaf().fingerprint, first);
    site.certkeep(&["revoke", "site", "--generation", "1", "--reason", "key-compromise"])
        .succeeds()
        .says(&["has generation 2 in its place"]);
    site.renew();
    assert_eq!(site.pair().leaf().fingerprint, newest);
    assert_eq!(ca.issued(), 2);
}

#[test]
fn what_is_revoked_stays_so_when_another_one_is() {
    let (_ca, site) = calm("site: { names: [a.test], dir: TLS/site }");
    site.renew();
    force(&site);
    site.certkeep(&["revoke", "site", "--reason", "superseded"]).succeeds();
    site.certkeep(&["revoke", "site", "--reason", "superseded", "--generation", "1"]).succeeds();
    site.certkeep(&["status"]).exits(1).says(&["revoked"]);
    let said = site.certkeep(&["generations", "site"]).succeeds();
    assert_eq!(said.stdout.matches("    revoked").count(), 2, "{}", said.stdout);
}

#[test]
fn a_deployment_by_hand_keeps_to_the_way_back() {
    let (_ca, site) = calm("site: { names: [a.test], dir: TLS/site }");
    site.renew();
    let first = site.pair().leaf().fingerprint;
    force(&site);
    site.certkeep(&["rollback", "site"]).succeeds();
    site.certkeep(&["deploy", "site"]).succeeds();
    assert_eq!(site.pair().leaf().fingerprint, first);
    site.renew();
    assert_eq!(site.pair().leaf().fingerprint, first);
}

#[test]
fn the_gate_is_closed_again_after_a_way_back() {
    let (_ca, site) = calm("site: { names: [a.test], dir: TLS/site }");
    site.renew();
    let first = site.pair().leaf().fingerprint;
    force(&site);
    site.certkeep(&["rollback", "site"]).succeeds();
    site.configure(
        "site: { names: [a.test], dir: TLS/site, gate: { require: { lifetime: 365d } } }",
    );
    site.certkeep(&["renew", "--force"]).exits(1).says(&["365 days are required"]);
    assert_eq!(site.pair().leaf().fingerprint, first);
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

/// A copy of the state directory, with modes and all
fn copy(site: &Site, name: &str) -> PathBuf {
    let copy = site.path().join(name);
    let mut cp = Command::new("cp");
    assert!(cp.arg("-a").arg(site.state()).arg(&copy).status().unwrap().success());
    copy
}

#[test]
fn a_whole_copy_can_renew_elsewhere() {
    let (ca, site) = calm(TWO);
    let said = site.certkeep(&["verify-backup"]).exits(1);
    said.says(&["error: state_dir: ", "is no directory"]);
    site.renew();
    let copy = copy(&site, "copy");
    let requests = ca.requests();
    let before = tree(&copy);
    let said = site.certkeep(&["verify-backup", "copy"]).succeeds();
    said.says(&["serves issuer `pebble`", "1 certificate checked: this state can renew elsewhere"]);
    site.certkeep(&["verify-backup"]).succeeds();
    assert_eq!(tree(&copy), before);
    assert_eq!(ca.requests(), requests);
    // And it does: the same account, and nothing is ordered that is held.
    site.lose_state();
    std::fs::rename(&copy, site.state()).unwrap();
    site.renew();
    assert_eq!((ca.orders(), ca.requests_to("/sign-me-up")), (1, 1));
}

#[test]
fn each_gap_of_a_copy_is_named() {
    let (_ca, site) = calm(TWO);
    site.renew();
    force(&site);
    let whole = copy(&site, "whole");
    let account = std::fs::read_dir(whole.join("accounts")).unwrap().next().unwrap().unwrap();
    let account = Path::new("accounts").join(account.file_name()).join("account.json");
    let site_dir = Path::new("certificates/site");
    let newest = site_dir.join("generations/000002");
    let old = site_dir.join("generations/000001");
    let key = read(whole.join(&old).join("key.pem"));
    let order = |key: &str| {
        let order = serde_json::json!({
            "version": 1, "issuer": "pebble", "directory": "https://ca.test/dir",
            "account": "https://ca.test/1", "url": "https://ca.test/o/1",
            "identifiers": ["a.test"], "key_type": "ecdsa-p256", "profile": null,
            "key": key, "created_at": "2026-11-23T00:00:00Z",
        });
        order.to_string()
    };
    let remove = |path: &Path| std::fs::remove_file(path).unwrap();
    let open = |path: &Path| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    };
    type Damage<'a> = Box<dyn Fn(&Path) + 'a>;
    let damages: [(&str, i32, Damage<'_>, &str); 14] = [
        ("account", 0, Box::new(|c| remove(&c.join(&account))), "it will register anew"),
        ("torn", 1, Box::new(|c| write(c.join(&account), "{")), "account.json is damaged"),
        (
            "account-key",
            1,
            Box::new(|c| {
                let text = read(c.join(&account)).replace("BEGIN PRIVATE", "BEGIN PUBLIC");
                write(c.join(&account), text);
            }),
            "its key cannot be used",
        ),
        (
            "newer",
            1,
            Box::new(|c| write(c.join(site_dir).join("deploy.json"), r#"{"version":99}"#)),
            "was written by a newer certkeep (version 99)",
        ),
        (
            "attempts",
            1,
            Box::new(|c| write(c.join(site_dir).join("attempts.json"), "junk")),
            "attempts.json is damaged",
        ),
        ("key", 1, Box::new(|c| remove(&c.join(&newest).join("key.pem"))), "key.pem is missing"),
        (
            "newest",
            1,
            Box::new(|c| std::fs::remove_dir_all(c.join(&newest)).unwrap()),
            "generation 2 is in use and not here",
        ),
        (
            "old",
            0,
            Box::new(|c| {
                write(c.join(&old).join("key.pem"), "");
            }),
            "generation 1, not in use, is lost",
        ),
        (
            "journal",
            1,
            Box::new(|c| write(c.join(site_dir).join("journal-web.json"), "{}")),
            "journal-web.json is of a switch that is not finished",
        ),
        (
            "order",
            0,
            Box::new(|c| private(&c.join(site_dir).join("order.json"), &order(&key))),
            "is in flight, and its account is not here",
        ),
        (
            "order-key",
            1,
            Box::new(|c| private(&c.join(site_dir).join("order.json"), &order("-----"))),
            "the key of its order cannot be used",
        ),
        (
            "modes",
            1,
            Box::new(|c| open(&c.join(&newest).join("key.pem"))),
            "others than the owner may get at",
        ),
        (
            "missing",
            0,
            Box::new(|c| std::fs::remove_dir_all(c.join(site_dir)).unwrap()),
            "is in the configuration and not here: it will be ordered anew",
        ),
        (
            "stranger",
            0,
            Box::new(|c| {
                let stranger = c.join("certificates/stranger");
                std::fs::create_dir(&stranger).unwrap();
                std::fs::set_permissions(&stranger, PermissionsExt::from_mode(0o700)).unwrap();
            }),
            "certificates.stranger: is kept here and not in the configuration",
        ),
    ];
    for (name, code, damage, said) in damages {
        let copy = copy(&site, name);
        damage(&copy);
        site.certkeep(&["verify-backup", name]).exits(code).says(&[said]);
        let json = site.certkeep(&["--json", "verify-backup", name]).exits(code).json();
        let severity = if code == 0 { "info" } else { "error" };
        let finding = json["findings"].as_array().unwrap().iter().find(|finding| {
            let [about, message] = ["about", "message"].map(|member| text(finding[member].clone()));
            finding["severity"] == severity && format!("{about}: {message}").contains(said)
        });
        assert!(finding.is_some(), "{name}: {json}");
    }
}

fn private(path: &Path, text: &str) {
    write(path, text);
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

#[test]
fn a_copy_without_the_account_of_an_external_one_is_not_whole() {
    let ca = pebble()
        .binding_accounts(
            "kid-1",
            "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W",
        )
        .start();
    let site = Site::with_issuer(&ca, "eab: { key_id: kid-1, hmac_key_env: HMAC }");
    site.configure_one(&["a.test"]);
    let hmac = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    site.certkeep(&["renew"]).env("HMAC", hmac).succeeds();
    site.certkeep(&["verify-backup"]).succeeds().says(&["serves issuer `pebble`"]);
    let copy = copy(&site, "copy");
    std::fs::remove_dir_all(copy.join("accounts")).unwrap();
    let said = site.certkeep(&["verify-backup", "copy"]).exits(1);
    said.says(&["needs the external account again"]);
}
