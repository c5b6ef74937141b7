//! Whether a file can have been put there by root or by us alone.
//!
//! Whoever can write an executable, or any directory on the way to it, decides what we run, often
//! as root; and where others can write, so can we be made to write over what is not ours. So every step of the way is looked at, symlinks included. Once the whole way is ours,
//! nobody can change it between this look and the use.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{PROC_SUPER_MAGIC, StatFs, statfs};
use rustix::process::geteuid;

use super::command::SEARCH_PATH;
use crate::failure::{Failure, Step};

/// The path to execute for a program of the configuration
///
/// Absolute, or a bare name that is looked up in [`SEARCH_PATH`].
pub(super) fn executable(program: &Path) -> Result<PathBuf, Refusal> {
    let refuse = |path: &Path, reason| {
        Err(Refusal { purpose: Purpose::Run, wanted: program.into(), path: path.into(), reason })
    };
    let path = match locate(program) {
        Ok(path) => path,
        Err(reason) => return refuse(program, reason),
    };
    match inspect(&path, Purpose::Run) {
        Ok(()) => Ok(path),
        Err((culprit, reason)) => refuse(&culprit, reason),
    }
}

/// A directory in which nobody but root and us can make or replace a file
pub(super) fn directory(path: &Path) -> Result<(), Refusal> {
    let purpose = Purpose::Write;
    inspect(path, purpose).map_err(|(culprit, reason)| Refusal {
        purpose,
        wanted: path.into(),
        path: culprit,
        reason,
    })
}

fn locate(program: &Path) -> Result<PathBuf, Reason> {
    if program.is_absolute() {
        return Ok(program.to_owned());
    }
    let mut components = program.components();
    let (Some(Component::Normal(name)), None) = (components.next(), components.next()) else {
        return Err(Reason::Relative);
    };
    let found = SEARCH_PATH.split(':').map(|directory| Path::new(directory).join(name));
    found.into_iter().find(|path| path.is_file()).ok_or(Reason::NotFound)
}

/// Walk to the file as the kernel would, and refuse the first step that others could change
fn inspect(path: &Path, purpose: Purpose) -> Result<(), (PathBuf, Reason)> {
    let us = geteuid().as_raw();
    let mut here = PathBuf::from("/");
    let mut here_is_shared = false;
    let mut ahead: VecDeque<OsString> = steps(path);
    let mut links = 0;
    let fail = |path: &Path, reason| Err((path.to_owned(), reason));
    while let Some(step) = ahead.pop_front() {
        let next = match step.to_str() {
            Some("/") => PathBuf::from("/"),
            Some(".") => continue,
            Some("..") => here.parent().unwrap_or(&here).to_owned(),
            _ => here.join(&step),
        };
        let metadata = match next.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) => return fail(&next, error.into()),
        };
        if metadata.uid() != 0 && metadata.uid() != us {
            return fail(&next, Reason::Owner(metadata.uid()));
        }
        if metadata.is_dir() {
            if writable_by_others(&metadata) && metadata.mode() & STICKY == 0 {
                return fail(&next, Reason::Writable);
            }
            here_is_shared = writable_by_others(&metadata);
            here = next;
            continue;
        }
        // In `/tmp` nobody can replace what is ours, but anybody can link to another file of root.
        if here_is_shared {
            return fail(&here, Reason::Shared);
        }
        if metadata.is_symlink() {
            links += 1;
            let target = match follow(&next, &here) {
                Ok(target) if links <= MAX_LINKS => target,
                Ok(_) => return fail(&next, Reason::NotFound),
                Err(reason) => return fail(&next, reason),
            };
            for step in steps(&target).into_iter().rev() {
                ahead.push_front(step);
            }
            continue;
        }
        return match metadata {
            _ if purpose == Purpose::Write => fail(&next, Reason::NotADirectory),
            metadata if !metadata.is_file() || !ahead.is_empty() => fail(&next, Reason::NotAFile),
            metadata if writable_by_others(&metadata) => fail(&next, Reason::Writable),
            metadata if metadata.mode() & 0o111 == 0 => fail(&next, Reason::NotExecutable),
            _ => Ok(()),
        };
    }
    match purpose {
        Purpose::Run => fail(&here, Reason::NotAFile),
        Purpose::Write if here_is_shared => fail(&here, Reason::Shared),
        Purpose::Write => Ok(()),
    }
}

