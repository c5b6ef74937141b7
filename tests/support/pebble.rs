//! Pebble, the ACME test CA, with the DNS server that it asks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::Server;
use super::process::Daemon;
use super::{PATIENCE, client, folder, free_port, loopback, program, wait_until, write};

/// How a Pebble shall behave; calm by default
#[derive(Clone, Debug)]
#[must_use]
pub(crate) struct Manner {
    nonce_reject: u8,
    authz_reuse: u8,
    retry_after: (u32, u32),
    chain_length: u8,
    alternate_roots: u8,
    slow_validation: Option<u8>,
    eab: BTreeMap<String, String>,
    profiles: BTreeMap<String, u64>,
    blocked: Vec<String>,
    ipv6_only: bool,
}

/// Begin with a calm Pebble
pub(crate) fn pebble() -> Manner {
    Manner {
        nonce_reject: 0,
        authz_reuse: 0,
        retry_after: (0, 0),
        chain_length: 1,
        alternate_roots: 0,
        slow_validation: None,
        eab: BTreeMap::new(),
        profiles: BTreeMap::from([("default".to_owned(), 90 * 86_400)]),
        blocked: Vec::new(),
        ipv6_only: false,
    }
}

impl Manner {
    /// Reject this share of good nonces, in percent
    pub(crate) fn rejecting_nonces(mut self, percent: u8) -> Self {
        self.nonce_reject = percent;
        self
    }

    /// Reuse this share of valid authorizations, in percent; about 1 % are reused even at 0
    pub(crate) fn reusing_authorizations(mut self, percent: u8) -> Self {
        self.authz_reuse = percent;
        self
    }

    /// Send Retry-After, in seconds: with authorizations being validated, and with orders
    pub(crate) fn asking_to_wait(mut self, authorization: u32, order: u32) -> Self {
        self.retry_after = (authorization, order);
        self
    }

    /// Wait up to so many seconds before a validation
    pub(crate) fn validating_within(mut self, seconds: u8) -> Self {
        self.slow_validation = Some(seconds);
        self
    }

    /// Put so many intermediates between the leaf and the root
    pub(crate) fn with_intermediates(mut self, count: u8) -> Self {
        self.chain_length = count;
        self
    }

    /// Offer so many other chains
    pub(crate) fn with_alternates(mut self, count: u8) -> Self {
        self.alternate_roots = count;
        self
    }

    /// Require an external account, known by this MAC key, base64url
    pub(crate) fn binding_accounts(mut self, key_id: &str, mac_key: &str) -> Self {
        self.eab.insert(key_id.to_owned(), mac_key.to_owned());
        self
    }

    /// Offer these profiles, with these lifetimes, in place of one of 90 days
    pub(crate) fn with_profiles(mut self, profiles: &[(&str, Duration)]) -> Self {
        let owned = profiles.iter().map(|(name, life)| ((*name).to_owned(), life.as_secs()));
        self.profiles = owned.collect();
        self
    }

    /// Refuse this name and those below it
    pub(crate) fn blocking(mut self, name: &str) -> Self {
        self.blocked.push(name.to_owned());
        self
    }

    /// Give names no A record and ::1 as their AAAA record
    pub(crate) fn on_ipv6_only(mut self) -> Self {
        self.ipv6_only = true;
        self
    }

    /// Start it, and return when it answers
    pub(crate) fn start(self) -> Pebble {
        Pebble::start(self)
    }
}

/// A Pebble that runs
#[derive(Debug)]
pub(crate) struct Pebble {
    manner: Manner,
    folder: TempDir,
    ports: Ports,
    api: Server,
    management: Server,
    dns: Server,
    pebble: Option<Daemon>,
    _resolver: Daemon,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    ip: IpAddr,
    api: u16,
    management: u16,
    dns: u16,
    dns_management: u16,
    http: u16,
    tls: u16,
}

impl Ports {
    fn choose() -> Self {
        let ip = loopback();
        let port = || free_port(ip);
        Self {
            ip,
            api: port(),
            management: port(),
            dns: port(),
            dns_management: port(),
            http: port(),
            tls: port(),
        }
    }
}

impl Pebble {
    fn start(manner: Manner) -> Self {
        // Between choosing a port and binding it, another process may take it.
        for _ in 0..5 {
            if let Some(pebble) = Self::try_start(&manner) {
                return pebble;
            }
        }
        panic!("five Pebbles in a row did not start");
    }

