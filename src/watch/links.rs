//! Where paths lead, step by step, and which names on the way matter.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// What decides what is found at some paths
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The directories to watch, without symlinks on the way
    pub(super) directories: HashSet<PathBuf>,
    /// The [`key`]s of what matters in them; thousands of names in full would weigh too much
    pub(super) names: HashSet<u64>,
}

/// What stands for a path; that two share one costs a needless look and no more
pub(super) fn key(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// Find out where these paths lead
///
/// What matters are the files themselves, every symlink on the way and what it leads to; where
/// something is missing, its name; and the directories, where their parents are watched anyway.
pub(super) fn resolve(paths: &[PathBuf]) -> Found {
    let mut walk = Walk { found: Found::default(), known: HashMap::new() };
    for path in paths {
        // Only an empty path has no absolute form, and that is nowhere.
        if let Ok(path) = std::path::absolute(path) {
            walk.file(&path, LINKS);
        }
    }
    let Found { directories, mut names } = walk.found;
    for directory in directories.iter().flat_map(|directory| directory.ancestors()) {
        if directory.parent().is_some_and(|parent| directories.contains(parent)) {
            names.insert(key(directory));
        }
    }
    Found { directories, names }
}

struct Walk {
    found: Found,
    /// Where each directory on the way leads, so that files beside each other are quick
    known: HashMap<PathBuf, Option<PathBuf>>,
}

impl Walk {
    /// Where a path leads, its last name being in question; `None` when it leads nowhere
    fn file(&mut self, path: &Path, links: usize) -> Option<PathBuf> {
        let Some((parent, name)) = self.enter(path, links)? else { return self.up(path, links) };
        self.matters(&parent, &parent.join(name));
        self.step(&parent, name, links)
    }

    /// Where a directory on the way leads
    fn directory(&mut self, path: &Path, links: usize) -> Option<PathBuf> {
        if let Some(known) = self.known.get(path) {
            return known.clone();
        }
        let found = match self.enter(path, links)? {
            Some((parent, name)) => self.step(&parent, name, links),
            None => self.up(path, links),
        };
        self.known.insert(path.to_owned(), found.clone());
        found
    }

    /// Where the parent of a path leads, and the last name; no name after `..` and for the root
    fn enter<'a>(&mut self, path: &'a Path, links: usize) -> Option<Option<(PathBuf, &'a OsStr)>> {
        match path.parent().zip(path.file_name()) {
            Some((parent, name)) => Some(Some((self.directory(parent, links)?, name))),
            None => Some(None),
        }
    }

    /// Where a path leads that ends in `..` or is the root
    fn up(&mut self, path: &Path, links: usize) -> Option<PathBuf> {
        let Some(below) = path.parent() else { return Some(path.to_owned()) };
        let below = self.directory(below, links)?;
        Some(below.parent().unwrap_or(&below).to_owned())
    }

    /// Where a name in a directory without symlinks leads
    fn step(&mut self, parent: &Path, name: &OsStr, links: usize) -> Option<PathBuf> {
        let here = parent.join(name);
        match fs::symlink_metadata(&here) {
            Ok(found) if found.is_symlink() => {
                self.matters(parent, &here);
                let target = fs::read_link(&here).ok()?;
                self.file(&parent.join(target), links.checked_sub(1)?)
            }
            Ok(_) => Some(here),
            Err(_) => {
                self.matters(parent, &here);
                None
            }
        }
    }

    fn matters(&mut self, directory: &Path, path: &Path) {
        self.found.names.insert(key(path));
        if !self.found.directories.contains(directory) {
            self.found.directories.insert(directory.to_owned());
        }
    }
}

/// How many symlinks one path may lead through, as many as for the kernel
const LINKS: usize = 40;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_symlink_on_the_way_matters() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for directory in ["a", "b", "c/d", "live/..1"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for (link, target) in [
            ("a/one", "../b/two"),
            ("b/two", root.join("c/d/file").to_str().unwrap()),
            ("dir", "c/d"),
            ("live/..data", "..1"),
            ("live/tls.crt", "..data/tls.crt"),
            ("loop", "loop"),
            ("dangling", "c/none/file"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let cases: [(&str, &[&str]); 9] = [
            ("c/d/file", &["c/d/file"]),
            ("a/one", &["a/one", "b/two", "c/d/file"]),
            ("dir/file", &["c", "c/d", "c/d/file", "dir"]),
            ("dir/../x", &["c", "c/d", "c/x", "dir"]),
            ("live/tls.crt", &["live/..1", "live/..1/tls.crt", "live/..data", "live/tls.crt"]),
            ("loop", &["loop"]),
            ("dangling", &["c", "c/none", "dangling"]),
            ("none/of/these", &["none"]),
            ("../../../../../../../..", &[]),
        ];
        for (path, expected) in cases {
            let expected: HashSet<_> = expected.iter().map(|path| key(&root.join(path))).collect();
            assert_eq!(resolve(&[root.join(path)]).names, expected, "{path}");
        }
    }

    #[test]
    fn files_beside_each_other_share_their_directory() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let paths: Vec<_> = (0..4000).map(|number| root.join(format!("{number}.pem"))).collect();
        let found = resolve(&paths);
        assert_eq!(found.directories, HashSet::from([root]));
        assert_eq!(found.names.len(), 4000);
    }
}
