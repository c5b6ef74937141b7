//! Facts of a certificate, and whether a chain is the one that was ordered.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use x509_parser::asn1_rs::ToDer as _;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::AlgorithmIdentifier;

use crate::config::{KeyType, Usage};
use crate::name::Identifier;
use crate::pem::{self, PemError};
use crate::text::External;
use crate::time::Timestamp;

/// SHA-256 of a certificate's DER
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of this DER
    pub fn of(der: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
        Self(bytes)
    }

    /// The first 16 hexadecimal digits, for people
    pub fn short(&self) -> String {
        hex(&self.0[..8])
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(if value < 10 { b'0' + value } else { b'a' - 10 + value });
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", self.short())
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
        let octet = |pair: &[u8]| match *pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        };
        let octets: Option<Vec<u8>> = text.as_bytes().chunks(2).map(octet).collect();
        let bytes = octets.and_then(|octets| octets.try_into().ok());
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("not 64 hex digits"))
    }
}

/// What a leaf says, as far as decisions need it
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// SHA-256 of its DER
    pub fingerprint: Fingerprint,
    /// The names and addresses of its subject alternative names
    pub identifiers: BTreeSet<Identifier>,
    /// The first moment it is good
    pub not_before: Timestamp,
    /// The last moment it is good
    pub not_after: Timestamp,
    /// Its serial number, hexadecimal
    pub serial: String,
    /// Its issuer's name, for people
    pub issuer: External,
    /// The kind of its key, where certkeep makes that kind
    pub key_type: Option<KeyType>,
    /// Its SubjectPublicKeyInfo, DER
    #[serde(with = "octets")]
    pub public_key: Vec<u8>,
    /// What renewal information is asked by; `None` without an authority key identifier
    ///
    /// <https://www.rfc-editor.org/rfc/rfc9773#section-4.1>
    pub ari_id: Option<AriId>,
    /// Whether it signed itself: a placeholder, not an issued certificate
    pub self_signed: bool,
    /// What it is good for, of what certkeep knows; `None` where it does not say, which is for
    /// everything
    pub usage: Option<BTreeSet<Usage>>,
}

impl Leaf {
    /// Read a certificate's DER
    ///
    /// # Errors
    /// When it is not a certificate.
    pub fn parse(der: &[u8]) -> Result<Self, CertError> {
        let x509 = parse(der)?;
        let identifiers = match x509.subject_alternative_name() {
            Ok(Some(names)) => names.value.general_names.iter().filter_map(identifier).collect(),
            _ => BTreeSet::new(),
        };
        let ari_id = authority_key_id(&x509)
            .map(|id| AriId { key_identifier: id.to_vec(), serial: x509.raw_serial().to_vec() });
        Ok(Self {
            fingerprint: Fingerprint::of(der),
            identifiers,
            not_before: Timestamp::from_seconds(x509.validity().not_before.timestamp()),
            not_after: Timestamp::from_seconds(x509.validity().not_after.timestamp()),
            serial: hex(x509.raw_serial()),
            issuer: External::new(x509.issuer().to_string()),
            key_type: key_type(&x509),
            public_key: x509.public_key().raw.to_vec(),
            ari_id,
            self_signed: is_issued_by(&x509, &x509),
            usage: usage(&x509),
        })
    }

    /// Read the first certificate of a PEM text
    ///
    /// # Errors
    /// When there is none, or it is broken.
    pub fn from_pem(text: &[u8]) -> Result<Self, CertError> {
        let chain = pem::certificates(text)?;
        let leaf = chain.first().ok_or(PemError::NoCertificate)?;
        Self::parse(leaf)
    }

    /// Whether it is good at this moment
    pub fn is_current(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// How long it is good for in all
    pub fn lifetime(&self) -> Duration {
        self.not_after.since(self.not_before)
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertError> {
    match X509Certificate::from_der(der) {
        Ok(([], x509)) => Ok(x509),
        Ok(_) => Err(CertError::NotACertificate("bytes follow it".to_owned())),
        Err(error) => Err(CertError::NotACertificate(error.to_string())),
    }
}

fn identifier(name: &GeneralName<'_>) -> Option<Identifier> {
    match name {
        GeneralName::DNSName(name) => Identifier::parse(name).ok(),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|b| Identifier::Ip(b.into()));
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(|b| Identifier::Ip(b.into()))).ok()
        }
        _ => None,
    }
}

