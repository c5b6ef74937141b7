//! Making a server take over a certificate: its own check, then its reload.
//!
//! Whether it really serves the certificate afterwards is for `probe` to see: an exit status of 0
//! proves nothing.
//!
//! # What a command gets
//! An argument vector, which no shell sees. `/` as working directory, a process group of its own,
//! and an environment made from scratch:
//!
//! | variable | in | value |
//! |---|---|---|
//! | `PATH` | all | `/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin` |
//! | `LANG` | all | `C.UTF-8` |
//! | `CERTKEEP_VERSION` | all | `1`, the version of this table and of the JSON below |
//! | `CERTKEEP_EVENT` | all | `check` or `reload` |
//! | `CERTKEEP_CERTIFICATES` | all | the names of the certificates, with a space between |
//! | `CERTKEEP_CERTIFICATE` | check of one | the name of the certificate |
//! | `CERTKEEP_TARGET` | check of one | the name of the target |
//! | `CERTKEEP_GENERATION` | check of one | the number of the generation |
//! | `CERTKEEP_IDENTIFIERS` | check of one | what it vouches for, with a space between |
//! | `CERTKEEP_FINGERPRINT` | check of one | SHA-256 of the leaf, 64 hexadecimal digits |
//! | `CERTKEEP_NOT_AFTER` | check of one | when it expires, `2026-12-31T23:59:59Z` |
//! | `CERTKEEP_REASON` | check of one | why it was renewed or deployed, a sentence |
//! | `CERTKEEP_FILE_CERT`, `_CHAIN`, `_COMBINED`, `_FULLCHAIN`, `_KEY` | check of one | the path of the target's first file with that content, if it has one |
//!
//! One check and one reload serve every certificate that shares them, so the variables that mean
//! one certificate are there only in the check of one; a script that serves several reads its
//! standard input. A value of more than 96 KiB is left out; standard input has it.
//! A program that needs more is given it by `env`: `[env, HOME=/root, kubectl, rollout, …]`.
//!
//! Standard input is one JSON object, the same for check and reload. New members may appear in
//! it; those that are there stay as they are while `version` is 1:
//!
//! ```json
//! {
//!   "version": 1,
//!   "event": "reload",
//!   "deployments": [
//!     {
//!       "certificate": "example.com",
//!       "target": "default",
//!       "generation": 7,
//!       "identifiers": ["example.com", "www.example.com"],
//!       "files": [{ "path": "/etc/nginx/tls/example.com.pem", "content": "fullchain" }],
//!       "fingerprint": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
//!       "not_after": "2026-12-31T23:59:59Z",
//!       "reason": "a third of its life is left"
//!     }
//!   ]
//! }
//! ```

mod command;
mod container;
mod context;
mod exchange;
mod file;
mod haproxy;
mod http;
mod pid_file;
mod signal;
mod socket;
mod systemd;
mod trigger;
mod trust;

use std::path::Path;

use rustix::process::Pid;

use crate::config::{Hook, Reload, Target};
use crate::event::Event;
use crate::failure::{Failure, Step};

pub use context::HookContext;
pub(crate) use signal::is_called;

use command::{Invocation, Unsuccessful};
use context::HookEvent;
use pid_file::PidFile;

/// Say whether a target could be checked and reloaded at all, without doing either
///
/// For the time before an order: a command that is missing, or that others could change, a socket
/// or a user that is not there, is found before the CA is asked.
///
/// # Errors
/// Names the path and what to do about it.
///
/// ```
/// # use certkeep::config::{Hook, Layout, Target};
/// # use certkeep::name::TargetName;
/// # let hook = |program: &str| Hook {
/// #     program: program.into(),
/// #     arguments: Vec::new(),
/// #     timeout: std::time::Duration::from_secs(30),
/// # };
/// let mut target = Target {
///     name: TargetName::parse("default").unwrap(),
///     layout: Layout::Links,
///     outputs: Vec::new(),
///     check: Some(hook("true")),
///     reload: None,
///     verify: Vec::new(),
///     max_reloads_per_hour: None,
/// };
/// assert!(certkeep::deploy::preflight(&target).is_ok());
/// target.check = Some(hook("/nowhere/nginx"));
/// assert!(certkeep::deploy::preflight(&target).is_err());
/// ```
pub fn preflight(target: &Target) -> Result<(), Failure> {
    let executable = |hook: &Hook| {
        trust::executable(&hook.program).map(drop).map_err(|refusal| refusal.at(Step::Prepare))
    };
    target.check.as_ref().map_or(Ok(()), executable)?;
    match &target.reload {
        Some(Reload::Command(hook)) => executable(hook),
        Some(Reload::Container { engine, .. }) => socket::preflight(engine),
        Some(Reload::Haproxy { socket, certificate, .. }) => {
            haproxy::preflight(socket, certificate.as_deref(), &target.outputs)
        }
        Some(Reload::Http(call)) => http::preflight(call),
        Some(Reload::Trigger(path)) => trigger::preflight(path, Step::Prepare),
        Some(Reload::Signal { process, .. }) => signal::preflight(process),
        Some(Reload::Systemd { .. }) | None => Ok(()),
    }
}

