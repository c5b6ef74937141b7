//! Giving HAProxy a certificate in memory, over its runtime API.
//!
//! No process is replaced and no connection is lost. HAProxy knows certificates by names, which
//! are paths that it never reads again before its next start; the files are there for that.
//!
//! <https://docs.haproxy.org/2.6/management.html#9.3>

use std::io;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::context::HookContext;
use super::{ReloadError, file, socket};
use crate::config::{Content, Output, Reload, Socket};
use crate::failure::{Failure, Step};
use crate::pem;
use crate::secret::Secret;

/// Give HAProxy the certificate of each deployment, and see that it has it
pub(super) async fn reload(
    socket: &Socket,
    certificate: Option<&str>,
    limit: Duration,
    contexts: &[HookContext<'_>],
) -> Result<(), ReloadError> {
    let mut updates = Vec::with_capacity(contexts.len());
    for context in contexts {
        let update = Update::of(context.outputs, certificate).await;
        updates.push(update.map_err(ReloadError::OfOne)?);
    }
    let api = Api { socket, limit, deadline: Instant::now() + limit };
    let listed = api.ask("show ssl cert").await?;
    // What we began and did not live to commit is in the way of every other certificate.
    if let Some(open) = listed.lines().find_map(|line| line.strip_prefix('*'))
        && updates.iter().any(|update| update.name == open)
    {
        api.abort(open).await;
    }
    for update in &updates {
        if !listed.lines().any(|line| line == update.name) {
            return Err(ReloadError::OfOne(unknown(&update.name, &listed)));
        }
        api.exchange(update).await?;
    }
    Ok(())
}

/// Say whether the certificate of a target could be asked for
pub(super) fn preflight(
    at: &Socket,
    certificate: Option<&str>,
    outputs: &[Output],
) -> Result<(), Failure> {
    if let Socket::Unix(path) = at {
        socket::preflight(path)?;
    }
    Files::among(outputs, Step::Prepare)?.name(certificate, Step::Prepare).map(drop)
}

/// The files of a target that make up what HAProxy calls a certificate
struct Files<'a> {
    certificate: &'a Path,
    /// `None` where it is in the same file
    key: Option<&'a Path>,
}

impl<'a> Files<'a> {
    fn among(outputs: &'a [Output], step: Step) -> Result<Self, Failure> {
        let find = |content| {
            outputs.iter().find(|output| output.is_plain(content)).map(|output| &*output.path)
        };
        match (find(Content::Combined), find(Content::Fullchain), find(Content::Key)) {
            (Some(certificate), ..) => Ok(Self { certificate, key: None }),
            (None, Some(certificate), Some(key)) => Ok(Self { certificate, key: Some(key) }),
            _ => Err(Failure::needs_operator(
                step,
                "there is no file that HAProxy could be given",
                "add a file with `content: combined`",
            )),
        }
    }

    fn name(&self, given: Option<&str>, step: Step) -> Result<String, Failure> {
        let name = match given {
            Some(name) => name.to_owned(),
            None => self.certificate.display().to_string(),
        };
        if Reload::can_be_asked_for(&name) {
            return Ok(name);
        }
        Err(Failure::needs_operator(
            step,
            format!("`{name}` cannot be asked for at HAProxy"),
            "use a path without spaces, `;` and `\\`",
        ))
    }
}

/// What HAProxy is to have under a name
struct Update {
    name: String,
    /// Key, leaf and intermediates, without an empty line, which would end it early
    pem: Secret<String>,
    /// SHA-1 of the leaf, as HAProxy shows it
    fingerprint: String,
}

impl Update {
    async fn of(outputs: &[Output], certificate: Option<&str>) -> Result<Self, Failure> {
        let files = Files::among(outputs, Step::Reload)?;
        let name = files.name(certificate, Step::Reload)?;
        let mut parts = Vec::new();
        for path in files.key.into_iter().chain([files.certificate]) {
            parts.push(read(path).await?);
        }
        // Of its full size from the start, so that no copy of the key is left behind.
        let mut text =
            String::with_capacity(parts.iter().map(|part| part.expose().len() + 1).sum());
        for line in parts.iter().flat_map(|part| part.expose().lines()).map(str::trim_end) {
            if !line.is_empty() {
                text.push_str(line);
                text.push('\n');
            }
        }
        let text = Secret::new(text);
        let unsound = |error: pem::PemError| {
            let path = files.certificate.display();
            Failure::retry(Step::Reload, format!("{path} cannot be given to HAProxy: {error}"))
        };
        let bytes = text.expose().as_bytes();
        let chain = pem::certificates(bytes).map_err(unsound)?;
        pem::private_key(bytes).map_err(unsound)?;
        let leaf = chain.first().map(|leaf| digest(&SHA1_FOR_LEGACY_USE_ONLY, leaf));
        let digits = leaf.iter().flat_map(AsRef::as_ref).map(|byte| format!("{byte:02X}"));
        Ok(Self { name, fingerprint: digits.collect(), pem: text })
    }
}

async fn read(path: &Path) -> Result<Secret<String>, Failure> {
    let failed = |error: io::Error| {
        Failure::retry(Step::Reload, format!("cannot read {}: {error}", path.display()))
    };
    let bytes = file::read(path, pem::LIMIT as u64).await.map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|error| failed(io::Error::other(error)))?;
    Ok(Secret::new(text))
}

/// One HAProxy; each question is a connection of its own
struct Api<'a> {
    socket: &'a Socket,
    limit: Duration,
    deadline: Instant,
}

