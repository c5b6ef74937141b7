//! The command line: arguments in, text or JSON out, and an exit code.

use std::io::{self, IsTerminal as _, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::config::{Config, ConfigErrors};
use crate::event::{Event, Level};
use crate::log::{Format, Log};
use crate::name::{CertName, IssuerName};
use crate::report;
use crate::systemd::is_journal;
use crate::text::fitting;
use crate::time::Clock;

mod account;
mod attend;
mod check;
mod demo;
mod deploy;
mod dev_ca;
mod finding;
mod generated;
mod generations;
mod plan;
mod progress;
mod rehearse;
mod renew;
mod revoke;
mod rights;
mod rollback;
mod run;
mod setup;
mod verify_backup;

/// Keeps TLS certificates alive: renews them over ACME, swaps the files in one rename, reloads
/// the servers, and proves by a handshake that they serve the new certificate
#[derive(Debug, Parser)]
#[command(name = "certkeep", version, max_term_width = 80)]
#[command(arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Arguments {
    /// The configuration file
    #[arg(long, short, global = true, value_name = "FILE", env = "CERTKEEP_CONFIG")]
    #[arg(default_value = "/etc/certkeep/certkeep.yaml", help_heading = EVERYWHERE)]
    config: PathBuf,
    /// Print the result as JSON
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    json: bool,
    /// How the log is written; journal levels under systemd, text elsewhere
    #[arg(long, global = true, value_name = "FORMAT", help_heading = EVERYWHERE)]
    log_format: Option<LogFormat>,
    /// The least level that is logged
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info")]
    #[arg(help_heading = EVERYWHERE)]
    log_level: LogLevel,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// One JSON object a line
    Json,
    /// Priorities that the journal reads
    Journal,
    /// For people
    Text,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogLevel {
    /// Every step and every line that a hook writes
    Debug,
    /// What an operator likes to read back
    Info,
    /// What went wrong
    Warning,
    /// What somebody must look at
    Error,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep the certificates alive until stopped
    Run,
    /// Do once what is due, and end
    Renew(renew::Arguments),
    /// Show what is due and why; asks no network and writes nothing
    Plan(plan::Arguments),
    /// Show how each certificate is; asks no network and writes nothing
    Status(plan::Arguments),
    /// Look for everything that would make a renewal fail
    Check(check::Arguments),
    /// Install, reload and verify what the state directory holds; orders nothing
    Deploy(deploy::Arguments),
    /// Show the generations of a certificate, and what each is of use for
    Generations(generations::Arguments),
    /// Put an earlier generation of a certificate back
    Rollback(rollback::Arguments),
    /// Look whether a state directory, or a copy of it, can renew elsewhere
    VerifyBackup(verify_backup::Arguments),
    /// Have a certificate revoked by its CA
    Revoke(revoke::Arguments),
    /// Show or change the accounts at the CAs
    Account(account::Arguments),
    /// Print the JSON Schema of the configuration file
    Schema,
    /// Print a completion script for a shell
    Completions(generated::CompletionArguments),
    /// Print the manual page
    Man,
    /// Serve a CA for development on the loopback interface
    DevCa(dev_ca::Arguments),
    /// Show the whole main path on the development CA, with certificates of one minute
    Demo(demo::Arguments),
    /// The TLS server of the demo
    #[command(hide = true)]
    DemoServer(demo::ServerArguments),
}

/// How a command ended
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All well
    Well,
    /// Some certificate failed or is not live
    Failed,
    /// Wrong usage, or something unexpected
    Unexpected,
    /// Another instance holds what is needed
    Held,
    /// The configuration is wrong
    Configuration,
}

impl Exit {
    /// The status of the process
    pub const fn code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Failed => 1,
            Self::Unexpected => 2,
            Self::Held => 75,
            Self::Configuration => 78,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// What the process was started with, read once in `main`
pub struct World {
    /// The wall clock
    pub clock: Arc<dyn Clock>,
    /// The value of `JOURNAL_STREAM`
    pub journal_stream: Option<String>,
    /// The sockets that systemd passed for http-01
    pub sockets: Vec<TcpListener>,
    /// `TERM` is `dumb`: the terminal's cursor cannot be moved
    pub dumb: bool,
    /// `NO_COLOR` is set
    pub no_color: bool,
    /// Looks a variable of the environment up
    pub variables: crate::agent::Variables,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

/// Below the help
const EXIT_CODES: &str = "Exit codes: 0 all well, 1 some certificate failed or is not live, \
2 wrong usage or something unexpected, 75 another instance holds it, 78 configuration";

/// Above the options that every command has
const EVERYWHERE: &str = "Options of every command";

/// Why a command cannot go on
#[derive(Debug)]
pub(crate) struct Stop {
    exit: Exit,
    message: String,
}

impl Stop {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// The message, a line for each mistake
    pub(crate) fn lines(&self) -> Vec<String> {
        self.message.lines().map(|line| line.trim().to_owned()).collect()
    }

