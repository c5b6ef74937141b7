//! Running a command that may hang, fork, flood, or never read what it is told.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::io::{self, PipeReader, pipe};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::context::{HookContext, HookEvent, environment, input};
use super::trust;
use crate::config::Hook;
use crate::event::Event;
use crate::failure::{Failure, Step};
use crate::text::External;

/// What a command is run for, and who hears what it says
#[derive(Clone, Copy)]
pub(super) struct Invocation<'a> {
    pub(super) step: Step,
    pub(super) event: HookEvent,
    pub(super) contexts: &'a [HookContext<'a>],
    pub(super) report: &'a (dyn Fn(Event) + Send + Sync),
}

/// Run a command to its end; dropped before, it is killed with all of its process group
pub(super) async fn run(hook: &Hook, invocation: Invocation<'_>) -> Result<(), Unsuccessful> {
    let Invocation { step, event, contexts, report } = invocation;
    let program = hook.program.display();
    let path = trust::executable(&hook.program)
        .map_err(|refusal| Unsuccessful::NotRun(refusal.at(step)))?;
    let failed = |summary: String| Failure::retry(step, format!("`{program}` {summary}"));
    let input = input(event, contexts)
        .map_err(|e| Unsuccessful::NotRun(failed(format!("cannot be told: {e}"))))?;
    let (mut running, stdin, mut output) = Running::start(&path, hook, event, contexts, report)
        .map_err(|error| Unsuccessful::NotRun(not_started(step, &hook.program, &error)))?;

    let end = tokio::select! {
        end = running.child.wait() => Some(end),
        never = output.listen() => match never {},
        never = feed(stdin, &input) => match never {},
        () = sleep(hook.timeout) => None,
    };
    let end = match end {
        Some(end) => Ok(end),
        None => Err(running.stop(&mut output).await),
    };
    let last_lines = output.finish();
    let why = match end {
        Ok(Ok(status)) if status.success() => return Ok(()),
        Ok(Ok(status)) => format!("{}{last_lines}", Ended(status)),
        Ok(Err(error)) => format!("cannot be waited for: {error}"),
        Err(Stopped) => format!("did not end in {:?} and was stopped{last_lines}", hook.timeout),
    };
    Err(Unsuccessful::Ended(failed(why)))
}

/// A command that did not end well
#[derive(Debug)]
pub(super) enum Unsuccessful {
    /// It ran
    Ended(Failure),
    /// It never began
    NotRun(Failure),
}

impl From<Unsuccessful> for Failure {
    fn from(unsuccessful: Unsuccessful) -> Self {
        match unsuccessful {
            Unsuccessful::Ended(failure) | Unsuccessful::NotRun(failure) => failure,
        }
    }
}

fn not_started(step: Step, program: &Path, error: &io::Error) -> Failure {
    let summary = format!("`{}` cannot be started: {error}", program.display());
    match error.kind() {
        // The file is there: what is missing is the interpreter of its first line.
        io::ErrorKind::NotFound => {
            Failure::needs_operator(step, summary, "check the interpreter after its `#!`")
        }
        io::ErrorKind::PermissionDenied => {
            Failure::needs_operator(step, summary, "let certkeep execute it")
        }
        io::ErrorKind::InvalidInput => {
            Failure::needs_operator(step, summary, "take the NUL characters out of its arguments")
        }
        _ if error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => {
            Failure::needs_operator(step, summary, "begin the script with `#!` and its interpreter")
        }
        _ => Failure::retry(step, summary),
    }
}

/// Hand over the standard input; a command that does not read it, or not all, is none the worse
async fn feed(mut stdin: Option<ChildStdin>, input: &[u8]) -> Infallible {
    if let Some(stdin) = &mut stdin {
        stdin.write_all(input).await.ok();
    }
    drop(stdin);
    pending().await
}

/// A process that has not been waited for, and its process group
struct Running {
    child: Child,
}

struct Stopped;

impl Running {
    fn start<'a>(
        path: &Path,
        hook: &'a Hook,
        event: HookEvent,
        contexts: &[HookContext<'_>],
        report: &'a (dyn Fn(Event) + Send + Sync),
    ) -> io::Result<(Self, Option<ChildStdin>, Output<'a>)> {
        // One pipe for both keeps what the command says in its order.
        let (reader, writer) = pipe()?;
        let mut command = Command::new(path);
        command
            .args(&hook.arguments)
            .env_clear()
            .envs(environment(event, contexts))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mut child = command.spawn()?;
        // It holds our copies of the writing end, without which the pipe has an end.
        drop(command);
        let stdin = child.stdin.take();
        Ok((Self { child }, stdin, Output::new(reader, &hook.program, report)?))
    }

