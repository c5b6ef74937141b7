//! Files beside the state directory, for commands that leave one: the development CA's root.

use std::path::Path;

use super::OWN;
use super::dir::{Attributes, Dir};
use super::error::StoreError;

/// Replace a file that anybody may read, or make it, in one rename
///
/// # Errors
/// When its directory is missing or cannot be written.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let path = super::absolute(path);
    let missing = || StoreError::refused(&path, "has no directory", "create its directory");
    let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(missing)?;
    let dir = Dir::find(parent)?.ok_or_else(missing)?;
    dir.replace(name, OWN, &[content], Attributes { mode: 0o644, ..Attributes::private() })?;
    dir.sync()
}
