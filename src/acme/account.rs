//! An account at a CA, and the session that it opens.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555#section-7.3>

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{Account, RevocationRequest};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::Answer;
use super::call::call;
use super::directory::Directory;
use super::failure;
use super::jws::AccountKey;
use super::revocation::RevocationReason;
use super::transport::Transport;
use crate::failure::{Failure, Step};
use crate::record::{AccountRecord, VERSION};
use crate::secret::Secret;
use crate::text::External;
use crate::time::Timestamp;

/// A new account with a fresh key, to be on disk before the CA hears of it
///
/// # Errors
/// When the machine has no randomness.
pub fn new_account_record(
    directory: &str,
    eab_key_id: Option<&str>,
    contact: &[String],
    now: Timestamp,
) -> Result<AccountRecord, Failure> {
    Ok(AccountRecord {
        version: VERSION,
        directory: directory.to_owned(),
        eab_key_id: eab_key_id.map(ToOwned::to_owned),
        url: None,
        key: generate()?,
        next_key: None,
        contact: contact.to_vec(),
        created_at: now,
        deactivated_at: None,
    })
}

/// The same account with a key to roll over to, to be on disk before [`Session::roll_over`]
///
/// # Errors
/// When the machine has no randomness.
pub fn next_key(record: &AccountRecord) -> Result<AccountRecord, Failure> {
    Ok(AccountRecord { next_key: Some(generate()?), ..record.clone() })
}

fn generate() -> Result<Secret<String>, Failure> {
    AccountKey::generate()
        .ok_or_else(|| Failure::retry(Step::Account, "no account key could be made"))
}

/// The credentials of an account that the CA already knows the operator by
///
/// <https://www.rfc-editor.org/rfc/rfc8555#section-7.3.4>
#[derive(Clone, Debug)]
pub struct Eab {
    key_id: String,
    hmac_key: Secret<Vec<u8>>,
}

impl Eab {
    /// Take the MAC key as the CA shows it: base64, of either alphabet, padded or not
    ///
    /// # Errors
    /// When it is not base64; the text is not repeated.
    pub fn decode(key_id: &str, hmac_key: &Secret<String>) -> Result<Self, Failure> {
        let text = Secret::new(hmac_key.expose().replace('+', "-").replace('/', "_"));
        let text = text.expose().trim().trim_end_matches('=');
        let decoded = URL_SAFE_NO_PAD.decode(text).ok().filter(|key| !key.is_empty());
        let Some(key) = decoded else {
            let summary = "the MAC key of `eab` is not base64";
            let what = "copy the HMAC key again from where the CA shows it";
            return Err(Failure::needs_operator(Step::Prepare, summary, what));
        };
        Ok(Self { key_id: key_id.trim().to_owned(), hmac_key: Secret::new(key) })
    }

    /// The key itself, for the CA's side of it
    pub(crate) fn into_hmac_key(self) -> Secret<Vec<u8>> {
        self.hmac_key
    }
}

/// An account in use: everything that is asked of its CA goes through here
///
/// Cheap to clone; any number of orders may run on it at once.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

struct Shared {
    transport: Transport,
    directory: Directory,
    account: Account,
}

/// A session, and what to write down about its account
#[derive(Debug)]
pub struct Opened {
    /// The session
    pub session: Session,
    /// The account as it is now; to be written when it differs from what was given
    pub record: AccountRecord,
    /// How the CA knows the account
    pub standing: Standing,
}

/// How a CA knows an account
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It knew the key, and told the URL that the record had lost
    Found,
    /// The record has the URL; the CA was not asked
    Known,
    /// It was registered just now
    Registered,
}

impl Session {
    /// Open a session: one request when the record has the account's URL
    ///
    /// Otherwise the key is registered. That is safe to repeat after a crash, since a CA answers
    /// for a key that it knows with the account that it has; and where it does not, because the
    /// external account binding is used up, the account is looked up by its key.
    ///
    /// # Errors
    /// Of problem `externalAccountRequired` without a request, when the CA wants `eab`.
    pub async fn open(
        transport: &Transport,
        record: &AccountRecord,
        eab: Option<&Eab>,
    ) -> Result<Opened, Failure> {
        if let Some(at) = record.deactivated_at {
            let summary = format!("the account was deactivated at {at}");
            let what = "remove its directory below `accounts` to begin with a new one";
            return Err(Failure::needs_operator(Step::Account, summary, what));
        }
        let directory = Directory::fetch(transport).await?;
        let desk = Desk { transport, directory: &directory };
        let mut record = record.clone();
        if let Some(next) = record.next_key.take() {
            // A rollover was under way. It happened if the CA knows the new key.
            if let Some((url, _)) = desk.look_up(&parse(&next)?).await? {
                (record.key, record.url) = (next, Some(url));
            }
        }
        let key = parse(&record.key)?;
        let (url, standing) = match &record.url {
            Some(url) => (url.clone(), Standing::Known),
            None => desk.register(&key, &record.contact, eab).await?,
        };
        let account = account(transport, &url, &key, &directory).await?;
        record.url = Some(url);
        let transport = transport.clone();
        let session = Self { shared: Arc::new(Shared { transport, directory, account }) };
        Ok(Opened { session, record, standing })
    }

