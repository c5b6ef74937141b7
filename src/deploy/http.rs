//! Asking a server over HTTP to load its files again.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::exchange::{Answer, ask, quote};
use super::{file, socket};
use crate::config::{HeaderSource, HttpBody, HttpCall, HttpMethod};
use crate::failure::{Failure, Step};
use crate::pem;
use crate::resolver;

/// Make the request, and judge the answer by its status
pub(super) async fn call(call: &HttpCall) -> Result<(), Failure> {
    let end = Instant::now() + call.timeout;
    let attempt = async {
        let mut answer = send(call, end).await?;
        // To its end: a server may give up what it began for somebody who has left.
        let body = answer.body().await.map_err(|error| failed(call, &error))?;
        judge(call, answer.status, &body)
    };
    let late = || failed(call, &format!("no whole answer within {:?}", call.timeout));
    timeout_at(end, attempt).await.unwrap_or_else(|_| Err(late()))
}

/// Say whether all is there that the request needs
pub(super) fn preflight(call: &HttpCall) -> Result<(), Failure> {
    let body = match &call.body {
        Some(HttpBody::File(path)) => Some(path),
        Some(HttpBody::Text(_)) | None => None,
    };
    let secrets = call.headers.values().filter_map(|source| match source {
        HeaderSource::File(path) => Some(path),
        HeaderSource::Text(_) => None,
    });
    for path in body.into_iter().chain(&call.ca_file).chain(secrets) {
        std::fs::metadata(path).map_err(|error| unreadable(path, &error, Step::Prepare))?;
    }
    call.unix_socket.as_deref().map_or(Ok(()), socket::preflight)
}

async fn send(call: &HttpCall, end: Instant) -> Result<Answer, Failure> {
    let request = request(call).await?;
    let broken = |error: String| failed(call, &error);
    if let Some(path) = &call.unix_socket {
        return ask(socket::connect(path).await?, request).await.map_err(broken);
    }
    let stream = connect(&call.url, end).await.map_err(broken)?;
    if call.url.scheme() == "http" {
        return ask(stream, request).await.map_err(broken);
    }
    let connector = TlsConnector::from(Arc::new(trust(call).await?));
    let name = match call.url.host() {
        Some(Host::Ipv4(address)) => ServerName::from(std::net::IpAddr::from(address)),
        Some(Host::Ipv6(address)) => ServerName::from(std::net::IpAddr::from(address)),
        host => ServerName::try_from(host.map(|host| host.to_string()).unwrap_or_default())
            .map_err(|error| failed(call, &error.to_string()))?,
    };
    let stream = connector.connect(name, stream).await;
    let stream = stream.map_err(|error| failed(call, &format!("no TLS: {error}")))?;
    ask(stream, request).await.map_err(broken)
}

async fn request(call: &HttpCall) -> Result<Request<Full<Bytes>>, Failure> {
    let body = match &call.body {
        None => Bytes::new(),
        Some(HttpBody::Text(text)) => Bytes::copy_from_slice(text.as_bytes()),
        Some(HttpBody::File(path)) => read(path, MAX_BODY).await?.into(),
    };
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = match call.method {
        HttpMethod::Get => Method::GET,
        HttpMethod::Patch => Method::PATCH,
        HttpMethod::Post => Method::POST,
        HttpMethod::Put => Method::PUT,
    };
    let unsound = |error: &dyn std::fmt::Display| failed(call, &error.to_string());
    let target = &call.url[url::Position::BeforePath..url::Position::AfterQuery];
    *request.uri_mut() = target.parse().map_err(|error: http::uri::InvalidUri| unsound(&error))?;
    let host = &call.url[url::Position::BeforeHost..url::Position::AfterPort];
    let host = HeaderValue::from_str(host).map_err(|error| unsound(&error))?;
    request.headers_mut().insert(HOST, host);
    for (name, source) in &call.headers {
        let name: HeaderName = name.parse().map_err(|error| unsound(&error))?;
        let value = match source {
            HeaderSource::Text(text) => text.parse().map_err(|error| unsound(&error))?,
            HeaderSource::File(path) => secret_value(path).await?,
        };
        request.headers_mut().insert(name, value);
    }
    Ok(request)
}

