//! What makes a server load its files again.

mod http;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::config::fault::{At, Faults, Refused};
use crate::config::lower::deploy::{command, hook, timeout};
use crate::config::lower::{Context, path};
use crate::config::raw::{
    ArgvOr, RawContainer, RawHaproxy, RawHttpCall, RawReload, RawSignal, Text,
};
use crate::config::servers::{Server, Usual};
use crate::config::{ContainerAction, Content, Hook, Output, Process, Reload, Socket};

pub(super) fn reload(
    raw: &ArgvOr<RawReload>,
    context: &Context<'_>,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Reload, Refused> {
    let (base, default) = (context.base, context.defaults.timeout);
    let raw = match raw {
        ArgvOr::Argv(argv) => {
            return hook(command(argv, base, at, faults)?, default?).map(Reload::Command);
        }
        ArgvOr::Full(raw) => raw,
    };
    let timeout = timeout(raw.timeout.as_ref(), default, at, faults);
    let mut ways: Vec<Way<'_>> = Vec::new();
    ways.extend(raw.command.as_deref().map(Way::Command));
    ways.extend(raw.systemd.as_ref().map(Way::Systemd));
    ways.extend(raw.signal.as_ref().map(Way::Signal));
    ways.extend(raw.haproxy.as_ref().map(Way::Haproxy));
    ways.extend(raw.http.as_ref().map(Way::Http));
    ways.extend(raw.container.as_ref().map(Way::Container));
    ways.extend(raw.trigger.as_ref().map(Way::Trigger));
    ways.extend(raw.preset.map(Way::Preset));
    let reload = match ways[..] {
        [] => Err(faults.value(at, "it is not said how to reload", ADD_ONE)),
        [Way::Command(argv)] => {
            let argv = command(argv, base, &at.key("command"), faults);
            hook(argv?, timeout?).map(Reload::Command)
        }
        [Way::Container(raw)] => {
            let container = container(raw, base, &at.key("container"), faults);
            let (engine, name, action) = container?;
            Ok(Reload::Container { engine, name, action, timeout: timeout? })
        }
        [Way::Haproxy(raw)] => {
            let (socket, certificate) = haproxy(raw, base, &at.key("haproxy"), faults)?;
            Ok(Reload::Haproxy { socket, certificate, timeout: timeout? })
        }
        [Way::Http(raw)] => {
            http::call(raw, timeout, base, &at.key("http"), faults).map(Reload::Http)
        }
        [Way::Preset(server)] => {
            let usual = server.preset().reload;
            timeout.map(|timeout| match usual {
                Usual::Command(argv) => Reload::Command(usual_hook(argv, timeout)),
                Usual::Signal { signal, process, user } => {
                    let (name, user) = (process.to_owned(), Some(user.to_owned()));
                    Reload::Signal { signal, process: Process::Name { name, user, cgroup: None } }
                }
                Usual::Systemd(unit) => Reload::Systemd { unit: unit.to_owned(), timeout },
            })
        }
        [Way::Signal(raw)] => signal_to(raw, base, &at.key("signal"), faults),
        [Way::Systemd(unit)] => {
            let unit = unit_name(unit, &at.key("systemd"), faults);
            Ok(Reload::Systemd { unit: unit?, timeout: timeout? })
        }
        [Way::Trigger(text)] => {
            path::file(text, base, &at.key("trigger"), faults).map(Reload::Trigger)
        }
        _ => Err(faults.value(at, "says more than one way to reload", KEEP_ONE)),
    }?;
    let what = match reload {
        Reload::Signal { .. } => "a signal",
        Reload::Trigger(_) => "a trigger",
        _ => return Ok(reload),
    };
    if raw.timeout.is_none() {
        return Ok(reload);
    }
    let message = format!("means nothing for {what}, which takes no time");
    Err(faults.value(&at.key("timeout"), message, "take it out"))
}

