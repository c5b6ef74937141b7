//! Before anything changes: what there is, what the endpoints do, and whether the gate is open.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;

use super::{Deployment, begin};
use crate::agent::Shared;
use crate::cert::Leaf;
use crate::event::Event;
use crate::failure::{Failure, Step};
use crate::gate::{self, Blocked, Facts, InPlace};
use crate::pem;
use crate::plan::DeployReason;
use crate::probe::ServedChain;
use crate::record::{Generation, TargetRecord};
use crate::store::StoreError;
use crate::text::External;
use crate::time::Timestamp;

/// A deployment that may change something
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) deployment: Deployment,
    pub(super) generation: Arc<Generation>,
    pub(super) leaf: Leaf,
    pub(super) before: Before,
}

/// What is there before a deployment, and comes back when it fails
#[derive(Debug)]
pub(super) struct Before {
    /// The generation that was live, if it is held still
    pub(super) previous: Option<Arc<Generation>>,
    /// What was served, or is in the files where nothing was
    pub(super) leaf: Option<Leaf>,
}

/// What the endpoints did before the switch
#[derive(Debug, Default)]
struct Survey {
    /// Those that showed a certificate
    answered: Vec<String>,
    /// A certificate that one of them showed
    served: Option<ServedChain>,
}

impl Deployment {
    /// Look at everything that this depends on; `None` when it may not go on, which is recorded
    pub(super) async fn prepare(mut self, shared: &Shared) -> Option<Prepared> {
        let generation = match self.load(shared, self.generation).await {
            Ok(Some(generation)) => generation,
            Ok(None) => {
                let summary =
                    format!("generation {} is not in the state directory", self.generation);
                self.fail(shared, Failure::retry(Step::Install, summary), false).await;
                return None;
            }
            Err(error) => {
                self.fail(shared, error.failure(Step::Install), false).await;
                return None;
            }
        };
        let leaf = match Leaf::from_pem(generation.chain.as_bytes()) {
            Ok(leaf) => leaf,
            Err(error) => {
                self.fail(shared, Failure::retry(Step::Install, error.to_string()), false).await;
                return None;
            }
        };
        let is_new = self.record.generation != self.generation;
        if is_new {
            let in_force = self.record.installed_at.map(|_| self.record.generation);
            self.record = TargetRecord {
                generation: self.generation,
                previous: in_force.or(self.record.previous).filter(|number| *number > 0),
                reloads: std::mem::take(&mut self.record.reloads),
                ..TargetRecord::default()
            };
        }
        let previous = match self.record.previous {
            // What cannot be read does not come back, and keeps nothing from going forward.
            Some(number) => self.load(shared, number).await.ok().flatten(),
            None => None,
        };
        let in_files = self.in_files(shared, previous.as_deref()).await;
        let mut before = Before { previous, leaf: None };
        let fresh = self.record.installed_at.is_none();
        if self.why == DeployReason::NotLive {
            before.leaf = in_force_leaf(&before, None);
            // Also before a reload alone: a disk that takes no record must not cause one after
            // another.
            self.write(shared).await?;
        } else {
            let survey = self.survey(shared).await;
            before.leaf = in_force_leaf(&before, survey.served.as_ref());
            if fresh && !self.chosen {
                let passed = self.pass_gate(shared, &generation, in_files, &survey).await;
                if let Err(Closed { failure, until }) = passed {
                    self.fail_until(shared, failure, false, until).await;
                    return None;
                }
            }
            if fresh {
                if is_new {
                    self.keep_before(shared, &before).await?;
                }
                self.record.answered = survey.answered;
                self.write(shared).await?;
            }
        }
        Some(Prepared { deployment: self, generation, leaf, before })
    }

    async fn load(
        &self,
        shared: &Shared,
        number: u32,
    ) -> Result<Option<Arc<Generation>>, StoreError> {
        let name = self.certificate.name.clone();
        let held = shared.on_disk(move |store| store.generation(&name, number)).await?;
        Ok(held.map(Arc::new))
    }

    /// The chain that the files hold, and whether certkeep ordered it
    async fn in_files(
        &self,
        shared: &Shared,
        previous: Option<&Generation>,
    ) -> Option<(Vec<CertificateDer<'static>>, bool)> {
        if let Some(previous) = previous {
            let chain = pem::certificates(previous.chain.as_bytes()).ok()?;
            return Some((chain, previous.meta.origin.is_some()));
        }
        let target = self.target.clone();
        let found = shared.on_disk(move |store| Ok(store.chain_in_outputs(&target))).await;
        Some((found.ok()??, false))
    }

