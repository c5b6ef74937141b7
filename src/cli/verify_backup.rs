//! `certkeep verify-backup`: whether a state directory, or a copy of it, can renew elsewhere.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;

use crate::acme;
use crate::agent::account_id;
use crate::cli::finding::{self, Finding};
use crate::cli::{Context, Exit, Stop};
use crate::config::{Certificate, Config, Issuer};
use crate::failure::{Failure, Step};
use crate::name::CertName;
use crate::record::{AccountRecord, GenerationMeta, Origin};
use crate::secret::Secret;
use crate::store::{KeptAccount, Records, Store, StoreError};
use crate::text::{Count, External};

/// Look whether a state directory, or a copy of it, can renew elsewhere; writes nothing
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The copy of the state directory; the one of the configuration if not given
    dir: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Stop> {
    let mut config = context.config()?;
    if let Some(dir) = &arguments.dir {
        config.state_dir = std::path::absolute(dir)?;
    }
    let store = Store::open_read_only(&config);
    store.readable()?;
    let mut review = Review { findings: Vec::new(), accounts: Vec::new(), config: &config };
    if store.path().is_dir() {
        review.all(&store)?;
    } else {
        let shown = store.path().display();
        let message = format!("{shown} is no directory");
        review.findings.push(Finding::wrong("state_dir", message, "name the copy, or restore it"));
    }
    let looked_at = Count(config.certificates.len(), "certificate");
    finding::conclude(context, &review.findings, looked_at, "this state can renew elsewhere")
}

/// What was found so far
struct Review<'a> {
    findings: Vec<Finding>,
    /// Accounts of which the key can be used
    accounts: Vec<AccountRecord>,
    config: &'a Config,
}

