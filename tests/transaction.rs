//! The decision table of a deployment, row by row, with nginx as the server.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::path::{Path, PathBuf};

use certkeep::cert::Fingerprint;
use serde_json::Value;

use support::client;
use support::nginx::{Nginx, nginx};
use support::pair::Pair;
use support::pebble::{Pebble, pebble};
use support::process::Daemon;
use support::site::{Output, Site};
use support::{PATIENCE, program, wait_until};

/// A host whose nginx serves what a first certificate gave it
struct Host {
    ca: Pebble,
    site: Site,
    pair: Pair,
    nginx: Nginx,
}

/// What makes nginx load its files
struct Deploy {
    check: String,
    reload: String,
    more: String,
}

impl Host {
    /// A host with this pair in its files before certkeep comes
    fn with(lay_down: impl Fn(&Pair)) -> Self {
        let ca = pebble().start();
        let site = Site::new(&ca);
        let pair =
            Pair { fullchain: site.tls().join("site.pem"), key: site.tls().join("site.key") };
        lay_down(&pair);
        let nginx = nginx(&pair.fullchain, &pair.key).start();
        Self { ca, site, pair, nginx }
    }

    /// A host whose first certificate is live
    fn live() -> Self {
        let host = Self::with(|pair| pair.placeholder("a.test"));
        host.configure(&host.well());
        host.site.certkeep(&["renew"]).succeeds();
        host
    }

    fn well(&self) -> Deploy {
        Deploy { check: self.nginx.check(), reload: self.nginx.reload(), more: String::new() }
    }

    fn configure(&self, deploy: &Deploy) {
        let Deploy { check, reload, more } = deploy;
        self.site.configure(&format!(
            "site:\n  names: [a.test]\n  files:\n  - {{ path: TLS/site.pem, content: fullchain }}\n  \
             - {{ path: TLS/site.key, content: key }}\n{more}  deploy:\n    check: {check}\n    \
             reload: {reload}\n    verify: [{{ endpoint: \"a.test:443\", connect: \"{}\", within: 3s \
             }}]\n",
            self.nginx.address()
        ));
    }

    /// An executable script of the operator's
    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.site.path().join(name);
        support::write(&path, format!("#!/bin/sh\n{text}\n"));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
        path
    }

    /// A check that takes only the certificate that is there now
    fn pinning(&self) -> String {
        let pinned = self.fingerprint_by_openssl();
        let (openssl, file) = (program("openssl"), self.pair.fullchain.display());
        let text = format!(
            "seen=$({} x509 -noout -fingerprint -sha256 -in {file})\n\
             [ \"$seen\" = '{pinned}' ] || {{ echo 'this certificate is not pinned' >&2; exit 3; }}",
            openssl.display()
        );
        format!("[{}]", self.script("pin", &text).display())
    }

    fn fingerprint_by_openssl(&self) -> String {
        let words = ["x509", "-noout", "-fingerprint", "-sha256", "-in"];
        let output = std::process::Command::new(program("openssl"))
            .args(words)
            .arg(&self.pair.fullchain)
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
    }

    fn renew(&self) -> Output {
        self.site.certkeep(&["renew", "--force"]).run()
    }

    /// The only target, as `status` tells it
    fn target(&self) -> Value {
        self.site.status("site")["targets"][0].clone()
    }

    /// Fail unless files and wire are what they were
    #[track_caller]
    fn assert_as_before(&self, before: Fingerprint, output: &Output) {
        assert_eq!(output.code, Some(1), "{output}");
        assert_eq!(self.pair.leaf().fingerprint, before, "the files: {output}");
        assert_eq!(self.nginx.serves(), before, "the wire: {output}");
        self.pair.assert_sound();
    }
}