    /// Ask each endpoint once what it serves
    async fn survey(&self, shared: &Shared) -> Survey {
        let mut survey = Survey::default();
        if self.target.verify.is_empty() {
            return survey;
        }
        begin(shared, &self.certificate, Step::Survey);
        for endpoint in &self.target.verify {
            let Ok(seen) = shared.prober.probe(endpoint, SURVEY.min(endpoint.within)).await else {
                continue;
            };
            for one in seen {
                if let Ok(chain) = one.outcome {
                    survey.answered.push(format!("{endpoint} {}", one.address));
                    survey.served.get_or_insert(chain);
                }
            }
        }
        survey
    }

    /// Whether the generation may take the place of what is there, and how it differs from it
    async fn pass_gate(
        &self,
        shared: &Shared,
        generation: &Generation,
        in_files: Option<(Vec<CertificateDer<'static>>, bool)>,
        survey: &Survey,
    ) -> Result<(), Closed> {
        begin(shared, &self.certificate, Step::Gate);
        let chain = pem::certificates(generation.chain.as_bytes())
            .map_err(|error| Failure::retry(Step::Gate, error.to_string()))?;
        let wanted = self.certificate.identifiers.iter().cloned().collect();
        // What is served matters where it is for this site; a server shows something to everybody.
        let served = survey.served.as_ref().map(|served| (served.chain.clone(), false));
        let in_place = in_files.or(served).and_then(|(chain, is_ours)| {
            let facts = Facts::of(&chain).ok()?;
            let covers = |name| facts.leaf.identifiers.iter().any(|theirs| theirs.covers(name));
            let is_for_this = self.certificate.identifiers.iter().any(covers);
            (is_for_this && !facts.leaf.self_signed).then_some((facts, is_ours))
        });
        let in_place =
            in_place.as_ref().map(|(facts, is_ours)| InPlace { facts, is_ours: *is_ours });
        let roots = match &self.certificate.gate.roots {
            Some(path) => Some(roots(shared, path).await?),
            None => None,
        };
        let gate = &self.certificate.gate;
        let judged = gate::judge(shared.now(), gate, &wanted, &chain, roots.as_deref(), in_place);
        match judged {
            Ok(changes) if changes.is_empty() => Ok(()),
            Ok(changes) => {
                shared.tell(Event::Differs {
                    certificate: self.certificate.name.clone(),
                    target: self.target.name.clone(),
                    generation: self.generation,
                    changes,
                });
                Ok(())
            }
            Err(blocked) => Err(Closed::from(&blocked)),
        }
    }

    /// Remember what is in the files, where it is not the previous generation
    async fn keep_before(&mut self, shared: &Shared, before: &Before) -> Option<()> {
        let (certificate, target) = (Arc::clone(&self.certificate), self.target.clone());
        let previous = before.previous.clone();
        let kept = shared
            .on_disk(move |store| store.keep_before(&certificate, &target, previous.as_deref()))
            .await;
        if let Err(error) = kept {
            self.fail(shared, error.failure(Step::Install), false).await;
            return None;
        }
        Some(())
    }
}

fn in_force_leaf(before: &Before, served: Option<&ServedChain>) -> Option<Leaf> {
    let served = served.and_then(|served| Leaf::parse(served.chain.first()?).ok());
    let previous = || Leaf::from_pem(before.previous.as_ref()?.chain.as_bytes()).ok();
    served.or_else(previous)
}

/// Why the gate is closed, and until when if that is known
struct Closed {
    failure: Failure,
    until: Option<Timestamp>,
}

impl From<Failure> for Closed {
    fn from(failure: Failure) -> Self {
        Self { failure, until: None }
    }
}

impl From<&Blocked> for Closed {
    fn from(Blocked { why, remedy, until }: &Blocked) -> Self {
        let summary = match until {
            Some(until) => format!("not deployed before {until}: {why}"),
            None => format!("not deployed: {why}"),
        };
        Self { failure: Failure::needs_operator(Step::Gate, summary, remedy), until: *until }
    }
}

async fn roots(shared: &Shared, path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let shown = External::new(path.to_string_lossy());
    let owned = path.to_owned();
    let unusable = |why: &dyn std::fmt::Display| {
        Failure::needs_operator(
            Step::Gate,
            format!("the roots in {shown} cannot be used: {why}"),
            "put PEM certificates there, or name another file for `gate.roots`",
        )
    };
    let read = shared.on_disk(move |store| store.read_public(&owned)).await;
    let bytes = read.map_err(|error| unusable(&error))?;
    pem::certificates(&bytes).map_err(|error| unusable(&error))
}

/// How long an endpoint may take to show what it serves before the switch
const SURVEY: Duration = Duration::from_secs(5);
