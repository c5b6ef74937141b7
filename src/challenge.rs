//! Showing a CA what it asks to see: publish, wait, withdraw.
//!
//! One [`Solver`] answers for all certificates. What it publishes is a [`Published`], which ends
//! with [`Published::withdraw`], or at the latest when it is dropped.
//!
//! <https://www.rfc-editor.org/rfc/rfc8555#section-8.3>

mod http01;
mod port;
mod turn;
mod webroot;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio_util::sync::DropGuard;

use crate::config::Http01;
use crate::failure::{Failure, Step};
use crate::record::Artefact;
use crate::text::External;
use crate::token::Challenge;

pub use turn::AT_ONCE as WEBROOTS_AT_ONCE;
pub use webroot::sweep;

use turn::Webroot;

/// Publishes challenges, for all certificates at once; a clone is another handle to the same
#[derive(Clone, Debug)]
pub struct Solver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    listeners: Arc<http01::Listeners>,
    webroots: Mutex<BTreeMap<PathBuf, Arc<Webroot>>>,
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
        Ok(Self(Arc::new(Inner { listeners, webroots: Mutex::default(), _passed: passed })))
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
                    Ok(answer) => Ok(Published(Some(Kind::Answer(answer)))),
                    Err(error) => off_the_loop(move || Err(port::failure(address, &error))).await,
                }
            }
            Http01::Webroot(webroot) => {
                let at = self.webroot(webroot);
                let directories = Arc::clone(&at.directories);
                let (path, challenge) = (webroot.clone(), challenge.clone());
                let journal = Arc::clone(journal);
                let place = move || webroot::place(path, &challenge, &*journal, directories);
                let placed = at.work(place).await?;
                Ok(Published(Some(Kind::File(placed, at))))
            }
        }
    }

    /// Say whether a challenge could be shown, without showing one
    ///
    /// For the time before an order: a port that is taken or closed to this user, or a webroot
    /// that cannot be written, is found before the CA is asked. What is given is a doubt that only
    /// somebody with more rights can resolve. What passed a moment ago is not tried again.
    ///
    /// # Errors
    /// As [`Solver::publish`].
    pub async fn trial(&self, method: &Http01) -> Result<Option<External>, Failure> {
        match method {
            Http01::Listen(_) if self.0.listeners.has_passed() => Ok(None),
            Http01::Listen(address) => {
                let address = *address;
                off_the_loop(move || port::trial(address)).await
            }
            Http01::Webroot(webroot) => {
                let at = self.webroot(webroot);
                if !at.has_passed() {
                    let (path, directories) = (webroot.clone(), Arc::clone(&at.directories));
                    at.work(move || webroot::trial(path, directories)).await?;
                    at.pass();
                }
                Ok(None)
            }
        }
    }

    fn webroot(&self, path: &Path) -> Arc<Webroot> {
        let mut webroots = self.0.webroots.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Webroot::new(path));
        Arc::clone(webroots.entry(path.to_owned()).or_insert_with(new))
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
pub struct Published(Option<Kind>);

#[derive(Debug)]
enum Kind {
    Answer(http01::Answer),
    File(webroot::Placed, Arc<Webroot>),
}

impl Published {
    /// Returns once somebody fetched it, which a webroot never tells
    ///
    /// The validation is then near its end, and a look at the authorization worth its request.
    pub async fn served(&self) {
        match &self.0 {
            Some(Kind::Answer(answer)) => answer.served().await,
            _ => std::future::pending().await,
        }
    }

    /// Under which other host it was asked for, and refused
    ///
    /// For the failure's text: a proxy in front that does not pass the `Host` on shows here.
    pub fn refused_host(&self) -> Option<External> {
        match &self.0 {
            Some(Kind::Answer(answer)) => answer.refused_host(),
            _ => None,
        }
    }

