//! One account at each CA, opened once for all certificates that need it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use crate::acme::{self, Directory, Eab, Session, Standing, Transport};
use crate::agent::secrets::read_whole;
use crate::agent::{Secrets, Shared};
use crate::config::{Config, Issuer};
use crate::event::Event;
use crate::failure::{Failure, FailureClass, Step};
use crate::name::{Identifier, IssuerName};
use crate::plan::LONGEST_REST;
use crate::record::AccountRecord;
use crate::store::Lock;
use crate::text::External;
use crate::time::Timestamp;

/// The accounts in use, by issuer
#[derive(Debug)]
pub struct Sessions {
    secrets: Secrets,
    open: std::sync::Mutex<BTreeMap<IssuerName, Slot>>,
    turns: std::sync::Mutex<BTreeMap<IssuerName, Arc<Semaphore>>>,
    names: std::sync::Mutex<BTreeMap<NamesAt, Arc<Mutex<()>>>>,
}

/// A directory, and names that are ordered there
type NamesAt = (String, BTreeSet<Identifier>);

/// One issuer's session, or how opening it last failed
type Slot = Arc<Mutex<Option<Entry>>>;

#[derive(Clone, Debug)]
struct Entry {
    /// When opening it had ended, well or not
    opened_at: Timestamp,
    /// What it was opened with: a changed issuer is opened anew
    issuer: Issuer,
    session: Result<Arc<Session>, Failure>,
}

impl Entry {
    /// Whether it is still the answer
    fn holds(&self, now: Timestamp) -> bool {
        // Afterwards, the clock was set back.
        if self.opened_at > now {
            return false;
        }
        let age = now.since(self.opened_at);
        match &self.session {
            Ok(_) => age < KEPT,
            Err(Failure { class: FailureClass::NotBefore { at }, .. }) => {
                now < *at && age < LONGEST_REST
            }
            Err(_) => age < KEPT_FAILED,
        }
    }
}

impl Sessions {
    /// No session yet; EAB keys are read through `secrets`
    pub fn new(secrets: Secrets) -> Self {
        Self {
            secrets,
            open: std::sync::Mutex::default(),
            turns: std::sync::Mutex::default(),
            names: std::sync::Mutex::default(),
        }
    }

    /// Wait until this issuer can be asked for one more order, which lasts until this is dropped
    pub(crate) async fn turn(&self, issuer: &IssuerName) -> Option<OwnedSemaphorePermit> {
        let turns = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            let of_issuer = turns.entry(issuer.clone());
            Arc::clone(of_issuer.or_insert_with(|| Arc::new(Semaphore::new(ORDERS_AT_ONCE))))
        };
        // Nobody ever closes it.
        turns.acquire_owned().await.ok()
    }

    /// The session of an issuer, opened now if it is not
    ///
    /// However many certificates ask at once, the account is opened, and registered, once. A
    /// failure is the answer for everyone who asks within half a minute, or before the moment that
    /// the CA named.
    ///
    /// # Errors
    /// Whatever kept the account from being opened.
    pub async fn open(
        &self,
        shared: &Shared,
        config: &Config,
        name: &IssuerName,
    ) -> Result<Arc<Session>, Failure> {
        let Some(issuer) = config.issuer(name) else {
            let summary = format!("no issuer `{name}` in the configuration");
            return Err(Failure::retry(Step::Account, summary));
        };
        let slot = self.slot(name);
        let mut entry = slot.lock().await;
        let known = entry.as_ref().filter(|known| known.issuer == *issuer);
        if let Some(known) = known.filter(|known| known.holds(shared.now())) {
            return known.session.clone();
        }
        let session = self.connect(shared, issuer).await.map(Arc::new);
        let opened_at = shared.now();
        *entry = Some(Entry { opened_at, issuer: issuer.clone(), session: session.clone() });
        session
    }

    /// Close what nobody uses, so that an idle agent holds no connections and no roots
    ///
    /// That a CA could not be asked is not forgotten by that.
    pub fn close_idle(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let is_failure = |entry: &Option<Entry>| entry.as_ref().is_some_and(|e| e.session.is_err());
        open.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|entry| is_failure(&entry))
        });
    }

    /// Forget the account's URL, if it still is this one, and not its key: it is registered again
    /// when next opened
    ///
    /// # Errors
    /// When the record cannot be written.
    pub async fn forget_account(
        &self,
        shared: &Shared,
        issuer: &Issuer,
        url: &str,
    ) -> Result<(), Failure> {
        let slot = self.slot(&issuer.name);
        let mut entry = slot.lock().await;
        let is_it = |entry: &Entry| entry.session.as_ref().is_ok_and(|s| s.account_url() == url);
        if !entry.as_ref().is_none_or(is_it) {
            // Another certificate's job was first.
            return Ok(());
        }
        *entry = None;
        let (id, url) = (account_id(issuer), url.to_owned());
        let done = shared
            .on_disk(move |store| {
                let mut quiet = |_| ();
                let record = store.account(&id.0, id.1.as_deref(), &mut quiet)?;
                let record = record.filter(|record| record.url.as_ref() == Some(&url));
                let Some(record) = record else { return Ok(()) };
                store.write_account(&AccountRecord { url: None, ..record })
            })
            .await;
        done.map_err(|error| error.failure(Step::Account))
    }

    /// What is held while an order for these names is under way at a directory
    pub(super) fn same_names(
        &self,
        directory: &str,
        names: BTreeSet<Identifier>,
    ) -> Arc<Mutex<()>> {
        let mut all = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, alone| Arc::strong_count(alone) > 1);
        Arc::clone(all.entry((directory.to_owned(), names)).or_default())
    }

    fn slot(&self, name: &IssuerName) -> Slot {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(open.entry(name.clone()).or_default())
    }

    /// What an issuer's directory says, without touching the account
    ///
    /// # Errors
    /// Whatever keeps the directory from being read.
    pub async fn look(&self, shared: &Shared, issuer: &Issuer) -> Result<Directory, Failure> {
        if let Some(eab) = &issuer.eab {
            Eab::decode(&eab.key_id, &self.secrets.read(&eab.hmac_key)?)?;
        }
        Directory::fetch(&transport(shared, issuer)?).await
    }

    async fn connect(&self, shared: &Shared, issuer: &Issuer) -> Result<Session, Failure> {
        let eab = match &issuer.eab {
            Some(eab) => Some(Eab::decode(&eab.key_id, &self.secrets.read(&eab.hmac_key)?)?),
            None => None,
        };
        let transport = transport(shared, issuer)?;
        let (directory, key_id) = account_id(issuer);
        // Kept until the account's URL is on disk, so that two processes make one account.
        let _lock = lock(shared, &directory, key_id.as_deref()).await?;
        let record = match read(shared, &directory, key_id.as_deref()).await? {
            Some(record) => record,
            None => {
                let now = shared.now();
                let key_id = key_id.as_deref();
                let new = acme::new_account_record(&directory, key_id, &issuer.contact, now)?;
                write(shared, &new).await?;
                new
            }
        };
        let opened = Session::open(&transport, &record, eab.as_ref()).await?;
        if opened.record != record {
            write(shared, &opened.record).await?;
        }
        let session = opened.session;
        if opened.standing != Standing::Known {
            shared.tell(Event::AccountReady {
                issuer: issuer.name.clone(),
                url: External::new(session.account_url()),
                found: opened.standing == Standing::Found,
            });
        }
        if opened.record.contact != issuer.contact {
            // No contact is worth a renewal.
            match session.update_contacts(&issuer.contact).await {
                Ok(()) => {
                    let told = AccountRecord { contact: issuer.contact.clone(), ..opened.record };
                    write(shared, &told).await?;
                }
                Err(failure) => {
                    let message =
                        format!("`{}` does not take the contacts: {failure}", issuer.name);
                    let message = External::new(message);
                    shared.tell(Event::Warned { certificate: None, message });
                }
            }
        }
        Ok(session)
    }
}