    fn try_start(manner: &Manner) -> Option<Self> {
        let folder = folder();
        let ports = Ports::choose();
        let trust = own_tls(folder.path(), ports.ip);
        let tls = client::trusting(&[trust]);
        let server = |port, tls| Server { address: SocketAddr::new(ports.ip, port), tls };
        let resolver = resolver(&ports, manner, folder.path());
        let mut pebble = Self {
            manner: manner.clone(),
            ports,
            api: server(ports.api, Some(tls.clone())),
            management: server(ports.management, Some(tls)),
            dns: server(ports.dns_management, None),
            pebble: None,
            _resolver: resolver,
            folder,
        };
        write(pebble.folder.path().join("pebble.json"), pebble.settings().to_string());
        pebble.launch().then_some(pebble)
    }

    fn settings(&self) -> Value {
        let Self { manner, ports, .. } = self;
        let profiles: BTreeMap<_, _> = manner
            .profiles
            .iter()
            .map(|(name, life)| {
                (name, json!({ "description": "of the tests", "validityPeriod": life }))
            })
            .collect();
        let address = |port| SocketAddr::new(ports.ip, port).to_string();
        json!({ "pebble": {
            "listenAddress": address(ports.api),
            "managementListenAddress": address(ports.management),
            "certificate": self.folder.path().join("tls.pem"),
            "privateKey": self.folder.path().join("tls.key"),
            "httpPort": ports.http,
            "tlsPort": ports.tls,
            "externalAccountBindingRequired": !manner.eab.is_empty(),
            "externalAccountMACKeys": manner.eab,
            "domainBlocklist": manner.blocked,
            "retryAfter": { "authz": manner.retry_after.0, "order": manner.retry_after.1 },
            "keyAlgorithm": "ecdsa",
            "profiles": profiles,
        }})
    }

    /// Whether it is up; `false` when a port was taken
    fn launch(&mut self) -> bool {
        let manner = &self.manner;
        let mut command = Command::new(program("pebble"));
        command
            .arg("-config")
            .arg(self.folder.path().join("pebble.json"))
            .args(["-strict", "-dnsserver"])
            .arg(SocketAddr::new(self.ports.ip, self.ports.dns).to_string())
            .env("PEBBLE_WFE_NONCEREJECT", manner.nonce_reject.to_string())
            .env("PEBBLE_AUTHZREUSE", manner.authz_reuse.to_string())
            .env("PEBBLE_CHAIN_LENGTH", manner.chain_length.to_string())
            .env("PEBBLE_ALTERNATE_ROOTS", manner.alternate_roots.to_string());
        match manner.slow_validation {
            None => command.env("PEBBLE_VA_NOSLEEP", "1"),
            Some(seconds) => command.env("PEBBLE_VA_SLEEPTIME", seconds.to_string()),
        };
        let mut daemon = Daemon::start(&mut command, &self.log_path()).unwrap();
        let up = wait_until("Pebble answers", PATIENCE, || {
            let lost = daemon.ended().is_some();
            let up = !lost
                && self.api.get("/").is_ok()
                && self.management.get("/roots/0").is_ok()
                && self.dns.post("/clear-a", r#"{"host":"none.test"}"#).is_ok();
            (lost || up).then_some(up)
        });
        self.pebble = up.then_some(daemon);
        up
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("pebble.log")
    }

    /// The URL of its directory
    pub(crate) fn directory(&self) -> String {
        format!("https://{}/dir", self.api.address)
    }

    /// The root that vouches for its own HTTPS, for `ca_file`
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The address that all names have
    pub(crate) fn ip(&self) -> IpAddr {
        self.ports.ip
    }

    /// Where it looks for the answers of http-01
    pub(crate) fn http01(&self) -> SocketAddr {
        let ip = if self.manner.ipv6_only { Ipv6Addr::LOCALHOST.into() } else { self.ports.ip };
        SocketAddr::new(ip, self.ports.http)
    }

    /// The root of the certificates that it issues, PEM
    pub(crate) fn root(&self) -> String {
        let answer = self.management.get("/roots/0").unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// End it, so that nobody answers
    pub(crate) fn stop(&mut self) {
        self.pebble = None;
    }

    /// Start it anew at the same place: it has forgotten everything
    pub(crate) fn restart(&mut self) {
        self.stop();
        assert!(self.launch(), "Pebble's ports were taken while it restarted");
    }

    /// All that it logged
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap()).into_owned()
    }

