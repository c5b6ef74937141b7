//! A clock, a web server for http-01, and two clients.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use certkeep::dev_ca::{DevCa, Options};
use certkeep::time::{Clock, Timestamp};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use instant_acme::{
    Account, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeType, HttpClient,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A clock that starts at the real time and is moved by hand
#[derive(Debug)]
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    #[expect(clippy::disallowed_methods, reason = "certificates are checked by the real clock")]
    pub(crate) fn real() -> Arc<Self> {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Arc::new(Self(AtomicI64::new(i64::try_from(since.as_millis()).unwrap())))
    }

    pub(crate) fn forward(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// A CA, the web server that it validates, and the clock of both
pub(crate) struct World {
    pub(crate) ca: DevCa,
    pub(crate) web: Web,
    pub(crate) clock: Arc<TestClock>,
}

impl World {
    pub(crate) async fn new(options: Options) -> Self {
        let (web, clock) = (Web::start().await, TestClock::real());
        let options = Options { http01_port: web.port, ..options };
        let ca = DevCa::start(options, Arc::clone(&clock) as Arc<dyn Clock>).await.unwrap();
        Self { ca, web, clock }
    }

    pub(crate) fn http(&self) -> Http {
        let root = reqwest::Certificate::from_pem(self.ca.root_pem().as_bytes()).unwrap();
        let builder = reqwest::Client::builder().no_proxy().user_agent("certkeep-test");
        Http(builder.tls_certs_only([root]).build().unwrap())
    }

    /// An account through instant-acme
    pub(crate) async fn account(&self) -> Account {
        let new =
            NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
        let builder = Account::builder_with_http(Box::new(self.http()));
        builder.create(&new, self.ca.directory().to_owned(), None).await.unwrap().0
    }

    /// Put every key authorization where the CA looks, and say so
    pub(crate) async fn respond(&self, order: &mut Order) {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.unwrap();
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let mut challenge = authorization.challenge(ChallengeType::Http01).unwrap();
            let body = challenge.key_authorization().as_str().to_owned();
            self.web.serve(&challenge.token, 200, "", &body);
            challenge.set_ready().await.unwrap();
        }
    }

    /// A whole issuance; gives the key, and the chain in PEM
    pub(crate) async fn issue(
        &self,
        account: &Account,
        new: &NewOrder<'_>,
    ) -> (rcgen::KeyPair, String) {
        let mut order = account.new_order(new).await.unwrap();
        self.respond(&mut order).await;
        assert_eq!(order.poll_ready(&RETRY).await.unwrap(), OrderStatus::Ready);
        let mut names = Vec::new();
        let mut identifiers = order.identifiers();
        while let Some(identifier) = identifiers.next().await {
            names.push(identifier.unwrap().to_string());
        }
        let (key, csr) = csr(&names);
        order.finalize_csr(&csr).await.unwrap();
        (key, order.poll_certificate(&RETRY).await.unwrap())
    }
}

pub(crate) const RETRY: RetryPolicy = RetryPolicy::new().initial_delay(Duration::from_millis(5));

pub(crate) fn dns(names: &[&str]) -> Vec<Identifier> {
    names.iter().map(|name| Identifier::Dns((*name).to_owned())).collect()
}

/// A fresh key, and a CSR for the names with it
pub(crate) fn csr(names: &[String]) -> (rcgen::KeyPair, Vec<u8>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(names.to_vec()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let csr = params.serialize_request(&key).unwrap().der().to_vec();
    (key, csr)
}

/// An HTTP/1.1 server that answers what it was told to, and notes `Host` and path
pub(crate) struct Web {
    pub(crate) port: u16,
    pub(crate) seen: Arc<Mutex<Vec<(String, String)>>>,
    answers: Answers,
    _task: JoinSet<()>,
}

type Answers = Arc<Mutex<HashMap<String, String>>>;

impl Web {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answers, seen) = (Answers::default(), Arc::new(Mutex::new(Vec::new())));
        let mut task = JoinSet::new();
        let (known, log) = (Arc::clone(&answers), Arc::clone(&seen));
        task.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let host = head.lines().find_map(|line| {
                    line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("host"))
                });
                let host = host.map(|(_, value)| value.to_owned()).unwrap_or_default();
                let answer = known.lock().unwrap().get(&path).cloned();
                log.lock().unwrap().push((host, path));
                let answer = answer.unwrap_or_else(|| respond(404, "", "nothing here"));
                stream.write_all(answer.as_bytes()).await.ok();
            }
        });
        Self { port, seen, answers, _task: task }
    }

    /// Answer for a token
    pub(crate) fn serve(&self, token: &str, status: u16, header: &str, body: &str) {
        self.serve_path(&format!("/.well-known/acme-challenge/{token}"), status, header, body);
    }

    pub(crate) fn serve_path(&self, path: &str, status: u16, header: &str, body: &str) {
        self.answers.lock().unwrap().insert(path.to_owned(), respond(status, header, body));
    }
}

