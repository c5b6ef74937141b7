//! Directories as descriptors: every change is made relative to one that was looked at.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::OWN;
use super::error::{SET_OWNER, StoreError};
use super::label::{Acl, Labels, SET_ACL};
use super::walk::Held;

/// An open directory, with its path for messages
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// Permission bits and ownership of a file
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Attributes {
    /// For what nobody else may read
    pub(super) fn private() -> Self {
        let (uid, gid) = ourselves();
        Self { mode: 0o600, uid, gid }
    }

    /// What comes nearest to this where nothing can be given to its owner, and is never wider:
    /// of ours and in its group, or else closed to the group
    fn nearest(self) -> [Self; 2] {
        let (uid, gid) = ourselves();
        [Self { uid, ..self }, Self { uid, gid, mode: self.mode & !0o070 }]
    }

    pub(super) fn of(stat: &Stat) -> Self {
        Self { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid }
    }

    /// Whether only root, we and the owner can give another name to what others made in this
    /// directory
    fn is_closed(self) -> bool {
        self.mode & 0o022 == 0 || self.mode & STICKY != 0
    }

    /// Whether only root and we can
    fn is_safe(self) -> bool {
        [0, ourselves().0].contains(&self.uid) && self.is_closed()
    }
}

/// The user and group that certkeep runs as
pub(super) fn ourselves() -> (u32, u32) {
    static IDS: OnceLock<(u32, u32)> = OnceLock::new();
    *IDS.get_or_init(|| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()))
}

impl Dir {
    pub(super) fn from_fd(fd: OwnedFd, path: PathBuf) -> Self {
        Self { fd, path }
    }

    /// Open a directory; `None` when there is none
    pub(super) fn find(path: &Path) -> Result<Option<Self>, StoreError> {
        match fs::open(path, DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Some(Self::from_fd(fd, path.to_owned()))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(StoreError::system("open", path, errno)),
        }
    }

