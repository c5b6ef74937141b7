//! MySQL's and MariaDB's request for TLS in place of a login.

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::ProbeError;
use super::dialogue::{Dialogue, unlike};

/// <https://mariadb.com/kb/en/connection/>
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    dialogue: &mut Dialogue<'_, S>,
) -> Result<(), ProbeError> {
    let header = dialogue.bytes(4).await?;
    let &[a, b, 0, number] = header.as_slice() else { return Err(unlike(header, GREETING)) };
    let greeting = dialogue.bytes(usize::from(u16::from_le_bytes([a, b]))).await?;
    let Some(capabilities) = capabilities(&greeting) else {
        return Err(unlike(words(&greeting), GREETING));
    };
    if capabilities & TLS == 0 {
        return Err(ProbeError::NoStartTls);
    }
    let mut request = vec![32, 0, 0, number.wrapping_add(1)];
    request.extend((LONG_PASSWORD | PROTOCOL_41 | TLS | SECURE_CONNECTION).to_le_bytes());
    request.extend([0, 0]);
    request.extend(LARGEST_PACKET.to_le_bytes());
    request.push(UTF8);
    request.extend([0; 23]);
    // There is no answer: TLS begins.
    dialogue.say(request).await
}

/// The first two bytes of what the server is capable of
fn capabilities(greeting: &[u8]) -> Option<u16> {
    let version_and_rest = greeting.strip_prefix(&[PROTOCOL])?;
    let end = version_and_rest.iter().position(|byte| *byte == 0)?;
    // The number of the connection, and half of a challenge with a zero at its end.
    let capabilities = version_and_rest.get(end..)?.get(1 + 4 + 8 + 1..)?;
    capabilities.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

/// What is for people in an error that comes in place of a greeting
fn words(packet: &[u8]) -> &[u8] {
    match packet {
        [0xff, _, _, b'#', _, _, _, _, _, words @ ..] | [0xff, _, _, words @ ..] => words,
        _ => packet,
    }
}

const GREETING: &str = "a greeting";

/// The version of the protocol that every server since 1998 speaks
const PROTOCOL: u8 = 10;

const LONG_PASSWORD: u16 = 0x0001;
const PROTOCOL_41: u16 = 0x0200;
const SECURE_CONNECTION: u16 = 0x8000;
const TLS: u16 = 0x0800;

const LARGEST_PACKET: u32 = 1 << 24;

/// The number of a character set
const UTF8: u8 = 33;
