//! A CA of a few lines for the tests beside it: well-behaved, but for what a test puts in.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{Session, Transport, new_account_record};
use crate::config::Issuer;
use crate::name::IssuerName;
use crate::time::{Clock, Timestamp};

/// A CA on loopback that stops with its test
pub(super) struct Ca {
    pub(super) url: String,
    shop: Arc<Shop>,
    _server: JoinSet<()>,
}

struct Shop {
    url: String,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    directory: Map<String, Value>,
    always: HashMap<String, Answerer>,
    once: HashMap<String, VecDeque<Answerer>>,
    seen: Vec<Seen>,
    nonces: HashSet<String>,
    next_nonce: u32,
    keys: HashSet<String>,
    orders: Vec<Placed>,
}

type Answerer = Box<dyn Fn(&Seen) -> Reply + Send>;

#[derive(Default)]
struct Placed {
    names: Vec<Value>,
    proven: HashSet<usize>,
    looks_after_finalize: Option<u32>,
}

/// A request that the CA saw
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) agent: String,
    pub(super) header: Value,
    pub(super) payload: Value,
}

/// What the CA answers
pub(super) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: UnsyncBoxBody<Bytes, Infallible>,
}

impl Reply {
    pub(super) fn json(status: u16, body: &str) -> Self {
        let kind = ("content-type".to_owned(), "application/json".to_owned());
        Self { status, headers: vec![kind], body: Full::from(body.to_owned()).boxed_unsync() }
    }

    pub(super) fn problem(status: u16, kind: &str, detail: &str) -> Self {
        let kind = format!("urn:ietf:params:acme:error:{kind}");
        Self::json(status, &json!({ "type": kind, "detail": detail }).to_string())
    }

    /// A gigabyte that nobody announces
    pub(super) fn flood() -> Self {
        Self { body: Flood(1 << 30).boxed_unsync(), ..Self::json(200, "") }
    }

    /// A byte each time that this has passed, without end
    pub(super) fn drip(each: Duration) -> Self {
        let body = Drip { each, next: Box::pin(tokio::time::sleep(each)) };
        Self { body: body.boxed_unsync(), ..Self::json(200, "") }
    }

    pub(super) fn header(mut self, name: &str, value: Option<&str>) -> Self {
        self.headers.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        self
    }
}

struct Flood(usize);

impl Body for Flood {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.0 == 0 {
            return Poll::Ready(None);
        }
        self.0 -= 1 << 16;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b' '; 1 << 16])))))
    }
}

struct Drip {
    each: Duration,
    next: Pin<Box<tokio::time::Sleep>>,
}

impl Body for Drip {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        std::task::ready!(self.next.as_mut().poll(context));
        let next = tokio::time::Instant::now() + self.each;
        self.next.as_mut().reset(next);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))))
    }
}

/// A clock that stands still
#[derive(Debug)]
pub(super) struct Stopped(pub(super) Timestamp);

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// An issuer with this directory and nothing else
pub(super) fn issuer(directory: &str) -> Issuer {
    Issuer {
        name: IssuerName::parse("ca").unwrap(),
        directory: directory.to_owned(),
        ca_file: None,
        insecure_loopback: true,
        allowed_hosts: Vec::new(),
        contact: Vec::new(),
        eab: None,
        profile: None,
        staging: None,
        proxy: None,
    }
}

impl Ca {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut books = Books::default();
        for (name, path) in [
            ("newNonce", "/nonce"),
            ("newAccount", "/new-account"),
            ("newOrder", "/new-order"),
            ("revokeCert", "/revoke"),
            ("keyChange", "/key-change"),
            ("renewalInfo", "/ari"),
        ] {
            books.directory.insert(name.to_owned(), json!(format!("{url}{path}")));
        }
        books.directory.insert("meta".to_owned(), json!({ "profiles": { "short": "6 days" } }));
        let shop = Arc::new(Shop { url: url.clone(), books: Mutex::new(books) });
        let mut server = JoinSet::new();
        server.spawn(accept(listener, Arc::clone(&shop)));
        Self { url, shop, _server: server }
    }

    pub(super) fn now(&self) -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    pub(super) fn transport(&self) -> Transport {
        let issuer = issuer(&format!("{}/dir", self.url));
        Transport::new(&issuer, None, Arc::new(Stopped(self.now()))).unwrap()
    }

    pub(super) async fn session(&self) -> Session {
        let transport = self.transport();
        let directory = format!("{}/dir", self.url);
        let record = new_account_record(&directory, None, &[], self.now()).unwrap();
        Session::open(&transport, &record, None).await.unwrap().session
    }

    /// Answer requests to this path so from now on
    pub(super) fn on(&self, path: &str, answer: impl Fn(&Seen) -> Reply + Send + 'static) {
        self.books().always.insert(path.to_owned(), Box::new(answer));
    }

    /// Answer one further request to this path so
    pub(super) fn once(&self, path: &str, answer: impl Fn(&Seen) -> Reply + Send + 'static) {
        self.books().once.entry(path.to_owned()).or_default().push_back(Box::new(answer));
    }

    pub(super) fn edit_directory(&self, edit: impl FnOnce(&mut Map<String, Value>)) {
        edit(&mut self.books().directory);
    }

    /// The requests since this was last asked, each as method and path
    pub(super) fn requests(&self) -> Vec<String> {
        let seen = self.seen();
        seen.into_iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.books().seen)
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.shop.books.lock().unwrap()
    }
}

