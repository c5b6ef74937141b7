//! What a target had before: before certkeep came, and before the deployment that is under way.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::dir::{Attributes, Dir, temporary_name};
use super::error::StoreError;
use super::label::Labels;
use super::record::{self, Reading, Record};
use super::walk::{Held, Present};
use super::{BEFORE, ORIGINALS, OWN, Store};
use crate::name::{CertName, TargetName};
use crate::record::VERSION;

/// Which of the two is meant
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// What was there before certkeep came; of each path the first that was found, for ever
    Original,
    /// What was there before a deployment, where that is no generation; until it is live
    Before,
}

impl Kept {
    const fn folder(self) -> &'static str {
        match self {
            Self::Before => BEFORE,
            Self::Original => ORIGINALS,
        }
    }
}

/// What was at one path
#[derive(Debug)]
pub(super) struct Original {
    pub(super) path: PathBuf,
    pub(super) was: Was,
}

#[derive(Debug)]
pub(super) enum Was {
    Absent,
    File(Held),
    Link { text: String, behind: Option<Held> },
}

impl Was {
    pub(super) fn content(&self) -> Option<&Held> {
        match self {
            Self::Absent => None,
            Self::File(held) => Some(held),
            Self::Link { behind, .. } => behind.as_ref(),
        }
    }
}

/// `originals/<target>/manifest.json` and `before/<target>/manifest.json`
#[derive(Debug, Default, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    files: Vec<KeptFile>,
}

impl Record for Manifest {
    fn version(&self) -> u32 {
        self.version
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptFile {
    path: PathBuf,
    /// The text of the symlink that was there
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    /// Where its content is kept, and what mode, owner and labels it had
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<KeptContent>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptContent {
    file: String,
    mode: u32,
    uid: u32,
    gid: u32,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    labels: Labels,
}

impl Store {
    /// Keep what is at these paths, unless something of the path is kept already
    pub(super) fn keep(
        &self,
        kept: Kept,
        certificate: &CertName,
        target: &TargetName,
        found: &[(PathBuf, &Present)],
    ) -> Result<(), StoreError> {
        let home = self.ensure_certificate_dir(certificate)?;
        let originals = home.ensure_child(kept.folder(), 0o700)?;
        let mut dir = originals.ensure_child(target.as_str(), 0o700)?;
        let mut manifest = match record::read::<Manifest>(&dir, MANIFEST)? {
            Reading::Record(manifest) => manifest,
            Reading::Absent => Manifest::default(),
            // Somebody may still find out which file is which; what is there now is next.
            Reading::Corrupt(corrupt) => {
                let aside = format!("{target}.corrupt-{}", corrupt.modified);
                originals.rename(target.as_str(), &aside)?;
                dir = originals.ensure_child(target.as_str(), 0o700)?;
                Manifest::default()
            }
        };
        let known = manifest.files.len();
        for (path, present) in found {
            if manifest.files.iter().any(|kept| kept.path == *path) {
                continue;
            }
            let content = match present.content() {
                Some(held) => {
                    let file = format!("{:06}", manifest.files.len());
                    let private = Attributes::private();
                    dir.replace(&file, OWN, &[&held.bytes], private, &Labels::default())?;
                    let Attributes { mode, uid, gid } = held.attributes;
                    Some(KeptContent { file, mode, uid, gid, labels: held.labels.clone() })
                }
                None => None,
            };
            let link = match present {
                Present::Link { text, .. } => text.to_str().map(str::to_owned),
                Present::Absent | Present::File(_) => None,
            };
            manifest.files.push(KeptFile { path: path.clone(), link, content });
        }
        if manifest.files.len() == known {
            return Ok(());
        }
        manifest.version = VERSION;
        record::write(&dir, MANIFEST, &manifest)
    }

    /// What is kept of a target
    pub(super) fn kept(
        &self,
        kept: Kept,
        certificate: &CertName,
        target: &TargetName,
    ) -> Result<Vec<Original>, StoreError> {
        let path = self.certificate_path(certificate).join(kept.folder()).join(target.as_str());
        let Some(dir) = Dir::find(&path)? else { return Ok(Vec::new()) };
        let manifest = match record::read::<Manifest>(&dir, MANIFEST)? {
            Reading::Record(manifest) => manifest,
            Reading::Corrupt(corrupt) if kept == Kept::Original => {
                return Err(StoreError::damaged(dir.join(MANIFEST), corrupt.error));
            }
            Reading::Absent | Reading::Corrupt(_) => Manifest::default(),
        };
        manifest.files.into_iter().map(|kept| original(&dir, kept)).collect()
    }

    /// Forget what was there before a deployment: it is live, or another one begins
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget_before(
        &self,
        certificate: &CertName,
        target: &TargetName,
    ) -> Result<(), StoreError> {
        self.writable()?;
        match Dir::find(&self.certificate_path(certificate).join(BEFORE))? {
            Some(dir) if dir.stat(target.as_str())?.is_some() => {
                // Half removed under its own name it would come back.
                let temporary = temporary_name(OWN);
                dir.rename(target.as_str(), &temporary)?;
                discard(&dir, &temporary)
            }
            Some(_) => Ok(()),
            None => Ok(()),
        }
    }
}

/// Remove what was kept of a target, with its keys overwritten
pub(super) fn discard(folder: &Dir, name: &str) -> Result<(), StoreError> {
    let overwritten = folder.child(name).and_then(|kept| {
        let Some(kept) = kept else { return Ok(()) };
        kept.names()?.iter().try_for_each(|file| kept.overwrite(file))
    });
    // A key that cannot be overwritten is better gone all the same.
    folder.remove_tree(name).and(overwritten)
}

fn original(dir: &Dir, kept: KeptFile) -> Result<Original, StoreError> {
    let content = match kept.content {
        Some(KeptContent { file, mode, uid, gid, labels }) => {
            let plain = file.bytes().all(|b| b.is_ascii_digit());
            let found = if plain { dir.read(&file)? } else { None };
            let (bytes, _) =
                found.ok_or_else(|| StoreError::damaged(dir.join(&file), "is missing"))?;
            let attributes = Attributes { mode: mode & 0o7777, uid, gid };
            Some(Held { bytes: Zeroizing::new(bytes), attributes, labels })
        }
        None => None,
    };
    let was = match (kept.link, content) {
        (Some(text), behind) => Was::Link { text, behind },
        (None, Some(held)) => Was::File(held),
        (None, None) => Was::Absent,
    };
    Ok(Original { path: kept.path, was })
}

const MANIFEST: &str = "manifest.json";
