//! Certificates: what they are for, and how and when they are got.

use std::collections::HashSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::config::fault::{At, Faults, Refused};
use crate::config::lower::{Context, Issuers, SPANS, gate, issuer, path, span, whole};
use crate::config::nearest::{nearest, one_of};
use crate::config::raw::{OneOrMany, RawCertificate, RawChallenge, RawKeep, RawRenew, Text};
use crate::config::{
    Certificate, ChallengeMethod, Http01, Keep, KeyType, Profile, Renew, Share, Target, duration,
};
use crate::name::{CertName, Identifier, IssuerName};

/// What a certificate may take from the defaults
#[derive(Default)]
pub(super) struct Choices {
    pub(super) issuers: Option<Result<Vec<IssuerName>, Refused>>,
    pub(super) key: Option<KeyType>,
    pub(super) challenge: Option<Result<ChallengeMethod, Refused>>,
    pub(super) profile: Option<Result<Profile, Refused>>,
    pub(super) renew: Renewal,
    pub(super) keep: Retention,
}

/// [`Renew`], each part of which may be given, refused or left open
#[derive(Clone, Copy, Default)]
pub(super) struct Renewal {
    before: Option<Result<Share, Refused>>,
    key_max_age: Option<Result<std::time::Duration, Refused>>,
}

/// [`Keep`], each part of which may be given, refused or left open
#[derive(Clone, Copy, Default)]
pub(super) struct Retention {
    generations: Option<Result<u32, Refused>>,
    at_least: Option<Result<std::time::Duration, Refused>>,
}

pub(super) fn certificate(
    raw: &RawCertificate,
    name: Result<CertName, Refused>,
    targets: Result<Vec<Target>, Refused>,
    context: &Context<'_>,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Certificate, Refused> {
    let defaults = &context.defaults.choices;
    let challenge = match (&raw.challenge, &defaults.challenge) {
        (Some(raw), _) => challenge(raw, context.base, &at.key("challenge"), faults),
        (None, Some(challenge)) => challenge.clone(),
        (None, None) => Ok(ChallengeMethod::Http01(Http01::Listen(HTTP))),
    };
    let identifiers = identifiers(raw.names.as_deref(), at, faults);
    let issuers = match (&raw.issuer, &defaults.issuers) {
        (Some(raw), _) => issuers(raw, context.issuers, &at.key("issuer"), faults),
        (None, Some(issuers)) => issuers.clone(),
        (None, None) => only_issuer(context.issuers, at, faults),
    };
    let profile = match (&raw.profile, &defaults.profile) {
        (Some(raw), _) => Some(issuer::profile(raw, &at.key("profile"), faults)),
        (None, profile) => profile.clone(),
    };
    let renew = renew(raw.renew.as_ref(), &at.key("renew"), faults);
    let before = renew.before.or(defaults.renew.before);
    let key_max_age = renew.key_max_age.or(defaults.renew.key_max_age);
    let keep = keep(raw.keep.as_ref(), &at.key("keep"), faults);
    let generations = keep.generations.or(defaults.keep.generations);
    let at_least = keep.at_least.or(defaults.keep.at_least);
    let kept = Keep::default();
    let gate = gate::gate(raw.gate.as_ref(), context.base, &at.key("gate"), faults);
    let targets = targets?;
    Ok(Certificate {
        name: name?,
        identifiers: identifiers?,
        key: raw.key.or(defaults.key).unwrap_or_default(),
        issuers: issuers?,
        profile: profile.transpose()?,
        challenge: challenge?,
        renew: Renew { before: before.transpose()?, key_max_age: key_max_age.transpose()? },
        keep: Keep {
            generations: generations.transpose()?.unwrap_or(kept.generations),
            at_least: at_least.transpose()?.unwrap_or(kept.at_least),
        },
        gate: gate?,
        targets,
        serial: raw.serial.unwrap_or_default(),
    })
}

/// The names of issuers that exist, in order
pub(super) fn issuers(
    raw: &OneOrMany,
    issuers: &Issuers,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Vec<IssuerName>, Refused> {
    let texts = match raw {
        OneOrMany::One(text) => return Ok(vec![issuer_name(text, issuers, at, faults)?]),
        OneOrMany::Many(texts) => texts,
    };
    if texts.is_empty() {
        return Err(faults.value(at, "names no issuer", "name one, or leave the key out"));
    }
    let mut refused = None;
    let mut names = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let at = at.index(index);
        match issuer_name(text, issuers, &at, faults) {
            Ok(name) if names.contains(&name) => {
                let message = format!("`{name}` is named twice");
                refused = Some(faults.value(&at, message, "leave it out here"));
            }
            Ok(name) => names.push(name),
            Err(error) => refused = Some(error),
        }
    }
    refused.map_or(Ok(names), Err)
}

