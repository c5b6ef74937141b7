//! What is said before TLS begins, by protocols that begin without it.
//!
//! Each dialogue ends right before the first byte of TLS. A server that says more than its answer
//! until then is refused: whoever sits on the line could have said that.
//!
//! <https://www.rfc-editor.org/rfc/rfc3207#section-6>

mod dialogue;
mod ldap;
mod lines;
mod mysql;
mod postgres;
#[cfg(test)]
mod tests;
mod xmpp;

use tokio::io::{AsyncRead, AsyncWrite};

use self::dialogue::Dialogue;
use super::ProbeError;
use crate::config::StartTls;
use crate::name::Identifier;

/// Ask a server to begin TLS on this connection
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    protocol: StartTls,
    host: &Identifier,
    stream: &mut S,
) -> Result<(), ProbeError> {
    let mut dialogue = Dialogue::new(stream);
    match protocol {
        StartTls::Ftp => lines::ftp(&mut dialogue).await?,
        StartTls::Imap => lines::imap(&mut dialogue).await?,
        StartTls::Ldap => ldap::ask(&mut dialogue).await?,
        StartTls::Lmtp => lines::smtp("LHLO", &mut dialogue).await?,
        StartTls::Mysql => mysql::ask(&mut dialogue).await?,
        StartTls::Nntp => lines::nntp(&mut dialogue).await?,
        StartTls::Pop3 => lines::pop3(&mut dialogue).await?,
        StartTls::Postgres => postgres::ask(&mut dialogue).await?,
        StartTls::Sieve => lines::sieve(&mut dialogue).await?,
        StartTls::Smtp => lines::smtp("EHLO", &mut dialogue).await?,
        StartTls::Xmpp => xmpp::ask(host, &mut dialogue).await?,
    }
    dialogue.end()
}
