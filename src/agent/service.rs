//! The agent that stays: one loop over the closed list of what can wake it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::agent::{Agent, Rounds, sleep_until};
use crate::config::Config;
use crate::event::Event;
use crate::signal::Request;
use crate::store::{Stamps, StoreError};
use crate::systemd::Systemd;
use crate::time::Timestamp;
use crate::watch::{Hint, Watch};

/// What a reading of the configuration gave: it, or every mistake in it
pub type Reloaded = Result<Config, Vec<String>>;

/// What the loop listens to and tells, beside its jobs
pub struct Controls {
    /// What the operator says, by signals of the process
    pub signals: tokio::sync::mpsc::Receiver<Request>,
    /// The service manager, if it is to be told
    pub systemd: Option<Systemd>,
    /// The configuration file
    pub config_path: PathBuf,
    /// How it looked before the configuration in force was read from it
    pub config_stamp: Option<FileStamp>,
    /// Reads the configuration file anew
    pub read_config: Box<dyn Fn() -> Reloaded + Send>,
}

impl std::fmt::Debug for Controls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controls").field("config_path", &self.config_path).finish_non_exhaustive()
    }
}

/// What can wake the loop
enum Wake {
    /// A job ended
    Done(Result<Vec<super::job::Done>, tokio::task::JoinError>),
    /// Something may have changed on disk
    Changed(Hint),
    /// The operator wants the configuration read again
    Reload,
    /// The operator or systemd wants an end
    Stop(&'static str),
    /// The planner's moment, the minute's look at the files, or the watchdog's turn
    Tick,
}

/// Whether somebody waits for a word about the configuration
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Not,
    Now,
}

impl Agent {
    /// Keep the certificates alive until told to stop
    ///
    /// # Errors
    /// When the state directory cannot be looked at, at the start.
    pub async fn run(mut self, mut controls: Controls) -> Result<(), StoreError> {
        let _at_work = self.begin().await?;
        let mut watch = Watch::new(self.watched(controls.config_path.clone()));
        let certificates = self.config.certificates.len();
        self.shared.tell(Event::Started { certificates });
        let mut told = Told::new(controls.systemd);
        let mut reading = Reading {
            last: Ok(Arc::clone(&self.config)),
            in_force: true,
            stamp: controls.config_stamp,
        };
        let mut rounds = Rounds::default();
        let mut looked_at = self.shared.now();
        let mut cleared_at = looked_at;
        let mut refreshed_at = looked_at;
        let stopped = loop {
            self.start_due(&mut rounds);
            told.turn(&self.status_text(&reading));
            let next = self.next_look(looked_at, told.interval());
            match self.wake(&mut controls, &mut watch, next).await {
                Wake::Done(done) => {
                    self.finish(done);
                    if self.jobs.is_empty() {
                        self.shared.sessions.close_idle();
                    }
                }
                Wake::Changed(hint) => {
                    self.tell_hint(hint);
                    if reading.is_outdated(&controls.config_path, self.shared.now()) {
                        self.take_over(&mut controls, &mut reading, &mut watch, Asked::Not);
                    }
                    self.look_again().await;
                    looked_at = self.shared.now();
                }
                Wake::Reload => {
                    told.reloading();
                    self.take_over(&mut controls, &mut reading, &mut watch, Asked::Now);
                    self.look_again().await;
                    looked_at = self.shared.now();
                    told.reloaded();
                }
                Wake::Stop(reason) => break reason,
                Wake::Tick => {
                    let now = self.shared.now();
                    if now.since(looked_at) >= LOOK_EVERY || now < looked_at {
                        if now.since(refreshed_at) >= REFRESH_EVERY || now < refreshed_at {
                            watch.refresh();
                            refreshed_at = now;
                        }
                        if reading.is_outdated(&controls.config_path, self.shared.now()) {
                            self.take_over(&mut controls, &mut reading, &mut watch, Asked::Not);
                        }
                        self.look_again().await;
                        looked_at = now;
                    }
                }
            }
            // Whatever woke the loop: where files change all the time, no minute passes in peace.
            let now = self.shared.now();
            if now.since(cleared_at) >= LOOK_EVERY || now < cleared_at {
                rounds = Rounds::default();
                // Held elsewhere is no verdict for ever.
                self.held_elsewhere.clear();
                cleared_at = now;
            }
        };
        told.stopping();
        let stopped_again =
            async { while let Some(Request::Reload) = controls.signals.recv().await {} };
        let drained = self.drain(stopped_again).await;
        self.remember().await;
        let reason = if drained {
            format!("{stopped}, every job had ended")
        } else {
            format!("{stopped}, some jobs were cut off and go on next time")
        };
        self.shared.tell(Event::Stopped { reason });
        Ok(())
    }

