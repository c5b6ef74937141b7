//! Before anything changes: what there is, what the endpoints do, and whether the gate is open.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;

use super::{Deployment, Latest, begin};
use crate::agent::Shared;
use crate::cert::{Fingerprint, Leaf};
use crate::event::Event;
use crate::failure::{Failure, Step};
use crate::gate::{self, Blocked, Facts, InPlace};
use crate::pem;
use crate::plan::DeployReason;
use crate::probe::ServedChain;
use crate::record::{Generation, TargetRecord};
use crate::store::{Reconciled, Store, StoreError};
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

/// What the disk has of a deployment
struct Found {
    generation: Arc<Generation>,
    previous: Option<Arc<Generation>>,
    /// The chain that the outputs hold
    in_files: Option<Vec<CertificateDer<'static>>>,
    /// The one that they held before the switch, where that was no generation
    replaced: Option<Vec<CertificateDer<'static>>>,
}

/// What is there before a deployment, and comes back when it fails
#[derive(Debug)]
pub(super) struct Before {
    /// The generation that was live, if it is held still
    pub(super) previous: Option<Arc<Generation>>,
    /// What was in the files, or was served where nothing was
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
        if self.record.generation != self.generation {
            let in_force = self.record.installed_at.map(|_| self.record.generation);
            self.record = TargetRecord {
                generation: self.generation,
                previous: in_force.or(self.record.previous).filter(|number| *number > 0),
                reloads: std::mem::take(&mut self.record.reloads),
                ..TargetRecord::default()
            };
        }
        let Found { generation, previous, in_files, replaced } = match self.find(shared).await {
            Ok(Some(found)) => found,
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
        let shown = in_files.as_deref().and_then(|chain| chain.first());
        let shown = shown.map(|leaf| Fingerprint::of(leaf));
        let in_files = [in_files, replaced].into_iter().flatten();
        let in_files = InFiles::of(in_files, &leaf, previous.as_deref());
        let mut before = Before { previous, leaf: in_files.as_ref().map(InFiles::leaf) };
        let fresh = self.record.installed_at.is_none();
        if self.why == DeployReason::NotLive {
            // Also before a reload alone: a disk that takes no record must not cause one after
            // another.
            self.write(shared).await?;
        } else {
            let survey = self.survey(shared).await;
            let served = || Leaf::parse(survey.served.as_ref()?.chain.first()?).ok();
            before.leaf = before.leaf.or_else(served);
            if fresh && !self.chosen {
                let passed = self.pass_gate(shared, &generation, in_files, &survey).await;
                if let Err(Closed { failure, until }) = passed {
                    self.mend(shared, before.previous, shown).await;
                    let latest = until.map_or(Latest::Ladder, Latest::Opening);
                    self.fail_until(shared, failure, false, latest).await;
                    return None;
                }
            }
            if fresh {
                // What an earlier attempt with it broke is broken by it still.
                self.record.answered.extend(survey.answered);
                self.record.answered.sort_unstable();
                self.record.answered.dedup();
                // From files alone nothing goes back, and the only record follows their switch.
                if !self.target.is_files_alone() {
                    self.begin(shared, &generation, &before).await?;
                }
            }
        }
        Some(Prepared { deployment: self, generation, leaf, before })
    }

    /// What the disk has of it; `None` when the generation is not there
    async fn find(&self, shared: &Shared) -> Result<Option<Found>, StoreError> {
        let (certificate, target) = (Arc::clone(&self.certificate), self.target.clone());
        let (number, previous) = (self.generation, self.record.previous);
        let find = move |store: &Store| {
            let held = store.generation(&certificate.name, number)?;
            // What cannot be read does not come back, and keeps nothing from going forward.
            let load = |number| store.generation(&certificate.name, number).ok().flatten();
            Ok(held.map(|generation| Found {
                generation: Arc::new(generation),
                previous: previous.and_then(load).map(Arc::new),
                in_files: store.chain_in_outputs(&target),
                replaced: store.chain_before(&certificate, &target),
            }))
        };
        shared.on_disk(find).await
    }