#[test]
fn what_the_check_refuses_is_put_back_and_after_three_tries_a_human_is_asked() {
    let host = Host::live();
    let old = host.nginx.serves();
    host.configure(&Deploy { check: host.pinning(), ..host.well() });
    let first = host.renew();
    first.says(&[
        "this certificate is not pinned",
        "the previous files are back and the previous certificate is served",
    ]);
    host.assert_as_before(old, &first);
    assert_ne!(host.site.state_of("site"), "needs-operator");
    for _ in 0..2 {
        let again = host.site.certkeep(&["renew"]).run();
        host.assert_as_before(old, &again);
    }
    assert_eq!(host.ca.issued(), 2, "a deployment that failed is retried without an order");
    assert_eq!(host.site.state_of("site"), "needs-operator");
    let what = host.site.status("site")["operator"].to_string();
    assert!(what.contains("certkeep deploy site"), "{what}");
    host.configure(&host.well());
    host.site.certkeep(&["deploy"]).succeeds();
    assert_ne!(host.nginx.serves(), old);
    assert_eq!(host.nginx.serves(), host.pair.leaf().fingerprint);
    assert_eq!(host.ca.issued(), 2);
}

#[test]
fn a_server_that_refuses_both_is_said_to_be_broken_and_keeps_the_old_files() {
    let host = Host::live();
    let old = host.nginx.serves();
    host.nginx.break_settings();
    let output = host.renew();
    output.says(&[
        "this_is_no_directive",
        "the previous files are back, and the server refuses them as well: \
         its configuration is broken, whatever the certificate",
    ]);
    host.assert_as_before(old, &output);
}

#[test]
fn a_server_that_refuses_both_gets_the_new_files_when_the_old_certificate_ends() {
    let host = Host::with(|pair| pair.lay_down_another_client_s(&["a.test"], 90 * 86_400, 86_400));
    let old = host.nginx.serves();
    host.configure(&host.well());
    host.nginx.break_settings();
    let output = host.site.certkeep(&["renew"]).exits(1);
    output.says(&[
        "its configuration is broken, whatever the certificate; the new files stay, since the \
         certificate before them ends at",
    ]);
    assert_eq!(host.nginx.serves(), old, "nginx was not reloaded");
    assert_ne!(host.pair.leaf().fingerprint, old);
    host.pair.assert_sound();
    let output = host.site.certkeep(&["renew"]).exits(1);
    output.says(&["the new files stay, since the certificate before them ends at"]);
    assert_ne!(host.pair.leaf().fingerprint, old, "{output}");
    host.nginx.repair_settings();
    host.site.certkeep(&["renew"]).succeeds();
    assert_eq!(host.nginx.serves(), host.pair.leaf().fingerprint);
    assert_eq!(host.ca.issued(), 1);
}

#[test]
fn a_check_that_cannot_be_run_is_not_taken_for_a_refusal() {
    let host = Host::live();
    let old = host.nginx.serves();
    let check = host.script("gone", "exit 0");
    host.configure(&Deploy { check: format!("[{}]", check.display()), ..host.well() });
    std::fs::remove_file(check).unwrap();
    let output = host.renew();
    output.says(&["the previous files are back, and nobody asked the server"]);
    output.keeps_quiet_about(&["its configuration is broken"]);
    host.assert_as_before(old, &output);
}

#[test]
fn a_server_that_loads_nothing_gets_the_new_files_when_the_old_certificate_ends() {
    let host = Host::with(|pair| pair.lay_down_another_client_s(&["a.test"], 90 * 86_400, 86_400));
    let reload = format!("[{}]", program("false").display());
    host.configure(&Deploy { reload, ..host.well() });
    let output = host.site.certkeep(&["renew"]).exits(1);
    output.says(&["it does not load the previous files either", "the new files stay"]);
    host.pair.assert_sound();
    assert_eq!(host.site.state_of("site"), "installed");
    host.configure(&host.well());
    host.site.certkeep(&["renew"]).succeeds();
    assert_eq!(host.nginx.serves(), host.pair.leaf().fingerprint);
}

