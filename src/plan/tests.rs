use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::cert::{AriId, Fingerprint, Leaf};
use crate::config::{
    ChallengeMethod, Content, Gate, Http01, Keep, KeyType, Layout, Output, Profile, Reload, Renew,
    Share,
};
use crate::failure::{Failure, Step};
use crate::name::Identifier;
use crate::record::{
    Digests, GenerationMeta, IssuedRecord, Origin, RenewalInfo, SuggestedWindow, TargetRecord,
    VERSION,
};

const DAY: u64 = 86_400;
const START: Timestamp = Timestamp::from_seconds(1_800_000_000);
const DIRECTORY: &str = "https://ca.test/directory";

fn days(n: u64) -> Duration {
    Duration::from_secs(n * DAY)
}

fn name(text: &str) -> CertName {
    CertName::parse(text).unwrap()
}

fn target() -> TargetName {
    TargetName::parse("default").unwrap()
}

fn config() -> Config {
    let issuer = Issuer {
        name: IssuerName::parse("ca").unwrap(),
        directory: DIRECTORY.to_owned(),
        ca_file: None,
        insecure_loopback: false,
        allowed_hosts: Vec::new(),
        contact: Vec::new(),
        eab: None,
        profile: None,
        staging: None,
        proxy: None,
    };
    let output = |content: Content| Output {
        path: PathBuf::from("/etc/tls").join(content.file_name()),
        content: vec![content],
        format: crate::config::Format::default(),
        mode: 0o600,
        owner: None,
        group: None,
    };
    let certificate = Certificate {
        name: name("a"),
        identifiers: vec![Identifier::parse("a.test").unwrap()],
        key: KeyType::EcdsaP256,
        issuers: vec![issuer.name.clone()],
        profile: None,
        challenge: ChallengeMethod::Http01(Http01::Listen(SocketAddr::new(
            Ipv6Addr::UNSPECIFIED.into(),
            80,
        ))),
        renew: Renew::default(),
        targets: vec![Target {
            name: target(),
            layout: Layout::Dir(PathBuf::from("/etc/tls")),
            outputs: vec![output(Content::Fullchain), output(Content::Key)],
            check: None,
            reload: None,
            verify: Vec::new(),
            max_reloads_per_hour: None,
        }],
        gate: Gate::default(),
        keep: Keep::default(),
        serial: false,
    };
    Config {
        state_dir: PathBuf::from("/var/lib/certkeep"),
        allow_volatile_state: false,
        allow_empty: false,
        issuers: BTreeMap::from([(issuer.name.clone(), issuer)]),
        certificates: BTreeMap::from([(certificate.name.clone(), certificate)]),
    }
}

fn certificate(config: &mut Config) -> &mut Certificate {
    config.certificates.get_mut(&name("a")).unwrap()
}

fn held(number: u32, from: Timestamp, lifetime: Duration) -> Held {
    let fingerprint = Fingerprint::of(&[number.to_be_bytes(), [7; 4]].concat());
    Held {
        meta: GenerationMeta {
            certificate: name("a"),
            fingerprint,
            key_type: KeyType::EcdsaP256,
            number,
            origin: Some(Origin {
                issuer: IssuerName::parse("ca").unwrap(),
                directory: DIRECTORY.to_owned(),
                account: "https://ca.test/account/1".to_owned(),
                order: format!("https://ca.test/order/{number}"),
                profile: None,
            }),
            staged_at: from,
            version: VERSION,
            digests: Digests { key: fingerprint, chain: fingerprint },
        },
        leaf: Leaf {
            fingerprint,
            identifiers: BTreeSet::from([Identifier::parse("a.test").unwrap()]),
            not_before: from,
            not_after: from.after(lifetime),
            serial: "01".to_owned(),
            issuer: External::new("CN=ca"),
            key_type: Some(KeyType::EcdsaP256),
            public_key: Vec::new(),
            ari_id: Some(AriId { key_identifier: vec![1], serial: vec![2] }),
            self_signed: false,
            usage: None,
        },
    }
}

/// A certificate that is live since `from`, of a CA that is not asked when to renew it
fn live(number: u32, from: Timestamp, lifetime: Duration) -> Observed {
    let mut held = held(number, from, lifetime);
    held.leaf.ari_id = None;
    let mut observed = Observed::default();
    observed.attempts.renewal_info = Some(RenewalInfo {
        fingerprint: held.leaf.fingerprint,
        window: None,
        explanation_url: None,
        next_check: held.leaf.not_after,
        failures: 0,
    });
    let record = TargetRecord {
        generation: number,
        installed_at: Some(from),
        reloaded_at: Some(from),
        live_at: Some(from),
        ..TargetRecord::default()
    };
    let outputs = OutputState::Current;
    let seen = Box::new(ObservedTarget { record, outputs, ..ObservedTarget::default() });
    observed.targets.insert(target(), seen);
    observed.held = Some(held);
    observed
}

