//! Signalling a server's process, and never one that got its number in the meantime: a handle is
//! held while it is looked at. Whose number an old pid file has, only the name of the process tells.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open, pidfd_send_signal};
use tokio::task::spawn_blocking;

use super::pid_file::PidFile;
use crate::config::{Process, Signal};
use crate::failure::{Failure, Step};

/// Find the process and send it the signal
pub(super) async fn send(signal: Signal, process: &Process) -> Result<(), Failure> {
    let process = process.clone();
    let sent = spawn_blocking(move || match &process {
        Process::PidFile { path, name } => send_to_pid_file(signal, path, name.as_deref()),
        Process::Name { name, user, cgroup } => {
            send_to_name(signal, name, &Filter::new(user.as_deref(), cgroup.as_deref())?)
        }
    });
    let died = |error| Failure::retry(Step::Reload, format!("the signal was not sent: {error}"));
    sent.await.map_err(died)?
}

/// Say whether nobody else chose the process, and the user is known that it is to run as
pub(super) fn preflight(process: &Process) -> Result<(), Failure> {
    match process {
        Process::PidFile { path, .. } => {
            let file = PidFile::read(path, Step::Prepare)?;
            let chosen = file.and_then(|file| Some((file.pid?, file)));
            // Of one that does not run now, nobody knows whose it will be.
            chosen.map_or(Ok(()), |(pid, file)| match owner_of(pid) {
                Ok(owner) => file.chooses(pid, owner, Step::Prepare),
                Err(_) => Ok(()),
            })
        }
        Process::Name { user, cgroup, .. } => Filter::new(user.as_deref(), cgroup.as_deref())
            .map(drop)
            .map_err(|failure| Failure { step: Step::Prepare, ..failure }),
    }
}

fn send_to_pid_file(signal: Signal, path: &Path, name: Option<&str>) -> Result<(), Failure> {
    let shown = path.display();
    let Some(file) = PidFile::read(path, Step::Reload)? else {
        return Err(retry(format!("there is no {shown}: the server does not run")));
    };
    let Some(pid) = file.pid else {
        return Err(retry(format!("{shown} does not begin with the number of a process")));
    };
    let target = Target::open(pid)?;
    file.chooses(pid, target.owner, Step::Reload)?;
    // The handle is held: what is read now is of the process that gets the signal.
    let stat = fs::read(format!("/proc/{pid}/stat"));
    let process = stat.as_ref().ok().and_then(|stat| parse_stat(pid.as_raw_nonzero().get(), stat));
    match (process, name) {
        (Some(process), Some(name)) if !is_called(&process.name, name) => {
            let (name, other) = (name.escape_debug(), process.name.escape_ascii());
            Err(retry(format!(
                "process {pid} is called `{other}` and not `{name}`: the server of {shown} does \
                 not run"
            )))
        }
        // One that ended takes signals until its parent has noticed.
        (None, _) if stat.is_ok() => Err(retry(format!("process {pid} of {shown} has ended"))),
        (None, Some(name)) => {
            let name = name.escape_debug();
            Err(Failure::needs_operator(
                Step::Reload,
                format!("certkeep cannot see whether process {pid} is called `{name}`"),
                "let it see other users' processes: /proc is mounted with `hidepid`, or the unit \
                 has `ProtectProc`",
            ))
        }
        _ => target.send(signal),
    }
}

fn send_to_name(signal: Signal, name: &str, filter: &Filter<'_>) -> Result<(), Failure> {
    let matching = processes_called(name)
        .map_err(|error| retry(format!("cannot look through the processes: {error}")))?;
    let masters: Vec<_> = matching
        .iter()
        .filter(|process| matching.iter().all(|other| other.pid != process.parent))
        .filter(|process| filter.takes(process.pid))
        .collect();
    let name = name.escape_debug();
    let master = match masters[..] {
        [] => return Err(retry(format!("no process called `{name}` runs{filter}"))),
        [master] => master,
        _ => {
            let pids: Vec<_> = masters.iter().map(|process| process.pid.to_string()).collect();
            return Err(Failure::needs_operator(
                Step::Reload,
                format!(
                    "{} servers called `{name}` run{filter}: {}",
                    masters.len(),
                    pids.join(", ")
                ),
                "name its pid file or its systemd unit in place of the process, \
                 or its `user` or `cgroup` beside it",
            ));
        }
    };
    let pid = Pid::from_raw(master.pid);
    let target = Target::open(pid.ok_or_else(|| retry("there is no process 0".into()))?)?;
    // The handle is held: if the number still means what was found, so does the handle.
    if read_process(master.pid).as_ref() != Some(master) || !filter.takes(master.pid) {
        return Err(retry(format!("process {} ended before it was signalled", master.pid)));
    }
    target.send(signal)
}

