//! Outputs made from a generation: each a function of its key, its chain, and what the
//! configuration says, so that it can be made again and compared.

use std::os::unix::ffi::OsStrExt as _;

use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

use super::error::StoreError;
use super::password::Passwords;
use super::pbes2::Seed;
use super::{pair, pkcs12, private_key};
use crate::cert::Fingerprint;
use crate::config::{Content, Format, KeyFormat, Output, SecretSource};
use crate::pem::{self, Kind};
use crate::record::Generation;
use crate::secret::Secret;

/// What an output is to hold
pub(super) enum Bytes<'a> {
    /// Parts of the generation, as they are
    Kept(Vec<&'a [u8]>),
    /// What was made of them
    Made(Zeroizing<Vec<u8>>),
    /// What was made of them and encrypted, with its [`Sealed::mark`]
    Sealed(Vec<u8>, Fingerprint),
}

impl Bytes<'_> {
    pub(super) fn parts(&self) -> Vec<&[u8]> {
        match self {
            Self::Kept(parts) => parts.clone(),
            Self::Made(bytes) => vec![bytes],
            Self::Sealed(bytes, _) => vec![bytes],
        }
    }
}

/// What an output is to hold
///
/// # Errors
/// When its password cannot be read, or the key is of no kind that can be written so.
pub(super) fn render<'g>(
    output: &Output,
    generation: &'g Generation,
    passwords: &Passwords,
) -> Result<Bytes<'g>, StoreError> {
    match output.password() {
        Some(source) => Sealed::new(output, source, generation, passwords)?.render(),
        None => plain(output, generation),
    }
}

/// What an output without a password is to hold
pub(super) fn plain<'g>(
    output: &Output,
    generation: &'g Generation,
) -> Result<Bytes<'g>, StoreError> {
    let parts = |content: &[Content]| pair::parts(content, generation);
    match &output.format {
        Format::Pem(KeyFormat::Traditional) => {
            let (kind, key) = traditional(output, generation)?;
            let key = Zeroizing::new(pem::encode(kind, &key));
            // With room for all of it, or a part of the key would stay behind where it was.
            let room = key.len() + 2 * generation.chain.len();
            let mut text = Zeroizing::new(Vec::with_capacity(room));
            for content in &output.content {
                match content {
                    Content::Key => text.extend_from_slice(key.as_bytes()),
                    Content::Combined => {
                        text.extend_from_slice(key.as_bytes());
                        text.extend_from_slice(generation.chain.as_bytes());
                    }
                    other => text.extend(parts(&[*other]).concat()),
                }
            }
            Ok(Bytes::Made(text))
        }
        Format::Der(key_format) if output.content == [Content::Key] => {
            Ok(Bytes::Made(match key_format {
                KeyFormat::Traditional => traditional(output, generation)?.1,
                _ => private_key::pkcs8(&key(output, generation)?, generation.meta.key_type),
            }))
        }
        Format::Der(_) => {
            let leaf = chain(output, generation)?.into_iter().next().unwrap_or_default();
            Ok(Bytes::Made(Zeroizing::new(leaf)))
        }
        Format::Pem(_) | Format::Pkcs12 { .. } => Ok(Bytes::Kept(parts(&output.content))),
    }
}

fn traditional(
    output: &Output,
    generation: &Generation,
) -> Result<(Kind, private_key::Der), StoreError> {
    private_key::traditional(&key(output, generation)?, generation.meta.key_type)
        .map_err(|error| cannot_hold(output, &error.to_string()))
}

fn key(output: &Output, generation: &Generation) -> Result<PrivateKeyDer<'static>, StoreError> {
    pem::private_key(generation.key.expose().as_bytes())
        .map_err(|error| cannot_hold(output, &format!("the generation {error}")))
}

fn chain(output: &Output, generation: &Generation) -> Result<Vec<Vec<u8>>, StoreError> {
    pem::certificates(generation.chain.as_bytes())
        .map(|chain| chain.iter().map(|der| der.to_vec()).collect())
        .map_err(|error| cannot_hold(output, &format!("the generation {error}")))
}

fn cannot_hold(output: &Output, reason: &str) -> StoreError {
    StoreError::refused(
        &output.path,
        format!("cannot hold this key and chain: {reason}"),
        "choose another format, or order another certificate with `renew --force`",
    )
}

/// An output that is encrypted, with its password and before the work
pub(super) struct Sealed<'a> {
    output: &'a Output,
    generation: &'a Generation,
    password: Secret<String>,
    seed: Seed,
}

