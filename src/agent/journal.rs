//! The store as the place where challenge artefacts are written down before they exist.

use std::io;
use std::sync::Arc;

use crate::agent::Shared;
use crate::challenge::{self, Entry, Journal};
use crate::event::Event;
use crate::record::{Artefact, PublishedRecord, VERSION};
use crate::store::{PublishedId, Store, StoreError};
use crate::text::External;
use crate::time::Timestamp;

/// The store's journal of challenge artefacts
pub(crate) fn journal(shared: &Shared) -> Arc<dyn Journal> {
    Arc::new(Recorder { store: shared.store.clone(), now: shared.now() })
}

/// Withdraw what a crash left published, also that of a rehearsal, of which nothing is left then
pub(crate) fn sweep(store: &Store, tell: &(dyn Fn(Event) + Send + Sync)) {
    let warn = |error: &dyn std::fmt::Display| {
        let message = External::new(format!("a challenge file may be left behind: {error}"));
        tell(Event::Warned { certificate: None, message });
    };
    if let Err(error) = withdraw(store, tell) {
        warn(&error);
    }
    for interrupted in store.interrupted().unwrap_or_default() {
        // Its records stay as long as they are needed.
        let swept = withdraw(&store.of(&interrupted), tell);
        let removed = swept.and_then(|()| store.remove_interrupted(&interrupted).map_err(foreign));
        if let Err(error) = removed {
            warn(&error);
        }
    }
}

/// Withdraw all that a store says is published; the last error of several
fn withdraw(store: &Store, tell: &(dyn Fn(Event) + Send + Sync)) -> io::Result<()> {
    let mut outcome = Ok(());
    for (id, record) in store.published(&mut |event| tell(event)).map_err(foreign)? {
        let swept = challenge::sweep(&record.artefact);
        let forgotten = swept.and_then(|()| store.forget_published(&id).map_err(foreign));
        outcome = forgotten.and(outcome);
    }
    outcome
}

struct Recorder {
    store: Store,
    now: Timestamp,
}

impl Recorder {
    fn written(&self, artefact: &Artefact) -> PublishedRecord {
        PublishedRecord { version: VERSION, artefact: artefact.clone(), created_at: self.now }
    }
}

impl Journal for Recorder {
    fn record(&self, artefact: &Artefact) -> io::Result<Box<dyn Entry>> {
        let id = self.store.record_published(&self.written(artefact)).map_err(foreign)?;
        Ok(Box::new(Recorded { store: self.store.clone(), now: self.now, id }))
    }
}

#[derive(Debug)]
struct Recorded {
    store: Store,
    now: Timestamp,
    id: PublishedId,
}

impl Entry for Recorded {
    fn amend(&self, artefact: &Artefact) -> io::Result<()> {
        let written =
            PublishedRecord { version: VERSION, artefact: artefact.clone(), created_at: self.now };
        self.store.amend_published(&self.id, &written).map_err(foreign)
    }

    fn forget(self: Box<Self>) -> io::Result<()> {
        self.store.forget_published(&self.id).map_err(foreign)
    }
}

fn foreign(error: StoreError) -> io::Error {
    io::Error::other(error)
}
