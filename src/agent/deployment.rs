//! A generation on its way to a target: install, check, reload, verify, and the way back.
//!
//! The record of the target is on disk before each step that others can see, so that a crash
//! leaves something to go on from, and a failed step is retried without an order.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::agent::Shared;
use crate::cert::{Fingerprint, Leaf};
use crate::config::{Certificate, Hook, Reload, Target};
use crate::deploy::{self, HookContext};
use crate::event::Event;
use crate::failure::{Failure, Step};
use crate::plan::window::Seed;
use crate::plan::{Action, Decision, DeployReason, Observed, backoff};
use crate::probe::{Served, Wanted};
use crate::record::{DeployRecord, Generation, TargetRecord, VERSION};
use crate::store::{Reconciled, StoreError};

/// One generation on its way to one target
#[derive(Debug)]
pub struct Deployment {
    certificate: Arc<Certificate>,
    target: Target,
    generation: u32,
    why: DeployReason,
    reason: String,
    record: TargetRecord,
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
            Some(Deployment {
                certificate: Arc::clone(certificate),
                target: target.clone(),
                generation,
                why: why.clone(),
                reason: decision.reason.to_string(),
                record: record.unwrap_or_default(),
            })
        })
        .collect()
}

/// Everything again: every target of a certificate, with the generation given
pub fn all_targets(
    certificate: &Arc<Certificate>,
    generation: u32,
    observed: &Observed,
    reason: &str,
) -> Vec<Deployment> {
    let again = |target: &Target| Deployment {
        certificate: Arc::clone(certificate),
        target: target.clone(),
        generation,
        why: DeployReason::NotInstalled,
        reason: reason.to_owned(),
        record: observed
            .targets
            .get(&target.name)
            .map(|seen| TargetRecord { live_at: None, ..seen.record.clone() })
            .unwrap_or_default(),
    };
    certificate.targets.iter().map(again).collect()
}

/// Certificates that share a check and a reload, together; those without either, alone
pub(crate) fn group(certificates: Vec<Certificate>) -> Vec<Vec<Certificate>> {
    let mut shared: BTreeMap<Vec<Shares>, Vec<Certificate>> = BTreeMap::new();
    let mut groups = Vec::new();
    for certificate in certificates {
        let key: Vec<_> = certificate.targets.iter().map(shares).collect();
        if key.iter().all(|(check, reload)| check.is_none() && reload.is_none()) {
            groups.push(vec![certificate]);
        } else {
            shared.entry(key).or_default().push(certificate);
        }
    }
    groups.extend(shared.into_values());
    groups
}

/// What deployments have in common when one reload serves them
type Shares = (Option<Hook>, Option<Reload>);

fn shares(target: &Target) -> Shares {
    (target.check.clone(), target.reload.clone())
}

/// Bring each deployment as far as it gets; what fails is recorded and stops no other
pub async fn deploy(shared: &Shared, due: Vec<Deployment>) {
    let mut batches: BTreeMap<Shares, Vec<Installed>> = BTreeMap::new();
    for deployment in due {
        let key = shares(&deployment.target);
        if let Some(installed) = deployment.install(shared).await {
            batches.entry(key).or_default().push(installed);
        }
    }
    for ((check, reload), batch) in batches {
        let batch = match load(shared, check.as_ref(), reload.as_ref(), batch).await {
            Ok(batch) => batch,
            Err(Refused { batch, failure }) => {
                undo(shared, check.as_ref(), reload.as_ref(), batch, failure).await;
                continue;
            }
        };
        let mut verifying = JoinSet::new();
        for installed in batch {
            let shared = shared.clone();
            verifying.spawn(async move { installed.verify(&shared).await });
        }
        while let Some(done) = verifying.join_next().await {
            if let Err(error) = done {
                let message = format!("verifying ended unexpectedly, please report it: {error}");
                let message = crate::text::External::new(message);
                shared.tell(Event::Warned { certificate: None, message });
            }
        }
    }
}

