//! A few lines of HTTP/1.0: enough to steer the peers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// What a server answered
#[derive(Clone, Debug)]
pub(crate) struct Response {
    /// The status code
    pub(crate) status: u16,
    /// The body
    pub(crate) body: String,
}

/// A server's address, and how to speak to it
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Where it listens
    pub(crate) address: SocketAddr,
    /// With TLS, or without
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Server {
    /// Ask for a path
    pub(crate) fn get(&self, path: &str) -> io::Result<Response> {
        self.request("GET", path, "")
    }

    /// Send a body to a path
    pub(crate) fn post(&self, path: &str, body: &str) -> io::Result<Response> {
        self.request("POST", path, body)
    }

    fn request(&self, method: &str, path: &str, body: &str) -> io::Result<Response> {
        let mut socket = TcpStream::connect_timeout(&self.address, TIMEOUT)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nUser-Agent: certkeep-tests\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let answer = match &self.tls {
            None => exchange(&mut socket, &request)?,
            Some(config) => {
                let name = ServerName::from(self.address.ip());
                let tls =
                    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                exchange(&mut StreamOwned::new(tls, socket), &request)?
            }
        };
        parse(&answer).ok_or_else(|| io::Error::other(format!("no HTTP: {answer:?}")))
    }
}

fn exchange(stream: &mut (impl Read + Write), request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // A server may close without the alert that ends TLS in order.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
        _ => {}
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn parse(answer: &str) -> Option<Response> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Response { status, body: body.to_owned() })
}

const TIMEOUT: Duration = Duration::from_secs(10);