    pub(crate) fn unexpected(message: impl std::fmt::Display) -> Self {
        Self::new(Exit::Unexpected, message.to_string())
    }
}

impl From<ConfigErrors> for Stop {
    fn from(errors: ConfigErrors) -> Self {
        Self::new(Exit::Configuration, errors.to_string())
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::unexpected(error)
    }
}

impl From<crate::store::StoreError> for Stop {
    fn from(error: crate::store::StoreError) -> Self {
        match error.remedy() {
            Some(remedy) => Self::unexpected(format!("{error}\n  hint: {remedy}")),
            None => Self::unexpected(error),
        }
    }
}

impl From<crate::failure::Failure> for Stop {
    fn from(failure: crate::failure::Failure) -> Self {
        Self::new(Exit::Failed, failure.to_string())
    }
}

/// What a command prints with `--json` when it cannot go on and has printed nothing yet
#[derive(Serialize)]
struct Refused<'a> {
    version: u32,
    exit: u8,
    error: &'a str,
}

impl<'a> Refused<'a> {
    const fn new(exit: Exit, error: &'a str) -> Self {
        Self { version: report::VERSION, exit: exit.code(), error }
    }
}

/// What a command that changes something prints with `--json` when there is nothing else to tell
#[derive(Serialize)]
struct Told<'a> {
    version: u32,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

/// What every command gets
pub(crate) struct Context {
    pub(crate) config_path: PathBuf,
    pub(crate) json: bool,
    pub(crate) log: Arc<Log>,
    pub(crate) world: World,
    pub(crate) text_log: bool,
    printed: AtomicBool,
}

impl Context {
    /// Read the configuration
    pub(crate) fn config(&self) -> Result<Config, Stop> {
        read_config(&self.config_path)
    }

