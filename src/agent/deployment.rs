//! A generation on its way to a target, as a transaction: prepare, install, check, reload,
//! verify; and from each of these, the way back.
//!
//! The record of the target is on disk before each step that others can see, so that a crash
//! leaves something to go on from, and a failed step is retried without an order.

mod batch;
mod installed;
mod prepare;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::task::JoinSet;

use self::installed::Installed;
use self::prepare::Prepared;
use crate::agent::Shared;
use crate::cert::Leaf;
use crate::config::{Certificate, Hook, Reload, Socket, Target};
use crate::event::Event;
use crate::failure::{Failure, FailureClass, Step};
use crate::name::CertName;
use crate::plan::window::Seed;
use crate::plan::{self, Action, Decision, DeployReason, Held, Observed, backoff};
use crate::probe::{Served, Wanted};
use crate::record::{REFUSALS, TargetRecord};
use crate::store::{Reconciled, StoreError};
use crate::text::External;
use crate::time::Timestamp;

/// One generation on its way to one target
#[derive(Debug)]
pub struct Deployment {
    certificate: Arc<Certificate>,
    target: Target,
    generation: u32,
    why: DeployReason,
    reason: String,
    record: TargetRecord,
    /// Whether the operator chose this generation, so that the gate is open
    chosen: bool,
}

/// What a decision wants deployed
pub(crate) fn due(
    certificate: &Arc<Certificate>,
    decision: &Decision,
    observed: &Observed,
) -> Vec<Deployment> {
    let wanted = decision.actions.iter().filter_map(|action| match action {
        Action::Deploy { target, generation, why } => Some((target, *generation, why)),
        _ => None,
    });
    wanted
        .filter_map(|(name, generation, why)| {
            let target = certificate.targets.iter().find(|target| target.name == *name)?;
            let record = observed.targets.get(name).map(|seen| seen.record.clone());
            let mut record = record.unwrap_or_default();
            if !record.is_live(target) {
                record.doubt();
            }
            Some(Deployment {
                certificate: Arc::clone(certificate),
                target: target.clone(),
                generation,
                why: why.clone(),
                reason: decision.reason.to_string(),
                chosen: record.pinned_over.is_some() && record.generation == generation,
                record,
            })
        })
        .collect()
}

/// Everything again: every target of a certificate with the generation that belongs to it
pub fn again(
    now: Timestamp,
    certificate: &Arc<Certificate>,
    held: &Held,
    observed: &Observed,
    reason: &str,
) -> Vec<Deployment> {
    let nothing = Box::default();
    let deployment = |target: &Target| {
        let seen = observed.targets.get(&target.name).unwrap_or(&nothing);
        let generation = plan::wanted_generation(now, held, seen);
        let chosen = seen.record.pinned_over.is_some() && seen.record.generation == generation;
        asked_for(certificate, target, generation, observed, reason, chosen)
    };
    certificate.targets.iter().map(deployment).collect()
}

/// Every target of a certificate with the generation that the operator chose, whatever the gate
/// says
pub fn all_targets(
    certificate: &Arc<Certificate>,
    generation: u32,
    observed: &Observed,
    reason: &str,
) -> Vec<Deployment> {
    let targets = certificate.targets.iter();
    targets
        .map(|target| asked_for(certificate, target, generation, observed, reason, true))
        .collect()
}

fn asked_for(
    certificate: &Arc<Certificate>,
    target: &Target,
    generation: u32,
    observed: &Observed,
    reason: &str,
    chosen: bool,
) -> Deployment {
    let seen = observed.targets.get(&target.name);
    let mut record = seen.map(|seen| seen.record.clone()).unwrap_or_default();
    record.doubt();
    Deployment {
        certificate: Arc::clone(certificate),
        target: target.clone(),
        generation,
        why: DeployReason::NotInstalled,
        reason: reason.to_owned(),
        record,
        chosen,
    }
}

/// Certificates of which a target of one shares a check or reload with a target of another,
/// together; the others alone
pub(crate) fn group(certificates: Vec<Certificate>) -> Vec<Vec<Certificate>> {
    connected(certificates.into_iter().map(|one| (servers(&one), one)))
}

/// A check, a reload or a socket: what has one in common with another is about the same server
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Server {
    CheckedBy(Hook),
    /// HAProxy has one transaction at a time, whichever certificate it is about
    Haproxy(Socket),
    ReloadedBy(Reload),
}

/// The servers of a certificate's targets
pub(crate) fn servers(certificate: &Certificate) -> BTreeSet<Server> {
    certificate.targets.iter().flat_map(servers_of).collect()
}

/// The servers of a target; the last one is what loads it, or checks it where nothing does
fn servers_of(target: &Target) -> impl Iterator<Item = Server> {
    let check = target.check.clone().map(Server::CheckedBy);
    let haproxy = match &target.reload {
        Some(Reload::Haproxy { socket, .. }) => Some(Server::Haproxy(socket.clone())),
        _ => None,
    };
    let reload = target.reload.clone().map(Server::ReloadedBy);
    [check, haproxy, reload].into_iter().flatten()
}

