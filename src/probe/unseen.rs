//! Why an endpoint is not live.

use std::fmt;

use super::{ProbeError, ServedChain, Wanted};
use crate::cert::describe;
use crate::config::{Address, Endpoint};
use crate::failure::{Failure, Step};

/// What each address of an endpoint did last, when not all of them serve what is wanted
///
/// Displayed, it is one sentence that names each address that is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// The endpoint
    pub endpoint: Endpoint,
    /// What it is to serve
    pub wanted: Wanted,
    /// Why nothing was resolved, as long as that is so
    pub unresolved: Option<ProbeError>,
    /// Each address of it, none until the name is resolved
    pub addresses: Vec<Seen>,
}

/// One address of an endpoint
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The address
    pub address: Address,
    /// What was seen last; `None` if it was never asked
    pub outcome: Option<Result<ServedChain, ProbeError>>,
    /// How often in a row it was what is wanted
    pub good: u32,
    /// How often in a row there was nothing
    pub failed: u32,
    /// Whether there was ever anything
    pub answered: bool,
    /// Whether that is often enough, so that it is not asked again
    pub settled: bool,
}

impl Seen {
    pub(super) const fn never(address: Address) -> Self {
        Self { address, outcome: None, good: 0, failed: 0, answered: false, settled: false }
    }

    /// Whether it shows nothing, and not for a moment only
    pub(crate) fn is_dead(&self) -> bool {
        self.failed >= if self.answered { LOST_IN_A_ROW } else { 1 }
    }
}

/// How often in a row an address that answered must show nothing: one look may meet a full queue
const LOST_IN_A_ROW: u32 = 3;

impl Unseen {
    /// Whether one of its addresses showed what is wanted when it was asked last
    pub(crate) fn is_seen(&self) -> bool {
        self.addresses.iter().any(|seen| match &seen.outcome {
            Some(Ok(chain)) => chain.leaf == self.wanted.leaf,
            _ => false,
        })
    }
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, wanted, unresolved, addresses } = self;
        if let (Some(error), true) = (unresolved, addresses.is_empty()) {
            return write!(f, "{endpoint} {error}");
        }
        write!(f, "{endpoint} does not serve the certificate {}…: ", wanted.leaf.short())?;
        let mut separator = "";
        for seen in addresses.iter().filter(|seen| !seen.settled) {
            write!(f, "{separator}{} ", seen.address)?;
            separator = "; ";
            match &seen.outcome {
                None => f.write_str("was not asked")?,
                Some(Err(error)) => write!(f, "{error}")?,
                Some(Ok(chain)) if chain.leaf == wanted.leaf => match seen.good {
                    1 => f.write_str("serves it, seen only once")?,
                    good => write!(f, "serves it, seen {good} times of {}", endpoint.samples)?,
                },
                Some(Ok(chain)) => {
                    let which = match wanted.previous {
                        Some(previous) if previous == chain.leaf => "still serves the one before",
                        Some(_) => "serves neither it nor the one before",
                        None => "serves another",
                    };
                    let leaf = chain.chain.first().map(|leaf| leaf.as_ref()).unwrap_or_default();
                    write!(f, "{which}: {}", describe(leaf))?;
                }
            }
        }
        match addresses.iter().filter(|seen| seen.settled).count() {
            0 => Ok(()),
            good => write!(f, "; {good} of {} addresses serve it", addresses.len()),
        }
    }
}

impl std::error::Error for Unseen {}

/// It may come yet: a server that takes its time, an address that is down
impl From<Unseen> for Failure {
    fn from(unseen: Unseen) -> Self {
        Self::retry(Step::Verify, unseen.to_string())
    }
}
