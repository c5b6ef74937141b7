//! Showing a CA what it asks to see: publish, wait, withdraw.
//!
//! One [`Solver`] answers for all certificates. What it publishes is a [`Published`], which ends
//! with [`Published::withdraw`], or at the latest when it is dropped.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555#section-8.3>

mod http01;
mod port;
mod webroot;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::task::spawn_blocking;
use tokio_util::sync::DropGuard;

use crate::config::Http01;
use crate::failure::{Failure, Step};
use crate::record::Artefact;
use crate::text::External;
use crate::token::Challenge;

pub use webroot::sweep;

/// Publishes challenges, for all certificates at once; a clone is another handle to the same
#[derive(Clone, Debug)]
pub struct Solver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    listeners: Arc<http01::Listeners>,
    directories: Arc<webroot::Directories>,
    _passed: DropGuard,
}

impl Solver {
    /// A solver that answers on the sockets that systemd passed, or else where each challenge says
    ///
    /// Passed sockets are answered on as long as the solver lives, with 404 while nothing is
    /// published. Call it within a tokio runtime.
    ///
    /// # Errors
    /// When a passed socket cannot be polled.
    pub fn new(passed: Vec<TcpListener>) -> io::Result<Self> {
        let (listeners, passed) = http01::Listeners::new(passed)?;
        Ok(Self(Arc::new(Inner { listeners, directories: Arc::default(), _passed: passed })))
    }

    /// Make one challenge visible to the CA
    ///
    /// A listener is bound with the first challenge and closed with the last. A file of a webroot
    /// is in the journal before it can be seen.
    ///
    /// # Errors
    /// When the address is taken, the webroot cannot be written or is not safe to write, or the
    /// journal refuses. Then nothing is published.
    pub async fn publish(
        &self,
        method: &Http01,
        challenge: &Challenge,
        journal: &Arc<dyn Journal>,
    ) -> Result<Published, Failure> {
        match method {
            Http01::Listen(address) => {
                let address = *address;
                match self.0.listeners.publish(address, challenge) {
                    Ok(answer) => Ok(Published(Kind::Answer(answer))),
                    Err(error) => Err(off_the_loop(move || port::failure(address, &error)).await?),
                }
            }
            Http01::Webroot(webroot) => {
                let directories = Arc::clone(&self.0.directories);
                let (webroot, challenge) = (webroot.clone(), challenge.clone());
                let journal = Arc::clone(journal);
                off_the_loop(move || webroot::place(webroot, &challenge, &*journal, directories))
                    .await?
                    .map(|placed| Published(Kind::File(placed)))
            }
        }
    }

    /// Say whether a challenge could be shown, without showing one
    ///
    /// For the time before an order: a port that is taken or closed to this user, or a webroot
    /// that cannot be written, is found before the CA is asked. What is given is a doubt that only
    /// somebody with more rights can resolve.
    ///
    /// # Errors
    /// As [`Solver::publish`].
    pub async fn trial(&self, method: &Http01) -> Result<Option<External>, Failure> {
        match method {
            Http01::Listen(_) if self.0.listeners.has_passed() => Ok(None),
            Http01::Listen(address) => {
                let address = *address;
                off_the_loop(move || port::trial(address)).await?
            }
            Http01::Webroot(webroot) => {
                let (webroot, directories) = (webroot.clone(), Arc::clone(&self.0.directories));
                let tried = off_the_loop(move || webroot::trial(webroot, directories));
                tried.await?.map(|()| None)
            }
        }
    }

    /// Where it listens at this moment
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.listeners.addresses()
    }
}

/// A challenge that the CA can see
///
/// Dropping it withdraws it too, but says nothing when that fails.
#[derive(Debug)]
#[must_use = "dropping it withdraws the challenge"]
pub struct Published(Kind);

#[derive(Debug)]
enum Kind {
    Answer(http01::Answer),
    File(webroot::Placed),
}

impl Published {
    /// Returns once somebody fetched it, which a webroot never tells
    ///
    /// The validation is then near its end, and a look at the authorization worth its request.
    pub async fn served(&self) {
        match &self.0 {
            Kind::Answer(answer) => answer.served().await,
            Kind::File(_) => std::future::pending().await,
        }
    }

    /// Under which other host it was asked for, and refused
    ///
    /// For the failure's text: a proxy in front that does not pass the `Host` on shows here.
    pub fn refused_host(&self) -> Option<External> {
        match &self.0 {
            Kind::Answer(answer) => answer.refused_host(),
            Kind::File(_) => None,
        }
    }

    /// Take it back; when it was the last of its listener, the port is free once this returns
    ///
    /// # Errors
    /// When the file cannot be removed. Its record stays in the journal for [`sweep`].
    pub async fn withdraw(self) -> Result<(), Failure> {
        match self.0 {
            Kind::Answer(answer) => {
                answer.withdraw().await;
                Ok(())
            }
            Kind::File(placed) => off_the_loop(move || placed.withdraw()).await?,
        }
    }
}

/// Where challenge artefacts are written down before they exist
pub trait Journal: Send + Sync {
    /// Record an artefact durably
    ///
    /// # Errors
    /// When it cannot be: then it is not published.
    fn record(&self, artefact: &Artefact) -> io::Result<Box<dyn Entry>>;
}

/// The record of one artefact
pub trait Entry: Send + Sync + fmt::Debug {
    /// Record more about it, durably
    ///
    /// # Errors
    /// When that cannot be written; the record stays as it was.
    fn amend(&self, artefact: &Artefact) -> io::Result<()>;

    /// Remove the record, since the artefact is gone
    ///
    /// # Errors
    /// When it cannot be removed.
    fn forget(self: Box<Self>) -> io::Result<()>;
}

async fn off_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    spawn_blocking(work).await.map_err(|_| Failure::retry(Step::Authorize, "the work was cut off"))
}
