//! A deployment whose files are in place: seen on the wire, or taken back.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::prepare::Before;
use super::{Deployment, Latest, begin};
use crate::agent::Shared;
use crate::cert::{Fingerprint, Leaf};
use crate::config::{Certificate, Endpoint};
use crate::deploy::HookContext;
use crate::event::Event;
use crate::failure::{Failure, Step};
use crate::name::TargetName;
use crate::plan::window;
use crate::probe::{Seen, Unseen, Wanted};
use crate::record::Generation;
use crate::store::{Store, StoreError};
use crate::text::External;
use crate::time::Timestamp;

/// A deployment whose files are in place
#[derive(Debug)]
pub(super) struct Installed {
    pub(super) deployment: Deployment,
    pub(super) generation: Arc<Generation>,
    pub(super) leaf: Leaf,
    pub(super) before: Before,
    /// Whether there is a way back: what was put right or is loaded again was there before, too
    pub(super) reversible: bool,
    /// Why the files from before are back, or may be, while others are tried
    pub(super) refused: Option<Failure>,
}

/// What became of the files from before
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PutBack {
    /// They are back
    All,
    /// The new ones stay: there were none, or nothing was changed
    Nothing,
    /// A disk that failed at a switch may have switched
    NobodyKnows,
}

/// A deployment that has to go back, and why
pub(super) type Refused = (Installed, Failure);

/// Which files a command is told about
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Files {
    Before,
    New,
}

/// What the server made of the files that are back
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    Loaded,
    NotLoaded(External),
    RefusesBoth,
    NotAsked(External),
}

