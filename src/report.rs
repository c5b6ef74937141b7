//! Plans and states for people and for machines.

mod generations;

use serde::Serialize;

use crate::failure::{Failure, FailureClass};
use crate::name::{CertName, Identifier, TargetName};
use crate::plan::{
    Action, Decision, DeployReason, HeldBack, Observed, ObservedTarget, Plan, Snapshot, State,
};
use crate::text::{Count, External, fitting};
use crate::time::{Rough, Timestamp};

pub use generations::{GenerationReport, Generations, Use, UseState};

/// The shape of every JSON document that a command prints; fields are only added within it
pub const VERSION: u32 = 1;

/// What `plan` and `status` print with `--json`
#[derive(Debug, Serialize)]
pub struct Report {
    /// [`VERSION`]
    pub version: u32,
    /// When it was made
    pub now: Timestamp,
    /// When the agent looks again
    pub wake_at: Timestamp,
    /// What the clock cannot be before, if it is
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_suspect: Option<Timestamp>,
    /// One for each certificate of the configuration
    pub certificates: Vec<CertificateReport>,
}

/// One certificate of a [`Report`]
#[derive(Debug, Serialize)]
pub struct CertificateReport {
    /// Its name in the configuration
    pub name: CertName,
    /// `missing`, `ordering`, `staged`, `installed`, `live` or `needs-operator`
    pub state: &'static str,
    /// Whether `live` was proven by a handshake
    pub verified: bool,
    /// Whether the newest certificate is past its end
    pub expired: bool,
    /// Whether the newest certificate was revoked
    pub revoked: bool,
    /// Why a new certificate is wanted, or why not, as one word
    pub reason: &'static str,
    /// The same as a sentence
    pub why: String,
    /// What keeps a wanted certificate from being ordered now
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_back: Option<String>,
    /// What is done next, one sentence each
    pub actions: Vec<String>,
    /// What it is for, according to the configuration asked for; according to the leaf if held
    pub names: Vec<Identifier>,
    /// The newest generation
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// Its leaf's SHA-256
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Its leaf's serial number
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Who signed it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<External>,
    /// When it begins
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// When it expires
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// When a new one is due
    pub renew_at: Timestamp,
    /// When the next step is
    pub next: Timestamp,
    /// When an order is tried again, if one is held back
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
    /// Failed attempts in a row to get one
    pub failures: u32,
    /// The latest of them
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
    /// What a human must do
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<External>,
    /// Where it is deployed
    pub targets: Vec<TargetReport>,
}

/// One target of a [`CertificateReport`]
#[derive(Debug, Serialize)]
pub struct TargetReport {
    /// Its name in the configuration
    pub name: TargetName,
    /// The generation that is there, or is being brought there
    pub generation: u32,
    /// When its files were switched
    #[serde(skip_serializing_if = "Option::is_none")]
    pub installed_at: Option<Timestamp>,
    /// The generation that the operator went back from, until there is a newer one
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back_from: Option<u32>,
    /// When it was seen from every endpoint
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_at: Option<Timestamp>,
    /// Whether that was proven by a handshake
    pub verified: bool,
    /// What is wrong with its files, or with an older certificate that they hold
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<External>,
    /// The latest failure since it was last live
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
}

impl Report {
    /// Put a plan and what it was made from side by side
    pub fn new(now: Timestamp, plan: &Plan, snapshot: &Snapshot) -> Self {
        let unseen = Box::default();
        let certificates = plan
            .decisions
            .iter()
            .map(|decision| {
                let observed = snapshot.certificates.get(&decision.certificate);
                CertificateReport::new(now, decision, observed.unwrap_or(&unseen))
            })
            .collect();
        Self {
            version: VERSION,
            now,
            wake_at: plan.wake_at,
            clock_suspect: plan.clock_suspect,
            certificates,
        }
    }

    /// Whether every certificate is live, in force, and waits for nothing
    pub fn all_well(&self) -> bool {
        self.certificates.iter().all(CertificateReport::is_well)
    }

    /// The states, for people: a line for each certificate, more where something is wrong
    pub fn status(&self) -> String {
        let mut text = String::new();
        self.clock_line(&mut text);
        let width = self.name_width();
        let (name, state, left) = ("NAME", "STATE", "LEFT");
        fitting(&mut text, 0, &format!("{name:width$}  {state:<16}  {left:<8}  NEXT"));
        for certificate in &self.certificates {
            let left = certificate.not_after.map_or_else(
                || "-".to_owned(),
                |end| match certificate.expired {
                    true => "expired".to_owned(),
                    false => Rough(end.since(self.now)).to_string(),
                },
            );
            let (name, state) = (certificate.name.as_str(), certificate.state_text());
            let next = certificate.next_text(self.now);
            let row = format!("{name:width$}  {state:<16}  {left:<8}  {next}");
            fitting(&mut text, DETAILS, &row);
            certificate.details(&mut text);
        }
        text
    }

