//! One certificate's work, from looking again under its lock to a result.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::issuance::{self, NotIssued, Purpose};
use crate::agent::{Shared, deployment};
use crate::cert::AriId;
use crate::config::{Certificate, Config};
use crate::event::Event;
use crate::failure::{Failure, Step};
use crate::name::{CertName, IssuerName, TargetName};
use crate::plan::window::{self, Seed};
use crate::plan::{self, Action, Decision, DeployReason, Observed, Reason, Request, backoff};
use crate::record::{Attempts, RenewalInfo, VERSION};
use crate::store::{Lock, Store, StoreError};
use crate::time::Timestamp;

/// What a job is about
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Bringing a certificate to its targets
    Deployment,
    /// Anything that asks a CA
    Order,
}

/// How a job left a certificate
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) certificate: CertName,
    /// What is on disk now; `None` when it could not be looked at
    pub(crate) observed: Option<Observed>,
    /// Another process works on it
    pub(crate) held_elsewhere: bool,
    /// How its last order ended, if there was one
    pub(crate) ordered: Option<Ordered>,
    /// An attempt failed and the disk does not know: no other one before this moment
    pub(crate) paused: Option<Timestamp>,
}

/// How an order ended
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ordered {
    /// Without a certificate
    Failed,
    /// With one
    Issued,
}

impl Done {
    fn new(certificate: CertName, observed: Option<Observed>) -> Self {
        Self { certificate, observed, held_elsewhere: false, ordered: None, paused: None }
    }

    fn held_elsewhere(certificate: CertName) -> Self {
        Self { held_elsewhere: true, ..Self::new(certificate, None) }
    }
}

/// Ask the CA whatever is due for one certificate
pub(crate) async fn work(
    shared: Shared,
    config: Arc<Config>,
    certificate: Certificate,
    mut request: Request,
) -> Done {
    let name = certificate.name.clone();
    let certificate = Arc::new(certificate);
    let (lock, seen) = match take(&shared, &certificate).await {
        Ok(Some(taken)) => taken,
        Ok(None) => return Done::held_elsewhere(name),
        Err(error) => {
            shared.warn(&name, &error);
            let (paused, ordered) = (Some(shared.now().after(PAUSE)), Some(Ordered::Failed));
            return Done { paused, ordered, ..Done::new(name, None) };
        }
    };
    let mut observed = Some(seen);
    let (mut paused, mut ordered) = (None, None);
    for _ in 0..ROUNDS {
        let Some(seen) = &mut observed else {
            paused = Some(shared.now().after(PAUSE));
            break;
        };
        // Asked again under the lock: another process may have done it meanwhile.
        seen.request = request;
        let decision = plan::plan_one(shared.now(), &config, &certificate, seen);
        let Some(action) = decision.actions.iter().find(|a| !matches!(a, Action::Deploy { .. }))
        else {
            break;
        };
        let reason = decision.reason.to_string();
        let attempts = seen.attempts.clone();
        // Where the disk does not take what was done, the next look would have it done again.
        let kept = match action {
            Action::Adopt => adopt(&shared, &certificate).await,
            Action::RenewalInfo { issuer } => {
                let ask = Inquiry { config: &config, issuer, observed: seen, attempts };
                ask.ask(&shared, &certificate).await
            }
            Action::Issue => {
                shared.tell(Event::Planned { certificate: name.clone(), reason });
                request = Request::Now;
                let seed =
                    seen.held.as_ref().map_or_else(|| Seed::of_name(name.as_str()), Seed::of);
                let lifetime = seen.held.as_ref().map(|held| held.leaf.lifetime());
                let purpose = match decision.reason {
                    Reason::Unfinished => Purpose::FinishOrder,
                    _ => Purpose::Certificate,
                };
                let issued = issuance::issue(&shared, &config, &certificate, seen, purpose).await;
                ordered = Some(if issued.is_ok() { Ordered::Issued } else { Ordered::Failed });
                if let Err(NotIssued { failure, resting }) = issued {
                    let attempts = Attempts { resting, ..attempts };
                    let failed = Failed { attempts, failure, seed, lifetime };
                    paused = failed.record(&shared, &name).await;
                }
                Ok(())
            }
            Action::Deploy { .. } => Ok(()),
        };
        if kept.is_err() {
            paused = Some(shared.now().after(PAUSE));
        }
        if paused.is_some() {
            break;
        }
        let asked = *action == Action::Issue;
        observed = look(&shared, &certificate, see).await;
        // What was issued is deployed before the CA is asked anything else.
        if asked {
            break;
        }
    }
    drop(lock);
    Done { ordered, paused, ..Done::new(name, observed) }
}

