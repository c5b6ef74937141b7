//! One HTTP request, over a connection of its own.

use bytes::Bytes;
use http::header::{CONNECTION, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

/// Send it and wait for the head of the answer; redirects are nothing special
pub(super) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    mut request: Request<Full<Bytes>>,
) -> Result<Answer, String> {
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
    let (mut sender, drive) = http1::handshake(TokioIo::new(stream)).await.map_err(describe)?;
    let mut driver = JoinSet::new();
    driver.spawn(drive);
    let (head, body) = sender.send_request(request).await.map_err(describe)?.into_parts();
    Ok(Answer { status: head.status, body, _driver: driver })
}

/// An answer whose body is still to come
pub(super) struct Answer {
    pub(super) status: StatusCode,
    body: Incoming,
    /// Ends with the answer, whether the peer closes the connection or not
    _driver: JoinSet<hyper::Result<()>>,
}

impl Answer {
    /// The next piece of the body; `None` at its end
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, String> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(piece) = frame.map_err(describe)?.into_data() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// The body, of which no more than [`MAX_BODY`] bytes are waited for
    pub(super) async fn body(&mut self) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        while body.len() < MAX_BODY
            && let Some(piece) = self.piece().await?
        {
            body.extend_from_slice(&piece);
        }
        body.truncate(MAX_BODY);
        Ok(body)
    }
}

/// The first lines of a body behind a colon, or nothing
pub(super) fn quote(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return String::new();
    }
    let quoted = lines.join(" | ");
    format!(": {}", &quoted[..quoted.floor_char_boundary(QUOTED)])
}

fn describe(error: hyper::Error) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

const AGENT: &str = concat!("certkeep/", env!("CARGO_PKG_VERSION"));

/// How much of an answer is read
const MAX_BODY: usize = 64 << 10;

/// How much of an answer a failure quotes
const QUOTED: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quotation_is_one_line_and_no_longer_than_its_limit() {
        assert_eq!(quote(b" \n\n"), "");
        assert_eq!(quote(b"one\r\n\n two \n"), ": one | two");
        assert!(quote("é\n".repeat(5000).as_bytes()).len() <= QUOTED + 2);
    }
}
