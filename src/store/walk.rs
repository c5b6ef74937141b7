//! The way to an output: only through what root, we, or its declared owner can change.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::dir::{Attributes, Dir, kind_words, ourselves};
use super::error::StoreError;
use super::label::Labels;

/// Open a directory by a walk from the root on which nobody else can interfere
///
/// `owner` is who the file in it will belong to: they may own a directory of the way too, since
/// the secret that goes there is theirs anyway.
///
/// # Errors
/// When a directory belongs to somebody else or everybody may write it, or a symlink on the way
/// was made by somebody else.
pub(super) fn walk(path: &Path, owner: u32) -> Result<Dir, StoreError> {
    match approach(path, owner)? {
        Reached::Directory(dir) => Ok(dir),
        Reached::Nothing { .. } => Err(StoreError::system("open", path, Errno::NOENT)),
    }
}

/// As [`walk`], also where only the last part is missing
pub(super) fn approach(path: &Path, owner: u32) -> Result<Reached, StoreError> {
    // What was opened by its path alone can be neither listed nor synced.
    let listed = |fd: &OwnedFd, path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::openat(fd, ".", flags, Mode::empty())
            .map_err(|errno| StoreError::system("open", path, errno))?;
        Ok(Dir::from_fd(fd, path.to_owned()))
    };
    match (go(path, owner)?, path.parent()) {
        (End::Directory(fd), _) => listed(&fd, path).map(Reached::Directory),
        (End::Entry(dir, name), _) => Err(dir.error("open", name, Errno::NOTDIR)),
        (End::Nothing(fd), Some(parent)) => {
            listed(&fd, parent).map(|parent| Reached::Nothing { parent })
        }
        (End::Nothing(_), None) => Err(StoreError::system("open", path, Errno::NOENT)),
    }
}

/// What is at the end of a way
#[derive(Debug)]
pub(super) enum Reached {
    Directory(Dir),
    /// Nothing, not even a symlink that leads nowhere
    Nothing {
        parent: Dir,
    },
}

/// Read a regular file at the end of a [`walk`], also one behind symlinks that it follows
///
/// # Errors
/// As [`walk`], and when it cannot be read or is something else.
pub(super) fn read(path: &Path, owner: u32) -> Result<Option<(Vec<u8>, Stat)>, StoreError> {
    match go(path, owner)? {
        End::Entry(dir, name) => dir.read(name),
        End::Directory(_) => Err(StoreError::system("read", path, Errno::ISDIR)),
        End::Nothing(_) => Ok(None),
    }
}

/// As [`read`], with all that a file in its place is to have
fn hold(path: &Path, owner: u32) -> Result<Option<Held>, StoreError> {
    match go(path, owner)? {
        End::Entry(dir, name) => dir.hold(name),
        End::Nothing(_) => Ok(None),
        End::Directory(_) => {
            let reason = format!("is {}, not a regular file", kind_words(FileType::Directory));
            Err(StoreError::damaged(path, reason))
        }
    }
}

/// Where a walk ended
enum End {
    Directory(OwnedFd),
    /// At what is neither a directory nor a symlink, and the directory that it is in
    Entry(Dir, OsString),
    /// In this directory, where nothing has the path's last name
    Nothing(OwnedFd),
}