/// Bring the certificates of one group to their targets, reloading once for all
pub(crate) async fn deploy(
    shared: Shared,
    config: Arc<Config>,
    group: Vec<Certificate>,
    requests: BTreeMap<CertName, Request>,
) -> Vec<Done> {
    let mut locks = Vec::new();
    let mut due = Vec::new();
    let mut done = Vec::new();
    let mut tried = BTreeMap::new();
    for certificate in group {
        let name = certificate.name.clone();
        let certificate = Arc::new(certificate);
        let mut seen = match take(&shared, &certificate).await {
            Ok(Some((lock, seen))) => {
                locks.push(lock);
                seen
            }
            Ok(None) => {
                done.push(Done::held_elsewhere(name));
                continue;
            }
            Err(error) => {
                shared.warn(&name, &error);
                let paused = Some(shared.now().after(PAUSE));
                done.push(Done { paused, ..Done::new(name, None) });
                continue;
            }
        };
        seen.request = requests.get(&name).copied().unwrap_or_default();
        let decision = plan::plan_one(shared.now(), &config, &certificate, &seen);
        tried.extend(deploying(&decision).map(|(target, why)| ((name.clone(), target), why)));
        due.extend(deployment::due(&certificate, &decision, &seen));
        done.push(Done::new(name, None));
    }
    deployment::deploy(&shared, due).await;
    // Nothing is put right without the lock.
    for one in done.iter_mut().filter(|one| !one.held_elsewhere && one.paused.is_none()) {
        let Some(certificate) = config.certificates.get(&one.certificate).cloned() else {
            continue;
        };
        let certificate = Arc::new(certificate);
        // A switch leaves the directory of before to its readers, with its key: not for longer.
        one.observed = look(&shared, &certificate, recovered).await;
        let decision = one
            .observed
            .as_ref()
            .map(|seen| plan::plan_one(shared.now(), &config, &certificate, seen));
        let rest = decision.map_or(Some(PAUSE), |decision| {
            let tried = |target| tried.get(&(one.certificate.clone(), target));
            deploying(&decision).filter_map(|(target, why)| Some(rest(tried(target)?, &why))).max()
        });
        one.paused = rest.map(|rest| shared.now().after(rest));
    }
    drop(locks);
    done
}

/// How long a certificate rests of which a target is due again that was just tried
///
/// Success and failure are both on disk by now, unless the disk takes neither.
fn rest(before: &DeployReason, now: &DeployReason) -> Duration {
    match (before, now) {
        // The success is on disk, and somebody has changed the files since.
        (DeployReason::NotInstalled, DeployReason::Drifted { .. }) => SPOILED,
        _ => PAUSE,
    }
}

/// The targets that a decision wants deployed to, and why
fn deploying(decision: &Decision) -> impl Iterator<Item = (TargetName, DeployReason)> {
    decision.actions.iter().filter_map(|action| match action {
        Action::Deploy { target, why, .. } => Some((target.clone(), why.clone())),
        _ => None,
    })
}

/// The lock of one certificate, waited for a moment, and what is on disk under it, after putting
/// right what a crash left; `None`: another process keeps it
///
/// # Errors
/// When the lock cannot be taken, or what a crash left cannot be put right.
pub async fn take(
    shared: &Shared,
    certificate: &Arc<Certificate>,
) -> Result<Option<(Lock, Observed)>, StoreError> {
    let mut waited = Duration::ZERO;
    let mut wait = Duration::from_millis(10);
    loop {
        let (wanted, events) = (Arc::clone(certificate), Arc::clone(&shared.events));
        let taken = shared
            .on_disk(move |store| {
                let Some(lock) = store.lock_certificate(&wanted.name)? else { return Ok(None) };
                Ok(Some((lock, recovered(store, &wanted, &*events)?)))
            })
            .await?;
        if taken.is_some() || waited >= LOCK_PATIENCE {
            return Ok(taken);
        }
        tokio::time::sleep(wait).await;
        waited += wait;
        wait = (wait * 2).min(Duration::from_millis(500));
    }
}

/// See under the lock what is on disk now
async fn look(shared: &Shared, certificate: &Arc<Certificate>, see: See) -> Option<Observed> {
    let (wanted, events) = (Arc::clone(certificate), Arc::clone(&shared.events));
    let seen = shared.on_disk(move |store| see(store, &wanted, &*events)).await;
    seen.map_err(|error| shared.warn(&certificate.name, &error)).ok()
}

/// A way to look: [`see`] or [`recovered`]
type See = fn(&Store, &Certificate, &(dyn Fn(Event) + Send + Sync)) -> Result<Observed, StoreError>;

/// What is on disk after putting right what a crash or a switch left
fn recovered(
    store: &Store,
    certificate: &Certificate,
    events: &(dyn Fn(Event) + Send + Sync),
) -> Result<Observed, StoreError> {
    store.recover_one(certificate, &mut |event| events(event))?;
    see(store, certificate, events)
}

/// What is on disk, without an order that came to its end
fn see(
    store: &Store,
    certificate: &Certificate,
    events: &(dyn Fn(Event) + Send + Sync),
) -> Result<Observed, StoreError> {
    let observed = store.observe_one(certificate, &mut |event| events(event));
    if observed.is_order_finished() {
        store.remove_order(&certificate.name)?;
        return Ok(Observed { order: None, ..observed });
    }
    Ok(observed)
}

