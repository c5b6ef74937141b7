//! Every way to reload, against the real thing, and against things that are not what they seem.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/mod.rs"]
mod support;

mod container;
mod haproxy;
mod hostile;
mod http;
mod postgres;
mod preflight;
mod presets;
mod trigger;

use std::path::Path;
use std::time::Duration;

use certkeep::cert::Fingerprint;
use certkeep::config::{Content, Format, KeyFormat, Output, Reload};
use certkeep::deploy::{self, HookContext};
use certkeep::failure::{Failure, FailureClass};
use certkeep::name::{CertName, Identifier, TargetName};

/// A certificate that is in its files, and what a reload is told about it
struct Deployed {
    certificate: CertName,
    target: TargetName,
    identifiers: Vec<Identifier>,
    outputs: Vec<Output>,
}

impl Deployed {
    fn new(certificate: &str, files: &[(&Path, Content)]) -> Self {
        let output = |(path, content): &(&Path, Content)| Output {
            path: path.to_path_buf(),
            content: vec![*content],
            format: Format::Pem(KeyFormat::Pkcs8),
            mode: 0o600,
            owner: None,
            group: None,
        };
        Self {
            certificate: CertName::parse(certificate).unwrap(),
            target: TargetName::parse("default").unwrap(),
            identifiers: vec![Identifier::parse("a.test").unwrap()],
            outputs: files.iter().map(output).collect(),
        }
    }

    fn context(&self) -> HookContext<'_> {
        HookContext {
            certificate: &self.certificate,
            target: &self.target,
            generation: 7,
            identifiers: &self.identifiers,
            outputs: &self.outputs,
            fingerprint: Fingerprint([0; 32]),
            not_after: "2026-12-31T23:59:59Z".parse().unwrap(),
            reason: "a test",
        }
    }
}

/// Reload for all of these at once
async fn reload(reload: &Reload, deployed: &[&Deployed]) -> Result<(), Failure> {
    let contexts: Vec<_> = deployed.iter().map(|one| one.context()).collect();
    let done = deploy::reload(reload, &contexts, &|_| ());
    let done = tokio::time::timeout(LIMIT + Duration::from_secs(10), done).await;
    Ok(done.expect("the reload holds us")?)
}

/// What a human must do after a failure
#[track_caller]
fn remedy(failure: &Failure) -> String {
    match &failure.class {
        FailureClass::NeedsOperator { what, .. } => what.to_string(),
        class => panic!("{class:?}: {failure}"),
    }
}

/// How long a reload may take in these tests
const LIMIT: Duration = Duration::from_secs(20);
