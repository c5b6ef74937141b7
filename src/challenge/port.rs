//! Getting a port, and saying why not.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use rustix::io::Errno;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::failure::{Failure, Step};
use crate::text::External;

/// Listen on an address, on `[::]` for IPv4 too, and on IPv4 alone where there is no IPv6
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = listen_exactly(address).or_else(|error| match error {
        Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL
            if address.is_ipv6() && address.ip().is_unspecified() =>
        {
            listen_exactly((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        error => Err(error),
    });
    Ok(listener?)
}

fn listen_exactly(address: SocketAddr) -> Result<TcpListener, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, false)?;
    }
    set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Whether it could be had, with a doubt where that cannot be found out
pub(super) fn trial(address: SocketAddr) -> Result<Option<External>, Failure> {
    let Err(error) = listen(address) else { return Ok(None) };
    let holder = match Errno::from_io_error(&error) {
        Some(Errno::ADDRINUSE) => holder(address.port()),
        _ => None,
    };
    match holder {
        // For a socket unit; or another certkeep has a challenge pending.
        Some(Holder::Process { id: 1, .. }) => Ok(None),
        Some(Holder::Process { name, .. }) if name == "certkeep" => Ok(None),
        Some(holder @ Holder::Hidden) => Ok(Some(External::new(format!(
            "port {} is held by {holder}: right if it is systemd's, for a socket unit, as \
             `systemctl list-sockets` tells",
            address.port()
        )))),
        _ => Err(failure(address, &error)),
    }
}

/// Why it could not be had, and what to do
pub(super) fn failure(address: SocketAddr, error: &io::Error) -> Failure {
    let port = address.port();
    match Errno::from_io_error(error) {
        Some(Errno::ADDRINUSE) => {
            let holder = holder(port);
            let advice = match &holder {
                Some(Holder::Hidden) => {
                    "if it is a web server, let it answer from a `webroot`, or listen on another \
                     port and have it pass /.well-known/acme-challenge/ on; it may also be a \
                     socket unit, as `systemctl list-sockets` tells"
                }
                Some(Holder::Process { id: 1, .. }) => {
                    "that is a socket unit, which hands it to its own service alone: let that \
                     service renew, or stop the socket unit meanwhile"
                }
                _ => {
                    "let that server answer from a `webroot`, or listen on another port and have \
                     it pass /.well-known/acme-challenge/ on"
                }
            };
            let holder = match holder {
                Some(holder) => format!("is held by {holder}"),
                None => "is in use".to_owned(),
            };
            Failure::retry(Step::Authorize, format!("port {port} {holder}; {advice}"))
        }
        Some(Errno::ACCESS | Errno::PERM) => Failure::needs_operator(
            Step::Authorize,
            format!("not allowed to listen on {address}"),
            "start the socket unit, grant CAP_NET_BIND_SERVICE, or choose a port above 1023",
        ),
        Some(Errno::ADDRNOTAVAIL) => Failure::needs_operator(
            Step::Authorize,
            format!("cannot listen on {address}: this host has no such address"),
            "set `listen` to an address of this host, or to \"[::]:80\" for all of them",
        ),
        _ => Failure::retry(Step::Authorize, format!("cannot listen on {address}: {error}")),
    }
}

/// Who listens on a port of this network namespace, as far as we may see
fn holder(port: u16) -> Option<Holder> {
    let mut sockets = Vec::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        if let Ok(table) = fs::read_to_string(table) {
            sockets.extend(table.lines().filter_map(|line| listening(line, port)));
        }
    }
    if sockets.is_empty() {
        return None;
    }
    let links: Vec<_> = sockets.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let holder = fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let id: u32 = process.file_name().to_str()?.parse().ok()?;
        let descriptors = fs::read_dir(process.path().join("fd")).ok()?;
        let holds = |link: &fs::DirEntry| {
            fs::read_link(link.path())
                .is_ok_and(|to| links.iter().any(|link| to.as_os_str() == &**link))
        };
        descriptors.flatten().find(holds)?;
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        Some(Holder::Process { id, name: name.trim_end().to_owned() })
    });
    Some(holder.unwrap_or(Holder::Hidden))
}

/// Who listens on a port
#[derive(Debug)]
enum Holder {
    /// A process that we may not look at
    Hidden,
    Process {
        id: u32,
        name: String,
    },
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hidden => f.write_str("a process that certkeep may not look at"),
            Self::Process { id, name } => {
                write!(f, "`{}` (process {id})", External::new(name))
            }
        }
    }
}

/// The inode of the socket in a line of `/proc/net/tcp`, if it listens on that port
fn listening(line: &str, port: u16) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (_, local_port) = fields.next()?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?.parse().ok()?;
    let matches = state == LISTEN && u16::from_str_radix(local_port, 16) == Ok(port);
    (matches && inode != 0).then_some(inode)
}

/// `TCP_LISTEN` as the table shows it
const LISTEN: &str = "0A";
/// Connections that wait to be accepted
const BACKLOG: i32 = 256;

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpStream};

    use super::*;
    use crate::failure::FailureClass;

    #[test]
    fn any_address_takes_both_families() {
        let listener = listen((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        if listener.local_addr().unwrap().is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[test]
    fn a_taken_port_names_who_holds_it() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = held.local_addr().unwrap();
        let failure = failure(address, &listen(address).unwrap_err());
        assert_eq!(failure.class, FailureClass::Retry);
        let us = format!("(process {})", std::process::id());
        assert!(failure.summary.as_str().contains(&us), "{failure}");
        assert!(failure.summary.as_str().contains("webroot"), "{failure}");
    }

    #[test]
    fn an_address_of_another_host_is_for_the_operator() {
        let address = "192.0.2.1:80".parse().unwrap();
        let failure = failure(address, &listen(address).unwrap_err());
        assert!(matches!(failure.class, FailureClass::NeedsOperator { .. }), "{failure}");
    }

    #[test]
    fn a_line_of_the_socket_table_is_read_or_passed_over() {
        let line = "   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000 \
                    33 0 4242 1 0000000000000000 100 0 0 10 0";
        let connected = line.replace(" 0A ", " 01 ");
        let six = line.replace("00000000:0050", "00000000000000000000000000000000:0050");
        let cases = [
            (line, 80, Some(4242)),
            (&six, 80, Some(4242)),
            (line, 81, None),
            (&connected, 80, None),
            (
                "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt",
                80,
                None,
            ),
            ("", 80, None),
        ];
        for (line, port, expected) in cases {
            assert_eq!(listening(line, port), expected, "{line}");
        }
    }
}
