//! A test that has `/etc`, `/run`, `/var/log` and the table of processes for itself.
//!
//! So a server can be where its package puts it, and this machine knows nothing of it.

use std::process::{Command, Stdio};

use super::{program, target};

/// Whether this is the process within; the one outside has run it to its end
///
/// # Panics
///
/// When the test of this name failed within.
#[track_caller]
pub(crate) fn enter(test: &str) -> bool {
    if std::env::var_os(WITHIN).is_some() {
        furnish();
        return true;
    }
    let mut again = Command::new(program("timeout"));
    again
        .args(["--kill-after=5", "120", "unshare"])
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(WITHIN, "yes")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let output = again.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{test}: {said}");
    false
}

fn furnish() {
    for place in ["/run", "/var/log", "/var/spool", "/usr/local/bin", "/mnt"] {
        run(&["mount", "-t", "tmpfs", "-o", "mode=755", "none", place]);
    }
    run(&["cp", "-a", "/etc", "/mnt/etc"]);
    run(&["mount", "--bind", "/mnt/etc", "/etc"]);
    let caddy = target().join("caddy/usr/bin/caddy");
    super::write("/usr/local/bin/caddy", "");
    run(&["mount", "--bind", caddy.to_str().unwrap(), "/usr/local/bin/caddy"]);
}

/// Run a command that must end well
#[track_caller]
pub(crate) fn run(argv: &[&str]) {
    // Not into a pipe, which a server that it leaves behind would hold open.
    let said = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    let output = || said.reopen().unwrap();
    let mut command = Command::new(program(argv[0]));
    command.args(&argv[1..]).stdin(Stdio::null()).stdout(output()).stderr(output());
    let status = command.status().unwrap();
    assert!(status.success(), "{argv:?}: {}", super::read(said.path()));
}

const WITHIN: &str = "CERTKEEP_TESTS_WITHIN";
