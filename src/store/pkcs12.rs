//! PKCS#12: a key and its chain in one encrypted file, as Java, Windows and OpenSSL read it.
//!
//! <https://www.rfc-editor.org/rfc/rfc7292>

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{digest, hmac};
use yasna::{DERWriter, DERWriterSeq, Tag};
use zeroize::Zeroizing;

use super::pbes2::{ITERATIONS, Seed, oid};
use super::private_key;
use crate::cert::Fingerprint;
use crate::secret::Secret;

/// What goes into a file
pub(super) struct Contents<'a> {
    /// The private key, PKCS#8
    pub(super) key: &'a [u8],
    /// The leaf and the intermediates, DER
    pub(super) chain: &'a [&'a [u8]],
    /// What the entry is called
    pub(super) alias: &'a str,
}

/// The file, a `PFX`; the same for the same contents, password and seed
///
/// <https://www.rfc-editor.org/rfc/rfc7292#section-4>
pub(super) fn encode(
    contents: &Contents<'_>,
    password: &Secret<String>,
    seed: &Seed,
) -> Result<Vec<u8>, Unspecified> {
    let safe = authenticated_safe(contents, password, seed)?;
    let salt = seed.draw("mac");
    let key = mac_key(password, &salt);
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()), &safe);
    Ok(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(3);
            writer.next().write_sequence(|writer| write_data(writer, &safe));
            writer.next().write_sequence(|writer| {
                writer.next().write_sequence(|writer| {
                    writer.next().write_sequence(|writer| {
                        writer.next().write_oid(&oid(SHA256));
                        writer.next().write_null();
                    });
                    writer.next().write_bytes(mac.as_ref());
                });
                writer.next().write_bytes(&salt);
                writer.next().write_u32(ITERATIONS.get());
            });
        });
    }))
}

/// <https://www.rfc-editor.org/rfc/rfc7292#section-4.1>
fn authenticated_safe(
    contents: &Contents<'_>,
    password: &Secret<String>,
    seed: &Seed,
) -> Result<Vec<u8>, Unspecified> {
    let id = contents.chain.first().map_or([0; 32], |leaf| Fingerprint::of(leaf).0);
    let certificates = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            for (position, der) in contents.chain.iter().enumerate() {
                writer.next().write_sequence(|writer| {
                    writer.next().write_oid(&oid(CERT_BAG));
                    writer.next().write_tagged(Tag::context(0), |writer| {
                        write_certificate(writer, der);
                    });
                    // What ties the leaf to the key; the others are found by their issuers.
                    if position == 0 {
                        write_attributes(writer, contents.alias, &id);
                    }
                });
            }
        });
    });
    let salt = seed.salt("certificates");
    let certificates = salt.encrypt(&certificates, password)?;
    let key = private_key::encrypted(contents.key, password, &seed.salt("key"))?;
    let key = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_sequence(|writer| {
                writer.next().write_oid(&oid(SHROUDED_KEY_BAG));
                writer.next().write_tagged(Tag::context(0), |writer| writer.write_der(&key));
                write_attributes(writer, contents.alias, &id);
            });
        });
    });
    Ok(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_sequence(|writer| {
                writer.next().write_oid(&oid(ENCRYPTED_DATA));
                writer.next().write_tagged(Tag::context(0), |writer| {
                    writer.write_sequence(|writer| {
                        writer.next().write_u8(0);
                        writer.next().write_sequence(|writer| {
                            writer.next().write_oid(&oid(DATA));
                            salt.write_algorithm(writer.next());
                            writer.next().write_tagged_implicit(Tag::context(0), |writer| {
                                writer.write_bytes(&certificates);
                            });
                        });
                    });
                });
            });
            writer.next().write_sequence(|writer| write_data(writer, &key));
        });
    }))
}

fn write_data(writer: &mut DERWriterSeq<'_>, content: &[u8]) {
    writer.next().write_oid(&oid(DATA));
    writer.next().write_tagged(Tag::context(0), |writer| writer.write_bytes(content));
}

/// <https://www.rfc-editor.org/rfc/rfc7292#section-4.2.3>
fn write_certificate(writer: DERWriter<'_>, der: &[u8]) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(X509_CERTIFICATE));
        writer.next().write_tagged(Tag::context(0), |writer| writer.write_bytes(der));
    });
}

fn write_attributes(writer: &mut DERWriterSeq<'_>, alias: &str, id: &[u8]) {
    writer.next().write_set_of(|writer| {
        writer.next().write_sequence(|writer| {
            writer.next().write_oid(&oid(FRIENDLY_NAME));
            writer.next().write_set_of(|writer| writer.next().write_bmp_string(alias));
        });
        writer.next().write_sequence(|writer| {
            writer.next().write_oid(&oid(LOCAL_KEY_ID));
            writer.next().write_set_of(|writer| writer.next().write_bytes(id));
        });
    });
}

/// The key of the MAC, which is as long as one hash and so needs one round of the derivation only
///
/// <https://www.rfc-editor.org/rfc/rfc7292#appendix-B.2>
fn mac_key(password: &Secret<String>, salt: &[u8]) -> Zeroizing<[u8; 32]> {
    // UTF-16 in network order, with a zero at its end: appendix B.1.
    let units = password.expose().encode_utf16().chain([0]);
    let mut text = Zeroizing::new(Vec::with_capacity(password.expose().len() * 2 + 2));
    text.extend(units.flat_map(u16::to_be_bytes));
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&[MAC_PURPOSE; BLOCK]);
    for part in [salt, &text] {
        let length = part.len().next_multiple_of(BLOCK);
        let filled: Zeroizing<Vec<u8>> =
            Zeroizing::new(part.iter().copied().cycle().take(length).collect());
        hash.update(&filled);
    }
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(hash.finish().as_ref());
    for _ in 1..ITERATIONS.get() {
        let next = digest::digest(&digest::SHA256, key.as_slice());
        key.copy_from_slice(next.as_ref());
    }
    key
}

/// What SHA-256 takes at once, in bytes
const BLOCK: usize = 64;

/// <https://www.rfc-editor.org/rfc/rfc7292#appendix-B.3>
const MAC_PURPOSE: u8 = 3;

const DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 1];
const ENCRYPTED_DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 6];
const FRIENDLY_NAME: &[u64] = &[1, 2, 840, 113_549, 1, 9, 20];
const LOCAL_KEY_ID: &[u64] = &[1, 2, 840, 113_549, 1, 9, 21];
const X509_CERTIFICATE: &[u64] = &[1, 2, 840, 113_549, 1, 9, 22, 1];
const SHROUDED_KEY_BAG: &[u64] = &[1, 2, 840, 113_549, 1, 12, 10, 1, 2];
const CERT_BAG: &[u64] = &[1, 2, 840, 113_549, 1, 12, 10, 1, 3];
const SHA256: &[u64] = &[2, 16, 840, 1, 101, 3, 4, 2, 1];
