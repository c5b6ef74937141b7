//! A host as certkeep sees it: a configuration, a state directory, places for files; and the
//! compiled binary at work on it.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

use super::pair::Pair;
use super::pebble::Pebble;
use super::process::Daemon;
use super::{folder, on_one_line, wait_until, write};

/// A host with its own configuration and state
#[derive(Debug)]
pub(crate) struct Site {
    folder: TempDir,
    issuer: String,
    challenge: String,
}

impl Site {
    /// A host whose one issuer is this Pebble, and which answers http-01 by itself
    pub(crate) fn new(pebble: &Pebble) -> Self {
        Self::with_issuer(pebble, "")
    }

    /// The same, with more lines in the issuer's map, such as `profile: shortlived`
    pub(crate) fn with_issuer(pebble: &Pebble, more: &str) -> Self {
        let mut issuer = format!(
            "  pebble:\n    directory: {}\n    ca_file: {}\n    accept_terms: true\n",
            pebble.directory(),
            pebble.ca_file().display()
        );
        for line in more.lines() {
            writeln!(issuer, "    {line}").unwrap();
        }
        let folder = folder();
        std::fs::create_dir(folder.path().join("tls")).unwrap();
        std::fs::create_dir(folder.path().join("www")).unwrap();
        let challenge = format!("{{ http-01: {{ listen: \"{}\" }} }}", pebble.http01());
        Self { folder, issuer, challenge }
    }

    /// Let a web server answer http-01 from [`Self::webroot`]
    #[must_use]
    pub(crate) fn answering_by_webroot(mut self) -> Self {
        self.challenge = format!("{{ http-01: {{ webroot: {} }} }}", self.webroot().display());
        self
    }

    /// Answer http-01 at another address, to which a proxy hands it on
    #[must_use]
    pub(crate) fn listening_on(mut self, address: SocketAddr) -> Self {
        self.challenge = format!("{{ http-01: {{ listen: \"{address}\" }} }}");
        self
    }

    /// Write the configuration with these certificates, a YAML map; `TLS` is [`Self::tls`]
    pub(crate) fn configure(&self, certificates: &str) {
        let mut text = format!(
            "state_dir: {}\nissuers:\n{}defaults:\n  challenge: {}\n  \
             deploy: {{ timeout: 20s, within: 20s }}\ncertificates:\n",
            self.state().display(),
            self.issuer,
            self.challenge
        );
        let certificates = certificates.replace("TLS", &self.tls().display().to_string());
        for line in certificates.lines() {
            writeln!(text, "  {line}").unwrap();
        }
        write(self.config(), text);
    }

    /// Write the configuration with one certificate `site` for these names, in `TLS/site`
    pub(crate) fn configure_one(&self, names: &[&str]) {
        self.configure(&format!("site: {{ names: [{}], dir: TLS/site }}", names.join(", ")));
    }

    /// The pair of [`Self::configure_one`]
    pub(crate) fn pair(&self) -> Pair {
        Pair::in_dir(&self.tls().join("site"))
    }

    /// Everything of this host
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where servers find their certificates
    pub(crate) fn tls(&self) -> PathBuf {
        self.path().join("tls")
    }

    /// What a web server serves
    pub(crate) fn webroot(&self) -> PathBuf {
        self.path().join("www")
    }

    /// certkeep's state directory
    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Lose the whole state directory
    pub(crate) fn lose_state(&self) {
        std::fs::remove_dir_all(self.state()).unwrap();
    }

    /// certkeep's configuration
    pub(crate) fn config(&self) -> PathBuf {
        self.path().join("certkeep.yaml")
    }

    /// A certkeep on this configuration, with these words after it
    pub(crate) fn certkeep(&self, arguments: &[&str]) -> Invocation {
        let mut command = self.bare();
        command.arg("--config").arg(self.config()).args(arguments);
        Invocation { command, within: Duration::from_secs(120) }
    }