    /// Ask each endpoint once what it serves
    async fn survey(&self, shared: &Shared) -> Survey {
        let mut survey = Survey::default();
        if self.target.verify.is_empty() {
            return survey;
        }
        begin(shared, &self.certificate, Step::Survey);
        for endpoint in &self.target.verify {
            let Ok(seen) = shared.prober.probe(endpoint, SURVEY).await else {
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
        in_files: Option<InFiles>,
        survey: &Survey,
    ) -> Result<(), Closed> {
        begin(shared, &self.certificate, Step::Gate);
        let chain = pem::certificates(generation.chain.as_bytes())
            .map_err(|error| Failure::retry(Step::Gate, error.to_string()))?;
        let wanted = self.certificate.identifiers.iter().cloned().collect();
        // What is served matters where it is for this site; a server shows something to everybody.
        let served = survey.served.as_ref().filter(|_| in_files.is_none());
        let served = match served.and_then(|served| Facts::of(&served.chain).ok()) {
            Some(facts) => {
                let leaf = facts.leaf.fingerprint;
                let known = shared.on_disk(move |store| store.has_ordered(leaf)).await;
                Some(InFiles { facts, is_ours: known.unwrap_or(false) })
            }
            None => None,
        };
        let in_place = in_files.or(served).filter(|InFiles { facts, .. }| {
            let covers = |name| facts.leaf.identifiers.iter().any(|theirs| theirs.covers(name));
            !facts.leaf.self_signed && self.certificate.identifiers.iter().any(covers)
        });
        let in_place = in_place
            .as_ref()
            .map(|InFiles { facts, is_ours }| InPlace { facts, is_ours: *is_ours });
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

    /// Put right the files of the generation that stays in force, unless others took their place
    async fn mend(
        &self,
        shared: &Shared,
        previous: Option<Arc<Generation>>,
        shown: Option<Fingerprint>,
    ) {
        let Some(previous) = previous else { return };
        if shown.is_some_and(|shown| shown != previous.meta.fingerprint) {
            return;
        }
        let (certificate, target) = (Arc::clone(&self.certificate), self.target.clone());
        let mended = shared
            .on_disk(move |store| match store.has_before(&certificate, &target)? {
                true => Ok(Reconciled::Nothing),
                false => store.reconcile(&certificate, &target, &previous),
            })
            .await;
        match mended {
            Ok(Reconciled::Nothing) => {}
            Ok(Reconciled::Attributes | Reconciled::Content) => shared.tell(Event::Restored {
                certificate: self.certificate.name.clone(),
                target: self.target.name.clone(),
                problem: External::new("the files in force were changed"),
            }),
            Err(error) => shared.warn(&self.certificate.name, &error),
        }
    }

    /// Remember what is in the files, where it is not the previous generation, and record the rest
    async fn begin(
        &mut self,
        shared: &Shared,
        next: &Arc<Generation>,
        before: &Before,
    ) -> Option<()> {
        let (certificate, target) = (Arc::clone(&self.certificate), self.target.clone());
        let (next, previous) = (Arc::clone(next), before.previous.clone());
        let record = self.record.clone();
        let kept = shared
            .on_disk(move |store| {
                store.keep_before(&certificate, &target, &next, previous.as_deref())?;
                Ok(store.write_target(&certificate.name, &target.name, record))
            })
            .await;
        match kept {
            Ok(written) => {
                written.map_err(|error| shared.warn(&self.certificate.name, &error)).ok()
            }
            Err(error) => {
                self.fail(shared, error.failure(Step::Install), false).await;
                None
            }
        }
    }
}

/// The certificate in the files before the switch
struct InFiles {
    facts: Facts,
    /// It was ordered by certkeep
    is_ours: bool,
}

impl InFiles {
    /// What the files hold before the switch, as far as that can be told
    fn of(
        found: impl Iterator<Item = Vec<CertificateDer<'static>>>,
        new: &Leaf,
        previous: Option<&Generation>,
    ) -> Option<Self> {
        // Of other formats nothing can be read. After a crash, or a server that loaded neither, the
        // files are switched already.
        let mut found = found.filter_map(|chain| Facts::of(&chain).ok());
        let found = found.find(|facts| facts.leaf.fingerprint != new.fingerprint);
        let held = || Facts::of(&pem::certificates(previous?.chain.as_bytes()).ok()?).ok();
        let facts = found.or_else(held)?;
        let is_ours = previous.is_some_and(|previous| {
            previous.meta.fingerprint == facts.leaf.fingerprint && previous.meta.origin.is_some()
        });
        Some(Self { facts, is_ours })
    }

    fn leaf(&self) -> Leaf {
        self.facts.leaf.clone()
    }
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

/// How long an endpoint may take to show what it serves before the switch: as long as afterwards,
/// or a slow one would not be missed
const SURVEY: Duration = Duration::from_secs(10);
