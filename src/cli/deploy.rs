//! `certkeep deploy`: install, reload and verify what is held.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::Args;

use crate::agent::{self, Shared};
use crate::cli::attend::{Stopped, attended};
use crate::cli::{Context, Exit, Stop, plan, setup};
use crate::config::Config;
use crate::event::Event;
use crate::failure::Failure;
use crate::name::{CertName, TargetName};
use crate::plan::Request;
use crate::report::{self, CertificateReport, Report};
use crate::text::{Count, External, fitting};

/// Install, reload and verify what the state directory holds; orders nothing
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The certificates to deploy; all of the configuration if none is named
    names: Vec<String>,
    /// Run the real check, reload and verification with the certificate that is installed now,
    /// and change no file
    #[arg(long)]
    test: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Stop> {
    let mut config = context.config()?;
    setup::refuse_empty(&config)?;
    setup::restrict(&mut config, &arguments.names)?;
    if arguments.test {
        return rehearse(context, &config);
    }
    let Deployed { elsewhere, failed, cut_off } = setup::block_on(async {
        let shared = setup::shared(context, &config)?;
        let work = async |shared: &_, stopped: &_| deploy_all(shared, &config, stopped).await;
        attended(context, shared, work).await
    })??;
    let report = plan::observe(context, &config, Request::None);
    plan::print(context, &report, Report::status)?;
    match cut_off {
        Some(by) => Err(early(by, "what it had not begun is as it was")),
        None => conclude(&report, elsewhere, failed),
    }
}

/// Why it did not come to its end
fn early(by: &str, rest: &str) -> Stop {
    Stop::new(Exit::Failed, format!("stopped by {by}; {rest}"))
}

/// What `deploy` left out
#[derive(Default)]
struct Deployed {
    /// Certificates that another process works on
    elsewhere: Names,
    /// Those that could not be looked at
    failed: Names,
    /// The signal after which no more was begun, if there was more
    cut_off: Option<&'static str>,
}

/// Deploy what each certificate has
async fn deploy_all(shared: &Shared, config: &Config, stopped: &Stopped) -> Result<Deployed, Stop> {
    let _at_work = shared.at_work().await?;
    let mut done = Deployed::default();
    let all: Vec<_> = config.certificates.values().cloned().map(Arc::new).collect();
    // Each holds its lock, and so a file.
    for some in all.chunks(agent::DEPLOYMENTS_AT_ONCE) {
        let (mut locks, mut due) = (Vec::new(), Vec::new());
        for certificate in some {
            let name = certificate.name.clone();
            let warn = |message: String| {
                let message = External::new(message);
                shared.tell(Event::Warned { certificate: Some(name.clone()), message });
            };
            let (lock, observed) = match agent::take(shared, certificate).await {
                Ok(Some(taken)) => taken,
                Ok(None) => {
                    done.elsewhere.insert(name);
                    continue;
                }
                Err(error) => {
                    warn(error.to_string());
                    done.failed.insert(name);
                    continue;
                }
            };
            locks.push(lock);
            match &observed.held {
                Some(held) => {
                    let reason = "the operator asks for it";
                    due.extend(agent::again(shared.now(), certificate, held, &observed, reason));
                }
                None => warn("there is no certificate to deploy yet".to_owned()),
            }
        }
        if agent::deploy_until(shared, due, &|| stopped.by().is_some()).await {
            done.cut_off = stopped.by();
            break;
        }
    }
    Ok(done)
}

type Names = BTreeSet<CertName>;

/// How a command about several certificates ends: what failed comes before what others hold
pub(crate) fn conclude(report: &Report, elsewhere: Names, failed: Names) -> Result<Exit, Stop> {
    let ours = report.certificates.iter().filter(|it| !elsewhere.contains(&it.name));
    let well = failed.is_empty() && ours.into_iter().all(CertificateReport::is_well);
    ended(well, &elsewhere)
}

