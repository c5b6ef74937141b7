//! The compiled binary with reloads that misbehave.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use support::host::{Host, Layout};
use support::site::Output;
use support::{program, read, write};

/// A host whose certificate is live, and whose reload misbehaves from now on
struct Scene {
    host: Host,
    before: Vec<Vec<u8>>,
}

impl Scene {
    /// The reload does as this script says
    fn new(script: &str) -> Self {
        let host = Host::new(&[Layout::Links, Layout::Copies]);
        let text = read(host.site.config());
        write(host.site.config(), text.replace("timeout: 20s", "timeout: 2s"));
        let before = contents(&host);
        let scene = Self { host, before };
        // Whatever it starts has this file open, by which it is found.
        let script = format!("#!/bin/sh\nexec 9>{}\n{script}\n", scene.life_line().display());
        write(scene.host.reload(), script);
        scene
    }

    fn life_line(&self) -> PathBuf {
        self.host.site.path().join("life")
    }

    fn renew(&self) -> (Output, Duration) {
        let begun = Instant::now();
        let output = self.host.site.certkeep(&["--log-level", "debug", "renew", "--force"]).run();
        (output, begun.elapsed())
    }

    /// The files from before are back, and the certificate is tried again without an order
    fn assert_undone(&self, output: &Output, words: &[&str]) {
        assert_eq!(output.code, Some(1), "{output}");
        output.says(words);
        assert_eq!(contents(&self.host), self.before, "{output}");
        assert_eq!(self.host.site.state_of("site"), "staged", "{output}");
        let orders = self.host.ca.orders();
        write(self.host.reload(), "#!/bin/sh\n");
        let rest = self.host.site.renew();
        assert_eq!(self.host.ca.orders(), orders, "{rest}");
        self.assert_live(&rest);
    }

    fn assert_live(&self, output: &Output) {
        assert_eq!(output.code, Some(0), "{output}");
        assert_ne!(contents(&self.host), self.before, "{output}");
        self.host.assert_sound(false, output);
        self.host.assert_tidy(output);
        assert_eq!(self.host.site.state_of("site"), "live", "{output}");
    }

    /// The processes that the reload started and that live
    fn survivors(&self) -> Vec<String> {
        let life = self.life_line();
        let mut found = Vec::new();
        for process in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            let Ok(open) = std::fs::read_dir(process.path().join("fd")) else { continue };
            let mut open = open.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
            if open.any(|path| path == life) {
                found.push(process.file_name().into_string().unwrap());
            }
        }
        found
    }
}

fn contents(host: &Host) -> Vec<Vec<u8>> {
    let outputs = host.layouts.iter().flat_map(|layout| host.outputs(*layout));
    outputs.map(|(_, path): (_, PathBuf)| std::fs::read(path).unwrap()).collect()
}

#[test]
fn a_reload_that_hangs_is_stopped_and_undone() {
    let scene = Scene::new("echo waiting; sleep 1000000 & wait");
    let (output, took) = scene.renew();
    // Once with the new files, and once with those that are back.
    assert!(took < Duration::from_secs(12), "{took:?}: {output}");
    assert_eq!(scene.survivors(), [""; 0], "{output}");
    scene.assert_undone(&output, &["did not end in 2s and was stopped: waiting", "are back"]);
}

#[test]
fn a_reload_that_ignores_term_is_killed_and_undone() {
    let scene = Scene::new("trap '' TERM; (trap '' TERM; sleep 1000000) & echo deaf; wait; wait");
    let (output, took) = scene.renew();
    assert!(took < Duration::from_secs(25), "{took:?}: {output}");
    assert_eq!(scene.survivors(), [""; 0], "{output}");
    scene.assert_undone(&output, &["did not end in 2s and was stopped: deaf", "are back"]);
}

#[test]
fn a_reload_that_leaves_a_daemon_behind_is_not_waited_for() {
    // It has everything open that it was given.
    let scene = Scene::new("setsid sleep 1000000 & echo started");
    let (output, took) = scene.renew();
    let survivors = scene.survivors();
    for survivor in &survivors {
        let pid = Pid::from_raw(survivor.parse().unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }
    assert_eq!(survivors.len(), 1, "the daemon was killed: {output}");
    assert!(took < Duration::from_secs(10), "{took:?}: {output}");
    output.says(&["started"]);
    scene.assert_live(&output);
}

#[test]
fn a_reload_that_prints_a_gibibyte_is_heard_out_in_little_memory() {
    let scene = Scene::new("head -c 1073741824 /dev/zero");
    let text = read(scene.host.site.config());
    write(scene.host.site.config(), text.replace("timeout: 2s", "timeout: 60s"));
    let limit = [program("prlimit").into_os_string(), "--data=268435456".into()];
    let output =
        scene.host.site.certkeep_under(limit, &["--log-level", "debug", "renew", "--force"]).run();
    output.says(&["(the rest of the output is not logged)"]);
    assert!(output.stderr.len() < 1 << 20, "{} bytes", output.stderr.len());
    scene.assert_live(&output);
}

#[test]
fn a_reload_that_writes_only_to_standard_error_is_no_failure() {
    let scene = Scene::new("echo 'signal process started' >&2");
    let (output, _) = scene.renew();
    output.says(&["signal process started"]);
    scene.assert_live(&output);
}
