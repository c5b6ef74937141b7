//! `certkeep renew --rehearse`: a whole renewal where nothing counts.
//!
//! The agent does a pass on a configuration that is derived from the real one: each issuer is the
//! directory that its CA has for tests, the state and every output are in a directory of the
//! rehearsal's own, and no server is asked or told anything. The accounts alone are the real ones.
//! Each directory has an account of its own there, so that the real CA's is not touched; and a
//! rehearsal every day registers once, where CAs limit registrations more than anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use crate::agent::{self, Events, Shared};
use crate::cli::{Context, Exit, Stop, renew, setup};
use crate::config::{Certificate, Config, Gate, Issuer, Layout, Output, Target};
use crate::event::Event;
use crate::failure::{Failure, Step};
use crate::name::{CertName, IssuerName, TargetName};
use crate::plan::Request;
use crate::report::{self, CertificateReport};
use crate::store::{Scratch, Store, StoreError};
use crate::text::{Count, fitting};

/// What `renew --rehearse` prints with `--json`
#[derive(Debug, Serialize)]
struct Rehearsal {
    version: u32,
    rehearsals: Vec<Rehearsed>,
    /// What only a renewal itself can show, one sentence each
    not_rehearsed: Vec<String>,
}

/// How one certificate's renewal would go
#[derive(Debug, Serialize)]
struct Rehearsed {
    certificate: CertName,
    /// Who issued it
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<IssuerName>,
    /// At which directory
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<String>,
    /// The targets whose files were made
    targets: Vec<TargetName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
}

pub(crate) fn run(context: &Context, config: &Config) -> Result<Exit, Stop> {
    let (rehearsals, stopped) = setup::block_on(rehearse(context, config))??;
    let failed = rehearsals.iter().any(|rehearsed| rehearsed.failure.is_some());
    let not_rehearsed = not_rehearsed(config);
    let rehearsal = Rehearsal { version: report::VERSION, rehearsals, not_rehearsed };
    if context.json {
        context.print_json(&rehearsal)?;
    } else {
        context.print(&rehearsal.text())?;
    }
    match stopped {
        Some(by) => Err(Stop::new(Exit::Failed, format!("stopped by {by}; nothing is left of it"))),
        None if failed => Ok(Exit::Failed),
        None => Ok(Exit::Well),
    }
}

async fn rehearse(
    context: &Context,
    config: &Config,
) -> Result<(Vec<Rehearsed>, Option<&'static str>), Stop> {
    let real = setup::shared_with(context, Store::open(config)?, events(context))?;
    agent::sweep(&real).await?;
    // While this is held nobody takes the scratch directory for something that a crash left.
    let _at_work = real.at_work().await?;
    let scratch = real.store.scratch()?;
    let staged = staged(config, &scratch)?;
    let store = real.store.rehearsal(&staged)?;
    let shared = Shared { store: store.clone(), ..real };
    let (outcome, stopped) = renew::one_pass(context, shared, staged, Request::Now).await?;
    let reports: BTreeMap<_, _> =
        outcome.report.certificates.iter().map(|report| (&report.name, report)).collect();
    let mut rehearsals = Vec::new();
    for certificate in config.certificates.values() {
        rehearsals.push(match reports.get(&certificate.name) {
            Some(report) => rehearsed(&store, report)?,
            None => Rehearsed {
                certificate: certificate.name.clone(),
                issuer: None,
                directory: None,
                targets: Vec::new(),
                failure: Some(nowhere(certificate)),
            },
        });
    }
    scratch.remove()?;
    Ok((rehearsals, stopped))
}

/// What of a rehearsal is worth a line in the log: no step of it is one of a renewal
fn events(context: &Context) -> Events {
    let onward = context.events();
    Arc::new(move |event| {
        if matches!(event, Event::AccountReady { .. } | Event::Warned { .. }) {
            onward(event);
        }
    })
}

/// The configuration of the rehearsal; what no issuer can rehearse is not in it
fn staged(config: &Config, scratch: &Scratch) -> Result<Config, StoreError> {
    let issuers: BTreeMap<_, _> = config
        .issuers
        .values()
        .filter_map(|issuer| Some((issuer.name.clone(), at_staging(issuer)?)))
        .collect();
    let mut certificates = BTreeMap::new();
    for certificate in config.certificates.values() {
        let asked = certificate.issuers.iter().filter(|name| issuers.contains_key(*name));
        let asked: Vec<_> = asked.cloned().collect();
        if asked.is_empty() {
            continue;
        }
        let targets = certificate.targets.iter().map(|target| elsewhere(target, scratch));
        let staged = Certificate {
            issuers: asked,
            targets: targets.collect::<Result<_, _>>()?,
            // Nobody trusts the roots of a CA's tests.
            gate: Gate { roots: None, ..certificate.gate.clone() },
            ..certificate.clone()
        };
        certificates.insert(certificate.name.clone(), staged);
    }
    Ok(Config {
        state_dir: scratch.state_dir(),
        allow_volatile_state: true,
        allow_empty: true,
        issuers,
        certificates,
    })
}

