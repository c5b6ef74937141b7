//! What commands need before they can begin.

use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::agent::{Events, Secrets, Shared};
use crate::challenge::Solver;
use crate::cli::{Context, Exit, Stop, selected};
use crate::config::Config;
use crate::event::{Event, Level};
use crate::log::{Format, Log};
use crate::store::Store;

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
    let clock = Arc::clone(&context.world.clock);
    let history = Log::new(Box::new(store.history()), Format::Json, Level::Info);
    let (onward, at) = (context.events(), Arc::clone(&clock));
    let events = Arc::new(move |event: Event| {
        history.write(at.now(), &event);
        onward(event);
    });
    shared_with(context, store, events)
}

/// The same for a store, with nothing written into its history
pub(crate) fn shared_with(context: &Context, store: Store, events: Events) -> Result<Shared, Stop> {
    let solver = solver(context)?;
    let clock = Arc::clone(&context.world.clock);
    Ok(Shared::new(store, clock, solver, events, secrets(context)))
}

/// Secrets, read with the environment of this process
pub(crate) fn secrets(context: &Context) -> Secrets {
    Secrets::new(Arc::clone(&context.world.variables))
}

/// Who answers http-01; made within a runtime
pub(crate) fn solver(context: &Context) -> Result<Solver, Stop> {
    let sockets = context.world.sockets.iter().map(TcpListener::try_clone);
    Ok(Solver::new(sockets.collect::<Result<_, _>>()?)?)
}

/// One thread for the loop and its network, a few for the disk
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Stop> {
    leave_room_for_sockets()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(DISK_THREADS)
        .build()
        .map_err(Stop::unexpected)
}

/// A resolver that hangs holds twelve at most: six of `probe`, four of `acme`, two of `deploy`
const DISK_THREADS: usize = 16;

/// A runtime opens six files, and panics where the last of them cannot be had
fn leave_room_for_sockets() -> Result<(), Stop> {
    let files: io::Result<Vec<_>> = (0..3).map(|_| UnixStream::pair()).collect();
    files.map(drop).map_err(|error| {
        let hint = "raise the limit: `ulimit -n`, or `LimitNOFILE=` of the unit";
        Stop::new(Exit::Unexpected, format!("no file can be opened: {error}\n  hint: {hint}"))
    })
}
