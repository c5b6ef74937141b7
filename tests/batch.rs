//! Certificates that one server loads: asked about together, and none lost with another.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::path::PathBuf;

use certkeep::config::Config;
use certkeep::name::CertName;
use certkeep::store::Store;
use rustix::process::Signal;
use support::pebble::{Pebble, pebble};
use support::site::Site;
use support::{PATIENCE, program, wait_until};

/// A host with several certificates for a server that scripts play
struct Host {
    _ca: Pebble,
    site: Site,
}

impl Host {
    /// A server that takes anything, and writes down each reload
    fn new(certificates: &[&str]) -> Self {
        let ca = pebble().start();
        let host = Self { site: Site::new(&ca), _ca: ca };
        host.script("check", "exit 0");
        host.script("reload", &format!("echo reload >> {}", host.log().display()));
        host.configure(certificates);
        host
    }

    fn configure(&self, certificates: &[&str]) {
        let home = self.site.path().display();
        let one = |name: &&str| {
            format!(
                "{name}: {{ names: [{name}.test], dir: TLS/{name}, deploy: {{ check: \
                 [{home}/check], reload: {{ command: [{home}/reload] }} }} }}\n"
            )
        };
        self.site.configure(&certificates.iter().map(one).collect::<String>());
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.site.path().join(name);
        support::write(&path, format!("#!/bin/sh\n{text}\n"));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
    }

    fn log(&self) -> PathBuf {
        self.site.path().join("reloads")
    }

    fn reloads(&self) -> usize {
        std::fs::read_to_string(self.log()).unwrap_or_default().lines().count()
    }

    fn leaf(&self, name: &str) -> PathBuf {
        self.site.tls().join(name).join("fullchain.pem")
    }
}

#[test]
fn one_reload_serves_all_that_share_it() {
    let host = Host::new(&["a", "b", "c", "d"]);
    host.site.renew();
    std::fs::remove_file(host.log()).unwrap();
    host.site.certkeep(&["deploy"]).succeeds();
    assert_eq!(host.reloads(), 1);
}

#[test]
fn a_certificate_that_another_process_holds_keeps_no_other_from_being_deployed() {
    let host = Host::new(&["a", "b"]);
    host.site.renew();
    std::fs::remove_file(host.log()).unwrap();
    let text = support::read(host.site.config());
    let store = Store::open(&Config::parse(&text, &host.site.config()).unwrap()).unwrap();
    let _held = store.lock_certificate(&CertName::parse("a").unwrap()).unwrap().unwrap();
    host.site.certkeep(&["deploy"]).exits(75).says(&["another process works on a"]);
    assert_eq!(host.reloads(), 1);
    let said = host.site.certkeep(&["deploy", "--test"]).exits(75);
    said.says(&["another process works on a", "b (default): works"]);
    assert_eq!(host.reloads(), 2);
    // What failed says more than what could not be tried.
    host.script("reload", "exit 3");
    host.site.certkeep(&["deploy"]).exits(1).says(&["another process works on a", "status 3"]);
}

/// The server's check is one for all of its files, so it cannot say whose they are.
#[test]
fn a_certificate_that_the_server_refuses_keeps_no_other_from_being_live() {
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let host = Host::new(&names);
    host.site.renew();
    let pinned = host.site.path().join("pinned.pem");
    std::fs::copy(host.leaf("d"), &pinned).unwrap();
    let check = format!(
        "{} -s {} {} || {{ echo 'd is pinned' >&2; exit 3; }}",
        program("cmp").display(),
        host.leaf("d").display(),
        pinned.display()
    );
    host.script("check", &check);
    let said = host.site.certkeep(&["renew", "--force"]).exits(1);
    said.says(&["d is pinned"]);
    for name in names {
        let refused = name == "d";
        let status = host.site.status(name);
        let expected = if refused { "staged" } else { "live" };
        assert_eq!(status["state"], expected, "{name}: {said}");
        assert_eq!(status["targets"][0]["last_failure"].is_null(), !refused, "{name}: {status}");
    }
    assert_eq!(support::read(host.leaf("d")), support::read(&pinned), "{said}");
    let reloads = host.reloads();
    assert!(reloads < 16, "{reloads} reloads: {said}");
}

