//! What endpoints serve, asked of real TLS servers.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use certkeep::cert::Fingerprint;
use certkeep::config::{Address, Endpoint, KeyType, StartTls};
use certkeep::failure::{Failure, FailureClass, Step};
use certkeep::name::Identifier;
use certkeep::probe::{ProbeError, Prober, Protocol, Seen, Wanted};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
    SignatureAlgorithm,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};
use rustls_pki_types::PrivateKeyDer;
use support::nginx::nginx;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, lookup_host};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A certificate with its key, as a server holds them
#[derive(Clone, Debug)]
struct Pair {
    leaf: Fingerprint,
    certified: Arc<CertifiedKey>,
    pem: (String, String),
}

impl Pair {
    fn new(name: &str) -> Self {
        Self::with(name, &PKCS_ECDSA_P256_SHA256, |_| ())
    }

    fn with(
        name: &str,
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let pem = (certificate.pem(), key.serialize_pem());
        let certificate = certificate.der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = default_provider().key_provider.load_private_key(key).unwrap();
        let leaf = Fingerprint::of(&certificate);
        Self { leaf, certified: Arc::new(CertifiedKey::new(vec![certificate], key)), pem }
    }

    /// This certificate and its key in two files
    fn in_files(&self, folder: &Path) -> (PathBuf, PathBuf) {
        let path = |end| folder.join(format!("{}.{end}", self.leaf.short()));
        let (certificate, key) = (path("pem"), path("key"));
        support::write(&certificate, &self.pem.0);
        support::write(&key, &self.pem.1);
        (certificate, key)
    }

    /// This certificate, with the key of another
    fn with_key_of(&self, other: &Self) -> Self {
        let (chain, key) = (self.certified.cert.clone(), Arc::clone(&other.certified.key));
        let certified = Arc::new(CertifiedKey::new(chain, key));
        Self { leaf: self.leaf, certified, pem: self.pem.clone() }
    }
}

/// What a server does with a connection
enum Does {
    Close,
    KeepSilent,
    Refuse,
    Say(&'static str),
    Serve(Pair),
    ServeAfter(Duration, Pair),
    /// Send so many messages of the handshake of TLS 1.2, and hang up
    Begin(usize, Pair),
}

type Plan = Arc<dyn Fn(usize) -> Does + Send + Sync>;

#[derive(Debug)]
struct Resolver {
    pair: Option<Pair>,
    asked_for: Arc<Mutex<Vec<Option<String>>>>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.asked_for.lock().unwrap().push(hello.server_name().map(ToOwned::to_owned));
        self.pair.as_ref().map(|pair| Arc::clone(&pair.certified))
    }
}

/// Accepts connections until dropped
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    asked_for: Arc<Mutex<Vec<Option<String>>>>,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientCertificate {
    Required,
    Unasked,
}

impl Server {
    async fn start(plan: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        Self::on("127.0.0.1:0", plan).await
    }

    async fn on(address: &str, plan: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        let both = vec![&TLS12, &TLS13];
        Self::with(address, both, ClientCertificate::Unasked, Arc::new(plan)).await
    }

