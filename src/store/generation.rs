//! Generations: a key and its chain, staged once and never changed.

use std::ffi::OsStr;

use rustix::fs::{self, RenameFlags};
use rustix::io::Errno;

use super::dir::{Attributes, Dir, temporary_name};
use super::error::StoreError;
use super::label::Labels;
use super::pair::{Pair, digest};
use super::record::{self, Reading};
use super::{GENERATIONS, OWN, Store};
use crate::cert::Fingerprint;
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
        let built = build(&generations, &temporary, &generation).and_then(|()| {
            let (to, flags) = (directory_name(number), RenameFlags::NOREPLACE);
            fs::renameat_with(generations.fd(), &temporary, generations.fd(), &to, flags)
                .or_else(|errno| match errno {
                    // Not every file system can refuse to replace; an empty directory is no loss.
                    Errno::INVAL => {
                        fs::renameat(generations.fd(), &temporary, generations.fd(), &to)
                    }
                    errno => Err(errno),
                })
                .map_err(|errno| generations.error("create", &to, errno))
        });
        if let Err(error) = built {
            drop(generations.remove_tree(&temporary));
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

    /// Remove old generations, but never the newest `keep` or those in use
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn prune(&self, name: &CertName, keep: usize, in_use: &[u32]) -> Result<(), StoreError> {
        self.writable()?;
        let Some(dir) = self.generations_dir(name)? else { return Ok(()) };
        let old = numbers(&dir)?.into_iter().rev().skip(keep);
        let old: Vec<_> = old.filter(|number| !in_use.contains(number)).collect();
        for number in &old {
            // Half removed under its own name it would look damaged.
            let temporary = temporary_name(OWN);
            dir.rename(directory_name(*number), &temporary)?;
            dir.remove_tree(&temporary)?;
        }
        if old.is_empty() { Ok(()) } else { dir.sync() }
    }

    fn generations_dir(&self, name: &CertName) -> Result<Option<Dir>, StoreError> {
        Dir::find(&self.certificate_path(name).join(GENERATIONS))
    }
}

fn build(generations: &Dir, temporary: &str, generation: &Generation) -> Result<(), StoreError> {
    let dir = generations.new_child(temporary)?;
    let private = Attributes::private();
    let labels = Labels::default();
    dir.create(KEY, &[generation.key.expose().as_bytes()], private, &labels)?;
    dir.create(CHAIN, &[generation.chain.as_bytes()], private, &labels)?;
    let meta = record::json(&generation.meta)
        .map_err(|reason| StoreError::damaged(dir.join(META), reason))?;
    dir.create(META, &[&meta], private, &labels)?;
    dir.sync()
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
        store.prune(&name("a.test"), 2, &[2, 5, 9]).unwrap();
        let left = store.generations(&name("a.test")).unwrap();
        assert_eq!(left.iter().map(|meta| meta.number).collect::<Vec<_>>(), [2, 4, 5]);
        store.prune(&name("a.test"), 0, &[]).unwrap();
        assert_eq!(store.generations(&name("a.test")).unwrap(), []);
        let dir = store.certificate_path(&name("a.test")).join(GENERATIONS);
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
    }
}