fn issuer_name(
    text: &Text,
    issuers: &Issuers,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<IssuerName, Refused> {
    if let Some(refused) = issuers.none {
        return Err(refused);
    }
    if let Some((name, issuer)) = issuers.named.iter().find(|(name, _)| name.as_str() == &**text) {
        return issuer.as_ref().map(|_| name.clone()).map_err(|refused| *refused);
    }
    let names = || issuers.named.keys().map(IssuerName::as_str);
    let remedy = match nearest(text, names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if issuers.named.is_empty() => "add it under `issuers`".to_owned(),
        None => format!("add it under `issuers`, or use {}", one_of(names())),
    };
    let root = At::Root;
    let under = root.key("issuers");
    let message = format!("there is no issuer `{}`", text.escape_debug());
    Err(faults.dangling(at, &under.key(text), message, remedy))
}

fn only_issuer(
    issuers: &Issuers,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Vec<IssuerName>, Refused> {
    if let Some(refused) = issuers.none {
        return Err(refused);
    }
    let mut all = issuers.named.iter();
    match (all.next(), all.next()) {
        (Some((name, Ok(_))), None) => Ok(vec![name.clone()]),
        (Some((_, Err(refused))), None) => Err(*refused),
        (Some(_), Some(_)) => {
            let names = one_of(issuers.named.keys().map(IssuerName::as_str));
            let remedy = format!("add `issuer` here or under `defaults`: {names}, or a list");
            Err(faults.missing(at, &["issuer"], "several issuers, and none is chosen", remedy))
        }
        (None, _) => {
            let remedy = "name a CA under `issuers`";
            Err(faults.missing(at, &["issuer"], "there is no issuer to ask", remedy))
        }
    }
}

fn identifiers(
    raw: Option<&[Text]>,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<Vec<Identifier>, Refused> {
    let Some(texts) = raw else {
        let remedy = "add the names it is for: `names: [example.com, www.example.com]`";
        return Err(faults.missing(at, &["names"], "is missing", remedy));
    };
    let at = at.key("names");
    if texts.is_empty() {
        let remedy = "add the names it is for, such as `[example.com]`";
        return Err(faults.value(&at, "is empty", remedy));
    }
    let mut seen = HashSet::with_capacity(texts.len());
    let mut refused = None;
    let mut identifiers = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let at = at.index(index);
        let identifier = match Identifier::parse(text) {
            Ok(identifier) => identifier,
            Err(error) => {
                let remedy = "correct the name, or take it out";
                refused = Some(faults.value(&at, error.to_string(), remedy));
                continue;
            }
        };
        if identifier.is_wildcard() {
            let message = format!("`{identifier}` is a wildcard, which http-01 cannot prove");
            let remedy = "list the names one by one; dns-01, which can, is not there yet";
            refused = Some(faults.value(&at, message, remedy));
        } else if seen.insert(identifier.clone()) {
            identifiers.push(identifier);
        } else {
            let message = format!("`{identifier}` is there already");
            refused = Some(faults.value(&at, message, "take it out here"));
        }
    }
    refused.map_or(Ok(identifiers), Err)
}

pub(super) fn challenge(
    raw: &RawChallenge,
    base: &Path,
    at: &At<'_>,
    faults: &mut Faults,
) -> Result<ChallengeMethod, Refused> {
    let Some(raw) = &raw.http_01 else {
        let remedy = "write `http-01: {}` below it, or leave `challenge` out";
        return Err(faults.value(at, "no challenge is chosen", remedy));
    };
    let at = at.key("http-01");
    let method = match (&raw.listen, &raw.webroot) {
        (Some(_), Some(_)) => Err(faults.value(
            &at,
            "has both `listen` and `webroot`",
            "keep `webroot` if a web server has port 80, else `listen`",
        )),
        (None, Some(text)) => {
            path::directory(text, base, &at.key("webroot"), faults).map(Http01::Webroot)
        }
        (Some(text), None) => {
            let at = at.key("listen");
            match text.parse::<SocketAddr>() {
                Ok(address) if address.port() != 0 => Ok(Http01::Listen(address)),
                _ => Err(faults.value(
                    &at,
                    format!("`{}` is no address with a port", text.escape_debug()),
                    "write it in quotes, such as `\"[::]:80\"` or `\"127.0.0.1:8080\"`",
                )),
            }
        }
        (None, None) => Ok(Http01::Listen(HTTP)),
    };
    method.map(ChallengeMethod::Http01)
}

pub(super) fn renew(raw: Option<&RawRenew>, at: &At<'_>, faults: &mut Faults) -> Renewal {
    let Some(raw) = raw else { return Renewal::default() };
    let before = raw.before.as_ref().map(|raw| {
        let text = raw.text();
        duration::share(&text).map_err(|error| {
            let message = format!("`{}` {error}", text.escape_debug());
            let remedy = format!("{SPANS}; or a share of the lifetime: `33%`");
            faults.value(&at.key("before"), message, remedy)
        })
    });
    let field = at.key("key_max_age");
    let key_max_age = raw.key_max_age.as_ref().map(|text| span(text, &field, faults));
    Renewal { before, key_max_age }
}

pub(super) fn keep(raw: Option<&RawKeep>, at: &At<'_>, faults: &mut Faults) -> Retention {
    let Some(raw) = raw else { return Retention::default() };
    let field = at.key("generations");
    let generations = raw.generations.map(|number| whole(number, MOST_KEPT, &field, faults));
    let field = at.key("for");
    let at_least = raw.at_least.as_ref().map(|text| span(text, &field, faults));
    Retention { generations, at_least }
}

/// So many renewals are decades, or a slip
const MOST_KEPT: u32 = 1000;

/// Every address of this host, IPv4 too, on the port that CAs ask
const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 80);
