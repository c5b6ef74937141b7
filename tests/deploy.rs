//! Commands and signals against real processes that behave badly.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use certkeep::cert::Fingerprint;
use certkeep::config::{Hook, Process, Reload, Signal};
use certkeep::deploy::{self, HookContext};
use certkeep::event::Event;
use certkeep::failure::{Failure, FailureClass, Step};
use certkeep::name::{CertName, Identifier, TargetName};
use certkeep::text::External;
use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// What a command is told about, and where it leaves its traces
struct Scene {
    directory: tempfile::TempDir,
    certificate: CertName,
    target: TargetName,
    identifiers: Vec<Identifier>,
    lines: Mutex<Vec<String>>,
}

impl Scene {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            certificate: CertName::parse("example.com").unwrap(),
            target: TargetName::parse("default").unwrap(),
            identifiers: vec![Identifier::parse("example.com").unwrap()],
            lines: Mutex::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn context(&self) -> HookContext<'_> {
        HookContext {
            certificate: &self.certificate,
            target: &self.target,
            generation: 7,
            identifiers: &self.identifiers,
            outputs: &[],
            fingerprint: Fingerprint([0; 32]),
            not_after: "2026-12-31T23:59:59Z".parse().unwrap(),
            reason: "a test",
        }
    }

    async fn check(&self, hook: &Hook) -> Result<(), Failure> {
        let report = |event| {
            let Event::HookOutput { line, .. } = event else { panic!("{event:?}") };
            self.lines.lock().unwrap().push(line.to_string());
        };
        let context = self.context();
        let contexts = [context];
        let check = deploy::check(hook, &contexts, &report);
        Ok(timeout(PATIENCE, check).await.expect("the command holds us")?)
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// A FIFO that a process group holds open for writing as long as one of it lives
    fn life_line(&self) -> (PathBuf, oneshot::Receiver<String>) {
        let fifo = self.path("life");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let (reading, (ended, end)) = (fifo.clone(), oneshot::channel());
        // Not on the runtime, which would wait for it after a test that failed.
        std::thread::spawn(move || ended.send(std::fs::read_to_string(reading).unwrap()));
        (fifo, end)
    }

    /// An executable script, written by another process: ours may fork while it holds the file,
    /// and a file that anybody holds for writing cannot be executed
    fn script(&self, name: &str, mode: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let install = ["-m", mode, "/dev/stdin", path.to_str().unwrap()];
        let mut install =
            Command::new("install").args(install).stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut install.stdin.take().unwrap(), text.as_bytes()).unwrap();
        assert!(install.wait().unwrap().success());
        path
    }
}

fn command(program: impl Into<PathBuf>, arguments: &[&str]) -> Hook {
    Hook {
        program: program.into(),
        arguments: arguments.iter().map(ToString::to_string).collect(),
        timeout: PATIENCE,
    }
}

fn sh(script: &str) -> Hook {
    command("sh", &["-c", script])
}

fn what_to_do(failure: &Failure) -> String {
    match &failure.class {
        FailureClass::NeedsOperator { what, .. } => what.to_string(),
        class => panic!("{class:?}: {failure}"),
    }
}

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_command_is_told_what_it_is_run_for() {
    let scene = Scene::new();
    let told = scene.path("told");
    let script = format!(r#"cat > {} && pwd && echo "$CERTKEEP_GENERATION""#, told.display());
    scene.check(&sh(&script)).await.unwrap();
    assert_eq!(scene.lines(), ["/", "7"]);
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(told).unwrap()).unwrap();
    assert_eq!(told["event"], "check");
    assert_eq!(told["deployments"][0]["identifiers"][0], "example.com");
}

