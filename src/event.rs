//! What happened, in one closed list: logs, history and progress are all made from it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use crate::cert::Fingerprint;
use crate::failure::{Failure, Step};
use crate::gate::Change;
use crate::name::{CertName, IssuerName, TargetName};
use crate::text::{Count, External};
use crate::time::Timestamp;

/// How much an event matters
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For who looks into one certificate
    Debug,
    /// What an operator likes to read back
    Info,
    /// Wrong, and being dealt with
    Warning,
    /// Wrong, and somebody must look
    Error,
}

/// Something that happened
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// An account was registered, or found again by its key
    AccountReady {
        /// At which CA
        issuer: IssuerName,
        /// Its URL
        url: External,
        /// Whether the CA knew the key before
        found: bool,
    },
    /// The certificate was found in files and kept as a generation
    Adopted {
        /// Which
        certificate: CertName,
        /// Its number
        generation: u32,
        /// When it expires
        not_after: Timestamp,
    },
    /// The clock is before things that have happened; nothing is ordered
    ClockSuspect {
        /// What the clock says
        now: Timestamp,
        /// What it cannot be before
        floor: Timestamp,
    },
    /// A command cannot go on
    CommandFailed {
        /// Why, and often what to do
        message: String,
    },
    /// A changed configuration is in force
    ConfigurationAccepted {
        /// How many certificates it holds
        certificates: usize,
    },
    /// A changed configuration is not taken over; the old one stays in force
    ConfigurationRefused {
        /// Every mistake, with its place
        errors: Vec<String>,
    },
    /// A certificate that is about to be deployed differs from the one in place
    Differs {
        /// Which certificate
        certificate: CertName,
        /// Which target
        target: TargetName,
        /// The new generation
        generation: u32,
        /// How it differs
        changes: Vec<Change>,
    },
    /// A step failed
    Failed {
        /// Which certificate
        certificate: CertName,
        /// Of which target, for a step of a deployment
        target: Option<TargetName>,
        /// What went wrong
        failure: Failure,
        /// When it is tried again
        next: Timestamp,
    },
    /// A hook wrote a line
    HookOutput {
        /// Which program
        #[serde(serialize_with = "shown")]
        program: PathBuf,
        /// What it wrote
        line: External,
    },
    /// The files of a target were switched
    Installed {
        /// Which certificate
        certificate: CertName,
        /// Which target
        target: TargetName,
        /// To which generation
        generation: u32,
    },
    /// A CA issued a certificate and it is kept
    Issued {
        /// Which
        certificate: CertName,
        /// Its number
        generation: u32,
        /// Who issued it
        issuer: IssuerName,
        /// When it expires
        not_after: Timestamp,
        /// SHA-256 of its DER
        fingerprint: Fingerprint,
    },
    /// Every endpoint of a target serves the generation
    Live {
        /// Which certificate
        certificate: CertName,
        /// Which target
        target: TargetName,
        /// Which generation
        generation: u32,
        /// How many addresses were seen to serve it; none were asked when zero
        addresses: usize,
    },
    /// What is done next about a certificate, and why
    Planned {
        /// Which
        certificate: CertName,
        /// Why, in a sentence
        reason: String,
    },
    /// A record could not be read, was set aside, and is made anew
    Quarantined {
        /// What it was
        #[serde(serialize_with = "shown")]
        path: PathBuf,
        /// Where it is now
        #[serde(serialize_with = "shown")]
        kept: PathBuf,
        /// What was wrong with it
        error: External,
    },
    /// The CA suggested when to renew
    RenewalInfoFetched {
        /// Which certificate
        certificate: CertName,
        /// The moment chosen within the suggested window, if there is one
        renew_at: Option<Timestamp>,
        /// Where the CA explains it
        explanation_url: Option<External>,
    },
    /// An output was missing or changed, and was put right from its generation
    Restored {
        /// Which certificate
        certificate: CertName,
        /// Which target
        target: TargetName,
        /// What was wrong with it
        problem: External,
    },
    /// The previous files of a target are back
    RolledBack {
        /// Which certificate
        certificate: CertName,
        /// Which target
        target: TargetName,
        /// The generation that is in force again; `None`: what was there before certkeep
        generation: Option<u32>,
    },
    /// The agent runs
    Started {
        /// How many certificates it keeps
        certificates: usize,
    },
    /// A step begins
    StepBegun {
        /// Which certificate
        certificate: CertName,
        /// Which step
        step: Step,
    },
    /// The agent stops
    Stopped {
        /// Why
        reason: String,
    },
    /// Something is not as it should be, and work goes on
    Warned {
        /// About which certificate
        certificate: Option<CertName>,
        /// What
        message: External,
    },
}

