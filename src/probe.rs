//! What an endpoint really serves.
//!
//! A handshake takes any certificate, whoever issued it, and then checks the signature that
//! proves the server to have its key. So a certificate that is expired, self-signed or for
//! another name is seen as it is.

mod error;
mod handshake;
mod starttls;
mod tally;
mod unseen;

use std::collections::BTreeSet;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::cert::Fingerprint;
use crate::config::{Address, Endpoint, KeyType};
use crate::name::Identifier;
use crate::resolver;
use crate::text::External;

pub use error::ProbeError;
pub use unseen::{Seen, Unseen};

use handshake::Handshake;
use tally::Tally;

/// Looks at endpoints; made once and shared, cheap to clone
#[derive(Clone, Debug)]
pub struct Prober {
    handshake: Handshake,
}

/// What one address of an endpoint did
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The address
    pub address: Address,
    /// The chain that it sent, or why there is none
    pub outcome: Result<ServedChain, ProbeError>,
}

/// A chain that a server sent, having proven that it has the leaf's key
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedChain {
    /// SHA-256 of the leaf's DER
    pub leaf: Fingerprint,
    /// The certificates as sent, the leaf first
    pub chain: Vec<CertificateDer<'static>>,
    /// The protocol of the handshake
    pub protocol: Protocol,
}

/// The protocol of a handshake
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TLS 1.2
    Tls12,
    /// TLS 1.3
    Tls13,
}

/// The certificate that an endpoint is to serve, and the one that it served before
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// SHA-256 of the leaf that must be seen
    pub leaf: Fingerprint,
    /// The kind of its key, so that a server with certificates of several kinds shows that one
    pub key: Option<KeyType>,
    /// SHA-256 of the leaf before it, for the words of a failure
    pub previous: Option<Fingerprint>,
}

impl Prober {
    /// With our TLS settings: 1.2 and 1.3, RSA and ECDSA, no ALPN, no resumption
    pub fn new() -> Self {
        Self { handshake: Handshake::new() }
    }

