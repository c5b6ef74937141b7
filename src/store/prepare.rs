//! Whether an order would be wasted: looked at before the CA is asked.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::fs::{self, Access as Right, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::dir::{Attributes, DATA, Dir, ourselves, set_attributes};
use super::error::{SET_OWNER, StoreError};
use super::install::{Placed, approach_place, common_owner, open_place};
use super::label::Labels;
use super::owner::Owners;
use super::walk::{self, Reached};
use super::{Access, Store};
use crate::config::{Certificate, Layout, Target};

impl Store {
    /// Check that a new generation could be kept and installed
    ///
    /// # Errors
    /// The first of [`Store::faults`].
    pub fn prepare(&self, certificate: &Certificate) -> Result<(), StoreError> {
        self.faults(certificate).into_iter().next().map_or(Ok(()), Err)
    }

    /// Everything that would keep a new generation from being kept and installed
    ///
    /// Paths that cannot be outputs, directories that somebody else may write, missing rights,
    /// unknown users, too little space or too few inodes, passwords and ACLs that cannot be read. A
    /// store opened for reading only tries nothing out and sees less.
    pub fn faults(&self, certificate: &Certificate) -> Vec<StoreError> {
        let owners = Owners::default();
        let mut faults = Vec::new();
        let mut note = |result: Result<(), StoreError>| {
            if let Err(error) = result
                && !faults.contains(&error)
            {
                faults.push(error);
            }
        };
        note(self.check_state(certificate));
        for target in &certificate.targets {
            for output in &target.outputs {
                if let Some(source) = output.password() {
                    note(self.0.passwords.read(output, source).map(drop));
                }
            }
            match self.place(certificate, target, &owners) {
                Ok(placed) => self.check_target(target, &placed, &mut note),
                Err(error) => note(Err(error)),
            }
        }
        faults
    }

    fn check_state(&self, certificate: &Certificate) -> Result<(), StoreError> {
        match self.0.access {
            Access::ReadWrite => {
                let dir = self.ensure_certificate_dir(&certificate.name)?;
                check_space(&dir, STATE_BYTES, STATE_INODES)?;
                self.probe(&dir, &[])
            }
            Access::ReadOnly => match Dir::find(&self.0.root)? {
                Some(dir) => check_space(&dir, STATE_BYTES, STATE_INODES),
                None => Ok(()),
            },
        }
    }

    fn check_target(
        &self,
        target: &Target,
        placed: &[Placed<'_>],
        note: &mut dyn FnMut(Result<(), StoreError>),
    ) {
        let mut places = BTreeMap::new();
        let mut gifts = Vec::with_capacity(placed.len());
        for place in placed {
            let mut labels = Labels::default();
            let owner = common_owner(placed, place.directory);
            let dir = places
                .entry(place.directory)
                .or_insert_with(|| open(target, place.directory, owner));
            match dir {
                Ok((dir, _)) if dir.path() == place.directory => {
                    // What is there is kept before it is replaced, so it has to be read.
                    let found = match self.is_read_only() {
                        true => walk::check_output(dir, place.name),
                        false => place.look(dir, owner).map(drop),
                    };
                    match found.and_then(|()| dir.labels(place.name)) {
                        Ok(found) => labels = found,
                        Err(error) => note(Err(error)),
                    }
                }
                // The directory is yet to be made, and nothing is in it.
                Ok(_) => {}
                Err(error) => note(Err(error.clone())),
            }
            gifts.push((place.attributes, labels));
        }
        // Behind symlinks the files themselves are in the state directory.
        let (here, there) = match target.layout {
            Layout::Links => ([].as_slice(), gifts.as_slice()),
            Layout::Dir(_) | Layout::Copy => (gifts.as_slice(), [].as_slice()),
        };
        for (dir, outputs) in places.values().flatten() {
            let outputs = u64::from(*outputs).max(1);
            note(check_space(dir, outputs * OUTPUT_BYTES, outputs * 2 + 2));
            note(self.probe(dir, here));
        }
        if let (Access::ReadWrite, Ok(Some(dir))) =
            (self.0.access, Dir::find(&self.0.root.join(super::DEPLOYED)))
            && !there.is_empty()
        {
            note(self.probe(&dir, there));
        }
    }

    /// Try out whether files can be made in a directory and given these attributes
    ///
    /// The file has no name, so that nobody sees it.
    fn probe(&self, dir: &Dir, gifts: &[(Attributes, Labels)]) -> Result<(), StoreError> {
        let named = || {
            fs::accessat(dir.fd(), ".", Right::WRITE_OK | Right::EXEC_OK, AtFlags::EACCESS)
                .map_err(|errno| StoreError::system("write in", dir.path(), errno))
        };
        if self.is_read_only() {
            return named();
        }
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = match fs::openat(dir.fd(), ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => fd,
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => return named(),
            Err(errno) => return Err(StoreError::system("write in", dir.path(), errno)),
        };
        let (uid, gid) = ourselves();
        for (gift, labels) in gifts {
            if (gift.uid, gift.gid) == (uid, gid) && labels.is_empty() {
                continue;
            }
            set_attributes(&fd, *gift)
                .and_then(|()| labels.give(&fd, gift.mode))
                .map_err(|(action, errno)| match errno {
                    Errno::PERM if action == SET_OWNER => StoreError::refused(
                        dir.path(),
                        format!(
                            "needs a file that belongs to {}:{}, which user {uid} cannot make",
                            gift.uid, gift.gid
                        ),
                        "run certkeep as root; or name no `owner`, and a `group` that its user is in",
                    ),
                    errno => StoreError::system(action, dir.path(), errno),
                })?;
        }
        Ok(())
    }
}

/// An output's directory, or for a `dir:` that is yet to be made the one that it goes into
fn open(target: &Target, path: &Path, owner: u32) -> Result<(Dir, u8), StoreError> {
    let count = u8::try_from(target.outputs.len()).unwrap_or(u8::MAX);
    let opened = match &target.layout {
        Layout::Dir(_) => match approach_place(path, owner)? {
            Reached::Directory(dir) | Reached::Nothing { parent: dir } => dir,
        },
        Layout::Links | Layout::Copy => open_place(path, owner)?,
    };
    if let Layout::Dir(_) = &target.layout
        && opened.path() == path
    {
        // A name in use by something else would only fail at the switch.
        if let Some(stat) = opened.stat(DATA)?
            && !matches!(
                fs::FileType::from_raw_mode(stat.st_mode),
                fs::FileType::Symlink | fs::FileType::Directory
            )
        {
            return Err(StoreError::refused(
                opened.join(DATA),
                "is in the way of the symlink that certkeep switches",
                "remove it, or name another `dir`",
            ));
        }
    }
    Ok((opened, count))
}

fn check_space(dir: &Dir, bytes: u64, inodes: u64) -> Result<(), StoreError> {
    let stat = fs::fstatvfs(dir.fd())
        .map_err(|errno| StoreError::system("look at the file system of", dir.path(), errno))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let missing = if free < bytes {
        format!(
            "has {} KiB of free space on its file system, {} are needed",
            free >> 10,
            bytes >> 10
        )
    } else if stat.f_files > 0 && stat.f_favail < inodes {
        format!("has {} free inodes on its file system, {inodes} are needed", stat.f_favail)
    } else {
        return Ok(());
    };
    let remedy = "free some space or inodes: a certificate that cannot be kept must not be ordered";
    Err(StoreError::refused(dir.path(), missing, remedy))
}

const STATE_BYTES: u64 = 256 << 10;
const STATE_INODES: u64 = 32;
const OUTPUT_BYTES: u64 = 32 << 10;
