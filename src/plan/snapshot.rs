//! What was observed, as the planner takes it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cert::Leaf;
use crate::name::{CertName, Identifier, IssuerName, TargetName};
use crate::record::{Attempts, GenerationMeta, TargetRecord};
use crate::text::External;
use crate::time::Timestamp;

/// All that was observed at one moment
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By certificate; one that is not here was never seen
    pub certificates: BTreeMap<CertName, Box<Observed>>,
}

/// All that was observed of one certificate
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The newest generation that is whole: its key is its leaf's
    pub held: Option<Held>,
    /// What is wrong with newer generations that are not whole
    pub damaged: Option<External>,
    /// A certificate with its key that the outputs hold and no generation does
    pub found: Option<Box<Leaf>>,
    /// An order that is not finished
    pub order: Option<OrderInFlight>,
    /// What was tried
    pub attempts: Attempts,
    /// By target of the configuration; boxed, since a map has room for eleven and most have one
    pub targets: BTreeMap<TargetName, Box<ObservedTarget>>,
    /// What the operator asks for at this moment
    pub request: Request,
}

impl Observed {
    /// Whether the order's certificate is held already: a crash came before it was forgotten
    pub fn is_order_finished(&self) -> bool {
        let origin = self.held.as_ref().and_then(|held| held.meta.origin.as_ref());
        let (Some(order), Some(origin)) = (&self.order, origin) else { return false };
        order.url.as_str() == origin.order
    }
}

/// What the operator asks for at this moment
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// Nothing beyond the configuration
    #[default]
    None,
    /// Look now: a deployment that failed is tried again at once
    Now,
    /// A new certificate, whatever is due and however recent the last one
    Force,
}

/// A generation and what its leaf says
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Where it came from
    pub meta: GenerationMeta,
    /// What its leaf says
    pub leaf: Leaf,
}

/// An order that is not finished, without its secrets
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderInFlight {
    /// Its URL
    pub url: External,
    /// The issuer's name in the configuration at that time
    pub issuer: IssuerName,
    /// The directory it was placed at
    pub directory: String,
    /// What was ordered
    pub identifiers: BTreeSet<Identifier>,
    /// When
    pub created_at: Timestamp,
}

/// What was observed of one target
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedTarget {
    /// How far it got
    pub record: TargetRecord,
    /// How its files compare with the generation that the record names as installed
    pub outputs: OutputState,
    /// What the operator went back to, if it is not the newest
    pub pinned: Option<Box<Leaf>>,
    /// What its files hold, if it is not the newest
    pub in_force: Option<Box<Leaf>>,
}

/// How the files of a target compare with what they should hold
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OutputState {
    /// All there, with the right content, mode and owner
    Current,
    /// Something else than the generation, or with another mode or owner
    Differs {
        /// The first such file
        path: PathBuf,
        /// What is wrong with it
        problem: External,
    },
    /// Nothing of the target is there
    #[default]
    Missing,
    /// It could not be looked at
    Unreadable {
        /// The file
        path: PathBuf,
        /// Why
        problem: External,
    },
}

impl OutputState {
    /// What is wrong with the files, if something is
    pub fn problem(&self) -> Option<External> {
        let about = |path: &PathBuf, problem: &External| {
            Some(External::new(format!("{}: {problem}", path.display())))
        };
        match self {
            Self::Current => None,
            Self::Differs { path, problem } | Self::Unreadable { path, problem } => {
                about(path, problem)
            }
            Self::Missing => Some(External::new("its files are gone")),
        }
    }
}
