//! One at a time in each webroot, away from the loop, and waited for no longer than is sensible.

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::{self, Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::webroot::Directories;
use crate::failure::{Failure, Step};

/// One webroot: on a network file system that hangs it keeps one thread, and no other webroot
#[derive(Debug)]
pub(super) struct Webroot {
    path: PathBuf,
    pub(super) directories: Arc<Directories>,
    turn: Arc<Mutex<()>>,
    tasks: TaskTracker,
    /// When a challenge could last be put there
    passed: sync::Mutex<Option<Instant>>,
}

impl Webroot {
    pub(super) fn new(path: &Path) -> Self {
        let (path, tasks) = (path.to_owned(), TaskTracker::new());
        let (directories, turn) = (Arc::default(), Arc::default());
        Self { path, directories, turn, tasks, passed: sync::Mutex::default() }
    }

    /// Whether a challenge could be put there a moment ago, so that nobody need try again
    pub(super) fn has_passed(&self) -> bool {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.is_some_and(|at| at.elapsed() < MOMENT)
    }

    /// Keep that a challenge could be put there now
    pub(super) fn pass(&self) {
        *self.passed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Do something there
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let failed = |summary: String| Err(Failure::retry(Step::Authorize, summary));
        match timeout(PATIENCE, self.begin(work)).await {
            Ok(Ok(done)) => done,
            Ok(Err(_gone)) => failed("the work was cut off".to_owned()),
            Err(_elapsed) => {
                let (path, limit) = (self.path.display(), PATIENCE.as_secs());
                failed(format!("the webroot {path} has not answered for {limit} s"))
            }
        }
    }

    /// The same, whether or not somebody waits for its end
    pub(super) fn begin<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, Failure>> {
        let (tell, told) = oneshot::channel();
        // What is dropped before it began, when all ends, must not touch the webroot on the loop.
        let work = ManuallyDrop::new(work);
        let job = move || {
            // Where nobody waits any more, what was done is undone here.
            drop(tell.send(ManuallyDrop::into_inner(work)()));
        };
        let turn = Arc::clone(&self.turn);
        match (Arc::clone(&turn).try_lock_owned(), THREADS.try_acquire()) {
            (Ok(turn), Ok(thread)) => drop(spawn_blocking(move || in_turn(job, (turn, thread)))),
            _ => drop(self.tasks.spawn(async move {
                let turn = turn.lock_owned().await;
                // Nobody ever closes it.
                if let Ok(thread) = THREADS.acquire().await {
                    drop(spawn_blocking(move || in_turn(job, (turn, thread))));
                }
            })),
        }
        told
    }
}

fn in_turn<T>(job: impl FnOnce(), turn: T) {
    job();
    drop(turn);
}

/// The threads that webroots may keep, of those that the disk needs too
static THREADS: Semaphore = Semaphore::const_new(AT_ONCE);

/// How many webroots are worked in at once
pub const AT_ONCE: usize = 4;

/// Orders that begin at once have one trial; by the next cycle, a disk may be full
const MOMENT: Duration = Duration::from_secs(10);

/// How long a webroot is waited for
const PATIENCE: Duration = Duration::from_secs(30);
