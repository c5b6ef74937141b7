//! `certkeep generations`: what is held of a certificate, and what it is of use for.

use clap::Args;

use crate::cli::{Context, Exit, Stop, setup};
use crate::report::{GenerationReport, Generations, Use, VERSION};
use crate::store::Store;
use crate::text::External;

/// Show the generations of a certificate; asks no network and writes nothing
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The certificate
    name: String,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Stop> {
    let mut config = context.config()?;
    setup::restrict(&mut config, std::slice::from_ref(&arguments.name))?;
    let Some(certificate) = config.certificates.values().next() else {
        return Err(Stop::unexpected("no such certificate"));
    };
    let store = Store::open_read_only(&config);
    store.readable()?;
    let (name, tell) = (&certificate.name, context.events());
    let record = store.deploy(name, &mut |event| tell(event))?;
    let revoked = store.attempts(name, &mut |event| tell(event))?.revoked;
    let mut generations = Vec::new();
    for (number, found) in store.inspect(name)?.into_iter().rev() {
        let uses = certificate
            .targets
            .iter()
            .filter_map(|target| Use::of(number, &target.name, record.targets.get(&target.name)?));
        generations.push(match found {
            Ok((meta, leaf)) => {
                let revoked = revoked.contains(&leaf.fingerprint);
                GenerationReport::new(&meta, &leaf, revoked, uses.collect())
            }
            Err(error) => {
                let problem = External::new(error.to_string());
                GenerationReport::damaged(number, problem, uses.collect())
            }
        });
    }
    let mut originals = Vec::new();
    for target in &certificate.targets {
        if store.has_original(certificate, target)? {
            originals.push(target.name.clone());
        }
    }
    let all = Generations {
        version: VERSION,
        now: context.world.clock.now(),
        certificate: name.clone(),
        generations,
        originals,
    };
    if context.json {
        context.print_json(&all)?
    } else {
        context.print(&all.text())?
    }
    Ok(Exit::Well)
}
