//! What a target had before: before certkeep came, and before the deployment that is under way.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Store;
use super::dir::Attributes;
use super::error::StoreError;
use super::label::Labels;
use super::record::{self, Reading, Record};
use super::walk::{Held, Present};
use crate::name::{CertName, TargetName};
use crate::record::VERSION;
use crate::secret::Secret;

/// Which of the two is meant
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// What was there before certkeep came; of each path the first that was found, for ever
    Original,
    /// What was there before a deployment, where that is no generation; until it is live
    Before,
}

impl Kept {
    fn file_name(self, target: &TargetName) -> String {
        match self {
            Self::Before => format!("before-{target}.json"),
            Self::Original => format!("original-{target}.json"),
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

/// `original-<target>.json` and `before-<target>.json`
#[derive(Debug, Default, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    files: Vec<KeptFile>,
}

impl Record for Manifest {
    /// Many files, each of which an output could be
    const LIMIT: usize = 64 << 20;

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
    /// Its content, and what mode, owner and labels it had
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<KeptContent>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptContent {
    bytes: KeptBytes,
    mode: u32,
    uid: u32,
    gid: u32,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    labels: Labels,
}

/// PEM as it is, and what is no text in base64
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KeptBytes {
    Text(Secret<String>),
    Base64(Secret<String>),
}

impl KeptBytes {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(Secret::new(text.to_owned())),
            Err(_) => Self::Base64(Secret::new(STANDARD.encode(bytes))),
        }
    }

    fn bytes(&self) -> Result<Zeroizing<Vec<u8>>, base64::DecodeError> {
        match self {
            Self::Text(text) => Ok(text.expose().as_bytes().to_vec().into()),
            Self::Base64(text) => STANDARD.decode(text.expose()).map(Zeroizing::new),
        }
    }
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
        let name = kept.file_name(target);
        let mut manifest = match record::read::<Manifest>(&home, &name)? {
            Reading::Record(manifest) => manifest,
            Reading::Absent => Manifest::default(),
            // Somebody may still find out what it says; what is there now is next.
            Reading::Corrupt(corrupt) => {
                home.rename(&name, format!("{name}.corrupt-{}", corrupt.modified))?;
                Manifest::default()
            }
        };
        let known = manifest.files.len();
        for (path, present) in found {
            if manifest.files.iter().any(|kept| kept.path == *path) {
                continue;
            }
            let content = present.content().map(|Held { bytes, attributes, labels }| {
                let Attributes { mode, uid, gid } = *attributes;
                KeptContent { bytes: KeptBytes::of(bytes), mode, uid, gid, labels: labels.clone() }
            });
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
        record::write(&home, &name, &manifest)
    }

    /// What is kept of a target
    pub(super) fn kept(
        &self,
        kept: Kept,
        certificate: &CertName,
        target: &TargetName,
    ) -> Result<Vec<Original>, StoreError> {
        let Some(home) = self.certificate_dir(certificate)? else { return Ok(Vec::new()) };
        let name = kept.file_name(target);
        let damaged = |why: String| StoreError::damaged(home.join(&name), why);
        let manifest = match record::read::<Manifest>(&home, &name)? {
            Reading::Record(manifest) => manifest,
            Reading::Corrupt(corrupt) if kept == Kept::Original => {
                return Err(damaged(corrupt.error));
            }
            Reading::Absent | Reading::Corrupt(_) => Manifest::default(),
        };
        let files = manifest.files.into_iter().map(original);
        files
            .collect::<Result<_, _>>()
            .map_err(|error| damaged(format!("holds no base64: {error}")))
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
        match self.certificate_dir(certificate)? {
            Some(home) => home.shred(&Kept::Before.file_name(target)),
            None => Ok(()),
        }
    }
}

fn original(kept: KeptFile) -> Result<Original, base64::DecodeError> {
    let content = match kept.content {
        Some(KeptContent { bytes, mode, uid, gid, labels }) => {
            let attributes = Attributes { mode: mode & 0o7777, uid, gid };
            Some(Held { bytes: bytes.bytes()?, attributes, labels })
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

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "damage is done on purpose")]
mod tests {
    use super::*;
    use crate::store::fixture;

    fn held(bytes: &[u8]) -> Held {
        let (attributes, labels) = (Attributes::private(), Labels::default());
        Held { bytes: bytes.to_vec().into(), attributes, labels }
    }

    #[test]
    fn what_was_there_comes_back_byte_for_byte_until_it_is_forgotten() {
        let place = fixture::place();
        let (store, name) = (place.store(), fixture::name("site"));
        let target = TargetName::parse("web").unwrap();
        let (pem, der) =
            (b"-----BEGIN X-----\n\"\\\n".as_slice(), [0x30, 0x82, 0xff, 0].as_slice());
        let behind = Some(held(der));
        let found = [
            Present::File(held(pem)),
            Present::Link { text: "../live/key.pem".into(), behind },
            Present::Absent,
        ];
        let at = |number: usize| PathBuf::from(format!("/etc/tls/{number}"));
        let found: Vec<_> = found.iter().enumerate().map(|(i, one)| (at(i), one)).collect();
        for kept in [Kept::Original, Kept::Before] {
            store.keep(kept, &name, &target, &found).unwrap();
            let all = store.kept(kept, &name, &target).unwrap();
            let content = |i: usize| all[i].was.content().map(|held| held.bytes.to_vec());
            assert_eq!(content(0).unwrap(), pem);
            assert!(matches!(&all[1].was, Was::Link { text, .. } if text == "../live/key.pem"));
            assert_eq!(content(1).unwrap(), der);
            assert!(matches!(all[2].was, Was::Absent));
            assert_eq!(all[2].path, at(2));
        }
        store.forget_before(&name, &target).unwrap();
        assert!(store.kept(Kept::Before, &name, &target).unwrap().is_empty());
        assert_eq!(store.kept(Kept::Original, &name, &target).unwrap().len(), 3);
    }

    #[test]
    fn damaged_originals_are_refused_and_set_aside_before_others_are_kept() {
        let place = fixture::place();
        let (store, name) = (place.store(), fixture::name("site"));
        let target = TargetName::parse("web").unwrap();
        let present = Present::File(held(b"x"));
        let found = [(PathBuf::from("/etc/tls/key.pem"), &present)];
        store.keep(Kept::Original, &name, &target, &found).unwrap();
        let home = store.certificate_path(&name);
        for damage in [
            "{",
            r#"{"version":1,"files":[{"path":"/a","content":{"bytes":{"base64":"?"},"mode":0,"uid":0,"gid":0}}]}"#,
        ] {
            std::fs::write(home.join("original-web.json"), damage).unwrap();
            let error = store.kept(Kept::Original, &name, &target).unwrap_err();
            assert!(error.to_string().contains("original-web.json"), "{error}");
        }
        std::fs::write(home.join("original-web.json"), "{").unwrap();
        store.keep(Kept::Original, &name, &target, &found).unwrap();
        assert_eq!(store.kept(Kept::Original, &name, &target).unwrap().len(), 1);
        let aside =
            |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().contains(".corrupt-");
        assert!(std::fs::read_dir(home).unwrap().any(|entry| aside(entry.unwrap())));
    }
}
