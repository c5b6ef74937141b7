//! The atomic directory: one rename switches every file of a target.
//!
//! ```text
//! <dir>/..000007-<random>/fullchain.pem privkey.pem   final owner and mode, on disk; sticky
//! <dir>/..data -> ..000007-<random>                   replaced by rename: the switch
//! <path> -> [<dir>/]..data/fullchain.pem              stable, wherever it is
//! ```
//!
//! A path that is no such symlink yet is taken over without a change of what it gives: a
//! directory with the present content comes first, then the symlinks, then the switch.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::Store;
use super::dir::{Attributes, Batch, DATA, Dir, STICKY, random};
use super::error::StoreError;
use super::install::{Placed, approach_place, common_owner, open_places};
use super::label::Labels;
use super::original::{Kept, Original, Was};
use super::owner::Owners;
use super::render::Bytes;
use super::walk::{self, Held, Present, Reached};
use crate::config::{Certificate, Layout, Target};

/// Switch a target to a generation
pub(super) fn install(
    store: &Store,
    certificate: &Certificate,
    target: &Target,
    placed: &[Placed<'_>],
    contents: &[Bytes<'_>],
    number: u32,
) -> Result<(), StoreError> {
    prepare(store, certificate, target, placed, contents, number)?.run()
}

/// Everything of a switch that can be seen, in order; what cannot is done already
///
/// After any number of its steps, each path gives either what it gave before or what it is to
/// give, and all of them the same of the two.
#[derive(Debug)]
pub(super) struct Commit {
    atomic: Dir,
    /// The directories of the outputs, and that
    places: BTreeMap<PathBuf, Dir>,
    tag: String,
    steps: Vec<Step>,
    /// What `..data` led to before
    before: Option<OsString>,
}

#[derive(Debug)]
enum Step {
    /// Let `..data` lead to this directory
    Switch(String),
    /// Put a symlink in a path's place
    Link { place: PathBuf, name: OsString, text: OsString },
    /// Put a regular file in a path's place
    File { place: PathBuf, name: OsString, content: Held },
    /// Remove a symlink of ours
    Unlink { place: PathBuf, name: OsString },
}

fn prepare(
    store: &Store,
    certificate: &Certificate,
    target: &Target,
    placed: &[Placed<'_>],
    contents: &[Bytes<'_>],
    number: u32,
) -> Result<Commit, StoreError> {
    let mut commit = begin(store, certificate, target, placed)?;
    let mut strangers = Vec::new();
    let mut labels = Vec::with_capacity(placed.len());
    for place in placed {
        let dir = commit.place(place.directory)?;
        let text = dir.link_text(place.name)?;
        if text.is_none() || text != place.link {
            let present = place.look(dir, common_owner(placed, place.directory))?;
            labels.push(present.content().map(|held| held.labels.clone()).unwrap_or_default());
            strangers.push((place, present));
        } else {
            walk::check_output(dir, place.name)?;
            labels.push(dir.labels(place.name)?);
        }
    }
    let found: Vec<_> =
        strangers.iter().map(|(place, present)| (place.output.path.clone(), present)).collect();
    store.keep(Kept::Original, &certificate.name, &target.name, &found)?;

    let mode = match target.layout {
        Layout::Dir(_) => 0o755,
        Layout::Links | Layout::Copy => 0o711,
    };
    let new = placed.iter().zip(contents).zip(&labels);
    let new = new.map(|((place, content), labels)| New { place, content, labels });
    let built = commit.build_all(mode, &strangers, new, number);
    if let Err(error) = built {
        commit.sweep();
        return Err(error);
    }
    for (directory, name) in obsolete(store, certificate, target, placed, &commit)? {
        commit.steps.push(Step::Unlink { place: directory, name });
    }
    Ok(commit)
}

fn begin(
    store: &Store,
    certificate: &Certificate,
    target: &Target,
    placed: &[Placed<'_>],
) -> Result<Commit, StoreError> {
    let tag = store.tag(&certificate.name);
    let atomic = match &target.layout {
        Layout::Dir(path) => ensure_dir(path, common_owner(placed, path), &tag)?,
        Layout::Links | Layout::Copy => store.ensure_deployed(&certificate.name, &target.name)?,
    };
    let before = atomic.link_text(DATA)?;
    let mut places = match &target.layout {
        Layout::Dir(_) => BTreeMap::new(),
        Layout::Links | Layout::Copy => open_places(placed)?,
    };
    places.insert(atomic.path().to_owned(), atomic.again()?);
    Ok(Commit { atomic, places, tag, steps: Vec::new(), before })
}

/// The directory of `dir:`, of which the last part is made when it is missing
fn ensure_dir(path: &Path, owner: u32, tag: &str) -> Result<Dir, StoreError> {
    match approach_place(path, owner)? {
        Reached::Directory(dir) => Ok(dir),
        Reached::Nothing { parent } => {
            let missing = || StoreError::system("open", path, Errno::NOENT);
            let name = path.file_name().and_then(OsStr::to_str).ok_or_else(missing)?;
            let dir = parent.put_child(name, tag, 0o755)?;
            walk::check(&dir, owner)?;
            Ok(dir)
        }
    }
}

/// A file that an output is to lead to
struct New<'a> {
    place: &'a Placed<'a>,
    content: &'a Bytes<'a>,
    /// Those of what the path gives now
    labels: &'a Labels,
}

/// A file of a directory that is being built
struct File<'a> {
    entry: &'a OsStr,
    parts: Vec<&'a [u8]>,
    attributes: Attributes,
    labels: &'a Labels,
}

impl<'a> File<'a> {
    fn held((entry, held): (&'a OsString, &'a Held)) -> Self {
        let Held { bytes, attributes, labels } = held;
        Self { entry, parts: vec![bytes], attributes: *attributes, labels }
    }
}

impl Commit {
    fn place(&self, path: &Path) -> Result<&Dir, StoreError> {
        let missing = || StoreError::system("open", path, Errno::NOENT);
        self.places.get(path).ok_or_else(missing)
    }

    /// Build the directories, and plan the steps that put them in force
    fn build_all<'a>(
        &mut self,
        mode: u32,
        strangers: &[(&Placed<'_>, Present)],
        new: impl Iterator<Item = New<'a>>,
        number: u32,
    ) -> Result<(), StoreError> {
        if strangers.iter().any(|(_, present)| present.content().is_some()) {
            let mut files = self.present_entries()?;
            for (place, present) in strangers {
                if let Some(held) = present.content() {
                    files.insert(place.entry.clone(), held.clone());
                }
            }
            let name = self.build(PRESENT, mode, files.iter().map(File::held))?;
            self.steps.push(Step::Switch(name));
        }
        for (place, _) in strangers {
            let text = place.link.clone().unwrap_or_default();
            let (place, name) = (place.directory.to_owned(), place.name.to_owned());
            self.steps.push(Step::Link { place, name, text });
        }
        let files = new.map(|New { place, content, labels }| File {
            entry: &place.entry,
            parts: content.parts(),
            attributes: place.attributes,
            labels,
        });
        let name = self.build(number, mode, files)?;
        self.steps.push(Step::Switch(name));
        Ok(())
    }

    /// What the directory in force holds, for the paths that lead through it
    fn present_entries(&self) -> Result<BTreeMap<OsString, Held>, StoreError> {
        let mut entries = BTreeMap::new();
        let Some(dir) = data(&self.atomic)? else { return Ok(entries) };
        for name in dir.names()? {
            let regular = dir
                .stat(&name)?
                .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
            if let Some(held) = if regular { dir.hold(&name)? } else { None } {
                entries.insert(name, held);
            }
        }
        Ok(entries)
    }

    /// Build a directory that nothing leads to yet, complete; its own name lasts with the switch
    fn build<'a>(
        &self,
        number: u32,
        mode: u32,
        files: impl Iterator<Item = File<'a>>,
    ) -> Result<String, StoreError> {
        let name = format!("..{number:06}-{:016x}", random());
        let dir = self.atomic.new_child_with(&name, 0o700 | STICKY)?;
        let mut batch = Batch::of(&dir);
        for File { entry, parts, attributes, labels } in files {
            match number {
                PRESENT => batch.create_again(entry, &parts, attributes, labels)?,
                _ => batch.create(entry, &parts, attributes, labels)?,
            }
        }
        dir.set_mode(mode | STICKY)?;
        batch.sync()?;
        Ok(name)
    }

    /// Take every step; what is no longer led to goes afterwards
    pub(super) fn run(self) -> Result<(), StoreError> {
        let done = self.take_all();
        self.sweep();
        done
    }

    /// Links lead to the same content in any order, so those of a directory last together
    fn take_all(&self) -> Result<(), StoreError> {
        // What was built lasts before anything leads to it.
        let mut linked = BTreeSet::from([self.atomic.path()]);
        for step in &self.steps {
            if let Step::Link { place, .. } = step {
                self.take(step)?;
                linked.insert(place.as_path());
                continue;
            }
            self.sync(std::mem::take(&mut linked))?;
            self.take(step)?;
        }
        self.sync(linked)
    }

    fn sync(&self, places: BTreeSet<&Path>) -> Result<(), StoreError> {
        places.into_iter().try_for_each(|place| self.place(place)?.sync())
    }

    fn take(&self, step: &Step) -> Result<(), StoreError> {
        match step {
            Step::Switch(name) => self.atomic.replace_by_link(DATA, &self.tag, name.as_ref()),
            Step::Link { place, name, text } => self.place(place)?.link(name, &self.tag, text),
            Step::File { place, name, content: Held { bytes, attributes, labels } } => {
                self.place(place)?.replace_again(name, &self.tag, &[bytes], *attributes, labels)
            }
            Step::Unlink { place, name } => {
                let dir = self.place(place)?;
                dir.unlink(name)?;
                dir.sync()
            }
        }
    }

    /// Remove directories that nothing leads to, but not the one that was in force just before:
    /// a reader may be in it
    fn sweep(&self) {
        // What stays is swept at the next switch or start.
        drop(sweep(&self.atomic, self.before.as_deref(), &self.tag));
    }
}

/// Remove what switches left behind, except what is in force and `keep`
///
/// Whoever owns the directory may have given such a name to one of root's: that keeps its files.
pub(super) fn sweep(atomic: &Dir, keep: Option<&OsStr>, tag: &str) -> Result<(), StoreError> {
    let current = atomic.link_text(DATA)?;
    for name in atomic.names()? {
        let in_use = Some(&name) == current.as_ref() || Some(name.as_os_str()) == keep;
        if (is_content_directory(&name) && !in_use) || super::dir::is_temporary(&name, tag) {
            atomic.remove_tree(&name)?;
        }
    }
    Ok(())
}

/// Whether a name is one that [`Commit::build`] gives
fn is_content_directory(name: &OsStr) -> bool {
    let Some(rest) = name.to_str().and_then(|name| name.strip_prefix("..")) else { return false };
    rest.split_once('-').is_some_and(|(number, random)| {
        number.len() >= 6
            && number.bytes().all(|b| b.is_ascii_digit())
            && random.len() == 16
            && random.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// The directory that `..data` leads to, if it is one of [`Commit::build`] beside it
pub(super) fn in_force(atomic: &Dir) -> Option<Dir> {
    let text = atomic.link_text(DATA).ok()??;
    let name = text.to_str().filter(|_| is_content_directory(&text))?;
    atomic.child(name).ok()?
}

/// The directory that `..data` is or leads to beside it, whoever made it
///
/// Whoever owns the directory can let `..data` lead anywhere, and give one of root's its name:
/// what is in that is not for them, unless everybody may enter it.
fn data(atomic: &Dir) -> Result<Option<Dir>, StoreError> {
    let text = atomic.link_text(DATA)?.unwrap_or_else(|| DATA.into());
    let mut components = Path::new(&text).components();
    let (Some(Component::Normal(name)), None) = (components.next(), components.next()) else {
        return Ok(None);
    };
    let dir = match atomic.child(name) {
        Err(error) if matches!(error.errno(), Some(Errno::NOTDIR | Errno::LOOP)) => None,
        found => found?,
    };
    let Some(dir) = dir else { return Ok(None) };
    let is_theirs = dir.attributes()?.mode & 0o001 != 0 || atomic.is_named_by_its_own(&dir)?;
    Ok(is_theirs.then_some(dir))
}

/// Symlinks of ours at paths that the configuration no longer names
fn obsolete(
    store: &Store,
    certificate: &Certificate,
    target: &Target,
    placed: &[Placed<'_>],
    commit: &Commit,
) -> Result<Vec<(PathBuf, OsString)>, StoreError> {
    let mut found = Vec::new();
    let wanted = |path: &Path| placed.iter().any(|place| place.output.path == path);
    if let Layout::Dir(path) = &target.layout {
        for name in commit.atomic.names()? {
            let ours = commit.atomic.link_text(&name)?.is_some_and(|text| is_through(&text, b""));
            if ours && !wanted(&path.join(&name)) {
                found.push((path.clone(), name));
            }
        }
    } else {
        let prefix = commit.atomic.join("");
        for original in
            store.kept(Kept::Original, &certificate.name, &target.name).unwrap_or_default()
        {
            let (Some(directory), Some(name)) = (original.path.parent(), original.path.file_name())
            else {
                continue;
            };
            let Some(dir) = commit.places.get(directory).filter(|_| !wanted(&original.path)) else {
                continue;
            };
            let text = dir.link_text(name)?;
            if text.is_some_and(|text| is_through(&text, prefix.as_os_str().as_bytes())) {
                found.push((directory.to_owned(), name.to_owned()));
            }
        }
    }
    Ok(found)
}

/// Whether a symlink leads through the `..data` below this prefix
fn is_through(text: &OsStr, prefix: &[u8]) -> bool {
    text.as_bytes()
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix(DATA.as_bytes()))
        .is_some_and(|rest| rest.starts_with(b"/"))
}

/// Put back what was there: the switch first, then each symlink gives way to its original
pub(super) fn restore(
    store: &Store,
    certificate: &Certificate,
    target: &Target,
    originals: &[Original],
) -> Result<(), StoreError> {
    let placed = store.place(certificate, target, &Owners::default())?;
    let mut commit = begin(store, certificate, target, &placed)?;
    let mut files = commit.present_entries()?;
    let mut last = Vec::new();
    for place in &placed {
        let Some(original) = originals.iter().find(|o| o.path == place.output.path) else {
            continue;
        };
        match original.was.content() {
            Some(held) => {
                files.insert(place.entry.clone(), held.clone());
            }
            None => {
                files.remove(&place.entry);
            }
        }
        let (directory, name) = (place.directory.to_owned(), place.name.to_owned());
        last.push(match &original.was {
            Was::Absent => Step::Unlink { place: directory, name },
            Was::File(held) => Step::File { place: directory, name, content: held.clone() },
            Was::Link { text, .. } => Step::Link { place: directory, name, text: text.into() },
        });
    }
    let mode = if matches!(target.layout, Layout::Dir(_)) { 0o755 } else { 0o711 };
    match commit.build(PRESENT, mode, files.iter().map(File::held)) {
        Ok(name) => commit.steps.push(Step::Switch(name)),
        Err(error) => {
            commit.sweep();
            return Err(error);
        }
    }
    commit.steps.append(&mut last);
    commit.run()
}

/// In place of a generation's number, for what was there without one
const PRESENT: u32 = 0;

#[cfg(test)]
mod tests;