fn go(path: &Path, owner: u32) -> Result<End, StoreError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = || {
        fs::open("/", flags | OFlags::DIRECTORY, Mode::empty())
            .map_err(|errno| StoreError::system("open", "/", errno))
    };
    let mut fd = root()?;
    let mut seen = PathBuf::from("/");
    let mut ahead = VecDeque::new();
    push_front(&mut ahead, path);
    // Behind a symlink in the place of the last one, names are not the path's any more.
    let mut of_path = ahead.len();
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        let here = seen.join(&name);
        let is_last = ahead.is_empty() && of_path > 0;
        of_path = of_path.min(ahead.len());
        let next = match fs::openat(&fd, &name, flags, Mode::empty()) {
            Err(Errno::NOENT) if is_last => return Ok(End::Nothing(fd)),
            opened => opened.map_err(|errno| StoreError::system("open", &here, errno))?,
        };
        let stat = fs::fstat(&next).map_err(|errno| StoreError::system("look at", &here, errno))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                check_directory(&here, &stat, owner)?;
                fd = next;
                seen = here;
            }
            FileType::Symlink => {
                check_link(&here, &stat)?;
                links += 1;
                if links > 40 {
                    return Err(StoreError::system("open", path, Errno::LOOP));
                }
                let text =
                    link_text(&next).map_err(|errno| StoreError::system("read", &here, errno))?;
                if text.is_absolute() {
                    fd = root()?;
                    seen = PathBuf::from("/");
                }
                push_front(&mut ahead, &text);
            }
            _ if ahead.is_empty() => return Ok(End::Entry(Dir::from_fd(fd, seen), name)),
            _ => return Err(StoreError::system("open", &here, Errno::NOTDIR)),
        }
    }
    Ok(End::Directory(fd))
}

fn push_front(ahead: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => ahead.push_front(name.to_owned()),
            Component::ParentDir => ahead.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

fn link_text(link: &OwnedFd) -> rustix::io::Result<PathBuf> {
    let text = fs::readlinkat(link, "", Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(text.into_bytes())))
}

/// Refuse a directory that somebody else may write, the last step of a [`walk`]
pub(super) fn check(dir: &Dir, owner: u32) -> Result<(), StoreError> {
    let stat =
        fs::fstat(dir.fd()).map_err(|errno| StoreError::system("look at", dir.path(), errno))?;
    check_directory(dir.path(), &stat, owner)
}

fn check_directory(path: &Path, stat: &Stat, owner: u32) -> Result<(), StoreError> {
    let (uid, _) = ourselves();
    if ![0, uid, owner].contains(&stat.st_uid) {
        return Err(StoreError::refused(
            path,
            format!("belongs to user {}, who could put anything in its place", stat.st_uid),
            "give the directory to root or to the user that certkeep runs as, \
             or declare that user as the owner of the file",
        ));
    }
    if stat.st_mode & 0o002 != 0 && stat.st_mode & 0o1000 == 0 {
        return Err(StoreError::refused(
            path,
            "may be written by everybody, who could put anything in its place",
            "take the right to write from others: chmod o-w",
        ));
    }
    Ok(())
}

fn check_link(path: &Path, stat: &Stat) -> Result<(), StoreError> {
    let (uid, _) = ourselves();
    if [0, uid].contains(&stat.st_uid) {
        return Ok(());
    }
    Err(StoreError::refused(
        path,
        format!("is a symlink of user {}, who could let it point anywhere", stat.st_uid),
        "make the symlink as root, or name the directory behind it in the configuration",
    ))
}

/// What is at an output's path
#[derive(Debug)]
pub(super) enum Present {
    /// Nothing
    Absent,
    /// A regular file
    File(Held),
    /// A symlink, with what it leads to unless that is nothing
    Link {
        /// Its text
        text: OsString,
        /// The file behind it
        behind: Option<Held>,
    },
}

/// A file's bytes, and all that a file in its place is to have
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) bytes: zeroize::Zeroizing<Vec<u8>>,
    pub(super) attributes: Attributes,
    pub(super) labels: Labels,
}

impl Present {
    /// What a reader of the path gets
    pub(super) fn content(&self) -> Option<&Held> {
        match self {
            Self::Absent => None,
            Self::File(held) => Some(held),
            Self::Link { behind, .. } => behind.as_ref(),
        }
    }
}

/// Refuse a path that cannot be an output: a mount point, a directory, a FIFO, a device
pub(super) fn check_output(dir: &Dir, name: &OsStr) -> Result<(), StoreError> {
    let Some(stat) = dir.stat(name)? else { return Ok(()) };
    if is_mount_point(dir, name, &stat)? {
        return Err(StoreError::refused(
            dir.join(name),
            "is a mount point, so that a new file cannot take its place",
            "mount the directory that it is in, in place of the single file",
        ));
    }
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Symlink => check_link(&dir.join(name), &stat),
        kind => Err(StoreError::refused(
            dir.join(name),
            format!("is {}, where a file should go", kind_words(kind)),
            "remove it, or name another path in the configuration",
        )),
    }
}

