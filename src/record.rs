//! What the state directory remembers, as values.
//!
//! The store reads and writes them; the planner decides from them; nobody else changes one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cert::Fingerprint;
use crate::config::{Endpoint, KeyType, Target};
use crate::failure::{Failure, Step};
use crate::name::{CertName, Identifier, IssuerName, TargetName};
use crate::secret::Secret;
use crate::text::External;
use crate::time::Timestamp;

/// The shape of every record; a larger number is refused, a smaller one migrated
pub const VERSION: u32 = 1;

/// `accounts/<id>/account.json`: an account at a CA
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRecord {
    /// [`VERSION`]
    pub version: u32,
    /// The directory it belongs to
    pub directory: String,
    /// The external account that it is bound to, if any
    pub eab_key_id: Option<String>,
    /// Its URL at the CA; `None` until newAccount was answered
    ///
    /// <https://www.rfc-editor.org/rfc/rfc8555#section-7.3>
    pub url: Option<String>,
    /// Its key, PKCS#8, PEM
    pub key: Secret<String>,
    /// The key that a rollover under way will put in its place, PKCS#8, PEM
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<Secret<String>>,
    /// The contacts that the CA was last told
    #[serde(default)]
    pub contact: Vec<String>,
    /// When the key was made
    pub created_at: Timestamp,
    /// When the operator deactivated it
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deactivated_at: Option<Timestamp>,
}

/// `generations/<number>/meta.json`: where a generation came from
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationMeta {
    /// [`VERSION`]
    pub version: u32,
    /// The certificate of the configuration
    pub certificate: CertName,
    /// Counts up from 1 for each certificate
    pub number: u32,
    /// SHA-256 of the leaf's DER
    pub fingerprint: Fingerprint,
    /// The kind of its key
    pub key_type: KeyType,
    /// Who issued it; `None` for one that was found in files
    pub origin: Option<Origin>,
    /// When it was staged
    pub staged_at: Timestamp,
    /// What its files hold
    pub digests: Digests,
}

/// SHA-256 of a generation's files, so that a look at the disk needs no key arithmetic
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// Of `key.pem`
    pub key: Fingerprint,
    /// Of `chain.pem`
    pub chain: Fingerprint,
}

/// The order that a generation came from
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The issuer's name in the configuration at that time
    pub issuer: IssuerName,
    /// Its directory
    pub directory: String,
    /// The URL of the account that ordered it
    pub account: String,
    /// The URL of the order
    pub order: String,
    /// The profile that was asked for and given
    pub profile: Option<String>,
}

/// A generation with its content
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Where it came from
    pub meta: GenerationMeta,
    /// The key, PKCS#8, PEM
    pub key: Secret<String>,
    /// The leaf and the intermediates, PEM
    pub chain: String,
}

/// `order.json`: an order that is not finished, with all that finishing it takes
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRecord {
    /// [`VERSION`]
    pub version: u32,
    /// The issuer's name in the configuration
    pub issuer: IssuerName,
    /// Its directory
    pub directory: String,
    /// The URL of the account that ordered
    pub account: String,
    /// The URL of the order
    pub url: String,
    /// What was ordered
    pub identifiers: Vec<Identifier>,
    /// The kind of its key
    pub key_type: KeyType,
    /// The profile that was asked for
    pub profile: Option<String>,
    /// The profile that the CA lists and refused
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_profile: Option<String>,
    /// The key, PKCS#8, PEM
    pub key: Secret<String>,
    /// When newOrder was answered
    pub created_at: Timestamp,
}

/// `attempts.json`: what was tried, and what the CA suggested
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempts {
    /// [`VERSION`]
    pub version: u32,
    /// Failed attempts since the last success
    #[serde(default)]
    pub failures: u32,
    /// The latest of them
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Box<Failure>>,
    /// When that was
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<Timestamp>,
    /// No signed request before this moment
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// New orders that were begun, and of which neither a URL nor an end is known
    #[serde(default, skip_serializing_if = "is_zero")]
    pub begun: u32,
    /// When the latest of them was
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun_at: Option<Timestamp>,
    /// The recent orders that ended in a certificate, oldest first
    #[serde(default)]
    pub issued: Vec<IssuedRecord>,
    /// The certificates that the operator had revoked, as long as their generations are kept
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty", deserialize_with = "one_or_many")]
    pub revoked: BTreeSet<Fingerprint>,
    /// Issuers that are one of several and named a moment before which they are not to be asked
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resting: BTreeMap<IssuerName, Timestamp>,
    /// What the CA last suggested for the newest generation
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_info: Option<RenewalInfo>,
}

