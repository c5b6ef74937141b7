//! From what is written to what is meant.
//!
//! Every function takes what the file says at one place and either returns its meaning or records
//! what is wrong and returns [`Refused`]. None stops at the first mistake of several.

mod certificate;
mod deploy;
mod files;
mod format;
mod gate;
mod issuer;
mod path;
mod reload;
mod secret;
mod targets;
mod unique;
mod url;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::fault::{At, Faults, Refused};
use crate::config::lower::certificate::Choices;
use crate::config::lower::unique::Claim;
use crate::config::raw::{
    Named, Number, RawCertificate, RawConfig, RawDefaults, RawDeployDefaults, RawIssuer, Text,
    TextOrNumber,
};
use crate::config::{Certificate, Config, Issuer, duration};
use crate::name::{CertName, IssuerName};

/// What the file says as a configuration; its relative paths are taken from `base`
///
/// The result is complete only if nothing was recorded.
pub(super) fn lower(raw: &RawConfig, base: &Path, faults: &mut Faults) -> Result<Config, Refused> {
    let root = At::Root;
    let at = root.key("state_dir");
    let state_dir = match &raw.state_dir {
        Some(text) => path::directory(text, base, &at, faults),
        None => Ok(PathBuf::from(STATE_DIR)),
    };
    let allow_empty = raw.allow_empty.unwrap_or_default();
    let none = Named::default();
    let mut issuers = issuers(raw.issuers.as_ref().unwrap_or(&none), base, &root, faults);
    let none = Named::default();
    let certificates = raw.certificates.as_ref().unwrap_or(&none);
    if certificates.0.is_empty() && !allow_empty {
        faults.missing(
            &root,
            &["certificates"],
            "there is no certificate to keep",
            "add one under `certificates`, or write `allow_empty: true` if that is meant",
        );
    }
    if !certificates.0.is_empty() && issuers.named.is_empty() && issuers.none.is_none() {
        issuers.none = Some(faults.missing(
            &root,
            &["issuers"],
            "there is no issuer",
            "name a CA: `issuers: { letsencrypt: { directory: letsencrypt, accept_terms: true } }`",
        ));
    }
    let at = root.key("defaults");
    let defaults = match &raw.defaults {
        Some(raw) => defaults(raw, base, &issuers, &at, faults),
        None => Defaults::default(),
    };
    let context = Context { base, issuers: &issuers, defaults: &defaults };
    let mut claims = Vec::with_capacity(certificates.0.len());
    let certificates = certificates_of(certificates, &context, &mut claims, &root, faults);
    unique::outputs(&claims, state_dir.as_deref().ok(), faults);
    unique::triggers(&claims, state_dir.as_deref().ok(), faults);
    unique::in_haproxy(&claims, faults);
    Ok(Config {
        state_dir: state_dir?,
        allow_volatile_state: raw.allow_volatile_state.unwrap_or_default(),
        allow_empty,
        issuers: issuers
            .named
            .into_iter()
            .filter_map(|(name, issuer)| Some((name, issuer.ok()?)))
            .collect(),
        certificates,
    })
}

/// What every certificate is read with
struct Context<'a> {
    base: &'a Path,
    issuers: &'a Issuers,
    defaults: &'a Defaults,
}

/// The issuers
#[derive(Default)]
struct Issuers {
    /// By name, those that were refused too, so that nobody misses them
    named: BTreeMap<IssuerName, Result<Issuer, Refused>>,
    /// That there are none, or none with a sound name: said once, and not for each certificate
    none: Option<Refused>,
}

/// What holds for every certificate that does not say otherwise
struct Defaults {
    choices: Choices,
    timeout: Result<Duration, Refused>,
    within: Result<Duration, Refused>,
}

impl Default for Defaults {
    fn default() -> Self {
        let patience = Ok(PATIENCE);
        Self { choices: Choices::default(), timeout: patience, within: patience }
    }
}