    /// The same directory once more
    pub(super) fn again(&self) -> Result<Self, StoreError> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)
            .map_err(|errno| StoreError::system("open", &self.path, errno))?;
        Ok(Self::from_fd(fd, self.path.clone()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Open a directory within, following no symlink; `None` when there is none
    pub(super) fn child(&self, name: impl AsRef<OsStr>) -> Result<Option<Self>, StoreError> {
        let name = name.as_ref();
        match fs::openat(&self.fd, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Some(Self::from_fd(fd, self.join(name)))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.error("open", name, errno)),
        }
    }

    /// Open a directory of ours within, made when there is none, with at least these permission bits
    pub(super) fn ensure_child(&self, name: &str, mode: u32) -> Result<Self, StoreError> {
        match self.child(name)? {
            Some(child) => {
                // A crash may have come between its making and its mode.
                let present = child.attributes()?;
                if present.mode & mode != mode && present.uid == ourselves().0 {
                    child.set_mode(present.mode | mode)?;
                }
                Ok(child)
            }
            None => match self.new_child_with(name, mode) {
                Ok(child) => {
                    // The umask may have taken something away.
                    child.set_mode(mode)?;
                    self.sync()?;
                    Ok(child)
                }
                Err(error) if error.errno() == Some(Errno::EXIST) => self.ensure_child(name, mode),
                Err(error) => Err(error),
            },
        }
    }

    /// Put a directory within that has these permission bits from the first, and open it, or the
    /// one that somebody else put there meanwhile
    pub(super) fn put_child(&self, name: &str, tag: &str, mode: u32) -> Result<Self, StoreError> {
        let temporary = temporary_name(tag);
        let put = self.new_child_with(&temporary, mode).and_then(|child| {
            child.set_mode(mode)?;
            self.rename_new(&temporary, name)?;
            Ok(Self::from_fd(child.fd, self.join(name)))
        });
        match put {
            Ok(child) => {
                self.sync()?;
                Ok(child)
            }
            Err(error) => {
                drop(self.remove_tree(&temporary));
                match (error.errno(), self.child(name)) {
                    (Some(Errno::EXIST | Errno::NOTEMPTY), Ok(Some(child))) => Ok(child),
                    _ => Err(error),
                }
            }
        }
    }

    /// Remove what [`Dir::put_child`] left in a crash, while nothing of this tag is being put here
    pub(super) fn sweep_unborn(&self, tag: &str) -> Result<(), StoreError> {
        for left in self.names()?.iter().filter(|name| is_temporary(name, tag)) {
            // It is empty: a file of that tag may be what a journal speaks of.
            fs::unlinkat(&self.fd, left, AtFlags::REMOVEDIR).ok();
        }
        Ok(())
    }

    /// Give a directory within a name that nothing has yet
    pub(super) fn rename_new(&self, from: &str, to: &str) -> Result<(), StoreError> {
        let renamed = fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE);
        let renamed = renamed.or_else(|errno| match errno {
            // Not every file system can refuse to replace; an empty directory is no loss.
            Errno::INVAL => fs::renameat(&self.fd, from, &self.fd, to),
            errno => Err(errno),
        });
        renamed.map_err(|errno| self.error("create", to, errno))
    }

    /// Make a directory within, private until its mode is set
    pub(super) fn new_child(&self, name: &str) -> Result<Self, StoreError> {
        self.new_child_with(name, 0o700)
    }

    /// As [`Dir::new_child`], with these permission bits, of which the umask takes some away
    pub(super) fn new_child_with(&self, name: &str, mode: u32) -> Result<Self, StoreError> {
        fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode))
            .map_err(|errno| self.error("create", name, errno))?;
        self.new_born(name)
    }

    /// Open a directory within that was just made
    ///
    /// [`Errno::EXIST`] when it may be another one that took its place: it is not ours and empty,
    /// where others can give names.
    fn new_born(&self, name: &str) -> Result<Self, StoreError> {
        let child = self.child(name)?.ok_or_else(|| self.error("open", name, Errno::NOENT))?;
        let is_new = self.attributes()?.is_safe()
            || (child.attributes()?.uid == ourselves().0 && child.names()?.is_empty());
        is_new.then_some(child).ok_or_else(|| self.error("create", name, Errno::EXIST))
    }

    pub(super) fn attributes(&self) -> Result<Attributes, StoreError> {
        let stat = fs::fstat(&self.fd);
        stat.map(|stat| Attributes::of(&stat))
            .map_err(|errno| StoreError::system("look at", &self.path, errno))
    }

    /// Set the permission bits; a directory that hands its group on goes on doing so
    pub(super) fn set_mode(&self, mode: u32) -> Result<(), StoreError> {
        let present = self.attributes()?.mode;
        if present & 0o777 == mode & 0o777 {
            return Ok(());
        }
        let set = |mode| fs::fchmod(&self.fd, Mode::from_raw_mode(mode));
        let done = match set(mode | (present & SETGID)) {
            // A sandbox may forbid the bit: RestrictSUIDSGID= of systemd.
            Err(Errno::PERM) if present & SETGID != 0 => set(mode),
            done => done,
        };
        done.map_err(|errno| StoreError::system("set the mode of", &self.path, errno))
    }

    /// Make what was changed here survive a power cut
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        fs::fsync(&self.fd).map_err(|errno| StoreError::system("sync", &self.path, errno))
    }

    /// Every name within
    pub(super) fn names(&self) -> Result<Vec<OsString>, StoreError> {
        let failed = |errno| StoreError::system("list", &self.path, errno);
        fs::seek(&self.fd, fs::SeekFrom::Start(0)).map_err(failed)?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut entries = fs::RawDir::new(&self.fd, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_owned()));
            }
        }
        Ok(names)
    }

    /// The attributes of an entry itself; `None` when there is none
    pub(super) fn stat(&self, name: impl AsRef<OsStr>) -> Result<Option<Stat>, StoreError> {
        let name = name.as_ref();
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.error("look at", name, errno)),
        }
    }

    /// The text of a symlink; `None` when there is no such entry, or it is something else
    pub(super) fn link_text(
        &self,
        name: impl AsRef<OsStr>,
    ) -> Result<Option<OsString>, StoreError> {
        let name = name.as_ref();
        match fs::readlinkat(&self.fd, name, Vec::new()) {
            Ok(text) => Ok(Some(OsString::from_vec(text.into_bytes()))),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(errno) => Err(self.error("read", name, errno)),
        }
    }

    /// A regular file's content and attributes, without following a symlink; `None`: not there
    pub(super) fn read(
        &self,
        name: impl AsRef<OsStr>,
    ) -> Result<Option<(Vec<u8>, Stat)>, StoreError> {
        self.read_up_to(name, LIMIT)
    }

    /// As [`Dir::read`], with this many bytes as the most
    pub(super) fn read_up_to(
        &self,
        name: impl AsRef<OsStr>,
        limit: usize,
    ) -> Result<Option<(Vec<u8>, Stat)>, StoreError> {
        let found = self.read_with(name.as_ref(), OFlags::NOFOLLOW, limit)?;
        Ok(found.map(|(bytes, stat, _)| (bytes, stat)))
    }

    /// As [`Dir::read`], and symlinks are followed
    pub(super) fn read_through(
        &self,
        name: impl AsRef<OsStr>,
    ) -> Result<Option<(Vec<u8>, Stat)>, StoreError> {
        self.read_through_up_to(name, LIMIT)
    }

    /// As [`Dir::read_through`], with this many bytes as the most
    pub(super) fn read_through_up_to(
        &self,
        name: impl AsRef<OsStr>,
        limit: usize,
    ) -> Result<Option<(Vec<u8>, Stat)>, StoreError> {
        let found = self.read_with(name.as_ref(), OFlags::empty(), limit)?;
        Ok(found.map(|(bytes, stat, _)| (bytes, stat)))
    }

    /// As [`Dir::read`], with all that a file in its place is to have
    pub(super) fn hold(&self, name: impl AsRef<OsStr>) -> Result<Option<Held>, StoreError> {
        let name = name.as_ref();
        let Some((bytes, stat, fd)) = self.read_with(name, OFlags::NOFOLLOW, LIMIT)? else {
            return Ok(None);
        };
        let labels = Labels::of(&fd).map_err(|errno| self.error(READ_LABELS, name, errno))?;
        Ok(Some(Held { bytes: bytes.into(), attributes: Attributes::of(&stat), labels }))
    }

    fn read_with(
        &self,
        name: &OsStr,
        flags: OFlags,
        limit: usize,
    ) -> Result<Option<(Vec<u8>, Stat, OwnedFd)>, StoreError> {
        // Without NONBLOCK the open of a FIFO waits for a writer.
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.error("read", name, errno)),
        };
        let failed = |errno| self.error("read", name, errno);
        let stat = fs::fstat(&fd).map_err(failed)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::RegularFile {
            return Err(StoreError::damaged(
                self.join(name),
                format!("is {}, not a regular file", kind_words(kind)),
            ));
        }
        let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
        if size > limit {
            let reason = format!("is longer than {} MiB", limit >> 20);
            return Err(StoreError::damaged(self.join(name), reason));
        }
        let mut bytes = vec![0; size];
        let mut filled = 0;
        while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
            match rustix::io::read(&fd, room) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        bytes.truncate(filled);
        Ok(Some((bytes, stat, fd)))
    }

    /// ACL and label of what a reader of this name gets; none when there is no such file
    pub(super) fn labels(&self, name: impl AsRef<OsStr>) -> Result<Labels, StoreError> {
        let name = name.as_ref();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        match fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Labels::of(&fd).map_err(|errno| self.error(READ_LABELS, name, errno)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => Ok(Labels::default()),
            Err(errno) => Err(self.error("read", name, errno)),
        }
    }

    /// Make a file, complete and on disk under this name; nothing is left when that fails
    pub(super) fn create(
        &self,
        name: impl AsRef<OsStr>,
        parts: &[&[u8]],
        attributes: Attributes,
        labels: &Labels,
    ) -> Result<(), StoreError> {
        let name = name.as_ref();
        let file = self.write_new(name, parts, attributes, labels)?;
        self.settle(name, &file)
    }

    /// As [`Dir::create`], for what somebody else may have owned: as near to it as we may come
    pub(super) fn create_again(
        &self,
        name: impl AsRef<OsStr>,
        parts: &[&[u8]],
        attributes: Attributes,
        labels: &Labels,
    ) -> Result<(), StoreError> {
        let name = name.as_ref();
        let file = self.write_again(name, parts, attributes, labels)?;
        self.settle(name, &file)
    }

    /// Make a file, complete and not on disk yet; nothing is left when that fails
    fn write_new(
        &self,
        name: &OsStr,
        parts: &[&[u8]],
        attributes: Attributes,
        labels: &Labels,
    ) -> Result<File, StoreError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.error("create", name, errno))?;
        let written = self.fill(name, fd, parts, attributes, labels);
        if written.is_err() {
            // The first error is the one to report.
            drop(self.unlink(name));
        }
        written
    }

    fn write_again(
        &self,
        name: &OsStr,
        parts: &[&[u8]],
        attributes: Attributes,
        labels: &Labels,
    ) -> Result<File, StoreError> {
        let mut done = self.write_new(name, parts, attributes, labels);
        for nearest in attributes.nearest() {
            if !done.as_ref().is_err_and(StoreError::is_about_the_owner) {
                break;
            }
            done = self.write_new(name, parts, nearest, labels);
        }
        done
    }

    /// Bring a new file to the disk; nothing is left when that fails
    fn settle(&self, name: &OsStr, file: &File) -> Result<(), StoreError> {
        let settled = file.sync_all().map_err(|error| self.unwritten(name, &error));
        if settled.is_err() {
            drop(self.unlink(name));
        }
        settled
    }

    fn unwritten(&self, name: &OsStr, error: &std::io::Error) -> StoreError {
        self.error("write", name, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }

    fn fill(
        &self,
        name: &OsStr,
        fd: OwnedFd,
        parts: &[&[u8]],
        attributes: Attributes,
        labels: &Labels,
    ) -> Result<File, StoreError> {
        set_attributes(&fd, attributes)
            .and_then(|()| labels.give(&fd, attributes.mode))
            .map_err(|(action, errno)| self.error(action, name, errno))?;
        let mut file = File::from(fd);
        let written = parts.iter().try_for_each(|part| file.write_all(part));
        written.map(|()| file).map_err(|error| self.unwritten(name, &error))
    }

    /// Replace a file by one rename, or make it
    pub(super) fn replace(
        &self,
        name: impl AsRef<OsStr>,
        tag: &str,
        parts: &[&[u8]],
        attributes: Attributes,
        labels: &Labels,
    ) -> Result<(), StoreError> {
        let temporary = temporary_name(tag);
        self.create(&temporary, parts, attributes, labels)?;
        self.rename_or_drop(&temporary, name.as_ref())?;
        self.sync()
    }

    /// As [`Dir::replace`], for what somebody else may have owned: as near to it as we may come
    pub(super) fn replace_again(
        &self,
        name: impl AsRef<OsStr>,
        tag: &str,
        parts: &[&[u8]],
        attributes: Attributes,
        labels: &Labels,
    ) -> Result<(), StoreError> {
        let temporary = temporary_name(tag);
        self.create_again(&temporary, parts, attributes, labels)?;
        self.rename_or_drop(&temporary, name.as_ref())?;
        self.sync()
    }

    /// Replace an entry by a symlink in one rename, or make it
    pub(super) fn replace_by_link(
        &self,
        name: impl AsRef<OsStr>,
        tag: &str,
        text: &OsStr,
    ) -> Result<(), StoreError> {
        self.rename_link(name.as_ref(), tag, text)?;
        self.sync()
    }

    /// As [`Dir::replace_by_link`], and the caller sees to it that it lasts
    pub(super) fn link(
        &self,
        name: impl AsRef<OsStr>,
        tag: &str,
        text: &OsStr,
    ) -> Result<(), StoreError> {
        let name = name.as_ref();
        match fs::symlinkat(text, &self.fd, name) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => self.rename_link(name, tag, text),
            Err(errno) => Err(self.error("make the symlink", name, errno)),
        }
    }

    fn rename_link(&self, name: &OsStr, tag: &str, text: &OsStr) -> Result<(), StoreError> {
        let temporary = temporary_name(tag);
        fs::symlinkat(text, &self.fd, &temporary)
            .map_err(|errno| self.error("make the symlink", name, errno))?;
        self.rename_or_drop(&temporary, name)
    }

    fn rename_or_drop(&self, temporary: &str, name: &OsStr) -> Result<(), StoreError> {
        let renamed = self.rename(temporary, name);
        if renamed.is_err() {
            drop(self.unlink(temporary));
        }
        renamed
    }

    /// Rename within; an entry that is in the way is replaced, also a directory
    ///
    /// Whoever flattened symlinks left a directory where one was. It changes places with the
    /// new entry at once, so that the name is never without content.
    pub(super) fn rename(
        &self,
        from: impl AsRef<OsStr>,
        to: impl AsRef<OsStr>,
    ) -> Result<(), StoreError> {
        let (from, to) = (from.as_ref(), to.as_ref());
        match fs::renameat(&self.fd, from, &self.fd, to) {
            Ok(()) => Ok(()),
            Err(Errno::ISDIR) if to == DATA => {
                let exchange = RenameFlags::EXCHANGE;
                fs::renameat_with(&self.fd, from, &self.fd, to, exchange)
                    .map_err(|errno| self.error("replace", to, errno))?;
                // What stays is swept at the next start.
                drop(self.remove_tree(from));
                Ok(())
            }
            Err(errno) => Err(self.error("replace", to, errno)),
        }
    }

    /// Remove an entry that is no directory; one that is not there is fine
    pub(super) fn unlink(&self, name: impl AsRef<OsStr>) -> Result<(), StoreError> {
        let name = name.as_ref();
        match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.error("remove", name, errno)),
        }
    }

    /// Remove a file of ours that may hold a key; one that is not there is fine
    pub(super) fn shred(&self, name: &str) -> Result<(), StoreError> {
        if self.stat(name)?.is_none() {
            return Ok(());
        }
        // Half removed under its own name it would look damaged, also after a power cut.
        let temporary = temporary_name(OWN);
        self.rename(name, &temporary)?;
        let overwritten = self.sync().and_then(|()| self.overwrite(&temporary));
        self.remove_tree(&temporary).and(overwritten)
    }

    /// Remove an entry, overwritten first where it is a file
    pub(super) fn discard(&self, name: &OsStr) -> Result<(), StoreError> {
        let overwritten = self.overwrite(name);
        // A key that cannot be overwritten is better gone all the same.
        self.remove_tree(name).and(overwritten)
    }

    /// Overwrite what a regular file holds, unless it has another name, under which it stays
    ///
    /// Only for what is about to be removed: nothing is left of it after a crash.
    pub(super) fn overwrite(&self, name: impl AsRef<OsStr>) -> Result<(), StoreError> {
        let name = name.as_ref();
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::ISDIR) => return Ok(()),
            Err(errno) => return Err(self.error("overwrite", name, errno)),
        };
        let stat = fs::fstat(&fd).map_err(|errno| self.error("look at", name, errno))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::RegularFile || stat.st_nlink != 1 {
            return Ok(());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut file = File::from(fd);
        let written = std::io::copy(&mut std::io::repeat(0).take(size), &mut file);
        written.and_then(|_| file.sync_data()).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            self.error("overwrite", name, errno)
        })
    }

    /// Remove an entry, and if it is a directory, the files within it
    ///
    /// A directory with files stays where somebody may have given it its name who could not
    /// remove them.
    pub(super) fn remove_tree(&self, name: impl AsRef<OsStr>) -> Result<(), StoreError> {
        let name = name.as_ref();
        match fs::openat(&self.fd, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => {
                let child = Self::from_fd(fd, self.join(name));
                let is_emptied = self.is_named_by_its_own(&child)?;
                if is_emptied {
                    for entry in child.names()? {
                        child.unlink(entry)?;
                    }
                }
                match fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
                    Ok(()) => Ok(()),
                    Err(Errno::NOTEMPTY | Errno::EXIST) if !is_emptied => Ok(()),
                    Err(errno) => Err(self.error("remove", name, errno)),
                }
            }
            Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) => self.unlink(name),
            Err(errno) => Err(self.error("open", name, errno)),
        }
    }

    /// Whether whoever gave a directory within its name could have read and removed its files, too
    pub(super) fn is_named_by_its_own(&self, child: &Self) -> Result<bool, StoreError> {
        let (around, within) = (self.attributes()?, child.attributes()?);
        let is_built = within.uid == ourselves().0 && within.mode & (STICKY | 0o022) == STICKY;
        let is_owners = around.is_closed() && around.uid == within.uid;
        Ok(is_built || is_owners || around.is_safe())
    }

    /// Remove an entry with all that is below it
    pub(super) fn remove_all(&self, name: impl AsRef<OsStr>) -> Result<(), StoreError> {
        let name = name.as_ref();
        if let Ok(fd) = fs::openat(&self.fd, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
            let child = Self::from_fd(fd, self.join(name));
            for entry in child.names()? {
                child.remove_all(entry)?;
            }
        }
        self.remove_tree(name)
    }

    pub(super) fn error(
        &self,
        action: &'static str,
        name: impl AsRef<OsStr>,
        errno: Errno,
    ) -> StoreError {
        StoreError::system(action, self.join(name.as_ref()), errno)
    }
}