    /// Take it back; when it was the last of its listener, the port is free once this returns
    ///
    /// # Errors
    /// When the file cannot be removed. Its record stays in the journal for [`sweep`].
    pub async fn withdraw(mut self) -> Result<(), Failure> {
        match self.0.take() {
            Some(Kind::Answer(answer)) => {
                answer.withdraw().await;
                Ok(())
            }
            Some(Kind::File(placed, at)) => at.work(move || placed.withdraw()).await,
            None => Ok(()),
        }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        if let (Some(Kind::File(placed, at)), Ok(_)) = (self.0.take(), Handle::try_current()) {
            // Nobody is left to wait for it; the record stays for the next sweep if it fails.
            drop(at.begin(move || placed.withdraw()));
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
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let cut_off = |_| Err(Failure::retry(Step::Authorize, "the work was cut off"));
    spawn_blocking(work).await.unwrap_or_else(cut_off)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::name::Identifier;
    use crate::token::Token;

    /// A journal that takes or drops nothing before it is told to
    #[derive(Clone, Debug)]
    struct Hanging(Arc<Mutex<mpsc::Receiver<()>>>);

    impl Hanging {
        fn wait(&self) {
            // An end of the test is an end of the wait.
            self.0.lock().unwrap().recv().unwrap_or_default();
        }
    }

    impl Journal for Hanging {
        fn record(&self, _: &Artefact) -> io::Result<Box<dyn Entry>> {
            self.wait();
            Ok(Box::new(self.clone()))
        }
    }

    impl Entry for Hanging {
        fn amend(&self, _: &Artefact) -> io::Result<()> {
            Ok(())
        }

        fn forget(self: Box<Self>) -> io::Result<()> {
            self.wait();
            Ok(())
        }
    }

    #[derive(Debug)]
    struct Nothing;

    impl Journal for Nothing {
        fn record(&self, _: &Artefact) -> io::Result<Box<dyn Entry>> {
            Ok(Box::new(Self))
        }
    }

    impl Entry for Nothing {
        fn amend(&self, _: &Artefact) -> io::Result<()> {
            Ok(())
        }

        fn forget(self: Box<Self>) -> io::Result<()> {
            Ok(())
        }
    }

    fn challenge(token: &str) -> Challenge {
        Challenge {
            identifier: Identifier::parse("a.test").unwrap(),
            token: Token::parse(&token.repeat(43)).unwrap(),
            key_authorization: "t.thumbprint".to_owned(),
        }
    }

    /// Time that passes while threads hang
    async fn in_hurry<T>(work: impl Future<Output = T>) -> T {
        let hurry = async {
            loop {
                tokio::time::advance(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            done = work => done,
            () = hurry => unreachable!(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_webroot_that_hangs_keeps_one_thread_and_no_other_webroot() {
        let (good, hung) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |folder: &tempfile::TempDir| Http01::Webroot(folder.path().to_owned());
        let solver = Solver::new(Vec::new()).unwrap();
        let (go, told) = mpsc::channel();
        let hanging: Arc<dyn Journal> = Arc::new(Hanging(Arc::new(Mutex::new(told))));
        go.send(()).unwrap();
        let first = solver.publish(&at(&hung), &challenge("a"), &hanging).await.unwrap();
        let dropped = {
            go.send(()).unwrap();
            solver.publish(&at(&hung), &challenge("b"), &hanging).await.unwrap()
        };
        for _ in 0..3 {
            let method = at(&hung);
            let challenge = challenge("c");
            let failure = in_hurry(solver.publish(&method, &challenge, &hanging)).await;
            let failure = failure.unwrap_err();
            assert!(failure.summary.as_str().contains("30 s"), "{failure}");
        }
        drop(dropped);
        let failure = in_hurry(first.withdraw()).await.unwrap_err();
        assert!(failure.summary.as_str().contains("30 s"), "{failure}");
        let working: Arc<dyn Journal> = Arc::new(Nothing);
        let published = solver.publish(&at(&good), &challenge("c"), &working).await.unwrap();
        published.withdraw().await.unwrap();
        drop(go);
        let published = solver.publish(&at(&hung), &challenge("d"), &working).await.unwrap();
        published.withdraw().await.unwrap();
        assert_eq!(std::fs::read_dir(hung.path()).unwrap().count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_webroot_has_one_trial_for_all_orders_of_a_moment() {
        let folder = tempfile::tempdir().unwrap();
        let webroot = folder.path().join("www");
        std::fs::create_dir(&webroot).unwrap();
        let method = Http01::Webroot(webroot.clone());
        let solver = Solver::new(Vec::new()).unwrap();
        assert_eq!(solver.trial(&method).await, Ok(None));
        std::fs::remove_dir(&webroot).unwrap();
        assert_eq!(solver.trial(&method).await, Ok(None));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(solver.trial(&method).await.is_err());
        assert!(solver.trial(&method).await.is_err());
    }
}
