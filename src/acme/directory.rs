//! What a CA says about itself.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::answer::Answer;
use super::failure;
use super::transport::Transport;
use crate::failure::{Failure, Step};
use crate::text::External;

/// A CA's directory
///
/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.1.1>
#[derive(Clone, Debug)]
pub struct Directory {
    pub(super) new_nonce: String,
    pub(super) new_account: String,
    pub(super) new_order: String,
    pub(super) revoke_cert: Option<String>,
    pub(super) key_change: Option<String>,
    pub(super) renewal_info: Option<String>,
    /// Where the terms are that an account agrees to
    pub terms_of_service: Option<External>,
    /// Whether an account must be bound to one that the CA already knows
    pub external_account_required: bool,
    /// The profiles on offer, each with what the CA says about it
    ///
    /// <https://datatracker.ietf.org/doc/draft-ietf-acme-profiles/>
    pub profiles: BTreeMap<String, External>,
    /// What CAA records call the CA
    pub caa_identities: Vec<External>,
}

impl Directory {
    /// Whether the CA suggests when to renew
    ///
    /// <https://www.rfc-editor.org/rfc/rfc9773>
    pub fn has_renewal_info(&self) -> bool {
        self.renewal_info.is_some()
    }

    /// Ask a CA about itself, with one request and no account
    ///
    /// # Errors
    /// When it cannot be asked, or what answers is no ACME server.
    pub async fn fetch(transport: &Transport) -> Result<Self, Failure> {
        let asked = transport.get(transport.directory()).await;
        let answer = failure::sent(asked, Step::Account, transport.now())?;
        Self::read(&answer, transport)
    }

    fn read(answer: &Answer, transport: &Transport) -> Result<Self, Failure> {
        let Some(Value::Object(document)) = answer.json() else {
            let summary = "the directory's URL leads to something else than an ACME directory";
            return Err(Failure::retry(Step::Account, summary).by_issuer());
        };
        let text = |name: &str| document.get(name).and_then(Value::as_str);
        let optional = |name: &str| match text(name).filter(|url| !url.is_empty()) {
            Some(url) => match transport.fence().check(url) {
                Ok(_) => Ok(Some(url.to_owned())),
                Err(error) => Err(failure::fenced(&error, Step::Account)),
            },
            None => Ok(None),
        };
        let required = |name: &str| {
            optional(name)?.ok_or_else(|| {
                let summary = format!("the CA's directory has no `{name}`");
                Failure::retry(Step::Account, summary).by_issuer()
            })
        };
        let meta = document.get("meta").unwrap_or(&Value::Null);
        let profiles = meta.get("profiles").and_then(Value::as_object);
        let identities = meta.get("caaIdentities").and_then(Value::as_array);
        Ok(Self {
            new_nonce: required("newNonce")?,
            new_account: required("newAccount")?,
            new_order: required("newOrder")?,
            revoke_cert: optional("revokeCert")?,
            key_change: optional("keyChange")?,
            // Renewal information is advice: a CA that gives it elsewhere gives none.
            renewal_info: optional("renewalInfo").unwrap_or_default(),
            terms_of_service: meta.get("termsOfService").and_then(Value::as_str).map(External::new),
            external_account_required: meta
                .get("externalAccountRequired")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            profiles: profiles
                .into_iter()
                .flatten()
                .map(|(name, about)| (name.clone(), External::new(about.as_str().unwrap_or(""))))
                .collect(),
            caa_identities: identities
                .into_iter()
                .flatten()
                .filter_map(|name| name.as_str().map(External::new))
                .collect(),
        })
    }

    /// The URLs that instant-acme needs, so that it does not fetch the directory again
    pub(super) fn urls(&self) -> Value {
        json!({
            "newNonce": self.new_nonce,
            "newAccount": self.new_account,
            "newOrder": self.new_order,
            "revokeCert": self.revoke_cert,
            "keyChange": self.key_change,
            "renewalInfo": self.renewal_info,
        })
    }
}