    /// What the CA says about itself
    pub fn directory_facts(&self) -> &Directory {
        &self.shared.directory
    }

    /// The URL of the account
    pub fn account_url(&self) -> &str {
        self.shared.account.id()
    }

    /// Put the record's next key in place of its key, at the CA
    ///
    /// Not while orders are under way: their challenges are answered with the old key. Returns
    /// the record to write; this session ends with it.
    ///
    /// <https://www.rfc-editor.org/rfc/rfc8555#section-7.3.5>
    ///
    /// # Errors
    /// Whichever key is in force after an error, [`Session::open`] finds out.
    pub async fn roll_over(&self, record: &AccountRecord) -> Result<AccountRecord, Failure> {
        let refuse = |summary| Failure::retry(Step::Account, summary);
        let directory = &self.shared.directory;
        let Some(next) = &record.next_key else {
            return Err(refuse("no key to roll over to was made"));
        };
        let Some(url) = &directory.key_change else {
            return Err(refuse("the CA does not change the keys of accounts"));
        };
        let (old, new) = (parse(&record.key)?, parse(next)?);
        let order = json!({ "account": self.account_url(), "oldKey": old.jwk() });
        let inner = new.sign(json!({ "jwk": new.jwk(), "url": url }), &order);
        let inner = inner.ok_or_else(|| refuse("the new account key cannot sign"))?;
        let desk = Desk { transport: &self.shared.transport, directory };
        desk.post(url, &old, json!({ "kid": self.account_url() }), &inner).await?;
        Ok(AccountRecord { key: next.clone(), next_key: None, ..record.clone() })
    }

    /// Tell the CA whom to write to, in place of whom it wrote to
    ///
    /// <https://www.rfc-editor.org/rfc/rfc8555#section-7.3.2>
    ///
    /// # Errors
    /// When the CA does not take a contact.
    pub async fn update_contacts(&self, contact: &[String]) -> Result<(), Failure> {
        let contact: Vec<_> = contact.iter().map(String::as_str).collect();
        let account = &self.shared.account;
        let asked = call!(account.update_contacts(&contact));
        self.judge(asked, Step::Account).map(drop)
    }

    /// Close the account for good
    ///
    /// <https://www.rfc-editor.org/rfc/rfc8555#section-7.3.6>
    ///
    /// # Errors
    /// When the CA does not say that it did.
    pub async fn deactivate(&self) -> Result<(), Failure> {
        let account = &self.shared.account;
        let asked = call!(account.clone().deactivate());
        self.judge(asked, Step::Account).map(drop)
    }

    /// Revoke a certificate that this account ordered; one that is revoked already is no failure
    ///
    /// <https://www.rfc-editor.org/rfc/rfc8555#section-7.6>
    ///
    /// # Errors
    /// When the CA does not say that it did.
    pub async fn revoke(&self, der: &[u8], reason: RevocationReason) -> Result<(), Failure> {
        let certificate = CertificateDer::from(der);
        let reason = Some(reason.into());
        let request = RevocationRequest { certificate: &certificate, reason };
        let account = &self.shared.account;
        let (result, answer) = call!(account.revoke(&request));
        if answer.as_ref().is_some_and(|answer| answer.is("alreadyRevoked")) {
            return Ok(());
        }
        self.judge((result, answer), Step::Revoke).map(drop)
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.shared.transport
    }

    pub(super) fn account(&self) -> &Account {
        &self.shared.account
    }

    /// What came of a call: instant-acme may miss that the CA refused
    pub(super) fn judge<T>(
        &self,
        (result, answer): (Result<T, instant_acme::Error>, Option<Answer>),
        step: Step,
    ) -> Result<(T, Option<Answer>), Failure> {
        let now = self.shared.transport.now();
        match (result, answer) {
            (Ok(value), answer) => match answer.as_ref().and_then(|a| a.problem.as_ref()) {
                None => Ok((value, answer)),
                Some(problem) => Err(failure::refused(problem, answer.as_ref(), step, now)),
            },
            (Err(error), answer) => Err(failure::sort(error, answer.as_ref(), step, now)),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("account", &self.account_url()).finish_non_exhaustive()
    }
}

/// Where requests are made that instant-acme has no form for
struct Desk<'a> {
    transport: &'a Transport,
    directory: &'a Directory,
}