fn decision(now: Timestamp, config: &Config, observed: &Observed) -> Decision {
    let snapshot =
        Snapshot { certificates: BTreeMap::from([(name("a"), Box::new(observed.clone()))]) };
    plan(now, config, &snapshot).decisions.remove(0)
}

fn window(observed: &mut Observed, start: Timestamp, end: Timestamp) {
    let info = observed.attempts.renewal_info.as_mut().unwrap();
    info.window = Some(SuggestedWindow { start, end });
}

#[test]
fn the_first_rule_that_applies_is_the_reason() {
    let base = || live(1, START, days(90));
    let at = |n| START.after(days(n));
    type Change = fn(&mut Config, &mut Observed);
    let cases: [(&str, u64, Change); 16] = [
        ("unfinished", 1, |_, o| {
            o.order = Some(OrderInFlight {
                url: External::new("https://ca.test/order/2"),
                issuer: IssuerName::parse("ca").unwrap(),
                directory: DIRECTORY.to_owned(),
                identifiers: BTreeSet::new(),
                created_at: START,
            });
        }),
        ("missing", 0, |_, o| *o = Observed::default()),
        ("damaged", 0, |_, o| {
            *o = Observed { damaged: Some(External::new("x")), ..Observed::default() }
        }),
        ("not-due", 1, |_, _| {}),
        ("not-due", 57, |_, _| {}),
        ("age", 60, |_, _| {}),
        ("emergency", 83, |_, _| {}),
        ("emergency", 200, |_, _| {}),
        ("forced", 1, |_, o| o.request = Request::Force),
        ("revoked", 1, |_, o| {
            o.attempts.revoked.extend(o.held.as_ref().map(|h| h.leaf.fingerprint))
        }),
        ("names-differ", 1, |c, _| {
            certificate(c).identifiers.push(Identifier::parse("b.test").unwrap())
        }),
        ("key-differs", 1, |c, _| certificate(c).key = KeyType::Rsa2048),
        ("issuer-differs", 1, |c, _| {
            c.issuers.values_mut().for_each(|i| i.directory = "https://other.test/d".to_owned());
        }),
        ("profile-differs", 1, |c, _| {
            certificate(c).profile = Some(Profile { name: "short".to_owned(), required: true });
        }),
        ("key-age", 31, |c, _| certificate(c).renew.key_max_age = Some(days(30))),
        ("age", 46, |c, _| certificate(c).renew.before = Some(Share::PerMille(500))),
    ];
    for (expected, day, change) in cases {
        let (mut config, mut observed) = (config(), base());
        change(&mut config, &mut observed);
        let decided = decision(at(day), &config, &observed);
        assert_eq!(decided.reason.code(), expected, "on day {day}: {decided:?}");
        let due = expected != "not-due";
        assert_eq!(decided.actions.contains(&Action::Issue), due, "{expected}: {decided:?}");
    }
}

#[test]
fn short_lives_are_due_at_half_and_long_ones_at_two_thirds() {
    let cases = [(3600, 50), (86_400, 50), (160 * 3600, 50), (45 * DAY, 67), (398 * DAY, 67)];
    for (seconds, percent) in cases {
        let observed = live(1, START, Duration::from_secs(seconds));
        let just_issued = decision(START, &config(), &observed);
        assert_eq!(just_issued.reason.code(), "not-due", "{seconds} s: due when just issued");
        let due = just_issued.renew_at.since(START).as_secs() * 100 / seconds;
        assert!((percent - 3..=percent).contains(&due), "{seconds} s: due at {due} %");
    }
}

#[test]
fn a_span_that_was_meant_for_longer_lives_is_passed_over() {
    let mut config = config();
    certificate(&mut config).renew.before = Some(Share::Span(days(30)));
    for (lifetime, due) in [(90, 60), (47, 17), (39, 26), (31, 21), (6, 3)] {
        let observed = live(1, START, days(lifetime));
        let just_issued = decision(START, &config, &observed);
        let at = just_issued.renew_at.since(START).as_secs().div_ceil(DAY);
        assert!((due - 1..=due).contains(&at), "{lifetime} days: due after {at}");
    }
}