/// New files of one directory, which the disk is given together
///
/// None is sure to be on disk before [`Batch::sync`]. On an error the caller removes the directory.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    dir: &'a Dir,
    files: Vec<(OsString, File)>,
}

impl<'a> Batch<'a> {
    pub(super) fn of(dir: &'a Dir) -> Self {
        Self { dir, files: Vec::new() }
    }

    /// As [`Dir::create`], but not on disk yet
    pub(super) fn create(
        &mut self,
        name: impl AsRef<OsStr>,
        parts: &[&[u8]],
        attributes: Attributes,
        labels: &Labels,
    ) -> Result<(), StoreError> {
        let name = name.as_ref();
        let file = self.dir.write_new(name, parts, attributes, labels)?;
        self.add(name, file)
    }

    /// As [`Dir::create_again`], but not on disk yet
    pub(super) fn create_again(
        &mut self,
        name: impl AsRef<OsStr>,
        parts: &[&[u8]],
        attributes: Attributes,
        labels: &Labels,
    ) -> Result<(), StoreError> {
        let name = name.as_ref();
        let file = self.dir.write_again(name, parts, attributes, labels)?;
        self.add(name, file)
    }

    fn add(&mut self, name: &OsStr, file: File) -> Result<(), StoreError> {
        self.files.push((name.to_owned(), file));
        // A process may have so many files open, and no more.
        if self.files.len() < BATCH { Ok(()) } else { self.settle() }
    }