    /// The only place where the loop waits
    async fn wake(&mut self, controls: &mut Controls, watch: &mut Watch, at: Timestamp) -> Wake {
        tokio::select! {
            Some(done) = self.jobs.join_next() => Wake::Done(done),
            signal = controls.signals.recv() => match signal {
                Some(Request::Reload) => Wake::Reload,
                Some(Request::Stop(why)) => Wake::Stop(why),
                None => Wake::Stop("nobody is left to tell it anything"),
            },
            hint = watch.changed() => Wake::Changed(hint),
            () = sleep_until(&*self.shared.clock, at) => Wake::Tick,
        }
    }

    fn next_look(&self, looked_at: Timestamp, watchdog: Option<Duration>) -> Timestamp {
        let now = self.shared.now();
        let busy = self.decisions().iter().all(|d| d.actions.is_empty() || self.is_taken(d));
        // What is due and cannot be started now is looked at with the files.
        let planned = if busy { self.idle_wake() } else { self.batch_ends() };
        let mut next = planned.min(looked_at.after(LOOK_EVERY)).min(self.batch_ends());
        if let Some(interval) = watchdog {
            next = next.min(now.after(interval));
        }
        next
    }

    fn is_taken(&self, decision: &crate::plan::Decision) -> bool {
        self.busy.contains_key(&decision.certificate)
            || self.held_elsewhere.contains(&decision.certificate)
    }

    /// The soonest moment of a certificate that nobody works on
    fn idle_wake(&self) -> Timestamp {
        let idle = self.decisions().iter().filter(|decision| decision.actions.is_empty());
        let latest = self.shared.now().after(crate::plan::LONGEST_SLEEP);
        idle.map(|decision| decision.wake_at).min().unwrap_or(latest)
    }

    async fn look_again(&mut self) {
        if let Err(error) = self.observe().await {
            self.warn(None, format!("cannot look at the state directory: {error}"));
        }
    }

    /// Take a changed configuration over whole, or refuse it whole
    fn take_over(
        &mut self,
        controls: &mut Controls,
        reading: &mut Reading,
        watch: &mut Watch,
        asked: Asked,
    ) {
        // Before it is read: what changes meanwhile is read again.
        reading.stamp = FileStamp::of(&controls.config_path);
        let read = (controls.read_config)().map(Arc::new);
        // Who asks and is refused gets an answer each time.
        if read == reading.last && (reading.in_force || asked == Asked::Not) {
            return;
        }
        let taken = match &read {
            Ok(config) if config.state_dir != self.config.state_dir => {
                Err(vec!["`state_dir` cannot change while running: restart".to_owned()])
            }
            read => read.clone(),
        };
        if read.is_err() {
            // It may have been the reading that failed, which shows in no stamp.
            reading.stamp = None;
        }
        reading.last = read;
        reading.in_force = taken.is_ok();
        match taken {
            Ok(config) => {
                let certificates = config.certificates.len();
                self.config = config;
                self.stamps = Stamps::default();
                self.plan = None;
                watch.retarget(self.watched(controls.config_path.clone()));
                self.shared.tell(Event::ConfigurationAccepted { certificates });
            }
            Err(errors) => self.shared.tell(Event::ConfigurationRefused { errors }),
        }
    }