#[test]
fn renewal_information_moves_a_renewal_both_ways_but_not_past_the_emergency_line() {
    let config = config();
    let mut observed = live(1, START, days(90));
    window(&mut observed, START.after(days(10)), START.after(days(11)));
    assert_eq!(decision(START.after(days(11)), &config, &observed).reason.code(), "renewal-info");
    window(&mut observed, START.after(days(70)), START.after(days(71)));
    assert_eq!(decision(START.after(days(65)), &config, &observed).reason.code(), "not-due");
    assert_eq!(decision(START.after(days(71)), &config, &observed).reason.code(), "renewal-info");
    window(&mut observed, START.after(days(88)), START.after(days(89)));
    let line = START.after(days(90)).before(days(90) / 12);
    assert_eq!(decision(START.after(days(70)), &config, &observed).renew_at, line);
}

#[test]
fn an_absurd_window_counts_as_none() {
    let absurd = [
        (START.after(days(10)), START.after(days(10))),
        (START.after(days(10)), START.after(days(9))),
        (START.after(days(27_000)), START.after(days(27_001))),
    ];
    for (start, end) in absurd {
        let mut observed = live(1, START, days(90));
        window(&mut observed, start, end);
        let decided = decision(START.after(days(60)), &config(), &observed);
        assert_eq!(decided.reason.code(), "age", "{start} to {end}");
    }
}

#[test]
fn the_moment_in_a_window_is_the_same_at_every_look_and_spread_over_certificates() {
    let (start, end) = (START.after(days(50)), START.after(days(52)));
    let drawn: BTreeSet<_> = (0..100)
        .map(|number| {
            let mut observed = live(number, START, days(90));
            window(&mut observed, start, end);
            let first = decision(START.after(days(1)), &config(), &observed).renew_at;
            let later = decision(START.after(days(49)), &config(), &observed).renew_at;
            assert_eq!(first, later);
            assert!(start <= first && first < end);
            first
        })
        .collect();
    let halves = drawn.iter().filter(|at| **at < START.after(days(51))).count();
    assert!(drawn.len() > 95 && (30..70).contains(&halves), "{halves} of {}", drawn.len());
}

#[test]
fn a_failed_attempt_waits_and_force_does_not() {
    let mut observed = Observed::default();
    let until = START.after(Duration::from_secs(60));
    observed.attempts.not_before = Some(until);
    observed.attempts.last_failure = Some(Box::new(Failure::retry(Step::Order, "no")));
    let waiting = decision(START, &config(), &observed);
    assert_eq!((waiting.actions, waiting.wake_at), (vec![], until));
    assert_eq!(waiting.held_back, Some(HeldBack::Backoff { until }));
    observed.request = Request::Force;
    assert_eq!(decision(START, &config(), &observed).actions, [Action::Issue]);
    let failure = Failure::not_before(until, Step::Order, "429");
    observed.attempts.last_failure = Some(Box::new(failure));
    assert_eq!(decision(START, &config(), &observed).actions, []);
}

#[test]
fn a_certificate_that_is_due_again_at_once_is_ordered_no_second_time() {
    let mut observed = live(2, START, days(90));
    let issued = |at| IssuedRecord {
        at,
        identifiers: vec![Identifier::parse("a.test").unwrap()],
        lifetime: 90 * DAY,
    };
    observed.attempts.issued = vec![issued(START)];
    let mut config = config();
    certificate(&mut config).renew.before = Some(Share::PerMille(999));
    let soon = START.after(Duration::from_secs(3 * 3600));
    let held = decision(soon, &config, &observed);
    assert_eq!(held.held_back, Some(HeldBack::Ledger { until: START.after(days(1)) }));
    assert_eq!(held.actions, []);
    // The CA's own wish is followed once, and the second time it is a loop.
    let (start, end) = (START.before(days(1)), START);
    window(&mut observed, start, end);
    assert_eq!(decision(soon, &self::config(), &observed).actions, [Action::Issue]);
    observed.attempts.issued.push(issued(START.after(Duration::from_secs(60))));
    assert!(decision(soon, &self::config(), &observed).held_back.is_some());
    observed.request = Request::Force;
    assert_eq!(decision(soon, &self::config(), &observed).actions, [Action::Issue]);
}