    /// Shake hands with every address of an endpoint, once
    ///
    /// The name, the connections and the handshakes have `limit` each, the latter two never more
    /// than 5 s, or 10 s for a handshake after STARTTLS.
    ///
    /// # Errors
    /// When the name has no address at all, or none can be found out.
    pub async fn probe(
        &self,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<Vec<Served>, ProbeError> {
        let addresses = resolve(endpoint, limit).await?;
        Ok(self.probe_each(endpoint, addresses, None, limit).await)
    }

    /// The same, in search of one certificate
    ///
    /// An address that shows another one, with another kind of key, is asked again for the kind
    /// that is wanted: it may have a certificate of each.
    ///
    /// # Errors
    /// Those of [`Prober::probe`].
    pub async fn probe_for(
        &self,
        endpoint: &Endpoint,
        wanted: Wanted,
        limit: Duration,
    ) -> Result<Vec<Served>, ProbeError> {
        let addresses = resolve(endpoint, limit).await?;
        Ok(self.probe_each(endpoint, addresses, Some(wanted), limit).await)
    }

    /// Look at an endpoint until each of its addresses serves the leaf; returns how many they are
    ///
    /// Each look is one for this leaf, as of [`Prober::probe_for`].
    /// The first look is at once, later ones after 50 ms, doubling up to 2 s, until the
    /// endpoint's `within` is over. An address counts when as many handshakes in a row as the
    /// endpoint's `samples`, each on a connection of its own, got the leaf: while a server
    /// reloads, old workers go on for a moment. Two are 300 ms apart; more are spread over a
    /// second, but never less than 100 ms apart. Where the leaf came in time, the last of them may
    /// come after `within`, by a second for each, or by what one takes there. A look that began in
    /// time is brought to its end.
    ///
    /// # Errors
    /// What each address did last; its text names those that do not serve it.
    ///
    /// ```no_run
    /// use certkeep::probe::{Prober, Wanted};
    /// # use certkeep::cert::Fingerprint;
    /// # use certkeep::config::{Address, Endpoint, KeyType};
    /// # use certkeep::name::Identifier;
    ///
    /// # async fn example(leaf: Fingerprint, previous: Fingerprint) {
    /// let endpoint = Endpoint {
    ///     host: Identifier::parse("example.com").unwrap(),
    ///     port: 443,
    ///     connect: Some(Address::Tcp("127.0.0.1:443".parse().unwrap())),
    ///     starttls: None,
    ///     samples: 2,
    ///     within: std::time::Duration::from_secs(30),
    /// };
    /// let wanted = Wanted { leaf, key: Some(KeyType::EcdsaP256), previous: Some(previous) };
    /// match Prober::new().verify(&endpoint, wanted).await {
    ///     Ok(addresses) => println!("served by {addresses} addresses"),
    ///     Err(unseen) => println!("{unseen}"),
    /// }
    /// # }
    /// ```
    pub async fn verify(&self, endpoint: &Endpoint, wanted: Wanted) -> Result<usize, Unseen> {
        let deadline = Instant::now() + endpoint.within;
        let confirmations = endpoint.samples.saturating_sub(1);
        let mut tally = Tally::new(endpoint, wanted);
        let mut pause = FIRST_PAUSE;
        let mut first_good = None;
        loop {
            let begun = Instant::now();
            self.look(endpoint, &mut tally).await;
            if let Some(addresses) = tally.live() {
                return Ok(addresses);
            }
            // Where the certificate came in time, its confirmation may come later.
            let confirming = tally.is_confirming();
            let end = if confirming {
                pause = (CONFIRMING / confirmations.max(1)).clamp(CLOSEST_PAUSE, CONFIRMING_PAUSE);
                let each = CONFIRMATION.max(begun.elapsed() + pause);
                deadline.max(*first_good.get_or_insert_with(Instant::now)) + each * confirmations
            } else {
                first_good = None;
                deadline
            };
            let left = end.saturating_duration_since(Instant::now());
            // One look that failed says nothing; the next two are worth their time.
            let doubtful = tally.is_doubtful();
            if left.is_zero() && !doubtful {
                return Err(tally.into_unseen());
            }
            sleep(if doubtful { pause } else { pause.min(left) }).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Ask the addresses that are not settled yet
    ///
    /// With all the time that each step may take: one that is cut short by the deadline would say
    /// of a slow server that it is silent.
    async fn look(&self, endpoint: &Endpoint, tally: &mut Tally) {
        if tally.needs_addresses() {
            tally.resolved(resolve(endpoint, LONGEST_LOOK).await);
        }
        let (open, wanted) = (tally.open(), Some(tally.wanted()));
        for served in self.probe_each(endpoint, open, wanted, LONGEST_LOOK).await {
            tally.take(served);
        }
    }

    async fn probe_each(
        &self,
        endpoint: &Endpoint,
        addresses: Vec<Address>,
        wanted: Option<Wanted>,
        limit: Duration,
    ) -> Vec<Served> {
        let mut waiting = addresses.into_iter();
        let mut running = JoinSet::new();
        let mut served = Vec::with_capacity(waiting.len());
        loop {
            for address in waiting.by_ref().take(AT_ONCE - running.len()) {
                let (handshake, endpoint) = (self.handshake.clone(), endpoint.clone());
                running.spawn(async move {
                    let outcome = handshake.with(&endpoint, &address, wanted, limit).await;
                    Served { address, outcome }
                });
            }
            match running.join_next().await {
                Some(Ok(one)) => served.push(one),
                Some(Err(error)) => {
                    if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
                None => break,
            }
        }
        served.sort_unstable_by(|one, other| one.address.cmp(&other.address));
        served
    }
}

impl Default for Prober {
    fn default() -> Self {
        Self::new()
    }
}

/// Every address of an endpoint, each once
async fn resolve(endpoint: &Endpoint, limit: Duration) -> Result<Vec<Address>, ProbeError> {
    let name = match (&endpoint.connect, &endpoint.host) {
        (Some(address), _) => return Ok(vec![address.clone()]),
        (None, Identifier::Ip(address)) => {
            return Ok(vec![Address::Tcp((*address, endpoint.port).into())]);
        }
        (None, Identifier::Dns(name)) => name.as_str(),
    };
    let lookup = resolver::ENDPOINT.look_up(name.to_owned(), endpoint.port);
    let found = match timeout(limit, lookup).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(ProbeError::Unresolved(External::new(error.to_string()))),
        Err(_elapsed) => return Err(ProbeError::Unresolved(External::new("no answer"))),
    };
    let addresses: BTreeSet<_> = found.into_iter().map(Address::Tcp).collect();
    if addresses.is_empty() { Err(ProbeError::NoAddress) } else { Ok(Vec::from_iter(addresses)) }
}

/// How long the pauses before all confirmations are together, unless they become too short
const CONFIRMING: Duration = Duration::from_secs(1);

/// The shortest pause before a confirmation, so that many of them are no attack
const CLOSEST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause before a confirmation
///
/// nginx lets its old workers accept for a tenth of a second beside the new ones, and on a busy
/// machine they are late to hear of their end.
const CONFIRMING_PAUSE: Duration = Duration::from_millis(300);

/// The pause between the first look and the second
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause between looks
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Longer than any step of a look may take
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// How long after the deadline each confirmation is waited for, unless it takes longer
const CONFIRMATION: Duration = Duration::from_secs(1);

/// How many addresses are asked at once
const AT_ONCE: usize = 16;
