//! `certkeep dev-ca`: a CA for development, on the loopback interface.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::acme::Eab;
use crate::cli::{Context, Exit, Stop, run, setup};
use crate::config::SecretSource;
use crate::dev_ca::{DevCa, DevCaError, Options, Resolve, Scheme};
use crate::report;
use crate::secret::Secret;
use crate::signal::Request;

/// Serve a CA for development on the loopback interface
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to listen: a loopback address, port 0 for a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:14000")]
    listen: SocketAddr,
    /// Where the root certificate is written, for clients to trust
    #[arg(long, value_name = "FILE", default_value = "certkeep-dev-ca.pem")]
    root: PathBuf,
    /// A profile and how many seconds its certificates are good for; the first is the default
    #[arg(long = "profile", value_name = "NAME=SECONDS", default_value = "default=7776000")]
    #[arg(value_parser = profile)]
    profiles: Vec<(String, Duration)>,
    /// The port where http-01 challenges are fetched
    #[arg(long, value_name = "PORT", default_value_t = 80)]
    http01_port: u16,
    /// Resolve names by the system, in place of taking every name for loopback
    #[arg(long)]
    system_resolver: bool,
    /// An external account that clients may bind theirs to: its key id, and the file with the
    /// HMAC key in base64; with one at least, every account needs one
    #[arg(long = "eab", value_name = "KEY_ID=FILE", value_parser = external_account)]
    external_accounts: Vec<(String, PathBuf)>,
    /// Speak plain HTTP
    #[arg(long)]
    plain: bool,
}

fn refused(error: DevCaError) -> Stop {
    let hint = match error {
        DevCaError::Bind { .. } => "\n  hint: --listen names another port, and port 0 a free one",
        _ => "",
    };
    Stop::unexpected(format!("{error}{hint}"))
}

fn profile(text: &str) -> Result<(String, Duration), String> {
    let (name, seconds) = text.split_once('=').ok_or("write NAME=SECONDS")?;
    let seconds = seconds.parse().map_err(|_| format!("`{seconds}` is no number of seconds"))?;
    Ok((name.to_owned(), Duration::from_secs(seconds)))
}

fn external_account(text: &str) -> Result<(String, PathBuf), String> {
    let (key_id, file) = text.split_once('=').ok_or("write KEY_ID=FILE")?;
    Ok((key_id.to_owned(), file.into()))
}

type ExternalAccounts = BTreeMap<String, Secret<Vec<u8>>>;

fn external_accounts(
    context: &Context,
    named: &[(String, PathBuf)],
) -> Result<ExternalAccounts, Stop> {
    let secrets = setup::secrets(context);
    let account = |(key_id, file): &(String, PathBuf)| {
        let text = secrets.read(&SecretSource::File(file.clone())).map_err(Stop::unexpected)?;
        let eab = Eab::decode(key_id, &text).map_err(Stop::unexpected)?;
        Ok((key_id.clone(), eab.into_hmac_key()))
    };
    named.iter().map(account).collect()
}

/// What is printed with `--json` once it listens
#[derive(Serialize)]
struct Serving<'a> {
    version: u32,
    directory: &'a str,
    root: &'a PathBuf,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Stop> {
    let default_profile = match arguments.profiles.first() {
        Some((name, _)) => name.clone(),
        None => return Err(Stop::unexpected("name a profile")),
    };
    let options = Options {
        listen: arguments.listen,
        scheme: if arguments.plain { Scheme::Http } else { Scheme::Https },
        profiles: arguments.profiles.iter().cloned().collect::<BTreeMap<_, _>>(),
        default_profile,
        http01_port: arguments.http01_port,
        eab: external_accounts(context, &arguments.external_accounts)?,
        resolve: if arguments.system_resolver { Resolve::System } else { Resolve::Loopback },
        ..Options::default()
    };
    setup::block_on(async {
        let ca = DevCa::start(options, Arc::clone(&context.world.clock)).await.map_err(refused)?;
        crate::store::write_public(&arguments.root, ca.root_pem().as_bytes())?;
        let (directory, root) = (ca.directory(), &arguments.root);
        if context.json {
            context.print_json(&Serving { version: report::VERSION, directory, root })?;
        } else {
            context.print(&format!(
                "directory: {directory}\nroot:      {}\nforgets everything when it ends\n",
                root.display()
            ))?;
        }
        let mut signals = run::signals()?;
        while !matches!(signals.recv().await, Some(Request::Stop(_)) | None) {}
        ca.stop().await;
        Ok(Exit::Well)
    })?
}
