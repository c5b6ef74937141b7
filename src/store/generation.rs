//! Generations: a key and its chain, staged once and never changed.

use std::ffi::OsStr;

use super::dir::{Attributes, Batch, Dir, temporary_name};
use super::error::StoreError;
use super::label::Labels;
use super::pair::{Pair, digest};
use super::record::{self, Reading};
use super::{CERTIFICATES, GENERATIONS, OWN, Store};
use crate::cert::{Fingerprint, Leaf};
use crate::config::Keep;
use crate::name::CertName;
use crate::record::{Digests, Generation, GenerationMeta, Origin, VERSION};
use crate::secret::Secret;
use crate::time::Timestamp;

/// What is known of a generation before it has a number
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGeneration {
    /// The certificate of the configuration
    pub certificate: CertName,
    /// Who issued it; `None` for one that was found in files
    pub origin: Option<Origin>,
    /// The current moment
    pub staged_at: Timestamp,
}

/// A generation's number, and what is in it or why that is of no use
type Inspected = (u32, Result<(GenerationMeta, Leaf), StoreError>);

impl Store {
    /// Keep a key and its chain as the next generation
    ///
    /// The same certificate staged again, as after a crash, is the generation that it already is.
    ///
    /// # Errors
    /// When they do not belong together, or cannot be written; then no number is used up.
    pub fn stage(
        &self,
        new: &NewGeneration,
        key: &Secret<String>,
        chain: &str,
    ) -> Result<Generation, StoreError> {
        let home = self.ensure_certificate_dir(&new.certificate)?;
        let generations = home.ensure_child(GENERATIONS, 0o700)?;
        let pair = Pair::new(key.expose(), chain.as_bytes(), generations.path())?;
        let newest = numbers(&generations)?.last().copied();
        if let Some(newest) = newest {
            let held = load(&generations, newest);
            if let Ok(Some(held)) = held
                && held.meta.fingerprint == pair.leaf.fingerprint
            {
                return Ok(held);
            }
        }
        let number = newest.unwrap_or(0).saturating_add(1);
        let meta = GenerationMeta {
            version: VERSION,
            certificate: new.certificate.clone(),
            number,
            fingerprint: pair.leaf.fingerprint,
            key_type: pair.key_type,
            origin: new.origin.clone(),
            staged_at: new.staged_at,
            digests: Digests {
                key: digest(pair.key.expose().as_bytes()),
                chain: digest(pair.chain.as_bytes()),
            },
        };
        let generation = Generation { meta, key: pair.key, chain: pair.chain };
        let temporary = temporary_name(OWN);
        let built = build(&generations, &temporary, &generation)
            .and_then(|()| generations.rename_new(&temporary, &directory_name(number)));
        if let Err(error) = built {
            drop(discard(&generations, temporary.as_ref()));
            return Err(error);
        }
        generations.sync()?;
        Ok(generation)
    }

    /// A generation with its content; `None` when there is none of that number
    ///
    /// # Errors
    /// When it cannot be read or is not what was staged.
    pub fn generation(
        &self,
        name: &CertName,
        number: u32,
    ) -> Result<Option<Generation>, StoreError> {
        match self.generations_dir(name)? {
            Some(dir) => load(&dir, number),
            None => Ok(None),
        }
    }

    /// Where every generation of a certificate came from, oldest first; damaged ones are left out
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn generations(&self, name: &CertName) -> Result<Vec<GenerationMeta>, StoreError> {
        let Some(dir) = self.generations_dir(name)? else { return Ok(Vec::new()) };
        let found = numbers(&dir)?.into_iter().map(|number| load(&dir, number));
        Ok(found.filter_map(|found| found.ok().flatten()).map(|found| found.meta).collect())
    }