/// A name of a certificate that nobody can order, as it is written there
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignName {
    /// The name
    pub text: External,
    /// It is meant for DNS, where a wildcard may cover it
    pub is_dns: bool,
}

impl ForeignName {
    fn of(name: &GeneralName<'_>) -> Self {
        let is_dns = matches!(name, GeneralName::DNSName(_));
        let text = match name {
            GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
                External::new(text)
            }
            other => External::new(other.to_string()),
        };
        Self { text, is_dns }
    }
}

/// The names of a chain's leaf that are none of the kinds that are ordered
///
/// # Errors
/// When there is none, or it is broken.
pub fn foreign_names_of(chain: &[CertificateDer<'_>]) -> Result<Vec<ForeignName>, CertError> {
    let x509 = parse(chain.first().ok_or(PemError::NoCertificate)?)?;
    let Ok(Some(names)) = x509.subject_alternative_name() else { return Ok(Vec::new()) };
    let foreign = names.value.general_names.iter().filter(|name| identifier(name).is_none());
    Ok(foreign.map(ForeignName::of).collect())
}

fn key_type(x509: &X509Certificate<'_>) -> Option<KeyType> {
    match x509.public_key().parsed().ok()? {
        PublicKey::EC(point) if point.key_size() == 256 => Some(KeyType::EcdsaP256),
        PublicKey::EC(point) if point.key_size() == 384 => Some(KeyType::EcdsaP384),
        PublicKey::RSA(key) => match key.key_size() {
            2048 => Some(KeyType::Rsa2048),
            3072 => Some(KeyType::Rsa3072),
            4096 => Some(KeyType::Rsa4096),
            _ => None,
        },
        _ => None,
    }
}

fn usage(x509: &X509Certificate<'_>) -> Option<BTreeSet<Usage>> {
    let Ok(Some(extension)) = x509.extended_key_usage() else { return None };
    let said = extension.value;
    let all = [
        (said.client_auth, Usage::ClientAuth),
        (said.code_signing, Usage::CodeSigning),
        (said.email_protection, Usage::EmailProtection),
        (said.server_auth, Usage::ServerAuth),
    ];
    if said.any {
        return None;
    }
    Some(all.into_iter().filter_map(|(good, usage)| good.then_some(usage)).collect())
}

/// A certificate in a phrase for people: for whom, by whom, until when
///
/// Also for those that no CA would issue: what cannot be read is left out.
pub fn describe(der: &[u8]) -> External {
    let Ok(x509) = parse(der) else {
        return External::new("something that is no certificate");
    };
    let names = x509.subject_alternative_name().ok().flatten();
    let name = names.and_then(|names| names.value.general_names.iter().find_map(identifier));
    let subject = match name {
        Some(name) => name.to_string(),
        None => x509.subject().to_string(),
    };
    let issuer = x509.issuer();
    let until = Timestamp::from_seconds(x509.validity().not_after.timestamp());
    External::new(format!("a certificate for `{subject}` by `{issuer}`, good until {until}"))
}

/// What renewal information is asked by
///
/// <https://www.rfc-editor.org/rfc/rfc9773#section-4.1>
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AriId {
    /// The octets of the authority key identifier
    #[serde(with = "octets")]
    pub key_identifier: Vec<u8>,
    /// The octets of the serial number's DER value, a leading zero kept
    #[serde(with = "octets")]
    pub serial: Vec<u8>,
}

impl fmt::Display for AriId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        write!(f, "{}.{}", base64.encode(&self.key_identifier), base64.encode(&self.serial))
    }
}

