//! A file system that keeps, over a power cut, what was synced, and of the rest as little or as
//! much as it likes.
//!
//! What it takes for granted, and what not:
//!
//! - `fsync` of a file keeps the file's content, and nothing else: not its name.
//! - `fsync` of a directory keeps the names in it, and nothing else: not what they lead to.
//! - What was written to a file since its last `fsync` is lost, torn in the middle, or kept. A
//!   file that was never synced is empty where that is lost.
//! - Of the names that changed in a directory since its last `fsync`, the first few changes are
//!   kept, or all but one on which no later one depends. Directories know nothing of each other.
//! - A rename within a directory is one change: never neither name, never both.
//! - Modes and owners go with the file; nothing here depends on when.
//! - What is written is added at the end. Only what is about to be removed is written over, and
//!   the one makes as much of a wreck of it as the other.
//!
//! POSIX promises no more than this. ext4 and XFS keep more: one journal has the changes of all
//! directories in their order, and a new file's `fsync` keeps its name too.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use crate::trace::Call;

type Inode = usize;

#[derive(Clone, Debug)]
enum Node {
    File { now: Vec<u8>, synced: Vec<u8>, mode: u32 },
    Link(PathBuf),
    Directory { names: Names, mode: u32 },
}

/// The names in a directory
#[derive(Clone, Debug, Default)]
struct Names {
    now: BTreeMap<String, Inode>,
    synced: BTreeMap<String, Inode>,
    since: Vec<Change>,
}

/// Names that lead elsewhere from one moment on, or nowhere
type Change = Vec<(String, Option<Inode>)>;

impl Names {
    fn change(&mut self, change: Change) {
        apply(&mut self.now, &change);
        self.since.push(change);
    }
}

fn apply(names: &mut BTreeMap<String, Inode>, change: &Change) {
    for (name, inode) in change {
        match inode {
            Some(inode) => names.insert(name.clone(), *inode),
            None => names.remove(name),
        };
    }
}

/// The file system below one directory
#[derive(Debug)]
pub(crate) struct Model {
    base: PathBuf,
    nodes: Vec<Node>,
}

impl Model {
    /// What is there now, all of it kept
    pub(crate) fn of(base: &Path) -> Self {
        let mut model = Self { base: base.to_owned(), nodes: Vec::new() };
        model.take_in(base);
        model
    }