#[tokio::test]
async fn the_environment_of_certkeep_does_not_reach_a_command() {
    const FOREIGN: [&str; 4] = ["LD_PRELOAD", "NOTIFY_SOCKET", "PYTHONPATH", "CERTKEEP_OLD"];
    if std::env::var_os("NOTIFY_SOCKET").is_none_or(|value| value != "/foreign") {
        // Once more, in a process that has what must not leak.
        let name = "the_environment_of_certkeep_does_not_reach_a_command";
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", name]).envs(FOREIGN.map(|name| (name, "/foreign")));
        let output = again.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let scene = Scene::new();
    scene.check(&command("env", &[])).await.unwrap();
    let mut names: Vec<_> =
        scene.lines().iter().map(|line| line.split('=').next().unwrap().to_owned()).collect();
    names.sort_unstable();
    let expected = [
        "CERTKEEP_CERTIFICATE",
        "CERTKEEP_CERTIFICATES",
        "CERTKEEP_EVENT",
        "CERTKEEP_FINGERPRINT",
        "CERTKEEP_GENERATION",
        "CERTKEEP_IDENTIFIERS",
        "CERTKEEP_NOT_AFTER",
        "CERTKEEP_REASON",
        "CERTKEEP_TARGET",
        "CERTKEEP_VERSION",
        "LANG",
        "PATH",
    ];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn arguments_reach_the_program_as_they_are() {
    let scene = Scene::new();
    let hostile = ["$(id)", "a b", ";id", "`id`", "*", "-n", ""];
    let mut arguments = vec!["[%s]\n"];
    arguments.extend(hostile);
    scene.check(&command("printf", &arguments)).await.unwrap();
    assert_eq!(scene.lines(), hostile.map(|argument| format!("[{argument}]")));
}

#[tokio::test]
async fn a_refusal_carries_the_status_and_the_last_lines() {
    let scene = Scene::new();
    let script = "seq 100; echo 'unknown directive' >&2; exit 3";
    let failure = scene.check(&sh(script)).await.unwrap_err();
    assert_eq!((failure.step, &failure.class), (Step::Check, &FailureClass::Retry));
    let expected = "`sh` exited with status 3: 97 | 98 | 99 | 100 | unknown directive";
    assert_eq!(failure.summary.as_str(), expected);
    let failure = scene.check(&sh("kill -SEGV $$")).await.unwrap_err();
    assert_eq!(failure.summary.as_str(), "`sh` was killed by signal 11");
}

#[tokio::test]
async fn standard_error_alone_is_no_failure() {
    let scene = Scene::new();
    scene.check(&sh("echo 'syntax is ok' >&2")).await.unwrap();
    assert_eq!(scene.lines(), ["syntax is ok"]);
}

#[tokio::test]
async fn a_command_that_leaves_a_daemon_behind_returns_at_once() {
    let scene = Scene::new();
    let (life, mut ended) = scene.life_line();
    let script = format!("exec 9>{}; sleep 1000000 & echo $! | tee /dev/fd/9", life.display());
    let started = Instant::now();
    scene.check(&sh(&script)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(ended.try_recv().is_err(), "the daemon was killed");
    let daemon: i32 = scene.lines()[0].parse().unwrap();
    kill_process(Pid::from_raw(daemon).unwrap(), rustix::process::Signal::TERM).unwrap();
    assert_eq!(timeout(PATIENCE, ended).await.unwrap().unwrap().trim(), daemon.to_string());
}

#[tokio::test]
async fn a_daemon_that_a_command_leaves_behind_may_go_on_to_write() {
    let scene = Scene::new();
    let (life, ended) = scene.life_line();
    let go = scene.path("go");
    assert!(Command::new("mkfifo").arg(&go).status().unwrap().success());
    // More than the pipe holds, written by the daemon itself.
    let script = format!(
        "exec 9>{}; (read go <{}; printf '%200000s'; echo alive >&9) & echo up",
        life.display(),
        go.display()
    );
    scene.check(&sh(&script)).await.unwrap();
    assert_eq!(scene.lines(), ["up"]);
    let mut go = std::fs::OpenOptions::new().write(true).open(go).unwrap();
    std::io::Write::write_all(&mut go, b"go\n").unwrap();
    let said = timeout(PATIENCE, ended).await.expect("nobody reads what it writes").unwrap();
    assert_eq!(said, "alive\n", "the daemon was killed");
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_stopped_with_all_that_it_started() {
    let scene = Scene::new();
    let (life, ended) = scene.life_line();
    let script = format!("exec 9>{}; sleep 1000000 & echo waiting; wait", life.display());
    let hook = Hook { timeout: Duration::from_millis(300), ..sh(&script) };
    let started = Instant::now();
    let failure = scene.check(&hook).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    let expected = "`sh` did not end in 300ms and was stopped: waiting";
    assert_eq!(failure.summary.as_str(), expected);
    timeout(PATIENCE, ended).await.expect("somebody survived").unwrap();
}

#[tokio::test]
async fn a_command_that_ignores_term_is_killed_with_all_that_it_started() {
    let scene = Scene::new();
    let (life, ended) = scene.life_line();
    let script = format!(
        "exec 9>{}; trap '' TERM; sleep 1000000 & (sleep 1000000 & sleep 1000000); wait",
        life.display()
    );
    let hook = Hook { timeout: Duration::from_millis(300), ..sh(&script) };
    let started = Instant::now();
    let failure = scene.check(&hook).await.unwrap_err();
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_secs(5) && elapsed < Duration::from_secs(9), "{elapsed:?}");
    assert!(failure.summary.as_str().contains("was stopped"), "{failure}");
    timeout(PATIENCE, ended).await.expect("somebody survived").unwrap();
}

#[tokio::test]
async fn a_command_has_time_to_end_in_order() {
    let scene = Scene::new();
    let script = "trap 'sleep 0.3; echo cleaned up; exit 1' TERM; echo up; sleep 1000000 & wait";
    let hook = Hook { timeout: Duration::from_millis(300), ..sh(script) };
    scene.check(&hook).await.unwrap_err();
    assert_eq!(scene.lines(), ["up", "cleaned up"]);
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_any_more_is_killed_with_all_that_it_started() {
    let scene = Scene::new();
    let (life, ended) = scene.life_line();
    let script = format!("trap '' TERM; exec 9>{}; sleep 1000000 & echo up; wait", life.display());
    let up = tokio::sync::Notify::new();
    let report = |_| up.notify_one();
    let (context, hook) = (scene.context(), sh(&script));
    let contexts = [context];
    tokio::select! {
        end = deploy::check(&hook, &contexts, &report) => panic!("{end:?}"),
        () = up.notified() => {}
    }
    timeout(PATIENCE, ended).await.expect("somebody survived").unwrap();
}

#[tokio::test]
async fn a_gibibyte_of_output_is_swallowed() {
    let scene = Scene::new();
    let hook = sh("echo first; head -c 1073741824 /dev/zero; echo; echo last; exit 1");
    let failure = scene.check(&hook).await.unwrap_err();
    assert!(failure.summary.as_str().ends_with("| last"), "{failure}");
    let lines = scene.lines();
    assert_eq!((lines[0].as_str(), lines.len()), ("first", 3), "{lines:?}");
    assert!(lines[1].len() <= External::LIMIT * r"\u{0}".len() + 3, "{}", lines[1].len());
}

#[tokio::test]
async fn a_command_may_read_all_of_a_long_story_or_none_of_it() {
    let mut scene = Scene::new();
    scene.identifiers = vec![Identifier::parse("a.example.com").unwrap(); 100_000];
    scene.check(&command("true", &[])).await.unwrap();
    scene.check(&sh("exec <&-; echo deaf")).await.unwrap();
    scene.check(&sh("wc -c")).await.unwrap();
    let lines = scene.lines();
    assert_eq!(lines[0], "deaf");
    assert!(lines[1].parse::<usize>().unwrap() > 1_500_000, "{lines:?}");
}

#[tokio::test]
async fn a_script_that_others_could_change_is_not_run() {
    let scene = Scene::new();
    let ran = scene.path("ran");
    let text = format!("#!/bin/sh\ntouch {}\n", ran.display());
    let cases = [("755", 0o755, true), ("775", 0o755, false), ("755", 0o777, false)];
    for (i, (mode, directory, runs)) in cases.into_iter().enumerate() {
        let folder = scene.path(&i.to_string());
        std::fs::create_dir(&folder).unwrap();
        let script = scene.script(&format!("{i}/hook"), mode, &text);
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(directory)).unwrap();
        let end = scene.check(&command(&script, &[])).await;
        let case = format!("{mode} in {directory:o}: {end:?}");
        assert_eq!((end.is_ok(), ran.exists()), (runs, runs), "{case}");
        match end {
            Ok(()) => std::fs::remove_file(&ran).unwrap(),
            Err(failure) => assert!(what_to_do(&failure).contains("chmod go-w"), "{case}"),
        }
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_for_the_operator() {
    let scene = Scene::new();
    let orphan = scene.script("orphan", "755", "#!/no/such/interpreter\n");
    let silent = scene.script("silent", "755", "echo no interpreter\n");
    let cases = [
        (command("/no/such/program", &[]), "absolute path"),
        (command("true", &["a\0b"]), "NUL"),
        (command(orphan, &[]), "interpreter"),
        (command(silent, &[]), "#!"),
    ];
    for (hook, expected) in cases {
        let failure = scene.check(&hook).await.unwrap_err();
        assert!(what_to_do(&failure).contains(expected), "{failure}");
    }
}

#[tokio::test]
async fn one_reload_is_told_about_every_deployment_of_the_batch() {
    let (a, mut b) = (Scene::new(), Scene::new());
    b.certificate = CertName::parse("example.org").unwrap();
    let told = a.path("told");
    let script = format!(r#"cat > {}; echo "$CERTKEEP_CERTIFICATES""#, told.display());
    let lines = Mutex::new(Vec::new());
    let report = |event: Event| lines.lock().unwrap().push(event.to_string());
    let reload = Reload::Command(sh(&script));
    deploy::reload(&reload, &[a.context(), b.context()], &report).await.unwrap();
    assert_eq!(*lines.lock().unwrap(), ["sh: example.com example.org"]);
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(told).unwrap()).unwrap();
    assert_eq!(told["event"], "reload");
    assert_eq!(told["deployments"][1]["certificate"], "example.org");
}

/// A shell that says `up`, and the name of the first signal that it gets
struct Server {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Server {
    fn start(program: &Path, before: &str) -> Self {
        let script = format!(
            "for s in HUP USR1 USR2 WINCH; do trap \"echo $s; kill 0\" $s; done
            {before} sleep 1000000 & echo up; wait"
        );
        let mut command = Command::new(program);
        command.args(["-c", &script]).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self { child, output };
        assert_eq!(server.line(), "up");
        server
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.child);
        kill_process_group(group, rustix::process::Signal::KILL).unwrap();
        self.child.wait().unwrap();
    }
}

fn named(name: &str) -> Process {
    Process::Name { name: name.to_owned(), user: None, cgroup: None }
}

fn in_file(path: PathBuf) -> Process {
    Process::PidFile { path, name: None }
}

async fn signal(signal: Signal, process: Process) -> Result<(), Failure> {
    let reload = Reload::Signal { signal, process };
    Ok(timeout(PATIENCE, deploy::reload(&reload, &[], &|_| ())).await.unwrap()?)
}

#[expect(clippy::disallowed_methods, reason = "a test's own file")]
fn pid_file(scene: &Scene, text: &str) -> PathBuf {
    let path = scene.path("server.pid");
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn each_signal_reaches_the_process_of_the_pid_file() {
    let scene = Scene::new();
    let cases = [
        (Signal::Hup, "HUP"),
        (Signal::Usr1, "USR1"),
        (Signal::Usr2, "USR2"),
        (Signal::Winch, "WINCH"),
    ];
    for (kind, expected) in cases {
        let mut server = Server::start(Path::new("sh"), "");
        let path = pid_file(&scene, &format!("{}\n", server.pid()));
        signal(kind, in_file(path)).await.unwrap();
        assert_eq!(server.line(), expected);
    }
}

#[tokio::test]
async fn a_pid_file_without_a_running_process_fails_the_reload() {
    let scene = Scene::new();
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let cases = [
        (format!("{}\n", ended.id()), "does not run"),
        (String::new(), "does not begin with the number of a process"),
        ("0\n".into(), "does not begin with the number of a process"),
        ("-1\n".into(), "does not begin with the number of a process"),
        (format!("{}\n", std::process::id()), "certkeep itself"),
    ];
    for (text, expected) in cases {
        let path = pid_file(&scene, &text);
        let failure = signal(Signal::Hup, in_file(path)).await.unwrap_err();
        assert_eq!(failure.step, Step::Reload);
        assert!(failure.summary.as_str().contains(expected), "{text:?}: {failure}");
    }
    let mut ended = Command::new("true").spawn().unwrap();
    let seen = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(Pid::from_child(&ended)), seen).unwrap();
    let path = pid_file(&scene, &ended.id().to_string());
    let failure = signal(Signal::Hup, in_file(path)).await.unwrap_err();
    assert!(failure.summary.as_str().contains("has ended"), "its parent did not notice: {failure}");
    ended.wait().unwrap();
    let missing = in_file(scene.path("missing"));
    let failure = signal(Signal::Hup, missing).await.unwrap_err();
    assert!(failure.summary.as_str().contains("the server does not run"), "{failure}");
}

#[tokio::test]
async fn a_pid_file_of_somebody_else_does_not_choose_our_processes() {
    let scene = Scene::new();
    let mut server = Server::start(Path::new("sh"), "");
    let path = pid_file(&scene, &server.pid());
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    let failure = signal(Signal::Usr1, in_file(path.clone())).await.unwrap_err();
    assert!(what_to_do(&failure).contains("chmod o-w"), "{failure}");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    // Only root can give a file away; for others the first half is all there is.
    if chown(&path, Some(65533), None).is_ok() {
        let failure = signal(Signal::Usr1, in_file(path.clone())).await.unwrap_err();
        assert!(what_to_do(&failure).contains("chown root"), "{failure}");
        chown(&path, Some(0), None).unwrap();
        // Who owns the directory could let another server's file take the place of this one.
        let folder = path.parent().unwrap();
        chown(folder, Some(65533), None).unwrap();
        let failure = signal(Signal::Usr1, in_file(path.clone())).await.unwrap_err();
        assert!(what_to_do(&failure).contains("chown root"), "{failure}");
        chown(folder, Some(0), None).unwrap();
    }
    // And who owns the way to it could lead to another server's.
    let way = scene.path("way");
    std::fs::create_dir(&way).unwrap();
    symlink(path.parent().unwrap(), way.join("run")).unwrap();
    let by_way = way.join("run").join(path.file_name().unwrap());
    if chown(&way, Some(65533), None).is_ok() {
        let failure = signal(Signal::Usr1, in_file(by_way.clone())).await.unwrap_err();
        assert!(what_to_do(&failure).contains("chown root"), "{failure}");
        chown(&way, Some(0), None).unwrap();
    }
    let link = scene.path("link.pid");
    symlink(&path, &link).unwrap();
    let failure = signal(Signal::Usr1, in_file(link)).await.unwrap_err();
    assert!(what_to_do(&failure).contains("name what it leads to"), "{failure}");
    signal(Signal::Hup, in_file(by_way)).await.unwrap();
    assert_eq!(server.line(), "HUP");
}

#[tokio::test]
async fn a_pid_file_in_a_container_is_not_taken_for_the_one_outside() {
    let scene = Scene::new();
    let mut server = Server::start(Path::new("sh"), "");
    let path = pid_file(&scene, &server.pid());
    // It has mounts of its own, and another file at that path.
    let script = "mount -t tmpfs tmpfs \"$1\" && echo 1 >\"$2\" && echo up && read end";
    let mut container = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .args([path.parent().unwrap(), &path])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(container.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "up\n");
    let root = PathBuf::from(format!("/proc/{}/root", container.id()));
    let inside = in_file(root.join(path.strip_prefix("/").unwrap()));
    let failure = signal(Signal::Usr1, inside).await.unwrap_err();
    assert!(what_to_do(&failure).contains("`container`"), "{failure}");
    container.kill().unwrap();
    container.wait().unwrap();
    signal(Signal::Hup, in_file(path)).await.unwrap();
    assert_eq!(server.line(), "HUP");
}

#[tokio::test]
async fn a_process_that_the_signal_would_end_does_not_get_it() {
    let scene = Scene::new();
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    let path = pid_file(&scene, &stranger.id().to_string());
    let failure = signal(Signal::Hup, in_file(path.clone())).await.unwrap_err();
    assert!(failure.summary.as_str().contains("would end it"), "{failure}");
    assert!(what_to_do(&failure).contains("name the process"), "{failure}");
    signal(Signal::Winch, in_file(path)).await.expect("it does nothing by itself");
    assert!(stranger.try_wait().unwrap().is_none(), "it was ended");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn a_pid_file_left_behind_chooses_no_process_of_another_name() {
    let scene = Scene::new();
    let mut server = Server::start(Path::new("sh"), "");
    let path = pid_file(&scene, &server.pid());
    let called = |name: &str| Process::PidFile { path: path.clone(), name: Some(name.to_owned()) };
    let failure = signal(Signal::Usr1, called("nginx")).await.unwrap_err();
    let expected = "is called `sh` and not `nginx`: the server of ";
    assert!(failure.summary.as_str().contains(expected), "{failure}");
    signal(Signal::Hup, called("sh")).await.unwrap();
    assert_eq!(server.line(), "HUP");
}

#[tokio::test]
async fn a_name_reaches_the_master_and_not_its_workers() {
    let scene = Scene::new();
    // The kernel keeps 15 bytes of it.
    let name = format!("ck{}-with-a-long-name", std::process::id());
    let program = scene.path(&name);
    symlink("/bin/sh", &program).unwrap();
    let failure = signal(Signal::Hup, named(&name)).await.unwrap_err();
    assert!(failure.summary.as_str().contains("no process called"), "{failure}");

    let worker = "(trap 'echo worker; exit' HUP; sleep 1000000 & wait) &";
    let mut server = Server::start(&program, worker);
    signal(Signal::Hup, named(&name)).await.unwrap();
    assert_eq!(server.line(), "HUP");
    drop(server);

    let (one, two) = (Server::start(&program, ""), Server::start(&program, ""));
    let failure = signal(Signal::Hup, named(&name)).await.unwrap_err();
    for pid in [one.pid(), two.pid()] {
        assert!(failure.summary.as_str().contains(&pid), "{pid}: {failure}");
    }
    assert!(what_to_do(&failure).contains("pid file"), "{failure}");
}

#[tokio::test]
async fn a_unit_that_cannot_be_reloaded_fails_the_reload() {
    let unit = |unit: &str| Reload::Systemd { unit: unit.to_owned(), timeout: PATIENCE };
    let reload = unit("certkeep-no-such-unit.service");
    let failure = Failure::from(deploy::reload(&reload, &[], &|_| ()).await.unwrap_err());
    assert_eq!(failure.step, Step::Reload);
    assert!(failure.summary.as_str().starts_with("`systemctl` "), "{failure}");
    let failure = Failure::from(deploy::reload(&unit("*"), &[], &|_| ()).await.unwrap_err());
    assert!(what_to_do(&failure).contains("one unit"), "{failure}");
}
