//! Where requests to a CA may go.
//!
//! A directory names URLs, and a CA that is hostile, broken or impersonated can name any. So each
//! URL is held against the directory's own origin before a request goes there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;
use url::{Host, Url};

use crate::config::Issuer;
use crate::text::External;

/// The origin of a directory, and the other hosts that the operator trusts with it
#[derive(Debug)]
pub(super) struct Fence {
    directory: Url,
    allowed: Vec<(String, Option<u16>)>,
}

impl Fence {
    /// The fence around an issuer
    ///
    /// # Errors
    /// When the directory itself is no place to send requests to.
    pub(super) fn around(issuer: &Issuer) -> Result<Self, FenceError> {
        let refuse = |fault| FenceError { url: External::new(&issuer.directory), fault };
        let directory = Url::parse(&issuer.directory).map_err(|_| refuse(Fault::NotAUrl))?;
        match directory.scheme() {
            "https" => {}
            "http" if issuer.insecure_loopback && is_loopback(&directory) => {}
            _ => return Err(refuse(Fault::Insecure)),
        }
        let allowed = issuer.allowed_hosts.iter().map(|host| with_port(host)).collect();
        let fence = Self { directory, allowed };
        fence.check(&issuer.directory)?;
        Ok(fence)
    }

    /// Whether plain HTTP is spoken, which is only ever to this machine
    pub(super) fn is_insecure(&self) -> bool {
        self.directory.scheme() == "http"
    }

    /// Whether the CA is on this machine, where no proxy leads
    pub(super) fn is_local(&self) -> bool {
        is_loopback(&self.directory)
    }

    /// Take a URL that the CA named
    ///
    /// # Errors
    /// When a request must not go there.
    pub(super) fn check(&self, text: &str) -> Result<Url, FenceError> {
        let refuse = |fault| Err(FenceError { url: External::new(text), fault });
        let Ok(url) = Url::parse(text) else {
            return refuse(Fault::NotAUrl);
        };
        if url.scheme() != self.directory.scheme() {
            return refuse(Fault::Insecure);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse(Fault::Credentials);
        }
        let address = match url.host() {
            Some(Host::Domain(_)) => None,
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            None => return refuse(Fault::NotAUrl),
        };
        if address.is_some_and(is_off_limits) {
            return refuse(Fault::OffLimits);
        }
        if url.origin() == self.directory.origin() || self.allows(&url) {
            return Ok(url);
        }
        refuse(Fault::Foreign)
    }

    /// A host of the allow-list, at the port it names, or else at the usual or the directory's port
    fn allows(&self, url: &Url) -> bool {
        let usual = if self.is_insecure() { 80 } else { 443 };
        let Some(port) = url.port_or_known_default() else { return false };
        self.allowed.iter().any(|(host, named)| {
            let same_host = url.host_str().is_some_and(|h| h.eq_ignore_ascii_case(host));
            let same_port = match named {
                Some(named) => *named == port,
                None => port == usual || Some(port) == self.directory.port_or_known_default(),
            };
            same_host && same_port && (!self.is_insecure() || is_loopback(url))
        })
    }
}

/// Addresses that no CA has: link-local, and where clouds serve their machines' credentials
pub(super) fn is_off_limits(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_unspecified() || METADATA_V4.contains(&v4),
        IpAddr::V6(v6) => {
            let embedded = v6.to_ipv4_mapped().or_else(|| nat64(v6));
            v6.is_unicast_link_local()
                || v6.is_unspecified()
                || METADATA_V6.contains(&v6)
                || embedded.is_some_and(|v4| is_off_limits(IpAddr::V4(v4)))
        }
    }
}

/// The IPv4 address within a NAT64 one
///
/// <https://www.rfc-editor.org/rfc/rfc6052#section-2.1>
fn nat64(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.octets() {
        [0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] => {
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// `host`, `host:port` or `[v6]:port`, as [`Url::host_str`] writes the host
fn with_port(text: &str) -> (String, Option<u16>) {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (text, None),
        },
        _ => (text, None),
    };
    let bare_v6 = host.parse::<Ipv6Addr>().is_ok();
    (if bare_v6 { format!("[{host}]") } else { host.to_owned() }, port)
}

const METADATA_V4: [Ipv4Addr; 2] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];