/// A server that dies of each reload, and is started again by nobody
#[test]
fn a_server_that_died_is_not_asked_again_and_again() {
    let host = Host::live();
    let old = host.pair.leaf().fingerprint;
    let (log, pid) = (host.site.path().join("reloads"), host.nginx.pid_file());
    let text = format!(
        "echo reload >> {}\n[ ! -e {pid} ] || kill -QUIT $(cat {pid})\n\
         while [ -e {pid} ]; do sleep 0.02; done",
        log.display(),
        pid = pid.display()
    );
    let reload = format!("[{}]", host.script("reload", &text).display());
    // nginx's own check would make the pid file again.
    let check = format!("[{}]", host.script("accepts", "exit 0").display());
    host.configure(&Deploy { check, reload, more: String::new() });
    host.renew().says(&["refuses the connection", "the previous files are back"]);
    for _ in 0..2 {
        let output = host.site.certkeep(&["renew"]).exits(1);
        // It answered before the first attempt, so its silence is our doing still.
        output.says(&["the previous files are back"]);
        assert_eq!(host.pair.leaf().fingerprint, old, "{output}");
    }
    assert_eq!(host.site.state_of("site"), "needs-operator");
    let reloads = support::read(&log);
    host.site.certkeep(&["renew"]).exits(1);
    assert_eq!(support::read(&log), reloads, "it was spared");
    assert_eq!(host.ca.issued(), 2);
}

#[test]
fn a_reload_that_fails_or_hangs_is_undone() {
    let host = Host::live();
    let old = host.nginx.serves();
    let fails = format!("[{}]", program("false").display());
    let hangs = format!("{{ command: [{}, \"1000\"], timeout: 1s }}", program("sleep").display());
    for (reload, words) in [(fails, "exited with status 1"), (hangs, "did not end in 1s")] {
        host.configure(&Deploy { reload, ..host.well() });
        let output = host.renew();
        output.says(&[words, "the previous files are back and pass the check"]);
        host.assert_as_before(old, &output);
        assert_eq!(host.target()["back_from"], Value::Null, "{}", host.target());
    }
}

/// A server that is restarted to load its files, and starts with one certificate only
#[test]
fn a_server_that_does_not_come_up_again_gets_its_certificate_back() {
    let host = Host::live();
    let old = host.nginx.serves();
    let check = host.script("accepts", "exit 0");
    let words = host.nginx.arguments().join(" ");
    let (nginx, openssl) = (program("nginx"), program("openssl"));
    let restart = format!(
        "{nginx} {words} -s quit\n\
         while [ -e {pid} ]; do sleep 0.02; done\n\
         seen=$({openssl} x509 -noout -fingerprint -sha256 -in {file})\n\
         [ \"$seen\" != '{pinned}' ] || {nginx} {words} -g 'daemon on;'\n",
        nginx = nginx.display(),
        openssl = openssl.display(),
        pid = host.nginx.pid_file().display(),
        file = host.pair.fullchain.display(),
        pinned = host.fingerprint_by_openssl(),
    );
    let restart = host.script("restart", &restart);
    host.configure(&Deploy {
        check: format!("[{}]", check.display()),
        reload: format!("[{}]", restart.display()),
        more: String::new(),
    });
    let output = host.renew();
    output.says(&[
        "refuses the connection",
        "the previous files are back and the previous certificate is served",
    ]);
    host.assert_as_before(old, &output);
    let stopped = std::process::Command::new(&nginx)
        .args(host.nginx.arguments())
        .args(["-s", "stop"])
        .status();
    assert!(stopped.unwrap().success());
}

#[test]
fn a_server_that_goes_on_with_the_old_certificate_is_installed_and_reloaded_again() {
    let host = Host::live();
    let old = host.nginx.serves();
    host.configure(&Deploy { reload: format!("[{}]", program("true").display()), ..host.well() });
    let output = host.renew();
    assert_eq!(output.code, Some(1));
    output.says(&["still serves the one before"]).keeps_quiet_about(&["previous files"]);
    assert_eq!(host.site.state_of("site"), "installed");
    assert_eq!(host.nginx.serves(), old);
    assert_ne!(host.pair.leaf().fingerprint, old, "the service is up, and the files stay");
    host.configure(&host.well());
    host.site.certkeep(&["renew"]).succeeds();
    assert_eq!(host.nginx.serves(), host.pair.leaf().fingerprint);
    assert_eq!(host.ca.issued(), 2);
}

