//! The agent in process and as the compiled binary, on a CA that misbehaves on request.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certkeep::agent::{Agent, Controls, Events, Outcome, Secrets, Shared};
use certkeep::challenge::Solver;
use certkeep::clock::SystemClock;
use certkeep::config::Config;
use certkeep::dev_ca::{
    Answer, DevCa, Fault, Flaw, Options, ProblemType, Resource, RetryAfter, Waiting,
};
use certkeep::event::Event;
use certkeep::failure::Step;
use certkeep::name::{Identifier, IssuerName};
use certkeep::plan::Request;
use certkeep::signal;
use certkeep::store::{LockMode, Store};
use certkeep::time::{Clock, Timestamp};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use support::process::Daemon;
use support::{PATIENCE, folder, wait_until};

/// The real clock, put forward by hand
#[derive(Debug, Default)]
struct TestClock(AtomicI64);

impl TestClock {
    fn forward(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let ahead = self.0.load(Ordering::SeqCst);
        Timestamp::from_millis(SystemClock.now().as_millis() + ahead)
    }
}

/// A CA, and a host that gets its certificates there
struct World {
    ca: DevCa,
    clock: Arc<TestClock>,
    folder: TempDir,
    port: u16,
    seen: Arc<Mutex<Vec<Event>>>,
}

