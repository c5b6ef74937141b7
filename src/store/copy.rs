//! Regular files replaced one after the other, under a journal that survives a crash.
//!
//! Every new file is complete on disk before the first rename, and every old one has a second
//! name until the last. So a start after a crash can finish the switch, or undo it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::dir::{Attributes, Dir, temporary_name};
use super::error::StoreError;
use super::install::{Placed, common_owner, open_place, open_places};
use super::label::Labels;
use super::original::{Kept, Original, Was};
use super::record::{self, Reading, Record};
use super::render::Bytes;
use super::walk::{self, Held};
use super::{Store, pair};
use crate::cert::Fingerprint;
use crate::config::{Certificate, Target};
use crate::name::TargetName;
use crate::record::VERSION;

/// Switch a target to a generation
pub(super) fn install(
    store: &Store,
    certificate: &Certificate,
    target: &Target,
    placed: &[Placed<'_>],
    contents: &[Bytes<'_>],
) -> Result<(), StoreError> {
    let places = open_places(placed)?;
    let mut present = Vec::with_capacity(placed.len());
    for place in placed {
        if let Some(dir) = places.get(place.directory) {
            let owner = common_owner(placed, place.directory);
            present.push((place.output.path.clone(), place.look(dir, owner)?));
        }
    }
    let found: Vec<_> = present.iter().map(|(path, present)| (path.clone(), present)).collect();
    store.keep(Kept::Original, &certificate.name, &target.name, &found)?;
    let changes = placed.iter().zip(contents).zip(&present);
    let changes = changes.map(|((place, content), (_, present))| {
        let labels = present.content().map(|held| held.labels.clone()).unwrap_or_default();
        let new = New::File(content.parts(), place.attributes, labels);
        let owner = common_owner(placed, place.directory);
        Change { directory: place.directory, owner, name: place.name, new }
    });
    switch(store, certificate, target, &places, changes)
}

/// Put back what was there
pub(super) fn restore(
    store: &Store,
    certificate: &Certificate,
    target: &Target,
    originals: &[Original],
) -> Result<(), StoreError> {
    let placed = store.place(certificate, target, &super::owner::Owners::default())?;
    let places = open_places(&placed)?;
    let changes = placed.iter().filter_map(|place| {
        let original = originals.iter().find(|o| o.path == place.output.path)?;
        let new = match &original.was {
            Was::Absent => New::Nothing,
            Was::File(held) => New::Again(held),
            Was::Link { text, .. } => New::Link(text.as_ref()),
        };
        let owner = common_owner(&placed, place.directory);
        Some(Change { directory: place.directory, owner, name: place.name, new })
    });
    switch(store, certificate, target, &places, changes)
}

/// What is to become of one path
struct Change<'a> {
    directory: &'a Path,
    /// Whose files the directory is for
    owner: u32,
    name: &'a OsStr,
    new: New<'a>,
}

enum New<'a> {
    /// What was there before, of whoever it was
    Again(&'a Held),
    File(Vec<&'a [u8]>, Attributes, Labels),
    Link(&'a OsStr),
    Nothing,
}

/// `journal-<target>.json`: a switch under way
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Journal {
    version: u32,
    entries: Vec<Entry>,
}

impl Record for Journal {
    fn version(&self) -> u32 {
        self.version
    }
}

/// One path of a switch under way
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    directory: PathBuf,
    name: String,
    /// The name of what is to come, until it has come; `None`: nothing is to come
    staged: Option<String>,
    /// SHA-256 of what is to come
    digest: Option<Fingerprint>,
    /// The second name of what was there; `None`: nothing was
    previous: Option<String>,
    /// Whose files the directory is for
    owner: u32,
}

fn switch<'a>(
    store: &Store,
    certificate: &Certificate,
    target: &Target,
    places: &BTreeMap<PathBuf, Dir>,
    changes: impl Iterator<Item = Change<'a>>,
) -> Result<(), StoreError> {
    let home = store.ensure_certificate_dir(&certificate.name)?;
    let file = journal_name(&target.name);
    recover(&home, &file)?;
    let tag = store.tag(&certificate.name);
    let mut entries = Vec::new();
    let staged = changes.into_iter().try_for_each(|change| {
        let missing = || StoreError::system("open", change.directory, Errno::NOENT);
        let dir = places.get(change.directory).ok_or_else(missing)?;
        stage(dir, &tag, &change, &mut entries)
    });
    let staged = staged.and_then(|()| places.values().try_for_each(Dir::sync));
    let journal = Journal { version: VERSION, entries };
    if let Err(error) = staged.and_then(|()| record::write(&home, &file, &journal)) {
        discard(places, &journal);
        return Err(error);
    }
    let renamed = journal.entries.iter().try_for_each(|entry| forward(places, entry));
    let switched = renamed.and_then(|()| finish(places, &journal));
    if switched.is_err() {
        // When that fails too, the journal stays and the next look tries again.
        back(places, &journal)?;
    }
    // The files are as they are to be. A journal that stays changes none, and the next look, or
    // the next switch before it begins, reports what keeps it.
    drop(forget(&home, &file));
    switched
}

/// Make the new file and the old one's second name, neither of which is seen
fn stage(
    dir: &Dir,
    tag: &str,
    change: &Change<'_>,
    entries: &mut Vec<Entry>,
) -> Result<(), StoreError> {
    let name = change.name.to_str().ok_or_else(|| {
        StoreError::refused(
            dir.join(change.name),
            "has a name that is not UTF-8",
            "choose another name",
        )
    })?;
    let mut entry = Entry {
        directory: change.directory.to_owned(),
        name: name.to_owned(),
        staged: None,
        digest: None,
        previous: None,
        owner: change.owner,
    };
    let temporary = temporary_name(tag);
    let staged = match &change.new {
        New::File(parts, attributes, labels) => {
            entry.digest = Some(pair::digest(&parts.concat()));
            dir.create(&temporary, parts, *attributes, labels)
        }
        New::Again(held) => {
            entry.digest = Some(pair::digest(&held.bytes));
            dir.create_again(&temporary, &[&held.bytes], held.attributes, &held.labels)
        }
        New::Link(text) => {
            use std::os::unix::ffi::OsStrExt as _;
            entry.digest = Some(pair::digest(text.as_bytes()));
            fs::symlinkat(*text, dir.fd(), &temporary)
                .map_err(|errno| dir.error("make the symlink", change.name, errno))
        }
        New::Nothing => Ok(()),
    };
    entry.staged = entry.digest.is_some().then_some(temporary);
    let kept = staged.and_then(|()| keep(dir, tag, change));
    let kept = kept.map(|previous| entry.previous = previous);
    entries.push(entry);
    kept
}

/// Give what is there a second name, so that it can come back
fn keep(dir: &Dir, tag: &str, change: &Change<'_>) -> Result<Option<String>, StoreError> {
    let Change { name, owner, .. } = *change;
    let temporary = temporary_name(tag);
    match fs::linkat(dir.fd(), name, dir.fd(), &temporary, AtFlags::empty()) {
        Ok(()) => Ok(Some(temporary)),
        Err(Errno::NOENT) => Ok(None),
        // Without hard links, or with somebody else's file, a copy has to do.
        Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::MLINK | Errno::XDEV) => {
            match walk::look(dir, name, owner)? {
                walk::Present::Absent => Ok(None),
                walk::Present::File(Held { bytes, attributes, labels }) => {
                    dir.create_again(&temporary, &[&bytes], attributes, &labels)?;
                    Ok(Some(temporary))
                }
                walk::Present::Link { text, .. } => {
                    fs::symlinkat(&text, dir.fd(), &temporary)
                        .map_err(|errno| dir.error("make the symlink", name, errno))?;
                    Ok(Some(temporary))
                }
            }
        }
        Err(errno) => Err(dir.error("link", name, errno)),
    }
}