/// Which of several processes of one name is meant
struct Filter<'a> {
    user: Option<(&'a str, u32)>,
    cgroup: Option<&'a str>,
}

impl<'a> Filter<'a> {
    fn new(user: Option<&'a str>, cgroup: Option<&'a str>) -> Result<Self, Failure> {
        let Some(name) = user else { return Ok(Self { user: None, cgroup }) };
        let uid = name.parse().ok().or_else(|| {
            let users = fs::read("/etc/passwd").ok()?;
            String::from_utf8_lossy(&users).lines().find_map(|line| user_id(line, name))
        });
        match uid {
            Some(uid) => Ok(Self { user: Some((name, uid)), cgroup }),
            None => Err(Failure::needs_operator(
                Step::Reload,
                format!("/etc/passwd has no user `{}`", name.escape_debug()),
                "give the user's number, or the name that the server runs as",
            )),
        }
    }

    fn takes(&self, pid: i32) -> bool {
        let has = |file: &str, sound: &dyn Fn(&str) -> bool| {
            fs::read(format!("/proc/{pid}/{file}"))
                .is_ok_and(|text| String::from_utf8_lossy(&text).lines().any(sound))
        };
        // Not whose the entry is: that is root once a process has changed its user.
        let user = self
            .user
            .is_none_or(|(_, uid)| has("status", &|line| effective_user(line) == Some(uid)));
        user && self.cgroup.is_none_or(|part| has("cgroup", &|line| is_in_cgroup(line, part)))
    }
}

impl std::fmt::Display for Filter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some((name, _)) = self.user {
            write!(f, " as user `{}`", name.escape_debug())?;
        }
        match self.cgroup {
            Some(cgroup) => write!(f, " in the control group `{}`", cgroup.escape_debug()),
            None => Ok(()),
        }
    }
}

/// The number in a line of passwd(5), if it is about this name
fn user_id(line: &str, name: &str) -> Option<u32> {
    let mut fields = line.split(':');
    (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
}

/// `Uid: REAL EFFECTIVE SAVED FILESYSTEM`
fn effective_user(line: &str) -> Option<u32> {
    line.strip_prefix("Uid:")?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Whether the path in `NUMBER:CONTROLLERS:PATH` begins or ends with these whole components
///
/// <https://man7.org/linux/man-pages/man7/cgroups.7.html>
fn is_in_cgroup(line: &str, part: &str) -> bool {
    let Some(path) = line.splitn(3, ':').nth(2) else { return false };
    let path: Vec<_> = path.split('/').filter(|component| !component.is_empty()).collect();
    let part: Vec<_> = part.split('/').collect();
    path.starts_with(&part) || path.ends_with(&part)
}

/// A line of the process table
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    pid: i32,
    parent: i32,
    /// In ticks since the system started; with the pid, it means one process for ever
    started: u64,
    /// At most 15 bytes
    name: Vec<u8>,
}

/// Whether the kernel would show this name so
pub(crate) fn is_called(comm: &[u8], name: &str) -> bool {
    let name = name.as_bytes();
    comm == name.get(..COMM_LEN).unwrap_or(name)
}

fn processes_called(name: &str) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let pid = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        found.extend(pid.and_then(read_process).filter(|process| is_called(&process.name, name)));
    }
    Ok(found)
}

/// `None` when it has ended
fn read_process(pid: i32) -> Option<Entry> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(pid, &stat)
}

