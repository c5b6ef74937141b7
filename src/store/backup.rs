//! Whether a state directory is whole: for a copy of it, before an agent works on it.
//!
//! Nothing here sets anything aside or puts anything right: what is wrong is told.

use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::dir::{Attributes, Dir};
use super::error::StoreError;
use super::record::{
    ACCOUNT, ATTEMPTS, DEPLOY, ORDER, Reading, Record, account_id, no_deploy, read,
};
use super::{ACCOUNTS, CERTIFICATES, PUBLISHED, Store, copy};
use crate::name::CertName;
use crate::record::{AccountRecord, Attempts, DeployRecord, OrderRecord};

/// A directory of `accounts`
#[derive(Debug)]
pub struct KeptAccount {
    /// Its name
    pub name: String,
    /// The account, or why it is of no use
    pub record: Result<AccountRecord, StoreError>,
}

/// The records of one certificate, as they are
#[derive(Debug)]
pub struct Records {
    /// The order in flight
    pub order: Option<OrderRecord>,
    /// How far each target got
    pub deploy: DeployRecord,
    /// Switches of files that are not finished
    pub journals: Vec<PathBuf>,
    /// Records that are damaged, or that a newer certkeep wrote
    pub faults: Vec<StoreError>,
}

/// Entries that ought to be private
#[derive(Debug, Default)]
pub struct Exposed {
    /// Those that others than their owner may read or write
    pub open: Vec<PathBuf>,
    /// Those that belong to another user than the state directory
    pub foreign: Vec<PathBuf>,
}

impl Store {
    /// Every account that is kept
    ///
    /// # Errors
    /// When the directory of all accounts cannot be read.
    pub fn accounts(&self) -> Result<Vec<KeptAccount>, StoreError> {
        let Some(all) = Dir::find(&self.0.root.join(ACCOUNTS))? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for name in sorted(&all)? {
            let account = all.child(&name).and_then(|dir| match dir {
                Some(dir) => strictly::<AccountRecord>(&dir, ACCOUNT),
                None => Ok(None),
            });
            // A directory with a lock alone is of an account that was never begun.
            let Some(account) = account.transpose() else { continue };
            let account = account.and_then(|account| {
                let expected = account_id(&account.directory, account.eab_key_id.as_deref());
                if name == expected {
                    return Ok(account);
                }
                let reason = format!("is of an account that is looked for in `{expected}`");
                Err(StoreError::damaged(all.join(&name), reason))
            });
            found.push(KeptAccount { name, record: account });
        }
        Ok(found)
    }

    /// The names of the certificates that something is kept of
    ///
    /// # Errors
    /// When their directory cannot be read.
    pub fn certificates(&self) -> Result<Vec<CertName>, StoreError> {
        let Some(all) = Dir::find(&self.0.root.join(CERTIFICATES))? else { return Ok(Vec::new()) };
        Ok(sorted(&all)?.iter().filter_map(|name| CertName::parse(name).ok()).collect())
    }

    /// The records of a certificate; `None` when nothing is kept of it
    ///
    /// # Errors
    /// When its directory cannot be read.
    pub fn records(&self, name: &CertName) -> Result<Option<Records>, StoreError> {
        let Some(home) = self.certificate_dir(name)? else { return Ok(None) };
        let mut faults = Vec::new();
        let order = take(strictly::<OrderRecord>(&home, ORDER), &mut faults);
        let deploy = take(strictly::<DeployRecord>(&home, DEPLOY), &mut faults);
        take(strictly::<Attempts>(&home, ATTEMPTS), &mut faults);
        let mut journals = Vec::new();
        for entry in home.names()?.iter().filter(|entry| copy::is_journal(entry)) {
            journals.push(home.join(entry));
        }
        let deploy = deploy.unwrap_or_else(no_deploy);
        Ok(Some(Records { order, deploy, journals, faults }))
    }

    /// Whatever is not as private as certkeep makes it
    ///
    /// # Errors
    /// When something cannot be looked at.
    pub fn exposed(&self) -> Result<Exposed, StoreError> {
        let mut exposed = Exposed::default();
        let Some(root) = Dir::find(&self.0.root)? else { return Ok(exposed) };
        let attributes = root.attributes()?;
        if attributes.mode & 0o022 != 0 {
            exposed.open.push(self.0.root.clone());
        }
        for folder in [ACCOUNTS, CERTIFICATES, PUBLISHED] {
            if let Some(dir) = root.child(folder)? {
                exposed.look(&dir, attributes.uid, DEPTH)?;
            }
        }
        Ok(exposed)
    }
}

impl Exposed {
    fn look(&mut self, dir: &Dir, owner: u32, depth: usize) -> Result<(), StoreError> {
        self.note(dir.path(), dir.attributes()?, owner);
        for name in dir.names()? {
            let Some(stat) = dir.stat(&name)? else { continue };
            let child = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if depth > 0 => {
                    name.to_str().and_then(|name| dir.child(name).transpose()).transpose()?
                }
                // The mode of a symlink means nothing.
                FileType::Symlink => continue,
                _ => None,
            };
            match child {
                Some(child) => self.look(&child, owner, depth - 1)?,
                None => self.note(&dir.join(&name), Attributes::of(&stat), owner),
            }
        }
        Ok(())
    }

    fn note(&mut self, path: &Path, attributes: Attributes, owner: u32) {
        if attributes.mode & 0o077 != 0 {
            self.open.push(path.to_owned());
        }
        if attributes.uid != owner {
            self.foreign.push(path.to_owned());
        }
    }
}

/// A record, where nothing that is wrong with it is passed over
fn strictly<T: Record>(dir: &Dir, file: &str) -> Result<Option<T>, StoreError> {
    match read(dir, file)? {
        Reading::Absent => Ok(None),
        Reading::Record(record) => Ok(Some(record)),
        Reading::Corrupt(corrupt) => {
            Err(StoreError::damaged(dir.join(file), format!("is damaged: {}", corrupt.error)))
        }
    }
}

fn take<T>(read: Result<Option<T>, StoreError>, faults: &mut Vec<StoreError>) -> Option<T> {
    read.unwrap_or_else(|error| {
        faults.push(error);
        None
    })
}

fn sorted(dir: &Dir) -> Result<Vec<String>, StoreError> {
    let names = dir.names()?;
    let mut names: Vec<_> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Deeper than anything that certkeep makes
const DEPTH: usize = 8;