fn at_staging(issuer: &Issuer) -> Option<Issuer> {
    let staging = issuer.staging.as_ref()?;
    Some(Issuer {
        directory: staging.directory.clone(),
        ca_file: staging.ca_file.clone(),
        eab: staging.eab.clone(),
        ..issuer.clone()
    })
}

/// A target with the same files below the scratch directory, and no server
fn elsewhere(target: &Target, scratch: &Scratch) -> Result<Target, StoreError> {
    let layout = match &target.layout {
        Layout::Dir(path) => Layout::Dir(scratch.place(path)?),
        layout => layout.clone(),
    };
    let outputs = target.outputs.iter().map(|output| {
        let path = match (&layout, output.path.file_name()) {
            (Layout::Dir(dir), Some(name)) => dir.join(name),
            _ => scratch.place(&output.path)?,
        };
        Ok(Output { path, ..output.clone() })
    });
    Ok(Target {
        outputs: outputs.collect::<Result<_, StoreError>>()?,
        layout,
        check: None,
        reload: None,
        verify: Vec::new(),
        ..target.clone()
    })
}

fn rehearsed(store: &Store, report: &CertificateReport) -> Result<Rehearsed, Stop> {
    let origin = store.generations(&report.name)?.into_iter().filter_map(|meta| meta.origin).next();
    let installed = report.targets.iter().filter(|target| target.installed_at.is_some());
    let at_target = || report.targets.iter().find_map(|target| target.last_failure.clone());
    let unfinished = || Failure::retry(Step::Prepare, "it did not come to its end");
    let failure = match &report.last_failure {
        Some(failure) => Some(failure.clone()),
        None => at_target().or_else(|| (report.state != "live").then(unfinished)),
    };
    Ok(Rehearsed {
        certificate: report.name.clone(),
        issuer: origin.as_ref().map(|origin| origin.issuer.clone()),
        directory: origin.map(|origin| origin.directory),
        targets: installed.map(|target| target.name.clone()).collect(),
        failure,
    })
}

/// That no issuer of a certificate has a directory for tests
fn nowhere(certificate: &Certificate) -> Failure {
    let first = certificate.issuers.first().map(IssuerName::as_str).unwrap_or_default();
    Failure::needs_operator(
        Step::Prepare,
        format!("no directory for tests is known of issuer `{first}`"),
        format!("name it under `issuers.{first}`: `staging: https://…`"),
    )
}

fn not_rehearsed(config: &Config) -> Vec<String> {
    let mut all = Vec::new();
    let all_targets = || config.certificates.values().flat_map(|certificate| &certificate.targets);
    if all_targets().any(|t| t.check.is_some() || t.reload.is_some() || !t.verify.is_empty()) {
        let steps = "what servers say, load and serve, which `certkeep deploy --test` rehearses";
        all.push(steps.to_owned());
    }
    all.push("whether the real paths can be written, which `certkeep check` finds out".to_owned());
    let issuers: BTreeSet<_> = config.certificates.values().flat_map(|c| &c.issuers).collect();
    let known = |name: &&IssuerName| config.issuer(name).is_some_and(|i| i.staging.is_some());
    for name in issuers.iter().filter(|name| !known(name)) {
        all.push(format!("issuer `{name}`, of which no directory for tests is known"));
    }
    for certificate in config.certificates.values().filter(|c| c.gate.roots.is_some()) {
        all.push(format!(
            "`gate.roots` of {}, which the CA's tests never lead to",
            certificate.name
        ));
    }
    all.push("how the gate compares it with the one in place".to_owned());
    all.push("the real CA's limits and accounts".to_owned());
    all
}

impl Rehearsal {
    fn text(&self) -> String {
        let mut text = String::new();
        for Rehearsed { certificate, issuer, directory, targets, failure } in &self.rehearsals {
            let at = match (issuer, directory) {
                (Some(issuer), Some(directory)) => format!(" by `{issuer}` at {directory}"),
                _ => String::new(),
            };
            match failure {
                Some(failure) => {
                    fitting(&mut text, 4, &format!("{certificate}: failed: {failure}"));
                }
                None => {
                    let names: Vec<_> = targets.iter().map(|name| format!("`{name}`")).collect();
                    fitting(&mut text, 4, &format!("{certificate}: issued{at}"));
                    let files = names.join(", ");
                    let steps = "account, order, challenge, chain, and the files of";
                    fitting(&mut text, 4, &format!("    {steps} {files}"));
                }
            }
        }
        text.push_str("not rehearsed:\n");
        for sentence in &self.not_rehearsed {
            fitting(&mut text, 4, &format!("    {sentence}"));
        }
        let well = self.rehearsals.iter().filter(|rehearsed| rehearsed.failure.is_none()).count();
        let all = Count(self.rehearsals.len(), "certificate");
        let verdict = format!("{well} of {all} rehearsed well; nothing that is live was changed");
        fitting(&mut text, 0, &verdict);
        text
    }
}
