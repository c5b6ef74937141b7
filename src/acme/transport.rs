//! HTTP to one CA: one pool of connections, limits on everything that comes back.

use std::error::Error as _;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT_LANGUAGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT,
};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Collected};
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use thiserror::Error;
use url::Url;

use super::answer::Answer;
use super::fence::{Fence, FenceError, is_off_limits};
use super::nonce::Nonces;
use super::{call, lenient};
use crate::config::Issuer;
use crate::failure::{Failure, Step};
use crate::pem;
use crate::resolver;
use crate::text::External;
use crate::time::{Clock, Timestamp};

/// The way to one issuer, shared by its account and all of its orders
///
/// Cheap to clone. Keeps the connections and the nonces of every request that went through it,
/// and refuses to ask anything outside of the directory's own origin and the hosts that the
/// configuration allows. Connections and the system's roots are only set up by the first request.
#[derive(Clone)]
pub struct Transport {
    wire: Arc<Wire>,
}

struct Wire {
    directory: String,
    fence: Fence,
    roots: Roots,
    proxy: Option<Proxy>,
    client: OnceLock<reqwest::Client>,
    nonces: Nonces,
    requests: AtomicU64,
    /// How far the CA's clock is ahead of ours, in milliseconds
    skew: AtomicI64,
    clock: Arc<dyn Clock>,
}

enum Roots {
    System,
    These(Vec<reqwest::Certificate>),
}

struct Proxy {
    url: String,
    way: reqwest::Proxy,
}

