//! Who may change what: locks that the kernel drops with their holder.

use std::os::fd::OwnedFd;

use rustix::fs::{self, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::dir::Dir;
use super::error::StoreError;
use super::{Store, ensure_root};
use crate::name::CertName;

/// A lock that is held until it is dropped, or its process ends in whatever way
#[derive(Debug)]
#[must_use]
pub struct Lock {
    _file: OwnedFd,
}

/// With whom a lock can be shared
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// With nobody
    Exclusive,
    /// With others that share it
    Shared,
}

impl Store {
    /// Take the lock of the agent that stays, of which there is one; `None`: another one runs
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock_run(&self) -> Result<Option<Lock>, StoreError> {
        self.writable()?;
        lock(&ensure_root(&self.0.root)?, "run.lock", LockMode::Exclusive)
    }

    /// Take the lock of the whole store; `None` when somebody else holds it
    ///
    /// Whoever works shares it; whoever has it alone may clean up after everybody.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock_store(&self, mode: LockMode) -> Result<Option<Lock>, StoreError> {
        self.writable()?;
        lock(&ensure_root(&self.0.root)?, LOCK, mode)
    }

    /// Take the lock of one certificate; `None` when somebody else holds it
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock_certificate(&self, name: &CertName) -> Result<Option<Lock>, StoreError> {
        lock(&self.ensure_certificate_dir(name)?, LOCK, LockMode::Exclusive)
    }

    /// Take the lock of one account, so that it is registered once; `None` when it is held
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock_account(
        &self,
        directory: &str,
        eab_key_id: Option<&str>,
    ) -> Result<Option<Lock>, StoreError> {
        let id = super::record::account_id(directory, eab_key_id);
        lock(&self.ensure_account_dir(&id)?, LOCK, LockMode::Exclusive)
    }
}

fn lock(dir: &Dir, name: &str, mode: LockMode) -> Result<Option<Lock>, StoreError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = fs::openat(dir.fd(), name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| dir.error("open", name, errno))?;
    let operation = match mode {
        LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        LockMode::Shared => FlockOperation::NonBlockingLockShared,
    };
    match fs::flock(&file, operation) {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(dir.error("lock", name, errno)),
    }
}

const LOCK: &str = "lock";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture;

    #[test]
    fn who_holds_a_lock_keeps_others_out_and_sharers_share() {
        let place = fixture::place();
        let store = place.store();
        let shared = store.lock_store(LockMode::Shared).unwrap().unwrap();
        let another = store.lock_store(LockMode::Shared).unwrap().unwrap();
        assert!(store.lock_store(LockMode::Exclusive).unwrap().is_none());
        drop((shared, another));
        let exclusive = store.lock_store(LockMode::Exclusive).unwrap().unwrap();
        assert!(store.lock_store(LockMode::Shared).unwrap().is_none());
        drop(exclusive);

        let name = fixture::name("a.test");
        let held = store.lock_certificate(&name).unwrap().unwrap();
        assert!(store.lock_certificate(&name).unwrap().is_none());
        assert!(store.lock_certificate(&fixture::name("b.test")).unwrap().is_some());
        drop(held);
        assert!(store.lock_certificate(&name).unwrap().is_some());

        let held = store.lock_account("https://ca.test/dir", None).unwrap().unwrap();
        assert!(store.lock_account("https://ca.test/dir", None).unwrap().is_none());
        assert!(store.lock_account("https://ca.test/dir", Some("kid")).unwrap().is_some());
        drop(held);
    }
}