/// <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>
fn parse_stat(pid: i32, stat: &[u8]) -> Option<Entry> {
    // The name may have spaces and parentheses in it, and nothing after it has any.
    let begin = stat.iter().position(|byte| *byte == b'(')?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let name = stat.get(begin + 1..end)?.to_owned();
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // The first two fields are gone, and the two of the pid and the name before them.
    let started = fields.nth(STARTTIME - 5)?.parse().ok()?;
    (!matches!(state, "Z" | "X" | "x")).then_some(Entry { pid, parent, started, name })
}

/// A process that is held, so that its number cannot become another's unseen
struct Target {
    pid: Pid,
    handle: OwnedFd,
    owner: u32,
}

impl Target {
    fn open(pid: Pid) -> Result<Self, Failure> {
        if pid == getpid() {
            return Err(Failure::needs_operator(
                Step::Reload,
                format!("process {pid} is certkeep itself"),
                "name the server's own pid file or process",
            ));
        }
        let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| match error {
            Errno::SRCH => retry(format!("process {pid} does not run")),
            Errno::INVAL => retry(format!("{pid} is a thread and no process")),
            _ => retry(format!("cannot hold process {pid}: {error}")),
        })?;
        let owner = owner_of(pid)
            .map_err(|error| retry(format!("cannot look at process {pid}: {error}")))?;
        Ok(Self { pid, handle, owner })
    }

    fn send(&self, signal: Signal) -> Result<(), Failure> {
        let Self { pid, owner, .. } = self;
        // One that has just begun does not handle it yet, and a stranger may never do so.
        let given_up = Instant::now() + STARTING;
        while ends(*pid, signal) {
            if Instant::now() >= given_up {
                let name = format!("{signal:?}").to_uppercase();
                return Err(Failure::needs_operator(
                    Step::Reload,
                    format!("process {pid} does not handle SIG{name}, which would end it"),
                    "name the process and the signal by which the server loads its files",
                ));
            }
            std::thread::sleep(PAUSE);
        }
        pidfd_send_signal(&self.handle, number(signal)).map_err(|error| match error {
            Errno::SRCH => retry(format!("process {pid} ended before it was signalled")),
            Errno::PERM => Failure::needs_operator(
                Step::Reload,
                format!("certkeep may not signal process {pid} of user {owner}"),
                "run certkeep as root or as that user, or give it CAP_KILL",
            ),
            _ => retry(format!("process {pid} cannot be signalled: {error}")),
        })
    }
}

/// Whether the signal would end the process, as far as can be seen
fn ends(pid: Pid, signal: Signal) -> bool {
    // What it does by itself is nothing.
    signal != Signal::Winch
        && fs::read(format!("/proc/{pid}/status"))
            .is_ok_and(|status| has_no_use_for(&String::from_utf8_lossy(&status), signal))
}

/// Whether a signal is neither blocked, to be waited for, nor ignored, nor caught
///
/// <https://man7.org/linux/man-pages/man5/proc_pid_status.5.html>
fn has_no_use_for(status: &str, signal: Signal) -> bool {
    let bit = 1_u64 << (number(signal).as_raw() - 1);
    let mask = |name: &str| {
        let digits = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(digits.trim(), 16).ok()
    };
    let masks = ["SigBlk:", "SigIgn:", "SigCgt:"].map(mask);
    masks.iter().all(|mask| mask.is_some_and(|mask| mask & bit == 0))
}

fn owner_of(pid: Pid) -> io::Result<u32> {
    Ok(fs::metadata(format!("/proc/{pid}"))?.uid())
}

const fn number(signal: Signal) -> rustix::process::Signal {
    match signal {
        Signal::Hup => rustix::process::Signal::HUP,
        Signal::Usr1 => rustix::process::Signal::USR1,
        Signal::Usr2 => rustix::process::Signal::USR2,
        Signal::Winch => rustix::process::Signal::WINCH,
    }
}

fn retry(summary: String) -> Failure {
    Failure::retry(Step::Reload, summary)
}

/// How long a server may take from its start until it handles signals
const STARTING: Duration = Duration::from_secs(5);