/// The process that a pid file names now
///
/// # Errors
/// As [`preflight`], of the file alone.
pub(crate) fn process_in(path: &Path) -> Result<Option<Pid>, Failure> {
    Ok(PidFile::read(path, Step::Prepare)?.and_then(|file| file.pid))
}

/// Run the server's own check of its configuration and files, once for all that share it
///
/// # Errors
/// When it exits with anything but 0 or takes too long: with the last lines that it wrote.
///
/// ```
/// use certkeep::config::Hook;
/// use certkeep::deploy::{self, HookContext};
/// # use certkeep::cert::Fingerprint;
/// # use certkeep::name::{CertName, Identifier, TargetName};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let context = HookContext {
///     certificate: &CertName::parse("example.com").unwrap(),
///     target: &TargetName::parse("default").unwrap(),
///     generation: 7,
///     identifiers: &[Identifier::parse("example.com").unwrap()],
///     outputs: &[],
///     fingerprint: Fingerprint([0; 32]),
///     not_after: "2026-12-31T23:59:59Z".parse().unwrap(),
///     reason: "a third of its life is left",
/// };
/// let hook = Hook {
///     program: "sh".into(),
///     arguments: vec!["-c".into(), r#"test "$CERTKEEP_GENERATION" -eq 7"#.into()],
///     timeout: std::time::Duration::from_secs(30),
/// };
/// deploy::check(&hook, &[context], &|_event| ()).await.unwrap();
/// # });
/// ```
pub async fn check(
    hook: &Hook,
    contexts: &[HookContext<'_>],
    report: &(dyn Fn(Event) + Send + Sync),
) -> Result<(), CheckError> {
    let invocation = Invocation { step: Step::Check, event: HookEvent::Check, contexts, report };
    command::run(hook, invocation).await.map_err(|error| match error {
        Unsuccessful::Ended(failure) => CheckError::Refused(failure),
        Unsuccessful::NotRun(failure) => CheckError::NotAsked(failure),
    })
}

/// How a check did not succeed
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckError {
    /// It ran, and said so or took too long
    Refused(Failure),
    /// It did not run, which says nothing of the server
    NotAsked(Failure),
}

impl From<CheckError> for Failure {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Refused(failure) | CheckError::NotAsked(failure) => failure,
        }
    }
}

/// Make a server load its files again, once for all the deployments that share the reload
///
/// Success means that the command, the job, the request or the signal went through, and no more.
/// Only HAProxy's runtime API can be asked what it has, and is; each of the deployments is a
/// certificate of its own there.
///
/// # Errors
/// When what was asked for failed or took too long, or there is nobody to ask.
pub async fn reload(
    reload: &Reload,
    contexts: &[HookContext<'_>],
    report: &(dyn Fn(Event) + Send + Sync),
) -> Result<(), ReloadError> {
    let invocation = Invocation { step: Step::Reload, event: HookEvent::Reload, contexts, report };
    match reload {
        Reload::Command(hook) => command::run(hook, invocation).await.map_err(Failure::from)?,
        Reload::Container { engine, name, action, timeout } => {
            container::reach(engine, name, action, *timeout, report).await?;
        }
        Reload::Haproxy { socket, certificate, timeout } => {
            haproxy::reload(socket, certificate.as_deref(), *timeout, contexts).await?;
        }
        Reload::Http(call) => http::call(call).await?,
        Reload::Signal { signal, process } => signal::send(*signal, process).await?,
        Reload::Systemd { unit, timeout } => systemd::reload(unit, *timeout, invocation).await?,
        Reload::Trigger(path) => trigger::pull(path, contexts).await?,
    }
    Ok(())
}

/// How a reload did not succeed
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadError {
    /// For all of its deployments, or nobody can tell for which
    OfAll(Failure),
    /// For one of them, which has something that the server cannot be given or does not have
    OfOne(Failure),
}

impl From<Failure> for ReloadError {
    fn from(failure: Failure) -> Self {
        Self::OfAll(failure)
    }
}

impl From<ReloadError> for Failure {
    fn from(error: ReloadError) -> Self {
        match error {
            ReloadError::OfAll(failure) | ReloadError::OfOne(failure) => failure,
        }
    }
}
