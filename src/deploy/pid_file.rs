//! The file in which a server left its number, and who could have chosen what is in it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, fstatfs, open, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, geteuid};

use super::trust;
use crate::failure::{Failure, Step};

/// What a pid file says, and the way that led to it
pub(super) struct PidFile {
    /// `None` when it does not begin with the number of a process
    pub(super) pid: Option<Pid>,
    /// It, and each directory and symlink on the way, with its owner
    steps: Vec<(PathBuf, u32)>,
}

impl PidFile {
    /// Read the file; `None` when there is none
    ///
    /// # Errors
    /// When everybody could have chosen what it says, or it is no file that can be read.
    pub(super) fn read(path: &Path, step: Step) -> Result<Option<Self>, Failure> {
        let shown = path.display();
        read(path).map(Some).or_else(|error| match error {
            Unread::Errno(Errno::NOENT) => Ok(None),
            Unread::Errno(errno) => {
                Err(Failure::retry(step, format!("cannot read {shown}: {errno}")))
            }
            Unread::Irregular => Err(Failure::needs_operator(
                step,
                format!("cannot read {shown}: it is no regular file"),
                "name the file in which the server writes its number",
            )),
            Unread::Link => Err(Failure::needs_operator(
                step,
                format!("{shown} is a symlink, and its owner chooses what is signalled"),
                "name what it leads to",
            )),
            Unread::Magic(link) => Err(Failure::needs_operator(
                step,
                format!(
                    "cannot read {shown}: {} is a link of /proc, which may lead elsewhere than it \
                     says",
                    link.display()
                ),
                "for a server in a container use `container`, or `process` with its `cgroup`",
            )),
            Unread::Writable(open) => Err(Failure::needs_operator(
                step,
                format!(
                    "{} can be written by everybody, who could choose what is signalled",
                    open.display()
                ),
                format!("keep it to its owner: chmod o-w {}", open.display()),
            )),
        })
    }

    /// Whether nobody chose it who could not signal a process of this user anyway
    ///
    /// # Errors
    /// When somebody else owns it, or a part of the way to it.
    pub(super) fn chooses(&self, pid: Pid, user: u32, step: Step) -> Result<(), Failure> {
        let trusted = [0, geteuid().as_raw(), user];
        match self.steps.iter().find(|(_, owner)| !trusted.contains(owner)) {
            None => Ok(()),
            Some((path, owner)) => Err(Failure::needs_operator(
                step,
                format!(
                    "{} belongs to user {owner}, and process {pid} to user {user}",
                    path.display()
                ),
                format!("give it to root, if it is right: chown root {}", path.display()),
            )),
        }
    }
}

enum Unread {
    Errno(Errno),
    Irregular,
    Link,
    /// A link on the way to it
    Magic(PathBuf),
    /// It or a directory
    Writable(PathBuf),
}

impl From<Errno> for Unread {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// Walk to the file as the kernel would, holding each directory, so that nobody leads elsewhere
/// between a look and its use
fn read(path: &Path) -> Result<PidFile, Unread> {
    let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (mut dir, mut here) = (open("/", look, Mode::empty())?, PathBuf::from("/"));
    let mut steps = Vec::new();
    let (folder, name) = (path.parent(), path.file_name());
    let mut ahead = trust::steps(folder.unwrap_or_else(|| Path::new("/")));
    let mut links = 0;
    while let Some(step) = ahead.pop_front() {
        // From `/`, which is the first step of an absolute path, the way begins anew.
        let next = openat(&dir, &step, look, Mode::empty())?;
        let (at, stat) = (here.join(&step), fstat(&next)?);
        steps.push((at.clone(), stat.st_uid));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if is_open_to_all(&stat) => return Err(Unread::Writable(at)),
            FileType::Directory => (dir, here) = (next, at),
            FileType::Symlink if trust::is_proc(fstatfs(&dir)?) => return Err(Unread::Magic(at)),
            FileType::Symlink => {
                links += 1;
                if links > trust::MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let text = readlinkat(&next, "", Vec::new())?.into_bytes();
                for step in trust::steps(OsStr::from_bytes(&text).as_ref()).into_iter().rev() {
                    ahead.push_front(step);
                }
            }
            _ => return Err(Errno::NOTDIR.into()),
        }
    }
    let (file, stat) = open_in(&dir, name.ok_or(Unread::Irregular)?)?;
    let at = here.join(name.unwrap_or_default());
    if stat.st_mode & 0o002 != 0 {
        return Err(Unread::Writable(at));
    }
    steps.push((at, stat.st_uid));
    Ok(PidFile { pid: number_in(file)?, steps })
}

/// Open a regular file
fn open_in(dir: &OwnedFd, name: &OsStr) -> Result<(File, Stat), Unread> {
    // Without NONBLOCK, a FIFO would hold us.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = openat(dir, name, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::LOOP => Unread::Link,
        errno => errno.into(),
    })?;
    let stat = fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((file.into(), stat)),
        _ => Err(Unread::Irregular),
    }
}

fn number_in(file: File) -> Result<Option<Pid>, Unread> {
    let mut text = Vec::new();
    let read = file.take(LIMIT).read_to_end(&mut text);
    read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    // PostgreSQL writes more lines after the first.
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    let number = std::str::from_utf8(first).ok().and_then(|number| number.parse::<u32>().ok());
    Ok(number.and_then(|number| Pid::from_raw(i32::try_from(number).ok()?)))
}

/// Whether anybody may replace what is in a directory
fn is_open_to_all(stat: &Stat) -> bool {
    stat.st_mode & 0o1002 == 0o002
}

/// How much of it is read, in bytes
const LIMIT: u64 = 64;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn pid_in(path: &Path) -> Option<i32> {
        let file = PidFile::read(path, Step::Reload).unwrap().unwrap();
        file.pid.map(|pid| pid.as_raw_nonzero().get())
    }

    #[test]
    fn a_pid_file_is_a_number_in_a_regular_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let cases = [
            ("1234\n", Some(1234)),
            (" 77", Some(77)),
            ("55\n/var/lib/postgresql\n1795\n", Some(55)),
            ("", None),
            ("0\n", None),
            ("-1\n", None),
            ("12 34\n", None),
            ("99999999999\n", None),
            ("4294967295\n", None),
            ("nginx\n", None),
        ];
        for (text, expected) in cases {
            use std::io::Write as _;
            File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
            assert_eq!(pid_in(&path), expected, "{text:?}");
        }
        assert!(PidFile::read(directory.path(), Step::Reload).is_err());
        assert!(PidFile::read(Path::new("/"), Step::Reload).is_err());
        let fifo = directory.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success() && PidFile::read(&fifo, Step::Reload).is_err());
        let missing = directory.path().join("missing/pid");
        assert!(PidFile::read(&missing, Step::Reload).unwrap().is_none());
    }

    #[test]
    fn the_way_to_a_pid_file_may_have_symlinks() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().join("run");
        std::fs::create_dir(&real).unwrap();
        File::create(real.join("pid")).unwrap();
        symlink("run/../run", directory.path().join("relative")).unwrap();
        symlink(&real, directory.path().join("absolute")).unwrap();
        symlink("loop", directory.path().join("loop")).unwrap();
        for name in ["relative", "absolute"] {
            assert_eq!(pid_in(&directory.path().join(name).join("pid")), None);
        }
        assert!(PidFile::read(&directory.path().join("loop/pid"), Step::Reload).is_err());
    }
}
