//! A file below a webroot that others may write: opened beneath it, through no symlink.
//!
//! The file gets its inode before it gets its name, so the record in the journal says exactly
//! which file is ours, and a web server never sees half of it. Where the file system cannot do
//! that, it is created under its name, unreadable to others until it is whole.

mod beneath;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, linkat, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::{Entry, Journal};
use crate::failure::{Failure, Step};
use crate::record::Artefact;
use crate::token::{Challenge, Token};

/// The directories that we made, to be removed when the last challenge leaves them empty
pub(super) type Directories = Mutex<BTreeSet<PathBuf>>;

/// Put a challenge below a webroot
pub(super) fn place(
    webroot: PathBuf,
    challenge: &Challenge,
    journal: &dyn Journal,
    made: Arc<Directories>,
) -> Result<Placed, Failure> {
    let path = challenges(&webroot).join(challenge.token.as_str());
    let token = challenge.token.clone();
    let mut placed = Placed { webroot, token, inode: None, file: None, entry: None, made };
    let mut attempts = 0;
    loop {
        match placed.put(&path, challenge.key_authorization.as_bytes(), journal) {
            Ok(()) => return Ok(placed),
            // Somebody moved, made or removed a directory under us.
            Err(Trouble::Io(_, Errno::AGAIN | Errno::NOENT)) if attempts < ATTEMPTS => {
                attempts += 1;
            }
            Err(trouble) => return Err(trouble.explain(&placed.webroot)),
        }
    }
}

/// Say whether a challenge could be put below a webroot, which is left as it was
pub(super) fn trial(webroot: PathBuf, made: Arc<Directories>) -> Result<(), Failure> {
    let tried = directory(&webroot, &made, false).and_then(|directory| {
        // What has no name is seen by nobody.
        let written = beneath::unnamed(directory.as_fd(), b"");
        written.map(drop).map_err(|error| Trouble::Io("write the challenge", error))
    });
    leave(&webroot, &made);
    tried.map_err(|trouble| trouble.explain(&webroot))
}

/// Remove what a crash left, if it is still the very file that the record names
///
/// Directories stay: whose they are is not known after a crash.
///
/// # Errors
/// When it is there and cannot be removed; keep the record then.
pub fn sweep(artefact: &Artefact) -> io::Result<()> {
    let Artefact::WebrootFile { path, inode: Some(inode) } = artefact else { return Ok(()) };
    let parts = || {
        let directory = path.parent()?;
        let webroot = directory.parent()?.parent()?;
        let token = Token::parse(path.file_name()?.to_str()?)?;
        (challenges(webroot) == directory).then_some((webroot, token))
    };
    match parts() {
        Some((webroot, token)) => Ok(remove(webroot, &token, *inode)?),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "not the path of a challenge")),
    }
}

/// A challenge's file; dropping it removes the file
#[derive(Debug)]
pub(super) struct Placed {
    webroot: PathBuf,
    token: Token,
    /// Device and inode, once there is a file of ours
    inode: Option<(u64, u64)>,
    /// Kept open, so that no other file gets the number of its inode
    file: Option<OwnedFd>,
    entry: Option<Box<dyn Entry>>,
    made: Arc<Directories>,
}

impl Placed {
    pub(super) fn withdraw(mut self) -> Result<(), Failure> {
        self.end().map_err(|error| {
            let path = challenges(&self.webroot).join(self.token.as_str());
            Failure::retry(Step::Authorize, format!("cannot remove {}: {error}", path.display()))
        })
    }

    fn put(&mut self, path: &Path, content: &[u8], journal: &dyn Journal) -> Result<(), Trouble> {
        let writing = |error| Trouble::Io("write the challenge", error);
        let directory = directory(&self.webroot, &self.made, true)?;
        if let Some(file) = beneath::unnamed(directory.as_fd(), content).map_err(writing)? {
            self.record(path, Some(inode(&file).map_err(writing)?), journal)?;
            let source = format!("/proc/self/fd/{}", file.as_raw_fd());
            match linkat(CWD, source, &directory, self.token.as_str(), AtFlags::SYMLINK_FOLLOW) {
                Ok(()) => {
                    self.file = Some(file);
                    return Ok(());
                }
                Err(Errno::EXIST) => return self.settle(path, directory.as_fd(), content),
                // No /proc, or a file system that makes no links.
                Err(_) => {}
            }
        }
        self.record(path, None, journal)?;
        let file = match beneath::named(directory.as_fd(), self.token.as_str()) {
            Ok(file) => file,
            Err(Errno::EXIST) => return self.settle(path, directory.as_fd(), content),
            Err(error) => return Err(writing(error)),
        };
        // From here on, dropping `self` removes it.
        self.record(path, Some(inode(&file).map_err(writing)?), journal)?;
        self.file = Some(beneath::fill(file, content).map_err(writing)?);
        Ok(())
    }

