//! `certkeep rollback`: an earlier generation comes back.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::Args;

use crate::agent::{self, Shared, all_targets};
use crate::cert::{Fingerprint, Leaf};
use crate::cli::attend::attended;
use crate::cli::{Context, Exit, Stop, deploy, plan, setup};
use crate::config::{Certificate, Config, Target};
use crate::event::Event;
use crate::name::TargetName;
use crate::plan::{Request, window};
use crate::record::{DeployRecord, GenerationMeta, TargetRecord, VERSION};
use crate::report::{CertificateReport, Report};
use crate::store::{Store, StoreError};
use crate::text::External;
use crate::time::Timestamp;

/// Put an earlier generation of a certificate back
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The certificate
    name: String,
    /// The generation to go back to: its number, or `original` for the files that were there
    /// before certkeep; the one before what is in force if not given
    #[arg(long, value_name = "GENERATION")]
    to: Option<String>,
    /// The target to go back at, may be repeated; each target of the certificate if not given
    #[arg(long = "target", value_name = "TARGET")]
    targets: Vec<String>,
    /// Go back also to a generation that is expired or revoked
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Stop> {
    let mut config = context.config()?;
    setup::restrict(&mut config, std::slice::from_ref(&arguments.name))?;
    let Some(certificate) = config.certificates.values().next().cloned() else {
        return Err(Stop::unexpected("no such certificate"));
    };
    let targets = selected(&certificate, &arguments.targets)?;
    if arguments.to.as_deref() == Some("original") {
        return original(context, &config, &certificate, &targets);
    }
    let names: Vec<_> = targets.iter().map(|target| target.name.clone()).collect();
    setup::block_on(async {
        let shared = setup::shared(context, &config)?;
        attended(context, shared, async |shared, _| {
            go_back(shared, certificate, &targets, arguments).await
        })
        .await
    })??;
    let report = plan::observe(context, &config, Request::None);
    plan::print(context, &report, Report::status)?;
    let well = match arguments.targets.is_empty() {
        true => report.all_well(),
        false => report.certificates.iter().all(|certificate| is_live(certificate, &names)),
    };
    Ok(if well { Exit::Well } else { Exit::Failed })
}

async fn go_back(
    shared: &Shared,
    certificate: Certificate,
    targets: &[Target],
    arguments: &Arguments,
) -> Result<(), Stop> {
    let _at_work = shared.at_work().await?;
    let certificate = Arc::new(certificate);
    let Some((_lock, mut observed)) = agent::take(shared, &certificate).await? else {
        return Err(deploy::held(&certificate.name));
    };
    let ways = ways(shared, &certificate, targets, arguments)?;
    let due = shared
        .on_disk(move |store| {
            pin(store, &certificate, &ways, &mut observed)?;
            let due = ways.into_iter().flat_map(|Way { target, number }| {
                let targets = vec![target];
                let only = Arc::new(Certificate { targets, ..(*certificate).clone() });
                all_targets(&only, number, &observed, "the operator goes back to it")
            });
            Ok(due.collect())
        })
        .await?;
    agent::deploy(shared, due).await;
    Ok(())
}

/// The targets given on the command line, or all of them
fn selected(certificate: &Certificate, names: &[String]) -> Result<Vec<Target>, Stop> {
    if names.is_empty() {
        return Ok(certificate.targets.clone());
    }
    let known = |name: &String| {
        let found = certificate.targets.iter().find(|target| target.name.as_str() == name);
        found.cloned().ok_or_else(|| {
            let all: Vec<_> = certificate.targets.iter().map(|t| t.name.as_str()).collect();
            let message = format!(
                "{} has no target `{}`\n  hint: it has {}",
                certificate.name,
                External::new(name),
                all.join(", ")
            );
            Stop::new(Exit::Unexpected, message)
        })
    };
    names.iter().map(known).collect()
}

/// A target, and the generation that it goes back to
struct Way {
    target: Target,
    number: u32,
}

/// Where each target goes back to, by itself: each may have another generation in force
fn ways(
    shared: &Shared,
    certificate: &Certificate,
    targets: &[Target],
    arguments: &Arguments,
) -> Result<Vec<Way>, Stop> {
    let store = &shared.store;
    let whole: Vec<_> = store
        .inspect(&certificate.name)?
        .into_iter()
        .filter_map(|(number, found)| Some((number, found.ok()?)))
        .collect();
    let record = store.deploy(&certificate.name, &mut |_| ())?;
    let revoked = store.attempts(&certificate.name, &mut |_| ())?.revoked;
    let mut ways = Vec::with_capacity(targets.len());
    for target in targets {
        let seen = record.targets.get(&target.name).cloned().unwrap_or_default();
        let number = match arguments.to.as_deref() {
            Some(text) => asked(text, &whole)?,
            None => before(&seen, &whole).ok_or_else(|| {
                let name = &target.name;
                let message = match targets {
                    [_] => "there is no earlier generation to go back to".to_owned(),
                    _ => format!("there is no earlier generation for target `{name}`"),
                };
                Stop::new(Exit::Failed, message)
            })?,
        };
        let found = whole.iter().find(|(held, _)| *held == number);
        if let Some((_, (_, leaf))) = found
            && !ways.iter().any(|way: &Way| way.number == number)
        {
            match trouble(leaf, &revoked, shared.now()) {
                Some(trouble) if !arguments.force => {
                    return Err(refused(certificate, number, &trouble));
                }
                _ => warn_of_end(shared, certificate, number, leaf),
            }
        }
        ways.push(Way { target: target.clone(), number });
    }
    Ok(ways)
}

