//! What the operator wants: the desired state, checked and complete.
//!
//! `raw` mirrors the YAML, `lower` turns it into [`Config`] and collects every mistake with its
//! place. No text of the file reaches further than that. A sound file is read once, straight into
//! `raw`; only after a mistake does `tree` find out what is where, and `collect` what is wrong.

mod collect;
mod duration;
mod error;
mod fault;
mod lower;
mod nearest;
mod presets;
mod raw;
mod read;
mod schema;
mod servers;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::name::{CertName, Identifier, IssuerName, TargetName};

pub use error::{ConfigError, ConfigErrors};
pub use schema::schema;

/// The whole configuration, every default filled in
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where accounts, generations and records are kept
    pub state_dir: PathBuf,
    /// Whether a state directory that a reboot empties is wanted
    pub allow_volatile_state: bool,
    /// Whether managing no certificate at all is wanted
    pub allow_empty: bool,
    /// The CAs, by the name the configuration gives them
    pub issuers: BTreeMap<IssuerName, Issuer>,
    /// The certificates, by the name the configuration gives them
    pub certificates: BTreeMap<CertName, Certificate>,
}

/// A CA and the account to use there
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its name in the configuration
    pub name: IssuerName,
    /// The URL of its directory, https unless `insecure_loopback`
    pub directory: String,
    /// The directory that it has for tests
    pub staging: Option<Staging>,
    /// Roots that vouch for the CA's own HTTPS, in place of the system's
    pub ca_file: Option<PathBuf>,
    /// Whether plain HTTP to a loopback address is allowed
    pub insecure_loopback: bool,
    /// Other hosts that the CA's URLs may name, beside the directory's own origin
    pub allowed_hosts: Vec<String>,
    /// `mailto:` URLs of the account
    pub contact: Vec<String>,
    /// The account that the CA already knows the operator by
    pub eab: Option<Eab>,
    /// The profile to ask for, unless a certificate names another
    pub profile: Option<Profile>,
    /// An HTTP(S) proxy for this CA; `None` uses the environment's
    pub proxy: Option<String>,
}

/// What a CA has for tests: it issues as the real one does, and nobody trusts the certificates
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staging {
    /// The URL of its directory
    pub directory: String,
    /// Roots that vouch for its HTTPS, in place of the system's
    pub ca_file: Option<PathBuf>,
    /// The account that it already knows the operator by
    pub eab: Option<Eab>,
}

/// An external account binding
///
/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.3.4>
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eab {
    /// The key identifier that the CA gave out
    pub key_id: String,
    /// Where the MAC key is, base64url as the CA gave it out
    pub hmac_key: SecretSource,
}

/// Where a secret is read from, at each use
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretSource {
    /// A systemd credential of this name, below `$CREDENTIALS_DIRECTORY`
    Credential(String),
    /// An environment variable of this name
    Environment(String),
    /// A file
    File(PathBuf),
}

/// A certificate profile
///
/// <https://datatracker.ietf.org/doc/draft-aaron-acme-profiles/>
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The profile's name at the CA
    pub name: String,
    /// Whether a CA without it must not be asked; otherwise the CA's own choice will do
    pub required: bool,
}

/// One certificate that is wanted
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its name in the configuration
    pub name: CertName,
    /// What it vouches for, in the order written, without repetition, never empty
    pub identifiers: Vec<Identifier>,
    /// The kind of key
    pub key: KeyType,
    /// The CAs to ask, in order, never empty
    pub issuers: Vec<IssuerName>,
    /// The profile to ask for, before the issuer's
    pub profile: Option<Profile>,
    /// How control is proven
    pub challenge: ChallengeMethod,
    /// When it is due, apart from what the CA suggests
    pub renew: Renew,
    /// Which old generations are kept
    pub keep: Keep,
    /// What a new one must be to take the place of one that works
    pub gate: Gate,
    /// Where it goes, never empty
    pub targets: Vec<Target>,
    /// Whether a target has to wait until the one before it is live
    pub serial: bool,
}