    /// Take what is there under our name already, if it says the same; it is not ours though
    ///
    /// [`Errno::AGAIN`] when a process of ours that died had not finished it: it is gone.
    fn settle(
        &mut self,
        path: &Path,
        directory: BorrowedFd<'_>,
        content: &[u8],
    ) -> Result<(), Trouble> {
        self.inode = None;
        if let Some(entry) = self.entry.take() {
            entry.forget().map_err(Trouble::Journal)?;
        }
        let look = || -> io::Result<(Stat, Vec<u8>)> {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = openat(directory, self.token.as_str(), flags, Mode::empty())?;
            let (stat, mut found) = (fstat(&file)?, Vec::new());
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                let limit = u64::try_from(content.len()).unwrap_or(u64::MAX).saturating_add(1);
                File::from(file).take(limit).read_to_end(&mut found)?;
            }
            Ok((stat, found))
        };
        match look() {
            Ok((stat, _)) if is_unfinished(&stat) => {
                remove(&self.webroot, &self.token, (stat.st_dev, stat.st_ino))
                    .map_err(|error| Trouble::Io("remove an unfinished challenge", error))?;
                Err(Trouble::Io("write the challenge", Errno::AGAIN))
            }
            Ok((_, found)) if found == content => Ok(()),
            _ => Err(Trouble::InTheWay(path.to_owned())),
        }
    }

    fn record(
        &mut self,
        path: &Path,
        inode: Option<(u64, u64)>,
        journal: &dyn Journal,
    ) -> Result<(), Trouble> {
        self.inode = inode;
        let artefact = Artefact::WebrootFile { path: path.to_owned(), inode };
        match &self.entry {
            Some(entry) => entry.amend(&artefact).map_err(Trouble::Journal)?,
            None => self.entry = Some(journal.record(&artefact).map_err(Trouble::Journal)?),
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        if let Some(inode) = self.inode {
            remove(&self.webroot, &self.token, inode)?;
            self.inode = None;
        }
        self.file = None;
        leave(&self.webroot, &self.made);
        match self.entry.take() {
            Some(entry) => entry.forget(),
            None => Ok(()),
        }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        // Nobody is left to tell; the record stays for the next sweep.
        self.end().ok();
    }
}

/// The directory of the challenges, made where it is missing, and where a crash left it closed
/// opened to the server, if it is to be mended
fn directory(webroot: &Path, made: &Directories, mend: bool) -> Result<OwnedFd, Trouble> {
    // Held throughout, so that nobody finds a directory of ours before its mode is right.
    let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
    let mut directory = beneath::open(webroot).map_err(Trouble::Webroot)?;
    let owner = fstat(&directory).map_err(Trouble::Webroot)?.st_uid;
    let mut path = webroot.to_owned();
    for name in DIRECTORIES {
        path.push(name);
        let parent = directory;
        directory = match beneath::enter(parent.as_fd(), name, OFlags::PATH) {
            Ok(found) => found,
            Err(Errno::NOENT) => {
                let new = beneath::make(parent.as_fd(), name)
                    .map_err(|error| Trouble::Io("make a directory", error))?;
                made.insert(path.clone());
                new
            }
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(Trouble::NotADirectory(path)),
            Err(error) => return Err(Trouble::Io("enter a directory", error)),
        };
        let stat = fstat(&directory).map_err(Trouble::Webroot)?;
        if mend && beneath::is_closed(&stat) {
            beneath::enter(parent.as_fd(), name, OFlags::RDONLY)
                .and_then(|it| beneath::open_up(it.as_fd()))
                .map_err(|error| Trouble::Io("open a directory up", error))?;
        }
        let user = stat.st_uid;
        if ![0, owner, geteuid().as_raw()].contains(&user) {
            return Err(Trouble::Owner(path, user));
        }
    }
    Ok(directory)
}

