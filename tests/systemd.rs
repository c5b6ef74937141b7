//! The units in a booted systemd: a Debian 12 of its own, with Pebble and nginx inside.
//!
//! The machine is booted once; `tests/systemd/driver` runs in it and keeps one promise after the
//! other. Each test here reports how one of them went, and `target/tmp/systemd-results` has what
//! was said meanwhile. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use support::process::Daemon;
use support::{pebble, program, read, target, wait_until, write};

macro_rules! promises {
    ($($name:ident)*) => { $(
        #[test]
        fn $name() {
            machine().assert_kept(stringify!($name));
        }
    )* };
}

promises! {
    the_units_are_valid
    the_root_unit_is_confined
    the_unprivileged_unit_is_confined
    the_user_is_made
    a_first_certificate_is_issued_checked_and_reloaded
    the_status_line_says_how_it_is
    the_journal_knows_how_bad_it_is
    a_kill_is_survived_without_an_order
    a_reload_takes_over_the_configuration
    a_wrong_change_leaves_the_old_configuration
    a_failing_check_brings_the_old_pair_back
    a_failing_job_brings_the_old_pair_back
    a_forgotten_path_costs_no_order
    a_hung_loop_is_restarted_by_the_watchdog
    a_wrong_configuration_is_not_restarted
    a_path_that_was_allowed_is_soon_used
    port_80_comes_from_the_socket
    a_connection_starts_the_service
    a_pass_takes_port_80_from_the_socket
    a_due_certificate_is_renewed
    the_timer_makes_up_for_a_missed_pass
    the_unprivileged_unit_renews_and_reloads
}

#[test]
fn every_promise_of_the_driver_has_a_test() {
    let driver = read(source("tests/systemd/driver"));
    let list = driver.split("PROMISES=\"").nth(1).unwrap().split('"').next().unwrap();
    let here = read(source("tests/systemd.rs"));
    for name in list.split_whitespace() {
        assert!(here.contains(&format!("    {name}\n")), "{name} is not reported");
    }
}

/// A machine that was booted once, and what it left behind
struct Machine {
    tree: PathBuf,
    results: PathBuf,
}

fn machine() -> &'static Machine {
    static BOOTED: OnceLock<Result<Machine, String>> = OnceLock::new();
    let booted = BOOTED.get_or_init(|| {
        let folder = target().join("tmp");
        let machine = Machine {
            tree: folder.join("systemd-machine"),
            results: folder.join("systemd-results"),
        };
        let _alone = alone();
        machine.lay_out();
        machine.boot()?;
        std::fs::remove_dir_all(&machine.tree).unwrap();
        Ok(machine)
    });
    booted.as_ref().unwrap_or_else(|error| panic!("{error}"))
}

/// Machines of two checkouts would meet in the same control group
fn alone() -> File {
    let path = std::env::temp_dir().join("certkeep-systemd-machine.lock");
    let file = File::options().create(true).append(true).open(path).unwrap();
    file.lock().unwrap();
    file
}

impl Machine {
    fn lay_out(&self) {
        let root = target().join("systemd-root");
        assert!(root.join("complete").exists(), "{} is missing: run tests/peers", root.display());
        for folder in [&self.tree, &self.results] {
            if folder.exists() {
                std::fs::remove_dir_all(folder).unwrap();
            }
        }
        std::fs::create_dir_all(&self.results).unwrap();
        run(Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .arg(root.join("tree"))
            .arg(&self.tree));
        self.copy(Path::new(env!("CARGO_BIN_EXE_certkeep")), "usr/bin/certkeep");
        for name in ["pebble", "pebble-challtestsrv"] {
            self.copy(&program(name), &format!("usr/bin/{name}"));
        }
        for entry in std::fs::read_dir(source("systemd")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            match path.extension().and_then(|end| end.to_str()).unwrap() {
                "service" | "socket" | "timer" | "path" => {
                    self.copy(&path, &format!("etc/systemd/system/{name}"));
                }
                "sysusers" => self.copy(&path, "usr/lib/sysusers.d/certkeep.conf"),
                "tmpfiles" => self.copy(&path, "usr/lib/tmpfiles.d/certkeep.conf"),
                "md" => {}
                other => panic!("where does a .{other} go?"),
            }
        }
        self.copy(&source("tests/systemd/driver"), "usr/bin/driver");
        self.write("etc/certkeep/certkeep.yaml", "");
        self.write("opt/pebble/pebble.json", PEBBLE);
        pebble::own_tls(&self.tree.join("opt/pebble"), [127, 0, 0, 1].into());
        self.unit("pebble", "multi-user.target", PEBBLE_UNIT);
        self.unit("challtestsrv", "multi-user.target", CHALLTESTSRV_UNIT);
        self.unit("driver", "multi-user.target", DRIVER_UNIT);
        let wants = self.tree.join("etc/systemd/system/multi-user.target.wants");
        std::os::unix::fs::symlink("../driver.service", wants.join("driver.service")).unwrap();
        let nginx = wants.join("nginx.service");
        if nginx.is_symlink() {
            std::fs::remove_file(nginx).unwrap();
        }
    }

