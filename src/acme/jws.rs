//! Signatures for the two requests that instant-acme cannot make with a key that is on disk.
//!
//! It makes the key of a new account, and of a rollover, itself and hands it out afterwards, so
//! that a crash in between loses the account. The agent writes the key down first.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555#section-6.2>

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};

use crate::pem;
use crate::secret::Secret;

/// The key of an account, P-256
pub(super) struct AccountKey {
    pair: EcdsaKeyPair,
    pkcs8: Secret<Vec<u8>>,
}

impl AccountKey {
    /// A fresh key as PKCS#8 PEM
    pub(super) fn generate() -> Option<Secret<String>> {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).ok()?;
        Some(Secret::new(pem::encode(pem::Kind::PrivateKey, pkcs8.as_ref())))
    }

    /// Read a key as [`AccountKey::generate`] wrote it
    pub(super) fn parse(text: &Secret<String>) -> Option<Self> {
        let PrivateKeyDer::Pkcs8(der) = pem::private_key(text.expose().as_bytes()).ok()? else {
            return None;
        };
        let pkcs8 = Secret::new(der.secret_pkcs8_der().to_vec());
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.expose());
        Some(Self { pair: pair.ok()?, pkcs8 })
    }

    /// The key as instant-acme takes it
    pub(super) fn to_base64(&self) -> Secret<String> {
        Secret::new(URL_SAFE_NO_PAD.encode(self.pkcs8.expose()))
    }

    /// The public half
    ///
    /// <https://www.rfc-editor.org/rfc/rfc7517>
    pub(super) fn jwk(&self) -> Value {
        // An uncompressed point: the octet 4, then x and y of 32 octets each.
        let point = self.pair.public_key().as_ref();
        let half = |from, to| URL_SAFE_NO_PAD.encode(point.get(from..to).unwrap_or_default());
        json!({ "crv": "P-256", "kty": "EC", "x": half(1, 33), "y": half(33, 65) })
    }

    /// Sign a payload; `header` has what is particular to the request
    pub(super) fn sign(&self, mut header: Value, payload: &Value) -> Option<Value> {
        header["alg"] = json!("ES256");
        let (protected, payload) = (encode(&header), encode(payload));
        let input = format!("{protected}.{payload}");
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).ok()?;
        let signature = URL_SAFE_NO_PAD.encode(signature);
        Some(json!({ "protected": protected, "payload": payload, "signature": signature }))
    }

    /// Say that the account of the key that the CA gave out is this key's
    ///
    /// <https://www.rfc-editor.org/rfc/rfc8555#section-7.3.4>
    pub(super) fn bind(&self, key_id: &str, hmac_key: &Secret<Vec<u8>>, url: &str) -> Value {
        let protected = encode(&json!({ "alg": "HS256", "kid": key_id, "url": url }));
        let payload = encode(&self.jwk());
        let key = hmac::Key::new(hmac::HMAC_SHA256, hmac_key.expose());
        let tag = hmac::sign(&key, format!("{protected}.{payload}").as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(tag);
        json!({ "protected": protected, "payload": payload, "signature": signature })
    }
}

fn encode(document: &Value) -> String {
    URL_SAFE_NO_PAD.encode(document.to_string())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_signature_verifies_under_the_jwk_in_its_header() {
        let text = AccountKey::generate().unwrap();
        let key = AccountKey::parse(&text).unwrap();
        let signed =
            key.sign(json!({ "jwk": key.jwk(), "nonce": "n" }), &json!({ "a": 1 })).unwrap();
        let part = |name: &str| signed[name].as_str().unwrap().to_owned();
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let header: Value = serde_json::from_slice(&decode(&part("protected"))).unwrap();
        assert_eq!((&header["alg"], &header["nonce"]), (&json!("ES256"), &json!("n")));
        let mut point = vec![4];
        point.extend(decode(header["jwk"]["x"].as_str().unwrap()));
        point.extend(decode(header["jwk"]["y"].as_str().unwrap()));
        let input = format!("{}.{}", part("protected"), part("payload"));
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(input.as_bytes(), &decode(&part("signature")))
            .unwrap();
    }

    #[test]
    fn a_key_of_another_kind_is_no_account_key() {
        assert!(AccountKey::parse(&Secret::new(String::new())).is_none());
        let p384 = crate::acme::key::generate(crate::config::KeyType::EcdsaP384).unwrap();
        assert!(AccountKey::parse(&p384).is_none());
    }
}
