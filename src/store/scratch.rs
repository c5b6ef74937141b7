//! A directory for a rehearsal: below the state directory, closed to others, gone afterwards.

use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::dir::{Dir, random};
use super::error::StoreError;
use super::{Access, Inner, Store, ensure_root};
use crate::config::Config;

/// A rehearsal's own directory, removed with all that is in it at the latest when it is dropped
#[derive(Debug)]
#[must_use = "dropping it removes the directory"]
pub struct Scratch {
    parent: Dir,
    name: String,
}

/// The directory of a rehearsal that ended with its process
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupted(String);

impl Store {
    /// Make a directory for a rehearsal; the caller holds the lock of the store
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        self.writable()?;
        let parent = ensure_root(&self.0.root)?;
        let name = format!("{REHEARSAL}{:016x}", random());
        parent.new_child(&name)?;
        Ok(Scratch { parent, name })
    }

    /// Open the state directory of a rehearsal of this one, which shares nothing but the accounts
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn rehearsal(&self, config: &Config) -> Result<Self, StoreError> {
        let own = Self::open(config)?;
        let (root, accounts) = (own.0.root.clone(), self.0.accounts.clone());
        let passwords = self.0.passwords.clone();
        let (access, deploys) = (Access::ReadWrite, Mutex::default());
        let inner = Inner { root, accounts, access, deploys, passwords };
        Ok(Self(Arc::new(inner)))
    }

    /// Rehearsals that ended with their processes, under the exclusive lock
    ///
    /// # Errors
    /// When the state directory cannot be read.
    pub fn interrupted(&self) -> Result<Vec<Interrupted>, StoreError> {
        let Some(root) = Dir::find(&self.0.root)? else { return Ok(Vec::new()) };
        let names = root.names()?.into_iter().filter_map(|name| name.into_string().ok());
        let ours = |name: &String| {
            let random = name.strip_prefix(REHEARSAL);
            random.is_some_and(|r| r.len() == 16 && r.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        Ok(names.filter(ours).map(Interrupted).collect())
    }

    /// The store that an interrupted rehearsal worked on
    pub fn of(&self, interrupted: &Interrupted) -> Self {
        Self::at(self.0.root.join(&interrupted.0).join(STATE), Access::ReadWrite)
    }

    /// Remove what an interrupted rehearsal left
    ///
    /// # Errors
    /// When something of it cannot be removed.
    pub fn remove_interrupted(&self, interrupted: &Interrupted) -> Result<(), StoreError> {
        self.writable()?;
        ensure_root(&self.0.root)?.remove_all(&interrupted.0)
    }
}

impl Scratch {
    /// Where the rehearsal keeps its state
    pub fn state_dir(&self) -> PathBuf {
        self.parent.join(&self.name).join(STATE)
    }

    /// What takes the place of a path of the host; the directory that it is in is made
    ///
    /// # Errors
    /// When it cannot be.
    pub fn place(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let mut dir = self.parent.ensure_child(&self.name, 0o700)?.ensure_child(FILES, 0o700)?;
        // All paths of a configuration are text.
        let mut names = path.components().filter_map(|component| match component {
            Component::Normal(name) => name.to_str(),
            _ => None,
        });
        let last = names.next_back().unwrap_or_default();
        for name in names {
            dir = dir.ensure_child(name, 0o700)?;
        }
        Ok(dir.join(last))
    }

    /// Remove it
    ///
    /// # Errors
    /// When something of it cannot be removed; the next start tries again.
    pub fn remove(self) -> Result<(), StoreError> {
        self.parent.remove_all(&self.name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        drop(self.parent.remove_all(&self.name));
    }
}

const REHEARSAL: &str = "rehearsal-";
const STATE: &str = "state";
const FILES: &str = "files";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::store::fixture;

    #[test]
    fn a_rehearsal_has_a_place_of_its_own_and_the_accounts_of_the_store() {
        let place = fixture::place();
        let store = place.store();
        let scratch = store.scratch().unwrap();
        let path = scratch.place(Path::new("/etc/ssl/a.test/key.pem")).unwrap();
        assert!(path.parent().unwrap().ends_with("files/etc/ssl/a.test"));
        let config = Config { state_dir: scratch.state_dir(), ..place.config(&[]) };
        let rehearsal = store.rehearsal(&config).unwrap();
        let top = rehearsal.path().parent().unwrap();
        assert_eq!(std::fs::metadata(top).unwrap().mode() & 0o7777, 0o700);
        fixture::stage(&rehearsal);
        assert_eq!(store.generations(&fixture::name("a.test")).unwrap(), []);
        drop(rehearsal.lock_account("https://ca.test/dir", None).unwrap().unwrap());
        let accounts = std::fs::read_dir(store.path().join("accounts")).unwrap();
        assert_eq!(accounts.count(), 1);
        drop(scratch);
        assert!(!top.exists());
    }

    #[test]
    fn what_an_interrupted_rehearsal_left_is_found_and_removed() {
        let place = fixture::place();
        let store = place.store();
        let scratch = store.scratch().unwrap();
        let config = Config { state_dir: scratch.state_dir(), ..place.config(&[]) };
        fixture::stage(&store.rehearsal(&config).unwrap());
        std::fs::create_dir(store.path().join("rehearsal-of-mine")).unwrap();
        std::mem::forget(scratch);
        let left = store.interrupted().unwrap();
        assert_eq!(left.len(), 1);
        let its = store.of(&left[0]).generations(&fixture::name("a.test")).unwrap();
        assert_eq!(its.len(), 1);
        store.remove_interrupted(&left[0]).unwrap();
        assert_eq!(store.interrupted().unwrap(), []);
        assert!(store.path().join("rehearsal-of-mine").exists());
    }
}
