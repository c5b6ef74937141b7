//! Keys and chains as text: one form on disk, and each output made from it.

use std::path::Path;

use rcgen::{KeyPair, PublicKeyData as _};
use zeroize::Zeroizing;

use super::error::StoreError;
use crate::cert::{Fingerprint, Leaf};
use crate::config::{Content, KeyType};
use crate::pem::{self, Kind};
use crate::record::Generation;
use crate::secret::Secret;

/// A key and the chain of its certificate, proven to belong together
pub(super) struct Pair {
    pub(super) key: Secret<String>,
    pub(super) chain: String,
    pub(super) leaf: Leaf,
    pub(super) key_type: KeyType,
}

impl Pair {
    /// Take a key and a chain that belong together, in their one form
    ///
    /// `path` is what an error is about.
    pub(super) fn new(key: &str, chain: &[u8], path: &Path) -> Result<Self, StoreError> {
        let damaged = |reason: String| StoreError::damaged(path, reason);
        let certificates = pem::certificates(chain).map_err(|error| damaged(error.to_string()))?;
        let leaf = certificates.first().map(|der| Leaf::parse(der));
        let leaf = leaf
            .ok_or_else(|| damaged("holds no certificate".to_owned()))?
            .map_err(|error| damaged(format!("holds something that is {error}")))?;
        let section = key_section(key).ok_or_else(|| damaged("holds no private key".to_owned()))?;
        let der = pem::private_key(section.expose().as_bytes())
            .map_err(|error| damaged(error.to_string()))?;
        let pair = KeyPair::try_from(&der)
            .map_err(|_| damaged("holds a private key of an unknown kind".to_owned()))?;
        if pair.subject_public_key_info() != leaf.public_key {
            return Err(damaged("holds a key that is not the certificate's".to_owned()));
        }
        let key_type = leaf.key_type.ok_or_else(|| {
            damaged("holds a key of a kind that certkeep does not make".to_owned())
        })?;
        let chain = certificates.iter().map(|der| pem::encode(Kind::Certificate, der)).collect();
        Ok(Self { key: section, chain, leaf, key_type })
    }
}

/// The first private key of a text, its lines without blanks
fn key_section(text: &str) -> Option<Secret<String>> {
    let mut section = Zeroizing::new(String::with_capacity(text.len() + 1));
    let mut within = false;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        within |= line.starts_with("-----BEGIN ") && line.ends_with("PRIVATE KEY-----");
        if within {
            section.push_str(line);
            section.push('\n');
            if line.starts_with("-----END ") {
                return Some(Secret::new(std::mem::take(&mut *section)));
            }
        }
    }
    None
}

/// The private key within a damaged record, in which line feeds are written `\n`
pub(super) fn salvage_key(record: &[u8]) -> Option<Secret<String>> {
    let text = Zeroizing::new(String::from_utf8_lossy(record).replace("\\n", "\n"));
    let at = text.find("-----BEGIN ")?;
    let key = key_section(text.get(at..)?)?;
    pem::private_key(key.expose().as_bytes()).is_ok().then_some(key)
}

/// What a PEM file of this content holds, part by part
pub(super) fn parts<'g>(content: &[Content], generation: &'g Generation) -> Vec<&'g [u8]> {
    let (key, chain) = (generation.key.expose().as_bytes(), generation.chain.as_bytes());
    let (leaf, rest) = chain.split_at(leaf_length(&generation.chain));
    let mut parts = Vec::with_capacity(content.len() + 1);
    for content in content {
        match content {
            Content::Cert => parts.push(leaf),
            Content::Chain => parts.push(rest),
            Content::Combined => parts.extend([key, chain]),
            Content::Fullchain => parts.push(chain),
            Content::Key => parts.push(key),
        }
    }
    parts
}

/// The leaf of a generation, PEM
pub(super) fn leaf(generation: &Generation) -> &[u8] {
    let chain = generation.chain.as_bytes();
    chain.split_at(leaf_length(&generation.chain)).0
}

/// How long the first certificate of a chain in our form is
fn leaf_length(chain: &str) -> usize {
    chain.find(END).map_or(chain.len(), |at| (at + END.len()).min(chain.len()))
}

const END: &str = "-----END CERTIFICATE-----\n";

/// SHA-256 of a file's content
pub(super) fn digest(bytes: &[u8]) -> Fingerprint {
    Fingerprint::of(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture;

    #[test]
    fn each_content_is_made_from_key_and_chain() {
        let pair = fixture::pair("a.test");
        let pair = Pair::new(&pair.key, pair.chain.as_bytes(), Path::new("/x")).unwrap();
        let generation = fixture::generation(1, pair.key.expose(), &pair.chain);
        let text = |content| String::from_utf8(parts(&[content], &generation).concat()).unwrap();
        assert_eq!(text(Content::Fullchain), pair.chain);
        assert_eq!(text(Content::Cert) + &text(Content::Chain), pair.chain);
        assert_eq!(text(Content::Cert).matches("BEGIN").count(), 1);
        assert_eq!(text(Content::Chain).matches("BEGIN").count(), 1);
        assert_eq!(text(Content::Key), *pair.key.expose());
        assert_eq!(text(Content::Combined), pair.key.expose().clone() + &pair.chain);
    }

    #[test]
    fn blank_lines_and_carriage_returns_are_left_out() {
        let pair = fixture::pair("a.test");
        let messy = |text: &str| format!("junk\n\n{}\r\n \n", text.replace('\n', "\r\n"));
        let clean = Pair::new(&pair.key, pair.chain.as_bytes(), Path::new("/x")).unwrap();
        let path = Path::new("/x");
        let read = Pair::new(&messy(&pair.key), messy(&pair.chain).as_bytes(), path).unwrap();
        assert_eq!((read.key, read.chain), (clean.key, clean.chain));
    }

    #[test]
    fn a_key_that_is_not_the_certificates_is_refused() {
        let (one, two) = (fixture::pair("a.test"), fixture::pair("a.test"));
        let path = Path::new("/x");
        let refused = |key: &str, chain: &str| {
            Pair::new(key, chain.as_bytes(), path).err().unwrap().to_string()
        };
        assert_eq!(refused(&one.key, &two.chain), "/x holds a key that is not the certificate's");
        assert_eq!(refused("", &two.chain), "/x holds no private key");
        assert_eq!(refused(&one.key, ""), "/x holds no certificate");
    }

    #[test]
    fn a_key_is_salvaged_from_a_torn_record() {
        let key = fixture::pair("a.test").key;
        let record = serde_json::json!({ "key": key, "version": "x" }).to_string();
        for text in [&record, &record[..record.len() - 6], &format!("\0\0{record}")] {
            assert_eq!(salvage_key(text.as_bytes()).unwrap().expose(), &key, "{text}");
        }
        assert!(salvage_key(b"-----BEGIN PRIVATE KEY-----\\nAAAA").is_none());
    }
}