type Whole = (u32, (GenerationMeta, Leaf));

fn asked(text: &str, whole: &[Whole]) -> Result<u32, Stop> {
    let found = text.parse().ok().filter(|number| whole.iter().any(|(held, _)| held == number));
    found.ok_or_else(|| {
        let held: Vec<_> = whole.iter().map(|(number, _)| number.to_string()).collect();
        let hint = match held.is_empty() {
            true => "the state directory holds none: certkeep renew".to_owned(),
            false => format!("the state directory holds generation {}", held.join(", ")),
        };
        let text = External::new(text);
        Stop::unexpected(format!(
            "there is no generation `{text}` that can be used\n  hint: {hint}"
        ))
    })
}

/// What was in force before what is: what was live then, rather than one that was refused
fn before(record: &TargetRecord, whole: &[Whole]) -> Option<u32> {
    let in_force = record.in_force();
    let is_earlier = |number: u32| in_force.is_none_or(|in_force| number < in_force);
    let earlier = whole.iter().map(|(number, _)| *number).filter(|number| is_earlier(*number));
    let previous = record.previous.filter(|number| earlier.clone().any(|held| held == *number));
    previous.or_else(|| earlier.max())
}

/// Why clients would refuse a generation
fn trouble(leaf: &Leaf, revoked: &BTreeSet<Fingerprint>, now: Timestamp) -> Option<String> {
    if revoked.contains(&leaf.fingerprint) {
        return Some("is revoked".to_owned());
    }
    let end = leaf.not_after;
    (end <= now).then(|| format!("expired at {end}"))
}

fn refused(certificate: &Certificate, number: u32, trouble: &str) -> Stop {
    let name = &certificate.name;
    Stop::new(
        Exit::Failed,
        format!(
            "generation {number} {trouble}, so clients would refuse it\n  \
             hint: choose another with --to, see `certkeep generations {name}`; \
             --force goes back all the same"
        ),
    )
}

/// Say that the way back does not last: the planner goes forward before a certificate ends
fn warn_of_end(shared: &Shared, certificate: &Certificate, number: u32, leaf: &Leaf) {
    if window::emergency(leaf) <= shared.now() {
        let message = External::new(format!(
            "generation {number} ends at {}: `run` and `renew` go forward again at once, where \
             there is one that lasts longer",
            leaf.not_after
        ));
        shared.tell(Event::Warned { certificate: Some(certificate.name.clone()), message });
    }
}

/// Keep the planner from going forward again until there is something newer
fn pin(
    store: &Store,
    certificate: &Certificate,
    ways: &[Way],
    observed: &mut crate::plan::Observed,
) -> Result<(), StoreError> {
    let newest = observed.held.as_ref().map(|held| held.meta.number);
    let mut all = store.deploy(&certificate.name, &mut |_| ())?;
    for Way { target, number } in ways {
        let seen = observed.targets.entry(target.name.clone()).or_default();
        let others = |was: &u32| was != number;
        seen.record = TargetRecord {
            generation: *number,
            pinned_over: newest.filter(|newest| newest > number),
            previous: seen.record.in_force().filter(others),
            reloads: std::mem::take(&mut seen.record.reloads),
            ..TargetRecord::default()
        };
        all.targets.insert(target.name.clone(), seen.record.clone());
    }
    store.write_deploy(&certificate.name, &DeployRecord { version: VERSION, ..all })
}

/// Whether these targets of a certificate are live, however the others are
fn is_live(certificate: &CertificateReport, targets: &[TargetName]) -> bool {
    let mut chosen = certificate.targets.iter().filter(|target| targets.contains(&target.name));
    chosen.all(|target| target.live_at.is_some() && target.is_well())
}

fn original(
    context: &Context,
    config: &Config,
    certificate: &Certificate,
    targets: &[Target],
) -> Result<Exit, Stop> {
    setup::block_on(async {
        let shared = setup::shared(context, config)?;
        let _at_work = shared.at_work().await?;
        let store = &shared.store;
        let Some(_lock) = store.lock_certificate(&certificate.name)? else {
            return Err(deploy::held(&certificate.name));
        };
        // All of it, or nothing: a target that has none is found before another one is changed.
        for target in targets {
            if !store.has_original(certificate, target)? {
                store.restore_original(certificate, target)?;
            }
        }
        for target in targets {
            store.restore_original(certificate, target)?;
        }
        Ok(())
    })??;
    context.tell(
        &format!("{}: the files from before certkeep are back", certificate.name),
        Some(
            "reload the server yourself, and remove the certificate from the configuration, or \
             certkeep installs it again",
        ),
    )?;
    Ok(Exit::Well)
}