/// Takes the single certificate that a record of an earlier build holds, too
fn one_or_many<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeSet<Fingerprint>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Revoked {
        One(Fingerprint),
        Many(BTreeSet<Fingerprint>),
    }
    Ok(match Revoked::deserialize(deserializer)? {
        Revoked::One(one) => BTreeSet::from([one]),
        Revoked::Many(many) => many,
    })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// An order that ended in a certificate, for the ledger
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedRecord {
    /// When
    pub at: Timestamp,
    /// For what, sorted
    pub identifiers: Vec<Identifier>,
    /// The certificate's lifetime in seconds
    pub lifetime: u64,
}

/// What the CA suggests about renewing one certificate
///
/// <https://www.rfc-editor.org/rfc/rfc9773#section-4.2>
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalInfo {
    /// The certificate it is about
    pub fingerprint: Fingerprint,
    /// When to renew; `None` when the CA did not say, or said something absurd
    pub window: Option<SuggestedWindow>,
    /// Where the CA explains it
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation_url: Option<External>,
    /// When to ask next
    pub next_check: Timestamp,
    /// Failed attempts to ask since the last answer
    #[serde(default)]
    pub failures: u32,
}

/// <https://www.rfc-editor.org/rfc/rfc9773#section-4.2>
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuggestedWindow {
    /// The first moment
    pub start: Timestamp,
    /// The last moment, after `start`
    pub end: Timestamp,
}

/// `deploy.json`: how far each target got
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployRecord {
    /// [`VERSION`]
    pub version: u32,
    /// By target
    #[serde(default)]
    pub targets: BTreeMap<TargetName, TargetRecord>,
}

/// How far one target got with one generation
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRecord {
    /// The generation that is being deployed, or was
    pub generation: u32,
    /// When its files were switched; `None`: not yet, or undone
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_at: Option<Timestamp>,
    /// When check and reload last succeeded with them
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reloaded_at: Option<Timestamp>,
    /// When every endpoint was last seen to serve it, or when that began to count without endpoints
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_at: Option<Timestamp>,
    /// The endpoints that showed it in a handshake, each as [`Endpoint::place`]: they can serve it
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proven: Vec<String>,
    /// Whether it was live once and something happened since: nothing goes back from it
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_live: bool,
    /// Failed attempts with this generation
    #[serde(default)]
    pub failures: u32,
    /// Those of them that left other files in place
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refusals: u32,
    /// The latest of them
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Box<Failure>>,
    /// No further attempt before this moment
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The operator went back to this generation while that one was the newest; it stays until
    /// a newer one than that is issued
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_over: Option<u32>,
    /// The last generation that was live here before
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<u32>,
    /// Addresses that showed a certificate before the files were switched; that one of them shows
    /// none afterwards is our doing
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<String>,
    /// When the server was reloaded for it, within the last hour
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reloads: Vec<Timestamp>,
}

impl TargetRecord {
    /// Whether it is live as far as this target asks: an endpoint that was added proved nothing
    pub fn is_live(&self, target: &Target) -> bool {
        let proven = |endpoint: &Endpoint| self.proven.contains(&endpoint.place());
        self.live_at.is_some() && target.verify.iter().all(proven)
    }

    /// Remember that it was live, and is to be proven again
    pub fn doubt(&mut self) {
        self.was_live |= self.live_at.take().is_some();
    }

    /// The generation whose files are there
    pub fn in_force(&self) -> Option<u32> {
        self.installed_at.map(|_| self.generation).or(self.previous).filter(|number| *number > 0)
    }

    /// Whether the server refused this generation so often that only another cause can help
    pub const fn is_refused(&self) -> bool {
        self.installed_at.is_none() && self.refusals >= REFUSALS
    }

    /// Whether the latest of so many refusals is one that the server's clients may have felt
    pub fn is_harmful(&self) -> bool {
        let step = self.last_failure.as_ref().map(|failure| failure.step);
        self.is_refused() && matches!(step, Some(Step::Reload | Step::Verify))
    }
}

/// How often a generation is deployed and taken back before a human is asked
pub const REFUSALS: u32 = 3;

/// `published/<random>.json`: a challenge artefact that must be withdrawn, written ahead of it
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedRecord {
    /// [`VERSION`]
    pub version: u32,
    /// What it is and where
    pub artefact: Artefact,
    /// When it was about to be published
    pub created_at: Timestamp,
}

/// Something published for a CA to see
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Artefact {
    /// A file of a web server
    WebrootFile {
        /// Where it is
        path: PathBuf,
        /// Its device and inode once it is there; nothing else is ever removed
        inode: Option<(u64, u64)>,
    },
}
