//! What the operator or the service manager asks for by signal.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGHUP: read the configuration again and look at everything
    Reload,
    /// SIGTERM or SIGINT, by its name: finish what must be finished and end
    Stop(&'static str),
}

/// The signals that certkeep listens to, from the moment this exists
#[derive(Debug)]
pub struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Begin to listen; call it within a tokio runtime
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Wait for the next request; one that is dropped while it waits loses none
    ///
    /// Signals of one kind that come close together are one request, and a stop comes before a
    /// reload.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            biased;
            Some(()) = self.terminate.recv() => Request::Stop("SIGTERM"),
            Some(()) = self.interrupt.recv() => Request::Stop("SIGINT"),
            Some(()) = self.hangup.recv() => Request::Reload,
            // The runtime is going down.
            else => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, Signal as Number, kill_process};

    use super::*;

    /// In a process of its own, since a signal is for the whole process
    #[test]
    fn signals_become_requests() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "signal::tests::tells_its_requests"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        // The harness writes its own words before and after.
        let mut heard = || lines.find_map(|line| Some(line.split_once("heard ")?.1.to_owned()));
        assert_eq!(heard().unwrap(), "nothing");
        let cases = [
            (Number::HUP, "Reload"),
            (Number::HUP, "Reload"),
            (Number::INT, "Stop(\"SIGINT\")"),
            (Number::TERM, "Stop(\"SIGTERM\")"),
        ];
        for (signal, expected) in cases {
            kill_process(pid, signal).unwrap();
            assert_eq!(heard().unwrap(), expected, "{signal:?}");
        }
        assert!(child.wait().unwrap().success());
    }

    #[tokio::test]
    #[ignore = "run by the test above, in a process of its own"]
    async fn tells_its_requests() {
        let mut signals = Signals::new().unwrap();
        println!("heard nothing");
        loop {
            let request = signals.next().await;
            println!("heard {request:?}");
            if request == Request::Stop("SIGTERM") {
                return;
            }
        }
    }
}
