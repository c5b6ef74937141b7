//! The state directory and the outputs: what is on disk, and every change of it.
//!
//! All of it blocks; the agent calls it from a blocking thread. Whoever changes something of a
//! certificate holds its lock ([`Store::lock_certificate`]); observing takes none.
//!
//! Below the state directory:
//!
//! ```text
//! run.lock                                  the agent that stays
//! lock                                      who works, shared; or who cleans up, alone
//! accounts/<host>-<8 hex>/account.json      an account at a CA
//! certificates/<name>/lock                  who works on it
//! certificates/<name>/generations/000007/   key.pem chain.pem meta.json
//! certificates/<name>/*.json                order, attempts, deploy
//! certificates/<name>/original-<target>.json what the target had before certkeep
//! certificates/<name>/before-<target>.json  what it had before a deployment under way
//! certificates/<name>/journal-<target>.json a switch under way, for `copy: true`
//! certificates/<name>/made-<target>.json    digests of encrypted outputs
//! deployed/<name>/<target>/                 the atomic directory of `files:`
//! published/<random>.json                   challenge artefacts to withdraw
//! rehearsal-<random>/                       a rehearsal under way: a state directory, and files
//! events.jsonl events.jsonl.1               history
//! seen.cache                                a cache of what was seen, for the next process
//! ```

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs;

use crate::cert::Fingerprint;
use crate::config::{Config, Layout, Target};
use crate::name::{CertName, TargetName};

mod adopt;
mod atomic;
mod backup;
mod copy;
mod dir;
mod error;
mod find;
#[cfg(test)]
mod fixture;
mod generation;
mod history;
mod install;
mod label;
mod lock;
mod made;
mod observe;
mod original;
mod owner;
mod pair;
mod password;
mod pbes2;
mod pkcs12;
mod plain;
mod prepare;
mod private_key;
mod published;
mod recall;
mod record;
mod recover;
mod render;
mod scratch;
mod stamp;
mod walk;

pub use backup::{Exposed, KeptAccount, Records};
use dir::Dir;
pub use error::StoreError;
pub use generation::NewGeneration;
pub use history::History;
pub use install::Reconciled;
pub use lock::{Lock, LockMode};
pub use password::Passwords;
pub use plain::write_public;
pub use published::PublishedId;
pub use scratch::{Interrupted, Scratch};
pub use stamp::Stamps;

/// The state directory; a clone is the same store
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// The state directory whose accounts are used: another one in a rehearsal
    accounts: PathBuf,
    access: Access,
    /// Held from reading a record of several targets until it is written
    deploys: Mutex<()>,
    passwords: Passwords,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    ReadOnly,
    ReadWrite,
}

impl Store {
    /// Open the state directory for work, made when it is missing
    ///
    /// # Errors
    /// When it cannot be made or written, somebody else could write it, or a reboot or a new
    /// container would empty it and `allow_volatile_state` is off.
    pub fn open(config: &Config) -> Result<Self, StoreError> {
        let root = absolute(&config.state_dir);
        ensure_root(&root)?;
        let dir = walk::walk(&root, 0)?;
        let stat = dir.attributes()?;
        if stat.mode & 0o022 != 0 {
            return Err(StoreError::refused(
                &root,
                "may be written by others than its owner",
                "take the right to write from group and others: chmod go-w",
            ));
        }
        if !config.allow_volatile_state {
            check_lasting(&dir)?;
        }
        // Servers reach their files in `deployed` through it.
        if stat.mode & 0o111 != 0o111 && stat.uid == dir::ourselves().0 {
            dir.set_mode(stat.mode | 0o111)?;
        }
        dir.ensure_child(DEPLOYED, 0o711)?;
        for name in [ACCOUNTS, CERTIFICATES, PUBLISHED] {
            let child = dir.ensure_child(name, 0o700)?;
            if child.attributes()?.mode & 0o077 != 0 {
                child.set_mode(0o700)?;
            }
        }
        Ok(Self::at(root, Access::ReadWrite))
    }

    /// Look at the state directory without ever writing, also when it does not exist
    pub fn open_read_only(config: &Config) -> Self {
        let root = absolute(&config.state_dir);
        Self::at(root, Access::ReadOnly)
    }

    fn at(root: PathBuf, access: Access) -> Self {
        let accounts = root.clone();
        Self(Arc::new(Inner {
            root,
            accounts,
            access,
            deploys: Mutex::default(),
            passwords: Passwords::default(),
        }))
    }

