//! What the disk refused, in words for the operator.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::failure::{Failure, Step};
use crate::text::External;

/// Why the store could not do something, and with which path
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    path: PathBuf,
    fault: Fault,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    System { action: &'static str, errno: Errno },
    Refused { reason: String, remedy: String },
    Damaged { reason: String },
    Newer { version: u32 },
}

impl StoreError {
    pub(super) fn system(action: &'static str, path: impl Into<PathBuf>, errno: Errno) -> Self {
        Self { path: path.into(), fault: Fault::System { action, errno } }
    }

    pub(super) fn refused(
        path: impl Into<PathBuf>,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let fault = Fault::Refused { reason: reason.into(), remedy: remedy.into() };
        Self { path: path.into(), fault }
    }

    pub(super) fn damaged(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), fault: Fault::Damaged { reason: reason.into() } }
    }

    pub(super) fn newer(path: impl Into<PathBuf>, version: u32) -> Self {
        Self { path: path.into(), fault: Fault::Newer { version } }
    }

    /// The same fault where only a human can mend it
    pub(super) fn mended_by(self, remedy: &str) -> Self {
        match self.fault {
            Fault::Damaged { reason } => Self::refused(self.path, reason, remedy),
            fault => Self { path: self.path, fault },
        }
    }

    pub(super) fn is_damage(&self) -> bool {
        matches!(self.fault, Fault::Damaged { .. })
    }

    pub(super) fn errno(&self) -> Option<Errno> {
        match self.fault {
            Fault::System { errno, .. } => Some(errno),
            _ => None,
        }
    }

    /// Whether a file could not be given to its owner or group
    pub(super) fn is_about_the_owner(&self) -> bool {
        let Fault::System { action: SET_OWNER, errno } = self.fault else { return false };
        matches!(errno, Errno::PERM | Errno::INVAL)
    }

    /// The file or directory it is about
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a full disk, a quota or used-up inodes are to blame
    pub fn is_no_space(&self) -> bool {
        matches!(self.errno(), Some(Errno::NOSPC | Errno::DQUOT))
    }

    /// Whether the same attempt fails until a human does something
    pub fn needs_operator(&self) -> bool {
        self.remedy().is_some()
    }

    /// What a human must do; `None` where another attempt may do better
    pub fn remedy(&self) -> Option<String> {
        let remedy = match &self.fault {
            Fault::Refused { remedy, .. } => remedy,
            Fault::Newer { .. } => {
                "run the newer certkeep again, or move this file away to start without it"
            }
            Fault::Damaged { .. } => return None,
            // In a user namespace that does not know the user.
            Fault::System { action: SET_OWNER, errno: Errno::INVAL } => {
                "map that user into the container's user namespace, or name another owner"
            }
            Fault::System { errno, .. } => match *errno {
                Errno::NOSPC | Errno::DQUOT => "free some space or inodes on its file system",
                Errno::ROFS => {
                    "make it writable: mount it read-write, or list it in `ReadWritePaths=` of the unit"
                }
                Errno::ACCESS | Errno::PERM => {
                    "let the user that certkeep runs as write there and give files away, or run it as root"
                }
                Errno::BUSY => "something is mounted on it: mount its directory instead",
                Errno::NOENT => "create the directory that is missing",
                _ => return None,
            },
        };
        Some(remedy.to_owned())
    }

    /// This error as the failure of a step
    pub fn failure(&self, step: Step) -> Failure {
        match self.remedy() {
            Some(remedy) => Failure::needs_operator(step, self.to_string(), remedy),
            None => Failure::retry(step, self.to_string()),
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = External::new(self.path.to_string_lossy());
        match &self.fault {
            Fault::System { action, errno } => write!(f, "cannot {action} {path}: {errno}"),
            Fault::Refused { reason, .. } | Fault::Damaged { reason } => {
                write!(f, "{path} {}", External::new(reason))
            }
            Fault::Newer { version } => {
                write!(f, "{path} was written by a newer certkeep (version {version})")
            }
        }
    }
}

impl std::error::Error for StoreError {}

/// What giving a file away is called
pub(super) const SET_OWNER: &str = "set the owner of";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureClass;

    #[test]
    fn what_only_a_human_can_mend_names_the_remedy() {
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::ACCESS, Errno::PERM] {
            let error = StoreError::system("write", "/x", errno);
            let failure = error.failure(Step::Install);
            assert!(
                matches!(failure.class, FailureClass::NeedsOperator { .. }),
                "{errno:?} {failure}"
            );
        }
        let passing = StoreError::system("write", "/x", Errno::IO).failure(Step::Stage);
        assert_eq!(passing.class, FailureClass::Retry);
        assert!(passing.to_string().contains("cannot write /x: "), "{passing}");
    }
}
