//! The listener of our own: there only while a challenge is pending, and tight.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::port;
use crate::name::Identifier;
use crate::text::External;
use crate::token::{Challenge, Token};

/// Every listener, and what they all answer
#[derive(Debug)]
pub(super) struct Listeners {
    pending: Mutex<HashMap<Token, Arc<Pending>>>,
    bound: Mutex<HashMap<SocketAddr, Bound>>,
    passed: Vec<SocketAddr>,
    /// Those that are open, the oldest first
    connections: Mutex<VecDeque<AbortHandle>>,
    tasks: TaskTracker,
}

/// A challenge that a request may ask for
#[derive(Debug)]
struct Pending {
    identifier: Identifier,
    key_authorization: Bytes,
    fetches: watch::Sender<u32>,
    refused_host: Mutex<Option<External>>,
}

/// A listener of our own and how many challenges need it
#[derive(Debug)]
struct Bound {
    listener: Arc<TcpListener>,
    closed: CancellationToken,
    task: JoinHandle<()>,
    users: usize,
}

impl Listeners {
    /// Answer on the passed sockets until the guard is dropped
    pub(super) fn new(passed: Vec<std::net::TcpListener>) -> io::Result<(Arc<Self>, DropGuard)> {
        let closed = CancellationToken::new();
        let mut addresses = Vec::new();
        let mut sockets = Vec::new();
        for socket in passed {
            socket.set_nonblocking(true)?;
            addresses.push(socket.local_addr()?);
            sockets.push(TcpListener::from_std(socket)?);
        }
        let listeners = Arc::new(Self {
            pending: Mutex::default(),
            bound: Mutex::default(),
            passed: addresses,
            connections: Mutex::default(),
            tasks: TaskTracker::new(),
        });
        for socket in sockets {
            let accept = Arc::clone(&listeners).accept(Arc::new(socket), closed.clone());
            listeners.tasks.spawn(accept);
        }
        Ok((listeners, closed.drop_guard()))
    }

    pub(super) fn publish(
        self: &Arc<Self>,
        address: SocketAddr,
        challenge: &Challenge,
    ) -> io::Result<Answer> {
        let address = if self.passed.is_empty() {
            self.open(address)?;
            Some(address)
        } else {
            None
        };
        let pending = Arc::new(Pending {
            identifier: challenge.identifier.clone(),
            key_authorization: challenge.key_authorization.clone().into(),
            fetches: watch::Sender::new(0),
            refused_host: Mutex::default(),
        });
        lock(&self.pending).insert(challenge.token.clone(), Arc::clone(&pending));
        let token = challenge.token.clone();
        Ok(Answer { listeners: Arc::clone(self), address, token, pending })
    }

    /// Whether somebody else has opened the sockets
    pub(super) fn has_passed(&self) -> bool {
        !self.passed.is_empty()
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let bound = lock(&self.bound);
        let ours = bound.values().filter_map(|bound| bound.listener.local_addr().ok());
        self.passed.iter().copied().chain(ours).collect()
    }

    fn open(self: &Arc<Self>, address: SocketAddr) -> io::Result<()> {
        match lock(&self.bound).entry(address) {
            Entry::Occupied(mut bound) => bound.get_mut().users += 1,
            Entry::Vacant(free) => {
                let listener = Arc::new(TcpListener::from_std(port::listen(address)?)?);
                let closed = CancellationToken::new();
                let accept = Arc::clone(self).accept(Arc::clone(&listener), closed.clone());
                let task = self.tasks.spawn(accept);
                free.insert(Bound { listener, closed, task, users: 1 });
            }
        }
        Ok(())
    }

    /// One user less; the task to wait for when it was the last
    fn close(&self, address: SocketAddr) -> Option<JoinHandle<()>> {
        let mut all = lock(&self.bound);
        let Entry::Occupied(mut entry) = all.entry(address) else { return None };
        entry.get_mut().users -= 1;
        if entry.get().users > 0 {
            return None;
        }
        let bound = entry.remove();
        // Ends listening at once, so that the port can be had again before the task has run.
        rustix::net::shutdown(&bound.listener, rustix::net::Shutdown::Both).ok();
        bound.closed.cancel();
        Some(bound.task)
    }

