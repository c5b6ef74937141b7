//! What a service manager hears from the compiled binary. `tests/systemd.rs` has a real one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Signal;
use support::process::Daemon;
use support::{folder, wait_until, write};
use tempfile::TempDir;

#[test]
fn a_hangup_is_answered_with_reloading_and_ready() {
    let mut manager = Manager::start(None);
    let ready = manager.heard("READY=1");
    assert!(ready.contains("STATUS=0 of 1 certificates live"), "{ready}");
    manager.agent.signal(Signal::HUP);
    let reloading = manager.heard("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.heard("READY=1");
    manager.agent.signal(Signal::TERM);
    manager.heard("STOPPING=1");
    assert!(manager.agent.wait(LONG).success(), "{}", manager.agent.log());
}

#[test]
fn a_wrong_change_shows_in_the_status_until_it_is_put_right() {
    let manager = Manager::start(None);
    manager.heard("READY=1");
    write(manager.configuration(), "certificates: {");
    manager.heard("the changed configuration is refused");
    manager.configure();
    manager.agent.signal(Signal::HUP);
    manager.heard("RELOADING=1");
    let status = manager.heard("STATUS=");
    assert!(!status.contains("refused"), "{status}");
}

#[test]
fn every_wrong_change_is_told_and_told_again_to_who_asks() {
    let manager = Manager::start(None);
    manager.heard("READY=1");
    let told = |mistake: &str, times: usize| {
        wait_until(mistake, LONG, || {
            (manager.agent.log().matches(mistake).count() == times).then_some(())
        });
    };
    let good = configuration(&manager.folder);
    for mistake in ["first_mistake", "second_mistake"] {
        write(manager.configuration(), format!("{good}{mistake}: true\n"));
        told(mistake, 1);
    }
    manager.agent.signal(Signal::HUP);
    told("second_mistake", 2);
    manager.configure();
    told("the changed configuration is in force", 1);
    let elsewhere = good.replace("/state\n", "/elsewhere\n");
    write(manager.configuration(), elsewhere);
    told("`state_dir` cannot change", 1);
    manager.agent.signal(Signal::HUP);
    told("`state_dir` cannot change", 2);
}

#[test]
fn the_watchdog_is_fed_by_nothing_but_the_loop() {
    let manager = Manager::start(Some(Duration::from_millis(100)));
    for _ in 0..5 {
        manager.heard("WATCHDOG=1");
    }
    // Reading this holds the loop until somebody writes.
    let pipe = manager.folder.path().join("pipe");
    rustix::fs::mkfifoat(CWD, &pipe, Mode::RWXU).unwrap();
    std::fs::rename(&pipe, manager.configuration()).unwrap();
    manager.agent.signal(Signal::HUP);
    let writer = wait_until("the loop reads it", LONG, || {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(manager.configuration(), flags, Mode::empty()).ok()
    });
    manager.forget();
    assert!(manager.next(Duration::from_secs(1)).is_none(), "the loop hangs, and somebody feeds");
    drop(writer);
    manager.heard("WATCHDOG=1");
}

/// A service manager of one service
struct Manager {
    agent: Daemon,
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    /// One that starts the agent, with a CA that nobody reaches
    fn start(watchdog: Option<Duration>) -> Self {
        let folder = folder();
        let notify = folder.path().join("notify");
        let socket = UnixDatagram::bind(&notify).unwrap();
        write(folder.path().join("certkeep.yaml"), configuration(&folder));
        let mut command = Command::new(env!("CARGO_BIN_EXE_certkeep"));
        command.arg("--config").arg(folder.path().join("certkeep.yaml")).arg("run");
        command.env("NOTIFY_SOCKET", &notify);
        if let Some(limit) = watchdog {
            command.env("WATCHDOG_USEC", limit.as_micros().to_string());
        }
        let agent = Daemon::start(&mut command, &folder.path().join("log")).unwrap();
        Self { agent, socket, folder }
    }

    fn configuration(&self) -> PathBuf {
        self.folder.path().join("certkeep.yaml")
    }

    fn configure(&self) {
        write(self.configuration(), configuration(&self.folder));
    }

    /// The next message that has this in it
    #[track_caller]
    fn heard(&self, part: &str) -> String {
        let deadline = Instant::now() + LONG;
        while let Some(message) = self.next(deadline.saturating_duration_since(Instant::now())) {
            if message.contains(part) {
                return message;
            }
        }
        panic!("never heard {part}:\n{}", self.agent.log())
    }

    fn next(&self, within: Duration) -> Option<String> {
        let within = within.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(within)).unwrap();
        let mut message = [0; 4096];
        match self.socket.recv(&mut message) {
            Ok(length) => Some(String::from_utf8(message[..length].to_vec()).unwrap()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Pass over what was said until now
    fn forget(&self) {
        while self.next(Duration::ZERO).is_some() {}
    }
}

fn configuration(folder: &TempDir) -> String {
    let folder = folder.path().display();
    format!(
        "state_dir: {folder}/state\n\
         issuers:\n  nobody: {{ directory: \"https://127.0.0.1:1/dir\", accept_terms: true }}\n\
         certificates:\n  site: {{ names: [site.test], dir: {folder}/site }}\n"
    )
}

const LONG: Duration = Duration::from_secs(20);
