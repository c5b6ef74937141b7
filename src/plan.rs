//! The one planner: what is due now, why, and when to look again.
//!
//! [`plan`] is total and pure: no I/O, no clock, no error. `plan`, `status`, `renew` and `run` all
//! call it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::{Certificate, Config, Issuer, Target};
use crate::failure::FailureClass;
use crate::name::{CertName, IssuerName, TargetName};
use crate::record::Attempts;
use crate::text::External;
use crate::time::Timestamp;

pub mod backoff;
pub mod ledger;
mod reason;
mod snapshot;
pub mod window;

pub use reason::{Drift, Reason};
pub use snapshot::{Held, Observed, ObservedTarget, OrderInFlight, OutputState, Request, Snapshot};
use window::Seed;

/// What is due now and when to look again
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One for each certificate of the configuration, in its order
    pub decisions: Vec<Decision>,
    /// When to plan again: now if there is something to do, a quarter of an hour at most
    pub wake_at: Timestamp,
    /// What the clock cannot be before, if it is; then nothing is ordered
    pub clock_suspect: Option<Timestamp>,
}

/// What is done about one certificate, and why
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which
    pub certificate: CertName,
    /// How far it is
    pub state: State,
    /// What is due now, in the order to do it
    pub actions: Vec<Action>,
    /// Why a new certificate is wanted, or why not
    pub reason: Reason,
    /// What keeps a wanted certificate from being ordered now
    pub held_back: Option<HeldBack>,
    /// When a new certificate is due or was
    pub renew_at: Timestamp,
    /// When to look at it again
    pub wake_at: Timestamp,
    /// Whether the record of the order that it came from is still there
    pub order_left_over: bool,
    /// What the clock cannot be before, if the one that is held was ordered
    pub clock_floor: Option<Timestamp>,
}

/// How far a certificate is; derived, never stored
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There is none
    Missing,
    /// There is none, and an order for it is under way
    Ordering,
    /// Issued and kept, and not in the files of every target
    Staged,
    /// In the files of every target, and not seen from every endpoint
    Installed,
    /// Seen from every endpoint
    Live {
        /// Whether there were endpoints to ask
        verified: bool,
    },
    /// Nothing goes on until a human does something
    NeedsOperator {
        /// What
        what: External,
    },
}

impl State {
    /// The state as one word
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Ordering => "ordering",
            Self::Staged => "staged",
            Self::Installed => "installed",
            Self::Live { .. } => "live",
            Self::NeedsOperator { .. } => "needs-operator",
        }
    }
}

/// Something to do now
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Keep the pair that the files hold as a generation
    Adopt,
    /// Bring a generation to a target, as far as it is not there
    Deploy {
        /// Which target
        target: TargetName,
        /// Which generation
        generation: u32,
        /// Why
        why: DeployReason,
    },
    /// Order a certificate, or go on with the order that is in flight
    Issue,
    /// Ask the CA when to renew
    RenewalInfo {
        /// The issuer whose directory the certificate came from
        issuer: IssuerName,
    },
}

/// Why a target is worked on
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeployReason {
    /// Its files hold another generation, or none
    NotInstalled,
    /// Its files were changed or removed
    Drifted {
        /// What is wrong with them
        problem: External,
    },
    /// The generation was not seen from its endpoints yet
    NotLive,
}

/// What keeps a wanted certificate from being ordered now
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldBack {
    /// An attempt failed, and the next one is not due
    Backoff {
        /// When it is
        until: Timestamp,
    },
    /// The clock cannot be right
    Clock,
    /// The same names were certified moments ago
    Ledger {
        /// When another order is allowed
        until: Timestamp,
    },
    /// A server refuses the generation that is there, and would refuse the next one
    Undeployed {
        /// For which target
        target: TargetName,
    },
}

impl HeldBack {
    /// When it is tried again, where that is a matter of time
    pub const fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Backoff { until } | Self::Ledger { until } => Some(*until),
            Self::Clock | Self::Undeployed { .. } => None,
        }
    }
}