fn is_mount_point(dir: &Dir, name: &OsStr, stat: &Stat) -> Result<bool, StoreError> {
    let parent = fs::fstat(dir.fd()).map_err(|errno| dir.error("look at", "", errno))?;
    if parent.st_dev != stat.st_dev {
        return Ok(true);
    }
    // A file of the same file system can be mounted too.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let root = StatxAttributes::MOUNT_ROOT;
    match fs::statx(dir.fd(), name, flags, StatxFlags::TYPE) {
        Ok(statx) => {
            Ok(statx.stx_attributes_mask.contains(root) && statx.stx_attributes.contains(root))
        }
        Err(Errno::NOSYS | Errno::PERM) => Ok(false),
        Err(errno) => Err(dir.error("look at", name, errno)),
    }
}

/// What is at an output's path, after [`check_output`]; `owner` is as for a [`walk`]
///
/// # Errors
/// When it cannot be read, or is a symlink that leads to something else than a file or where a
/// [`walk`] does not go.
pub(super) fn look(dir: &Dir, name: &OsStr, owner: u32) -> Result<Present, StoreError> {
    let foreign = |error: StoreError| error.mended_by("move it away, or name another path");
    match text_of_ours(dir, name)? {
        Some(text) => {
            let behind = match hold(&dir.join(&text), owner) {
                Ok(found) => found,
                // A dangling or circular symlink leads to nothing.
                Err(error)
                    if matches!(
                        error.errno(),
                        Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR)
                    ) =>
                {
                    None
                }
                Err(error) => return Err(foreign(error)),
            };
            Ok(Present::Link { text, behind })
        }
        None => {
            let found = dir.hold(name).map_err(foreign)?;
            Ok(found.map_or(Present::Absent, Present::File))
        }
    }
}