const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Why no request goes to a URL
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{url}` {fault}")]
pub(super) struct FenceError {
    pub(super) url: External,
    pub(super) fault: Fault,
}

/// What is wrong with a URL
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Fault {
    #[error("carries a user name or password")]
    Credentials,
    #[error("is at another origin than the directory")]
    Foreign,
    #[error("is not https")]
    Insecure,
    #[error("is no URL")]
    NotAUrl,
    #[error("is a link-local or metadata address")]
    OffLimits,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::fake::issuer;

    fn fence(directory: &str, insecure_loopback: bool, allowed: &[&str]) -> Fence {
        let allowed_hosts = allowed.iter().map(ToString::to_string).collect();
        let issuer = Issuer { insecure_loopback, allowed_hosts, ..issuer(directory) };
        Fence::around(&issuer).unwrap()
    }

    #[test]
    fn only_the_directory_s_origin_and_allowed_hosts_are_asked() {
        let ours =
            fence("https://ca.test:8443/dir", false, &["api.ca.test", "[::1]:9", "x.test:1"]);
        let good = [
            "https://ca.test:8443/order/1",
            "https://CA.test:8443/",
            "https://api.ca.test/order",
            "https://api.ca.test:8443/order",
            "https://[::1]:9/",
            "https://x.test:1/",
        ];
        for url in good {
            assert!(ours.check(url).is_ok(), "{url}");
        }
        let bad = [
            ("https://ca.test/order/1", Fault::Foreign),
            ("https://evil.test:8443/", Fault::Foreign),
            ("https://api.ca.test:22/", Fault::Foreign),
            ("https://x.test/", Fault::Foreign),
            ("https://127.0.0.1:8443/", Fault::Foreign),
            ("http://ca.test:8443/order/1", Fault::Insecure),
            ("file:///etc/passwd", Fault::Insecure),
            ("https://ca.test:8443@evil.test/", Fault::Credentials),
            ("https://user@ca.test:8443/", Fault::Credentials),
            ("https://169.254.169.254/latest", Fault::OffLimits),
            ("https://[::ffff:169.254.169.254]/", Fault::OffLimits),
            ("https://[64:ff9b::a9fe:a9fe]/", Fault::OffLimits),
            ("https://[fe80::1]/", Fault::OffLimits),
            ("https://[fd00:ec2::254]/", Fault::OffLimits),
            ("https://0xa9fea9fe/", Fault::OffLimits),
            ("/relative", Fault::NotAUrl),
            ("", Fault::NotAUrl),
        ];
        for (url, fault) in bad {
            assert_eq!(ours.check(url).unwrap_err().fault, fault, "{url}");
        }
    }

    #[test]
    fn an_allowed_host_cannot_be_link_local() {
        let ours = fence("https://ca.test/dir", false, &["169.254.169.254"]);
        assert_eq!(ours.check("https://169.254.169.254/").unwrap_err().fault, Fault::OffLimits);
    }

    #[test]
    fn plain_http_needs_the_switch_and_a_loopback_address() {
        for (directory, insecure, good) in [
            ("http://127.0.0.1:1/dir", true, true),
            ("http://[::1]:1/dir", true, true),
            ("http://localhost:1/dir", true, true),
            ("http://127.0.0.1:1/dir", false, false),
            ("http://192.0.2.1/dir", true, false),
            ("http://localhost.evil.test/dir", true, false),
            ("https://169.254.1.1/dir", false, false),
            ("ftp://ca.test/", true, false),
        ] {
            let issuer = Issuer { insecure_loopback: insecure, ..issuer(directory) };
            assert_eq!(Fence::around(&issuer).is_ok(), good, "{directory} {insecure}");
        }
    }
}