impl Event {
    /// How much it matters
    pub fn level(&self) -> Level {
        match self {
            // Nobody could allow it beforehand.
            Self::Differs { changes, .. } if changes.iter().any(|it| it.kind().is_none()) => {
                Level::Warning
            }
            Self::HookOutput { .. } | Self::StepBegun { .. } => Level::Debug,
            Self::ClockSuspect { .. }
            | Self::Quarantined { .. }
            | Self::Restored { .. }
            | Self::RolledBack { .. }
            | Self::Warned { .. } => Level::Warning,
            Self::CommandFailed { .. }
            | Self::ConfigurationRefused { .. }
            | Self::Failed { .. } => Level::Error,
            _ => Level::Info,
        }
    }

    /// The certificate it is about
    pub const fn certificate(&self) -> Option<&CertName> {
        match self {
            Self::Adopted { certificate, .. }
            | Self::Differs { certificate, .. }
            | Self::Failed { certificate, .. }
            | Self::Installed { certificate, .. }
            | Self::Issued { certificate, .. }
            | Self::Live { certificate, .. }
            | Self::Planned { certificate, .. }
            | Self::RenewalInfoFetched { certificate, .. }
            | Self::Restored { certificate, .. }
            | Self::RolledBack { certificate, .. }
            | Self::StepBegun { certificate, .. } => Some(certificate),
            Self::Warned { certificate, .. } => certificate.as_ref(),
            _ => None,
        }
    }
}

/// A path as people read it, since JSON has no other bytes than text
fn shown<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    External::new(path.to_string_lossy()).serialize(serializer)
}

/// One line without the certificate's name, which the log puts before it
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AccountReady { issuer, url, found } => {
                let how = if *found { "found again" } else { "registered" };
                write!(f, "account {url} {how} at `{issuer}`")
            }
            Self::Adopted { generation, not_after, .. } => {
                write!(f, "took over the certificate in the files as generation {generation}, ")?;
                write!(f, "good until {not_after}")
            }
            Self::ClockSuspect { now, floor } => {
                write!(f, "the clock says {now}, which is before {floor}: ")?;
                f.write_str("nothing is ordered until it is right")
            }
            Self::CommandFailed { message } => f.write_str(message),
            Self::ConfigurationAccepted { certificates } => {
                write!(
                    f,
                    "the changed configuration is in force, {}",
                    Count(*certificates, "certificate")
                )
            }
            Self::ConfigurationRefused { errors } => {
                write!(f, "the changed configuration is refused and the old one stays in force: ")?;
                f.write_str(&errors.join("; "))
            }
            Self::Differs { target, generation, changes, .. } => {
                let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
                write!(f, "generation {generation} differs from what target `{target}` has: ")?;
                f.write_str(&changes.join("; "))
            }
            Self::Failed { target: Some(target), failure, next, .. } => {
                write!(f, "target `{target}`: {failure}; next attempt {next}")
            }
            Self::Failed { failure, next, .. } => write!(f, "{failure}; next attempt {next}"),
            Self::HookOutput { program, line } => {
                write!(f, "{}: {line}", External::new(program.to_string_lossy()))
            }
            Self::Installed { target, generation, .. } => {
                write!(f, "generation {generation} installed at target `{target}`")
            }
            Self::Issued { generation, issuer, not_after, .. } => {
                write!(f, "issued by `{issuer}`, generation {generation}, good until {not_after}")
            }
            Self::Live { target, generation, addresses: 0, .. } => {
                write!(f, "generation {generation} live at target `{target}`, unverified: ")?;
                f.write_str("no endpoint to ask")
            }
            Self::Live { target, generation, addresses, .. } => {
                write!(f, "generation {generation} live at target `{target}`, ")?;
                write!(f, "proven by handshake with {}", Count(*addresses, "address"))
            }
            Self::Planned { reason, .. } => f.write_str(reason),
            Self::Quarantined { path, kept, error } => write!(
                f,
                "cannot use {} ({error}); it is kept as {} and made anew",
                External::new(path.to_string_lossy()),
                External::new(kept.to_string_lossy())
            ),
            Self::RenewalInfoFetched { renew_at, explanation_url, .. } => {
                match renew_at {
                    Some(at) => write!(f, "the CA suggests renewal at {at}")?,
                    None => f.write_str("the CA suggests no moment for renewal")?,
                }
                match explanation_url {
                    Some(url) => write!(f, ", see {url}"),
                    None => Ok(()),
                }
            }
            Self::Restored { target, problem, .. } => {
                write!(f, "target `{target}` put right: {problem}")
            }
            Self::RolledBack { target, generation: Some(generation), .. } => {
                write!(f, "target `{target}` is back at generation {generation}")
            }
            Self::RolledBack { target, generation: None, .. } => {
                write!(f, "target `{target}` is back at what was there before certkeep")
            }
            Self::Started { certificates } => {
                write!(f, "started, {}", Count(*certificates, "certificate"))
            }
            Self::StepBegun { step, .. } => write!(f, "{step}"),
            Self::Stopped { reason } => write!(f, "stopped: {reason}"),
            Self::Warned { message, .. } => write!(f, "{message}"),
        }
    }
}