impl Transport {
    /// Prepare the way to an issuer, without any request
    ///
    /// `roots` is the content of the issuer's `ca_file`; it replaces the system's roots.
    ///
    /// # Errors
    /// When the directory's URL, the proxy or the roots cannot be used.
    pub fn new(
        issuer: &Issuer,
        roots: Option<&[u8]>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Failure> {
        let refuse = |summary: String, what: &str| {
            Failure::needs_operator(Step::Prepare, summary, what).by_issuer()
        };
        let fence = Fence::around(issuer)
            .map_err(|error| refuse(format!("the directory {error}"), "correct `directory`"))?;
        let roots = match roots {
            // No TLS, no roots; reading the system's would be wasted.
            _ if fence.is_insecure() => Roots::These(Vec::new()),
            None => Roots::System,
            Some(text) => pem::certificates(text)
                .map_err(|error| error.to_string())
                .and_then(|roots| {
                    let read = roots.iter().map(|der| reqwest::Certificate::from_der(der));
                    read.collect::<Result<_, _>>().map_err(|error| describe(&error))
                })
                .map(Roots::These)
                .map_err(|error| refuse(format!("the CA file {error}"), "correct `ca_file`"))?,
        };
        let proxy = issuer.proxy.as_ref().map(|url| {
            let way = reqwest::Proxy::all(url.as_str());
            way.map(|way| Proxy { url: url.clone(), way })
        });
        let proxy = proxy
            .transpose()
            .map_err(|_| refuse("the proxy is not the URL of one".to_owned(), "correct `proxy`"))?;
        Ok(Self {
            wire: Arc::new(Wire {
                directory: issuer.directory.clone(),
                fence,
                roots,
                proxy,
                client: OnceLock::new(),
                nonces: Nonces::default(),
                requests: AtomicU64::new(0),
                skew: AtomicI64::new(0),
                clock,
            }),
        })
    }

    /// How many requests were sent
    pub fn requests(&self) -> u64 {
        self.wire.requests.load(Ordering::Relaxed)
    }

    /// How far the CA's clock was ahead of ours at its last answer, in seconds; behind: negative
    pub fn clock_skew(&self) -> i64 {
        self.wire.skew.load(Ordering::Relaxed) / 1000
    }

    pub(super) fn directory(&self) -> &str {
        &self.wire.directory
    }

    pub(super) fn fence(&self) -> &Fence {
        &self.wire.fence
    }

    pub(super) fn now(&self) -> Timestamp {
        self.wire.clock.now()
    }

    /// GET a resource that needs no signature
    pub(super) async fn get(&self, url: &str) -> Result<Answer, TransportError> {
        self.wire.send(Method::GET, url, None).await
    }

    /// POST a signed request
    pub(super) async fn post(&self, url: &str, jws: Vec<u8>) -> Result<Answer, TransportError> {
        self.wire.send(Method::POST, url, Some(Bytes::from(jws))).await
    }

    /// A nonce that nobody has used
    pub(super) async fn nonce(&self, url: &str) -> Result<String, TransportError> {
        self.wire.nonce(url).await
    }
}

impl Wire {
    async fn send(
        &self,
        method: Method,
        url: &str,
        body: Option<Bytes>,
    ) -> Result<Answer, TransportError> {
        call::observe(None);
        let target = self.fence.check(url)?;
        let base = target.clone();
        let mut request = reqwest::Request::new(method, target);
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_static("en"));
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jose+json"));
        }
        *request.body_mut() = body.map(reqwest::Body::from);
        self.requests.fetch_add(1, Ordering::Relaxed);
        let response =
            self.client()?.execute(request).await.map_err(|error| self.no_answer(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let received = receive(response).await;
        if received.is_err() && status.is_success() {
            // What was made has a place, though nobody can tell what it is.
            let mut begin = Answer::new(status, headers, Bytes::new());
            complete_location(&mut begin.headers, &base);
            call::observe(Some(&begin));
        }
        let mut answer = received?;
        complete_location(&mut answer.headers, &base);
        if let Some(nonce) = answer.headers.get(REPLAY_NONCE).and_then(|n| n.to_str().ok()) {
            self.nonces.put(nonce);
        }
        if let Some(date) = answer.date() {
            let skew = date.as_millis().saturating_sub(self.clock.now().as_millis());
            self.skew.store(skew, Ordering::Relaxed);
        }
        if answer.status.is_redirection() {
            let to = External::new(answer.location().unwrap_or("nowhere"));
            return Err(TransportError::Redirected { from: External::new(url), to });
        }
        call::observe(Some(&answer));
        Ok(answer)
    }

    async fn nonce(&self, url: &str) -> Result<String, TransportError> {
        if let Some(nonce) = self.nonces.take() {
            return Ok(nonce);
        }
        let answer = self.send(Method::HEAD, url, None).await?;
        match self.nonces.take() {
            Some(nonce) if answer.status.is_success() => Ok(nonce),
            _ => Err(TransportError::NoNonce(Box::new(answer))),
        }
    }

    /// Do for instant-acme what it asks for
    ///
    /// Its only source of nonces is newNonce, and that is answered from the nonces at hand: so
    /// the headers of other answers do not tell it of any, and none is used twice.
    async fn relay(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<BytesResponse, TransportError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string();
        if parts.method == Method::HEAD {
            let nonce = self.nonce(&url).await?;
            let mut response = Response::new(());
            let nonce = HeaderValue::from_str(&nonce);
            let nonce = nonce.map_err(|error| TransportError::Broken(error.to_string()))?;
            response.headers_mut().insert(REPLAY_NONCE, nonce);
            return Ok(hand_over(response.into_parts().0, Bytes::new()));
        }
        let Ok(body) = body.collect().await.map(Collected::to_bytes);
        let answer = self.send(parts.method, &url, (!body.is_empty()).then_some(body)).await?;
        let mut parts = Response::new(()).into_parts().0;
        parts.status = answer.status;
        parts.headers = answer.headers;
        parts.headers.remove(REPLAY_NONCE);
        // What is wrong was read already, better than instant-acme does.
        if answer.problem.is_some() {
            return Ok(hand_over(parts, answer.body));
        }
        Ok(hand_over(parts, lenient::mend(answer.body, call::replaces().as_deref())))
    }

    fn client(&self) -> Result<&reqwest::Client, TransportError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let insecure = self.fence.is_insecure();
        let mut builder = reqwest::Client::builder()
            .https_only(!insecure)
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .timeout(TOTAL_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE)
            .tcp_nodelay(true)
            .http2_max_header_list_size(MAX_HEADERS as u32)
            .dns_resolver(Arc::new(Resolver));
        if let Roots::These(roots) = &self.roots {
            builder = builder.tls_certs_only(roots.iter().cloned());
        }
        if let Some(proxy) = &self.proxy {
            builder = builder.no_proxy().proxy(proxy.way.clone());
        } else if self.fence.is_local() {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| TransportError::Setup(describe(&e)))?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Why there is no answer, with the way that was tried
    fn no_answer(&self, error: &reqwest::Error) -> TransportError {
        let why = describe(error);
        let host = error.url().and_then(|u| Some((u.host_str()?, u.port_or_known_default()?)));
        let Some((host, port)) = host.filter(|_| error.is_connect()) else {
            return TransportError::by(error, why);
        };
        let text = match (why.strip_prefix("tunnel error: "), &self.proxy) {
            (None, _) => format!("cannot reach {host}:{port}: {why}"),
            (Some(why), Some(Proxy { url, .. })) => {
                format!("cannot reach {host}:{port} through the proxy {url}: {why}")
            }
            (Some(why), None) => {
                format!("cannot reach {host}:{port} through the proxy of the environment: {why}")
            }
        };
        TransportError::by(error, text)
    }
}

/// Make a relative `Location` absolute, since instant-acme takes it as it is
fn complete_location(headers: &mut HeaderMap, base: &Url) {
    let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok()) else {
        return;
    };
    if Url::parse(location).is_ok() {
        return;
    }
    let absolute = base.join(location).ok();
    if let Some(value) = absolute.and_then(|url| HeaderValue::from_str(url.as_str()).ok()) {
        headers.insert(LOCATION, value);
    }
}