#[test]
fn a_clock_before_the_certificates_orders_nothing_and_calls_nothing_expired() {
    let observed = live(1, START, days(90));
    let snapshot = Snapshot { certificates: BTreeMap::from([(name("a"), Box::new(observed))]) };
    for now in [Timestamp::from_seconds(0), START.before(days(1))] {
        let plan = plan(now, &config(), &snapshot);
        assert!(plan.clock_suspect.is_some(), "{now}");
        assert_eq!(plan.decisions[0].actions, [], "{now}");
    }
    assert_eq!(plan(START, &config(), &snapshot).clock_suspect, None);
    let mut found = live(1, START, days(90));
    found.held.as_mut().unwrap().meta.origin = None;
    let snapshot = Snapshot { certificates: BTreeMap::from([(name("a"), Box::new(found))]) };
    assert_eq!(plan(START.before(days(1)), &config(), &snapshot).clock_suspect, None);
    let nothing_held = plan(Timestamp::from_seconds(0), &config(), &Snapshot::default());
    assert_eq!(nothing_held.decisions[0].held_back, Some(HeldBack::Clock));
}

#[test]
fn what_was_decided_holds_until_it_is_touched_or_its_moment_comes() {
    let (config, now) = (config(), START.after(days(1)));
    let seen = BTreeMap::from([(name("a"), Box::new(live(1, START, days(90))))]);
    let (seen, gone) = (Snapshot { certificates: seen }, Snapshot::default());
    let before = plan(now, &config, &seen);
    let again = |now, snapshot: &Snapshot, before: &Plan, touched: &[&str]| {
        let touched = touched.iter().map(|touched| name(touched)).collect();
        plan_again(now, &config, snapshot, Some(before.clone()), &touched)
    };
    assert_eq!(again(now, &gone, &before, &["b"]), before);
    assert_eq!(again(now, &gone, &before, &["a"]), plan(now, &config, &gone));
    let due = before.decisions[0].wake_at;
    assert_eq!(again(due, &gone, &before, &[]), plan(due, &config, &gone));
    let ordered = plan(due, &config, &gone);
    assert_eq!(again(due, &seen, &ordered, &[]), ordered, "what is due stays due");
    let suspect = START.before(days(1));
    assert_eq!(again(suspect, &seen, &before, &[]), plan(suspect, &config, &seen));
}

#[test]
fn a_target_is_worked_on_until_it_is_live() {
    let at = START.after(days(1));
    let record = |observed: &mut Observed, change: fn(&mut ObservedTarget)| {
        change(observed.targets.get_mut(&target()).unwrap());
    };
    let why = |observed: &Observed| match decision(at, &config(), observed).actions.as_slice() {
        [] => None,
        [Action::Deploy { why, .. }] => Some(why.clone()),
        other => panic!("{other:?}"),
    };
    let mut observed = live(1, START, days(90));
    assert_eq!(why(&observed), None);
    record(&mut observed, |t| t.outputs = OutputState::Missing);
    assert!(matches!(why(&observed), Some(DeployReason::Drifted { .. })));
    record(&mut observed, |t| {
        *t = ObservedTarget {
            outputs: OutputState::Current,
            record: TargetRecord { live_at: None, ..t.record.clone() },
            ..ObservedTarget::default()
        }
    });
    assert_eq!(why(&observed), Some(DeployReason::NotLive));
    assert_eq!(decision(at, &config(), &observed).state, State::Installed);
    record(&mut observed, |t| t.record.not_before = Some(START.after(days(2))));
    assert_eq!(why(&observed), None);
    observed.request = Request::Now;
    assert_eq!(why(&observed), Some(DeployReason::NotLive));
    observed.targets.clear();
    assert_eq!(why(&observed), Some(DeployReason::NotInstalled));
    assert_eq!(decision(at, &config(), &observed).state, State::Staged);
}

#[test]
fn a_rollback_stays_until_a_newer_certificate_is_issued() {
    let at = START.after(days(1));
    let mut observed = live(2, START, days(90));
    let seen = observed.targets.get_mut(&target()).unwrap();
    seen.record.generation = 1;
    seen.record.pinned_over = Some(2);
    let decided = decision(at, &config(), &observed);
    assert_eq!((decided.actions, decided.state), (vec![], State::Live { verified: false }));
    observed.held = Some(held(3, START, days(90)));
    let actions = decision(at, &config(), &observed).actions;
    assert!(
        matches!(actions.as_slice(), [.., Action::Deploy { generation: 3, .. }]),
        "{actions:?}"
    );
}

#[test]
fn what_the_files_hold_is_taken_over_before_anything_is_ordered() {
    let found = held(1, START, days(90)).leaf;
    let mut observed = Observed { found: Some(Box::new(found)), ..Observed::default() };
    let now = START.after(days(1));
    assert_eq!(decision(now, &config(), &observed).actions, [Action::Adopt]);
    assert_eq!(decision(START.after(days(91)), &config(), &observed).actions, [Action::Issue]);
    let for_next_month = decision(START.before(days(30)), &config(), &observed);
    assert_eq!(for_next_month.actions, [Action::Issue]);
    observed.request = Request::Force;
    assert_eq!(decision(now, &config(), &observed).actions, [Action::Issue]);
}

