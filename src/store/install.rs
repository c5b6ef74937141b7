//! Putting a generation where a target wants it, and putting back what was there before.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{self, Mode, OFlags};

use super::dir::{Attributes, DATA, Dir, put_right};
use super::error::StoreError;
use super::observe::{File, Verdict, verdict};
use super::original::{Kept, Original, Was};
use super::owner::Owners;
use super::render::{Bytes, render};
use super::walk::{Present, Reached};
use super::{Store, atomic, copy, owner, walk};
use crate::cert::Fingerprint;
use crate::config::{Certificate, Content, Format, Layout, Output, Target};
use crate::record::Generation;

/// What [`Store::reconcile`] had to do
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reconciled {
    /// Nothing
    Nothing,
    /// Modes or owners were put right; the content was
    Attributes,
    /// The files were installed anew
    Content,
}

impl Store {
    /// Switch the files of a target to a generation
    ///
    /// Nothing is touched when they are right already. The caller holds the certificate's lock.
    ///
    /// # Errors
    /// When a path cannot be an output, or something cannot be written or given away; then what
    /// the paths gave before is what they give still, unless it was the switch that the disk could
    /// not make last.
    pub fn install(
        &self,
        certificate: &Certificate,
        target: &Target,
        generation: &Generation,
    ) -> Result<(), StoreError> {
        self.writable()?;
        let placed = self.place(certificate, target, &Owners::default())?;
        let contents = self.render(certificate, target, &placed, generation)?;
        let mut both = placed.iter().zip(&contents);
        if both.all(|(place, content)| place.verdict(content) == Verdict::Current) {
            return Ok(());
        }
        self.switch(certificate, target, &placed, &contents, generation)
    }

    /// Put right what somebody changed, and no more than that
    ///
    /// # Errors
    /// As [`Store::install`].
    pub fn reconcile(
        &self,
        certificate: &Certificate,
        target: &Target,
        generation: &Generation,
    ) -> Result<Reconciled, StoreError> {
        self.writable()?;
        let placed = self.place(certificate, target, &Owners::default())?;
        let contents = self.render(certificate, target, &placed, generation)?;
        let both = placed.iter().zip(&contents);
        let verdicts: Vec<_> = both.map(|(place, content)| place.verdict(content)).collect();
        if verdicts.iter().all(|verdict| *verdict == Verdict::Current) {
            return Ok(Reconciled::Nothing);
        }
        let same = |verdict: &Verdict| matches!(verdict, Verdict::Current | Verdict::Attributes(_));
        if !verdicts.iter().all(same) {
            self.switch(certificate, target, &placed, &contents, generation)?;
            return Ok(Reconciled::Content);
        }
        let in_place = match self.atomic_path(&certificate.name, target) {
            Some(path) => adjust(&path, &placed, &contents)?,
            None => false,
        };
        if !in_place {
            self.switch(certificate, target, &placed, &contents, generation)?;
        }
        Ok(Reconciled::Attributes)
    }