/// Remove the directories that we made, as far as they are empty
fn leave(webroot: &Path, made: &Directories) {
    let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
    for depth in (0..DIRECTORIES.len()).rev() {
        let (parents, name) = (&DIRECTORIES[..depth], DIRECTORIES[depth]);
        let mut path = webroot.to_owned();
        path.extend(&DIRECTORIES[..=depth]);
        if !made.contains(&path) {
            continue;
        }
        let removed = beneath::descend(webroot, parents)
            .and_then(|parent| unlinkat(&parent, name, AtFlags::REMOVEDIR));
        match removed {
            Ok(()) | Err(Errno::NOENT) => made.remove(&path),
            Err(_) => return,
        };
    }
}

/// Remove a challenge's file, if it is still ours
fn remove(webroot: &Path, token: &Token, ours: (u64, u64)) -> Result<(), Errno> {
    let removed = beneath::descend(webroot, &DIRECTORIES).and_then(|directory| {
        let there = rustix::fs::statat(&directory, token.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
        if (there.st_dev, there.st_ino) == ours {
            unlinkat(&directory, token.as_str(), AtFlags::empty())?;
        }
        Ok(())
    });
    match removed {
        // It is not where we put it, and elsewhere we do not look.
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(()),
        removed => removed,
    }
}

/// Whether this is a file of ours as [`beneath::named`] makes it, to which nobody gave its mode yet
fn is_unfinished(stat: &Stat) -> bool {
    let closed = FileType::RegularFile.as_raw_mode() | 0o600;
    stat.st_mode == closed && stat.st_nlink == 1 && stat.st_uid == geteuid().as_raw()
}

fn inode(file: &OwnedFd) -> Result<(u64, u64), Errno> {
    fstat(file).map(|stat| (stat.st_dev, stat.st_ino))
}

fn challenges(webroot: &Path) -> PathBuf {
    let mut path = webroot.to_owned();
    path.extend(DIRECTORIES);
    path
}

/// Why a challenge could not be placed
#[derive(Debug)]
enum Trouble {
    InTheWay(PathBuf),
    Io(&'static str, Errno),
    Journal(io::Error),
    NotADirectory(PathBuf),
    Owner(PathBuf, u32),
    Webroot(Errno),
}

impl Trouble {
    fn explain(self, webroot: &Path) -> Failure {
        let step = Step::Authorize;
        let webroot = webroot.display();
        match self {
            Self::InTheWay(path) => Failure::retry(
                step,
                format!("{} has the challenge's name and is not ours", path.display()),
            ),
            Self::Io(what, error @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => {
                Failure::needs_operator(
                    step,
                    format!("cannot {what} below {webroot}: {error}"),
                    format!("let certkeep write to {webroot}/.well-known/acme-challenge"),
                )
            }
            Self::Io(what, error) => {
                Failure::retry(step, format!("cannot {what} below {webroot}: {error}"))
            }
            Self::Journal(error) => {
                Failure::retry(step, format!("cannot record the challenge's file: {error}"))
            }
            Self::NotADirectory(path) => Failure::needs_operator(
                step,
                format!("{} is a symlink or no directory", path.display()),
                "make it a directory, or give the webroot that the web server really reads",
            ),
            Self::Owner(path, user) => Failure::needs_operator(
                step,
                format!("{} belongs to another user ({user})", path.display()),
                "give it to the owner of the webroot, to root, or to who runs certkeep",
            ),
            Self::Webroot(error) => Failure::needs_operator(
                step,
                format!("cannot use the webroot {webroot}: {error}"),
                "give `webroot` a directory that is there and that certkeep may enter",
            ),
        }
    }
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-8.3>
const DIRECTORIES: [&str; 2] = [".well-known", "acme-challenge"];
/// How often to start over when directories change under us
const ATTEMPTS: usize = 8;

#[cfg(test)]
mod tests;
