//! What commands need before they can begin.

use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::{Events, Secrets, Shared};
use crate::challenge::{Solver, WEBROOTS_AT_ONCE};
use crate::cli::{Context, Exit, Stop, selected};
use crate::config::Config;
use crate::event::{Event, Level};
use crate::log::{Format, Log};
use crate::resolver;
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
///
/// It ends although a resolver or a network file system keeps a thread.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Stop> {
    leave_room_for_sockets()?;
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let built = builder.enable_all().max_blocking_threads(DISK_THREADS).build();
    let runtime = built.map_err(Stop::unexpected)?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(LAST_WRITES);
    Ok(done)
}

/// How long threads may go on when all is done: what they write then survives being cut off
const LAST_WRITES: Duration = Duration::from_secs(2);

/// A resolver or a webroot that hangs holds no more than its own
const DISK_THREADS: usize = 4 + resolver::TURNS + WEBROOTS_AT_ONCE;

/// A runtime opens six files, and panics where the last of them cannot be had
fn leave_room_for_sockets() -> Result<(), Stop> {
    let files: io::Result<Vec<_>> = (0..3).map(|_| UnixStream::pair()).collect();
    files.map(drop).map_err(|error| {
        let hint = "raise the limit: `ulimit -n`, or `LimitNOFILE=` of the unit";
        Stop::new(Exit::Unexpected, format!("no file can be opened: {error}\n  hint: {hint}"))
    })
}
