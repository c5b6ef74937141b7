//! `certkeep renew`: do once what is due.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;

use clap::Args;

use crate::agent::{Agent, Outcome, Secrets, Shared};
use crate::challenge::Solver;
use crate::cli::progress::Progress;
use crate::cli::{Context, Exit, Stop, plan, run, selected};
use crate::config::Config;
use crate::event::{Event, Level};
use crate::log::{Format, Log};
use crate::name::CertName;
use crate::plan::Request;
use crate::report::Report;
use crate::signal;
use crate::store::Store;

/// Do once what is due, and end
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The certificates to look at; all of the configuration if none is named
    names: Vec<String>,
    /// Order new certificates whatever is due
    #[arg(long)]
    force: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Stop> {
    let mut config = context.config()?;
    refuse_empty(&config)?;
    restrict(&mut config, &arguments.names)?;
    let request = if arguments.force { Request::Force } else { Request::Now };
    if arguments.dry_run {
        let report = plan::observe(context, &config, request);
        return plan::print(context, &report, Report::plan).map(|()| Exit::Well);
    }
    let (outcome, stopped) = pass(context, config, request)?;
    let exit = conclude(context, &outcome)?;
    match stopped {
        Some(by) => Err(Stop::new(Exit::Failed, format!("stopped by {by}; it goes on next time"))),
        None => Ok(exit),
    }
}

/// One pass over the configuration, as `request` says, and the signal that ended it early
fn pass(
    context: &Context,
    config: Config,
    request: Request,
) -> Result<(Outcome, Option<&'static str>), Stop> {
    runtime()?.block_on(async {
        let mut shared = shared(context, &config)?;
        let progress = Progress::new(context);
        shared.events = progress.events(Arc::clone(&shared.events));
        let mut signals = run::signals()?;
        let mut stopped = None;
        let stop = async {
            stopped = Some(match signals.recv().await {
                Some(signal::Request::Stop(by)) => by,
                // Whoever looked at it has gone.
                Some(signal::Request::Reload) | None => "SIGHUP",
            });
        };
        let work = Agent::new(shared, config).once_until(request, stop);
        let outcome = progress.show_while(work).await?;
        Ok((outcome, stopped))
    })
}

/// Say how a pass ended
pub(crate) fn conclude(context: &Context, outcome: &Outcome) -> Result<Exit, Stop> {
    if context.json {
        context.print_json(&outcome.report)?;
    } else {
        context.print(&outcome.report.outcome())?;
    }
    if !outcome.held_elsewhere.is_empty() {
        let names: Vec<_> = outcome.held_elsewhere.iter().map(CertName::as_str).collect();
        let names = names.join(", ");
        return Err(Stop::new(
            Exit::Held,
            format!(
                "another process works on {names}\n  hint: wait for it, or look at `certkeep status`"
            ),
        ));
    }
    Ok(if outcome.report.all_well() && outcome.failed.is_empty() {
        Exit::Well
    } else {
        Exit::Failed
    })
}

/// Only the named certificates; all of them if none is named
pub(crate) fn restrict(config: &mut Config, names: &[String]) -> Result<(), Stop> {
    let selected: BTreeSet<_> = selected(config, names)?.into_iter().collect();
    config.certificates.retain(|name, _| selected.contains(name));
    Ok(())
}

/// Managing nothing is a mistake that looks like success
pub(crate) fn refuse_empty(config: &Config) -> Result<(), Stop> {
    if config.certificates.is_empty() && !config.allow_empty {
        return Err(Stop::new(
            Exit::Configuration,
            "the configuration holds no certificate\n  hint: add one under `certificates`, or set `allow_empty: true`",
        ));
    }
    Ok(())
}

/// What the agent's jobs need, for a command that changes something
pub(crate) fn shared(context: &Context, config: &Config) -> Result<Shared, Stop> {
    let store = Store::open(config)?;
    let sockets = context.world.sockets.iter().map(TcpListener::try_clone);
    let solver = Solver::new(sockets.collect::<Result<_, _>>()?)?;
    let secrets = Secrets::new(Arc::clone(&context.world.variables));
    let clock = Arc::clone(&context.world.clock);
    let history = Log::new(Box::new(store.history()), Format::Json, Level::Info);
    let (onward, at) = (context.events(), Arc::clone(&clock));
    let events = Arc::new(move |event: Event| {
        history.write(at.now(), &event);
        onward(event);
    });
    Ok(Shared::new(store, clock, solver, events, secrets))
}

/// One thread for the loop and its network, a few for the disk
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Stop> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(DISK_THREADS)
        .build()
        .map_err(Stop::unexpected)
}

const DISK_THREADS: usize = 16;
