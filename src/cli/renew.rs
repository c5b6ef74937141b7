//! `certkeep renew`: do once what is due.

use std::sync::Arc;

use clap::Args;

use crate::agent::{Agent, Outcome, Shared};
use crate::cli::progress::Progress;
use crate::cli::{Context, Exit, Stop, deploy, plan, rehearse, run, setup};
use crate::config::Config;
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
    /// Do a whole renewal at the issuer's directory for tests, into a directory of its own; what
    /// is live stays as it is
    #[arg(long, conflicts_with_all = ["force", "dry_run"])]
    rehearse: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Stop> {
    let mut config = context.config()?;
    setup::refuse_empty(&config)?;
    setup::restrict(&mut config, &arguments.names)?;
    if arguments.rehearse {
        return rehearse::run(context, &config);
    }
    let request = if arguments.force { Request::Force } else { Request::Now };
    if arguments.dry_run {
        Store::open_read_only(&config).readable()?;
        let report = plan::observe(context, &config, request);
        return plan::print(context, &report, Report::plan).map(|()| Exit::Well);
    }
    let (outcome, stopped) = pass(context, config, request)?;
    let exit = conclude(context, outcome)?;
    match stopped {
        Some(by) => Err(Stop::new(Exit::Failed, format!("stopped by {by}; it goes on next time"))),
        None => Ok(exit),
    }
}

/// How a pass ended, and the signal that ended it early
pub(crate) type Passed = (Outcome, Option<&'static str>);

fn pass(context: &Context, config: Config, request: Request) -> Result<Passed, Stop> {
    setup::block_on(async {
        let shared = setup::shared(context, &config)?;
        one_pass(context, shared, config, request).await
    })?
}

/// One pass over the configuration, as `request` says
pub(crate) async fn one_pass(
    context: &Context,
    mut shared: Shared,
    config: Config,
    request: Request,
) -> Result<Passed, Stop> {
    let progress = Progress::new(context);
    shared.events = progress.events(Arc::clone(&shared.events));
    let mut signals = run::signals()?;
    let mut stopped = None;
    let stop = async || {
        stopped = Some(match signals.recv().await {
            Some(signal::Request::Stop(by)) => by,
            // Whoever looked at it has gone.
            Some(signal::Request::Reload) | None => "SIGHUP",
        });
    };
    let work = Agent::new(shared, config).once_until(request, stop);
    let outcome = progress.show_while(work).await?;
    Ok((outcome, stopped))
}

/// Say how a pass ended
fn conclude(context: &Context, outcome: Outcome) -> Result<Exit, Stop> {
    if context.json {
        context.print_json(&outcome.report)?;
    } else {
        context.print(&outcome.report.outcome())?;
    }
    deploy::conclude(&outcome.report, outcome.held_elsewhere, outcome.failed)
}