    /// Where a command's result goes
    pub(crate) fn print(&self, text: &str) -> Result<(), Stop> {
        self.printed.store(true, Ordering::Relaxed);
        match io::stdout().lock().write_all(text.as_bytes()) {
            // Whoever reads it has read enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }

    /// The same, from a serializable value
    pub(crate) fn print_json(&self, value: &impl Serialize) -> Result<(), Stop> {
        let mut text = serde_json::to_string_pretty(value).map_err(Stop::unexpected)?;
        text.push('\n');
        self.print(&text)
    }

    /// Say what was done, where no report does
    pub(crate) fn tell(&self, message: &str, hint: Option<&str>) -> Result<(), Stop> {
        if self.json {
            return self.print_json(&Told { version: report::VERSION, message, hint });
        }
        let mut text = String::new();
        fitting(&mut text, 4, message);
        if let Some(hint) = hint {
            fitting(&mut text, 4, &format!("  hint: {hint}"));
        }
        self.print(&text)
    }

    /// A function that logs events
    pub(crate) fn events(&self) -> Arc<dyn Fn(Event) + Send + Sync> {
        let (log, clock) = (Arc::clone(&self.log), Arc::clone(&self.world.clock));
        Arc::new(move |event| log.write(clock.now(), &event))
    }

    /// Say why a command cannot go on
    fn refuse(&self, stop: &Stop) {
        if self.json && !self.printed.load(Ordering::Relaxed) {
            let refused = Refused::new(stop.exit, &stop.message);
            // The line on standard error says the same.
            self.print_json(&refused).unwrap_or_default();
        }
        if self.text_log {
            // Nobody is left to tell when this fails.
            writeln!(io::stderr().lock(), "certkeep: {}", stop.message).unwrap_or_default();
        } else {
            let event = Event::CommandFailed { message: stop.lines().join("; ") };
            self.log.write(self.world.clock.now(), &event);
        }
    }

    /// Whether a person watches the log
    pub(crate) fn is_watched(&self) -> bool {
        self.text_log && !self.world.dumb && io::stderr().is_terminal()
    }
}

/// Read a configuration file
pub(crate) fn read_config(path: &std::path::Path) -> Result<Config, Stop> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let shown = path.display();
        Stop::new(
            Exit::Configuration,
            format!("cannot read the configuration {shown}: {error}\n  hint: --config names another file"),
        )
    })?;
    // Reading takes more memory than what is read. What a thread of its own leaves, the C library
    // gives to the next one; what the first thread leaves stays unused for as long as it lives.
    let parse = || Config::parse(&text, path);
    let parsed = thread::scope(|scope| {
        thread::Builder::new()
            .spawn_scoped(scope, parse)
            .map_or_else(|_| Ok(parse()), |it| it.join())
    });
    match parsed {
        Ok(config) => Ok(config?),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The names given on the command line, each one of the configuration's
pub(crate) fn selected(config: &Config, names: &[String]) -> Result<Vec<CertName>, Stop> {
    if names.is_empty() {
        return Ok(config.certificates.keys().cloned().collect());
    }
    let known = |name: &String| {
        let found = config.certificates.keys().find(|known| known.as_str() == name);
        found.cloned().ok_or_else(|| {
            let all: Vec<_> = config.certificates.keys().map(CertName::as_str).collect();
            let name = crate::text::External::new(name);
            Stop::new(
                Exit::Unexpected,
                format!(
                    "no certificate `{name}` in the configuration\n  hint: it has {}",
                    all.join(", ")
                ),
            )
        })
    };
    names.iter().map(known).collect()
}

/// The issuer given on the command line, or the only one there is
pub(crate) fn selected_issuer(config: &Config, name: Option<&str>) -> Result<IssuerName, Stop> {
    let all: Vec<_> = config.issuers.keys().map(IssuerName::as_str).collect();
    let hint = || format!("  hint: the configuration has {}", all.join(", "));
    let found = match name {
        Some(name) => config.issuers.keys().find(|known| known.as_str() == name),
        None if config.issuers.len() == 1 => config.issuers.keys().next(),
        None => {
            return Err(Stop::new(Exit::Unexpected, format!("name one issuer\n{}", hint())));
        }
    };
    found.cloned().ok_or_else(|| {
        let name = crate::text::External::new(name.unwrap_or_default());
        Stop::new(Exit::Unexpected, format!("no issuer `{name}` in the configuration\n{}", hint()))
    })
}

/// Say what is wrong with the arguments, or show the help that they ask for
pub fn misused(error: &clap::Error, json: bool) -> Exit {
    // Nobody is left to tell when this fails.
    let shown = error.print();
    if !error.use_stderr() {
        return if shown.is_ok() { Exit::Well } else { Exit::Unexpected };
    }
    if json {
        let text = error.to_string();
        let refused = Refused::new(Exit::Unexpected, text.trim_start_matches("error: ").trim_end());
        if let Ok(text) = serde_json::to_string_pretty(&refused) {
            writeln!(io::stdout().lock(), "{text}").unwrap_or_default();
        }
    }
    Exit::Unexpected
}

/// Do what the arguments say
pub fn execute(arguments: Arguments, world: World) -> Exit {
    let format = match arguments.log_format {
        Some(LogFormat::Json) => Format::Json,
        Some(LogFormat::Journal) => Format::Journal,
        Some(LogFormat::Text) => Format::Text,
        None if is_journal(world.journal_stream.as_deref(), io::stderr()) => Format::Journal,
        None if io::stderr().is_terminal() && !world.no_color && !world.dumb => Format::Colour,
        None => Format::Text,
    };
    let level = match arguments.log_level {
        LogLevel::Debug => Level::Debug,
        LogLevel::Info => Level::Info,
        LogLevel::Warning => Level::Warning,
        LogLevel::Error => Level::Error,
    };
    let context = Context {
        // Paths in the file are relative to it, and the agent keeps them for as long as it runs.
        config_path: std::path::absolute(&arguments.config).unwrap_or(arguments.config),
        json: arguments.json,
        log: Arc::new(Log::new(Box::new(io::stderr()), format, level)),
        world,
        text_log: matches!(format, Format::Text | Format::Colour),
        printed: AtomicBool::new(false),
    };
    let done = match arguments.command {
        Command::Run => run::run(&context),
        Command::Renew(arguments) => renew::run(&context, &arguments),
        Command::Plan(arguments) => plan::plan(&context, &arguments),
        Command::Status(arguments) => plan::status(&context, &arguments),
        Command::Check(arguments) => check::run(&context, &arguments),
        Command::Deploy(arguments) => deploy::run(&context, &arguments),
        Command::Generations(arguments) => generations::run(&context, &arguments),
        Command::Rollback(arguments) => rollback::run(&context, &arguments),
        Command::VerifyBackup(arguments) => verify_backup::run(&context, &arguments),
        Command::Revoke(arguments) => revoke::run(&context, &arguments),
        Command::Account(arguments) => account::run(&context, &arguments),
        Command::Schema => generated::schema(&context),
        Command::Completions(arguments) => generated::completions(&context, &arguments),
        Command::Man => generated::man(&context),
        Command::DevCa(arguments) => dev_ca::run(&context, &arguments),
        Command::Demo(arguments) => demo::run(&context, &arguments),
        Command::DemoServer(arguments) => demo::serve(&arguments),
    };
    done.unwrap_or_else(|stop| {
        context.refuse(&stop);
        stop.exit
    })
}
