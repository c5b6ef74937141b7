//! The two peers of `certkeep demo`: a TLS server, and a client that never stops asking it.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::cert::Fingerprint;
use crate::pem::{self, PemError};

use super::state::Lock;

/// A TLS server on loopback that serves the pair of a directory and knows nothing else
///
/// Like any server it goes on with the pair it has until it is told to [reload](Self::reload).
/// It ends when it is dropped.
#[derive(Debug)]
pub struct TlsServer {
    address: SocketAddr,
    directory: PathBuf,
    served: Arc<Served>,
    _tasks: JoinSet<()>,
}

impl TlsServer {
    /// Read `fullchain.pem` and `privkey.pem` of the directory and listen on a free port
    ///
    /// # Errors
    /// When the pair cannot be read, does not belong together, or no port is free.
    pub async fn start(directory: &Path) -> Result<Self, PeerError> {
        let served =
            Arc::new(Served { pair: Lock::new(read(directory)?), handshakes: AtomicU64::new(0) });
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&served) as Arc<dyn ResolvesServerCert>);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&served)));
        Ok(Self { address, directory: directory.to_owned(), served, _tasks: tasks })
    }

    /// Where it listens
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Read the pair again; handshakes from now on see it
    ///
    /// # Errors
    /// When the pair cannot be read or does not belong together; the old one stays in force.
    pub fn reload(&self) -> Result<(), PeerError> {
        let pair = read(&self.directory)?;
        *self.served.pair.lock() = pair;
        Ok(())
    }

    /// How many handshakes it completed
    pub fn handshakes(&self) -> u64 {
        self.served.handshakes.load(Ordering::Relaxed)
    }
}

/// A pair that signed itself, for a server that must start before it has a certificate
///
/// The leaf and its key, PEM.
///
/// # Errors
/// When `server_name` is no name.
pub fn placeholder(server_name: &str) -> Result<(String, String), PeerError> {
    let pair = rcgen::generate_simple_self_signed([server_name.to_owned()])
        .map_err(|_| PeerError::Name(server_name.to_owned()))?;
    Ok((pair.cert.pem(), pair.signing_key.serialize_pem()))
}

#[derive(Debug)]
struct Served {
    pair: Lock<Arc<CertifiedKey>>,
    handshakes: AtomicU64,
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.pair.lock()))
    }
}

fn read(directory: &Path) -> Result<Arc<CertifiedKey>, PeerError> {
    let chain = pem::certificates(&std::fs::read(directory.join("fullchain.pem"))?)?;
    let key = pem::private_key(&std::fs::read(directory.join("privkey.pem"))?)?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider())?))
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, served: Arc<Served>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(BREATH).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        let (tls, served) = (tls.clone(), Arc::clone(&served));
        connections.spawn(async move {
            // Whoever does not finish in time is cut off.
            timeout(PATIENCE, greet(stream, tls, &served)).await.ok();
        });
    }
}

/// One handshake; the client closes, so that no port waits for stray segments
async fn greet(stream: TcpStream, tls: TlsAcceptor, served: &Served) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = tls.accept(stream).await?;
    served.handshakes.fetch_add(1, Ordering::Relaxed);
    stream.shutdown().await?;
    stream.read(&mut [0; 1]).await.map(drop)
}

/// A client that opens one TLS connection after the other, without a pause
///
/// Each is a full handshake in which the chain must lead to the root and be for the name. It
/// ends when it is dropped.
#[derive(Debug)]
pub struct Hammer {
    counts: Arc<Lock<Handshakes>>,
    _tasks: JoinSet<()>,
}

impl Hammer {
    /// Begin
    ///
    /// # Errors
    /// When `root_pem` holds no certificate or `server_name` is no name.
    pub fn start(
        address: SocketAddr,
        server_name: &str,
        root_pem: &str,
    ) -> Result<Self, PeerError> {
        let mut roots = RootCertStore::empty();
        for root in pem::certificates(root_pem.as_bytes())? {
            roots.add(root)?;
        }
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| PeerError::Name(server_name.to_owned()))?;
        let counts = Arc::new(Lock::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(hammer(address, name, connector, Arc::clone(&counts)));
        Ok(Self { counts, _tasks: tasks })
    }

    /// What happened so far
    pub fn counts(&self) -> Handshakes {
        self.counts.lock().clone()
    }
}

/// What a [`Hammer`] counted
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// Handshakes that succeeded
    pub ok: u64,
    /// Handshakes that did not
    pub failed: u64,
    /// Successful handshakes by the leaf that was served
    pub by_fingerprint: BTreeMap<Fingerprint, u64>,
    /// Why the first few failed
    pub failures: Vec<String>,
}

async fn hammer(
    address: SocketAddr,
    name: ServerName<'static>,
    connector: TlsConnector,
    counts: Arc<Lock<Handshakes>>,
) {
    loop {
        let shaken = match timeout(PATIENCE, shake(address, &name, &connector)).await {
            Ok(shaken) => shaken,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let failed = shaken.is_err();
        {
            let mut counts = counts.lock();
            match shaken {
                Ok(leaf) => {
                    counts.ok += 1;
                    *counts.by_fingerprint.entry(leaf).or_default() += 1;
                }
                Err(error) => {
                    counts.failed += 1;
                    if counts.failures.len() < FAILURES {
                        counts.failures.push(error.to_string());
                    }
                }
            }
        }
        if failed {
            // A server that is gone refuses faster than anybody can count.
            sleep(BREATH).await;
        }
    }
}

async fn shake(
    address: SocketAddr,
    name: &ServerName<'static>,
    connector: &TlsConnector,
) -> io::Result<Fingerprint> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    // Closing with a reset leaves no port in TIME_WAIT, of which there would be none left soon.
    stream.set_zero_linger()?;
    let mut stream = connector.connect(name.clone(), stream).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let leaf = Fingerprint::of(chain.first().ok_or(io::ErrorKind::InvalidData)?);
    // In TLS 1.3 the server's last word on the handshake comes after the client's.
    stream.shutdown().await?;
    loop {
        match stream.read(&mut [0; 512]).await {
            Ok(0) => return Ok(leaf),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(leaf),
            Err(error) => return Err(error),
        }
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Why a peer of the demo could not start or reload
#[derive(Debug, Error)]
pub enum PeerError {
    /// A file or a socket
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not a name that a server can have
    #[error("`{}` is no name of a server", .0.escape_debug())]
    Name(String),
    /// A file that is no PEM
    #[error("a file of the pair {0}")]
    Pem(#[from] PemError),
    /// A key that is not the certificate's, or cannot be used
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

const PATIENCE: Duration = Duration::from_secs(5);
const BREATH: Duration = Duration::from_millis(20);
const CONNECTIONS: usize = 128;
const FAILURES: usize = 10;