    /// The same for another user, who is in these groups and has nothing else
    ///
    /// The binary comes along, since the build's directory may be closed to others.
    pub(crate) fn certkeep_as(&self, user: u32, groups: &[u32], arguments: &[&str]) -> Invocation {
        let program = self.path().join("certkeep");
        if !program.exists() {
            std::fs::copy(env!("CARGO_BIN_EXE_certkeep"), &program).unwrap();
        }
        let groups: Vec<_> = groups.iter().map(ToString::to_string).collect();
        let mut command = self.bare_with(super::program("setpriv"));
        command.arg(format!("--reuid={user}")).arg(format!("--regid={user}"));
        match groups.is_empty() {
            true => command.arg("--clear-groups"),
            false => command.arg(format!("--groups={}", groups.join(","))),
        };
        command.arg(program).arg("--config").arg(self.config()).args(arguments);
        Invocation { command, within: Duration::from_secs(120) }
    }

    /// The same, run by an instrument: its program, and the words before certkeep's own
    pub(crate) fn certkeep_under(
        &self,
        instrument: impl IntoIterator<Item = impl Into<OsString>>,
        arguments: &[&str],
    ) -> Invocation {
        let mut words = instrument.into_iter().map(Into::into);
        let mut command = self.bare_with(words.next().unwrap());
        command.args(words).arg(env!("CARGO_BIN_EXE_certkeep"));
        command.arg("--config").arg(self.config()).args(arguments);
        Invocation { command, within: Duration::from_secs(120) }
    }

    /// `renew`, which must end well
    #[track_caller]
    pub(crate) fn renew(&self) -> Output {
        self.certkeep(&["renew"]).succeeds()
    }

    /// A certkeep in the background, such as for `run`
    pub(crate) fn start(&self, arguments: &[&str]) -> Daemon {
        let mut command = self.bare();
        command.arg("--config").arg(self.config()).args(arguments);
        Daemon::start(&mut command, &self.path().join("certkeep.log")).unwrap()
    }

    /// The same, run by an instrument: its program, and the words before certkeep's own
    pub(crate) fn start_under(&self, instrument: &[&str], arguments: &[&str]) -> Daemon {
        let mut command = self.bare_with(super::program(instrument[0]));
        command.args(&instrument[1..]).arg(env!("CARGO_BIN_EXE_certkeep"));
        command.arg("--config").arg(self.config()).args(arguments);
        Daemon::start(&mut command, &self.path().join("certkeep.log")).unwrap()
    }

    /// What `status --json` says about a certificate
    #[track_caller]
    pub(crate) fn status(&self, name: &str) -> Value {
        let output = self.certkeep(&["--json", "status"]).run();
        let all = output.json();
        let certificates = all["certificates"].as_array().unwrap();
        let found = certificates.iter().find(|certificate| certificate["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {all}")).clone()
    }

    /// The state of a certificate, one word
    #[track_caller]
    pub(crate) fn state_of(&self, name: &str) -> String {
        self.status(name)["state"].as_str().unwrap().to_owned()
    }

    fn bare(&self) -> Command {
        self.bare_with(env!("CARGO_BIN_EXE_certkeep"))
    }

    fn bare_with(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.path())
            .env("LC_ALL", "C.UTF-8")
            .current_dir(self.path());
        command
    }
}

/// A certkeep that is about to run
#[derive(Debug)]
#[must_use]
pub(crate) struct Invocation {
    command: Command,
    within: Duration,
}

impl Invocation {
    /// Give it a network of its own, in which nothing is configured
    pub(crate) fn alone(self) -> Self {
        self.through(&["unshare", "--net", "--"])
    }

    /// Let it make nothing that others may read, unless it says so
    pub(crate) fn masked(self) -> Self {
        self.through(&["sh", "-c", "umask 077; exec \"$@\"", "sh"])
    }