    /// What one pass came to, for people: whatever is not well, and a count
    pub fn outcome(&self) -> String {
        let mut text = String::new();
        self.clock_line(&mut text);
        let width = self.name_width();
        for certificate in self.certificates.iter().filter(|c| !c.is_well()) {
            let (name, state) = (certificate.name.as_str(), certificate.state_text());
            let next = certificate.next_text(self.now);
            fitting(&mut text, DETAILS, &format!("{name:width$}  {state:<16}  {next}"));
            certificate.details(&mut text);
        }
        let all = self.certificates.len();
        let well = self.certificates.iter().filter(|c| c.is_well()).count();
        let soonest = self.certificates.iter().filter(|c| c.is_well()).map(|c| c.renew_at).min();
        let next = soonest.map(|at| format!(", the next is due in {}", Rough(at.since(self.now))));
        let next = next.unwrap_or_default();
        fitting(&mut text, 0, &format!("{well} of {all} certificates live{next}"));
        text
    }

    /// What is due now and why, for people
    pub fn plan(&self) -> String {
        let mut text = String::new();
        self.clock_line(&mut text);
        let width = self.name_width();
        for certificate in &self.certificates {
            let (name, why) = (certificate.name.as_str(), &certificate.why);
            fitting(&mut text, width + 2, &format!("{name:width$}  {why}"));
            if let Some(held_back) = &certificate.held_back {
                fitting(&mut text, width + 2, &format!("{:width$}  {held_back}", ""));
            }
            for action in &certificate.actions {
                fitting(&mut text, width + 5, &format!("{:width$}  -> {action}", ""));
            }
        }
        let busy = self.certificates.iter().filter(|c| !c.actions.is_empty()).count();
        let all = Count(self.certificates.len(), "certificate");
        fitting(&mut text, 0, &format!("something is due now for {busy} of {all}"));
        text
    }

    fn clock_line(&self, text: &mut String) {
        if let Some(floor) = self.clock_suspect {
            let now = self.now;
            let suspect = format!("the clock says {now}, which cannot be: it is after {floor}");
            fitting(text, 0, &suspect);
        }
    }

    fn name_width(&self) -> usize {
        let longest = self.certificates.iter().map(|c| c.name.as_str().len()).max();
        longest.unwrap_or(0).clamp(4, 32)
    }
}

impl CertificateReport {
    fn new(now: Timestamp, decision: &Decision, observed: &Observed) -> Self {
        let held = observed.held.as_ref();
        let leaf = held.map(|held| &held.leaf);
        let targets = observed.targets.iter().map(|(name, seen)| TargetReport {
            name: name.clone(),
            generation: seen.record.generation,
            installed_at: seen.record.installed_at,
            back_from: seen.record.pinned_over,
            live_at: seen.record.live_at,
            verified: seen.record.live_at.is_some() && !seen.record.proven.is_empty(),
            problem: seen
                .record
                .installed_at
                .and_then(|_| seen.outputs.problem())
                .or_else(|| refusable(now, seen, observed)),
            last_failure: seen.record.last_failure.as_deref().cloned(),
        });
        Self {
            name: decision.certificate.clone(),
            state: decision.state.as_str(),
            verified: decision.state == State::Live { verified: true },
            expired: leaf.is_some_and(|leaf| leaf.not_after <= now),
            revoked: leaf.is_some_and(|l| observed.attempts.revoked.contains(&l.fingerprint)),
            reason: decision.reason.code(),
            why: decision.reason.to_string(),
            held_back: decision
                .held_back
                .as_ref()
                .map(|held_back| held_back_text(held_back, observed)),
            actions: decision.actions.iter().map(sentence).collect(),
            names: leaf.map(|leaf| leaf.identifiers.iter().cloned().collect()).unwrap_or_default(),
            generation: held.map(|held| held.meta.number),
            fingerprint: leaf.map(|leaf| leaf.fingerprint.to_string()),
            serial: leaf.map(|leaf| leaf.serial.clone()),
            issuer: leaf.map(|leaf| leaf.issuer.clone()),
            not_before: leaf.map(|leaf| leaf.not_before),
            not_after: leaf.map(|leaf| leaf.not_after),
            renew_at: decision.renew_at,
            next: decision.wake_at,
            next_attempt: decision.held_back.as_ref().and_then(HeldBack::until),
            failures: observed.attempts.failures,
            last_failure: observed.attempts.last_failure.as_deref().cloned(),
            operator: match &decision.state {
                State::NeedsOperator { what } => Some(what.clone()),
                _ => None,
            },
            targets: targets.collect(),
        }
    }

