//! PEM in and out, on rustls-pki-types.
//!
//! <https://www.rfc-editor.org/rfc/rfc7468>

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// The most bytes of PEM that are looked at
pub const LIMIT: usize = 1 << 20;

/// The certificates of a PEM text, in its order; other sections are passed over
///
/// # Errors
/// When the text is too long, is not PEM, or holds no certificate.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    if text.len() > LIMIT {
        return Err(PemError::TooLong);
    }
    let certificates: Vec<_> = readable(text)
        .into_iter()
        .flat_map(CertificateDer::pem_slice_iter)
        .collect::<Result<_, _>>()
        .map_err(|error| PemError::Malformed(error.to_string()))?;
    if certificates.is_empty() { Err(PemError::NoCertificate) } else { Ok(certificates) }
}

/// The first private key of a PEM text
///
/// # Errors
/// When the text is too long, is not PEM, holds no key, or holds an encrypted one.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    if text.len() > LIMIT {
        return Err(PemError::TooLong);
    }
    let parts = readable(text);
    let mut keys = parts.iter().flat_map(|part| PrivateKeyDer::pem_slice_iter(part));
    match keys.next() {
        Some(Ok(key)) => Ok(key),
        Some(Err(error)) => Err(PemError::Malformed(error.to_string())),
        None if parts.len() > 1 => Err(PemError::OldEncryptedKey),
        None if is_encrypted(text) => Err(PemError::EncryptedKey),
        None => Err(PemError::NoKey),
    }
}

/// The parts of a text around its keys in the old encrypted form, one more than there are of those
///
/// Their headers are no base64, for which the whole text would be refused.
///
/// <https://www.rfc-editor.org/rfc/rfc1421#section-4.6.1.1>
fn readable(text: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut rest, mut at) = (Vec::new(), 0, 0);
    let (mut begun, mut is_old) = (0, false);
    for line in text.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
        if line.starts_with(b"-----BEGIN ") {
            (begun, is_old) = (at, false);
        }
        is_old |= line.starts_with(b"Proc-Type: 4,ENCRYPTED");
        at += line.len();
        if is_old && line.starts_with(b"-----END ") {
            parts.extend(text.get(rest..begun));
            (rest, is_old) = (at, false);
        }
    }
    parts.extend(text.get(rest..));
    parts
}

fn is_encrypted(text: &[u8]) -> bool {
    let mark = b"ENCRYPTED PRIVATE KEY";
    text.windows(mark.len()).any(|window| window == mark)
}

/// One section of PEM, its lines 64 characters long and ended by a line feed
pub fn encode(kind: Kind, der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let label = kind.label();
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// What a section of PEM holds
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A certificate
    Certificate,
    /// A private key of an elliptic curve in SEC1
    EcPrivateKey,
    /// A private key in PKCS#8, encrypted
    EncryptedPrivateKey,
    /// A private key in PKCS#8
    PrivateKey,
    /// A private key in PKCS#1
    RsaPrivateKey,
}

impl Kind {
    const fn label(self) -> &'static str {
        match self {
            Self::Certificate => "CERTIFICATE",
            Self::EcPrivateKey => "EC PRIVATE KEY",
            Self::EncryptedPrivateKey => "ENCRYPTED PRIVATE KEY",
            Self::PrivateKey => "PRIVATE KEY",
            Self::RsaPrivateKey => "RSA PRIVATE KEY",
        }
    }
}

/// Why a text is not the PEM that was wanted
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PemError {
    /// The key is encrypted
    #[error(
        "holds an encrypted private key, which certkeep cannot read; `openssl pkey -in` decrypts it"
    )]
    EncryptedKey,
    /// Not PEM
    #[error("is not PEM: {0}")]
    Malformed(String),
    /// No certificate
    #[error("holds no certificate")]
    NoCertificate,
    /// No key
    #[error("holds no private key")]
    NoKey,
    /// The key is encrypted as before PKCS#8
    #[error(
        "holds a private key that is encrypted in its old form (`Proc-Type: 4,ENCRYPTED`), which \
         certkeep cannot read; `openssl pkey -in` decrypts it"
    )]
    OldEncryptedKey,
    /// More than [`LIMIT`]
    #[error("is longer than 1 MiB")]
    TooLong,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_can_be_read_again() {
        for length in [1_usize, 48, 49, 1000] {
            let der = vec![7; length];
            let text = encode(Kind::Certificate, &der);
            assert!(text.lines().all(|line| line.len() <= 64));
            assert_eq!(certificates(text.as_bytes()).unwrap(), [CertificateDer::from(der)]);
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(certificates(b"hello"), Err(PemError::NoCertificate));
        assert_eq!(private_key(b""), Err(PemError::NoKey));
        let encrypted =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert_eq!(private_key(encrypted.as_bytes()), Err(PemError::EncryptedKey));
        assert_eq!(certificates(&vec![b'a'; LIMIT + 1]), Err(PemError::TooLong));
        let broken = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        assert!(matches!(certificates(broken.as_bytes()), Err(PemError::Malformed(_))));
    }

    #[test]
    fn a_key_encrypted_in_the_old_form_is_named_and_hides_nothing_beside_it() {
        let section = |name: &str, body: &str| {
            format!("-----BEGIN {name}-----\n{body}\n-----END {name}-----\n")
        };
        let headers =
            "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00112233445566778899AABBCCDDEEFF";
        let old = section("RSA PRIVATE KEY", &format!("{headers}\n\nAAAA"));
        let (one, two) = (section("CERTIFICATE", "AAAA"), section("CERTIFICATE", "BBBB"));
        let plain = section("PRIVATE KEY", "AAAA");
        let file = format!("{one}{old}{two}").replace('\n', "\r\n");
        assert_eq!(certificates(file.as_bytes()).map(|all| all.len()), Ok(2));
        let error = private_key(file.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("encrypted in its old form"), "{error}");
        assert!(error.contains("openssl pkey -in"), "{error}");
        assert!(private_key((old.clone() + &plain).as_bytes()).is_ok());
        let cut_off = old.replace("-----END", "");
        assert!(matches!(certificates(cut_off.as_bytes()), Err(PemError::Malformed(_))));
    }
}