impl std::fmt::Display for HeldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Backoff { until } => {
                write!(f, "waits until {until} because the last attempt failed")
            }
            Self::Clock => f.write_str("waits because the clock cannot be right"),
            Self::Ledger { until } => write!(
                f,
                "waits until {until} because these names were certified moments ago (--force orders all the same)"
            ),
            Self::Undeployed { target } => write!(
                f,
                "waits because target `{target}` refuses the certificate that is there, and would refuse another"
            ),
        }
    }
}

/// Decide for every certificate of the configuration
pub fn plan(now: Timestamp, config: &Config, snapshot: &Snapshot) -> Plan {
    plan_again(now, config, snapshot, None, &BTreeSet::new())
}

/// Decide for those that were touched and those whose moment has come
///
/// `before` is an earlier plan for the same configuration, and `touched` are those of which
/// something else was observed or asked since. The others keep their decision, with a state that
/// may be as old as it is.
pub fn plan_again(
    now: Timestamp,
    config: &Config,
    snapshot: &Snapshot,
    before: Option<Plan>,
    touched: &BTreeSet<CertName>,
) -> Plan {
    let unseen = Box::default();
    let seen = |name: &CertName| &**snapshot.certificates.get(name).unwrap_or(&unseen);
    // Of an untouched certificate nothing but its decision is looked at: after a minute's sleep
    // all else of a thousand is cold memory.
    let before = before.filter(|plan| plan.decisions.len() == config.certificates.len());
    let floor = match &before {
        Some(plan) => latest(plan.decisions.iter().map(|decision| {
            if touched.contains(&decision.certificate) {
                clock_floor(seen(&decision.certificate))
            } else {
                decision.clock_floor
            }
        })),
        None => latest(config.certificates.keys().map(|name| clock_floor(seen(name)))),
    };
    let clock_suspect = Some(floor).filter(|floor| now < *floor);
    let judge = |certificate: &Certificate| {
        decide(now, config, certificate, seen(&certificate.name), clock_suspect.is_some())
    };
    let before = before.filter(|plan| plan.clock_suspect.is_some() == clock_suspect.is_some());
    let decisions = match before {
        Some(Plan { mut decisions, .. }) => {
            for decision in &mut decisions {
                // What is due stays so until somebody does it.
                let holds = now < decision.wake_at || !decision.actions.is_empty();
                if (!holds || touched.contains(&decision.certificate))
                    && let Some(certificate) = config.certificates.get(&decision.certificate)
                {
                    *decision = judge(certificate);
                }
            }
            decisions
        }
        None => config.certificates.values().map(judge).collect(),
    };
    let latest = now.after(LONGEST_SLEEP);
    let soonest = decisions.iter().map(|decision| decision.wake_at).min().unwrap_or(latest);
    Plan { decisions, wake_at: soonest.clamp(now, latest), clock_suspect }
}

/// Decide for one certificate, with no more than itself to tell whether the clock is right
pub fn plan_one(
    now: Timestamp,
    config: &Config,
    certificate: &Certificate,
    observed: &Observed,
) -> Decision {
    let clock_suspect = now < latest([clock_floor(observed)]);
    decide(now, config, certificate, observed, clock_suspect)
}

/// What the clock cannot be before, by the certificate that is held
fn clock_floor(observed: &Observed) -> Option<Timestamp> {
    // Whoever made one that was found may have made it for next month.
    let held = observed.held.as_ref().filter(|held| held.meta.origin.is_some())?;
    Some(held.leaf.not_before.before(SKEW))
}

/// The last of these, and the time of this source at least
fn latest(floors: impl IntoIterator<Item = Option<Timestamp>>) -> Timestamp {
    floors.into_iter().flatten().max().map_or(WRITTEN, |floor| floor.max(WRITTEN))
}

