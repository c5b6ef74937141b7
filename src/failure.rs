//! What went wrong, sorted by what the caller does next.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::Identifier;
use crate::text::External;
use crate::time::Timestamp;

/// A failed attempt at something
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What to do next
    pub class: FailureClass,
    /// At which step
    pub step: Step,
    /// What happened, in one sentence, with the CA's own words where it gave any
    pub summary: External,
    /// The ACME problem type without its `urn:ietf:params:acme:error:`, where there is one
    ///
    /// <https://www.rfc-editor.org/rfc/rfc8555#section-6.7>
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<External>,
    /// The identifiers that are to blame, each with the CA's reason
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identifiers: Vec<(Identifier, External)>,
    /// Whether another CA could do better: it was this CA's fault and not ours
    #[serde(default)]
    pub try_other_issuer: bool,
}

/// What the caller does after a failure
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "next", rename_all = "kebab-case")]
pub enum FailureClass {
    /// Try again on the backoff ladder
    Retry,
    /// Try again, but not before that moment
    NotBefore {
        /// The moment that the CA named, clamped
        at: Timestamp,
    },
    /// Only a human can mend it; tried once a day all the same
    NeedsOperator {
        /// What the human must do
        what: External,
        /// Where the CA says more, already checked to be an https URL
        #[serde(default, skip_serializing_if = "Option::is_none")]
        url: Option<External>,
    },
}

impl Failure {
    /// A failure that passes by itself
    pub fn retry(step: Step, summary: impl AsRef<str>) -> Self {
        Self::new(FailureClass::Retry, step, summary)
    }

    /// A failure that passes after that moment
    pub fn not_before(at: Timestamp, step: Step, summary: impl AsRef<str>) -> Self {
        Self::new(FailureClass::NotBefore { at }, step, summary)
    }

    /// A failure that a human must mend
    pub fn needs_operator(step: Step, summary: impl AsRef<str>, what: impl AsRef<str>) -> Self {
        let class = FailureClass::NeedsOperator { what: External::new(what), url: None };
        Self::new(class, step, summary)
    }

    fn new(class: FailureClass, step: Step, summary: impl AsRef<str>) -> Self {
        Self {
            class,
            step,
            summary: External::new(summary),
            problem: None,
            identifiers: Vec::new(),
            try_other_issuer: false,
        }
    }

    /// Whether a CA that accepted the proof of control did not issue, and may yet
    pub fn is_of_issuing(&self) -> bool {
        let passes = !matches!(self.class, FailureClass::NeedsOperator { .. });
        passes && matches!(self.step, Step::Finalize | Step::Download)
    }

    /// This failure, blamed on the CA
    #[must_use]
    pub fn by_issuer(mut self) -> Self {
        self.try_other_issuer = true;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.summary)?;
        for (identifier, reason) in &self.identifiers {
            write!(f, "; {identifier}: {reason}")?;
        }
        if let FailureClass::NeedsOperator { what, url } = &self.class {
            write!(f, "; {what}")?;
            if let Some(url) = url {
                write!(f, " ({url})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// A step of the main path, in its order
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Free space, permissions, secrets: before the CA is asked
    Prepare,
    /// Registering or finding the account
    Account,
    /// Asking the CA when to renew
    RenewalInfo,
    /// newOrder, or finding the order again
    Order,
    /// Publishing challenges and waiting for the CA to validate them
    Authorize,
    /// Sending the CSR and waiting for the certificate
    Finalize,
    /// Fetching the chain and checking it
    Download,
    /// Keeping key and chain as a generation
    Stage,
    /// Seeing what the endpoints serve before anything changes
    Survey,
    /// Judging whether the generation may take the place of what is there
    Gate,
    /// Switching the files
    Install,
    /// Asking the server whether it would accept them
    Check,
    /// Making the server load them
    Reload,
    /// Seeing the certificate in a handshake
    Verify,
    /// Revoking a certificate
    Revoke,
}

impl Step {
    /// The step as one word
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Account => "account",
            Self::RenewalInfo => "renewal-info",
            Self::Order => "order",
            Self::Authorize => "authorize",
            Self::Finalize => "finalize",
            Self::Download => "download",
            Self::Stage => "stage",
            Self::Survey => "survey",
            Self::Gate => "gate",
            Self::Install => "install",
            Self::Check => "check",
            Self::Reload => "reload",
            Self::Verify => "verify",
            Self::Revoke => "revoke",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