#[test]
fn a_server_that_somebody_broke_keeps_no_other_back_that_is_loaded_with_it() {
    let host = Host::new(&["a", "b"]);
    host.script("other-check", "[ ! -e $(dirname $0)/broken ] || { echo broken >&2; exit 3; }");
    let home = host.site.path().display();
    let one = |name: &str, check: &str| {
        format!(
            "{name}: {{ names: [{name}.test], dir: TLS/{name}, deploy: {{ check: [{home}/{check}], \
             reload: {{ command: [{home}/reload] }} }} }}\n"
        )
    };
    host.site.configure(&(one("a", "other-check") + &one("b", "check")));
    host.site.renew();
    support::write(host.site.path().join("broken"), "");
    let said = host.site.certkeep(&["renew", "--force"]).exits(1);
    said.says(&["its configuration is broken, whatever the certificate"]);
    assert_eq!(host.site.state_of("b"), "live", "{said}");
    assert_eq!(host.site.state_of("a"), "staged", "{said}");
}

/// A hundred are deployed at once, and then the rest.
#[test]
fn a_deployment_that_is_interrupted_begins_with_no_further_certificates() {
    let names: Vec<_> = (0..101).map(|number| format!("site{number:03}")).collect();
    let host = Host::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    host.site.renew();
    let before = host.reloads();
    let held = host.site.path().join("held");
    support::write(&held, "");
    let wait = format!("while [ -e {} ]; do sleep 0.1; done", held.display());
    host.script("reload", &format!("echo reload >> {}\n{wait}", host.log().display()));
    let mut deployment = host.site.start(&["deploy"]);
    wait_until("the first reload", PATIENCE, || (host.reloads() > before).then_some(()));
    deployment.signal(Signal::TERM);
    wait_until("the signal is heard", PATIENCE, || {
        deployment.log().contains("brought to its end").then_some(())
    });
    std::fs::remove_file(&held).unwrap();
    let ended = deployment.wait(PATIENCE);
    let said = deployment.log();
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(said.contains("stopped by SIGTERM; what it had not begun"), "{said}");
    assert_eq!(host.reloads(), before + 1, "{said}");
}

/// While a check looks at the files of one certificate, none of another come in.
#[test]
fn a_server_is_asked_about_one_batch_after_the_other() {
    let host = Host::new(&["a"]);
    let (asked, issued) = (host.site.path().join("asked"), host.site.path().join("issued"));
    host.script(
        "check",
        &format!(
            "touch {asked}\n\
             until [ -e {issued} ]; do sleep 0.05; done\n\
             for turn in $(seq 80); do\n\
             [ -e {done} ] && exit 0\n\
             [ -e {other} ] && {{ echo 'another is in' >&2; exit 3; }}\n\
             sleep 0.05\n\
             done\n\
             touch {done}",
            asked = asked.display(),
            issued = issued.display(),
            done = host.site.path().join("done").display(),
            other = host.leaf("b").display(),
        ),
    );
    let mut agent = host.site.start(&["run"]);
    wait_until("the check of the first", PATIENCE, || asked.exists().then_some(()));
    host.configure(&["a", "b"]);
    wait_until("the second is issued", PATIENCE, || {
        (host.site.state_of("b") == "staged").then_some(())
    });
    support::write(&issued, "");
    wait_until("both are live", PATIENCE, || {
        (["a", "b"].iter().all(|name| host.site.state_of(name) == "live")).then_some(())
    });
    assert!(!agent.log().contains("another is in"), "{}", agent.log());
    assert_eq!(agent.terminate(PATIENCE).code(), Some(0), "{}", agent.log());
}
