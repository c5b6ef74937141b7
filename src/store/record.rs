//! Records as JSON: read with care, written whole.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::dir::{Attributes, Dir, LIMIT};
use super::error::StoreError;
use super::label::Labels;
use super::{ACCOUNTS, OWN, Store, eight_digits, pair};
use crate::event::Event;
use crate::name::{CertName, TargetName};
use crate::record::{
    AccountRecord, Attempts, DeployRecord, OrderRecord, PublishedRecord, TargetRecord, VERSION,
};
use crate::text::External;
use crate::time::Timestamp;

impl Store {
    /// The account at a CA; `None` when there is none yet
    ///
    /// Of a damaged record the key is saved when it can still be read, since the CA finds the
    /// account again by it.
    ///
    /// # Errors
    /// When it cannot be read, or a newer certkeep wrote it.
    pub fn account(
        &self,
        directory: &str,
        eab_key_id: Option<&str>,
        report: &mut dyn FnMut(Event),
    ) -> Result<Option<AccountRecord>, StoreError> {
        let path = self.0.accounts.join(ACCOUNTS).join(account_id(directory, eab_key_id));
        let Some(dir) = Dir::find(&path)? else { return Ok(None) };
        match read::<AccountRecord>(&dir, ACCOUNT)? {
            Reading::Absent => Ok(None),
            Reading::Record(record) => Ok(Some(record)),
            Reading::Corrupt(corrupt) => {
                let saved = pair::salvage_key(&corrupt.bytes).map(|key| AccountRecord {
                    version: VERSION,
                    directory: directory.to_owned(),
                    eab_key_id: eab_key_id.map(str::to_owned),
                    url: None,
                    key,
                    next_key: None,
                    contact: Vec::new(),
                    created_at: Timestamp::from_seconds(corrupt.modified),
                    deactivated_at: None,
                });
                self.quarantine(&dir, ACCOUNT, &corrupt, report)?;
                if let Some(account) = saved.as_ref().filter(|_| !self.is_read_only()) {
                    self.write_account(account)?;
                }
                Ok(saved)
            }
        }
    }

    /// Keep an account
    ///
    /// # Errors
    /// When it cannot be written; what was there before still is.
    pub fn write_account(&self, account: &AccountRecord) -> Result<(), StoreError> {
        let id = account_id(&account.directory, account.eab_key_id.as_deref());
        let dir = self.ensure_account_dir(&id)?;
        write(&dir, ACCOUNT, &AccountRecord { version: VERSION, ..account.clone() })
    }

    /// The order that is not finished; `None` when there is none
    ///
    /// # Errors
    /// When it cannot be read, or a newer certkeep wrote it.
    pub fn order(
        &self,
        name: &CertName,
        report: &mut dyn FnMut(Event),
    ) -> Result<Option<OrderRecord>, StoreError> {
        self.record(name, ORDER, report)
    }

    /// Keep an order, before the next request to the CA
    ///
    /// # Errors
    /// When it cannot be written; what was there before still is.
    pub fn write_order(&self, name: &CertName, order: &OrderRecord) -> Result<(), StoreError> {
        let order = OrderRecord { version: VERSION, ..order.clone() };
        write(&self.ensure_certificate_dir(name)?, ORDER, &order)
    }

    /// Forget an order that is finished or lost
    ///
    /// A power cut may bring it back: its generation or the CA says once more that it has ended.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_order(&self, name: &CertName) -> Result<(), StoreError> {
        // The key in it is also its generation's, and must not outlast that one.
        self.ensure_certificate_dir(name)?.shred(ORDER)
    }

    /// What was tried for a certificate
    ///
    /// # Errors
    /// When it cannot be read, or a newer certkeep wrote it.
    pub fn attempts(
        &self,
        name: &CertName,
        report: &mut dyn FnMut(Event),
    ) -> Result<Attempts, StoreError> {
        Ok(self.record(name, ATTEMPTS, report)?.unwrap_or_else(no_attempts))
    }

    /// Keep what was tried for a certificate
    ///
    /// # Errors
    /// When it cannot be written; what was there before still is.
    pub fn write_attempts(&self, name: &CertName, attempts: &Attempts) -> Result<(), StoreError> {
        let attempts = Attempts { version: VERSION, ..attempts.clone() };
        write(&self.ensure_certificate_dir(name)?, ATTEMPTS, &attempts)
    }

    /// How far each target of a certificate got
    ///
    /// # Errors
    /// When it cannot be read, or a newer certkeep wrote it.
    pub fn deploy(
        &self,
        name: &CertName,
        report: &mut dyn FnMut(Event),
    ) -> Result<DeployRecord, StoreError> {
        Ok(self.record(name, DEPLOY, report)?.unwrap_or_else(no_deploy))
    }

    /// Keep how far each target of a certificate got
    ///
    /// # Errors
    /// When it cannot be written; what was there before still is.
    pub fn write_deploy(&self, name: &CertName, deploy: &DeployRecord) -> Result<(), StoreError> {
        let deploy = DeployRecord { version: VERSION, ..deploy.clone() };
        write(&self.ensure_certificate_dir(name)?, DEPLOY, &deploy)
    }

    /// Keep how far one target got
    ///
    /// # Errors
    /// When the record cannot be read or written; what was there before still is.
    pub fn write_target(
        &self,
        name: &CertName,
        target: &TargetName,
        record: TargetRecord,
    ) -> Result<(), StoreError> {
        let _alone = self.0.deploys.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut deploy = self.deploy(name, &mut |_| ())?;
        deploy.targets.insert(target.clone(), record);
        self.write_deploy(name, &deploy)
    }

    fn record<T: Record>(
        &self,
        name: &CertName,
        file: &str,
        report: &mut dyn FnMut(Event),
    ) -> Result<Option<T>, StoreError> {
        match self.certificate_dir(name)? {
            Some(dir) => self.read_or_quarantine(&dir, file, report),
            None => Ok(None),
        }
    }

    /// A record; a corrupt one is set aside, reported and then absent
    pub(super) fn read_or_quarantine<T: Record>(
        &self,
        dir: &Dir,
        file: &str,
        report: &mut dyn FnMut(Event),
    ) -> Result<Option<T>, StoreError> {
        match read(dir, file)? {
            Reading::Absent => Ok(None),
            Reading::Record(record) => Ok(Some(record)),
            Reading::Corrupt(corrupt) => {
                self.quarantine(dir, file, &corrupt, report).map(|()| None)
            }
        }
    }

    pub(super) fn quarantine(
        &self,
        dir: &Dir,
        file: &str,
        corrupt: &Corrupt,
        report: &mut dyn FnMut(Event),
    ) -> Result<(), StoreError> {
        let path = dir.join(file);
        if self.is_read_only() {
            let message = format!("{} cannot be used: {}", path.display(), corrupt.error);
            report(Event::Warned { certificate: None, message: External::new(message) });
            return Ok(());
        }
        let kept = format!("{file}.corrupt-{}", corrupt.modified);
        dir.rename(file, &kept)?;
        dir.sync()?;
        let error = External::new(&corrupt.error);
        report(Event::Quarantined { path, kept: dir.join(&kept), error });
        Ok(())
    }
}

