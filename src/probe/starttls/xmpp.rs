//! XMPP's negotiation, from a client.

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::ProbeError;
use super::dialogue::{Dialogue, refused, unlike};
use crate::name::Identifier;

/// <https://www.rfc-editor.org/rfc/rfc6120#section-5.4>
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    host: &Identifier,
    dialogue: &mut Dialogue<'_, S>,
) -> Result<(), ProbeError> {
    // No name and no address has a character in it that XML would mind.
    dialogue
        .say(format!(
            "<?xml version='1.0'?><stream:stream to='{host}' version='1.0' \
             xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
        ))
        .await?;
    let mut offered = false;
    loop {
        let tag = Tag::next(dialogue).await?;
        match (tag.name(), tag.ends()) {
            ("starttls", _) => offered = true,
            ("features", true) => break,
            ("error", false) => {
                // What is wrong is the next tag, such as that the host is not known.
                let why = Tag::next(dialogue).await?;
                return Err(unlike(tag.0 + &why.0, OFFER));
            }
            ("stream", true) => return Err(unlike(tag.0, OFFER)),
            _ => {}
        }
    }
    if !offered {
        return Err(ProbeError::NoStartTls);
    }
    dialogue.say("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await?;
    loop {
        let tag = Tag::next(dialogue).await?;
        match (tag.name(), tag.ends()) {
            ("proceed", true) => return Ok(()),
            ("proceed", false) => {}
            _ => return Err(refused(tag.0)),
        }
    }
}

/// A tag, with the text before it
struct Tag(String);

impl Tag {
    async fn next<S: AsyncRead + AsyncWrite + Unpin>(
        dialogue: &mut Dialogue<'_, S>,
    ) -> Result<Self, ProbeError> {
        Ok(Self(String::from_utf8_lossy(&dialogue.through(b'>').await?).into_owned()))
    }

    /// What is between the brackets
    fn inner(&self) -> &str {
        let tag = self.0.rsplit('<').next().unwrap_or_default();
        tag.trim_end_matches('>')
    }

    /// The name of its element, without a prefix
    fn name(&self) -> &str {
        let name = self.inner().trim_start_matches('/');
        let name = name.split(|c: char| c.is_whitespace() || c == '/').next().unwrap_or_default();
        name.rsplit(':').next().unwrap_or_default()
    }

    /// Whether its element ends with it
    fn ends(&self) -> bool {
        self.inner().starts_with('/') || self.inner().ends_with('/')
    }
}

const OFFER: &str = "what it offers";
