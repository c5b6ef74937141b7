//! Why no certificate was seen.

use std::io;

use thiserror::Error;

use crate::text::External;

/// Why an address, or a name, showed no certificate, as the end of a sentence about it
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// It ended the handshake with an alert
    ///
    /// <https://www.rfc-editor.org/rfc/rfc8446#section-6>
    #[error("ends the handshake with the TLS alert {0}")]
    Alert(External),
    /// It accepted the connection and closed it during the handshake
    #[error("closes the connection in the handshake")]
    Closed,
    /// It closed the connection before it agreed to begin TLS
    #[error("closes the connection before TLS begins")]
    ClosedEarly,
    /// It said more than it was asked, so that somebody else may have said it
    #[error("says more than its answer to STARTTLS before TLS begins")]
    Injected,
    /// The name has no address
    #[error("has no address")]
    NoAddress,
    /// It does not offer TLS to those who begin without
    #[error("does not offer STARTTLS")]
    NoStartTls,
    /// It speaks something else
    #[error("answers with something that is not TLS")]
    NotTls,
    /// Nobody listens
    #[error("refuses the connection")]
    Refused,
    /// It accepted the connection and kept silent
    #[error("accepts the connection and does not answer the handshake")]
    SilentHandshake,
    /// It accepted the connection and did not agree to begin TLS
    #[error("accepts the connection and does not answer before TLS begins")]
    SilentStartTls,
    /// It did not answer the connection
    #[error("does not answer")]
    Silent,
    /// It does not begin TLS now
    #[error("answers STARTTLS with `{0}`")]
    StartTlsRefused(External),
    /// It would not come to an end before TLS begins
    #[error("says too much before TLS begins")]
    Talkative,
    /// It made a mistake in the handshake, or nothing that it offers is acceptable
    #[error("fails the handshake: {0}")]
    Tls(External),
    /// It does not speak the protocol in which it was to be asked for TLS
    #[error("says `{said}` in place of {wanted}")]
    Unlike {
        /// What it says, or the beginning of that
        said: External,
        /// What it was to say
        wanted: &'static str,
    },
    /// The connection failed in another way
    #[error("cannot be reached: {0}")]
    Unreachable(External),
    /// The name cannot be resolved
    #[error("cannot be resolved: {0}")]
    Unresolved(External),
}

impl ProbeError {
    pub(super) fn connection(error: &io::Error) -> Self {
        use io::ErrorKind::{
            ConnectionRefused, HostUnreachable, NetworkUnreachable, NotFound, TimedOut,
        };
        match error.kind() {
            ConnectionRefused => Self::Refused,
            TimedOut => Self::Silent,
            HostUnreachable | NetworkUnreachable => Self::Unreachable(External::new(
                "there is no route from here; `connect` can name another address",
            )),
            NotFound => Self::Unreachable(External::new("there is no such socket")),
            _ => Self::Unreachable(External::new(error.to_string())),
        }
    }

    pub(super) fn handshake(error: &io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match (tls, error.kind()) {
            (Some(rustls::Error::AlertReceived(alert)), _) => {
                Self::Alert(External::new(format!("{alert:?}")))
            }
            (Some(rustls::Error::InvalidMessage(_)), _) => Self::NotTls,
            (Some(error), _) => Self::Tls(External::new(error.to_string())),
            (None, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof) => {
                Self::Closed
            }
            (None, _) => Self::Tls(External::new(error.to_string())),
        }
    }
}