    /// What each output is to hold; what is encrypted is remembered before anybody sees it
    fn render<'g>(
        &self,
        certificate: &Certificate,
        target: &Target,
        placed: &[Placed<'_>],
        generation: &'g Generation,
    ) -> Result<Vec<Bytes<'g>>, StoreError> {
        let render = |place: &Placed<'_>| render(place.output, generation, &self.0.passwords);
        let contents: Vec<_> = placed.iter().map(render).collect::<Result<_, _>>()?;
        self.remember_made(certificate, target, placed, &contents, generation)?;
        Ok(contents)
    }

    fn switch(
        &self,
        certificate: &Certificate,
        target: &Target,
        placed: &[Placed<'_>],
        contents: &[Bytes<'_>],
        generation: &Generation,
    ) -> Result<(), StoreError> {
        match &target.layout {
            Layout::Copy => copy::install(self, certificate, target, placed, contents),
            Layout::Dir(_) | Layout::Links => {
                let number = generation.meta.number;
                atomic::install(self, certificate, target, placed, contents, number)
            }
        }
    }

    /// Put back what a target had before certkeep came; the caller holds the certificate's lock
    ///
    /// # Errors
    /// When nothing was there, or it cannot be put back.
    pub fn restore_original(
        &self,
        certificate: &Certificate,
        target: &Target,
    ) -> Result<(), StoreError> {
        self.writable()?;
        let originals = self.kept(Kept::Original, &certificate.name, &target.name)?;
        if !is_something(&originals) {
            return Err(StoreError::refused(
                self.certificate_path(&certificate.name),
                format!("keeps no original of target `{}`: nothing was there before", target.name),
                "roll back to a generation instead, or install files by hand",
            ));
        }
        self.restore(certificate, target, &originals)
    }

    /// Whether [`Store::restore_original`] has something to put back
    ///
    /// # Errors
    /// When what is kept cannot be read.
    pub fn has_original(
        &self,
        certificate: &Certificate,
        target: &Target,
    ) -> Result<bool, StoreError> {
        Ok(is_something(&self.kept(Kept::Original, &certificate.name, &target.name)?))
    }

    fn restore(
        &self,
        certificate: &Certificate,
        target: &Target,
        originals: &[Original],
    ) -> Result<(), StoreError> {
        match &target.layout {
            Layout::Copy => copy::restore(self, certificate, target, originals),
            Layout::Dir(_) | Layout::Links => atomic::restore(self, certificate, target, originals),
        }
    }

    /// Remember what a target has before `next` is deployed, unless `previous` is all of it
    ///
    /// So that [`Store::put_back`] brings back also what somebody else put there. Where a switch
    /// to `next` has begun already, what was there before it is remembered still.
    ///
    /// # Errors
    /// When something there cannot be read, or not be kept.
    pub fn keep_before(
        &self,
        certificate: &Certificate,
        target: &Target,
        next: &Generation,
        previous: Option<&Generation>,
    ) -> Result<(), StoreError> {
        self.writable()?;
        let placed = self.place(certificate, target, &Owners::default())?;
        let holds = |place: &Placed<'_>, generation| {
            let content = render(place.output, generation, &self.0.passwords);
            let verdict = content.map(|content| place.verdict(&content));
            matches!(verdict, Ok(Verdict::Current | Verdict::Attributes(_)))
        };
        // Intermediates alone are those of many a certificate.
        let tells = |place: &&Placed<'_>| place.output.content != [Content::Chain];
        if placed.iter().filter(tells).any(|place| holds(place, next)) {
            return Ok(());
        }
        self.forget_before(&certificate.name, &target.name)?;
        if previous.is_some_and(|previous| placed.iter().all(|place| holds(place, previous))) {
            return Ok(());
        }
        // A directory that is yet to be made has nothing in it.
        let Ok(places) = open_places(&placed) else { return Ok(()) };
        let mut present = Vec::with_capacity(placed.len());
        for place in &placed {
            if let Some(dir) = places.get(place.directory) {
                let owner = common_owner(&placed, place.directory);
                present.push((place.output.path.clone(), place.look(dir, owner)?));
            }
        }
        if present.iter().all(|(_, present)| present.content().is_none()) {
            return Ok(());
        }
        let found: Vec<_> = present.iter().map(|(path, present)| (path.clone(), present)).collect();
        self.keep(Kept::Before, &certificate.name, &target.name, &found)
    }

    /// Put back what [`Store::keep_before`] found: that, or `previous`; whether there was anything
    ///
    /// # Errors
    /// When it cannot be put back.
    pub fn put_back(
        &self,
        certificate: &Certificate,
        target: &Target,
        previous: Option<&Generation>,
    ) -> Result<bool, StoreError> {
        let before = self.kept(Kept::Before, &certificate.name, &target.name)?;
        match previous {
            _ if is_something(&before) => self.restore(certificate, target, &before)?,
            Some(previous) => self.install(certificate, target, previous)?,
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Whether [`Store::put_back`] has something else to put back than a generation
    ///
    /// # Errors
    /// When what is kept cannot be read.
    pub fn has_before(
        &self,
        certificate: &Certificate,
        target: &Target,
    ) -> Result<bool, StoreError> {
        Ok(is_something(&self.kept(Kept::Before, &certificate.name, &target.name)?))
    }

    /// Where each output of a target goes, with no more than a look at its directory's group
    pub(super) fn place<'a>(
        &self,
        certificate: &Certificate,
        target: &'a Target,
        owners: &Owners,
    ) -> Result<Vec<Placed<'a>>, StoreError> {
        let atomic = self.atomic_path(&certificate.name, target);
        let mut placed: Vec<Placed<'a>> = Vec::with_capacity(target.outputs.len());
        let mut groups = BTreeMap::new();
        for output in &target.outputs {
            let directory = output.path.parent().filter(|_| output.group.is_none());
            let group = directory.and_then(|directory| {
                let known = groups.entry(directory);
                *known.or_insert_with(|| owner::handed_on(&target.layout, directory))
            });
            let attributes = owners.attributes(output, group)?;
            let place = place(target, atomic.as_deref(), output, attributes)?;
            if placed.iter().any(|other| other.entry == place.entry) {
                return Err(StoreError::refused(
                    &output.path,
                    "is an output of this target twice",
                    "name each path once in the configuration",
                ));
            }
            placed.push(place);
        }
        Ok(placed)
    }
}

