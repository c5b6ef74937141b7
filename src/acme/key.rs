//! Keys of certificates, and the requests that are signed with them.
//!
//! <https://www.rfc-editor.org/rfc/rfc2986>

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_RSA_SHA256, PublicKeyData as _, RsaKeySize, SanType,
};

use crate::config::KeyType;
use crate::failure::{Failure, Step};
use crate::name::Identifier;
use crate::pem;
use crate::secret::Secret;

/// Make a fresh key, as PKCS#8 PEM
///
/// An RSA key takes from a tenth of a second up to several seconds of CPU: off the async threads.
///
/// # Errors
/// When the machine has no randomness.
pub fn generate(kind: KeyType) -> Result<Secret<String>, Failure> {
    let pair = match kind {
        KeyType::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        KeyType::EcdsaP384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
        KeyType::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        KeyType::Rsa3072 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_3072),
        KeyType::Rsa4096 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096),
    };
    let pair = pair.map_err(|error| fault("no key could be made", &error))?;
    Ok(Secret::new(pem::encode(pem::Kind::PrivateKey, pair.serialized_der())))
}

/// A key of a certificate, ready to sign
#[derive(Debug)]
pub struct Key(KeyPair);

impl Key {
    /// The key that a PEM of [`generate`] holds
    ///
    /// # Errors
    /// When it is none of the kinds that [`generate`] makes.
    pub fn parse(key: &Secret<String>) -> Result<Self, Failure> {
        let der = pem::private_key(key.expose().as_bytes())
            .map_err(|error| Failure::retry(Step::Prepare, format!("the key {error}")))?;
        KeyPair::try_from(&der).map(Self).map_err(|error| fault("the key cannot be read", &error))
    }

    /// The request for a certificate, as DER: these names, an empty subject, nothing else
    ///
    /// # Errors
    /// When a name fits into no request.
    pub fn request(&self, identifiers: &[Identifier]) -> Result<Vec<u8>, Failure> {
        let mut names = Vec::with_capacity(identifiers.len());
        for identifier in identifiers {
            names.push(match identifier {
                Identifier::Dns(name) => {
                    let name = name.as_str().try_into();
                    let name = name.map_err(|error| fault("no request could be made", &error))?;
                    SanType::DnsName(name)
                }
                Identifier::Ip(address) => SanType::IpAddress(*address),
            });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        let request = params.serialize_request(&self.0);
        let request = request.map_err(|error| fault("no request could be made", &error))?;
        Ok(request.der().to_vec())
    }

    /// Its SubjectPublicKeyInfo, as DER: what the issued leaf must have
    pub fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }
}

fn fault(what: &str, error: &rcgen::Error) -> Failure {
    Failure::retry(Step::Prepare, format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::extensions::ParsedExtension;
    use x509_parser::prelude::FromDer as _;

    use super::*;
    use crate::cert::Leaf;

    #[test]
    fn a_request_has_the_names_and_the_key_and_no_more() {
        let names = ["a.test", "*.b.test", "192.0.2.1", "2001:db8::1"];
        let names: Vec<_> = names.iter().map(|n| Identifier::parse(n).unwrap()).collect();
        for kind in [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::Rsa2048] {
            let key = Key::parse(&generate(kind).unwrap()).unwrap();
            let der = key.request(&names).unwrap();
            let (rest, csr) = X509CertificationRequest::from_der(&der).unwrap();
            assert!(rest.is_empty());
            csr.verify_signature().unwrap();
            let info = &csr.certification_request_info;
            assert_eq!(info.subject.iter().count(), 0, "{kind}");
            assert_eq!(info.subject_pki.raw, key.public_key(), "{kind}");
            let extensions: Vec<_> = csr.requested_extensions().unwrap().collect();
            let [ParsedExtension::SubjectAlternativeName(san)] = extensions[..] else {
                panic!("{kind}: {extensions:?}");
            };
            assert_eq!(san.general_names.len(), names.len(), "{kind}");
        }
    }

    #[test]
    fn an_issued_leaf_has_the_key_of_the_request() {
        let kinds = [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::Rsa2048];
        for kind in kinds.into_iter().chain([KeyType::Rsa3072, KeyType::Rsa4096]) {
            let key = Key::parse(&generate(kind).unwrap()).unwrap();
            let name = Identifier::parse("a.test").unwrap();
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::DnsName("a.test".try_into().unwrap())];
            let leaf = params.self_signed(&key.0).unwrap();
            let leaf = Leaf::parse(leaf.der()).unwrap();
            assert_eq!(leaf.public_key, key.public_key());
            assert_eq!(leaf.key_type, Some(kind));
            assert_eq!(leaf.identifiers, BTreeSet::from([name]));
        }
    }

    #[test]
    fn what_is_no_key_is_a_failure() {
        for text in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert!(Key::parse(&Secret::new(text.to_owned())).is_err(), "{text}");
        }
    }
}