fn decide(
    now: Timestamp,
    config: &Config,
    certificate: &Certificate,
    observed: &Observed,
    clock_suspect: bool,
) -> Decision {
    let Want { reason, renew_at, turns_at } = want(now, config, certificate, observed);
    let wanted = !matches!(reason, Reason::NotDue { .. } | Reason::Adoptable);
    let held_back =
        if wanted { hold_back(now, certificate, observed, &reason, clock_suspect) } else { None };
    let mut actions = Vec::new();
    if reason == Reason::Adoptable {
        actions.push(Action::Adopt);
    }
    let inquiry = renewal_info(config, certificate, observed, now);
    if let Some((issuer, at)) = &inquiry
        && *at <= now
        && !clock_suspect
    {
        actions.push(Action::RenewalInfo { issuer: issuer.clone() });
    }
    let issue = wanted && held_back.is_none();
    if issue {
        actions.push(Action::Issue);
    }
    let mut wake_at = match &held_back {
        Some(HeldBack::Backoff { until } | HeldBack::Ledger { until }) => *until,
        Some(HeldBack::Clock | HeldBack::Undeployed { .. }) => now.after(LONGEST_SLEEP),
        None => renew_at,
    };
    // What is held back for one reason may not be for the next.
    if let Some(at) = turns_at {
        wake_at = wake_at.min(at);
    }
    // Nobody is asked while the clock is suspect, so a question that is due wakes nobody.
    if let (Some((_, at)), false) = (inquiry, clock_suspect) {
        wake_at = wake_at.min(at);
    }
    // What is about to be replaced is not deployed first.
    if let (Some(held), false) = (&observed.held, issue) {
        for target in &certificate.targets {
            if let Some(at) =
                observed.targets.get(&target.name).and_then(|seen| pin_ends(held, seen))
                && at > now
            {
                wake_at = wake_at.min(at);
            }
            match deployment(now, target, held, observed) {
                Deployment::Due(action) => actions.push(action),
                Deployment::At(at) => wake_at = wake_at.min(at),
                Deployment::Done => continue,
            }
            if certificate.serial {
                break;
            }
        }
    }
    let wake_at = if actions.is_empty() { wake_at.max(now) } else { now };
    let state = state(now, certificate, observed, wanted);
    Decision {
        certificate: certificate.name.clone(),
        state,
        actions,
        reason,
        held_back,
        renew_at,
        wake_at,
        order_left_over: observed.is_order_finished(),
        clock_floor: clock_floor(observed),
    }
}

/// Whether a new certificate is wanted
struct Want {
    reason: Reason,
    /// When it is or was due
    renew_at: Timestamp,
    /// When there may be another reason, if time alone can bring one
    turns_at: Option<Timestamp>,
}

impl Want {
    /// Wanted now, and for no other reason later
    const fn for_good(reason: Reason, now: Timestamp) -> Self {
        Self { reason, renew_at: now, turns_at: None }
    }
}

fn want(now: Timestamp, config: &Config, certificate: &Certificate, observed: &Observed) -> Want {
    let Some(held) = &observed.held else {
        let reason = match &observed.found {
            _ if observed.request == Request::Force => Reason::Forced,
            Some(found) if found.is_current(now) => Reason::Adoptable,
            _ if observed.damaged.is_some() => Reason::Damaged,
            _ => Reason::Missing,
        };
        return Want::for_good(reason, now);
    };
    if observed.request == Request::Force {
        return Want::for_good(Reason::Forced, now);
    }
    if observed.attempts.revoked.contains(&held.leaf.fingerprint) {
        return Want::for_good(Reason::Revoked, now);
    }
    if let Some(drift) = drift(config, certificate, held) {
        return Want::for_good(Reason::Drift(drift), now);
    }
    let leaf = &held.leaf;
    let seed = Seed::of(held);
    let emergency = window::emergency(leaf);
    if emergency <= now {
        return Want { reason: Reason::Emergency, renew_at: emergency, turns_at: None };
    }
    let suggested = observed
        .attempts
        .renewal_info
        .as_ref()
        .filter(|info| info.fingerprint == leaf.fingerprint)
        .and_then(|info| window::sane(info.window?, leaf))
        .map(|window| window::drawn(window, seed).min(emergency));
    let by_age = window::backstop(leaf, certificate.renew, seed);
    // The operator's own figure stands beside the CA's; the default gives way to it.
    let by_age = match (suggested, certificate.renew.before(leaf.lifetime())) {
        (Some(_), None) => None,
        _ => Some(by_age),
    };
    let by_key = certificate.renew.key_max_age.map(|age| held.meta.staged_at.after(age));
    let moments = [
        suggested.map(|at| (at, Reason::RenewalInfo { at })),
        by_age.map(|at| (at, Reason::Age { at })),
        by_key.map(|at| (at, Reason::KeyAge { at })),
    ];
    let due = moments.iter().flatten().find(|(at, _)| *at <= now);
    let to_come = moments.iter().flatten().map(|(at, _)| *at).filter(|at| *at > now);
    let next = to_come.fold(emergency, Timestamp::min);
    let (reason, renew_at) = match due {
        Some((at, reason)) => (reason.clone(), *at),
        None if observed.order.is_some() && !observed.is_order_finished() => {
            (Reason::Unfinished, now)
        }
        None => (Reason::NotDue { at: next }, next),
    };
    Want { reason, renew_at, turns_at: Some(next) }
}

