//! One handshake with one address.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureAlgorithm, SignatureScheme, SupportedCipherSuite,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::{ProbeError, Protocol, ServedChain, Wanted, starttls};
use crate::cert::{Fingerprint, Leaf};
use crate::config::{Address, Endpoint, KeyType};
use crate::name::Identifier;
use crate::text::External;

/// What every handshake has in common
#[derive(Clone, Debug)]
pub(super) struct Handshake {
    any: Offer,
    ecdsa: Offer,
    rsa: Offer,
}

/// What a client takes
#[derive(Clone, Debug)]
struct Offer {
    algorithms: WebPkiSupportedAlgorithms,
    schemes: Vec<SignatureScheme>,
    /// The verifier in it is replaced for each handshake
    config: ClientConfig,
}

impl Handshake {
    pub(super) fn new() -> Self {
        Self {
            any: Offer::new(|_| true, |_| true),
            ecdsa: Offer::of(SignatureAlgorithm::ECDSA, &ECDSA),
            rsa: Offer::of(SignatureAlgorithm::RSA, &RSA),
        }
    }

    /// Connect, shake hands, and tell the chain that the server proved to have the key of
    pub(super) async fn with(
        &self,
        endpoint: &Endpoint,
        address: &Address,
        wanted: Option<Wanted>,
        limit: Duration,
    ) -> Result<ServedChain, ProbeError> {
        let first = self.any.made_to(endpoint, address, limit).await?;
        let offer = match wanted {
            Some(wanted) if wanted.leaf != first.leaf => self.for_key(wanted.key, &first),
            _ => None,
        };
        let Some(offer) = offer else { return Ok(first) };
        // A server that has nothing else to offer may end this one in any way it likes.
        Ok(offer.made_to(endpoint, address, limit).await.unwrap_or(first))
    }

    /// The offer that reaches a certificate for this kind of key, where another kind was shown
    fn for_key(&self, wanted: Option<KeyType>, shown: &ServedChain) -> Option<&Offer> {
        let leaf = shown.chain.first().and_then(|leaf| Leaf::parse(leaf).ok());
        let shown = leaf.and_then(|leaf| leaf.key_type).map(is_rsa);
        let wanted = wanted.map(is_rsa)?;
        match (shown != Some(wanted), wanted) {
            (false, _) => None,
            (true, true) => Some(&self.rsa),
            (true, false) => Some(&self.ecdsa),
        }
    }
}

const fn is_rsa(key: KeyType) -> bool {
    match key {
        KeyType::EcdsaP256 | KeyType::EcdsaP384 => false,
        KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => true,
    }
}

impl Offer {
    fn of(algorithm: SignatureAlgorithm, schemes: &[SignatureScheme]) -> Self {
        // The suites of TLS 1.2 name the kind of key, those of TLS 1.3 do not.
        Self::new(
            |scheme| schemes.contains(&scheme),
            |suite| suite.usable_for_signature_algorithm(algorithm),
        )
    }

    fn new(
        takes: impl Fn(SignatureScheme) -> bool,
        fits: impl Fn(&SupportedCipherSuite) -> bool,
    ) -> Self {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.retain(fits);
        let algorithms = provider.signature_verification_algorithms;
        let schemes = algorithms.supported_schemes().into_iter().filter(|s| takes(*s)).collect();
        let nobody = Arc::new(Witness::new(algorithms, Vec::clone(&schemes)));
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("the provider has cipher suites for both versions")
            .dangerous()
            .with_custom_certificate_verifier(nobody)
            .with_no_client_auth();
        // A resumed session would show the certificate of the session, and none at all.
        config.resumption = Resumption::disabled();
        Self { algorithms, schemes, config }
    }

    async fn made_to(
        &self,
        endpoint: &Endpoint,
        address: &Address,
        limit: Duration,
    ) -> Result<ServedChain, ProbeError> {
        match address {
            Address::Tcp(address) => {
                let stream = connected(TcpStream::connect(address), limit).await?;
                self.over(stream, endpoint, limit).await
            }
            Address::Unix(path) => {
                let stream = connected(UnixStream::connect(path), limit).await?;
                self.over(stream, endpoint, limit).await
            }
        }
    }