/// A site that is live on two servers, and renewed on the first alone
fn lagging() -> (Host, Nginx, Output) {
    let host = Host::live();
    let late = nginx(&host.pair.fullchain, &host.pair.key).start();
    configure_late(&host, &host.nginx.reload(), &late);
    let output = host.renew();
    output.says(&["late.test:443 does not serve", "still serves the one before"]);
    (host, late, output)
}

/// A site on two servers, of which the one that lags is reloaded by nobody
fn configure_late(host: &Host, reload: &str, late: &Nginx) {
    host.site.configure(&format!(
        "site:\n  names: [a.test]\n  files:\n  - {{ path: TLS/site.pem, content: fullchain }}\n  \
         - {{ path: TLS/site.key, content: key }}\n  deploy:\n    reload: {reload}\n    verify:\n    \
         - {{ endpoint: \"a.test:443\", connect: \"{}\", within: 2s }}\n    \
         - {{ endpoint: \"late.test:443\", connect: \"{}\", within: 2s }}\n",
        host.nginx.address(),
        late.address()
    ));
}

#[test]
fn an_endpoint_that_lags_behind_is_named_and_keeps_it_from_being_live() {
    let (host, late, output) = lagging();
    let old = late.serves();
    assert_eq!(output.code, Some(1), "{output}");
    output.keeps_quiet_about(&["a.test:443 does not serve"]);
    assert_ne!(host.nginx.serves(), old);
    assert_eq!(host.site.state_of("site"), "installed");
    assert_eq!(host.target()["verified"], false);
    late.reload_by_hand();
    wait_until("it has caught up", PATIENCE, || (late.serves() != old).then_some(()));
    host.site.certkeep(&["renew"]).succeeds();
    assert_eq!(host.site.state_of("site"), "live");
}

#[test]
fn what_one_endpoint_showed_is_not_taken_back_when_a_later_reload_fails() {
    let (host, late, _) = lagging();
    let new = host.nginx.serves();
    configure_late(&host, &format!("[{}]", program("false").display()), &late);
    let output = host.site.certkeep(&["renew"]).exits(1);
    output.says(&["exited with status 1"]).keeps_quiet_about(&["the previous files are back"]);
    assert_eq!(host.pair.leaf().fingerprint, new);
    assert_eq!((host.nginx.serves(), host.site.state_of("site").as_str()), (new, "installed"));
}

#[test]
fn an_endpoint_that_dies_before_it_showed_the_new_certificate_brings_the_old_one_back() {
    let (host, late, _) = lagging();
    let old = late.serves();
    let ends = host.script("ends", &format!("kill -TERM $(cat {})", late.pid_file().display()));
    configure_late(&host, &format!("[{}]", ends.display()), &late);
    let output = host.site.certkeep(&["renew"]).exits(1);
    output.says(&["late.test:443", "refuses the connection", "the previous files are back"]);
    assert_eq!(host.pair.leaf().fingerprint, old, "{output}");
}

#[test]
fn attempts_that_left_the_new_files_in_place_are_no_refusals() {
    let host = Host::live();
    let old = host.nginx.serves();
    host.configure(&Deploy { reload: format!("[{}]", program("true").display()), ..host.well() });
    host.renew();
    for _ in 0..2 {
        host.site.certkeep(&["renew"]).exits(1).says(&["still serves the one before"]);
    }
    host.configure(&Deploy { reload: format!("[{}]", program("false").display()), ..host.well() });
    let output = host.site.certkeep(&["renew"]).exits(1);
    host.assert_as_before(old, &output);
    assert_ne!(host.site.state_of("site"), "needs-operator", "it was refused once: {output}");
}