fn place<'a>(places: &'a BTreeMap<PathBuf, Dir>, entry: &Entry) -> Result<&'a Dir, StoreError> {
    let missing = || StoreError::system("open", &entry.directory, Errno::NOENT);
    places.get(&entry.directory).ok_or_else(missing)
}

/// Let the new take the old one's place, unless it has
fn forward(places: &BTreeMap<PathBuf, Dir>, entry: &Entry) -> Result<(), StoreError> {
    let dir = place(places, entry)?;
    match &entry.staged {
        Some(staged) if dir.stat(staged)?.is_some() => dir.rename(staged, &entry.name),
        Some(_) => Ok(()),
        None => dir.unlink(&entry.name),
    }
}

/// Make the switch last, and drop the way back
fn finish(places: &BTreeMap<PathBuf, Dir>, journal: &Journal) -> Result<(), StoreError> {
    places.values().try_for_each(Dir::sync)?;
    for entry in &journal.entries {
        if let Some(previous) = &entry.previous {
            // What stays is swept at the next start.
            drop(place(places, entry)?.unlink(previous));
        }
    }
    Ok(())
}

/// Let the old come back
fn back(places: &BTreeMap<PathBuf, Dir>, journal: &Journal) -> Result<(), StoreError> {
    for entry in &journal.entries {
        let dir = place(places, entry)?;
        match &entry.previous {
            Some(previous) if dir.stat(previous)?.is_some() => {
                dir.rename(previous, &entry.name)?;
                // A rename between two names of the same file leaves both.
                dir.unlink(previous)?;
            }
            None if is_done(dir, entry)? && entry.staged.is_some() => dir.unlink(&entry.name)?,
            Some(_) | None => {}
        }
        if let Some(staged) = &entry.staged {
            dir.unlink(staged)?;
        }
    }
    places.values().try_for_each(Dir::sync)
}