    fn take_in(&mut self, path: &Path) -> Inode {
        let inode = self.nodes.len();
        self.nodes.push(Node::Link(PathBuf::new()));
        let meta = path.symlink_metadata().unwrap();
        self.nodes[inode] = if meta.is_dir() {
            let mut names = BTreeMap::new();
            for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
                let name = entry.file_name().into_string().unwrap();
                names.insert(name, self.take_in(&entry.path()));
            }
            let names = Names { now: names.clone(), synced: names, since: Vec::new() };
            Node::Directory { names, mode: meta.mode() }
        } else if meta.is_symlink() {
            Node::Link(std::fs::read_link(path).unwrap())
        } else {
            let now = std::fs::read(path).unwrap();
            Node::File { synced: now.clone(), now, mode: meta.mode() }
        };
        inode
    }

    /// Do what a call did; whether it was one that changes something here
    pub(crate) fn take(&mut self, call: &Call) -> bool {
        match call {
            Call::Create { path, mode } => {
                if !self.is_within(path) || self.find(path).is_some() {
                    return false;
                }
                self.put(path, Node::File { now: Vec::new(), synced: Vec::new(), mode: *mode });
            }
            Call::Write { path, bytes } => {
                // Others than certkeep write files of their own, which are not recorded whole.
                let Some(Node::File { now, .. }) = self.at(path) else { return false };
                now.extend_from_slice(bytes);
            }
            Call::Mode { path, mode: new } => match self.at(path) {
                Some(Node::File { mode, .. } | Node::Directory { mode, .. }) => *mode = *new,
                _ => return false,
            },
            Call::Sync { path } => match self.at(path) {
                Some(Node::File { now, synced, .. }) => now.clone_into(synced),
                Some(Node::Directory { names, .. }) => {
                    names.synced.clone_from(&names.now);
                    names.since.clear();
                }
                _ => return false,
            },
            Call::Directory { path, mode } if self.is_within(path) => {
                self.put(path, Node::Directory { names: Names::default(), mode: *mode });
            }
            Call::Symlink { text, path } if self.is_within(path) => {
                self.put(path, Node::Link(text.clone()));
            }
            Call::Link { from, to } if self.is_within(from) => {
                let inode = self.find(from).unwrap();
                let (names, name) = self.names(to);
                names.change(vec![(name, Some(inode))]);
            }
            Call::Unlink { path } if self.is_within(path) => {
                let (names, name) = self.names(path);
                names.change(vec![(name, None)]);
            }
            Call::Rename { from, to } if self.is_within(from) => {
                assert_eq!(from.parent(), to.parent(), "two directories change at once");
                let inode = self.find(from).unwrap();
                let (names, name) = self.names(to);
                let old = from.file_name().unwrap().to_str().unwrap().to_owned();
                // A rename between two names of one file does nothing.
                if names.now.get(&name) != Some(&inode) {
                    names.change(vec![(old, None), (name, Some(inode))]);
                }
            }
            _ => return false,
        }
        true
    }

    fn is_within(&self, path: &Path) -> bool {
        path.starts_with(&self.base)
    }

    fn put(&mut self, path: &Path, node: Node) {
        let inode = self.nodes.len();
        self.nodes.push(node);
        let (names, name) = self.names(path);
        names.change(vec![(name, Some(inode))]);
    }

    fn at(&mut self, path: &Path) -> Option<&mut Node> {
        self.find(path).map(|inode| &mut self.nodes[inode])
    }

    /// The names of the directory of a path, and the one of the path
    fn names(&mut self, path: &Path) -> (&mut Names, String) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        match self.at(path.parent().unwrap()) {
            Some(Node::Directory { names, .. }) => (names, name),
            other => panic!("{}: {other:?}", path.display()),
        }
    }

    /// What is at a path now, not behind it
    fn find(&self, path: &Path) -> Option<Inode> {
        let inside = path.strip_prefix(&self.base).ok()?;
        inside.components().try_fold(0, |inode, part| match &self.nodes[inode] {
            Node::Directory { names, .. } => names.now.get(part.as_os_str().to_str()?).copied(),
            _ => None,
        })
    }

    /// Everything that may be left when the power is cut at this moment
    pub(crate) fn cuts(&self) -> Vec<Cut<'_>> {
        let mut kept = vec![self.kept(|_| 0), self.kept(|_| usize::MAX)];
        let pending = self.nodes.iter().enumerate().filter_map(|(inode, node)| match node {
            Node::Directory { names, .. } if !names.since.is_empty() => Some((inode, names)),
            _ => None,
        });
        for (inode, names) in pending {
            let all = names.since.len();
            for count in 0..=all {
                // This directory is ahead of all others, or behind them.
                kept.push(self.kept(|other| if other == inode { count } else { 0 }));
                kept.push(self.kept(|other| if other == inode { count } else { usize::MAX }));
            }
            for lost in 0..all {
                let touches = |change: &Change| {
                    change.iter().any(|(name, _)| names.since[lost].iter().any(|(n, _)| n == name))
                };
                if !names.since[lost + 1..].iter().any(touches) {
                    let mut most = self.kept(|_| usize::MAX);
                    let mut these = names.synced.clone();
                    let others = names.since.iter().enumerate().filter(|(i, _)| *i != lost);
                    others.for_each(|(_, change)| apply(&mut these, change));
                    most.insert(inode, these);
                    kept.push(most);
                }
            }
        }
        kept.sort();
        kept.dedup();
        let cut = |names: BTreeMap<_, _>| {
            [Unsynced::Lost, Unsynced::Torn, Unsynced::Kept].map(|unsynced| Cut {
                model: self,
                names: names.clone(),
                unsynced,
            })
        };
        kept.into_iter().flat_map(cut).collect()
    }

    /// The names of each directory that is not synced, with so many of its changes
    fn kept(&self, count: impl Fn(Inode) -> usize) -> BTreeMap<Inode, BTreeMap<String, Inode>> {
        let mut kept = BTreeMap::new();
        for (inode, node) in self.nodes.iter().enumerate() {
            if let Node::Directory { names, .. } = node
                && !names.since.is_empty()
            {
                let mut these = names.synced.clone();
                names.since.iter().take(count(inode)).for_each(|change| apply(&mut these, change));
                kept.insert(inode, these);
            }
        }
        kept
    }
}

