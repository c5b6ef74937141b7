//! A loopback ACME CA: for `demo` and `dev-ca`, for our tests and for users' own.
//!
//! A faithful RFC 8555 server with real http-01 validation, RFC 9773 renewal information,
//! profiles, external account binding and, on request, [faults](Fault). All of it is in memory:
//! its keys are made at the start and gone at the end. It binds to loopback only, connects to
//! loopback only, and offers http-01 alone.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555>

mod account;
mod authorization;
mod ca;
mod csr;
mod fault;
mod hierarchy;
mod jwk;
mod jws;
mod listen;
mod nonce;
mod order;
mod peers;
mod problem;
mod renewal;
mod revoke;
mod route;
mod signed;
mod state;
mod validate;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::cert::{AriId, Leaf};
use crate::secret::Secret;
use crate::time::{Clock, Timestamp};

use self::ca::Ca;
use self::hierarchy::Hierarchy;

pub use self::fault::{Answer, Fault, Flaw, Resource, RetryAfter, Waiting};
pub use self::peers::{Hammer, Handshakes, PeerError, TlsServer, placeholder};
pub use self::problem::ProblemType;

/// A running CA
///
/// Everything that it started ends with [`DevCa::stop`], and when it is dropped.
#[derive(Debug)]
pub struct DevCa {
    ca: Arc<Ca>,
    address: SocketAddr,
    directory: String,
    tasks: TaskTracker,
    stop: DropGuard,
}

impl DevCa {
    /// Make the keys, bind the address and begin to answer
    ///
    /// `clock` dates what the CA issues; its own root, intermediates and TLS certificate hold
    /// from 2020 through 2099, whatever the clock says.
    ///
    /// # Errors
    /// When the address is not loopback or not free, or an option makes no sense.
    pub async fn start(options: Options, clock: Arc<dyn Clock>) -> Result<Self, DevCaError> {
        options.check()?;
        let bind = |source| DevCaError::Bind { address: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let hierarchy = Hierarchy::new(options.intermediates)?;
        let (name, tls) = match options.scheme {
            Scheme::Http => ("http", None),
            Scheme::Https => ("https", Some(listen::acceptor(&hierarchy)?)),
        };
        let base = format!("{name}://{address}");
        let (tasks, token) = (TaskTracker::new(), CancellationToken::new());
        let directory = format!("{base}{}", route::DIRECTORY);
        let ca = Arc::new(Ca::new(options, clock, hierarchy, base, tasks.clone(), token.clone()));
        tasks.spawn(listen::accept(listener, tls, Arc::clone(&ca)));
        Ok(Self { ca, address, directory, tasks, stop: token.drop_guard() })
    }

    /// The URL of the directory, which is all that a client needs
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// The root certificate in PEM, which signs both what is issued and the CA's own https
    pub fn root_pem(&self) -> &str {
        &self.ca.hierarchy.root_pem
    }

    /// Where it listens
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The newest requests, oldest first; at most [`DevCa::REQUESTS_KEPT`]
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.ca.log.lock().iter().cloned().collect()
    }

    /// How many requests are kept for [`DevCa::requests`]
    pub const REQUESTS_KEPT: usize = 16_384;

    /// What was issued, oldest first
    pub fn issued(&self) -> Vec<Issued> {
        self.ca.state.lock().certificates.values().map(|c| c.issued.clone()).collect()
    }

    /// Ask for misbehaviour; it adds to what was asked for before
    pub fn inject(&self, fault: Fault) {
        self.ca.faults.lock().add(fault);
    }

    /// Behave again
    pub fn clear_faults(&self) {
        self.ca.faults.lock().clear();
    }

    /// Suggest this window for a certificate from now on; says whether the CA issued it
    ///
    /// The window is answered as it is, also when it is empty or absurd.
    ///
    /// <https://www.rfc-editor.org/rfc/rfc9773#section-4.2>
    pub fn suggest_renewal(&self, certificate: &AriId, suggestion: Suggestion) -> bool {
        let mut state = self.ca.state.lock();
        let found = state.certificates.find_mut(&certificate.to_string());
        found.map(|certificate| certificate.suggestion = Some(suggestion)).is_some()
    }

    /// Revoke a certificate as the CA itself; says whether the CA issued it
    pub fn revoke(&self, certificate: &AriId) -> bool {
        let mut state = self.ca.state.lock();
        let found = state.certificates.find_mut(&certificate.to_string());
        found.map(|certificate| certificate.issued.revoked = Some(0)).is_some()
    }

    /// Forget every account, order and certificate, as a restarted CA would, but keep the keys
    pub fn forget(&self) {
        *self.ca.state.lock() = state::State::default();
    }

