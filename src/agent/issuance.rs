//! A certificate from the CA: order, authorize, finalize, download, stage.

use std::collections::{BTreeMap, BTreeSet};

use crate::acme::key::{self, Key};
use crate::acme::{Order, Resumed, Session, Status, Unplaced};
use crate::agent::Shared;
use crate::agent::journal::journal;
use crate::cert;
use crate::challenge::Published;
use crate::config::{Certificate, ChallengeMethod, Config, Http01, Issuer, Profile};
use crate::event::Event;
use crate::failure::{Failure, FailureClass, Step};
use crate::name::IssuerName;
use crate::pem;
use crate::plan::{self, LONGEST_REST, Observed, Request, ledger, window};
use crate::record::{Attempts, IssuedRecord, OrderRecord, Origin, VERSION};
use crate::secret::Secret;
use crate::store::NewGeneration;
use crate::text::External;
use crate::time::{Rough, Timestamp};

/// Get a new certificate from the first issuer that can give one, and keep it as a generation
///
/// Goes on with the order on disk if it is still the one wanted.
///
/// # Errors
/// Of the issuers' failures the one after which an attempt may come soonest. The order stays on
/// disk if it may still end well.
pub(crate) async fn issue(
    shared: &Shared,
    config: &Config,
    certificate: &Certificate,
    observed: &Observed,
    purpose: Purpose,
) -> Result<(), NotIssued> {
    let mut resting = observed.attempts.resting.clone();
    let now = shared.now();
    resting.retain(|_, until| *until > now && *until <= now.after(LONGEST_REST));
    let asked = ask(shared, config, certificate, observed, purpose, &mut resting).await;
    asked.map_err(|failure| NotIssued { failure, resting })
}

/// Why there is no certificate
#[derive(Debug)]
pub(crate) struct NotIssued {
    pub(crate) failure: Failure,
    /// The issuers that are not to be asked before those moments
    pub(crate) resting: Resting,
}

type Resting = BTreeMap<IssuerName, Timestamp>;

async fn ask(
    shared: &Shared,
    config: &Config,
    certificate: &Certificate,
    observed: &Observed,
    purpose: Purpose,
    resting: &mut Resting,
) -> Result<(), Failure> {
    begin(shared, certificate, Step::Prepare);
    let wanted = certificate.clone();
    let prepared = shared.on_disk(move |store| store.prepare(&wanted)).await;
    prepared.map_err(|error| error.failure(Step::Prepare))?;
    let ChallengeMethod::Http01(method) = &certificate.challenge;
    // One in flight may need no challenge any more.
    if let (Http01::Webroot(_), None) = (method, &observed.order) {
        let tried = shared.solver.trial(method).await;
        tried.map_err(|failure| Failure { step: Step::Prepare, ..failure })?;
    }
    let mut issuers: Vec<_> =
        certificate.issuers.iter().filter_map(|name| config.issuer(name)).collect();
    // Where an order is in flight, it goes on first.
    if let Some(order) = &observed.order {
        issuers.sort_by_key(|issuer| {
            (issuer.directory != order.directory, issuer.name != order.issuer)
        });
    }
    let count = issuers.len();
    // Nobody else can end it.
    if purpose == Purpose::FinishOrder {
        issuers.truncate(1);
    }
    let last = issuers.len().saturating_sub(1);
    let mut failures = Vec::with_capacity(count);
    for (i, issuer) in issuers.into_iter().enumerate() {
        // Of one issuer alone, the certificate's own rest tells.
        if let Some(until) = resting.get(&issuer.name).filter(|_| count > 1) {
            let message = format!("`{}` is not to be asked before {until}", issuer.name);
            failures.push(Failure::not_before(*until, Step::Order, message));
            continue;
        }
        let attempt = Attempt { shared, config, certificate, observed, issuer, purpose, resting };
        match attempt.run().await {
            Ok(()) => return Ok(()),
            Err(failure) => {
                // The certificate's own rest then.
                if !failure.try_other_issuer {
                    return Err(failure);
                }
                if count > 1
                    && let FailureClass::NotBefore { at } = failure.class
                {
                    let latest = shared.now().after(LONGEST_REST);
                    resting.insert(issuer.name.clone(), at.min(latest));
                }
                if i < last {
                    tell_next(shared, certificate, issuer, &failure);
                }
                failures.push(failure);
            }
        }
    }
    // Of the others each was told when the next one was asked.
    let told_by_nobody = failures.last().cloned();
    let soonest = soonest(failures).unwrap_or_else(|| {
        Failure::needs_operator(
            Step::Prepare,
            "the configuration names no issuer that exists",
            "name one under `issuer`",
        )
    });
    if let Some(failure) = told_by_nobody.filter(|failure| *failure != soonest) {
        shared.warn(&certificate.name, &failure);
    }
    Err(soonest)
}