/// What becomes of content that was not synced
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsynced {
    Lost,
    Torn,
    Kept,
}

/// What is left after a power cut
#[derive(Debug)]
pub(crate) struct Cut<'a> {
    model: &'a Model,
    /// The names in directories that were not synced
    names: BTreeMap<Inode, BTreeMap<String, Inode>>,
    pub(crate) unsynced: Unsynced,
}

impl Cut<'_> {
    /// What a reader of a path gets
    pub(crate) fn read(&self, path: &Path) -> Option<Cow<'_, [u8]>> {
        self.read_within(path, 40)
    }

    fn read_within(&self, path: &Path, links: u32) -> Option<Cow<'_, [u8]>> {
        let mut inode = 0;
        let mut parts = path.strip_prefix(&self.model.base).ok()?.components();
        let mut here = self.model.base.clone();
        while let Some(part) = parts.next() {
            let Component::Normal(name) = part else { panic!("{}", path.display()) };
            inode = *self.entries(inode)?.get(name.to_str()?)?;
            if let Node::Link(text) = &self.model.nodes[inode] {
                let onward = here.join(text).join(parts.as_path());
                return self.read_within(&onward, links.checked_sub(1)?);
            }
            here.push(name);
        }
        self.content(inode)
    }

    fn entries(&self, inode: Inode) -> Option<&BTreeMap<String, Inode>> {
        match &self.model.nodes[inode] {
            Node::Directory { names, .. } => Some(self.names.get(&inode).unwrap_or(&names.now)),
            _ => None,
        }
    }

    fn content(&self, inode: Inode) -> Option<Cow<'_, [u8]>> {
        let Node::File { now, synced, .. } = &self.model.nodes[inode] else { return None };
        Some(match self.unsynced {
            Unsynced::Kept => Cow::Borrowed(now.as_slice()),
            Unsynced::Lost => Cow::Borrowed(synced.as_slice()),
            // What was appended is torn; nothing is ever written in place.
            Unsynced::Torn => {
                let torn = synced.len() + (now.len() - synced.len()) / 2;
                Cow::Borrowed(&now[..torn])
            }
        })
    }

    /// Make the real directories below the base be what is left
    pub(crate) fn lay_down(&self, folders: &[&str]) {
        for folder in folders {
            let path = self.model.base.join(folder);
            std::fs::remove_dir_all(&path).unwrap();
            let inode = self.entries(0).unwrap()[*folder];
            self.lay_down_at(inode, &path);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "what a power cut leaves is made by hand")]
    fn lay_down_at(&self, inode: Inode, path: &Path) {
        match &self.model.nodes[inode] {
            Node::Link(text) => symlink(text, path).unwrap(),
            Node::File { mode, .. } => {
                // A second name of a file becomes a file of its own, which nothing can tell.
                std::fs::write(path, self.content(inode).unwrap()).unwrap();
                std::fs::set_permissions(path, PermissionsExt::from_mode(*mode)).unwrap();
            }
            Node::Directory { mode, .. } => {
                std::fs::create_dir(path).unwrap();
                std::fs::set_permissions(path, PermissionsExt::from_mode(*mode)).unwrap();
                for (name, inode) in self.entries(inode).unwrap() {
                    self.lay_down_at(*inode, &path.join(name));
                }
            }
        }
    }
}
