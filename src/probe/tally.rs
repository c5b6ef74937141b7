//! What was seen of an endpoint so far, and whether that is enough.

use super::unseen::Seen;
use super::{ProbeError, Served, Unseen, Wanted};
use crate::config::{Address, Endpoint};

/// What would have to be said if nothing better came
#[derive(Debug)]
pub(super) struct Tally(Unseen);

impl Tally {
    pub(super) fn new(endpoint: &Endpoint, wanted: Wanted) -> Self {
        let endpoint = endpoint.clone();
        Self(Unseen { endpoint, wanted, unresolved: None, addresses: Vec::new() })
    }

    pub(super) fn resolved(&mut self, result: Result<Vec<Address>, ProbeError>) {
        match result {
            Ok(addresses) => {
                self.0.addresses = addresses.into_iter().map(Seen::never).collect();
                self.0.unresolved = None;
            }
            Err(error) => self.0.unresolved = Some(error),
        }
    }

    pub(super) fn take(&mut self, served: Served) {
        let Unseen { endpoint, wanted, addresses, .. } = &mut self.0;
        let seen = addresses.iter_mut().find(|seen| seen.address == served.address);
        let Some(seen) = seen else { return };
        let good = served.outcome.as_ref().is_ok_and(|chain| chain.leaf == wanted.leaf);
        seen.good = if good { seen.good.saturating_add(1) } else { 0 };
        let answered = served.outcome.is_ok();
        seen.failed = if answered { 0 } else { seen.failed.saturating_add(1) };
        seen.answered |= answered;
        seen.settled = seen.good >= endpoint.samples;
        seen.outcome = Some(served.outcome);
    }

    pub(super) const fn wanted(&self) -> Wanted {
        self.0.wanted
    }

    pub(super) const fn needs_addresses(&self) -> bool {
        self.0.addresses.is_empty()
    }

    /// The addresses that must be asked again
    pub(super) fn open(&self) -> Vec<Address> {
        let open = self.0.addresses.iter().filter(|seen| !seen.settled);
        open.map(|seen| seen.address.clone()).collect()
    }

    /// How many addresses serve what is wanted, when all of them do
    pub(super) fn live(&self) -> Option<usize> {
        let addresses = &self.0.addresses;
        let all = !addresses.is_empty() && addresses.iter().all(|seen| seen.settled);
        all.then_some(addresses.len())
    }

    /// Whether no address is seen to do anything else, and only the repetition is missing
    pub(super) fn is_confirming(&self) -> bool {
        let addresses = &self.0.addresses;
        !addresses.is_empty() && addresses.iter().all(|seen| seen.good > 0)
    }

    /// Whether an address that answered shows nothing, and not yet often enough to be dead
    pub(super) fn is_doubtful(&self) -> bool {
        self.0.addresses.iter().any(|seen| seen.failed > 0 && !seen.is_dead())
    }

    pub(super) fn into_unseen(self) -> Unseen {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};
    use rustls_pki_types::CertificateDer;

    use super::*;
    use crate::cert::Fingerprint;
    use crate::name::Identifier;
    use crate::probe::{Protocol, ServedChain};

    fn chain(name: &str) -> ServedChain {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let der: CertificateDer<'static> = certificate.der().clone();
        ServedChain { leaf: Fingerprint::of(&der), chain: vec![der], protocol: Protocol::Tls13 }
    }

    fn endpoint() -> Endpoint {
        let host = Identifier::parse("a.test").unwrap();
        Endpoint {
            host,
            port: 443,
            connect: None,
            starttls: None,
            samples: 2,
            within: Duration::ZERO,
        }
    }

    fn address(last: u8) -> Address {
        Address::Tcp(([192, 0, 2, last], 443).into())
    }

    #[test]
    fn an_address_counts_after_two_good_handshakes_in_a_row() {
        let (new, endpoint) = (chain("new.test"), endpoint());
        let mut tally = Tally::new(&endpoint, Wanted { leaf: new.leaf, key: None, previous: None });
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
    fn an_address_that_answered_is_not_dead_for_one_look_that_fails() {
        let (new, old) = (chain("new.test"), chain("old.test"));
        let wanted = Wanted { leaf: new.leaf, key: None, previous: Some(old.leaf) };
        let mut tally = Tally::new(&endpoint(), wanted);
        tally.resolved(Ok(vec![address(1), address(2)]));
        let mut see = |last: u8, outcome: Result<&ServedChain, ProbeError>| {
            let failed = outcome.is_err();
            tally.take(Served { address: address(last), outcome: outcome.cloned() });
            let dead = tally.0.addresses[usize::from(last) - 1].is_dead();
            assert_eq!(tally.is_doubtful(), last == 2 && failed && !dead);
            dead
        };
        assert!(see(1, Err(ProbeError::Refused)), "it never answered");
        assert!(!see(2, Ok(&old)) && !see(2, Err(ProbeError::Refused)));
        assert!(!see(2, Ok(&old)) && !see(2, Err(ProbeError::Refused)));
        assert!(!see(2, Err(ProbeError::Closed)) && see(2, Err(ProbeError::Refused)));
    }

    #[test]
    fn each_address_is_named_with_what_it_does() {
        let (new, old, third) = (chain("new.test"), chain("old.test"), chain("third.test"));
        let endpoint = endpoint();
        let wanted = Wanted { leaf: new.leaf, key: None, previous: Some(old.leaf) };
        let mut tally = Tally::new(&endpoint, wanted);
        tally.resolved(Err(ProbeError::NoAddress));
        assert_eq!(tally.0.to_string(), "a.test:443 has no address");
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
        let text = tally.0.to_string();
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
        tally.0.wanted.previous = None;
        let text = tally.into_unseen().to_string();
        assert!(text.contains("192.0.2.3:443 serves another: a cert"), "{text}");
    }
}