async fn accept(listener: TcpListener, shop: Arc<Shop>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shop = Arc::clone(&shop);
        let answer = service_fn(move |request| {
            let shop = Arc::clone(&shop);
            async move { Ok::<_, Infallible>(serve(&shop, request).await) }
        });
        // A client that hangs up in the middle is what some tests are about.
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
        connections.spawn(async move { drop(connection.await) });
    }
}

async fn serve(
    shop: &Shop,
    request: Request<Incoming>,
) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let jws: Value = serde_json::from_slice(&body).unwrap_or_default();
    let part = |name: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(jws[name].as_str().unwrap_or_default()).unwrap();
        serde_json::from_slice(&bytes).unwrap_or_default()
    };
    let agent = parts.headers.get("user-agent").map_or("", |value| value.to_str().unwrap());
    let seen = Seen {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        agent: agent.to_owned(),
        header: part("protected"),
        payload: part("payload"),
    };
    let mut books = shop.books.lock().unwrap();
    let reply = books.answer(&shop.url, &seen);
    let mut response = Response::builder().status(reply.status);
    if seen.method != "GET" {
        let nonce = format!("nonce-{}", books.next_nonce);
        books.next_nonce += 1;
        response = response.header("replay-nonce", &nonce);
        books.nonces.insert(nonce);
    }
    books.seen.push(seen);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    response.body(reply.body).unwrap()
}

impl Books {
    fn answer(&mut self, url: &str, seen: &Seen) -> Reply {
        if seen.method == "POST" {
            let nonce = seen.header["nonce"].as_str().unwrap_or_default();
            if !self.nonces.remove(nonce) {
                return Reply::problem(400, "badNonce", "never handed out, or used");
            }
            assert_eq!(seen.header["url"], format!("{url}{}", seen.path));
        }
        if let Some(answer) = self.once.get_mut(&seen.path).and_then(VecDeque::pop_front) {
            return answer(seen);
        }
        if let Some(answer) = self.always.get(&seen.path) {
            return answer(seen);
        }
        let mut path = seen.path.trim_start_matches('/').split('/');
        let place = path.next().unwrap();
        let mut number = || path.next().and_then(|n| n.parse::<usize>().ok());
        match (place, number(), number()) {
            ("dir", ..) => Reply::json(200, &Value::Object(self.directory.clone()).to_string()),
            ("nonce" | "revoke" | "key-change", ..) => Reply::json(200, ""),
            ("acct", ..) => Reply::json(200, r#"{"status":"valid"}"#),
            ("new-account", ..) => self.register(url, seen),
            ("new-order", ..) => {
                let names = seen.payload["identifiers"].as_array().unwrap().clone();
                self.orders.push(Placed { names, ..Placed::default() });
                let id = self.orders.len() - 1;
                let mut order = self.order(url, id);
                if let Some(replaces) = seen.payload.get("replaces") {
                    order["replaces"] = replaces.clone();
                }
                let at = format!("{url}/order/{id}");
                Reply::json(201, &order.to_string()).header("location", Some(&at))
            }
            ("order", Some(id), _) if id < self.orders.len() => {
                let looks = &mut self.orders[id].looks_after_finalize;
                *looks = looks.map(|looks| looks + 1);
                Reply::json(200, &self.order(url, id).to_string())
            }
            ("finalize", Some(id), _) => {
                self.orders[id].looks_after_finalize = Some(0);
                Reply::json(200, &self.order(url, id).to_string())
            }
            ("authz", Some(id), Some(index)) => {
                let proven = self.orders[id].proven.contains(&index);
                let status = if proven { "valid" } else { "pending" };
                let challenge = json!({ "type": "http-01", "url": format!("{url}/chall/{id}/{index}"),
                    "status": status, "token": format!("token-{id:020}-{index:020}") });
                let alien = json!({ "type": "dns-persist-01", "url": url, "status": status });
                let name = &self.orders[id].names[index];
                let body = json!({ "identifier": name, "status": status,
                    "challenges": [alien, challenge] });
                Reply::json(200, &body.to_string())
            }
            ("chall", Some(id), Some(index)) => {
                assert_eq!(seen.payload, json!({}));
                self.orders[id].proven.insert(index);
                let body = json!({ "type": "http-01", "url": format!("{url}{}", seen.path),
                    "status": "processing", "token": "t" });
                Reply::json(200, &body.to_string())
            }
            ("cert", Some(_), _) => Reply::json(200, CHAIN),
            _ => Reply::problem(404, "malformed", "no such resource"),
        }
    }

    fn register(&mut self, url: &str, seen: &Seen) -> Reply {
        let key = seen.header["jwk"]["x"].as_str().unwrap().to_owned();
        let known = self.keys.contains(&key);
        if !known && seen.payload["onlyReturnExisting"] == true {
            return Reply::problem(400, "accountDoesNotExist", "no account has this key");
        }
        self.keys.insert(key);
        let status = if known { 200 } else { 201 };
        Reply::json(status, "{}").header("location", Some(&format!("{url}/acct/1")))
    }

    fn order(&self, url: &str, id: usize) -> Value {
        let order = &self.orders[id];
        let status = match order.looks_after_finalize {
            None if order.proven.len() == order.names.len() => "ready",
            None => "pending",
            Some(0) => "processing",
            Some(_) => "valid",
        };
        let each = 0..order.names.len();
        json!({ "status": status, "identifiers": order.names,
            "authorizations": each.map(|i| format!("{url}/authz/{id}/{i}")).collect::<Vec<_>>(),
            "finalize": format!("{url}/finalize/{id}"),
            "certificate": (status == "valid").then(|| format!("{url}/cert/{id}")) })
    }
}

/// What the CA calls a certificate
pub(super) const CHAIN: &str = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";
