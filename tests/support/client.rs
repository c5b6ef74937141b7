//! A TLS client that looks at what is served, once or without pause.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use certkeep::cert::{Fingerprint, Leaf};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    StreamOwned,
};

/// A client that trusts these roots and nothing else
pub(crate) fn trusting(roots: &[CertificateDer<'static>]) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    Arc::new(config)
}

/// A client that looks at whatever certificate there is
///
/// The signature of the handshake is still checked: it proves that the server has the key.
pub(crate) fn curious() -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    // A resumed session shows the certificate of the session that it resumes.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// The leaf that a server shows under a name
pub(crate) fn served(address: SocketAddr, name: &str) -> io::Result<Fingerprint> {
    look(&curious(), address, name)
}

/// The leaf that OpenSSL's client is shown, after a STARTTLS of this protocol if one is named
pub(crate) fn shown(address: SocketAddr, starttls: Option<&str>) -> io::Result<Fingerprint> {
    let mut client = Command::new(super::program("timeout"));
    client.args(["10", "openssl", "s_client", "-connect"]).arg(address.to_string());
    if let Some(protocol) = starttls {
        client.args(["-starttls", protocol]);
    }
    let output = client.stdin(Stdio::null()).output()?;
    let leaf = Leaf::from_pem(&output.stdout);
    Ok(leaf.map_err(|error| io::Error::other(format!("{error}: {output:?}")))?.fingerprint)
}

/// One connection: a handshake, a request and an answer
fn look(config: &Arc<ClientConfig>, address: SocketAddr, name: &str) -> io::Result<Fingerprint> {
    let mut socket = TcpStream::connect_timeout(&address, TIMEOUT)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    tls.complete_io(&mut socket)?;
    let leaf = tls.peer_certificates().and_then(<[_]>::first).map(|leaf| Fingerprint::of(leaf));
    let mut stream = StreamOwned::new(tls, socket);
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    if !answer.starts_with(b"HTTP/1.") {
        return Err(io::Error::other(format!("no HTTP: {answer:?}")));
    }
    leaf.ok_or_else(|| io::Error::other("no certificate"))
}

const TIMEOUT: Duration = Duration::from_secs(10);

/// Clients that open one TLS connection after the other, until they are stopped
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Seen>>,
}

/// What the clients saw
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// When each successful connection began, and the leaf that it met
    pub(crate) leaves: Vec<(Instant, Fingerprint)>,
    /// Why the others failed
    pub(crate) failures: Vec<String>,
}

impl Load {
    /// Start this many clients
    pub(crate) fn start(clients: usize, address: SocketAddr, name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..clients)
            .map(|_| {
                let (stop, name, config) = (Arc::clone(&stop), name.to_owned(), curious());
                std::thread::spawn(move || {
                    let mut seen = Seen::default();
                    while !stop.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        match look(&config, address, &name) {
                            Ok(leaf) => seen.leaves.push((begun, leaf)),
                            Err(error) => seen.failures.push(error.to_string()),
                        }
                    }
                    seen
                })
            })
            .collect();
        Self { stop, clients }
    }

    /// Stop them all and ask what they saw
    pub(crate) fn stop(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for client in self.clients.drain(..) {
            let seen = client.join().unwrap();
            all.leaves.extend(seen.leaves);
            all.failures.extend(seen.failures);
        }
        all
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Seen {
    /// The different leaves met by connections that began after this moment
    pub(crate) fn after(&self, moment: Instant) -> Vec<Fingerprint> {
        let late = self.leaves.iter().filter(|(begun, _)| *begun > moment);
        let mut leaves: Vec<_> = late.map(|(_, leaf)| *leaf).collect();
        leaves.sort_unstable();
        leaves.dedup();
        leaves
    }
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