    /// Whether a certificate is one that certkeep ordered and holds, under whatever name
    ///
    /// # Errors
    /// When the state directory cannot be read.
    pub fn has_ordered(&self, leaf: Fingerprint) -> Result<bool, StoreError> {
        let Some(home) = Dir::find(&self.0.root.join(CERTIFICATES))? else { return Ok(false) };
        for name in home.names()? {
            let Some(name) = name.to_str().and_then(|name| CertName::parse(name).ok()) else {
                continue;
            };
            let ordered = |it: &GenerationMeta| it.fingerprint == leaf && it.origin.is_some();
            if self.generations(&name)?.iter().any(ordered) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Every generation of a certificate, oldest first: whence, and its leaf, or why it is of no use
    ///
    /// Of use is what was staged, with a key that is its leaf's.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn inspect(&self, name: &CertName) -> Result<Vec<Inspected>, StoreError> {
        let Some(dir) = self.generations_dir(name)? else { return Ok(Vec::new()) };
        let looked = |number| {
            let sound = load(&dir, number)
                .and_then(|held| held.map(|generation| sound(&dir, generation)).transpose());
            Some((number, sound.transpose()?))
        };
        // One that was pruned in between is not there.
        Ok(numbers(&dir)?.into_iter().filter_map(looked).collect())
    }

    /// Remove old generations, but never the newest, or one that is in use or to be kept
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn prune(
        &self,
        name: &CertName,
        keep: Keep,
        in_use: &[u32],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.writable()?;
        let Some(dir) = self.generations_dir(name)? else { return Ok(()) };
        let kept = usize::try_from(keep.generations).unwrap_or(usize::MAX);
        let unused = numbers(&dir)?.into_iter().rev().skip(1);
        let unused = unused.filter(|number| !in_use.contains(number));
        let mut removed = Vec::new();
        for number in unused.skip(kept).collect::<Vec<_>>() {
            if staged_at(&dir, number)?.after(keep.at_least) > now {
                continue;
            }
            // Half removed under its own name it would look damaged, also after a power cut.
            let temporary = temporary_name(OWN);
            dir.rename(directory_name(number), &temporary)?;
            removed.push(temporary);
        }
        if !removed.is_empty() {
            dir.sync()?;
        }
        removed.iter().try_for_each(|name| discard(&dir, name.as_ref()))
    }

    fn generations_dir(&self, name: &CertName) -> Result<Option<Dir>, StoreError> {
        Dir::find(&self.certificate_path(name).join(GENERATIONS))
    }
}

fn build(generations: &Dir, temporary: &str, generation: &Generation) -> Result<(), StoreError> {
    let dir = generations.new_child(temporary)?;
    let private = Attributes::private();
    let labels = Labels::default();
    let mut files = Batch::of(&dir);
    files.create(KEY, &[generation.key.expose().as_bytes()], private, &labels)?;
    files.create(CHAIN, &[generation.chain.as_bytes()], private, &labels)?;
    let meta = record::json(&generation.meta)
        .map_err(|reason| StoreError::damaged(dir.join(META), reason))?;
    files.create(META, &[&meta], private, &labels)?;
    files.sync()
}

/// What a generation says of itself, if its key is its leaf's
fn sound(generations: &Dir, generation: Generation) -> Result<(GenerationMeta, Leaf), StoreError> {
    let path = generations.join(directory_name(generation.meta.number));
    let pair = Pair::new(generation.key.expose(), generation.chain.as_bytes(), &path)?;
    if pair.leaf.fingerprint != generation.meta.fingerprint {
        return Err(StoreError::damaged(path, "holds another certificate than was staged"));
    }
    Ok((generation.meta, pair.leaf))
}

/// When a generation was staged; of one without a record, when its directory was last changed
fn staged_at(generations: &Dir, number: u32) -> Result<Timestamp, StoreError> {
    let dir = directory_name(number);
    if let Ok(Reading::Record(meta)) =
        record::read::<GenerationMeta>(generations, &format!("{dir}/{META}"))
    {
        return Ok(meta.staged_at);
    }
    let changed = generations.stat(&dir)?.map_or(0, |stat| stat.st_mtime);
    Ok(Timestamp::from_seconds(changed))
}

/// Remove the directory of a generation, its key overwritten first
///
/// Whoever reads the file system's blocks later finds zeros where it writes in place, as ext4 and
/// XFS do. Nothing is sure of that with copy on write (btrfs, ZFS, snapshots), a journal of data,
/// or a disk that moves its blocks (SSD): there the key is gone when the disk reuses the space.
pub(super) fn discard(generations: &Dir, name: &OsStr) -> Result<(), StoreError> {
    let overwritten = match name.to_str().map(|name| generations.child(name)) {
        Some(Ok(Some(dir))) => dir.overwrite(KEY),
        // What is no directory has no key in it.
        _ => Ok(()),
    };
    // A key that cannot be overwritten is better gone all the same.
    generations.remove_tree(name).and(overwritten)
}

/// The numbers of the generations in a directory, ascending
pub(super) fn numbers(generations: &Dir) -> Result<Vec<u32>, StoreError> {
    let number = |name: &OsStr| {
        let name = name.to_str()?;
        let digits = name.len() >= 6 && name.bytes().all(|b| b.is_ascii_digit());
        name.parse().ok().filter(|number| digits && directory_name(*number) == name)
    };
    let mut numbers: Vec<u32> =
        generations.names()?.iter().filter_map(|name| number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// A generation, exactly as it was staged; `None` when there is none of that number
pub(super) fn load(generations: &Dir, number: u32) -> Result<Option<Generation>, StoreError> {
    let dir = directory_name(number);
    let path = |file: &str| format!("{dir}/{file}");
    let damaged = |file, reason| StoreError::damaged(generations.join(path(file)), reason);
    let meta = match record::read::<GenerationMeta>(generations, &path(META))? {
        Reading::Record(meta) => meta,
        Reading::Absent if generations.stat(&dir)?.is_none() => return Ok(None),
        Reading::Absent => return Err(damaged(META, "is missing".to_owned())),
        Reading::Corrupt(corrupt) => {
            return Err(damaged(META, format!("is damaged: {}", corrupt.error)));
        }
    };
    let text = |file, digest| text(generations, &path(file), digest);
    let key = Secret::new(text(KEY, meta.digests.key)?);
    let chain = text(CHAIN, meta.digests.chain)?;
    if meta.number == number {
        Ok(Some(Generation { meta, key, chain }))
    } else {
        Err(damaged(META, format!("is about generation {}", meta.number)))
    }
}

fn text(dir: &Dir, name: &str, expected: Fingerprint) -> Result<String, StoreError> {
    let damaged = |reason| StoreError::damaged(dir.join(name), reason);
    let (bytes, _) = dir.read(name)?.ok_or_else(|| damaged("is missing"))?;
    if digest(&bytes) != expected {
        return Err(damaged("is not what was staged"));
    }
    String::from_utf8(bytes).map_err(|_| damaged("is not text"))
}

pub(super) fn directory_name(number: u32) -> String {
    format!("{number:06}")
}

const KEY: &str = "key.pem";
const CHAIN: &str = "chain.pem";
const META: &str = "meta.json";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::store::fixture::{self, name, now};

    fn new() -> NewGeneration {
        NewGeneration { certificate: name("a.test"), origin: None, staged_at: now() }
    }

    #[test]
    fn a_generation_is_private_numbered_and_comes_back_as_it_was() {
        let place = fixture::place();
        let store = place.store();
        let staged = [fixture::stage(&store), fixture::stage(&store)];
        for (number, staged) in (1..).zip(&staged) {
            assert_eq!(staged.meta.number, number);
            let read = store.generation(&name("a.test"), number).unwrap();
            assert_eq!(read.as_ref(), Some(staged));
        }
        let metas = store.generations(&name("a.test")).unwrap();
        assert_eq!(metas, staged.map(|generation| generation.meta));
        let dir = store.certificate_path(&name("a.test")).join(GENERATIONS).join("000002");
        assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o7777, 0o700);
        for file in [KEY, CHAIN, META] {
            assert_eq!(std::fs::metadata(dir.join(file)).unwrap().mode() & 0o7777, 0o600);
        }
        assert_eq!(store.generation(&name("a.test"), 3).unwrap(), None);
        assert_eq!(store.generation(&name("b.test"), 1).unwrap(), None);
    }

    #[test]
    fn the_same_certificate_staged_again_is_the_same_generation() {
        let place = fixture::place();
        let store = place.store();
        let pair = fixture::pair("a.test");
        let key = Secret::new(pair.key);
        let first = store.stage(&new(), &key, &pair.chain).unwrap();
        assert_eq!(store.stage(&new(), &key, &pair.chain).unwrap(), first);
        assert_eq!(store.generations(&name("a.test")).unwrap().len(), 1);
    }

    #[test]
    fn a_key_of_another_certificate_is_not_staged() {
        let place = fixture::place();
        let store = place.store();
        let (one, two) = (fixture::pair("a.test"), fixture::pair("a.test"));
        assert!(store.stage(&new(), &Secret::new(one.key), &two.chain).is_err());
        assert_eq!(store.generations(&name("a.test")).unwrap(), []);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "damage is done on purpose")]
    fn a_damaged_generation_is_not_given_out_and_its_number_not_given_again() {
        for file in [KEY, CHAIN, META] {
            for damage in [Some("junk"), Some(""), None] {
                let place = fixture::place();
                let store = place.store();
                fixture::stage(&store);
                let dir = store.certificate_path(&name("a.test")).join(GENERATIONS);
                let path = dir.join("000001").join(file);
                match damage {
                    Some(text) => std::fs::write(&path, text).unwrap(),
                    None => std::fs::remove_file(&path).unwrap(),
                }
                let error = store.generation(&name("a.test"), 1).unwrap_err();
                assert_eq!(error.path(), path, "{file} {damage:?}");
                assert_eq!(store.generations(&name("a.test")).unwrap(), []);
                assert_eq!(fixture::stage(&store).meta.number, 2, "{file} {damage:?}");
            }
        }
    }