    /// Whether the user may look at what it keeps; a state directory that is not there yet is fine
    ///
    /// # Errors
    /// When its certificates are closed to this user.
    pub fn readable(&self) -> Result<(), StoreError> {
        let path = self.0.root.join(CERTIFICATES);
        match fs::access(&path, fs::Access::READ_OK | fs::Access::EXEC_OK) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(StoreError::system("read", path, errno)),
        }
    }

    /// Whether this store never writes
    pub fn is_read_only(&self) -> bool {
        self.0.access == Access::ReadOnly
    }

    /// The state directory, absolute
    pub fn path(&self) -> &Path {
        &self.0.root
    }

    fn writable(&self) -> Result<(), StoreError> {
        match self.0.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(StoreError::refused(
                &self.0.root,
                "was opened for reading only",
                "use a command that changes things",
            )),
        }
    }

    fn certificate_path(&self, name: &CertName) -> PathBuf {
        self.0.root.join(CERTIFICATES).join(name.as_str())
    }

    /// A certificate's directory; `None` when there is none yet
    fn certificate_dir(&self, name: &CertName) -> Result<Option<Dir>, StoreError> {
        Dir::find(&self.certificate_path(name))
    }

    /// A certificate's directory, made when it is missing
    fn ensure_certificate_dir(&self, name: &CertName) -> Result<Dir, StoreError> {
        self.ensure(&[CERTIFICATES, name.as_str()], 0o700)
    }

    /// A directory below the state directory, every part with at least this mode, and made when it
    /// is missing
    fn ensure(&self, parts: &[&str], mode: u32) -> Result<Dir, StoreError> {
        self.writable()?;
        let mut path = self.0.root.clone();
        path.extend(parts);
        // What others may enter is closed to them where a crash came before its mode.
        if mode & 0o077 == 0
            && let Some(dir) = Dir::find(&path)?
        {
            return Ok(dir);
        }
        let mut dir = ensure_root(&self.0.root)?;
        for part in parts {
            dir = dir.ensure_child(part, mode)?;
        }
        Ok(dir)
    }

    /// The atomic directory of a target of `files:`, made when it is missing
    fn ensure_deployed(
        &self,
        certificate: &CertName,
        target: &TargetName,
    ) -> Result<Dir, StoreError> {
        self.ensure(&[DEPLOYED, certificate.as_str(), target.as_str()], 0o711)
    }

    /// The directory of an account, made when it is missing
    fn ensure_account_dir(&self, id: &str) -> Result<Dir, StoreError> {
        self.writable()?;
        let all = ensure_root(&self.0.accounts)?.ensure_child(ACCOUNTS, 0o700)?;
        let dir = all.ensure_child(id, 0o700)?;
        all.sync()?;
        Ok(dir)
    }

    /// The atomic directory of a target; `None` for one of regular files
    fn atomic_path(&self, certificate: &CertName, target: &Target) -> Option<PathBuf> {
        match &target.layout {
            Layout::Dir(path) => Some(path.clone()),
            Layout::Links => Some(self.deployed_path(certificate, &target.name)),
            Layout::Copy => None,
        }
    }

    fn deployed_path(&self, certificate: &CertName, target: &TargetName) -> PathBuf {
        self.0.root.join(DEPLOYED).join(certificate.as_str()).join(target.as_str())
    }

    /// What marks unfinished files of this certificate, in directories shared with others
    fn tag(&self, name: &CertName) -> String {
        use std::os::unix::ffi::OsStrExt as _;
        let mut bytes = self.0.root.as_os_str().as_bytes().to_vec();
        bytes.push(0);
        bytes.extend_from_slice(name.as_str().as_bytes());
        eight_digits(&bytes)
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn ensure_root(root: &Path) -> Result<Dir, StoreError> {
    if let Some(dir) = Dir::find(root)? {
        return Ok(dir);
    }
    let (Some(parent), Some(name)) = (root.parent(), root.file_name().and_then(|n| n.to_str()))
    else {
        return Err(StoreError::refused(
            root,
            "cannot be the state directory",
            "name a directory for `state_dir`",
        ));
    };
    let missing = || StoreError::system("open", parent, rustix::io::Errno::NOENT);
    let parent = Dir::find(parent)?.ok_or_else(missing)?;
    let dir = parent.ensure_child(name, 0o711)?;
    parent.sync()?;
    Ok(dir)
}

/// Refuse a file system that a reboot or a new container empties
fn check_lasting(dir: &Dir) -> Result<(), StoreError> {
    let stat =
        fs::fstatfs(dir.fd()).map_err(|errno| StoreError::system("look at", dir.path(), errno))?;
    // The same number has another width and sign on each architecture.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the low 32 bits")]
    let kind = stat.f_type as u32;
    let what = match kind {
        TMPFS | RAMFS => "is in memory, and a reboot empties it",
        OVERLAYFS => "is on an overlay (a container's own layer), and a new container has it empty",
        _ => return Ok(()),
    };
    Err(StoreError::refused(
        dir.path(),
        format!("{what}: each start would ask the CA for new accounts and certificates"),
        "put `state_dir` on a disk or a volume, or set `allow_volatile_state: true`",
    ))
}

/// The first eight hexadecimal digits of the SHA-256
fn eight_digits(bytes: &[u8]) -> String {
    let mut digits = Fingerprint::of(bytes).to_string();
    digits.truncate(8);
    digits
}

const ACCOUNTS: &str = "accounts";
const CERTIFICATES: &str = "certificates";
const DEPLOYED: &str = "deployed";
const PUBLISHED: &str = "published";
const GENERATIONS: &str = "generations";

/// Marks unfinished files of the state directory itself
const OWN: &str = "state";

const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58f6;
const OVERLAYFS: u32 = 0x794c_7630;