async fn adopt(shared: &Shared, certificate: &Arc<Certificate>) -> Result<(), ()> {
    let (now, wanted) = (shared.now(), Arc::clone(certificate));
    let adopted = shared.on_disk(move |store| store.adopt(&wanted, now)).await;
    match adopted {
        Ok(Some(generation)) => {
            let leaf = crate::cert::Leaf::from_pem(generation.chain.as_bytes());
            shared.tell(Event::Adopted {
                certificate: certificate.name.clone(),
                generation: generation.meta.number,
                not_after: leaf.map(|leaf| leaf.not_after).unwrap_or_default(),
            });
        }
        Ok(None) => {}
        Err(error) => {
            shared.warn(&certificate.name, &error);
            return Err(());
        }
    }
    Ok(())
}

/// One question for renewal information; every error of it is soft
struct Inquiry<'a> {
    config: &'a Config,
    issuer: &'a IssuerName,
    observed: &'a Observed,
    attempts: Attempts,
}

impl Inquiry<'_> {
    async fn ask(mut self, shared: &Shared, certificate: &Certificate) -> Result<(), ()> {
        let Some(held) = &self.observed.held else { return Ok(()) };
        let Some(id) = &held.leaf.ari_id else { return Ok(()) };
        let now = shared.now();
        let before = self.attempts.renewal_info.take();
        let before = before.filter(|info| info.fingerprint == held.leaf.fingerprint);
        let answer = self.answer(shared, id).await;
        let info = match answer {
            Ok(answer) => {
                let window = answer.window.and_then(|window| window::sane(window, &held.leaf));
                shared.tell(Event::RenewalInfoFetched {
                    certificate: certificate.name.clone(),
                    renew_at: window.map(|window| window::drawn(window, Seed::of(held))),
                    explanation_url: answer.explanation_url.clone(),
                });
                RenewalInfo {
                    fingerprint: held.leaf.fingerprint,
                    window,
                    explanation_url: answer.explanation_url,
                    next_check: now.after(answer.retry_after),
                    failures: 0,
                }
            }
            Err(failure) => {
                let failures = before.as_ref().map_or(0, |info| info.failures).saturating_add(1);
                shared.warn(&certificate.name, &failure);
                let seed = Seed::of(held);
                let next = backoff::after_failed_renewal_info(now, failures, &failure.class, seed);
                RenewalInfo {
                    fingerprint: held.leaf.fingerprint,
                    window: before.as_ref().and_then(|info| info.window),
                    explanation_url: before.and_then(|info| info.explanation_url),
                    next_check: next,
                    failures,
                }
            }
        };
        let attempts =
            Attempts { version: VERSION, renewal_info: Some(info), ..self.attempts.clone() };
        write_attempts(shared, &certificate.name, attempts).await
    }

    async fn answer(
        &self,
        shared: &Shared,
        id: &AriId,
    ) -> Result<crate::acme::RenewalInfoAnswer, Failure> {
        let session = shared.sessions.open(shared, self.config, self.issuer).await?;
        session.renewal_info(id).await
    }
}

/// A failed attempt at a new certificate
struct Failed {
    attempts: Attempts,
    failure: Failure,
    seed: Seed,
    lifetime: Option<Duration>,
}

impl Failed {
    /// Put it on disk; the moment of the next attempt if the disk did not take it
    async fn record(self, shared: &Shared, name: &CertName) -> Option<Timestamp> {
        let now = shared.now();
        let failures = self.attempts.failures.saturating_add(1);
        let class = &self.failure.class;
        let mut next = backoff::after_failure(now, failures, class, self.lifetime, self.seed);
        if self.failure.step == Step::Prepare {
            next = next.min(backoff::after_failure_at_home(now, failures, self.seed));
        }
        shared.tell(Event::Failed {
            certificate: name.clone(),
            target: None,
            failure: self.failure.clone(),
            next,
        });
        let attempts = Attempts {
            version: VERSION,
            failures,
            last_failure: Some(Box::new(self.failure)),
            failed_at: Some(now),
            not_before: Some(next),
            begun: 0,
            begun_at: None,
            ..self.attempts
        };
        write_attempts(shared, name, attempts).await.err().map(|()| next)
    }
}

async fn write_attempts(shared: &Shared, name: &CertName, attempts: Attempts) -> Result<(), ()> {
    let owned = name.clone();
    let written = shared.on_disk(move |store| store.write_attempts(&owned, &attempts)).await;
    written.map_err(|error| shared.warn(name, &error))
}

/// Taking over, asking when, and ordering, and one to spare
const ROUNDS: u32 = 4;

/// How long a certificate rests whose disk does not take what was done
pub(crate) const PAUSE: Duration = Duration::from_secs(600);

/// How long one rests whose new files were changed at once; a server that does so itself is not
/// reloaded over and over for it
const SPOILED: Duration = Duration::from_secs(30);

/// How long another process may keep a certificate before it is left to it
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
