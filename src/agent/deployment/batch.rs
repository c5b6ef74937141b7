//! What one check and one reload serve: forward until it is seen on the wire, or back.

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use super::installed::{Files, Installed, PutBack, Refused, Verdict};
use super::{Deployment, begin, joined, recent};
use crate::agent::Shared;
use crate::config::Hook;
use crate::deploy::{self, CheckError, ReloadError};
use crate::event::Event;
use crate::failure::{Failure, Step};
use crate::text::External;

/// Bring deployments that one reload serves as far as they get
///
/// Where the server refuses many at once and takes what was there before, or says that it lacks one
/// of them, it is asked about one half and then the other: one that is refused is not the failure
/// of all.
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

/// Why none of a batch was loaded
struct NotLoaded {
    failure: Failure,
    culprit: Culprit,
}

/// Whose fault it was
enum Culprit {
    /// Theirs that this check is about, which may be some of them alone
    Check(Hook),
    /// That of one of them
    One,
    /// The server's own, or that of any of them
    Unknown,
}

impl From<ReloadError> for NotLoaded {
    fn from(error: ReloadError) -> Self {
        let culprit = match error {
            ReloadError::OfAll(_) => Culprit::Unknown,
            ReloadError::OfOne(_) => Culprit::One,
        };
        Self { failure: error.into(), culprit }
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
            Err((check, error)) => {
                Err(NotLoaded { failure: error.into(), culprit: Culprit::Check(check) })
            }
        };
        let members = std::mem::take(&mut self.members);
        if let Err(NotLoaded { failure, culprit }) = loaded {
            let limited = |it: &Installed| it.deployment.target.max_reloads_per_hour.is_some();
            let may_split = may_split && members.len() > 1 && !members.iter().any(limited);
            let mut refused = Vec::with_capacity(members.len());
            for mut member in members {
                // What an endpoint serves already, the server can load.
                member.reversible &= member.deployment.record.proven.is_empty();
                refused.push((member, failure.clone()));
            }
            return self.go_back(shared, refused, &culprit, may_split).await;
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
        self.go_back(shared, refused, &Culprit::Unknown, false).await
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
    async fn load(&mut self, shared: &Shared, files: Files) -> Result<(), ReloadError> {
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
    /// Where a check is the culprit, those that it is not about are a part. A target that had
    /// nothing before keeps the new files: nothing is not better.
    async fn go_back(
        mut self,
        shared: &Shared,
        refused: Vec<Refused>,
        culprit: &Culprit,
        may_split: bool,
    ) -> Vec<Vec<Installed>> {
        let (mut staying, mut others) = (Vec::new(), Vec::new());
        let why = refused.first().map(|(_, failure)| failure.to_string()).unwrap_or_default();
        let is_of_one = matches!(culprit, Culprit::One);
        for (mut member, failure) in refused {
            let put_back = member.put_back(shared).await;
            member.refused = (put_back != PutBack::Nothing).then(|| failure.clone());
            match culprit {
                Culprit::Check(check)
                    if may_split && member.deployment.target.check.as_ref() != Some(check) =>
                {
                    others.push(member);
                }
                _ if put_back == PutBack::All => self.members.push(member),
                _ => staying.push((member, failure)),
            }
        }
        let verdict = match self.members.is_empty() {
            true => None,
            false => Some(self.judge(shared).await),
        };
        let mut parts = vec![others];
        let many = staying.len() + self.members.len() > 1;
        let takes_others = match &verdict {
            Some(Verdict::Loaded) => true,
            Some(Verdict::NotLoaded(_)) => is_of_one,
            _ => false,
        };
        if may_split && many && takes_others {
            let staying = std::mem::take(&mut staying).into_iter().map(|(member, _)| member);
            let mut first: Vec<_> = staying.chain(std::mem::take(&mut self.members)).collect();
            let message = External::new(format!(
                "{why}; of {} certificates{}: one half is tried after the other",
                first.len(),
                if is_of_one { "" } else { ", and the server takes those before them" }
            ));
            shared.tell(Event::Warned { certificate: None, message });
            parts.push(first.split_off(first.len() / 2));
            parts.push(first);
        }
        for (mut member, failure) in staying {
            // Where nobody knows, the next attempt installs anew.
            let undone = member.refused.is_some();
            member.deployment.fail(shared, failure, undone).await;
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
            Err(error) => Verdict::NotLoaded(Failure::from(error).summary),
        }
    }
}