impl Api<'_> {
    /// Exchange a certificate as a whole, or leave it as it was
    async fn exchange(&self, update: &Update) -> Result<(), Failure> {
        let Update { name, fingerprint, .. } = update;
        if let Err(failure) = self.transact(update).await {
            self.abort(name).await;
            return Err(failure);
        }
        let shown = self.ask(&format!("show ssl cert {name}")).await?;
        let has = shown.lines().find_map(|line| line.strip_prefix("SHA1 FingerPrint: "));
        if has.is_some_and(|has| has.trim().eq_ignore_ascii_case(fingerprint)) {
            return Ok(());
        }
        let (has, wanted) = (has.unwrap_or("none"), fingerprint);
        Err(Failure::retry(
            Step::Reload,
            format!("HAProxy shows another certificate under `{name}`: {has}, and not {wanted}"),
        ))
    }

    async fn transact(&self, Update { name, pem, .. }: &Update) -> Result<(), Failure> {
        let command = Secret::new(format!("set ssl cert {name} <<\n{}", pem.expose()));
        let answer = self.ask(command.expose()).await?;
        if !answer.contains("Transaction created") && !answer.contains("Transaction updated") {
            return Err(refused(name, "did not take", &answer));
        }
        let answer = self.ask(&format!("commit ssl cert {name}")).await?;
        if answer.contains("Success!") {
            return Ok(());
        }
        Err(refused(name, "did not commit", &answer))
    }

    /// Give an open transaction up, if there is one
    async fn abort(&self, name: &str) {
        // The failure that led here says more than one of this, and may be that the time is over.
        let api = Self { deadline: Instant::now() + ABORT, ..*self };
        api.ask(&format!("abort ssl cert {name}")).await.ok();
    }

    async fn ask(&self, command: &str) -> Result<String, Failure> {
        // Whatever follows `<<` is a secret.
        let words = command.split(" <<").next().unwrap_or_default();
        let verb = words.split_inclusive(' ').take(3).collect::<String>();
        let verb = verb.trim_end();
        let failed = |what: String| Failure::retry(Step::Reload, format!("`{words}`: {what}"));
        let answer = timeout_at(self.deadline, async {
            match self.socket {
                Socket::Tcp(address) => {
                    let stream = TcpStream::connect(address).await;
                    let stream = stream.map_err(|error| {
                        failed(format!("cannot connect to HAProxy at {address}: {error}"))
                    })?;
                    converse(stream, command).await.map_err(failed)
                }
                Socket::Unix(path) => {
                    converse(socket::connect(path).await?, command).await.map_err(failed)
                }
            }
        });
        let answer = answer
            .await
            .unwrap_or_else(|_| Err(failed(format!("not done within {:?}", self.limit))))?;
        match answer {
            answer if answer.contains("Permission denied") => Err(Failure::needs_operator(
                Step::Reload,
                // Whatever the certificate, of which only the first was asked about.
                format!("HAProxy permits no `{verb}` over this socket"),
                "give it `level admin` on the line `stats socket` of HAProxy's configuration",
            )),
            answer if answer.starts_with("Unknown command") => Err(Failure::needs_operator(
                Step::Reload,
                format!("HAProxy does not know `{words}`"),
                "use HAProxy 2.2 or newer, and its stats socket, not that of its master",
            )),
            answer => Ok(answer),
        }
    }
}

/// One command and its answer, to the end of the connection
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    command: &str,
) -> Result<String, String> {
    let (reader, mut writer) = tokio::io::split(stream);
    // An empty line ends a command that has more than one.
    let whole = Secret::new(format!("{command}\n"));
    let mut answer = Vec::new();
    let mut reader = reader.take(MAX_ANSWER);
    let sent = writer.write_all(whole.expose().as_bytes());
    // What it answers says more than that it took no more.
    let (_sent, heard) = tokio::join!(sent, reader.read_to_end(&mut answer));
    if reader.limit() == 0 {
        return Err(format!("the answer is longer than {MAX_ANSWER} bytes"));
    }
    match heard {
        Ok(1..) => return Ok(String::from_utf8_lossy(&answer).into_owned()),
        // It hangs up as soon as it has had too much, and what it says of that is often lost.
        Ok(0) | Err(_) if command.len() > SURELY_TAKEN => {}
        Ok(0) => return Err("HAProxy hung up without an answer".to_owned()),
        Err(error) => return Err(format!("the connection broke: {error}")),
    }
    Err(format!(
        "HAProxy hung up on {} bytes; make `tune.bufsize` larger in its section `global`",
        command.len()
    ))
}

fn refused(name: &str, what: &str, answer: &str) -> Failure {
    let lines: Vec<_> = answer.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let summary = format!("HAProxy {what} the certificate `{name}`: {}", lines.join(" | "));
    Failure::retry(Step::Reload, summary)
}

fn unknown(name: &str, listed: &str) -> Failure {
    let names = listed.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '*']));
    let names: Vec<_> = names.take(NAMES_SHOWN).collect();
    let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Failure::needs_operator(
        Step::Reload,
        format!("HAProxy has no certificate `{name}`; it has {known}"),
        format!(
            "write `crt {name}` on a `bind` line of HAProxy or in its crt-list and reload it once, \
             or name as `certificate` what it has"
        ),
    )
}

/// How long giving up may take
const ABORT: Duration = Duration::from_secs(5);

/// How much of an answer is read; the list of ten thousand certificates fits
const MAX_ANSWER: u64 = 4 << 20;

/// How long a command may be at any HAProxy: half of what `tune.bufsize` is by default
const SURELY_TAKEN: usize = 8 << 10;

/// How many names a failure lists
const NAMES_SHOWN: usize = 5;
