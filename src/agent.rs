//! The agent: observe, plan, act, and look again.
//!
//! One loop owns everything; each certificate is worked on by a job of its own, so that one that
//! hangs stops no other. What may wake the loop is one closed list, `service::Wake`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

use self::job::Ordered;
use crate::challenge::Solver;
use crate::config::{Certificate, Config};
use crate::event::Event;
use crate::name::{CertName, IssuerName};
use crate::plan::{self, Action, Decision, Plan, Request, Snapshot};
use crate::probe::Prober;
use crate::report::Report;
use crate::store::{Lock, LockMode, Stamps, Store, StoreError};
use crate::text::External;
use crate::time::{Clock, Timestamp};

mod deployment;
mod issuance;
mod job;
mod journal;
mod rehearsal;
mod secrets;
mod service;
mod sessions;

pub use deployment::{Deployment, again, all_targets, deploy, deploy_until};
pub use job::take;
pub use rehearsal::{rehearse, sweep};
pub use secrets::{Secrets, Variables};
pub use service::{Controls, FileStamp, Reloaded};
pub use sessions::{Sessions, account_id};

/// Where events go
pub type Events = Arc<dyn Fn(Event) + Send + Sync>;

/// What every job needs
#[derive(Clone)]
pub struct Shared {
    /// The state directory
    pub store: Store,
    /// The clock
    pub clock: Arc<dyn Clock>,
    /// Who answers http-01 challenges
    pub solver: Solver,
    /// Where events go
    pub events: Events,
    /// Who looks at endpoints
    pub prober: Arc<Prober>,
    /// The accounts in use
    pub sessions: Arc<Sessions>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    /// Put together what jobs need
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        solver: Solver,
        events: Events,
        secrets: Secrets,
    ) -> Self {
        Self {
            store: store.with_passwords(secrets.passwords()),
            clock,
            solver,
            events,
            prober: Arc::new(Prober::new()),
            sessions: Arc::new(Sessions::new(secrets)),
        }
    }

    /// Tell what happened
    pub fn tell(&self, event: Event) {
        (self.events)(event);
    }

    /// Tell that something is not as it should be with a certificate, and that work goes on
    fn warn(&self, certificate: &CertName, error: &dyn std::fmt::Display) {
        let message = External::new(error.to_string());
        self.tell(Event::Warned { certificate: Some(certificate.clone()), message });
    }

    /// The current moment
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Say that work is done here: while this is held, nobody sweeps up what looks unfinished
    ///
    /// Waits for a process that is sweeping at this moment.
    ///
    /// # Errors
    /// When the lock cannot be taken.
    pub async fn at_work(&self) -> Result<Lock, StoreError> {
        loop {
            if let Some(lock) = self.on_disk(|store| store.lock_store(LockMode::Shared)).await? {
                return Ok(lock);
            }
            tokio::time::sleep(SWEEP_PAUSE).await;
        }
    }

    /// Do something with the disk, away from the loop
    ///
    /// # Errors
    /// Those of `act`.
    pub async fn on_disk<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || act(&store)).await {
            Ok(done) => done,
            // A panic over there is this job's; nothing else ends such a task.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// The loop and what it knows
#[derive(Debug)]
pub struct Agent {
    shared: Shared,
    config: Arc<Config>,
    snapshot: Snapshot,
    /// What need not be read at the next look
    stamps: Stamps,
    /// What was decided last, by this configuration
    plan: Option<Plan>,
    /// Certificates that must be decided on again
    touched: BTreeSet<CertName>,
    jobs: JoinSet<Vec<job::Done>>,
    /// Certificates that a job works on
    busy: BTreeMap<CertName, Working>,
    /// What the operator asked for, until a job has taken it up
    requests: BTreeMap<CertName, Request>,
    /// Certificates that another process holds
    held_elsewhere: BTreeSet<CertName>,
    /// Certificates whose latest order failed
    failed: BTreeSet<CertName>,
    /// Failed attempts that could not be written down
    paused: BTreeMap<CertName, Timestamp>,
    /// When the first deployment began to wait for others to go with it
    batch_since: Option<Timestamp>,
    clock_suspect: bool,
}

/// A job at work on a certificate
#[derive(Debug)]
struct Working {
    /// Whether it may end in something to deploy
    kind: job::Kind,
    /// The issuer that is asked first
    issuer: Option<IssuerName>,
    /// The servers that it deploys to, by the configuration that it began with
    servers: BTreeSet<deployment::Server>,
    job: AbortHandle,
}

/// How a single pass ended
#[derive(Debug)]
pub struct Outcome {
    /// What is known of each certificate now
    pub report: Report,
    /// Certificates that another process works on
    pub held_elsewhere: BTreeSet<CertName>,
    /// Certificates whose order failed, also one that nothing but the operator wanted
    pub failed: BTreeSet<CertName>,
}

impl Agent {
    /// An agent for a configuration
    pub fn new(shared: Shared, config: Config) -> Self {
        Self {
            shared,
            config: Arc::new(config),
            snapshot: Snapshot::default(),
            stamps: Stamps::default(),
            plan: None,
            touched: BTreeSet::new(),
            jobs: JoinSet::new(),
            busy: BTreeMap::new(),
            requests: BTreeMap::new(),
            held_elsewhere: BTreeSet::new(),
            failed: BTreeSet::new(),
            paused: BTreeMap::new(),
            batch_since: None,
            clock_suspect: false,
        }
    }

    /// Do what is due until nothing is, each certificate asked for as `request` says
    ///
    /// # Errors
    /// When the state directory cannot be looked at.
    pub async fn once(self, request: Request) -> Result<Outcome, StoreError> {
        self.once_until(request, async || std::future::pending().await).await
    }

    /// The same, or as much of it as is done when `stop` completes; deployments are brought to
    /// their end unless it completes once more
    ///
    /// # Errors
    /// When the state directory cannot be looked at.
    pub async fn once_until(
        mut self,
        request: Request,
        mut stop: impl AsyncFnMut(),
    ) -> Result<Outcome, StoreError> {
        let _at_work = self.begin().await?;
        self.requests = self.config.certificates.keys().map(|n| (n.clone(), request)).collect();
        let mut rounds = Rounds::default();
        loop {
            self.start_due(&mut rounds);
            if self.jobs.is_empty() {
                self.remember().await;
                return Ok(self.outcome());
            }
            let batch_ends = self.batch_ends();
            tokio::select! {
                Some(done) = self.jobs.join_next() => self.finish(done),
                () = sleep_until(&*self.shared.clock, batch_ends) => {}
                () = stop() => {
                    self.drain(stop()).await;
                    self.observe().await?;
                    return Ok(self.outcome());
                }
            }
        }
    }

    fn outcome(self) -> Outcome {
        let now = self.shared.now();
        let plan = plan::plan(now, &self.config, &self.snapshot);
        let report = Report::new(now, &plan, &self.snapshot);
        Outcome { report, held_elsewhere: self.held_elsewhere, failed: self.failed }
    }

    /// Look at the disk for the first time, after putting right what an interrupted run left
    /// behind, unless somebody else is at work
    ///
    /// What is returned is to be held while working: nobody sweeps meanwhile.
    async fn begin(&mut self) -> Result<Lock, StoreError> {
        let (config, events) = (Arc::clone(&self.config), Arc::clone(&self.shared.events));
        let now = self.shared.now();
        (self.snapshot, self.stamps) = self
            .shared
            .on_disk(move |store| {
                let alone = store.lock_store(LockMode::Exclusive)?;
                let mut tell = |event| events(event);
                let seen = store.first_look(&config, now, alone.is_some(), &mut tell);
                if alone.is_some() {
                    journal::sweep(store, &*events);
                }
                Ok(seen)
            })
            .await?;
        self.shared.at_work().await
    }

    /// Look at the disk again
    async fn observe(&mut self) -> Result<(), StoreError> {
        let (config, events) = (Arc::clone(&self.config), Arc::clone(&self.shared.events));
        let (now, mut snapshot) = (self.shared.now(), std::mem::take(&mut self.snapshot));
        let mut stamps = std::mem::take(&mut self.stamps);
        // Of no use without what it was made from.
        let plan = self.plan.take();
        let read;
        (self.snapshot, self.stamps, read) = self
            .shared
            .on_disk(move |store| {
                let mut tell = |event| events(event);
                let read = store.observe_again(&config, &mut snapshot, &mut stamps, now, &mut tell);
                Ok((snapshot, stamps, read))
            })
            .await?;
        self.touched.extend(read);
        self.plan = plan;
        Ok(())
    }

    /// Spare the next process a look at what this one has seen
    async fn remember(&mut self) {
        let (snapshot, mut stamps) =
            (std::mem::take(&mut self.snapshot), std::mem::take(&mut self.stamps));
        let kept = self
            .shared
            .on_disk(move |store| {
                let kept = store.remember(&snapshot, &mut stamps);
                Ok((snapshot, stamps, kept))
            })
            .await;
        if let Ok((snapshot, stamps, kept)) = kept {
            (self.snapshot, self.stamps) = (snapshot, stamps);
            if let Err(error) = kept {
                self.warn(None, error.to_string());
            }
        }
    }

    /// Plan, and start a job for everything that is due and not being worked on
    fn start_due(&mut self, rounds: &mut Rounds) {
        let now = self.shared.now();
        let plan = self.plan_again(now);
        self.tell_clock(&plan);
        let config = Arc::clone(&self.config);
        let mut crowds = self.crowds();
        let mut deployments = Vec::new();
        for (decision, certificate) in plan.decisions.iter().zip(config.certificates.values()) {
            if !decision.order_left_over && decision.actions.is_empty() {
                continue;
            }
            let name = &certificate.name;
            let orders = decision.order_left_over
                || decision.actions.iter().any(|a| !matches!(a, Action::Deploy { .. }));
            let issuer = certificate.issuers.first().filter(|_| orders);
            // Each holds a lock and so a file.
            if issuer.and_then(|issuer| crowds.get(issuer)).is_some_and(|it| *it >= JOBS_AT_ONCE) {
                continue;
            }
            // A clock that was ahead must not have set one for a year.
            let latest = now.after(job::PAUSE);
            let paused =
                self.paused.get(name).is_some_and(|until| *until > now && *until <= latest);
            let taken = self.busy.contains_key(name) || self.held_elsewhere.contains(name);
            if paused || taken || !rounds.may_start(name) {
                continue;
            }
            if !orders {
                deployments.push(certificate);
                continue;
            }
            let Some(issuer) = issuer else { continue };
            *crowds.entry(issuer.clone()).or_default() += 1;
            rounds.started(name);
            self.start_job(certificate.clone());
        }
        self.plan = Some(plan);
        self.start_deployments(deployments, rounds);
    }

    /// What was decided last, one for each certificate
    fn decisions(&self) -> &[Decision] {
        self.plan.as_ref().map_or(&[], |plan| &plan.decisions)
    }

    /// Decide on what a job or a request has touched since the last time
    ///
    /// A thousand jobs end one after the other, and each would have a thousand decided on.
    fn plan_again(&mut self, now: Timestamp) -> Plan {
        let touched = std::mem::take(&mut self.touched);
        let certificates = &mut self.snapshot.certificates;
        let requested = |name| self.requests.get(name).copied().unwrap_or_default();
        if self.plan.is_none() {
            certificates.iter_mut().for_each(|(name, seen)| seen.request = requested(name));
        } else {
            for name in &touched {
                if let Some(seen) = certificates.get_mut(name) {
                    seen.request = requested(name);
                }
            }
        }
        plan::plan_again(now, &self.config, &self.snapshot, self.plan.take(), &touched)
    }

    /// How many jobs are busy with each issuer: one's are not counted against another's
    fn crowds(&self) -> BTreeMap<IssuerName, usize> {
        let orders = self.busy.values().filter(|working| working.kind == job::Kind::Order);
        let mut crowds = BTreeMap::new();
        for issuer in orders.filter_map(|working| working.issuer.clone()) {
            *crowds.entry(issuer).or_default() += 1;
        }
        crowds
    }

    fn start_job(&mut self, certificate: Certificate) {
        self.touched.insert(certificate.name.clone());
        let request = self.requests.remove(&certificate.name).unwrap_or_default();
        // A deployment that failed is tried at once also after the order that was asked for.
        if request != Request::None {
            self.requests.insert(certificate.name.clone(), Request::Now);
        }
        let (shared, config) = (self.shared.clone(), Arc::clone(&self.config));
        let (name, issuer) = (certificate.name.clone(), certificate.issuers.first().cloned());
        let work = async move { vec![job::work(shared, config, certificate, request).await] };
        let job = self.jobs.spawn(work);
        let servers = BTreeSet::new();
        self.busy.insert(name, Working { kind: job::Kind::Order, issuer, servers, job });
    }

    /// Deploy in batches: a server is reloaded once for all that is ready within a moment
    fn start_deployments(&mut self, ready: Vec<&Certificate>, rounds: &mut Rounds) {
        if ready.is_empty() {
            self.batch_since = None;
            return;
        }
        let now = self.shared.now();
        let since = *self.batch_since.get_or_insert(now);
        let more_to_come = self.busy.values().any(|working| working.kind == job::Kind::Order);
        if more_to_come && now < since.after(BATCH_WINDOW) {
            return;
        }
        self.batch_since = None;
        // A server that is being asked about some files is not asked about others meanwhile.
        let occupied = self.occupied();
        let ready = ready.into_iter().filter(|it| deployment::servers(it).is_disjoint(&occupied));
        // Each holds its lock, and so a file, until the batch is proven; the others come next.
        let at_work = self.busy.len();
        let room = DEPLOYMENTS_AT_ONCE.saturating_sub(at_work).max(1);
        let ready = ready.take(room).cloned().collect();
        for group in deployment::group(ready) {
            let (mut requests, mut busy) = (BTreeMap::new(), Vec::new());
            for certificate in &group {
                rounds.started(&certificate.name);
                self.touched.insert(certificate.name.clone());
                let request = self.requests.remove(&certificate.name).unwrap_or_default();
                requests.insert(certificate.name.clone(), request);
                busy.push((certificate.name.clone(), deployment::servers(certificate)));
            }
            let (shared, config) = (self.shared.clone(), Arc::clone(&self.config));
            let job = self.jobs.spawn(job::deploy(shared, config, group, requests));
            for (name, servers) in busy {
                let (kind, job) = (job::Kind::Deployment, job.clone());
                self.busy.insert(name, Working { kind, issuer: None, servers, job });
            }
        }
    }

    /// The servers that deployments are busy with
    fn occupied(&self) -> BTreeSet<deployment::Server> {
        self.busy.values().flat_map(|working| working.servers.clone()).collect()
    }

    fn batch_ends(&self) -> Timestamp {
        let latest = self.shared.now().after(plan::LONGEST_SLEEP);
        self.batch_since.map_or(latest, |since| since.after(BATCH_WINDOW))
    }

    /// Take in what jobs have done: all that have, so that one plan serves them
    fn finish(&mut self, first: Result<Vec<job::Done>, tokio::task::JoinError>) {
        let mut next = Some(first);
        while let Some(done) = next {
            match done {
                Ok(done) => done.into_iter().for_each(|done| self.take_in(done)),
                Err(error) => self.lost(&error),
            }
            next = self.jobs.try_join_next();
        }
    }

    fn take_in(&mut self, done: job::Done) {
        self.busy.remove(&done.certificate);
        self.touched.insert(done.certificate.clone());
        match done.ordered {
            Some(Ordered::Failed) => self.failed.insert(done.certificate.clone()),
            Some(Ordered::Issued) => self.failed.remove(&done.certificate),
            None => false,
        };
        if done.held_elsewhere {
            self.held_elsewhere.insert(done.certificate.clone());
        }
        match done.paused {
            Some(until) => self.paused.insert(done.certificate.clone(), until),
            None => self.paused.remove(&done.certificate),
        };
        if let Some(observed) = done.observed {
            self.snapshot.certificates.insert(done.certificate, Box::new(observed));
        }
    }

    /// A job ended in a panic, which is ours to mend; the others go on, and its certificates later
    fn lost(&mut self, error: &tokio::task::JoinError) {
        let until = self.shared.now().after(job::PAUSE);
        let lost = self.busy.extract_if(.., |_, working| working.job.id() == error.id());
        let names: Vec<_> = lost.map(|(name, _)| name).collect();
        for name in names {
            let message = format!("a job ended unexpectedly, please report it: {error}");
            self.warn(Some(name.clone()), message);
            self.paused.insert(name, until);
        }
    }

    /// Let deployments end, unless `hurry` completes; orders are cut off, since they go on where
    /// they stopped
    ///
    /// Whether nothing was cut off.
    async fn drain(&mut self, hurry: impl Future<Output = ()>) -> bool {
        let mut clean = true;
        for working in self.busy.values().filter(|working| working.kind == job::Kind::Order) {
            working.job.abort();
            clean = false;
        }
        let all = async { while self.jobs.join_next().await.is_some() {} };
        clean &= tokio::select! {
            () = all => true,
            () = hurry => false,
            () = tokio::time::sleep(DRAIN) => false,
        };
        self.jobs.shutdown().await;
        clean
    }

    fn tell_clock(&mut self, plan: &Plan) {
        if let (Some(floor), false) = (plan.clock_suspect, self.clock_suspect) {
            self.shared.tell(Event::ClockSuspect { now: self.shared.now(), floor });
        }
        self.clock_suspect = plan.clock_suspect.is_some();
    }

    fn warn(&self, certificate: Option<CertName>, message: String) {
        let message = External::new(message);
        self.shared.tell(Event::Warned { certificate, message });
    }

    /// Every path whose change means something
    fn watched(&self, config_path: PathBuf) -> Vec<PathBuf> {
        let certificates = self.config.certificates.values();
        let targets = certificates.flat_map(|certificate| &certificate.targets);
        let outputs = targets.flat_map(|target| &target.outputs).map(|output| output.path.clone());
        std::iter::once(config_path).chain(outputs).collect()
    }
}

/// How often each certificate was worked on in one pass: a plan that never settles must end
#[derive(Debug, Default)]
struct Rounds(BTreeMap<CertName, u32>);

impl Rounds {
    fn may_start(&self, name: &CertName) -> bool {
        self.0.get(name).copied().unwrap_or(0) < 30
    }

    fn started(&mut self, name: &CertName) {
        *self.0.entry(name.clone()).or_default() += 1;
    }
}

/// Sleep until a moment of the wall clock, a quarter of an hour at most
async fn sleep_until(clock: &dyn Clock, at: Timestamp) {
    tokio::time::sleep(at.since(clock.now()).min(plan::LONGEST_SLEEP)).await;
}

/// More than one issuer is asked for at once, so that the next are ready
const JOBS_AT_ONCE: usize = sessions::ORDERS_AT_ONCE * 4;

/// Enough for one reload to serve many, and few enough for the files that a process may open
pub const DEPLOYMENTS_AT_ONCE: usize = 100;

/// How long a stop waits for deployments: less than the units' `TimeoutStopSec`
const DRAIN: Duration = Duration::from_secs(110);

/// Between two looks whether another process has ended its sweep
const SWEEP_PAUSE: Duration = Duration::from_millis(20);

/// How long a finished certificate waits for others that reload the same server
const BATCH_WINDOW: Duration = Duration::from_secs(2);