/// Together what is about a common server, be it by way of a third
fn connected<T>(all: impl IntoIterator<Item = (BTreeSet<Server>, T)>) -> Vec<Vec<T>> {
    let mut groups: Vec<(BTreeSet<Server>, Vec<T>)> = Vec::new();
    for (mut servers, one) in all {
        let (joined, apart): (Vec<_>, Vec<_>) =
            groups.into_iter().partition(|(theirs, _)| !theirs.is_disjoint(&servers));
        let mut together = Vec::new();
        for (theirs, members) in joined {
            servers.extend(theirs);
            together.extend(members);
        }
        together.push(one);
        groups = apart;
        groups.push((servers, together));
    }
    groups.into_iter().map(|(_, members)| members).collect()
}

/// Bring each deployment as far as it gets; what fails is recorded and stops no other, but those
/// after it of a [serial](Certificate::serial) certificate
pub async fn deploy(shared: &Shared, due: Vec<Deployment>) {
    deploy_until(shared, due, &|| false).await;
}

/// The same, until it is `stopped`: then those of serial certificates whose turn has not come are
/// left; whether there are any
pub async fn deploy_until(
    shared: &Shared,
    due: Vec<Deployment>,
    stopped: &impl Fn() -> bool,
) -> bool {
    let mut waiting = due;
    while !waiting.is_empty() {
        if stopped() {
            return true;
        }
        let (turn, mut rest) = next_turn(waiting);
        let tried: Vec<_> = turn.iter().map(Deployment::what).collect();
        together(shared, turn).await;
        for (certificate, target, generation) in tried {
            if rest.iter().any(|next| next.certificate.name == certificate)
                && !is_live(shared, &certificate, &target, generation).await
            {
                rest.retain(|next| next.certificate.name != certificate);
            }
        }
        waiting = rest;
    }
    false
}

async fn is_live(
    shared: &Shared,
    certificate: &CertName,
    target: &Target,
    generation: u32,
) -> bool {
    let name = certificate.clone();
    match shared.on_disk(move |store| store.deploy(&name, &mut |_| ())).await {
        Ok(records) => records
            .targets
            .get(&target.name)
            .is_some_and(|record| record.generation == generation && record.is_live(target)),
        Err(error) => {
            shared.warn(certificate, &error);
            false
        }
    }
}

/// What can be deployed at once, and what waits for it
fn next_turn(due: Vec<Deployment>) -> (Vec<Deployment>, Vec<Deployment>) {
    let mut taken = BTreeSet::new();
    due.into_iter().partition(|Deployment { certificate, .. }| {
        !certificate.serial || taken.insert(certificate.name.clone())
    })
}

async fn together(shared: &Shared, due: Vec<Deployment>) {
    let mut preparing = JoinSet::new();
    for deployment in due {
        let shared = shared.clone();
        preparing.spawn(async move { deployment.prepare(&shared).await });
    }
    // What one reload serves; where there is none, what one check is about.
    let mut batches: BTreeMap<Option<Server>, Vec<Prepared>> = BTreeMap::new();
    while let Some(prepared) = joined(shared, &mut preparing).await {
        let Some(prepared) = prepared else { continue };
        let key = servers_of(&prepared.deployment.target).last();
        batches.entry(key).or_default().push(prepared);
    }
    let servers = |members: &[Prepared]| {
        members.iter().flat_map(|member| servers_of(&member.deployment.target)).collect()
    };
    let batches = batches.into_values().map(|members| (servers(&members), members));
    let mut running = JoinSet::new();
    for in_turn in connected(batches) {
        let shared = shared.clone();
        running.spawn(async move {
            // A check sees all of its server's files: none of the next batch is among them yet.
            for members in in_turn {
                let mut installed = Vec::with_capacity(members.len());
                for member in members {
                    installed.extend(member.install(&shared).await);
                }
                batch::run(&shared, installed).await;
            }
        });
    }
    while joined(shared, &mut running).await.is_some() {}
}

/// What the next of several tasks gave; one that panics is reported and stops no other
async fn joined<T: Send + 'static>(shared: &Shared, tasks: &mut JoinSet<T>) -> Option<T> {
    loop {
        match tasks.join_next().await? {
            Ok(done) => return Some(done),
            Err(error) => {
                let message = format!("a deployment ended unexpectedly, please report it: {error}");
                let message = External::new(message);
                shared.tell(Event::Warned { certificate: None, message });
            }
        }
    }
}

impl Deployment {
    fn what(&self) -> (CertName, Target, u32) {
        (self.certificate.name.clone(), self.target.clone(), self.generation)
    }

    /// Record a failure; where the files are not those of the generation, `undone` says so
    async fn fail(&mut self, shared: &Shared, failure: Failure, undone: bool) {
        self.fail_until(shared, failure, undone, Latest::Ladder).await;
    }

