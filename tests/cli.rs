//! What the commands say and how they end, for somebody who meets certkeep for the first time.
//!
//! The CA is the binary's own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

use support::mounts::{Mount, inside};
use support::{folder, free_port, on_one_line, program, read, tree, write};

#[test]
fn every_refusal_has_its_exit_code_and_a_hint() {
    let host = Host::new();
    let taken = host.write(
        "taken.yaml",
        &host.configuration().replace("state_dir: state", "state_dir: file/state"),
    );
    write(host.path().join("file"), "");
    let cases: [(&[&str], i32, &str); 9] = [
        (&["--config", "none.yaml", "plan"], 78, "hint: --config names another file"),
        (&["status", "nobody"], 2, "hint: it has site"),
        (&["rollback", "nobody"], 2, "hint: it has site"),
        (&["account", "rollover", "nobody"], 2, "hint: the configuration has dev"),
        (&["dev-ca", "--listen", "192.0.2.1:1"], 2, "loopback"),
        (&["revoke", "site"], 2, "--reason"),
        (&["rollback", "site"], 1, "no earlier generation"),
        (&["rollback", "site", "--to", "3"], 2, "hint: the state directory holds none"),
        (&["--config", &taken, "renew"], 2, "file"),
    ];
    for (arguments, code, said) in cases {
        let output = host.certkeep(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(said), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn too_few_open_files_are_said_to_be_too_few() {
    let host = Host::new();
    // With fewer, the dynamic linker gives up.
    for limit in 4..16 {
        let output = Command::new(program("prlimit"))
            .arg(format!("--nofile={limit}:{limit}"))
            .arg(env!("CARGO_BIN_EXE_certkeep"))
            .args(["--config", "certkeep.yaml", "renew"])
            .current_dir(host.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{limit}: {text}");
        assert!(limit > 8 || text.contains("hint: raise the limit"), "{limit}: {text}");
    }
}

#[test]
fn a_refusal_is_json_where_json_is_asked_for() {
    let host = Host::new();
    for (arguments, code) in [
        (["plan", "nobody"], 2),
        (["--config=none.yaml", "check"], 78),
        (["revoke", "site"], 2),
        (["plan", "--nonsense"], 2),
    ] {
        let output = host.certkeep(&[&arguments[..], &["--json"]].concat());
        let refused = json(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert_eq!((&refused["version"], &refused["exit"]), (&1.into(), &code.into()));
        let error = refused["error"].as_str().unwrap();
        let first = error.lines().next().unwrap();
        assert!(!error.starts_with("error: "), "{refused}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(first), "{output:?}");
    }
}

#[test]
fn no_line_is_wider_than_a_terminal_but_for_one_word() {
    let host = Host::new();
    let name = "a-certificate-whose-name-is-rather-long";
    let text = host.configuration().replace("  site:", &format!("  {name}:"))
        + "    deploy: { check: [/nowhere/a-program-that-nobody-has-installed-on-this-host] }\n";
    let fits = |arguments: &[&str]| {
        let output = host.certkeep(arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.is_empty(), "{arguments:?}");
        for line in text.lines() {
            let one_word = !line.trim().contains(' ');
            assert!(one_word || line.chars().count() <= 80, "{arguments:?}: {line}");
        }
    };
    for command in ["run", "renew", "deploy", "rollback", "account", "dev-ca", "demo"] {
        fits(&[command, "--help"]);
    }
    fits(&["--help"]);
    host.write("certkeep.yaml", &text);
    let looks: [&[&str]; 9] = [
        &["check"],
        &["plan"],
        &["status"],
        &["verify-backup"],
        &["deploy"],
        &["deploy", "--test"],
        &["renew", "--force"],
        &["renew", "--rehearse"],
        &["generations", name],
    ];
    for arguments in looks {
        fits(arguments);
    }
    let _ca = host.ca();
    for arguments in [&["renew", "--force"][..], &["renew"]].into_iter().chain(looks) {
        fits(arguments);
    }
}

#[test]
fn a_configuration_beside_the_user_is_found_with_all_that_it_names() {
    let host = Host::new();
    let output = host.certkeep(&["check", "--offline"]);
    let text = on_one_line(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("1 certificate checked: nothing stands in the way"), "{text}");
}

#[test]
fn a_check_finds_a_unit_a_user_and_roots_that_are_not_there() {
    if !inside("a_check_finds_a_unit_a_user_and_roots_that_are_not_there") {
        return;
    }
    let host = Host::new();
    let systemd = |answer: &str| {
        let program = host.path().join("systemctl");
        write(&program, format!("#!/bin/sh\n{answer}\n"));
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        Mount::bind(&program, Path::new("/bin/systemctl"))
    };
    let wrong = [
        "deploy: { reload: { systemd: ngnix.service } }",
        "deploy: { reload: { signal: { name: HUP, process: server, user: nosuchuser } } }",
        "gate: { roots: /nonexistent/roots.pem }",
        "gate: { roots: empty.pem }",
    ];
    let one = host.configuration();
    let (before, site) = one.split_once("  site:\n").unwrap();
    let sites = wrong.iter().enumerate().map(|(number, wrong)| {
        let site = site.replace("dir: tls", &format!("dir: tls{number}"));
        format!("  site{number}:\n{site}    {wrong}\n")
    });
    host.write("certkeep.yaml", &format!("{before}{}", sites.collect::<String>()));
    host.write("empty.pem", "none\n");
    let known = systemd("test \"$*\" = 'show -P LoadState -- ngnix.service' && echo not-found");
    let output = host.certkeep(&["check", "--offline"]);
    let text = on_one_line(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(1), "{text}");
    for said in [
        "error: certificates.site0.deploy.reload: systemd knows no unit `ngnix.service`",
        "error: certificates.site1.deploy: /etc/passwd has no user `nosuchuser`",
        "error: certificates.site2.gate.roots: the roots in /nonexistent/roots.pem cannot be used",
        "empty.pem cannot be used: holds no certificate",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    drop(known);
    for answer in ["echo loaded", "echo not-found; exit 1", "exit 1"] {
        let _systemd = systemd(answer);
        let output = host.certkeep(&["check", "--offline"]);
        let text = on_one_line(&String::from_utf8_lossy(&output.stdout));
        assert!(!text.contains("ngnix"), "{answer}: {text}");
    }
}

#[test]
fn who_may_not_look_is_told_so() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let host = Host::new();
    let ca = host.ca();
    host.well(&["renew"]);
    drop(ca);
    std::fs::set_permissions(host.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // The build's directory may be closed to others, so the binary comes along.
    let program = host.path().join("certkeep");
    std::fs::copy(env!("CARGO_BIN_EXE_certkeep"), &program).unwrap();
    for looking in [&["status"][..], &["renew", "--dry-run"]] {
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(looking)
            .env("CERTKEEP_CONFIG", host.path().join("certkeep.yaml"))
            .current_dir("/")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{looking:?}: {text}");
        assert!(text.contains("Permission denied") && text.contains("run it as root"), "{text}");
    }
}

#[test]
fn every_command_speaks_the_json_that_the_readme_documents() {
    let readme = read(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let documented = readme.split("\n## JSON\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let host = Host::new();
    let check = |arguments: &[&str], output: &Output| {
        let said = json(output);
        assert_eq!(said["version"], 1, "{arguments:?}: {said}");
        for member in members(&said) {
            assert!(documented.contains(&format!("`{member}`")), "{arguments:?}: {member}");
        }
    };
    for arguments in [
        &["status", "nobody", "--json"][..],
        &["deploy", "--test", "--json"],
        &["renew", "--rehearse", "--json"],
    ] {
        check(arguments, &host.certkeep(arguments));
    }
    write(host.path().join("root.pem"), "");
    let failed = ["renew", "--json"];
    check(&failed, &host.certkeep(&failed));
    let _ca = host.ca();
    for arguments in [
        &["renew", "--force"][..],
        &["renew", "--force"],
        &["deploy"],
        &["deploy", "--test"],
        &["generations", "site"],
        &["rollback", "site"],
        &["verify-backup"],
        &["account", "rollover"],
        &["account", "show"],
        &["check"],
        &["plan"],
        &["status"],
        &["revoke", "site", "--reason", "superseded"],
        &["account", "deactivate"],
    ] {
        check(arguments, &host.well(&[arguments, &["--json"]].concat()));
    }
}

#[test]
fn what_was_rolled_back_says_so_and_what_was_revoked_is_not_well() {
    let host = Host::new();
    let _ca = host.ca();
    host.well(&["renew"]);
    host.well(&["renew", "--force"]);
    let back = host.well(&["rollback", "site"]);
    let text = on_one_line(&String::from_utf8_lossy(&back.stdout));
    assert!(text.contains("back at generation 1 until there is a newer one than 2"), "{text}");
    host.well(&["deploy"]);
    host.well(&["revoke", "site", "--reason", "superseded"]);
    let status = host.certkeep(&["status", "--json"]);
    assert_eq!(status.status.code(), Some(1));
    let site = json(&status)["certificates"][0].clone();
    assert_eq!((&site["state"], &site["revoked"]), (&"live".into(), &true.into()), "{site}");
}

#[test]
fn no_command_sets_a_damaged_record_aside_without_a_word() {
    let host = Host::new();
    let _ca = host.ca();
    host.well(&["renew"]);
    host.well(&["renew", "--force"]);
    let accounts = host.path().join("state/accounts");
    let account = std::fs::read_dir(&accounts).unwrap().next().unwrap().unwrap().path();
    let account = account.join("account.json");
    let whole = read(&account);
    write(&account, "junk");
    let before = tree(&accounts);
    let shown = host.well(&["account", "show"]);
    let text = on_one_line(&String::from_utf8_lossy(&shown.stderr));
    assert!(text.contains("account.json cannot be used"), "{text}");
    let checked = host.certkeep(&["check"]);
    let text = on_one_line(&String::from_utf8_lossy(&checked.stdout));
    assert_eq!(checked.status.code(), Some(1), "{text}");
    assert!(text.contains("error: issuers.dev: ") && text.contains("cannot be used"), "{text}");
    assert_eq!(tree(&accounts), before, "a check changes nothing");
    write(&account, whole);
    let home = host.path().join("state/certificates/site");
    for (arguments, damaged) in [
        (&["rollback", "site"][..], &["attempts.json", "deploy.json"][..]),
        (&["revoke", "site", "--reason", "superseded"], &["attempts.json", "deploy.json"]),
    ] {
        damaged.iter().for_each(|record| write(home.join(record), "junk"));
        let output = host.well(arguments);
        let text = on_one_line(&String::from_utf8_lossy(&output.stderr));
        for record in damaged {
            let kept = format!("{record}.corrupt-");
            assert!(text.contains(&kept), "{arguments:?}: nothing of {kept}: {text}");
        }
    }
}

#[test]
fn an_account_that_is_not_there_is_not_registered_to_be_changed() {
    let host = Host::new();
    let _ca = host.ca();
    for change in ["rollover", "deactivate"] {
        let output = host.certkeep(&["account", change]);
        let text = on_one_line(&String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{change}: {text}");
        assert!(text.contains("there is no account at issuer `dev` yet"), "{change}: {text}");
        assert!(tree(&host.path().join("state/accounts")).is_empty(), "{change}");
    }
}

#[test]
fn what_was_revoked_is_replaced_although_it_is_new_and_under_force_at_the_latest() {
    let host = Host::new();
    let _ca = host.ca();
    let revoke = || {
        let output = host.well(&["revoke", "site", "--reason", "superseded"]);
        on_one_line(&String::from_utf8_lossy(&output.stdout))
    };
    host.well(&["renew"]);
    host.well(&["renew", "--force"]);
    let text = revoke();
    assert!(text.contains("`certkeep renew site` orders another one"), "{text}");
    host.well(&["renew", "site"]);
    host.well(&["renew", "--force"]);
    let text = revoke();
    assert!(text.contains("`certkeep renew --force site` orders another one"), "{text}");
    assert_eq!(host.certkeep(&["renew", "site"]).status.code(), Some(1));
    host.well(&["renew", "--force", "site"]);
}

#[test]
fn an_endpoint_that_a_check_proposes_can_be_written_as_it_is() {
    let host = Host::new();
    let named = host.configuration().replace("[site.test]", "['2001:db8::1']");
    host.write("certkeep.yaml", &named);
    let output = host.well(&["check", "--offline"]);
    let text = on_one_line(&String::from_utf8_lossy(&output.stdout));
    assert!(text.contains(r#"try ["[2001:db8::1]:443"]"#), "{text}");
    host.write(
        "certkeep.yaml",
        &format!("{named}    deploy: {{ verify: [\"[2001:db8::1]:443\"] }}\n"),
    );
    host.well(&["check", "--offline"]);
}

#[test]
fn the_demo_renews_until_it_has_renewed_enough() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_certkeep"));
    let output = demo.args(["--json", "demo", "--renewals", "1", "--lifetime", "10"]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = json(&output);
    assert_eq!(said["renewals"], 1, "{said}");
    assert_eq!(said["failed"], 0, "{said}");
    assert!(said["handshakes"].as_u64() > Some(10), "{said}");
    assert!(said["certificates"].as_u64() >= Some(1), "{said}");
}

/// Ctrl-C reaches every process of the terminal's foreground group.
#[test]
fn the_demo_that_is_interrupted_from_the_terminal_lost_no_handshake() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_certkeep"));
    let demo = demo.args(["demo", "--lifetime", "3600"]).process_group(0);
    let mut demo = demo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(demo.stderr.take().unwrap()).lines().map(Result::unwrap);
    let said: Vec<_> = lines
        .inspect(|line| {
            if line.contains(" live at ") {
                kill_process_group(Pid::from_child(&demo), Signal::INT).unwrap();
            }
        })
        .collect();
    let output = demo.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{said:?}");
    assert!(text.contains(" 0 failed"), "{text}\n{said:?}");
    // The plan and the proof are in the log, and each step between them is here.
    let log = said.join("\n");
    assert!(log.contains("there is no certificate yet") && log.contains("by handshake"), "{log}");
    let steps: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("    -> ")).collect();
    let expected = "prepare account order authorize finalize stage survey gate install reload \
                    verify";
    assert_eq!(steps.join(" "), expected, "{text}");
}

#[test]
fn the_development_ca_knows_the_external_accounts_that_it_is_told() {
    let host = Host::new();
    host.write("hmac", "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0\n");
    let _ca = host.ca_with(&["--eab", "me=hmac"]);
    let without = host.certkeep(&["renew"]);
    assert_eq!(without.status.code(), Some(1), "{without:?}");
    let bound = host.configuration().replace(
        "accept_terms: true",
        "accept_terms: true, eab: { key_id: me, hmac_key_file: hmac }",
    );
    host.write("bound.yaml", &bound);
    host.well(&["--config", "bound.yaml", "renew", "--force"]);
    let missing = host.certkeep(&["dev-ca", "--listen", "127.0.0.1:0", "--eab", "me=gone"]);
    let said = String::from_utf8_lossy(&missing.stderr);
    assert!(missing.status.code() == Some(2) && said.contains("gone"), "{said}");
}

#[test]
fn only_the_certificates_that_are_named_are_renewed() {
    let host = Host::new();
    let _ca = host.ca();
    let one = host.configuration();
    let (before, site) = one.split_once("  site:\n").unwrap();
    let other = site.replace("site.test", "other.test").replace("dir: tls", "dir: other");
    host.write("two.yaml", &format!("{before}  site:\n{site}  other:\n{other}"));
    host.well(&["--config", "two.yaml", "renew", "other"]);
    assert!(host.path().join("other/fullchain.pem").exists());
    assert!(!host.path().join("tls").exists());
}

#[test]
fn what_shells_editors_and_man_read_is_printed() {
    let host = Host::new();
    let manual = String::from_utf8(host.well(&["man"]).stdout).unwrap();
    assert!(manual.contains(".TH") && manual.contains("rollback"), "{manual}");
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(host.well(&["completions", shell]).stdout).unwrap();
        assert!(script.contains("certkeep") && script.contains("rollback"), "{shell}: {script}");
    }
    let mut bash = Command::new(program("bash"));
    let script = String::from_utf8(host.well(&["completions", "bash"]).stdout).unwrap();
    assert!(bash.args(["-n", "-c", &script]).status().unwrap().success());
    assert!(json(&host.well(&["schema"]))["properties"]["certificates"].is_object());
}

#[test]
fn a_reader_that_goes_away_early_is_no_error() {
    let host = Host::new();
    let mut child = host.command(&["schema"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// A directory with a configuration in it, and a user who is there
#[derive(Debug)]
struct Host {
    folder: TempDir,
    ca: u16,
    http01: u16,
}

impl Host {
    fn new() -> Self {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let host = Self { folder: folder(), ca: free_port(loopback), http01: free_port(loopback) };
        host.write("certkeep.yaml", &host.configuration());
        host
    }

    fn configuration(&self) -> String {
        let (ca, http01) = (self.ca, self.http01);
        format!(
            "state_dir: state
issuers:
  dev: {{ directory: \"https://127.0.0.1:{ca}/directory\", ca_file: root.pem, accept_terms: true }}
certificates:
  site:
    names: [site.test]
    challenge: {{ http-01: {{ listen: \"127.0.0.1:{http01}\" }} }}
    dir: tls
"
        )
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) -> String {
        write(self.path().join(name), text);
        name.to_owned()
    }

    /// The development CA, up and known to the configuration
    fn ca(&self) -> Ca {
        self.ca_with(&[])
    }

    fn ca_with(&self, more: &[&str]) -> Ca {
        let (listen, http01) = (format!("127.0.0.1:{}", self.ca), self.http01.to_string());
        let mut child = self
            .command(&["dev-ca", "--listen", &listen, "--http01-port", &http01])
            .args(["--root", "root.pem"])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("directory: "), "{line}");
        assert!(read(self.path().join("root.pem")).contains("BEGIN CERTIFICATE"));
        Ca(child)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_certkeep"));
        command.args(arguments).env("CERTKEEP_CONFIG", "certkeep.yaml").current_dir(self.path());
        command
    }

    fn certkeep(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    fn well(&self, arguments: &[&str]) -> Output {
        let output = self.certkeep(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        output
    }
}

/// A CA that ends with the value
#[derive(Debug)]
struct Ca(Child);

impl Drop for Ca {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).unwrap();
    }
}

/// The names of all members, at any depth
fn members(value: &Value) -> Vec<String> {
    match value {
        Value::Array(all) => all.iter().flat_map(members).collect(),
        Value::Object(all) => {
            let inner = all.values().flat_map(members);
            all.keys().cloned().chain(inner).collect()
        }
        _ => Vec::new(),
    }
}

#[track_caller]
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}