    /// Whether it is live and in force, and the last attempt at anything succeeded
    pub fn is_well(&self) -> bool {
        self.state == "live"
            && !self.expired
            && !self.revoked
            && self.open_failure().is_none()
            && self.targets.iter().all(TargetReport::is_well)
    }

    /// The latest failure, unless nothing is wanted any more
    ///
    /// The record of one stays when the operator forced it in vain, or when the disk took the
    /// certificate and not the success; nobody would try again before the certificate is due.
    fn open_failure(&self) -> Option<&Failure> {
        self.last_failure.as_ref().filter(|_| self.reason != "not-due")
    }

    fn state_text(&self) -> String {
        match (self.state, self.verified) {
            ("live", false) => "live, unverified".to_owned(),
            (state, _) => state.to_owned(),
        }
    }

    fn next_text(&self, now: Timestamp) -> String {
        if !self.actions.is_empty() {
            return "now".to_owned();
        }
        let (what, at) = match self.reason {
            "not-due" => ("renews", self.renew_at),
            _ => ("tries", self.next_attempt.unwrap_or(self.next)),
        };
        format!("{what} in {}", Rough(at.since(now)))
    }

    fn details(&self, text: &mut String) {
        let mut tell = |detail: String| fitting(text, DETAILS, &format!("{:DETAILS$}{detail}", ""));
        if let Some(operator) = &self.operator {
            tell(format!("to do: {operator}"));
        }
        if self.reason != "not-due" {
            tell(self.why.clone());
        }
        if let Some(held_back) = &self.held_back {
            tell(held_back.clone());
        }
        if let Some(failure) = self.open_failure() {
            tell(format!("{}: {failure}", Count(self.failures as usize, "failed attempt")));
        }
        for target in &self.targets {
            let (name, generation) = (&target.name, target.generation);
            if let Some(newest) = target.back_from.filter(|newest| Some(*newest) == self.generation)
            {
                tell(format!(
                    "target `{name}`: back at generation {generation} until there is a newer one \
                     than {newest}"
                ));
            }
            if let Some(problem) = &target.problem {
                tell(format!("target `{name}`: {problem}"));
            }
            if let Some(failure) = &target.last_failure {
                tell(format!("target `{name}`: {failure}"));
            }
        }
    }
}

impl TargetReport {
    /// Whether nothing is wrong with what is there, and the last deployment succeeded
    pub const fn is_well(&self) -> bool {
        self.problem.is_none() && self.last_failure.is_none()
    }
}

/// Why clients would refuse what the files hold, where that is not the newest
fn refusable(now: Timestamp, seen: &ObservedTarget, observed: &Observed) -> Option<External> {
    let (leaf, number) = (seen.in_force.as_ref()?, seen.record.in_force()?);
    let trouble = match leaf.not_after {
        _ if observed.attempts.revoked.contains(&leaf.fingerprint) => "is revoked".to_owned(),
        end if end <= now => format!("expired at {end}"),
        _ => return None,
    };
    Some(External::new(format!("generation {number} is in force and {trouble}")))
}

/// How far the details of a certificate are indented
const DETAILS: usize = 4;

/// What keeps an order back, and the way around it where there is one
fn held_back_text(held_back: &HeldBack, observed: &Observed) -> String {
    let named_by_ca = observed
        .attempts
        .last_failure
        .as_ref()
        .is_some_and(|failure| matches!(failure.class, FailureClass::NotBefore { .. }));
    match held_back {
        HeldBack::Backoff { .. } if !named_by_ca => {
            format!("{held_back} (`renew --force` tries at once)")
        }
        _ => held_back.to_string(),
    }
}

/// An action as a sentence
fn sentence(action: &Action) -> String {
    match action {
        Action::Adopt => "take over the certificate in the files".to_owned(),
        Action::Deploy { target, generation, why } => {
            let why = match why {
                DeployReason::NotInstalled => "its files are not there yet".to_owned(),
                DeployReason::Drifted { problem } => problem.to_string(),
                DeployReason::NotLive => "it was not seen from every endpoint yet".to_owned(),
            };
            format!("deploy generation {generation} to target `{target}`: {why}")
        }
        Action::Issue => "order a certificate".to_owned(),
        Action::RenewalInfo { issuer } => format!("ask `{issuer}` when to renew"),
    }
}
