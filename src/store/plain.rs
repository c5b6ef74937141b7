//! Single files beside the state directory: the development CA's root, a file of roots.

use std::path::Path;

use super::dir::{Attributes, Dir};
use super::error::StoreError;
use super::label::Labels;
use super::{OWN, Store};

/// Replace a file that anybody may read, or make it, in one rename
///
/// # Errors
/// When its directory is missing or cannot be written.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let path = super::absolute(path);
    let missing = || StoreError::refused(&path, "has no directory", "create its directory");
    let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(missing)?;
    let dir = Dir::find(parent)?.ok_or_else(missing)?;
    let attributes = Attributes { mode: 0o644, ..Attributes::private() };
    dir.replace(name, OWN, &[content], attributes, &Labels::default())?;
    dir.sync()
}

impl Store {
    /// The content of a file that holds no secret, of 1 MiB at most
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn read_public(&self, path: &Path) -> Result<Vec<u8>, StoreError> {
        let missing = || StoreError::system("read", path, rustix::io::Errno::NOENT);
        let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(missing)?;
        let dir = Dir::find(parent)?.ok_or_else(missing)?;
        Ok(dir.read_through(name)?.ok_or_else(missing)?.0)
    }
}