    #[test]
    fn pruning_spares_the_newest_and_those_in_use() {
        let place = fixture::place();
        let store = place.store();
        for _ in 0..5 {
            fixture::stage(&store);
        }
        let left = |generations, in_use: &[u32]| {
            let keep = Keep { generations, ..Keep::default() };
            store.prune(&name("a.test"), keep, in_use, now()).unwrap();
            let left = store.generations(&name("a.test")).unwrap();
            left.iter().map(|meta| meta.number).collect::<Vec<_>>()
        };
        assert_eq!(left(4, &[]), [1, 2, 3, 4, 5]);
        assert_eq!(left(1, &[2, 9]), [2, 4, 5]);
        assert_eq!(left(0, &[2]), [2, 5]);
        assert_eq!(left(0, &[]), [5], "the newest is what a deployment goes forward to");
        let dir = store.certificate_path(&name("a.test")).join(GENERATIONS);
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "damage is done on purpose")]
    fn pruning_spares_what_is_not_old_enough() {
        let place = fixture::place();
        let store = place.store();
        for _ in 0..3 {
            fixture::stage(&store);
        }
        let day = std::time::Duration::from_secs(86_400);
        let keep = Keep { generations: 1, at_least: day * 30 };
        let count = || store.generations(&name("a.test")).unwrap().len();
        let at = now().after(day * 29);
        store.prune(&name("a.test"), keep, &[], at).unwrap();
        assert_eq!(count(), 3);
        store.prune(&name("a.test"), keep, &[], at.after(day)).unwrap();
        assert_eq!(count(), 2);
        // Without its record its age is that of its directory, which is of this moment.
        let dir = store.certificate_path(&name("a.test")).join(GENERATIONS).join("000002");
        std::fs::write(dir.join(META), "junk").unwrap();
        let none = Keep { generations: 0, at_least: day * 30 };
        store.prune(&name("a.test"), none, &[], Timestamp::from_seconds(0)).unwrap();
        assert!(dir.exists());
        store.prune(&name("a.test"), none, &[], Timestamp::from_seconds(1 << 40)).unwrap();
        assert!(!dir.exists());
    }

    #[test]
    fn the_key_of_what_is_pruned_is_overwritten_unless_it_has_another_name() {
        let place = fixture::place();
        let store = place.store();
        for _ in 0..3 {
            fixture::stage(&store);
        }
        let generations = store.certificate_path(&name("a.test")).join(GENERATIONS);
        // An open file shows what becomes of its bytes.
        let mut open = std::fs::File::open(generations.join("000001").join(KEY)).unwrap();
        let linked = place.path().join("linked.pem");
        std::fs::hard_link(generations.join("000002").join(KEY), &linked).unwrap();
        let keep = Keep { generations: 0, ..Keep::default() };
        store.prune(&name("a.test"), keep, &[], now()).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut open, &mut bytes).unwrap();
        assert!(bytes.len() > 100 && bytes.iter().all(|byte| *byte == 0), "{bytes:?}");
        assert!(std::fs::read_to_string(linked).unwrap().contains("PRIVATE KEY"));
    }
}