/// How long is waited between two looks at one that starts
const PAUSE: Duration = Duration::from_millis(20);

/// How much of a name the kernel keeps, in bytes
const COMM_LEN: usize = 15;

/// The number of the field that says when a process started, counted from 1
const STARTTIME: usize = 22;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_parentheses_and_spaces_does_not_shift_the_fields() {
        let stat = |name: &str, state: &str| {
            let zeros = "0 ".repeat(STARTTIME - 5);
            format!("42 ({name}) {state} 7 {zeros}12345 99 98\n").into_bytes()
        };
        for name in ["nginx", "a b", ") S 1 (", "(((", "x\ny"] {
            let entry = parse_stat(42, &stat(name, "S")).unwrap();
            let expected = Entry { pid: 42, parent: 7, started: 12345, name: name.into() };
            assert_eq!(entry, expected, "{name:?}");
        }
        assert_eq!(parse_stat(42, &stat("nginx", "Z")), None);
        for garbage in [&b""[..], b"42", b"42 (a", b"42 )a( S 1", b"42 (a) S x", b"42 (a) S 1 2"] {
            assert_eq!(parse_stat(42, garbage), None, "{}", garbage.escape_ascii());
        }
    }

    #[test]
    fn a_control_group_is_known_by_whole_components() {
        let unit = "0::/system.slice/nginx.service";
        let container = "12:pids:/docker/0123456789ab/init";
        let cases = [
            (unit, "nginx.service", true),
            (unit, "system.slice/nginx.service", true),
            (unit, "system.slice", true),
            (unit, "service", false),
            (unit, "x.service", false),
            (unit, "slice/nginx.service", false),
            (unit, "system.slice/nginx", false),
            (unit, "a/system.slice/nginx.service", false),
            (container, "docker/0123456789ab", true),
            (container, "0123456789ab/init", true),
            (container, "0123456789ab", false),
            ("0::/", "system.slice", false),
            ("garbage", "garbage", false),
        ];
        for (line, part, expected) in cases {
            assert_eq!(is_in_cgroup(line, part), expected, "{line:?} {part:?}");
        }
    }

    #[test]
    fn a_user_is_the_effective_one() {
        assert_eq!(effective_user("Uid:\t0\t101\t101\t101"), Some(101));
        assert_eq!(effective_user("Gid:\t0\t101\t101\t101"), None);
        assert_eq!(user_id("postgres:x:114:120::/:/bin/sh", "postgres"), Some(114));
        assert_eq!(user_id("postgres:x:114:120::/:/bin/sh", "post"), None);
        assert_eq!(user_id("postgres", "postgres"), None);
    }

    #[test]
    fn a_signal_is_of_use_where_it_is_blocked_ignored_or_caught() {
        let status = |masks: [u64; 3]| {
            let [blocked, ignored, caught] = masks;
            format!(
                "ShdPnd:\t0000000000000000\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\n\
                 SigCgt:\t{caught:016x}\n"
            )
        };
        let (hup, usr1) = (1, 1 << 9);
        assert!(has_no_use_for(&status([0, 0, 0]), Signal::Hup));
        assert!(has_no_use_for(&status([0, 0, hup]), Signal::Usr1));
        for masks in [[usr1, 0, 0], [0, usr1, 0], [0, 0, usr1]] {
            assert!(!has_no_use_for(&status(masks), Signal::Usr1));
            assert!(has_no_use_for(&status(masks), Signal::Hup));
        }
        assert!(!has_no_use_for("garbage", Signal::Hup), "what cannot be seen forbids nothing");
    }

    #[test]
    fn our_own_entry_is_read_as_the_kernel_writes_it() {
        let us = std::process::id().try_into().unwrap();
        let entry = read_process(us).unwrap();
        let comm = fs::read("/proc/self/task/".to_owned() + &us.to_string() + "/comm").unwrap();
        assert_eq!(entry.name, comm.trim_ascii_end());
        assert_eq!(entry.parent, rustix::process::getppid().unwrap().as_raw_nonzero().get());
        assert!(entry.started > 0);
    }
}