fn follow(link: &Path, directory: &Path) -> Result<PathBuf, Reason> {
    if is_proc(statfs(directory).map_err(io::Error::from)?) {
        return Err(Reason::Magic);
    }
    Ok(link.read_link()?)
}

/// Whether the links in a directory may lead elsewhere than their text says
///
/// That of `/proc/1/root` is `/`, and the kernel goes to the root of that process, which in a
/// container is another one than ours.
pub(super) fn is_proc(file_system: StatFs) -> bool {
    file_system.f_type == PROC_SUPER_MAGIC
}

/// Its components, `/` and `..` among them
pub(super) fn steps(path: &Path) -> VecDeque<OsString> {
    path.components().map(|component| component.as_os_str().to_owned()).collect()
}

fn writable_by_others(metadata: &Metadata) -> bool {
    metadata.mode() & 0o022 != 0
}

/// What is about to be done
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Run a program
    Run,
    /// Write into a directory
    Write,
}

/// Why a program is not run, or a directory not written in
#[derive(Debug)]
pub(super) struct Refusal {
    purpose: Purpose,
    wanted: PathBuf,
    path: PathBuf,
    reason: Reason,
}

#[derive(Debug, PartialEq, Eq)]
enum Reason {
    Magic,
    NotADirectory,
    NotAFile,
    NotExecutable,
    NotFound,
    Owner(u32),
    Relative,
    Shared,
    Unreadable(io::ErrorKind),
    Writable,
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            kind => Self::Unreadable(kind),
        }
    }
}

impl Refusal {
    /// As a failure of that step
    pub(super) fn at(&self, step: Step) -> Failure {
        let path = self.path.display();
        let (subject, doing, effect) = match self.purpose {
            Purpose::Run => ("program", "is not run", "what is run"),
            Purpose::Write => ("file", "is not written in", "what is there"),
        };
        let (why, what) = match self.reason {
            Reason::Magic => (
                "is a link of /proc, which may lead elsewhere than it says".to_owned(),
                format!("name the {subject} by a path without it"),
            ),
            Reason::NotADirectory => {
                ("is no directory".to_owned(), "name a file in a directory".to_owned())
            }
            Reason::NotAFile => ("is no file".to_owned(), "name an executable file".to_owned()),
            Reason::NotExecutable => {
                ("is not executable".to_owned(), format!("make it executable: chmod a+x {path}"))
            }
            Reason::NotFound if self.purpose == Purpose::Write => {
                ("does not exist".to_owned(), format!("make the directory: mkdir {path}"))
            }
            Reason::NotFound => (
                "does not exist".to_owned(),
                format!("give the absolute path, or a name to be found in {SEARCH_PATH}"),
            ),
            Reason::Owner(uid) => (
                format!("belongs to user {uid}, who could change {effect}"),
                format!("give it to root: chown root {path}"),
            ),
            Reason::Relative => {
                ("is a relative path".to_owned(), "give the absolute path".to_owned())
            }
            Reason::Shared => (
                "is a directory for everybody's files".to_owned(),
                format!("put the {subject} where only root can write"),
            ),
            Reason::Unreadable(kind) => (
                format!("cannot be looked at: {kind}"),
                format!("let certkeep reach the {subject}, or run it as another user"),
            ),
            Reason::Writable => (
                format!("can be written by others, who could change {effect}"),
                format!("keep it to its owner: chmod go-w {path}"),
            ),
        };
        let wanted = self.wanted.display();
        Failure::needs_operator(step, format!("`{wanted}` {doing}: {path} {why}"), what)
    }
}

/// How many symlinks are followed, as the kernel does
pub(super) const MAX_LINKS: u32 = 40;