#[test]
fn a_third_certificate_is_named_with_its_file() {
    let host = Host::live();
    let third = Pair::in_dir(&host.site.tls());
    third.placeholder("a.test");
    let stranger = nginx(&third.fullchain, &third.key).start();
    host.site.configure(&format!(
        "site:\n  names: [a.test]\n  files:\n  - {{ path: TLS/site.pem, content: fullchain }}\n  \
         - {{ path: TLS/site.key, content: key }}\n  deploy:\n    reload: {}\n    \
         verify: [{{ endpoint: \"a.test:443\", connect: \"{}\", within: 1s }}]\n",
        host.nginx.reload(),
        stranger.address()
    ));
    let output = host.renew();
    let held = format!("{} holds the certificate", third.fullchain.display());
    output.says(&["a certificate for `a.test` by `CN=rcgen self signed cert`", &held]);
    assert_eq!(host.site.state_of("site"), "installed");
}

#[test]
fn names_that_another_client_s_certificate_has_are_not_lost_by_mistake() {
    let lay_down = |pair: &Pair| {
        pair.lay_down_another_client_s(&["a.test", "b.test"], 90 * 86_400, 60 * 86_400)
    };
    let host = Host::with(lay_down);
    let old = host.nginx.serves();
    host.configure(&host.well());
    let output = host.site.certkeep(&["renew"]).run();
    output.says(&["no longer for b.test", "allow `lost-names` in `gate.forbid`"]);
    host.assert_as_before(old, &output);
    assert_eq!(host.site.state_of("site"), "needs-operator");
    let issued = host.ca.issued();
    host.site.certkeep(&["renew"]).exits(1);
    assert_eq!(host.ca.issued(), issued, "what is held back is not ordered again");
    host.assert_as_before(old, &host.site.certkeep(&["deploy"]).run());
    host.configure(&Deploy { more: "  gate: { forbid: [] }\n".into(), ..host.well() });
    let output = host.site.certkeep(&["renew"]).succeeds();
    output.says(&["no longer for b.test", "issued by"]);
    assert_ne!(host.nginx.serves(), old);
    assert_eq!(host.ca.issued(), issued);
}

#[test]
fn a_certificate_of_ours_under_another_name_closes_no_gate() {
    let host = Host::with(|pair| pair.placeholder("a.test"));
    let served = |entry: &str, names: &str, files: &str| {
        format!(
            "{entry}:\n  names: {names}\n  {files}\n  deploy:\n    reload: {}\n    \
             verify: [{{ endpoint: \"a.test:443\", connect: \"{}\", within: 3s }}]\n",
            host.nginx.reload(),
            host.nginx.address()
        )
    };
    let files =
        "files: [{ path: TLS/site.pem, content: fullchain }, { path: TLS/site.key, content: key }]";
    let both = served("both", "[a.test, b.test]", files);
    host.site.configure(&both);
    host.site.renew();
    host.site.configure(&(both + &served("one", "[a.test]", "dir: TLS/one")));
    let output = host.site.certkeep(&["renew"]).exits(1);
    output.keeps_quiet_about(&["lost-names"]);
    assert_eq!(host.site.state_of("one"), "installed", "{output}");
}

#[test]
fn a_hard_gate_stays_closed_when_the_old_certificate_ends() {
    let host = Host::with(|pair| pair.lay_down_another_client_s(&["a.test"], 90 * 86_400, 86_400));
    let old = host.nginx.serves();
    let gate = |hard| format!("  gate: {{ require: {{ lifetime: 365d }}, hard: {hard} }}\n");
    host.configure(&Deploy { more: gate(true), ..host.well() });
    let output = host.site.certkeep(&["renew"]).run();
    output.says(&["365 days are required", "take it out of `gate.require`"]);
    host.assert_as_before(old, &output);
    host.assert_as_before(old, &host.site.certkeep(&["deploy"]).run());
    host.configure(&Deploy { more: gate(false), ..host.well() });
    host.site.certkeep(&["renew"]).succeeds();
    assert_ne!(host.nginx.serves(), old);
    assert_eq!(host.ca.issued(), 1);
}

