//! Taking over a certificate that the outputs hold already.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::dir::{Dir, ourselves};
use super::error::StoreError;
use super::generation::NewGeneration;
use super::install::{Placed, common_owner};
use super::original::Kept;
use super::owner::Owners;
use super::pair::Pair;
use super::{Store, walk};
use crate::config::{Certificate, Content, Format, Output, Target};
use crate::pem;
use crate::record::Generation;
use crate::time::Timestamp;

impl Store {
    /// Keep the certificate that the outputs hold as a generation
    ///
    /// `None` when they hold none with its key, or only a placeholder that signed itself, or one
    /// that somebody else may have led them to.
    ///
    /// # Errors
    /// When it cannot be staged.
    pub fn adopt(
        &self,
        certificate: &Certificate,
        now: Timestamp,
    ) -> Result<Option<Generation>, StoreError> {
        let Some(pair) = self.pair_in_outputs(certificate, &Owners::default()) else {
            return Ok(None);
        };
        let new =
            NewGeneration { certificate: certificate.name.clone(), origin: None, staged_at: now };
        self.stage(&new, &pair.key, &pair.chain).map(Some)
    }

    /// The chain that the outputs of a target hold, whoever put it there
    pub fn chain_in_outputs(&self, target: &Target) -> Option<Vec<CertificateDer<'static>>> {
        pem::certificates(&chain_of(target, &|output| read(&output.path))?).ok()
    }

    /// The chain that they held before the deployment that is under way, where that was no
    /// generation
    pub fn chain_before(
        &self,
        certificate: &Certificate,
        target: &Target,
    ) -> Option<Vec<CertificateDer<'static>>> {
        let kept = self.kept(Kept::Before, &certificate.name, &target.name).ok()?;
        let read = |output: &Output| {
            let original = kept.iter().find(|original| original.path == output.path)?;
            Some(original.was.content()?.bytes.clone())
        };
        pem::certificates(&chain_of(target, &read)?).ok()
    }

    /// The certificate with its key that the outputs hold; of several, the one that lasts longest
    ///
    /// Its key is written to the outputs again, for their owners.
    pub(super) fn pair_in_outputs(
        &self,
        certificate: &Certificate,
        owners: &Owners,
    ) -> Option<Pair> {
        let pairs = certificate.targets.iter().filter_map(|target| {
            let placed = self.place(certificate, target, owners).ok()?;
            pair_of(target, &|output| read_own(&placed, output))
        });
        pairs.filter(|pair| !pair.leaf.self_signed).max_by_key(|pair| pair.leaf.not_after)
    }
}

/// How an output is read
type Read<'a> = &'a dyn Fn(&Output) -> Option<Zeroizing<Vec<u8>>>;

/// The outputs that can be read as they are
fn readable(target: &Target) -> impl Iterator<Item = &Output> {
    let pem = target.outputs.iter().filter(|output| matches!(output.format, Format::Pem(_)));
    pem.filter(|output| output.password().is_none())
}

fn file(target: &Target, content: Content, read: Read<'_>) -> Option<Zeroizing<Vec<u8>>> {
    read(readable(target).find(|output| output.content == [content])?)
}

fn chain_of(target: &Target, read: Read<'_>) -> Option<Zeroizing<Vec<u8>>> {
    let file = |content| file(target, content, read);
    let chain = file(Content::Fullchain).or_else(|| file(Content::Combined)).or_else(|| {
        let mut leaf = file(Content::Cert)?;
        leaf.push(b'\n');
        leaf.extend_from_slice(&file(Content::Chain).unwrap_or_default());
        Some(leaf)
    });
    chain.or_else(|| read(readable(target).find(|output| begins_with_leaf(output))?))
}

fn pair_of(target: &Target, read: Read<'_>) -> Option<Pair> {
    let file = |content| file(target, content, read);
    let key = file(Content::Key).or_else(|| file(Content::Combined)).or_else(|| {
        read(readable(target).find(|output| output.content.contains(&Content::Key))?)
    })?;
    let chain = chain_of(target, read)?;
    let key = Zeroizing::new(String::from_utf8_lossy(&key).into_owned());
    let path = target.outputs.first()?.path.as_path();
    Pair::new(&key, &chain, path).ok()
}

/// Whether the first certificate in an output is the leaf
fn begins_with_leaf(output: &Output) -> bool {
    output.content.iter().find(|content| **content != Content::Key).is_some_and(|first| {
        matches!(first, Content::Cert | Content::Combined | Content::Fullchain)
    })
}

fn read(path: &Path) -> Option<Zeroizing<Vec<u8>>> {
    let dir = Dir::find(path.parent()?).ok()??;
    let (bytes, _) = dir.read_through(path.file_name()?).ok()??;
    Some(Zeroizing::new(bytes))
}

