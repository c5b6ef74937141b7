//! A private key in each form that a server may want.

use aws_lc_rs::error::Unspecified;
use rustls_pki_types::PrivateKeyDer;
use yasna::{ASN1Result, DERWriter, Tag};
use zeroize::Zeroizing;

use super::pbes2::{Salt, oid};
use crate::config::KeyType;
use crate::pem::Kind;
use crate::secret::Secret;

/// A private key's DER, wiped when dropped
pub(super) type Der = Zeroizing<Vec<u8>>;

/// The key in PKCS#8
///
/// <https://www.rfc-editor.org/rfc/rfc5958#section-2>
pub(super) fn pkcs8(key: &PrivateKeyDer<'_>, kind: KeyType) -> Der {
    let inner = match key {
        PrivateKeyDer::Sec1(key) => key.secret_sec1_der(),
        PrivateKeyDer::Pkcs1(key) => key.secret_pkcs1_der(),
        key => return Zeroizing::new(key.secret_der().to_vec()),
    };
    Zeroizing::new(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(0);
            writer.next().write_sequence(|writer| match curve(kind) {
                Some(curve) => {
                    writer.next().write_oid(&oid(EC_PUBLIC_KEY));
                    writer.next().write_oid(&oid(curve));
                }
                None => {
                    writer.next().write_oid(&oid(RSA_ENCRYPTION));
                    writer.next().write_null();
                }
            });
            writer.next().write_bytes(inner);
        });
    }))
}

/// The key in SEC1 or PKCS#1, as it was before there was PKCS#8
pub(super) fn traditional(key: &PrivateKeyDer<'_>, kind: KeyType) -> ASN1Result<(Kind, Der)> {
    let inner = match key {
        PrivateKeyDer::Pkcs8(key) => within_pkcs8(key.secret_pkcs8_der())?,
        key => Zeroizing::new(key.secret_der().to_vec()),
    };
    match curve(kind) {
        Some(curve) => Ok((Kind::EcPrivateKey, with_curve(&inner, curve)?)),
        None => Ok((Kind::RsaPrivateKey, inner)),
    }
}

/// The key in PKCS#8, encrypted
///
/// <https://www.rfc-editor.org/rfc/rfc5958#section-3>
pub(super) fn encrypted(
    pkcs8: &[u8],
    password: &Secret<String>,
    salt: &Salt,
) -> Result<Vec<u8>, Unspecified> {
    let text = salt.encrypt(pkcs8, password)?;
    Ok(yasna::construct_der(|writer| write_encrypted(writer, &text, salt)))
}

fn write_encrypted(writer: DERWriter<'_>, text: &[u8], salt: &Salt) {
    writer.write_sequence(|writer| {
        salt.write_algorithm(writer.next());
        writer.next().write_bytes(text);
    });
}

fn within_pkcs8(der: &[u8]) -> ASN1Result<Der> {
    yasna::parse_der(der, |reader| {
        reader.read_sequence(|reader| {
            reader.next().read_u8()?;
            reader.next().read_der()?;
            let inner = Zeroizing::new(reader.next().read_bytes()?);
            for _ in 0..2 {
                // Attributes, and the public key.
                reader.read_optional(|reader| reader.read_tagged_der())?;
            }
            Ok(inner)
        })
    })
}

/// A SEC1 key that says itself of which curve it is, as one within PKCS#8 need not
///
/// <https://www.rfc-editor.org/rfc/rfc5915#section-3>
fn with_curve(der: &[u8], curve: &[u64]) -> ASN1Result<Der> {
    let (key, public) = yasna::parse_der(der, |reader| {
        reader.read_sequence(|reader| {
            reader.next().read_u8()?;
            let key = Zeroizing::new(reader.next().read_bytes()?);
            reader.read_optional(|reader| reader.read_tagged(Tag::context(0), |r| r.read_der()))?;
            let public = reader
                .read_optional(|reader| reader.read_tagged(Tag::context(1), |r| r.read_der()))?;
            Ok((key, public))
        })
    })?;
    Ok(Zeroizing::new(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(1);
            writer.next().write_bytes(&key);
            writer.next().write_tagged(Tag::context(0), |w| w.write_oid(&oid(curve)));
            if let Some(public) = &public {
                writer.next().write_tagged(Tag::context(1), |w| w.write_der(public));
            }
        });
    })))
}

const fn curve(kind: KeyType) -> Option<&'static [u64]> {
    match kind {
        KeyType::EcdsaP256 => Some(P256),
        KeyType::EcdsaP384 => Some(P384),
        KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => None,
    }
}

const EC_PUBLIC_KEY: &[u64] = &[1, 2, 840, 10_045, 2, 1];
const P256: &[u64] = &[1, 2, 840, 10_045, 3, 1, 7];
const P384: &[u64] = &[1, 3, 132, 0, 34];
const RSA_ENCRYPTION: &[u64] = &[1, 2, 840, 113_549, 1, 1, 1];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pem;

    /// Every kind of key that certkeep makes
    fn keys() -> impl Iterator<Item = (KeyType, PrivateKeyDer<'static>)> {
        [
            (KeyType::EcdsaP256, &rcgen::PKCS_ECDSA_P256_SHA256),
            (KeyType::EcdsaP384, &rcgen::PKCS_ECDSA_P384_SHA384),
            (KeyType::Rsa2048, &rcgen::PKCS_RSA_SHA256),
        ]
        .into_iter()
        .map(|(kind, algorithm)| {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            (kind, pem::private_key(key.serialize_pem().as_bytes()).unwrap())
        })
    }

    #[test]
    fn a_key_survives_the_way_to_its_old_form_and_back() {
        for (kind, key) in keys() {
            let (label, old) = traditional(&key, kind).unwrap();
            let text = pem::encode(label, &old);
            let read = pem::private_key(text.as_bytes()).unwrap();
            assert!(!matches!(read, PrivateKeyDer::Pkcs8(_)), "{kind}");
            assert_eq!(*traditional(&read, kind).unwrap().1, *old, "{kind}");
            let back = PrivateKeyDer::Pkcs8(pkcs8(&read, kind).to_vec().into());
            let public = |key: &PrivateKeyDer<'_>| {
                rcgen::KeyPair::try_from(key).unwrap().public_key_raw().to_vec()
            };
            assert_eq!(public(&back), public(&key), "{kind}");
            assert_eq!(public(&read), public(&key), "{kind}");
            assert_eq!(*pkcs8(&key, kind), key.secret_der(), "{kind}");
        }
    }

    #[test]
    fn junk_is_no_key() {
        for junk in [&b""[..], b"\x30\x00", b"\x30\x03\x02\x01\x00", &[0x30; 40]] {
            let key = PrivateKeyDer::Pkcs8(junk.to_vec().into());
            assert!(traditional(&key, KeyType::Rsa2048).is_err());
            let key = PrivateKeyDer::Sec1(junk.to_vec().into());
            assert!(traditional(&key, KeyType::EcdsaP256).is_err());
        }
    }
}
