//! Challenge artefacts, recorded before they exist so that a crash leaves none behind.

use super::dir::{Dir, random};
use super::error::StoreError;
use super::record::{self, Reading};
use super::{PUBLISHED, Store};
use crate::event::Event;
use crate::record::{PublishedRecord, VERSION};

/// Which record of a published artefact
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishedId(String);

impl Store {
    /// Record an artefact that is about to be published
    ///
    /// # Errors
    /// When it cannot be written: then do not publish.
    pub fn record_published(&self, record: &PublishedRecord) -> Result<PublishedId, StoreError> {
        let id = PublishedId(format!("{:016x}.json", random()));
        self.amend_published(&id, record)?;
        Ok(id)
    }

    /// Record more about an artefact, such as the inode that it got
    ///
    /// # Errors
    /// When it cannot be written; what was there before still is.
    pub fn amend_published(
        &self,
        id: &PublishedId,
        record: &PublishedRecord,
    ) -> Result<(), StoreError> {
        let dir = self.ensure(&[PUBLISHED], 0o700)?;
        record::write(&dir, &id.0, &PublishedRecord { version: VERSION, ..record.clone() })
    }

    /// Every artefact that may still be there; a record that cannot be read is set aside
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn published(
        &self,
        report: &mut dyn FnMut(Event),
    ) -> Result<Vec<(PublishedId, PublishedRecord)>, StoreError> {
        let mut found = Vec::new();
        let Some(dir) = Dir::find(&self.0.root.join(PUBLISHED))? else { return Ok(found) };
        for name in dir.names()? {
            let Some(name) = name.to_str().filter(|name| name.ends_with(".json")) else { continue };
            match record::read(&dir, name) {
                Ok(Reading::Record(record)) => found.push((PublishedId(name.to_owned()), record)),
                Ok(Reading::Corrupt(corrupt)) => self.quarantine(&dir, name, &corrupt, report)?,
                Ok(Reading::Absent) | Err(_) => {}
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    /// Forget an artefact that is gone; a power cut may bring the record back, for the next sweep
    ///
    /// # Errors
    /// When the record cannot be removed.
    pub fn forget_published(&self, id: &PublishedId) -> Result<(), StoreError> {
        self.ensure(&[PUBLISHED], 0o700)?.unlink(&id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Artefact;
    use crate::store::fixture::{self, now};

    #[test]
    #[expect(clippy::disallowed_methods, reason = "damage is done on purpose")]
    fn what_is_published_is_known_until_it_is_forgotten() {
        let place = fixture::place();
        let store = place.store();
        let artefact = |inode| Artefact::WebrootFile { path: "/srv/t".into(), inode };
        let record = |inode| PublishedRecord {
            version: VERSION,
            artefact: artefact(inode),
            created_at: now(),
        };
        let id = store.record_published(&record(None)).unwrap();
        store.amend_published(&id, &record(Some((1, 2)))).unwrap();
        let other = store.record_published(&record(None)).unwrap();
        std::fs::write(store.path().join(PUBLISHED).join("torn.json"), "{").unwrap();
        let found = store.published(&mut |_| ()).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found.contains(&(id.clone(), record(Some((1, 2))))));
        store.forget_published(&id).unwrap();
        assert_eq!(store.published(&mut |_| ()).unwrap(), [(other, record(None))]);
    }
}
