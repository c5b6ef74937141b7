//! Steps into a directory that others may change at any moment: one name at a time, no symlinks.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, Stat};
use rustix::fs::{fchmod, fstat, mkdirat, openat, openat2, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// The directory that the operator named, through whatever symlinks lead there
pub(super) fn open(directory: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The directory that these names lead to below another
pub(super) fn descend(directory: &Path, names: &[&str]) -> Result<OwnedFd, Errno> {
    names
        .iter()
        .try_fold(open(directory)?, |parent, name| enter(parent.as_fd(), name, OFlags::PATH))
}

/// A directory in another, if it is one itself
pub(super) fn enter(parent: BorrowedFd<'_>, name: &str, access: OFlags) -> Result<OwnedFd, Errno> {
    let flags = access | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(parent, name, flags, Mode::empty(), beneath) {
        // A kernel before 5.6, or a sandbox. A single name that is not followed is as safe.
        Err(Errno::NOSYS | Errno::PERM) => {
            openat(parent, name, flags | OFlags::NOFOLLOW, Mode::empty())
        }
        opened => opened,
    }
}

/// A new directory that everybody may enter
///
/// [`Errno::AGAIN`] when somebody else made it meanwhile.
pub(super) fn make(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    mkdirat(parent, name, OPEN).map_err(|error| match error {
        Errno::EXIST => Errno::AGAIN,
        error => error,
    })?;
    let made = enter(parent, name, OFlags::RDONLY);
    let made = made.and_then(|directory| open_up(directory.as_fd()).map(|()| directory));
    if made.is_err() {
        // What stays would be taken for somebody else's, and servers are closed out of it.
        unlinkat(parent, name, AtFlags::REMOVEDIR).unwrap_or_default();
    }
    made
}

/// Let everybody enter a directory of ours that the umask closed
///
/// Only what is ours and empty is changed: somebody may have put another directory in its place.
pub(super) fn open_up(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let stat = fstat(directory)?;
    let is_ours = stat.st_uid == geteuid().as_raw();
    if Mode::from_raw_mode(stat.st_mode).contains(OPEN) || !is_ours || !is_empty(directory)? {
        return Ok(());
    }
    let kept = Mode::from_raw_mode(stat.st_mode) & (Mode::SUID | Mode::SGID | Mode::SVTX);
    match fchmod(directory, OPEN | kept) {
        // A sandbox may forbid the bits: RestrictSUIDSGID= of systemd.
        Err(Errno::PERM) if !kept.is_empty() => fchmod(directory, OPEN),
        done => done,
    }
}

/// Whether a directory is as the umask of our units leaves one of ours before it has its mode
pub(super) fn is_closed(stat: &Stat) -> bool {
    stat.st_mode & 0o777 == 0o700 && stat.st_uid == geteuid().as_raw()
}

const OPEN: Mode = Mode::from_raw_mode(0o755);

fn is_empty(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    for entry in Dir::read_from(directory)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A whole file without a name; `None` where the file system has no such thing
pub(super) fn unnamed(directory: BorrowedFd<'_>, content: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match openat(directory, ".", flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => fill(file, content).map(Some),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A new, empty file that nobody else can read yet
pub(super) fn named(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
}

/// Write the content of a file of ours, then let everybody read it
pub(super) fn fill(file: OwnedFd, content: &[u8]) -> Result<OwnedFd, Errno> {
    let mut file = File::from(file);
    file.write_all(content).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    fchmod(&file, Mode::from_raw_mode(0o644))?;
    Ok(file.into())
}
