//! The CA's own keys and certificates, and signing with them.
//!
//! <https://www.rfc-editor.org/rfc/rfc5280>

use std::net::{Ipv4Addr, Ipv6Addr};

use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use rustls_pki_types::CertificateDer;
use time::{Date, Month, OffsetDateTime};

use crate::name::Identifier;
use crate::pem::{self, Kind};
use crate::time::Timestamp;

use super::fault::Flaw;

/// A root, the intermediates below it, and the keys of all
#[derive(Debug)]
pub(super) struct Hierarchy {
    pub(super) root_pem: String,
    root: Issuer<'static, KeyPair>,
    /// The intermediate that signs leaves, and what its certificate was made of
    issuing: Issuer<'static, KeyPair>,
    issuing_params: CertificateParams,
    /// Who signed the issuing intermediate, when it is not the root
    above: Option<Issuer<'static, KeyPair>>,
    /// The certificates of the intermediates, the issuing one first
    intermediates: Vec<CertificateDer<'static>>,
}

impl Hierarchy {
    pub(super) fn new(intermediates: u8) -> Result<Self, rcgen::Error> {
        let root_key = KeyPair::generate()?;
        let root_params = authority("certkeep dev root")?;
        let root_pem = pem::encode(Kind::Certificate, root_params.self_signed(&root_key)?.der());
        let root = Issuer::new(root_params, root_key);

        let mut chain = Vec::new();
        let mut above = None;
        let (mut params, mut key) =
            (authority("certkeep dev intermediate 1")?, KeyPair::generate()?);
        chain.push(params.signed_by(&key, &root)?.der().clone());
        for level in 2..=intermediates {
            let signer = Issuer::new(params, key);
            (params, key) =
                (authority(&format!("certkeep dev intermediate {level}"))?, KeyPair::generate()?);
            chain.insert(0, params.signed_by(&key, &signer)?.der().clone());
            above = Some(signer);
        }
        let issuing = Issuer::new(params.clone(), key);
        Ok(Self { root_pem, root, issuing, issuing_params: params, above, intermediates: chain })
    }

    /// What the CA proves itself with over https
    pub(super) fn server_identity(
        &self,
    ) -> Result<(CertificateDer<'static>, KeyPair), rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = leaf(Vec::new());
        params.subject_alt_names = vec![
            SanType::DnsName("localhost".try_into()?),
            SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
            SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
        ];
        (params.not_before, params.not_after) = always();
        params.serial_number = Some(serial()?);
        let certificate = params.signed_by(&key, &self.root)?;
        Ok((certificate.der().clone(), key))
    }

    /// Sign what was asked for, or what the flaw makes of it; the leaf comes first
    pub(super) fn issue(
        &self,
        subject: &Subject,
        flaw: Option<&Flaw>,
    ) -> Result<Vec<CertificateDer<'static>>, rcgen::Error> {
        let mut names = subject.identifiers.iter().map(san).collect::<Result<Vec<_>, _>>()?;
        match flaw {
            Some(Flaw::OtherName(other)) => names = vec![san(other)?],
            Some(Flaw::ExtraName(extra)) => names.push(san(extra)?),
            _ => {}
        }
        let mut params = leaf(names);
        let late = if flaw == Some(&Flaw::ExpiredLeaf) {
            subject.not_after.since(subject.not_before) + std::time::Duration::from_secs(60)
        } else {
            std::time::Duration::ZERO
        };
        params.not_before = date(subject.not_before.before(late))?;
        params.not_after = date(subject.not_after.before(late))?;
        params.serial_number = Some(serial()?);
        if flaw == Some(&Flaw::LeafIsCa) {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        }
        let certificate = match flaw {
            Some(Flaw::ForeignKey) => params.signed_by(&KeyPair::generate()?, &self.issuing)?,
            _ => params.signed_by(&subject.key, &self.issuing)?,
        };
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.intermediates.iter().cloned());
        match flaw {
            Some(Flaw::NoIntermediate) => chain.truncate(1),
            Some(Flaw::ExpiredIntermediate) => {
                let mut params = self.issuing_params.clone();
                params.not_after = midnight(2021);
                replace_issuing(&mut chain, self.sign_intermediate(&params, self.issuing.key())?);
            }
            Some(Flaw::ForeignIntermediate) => {
                let key = KeyPair::generate()?;
                replace_issuing(&mut chain, self.sign_intermediate(&self.issuing_params, &key)?);
            }
            _ => {}
        }
        Ok(chain)
    }

    fn sign_intermediate(
        &self,
        params: &CertificateParams,
        key: &KeyPair,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        let signed = params.signed_by(key, self.above.as_ref().unwrap_or(&self.root))?;
        Ok(signed.der().clone())
    }
}

fn replace_issuing(chain: &mut [CertificateDer<'static>], other: CertificateDer<'static>) {
    if let Some(slot) = chain.get_mut(1) {
        *slot = other;
    }
}

/// What a certificate is to be for
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) key: SubjectKey,
    pub(super) identifiers: Vec<Identifier>,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

/// The public key of a CSR
#[derive(Debug)]
pub(super) struct SubjectKey {
    /// The bits of the SubjectPublicKeyInfo
    pub(super) bits: Vec<u8>,
    pub(super) algorithm: &'static SignatureAlgorithm,
}

impl PublicKeyData for SubjectKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

fn authority(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial()?);
    (params.not_before, params.not_after) = always();
    Ok(params)
}

fn leaf(names: Vec<SanType>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

fn san(identifier: &Identifier) -> Result<SanType, rcgen::Error> {
    Ok(match identifier {
        Identifier::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
        Identifier::Ip(address) => SanType::IpAddress(*address),
    })
}

/// Sixteen random bytes; half of them need a leading zero in DER, as a CA's may
fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[0] |= 1;
    Ok(SerialNumber::from_slice(&bytes))
}

fn date(moment: Timestamp) -> Result<OffsetDateTime, rcgen::Error> {
    OffsetDateTime::from_unix_timestamp(moment.as_seconds()).map_err(|_| rcgen::Error::Time)
}

/// Dates that hold by the real clock and by the clocks of tests
fn always() -> (OffsetDateTime, OffsetDateTime) {
    (midnight(2020), midnight(2100))
}

fn midnight(year: i32) -> OffsetDateTime {
    let date = Date::from_calendar_date(year, Month::January, 1).unwrap_or(Date::MIN);
    date.midnight().assume_utc()
}
