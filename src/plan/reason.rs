//! Why something is done, or not done.

use std::fmt;

use crate::config::KeyType;
use crate::time::Timestamp;

/// Why a certificate is ordered, deployed or left alone
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The files hold a certificate that no generation does
    Adoptable,
    /// Its age says so
    Age {
        /// The moment
        at: Timestamp,
    },
    /// The newest generation cannot be used, and no older one can either
    Damaged,
    /// The configuration asks for something else
    Drift(Drift),
    /// Less than a twelfth of its life is left
    Emergency,
    /// The operator asks for it
    Forced,
    /// Its key is as old as the configuration allows
    KeyAge {
        /// The moment
        at: Timestamp,
    },
    /// There is none
    Missing,
    /// Nothing is due
    NotDue {
        /// When it will be
        at: Timestamp,
    },
    /// The CA suggests it
    RenewalInfo {
        /// The moment drawn from the suggested window
        at: Timestamp,
    },
    /// The CA revoked it
    Revoked,
    /// An order was begun and not finished
    Unfinished,
}

/// What the configuration asks for and the certificate is not
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drift {
    /// Another directory
    Issuer,
    /// Another kind of key
    Key {
        /// What is wanted
        wanted: KeyType,
    },
    /// Other names: those to add and those to drop, as text
    Names {
        /// Wanted and not in the certificate
        added: Vec<String>,
        /// In the certificate and not wanted
        dropped: Vec<String>,
    },
    /// Another profile
    Profile,
}

impl Reason {
    /// The reason as one word, for machines
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Adoptable => "adoptable",
            Self::Age { .. } => "age",
            Self::Damaged => "damaged",
            Self::Drift(Drift::Issuer) => "issuer-differs",
            Self::Drift(Drift::Key { .. }) => "key-differs",
            Self::Drift(Drift::Names { .. }) => "names-differ",
            Self::Drift(Drift::Profile) => "profile-differs",
            Self::Emergency => "emergency",
            Self::Forced => "forced",
            Self::KeyAge { .. } => "key-age",
            Self::Missing => "missing",
            Self::NotDue { .. } => "not-due",
            Self::RenewalInfo { .. } => "renewal-info",
            Self::Revoked => "revoked",
            Self::Unfinished => "unfinished",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adoptable => f.write_str("the files hold a certificate that can be taken over"),
            Self::Age { at } => write!(f, "due since {at} by its age"),
            Self::Damaged => f.write_str("its generations in the state directory are damaged"),
            Self::Drift(Drift::Issuer) => f.write_str("the configuration names another issuer"),
            Self::Drift(Drift::Key { wanted }) => {
                write!(f, "the configuration asks for a key of type {wanted}")
            }
            Self::Drift(Drift::Names { added, dropped }) => {
                f.write_str("the configuration has other names:")?;
                let added = added.iter().map(|name| format!(" +{name}"));
                let dropped = dropped.iter().map(|name| format!(" -{name}"));
                added.chain(dropped).try_for_each(|name| f.write_str(&name))
            }
            Self::Drift(Drift::Profile) => f.write_str("the configuration names another profile"),
            Self::Emergency => f.write_str("less than a twelfth of its life is left"),
            Self::Forced => f.write_str("the operator asks for it"),
            Self::KeyAge { at } => write!(f, "due since {at} by the age of its key"),
            Self::Missing => f.write_str("there is no certificate yet"),
            Self::NotDue { at } => write!(f, "not due before {at}"),
            Self::RenewalInfo { at } => write!(f, "due since {at}, as the CA suggests"),
            Self::Revoked => f.write_str("the CA revoked it"),
            Self::Unfinished => f.write_str("an order was begun and not finished"),
        }
    }
}
