//! http-01 validation, for real, of loopback alone.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555#section-8.3>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use url::{Host, Url};

use crate::name::Identifier;

use super::Resolve;
use super::problem::{Problem, ProblemType};

/// Asks servers for key authorizations
#[derive(Debug)]
pub(super) struct Validator {
    port: u16,
    resolve: Resolve,
    slots: Semaphore,
}

impl Validator {
    pub(super) fn new(port: u16, resolve: Resolve) -> Self {
        Self { port, resolve, slots: Semaphore::new(AT_ONCE) }
    }

    /// Whether the server of the identifier answers with the key authorization
    pub(super) async fn http01(
        &self,
        identifier: &Identifier,
        token: &str,
        key_authorization: &str,
    ) -> Result<(), Problem> {
        let _slot = self.slots.acquire().await;
        let host = match identifier {
            Identifier::Ip(IpAddr::V6(address)) => format!("[{address}]"),
            other => other.to_string(),
        };
        let first = format!("http://{host}/.well-known/acme-challenge/{token}");
        let mut url = Url::parse(&first)
            .map_err(|error| connection(&first, &format!("it is no URL: {error}")))?;
        for _ in 0..=REDIRECTS {
            let answer = self.get(&url).await?;
            match answer.redirect(&url)? {
                Some(next) => url = next,
                None => return answer.judge(&url, key_authorization),
            }
        }
        Err(connection(url.as_str(), &format!("it is the end of more than {REDIRECTS} redirects")))
    }

    async fn get(&self, url: &Url) -> Result<Answer, Problem> {
        if url.scheme() != "http" {
            return Err(connection(url.as_str(), "only http is followed here"));
        }
        if url.port().is_some_and(|port| port != self.port) {
            return Err(connection(url.as_str(), "only the port of http-01 is followed"));
        }
        let mut problem = None;
        for address in self.addresses(url).await? {
            match timeout(PATIENCE, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    return match timeout(PATIENCE, exchange(stream, url)).await {
                        Ok(Ok(answer)) => Ok(answer),
                        Ok(Err(reason)) => Err(connection(url.as_str(), &reason)),
                        Err(_) => Err(connection(url.as_str(), "no whole answer within 5 s")),
                    };
                }
                Ok(Err(error)) => {
                    problem = Some(connection(url.as_str(), &format!("{address}: {error}")));
                }
                Err(_) => {
                    let reason = format!("{address}: no connection within 5 s");
                    problem = Some(connection(url.as_str(), &reason));
                }
            }
        }
        Err(problem.unwrap_or_else(|| connection(url.as_str(), "it has no address")))
    }

    /// The loopback addresses of the host
    async fn addresses(&self, url: &Url) -> Result<Vec<SocketAddr>, Problem> {
        let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let found: Vec<IpAddr> = match (url.host(), self.resolve) {
            (Some(Host::Domain(_)), Resolve::Loopback) => both.to_vec(),
            (Some(Host::Ipv4(_)), Resolve::Loopback) => vec![both[0]],
            (Some(Host::Ipv6(_)), Resolve::Loopback) => vec![both[1]],
            (Some(Host::Domain(name)), Resolve::System) => lookup_host((name, self.port))
                .await
                .map_err(|error| {
                    let detail = format!("cannot resolve {name}: {error}");
                    Problem::new(ProblemType::Dns, detail)
                })?
                .map(|address| address.ip())
                .collect(),
            (Some(Host::Ipv4(address)), Resolve::System) => vec![address.into()],
            (Some(Host::Ipv6(address)), Resolve::System) => vec![address.into()],
            (None, _) => Vec::new(),
        };
        let loopback: Vec<_> = found.iter().filter(|address| address.is_loopback()).collect();
        if let (true, Some(other)) = (loopback.is_empty(), found.first()) {
            let reason = format!("a dev CA connects to loopback only, and {other} is not loopback");
            return Err(connection(url.as_str(), &reason));
        }
        Ok(loopback.into_iter().map(|address| SocketAddr::new(*address, self.port)).collect())
    }
}

async fn exchange(stream: TcpStream, url: &Url) -> Result<Answer, String> {
    let text = |error: hyper::Error| error.to_string();
    let request = Request::get(url.path())
        .header(header::HOST, url.host_str().unwrap_or_default())
        .header(header::USER_AGENT, concat!("certkeep-dev-ca/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let (mut sender, drive) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    // Ends with this function, whether the peer closes the connection or not.
    let mut driver = JoinSet::new();
    driver.spawn(drive);
    let (head, body) = sender.send_request(request).await.map_err(text)?.into_parts();
    let body = match head.status {
        StatusCode::OK => {
            Limited::new(body, BODY).collect().await.map_err(|error| error.to_string())?.to_bytes()
        }
        _ => Bytes::new(),
    };
    Ok(Answer { status: head.status, headers: head.headers, body })
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn redirect(&self, from: &Url) -> Result<Option<Url>, Problem> {
        if !matches!(self.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let location = self.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let next = location.and_then(|location| from.join(location).ok());
        let nowhere = || connection(from.as_str(), "it redirects to nowhere");
        next.ok_or_else(nowhere).map(Some)
    }

    fn judge(&self, url: &Url, key_authorization: &str) -> Result<(), Problem> {
        if self.status != StatusCode::OK {
            let detail = format!("invalid response from {url}: {}", self.status.as_u16());
            return Err(Problem::unauthorized(detail));
        }
        if self.body.trim_ascii_end() == key_authorization.as_bytes() {
            return Ok(());
        }
        let got = String::from_utf8_lossy(self.body.get(..120).unwrap_or(&self.body));
        let detail = format!(
            "{url} answers \"{}\", and the key authorization is \"{key_authorization}\"",
            got.escape_debug()
        );
        Err(Problem::new(ProblemType::IncorrectResponse, detail))
    }
}

fn connection(url: &str, reason: &str) -> Problem {
    Problem::new(ProblemType::Connection, format!("cannot fetch {url}: {reason}"))
}

const PATIENCE: Duration = Duration::from_secs(5);
const REDIRECTS: usize = 10;
/// A key authorization is at most 300 bytes; the rest is for trailing white space
const BODY: usize = 4096;
const AT_ONCE: usize = 64;
