//! What was seen of an endpoint so far, and whether that is enough.

use std::fmt;

use super::{ProbeError, Served, ServedChain, Wanted};
use crate::cert::describe;
use crate::config::{Address, Endpoint};

/// Displayed, it says what is wrong
#[derive(Debug)]
pub(super) struct Tally<'a> {
    endpoint: &'a Endpoint,
    wanted: Wanted,
    unresolved: Option<ProbeError>,
    /// One for each address, none until the name is resolved
    addresses: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    address: Address,
    /// What was seen last
    outcome: Option<Result<ServedChain, ProbeError>>,
    /// How often in a row it was what is wanted
    good: u32,
}

impl<'a> Tally<'a> {
    pub(super) const fn new(endpoint: &'a Endpoint, wanted: Wanted) -> Self {
        Self { endpoint, wanted, unresolved: None, addresses: Vec::new() }
    }

    pub(super) fn resolved(&mut self, result: Result<Vec<Address>, ProbeError>) {
        match result {
            Ok(addresses) => {
                let unseen = |address| Seen { address, outcome: None, good: 0 };
                self.addresses = addresses.into_iter().map(unseen).collect();
            }
            Err(error) => self.unresolved = Some(error),
        }
    }

    pub(super) fn take(&mut self, served: Served) {
        let seen = self.addresses.iter_mut().find(|seen| seen.address == served.address);
        let Some(seen) = seen else { return };
        let good = served.outcome.as_ref().is_ok_and(|chain| chain.leaf == self.wanted.leaf);
        seen.good = if good { seen.good.saturating_add(1) } else { 0 };
        seen.outcome = Some(served.outcome);
    }

    pub(super) const fn endpoint(&self) -> &'a Endpoint {
        self.endpoint
    }

    pub(super) const fn needs_addresses(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The addresses that must be asked again
    pub(super) fn open(&self) -> Vec<Address> {
        let open = self.addresses.iter().filter(|seen| !seen.is_settled());
        open.map(|seen| seen.address.clone()).collect()
    }

    /// How many addresses serve what is wanted, when all of them do
    pub(super) fn live(&self) -> Option<usize> {
        let all = !self.addresses.is_empty() && self.addresses.iter().all(Seen::is_settled);
        all.then_some(self.addresses.len())
    }

    /// Whether no address is seen to do anything else, and only the repetition is missing
    pub(super) fn is_confirming(&self) -> bool {
        !self.addresses.is_empty() && self.addresses.iter().all(|seen| seen.good > 0)
    }
}

impl Seen {
    const fn is_settled(&self) -> bool {
        self.good >= SAMPLES
    }
}

impl fmt::Display for Tally<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, wanted, unresolved, addresses } = self;
        if let (Some(error), true) = (unresolved, addresses.is_empty()) {
            return write!(f, "{endpoint} {error}");
        }
        write!(f, "{endpoint} does not serve the certificate {}…: ", wanted.leaf.short())?;
        let mut separator = "";
        for seen in addresses.iter().filter(|seen| !seen.is_settled()) {
            write!(f, "{separator}{} ", seen.address)?;
            separator = "; ";
            match &seen.outcome {
                None => f.write_str("was not asked")?,
                Some(Err(error)) => write!(f, "{error}")?,
                Some(Ok(chain)) if chain.leaf == wanted.leaf => {
                    f.write_str("serves it, seen only once")?;
                }
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
        match addresses.iter().filter(|seen| seen.is_settled()).count() {
            0 => Ok(()),
            good => write!(f, "; {good} of {} addresses serve it", addresses.len()),
        }
    }
}

/// How many handshakes in a row must get the certificate
const SAMPLES: u32 = 2;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};
    use rustls_pki_types::CertificateDer;

    use super::*;
    use crate::cert::Fingerprint;
    use crate::name::Identifier;
    use crate::probe::Protocol;

    fn chain(name: &str) -> ServedChain {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let der: CertificateDer<'static> = certificate.der().clone();
        ServedChain { leaf: Fingerprint::of(&der), chain: vec![der], protocol: Protocol::Tls13 }
    }

    fn endpoint() -> Endpoint {
        let host = Identifier::parse("a.test").unwrap();
        Endpoint { host, port: 443, connect: None, within: Duration::ZERO }
    }

    fn address(last: u8) -> Address {
        Address::Tcp(([192, 0, 2, last], 443).into())
    }

    #[test]
    fn an_address_counts_after_two_good_handshakes_in_a_row() {
        let (new, endpoint) = (chain("new.test"), endpoint());
        let mut tally = Tally::new(&endpoint, Wanted { leaf: new.leaf, previous: None });
        assert_eq!((tally.live(), tally.is_confirming()), (None, false));
        tally.resolved(Ok(vec![address(1), address(2)]));
        let mut see = |last, outcome: Result<&ServedChain, ProbeError>| {
            tally.take(Served { address: address(last), outcome: outcome.cloned() });
            (tally.open().len(), tally.live(), tally.is_confirming())
        };
        assert_eq!(see(1, Ok(&new)), (2, None, false));
        assert_eq!(see(2, Ok(&new)), (2, None, true));
        assert_eq!(see(1, Ok(&new)), (1, None, true));
        assert_eq!(see(2, Err(ProbeError::Refused)), (1, None, false));
        assert_eq!(see(2, Ok(&new)), (1, None, true));
        assert_eq!(see(2, Ok(&new)), (0, Some(2), true));
        assert_eq!(see(9, Ok(&new)), (0, Some(2), true));
    }

    #[test]
    fn each_address_is_named_with_what_it_does() {
        let (new, old, third) = (chain("new.test"), chain("old.test"), chain("third.test"));
        let endpoint = endpoint();
        let wanted = Wanted { leaf: new.leaf, previous: Some(old.leaf) };
        let mut tally = Tally::new(&endpoint, wanted);
        tally.resolved(Err(ProbeError::NoAddress));
        assert_eq!(tally.to_string(), "a.test:443 has no address");
        tally.resolved(Ok((1..=6).map(address).collect()));
        let outcomes = [
            (1, Ok(&new)),
            (1, Ok(&new)),
            (2, Ok(&old)),
            (3, Ok(&third)),
            (4, Err(ProbeError::Refused)),
            (5, Ok(&new)),
        ];
        for (last, outcome) in outcomes {
            tally.take(Served { address: address(last), outcome: outcome.cloned() });
        }
        let text = tally.to_string();
        let expected = [
            &format!("a.test:443 does not serve the certificate {}…: ", new.leaf.short()),
            "192.0.2.2:443 still serves the one before: a certificate for `old.test` by",
            "; 192.0.2.3:443 serves neither it nor the one before: a certificate for `third.test`",
            "; 192.0.2.4:443 refuses the connection",
            "; 192.0.2.5:443 serves it, seen only once",
            "; 192.0.2.6:443 was not asked",
            "; 1 of 6 addresses serve it",
        ];
        for part in expected {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("192.0.2.1:443"), "{text}");
        tally.wanted.previous = None;
        assert!(tally.to_string().contains("192.0.2.3:443 serves another: a cert"), "{tally}");
    }
}