impl Deployment {
    /// Switch the files; `None` when that failed, or when there is nothing more to do
    async fn install(mut self, shared: &Shared) -> Option<Installed> {
        let (name, number) = (self.certificate.name.clone(), self.generation);
        let held = shared.on_disk(move |store| store.generation(&name, number)).await;
        let generation = match held {
            Ok(Some(generation)) => Arc::new(generation),
            Ok(None) => {
                let summary = format!("generation {number} is not in the state directory");
                self.fail(shared, Failure::retry(Step::Install, summary)).await;
                return None;
            }
            Err(error) => {
                self.fail(shared, error.failure(Step::Install)).await;
                return None;
            }
        };
        let leaf = match Leaf::from_pem(generation.chain.as_bytes()) {
            Ok(leaf) => leaf,
            Err(error) => {
                self.fail(shared, Failure::retry(Step::Install, error.to_string())).await;
                return None;
            }
        };
        if self.record.generation != number {
            let live = self.record.live_at.is_some().then_some(self.record.generation);
            self.record = TargetRecord {
                generation: number,
                previous: live.or(self.record.previous).filter(|previous| *previous > 0),
                ..TargetRecord::default()
            };
        }
        let fresh = self.record.installed_at.is_none();
        // Also before a reload alone: a disk that takes no record must not cause one after another.
        if fresh || self.why == DeployReason::NotLive {
            self.write(shared).await?;
        }
        let mut spoiled = false;
        if self.why != DeployReason::NotLive {
            begin(shared, &self.certificate, Step::Install);
            let (certificate, target) = (Arc::clone(&self.certificate), self.target.clone());
            let content = Arc::clone(&generation);
            let done =
                shared.on_disk(move |store| store.reconcile(&certificate, &target, &content)).await;
            match done {
                Ok(done) => spoiled = done == Reconciled::Content,
                Err(error) => {
                    self.fail(shared, error.failure(Step::Install)).await;
                    return None;
                }
            }
            self.record.installed_at = Some(shared.now());
            self.write(shared).await?;
            let (certificate, target) = (self.certificate.name.clone(), self.target.name.clone());
            shared.tell(match self.why.clone() {
                DeployReason::Drifted { problem } => {
                    Event::Restored { certificate, target, problem }
                }
                _ => Event::Installed { certificate, target, generation: number },
            });
        }
        // The same content is back, under a server that may have loaded what was there meanwhile.
        if !fresh && spoiled && !self.is_served(shared, &leaf).await {
            self.record.live_at = None;
            self.write(shared).await?;
        }
        let settled = !fresh && self.record.live_at.is_some();
        (!settled).then_some(Installed { deployment: self, generation, leaf })
    }

    /// Whether every endpoint serves the leaf at this moment; without an endpoint nobody knows
    async fn is_served(&self, shared: &Shared, leaf: &Leaf) -> bool {
        let wanted = Wanted { leaf: leaf.fingerprint, key: leaf.key_type, previous: None };
        for endpoint in &self.target.verify {
            let seen = shared.prober.probe_for(endpoint, wanted, endpoint.within).await;
            let Ok(seen) = seen else { return false };
            let serves =
                |one: &Served| one.outcome.as_ref().is_ok_and(|chain| chain.leaf == wanted.leaf);
            if !seen.iter().all(serves) {
                return false;
            }
        }
        !self.target.verify.is_empty()
    }

    async fn fail(&mut self, shared: &Shared, failure: Failure) {
        let now = shared.now();
        self.record.generation = self.generation;
        self.record.failures = self.record.failures.saturating_add(1);
        let seed = Seed::of_name(self.certificate.name.as_str());
        let next = backoff::after_failure_at_home(now, self.record.failures, seed);
        self.record.not_before = Some(next);
        self.record.last_failure = Some(failure.clone());
        self.record.live_at = None;
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
        let done = shared
            .on_disk(move |store| {
                let mut all = store.deploy(&name, &mut |_| ())?;
                all.targets.insert(target, record);
                store.write_deploy(&name, &DeployRecord { version: VERSION, ..all })
            })
            .await;
        done.map_err(|error: StoreError| shared.warn(&self.certificate.name, &error)).ok()
    }
}

/// A deployment whose files are in place
#[derive(Debug)]
struct Installed {
    deployment: Deployment,
    generation: Arc<Generation>,
    leaf: Leaf,
}

impl Installed {
    fn context(&self) -> HookContext<'_> {
        let Deployment { certificate, target, reason, .. } = &self.deployment;
        HookContext {
            certificate: &certificate.name,
            target: &target.name,
            generation: self.generation.meta.number,
            identifiers: &certificate.identifiers,
            outputs: &target.outputs,
            fingerprint: self.leaf.fingerprint,
            not_after: self.leaf.not_after,
            reason,
        }
    }

    /// See it from every endpoint, and record what was seen
    async fn verify(mut self, shared: &Shared) {
        let endpoints = self.deployment.target.verify.clone();
        if !endpoints.is_empty() {
            begin(shared, &self.deployment.certificate, Step::Verify);
        }
        let (leaf, key) = (self.leaf.fingerprint, self.leaf.key_type);
        let wanted = Wanted { leaf, key, previous: self.previous_leaf(shared).await };
        let mut addresses = 0;
        for endpoint in &endpoints {
            match shared.prober.verify(endpoint, wanted).await {
                Ok(seen) => addresses += seen,
                Err(unseen) => {
                    self.deployment.fail(shared, unseen.into()).await;
                    return;
                }
            }
        }
        let record = &mut self.deployment.record;
        record.live_at = Some(shared.now());
        record.verified = !endpoints.is_empty();
        record.failures = 0;
        record.last_failure = None;
        record.not_before = None;
        if self.deployment.write(shared).await.is_some() {
            shared.tell(Event::Live {
                certificate: self.deployment.certificate.name.clone(),
                target: self.deployment.target.name.clone(),
                generation: self.generation.meta.number,
                addresses,
            });
        }
        self.prune(shared).await;
    }

    /// The leaf that was served before, for the words of a failure
    async fn previous_leaf(&self, shared: &Shared) -> Option<Fingerprint> {
        let (name, number) =
            (self.deployment.certificate.name.clone(), self.deployment.record.previous?);
        let previous = shared.on_disk(move |store| store.generation(&name, number)).await;
        Some(previous.ok()??.meta.fingerprint)
    }

    /// Let go of generations that nothing needs
    async fn prune(&self, shared: &Shared) {
        let certificate = Arc::clone(&self.deployment.certificate);
        let name = certificate.name.clone();
        let done = shared
            .on_disk(move |store| {
                let record = store.deploy(&certificate.name, &mut |_| ())?;
                let in_use: Vec<_> = record
                    .targets
                    .values()
                    .flat_map(|target| [Some(target.generation), target.previous])
                    .flatten()
                    .collect();
                store.prune(&certificate.name, GENERATIONS_KEPT, &in_use)
            })
            .await;
        if let Err(error) = done {
            shared.warn(&name, &error);
        }
    }
}

