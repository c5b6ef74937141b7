//! The service manager: what it is told, and what it passed.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::time::Duration;

use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;
use sd_notify::NotifyState;

use crate::text::External;

/// Tells the service manager how it goes
///
/// Without one, which is to say without `NOTIFY_SOCKET`, every message is quietly none.
#[derive(Clone, Copy, Debug)]
pub struct Systemd {
    watchdog: Option<Duration>,
}

impl Systemd {
    /// Find out whether the service manager watches this process
    pub fn new() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) }
    }

    /// Say that the start, or a reload, is done
    ///
    /// # Errors
    /// When the service manager cannot be reached. So it is with each of these; none of them is
    /// a reason to stop.
    pub fn ready(&self, status: &str) -> io::Result<()> {
        let status = External::new(status);
        sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status.as_str())])
    }

    /// Say that a reload begins; [`Systemd::ready`] must follow
    ///
    /// # Errors
    /// As [`Systemd::ready`].
    pub fn reloading(&self) -> io::Result<()> {
        sd_notify::notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?])
    }

    /// Say that the end has begun
    ///
    /// # Errors
    /// As [`Systemd::ready`].
    pub fn stopping(&self) -> io::Result<()> {
        sd_notify::notify(&[NotifyState::Stopping])
    }

    /// Say in a sentence how it goes, for `systemctl status`
    ///
    /// # Errors
    /// As [`Systemd::ready`].
    pub fn status(&self, status: &str) -> io::Result<()> {
        // A line break would begin another message.
        let status = External::new(status);
        sd_notify::notify(&[NotifyState::Status(status.as_str())])
    }

    /// Say that the loop still turns; to be called by the loop itself, never by a timer beside it
    ///
    /// # Errors
    /// As [`Systemd::ready`].
    pub fn ping(&self) -> io::Result<()> {
        match self.watchdog {
            Some(_) => sd_notify::notify(&[NotifyState::Watchdog]),
            None => Ok(()),
        }
    }

    /// How often to ping: twice within the time that the service manager waits
    ///
    /// <https://www.freedesktop.org/software/systemd/man/latest/sd_watchdog_enabled.html>
    pub fn ping_interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }
}

impl Default for Systemd {
    fn default() -> Self {
        Self::new()
    }
}

/// A listening socket that the service manager passed
#[derive(Debug)]
pub struct Passed {
    /// What the socket unit calls it (`FileDescriptorName=`)
    pub name: String,
    /// The socket
    pub listener: TcpListener,
}

/// Take the listening TCP sockets that were passed
///
/// `names` is the value of `LISTEN_FDNAMES`. To be called once, in `main` before there are
/// threads: the variables are removed, so that no hook mistakes them for its own.
///
/// <https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html>
pub fn passed(names: Option<&str>) -> Vec<Passed> {
    let mut sockets = ListenFd::from_env();
    let mut names = names.unwrap_or_default().split(':');
    let mut passed = Vec::new();
    for index in 0..sockets.len() {
        let name = names.next().unwrap_or_default().to_owned();
        // What is no TCP socket, or does not listen, is for somebody else.
        if let Ok(Some(listener)) = sockets.take_tcp_listener(index)
            && socket_acceptconn(&listener) == Ok(true)
        {
            passed.push(Passed { name, listener });
        }
    }
    passed
}

/// Those for http-01: called `http01`, or all when none is called so
pub fn http01_sockets(mut passed: Vec<Passed>) -> Vec<TcpListener> {
    if passed.iter().any(|socket| socket.name == HTTP01) {
        passed.retain(|socket| socket.name == HTTP01);
    }
    passed.into_iter().map(|socket| socket.listener).collect()
}