/// The failure after which an attempt may come soonest: the rest of one issuer is not another's
fn soonest(failures: Vec<Failure>) -> Option<Failure> {
    failures.into_iter().rev().min_by_key(|failure| match failure.class {
        FailureClass::Retry => (0, None),
        FailureClass::NotBefore { at } => (1, Some(at)),
        FailureClass::NeedsOperator { .. } => (2, None),
    })
}

fn tell_next(shared: &Shared, certificate: &Certificate, issuer: &Issuer, failure: &Failure) {
    let message =
        format!("`{}` cannot issue now ({failure}); the next issuer is asked", issuer.name);
    shared.warn(&certificate.name, &message);
}

fn begin(shared: &Shared, certificate: &Certificate, step: Step) {
    shared.tell(Event::StepBegun { certificate: certificate.name.clone(), step });
}

/// What is asked of the CA
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A certificate, by the order in flight or by a new one
    Certificate,
    /// The end of the order in flight, if it may still end well
    FinishOrder,
}

/// One issuer being asked for one certificate
struct Attempt<'a> {
    shared: &'a Shared,
    config: &'a Config,
    certificate: &'a Certificate,
    observed: &'a Observed,
    issuer: &'a Issuer,
    purpose: Purpose,
    /// The issuers that are not to be asked yet
    resting: &'a Resting,
}