    fn tell_hint(&self, hint: Hint) {
        if let Hint::Degraded(why) = hint {
            let message = format!("changes are noticed by a look each minute only: {why}");
            self.warn(None, message);
        }
    }

    /// How it goes, as `systemctl status` shows it
    fn status_text(&self, reading: &Reading) -> String {
        let decisions = self.decisions();
        let count = |state| decisions.iter().filter(|d| d.state.as_str() == state).count();
        let mut text = format!("{} of {} certificates live", count("live"), decisions.len());
        if !self.busy.is_empty() {
            text.push_str(&format!(", working on {}", self.busy.len()));
        }
        match count("needs-operator") {
            0 => {}
            stuck => text.push_str(&format!(", {stuck} waiting for you")),
        }
        let now = self.shared.now();
        let renewals = decisions.iter().map(|decision| decision.renew_at);
        if let Some(next) = renewals.filter(|at| *at > now).min() {
            text.push_str(&format!(", next renewal {next}"));
        }
        if !reading.in_force {
            text.push_str("; the changed configuration is refused");
        }
        text
    }
}

/// What the configuration file held at the latest look
struct Reading {
    /// It, or every mistake in it
    last: Result<Arc<Config>, Vec<String>>,
    /// Whether the agent works by it
    in_force: bool,
    /// The file then, as far as it could be seen
    stamp: Option<FileStamp>,
}

impl Reading {
    /// Whether the file may hold something else by now
    fn is_outdated(&self, path: &Path, now: Timestamp) -> bool {
        let Some(stamp) = self.stamp else { return true };
        stamp.is_fresh(now) || FileStamp::of(path) != Some(stamp)
    }
}

/// What changes with a file's content: to read a large one each minute would cost more than all
/// the rest of an idle agent
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    inode: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    /// Of the file that a path leads to, if there is one
    pub fn of(path: &Path) -> Option<Self> {
        let seen = std::fs::metadata(path).ok()?;
        Some(Self {
            inode: (seen.dev(), seen.ino()),
            length: seen.len(),
            modified: (seen.mtime(), seen.mtime_nsec()),
            changed: (seen.ctime(), seen.ctime_nsec()),
        })
    }

    /// Whether the file had changed so lately that another change may look the same
    fn is_fresh(&self, now: Timestamp) -> bool {
        now.since(Timestamp::from_seconds(self.changed.0)) < SETTLED
    }
}

/// What the service manager was told; that it cannot be reached stops nothing
struct Told {
    systemd: Option<Systemd>,
    ready: bool,
    status: String,
}

impl Told {
    fn new(systemd: Option<Systemd>) -> Self {
        Self { systemd, ready: false, status: String::new() }
    }

    /// One turn of the loop, which is what feeds the watchdog
    fn turn(&mut self, status: &str) {
        let Some(systemd) = &self.systemd else { return };
        let told = if !self.ready {
            systemd.ready(status)
        } else if self.status != status {
            systemd.status(status)
        } else {
            Ok(())
        };
        self.ready = true;
        status.clone_into(&mut self.status);
        told.and_then(|()| systemd.ping()).unwrap_or_default();
    }

    fn reloading(&mut self) {
        if let Some(systemd) = self.systemd {
            systemd.reloading().unwrap_or_default();
        }
    }

    fn reloaded(&mut self) {
        self.ready = false;
    }

    fn stopping(&self) {
        if let Some(systemd) = self.systemd {
            systemd.stopping().unwrap_or_default();
        }
    }

    fn interval(&self) -> Option<Duration> {
        self.systemd.as_ref().and_then(Systemd::ping_interval)
    }
}

/// How often every file is looked at, whatever the kernel tells
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// After which time a change of a file shows in its times, whatever their grain
const SETTLED: Duration = Duration::from_secs(3);

/// How often the watches follow directories that moved far up: it costs more than a look, and only
/// makes hints come sooner
const REFRESH_EVERY: Duration = Duration::from_secs(900);
