//! The `certkeep` command.

use std::process::ExitCode;
use std::sync::Arc;

use certkeep::cli::{self, Arguments, World};
use certkeep::clock::SystemClock;
use certkeep::systemd;
use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let json = std::env::args_os().any(|argument| argument == "--json");
            return cli::misused(&error, json).into();
        }
    };
    cli::execute(arguments, world()).into()
}

/// The one look at the environment and the clock of the process
#[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
fn world() -> World {
    let names = std::env::var("LISTEN_FDNAMES").ok();
    World {
        clock: Arc::new(SystemClock),
        journal_stream: std::env::var("JOURNAL_STREAM").ok(),
        sockets: systemd::http01_sockets(systemd::passed(names.as_deref())),
        variables: Arc::new(|name| std::env::var(name).ok()),
        dumb: std::env::var_os("TERM").is_some_and(|term| term == "dumb"),
        no_color: std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()),
    }
}
