//! Encryption by a password: PBES2 with PBKDF2-HMAC-SHA256 and AES-256-CBC.
//!
//! <https://www.rfc-editor.org/rfc/rfc8018#section-6.2>

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{AES_256, EncryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{hmac, pbkdf2};
use yasna::DERWriter;
use yasna::models::ObjectIdentifier;
use zeroize::Zeroizing;

use crate::cert::Fingerprint;
use crate::secret::Secret;

/// What the salts and initialization vectors of one file are drawn from
///
/// A salt has to differ wherever password or plaintext do, and nobody may know it beforehand. A
/// random one would do, but then no file could be made again to be compared with the one that is
/// there. This one is an HMAC under the private key itself: a pseudorandom function of the password
/// and of what is encrypted, for all who do not hold the key, and who holds it needs no password.
/// The same salt comes again only with the same plaintext, which gives the same file and so tells
/// nothing new.
pub(super) struct Seed(hmac::Tag);

impl Seed {
    /// A seed for what `recipe` says in full, encrypted with this password
    pub(super) fn new(key: &Secret<String>, password: &Secret<String>, recipe: &[&[u8]]) -> Self {
        let mut context =
            hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes()));
        let password = Fingerprint::of(password.expose().as_bytes());
        // Each with its length before it, so that no two recipes are one.
        for part in [password.0.as_slice()].iter().chain(recipe) {
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        }
        Self(context.sign())
    }

    /// What tells this seed apart from any other and does not give it away
    pub(super) fn mark(&self) -> Fingerprint {
        Fingerprint(self.draw("mark"))
    }

    /// 32 bytes for one use
    pub(super) fn draw(&self, usage: &str) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_ref());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hmac::sign(&key, usage.as_bytes()).as_ref());
        bytes
    }

    /// The salt and initialization vector of one encryption
    pub(super) fn salt(&self, usage: &str) -> Salt {
        let (mut salt, mut iv) = ([0; 16], [0; 16]);
        let drawn = self.draw(usage);
        salt.copy_from_slice(&drawn[..16]);
        iv.copy_from_slice(&drawn[16..]);
        Salt { salt, iv }
    }
}

/// What one encryption is salted with
pub(super) struct Salt {
    salt: [u8; 16],
    iv: [u8; 16],
}

impl Salt {
    /// Encrypt
    pub(super) fn encrypt(
        &self,
        plain: &[u8],
        password: &Secret<String>,
    ) -> Result<Vec<u8>, Unspecified> {
        let mut key = Zeroizing::new([0; KEY_LENGTH]);
        let password = password.expose().as_bytes();
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            ITERATIONS,
            &self.salt,
            password,
            key.as_mut_slice(),
        );
        let key = UnboundCipherKey::new(&AES_256, key.as_slice())?;
        let context = EncryptionContext::Iv128(FixedLength::from(self.iv));
        // With room for the padding, or the plaintext would stay behind where it was.
        let mut text = Vec::with_capacity(plain.len() + 16);
        text.extend_from_slice(plain);
        PaddedBlockEncryptingKey::cbc_pkcs7(key)?.less_safe_encrypt(&mut text, context)?;
        Ok(text)
    }

    /// Write how it was encrypted, an `AlgorithmIdentifier`
    ///
    /// <https://www.rfc-editor.org/rfc/rfc8018#appendix-A.4>
    pub(super) fn write_algorithm(&self, writer: DERWriter<'_>) {
        writer.write_sequence(|writer| {
            writer.next().write_oid(&oid(PBES2));
            writer.next().write_sequence(|writer| {
                writer.next().write_sequence(|writer| {
                    writer.next().write_oid(&oid(PBKDF2));
                    writer.next().write_sequence(|writer| {
                        writer.next().write_bytes(&self.salt);
                        writer.next().write_u32(ITERATIONS.get());
                        writer.next().write_u64(KEY_LENGTH as u64);
                        writer.next().write_sequence(|writer| {
                            writer.next().write_oid(&oid(HMAC_WITH_SHA256));
                            writer.next().write_null();
                        });
                    });
                });
                writer.next().write_sequence(|writer| {
                    writer.next().write_oid(&oid(AES_256_CBC));
                    writer.next().write_bytes(&self.iv);
                });
            });
        });
    }
}

pub(super) fn oid(arcs: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(arcs)
}

/// Some tens of milliseconds for who has the password, and for who guesses at each guess
pub(super) const ITERATIONS: NonZeroU32 = NonZeroU32::new(100_000).unwrap();

const KEY_LENGTH: usize = 32;

const PBES2: &[u64] = &[1, 2, 840, 113_549, 1, 5, 13];
const PBKDF2: &[u64] = &[1, 2, 840, 113_549, 1, 5, 12];
const HMAC_WITH_SHA256: &[u64] = &[1, 2, 840, 113_549, 2, 9];
const AES_256_CBC: &[u64] = &[2, 16, 840, 1, 101, 3, 4, 1, 42];

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[test]
    fn a_seed_is_the_same_for_the_same_file_and_for_no_other() {
        let seed = |key, password, recipe: &[&[u8]]| {
            Seed::new(&secret(key), &secret(password), recipe).draw("use")
        };
        let first = seed("key", "password", &[b"a", b"bc"]);
        assert_eq!(seed("key", "password", &[b"a", b"bc"]), first);
        let others = [
            seed("yek", "password", &[b"a", b"bc"]),
            seed("key", "Password", &[b"a", b"bc"]),
            seed("key", "password", &[b"ab", b"c"]),
            seed("key", "password", &[b"a", b"bc", b""]),
            Seed::new(&secret("key"), &secret("password"), &[b"a", b"bc"]).draw("other"),
        ];
        assert!(others.iter().all(|other| *other != first));
    }
}