async fn read(
    shared: &Shared,
    directory: &str,
    key_id: Option<&str>,
) -> Result<Option<AccountRecord>, Failure> {
    let (directory, key_id) = (directory.to_owned(), key_id.map(str::to_owned));
    let events = Arc::clone(&shared.events);
    let record = shared
        .on_disk(move |store| {
            store.account(&directory, key_id.as_deref(), &mut |event| events(event))
        })
        .await;
    record.map_err(|error| error.failure(Step::Account))
}

async fn write(shared: &Shared, record: &AccountRecord) -> Result<(), Failure> {
    let record = record.clone();
    let done = shared.on_disk(move |store| store.write_account(&record)).await;
    done.map_err(|error| error.failure(Step::Account))
}

/// The lock of an account, waited for as long as another process may take to register it
async fn lock(shared: &Shared, directory: &str, key_id: Option<&str>) -> Result<Lock, Failure> {
    for _ in 0..LOCK_TRIES {
        let (directory, key_id) = (directory.to_owned(), key_id.map(str::to_owned));
        let lock = shared
            .on_disk(move |store| store.lock_account(&directory, key_id.as_deref()))
            .await
            .map_err(|error| error.failure(Step::Account))?;
        if let Some(lock) = lock {
            return Ok(lock);
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    Err(Failure::retry(Step::Account, "another process keeps the account locked"))
}

fn transport(shared: &Shared, issuer: &Issuer) -> Result<Transport, Failure> {
    let roots = match &issuer.ca_file {
        Some(path) => Some(read_whole(path).map_err(|error| {
            Failure::needs_operator(
                Step::Account,
                format!("cannot read the roots {}: {error}", path.display()),
                "put the CA's root certificate there, or correct `ca_file`",
            )
        })?),
        None => None,
    };
    Transport::new(issuer, roots.as_deref(), Arc::clone(&shared.clock))
}

/// What identifies an account on disk: its directory and the external account it is bound to
pub fn account_id(issuer: &Issuer) -> (String, Option<String>) {
    (issuer.directory.clone(), issuer.eab.as_ref().map(|eab| eab.key_id.clone()))
}

/// Enough to keep a CA busy, and few enough for its load balancer and its locks
pub(super) const ORDERS_AT_ONCE: usize = 8;

/// How long a session is kept: its directory may change
const KEPT: Duration = Duration::from_secs(3600);

/// How long a failure to open one is the answer
const KEPT_FAILED: Duration = Duration::from_secs(30);

/// A minute in all
const LOCK_TRIES: u32 = 600;
const LOCK_PAUSE: Duration = Duration::from_millis(100);