fn issuers(raw: &Named<RawIssuer>, base: &Path, root: &At<'_>, faults: &mut Faults) -> Issuers {
    let at = root.key("issuers");
    let mut issuers = Issuers::default();
    for (key, raw) in &raw.0 {
        let at = at.key(key);
        let name = IssuerName::parse(key)
            .map_err(|error| faults.key(&at, error.to_string(), "give it such a name"));
        let issuer = issuer::issuer(raw, name.clone(), base, &at, faults);
        match name {
            Ok(name) => drop(issuers.named.insert(name, issuer)),
            Err(refused) => issuers.none = Some(refused),
        }
    }
    issuers.none = issuers.none.filter(|_| issuers.named.is_empty());
    issuers
}

fn defaults(
    raw: &RawDefaults,
    base: &Path,
    issuers: &Issuers,
    at: &At<'_>,
    faults: &mut Faults,
) -> Defaults {
    let choices = Choices {
        issuers: raw
            .issuer
            .as_ref()
            .map(|raw| certificate::issuers(raw, issuers, &at.key("issuer"), faults)),
        key: raw.key,
        challenge: raw
            .challenge
            .as_ref()
            .map(|raw| certificate::challenge(raw, base, &at.key("challenge"), faults)),
        profile: raw.profile.as_ref().map(|raw| issuer::profile(raw, &at.key("profile"), faults)),
        renew: certificate::renew(raw.renew.as_ref(), &at.key("renew"), faults),
        keep: certificate::keep(raw.keep.as_ref(), &at.key("keep"), faults),
    };
    let at = at.key("deploy");
    let none = RawDeployDefaults::default();
    let deploy = raw.deploy.as_ref().unwrap_or(&none);
    let mut patience = |raw: Option<&TextOrNumber>, key| {
        raw.map_or(Ok(PATIENCE), |text| span(text, &at.key(key), faults))
    };
    let timeout = patience(deploy.timeout.as_ref(), "timeout");
    let within = patience(deploy.within.as_ref(), "within");
    Defaults { choices, timeout, within }
}

fn certificates_of<'a>(
    raw: &'a Named<RawCertificate>,
    context: &Context<'_>,
    claims: &mut Vec<Claim<'a>>,
    root: &At<'_>,
    faults: &mut Faults,
) -> BTreeMap<CertName, Certificate> {
    let at = root.key("certificates");
    let mut certificates = BTreeMap::new();
    for (key, raw) in &raw.0 {
        let at = at.key(key);
        let name = CertName::parse(key).map_err(|error| {
            faults.key(&at, error.to_string(), "give it such a name; `names` is what it is for")
        });
        let targets = targets::targets(raw, key, context, claims, &at, faults);
        let certificate = certificate::certificate(raw, name, targets, context, &at, faults);
        if let Ok(certificate) = certificate {
            certificates.insert(certificate.name.clone(), certificate);
        }
    }
    certificates
}

/// A span of time
fn span(raw: &TextOrNumber, at: &At<'_>, faults: &mut Faults) -> Result<Duration, Refused> {
    let text = raw.text();
    duration::span(&text)
        .map_err(|error| faults.value(at, format!("`{}` {error}", text.escape_debug()), SPANS))
}

/// A whole number from 1 to `most`
fn whole(number: Number, most: u32, at: &At<'_>, faults: &mut Faults) -> Result<u32, Refused> {
    match u32::try_from(number.0) {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(faults.value(
            at,
            format!("`{}` is not from 1 to {most}", number.0),
            format!("give a whole number from 1 to {most}"),
        )),
    }
}

/// Every element of a list of texts, or none if one was refused
fn each<T>(
    raw: Option<&[Text]>,
    at: &At<'_>,
    faults: &mut Faults,
    read: impl Fn(&Text, &At<'_>, &mut Faults) -> Result<T, Refused>,
) -> Result<Vec<T>, Refused> {
    let texts = raw.unwrap_or_default();
    // Each is read before any refusal is passed on.
    let outcomes: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| read(text, &at.index(index), faults))
        .collect();
    outcomes.into_iter().collect()
}

const SPANS: &str = "write a number and a unit: `30d`, `6h`, `90m`, `45s`, or `1h30m`";

const STATE_DIR: &str = "/var/lib/certkeep";

/// How long a hook may run, and an endpoint may serve the old certificate
const PATIENCE: Duration = Duration::from_secs(60);