    /// Bring the files and their names to the disk
    pub(super) fn sync(mut self) -> Result<(), StoreError> {
        self.settle()?;
        self.dir.sync()
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        for (_, file) in &self.files {
            // Linux begins to write what is not needed. Then one wait, and one commit of a
            // journal, is for all of them. Whatever this says, they are synced.
            fs::fadvise(file, 0, None, fs::Advice::DontNeed).ok();
        }
        self.files.drain(..).try_for_each(|(name, file)| self.dir.settle(&name, &file))
    }
}

/// Give an open file its owner and mode, never wider on the way than before or after
pub(super) fn set_attributes(
    fd: &OwnedFd,
    wanted: Attributes,
) -> Result<(), (&'static str, Errno)> {
    let stat = fs::fstat(fd).map_err(|errno| ("look at", errno))?;
    set(fd, Attributes::of(&stat), wanted, |mode| {
        fs::fchmod(fd, Mode::from_raw_mode(mode)).map_err(|errno| ("set the mode of", errno))
    })
}

/// As [`set_attributes`], for a file in use: who is let in by its ACL stays
pub(super) fn put_right(fd: &OwnedFd, wanted: Attributes) -> Result<(), (&'static str, Errno)> {
    let Some(acl) = Acl::of(fd).map_err(|errno| ("look at", errno))? else {
        return set_attributes(fd, wanted);
    };
    let stat = fs::fstat(fd).map_err(|errno| ("look at", errno))?;
    let present = Attributes { mode: acl.mode(), ..Attributes::of(&stat) };
    set(fd, present, wanted, |mode| acl.give(fd, mode).map_err(|errno| (SET_ACL, errno)))
}