/// What is in a file, without the end of its line
async fn secret_value(path: &Path) -> Result<HeaderValue, Failure> {
    let bytes = read(path, MAX_HEADER).await?;
    let mut value = HeaderValue::from_bytes(bytes.trim_ascii_end()).map_err(|_| {
        Failure::needs_operator(
            Step::Reload,
            format!("{} has characters that no header field can have", path.display()),
            "put the value alone there, on one line",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Connect to the first address of the host that answers
async fn connect(url: &Url, end: Instant) -> Result<TcpStream, String> {
    let addresses = addresses(url).await?;
    let mut problem =
        format!("`{}` has no address that may be asked", url.host_str().unwrap_or_default());
    for (left, address) in (1..=addresses.len()).rev().zip(&addresses) {
        // One that drops what it gets must not take the time of those after it.
        let share = end.saturating_duration_since(Instant::now()).div_f64(left as f64);
        let share = if left > 1 { share.min(CONNECT) } else { share };
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => problem = format!("cannot connect to {address}: {error}"),
            Err(_elapsed) => problem = format!("cannot connect to {address}: it does not answer"),
        }
    }
    Err(problem)
}

async fn addresses(url: &Url) -> Result<Vec<SocketAddr>, String> {
    let port = url.port_or_known_default().unwrap_or_default();
    let mut found = match url.host() {
        Some(Host::Ipv4(address)) => vec![(address, port).into()],
        Some(Host::Ipv6(address)) => vec![(address, port).into()],
        Some(Host::Domain(name)) => {
            let found = resolver::SERVER.look_up(name.to_owned(), port).await;
            found.map_err(|error| format!("cannot resolve `{name}`: {error}"))?
        }
        None => Vec::new(),
    };
    // What is not encrypted stays on this host, whatever a resolver says of `localhost`.
    found.retain(|address| url.scheme() != "http" || address.ip().is_loopback());
    Ok(found)
}

async fn trust(call: &HttpCall) -> Result<ClientConfig, Failure> {
    let setup = |error: rustls::Error| failed(call, &format!("TLS cannot be set up: {error}"));
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(setup)?;
    let Some(path) = &call.ca_file else {
        return Ok(builder.with_platform_verifier().map_err(setup)?.with_no_client_auth());
    };
    let unsound = |error: String| {
        let summary = format!("{} has no roots to trust: {error}", path.display());
        Failure::needs_operator(Step::Reload, summary, "put the server's root there as PEM")
    };
    let text = read(path, MAX_BODY).await?;
    let mut roots = RootCertStore::empty();
    for root in pem::certificates(&text).map_err(|error| unsound(error.to_string()))? {
        roots.add(root).map_err(|error| unsound(error.to_string()))?;
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn judge(call: &HttpCall, status: StatusCode, body: &[u8]) -> Result<(), Failure> {
    let expected = match call.expect[..] {
        [] => status.is_success(),
        _ => call.expect.contains(&status.as_u16()),
    };
    if expected {
        return Ok(());
    }
    let remedy = match status.as_u16() {
        300..=399 => "redirects are not followed: name the URL that it leads to",
        401 | 403 => "give it what it asks for under `headers` or `header_files`",
        404 | 405 => "correct `url` and `method`",
        _ => return Err(failed(call, &format!("it answered {status}{}", quote(body)))),
    };
    let summary = format!("{}: it answered {status}{}", asked(call), quote(body));
    Err(Failure::needs_operator(Step::Reload, summary, remedy))
}

fn failed(call: &HttpCall, what: &str) -> Failure {
    Failure::retry(Step::Reload, format!("{}: {what}", asked(call)))
}

/// What is asked, without the query, which may be a secret
fn asked(call: &HttpCall) -> String {
    let method = match call.method {
        HttpMethod::Get => "GET",
        HttpMethod::Patch => "PATCH",
        HttpMethod::Post => "POST",
        HttpMethod::Put => "PUT",
    };
    format!("{method} {}", &call.url[..url::Position::AfterPath])
}

async fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    file::read(path, limit).await.map_err(|error| unreadable(path, &error, Step::Reload))
}

fn unreadable(path: &Path, error: &io::Error, step: Step) -> Failure {
    let summary = format!("cannot read {}: {error}", path.display());
    Failure::needs_operator(step, summary, "make the file readable for certkeep")
}

/// How long a body may be
const MAX_BODY: u64 = 16 << 20;

/// How long a header field may be
const MAX_HEADER: u64 = 16 << 10;

/// How long an address may take where there are others
const CONNECT: Duration = Duration::from_secs(5);
