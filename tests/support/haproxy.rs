//! HAProxy, whose certificates can be exchanged while it runs.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use certkeep::cert::Fingerprint;
use rustix::process::Signal;
use tempfile::TempDir;

use super::process::Daemon;
use super::{PATIENCE, client, folder, free_port, loopback, program, wait_until, write};

/// A HAProxy that runs, with a configuration of its own
#[derive(Debug)]
pub(crate) struct Haproxy {
    folder: TempDir,
    sites: Vec<SocketAddr>,
    api: SocketAddr,
    master: Daemon,
}

/// How a HAProxy shall be
#[derive(Clone, Debug)]
#[must_use]
pub(crate) struct Manner {
    certificates: Vec<PathBuf>,
    level: &'static str,
    unprivileged: bool,
}

/// Begin with a master and its worker, and one site for each of these files
pub(crate) fn haproxy(certificates: &[&Path]) -> Manner {
    let certificates = certificates.iter().map(|path| path.to_path_buf()).collect();
    Manner { certificates, level: "admin", unprivileged: false }
}

impl Manner {
    /// Let its runtime API look, and change nothing
    pub(crate) fn for_operators(mut self) -> Self {
        self.level = "operator";
        self
    }

    /// Run as nobody from the start
    pub(crate) fn run_by_nobody(mut self) -> Self {
        self.unprivileged = true;
        self
    }

    /// Start it, and return when it answers
    pub(crate) fn start(self) -> Haproxy {
        // Between choosing a port and binding it, another process may take it.
        for _ in 0..5 {
            if let Some(haproxy) = self.try_start() {
                return haproxy;
            }
        }
        panic!("five HAProxies in a row did not start");
    }

    fn try_start(&self) -> Option<Haproxy> {
        let folder = folder();
        let ip = loopback();
        let address = || SocketAddr::new(ip, free_port(ip));
        let sites: Vec<_> = self.certificates.iter().map(|_| address()).collect();
        let api = address();
        let mut haproxy = Command::new(program("haproxy"));
        if self.unprivileged {
            let sticky = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
            std::fs::set_permissions(folder.path(), sticky).unwrap();
            haproxy = Command::new(program("setpriv"));
            haproxy.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
            haproxy.arg(program("haproxy"));
        }
        let configuration = folder.path().join("haproxy.cfg");
        write(&configuration, self.settings(folder.path(), &sites, api));
        haproxy.args(["-W", "-db", "-f"]).arg(configuration);
        let master = Daemon::start(&mut haproxy, &folder.path().join("output.log")).unwrap();
        let mut haproxy = Haproxy { folder, sites, api, master };
        let up = wait_until("HAProxy answers", PATIENCE, || {
            if haproxy.master.ended().is_some() {
                return Some(false);
            }
            haproxy.sites.iter().all(|site| client::served(*site, "a.test").is_ok()).then_some(true)
        });
        let said = haproxy.master.log();
        assert!(up || said.contains("cannot bind socket"), "HAProxy did not start: {said}");
        up.then_some(haproxy)
    }

    fn settings(&self, folder: &Path, sites: &[SocketAddr], api: SocketAddr) -> String {
        let (folder, level) = (folder.display(), self.level);
        let mut settings = format!(
            "global\n  stats socket {folder}/admin.sock mode 600 level {level}\n  \
             stats socket ipv4@{api} level {level}\ndefaults\n  mode http\n  \
             timeout connect 5s\n  timeout client 30s\n  timeout server 5s\n"
        );
        for (certificate, address) in self.certificates.iter().zip(sites) {
            writeln!(
                settings,
                "frontend site{}\n  bind {address} ssl crt {}\n  http-request return status 200",
                address.port(),
                certificate.display()
            )
            .unwrap();
        }
        settings
    }
}

impl Haproxy {
    /// The leaf that it serves for one of its files
    pub(crate) fn serves(&self, site: usize) -> Fingerprint {
        client::served(self.sites[site], "a.test").unwrap()
    }

    /// Where it serves one of its files
    pub(crate) fn address(&self, site: usize) -> SocketAddr {
        self.sites[site]
    }

    /// Its runtime API
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// Its runtime API over TCP
    pub(crate) fn api(&self) -> SocketAddr {
        self.api
    }

    /// A `check:` for certkeep's configuration, as a YAML list
    pub(crate) fn check(&self) -> String {
        let configuration = self.folder.path().join("haproxy.cfg");
        format!("[{}, -c, -q, -f, {}]", program("haproxy").display(), configuration.display())
    }

    /// What its runtime API answers
    pub(crate) fn ask(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        // In one piece: HAProxy may hang up as soon as it has read a whole command.
        stream.write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The number of the process that serves
    pub(crate) fn worker(&self) -> String {
        let info = self.ask("show info");
        info.lines().find_map(|line| line.strip_prefix("Pid: ")).unwrap().to_owned()
    }

    /// Let it read its files again, with a new worker
    pub(crate) fn reload_by_hand(&self) {
        let before = self.worker();
        self.master.signal(Signal::USR2);
        wait_until("HAProxy has a new worker", PATIENCE, || {
            (self.socket().exists() && self.worker() != before).then_some(())
        });
    }
}