/// The kind of a certificate's key
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum KeyType {
    /// ECDSA on P-256
    #[default]
    #[serde(rename = "ecdsa-p256")]
    EcdsaP256,
    /// ECDSA on P-384
    #[serde(rename = "ecdsa-p384")]
    EcdsaP384,
    /// RSA of 2048 bits
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    /// RSA of 3072 bits
    #[serde(rename = "rsa-3072")]
    Rsa3072,
    /// RSA of 4096 bits
    #[serde(rename = "rsa-4096")]
    Rsa4096,
}

impl KeyType {
    /// Every kind, in the order that the documentation lists them
    pub const ALL: [Self; 5] =
        [Self::EcdsaP256, Self::EcdsaP384, Self::Rsa2048, Self::Rsa3072, Self::Rsa4096];

    /// The name in the configuration
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
        }
    }
}

impl std::fmt::Display for KeyType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// How control over the identifiers is proven
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChallengeMethod {
    /// A file that the CA fetches over HTTP
    ///
    /// <https://www.rfc-editor.org/rfc/rfc8555#section-8.3>
    Http01(Http01),
}

/// Who answers the CA's HTTP request
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Http01 {
    /// A listener of our own on this address, or the socket that systemd passes
    Listen(SocketAddr),
    /// A web server that serves files from this directory
    Webroot(PathBuf),
}

/// What a new certificate must be before it takes the place of one that works
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// A PEM file with the roots that its chain must lead to
    pub roots: Option<PathBuf>,
    /// What it must be
    pub require: Require,
    /// How it must not differ from the one in place
    pub forbid: BTreeSet<ChangeKind>,
    /// Whether it is held back even when the one in place is about to expire
    pub hard: bool,
}

/// What a certificate must be
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Require {
    /// Purposes that it must be good for
    pub usage: BTreeSet<Usage>,
    /// How long it must be good for in all
    pub lifetime: Option<Duration>,
}

/// A purpose of a certificate's key
///
/// <https://www.rfc-editor.org/rfc/rfc5280#section-4.2.1.12>
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Usage {
    /// Proving a client's identity in TLS
    ClientAuth,
    /// Signing code
    CodeSigning,
    /// Signing and encrypting mail
    EmailProtection,
    /// Proving a server's identity in TLS
    ServerAuth,
}

impl Usage {
    /// Every one
    pub const ALL: [Self; 4] =
        [Self::ClientAuth, Self::CodeSigning, Self::EmailProtection, Self::ServerAuth];

    /// The name in the configuration
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientAuth => "client-auth",
            Self::CodeSigning => "code-signing",
            Self::EmailProtection => "email-protection",
            Self::ServerAuth => "server-auth",
        }
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a certificate may differ from the one in place
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// Names that somebody else's certificate had and the configuration does not list
    LostNames,
    /// Purposes that it is no longer good for
    LostUsage,
    /// Another intermediate or CA
    OtherIssuer,
    /// Another kind of key
    OtherKey,
    /// Another root
    OtherRoot,
    /// Less than two thirds of the lifetime
    ShorterLife,
}

impl ChangeKind {
    /// The name in the configuration
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LostNames => "lost-names",
            Self::LostUsage => "lost-usage",
            Self::OtherIssuer => "other-issuer",
            Self::OtherKey => "other-key",
            Self::OtherRoot => "other-root",
            Self::ShorterLife => "shorter-life",
        }
    }
}

/// Which old generations are kept, beside those in use
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How many at least
    pub generations: u32,
    /// How long each at least
    pub at_least: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self { generations: 5, at_least: Duration::ZERO }
    }
}

/// When a certificate is due by its age
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Renew {
    /// How much life is left when it is due; `None` is a third, or half of less than 10 days
    pub before: Option<Share>,
    /// How old a key may become; `None` leaves it to the certificate's life
    pub key_max_age: Option<Duration>,
}

/// A span of time, or a share of the certificate's lifetime
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// A share of the lifetime in thousandths, 1 to 999
    PerMille(u16),
    /// A fixed span
    Span(Duration),
}