#[test]
fn a_chain_to_another_root_than_those_configured_is_held_back() {
    let host = Host::live();
    let old = host.nginx.serves();
    let roots = host.site.path().join("roots.pem");
    let more = || format!("  gate: {{ roots: {} }}\n", roots.display());
    // What vouches for Pebble's own HTTPS is another CA than the one that it issues from.
    std::fs::copy(host.ca.ca_file(), &roots).unwrap();
    host.configure(&Deploy { more: more(), ..host.well() });
    let output = host.renew();
    output.says(&["which is not in `gate.roots`"]);
    host.assert_as_before(old, &output);
    // What stays in force meanwhile is kept whole.
    std::fs::remove_file(&host.pair.key).unwrap();
    let output = host.site.certkeep(&["renew"]).run();
    output.says(&["put right"]);
    host.assert_as_before(old, &output);
    support::write(&roots, host.ca.root());
    host.site.certkeep(&["renew"]).succeeds();
    assert_ne!(host.nginx.serves(), old);
    support::write(&roots, "no certificate");
    host.renew().says(&["roots.pem cannot be used", "put PEM certificates there"]);
}

/// Two nginx of one certificate, each with files and a reload of its own
struct Pairs {
    host: Host,
    second: Nginx,
    second_pair: Pair,
}

impl Pairs {
    fn live() -> Self {
        let host = Host::live();
        let second_pair = Pair::in_dir(&host.site.tls().join("second"));
        std::fs::create_dir(host.site.tls().join("second")).unwrap();
        second_pair.placeholder("a.test");
        let second = nginx(&second_pair.fullchain, &second_pair.key).start();
        let pairs = Self { host, second, second_pair };
        pairs.configure("false", &pairs.host.nginx.reload(), &pairs.second.reload());
        pairs.host.site.certkeep(&["renew"]).succeeds();
        pairs
    }

    fn configure(&self, serial: &str, first: &str, second: &str) {
        let target = |name: &str, pair: &Pair, reload: &str, nginx: &Nginx| {
            format!(
                "  - name: {name}\n    copy: true\n    files:\n    \
                 - {{ path: {}, content: fullchain }}\n    - {{ path: {}, content: key }}\n    \
                 deploy:\n      reload: {reload}\n      verify: [{{ endpoint: \"a.test:443\", \
                 connect: \"{}\", within: 2s }}]\n",
                pair.fullchain.display(),
                pair.key.display(),
                nginx.address()
            )
        };
        self.host.site.configure(&format!(
            "site:\n  names: [a.test]\n  serial: {serial}\n  targets:\n{}{}",
            target("first", &self.host.pair, first, &self.host.nginx),
            target("second", &self.second_pair, second, &self.second)
        ));
    }
}

#[test]
fn a_target_that_fails_keeps_no_other_from_being_live_and_is_retried_alone() {
    let pairs = Pairs::live();
    let old = pairs.second.serves();
    let fails = format!("[{}]", program("false").display());
    pairs.configure("false", &fails, &pairs.second.reload());
    let output = pairs.host.renew();
    pairs.host.assert_as_before(old, &output);
    assert_ne!(pairs.second.serves(), old);
    assert_eq!(pairs.second.serves(), pairs.second_pair.leaf().fingerprint);
    let new = pairs.second.serves();
    pairs.configure("false", &pairs.host.nginx.reload(), &fails);
    pairs.host.site.certkeep(&["renew"]).succeeds();
    assert_eq!(pairs.host.nginx.serves(), new, "the second target was not reloaded again");
    assert_eq!(pairs.host.site.state_of("site"), "live");
}

#[test]
fn a_canary_that_fails_protects_the_targets_after_it() {
    let pairs = Pairs::live();
    let old = pairs.second.serves();
    let fails = format!("[{}]", program("false").display());
    pairs.configure("true", &fails, &pairs.second.reload());
    let output = pairs.host.renew();
    pairs.host.assert_as_before(old, &output);
    assert_eq!((pairs.second.serves(), pairs.second_pair.leaf().fingerprint), (old, old));
    pairs.configure("true", &pairs.host.nginx.reload(), &pairs.second.reload());
    pairs.host.site.certkeep(&["renew"]).succeeds();
    assert_ne!(pairs.second.serves(), old);
    assert_eq!(pairs.second.serves(), pairs.host.nginx.serves());
}

