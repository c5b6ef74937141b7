//! `certkeep deploy`: install, reload and verify what is held.

use std::sync::Arc;

use clap::Args;

use crate::agent::{self, Shared, all_targets};
use crate::cli::{Context, Exit, Stop, plan, setup};
use crate::config::Config;
use crate::event::Event;
use crate::failure::Failure;
use crate::name::{CertName, TargetName};
use crate::plan::Request;
use crate::report::{self, Report};
use crate::text::Count;

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
    setup::runtime()?.block_on(async {
        let shared = setup::shared(context, &config)?;
        let _at_work = shared.at_work().await?;
        for certificate in config.certificates.values() {
            let name = certificate.name.clone();
            let Some(_lock) = shared.store.lock_certificate(&name)? else {
                return Err(held(&name));
            };
            let certificate = Arc::new(certificate.clone());
            let observed = {
                let (certificate, events) = (Arc::clone(&certificate), Arc::clone(&shared.events));
                let looked = shared
                    .on_disk(move |store| Ok(store.observe_one(&certificate, &mut |e| events(e))));
                looked.await?
            };
            let Some(held) = &observed.held else {
                let message = crate::text::External::new("there is no certificate to deploy yet");
                shared.tell(Event::Warned { certificate: Some(name), message });
                continue;
            };
            let reason = "the operator asks for it";
            let due = all_targets(&certificate, held.meta.number, &observed, reason);
            agent::deploy(&shared, due).await;
        }
        Ok(())
    })?;
    let report = plan::observe(context, &config, Request::None);
    plan::print(context, &report, Report::status)?;
    Ok(if report.all_well() { Exit::Well } else { Exit::Failed })
}

pub(crate) fn held(name: &CertName) -> Stop {
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
    let targets = setup::runtime()?.block_on(async {
        let shared = setup::shared(context, config)?;
        Ok::<_, Stop>(rehearse_all(&shared, config).await)
    })?;
    let well = targets.iter().all(|target| target.failure.is_none());
    if context.json {
        context.print_json(&Rehearsal { version: report::VERSION, targets })?;
    } else {
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
            context.print(&format!("{} ({}): {outcome}\n", target.certificate, target.target))?;
        }
    }
    Ok(if well { Exit::Well } else { Exit::Failed })
}

async fn rehearse_all(shared: &Shared, config: &Config) -> Vec<RehearsedTarget> {
    let mut rehearsed = Vec::new();
    for certificate in config.certificates.values() {
        for target in &certificate.targets {
            let outcome = agent::rehearse(shared, certificate, target).await;
            rehearsed.push(RehearsedTarget {
                certificate: certificate.name.clone(),
                target: target.name.clone(),
                addresses: *outcome.as_ref().unwrap_or(&0),
                failure: outcome.err(),
            });
        }
    }
    rehearsed
}