    /// The process group, for as long as its number cannot be another's
    fn group(&self) -> Option<Pid> {
        self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group() {
            // All that can go wrong is that nobody is left.
            kill_process_group(group, signal).ok();
        }
    }

    /// Whether the command itself has ended, without waiting for it and so keeping its number
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.group().is_none_or(|pid| !matches!(waitid(WaitId::Pid(pid), options), Ok(None)))
    }

    /// TERM for the whole group, and KILL for who is left after a while
    async fn stop(&mut self, output: &mut Output<'_>) -> Stopped {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + GRACE;
        // The end of the output says that nobody of the group is left to be waited for.
        while Instant::now() < deadline && !(output.ended && self.has_ended()) {
            tokio::select! {
                never = output.listen() => match never {},
                () = sleep_until(deadline.min(Instant::now() + POLL)) => {}
            }
        }
        self.signal(Signal::KILL);
        // A process in the middle of a system call that never returns is left to the kernel.
        timeout(GRACE, self.child.wait()).await.ok();
        Stopped
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// What a command writes: its first lines are reported, and its last ones kept for the failure
struct Output<'a> {
    pipe: Receiver,
    ended: bool,
    buffer: Box<[u8]>,
    transcript: Transcript<'a>,
}

impl<'a> Output<'a> {
    fn new(
        pipe: PipeReader,
        program: &'a Path,
        report: &'a (dyn Fn(Event) + Send + Sync),
    ) -> io::Result<Self> {
        let transcript = Transcript::new(program, report);
        let pipe = Receiver::from_owned_fd(pipe.into())?;
        Ok(Self { pipe, ended: false, buffer: vec![0; BUFFER].into(), transcript })
    }

    /// Take what comes; nothing is lost when dropped
    async fn listen(&mut self) -> Infallible {
        while !self.ended {
            let read = match self.pipe.readable().await {
                Ok(()) => self.pipe.try_read(&mut self.buffer),
                Err(error) => Err(error),
            };
            self.take(read);
        }
        pending().await
    }

    fn take(&mut self, read: io::Result<usize>) {
        use io::ErrorKind::{Interrupted, WouldBlock};
        match read {
            Ok(count) => {
                self.ended = count == 0;
                self.transcript.take(self.buffer.get(..count).unwrap_or_default());
            }
            Err(error) => self.ended = !matches!(error.kind(), Interrupted | WouldBlock),
        }
    }

    /// Take what is left in the pipe without waiting for its end, and tell the last lines
    ///
    /// A process that the command left behind may hold the pipe open, and may go on to write: it
    /// would be killed by SIGPIPE at its next line if nobody read.
    fn finish(mut self) -> String {
        let deadline = Instant::now() + DRAIN;
        while !self.ended && Instant::now() < deadline {
            // Read at the kernel, since the runtime may not yet know that there is something.
            match rustix::io::read(&self.pipe, &mut *self.buffer) {
                Err(Errno::WOULDBLOCK) => break,
                read => self.take(read.map_err(io::Error::from)),
            }
        }
        self.transcript.report_line();
        if !self.ended {
            swallow(self.pipe);
        }
        self.transcript.last_lines()
    }
}

/// Read for as long as anybody may write; nobody waits for it, nor does our own end
#[expect(clippy::disallowed_methods, reason = "it may live as long as the process")]
fn swallow(mut pipe: Receiver) {
    tokio::spawn(async move { tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await });
}

/// The first lines, reported, and the last ones, kept
pub(super) struct Transcript<'a> {
    program: &'a Path,
    report: &'a (dyn Fn(Event) + Send + Sync),
    /// How many bytes may still be reported
    budget: usize,
    /// The line that has not ended yet
    line: Vec<u8>,
    /// The last bytes of all
    tail: Vec<u8>,
}

impl<'a> Transcript<'a> {
    pub(super) fn new(program: &'a Path, report: &'a (dyn Fn(Event) + Send + Sync)) -> Self {
        Self { program, report, budget: REPORTED, line: Vec::new(), tail: Vec::new() }
    }

