//! What encrypted outputs hold, remembered by digest.
//!
//! To make one again takes a key derivation that is slow on purpose, and a look happens every
//! minute. So before a switch the digest of each goes into a record, beside a mark that only the
//! same key, chain, password and configuration give. A look compares the mark and the digest; it
//! makes the file again only when the record has no such mark. Neither tells anything secret: the
//! digest is that of a file that is encrypted, and the mark is a pseudorandom function under the
//! private key.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::dir::Dir;
use super::error::StoreError;
use super::install::Placed;
use super::pair::digest;
use super::record::{self, Reading, Record};
use super::render::{Bytes, Sealed};
use super::{Store, render};
use crate::cert::Fingerprint;
use crate::config::{Certificate, Output, Target};
use crate::name::TargetName;
use crate::record::{Generation, VERSION};

/// `made-<target>.json`
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Made {
    version: u32,
    /// Of each output the latest first
    files: Vec<File>,
}

impl Record for Made {
    fn version(&self) -> u32 {
        self.version
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    path: PathBuf,
    generation: u32,
    mark: Fingerprint,
    digest: Fingerprint,
}

/// What an output is compared with
pub(super) enum Wanted<'a> {
    /// These bytes
    Bytes(Bytes<'a>),
    /// Bytes with this digest
    Digest(Fingerprint),
}

impl Made {
    /// What was made for a target; nothing, if that is not known
    pub(super) fn load(home: Option<&Dir>, target: &Target) -> Self {
        let Some(home) = home.filter(|_| is_encrypted(target)) else { return Self::default() };
        match record::read(home, &file_name(&target.name)) {
            Ok(Reading::Record(made)) => made,
            Ok(Reading::Absent | Reading::Corrupt(_)) | Err(_) => Self::default(),
        }
    }

    /// What an output is to hold, without the work of making it where that is known
    pub(super) fn wanted<'g>(
        &self,
        store: &Store,
        output: &'g Output,
        generation: &'g Generation,
    ) -> Result<Wanted<'g>, StoreError> {
        let Some(source) = output.password() else {
            return render::plain(output, generation).map(Wanted::Bytes);
        };
        let of_output = || self.files.iter().filter(|file| file.path == output.path);
        match Sealed::new(output, source, generation, &store.0.passwords) {
            Ok(sealed) => {
                let mark = sealed.mark();
                match of_output().find(|file| file.mark == mark) {
                    Some(file) => Ok(Wanted::Digest(file.digest)),
                    None => sealed.render().map(Wanted::Bytes),
                }
            }
            // Who only looks may not have the password; the file may be the right one all the same.
            Err(error) => of_output()
                .find(|file| file.generation == generation.meta.number)
                .map(|file| Wanted::Digest(file.digest))
                .ok_or(error),
        }
    }
}

impl Store {
    /// Keep what encrypted outputs are about to hold
    pub(super) fn remember_made(
        &self,
        certificate: &Certificate,
        target: &Target,
        placed: &[Placed<'_>],
        contents: &[Bytes<'_>],
        generation: &Generation,
    ) -> Result<(), StoreError> {
        if !is_encrypted(target) {
            return Ok(());
        }
        let home = self.ensure_certificate_dir(&certificate.name)?;
        let before = Made::load(Some(&home), target).files;
        let mut files = Vec::new();
        for (place, content) in placed.iter().zip(contents) {
            let Bytes::Sealed(bytes, mark) = content else { continue };
            let path = place.output.path.clone();
            let earlier = before.iter().filter(|file| file.path == path && file.mark != *mark);
            let (generation, digest) = (generation.meta.number, digest(bytes));
            files.push(File { path: path.clone(), generation, mark: *mark, digest });
            files.extend(earlier.take(EARLIER).cloned());
        }
        if files == before {
            return Ok(());
        }
        record::write(&home, &file_name(&target.name), &Made { version: VERSION, files })
    }
}

fn is_encrypted(target: &Target) -> bool {
    target.outputs.iter().any(|output| output.password().is_some())
}

fn file_name(target: &TargetName) -> String {
    format!("made-{target}.json")
}

/// How many earlier forms of an output are remembered, for the way back
const EARLIER: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layout;
    use crate::plan::OutputState;
    use crate::store::fixture;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "damage is done on purpose")]
    fn a_look_believes_the_record_and_does_without_it() {
        let place = fixture::place();
        let store = fixture::store_with_passwords(&place);
        let certificate = fixture::pkcs12(Layout::Copy, &place.outputs());
        let target = &certificate.targets[0];
        let first = fixture::stage(&store);
        store.install(&certificate, target, &first).unwrap();
        let look = || {
            let observed = store.observe_one(&certificate, &mut |event| panic!("{event}"));
            observed.targets[&target.name].outputs.clone()
        };
        assert_eq!(look(), OutputState::Current);
        let record = store.certificate_path(&certificate.name).join(file_name(&target.name));
        let text = std::fs::read_to_string(&record).unwrap();
        let file = std::fs::read(&target.outputs[1].path).unwrap();
        let wrong = text.replace(&digest(&file).to_string(), &digest(b"else").to_string());
        assert_ne!(wrong, text);
        std::fs::write(&record, wrong).unwrap();
        assert!(matches!(look(), OutputState::Differs { .. }), "{:?}", look());
        std::fs::remove_file(&record).unwrap();
        assert_eq!(look(), OutputState::Current);

        std::fs::remove_file(place.outputs().join("password")).unwrap();
        let OutputState::Unreadable { path, problem } = look() else { panic!("{:?}", look()) };
        assert_eq!(path, target.outputs[1].path);
        assert!(problem.as_str().contains("it is lost"), "{problem}");
        std::fs::write(&record, text).unwrap();
        assert_eq!(look(), OutputState::Current, "as far as can be known");
        let second = fixture::stage(&store);
        assert!(store.install(&certificate, target, &second).is_err());
        assert_eq!(std::fs::read(&target.outputs[1].path).unwrap(), file);
    }

    #[test]
    fn the_forms_before_are_remembered_for_the_way_back() {
        let place = fixture::place();
        let store = fixture::store_with_passwords(&place);
        let certificate = fixture::pkcs12(Layout::Links, &place.outputs());
        let target = &certificate.targets[0];
        for word in ["one", "two", "three", "four"] {
            fixture::write(&place.outputs().join("password"), word);
            store.install(&certificate, target, &fixture::stage(&store)).unwrap();
        }
        let home = store.certificate_dir(&certificate.name).unwrap();
        let generations = |target| {
            let made = Made::load(home.as_ref(), target);
            made.files.iter().map(|file| file.generation).collect::<Vec<_>>()
        };
        assert_eq!(generations(target), [4, 3, 2]);
        let plain = fixture::certificate(Layout::Links, &place.outputs());
        assert!(generations(&plain.targets[0]).is_empty());
    }
}
