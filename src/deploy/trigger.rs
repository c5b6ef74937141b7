//! Writing a file anew for whoever watches it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, open, openat, renameat, unlinkat};
use tokio::task::spawn_blocking;

use super::context::HookContext;
use super::trust;
use crate::failure::{Failure, Step};

/// Put a line for each deployment in the file
///
/// The file is a new one each time, so that its time, its inode and its name's directory all
/// change: watchers look at any of them. None ever sees half of it.
pub(super) async fn pull(path: &Path, contexts: &[HookContext<'_>]) -> Result<(), Failure> {
    let lines: String = contexts
        .iter()
        .map(|c| format!("{} {} {}\n", c.certificate, c.target, c.generation))
        .collect();
    let path = path.to_owned();
    let died = |error| Failure::retry(Step::Reload, format!("the trigger is not written: {error}"));
    spawn_blocking(move || {
        preflight(&path, Step::Reload)?;
        replace(&path, &lines).map_err(|error| {
            let summary = format!("cannot write the trigger {}: {error}", path.display());
            match error.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    Failure::needs_operator(
                        Step::Reload,
                        summary,
                        "let certkeep write in its directory",
                    )
                }
                io::ErrorKind::IsADirectory => Failure::needs_operator(
                    Step::Reload,
                    summary,
                    "name a file; certkeep makes it where there is none",
                ),
                _ => Failure::retry(Step::Reload, summary),
            }
        })
    })
    .await
    .map_err(died)?
}

/// Say whether the file could be written, and only by us
pub(super) fn preflight(path: &Path, step: Step) -> Result<(), Failure> {
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    trust::directory(parent).map_err(|refusal| refusal.at(step))
}

fn replace(path: &Path, lines: &str) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::IsADirectory.into());
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(parent, flags, Mode::empty())?;
    let temporary = temporary_name(name.to_owned());
    // Left by a process that had our number and died.
    unlinkat(&directory, &temporary, AtFlags::empty()).ok();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(&directory, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
    let written = (|| {
        // For every watcher, whatever our umask.
        fchmod(&file, Mode::from_raw_mode(0o644))?;
        File::from(file).write_all(lines.as_bytes())?;
        renameat(&directory, &temporary, &directory, name).map_err(io::Error::from)
    })();
    if written.is_err() {
        unlinkat(&directory, &temporary, AtFlags::empty()).ok();
    }
    written
}

fn temporary_name(name: OsString) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut temporary = OsString::from(".");
    temporary.push(name);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    temporary.push(format!(".certkeep-{}-{number}", std::process::id()));
    temporary.into()
}