    async fn with(
        address: &str,
        versions: Vec<&'static SupportedProtocolVersion>,
        client: ClientCertificate,
        plan: Plan,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, asked_for) = (Arc::<AtomicUsize>::default(), Arc::default());
        let (count, names) = (Arc::clone(&connections), Arc::clone(&asked_for));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut silent = Vec::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let pair = match plan(count.fetch_add(1, Ordering::SeqCst)) {
                    Does::Close => continue,
                    Does::KeepSilent => {
                        silent.push(stream);
                        continue;
                    }
                    Does::Say(text) => {
                        say(stream, text).await;
                        continue;
                    }
                    Does::Refuse => None,
                    Does::ServeAfter(pause, pair) => {
                        tokio::time::sleep(pause).await;
                        Some(pair)
                    }
                    Does::Serve(pair) => Some(pair),
                    Does::Begin(messages, pair) => {
                        begin(stream, pair, messages).await;
                        continue;
                    }
                };
                let resolver = Resolver { pair, asked_for: Arc::clone(&names) };
                let acceptor =
                    TlsAcceptor::from(Arc::new(server_config(&versions, client, resolver)));
                // The probe hangs up when it has seen enough.
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    stream.shutdown().await.ok();
                }
            }
        });
        Self { address, connections, asked_for, _tasks: tasks }
    }

    fn endpoint(&self, host: &str, within: Duration) -> Endpoint {
        let host = Identifier::parse(host).unwrap();
        Endpoint {
            host,
            port: 1,
            connect: Some(self.address.into()),
            starttls: None,
            samples: 2,
            within,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn say(mut stream: TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    // What was not read would reset the connection, and the text with it.
    assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
}

async fn begin(mut stream: TcpStream, pair: Pair, messages: usize) {
    let resolver = Resolver { pair: Some(pair), asked_for: Arc::default() };
    let config = server_config(&[&TLS12], ClientCertificate::Unasked, resolver);
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();
    let mut hello = [0; 4096];
    let read = stream.read(&mut hello).await.unwrap();
    server.read_tls(&mut &hello[..read]).unwrap();
    server.process_new_packets().unwrap();
    let mut flight = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut flight).unwrap();
    }
    let mut inside = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = &flight[..] {
        let (text, rest) = rest.split_at(usize::from(*high) << 8 | usize::from(*low));
        inside.extend_from_slice(text);
        flight = rest.to_vec();
    }
    let mut left = &inside[..];
    for _ in 0..messages {
        let (message, rest) = left.split_at(4 + usize::from(left[2]) * 256 + usize::from(left[3]));
        left = rest;
        let length = u16::try_from(message.len()).unwrap().to_be_bytes();
        stream.write_all(&[&[22, 3, 3], &length[..], message].concat()).await.unwrap();
    }
    assert_eq!(left.is_empty(), messages == WHOLE_FLIGHT);
    if left.is_empty() {
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0, "the client goes on");
    }
}

/// ServerHello, Certificate, ServerKeyExchange, ServerHelloDone
const WHOLE_FLIGHT: usize = 4;