/// Whether a stream goes to the journal, given the value of `JOURNAL_STREAM`
///
/// <https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html#%24JOURNAL_STREAM>
pub fn is_journal(journal_stream: Option<&str>, stream: impl AsFd) -> bool {
    let named = journal_stream.and_then(|text| {
        let (device, inode) = text.split_once(':')?;
        Some((device.parse().ok()?, inode.parse().ok()?))
    });
    let there = rustix::fs::fstat(stream).ok().map(|stat| (stat.st_dev, stat.st_ino));
    named.is_some() && named == there
}

/// The name of the socket in `certkeep-http01.socket`
const HTTP01: &str = "http01";

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixDatagram;
    use std::process::{Command, Stdio};

    use super::*;

    /// What a service manager hears from a process of its own
    #[test]
    fn the_service_manager_hears_each_message_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "systemd::tests::tells_everything"])
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "3000000")
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && shown.contains("1 passed"), "{shown}");
        let heard = || {
            let mut message = [0; 4096];
            let length = manager.recv(&mut message).unwrap();
            String::from_utf8(message[..length].to_vec()).unwrap()
        };
        assert_eq!(heard(), "READY=1\nSTATUS=3 certificates\n");
        let reloading = heard();
        let moment = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(moment.trim_end().parse::<u64>().unwrap() > 0, "{reloading}");
        assert_eq!(heard(), "STATUS=a\\u{a}MAINPID=1\n");
        assert_eq!(heard(), "WATCHDOG=1\n");
        assert_eq!(heard(), "STOPPING=1\n");
    }

    #[test]
    #[ignore = "run by the test above, with a service manager"]
    fn tells_everything() {
        let systemd = Systemd::new();
        assert_eq!(systemd.ping_interval(), Some(Duration::from_millis(1500)));
        systemd.ready("3 certificates").unwrap();
        systemd.reloading().unwrap();
        systemd.status("a\nMAINPID=1").unwrap();
        systemd.ping().unwrap();
        systemd.stopping().unwrap();
    }

    #[test]
    fn passed_sockets_are_taken_by_name() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.accept().unwrap();
        // Descriptors 3 to 6: two that listen, one that is connected and one that is no socket.
        let script = "LISTEN_FDS=4 LISTEN_PID=$$ LISTEN_FDNAMES=other:http01:peer:log \
                      exec \"$0\" \"$@\" 3<&0 4<&0 5<&2 6</dev/null </dev/null";
        let output = Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "systemd::tests::takes_sockets"])
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stderr(Stdio::from(OwnedFd::from(connected)))
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && shown.contains("1 passed"), "{shown}");
    }

    #[test]
    #[ignore = "run by the test above, with passed sockets"]
    fn takes_sockets() {
        let sockets = passed(Some("other:http01:peer:log"));
        let names: Vec<_> = sockets.iter().map(|socket| socket.name.as_str()).collect();
        assert_eq!(names, ["other", "http01"]);
        let [http01] = http01_sockets(sockets).try_into().unwrap();
        TcpStream::connect(http01.local_addr().unwrap()).unwrap();
        http01.accept().unwrap();
        assert!(rustix::io::fcntl_getfd(&http01).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        assert!(std::env::var_os("LISTEN_FDS").is_none());
    }

    #[test]
    fn any_socket_does_when_none_is_named() {
        let socket = |name: &str| Passed {
            name: name.to_owned(),
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        };
        assert_eq!(http01_sockets(vec![socket("a"), socket("")]).len(), 2);
        assert_eq!(http01_sockets(vec![socket("a"), socket("http01")]).len(), 1);
    }

    #[test]
    fn the_journal_is_known_by_its_inode() {
        let stream = tempfile::tempfile().unwrap();
        let stat = stream.metadata().unwrap();
        let (device, inode) = (stat.dev(), stat.ino());
        let cases = [
            (Some(format!("{device}:{inode}")), true),
            (Some(format!("{device}:{}", inode + 1)), false),
            (Some("garbage".to_owned()), false),
            (Some(":".to_owned()), false),
            (None, false),
        ];
        for (text, expected) in cases {
            assert_eq!(is_journal(text.as_deref(), &stream), expected, "{text:?}");
        }
    }
}