fn drift(config: &Config, certificate: &Certificate, held: &Held) -> Option<Drift> {
    let wanted: BTreeSet<_> = certificate.identifiers.iter().cloned().collect();
    if wanted != held.leaf.identifiers {
        let text = |a: &BTreeSet<_>, b: &BTreeSet<_>| {
            a.difference(b).map(ToString::to_string).collect::<Vec<_>>()
        };
        return Some(Drift::Names {
            added: text(&wanted, &held.leaf.identifiers),
            dropped: text(&held.leaf.identifiers, &wanted),
        });
    }
    if held.leaf.key_type != Some(certificate.key) {
        return Some(Drift::Key { wanted: certificate.key });
    }
    // A certificate from elsewhere tells nothing of its directory.
    let origin = held.meta.origin.as_ref()?;
    let at_home = || issuers(config, certificate).filter(|i| i.directory == origin.directory);
    // Two issuers may differ in their account and profile alone, and one may get another name.
    let issuer = at_home().find(|i| i.name == origin.issuer).or_else(|| at_home().next());
    let Some(issuer) = issuer else { return Some(Drift::Issuer) };
    let profile = certificate.profile.as_ref().or(issuer.profile.as_ref());
    let same = profile.map(|profile| &profile.name) == origin.profile.as_ref();
    // A profile that the CA does not have and that is not required was asked for in vain.
    let in_vain = origin.profile.is_none() && profile.is_some_and(|profile| !profile.required);
    (!same && !in_vain).then_some(Drift::Profile)
}

fn issuers<'a>(
    config: &'a Config,
    certificate: &'a Certificate,
) -> impl Iterator<Item = &'a Issuer> {
    certificate.issuers.iter().filter_map(|name| config.issuer(name))
}

fn hold_back(
    now: Timestamp,
    certificate: &Certificate,
    observed: &Observed,
    reason: &Reason,
    clock_suspect: bool,
) -> Option<HeldBack> {
    if clock_suspect {
        return Some(HeldBack::Clock);
    }
    let forced = *reason == Reason::Forced;
    // What the CA asked for is kept even under force; our own ladder is not.
    let last_failure = observed.attempts.last_failure.as_deref();
    let named_by_ca =
        last_failure.is_some_and(|failure| matches!(failure.class, FailureClass::NotBefore { .. }));
    if let Some(until) = not_before(now, &observed.attempts).filter(|until| *until > now)
        && (!forced || named_by_ca || is_barred(now, &observed.attempts))
    {
        return Some(HeldBack::Backoff { until });
    }
    if forced || observed.order.is_some() {
        return None;
    }
    if let Some(until) = crash_loop(now, certificate, observed) {
        return Some(HeldBack::Backoff { until });
    }
    if let Some(target) = undeployed(certificate, observed, reason) {
        return Some(HeldBack::Undeployed { target });
    }
    let identifiers = certificate.identifiers.iter().cloned().collect();
    ledger::held_back(now, &observed.attempts, &identifiers, reason)
        .map(|until| HeldBack::Ledger { until })
}

/// The target that refuses the newest generation, where another would be no different, unless
/// others have it and depend on the next one
fn undeployed(
    certificate: &Certificate,
    observed: &Observed,
    reason: &Reason,
) -> Option<TargetName> {
    let newest = observed.held.as_ref()?.meta.number;
    if !matches!(reason, Reason::Age { .. } | Reason::KeyAge { .. } | Reason::RenewalInfo { .. }) {
        return None;
    }
    let records = certificate.targets.iter().filter_map(|target| {
        let record = &observed.targets.get(&target.name)?.record;
        (record.generation == newest).then_some((target, record))
    });
    let records: Vec<_> = records.collect();
    if records.iter().any(|(_, record)| record.installed_at.is_some()) {
        return None;
    }
    records.iter().find(|(_, record)| record.is_refused()).map(|(target, _)| target.name.clone())
}