    async fn accept(self: Arc<Self>, listener: Arc<TcpListener>, closed: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = closed.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = self.tasks.spawn(Arc::clone(&self).serve(stream));
                    self.make_room(connection.abort_handle());
                }
                // The peer's own doing; the next one may be fine.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // Most likely out of descriptors: they come back when connections end.
                Err(_) => tokio::select! {
                    () = closed.cancelled() => return,
                    () = sleep(ACCEPT_PAUSE) => {}
                },
            }
        }
    }

    /// End the oldest connection where this is one too many: whoever came to ask has asked by then
    fn make_room(&self, newest: AbortHandle) {
        let mut open = lock(&self.connections);
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(newest);
    }

    async fn serve(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let answer =
            service_fn(|request| std::future::ready(Ok::<_, Infallible>(self.answer(&request))));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_DEADLINE)
            .max_buf_size(HEADER_LIMIT)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), answer);
        // Whatever ends a connection is the peer's concern.
        timeout(CONNECTION_DEADLINE, connection).await.ok();
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match self.asked_for(request) {
            Some(pending) => {
                pending.fetches.send_modify(|fetches| *fetches = fetches.saturating_add(1));
                respond(StatusCode::OK, pending.key_authorization.clone())
            }
            None => respond(StatusCode::NOT_FOUND, Bytes::from_static(b"not found\n")),
        }
    }

    fn asked_for(&self, request: &Request<Incoming>) -> Option<Arc<Pending>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return None;
        }
        let path = request.uri().path_and_query()?.as_str();
        let token = Token::parse(path.strip_prefix(PREFIX)?)?;
        let pending = lock(&self.pending).get(&token).cloned()?;
        let host = request
            .uri()
            .authority()
            .map(Authority::as_str)
            .or_else(|| request.headers().get(HOST)?.to_str().ok())
            .unwrap_or_default();
        if names(host, &pending.identifier) {
            return Some(pending);
        }
        *lock(&pending.refused_host) = Some(External::new(host));
        None
    }
}

/// Whether a `Host` is the identifier, on whatever port
fn names(host: &str, identifier: &Identifier) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    !host.contains('@') && Identifier::parse(authority.host()).as_ref() == Ok(identifier)
}

fn respond(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A challenge that is being answered; dropping it ends that
#[derive(Debug)]
pub(super) struct Answer {
    listeners: Arc<Listeners>,
    address: Option<SocketAddr>,
    token: Token,
    pending: Arc<Pending>,
}

impl Answer {
    pub(super) async fn served(&self) {
        let mut fetches = self.pending.fetches.subscribe();
        // The sender is in `self`, so waiting cannot fail.
        fetches.wait_for(|fetches| *fetches > 0).await.ok();
    }

    pub(super) fn refused_host(&self) -> Option<External> {
        lock(&self.pending.refused_host).clone()
    }

    pub(super) async fn withdraw(mut self) {
        if let Some(listener) = self.end() {
            listener.await.ok();
        }
    }

    fn end(&mut self) -> Option<JoinHandle<()>> {
        if let Entry::Occupied(entry) = lock(&self.listeners.pending).entry(self.token.clone())
            && Arc::ptr_eq(entry.get(), &self.pending)
        {
            entry.remove();
        }
        self.address.take().and_then(|address| self.listeners.close(address))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// <https://www.rfc-editor.org/rfc/rfc8555#section-8.3>
const PREFIX: &str = "/.well-known/acme-challenge/";
/// Connections at once
const CONNECTIONS: usize = 256;
/// How long a request's head may take
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// How much of a request is read, in bytes
const HEADER_LIMIT: usize = 8192;
/// How long a connection may live
const CONNECTION_DEADLINE: Duration = Duration::from_secs(10);
/// How long to wait when no connection can be accepted
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