fn is_something(kept: &[Original]) -> bool {
    kept.iter().any(|original| !matches!(original.was, Was::Absent))
}

/// An output, and where its parts are
#[derive(Debug)]
pub(super) struct Placed<'a> {
    pub(super) output: &'a Output,
    /// The directory of its path
    pub(super) directory: &'a Path,
    /// Its name there
    pub(super) name: &'a OsStr,
    /// Its name in the atomic directory
    pub(super) entry: OsString,
    /// The text of its symlink; `None` for a regular file
    pub(super) link: Option<OsString>,
    pub(super) attributes: Attributes,
}

impl Placed<'_> {
    /// What is at its path; our own symlink that somebody diverted leads to nothing, and the next
    /// switch puts that right
    pub(super) fn look(&self, dir: &Dir, owner: u32) -> Result<Present, StoreError> {
        walk::check_output(dir, self.name)?;
        match (walk::look(dir, self.name, owner), &self.link) {
            (Err(error), Some(link))
                if error.errno().is_none() && dir.link_text(self.name)?.as_ref() == Some(link) =>
            {
                Ok(Present::Link { text: link.clone(), behind: None })
            }
            (found, _) => found,
        }
    }

    fn verdict(&self, content: &Bytes<'_>) -> Verdict {
        let holds = |file: &File<'_>| file.holds(&content.parts());
        verdict(self.output, self.link.as_deref(), self.attributes, holds)
    }
}

fn place<'a>(
    target: &Target,
    atomic: Option<&Path>,
    output: &'a Output,
    attributes: Attributes,
) -> Result<Placed<'a>, StoreError> {
    let path = &output.path;
    let (Some(directory), Some(name), true) = (path.parent(), path.file_name(), path.is_absolute())
    else {
        return Err(StoreError::refused(
            path,
            "is not the absolute path of a file",
            "give the whole path in the configuration",
        ));
    };
    let (entry, link) = match (&target.layout, atomic) {
        (Layout::Links, Some(atomic)) => {
            let entry = OsString::from(entry_name(output));
            let link = atomic.join(DATA).join(&entry).into_os_string();
            (entry, Some(link))
        }
        (Layout::Dir(dir), _) => {
            if directory != dir || name.as_bytes().starts_with(b"..") {
                return Err(StoreError::refused(
                    path,
                    format!("is no usable name directly within `{}`", dir.display()),
                    "give a plain file name under `dir`",
                ));
            }
            (name.to_owned(), Some(Path::new(DATA).join(name).into_os_string()))
        }
        // Nothing of a regular file's is called so, yet it tells paths apart.
        (Layout::Copy | Layout::Links, _) => (path.clone().into_os_string(), None),
    };
    Ok(Placed { output, directory, name, entry, link, attributes })
}

/// An output's name in the atomic directory: the same for the same path and content, so that a
/// reordered configuration changes no symlink
fn entry_name(output: &Output) -> String {
    let mut digest = Fingerprint::of(output.path.as_os_str().as_bytes()).to_string();
    digest.truncate(12);
    let mut name = String::new();
    for content in &output.content {
        let file = content.file_name();
        name.push_str(file.strip_suffix(".pem").unwrap_or(file));
        name.push('-');
    }
    let end = match output.format {
        Format::Pem(_) => "pem",
        Format::Der(_) => "der",
        Format::Pkcs12 { .. } => "p12",
    };
    format!("{name}{digest}.{end}")
}

