//! The compiled binary against Pebble, the ACME test CA, in every mood it has.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use support::pebble::{Pebble, pebble};
use support::site::Site;
use support::{PATIENCE, wait_until};

const MINUTE: Duration = Duration::from_secs(60);

/// A Pebble that behaves, and a host with one certificate for `a.test`
fn calm() -> (Pebble, Site) {
    let ca = pebble().start();
    let site = Site::new(&ca);
    site.configure_one(&["a.test"]);
    (ca, site)
}

fn names(site: &Site) -> BTreeSet<String> {
    site.pair().leaf().identifiers.iter().map(ToString::to_string).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn the_first_certificate_is_issued_and_live() {
    let (ca, site) = calm();
    assert_eq!(site.state_of("site"), "missing");
    site.renew();
    site.pair().assert_sound();
    site.pair().assert_leads_to(&ca.root());
    assert_eq!(names(&site), set(&["a.test"]));
    let status = site.status("site");
    assert_eq!(status["state"], "live", "{status}");
    assert_eq!(status["verified"], false, "nobody was asked to look: {status}");
    assert_eq!((ca.orders(), ca.issued()), (1, 1));
}

#[test]
fn a_first_certificate_takes_few_requests() {
    let (ca, site) = calm();
    site.renew();
    let cold = ca.requests();
    // The directory, a nonce and the account come before the nine of a warm account.
    assert!(cold.len() <= 11, "{cold:#?}");
    site.certkeep(&["renew", "--force"]).succeeds();
    let warm = ca.requests().split_off(cold.len());
    assert!(warm.len() <= 9, "{warm:#?}");
}

#[test]
fn nothing_due_means_no_request_at_all() {
    let (ca, site) = calm();
    site.renew();
    let before = ca.requests();
    for command in ["renew", "plan", "status"] {
        site.certkeep(&[command]).succeeds();
        assert_eq!(ca.requests(), before, "after `{command}`");
    }
}

#[test]
fn plan_and_status_need_neither_the_ca_nor_a_writable_state() {
    let (mut ca, site) = calm();
    ca.stop();
    for command in ["plan", "status"] {
        let output = site.certkeep(&["--json", command]).run();
        let json = output.json();
        assert_eq!(json["version"], 1, "{output}");
        assert_eq!(json["certificates"][0]["state"], "missing", "{output}");
        assert!(!site.state().exists(), "`{command}` made a state directory");
    }
}

#[test]
fn a_dry_run_orders_nothing() {
    let (ca, site) = calm();
    site.certkeep(&["renew", "--dry-run"]).run();
    assert_eq!(ca.orders(), 0);
    assert!(!site.pair().fullchain.exists());
}

#[test]
fn the_ca_can_ask_for_an_early_renewal() {
    let ca = pebble().with_profiles(&[("minutes", MINUTE * 2)]).start();
    let site = Site::with_issuer(&ca, "profile: minutes");
    site.configure_one(&["a.test"]);
    site.renew();
    let first = site.pair().leaf();
    let begun = Instant::now();
    ca.suggest_the_past(&site.pair().leaf_pem());
    let second = wait_until("it follows the suggestion", PATIENCE, || {
        site.renew();
        let leaf = site.pair().leaf();
        (leaf.fingerprint != first.fingerprint).then_some(leaf)
    });
    assert!(begun.elapsed() < MINUTE / 2, "its age did that, and not the suggestion");
    assert_ne!(second.public_key, first.public_key, "each renewal has a fresh key");
    assert_eq!(ca.issued(), 2);
}

#[test]
fn age_alone_renews_when_the_ca_suggests_nonsense() {
    let life = Duration::from_secs(24);
    let ca = pebble().with_profiles(&[("seconds", life)]).start();
    let site = Site::with_issuer(&ca, "profile: seconds");
    site.configure_one(&["a.test"]);
    site.renew();
    let first = site.pair().leaf().fingerprint;
    for nonsense in ["{", r#"{"suggestedWindow":{"start":"2020-01-02T00:00:00Z"}}"#] {
        ca.suggest(&site.pair().leaf_pem(), nonsense);
    }
    let begun = Instant::now();
    wait_until("half of its life is over", life, || {
        site.renew();
        (site.pair().leaf().fingerprint != first).then_some(())
    });
    assert!(begun.elapsed() > life / 4, "renewed after {:?}", begun.elapsed());
    assert_eq!(ca.issued(), 2);
}

#[test]
fn a_name_that_is_added_or_dropped_brings_a_new_certificate() {
    let (ca, site) = calm();
    site.renew();
    for wanted in [&["a.test", "b.test"][..], &["b.test"]] {
        site.configure_one(wanted);
        site.renew();
        assert_eq!(names(&site), set(wanted));
        site.pair().assert_sound();
    }
    assert_eq!(ca.issued(), 3);
}

#[test]
fn another_key_type_brings_a_new_certificate() {
    let (ca, site) = calm();
    site.renew();
    for key in ["ecdsa-p384", "rsa-2048"] {
        site.configure(&format!("site: {{ names: [a.test], key: {key}, dir: TLS/site }}"));
        site.renew();
        let found = site.pair().leaf().key_type.unwrap();
        assert_eq!(found.as_str(), key);
        site.pair().assert_sound();
    }
    assert_eq!(ca.issued(), 3);
}

#[test]
fn rejected_nonces_fail_no_issuance() {
    // Pebble 2.10 may lock itself up for good when it is asked for an order that it is about to
    // complete (its issue 554). Nobody asks that early here.
    let ca = pebble().rejecting_nonces(50).asking_to_wait(0, 1).start();
    let site = Site::new(&ca);
    let count = if std::env::var_os("CERTKEEP_TESTS").is_some() { 500 } else { 100 };
    let certificates: String =
        (0..count).map(|n| format!("c{n}: {{ names: [c{n}.test], dir: TLS/c{n} }}\n")).collect();
    site.configure(&certificates);
    site.certkeep(&["renew"]).within(MINUTE * 5).succeeds();
    assert_eq!((ca.orders(), ca.issued()), (count, count));
    let status = site.certkeep(&["--json", "status"]).succeeds().json();
    for certificate in status["certificates"].as_array().unwrap() {
        assert_eq!(certificate["failures"], 0, "{certificate}");
    }
}

#[test]
fn reused_authorizations_are_not_proven_again() {
    let ca = pebble().reusing_authorizations(100).start();
    let site = Site::new(&ca);
    site.configure_one(&["a.test", "b.test"]);
    site.renew();
    let challenges = ca.requests_to("/chalZ/");
    site.certkeep(&["renew", "--force"]).succeeds();
    assert_eq!(ca.requests_to("/chalZ/"), challenges);
    assert_eq!(ca.issued(), 2);
}

#[test]
fn a_request_to_wait_is_followed_in_both_forms() {
    // Pebble chooses between seconds and a date by chance: eight orders meet both.
    let ca = pebble().asking_to_wait(1, 1).start();
    let site = Site::new(&ca);
    let certificates: String =
        (0..8).map(|n| format!("c{n}: {{ names: [c{n}.test], dir: TLS/c{n} }}\n")).collect();
    site.configure(&certificates);
    site.renew();
    assert_eq!(ca.issued(), 8);
    let (orders, authorizations) = (ca.requests_to("/my-order/"), ca.requests_to("/authZ/"));
    assert!(orders <= 24, "{orders} looks at 8 orders that ask to wait a second");
    assert!(authorizations <= 40, "{authorizations} looks at 8 authorizations");
}

#[test]
fn slow_validations_are_waited_for() {
    let ca = pebble().validating_within(3).start();
    let site = Site::new(&ca);
    site.configure_one(&["a.test", "b.test"]);
    site.renew();
    assert_eq!(ca.issued(), 1);
}

#[test]
fn somebody_who_waits_at_a_terminal_sees_for_what_and_since_when() {
    let ca = pebble().asking_to_wait(0, 2).start();
    let site = Site::new(&ca);
    site.configure_one(&["a.test"]);
    let watched = site.certkeep(&["renew"]).on_a_terminal().succeeds();
    let mut seen = watched.stdout.split(CLEAR);
    assert!(seen.any(|line| line == "site: finalize since 1s"), "{watched}");
    // What stays on the screen is the log alone.
    let after = watched.stdout.rsplit(CLEAR).next().unwrap();
    assert!(!after.contains("since") && after.contains("1 of 1 certificates live"), "{watched}");
    let again = || site.certkeep(&["renew"]);
    again().on_a_terminal().succeeds().says(&[CLEAR]);
    for plain in [
        again(),
        again().on_a_terminal().env("TERM", "dumb"),
        site.certkeep(&["--log-format", "json", "renew"]).on_a_terminal(),
    ] {
        plain.succeeds().keeps_quiet_about(&["\u{1b}"]);
    }
}

/// Back to the start of the line, and nothing left on it
const CLEAR: &str = "\r\u{1b}[K";

const KEY_ID: &str = "kid-of-the-tests";
const MAC_KEY: &str = "Y2VydGtlZXAtdGVzdHMtbWFjLWtleS1vZi0zMi1ieXRlcyE";
const OTHER_MAC_KEY: &str = "YW5vdGhlci1rZXktdGhhdC1uby1jYS1rbm93cy1hYm91dCE";

fn binding(ca: &Pebble, mac_key: &str) -> Site {
    let file = ca.ca_file().with_file_name("external.hmac");
    support::write(&file, format!("{mac_key}\n"));
    let eab = format!("eab: {{ key_id: {KEY_ID}, hmac_key_file: {} }}", file.display());
    let site = Site::with_issuer(ca, &eab);
    site.configure_one(&["a.test"]);
    site
}

#[test]
fn an_external_account_is_bound() {
    let ca = pebble().binding_accounts(KEY_ID, MAC_KEY).start();
    let site = binding(&ca, MAC_KEY);
    let output = site.renew();
    output.keeps_quiet_about(&[MAC_KEY]);
    assert_eq!(ca.issued(), 1);
    assert!(ca.log().contains("Successful newAccount Binding"), "{}", ca.log());
}

#[test]
fn a_wrong_external_account_needs_the_operator_and_is_not_hammered() {
    let ca = pebble().binding_accounts(KEY_ID, MAC_KEY).start();
    let site = binding(&ca, OTHER_MAC_KEY);
    let output = site.certkeep(&["renew"]).exits(1);
    output.keeps_quiet_about(&[OTHER_MAC_KEY]);
    assert_eq!(site.state_of("site"), "needs-operator");
    let asked = ca.requests_to("/sign-me-up");
    for _ in 0..5 {
        site.certkeep(&["renew"]).exits(1);
    }
    assert_eq!(ca.requests_to("/sign-me-up"), asked);
    assert_eq!(ca.orders(), 0);
}

#[test]
fn a_ca_that_forgot_the_account_gets_a_new_one() {
    let (mut ca, site) = calm();
    site.renew();
    let before = site.pair().leaf().fingerprint;
    ca.restart();
    site.certkeep(&["renew", "--force"]).succeeds();
    assert_ne!(site.pair().leaf().fingerprint, before);
    site.pair().assert_leads_to(&ca.root());
}

#[test]
fn a_ca_that_is_away_is_tried_later_and_the_pair_stays() {
    let (mut ca, site) = calm();
    site.renew();
    let before = site.pair().leaf().fingerprint;
    ca.stop();
    site.configure_one(&["a.test", "b.test"]);
    site.certkeep(&["renew"]).exits(1);
    assert_eq!(site.pair().leaf().fingerprint, before);
    site.pair().assert_sound();
    let status = site.status("site");
    assert_eq!(status["failures"], 1, "{status}");
    assert!(status["held_back"].is_string(), "{status}");
}

#[test]
fn a_refused_name_is_named() {
    let ca = pebble().blocking("blocked.test").start();
    let site = Site::new(&ca);
    site.configure_one(&["fine.test", "blocked.test"]);
    let output = site.certkeep(&["renew"]).exits(1);
    output.says(&["blocked.test"]);
    let failure = site.status("site")["last_failure"].clone();
    let blamed = failure["identifiers"].to_string();
    assert!(blamed.contains("blocked.test") && !blamed.contains("fine.test"), "{failure}");
}

#[test]
fn a_name_that_leads_nowhere_is_named_and_stops_no_other_certificate() {
    let ca = pebble().start();
    let nowhere: IpAddr = "127.0.0.1".parse().unwrap();
    ca.resolve("dead.test", &[nowhere]);
    let site = Site::new(&ca);
    site.configure(
        "dead: { names: [alive.test, dead.test], dir: TLS/dead }\n\
         well: { names: [well.test], dir: TLS/well }",
    );
    let output = site.certkeep(&["renew"]).exits(1);
    output.says(&["dead.test"]);
    let failure = site.status("dead")["last_failure"].clone();
    let blamed = failure["identifiers"].to_string();
    assert!(blamed.contains("dead.test") && !blamed.contains("alive.test"), "{failure}");
    assert_eq!(site.state_of("well"), "live");
    assert_eq!(ca.issued(), 1);
}

#[test]
fn fifty_attempts_at_a_dead_name_place_no_more_orders_than_one() {
    let ca = pebble().start();
    ca.break_lookup("dead.test");
    let site = Site::new(&ca);
    site.configure_one(&["dead.test"]);
    for _ in 0..50 {
        site.certkeep(&["renew"]).exits(1);
    }
    assert_eq!(ca.orders(), 1);
}

#[test]
fn a_name_with_only_an_ipv6_address_is_proven() {
    let ca = pebble().on_ipv6_only().start();
    let site = Site::new(&ca);
    site.configure_one(&["six.test"]);
    site.renew();
    assert_eq!(names(&site), set(&["six.test"]));
}

#[test]
fn an_address_can_be_certified() {
    let ca = pebble().start();
    let site = Site::new(&ca);
    let ip = ca.ip().to_string();
    site.configure(&format!("site: {{ names: [\"{ip}\"], dir: TLS/site }}"));
    site.renew();
    assert_eq!(names(&site), set(&[&ip]));
}

#[test]
fn fifty_names_fit_in_one_certificate() {
    let ca = pebble().start();
    let site = Site::new(&ca);
    let all: Vec<_> = (0..50).map(|n| format!("n{n}.test")).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    site.configure_one(&all);
    site.renew();
    assert_eq!(names(&site), set(&all));
    assert_eq!(ca.orders(), 1);
}

#[test]
fn two_agents_at_once_place_one_order() {
    let (ca, site) = calm();
    let mut agents: Vec<_> = (0..2).map(|_| site.certkeep(&["renew"]).spawn()).collect();
    let outputs: Vec<_> = agents.drain(..).map(support::site::Running::finish).collect();
    let codes: Vec<_> = outputs.iter().map(|output| output.code).collect();
    assert!(codes.contains(&Some(0)), "{}\n{}", outputs[0], outputs[1]);
    for output in &outputs {
        assert!(matches!(output.code, Some(0 | 75)), "{output}");
    }
    assert_eq!((ca.orders(), ca.issued()), (1, 1));
    assert_eq!(site.state_of("site"), "live");
}

#[test]
fn twenty_certificates_from_cold_register_one_account() {
    let ca = pebble().start();
    let site = Site::new(&ca);
    let certificates: String =
        (0..20).map(|n| format!("c{n}: {{ names: [c{n}.test], dir: TLS/c{n} }}\n")).collect();
    site.configure(&certificates);
    site.renew();
    assert_eq!(ca.issued(), 20);
    assert_eq!(ca.requests_to("/sign-me-up"), 1);
}

#[test]
fn a_chain_of_three_intermediates_is_kept_whole() {
    let ca = pebble().with_intermediates(3).start();
    let site = Site::new(&ca);
    site.configure_one(&["a.test"]);
    site.renew();
    assert_eq!(site.pair().length(), 4);
    site.pair().assert_leads_to(&ca.root());
}

#[test]
fn alternate_chains_do_not_matter() {
    let ca = pebble().with_alternates(2).start();
    let site = Site::new(&ca);
    site.configure_one(&["a.test"]);
    site.renew();
    site.pair().assert_leads_to(&ca.root());
}

#[test]
fn a_ca_with_two_profiles_gives_the_one_that_was_asked_for() {
    let profiles = [("long", MINUTE * 60 * 24 * 90), ("short", MINUTE * 60 * 24 * 6)];
    let ca = pebble().with_profiles(&profiles).start();
    let site = Site::new(&ca);
    let of = |name: &str| {
        format!("{name}: {{ names: [{name}.test], profile: {name}, dir: TLS/{name} }}\n")
    };
    site.configure(&["long", "short"].map(of).concat());
    site.renew();
    for (name, life) in profiles {
        let leaf = support::pair::Pair::in_dir(&site.tls().join(name)).leaf();
        let off = leaf.lifetime().abs_diff(life);
        assert!(off <= Duration::from_secs(2), "{name} lives {:?}", leaf.lifetime());
    }
}

#[test]
fn a_required_profile_that_the_ca_lacks_is_not_replaced_by_another() {
    let ca = pebble().start();
    let site = Site::with_issuer(&ca, "profile: { name: nowhere, required: true }");
    site.configure_one(&["a.test"]);
    site.certkeep(&["renew"]).exits(1).says(&["nowhere"]);
    assert_eq!(ca.issued(), 0);
}

#[test]
fn a_revoked_certificate_is_replaced() {
    let (ca, site) = calm();
    site.renew();
    let first = site.pair().leaf();
    site.certkeep(&["revoke", "site", "--reason", "keyCompromise"]).succeeds();
    assert_eq!(ca.status(&first.serial), "Revoked");
    site.renew();
    assert_ne!(site.pair().leaf().fingerprint, first.fingerprint);
}

#[test]
fn an_account_key_is_rolled_over_and_goes_on_working() {
    let (ca, site) = calm();
    site.renew();
    let before = site.certkeep(&["account", "show"]).succeeds();
    site.certkeep(&["account", "rollover"]).succeeds();
    let after = site.certkeep(&["account", "show"]).succeeds();
    let url = |text: &str| {
        let mut words = text.split_whitespace();
        words.find(|word| word.contains("/my-account/")).map(ToOwned::to_owned)
    };
    assert!(url(&before.stdout).is_some(), "{before}");
    assert_eq!(url(&before.stdout), url(&after.stdout));
    site.certkeep(&["renew", "--force"]).succeeds();
    assert_eq!(ca.requests_to("/sign-me-up"), 1);
}

#[test]
fn a_lost_account_record_loses_no_account_with_its_certificates() {
    let (ca, site) = calm();
    site.renew();
    std::fs::remove_dir_all(site.state().join("accounts")).unwrap();
    site.certkeep(&["renew", "--force"]).succeeds();
    assert_eq!(ca.issued(), 2);
}

#[test]
fn a_lost_output_is_put_back_without_the_ca() {
    let (mut ca, site) = calm();
    site.renew();
    ca.stop();
    std::fs::remove_file(site.pair().fullchain).unwrap();
    site.renew();
    site.pair().assert_sound();
}

#[test]
fn the_agent_keeps_a_certificate_of_seconds_fresh() {
    let life = Duration::from_secs(20);
    let ca = pebble().with_profiles(&[("seconds", life)]).start();
    let site = Site::with_issuer(&ca, "profile: seconds");
    site.configure_one(&["a.test"]);
    let mut agent = site.start(&["run"]);
    let mut seen = BTreeSet::new();
    wait_until("three certificates, one after the other", MINUTE * 2, || {
        assert!(agent.ended().is_none(), "{}", agent.log());
        if site.pair().fullchain.exists() {
            seen.insert(site.pair().leaf().fingerprint);
        }
        (seen.len() >= 3).then_some(())
    });
    assert_eq!(agent.terminate(PATIENCE).code(), Some(0), "{}", agent.log());
    site.pair().assert_sound();
}

#[test]
fn the_agent_takes_over_a_changed_configuration_and_refuses_a_broken_one() {
    let (ca, site) = calm();
    let mut agent = site.start(&["run"]);
    let issued = |count: usize| (ca.issued() >= count).then_some(());
    wait_until("the first certificate", PATIENCE, || issued(1));
    let good = support::read(site.config());
    support::write(site.config(), "certificates: [");
    wait_until("the agent refuses the broken one", PATIENCE, || {
        agent.log().contains("refused").then_some(())
    });
    support::write(site.config(), good.replace("[a.test]", "[a.test, b.test]"));
    wait_until("the second certificate", PATIENCE, || issued(2));
    wait_until("its files", PATIENCE, || {
        (names(&site) == set(&["a.test", "b.test"])).then_some(())
    });
    assert_eq!(agent.terminate(PATIENCE).code(), Some(0), "{}", agent.log());
}

#[test]
fn the_agent_restores_what_somebody_damages() {
    let (ca, site) = calm();
    let mut agent = site.start(&["run"]);
    wait_until("the pair", PATIENCE, || site.pair().fullchain.exists().then_some(()));
    wait_until("it is live", PATIENCE, || (site.state_of("site") == "live").then_some(()));
    let whole = support::read(site.pair().fullchain);
    support::write(site.pair().fullchain, "damaged");
    wait_until("the pair is back", MINUTE * 2, || {
        (std::fs::read_to_string(site.pair().fullchain).ok().as_ref() == Some(&whole)).then_some(())
    });
    assert_eq!(ca.issued(), 1);
    assert_eq!(agent.terminate(PATIENCE).code(), Some(0), "{}", agent.log());
}

#[test]
fn a_profile_that_the_ca_picks_by_itself_is_nothing_to_order_again() {
    let life = Duration::from_secs(80 * 86_400);
    let ca = pebble().with_profiles(&[("one", life), ("other", life * 2)]).start();
    let site = Site::new(&ca);
    site.configure_one(&["a.test"]);
    for count in 1..=4 {
        site.certkeep(&["renew", "--force"]).succeeds();
        site.renew();
        assert_eq!(ca.orders(), count);
    }
}

#[test]
fn the_look_of_each_minute_sees_what_the_kernel_does_not_tell() {
    let (ca, site) = calm();
    // With -D it is certkeep that this test holds, and strace that watches from aside.
    let deaf = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=inotify_init1"];
    let deaf = [&deaf[..], &["-e", "inject=inotify_init1:error=EMFILE"]].concat();
    let mut agent = site.start_under(&deaf, &["run"]);
    wait_until("it is live", PATIENCE, || {
        (agent.log().contains(" live at ") && site.state_of("site") == "live").then_some(())
    });
    // It may be ready to watch only after it is live.
    wait_until("it says how it looks", PATIENCE, || {
        agent.log().contains("by a look each minute only").then_some(())
    });
    let whole = support::read(site.pair().fullchain);
    support::write(site.pair().fullchain, "damaged");
    site.configure(
        "site: { names: [a.test], dir: TLS/site }\nother: { names: [b.test], dir: TLS/other }",
    );
    wait_until("the pair is back", MINUTE * 2, || {
        (std::fs::read_to_string(site.pair().fullchain).ok().as_ref() == Some(&whole)).then_some(())
    });
    wait_until("the configuration is taken over", PATIENCE, || {
        site.tls().join("other/fullchain.pem").exists().then_some(())
    });
    assert_eq!(ca.issued(), 2);
    assert_eq!(agent.terminate(PATIENCE).code(), Some(0), "{}", agent.log());
}

#[test]
fn a_second_agent_on_the_same_state_is_turned_away() {
    let (_ca, site) = calm();
    let mut agent = site.start(&["run"]);
    wait_until("the first agent works", PATIENCE, || site.pair().fullchain.exists().then_some(()));
    site.certkeep(&["run"]).exits(75);
    assert_eq!(agent.terminate(PATIENCE).code(), Some(0), "{}", agent.log());
}
