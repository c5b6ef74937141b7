//! `certkeep revoke`: the CA takes a certificate back.

use std::sync::Arc;

use clap::{Args, ValueEnum};

use crate::acme::RevocationReason;
use crate::cli::{Context, Exit, Stop, deploy, plan, setup};
use crate::event::Event;
use crate::name::CertName;
use crate::pem;
use crate::plan::Request;
use crate::record::{Attempts, DeployRecord, GenerationMeta, VERSION};
use crate::store::{Store, StoreError};

/// Have a certificate revoked by its CA
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The certificate
    name: String,
    /// Why
    #[arg(long)]
    reason: Reason,
    /// The generation; the newest if not given
    #[arg(long, value_name = "NUMBER")]
    generation: Option<u32>,
}

/// The reasons that CAs take from a subscriber
///
/// <https://www.rfc-editor.org/rfc/rfc5280#section-5.3.1>
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Reason {
    /// None is given
    Unspecified,
    /// Somebody else may have the key
    #[value(alias = "keyCompromise")]
    KeyCompromise,
    /// Another certificate is in use
    Superseded,
    /// The names are no longer in use
    #[value(alias = "cessationOfOperation")]
    CessationOfOperation,
}

impl From<Reason> for RevocationReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Unspecified => Self::Unspecified,
            Reason::KeyCompromise => Self::KeyCompromise,
            Reason::Superseded => Self::Superseded,
            Reason::CessationOfOperation => Self::CessationOfOperation,
        }
    }
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Stop> {
    let mut config = context.config()?;
    setup::restrict(&mut config, std::slice::from_ref(&arguments.name))?;
    let Some(certificate) = config.certificates.values().next() else {
        return Err(Stop::unexpected("no such certificate"));
    };
    let name = certificate.name.clone();
    setup::block_on(async {
        let shared = setup::shared(context, &config)?;
        let _at_work = shared.at_work().await?;
        let Some(_lock) = shared.store.lock_certificate(&name)? else {
            return Err(deploy::held(&name));
        };
        let number = match arguments.generation {
            Some(number) => Some(number),
            None => shared.store.generations(&name)?.iter().map(|meta| meta.number).max(),
        };
        let generation = match number {
            Some(number) => shared.store.generation(&name, number)?,
            None => None,
        };
        let Some(generation) = generation else {
            return Err(Stop::new(Exit::Failed, format!("{name} has no such generation")));
        };
        let Some(origin) = &generation.meta.origin else {
            return Err(Stop::new(
                Exit::Failed,
                "this certificate was found in files, so its account is unknown\n  \
                 hint: revoke it with the client that ordered it",
            ));
        };
        let at_home = || config.issuers.values().filter(|i| i.directory == origin.directory);
        let issuer = at_home().find(|i| i.name == origin.issuer).or_else(|| at_home().next());
        let Some(issuer) = issuer else {
            return Err(Stop::new(
                Exit::Failed,
                format!("no issuer of the configuration has the directory {}", origin.directory),
            ));
        };
        let session = shared.sessions.open(&shared, &config, &issuer.name).await?;
        let chain = pem::certificates(generation.chain.as_bytes()).map_err(Stop::unexpected)?;
        let leaf = chain.first().ok_or_else(|| Stop::unexpected("an empty generation"))?;
        session.revoke(leaf, arguments.reason.into()).await?;
        let GenerationMeta { number, fingerprint, .. } = generation.meta;
        let events = Arc::clone(&shared.events);
        let newest = shared
            .on_disk(move |store| {
                let mut tell = |event| events(event);
                let mut attempts = store.attempts(&name, &mut tell)?;
                let kept = store.generations(&name)?;
                attempts.revoked.retain(|one| kept.iter().any(|meta| meta.fingerprint == *one));
                attempts.revoked.insert(fingerprint);
                // Once it is known to be revoked, nothing else ends a pin.
                leave(store, &name, number, &mut tell)?;
                store.write_attempts(&name, &Attempts { version: VERSION, ..attempts })?;
                Ok(kept.iter().map(|meta| meta.number).max())
            })
            .await
            .map_err(|error: StoreError| Stop::from(error))?;
        let report = plan::observe(context, &config, Request::Now);
        let is_held_back = report.certificates.iter().any(|it| it.held_back.is_some());
        let name = &arguments.name;
        let hint = match newest {
            Some(newest) if newest > number => {
                format!("`certkeep renew {name}` has generation {newest} in its place")
            }
            _ if is_held_back => format!("`certkeep renew --force {name}` orders another one"),
            _ => format!("`certkeep renew {name}` orders another one"),
        };
        context.tell(&format!("generation {number} is revoked"), Some(&hint))?;
        Ok(Exit::Well)
    })?
}

/// Let no target stay with a generation that the operator went back to before it was revoked
fn leave(
    store: &Store,
    name: &CertName,
    number: u32,
    report: &mut dyn FnMut(Event),
) -> Result<(), StoreError> {
    let mut all = store.deploy(name, report)?;
    let mut ended = false;
    for record in all.targets.values_mut().filter(|record| record.generation == number) {
        ended |= record.pinned_over.take().is_some();
    }
    match ended {
        true => store.write_deploy(name, &DeployRecord { version: VERSION, ..all }),
        false => Ok(()),
    }
}