impl Attempt<'_> {
    async fn run(&self) -> Result<(), Failure> {
        let _turn = self.shared.sessions.turn(&self.issuer.name).await;
        self.begin(Step::Account);
        let sessions = &self.shared.sessions;
        let session = sessions.open(self.shared, self.config, &self.issuer.name).await?;
        match self.order_and_stage(&session).await {
            Err(failure) if is_unknown_account(&failure) => {
                // The CA forgot us; the key is still ours, so it is registered once more.
                self.shared.warn(&self.certificate.name, &failure);
                sessions.forget_account(self.shared, self.issuer, session.account_url()).await?;
                let session = sessions.open(self.shared, self.config, &self.issuer.name).await?;
                self.order_and_stage(&session).await
            }
            done => done,
        }
    }

    async fn order_and_stage(&self, session: &Session) -> Result<(), Failure> {
        // A CA may give the order that is under way to whoever asks for the same names.
        let names = self.certificate.identifiers.iter().cloned().collect();
        let same_names = self.shared.sessions.same_names(&self.issuer.directory, names);
        let _alone = same_names.lock().await;
        self.begin(Step::Order);
        let resumed = self.resume(session).await?;
        let is_resumed = resumed.is_some();
        let (mut order, record) = match resumed {
            Some(resumed) => resumed,
            None if self.purpose == Purpose::FinishOrder => {
                // Whoever could have ended it was asked first.
                self.forget_order().await;
                return Ok(());
            }
            None => self.place(session).await?,
        };
        match self.complete(session, &mut order, &record).await {
            Ok(()) => Ok(()),
            Err(failure) => {
                if order.status() == Status::Invalid {
                    self.forget_order().await;
                }
                // It had its time; where that is all that is left, what it may issue is given up.
                if is_resumed && self.is_urgent() && failure.is_of_issuing() {
                    return Err(failure.by_issuer());
                }
                Err(failure)
            }
        }
    }

    /// The order on disk, if it is this issuer's and still asks for what is wanted
    async fn resume(&self, session: &Session) -> Result<Option<(Order, OrderRecord)>, Failure> {
        if self.observed.order.is_none() {
            return Ok(None);
        }
        let name = self.certificate.name.clone();
        let record = self.shared.on_disk(move |store| store.order(&name, &mut |_| ())).await;
        let record = record.map_err(|error| error.failure(Step::Order))?;
        let Some(record) = record else { return Ok(None) };
        let asked: BTreeSet<_> = record.identifiers.iter().collect();
        let wanted: BTreeSet<_> = self.certificate.identifiers.iter().collect();
        let ours = record.directory == self.issuer.directory
            && record.account == session.account_url()
            && record.key_type == self.certificate.key
            && record.profile.as_ref().or(record.refused_profile.as_ref())
                == self.offered_profile(session)
            && asked == wanted;
        if !ours {
            // What another issuer has under way may be all that there will be: it is let go of
            // when an order is placed here.
            let others = self.certificate.issuers.iter().filter(|name| **name != self.issuer.name);
            if !others.into_iter().any(|name| *name == record.issuer) {
                self.forget_order().await;
            }
            return Ok(None);
        }
        match session.order(&record.url).await? {
            Resumed::Order(order) => Ok(Some((*order, record))),
            Resumed::Gone(why) => {
                let message = format!("nothing came of the order under way: {why}");
                self.shared.warn(&self.certificate.name, &message);
                self.forget_order().await;
                Ok(None)
            }
        }
    }

    /// A new order, on disk with its key before anything else is sent
    async fn place(&self, session: &Session) -> Result<(Order, OrderRecord), Failure> {
        if self.observed.order.is_some() && self.observed.request != Request::Force {
            let until = plan::crash_loop(self.shared.now(), self.certificate, self.observed);
            if let Some(until) = until {
                let summary = "no order is placed after several that ended with their process";
                return Err(Failure::not_before(until, Step::Order, summary));
            }
        }
        let key_type = self.certificate.key;
        let identifiers = &self.certificate.identifiers;
        let key = self.begin_order().await?;
        let replaced = self.replaced(session);
        let placed = session.new_order(identifiers, self.wanted_profile(), replaced).await;
        let (url, profile) = match &placed {
            Ok(order) => (order.url().to_owned(), order.profile().map(str::to_owned)),
            Err(Unplaced { url: Some(url), .. }) => {
                (url.clone(), self.offered_profile(session).cloned())
            }
            Err(Unplaced { failure, url: None }) => return Err(failure.clone()),
        };
        let record = OrderRecord {
            version: VERSION,
            issuer: self.issuer.name.clone(),
            directory: self.issuer.directory.clone(),
            account: session.account_url().to_owned(),
            url,
            identifiers: self.certificate.identifiers.clone(),
            key_type,
            refused_profile: match &profile {
                None => self.offered_profile(session).cloned(),
                Some(_) => None,
            },
            profile,
            key,
            created_at: self.shared.now(),
        };
        let (name, written) = (self.certificate.name.clone(), record.clone());
        let done = self
            .shared
            .on_disk(move |store| {
                store.remove_order(&name)?;
                store.write_order(&name, &written)
            })
            .await;
        done.map_err(|error| error.failure(Step::Order))?;
        placed.map(|order| (order, record)).map_err(|unplaced| unplaced.failure)
    }

    /// Make the key, and count the order before it is placed: whoever is killed over it leaves no
    /// other trace
    async fn begin_order(&self) -> Result<Secret<String>, Failure> {
        let before = &self.observed.attempts;
        let attempts = Attempts {
            version: VERSION,
            begun: before.begun.saturating_add(1),
            begun_at: Some(self.shared.now()),
            resting: self.resting.clone(),
            ..before.clone()
        };
        let (name, key_type) = (self.certificate.name.clone(), self.certificate.key);
        let done = self
            .shared
            .on_disk(move |store| {
                let key = key::generate(key_type);
                if key.is_ok() {
                    store.write_attempts(&name, &attempts)?;
                }
                Ok(key)
            })
            .await;
        done.map_err(|error| error.failure(Step::Order))?
    }

    /// The predecessor, if this directory and account issued it
    ///
    /// <https://www.rfc-editor.org/rfc/rfc9773#section-5>
    fn replaced(&self, session: &Session) -> Option<&cert::AriId> {
        let held = self.observed.held.as_ref()?;
        let origin = held.meta.origin.as_ref()?;
        let same =
            origin.directory == self.issuer.directory && origin.account == session.account_url();
        let kept = self.certificate.identifiers.iter().any(|i| held.leaf.identifiers.contains(i));
        held.leaf.ari_id.as_ref().filter(|_| same && kept)
    }

    fn wanted_profile(&self) -> Option<&Profile> {
        self.certificate.profile.as_ref().or(self.issuer.profile.as_ref())
    }

    fn offered_profile(&self, session: &Session) -> Option<&String> {
        let profiles = &session.directory_facts().profiles;
        self.wanted_profile()
            .map(|profile| &profile.name)
            .filter(|name| profiles.contains_key(*name))
    }

    async fn complete(
        &self,
        session: &Session,
        order: &mut Order,
        record: &OrderRecord,
    ) -> Result<(), Failure> {
        if order.status() == Status::Pending {
            self.authorize(order).await?;
        }
        self.begin(Step::Finalize);
        let key = match Key::parse(&record.key) {
            Ok(key) => key,
            Err(failure) => {
                // No certificate of this order could be used.
                self.forget_order().await;
                return Err(failure);
            }
        };
        if order.status() == Status::Ready {
            let csr = key.request(&record.identifiers)?;
            order.finalize(&csr).await?;
        }
        let chain = order.wait_certificate().await?;
        self.begin(Step::Stage);
        self.stage(session, record, &key, chain).await
    }

    async fn authorize(&self, order: &mut Order) -> Result<(), Failure> {
        self.begin(Step::Authorize);
        let challenges = order.challenges().await?;
        let ChallengeMethod::Http01(method) = &self.certificate.challenge;
        let journal = journal(self.shared);
        let mut published = Vec::with_capacity(challenges.len());
        let mut outcome = Ok(());
        for challenge in &challenges {
            match self.shared.solver.publish(method, challenge, &journal).await {
                Ok(one) => published.push(one),
                Err(failure) => {
                    outcome = Err(failure);
                    break;
                }
            }
        }
        if outcome.is_ok() {
            outcome = async {
                order.respond().await?;
                order.wait_ready(all_served(&published)).await
            }
            .await;
        }
        if let Err(failure) = &mut outcome {
            explain(failure, &published);
        }
        for one in published {
            if let Err(failure) = one.withdraw().await {
                self.shared.warn(&self.certificate.name, &failure);
            }
        }
        outcome
    }

    async fn stage(
        &self,
        session: &Session,
        record: &OrderRecord,
        key: &Key,
        chain: String,
    ) -> Result<(), Failure> {
        let now = self.shared.now();
        let refused = |error: cert::CertError| {
            let summary = format!("the CA sent a certificate that is not the one ordered: {error}");
            Failure::retry(Step::Download, summary).by_issuer()
        };
        let checked = pem::certificates(chain.as_bytes()).map_err(cert::CertError::from);
        let checked = checked.and_then(|members| {
            let ordered = record.identifiers.iter().cloned().collect();
            let leaf = cert::check_issued(&members, &key.public_key(), &ordered, now)?;
            let text: String =
                members.iter().map(|member| pem::encode(pem::Kind::Certificate, member)).collect();
            Ok((leaf, text))
        });
        let (leaf, text) = match checked {
            Ok(checked) => checked,
            // It becomes good without another order, and at once where only our clock was wrong.
            Err(error @ cert::CertError::NotYet { from, .. }) => {
                let summary = format!("{error}, and it is {now} here: is the clock right?");
                let good_at = from.before(cert::SKEW);
                return Err(Failure::not_before(good_at, Step::Stage, summary));
            }
            Err(error) => {
                // The same order would give the same certificate again.
                self.forget_order().await;
                return Err(refused(error));
            }
        };
        let new = NewGeneration {
            certificate: self.certificate.name.clone(),
            origin: Some(Origin {
                issuer: self.issuer.name.clone(),
                directory: self.issuer.directory.clone(),
                account: session.account_url().to_owned(),
                order: record.url.clone(),
                profile: record.profile.clone(),
            }),
            staged_at: now,
        };
        let mut issued = ledger::retained(&self.observed.attempts.issued, now);
        issued.push(IssuedRecord {
            at: now,
            identifiers: leaf.identifiers.iter().cloned().collect(),
            lifetime: leaf.lifetime().as_secs(),
        });
        // Of generations that are kept, one must not come back for having been replaced.
        let revoked = self.observed.attempts.revoked.clone();
        // The rest of one issuer does not end with what another one issues.
        let resting = self.resting.clone();
        let attempts =
            Attempts { version: VERSION, issued, revoked, resting, ..Attempts::default() };
        let key = record.key.clone();
        let generation = self
            .shared
            .on_disk(move |store| {
                let generation = store.stage(&new, &key, &text)?;
                store.write_attempts(&new.certificate, &attempts)?;
                store.remove_order(&new.certificate)?;
                Ok(generation)
            })
            .await
            .map_err(|error| error.failure(Step::Stage))?;
        let renew = self.certificate.renew;
        if renew.before.is_some() && renew.before(leaf.lifetime()).is_none() {
            let message = format!(
                "`renew.before` does not fit a certificate that lives {}, and is passed over: give \
                 a share of its life, such as `33%`",
                Rough(leaf.lifetime())
            );
            self.shared.warn(&self.certificate.name, &message);
        }
        self.shared.tell(Event::Issued {
            certificate: self.certificate.name.clone(),
            generation: generation.meta.number,
            issuer: self.issuer.name.clone(),
            not_after: leaf.not_after,
            fingerprint: leaf.fingerprint,
        });
        Ok(())
    }

    /// Whether clients are refused what there is, or soon will be
    fn is_urgent(&self) -> bool {
        let held = self.observed.held.as_ref();
        held.is_none_or(|held| window::emergency(&held.leaf) <= self.shared.now())
    }

    async fn forget_order(&self) {
        let name = self.certificate.name.clone();
        let done = self.shared.on_disk(move |store| store.remove_order(&name)).await;
        if let Err(error) = done {
            self.shared.warn(&self.certificate.name, &error);
        }
    }

    fn begin(&self, step: Step) {
        begin(self.shared, self.certificate, step);
    }
}

/// Ends when the CA has fetched every answer, which is the best moment for a first look
async fn all_served(published: &[Published]) {
    for one in published {
        one.served().await;
    }
}

/// Say that a proxy in front changes the host, if one was seen to
fn explain(failure: &mut Failure, published: &[Published]) {
    if let Some(host) = published.iter().find_map(Published::refused_host) {
        let summary = format!(
            "{}; our listener was asked for the host `{host}`: let the proxy in front pass `Host` on",
            failure.summary
        );
        failure.summary = External::new(summary);
    }
}

fn is_unknown_account(failure: &Failure) -> bool {
    failure.problem.as_ref().is_some_and(|problem| problem.as_str() == "accountDoesNotExist")
}