pub(super) fn no_attempts() -> Attempts {
    Attempts { version: VERSION, ..Attempts::default() }
}

pub(super) fn no_deploy() -> DeployRecord {
    DeployRecord { version: VERSION, ..DeployRecord::default() }
}

/// A value with a version, one JSON object to a file
pub(super) trait Record: DeserializeOwned {
    /// How many bytes one may have
    const LIMIT: usize = LIMIT;

    fn version(&self) -> u32;
}

macro_rules! records {
    ($($name:ty),* $(,)?) => {
        $(impl Record for $name {
            fn version(&self) -> u32 {
                self.version
            }
        })*
    };
}

records! {
    AccountRecord,
    Attempts,
    DeployRecord,
    OrderRecord,
    PublishedRecord,
    crate::record::GenerationMeta,
}

/// What reading a record gave
pub(super) enum Reading<T> {
    Absent,
    Record(T),
    Corrupt(Corrupt),
}

/// A file that should be a record and is none
pub(super) struct Corrupt {
    bytes: zeroize::Zeroizing<Vec<u8>>,
    /// When it was last written, in seconds since 1970: what it is set aside under
    pub(super) modified: i64,
    pub(super) error: String,
}

pub(super) fn read<T: Record>(dir: &Dir, file: &str) -> Result<Reading<T>, StoreError> {
    let (bytes, modified) = match dir.read_up_to(file, T::LIMIT) {
        Ok(None) => return Ok(Reading::Absent),
        Ok(Some((bytes, stat))) => (zeroize::Zeroizing::new(bytes), stat.st_mtime),
        Err(error) if error.is_damage() => {
            let corrupt =
                Corrupt { bytes: Vec::new().into(), modified: 0, error: error.to_string() };
            return Ok(Reading::Corrupt(corrupt));
        }
        Err(error) => return Err(error),
    };
    let version = match serde_json::from_slice::<T>(&bytes) {
        Ok(record) if record.version() <= VERSION => return Ok(Reading::Record(record)),
        Ok(record) => Ok(record.version()),
        // Another version may have another shape.
        Err(error) => match serde_json::from_slice::<Versioned>(&bytes) {
            Ok(Versioned { version }) if version > VERSION => Ok(version),
            _ => Err(error),
        },
    };
    match version {
        Ok(version) => Err(StoreError::newer(dir.join(file), version)),
        Err(error) => {
            let error = if bytes.is_empty() { "it is empty".to_owned() } else { error.to_string() };
            Ok(Reading::Corrupt(Corrupt { bytes, modified, error }))
        }
    }
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

pub(super) fn write<T: Serialize>(dir: &Dir, file: &str, record: &T) -> Result<(), StoreError> {
    let json = json(record).map_err(|reason| StoreError::damaged(dir.join(file), reason))?;
    dir.replace(file, OWN, &[&json], Attributes::private(), &Labels::default())
}

pub(super) fn json<T: Serialize>(record: &T) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
    let mut json = serde_json::to_vec_pretty(record)
        .map_err(|error| format!("cannot be written as JSON: {error}"))?;
    json.push(b'\n');
    Ok(json.into())
}

/// What an account's directory is called: the CA's host for people, a digest for uniqueness
pub(super) fn account_id(directory: &str, eab_key_id: Option<&str>) -> String {
    let host = url::Url::parse(directory).ok().and_then(|url| url.host_str().map(str::to_owned));
    let host: String = host
        .unwrap_or_else(|| "ca".to_owned())
        .trim_matches(['[', ']'])
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' })
        .take(100)
        .collect();
    let digest = eight_digits(format!("{directory}\n{}", eab_key_id.unwrap_or("")).as_bytes());
    format!("{}-{digest}", host.trim_start_matches('.'))
}

pub(super) const ACCOUNT: &str = "account.json";
pub(super) const ATTEMPTS: &str = "attempts.json";
pub(super) const DEPLOY: &str = "deploy.json";
pub(super) const ORDER: &str = "order.json";

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "damage is done on purpose")]
mod tests;