#[test]
fn one_target_after_the_other_is_deployed_to_where_that_is_asked_for() {
    let mut config = config();
    let [first, second] = ["canary", "rest"].map(|name| TargetName::parse(name).unwrap());
    let only = certificate(&mut config).targets.remove(0);
    certificate(&mut config).targets =
        [&first, &second].map(|name| Target { name: name.clone(), ..only.clone() }).into();
    let at = START.after(days(1));
    let mut observed = live(1, START, days(90));
    let seen = observed.targets.remove(&target()).unwrap();
    observed.targets = [(first.clone(), seen.clone()), (second.clone(), seen)].into();
    observed.held = Some(held(2, START, days(90)));
    let due = |config: &Config, observed: &Observed| {
        let actions = decision(at, config, observed).actions;
        let targets = actions.into_iter().filter_map(|action| match action {
            Action::Deploy { target, .. } => Some(target),
            _ => None,
        });
        targets.collect::<Vec<_>>()
    };
    assert_eq!(due(&config, &observed), [first.clone(), second.clone()]);
    certificate(&mut config).serial = true;
    assert_eq!(due(&config, &observed), std::slice::from_ref(&first));
    let record = &mut observed.targets.get_mut(&first).unwrap().record;
    (record.generation, record.installed_at, record.live_at) = (2, Some(at), None);
    record.not_before = Some(at.after(days(1)));
    assert_eq!(due(&config, &observed), [], "the canary is not live, and waits");
    let record = &mut observed.targets.get_mut(&first).unwrap().record;
    (record.live_at, record.not_before) = (Some(at), None);
    assert_eq!(due(&config, &observed), [second]);
}

#[test]
fn a_server_is_reloaded_no_more_often_than_it_may_be_until_what_it_serves_ends() {
    let mut config = config();
    let only = &mut certificate(&mut config).targets[0];
    only.max_reloads_per_hour = Some(2);
    only.reload = Some(Reload::Systemd { unit: "a.service".to_owned(), timeout: days(1) });
    let at = START.after(days(60));
    let mut observed = live(1, START, days(90));
    observed.held = Some(held(2, at, days(90)));
    let ages = |minutes: &[u64]| -> Vec<_> {
        minutes.iter().map(|m| at.before(Duration::from_secs(m * 60))).collect()
    };
    let next = |observed: &Observed| {
        let decided = decision(at, &config, observed);
        let due = decided.actions.iter().any(|a| matches!(a, Action::Deploy { .. }));
        (!due).then_some(decided.wake_at.since(at).as_secs() / 60)
    };
    for (reloads, expected) in [
        (&[][..], None),
        (&[5], None),
        (&[50, 5], Some(10)),
        (&[90, 50, 5], Some(10)),
        (&[90, 5], None),
        (&[50, 40, 5], Some(20)),
    ] {
        observed.targets.get_mut(&target()).unwrap().record.reloads = ages(reloads);
        assert_eq!(next(&observed), expected, "{reloads:?}");
    }
    let seen = observed.targets.get_mut(&target()).unwrap();
    seen.record.reloads = ages(&[50, 5]);
    seen.in_force = Some(Box::new(held(1, at.before(days(89)), days(90)).leaf));
    assert_eq!(next(&observed), None, "what is served ends tomorrow");
}

#[test]
fn what_a_server_refuses_is_not_ordered_again_until_it_ends() {
    let mut observed = live(1, START, days(90));
    let record = &mut observed.targets.get_mut(&target()).unwrap().record;
    (record.installed_at, record.live_at) = (None, None);
    let held_back = |refusals, day, observed: &Observed| {
        let mut observed = observed.clone();
        observed.targets.get_mut(&target()).unwrap().record.refusals = refusals;
        decision(START.after(days(day)), &config(), &observed).held_back
    };
    let undeployed = Some(HeldBack::Undeployed { target: target() });
    assert_eq!(held_back(2, 70, &observed), None);
    assert_eq!(held_back(3, 70, &observed), undeployed);
    assert_eq!(held_back(3, 89, &observed), None, "an emergency");
    observed.request = Request::Force;
    assert_eq!(held_back(3, 70, &observed), None);
}

