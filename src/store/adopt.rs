//! Taking over a certificate that the outputs hold already.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::Store;
use super::dir::Dir;
use super::error::StoreError;
use super::generation::NewGeneration;
use super::pair::Pair;
use crate::config::{Certificate, Content, Target};
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

fn file(target: &Target, content: Content) -> Option<Zeroizing<Vec<u8>>> {
    let output = target.outputs.iter().find(|output| output.content == content)?;
    read(&output.path)
}

fn chain_of(target: &Target) -> Option<Zeroizing<Vec<u8>>> {
    let file = |content| file(target, content);
    file(Content::Fullchain).or_else(|| file(Content::Combined)).or_else(|| {
        let mut leaf = file(Content::Cert)?;
        leaf.push(b'\n');
        leaf.extend_from_slice(&file(Content::Chain).unwrap_or_default());
        Some(leaf)
    })
}

fn pair_of(target: &Target) -> Option<Pair> {
    let key = file(target, Content::Key).or_else(|| file(target, Content::Combined))?;
    let chain = chain_of(target)?;
    let key = Zeroizing::new(String::from_utf8_lossy(&key).into_owned());
    let path = target.outputs.first()?.path.as_path();
    Pair::new(&key, &chain, path).ok()
}

fn read(path: &Path) -> Option<Zeroizing<Vec<u8>>> {
    let dir = Dir::find(path.parent()?).ok()??;
    let (bytes, _) = dir.read_through(path.file_name()?).ok()??;
    Some(Zeroizing::new(bytes))
}
