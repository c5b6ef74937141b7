//! Hints that the configuration or an output may have changed.
//!
//! Never the truth: the agent looks at all files every minute anyway, and a hint only lets it look
//! sooner. So nothing here fails; what cannot be watched is said once.

mod links;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{ErrorKind, Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use self::links::{Found, key};
use crate::text::External;

/// What [`Watch::changed`] has to say
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Something may have changed: look
    Look,
    /// Some changes will be seen only by looking regularly, and this is why
    Degraded(External),
}

/// Watches files at their paths, through whatever symlinks lead to them now
///
/// For each path it watches the directory that it is in, that of every symlink on the way and
/// that of what they lead to, or, while something is missing, the directory where it would be.
/// Each directory is watched once, however many files it has.
#[derive(Debug)]
pub struct Watch {
    paths: Vec<PathBuf>,
    shared: Arc<Shared>,
    watcher: Option<RecommendedWatcher>,
    /// The watched directories, with device and inode
    directories: HashMap<PathBuf, (u64, u64)>,
    /// When the burst of events that is under way will be reported
    due: Option<Instant>,
    /// What cannot be watched, until it is said
    trouble: Option<External>,
    told: Option<External>,
}

/// What the thread that reads the events knows
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The keys of the paths that matter
    matters: HashSet<u64>,
    /// What was moved or removed; if it was a directory, its watch went with it
    lost: BTreeSet<PathBuf>,
}

impl Watch {
    /// Begin to watch these paths; look at them once afterwards
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut watch = Self {
            paths: Vec::new(),
            shared: Arc::default(),
            watcher: None,
            directories: HashMap::new(),
            due: None,
            trouble: None,
            told: None,
        };
        watch.retarget(paths);
        watch
    }

    /// Watch these paths in place of the former ones; look at them once afterwards
    pub fn retarget(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        self.paths = paths.into_iter().collect();
        self.paths.sort_unstable();
        self.paths.dedup();
        self.paths.shrink_to_fit();
        self.refresh();
    }

    /// Wait until something may have changed
    ///
    /// Events of a tenth of a second become one hint. When the wait is dropped, no hint is lost.
    pub async fn changed(&mut self) -> Hint {
        if let Some(trouble) = self.trouble.take() {
            return Hint::Degraded(trouble);
        }
        let due = match self.due {
            Some(due) => due,
            None => {
                self.shared.changed.notified().await;
                *self.due.insert(Instant::now() + DEBOUNCE)
            }
        };
        sleep_until(due).await;
        self.due = None;
        // What came meanwhile belongs to this hint.
        tokio::select! {
            biased;
            () = self.shared.changed.notified() => {}
            () = std::future::ready(()) => {}
        }
        self.refresh();
        Hint::Look
    }

    /// Find out anew where the paths lead
    ///
    /// Part of [`Watch::changed`]. Call it now and then with a regular look, too: a directory far up that is
    /// moved tells nobody, and a watch that was refused may be granted by now.
    pub fn refresh(&mut self) {
        let mut trouble = None;
        if self.watcher.is_none() {
            let shared = Arc::clone(&self.shared);
            match notify::recommended_watcher(move |event| shared.hear(&event)) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => trouble = Some(explain(None, &error)),
            }
        }
        // What changes between looking and watching is found by looking again.
        for _ in 0..ROUNDS {
            let found = links::resolve(&self.paths);
            if !self.follow(found, &mut trouble) {
                break;
            }
        }
        if trouble != self.told {
            self.trouble.clone_from(&trouble);
            self.told = trouble;
        }
    }

    /// Watch these directories and no others; whether there was a new one
    fn follow(&mut self, found: Found, trouble: &mut Option<External>) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let Found { directories: wanted, names: mut matters } = found;
        matters.extend(wanted.iter().map(|directory| key(directory)));
        // Not held below: the watcher waits for its thread, which may wait for this lock.
        let lost = {
            let mut state = self.shared.lock();
            state.matters = matters;
            std::mem::take(&mut state.lost)
        };
        let is_stale = |path: &PathBuf, inode: &(u64, u64)| {
            !wanted.contains(path)
                || lost.iter().any(|lost| path.starts_with(lost))
                || identity(path).as_ref() != Some(inode)
        };
        let stale: Vec<_> =
            self.directories.extract_if(|path, inode| is_stale(path, inode)).collect();
        for (path, _) in stale {
            // It may have gone with its directory.
            watcher.unwatch(&path).ok();
        }
        let mut new = false;
        // In their order, so that what cannot be watched is the same each time.
        for path in BTreeSet::from_iter(wanted) {
            if self.directories.contains_key(&path) {
                continue;
            }
            let Some(inode) = identity(&path) else {
                new = true;
                continue;
            };
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    new = true;
                    self.directories.insert(path, inode);
                }
                Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => new = true,
                Err(error) => {
                    trouble.get_or_insert_with(|| explain(Some(&path), &error));
                }
            }
        }
        new
    }
}

impl Shared {
    fn hear(&self, event: &notify::Result<Event>) {
        if self.concerns(event) {
            self.changed.notify_one();
        }
    }

    fn concerns(&self, event: &notify::Result<Event>) -> bool {
        let Ok(event) = event else { return true };
        if event.need_rescan() {
            return true;
        }
        let written = AccessKind::Close(AccessMode::Write);
        if matches!(event.kind, EventKind::Access(access) if access != written) {
            return false;
        }
        let gone = EventKind::is_remove(&event.kind)
            || matches!(event.kind, EventKind::Modify(ModifyKind::Name(_)));
        let mut state = self.lock();
        let mut concerns = false;
        for path in event.paths.iter() {
            if state.matters.contains(&key(path)) {
                concerns = true;
                if gone {
                    state.lost.insert(path.clone());
                }
            }
        }
        concerns
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn identity(directory: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(directory).ok().map(|stat| (stat.dev(), stat.ino()))
}

fn explain(path: Option<&Path>, error: &notify::Error) -> External {
    let what = match path {
        Some(path) => format!("watch {}", path.display()),
        None => "watch files".to_owned(),
    };
    let why = match &error.kind {
        ErrorKind::MaxFilesWatch => "the limit fs.inotify.max_user_watches is reached".to_owned(),
        ErrorKind::Io(error) if error.raw_os_error() == Some(EMFILE) => {
            "the limit fs.inotify.max_user_instances is reached".to_owned()
        }
        ErrorKind::Io(error) => error.to_string(),
        _ => error.to_string(),
    };
    External::new(format!("cannot {what}: {why}; changes are seen at the next regular look"))
}

/// How long events are gathered before they are reported
const DEBOUNCE: Duration = Duration::from_millis(100);
/// How often to look again when directories change faster than they can be watched
const ROUNDS: usize = 8;
/// What inotify says when there are too many instances
const EMFILE: i32 = rustix::io::Errno::MFILE.raw_os_error();

#[cfg(test)]
mod tests;
