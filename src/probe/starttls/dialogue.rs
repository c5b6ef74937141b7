//! A connection without TLS: what is said on it, and what is heard, up to a limit.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::super::ProbeError;
use crate::text::External;

/// A connection before TLS begins
#[derive(Debug)]
pub(super) struct Dialogue<'a, S> {
    stream: &'a mut S,
    /// What was heard and not taken yet
    heard: Vec<u8>,
    /// How many bytes may still be heard
    left: u64,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Dialogue<'a, S> {
    pub(super) const fn new(stream: &'a mut S) -> Self {
        Self { stream, heard: Vec::new(), left: MOST }
    }

    pub(super) async fn say(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), ProbeError> {
        let said = async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        };
        said.await.map_err(|error| broken(&error))
    }

    /// A line, without its end
    pub(super) async fn line(&mut self) -> Result<String, ProbeError> {
        let line = self.through(b'\n').await?;
        Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }

    /// So many bytes
    pub(super) async fn bytes(&mut self, count: usize) -> Result<Vec<u8>, ProbeError> {
        self.until(|heard| (heard.len() >= count).then_some(count)).await
    }

    /// Everything up to this byte, and the byte
    pub(super) async fn through(&mut self, last: u8) -> Result<Vec<u8>, ProbeError> {
        self.until(|heard| Some(1 + heard.iter().position(|byte| *byte == last)?)).await
    }

    /// Everything up to where `end` finds an end in what was heard
    pub(super) async fn until(
        &mut self,
        end: impl Fn(&[u8]) -> Option<usize>,
    ) -> Result<Vec<u8>, ProbeError> {
        loop {
            if let Some(end) = end(&self.heard) {
                let rest = self.heard.split_off(end.min(self.heard.len()));
                return Ok(std::mem::replace(&mut self.heard, rest));
            }
            if self.left == 0 {
                return Err(ProbeError::Talkative);
            }
            self.heard.reserve(1024);
            let mut some = (&mut *self.stream).take(self.left);
            match some.read_buf(&mut self.heard).await {
                Ok(0) => return Err(ProbeError::ClosedEarly),
                Ok(_) => self.left = some.limit(),
                Err(error) => return Err(broken(&error)),
            }
        }
    }

    /// Nothing but TLS may come after what was taken
    pub(super) fn end(self) -> Result<(), ProbeError> {
        if self.heard.is_empty() { Ok(()) } else { Err(ProbeError::Injected) }
    }
}

fn broken(error: &io::Error) -> ProbeError {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    match error.kind() {
        BrokenPipe | ConnectionAborted | ConnectionReset => ProbeError::ClosedEarly,
        _ => ProbeError::Unreachable(External::new(error.to_string())),
    }
}

/// What a server said, for a sentence about it
pub(super) fn quoted(said: impl AsRef<[u8]>) -> External {
    let said = said.as_ref();
    let text = String::from_utf8_lossy(said.get(..LONGEST_QUOTE).unwrap_or(said));
    let dots = if said.len() > LONGEST_QUOTE { "…" } else { "" };
    External::new(format!("{}{dots}", text.trim()))
}

pub(super) fn unlike(said: impl AsRef<[u8]>, wanted: &'static str) -> ProbeError {
    ProbeError::Unlike { said: quoted(said), wanted }
}

pub(super) fn refused(said: impl AsRef<[u8]>) -> ProbeError {
    ProbeError::StartTlsRefused(quoted(said))
}

/// How many bytes a server may say before TLS begins: banners and lists of features are shorter
const MOST: u64 = 8 * 1024;

const LONGEST_QUOTE: usize = 200;
