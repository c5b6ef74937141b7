//! Connections.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::DevCaError;
use super::ca::Ca;
use super::hierarchy::Hierarchy;
use super::route::Front;

/// TLS with a certificate under the CA's own root
pub(super) fn acceptor(hierarchy: &Hierarchy) -> Result<TlsAcceptor, DevCaError> {
    let (certificate, key) = hierarchy.server_identity()?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serve whoever connects, until the CA stops
pub(super) async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, ca: Arc<Ca>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let front = Front::new(Arc::clone(&ca));
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = ca.stop.cancelled() => return,
            next = next => next,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: others must be closed first.
            sleep(BREATH).await;
            continue;
        };
        let (stop, tls, front) = (ca.stop.clone(), tls.clone(), front.clone());
        ca.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = connection(stream, tls, front) => {}
            }
            drop(slot);
        });
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, front: Front) {
    // Only a matter of speed.
    stream.set_nodelay(true).ok();
    match tls {
        None => serve(stream, front).await,
        Some(tls) => {
            if let Ok(Ok(stream)) = timeout(PATIENCE, tls.accept(stream)).await {
                serve(stream, front).await;
            }
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, front: Front) {
    let service = service_fn(move |request: http::Request<Incoming>| {
        let front = front.clone();
        async move { front.answer(request.map(Body::new)).await }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // A peer that goes away, and a fault that sends it away, are nobody's error.
    served.ok();
}

const CONNECTIONS: usize = 512;
const PATIENCE: Duration = Duration::from_secs(60);
const BREATH: Duration = Duration::from_millis(50);