impl<'a> Sealed<'a> {
    pub(super) fn new(
        output: &'a Output,
        source: &SecretSource,
        generation: &'a Generation,
        passwords: &Passwords,
    ) -> Result<Self, StoreError> {
        let password = passwords.read(output, source)?;
        let alias = match &output.format {
            Format::Pkcs12 { alias, .. } => alias.as_str(),
            Format::Pem(_) | Format::Der(_) => "",
        };
        let recipe = [
            output.path.as_os_str().as_bytes(),
            &generation.meta.digests.chain.0,
            output.format.as_str().as_bytes(),
            alias.as_bytes(),
        ];
        let seed = Seed::new(&generation.key, &password, &recipe);
        Ok(Self { output, generation, password, seed })
    }

    /// What tells this output from the same one with another password, generation or format
    pub(super) fn mark(&self) -> Fingerprint {
        self.seed.mark()
    }

    pub(super) fn render<'g>(&self) -> Result<Bytes<'g>, StoreError> {
        let Self { output, generation, password, seed } = self;
        let key = private_key::pkcs8(&key(output, generation)?, generation.meta.key_type);
        let failed = |_| cannot_hold(output, "it cannot be encrypted");
        let bytes = match &output.format {
            Format::Pkcs12 { alias, .. } => {
                let chain = chain(output, generation)?;
                let chain: Vec<_> = chain.iter().map(Vec::as_slice).collect();
                let contents = pkcs12::Contents { key: &key, chain: &chain, alias };
                pkcs12::encode(&contents, password, seed).map_err(failed)?
            }
            Format::Pem(_) | Format::Der(_) => {
                let der = private_key::encrypted(&key, password, &seed.salt("key"));
                let der = der.map_err(failed)?;
                if let Format::Der(_) = output.format {
                    der
                } else {
                    pem::encode(Kind::EncryptedPrivateKey, &der).into_bytes()
                }
            }
        };
        Ok(Bytes::Sealed(bytes, self.mark()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layout;
    use crate::store::fixture;

    #[test]
    fn an_encrypted_output_is_the_same_each_time_and_shares_no_salt_with_another() {
        let place = fixture::place();
        let store = fixture::store_with_passwords(&place);
        let certificate = fixture::pkcs12(Layout::Links, &place.outputs());
        let output = &certificate.targets[0].outputs[1];
        let (one, two) = (fixture::stage(&store), fixture::stage(&store));
        let made = |output: &Output, generation: &Generation| {
            render(output, generation, &store.0.passwords).unwrap().parts().concat()
        };
        let first = made(output, &one);
        assert_eq!(made(output, &one), first);
        let elsewhere = Output { path: "/elsewhere.p12".into(), ..output.clone() };
        let mut others = vec![made(output, &two), made(&elsewhere, &one)];
        fixture::write(&place.outputs().join("password"), "another");
        others.push(made(output, &one));
        // Salts and initialization vectors are strings of 16 octets.
        let salts = |bytes: &[u8]| {
            let found = bytes.windows(18).filter(|part| part.starts_with(&[0x04, 0x10]));
            found.map(<[u8]>::to_vec).collect::<std::collections::BTreeSet<_>>()
        };
        assert!(salts(&first).len() >= 4);
        for other in others {
            assert!(salts(&other).is_disjoint(&salts(&first)));
        }
    }

    #[test]
    fn a_list_is_written_in_its_order_whatever_the_form_of_the_key() {
        let place = fixture::place();
        let store = place.store();
        let generation = fixture::stage(&store);
        let content = vec![Content::Chain, Content::Key, Content::Cert];
        let text = |key_format| {
            let output = Output {
                content: content.clone(),
                format: Format::Pem(key_format),
                ..fixture::output("/x".into(), Content::Key)
            };
            let bytes = render(&output, &generation, &store.0.passwords).unwrap();
            String::from_utf8(bytes.parts().concat()).unwrap()
        };
        let labels = |text: &str| {
            let begins = text.lines().filter_map(|line| line.strip_prefix("-----BEGIN "));
            begins.map(|rest| rest.trim_end_matches('-').to_owned()).collect::<Vec<_>>()
        };
        let expected = ["CERTIFICATE", "PRIVATE KEY", "CERTIFICATE"];
        assert_eq!(labels(&text(KeyFormat::Pkcs8)), expected);
        let expected = ["CERTIFICATE", "EC PRIVATE KEY", "CERTIFICATE"];
        assert_eq!(labels(&text(KeyFormat::Traditional)), expected);
        let leaf = String::from_utf8(pair::leaf(&generation).to_vec()).unwrap();
        assert!(text(KeyFormat::Traditional).ends_with(&leaf));
    }
}