/// Read an output where nobody but root, us and its owner had a say in what it leads to
fn read_own(placed: &[Placed<'_>], output: &Output) -> Option<Zeroizing<Vec<u8>>> {
    let place = placed.iter().find(|place| place.output.path == output.path)?;
    let owner = common_owner(placed, place.directory);
    let (bytes, stat) = walk::read(&output.path, owner).ok()??;
    let bytes = Zeroizing::new(bytes);
    [0, ourselves().0, place.attributes.uid].contains(&stat.st_uid).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{lchown, symlink};

    use super::*;
    use crate::config::{KeyFormat, Layout, SecretSource};
    use crate::store::fixture;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "what another client left")]
    fn a_pair_is_found_in_a_list_that_begins_with_the_leaf() {
        use Content::{Cert, Chain, Fullchain, Key};
        for (content, found) in [
            (vec![Key, Fullchain], true),
            (vec![Cert, Chain, Key], true),
            (vec![Cert, Key, Chain], true),
            (vec![Key, Chain, Cert], false),
            (vec![Chain, Fullchain, Key], false),
        ] {
            let place = fixture::place();
            let store = place.store();
            let path = place.outputs().join("all.pem");
            let output = Output { content, ..fixture::output(path, Key) };
            let pair = fixture::pair("a.test");
            let generation = fixture::generation(1, &pair.key, &pair.chain);
            let backwards = Output {
                content: vec![Chain, Cert],
                ..fixture::output(place.outputs().join("backwards.pem"), Cert)
            };
            for output in [&output, &backwards] {
                let text = crate::store::pair::parts(&output.content, &generation).concat();
                std::fs::write(&output.path, text).unwrap();
            }
            let mut certificate = fixture::certificate(Layout::Links, &place.outputs());
            certificate.targets[0].outputs = vec![backwards, output];
            let adopted = store.pair_in_outputs(&certificate, &Owners::default());
            assert_eq!(adopted.is_some(), found, "{:?}", certificate.targets[0].outputs);
            if let Some(adopted) = adopted {
                assert_eq!((adopted.key.expose(), &adopted.chain), (&pair.key, &pair.chain));
            }
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "what another client left")]
    fn an_encrypted_key_is_passed_over() {
        let place = fixture::place();
        let (key, all) = (place.outputs().join("key.pem"), place.outputs().join("all.pem"));
        let pair = fixture::pair("a.test");
        std::fs::write(&key, "-----BEGIN ENCRYPTED PRIVATE KEY-----\n").unwrap();
        std::fs::write(&all, format!("{}{}", pair.key, pair.chain)).unwrap();
        let password = SecretSource::File("/password".into());
        let mut certificate = fixture::certificate(Layout::Links, &place.outputs());
        certificate.targets[0].outputs = vec![
            Output {
                format: Format::Pem(KeyFormat::Encrypted(password)),
                ..fixture::output(key, Content::Key)
            },
            fixture::output(all, Content::Combined),
        ];
        let adopted = place.store().pair_in_outputs(&certificate, &Owners::default());
        assert!(adopted.is_some());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "what another client left")]
    fn a_key_is_adopted_through_symlinks_of_root_and_never_through_those_of_others() {
        let place = fixture::place();
        let (store, live) = (place.store(), place.path().join("live"));
        std::fs::create_dir(&live).unwrap();
        let mut certificate = fixture::certificate(Layout::Links, &place.outputs());
        let pair = fixture::pair("a.test");
        let [chain, key] = [0, 1].map(|i| certificate.targets[0].outputs[i].path.clone());
        std::fs::write(&chain, &pair.chain).unwrap();
        std::fs::write(live.join("privkey1.pem"), &pair.key).unwrap();
        symlink("privkey1.pem", live.join("privkey.pem")).unwrap();
        symlink(live.join("privkey.pem"), &key).unwrap();
        let adoptable = |certificate: &Certificate| {
            store.pair_in_outputs(certificate, &Owners::default()).is_some()
        };
        assert!(adoptable(&certificate));
        if ourselves().0 != 0 {
            // Only root can give anything away.
            return;
        }
        // Where the key is for that user, and where every file is.
        for (given_away, with_key, with_all) in [
            (&key, false, false),
            (&live.join("privkey.pem"), false, false),
            (&live.join("privkey1.pem"), true, true),
            (&live, false, true),
        ] {
            lchown(given_away, Some(4711), None).unwrap();
            for (owners, expected) in
                [([None, None], false), ([None, OTHER], with_key), ([OTHER, OTHER], with_all)]
            {
                for (output, owner) in certificate.targets[0].outputs.iter_mut().zip(owners) {
                    output.owner = owner.map(str::to_owned);
                }
                assert_eq!(adoptable(&certificate), expected, "{given_away:?} {owners:?}");
            }
            lchown(given_away, Some(0), None).unwrap();
        }
    }

    const OTHER: Option<&str> = Some("4711");
}
