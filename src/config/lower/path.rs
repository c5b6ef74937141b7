//! Paths.

use std::path::{Component, Path, PathBuf};

use crate::config::fault::{At, Faults, Refused};
use crate::config::raw::Text;

/// The path of a file
pub(super) fn file(
    text: &Text,
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<PathBuf, Refused> {
    if text.ends_with('/') && text.len() > 1 {
        return Err(faults.value(
            at,
            format!("`{}` is a directory", text.escape_debug()),
            "give the path of the file itself",
        ));
    }
    directory(text, base, at, faults)
}

/// The path of a directory: absolute if `base` is, without `.`, `..` and repeated slashes
pub(super) fn directory(
    text: &Text,
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<PathBuf, Refused> {
    let mut refuse = |what: &str, remedy: &str| {
        Err(faults.value(at, format!("`{}` {what}", text.escape_debug()), remedy))
    };
    if text.is_empty() {
        return refuse("is no path", "give a path, or leave the key out");
    }
    if text.chars().any(char::is_control) {
        return refuse("has a control character in it", "give the path without it");
    }
    let mut path = if text.starts_with('/') { PathBuf::from("/") } else { base.to_owned() };
    for component in Path::new(&**text).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                return refuse(
                    "has `..` in it, which leads elsewhere through a symlink",
                    "write the path that is meant",
                );
            }
            Component::CurDir | Component::Prefix(_) | Component::RootDir => {}
        }
    }
    if path.parent().is_none() {
        return refuse("is the root of the file system", "give a path below it");
    }
    Ok(path)
}