impl World {
    async fn new() -> Self {
        let port = support::free_port(std::net::Ipv4Addr::LOCALHOST.into());
        let clock = Arc::new(TestClock::default());
        let options = Options { http01_port: port, ..Options::default() };
        let ca = DevCa::start(options, Arc::clone(&clock) as Arc<dyn Clock>).await.unwrap();
        let folder = folder();
        support::write(folder.path().join("root.pem"), ca.root_pem());
        for name in ["tls", "www"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { ca, clock, folder, port, seen: Arc::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The configuration with these certificates, a YAML map in which `HOME` is the folder
    fn config(&self, certificates: &str) -> Config {
        let (home, directory, port) =
            (self.folder.path().display(), self.ca.directory(), self.port);
        let text = format!(
            "state_dir: {home}/state\nissuers:\n  dev: {{ directory: \"{directory}\", \
             ca_file: {home}/root.pem, accept_terms: true }}\ndefaults:\n  \
             challenge: {{ http-01: {{ listen: \"127.0.0.1:{port}\" }} }}\n\
             certificates:\n  {}\n",
            certificates.replace("HOME", &home.to_string()).replace('\n', "\n  ")
        );
        let path = self.path("certkeep.yaml");
        support::write(&path, &text);
        Config::parse(&text, &path).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
    }

    /// The same with another CA, `other`, that is asked after the first
    async fn with_another(&self, certificates: &str) -> (Config, DevCa) {
        let other = DevCa::start(
            Options { http01_port: self.port, ..Options::default() },
            Arc::clone(&self.clock) as Arc<dyn Clock>,
        )
        .await
        .unwrap();
        support::write(self.path("other.pem"), other.root_pem());
        self.config(certificates);
        let text = support::read(self.path("certkeep.yaml"));
        let home = self.folder.path().display();
        let issuer = format!(
            "issuers:\n  other: {{ directory: \"{}\", ca_file: {home}/other.pem, accept_terms: true }}",
            other.directory()
        );
        let text = text.replace("issuers:", &issuer);
        let text = text.replace("{ names:", "{ issuer: [dev, other], names:");
        (Config::parse(&text, &self.path("certkeep.yaml")).unwrap(), other)
    }

    /// What jobs need; `first` hears of each event before it is kept
    fn shared(&self, config: &Config, first: impl Fn(&Event) + Send + Sync + 'static) -> Shared {
        let seen = Arc::clone(&self.seen);
        let events: Events = Arc::new(move |event| {
            first(&event);
            seen.lock().unwrap().push(event);
        });
        Shared::new(
            Store::open(config).unwrap(),
            Arc::clone(&self.clock) as Arc<dyn Clock>,
            Solver::new(Vec::new()).unwrap(),
            events,
            Secrets::new(Arc::new(|_| None)),
        )
    }

    async fn renew(&self, config: &Config, request: Request) -> Outcome {
        let shared = self.shared(config, |_| ());
        Agent::new(shared, config.clone()).once(request).await.unwrap()
    }

    /// What a service that stays is told by: signals, and the same configuration again
    fn controls(&self, config: &Config) -> (mpsc::Sender<signal::Request>, Controls) {
        let (signals, receive) = mpsc::channel(4);
        let config = config.clone();
        let controls = Controls {
            signals: receive,
            systemd: None,
            config_path: self.path("certkeep.yaml"),
            config_stamp: None,
            read_config: Box::new(move || Ok(config.clone())),
        };
        (signals, controls)
    }

    /// Wait for an event
    async fn sees(&self, what: &str, is_it: impl Fn(&Event) -> bool) {
        let look = async {
            while !self.seen.lock().unwrap().iter().any(&is_it) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, look).await.is_err() {
            panic!("never seen: {what}; but {:#?}", self.seen.lock().unwrap());
        }
    }

    fn count(&self, is_it: impl Fn(&Event) -> bool) -> usize {
        self.seen.lock().unwrap().iter().filter(|event| is_it(event)).count()
    }

    fn asked(&self, resource: Resource) -> usize {
        self.ca.requests().iter().filter(|request| request.resource == resource).count()
    }
}

fn is_live(event: &Event, name: &str) -> bool {
    matches!(event, Event::Live { certificate, .. } if certificate.as_str() == name)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_contact_that_the_ca_refuses_stops_no_renewal() {
    let world = World::new().await;
    let mut config = world.config("a: { names: [a.test], dir: HOME/tls }");
    world.renew(&config, Request::Now).await;
    let issuer = config.issuers.values_mut().next().unwrap();
    issuer.contact.push("mailto:nobody@example.test".to_owned());
    let answer = Answer::problem(ProblemType::InvalidContact, "no such host");
    world.ca.inject(Fault::Answer { to: Resource::Account, times: 1, answer });
    let outcome = world.renew(&config, Request::Force).await;
    assert!(outcome.failed.is_empty() && outcome.report.all_well(), "{:?}", outcome.report);
    assert_eq!(world.ca.issued().len(), 2);
    let seen = world.seen.lock().unwrap();
    assert!(seen.iter().any(|event| event.to_string().contains("no such host")), "{seen:?}");
}

#[tokio::test]
async fn a_job_that_panics_is_tried_later_while_another_one_hangs() {
    let world = World::new().await;
    let config = world.config(
        "bad: { names: [bad.test], dir: HOME/tls/bad }\n\
         slow: { names: [slow.test], dir: HOME/tls/slow }",
    );
    let what = Waiting::Authorization;
    let slow = Fault::StayProcessing { what, times: 1, polls: u32::MAX, retry_after: None };
    world.ca.inject(slow);
    let first = AtomicBool::new(true);
    let shared = world.shared(&config, move |event| {
        let order = matches!(event, Event::StepBegun { certificate, step: Step::Order }
            if certificate.as_str() == "bad");
        assert!(!order || !first.swap(false, Ordering::SeqCst), "a defect, made on purpose");
    });
    let (signals, controls) = world.controls(&config);
    let agent = Agent::new(shared, config).run(controls);
    let story = async {
        world
            .sees("the panic", |event| {
                matches!(event, Event::Warned { message, .. }
                    if message.as_str().contains("ended unexpectedly"))
            })
            .await;
        // From here on the fault is the other one's.
        while world.asked(Resource::Challenge) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        world.clock.forward(Duration::from_secs(11 * 60));
        signals.send(signal::Request::Reload).await.unwrap();
        world.sees("bad is live", |event| is_live(event, "bad")).await;
        signals.send(signal::Request::Stop("the test")).await.unwrap();
    };
    let (ended, ()) = tokio::join!(agent, story);
    ended.unwrap();
    assert_eq!(world.count(|event| is_live(event, "slow")), 0);
}

#[tokio::test]
async fn a_server_that_spoils_its_own_files_is_not_reloaded_over_and_over() {
    let world = World::new().await;
    let config = world.config(
        "a: { names: [a.test], dir: HOME/tls/a, deploy: { reload: { command: \
         [sh, -c, \"echo >> HOME/reloads; rm -f HOME/tls/a/privkey.pem\"] } } }",
    );
    world.renew(&config, Request::Now).await;
    let reloads = support::read(world.path("reloads")).len();
    assert!(reloads <= 2, "{reloads} reloads");
    assert!(world.count(|event| matches!(event, Event::Restored { .. })) <= 2);
}

#[tokio::test]
async fn new_files_that_are_changed_at_once_are_back_within_a_minute() {
    let world = World::new().await;
    let config = world.config(
        "a: { names: [a.test], dir: HOME/tls/a, deploy: { reload: { command: \
         [sh, -c, \"[ -e HOME/done ] || rm HOME/tls/a/privkey.pem; touch HOME/done\"] } } }",
    );
    let (signals, controls) = world.controls(&config);
    let agent = Agent::new(world.shared(&config, |_| ()), config).run(controls);
    let is_restored = |event: &Event| matches!(event, Event::Restored { .. });
    let story = async {
        world.sees("it is live", |event| is_live(event, "a")).await;
        // Until the agent has seen what became of the files, which it tells nobody.
        while timeout(Duration::from_millis(50), world.sees("", is_restored)).await.is_err() {
            world.clock.forward(Duration::from_secs(1));
            signals.send(signal::Request::Reload).await.unwrap();
        }
        assert!(world.clock.0.load(Ordering::SeqCst) <= 60_000);
        signals.send(signal::Request::Stop("the test")).await.unwrap();
    };
    let (ended, ()) = tokio::join!(agent, story);
    ended.unwrap();
    assert!(world.path("tls/a/privkey.pem").exists());
}

#[tokio::test]
async fn work_waits_for_a_process_that_sweeps() {
    let world = World::new().await;
    let config = world.config("a: { names: [a.test], dir: HOME/tls/a }");
    let shared = world.shared(&config, |_| ());
    let sweeping = shared.store.lock_store(LockMode::Exclusive).unwrap().unwrap();
    let renewal = Agent::new(shared.clone(), config).once(Request::Now);
    let mut renewal = std::pin::pin!(renewal);
    assert!(timeout(Duration::from_millis(200), &mut renewal).await.is_err());
    assert_eq!(world.ca.requests(), []);
    drop(sweeping);
    assert!(renewal.await.unwrap().report.all_well());
    let at_work = shared.at_work().await.unwrap();
    assert!(shared.store.lock_store(LockMode::Exclusive).unwrap().is_none());
    drop(at_work);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_is_terminated_leaves_nothing_published() {
    let world = World::new().await;
    world.config(
        "a: { names: [a.test], dir: HOME/tls/a, challenge: { http-01: { webroot: HOME/www } } }",
    );
    world.ca.inject(Fault::StayProcessing {
        what: Waiting::Authorization,
        times: 1,
        polls: u32::MAX,
        retry_after: None,
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_certkeep"));
    command.arg("--config").arg(world.path("certkeep.yaml")).arg("renew");
    let ended = tokio::task::spawn_blocking({
        let (log, www) = (world.path("log"), world.path("www/.well-known/acme-challenge"));
        move || {
            let mut renewal = Daemon::start(&mut command, &log).unwrap();
            wait_until("the challenge is published", PATIENCE, || {
                (!entries(&www).is_empty()).then_some(())
            });
            renewal.signal(Signal::TERM);
            renewal.wait(PATIENCE)
        }
    });
    let ended = ended.await.unwrap();
    assert_eq!(ended.code(), Some(1), "{}", support::read(world.path("log")));
    assert_eq!(entries(&world.path("www")), Vec::<PathBuf>::new());
    assert_eq!(entries(&world.path("state/published")), Vec::<PathBuf>::new());
    assert!(support::read(world.path("log")).contains("SIGTERM"));
    assert!(world.asked(Resource::NewOrder) == 1);
}

#[tokio::test]
async fn a_forced_renewal_in_vain_fails_and_the_certificate_is_well_all_the_same() {
    let world = World::new().await;
    let config = world.config("a: { names: [a.test], dir: HOME/tls/a }");
    assert!(world.renew(&config, Request::Now).await.report.all_well());
    let detail = "not today";
    let answer = Answer::problem(ProblemType::RejectedIdentifier, detail);
    // Refused with `replaces`, and without.
    world.ca.inject(Fault::Answer { to: Resource::NewOrder, times: 2, answer });
    let outcome = world.renew(&config, Request::Force).await;
    assert_eq!(outcome.failed.len(), 1);
    let later = world.renew(&config, Request::Now).await;
    assert!(later.report.all_well(), "{}", later.report.status());
    assert!(!later.report.status().contains(detail));
    assert!(later.failed.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_certificates_need_few_files_at_once() {
    let world = World::new().await;
    let certificates: Vec<_> =
        (0..260).map(|n| format!("c{n}: {{ names: [c{n}.test], dir: HOME/tls/c{n} }}")).collect();
    world.config(&certificates.join("\n"));
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 256; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_certkeep")]);
    command.arg("--config").arg(world.path("certkeep.yaml")).arg("renew");
    let log = world.path("log");
    let ended = tokio::task::spawn_blocking({
        let log = log.clone();
        move || Daemon::start(&mut command, &log).unwrap().wait(PATIENCE * 2)
    });
    let ended = ended.await.unwrap();
    assert!(ended.success(), "{ended}: {}", support::read(log));
}

#[tokio::test]
async fn a_server_that_loaded_foreign_files_loads_the_restored_ones() {
    let world = World::new().await;
    let config = world.config(
        "a: { names: [a.test], dir: HOME/tls/a, deploy: { reload: { command: \
         [sh, -c, \"cat HOME/tls/a/fullchain.pem > HOME/loaded; echo >> HOME/reloads\"] } } }",
    );
    world.renew(&config, Request::Now).await;
    let (file, loaded) = (world.path("tls/a/fullchain.pem"), world.path("loaded"));
    let ours = support::read(&file);
    std::fs::remove_file(&file).unwrap();
    support::write(&file, "foreign");
    support::write(&loaded, "foreign");
    world.renew(&config, Request::Now).await;
    assert_eq!((support::read(&file), support::read(&loaded)), (ours.clone(), ours));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o604);
    std::fs::set_permissions(&file, mode).unwrap();
    world.renew(&config, Request::Now).await;
    assert_eq!(support::read(world.path("reloads")).len(), 2, "a mode is nothing to reload for");
}

#[tokio::test]
async fn a_certificate_that_is_not_the_one_ordered_is_never_staged() {
    let world = World::new().await;
    let config = world.config("a: { names: [a.test], dir: HOME/tls/a }");
    let other = || Identifier::parse("other.test").unwrap();
    let flaws = [
        Flaw::ForeignKey,
        Flaw::OtherName(other()),
        Flaw::ExtraName(other()),
        Flaw::ExpiredLeaf,
        Flaw::ForeignIntermediate,
        Flaw::LeafIsCa,
        Flaw::Text(String::new()),
        Flaw::Text(
            "-----BEGIN CERTIFICATE-----\n\u{1b}[2J\n-----END CERTIFICATE-----\n".to_owned(),
        ),
    ];
    for flaw in flaws {
        let orders = world.asked(Resource::NewOrder);
        world.ca.inject(Fault::Certificate { times: 1, flaw: flaw.clone() });
        let outcome = world.renew(&config, Request::Force).await;
        world.ca.clear_faults();
        assert_eq!(outcome.failed.len(), 1, "{flaw:?}");
        assert_eq!(outcome.report.certificates[0].state, "missing", "{flaw:?}");
        assert_eq!(entries(&world.path("tls")), Vec::<PathBuf>::new(), "{flaw:?}");
        assert_eq!(world.asked(Resource::NewOrder), orders + 1, "{flaw:?}");
        assert!(!outcome.report.status().contains('\u{1b}'), "{flaw:?}");
    }
    assert!(world.renew(&config, Request::Force).await.report.all_well());
}

#[tokio::test]
async fn a_clock_that_is_behind_wastes_no_certificate() {
    let world = World::new().await;
    let (config, other) = world.with_another("a: { names: [a.test], dir: HOME/tls/a }").await;
    let behind = Arc::new(TestClock(AtomicI64::new(-48 * 3_600_000)));
    let mut shared = world.shared(&config, |_| ());
    shared.clock = Arc::clone(&behind) as Arc<dyn Clock>;
    for _ in 0..2 {
        let agent = Agent::new(shared.clone(), config.clone());
        let outcome = agent.once(Request::Force).await.unwrap();
        let status = outcome.report.status();
        assert!(!outcome.report.all_well() && status.contains("clock"), "{status}");
        behind.forward(Duration::from_secs(25 * 3600));
    }
    assert!(world.renew(&config, Request::Now).await.report.all_well());
    assert_eq!(other.requests().len(), 0);
    assert_eq!((world.ca.issued().len(), world.asked(Resource::NewOrder)), (1, 1));
}

#[tokio::test]
async fn a_process_that_dies_over_every_order_soon_places_no_more() {
    // While it waits for the answer, and with an order on disk of which nothing comes.
    for dies_at in [Resource::NewOrder, Resource::Authorization] {
        let world = World::new().await;
        let delay = Fault::Delay { to: dies_at, times: u32::MAX, by: Duration::from_secs(3600) };
        world.ca.inject(delay);
        let answer = Answer::text(404, "text/plain", "gone");
        world.ca.inject(Fault::Answer { to: Resource::Order, times: u32::MAX, answer });
        dies_over_every_order(&world, dies_at).await;
    }
}

async fn dies_over_every_order(world: &World, dies_at: Resource) {
    let config = world.config("a: { names: [a.test], dir: HOME/tls/a }");
    let mut died = 0;
    for _ in 0..50 {
        let record = |name| {
            let path = world.path("state/certificates/a").join(name);
            std::fs::read_to_string(path).unwrap_or_default()
        };
        let order = record("order.json");
        let begun = format!("\"begun\": {}", died + 1);
        let begins = async {
            while !record("attempts.json").contains(&begun)
                || dies_at == Resource::Authorization && record("order.json") == order
            {
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            outcome = world.renew(&config, Request::Now) => {
                assert!(outcome.report.certificates[0].held_back.is_some());
            }
            () = begins => died += 1,
        }
    }
    assert_eq!(died, 3, "orders begun by 50 processes that died at {dies_at:?}");
    world.ca.clear_faults();
    world.clock.forward(Duration::from_secs(120));
    let outcome = world.renew(&config, Request::Now).await;
    assert!(outcome.report.all_well(), "{dies_at:?}: {}", outcome.report.status());
}

#[tokio::test]
async fn an_order_under_way_is_finished_however_many_processes_died_before_it() {
    let world = World::new().await;
    let config = world.config("a: { names: [a.test], dir: HOME/tls/a }");
    let record = |name| {
        let path = world.path("state/certificates/a").join(name);
        std::fs::read_to_string(path).unwrap_or_default()
    };
    for died in 1..=4 {
        let dies_at = if died < 4 { Resource::NewOrder } else { Resource::Authorization };
        // A request of the one before may come late, and be the one that waits.
        let by = Duration::from_secs(3600);
        let delay = Fault::Delay { to: dies_at, times: u32::MAX, by };
        world.ca.inject(delay);
        let begins = async {
            while !record("attempts.json").contains(&format!("\"begun\": {died}"))
                || dies_at == Resource::Authorization && record("order.json").is_empty()
            {
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            _ = world.renew(&config, Request::Force) => panic!("it should never end"),
            () = begins => {}
        }
        world.ca.clear_faults();
    }
    assert!(world.renew(&config, Request::Now).await.report.all_well());
    assert_eq!(world.ca.issued().len(), 1);
}

#[tokio::test]
async fn twenty_certificates_that_a_ca_forgot_register_one_account() {
    let world = World::new().await;
    let certificates: Vec<_> =
        (0..20).map(|n| format!("c{n}: {{ names: [c{n}.test], dir: HOME/tls/c{n} }}")).collect();
    let config = world.config(&certificates.join("\n"));
    assert!(world.renew(&config, Request::Now).await.report.all_well());
    world.ca.forget();
    let before = world.asked(Resource::NewAccount);
    let outcome = world.renew(&config, Request::Force).await;
    assert!(outcome.report.all_well() && outcome.failed.is_empty(), "{}", outcome.report.status());
    assert_eq!(world.asked(Resource::NewAccount), before + 1);
}

/// An RSA and an ECDSA certificate for one endpoint, at a CA that gives one order for both
#[tokio::test]
async fn two_certificates_for_the_same_names_do_not_get_one_order() {
    let world = World::new().await;
    let config = world.config(
        "a: { names: [a.test], dir: HOME/tls/a }\n\
         b: { names: [a.test], dir: HOME/tls/b, key: ecdsa-p384 }",
    );
    world.ca.inject(Fault::ReuseOrders);
    let outcome = world.renew(&config, Request::Now).await;
    assert!(outcome.report.all_well() && outcome.failed.is_empty(), "{}", outcome.report.status());
    assert_eq!(world.ca.issued().len(), 2);
}

#[tokio::test]
async fn a_renewal_names_what_it_replaces_to_the_same_account_alone() {
    let world = World::new().await;
    let config = world.config("a: { names: [a.test], dir: HOME/tls/a }");
    world.renew(&config, Request::Now).await;
    world.renew(&config, Request::Force).await;
    std::fs::remove_dir_all(world.path("state/accounts")).unwrap();
    assert!(world.renew(&config, Request::Force).await.report.all_well());
    let issued = world.ca.issued();
    let replaces: Vec<_> = issued.iter().map(|one| one.replaces.is_some()).collect();
    assert_eq!(replaces, [false, true, false]);
}

#[tokio::test]
async fn an_issuer_that_asked_for_a_rest_gets_it_while_another_one_fails() {
    let world = World::new().await;
    let (config, other) = world.with_another("a: { names: [a.test], dir: HOME/tls/a }").await;
    let mut answer = Answer::problem(ProblemType::RateLimited, "tomorrow");
    answer.headers.push(("retry-after".to_owned(), "86400".to_owned()));
    world.ca.inject(Fault::Answer { to: Resource::NewOrder, times: u32::MAX, answer });
    let answer = Answer::text(503, "text/plain", "down");
    other.inject(Fault::Answer { to: Resource::NewOrder, times: u32::MAX, answer });
    world.renew(&config, Request::Now).await;
    let at_other = || other.requests().iter().filter(|r| r.resource == Resource::NewOrder).count();
    let before = (world.asked(Resource::NewOrder), at_other());
    world.clock.forward(Duration::from_secs(120));
    world.renew(&config, Request::Now).await;
    assert_eq!(world.asked(Resource::NewOrder), before.0);
    assert!(at_other() > before.1);
    other.clear_faults();
    world.clock.forward(Duration::from_secs(1200));
    assert!(world.renew(&config, Request::Now).await.report.all_well());
}

#[tokio::test]
async fn an_issuer_that_asks_for_a_rest_puts_off_no_other() {
    let world = World::new().await;
    let (config, other) = world.with_another("a: { names: [a.test], dir: HOME/tls/a }").await;
    let down = Answer::text(503, "text/plain", "down");
    world.ca.inject(Fault::Answer { to: Resource::NewOrder, times: 1, answer: down });
    let mut answer = Answer::problem(ProblemType::RateLimited, "tomorrow");
    answer.headers.push(("retry-after".to_owned(), "86400".to_owned()));
    other.inject(Fault::Answer { to: Resource::NewOrder, times: u32::MAX, answer });
    let outcome = world.renew(&config, Request::Now).await;
    assert!(!outcome.report.all_well());
    world.clock.forward(Duration::from_secs(120));
    let outcome = world.renew(&config, Request::Now).await;
    assert!(outcome.report.all_well(), "{}", outcome.report.status());
    assert_eq!(world.ca.issued().len(), 1);
}

#[tokio::test]
async fn an_order_that_a_ca_issued_outlives_another_issuer_being_asked() {
    let world = World::new().await;
    let (config, other) = world.with_another("a: { names: [a.test], dir: HOME/tls/a }").await;
    let down =
        |to| Fault::Answer { to, times: u32::MAX, answer: Answer::text(503, "text/plain", "down") };
    other.inject(down(Resource::NewOrder));
    for (minutes, to) in [(2, Resource::Certificate), (20, Resource::Any)] {
        world.ca.inject(down(to));
        assert!(!world.renew(&config, Request::Now).await.report.all_well());
        world.clock.forward(Duration::from_secs(minutes * 60));
    }
    world.ca.clear_faults();
    assert!(world.renew(&config, Request::Now).await.report.all_well());
    assert_eq!(world.ca.issued().len(), 1);
}

#[tokio::test]
async fn a_lost_answer_is_no_reason_to_ask_another_issuer() {
    let world = World::new().await;
    let (config, other) = world.with_another("a: { names: [a.test], dir: HOME/tls/a }").await;
    for on in [Resource::Challenge, Resource::Finalize, Resource::Certificate] {
        world.ca.inject(Fault::HangUp { on, times: 1 });
        assert!(world.renew(&config, Request::Force).await.report.all_well(), "{on:?}");
    }
    assert_eq!((world.ca.issued().len(), other.requests().len()), (3, 0));
    let down = Answer::text(503, "text/plain", "down");
    world.ca.inject(Fault::Answer { to: Resource::Certificate, times: u32::MAX, answer: down });
    world.renew(&config, Request::Force).await;
    assert_eq!(other.requests().len(), 0, "what may be issued is not ordered elsewhere at once");
    world.ca.clear_faults();
    world.clock.forward(Duration::from_secs(120));
    assert!(world.renew(&config, Request::Now).await.report.all_well());
    assert_eq!((world.ca.issued().len(), other.requests().len()), (4, 0));
}

#[tokio::test]
async fn an_issuer_that_asks_for_a_rest_before_it_validates_puts_off_no_other() {
    let world = World::new().await;
    let (config, other) = world.with_another("a: { names: [a.test], dir: HOME/tls/a }").await;
    world.ca.inject(Fault::StayProcessing {
        what: Waiting::Authorization,
        times: u32::MAX,
        polls: u32::MAX,
        retry_after: Some(RetryAfter::Seconds(86_400)),
    });
    assert!(world.renew(&config, Request::Now).await.report.all_well());
    assert_eq!((world.ca.issued().len(), other.issued().len()), (0, 1));
}

#[tokio::test]
async fn a_webroot_that_cannot_be_written_costs_no_order_and_is_tried_again_within_minutes() {
    let world = World::new().await;
    let missing = world.path("missing");
    let webroot = "challenge: { http-01: { webroot: HOME/missing } }";
    let config = world.config(&format!("a: {{ names: [a.test], dir: HOME/tls/a, {webroot} }}"));
    let outcome = world.renew(&config, Request::Now).await;
    assert!(!outcome.report.all_well());
    assert_eq!(world.asked(Resource::NewOrder), 0);
    std::fs::create_dir(missing).unwrap();
    world.clock.forward(Duration::from_secs(20 * 60));
    world.renew(&config, Request::None).await;
    assert_eq!(world.asked(Resource::NewOrder), 1, "tried again");
}

#[tokio::test]
async fn a_ca_that_never_hands_over_is_given_up_where_nothing_is_left() {
    let world = World::new().await;
    let (config, other) = world.with_another("a: { names: [a.test], dir: HOME/tls/a }").await;
    let down = Answer::text(503, "text/plain", "down");
    world.ca.inject(Fault::Answer { to: Resource::Certificate, times: u32::MAX, answer: down });
    assert!(!world.renew(&config, Request::Now).await.report.all_well());
    assert_eq!(other.requests().len(), 0, "it may hand it over yet");
    world.clock.forward(Duration::from_secs(120));
    assert!(world.renew(&config, Request::Now).await.report.all_well());
    assert_eq!((world.ca.issued().len(), other.issued().len()), (1, 1));
}

#[tokio::test]
async fn the_rest_of_one_issuer_does_not_end_with_a_certificate_of_another() {
    let world = World::new().await;
    let (config, other) = world.with_another("a: { names: [a.test], dir: HOME/tls/a }").await;
    let mut answer = Answer::problem(ProblemType::RateLimited, "tomorrow");
    answer.headers.push(("retry-after".to_owned(), "86400".to_owned()));
    world.ca.inject(Fault::Answer { to: Resource::NewOrder, times: u32::MAX, answer });
    for _ in 0..2 {
        assert!(world.renew(&config, Request::Force).await.report.all_well());
    }
    assert_eq!((world.asked(Resource::NewOrder), other.issued().len()), (1, 2));
}

#[tokio::test]
async fn a_ca_that_names_a_time_is_asked_by_no_certificate_before() {
    let world = World::new().await;
    let config = world.config("a: { names: [a.test], dir: HOME/tls/a }");
    let shared = world.shared(&config, |_| ());
    let mut answer = Answer::text(503, "text/plain", "down");
    answer.headers.push(("retry-after".to_owned(), "3600".to_owned()));
    world.ca.inject(Fault::Answer { to: Resource::Directory, times: u32::MAX, answer });
    let issuer = IssuerName::parse("dev").unwrap();
    let open = || shared.sessions.open(&shared, &config, &issuer);
    for minutes in [1, 10, 48] {
        open().await.unwrap_err();
        shared.sessions.close_idle();
        world.clock.forward(Duration::from_secs(minutes * 60));
    }
    open().await.unwrap_err();
    assert_eq!(world.asked(Resource::Directory), 1);
    world.ca.clear_faults();
    world.clock.forward(Duration::from_secs(60));
    open().await.unwrap();
    let hour = 3_600_000;
    world.clock.0.fetch_add(48 * hour, Ordering::SeqCst);
    world.ca.inject(Fault::HangUp { on: Resource::Directory, times: u32::MAX });
    open().await.unwrap_err();
    world.ca.clear_faults();
    world.clock.0.fetch_sub(47 * hour, Ordering::SeqCst);
    open().await.unwrap();
}

#[tokio::test]
async fn an_order_of_an_issuer_that_is_given_up_is_let_go_of() {
    let world = World::new().await;
    let (both, other) = world.with_another("a: { names: [a.test], dir: HOME/tls/a }").await;
    let only = |issuer: &str| {
        let mut config = both.clone();
        for certificate in config.certificates.values_mut() {
            certificate.issuers = vec![IssuerName::parse(issuer).unwrap()];
        }
        config
    };
    assert!(world.renew(&only("other"), Request::Now).await.report.all_well());
    let order = world.path("state/certificates/a/order.json");
    let what = Waiting::Authorization;
    let slow = Fault::StayProcessing { what, times: 1, polls: u32::MAX, retry_after: None };
    world.ca.inject(slow);
    let placed = async {
        while !order.exists() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let given_up = only("dev");
    tokio::select! {
        _ = world.renew(&given_up, Request::Force) => panic!("it should never end"),
        () = placed => {}
    }
    let asked = other.requests().len();
    assert!(world.renew(&only("other"), Request::Now).await.report.all_well());
    assert!(!order.exists());
    let requests = other.requests().len() - asked;
    assert!(requests < 5, "{requests} requests for nothing");
}

#[tokio::test]
async fn renewal_information_is_asked_for_no_sooner_than_the_ca_says() {
    let world = World::new().await;
    let config = world.config("a: { names: [a.test], dir: HOME/tls/a }");
    assert!(world.renew(&config, Request::Now).await.report.all_well());
    let mut answer = Answer::problem(ProblemType::RateLimited, "later");
    answer.headers.push(("retry-after".to_owned(), "40000".to_owned()));
    world.ca.inject(Fault::Answer { to: Resource::RenewalInfo, times: u32::MAX, answer });
    world.clock.forward(Duration::from_secs(7 * 3600));
    world.renew(&config, Request::Now).await;
    assert_eq!(world.asked(Resource::RenewalInfo), 1);
    for _ in 0..11 {
        world.clock.forward(Duration::from_secs(3600));
        world.renew(&config, Request::Now).await;
    }
    assert_eq!(world.asked(Resource::RenewalInfo), 1);
    world.clock.forward(Duration::from_secs(3600));
    world.renew(&config, Request::Now).await;
    assert_eq!(world.asked(Resource::RenewalInfo), 2);
}

#[tokio::test]
async fn an_order_in_flight_outlives_its_ca_being_down_for_a_while() {
    let world = World::new().await;
    let (config, other) = world.with_another("a: { names: [a.test], dir: HOME/tls/a }").await;
    assert!(world.renew(&config, Request::Now).await.report.all_well());
    let order = world.path("state/certificates/a/order.json");
    let what = Waiting::Authorization;
    let slow = Fault::StayProcessing { what, times: 1, polls: u32::MAX, retry_after: None };
    world.ca.inject(slow);
    let placed = async {
        while !order.exists() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        _ = world.renew(&config, Request::Force) => panic!("it should never end"),
        () = placed => {}
    }
    world.ca.clear_faults();
    let answer = Answer::text(503, "text/plain", "down");
    world.ca.inject(Fault::Answer { to: Resource::Any, times: u32::MAX, answer });
    world.renew(&config, Request::Now).await;
    assert!(order.exists(), "forgotten");
    assert_eq!(other.requests(), []);
}
