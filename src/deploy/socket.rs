//! Unix sockets of servers, and who listens there.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::process::geteuid;
use tokio::net::UnixStream;

use crate::failure::{Failure, Step};

/// Say whether there is a socket, without connecting to it
pub(super) fn preflight(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => Ok(()),
        Ok(_) => Err(Failure::needs_operator(
            Step::Prepare,
            format!("{shown} is no socket"),
            "name the socket itself",
        )),
        Err(error) => Err(unreachable(path, &error, Step::Prepare)),
    }
}

/// Connect, to nobody but root, ourselves, or who owns the socket's directory
///
/// In a directory such as `/tmp`, anybody can listen while the server does not run, and would be
/// given what is meant for the server.
pub(super) async fn connect(path: &Path) -> Result<UnixStream, Failure> {
    let stream =
        UnixStream::connect(path).await.map_err(|error| unreachable(path, &error, Step::Reload))?;
    let shown = path.display();
    let failed = |error: io::Error| {
        Failure::retry(Step::Reload, format!("cannot tell who listens at {shown}: {error}"))
    };
    let listener = stream.peer_cred().map_err(failed)?.uid();
    let keeper = match path.parent().map(fs::metadata) {
        Some(metadata) => metadata.map_err(failed)?.uid(),
        None => 0,
    };
    if [0, geteuid().as_raw(), keeper].contains(&listener) {
        return Ok(stream);
    }
    Err(Failure::needs_operator(
        Step::Reload,
        format!("at {shown} listens user {listener}, who owns neither it nor the directory"),
        "put the socket where only its server can make one, such as below /run",
    ))
}

fn unreachable(path: &Path, error: &io::Error, step: Step) -> Failure {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::retry(step, format!("there is no socket {shown}: its server does not run"))
        }
        io::ErrorKind::ConnectionRefused => {
            Failure::retry(step, format!("nobody listens at {shown}: its server does not run"))
        }
        io::ErrorKind::PermissionDenied => Failure::needs_operator(
            step,
            format!("certkeep may not use the socket {shown}"),
            "let its user or one of its groups read and write it",
        ),
        _ => Failure::retry(step, format!("cannot connect to {shown}: {error}")),
    }
}
