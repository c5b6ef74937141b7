//! Passwords of outputs, read by whoever may read the environment.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::Store;
use super::error::StoreError;
use crate::config::{Output, SecretSource};
use crate::failure::{Failure, FailureClass, Step};
use crate::secret::Secret;

type Read = dyn Fn(&SecretSource) -> Result<Secret<String>, Failure> + Send + Sync;

/// Reads passwords from where the configuration says, at each use
#[derive(Clone)]
pub struct Passwords(Arc<Read>);

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passwords")
    }
}

impl Passwords {
    /// Read passwords like this
    pub fn new(
        read: impl Fn(&SecretSource) -> Result<Secret<String>, Failure> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(read))
    }

    /// The password of an output that has one
    pub(super) fn read(
        &self,
        output: &Output,
        source: &SecretSource,
    ) -> Result<Secret<String>, StoreError> {
        let refused = |summary: &str, remedy: &str| {
            let reason =
                format!("is to be encrypted, but its password is not to be had: {summary}");
            StoreError::refused(&output.path, reason, remedy)
        };
        let password = (self.0)(source).map_err(|failure| match &failure.class {
            FailureClass::NeedsOperator { what, .. } => {
                refused(failure.summary.as_str(), what.as_str())
            }
            _ => refused(failure.summary.as_str(), "make the password readable for certkeep"),
        })?;
        if password.expose().is_empty() {
            return Err(refused("it is empty", "put a password there"));
        }
        Ok(password)
    }
}

/// None at all
impl Default for Passwords {
    fn default() -> Self {
        Self::new(|_| {
            Err(Failure::needs_operator(
                Step::Prepare,
                "nothing reads passwords here",
                "give the store a way to: `Store::with_passwords`",
            ))
        })
    }
}

impl Store {
    /// The same store, which reads the passwords of outputs like this
    #[must_use]
    pub fn with_passwords(self, passwords: Passwords) -> Self {
        let (root, accounts) = (self.0.root.clone(), self.0.accounts.clone());
        let (access, deploys) = (self.0.access, Mutex::default());
        Self(Arc::new(super::Inner { root, accounts, access, deploys, passwords }))
    }
}