    /// End everything that it started, and wait until it has ended
    pub async fn stop(self) {
        drop(self.stop);
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// How the CA is to be
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen: a loopback address; port 0 takes a free one
    pub listen: SocketAddr,
    /// How to be spoken to
    pub scheme: Scheme,
    /// The profiles and how long their certificates are good for, in whole seconds
    pub profiles: BTreeMap<String, Duration>,
    /// The profile of an order that names none
    pub default_profile: String,
    /// The external accounts: key identifier and MAC key; when there are any, one is required
    ///
    /// <https://www.rfc-editor.org/rfc/rfc8555#section-7.3.4>
    pub eab: BTreeMap<String, Secret<Vec<u8>>>,
    /// Where http-01 is validated; a CA in the world uses 80
    pub http01_port: u16,
    /// How the names of http-01 are resolved
    pub resolve: Resolve,
    /// How many intermediates are between the root and a leaf: 1 to 5
    pub intermediates: u8,
    /// What to ask clients to wait between looks while the CA is at work
    pub retry_after: Option<Duration>,
    /// What to do wrong from the start
    pub faults: Vec<Fault>,
}

impl Options {
    fn check(&self) -> Result<(), DevCaError> {
        if !self.listen.ip().is_loopback() {
            return Err(DevCaError::NotLoopback(self.listen));
        }
        if !self.profiles.contains_key(&self.default_profile) {
            return Err(DevCaError::DefaultProfile(self.default_profile.clone()));
        }
        let absurd = |d: &Duration| d.subsec_nanos() != 0 || d.is_zero() || *d > LONGEST;
        if let Some((name, lifetime)) = self.profiles.iter().find(|(_, d)| absurd(d)) {
            return Err(DevCaError::Lifetime { profile: name.clone(), lifetime: *lifetime });
        }
        if !(1..=5).contains(&self.intermediates) {
            return Err(DevCaError::Intermediates(self.intermediates));
        }
        Ok(())
    }
}

/// https on a free port, one profile `default` of 90 days, every name on loopback
impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            scheme: Scheme::Https,
            profiles: BTreeMap::from([("default".to_owned(), Duration::from_secs(90 * 86_400))]),
            default_profile: "default".to_owned(),
            eab: BTreeMap::new(),
            http01_port: 80,
            resolve: Resolve::Loopback,
            intermediates: 1,
            retry_after: None,
            faults: Vec::new(),
        }
    }
}

const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How the CA is spoken to
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP
    Http,
    /// TLS with a certificate for `localhost`, 127.0.0.1 and ::1 under the CA's own root
    Https,
}

/// How the names of http-01 become addresses
///
/// Whatever they become, only loopback addresses are connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolve {
    /// By the system's resolver
    System,
    /// Every name is 127.0.0.1, then ::1; an IP address is the loopback address of its family
    Loopback,
}

/// One request that the CA answered
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedRequest {
    /// `GET`, `HEAD` or `POST`
    pub method: String,
    /// The path of the URL
    pub path: String,
    /// What the path leads to
    pub resource: Resource,
    /// The status of the answer, also of one that a [`Fault::HangUp`] withheld
    pub status: u16,
}

/// One certificate that the CA issued
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// What the certificate says
    pub leaf: Leaf,
    /// The leaf and its intermediates in PEM, as the client got them
    pub chain_pem: String,
    /// The profile that it was ordered with
    pub profile: String,
    /// The URL of the account that ordered it
    pub account: String,
    /// The certificate that its order replaced
    pub replaces: Option<String>,
    /// The reason code of its revocation, once it is revoked
    ///
    /// <https://www.rfc-editor.org/rfc/rfc5280#section-5.3.1>
    pub revoked: Option<u8>,
}

/// A window for renewal, and why
///
/// <https://www.rfc-editor.org/rfc/rfc9773#section-4.2>
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// When it begins
    pub start: Timestamp,
    /// When it ends
    pub end: Timestamp,
    /// A page about it
    pub explanation_url: Option<String>,
}

/// Why the CA could not start
#[derive(Debug, Error)]
pub enum DevCaError {
    /// The address is taken, or not this host's
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Which
        address: SocketAddr,
        /// Why
        source: io::Error,
    },
    /// The default profile is none of the profiles
    #[error("the default profile `{0}` is not one of the profiles")]
    DefaultProfile(String),
    /// Too few or too many intermediates
    #[error("a chain of {0} intermediates cannot be made; 1 to 5 can")]
    Intermediates(u8),
    /// A key or a certificate of the CA's own could not be made
    #[error("cannot make the CA's own keys: {0}")]
    Keys(String),
    /// A lifetime that no certificate can have
    #[error("profile `{profile}` lasts {lifetime:?}; it is whole seconds, from one to ten years")]
    Lifetime {
        /// Of which profile
        profile: String,
        /// What was asked
        lifetime: Duration,
    },
    /// Not a loopback address
    #[error("a dev CA listens on loopback only, and {0} is not loopback")]
    NotLoopback(SocketAddr),
}

impl From<rcgen::Error> for DevCaError {
    fn from(error: rcgen::Error) -> Self {
        Self::Keys(error.to_string())
    }
}

impl From<rustls::Error> for DevCaError {
    fn from(error: rustls::Error) -> Self {
        Self::Keys(error.to_string())
    }
}