impl Share {
    /// The span that this is of a lifetime
    ///
    /// `None` for a fixed one of more than three quarters of it: it was meant for certificates
    /// that live longer, and these would be due again as soon as they are there.
    pub fn of(self, lifetime: Duration) -> Option<Duration> {
        match self {
            Self::PerMille(share) => {
                let millis = lifetime.as_millis().saturating_mul(u128::from(share)) / 1000;
                Some(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
            }
            Self::Span(span) => (span <= lifetime / 4 * 3).then_some(span),
        }
    }
}

impl Renew {
    /// How much of this lifetime is left when the operator wants the certificate renewed
    pub fn before(&self, lifetime: Duration) -> Option<Duration> {
        self.before?.of(lifetime)
    }
}

/// One place where a certificate is deployed: its files, and what makes a server use them
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name, `default` where the configuration names none
    pub name: TargetName,
    /// How its files are switched
    pub layout: Layout,
    /// The files, never empty
    pub outputs: Vec<Output>,
    /// A command that says whether the server would accept the files
    pub check: Option<Hook>,
    /// What makes the server load the files
    pub reload: Option<Reload>,
    /// Where the certificate must be seen
    pub verify: Vec<Endpoint>,
    /// How often the server may be reloaded for it within an hour; `None` is without limit
    pub max_reloads_per_hour: Option<u32>,
}

/// How the files of a target are switched
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// This directory is an atomic directory, and the outputs are names within it
    Dir(PathBuf),
    /// The outputs are symlinks, at any paths, into an atomic directory of the state directory
    Links,
    /// The outputs are regular files, replaced one after the other under a journal
    Copy,
}

/// One file of a target
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Output {
    /// Where it is; absolute also under [`Layout::Dir`]
    pub path: PathBuf,
    /// What is in it, in this order, never empty
    pub content: Vec<Content>,
    /// How that is written
    pub format: Format,
    /// Its permission bits
    pub mode: u32,
    /// Its owner, by name or number; `None` is who runs certkeep
    pub owner: Option<String>,
    /// Its group, by name or number; `None` is the group of who runs certkeep
    pub group: Option<String>,
}

impl Output {
    /// Whether it is PEM of this alone, which anybody reads who may read the file
    pub fn is_plain(&self, content: Content) -> bool {
        let pem = matches!(self.format, Format::Pem(KeyFormat::Pkcs8 | KeyFormat::Traditional));
        pem && self.content == [content]
    }

    /// Where the password is that this output is encrypted with
    pub fn password(&self) -> Option<&SecretSource> {
        match &self.format {
            Format::Pem(KeyFormat::Encrypted(password))
            | Format::Der(KeyFormat::Encrypted(password))
            | Format::Pkcs12 { password, .. } => Some(password),
            Format::Pem(KeyFormat::Pkcs8 | KeyFormat::Traditional)
            | Format::Der(KeyFormat::Pkcs8 | KeyFormat::Traditional) => None,
        }
    }
}

/// What is in an output
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// The leaf alone
    Cert,
    /// The intermediates alone
    Chain,
    /// The key, then the leaf and the intermediates, as HAProxy reads it
    Combined,
    /// The leaf and the intermediates
    Fullchain,
    /// The key alone
    Key,
}

impl Content {
    /// Whether a file with it must be kept from others
    pub const fn is_secret(self) -> bool {
        matches!(self, Self::Combined | Self::Key)
    }

    /// The file's name in a directory that certkeep lays out
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Cert => "cert.pem",
            Self::Chain => "chain.pem",
            Self::Combined => "combined.pem",
            Self::Fullchain => "fullchain.pem",
            Self::Key => "privkey.pem",
        }
    }
}

/// How an output is written
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Sections of PEM, one after the other
    ///
    /// <https://www.rfc-editor.org/rfc/rfc7468>
    Pem(KeyFormat),
    /// The DER of the one object in it
    Der(KeyFormat),
    /// Key and chain in one encrypted file, as Java reads it
    ///
    /// <https://www.rfc-editor.org/rfc/rfc7292>
    Pkcs12 {
        /// Where the password is
        password: SecretSource,
        /// What the entry is called in the file
        alias: String,
    },
}

