//! `certkeep account`: the accounts at the CAs.

use clap::{Args, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::acme;
use crate::agent::account_id;
use crate::cli::{Context, Exit, Stop, selected_issuer, setup};
use crate::config::{Config, Issuer};
use crate::name::IssuerName;
use crate::record::AccountRecord;
use crate::report;
use crate::store::Store;
use crate::text::External;
use crate::time::Timestamp;

/// Show or change the accounts at the CAs
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the account of each issuer; asks no network
    Show,
    /// Replace an account's key
    Rollover(Which),
    /// Deactivate an account for good; its certificates stay
    Deactivate(Which),
}

#[derive(Debug, Args)]
struct Which {
    /// The issuer; may be left out if there is one only
    issuer: Option<String>,
}

/// What `account show` prints with `--json`
#[derive(Serialize)]
struct Accounts {
    version: u32,
    accounts: Vec<Account>,
}

#[derive(Serialize)]
struct Account {
    issuer: IssuerName,
    directory: String,
    url: Option<External>,
    eab_key_id: Option<String>,
    contact: Vec<String>,
    created_at: Option<Timestamp>,
    deactivated_at: Option<Timestamp>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Stop> {
    let config = context.config()?;
    match &arguments.command {
        Command::Show => show(context, &config),
        Command::Rollover(which) => rollover(context, &config, which),
        Command::Deactivate(which) => deactivate(context, &config, which),
    }
}

fn show(context: &Context, config: &Config) -> Result<Exit, Stop> {
    let store = Store::open_read_only(config);
    let events = context.events();
    let mut accounts = Vec::new();
    for issuer in config.issuers.values() {
        let (directory, key_id) = account_id(issuer);
        let record = store.account(&directory, key_id.as_deref(), &mut |event| events(event))?;
        accounts.push(Account {
            issuer: issuer.name.clone(),
            directory,
            url: record.as_ref().and_then(|r| r.url.as_ref()).map(External::new),
            eab_key_id: key_id,
            contact: record.as_ref().map(|record| record.contact.clone()).unwrap_or_default(),
            created_at: record.as_ref().map(|record| record.created_at),
            deactivated_at: record.as_ref().and_then(|record| record.deactivated_at),
        });
    }
    if context.json {
        context.print_json(&Accounts { version: report::VERSION, accounts })?;
        return Ok(Exit::Well);
    }
    for account in &accounts {
        let state = match (&account.url, account.deactivated_at) {
            (_, Some(at)) => format!("deactivated at {at}"),
            (Some(url), None) => url.to_string(),
            (None, None) => "not registered yet".to_owned(),
        };
        context.print(&format!("{}: {state}\n    at {}\n", account.issuer, account.directory))?;
    }
    Ok(Exit::Well)
}

fn rollover(context: &Context, config: &Config, which: &Which) -> Result<Exit, Stop> {
    let issuer = chosen(config, which)?;
    change(context, config, issuer, |session, record, _now, write| {
        Box::pin(async move {
            // On disk before it is sent: whichever key the CA ends up with is not lost.
            let prepared = acme::next_key(&record)?;
            write(prepared.clone())?;
            let rolled = session.roll_over(&prepared).await?;
            write(rolled)?;
            Ok("the account has a new key")
        })
    })
}

fn deactivate(context: &Context, config: &Config, which: &Which) -> Result<Exit, Stop> {
    let issuer = chosen(config, which)?;
    change(context, config, issuer, |session, record, now, write| {
        Box::pin(async move {
            session.deactivate().await?;
            write(AccountRecord { deactivated_at: Some(now), ..record })?;
            Ok("the account is deactivated; nothing can be ordered with it any more")
        })
    })
}

fn chosen<'a>(config: &'a Config, which: &Which) -> Result<&'a Issuer, Stop> {
    let name = selected_issuer(config, which.issuer.as_deref())?;
    config.issuer(&name).ok_or_else(|| Stop::unexpected("no such issuer"))
}

type Write<'a> = &'a (dyn Fn(AccountRecord) -> Result<(), Stop> + Sync);
type Changing<'a> = std::pin::Pin<Box<dyn Future<Output = Result<&'static str, Stop>> + 'a>>;

/// Change an account while nobody orders with it
fn change(
    context: &Context,
    config: &Config,
    issuer: &Issuer,
    act: impl for<'a> FnOnce(&'a acme::Session, AccountRecord, Timestamp, Write<'a>) -> Changing<'a>,
) -> Result<Exit, Stop> {
    setup::block_on(async {
        let shared = setup::shared(context, config)?;
        let _at_work = shared.at_work().await?;
        // Key authorizations change with the key, so no order may be in flight. Each lock is a file.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap_or_default();
        let mut locks = Vec::new();
        for name in config.certificates.keys() {
            match shared.store.lock_certificate(name)? {
                Some(lock) => locks.push(lock),
                None => return Err(super::deploy::held(name)),
            }
        }
        let (directory, key_id) = account_id(issuer);
        let mut tell = |event| shared.tell(event);
        let record = shared.store.account(&directory, key_id.as_deref(), &mut tell)?;
        // Opening a session would register one.
        if record.is_none_or(|record| record.url.is_none()) {
            let message = format!(
                "there is no account at issuer `{}` yet\n  hint: `certkeep renew` registers one",
                issuer.name
            );
            return Err(Stop::new(Exit::Failed, message));
        }
        let session = shared.sessions.open(&shared, config, &issuer.name).await?;
        let record = shared.store.account(&directory, key_id.as_deref(), &mut tell)?;
        let record = record.ok_or_else(|| Stop::unexpected("the account's record is gone"))?;
        let write = |record: AccountRecord| -> Result<(), Stop> {
            Ok(shared.store.write_account(&record)?)
        };
        let done = act(&session, record, shared.now(), &write).await?;
        context.tell(done, None)?;
        Ok(Exit::Well)
    })?
}