#[test]
fn a_server_that_refuses_keeps_no_renewal_from_others_that_do_not() {
    let mut observed = live(1, START, days(90));
    let mut config = config();
    let targets = &mut certificate(&mut config).targets;
    let mail = Target { name: TargetName::parse("mail").unwrap(), ..targets[0].clone() };
    targets.push(mail.clone());
    let record = TargetRecord { generation: 1, refusals: 3, ..TargetRecord::default() };
    let seen = Box::new(ObservedTarget { record, ..ObservedTarget::default() });
    observed.targets.insert(mail.name, seen);
    assert_eq!(decision(START.after(days(70)), &config, &observed).held_back, None);
    observed.targets.get_mut(&target()).unwrap().record.installed_at = None;
    let held_back = decision(START.after(days(70)), &config, &observed).held_back;
    assert!(matches!(held_back, Some(HeldBack::Undeployed { .. })), "{held_back:?}");
}

/// One certificate through a span of time: what a plan asks for is done at once
struct Simulation {
    now: Timestamp,
    observed: Observed,
    lifetime: Duration,
    issued: u32,
    inquiries: u32,
    looks: u32,
    least_left: Duration,
}

impl Simulation {
    fn run(lifetime: Duration, span: Duration, fails: impl Fn(u32, Timestamp) -> bool) -> Self {
        let config = config();
        let mut this = Self {
            now: START,
            observed: Observed::default(),
            lifetime,
            issued: 0,
            inquiries: 0,
            looks: 0,
            least_left: lifetime,
        };
        let mut orders = 0;
        while this.now < START.after(span) {
            this.looks += 1;
            let decided = decision(this.now, &config, &this.observed);
            for action in &decided.actions {
                match action {
                    Action::Issue => {
                        orders += 1;
                        if fails(orders, this.now) { this.fail() } else { this.issue() }
                    }
                    Action::RenewalInfo { .. } => this.inquire(),
                    Action::Deploy { .. } => this.deploy(),
                    Action::Adopt => panic!("nothing to adopt"),
                }
            }
            if let Some(held) = &this.observed.held {
                this.least_left = this.least_left.min(held.leaf.not_after.since(this.now));
            }
            let next = decided.wake_at.min(this.now.after(LONGEST_SLEEP));
            this.now = next.max(this.now.after(Duration::from_secs(1)));
        }
        this
    }

    fn issue(&mut self) {
        self.issued += 1;
        let new = held(self.issued, self.now, self.lifetime);
        let mut issued = ledger::retained(&self.observed.attempts.issued, self.now);
        issued.push(IssuedRecord {
            at: self.now,
            identifiers: new.leaf.identifiers.iter().cloned().collect(),
            lifetime: self.lifetime.as_secs(),
        });
        self.observed.attempts = Attempts { issued, ..Attempts::default() };
        self.observed.held = Some(new);
    }

    fn fail(&mut self) {
        let attempts = &mut self.observed.attempts;
        attempts.failures += 1;
        let failure = Failure::retry(Step::Order, "no");
        let lifetime = self.observed.held.as_ref().map(|held| held.leaf.lifetime());
        let until = backoff::after_failure(
            self.now,
            attempts.failures,
            &failure.class,
            lifetime,
            Seed(u64::from(attempts.failures) << 60),
        );
        attempts.not_before = Some(until);
        attempts.last_failure = Some(Box::new(failure));
    }

    fn inquire(&mut self) {
        self.inquiries += 1;
        let leaf = &self.observed.held.as_ref().unwrap().leaf;
        let centre = leaf.not_after.before(leaf.lifetime() / 3);
        let half = leaf.lifetime() / 100;
        self.observed.attempts.renewal_info = Some(RenewalInfo {
            fingerprint: leaf.fingerprint,
            window: Some(SuggestedWindow { start: centre.before(half), end: centre.after(half) }),
            explanation_url: None,
            next_check: self.now.after(Duration::from_secs(6 * 3600)),
            failures: 0,
        });
    }

    fn deploy(&mut self) {
        let number = self.observed.held.as_ref().unwrap().meta.number;
        self.observed.targets.insert(
            target(),
            live(number, self.now, self.lifetime).targets.remove(&target()).unwrap(),
        );
    }
}

#[test]
fn a_year_passes_with_one_renewal_in_two_thirds_of_each_life() {
    for (life, expected) in [(90, 6..=7), (64, 8..=9), (45, 12..=13)] {
        let year = Simulation::run(days(life), days(365), |_, _| false);
        assert!(expected.contains(&year.issued), "{life} days: {} issued", year.issued);
        assert!(year.least_left > days(life) * 30 / 100, "{life} days: {:?} left", year.least_left);
        assert!(year.inquiries >= 2 * 364, "{life} days: {} inquiries", year.inquiries);
    }
}