/// A batch that the server did not take
struct Refused {
    batch: Vec<Installed>,
    failure: Failure,
}

/// The server's own check, then one reload for the whole batch
async fn load(
    shared: &Shared,
    check: Option<&Hook>,
    reload: Option<&Reload>,
    mut batch: Vec<Installed>,
) -> Result<Vec<Installed>, Refused> {
    if let Err(failure) = ask_and_load(shared, check, reload, &batch).await {
        return Err(Refused { batch, failure });
    }
    for installed in &mut batch {
        installed.deployment.record.reloaded_at = Some(shared.now());
        installed.deployment.write(shared).await;
    }
    Ok(batch)
}

async fn ask_and_load(
    shared: &Shared,
    check: Option<&Hook>,
    reload: Option<&Reload>,
    batch: &[Installed],
) -> Result<(), Failure> {
    let Some(first) = batch.first() else { return Ok(()) };
    let contexts: Vec<_> = batch.iter().map(Installed::context).collect();
    let report = |event| shared.tell(event);
    if let Some(check) = check {
        begin(shared, &first.deployment.certificate, Step::Check);
        deploy::check(check, &contexts, &report).await?;
    }
    if let Some(reload) = reload {
        begin(shared, &first.deployment.certificate, Step::Reload);
        deploy::reload(reload, &contexts, &report).await?;
    }
    Ok(())
}

/// Put back what was there before, and say whose fault it was
///
/// A target that had nothing that worked keeps the new files: nothing is not better.
async fn undo(
    shared: &Shared,
    check: Option<&Hook>,
    reload: Option<&Reload>,
    batch: Vec<Installed>,
    failure: Failure,
) {
    let mut back = Vec::new();
    for installed in &batch {
        if let Some(previous) = restore(shared, &installed.deployment).await {
            back.push(previous);
        }
    }
    let mut failure = failure;
    if !back.is_empty() {
        let again = ask_and_load(shared, check, reload, &batch).await;
        let verdict = match again {
            Ok(()) => "the previous files are back and the server takes them",
            Err(_) => {
                "the previous files are back, and the server refuses them as well: \
                 its configuration is broken, whatever the certificate"
            }
        };
        failure.summary = crate::text::External::new(format!("{}; {verdict}", failure.summary));
    }
    for mut installed in batch {
        let name = (&installed.deployment.certificate.name, &installed.deployment.target.name);
        if back.iter().any(|(certificate, target)| (certificate, target) == name) {
            installed.deployment.record.installed_at = None;
            installed.deployment.record.reloaded_at = None;
        }
        installed.deployment.fail(shared, failure.clone()).await;
    }
}

type Place = (crate::name::CertName, crate::name::TargetName);

/// The files of the previous generation, or those from before certkeep; `None`: neither exists
async fn restore(shared: &Shared, deployment: &Deployment) -> Option<Place> {
    let (certificate, target) = (Arc::clone(&deployment.certificate), deployment.target.clone());
    let previous = deployment.record.previous;
    let restored = shared
        .on_disk(move |store| {
            let generation = match previous {
                Some(number) => store.generation(&certificate.name, number)?,
                None => None,
            };
            match generation {
                Some(generation) => {
                    store.install(&certificate, &target, &generation)?;
                    Ok(Some(previous))
                }
                None if store.has_original(&certificate, &target) => {
                    store.restore_original(&certificate, &target)?;
                    Ok(Some(None))
                }
                None => Ok(None),
            }
        })
        .await;
    let place = (deployment.certificate.name.clone(), deployment.target.name.clone());
    match restored {
        Ok(Some(generation)) => {
            shared.tell(Event::RolledBack {
                certificate: place.0.clone(),
                target: place.1.clone(),
                generation,
            });
            Some(place)
        }
        Ok(None) => None,
        Err(error) => {
            shared.warn(&place.0, &error);
            None
        }
    }
}

pub(crate) fn begin(shared: &Shared, certificate: &Certificate, step: Step) {
    shared.tell(Event::StepBegun { certificate: certificate.name.clone(), step });
}

/// How many generations are kept beside those in use
const GENERATIONS_KEPT: usize = 5;