/// When another order is allowed after several that ended with their process
///
/// A process that dies while it orders records no failure, and would order anew at each start. What
/// holds an order back holds back none that is under way; where nothing comes of that one, this is
/// for whoever would place the next.
pub fn crash_loop(
    now: Timestamp,
    certificate: &Certificate,
    observed: &Observed,
) -> Option<Timestamp> {
    let Attempts { begun, begun_at, .. } = observed.attempts;
    let begun_at = begun_at.filter(|at| *at <= now.after(SKEW))?;
    let rung = begun.checked_sub(CRASHES).filter(|rung| *rung > 0)?;
    let held = observed.held.as_ref();
    let seed = held.map_or_else(|| Seed::of_name(certificate.name.as_str()), Seed::of);
    let lifetime = held.map(|held| held.leaf.lifetime());
    let until = backoff::after_failure(begun_at, rung, &FailureClass::Retry, lifetime, seed);
    Some(until).filter(|until| *until > now)
}

/// When the next attempt is allowed, as far as the record can be believed
///
/// One that was written while the clock was ahead would keep the certificate back until the clock
/// has caught up, which may be long after the certificate's end.
fn not_before(now: Timestamp, attempts: &Attempts) -> Option<Timestamp> {
    let until = attempts.not_before?;
    match attempts.failed_at {
        Some(at) if at > now.after(SKEW) => None,
        Some(at) => Some(until.min(at.after(LONGEST_REST))),
        None => Some(until),
    }
}

/// Whether the records cannot be read: what was tried is not known, so nothing may be
fn is_barred(now: Timestamp, attempts: &Attempts) -> bool {
    let for_ever = attempts.not_before.is_some_and(|until| until > now.after(LONGEST_REST));
    for_ever && attempts.failed_at.is_none()
}

/// Whom to ask for renewal information about the held certificate, and when
fn renewal_info(
    config: &Config,
    certificate: &Certificate,
    observed: &Observed,
    now: Timestamp,
) -> Option<(IssuerName, Timestamp)> {
    let held = observed.held.as_ref().filter(|_| !is_barred(now, &observed.attempts))?;
    held.leaf.ari_id.as_ref()?;
    let origin = held.meta.origin.as_ref()?;
    if held.leaf.not_after <= now {
        return None;
    }
    let issuer = issuers(config, certificate).find(|i| i.directory == origin.directory)?;
    let at = match &observed.attempts.renewal_info {
        Some(info) if info.fingerprint == held.leaf.fingerprint => info.next_check,
        _ => window::first_renewal_info(held),
    };
    // So far away only if the clock was ahead when it was written.
    let at = if at > now.after(LONGEST_REST) { now } else { at };
    Some((issuer.name.clone(), at))
}

enum Deployment {
    Due(Action),
    At(Timestamp),
    Done,
}

fn deployment(now: Timestamp, target: &Target, held: &Held, observed: &Observed) -> Deployment {
    let unseen = Box::default();
    let seen = observed.targets.get(&target.name).unwrap_or(&unseen);
    let record = &seen.record;
    let wanted = wanted_generation(now, held, seen);
    let why = if record.generation != wanted || record.installed_at.is_none() {
        DeployReason::NotInstalled
    } else if let Some(problem) = seen.outputs.problem() {
        DeployReason::Drifted { problem }
    } else if !record.is_live(target) {
        DeployReason::NotLive
    } else {
        return Deployment::Done;
    };
    let waits = record
        .not_before
        .filter(|at| *at > now && *at <= now.after(LONGEST_REST))
        .filter(|_| record.generation == wanted)
        .filter(|_| match observed.request {
            Request::None => true,
            // A timer asks so, too.
            Request::Now => record.is_harmful(),
            Request::Force => false,
        });
    match waits.max(next_reload(now, target, seen)) {
        Some(at) => Deployment::At(at),
        None => {
            Deployment::Due(Action::Deploy { target: target.name.clone(), generation: wanted, why })
        }
    }
}