    /// The same, with the next attempt at the latest then
    async fn fail_until(
        &mut self,
        shared: &Shared,
        mut failure: Failure,
        undone: bool,
        latest: Latest,
    ) {
        let now = shared.now();
        let record = &mut self.record;
        record.generation = self.generation;
        record.failures = record.failures.saturating_add(1);
        record.doubt();
        if undone {
            record.installed_at = None;
            record.reloaded_at = None;
            record.was_live = false;
            record.proven.clear();
        }
        if record.installed_at.is_none() {
            record.refusals = record.refusals.saturating_add(1);
        }
        if record.is_refused() && failure.class == FailureClass::Retry {
            let what = format!(
                "mend what keeps it from being deployed, which failed {REFUSALS} times or more; then: \
                 certkeep deploy {}",
                self.certificate.name
            );
            failure.class = FailureClass::NeedsOperator { what: External::new(what), url: None };
        }
        let seed = Seed::of_name(self.certificate.name.as_str());
        self.record.last_failure = Some(Box::new(failure.clone()));
        let next = backoff::after_failure_at_home(now, self.record.failures, seed);
        let next = match latest {
            Latest::Opening(at) => at.min(next),
            Latest::Emergency(at) if at > now && self.record.is_harmful() => {
                at.min(backoff::after_harm(now, seed))
            }
            Latest::Emergency(_) | Latest::Ladder => next,
        };
        self.record.not_before = Some(next);
        shared.tell(Event::Failed {
            certificate: self.certificate.name.clone(),
            target: Some(self.target.name.clone()),
            failure,
            next,
        });
        self.write(shared).await;
    }

    /// Put the record on disk; `None` when that failed, which is told
    async fn write(&self, shared: &Shared) -> Option<()> {
        let (name, target) = (self.certificate.name.clone(), self.target.name.clone());
        let record = self.record.clone();
        let done = shared.on_disk(move |store| store.write_target(&name, &target, record)).await;
        done.map_err(|error: StoreError| shared.warn(&self.certificate.name, &error)).ok()
    }

    /// Whether every endpoint serves the leaf at this moment; without an endpoint nobody knows
    async fn is_served(&self, shared: &Shared, leaf: &Leaf) -> bool {
        let wanted = Wanted { leaf: leaf.fingerprint, key: leaf.key_type, previous: None };
        for endpoint in &self.target.verify {
            let Ok(seen) = shared.prober.probe_for(endpoint, wanted, endpoint.within).await else {
                return false;
            };
            let serves = |one: &Served| {
                one.outcome.as_ref().is_ok_and(|chain| chain.leaf == leaf.fingerprint)
            };
            if !seen.iter().all(serves) {
                return false;
            }
        }
        !self.target.verify.is_empty()
    }
}

/// When the next attempt is at the latest
#[derive(Clone, Copy, Debug)]
enum Latest {
    /// As the ladder says
    Ladder,
    /// When the gate opens
    Opening(Timestamp),
    /// When what is in force is about to end; before that, a server that suffers is spared
    Emergency(Timestamp),
}

impl Prepared {
    /// Switch the files; `None` when that failed, or when there is nothing more to do
    async fn install(self, shared: &Shared) -> Option<Installed> {
        let Self { mut deployment, generation, leaf, before } = self;
        let fresh = deployment.record.installed_at.is_none();
        // Without a record of success it did not come to its end yet, and may be on its way back.
        let proven = deployment.record.was_live || deployment.record.live_at.is_some();
        let reversible = fresh || !proven;
        let mut spoiled = false;
        if deployment.why != DeployReason::NotLive {
            begin(shared, &deployment.certificate, Step::Install);
            let (certificate, target) =
                (Arc::clone(&deployment.certificate), deployment.target.clone());
            let content = Arc::clone(&generation);
            let done =
                shared.on_disk(move |store| store.reconcile(&certificate, &target, &content)).await;
            match done {
                Ok(done) => spoiled = done == Reconciled::Content,
                Err(error) => {
                    deployment.fail(shared, error.failure(Step::Install), false).await;
                    return None;
                }
            }
            deployment.record.installed_at = Some(shared.now());
            // Of files alone, the next record follows at once.
            if !fresh || !deployment.target.is_files_alone() {
                deployment.write(shared).await?;
            }
            let certificate = deployment.certificate.name.clone();
            let target = deployment.target.name.clone();
            shared.tell(match deployment.why.clone() {
                DeployReason::Drifted { problem } => {
                    Event::Restored { certificate, target, problem }
                }
                _ => Event::Installed { certificate, target, generation: deployment.generation },
            });
        }
        // The same content is back, under a server that may have loaded what was there meanwhile.
        if !fresh && spoiled && !deployment.is_served(shared, &leaf).await {
            deployment.record.doubt();
            deployment.write(shared).await?;
        }
        let settled = !fresh && deployment.record.live_at.is_some();
        let refused = None;
        (!settled).then_some(Installed {
            deployment,
            generation,
            leaf,
            before,
            reversible,
            refused,
        })
    }
}

pub(crate) fn begin(shared: &Shared, certificate: &Certificate, step: Step) {
    shared.tell(Event::StepBegun { certificate: certificate.name.clone(), step });
}

/// What was reloaded when, without what no limit asks about any more
fn recent(reloads: &[Timestamp], now: Timestamp) -> Vec<Timestamp> {
    let hour = std::time::Duration::from_secs(3600);
    reloads.iter().filter(|at| **at <= now && now.since(**at) < hour).copied().collect()
}
