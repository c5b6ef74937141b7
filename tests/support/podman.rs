//! Containers, and an engine that speaks Docker's API.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tempfile::TempDir;

use super::process::Daemon;
use super::{PATIENCE, folder, program, target, wait_until};

/// Podman with an API socket; its containers are gone with it
#[derive(Debug)]
pub(crate) struct Engine {
    folder: TempDir,
    containers: Vec<String>,
    _service: Daemon,
}

impl Engine {
    /// Start it, and return when its socket is there
    pub(crate) fn start() -> Self {
        image();
        let folder = folder();
        let socket = folder.path().join("engine.sock");
        let mut command = podman();
        command.args(["system", "service", "--time", "0"]);
        command.arg(format!("unix://{}", socket.display()));
        let service = Daemon::start(&mut command, &folder.path().join("engine.log")).unwrap();
        wait_until("the engine answers", PATIENCE, || {
            std::os::unix::net::UnixStream::connect(&socket).ok()
        });
        Self { folder, containers: Vec::new(), _service: service }
    }

    /// Its API
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("engine.sock")
    }

    /// Start a container on the host's network that sees these folders, and tell its name
    pub(crate) fn run(&mut self, more: &[&str], folders: &[&Path], argv: &[&str]) -> String {
        let number = self.containers.len();
        let name = format!("certkeep-{}-{number}", unique(self.folder.path()));
        let output = self.prepare(&["--detach", "--name", &name], more, folders, argv);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman run {argv:?}: {said}");
        self.containers.push(name.clone());
        name
    }

    /// Run a container to its end
    pub(crate) fn finish(&self, more: &[&str], folders: &[&Path], argv: &[&str]) -> Output {
        self.prepare(&["--rm"], more, folders, argv)
    }

    fn prepare(&self, how: &[&str], more: &[&str], folders: &[&Path], argv: &[&str]) -> Output {
        let mut command = podman();
        command.arg("run").args(how);
        command.args(["--network", "host", "--ulimit", "nofile=1024:1024"]);
        command.args(["--ulimit", "nproc=1024:1024"]).args(more);
        for folder in folders {
            command.arg(format!("--volume={0}:{0}", folder.display()));
        }
        command.arg(IMAGE).args(argv).output().unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The last first: it may live in the namespaces of the others.
        for name in self.containers.iter().rev() {
            drop(podman().args(["rm", "--force", "--time", "0", name]).output());
        }
    }
}

/// Lay out the image once, from the machine of the systemd tests
fn image() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        if podman().args(["image", "exists", IMAGE]).status().unwrap().success() {
            return;
        }
        let root = target().join("systemd-root");
        assert!(root.join("complete").exists(), "{} is missing: run tests/peers", root.display());
        let mut tar = Command::new(program("tar"));
        tar.arg("-C").arg(root.join("tree")).args(["-c", "."]);
        let mut tar = tar.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let image = tar.stdout.take().unwrap();
        let output = podman().args(["import", "-", IMAGE]).stdin(image).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && tar.wait().unwrap().success(), "{said}");
    });
}

/// With its own storage, so that nothing of it is left on this machine
fn podman() -> Command {
    let storage = target().join("tmp/podman");
    let mut command = Command::new(program("podman"));
    command
        .args(["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "none"])
        // Its mount would stay, and be in the way of whoever removes the target directory.
        .args(["--storage-driver", "overlay", "--storage-opt", "overlay.skip_mount_home=true"])
        .arg("--root")
        .arg(storage.join("storage"))
        .arg("--runroot")
        .arg(storage.join("run"));
    command
}

fn unique(folder: &Path) -> &str {
    folder.file_name().unwrap().to_str().unwrap().trim_start_matches("certkeep-")
}

const IMAGE: &str = "certkeep-tests";
