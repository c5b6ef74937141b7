//! Certificate signing requests.
//!
//! <https://www.rfc-editor.org/rfc/rfc2986>, <https://www.rfc-editor.org/rfc/rfc8555#section-7.4>

use std::collections::BTreeSet;

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::name::Identifier;

use super::hierarchy::SubjectKey;
use super::jwk::AccountKey;
use super::problem::{Problem, ProblemType};

/// Check a CSR against its order and read the key from it
pub(super) fn check(
    der: &[u8],
    ordered: &[Identifier],
    account_key: &AccountKey,
) -> Result<SubjectKey, Problem> {
    let (rest, csr) = X509CertificationRequest::from_der(der)
        .map_err(|error| bad(format!("it cannot be read: {error}")))?;
    if !rest.is_empty() {
        return Err(bad("bytes follow it"));
    }
    let spki = &csr.certification_request_info.subject_pki;
    let algorithm = match spki.parsed() {
        Ok(PublicKey::EC(point)) if point.key_size() == 256 => &PKCS_ECDSA_P256_SHA256,
        Ok(PublicKey::EC(point)) if point.key_size() == 384 => &PKCS_ECDSA_P384_SHA384,
        Ok(PublicKey::RSA(key)) if (2048..=4096).contains(&key.key_size()) => &PKCS_RSA_SHA256,
        _ => return Err(bad("keys are P-256, P-384, or RSA of 2048 to 4096 bits")),
    };
    csr.verify_signature().map_err(|_| bad("its signature is not its key's"))?;
    if account_key.is_key_of(spki) {
        return Err(bad("its key is the account's"));
    }
    let asked = identifiers(&csr)?;
    let ordered: BTreeSet<_> = ordered.iter().cloned().collect();
    if asked != ordered {
        return Err(bad(format!("it is for {}; the order for {}", list(&asked), list(&ordered))));
    }
    Ok(SubjectKey { bits: spki.subject_public_key.data.to_vec(), algorithm })
}

/// The subject alternative names, and the common name where there is one
fn identifiers(csr: &X509CertificationRequest<'_>) -> Result<BTreeSet<Identifier>, Problem> {
    let mut found = BTreeSet::new();
    for extension in csr.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            let identifier = match name {
                GeneralName::DNSName(name) => Identifier::parse(name).ok(),
                GeneralName::IPAddress(bytes) => address(bytes),
                _ => None,
            };
            found.insert(identifier.ok_or_else(|| bad(format!("no certificate is for {name}")))?);
        }
    }
    for name in csr.certification_request_info.subject.iter_common_name() {
        let text = name.as_str().map_err(|_| bad("its common name cannot be read"))?;
        let identifier = Identifier::parse(text);
        found.insert(identifier.map_err(|error| bad(format!("its common name {error}")))?);
    }
    Ok(found)
}

fn address(bytes: &[u8]) -> Option<Identifier> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|b| Identifier::Ip(b.into()));
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|b| Identifier::Ip(b.into()))).ok()
}

fn list(identifiers: &BTreeSet<Identifier>) -> String {
    let names: Vec<_> = identifiers.iter().map(ToString::to_string).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

fn bad(reason: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemType::BadCsr, format!("the CSR cannot be used: {reason}"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _};

    use super::*;

    fn account() -> AccountKey {
        let key = KeyPair::generate().unwrap();
        AccountKey::P256(key.der_bytes().to_vec())
    }

    fn csr(names: &[&str], common_name: Option<&str>, key: &KeyPair) -> Vec<u8> {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.serialize_request(key).unwrap().der().to_vec()
    }

    fn ids(names: &[&str]) -> Vec<Identifier> {
        names.iter().map(|name| Identifier::parse(name).unwrap()).collect()
    }

    #[test]
    fn the_identifiers_are_compared_as_sets() {
        let key = KeyPair::generate().unwrap();
        let good: [(&[&str], Option<&str>, &[&str]); 4] = [
            (&["a.test"], None, &["a.test"]),
            (&["b.test", "a.test"], Some("a.test"), &["a.test", "b.test"]),
            (&[], Some("a.test"), &["a.test"]),
            (&["192.0.2.1", "2001:db8::1"], None, &["2001:db8::1", "192.0.2.1"]),
        ];
        for (names, cn, ordered) in good {
            let checked = check(&csr(names, cn, &key), &ids(ordered), &account());
            assert!(checked.is_ok(), "{names:?} {cn:?}: {checked:?}");
        }
        let bad: [(&[&str], Option<&str>, &[&str]); 5] = [
            (&[], None, &["a.test"]),
            (&["a.test", "b.test"], None, &["a.test"]),
            (&["a.test"], None, &["a.test", "b.test"]),
            (&["a.test"], Some("b.test"), &["a.test"]),
            (&["a.test"], Some("somebody"), &["a.test"]),
        ];
        for (names, cn, ordered) in bad {
            let problem = check(&csr(names, cn, &key), &ids(ordered), &account()).unwrap_err();
            assert_eq!(problem.kind(), ProblemType::BadCsr, "{names:?} {cn:?}");
        }
    }

    #[test]
    fn a_key_that_cannot_be_certified_is_refused() {
        let ordered = ids(&["a.test"]);
        let p256 = KeyPair::generate().unwrap();
        let own = AccountKey::P256(p256.der_bytes().to_vec());
        let problem = check(&csr(&["a.test"], None, &p256), &ordered, &own).unwrap_err();
        assert!(problem.detail().contains("account"), "{problem:?}");

        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let problem = check(&csr(&["a.test"], None, &ed25519), &ordered, &account()).unwrap_err();
        assert!(problem.detail().contains("P-256"), "{problem:?}");
    }

    #[test]
    fn a_damaged_csr_is_refused() {
        let key = KeyPair::generate().unwrap();
        let der = csr(&["a.test"], None, &key);
        let mut flipped = der.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let mut longer = der.clone();
        longer.push(0);
        for broken in [flipped, longer, der[..der.len() / 2].to_vec(), Vec::new()] {
            let problem = check(&broken, &ids(&["a.test"]), &account()).unwrap_err();
            assert_eq!(problem.kind(), ProblemType::BadCsr);
        }
    }
}