/// When the server may be reloaded again, if it has been as often as it may be
///
/// The limit ends where what is in force does.
fn next_reload(now: Timestamp, target: &Target, seen: &ObservedTarget) -> Option<Timestamp> {
    let most = usize::try_from(target.max_reloads_per_hour?).ok()?;
    let ends_at = seen.in_force.as_deref().map(window::emergency);
    if target.reload.is_none() || ends_at.is_some_and(|at| at <= now) {
        return None;
    }
    let recent = |at: &&Timestamp| **at <= now && now.since(**at) < HOUR;
    let recent: Vec<_> = seen.record.reloads.iter().filter(recent).collect();
    let oldest = recent.get(recent.len().checked_sub(most)?)?;
    let free_at = oldest.after(HOUR);
    Some(ends_at.map_or(free_at, |at| at.min(free_at)))
}

/// The generation that belongs to a target: the newest, unless the operator went back
pub fn wanted_generation(now: Timestamp, held: &Held, seen: &ObservedTarget) -> u32 {
    if is_pinned(now, held, seen) { seen.record.generation } else { held.meta.number }
}

/// Whether the operator's way back is still in force
///
/// It ends with a newer generation, and before what was gone back to does.
fn is_pinned(now: Timestamp, held: &Held, seen: &ObservedTarget) -> bool {
    seen.record.pinned_over.is_some_and(|over| held.meta.number <= over)
        && pin_ends(held, seen).is_none_or(|at| at > now)
}

/// When what the operator went back to gives way to what lives longer
fn pin_ends(held: &Held, seen: &ObservedTarget) -> Option<Timestamp> {
    let pinned = seen.pinned.as_deref()?;
    (pinned.not_after < held.leaf.not_after).then(|| window::emergency(pinned))
}

fn state(now: Timestamp, certificate: &Certificate, observed: &Observed, wanted: bool) -> State {
    let operator = |failure: Option<&crate::failure::Failure>| match failure.map(|f| &f.class) {
        Some(FailureClass::NeedsOperator { what, .. }) => Some(what.clone()),
        _ => None,
    };
    if wanted && let Some(what) = operator(observed.attempts.last_failure.as_deref()) {
        return State::NeedsOperator { what };
    }
    let Some(held) = &observed.held else {
        return if observed.order.is_some() { State::Ordering } else { State::Missing };
    };
    let (mut installed, mut live, mut verified) = (true, true, true);
    for target in &certificate.targets {
        let seen = observed.targets.get(&target.name);
        let record = seen.map(|seen| &seen.record);
        let what = record.and_then(|record| operator(record.last_failure.as_deref()));
        if let Some(what) = what {
            return State::NeedsOperator { what };
        }
        let newest = held.meta.number;
        let pinned = seen.is_some_and(|seen| is_pinned(now, held, seen));
        let here = record.filter(|record| record.generation == newest || pinned);
        let current = seen.is_some_and(|seen| seen.outputs == OutputState::Current);
        installed &= current && here.is_some_and(|record| record.installed_at.is_some());
        live &= here.is_some_and(|record| record.is_live(target));
        verified &= !target.verify.is_empty();
    }
    match (installed, live) {
        (false, _) => State::Staged,
        (true, false) => State::Installed,
        (true, true) => State::Live { verified },
    }
}

/// The longest time between two looks: a suspended machine or a moved clock is noticed by then
pub const LONGEST_SLEEP: Duration = Duration::from_secs(15 * 60);

/// How far a CA's clock may be ahead of ours without ours being suspect
const SKEW: Duration = Duration::from_secs(3600);

/// How often a process may die over an order before the ladder holds for it too
const CRASHES: u32 = 2;

/// Longer than anything puts a next step off: a day, and a tenth of it by the seed
pub const LONGEST_REST: Duration = Duration::from_secs(2 * 86_400);

const HOUR: Duration = Duration::from_secs(3600);

/// 2026-11-01: no clock of a machine that runs this is before it
const WRITTEN: Timestamp = Timestamp::from_seconds(1_793_491_200);

#[cfg(test)]
mod tests;