impl Desk<'_> {
    async fn register(
        &self,
        key: &AccountKey,
        contact: &[String],
        eab: Option<&Eab>,
    ) -> Result<(String, Standing), Failure> {
        let url = &self.directory.new_account;
        let mut payload = json!({ "termsOfServiceAgreed": true });
        if !contact.is_empty() {
            payload["contact"] = json!(contact);
        }
        match eab {
            Some(eab) => {
                payload["externalAccountBinding"] = key.bind(&eab.key_id, &eab.hmac_key, url);
            }
            None if self.directory.external_account_required => {
                let summary = "the CA wants accounts bound to one that it already knows";
                let what = "set `eab` to the credentials that the CA gives out";
                let mut failure = Failure::needs_operator(Step::Account, summary, what);
                failure.problem = Some(External::new("externalAccountRequired"));
                return Err(failure);
            }
            None => {}
        }
        match self.new_account(key, &payload).await {
            Err(refused) if eab.is_some() && refused.problem.is_some() => {
                match self.look_up(key).await {
                    Ok(Some((url, standing))) => Ok((url, standing)),
                    _ => Err(refused),
                }
            }
            answered => answered,
        }
    }

    /// The account of this key, if there is one
    async fn look_up(&self, key: &AccountKey) -> Result<Option<(String, Standing)>, Failure> {
        match self.new_account(key, &json!({ "onlyReturnExisting": true })).await {
            Ok((url, _)) => Ok(Some((url, Standing::Found))),
            Err(failure) if is_unknown(&failure) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn new_account(
        &self,
        key: &AccountKey,
        payload: &Value,
    ) -> Result<(String, Standing), Failure> {
        let at = &self.directory.new_account;
        let answer = self.post(at, key, json!({ "jwk": key.jwk() }), payload).await?;
        let Some(url) = answer.location() else {
            let summary = "the CA did not say where the account is";
            return Err(Failure::retry(Step::Account, summary).by_issuer());
        };
        let known = answer.status == http::StatusCode::OK;
        Ok((url.to_owned(), if known { Standing::Found } else { Standing::Registered }))
    }

    /// Sign and send, again and again while the CA refuses nothing but the nonce
    async fn post(
        &self,
        url: &str,
        key: &AccountKey,
        mut header: Value,
        payload: &Value,
    ) -> Result<Answer, Failure> {
        header["url"] = json!(url);
        let mut round = 1;
        loop {
            let nonce = self.transport.nonce(&self.directory.new_nonce).await;
            let nonce = nonce.map_err(|error| {
                failure::without_nonce(&error, Step::Account, self.transport.now())
            })?;
            header["nonce"] = json!(nonce);
            let signed = key.sign(header.clone(), payload);
            let signed = signed
                .ok_or_else(|| Failure::retry(Step::Account, "the account key cannot sign"))?;
            let sent = self.transport.post(url, signed.to_string().into_bytes()).await;
            let again = sent.as_ref().is_ok_and(|answer| answer.is("badNonce"));
            if !again || round == ROUNDS {
                return failure::sent(sent, Step::Account, self.transport.now());
            }
            round += 1;
        }
    }
}

fn is_unknown(failure: &Failure) -> bool {
    failure.problem.as_ref().is_some_and(|problem| problem.as_str() == "accountDoesNotExist")
}

fn parse(key: &Secret<String>) -> Result<AccountKey, Failure> {
    AccountKey::parse(key).ok_or_else(|| {
        let summary = "the account's key cannot be read: it is not PKCS#8 PEM of a P-256 key";
        Failure::needs_operator(Step::Account, summary, "put the account's record back in place")
    })
}

/// The account as instant-acme knows it, without a request
async fn account(
    transport: &Transport,
    url: &str,
    key: &AccountKey,
    directory: &Directory,
) -> Result<Account, Failure> {
    #[derive(Serialize)]
    struct Credentials<'a> {
        id: &'a str,
        key_pkcs8: &'a str,
        urls: Value,
    }
    let key = key.to_base64();
    let credentials = Credentials { id: url, key_pkcs8: key.expose(), urls: directory.urls() };
    let text = Secret::new(serde_json::to_string(&credentials).unwrap_or_default());
    let refuse = |error| failure::sort(error, None, Step::Account, transport.now());
    let credentials = serde_json::from_str(text.expose()).map_err(|error| refuse(error.into()))?;
    let builder = Account::builder_with_http(Box::new(transport.clone()));
    builder.from_credentials(credentials).await.map_err(refuse)
}

/// Enough for a CA that refuses half of all nonces
const ROUNDS: u32 = 30;

#[cfg(test)]
mod tests;