fn set(
    fd: &OwnedFd,
    present: Attributes,
    wanted: Attributes,
    set_mode: impl Fn(u32) -> Result<(), (&'static str, Errno)>,
) -> Result<(), (&'static str, Errno)> {
    if (present.uid, present.gid) != (wanted.uid, wanted.gid) {
        if present.mode & !wanted.mode != 0 {
            set_mode(present.mode & wanted.mode)?;
        }
        let uid = fs::Uid::from_raw(wanted.uid);
        let gid = fs::Gid::from_raw(wanted.gid);
        fs::fchown(fd, Some(uid), Some(gid)).map_err(|errno| (SET_OWNER, errno))?;
        set_mode(wanted.mode)
    } else if present.mode == wanted.mode {
        Ok(())
    } else {
        set_mode(wanted.mode)
    }
}

pub(super) fn kind_words(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symlink",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "of an unknown kind",
    }
}

/// A new name for something unfinished; only its tag's owner may sweep it away
pub(super) fn temporary_name(tag: &str) -> String {
    format!("{TEMPORARY}{tag}-{:016x}", random())
}

/// Whether this is a name that [`temporary_name`] gave for this tag
pub(super) fn is_temporary(name: &OsStr, tag: &str) -> bool {
    let random = name
        .as_bytes()
        .strip_prefix(TEMPORARY.as_bytes())
        .and_then(|rest| rest.strip_prefix(tag.as_bytes()))
        .and_then(|rest| rest.strip_prefix(b"-"));
    random.is_some_and(|random| random.len() == 16 && random.iter().all(u8::is_ascii_hexdigit))
}