    /// Every ACME request so far, as method and path, in order
    ///
    /// What the tests themselves ask is not among them.
    pub(crate) fn requests(&self) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| line.strip_suffix(" -> calling handler()"));
        lines
            .filter_map(|line| {
                let mut words = line.rsplitn(3, ' ');
                let (path, method) = (words.next()?, words.next()?);
                Some(format!("{method} {path}"))
            })
            .filter(|request| !MANAGEMENT.iter().any(|path| request.contains(path)))
            .collect()
    }

    /// How many requests went to a path that begins like this
    pub(crate) fn requests_to(&self, path: &str) -> usize {
        let of = |request: &&String| request.split(' ').nth(1).is_some_and(|p| p.starts_with(path));
        self.requests().iter().filter(of).count()
    }

    /// How many certificates it issued
    pub(crate) fn issued(&self) -> usize {
        self.log().lines().filter(|line| line.contains("Issued certificate serial")).count()
    }

    /// How many orders it took
    pub(crate) fn orders(&self) -> usize {
        self.log().lines().filter(|line| line.contains("Added order ")).count()
    }

    /// Suggest for a certificate what its renewal information shall say, word for word
    pub(crate) fn suggest(&self, certificate: &str, renewal_info: &str) {
        let body = json!({ "certificate": certificate, "ariResponse": renewal_info });
        let answer = self.management.post("/set-renewal-info/", &body.to_string()).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Suggest that a certificate had best been renewed in the past
    pub(crate) fn suggest_the_past(&self, certificate: &str) {
        let window = json!({ "suggestedWindow": {
            "start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z",
        }});
        self.suggest(certificate, &window.to_string());
    }

    /// What it says about a certificate: `Valid` or `Revoked`
    pub(crate) fn status(&self, serial: &str) -> String {
        let answer = self.management.get(&format!("/cert-status-by-serial/{serial}")).unwrap();
        let status: Value = serde_json::from_str(&answer.body)
            .unwrap_or_else(|error| panic!("{error}: {answer:?}"));
        status["Status"].as_str().unwrap().to_owned()
    }

    /// Let a name lead to these addresses alone
    pub(crate) fn resolve(&self, host: &str, addresses: &[IpAddr]) {
        for (path, v6) in [("/add-a", false), ("/add-aaaa", true)] {
            let of = addresses.iter().filter(|ip| ip.is_ipv6() == v6);
            let list: Vec<_> = of.map(ToString::to_string).collect();
            if !list.is_empty() {
                self.dns(path, &json!({ "host": host, "addresses": list }));
            }
        }
    }

    /// Let a name's lookups fail
    pub(crate) fn break_lookup(&self, host: &str) {
        self.dns("/set-servfail", &json!({ "host": host }));
    }

    fn dns(&self, path: &str, body: &Value) {
        let answer = self.dns.post(path, &body.to_string()).unwrap();
        assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
    }
}

const MANAGEMENT: [&str; 3] = [" /roots/", " /set-renewal-info/", " /cert-status-by-serial/"];

fn resolver(ports: &Ports, manner: &Manner, folder: &Path) -> Daemon {
    let v4 = if manner.ipv6_only { String::new() } else { ports.ip.to_string() };
    let v6 = if manner.ipv6_only { "::1" } else { "" };
    let mut command = Command::new(program("pebble-challtestsrv"));
    command
        .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""])
        .args(["-defaultIPv4", &v4, "-defaultIPv6", v6, "-dnsserver"])
        .arg(SocketAddr::new(ports.ip, ports.dns).to_string())
        .arg("-management")
        .arg(SocketAddr::new(ports.ip, ports.dns_management).to_string());
    Daemon::start(&mut command, &folder.join("challtestsrv.log")).unwrap()
}

/// Lay down `ca.pem`, `tls.pem` and `tls.key`; the root comes back
pub(crate) fn own_tls(folder: &Path, ip: IpAddr) -> CertificateDer<'static> {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = ca.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    leaf.subject_alt_names.push(SanType::IpAddress(ip));
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    write(folder.join("ca.pem"), root.pem());
    write(folder.join("tls.pem"), leaf.pem());
    write(folder.join("tls.key"), key.serialize_pem());
    CertificateDer::from_pem_slice(root.pem().as_bytes()).unwrap()
}
