//! `certkeep rollback`: the previous generation comes back.

use std::sync::Arc;

use clap::Args;

use crate::agent::{self, all_targets};
use crate::cli::{Context, Exit, Stop, deploy, plan, setup};
use crate::config::{Certificate, Config};
use crate::plan::Request;
use crate::record::{DeployRecord, TargetRecord, VERSION};
use crate::report::Report;
use crate::store::{Store, StoreError};

/// Put a certificate's previous generation back
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The certificate
    name: String,
    /// The generation to go back to: its number, or `original` for the files that were there
    /// before certkeep; the one before the newest if not given
    #[arg(long, value_name = "GENERATION")]
    to: Option<String>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Stop> {
    let mut config = context.config()?;
    setup::restrict(&mut config, std::slice::from_ref(&arguments.name))?;
    let Some(certificate) = config.certificates.values().next().cloned() else {
        return Err(Stop::unexpected("no such certificate"));
    };
    let certificate = Arc::new(certificate);
    if arguments.to.as_deref() == Some("original") {
        return original(context, &config, &certificate);
    }
    setup::runtime()?.block_on(async {
        let shared = setup::shared(context, &config)?;
        let _at_work = shared.at_work().await?;
        let Some(_lock) = shared.store.lock_certificate(&certificate.name)? else {
            return Err(deploy::held(&certificate.name));
        };
        let number = chosen(&shared.store, &certificate, arguments.to.as_deref())?;
        let (wanted, events) = (Arc::clone(&certificate), Arc::clone(&shared.events));
        let observed = shared
            .on_disk(move |store| {
                let mut observed = store.observe_one(&wanted, &mut |event| events(event));
                pin(store, &wanted, number, &mut observed)?;
                Ok(observed)
            })
            .await?;
        let due = all_targets(&certificate, number, &observed, "the operator goes back to it");
        agent::deploy(&shared, due).await;
        Ok(())
    })?;
    let report = plan::observe(context, &config, Request::None);
    plan::print(context, &report, Report::status)?;
    let live = report.certificates.iter().all(|certificate| certificate.is_well());
    Ok(if live { Exit::Well } else { Exit::Failed })
}

/// The generation that is asked for, or the one before what is deployed
fn chosen(store: &Store, certificate: &Certificate, to: Option<&str>) -> Result<u32, Stop> {
    let all: Vec<_> =
        store.generations(&certificate.name)?.iter().map(|meta| meta.number).collect();
    let listed = || all.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let hint = || format!("  hint: the state directory holds generation {}", listed());
    match to {
        Some(text) => match text.parse() {
            Ok(number) if all.contains(&number) => Ok(number),
            _ => Err(Stop::unexpected(format!(
                "there is no generation `{}`\n{}",
                crate::text::External::new(text),
                hint()
            ))),
        },
        None => {
            let record = store.deploy(&certificate.name, &mut |_| ())?;
            let deployed = record.targets.values().map(|target| target.generation).max();
            let before = |number: &&u32| deployed.is_none_or(|deployed| **number < deployed);
            all.iter().filter(before).max().copied().ok_or_else(|| {
                Stop::new(Exit::Failed, "there is no earlier generation to go back to".to_owned())
            })
        }
    }
}

/// Keep the planner from going forward again until there is something newer
fn pin(
    store: &Store,
    certificate: &Certificate,
    number: u32,
    observed: &mut crate::plan::Observed,
) -> Result<(), StoreError> {
    let newest = observed.held.as_ref().map(|held| held.meta.number);
    let mut all = store.deploy(&certificate.name, &mut |_| ())?;
    for target in &certificate.targets {
        let seen = observed.targets.entry(target.name.clone()).or_default();
        seen.record = TargetRecord {
            generation: number,
            pinned_over: newest.filter(|newest| *newest > number),
            previous: Some(seen.record.generation).filter(|was| *was > 0 && *was != number),
            ..TargetRecord::default()
        };
        all.targets.insert(target.name.clone(), seen.record.clone());
    }
    store.write_deploy(&certificate.name, &DeployRecord { version: VERSION, ..all })
}

fn original(
    context: &Context,
    config: &Config,
    certificate: &Arc<Certificate>,
) -> Result<Exit, Stop> {
    let runtime = setup::runtime()?;
    let _within = runtime.enter();
    let shared = setup::shared(context, config)?;
    let _at_work = runtime.block_on(shared.at_work())?;
    let store = &shared.store;
    let Some(_lock) = store.lock_certificate(&certificate.name)? else {
        return Err(deploy::held(&certificate.name));
    };
    for target in &certificate.targets {
        store.restore_original(certificate, target)?;
    }
    context.tell(
        &format!("{}: the files from before certkeep are back", certificate.name),
        Some("remove the certificate from the configuration, or certkeep installs it again"),
    )?;
    Ok(Exit::Well)
}