/// A number that nobody can guess
pub(super) fn random() -> u64 {
    let mut bytes = [0; 8];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        // O_EXCL catches a name that is taken, so a poor one costs an attempt and no more.
        return u64::from(std::process::id());
    }
    u64::from_ne_bytes(bytes)
}

/// The symlink whose replacement switches a directory
pub(super) const DATA: &str = "..data";

const TEMPORARY: &str = ".certkeep-";

/// Of a directory: each entry is renamed by its owner alone
///
/// On one that nobody else may write it changes nothing. There it marks what we built: nobody can
/// give it to a directory of root's, or put anything in.
pub(super) const STICKY: u32 = 0o1000;

/// Of a directory: what is made in it gets its group
pub(super) const SETGID: u32 = 0o2000;

const READ_LABELS: &str = "read the ACL and label of";

/// The most files of one [`Batch`] that wait for the disk
const BATCH: usize = 32;

/// The most bytes of one file
pub(super) const LIMIT: usize = 1 << 20;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    fn at(path: &Path) -> Dir {
        Dir::find(path).unwrap().unwrap()
    }

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_nothing_is_left_over() {
        let place = tempfile::tempdir().unwrap();
        let dir = at(place.path());
        let attributes = Attributes { mode: 0o640, ..Attributes::private() };
        for content in [b"one".as_slice(), b"twotwo"] {
            dir.replace("file", "t", &[content, b"!"], attributes, &Labels::default()).unwrap();
            let (bytes, stat) = dir.read("file").unwrap().unwrap();
            assert_eq!(bytes, [content, b"!"].concat());
            assert_eq!(Attributes::of(&stat), attributes);
        }
        assert_eq!(dir.names().unwrap(), ["file"]);
    }

    #[test]
    fn files_that_are_made_together_are_all_there_and_hold_no_descriptors() {
        let place = tempfile::tempdir().unwrap();
        let dir = at(place.path());
        let attributes = Attributes { mode: 0o640, ..Attributes::private() };
        let names: Vec<_> = (0..3 * BATCH).map(|number| format!("{number:03}")).collect();
        let mut batch = Batch::of(&dir);
        for name in &names {
            batch.create(name, &[name.as_bytes()], attributes, &Labels::default()).unwrap();
            assert!(batch.files.len() < BATCH);
        }
        let again = batch.create("001", &[b"x"], attributes, &Labels::default());
        assert_eq!(again.unwrap_err().errno(), Some(Errno::EXIST));
        batch.sync().unwrap();
        for name in &names {
            let (bytes, stat) = dir.read(name).unwrap().unwrap();
            assert_eq!((bytes.as_slice(), Attributes::of(&stat)), (name.as_bytes(), attributes));
        }
    }

    #[test]
    fn only_our_own_temporary_names_are_ours() {
        let name = temporary_name("abcd");
        assert!(is_temporary(name.as_ref(), "abcd"));
        for other in [".certkeep-abce-0123456789abcdef", ".certkeep-abcd-1", "key.pem", &name[1..]]
        {
            assert!(!is_temporary(other.as_ref(), "abcd"), "{other}");
        }
    }

    #[test]
    fn a_directory_in_the_place_of_the_data_link_is_exchanged() {
        let place = tempfile::tempdir().unwrap();
        let dir = at(place.path());
        let data = dir.new_child(DATA).unwrap();
        data.create("a", &[b"x"], Attributes::private(), &Labels::default()).unwrap();
        dir.replace_by_link(DATA, "t", "..1".as_ref()).unwrap();
        assert_eq!(dir.link_text(DATA).unwrap().unwrap(), "..1");
        assert_eq!(dir.names().unwrap(), [DATA]);
    }

    #[test]
    fn a_directory_that_somebody_else_called_the_data_link_keeps_its_files() {
        if ourselves().0 != 0 {
            // Only root can give a directory away.
            return;
        }
        // Of root, theirs, and of root where nobody else gives names.
        for (around, within, is_kept) in [(4711, 0, true), (4711, 4711, false), (0, 0, false)] {
            let place = tempfile::tempdir().unwrap();
            let dir = at(place.path());
            let data = dir.new_child(DATA).unwrap();
            data.create("a", &[b"x"], Attributes::private(), &Labels::default()).unwrap();
            chown(place.path(), Some(around), None).unwrap();
            chown(data.path(), Some(within), None).unwrap();
            dir.replace_by_link(DATA, "t", "..1".as_ref()).unwrap();
            assert_eq!(dir.link_text(DATA).unwrap().unwrap(), "..1");
            let left = dir.names().unwrap().into_iter().find(|name| name != DATA);
            let kept = left.map(|name| at(&dir.join(name)).names().unwrap());
            assert_eq!(kept, is_kept.then(|| vec!["a".into()]), "{around} {within}");
        }
    }

    #[test]
    fn a_directory_that_took_the_place_of_a_new_one_is_not_taken_for_it() {
        if ourselves().0 != 0 {
            // Only root can give a directory away.
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let dir = at(place.path());
        let full = dir.new_child("full").unwrap();
        full.create("a", &[b"x"], Attributes::private(), &Labels::default()).unwrap();
        for name in ["new", "theirs"] {
            dir.new_child(name).unwrap();
        }
        chown(dir.join("theirs"), Some(4711), None).unwrap();
        for (around, refused) in [(0, [].as_slice()), (4711, &["full", "theirs"])] {
            chown(place.path(), Some(around), None).unwrap();
            for name in ["full", "theirs", "new"] {
                let errno = dir.new_born(name).err().and_then(|error| error.errno());
                let expected = refused.contains(&name).then_some(Errno::EXIST);
                assert_eq!(errno, expected, "{name} in a directory of {around}");
            }
            assert!(dir.put_child(&around.to_string(), "t", 0o755).is_ok());
        }
    }

    #[test]
    fn what_is_no_regular_file_is_not_read() {
        let place = tempfile::tempdir().unwrap();
        let dir = at(place.path());
        fs::mknodat(dir.fd(), "fifo", FileType::Fifo, Mode::RWXU, 0).unwrap();
        dir.new_child("dir").unwrap();
        dir.replace_by_link("link", "t", "fifo".as_ref()).unwrap();
        for name in ["fifo", "dir"] {
            assert!(dir.read(name).unwrap_err().is_damage(), "{name}");
        }
        assert!(dir.read_through("link").unwrap_err().is_damage());
        assert_eq!(dir.read("link").unwrap_err().errno(), Some(Errno::LOOP));
        assert!(dir.read("absent").unwrap().is_none());
    }
}
