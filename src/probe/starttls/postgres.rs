//! PostgreSQL's request for TLS in place of a login.

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::ProbeError;
use super::dialogue::{Dialogue, refused, unlike};

/// <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    dialogue: &mut Dialogue<'_, S>,
) -> Result<(), ProbeError> {
    dialogue.say(REQUEST).await?;
    let answer = dialogue.bytes(1).await?;
    match answer.as_slice() {
        b"S" => Ok(()),
        b"N" => Err(ProbeError::NoStartTls),
        // Such as one that there are too many clients.
        b"E" => Err(refused(error(dialogue).await?)),
        _ => Err(unlike(answer, "an answer to STARTTLS")),
    }
}

/// What is for people in an error
///
/// <https://www.postgresql.org/docs/current/protocol-error-fields.html>
async fn error<S: AsyncRead + AsyncWrite + Unpin>(
    dialogue: &mut Dialogue<'_, S>,
) -> Result<Vec<u8>, ProbeError> {
    let length = dialogue.bytes(4).await?;
    let length = length.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
    let fields = dialogue.bytes(length.saturating_sub(4)).await?;
    let message = fields.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"M"));
    Ok(message.unwrap_or(&fields).to_vec())
}

/// Its length, and a number that is no version
const REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
