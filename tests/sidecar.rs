//! certkeep beside a web server as in a pod: both without privileges, with one volume and one
//! table of processes between them. Needs root, to make the pod.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use certkeep::cert::Fingerprint;
use serde_json::Value;
use support::pebble::{Pebble, pebble};
use support::process::Daemon;
use support::{PATIENCE, client, folder, free_port, loopback, program, read, wait_until, write};
use tempfile::TempDir;

#[test]
fn a_server_beside_it_is_given_each_renewal_by_signal() {
    let pebble = pebble().with_profiles(&[("brief", LIFETIME)]).start();
    let pod = Pod::start(&pebble);
    let first = wait_until("the server has its first files", PATIENCE, || pod.serves());
    wait_until("the server serves the renewed certificate", LIFETIME * 2, || {
        pod.serves().filter(|leaf| *leaf != first)
    });
    wait_until("it is proven", PATIENCE, || (pod.status()["state"] == "live").then_some(()));
    assert_eq!(pod.status()["verified"], true);
    let said = read(pod.path("server/error.log"));
    assert!(said.contains("signal 1 (SIGHUP) received"), "{said}");
    let key = std::fs::metadata(pod.path("certs/web/privkey.pem")).unwrap();
    assert_eq!((key.uid(), key.mode() & 0o777), (NOBODY, 0o600), "{}", pod.containers.log());
}

/// Two containers that see each other's processes
struct Pod {
    containers: Daemon,
    folder: TempDir,
    address: SocketAddr,
}

impl Pod {
    fn start(pebble: &Pebble) -> Self {
        let folder = folder();
        let address = SocketAddr::new(loopback(), free_port(loopback()));
        let path = |name: &str| folder.path().join(name);
        for name in ["certs", "state", "server"] {
            std::fs::create_dir(path(name)).unwrap();
            chown(path(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        // Neither container may write here.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        write(path("ca.pem"), read(pebble.ca_file()));
        let here = folder.path().display().to_string();
        let fill = |text: &str| text.replace("HERE", &here).replace("SERVER", &address.to_string());
        write(path("nginx.conf"), fill(SERVER));
        let settings = fill(CERTKEEP)
            .replace("DIRECTORY", &pebble.directory())
            .replace("LISTEN", &pebble.http01().to_string());
        write(path("certkeep.yaml"), settings);
        let mut command = Command::new(program("setpriv"));
        command
            .args(["--pdeathsig=KILL", "unshare"])
            .args(["--fork", "--pid", "--kill-child", "--mount-proc"])
            // A change of user would forget with whom to end, so the first process changes none.
            .args(["sh", "-c", "\"$@\" & wait", "sh", "setpriv"])
            .args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")])
            .args(["--clear-groups", "--bounding-set=-all", "--no-new-privs"])
            .args(["sh", "-c", CONTAINERS, env!("CARGO_BIN_EXE_certkeep")])
            .arg(program("nginx"))
            .current_dir(folder.path());
        let containers = Daemon::start(&mut command, &path("output.log")).unwrap();
        Self { containers, folder, address }
    }

    fn serves(&self) -> Option<Fingerprint> {
        client::served(self.address, "app.test").ok()
    }

    fn status(&self) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_certkeep"));
        command.arg("--config").arg(self.path("certkeep.yaml")).args(["--json", "status"]);
        let output = command.output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        report["certificates"][0].clone()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Pod {
    #[expect(clippy::print_stderr, reason = "what a failed test is to show")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let server = std::fs::read(self.path("server/error.log")).unwrap_or_default();
            eprintln!("{}\n{}", self.containers.log(), String::from_utf8_lossy(&server));
        }
    }
}

/// The server's container waits for its first files, as its entry point would
const CONTAINERS: &str = r#"
    until [ -e certs/web/fullchain.pem ]; do sleep 0.05; done &&
        exec "$1" -p server -e error.log -c "$PWD/nginx.conf" &
    "$0" --config certkeep.yaml run &
    wait
"#;

const CERTKEEP: &str = r#"
state_dir: HERE/state
issuers:
  pebble: { directory: "DIRECTORY", ca_file: HERE/ca.pem, accept_terms: true, profile: brief }
certificates:
  web:
    names: [app.test]
    challenge: { http-01: { listen: "LISTEN" } }
    dir: HERE/certs/web
    deploy:
      reload: { signal: { name: HUP, process: nginx } }
      verify: [{ endpoint: "app.test:443", connect: "SERVER" }]
"#;

const SERVER: &str = "
daemon off;
pid nginx.pid;
error_log error.log notice;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    scgi_temp_path scgi;
    uwsgi_temp_path uwsgi;
    server {
        listen SERVER ssl;
        ssl_certificate HERE/certs/web/fullchain.pem;
        ssl_certificate_key HERE/certs/web/privkey.pem;
        return 200 well;
    }
}
";

/// The user of both containers
const NOBODY: u32 = 65_534;

/// Enough for a renewal to be seen
const LIFETIME: Duration = Duration::from_secs(20);