impl Installed {
    pub(super) fn context(&self, files: Files) -> HookContext<'_> {
        let Deployment { certificate, target, reason, .. } = &self.deployment;
        let new = (self.generation.meta.number, &self.leaf);
        let previous = self.before.previous.as_ref().map_or(0, |previous| previous.meta.number);
        let (generation, leaf) = match (files, &self.before.leaf) {
            (Files::Before, Some(leaf)) => (previous, leaf),
            (Files::Before, None) | (Files::New, _) => new,
        };
        HookContext {
            certificate: &certificate.name,
            target: &target.name,
            generation,
            identifiers: &certificate.identifiers,
            outputs: &target.outputs,
            fingerprint: leaf.fingerprint,
            not_after: leaf.not_after,
            reason: match files {
                Files::Before => "the previous files are back",
                Files::New => reason,
            },
        }
    }

    /// See it from every endpoint, and record what was seen; given back if it has to go back
    pub(super) async fn verify(mut self, shared: &Shared) -> Option<Refused> {
        let endpoints = self.deployment.target.verify.clone();
        if !endpoints.is_empty() {
            begin(shared, &self.deployment.certificate, Step::Verify);
        }
        let wanted = Wanted {
            leaf: self.leaf.fingerprint,
            key: self.leaf.key_type,
            previous: self.before.leaf.as_ref().map(|leaf| leaf.fingerprint),
        };
        let (addresses, unseen) = see(shared, endpoints, wanted).await;
        if unseen.is_empty() {
            self.live(shared, addresses).await;
            return None;
        }
        let mut sentences = Vec::with_capacity(unseen.len());
        for unseen in &unseen {
            sentences.push(self.words(shared, unseen).await);
        }
        let failure = Failure::retry(Step::Verify, sentences.join("; "));
        if unseen.iter().any(|unseen| self.is_broken(unseen)) {
            return Some((self, failure));
        }
        self.note_proven(&unseen);
        // The server is up and serves something else: another reload may be all that it takes.
        self.deployment.fail(shared, failure, false).await;
        None
    }

    /// Note the endpoints that showed it, where others did not
    fn note_proven(&mut self, unseen: &[Unseen]) {
        let shows = |endpoint: &&Endpoint| {
            unseen.iter().find(|one| one.endpoint == **endpoint).is_none_or(Unseen::is_seen)
        };
        let showing = self.deployment.target.verify.iter().filter(shows).map(Endpoint::place);
        let proven = &mut self.deployment.record.proven;
        proven.extend(showing);
        proven.sort_unstable();
        proven.dedup();
    }

    /// Whether an address shows nothing any more that did before, and not since it showed the new
    /// certificate
    fn is_broken(&self, unseen: &Unseen) -> bool {
        if self.deployment.record.proven.contains(&unseen.endpoint.place()) {
            return false;
        }
        let answered = |seen: &Seen| {
            let address = format!("{} {}", unseen.endpoint, seen.address);
            self.deployment.record.answered.contains(&address)
        };
        unseen.addresses.iter().filter(|seen| seen.is_dead()).any(answered)
    }

    /// What an endpoint does, and where a third certificate may come from
    async fn words(&self, shared: &Shared, unseen: &Unseen) -> String {
        let mut words = unseen.to_string();
        let Wanted { leaf, previous, .. } = unseen.wanted;
        let served = unseen.addresses.iter().filter_map(|seen| match &seen.outcome {
            Some(Ok(chain)) => Some(chain.leaf),
            _ => None,
        });
        let mut third: Vec<_> =
            served.filter(|served| *served != leaf && Some(*served) != previous).collect();
        third.sort_unstable();
        third.dedup();
        for leaf in third {
            if let Some(path) = self.file_of(shared, leaf).await {
                words.push_str(&format!("; {path} holds the certificate {}…", leaf.short()));
            }
        }
        words
    }

    async fn file_of(&self, shared: &Shared, leaf: Fingerprint) -> Option<External> {
        let certificate = Arc::clone(&self.deployment.certificate);
        let found = shared.on_disk(move |store| Ok(store.find_file(&certificate, leaf))).await;
        found.ok()?.map(|path| External::new(path.to_string_lossy()))
    }

    async fn live(mut self, shared: &Shared, addresses: usize) {
        let record = &mut self.deployment.record;
        record.live_at = Some(shared.now());
        record.was_live = false;
        record.proven = self.deployment.target.verify.iter().map(Endpoint::place).collect();
        record.failures = 0;
        record.refusals = 0;
        record.last_failure = None;
        record.not_before = None;
        let certificate = Arc::clone(&self.deployment.certificate);
        let (target, record) = (self.deployment.target.name.clone(), record.clone());
        let (name, now) = (certificate.name.clone(), shared.now());
        let done = shared
            .on_disk(move |store| {
                store.write_target(&certificate.name, &target, record)?;
                Ok(clean_up(store, &certificate, &target, now))
            })
            .await;
        let cleaned = done.inspect(|_| {
            shared.tell(Event::Live {
                certificate: name.clone(),
                target: self.deployment.target.name.clone(),
                generation: self.generation.meta.number,
                addresses,
            });
        });
        if let Err(error) = cleaned.flatten() {
            shared.warn(&name, &error);
        }
    }

    /// Put back the files that were there before, if there were any
    pub(super) async fn put_back(&mut self, shared: &Shared) -> PutBack {
        if !self.reversible {
            return PutBack::Nothing;
        }
        let Deployment { certificate, target, .. } = &self.deployment;
        let (name, place) = (certificate.name.clone(), target.name.clone());
        let (certificate, target) = (Arc::clone(certificate), target.clone());
        let previous = self.before.previous.clone();
        let number = previous.as_ref().map(|previous| previous.meta.number);
        let done = shared
            .on_disk(move |store| store.put_back(&certificate, &target, previous.as_deref()))
            .await;
        match done {
            Ok(true) => {
                shared.tell(Event::RolledBack {
                    certificate: name,
                    target: place,
                    generation: number,
                });
                PutBack::All
            }
            Ok(false) => PutBack::Nothing,
            Err(error) => {
                shared.warn(&name, &error);
                PutBack::NobodyKnows
            }
        }
    }

    /// Record why it went back, and what the server makes of the files that are there now
    pub(super) async fn conclude(mut self, shared: &Shared, failure: Failure, verdict: Verdict) {
        let ends = self.before.leaf.as_ref().map(|leaf| (window::emergency(leaf), leaf.not_after));
        let ending = ends.filter(|(emergency, _)| *emergency <= shared.now());
        let stay = |not_after| {
            format!("the new files stay, since the certificate before them ends at {not_after}")
        };
        let (sentence, undone) = match (verdict, ending) {
            (Verdict::RefusesBoth, Some((_, not_after))) if self.put_forward(shared).await => {
                let sentence = format!(
                    "it refuses the previous files as well: its configuration is broken, whatever \
                     the certificate; {}",
                    stay(not_after)
                );
                (sentence, false)
            }
            (Verdict::RefusesBoth, _) => {
                let sentence = "the previous files are back, and the server refuses them as well: \
                                its configuration is broken, whatever the certificate";
                (sentence.to_owned(), true)
            }
            (Verdict::NotLoaded(why), Some((_, not_after))) if self.put_forward(shared).await => {
                let sentence = format!(
                    "it does not load the previous files either: {why}; {}",
                    stay(not_after)
                );
                (sentence, false)
            }
            (Verdict::NotLoaded(why), _) => {
                let sentence = format!(
                    "the previous files are back and pass the check, and the server does not load \
                     them: {why}"
                );
                (sentence, true)
            }
            (Verdict::NotAsked(why), _) => {
                let sentence =
                    format!("the previous files are back, and nobody asked the server: {why}");
                (sentence, true)
            }
            (Verdict::Loaded, _) => (self.see_previous(shared).await, true),
        };
        let summary = External::new(format!("{}; {sentence}", failure.summary));
        let failure = Failure { summary, ..failure };
        let latest = ends.map_or(Latest::Ladder, |(emergency, _)| Latest::Emergency(emergency));
        self.deployment.fail_until(shared, failure, undone, latest).await;
    }

    /// Install the new files once more, where the way back led to nothing better
    pub(super) async fn put_forward(&self, shared: &Shared) -> bool {
        let Deployment { certificate, target, .. } = &self.deployment;
        let (name, certificate) = (certificate.name.clone(), Arc::clone(certificate));
        let (target, generation) = (target.clone(), Arc::clone(&self.generation));
        let done =
            shared.on_disk(move |store| store.install(&certificate, &target, &generation)).await;
        done.map_err(|error| shared.warn(&name, &error)).is_ok()
    }

    /// Whether the certificate from before is served again, in words
    async fn see_previous(&self, shared: &Shared) -> String {
        let back = "the previous files are back and the server takes them";
        let endpoints: Vec<_> = self
            .deployment
            .target
            .verify
            .iter()
            .map(|endpoint| {
                let within = endpoint.within.min(PREVIOUS);
                Endpoint { within, ..endpoint.clone() }
            })
            .collect();
        let Some(leaf) = self.before.leaf.as_ref().filter(|_| !endpoints.is_empty()) else {
            return back.to_owned();
        };
        let Leaf { fingerprint, key_type, .. } = leaf;
        let wanted = Wanted { leaf: *fingerprint, key: *key_type, previous: None };
        match see(shared, endpoints, wanted).await {
            (_, unseen) if unseen.is_empty() => {
                "the previous files are back and the previous certificate is served".to_owned()
            }
            (_, unseen) => {
                let unseen: Vec<_> = unseen.iter().map(ToString::to_string).collect();
                format!("{back}, but {}", unseen.join("; "))
            }
        }
    }
}