#[test]
fn six_day_certificates_outlive_a_ca_that_is_down_for_two_days() {
    let down = START.after(days(30))..START.after(days(32));
    let span =
        Simulation::run(Duration::from_secs(160 * 3600), days(60), |_, now| down.contains(&now));
    assert!(span.least_left > Duration::ZERO, "{:?}", span.least_left);
    assert!((14..=18).contains(&span.issued), "{} issued", span.issued);
}

#[test]
fn a_ca_that_never_answers_is_asked_four_times_in_two_hours_and_then_daily() {
    let span = Simulation::run(days(90), days(10), |_, _| true);
    assert!(
        (12..=14).contains(&span.observed.attempts.failures),
        "{}",
        span.observed.attempts.failures
    );
}

#[test]
fn a_clock_that_jumps_a_month_ahead_makes_one_renewal() {
    let observed = live(1, START, days(45));
    let decided = decision(START.after(days(33)), &config(), &observed);
    assert_eq!(decided.actions, [Action::Issue]);
}

proptest! {
    #[test]
    fn no_moment_and_no_window_makes_the_planner_panic_or_sleep_past_an_action(
        now in any::<i64>(), start in any::<i64>(), end in any::<i64>(),
        from in any::<i64>(), life in any::<u64>(), next_check in any::<i64>(),
        not_before in proptest::option::of(any::<i64>()), before in 1_u16..999,
    ) {
        let mut observed = live(1, Timestamp::from_millis(from), Duration::from_millis(life));
        window(&mut observed, Timestamp::from_millis(start), Timestamp::from_millis(end));
        asked_at(&mut observed, Timestamp::from_millis(next_check));
        observed.attempts.not_before = not_before.map(Timestamp::from_millis);
        let mut config = config();
        certificate(&mut config).renew.before = Some(Share::PerMille(before));
        let now = Timestamp::from_millis(now);
        let snapshot = Snapshot { certificates: BTreeMap::from([(name("a"), Box::new(observed))]) };
        let plan = plan(now, &config, &snapshot);
        prop_assert!(plan.wake_at >= now);
        prop_assert!(plan.wake_at <= now.after(LONGEST_SLEEP));
        let decided = &plan.decisions[0];
        prop_assert!(decided.actions.is_empty() || plan.wake_at == now);
    }

    #[test]
    fn a_renewal_is_never_later_than_the_emergency_line(
        life in 60_u64..40_000_000, start in 0_u64..40_000_000, length in 1_u64..1_000_000,
    ) {
        let mut observed = live(1, START, Duration::from_secs(life));
        let start = START.after(Duration::from_secs(start));
        window(&mut observed, start, start.after(Duration::from_secs(length)));
        let line = START.after(Duration::from_secs(life)).before(Duration::from_secs(life) / 12);
        prop_assert!(decision(START, &config(), &observed).renew_at <= line);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8192))]
    #[test]
    fn until_a_decision_is_to_be_taken_again_it_would_be_the_same(
        (life, age, later) in (2_u64..90, 0_u64..1000, 0_u64..1000),
        asked_in in 1_u64..2000,
        window_in in proptest::option::of(1_u64..2000),
        key_max_age in proptest::option::of(1_u64..90),
        issued_before in proptest::collection::vec(1_u64..50, 0..4),
        failed_before in proptest::option::of((1_u64..50, 0_u64..100)),
        (generation, is_live) in (1_u32..3, proptest::bool::weighted(0.8)),
        pinned in proptest::option::of(1_u64..500),
        in_force in proptest::option::of(1_u64..500),
        reloads_before in proptest::collection::vec(0_u64..90, 0..4),
        (rest_in, failures) in (proptest::option::of(0_u64..2000), 0_u32..4),
    ) {
        let life = days(life);
        let now = START.after(life / 1000 * u32::try_from(age).unwrap());
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let mut observed = live(2, START, life);
        asked_at(&mut observed, now.after(hours(asked_in)));
        if let Some(start) = window_in {
            window(&mut observed, now.after(hours(start)), now.after(hours(start + 9)));
        }
        let mut config = config();
        let wanted = certificate(&mut config);
        wanted.renew.key_max_age = key_max_age.map(days);
        let reload = Reload::Systemd { unit: "a.service".to_owned(), timeout: days(1) };
        wanted.targets[0].reload = Some(reload);
        wanted.targets[0].max_reloads_per_hour = Some(2);
        let issued = |before| IssuedRecord {
            at: now.before(hours(before)),
            identifiers: wanted.identifiers.clone(),
            lifetime: life.as_secs(),
        };
        observed.attempts.issued = issued_before.into_iter().map(issued).collect();
        observed.attempts.issued.sort_unstable_by_key(|issued| issued.at);
        if let Some((before, wait)) = failed_before {
            let failed_at = now.before(hours(before));
            observed.attempts.failed_at = Some(failed_at);
            observed.attempts.not_before = Some(failed_at.after(hours(wait)));
        }
        let seen = observed.targets.get_mut(&target()).unwrap();
        let ends_in = |end| Box::new(held(1, START, now.after(hours(end)).since(START)).leaf);
        let pinned = pinned.filter(|_| generation == 1);
        seen.pinned = pinned.map(ends_in);
        seen.in_force = in_force.map(ends_in);
        let record = &mut seen.record;
        record.pinned_over = pinned.map(|_| 2);
        record.generation = generation;
        record.failures = failures;
        record.live_at = record.live_at.filter(|_| is_live);
        record.not_before = rest_in.map(|rest| now.after(hours(rest)));
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        record.reloads = reloads_before.into_iter().map(|m| now.before(minutes(m))).collect();
        record.reloads.sort_unstable();
        let first = decision(now, &config, &observed);
        if first.actions.is_empty() && first.wake_at > now {
            let span = u64::try_from(first.wake_at.since(now).as_millis()).unwrap();
            let later = now.after(Duration::from_millis(span * later / 1000));
            let second = decision(later, &config, &observed);
            prop_assert_eq!(second.actions, vec![]);
            prop_assert_eq!(second.state, first.state);
        }
    }
}