    pub(super) fn take(&mut self, chunk: &[u8]) {
        self.remember(chunk);
        if self.budget == 0 {
            return;
        }
        let shown = chunk.get(..self.budget).unwrap_or(chunk);
        self.budget -= shown.len();
        for piece in shown.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.report_line();
            }
        }
        if self.budget == 0 {
            self.report_line();
            self.line.extend_from_slice(b"(the rest of the output is not logged)");
            self.report_line();
        }
    }

    fn remember(&mut self, chunk: &[u8]) {
        let newest = chunk.get(chunk.len().saturating_sub(TAIL)..).unwrap_or_default();
        let excess = (self.tail.len() + newest.len()).saturating_sub(TAIL);
        self.tail.drain(..excess.min(self.tail.len()));
        self.tail.extend_from_slice(newest);
    }

    pub(super) fn report_line(&mut self) {
        let line = self.line.trim_ascii_end();
        if !line.is_empty() {
            let line = External::new(String::from_utf8_lossy(line));
            (self.report)(Event::HookOutput { program: self.program.to_owned(), line });
        }
        self.line.clear();
    }

    /// The last lines behind a colon, or nothing
    pub(super) fn last_lines(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let mut last = VecDeque::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(&line[..line.floor_char_boundary(LAST_LINE)]);
        }
        if last.is_empty() {
            return String::new();
        }
        format!(": {}", Vec::from(last).join(" | "))
    }
}

/// How a process ended, as the end of a sentence
struct Ended(ExitStatus);

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0.code(), self.0.signal()) {
            (Some(code), _) => write!(f, "exited with status {code}"),
            (None, Some(signal)) => write!(f, "was killed by signal {signal}"),
            (None, None) => write!(f, "ended: {}", self.0),
        }
    }
}

/// Where programs are looked up; also the `PATH` that they get
pub(super) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a process group has between TERM and KILL
const GRACE: Duration = Duration::from_secs(5);

/// How often a process group that was told to end is looked at
const POLL: Duration = Duration::from_millis(20);

/// How long the rest of the output is read after the end
const DRAIN: Duration = Duration::from_millis(100);

/// How much is read at once
const BUFFER: usize = 64 * 1024;

/// How much of the output is reported
const REPORTED: usize = 64 * 1024;

/// How much of the end of the output is kept for the failure
const TAIL: usize = 4096;

/// How many lines a failure quotes
const LAST_LINES: usize = 5;

/// How much of a line a failure quotes, so that all fit into an [`External`]
const LAST_LINE: usize = 300;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn transcript(chunks: &[&[u8]]) -> (Vec<String>, String) {
        let lines = Mutex::new(Vec::new());
        let report = |event| {
            let Event::HookOutput { line, .. } = event else { panic!("{event:?}") };
            lines.lock().unwrap().push(line.to_string());
        };
        let mut transcript = Transcript::new(Path::new("hook"), &report);
        for chunk in chunks {
            transcript.take(chunk);
        }
        transcript.report_line();
        let last = transcript.last_lines();
        (lines.into_inner().unwrap(), last)
    }

    #[test]
    fn lines_are_reported_whole_however_they_arrive() {
        let (lines, last) = transcript(&[b"on", b"e\r\n\n t", b"wo\nthree", b"\x1b[2J\xff"]);
        assert_eq!(lines, ["one", " two", "three\\u{1b}[2J\u{fffd}"]);
        assert_eq!(last, ": one | two | three\u{1b}[2J\u{fffd}");
        assert_eq!(transcript(&[b" \n\n"]), (Vec::new(), String::new()));
    }

    #[test]
    fn a_flood_is_reported_up_to_the_limit_and_its_end_is_kept() {
        let flood = "a line of the flood\n".repeat(100_000);
        let chunks: Vec<_> = flood.as_bytes().chunks(BUFFER).chain([&b"the end"[..]]).collect();
        let (lines, last) = transcript(&chunks);
        assert!(lines.len() < REPORTED / 20 + 3, "{}", lines.len());
        assert_eq!(lines.last().unwrap(), "(the rest of the output is not logged)");
        assert!(last.ends_with("| the end"), "{last}");
        assert_eq!(last.matches('|').count(), LAST_LINES - 1);
    }

    #[test]
    fn the_lines_of_a_failure_fit_into_it_with_the_last_one() {
        let long = format!("{}\n", "é".repeat(800)).repeat(7) + "the end";
        let (_, last) = transcript(&[long.as_bytes()]);
        let summary = External::new(format!("`program` exited with status 1{last}")).to_string();
        assert!(summary.ends_with("the end"), "{summary}");
    }
}
