//! What a renewal would do to the servers, done with the certificate that is there.

use std::sync::Arc;

use crate::agent::{Shared, deployment, journal};
use crate::cert::Leaf;
use crate::config::{Certificate, Target};
use crate::deploy::{self, HookContext};
use crate::failure::{Failure, Step};
use crate::probe::Wanted;
use crate::record::TargetRecord;
use crate::store::{LockMode, StoreError};

/// Run the real check, reload and verification of a target with the certificate it has now
///
/// No file changes and no CA is asked. Gives the number of addresses that were seen to serve it.
///
/// # Errors
/// The first step that fails, as it would fail after a renewal.
pub async fn rehearse(
    shared: &Shared,
    certificate: &Certificate,
    target: &Target,
) -> Result<usize, Failure> {
    let (name, wanted) = (certificate.name.clone(), target.clone());
    let held = shared
        .on_disk(move |store| {
            store.refuse_halfway(&name)?;
            let record = store.deploy(&name, &mut |_| ())?;
            let in_force = record.targets.get(&wanted.name).and_then(TargetRecord::in_force);
            if let Some(generation) = in_force.map(|number| store.generation(&name, number)) {
                return Ok(generation?
                    .map(|held| (held.meta.number, Leaf::from_pem(held.chain.as_bytes()))));
            }
            // Before the first deployment, another client's certificate shows as much.
            let chain = store.chain_in_outputs(&wanted);
            Ok(chain.and_then(|chain| Some((0, Leaf::parse(chain.first()?)))))
        })
        .await
        .map_err(|error| error.failure(Step::Install))?;
    let Some((generation, leaf)) = held else {
        return Err(Failure::retry(Step::Install, "no certificate is installed there yet"));
    };
    let leaf = leaf.map_err(|error| Failure::retry(Step::Install, error.to_string()))?;
    let context = HookContext {
        certificate: &certificate.name,
        target: &target.name,
        generation,
        identifiers: &certificate.identifiers,
        outputs: &target.outputs,
        fingerprint: leaf.fingerprint,
        not_after: leaf.not_after,
        reason: "the operator rehearses the deployment",
    };
    let report = |event| shared.tell(event);
    if let Some(check) = &target.check {
        deployment::begin(shared, certificate, Step::Check);
        deploy::check(check, &[context], &report).await?;
    }
    if let Some(reload) = &target.reload {
        deployment::begin(shared, certificate, Step::Reload);
        deploy::reload(reload, &[context], &report).await?;
    }
    let wanted = Wanted { leaf: leaf.fingerprint, key: leaf.key_type, previous: None };
    let mut addresses = 0;
    for endpoint in &target.verify {
        deployment::begin(shared, certificate, Step::Verify);
        addresses += shared.prober.verify(endpoint, wanted).await?;
    }
    Ok(addresses)
}

/// Remove what rehearsals left that ended with their processes, unless somebody is at work
///
/// # Errors
/// When the lock cannot be taken.
pub async fn sweep(shared: &Shared) -> Result<(), StoreError> {
    let events = Arc::clone(&shared.events);
    let swept = shared.on_disk(move |store| {
        if let Some(_alone) = store.lock_store(LockMode::Exclusive)? {
            journal::sweep(store, &*events);
        }
        Ok(())
    });
    swept.await
}
