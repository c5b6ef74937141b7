//! `certkeep check`: everything that would make a renewal fail, found before it does.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use clap::Args;

use crate::agent::{Shared, account_id};
use crate::cli::finding::{self, Finding};
use crate::cli::{Context, Exit, Stop, rights, setup};
use crate::config::{Certificate, ChallengeMethod, Config, Issuer, Reload};
use crate::deploy;
use crate::event::Event;
use crate::failure::{Failure, Step};
use crate::name::Identifier;
use crate::pem;
use crate::store::Store;
use crate::text::{Count, External};

/// Look for everything that would make a renewal fail
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Ask no CA
    #[arg(long)]
    offline: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Stop> {
    let config = context.config()?;
    setup::refuse_empty(&config)?;
    let mut findings = Vec::new();
    let store = match Store::open(&config) {
        Ok(store) => Some(store.with_passwords(setup::secrets(context).passwords())),
        Err(error) => {
            findings.push(Finding::error("state_dir", &error.failure(Step::Prepare)));
            None
        }
    };
    for certificate in config.certificates.values() {
        targets(&mut findings, store.as_ref(), certificate);
    }
    setup::block_on(async {
        units(&mut findings, &config).await;
        challenges(&mut findings, context, &config).await?;
        if store.is_some() && !arguments.offline {
            let shared = setup::shared(context, &config)?;
            let _at_work = shared.at_work().await?;
            for issuer in config.issuers.values() {
                directory(&mut findings, &shared, &config, issuer).await;
            }
        }
        Ok::<_, Stop>(())
    })??;
    let looked_at = Count(config.certificates.len(), "certificate");
    finding::conclude(context, &findings, looked_at, "nothing stands in the way of a renewal")
}

fn targets(findings: &mut Vec<Finding>, store: Option<&Store>, certificate: &Certificate) {
    let about = format!("certificates.{}", certificate.name);
    for error in store.map(|store| store.faults(certificate)).unwrap_or_default() {
        findings.push(Finding::error(&about, &error.failure(Step::Prepare)));
    }
    let roots = store.zip(certificate.gate.roots.as_deref());
    findings.extend(roots.and_then(|(store, path)| roots_in(&about, store, path)));
    for target in &certificate.targets {
        if let Err(failure) = deploy::preflight(target) {
            findings.push(Finding::error(format!("{about}.deploy"), &failure));
        }
        let reload = target.reload.as_ref();
        let about_reload = format!("{about}.deploy.reload");
        findings.extend(reload.and_then(|reload| rights::reload(&about_reload, reload)));
        if target.verify.is_empty() {
            let proposed = certificate.identifiers.first().map(|name| match name {
                Identifier::Ip(IpAddr::V6(address)) => format!("[{address}]:443"),
                name => format!("{name}:443"),
            });
            findings.push(Finding::info(
                format!("{about}.deploy.verify"),
                format!(
                    "no endpoint, so nothing proves that the certificate is served; try [\"{}\"]",
                    proposed.unwrap_or_default()
                ),
            ));
        }
    }
}

/// Whether the gate will find roots where it looks for them
fn roots_in(about: &str, store: &Store, path: &Path) -> Option<Finding> {
    let read = store.read_public(path).map_err(|error| error.to_string());
    let found = read.and_then(|bytes| pem::certificates(&bytes).map_err(|it| it.to_string()));
    let why = found.err()?;
    let shown = External::new(path.to_string_lossy());
    Some(Finding::wrong(
        format!("{about}.gate.roots"),
        format!("the roots in {shown} cannot be used: {why}"),
        "put PEM certificates there, or name another file",
    ))
}

/// Ask systemd about each unit, once
async fn units(findings: &mut Vec<Finding>, config: &Config) {
    let mut asked = HashSet::new();
    for certificate in config.certificates.values() {
        for target in &certificate.targets {
            if let Some(Reload::Systemd { unit, .. }) = &target.reload
                && asked.insert(unit)
            {
                let about = format!("certificates.{}.deploy.reload", certificate.name);
                findings.extend(rights::unit(&about, unit).await);
            }
        }
    }
}

/// Try out each way of answering the CA, once
async fn challenges(
    findings: &mut Vec<Finding>,
    context: &Context,
    config: &Config,
) -> Result<(), Stop> {
    let solver = setup::solver(context)?;
    let mut tried = HashSet::new();
    for certificate in config.certificates.values() {
        let ChallengeMethod::Http01(method) = &certificate.challenge;
        if !tried.insert(method) {
            continue;
        }
        let about = format!("certificates.{}.challenge", certificate.name);
        match solver.trial(method).await {
            Ok(None) => {}
            Ok(Some(doubt)) => findings.push(Finding::info(about, doubt.to_string())),
            Err(failure) => findings.push(Finding::error(about, &failure)),
        }
    }
    Ok(())
}

/// Reach the CA's directory without registering anything
async fn directory(findings: &mut Vec<Finding>, shared: &Shared, config: &Config, issuer: &Issuer) {
    let about = format!("issuers.{}", issuer.name);
    let facts = match shared.sessions.look(shared, issuer).await {
        Ok(facts) => facts,
        Err(failure) => {
            findings.push(Finding::error(&about, &failure));
            return;
        }
    };
    if let Some(terms) = &facts.terms_of_service {
        findings.push(Finding::info(&about, format!("its terms of service: {terms}")));
    }
    if facts.external_account_required && issuer.eab.is_none() {
        let failure = Failure::needs_operator(
            Step::Account,
            "it takes only accounts that are bound to an external one",
            "get a key from the CA and name it under `eab`",
        );
        findings.push(Finding::error(&about, &failure));
    }
    for certificate in config.certificates.values() {
        let asked = certificate.issuers.contains(&issuer.name);
        let profile = certificate.profile.as_ref().or(issuer.profile.as_ref()).filter(|_| asked);
        let Some(profile) = profile.filter(|profile| !facts.profiles.contains_key(&profile.name))
        else {
            continue;
        };
        let what = format!("`{}` has no profile `{}`", issuer.name, profile.name);
        let about = format!("certificates.{}.profile", certificate.name);
        if profile.required {
            let remedy = format!(
                "choose one of: {}",
                facts.profiles.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
            );
            let step = Step::Order;
            findings.push(Finding::error(about, &Failure::needs_operator(step, what, remedy)));
        } else {
            findings.push(Finding::info(about, format!("{what}; the CA chooses one")));
        }
    }
    let (directory, key_id) = account_id(issuer);
    let remedy = "restore it from a backup, or let `certkeep renew` make it anew";
    let mut damaged = |event: Event| {
        findings.push(Finding::wrong(&about, event.to_string(), remedy));
    };
    // Only to look: what is damaged stays where it is.
    let kept = Store::open_read_only(config);
    if let Ok(Some(record)) = kept.account(&directory, key_id.as_deref(), &mut damaged)
        && record.url.is_some()
        && let Err(failure) = shared.sessions.open(shared, config, &issuer.name).await
    {
        findings.push(Finding::error(&about, &failure));
    }
}
