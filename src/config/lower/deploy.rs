//! Deployment: the check, and where the certificate must be seen.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::fault::{At, Faults, Refused};
use crate::config::lower::reload::{self, reload};
use crate::config::lower::{Context, path, span, whole};
use crate::config::raw::{ArgvOr, RawDeploy, RawEndpoint, RawHook, Text, TextOr, TextOrNumber};
use crate::config::{Address, Endpoint, Hook, Reload};
use crate::name::Identifier;

/// What makes servers load the files, and where that is seen
#[derive(Default)]
pub(super) struct Deploy {
    pub(super) check: Option<Hook>,
    pub(super) reload: Option<Reload>,
    pub(super) verify: Vec<Endpoint>,
    pub(super) max_reloads_per_hour: Option<u32>,
}

pub(super) fn deploy(
    raw: Option<&RawDeploy>,
    context: &Context<'_>,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Deploy, Refused> {
    let Some(raw) = raw else { return Ok(Deploy::default()) };
    let check = match (&raw.check, &raw.reload) {
        (Some(raw), _) => Some(check(raw, context, &at.key("check"), faults)),
        (None, Some(raw)) => reload::usual_check(raw, context),
        (None, None) => None,
    };
    let reload = raw.reload.as_ref().map(|raw| reload(raw, context, &at.key("reload"), faults));
    let verify = verify(raw.verify.as_deref(), context, &at.key("verify"), faults);
    let most = raw
        .max_reloads_per_hour
        .map(|number| whole(number, MOST_RELOADS, &at.key("max_reloads_per_hour"), faults));
    Ok(Deploy {
        check: check.transpose()?,
        reload: reload.transpose()?,
        verify: verify?,
        max_reloads_per_hour: most.transpose()?,
    })
}

fn check(
    raw: &ArgvOr<RawHook>,
    context: &Context<'_>,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Hook, Refused> {
    let default = context.defaults.timeout;
    let (argv, timeout) = match raw {
        ArgvOr::Argv(argv) => (command(argv, context.base, at, faults), default),
        ArgvOr::Full(raw) => {
            let argv = match &raw.command {
                Some(argv) => command(argv, context.base, &at.key("command"), faults),
                None => {
                    let remedy = "add the program and its arguments: `command: [nginx, -t]`";
                    Err(faults.missing(at, &["command"], "is missing", remedy))
                }
            };
            (argv, timeout(raw.timeout.as_ref(), default, at, faults))
        }
    };
    hook(argv?, timeout?)
}