    /// Let somebody watch it
    pub(crate) fn on_a_terminal(self) -> Self {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        let words: Vec<_> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
        let mut command = Command::new(super::program("script"));
        command.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
        command.env_clear().env("TERM", "xterm");
        for (name, value) in self.command.get_envs() {
            command.env(name, value.unwrap());
        }
        Self { command, ..self }
    }

    fn through(self, words: &[&str]) -> Self {
        let (program, arguments) = words.split_first().unwrap();
        let mut command = Command::new(super::program(program));
        command.args(arguments).arg(self.command.get_program());
        command.args(self.command.get_args()).env_clear();
        for (name, value) in self.command.get_envs() {
            command.env(name, value.unwrap());
        }
        Self { command, ..self }
    }

    /// Set a variable of its environment
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Give it this long, in place of two minutes
    pub(crate) fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Run it to its end
    #[track_caller]
    pub(crate) fn run(self) -> Output {
        self.spawn().finish()
    }

    /// Run it; it must end well
    #[track_caller]
    pub(crate) fn succeeds(self) -> Output {
        self.exits(0)
    }

    /// Run it; it must end with this code
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Output {
        let output = self.run();
        assert_eq!(output.code, Some(code), "{output}");
        output
    }

    /// Run it beside this test
    #[track_caller]
    pub(crate) fn spawn(mut self) -> Running {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            self.command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.command));
        let stdout = gather(child.stdout.take().unwrap());
        let stderr = gather(child.stderr.take().unwrap());
        Running { said: format!("{:?}", self.command), child, stdout, stderr, within: self.within }
    }
}

type Gathering = std::thread::JoinHandle<String>;

fn gather(mut pipe: impl Read + Send + 'static) -> Gathering {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A certkeep at work
#[derive(Debug)]
pub(crate) struct Running {
    said: String,
    child: std::process::Child,
    stdout: Gathering,
    stderr: Gathering,
    within: Duration,
}

impl Running {
    /// Send it a signal, if it still runs
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.child.try_wait().unwrap().is_none() {
            // Not reaped yet, so the number is still its own.
            rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
        }
    }

    /// Wait for its end; past its time it is killed and the test fails
    #[track_caller]
    pub(crate) fn finish(mut self) -> Output {
        let deadline = std::time::Instant::now() + self.within;
        let status = wait_until(&self.said, self.within + Duration::from_secs(5), || {
            if std::time::Instant::now() >= deadline {
                self.child.kill().unwrap();
            }
            self.child.try_wait().unwrap()
        });
        let output = Output {
            command: self.said,
            code: status.code(),
            signal: status.signal(),
            stdout: self.stdout.join().unwrap(),
            stderr: self.stderr.join().unwrap(),
        };
        assert!(
            std::time::Instant::now() < deadline,
            "not done within {:?}: {output}",
            self.within
        );
        output
    }
}

/// How a certkeep ended, and what it said
#[derive(Clone, Debug)]
pub(crate) struct Output {
    command: String,
    /// The exit code, unless a signal ended it
    pub(crate) code: Option<i32>,
    /// The signal that ended it
    pub(crate) signal: Option<i32>,
    /// The data
    pub(crate) stdout: String,
    /// The log
    pub(crate) stderr: String,
}

impl Output {
    /// Fail unless it said all of this, on either stream, on however many lines
    #[track_caller]
    pub(crate) fn says(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.has(word), "{word:?}? {self}");
        }
        self
    }

    /// Fail if it said any of this
    #[track_caller]
    pub(crate) fn keeps_quiet_about(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(!self.has(word), "{word:?}! {self}");
        }
        self
    }

    fn has(&self, words: &str) -> bool {
        let words = on_one_line(words);
        [&self.stdout, &self.stderr].iter().any(|said| on_one_line(said).contains(&words))
    }

    /// The data as JSON
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, code, signal, stdout, stderr } = self;
        writeln!(f, "{command}\nexit code {code:?}, signal {signal:?}")?;
        write!(f, "--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}
