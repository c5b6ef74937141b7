//! What this user may not or cannot do to servers: found by `check`, before a reload needs it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, geteuid, test_kill_process};
use tokio::process::Command;
use tokio::time::timeout;

use crate::cli::finding::Finding;
use crate::config::{Process, Reload};
use crate::deploy;

/// Whether a server can be reloaded, without reloading it; a command is for `deploy::preflight`
pub(crate) fn reload(about: &str, reload: &Reload) -> Option<Finding> {
    match reload {
        Reload::Signal { process: Process::PidFile { path, name }, .. } => {
            in_file(about, path, name.as_deref())
        }
        // Which of several it is, only the reload finds out.
        Reload::Signal { process: Process::Name { name, user: None, cgroup: None }, .. } => {
            called(about, name)
        }
        Reload::Systemd { unit, .. } => unit_of(about, unit),
        _ => None,
    }
}

fn in_file(about: &str, path: &Path, name: Option<&str>) -> Option<Finding> {
    // What is wrong with the file itself is said already.
    let Some(pid) = deploy::process_in(path).ok()? else {
        return Some(Finding::info(
            about,
            unknown(&format!("{} names no process", path.display())),
        ));
    };
    let comm = std::fs::read(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    match (name, comm) {
        (Some(name), Ok(comm)) if !deploy::is_called(comm.trim_ascii_end(), name) => {
            let (name, path) = (name.escape_debug(), path.display());
            let why = format!("the process that {path} names is not called `{name}`");
            Some(Finding::info(about, unknown(&why)))
        }
        _ => signalled(about, pid),
    }
}

fn called(about: &str, name: &str) -> Option<Finding> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|process| {
        let number = process.file_name().to_str()?.parse().ok()?;
        let comm = std::fs::read(process.path().join("comm")).ok()?;
        Pid::from_raw(number).filter(|_| deploy::is_called(comm.trim_ascii_end(), name))
    });
    match pids.next() {
        Some(pid) => signalled(about, pid),
        None => {
            let name = name.escape_debug();
            Some(Finding::info(about, unknown(&format!("no process called `{name}` runs"))))
        }
    }
}

fn unknown(why: &str) -> String {
    format!("{why} now, so whether it may be signalled is not known")
}

/// Whether we may send a process a signal
fn signalled(about: &str, pid: Pid) -> Option<Finding> {
    if test_kill_process(pid) != Err(Errno::PERM) {
        return None;
    }
    let number = pid.as_raw_nonzero();
    let owner = std::fs::metadata(format!("/proc/{number}")).ok();
    let owner = owner.map_or_else(|| "another user".to_owned(), |it| format!("user {}", it.uid()));
    let us = geteuid().as_raw();
    Some(Finding::wrong(
        about,
        format!("process {number} belongs to {owner}, and user {us} may not signal it"),
        ELSEWHERE,
    ))
}

/// Whether systemd takes a wish for a reload from us
fn unit_of(about: &str, unit: &str) -> Option<Finding> {
    if geteuid().is_root() {
        return None;
    }
    let us = geteuid().as_raw();
    // Without it systemd takes wishes from root alone.
    if !Path::new(POLKIT).exists() {
        let message = format!("user {us} may not reload {unit}: there is no polkit to allow it");
        return Some(Finding::wrong(about, message, ELSEWHERE));
    }
    let message = format!(
        "user {us} may reload {unit} only if a rule of polkit allows it; \
         `certkeep deploy --test` tries it"
    );
    Some(Finding::info(about, message))
}

/// Whether systemd knows a unit; where it does not answer, that is not known
pub(crate) async fn unit(about: &str, unit: &str) -> Option<Finding> {
    let asked = Command::new("/bin/systemctl")
        .args(["show", "-P", "LoadState", "--", unit])
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let answer = timeout(PATIENCE, asked).await.ok()?.ok()?;
    if !answer.status.success() || answer.stdout.trim_ascii() != b"not-found" {
        return None;
    }
    Some(Finding::wrong(
        about,
        format!("systemd knows no unit `{}`", unit.escape_debug()),
        "name the server's unit as `systemctl list-units` shows it",
    ))
}

/// How long systemd may take to answer
const PATIENCE: Duration = Duration::from_secs(5);

const ELSEWHERE: &str = "run certkeep as root, or let the reload touch a file that a path unit of \
                         systemd waits for, as systemd/README.md shows";

const POLKIT: &str = "/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service";