fn respond(status: u16, header: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{header}\r\n{body}")
}

/// reqwest as instant-acme wants it
#[derive(Clone)]
pub(crate) struct Http(pub(crate) reqwest::Client);

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let request = client.request(head.method, head.uri.to_string());
            let sent = request.headers(head.headers).body(body).send().await;
            let answer = sent.map_err(|error| instant_acme::Error::Other(Box::new(error)))?;
            let mut response = http::Response::builder().status(answer.status());
            *response.headers_mut().unwrap() = answer.headers().clone();
            let body = answer.bytes().await.unwrap();
            Ok(BytesResponse::from(response.body(Full::new(body)).unwrap()))
        })
    }
}

/// A client whose requests can be wrong in any way
pub(crate) struct Raw {
    pub(crate) http: reqwest::Client,
    pub(crate) directory: Value,
    pub(crate) key: EcdsaKeyPair,
    pub(crate) kid: Option<String>,
}

/// An answer, read whole
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answered {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The last part of the problem's type, or an empty text
    pub(crate) fn problem(&self) -> String {
        let json: Value = serde_json::from_str(&self.text).unwrap_or_default();
        let urn = json["type"].as_str().unwrap_or_default();
        urn.strip_prefix("urn:ietf:params:acme:error:").unwrap_or_default().to_owned()
    }

    /// Status and problem, which most tests compare
    pub(crate) fn outcome(&self) -> (u16, String) {
        (self.status.as_u16(), self.problem())
    }
}

impl Raw {
    /// A client with an account
    pub(crate) async fn new(world: &World) -> Self {
        let mut raw = Self::without_account(world).await;
        let answer =
            raw.post("newAccount", &json!({ "termsOfServiceAgreed": true }).to_string()).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        raw.kid = Some(answer.header("location").to_owned());
        raw
    }

    pub(crate) async fn without_account(world: &World) -> Self {
        let http = world.http().0;
        let text = http.get(world.ca.directory()).send().await.unwrap().text().await.unwrap();
        let directory = serde_json::from_str(&text).unwrap();
        Self { http, directory, key: new_key(), kid: None }
    }

    pub(crate) fn url(&self, resource: &str) -> String {
        self.directory[resource].as_str().unwrap_or(resource).to_owned()
    }

    pub(crate) async fn nonce(&self) -> String {
        let head = self.http.head(self.url("newNonce")).send().await.unwrap();
        head.headers()["replay-nonce"].to_str().unwrap().to_owned()
    }

    /// The protected header of a good request
    pub(crate) async fn header(&self, url: &str) -> Value {
        let mut header = json!({ "alg": "ES256", "nonce": self.nonce().await, "url": url });
        match &self.kid {
            Some(kid) => header["kid"] = json!(kid),
            None => header["jwk"] = jwk(&self.key),
        }
        header
    }

    /// A good request to a resource of the directory, or to an URL
    pub(crate) async fn post(&self, resource: &str, payload: &str) -> Answered {
        let url = self.url(resource);
        let header = self.header(&url).await;
        self.send(&url, sign(&self.key, &header, payload).to_string()).await
    }

    pub(crate) async fn send(&self, url: &str, body: String) -> Answered {
        let request = self.http.post(url).header("content-type", "application/jose+json");
        answered(request.body(body).send().await.unwrap()).await
    }
}

pub(crate) async fn answered(response: reqwest::Response) -> Answered {
    let (status, headers) = (response.status(), response.headers().clone());
    Answered { status, headers, text: response.text().await.unwrap() }
}

pub(crate) fn new_key() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
}

pub(crate) fn jwk(key: &EcdsaKeyPair) -> Value {
    let point = &key.public_key().as_ref()[1..];
    let encode = |bytes| URL_SAFE_NO_PAD.encode(bytes);
    json!({ "kty": "EC", "crv": "P-256", "x": encode(&point[..32]), "y": encode(&point[32..]) })
}

pub(crate) fn sign(key: &EcdsaKeyPair, header: &Value, payload: &str) -> Value {
    seal(header, payload, |message| {
        key.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec()
    })
}

/// A flattened JWS around what `signature` makes of the message
pub(crate) fn seal(header: &Value, payload: &str, signature: impl Fn(&str) -> Vec<u8>) -> Value {
    let protected = URL_SAFE_NO_PAD.encode(header.to_string());
    let payload = URL_SAFE_NO_PAD.encode(payload);
    let signature = URL_SAFE_NO_PAD.encode(signature(&format!("{protected}.{payload}")));
    json!({ "protected": protected, "payload": payload, "signature": signature })
}