/// Whether the new has taken the old one's place
fn is_done(dir: &Dir, entry: &Entry) -> Result<bool, StoreError> {
    let Some(digest) = entry.digest else { return Ok(dir.stat(&entry.name)?.is_none()) };
    let found = match dir.link_text(&entry.name)? {
        Some(text) => Some(text.into_encoded_bytes()),
        None => match dir.read(&entry.name) {
            Ok(found) => found.map(|(bytes, _)| bytes),
            Err(error) if error.is_damage() => None,
            Err(error) => return Err(error),
        },
    };
    Ok(found.is_some_and(|bytes| pair::digest(&bytes) == digest))
}

/// Remove what was staged for a switch that does not take place
fn discard(places: &BTreeMap<PathBuf, Dir>, journal: &Journal) {
    for entry in &journal.entries {
        let Ok(dir) = place(places, entry) else { continue };
        for name in [&entry.staged, &entry.previous].into_iter().flatten() {
            // What stays is swept at the next start.
            drop(dir.unlink(name));
        }
    }
}

fn forget(home: &Dir, file: &str) -> Result<(), StoreError> {
    home.unlink(file)?;
    home.sync()
}

/// Finish or undo the switch of a journal that is still there
///
/// Forward when everything new is there or has come, back otherwise.
pub(super) fn recover(home: &Dir, file: &str) -> Result<(), StoreError> {
    let mut journal = match record::read::<Journal>(home, file)? {
        Reading::Absent => return Ok(()),
        Reading::Record(journal) => journal,
        // It is written whole before the first rename: this one came from elsewhere.
        Reading::Corrupt(corrupt) => {
            home.rename(file, format!("{file}.corrupt-{}", corrupt.modified))?;
            return home.sync();
        }
    };
    let mut places = BTreeMap::new();
    for entry in &journal.entries {
        let is_gone = || matches!(fs::stat(&entry.directory), Err(Errno::NOENT));
        if !places.contains_key(&entry.directory) && !is_gone() {
            let dir = open_place(&entry.directory, entry.owner)?;
            places.insert(entry.directory.clone(), dir);
        }
    }
    // Of a directory that somebody removed meanwhile, nothing is left to finish.
    journal.entries.retain(|entry| places.contains_key(&entry.directory));
    let mut complete = true;
    for entry in &journal.entries {
        let dir = place(&places, entry)?;
        let staged = match &entry.staged {
            Some(staged) => dir.stat(staged)?.is_some(),
            None => true,
        };
        complete &= staged || is_done(dir, entry)?;
    }
    if complete {
        journal.entries.iter().try_for_each(|entry| forward(&places, entry))?;
        finish(&places, &journal)?;
    } else {
        back(&places, &journal)?;
    }
    forget(home, file)
}

fn journal_name(target: &TargetName) -> String {
    format!("{JOURNAL}{target}.json")
}

/// Whether a file of a certificate's directory is a journal
pub(super) fn is_journal(name: &OsString) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(JOURNAL) && name.ends_with(".json"))
}