#[test]
fn a_rollback_of_targets_in_turn_stops_at_the_first_that_fails() {
    let pairs = Pairs::live();
    let old = pairs.second.serves();
    pairs.configure("true", &pairs.host.nginx.reload(), &pairs.second.reload());
    pairs.host.site.certkeep(&["renew", "--force"]).succeeds();
    let new = pairs.second.serves();
    assert_ne!(new, old);
    let fails = format!("[{}]", program("false").display());
    pairs.configure("true", &fails, &pairs.second.reload());
    pairs.host.site.certkeep(&["rollback", "site"]).exits(1);
    assert_eq!((pairs.second.serves(), pairs.second_pair.leaf().fingerprint), (new, new));
    pairs.configure("true", &pairs.host.nginx.reload(), &pairs.second.reload());
    pairs.host.site.certkeep(&["rollback", "site"]).succeeds();
    assert_eq!((pairs.host.nginx.serves(), pairs.second.serves()), (old, old));
}

#[test]
fn a_server_is_reloaded_no_more_often_than_it_may_be() {
    let host = Host::live();
    let log = host.site.path().join("reloads");
    let pid = host.nginx.pid_file();
    let text = format!("echo reload >> {}\nkill -HUP $(cat {})", log.display(), pid.display());
    let reload =
        format!("[{}]\n    max_reloads_per_hour: 2", host.script("reload", &text).display());
    host.configure(&Deploy { reload, ..host.well() });
    // The first certificate took a reload, too.
    host.site.certkeep(&["renew", "--force"]).succeeds();
    let served = host.nginx.serves();
    host.renew();
    assert_eq!(support::read(&log).lines().count(), 1);
    assert_eq!(host.nginx.serves(), served);
    let status = host.site.status("site");
    assert_eq!(
        (&status["state"], &status["actions"]),
        (&"staged".into(), &Value::from(Vec::<Value>::new())),
        "{status}"
    );
}

/// What another tool wrote over our files comes back when what replaced it is refused
#[test]
fn what_another_tool_put_there_comes_back() {
    let host = Host::live();
    for path in [&host.pair.fullchain, &host.pair.key] {
        std::fs::remove_file(path).unwrap();
    }
    host.pair.lay_down_another_client_s(&["a.test"], 90 * 86_400, 80 * 86_400);
    host.nginx.reload_by_hand();
    let theirs = host.pair.leaf().fingerprint;
    wait_until("nginx has loaded it", PATIENCE, || {
        (client::served(host.nginx.address(), "a.test").ok() == Some(theirs)).then_some(())
    });
    host.configure(&Deploy { check: host.pinning(), ..host.well() });
    let output = host.renew();
    host.assert_as_before(theirs, &output);
}

/// The intermediates of an atomic directory are those of the successor too
#[test]
fn what_another_tool_wrote_through_the_links_comes_back() {
    let ca = pebble().start();
    let site = Site::new(&ca);
    let (pair, broken) = (site.pair(), site.tls().join("broken"));
    site.configure(
        "site: { names: [a.test], dir: TLS/site, deploy: { check: [test, '!', -e, TLS/broken] } }",
    );
    site.renew();
    pair.lay_down_another_client_s(&["a.test"], 90 * 86_400, 80 * 86_400);
    let theirs = pair.leaf().fingerprint;
    support::write(&broken, "");
    let output = site.certkeep(&["renew", "--force"]).exits(1);
    assert_eq!(pair.leaf().fingerprint, theirs, "{output}");
    pair.assert_sound();
}

#[test]
fn what_the_gate_held_back_at_first_comes_back_when_its_successor_is_refused() {
    let lay_down = |pair: &Pair| {
        pair.lay_down_another_client_s(&["a.test", "b.test"], 90 * 86_400, 60 * 86_400)
    };
    let host = Host::with(lay_down);
    let theirs = host.nginx.serves();
    let check = host.pinning();
    host.configure(&host.well());
    host.site.certkeep(&["renew"]).exits(1);
    let more = "  gate: { forbid: [] }\n".to_owned();
    host.configure(&Deploy { check, more, ..host.well() });
    let output = host.site.certkeep(&["renew"]).run();
    output.says(&["this certificate is not pinned"]);
    host.assert_as_before(theirs, &output);
}

