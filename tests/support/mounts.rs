//! Mounts that only a test sees, and that are gone with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{folder, program};

/// Whether the body of this test should run: the test runs itself again with mounts of its own
pub(crate) fn inside(test: &str) -> bool {
    inside_of(test, "unshare", &["--mount", "--propagation", "private"])
}

/// The same, inside another wrapper
pub(crate) fn inside_of(test: &str, wrapper: &str, arguments: &[&str]) -> bool {
    const MARK: &str = "CERTKEEP_TEST_INSIDE";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    assert!(rustix::process::geteuid().is_root(), "this test mounts and drops rights: run as root");
    let output = Command::new(program(wrapper))
        .args(arguments)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{complained}");
    false
}

/// Something mounted, until the value is dropped
#[derive(Debug)]
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// Put a tmpfs with the present content in a directory's place
    pub(crate) fn memory(at: &Path) -> Self {
        let elsewhere = folder();
        mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs"], elsewhere.path());
        let content = at.join(".");
        run("cp", &["-a".as_ref(), content.as_ref(), elsewhere.path()]);
        run("mount", &["--move".as_ref(), elsewhere.path(), at]);
        Self(at.to_owned())
    }

    /// Mount a file or a directory on itself, or on another
    pub(crate) fn bind(from: &Path, at: &Path) -> Self {
        mount(&["--bind", from.to_str().unwrap()], at);
        Self(at.to_owned())
    }

    /// Change its options
    pub(crate) fn remount(&self, options: &str) {
        mount(&["-o", &format!("remount,{options}")], &self.0);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &[&self.0]);
    }
}

fn mount(arguments: &[&str], at: &Path) {
    let mut words: Vec<&Path> = arguments.iter().map(Path::new).collect();
    words.push(at);
    run("mount", &words);
}

fn run(name: &str, arguments: &[&Path]) {
    let status = Command::new(program(name)).args(arguments).status().unwrap();
    assert!(status.success(), "{name} {arguments:?}");
}