    fn boot(&self) -> Result<(), String> {
        let mut command = Command::new(program("setpriv"));
        command
            .args(TOGETHER)
            .arg(program("systemd-nspawn"))
            .args(["--quiet", "--boot", "--directory"])
            .arg(&self.tree)
            .arg(format!("--bind={}:/results", self.results.display()))
            .arg(format!("--machine=certkeep-{}", std::process::id()))
            .args(["--private-network", "--register=no", "--keep-unit", "--link-journal=no"])
            .args(["--console=pipe", "--timezone=off", "--resolv-conf=off"]);
        let mut nspawn = Daemon::start(&mut command, &self.results.join("console")).unwrap();
        wait_until("the machine is off", Duration::from_secs(300), || nspawn.ended());
        if self.results.join("complete").exists() {
            return Ok(());
        }
        Err(format!("the driver did not get to its end:\n{}", nspawn.log()))
    }

    #[track_caller]
    fn assert_kept(&self, promise: &str) {
        let summary = read(self.results.join("summary"));
        let log = || read(self.results.join(format!("{promise}.log")));
        let kept = summary.lines().any(|line| line == format!("ok {promise}"));
        assert!(kept, "{}\n{}\n{summary}", log(), self.journal());
    }

    /// What certkeep and systemd said about it
    fn journal(&self) -> String {
        let all = read(self.results.join("journal"));
        let about = all.lines().filter(|line| line.contains("certkeep") || line.contains("nginx"));
        about.collect::<Vec<_>>().join("\n")
    }

    fn copy(&self, from: &Path, to: &str) {
        let to = self.tree.join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }

    fn write(&self, to: &str, text: &str) {
        let to = self.tree.join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        write(to, text);
    }

    fn unit(&self, name: &str, after: &str, service: &str) {
        let unit = format!("[Unit]\nDescription={name} of the tests\nAfter={after}\n{service}");
        self.write(&format!("etc/systemd/system/{name}.service"), &unit);
    }
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// The machine ends with this process, however that ends, and leaves no mount behind
const TOGETHER: [&str; 10] = [
    "--pdeathsig=KILL",
    "unshare",
    "--fork",
    "--pid",
    "--kill-child",
    "--mount-proc",
    "sh",
    "-c",
    "mkdir -p /run/systemd/nspawn && mount -t tmpfs none /run/systemd/nspawn && exec \"$@\"",
    "sh",
];

/// The machine has a loopback of its own, so its ports can be fixed
const PEBBLE: &str = r#"{ "pebble": {
    "listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000",
    "certificate": "/opt/pebble/tls.pem", "privateKey": "/opt/pebble/tls.key",
    "httpPort": 80, "tlsPort": 443, "keyAlgorithm": "ecdsa",
    "retryAfter": { "authz": 0, "order": 0 },
    "profiles": { "default": { "description": "of the tests", "validityPeriod": 7776000 },
        "brief": { "description": "renewed within seconds", "validityPeriod": 20 } } } }"#;

const PEBBLE_UNIT: &str = "[Service]\n\
    Environment=PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=0 PEBBLE_AUTHZREUSE=0\n\
    ExecStart=pebble -config /opt/pebble/pebble.json -strict -dnsserver 127.0.0.1:8053\n\
    StandardOutput=append:/var/log/pebble.log\n\
    StandardError=append:/var/log/pebble.log\n";

const CHALLTESTSRV_UNIT: &str = "[Service]\n\
    ExecStart=pebble-challtestsrv -defaultIPv6 \"\" -http01 \"\" -https01 \"\" -tlsalpn01 \"\" \
    -doh \"\" -dnsserver 127.0.0.1:8053 -management 127.0.0.1:8055\n";

const DRIVER_UNIT: &str = "[Service]\n\
    Type=oneshot\n\
    ExecStart=driver\n\
    ExecStopPost=systemctl poweroff --no-block\n\
    TimeoutStartSec=280\n";