const JOURNAL: &str = "journal-";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layout;
    use crate::record::Generation;
    use crate::store::fixture;

    fn read(path: &Path) -> Option<String> {
        std::fs::read_to_string(path).ok()
    }

    fn given(certificate: &Certificate) -> Vec<Option<String>> {
        certificate.targets[0].outputs.iter().map(|output| read(&output.path)).collect()
    }

    /// A switch up to its journal, with the journal
    fn begun(
        store: &Store,
        certificate: &Certificate,
        generation: &Generation,
    ) -> (Dir, BTreeMap<PathBuf, Dir>, Journal) {
        let target = &certificate.targets[0];
        let owners = crate::store::owner::Owners::default();
        let placed = store.place(certificate, target, &owners).unwrap();
        let places = open_places(&placed).unwrap();
        let mut entries = Vec::new();
        let contents = fixture::rendered(store, certificate, generation);
        for (place, content) in placed.iter().zip(&contents) {
            let new = New::File(content.parts(), place.attributes, Labels::default());
            let change = Change { directory: place.directory, owner: 0, name: place.name, new };
            let tag = store.tag(&certificate.name);
            stage(&places[place.directory], &tag, &change, &mut entries).unwrap();
        }
        let journal = Journal { version: VERSION, entries };
        let home = store.ensure_certificate_dir(&certificate.name).unwrap();
        record::write(&home, &journal_name(&target.name), &journal).unwrap();
        (home, places, journal)
    }

    #[test]
    fn a_start_finishes_a_switch_that_has_all_its_files_and_undoes_any_other() {
        for (existing, lost) in [(true, None), (false, None), (true, Some(1)), (false, Some(1))] {
            for renames in 0..=2 {
                let case = format!("existing {existing}, lost {lost:?}, {renames} renames");
                let place = fixture::place();
                let store = place.store();
                let out = place.outputs();
                let certificate = fixture::certificate(Layout::Copy, &out);
                let target = &certificate.targets[0];
                if existing {
                    let generation = fixture::stage(&store);
                    store.install(&certificate, target, &generation).unwrap();
                }
                let old = given(&certificate);
                let generation = fixture::stage(&store);
                let (home, places, journal) = begun(&store, &certificate, &generation);
                assert_eq!(given(&certificate), old, "{case}");
                for entry in &journal.entries[..renames] {
                    forward(&places, entry).unwrap();
                }
                if let Some(staged) = lost.and_then(|i: usize| journal.entries[i].staged.as_ref()) {
                    places[&out].unlink(staged).unwrap();
                }
                store.recover_one(&certificate, &mut |event| panic!("{event}")).unwrap();
                let now = given(&certificate);
                if lost.is_some() && renames < 2 {
                    assert_eq!(now, old, "{case}");
                } else {
                    let parts = |o: &crate::config::Output| pair::parts(&o.content, &generation);
                    let new = target.outputs.iter().map(|o| parts(o).concat());
                    let new: Vec<_> = new.map(|b| String::from_utf8(b).ok()).collect();
                    assert_eq!(now, new, "{case}");
                }
                assert!(!home.names().unwrap().iter().any(is_journal), "{case}");
                let expected = now.iter().flatten().count();
                assert_eq!(places[&out].names().unwrap().len(), expected, "{case}: left over");
            }
        }
    }

    #[test]
    fn a_rename_that_fails_in_the_middle_brings_the_old_pair_back() {
        let place = fixture::place();
        let store = place.store();
        let out = place.outputs();
        let certificate = fixture::certificate(Layout::Copy, &out);
        let target = &certificate.targets[0];
        let generation = fixture::stage(&store);
        store.install(&certificate, target, &generation).unwrap();
        let old = given(&certificate);
        let (home, places, journal) = begun(&store, &certificate, &fixture::stage(&store));
        forward(&places, &journal.entries[0]).unwrap();
        assert_ne!(given(&certificate), old);
        back(&places, &journal).unwrap();
        assert_eq!(given(&certificate), old);
        forget(&home, &journal_name(&target.name)).unwrap();
        assert_eq!(places[&out].names().unwrap().len(), 2);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "files that were there before certkeep")]
    fn regular_files_and_symlinks_come_back_as_they_were() {
        let place = fixture::place();
        let store = place.store();
        let out = place.outputs();
        let certificate = fixture::certificate(Layout::Copy, &out);
        let target = &certificate.targets[0];
        std::fs::write(out.join("fullchain.pem"), "old chain").unwrap();
        std::fs::write(out.join("live"), "old key").unwrap();
        std::os::unix::fs::symlink("live", out.join("privkey.pem")).unwrap();
        for _ in 0..2 {
            store.install(&certificate, target, &fixture::stage(&store)).unwrap();
        }
        assert!(out.join("privkey.pem").symlink_metadata().unwrap().is_file());
        assert_eq!(store.kept(Kept::Original, &certificate.name, &target.name).unwrap().len(), 2);
        store.restore_original(&certificate, target).unwrap();
        assert_eq!(given(&certificate), [Some("old chain".into()), Some("old key".into())]);
        assert_eq!(std::fs::read_link(out.join("privkey.pem")).unwrap(), Path::new("live"));
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 3);
    }
}
