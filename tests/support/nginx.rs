//! nginx, the real server that most hosts have.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::Daemon;
use super::{PATIENCE, client, folder, free_port, loopback, program, wait_until, write};

/// An nginx that runs, with a prefix, a configuration and logs of its own
#[derive(Debug)]
pub(crate) struct Nginx {
    folder: TempDir,
    address: SocketAddr,
    settings: String,
    master: Daemon,
}

/// What an nginx shall serve
#[derive(Clone, Debug)]
#[must_use]
pub(crate) struct Sites {
    pairs: Vec<(PathBuf, PathBuf)>,
    protocols: &'static str,
    socket: Option<PathBuf>,
    webroot: Option<(SocketAddr, PathBuf)>,
    proxy: Option<(SocketAddr, SocketAddr, &'static str)>,
}

/// Begin with one TLS server on this pair of files
pub(crate) fn nginx(fullchain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Sites {
    let pairs = vec![(fullchain.into(), key.into())];
    Sites { pairs, protocols: "TLSv1.2 TLSv1.3", socket: None, webroot: None, proxy: None }
}

impl Sites {
    /// Serve a pair with another kind of key to those who ask for it
    pub(crate) fn with_pair(
        mut self,
        fullchain: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.pairs.push((fullchain.into(), key.into()));
        self
    }

    /// Speak these protocols alone
    pub(crate) fn with_protocols(mut self, protocols: &'static str) -> Self {
        self.protocols = protocols;
        self
    }

    /// Listen on a Unix socket as well
    pub(crate) fn with_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// Serve the files of a directory over plain HTTP as well
    pub(crate) fn with_webroot(mut self, at: SocketAddr, folder: impl Into<PathBuf>) -> Self {
        self.webroot = Some((at, folder.into()));
        self
    }

    /// Hand the challenges that come to one address on to another, with these settings
    pub(crate) fn with_proxy(
        mut self,
        from: SocketAddr,
        to: SocketAddr,
        settings: &'static str,
    ) -> Self {
        self.proxy = Some((from, to, settings));
        self
    }

    /// Start it, and return when it answers
    pub(crate) fn start(self) -> Nginx {
        // Between choosing a port and binding it, another process may take it.
        for _ in 0..5 {
            if let Some(nginx) = self.try_start() {
                return nginx;
            }
        }
        panic!("five nginx in a row did not start");
    }

    fn try_start(&self) -> Option<Nginx> {
        let folder = folder();
        let ip = loopback();
        let address = SocketAddr::new(ip, free_port(ip));
        let settings = self.settings(folder.path(), address);
        write(folder.path().join("nginx.conf"), &settings);
        let mut command = nginx_of(folder.path());
        command.args(["-g", "daemon off;"]);
        let mut master = Daemon::start(&mut command, &folder.path().join("output.log")).unwrap();
        let up = wait_until("nginx answers", PATIENCE, || {
            if master.ended().is_some() {
                return Some(false);
            }
            client::served(address, "localhost").is_ok().then_some(true)
        });
        if !up {
            let said = master.log();
            assert!(said.contains("Address already in use"), "nginx did not start: {said}");
            return None;
        }
        Some(Nginx { folder, address, settings, master })
    }

    fn settings(&self, folder: &Path, address: SocketAddr) -> String {
        let folder = folder.display();
        let protocols = self.protocols;
        let pairs: String = self
            .pairs
            .iter()
            .map(|(fullchain, key)| {
                let (fullchain, key) = (fullchain.display(), key.display());
                format!("ssl_certificate {fullchain};\nssl_certificate_key {key};\n")
            })
            .collect();
        let socket = self
            .socket
            .as_ref()
            .map_or_else(String::new, |path| format!("listen unix:{} ssl;", path.display()));
        let webroot = self.webroot.as_ref().map_or_else(String::new, |(at, root)| {
            format!("server {{ listen {at}; root {}; default_type text/plain; }}", root.display())
        });
        let proxy = self.proxy.map_or_else(String::new, |(from, to, settings)| {
            format!(
                "server {{ listen {from}; location /.well-known/acme-challenge/ {{ \
                 proxy_pass http://{to}; {settings} }} }}"
            )
        });
        format!(
            "user root;\n\
             pid {folder}/nginx.pid;\n\
             error_log {folder}/error.log notice;\n\
             worker_processes 1;\n\
             events {{ worker_connections 512; }}\n\
             http {{\n\
               access_log off;\n\
               client_body_temp_path {folder}/body;\n\
               proxy_temp_path {folder}/proxy;\n\
               fastcgi_temp_path {folder}/fastcgi;\n\
               scgi_temp_path {folder}/scgi;\n\
               uwsgi_temp_path {folder}/uwsgi;\n\
               server {{\n\
                 listen {address} ssl;\n\
                 {socket}\n\
                 ssl_protocols {protocols};\n\
                 {pairs}\
                 location / {{ return 200 \"well\\n\"; }}\n\
               }}\n\
               {webroot}\n\
               {proxy}\n\
             }}\n"
        )
    }
}

impl Nginx {
    /// Where it serves TLS
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its master's number is
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.folder.path().join("nginx.pid")
    }

    /// The arguments with which `nginx` finds this one, such as for `-t` or `-s reload`
    pub(crate) fn arguments(&self) -> Vec<String> {
        arguments(self.folder.path())
    }

    /// A `check:` for certkeep's configuration, as a YAML list
    pub(crate) fn check(&self) -> String {
        let mut words = vec![program("nginx").display().to_string()];
        words.extend(self.arguments());
        words.push("-t".to_owned());
        serde_json::to_string(&words).unwrap()
    }

    /// A `reload:` for certkeep's configuration, by signal, as a YAML map
    pub(crate) fn reload(&self) -> String {
        format!("{{ signal: {{ name: HUP, pid_file: {} }} }}", self.pid_file().display())
    }

    /// Let somebody else break its configuration
    pub(crate) fn break_settings(&self) {
        let broken = format!("{}\nthis_is_no_directive on;\n", self.settings);
        write(self.folder.path().join("nginx.conf"), broken);
    }

    /// Let somebody else repair it
    pub(crate) fn repair_settings(&self) {
        write(self.folder.path().join("nginx.conf"), &self.settings);
    }

    /// Reload it by hand
    pub(crate) fn reload_by_hand(&self) {
        self.master.signal(Signal::HUP);
    }

    /// The leaf that it serves
    pub(crate) fn serves(&self) -> certkeep::cert::Fingerprint {
        client::served(self.address, "localhost").unwrap()
    }

    /// What it said about itself
    pub(crate) fn error_log(&self) -> String {
        super::read(self.folder.path().join("error.log"))
    }
}

/// A master that is killed leaves its workers behind, and they go on serving
impl Drop for Nginx {
    fn drop(&mut self) {
        if self.master.ended().is_none() {
            self.master.terminate(PATIENCE);
        }
    }
}

/// Whether nginx would load a pair of files, and what it says
pub(crate) fn loads(fullchain: &Path, key: &Path) -> Result<(), String> {
    let folder = folder();
    let ip = loopback();
    let settings = nginx(fullchain, key).settings(folder.path(), SocketAddr::new(ip, 8443));
    write(folder.path().join("nginx.conf"), settings);
    let Output { status, stderr, .. } =
        nginx_of(folder.path()).args(["-t", "-q"]).output().unwrap();
    if status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&stderr).into_owned()) }
}

fn nginx_of(folder: &Path) -> Command {
    let mut command = Command::new(program("nginx"));
    command.args(arguments(folder));
    command
}

fn arguments(folder: &Path) -> Vec<String> {
    let path = |name: &str| folder.join(name).display().to_string();
    let words = ["-p".to_owned(), path(""), "-c".to_owned(), path("nginx.conf")];
    words.into_iter().chain(["-e".to_owned(), path("error.log")]).collect()
}