impl Review<'_> {
    fn all(&mut self, store: &Store) -> Result<(), Stop> {
        self.permissions(store)?;
        let origins = self.certificates(store)?;
        self.accounts(store)?;
        for issuer in self.config.issuers.values() {
            self.issuer(issuer, &origins);
        }
        for certificate in self.config.certificates.values() {
            if let Some(records) = store.records(&certificate.name)? {
                self.order(certificate, &records);
            }
        }
        Ok(())
    }

    fn permissions(&mut self, store: &Store) -> Result<(), Stop> {
        let exposed = store.exposed()?;
        let some = |paths: &[PathBuf]| {
            let first = paths.first().map(|path| path.display().to_string())?;
            Some(match paths.len() - 1 {
                0 => first,
                others => format!("{first} and {others} more"),
            })
        };
        let root = store.path().display();
        if let Some(open) = some(&exposed.open) {
            let message = format!("others than the owner may get at {open}");
            let remedy =
                format!("chmod go-w {root} && chmod -R go= {root}/accounts {root}/certificates");
            self.findings.push(Finding::wrong("state_dir", message, remedy));
        }
        if let Some(foreign) = some(&exposed.foreign) {
            let message = format!("{foreign}: the owner is not that of {root}");
            let remedy = "give all of it to the user that certkeep runs as: chown -R";
            self.findings.push(Finding::wrong("state_dir", message, remedy));
        }
        Ok(())
    }

    /// Every certificate; where the generations came from is returned
    fn certificates(&mut self, store: &Store) -> Result<Vec<Origin>, Stop> {
        let mut origins = Vec::new();
        let kept: BTreeSet<_> = store.certificates()?.into_iter().collect();
        for name in kept.iter().filter(|name| !self.config.certificates.contains_key(*name)) {
            let message = "is kept here and not in the configuration: nothing renews it";
            self.findings.push(Finding::info(about(name), message.to_owned()));
        }
        for certificate in self.config.certificates.values() {
            match store.records(&certificate.name)? {
                Some(records) => {
                    origins.extend(self.certificate(store, certificate, &records)?);
                }
                None => {
                    let message = "is in the configuration and not here: it will be ordered anew";
                    self.findings.push(Finding::info(about(&certificate.name), message.to_owned()));
                }
            }
        }
        Ok(origins)
    }

    fn certificate(
        &mut self,
        store: &Store,
        certificate: &Certificate,
        records: &Records,
    ) -> Result<Vec<Origin>, Stop> {
        let about = about(&certificate.name);
        for fault in &records.faults {
            self.findings.push(damage(&about, fault));
        }
        for journal in &records.journals {
            let message = format!("{} is of a switch that is not finished", journal.display());
            let remedy = "its files are on the original host: run `certkeep renew` there, and \
                          copy again";
            self.findings.push(Finding::wrong(&about, message, remedy));
        }
        for name in records.deploy.targets.keys() {
            if !certificate.targets.iter().any(|target| target.name == *name) {
                let message = format!("target `{name}` is kept here and not in the configuration");
                self.findings.push(Finding::info(&about, message));
            }
        }
        let mut in_use: BTreeSet<_> = records
            .deploy
            .targets
            .values()
            .flat_map(|target| [target.in_force(), target.pinned_over.map(|_| target.generation)])
            .flatten()
            .collect();
        let held = store.inspect(&certificate.name)?;
        in_use.extend(held.last().map(|(number, _)| *number));
        let mut whole: Vec<GenerationMeta> = Vec::new();
        for (number, found) in held {
            match found {
                Ok((meta, _)) => whole.push(meta),
                Err(error) if in_use.contains(&number) => {
                    self.findings.push(damage(&about, &error));
                }
                Err(error) => {
                    let message = format!("generation {number}, not in use, is lost: {error}");
                    self.findings.push(Finding::info(&about, message));
                }
            }
            in_use.remove(&number);
        }
        for number in in_use {
            let message = format!("generation {number} is in use and not here");
            self.findings.push(Finding::wrong(&about, message, "copy it from the original host"));
        }
        if whole.is_empty() {
            let message = "no generation that can be used: it will be ordered anew";
            self.findings.push(Finding::info(&about, message.to_owned()));
        }
        Ok(whole.into_iter().filter_map(|meta| meta.origin).collect())
    }

    fn accounts(&mut self, store: &Store) -> Result<(), Stop> {
        for KeptAccount { name, record } in store.accounts()? {
            let about = format!("accounts.{name}");
            let account = match record {
                Ok(account) => account,
                Err(error) => {
                    self.findings.push(damage(&about, &error));
                    continue;
                }
            };
            let keys = [Some(&account.key), account.next_key.as_ref()];
            let unusable = keys.into_iter().flatten().find_map(|key| usable(key).err());
            if let Some(error) = unusable {
                let remedy = "restore it from another copy; without its key the account is lost";
                let message = format!("its key cannot be used: {}", error.summary);
                self.findings.push(Finding::wrong(&about, message, remedy));
                continue;
            }
            let id = (account.directory.clone(), account.eab_key_id.clone());
            let serves: Vec<_> =
                self.config.issuers.values().filter(|issuer| account_id(issuer) == id).collect();
            let stage = |issuer: &&Issuer| {
                issuer.staging.as_ref().is_some_and(|staging| {
                    let key_id = staging.eab.as_ref().map(|eab| eab.key_id.clone());
                    (&staging.directory, &key_id) == (&id.0, &id.1)
                })
            };
            let names: Vec<_> = serves.iter().map(|issuer| format!("`{}`", issuer.name)).collect();
            let message = if !names.is_empty() {
                format!("serves issuer {}", names.join(" and "))
            } else if self.config.issuers.values().any(|issuer| stage(&issuer)) {
                "serves rehearsals".to_owned()
            } else {
                let directory = External::new(&account.directory);
                format!("serves no issuer of the configuration, being at {directory}")
            };
            self.findings.push(match account.deactivated_at {
                Some(at) if !names.is_empty() => Finding::wrong(
                    &about,
                    format!("{message} and was deactivated at {at}"),
                    "move it away, so that certkeep registers another one",
                ),
                _ => Finding::info(&about, message),
            });
            self.accounts.push(account);
        }
        Ok(())
    }

    /// Say what becomes of an issuer that has no account here
    fn issuer(&mut self, issuer: &Issuer, origins: &[Origin]) {
        let (directory, key_id) = account_id(issuer);
        let is_its = |account: &AccountRecord| {
            (&account.directory, &account.eab_key_id) == (&directory, &key_id)
        };
        if self.accounts.iter().any(is_its) {
            return;
        }
        let about = format!("issuers.{}", issuer.name);
        let issued = origins.iter().any(|origin| origin.directory == directory);
        self.findings.push(match (&issuer.eab, issued) {
            // An external account is often good for one registration.
            (Some(_), true) => Finding::wrong(
                about,
                "has no account here that can be used, and needs the external account again",
                "restore its directory of `accounts`, or get a new key from the CA for `eab`",
            ),
            (Some(_), false) => Finding::info(
                about,
                "has no account here: it registers one with the external account".to_owned(),
            ),
            (None, _) => {
                Finding::info(about, "has no account here: it will register anew".to_owned())
            }
        });
    }

    fn order(&mut self, certificate: &Certificate, records: &Records) {
        let Some(order) = &records.order else { return };
        let about = format!("certificates.{}.order", certificate.name);
        if let Err(error) = usable(&order.key) {
            let message = format!("the key of its order cannot be used: {}", error.summary);
            let remedy = "restore its `order.json` from another copy";
            self.findings.push(Finding::wrong(about, message, remedy));
        } else if self.accounts.iter().any(|a| a.url.as_ref() == Some(&order.account)) {
            let message = format!("is in flight since {} and goes on elsewhere", order.created_at);
            self.findings.push(Finding::info(about, message));
        } else {
            let message = "is in flight, and its account is not here: it will be ordered anew";
            self.findings.push(Finding::info(about, message.to_owned()));
        }
    }
}

fn about(name: &CertName) -> String {
    format!("certificates.{name}")
}

fn damage(about: &str, error: &StoreError) -> Finding {
    match error.remedy() {
        Some(_) => Finding::error(about, &error.failure(Step::Prepare)),
        None => Finding::wrong(about, error.to_string(), "restore it from another copy"),
    }
}

/// Whether a key can be used at all
fn usable(key: &Secret<String>) -> Result<(), Failure> {
    acme::key::Key::parse(key).map(drop)
}
