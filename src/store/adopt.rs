//! Taking over a certificate that the outputs hold already.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::Store;
use super::dir::Dir;
use super::error::StoreError;
use super::generation::NewGeneration;
use super::pair::Pair;
use crate::config::{Certificate, Content, Format, Output, Target};
use crate::pem;
use crate::record::Generation;
use crate::time::Timestamp;

impl Store {
    /// Keep the certificate that the outputs hold as a generation
    ///
    /// `None` when they hold none with its key, or only a placeholder that signed itself.
    ///
    /// # Errors
    /// When it cannot be staged.
    pub fn adopt(
        &self,
        certificate: &Certificate,
        now: Timestamp,
    ) -> Result<Option<Generation>, StoreError> {
        let Some(pair) = self.pair_in_outputs(certificate) else { return Ok(None) };
        let new =
            NewGeneration { certificate: certificate.name.clone(), origin: None, staged_at: now };
        self.stage(&new, &pair.key, &pair.chain).map(Some)
    }

    /// The chain that the outputs of a target hold, whoever put it there
    pub fn chain_in_outputs(&self, target: &Target) -> Option<Vec<CertificateDer<'static>>> {
        pem::certificates(&chain_of(target)?).ok()
    }

    /// The certificate with its key that the outputs hold; of several, the one that lasts longest
    pub(super) fn pair_in_outputs(&self, certificate: &Certificate) -> Option<Pair> {
        let pairs = certificate.targets.iter().filter_map(pair_of);
        pairs.filter(|pair| !pair.leaf.self_signed).max_by_key(|pair| pair.leaf.not_after)
    }
}

/// The outputs that can be read as they are
fn readable(target: &Target) -> impl Iterator<Item = &Output> {
    let pem = target.outputs.iter().filter(|output| matches!(output.format, Format::Pem(_)));
    pem.filter(|output| output.password().is_none())
}

fn file(target: &Target, content: Content) -> Option<Zeroizing<Vec<u8>>> {
    let output = readable(target).find(|output| output.content == [content])?;
    read(&output.path)
}

fn chain_of(target: &Target) -> Option<Zeroizing<Vec<u8>>> {
    let file = |content| file(target, content);
    let chain = file(Content::Fullchain).or_else(|| file(Content::Combined)).or_else(|| {
        let mut leaf = file(Content::Cert)?;
        leaf.push(b'\n');
        leaf.extend_from_slice(&file(Content::Chain).unwrap_or_default());
        Some(leaf)
    });
    chain.or_else(|| read(&readable(target).find(|output| begins_with_leaf(output))?.path))
}

fn pair_of(target: &Target) -> Option<Pair> {
    let file = |content| file(target, content);
    let key = file(Content::Key).or_else(|| file(Content::Combined)).or_else(|| {
        let output = readable(target).find(|output| output.content.contains(&Content::Key))?;
        read(&output.path)
    })?;
    let chain = chain_of(target)?;
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

#[cfg(test)]
mod tests {
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
            let adopted = store.pair_in_outputs(&certificate);
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
        assert!(place.store().pair_in_outputs(&certificate).is_some());
    }
}