    async fn over<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<ServedChain, ProbeError> {
        let name = server_name(&endpoint.host)?;
        let longest = if endpoint.starttls.is_some() { DIALOGUE } else { HANDSHAKE };
        let end = Instant::now() + limit.min(longest);
        if let Some(protocol) = endpoint.starttls {
            let asked = starttls::ask(protocol, &endpoint.host, &mut stream);
            timeout_at(end, asked).await.map_err(|_elapsed| ProbeError::SilentStartTls)??;
        }
        let witness = Arc::new(Witness::new(self.algorithms, self.schemes.clone()));
        let mut config = self.config.clone();
        config.dangerous().set_certificate_verifier(Arc::<Witness>::clone(&witness));
        let connector = TlsConnector::from(Arc::new(config));
        match timeout_at(end, connector.connect(name, stream)).await {
            Ok(Ok(mut stream)) => {
                // The proof is made; a server that is gone by now changes nothing about it.
                timeout(FAREWELL, stream.shutdown()).await.ok();
                witness.chain().ok_or(ProbeError::Closed)
            }
            // TLS 1.2 wants a certificate of ours only after the server has proven its own, and not
            // every server says why it hangs up, or is heard before the connection is reset.
            Ok(Err(error)) => match (ProbeError::handshake(&error), witness.chain()) {
                (ProbeError::Alert(_) | ProbeError::Closed, Some(chain)) => Ok(chain),
                (error, _) => Err(error),
            },
            Err(_elapsed) => Err(ProbeError::SilentHandshake),
        }
    }
}

async fn connected<S>(
    connecting: impl Future<Output = io::Result<S>>,
    limit: Duration,
) -> Result<S, ProbeError> {
    match timeout(limit.min(CONNECT), connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(ProbeError::connection(&error)),
        Err(_elapsed) => Err(ProbeError::Silent),
    }
}

/// For an address this makes no SNI
///
/// <https://www.rfc-editor.org/rfc/rfc6066#section-3>
fn server_name(host: &Identifier) -> Result<ServerName<'static>, ProbeError> {
    match host {
        Identifier::Ip(address) => Ok(ServerName::from(*address)),
        Identifier::Dns(name) => ServerName::try_from(name.as_str().to_owned())
            .map_err(|error| ProbeError::Tls(External::new(error.to_string()))),
    }
}

/// Takes any chain, keeps it, and sees to it that the server has the leaf's key
#[derive(Debug)]
struct Witness {
    algorithms: WebPkiSupportedAlgorithms,
    /// What is asked for
    schemes: Vec<SignatureScheme>,
    sent: OnceLock<Vec<CertificateDer<'static>>>,
    proven: OnceLock<Protocol>,
}

impl Witness {
    const fn new(algorithms: WebPkiSupportedAlgorithms, schemes: Vec<SignatureScheme>) -> Self {
        Self { algorithms, schemes, sent: OnceLock::new(), proven: OnceLock::new() }
    }

    /// The chain, once the server has proven to have the leaf's key
    fn chain(&self) -> Option<ServedChain> {
        let (chain, protocol) = (self.sent.get()?, *self.proven.get()?);
        let leaf = Fingerprint::of(chain.first()?);
        Some(ServedChain { leaf, chain: chain.clone(), protocol })
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.sent.get_or_init(|| {
            let chain = std::iter::once(end_entity).chain(intermediates);
            chain.map(|certificate| certificate.clone().into_owned()).collect()
        });
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = verify_tls12_signature(message, certificate, signature, &self.algorithms)?;
        self.proven.get_or_init(|| Protocol::Tls12);
        Ok(valid)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = verify_tls13_signature(message, certificate, signature, &self.algorithms)?;
        self.proven.get_or_init(|| Protocol::Tls13);
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

const ECDSA: [SignatureScheme; 3] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
];

const RSA: [SignatureScheme; 6] = [
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

/// How long a connection may take
const CONNECT: Duration = Duration::from_secs(5);

/// How long a handshake may take
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long a handshake may take after a dialogue
///
/// Mail servers let strangers wait for their greeting, Postfix's postscreen for 6 s.
const DIALOGUE: Duration = Duration::from_secs(10);

/// How long saying goodbye may take
const FAREWELL: Duration = Duration::from_millis(100);
