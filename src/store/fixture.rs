//! What tests of this room share.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer as Ca, KeyPair};

use super::pair::digest;
use super::render::{Bytes, render};
use super::{NewGeneration, Passwords, Store};
use crate::config::{
    Certificate, ChallengeMethod, Config, Content, Format, Gate, Http01, Keep, KeyType, Layout,
    Output, Renew, SecretSource, Target,
};
use crate::failure::{Failure, Step};
use crate::name::{CertName, Identifier, IssuerName, TargetName};
use crate::record::{Digests, Generation, GenerationMeta, VERSION};
use crate::secret::Secret;
use crate::time::Timestamp;

/// A key and a chain of two that it belongs to
pub(super) struct Issued {
    pub(super) key: String,
    pub(super) chain: String,
}

pub(super) fn pair(name: &str) -> Issued {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = Ca::new(ca, ca_key);
    let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    leaf.distinguished_name = DistinguishedName::new();
    let key = KeyPair::generate().unwrap();
    let cert = leaf.signed_by(&key, &issuer).unwrap();
    Issued {
        key: key.serialize_pem().replace("\r\n", "\n"),
        chain: (cert.pem() + &ca_cert.pem()).replace("\r\n", "\n"),
    }
}

/// A generation as a value, without a place on disk
pub(super) fn generation(number: u32, key: &str, chain: &str) -> Generation {
    let meta = GenerationMeta {
        version: VERSION,
        certificate: name("a.test"),
        number,
        fingerprint: digest(b""),
        key_type: KeyType::EcdsaP256,
        origin: None,
        staged_at: now(),
        digests: Digests { key: digest(key.as_bytes()), chain: digest(chain.as_bytes()) },
    };
    Generation { meta, key: Secret::new(key.to_owned()), chain: chain.to_owned() }
}

pub(super) fn name(text: &str) -> CertName {
    CertName::parse(text).unwrap()
}

pub(super) fn now() -> Timestamp {
    "2026-11-23T00:00:00Z".parse().unwrap()
}

/// A directory of one test
pub(super) struct Place {
    dir: tempfile::TempDir,
}

pub(super) fn place() -> Place {
    Place { dir: tempfile::tempdir().unwrap() }
}

impl Place {
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn config(&self, certificates: &[Certificate]) -> Config {
        Config {
            state_dir: self.path().join("state"),
            allow_volatile_state: true,
            allow_empty: true,
            issuers: std::collections::BTreeMap::new(),
            certificates: certificates.iter().map(|c| (c.name.clone(), c.clone())).collect(),
        }
    }

    pub(super) fn store(&self) -> Store {
        Store::open(&self.config(&[])).unwrap()
    }

    /// A fresh directory for outputs
    pub(super) fn outputs(&self) -> PathBuf {
        let path = self.path().join("out");
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

pub(super) fn output(path: PathBuf, content: Content) -> Output {
    let mode = if content.is_secret() { 0o600 } else { 0o644 };
    let format = Format::default();
    Output { path, content: vec![content], format, mode, owner: None, group: None }
}

/// A certificate with one target of a full chain and a key
pub(super) fn certificate(layout: Layout, directory: &Path) -> Certificate {
    let outputs = vec![
        output(directory.join("fullchain.pem"), Content::Fullchain),
        output(directory.join("privkey.pem"), Content::Key),
    ];
    Certificate {
        name: name("a.test"),
        identifiers: vec![Identifier::parse("a.test").unwrap()],
        key: KeyType::EcdsaP256,
        issuers: vec![IssuerName::parse("ca").unwrap()],
        profile: None,
        challenge: ChallengeMethod::Http01(Http01::Webroot("/srv".into())),
        renew: Renew::default(),
        targets: vec![Target {
            name: TargetName::parse("default").unwrap(),
            layout,
            outputs,
            check: None,
            reload: None,
            verify: Vec::new(),
            max_reloads_per_hour: None,
        }],
        gate: Gate::default(),
        keep: Keep::default(),
        serial: false,
    }
}

/// A store that reads passwords from files
pub(super) fn store_with_passwords(place: &Place) -> Store {
    place.store().with_passwords(Passwords::new(|source| {
        let SecretSource::File(path) = source else { panic!("{source:?}") };
        let text = std::fs::read_to_string(path);
        text.map(Secret::new).map_err(|_| Failure::retry(Step::Prepare, "it is lost"))
    }))
}

#[expect(clippy::disallowed_methods, reason = "no power fails in a test's own directory")]
pub(super) fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// A certificate whose outputs are a full chain and a PKCS#12 file, with its password beside them
pub(super) fn pkcs12(layout: Layout, directory: &Path) -> Certificate {
    let mut certificate = certificate(layout, directory);
    write(&directory.join("password"), "password");
    let password = SecretSource::File(directory.join("password"));
    certificate.targets[0].outputs[1] = Output {
        format: Format::Pkcs12 { password, alias: "a".to_owned() },
        ..output(directory.join("a.p12"), Content::Combined)
    };
    certificate
}

/// What each output of the first target is to hold
pub(super) fn rendered<'g>(
    store: &Store,
    certificate: &Certificate,
    generation: &'g Generation,
) -> Vec<Bytes<'g>> {
    let outputs = certificate.targets[0].outputs.iter();
    outputs.map(|output| render(output, generation, &store.0.passwords).unwrap()).collect()
}

/// Stage a fresh pair
pub(super) fn stage(store: &Store) -> Generation {
    let pair = pair("a.test");
    let new = NewGeneration { certificate: name("a.test"), origin: None, staged_at: now() };
    store.stage(&new, &Secret::new(pair.key), &pair.chain).unwrap()
}