/// The text of a symlink, which must be of root's or ours; `None` when there is no symlink
fn text_of_ours(dir: &Dir, name: &OsStr) -> Result<Option<OsString>, StoreError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let entry = match fs::openat(dir.fd(), name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened.map_err(|errno| dir.error("open", name, errno))?,
    };
    let stat = fs::fstat(&entry).map_err(|errno| dir.error("look at", name, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return Ok(None);
    }
    check_link(&dir.join(name), &stat)?;
    let text = link_text(&entry).map_err(|errno| dir.error("read", name, errno))?;
    Ok(Some(text.into_os_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_way_that_others_can_bend_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let (open, own) = (place.path().join("open"), place.path().join("own"));
        for dir in [&open, &own] {
            std::fs::create_dir_all(dir.join("inner")).unwrap();
        }
        mode(&open, 0o777);
        symlink(&own, place.path().join("link")).unwrap();
        assert!(walk(&own.join("inner"), 0).is_ok());
        assert!(walk(&place.path().join("link/../own/inner"), 0).is_ok());
        for end in ["open", "open/inner"] {
            let error = walk(&place.path().join(end), 0).unwrap_err();
            assert!(error.needs_operator(), "{end}: {error}");
            assert_eq!(error.path(), open, "{end}");
        }
        mode(&open, 0o1777);
        assert!(walk(&open.join("inner"), 0).is_ok(), "sticky");
    }

    #[test]
    fn a_directory_that_is_yet_to_be_made_is_told_from_a_way_that_leads_nowhere() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        std::fs::create_dir(at("there")).unwrap();
        for (link, text) in [("linked", "there"), ("dangling", "nowhere"), ("bent", "there/gone")] {
            symlink(text, at(link)).unwrap();
        }
        let inode = |dir: &Dir| fs::fstat(dir.fd()).unwrap().st_ino;
        let there = inode(&walk(&at("there"), 0).unwrap());
        for end in ["there", "linked"] {
            let Reached::Directory(dir) = approach(&at(end), 0).unwrap() else { panic!("{end}") };
            assert_eq!((inode(&dir), dir.path()), (there, at(end).as_path()));
            let missing = at(end).join("new");
            let Reached::Nothing { parent } = approach(&missing, 0).unwrap() else {
                panic!("{missing:?}")
            };
            assert_eq!((inode(&parent), parent.path()), (there, at(end).as_path()));
            assert!(parent.names().unwrap().is_empty());
            assert_eq!(walk(&missing, 0).unwrap_err().errno(), Some(Errno::NOENT));
        }
        for (end, missing) in [
            ("dangling", "nowhere"),
            ("bent", "there/gone"),
            ("bent/new", "there/gone"),
            ("gone/new", "gone"),
        ] {
            let error = approach(&at(end), 0).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::NOENT), "{end}");
            assert_eq!(error.path(), at(missing), "{end}");
        }
    }

    #[test]
    fn a_directory_of_another_user_is_refused_unless_the_file_is_theirs() {
        let place = tempfile::tempdir().unwrap();
        let theirs = place.path().join("theirs");
        std::fs::create_dir(&theirs).unwrap();
        if chown(&theirs, Some(4711), Some(4711)).is_err() {
            // Only root can give a directory away.
            assert_ne!(ourselves().0, 0);
            return;
        }
        assert!(walk(&theirs, 0).unwrap_err().to_string().contains("user 4711"));
        assert!(walk(&theirs, 4711).is_ok());
    }

    #[test]
    fn a_foreign_symlink_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let link = place.path().join("link");
        symlink("/etc", &link).unwrap();
        assert!(walk(&link, 0).is_ok());
        if lchown(&link, Some(4711), None).is_ok() {
            assert!(walk(&link, 4711).unwrap_err().to_string().contains("symlink of user 4711"));
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "what another client left")]
    fn only_what_root_we_and_the_owner_lead_to_is_looked_at() {
        let place = tempfile::tempdir().unwrap();
        let dir = Dir::find(place.path()).unwrap().unwrap();
        let at = |name: &str| place.path().join(name);
        std::fs::create_dir(at("live")).unwrap();
        std::fs::write(at("live/1.pem"), "x").unwrap();
        symlink("1.pem", at("live/key.pem")).unwrap();
        symlink("live/key.pem", at("relative")).unwrap();
        symlink(at("live/../live/key.pem"), at("absolute")).unwrap();
        let content = |name: &str, owner| {
            let present = look(&dir, name.as_ref(), owner)?;
            Ok::<_, StoreError>(present.content().map(|held| held.bytes.to_vec()))
        };
        for name in ["relative", "absolute", "live/1.pem"] {
            assert_eq!(content(name, 0).unwrap().unwrap(), b"x", "{name}");
        }
        for (name, text) in [("lost", "nowhere"), ("round", "round"), ("through", "live/1.pem/x")] {
            symlink(text, at(name)).unwrap();
            assert_eq!(content(name, 0).unwrap(), None, "{name}");
        }
        assert_eq!(content("absent", 0).unwrap(), None);
        symlink("live", at("directory")).unwrap();
        let error = content("directory", 0).unwrap_err();
        assert!(error.to_string().contains("live is a directory") && error.needs_operator());
        if ourselves().0 != 0 {
            // Only root can give anything away.
            return;
        }
        // A symlink of theirs never; a directory or a file of theirs where the file is for them.
        for (given_away, in_general, to_them) in [
            ("relative", false, false),
            ("live/key.pem", false, false),
            ("live", false, true),
            ("live/1.pem", true, true),
        ] {
            lchown(at(given_away), Some(4711), None).unwrap();
            for (owner, expected) in [(0, in_general), (4711, to_them)] {
                let found = content("relative", owner);
                assert_eq!(found.is_ok(), expected, "{given_away} {owner}: {found:?}");
                assert!(found.is_ok_and(|x| x.is_some()) == expected, "{given_away} {owner}");
            }
            lchown(at(given_away), Some(0), None).unwrap();
        }
    }
}