impl Default for Format {
    fn default() -> Self {
        Self::Pem(KeyFormat::Pkcs8)
    }
}

impl Format {
    /// The name in the configuration
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pem(_) => "pem",
            Self::Der(_) => "der",
            Self::Pkcs12 { .. } => "pkcs12",
        }
    }
}

/// How the private key of an output is written
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyFormat {
    /// PKCS#8; in PEM, a key that was taken over stays as it was until the first renewal
    ///
    /// <https://www.rfc-editor.org/rfc/rfc5958>
    Pkcs8,
    /// SEC1 for an elliptic curve, PKCS#1 for RSA
    ///
    /// <https://www.rfc-editor.org/rfc/rfc5915>,
    /// <https://www.rfc-editor.org/rfc/rfc8017#appendix-A.1.2>
    Traditional,
    /// PKCS#8, encrypted with the password that is there
    Encrypted(SecretSource),
}

/// A command, as an argument vector that no shell sees
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hook {
    /// The executable, absolute or looked up in the fixed search path
    pub program: PathBuf,
    /// Its arguments
    pub arguments: Vec<String>,
    /// How long it may take
    pub timeout: Duration,
}

/// What makes a server load its files again
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reload {
    /// A command
    Command(Hook),
    /// A container, through its engine's API
    Container {
        /// The engine's socket, which speaks Docker's API
        engine: PathBuf,
        /// The container's name or identifier
        name: String,
        /// What is done with it
        action: ContainerAction,
        /// How long it may take
        timeout: Duration,
    },
    /// HAProxy's certificates in memory, through its runtime API
    Haproxy {
        /// The stats socket, of level admin
        socket: Socket,
        /// What HAProxy calls the certificate; `None` is the path of the output
        certificate: Option<String>,
        /// How long it may take
        timeout: Duration,
    },
    /// A request over HTTP
    Http(HttpCall),
    /// A signal to a process
    Signal {
        /// Which signal, such as `HUP`, without `SIG`
        signal: Signal,
        /// Which process
        process: Process,
    },
    /// A systemd unit, by `systemctl reload-or-restart`
    Systemd {
        /// The unit's name, with its suffix
        unit: String,
        /// How long its job may take
        timeout: Duration,
    },
    /// A file that a watcher looks at
    Trigger(PathBuf),
}

/// What is done with a container
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContainerAction {
    /// A command is run in it, an argument vector that is never empty
    Exec(Vec<String>),
    /// A signal goes to its first process
    Kill(Signal),
}

/// Where a server on this host listens
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Socket {
    /// A loopback address
    Tcp(SocketAddr),
    /// A socket in the file system
    Unix(PathBuf),
}

/// A request over HTTP, and which answers mean success
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpCall {
    /// How it asks
    pub method: HttpMethod,
    /// What it asks; plain http only to a loopback address or over `unix_socket`
    pub url: Url,
    /// The socket to connect to, in place of the URL's host and port
    pub unix_socket: Option<PathBuf>,
    /// Roots that vouch for the server, in place of the system's
    pub ca_file: Option<PathBuf>,
    /// Header fields, by their names in lower case
    pub headers: BTreeMap<String, HeaderSource>,
    /// What is sent along
    pub body: Option<HttpBody>,
    /// The status codes that mean success; none means 200 to 299
    pub expect: Vec<u16>,
    /// How long it may take
    pub timeout: Duration,
}

/// The method of an HTTP request
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    /// GET
    Get,
    /// PATCH
    Patch,
    /// POST
    #[default]
    Post,
    /// PUT
    Put,
}

/// Where the value of a header field comes from
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HeaderSource {
    /// The first line of a file, read at each use: a secret
    File(PathBuf),
    /// The configuration
    Text(String),
}

/// The body of a request
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HttpBody {
    /// A file, read at each use
    File(PathBuf),
    /// The configuration
    Text(String),
}