/// The end of what was done but for these certificates
fn ended(well: bool, elsewhere: &Names) -> Result<Exit, Stop> {
    match elsewhere.is_empty() {
        true => Ok(if well { Exit::Well } else { Exit::Failed }),
        false => {
            let names: Vec<_> = elsewhere.iter().map(CertName::as_str).collect();
            let exit = if well { Exit::Held } else { Exit::Failed };
            Err(Stop { exit, ..held(&names.join(", ")) })
        }
    }
}

pub(crate) fn held(name: &(impl std::fmt::Display + ?Sized)) -> Stop {
    Stop::new(
        Exit::Held,
        format!(
            "another process works on {name}\n  hint: wait for it, or look at `certkeep status`"
        ),
    )
}

/// What `deploy --test` prints with `--json`
#[derive(serde::Serialize)]
struct Rehearsal {
    version: u32,
    targets: Vec<RehearsedTarget>,
}

#[derive(serde::Serialize)]
struct RehearsedTarget {
    certificate: CertName,
    target: TargetName,
    /// How many addresses were seen to serve the certificate
    addresses: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
}

fn rehearse(context: &Context, config: &Config) -> Result<Exit, Stop> {
    let Rehearsed { targets, elsewhere, failed, cut_off } = setup::block_on(async {
        let shared = setup::shared(context, config)?;
        let work = async |shared: &_, stopped: &_| rehearse_all(shared, config, stopped).await;
        attended(context, shared, work).await
    })??;
    let well = failed.is_empty() && targets.iter().all(|target| target.failure.is_none());
    if context.json {
        context.print_json(&Rehearsal { version: report::VERSION, targets })?;
    } else {
        let mut text = String::new();
        for target in &targets {
            let outcome = match &target.failure {
                Some(failure) => format!("failed: {failure}"),
                None if target.addresses == 0 => {
                    "works, and there is no endpoint to ask".to_owned()
                }
                None => format!(
                    "works, proven by handshake with {}",
                    Count(target.addresses, "address")
                ),
            };
            let RehearsedTarget { certificate, target, .. } = target;
            fitting(&mut text, 4, &format!("{certificate} ({target}): {outcome}"));
        }
        context.print(&text)?;
    }
    match cut_off {
        Some(by) => Err(early(by, "what it had not begun is not rehearsed")),
        None => ended(well, &elsewhere),
    }
}

/// What `deploy --test` found
#[derive(Default)]
struct Rehearsed {
    targets: Vec<RehearsedTarget>,
    /// The signal after which no more was begun, if there was more
    cut_off: Option<&'static str>,
    /// Certificates that another process works on
    elsewhere: Names,
    /// Those that could not be looked at
    failed: Names,
}

async fn rehearse_all(
    shared: &Shared,
    config: &Config,
    stopped: &Stopped,
) -> Result<Rehearsed, Stop> {
    let _at_work = shared.at_work().await?;
    let mut rehearsed = Rehearsed::default();
    for certificate in config.certificates.values() {
        let name = certificate.name.clone();
        // Nobody switches files while the server is asked about them.
        let _lock = match shared.store.lock_certificate(&name) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                rehearsed.elsewhere.insert(name);
                continue;
            }
            Err(error) => {
                let message = External::new(error.to_string());
                shared.tell(Event::Warned { certificate: Some(name.clone()), message });
                rehearsed.failed.insert(name);
                continue;
            }
        };
        for target in &certificate.targets {
            if let Some(by) = stopped.by() {
                rehearsed.cut_off = Some(by);
                return Ok(rehearsed);
            }
            let outcome = agent::rehearse(shared, certificate, target).await;
            rehearsed.targets.push(RehearsedTarget {
                certificate: certificate.name.clone(),
                target: target.name.clone(),
                addresses: *outcome.as_ref().unwrap_or(&0),
                failure: outcome.err(),
            });
        }
    }
    Ok(rehearsed)
}