/// The bit that keeps users from each other's entries of a directory
const STICKY: u32 = 0o1000;

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            fs::create_dir(tree.path("bin")).unwrap();
            fs::File::create(tree.path("bin/hook")).unwrap();
            tree.mode("bin", 0o755);
            tree.mode("bin/hook", 0o755);
            tree
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn mode(&self, name: &str, mode: u32) {
            fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
        }

        fn reason(&self, name: &str) -> Option<Reason> {
            executable(&self.path(name)).err().map(|refusal| refusal.reason)
        }
    }

    #[test]
    fn an_executable_that_only_root_and_we_can_change_is_taken() {
        let tree = Tree::new();
        assert_eq!(executable(&tree.path("bin/hook")).unwrap(), tree.path("bin/hook"));
        symlink("bin/../bin/hook", tree.path("link")).unwrap();
        assert_eq!(executable(&tree.path("link")).unwrap(), tree.path("link"));
    }

    #[test]
    fn an_executable_that_others_could_change_is_refused() {
        type Damage = fn(&Tree);
        let cases: [(&str, Damage, Reason); 8] = [
            ("group may write", |t| t.mode("bin/hook", 0o775), Reason::Writable),
            ("all may write", |t| t.mode("bin/hook", 0o757), Reason::Writable),
            ("directory for the group", |t| t.mode("bin", 0o775), Reason::Writable),
            ("directory for all", |t| t.mode("bin", 0o777), Reason::Writable),
            ("shared directory", |t| t.mode("bin", 0o1777), Reason::Shared),
            ("not executable", |t| t.mode("bin/hook", 0o644), Reason::NotExecutable),
            ("gone", |t| fs::remove_file(t.path("bin/hook")).unwrap(), Reason::NotFound),
            (
                "a directory",
                |t| {
                    fs::remove_file(t.path("bin/hook")).unwrap();
                    fs::create_dir(t.path("bin/hook")).unwrap();
                },
                Reason::NotAFile,
            ),
        ];
        for (name, damage, expected) in cases {
            let tree = Tree::new();
            damage(&tree);
            assert_eq!(tree.reason("bin/hook"), Some(expected), "{name}");
        }
    }

    #[test]
    fn a_directory_that_others_could_write_in_is_refused() {
        let tree = Tree::new();
        let reason = |name: &str| directory(&tree.path(name)).err().map(|refusal| refusal.reason);
        assert_eq!(reason("bin"), None);
        assert_eq!(reason("bin/hook"), Some(Reason::NotADirectory));
        assert_eq!(reason("none"), Some(Reason::NotFound));
        for (mode, expected) in [(0o775, Reason::Writable), (0o1777, Reason::Shared)] {
            tree.mode("bin", mode);
            assert_eq!(reason("bin"), Some(expected), "{mode:o}");
        }
    }

    #[test]
    fn the_way_through_symlinks_is_looked_at_too() {
        let tree = Tree::new();
        fs::create_dir(tree.path("open")).unwrap();
        tree.mode("open", 0o777);
        symlink("../bin/hook", tree.path("open/hop")).unwrap();
        symlink("open/hop", tree.path("link")).unwrap();
        assert_eq!(tree.reason("link"), Some(Reason::Writable));
        symlink("loop", tree.path("loop")).unwrap();
        assert_eq!(tree.reason("loop"), Some(Reason::NotFound));
    }

    #[test]
    fn an_executable_behind_a_link_of_proc_is_refused() {
        let tree = Tree::new();
        let inside = |name: &str| {
            let path = tree.path(name);
            Path::new("/proc/self/root").join(path.strip_prefix("/").unwrap())
        };
        let refusal = executable(&inside("bin/hook")).unwrap_err();
        assert_eq!(refusal.reason, Reason::Magic);
        assert_eq!(directory(&inside("bin")).unwrap_err().reason, Reason::Magic);
    }

    #[test]
    fn a_bare_name_is_found_in_the_fixed_path_and_a_relative_path_is_not_taken() {
        let sh = executable(Path::new("sh")).unwrap();
        assert!(sh.is_absolute() && sh.ends_with("sh"), "{sh:?}");
        for (program, expected) in [
            ("no-such-program", Reason::NotFound),
            ("./sh", Reason::Relative),
            ("bin/sh", Reason::Relative),
            ("..", Reason::Relative),
            ("", Reason::Relative),
        ] {
            let refusal = executable(Path::new(program)).unwrap_err();
            assert_eq!(refusal.reason, expected, "{program:?}");
        }
    }

    #[test]
    fn the_refusal_names_the_path_and_the_remedy() {
        let tree = Tree::new();
        tree.mode("bin", 0o777);
        let refusal = executable(&tree.path("bin/hook")).unwrap_err();
        let failure = refusal.at(Step::Check).to_string();
        let directory = tree.path("bin");
        let remedy = format!("chmod go-w {}", directory.display());
        assert!(failure.starts_with("check: ") && failure.contains(&remedy), "{failure}");
    }
}