/// A way to reload, as it is written
enum Way<'a> {
    Command(&'a [Text]),
    Container(&'a RawContainer),
    Haproxy(&'a RawHaproxy),
    Http(&'a RawHttpCall),
    Preset(Server),
    Signal(&'a RawSignal),
    Systemd(&'a Text),
    Trigger(&'a Text),
}

/// The check of a preset, where the configuration has none of its own
pub(super) fn usual_check(
    raw: &ArgvOr<RawReload>,
    context: &Context<'_>,
) -> Option<Result<Hook, Refused>> {
    let ArgvOr::Full(RawReload { preset: Some(server), .. }) = raw else { return None };
    let argv = server.preset().check?;
    Some(context.defaults.timeout.map(|timeout| usual_hook(argv, timeout)))
}

fn usual_hook(argv: &[&str], timeout: std::time::Duration) -> Hook {
    let mut words = argv.iter().map(|&word| word.to_owned());
    let program = words.next().unwrap_or_default();
    Hook { program: program.into(), arguments: words.collect(), timeout }
}

/// <https://www.freedesktop.org/software/systemd/man/systemd.unit.html>
fn unit_name(text: &Text, at: &At<'_>, faults: &mut Faults) -> Result<String, Refused> {
    let mut refuse = |remedy: String| {
        let message = format!("`{}` is no name of a systemd unit", text.escape_debug());
        Err(faults.value(at, message, remedy))
    };
    let sound = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
    if text.is_empty() || text.len() > 255 || text.starts_with('-') || !text.bytes().all(sound) {
        return refuse("give a name such as `nginx.service`".to_owned());
    }
    match text.rsplit_once('.') {
        Some((name, suffix)) if !name.is_empty() && SUFFIXES.contains(&suffix) => {
            Ok(text.0.clone())
        }
        _ => refuse(format!("give it with its suffix: `{}.service`", &**text)),
    }
}

fn signal_to(
    raw: &RawSignal,
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Reload, Refused> {
    let signal = raw.name.ok_or_else(|| {
        let remedy = "add `name`: `HUP`, `USR1`, `USR2` or `WINCH`";
        faults.missing(at, &["name"], "is missing", remedy)
    });
    let process = match (&raw.pid_file, &raw.process) {
        (Some(text), name) => {
            let path = path::file(text, base, &at.key("pid_file"), faults);
            let name = name.as_ref().map(|text| process_name(text, &at.key("process"), faults));
            match (&raw.user, &raw.cgroup) {
                (None, None) => {
                    path.and_then(|path| Ok(Process::PidFile { path, name: name.transpose()? }))
                }
                (user, _) => {
                    let key = if user.is_some() { "user" } else { "cgroup" };
                    let message = "chooses among processes of one name, and `pid_file` names one";
                    Err(faults.value(&at.key(key), message, "take it out, or use `process`"))
                }
            }
        }
        (None, Some(text)) => {
            let name = process_name(text, &at.key("process"), faults);
            let user = raw.user.as_ref().map(|raw| {
                let text = raw.text();
                if !text.is_empty() && !text.contains([':', '\n', '\0']) {
                    return Ok(text.into_owned());
                }
                let message = format!("`{}` can be no user's name", text.escape_debug());
                Err(faults.value(&at.key("user"), message, "give a user's name or number"))
            });
            let cgroup = raw.cgroup.as_ref().map(|text| cgroup(text, &at.key("cgroup"), faults));
            name.and_then(|name| {
                Ok(Process::Name { name, user: user.transpose()?, cgroup: cgroup.transpose()? })
            })
        }
        (None, None) => Err(faults.value(
            at,
            "it is not said who gets the signal",
            "add `pid_file: PATH` or `process: NAME`",
        )),
    };
    Ok(Reload::Signal { signal: signal?, process: process? })
}

/// The kernel keeps 15 bytes of a process's name
///
/// <https://man7.org/linux/man-pages/man5/proc_pid_comm.5.html>
fn process_name(text: &Text, at: &At<'_>, faults: &mut Faults) -> Result<String, Refused> {
    if (1..=15).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c == '/') {
        return Ok(text.0.clone());
    }
    let message = format!("`{}` can be no process's name", text.escape_debug());
    let remedy = "give the name as `ps -o comm` shows it, at most 15 characters, not a path";
    Err(faults.value(at, message, remedy))
}

/// The components of a control group's path, with `/` between
fn cgroup(text: &Text, at: &At<'_>, faults: &mut Faults) -> Result<String, Refused> {
    let components: Vec<_> = text.split('/').filter(|component| !component.is_empty()).collect();
    let sound = |component: &&str| {
        !matches!(*component, "." | "..") && !component.chars().any(char::is_control)
    };
    if !components.is_empty() && components.iter().all(sound) {
        return Ok(components.join("/"));
    }
    let message = format!("`{}` can be no part of a control group's path", text.escape_debug());
    let remedy = "give whole components of it, such as `system.slice/nginx.service`";
    Err(faults.value(at, message, remedy))
}

fn haproxy(
    raw: &RawHaproxy,
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<(Socket, Option<String>), Refused> {
    let socket = match &raw.socket {
        Some(text) => socket(text, base, &at.key("socket"), faults),
        None => {
            let remedy = "add `socket`, such as `/run/haproxy/admin.sock`";
            Err(faults.missing(at, &["socket"], "is missing", remedy))
        }
    };
    let certificate = raw.certificate.as_ref().map(|text| {
        if Reload::can_be_asked_for(text) {
            return Ok(text.0.clone());
        }
        let message = format!("`{}` cannot be asked for", text.escape_debug());
        let remedy = "give the name as `show ssl cert` lists it, without spaces, `;` and `\\`";
        Err(faults.value(&at.key("certificate"), message, remedy))
    });
    Ok((socket?, certificate.transpose()?))
}

/// A path, or a loopback address with its port, also as HAProxy writes them
fn socket(text: &Text, base: &Path, at: &At<'_>, faults: &mut Faults) -> Result<Socket, Refused> {
    if let Some(path) = text.strip_prefix("unix@") {
        return path::file(&Text(path.to_owned()), base, at, faults).map(Socket::Unix);
    }
    let address = text.strip_prefix("ipv4@").or_else(|| text.strip_prefix("ipv6@"));
    if address.is_none() && text.contains('/') {
        return path::file(text, base, at, faults).map(Socket::Unix);
    }
    match address.unwrap_or(text).parse::<SocketAddr>() {
        Ok(address) if !address.ip().is_loopback() => Err(faults.value(
            at,
            format!("`{address}` is not on this host, and the key would go there in the clear"),
            "use the stats socket's path, or a loopback address with its port",
        )),
        Ok(address) if address.port() != 0 => Ok(Socket::Tcp(address)),
        Ok(_) | Err(_) => Err(faults.value(
            at,
            format!("`{}` is neither a path nor an address with a port", text.escape_debug()),
            "give a path such as `/run/haproxy/admin.sock`, or `\"127.0.0.1:9999\"`",
        )),
    }
}

/// Whether HAProxy can be given the certificate that a target has
pub(super) fn certificate_for_haproxy(
    reload: Option<&Reload>,
    outputs: &[Output],
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<(), Refused> {
    let has = |content| outputs.iter().any(|output| output.is_plain(content));
    let sound = has(Content::Combined) || has(Content::Fullchain) && has(Content::Key);
    if sound || !matches!(reload, Some(Reload::Haproxy { .. })) {
        return Ok(());
    }
    let remedy = "add a file with `content: combined`, which HAProxy reads at its next start";
    Err(faults.value(at, "there is no file that HAProxy could be given", remedy))
}

fn container(
    raw: &RawContainer,
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<(PathBuf, String, ContainerAction), Refused> {
    let engine = match &raw.engine {
        Some(text) => path::file(text, base, &at.key("engine"), faults),
        None => Ok(PathBuf::from(DOCKER)),
    };
    let name = match &raw.name {
        Some(text) => container_name(text, &at.key("name"), faults),
        None => {
            let remedy = "add `name`, as `docker ps` shows it";
            Err(faults.missing(at, &["name"], "is missing", remedy))
        }
    };
    let action = match (raw.signal, &raw.exec) {
        (Some(signal), None) => Ok(ContainerAction::Kill(signal)),
        (None, Some(argv)) => in_container(argv, &at.key("exec"), faults),
        (None, None) => Err(faults.value(
            at,
            "it is not said what to do with the container",
            "add `signal: HUP` or `exec: [nginx, -s, reload]`",
        )),
        (Some(_), Some(_)) => {
            let message = "has both `signal` and `exec`";
            Err(faults.value(at, message, "keep the one that the server reloads on"))
        }
    };
    Ok((engine?, name?, action?))
}

/// It becomes a part of the path of a request
///
/// <https://docs.docker.com/reference/cli/docker/container/run/#name>
fn container_name(text: &Text, at: &At<'_>, faults: &mut Faults) -> Result<String, Refused> {
    let sound = text.len() <= 255
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if sound {
        return Ok(text.0.clone());
    }
    let message = format!("`{}` can be no container's name", text.escape_debug());
    let remedy = "give the name as `docker ps` shows it: letters, digits and `_`, `.`, `-`";
    Err(faults.value(at, message, remedy))
}

/// A command that is found in the container, where paths mean something else
fn in_container(
    argv: &[Text],
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<ContainerAction, Refused> {
    match argv.split_first() {
        None => {
            let remedy = "name the program and its arguments: `[nginx, -s, reload]`";
            Err(faults.value(at, "is empty", remedy))
        }
        Some((program, _)) if program.is_empty() || program.contains(char::is_whitespace) => {
            let message = format!("`{}` is no program", program.escape_debug());
            let remedy = "make each word an entry of its own: `[nginx, -s, reload]`";
            Err(faults.value(&at.index(0), message, remedy))
        }
        Some(_) => Ok(ContainerAction::Exec(argv.iter().map(|text| text.0.clone()).collect())),
    }
}

const ADD_ONE: &str = "add `preset: nginx` or another known server, `command: [...]`, \
                       `systemd: UNIT`, `signal: {...}`, `haproxy: {...}`, `http: {...}`, \
                       `container: {...}` or `trigger: PATH`";

const KEEP_ONE: &str = "keep one of `preset`, `command`, `systemd`, `signal`, `haproxy`, `http`, \
                        `container` and `trigger`";

const SUFFIXES: [&str; 6] = ["service", "socket", "target", "path", "timer", "scope"];

const DOCKER: &str = "/run/docker.sock";
