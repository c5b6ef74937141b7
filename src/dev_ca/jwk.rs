//! Account keys.
//!
//! <https://www.rfc-editor.org/rfc/rfc7517>, <https://www.rfc-editor.org/rfc/rfc7518#section-6>

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::jws::Algorithm;
use super::problem::{Problem, ProblemType};

/// A key that signs requests
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AccountKey {
    /// P-256: the uncompressed point
    P256(Vec<u8>),
    /// P-384: the uncompressed point
    P384(Vec<u8>),
    /// RSA: modulus and exponent, big-endian, without leading zeros
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

impl AccountKey {
    pub(super) fn from_jwk(jwk: &RawJwk) -> Result<Self, Problem> {
        let bad = |detail: &str| Problem::new(ProblemType::BadPublicKey, detail);
        let bytes = |member: &Option<String>, name: &str| {
            let text = member.as_ref().ok_or_else(|| bad(&format!("the JWK has no `{name}`")))?;
            let decoded = URL_SAFE_NO_PAD.decode(text);
            decoded.map_err(|_| bad(&format!("`{name}` of the JWK is not base64url")))
        };
        match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("EC", Some(curve @ ("P-256" | "P-384"))) => {
                let (x, y) = (bytes(&jwk.x, "x")?, bytes(&jwk.y, "y")?);
                let size = if curve == "P-256" { 32 } else { 48 };
                if x.len() != size || y.len() != size {
                    return Err(bad("the coordinates of the JWK have the wrong length"));
                }
                let point = [&[4][..], &x, &y].concat();
                Ok(if size == 32 { Self::P256(point) } else { Self::P384(point) })
            }
            ("RSA", _) => {
                let (n, e) = (bytes(&jwk.n, "n")?, bytes(&jwk.e, "e")?);
                if n.first().is_none_or(|b| *b == 0) || e.first().is_none_or(|b| *b == 0) {
                    return Err(bad("`n` or `e` of the JWK has a leading zero, or is empty"));
                }
                let spare = n.first().map_or(0, |b| b.leading_zeros() as usize);
                if !(2048..=8192).contains(&(n.len() * 8 - spare)) {
                    return Err(bad("an RSA key has 2048 to 8192 bits"));
                }
                Ok(Self::Rsa { n, e })
            }
            _ => Err(bad("account keys are P-256, P-384 or RSA")),
        }
    }

    /// <https://www.rfc-editor.org/rfc/rfc7638>
    pub(super) fn thumbprint(&self) -> String {
        let base64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let ec = |curve: &str, point: &[u8]| {
            let (x, y) = point[1..].split_at(point.len() / 2);
            format!(r#"{{"crv":"{curve}","kty":"EC","x":"{}","y":"{}"}}"#, base64(x), base64(y))
        };
        let canonical = match self {
            Self::P256(point) => ec("P-256", point),
            Self::P384(point) => ec("P-384", point),
            Self::Rsa { n, e } => {
                format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, base64(e), base64(n))
            }
        };
        base64(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref())
    }

    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Problem> {
        let verified = match (self, algorithm) {
            (Self::P256(point), Algorithm::Es256) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Self::P384(point), Algorithm::Es384) => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            (Self::Rsa { n, e }, Algorithm::Rs256) => RsaPublicKeyComponents { n, e }.verify(
                &signature::RSA_PKCS1_2048_8192_SHA256,
                message,
                signature,
            ),
            _ => return Err(Problem::malformed("`alg` does not go with the key")),
        };
        verified.map_err(|_| Problem::malformed("the signature is not the key's"))
    }

    /// Whether this is the key of a certificate or a CSR
    pub(super) fn is_key_of(&self, spki: &SubjectPublicKeyInfo<'_>) -> bool {
        use x509_parser::public_key::PublicKey;
        match (self, spki.parsed()) {
            (Self::P256(point) | Self::P384(point), Ok(PublicKey::EC(theirs))) => {
                theirs.data() == point
            }
            (Self::Rsa { n, e }, Ok(PublicKey::RSA(theirs))) => {
                strip(theirs.modulus) == n && strip(theirs.exponent) == e
            }
            _ => false,
        }
    }
}

/// DER keeps a zero before a high bit, a JWK does not
fn strip(integer: &[u8]) -> &[u8] {
    let zeros = integer.iter().take_while(|b| **b == 0).count();
    integer.get(zeros..).unwrap_or_default()
}

/// The members of a JWK that keys are made of; others are passed over
#[derive(Debug, Deserialize)]
pub(super) struct RawJwk {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<AccountKey, Problem> {
        AccountKey::from_jwk(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn the_thumbprint_is_the_one_of_rfc_7638() {
        let json = r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}"#;
        let expected = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";
        assert_eq!(read(json).unwrap().thumbprint(), expected);
    }

    #[test]
    fn a_jwk_that_is_no_good_key_is_refused() {
        let short = URL_SAFE_NO_PAD.encode([0xff; 128]);
        let cases = [
            r#"{"kty":"oct","k":"AAAA"}"#.to_owned(),
            r#"{"kty":"OKP","crv":"Ed25519","x":"AAAA"}"#.to_owned(),
            r#"{"kty":"EC","crv":"P-521","x":"AAAA","y":"AAAA"}"#.to_owned(),
            r#"{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}"#.to_owned(),
            r#"{"kty":"EC","crv":"P-256","x":"AAAA"}"#.to_owned(),
            r#"{"kty":"EC","crv":"P-256","x":"!","y":"AAAA"}"#.to_owned(),
            r#"{"kty":"RSA","n":"","e":""}"#.to_owned(),
            format!(r#"{{"kty":"RSA","n":"{short}","e":"AQAB"}}"#),
        ];
        for json in cases {
            let problem = read(&json).unwrap_err();
            assert_eq!(problem.kind(), ProblemType::BadPublicKey, "{json}");
        }
    }
}