#[test]
fn a_server_that_somebody_broke_keeps_a_certificate_that_is_only_loaded_again() {
    let host = Host::live();
    host.site.certkeep(&["renew", "--force"]).succeeds();
    let served = host.nginx.serves();
    host.nginx.break_settings();
    for again in [&["deploy"], &["renew"], &["deploy"], &["renew"], &["renew"]] {
        let output = host.site.certkeep(again).run();
        host.assert_as_before(served, &output);
        output.keeps_quiet_about(&["previous files"]);
    }
    host.nginx.repair_settings();
    host.site.certkeep(&["renew"]).succeeds();
    assert_eq!(host.nginx.serves(), served);
}

#[test]
fn an_endpoint_that_is_added_is_not_taken_for_proven() {
    let host = Host::live();
    let served = host.nginx.serves();
    let mail = Pair::in_dir(&host.site.tls().join("mail"));
    std::fs::create_dir(host.site.tls().join("mail")).unwrap();
    mail.placeholder("a.test");
    let other = nginx(&mail.fullchain, &mail.key).start();
    let text = support::read(host.site.config());
    let endpoint = format!("{{ endpoint: \"mail.a.test:993\", connect: \"{}\" }}", other.address());
    let more = text.replace("verify: [{ endpoint", &format!("verify: [{endpoint}, {{ endpoint"));
    support::write(host.site.config(), &more);
    assert_eq!(host.site.state_of("site"), "installed");
    let output = host.site.certkeep(&["renew"]).run();
    output.says(&["mail.a.test:993"]);
    host.assert_as_before(served, &output);
    for (from, to) in [(&host.pair.fullchain, &mail.fullchain), (&host.pair.key, &mail.key)] {
        std::fs::copy(from, to).unwrap();
    }
    other.reload_by_hand();
    host.site.certkeep(&["renew"]).succeeds();
    // One that is taken out again is nothing to prove.
    support::write(host.site.config(), text);
    assert_eq!(host.site.state_of("site"), "live");
    assert_eq!(host.ca.issued(), 1);
}

/// Everything below a directory that is a file, with its content
fn tree(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            all.extend(tree(&path));
        } else {
            let content = std::fs::read(&path).unwrap_or_default();
            all.push((path, content));
        }
    }
    all.sort();
    all
}

#[test]
fn nothing_of_a_deployment_is_kept_when_it_is_over() {
    let host = Host::live();
    let kept = tree(&host.site.state().join("certificates/site"));
    let before: Vec<_> = kept
        .iter()
        .filter(|(path, _)| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("before"))
        })
        .collect();
    assert!(before.is_empty(), "{before:?}");
}

/// An agent that is killed between the switch and the proof knows still what answered before
#[test]
fn an_agent_killed_after_the_switch_finds_the_way_back() {
    for next in ["renew", "deploy"] {
        killed_after_the_switch(next);
    }
}

fn killed_after_the_switch(next: &str) {
    let host = Host::live();
    let old = host.nginx.serves();
    let begun = host.site.path().join("begun");
    let text = format!(": > {}\nsleep 1000", begun.display());
    let hanging = host.script("hang", &text);
    host.configure(&Deploy { reload: format!("[{}]", hanging.display()), ..host.well() });
    let mut agent: Daemon = host.site.start(&["renew", "--force"]);
    wait_until("the reload hangs", PATIENCE, || begun.exists().then_some(()));
    agent.kill();
    assert_ne!(host.pair.leaf().fingerprint, old, "the files are switched");
    host.configure(&Deploy { reload: format!("[{}]", program("false").display()), ..host.well() });
    let output = host.site.certkeep(&[next]).run();
    host.assert_as_before(old, &output);
    assert_eq!(host.ca.issued(), 2);
}