/// The directories of the outputs, each reached by a safe walk
pub(super) fn open_places(placed: &[Placed<'_>]) -> Result<BTreeMap<PathBuf, Dir>, StoreError> {
    let mut places = BTreeMap::new();
    for place in placed {
        if !places.contains_key(place.directory) {
            let dir = open_place(place.directory, common_owner(placed, place.directory))?;
            places.insert(place.directory.to_owned(), dir);
        }
    }
    Ok(places)
}

pub(super) fn open_place(directory: &Path, owner: u32) -> Result<Dir, StoreError> {
    match approach_place(directory, owner)? {
        Reached::Directory(dir) => Ok(dir),
        Reached::Nothing { .. } => Err(no_place(directory)),
    }
}

/// As [`open_place`], also where only the directory itself is missing
pub(super) fn approach_place(directory: &Path, owner: u32) -> Result<Reached, StoreError> {
    walk::approach(directory, owner).map_err(|error| match error.errno() {
        Some(rustix::io::Errno::NOENT) => no_place(error.path()),
        _ => error,
    })
}

fn no_place(path: &Path) -> StoreError {
    StoreError::refused(
        path,
        "does not exist",
        "create the directory; certkeep makes no directories at paths of others",
    )
}

/// The user that every output in a directory is for, or root
pub(super) fn common_owner(placed: &[Placed<'_>], directory: &Path) -> u32 {
    let mut owners = placed.iter().filter(|p| p.directory == directory).map(|p| p.attributes.uid);
    match owners.next() {
        Some(first) if owners.all(|owner| owner == first) => first,
        _ => 0,
    }
}

/// Put modes and owners right on the files themselves; whether that was possible
///
/// Whoever owns the directory may have changed since the verdicts what its names lead to. So what
/// is touched is what was opened: a file of a directory that we built, with what it is to hold.
fn adjust(
    atomic: &Path,
    placed: &[Placed<'_>],
    contents: &[Bytes<'_>],
) -> Result<bool, StoreError> {
    // The switch that follows says what is wrong with what cannot be opened.
    let Ok(dir) = open_place(atomic, common_owner(placed, atomic)) else { return Ok(false) };
    let Some(dir) = atomic::in_force(&dir) else { return Ok(false) };
    let failed = |errno| StoreError::system("look at", dir.path(), errno);
    let stat = fs::fstat(dir.fd()).map_err(failed)?;
    let (uid, _) = super::dir::ourselves();
    if stat.st_uid != uid || stat.st_mode & 0o022 != 0 {
        return Ok(false);
    }
    for (place, content) in placed.iter().zip(contents) {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(fd) = fs::openat(dir.fd(), &place.entry, flags, Mode::empty()) else {
            return Ok(false);
        };
        let stat = fs::fstat(&fd).map_err(|errno| dir.error("look at", &place.entry, errno))?;
        let holds =
            File::of(&fd, &stat).is_some_and(|file| file.holds(&content.parts()) == Ok(true));
        // Another name of the same file may be none of our business.
        if !holds || stat.st_nlink != 1 {
            return Ok(false);
        }
        put_right(&fd, place.attributes)
            .map_err(|(action, errno)| dir.error(action, &place.entry, errno))?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};

    use super::*;
    use crate::store::fixture::{self, rendered};

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Let `..data` of one directory lead to where that of another leads
    fn divert(from: &Path, to: &Path) {
        std::fs::remove_file(from.join(DATA)).unwrap();
        let text = to.join(std::fs::read_link(to.join(DATA)).unwrap());
        symlink(text, from.join(DATA)).unwrap();
    }

    #[test]
    fn a_diverted_directory_leaves_the_files_of_the_other_target_as_they_are() {
        let place = fixture::place();
        let store = place.store();
        let generation = fixture::stage(&store);
        let folders = ["theirs", "other"].map(|name| place.outputs().join(name));
        let [theirs, other] = &folders;
        let of = |folder: &PathBuf| fixture::certificate(Layout::Dir(folder.clone()), folder);
        for folder in &folders {
            let certificate = of(folder);
            store.install(&certificate, &certificate.targets[0], &generation).unwrap();
        }
        divert(theirs, other);
        let mut certificate = of(theirs);
        // What may be given away is given to the user that bends it.
        let (key, is_root) = (other.join("privkey.pem"), super::super::dir::ourselves().0 == 0);
        certificate.targets[0].outputs[1].mode = 0o640;
        certificate.targets[0].outputs[1].owner = is_root.then(|| "4711".to_owned());
        let before = std::fs::metadata(&key).unwrap();
        let target = &certificate.targets[0];
        let done = store.reconcile(&certificate, target, &generation).unwrap();
        assert_eq!(done, Reconciled::Attributes);
        let after = std::fs::metadata(&key).unwrap();
        assert_eq!((after.mode(), after.uid()), (before.mode(), before.uid()));
        assert_eq!(mode(&theirs.join("privkey.pem")), 0o640);
        let done = store.reconcile(&certificate, target, &generation).unwrap();
        assert_eq!(done, Reconciled::Nothing);
    }

    #[test]
    fn a_diverted_directory_keeps_nothing_back_and_nothing_of_it_is_kept() {
        if super::super::dir::ourselves().0 != 0 {
            // Only root can give anything away.
            return;
        }
        let place = fixture::place();
        let store = place.store();
        let (folder, elsewhere) = (place.outputs().join("dir"), place.outputs().join("elsewhere"));
        let mut certificate = fixture::certificate(Layout::Dir(folder.clone()), &folder);
        let (old, new) = (fixture::stage(&store), fixture::stage(&store));
        store.install(&certificate, &certificate.targets[0], &old).unwrap();
        std::fs::create_dir(&elsewhere).unwrap();
        for output in &mut certificate.targets[0].outputs {
            output.owner = Some("4711".to_owned());
            fixture::write(&elsewhere.join(output.path.file_name().unwrap()), "of root");
        }
        let target = &certificate.targets[0];
        std::fs::remove_file(folder.join(DATA)).unwrap();
        symlink(&elsewhere, folder.join(DATA)).unwrap();
        for given_away in [&folder, &folder.join(DATA)] {
            lchown(given_away, Some(4711), None).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&target.outputs[1].path).unwrap(), "of root");
        store.prepare(&certificate).unwrap();
        store.keep_before(&certificate, target, &new, Some(&old)).unwrap();
        assert!(!store.has_before(&certificate, target).unwrap());
        store.install(&certificate, target, &new).unwrap();
        let key = std::fs::read_to_string(&target.outputs[1].path).unwrap();
        assert_eq!(&key, new.key.expose());
        // A path itself that they let lead elsewhere needs the operator, as ever.
        lchown(&target.outputs[1].path, Some(4711), None).unwrap();
        assert!(store.prepare(&certificate).unwrap_err().needs_operator());
    }

    #[test]
    fn what_was_swapped_since_the_look_is_not_given_away() {
        for which in 0..2 {
            let place = fixture::place();
            let store = place.store();
            let folder = place.outputs().join("dir");
            let layout = [Layout::Dir(folder.clone()), Layout::Links][which].clone();
            let mut certificate = fixture::certificate(layout, &folder);
            std::fs::create_dir(&folder).unwrap();
            let (old, new) = (fixture::stage(&store), fixture::stage(&store));
            let target = &certificate.targets[0];
            let atomic = store.atomic_path(&certificate.name, target).unwrap();
            store.install(&certificate, target, &old).unwrap();
            let before = std::fs::read_link(atomic.join(DATA)).unwrap();
            store.install(&certificate, target, &new).unwrap();
            certificate.targets[0].outputs[1].mode = 0o640;
            let target = &certificate.targets[0];
            let key = &target.outputs[1].path;
            let placed = store.place(&certificate, target, &Owners::default()).unwrap();
            let contents = rendered(&store, &certificate, &new);
            assert!(adjust(&atomic, &placed, &contents).unwrap());
            assert_eq!(mode(key), 0o640);

            // One of the other generations that are kept.
            set_mode(key, 0o600);
            std::fs::remove_file(atomic.join(DATA)).unwrap();
            symlink(&before, atomic.join(DATA)).unwrap();
            assert!(!adjust(&atomic, &placed, &contents).unwrap());
            assert_eq!(mode(key), 0o600);
        }
    }
}