/// A signal that servers reload on
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Signal {
    /// SIGHUP
    Hup,
    /// SIGUSR1
    Usr1,
    /// SIGUSR2
    Usr2,
    /// SIGWINCH
    Winch,
}

/// Which process a signal goes to
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Process {
    /// The one whose number is in a file
    PidFile {
        /// The file
        path: PathBuf,
        /// What the process must be called (`comm`): a file that its server left behind may have
        /// the number of another by now
        name: Option<String>,
    },
    /// Those with this name (`comm`) whose parent has another name
    Name {
        /// The name
        name: String,
        /// The one whose user this is, by name or number
        user: Option<String>,
        /// The one whose control group begins or ends with these components
        cgroup: Option<String>,
    },
}

/// Where a certificate must be seen
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The name to ask for in SNI and to resolve
    pub host: Identifier,
    /// The TCP port
    pub port: u16,
    /// The one address to connect to, in place of every A and AAAA of the host
    pub connect: Option<Address>,
    /// What is spoken until TLS begins; `None` is TLS from the first byte on
    pub starttls: Option<StartTls>,
    /// How many handshakes in a row must show the certificate, at each address; never 0
    pub samples: u32,
    /// How long after the reload the certificate must be seen
    pub within: Duration,
}

impl Endpoint {
    /// The endpoint and how it is reached, in words; those of two that differ in it differ
    pub fn place(&self) -> String {
        let mut place = self.to_string();
        if let Some(connect) = &self.connect {
            place.push_str(&format!(" at {connect}"));
        }
        if let Some(starttls) = self.starttls {
            place.push_str(&format!(" by {starttls:?}"));
        }
        place
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Identifier::Ip(std::net::IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

/// A protocol in which a client asks for TLS
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum StartTls {
    /// FTP, by `AUTH TLS`
    Ftp,
    /// IMAP
    Imap,
    /// LDAP
    Ldap,
    /// LMTP
    Lmtp,
    /// MySQL and MariaDB
    Mysql,
    /// NNTP
    Nntp,
    /// POP3
    Pop3,
    /// PostgreSQL
    Postgres,
    /// ManageSieve
    Sieve,
    /// SMTP, also submission
    Smtp,
    /// XMPP, as clients speak it
    Xmpp,
}

/// Where a connection goes
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A TCP port of an IP address
    Tcp(SocketAddr),
    /// A stream socket in this host's file system
    Unix(PathBuf),
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

/// As it is written in the configuration
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Config {
    /// Read a configuration file's text
    ///
    /// `file` is where the text is from, best as an absolute path: relative paths in the text are
    /// taken from its directory, and errors begin with it. Nothing is looked up on the disk.
    ///
    /// # Errors
    /// Every mistake at once, each with its place and what to do.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigErrors> {
        read::parse(text, file)
    }

    /// The issuer of this name
    ///
    /// `None` cannot be for a name that a certificate of this configuration holds.
    pub fn issuer(&self, name: &IssuerName) -> Option<&Issuer> {
        self.issuers.get(name)
    }
}

impl Reload {
    /// Whether HAProxy's runtime API can be asked for a certificate of this name
    ///
    /// It takes words apart at spaces and commands at `;`, and `*` before a name is the one that a
    /// transaction has not committed yet.
    pub fn can_be_asked_for(certificate: &str) -> bool {
        let sound =
            |c: char| !c.is_whitespace() && !crate::text::is_unsafe(c) && !";\\".contains(c);
        !certificate.is_empty()
            && !certificate.starts_with(['*', '<', '#'])
            && certificate.chars().all(sound)
    }
}

impl Target {
    /// Whether nobody is asked and nothing is looked at after its files are switched
    pub const fn is_files_alone(&self) -> bool {
        self.check.is_none() && self.reload.is_none() && self.verify.is_empty()
    }

    /// The directories that the outputs are in, each once
    pub fn directories(&self) -> Vec<&Path> {
        let mut directories: Vec<_> =
            self.outputs.iter().filter_map(|output| output.path.parent()).collect();
        directories.sort_unstable();
        directories.dedup();
        directories
    }
}
