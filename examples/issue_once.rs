//! One certificate, from a CA in this process: the way to test software of your own that wants
//! real certificates, or that orders them.
//!
//! ```sh
//! cargo run --example issue_once
//! ```

use std::error::Error;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use certkeep::agent::{Agent, Secrets, Shared};
use certkeep::cert::Leaf;
use certkeep::challenge::Solver;
use certkeep::clock::SystemClock;
use certkeep::config::Config;
use certkeep::dev_ca::{DevCa, Options};
use certkeep::plan::Request;
use certkeep::store::{Store, write_public};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let leaf = issue(folder.path()).await?;
    let names: Vec<_> = leaf.identifiers.iter().map(ToString::to_string).collect();
    let text =
        format!("{} for {}, good until {}\n", leaf.fingerprint, names.join(", "), leaf.not_after);
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Issue one certificate into `folder/tls`, and say what is in it
async fn issue(folder: &Path) -> Result<Leaf, Box<dyn Error>> {
    // The CA takes every name for this host, and fetches challenges from this port of it.
    let http01 = TcpListener::bind("127.0.0.1:0")?;
    let address = http01.local_addr()?;
    let clock = Arc::new(SystemClock);
    let options = Options { http01_port: address.port(), ..Options::default() };
    let ca = DevCa::start(options, clock.clone()).await?;
    write_public(&folder.join("root.pem"), ca.root_pem().as_bytes())?;

    let text = format!(
        "
state_dir: state
allow_volatile_state: true
issuers:
  dev: {{ directory: \"{}\", ca_file: root.pem, accept_terms: true }}
certificates:
  example:
    names: [example.test, www.example.test]
    challenge: {{ http-01: {{ listen: \"{address}\" }} }}
    dir: tls
",
        ca.directory()
    );
    let config = Config::parse(&text, &folder.join("certkeep.yaml"))?;

    // One pass of the agent: it orders what is missing and switches the files.
    let store = Store::open(&config)?;
    let solver = Solver::new(vec![http01])?;
    let secrets = Secrets::new(Arc::new(|_| None));
    let shared = Shared::new(store, clock, solver, Arc::new(|_event| ()), secrets);
    let outcome = Agent::new(shared, config).once(Request::Now).await?;
    if !outcome.report.all_well() {
        return Err(outcome.report.status().into());
    }
    ca.stop().await;
    Ok(Leaf::from_pem(&std::fs::read(folder.join("tls/fullchain.pem"))?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_files_hold_a_certificate_for_the_names() {
        let folder = tempfile::tempdir().unwrap();
        let leaf = issue(folder.path()).await.unwrap();
        let names: Vec<_> = leaf.identifiers.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["example.test", "www.example.test"]);
    }
}