/// Read an answer to its end, as far as that is bearable
async fn receive(mut response: reqwest::Response) -> Result<Answer, TransportError> {
    let headers: usize = response.headers().iter().map(|(n, v)| n.as_str().len() + v.len()).sum();
    let announced = response.content_length().unwrap_or(0);
    if headers > MAX_HEADERS || announced > MAX_BODY as u64 {
        return Err(TransportError::TooLarge);
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(TransportError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    let status = response.status();
    let headers = std::mem::take(response.headers_mut());
    Ok(Answer::new(status, headers, body.freeze()))
}

fn hand_over(parts: http::response::Parts, body: Bytes) -> BytesResponse {
    BytesResponse { parts, body: Box::new(body) }
}

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let wire = Arc::clone(&self.wire);
        Box::pin(async move {
            let relayed = wire.relay(request).await;
            relayed.map_err(|error| instant_acme::Error::Other(Box::new(error)))
        })
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("directory", &self.wire.directory)
            .field("requests", &self.requests())
            .finish_non_exhaustive()
    }
}

/// The system's resolver, without the addresses that no CA has
struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // How long this is waited for is in `CONNECT_TIMEOUT`.
            let found = resolver::CA.look_up(name.as_str().to_owned(), 0).await?.into_iter();
            let (bad, good): (Vec<_>, Vec<_>) = found.partition(|a| is_off_limits(a.ip()));
            if good.is_empty() && !bad.is_empty() {
                return Err("it has only link-local or metadata addresses".into());
            }
            Ok(Box::new(good.into_iter()) as Addrs)
        })
    }
}

const AGENT: &str = concat!("certkeep/", env!("CARGO_PKG_VERSION"), " (instant-acme 0.8)");

const REPLAY_NONCE: HeaderName = HeaderName::from_static("replay-nonce");

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const READ_TIMEOUT: Duration = Duration::from_secs(30);

const TOTAL_TIMEOUT: Duration = Duration::from_secs(60);

/// Shorter than any CA keeps a connection, so that no request meets one that was just closed
const POOL_IDLE: Duration = Duration::from_secs(20);

const MAX_HEADERS: usize = 64 << 10;

const MAX_BODY: usize = 1 << 20;

/// Why there is no answer
#[derive(Clone, Debug, Error)]
pub(super) enum TransportError {
    /// The connection broke, or what came over it was no HTTP
    #[error("{0}")]
    Broken(String),
    /// A URL that must not be asked
    #[error("the CA names a URL that {}: `{}`", .0.fault, .0.url)]
    Fenced(#[from] FenceError),
    /// newNonce did not give one
    #[error("the CA gave no nonce (HTTP {})", .0.status)]
    NoNonce(Box<Answer>),
    /// A redirect, which is not followed
    #[error("`{from}` redirects to `{to}`, and redirects are not followed")]
    Redirected { from: External, to: External },
    /// No client could be made
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
    /// One of the limits on time
    #[error("the CA did not answer in time: {0}")]
    TimedOut(String),
    /// One of the limits on size
    #[error("the CA's answer is larger than 1 MiB, or its headers larger than 64 KiB")]
    TooLarge,
}

impl TransportError {
    fn by(error: &reqwest::Error, text: String) -> Self {
        match error.is_timeout() {
            true => Self::TimedOut(text),
            false => Self::Broken(text),
        }
    }
}

impl From<reqwest::Error> for TransportError {
    fn from(error: reqwest::Error) -> Self {
        Self::by(&error, describe(&error))
    }
}

/// An error and what is behind it, each said once
fn describe(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        // The client's own layer says no more than that it was not ours.
        let said = causes.iter().any(|known: &String| known.contains(&text));
        if !said && !text.starts_with("client error (") {
            causes.push(text);
        }
        next = cause.source();
    }
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}

#[cfg(test)]
mod tests;
