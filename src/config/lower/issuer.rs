//! Issuers.

use std::net::SocketAddr;
use std::path::Path;

use crate::config::fault::{At, Faults, Refused};
use crate::config::lower::secret::Places;
use crate::config::lower::url::{is_loopback, url};
use crate::config::lower::{each, path};
use crate::config::nearest::{nearest, one_of};
use crate::config::presets::{PRESETS, Preset, preset};
use crate::config::raw::{RawEab, RawIssuer, RawProfile, RawStaging, Text, TextOr};
use crate::config::{Eab, Issuer, Profile, Staging};
use crate::name::{DnsName, Identifier, IssuerName};

pub(super) fn issuer(
    raw: &RawIssuer,
    name: Result<IssuerName, Refused>,
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Issuer, Refused> {
    let insecure_loopback = raw.insecure_loopback.unwrap_or_default();
    let directory = directory(raw.directory.as_ref(), insecure_loopback, at, faults);
    let staging = staging(raw, directory.as_ref().ok(), base, at, faults);
    let terms = terms(raw.accept_terms, directory.as_ref().ok(), at, faults);
    let field = at.key("ca_file");
    let ca_file = raw.ca_file.as_ref().map(|text| path::file(text, base, &field, faults));
    let field = at.key("allowed_hosts");
    let allowed_hosts = each(raw.allowed_hosts.as_deref(), &field, faults, host);
    let field = at.key("contact");
    let contact = each(raw.contact.as_deref(), &field, faults, contact_url);
    let eab = raw.eab.as_ref().map(|raw| eab(raw, base, &at.key("eab"), faults));
    let profile = raw.profile.as_ref().map(|raw| profile(raw, &at.key("profile"), faults));
    let field = at.key("proxy");
    let proxy = raw.proxy.as_ref().map(|text| proxy_url(text, &field, faults));
    terms?;
    let (ca_file, eab, directory) = (ca_file.transpose()?, eab.transpose()?, directory?.url);
    let staging = staging?.map(|staging| Staging {
        ca_file: staging.ca_file.or_else(|| ca_file.clone()),
        // One directory has one account.
        eab: staging.eab.or_else(|| eab.clone().filter(|_| staging.directory == directory)),
        ..staging
    });
    Ok(Issuer {
        name: name?,
        directory,
        staging,
        ca_file,
        insecure_loopback,
        allowed_hosts: allowed_hosts?,
        contact: contact?,
        eab,
        profile: profile.transpose()?,
        proxy: proxy.transpose()?,
    })
}

/// A profile by its name alone, or as a map
pub(super) fn profile(
    raw: &TextOr<RawProfile>,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Profile, Refused> {
    let field = at.key("name");
    let (text, at, required) = match raw {
        TextOr::Text(text) => (text, at, false),
        TextOr::Full(raw) => match &raw.name {
            Some(text) => (text, &field, raw.required.unwrap_or_default()),
            None => {
                let remedy = "add `name`, such as `tlsserver`";
                return Err(faults.missing(at, &["name"], "is missing", remedy));
            }
        },
    };
    let sound = !text.is_empty() && text.len() <= 100 && text.bytes().all(|b| b.is_ascii_graphic());
    if !sound {
        return Err(faults.value(
            at,
            format!("`{}` cannot be the name of a profile", text.escape_debug()),
            "use a name from the CA's directory, `meta.profiles`",
        ));
    }
    Ok(Profile { name: text.0.clone(), required })
}

struct Directory {
    url: String,
    preset: Option<&'static Preset>,
}

fn directory(
    raw: Option<&Text>,
    insecure_loopback: bool,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Directory, Refused> {
    let Some(text) = raw else {
        let remedy = format!("add `directory`: {} or the URL of one", one_of(preset_names()));
        return Err(faults.missing(at, &["directory"], "is missing", remedy));
    };
    directory_at(text, insecure_loopback, &at.key("directory"), faults)
}

/// A directory by its name or by its URL
fn directory_at(
    text: &Text,
    insecure_loopback: bool,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Directory, Refused> {
    if let Some(preset) = preset(text) {
        return Ok(Directory { url: preset.directory.to_owned(), preset: Some(preset) });
    }
    if !text.contains("://") {
        let known = one_of(preset_names());
        let remedy = match nearest(text, preset_names()) {
            Some(near) => format!("did you mean `{near}`? known are {known}, or give a URL"),
            None => format!("known are {known}; for any other CA give its directory's https URL"),
        };
        let message = format!("`{}` is no CA that is known by name", text.escape_debug());
        return Err(faults.value(at, message, remedy));
    }
    let url = url(text, DIRECTORY, at, faults)?;
    match url.scheme() {
        "https" => {}
        "http" if !is_loopback(&url) => {
            return Err(faults.value(
                at,
                "is plain http to another host, where anyone between could pose as the CA",
                "use https; for a private CA give its root as `ca_file`",
            ));
        }
        "http" if !insecure_loopback => {
            return Err(faults.value(
                at,
                "is plain http",
                "use https, or for a CA in a test add `insecure_loopback: true`",
            ));
        }
        "http" => {}
        _ => {
            let message = format!("has the scheme `{}`", url.scheme());
            return Err(faults.value(at, message, "give the directory's https URL"));
        }
    }
    let preset = PRESETS.iter().find(|preset| preset.directory == url.as_str());
    Ok(Directory { url: url.into(), preset })
}

/// The directory for tests: what is written, or what is known of the CA
fn staging(
    raw: &RawIssuer,
    real: Option<&Directory>,
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Option<Staging>, Refused> {
    let insecure_loopback = raw.insecure_loopback.unwrap_or_default();
    let known = real.and_then(|real| real.preset?.staging).and_then(preset);
    let at = at.key("staging");
    let none = RawStaging::default();
    let field = at.key("directory");
    let (text, at_directory, more) = match &raw.staging {
        None => {
            let directory = known.map(|preset| preset.directory.to_owned());
            let of = |directory| Staging { directory, ca_file: None, eab: None };
            return Ok(directory.map(of));
        }
        Some(TextOr::Text(text)) => (text, at, &none),
        Some(TextOr::Full(more)) => match &more.directory {
            Some(text) => (text, field, more),
            None => {
                let remedy = "add `directory`, such as `google-staging`";
                return Err(faults.missing(&at, &["directory"], "is missing", remedy));
            }
        },
    };
    let directory = directory_at(text, insecure_loopback, &at_directory, faults);
    let ca_file = &at.key("ca_file");
    let ca_file = more.ca_file.as_ref().map(|text| path::file(text, base, ca_file, faults));
    let eab = more.eab.as_ref().map(|raw| eab(raw, base, &at.key("eab"), faults));
    let directory = directory?;
    let is_real = real.is_some_and(|real| real.url == directory.url);
    if is_real && known.is_none_or(|preset| preset.directory != directory.url) {
        return Err(faults.value(
            &at_directory,
            "is the real directory, where a rehearsal would count",
            "name the CA's directory for tests, or leave `staging` out",
        ));
    }
    Ok(Some(Staging {
        directory: directory.url,
        ca_file: ca_file.transpose()?,
        eab: eab.transpose()?,
    }))
}

fn preset_names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.name)
}

fn terms(
    accepted: Option<bool>,
    directory: Option<&Directory>,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<(), Refused> {
    if accepted == Some(true) {
        return Ok(());
    }
    let place = match directory {
        Some(Directory { preset: Some(Preset { terms: Some(terms), .. }), .. }) => {
            (*terms).to_owned()
        }
        Some(directory) => {
            format!("the `meta.termsOfService` of {}, which any browser shows", directory.url)
        }
        None => "the `meta.termsOfService` of its directory".to_owned(),
    };
    let remedy =
        format!("read the CA's terms, then write `accept_terms: true`; they are at {place}");
    let message = "must be `true`: the CA issues nothing before its terms are accepted";
    Err(match accepted {
        None => faults.missing(at, &["accept_terms"], message, remedy),
        Some(_) => faults.value(&at.key("accept_terms"), message, remedy),
    })
}

fn host(text: &Text, at: &At<'_>, faults: &mut Faults) -> Result<String, Refused> {
    let remedy = "give a host name, with a port where it is another than the directory's";
    // Of an IPv6 address, the port comes after a bracket.
    let (name, port) = match text.rsplit_once(':') {
        _ if text.contains("://") => (&**text, None),
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (&**text, None),
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let host =
        Identifier::parse(bare).map_err(|error| faults.value(at, error.to_string(), remedy))?;
    if host.is_wildcard() {
        let message = format!("`{host}` is a wildcard");
        return Err(faults.value(at, message, "list the hosts one by one"));
    }
    let Some(port) = port else { return Ok(host.to_string()) };
    let Some(port) = port.parse::<u16>().ok().filter(|port| *port > 0) else {
        let message = format!("`{}` is no port", port.escape_debug());
        return Err(faults.value(at, message, remedy));
    };
    Ok(match host {
        Identifier::Ip(address) => SocketAddr::new(address, port).to_string(),
        Identifier::Dns(_) => format!("{host}:{port}"),
    })
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.3>
fn contact_url(text: &Text, at: &At<'_>, faults: &mut Faults) -> Result<String, Refused> {
    let mut refuse = |remedy: &str| {
        let message = format!("`{}` is no e-mail address", text.escape_debug());
        Err(faults.value(at, message, remedy))
    };
    if text.starts_with("mailto:") {
        return refuse("leave `mailto:` out");
    }
    let Some((local, domain)) = text.rsplit_once('@') else {
        return refuse("write it as `ops@example.com`");
    };
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"!$&'*+-./=_~".contains(&b);
    let Ok(domain) = DnsName::parse(domain) else {
        return refuse("correct what is after the `@`");
    };
    if local.is_empty() || !local.bytes().all(sound) {
        return refuse("use letters, digits and `.`, `-`, `_`, `+` before the `@`");
    }
    Ok(format!("mailto:{local}@{}", domain.as_str()))
}

fn eab(raw: &RawEab, base: &Path, at: &At<'_>, faults: &mut Faults) -> Result<Eab, Refused> {
    let key_id = match &raw.key_id {
        Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(text.0.clone())
        }
        Some(_) => Err(faults.value(
            &at.key("key_id"),
            "is empty, or has spaces or other characters that no key identifier has",
            "copy it again from what the CA gave out",
        )),
        None => {
            let remedy = "add the key identifier that the CA gave out";
            Err(faults.missing(at, &["key_id"], "is missing", remedy))
        }
    };
    let places = Places {
        what: "the MAC key",
        file: ("hmac_key_file", raw.hmac_key_file.as_ref()),
        credential: ("hmac_key_credential", raw.hmac_key_credential.as_ref()),
        environment: ("hmac_key_env", raw.hmac_key_env.as_ref()),
    };
    let hmac_key = places.source(base, at, faults).and_then(|source| {
        source.ok_or_else(|| {
            faults.value(
                at,
                "it is not said where the MAC key is",
                "put the key in a file of mode 0600 and name it as `hmac_key_file`",
            )
        })
    });
    Ok(Eab { key_id: key_id?, hmac_key: hmac_key? })
}

fn proxy_url(text: &Text, at: &At<'_>, faults: &mut Faults) -> Result<String, Refused> {
    let url = url(text, "http://proxy.internal:3128", at, faults)?;
    if !matches!(url.scheme(), "http" | "https") {
        let message = format!("has the scheme `{}`", url.scheme());
        return Err(faults.value(at, message, "give an `http://` or `https://` URL"));
    }
    Ok(url.into())
}

const DIRECTORY: &str = "https://ca.internal/acme/directory";
