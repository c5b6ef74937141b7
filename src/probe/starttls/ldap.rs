//! LDAP's extended operation.

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::ProbeError;
use super::dialogue::{Dialogue, refused, unlike};

/// <https://www.rfc-editor.org/rfc/rfc4511#section-4.14>
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    dialogue: &mut Dialogue<'_, S>,
) -> Result<(), ProbeError> {
    dialogue.say([REQUEST, OID].concat()).await?;
    let message = dialogue
        .until(|heard| match heard.first()? {
            &SEQUENCE => element(heard).map(|(_, _, rest)| heard.len() - rest.len()),
            _ => Some(heard.len()),
        })
        .await?;
    match result(&message) {
        Some((0, _)) => Ok(()),
        Some((PROTOCOL_ERROR, _)) => Err(ProbeError::NoStartTls),
        Some((code, words)) => {
            Err(refused(format!("result {code}: {}", String::from_utf8_lossy(words))))
        }
        None => Err(unlike(message, "an answer to STARTTLS")),
    }
}

/// The result code of an extended response, and the words with it
///
/// <https://www.rfc-editor.org/rfc/rfc4511#appendix-B>
fn result(message: &[u8]) -> Option<(u8, &[u8])> {
    let (SEQUENCE, message, _) = element(message)? else { return None };
    let (INTEGER, _, message) = element(message)? else { return None };
    let (EXTENDED_RESPONSE, response, _) = element(message)? else { return None };
    let (ENUMERATED, &[code], response) = element(response)? else { return None };
    let (OCTET_STRING, _, response) = element(response)? else { return None };
    let (OCTET_STRING, words, _) = element(response)? else { return None };
    Some((code, words))
}

/// The tag and the content of an element, and what is after it; `None` if it is not whole
///
/// LDAP has lengths in the definite form alone.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (length.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// A message with number 1: an extended request whose name is the OID that follows
const REQUEST: &[u8] = &[SEQUENCE, 29, INTEGER, 1, 1, 0x77, 24, 0x80, 22];

const OID: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// The result of a server that does not know the operation
const PROTOCOL_ERROR: u8 = 2;

const ENUMERATED: u8 = 0x0a;
const EXTENDED_RESPONSE: u8 = 0x78;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
