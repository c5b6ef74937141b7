//! PostgreSQL, one of two servers on one host, by signal.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use certkeep::cert::Fingerprint;
use tempfile::TempDir;

use crate::support::pair::Pair;
use crate::support::pebble::pebble;
use crate::support::process::Daemon;
use crate::support::site::Site;
use crate::support::{
    PATIENCE, client, folder, free_port, loopback, program, read, wait_until, write,
};

/// A server that runs as the user of Debian's package, in a control group of its own
pub(crate) struct Postgres {
    folder: TempDir,
    address: SocketAddr,
    _server: Daemon,
    group: Group,
}

impl Postgres {
    pub(crate) fn start(pair: &Pair) -> Self {
        let folder = folder();
        chown(folder.path(), Some(user()), None).unwrap();
        let data = folder.path().join("data");
        let output = as_user("initdb").arg("-D").arg(&data).arg("--no-sync").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let address = SocketAddr::new(loopback(), free_port(loopback()));
        let settings = format!(
            "listen_addresses = '{}'\nport = {}\nunix_socket_directories = ''\nssl = on\n\
             ssl_cert_file = '{}'\nssl_key_file = '{}'\nfsync = off\n",
            address.ip(),
            address.port(),
            pair.fullchain.display(),
            pair.key.display()
        );
        write(data.join("postgresql.conf"), settings);
        let mut command = as_user("postgres");
        command.arg("-D").arg(&data);
        let group = Group::make();
        let log = folder.path().join("log");
        let server = Daemon::start(&mut command, &log).unwrap();
        group.take(server.pid().as_raw_nonzero().get());
        let postgres = Self { folder, address, _server: server, group };
        wait_until("PostgreSQL answers", PATIENCE, || {
            postgres.try_serves().ok().or_else(|| {
                assert!(!read(&log).contains("FATAL"), "{}", read(&log));
                None
            })
        });
        postgres
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn try_serves(&self) -> std::io::Result<Fingerprint> {
        client::shown(self.address, Some("postgres"))
    }

    pub(crate) fn serves(&self) -> Fingerprint {
        self.try_serves()
            .unwrap_or_else(|error| panic!("{error}: {}", read(self.folder.path().join("log"))))
    }
}

/// Let the server read its files and its folders
pub(crate) fn hand_over(pair: &Pair) {
    chown(&pair.key, Some(user()), None).unwrap();
    std::fs::set_permissions(&pair.key, PermissionsExt::from_mode(0o600)).unwrap();
}

fn as_user(name: &str) -> Command {
    let mut command = Command::new(program("setpriv"));
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=KILL"]);
    command.arg(program(name)).current_dir("/").env_clear().env("LC_ALL", "C.UTF-8");
    command
}

fn user() -> u32 {
    let users = read("/etc/passwd");
    let line = users.lines().find(|line| line.starts_with("postgres:")).unwrap();
    line.split(':').nth(2).unwrap().parse().unwrap()
}

/// A control group below our own
struct Group(PathBuf);

impl Group {
    fn make() -> Self {
        let number = std::process::id();
        let unique = loopback().to_string().replace('.', "-");
        let mounts = read("/proc/self/mounts");
        let groups = read("/proc/self/cgroup");
        for mount in mounts.lines().filter(|line| line.contains(" cgroup")) {
            let fields: Vec<_> = mount.split(' ').collect();
            let of = |line: &&str| {
                let controller = line.split(':').nth(1).unwrap();
                match fields[2] {
                    "cgroup2" => controller.is_empty(),
                    _ => {
                        let has = |option| controller.split(',').all(|one| one == option);
                        !controller.is_empty() && fields[3].split(',').any(has)
                    }
                }
            };
            let Some(line) = groups.lines().find(of) else { continue };
            let own = line.split(':').nth(2).unwrap().trim_start_matches('/');
            let path = Path::new(fields[1]).join(own).join(format!("certkeep-{number}-{unique}"));
            if std::fs::create_dir(&path).is_ok() {
                return Self(path);
            }
        }
        panic!("no control group can be made: {mounts}");
    }

    fn take(&self, pid: i32) {
        write(self.0.join("cgroup.procs"), pid.to_string());
    }

    fn name(&self) -> &str {
        self.0.file_name().unwrap().to_str().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What the server started ends a little later than it does.
        let deadline = Instant::now() + PATIENCE;
        while std::fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn one_of_two_postgresql_is_chosen_by_user_and_control_group() {
    let ca = pebble().start();
    let site = Site::new(&ca);
    let open = PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(site.path(), open).unwrap();
    let pair = Pair { fullchain: site.tls().join("site.pem"), key: site.tls().join("site.key") };
    pair.placeholder("a.test");
    hand_over(&pair);
    let (chosen, other) = (Postgres::start(&pair), Postgres::start(&pair));
    let before = chosen.serves();
    assert_eq!(other.serves(), before);
    let configure = |more: &str| {
        site.configure(&format!(
            "site:\n  names: [a.test]\n  files:\n  - {{ path: TLS/site.pem, content: fullchain }}\n  \
             - {{ path: TLS/site.key, content: key, owner: postgres }}\n  deploy:\n    \
             reload: {{ signal: {{ name: HUP, process: postgres, user: postgres{more} }} }}\n"
        ));
    };
    configure("");
    site.certkeep(&["renew", "--force"]).exits(1).says(&["servers called `postgres` run as user"]);
    assert_eq!((chosen.serves(), other.serves()), (before, before));
    configure(&format!(", cgroup: {}", chosen.group.name()));
    site.certkeep(&["renew", "--force"]).succeeds();
    let new = pair.leaf().fingerprint;
    assert_ne!(new, before);
    wait_until("the chosen one serves it", PATIENCE, || (chosen.serves() == new).then_some(()));
    assert_eq!(other.serves(), before, "the other was signalled too");
    assert_eq!(std::fs::metadata(&pair.key).unwrap().uid(), user());
}
