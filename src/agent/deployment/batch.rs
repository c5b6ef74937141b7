//! What one check and one reload serve: forward until it is seen on the wire, or back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::{Deployment, Installed, Latest, begin, joined, recent};
use crate::agent::Shared;
use crate::cert::{Fingerprint, Leaf};
use crate::config::{Certificate, Endpoint, Hook};
use crate::deploy::{self, CheckError, HookContext};
use crate::event::Event;
use crate::failure::{Failure, Step};
use crate::name::TargetName;
use crate::plan::window;
use crate::probe::{Seen, Unseen, Wanted};
use crate::store::{Store, StoreError};
use crate::text::External;
use crate::time::Timestamp;

/// Bring deployments that one reload serves as far as they get
///
/// Where the server refuses many at once and takes what was there before, it is asked about one
/// half and then the other: one that is refused is not the failure of all.
pub(super) async fn run(shared: &Shared, members: Vec<Installed>) {
    let mut waiting = vec![members];
    let mut attempts = MOST_ATTEMPTS;
    while let Some(members) = waiting.pop() {
        attempts = attempts.saturating_sub(1);
        // The last attempts are for what waits: each half is tried once at least.
        let may_split = attempts > waiting.len() + 1;
        waiting.extend(Batch { members }.attempt(shared, may_split).await);
    }
}

/// How often a server is asked in all when it refuses some of many: enough to find one in a
/// hundred, and few enough for a server whose reload is felt
const MOST_ATTEMPTS: usize = 16;

/// Deployments that one reload serves
#[derive(Debug)]
struct Batch {
    members: Vec<Installed>,
}

/// A deployment that has to go back, and why
type Refused = (Installed, Failure);

/// Why none of a batch was loaded
struct NotLoaded {
    failure: Failure,
    /// The check that said so, which may be of some of them alone
    check: Option<Hook>,
}

impl From<Failure> for NotLoaded {
    fn from(failure: Failure) -> Self {
        Self { failure, check: None }
    }
}

impl Batch {
    /// Bring all of it as far as it gets; gives parts to be tried one by one where it was refused
    /// as a whole and may be split
    async fn attempt(mut self, shared: &Shared, may_split: bool) -> Vec<Vec<Installed>> {
        self.put_forward(shared).await;
        if self.members.is_empty() {
            return Vec::new();
        }
        let loaded = match self.ask(shared, Files::New).await {
            Ok(()) => self.load(shared, Files::New).await.map_err(NotLoaded::from),
            Err((check, error)) => Err(NotLoaded { failure: error.into(), check: Some(check) }),
        };
        let members = std::mem::take(&mut self.members);
        if let Err(NotLoaded { failure, check }) = loaded {
            let limited = |it: &Installed| it.deployment.target.max_reloads_per_hour.is_some();
            let may_split = may_split && members.len() > 1 && !members.iter().any(limited);
            let refused = members.into_iter().map(|member| (member, failure.clone())).collect();
            let culprit = check.filter(|_| may_split);
            return self.go_back(shared, refused, culprit.as_ref(), may_split).await;
        }
        let mut verifying = JoinSet::new();
        for mut member in members {
            member.deployment.record.reloaded_at = Some(shared.now());
            let shared = shared.clone();
            verifying.spawn(async move {
                // Without an endpoint the next record follows at once.
                if !member.deployment.target.verify.is_empty() {
                    member.deployment.write(&shared).await;
                }
                member.verify(&shared).await
            });
        }
        let mut refused = Vec::new();
        while let Some(verified) = joined(shared, &mut verifying).await {
            refused.extend(verified);
        }
        // A server that died of it once is not made to die again.
        self.go_back(shared, refused, None, false).await
    }

    /// Install again what went back before this attempt
    async fn put_forward(&mut self, shared: &Shared) {
        for mut member in std::mem::take(&mut self.members) {
            match &member.refused {
                Some(failure) if !member.put_forward(shared).await => {
                    let failure = failure.clone();
                    member.deployment.fail(shared, failure, true).await;
                }
                _ => {
                    member.refused = None;
                    self.members.push(member);
                }
            }
        }
    }

    /// The server's own checks of the files that are there now, each once until one fails
    async fn ask(&self, shared: &Shared, files: Files) -> Result<(), (Hook, CheckError)> {
        let checks = self.members.iter().map(|member| &member.deployment.target.check);
        let checks: BTreeSet<_> = checks.flatten().collect();
        for check in checks {
            let asks = |it: &&Installed| it.deployment.target.check.as_ref() == Some(check);
            let members: Vec<_> = self.members.iter().filter(asks).collect();
            if let Some(first) = members.first() {
                begin(shared, &first.deployment.certificate, Step::Check);
            }
            let contexts: Vec<_> = members.iter().map(|member| member.context(files)).collect();
            let asked = deploy::check(check, &contexts, &|event| shared.tell(event)).await;
            asked.map_err(|error| (check.clone(), error))?;
        }
        Ok(())
    }