pub(super) fn timeout(
    raw: Option<&TextOrNumber>,
    default: Result<Duration, Refused>,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Duration, Refused> {
    raw.map_or(default, |text| span(text, &at.key("timeout"), faults))
}

pub(super) fn hook(argv: (PathBuf, Vec<String>), timeout: Duration) -> Result<Hook, Refused> {
    let (program, arguments) = argv;
    Ok(Hook { program, arguments, timeout })
}

/// A program, as a path or as a name for the fixed search path, and its arguments
pub(super) fn command(
    argv: &[Text],
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<(PathBuf, Vec<String>), Refused> {
    let Some((program, arguments)) = argv.split_first() else {
        let remedy = "name the program and its arguments: `[nginx, -t]`";
        return Err(faults.value(at, "is empty", remedy));
    };
    let mut outcome = Ok(());
    for (index, text) in argv.iter().enumerate() {
        if text.contains('\0') {
            let message = "has a NUL character, which no argument can have";
            outcome = Err(faults.value(&at.index(index), message, "take it out"));
        }
    }
    let first = at.index(0);
    let program = if program.contains('/') {
        path::file(program, base, &first, faults)
    } else if program.contains(char::is_whitespace) {
        Err(faults.value(
            &first,
            format!(
                "`{}` is one word with spaces; no shell takes it apart",
                program.escape_debug()
            ),
            "make each word an entry of its own: `[nginx, -t]`",
        ))
    } else if matches!(&**program, "" | "." | "..") {
        let message = format!("`{}` is no program", program.escape_debug());
        Err(faults.value(&first, message, "name a program"))
    } else {
        Ok(PathBuf::from(&**program))
    };
    outcome?;
    Ok((program?, arguments.iter().map(|text| text.0.clone()).collect()))
}

fn verify(
    raw: Option<&[TextOr<RawEndpoint>]>,
    context: &Context<'_>,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Vec<Endpoint>, Refused> {
    let raw = raw.unwrap_or_default();
    let mut outcome = Ok(());
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let at = at.index(index);
        match endpoint(raw, context, &at, faults) {
            Ok(endpoint) => {
                let same = |known: &Endpoint| {
                    (&known.host, known.port, &known.connect, known.starttls)
                        == (&endpoint.host, endpoint.port, &endpoint.connect, endpoint.starttls)
                };
                if endpoints.iter().any(same) {
                    let message = format!("`{endpoint}` is there already");
                    outcome = Err(faults.value(&at, message, "take it out here"));
                } else {
                    endpoints.push(endpoint);
                }
            }
            Err(refused) => outcome = Err(refused),
        }
    }
    outcome.map(|()| endpoints)
}

fn endpoint(
    raw: &TextOr<RawEndpoint>,
    context: &Context<'_>,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Endpoint, Refused> {
    let default = context.defaults.within;
    let raw = match raw {
        TextOr::Text(text) => {
            let (host, port) = host_port(text, at, faults)?;
            return Ok(Endpoint {
                host,
                port,
                connect: None,
                starttls: None,
                samples: SAMPLES,
                within: default?,
            });
        }
        TextOr::Full(raw) => raw,
    };
    let endpoint = match &raw.endpoint {
        Some(text) => host_port(text, &at.key("endpoint"), faults),
        None => {
            let remedy = "add host and port: `endpoint: example.com:443`";
            Err(faults.missing(at, &["endpoint"], "is missing", remedy))
        }
    };
    let connect =
        raw.connect.as_ref().map(|text| address(text, context.base, &at.key("connect"), faults));
    let within = raw.within.as_ref().map_or(default, |text| span(text, &at.key("within"), faults));
    let samples = raw
        .samples
        .map_or(Ok(SAMPLES), |number| whole(number, MOST_SAMPLES, &at.key("samples"), faults));
    let (host, port) = endpoint?;
    Ok(Endpoint {
        host,
        port,
        connect: connect.transpose()?,
        starttls: raw.starttls,
        samples: samples?,
        within: within?,
    })
}

fn address(text: &Text, base: &Path, at: &At<'_>, faults: &mut Faults) -> Result<Address, Refused> {
    let shown = text.escape_debug();
    let Some(socket) = text.strip_prefix("unix:") else {
        return match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(Address::Tcp(address)),
            _ => Err(faults.value(
                at,
                format!("`{shown}` is no address with a port"),
                "write it in quotes, such as `\"127.0.0.1:443\"` or `\"[::1]:443\"`, or name a \
                 socket: `unix:/run/app.sock`",
            )),
        };
    };
    if !socket.starts_with('/') {
        let message = format!("`{shown}` does not name its socket from the root on");
        return Err(faults.value(at, message, "write `unix:` and an absolute path"));
    }
    let path = path::file(&Text(socket.to_owned()), base, at, faults)?;
    if path.as_os_str().len() > LONGEST_SOCKET {
        let message = format!("`{shown}` is longer than the path of a socket can be");
        let remedy = format!("use a path of at most {LONGEST_SOCKET} bytes");
        return Err(faults.value(at, message, remedy));
    }
    Ok(Address::Unix(path))
}

fn host_port(text: &Text, at: &At<'_>, faults: &mut Faults) -> Result<(Identifier, u16), Refused> {
    let mut refuse = |what: String, remedy: &str| Err(faults.value(at, what, remedy));
    let shown = text.escape_debug();
    let (host, port) = match text.rsplit_once(':') {
        Some((host, _))
            if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) =>
        {
            let remedy = "put an IPv6 address in brackets: `\"[2001:db8::1]:443\"`";
            return refuse(format!("`{shown}` cannot be taken apart into host and port"), remedy);
        }
        Some((host, port)) if !host.is_empty() => (host, port),
        _ => {
            let remedy = "write host and port, such as `example.com:443`";
            return refuse(format!("`{shown}` has no host or no port"), remedy);
        }
    };
    let port = match port.parse::<u16>() {
        Ok(port) if port != 0 && !text.ends_with(&format!(":+{port}")) => port,
        _ => {
            let remedy = "give a port from 1 to 65535, such as `example.com:443`";
            return refuse(format!("`{shown}` has no port that can be"), remedy);
        }
    };
    match Identifier::parse(host) {
        Ok(host) if host.is_wildcard() => {
            let remedy = "name one host that a server answers for";
            refuse(format!("`{host}` is a wildcard, and no host"), remedy)
        }
        Ok(host) => Ok((host, port)),
        Err(error) => refuse(error.to_string(), "correct the host's name"),
    }
}

/// <https://man7.org/linux/man-pages/man7/unix.7.html>
const LONGEST_SOCKET: usize = 107;

/// One reload each second
const MOST_RELOADS: u32 = 3600;

const MOST_SAMPLES: u32 = 100;

/// Old and new processes of a server may accept side by side for a moment
const SAMPLES: u32 = 2;
