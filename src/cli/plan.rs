//! `certkeep plan` and `certkeep status`: look, and touch nothing.

use std::collections::BTreeSet;

use clap::Args;

use crate::cli::{Context, Exit, Stop, setup};
use crate::config::Config;
use crate::plan::{self, Request};
use crate::report::Report;
use crate::store::Store;

/// Which certificates to show
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The certificates to show; all of the configuration if none is named
    names: Vec<String>,
}

pub(crate) fn plan(context: &Context, arguments: &Arguments) -> Result<Exit, Stop> {
    let report = report(context, arguments)?;
    print(context, &report, Report::plan)?;
    Ok(Exit::Well)
}

pub(crate) fn status(context: &Context, arguments: &Arguments) -> Result<Exit, Stop> {
    let report = report(context, arguments)?;
    print(context, &report, Report::status)?;
    Ok(if report.all_well() { Exit::Well } else { Exit::Failed })
}

pub(crate) fn print(
    context: &Context,
    report: &Report,
    text: impl Fn(&Report) -> String,
) -> Result<(), Stop> {
    if context.json { context.print_json(report) } else { context.print(&text(report)) }
}

fn report(context: &Context, arguments: &Arguments) -> Result<Report, Stop> {
    let mut config = context.config()?;
    setup::refuse_empty(&config)?;
    setup::restrict(&mut config, &arguments.names)?;
    Store::open_read_only(&config).readable()?;
    Ok(observe(context, &config, Request::None))
}

/// What a look at the disk and a plan give, without writing
pub(crate) fn observe(context: &Context, config: &Config, request: Request) -> Report {
    let events = context.events();
    let passwords = setup::secrets(context).passwords();
    let store = Store::open_read_only(config).with_passwords(passwords);
    let now = context.world.clock.now();
    let (mut snapshot, _) = store.first_look(config, now, false, &mut |event| events(event));
    let names: BTreeSet<_> = config.certificates.keys().cloned().collect();
    for name in names {
        snapshot.certificates.entry(name).or_default().request = request;
    }
    let plan = plan::plan(now, config, &snapshot);
    Report::new(now, &plan, &snapshot)
}