/// Octets as base64 in JSON
mod octets {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(octets: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(octets))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(from)?;
        BASE64.decode(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}

/// Check that a chain is what was ordered: ours, for the names asked, linked, good now, no CA
///
/// `public_key` is the SubjectPublicKeyInfo of the key that the CSR was signed with.
///
/// # Errors
/// The first fault, in words for the operator.
pub fn check_issued(
    chain: &[CertificateDer<'_>],
    public_key: &[u8],
    ordered: &BTreeSet<Identifier>,
    now: Timestamp,
) -> Result<Leaf, CertError> {
    let leaf = leaf_of(chain)?;
    if leaf.public_key != public_key {
        return Err(CertError::ForeignKey);
    }
    if let Some(name) = foreign_names_of(chain)?.into_iter().next() {
        return Err(CertError::ForeignName(name.text));
    }
    if leaf.identifiers != *ordered {
        let list = |names: &BTreeSet<Identifier>| {
            names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        return Err(CertError::Names { got: list(&leaf.identifiers), asked: list(ordered) });
    }
    check_chain(chain, now)?;
    Ok(leaf)
}

/// Check that a chain can be used now: linked, each member good in its place, and not too long
///
/// # Errors
/// The first fault, in words for the operator.
pub fn check_chain(chain: &[CertificateDer<'_>], now: Timestamp) -> Result<(), CertError> {
    if chain.len() > MAX_CHAIN {
        return Err(CertError::TooManyMembers(chain.len()));
    }
    let members: Vec<_> = chain.iter().map(|der| parse(der)).collect::<Result<_, _>>()?;
    for (i, member) in members.iter().enumerate() {
        let from = Timestamp::from_seconds(member.validity().not_before.timestamp());
        let until = Timestamp::from_seconds(member.validity().not_after.timestamp());
        if from > now.after(SKEW) {
            return Err(CertError::NotYet { position: i + 1, from });
        }
        if until <= now {
            return Err(CertError::Expired { position: i + 1, until });
        }
        if member.is_ca() != (i > 0) {
            return Err(CertError::Role { position: i + 1 });
        }
    }
    for (i, pair) in members.windows(2).enumerate() {
        let [lower, upper] = pair else { continue };
        if !is_issued_by(lower, upper) {
            return Err(CertError::Unlinked { position: i + 1 });
        }
    }
    Ok(())
}

fn is_issued_by(lower: &X509Certificate<'_>, upper: &X509Certificate<'_>) -> bool {
    // What cannot be verified is left to the clients: another order would bring the same chain.
    lower.issuer().as_raw() == upper.subject().as_raw()
        && is_signed_by(lower, upper).unwrap_or_else(|| names_key_of(lower, upper))
}

/// Whether a signature is good; `None` where its kind, or that of the key, is none of TLS's
fn is_signed_by(lower: &X509Certificate<'_>, upper: &X509Certificate<'_>) -> Option<bool> {
    let upper = upper.public_key();
    if matches!(upper.parsed(), Ok(PublicKey::RSA(key)) if !RSA_BITS.contains(&key.key_size())) {
        return None;
    }
    let (kind, key_kind) = (octets_of(&lower.signature_algorithm)?, octets_of(&upper.algorithm)?);
    let for_key = |it: &Algorithm| *it.public_key_alg_id() == *key_kind;
    let for_signature = |it: &Algorithm| *it.signature_alg_id() == *kind;
    let known = webpki::ALL_VERIFICATION_ALGS;
    if !known.iter().any(for_key) || !known.iter().any(for_signature) {
        return None;
    }
    let (key, message) = (&upper.subject_public_key.data, lower.tbs_certificate.as_ref());
    let is_good =
        |it: &Algorithm| it.verify_signature(key, message, &lower.signature_value.data).is_ok();
    Some(known.iter().any(|it| for_key(it) && for_signature(it) && is_good(it)))
}

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

/// How many bits an RSA key may have for its signatures to be verified
const RSA_BITS: RangeInclusive<usize> = 2048..=8192;

/// An algorithm as webpki names it: its DER without the head of the sequence
fn octets_of(algorithm: &AlgorithmIdentifier<'_>) -> Option<Vec<u8>> {
    let mut octets = algorithm.algorithm.to_der_vec().ok()?;
    if let Some(parameters) = &algorithm.parameters {
        parameters.write_der(&mut octets).ok()?;
    }
    Some(octets)
}

/// Whether nothing that the one says of its issuer's key speaks against the other
fn names_key_of(lower: &X509Certificate<'_>, upper: &X509Certificate<'_>) -> bool {
    let named = authority_key_id(lower).zip(subject_key_id(upper));
    named.is_none_or(|(named, own)| named == own)
}

fn authority_key_id<'a>(x509: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    x509.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => Some(id.key_identifier.as_ref()?.0),
        _ => None,
    })
}

fn subject_key_id<'a>(x509: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    x509.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

/// The leaf of a chain
///
/// # Errors
/// When there is none, or it is broken.
pub fn leaf_of(chain: &[CertificateDer<'_>]) -> Result<Leaf, CertError> {
    Leaf::parse(chain.first().ok_or(PemError::NoCertificate)?)
}

/// Who vouches for the last member of a chain, which is its root unless members are missing
///
/// # Errors
/// When there is no member, or the last is broken.
pub fn root_of(chain: &[CertificateDer<'_>]) -> Result<External, CertError> {
    let last = parse(chain.last().ok_or(PemError::NoCertificate)?)?;
    Ok(External::new(last.issuer().to_string()))
}

/// Whether a chain, followed from its leaf, comes to one of these roots
///
/// What comes after that root is not looked at: a root that is new to the world is sent
/// cross-signed by an old one, which clients need not have.
pub fn leads_to(chain: &[CertificateDer<'_>], roots: &[CertificateDer<'_>]) -> bool {
    let members: Result<Vec<_>, _> = chain.iter().map(|der| parse(der)).collect();
    let Ok(members) = members else { return false };
    let roots: Vec<_> = roots.iter().filter_map(|root| parse(root).ok()).collect();
    let mut followed = members.iter().peekable();
    while let Some(member) = followed.next() {
        if roots.iter().any(|root| is_same(member, root) || is_issued_by(member, root)) {
            return true;
        }
        if !followed.peek().is_some_and(|next| is_issued_by(member, next)) {
            return false;
        }
    }
    false
}

/// Whether two certificates are for one subject with one key, whoever signed them
fn is_same(one: &X509Certificate<'_>, other: &X509Certificate<'_>) -> bool {
    one.subject().as_raw() == other.subject().as_raw()
        && one.public_key().raw == other.public_key().raw
}

/// The most certificates that a chain may have
const MAX_CHAIN: usize = 10;

/// How far a CA's clock may be ahead of ours
pub(crate) const SKEW: Duration = Duration::from_secs(3600);

/// What is wrong with a certificate or a chain
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CertError {
    /// A member has expired
    #[error("certificate {position} of the chain expired at {until}")]
    Expired {
        /// 1 for the leaf
        position: usize,
        /// When
        until: Timestamp,
    },
    /// Not our key
    #[error("the certificate is for another key than the one of the request")]
    ForeignKey,
    /// Other names than those ordered
    #[error("the certificate is for {got}, and {asked} was ordered")]
    Names {
        /// What it is for
        got: String,
        /// What was ordered
        asked: String,
    },
    /// A name that nobody can order
    #[error("the certificate has the name {0}, which was not ordered")]
    ForeignName(External),
    /// Not X.509
    #[error("not a certificate: {0}")]
    NotACertificate(String),
    /// A member is not good yet
    #[error("certificate {position} of the chain is not good before {from}")]
    NotYet {
        /// 1 for the leaf
        position: usize,
        /// When it begins
        from: Timestamp,
    },
    /// The PEM around it
    #[error("the chain {0}")]
    Pem(#[from] PemError),
    /// A leaf that is a CA, or an intermediate that is none
    #[error(
        "certificate {position} of the chain has the wrong role: the first is a leaf and the others are CAs"
    )]
    Role {
        /// 1 for the leaf
        position: usize,
    },
    /// Too many members
    #[error("the chain has {0} certificates; more than 10 are refused")]
    TooManyMembers(usize),
    /// A member is not signed by the next
    #[error("certificate {position} of the chain is not signed by the one after it")]
    Unlinked {
        /// 1 for the leaf
        position: usize,
    },
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair,
        PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA256,
        PKCS_ECDSA_P521_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256,
        PKCS_RSA_SHA512, SignatureAlgorithm,
    };

    use super::*;

    struct Issued {
        chain: Vec<CertificateDer<'static>>,
        key: KeyPair,
    }

    fn issue(names: &[&str], leaf_is_ca: bool, foreign_ca: bool) -> Issued {
        issue_by(&PKCS_ECDSA_P256_SHA256, names, leaf_is_ca, foreign_ca)
    }

    fn issue_by(
        kind: &'static SignatureAlgorithm,
        names: &[&str],
        leaf_is_ca: bool,
        foreign_ca: bool,
    ) -> Issued {
        let ca_key = KeyPair::generate_for(kind).unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_cert = ca.self_signed(&ca_key).unwrap();
        let signer = if foreign_ca { KeyPair::generate_for(kind).unwrap() } else { ca_key };
        let issuer = Issuer::new(ca, signer);
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut leaf = CertificateParams::new(names).unwrap();
        leaf.distinguished_name = DistinguishedName::new();
        leaf.use_authority_key_identifier_extension = true;
        if leaf_is_ca {
            leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().unwrap();
        let cert = leaf.signed_by(&key, &issuer).unwrap();
        Issued { chain: vec![cert.der().clone(), ca_cert.der().clone()], key }
    }

    fn ids(names: &[&str]) -> BTreeSet<Identifier> {
        names.iter().map(|name| Identifier::parse(name).unwrap()).collect()
    }

    fn now() -> Timestamp {
        "2026-11-23T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn the_ordered_chain_is_accepted_and_read() {
        use rcgen::PublicKeyData as _;
        let issued = issue(&["a.test", "192.0.2.1"], false, false);
        let spki = issued.key.subject_public_key_info();
        let leaf = check_issued(&issued.chain, &spki, &ids(&["192.0.2.1", "a.test"]), now());
        let leaf = leaf.unwrap();
        assert_eq!(leaf.key_type, Some(KeyType::EcdsaP256));
        assert!(leaf.ari_id.is_some() && !leaf.self_signed);
    }

    #[test]
    fn a_name_that_nobody_can_order_is_foreign_too() {
        use rcgen::SanType;
        let foreign = [
            SanType::DnsName("b_c.other.test".try_into().unwrap()),
            SanType::Rfc822Name("root@a.test".try_into().unwrap()),
            SanType::URI("https://a.test/".try_into().unwrap()),
        ];
        for name in foreign {
            let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
            params.subject_alt_names.push(name);
            let leaf = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let spki = Leaf::parse(leaf.der()).unwrap().public_key;
            let refused = check_issued(&[leaf.der().clone()], &spki, &ids(&["a.test"]), now());
            assert!(matches!(refused, Err(CertError::ForeignName(_))), "{refused:?}");
        }
    }

    #[test]
    fn a_chain_that_is_not_the_ordered_one_is_refused() {
        use rcgen::PublicKeyData as _;
        let check = |issued: &Issued, names: &[&str], now| {
            let spki = issued.key.subject_public_key_info();
            check_issued(&issued.chain, &spki, &ids(names), now).unwrap_err()
        };
        let good = issue(&["a.test"], false, false);
        assert!(matches!(check(&good, &["b.test"], now()), CertError::Names { .. }));
        let late = Timestamp::from_seconds(1 << 40);
        assert!(matches!(check(&good, &["a.test"], late), CertError::Expired { .. }));
        let early = Timestamp::from_seconds(0);
        assert!(matches!(check(&good, &["a.test"], early), CertError::NotYet { .. }));
        let other = issue(&["a.test"], false, false);
        let mixed = Issued { chain: good.chain.clone(), key: other.key };
        assert_eq!(check(&mixed, &["a.test"], now()), CertError::ForeignKey);
        let ca = issue(&["a.test"], true, false);
        assert!(matches!(check(&ca, &["a.test"], now()), CertError::Role { position: 1 }));
        let forged = issue(&["a.test"], false, true);
        assert!(matches!(check(&forged, &["a.test"], now()), CertError::Unlinked { position: 1 }));
        let long = Issued { chain: vec![good.chain[0].clone(); 11], key: good.key };
        assert!(matches!(check(&long, &["a.test"], now()), CertError::TooManyMembers(11)));
    }

    #[test]
    fn a_chain_is_followed_whatever_kind_of_key_its_ca_has() {
        for kind in [
            &PKCS_ECDSA_P256_SHA256,
            &PKCS_ECDSA_P384_SHA384,
            &PKCS_ECDSA_P521_SHA256,
            &PKCS_ECDSA_P521_SHA384,
            &PKCS_ECDSA_P521_SHA512,
            &PKCS_ED25519,
            &PKCS_RSA_SHA256,
            &PKCS_RSA_SHA512,
        ] {
            let good = issue_by(kind, &["a.test"], false, false);
            assert_eq!(check_chain(&good.chain, now()), Ok(()), "{kind:?}");
            let mut forged = good.chain[0].to_vec();
            *forged.last_mut().unwrap() ^= 1;
            let refused = check_chain(&[forged.into(), good.chain[1].clone()], now());
            assert_eq!(refused, Err(CertError::Unlinked { position: 1 }), "{kind:?}");
            let root = leaf_of(&good.chain[1..]).unwrap();
            assert!(root.self_signed && !leaf_of(&good.chain).unwrap().self_signed, "{kind:?}");
        }
    }

    #[test]
    fn a_signature_of_an_unknown_kind_leaves_names_and_key_identifiers_to_tell() {
        let one = issue(&["a.test"], false, false);
        let other = issue(&["a.test"], false, false);
        // ecdsa-with-SHA256 becomes ecdsa-with-SHA224, which nothing in the tree knows.
        let mut leaf = one.chain[0].to_vec();
        let oid = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
        for at in (7..leaf.len()).filter(|at| one.chain[0][at - 7..*at] == oid) {
            leaf[at] = 1;
        }
        let under = |ca: &Issued| vec![leaf.clone().into(), ca.chain[1].clone()];
        assert_eq!(check_chain(&under(&one), now()), Ok(()));
        let refused = check_chain(&under(&other), now());
        assert_eq!(
            refused,
            Err(CertError::Unlinked { position: 1 }),
            "a key of another identifier"
        );
        assert!(!Leaf::parse(&leaf).unwrap().self_signed);
    }

    #[test]
    fn any_certificate_can_be_described() {
        let key = KeyPair::generate().unwrap();
        let mut named = CertificateParams::new(vec!["b.test".into(), "a.test".into()]).unwrap();
        named.not_after = time::OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let mut nameless = CertificateParams::new(Vec::new()).unwrap();
        nameless.not_after = named.not_after;
        let describe = |params: CertificateParams| {
            describe(params.self_signed(&key).unwrap().der()).to_string()
        };
        let rest = "by `CN=rcgen self signed cert`, good until 2027-01-15T08:00:00Z";
        assert_eq!(describe(named), format!("a certificate for `b.test` {rest}"));
        let expected = format!("a certificate for `CN=rcgen self signed cert` {rest}");
        assert_eq!(describe(nameless), expected);
        assert_eq!(super::describe(b"0").as_str(), "something that is no certificate");
    }

    #[test]
    fn the_ari_id_is_the_one_of_the_rfc() {
        // RFC 9773 section 4.1, with the serial's leading zero.
        let id = AriId {
            key_identifier: vec![
                0x69, 0x88, 0x5B, 0x6B, 0x87, 0x46, 0x40, 0x41, 0xE1, 0xB3, 0x7B, 0x84, 0x7B, 0xA0,
                0xAE, 0x2C, 0xDE, 0x01, 0xC8, 0xD4,
            ],
            serial: vec![0x00, 0x87, 0x65, 0x43, 0x21],
        };
        assert_eq!(id.to_string(), "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
    }
}