/// Have the CA asked about it at that moment
fn asked_at(observed: &mut Observed, at: Timestamp) {
    observed.attempts.renewal_info.as_mut().unwrap().next_check = at;
    let leaf = &mut observed.held.as_mut().unwrap().leaf;
    leaf.ari_id = Some(AriId { key_identifier: vec![1], serial: vec![2] });
}

#[test]
fn where_the_records_cannot_be_read_the_ca_is_asked_nothing() {
    let mut observed = live(1, START, days(90));
    observed.attempts = Attempts {
        failures: 1,
        not_before: Some(Timestamp::from_seconds(253_402_300_799)),
        ..Attempts::default()
    };
    for request in [Request::None, Request::Now, Request::Force] {
        observed.request = request;
        for day in [1, 70, 89] {
            let decided = decision(START.after(days(day)), &config(), &observed);
            assert_eq!(decided.actions, [], "{request:?} on day {day}");
        }
    }
}

#[test]
fn what_was_written_while_the_clock_was_ahead_holds_nothing_back() {
    let now = START.after(days(70));
    let ahead = now.after(days(400));
    let mut observed = live(1, START, days(90));
    observed.attempts.failures = 4;
    observed.attempts.failed_at = Some(ahead);
    observed.attempts.not_before = Some(ahead.after(days(1)));
    asked_at(&mut observed, ahead);
    observed.attempts.issued = vec![IssuedRecord {
        at: ahead,
        identifiers: config().certificates[&name("a")].identifiers.clone(),
        lifetime: 90 * DAY,
    }];
    observed.targets.entry(target()).and_modify(|t| {
        t.record.live_at = None;
        t.record.not_before = Some(ahead);
    });
    let decided = decision(now, &config(), &observed);
    assert_eq!(decided.held_back, None);
    let issuer = IssuerName::parse("ca").unwrap();
    assert_eq!(decided.actions, [Action::RenewalInfo { issuer }, Action::Issue]);
    let decided = decision(START.after(days(50)), &config(), &observed);
    assert!(matches!(decided.actions.last(), Some(Action::Deploy { .. })), "{decided:?}");
}

#[test]
fn a_suspect_clock_lets_the_agent_sleep_whatever_is_due() {
    let now = START.before(days(3));
    let mut observed = live(1, START, days(90));
    asked_at(&mut observed, now.before(days(1)));
    let decided = decision(now, &config(), &observed);
    assert_eq!(decided.actions, []);
    assert!(decided.wake_at > now, "{decided:?}");
}

#[test]
fn a_rollback_ends_before_what_it_went_back_to_does() {
    let older = held(1, START.before(days(80)), days(90)).leaf;
    let mut observed = live(2, START, days(90));
    observed.targets.entry(target()).and_modify(|t| {
        t.record.generation = 1;
        t.record.pinned_over = Some(2);
        t.pinned = Some(Box::new(older));
    });
    let at = |day| decision(START.after(days(day)), &config(), &observed);
    assert_eq!((at(1).actions, at(1).state), (vec![], State::Live { verified: false }));
    assert!(matches!(at(9).actions.as_slice(), [Action::Deploy { generation: 2, .. }]));
}