    /// Make the server load the files that are there now
    async fn load(&mut self, shared: &Shared, files: Files) -> Result<(), Failure> {
        let Some(Deployment { certificate, target, .. }) =
            self.members.first().map(|m| &m.deployment)
        else {
            return Ok(());
        };
        let Some(reload) = target.reload.clone() else { return Ok(()) };
        begin(shared, certificate, Step::Reload);
        let now = shared.now();
        for Installed { deployment, .. } in &mut self.members {
            deployment.record.reloads = recent(&deployment.record.reloads, now);
            deployment.record.reloads.push(now);
            // Where they are counted, one that this process does not survive counts, too.
            if deployment.target.max_reloads_per_hour.is_some() {
                deployment.write(shared).await;
            }
        }
        let contexts: Vec<_> = self.members.iter().map(|member| member.context(files)).collect();
        deploy::reload(&reload, &contexts, &|event| shared.tell(event)).await
    }

    /// Put back what was there before, have it loaded again, and say whose fault it was, unless
    /// parts are to tell
    ///
    /// Where a check is the `culprit`, those that it is not about are a part. A target that had
    /// nothing before keeps the new files: nothing is not better.
    async fn go_back(
        mut self,
        shared: &Shared,
        refused: Vec<Refused>,
        culprit: Option<&Hook>,
        may_split: bool,
    ) -> Vec<Vec<Installed>> {
        let (mut staying, mut others) = (Vec::new(), Vec::new());
        let why = refused.first().map(|(_, failure)| failure.to_string()).unwrap_or_default();
        for (mut member, failure) in refused {
            let is_back = member.put_back(shared).await;
            member.refused = is_back.then(|| failure.clone());
            match culprit {
                Some(check) if member.deployment.target.check.as_ref() != Some(check) => {
                    others.push(member);
                }
                _ if is_back => self.members.push(member),
                _ => staying.push((member, failure)),
            }
        }
        let verdict = match self.members.is_empty() {
            true => None,
            false => Some(self.judge(shared).await),
        };
        let mut parts = vec![others];
        let many = staying.len() + self.members.len() > 1;
        if may_split && many && matches!(verdict, Some(Verdict::Loaded)) {
            let staying = std::mem::take(&mut staying).into_iter().map(|(member, _)| member);
            let mut first: Vec<_> = staying.chain(std::mem::take(&mut self.members)).collect();
            let message = External::new(format!(
                "{why}; of {} certificates, and the server takes those before them: one half is \
                 tried after the other",
                first.len()
            ));
            shared.tell(Event::Warned { certificate: None, message });
            parts.push(first.split_off(first.len() / 2));
            parts.push(first);
        }
        for (mut member, failure) in staying {
            member.deployment.fail(shared, failure, false).await;
        }
        let mut going = JoinSet::new();
        for mut member in self.members {
            let (Some(failure), Some(verdict)) = (member.refused.take(), verdict.clone()) else {
                continue;
            };
            let shared = shared.clone();
            going.spawn(async move { member.conclude(&shared, failure, verdict).await });
        }
        while joined(shared, &mut going).await.is_some() {}
        parts.retain(|part| !part.is_empty());
        parts
    }

    /// What the server makes of the files that are back
    async fn judge(&mut self, shared: &Shared) -> Verdict {
        match self.ask(shared, Files::Before).await {
            Ok(()) => {}
            Err((_, CheckError::Refused(_))) => return Verdict::RefusesBoth,
            Err((_, CheckError::NotAsked(failure))) => return Verdict::NotAsked(failure.summary),
        }
        match self.load(shared, Files::Before).await {
            Ok(()) => Verdict::Loaded,
            Err(failure) => Verdict::NotLoaded(failure.summary),
        }
    }
}

/// Which files a command is told about
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    Before,
    New,
}

/// What the server made of the files that are back
#[derive(Clone, Debug)]
enum Verdict {
    Loaded,
    NotLoaded(External),
    RefusesBoth,
    NotAsked(External),
}

impl Installed {
    fn context(&self, files: Files) -> HookContext<'_> {
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
    async fn verify(mut self, shared: &Shared) -> Option<Refused> {
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
        // The server is up and serves something else: another reload may be all that it takes.
        self.deployment.fail(shared, failure, false).await;
        None
    }

    /// Whether an address shows nothing any more that did before
    fn is_broken(&self, unseen: &Unseen) -> bool {
        let answered = |seen: &Seen| {
            let address = format!("{} {}", unseen.endpoint, seen.address);
            self.deployment.record.answered.contains(&address)
        };
        let dead = |seen: &&Seen| matches!(seen.outcome, Some(Err(_)));
        unseen.addresses.iter().filter(dead).any(answered)
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
        record.verified = !self.deployment.target.verify.is_empty();
        record.failures = 0;
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

    /// Put back the files that were there before, if there were any; whether that was done
    async fn put_back(&mut self, shared: &Shared) -> bool {
        if !self.reversible {
            return false;
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
                true
            }
            Ok(false) => false,
            Err(error) => {
                shared.warn(&name, &error);
                false
            }
        }
    }

    /// Record why it went back, and what the server makes of the files that are there now
    async fn conclude(mut self, shared: &Shared, failure: Failure, verdict: Verdict) {
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
    async fn put_forward(&self, shared: &Shared) -> bool {
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
