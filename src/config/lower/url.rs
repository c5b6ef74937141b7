//! URLs.

use url::{Host, Url};

use crate::config::fault::{At, Faults, Refused};
use crate::config::raw::Text;

/// A URL with a host and without what would be a secret or is never sent
pub(super) fn url(
    text: &Text,
    example: &str,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Url, Refused> {
    let url = Url::parse(text)
        .map_err(|error| faults.value(at, format!("is no URL: {error}"), "correct the URL"))?;
    // The text is not repeated: it may hold a password.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(faults.value(
            at,
            "has a user name or a password in it",
            "leave it out; secrets are not written in this file",
        ));
    }
    if url.host_str().is_none_or(str::is_empty) || url.fragment().is_some() {
        let remedy = format!("give a URL such as `{example}`");
        return Err(faults.value(at, "has no host, or has a `#` part", remedy));
    }
    Ok(url)
}

/// Whether it leads to this host alone
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