/// Let go of what nothing needs any more
fn clean_up(
    store: &Store,
    certificate: &Certificate,
    target: &TargetName,
    now: Timestamp,
) -> Result<(), StoreError> {
    store.forget_before(&certificate.name, target)?;
    let record = store.deploy(&certificate.name, &mut |_| ())?;
    let targets = record.targets.values();
    let in_use: Vec<_> =
        targets.flat_map(|it| [Some(it.generation), it.previous]).flatten().collect();
    store.prune(&certificate.name, certificate.keep, &in_use, now)
}

/// Look at all endpoints until they serve what is wanted: how many addresses do, and which do not
async fn see(shared: &Shared, endpoints: Vec<Endpoint>, wanted: Wanted) -> (usize, Vec<Unseen>) {
    let mut looking = JoinSet::new();
    for endpoint in endpoints {
        let prober = Arc::clone(&shared.prober);
        looking.spawn(async move { prober.verify(&endpoint, wanted).await });
    }
    let (mut addresses, mut unseen) = (0, Vec::new());
    while let Some(seen) = looking.join_next().await {
        match seen {
            Ok(Ok(seen)) => addresses += seen,
            Ok(Err(error)) => unseen.push(error),
            // An endpoint that nobody looked at proves nothing.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => {}
            },
        }
    }
    unseen.sort_by(|one, other| one.endpoint.cmp(&other.endpoint));
    (addresses, unseen)
}

/// How long the previous certificate is looked for after the way back
const PREVIOUS: Duration = Duration::from_secs(15);