fn server_config(
    versions: &[&'static SupportedProtocolVersion],
    client: ClientCertificate,
    resolver: Resolver,
) -> ServerConfig {
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(versions).unwrap();
    if client == ClientCertificate::Unasked {
        return builder.with_no_client_auth().with_cert_resolver(Arc::new(resolver));
    }
    let authority = Pair::with("ca.test", &PKCS_ECDSA_P256_SHA256, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let mut roots = RootCertStore::empty();
    roots.add(authority.certified.cert[0].clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    builder.with_client_cert_verifier(verifier.unwrap()).with_cert_resolver(Arc::new(resolver))
}

async fn outcome(server: &Server, host: &str) -> Result<(Fingerprint, Protocol), ProbeError> {
    let endpoint = server.endpoint(host, Duration::ZERO);
    let [served] = Prober::new().probe(&endpoint, PATIENCE).await.unwrap().try_into().unwrap();
    assert_eq!(served.address, Address::Tcp(server.address));
    served.outcome.map(|chain| {
        assert_eq!(Fingerprint::of(&chain.chain[0]), chain.leaf);
        (chain.leaf, chain.protocol)
    })
}

/// A name with three addresses, or the one of this host where a private `/etc/hosts` cannot be
///
/// `None` when the test has run already, in a process with such a file.
fn name_with_addresses(test: &str) -> Option<&'static str> {
    const NAME: &str = "three.test";
    if std::env::var_os("CERTKEEP_TEST_HOSTS").is_some() {
        return Some(NAME);
    }
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-euc", script]);
        command.env("CERTKEEP_TEST_HOSTS", "1").env("TEST", test);
        command.arg(std::env::current_exe().unwrap()).output()
    };
    let hosts = format!("127.0.0.1 {NAME}\n127.0.0.2 {NAME}\n127.0.0.3 {NAME}");
    let private = format!(
        "mount -t tmpfs tmpfs /mnt; echo '{hosts}' > /mnt/hosts; mount --bind /mnt/hosts /etc/hosts"
    );
    if !unshare(&private).is_ok_and(|output| output.status.success()) {
        return Some("localhost");
    }
    let output = unshare(&format!(r#"{private}; exec "$0" --exact "$TEST""#)).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    None
}

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn any_certificate_is_seen_as_it_is() {
    let past = rcgen::date_time_ymd(2020, 1, 1);
    let pairs = [
        ("fitting", Pair::new("a.test")),
        ("of another name", Pair::new("b.test")),
        ("expired", Pair::with("a.test", &PKCS_ECDSA_P256_SHA256, |p| p.not_after = past)),
        ("RSA", Pair::with("a.test", &PKCS_RSA_SHA256, |_| ())),
    ];
    let versions = [(&TLS12, Protocol::Tls12), (&TLS13, Protocol::Tls13)];
    for (what, pair) in pairs {
        for (version, protocol) in versions {
            for client in [ClientCertificate::Unasked, ClientCertificate::Required] {
                let serving = pair.clone();
                let plan: Plan = Arc::new(move |_| Does::Serve(serving.clone()));
                let server = Server::with("127.0.0.1:0", vec![version], client, plan).await;
                let seen = outcome(&server, "a.test").await;
                assert_eq!(seen, Ok((pair.leaf, protocol)), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_name_is_asked_for_and_an_address_is_not() {
    let pair = Pair::new("a.test");
    let server = Server::start(move |_| Does::Serve(pair.clone())).await;
    outcome(&server, "bücher.test").await.unwrap();
    outcome(&server, "127.0.0.1").await.unwrap();
    let expected = [Some("xn--bcher-kva.test".to_owned()), None];
    assert_eq!(*server.asked_for.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_chain_without_its_key_proves_nothing() {
    let stolen = Pair::new("a.test").with_key_of(&Pair::new("thief.test"));
    let server = Server::start(move |_| Does::Serve(stolen.clone())).await;
    let seen = outcome(&server, "a.test").await;
    assert!(matches!(seen, Err(ProbeError::Tls(_))), "{seen:?}");
}

#[tokio::test]
async fn a_server_that_hangs_up_once_it_has_proven_its_certificate_was_seen() {
    let pair = Pair::new("a.test");
    for messages in 0..=WHOLE_FLIGHT {
        let serving = pair.clone();
        let server = Server::start(move |_| Does::Begin(messages, serving.clone())).await;
        let expected = match messages {
            WHOLE_FLIGHT => Ok((pair.leaf, Protocol::Tls12)),
            _ => Err(ProbeError::Closed),
        };
        assert_eq!(outcome(&server, "a.test").await, expected, "{messages}");
    }
    let stolen = pair.with_key_of(&Pair::new("thief.test"));
    let server = Server::start(move |_| Does::Begin(WHOLE_FLIGHT, stolen.clone())).await;
    outcome(&server, "a.test").await.unwrap_err();
}

#[tokio::test]
async fn what_is_no_handshake_is_told_apart() {
    let server = Server::start(|_| Does::Close).await;
    assert_eq!(outcome(&server, "a.test").await, Err(ProbeError::Closed));
    let server = Server::start(|_| Does::Say("HTTP/1.1 400 Bad Request\r\n\r\n")).await;
    assert_eq!(outcome(&server, "a.test").await, Err(ProbeError::NotTls));
    let server = Server::start(|_| Does::Refuse).await;
    let seen = outcome(&server, "a.test").await;
    assert!(matches!(seen, Err(ProbeError::Alert(_))), "{seen:?}");

    let server = Server::start(|_| Does::KeepSilent).await;
    let endpoint = server.endpoint("a.test", Duration::ZERO);
    let seen = Prober::new().probe(&endpoint, Duration::from_millis(200)).await.unwrap();
    assert_eq!(seen[0].outcome, Err(ProbeError::SilentHandshake));
}

#[tokio::test]
async fn a_server_that_does_not_agree_to_begin_tls_is_told_apart() {
    let outcome = async |server: &Server, limit| {
        let starttls = Some(StartTls::Smtp);
        let endpoint = Endpoint { starttls, ..server.endpoint("a.test", Duration::ZERO) };
        let mut seen = Prober::new().probe(&endpoint, limit).await.unwrap();
        seen.remove(0).outcome.map(|chain| chain.leaf)
    };
    let server = Server::start(|_| Does::Close).await;
    assert_eq!(outcome(&server, PATIENCE).await, Err(ProbeError::ClosedEarly));
    let server = Server::start(|_| Does::Say("220 a\r\n250 a\r\n")).await;
    assert_eq!(outcome(&server, PATIENCE).await, Err(ProbeError::NoStartTls));
    // TLS from the first byte on: both wait for the other to begin.
    let server = Server::start(|_| Does::Serve(Pair::new("a.test"))).await;
    let silent = outcome(&server, Duration::from_millis(200)).await;
    assert_eq!(silent, Err(ProbeError::SilentStartTls));
}

#[tokio::test]
async fn nobody_listening_is_told_with_the_address() {
    // Bound and not listening, so that nobody else can listen there.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let host = Identifier::parse("127.0.0.1").unwrap();
    let within = Duration::from_millis(100);
    let endpoint =
        Endpoint { host, port: address.port(), connect: None, starttls: None, samples: 2, within };
    let wanted = Wanted { leaf: Fingerprint([1; 32]), key: None, previous: None };
    let unseen = Prober::new().verify(&endpoint, wanted).await.unwrap_err();
    let expected = Seen {
        address: address.into(),
        outcome: Some(Err(ProbeError::Refused)),
        good: 0,
        failed: unseen.addresses[0].failed,
        answered: false,
        settled: false,
    };
    assert_eq!(unseen.addresses, [expected]);
    let failure = Failure::from(unseen);
    assert_eq!((failure.step, &failure.class), (Step::Verify, &FailureClass::Retry));
    let expected = format!("{address} refuses the connection");
    assert!(failure.summary.as_str().ends_with(&expected), "{failure}");
}

#[tokio::test]
async fn a_unix_socket_is_an_address_too_and_named_when_it_is_gone() {
    // Not below the target directory, whose path may be too long for a socket.
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("nginx.sock");
    let pair = Pair::new("a.test");
    let (certificate, key) = pair.in_files(folder.path());
    let nginx = nginx(certificate, key).with_socket(&socket).start();
    let host = Identifier::parse("a.test").unwrap();
    let connect = Some(Address::Unix(socket.clone()));
    let endpoint =
        Endpoint { host, port: 443, connect, starttls: None, samples: 2, within: PATIENCE };
    let wanted = Wanted { leaf: pair.leaf, key: None, previous: None };
    assert_eq!(Prober::new().verify(&endpoint, wanted).await, Ok(1));

    drop(nginx);
    std::fs::remove_file(&socket).ok();
    let endpoint = Endpoint { within: Duration::from_millis(100), ..endpoint };
    let unseen = Prober::new().verify(&endpoint, wanted).await.unwrap_err().to_string();
    let expected = format!("unix:{} cannot be reached: there is no such socket", socket.display());
    assert!(unseen.ends_with(&expected), "{unseen}");
}

#[tokio::test]
async fn a_name_is_asked_for_over_a_unix_socket_too() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("server.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let asked_for: Arc<Mutex<Vec<_>>> = Arc::default();
    let resolver = Resolver { pair: Some(Pair::new("a.test")), asked_for: Arc::clone(&asked_for) };
    let config = server_config(&[&TLS13], ClientCertificate::Unasked, resolver);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
    });
    let host = Identifier::parse("a.test").unwrap();
    let connect = Some(Address::Unix(socket));
    let endpoint =
        Endpoint { host, port: 443, connect, starttls: None, samples: 2, within: Duration::ZERO };
    let seen = Prober::new().probe(&endpoint, PATIENCE).await.unwrap();
    assert!(seen[0].outcome.is_ok(), "{seen:?}");
    assert_eq!(*asked_for.lock().unwrap(), [Some("a.test".to_owned())]);
}

#[tokio::test]
async fn each_of_two_certificates_with_different_keys_is_reached() {
    let folder = support::folder();
    let rsa = Pair::with("a.test", &PKCS_RSA_SHA256, |_| ());
    let ecdsa = Pair::new("a.test");
    let (certificate, key) = rsa.in_files(folder.path());
    let (second, second_key) = ecdsa.in_files(folder.path());
    let both = nginx(certificate, key).with_pair(second, second_key);
    let prober = Prober::new();
    for (name, protocol) in [("TLSv1.2", Protocol::Tls12), ("TLSv1.3", Protocol::Tls13)] {
        let nginx = both.clone().with_protocols(name).start();
        let host = Identifier::parse("a.test").unwrap();
        let connect = Some(Address::Tcp(nginx.address()));
        let endpoint =
            Endpoint { host, port: 443, connect, starttls: None, samples: 2, within: PATIENCE };
        for (leaf, key) in [(rsa.leaf, KeyType::Rsa2048), (ecdsa.leaf, KeyType::EcdsaP256)] {
            let wanted = Wanted { leaf, key: Some(key), previous: None };
            assert_eq!(prober.verify(&endpoint, wanted).await, Ok(1), "{key}");
            let seen = prober.probe_for(&endpoint, wanted, PATIENCE).await.unwrap();
            let outcome = seen[0].outcome.as_ref().map(|chain| (chain.leaf, chain.protocol));
            assert_eq!(outcome, Ok((leaf, protocol)), "{key}");
        }
    }
}

#[tokio::test]
async fn one_certificate_is_seen_whatever_kind_of_key_is_wanted() {
    for version in [&TLS12, &TLS13] {
        for (algorithm, other) in
            [(&PKCS_RSA_SHA256, KeyType::EcdsaP384), (&PKCS_ECDSA_P256_SHA256, KeyType::Rsa4096)]
        {
            let pair = Pair::with("a.test", algorithm, |_| ());
            let serving = pair.clone();
            let plan: Plan = Arc::new(move |_| Does::Serve(serving.clone()));
            let unasked = ClientCertificate::Unasked;
            let server = Server::with("127.0.0.1:0", vec![version], unasked, plan).await;
            let endpoint = server.endpoint("a.test", Duration::ZERO);
            let wanted = Wanted { leaf: Fingerprint([1; 32]), key: Some(other), previous: None };
            let seen = Prober::new().probe_for(&endpoint, wanted, PATIENCE).await.unwrap();
            let leaf = seen[0].outcome.as_ref().map(|chain| chain.leaf);
            assert_eq!(leaf, Ok(pair.leaf), "{other}");
            assert_eq!(server.connections(), 2, "{other}");
        }
    }
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_told() {
    let host = Identifier::parse("nowhere.invalid").unwrap();
    let endpoint = Endpoint {
        host,
        port: 443,
        connect: None,
        starttls: None,
        samples: 2,
        within: Duration::ZERO,
    };
    let wanted = Wanted { leaf: Fingerprint([1; 32]), key: None, previous: None };
    let unseen = Prober::new().verify(&endpoint, wanted).await.unwrap_err();
    assert!(matches!(unseen.unresolved, Some(ProbeError::Unresolved(_))), "{unseen:?}");
    assert!(unseen.to_string().starts_with("nowhere.invalid:443 cannot be resolved: "));
}

/// The time that is left to a look is no limit to what it asks.
#[tokio::test]
async fn a_slow_server_is_seen_as_it_is_at_the_deadline_too() {
    let slow = Duration::from_millis(1500);
    let (old, new) = (Pair::new("a.test"), Pair::new("a.test"));
    let wanted = Wanted { leaf: new.leaf, key: None, previous: Some(old.leaf) };
    let served = old.leaf;
    let server = Server::start(move |_| Does::ServeAfter(slow, old.clone())).await;
    let endpoint = server.endpoint("a.test", Duration::from_millis(200));
    let unseen = Prober::new().verify(&endpoint, wanted).await.unwrap_err();
    let outcome = unseen.addresses[0].outcome.as_ref().unwrap().as_ref();
    assert_eq!(outcome.map(|chain| chain.leaf), Ok(served));
    let server = Server::start(move |_| Does::ServeAfter(slow, new.clone())).await;
    let endpoint = Endpoint { samples: 4, ..server.endpoint("a.test", Duration::from_millis(200)) };
    assert_eq!(Prober::new().verify(&endpoint, wanted).await, Ok(1));
}

#[tokio::test]
async fn a_server_that_takes_the_certificate_over_late_is_live() {
    let (old, new) = (Pair::new("a.test"), Pair::new("a.test"));
    let wanted = Wanted { leaf: new.leaf, key: None, previous: Some(old.leaf) };
    // Old, refused and closed connections, and a new worker beside an old one, as in a reload.
    let server = Server::start(move |i| match i {
        0 | 3 => Does::Serve(old.clone()),
        1 => Does::Close,
        _ => Does::Serve(new.clone()),
    })
    .await;
    let endpoint = server.endpoint("a.test", PATIENCE);
    assert_eq!(Prober::new().verify(&endpoint, wanted).await, Ok(1));
    assert_eq!(server.connections(), 6, "old, closed, new, old, new, new");
}

#[tokio::test]
async fn a_server_that_has_it_already_is_asked_twice() {
    let pair = Pair::new("a.test");
    let wanted = Wanted { leaf: pair.leaf, key: None, previous: None };
    let server = Server::start(move |_| Does::Serve(pair.clone())).await;
    let started = Instant::now();
    let endpoint = server.endpoint("a.test", Duration::ZERO);
    assert_eq!(Prober::new().verify(&endpoint, wanted).await, Ok(1));
    assert_eq!(server.connections(), 2);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_old_worker_beside_the_new_one_is_outlasted_by_more_samples() {
    let (old, new) = (Pair::new("old.test"), Pair::new("new.test"));
    let wanted = Wanted { leaf: new.leaf, key: None, previous: Some(old.leaf) };
    // Every fifth connection is the old worker's, which twice looks like its end.
    let workers = move |until: usize| {
        let (old, new) = (old.clone(), new.clone());
        move |i| Does::Serve(if i % 5 == 4 && i < until { old.clone() } else { new.clone() })
    };
    let server = Server::start(workers(usize::MAX)).await;
    let within = Duration::from_secs(3);
    let endpoint = Endpoint { samples: 5, ..server.endpoint("a.test", within) };
    let unseen = Prober::new().verify(&endpoint, wanted).await.unwrap_err();
    assert!(!unseen.addresses[0].settled, "{unseen}");
    let server = Server::start(workers(usize::MAX)).await;
    let endpoint = server.endpoint("a.test", within);
    assert_eq!(Prober::new().verify(&endpoint, wanted).await, Ok(1), "two do not outlast it");

    let server = Server::start(workers(10)).await;
    let endpoint = Endpoint { samples: 5, ..server.endpoint("a.test", PATIENCE) };
    assert_eq!(Prober::new().verify(&endpoint, wanted).await, Ok(1));
    assert_eq!(server.connections(), 15, "the old worker served the fifth and the tenth");
}

#[tokio::test]
async fn the_last_samples_may_come_after_the_deadline_and_one_needs_no_other() {
    let pair = Pair::new("a.test");
    let wanted = Wanted { leaf: pair.leaf, key: None, previous: None };
    let server = Server::start(move |_| Does::Serve(pair.clone())).await;
    let started = Instant::now();
    for samples in [1, 10] {
        let before = server.connections();
        let endpoint = Endpoint { samples, ..server.endpoint("a.test", Duration::ZERO) };
        assert_eq!(Prober::new().verify(&endpoint, wanted).await, Ok(1), "{samples}");
        assert_eq!(u32::try_from(server.connections() - before), Ok(samples));
    }
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_server_that_keeps_or_changes_back_is_never_live() {
    let (old, new) = (Pair::new("old.test"), Pair::new("new.test"));
    let wanted = Wanted { leaf: new.leaf, key: None, previous: Some(old.leaf) };
    let within = Duration::from_millis(400);
    let serving = old.clone();
    let server = Server::start(move |_| Does::Serve(serving.clone())).await;
    let started = Instant::now();
    let verify = Prober::new().verify(&server.endpoint("a.test", within), wanted).await;
    let text = verify.unwrap_err().to_string();
    assert!(started.elapsed() >= within, "{:?}", started.elapsed());
    let expected = [
        "a.test:1 does not serve the certificate",
        &format!("{} still serves the one before: a certificate for `old.test`", server.address),
    ];
    assert!(expected.iter().all(|part| text.contains(part)), "{text}");

    let server = Server::start(move |i| Does::Serve([&new, &old][i % 2].clone())).await;
    let verify = Prober::new().verify(&server.endpoint("a.test", within), wanted).await;
    verify.unwrap_err();
}

#[tokio::test]
async fn one_stale_address_of_a_name_is_named_and_keeps_it_from_being_live() {
    let Some(name) =
        name_with_addresses("one_stale_address_of_a_name_is_named_and_keeps_it_from_being_live")
    else {
        return;
    };
    let (old, new) = (Pair::new("old.test"), Pair::new("new.test"));
    let wanted = Wanted { leaf: new.leaf, key: None, previous: Some(old.leaf) };
    let mut addresses: Vec<_> = lookup_host((name, 0)).await.unwrap().collect();
    addresses.sort_unstable();
    addresses.dedup();
    let stale = *addresses.last().unwrap();
    let serving = old.clone();
    let stale = Server::on(&stale.to_string(), move |_| Does::Serve(serving.clone())).await;
    addresses.pop();
    let mut fresh = Vec::new();
    for mut address in addresses {
        let serving = new.clone();
        address.set_port(stale.address.port());
        let plan = move |_| Does::Serve(serving.clone());
        fresh.push(Server::on(&address.to_string(), plan).await);
    }
    let host = Identifier::parse(name).unwrap();
    let within = Duration::from_millis(300);
    let endpoint = Endpoint {
        host,
        port: stale.address.port(),
        connect: None,
        starttls: None,
        samples: 2,
        within,
    };
    let unseen = Prober::new().verify(&endpoint, wanted).await.unwrap_err();
    let settled = |seen: &&Seen| seen.settled && seen.outcome.as_ref().is_some_and(Result::is_ok);
    assert_eq!(unseen.addresses.iter().filter(settled).count(), fresh.len());
    let text = unseen.to_string();
    assert!(text.contains(&format!("{} still serves the one before", stale.address)), "{text}");
    for server in fresh {
        assert!(!text.contains(&server.address.to_string()), "{text}");
        assert_eq!(server.connections(), 2);
    }
}

#[tokio::test]
async fn many_endpoints_are_verified_with_one_prober_at_once() {
    let pair = Pair::new("a.test");
    let wanted = Wanted { leaf: pair.leaf, key: None, previous: None };
    let server = Server::start(move |_| Does::Serve(pair.clone())).await;
    let prober = Prober::new();
    let mut checks = JoinSet::new();
    for _ in 0..50 {
        let (prober, endpoint) = (prober.clone(), server.endpoint("a.test", PATIENCE));
        checks.spawn(async move { prober.verify(&endpoint, wanted).await });
    }
    for end in checks.join_all().await {
        assert_eq!(end, Ok(1));
    }
    assert_eq!(server.connections(), 100);
}
