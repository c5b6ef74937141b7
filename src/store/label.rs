//! What a file has beside mode and owner: a POSIX ACL, and an SELinux label.
//!
//! Both were given to what is at a path, so a new file takes them over from the one it replaces.
//! With an ACL, the group bits of a mode are its mask: the most that any named user or group gets.
//! chmod(2) would set that mask, and take from a named user what the operator gave. So the mode of
//! the configuration means the entries of owner, group and others, and the mask stays.

use std::os::fd::AsFd;

use rustix::fs::{self, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The ACL and the label of a file, as far as it has them
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Labels {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    acl: Option<Acl>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    selinux: Option<Vec<u8>>,
}

impl Labels {
    /// Those of an open file
    pub(super) fn of(fd: impl AsFd) -> rustix::io::Result<Self> {
        let acl =
            read(&fd, ACL)?.map(|bytes| Acl::parse(&bytes).ok_or(Errno::INVAL)).transpose()?;
        Ok(Self { acl, selinux: read(&fd, SELINUX)? })
    }

    /// Give them to a new file, with this mode
    pub(super) fn give(&self, fd: impl AsFd, mode: u32) -> Result<(), (&'static str, Errno)> {
        if let Some(label) = &self.selinux {
            give_label(&fd, label).map_err(|errno| (SET_LABEL, errno))?;
        }
        match &self.acl {
            Some(acl) => acl.give(fd, mode).map_err(|errno| (SET_ACL, errno)),
            None => Ok(()),
        }
    }

    /// Whether there is neither
    pub(super) fn is_empty(&self) -> bool {
        self.acl.is_none() && self.selinux.is_none()
    }
}

/// Set a label, unless the file has it from its directory already
fn give_label(fd: impl AsFd, label: &[u8]) -> rustix::io::Result<()> {
    let own = read(&fd, SELINUX)?;
    if own.as_deref() == Some(label) {
        return Ok(());
    }
    match fs::fsetxattr(&fd, SELINUX, label, XattrFlags::empty()) {
        // Where SELinux is in force every file has a label. Where it is not, one means nothing,
        // and only root may set it.
        Err(Errno::PERM) if own.is_none() => Ok(()),
        given => given,
    }
}

/// A POSIX ACL with more entries than a mode has
///
/// In the kernel's form: `linux/posix_acl_xattr.h`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Acl(Vec<Entry>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    tag: u16,
    rights: u16,
    id: u32,
}

impl Acl {
    /// The ACL of an open file, if it has one
    pub(super) fn of(fd: impl AsFd) -> rustix::io::Result<Option<Self>> {
        read(fd, ACL)?.map(|bytes| Self::parse(&bytes).ok_or(Errno::INVAL)).transpose()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (version, entries) = bytes.split_first_chunk::<4>()?;
        let (entries, []) = entries.as_chunks::<8>() else { return None };
        let entry = |&[t0, t1, r0, r1, i0, i1, i2, i3]: &[u8; 8]| Entry {
            tag: u16::from_le_bytes([t0, t1]),
            rights: u16::from_le_bytes([r0, r1]),
            id: u32::from_le_bytes([i0, i1, i2, i3]),
        };
        let known = u32::from_le_bytes(*version) == XATTR_VERSION;
        known.then(|| Self(entries.iter().map(entry).collect()))
    }

    /// What owner, group and others may do, as the permission bits of a mode
    pub(super) fn mode(&self) -> u32 {
        let mask = self.0.iter().find(|entry| entry.tag == MASK).map_or(0o7, |mask| mask.rights);
        let bits = self.0.iter().filter_map(|entry| {
            let rights = if entry.tag == GROUP_OBJ { entry.rights & mask } else { entry.rights };
            Some(u32::from(rights & 0o7) << shift(entry.tag)?)
        });
        bits.fold(0, |mode, bits| mode | bits)
    }

    /// Give it to a file, with this mode as the rights of owner, group and others
    ///
    /// The mask grows where the group would not get what the mode gives it.
    pub(super) fn give(&self, fd: impl AsFd, mode: u32) -> rustix::io::Result<()> {
        let mut bytes = XATTR_VERSION.to_le_bytes().to_vec();
        for Entry { tag, rights, id } in &self.0 {
            let of_mode = |shift| u16::try_from(mode >> shift & 0o7).unwrap_or_default();
            let rights = match (*tag, shift(*tag)) {
                (MASK, _) => rights | of_mode(3),
                (_, Some(shift)) => of_mode(shift),
                (_, None) => *rights,
            };
            bytes.extend(tag.to_le_bytes());
            bytes.extend(rights.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        fs::fsetxattr(fd, ACL, &bytes, XattrFlags::empty())
    }
}

/// Where the rights of an entry are in a mode; `None` for the entries that a mode has not
const fn shift(tag: u16) -> Option<u32> {
    match tag {
        USER_OBJ => Some(6),
        GROUP_OBJ => Some(3),
        OTHER => Some(0),
        _ => None,
    }
}

/// An attribute; `None`: the file has none, or its file system knows none
fn read(fd: impl AsFd, name: &str) -> rustix::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::with_capacity(LIMIT);
    match fs::fgetxattr(fd, name, rustix::buffer::spare_capacity(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

const ACL: &str = "system.posix_acl_access";
const SELINUX: &str = "security.selinux";

/// What giving an ACL or a label is called
pub(super) const SET_ACL: &str = "set the ACL of";
pub(super) const SET_LABEL: &str = "set the SELinux label of";

const XATTR_VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The most bytes of one attribute: what file systems store, and so as much as there can be
const LIMIT: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(rights: [u16; 5]) -> Acl {
        let tags = [(USER_OBJ, u32::MAX), (0x02, 33), (GROUP_OBJ, u32::MAX), (MASK, u32::MAX)];
        let tags = tags.into_iter().chain([(OTHER, u32::MAX)]);
        Acl(tags.zip(rights).map(|((tag, id), rights)| Entry { tag, rights, id }).collect())
    }

    #[test]
    fn a_mode_is_what_owner_group_and_others_get_whatever_named_users_do() {
        assert_eq!(acl([6, 4, 0, 4, 0]).mode(), 0o600);
        assert_eq!(acl([6, 4, 4, 4, 0]).mode(), 0o640);
        assert_eq!(acl([6, 4, 4, 0, 4]).mode(), 0o604, "the mask takes it from the group too");
    }

    #[test]
    fn an_acl_comes_back_as_it_was_given_but_for_the_mode() {
        let file = tempfile::tempfile().unwrap();
        for (given, mode, found) in [
            ([6, 4, 0, 4, 0], 0o600, [6, 4, 0, 4, 0]),
            ([7, 4, 7, 4, 7], 0o640, [6, 4, 4, 4, 0]),
            ([6, 4, 0, 0, 0], 0o660, [6, 4, 6, 6, 0]),
            ([6, 4, 0, 6, 0], 0o400, [4, 4, 0, 6, 0]),
        ] {
            acl(given).give(&file, mode).unwrap();
            let read = Acl::of(&file).unwrap().unwrap();
            assert_eq!(read, acl(found), "{given:?} {mode:o}");
            assert_eq!(read.mode(), mode);
        }
    }

    #[test]
    fn what_the_kernel_does_not_write_is_no_acl() {
        for bytes in [&b""[..], &[2, 0, 0], &[1, 0, 0, 0], &[2, 0, 0, 0, 1]] {
            assert_eq!(Acl::parse(bytes), None, "{bytes:?}");
        }
        assert_eq!(Acl::parse(&[2, 0, 0, 0]), Some(Acl(Vec::new())));
    }
}
